package secondary

import (
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema/option"
	"vitastor/internal/wire"
)

// TestLockRequests has a row for each row of the table in wire.md §8, and for
// what surrounds them.
func TestLockRequests(t *testing.T) {
	a, b, a2 := Owner{&msgr.Conn{}, 1}, Owner{&msgr.Conn{}, 3}, Owner{&msgr.Conn{}, 1}
	pool := &Pool{PGCount: 2}
	var l Locks
	for i, c := range []struct {
		name    string
		flags   uint64
		pg      uint64
		state   meta.PGState
		from    Owner
		pool    *Pool
		primary meta.OSDNum
		want    wire.Retval
		cur     meta.OSDNum
		held    Owner // afterwards, of PG 1
	}{
		{"pool unknown", 1, 1, 2, a, nil, 0, wire.ENOENT, 0, Owner{}},
		{"PG unknown", 1, 3, 2, a, pool, 0, wire.ENOENT, 0, Owner{}},
		{"unlock nothing", 2, 1, 0, a, pool, 0, 0, 0, Owner{}},
		{"unlock in an unknown pool", 2, 1, 0, a, nil, 0, 0, 0, Owner{}},
		{"we are primary", 1, 1, 2, a, pool, us, wire.EBUSY, us, Owner{}},
		{"lock", 1, 1, meta.PGPeering, a, pool, 0, 0, 0, a},
		{"new state of the same owner", 1, 1, meta.PGActive, a, pool, 0, 0, 0, a},
		{"locked by another OSD", 1, 1, 2, b, pool, 0, wire.EBUSY, 1, a},
		{"another PG", 1, 2, 2, b, pool, 0, 0, 0, a},
		{"unlock of another one's", 2, 1, 0, b, pool, 0, 0, 0, a},
		{"we became primary", 1, 1, 2, a, pool, us, wire.EBUSY, us, a},
		{"the same OSD, reconnected", 1, 1, 2, a2, pool, 0, 0, 0, a2},
		{"unlock by its former connection", 2, 1, 0, a, pool, 0, 0, 0, a2},
		{"unlock", 2, 1, 0, a2, pool, 0, 0, 0, Owner{}},
		{"lock by another OSD then", 1, 1, 2, b, pool, 0, 0, 0, b},
	} {
		got, cur := l.Request(&wire.SecLock{Flags: c.flags, Pool: 7, PG: c.pg, PGState: uint64(c.state)}, c.from, c.pool, c.primary)
		if got != c.want || cur != c.cur {
			t.Errorf("%d %s: %v, primary %d", i, c.name, got, cur)
		}
		for _, o := range []Owner{a, b, a2} {
			if l.Holds(meta.PG{Pool: 7, Num: 1}, o) != (o == c.held) {
				t.Errorf("%d %s: held by %v: %v", i, c.name, o.OSD, o != c.held)
			}
		}
	}
	if l.Len() != 2 {
		t.Errorf("%d locks", l.Len())
	}
	l.Disconnected(a.Conn)
	if l.Len() != 2 {
		t.Error("a connection without locks took some with it")
	}
	l.Disconnected(b.Conn)
	if l.Len() != 0 {
		t.Errorf("%d locks are left of a lost connection", l.Len())
	}
}

// A connection that announces another number does not keep the locks.
func TestLockOwnerChangesNumber(t *testing.T) {
	var l Locks
	c := &msgr.Conn{}
	l.Request(&wire.SecLock{Flags: 1, Pool: 1, PG: 1}, Owner{c, 1}, &Pool{PGCount: 1}, 0)
	if l.Holds(meta.PG{Pool: 1, Num: 1}, Owner{c, 4}) || l.Holds(meta.PG{Pool: 1, Num: 1}, Owner{c, 0}) {
		t.Error("locked by number 1, held by another one")
	}
}

