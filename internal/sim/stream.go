package sim

import (
	"hash/crc32"
	"io"
	"net/netip"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// stream is one end of a connection; it implements env.Stream. What happens in
// the network sets its state and wakes the process; fire then looks at the
// state and calls the handler, so no order of events can confuse it.
type stream struct {
	id            int
	p             *process
	host          *host
	boot          int
	peer          *stream // nil until the SYN was answered
	in, out       *pipe
	h             env.StreamHandler // nil until accepted
	local, remote netip.AddrPort

	connected    bool // both kernels agree
	told         bool // Connected was called, or need not be
	closed       bool // for the process: no more callbacks
	kernelClosed bool // close(2) happened, or the process died
	blackhole    bool
	err          error // from the network; to be told to the process
	paused       bool
	queued       bool // a wake event is on its way
	dirty        bool // in process.dirty
	sends        sendQueue
}

// sendQueue is the FIFO of what the kernel did not take yet.
type sendQueue struct{ head, tail *env.SendOp }

func (q *sendQueue) push(op *env.SendOp) {
	op.Next, op.Sent = nil, 0
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.Next = op
	}
	q.tail = op
}

func (q *sendQueue) pop() *env.SendOp {
	op := q.head
	if q.head = op.Next; q.head == nil {
		q.tail = nil
	}
	op.Next = nil
	return op
}

// readsPerWake limits how long one stream keeps the loop.
const readsPerWake = 8

// sharedReadBytes is the size of the loop's shared receive buffer.
const sharedReadBytes = 64 << 10

func (h *host) newStream(p *process, local, remote netip.AddrPort) *stream {
	h.net.streams++
	return &stream{id: h.net.streams, p: p, host: h, boot: h.boot, local: local, remote: remote}
}

// join makes s, which dials, and peer, which accepts, ends of one connection.
func join(s, peer *stream) {
	s.peer, peer.peer = peer, s
	s.out, peer.out = newPipe(s.host.net, s, peer), newPipe(s.host.net, peer, s)
	s.in, peer.in = peer.out, s.out
	peer.told = true
}

// gone tells whether the kernel that knew this end has lost its power since.
func (s *stream) gone() bool { return s.boot != s.host.boot }

// Send implements env.Stream.
func (s *stream) Send(op *env.SendOp) {
	if s.p.dead {
		return
	}
	s.sends.push(op)
	s.markDirty()
}

func (s *stream) markDirty() {
	if !s.dirty && !s.p.dead {
		s.dirty = true
		s.p.dirty = append(s.p.dirty, s)
		if s.p.w.current != s.p { // called outside of a callback, by a test
			s.wake()
		}
	}
}

// PauseRead implements env.Stream.
func (s *stream) PauseRead() { s.paused = true }

// ResumeRead implements env.Stream.
func (s *stream) ResumeRead() {
	if s.paused && !s.p.dead {
		s.paused = false
		s.wake()
	}
}

// Close implements env.Stream.
func (s *stream) Close() {
	if s.closed || s.p.dead {
		return
	}
	s.closed = true
	s.kernelClose(false)
	if s.sends.head != nil {
		s.markDirty() // they end there, not inside of Close
	}
}

// Abort implements env.Aborter.
func (s *stream) Abort() {
	if s.closed || s.p.dead {
		return
	}
	s.kernelClose(true)
	s.Close()
}

// LocalAddr implements env.Stream.
func (s *stream) LocalAddr() netip.AddrPort { return s.local }

// RemoteAddr implements env.Stream.
func (s *stream) RemoteAddr() netip.AddrPort { return s.remote }

// kernelClose is close(2): what the kernel has taken is still sent, then the
// end; but with unread data, or if abrupt, the peer gets a reset.
func (s *stream) kernelClose(abrupt bool) {
	if s.kernelClosed {
		return
	}
	s.kernelClosed = true
	s.host.net.w.trace(traceNetClose, s.id, boolBit(abrupt), 0)
	if i := slices.Index(s.host.endpoints, s); i >= 0 {
		s.host.endpoints = slices.Delete(s.host.endpoints, i, i+1)
	}
	if !s.connected || s.err != nil || s.gone() {
		return
	}
	if abrupt || s.in.readable() > 0 {
		s.out.broken = true
		s.out.sendReset(s)
		return
	}
	s.out.fin = true
	s.out.pump()
}

