// Package uring is a small io_uring: one ring, used by one thread, made from
// the kernel's interface by system calls only.
//
//	sqe := r.SQE()               // nil: the ring is full, drain first
//	sqe.PrepRead(fd, buf, off)
//	sqe.UserData = 7
//	r.Submit()
//	n := r.Drain(cqes[:])        // completions, without a system call
//
// The two rings are shared with the kernel; whoever owns an index stores it
// after the entries it covers:
//
//	submission  head (kernel) .. tail (we)      entries -> requests
//	completion  head (we) .. tail (kernel)      results with the user data
//
// Guarantee: a request that was handed out is zeroed, so nothing is inherited
// from its slot's former use. No more requests are in flight than the
// completion ring has room for, so it cannot overflow (poll requests with
// CQEMore excepted; then the kernel keeps the rest). Nothing allocates after New.
//
// Memory that a request names must stay in place until its completion: off
// the Go heap and stack (internal/pinned), or a heap object kept alive.
//
// Concurrency: New and every method on one thread (runtime.LockOSThread).
package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitastor/internal/invariant"
)

// ErrUnavailable is returned by New where io_uring cannot be used: an old
// kernel, a container's seccomp filter, or the sysctl kernel.io_uring_disabled.
// Callers fall back to read and write on threads.
var ErrUnavailable = errors.New("io_uring is not available")

// Options select the size and kind of a ring.
type Options struct {
	Entries int  // requests per submission; 0 = 256. The most in flight is twice that
	SQE128  bool // requests of 128 bytes, for PrepCommand with more than 16 bytes
}

// Ring is one io_uring.
type Ring struct {
	fd      int
	enterFd int // fd, or its index when it is registered
	flags   uint32
	enter   uintptr // flags of every io_uring_enter

	sqHead, sqTail, sqFlags *uint32
	sqMask, sqEntries       uint32
	tail                    uint32 // requests handed out; the kernel sees it after Submit
	sqes                    unsafe.Pointer
	sqeBytes                uintptr

	cqHead, cqTail    *uint32
	cqMask, cqEntries uint32
	cqes              unsafe.Pointer

	inFlight  uint32
	rings     unsafe.Pointer
	ringBytes uintptr
	supported [256]bool
}

// New makes a ring for the calling thread, with the best flags that the kernel
// knows.
func New(o Options) (*Ring, error) {
	if o.Entries == 0 {
		o.Entries = 256
	}
	if o.Entries < 0 || o.Entries > 32768 {
		return nil, fmt.Errorf("an io_uring of %d entries is not possible: 1 to 32768 are", o.Entries)
	}
	fd, p, e := setupBest(o)
	if e != 0 {
		return nil, unavailable("io_uring_setup", e)
	}
	if p.features&featNeeded != featNeeded {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: the kernel is too old (features %#x)", ErrUnavailable, p.features)
	}
	r := &Ring{fd: fd, enterFd: fd, flags: p.flags}
	if err := r.mapRings(&p); err != nil {
		r.Close()
		return nil, fmt.Errorf("cannot map the io_uring: %w", err)
	}
	r.probeOps()
	r.registerSelf()
	return r, nil
}

func unavailable(what string, e syscall.Errno) error {
	switch e {
	case unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOMEM:
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, e)
	}
	return fmt.Errorf("%s: %w", what, e)
}

// setupBest leaves away flags until the kernel accepts the rest.
func setupBest(o Options) (fd int, p params, e syscall.Errno) {
	base := uint32(setupClamp | setupSubmitAll)
	if o.SQE128 {
		base |= setupSQE128
	}
	for _, flags := range []uint32{
		base | setupNoSQArray | setupSingleIssuer | setupCoopTaskrun,
		base | setupSingleIssuer | setupCoopTaskrun,
		base | setupCoopTaskrun,
		base,
		base &^ setupSubmitAll,
	} {
		p = params{flags: flags}
		if fd, e = setup(o.Entries, &p); e != unix.EINVAL {
			break
		}
	}
	return fd, p, e
}

func setup(entries int, p *params) (int, syscall.Errno) {
	fd, _, e := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	return int(fd), e
}

