package primary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// TestCompareAndSet: writes and deletes with a condition.
func TestCompareAndSet(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		r := newRig(t, 1, meta.CommitAll, 3)
		parity := 0
		if scheme == meta.EC {
			parity = 1
		}
		p := r.pool(1, scheme, parity, 1, 2, 3)
		u := r.user(1)
		a, b := pattern(4096, 1), pattern(4096, 2)
		v := u.want(4096, u.beginWrite(1, 0, a, 1)).version() // must not exist
		if c := u.want(wire.EINTR, u.beginWrite(1, 0, b, 1)); c.version() != v {
			t.Errorf("version %v, want %v", c.version(), v)
		}
		u.read(1, 0, a)
		first, second := u.beginWrite(1, 0, b, v+1), u.beginWrite(1, 0, a, v+1)
		w := u.want(4096, first).version()
		if c := u.want(wire.EINTR, second); c.version() != w {
			t.Errorf("version %v, want %v", c.version(), w)
		}
		u.read(1, 0, b)
		if c := u.want(wire.EINTR, u.beginDelete(1, 0, v+1)); c.version() != w {
			t.Errorf("version %v, want %v", c.version(), w)
		}
		d := u.want(wire.OK, u.beginDelete(1, 4096, w+1))
		var re wire.DeleteReply
		re.Decode(&d.Reply)
		if re.Flags != wire.DeleteReportsDead || re.Count != 0 {
			t.Errorf("delete: %+v", re)
		}
		if c := u.want(wire.EINTR, u.beginDelete(1, 0, w+1)); c.version() != 0 {
			t.Errorf("version %v of an absent object", c.version())
		}
		u.want(wire.OK, u.beginDelete(1, 0, 1))
		u.want(wire.OK, u.beginDelete(1, 0, 0))
		r.atRest(p)
		r.crash(3)
		r.peer(p)
		d = u.want(wire.OK, u.beginDelete(1, 0, 0)) // what OSD 3 may have of it is unknown
		if re.Decode(&d.Reply); re.Flags != wire.DeleteReportsDead|wire.DeleteLeftOnDead || re.Count != 1 || re.LeftOnDead[0] != 3 {
			t.Errorf("delete in a degraded PG: %+v", re)
		}
	}
}

// TestOrder: writes to one object are executed one by one in the order of
// arrival; a bunch of them ends as the last one says.
func TestOrder(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		r := newRig(t, 1, meta.CommitAll, 3)
		parity := 0
		if scheme == meta.EC {
			parity = 1
		}
		p := r.pool(1, scheme, parity, 1, 2, 3)
		u := r.user(1)
		var calls []*call
		for i := range uint64(50) {
			calls = append(calls, u.beginWrite(1, 4096*(i%2), pattern(8192, i), 0))
		}
		u.wait(calls...)
		for i, c := range calls {
			if want := calls[0].version() + meta.Version(i); c.version() != want {
				t.Errorf("write %d has version %v, want %v", i, c.version(), want)
			}
		}
		u.read(1, 4096, pattern(8192, 49))
		r.atRest(p)
	}
}

// TestFormOfRequests: the order of checks that clients see (wire.md §6.1).
func TestFormOfRequests(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	r.pool(1, meta.Replicated, 0, 1, 2)
	r.pool(2, meta.Replicated, 0, 2, 1)
	u := r.user(1)
	for _, c := range []struct {
		inode       meta.Inode
		offset      uint64
		n           uint32
		read, other wire.Retval
	}{
		{inode(9), 100, 0, wire.EINVAL, wire.EINVAL},
		{inode(9), 0, 0, wire.EPIPE, wire.EPIPE},
		{5, 0, 0, wire.EPIPE, wire.EPIPE},
		{inode(2), 0, 4096, wire.EPIPE, wire.EPIPE},
		{inode(2), testBlock - 4096, 8192, wire.EPIPE, wire.EPIPE},
		{inode(1), testBlock - 4096, 8192, wire.EINVAL, wire.EINVAL},
		{inode(1), 0, 2 * testBlock, wire.EINVAL, wire.EINVAL},
		{inode(1), 0, 0, 0, 0},
	} {
		for _, op := range []wire.Op{wire.OpRead, wire.OpWrite, wire.OpDelete} {
			want := c.other
			if op == wire.OpRead {
				want = c.read
			}
			q := &wire.Rw{Op: op, Inode: c.inode, Offset: c.offset, Len: c.n}
			var body []byte
			if op == wire.OpWrite {
				body = make([]byte, c.n)
			}
			u.want(want, u.begin(q, int(c.n), body))
		}
	}
	u.want(wire.EPIPE, u.begin(&wire.Rw{Op: wire.OpScrub, Inode: inode(1)}, 0))
	u.want(wire.EPIPE, u.begin(&wire.Rw{Op: wire.OpRead, Inode: inode(1), MetaRevision: 5}, 0))
}

