package client_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

var (
	seeds     = flag.Uint64("seeds", 4, "histories of each kind in TestModel")
	firstSeed = flag.Uint64("seed", 0, "the first one")
)

// TestModel drives a client with random operations while its cluster misbehaves
// in every way, and checks what it tells and what the cluster has in the end
// against the history of every granule:
//
//   - a read returns a value that was written, and not one that was certainly
//     overwritten before the read began (read-your-writes);
//   - where writes are tracked, values do not change while nobody writes;
//   - everything completes, exactly once;
//   - after a crash of the client nothing is lost that a sync covered; before
//     it, nothing that was acknowledged;
//   - all memory comes back.
func TestModel(t *testing.T) {
	for _, mode := range []struct {
		name   string
		pool   meta.PoolID
		params map[string]string
	}{
		{"durable", 1, nil},
		{"lazy", 2, nil},
		{"lazy, small limits", 2, map[string]string{"client_max_dirty_bytes": "65536", "client_max_dirty_ops": "5"}},
		{"durable, cached", 1, map[string]string{"client_enable_writeback": "1", "client_writeback_allowed": "1",
			"client_max_buffered_bytes": "65536", "client_max_writeback_iodepth": "4"}},
		{"lazy, cached", 2, map[string]string{"client_enable_writeback": "1", "client_writeback_allowed": "1",
			"client_max_buffered_ops": "6", "client_max_writeback_iodepth": "3"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					h := &history{t: t, fake: newFake(t, seed, 3, map[meta.PoolID]*fakePool{1: {commit: "all", pgs: 7}, 2: {commit: "none", pgs: 7}}),
						r: rand.New(rand.NewPCG(seed, 7)), pool: mode.pool, stable: mode.name != "durable"}
					h.c = h.fake.start(mode.params)
					h.play()
				})
			}
		})
	}
}

const (
	modelUnits  = 8 * units // per inode
	modelInodes = 2
	modelDepth  = 16
)

type unitID struct {
	inode meta.Inode
	unit  int
}

// event is one write, delete or CAS of a unit.
type event struct {
	value         uint64
	begun, acked  int  // moments; acked = forever while it is not
	failed        bool // nobody knows
	cas           bool
	durableAtOnce bool
}

const forever = 1 << 60

type history struct {
	t      *testing.T
	fake   *fake
	c      *client.Client
	r      *rand.Rand
	pool   meta.PoolID
	stable bool // values do not flip

	moment  int
	value   uint64
	running int
	events  map[unitID][]*event
	settled map[unitID]*seen
	writing map[unitID]int // writes in progress
	synced  []syncSeen
	done    map[string]int
	stop    bool
}

type seen struct {
	value uint64
	begun int
}

type syncSeen struct{ begun int }

func (h *history) now() int { h.moment++; return h.moment }

func (h *history) play() {
	h.events, h.settled, h.writing, h.done = map[unitID][]*event{}, map[unitID]*seen{}, map[unitID]int{}, map[string]int{}
	f := h.fake
	f.client.Do(func(*env.Env) { h.refill() })
	for range 60 {
		f.w.RunFor(time.Duration(h.r.IntN(300)) * time.Millisecond)
		h.trouble()
	}
	h.stop = true
	h.heal()
	if !f.w.RunUntil(func() bool { return h.running == 0 }, 5*time.Minute) {
		h.t.Fatalf("%d operations do not end: %s", h.running, h.c.Debug())
	}
	h.checkAll()
	if h.r.IntN(2) == 0 {
		h.crash()
	} else {
		h.finish()
	}
	if h.done["write"] < 50 || h.done["read"] < 50 || h.done["sync"] == 0 || h.done["delete"] == 0 {
		h.t.Errorf("the test tests nothing: %v", h.done)
	}
}

// refill keeps the client busy.
func (h *history) refill() {
	for h.running < modelDepth && !h.stop {
		h.running++
		h.submit()
	}
}

func (h *history) submit() {
	first, n := h.r.IntN(modelUnits), 1+h.r.IntN(6)
	n = min(n, modelUnits-first)
	op := &client.Op{Inode: inode(h.pool, uint64(1+h.r.IntN(modelInodes))), Offset: uint64(first) * granule, Bytes: uint64(n) * granule}
	switch k := h.r.IntN(40); {
	case k < 16:
		h.read(op, nil)
	case k < 34:
		h.write(op)
	case k < 36:
		h.sync(op)
	case k < 38:
		h.cas(op)
	default:
		op.Kind = client.Delete
		op.Offset = op.Offset / block * block
		op.Bytes = block
		h.change(op, 0, "delete")
	}
}

// op finishes what all operations have in common.
func (h *history) start(op *client.Op, name string, done func()) {
	completed := false
	op.Done = func(*client.Op) {
		if completed {
			h.t.Error("an operation was completed twice")
		}
		completed = true
		h.done[name]++
		h.running--
		done()
		h.fake.client.Env().Clock.Arm(&env.Timer{Fire: h.refill}, time.Duration(h.r.IntN(100))*time.Millisecond)
	}
	h.c.Submit(op)
}

