package pgs

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// chunks lists what an OSD has of an object: versions, with u for unstable.
func (o *testOSD) chunks(oid meta.ObjectID, role meta.Role) (s string) {
	pool := oid.Inode.Pool()
	l := &store.List{Pool: pool, PG: 1, PGCount: 1, PGStripeBytes: 2 * blockBytes, Min: oid.WithRole(role), Max: oid.WithRole(role)}
	op := &store.Op{Kind: store.OpList, List: l}
	done := false
	op.Done = func(op *store.Op) {
		if done = true; op.Err != 0 {
			o.c.t.Errorf("list: %v", op.Err)
		}
	}
	o.node.Do(func(*env.Env) { o.st.Submit(op) })
	o.c.w.RunUntil(func() bool { return done }, time.Minute)
	for _, v := range l.Stable {
		s += fmt.Sprint(uint64(v.Version))
	}
	for _, v := range l.Unstable {
		s += fmt.Sprint(uint64(v.Version), "u")
	}
	return s
}

// TestFlush: unstable versions are settled by rule, the worked examples of
// osd.md §11.1.
func TestFlush(t *testing.T) {
	c := newCluster(t, 40, 3)
	c.begin()
	type piece struct {
		osd    meta.OSDNum
		v      meta.Version
		stable bool
	}
	for i, k := range []struct {
		before []piece
		after  string // chunks on OSD 1, 2, 3
	}{
		{[]piece{{1, 5, true}, {1, 6, false}, {2, 5, true}, {2, 6, false}, {3, 5, true}}, "6 6 5"},
		{[]piece{{1, 5, true}, {1, 6, false}, {2, 5, true}, {3, 5, true}}, "5 5 5"},
		{[]piece{{1, 6, false}}, "  "},
		{[]piece{{1, 7, true}, {2, 6, true}, {2, 7, false}, {3, 6, true}, {3, 7, false}}, "7 7 7"},
	} {
		oid := id(1, 1, uint64(i)*2*blockBytes)
		for _, p := range k.before {
			c.osd(p.osd).write(oid.WithRole(meta.Role(p.osd-1)), p.v, p.stable)
		}
		defer func() {
			got := c.osd(1).chunks(oid, 0) + " " + c.osd(2).chunks(oid, 1) + " " + c.osd(3).chunks(oid, 2)
			if got != k.after {
				t.Errorf("case %d: %q, expected %q", i, got, k.after)
			}
		}()
	}
	for i := range uint64(3000) { // many batches
		for osd := range uint64(3) {
			c.osds[osd].write(id(1, 2, i*2*blockBytes).WithRole(meta.Role(osd)), 3, false)
		}
	}
	c.pool(1, ecPool(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	c.are(1, active|meta.PGHasDegraded, 10*time.Second)
	o := c.osd(1)
	pg := meta.PG{Pool: 1, Num: 1}
	if n := o.ops.active[pg].Objects.Counts(); n.Total != 3003 || n.Degraded != 1 || o.ops.flushed < 4 || o.heal.flushing[pg] {
		t.Errorf("%+v, %d batches, flushing %v", n, o.ops.flushed, o.heal.flushing)
	}
	if got := c.osd(2).chunks(id(1, 2, 2999*2*blockBytes), 1); got != "3" {
		t.Errorf("the last object: %s", got)
	}
}

// TestFlushInterrupted: a peer dies in the middle; then everything is flushed
// by the next round.
func TestFlushInterrupted(t *testing.T) {
	c := newCluster(t, 41, 3)
	c.begin()
	for i := range uint64(2000) {
		for osd := range uint64(3) {
			c.osds[osd].write(id(1, 2, i*2*blockBytes).WithRole(meta.Role(osd)), 3, false)
		}
	}
	c.pool(1, ecPool(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	o := c.osd(1)
	c.until("the first batch is done", time.Second, func() bool { return o.ops != nil && o.ops.flushed > 0 })
	c.osd(3).node.Crash()
	c.are(1, degraded, 10*time.Second)
	if got := c.osd(2).chunks(id(1, 2, 1999*2*blockBytes), 1); got != "3" {
		t.Errorf("the last object: %s", got)
	}
	c.osd(3).node.Restart()
	c.are(1, active, 10*time.Second)
	if got := c.osd(3).chunks(id(1, 2, 1999*2*blockBytes), 2); got != "3" {
		t.Errorf("the last object: %s", got)
	}
}

// TestReadOnly: nothing is flushed by a read-only OSD.
func TestReadOnly(t *testing.T) {
	c := newCluster(t, 42, 3)
	c.osd(1).mod = func(pc *Config) { pc.ReadOnly = true }
	c.begin()
	for osd := range uint64(2) {
		c.osds[osd].write(id(1, 1, 0).WithRole(meta.Role(osd)), 3, false)
	}
	c.pool(1, ecPool(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	c.are(1, active|meta.PGHasDegraded|meta.PGHasUnclean, time.Second)
	c.w.RunFor(time.Second)
	if got := c.osd(1).chunks(id(1, 1, 0), 0) + " " + c.osd(2).chunks(id(1, 1, 0), 1); got != "3u 3u" {
		t.Errorf("chunks are %s", got)
	}
}

// TestSlowSorting: a peer that still sorts its objects into the new PGs is
// waited for, without breaking the connection.
func TestSlowSorting(t *testing.T) {
	c := newCluster(t, 43, 2)
	c.begin()
	for i := range uint64(3600) {
		c.osd(2).write(id(1, 1, i*blockBytes), 3, true)
	}
	c.pool(1, replicated(2, 1, ""))
	o := c.osd(2)
	o.st.Tune(store.Tunables{ReshardChunkObjects: 300, ReshardChunkPause: 100 * time.Millisecond})
	conn := c.osd(1).msgr.Conn(2)
	c.place(1, osdSet{1, 2}, osdSet{1, 2})
	took := c.until("PGs are active", 10*time.Second, func() bool { return c.state(meta.PG{Pool: 1, Num: 2}).State&active != 0 })
	if took < 500*time.Millisecond || conn != nil && c.osd(1).msgr.Conn(2) != conn {
		t.Errorf("after %v", took)
	}
	if n := c.osd(1).ops.active[meta.PG{Pool: 1, Num: 2}].Objects.Counts(); n.Total != 1800 || n.Degraded != 1800 {
		t.Errorf("%+v", n)
	}
}

// TestBudget: with nearly no memory for lists PGs start one after another.
func TestBudget(t *testing.T) {
	c := newCluster(t, 44, 3)
	for _, o := range c.osds {
		o.mod = func(pc *Config) { pc.ListBudgetBytes = 1000 }
	}
	c.begin()
	for i := range uint64(3000) {
		for _, o := range c.osds {
			o.write(id(1, 1, i*blockBytes), 3, true)
		}
	}
	c.pool(1, replicated(3, 1, ""))
	c.place(1, c.spread(30, 3)...)
	c.are(1, active, 5*time.Second)
	for _, o := range c.osds {
		if o.m.lists.bytes != 0 || len(o.m.lists.rounds) != 0 || len(o.m.lists.asked) != 0 || len(o.m.lists.queue) != 0 {
			t.Errorf("OSD %d: %d bytes, %d rounds are left", o.num, o.m.lists.bytes, len(o.m.lists.rounds))
		}
	}
}

// TestImpossibleObjects: chunks that cannot be in the pool keep the PG from
// becoming active.
func TestImpossibleObjects(t *testing.T) {
	c := newCluster(t, 45, 2)
	c.begin()
	c.osd(2).write(id(1, 1, 0).WithRole(1), 3, true)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2})
	c.are(1, meta.PGIncomplete|meta.PGHasInvalid, time.Second)
	c.w.RunFor(5 * time.Second)
	if n := c.count("pg_size was changed while it had data"); n < 1 || n > 2 { // the complaint and the state
		t.Errorf("%d complaints", n)
	}
	if n := c.osd(1).m.arena.UsedBytes(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

// TestLocks: pools with local reads are locked, and the state is told.
func TestLocks(t *testing.T) {
	c := newCluster(t, 46, 3)
	c.pool(1, replicated(3, 1, `,"local_reads":"nearest"`))
	c.pool(2, replicated(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	c.place(2, osdSet{1, 2, 3})
	c.begin()
	c.are(1, active, time.Second)
	c.are(2, active, time.Second)
	pg := meta.PG{Pool: 1, Num: 1}
	reads := func() (s string) {
		for _, o := range c.osds {
			if o.up() && o.local.LocalReads(pg) {
				s += fmt.Sprint(o.num)
			}
		}
		return s
	}
	locked := func(want string) {
		t.Helper()
		c.until("local reads from "+want, 10*time.Second, func() bool { return reads() == want })
	}
	locked("23")
	if c.osd(2).local.LocalReads(meta.PG{Pool: 2, Num: 1}) {
		t.Error("pool 2 is locked")
	}
	c.osd(3).node.Crash()
	c.until("it is noticed", time.Second, func() bool { return c.state(pg).State == meta.PGIncomplete })
	locked("")
	c.are(1, degraded, 5*time.Second)
	c.w.RunFor(10 * time.Millisecond)
	if reads() != "" {
		t.Error("local reads in a degraded PG")
	}
	c.osd(3).node.Restart()
	c.are(1, active, 10*time.Second)
	locked("23")
	// Another primary has to wait for the first one.
	c.osd(1).ops.stopTime = 300 * time.Millisecond
	c.targets(1, []schema.PGTarget{{Num: 1, OSDSet: osdSet{1, 2, 3}, Primary: 2}})
	c.w.RunFor(200 * time.Millisecond)
	locked("")
	locked("13")
	c.are(1, active, 10*time.Second)
	c.targets(1, []schema.PGTarget{{Num: 1, OSDSet: osdSet{1, 2, 3}, Primary: 2, Pause: true}})
	c.until("the PG is offline", time.Second, func() bool { return c.state(pg).State == 0 })
	if reads() != "" {
		t.Error("locks are left")
	}
}

// TestCrashWhileListing: whatever is under way when the primary or a peer is
// killed, nothing is left of it (see newCluster), and the PG becomes active.
func TestCrashWhileListing(t *testing.T) {
	c := newCluster(t, 47, 2)
	c.begin()
	for i := range uint64(3500) { // longer than smallListBytes
		for _, o := range c.osds {
			o.write(id(1, 1, i*blockBytes), 3, true)
		}
	}
	c.pool(1, replicated(2, 1, ""))
	target := schema.PGTarget{Num: 1, OSDSet: osdSet{1, 2}, Primary: 1}
	pg := meta.PG{Pool: 1, Num: 1}
	for i := range 24 {
		c.targets(1, []schema.PGTarget{target})
		c.until("the key is ours", 20*time.Second, func() bool { return c.state(pg).State&^meta.PGStarting != 0 })
		c.w.RunFor(time.Duration(i) * 100 * time.Microsecond)
		o := c.osds[i%2]
		o.node.Crash()
		c.w.RunFor(time.Millisecond)
		o.node.Restart()
		c.until("the PG is active", 30*time.Second, func() bool {
			p := c.osd(1)
			return p.up() && p.ops.active[pg] != nil && len(p.ops.active[pg].CurPeers) == 2 && c.state(pg).State == active
		})
		c.targets(1, []schema.PGTarget{{Num: 1, OSDSet: osdSet{1, 2}}})
		c.until("the PG is offline", time.Second, func() bool { return c.state(pg).State == 0 })
		if l := &c.osd(1).m.lists; l.bytes != 0 || len(l.asked) != 0 {
			t.Fatalf("crash %d: %d bytes are left", i, l.bytes)
		}
	}
}

// TestBadPeers: a peer that cannot list, or lists nonsense, keeps its PGs from
// becoming active until it is well again, and no others.
func TestBadPeers(t *testing.T) {
	list := func(r *msgr.Request, stable int, items ...meta.ObjectVersion) {
		var body wire.ObjectList
		for _, v := range items {
			body = body.Append(v)
		}
		(&wire.SecListReply{Retval: wire.Retval(len(items)), StableCount: uint64(stable)}).Encode(&r.Reply)
		r.ReplyParts = append(r.ReplyParts, body)
		r.Finish()
	}
	good := meta.ObjectVersion{ObjectID: id(1, 1, 0), Version: 5}
	otherPG, otherPool, nothing := good, good, good
	otherPG.Stripe, otherPool.Inode, nothing.Version = blockBytes, meta.MakeInode(2, 1), 0
	for name, answer := range map[string]func(r *msgr.Request){
		"error":         func(r *msgr.Request) { r.Fail(wire.EIO) },
		"again":         func(r *msgr.Request) { r.Fail(wire.EAGAIN) },
		"other PG":      func(r *msgr.Request) { list(r, 1, good, otherPG) },
		"other pool":    func(r *msgr.Request) { list(r, 1, good, otherPool) },
		"no version":    func(r *msgr.Request) { list(r, 2, good, nothing) },
		"stable beyond": func(r *msgr.Request) { list(r, 3, good) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 48, 3)
			c.pool(1, replicated(2, 2, ""))
			c.osd(2).hostile = func(r *msgr.Request) bool {
				if r.Op() != wire.OpSecList {
					return false
				}
				answer(r)
				return true
			}
			c.place(1, osdSet{1, 2}, osdSet{1, 3})
			c.begin()
			first, second := meta.PG{Pool: 1, Num: 1}, meta.PG{Pool: 1, Num: 2}
			c.until("PG 2 is active", time.Second, func() bool { return c.state(second).State == active })
			for range 100 {
				c.w.RunFor(100 * time.Millisecond)
				if c.state(first).State&active != 0 {
					t.Fatal("PG 1 is active")
				}
			}
			if n := c.count("is not usable"); n > 1 {
				t.Errorf("%d complaints", n)
			}
			c.osd(2).hostile = nil
			c.are(1, active, 10*time.Second)
		})
	}
}

// TestBadFlush: a peer that refuses to settle versions is listed again.
func TestBadFlush(t *testing.T) {
	c := newCluster(t, 49, 3)
	c.begin()
	for osd := range uint64(3) {
		c.osds[osd].write(id(1, 1, 0).WithRole(meta.Role(osd)), 3, false)
	}
	refused := 0
	c.osd(2).hostile = func(r *msgr.Request) bool {
		if r.Op() != wire.OpSecStabilize || refused == 3 {
			return false
		}
		refused++
		r.Fail(wire.EIO)
		return true
	}
	c.pool(1, ecPool(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	c.are(1, active, 20*time.Second)
	if got := c.osd(2).chunks(id(1, 1, 0), 1); got != "3" || refused != 3 {
		t.Errorf("chunk %s after %d errors", got, refused)
	}
}

// TestStopAfterBadFlush: a PG is told to stop while it waits, with its
// operations ended, for a flush that fails.
func TestStopAfterBadFlush(t *testing.T) {
	c := newCluster(t, 51, 3)
	c.begin()
	for osd := range uint64(3) {
		c.osds[osd].write(id(1, 1, 0).WithRole(meta.Role(osd)), 3, false)
	}
	refused := false
	c.osd(2).hostile = func(r *msgr.Request) bool {
		if r.Op() != wire.OpSecStabilize {
			return false
		}
		refused = true
		r.Fail(wire.EIO)
		return true
	}
	c.pool(1, ecPool(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	c.until("a flush fails", time.Second, func() bool { return refused })
	c.w.RunFor(20 * time.Millisecond)
	if p := c.osd(1).m.order[0]; p.service != stopped || p.flush == nil {
		t.Fatalf("operations are in state %d", p.service)
	}
	c.targets(1, []schema.PGTarget{{Num: 1, OSDSet: osdSet{1, 2, 3}, Primary: 1, Pause: true}})
	c.until("the PG is offline", time.Second, func() bool { return c.state(meta.PG{Pool: 1, Num: 1}).State == 0 })
}

// TestUncertainLease: nothing is listed and flushed while the lease may be over.
func TestUncertainLease(t *testing.T) {
	c := newCluster(t, 50, 3)
	c.begin()
	for osd := range uint64(3) {
		c.osds[osd].write(id(1, 1, 0).WithRole(meta.Role(osd)), 3, false)
	}
	o, certain := c.osd(1), false
	o.m.MayServe = func() bool { return certain }
	c.pool(1, ecPool(3, 1, ""))
	c.place(1, osdSet{1, 2, 3})
	c.are(1, meta.PGPeering, time.Second)
	c.w.RunFor(time.Second)
	if n := o.msgr.Stats().Sent[wire.OpSecList].Count; n != 0 {
		t.Errorf("%d lists were asked for", n)
	}
	o.ops.activated = func() { certain = false }
	certain = true
	pg := meta.PG{Pool: 1, Num: 1}
	c.are(1, active|meta.PGHasUnclean, time.Second)
	c.w.RunFor(time.Second)
	if got := o.chunks(id(1, 1, 0), 0); got != "3u" {
		t.Errorf("chunk %s", got)
	}
	c.targets(1, []schema.PGTarget{{Num: 1, OSDSet: osdSet{1, 2, 3}}})
	c.until("the PG stops all the same", time.Second, func() bool { return c.state(pg).State == 0 })
}
