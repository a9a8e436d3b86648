package pgs

import (
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/peering"
)

type osdSet = []meta.OSDNum

const (
	active   = meta.PGActive
	degraded = meta.PGActive | meta.PGDegraded | meta.PGLeftOnDead
)

func TestStart(t *testing.T) {
	c := newCluster(t, 1, 3)
	c.pool(1, replicated(2, 1, ""))
	c.pool(2, ecPool(3, 1, ""))
	c.place(1, c.spread(8, 2)...)
	c.place(2, c.spread(4, 3)...)
	c.begin()
	if took := c.are(1, active, time.Second) + c.are(2, active, time.Second); took > 20*time.Millisecond {
		t.Errorf("active after %v", took)
	}
	c.w.RunFor(time.Second)
	for n, o := range c.osds {
		if len(o.ops.active) != 5-n || o.told == 0 {
			t.Errorf("OSD %d has %d active PGs, reported %d times", o.num, len(o.ops.active), o.told)
		}
		o.m.Each(func(pg meta.PG, state meta.PGState, why string) {
			a := o.ops.active[pg]
			if state != active || why != "" || a == nil || a.Objects.Counts() != (peering.Counts{}) {
				t.Errorf("PG %v is %v: %q, %+v", pg, state, why, a)
			}
			if !o.m.SecondaryView().Primary(pg) {
				t.Errorf("OSD %d does not know that it is primary of %v", o.num, pg)
			}
		})
		if n := o.m.PGCount(2); n != 4 || o.m.PGCount(3) != 0 {
			t.Errorf("pool 2 has %d PGs", n)
		}
		if p, ok := o.m.SecondaryView().Pool(2); !ok || p.PGCount != 4 || p.Replicated || p.PGStripeBytes != 2*blockBytes {
			t.Errorf("pool 2 is %+v", p)
		}
	}
}

// TestCrash: a secondary is killed, writes go on without it, it comes back.
func TestCrash(t *testing.T) {
	c := newCluster(t, 2, 3)
	c.pool(1, replicated(3, 2, ""))
	c.place(1, osdSet{1, 2, 3})
	c.begin()
	c.are(1, active, time.Second)
	pg := meta.PG{Pool: 1, Num: 1}
	o1, o2, o3 := c.osd(1), c.osd(2), c.osd(3)
	for _, o := range c.osds {
		o.write(id(1, 7, 0), meta.MakeVersion(1, 1), true)
	}
	o3.node.Crash()
	c.are(1, meta.PGIncomplete, time.Second)
	if !strings.Contains(c.pg(pg).machine.Why(), "OSD 3 runs") {
		t.Errorf("incomplete, because %q", c.pg(pg).machine.Why())
	}
	if took := c.are(1, degraded, 5*time.Second); took > leaseTTL+time.Second/10 {
		t.Errorf("degraded after %v", took)
	}
	a := o1.ops.active[pg]
	if a.Epoch != 2 || len(a.DeadPeers) != 1 || a.DeadPeers[0] != 3 || len(a.CurPeers) != 2 {
		t.Fatalf("activated with %+v", a.Activation)
	}
	if n := c.state(pg).Peers; len(n) != 2 {
		t.Errorf("peers in etcd: %v", n)
	}

	o1.node.Do(func(*env.Env) {
		o1.m.NeedEpoch(pg, 2)
		if o1.ops.recorded[pg] != 0 {
			t.Error("an answer inside the call")
		}
	})
	c.until("epoch 2 is recorded", time.Second, func() bool { return o1.ops.recorded[pg] == 2 })
	if h := c.history(pg); h.Epoch != 2 || len(h.OSDSets) != 1 || len(h.OSDSets[0]) != 2 {
		t.Errorf("history %+v", h)
	}
	o1.ops.recorded[pg] = 0
	o1.node.Do(func(*env.Env) { o1.m.NeedEpoch(pg, 2) }) // once more: in this turn of the loop
	if o1.ops.recorded[pg] != 2 {
		t.Error("no second answer")
	}
	o1.write(id(1, 7, 0), meta.MakeVersion(2, 1), true)
	o2.write(id(1, 7, 0), meta.MakeVersion(2, 1), true)

	o3.node.Restart()
	c.are(1, active|meta.PGHasDegraded, 10*time.Second)
	a = o1.ops.active[pg]
	if n := a.Objects.Counts(); n.Total != 1 || n.Degraded != 1 || a.Epoch != 3 {
		t.Errorf("epoch %d, %+v", a.Epoch, n)
	}
	if r, v := a.Objects.Lookup(id(1, 7, 0)); r == nil || v != meta.NewestVersion {
		t.Errorf("object: %+v, %v", r, v)
	}
	if n := len(o1.heal.recoverable); n == 0 {
		t.Error("recovery was not told")
	}
	o3.write(id(1, 7, 0), meta.MakeVersion(2, 1), true) // recovery
	o1.node.Do(func(*env.Env) {
		a.Objects.Forget(id(1, 7, 0))
		o1.m.FlagsChanged(pg, a.Objects.Flags())
	})
	c.are(1, active, time.Second)
	c.until("the history is clean", time.Second, func() bool {
		h := c.history(pg)
		return len(h.OSDSets) == 0 && len(h.AllPeers) == 3 && h.Epoch == 3
	})
}

