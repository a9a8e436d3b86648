package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadAt and WriteAt are preadv2 and pwritev2. They block, on a goroutine of
// their own: the scheduler is told. flags are unix.RWF_*.
func ReadAt(fd int, parts []Iovec, offset int64, flags int) (int, syscall.Errno) {
	return transferAt(unix.SYS_PREADV2, fd, parts, offset, flags)
}

// WriteAt is pwritev2; see ReadAt.
func WriteAt(fd int, parts []Iovec, offset int64, flags int) (int, syscall.Errno) {
	return transferAt(unix.SYS_PWRITEV2, fd, parts, offset, flags)
}

// CopyFrom and CopyTo are ReadAt and WriteAt for files in memory, where nothing
// is waited for: the scheduler is not told.
func CopyFrom(fd int, parts []Iovec, offset int64) (int, syscall.Errno) {
	return copyAt(unix.SYS_PREADV, fd, parts, offset)
}

// CopyTo is the raw pwritev; see CopyFrom.
func CopyTo(fd int, parts []Iovec, offset int64) (int, syscall.Errno) {
	return copyAt(unix.SYS_PWRITEV, fd, parts, offset)
}

func copyAt(call uintptr, fd int, parts []Iovec, offset int64) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))),
		uintptr(len(parts)), uintptr(offset), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func transferAt(call uintptr, fd int, parts []Iovec, offset int64, flags int) (int, syscall.Errno) {
	// On 64-bit kernels the offset is one argument and its upper half is ignored.
	n, _, e := syscall.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))),
		uintptr(len(parts)), uintptr(offset), 0, uintptr(flags))
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Discard tells a block device (BLKDISCARD) that a range is not needed. It
// blocks.
func Discard(fd int, offset, length int64) syscall.Errno {
	r := [2]uint64{uint64(offset), uint64(length)}
	_, _, e := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r)))
	return e
}

// DeviceBytes is the size of a block device (BLKGETSIZE64).
func DeviceBytes(fd int) (int64, error) {
	var n uint64
	_, _, e := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return 0, e
	}
	return int64(n), nil
}