// fail tells the kernel of this end that the connection is broken.
func (s *stream) fail(err error) {
	if s.err != nil || s.gone() {
		return
	}
	s.err = err
	if s.out != nil {
		s.out.broken = true
	}
	if s.kernelClosed {
		return
	}
	s.host.net.w.trace(traceNetClose, s.id, 2, 0)
	// The kernel still has what came before; a loop may look at it or not.
	if s.in != nil && s.host.net.rng.Uint64()&1 == 0 {
		s.in.read = min(s.in.arrived, s.in.written)
	}
	s.wake()
}

// wake makes the process look at the stream.
func (s *stream) wake() {
	if !s.queued && !s.p.dead && s.h != nil && !s.closed {
		s.queued = true
		s.p.w.deliver(s.p, s, 0)
	}
}

// fire is the loop's look at a stream that may have something new.
func (s *stream) fire(uint64) {
	s.queued = false
	if s.connected && !s.told && !s.closed && s.err == nil {
		s.told = true
		s.h.Connected()
		s.markDirty()
	}
	if !s.closed && s.told {
		s.receive()
		if s.sends.head != nil {
			s.markDirty()
		}
	}
	if s.closed {
		return
	}
	switch {
	case s.err != nil && (s.paused || !s.told || s.in.readable() == 0):
		s.end(s.err)
	case s.told && !s.paused && s.in.ended():
		s.end(io.EOF)
	case s.told && !s.paused && s.in.readable() > 0:
		s.wake()
	}
}

// receive hands over what has arrived, in pieces like those of read(2).
func (s *stream) receive() {
	rng := s.host.net.rng
	for range readsPerWake {
		n := 0
		if !s.closed && !s.paused && !s.p.dead {
			n = s.in.readable()
		}
		if n == 0 {
			return
		}
		if x := rng.Uint64(); x&7 == 0 {
			n = 1 + int(x>>3%uint64(n))
		}
		b := s.h.ReadInto()
		if s.closed || s.p.dead {
			return
		}
		shared := b == nil
		if shared {
			if s.p.shared == nil {
				s.p.shared = make([]byte, sharedReadBytes)
			}
			b = s.p.shared
		}
		invariant.Must(len(b) > 0, "sim: ReadInto returned memory without room")
		b = b[:min(n, len(b))]
		s.in.take(b)
		s.p.w.trace(traceNetData, -s.id, uint64(len(b)), uint64(crc32.Checksum(b, castagnoli)))
		s.h.Received(b)
		if shared && invariant.Enabled {
			clear(b) // nobody may have kept it
		}
	}
}

// end is the last thing that the process hears of the stream.
func (s *stream) end(err error) {
	s.kernelClose(false)
	s.told = true
	failing := s.sends
	s.sends = sendQueue{}
	for failing.head != nil && !s.p.dead {
		op := failing.pop()
		op.Done(op, env.ErrStreamClosed)
	}
	if !s.closed && !s.p.dead {
		s.closed = true
		s.h.Closed(err)
	}
	if s.sends.head != nil {
		s.markDirty()
	}
}

// flush gives the kernel what it can take of the queued sends.
func (s *stream) flush() {
	for s.sends.head != nil && !s.p.dead {
		if s.closed {
			op := s.sends.pop()
			op.Done(op, env.ErrStreamClosed)
			continue
		}
		if !s.connected || !s.told || s.err != nil {
			return
		}
		op := s.sends.head
		if !s.copyOut(op) {
			break
		}
		s.sends.pop()
		op.Done(op, nil)
	}
	if s.connected && !s.kernelClosed {
		s.out.pump()
	}
}

// copyOut moves bytes of op to the send buffer; true when all are there.
func (s *stream) copyOut(op *env.SendOp) bool {
	skip := op.Sent
	for _, part := range op.Parts {
		if skip >= len(part) {
			skip -= len(part)
			continue
		}
		n := s.out.accept(part[skip:])
		op.Sent += n
		if n < len(part)-skip {
			return false
		}
		skip = 0
	}
	return true
}

// flushStreams flushes what was sent on during this turn of the loop; false
// when there was nothing.
func (p *process) flushStreams() bool {
	if len(p.dirty) == 0 {
		return false
	}
	batch := p.dirty
	p.dirty = p.spareDirty[:0]
	for _, s := range batch {
		s.dirty = false
	}
	for _, s := range batch {
		if p.dead {
			break
		}
		s.flush()
	}
	clear(batch)
	p.spareDirty = batch
	return true
}
