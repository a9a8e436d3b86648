package sys

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// unixPathMax is the longest path of a unix socket (sun_path).
const unixPathMax = 107

// ListenUnix opens a non-blocking listening socket at a path. A socket that a
// dead process has left there is replaced; one that somebody serves is not.
func ListenUnix(path string, backlog int) (int, error) {
	if len(path) == 0 || len(path) > unixPathMax {
		return -1, fmt.Errorf("the path of a socket has 1 to %d bytes, not %d", unixPathMax, len(path))
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	addr := &unix.SockaddrUnix{Name: path}
	err = unix.Bind(fd, addr)
	if err == unix.EADDRINUSE && abandoned(path) {
		if err = os.Remove(path); err == nil {
			err = unix.Bind(fd, addr)
		}
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// abandoned tells whether path is a socket that nobody listens on.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer Close(fd)
	return errors.Is(unix.Connect(fd, &unix.SockaddrUnix{Name: path}), unix.ECONNREFUSED)
}

// SocketPair makes two connected non-blocking unix sockets.
func SocketPair() ([2]int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fds, os.NewSyscallError("socketpair", err)
}

// SetNonblock makes a descriptor from elsewhere fit for the loop.
func SetNonblock(fd int) syscall.Errno {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err.(syscall.Errno)
	}
	return 0
}
