package secondary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

const pause = 50 * time.Millisecond

func withPause(c *Config) { c.Recovery.Sleep = pause }

// took is how long a request took.
func (p *peer) took(ret wire.Retval, q wire.Message, payload ...[]byte) time.Duration {
	p.t.Helper()
	begin := p.r.w.Now()
	p.want(ret, q, payload...)
	return p.r.w.Now() - begin
}

// TestDelayTable: which operations are delayed, and where (wire.md §13).
func TestDelayTable(t *testing.T) {
	r := newRig(t, 1, withConfig(withPause))
	p := r.peer(1)
	const rec = wire.FlagRecovery
	id := oid(2, 1, 0)
	items := wire.ObjectList(nil).Append(at(id, 1))
	data := make([]byte, 4096)
	for i, c := range []struct {
		delayed bool
		ret     wire.Retval
		q       wire.Message
		payload []byte
	}{
		{false, 4096, &wire.SecRw{Op: wire.OpSecWrite, Chunk: id, Version: 1, Len: 4096}, data},
		{true, 4096, &wire.SecRw{Op: wire.OpSecWrite, Chunk: id, Version: 2, Len: 4096, Flags: rec}, data},
		{true, 4096, &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Len: 4096, Flags: rec}, nil},
		{false, 4096, &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Len: 4096}, nil},
		{true, 12, &wire.SecReadBmp{Len: 24, Flags: rec}, items},
		{true, 0, &wire.SecStab{Op: wire.OpSecRollback, Len: 24, Flags: rec}, items},
		{true, 0, &wire.SecStab{Op: wire.OpSecStabilize, Len: 24, Flags: rec}, items},
		{false, 0, &wire.SecStab{Op: wire.OpSecStabilize, Len: 24}, items},
		{true, 4096, &wire.SecRw{Op: wire.OpSecWriteStable, Chunk: id, Version: 2, Len: 4096, Flags: rec | wire.FlagIgnorePGLock}, data},
		{false, 0, &wire.SecSync{Flags: rec}, nil},
		{true, 0, &wire.SecDel{Chunk: id, Version: 9, Flags: rec}, nil},
		{false, 0, &wire.SecDel{Chunk: id, Version: 9}, nil},
		{true, wire.ENOENT, &wire.SecStab{Op: wire.OpSecStabilize, Len: 24, Flags: rec}, wire.ObjectList(nil).Append(at(oid(2, 5, 0), 1))},
		{false, 0, r.peering(meta.PG{Pool: 2, Num: 1}), nil},
	} {
		if d := p.took(c.ret, c.q, c.payload); (d >= pause) != c.delayed || d > pause+10*time.Millisecond {
			t.Errorf("row %d %T: took %v", i, c.q, d)
		}
	}
	st := r.s.Stats()
	if st.Delayed != 8 || st.DelayNanos != uint64(8*pause) {
		t.Errorf("%d delayed, %d ns", st.Delayed, st.DelayNanos)
	}
	if n := st.Recovery[wire.OpSecWrite]; n.Count != 1 || n.Bytes != 4096 || n.Nanos == 0 || n.Nanos > uint64(pause) {
		t.Errorf("recovery writes: %+v", n)
	}
	if n := st.Ops[wire.OpSecWrite]; n.Count != 2 || n.Bytes != 8192 {
		t.Errorf("writes: %+v", n)
	}
	r.idle()
}

