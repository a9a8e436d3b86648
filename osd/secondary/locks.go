package secondary

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema/option"
	"vitastor/internal/wire"
)

// Locks are the PG locks that primaries hold on this OSD (wire.md §8). A lock
// belongs to one connection, and to the OSD number that it had announced when
// it was taken; it ends with either. Compat: the protocol names only the
// number. We also compare the connection, because an OSD that has reconnected
// must not be served what its former life sent; a number has one connection at
// a time otherwise.
//
// Pure state: Locks decides and tells, and calls nobody.
type Locks struct {
	held map[meta.PG]lock
}

type lock struct {
	conn  *msgr.Conn
	owner meta.OSDNum
	state meta.PGState // of the PG, as its primary told last
}

// Pool is what has to be known of a pool.
type Pool struct {
	PGCount       uint32 // by which objects are mapped now, from pg/config
	PGStripeBytes uint64
	Replicated    bool
	LocalReads    bool // local_reads is not "primary"
}

// Owner is who asks.
type Owner struct {
	Conn *msgr.Conn
	OSD  meta.OSDNum // announced on Conn; 0 = none
}

// Request decides on a SEC_LOCK that was found well-formed. pool is nil if it
// is not known. ownPrimary is this OSD if it is the primary of the PG in any
// state but offline, else 0.
//
//	unlock                             0, also if there is nothing to unlock
//	pool or PG unknown (yet)           ENOENT
//	we are primary, or another one is  EBUSY and its number
//	otherwise                          0: locked, or the new state is noted
func (l *Locks) Request(q *wire.SecLock, from Owner, pool *Pool, ownPrimary meta.OSDNum) (wire.Retval, meta.OSDNum) {
	pg := meta.PG{Pool: meta.PoolID(q.Pool), Num: meta.PGNum(q.PG)}
	cur, locked := l.held[pg]
	switch {
	case q.Flags == wire.LockRelease:
		if locked && cur.conn == from.Conn {
			delete(l.held, pg)
		}
		return wire.OK, 0
	case pool == nil || q.PG > uint64(pool.PGCount):
		return wire.ENOENT, 0
	case ownPrimary != 0:
		return wire.EBUSY, ownPrimary
	case locked && cur.owner != from.OSD:
		return wire.EBUSY, cur.owner
	}
	if l.held == nil {
		l.held = map[meta.PG]lock{}
	}
	l.held[pg] = lock{from.Conn, from.OSD, meta.PGState(q.PGState)}
	return wire.OK, 0
}

// Disconnected ends all locks of a connection.
func (l *Locks) Disconnected(c *msgr.Conn) {
	for pg, k := range l.held {
		if k.conn == c {
			delete(l.held, pg)
		}
	}
}

// Holds tells whether the lock of pg belongs to who asks.
func (l *Locks) Holds(pg meta.PG, who Owner) bool {
	k, ok := l.held[pg]
	return ok && k.conn == who.Conn && k.owner == who.OSD
}

// Len is the number of locks.
func (l *Locks) Len() int { return len(l.held) }

// LocalReads tells whether reads of clients may be served from this OSD's copy
// (wire.md §11): its primary holds the lock and has told that every copy is
// the same.
func (l *Locks) LocalReads(pg meta.PG, ownPrimary bool) bool {
	k, ok := l.held[pg]
	return ok && !ownPrimary && (k.state == meta.PGActive || k.state == meta.PGActive|meta.PGLeftOnDead)
}

// verdict is what the first three rules of enforcement say.
type verdict uint8

const (
	refused  verdict = iota
	allowed          // without a lock
	byHolder         // if we are not primary, and the lock is held by who asks
)

// enforce are rules 1 to 3 (wire.md §8). ready: the pool is known and its index
// is not being resharded.
func enforce(ready bool, p *Pool, mode option.Tristate, flags wire.SecFlags) verdict {
	switch {
	case !ready:
		return refused
	case mode == option.Off || flags&wire.FlagIgnorePGLock != 0:
		return allowed
	case mode == option.Auto && !(p.Replicated && p.LocalReads):
		return allowed
	}
	return byHolder
}

