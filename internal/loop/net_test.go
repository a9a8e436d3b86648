package loop

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/env/envtest"
	"vitastor/internal/sys"
)

// funcs is a StreamHandler made of functions, all optional.
type funcs struct {
	connected func()
	readInto  func() []byte
	received  func([]byte)
	closed    func(error)
}

func (f *funcs) Connected() {
	if f.connected != nil {
		f.connected()
	}
}

func (f *funcs) ReadInto() []byte {
	if f.readInto != nil {
		return f.readInto()
	}
	return nil
}

func (f *funcs) Received(b []byte) {
	if f.received != nil {
		f.received(b)
	}
}

func (f *funcs) Closed(err error) {
	if f.closed != nil {
		f.closed(err)
	}
}

// syncBuffer is a log that several goroutines may use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func logger() (*slog.Logger, *syncBuffer) {
	b := &syncBuffer{}
	return slog.New(slog.NewTextHandler(b, nil)), b
}

// listen opens a listener on the loop from the test's goroutine.
func listen(t testing.TB, l *Loop, addr netip.Addr, accept func(env.Stream) env.StreamHandler) (to netip.AddrPort) {
	do(t, l, func(finish func()) {
		n, err := l.Listen(netip.AddrPortFrom(addr, 0), accept)
		if err != nil {
			t.Error(err)
		} else {
			to = n.Addr()
		}
		finish()
	})
	return to
}

// client connects by the net package: an independent implementation.
func client(t testing.TB, to netip.AddrPort) *net.TCPConn {
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestConformanceIPv6(t *testing.T) {
	ip6 := netip.IPv6Loopback()
	fd, _, err := sys.ListenTCP(netip.AddrPortFrom(ip6, 0), 1)
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	sys.Close(fd)
	envtest.Run(t, func(t *testing.T) *envtest.World {
		l := start(t, Options{})
		e := &env.Env{Clock: l, Exec: l, Net: l} // disks are checked elsewhere
		return &envtest.World{
			Env: e, Peer: e, Addr: ip6, PeerAddr: ip6,
			Refused: netip.AddrPortFrom(ip6, refused(t).Port()), Threads: true,
			Run: func(t *testing.T, body func(finish func())) bool { return on(t, l, envtest.TimeLimit, body) },
		}
	})
}

func TestPeerEndings(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(*net.TCPConn)
		paused bool
		want   error
	}{
		{"close", func(c *net.TCPConn) { c.Close() }, false, io.EOF},
		{"half close is close", func(c *net.TCPConn) { c.CloseWrite() }, false, io.EOF},
		{"reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, false, syscall.ECONNRESET},
		{"reset while paused", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, true, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := start(t, Options{})
			ended := make(chan error, 2)
			accepted := make(chan bool, 1)
			to := listen(t, l, localhost, func(s env.Stream) env.StreamHandler {
				if c.paused {
					s.PauseRead()
				}
				accepted <- true
				return &funcs{closed: func(err error) { ended <- err }}
			})
			conn := client(t, to)
			<-accepted
			c.end(conn)
			select {
			case err := <-ended:
				if err != c.want {
					t.Errorf("closed with %v, want %v", err, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the end was not noticed")
			}
		})
	}
}

// After Abort the kernel sends nothing more: the peer gets a reset.
func TestAbort(t *testing.T) {
	l := start(t, Options{})
	streams := make(chan env.Stream, 1)
	to := listen(t, l, localhost, func(s env.Stream) env.StreamHandler {
		streams <- s
		return &funcs{}
	})
	conn := client(t, to)
	s := <-streams
	l.Post(func() {
		s.Send(&env.SendOp{Parts: [][]byte{make([]byte, 16<<20)}, Done: func(*env.SendOp, error) {}})
	})
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.Post(func() {
		s.(env.Aborter).Abort()
		s.Close() // allowed and useless
	})
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after %d bytes: %v, want a reset", n, err)
	}
}

func TestDialErrors(t *testing.T) {
	l := start(t, Options{Streams: 2})
	for name, c := range map[string]struct {
		to   netip.AddrPort
		want error
	}{
		"refused":           {refused(t), syscall.ECONNREFUSED},
		"link-local, where": {netip.MustParseAddrPort("[fe80::1]:1"), syscall.EINVAL},
	} {
		do(t, l, func(finish func()) {
			l.Dial(c.to, &funcs{closed: func(err error) {
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.to.String()) {
					t.Errorf("%s: %v", name, err)
				}
				finish()
			}})
		})
	}
	to := listen(t, l, localhost, func(env.Stream) env.StreamHandler { return &funcs{} })
	do(t, l, func(finish func()) {
		for range 2 {
			l.Dial(to, &funcs{})
		}
		l.Dial(to, &funcs{closed: func(err error) {
			if !errors.Is(err, ErrTooManyStreams) {
				t.Errorf("above the limit: %v", err)
			}
			finish()
		}})
	})
}

// greeted tells whether the loop has accepted c, by its greeting.
func greeted(t *testing.T, c net.Conn, wait time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(wait))
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

func greeter(s env.Stream) env.StreamHandler {
	s.Send(&env.SendOp{Parts: [][]byte{[]byte("x")}, Done: func(*env.SendOp, error) {}})
	return &funcs{}
}

func TestAcceptingPausesAtTheLimit(t *testing.T) {
	log, text := logger()
	l := start(t, Options{Streams: 2, Log: log})
	to := listen(t, l, localhost, greeter)
	a, b, c := client(t, to), client(t, to), client(t, to)
	if !greeted(t, a, 10*time.Second) || !greeted(t, b, 10*time.Second) {
		t.Fatal("not accepted below the limit")
	}
	if greeted(t, c, 3*acceptPause) {
		t.Fatal("accepted above the limit")
	}
	a.Close()
	if !greeted(t, c, 10*time.Second) {
		t.Fatal("not accepted after a place became free")
	}
	if n := strings.Count(text.String(), ErrTooManyStreams.Error()); n < 1 || n > 20 {
		t.Errorf("%d lines in the log: %s", n, text)
	}
}

