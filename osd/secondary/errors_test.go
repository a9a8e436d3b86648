package secondary

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// TestForms: everything malformed gets EINVAL and changes nothing.
func TestForms(t *testing.T) {
	r := newRig(t, 1)
	p := r.peer(1)
	id := oid(1, 1, 0)
	for i, q := range []wire.SecRw{
		{Offset: 1, Len: 4096}, {Offset: 512}, {Len: 4095}, {Offset: blockBytes}, {Offset: blockBytes, Len: 4096},
		{Offset: blockBytes - 4096, Len: 8192}, {Len: blockBytes + 4096}, {Len: wire.MaxIOBytes + 4096},
		{Len: 4096, AttrLen: 3}, {Len: 4096, AttrLen: 5}, {AttrLen: 70000},
	} {
		q.Chunk, q.Version = id, 1
		for _, q.Op = range []wire.Op{wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable} {
			want := wire.EINVAL
			var payload [][]byte
			if q.Op != wire.OpSecRead {
				payload = [][]byte{make([]byte, q.AttrLen), make([]byte, q.Len)}
			} else if q.AttrLen != 0 {
				want = wire.ENOENT // attr_len of a SEC_READ is ignored
			}
			if op := p.call(&q, payload...); op.Retval != want || op.Lost {
				t.Errorf("%d %v: %v, lost %v", i, q.Op, op.Retval, op.Lost)
			}
		}
	}
	p.want(wire.EINVAL, &wire.SecRw{Op: wire.OpSecWrite, Chunk: id, Len: 4096}, make([]byte, 4096)) // version 0
	good := *r.peering(meta.PG{Pool: 1, Num: 1})
	for i, f := range []func(q *wire.SecList){
		func(q *wire.SecList) { q.Min.Inode = 0 }, func(q *wire.SecList) { q.Max.Inode = meta.MakeInode(2, 0) },
		func(q *wire.SecList) { q.Min.Inode, q.Max.Inode = 0, 5 }, func(q *wire.SecList) { q.PGCount = 0 },
		func(q *wire.SecList) { q.PG = 0 }, func(q *wire.SecList) { q.PG = 5 }, func(q *wire.SecList) { q.PGStripeBytes = 4095 },
	} {
		q := good
		f(&q)
		if op := p.call(&q); op.Retval != wire.EINVAL {
			t.Errorf("listing %d: %v", i, op.Retval)
		}
	}
	for pg := meta.PGNum(1); pg <= 4; pg++ {
		if s, u := p.list(r.peering(meta.PG{Pool: 1, Num: pg})); len(s)+len(u) != 0 {
			t.Errorf("malformed requests made %v %v", s, u)
		}
	}
	r.idle()
}

