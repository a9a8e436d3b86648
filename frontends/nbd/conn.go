package nbd

import (
	"errors"
	"io"
	"slices"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/nbd/nbdproto"
	"vitastor/internal/env"
)

// phase is the life of a connection.
type phase uint8

const (
	handshaking phase = iota
	answering         // handshaking; an answer is being sent, nothing is read
	transmitting
	leaving // nothing is read any more; requests in flight are answered
	dead    // the stream is closed
)

// conn is one client.
type conn struct {
	s         *Server
	stream    env.Stream
	from      string // for the log
	phase     phase
	handshake *nbdproto.Handshake // nil afterwards
	verdict   nbdproto.Verdict    // of the answer that is being sent
	session   nbdproto.Session
	export    *export // in use, or looked at last
	deadline  env.Timer
	answer    env.SendOp

	// Received and not used yet: the beginning of an option, or everything
	// after a request that has to wait.
	backlog []byte

	head      [nbdproto.RequestBytes]byte
	headBytes int
	skip      uint64 // bytes of a payload that nobody wants
	incoming  *slot  // its payload is being received
	part, off int    // where its next byte goes
	direct    target // what ReadInto returned
	large     bool   // the last payload was: read heads alone

	free     *slot // idle ones
	slots    int   // that exist
	inFlight int
	bytes    int  // of payload memory
	working  int  // requests in the hands of the disk
	over     bool // end has run
	blocked  bool // does not read: no slot or no memory
	queued   bool // in s.waiting
	retries  env.Task

	// For Server.relieve: what was received and sent, and when it was the same.
	progress, seen uint64
	stalled        int
}

// target is where received bytes go.
type target uint8

const (
	toShared  target = iota // the loop's buffer
	toPayload               // memory of incoming
	toHead
)

// directBytesMin is the rest of a payload from which on another system call is
// cheaper than copying it out of the loop's buffer.
const directBytesMin = 32 << 10

// newConn serves a client; inside is the handshake inside of TLS, otherwise nil.
func newConn(s *Server, stream env.Stream, from string, inside *nbdproto.Handshake) *conn {
	c := &conn{s: s, stream: stream, from: from}
	c.deadline.Fire = func() { c.drop(errors.New("the handshake takes too long")) }
	c.answer.Done = func(_ *env.SendOp, err error) { c.answered(err) }
	c.retries.Run = c.retry
	s.config.Env.Clock.Arm(&c.deadline, handshakeMax)
	if inside != nil {
		c.handshake = inside.Inside(c)
		return c
	}
	c.handshake = nbdproto.NewHandshake(c, s.config.TLS)
	c.say(nbdproto.Greeting(nil), nbdproto.Answered)
	return c
}

// Find implements nbdproto.Exports.
func (c *conn) Find(name string) (nbdproto.Export, error) {
	x, err := c.s.acquire(name)
	if err != nil {
		return nbdproto.Export{}, err
	}
	if c.export != nil {
		c.s.release(c.export)
	}
	c.export = x
	return c.s.describe(x), nil
}

// List implements nbdproto.Exports.
func (c *conn) List(f func(name, description string)) { c.s.config.Catalogue.List(f) }

// Connected implements env.StreamHandler.
func (c *conn) Connected() {}

// say sends an answer of the handshake. Nothing is read meanwhile, so that a
// client that does not listen cannot fill our memory.
func (c *conn) say(b []byte, v nbdproto.Verdict) {
	c.phase, c.verdict = answering, v
	c.answer.Parts = [][]byte{b}
	c.stream.PauseRead()
	c.stream.Send(&c.answer)
}

// answered goes on after an answer of the handshake.
func (c *conn) answered(err error) {
	if err != nil || c.phase != answering {
		return
	}
	switch c.verdict {
	case nbdproto.Finished:
		c.drop(nil)
		return
	case nbdproto.StartTLS:
		if len(c.backlog) > 0 {
			c.drop(errors.New("the client sent something in clear text after it had asked for TLS"))
			return
		}
		c.leave()
		c.s.config.StartTLS(c.stream, c.handshake)
		return
	case nbdproto.Ready:
		c.begin()
	default:
		c.phase = handshaking
	}
	c.stream.ResumeRead()
	c.goOn()
}

