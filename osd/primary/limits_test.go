package primary

import (
	"bytes"
	"testing"
	"time"

	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// answers makes an OSD answer requests of one kind with an error.
func (o *osd) answers(code wire.Op, ret wire.Retval) {
	o.hook = func(r *msgr.Request) bool {
		if r.Op() != code {
			return false
		}
		r.Fail(ret)
		return true
	}
}

// TestMemory: operations wait for buffers, in order, and Stop ends the waiting.
func TestMemory(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u, s := r.user(1), r.osds[1].pri
	s.memory.limit = 2 << 20
	for i := range uint64(40) {
		u.write(1, i*2*testBlock, pattern(4096, i))
	}
	begin := func() (calls []*call) {
		for i := range uint64(40) {
			calls = append(calls, u.beginWrite(1, i*2*testBlock+65536, pattern(65536, i), 0))
		}
		return calls
	}
	r.osds[2].node.Pause()
	calls := begin()
	r.w.RunFor(200 * time.Millisecond)
	r.osds[2].node.Resume()
	u.wait(calls...)
	if s.stats.Waits < 20 {
		t.Errorf("%d operations waited", s.stats.Waits)
	}
	for i := range uint64(40) {
		u.read(1, i*2*testBlock+65536, pattern(65536, i))
	}
	r.atRest(p)
	r.osds[3].node.Pause()
	calls = begin()
	r.w.RunFor(200 * time.Millisecond)
	waiting := 0
	for o := s.memWaiters.head; o != nil; o = o.next {
		waiting++
	}
	o := r.osds[1]
	o.node.Do(func(*env.Env) { p.stop(o) })
	r.w.RunFor(10 * time.Millisecond)
	failed := 0
	for _, c := range calls {
		if c.done && c.Retval == wire.EPIPE {
			failed++
		}
	}
	if waiting < 10 || failed < waiting || p.drained {
		t.Errorf("%d waited, %d failed, drained %v", waiting, failed, p.drained)
	}
	r.osds[3].node.Resume()
	u.wait(calls...)
	r.peer(p)
	r.recoverAll(p)
	r.atRest(p)
}

// TestFlushPending: writes of an object wait until its unstable versions are
// settled, reads do not.
func TestFlushPending(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	a := pattern(2*testBlock, 1)
	u.write(1, 0, a)
	r.stop(p)
	r.activate(p)
	u.connected()
	u.read(1, 0, a)
	w, d := u.beginWrite(1, 0, a[:4096], 0), u.beginDelete(1, 0, 0)
	other := u.beginWrite(1, 2*testBlock, a[:4096], 0)
	r.w.RunFor(time.Second)
	u.want(4096, other)
	if w.done || d.done {
		t.Error("a write did not wait for the flush")
	}
	r.flush(p)
	u.want(4096, w)
	u.want(wire.OK, d)
	u.sync()
	r.atRest(p)
}

// TestDeleteFails: where the object is left after a delete that an OSD refused,
// it is whole again after recovery.
func TestDeleteFails(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		r := newRig(t, 1, meta.CommitAll, 4)
		p, a := r.pool(1, meta.Replicated, 0, 1, 2, 3), pattern(testBlock, 1)
		if scheme == meta.EC {
			p = r.pool(1, scheme, 2, 1, 2, 3, 4)
		}
		u := r.user(1)
		u.write(1, 0, a)
		r.osds[3].answers(wire.OpSecDelete, wire.ENOSPC)
		u.want(wire.ENOSPC, u.beginDelete(1, 0, 0))
		if scheme == meta.EC { // one chunk is not enough
			u.want(wire.EIO, u.beginRead(1, 0, 4096))
		} else {
			u.read(1, 0, a)
			r.recoverAll(p)
			r.atRest(p)
		}
		r.osds[3].hook = nil
		u.want(wire.OK, u.beginDelete(1, 0, 0))
		u.read(1, 0, make([]byte, testBlock))
		r.atRest(p)
		r.osds[3].answers(wire.OpSecDelete, wire.EINVAL)
		u.write(1, 0, a)
		u.want(wire.EPIPE, u.beginDelete(1, 0, 0))
		r.osds[3].hook = nil
		r.w.RunFor(time.Millisecond)
		r.connectAll()
		r.peer(p)
		u.want(wire.OK, u.beginDelete(1, 0, 0))
		u.read(1, 0, make([]byte, testBlock))
		r.atRest(p)
	}
}

// TestSecondPhaseFails: an OSD that does not make a version stable, or does not
// roll it back, is dropped; peering settles the version.
func TestSecondPhaseFails(t *testing.T) {
	for _, code := range []wire.Op{wire.OpSecStabilize, wire.OpSecRollback} {
		r := newRig(t, 1, meta.CommitAll, 3)
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		a, b := pattern(2*testBlock, 1), pattern(2*testBlock, 2)
		u.write(1, 0, a)
		r.osds[2].answers(code, wire.EBUSY)
		if code == wire.OpSecRollback {
			r.osds[3].answers(wire.OpSecWrite, wire.ENOSPC)
		}
		u.want(wire.EPIPE, u.beginWrite(1, 0, b, 0))
		r.osds[2].hook, r.osds[3].hook = nil, nil
		r.w.RunFor(time.Millisecond)
		r.connectAll()
		r.peer(p)
		got := u.want(2*testBlock, u.beginRead(1, 0, 2*testBlock)).data
		if !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Errorf("%v: a mixture", code)
		}
		r.recoverAll(p)
		u.write(1, 4096, b[:4096])
		r.atRest(p)
	}
}