// TestResults has a row for each result of a well-formed request that the
// state of the store makes (wire.md §7, §10).
func TestResults(t *testing.T) {
	r := newRig(t, 1)
	p := r.peer(1)
	id, gone, no := oid(2, 1, 1), oid(2, 2, 1), oid(2, 3, 1)
	const wr, st = wire.OpSecWrite, wire.OpSecWriteStable
	p.readFails(wire.ENOENT, id, newest)
	p.write(8192, wr, id, 5, 0, 8192, 1, 1)
	p.readFails(wire.ENOENT, id, 4)
	p.write(0, wr, id, 6, 4096, 0, 2, 0) // another bitmap only
	p.read(id, newest, 0, 8192, 6, 2, pattern(8192, 1))
	p.read(id, 5, 4096, 4096, 5, 1, pattern(8192, 1)[4096:])
	p.read(id, newest, 0, 0, 6, 2, nil)
	p.write(wire.EEXIST, wr, id, 6, 0, 4096, 3, 2)
	p.write(wire.EEXIST, wr, id, 2, 0, 4096, 3, 2)
	p.write(wire.EEXIST, st, id, 6, 0, 4096, 3, 2)
	p.write(wire.EINVAL, st, id, 7, 0, 4096, 3, 2) // stable over unstable
	p.want(0, &wire.SecRw{Op: wr, Chunk: id, Version: 7})
	p.read(id, newest, 8192, 4096, 7, 2, make([]byte, 4096)) // no bitmap was supplied, nothing was written
	// STABILIZE and ROLLBACK stop at the first error; earlier items stay applied.
	p.stab(wire.ENOENT, wire.OpSecStabilize, at(no, 1))
	p.stab(wire.EPIPE, wire.OpSecStabilize, at(oid(9, 1, 0), 1))
	p.stab(wire.ENOENT, wire.OpSecStabilize, at(id, 5), at(no, 1), at(id, 6))
	p.stab(0, wire.OpSecStabilize, at(id, 5), at(id, 4), at(id, 0))
	p.stab(wire.EBUSY, wire.OpSecRollback, at(id, 4))
	p.stab(wire.ENOENT, wire.OpSecRollback, at(no, 4))
	p.stab(0, wire.OpSecRollback, at(id, 7))
	p.stab(0, wire.OpSecRollback, at(id, 5))
	p.read(id, newest, 0, 4096, 5, 1, pattern(8192, 1)[:4096])
	p.stab(0, wire.OpSecStabilize)
	// Bytes behind the last item are ignored.
	l := append(wire.ObjectList(nil).Append(at(id, 5)), 1, 2, 3)
	p.want(0, &wire.SecStab{Op: wire.OpSecStabilize, Len: uint64(len(l))}, l)
	op := p.want(12, &wire.SecReadBmp{Len: uint64(len(l))}, l)
	if got := op.Body[0][:12]; !slices.Equal(got, []byte{5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}) {
		t.Errorf("bitmaps: %x", got)
	}
	p.want(0, &wire.SecReadBmp{})
	// After a delete any version may follow; a delete of nothing succeeds.
	p.write(4096, wr, gone, 9, 0, 4096, 1, 1)
	p.want(0, &wire.SecDel{Chunk: gone, Version: 10})
	p.want(0, &wire.SecDel{Chunk: gone, Version: 0})
	p.want(0, &wire.SecDel{Chunk: no, Version: 4})
	p.readFails(wire.ENOENT, gone, newest)
	p.stab(0, wire.OpSecStabilize, at(gone, 9))
	p.write(4096, wr, gone, 1, 0, 4096, 1, 1)
	// Pools we do not know, and other shards than the index has.
	p.readFails(wire.EPIPE, oid(9, 1, 0), newest)
	p.write(wire.EPIPE, wr, oid(9, 1, 0), 1, 0, 4096, 1, 1)
	p.want(wire.EPIPE, &wire.SecDel{Chunk: oid(9, 1, 0)})
	p.want(wire.EPIPE, &wire.SecReadBmp{Len: 24}, wire.ObjectList(nil).Append(at(oid(9, 1, 0), 1)))
	q := *r.peering(meta.PG{Pool: 2, Num: 1})
	q.PGStripeBytes *= 2
	p.want(wire.EAGAIN, &q)
	q = wire.PeeringList(meta.PG{Pool: 9, Num: 1}, 1, 4096)
	p.want(wire.EAGAIN, &q)
	// The PG count of the view changes before the index, as when it is resharded.
	v := r.view.pools[2]
	r.view.pools[2] = Pool{PGCount: 2, PGStripeBytes: v.PGStripeBytes}
	p.readFails(wire.EPIPE, id, newest)
	r.node.Do(func(*env.Env) { r.st.Reshard(2, 2, v.PGStripeBytes) })
	r.w.RunFor(time.Second)
	p.read(id, newest, 0, 0, 5, 1, nil)
	r.idle()
}

