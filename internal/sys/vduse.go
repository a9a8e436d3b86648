package sys

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// IoctlBytes is ioctl(2) with a structure, which the kernel may change; nil =
// without an argument. The result is what the call returns.
func IoctlBytes(fd int, request uintptr, arg []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// IoctlWord is ioctl(2) with a number of 4 bytes, for requests that do not
// block: it is a raw call.
func IoctlWord(fd int, request uintptr, n uint32) syscall.Errno {
	for {
		_, _, e := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&n)))
		if e != unix.EINTR {
			return e
		}
	}
}

// OpenDevice opens a device for reading and writing, without ever waiting.
func OpenDevice(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// BlockInUse tells whether a block device is mounted or otherwise has an owner
// (O_EXCL), partitions included.
func BlockInUse(path string) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch err {
	case nil:
		Close(fd)
		return false, nil
	case unix.EBUSY:
		return true, nil
	}
	return false, &os.PathError{Op: "open", Path: path, Err: err}
}

// Write writes to a descriptor that does not block.
func Write(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if e == 0 {
			return int(n), 0
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}

// MapShared maps n bytes of a file or device.
func MapShared(fd int, offset int64, n int, read, write bool) ([]byte, error) {
	prot := 0
	if read {
		prot |= unix.PROT_READ
	}
	if write {
		prot |= unix.PROT_WRITE
	}
	m, err := unix.Mmap(fd, offset, n, prot, unix.MAP_SHARED)
	return m, os.NewSyscallError("mmap", err)
}

// Unmap undoes MapShared.
func Unmap(m []byte) { _ = unix.Munmap(m) }