func TestEnforcementOrder(t *testing.T) {
	const ignore = wire.FlagIgnorePGLock
	ec, rep, near := &Pool{}, &Pool{Replicated: true}, &Pool{Replicated: true, LocalReads: true}
	for i, c := range []struct {
		ready bool
		pool  *Pool
		mode  option.Tristate
		flags wire.SecFlags
		want  verdict
	}{
		{false, ec, option.Auto, 0, refused}, // rule 1 is before all others
		{false, near, option.On, ignore, refused},
		{false, near, option.Off, 0, refused},
		{true, ec, option.Off, 0, allowed}, // rule 2
		{true, near, option.Off, 0, allowed},
		{true, near, option.On, ignore, allowed},
		{true, near, option.Auto, ignore | wire.FlagRecovery, allowed},
		{true, ec, option.Auto, 0, allowed}, // rule 3
		{true, rep, option.Auto, 0, allowed},
		{true, &Pool{LocalReads: true}, option.Auto, 0, allowed},
		{true, near, option.Auto, 0, byHolder}, // rules 4 and 5
		{true, near, option.Auto, wire.FlagRecovery, byHolder},
		{true, near, option.On, 0, byHolder},
		{true, rep, option.On, 0, byHolder},
		{true, ec, option.On, wire.FlagRecovery, byHolder},
	} {
		if got := enforce(c.ready, c.pool, c.mode, c.flags); got != c.want {
			t.Errorf("row %d: %v, want %v", i, got, c.want)
		}
	}
}

func TestLocalReadsTable(t *testing.T) {
	pg, c := meta.PG{Pool: 3, Num: 1}, Owner{&msgr.Conn{}, 1}
	for _, x := range []struct {
		state   meta.PGState
		primary bool
		want    bool
	}{
		{meta.PGActive, false, true},
		{meta.PGActive | meta.PGLeftOnDead, false, true},
		{meta.PGActive, true, false},
		{meta.PGPeering, false, false},
		{meta.PGActive | meta.PGDegraded, false, false},
		{meta.PGActive | meta.PGHasMisplaced, false, false},
		{meta.PGActive | meta.PGLeftOnDead | meta.PGHasUnclean, false, false},
		{0, false, false},
	} {
		var l Locks
		l.Request(&wire.SecLock{Flags: 1, Pool: 3, PG: 1, PGState: uint64(x.state)}, c, &Pool{PGCount: 1}, 0)
		if got := l.LocalReads(pg, x.primary); got != x.want {
			t.Errorf("%v, primary %v: %v", x.state, x.primary, got)
		}
	}
	if (&Locks{}).LocalReads(pg, false) {
		t.Error("without a lock")
	}
}

// TestLocksOnTheNetwork: every operation is refused without the lock, where one
// is needed, and nothing of it is done.
func TestLocksOnTheNetwork(t *testing.T) {
	r := newRig(t, 1)
	p, q := r.peer(1), r.peer(3)
	pg := meta.PG{Pool: 3, Num: 1}
	id := oid(3, 1, 0)
	each := func(p *peer, fails bool) {
		t.Helper()
		ret := func(ok wire.Retval) wire.Retval {
			if fails {
				return wire.EPIPE
			}
			return ok
		}
		items := wire.ObjectList(nil).Append(at(id, 1))
		p.write(ret(4096), wire.OpSecWrite, id, 1, 0, 4096, 1, 1)
		p.want(ret(0), &wire.SecStab{Op: wire.OpSecStabilize, Len: 24}, items)
		p.want(ret(0), &wire.SecStab{Op: wire.OpSecRollback, Len: 24}, items)
		p.want(ret(12), &wire.SecReadBmp{Len: 24}, items)
		p.want(ret(4096), &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Len: 4096})
		p.write(ret(4096), wire.OpSecWriteStable, id, 2, 0, 4096, 1, 1)
		p.want(ret(0), &wire.SecDel{Chunk: id, Version: 3})
		p.want(0, &wire.SecSync{}) // needs no lock
	}
	each(p, true)
	if s, u := p.list(r.peering(pg)); len(s)+len(u) != 0 {
		t.Errorf("refused operations were executed: %v %v", s, u)
	}
	p.lock(0, wire.LockAcquire, pg, meta.PGPeering)
	each(p, false)
	each(q, true)
	if cur := q.lock(wire.EBUSY, wire.LockAcquire, pg, meta.PGPeering); cur != 1 {
		t.Errorf("primary is %d", cur)
	}
	p.write(wire.EPIPE, wire.OpSecWriteStable, oid(3, 1, blockBytes), 1, 0, 4096, 1, 1) // PG 2
	// Lists are checked as a whole, before anything is done.
	p.write(4096, wire.OpSecWrite, id, 1, 0, 4096, 1, 1)
	p.stab(wire.EPIPE, wire.OpSecStabilize, at(id, 1), at(oid(3, 1, blockBytes), 1))
	p.stab(wire.EPIPE, wire.OpSecStabilize, at(id, 1), at(oid(9, 1, 0), 1))
	if s, _ := p.list(r.peering(pg)); len(s) != 0 {
		t.Error("a part of a refused list was executed")
	}
	q.want(0, &wire.SecDel{Chunk: id, Version: 3, Flags: wire.FlagIgnorePGLock})
	// We become primary: even the holder is refused.
	r.view.primary[pg] = true
	each(p, true)
	if cur := p.lock(wire.EBUSY, wire.LockAcquire, pg, meta.PGActive); cur != us {
		t.Errorf("primary is %d", cur)
	}
	delete(r.view.primary, pg)
	each(p, false)
	p.lock(0, wire.LockRelease, pg, 0)
	each(p, true)
	// Other modes, while the server runs.
	r.s.SetPGLocks(option.Off)
	each(q, true) // p was the last to list
	q.list(r.peering(pg))
	each(q, false)
	each(p, true)
	q.stab(wire.ENOENT, wire.OpSecStabilize, at(oid(9, 1, 0), 1)) // no check at all, not even of the pool
	r.s.SetPGLocks(option.On)
	q.write(wire.EPIPE, wire.OpSecWrite, oid(2, 1, 0), 1, 0, 4096, 1, 1)
	r.idle()
}