// TestHold: an object that is held is not written, but read; holds take turns
// with writes; Stop waits for the release.
func TestHold(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	p := r.pool(1, meta.Replicated, 0, 1, 2)
	u, o := r.user(1), r.osds[1]
	a, b := pattern(4096, 1), pattern(4096, 2)
	u.write(1, 0, a)
	granted := 0
	id := meta.ObjectID{Inode: inode(1)}
	h := &Hold{PG: p.id, OID: id, Granted: func(*Hold) { granted++ }}
	o.node.Do(func(*env.Env) {
		o.pri.Hold(h)
		if granted != 0 {
			t.Error("granted inside of Hold")
		}
	})
	w := u.beginWrite(1, 0, b, 0)
	second := &Hold{PG: p.id, OID: id, Granted: func(*Hold) { granted++ }}
	r.w.RunFor(time.Millisecond)
	o.node.Do(func(*env.Env) { o.pri.Hold(second) })
	r.w.RunFor(time.Second)
	if granted != 1 || w.done || !o.pri.Busy(id) || h.Err != wire.OK {
		t.Fatalf("granted %d, written %v", granted, w.done)
	}
	u.read(1, 0, a)
	o.node.Do(func(*env.Env) { o.pri.Release(h) })
	u.want(4096, w)
	r.w.RunFor(time.Millisecond)
	if granted != 2 {
		t.Fatal("the second one was not granted")
	}
	third := &Hold{PG: p.id, OID: id, Granted: func(*Hold) { granted++ }}
	o.node.Do(func(*env.Env) { o.pri.Hold(third); p.stop(o) })
	r.w.RunFor(time.Second)
	if p.drained || granted != 3 || third.Err != wire.EPIPE {
		t.Fatalf("drained %v, granted %d, %v", p.drained, granted, third.Err)
	}
	o.node.Do(func(*env.Env) { o.pri.Release(second) })
	r.w.RunFor(time.Second)
	if !p.drained || o.pri.Busy(id) {
		t.Fatal("not drained after the release")
	}
	r.idle()
	none := 0
	q := &Recovery{PG: p.id, OID: id, Done: func(*Recovery) { none++ }}
	o.node.Do(func(*env.Env) { o.pri.Recover(q) })
	r.w.RunFor(time.Millisecond)
	if none != 1 || q.Err != wire.EPIPE {
		t.Errorf("recovery in a stopped PG: %v", q.Err)
	}
}

// TestReadsBesideWrites: a read sees the old or the new contents of an EC object,
// never a mixture, and once the new one always that.
func TestReadsBesideWrites(t *testing.T) {
	for seed := range uint64(5) {
		r := newRig(t, seed+1, meta.CommitAll, 3)
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		size := 2 * testBlock
		u.write(1, 0, pattern(size, 0))
		var writes, reads []*call
		for i := range uint64(20) {
			writes = append(writes, u.beginWrite(1, 0, pattern(size, i+1), 0))
			for range 3 {
				reads = append(reads, u.beginRead(1, 0, size))
				r.w.RunFor(time.Duration(r.w.Rand().IntN(80)) * time.Microsecond)
			}
		}
		u.wait(writes...)
		u.wait(reads...)
		for _, c := range reads {
			if c.Retval != wire.Retval(size) {
				t.Fatalf("read: %v", c.Retval)
			}
			n := c.version() - writes[0].version() + 1
			if d := differ(c.data, pattern(size, uint64(n))); d != "equal" {
				t.Fatalf("read of version %v: %s", c.version(), d)
			}
		}
		r.atRest(p)
		t.Logf("%d reads began again", r.osds[1].pri.Stats().Retries)
	}
}