// permit checks the objects of one request. Neighbours in a list mostly have
// the same pool and PG: what was found for the last one is remembered.
type permit struct {
	s     *Server
	owner Owner
	flags wire.SecFlags

	id      meta.PoolID // of pool; 0 = none yet
	pool    Pool
	verdict verdict
	pg      meta.PG // found to be permitted
}

func (s *Server) permitOf(op *Op) permit {
	return permit{s: s, owner: ownerOf(op.r.Conn), flags: op.flags}
}

func ownerOf(c *msgr.Conn) Owner { return Owner{c, c.OSD()} }

// ok tells whether the request may touch the object.
func (p *permit) ok(id meta.ObjectID) bool {
	s := p.s
	if pool := id.Inode.Pool(); pool != p.id || p.id == 0 {
		found := false
		p.id = pool
		p.pool, found = s.view.Pool(pool)
		ready := found && s.store.Sharded(pool, p.pool.PGCount, p.pool.PGStripeBytes)
		p.verdict = enforce(ready, &p.pool, s.pgLocks, p.flags)
	}
	fence := p.owner.OSD != 0 && p.flags&wire.FlagIgnorePGLock == 0
	if p.verdict == refused || p.verdict == allowed && !fence {
		return p.verdict == allowed
	}
	pg := meta.PG{Pool: p.id, Num: meta.PGOf(id.Stripe, p.pool.PGStripeBytes, p.pool.PGCount)}
	if pg == p.pg {
		return true
	}
	if fence && s.listers.Fenced(pg, p.pool.PGCount, p.owner.Conn) {
		return false
	}
	if p.verdict == byHolder && (s.view.Primary(pg) || !s.locks.Holds(pg, p.owner)) { // rules 4 and 5
		return false
	}
	p.pg = pg
	return true
}

// anyFenced looks at nothing but the fence: lists are not checked otherwise
// when there are no locks, not even for pools that nobody knows.
func (p *permit) anyFenced(items []meta.ObjectVersion) bool {
	for i := range items {
		if _, known := p.s.view.Pool(items[i].Inode.Pool()); known && !p.ok(items[i].ObjectID) {
			return true
		}
	}
	return false
}

// permitted tells whether the request may be executed at this moment.
func (s *Server) permitted(op *Op) bool {
	if !op.r.Conn.Ready() {
		return false // whoever has taken over must not meet it
	}
	p := s.permitOf(op)
	switch op.code {
	case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable, wire.OpSecDelete:
		return p.ok(op.OID)
	case wire.OpSecStabilize, wire.OpSecRollback:
		if s.pgLocks == option.Off {
			return !p.anyFenced(op.Items)
		}
		for i := range op.Items {
			if !p.ok(op.Items[i].ObjectID) {
				return false
			}
		}
	case wire.OpSecReadBmp:
		items := itemsOf(op.r)
		for i := range items.n {
			if !p.ok(items.at(i).ObjectID) {
				return false
			}
		}
	}
	return true
}

// serveLock answers SEC_LOCK.
func (s *Server) serveLock(r *msgr.Request) {
	var q wire.SecLock
	q.Decode(&r.Packet)
	from := ownerOf(r.Conn)
	reply := wire.SecLockReply{Retval: q.Check(from.OSD)}
	if !reply.Retval.Failed() {
		var known *Pool
		primary := meta.OSDNum(0)
		if p, ok := s.view.Pool(meta.PoolID(q.Pool)); ok && q.Pool <= uint64(meta.MaxPoolID) {
			known = &p
			if s.view.Primary(meta.PG{Pool: meta.PoolID(q.Pool), Num: meta.PGNum(q.PG)}) {
				primary = s.config.OSD
			}
		}
		reply.Retval, reply.CurPrimary = s.locks.Request(&q, from, known, primary)
	}
	reply.Encode(&r.Reply)
	r.Finish()
}

// LocalReads tells whether a READ of a client may be served from our copy of
// the PG (wire.md §11); otherwise it gets EPIPE.
func (s *Server) LocalReads(pg meta.PG) bool {
	p, ok := s.view.Pool(pg.Pool)
	return ok && p.Replicated && s.locks.LocalReads(pg, s.view.Primary(pg))
}
