package envtest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"vitastor/internal/env"
)

var netChecks = []check{
	{"dial, accept, addresses", checkNetConnect},
	{"bytes arrive complete and in order", checkNetStream},
	{"receiving into own memory", checkNetReadInto},
	{"refused dial", checkNetRefused},
	{"close of a dial", checkNetCloseDial},
	{"sends before the connection", checkNetSendEarly},
	{"end of stream", checkNetEOF},
	{"close ends everything", checkNetClose},
	{"close inside callbacks", checkNetCloseInside},
	{"close while the end is reported", checkNetCloseFailing},
	{"send on a closed stream", checkNetSendClosed},
	{"paused reading is back-pressure", checkNetPause},
	{"accept may refuse", checkNetAcceptNil},
	{"listener close and address in use", checkNetListener},
}

// probe is a StreamHandler made of functions; nil ones fail the test when called.
type probe struct {
	t         *testing.T
	connected func()
	readInto  func() []byte
	received  func([]byte)
	closed    func(error)
	ended     bool
}

func (p *probe) Connected() {
	p.check("Connected", p.connected != nil)
	p.connected()
}

func (p *probe) ReadInto() []byte {
	p.check("ReadInto", true)
	if p.readInto == nil {
		return nil
	}
	return p.readInto()
}

func (p *probe) Received(b []byte) {
	p.check("Received", p.received != nil)
	if len(b) == 0 {
		p.t.Error("Received nothing")
	}
	p.received(b)
}

func (p *probe) Closed(err error) {
	p.check("Closed", p.closed != nil)
	if p.ended = true; err == nil {
		p.t.Error("Closed without a reason")
	}
	p.closed(err)
}

func (p *probe) check(what string, expected bool) {
	if p.ended {
		p.t.Errorf("%s after the end of the stream", what)
	}
	if !expected {
		stop(p.t, "unexpected %s", what)
	}
}

// stop fails the test and stops the loop, by a panic because t.FailNow is only
// for the test's own goroutine.
func stop(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
	panic("conformance test cannot go on: " + fmt.Sprintf(format, args...))
}

// pair listens on Peer, dials from Env, and calls ready with both streams when
// both sides know about each other. The probes' other functions are up to the
// caller.
func (w *World) pair(t *testing.T, dialer, acceptor *probe, ready func(d, a env.Stream)) env.Listener {
	var d, a env.Stream
	both := func() {
		if d != nil && a != nil {
			ready(d, a)
		}
	}
	l, err := w.Peer.Net.Listen(netip.AddrPortFrom(w.PeerAddr, 0), func(s env.Stream) env.StreamHandler {
		a = s
		both()
		return acceptor
	})
	if err != nil {
		stop(t, "listen: %v", err)
	}
	var s env.Stream
	dialer.connected = func() { d = s; both() }
	s = w.Env.Net.Dial(l.Addr(), dialer)
	return l
}

// send queues the parts on s; done may be nil.
func send(t *testing.T, s env.Stream, done func(error), parts ...[]byte) {
	inside := true
	s.Send(&env.SendOp{Parts: parts, Done: func(_ *env.SendOp, err error) {
		if inside {
			t.Error("Done ran inside Send")
		}
		if done != nil {
			done(err)
		}
	}})
	inside = false
}

func ignore(error)     {}
func discard(b []byte) {}

func checkNetConnect(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		inside := true
		d, a := &probe{t: t, closed: ignore}, &probe{t: t, closed: ignore}
		l := w.pair(t, d, a, func(ds, as env.Stream) {
			if inside {
				t.Error("connected inside Dial")
			}
			if ds.LocalAddr() != as.RemoteAddr() || ds.RemoteAddr() != as.LocalAddr() {
				t.Errorf("addresses %v-%v and %v-%v", ds.LocalAddr(), ds.RemoteAddr(), as.LocalAddr(), as.RemoteAddr())
			}
			if ds.RemoteAddr().Addr() != w.PeerAddr || ds.LocalAddr().Port() == 0 {
				t.Errorf("dialer's addresses %v, %v", ds.LocalAddr(), ds.RemoteAddr())
			}
			finish()
		})
		if l.Addr().Addr() != w.PeerAddr || l.Addr().Port() == 0 {
			t.Errorf("listener has address %v", l.Addr())
		}
		inside = false
	})
}

// pattern fills b with the bytes of the test stream that start at offset.
func pattern(b []byte, offset int) []byte {
	for i := range b {
		n := offset + i
		b[i] = byte(n ^ n>>8*7 ^ n>>16*13)
	}
	return b
}

// verify compares b with the test stream at *offset and advances it.
func verify(t *testing.T, b []byte, offset *int) {
	want := pattern(make([]byte, len(b)), *offset)
	if string(want) != string(b) {
		stop(t, "stream differs within %d bytes at %d", len(b), *offset)
	}
	*offset += len(b)
}

