package msgr

import (
	"fmt"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/wire"
)

// Request is a request of a peer. It is the handler's from Serve to Finish.
type Request struct {
	// Packet is the request as received.
	Packet wire.Packet
	// Attr is the bitmap of a SEC_WRITE. It ends with Finish.
	Attr []byte
	// Body is the received payload in parts that are aligned to 4 KiB; a list
	// is never cut inside an item. For READ and SEC_READ it is memory of the
	// wanted length for the reply. It ends with Finish, unless it is in
	// ReplyParts; then when the reply was sent.
	Body [][]byte
	// Conn is where it came from. It may be closed already.
	Conn *Conn
	// Arrived is the time when the packet was received.
	Arrived env.Instant

	// Reply is the packet to answer with, encoded with the opcode of the
	// request. The messenger fills in the id.
	Reply wire.Packet
	// ReplyParts is the payload of the reply, exactly as long as it
	// announces. It is empty at first and has room for some parts.
	ReplyParts [][]byte
	// Sent, if set, is called once when the memory of ReplyParts may be
	// reused; r must not be used any more. It is forgotten afterwards.
	Sent func(r *Request)
	// User is the handler's; it is forgotten with Sent.
	User any

	m           *Messenger
	class       *class
	attrInline  [smallAttrMax]byte
	attrPooled  bool
	partsInline [4][]byte
	refused     wire.Retval // answered with this error, without the handler
	prev, next  *Request    // of the same connection; next also in the free list
	send        env.SendOp
	phase       requestPhase
}

type requestPhase uint8

const (
	requestFree requestPhase = iota
	requestReceiving
	requestServing
	requestReplying
)

// Op is the opcode of the request.
func (r *Request) Op() wire.Op { return r.Packet.Op() }

// demand is what a request needs before it can be received.
type demand struct {
	pl      wire.Payload
	attr    int // bytes of memory
	body    int // bytes of memory
	refused wire.Retval
}

// demandOf judges the form of a request. An error means that the stream cannot
// go on. Requests that will be refused get no memory for their payload.
func demandOf(p *wire.Packet, l *Limits) (demand, error) {
	pl, err := wire.RequestPayload(p)
	if err != nil {
		return demand{}, err
	}
	d := demand{pl: pl, attr: int(pl.Attr), body: int(pl.Body)}
	switch op := p.Op(); {
	case !op.Valid() || op == wire.OpTestSyncStab || pl.Refused || pl.Attr > attrBytesMax,
		pl.Kind == wire.PayloadJSON && pl.Body > jsonBytesMax,
		pl.Kind == wire.PayloadObjects && int(pl.Body) > l.ListBytes:
		d.refused = wire.EINVAL
	case op == wire.OpRead || op == wire.OpSecRead:
		d.body = readBytes(p)
		if d.body > wire.MaxIOBytes {
			d.refused = wire.EINVAL
		}
	}
	if d.refused != 0 {
		d.attr, d.body = 0, 0
	}
	return d, nil
}

// readBytes is the length of the data that a READ or SEC_READ asks for.
func readBytes(p *wire.Packet) int {
	if p.Op() == wire.OpRead {
		var rw wire.Rw
		rw.Decode(p)
		return int(rw.Len)
	}
	var rw wire.SecRw
	rw.Decode(p)
	return int(rw.Len)
}

