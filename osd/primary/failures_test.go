package primary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// direct executes an operation on the store of an OSD, behind everybody's back.
func (r *rig) direct(num meta.OSDNum, op store.Op) {
	r.t.Helper()
	done := false
	q := &secondary.Op{Op: op, Done: func(*secondary.Op) { done = true }}
	r.osds[num].node.Do(func(*env.Env) { r.osds[num].sec.Submit(q) })
	if !r.w.RunUntil(func() bool { return done }, time.Minute) || q.Err != 0 {
		r.t.Fatalf("direct operation on OSD %d: %v", num, q.Err)
	}
}

func smallDisk(num meta.OSDNum, blocks int64) func(r *rig) {
	return func(r *rig) { r.blocks = map[meta.OSDNum]int64{num: blocks} }
}

// fill writes objects until one does not fit any more, and returns its offset.
func (u *user) fill(pool meta.PoolID) (offset uint64) {
	u.t.Helper()
	size := u.r.pools[pool].ObjectBytes()
	for ; offset < 64*size; offset += size {
		c := u.beginWrite(pool, offset, pattern(int(size), offset), 0)
		if u.wait(c); c.Retval == wire.ENOSPC {
			return offset
		} else if c.Retval.Failed() {
			u.t.Fatalf("filling: %v", c.Retval)
		}
	}
	u.t.Fatal("the disk is never full")
	return 0
}

// TestNoSpaceEC: a write that one OSD has no room for is taken back everywhere,
// and so are the writes behind it.
func TestNoSpaceEC(t *testing.T) {
	for _, full := range []meta.OSDNum{1, 2, 3} { // 1 is the primary
		r := newRig(t, 1, meta.CommitAll, 3, smallDisk(full, 6))
		p := r.pool(1, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		size := r.pools[1].ObjectBytes()
		at := u.fill(1)
		data := pattern(8192, 5)
		first, second := u.beginWrite(1, at, data, 0), u.beginWrite(1, at+8192, data, 0)
		u.want(wire.ENOSPC, first)
		u.want(wire.ENOSPC, second)
		u.read(1, at, make([]byte, size))
		u.read(1, at-size, pattern(int(size), at-size))
		r.atRest(p)
		if p.needed == 0 || p.stopping || len(p.members) != 3 || !p.running {
			t.Errorf("OSD %d full: the PG stopped", full)
		}
		u.want(wire.OK, u.beginDelete(1, 0, 0))
		u.write(1, at, data)
		r.atRest(p)
	}
}

// TestNoSpaceReplicas: replicas that miss a write are known to be outdated, are
// not read, and are brought up to date when there is room.
func TestNoSpaceReplicas(t *testing.T) {
	for _, full := range []meta.OSDNum{1, 3} {
		r := newRig(t, 1, meta.CommitAll, 3, smallDisk(full, 6))
		p := r.pool(1, meta.Replicated, 0, 1, 2, 3)
		u := r.user(1)
		at := u.fill(1)
		written := pattern(testBlock, at)
		u.read(1, at, written) // the others have it
		if p.flags&meta.PGHasDegraded == 0 {
			r.w.RunFor(time.Millisecond)
		}
		if p.flags&meta.PGHasDegraded == 0 {
			t.Errorf("OSD %d full: flags %v", full, p.flags)
		}
		// An overwrite that fails in part again.
		part := pattern(4096, 77)
		u.want(wire.ENOSPC, u.beginWrite(1, at+4096, part, 0))
		copy(written[4096:], part)
		u.read(1, at, written)
		u.want(wire.OK, u.beginDelete(1, 0, 0))
		r.recoverAll(p)
		r.atRest(p)
		u.read(1, at, written)
	}
}

// TestUnexpectedAnswer: an OSD that answers what it must not is dropped, the
// client gets EPIPE, and after peering everything goes on.
func TestUnexpectedAnswer(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		r := newRig(t, 1, meta.CommitAll, 3)
		parity := 0
		if scheme == meta.EC {
			parity = 1
		}
		p := r.pool(1, scheme, parity, 1, 2, 3)
		u := r.user(1)
		a := pattern(4096, 1)
		v := u.write(1, 0, a)
		id := meta.ObjectID{Inode: inode(1)}
		kind := store.OpWriteStable
		if scheme == meta.EC {
			kind, id = store.OpWrite, id.WithRole(1)
		}
		r.direct(2, store.Op{Kind: kind, OID: id, Version: v + 5, Bitmap: make([]byte, testBitmap)})
		size := int(r.pools[1].ObjectBytes())
		u.want(wire.EPIPE, u.beginWrite(1, 0, pattern(size, 3), 0)) // nothing is read before
		r.w.RunFor(time.Millisecond)
		if !p.stopping {
			t.Errorf("%v: the PG goes on", scheme)
		}
		u.want(wire.EPIPE, u.beginRead(1, 0, 4096))
		r.connectAll()
		r.peer(p)
		r.recoverAll(p)
		u.write(1, 8192, a)
		u.read(1, 8192, a)
		r.atRest(p)
	}
}

