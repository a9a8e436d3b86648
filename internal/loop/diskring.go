package loop

import (
	"vitastor/internal/env"
	"vitastor/internal/sys"
	"vitastor/internal/uring"
)

// chunkMax keeps the length of one try within what the kernel transfers at once
// (2 GiB), and aligned.
const chunkMax = 1 << 30

// prepare puts the rest of the request into the ring; false: it is full.
func (s *slot) prepare(r *uring.Ring) bool {
	sqe := r.SQE()
	if sqe == nil {
		return false
	}
	op, fd := s.op, s.disk.fd
	offset := op.Offset + s.done
	switch {
	case op.Kind == env.DiskSync:
		sqe.PrepFsync(fd, uring.FsyncDatasync)
	case op.Kind == env.DiskDiscard:
		sqe.PrepPunchHole(fd, op.Offset, op.Length)
	case op.Kind == env.DiskRead && len(op.Iov) == 0:
		sqe.PrepRead(fd, chunk(op.Buf[s.done:]), offset)
	case op.Kind == env.DiskRead:
		sqe.PrepReadv(fd, s.parts(), offset)
	case len(op.Iov) == 0:
		sqe.PrepWrite(fd, chunk(op.Buf[s.done:]), offset, s.disk.rwFlags(op))
	default:
		sqe.PrepWritev(fd, s.parts(), offset, s.disk.rwFlags(op))
	}
	sqe.UserData = uint64(s.index)
	return true
}

func chunk(b []byte) []byte { return b[:min(len(b), chunkMax)] }

// parts describes the bytes of op that are still to be transferred.
func (s *slot) parts() []sys.Iovec {
	skip, n := s.done, 0
	if len(s.op.Iov) == 0 {
		s.iov[0] = sys.NewIovec(chunk(s.op.Buf[skip:]))
		return s.iov[:1]
	}
	for _, p := range s.op.Iov {
		if skip >= int64(len(p)) {
			skip -= int64(len(p))
			continue
		}
		s.iov[n] = sys.NewIovec(p[skip:])
		skip = 0
		n++
	}
	return s.iov[:n]
}
