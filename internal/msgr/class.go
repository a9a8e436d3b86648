package msgr

import (
	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
)

// class is a share of memory and requests. Requests of OSDs to us as a secondary
// have their own: they only need the local disk, so they always finish, and a
// cluster whose memory is full of client requests still moves on. So has
// SHOW_CONFIG: new connections do not wait for old ones.
type class struct {
	pool    *pinned.Pool
	max     int // requests
	used    int
	waiters waitList
}

// classOf assigns a request. Secondary operations of clients (tools, tests) do
// not count as those of OSDs.
func (c *Conn) classOf(op wire.Op) *class {
	switch op {
	case wire.OpShowConfig:
		return c.m.control
	case wire.OpRead, wire.OpWrite, wire.OpSync, wire.OpDelete, wire.OpScrub, wire.OpDescribe:
		return c.m.clients
	}
	if c.osd == 0 {
		return c.m.clients
	}
	return c.m.peers
}

// acquire takes a request and memory for it, or says what to wait for. Who came
// first is served first.
func (m *Messenger) acquire(c *Conn, p *wire.Packet, d demand) (*Request, waitReason) {
	if c.serving >= m.limits.RequestsPerConn {
		return nil, waitOwn
	}
	cl := c.classOf(p.Op())
	if cl.used >= cl.max || cl.waiters.head != nil && cl.waiters.head != c {
		c.waitClass = cl
		return nil, waitShared
	}
	r := m.takeRequest()
	r.class = cl
	if !r.takeMemory(d) {
		m.putRequest(r)
		c.waitClass = cl
		return nil, waitShared
	}
	cl.used++
	c.serving++
	r.Packet, r.Conn, r.Arrived, r.refused = *p, c, c.progress, d.refused
	r.phase = requestReceiving
	r.link(c)
	return r, waitNothing
}

// partBytes is the length of the parts of a long body. Parts of lists consist of
// whole items.
func partBytes(kind wire.PayloadKind) int {
	if kind == wire.PayloadObjects {
		return pinned.MaxBufferBytes / wire.ObjectItemBytes * wire.ObjectItemBytes
	}
	return pinned.MaxBufferBytes
}

// takeMemory takes all or nothing: two requests that hold halves would wait for
// each other for ever.
func (r *Request) takeMemory(d demand) bool {
	r.Attr, r.attrPooled = nil, false
	r.Body = r.Body[:0]
	if d.attr > len(r.attrInline) {
		b, ok := r.class.pool.Get(d.attr)
		if !ok {
			return false
		}
		r.Attr, r.attrPooled = b, true
	} else if d.attr > 0 {
		r.Attr = r.attrInline[:d.attr]
	}
	part := partBytes(d.pl.Kind)
	for left := d.body; left > 0; left -= part {
		b, ok := r.class.pool.Get(min(left, part))
		if !ok {
			r.putMemory()
			return false
		}
		r.Body = append(r.Body, b)
	}
	return true
}

// freeMemory gives the payload's memory back, for others to use.
func (r *Request) freeMemory() {
	r.putMemory()
	r.m.wakeWaiters(r.class)
}

func (r *Request) putMemory() {
	if r.attrPooled {
		r.class.pool.Put(r.Attr)
	}
	for _, b := range r.Body {
		r.class.pool.Put(b)
	}
	r.Attr, r.attrPooled, r.Body = nil, false, r.Body[:0]
}

// release ends a request.
func (r *Request) release() {
	c, cl := r.Conn, r.class
	r.freeMemory()
	r.unlink()
	cl.used--
	c.serving--
	r.m.putRequest(r)
	r.m.wakeWaiters(cl)
	if c.wait == waitOwn && c.serving <= r.m.limits.RequestsPerConn*3/4 {
		r.m.env.Exec.Defer(&c.resume)
	}
}

// link puts r at the head of its connection's list of requests.
func (r *Request) link(c *Conn) {
	r.prev, r.next = nil, c.first
	if c.first != nil {
		c.first.prev = r
	}
	c.first = r
}

// unlink takes r out of it; again does nothing.
func (r *Request) unlink() {
	switch {
	case r.prev != nil:
		r.prev.next = r.next
	case r.Conn.first == r:
		r.Conn.first = r.next
	default:
		return
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// requestSlab makes requests in chunks and reuses them, the longest unused
// first, so that a mistaken use after the end does as little harm as possible.
type requestSlab struct {
	chunks     [][]Request
	head, tail *Request
}

const requestsPerChunk = 64

func (m *Messenger) takeRequest() *Request {
	s := &m.slab
	if s.head == nil {
		chunk := make([]Request, requestsPerChunk)
		s.chunks = append(s.chunks, chunk)
		for i := range chunk {
			chunk[i].m = m
			chunk[i].send.Done = chunk[i].sent
			m.putRequest(&chunk[i])
		}
	}
	r := s.head
	if s.head = r.next; s.head == nil {
		s.tail = nil
	}
	r.next = nil
	invariant.Must(r.phase == requestFree, "msgr: a request in use was taken for a free one")
	return r
}

func (m *Messenger) putRequest(r *Request) {
	r.phase, r.Conn, r.User, r.Sent = requestFree, nil, nil, nil
	r.ReplyParts, r.prev, r.next = r.partsInline[:0], nil, nil
	s := &m.slab
	if s.tail == nil {
		s.head = r
	} else {
		s.tail.next = r
	}
	s.tail = r
}
