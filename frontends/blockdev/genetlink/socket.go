package genetlink

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

const (
	protocolGeneric = 16
	answerBytesMax  = 32 << 10

	solNetlink  = 270
	netCapAck   = 10 // NETLINK_CAP_ACK
	netExtAck   = 11 // NETLINK_EXT_ACK
	firstNumber = 1  // sequence of the question for the family
)

// ErrNoFamily means that no driver of the kernel listens to that name: its
// module is not loaded.
var ErrNoFamily = errors.New("the kernel does not know this family of netlink messages")

// socket is a netlink socket.
type socket struct{ fd int }

// open makes a socket; the kernel gets patience for each answer, 0 = for ever.
func open(patience time.Duration) (socket, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocolGeneric)
	if err != nil {
		return socket{}, err
	}
	s := socket{fd}
	err = syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK})
	if err == nil && patience > 0 {
		tv := syscall.NsecToTimeval(patience.Nanoseconds())
		err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv)
	}
	if err != nil {
		s.close()
		return socket{}, err
	}
	// The kernel's own words for errors; old ones have none.
	_ = syscall.SetsockoptInt(fd, solNetlink, netCapAck, 1)
	_ = syscall.SetsockoptInt(fd, solNetlink, netExtAck, 1)
	return s, nil
}

func (s socket) close() { syscall.Close(s.fd) }

// ask sends a request and returns the answer: the attributes of the first
// message that has some.
func (s socket) ask(m *Message, family uint16, sequence uint32) (answer Answer, err error) {
	to := &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	if err := syscall.Sendto(s.fd, m.Encode(family, sequence), 0, to); err != nil {
		return nil, err
	}
	for {
		buf := make([]byte, answerBytesMax)
		n, _, err := syscall.Recvfrom(s.fd, buf, 0)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return nil, syscall.ETIMEDOUT
		case err != nil:
			return nil, err
		}
		list, err := parse(buf[:n], sequence)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if r.final {
				return answer, r.failure()
			}
			if answer == nil {
				answer = r.attrs
			}
		}
	}
}

// Call makes a request to a family, and returns what the kernel answers. The
// kernel has patience for that, 0 = as long as it wants. Errors wrap ErrNoFamily,
// ErrMalformed or an errno.
func Call(family string, m *Message, patience time.Duration) (Answer, error) {
	s, err := open(patience)
	if err != nil {
		return nil, err
	}
	defer s.close()
	a, err := s.ask(familyMessage(family), controlID, firstNumber)
	if errors.Is(err, syscall.ENOENT) {
		return nil, fmt.Errorf("%w: %s", ErrNoFamily, family)
	}
	if err != nil {
		return nil, err
	}
	id, ok := a.Number(familyID)
	if !ok {
		return nil, ErrMalformed
	}
	return s.ask(m, uint16(id), firstNumber+1)
}