// TestVersionsDiffer: chunks of different versions are not mixed (ERANGE).
func TestVersionsDiffer(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	a := pattern(2*testBlock, 1)
	v := u.write(1, 0, a)
	id := meta.ObjectID{Inode: inode(1)}.WithRole(1)
	r.direct(2, store.Op{Kind: store.OpWrite, OID: id, Version: v + 1, Bitmap: make([]byte, testBitmap)})
	u.want(wire.ERANGE, u.beginRead(1, 0, 2*testBlock))
	u.want(wire.ERANGE, u.beginWrite(1, 0, a[:4096], 0))
	u.read(1, 0, a[:testBlock])
	r.idle()
}

// TestMissingChunk: a chunk that is not where it should be is rebuilt, not taken
// for zeroes.
func TestMissingChunk(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	a := pattern(2*testBlock, 1)
	v := u.write(1, 0, a)
	r.direct(2, store.Op{Kind: store.OpDelete, OID: meta.ObjectID{Inode: inode(1)}.WithRole(1), Version: v + 1})
	u.read(1, 0, a)
	if n := r.osds[1].pri.Objects(p.id).Counts(); n.Degraded != 1 {
		t.Errorf("counts %+v", n)
	}
	b := pattern(4096, 2)
	copy(a[testBlock+4096:], b)
	u.write(1, testBlock+4096, b)
	u.read(1, 0, a)
	r.recoverAll(p)
	r.atRest(p)
}

// TestDamage: an unreadable chunk is marked, read around and repaired.
func TestDamage(t *testing.T) {
	for _, c := range []struct {
		scheme meta.Scheme
		parity int
		bad    meta.OSDNum
	}{{meta.Replicated, 0, 1}, {meta.EC, 1, 1}, {meta.EC, 1, 2}} {
		r := newRig(t, 1, meta.CommitAll, 3)
		p := r.pool(1, c.scheme, c.parity, 1, 2, 3)
		u := r.user(1)
		size := int(r.pools[1].ObjectBytes())
		a := pattern(size, 1)
		u.write(1, 0, a)
		areas := r.areas(c.bad)
		r.osds[c.bad].disk.MakeUnreadable(areas.DataOffset, areas.DataLen)
		u.read(1, 0, a)
		if n := r.osds[1].pri.Objects(p.id).Counts(); n.Corrupted != 1 || n.Degraded != 1 {
			t.Errorf("%+v: counts %+v", c, n)
		}
		b := pattern(4096, 2)
		copy(a[4096:], b)
		u.write(1, 4096, b) // repairs, too
		u.read(1, 0, a)
		r.recoverAll(p)
		r.atRest(p)
	}
}

// TestDamageBesideWrite: what a read finds damaged while a write is under way
// stays damaged if the write did not replace all of it.
func TestDamageBesideWrite(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	p := r.pool(1, meta.Replicated, 0, 1, 2, 3)
	u := r.user(1)
	a := pattern(testBlock, 1)
	u.write(1, 0, a)
	areas := r.areas(1)
	r.osds[1].disk.MakeUnreadable(areas.DataOffset, areas.DataLen)
	r.osds[3].node.Pause()
	b := pattern(4096, 2)
	w := u.beginWrite(1, 0, b, 0)
	copy(a, b)
	r.w.RunFor(100 * time.Millisecond)
	q := u.beginRead(1, 0x10000, 4096) // from another one, where the write is done: it waits
	r.w.RunFor(100 * time.Millisecond)
	if n := r.osds[1].pri.Objects(p.id).Counts(); n.Corrupted != 1 || w.done {
		t.Errorf("counts %+v during the write", n)
	}
	r.osds[3].node.Resume()
	u.want(4096, w)
	u.want(4096, q)
	if n := r.osds[1].pri.Objects(p.id).Counts(); n.Corrupted != 1 {
		t.Errorf("counts %+v", n)
	}
	u.read(1, 0, a)
	r.recoverAll(p)
	r.atRest(p)
	u.read(1, 0, a)
}

