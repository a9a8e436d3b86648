// Package guestmem is memory that is shared with a guest, or with any process
// that is not trusted: mappings of its file descriptors, the atomic accesses
// that shared rings need, and protection against memory that vanishes.
//
// A file can become shorter while it is mapped: touching what is gone raises
// SIGBUS. Where the file can be sealed against that, Map does so, and the
// mapping is stable. All other memory must be touched inside of a function
// that begins with
//
//	defer guestmem.Recover(guestmem.Protect(), &err)
//
// which returns a Fault then, and must not be handed to anybody else. Kernels
// return EFAULT when they are told to use such memory.
//
// Guarantee: Map maps no byte outside of what was asked for and is in the file
// (but for the rest of its first and last page); an unmapped Mapping has no
// users. Accesses of 16 and 32 bits are atomic and sequentially consistent
// with each other, on any architecture; values are in the host's byte order.
//
// Concurrency: a Mapping belongs to one goroutine at a time; its memory to
// everybody.
package guestmem

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitastor/internal/invariant"
)

// Mapping is mapped memory with a count of its users.
type Mapping struct {
	whole  []byte // what munmap wants
	data   []byte
	users  int
	stable bool
}

// mapped counts mappings, for tests that look for leaks.
var mapped atomic.Int64

// MapFile is Map for descriptors of somebody who is not trusted: only files in
// memory or on disk are mapped. (What devices map may vanish in their own way.)
func MapFile(fd int, offset, n uint64, writable bool) (*Mapping, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("shared memory is to be a file, such as one of memfd_create")
	}
	return Map(fd, offset, n, writable)
}

// Map maps n bytes of a file from offset on; the caller is its first user. fd is
// not needed afterwards. Memory of the kernel, which is no file, is stable.
// Errors say what is wrong with the range or the file.
func Map(fd int, offset, n uint64, writable bool) (*Mapping, error) {
	var st unix.Stat_t
	stable := sealed(fd) // before the look at its size
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	regular := st.Mode&unix.S_IFMT == unix.S_IFREG
	end := offset + n
	switch {
	case n == 0:
		return nil, errors.New("an empty range of memory cannot be mapped")
	case end < offset || end > math.MaxInt64/2:
		return nil, fmt.Errorf("%d bytes at offset %d of a file are out of range", n, offset)
	case regular && end > uint64(st.Size):
		return nil, fmt.Errorf("%d bytes at offset %d are beyond the end of the file, which has %d bytes", n, offset, st.Size)
	}
	// Files of huge pages are mapped in whole ones.
	page := uint64(os.Getpagesize())
	if block := uint64(st.Blksize); regular && hugetlb(fd) && block > page && block&(block-1) == 0 {
		page = block
	}
	from := offset &^ (page - 1)
	length := (end - from + page - 1) &^ (page - 1)
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	whole, err := unix.Mmap(fd, int64(from), int(length), prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("%d bytes at offset %d cannot be mapped: %w", n, offset, err)
	}
	unix.Madvise(whole, unix.MADV_DONTDUMP) // the guest's secrets; a kernel that cannot does not matter
	mapped.Add(1)
	at := offset - from
	return &Mapping{whole, whole[at : at+n : at+n], 1, stable || !regular}, nil
}

// hugetlb tells whether a file consists of huge pages.
func hugetlb(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.HUGETLBFS_MAGIC
}

// sealed tells whether a file cannot become shorter any more. If it may be
// sealed, it is.
func sealed(fd int) bool {
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil {
		return false
	} else if seals&unix.F_SEAL_SHRINK != 0 {
		return true
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
	return err == nil
}

// Data is the memory; nil when the last user has gone.
func (m *Mapping) Data() []byte { return m.data }

// Stable tells that the memory cannot vanish.
func (m *Mapping) Stable() bool { return m.stable }

// Hold adds a user.
func (m *Mapping) Hold() {
	invariant.Must(m.users > 0, "guestmem: an unmapped mapping is used")
	m.users++
}

// Release ends one use; the last one unmaps the memory.
func (m *Mapping) Release() {
	invariant.Must(m.users > 0, "guestmem: a mapping is released too often")
	if m.users--; m.users > 0 {
		return
	}
	if err := unix.Munmap(m.whole); err != nil {
		invariant.Fail("guestmem: munmap of %d bytes: %v", len(m.whole), err)
	}
	m.whole, m.data = nil, nil
	mapped.Add(-1)
}

// Mapped is the number of mappings that exist.
func Mapped() int { return int(mapped.Load()) }

// NewShared makes a file in memory of n zero bytes that cannot change its size,
// and maps it. The descriptor is the caller's.
func NewShared(name string, n uint64) (fd int, m *Mapping, err error) {
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, nil, os.NewSyscallError("memfd_create", err)
	}
	err = unix.Ftruncate(fd, int64(n))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		m, err = Map(fd, 0, n, true)
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, fmt.Errorf("%d bytes of shared memory: %w", n, err)
	}
	return fd, m, nil
}
