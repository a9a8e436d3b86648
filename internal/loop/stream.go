package loop

import (
	"io"
	"net/netip"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/sys"
)

// streamState is the life of a stream. Only open streams read and send.
type streamState uint8

const (
	connecting streamState = iota
	open
	ending // sends are being completed, Closed is next
	closed
)

// stream implements env.Stream and env.Prioritized on a TCP socket.
type stream struct {
	l       *Loop
	fd      int
	handler env.StreamHandler // nil while accept decides
	state   streamState
	paused  bool
	full    bool // the socket takes no more bytes: wait for EventOut

	wanted   uint32 // events that epoll knows of
	priority env.Priority
	dirty    bool // in the flusher's list
	next     *stream

	queue sendQueue
	part  int // position of the first unsent byte in queue.head
	off   int

	local, remote netip.AddrPort
}

// sendQueue is a FIFO of sends.
type sendQueue struct {
	head, tail *env.SendOp
}

func (q *sendQueue) push(op *env.SendOp) {
	op.Next = nil
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.Next = op
	}
	q.tail = op
}

func (q *sendQueue) pop() *env.SendOp {
	op := q.head
	if op == nil {
		return nil
	}
	if q.head = op.Next; q.head == nil {
		q.tail = nil
	}
	op.Next = nil
	return op
}

// take moves all of from to the end of q.
func (q *sendQueue) take(from *sendQueue) {
	if from.head == nil {
		return
	}
	if q.tail == nil {
		q.head = from.head
	} else {
		q.tail.Next = from.head
	}
	q.tail = from.tail
	*from = sendQueue{}
}

// Send implements env.Stream.
func (s *stream) Send(op *env.SendOp) {
	invariant.Must(op.Next == nil && s.queue.tail != op, "loop: a send was queued twice")
	op.Sent = 0
	if s.state >= ending {
		s.l.flush.dropped.push(op)
		return
	}
	s.queue.push(op)
	s.l.flush.add(s)
}

// PauseRead implements env.Stream.
func (s *stream) PauseRead() { s.setPaused(true) }

// ResumeRead implements env.Stream.
func (s *stream) ResumeRead() { s.setPaused(false) }

func (s *stream) setPaused(p bool) {
	if s.paused != p && s.state < ending {
		s.paused = p
		s.l.flush.add(s) // tells epoll, once per iteration
	}
}

// SetPriority implements env.Prioritized.
func (s *stream) SetPriority(p env.Priority) { s.priority = min(p, env.PriorityCount-1) }

// LocalAddr implements env.Stream.
func (s *stream) LocalAddr() netip.AddrPort { return s.local }

// RemoteAddr implements env.Stream.
func (s *stream) RemoteAddr() netip.AddrPort { return s.remote }

// Close implements env.Stream.
func (s *stream) Close() {
	if s.state == closed {
		return
	}
	s.release()
	s.state = closed
	s.l.flush.dropped.take(&s.queue)
}

// Abort implements env.Aborter.
func (s *stream) Abort() {
	if s.fd >= 0 {
		s.l.poll.remove(s.fd)
		sys.CloseReset(s.fd)
		s.fd = -1
		s.l.conns--
	}
	s.Close()
}

// release gives the descriptor back. Unsent bytes are lost.
func (s *stream) release() {
	if s.fd >= 0 {
		s.l.poll.remove(s.fd)
		sys.Close(s.fd)
		s.fd = -1
		s.l.conns--
	}
}

// fail ends the stream for the reason err and tells everybody. It is called by
// the loop only, never inside a call of the stream's owner.
func (s *stream) fail(err error) {
	if s.state >= ending {
		return
	}
	s.release()
	s.state = ending
	for op := s.queue.pop(); op != nil; op = s.queue.pop() {
		op.Done(op, env.ErrStreamClosed)
	}
	if s.state == ending { // not closed by one of the sends
		s.state = closed
		s.handler.Closed(err)
	}
}

// ready handles the events of the socket.
func (s *stream) ready(events uint32) {
	if s.state == connecting {
		s.connected()
		return
	}
	if events&sys.EventOut != 0 {
		s.full = false
		s.l.flush.add(s)
	}
	if events&(sys.EventIn|sys.EventErr|sys.EventHup) == 0 {
		return
	}
	if !s.paused {
		s.read()
	} else if events&(sys.EventErr|sys.EventHup) != 0 {
		s.fail(reason(sys.SocketError(s.fd)))
	}
}

// reason is the error of a broken connection.
func reason(e syscall.Errno) error {
	if e == 0 {
		return io.EOF
	}
	return e
}

// read receives until the socket is empty, as a short read tells without
// another system call, or others have to have their turn.
func (s *stream) read() {
	for range readsPerEvent {
		b := s.handler.ReadInto()
		if s.state != open || s.paused {
			return
		}
		if len(b) == 0 {
			b = s.l.shared
		}
		n, e := sys.Read(s.fd, b)
		switch {
		case e == syscall.EAGAIN:
			return
		case n == 0:
			s.fail(reason(e))
			return
		}
		s.handler.Received(b[:n])
		if s.state != open || s.paused || n < len(b) {
			return
		}
	}
}

// want tells epoll what the stream waits for, if that changed.
func (s *stream) want() {
	var events uint32
	switch {
	case s.state == connecting:
		events = sys.EventOut
	default:
		if !s.paused {
			events |= sys.EventIn
		}
		if s.full {
			events |= sys.EventOut
		}
	}
	if events != s.wanted {
		s.wanted = events
		s.l.poll.change(s.fd, events)
	}
}