func checkNetStream(t *testing.T, w *World) {
	sizes := []int{1, 0, 128, 4096, 100_000, 3, 1 << 20, 70_000, 0, 17, 600_000}
	w.run(t, func(finish func()) {
		got, sent, completed := 0, 0, 0
		over := func() {
			if got == sent && completed == len(sizes)+1 {
				finish()
			}
		}
		d, a := &probe{t: t, closed: ignore}, &probe{t: t, closed: ignore}
		a.received = func(b []byte) { verify(t, b, &got); over() }
		w.pair(t, d, a, func(ds, _ env.Stream) {
			for i, n := range sizes {
				b := pattern(make([]byte, n), sent)
				sent += n
				third := n / 3
				send(t, ds, func(err error) {
					if err != nil || completed != i {
						t.Errorf("send %d completed as number %d: %v", i, completed, err)
					}
					completed++
					over()
				}, b[:third], nil, b[third:2*third], b[2*third:])
			}
			many := make([][]byte, 3000) // more than one system call takes
			for i := range many {
				many[i] = pattern(make([]byte, 7), sent)
				sent += 7
			}
			send(t, ds, func(err error) { completed++; over() }, many...)
		})
	})
}

func checkNetReadInto(t *testing.T, w *World) {
	const total = 3 << 20
	w.run(t, func(finish func()) {
		got, step := 0, 0
		var own []byte
		d, a := &probe{t: t, closed: ignore}, &probe{t: t, closed: ignore}
		a.readInto = func() []byte {
			if step++; step%3 == 0 {
				own = nil
			} else {
				own = make([]byte, 1+(step*7919)%200_000)
			}
			return own
		}
		a.received = func(b []byte) {
			if own != nil && (len(b) > len(own) || &b[0] != &own[0]) {
				t.Error("received something else than the memory given")
			}
			if verify(t, b, &got); got == total {
				finish()
			}
		}
		w.pair(t, d, a, func(ds, _ env.Stream) {
			send(t, ds, nil, pattern(make([]byte, total), 0))
		})
	})
}

func checkNetRefused(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		inside, done := true, false
		h := &probe{t: t, closed: func(err error) {
			if inside || !done || errors.Is(err, io.EOF) {
				t.Errorf("inside Dial %v, send completed %v, error %v", inside, done, err)
			}
			finish()
		}}
		s := w.Env.Net.Dial(w.Refused, h)
		send(t, s, func(err error) {
			if done = true; err != env.ErrStreamClosed {
				t.Errorf("queued send got %v", err)
			}
		}, []byte("x"))
		inside = false
	})
}

func checkNetCloseDial(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		s := w.Env.Net.Dial(w.Refused, &probe{t: t}) // any callback fails the test
		s.Close()
		s.Close()
		w.after(50, finish)
	})
}

func checkNetSendEarly(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		got := 0
		a := &probe{t: t, closed: ignore}
		a.received = func(b []byte) {
			if verify(t, b, &got); got == 5000 {
				finish()
			}
		}
		l, err := w.Peer.Net.Listen(netip.AddrPortFrom(w.PeerAddr, 0), func(env.Stream) env.StreamHandler { return a })
		if err != nil {
			stop(t, "%v", err)
		}
		d := &probe{t: t, closed: ignore, connected: func() {}}
		s := w.Env.Net.Dial(l.Addr(), d)
		send(t, s, nil, pattern(make([]byte, 5000), 0))
	})
}

func checkNetEOF(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		got := 0
		var as env.Stream
		a := &probe{t: t, received: func(b []byte) { verify(t, b, &got) }}
		a.closed = func(err error) {
			if err != io.EOF || got != 300_000 {
				t.Errorf("closed with %v after %d bytes", err, got)
			}
			as.Close() // allowed and useless
			finish()
		}
		d := &probe{t: t}
		w.pair(t, d, a, func(ds, s env.Stream) {
			as = s
			send(t, ds, func(error) { ds.Close() }, pattern(make([]byte, 300_000), 0))
		})
	})
}

func checkNetClose(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		completed, peerClosed := 0, false
		over := func() {
			if completed == 3 && peerClosed {
				w.after(20, finish) // nothing may follow
			}
		}
		d, a := &probe{t: t}, &probe{t: t, received: discard}
		a.closed = func(error) { peerClosed = true; over() }
		w.pair(t, d, a, func(ds, as env.Stream) {
			as.PauseRead()
			inside := true
			for range 3 { // more than buffers on the way can hold
				send(t, ds, func(err error) {
					if inside || err != env.ErrStreamClosed {
						t.Errorf("inside Close %v, error %v", inside, err)
					}
					completed++
					over()
				}, make([]byte, 64<<20))
			}
			ds.Close()
			inside = false
			as.ResumeRead()
		})
	})
}

func checkNetCloseInside(t *testing.T, w *World) {
	for _, place := range []string{"accept", "Connected", "Received", "ReadInto", "Done"} {
		t.Run(place, func(t *testing.T) { checkNetCloseIn(t, w, place) })
	}
}

