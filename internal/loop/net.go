package loop

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// ErrTooManyStreams is the reason why a stream was not made: Options.Streams is
// reached.
var ErrTooManyStreams = errors.New("too many open connections")

const (
	backlog     = 512
	acceptPause = 100 * time.Millisecond // when descriptors or memory are used up
)

// listener implements env.Listener.
type listener struct {
	l      *Loop
	fd     int // -1 = closed
	addr   netip.AddrPort
	path   string // of a unix socket
	accept func(env.Stream) env.StreamHandler
	resume env.Timer // armed while accepting is paused
}

// Listen implements env.Net.
func (l *Loop) Listen(addr netip.AddrPort, accept func(env.Stream) env.StreamHandler) (env.Listener, error) {
	fd, bound, err := sys.ListenTCP(addr, backlog)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %v: %w", addr, err)
	}
	n, err := l.listen(fd, bound, accept)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %v: %w", addr, err)
	}
	return n, nil
}

// listen serves a listening socket, or closes it.
func (l *Loop) listen(fd int, bound netip.AddrPort, accept func(env.Stream) env.StreamHandler) (*listener, error) {
	n := &listener{l: l, fd: fd, addr: bound, accept: accept}
	n.resume.Fire = func() { l.poll.change(n.fd, sys.EventIn) }
	if err := l.poll.add(fd, sys.EventIn, n); err != nil {
		sys.Close(fd)
		return nil, err
	}
	return n, nil
}

// Addr implements env.Listener.
func (n *listener) Addr() netip.AddrPort { return n.addr }

// Close implements env.Listener.
func (n *listener) Close() {
	if n.fd >= 0 {
		n.l.Disarm(&n.resume)
		n.l.poll.remove(n.fd)
		sys.Close(n.fd)
		n.fd = -1
		if n.path != "" {
			os.Remove(n.path)
		}
	}
}

// ready accepts what is waiting.
func (n *listener) ready(uint32) {
	for range acceptsPerEvent {
		if n.fd < 0 { // closed by accept
			return
		}
		if n.l.conns >= n.l.o.Streams {
			n.pause(ErrTooManyStreams)
			return
		}
		fd, remote, e := sys.AcceptTCP(n.fd)
		switch {
		case e == syscall.EAGAIN:
			return
		case e != 0: // EMFILE, ENFILE, ENOBUFS, ENOMEM: try again later
			n.pause(e)
			return
		}
		n.accepted(fd, remote)
	}
}

// pause stops accepting for a moment: a level-triggered event that cannot be
// served would make the loop spin.
func (n *listener) pause(why error) {
	n.l.log.Warn("accepting connections is paused", "listener", n.addr, "pause", acceptPause, "error", why)
	n.l.poll.change(n.fd, 0)
	n.l.Arm(&n.resume, acceptPause)
}

func (n *listener) accepted(fd int, remote netip.AddrPort) {
	s, err := n.l.adopt(fd, remote)
	if err != nil {
		sys.Close(fd)
		n.pause(err)
		return
	}
	s.handler = n.accept(s)
	if s.handler == nil {
		s.Close()
	}
}

// adopt makes a stream of a connected socket.
func (l *Loop) adopt(fd int, remote netip.AddrPort) (*stream, error) {
	s := &stream{l: l, fd: fd, state: open, wanted: sys.EventIn, priority: env.PriorityNormal,
		local: sys.LocalAddr(fd), remote: remote}
	if err := l.poll.add(fd, s.wanted, s); err != nil {
		return nil, err
	}
	l.conns++
	return s, nil
}

// Dial implements env.Net.
func (l *Loop) Dial(addr netip.AddrPort, h env.StreamHandler) env.Stream {
	s := &stream{l: l, fd: -1, handler: h, wanted: sys.EventOut, priority: env.PriorityNormal, remote: unmap(addr)}
	err := error(ErrTooManyStreams)
	if l.conns < l.o.Streams {
		err = s.dial(addr)
	}
	if err != nil {
		l.Defer(&env.Task{Run: func() { s.fail(fmt.Errorf("cannot connect to %v: %w", addr, err)) }})
	}
	return s
}

func (s *stream) dial(addr netip.AddrPort) error {
	fd, err := sys.DialTCP(addr)
	if err != nil {
		return err
	}
	if err := s.l.poll.add(fd, s.wanted, s); err != nil {
		sys.Close(fd)
		return err
	}
	s.fd = fd
	s.l.conns++
	return nil
}

// connected handles the end of connecting, good or bad.
func (s *stream) connected() {
	if e := sys.SocketError(s.fd); e != 0 {
		s.fail(fmt.Errorf("cannot connect to %v: %w", s.remote, e))
		return
	}
	s.state, s.local = open, sys.LocalAddr(s.fd)
	s.l.flush.add(s)
	s.handler.Connected()
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
