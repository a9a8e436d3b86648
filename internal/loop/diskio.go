package loop

import (
	"errors"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
	"vitastor/internal/sys"
	"vitastor/internal/uring"
)

// diskIO carries disk requests through the kernel:
//
//	waiting -> slot (bounded by Options.DiskInFlight) -> ring or thread
//	        -> again, when the kernel did only a part -> finished -> Done
type diskIO struct {
	l        *Loop
	running  bool // the loop's thread is known: the ring may be made
	disks    []*disk
	waiting  diskQueue // no slot yet
	finished diskQueue // Done is due

	slots []slot
	free  []uint32 // indexes of idle slots; used as a ring, so that a slot rests before its reuse
	taken int      // slots in use
	next  int      // in free: the next idle slot
	again []uint32 // slots to be started once more

	copied      []uint32 // slots whose try was made by copyNow
	copiedBytes int64    // of them

	ring    *uring.Ring // nil = threads
	refused bool        // the kernel did not take all requests of the ring
	cqes    []uring.CQE
	threads threads
	decided bool // whether there is a ring
	iovs    []sys.Iovec
}

// slot is a request in the kernel's hands.
type slot struct {
	op    *env.DiskOp
	disk  *disk
	done  int64       // bytes transferred by earlier tries
	tries int         // without progress
	iov   []sys.Iovec // room for the parts of op
	index uint32
}

const (
	triesMax     = 1000    // of a request that the kernel puts off again and again
	copyBytesMax = 1 << 20 // copied from and to files in memory, until sockets have their turn
)

// diskQueue is a FIFO of requests.
type diskQueue struct {
	head, tail *env.DiskOp
}

func (q *diskQueue) push(op *env.DiskOp) {
	op.Next = nil
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.Next = op
	}
	q.tail = op
}

func (q *diskQueue) pop() *env.DiskOp {
	op := q.head
	if op == nil {
		return nil
	}
	if q.head = op.Next; q.head == nil {
		q.tail = nil
	}
	op.Next = nil
	return op
}

func (x *diskIO) open(l *Loop) (err error) {
	n := l.o.DiskInFlight
	x.l, x.slots, x.free = l, make([]slot, n), make([]uint32, n)
	x.again, x.copied = make([]uint32, 0, n), make([]uint32, 0, n)
	if x.iovs, err = pinned.Make[sys.Iovec](n * env.DiskIovMax); err != nil {
		return err
	}
	for i := range x.slots {
		x.free[i] = uint32(i)
		x.slots[i].index = uint32(i)
		x.slots[i].iov = x.iovs[i*env.DiskIovMax:][:env.DiskIovMax]
	}
	x.threads.open(l, n)
	return nil
}

// addDisk gives d an index, that of a closed disk if there is one.
func (x *diskIO) addDisk(d *disk) {
	for i, old := range x.disks {
		if old.closed && old.inFlight == 0 {
			d.index, x.disks[i] = uint32(i), d
			return
		}
	}
	d.index = uint32(len(x.disks))
	x.disks = append(x.disks, d)
}

// decide makes the ring, on the loop's thread, when the first request comes.
func (x *diskIO) decide() {
	if x.decided || !x.running {
		return
	}
	x.decided = true
	if x.l.o.NoRing {
		return
	}
	r, err := uring.New(uring.Options{Entries: len(x.slots)})
	if err == nil {
		if err = x.l.poll.add(r.Fd(), sys.EventIn, ringEvents{}); err != nil {
			r.Close()
		}
	}
	if err != nil {
		level := x.l.log.Warn
		if errors.Is(err, uring.ErrUnavailable) {
			level = x.l.log.Info
		}
		level("disks are served by threads instead of io_uring", "threads", x.l.o.DiskThreads, "error", err)
		return
	}
	x.ring, x.cqes = r, make([]uring.CQE, 64)
}

// ringEvents wakes the loop up, which looks at the ring in every turn.
type ringEvents struct{}

func (ringEvents) ready(uint32) {}

// pending tells whether turn would do something.
func (x *diskIO) pending() bool {
	return x.finished.head != nil || len(x.again) > 0 || x.refused || x.waiting.head != nil && x.taken < len(x.slots) && x.running
}

// ready tells whether completions wait in the ring.
func (x *diskIO) ready() bool { return x.ring != nil && x.ring.Ready() > 0 }

// turn starts what waits, collects what completed and calls Done. It returns
// whether it called any.
func (x *diskIO) turn() bool {
	x.start()
	x.reap()
	q := x.finished
	x.finished = diskQueue{}
	any := q.head != nil
	for op := q.pop(); op != nil; op = q.pop() {
		x.diskOf(op).inFlight--
		op.Slot = 0
		op.Done(op)
	}
	return any
}

// While a request is with us, its Slot says so and names the disk.
const slotBusy = 1 << 31

func (x *diskIO) diskOf(op *env.DiskOp) *disk { return x.disks[op.Slot&^slotBusy] }

