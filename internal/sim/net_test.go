package sim

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
)

// talker is a StreamHandler that counts and checks a stream of numbers.
type talker struct {
	t        *testing.T
	s        env.Stream
	up       bool
	got      []byte // the incomplete number
	next     uint32 // expected
	err      error
	received int
}

func (k *talker) Connected()       { k.up = true }
func (k *talker) ReadInto() []byte { return nil }
func (k *talker) Closed(err error) { k.err = err }
func (k *talker) Received(b []byte) {
	k.received += len(b)
	k.got = append(k.got, b...)
	for ; len(k.got) >= 4; k.got = k.got[4:] {
		if v := binary.LittleEndian.Uint32(k.got); v != k.next {
			k.t.Fatalf("stream carries %d where %d belongs", v, k.next)
		}
		k.next++
	}
}

// wire is two nodes with a connection from a to b.
type wire struct {
	t    *testing.T
	w    *World
	a, b *Node
	l    env.Listener
	d, s talker // the dialer's and the server's end
	sent uint32
	done int
}

func newWire(t *testing.T, seed uint64, c NetConfig) *wire {
	x := &wire{t: t, w: NewWorld(seed, Options{Net: c})}
	x.a, x.b = x.w.NewNode("a"), x.w.NewNode("b")
	x.d.t, x.s.t = t, t
	x.listen()
	x.dial()
	if !x.w.RunUntil(func() bool { return x.d.up && x.s.s != nil }, time.Second) {
		t.Fatal("not connected")
	}
	return x
}

func (x *wire) listen() {
	x.b.Do(func(e *env.Env) {
		l, err := e.Net.Listen(netip.AddrPortFrom(x.b.Addr(), 7000), func(s env.Stream) env.StreamHandler {
			x.s.s = s
			return &x.s
		})
		if err != nil {
			x.t.Fatal(err)
		}
		x.l = l
	})
}

func (x *wire) dial() {
	x.a.Do(func(e *env.Env) { x.d.s = e.Net.Dial(netip.AddrPortFrom(x.b.Addr(), 7000), &x.d) })
}

// send sends n more numbers from a to b.
func (x *wire) send(n int) {
	b := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(b[4*i:], x.sent)
		x.sent++
	}
	x.a.Do(func(*env.Env) {
		x.d.s.Send(&env.SendOp{Parts: [][]byte{b[:n], b[n:]}, Done: func(*env.SendOp, error) { x.done++ }})
	})
}

func (x *wire) arrived() bool { return x.s.next == x.sent }

func TestStreamIsFIFOUnderJitterAndLoss(t *testing.T) {
	for seed := range uint64(20) {
		x := newWire(t, seed, NetConfig{Jitter: 5 * time.Millisecond, Loss: 0.05})
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 100 {
			x.send(1 + rng.IntN(3000))
			x.w.RunFor(time.Duration(rng.IntN(3_000_000)))
			switch rng.IntN(20) {
			case 0:
				x.w.Net().Cut(x.a, x.b)
			case 1:
				x.w.Net().CutOneWay(x.b, x.a)
			case 2, 3, 4:
				x.w.Net().HealAll()
			case 5:
				x.b.Do(func(*env.Env) { x.s.s.PauseRead() })
			case 6, 7:
				x.b.Do(func(*env.Env) { x.s.s.ResumeRead() })
			}
		}
		x.w.Net().HealAll()
		x.b.Do(func(*env.Env) { x.s.s.ResumeRead() })
		if !x.w.RunUntil(x.arrived, time.Minute) || x.s.err != nil || x.done != 100 {
			t.Fatalf("seed %d: %d of %d numbers arrived, error %v", seed, x.s.next, x.sent, x.s.err)
		}
	}
}

func TestCutIsSilence(t *testing.T) {
	for _, oneWay := range []bool{false, true} {
		x := newWire(t, 1, NetConfig{})
		if oneWay {
			x.w.Net().CutOneWay(x.a, x.b)
		} else {
			x.w.Net().Isolate(x.b, true)
		}
		x.send(100)
		x.w.RunFor(30 * time.Second)
		if x.s.next != 0 || x.d.err != nil || x.s.err != nil {
			t.Fatalf("one way %v: %d numbers, errors %v and %v", oneWay, x.s.next, x.d.err, x.s.err)
		}
		x.w.Net().HealAll()
		if !x.w.RunUntil(x.arrived, retransmitMax+time.Second) {
			t.Error("healing does not help")
		}
	}
}

