package primary

import (
	"bytes"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// lockPG makes OSD from hold the lock of a PG on OSD to, with a state.
func (r *rig) lockPG(from, to meta.OSDNum, pg meta.PG, flags uint64, state meta.PGState) {
	r.t.Helper()
	done := false
	op := &msgr.Op{}
	(&wire.SecLock{Flags: flags, Pool: uint64(pg.Pool), PG: uint64(pg.Num), PGState: uint64(state)}).Encode(&op.Packet)
	op.Done = func(op *msgr.Op) {
		if op.Retval.Failed() {
			r.t.Errorf("lock: %v", op.Retval)
		}
		done = true
	}
	o := r.osds[from]
	o.node.Do(func(*env.Env) { o.m.Conn(to).Submit(op) })
	if !r.w.RunUntil(func() bool { return done }, 1<<40) {
		r.t.Fatal("no lock")
	}
}

func TestLocalizedReads(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	p := r.pool(1, meta.Replicated, 0, 1, 2)
	r.pool(2, meta.EC, 1, 1, 2, 3)
	first, second := r.user(1), r.user(2)
	data := pattern(3*testGran, 1)
	first.write(1, 8192, data)
	version := first.read(1, 8192, data)
	first.write(2, 0, data)

	second.want(wire.EPIPE, second.beginRead(1, 8192, len(data))) // without lock
	for _, state := range []meta.PGState{meta.PGPeering, meta.PGActive | meta.PGDegraded, meta.PGActive | meta.PGHasMisplaced} {
		r.lockPG(1, 2, p.id, wire.LockAcquire, state)
		second.want(wire.EPIPE, second.beginRead(1, 8192, len(data)))
	}
	for _, state := range []meta.PGState{meta.PGActive | meta.PGLeftOnDead, meta.PGActive} {
		r.lockPG(1, 2, p.id, wire.LockAcquire, state)
		if v := second.read(1, 8192, data); v != version {
			t.Errorf("version %v, want %v", v, version)
		}
	}
	c := second.want(wire.OK, second.beginRead(1, 0, 0)) // bitmap only
	if c.AttrBytes != testBitmap || !bytes.Equal(c.Attr[:4], []byte{0x1c, 0, 0, 0}) || c.version() != version {
		t.Errorf("bitmap %x, version %v", c.Attr[:c.AttrBytes], c.version())
	}
	second.read(1, testBlock, make([]byte, testBlock)) // does not exist
	second.read(1, 0, append(make([]byte, 8192), data...))
	second.want(wire.EINVAL, second.beginRead(1, 8192+1, testGran))
	second.want(wire.EINVAL, second.beginRead(1, 8192, testBlock))
	second.want(wire.EPIPE, second.beginWrite(1, 8192, data, 0))
	second.want(wire.EPIPE, second.beginDelete(1, 8192, 0))
	r.lockPG(1, 2, meta.PG{Pool: 2, Num: 1}, wire.LockAcquire, meta.PGActive)
	second.want(wire.EPIPE, second.beginRead(2, 0, len(data))) // no chunk is the data
	if n := r.osds[2].pri.Stats(); n.Ops[wire.OpRead].Count != 5 || n.Inodes[inode(1)].Read.Count != 5 {
		t.Errorf("%+v %+v", n.Ops[wire.OpRead], n.Inodes[inode(1)])
	}

	r.osds[2].lease = false
	second.want(wire.EPIPE, second.beginRead(1, 8192, len(data)))
	r.osds[2].lease = true
	second.read(1, 8192, data)
	r.lockPG(1, 2, p.id, wire.LockRelease, 0)
	second.want(wire.EPIPE, second.beginRead(1, 8192, len(data)))
}

// Layers, as a primary reads them.
func TestLocalizedChainedReads(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	p := r.pool(1, meta.Replicated, 0, 1, 2)
	u, v := r.user(1), r.user(2)
	l := newLayered(u, 1, 3)
	l.write(2, 0, 20, 1)
	l.write(1, 3, 2, 2)
	l.write(0, 4, 7, 3)
	r.lockPG(1, 2, p.id, wire.LockAcquire, meta.PGActive)
	for from := range 2 {
		l.check(v, from, 0, 32)
		l.check(v, from, 0, 0)
		l.check(v, from, 4, 9)
	}
	l.delete(0)
	l.check(v, 0, 0, 32)
	read := func(i meta.Inode, rev uint64) *call {
		return v.begin(&wire.Rw{Op: wire.OpRead, Inode: i, Len: testGran, MetaRevision: rev}, testGran)
	}
	v.want(wire.EPIPE, read(l.layers[0], 7))
	r.image(l.layers[2], l.layers[0], 102)
	v.want(wire.EINVAL, read(l.layers[0], 100))
}

func TestDescribe(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 4)
	rep, ec := r.pool(1, meta.Replicated, 0, 1, 2), r.pool(2, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	for i := range 5 {
		u.write(1, uint64(i)*testBlock, pattern(testGran, 1))
		u.write(2, uint64(i)*2*testBlock, pattern(testGran, 1))
	}
	pri := r.osds[1].pri
	describe := func(q wire.Describe) (items []wire.DescribeItem) {
		t.Helper()
		c := u.begin(&q, 1<<20)
		u.wait(c)
		if c.Retval.Failed() {
			t.Fatal(c.Retval)
		}
		l := wire.DescribeList(c.data[:c.BodyBytes])
		for i := range l.Len() {
			items = append(items, l.At(i))
		}
		if len(items) != int(c.Retval) {
			t.Errorf("%d items, %v announced", len(items), c.Retval)
		}
		return items
	}
	if got := describe(wire.Describe{}); len(got) != 0 {
		t.Errorf("clean: %v", got)
	}
	object := func(pool meta.PoolID, n int) meta.ObjectID {
		return meta.ObjectID{Inode: inode(pool), Stripe: uint64(n) * r.pools[pool].ObjectBytes()}
	}
	r.osds[1].node.Do(func(*env.Env) {
		pri.Objects(rep.id).Mark(object(1, 1), 0, 2, meta.LocCorrupted)
		for _, osd := range []meta.OSDNum{1, 2} {
			pri.Objects(rep.id).Mark(object(1, 3), 0, osd, meta.LocInconsistent)
		}
		pri.Objects(ec.id).Mark(object(2, 2), 1, 2, meta.LocCorrupted)
		pri.Objects(ec.id).RemoveLocation(object(2, 4), 2, 3)
	})
	all := []wire.DescribeItem{
		{Object: object(1, 1), OSD: 1}, {Object: object(1, 1), OSD: 2, LocBad: 2},
		{Object: object(1, 3), OSD: 1, LocBad: 4}, {Object: object(1, 3), OSD: 2, LocBad: 4},
		{Object: object(2, 2), OSD: 1}, {Object: object(2, 2), Role: 1, OSD: 2, LocBad: 2}, {Object: object(2, 2), Role: 2, OSD: 3},
		{Object: object(2, 4), OSD: 1}, {Object: object(2, 4), Role: 1, OSD: 2},
	}
	for i, c := range []struct {
		q    wire.Describe
		want []wire.DescribeItem
	}{
		{wire.Describe{}, all},
		{wire.Describe{Pool: 1}, all[:4]},
		{wire.Describe{Pool: 2, PG: 1}, all[4:]},
		{wire.Describe{Pool: 2, PG: 2}, nil},
		{wire.Describe{Pool: 7}, nil},
		{wire.Describe{ObjectState: uint64(meta.ObjectInconsistent)}, all[2:4]},
		{wire.Describe{ObjectState: uint64(meta.ObjectCorrupted)}, append(append([]wire.DescribeItem{}, all[:2]...), all[4:7]...)},
		{wire.Describe{ObjectState: uint64(meta.ObjectMisplaced)}, nil},
		{wire.Describe{ObjectState: 1 << 40}, nil},
		{wire.Describe{Limit: 1}, all[:2]}, // whole objects
		{wire.Describe{Limit: 4}, all[:4]},
		{wire.Describe{Limit: 5}, all[:7]},
		{wire.Describe{Min: object(1, 2), Max: object(2, 2)}, all[2:7]},
		{wire.Describe{Min: object(1, 1), Max: object(1, 1)}, all[:2]},
		{wire.Describe{Min: object(2, 3)}, all[7:]},
	} {
		got := describe(c.q)
		if len(got) != len(c.want) {
			t.Errorf("row %d: %v, want %v", i, got, c.want)
			continue
		}
		for k := range got {
			if got[k] != c.want[k] {
				t.Errorf("row %d item %d: %+v, want %+v", i, k, got[k], c.want[k])
			}
		}
	}
	r.osds[1].lease = false
	u.want(wire.EPIPE, u.begin(&wire.Describe{}, 0))
}

// More than a slice, and several at once.
func TestDescribeMany(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	p := r.pool(1, meta.Replicated, 0, 1, 2)
	u := r.user(1)
	const n = 3*describeSlice + 5
	r.osds[1].node.Do(func(*env.Env) {
		o := r.osds[1].pri.Objects(p.id)
		for i := range n {
			o.Mark(meta.ObjectID{Inode: inode(1), Stripe: uint64(i) * testBlock}, 0, 2, meta.LocCorrupted)
		}
	})
	var calls []*call
	for i := range 5 {
		calls = append(calls, u.begin(&wire.Describe{Limit: uint64(i) * 1000}, 2*n*wire.DescribeItemBytes))
	}
	for i, c := range calls {
		want := 1000 * i
		if i == 0 {
			want = 2 * n
		}
		u.want(wire.Retval(want), c)
		l := wire.DescribeList(c.data[:c.BodyBytes])
		for k := range l.Len() {
			if l.At(k).Object.Stripe != uint64(k/2)*testBlock {
				t.Fatalf("request %d item %d: %+v", i, k, l.At(k))
			}
		}
	}
}

func TestListPrimary(t *testing.T) {
	for name, c := range map[string]struct {
		scheme  meta.Scheme
		parity  int
		set     []meta.OSDNum
		primary meta.OSDNum
	}{
		"replicated":       {meta.Replicated, 0, []meta.OSDNum{1, 2}, 1},
		"ec":               {meta.EC, 1, []meta.OSDNum{2, 1, 3}, 1},
		"not a member":     {meta.Replicated, 0, []meta.OSDNum{2, 3}, 1},
		"not a member, ec": {meta.EC, 1, []meta.OSDNum{4, 2, 3}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for _, commit := range []meta.CommitMode{meta.CommitAll, meta.CommitNone} {
				testListPrimary(t, commit, c.scheme, c.parity, c.primary, c.set)
			}
		})
	}
}