// withoutDescriptors runs f while the process can open no file.
func withoutDescriptors(t *testing.T, f func()) {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	f()
}

func TestAcceptingSurvivesLackOfDescriptors(t *testing.T) {
	log, text := logger()
	l := start(t, Options{Log: log})
	to := listen(t, l, localhost, greeter)
	var c *net.TCPConn
	block, blocked := make(chan bool), make(chan bool)
	l.Post(func() { blocked <- true; <-block }) // accept comes after the limit
	<-blocked
	c = client(t, to)
	withoutDescriptors(t, func() {
		block <- true
		if greeted(t, c, 3*acceptPause) {
			t.Error("accepted without a descriptor")
		}
	})
	if !greeted(t, c, 10*time.Second) {
		t.Fatal("never accepted again")
	}
	if !strings.Contains(text.String(), "too many open files") {
		t.Errorf("the log says: %s", text)
	}
}

func TestFlushOrderIsPriority(t *testing.T) {
	l := start(t, Options{})
	to := listen(t, l, localhost, func(env.Stream) env.StreamHandler { return &funcs{} })
	var got []int
	do(t, l, func(finish func()) {
		prio := []env.Priority{env.PriorityLast, env.PriorityNormal, env.PriorityFirst}
		streams, left := make([]env.Stream, 3), 3
		for i := range streams {
			streams[i] = l.Dial(to, &funcs{connected: func() {
				if left--; left > 0 {
					return
				}
				for j, s := range streams { // all in one event, last priority first
					s.Send(&env.SendOp{Parts: [][]byte{[]byte("x")}, Done: func(*env.SendOp, error) {
						if got = append(got, j); len(got) == 3 {
							finish()
						}
					}})
				}
			}})
			streams[i].(env.Prioritized).SetPriority(prio[i])
		}
	})
	// The stream that connected last may be dirty with its old priority: it was
	// set before, so all three follow it.
	if !slices.Equal(got, []int{2, 1, 0}) {
		t.Errorf("flushed in order %v", got)
	}
}

type countReady struct{ n int }

func (c *countReady) ready(uint32) { c.n++ }

func TestStaleEventsReachNobody(t *testing.T) {
	var p poller
	if err := p.open(); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	fd, err := sys.NewEventfd()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	var first, second countReady
	if err := p.add(fd, sys.EventIn, &first); err != nil {
		t.Fatal(err)
	}
	stale := p.event(fd, sys.EventIn)
	p.dispatch(&stale)
	p.remove(fd)
	p.dispatch(&stale)
	if err := p.add(fd, sys.EventIn, &second); err != nil {
		t.Fatal(err)
	}
	p.dispatch(&stale)
	fresh := p.event(fd, sys.EventIn)
	p.dispatch(&fresh)
	if first.n != 1 || second.n != 1 {
		t.Errorf("first was called %d times, second %d", first.n, second.n)
	}
}

// Streams that close each other in one batch of events, while new ones take
// over their descriptors.
func TestChurn(t *testing.T) {
	l := start(t, Options{})
	to := listen(t, l, localhost, func(s env.Stream) env.StreamHandler {
		return &funcs{received: func(b []byte) {
			s.Send(&env.SendOp{Parts: [][]byte{bytes.Clone(b)}, Done: func(*env.SendOp, error) {}})
		}}
	})
	const width, rounds = 20, 400
	do(t, l, func(finish func()) {
		streams := make([]env.Stream, width)
		answered := 0
		var dial func(i int)
		dial = func(i int) {
			op := &env.SendOp{Parts: [][]byte{{byte(i)}}, Done: func(*env.SendOp, error) {}}
			streams[i] = l.Dial(to, &funcs{
				received: func(b []byte) {
					if b[0] != byte(i) {
						t.Errorf("stream %d received %d", i, b[0])
					}
					if answered++; answered == rounds {
						finish()
					}
					if answered < rounds {
						next := (i + 1) % width
						streams[next].Close()
						streams[i].Close()
						dial(next)
						dial(i)
					}
				},
				closed: func(err error) {
					t.Errorf("stream %d of %d answers closed: %v", i, answered, err)
					finish()
				},
			})
			streams[i].Send(op)
		}
		for i := range streams {
			dial(i)
		}
	})
}

// A stream whose peer takes nothing must not keep the loop busy.
func TestBlockedStreamDoesNotSpin(t *testing.T) {
	l := start(t, Options{})
	to := listen(t, l, localhost, func(s env.Stream) env.StreamHandler {
		s.PauseRead()
		return &funcs{}
	})
	do(t, l, func(finish func()) {
		s := l.Dial(to, &funcs{})
		s.Send(&env.SendOp{Parts: [][]byte{make([]byte, 64<<20)}, Done: func(_ *env.SendOp, err error) {
			if err == nil {
				t.Error("all was sent")
			}
		}})
		var timer env.Timer
		before := uint64(0)
		timer.Fire = func() {
			if before == 0 { // buffers are full by now
				before = l.Stats().Iterations
				l.Arm(&timer, 100*time.Millisecond)
				return
			}
			if st := l.Stats(); st.Iterations-before > 50 || st.Streams != 2 {
				t.Errorf("%d iterations while nothing could be sent, %+v", st.Iterations-before, st)
			}
			finish()
		}
		l.Arm(&timer, 200*time.Millisecond)
	})
}