// start gives requests to the kernel, as many as slots and the ring allow.
func (x *diskIO) start() {
	if x.waiting.head == nil && len(x.again) == 0 {
		if x.refused {
			x.submit()
		}
		return
	}
	x.decide()
	kept := x.again[:0]
	for _, i := range x.again {
		if !x.begin(&x.slots[i]) {
			kept = append(kept, i)
		}
	}
	x.again = kept
	for x.running && x.waiting.head != nil && x.taken < len(x.slots) && len(x.again) == 0 && x.copiedBytes < copyBytesMax {
		op := x.waiting.pop()
		s := &x.slots[x.free[x.next]]
		x.next = (x.next + 1) % len(x.free)
		x.taken++
		s.op, s.disk, s.done, s.tries = op, x.diskOf(op), 0, 0
		if !x.begin(s) {
			x.again = append(x.again, s.index)
		}
	}
	if x.ring != nil {
		x.submit()
	}
}

// submit passes the ring's requests on. When the kernel lacks resources for
// that (EAGAIN, EBUSY), the next turn tries again.
func (x *diskIO) submit() { x.refused = x.ring.Submit() != 0 }

// begin starts or continues the request in s. false: the ring is full.
func (x *diskIO) begin(s *slot) bool {
	switch {
	case s.disk.memory && s.op.Kind != env.DiskDiscard:
		x.copyNow(s)
	case x.ring == nil, s.op.Kind == env.DiskDiscard && s.disk.block:
		x.threads.begin(s)
	default:
		return s.prepare(x.ring)
	}
	return true
}

// copyNow makes a try of a request to a file in memory. The kernel would hand
// it to a thread, because such files cannot tell whether a transfer would block:
// two changes of threads for a copy of a few microseconds.
func (x *diskIO) copyNow(s *slot) {
	x.threads.results[s.index] = s.copy()
	x.copied = append(x.copied, s.index)
	x.copiedBytes += s.op.Bytes()
}

// reap collects completions of the ring and of the threads.
func (x *diskIO) reap() {
	for x.ring != nil {
		n := x.ring.Drain(x.cqes)
		for i := range x.cqes[:n] {
			c := &x.cqes[i]
			x.complete(&x.slots[c.UserData], int64(c.Res))
		}
		if n < len(x.cqes) {
			break
		}
	}
	for _, i := range x.copied {
		x.complete(&x.slots[i], x.slots[i].result())
	}
	x.copied, x.copiedBytes = x.copied[:0], 0
	for x.threads.inFlight > 0 {
		select {
		case s := <-x.threads.done:
			x.threads.inFlight--
			x.complete(s, s.result())
		default:
			return
		}
	}
}

// complete takes the result of one try: bytes, or -errno.
func (x *diskIO) complete(s *slot, res int64) {
	invariant.Must(s.op != nil, "loop: completion of a disk request that is not in flight")
	total := s.op.Bytes()
	if s.op.Kind >= env.DiskSync {
		total = 0 // the result is 0
	}
	switch {
	case res == -int64(syscall.EINTR), res == -int64(syscall.EAGAIN):
		if s.tries++; s.tries < triesMax {
			x.again = append(x.again, s.index)
			return
		}
	case res > 0:
		s.done += res
		s.tries = 0
		if s.done < total {
			x.again = append(x.again, s.index)
			return
		}
		res = 0
	case res == 0 && s.done < total: // the file has become shorter, or is full
		res = -int64(errShort)
	}
	op := s.op
	op.Err = nil
	if res < 0 {
		op.Err = syscall.Errno(-res)
	}
	s.op, s.disk = nil, nil
	x.taken--
	x.free[(x.next+len(x.free)-x.taken-1)%len(x.free)] = s.index
	x.finished.push(op)
}

// drain waits until the kernel has no request of d any more.
func (x *diskIO) drain(d *disk) {
	if !x.running {
		x.cancel(d)
	}
	for x.busy(d) {
		x.start()
		if x.reap(); x.busy(d) {
			x.waitOne()
		}
	}
}

// cancel fails the requests of d that no loop will ever start.
func (x *diskIO) cancel(d *disk) {
	all := x.waiting
	x.waiting = diskQueue{}
	for op := all.pop(); op != nil; op = all.pop() {
		if x.diskOf(op) != d {
			x.waiting.push(op)
			continue
		}
		op.Err = env.ErrDiskClosed
		x.finished.push(op)
	}
}

// busy tells whether a request of d is waiting or in the kernel.
func (x *diskIO) busy(d *disk) bool {
	for op := x.waiting.head; op != nil; op = op.Next {
		if x.diskOf(op) == d {
			return true
		}
	}
	for i := range x.slots {
		if x.slots[i].disk == d {
			return true
		}
	}
	return false
}

// waitOne blocks until something has completed.
func (x *diskIO) waitOne() {
	switch {
	case x.threads.inFlight > 0:
		s := <-x.threads.done
		x.threads.inFlight--
		x.complete(s, s.result())
	case x.ring != nil && x.ring.InFlight() > 0:
		x.ring.Wait(1)
	}
}

// shutdown waits for the kernel and closes everything. Nobody is called.
func (x *diskIO) shutdown() {
	x.waiting = diskQueue{}
	for _, d := range x.disks {
		d.Close()
	}
	if x.ring != nil {
		x.l.poll.remove(x.ring.Fd())
		x.ring.Close()
	}
	x.threads.close()
	pinned.Free(x.iovs)
}
