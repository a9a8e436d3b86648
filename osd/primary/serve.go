package primary

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// Serve implements secondary.Primary: it executes an operation of a client.
func (s *Server) Serve(r *msgr.Request) {
	if s.closed != nil {
		r.Fail(wire.EPIPE)
		return
	}
	switch r.Op() {
	case wire.OpRead, wire.OpWrite, wire.OpDelete, wire.OpScrub:
		s.serveObject(r)
	case wire.OpSync:
		if !s.config.MayServe() {
			r.Fail(wire.EPIPE)
			return
		}
		s.serveSync(r)
	case wire.OpDescribe:
		s.serveDescribe(r)
	case wire.OpSecList:
		s.serveList(r)
	default:
		r.Fail(wire.EINVAL)
	}
}

// admit makes all checks of an operation on one object, in the order that
// clients see (wire.md §6.1), and returns its PG.
func (s *Server) admit(q *wire.Rw) (*pg, wire.Retval) {
	if err := q.Check(s.config.GranuleBytes); err != wire.OK {
		return nil, err
	}
	if !s.config.MayServe() {
		return nil, wire.EPIPE
	}
	pool := s.view.Pool(q.Inode.Pool())
	if pool == nil || pool.BlockBytes != s.config.BlockBytes {
		return nil, wire.EPIPE
	}
	p := s.pgs[meta.PG{Pool: pool.ID, Num: meta.PGOf(q.Offset, pool.PGStripeBytes, s.view.PGCount(pool.ID))}]
	if p == nil || !p.active {
		return nil, wire.EPIPE
	}
	return p, q.CheckObject(p.objectBytes())
}

func (p *pg) objectBytes() uint64 { return uint64(p.s.config.BlockBytes) * uint64(p.dataChunks) }

// serveObject begins READ, WRITE, DELETE and SCRUB.
func (s *Server) serveObject(r *msgr.Request) {
	var q wire.Rw
	q.Decode(&r.Packet)
	p, err := s.admit(&q)
	switch {
	case err == wire.EPIPE && s.serveLocal(r, &q):
		return
	case err != wire.OK:
		r.Fail(err)
		return
	case q.Op == wire.OpScrub:
		if s.scrub == nil {
			r.Fail(wire.EPIPE)
			return
		}
		s.scrub(r)
		return
	case q.Op == wire.OpRead && q.MetaRevision != 0:
		if chained, ok := s.chained(&q); !ok {
			r.Fail(wire.EPIPE)
			return
		} else if chained {
			s.serveChained(r, &q, p)
			return
		}
	}
	kind, finish := opRead, (*op).finishRead
	switch q.Op {
	case wire.OpWrite:
		kind, finish = opWrite, (*op).finishWrite
	case wire.OpDelete:
		kind, finish = opDelete, (*op).finishDelete
	}
	o := s.takeOp(kind, p)
	o.r, o.finish, o.queues = r, finish, kind != opRead
	o.offset = q.Offset % p.objectBytes()
	o.oid = meta.ObjectID{Inode: q.Inode, Stripe: q.Offset - o.offset}
	o.length = q.Len
	if kind == opRead {
		o.into = r.Body
	} else {
		o.cas = q.Version
	}
	o.begin()
	s.drain()
}

// chained tells whether a READ has to look into parents of the inode. ok is
// false when client and OSD know different things about it (wire.md §6.3).
func (s *Server) chained(q *wire.Rw) (chained, ok bool) {
	in := s.view.Inode(q.Inode)
	if in == nil || uint64(in.Rev) != q.MetaRevision {
		return false, false
	}
	return in.Parent != 0 && in.Parent.Pool() == q.Inode.Pool(), true
}