func TestReadonly(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.ReadOnly = true }))
	p := r.peer(1)
	id := oid(1, 1, 0)
	p.write(wire.EROFS, wire.OpSecWrite, id, 1, 0, 4096, 1, 1)
	p.write(wire.EROFS, wire.OpSecWriteStable, id, 1, 0, 4096, 1, 1)
	p.stab(wire.EROFS, wire.OpSecStabilize, at(id, 1))
	p.stab(wire.EROFS, wire.OpSecRollback, at(id, 1))
	p.want(wire.EROFS, &wire.SecDel{Chunk: id})
	p.want(wire.EROFS, &wire.SecSync{})
	p.want(wire.EROFS, &wire.HeaderOnly{Op: wire.OpSync})
	p.want(wire.EROFS, &wire.Rw{Op: wire.OpWrite, Len: 4096}, make([]byte, 4096))
	p.want(wire.EROFS, &wire.Rw{Op: wire.OpDelete})
	p.readFails(wire.ENOENT, id, newest)
	p.want(12, &wire.SecReadBmp{Len: 24}, wire.ObjectList(nil).Append(at(id, 1)))
	p.list(r.peering(meta.PG{Pool: 1, Num: 1}))
	p.lock(0, wire.LockAcquire, meta.PG{Pool: 1, Num: 1}, meta.PGActive)
	p.want(wire.EPIPE, &wire.Rw{Op: wire.OpRead, Len: 4096}) // not primary, but not refused either
	p.want(wire.EPIPE, &wire.Rw{Op: wire.OpScrub})
	p.want(0, &wire.Describe{})
	p.want(0, &wire.HeaderOnly{Op: wire.OpPing})
	if !r.s.ShowConfig(nil, wire.ConfigRequest{}).Readonly {
		t.Error("SHOW_CONFIG does not tell")
	}
	r.idle()
}

// primaryStub answers what is handed to it with ERANGE, and remembers it.
type primaryStub []wire.Op

func (p *primaryStub) Serve(r *msgr.Request) {
	*p = append(*p, r.Op())
	r.Fail(wire.ERANGE)
}

func TestPrimaryHook(t *testing.T) {
	r := newRig(t, 1)
	p := r.peer(1)
	p.want(wire.EPIPE, &wire.Rw{Op: wire.OpRead, Len: 4096})
	p.want(wire.EPIPE, &wire.Rw{Op: wire.OpWrite, Len: 4096}, make([]byte, 4096))
	p.want(0, &wire.HeaderOnly{Op: wire.OpSync})
	var stub primaryStub
	r.s.SetPrimary(&stub)
	p.want(wire.ERANGE, &wire.Rw{Op: wire.OpRead, Len: 4096})
	p.want(wire.ERANGE, &wire.Rw{Op: wire.OpWrite, Len: 4096}, make([]byte, 4096))
	p.want(wire.ERANGE, &wire.HeaderOnly{Op: wire.OpSync})
	p.want(wire.ERANGE, &wire.Rw{Op: wire.OpDelete})
	p.want(wire.ERANGE, &wire.Rw{Op: wire.OpScrub})
	p.want(wire.ERANGE, &wire.Describe{})
	q := *r.peering(meta.PG{Pool: 1, Num: 1})
	p.want(0, &q)
	q.Flags = wire.ListPrimary
	p.want(wire.ERANGE, &q)
	want := []wire.Op{wire.OpRead, wire.OpWrite, wire.OpSync, wire.OpDelete, wire.OpScrub, wire.OpDescribe, wire.OpSecList}
	if !slices.Equal(stub, want) {
		t.Errorf("handed over: %v", stub)
	}
	r.idle()
}

// TestSickDisk: EDOM for what does not match its checksum, EIO for what cannot
// be read; neither carries a bitmap, and both tell which one it was.
func TestSickDisk(t *testing.T) {
	r := newRig(t, 1, func(r *rig, _ *sim.DiskConfig) { r.store.CsumBytes = 4096 })
	p := r.peer(1)
	rotten, bad := oid(1, 1, 0), oid(1, 2, 0)
	whole := func(id meta.ObjectID) { p.write(blockBytes, wire.OpSecWriteStable, id, 1, 0, blockBytes, 1, 1) }
	whole(rotten)
	whole(bad)
	data := r.store.Areas.DataOffset
	r.disk.FlipBit(data+4096+100, 3)
	r.disk.MakeUnreadable(data+blockBytes+4096, 4096)
	p.read(rotten, newest, 8192, 4096, 1, 1, pattern(blockBytes, 1)[8192:12288])
	p.want(wire.EDOM, &wire.SecRw{Op: wire.OpSecRead, Chunk: rotten, Version: newest, Len: 8192})
	p.want(wire.EIO, &wire.SecRw{Op: wire.OpSecRead, Chunk: bad, Version: newest, Len: 8192})
	p.read(bad, newest, 0, 4096, 1, 1, pattern(blockBytes, 1)[:4096])
	r.idle()
}