func (h *history) each(op *client.Op, f func(u unitID)) {
	for at := op.Offset; at < op.Offset+op.Bytes; at += granule {
		f(unitID{op.Inode, int(at / granule)})
	}
}

func (h *history) write(op *client.Op) {
	h.value++
	op.Kind = client.Write
	data := make([]byte, op.Bytes)
	for i := 0; i < len(data); i += granule {
		binary.LittleEndian.PutUint64(data[i:], h.value)
		binary.LittleEndian.PutUint64(data[i+granule-8:], h.value)
	}
	cut := h.r.IntN(len(data))
	op.Iov = [][]byte{data[:cut], data[cut:]}
	name := "write"
	if op.Version != 0 {
		name = "cas"
	}
	h.change(op, h.value, name)
}

func (h *history) cas(op *client.Op) {
	op.Offset = op.Offset / block * block
	op.Bytes = block
	op.Version = 1
	if ob := h.fake.objects[meta.ObjectID{Inode: op.Inode, Stripe: op.Offset}]; ob != nil && h.r.IntN(4) > 0 {
		op.Version = meta.Version(ob.version + 1)
	}
	h.write(op)
}

// change records a write or delete.
func (h *history) change(op *client.Op, value uint64, name string) {
	begun := h.now()
	version := op.Version
	var mine []*event
	h.each(op, func(u unitID) {
		e := &event{value: value, begun: begun, acked: forever, cas: version != 0}
		e.durableAtOnce = name != "write"
		mine = append(mine, e)
		h.events[u] = append(h.events[u], e)
		h.writing[u]++
		delete(h.settled, u)
	})
	h.start(op, name, func() {
		if op.Err != 0 && version == 0 {
			h.t.Errorf("%s of %d at %d: %v", name, op.Bytes, op.Offset, op.Err)
		}
		acked := h.now()
		i := 0
		h.each(op, func(u unitID) {
			if mine[i].acked = acked; op.Err != 0 {
				mine[i].failed = true
			}
			i++
			h.writing[u]--
			delete(h.settled, u)
		})
	})
}

func (h *history) sync(op *client.Op) {
	*op = client.Op{Kind: client.Sync}
	s := syncSeen{h.now()}
	h.start(op, "sync", func() {
		if op.Err != 0 {
			h.t.Errorf("sync: %v", op.Err)
		}
		h.synced = append(h.synced, s)
	})
}

func (h *history) read(op *client.Op, then func()) {
	op.Kind = client.Read
	data := make([]byte, op.Bytes)
	cut := h.r.IntN(len(data))
	op.Iov = [][]byte{data[:cut], data[cut:]}
	begun := h.now()
	h.start(op, "read", func() {
		if op.Err != 0 {
			h.t.Errorf("read: %v", op.Err)
		}
		i := 0
		h.each(op, func(u unitID) {
			v := binary.LittleEndian.Uint64(data[i:])
			if v != binary.LittleEndian.Uint64(data[i+granule-8:]) {
				h.t.Errorf("%v: a granule is torn", u)
			}
			h.observe(u, v, begun)
			i += granule
		})
		if then != nil {
			then()
		}
	})
}

// observe checks a value that was read.
func (h *history) observe(u unitID, v uint64, begun int) {
	if !h.possible(u, v, begun, begun) {
		h.t.Errorf("%v: read %d, which was overwritten before: %s", u, v, h.show(u))
	}
	if s := h.settled[u]; s != nil && s.begun <= begun && s.value != v && h.stable {
		h.t.Errorf("%v: the value changed from %d to %d while nobody wrote: %s", u, s.value, v, h.show(u))
	}
	// Nobody has written since before the read began: the value stays.
	quiet := h.writing[u] == 0
	for _, e := range h.events[u] {
		// An unsynced CAS whose answer was lost may still be undone.
		quiet = quiet && e.acked < begun && !(e.failed && e.value == v)
	}
	if quiet {
		h.settled[u] = &seen{v, h.now()}
	}
}

// possible tells whether a unit may have a value after a moment, when
// everything acknowledged before floor is still there.
func (h *history) possible(u unitID, v uint64, until, floor int) bool {
	written := v == 0 && !h.overwritten(u, -1, floor)
	for _, e := range h.events[u] {
		written = written || e.value == v && !h.overwritten(u, e.acked, floor)
	}
	return written
}

// overwritten tells whether a write that began after the moment acked was
// acknowledged before floor.
func (h *history) overwritten(u unitID, acked, floor int) bool {
	return slices.ContainsFunc(h.events[u], func(e *event) bool {
		return e.begun > acked && e.acked < floor && !e.failed
	})
}

