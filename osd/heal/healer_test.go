package heal

import (
	"math/rand/v2"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
)

// desk is a Healer whose neighbours are all faked, except for time.
type desk struct {
	t    *testing.T
	w    *sim.World
	node *sim.Node
	env  *env.Env
	h    *Healer
	pool schema.Pool
	full map[meta.PoolID]bool

	curSet  []meta.OSDNum
	arena   peering.Arena
	objects map[meta.PG]*peering.Objects
	disk    secondary.Stats
	stats   primary.Stats

	latency time.Duration                                 // of a recovery
	outcome func(r *primary.Recovery) (wire.Retval, bool) // error, and whether the object is clean
	calls   []call
	running int
	most    int // recoveries at a time

	planned   []plan
	scrubbing map[meta.PG]bool
	listing   []meta.ObjectVersion // of the own store
	listFails int
	pages     int
	held      int
}

type call struct {
	at  time.Duration
	oid meta.ObjectID
}

func (d *desk) Objects(pg meta.PG) *peering.Objects { return d.objects[pg] }
func (d *desk) Stats() *primary.Stats               { return &d.stats }
func (d *desk) SetScrubbing(pg meta.PG, on bool)    { d.scrubbing[pg] = on }
func (d *desk) Changed(meta.PG)                     {}
func (d *desk) Conn(meta.OSDNum) *msgr.Conn         { return nil }
func (d *desk) Pool(meta.PoolID) *schema.Pool       { return &d.pool }
func (d *desk) PGCount(meta.PoolID) uint32          { return 4 }
func (d *desk) Release(*primary.Hold)               { d.held-- }

func (d *desk) ScrubPlanned(pg meta.PG, at uint64) {
	d.planned = append(d.planned, plan{pg, at})
	d.h.PlanScrub(pg, at)
}

func (d *desk) after(t time.Duration, f func()) { d.env.Clock.Arm(&env.Timer{Fire: f}, t) }

func (d *desk) Recover(r *primary.Recovery) {
	d.running++
	d.most = max(d.most, d.running)
	d.calls = append(d.calls, call{time.Duration(d.env.Clock.WallNanos()), r.OID})
	d.after(d.latency, func() {
		d.running--
		err, clean := d.outcome(r)
		if o := d.objects[r.PG]; o == nil {
			err = wire.EPIPE
		} else if clean {
			o.Forget(r.OID)
		}
		r.Err = err
		r.Done(r)
	})
}

func (d *desk) Hold(h *primary.Hold) {
	d.after(0, func() {
		h.Err = wire.EPIPE
		if d.objects[h.PG] != nil {
			h.Err = wire.OK
			d.held++
		}
		h.Granted(h)
	})
}

// deskStore is the own store: it lists, and every chunk is missing.
type deskStore struct{ *desk }

func (d deskStore) Stats() *secondary.Stats { return &d.disk }

func (d deskStore) Submit(op *secondary.Op) {
	d.after(time.Millisecond, func() {
		op.Op.Err = 0
		if op.List == nil {
			op.Op.Err = 2
		} else {
			d.pages++
			if d.listFails > 0 {
				d.listFails--
				op.Op.Err = 11
			}
			op.List.Stable = op.List.Stable[:0]
			for _, v := range d.listing {
				if !v.ObjectID.Less(op.List.Min) && len(op.List.Stable) < op.List.StableLimit {
					op.List.Stable = append(op.List.Stable, v)
				}
			}
		}
		op.Done(op)
	})
}

const deskOSD = meta.OSDNum(1)

func defaults() Options {
	return Options{
		Recovery: option.Recovery{QueueDepth: 1, PGSwitch: 128},
		Scrub: option.Scrub{Interval: 30 * 24 * time.Hour, QueueDepth: 1, ListLimit: 262144, FindBest: true,
			ECMaxBruteforce: 100},
	}
}

