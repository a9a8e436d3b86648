package secondary

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// Listers remember which primary has listed each PG last for its peering, and
// so whose operations on its objects may still be executed.
//
// A primary that has been replaced - killed, frozen, cut off - may have left
// requests in the network or in the buffers of a socket. If one of them was
// executed after its successor has listed the PG, a copy would change behind
// the back of the one who believes to know all copies. With leases of many
// seconds that is only unlikely; this makes it impossible, whoever the
// primaries are, because all of them list before they write
// (docs/decisions/0005-failover.md).
//
// Connections of clients (vitastor-cli repairs objects) are not concerned.
//
// Pure state: it decides and calls nobody.
type Listers struct {
	last map[meta.PG]lister
}

type lister struct {
	conn    *msgr.Conn // nil = our own primary
	pgCount uint32     // numbers mean something else after a change of it
}

// gone takes the place of a connection that does not exist any more: it fences
// all others, too.
var gone = new(msgr.Conn)

// Listed notes who lists a PG; conn nil = our own primary.
func (l *Listers) Listed(pg meta.PG, pgCount uint32, conn *msgr.Conn) {
	if l.last == nil {
		l.last = map[meta.PG]lister{}
	}
	l.last[pg] = lister{conn, pgCount}
}

// Fenced tells whether another primary has listed the PG since conn did.
func (l *Listers) Fenced(pg meta.PG, pgCount uint32, conn *msgr.Conn) bool {
	e, ok := l.last[pg]
	return ok && e.pgCount == pgCount && e.conn != conn
}

// Disconnected forgets a connection, but not that it was there.
func (l *Listers) Disconnected(c *msgr.Conn) {
	for pg, e := range l.last {
		if e.conn == c {
			l.last[pg] = lister{gone, e.pgCount}
		}
	}
}

// forPeering tells whether a listing is one of a primary that peers, not a
// part of one, as in a scrub.
func forPeering(q *wire.SecList) bool {
	full := wire.PeeringList(meta.PG{Pool: q.Min.Inode.Pool(), Num: q.PG}, q.PGCount, q.PGStripeBytes)
	return q.Flags == 0 && q.StableLimit == 0 && q.Min == full.Min && q.Max == full.Max
}

// noteLister is called when a listing begins to be executed: everything that
// was received before has begun before, everything later meets the fence.
func (s *Server) noteLister(op *Op) {
	switch {
	case op.r == nil:
		l := op.List
		if l != nil && l.StableLimit == 0 && l.Min.Stripe == 0 && l.Min.Inode.Number() == 0 {
			s.listers.Listed(meta.PG{Pool: l.Pool, Num: l.PG}, l.PGCount, nil)
		}
	case op.r.Conn.OSD() != 0 && forPeering(&op.query):
		q := &op.query
		s.listers.Listed(meta.PG{Pool: q.Min.Inode.Pool(), Num: q.PG}, q.PGCount, op.r.Conn)
	}
}
