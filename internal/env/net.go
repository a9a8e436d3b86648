package env

import (
	"errors"
	"net/netip"
)

// Net makes byte streams between processes (TCP).
type Net interface {
	// Listen accepts streams on addr (port 0 = any free one). For each,
	// accept returns the handler; the stream is connected already and
	// StreamHandler.Connected is not called. A nil handler refuses: the
	// stream is closed.
	Listen(addr netip.AddrPort, accept func(Stream) StreamHandler) (Listener, error)
	// Dial starts connecting and returns at once; h.Connected or h.Closed
	// follows. The caller limits the time with a Timer and Close.
	Dial(addr netip.AddrPort, h StreamHandler) Stream
}

// Listener is an open listening address.
type Listener interface {
	Addr() netip.AddrPort
	Close()
}

// Stream is one ordered, reliable, full-duplex byte stream.
type Stream interface {
	// Send queues op.Parts, also before the stream is connected. They must stay
	// unchanged until op.Done. Streams flush once per loop iteration, so many
	// sends share one system call. Sends complete in order.
	Send(op *SendOp)
	// PauseRead stops Received until ResumeRead: back-pressure on the peer.
	// The end of the stream may be reported meanwhile or afterwards.
	PauseRead()
	ResumeRead()
	// Close ends the stream at once. Queued sends complete with
	// ErrStreamClosed (after Close has returned); no method of the handler is
	// called any more.
	Close()
	LocalAddr() netip.AddrPort
	RemoteAddr() netip.AddrPort
}

// Prioritized is what a Stream may also be. Streams of a lower Priority are
// flushed before others in an iteration; the default is PriorityNormal.
type Prioritized interface {
	SetPriority(p Priority)
}

// Priority is an order among streams that have something to send.
type Priority uint8

const (
	PriorityFirst  Priority = iota // other replicas, which work while we do the rest
	PriorityNormal                 // clients
	PriorityLast                   // background
	PriorityCount
)

// StreamHandler is told what happens on a stream.
type StreamHandler interface {
	// Connected ends a successful Dial.
	Connected()
	// ReadInto returns memory for the next bytes, or nil for the loop's
	// shared buffer. Large payloads are received without a copy this way.
	ReadInto() []byte
	// Received gets new bytes: either a prefix of what ReadInto returned, or
	// a piece of the shared buffer, valid only during the call.
	Received(b []byte)
	// Closed is the last call: the peer closed (io.EOF), the connection
	// broke or could not be made. Queued sends have completed before, with
	// ErrStreamClosed.
	Closed(err error)
}

// Aborter is what a Stream may also be. Abort is Close, but what was sent and
// has not arrived never will: close(2) lets the kernel repeat it for minutes,
// so that a request could be executed long after its owner has repeated it
// elsewhere and gone on.
type Aborter interface {
	Abort()
}

// SendOp is one queued send; the caller owns it, sets Done once and reuses it.
type SendOp struct {
	Parts [][]byte
	// Done runs when the parts may be reused: with nil when all bytes were
	// handed to the transport, which does not mean that the peer got them.
	Done func(op *SendOp, err error)

	// Next and Sent belong to the stream while op is queued.
	Next *SendOp
	Sent int // bytes already written
}

// ErrStreamClosed is the result of sends on a closed stream.
var ErrStreamClosed = errors.New("stream is closed")
