package sys

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestLayoutsMatchTheKernel(t *testing.T) {
	var h msghdr
	var k unix.Msghdr
	if unsafe.Sizeof(h) != unsafe.Sizeof(k) || unsafe.Offsetof(h.iov) != unsafe.Offsetof(k.Iov) ||
		unsafe.Offsetof(h.iovLen) != unsafe.Offsetof(k.Iovlen) || unsafe.Offsetof(h.flags) != unsafe.Offsetof(k.Flags) ||
		unsafe.Sizeof(Iovec{}) != unsafe.Sizeof(unix.Iovec{}) {
		t.Errorf("msghdr %+v differs from %+v", h, k)
	}
}

func socketPair(t *testing.T) (a, b int) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

func TestBatch(t *testing.T) {
	a, b := socketPair(t)
	batch := new(Batch)
	buf := make([]byte, 100)
	for _, parts := range [][]string{{"one"}, {"a", "", "bc", "d"}} {
		batch.Reset()
		for _, p := range onHeap(parts...) {
			batch.Add(p)
		}
		n, e := batch.Send(a)
		if e != 0 || n != batch.Bytes() {
			t.Fatal(n, e)
		}
		n, e = Read(b, buf)
		if want := []byte(strings.Join(parts, "")); e != 0 || !bytes.Equal(buf[:n], want) {
			t.Errorf("read %q, %v", buf[:n], e)
		}
	}
	if _, e := Read(b, buf); e != unix.EAGAIN {
		t.Errorf("empty socket: %v", e)
	}
	unix.Close(b)
	if _, e := batch.Send(a); e != unix.EPIPE {
		t.Errorf("broken socket: %v", e)
	}
}

var sink [][]byte

// onHeap makes byte slices that do not move with a stack.
func onHeap(parts ...string) (out [][]byte) {
	for _, p := range parts {
		out = append(out, []byte(p))
	}
	sink = out
	return out
}

func TestBatchIsBounded(t *testing.T) {
	b, n := new(Batch), 0
	for b.Add(onHeap("x")[0]) {
		n++
	}
	if n != BatchPartsMax || b.Count() != n {
		t.Errorf("%d parts", n)
	}
	b.Reset()
	for n = 0; b.Add(make([]byte, BatchBytesMax/4)); n++ {
	}
	if n != 4 {
		t.Errorf("%d parts of a quarter", n)
	}
}

func TestEpollEventfdTimerfd(t *testing.T) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	ev, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ev)
	if e := EpollCtl(ep, unix.EPOLL_CTL_ADD, ev, EpollEvent{Events: unix.EPOLLIN, Fd: 12, Pad: 34}); e != 0 {
		t.Fatal(e)
	}
	timer, err := NewTimerfd()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(timer)
	if e := EpollCtl(ep, unix.EPOLL_CTL_ADD, timer, EpollEvent{Events: unix.EPOLLIN, Fd: 56}); e != 0 {
		t.Fatal(e)
	}
	for _, how := range []Waiting{WaitRaw, WaitParked} {
		out := make([]EpollEvent, 4)
		if n, e := EpollWait(ep, out, false, how); n != 0 || e != 0 {
			t.Error("idle", n, e)
		}
		start := time.Now()
		for _, d := range []time.Duration{time.Hour, 3 * time.Millisecond} {
			if e := SetTimerfd(timer, d); e != 0 {
				t.Fatal(e)
			}
		}
		n, e := EpollWait(ep, out, true, how)
		for e == unix.EINTR {
			n, e = EpollWait(ep, out, true, how)
		}
		if d := time.Since(start); n != 1 || e != 0 || out[0].Fd != 56 || d < 3*time.Millisecond {
			t.Error("timer", n, e, out[0], d)
		}
		if e := DrainEventfd(timer); e != 0 {
			t.Error(e)
		}
		WakeEventfd(ev)
		WakeEventfd(ev)
		if n, e := EpollWait(ep, out, true, how); n != 1 || e != 0 || out[0].Fd != 12 || out[0].Pad != 34 {
			t.Error("event", n, e, out[0])
		}
		if e := DrainEventfd(ev); e != 0 {
			t.Error(e)
		}
		if e := DrainEventfd(ev); e != unix.EAGAIN {
			t.Error("still readable", e)
		}
	}
	if e := EpollCtl(ep, unix.EPOLL_CTL_ADD, 9999, EpollEvent{}); e != unix.EBADF {
		t.Error(e)
	}
}

func TestDiskCalls(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := onHeap("hello ", "disk", "----------")
	parts := []Iovec{NewIovec(text[0]), NewIovec(text[1])}
	if n, e := WriteAt(int(f.Fd()), parts, 5<<32, unix.RWF_DSYNC); n != 10 || e != 0 {
		t.Fatal(n, e)
	}
	got := text[2]
	if n, e := ReadAt(int(f.Fd()), []Iovec{NewIovec(got)}, 5<<32, 0); n != 10 || e != 0 || string(got) != "hello disk" {
		t.Fatal(n, e, got)
	}
	if n, e := ReadAt(int(f.Fd()), []Iovec{NewIovec(got)}, 6<<32, 0); n != 0 || e != 0 {
		t.Error("at the end", n, e)
	}
	if _, err := DeviceBytes(int(f.Fd())); err != syscall.ENOTTY && err != syscall.EINVAL {
		t.Error("a file has a device size", err)
	}
	if e := Discard(int(f.Fd()), 0, 4096); e == 0 {
		t.Error("a file was discarded as a device")
	}
	if _, e := ReadAt(-1, parts, 0, 0); e != unix.EBADF {
		t.Error(e)
	}
}

func TestNothingAllocates(t *testing.T) {
	a, b := socketPair(t)
	batch, buf := new(Batch), make([]byte, 100)
	ep, _ := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	defer unix.Close(ep)
	EpollCtl(ep, unix.EPOLL_CTL_ADD, b, EpollEvent{Events: unix.EPOLLIN})
	events := make([]EpollEvent, 4)
	if n := testing.AllocsPerRun(100, func() {
		batch.Reset()
		batch.Add(buf[:10])
		batch.Add(buf[:20])
		batch.Send(a)
		EpollWait(ep, events, true, WaitRaw)
		EpollWait(ep, events, true, WaitParked)
		EpollCtl(ep, unix.EPOLL_CTL_MOD, b, EpollEvent{Events: unix.EPOLLIN})
		Read(b, buf)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Both ends of a connection end by themselves when the other host is gone.
func TestKeepalive(t *testing.T) {
	l, addr, err := ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	c, err := DialTCP(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(c)
	a, e := -1, syscall.EAGAIN
	for i := 0; i < 1000 && e == syscall.EAGAIN; i++ {
		time.Sleep(time.Millisecond)
		a, _, e = AcceptTCP(l)
	}
	if e != 0 {
		t.Fatal(e)
	}
	defer unix.Close(a)
	for _, fd := range []int{a, c} {
		on, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, err2 := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if on == 0 || idle != keepIdleSec || err1 != nil || err2 != nil {
			t.Errorf("keepalive %d, idle %d s: %v %v", on, idle, err1, err2)
		}
	}
}
