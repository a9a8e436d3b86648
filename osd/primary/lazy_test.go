package primary

import (
	"errors"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// unstable counts the unstable versions on all OSDs of a PG.
func (r *rig) unstable(p *rigPG) (n int) {
	r.t.Helper()
	for _, m := range p.members {
		if r.osds[m].up {
			_, u := r.list(r.osds[m], p.id)
			n += len(u)
		}
	}
	return n
}

func autosync(interval time.Duration, writes, recoveries int) func(r *rig) {
	return func(r *rig) {
		r.config = func(c *Config) {
			c.AutosyncInterval, c.AutosyncWrites, c.RecoverySyncBatch = interval, writes, recoveries
		}
	}
}

// TestLazySync: EC writes stay unstable until a SYNC, which names the newest
// version of each object; a SYNC without anything to do is a success.
func TestLazySync(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	u.sync()
	a := pattern(4096, 1)
	u.write(1, 0, a)
	u.write(1, 4096, a)
	u.write(1, 2*testBlock, a)
	if n := r.unstable(p); n != 9 {
		t.Errorf("%d unstable versions after 3 writes", n)
	}
	u.read(1, 4096, a)
	u.sync()
	r.atRest(p)
	pri := r.osds[1].pri
	before := pri.Stats().SubOps[wire.OpSecStabilize].Count
	u.sync()
	if after := pri.Stats().SubOps[wire.OpSecStabilize].Count; after != before || before != 2 {
		t.Errorf("%d, then %d requests to make versions stable; want one for each other OSD", before, after)
	}
	pri.sync.itemsMax = 2
	for i := range uint64(5) {
		u.write(1, i*2*testBlock, a)
	}
	u.sync()
	r.atRest(p)
	if after := pri.Stats().SubOps[wire.OpSecStabilize].Count; after != before+6 {
		t.Errorf("%d requests for 5 objects, 2 in each", after-before)
	}
}

// TestLazyDelete: a deleted object is not named by the next SYNC, whenever the
// delete happens.
func TestLazyDelete(t *testing.T) {
	for _, delay := range []int{-1, 0, 20, 50, 80, 110, 140, 200, 300} {
		r := newRig(t, 1, meta.CommitNone, 3)
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		a := pattern(2*testBlock, 1)
		u.write(1, 0, a)
		u.write(1, 2*testBlock, a)
		if delay < 0 {
			u.want(wire.OK, u.beginDelete(1, 0, 0))
			if l := r.osds[1].pri.pgs[p.id].unstable.list; len(l) != 1 || l[0].Stripe != 2*testBlock {
				t.Errorf("to be made stable after a delete: %v", l)
			}
			u.sync()
		} else {
			s := u.begin(&wire.HeaderOnly{Op: wire.OpSync}, 0)
			r.w.RunFor(time.Duration(delay) * time.Microsecond)
			d := u.beginDelete(1, 0, 0)
			u.want(wire.OK, s)
			u.want(wire.OK, d)
			u.sync()
		}
		u.read(1, 0, make([]byte, 4096))
		u.read(1, 2*testBlock, a)
		r.atRest(p)
	}
}

// TestAutosync: by number of writes, and by time.
func TestAutosync(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 3, autosync(time.Second, 8, 0))
	p := r.pool(1, meta.XOR, 1, 1, 2, 3)
	u := r.user(1)
	a := pattern(4096, 1)
	for i := range uint64(8) {
		u.write(1, i*2*testBlock, a)
	}
	r.w.RunFor(10 * time.Millisecond)
	r.atRest(p)
	u.write(1, 0, a)
	r.w.RunFor(900 * time.Millisecond)
	if r.unstable(p) != 3 {
		t.Error("synced too early")
	}
	r.w.RunFor(200 * time.Millisecond)
	r.atRest(p)
	if n := r.osds[1].pri.Stats().Syncs; n != 2 {
		t.Errorf("%d SYNCs", n)
	}
}

// TestDirtyClients: who has unsynced writes in a PG that stops loses its
// connection; others do not.
func TestDirtyClients(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	r.pool(2, meta.Replicated, 0, 1, 2, 3)
	dirty, synced, other, reader, waits := r.user(1), r.user(1), r.user(1), r.user(1), r.user(1)
	a := pattern(4096, 1)
	synced.write(1, 2*testBlock, a)
	synced.sync()
	dirty.write(1, 0, a)
	other.write(2, 0, a)
	reader.read(1, 0, a)
	r.epochDelay = time.Hour
	r.stop(p)
	r.w.RunFor(time.Second)
	if dirty.lost != 1 || synced.lost+other.lost+reader.lost+waits.lost != 0 {
		t.Errorf("lost: dirty %d, synced %d, other %d, reader %d", dirty.lost, synced.lost, other.lost, reader.lost)
	}
	r.epochDelay = time.Millisecond
	r.peer(p) // flushes
	reader.read(1, 0, a)
	dirty.connected()
	dirty.write(1, 0, a)
	dirty.sync()
	r.atRest(p)
}

// TestWriteDuringStop: a lazy write that ends after Stop is no success: its
// client would not learn that it may be lost.
func TestWriteDuringStop(t *testing.T) {
	late := 0
	for delay := 10; delay < 800; delay += 30 {
		r := newRig(t, uint64(delay), meta.CommitNone, 3)
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		u.write(1, 2*testBlock, pattern(4096, 2))
		u.sync()
		c := u.beginWrite(1, 0, pattern(2*testBlock, 1), 0)
		r.w.RunFor(time.Duration(delay) * time.Microsecond)
		ended := c.done
		for o := r.osds[1].pri.pgs[p.id].head; o != nil; o = o.pgNext {
			if o.phase == phaseWriting {
				late++
			}
		}
		r.stop(p)
		u.wait(c)
		if !ended && !c.Retval.Failed() && u.lost == 0 {
			r.w.RunFor(time.Second)
			if u.lost == 0 {
				t.Errorf("stopped after %d us: the write was a success, the connection lives", delay)
			}
		}
	}
	if late < 3 {
		t.Errorf("only %d times a write was under way", late)
	}
}