// TestErrorsOfSync: a SYNC that one OSD refuses fails; nothing is forgotten.
func TestErrorsOfSync(t *testing.T) {
	for _, code := range []wire.Op{wire.OpSecSync, wire.OpSecStabilize, wire.OpSecDelete} {
		r := newRig(t, 1, meta.CommitNone, 4, autosync(time.Hour, 0, 0))
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		a := pattern(2*testBlock, 1)
		u.write(1, 0, a)
		u.sync()
		r.stop(p)
		p.set = []meta.OSDNum{1, 2, 4}
		r.peer(p)
		r.osds[3].answers(code, wire.ENOSPC)
		r.osds[2].answers(code, wire.ENOSPC)
		u.write(1, 0, a[:4096])
		c := u.begin(&wire.HeaderOnly{Op: wire.OpSync}, 0)
		u.wait(c)
		if code == wire.OpSecDelete {
			if c.Retval != wire.ENOSPC || p.stopping || len(r.osds[1].pri.pgs[p.id].copies) != 1 {
				t.Errorf("%v: %v", code, c.Retval)
			}
		} else if r.w.RunFor(time.Millisecond); !p.stopping {
			t.Errorf("%v: the PG goes on", code)
		}
		r.osds[2].hook, r.osds[3].hook = nil, nil
		r.connectAll()
		if p.stopping {
			r.peer(p)
			r.recoverAll(p)
		}
		u.connected()
		u.sync()
		u.sync()
		r.noExtraCopies(t, p)
		r.atRest(p)
		u.read(1, 0, a)
	}
}

// TestFlagsAndTimes: what the owner is told, and options that change.
func TestFlagsAndTimes(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u, o := r.user(1), r.osds[1]
	o.node.Do(func(*env.Env) { o.pri.SetScrubbing(p.id, true) })
	r.w.RunFor(time.Millisecond)
	if p.flags != meta.PGScrubbing {
		t.Errorf("flags %v", p.flags)
	}
	o.node.Do(func(*env.Env) { o.pri.SetScrubbing(p.id, false) })
	r.w.RunFor(time.Millisecond)
	if p.flags != 0 {
		t.Errorf("flags %v", p.flags)
	}
	u.write(1, 0, pattern(4096, 1))
	r.w.RunFor(time.Hour)
	if r.unstable(p) != 3 {
		t.Error("synced without being asked")
	}
	o.node.Do(func(*env.Env) { o.pri.SetTimes(time.Second, 2, 0) })
	r.w.RunFor(1100 * time.Millisecond)
	r.atRest(p)
	if c, ok := o.pri.PGCounts(p.id); !ok || c.Total != 1 {
		t.Errorf("counts %+v", c)
	}
	if _, ok := o.pri.PGCounts(meta.PG{Pool: 9, Num: 1}); ok || o.pri.Objects(meta.PG{Pool: 9, Num: 1}) != nil {
		t.Error("a PG that does not exist")
	}
	scrubs, stopped := 0, false
	o.node.Do(func(*env.Env) {
		o.pri.SetScrub(func(r *msgr.Request) { scrubs++; r.Fail(wire.OK) })
		o.pri.Stop(meta.PG{Pool: 9, Num: 1}, func() { stopped = true })
		if stopped {
			t.Error("called back inside of Stop")
		}
	})
	u.want(wire.OK, u.begin(&wire.Rw{Op: wire.OpScrub, Inode: inode(1), Offset: 4096}, 0))
	if scrubs != 1 || !stopped {
		t.Errorf("%d scrubs, stopped %v", scrubs, stopped)
	}
}

// TestJoin: more parts than a disk takes at once are copied together.
func TestJoin(t *testing.T) {
	s := &Server{config: Config{BlockBytes: testBlock}}
	body := [][]byte{pattern(4096, 1), pattern(8192, 2), pattern(4096, 3)}
	o := &op{s: s, r: &msgr.Request{Body: body}, offset: testBlock + 4096, length: 16384}
	all := bytes.Join(body, nil)
	buf := make([]byte, testBlock)
	o.joinBody(buf[4096:])
	if !bytes.Equal(buf[4096:20480], all) {
		t.Error("replicas: wrong contents")
	}
	old := pattern(testBlock, 4)
	o.chunks = []chunk{{}, {buf: bytes.Clone(old), read: ec.Range{To: testBlock}}}
	o.plan.Roles = []ec.RolePlan{{}, {Request: ec.Range{From: 4096, To: 20480}, Write: ec.Range{To: testBlock}}}
	b := &sub{parts: append([][]byte{{1}}, body...)}
	o.joinChunk(b, 1)
	copy(old[4096:], all)
	if len(b.parts) != 2 || !bytes.Equal(b.parts[1], old) {
		t.Error("chunk: wrong contents")
	}
}