func newDesk(t *testing.T, change func(c *Config)) *desk {
	d := &desk{t: t, w: sim.NewWorld(1, sim.Options{}), objects: map[meta.PG]*peering.Objects{}, full: map[meta.PoolID]bool{},
		scrubbing: map[meta.PG]bool{}, latency: 8 * time.Millisecond, curSet: []meta.OSDNum{1, 2}}
	d.outcome = func(*primary.Recovery) (wire.Retval, bool) { return wire.OK, true }
	d.pool = schema.Pool{ID: 1, Scheme: meta.Replicated, PGSize: 2, BlockBytes: 128 << 10, GranularityBytes: 4096, PGStripeBytes: 128 << 10}
	d.node = d.w.NewNode("osd")
	d.env = d.node.Env()
	c := Config{OSD: deskOSD, BlockBytes: 128 << 10, GranuleBytes: 4096, Options: defaults()}
	if change != nil {
		change(&c)
	}
	d.do(func() {
		var err error
		if d.h, err = New(d.env, Deps{d, deskStore{d}, d, d, d, func(p meta.PoolID) bool { return d.full[p] }}, c); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() {
		d.h.Free()
		for _, o := range d.objects {
			o.Free()
		}
		d.arena.Free()
	})
	return d
}

func (d *desk) do(f func()) { d.node.Do(func(*env.Env) { f() }) }

// activate makes a PG with degraded and misplaced objects.
func (d *desk) activate(pg meta.PG, degraded, misplaced int) {
	c := peering.NewCalc(peering.Layout{PG: pg, PGCount: 4, PGStripeBytes: 128 << 10, Scheme: meta.Replicated, DataChunks: 1,
		CurSet: d.curSet}, &d.arena)
	c.Step(1)
	d.objects[pg], _ = c.Result()
	for n := range degraded + misplaced {
		locs := []peering.Location{{OSD: 1}}
		if n >= degraded {
			locs = []peering.Location{{OSD: 1}, {OSD: 3}}
		}
		d.objects[pg].Created()
		d.objects[pg].SetLocations(objectN(pg.Pool, n), locs)
	}
	d.do(func() { d.h.Recoverable(pg) })
}

func (d *desk) deactivate(pg meta.PG) {
	d.do(func() {
		d.h.Stopped(pg)
		d.objects[pg].Free()
		delete(d.objects, pg)
	})
}

func (d *desk) left(pg meta.PG) int {
	c := d.objects[pg].Counts()
	return int(c.Degraded + c.Misplaced)
}

// With nobody else there, recovery makes use of the disk.
func TestRecoveryAlone(t *testing.T) {
	d := newDesk(t, nil)
	d.activate(pg1, 1000, 1000)
	d.w.RunFor(50 * time.Millisecond)
	if d.most != 1 {
		t.Errorf("%d at a time before it is known that clients are quiet", d.most)
	}
	d.w.RunFor(200 * time.Millisecond)
	if d.most != idleDepthMax || d.left(pg1) > 200 {
		t.Errorf("%d at a time, %d left", d.most, d.left(pg1))
	}
	d.w.RunFor(time.Second)
	if d.left(pg1) != 0 || len(d.calls) != 2000 || d.h.Stats().Recovering != 0 || d.h.Stats().Failed != 0 {
		t.Errorf("%d left after %d calls: %+v", d.left(pg1), len(d.calls), d.h.Stats())
	}
	if d.h.tick.Armed() {
		t.Error("the timer runs without work")
	}
}

// A disk that takes long for what it has gets no more of it.
func TestRecoveryToSlowDisks(t *testing.T) {
	d := newDesk(t, nil)
	d.latency = slowRecovery + 10*time.Millisecond
	d.activate(pg1, 10000, 0)
	d.w.RunFor(3 * time.Second)
	if d.most != idleDepth {
		t.Errorf("%d at a time", d.most)
	}
}

// While clients are there, by the disk or by what we serve them, the configured
// depth holds.
func TestRecoveryBesideClients(t *testing.T) {
	for name, busy := range map[string]func(d *desk, took uint64){
		"reads of the disk":    func(d *desk, took uint64) { d.disk.Ops[wire.OpSecRead].Nanos += took },
		"writes to the disk":   func(d *desk, took uint64) { d.disk.Ops[wire.OpSecWriteStable].Nanos += took },
		"operations we answer": func(d *desk, took uint64) { d.stats.Ops[wire.OpWrite].Nanos += took },
	} {
		d := newDesk(t, nil)
		d.activate(pg1, 100000, 0)
		var load func()
		clients := true
		load = func() {
			if clients {
				busy(d, uint64(300*time.Microsecond))
				d.after(10*time.Millisecond, load)
			}
		}
		d.do(load)
		d.w.RunFor(2 * time.Second)
		if d.most != 1 {
			t.Errorf("%s: %d at a time", name, d.most)
		}
		clients = false
		d.w.RunFor(2 * time.Second)
		if d.most != idleDepthMax {
			t.Errorf("%s: %d at a time when they have gone", name, d.most)
		}
		clients = true
		d.do(load)
		d.w.RunFor(loadWindow + 30*time.Millisecond)
		if d.running > 1 {
			t.Errorf("%s: %d at a time when they are back", name, d.running)
		}
		d.most = 0
		o := defaults()
		o.Recovery.QueueDepth = 3
		d.do(func() { d.h.Apply(o) })
		d.w.RunFor(time.Second)
		if d.most != 3 {
			t.Errorf("%s: %d at a time with recovery_queue_depth 3", name, d.most)
		}
	}
}

// Time spent for recovery itself is no load.
func TestRecoveryIsNoLoad(t *testing.T) {
	d := newDesk(t, nil)
	d.activate(pg1, 10000, 0)
	d.outcome = func(*primary.Recovery) (wire.Retval, bool) {
		d.disk.Ops[wire.OpSecRead].Nanos += 1e6
		d.disk.Recovery[wire.OpSecRead].Nanos += 1e6
		return wire.OK, true
	}
	d.w.RunFor(200 * time.Millisecond)
	if d.most != idleDepthMax {
		t.Errorf("%d at a time", d.most)
	}
}

func TestRecoveryOfLargeObjects(t *testing.T) {
	d := newDesk(t, nil)
	d.pool.BlockBytes = 4 << 20
	d.activate(pg1, 1000, 0)
	d.w.RunFor(200 * time.Millisecond)
	if d.most != idleBytes/(4<<20) {
		t.Errorf("%d objects of 4 MiB at a time", d.most)
	}
}

// One object fails for a while: others do not wait for it, and it is not tried
// all the time.
func TestRecoveryErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err   wire.Retval
		clean bool
	}{"error": {wire.ENOSPC, false}, "nothing is better": {wire.OK, false}, "stopped": {wire.EPIPE, false}} {
		d := newDesk(t, nil)
		bad, healed := objectN(1, 7), false
		d.outcome = func(r *primary.Recovery) (wire.Retval, bool) {
			if r.OID == bad && !healed {
				return c.err, c.clean
			}
			return wire.OK, true
		}
		d.activate(pg1, 50, 10)
		d.w.RunFor(time.Second)
		if d.left(pg1) != 1 {
			t.Errorf("%s: %d are left", name, d.left(pg1))
		}
		d.w.RunFor(10 * time.Second)
		if n := len(d.calls) - 60; n != 5 {
			t.Errorf("%s: %d more tries in 10 s", name, n)
		}
		healed = true
		d.w.RunFor(retryPause + 10*time.Millisecond)
		if d.left(pg1) != 0 {
			t.Errorf("%s: %d are left", name, d.left(pg1))
		}
		if d.h.Stats().Failed != 6 {
			t.Errorf("%s: %+v", name, d.h.Stats())
		}
	}
}

