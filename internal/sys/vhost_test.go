package sys

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDescriptorsTravel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(l)
	a, err := DialUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(a)
	b, e := AcceptUnix(l)
	if e != 0 {
		t.Fatal(e)
	}
	if _, e := AcceptUnix(l); e != unix.EAGAIN {
		t.Error(e)
	}
	ev, err := NewEventfd()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(ev)
	buf := make([]byte, 10)
	if _, _, err := ReceiveFDs(b, buf, nil); err != unix.EAGAIN {
		t.Error(err)
	}
	if err := SendFDs(a, []byte("first"), ev, ev); err != nil {
		t.Fatal(err)
	}
	if err := SendFDs(a, []byte("second")); err != nil {
		t.Fatal(err)
	}
	n, fds, err := ReceiveFDs(b, buf[:5], []int{-7})
	if n != 5 || err != nil || len(fds) != 3 || fds[0] != -7 {
		t.Fatal(n, fds, err)
	}
	WakeEventfd(fds[1])
	if AdoptEventfd(fds[2]) != nil || DrainEventfd(fds[2]) != 0 || DrainEventfd(ev) != unix.EAGAIN {
		t.Error("the descriptors are others")
	}
	Close(fds[1])
	Close(fds[2])
	if n, fds, err := ReceiveFDs(b, buf, nil); n != 6 || len(fds) != 0 || err != nil || !slices.Equal(buf[:6], []byte("second")) {
		t.Error(n, fds, err)
	}
	many := make([]int, FDsMax+2)
	for i := range many {
		many[i] = ev
	}
	if err := SendFDs(a, []byte("x"), many...); err != nil {
		t.Fatal(err)
	}
	_, fds, err = ReceiveFDs(b, buf, nil)
	if err != ErrTooManyFDs {
		t.Error(err)
	}
	for _, fd := range fds {
		Close(fd)
	}
	Close(b)
	if err := SendFDs(a, []byte("x")); err != unix.EPIPE {
		t.Error(err)
	}
	if n, _, err := ReceiveFDs(a, buf, nil); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestOnlyEventfds(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := AdoptEventfd(int(f.Fd())); err == nil {
		t.Error("a file is an eventfd")
	}
	if err := AdoptEventfd(-1); err == nil {
		t.Error("nothing is an eventfd")
	}
	if _, err := DialUnix("/nowhere/s"); err == nil {
		t.Error("connected to nothing")
	}
}