// checkNetCloseIn closes the dialer's stream (for accept: the acceptor's) in
// one of its callbacks. Its handler must not be called after that.
func checkNetCloseIn(t *testing.T, w *World, place string) {
	w.run(t, func(finish func()) {
		var ds env.Stream
		d, a := &probe{t: t, closed: ignore}, &probe{t: t, received: discard}
		shut := func(here string) {
			if here == place {
				ds.Close()
				d.ended = true
			}
		}
		a.closed = func(error) { w.after(20, finish) }
		l, err := w.Peer.Net.Listen(netip.AddrPortFrom(w.PeerAddr, 0), func(s env.Stream) env.StreamHandler {
			if send(t, s, nil, []byte("hello"), make([]byte, 100_000)); place == "accept" {
				s.Close()
				d.closed = func(error) { w.after(20, finish) }
			}
			return a
		})
		if err != nil {
			stop(t, "%v", err)
		}
		d.connected = func() {
			send(t, ds, func(error) { shut("Done") }, []byte("x"))
			shut("Connected")
		}
		d.readInto = func() []byte { shut("ReadInto"); return nil }
		d.received = func([]byte) { shut("Received") }
		ds = w.Env.Net.Dial(l.Addr(), d)
	})
}

func checkNetSendClosed(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		d, a := &probe{t: t}, &probe{t: t, closed: ignore}
		w.pair(t, d, a, func(ds, _ env.Stream) {
			ds.Close()
			ds.PauseRead()
			ds.ResumeRead()
			send(t, ds, func(err error) {
				if err != env.ErrStreamClosed {
					t.Errorf("got %v", err)
				}
				finish()
			}, []byte("x"))
		})
	})
}

// checkNetPause also sees that nothing is lost or repeated where the transport
// takes a part of what is queued.
func checkNetPause(t *testing.T, w *World) {
	const sends, partBytes, parts = 60, 65_519, 13 // 49 MiB: more than buffers on the way can hold
	const total = sends * partBytes * parts
	mem := pattern(make([]byte, total), 0)
	w.run(t, func(finish func()) {
		got, sent, paused := 0, 0, false
		var as env.Stream
		over := func() {
			if got == total && sent == sends {
				finish()
			}
		}
		d, a := &probe{t: t, closed: ignore}, &probe{t: t, closed: ignore}
		a.received = func(b []byte) {
			if paused {
				t.Error("Received while paused")
			}
			if first := got == 0; first {
				paused = true
				as.PauseRead()
				w.after(100, func() {
					if sent == sends {
						t.Error("all was sent though the receiver reads nothing")
					}
					paused = false
					as.ResumeRead()
				})
			}
			if string(b) != string(mem[got:min(got+len(b), total)]) {
				stop(t, "stream differs within %d bytes at %d", len(b), got)
			}
			got += len(b)
			over()
		}
		w.pair(t, d, a, func(ds, s env.Stream) {
			as = s
			for rest := mem; len(rest) > 0; {
				var op [][]byte
				for range parts {
					op = append(op, rest[:partBytes])
					rest = rest[partBytes:]
				}
				send(t, ds, func(error) { sent++; over() }, op...)
			}
		})
	})
}

// checkNetCloseFailing closes a stream while its end is being reported.
func checkNetCloseFailing(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		completed := 0
		s := w.Env.Net.Dial(w.Refused, &probe{t: t}) // any callback fails the test
		for range 2 {
			send(t, s, func(err error) {
				if err != env.ErrStreamClosed {
					t.Errorf("queued send got %v", err)
				}
				s.Close()
				if completed++; completed == 2 {
					w.after(20, finish)
				}
			}, []byte("x"))
		}
	})
}

func checkNetAcceptNil(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		l, err := w.Peer.Net.Listen(netip.AddrPortFrom(w.PeerAddr, 0), func(env.Stream) env.StreamHandler { return nil })
		if err != nil {
			stop(t, "%v", err)
		}
		w.Env.Net.Dial(l.Addr(), &probe{t: t, connected: func() {}, closed: func(error) { finish() }})
	})
}

func checkNetListener(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		accept := func(env.Stream) env.StreamHandler { return nil }
		l, err := w.Peer.Net.Listen(netip.AddrPortFrom(w.PeerAddr, 0), accept)
		if err != nil {
			stop(t, "%v", err)
		}
		if _, err := w.Peer.Net.Listen(l.Addr(), accept); err == nil {
			t.Error("two listeners on one address")
		}
		l.Close()
		l.Close()
		w.Env.Net.Dial(l.Addr(), &probe{t: t, closed: func(error) {
			again, err := w.Peer.Net.Listen(l.Addr(), accept)
			if err != nil {
				t.Errorf("listening again: %v", err)
			} else {
				again.Close()
			}
			finish()
		}})
	})
}
