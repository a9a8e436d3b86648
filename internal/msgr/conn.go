package msgr

import (
	"fmt"
	"net/netip"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// Conn is one connection, accepted or made by us.
type Conn struct {
	// User is the owner's: what it knows of the peer.
	User any

	m      *Messenger
	stream env.Stream
	peer   *peer // whom we connect to; nil for accepted connections
	state  connState
	osd    meta.OSDNum      // who the peer is; 0 = a client, or not known yet
	config wire.ConfigReply // what the OSD we connected to said of itself
	reason error            // why the connection was closed

	prev, next *Conn // in Messenger.conns
	timer      env.Timer
	known      bool // the owner has to be told of the end

	// Receiving.
	head        wire.Packet // incomplete packet, or the one that waits for resources
	headBytes   int
	small       [smallReadBytes]byte // see ReadInto
	direct      []byte               // what ReadInto returned
	lastPayload wire.Payload         // of the last message: a guess of what comes next
	sink        sink
	receiving   *Op      // whose reply's payload arrives
	incoming    *Request // whose payload arrives
	progress    env.Instant
	live        liveness

	// Requests we make.
	lastID    uint64
	table     opTable
	pending   opQueue
	ops       int // submitted and not completed
	pings     int // of them PINGs of the messenger
	reassured env.Instant

	// Requests we serve.
	checkIDs bool // the peer wants it (wire.md §1)
	nextID   uint64
	serving  int // requests not finished, or with unsent replies
	first    *Request
	// Progress of sending replies, looked at once per second by reap.
	sentReplies, sentMark uint64
	sentAt                env.Instant
	pongs                 [pongsMax]pong

	// Waiting for resources, see wait.go.
	wait               waitReason
	waitClass          *class
	waitPrev, waitNext *Conn
	stash              []byte // received but not looked at
	resume             env.Task
}

type connState uint8

const (
	connDialing  connState = iota // TCP
	connGreeting                  // SHOW_CONFIG was sent
	connReady
	connClosed
)

func (s connState) String() string {
	return [...]string{"connecting", "handshake", "ready", "closed"}[s]
}

// OSD is the number of the peer if it is an OSD: for connections we make the
// wanted one, for accepted ones what the peer announced in SHOW_CONFIG (0 if
// it did not): the identity that owns PG locks.
func (c *Conn) OSD() meta.OSDNum { return c.osd }

// Incoming tells whether the connection was accepted.
func (c *Conn) Incoming() bool { return c.peer == nil }

// Ready tells whether requests can be sent now. Submit works in any state.
func (c *Conn) Ready() bool { return c.state == connReady }

// Config is what the OSD we connected to said of itself.
func (c *Conn) Config() *wire.ConfigReply { return &c.config }

// RemoteAddr is the address of the peer.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.stream.RemoteAddr() }

// Drop closes the connection; reason says why, for logs and Disconnected. All
// Ops complete with EPIPE, later. A wanted OSD is connected to again.
func (c *Conn) Drop(reason error) { c.drop(reason) }

func (c *Conn) String() string {
	where := "not connected"
	if c.stream != nil {
		where = c.stream.RemoteAddr().String()
	}
	switch {
	case c.osd == 0:
		return fmt.Sprintf("client %s", where)
	case c.peer == nil:
		return fmt.Sprintf("OSD %d at %s (accepted)", c.osd, where)
	}
	return fmt.Sprintf("OSD %d at %s", c.osd, where)
}

// drop closes the connection and starts the end of everything that hangs on it.
func (c *Conn) drop(reason error) {
	if c.state == connClosed {
		return
	}
	c.m.logDrop(c, reason)
	c.m.stats.Dropped++
	c.state, c.reason = connClosed, reason
	c.m.env.Clock.Disarm(&c.timer)
	c.closeStream()
	c.stopWaiting()
	c.stash = nil
	c.loseAll()
	if r := c.incoming; r != nil {
		c.incoming = nil
		r.release()
	}
	c.sink = sink{}
	c.m.closing = append(c.m.closing, c)
	c.m.env.Exec.Defer(&c.m.cleanTask)
}

// closeStream takes back requests that are on their way: their owners repeat
// them elsewhere, and an old one must not be executed after a newer one.
func (c *Conn) closeStream() {
	if a, ok := c.stream.(env.Aborter); ok && c.ops > 0 {
		a.Abort()
		return
	}
	c.stream.Close()
}

// clean completes lost Ops and reports connections that have none any more.
func (m *Messenger) clean() {
	for op := m.lost.pop(); op != nil; op = m.lost.pop() {
		op.Retval, op.Lost = wire.EPIPE, true
		op.conn.complete(op)
	}
	for r := m.unsent.pop(); r != nil; r = m.unsent.pop() {
		r.sent(nil, env.ErrStreamClosed)
	}
	rest := m.closing[:0]
	var gone []*Conn
	for _, c := range m.closing {
		if c.ops > 0 { // the stream still has some of them; sent calls again
			rest = append(rest, c)
		} else {
			gone = append(gone, c)
		}
	}
	m.closing = rest
	for _, c := range gone {
		c.gone()
	}
}

// gone is the end of a closed connection.
func (c *Conn) gone() {
	c.m.conns.remove(c)
	if c.known && !c.m.closed {
		c.m.handler.Disconnected(c, c.reason)
	}
	if c.peer != nil {
		c.peer.lost(c)
	}
}

// Closed implements env.StreamHandler.
func (c *Conn) Closed(err error) {
	if c.state != connDialing {
		err = fmt.Errorf("connection lost: %w", err)
	}
	c.drop(err)
}

// connList is the list of all connections, in the order of their creation.
type connList struct {
	head, tail *Conn
	count      int
	accepted   int
}

func (l *connList) add(c *Conn) {
	c.prev, c.next = l.tail, nil
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
	l.count++
	if c.peer == nil {
		l.accepted++
	}
}

func (l *connList) remove(c *Conn) {
	if c.prev == nil {
		l.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	l.count--
	if c.peer == nil {
		l.accepted--
	}
}
