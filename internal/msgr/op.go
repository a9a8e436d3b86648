package msgr

import (
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/wire"
)

// Op is one request to a peer. The caller owns it, fills it, submits it and may
// reuse it from Done on. Between Submit and Done all its memory belongs to the
// messenger. It must not be copied after its first use.
type Op struct {
	// Packet is the encoded request. The messenger numbers it.
	Packet wire.Packet
	// Payload follows the packet: exactly as many bytes as it announces.
	Payload [][]byte
	// Attr and Body are memory for the payload of the reply: bitmap and the
	// rest. What does not fit breaks the connection, so they are as large as
	// the peer may need. The packet tells how much to expect for reads.
	Attr []byte
	Body [][]byte
	// Grow, if set, is asked for memory when Body is too small for a reply of
	// the given length, which the peer chooses (lists): it sets op.Body and
	// returns true, or refuses, which breaks the connection. Reply is valid.
	Grow func(op *Op, bytes int) bool
	// Timeout > 0 breaks the connection when no reply has come by then: a
	// request that was sent cannot be taken back. One that still waits for
	// its turn completes with ETIMEDOUT.
	Timeout time.Duration
	// Done is called once for each Submit.
	Done func(op *Op)
	// User is the owner's.
	User any

	// Retval is the result: the reply's, or EPIPE or ETIMEDOUT if there is none.
	Retval wire.Retval
	// Lost tells that there is no reply. With EPIPE nobody knows whether the
	// request was executed.
	Lost bool
	// Reply is the packet received, unless Lost.
	Reply wire.Packet
	// AttrBytes and BodyBytes are the lengths received.
	AttrBytes int
	BodyBytes int

	conn    *Conn
	next    *Op // in Conn.pending or Messenger.lost
	send    env.SendOp
	timer   env.Timer
	started env.Instant
	phase   opPhase
	sending bool // the stream still has the request
}

type opPhase uint8

const (
	opIdle      opPhase = iota // the caller's
	opPending                  // in Conn.pending
	opSent                     // in Conn.table
	opReceiving                // Conn.receiving: its payload is arriving
	opReplied                  // complete, but the stream still has the request
	opLost                     // to be completed with EPIPE
)

func (p opPhase) String() string {
	return [...]string{"idle", "waiting to be sent", "sent", "receiving", "replied", "lost"}[p]
}

// opQueue is a FIFO of Ops.
type opQueue struct{ head, tail *Op }

func (q *opQueue) push(op *Op) {
	op.next = nil
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.next = op
	}
	q.tail = op
}

func (q *opQueue) pop() *Op {
	op := q.head
	if op == nil {
		return nil
	}
	if q.head = op.next; q.head == nil {
		q.tail = nil
	}
	op.next = nil
	return op
}

// remove takes op out of the middle; it is for timeouts only.
func (q *opQueue) remove(op *Op) {
	var kept opQueue
	for o := q.pop(); o != nil; o = q.pop() {
		if o != op {
			kept.push(o)
		}
	}
	*q = kept
}

// Submit sends op over c. If c is closed, or gets closed, op completes with
// EPIPE. More than Limits.OpsPerConn at a time wait for their turn.
func (c *Conn) Submit(op *Op) {
	invariant.Must(op.phase == opIdle && op.Done != nil, "msgr: Op submitted twice or without Done")
	invariant.Must(op.Packet.Kind() == wire.KindRequest, "msgr: Op without a request")
	pl, err := wire.RequestPayload(&op.Packet)
	if n := total(op.Payload); err != nil || n != int(pl.Bytes()) {
		invariant.Fail("msgr: %v announces %d bytes but has %d: %v", op.Packet.Op(), pl.Bytes(), n, err)
	}
	c.begin(op)
	switch {
	case c.state == connClosed:
		op.phase = opLost
		c.m.lose(op)
	case c.pending.head != nil || c.table.count >= c.m.limits.OpsPerConn || c.state != connReady:
		op.phase = opPending
		c.pending.push(op)
	default:
		c.transmit(op)
	}
}

// begin makes op the messenger's.
func (c *Conn) begin(op *Op) {
	op.conn, op.started = c, c.m.now()
	op.Retval, op.Lost, op.AttrBytes, op.BodyBytes = 0, false, 0, 0
	c.ops++
	if op.Timeout > 0 {
		if op.timer.Fire == nil {
			op.timer.Fire = op.timedOut
		}
		c.m.env.Clock.Arm(&op.timer, op.Timeout)
	}
}