// TestPrimaryCrash: the key of a PG goes with the lease of its primary, and
// another OSD takes over.
func TestPrimaryCrash(t *testing.T) {
	c := newCluster(t, 3, 3)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, c.spread(12, 2)...)
	c.begin()
	c.are(1, active, time.Second)
	c.osd(1).node.Crash()
	c.until("the key of OSD 1 is gone", 5*time.Second, func() bool { return c.get(c.keys.OSDState(1)) == nil })
	c.move()
	took := c.until("all PGs are active", time.Second, func() bool {
		for _, target := range c.config.Pool(1).PGs {
			if s := c.state(meta.PG{Pool: 1, Num: target.Num}); s.State&active == 0 || s.Primary != target.Primary {
				return false
			}
		}
		return true
	})
	if took > 20*time.Millisecond {
		t.Errorf("active after %v", took)
	}
	c.osd(1).node.Restart()
	c.are(1, active, 5*time.Second)
}

// TestVanishedKey: connections of an OSD whose key is gone end at once, in both
// directions, though it lives.
func TestVanishedKey(t *testing.T) {
	c := newCluster(t, 4, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{2, 1})
	c.begin()
	c.are(1, active, time.Second)
	var before []*msgr.Conn
	c.osd(1).msgr.Connections(func(x *msgr.Conn) { before = append(before, x) })
	if len(before) != 2 {
		t.Fatalf("%d connections", len(before))
	}
	c.w.KV().Cut(c.osd(2).node, true, true) // it does not know
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVDelete, Key: c.keys.OSDState(2)}}}); err != nil {
		t.Fatal(err)
	}
	took := c.until("connections are closed", time.Second, func() bool {
		n := 0
		c.osd(1).msgr.Connections(func(*msgr.Conn) { n++ })
		return n == 0
	})
	if took > 10*time.Millisecond {
		t.Errorf("after %v", took)
	}
	pg := meta.PG{Pool: 1, Num: 1}
	c.until("PG 1 goes on alone", time.Second, func() bool { return c.state(pg).State == degraded })
	c.w.KV().Cut(c.osd(2).node, false, false)
	c.until("OSD 2 has ended", 10*time.Second, func() bool { return c.osd(2).fatal != nil })
	c.are(1, active, 20*time.Second)
}

// TestPartition: two OSDs that run and do not reach each other have no active
// PG together, unless that is allowed.
func TestPartition(t *testing.T) {
	for _, allow := range []bool{false, true} {
		c := newCluster(t, 5, 3)
		for _, o := range c.osds {
			o.mod = func(pc *Config) { pc.AllowNetSplit = allow }
		}
		c.pool(1, replicated(2, 1, ""))
		c.place(1, osdSet{1, 2}, osdSet{2, 3}, osdSet{3, 1})
		c.begin()
		c.are(1, active, time.Second)
		c.w.Net().Cut(c.osd(1).node, c.osd(2).node)
		want := meta.PGIncomplete
		if allow {
			want = degraded
		}
		c.until("PG 1 notices", 10*time.Second, func() bool { return c.state(meta.PG{Pool: 1, Num: 1}).State == want })
		c.w.RunFor(20 * time.Second)
		for num, state := range map[meta.PGNum]meta.PGState{1: want, 2: active, 3: active} {
			if s := c.state(meta.PG{Pool: 1, Num: num}).State; s != state {
				t.Errorf("PG %d is %v", num, s)
			}
		}
		c.w.Net().HealAll()
		c.are(1, active, 10*time.Second)
	}
}