func TestRecoveryStops(t *testing.T) {
	d := newDesk(t, nil)
	d.activate(pg1, 10000, 0)
	d.activate(pg2, 10000, 0)
	d.w.RunFor(300 * time.Millisecond)
	d.do(func() { d.h.Flushing(pg1, true) })
	still := func(what string, want bool) {
		t.Helper()
		d.w.RunFor(5 * time.Millisecond)
		n := len(d.calls)
		d.w.RunFor(300 * time.Millisecond)
		if (len(d.calls) == n) != want {
			t.Errorf("%s: %d recoveries begun", what, len(d.calls)-n)
		}
	}
	still("a PG is flushed", true)
	d.do(func() { d.h.Flushing(pg1, false) })
	still("it is not any more", false)
	d.full[1] = true
	still("the pool is full", true)
	d.full[1] = false
	d.do(func() { d.h.Recoverable(pg1) })
	still("it is not any more", false)
	d.deactivate(pg1)
	before := d.left(pg2)
	still("one PG is stopped", false)
	if d.left(pg2) == before {
		t.Error("the other PG does not go on")
	}
	o := defaults()
	o.Recovery.NoRecovery = true
	d.do(func() { d.h.Apply(o) })
	still("no_recovery", true)
	d.do(func() { d.h.Apply(defaults()) })
	still("recovery", false)
	d.activate(pg1, 100, 0)
	d.do(d.h.Stop)
	still("the OSD stops", true)
	if d.h.Stats().Recovering != 0 {
		t.Errorf("%+v", d.h.Stats())
	}
}

