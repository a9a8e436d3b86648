package sys

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestIoctls: an eventfd knows none, and the calls allocate nothing.
func TestIoctls(t *testing.T) {
	fd, err := NewEventfd()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	if e := IoctlWord(fd, 0x40048117, 1); e != syscall.ENOTTY {
		t.Errorf("%v", e)
	}
	if n := testing.AllocsPerRun(100, func() { IoctlWord(fd, 0x40048117, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if _, e := IoctlBytes(fd, 0x8113, nil); e != syscall.ENOTTY {
		t.Errorf("%v", e)
	}
	// TIOCINQ (FIONREAD), of a pipe.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer Close(pipe[0])
	defer Close(pipe[1])
	if n, e := Write(pipe[1], []byte("hello")); n != 5 || e != 0 {
		t.Errorf("%d %v", n, e)
	}
	b := make([]byte, 4)
	if n, e := IoctlBytes(pipe[0], unix.TIOCINQ, b); n != 0 || e != 0 || b[0] != 5 {
		t.Errorf("%d %v: %v", n, e, b)
	}
	for e := syscall.Errno(0); e == 0; _, e = Write(pipe[1], make([]byte, 4096)) {
	}
	if _, e := Write(pipe[1], make([]byte, 4096)); e != syscall.EAGAIN {
		t.Errorf("a full pipe: %v", e)
	}
}

func TestMapShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := MapShared(fd, 4096, 4096, true, true)
	Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	copy(m, "mapped")
	if data, _ := os.ReadFile(path); !bytes.HasPrefix(data[4096:], []byte("mapped")) {
		t.Error("the file is not changed")
	}
	Unmap(m)
	if _, err := OpenDevice(filepath.Join(path, "nothing")); err == nil {
		t.Error("what does not exist is opened")
	}
	if in, err := BlockInUse(path); in || err != nil {
		t.Errorf("%v %v", in, err)
	}
	if _, err := BlockInUse(path + "x"); err == nil {
		t.Error("what does not exist is not in use")
	}
}