// A lock ends with its connection, and what its owner has sent and was not
// begun is not executed any more.
func TestLockEndsWithConnection(t *testing.T) {
	r := newRig(t, 1)
	p, q := r.peer(1), r.peer(3)
	pg := meta.PG{Pool: 3, Num: 1}
	p.lock(0, wire.LockAcquire, pg, meta.PGActive)
	if !r.s.LocalReads(pg) || r.s.LocalReads(meta.PG{Pool: 3, Num: 2}) || r.s.LocalReads(meta.PG{Pool: 1, Num: 1}) {
		t.Error("local reads")
	}
	q.lock(wire.EBUSY, wire.LockAcquire, pg, meta.PGActive)
	r.w.Net().Reset(p.node, r.node)
	p.connected()
	if r.s.LocalReads(pg) {
		t.Error("local reads without a lock")
	}
	q.lock(0, wire.LockAcquire, pg, meta.PGActive)
	p.write(wire.EPIPE, wire.OpSecWriteStable, oid(3, 1, 0), 1, 0, 4096, 1, 1)
	q.write(4096, wire.OpSecWriteStable, oid(3, 1, 0), 1, 0, 4096, 1, 1)
	r.idle()
}

func TestLockErrors(t *testing.T) {
	r := newRig(t, 1)
	p, client := r.peer(1), r.peer(0)
	pg := meta.PG{Pool: 1, Num: 1}
	client.lock(wire.EINVAL, wire.LockAcquire, pg, meta.PGActive) // it did not announce a number
	p.lock(wire.EINVAL, 3, pg, meta.PGActive)
	p.lock(wire.EINVAL, 0, pg, meta.PGActive)
	p.lock(wire.EINVAL, wire.LockAcquire, meta.PG{Pool: 1, Num: 0}, meta.PGActive)
	p.want(wire.EINVAL, &wire.SecLock{Flags: 1, Pool: 65537, PG: 1})
	p.want(wire.EINVAL, &wire.SecLock{Flags: 1, Pool: 1, PG: 1 << 32})
	p.want(wire.ENOENT, &wire.SecLock{Flags: 1, Pool: 65536, PG: 1})
	p.lock(wire.ENOENT, wire.LockAcquire, meta.PG{Pool: 8, Num: 1}, meta.PGActive)
	p.lock(wire.ENOENT, wire.LockAcquire, meta.PG{Pool: 1, Num: 5}, meta.PGActive)
	p.lock(0, wire.LockAcquire, meta.PG{Pool: 1, Num: 4}, meta.PGActive)
	r.idle()
}