func testListPrimary(t *testing.T, commit meta.CommitMode, scheme meta.Scheme, parity int, primary meta.OSDNum, set []meta.OSDNum) {
	r := newRig(t, 1, commit, 4)
	p := r.pool(1, scheme, parity, set...)
	if p.primary != primary {
		r.stop(p)
		p.primary = primary
		r.peer(p)
	}
	pool := r.pools[1]
	u := r.user(primary)
	for _, n := range []int{5, 1, 9, 2, 7} {
		u.write(1, uint64(n)*pool.ObjectBytes(), pattern(testGran, 1))
	}
	role := uint64(0)
	for i, osd := range set {
		if osd == primary && scheme != meta.Replicated {
			role = uint64(i)
		}
	}
	all := wire.SecList{PG: 1, Min: meta.ObjectID{Inode: inode(1)}, Max: meta.ObjectID{Inode: inode(1), Stripe: 1<<64 - 1}, Flags: wire.ListPrimary}
	list := func(q wire.SecList, want ...int) {
		t.Helper()
		c := u.begin(&q, 1<<16)
		u.want(wire.Retval(len(want)), c)
		var re wire.SecListReply
		re.Decode(&c.Reply)
		if re.StableCount != uint64(len(want)) || re.Flags != wire.ListPrimary {
			t.Errorf("%+v", re)
		}
		l := wire.ObjectList(c.data[:c.BodyBytes])
		for i, n := range want {
			v := l.At(i)
			stripe := uint64(n) * pool.ObjectBytes()
			if v.Version != 0 || v.Inode != inode(1) || v.Stripe != stripe && v.Stripe != stripe|role {
				t.Errorf("item %d: %v, want object %d", i, v, n)
			}
		}
	}
	list(all, 1, 2, 5, 7, 9)
	q := all
	q.Min.Stripe, q.Max.Stripe = 2*pool.ObjectBytes(), 7*pool.ObjectBytes()|meta.RoleMask
	list(q, 2, 5, 7)
	q = all
	q.PGCount, q.PGStripeBytes = 1, pool.PGStripeBytes
	list(q, 1, 2, 5, 7, 9)
	q.Min.Inode++
	q.Max.Inode++
	u.want(wire.OK, u.begin(&q, 0))
	for i, f := range []func(q *wire.SecList){
		func(q *wire.SecList) { q.PG = 0 }, func(q *wire.SecList) { q.Max.Inode++ }, func(q *wire.SecList) { q.StableLimit = 5 },
		func(q *wire.SecList) { q.PGCount = 2 }, func(q *wire.SecList) { q.PGStripeBytes = 4096 },
		func(q *wire.SecList) { q.Min.Inode, q.Max.Inode = meta.MakeInode(7, 1), meta.MakeInode(7, 1) },
	} {
		q := all
		if f(&q); u.want(wire.EINVAL, u.begin(&q, 0)) == nil {
			t.Error(i)
		}
	}
	q = all
	q.PG = 2
	u.want(wire.EPIPE, u.begin(&q, 0))
	if commit == meta.CommitNone {
		u.sync()
	}
	u.want(wire.OK, u.beginDelete(1, 5*pool.ObjectBytes(), 0))
	list(all, 1, 2, 7, 9)

	// An object that no listed member has is known by its state.
	from := set[0]
	if p := r.osds[primary].pri.pgs[p.id]; p.self >= 0 {
		from = primary
	}
	done := false
	lost := meta.ObjectID{Inode: inode(1), Stripe: 2*pool.ObjectBytes() | role}
	op := &secondary.Op{Op: store.Op{Kind: store.OpDelete, OID: lost, Version: 1 << 40}, Done: func(*secondary.Op) { done = true }}
	r.osds[from].node.Do(func(*env.Env) { r.osds[from].sec.Submit(op) })
	r.w.RunUntil(func() bool { return done }, 1<<40)
	list(all, 1, 7, 9)
	r.osds[primary].node.Do(func(*env.Env) {
		r.osds[primary].pri.Objects(p.id).RemoveLocation(lost.Object(), lost.Role(), from)
	})
	list(all, 1, 2, 7, 9)

	var calls []*call
	for range 3 * listingsAtOnce {
		calls = append(calls, u.begin(&all, 1<<12))
	}
	for _, c := range calls {
		u.want(4, c)
	}
	r.stop(p)
	u.want(wire.EPIPE, u.begin(&all, 0))
	if s := r.osds[primary].pri; s.listings != 0 || len(s.listWaiters) != 0 {
		t.Errorf("%d listings, %d wait", s.listings, len(s.listWaiters))
	}
}
