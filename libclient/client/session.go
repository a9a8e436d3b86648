package client

import (
	"fmt"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/libclient/writeback"
)

// session is one connection to an OSD, from its handshake to its end. What the
// OSD acknowledged and did not sync belongs to it: the end of the session is
// the signal that it may be lost (osd.md §8).
type session struct {
	c     *Client
	id    uint64 // Tag of its pieces in the buffers
	osd   *osd
	conn  *msgr.Conn
	asked bool // by syncRun

	// One SYNC at a time is on its way. Who comes meanwhile waits for the next
	// one, which covers what was acknowledged until it begins.
	rpc     msgr.Op
	running bool
	current []*syncWaiter // of the running SYNC
	coming  []*syncWaiter
}

// syncWaiter waits for a SYNC of one session that begins after it came.
type syncWaiter struct {
	done func(w *syncWaiter, s *session, r wire.Retval)
	part *part
}

// handler receives what the messenger tells.
type handler struct{ c *Client }

// Serve implements msgr.Handler. Nobody sends requests to clients: the
// messenger drops who tries.
func (h handler) Serve(r *msgr.Request) { r.Fail(wire.EINVAL) }

// Connected implements msgr.Handler.
func (h handler) Connected(conn *msgr.Conn) {
	c := h.c
	o := c.osd(conn.OSD())
	c.sessions++
	s := &session{c: c, id: c.sessions, osd: o, conn: conn}
	s.rpc.Done = s.synced
	conn.User, o.session, c.open[s.id] = s, s, s
	o.sendRaw(c)
	c.kick()
}

// ConnectFailed implements msgr.Handler.
func (h handler) ConnectFailed(n meta.OSDNum, reason error) {
	c := h.c
	c.log.Info("cannot connect to OSD", "osd", n, "err", reason)
	o := c.osd(n)
	o.failRaw(c)
	c.eachWaiting(func(p *part) verdict { // CAS does not wait for ever
		if p.io.flags&ioCAS != 0 && p.why == waitConnection && p.to == o {
			return giveUp
		}
		return goOn
	})
}

// Disconnected implements msgr.Handler: the session ends, what it had and did
// not sync is sent again.
func (h handler) Disconnected(conn *msgr.Conn, reason error) {
	c := h.c
	s, ok := conn.User.(*session)
	if !ok {
		return
	}
	c.log.Info("connection to OSD is lost", "osd", s.osd.num, "err", reason)
	delete(c.open, s.id)
	if s.osd.session == s {
		s.osd.session = nil
	}
	c.loseIf(func(p *writeback.Piece) bool { return p.Tag == s.id })
	c.kick()
}

// ready tells whether requests can be sent to the OSD now.
func (o *osd) ready() bool { return o.session != nil && o.session.conn.Ready() }

// loseIf sends again what OSDs may have lost.
func (c *Client) loseIf(lost func(p *writeback.Piece) bool) {
	if !c.buffers.Empty() && c.buffers.Lose(lost) {
		invariant.Sometimes("client: unsynced writes are sent again")
		c.admit()
	}
}

// sync calls w.done after a SYNC that covers everything acknowledged until now.
func (s *session) sync(w *syncWaiter) {
	s.coming = append(s.coming, w)
	if !s.running {
		s.startSync()
	}
}

func (s *session) startSync() {
	s.running = true
	s.current, s.coming = s.coming, s.current[:0]
	(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&s.rpc.Packet)
	s.c.busyWork++
	s.conn.Submit(&s.rpc)
}

// synced is called with the result of a SYNC. An OSD that cannot sync, for
// another reason than the usual ones, gets no second chance on this connection.
func (s *session) synced(op *msgr.Op) {
	s.running = false
	s.c.busyWork--
	r := op.Retval
	switch {
	case !r.Failed(), r == wire.EPIPE, r == wire.EIO, r == wire.ENOSPC, r == wire.EINTR:
	default:
		s.conn.Drop(fmt.Errorf("SYNC failed: %v", r))
	}
	for i := 0; i < len(s.current); i++ {
		s.current[i].done(s.current[i], s, r)
	}
	clear(s.current)
	s.current = s.current[:0]
	if len(s.coming) > 0 {
		s.startSync()
	}
	s.c.idle()
}