// TestLazyMove: old copies are deleted only by a SYNC, after the new ones are
// durable; the PG is misplaced until then, and two SYNCs come by themselves.
func TestLazyMove(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		r := newRig(t, 1, meta.CommitNone, 4, autosync(time.Hour, 0, 0))
		parity := 0
		if scheme == meta.EC {
			parity = 1
		}
		p := r.pool(1, scheme, parity, 1, 2, 3)
		u := r.user(1)
		size := r.pools[1].ObjectBytes()
		a := pattern(int(size), 1)
		u.write(1, 0, a)
		u.write(1, size, a)
		u.sync()
		r.stop(p)
		p.set = []meta.OSDNum{1, 2, 4}
		r.peer(p)
		objects := r.osds[1].pri.Objects(p.id)
		if objects.Flags()&(meta.PGHasMisplaced|meta.PGHasDegraded) == 0 {
			t.Fatalf("flags %v", objects.Flags())
		}
		syncs := r.osds[1].pri.Stats().Syncs
		done := 0
		o := r.osds[1]
		for i := range uint64(2) {
			q := &Recovery{PG: p.id, OID: meta.ObjectID{Inode: inode(1), Stripe: i * size}, Done: func(q *Recovery) { done++ }}
			o.node.Do(func(*env.Env) { o.pri.Recover(q) })
			r.w.RunUntil(func() bool { return done == int(i)+1 }, time.Minute)
			stable, _ := r.list(r.osds[3], p.id)
			if i == 0 && len(stable) != 2 {
				t.Errorf("%v: old copies are gone before the SYNC", scheme)
			}
		}
		r.w.RunFor(50 * time.Millisecond)
		if n := r.osds[1].pri.Stats().Syncs - syncs; n != 2 {
			t.Errorf("%v: %d SYNCs, want 2", scheme, n)
		}
		r.noExtraCopies(t, p)
		if p.flags != 0 {
			t.Errorf("%v: flags %v", scheme, p.flags)
		}
		u.read(1, 0, a)
		r.atRest(p)
		if s := r.osds[1].pri.Stats(); s.Misplaced.Count+s.Degraded.Count != 2 {
			t.Errorf("%v: statistics %+v %+v", scheme, s.Misplaced, s.Degraded)
		}
	}
}

// TestCommitSmall: small writes are stable at once and take older unstable ones
// along, whole chunks wait for a SYNC.
func TestCommitSmall(t *testing.T) {
	r := newRig(t, 1, meta.CommitSmall, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	a := pattern(2*testBlock, 1)
	u.write(1, 0, a[:4096])
	r.atRest(p)
	u.write(1, 0, a)
	if r.unstable(p) != 3 {
		t.Error("a full stripe was not lazy")
	}
	for i := range 60 {
		copy(a[i*4096/2/4096*4096:], pattern(4096, uint64(i)))
		u.write(1, uint64(i*4096/2/4096*4096), pattern(4096, uint64(i)))
	}
	r.atRest(p)
	before := r.osds[1].pri.Stats().SubOps[wire.OpSecStabilize].Count
	u.sync()
	if n := r.osds[1].pri.Stats().SubOps[wire.OpSecStabilize].Count; n != before {
		t.Error("the SYNC named a version that was made stable before")
	}
	u.read(1, 0, a)
	r.atRest(p)
}

// TestSyncFails: what a failed SYNC had taken over is not forgotten.
func TestSyncFails(t *testing.T) {
	for delay := 10; delay < 250; delay += 20 {
		r := newRig(t, uint64(delay), meta.CommitNone, 4)
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		p2 := r.pool(2, meta.EC, 1, 1, 3, 4)
		u := r.user(1)
		a := pattern(4096, 1)
		u.write(1, 0, a)
		u.write(2, 0, a)
		s := u.begin(&wire.HeaderOnly{Op: wire.OpSync}, 0)
		r.w.RunFor(time.Duration(delay) * time.Microsecond)
		r.w.Net().Reset(r.osds[1].node, r.osds[2].node)
		u.wait(s) // the PG stops, so that the connection may be lost before
		r.w.RunFor(time.Millisecond)
		r.connectAll()
		r.peer(p)
		u.connected()
		u.sync()
		r.atRest(p)
		r.atRest(p2)
		u.read(1, 0, a)
		u.read(2, 0, a)
	}
}

// TestSyncBesideLoss: between the loss of a connection and the stop of the PG a
// SYNC must not succeed without that OSD.
func TestSyncBesideLoss(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 3)
	p := r.pool(1, meta.Replicated, 0, 1, 2, 3)
	u, o := r.user(1), r.osds[1]
	u.write(1, 0, pattern(4096, 1))
	ret, done := wire.OK, false
	o.node.Do(func(*env.Env) {
		o.m.Conn(2).Drop(errors.New("test"))
		o.pri.Sync(func(x wire.Retval) { ret, done = x, true })
		o.pri.sync.begin() // as the SYNC of a client that arrives now
	})
	r.w.RunFor(time.Second)
	if !done || ret != wire.EPIPE {
		t.Errorf("SYNC without a member: done %v, %v", done, ret)
	}
	r.connectAll()
	r.peer(p)
	u.connected()
	u.read(1, 0, pattern(4096, 1))
}