// begin is the end of the handshake.
func (c *conn) begin() {
	c.session, c.phase = c.handshake.Session(), transmitting
	c.handshake, c.answer.Parts = nil, nil
	c.s.config.Env.Clock.Disarm(&c.deadline)
	c.s.log.Info("client", "from", c.from, "export", c.session.Export)
}

// goOn uses what was received before.
func (c *conn) goOn() {
	if b := c.backlog; len(b) > 0 {
		c.backlog = nil
		c.use(b)
		if c.backlog == nil && cap(b) <= 2*nbdproto.OptionBytesMax {
			c.backlog = b[:0] // memory for next time
		}
	}
}

// ReadInto implements env.StreamHandler: large payloads go straight to where
// they belong. Where the last one was large the next one probably is: then its
// request is read alone, so that nothing of the payload must be copied.
func (c *conn) ReadInto() []byte {
	c.direct = toShared
	switch {
	case c.incoming != nil:
		if rest := c.incoming.bufs[c.part][c.off:]; len(rest) >= directBytesMin {
			c.direct = toPayload
			return rest
		}
	case c.large && c.phase == transmitting && c.skip == 0:
		c.direct = toHead
		return c.head[c.headBytes:]
	}
	return nil
}

// Received implements env.StreamHandler.
func (c *conn) Received(b []byte) {
	c.progress += uint64(len(b))
	switch {
	case c.direct == toPayload:
		c.advance(len(b))
	case c.direct == toHead:
		if c.headBytes += len(b); c.headBytes == len(c.head) && !c.request() {
			c.block()
		}
	case len(c.backlog) > 0:
		c.backlog = append(c.backlog, b...)
		c.goOn()
	default:
		c.use(b)
	}
}

// use consumes received bytes; what cannot be used now is kept.
func (c *conn) use(b []byte) {
	for c.phase == handshaking {
		used, reply, verdict, err := c.handshake.Next(b, nil)
		b = b[used:]
		switch {
		case err != nil:
			c.drop(err)
			return
		case verdict == nbdproto.NeedMore:
			c.keep(b)
			return
		case len(reply) > 0 || verdict == nbdproto.Finished:
			c.keep(b)
			c.say(reply, verdict)
			return
		}
	}
	if c.phase == answering {
		c.keep(b)
		return
	}
	c.transmit(b)
}

func (c *conn) keep(b []byte) { c.backlog = append(c.backlog[:0], b...) }

// transmit consumes bytes of requests and payloads.
func (c *conn) transmit(b []byte) {
	for c.phase == transmitting && len(b) > 0 {
		switch {
		case c.skip > 0:
			n := min(c.skip, uint64(len(b)))
			c.skip -= n
			b = b[n:]
		case c.incoming != nil:
			n := copy(c.incoming.bufs[c.part][c.off:], b)
			b = b[n:]
			c.advance(n)
		default:
			n := copy(c.head[c.headBytes:], b)
			b = b[n:]
			c.headBytes += n
			if c.headBytes == len(c.head) && !c.request() {
				c.keep(b)
				c.block()
				return
			}
		}
	}
}

// advance counts received bytes of a payload, and executes its request when all
// are there.
func (c *conn) advance(n int) {
	sl := c.incoming
	if c.off += n; c.off < len(sl.bufs[c.part]) {
		return
	}
	c.part, c.off = c.part+1, 0
	if c.part == len(sl.bufs) {
		c.incoming = nil
		sl.start()
	}
}

// request handles the request in head, whose payload follows. It returns false,
// and leaves head as it is, when there is no slot or no memory now.
func (c *conn) request() bool {
	q, ok := nbdproto.ParseRequest(&c.head)
	if !ok {
		c.drop(errors.New("a request has the wrong magic number: not the NBD protocol, or bytes were lost"))
		return true
	}
	if q.Type == nbdproto.CmdDisconnect {
		c.farewell()
		return true
	}
	sl := c.slot()
	if sl == nil {
		return false
	}
	sl.q = q
	if e, text := c.session.Check(&q); e != 0 {
		c.headBytes, c.skip, c.large = 0, uint64(q.Payload()), false
		sl.fail(e, text)
		return true
	}
	if !c.room(sl) {
		c.put(sl)
		return false
	}
	c.headBytes = 0
	if q.Type == nbdproto.CmdWrite && q.Length > 0 {
		c.incoming, c.part, c.off = sl, 0, 0
		c.large = q.Length >= directBytesMin
		return true
	}
	c.large = false
	sl.start()
	return true
}