func TestNoSpace(t *testing.T) {
	r := newRig(t, 1, func(r *rig, _ *sim.DiskConfig) { r.store.Areas = areas(blockBytes, 8) })
	p := r.peer(1)
	full := 0
	for i := range uint64(20) {
		q := &wire.SecRw{Op: wire.OpSecWriteStable, Chunk: oid(1, 1, i*blockBytes), Version: 1, Len: 4096}
		op := p.call(q, make([]byte, 4096))
		if op.Retval == wire.ENOSPC {
			full++
			p.readFails(wire.ENOENT, q.Chunk, newest)
		} else if op.Retval != 4096 || full > 0 {
			t.Errorf("write %d: %v after %d ENOSPC", i, op.Retval, full)
		}
	}
	if full < 11 {
		t.Errorf("only %d of 20 writes into 8 blocks failed", full)
	}
	p.want(0, &wire.SecDel{Chunk: oid(1, 1, 0)})
	r.w.RunFor(time.Second)
	p.write(4096, wire.OpSecWriteStable, oid(1, 2, 0), 1, 0, 4096, 1, 1)
	r.idle()
}

func TestRetvals(t *testing.T) {
	for err, want := range map[syscall.Errno]wire.Retval{0: 7, syscall.ENOENT: wire.ENOENT, syscall.EDOM: wire.EDOM, syscall.EIO: wire.EIO,
		syscall.EEXIST: wire.EEXIST, syscall.ENOSPC: wire.ENOSPC, syscall.EBUSY: wire.EBUSY, syscall.EAGAIN: wire.EAGAIN,
		syscall.EINVAL: wire.EINVAL, syscall.ESHUTDOWN: wire.EPIPE} {
		if got := retvalOf(err, 7); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestNewRefusesOtherGeometry(t *testing.T) {
	r := newRig(t, 1)
	for _, f := range []func(c *Config){func(c *Config) { c.BlockBytes *= 2 }, func(c *Config) { c.GranuleBytes = 512 },
		func(c *Config) { c.GranuleBytes = 0 }, func(c *Config) { c.Limits.Running = -1 }} {
		c := r.cfg
		f(&c)
		if _, err := New(r.node.Env(), r.st, r.view, c); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	}
}

// TestClose: what is delayed is executed at once, what comes later gets EPIPE.
func TestClose(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.Recovery.Sleep = time.Hour; c.Limits.Running = 1 }))
	p := r.peer(1)
	var ops []*msgr.Op
	for i := range uint64(5) {
		ops = append(ops, p.begin(&wire.SecRw{Op: wire.OpSecWriteStable, Chunk: oid(1, 1, i*blockBytes), Version: 1, Len: 4096,
			Flags: wire.FlagRecovery}, make([]byte, 4096)))
	}
	r.w.RunFor(time.Second)
	if r.s.delays.count != 5 {
		t.Errorf("%d delayed", r.s.delays.count)
	}
	closed := false
	r.node.Do(func(*env.Env) { r.s.Close(func() { closed = true }) })
	if closed {
		t.Error("closed inside Close")
	}
	if !r.w.RunUntil(func() bool { return closed }, time.Minute) {
		t.Fatal("does not close")
	}
	p.wait(ops...)
	for _, op := range ops {
		if op.Retval != 4096 {
			t.Errorf("%v", op.Retval)
		}
	}
	p.readFails(wire.EPIPE, oid(1, 1, 0), newest)
	r.idle()
	finished := false
	r.node.Do(func(*env.Env) { r.st.Close(func(err error) { finished = err == nil }) })
	if !r.w.RunUntil(func() bool { return finished }, time.Minute) {
		t.Error("the store does not close")
	}
	op := &Op{Op: store.Op{Kind: store.OpSync}, Done: func(*Op) {}}
	r.node.Do(func(*env.Env) {
		r.s.Submit(op)
		func() {
			defer func() {
				if v, ok := recover().(invariant.Violation); !ok || v.Text == "" {
					t.Error("an operation in flight could be submitted again")
				}
			}()
			r.s.Submit(op)
		}()
	})
	r.w.RunFor(time.Second)
	if op.Retval() != wire.EPIPE {
		t.Errorf("operation on a closed store: %v", op.Retval())
	}
}
