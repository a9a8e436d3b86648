package loop

import (
	"fmt"
	"net/netip"
	"os"

	"vitastor/internal/env"
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
// then on, also if that fails. As with Listen, Connected is not called.
func (l *Loop) Adopt(fd int, h env.StreamHandler) (env.Stream, error) {
	err := error(ErrTooManyStreams)
	if l.conns < l.o.Streams {
		if e := sys.SetNonblock(fd); e != 0 {
			err = e
		} else {
			s, e := l.adopt(fd, sys.LocalAddr(fd))
			if err = e; e == nil {
				s.handler = h
				return s, nil
			}
		}
	}
	sys.Close(fd)
	return nil, fmt.Errorf("connection: %w", err)
}
