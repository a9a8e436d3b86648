package sys

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// FDsMax is the largest number of descriptors that come with one message.
const FDsMax = 16

// ErrTooManyFDs is the error of a message with more descriptors.
var ErrTooManyFDs = errors.New("a message brings too many file descriptors")

// ReceiveFDs reads from a non-blocking unix socket at most len(b) bytes and
// appends the descriptors that came with them to fds; they belong to the caller,
// also after an error. 0 bytes without an error is the end of the stream;
// EAGAIN that there is nothing now.
func ReceiveFDs(fd int, b []byte, fds []int) (n int, list []int, err error) {
	oob := make([]byte, unix.CmsgSpace(FDsMax*4))
	var oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, fds, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, fds, fmt.Errorf("control message: %w", err)
	}
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return n, fds, ErrTooManyFDs
	}
	return n, fds, nil
}

// SendFDs writes b to a non-blocking unix socket, with descriptors. It does not
// wait: EAGAIN means that the other side does not read. A message of a few
// hundred bytes is sent whole or not at all.
func SendFDs(fd int, b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		n, err := unix.SendmsgN(fd, b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n != len(b):
			return fmt.Errorf("%d of %d bytes were sent", n, len(b))
		default:
			return nil
		}
	}
}

// AcceptUnix takes the next connection of a listening unix socket.
func AcceptUnix(listener int) (fd int, e syscall.Errno) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			return fd, 0
		case unix.EINTR, unix.ECONNABORTED:
			continue
		}
		return -1, err.(syscall.Errno)
	}
}

// DialUnix connects to a unix socket, or fails at once: with EAGAIN if too many
// wait there already.
func DialUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// AdoptEventfd makes a descriptor that somebody sent fit for the loop, if it is
// an eventfd: anything else could be readable for ever, or block.
func AdoptEventfd(fd int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	if name != "anon_inode:[eventfd]" {
		return fmt.Errorf("an eventfd is expected, this is %s", name)
	}
	if e := SetNonblock(fd); e != 0 {
		return e
	}
	return nil
}