// A STABILIZE is done before its delay, others after it.
func TestDelayOrder(t *testing.T) {
	r := newRig(t, 1, withConfig(withPause))
	p := r.peer(1)
	id := oid(2, 1, 0)
	p.write(4096, wire.OpSecWrite, id, 1, 0, 4096, 1, 1)
	stable := func() bool {
		s, _ := p.list(r.peering(meta.PG{Pool: 2, Num: 1}))
		return len(s) == 1
	}
	l := wire.ObjectList(nil).Append(at(id, 1))
	op := p.begin(&wire.SecStab{Op: wire.OpSecStabilize, Len: 24, Flags: wire.FlagRecovery}, l)
	r.w.RunFor(pause / 2)
	if done(op) || !stable() {
		t.Errorf("replied %v, stable %v", done(op), stable())
	}
	n := 0
	r.s.SlowOps(pause/4, func(o SlowOp) {
		n++
		if o.Code != wire.OpSecStabilize || o.Conn.OSD() != 1 || o.State != "delayed after execution" {
			t.Errorf("slow: %+v", o)
		}
	})
	if n != 1 || r.s.SlowOps(time.Second, func(SlowOp) {}) != 0 {
		t.Errorf("%d slow operations", n)
	}
	p.wait(op)
	r.idle()
}

// TestListingShowsWhatWasDelayed: a listing waits for no delay, and misses
// nothing that was received before it.
func TestListingShowsWhatWasDelayed(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.Recovery.Sleep = time.Hour; c.Limits.Running = 2 }))
	p, q := r.peer(1), r.peer(3)
	var ops []*msgr.Op
	for i := range uint64(10) {
		ops = append(ops, p.begin(&wire.SecRw{Op: wire.OpSecWrite, Chunk: oid(2, i, 0), Version: 1, Len: 4096, Flags: wire.FlagRecovery}, make([]byte, 4096)))
	}
	r.w.RunFor(time.Second)
	if s, u := q.list(r.peering(meta.PG{Pool: 2, Num: 1})); len(s) != 0 || len(u) != 10 {
		t.Errorf("listed %v %v", s, u)
	}
	p.wait(ops...)
	p.list(r.peering(meta.PG{Pool: 2, Num: 1})) // q has fenced it
	// So does one of our own primary.
	op := p.begin(&wire.SecDel{Chunk: oid(2, 1, 0), Version: 2, Flags: wire.FlagRecovery})
	r.w.RunFor(time.Second)
	l := &store.List{Pool: 2, PG: 1, PGCount: 1, PGStripeBytes: 2 * blockBytes, Min: oid(2, 0, 0), Max: oid(2, meta.MaxInodeNumber, 0)}
	listed := false
	own := &Op{Op: store.Op{Kind: store.OpList, List: l}, Done: func(*Op) { listed = true }}
	r.node.Do(func(*env.Env) { r.s.Submit(own) })
	if !r.w.RunUntil(func() bool { return listed }, time.Minute) || len(l.Unstable) != 9 {
		t.Errorf("own listing: %v %v", listed, l.Unstable)
	}
	p.wait(op)
	r.idle()
}

// TestLostWhileDelayed: nothing is executed for a connection that is gone.
func TestLostWhileDelayed(t *testing.T) {
	r := newRig(t, 1, withConfig(withPause))
	p, q := r.peer(1), r.peer(3)
	op := p.begin(&wire.SecRw{Op: wire.OpSecWrite, Chunk: oid(2, 1, 0), Version: 1, Len: 4096, Flags: wire.FlagRecovery}, make([]byte, 4096))
	r.w.RunFor(pause / 2)
	r.w.Net().Reset(p.node, r.node)
	p.wait(op)
	if !op.Lost {
		t.Error("not lost")
	}
	if _, u := q.list(r.peering(meta.PG{Pool: 2, Num: 1})); len(u) != 0 {
		t.Errorf("executed: %v", u)
	}
	r.w.RunFor(time.Second)
	if _, u := q.list(r.peering(meta.PG{Pool: 2, Num: 1})); len(u) != 0 {
		t.Errorf("executed later: %v", u)
	}
	if n := r.s.Stats().Ops[wire.OpSecWrite].Count; n != 0 {
		t.Errorf("%d writes counted", n)
	}
	r.idle()
}