// TestDamageEverywhere: when no good copy is left the error reaches the client.
func TestDamageEverywhere(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	r.pool(1, meta.Replicated, 0, 1, 2)
	u := r.user(1)
	a := pattern(testBlock, 1)
	u.write(1, 0, a)
	for num := range r.osds {
		areas := r.areas(num)
		r.osds[num].disk.MakeUnreadable(areas.DataOffset, areas.DataLen)
	}
	u.want(wire.EIO, u.beginRead(1, 0, 4096))
	u.want(wire.EIO, u.beginWrite(1, 0, a[:4096], 0))
	u.write(1, 0, a) // the whole block: nothing has to be read
	u.read(1, 0, a)
	r.idle()
}

// TestLostConnection: writes in flight to an OSD that is gone fail with EPIPE;
// the PG is drained, and reads afterwards return one of both versions.
func TestLostConnection(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		for delay := 20; delay < 400; delay += 35 {
			r := newRig(t, uint64(delay), meta.CommitAll, 3)
			parity := 0
			if scheme == meta.EC {
				parity = 1
			}
			p := r.pool(1, scheme, parity, 1, 2, 3)
			u := r.user(1)
			size := int(r.pools[1].ObjectBytes())
			a, b := pattern(size, 1), pattern(size, 2)
			u.write(1, 0, a)
			c := u.beginWrite(1, 0, b, 0)
			r.w.RunFor(time.Duration(delay) * time.Microsecond)
			r.w.Net().Reset(r.osds[1].node, r.osds[2].node)
			u.wait(c)
			r.w.RunFor(time.Millisecond)
			r.connectAll()
			r.peer(p)
			got := u.want(wire.Retval(size), u.beginRead(1, 0, size))
			if want := a; !c.Retval.Failed() || got.data[0] == b[0] && got.data[5] == b[5] {
				want = b
				if d := differ(got.data, want); d != "equal" {
					t.Errorf("%v: write %v: %s", scheme, c.Retval, d)
				}
			} else if d := differ(got.data, want); d != "equal" {
				t.Errorf("%v: write %v: %s", scheme, c.Retval, d)
			}
			r.recoverAll(p)
			r.atRest(p)
		}
	}
}

// TestLease: without a certain lease clients get EPIPE, for every operation.
func TestLease(t *testing.T) {
	r := newRig(t, 1, meta.CommitNone, 2)
	r.pool(1, meta.Replicated, 0, 1, 2)
	u := r.user(1)
	u.write(1, 0, pattern(4096, 1))
	r.osds[1].lease = false
	for _, c := range []*call{u.beginRead(1, 0, 4096), u.beginWrite(1, 0, pattern(4096, 1), 0), u.beginDelete(1, 0, 0),
		u.begin(&wire.HeaderOnly{Op: wire.OpSync}, 0)} {
		u.want(wire.EPIPE, c)
	}
	r.osds[1].lease = true
	u.read(1, 0, pattern(4096, 1))
}

// TestEpochs: a write waits until its epoch is recorded, reads do not, and Stop
// ends the waiting.
func TestEpochs(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	p := r.pool(1, meta.Replicated, 0, 1, 2)
	u := r.user(1)
	r.noEpochs = true
	a := pattern(4096, 1)
	w := [3]*call{u.beginWrite(1, 0, a, 0), u.beginWrite(1, 0, a, 0), u.beginWrite(1, testBlock, a, 0)}
	r.w.RunFor(time.Second)
	u.read(1, 0, make([]byte, 4096))
	if w[0].done || w[1].done || w[2].done || p.needed != 1 {
		t.Fatalf("writes without epoch; %d requests for it", p.needed)
	}
	r.osds[1].node.Do(func(*env.Env) { r.osds[1].pri.EpochRecorded(p.id, p.maxEpoch) })
	u.wait(w[:]...)
	if v := w[1].version(); v != meta.MakeVersion(p.maxEpoch, 2) {
		t.Errorf("version %v", v)
	}
	r.peer(p)
	w = [3]*call{u.beginWrite(1, 0, a, 0), u.beginWrite(1, 0, a, 0), u.beginWrite(1, testBlock, a, 0)}
	r.w.RunFor(time.Second)
	r.stop(p)
	for _, c := range w {
		u.want(wire.EPIPE, c)
	}
	r.idle()
}