func (h *history) show(u unitID) string {
	s := ""
	for _, e := range h.events[u][max(0, len(h.events[u])-8):] {
		s += fmt.Sprintf(" %+v", *e)
	}
	return s
}

// trouble does something bad to the cluster, or ends it.
func (h *history) trouble() {
	f := h.fake
	o := f.osds[f.nth(h.r.IntN(3))]
	up := func() int {
		n := 0
		for _, x := range f.osds {
			if x.msgr != nil {
				n++
			}
		}
		return n
	}()
	switch h.r.IntN(14) {
	case 0:
		o.epipe = 0.2
	case 1:
		o.eio = 0.05
	case 2:
		o.enospc = 0.05
	case 3:
		o.drop = 0.02
	case 4:
		o.dropAfter = 0.02
	case 5:
		o.delay = time.Duration(h.r.IntN(20)) * time.Millisecond
	case 6:
		if o.msgr != nil && up == 3 {
			f.crash(o.num, time.Duration(h.r.IntN(2000))*time.Millisecond)
		}
	case 7, 8:
		for _, x := range f.osds {
			if x.msgr == nil {
				f.startOSD(x.num)
				break
			}
		}
	case 9, 10: // a PG moves
		pgs := f.allPGs()
		pg := pgs[h.r.IntN(len(pgs))]
		to := f.nth(h.r.IntN(3))
		if f.osds[to].msgr != nil && f.primary[pg] != 0 {
			f.setPrimary(pg, 0)
			f.w.After(time.Duration(h.r.IntN(300))*time.Millisecond, func() {
				if f.primary[pg] == 0 && f.osds[to].msgr != nil {
					f.setPrimary(pg, to)
				}
			})
		}
	case 11:
		f.w.Net().Reset(f.client, o.node)
	case 12:
		if o.msgr != nil {
			o.node.Pause()
			f.w.After(time.Duration(h.r.IntN(1500))*time.Millisecond, func() {
				if o.msgr != nil {
					o.node.Resume()
				}
			})
		}
	default:
		o.epipe, o.eio, o.enospc, o.drop, o.dropAfter, o.delay = 0, 0, 0, 0, 0, 0
	}
}

func (h *history) heal() {
	f := h.fake
	f.w.RunFor(3 * time.Second)
	for n := meta.OSDNum(1); n <= 3; n++ {
		o := f.osds[n]
		o.epipe, o.eio, o.enospc, o.drop, o.dropAfter, o.delay = 0, 0, 0, 0, 0, 0
		if o.msgr == nil {
			f.startOSD(n)
		}
	}
	for i, pg := range f.allPGs() {
		if f.primary[pg] == 0 || f.osds[f.primary[pg]].msgr == nil {
			f.setPrimary(pg, f.nth(i))
		}
	}
	f.w.RunFor(10 * time.Second)
}

// checkAll reads everything.
func (h *history) checkAll() {
	h.stop = true
	for n := range modelInodes {
		op := &client.Op{Inode: inode(h.pool, uint64(n+1)), Bytes: modelUnits * granule}
		h.running++
		h.fake.client.Do(func(*env.Env) { h.read(op, nil) })
	}
	if !h.fake.w.RunUntil(func() bool { return h.running == 0 }, time.Minute) {
		h.t.Fatal("the last reads do not end")
	}
}

// finish syncs: then the cluster has everything, whatever happens to it.
func (h *history) finish() {
	f := h.fake
	want(h.t, f.run(h.c, &client.Op{Kind: client.Sync}), 0)
	if n, m := h.c.Unsynced(), h.c.MemoryUsed(); n != 0 || m != 0 {
		h.t.Errorf("%d bytes are buffered after a sync, %d of memory are in use", n, m)
	}
	for _, pg := range f.allPGs() {
		f.undo(pg)
	}
	h.compare(h.now())
	h.checkAll()
	f.end(h.c)
}

// crash kills the client, and unsynced writes are lost.
func (h *history) crash() {
	f := h.fake
	f.client.Crash()
	for _, pg := range f.allPGs() {
		f.undo(pg)
	}
	floor := 0
	for _, s := range h.synced {
		floor = max(floor, s.begun)
	}
	h.compare(floor)
}

// compare looks into the store: what was acknowledged before floor is there.
func (h *history) compare(floor int) {
	for n := range modelInodes {
		for unit := range modelUnits {
			u := unitID{inode(h.pool, uint64(n+1)), unit}
			v := uint64(0)
			if ob := h.fake.objects[meta.ObjectID{Inode: u.inode, Stripe: uint64(unit) * granule / block * block}]; ob != nil {
				v = binary.LittleEndian.Uint64(ob.data[unit%units*granule:])
			}
			if !h.possible(u, v, h.moment, floor) {
				h.t.Errorf("%v: the cluster has %d, what was acknowledged before %d is lost: %s", u, v, floor, h.show(u))
			}
		}
	}
}