func TestReadOnlyDoesNotRecover(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.ReadOnly = true })
	d.activate(pg1, 10, 10)
	d.w.RunFor(5 * time.Second)
	if len(d.calls) != 0 {
		t.Errorf("%d recoveries", len(d.calls))
	}
}

// PGs come and go at any time, objects fail at random, options change: when that
// ends, everything is clean.
func TestRecoveryRandom(t *testing.T) {
	for seed := range uint64(20) {
		d := newDesk(t, nil)
		r := rand.New(rand.NewPCG(seed, 11))
		d.outcome = func(*primary.Recovery) (wire.Retval, bool) {
			switch r.IntN(20) {
			case 0:
				return wire.ENOSPC, false
			case 1:
				return wire.OK, false
			}
			return wire.OK, true
		}
		pgs := []meta.PG{pg1, pg2, pg3}
		for range 60 {
			pg := pgs[r.IntN(3)]
			switch x := r.IntN(8); {
			case d.objects[pg] == nil:
				d.activate(pg, r.IntN(40), r.IntN(40))
			case x < 2:
				d.deactivate(pg)
			case x < 4:
				d.do(func() {
					d.objects[pg].SetLocations(objectN(pg.Pool, r.IntN(80)), []peering.Location{{OSD: 2}})
					d.h.Recoverable(pg)
				})
			case x < 6:
				d.do(func() { d.h.Flushing(pg, x == 4) })
			default:
				o := defaults()
				o.Recovery.NoRecovery, o.Recovery.NoRebalance = r.IntN(3) == 0, r.IntN(3) == 0
				o.Recovery.QueueDepth, o.Recovery.PGSwitch = 1+r.IntN(4), 1+r.IntN(9)
				d.do(func() { d.h.Apply(o) })
			}
			d.w.RunFor(time.Duration(r.IntN(300)) * time.Millisecond)
		}
		d.do(func() {
			d.h.Apply(defaults())
			for _, pg := range pgs {
				d.h.Flushing(pg, false)
			}
		})
		d.outcome = func(*primary.Recovery) (wire.Retval, bool) { return wire.OK, true }
		d.w.RunFor(10 * time.Second)
		for pg := range d.objects {
			if n := d.left(pg); n > 0 {
				t.Fatalf("seed %d: %d objects of %v are not clean", seed, n, pg)
			}
		}
		if d.running != 0 || d.h.running != 0 || d.h.bytes != 0 || d.h.tick.Armed() {
			t.Fatalf("seed %d: not idle", seed)
		}
	}
}