func TestShutdown(t *testing.T) {
	c := newCluster(t, 6, 3)
	c.pool(1, replicated(3, 1, `,"local_reads":"nearest"`))
	c.place(1, c.spread(30, 3)...)
	c.begin()
	c.are(1, active, time.Second)
	o := c.osd(1)
	o.ops.stopTime = 5 * time.Millisecond
	done := time.Duration(0)
	begin := c.w.Now()
	o.node.Do(func(*env.Env) {
		o.m.Shutdown(func() {
			done = c.w.Now()
			o.m.Each(func(pg meta.PG, state meta.PGState, _ string) {
				if state != meta.PGOffline {
					t.Errorf("PG %v is %v", pg, state)
				}
			})
			for _, target := range c.config.Pool(1).PGs {
				if s := c.state(meta.PG{Pool: 1, Num: target.Num}); (s.State == 0) != (target.Primary == 1) {
					t.Errorf("PG %d: %+v", target.Num, s)
				}
			}
		})
		if done != 0 {
			t.Error("done inside of the call")
		}
	})
	c.until("OSD 1 is shut down", time.Second, func() bool { return done != 0 })
	if took := done - begin; took > 20*time.Millisecond {
		t.Errorf("it takes %v", took)
	}
	if len(o.ops.active) != 0 || o.local.LocalReads(meta.PG{Pool: 1, Num: 2}) == false {
		t.Errorf("%d PGs are active", len(o.ops.active))
	}
	// The others still list it, until the lease is revoked.
	c.w.RunFor(time.Second)
	o.node.Do(func(*env.Env) { o.reg.Stop(func() { o.gone = true }) })
	c.until("the lease is revoked", time.Second, func() bool { return o.gone })
	c.move()
	if took := c.are(1, degraded, time.Second); took > 20*time.Millisecond {
		t.Errorf("taken over after %v", took)
	}
}

func TestShutdownOfNothing(t *testing.T) {
	c := newCluster(t, 7, 1)
	c.begin()
	done := false
	c.osd(1).node.Do(func(*env.Env) { c.osd(1).m.Shutdown(func() { done = true }) })
	c.w.RunFor(time.Millisecond)
	if !done {
		t.Error("no answer")
	}
	c.pool(1, replicated(1, 1, ""))
	c.place(1, osdSet{1}) // too late
	c.w.RunFor(5 * time.Second)
	if s := c.state(meta.PG{Pool: 1, Num: 1}); s.State != 0 {
		t.Errorf("it has taken a PG: %+v", s)
	}
}

// TestMove: a PG with data moves to other OSDs; the history leads back.
func TestMove(t *testing.T) {
	c := newCluster(t, 8, 4)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2})
	c.begin()
	c.are(1, active, time.Second)
	pg := meta.PG{Pool: 1, Num: 1}
	for stripe := range uint64(10) {
		for _, n := range (osdSet{1, 2}) {
			c.osd(n).write(id(1, 1, stripe*blockBytes), meta.MakeVersion(1, 1), true)
		}
	}
	h := schema.PGHistory{OSDSets: [][]meta.OSDNum{{1, 2}}, AllPeers: osdSet{1, 2}, Epoch: 1}
	c.config.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: osdSet{3, 4}, Primary: 3}})
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{
		{Kind: env.KVPut, Key: c.keys.PGConfig(), Value: c.config.Encode()},
		{Kind: env.KVPut, Key: c.keys.PGHistory(pg), Value: h.EncodeMon()}}}); err != nil {
		t.Fatal(err)
	}
	took := c.are(1, active|meta.PGHasMisplaced, time.Second)
	if took > 30*time.Millisecond {
		t.Errorf("moved after %v", took)
	}
	o3 := c.osd(3)
	a := o3.ops.active[pg]
	if n := a.Objects.Counts(); n.Total != 10 || n.Misplaced != 10 || len(a.CurPeers) != 4 {
		t.Errorf("%+v, peers %v", n, a.CurPeers)
	}
	if c.osd(1).m.pgs[pg] != nil {
		t.Error("OSD 1 keeps the PG")
	}
	o3.node.Do(func(*env.Env) { // rebalance
		for stripe := range uint64(10) {
			a.Objects.Forget(id(1, 1, stripe*blockBytes))
		}
		o3.m.FlagsChanged(pg, a.Objects.Flags())
	})
	c.are(1, active, time.Second)
	c.until("the history is clean", time.Second, func() bool { return len(c.history(pg).OSDSets) == 0 && len(c.history(pg).AllPeers) == 2 })
	// OSDs 1 and 2 are not needed any more.
	c.osd(1).node.Crash()
	c.w.RunFor(10 * time.Second)
	if s := c.state(pg); s.State != active {
		t.Errorf("PG is %v", s.State)
	}
	if len(o3.m.wanted) != 1 || o3.m.wanted[0] != 4 {
		t.Errorf("connections wanted to %v", o3.m.wanted)
	}
}