// mapRings maps both rings (they share one mapping) and the requests.
func (r *Ring) mapRings(p *params) (err error) {
	sqBytes := uintptr(p.sq.array) + uintptr(p.sqEntries)*4
	cqBytes := uintptr(p.cq.cqes) + uintptr(p.cqEntries)*unsafe.Sizeof(CQE{})
	r.ringBytes = max(sqBytes, cqBytes)
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.rings, err = unix.MmapPtr(r.fd, offSQRing, nil, r.ringBytes, prot, flags); err != nil {
		return err
	}
	r.sqeBytes = unsafe.Sizeof(SQE{})
	if p.flags&setupSQE128 != 0 {
		r.sqeBytes *= 2
	}
	if r.sqes, err = unix.MmapPtr(r.fd, offSQEs, nil, uintptr(p.sqEntries)*r.sqeBytes, prot, flags); err != nil {
		return err
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Add(r.rings, offset)) }
	r.sqHead, r.sqTail, r.sqFlags = word(p.sq.head), word(p.sq.tail), word(p.sq.flags)
	r.sqMask, r.sqEntries = *word(p.sq.mask), p.sqEntries
	r.cqHead, r.cqTail = word(p.cq.head), word(p.cq.tail)
	r.cqMask, r.cqEntries = *word(p.cq.mask), p.cqEntries
	r.cqes = unsafe.Add(r.rings, p.cq.cqes)
	r.tail = *r.sqTail
	if p.flags&setupNoSQArray == 0 { // one fixed order for ever
		array := unsafe.Slice(word(p.sq.array), p.sqEntries)
		for i := range array {
			array[i] = uint32(i)
		}
	}
	return nil
}

// probeOps asks which opcodes the kernel knows. Without an answer (before 5.6)
// only the first ones are assumed.
func (r *Ring) probeOps() {
	var p probe
	if e := r.register(registerProbe, unsafe.Pointer(&p), uintptr(len(p.ops))); e != 0 {
		for op := range OpPollAdd {
			r.supported[op] = true
		}
		return
	}
	for _, o := range p.ops[:p.opsLen] {
		r.supported[o.op] = o.flags&probeOpSupported != 0
	}
}

// registerSelf lets io_uring_enter skip the lookup of the descriptor (5.18).
func (r *Ring) registerSelf() {
	u := rsrcUpdate{offset: ringFdAnySlot, data: uint64(r.fd)}
	if r.register(registerRingFds, unsafe.Pointer(&u), 1) == 0 {
		r.enterFd, r.enter = int(u.offset), enterRegisteredRing
	}
}

func (r *Ring) register(op uintptr, arg unsafe.Pointer, n uintptr) syscall.Errno {
	for {
		_, _, e := syscall.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(arg), n, 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// Supports tells whether the kernel knows the opcode.
func (r *Ring) Supports(op Op) bool { return r.supported[op] }

// Fd is the ring's descriptor: readable (for epoll) while completions wait, and
// the target of PrepMsgRing in another ring.
func (r *Ring) Fd() int { return r.fd }

// InFlight is the number of requests handed out that have not completed.
func (r *Ring) InFlight() int { return int(r.inFlight) }

// Unsubmitted is the number of requests handed out but not submitted.
func (r *Ring) Unsubmitted() int { return int(r.tail - atomic.LoadUint32(r.sqHead)) }

// Cap is the largest possible number of requests in flight.
func (r *Ring) Cap() int { return int(r.cqEntries) }

// SQE hands out a zeroed request, or nil when the ring is full: then Submit,
// or Drain, and try again.
func (r *Ring) SQE() *SQE {
	if r.tail-atomic.LoadUint32(r.sqHead) >= r.sqEntries || r.inFlight >= r.cqEntries {
		return nil
	}
	sqe := (*SQE)(unsafe.Add(r.sqes, uintptr(r.tail&r.sqMask)*r.sqeBytes))
	*sqe = SQE{}
	if r.flags&setupSQE128 != 0 {
		clear(r.Command(sqe))
	}
	r.tail++
	r.inFlight++
	return sqe
}

// Command is the command area of a request for PrepCommand: 16 bytes, or 80
// with SQE128.
func (r *Ring) Command(sqe *SQE) []byte {
	n := commandBytesSQE64
	if r.flags&setupSQE128 != 0 {
		n = commandBytesSQE128
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&sqe.Addr3)), n)
}

// Submit gives the handed-out requests to the kernel without waiting. EAGAIN and
// EBUSY mean that it lacks resources now: Drain and try again; the requests
// stay handed out.
func (r *Ring) Submit() syscall.Errno {
	for {
		n := r.publish()
		if n == 0 {
			return 0
		}
		_, e := r.rawEnter(uintptr(n), 0, 0)
		if e != 0 && e != unix.EINTR {
			return e
		}
	}
}

