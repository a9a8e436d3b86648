package loop

import (
	"sync"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// threads serve disk requests by blocking system calls on goroutines: all of
// them where io_uring is not allowed, otherwise those it has no opcode for
// (discard of block devices). Both channels have room for every slot, so nobody
// waits for the loop.
type threads struct {
	l        *Loop
	work     chan *slot
	done     chan *slot
	inFlight int // given to work and not taken from done
	started  int
	ended    sync.WaitGroup
	results  []int64 // by slot: bytes, or -errno
}

func (t *threads) open(l *Loop, slots int) {
	t.l, t.work, t.done = l, make(chan *slot, slots), make(chan *slot, slots)
	t.results = make([]int64, slots)
}

func (t *threads) close() {
	close(t.work)
	t.ended.Wait()
}

// begin hands s to a thread, a new one if all may be busy.
func (t *threads) begin(s *slot) {
	t.inFlight++
	if t.started < min(t.inFlight, t.l.o.DiskThreads) {
		t.started++
		t.ended.Go(t.serve)
	}
	t.work <- s
}

func (t *threads) serve() {
	for s := range t.work {
		t.results[s.index] = s.run()
		t.done <- s
		t.l.mail.wake()
	}
}

// result is what the thread has left for s.
func (s *slot) result() int64 { return s.disk.l.io.threads.results[s.index] }

// copy makes one try of a request to a file in memory, where a sync has nothing to do.
func (s *slot) copy() int64 {
	n, e := 0, syscall.Errno(0)
	switch s.op.Kind {
	case env.DiskRead:
		n, e = sys.CopyFrom(s.disk.fd, s.parts(), s.op.Offset+s.done)
	case env.DiskWrite:
		n, e = sys.CopyTo(s.disk.fd, s.parts(), s.op.Offset+s.done)
	}
	if e != 0 {
		return -int64(e)
	}
	return int64(n)
}

// run makes one try of the request, blocking.
func (s *slot) run() int64 {
	op, fd := s.op, s.disk.fd
	n, e := 0, syscall.Errno(0)
	switch {
	case op.Kind == env.DiskRead:
		n, e = sys.ReadAt(fd, s.parts(), op.Offset+s.done, 0)
	case op.Kind == env.DiskWrite:
		n, e = sys.WriteAt(fd, s.parts(), op.Offset+s.done, int(s.disk.rwFlags(op)))
	case op.Kind == env.DiskSync:
		e = sys.SyncData(fd)
	case s.disk.block:
		e = sys.Discard(fd, op.Offset, op.Length)
	default:
		e = sys.PunchHole(fd, op.Offset, op.Length)
	}
	if e != 0 {
		return -int64(e)
	}
	return int64(n)
}