// TestReadsDoNotWait: while an EC write hangs at one OSD, reads from the others
// return the old version at once; replicas that show the new one are not shown
// before all have it.
func TestReadsDoNotWait(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	r.pool(1, meta.EC, 1, 1, 2, 3)
	r.pool(2, meta.Replicated, 0, 1, 2, 3)
	u := r.user(1)
	size := 2 * testBlock
	a, b := pattern(size, 1), pattern(size, 2)
	v := u.write(1, 0, a)
	u.write(2, 0, a[:testBlock])
	r.osds[3].node.Pause() // parity of the EC pool
	w, w2 := u.beginWrite(1, 0, b, 0), u.beginWrite(2, 0, b[:testBlock], 0)
	r.w.RunFor(100 * time.Millisecond)
	if got := u.read(1, 0, a); got != v {
		t.Errorf("version %v", got)
	}
	u.read(1, 4096, a[4096:8192])
	early := u.beginRead(2, 0, 4096)
	r.w.RunFor(100 * time.Millisecond)
	if w.done || w2.done || early.done {
		t.Fatal("a write, or a read of what it wrote, is done without one OSD")
	}
	r.osds[3].node.Resume()
	u.want(wire.Retval(size), w)
	u.want(testBlock, w2)
	u.want(4096, early)
	u.read(1, 0, b)
}

// TestCounterOverflow: versions move to a new epoch in time, which is recorded
// before it is used.
func TestCounterOverflow(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	p := r.pool(1, meta.Replicated, 0, 1, 2)
	u := r.user(1)
	a := pattern(testBlock, 1)
	u.write(1, 0, a)
	for num := range meta.OSDNum(2) {
		r.direct(num+1, store.Op{Kind: store.OpWriteStable, OID: meta.ObjectID{Inode: inode(1)}, Version: meta.MakeVersion(1, 0x8000)})
	}
	asked := p.needed
	if v := u.write(1, 4096, a[4096:8192]); v != meta.MakeVersion(2, 1) {
		t.Errorf("version %v", v)
	}
	if p.needed != asked+1 || p.recorded < 2 {
		t.Errorf("epoch 2 was not asked for: %d, %d", p.needed, p.recorded)
	}
	u.read(1, 0, a)
}

// TestClose ends everything that is under way.
func TestClose(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	r.pool(1, meta.Replicated, 0, 1, 2)
	r.pool(2, meta.Replicated, 0, 1, 2)
	u, o := r.user(1), r.osds[1]
	c := []*call{u.beginWrite(1, 0, pattern(4096, 1), 0), u.beginWrite(1, 0, pattern(4096, 1), 0), u.beginRead(2, 0, 4096)}
	r.w.RunFor(70 * time.Microsecond)
	closed := false
	o.node.Do(func(*env.Env) { o.pri.Close(func() { closed = true }) })
	r.w.RunFor(time.Second)
	u.wait(c...)
	if !closed {
		t.Error("not closed")
	}
	u.want(wire.EPIPE, u.beginWrite(1, 0, pattern(4096, 1), 0))
	r.idle()
}

// TestStatistics: operations, subops and inodes are counted.
func TestStatistics(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	u.write(1, 0, pattern(4096, 1))
	u.read(1, 0, pattern(4096, 1))
	u.want(wire.OK, u.beginDelete(1, 0, 0))
	s := r.osds[1].pri.Stats()
	i := s.Inodes[inode(1)]
	if i == nil || i.Write.Bytes != 4096 || i.Read.Count != 1 || i.Delete.Count != 1 || s.Ops[wire.OpWrite].Count != 1 || s.Ops[wire.OpRead].Bytes != 4096 {
		t.Errorf("%+v %+v", i, s.Ops)
	}
	if s.SubOps[wire.OpSecWrite].Count != 2 || s.SubOps[wire.OpSecStabilize].Count != 2 || s.SubOps[wire.OpSecDelete].Count != 2 {
		t.Errorf("subops: %+v", s.SubOps)
	}
}