func TestCutOneWayLeavesTheOther(t *testing.T) {
	x := newWire(t, 1, NetConfig{})
	x.w.Net().CutOneWay(x.b, x.a)
	x.send(100)
	if !x.w.RunUntil(x.arrived, time.Second) {
		t.Error("data does not pass in the direction that is not cut")
	}
	// Without acknowledgements the send buffer fills up at some time.
	for range 100 {
		x.send(10_000)
	}
	x.w.RunFor(time.Minute)
	if x.arrived() {
		t.Error("everything arrives without any acknowledgement")
	}
}

func TestCutLastsUntilGiveUp(t *testing.T) {
	x := newWire(t, 1, NetConfig{GiveUp: time.Minute})
	x.w.Net().Cut(x.a, x.b)
	x.send(10)
	x.w.RunFor(2 * time.Minute)
	if x.d.err != syscall.ETIMEDOUT || x.s.err != nil {
		t.Errorf("sender's error %v, idle receiver's %v", x.d.err, x.s.err)
	}
}

func TestBlackholeAndReset(t *testing.T) {
	x := newWire(t, 1, NetConfig{})
	x.w.Net().Blackhole(x.a, x.b)
	x.send(10)
	x.w.RunFor(30 * time.Second)
	if x.s.next != 0 || x.d.err != nil {
		t.Errorf("%d numbers came out of a black hole, error %v", x.s.next, x.d.err)
	}
	old := x.d.s
	x.s, x.sent = talker{t: t}, 0
	x.dial()
	x.w.RunFor(time.Second)
	x.send(10)
	if !x.w.RunUntil(x.arrived, time.Second) {
		t.Error("a new stream is silent, too")
	}
	x.w.Net().Reset(x.a, x.b)
	x.w.RunFor(time.Second)
	if x.d.err != syscall.ECONNRESET || x.s.err != syscall.ECONNRESET || old == x.d.s {
		t.Errorf("after reset: %v, %v", x.d.err, x.s.err)
	}
}

// What close(2) leaves to the kernel arrives when the network is back, what an
// abort takes back does not.
func TestCloseAndAbortDuringACut(t *testing.T) {
	for abort, want := range map[bool]uint32{false: 10, true: 0} {
		x := newWire(t, 1, NetConfig{})
		x.w.Net().Cut(x.a, x.b)
		x.send(10)
		x.w.RunFor(time.Second)
		x.a.Do(func(*env.Env) {
			if abort {
				x.d.s.(env.Aborter).Abort()
			}
			x.d.s.Close()
		})
		x.w.RunFor(10 * time.Second)
		x.w.Net().HealAll()
		x.w.RunFor(time.Minute)
		if x.s.next != want {
			t.Errorf("abort %v: %d numbers arrived, want %d", abort, x.s.next, want)
		}
	}
}

func TestDialErrors(t *testing.T) {
	w := NewWorld(1, Options{})
	a, b := w.NewNode("a"), w.NewNode("b")
	dial := func(ip netip.Addr) *talker {
		k := &talker{t: t}
		a.Do(func(e *env.Env) { k.s = e.Net.Dial(netip.AddrPortFrom(ip, 1), k) })
		return k
	}
	refused, unknown := dial(b.Addr()), dial(netip.MustParseAddr("192.0.2.1"))
	w.RunFor(time.Second)
	if !errors.Is(refused.err, syscall.ECONNREFUSED) || unknown.err != nil {
		t.Errorf("%v, %v", refused.err, unknown.err)
	}
	w.Net().Cut(a, b)
	silent := dial(b.Addr())
	w.RunFor(10 * time.Second)
	if !errors.Is(unknown.err, syscall.EHOSTUNREACH) || silent.err != nil {
		t.Errorf("%v, %v", unknown.err, silent.err)
	}
	w.Net().Join(a, b)
	w.RunFor(10 * time.Second)
	if !errors.Is(silent.err, syscall.ECONNREFUSED) {
		t.Errorf("after healing: %v", silent.err)
	}
	w.Net().Cut(a, b)
	silent = dial(b.Addr())
	w.RunFor(5 * time.Minute)
	if !errors.Is(silent.err, syscall.ETIMEDOUT) {
		t.Errorf("in the end: %v", silent.err)
	}
}