// TestPGCount: the number of PGs changes, with and without a pause before.
func TestPGCount(t *testing.T) {
	for _, pause := range []bool{false, true} {
		c := newCluster(t, 9, 3)
		c.pool(1, replicated(2, 1, ""))
		c.place(1, c.spread(3, 2)...)
		c.begin()
		c.are(1, active, time.Second)
		const objects = 60
		for i := range uint64(objects) {
			for _, n := range c.config.Pool(1).PGs[i%3].OSDSet {
				c.osd(n).write(id(1, 1, i*blockBytes), meta.MakeVersion(1, 1), true)
			}
		}
		for _, count := range []int{8, 2} {
			c.repartition(count, pause)
			total := uint64(0)
			c.until("all PGs are active", 5*time.Second, func() bool {
				total = 0
				for _, target := range c.config.Pool(1).PGs {
					pg := meta.PG{Pool: 1, Num: target.Num}
					a := c.osd(target.Primary).ops.active[pg]
					if c.state(pg).State&active == 0 || a == nil || a.Objects.PGCount != uint32(count) {
						return false
					}
					total += a.Objects.Counts().Total
				}
				return true
			})
			if total != objects {
				t.Errorf("pause %v, %d PGs: %d objects", pause, count, total)
			}
		}
		for _, o := range c.osds {
			if o.fatal != nil {
				t.Errorf("OSD %d: %v", o.num, o.fatal)
			}
		}
	}
}

// repartition changes the number of PGs like a monitor.
func (c *cluster) repartition(count int, pause bool) {
	if pause {
		pgs := c.config.Pool(1).PGs
		for i := range pgs {
			pgs[i].Pause = true
		}
		c.targets(1, pgs)
		c.until("all PGs are offline", time.Second, func() bool {
			for i := range pgs {
				if c.state(meta.PG{Pool: 1, Num: pgs[i].Num}).State != 0 {
					return false
				}
			}
			return true
		})
	}
	c.config.SetPool(1, nil)
	all := schema.PGHistory{AllPeers: osdSet{1, 2, 3}}
	for i := range count {
		c.put(c.keys.PGHistory(meta.PG{Pool: 1, Num: meta.PGNum(i + 1)}), string(all.EncodeMon()))
	}
	c.place(1, c.spread(count, 2)...)
}

// TestStripe: a new pg_stripe_size moves objects to other PGs, too.
func TestStripe(t *testing.T) {
	c := newCluster(t, 10, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{2, 1})
	c.begin()
	c.are(1, active, time.Second)
	for i := range uint64(16) {
		c.osd(1).write(id(1, 1, i*blockBytes), meta.MakeVersion(1, 1), true)
		c.osd(2).write(id(1, 1, i*blockBytes), meta.MakeVersion(1, 1), true)
	}
	c.pool(1, replicated(2, 1, `,"pg_stripe_size":1048576`))
	c.w.RunFor(100 * time.Millisecond)
	c.are(1, active, time.Second)
	for num, o := range c.osds {
		pg := meta.PG{Pool: 1, Num: meta.PGNum(num + 1)}
		a := o.ops.active[pg]
		if a.Objects.PGStripeBytes != 1<<20 || a.Objects.Counts().Total != 8 {
			t.Errorf("%v: stripe %d, %+v", pg, a.Objects.PGStripeBytes, a.Objects.Counts())
		}
	}
}

// TestPoolGone: a deleted pool is forgotten; it may come back.
func TestPoolGone(t *testing.T) {
	c := newCluster(t, 11, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2})
	c.begin()
	c.are(1, active, time.Second)
	delete(c.pools, 1)
	c.pool(2, replicated(1, 1, ""))
	c.config.DeletePool(1)
	c.place(2, osdSet{1})
	c.are(2, active, time.Second)
	if s := c.state(meta.PG{Pool: 1, Num: 1}); s.State != 0 || len(c.osd(1).m.order) != 1 || c.osd(1).m.PGCount(1) != 0 {
		t.Errorf("%+v, %d PGs", s, len(c.osd(1).m.order))
	}
	c.pool(1, ecPool(3, 1, `,"pg_minsize":2`))
	c.place(1, osdSet{2, 1, 0})
	c.are(1, active|meta.PGDegraded, time.Second)
}

