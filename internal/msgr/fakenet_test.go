package msgr

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"vitastor/internal/env"
)

// fakeWorld is a small in-memory env of one loop with two-ended streams. It
// allocates nothing in steady state, unlike internal/sim, and it can cut
// what it delivers anywhere.
type fakeWorld struct {
	time      env.Instant
	timers    env.Timers
	tasks     env.Tasks
	env       env.Env
	streams   []*fakeStream
	listeners map[netip.AddrPort]func(env.Stream) env.StreamHandler
	ports     uint16
	shared    []byte
	window    int                     // bytes that a stream takes before its peer reads
	hang      map[netip.AddrPort]bool // dials never end
	dialled   func(netip.AddrPort)
	cut       func(n int) int // how many of n bytes are delivered at once; nil = all
}

func newFakeWorld() *fakeWorld {
	w := &fakeWorld{listeners: map[netip.AddrPort]func(env.Stream) env.StreamHandler{}, hang: map[netip.AddrPort]bool{}, ports: 40000,
		shared: make([]byte, 128<<10), window: 1 << 20, time: 1}
	w.env = env.Env{Clock: w, Exec: w, Net: w}
	return w
}

func (w *fakeWorld) Now() env.Instant                  { return w.time }
func (w *fakeWorld) WallNanos() int64                  { return int64(w.time) }
func (w *fakeWorld) Arm(t *env.Timer, d time.Duration) { w.timers.Arm(t, w.time.Add(max(d, 1))) }
func (w *fakeWorld) Disarm(t *env.Timer)               { w.timers.Disarm(t) }
func (w *fakeWorld) Defer(t *env.Task)                 { w.tasks.Push(t) }
func (w *fakeWorld) Post(func()) bool                  { panic("not used") }

type fakeListener struct {
	w    *fakeWorld
	addr netip.AddrPort
}

func (l fakeListener) Addr() netip.AddrPort { return l.addr }
func (l fakeListener) Close()               { delete(l.w.listeners, l.addr) }

func (w *fakeWorld) Listen(a netip.AddrPort, accept func(env.Stream) env.StreamHandler) (env.Listener, error) {
	if a.Port() == 0 {
		w.ports++
		a = netip.AddrPortFrom(a.Addr(), w.ports)
	}
	if w.listeners[a] != nil {
		return nil, errors.New("address in use")
	}
	w.listeners[a] = accept
	return fakeListener{w, a}, nil
}

func (w *fakeWorld) Dial(a netip.AddrPort, h env.StreamHandler) env.Stream {
	if w.dialled != nil {
		w.dialled(a)
	}
	w.ports++
	s := &fakeStream{w: w, h: h, dialing: true, local: netip.AddrPortFrom(a.Addr(), w.ports), remote: a}
	w.streams = append(w.streams, s)
	return s
}

// fakeStream is one end; what it sends goes to other.in.
type fakeStream struct {
	w             *fakeWorld
	h             env.StreamHandler
	other         *fakeStream
	local, remote netip.AddrPort
	dialing       bool
	paused        bool
	closed        bool
	eof           bool // other end has closed
	head, tail    *env.SendOp
	in            []byte
	start         int // in[start:] was not delivered
}

func (s *fakeStream) LocalAddr() netip.AddrPort  { return s.local }
func (s *fakeStream) RemoteAddr() netip.AddrPort { return s.remote }
func (s *fakeStream) PauseRead()                 { s.paused = true }
func (s *fakeStream) ResumeRead()                { s.paused = false }

func (s *fakeStream) Send(op *env.SendOp) {
	op.Next, op.Sent = nil, 0
	if s.tail == nil {
		s.head = op
	} else {
		s.tail.Next = op
	}
	s.tail = op
}

func (s *fakeStream) Close() {
	if s.closed {
		return
	}
	s.closed = true
	if s.other != nil {
		s.other.eof = true
	}
}

func (s *fakeStream) pop() *env.SendOp {
	op := s.head
	if s.head = op.Next; s.head == nil {
		s.tail = nil
	}
	op.Next = nil
	return op
}

// run lets everything happen that can happen without time passing.
func (w *fakeWorld) run() {
	for busy := true; busy; {
		busy = false
		for t := w.timers.Pop(w.time); t != nil; t = w.timers.Pop(w.time) {
			t.Fire()
			busy = true
		}
		for t := w.tasks.Pop(); t != nil; t = w.tasks.Pop() {
			t.Run()
			busy = true
		}
		for i := 0; i < len(w.streams); i++ {
			busy = w.streams[i].step() || busy
		}
		kept := w.streams[:0]
		for _, s := range w.streams {
			if !s.closed || s.head != nil {
				kept = append(kept, s)
			}
		}
		w.streams = kept
	}
}

