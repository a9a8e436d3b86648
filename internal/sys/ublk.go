package sys

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MapSparse returns zeroed memory off the Go heap of which small parts may be
// used: it is never backed by huge pages, and no RAM is reserved for it. Unmap
// gives it back.
func MapSparse(bytes int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // refused by kernels without huge pages
	return b, nil
}

// Address is where b is, for structures that drivers read. It must be off the Go
// heap.
func Address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// Alive tells whether a process runs: one that has ended and was not waited for
// does not.
func Alive(pid int) bool {
	if pid <= 0 || syscall.Kill(pid, 0) == unix.ESRCH {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !ended(stat)
}

// ended reads the state in /proc/PID/stat, behind the name in parentheses, which
// may have any characters.
func ended(stat []byte) bool {
	for i := len(stat) - 1; i > 0; i-- {
		if stat[i] == ')' {
			return i+2 < len(stat) && (stat[i+2] == 'Z' || stat[i+2] == 'X')
		}
	}
	return false
}

// MayReadWrite tells why this process may not open a file for reading and
// writing, without opening it.
func MayReadWrite(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS); err != nil {
		return &os.PathError{Op: "access", Path: path, Err: err}
	}
	return nil
}