// Wait submits and waits until at least n completions can be drained. It tells
// the scheduler that it blocks.
func (r *Ring) Wait(n int) syscall.Errno {
	for r.Ready() < n {
		pending := r.publish()
		_, _, e := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.enterFd), uintptr(pending), uintptr(n),
			r.enter|enterGetEvents, 0, 0)
		if e != 0 && e != unix.EINTR {
			return e
		}
	}
	return 0
}

// publish makes the handed-out requests visible and returns their number.
func (r *Ring) publish() uint32 {
	if *r.sqTail != r.tail {
		atomic.StoreUint32(r.sqTail, r.tail)
	}
	return r.tail - atomic.LoadUint32(r.sqHead)
}

func (r *Ring) rawEnter(submit, wait, flags uintptr) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.enterFd), submit, wait, r.enter|flags, 0, 0)
	return int(n), e
}

// Ready is the number of completions that Drain would return.
func (r *Ring) Ready() int { return int(atomic.LoadUint32(r.cqTail) - *r.cqHead) }

// Drain copies waiting completions to out and returns their number. It makes a
// system call only when the kernel holds back completions (an overflow).
func (r *Ring) Drain(out []CQE) int {
	if atomic.LoadUint32(r.sqFlags)&sqCQOverflow != 0 && r.Ready() == 0 {
		r.rawEnter(0, 0, enterGetEvents)
	}
	head := *r.cqHead
	n := min(uint32(len(out)), atomic.LoadUint32(r.cqTail)-head)
	for i := range n {
		c := (*CQE)(unsafe.Add(r.cqes, uintptr((head+i)&r.cqMask)*unsafe.Sizeof(CQE{})))
		out[i] = *c
		if c.Flags&CQEMore == 0 {
			invariant.Must(r.inFlight > 0, "io_uring: more completions than requests")
			r.inFlight--
		}
	}
	if n > 0 {
		atomic.StoreUint32(r.cqHead, head+n)
	}
	return int(n)
}

// RegisterFiles makes fds usable by index, with SQEFixedFile.
func (r *Ring) RegisterFiles(fds []int32) error {
	if e := r.register(registerFiles, unsafe.Pointer(unsafe.SliceData(fds)), uintptr(len(fds))); e != 0 {
		return fmt.Errorf("cannot register %d files with the io_uring: %w", len(fds), e)
	}
	return nil
}

// UnregisterFiles undoes RegisterFiles.
func (r *Ring) UnregisterFiles() error {
	if e := r.register(unregisterFiles, nil, 0); e != 0 {
		return fmt.Errorf("cannot unregister the files of the io_uring: %w", e)
	}
	return nil
}

// RegisterBuffers locks buffers in memory and makes them usable by index, with
// PrepReadFixed and PrepWriteFixed. It counts against RLIMIT_MEMLOCK.
func (r *Ring) RegisterBuffers(buffers [][]byte) error {
	iov := make([]unix.Iovec, len(buffers))
	for i, b := range buffers {
		iov[i].Base = unsafe.SliceData(b)
		iov[i].SetLen(len(b))
	}
	if e := r.register(registerBuffers, unsafe.Pointer(unsafe.SliceData(iov)), uintptr(len(iov))); e != 0 {
		return fmt.Errorf("cannot register %d buffers with the io_uring (see ulimit -l): %w", len(buffers), e)
	}
	return nil
}

// UnregisterBuffers undoes RegisterBuffers.
func (r *Ring) UnregisterBuffers() error {
	if e := r.register(unregisterBuffers, nil, 0); e != 0 {
		return fmt.Errorf("cannot unregister the buffers of the io_uring: %w", e)
	}
	return nil
}

// Close ends the ring. The kernel may go on with requests in flight and their
// memory for a moment: wait for them before.
func (r *Ring) Close() {
	if r.enter != 0 {
		u := rsrcUpdate{offset: uint32(r.enterFd)}
		r.register(unregisterRingFds, unsafe.Pointer(&u), 1)
	}
	if r.sqes != nil {
		_ = unix.MunmapPtr(r.sqes, uintptr(r.sqEntries)*r.sqeBytes)
	}
	if r.rings != nil {
		_ = unix.MunmapPtr(r.rings, r.ringBytes)
	}
	unix.Close(r.fd)
	*r = Ring{fd: -1}
}