// request handles the packet of a request. It changes nothing when it returns
// a reason to wait.
func (c *Conn) request(p *wire.Packet) waitReason {
	if c.checkIDs && p.ID() != c.nextID {
		c.drop(fmt.Errorf("request %d (%v) came where %d was expected: requests were lost", p.ID(), p.Op(), c.nextID))
		return waitNothing
	}
	if p.Op() == wire.OpPing {
		if !c.answerPing(p) {
			return waitPong
		}
		c.accepted(wire.Payload{})
		c.m.stats.Received[wire.OpPing].add(0, 0)
		return waitNothing
	}
	if c.peer != nil {
		c.drop(fmt.Errorf("unexpected %v on a connection made by us", p.Op()))
		return waitNothing
	}
	d, err := demandOf(p, &c.m.limits)
	if err != nil {
		c.drop(err)
		return waitNothing
	}
	r, why := c.m.acquire(c, p, d)
	if why != waitNothing {
		return why
	}
	c.accepted(d.pl)
	if d.pl.Bytes() == 0 {
		r.execute()
		return waitNothing
	}
	c.incoming = r
	if d.refused != 0 {
		c.sink.discard(d.pl.Bytes())
	} else {
		c.sink.receive(r.Attr, d.pl.Attr, r.Body, d.pl.Body)
	}
	return waitNothing
}

// accepted notes that a request was taken.
func (c *Conn) accepted(pl wire.Payload) {
	c.heard()
	c.nextID++
	c.lastPayload = pl
}

// execute runs a request that has arrived completely.
func (r *Request) execute() {
	r.phase = requestServing
	switch {
	case r.refused != 0:
		r.Fail(r.refused)
	case r.Op() == wire.OpShowConfig:
		r.Conn.showConfig(r)
	default:
		r.m.handler.Serve(r)
	}
}

// Fail replies with an error, or with OK to a request without results.
func (r *Request) Fail(retval wire.Retval) {
	(&wire.StatusReply{Op: r.Op(), Retval: retval}).Encode(&r.Reply)
	r.ReplyParts = r.ReplyParts[:0]
	r.Finish()
}

// Finish sends Reply and ReplyParts. r is not the handler's any more.
func (r *Request) Finish() {
	invariant.Must(r.phase == requestServing, "msgr: a request was finished twice or too early")
	r.checkReply()
	r.phase = requestReplying
	r.Reply.SetID(r.Packet.ID())
	n := total(r.ReplyParts)
	if op := r.Op(); op.Valid() {
		r.m.stats.Received[op].add(r.payloadBytes()+n, r.m.now().Sub(r.Arrived))
	}
	if n == 0 {
		r.freeMemory()
	}
	if r.Conn.state == connClosed {
		r.m.unsent.push(r)
		r.m.env.Exec.Defer(&r.m.cleanTask)
		return
	}
	r.send.Parts = append(append(r.send.Parts[:0], r.Reply[:]), r.ReplyParts...)
	r.Conn.stream.Send(&r.send)
}

// checkReply refuses to send what would confuse the peer for ever.
func (r *Request) checkReply() {
	op, got := r.Op(), total(r.ReplyParts)
	invariant.Must(r.Reply.Kind() == wire.KindReply && r.Reply.Op() == op, "msgr: reply has another opcode than the request")
	pl, err := wire.ReplyPayload(&r.Reply)
	if err != nil || got != int(pl.Bytes()) {
		invariant.Fail("msgr: reply to %v announces %d bytes but has %d: %v", op, pl.Bytes(), got, err)
	}
}

func (r *Request) payloadBytes() int {
	if op := r.Op(); op == wire.OpRead || op == wire.OpSecRead {
		return 0 // Body is for the reply
	}
	return len(r.Attr) + total(r.Body)
}

// sent runs when the stream does not need the reply's memory any more.
func (r *Request) sent(*env.SendOp, error) {
	r.Conn.sentReplies += uint64(r.send.Sent) + 1
	if f := r.Sent; f != nil {
		r.Sent = nil
		f(r)
	}
	r.release()
}

// requestQueue is a FIFO of requests whose connection was closed before they
// were answered.
type requestQueue struct{ head, tail *Request }

func (q *requestQueue) push(r *Request) {
	r.unlink()
	r.next = nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
}

func (q *requestQueue) pop() *Request {
	r := q.head
	if r == nil {
		return nil
	}
	if q.head = r.next; q.head == nil {
		q.tail = nil
	}
	r.next = nil
	return r
}
