package netlink

import (
	"errors"
	"fmt"
	"syscall"
)

const (
	protocolGeneric = 16
	answerBytesMax  = 32 << 10
	answerSeconds   = 30
)

// ErrNoFamily means that the kernel does not know NBD over netlink.
var ErrNoFamily = errors.New("the kernel does not offer NBD devices: the module nbd is not loaded or not there (modprobe nbd; " +
	"it is part of the kernel package of distributions, and missing in many containers and cloud kernels)")

// socket is a netlink socket and the number of the family.
type socket struct {
	fd       int
	family   uint16
	sequence uint32
}

func open() (*socket, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocolGeneric)
	if err != nil {
		return nil, explain("netlink", err)
	}
	s := &socket{fd: fd}
	err = syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK})
	if err == nil {
		err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: answerSeconds})
	}
	if err != nil {
		s.close()
		return nil, explain("netlink", err)
	}
	s.sequence++
	r, err := s.ask(familyMessage(s.sequence))
	if err == nil {
		id, ok := r.number(familyID)
		if s.family = uint16(id); ok {
			return s, nil
		}
		err = errMalformed
	}
	s.close()
	if errors.Is(err, syscall.ENOENT) {
		return nil, ErrNoFamily
	}
	return nil, explain("netlink", err)
}

func (s *socket) close() { syscall.Close(s.fd) }

// ask sends a request and returns the answer, with the attributes of the first
// message that has some.
func (s *socket) ask(request []byte) (answer reply, err error) {
	if err := syscall.Sendto(s.fd, request, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return answer, err
	}
	buf := make([]byte, answerBytesMax)
	for {
		n, _, err := syscall.Recvfrom(s.fd, buf, 0)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return answer, err
		}
		list, err := parse(append([]byte(nil), buf[:n]...), s.sequence)
		if err != nil {
			return answer, err
		}
		for _, r := range list {
			if r.final {
				if r.err != 0 {
					return answer, r.err
				}
				return answer, nil
			}
			if answer.attrs == nil {
				answer = r
			}
		}
	}
}

// call makes a request of one's own with a new socket.
func call(what string, build func(family uint16, sequence uint32) []byte) (reply, error) {
	s, err := open()
	if err != nil {
		return reply{}, err
	}
	defer s.close()
	s.sequence++
	r, err := s.ask(build(s.family, s.sequence))
	if err != nil {
		return r, explain(what, err)
	}
	return r, nil
}

// Connect attaches sockets to device index (< 0: one that the kernel chooses),
// and returns its number.
func Connect(index int, fds []int, o Options) (int, error) {
	what := Path(index)
	if index < 0 {
		what = "a new device"
	}
	r, err := call("connect "+what, func(family uint16, sequence uint32) []byte {
		return connectMessage(family, cmdConnect, sequence, index, fds, o)
	})
	if err != nil {
		return index, err
	}
	if n, ok := r.number(attrIndex); ok {
		return int(n), nil
	}
	if index < 0 {
		return index, fmt.Errorf("connect %s: %w", what, errMalformed)
	}
	return index, nil
}

// Reconfigure gives a device new sockets instead of those that are dead.
func Reconfigure(index int, fds []int, o Options) error {
	_, err := call("revive "+Path(index), func(family uint16, sequence uint32) []byte {
		return connectMessage(family, cmdReconfigure, sequence, index, fds, o)
	})
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w: either its server lives, or it was not mapped with netlink-map and --nbd_conn_timeout", err)
	}
	return err
}

// Resize tells a device that its size has changed.
func Resize(index int, sizeBytes uint64) error {
	_, err := call("resize "+Path(index), func(family uint16, sequence uint32) []byte {
		return sizeMessage(family, sequence, index, sizeBytes)
	})
	return err
}

// Disconnect detaches a device.
func Disconnect(index int) error {
	_, err := call("disconnect "+Path(index), func(family uint16, sequence uint32) []byte {
		return disconnectMessage(family, sequence, index)
	})
	return err
}
