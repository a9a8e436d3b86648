package loop

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// echo sends back what it receives.
func echo(s env.Stream) *funcs {
	return &funcs{received: func(b []byte) {
		s.Send(&env.SendOp{Parts: [][]byte{bytes.Clone(b)}, Done: func(*env.SendOp, error) {}})
	}}
}

func TestListenUnix(t *testing.T) {
	l := start(t, Options{})
	path := filepath.Join(t.TempDir(), "socket")
	// What a dead process has left is replaced.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	var n env.Listener
	do(t, l, func(finish func()) {
		if n, err = l.ListenUnix(path, func(s env.Stream) env.StreamHandler { return echo(s) }); err == nil {
			_, second := l.ListenUnix(path, nil)
			if second == nil || !strings.Contains(second.Error(), path) {
				t.Errorf("a second listener on the same path: %v", second)
			}
		}
		finish()
	})
	if err != nil {
		t.Fatal(err)
	}
	ping(t, "unix", path)
	do(t, l, func(finish func()) { n.Close(); finish() })
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket's file is still there")
	}
	do(t, l, func(finish func()) {
		if _, err := l.ListenUnix(strings.Repeat("x", 200), nil); err == nil {
			t.Error("a path that is too long is accepted")
		}
		finish()
	})
}

// ping writes to an echo and reads it.
func ping(t *testing.T, network, addr string) {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, 5)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAdopt(t *testing.T) {
	l := start(t, Options{})
	pair, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	do(t, l, func(finish func()) {
		if err := l.Adopt(pair[0], func(s env.Stream) env.StreamHandler { return echo(s) }); err != nil {
			t.Error(err)
		}
		finish()
	})
	other := os.NewFile(uintptr(pair[1]), "pair")
	defer other.Close()
	got := make([]byte, 5)
	if _, err := other.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(other, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	// A descriptor that cannot be waited for is refused.
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	do(t, l, func(finish func()) {
		if err := l.Adopt(fd, nil); err == nil {
			t.Error("a file is adopted")
		}
		finish()
	})
}

func TestDetach(t *testing.T) {
	l := start(t, Options{})
	detached := make(chan int, 1)
	to := listen(t, l, localhost, func(s env.Stream) env.StreamHandler {
		return &funcs{received: func([]byte) {
			detached <- Detach(s)
			if fd := Detach(s); fd != -1 {
				t.Errorf("detached twice: %d", fd)
			}
		}}
	})
	c := client(t, to)
	c.Write([]byte("?"))
	fd := <-detached
	f := os.NewFile(uintptr(fd), "detached")
	defer f.Close()
	if _, err := f.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}