// TestArrivals: when an OSD comes back, only a few PGs of a primary stand still
// at a time.
func TestArrivals(t *testing.T) {
	c := newCluster(t, 12, 3)
	c.pool(1, replicated(3, 1, ""))
	var sets [][]meta.OSDNum
	for range 80 {
		sets = append(sets, osdSet{1, 2, 3})
	}
	c.place(1, sets...)
	c.begin()
	c.are(1, active, time.Second)
	o := c.osd(1)
	o.ops.stopTime = 3 * time.Millisecond
	for _, slow := range []bool{false, true} {
		c.osd(3).node.Crash()
		c.are(1, degraded, 10*time.Second)
		c.osd(3).node.Restart()
		if slow {
			o.ops.stopTime = time.Second
		}
		most, begin := 0, time.Duration(0)
		c.until("all PGs have OSD 3 again", 20*time.Second, func() bool {
			still, back := 0, 0
			for _, a := range o.ops.active {
				if a.stopping {
					still++
				} else if len(a.CurPeers) == 3 {
					back++
				}
			}
			if still+back > 0 && begin == 0 {
				begin = c.w.Now()
			}
			most = max(most, still+len(sets)-len(o.ops.active))
			return back == len(sets)
		})
		switch {
		case !slow && most > arrivalsMax+1:
			t.Errorf("%d PGs stand still at a time", most)
		case slow && c.w.Now()-begin > 3*time.Second:
			t.Errorf("slow ones hold up the others: %v", c.w.Now()-begin)
		}
	}
	c.are(1, active, time.Second)
}

// TestArrivalOrder: an OSD that comes back is never forgotten, whatever else
// happens before its turn.
func TestArrivalOrder(t *testing.T) {
	c := newCluster(t, 13, 4)
	c.pool(1, replicated(4, 1, ""))
	var sets [][]meta.OSDNum
	for range 60 {
		sets = append(sets, osdSet{1, 2, 3, 4})
	}
	c.place(1, sets...)
	c.begin()
	c.are(1, active, time.Second)
	c.osd(1).ops.stopTime = 20 * time.Millisecond
	for _, then := range []func(){
		func() { c.osd(2).node.Crash() },
		func() { c.osd(3).node.Crash() },
		func() { c.place(1, sets...) },
		func() { c.w.Net().Reset(c.osd(1).node, c.osd(3).node) },
	} {
		c.osd(3).node.Crash()
		c.are(1, degraded, 10*time.Second)
		c.osd(3).node.Restart()
		c.until("some PG notices", 10*time.Second, func() bool { return len(c.osd(1).m.arrivals.queue) > 0 })
		then()
		c.w.RunFor(100 * time.Millisecond)
		for _, o := range c.osds {
			if !o.node.Running() {
				o.node.Restart()
			}
		}
		c.are(1, active, 10*time.Second)
	}
}

// TestOptions: locks and allow_net_split follow the configuration.
func TestOptions(t *testing.T) {
	c := newCluster(t, 14, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2})
	c.begin()
	c.are(1, active, time.Second)
	o, pg := c.osd(1), meta.PG{Pool: 1, Num: 1}
	set := func(opt Options) {
		o.node.Do(func(*env.Env) { o.m.SetOptions(opt) })
	}
	rounds := o.ops.active[pg].at
	set(Options{})
	if c.w.RunFor(time.Second); o.ops.active[pg].at != rounds {
		t.Error("the same options change something")
	}
	set(Options{PGLocks: option.On})
	c.until("OSD 2 is locked", time.Second, func() bool { return c.osd(2).local.LocalReads(pg) })
	set(Options{PGLocks: option.Off})
	c.until("OSD 2 is not locked", time.Second, func() bool { return !c.osd(2).local.LocalReads(pg) })
	c.w.Net().Cut(o.node, c.osd(2).node)
	c.are(1, meta.PGIncomplete, 10*time.Second)
	set(Options{AllowNetSplit: true})
	c.are(1, degraded, time.Second)
}
