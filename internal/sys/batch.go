package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Iovec is struct iovec. Whoever fills it keeps the memory alive, and off the
// stack, which may move: the garbage collector does not see it.
type Iovec struct {
	Base uintptr
	Len  uint64
}

// NewIovec describes b.
func NewIovec(b []byte) Iovec {
	return Iovec{uintptr(unsafe.Pointer(unsafe.SliceData(b))), uint64(len(b))}
}

// Limits of a Batch: what one system call takes (IOV_MAX), and about what a
// socket may accept at once.
const (
	BatchPartsMax = 1024
	BatchBytesMax = 1 << 20
)

// Batch gathers parts of many messages for one system call. It is meant to be
// reused; it must be on the heap.
type Batch struct {
	header msghdr
	parts  [BatchPartsMax]Iovec
	count  int
	bytes  int
}

// msghdr is struct msghdr without its pointers' types.
type msghdr struct {
	name       uintptr
	nameLen    uint32
	_          uint32
	iov        uintptr
	iovLen     uint64
	control    uintptr
	controlLen uint64
	flags      int32
	_          uint32
}

// Reset empties the batch.
func (b *Batch) Reset() { b.count, b.bytes = 0, 0 }

// Bytes is the number of bytes gathered.
func (b *Batch) Bytes() int { return b.bytes }

// Count is the number of parts gathered.
func (b *Batch) Count() int { return b.count }

// Add appends p, which must stay alive and unchanged until Send. It returns
// false when the batch is full.
func (b *Batch) Add(p []byte) bool {
	if b.count == BatchPartsMax || b.bytes >= BatchBytesMax {
		return false
	}
	if len(p) > 0 {
		b.parts[b.count] = NewIovec(p)
		b.count++
		b.bytes += len(p)
	}
	return true
}

// Send writes the batch to a non-blocking socket and returns how many bytes
// it took. A broken connection is EPIPE without a SIGPIPE, which a host program
// of the client library may not survive.
func (b *Batch) Send(fd int) (int, syscall.Errno) {
	for {
		var n uintptr
		var e syscall.Errno
		if b.count == 1 {
			n, _, e = syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), b.parts[0].Base, uintptr(b.parts[0].Len),
				unix.MSG_NOSIGNAL, 0, 0)
		} else {
			b.header.iov = uintptr(unsafe.Pointer(&b.parts))
			b.header.iovLen = uint64(b.count)
			n, _, e = syscall.RawSyscall6(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.header)),
				unix.MSG_NOSIGNAL, 0, 0, 0)
		}
		if e == 0 {
			return int(n), 0
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}
