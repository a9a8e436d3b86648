package loop

import (
	"fmt"
	"net/netip"
	"os"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/sys"
)

// ListenUnix is Listen on a unix socket. Its file is removed by Close; one that
// a dead process has left is replaced.
func (l *Loop) ListenUnix(path string, accept func(env.Stream) env.StreamHandler) (env.Listener, error) {
	fd, err := sys.ListenUnix(path, backlog)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	n, err := l.listen(fd, netip.AddrPort{}, accept)
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	n.path = path
	return n, nil
}

// Adopt makes a stream of a connected socket, which belongs to the loop from
// then on, also if that fails. accept is called at once, as by Listen.
func (l *Loop) Adopt(fd int, accept func(env.Stream) env.StreamHandler) error {
	err := error(ErrTooManyStreams)
	if l.conns < l.o.Streams {
		err = nil
		if e := sys.SetNonblock(fd); e != 0 {
			err = e
		}
	}
	var s *stream
	if err == nil {
		s, err = l.adopt(fd, sys.LocalAddr(fd))
	}
	if err != nil {
		sys.Close(fd)
		return fmt.Errorf("connection: %w", err)
	}
	if s.handler = accept(s); s.handler == nil {
		s.Close()
	}
	return nil
}

// Detach ends a stream of this package without closing its descriptor, which
// belongs to the caller then (-1 = the stream has ended). Nothing may be queued
// for sending.
func Detach(s env.Stream) int {
	st, ok := s.(*stream)
	if !ok || st.fd < 0 || st.state != open {
		return -1
	}
	invariant.Must(st.queue.head == nil, "loop: a stream with something to send is detached")
	fd := st.fd
	st.l.poll.remove(fd)
	st.l.conns--
	st.fd, st.state = -1, closed
	return fd
}