func TestCrashClosesStreamsPowerLossDoesNot(t *testing.T) {
	x := newWire(t, 1, NetConfig{})
	x.a.Crash()
	x.w.RunFor(time.Second)
	if x.s.err != io.EOF && x.s.err != syscall.ECONNRESET {
		t.Errorf("peer of a killed process got %v", x.s.err)
	}

	x = newWire(t, 1, NetConfig{})
	x.b.PowerLoss()
	x.send(10)
	x.w.RunFor(20 * time.Second)
	if x.d.err != nil {
		t.Errorf("a machine without power answered: %v", x.d.err)
	}
	x.b.Restart()
	x.w.RunFor(20 * time.Second)
	if x.d.err != syscall.ECONNRESET || x.s.next != 0 {
		t.Errorf("rebooted machine: %v, %d numbers", x.d.err, x.s.next)
	}
}

func TestCloseWithUnreadDataIsAReset(t *testing.T) {
	for _, unread := range []bool{false, true} {
		x := newWire(t, 1, NetConfig{})
		x.b.Do(func(*env.Env) { x.s.s.PauseRead() })
		if unread {
			x.send(10)
		}
		x.w.RunFor(time.Second)
		x.b.Do(func(*env.Env) { x.s.s.Close() })
		x.w.RunFor(time.Second)
		want := io.EOF
		if unread {
			want = syscall.ECONNRESET
		}
		if x.d.err != want {
			t.Errorf("unread %v: %v", unread, x.d.err)
		}
	}
}

func TestKilledProcessStillDeliversWhatTheKernelTook(t *testing.T) {
	x := newWire(t, 1, NetConfig{})
	x.send(1000)
	x.a.Crash()
	x.w.RunFor(time.Second)
	if x.done != 1 || !x.arrived() || x.s.err != io.EOF {
		t.Errorf("%d sends done, %d numbers, error %v", x.done, x.s.next, x.s.err)
	}
}

func TestPauseStopsTheProcessNotTheKernel(t *testing.T) {
	x := newWire(t, 1, NetConfig{})
	x.b.Pause()
	x.send(100)
	x.w.RunFor(time.Minute)
	if x.done != 1 || x.s.next != 0 {
		t.Errorf("%d sends done, %d numbers received", x.done, x.s.next)
	}
	x.send(1 << 20)
	x.w.RunFor(time.Minute)
	if x.done != 1 {
		t.Error("buffers without limit")
	}
	x.b.Resume()
	if !x.w.RunUntil(x.arrived, time.Second) {
		t.Error("nothing arrives after Resume")
	}
}

func TestBandwidthAndSlowNet(t *testing.T) {
	x := newWire(t, 1, NetConfig{BytesPerSecond: 1 << 20})
	x.send(1 << 20)
	start := x.w.Now()
	x.w.RunUntil(x.arrived, time.Minute)
	if d := x.w.Now() - start; d < 4*time.Second || d > 5*time.Second {
		t.Errorf("4 MiB at 1 MiB/s took %v", d)
	}
	x.w.Net().SetSlow(x.a, time.Second)
	x.send(1)
	start = x.w.Now()
	x.w.RunUntil(x.arrived, time.Minute)
	if d := x.w.Now() - start; d < time.Second || d > 2*time.Second {
		t.Errorf("slow packet took %v", d)
	}
}

func TestSendAllocatesNothing(t *testing.T) {
	x := newWire(t, 1, NetConfig{})
	op := &env.SendOp{Parts: [][]byte{make([]byte, 128), make([]byte, 4096)}, Done: func(*env.SendOp, error) {}}
	send := func(*env.Env) { x.d.s.Send(op) }
	total := 0
	x.s.next = 0
	h := &sink{}
	x.s.s.(*stream).h = h
	round := func() {
		x.a.Do(send)
		total += 4224
		for h.n < total {
			x.w.Step()
		}
	}
	for range 200 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n > 2 { // Do's own closure
		t.Errorf("%v allocations per message", n)
	}
}

type sink struct{ n int }

func (s *sink) Connected()        {}
func (s *sink) ReadInto() []byte  { return nil }
func (s *sink) Received(b []byte) { s.n += len(b) }
func (s *sink) Closed(error)      {}

func BenchmarkMessage4K(b *testing.B) {
	x := newWire(nil, 1, NetConfig{})
	op := &env.SendOp{Parts: [][]byte{make([]byte, 128), make([]byte, 4096)}, Done: func(*env.SendOp, error) {}}
	send := func(*env.Env) { x.d.s.Send(op) }
	h := &sink{}
	x.s.s.(*stream).h = h
	total := 0
	b.ReportAllocs()
	for b.Loop() {
		x.a.Do(send)
		total += 4224
		for h.n < total {
			x.w.Step()
		}
	}
}