// advance lets d pass, timer by timer.
func (w *fakeWorld) advance(d time.Duration) {
	end := w.time.Add(d)
	for {
		w.run()
		at, ok := w.timers.Next()
		if !ok || at > end {
			w.time = end
			w.run()
			return
		}
		w.time = max(at, w.time)
	}
}

// step does one thing of each kind; false if there was nothing to do.
func (s *fakeStream) step() bool {
	if s.closed {
		busy := s.head != nil
		for s.head != nil {
			op := s.pop()
			op.Done(op, env.ErrStreamClosed)
		}
		return busy
	}
	if s.dialing {
		if s.w.hang[s.remote] {
			return false
		}
		s.connect()
		return true
	}
	a := s.flush()
	b := !s.closed && s.deliver()
	return a || b
}

func (s *fakeStream) connect() {
	s.dialing = false
	accept := s.w.listeners[s.remote]
	if accept == nil {
		s.end(errors.New("connection refused"))
		return
	}
	o := &fakeStream{w: s.w, other: s, local: s.remote, remote: s.local}
	s.other = o
	if o.h = accept(o); o.h == nil {
		o.Close()
	}
	s.w.streams = append(s.w.streams, o)
	s.h.Connected()
}

func (s *fakeStream) end(err error) {
	for s.head != nil {
		op := s.pop()
		op.Done(op, env.ErrStreamClosed)
	}
	if !s.closed {
		s.Close()
		s.h.Closed(err)
	}
}

func (s *fakeStream) flush() bool {
	busy := false
	for s.head != nil && !s.closed {
		op, o := s.head, s.other
		skip := op.Sent
		for _, p := range op.Parts {
			if skip >= len(p) {
				skip -= len(p)
				continue
			}
			room := s.w.window - (len(o.in) - o.start)
			if o.closed {
				room = len(p)
			}
			n := min(len(p)-skip, room)
			if n <= 0 {
				return busy
			}
			if !o.closed {
				o.in = append(o.in, p[skip:skip+n]...)
			}
			busy = true
			if op.Sent += n; n < len(p)-skip {
				return busy
			}
			skip = 0
		}
		s.pop()
		op.Done(op, nil)
		busy = true
	}
	return busy
}

func (s *fakeStream) deliver() bool {
	if s.paused {
		return false
	}
	n := len(s.in) - s.start
	if n == 0 {
		if s.eof {
			s.end(io.EOF)
			return true
		}
		return false
	}
	if s.w.cut != nil {
		n = s.w.cut(n)
	}
	b := s.h.ReadInto()
	if b == nil {
		b = s.w.shared
	}
	n = copy(b[:min(n, len(b))], s.in[s.start:])
	if s.start += n; s.start == len(s.in) {
		s.in, s.start = s.in[:0], 0
	}
	s.h.Received(b[:n])
	if &b[0] == &s.w.shared[0] {
		for i := range b[:n] {
			b[i] = 0xa5 // nobody may have kept it
		}
	}
	return true
}

// randomCuts delivers pieces of any size.
func randomCuts(r *rand.Rand) func(int) int {
	return func(n int) int {
		switch r.IntN(4) {
		case 0:
			return 1 + r.IntN(min(n, 200))
		case 1:
			return 1 + r.IntN(n)
		}
		return n
	}
}

var localhost = netip.MustParseAddr("127.0.0.1")

// rawPeer speaks bytes, not the protocol.
type rawPeer struct {
	s        env.Stream
	received []byte
	reason   error // how the stream ended
	ready    bool
	sips     bool // pauses after each piece
}

func (p *rawPeer) Connected()       { p.ready = true }
func (p *rawPeer) ReadInto() []byte { return nil }
func (p *rawPeer) Received(b []byte) {
	p.received = append(p.received, b...)
	if p.sips {
		p.s.PauseRead()
	}
}
func (p *rawPeer) Closed(err error) { p.reason = err }

func (p *rawPeer) send(b ...[]byte) {
	p.s.Send(&env.SendOp{Parts: b, Done: func(*env.SendOp, error) {}})
}

func (w *fakeWorld) dialRaw(addr netip.AddrPort) *rawPeer {
	p := &rawPeer{}
	p.s = w.Dial(addr, p)
	return p
}

// listenRaw accepts one connection at a time.
func (w *fakeWorld) listenRaw(t testing.TB) (*rawPeer, netip.AddrPort) {
	p := &rawPeer{}
	l, err := w.Listen(netip.AddrPortFrom(localhost, 0), func(s env.Stream) env.StreamHandler {
		*p = rawPeer{s: s, ready: true}
		return p
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, l.Addr()
}