// TestOwnOperations: our own primary takes the same way, delays included, but
// needs no lock.
func TestOwnOperations(t *testing.T) {
	r := newRig(t, 1, withConfig(withPause))
	r.view.primary[meta.PG{Pool: 3, Num: 1}] = true
	p := r.peer(1)
	buf := pool(t)
	finished := 0
	op := &Op{Done: func(*Op) { finished++ }}
	run := func(f func()) (time.Duration, wire.Retval) {
		before, begin := finished, r.w.Now()
		f()
		r.node.Do(func(*env.Env) {
			r.s.Submit(op)
			if finished != before {
				t.Error("done inside Submit")
			}
		})
		r.w.RunUntil(func() bool { return finished > before }, time.Minute)
		return r.w.Now() - begin, op.Retval()
	}
	id := oid(3, 1, 0)
	copy(buf, pattern(4096, 3))
	if d, ret := run(func() {
		op.Kind, op.OID, op.Version, op.Len, op.Buf, op.Bitmap = store.OpWriteStable, id, 1, 4096, buf, []byte{1, 0, 0, 0}
	}); ret != 4096 || d >= pause {
		t.Errorf("write: %v in %v", ret, d)
	}
	clear(buf)
	if d, ret := run(func() { op.Kind, op.Version, op.Recovery = store.OpRead, newest, true }); ret != 4096 || d < pause || buf[77] != pattern(4096, 3)[77] {
		t.Errorf("read: %v in %v", ret, d)
	}
	if d, ret := run(func() { op.Kind, op.Items = store.OpStabilize, []meta.ObjectVersion{at(id, 1)} }); ret != 0 || d < pause {
		t.Errorf("stabilize: %v in %v", ret, d)
	}
	if _, ret := run(func() { op.Kind, op.Recovery = store.OpRead, false; op.OID = oid(3, 9, 0) }); ret != wire.ENOENT {
		t.Errorf("read of nothing: %v", ret)
	}
	p.readFails(wire.EPIPE, id, newest) // others are refused
	st := r.s.Stats()
	if st.Ops[wire.OpSecRead].Count != 2 || st.Recovery[wire.OpSecRead].Count != 1 || st.Ops[wire.OpSecWriteStable].Bytes != 4096 {
		t.Errorf("statistics: %+v", st)
	}
	r.idle()
}

// TestTuning: with clients that keep the disk busy recovery is slowed down,
// without them it runs freely again.
func TestTuning(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.Recovery = tuned() }), func(_ *rig, d *sim.DiskConfig) {
		d.Timing.ReadLatency = 10 * time.Millisecond
	})
	p := r.peer(1)
	until := func(d time.Duration, flags ...wire.SecFlags) {
		running := make([]*msgr.Op, len(flags))
		for end := r.w.Now() + d; r.w.Now() < end; r.w.RunFor(time.Millisecond) {
			for i, op := range running {
				if op == nil || done(op) {
					running[i] = p.begin(&wire.SecRw{Op: wire.OpSecRead, Chunk: oid(1, 1, 0), Version: newest, Len: 4096, Flags: flags[i]})
				}
			}
		}
		p.wait(running...)
	}
	const rec = wire.FlagRecovery
	p.write(65536, wire.OpSecWriteStable, oid(1, 1, 0), 1, 0, 65536, 1, 1)
	until(2*time.Second+100*time.Millisecond, rec)
	if d := r.s.RecoveryPause(); d != 0 {
		t.Errorf("recovery waits %v without clients", d)
	}
	until(5*time.Second, 0, 0, rec, rec)
	if d := r.s.RecoveryPause(); d < time.Millisecond || d > time.Second {
		t.Errorf("recovery waits %v beside clients", d)
	}
	r.node.Do(func(*env.Env) { r.s.SetRecovery(r.s.delays.config) }) // nothing changed
	if r.s.RecoveryPause() == 0 {
		t.Error("a reload of the same options forgot the delay")
	}
	until(12*time.Second, rec)
	if d := r.s.RecoveryPause(); d != 0 {
		t.Errorf("recovery waits %v after the clients", d)
	}
	r.node.Do(func(*env.Env) { c := tuned(); c.TuneInterval, c.Sleep = 0, pause; r.s.SetRecovery(c) })
	if d := r.s.RecoveryPause(); d != pause {
		t.Errorf("fixed delay is %v", d)
	}
	r.idle()
}