// room takes memory for the payload of a request.
func (c *conn) room(sl *slot) bool {
	n := 0
	if sl.q.Type == nbdproto.CmdRead || sl.q.Type == nbdproto.CmdWrite {
		n = int(sl.q.Length)
	}
	if n == 0 {
		return true
	}
	if c.inFlight > 1 && c.bytes+n > c.s.config.MemoryBytes/memoryShare {
		return false // until one of its own requests has ended
	}
	if !c.s.turn(c) {
		return false
	}
	bufs, ok := c.s.memory(sl.bufs[:0], n)
	if sl.bufs = bufs; !ok {
		c.s.queue(c)
		return false
	}
	c.bytes += n
	return true
}

// block stops reading until there is a slot, or memory.
func (c *conn) block() {
	c.blocked = true
	c.stream.PauseRead()
}

// retry tries the request again that had to wait.
func (c *conn) retry() {
	if !c.blocked || c.phase != transmitting {
		c.unqueue()
		return
	}
	if !c.request() {
		return
	}
	c.unqueue()
	if c.blocked = false; c.phase == transmitting {
		c.stream.ResumeRead()
	}
	c.goOn()
}

func (c *conn) unqueue() {
	if c.queued {
		c.queued = false
		c.s.waiting = slices.DeleteFunc(c.s.waiting, func(x *conn) bool { return x == c })
		c.s.freed()
	}
}

// farewell answers what is in flight, then closes: the client said good bye.
func (c *conn) farewell() {
	c.phase, c.headBytes = leaving, 0
	c.stream.PauseRead()
	if c.inFlight == 0 {
		c.drop(io.EOF)
	}
}

// drop closes the connection; why is nil if there is nothing to tell.
func (c *conn) drop(why error) {
	if c.phase == dead {
		return
	}
	c.stream.Close()
	c.leave()
	c.gone(why)
}

// Closed implements env.StreamHandler.
func (c *conn) Closed(err error) {
	c.leave()
	c.gone(err)
}

func (c *conn) gone(why error) {
	switch {
	case why != nil && !errors.Is(why, io.EOF):
		c.s.log.Warn("connection to a client ended", "from", c.from, "export", c.session.Export, "err", why)
	case c.session.Flags != 0: // it did more than to look
		c.s.log.Info("client has left", "from", c.from, "export", c.session.Export)
	}
}

// leave ends the connection without the stream. Requests in flight go on; the
// last one takes the rest with it.
func (c *conn) leave() {
	c.phase = dead
	c.s.config.Env.Clock.Disarm(&c.deadline)
	if sl := c.incoming; sl != nil {
		c.incoming = nil
		c.put(sl)
	}
	c.unqueue()
	c.backlog = nil
	c.end()
}

// end flushes for a client that is gone and has nothing in flight any more, then
// forgets it: what it wrote does not stay in memory for long.
func (c *conn) end() {
	if c.phase != dead || c.inFlight > 0 || c.over {
		return
	}
	c.over = true
	if c.export == nil || c.session.Flags == 0 || c.session.Flags&nbdproto.ReadOnly != 0 {
		c.forget()
		return
	}
	r := &blockdev.Request{Kind: blockdev.Flush}
	r.Done = func(r *blockdev.Request) {
		if r.Err != 0 {
			c.s.log.Error("the last writes of a client may be lost", "export", c.session.Export, "err", r.Err)
		}
		c.forget()
	}
	c.export.disk.Submit(r)
}

func (c *conn) forget() {
	delete(c.s.conns, c)
	if c.export != nil {
		c.s.release(c.export)
	}
	c.s.ended()
}