// transmit numbers op and gives it to the stream: ids are in wire order.
func (c *Conn) transmit(op *Op) {
	if op.send.Done == nil {
		op.send.Done = op.sent
	}
	c.lastID++
	op.Packet.SetID(c.lastID)
	op.phase, op.sending = opSent, true
	c.table.put(c.lastID, op)
	op.send.Parts = append(append(op.send.Parts[:0], op.Packet[:]), op.Payload...)
	c.stream.Send(&op.send)
}

// sent runs when the stream does not need the request's memory any more.
func (op *Op) sent(_ *env.SendOp, _ error) {
	op.sending = false
	switch op.phase {
	case opReplied:
		op.conn.complete(op)
	case opLost:
		op.conn.m.lose(op)
	}
}

func (op *Op) timedOut() {
	c := op.conn
	switch op.phase {
	case opPending:
		c.pending.remove(op)
		op.Retval, op.Lost = wire.ETIMEDOUT, true
		c.complete(op)
	case opSent, opReceiving:
		c.drop(fmt.Errorf("%v was not answered within %v", op.Packet.Op(), op.Timeout))
	}
}

// replied runs when the reply is in op's memory.
func (c *Conn) replied(op *Op) {
	op.Retval = op.Reply.Retval()
	if op.sending { // a peer that answers before it can know the question
		op.phase = opReplied
		return
	}
	c.complete(op)
}

// complete gives op back to its owner, then lets the next ones go.
func (c *Conn) complete(op *Op) {
	op.phase = opIdle
	if op.timer.Armed() {
		c.m.env.Clock.Disarm(&op.timer)
	}
	if o := op.Packet.Op(); !op.Lost && o.Valid() {
		c.m.stats.Sent[o].add(total(op.Payload)+op.AttrBytes+op.BodyBytes, c.m.now().Sub(op.started))
	}
	if c.ops--; c.ops == 0 && c.state == connClosed {
		c.m.env.Exec.Defer(&c.m.cleanTask)
	}
	op.Done(op)
	c.pump()
}

// pump sends Ops that waited for their turn.
func (c *Conn) pump() {
	for c.state == connReady && c.pending.head != nil && c.table.count < c.m.limits.OpsPerConn {
		c.transmit(c.pending.pop())
	}
}

// reply handles the packet of a reply.
func (c *Conn) reply(p *wire.Packet) {
	op, slot := c.table.get(p.ID())
	if op == nil {
		c.drop(fmt.Errorf("reply to request %d (%v), which was not made", p.ID(), p.Op()))
		return
	}
	if err := wire.CheckReply(&op.Packet, p, uint32(len(op.Attr))); err != nil {
		c.drop(err)
		return
	}
	pl, err := wire.ReplyPayload(p)
	if err != nil {
		c.drop(err)
		return
	}
	op.Reply = *p
	if n := int(pl.Body); n > 0 && n > total(op.Body) && (op.Grow == nil || !op.Grow(op, n) || n > total(op.Body)) {
		c.drop(fmt.Errorf("reply to %v has %d bytes of payload, more than was expected", p.Op(), n))
		return
	}
	c.table.remove(slot)
	op.AttrBytes, op.BodyBytes = int(pl.Attr), int(pl.Body)
	if pl.Bytes() == 0 {
		c.replied(op)
		return
	}
	op.phase = opReceiving
	c.receiving = op
	c.sink.receive(op.Attr, pl.Attr, op.Body, pl.Body)
}

// loseAll marks every Op of a closed connection as lost.
func (c *Conn) loseAll() {
	lose := func(op *Op) {
		op.phase = opLost
		if !op.sending {
			c.m.lose(op)
		}
	}
	if c.receiving != nil {
		lose(c.receiving)
		c.receiving = nil
	}
	for i := range c.table.slots {
		if op := c.table.slots[i].op; op != nil {
			lose(op)
		}
	}
	c.table = opTable{}
	for op := c.pending.pop(); op != nil; op = c.pending.pop() {
		lose(op)
	}
}

// lose queues op for completion with EPIPE: never inside the call of an owner.
func (m *Messenger) lose(op *Op) {
	m.lost.push(op)
	m.env.Exec.Defer(&m.cleanTask)
}
