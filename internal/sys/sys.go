// Package sys holds the Linux system calls of the data path, made by
// RawSyscall6: the Go scheduler is not told, which saves about 2 us of CPU per
// operation on a thread that is locked to its goroutine anyway.
//
// Guarantee: no function allocates or makes its arguments escape. A raw call
// that blocks also blocks garbage collection until the runtime's signal
// interrupts it (EINTR): only EpollWait may block, its caller decides how.
//
// Concurrency: no state; a Batch belongs to one goroutine. Errors are 0 or the
// kernel's errno; EINTR is retried where nothing can be waiting.
package sys

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EpollEvent is struct epoll_event. Fd and Pad come back as they were given.
type EpollEvent = unix.EpollEvent

// Waiting is the way in which EpollWait enters the kernel.
type Waiting bool

const (
	WaitRaw    Waiting = false // fastest to wake up
	WaitParked Waiting = true  // the scheduler uses the thread's processor meanwhile: costs an idle process nothing
)

// EpollWait returns events of ep. With block it waits for the first one, for
// ever: deadlines come from a timerfd in the set, because a time-out would have
// the kernel start and cancel a timer at every wait.
func EpollWait(ep int, events []EpollEvent, block bool, how Waiting) (int, syscall.Errno) {
	timeoutMs := uintptr(0)
	if block {
		timeoutMs = ^uintptr(0)
	}
	var n uintptr
	var e syscall.Errno
	if how == WaitParked {
		n, _, e = syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), timeoutMs, 0, 0)
	} else {
		n, _, e = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), timeoutMs, 0, 0)
	}
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// SetTimerfd makes fd readable once d (> 0) has passed, instead of at the time
// that was set before.
func SetTimerfd(fd int, d time.Duration) syscall.Errno {
	// struct itimerspec: the interval (none), then the time to the expiry
	spec := [2]unix.Timespec{{}, unix.NsecToTimespec(max(int64(d), 1))}
	_, _, e := syscall.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	return e
}

// EpollCtl adds, changes or removes (unix.EPOLL_CTL_*) the interest in fd.
func EpollCtl(ep, op, fd int, ev EpollEvent) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(&ev)), 0, 0)
	return e
}

// Read reads from a non-blocking descriptor. 0 bytes without an error is the
// end of the stream.
func Read(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), 0, 0, 0)
		if e == 0 {
			return int(n), 0
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}

// WakeEventfd adds 1 to an eventfd, from any goroutine.
func WakeEventfd(fd int) syscall.Errno {
	one := uint64(1)
	for {
		_, _, e := syscall.RawSyscall6(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8, 0, 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// DrainEventfd resets a non-blocking eventfd or timerfd to 0.
func DrainEventfd(fd int) syscall.Errno {
	var count uint64
	for {
		_, _, e := syscall.RawSyscall6(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&count)), 8, 0, 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}
