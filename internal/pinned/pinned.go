// Package pinned gives memory outside the Go heap: it never moves, the garbage
// collector never looks at it, and the kernel may read and write it while Go
// code runs.
//
// Three forms:
//
//	Make, Grow, Free   one typed slice in a mapping of its own
//	Table              a growing array whose elements keep their addresses
//	Pool               I/O buffers of 4 KiB to 1 MiB under a named limit
//
// Guarantee: memory from here is zeroed when first handed out, aligned to
// 4 KiB (2 MiB from that size on), and stays where it is until it is freed.
// Freeing something else, or the same thing twice, stops the process.
//
// Types stored here must not contain pointers, because the garbage collector
// would not see them; this is checked when memory is made.
//
// Concurrency: Make, Grow, Free and Bytes may be called from any goroutine. A
// Table or Pool belongs to one goroutine.
package pinned

import (
	"fmt"
	"reflect"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitastor/internal/invariant"
)

const (
	pageBytes     = 4096
	hugePageBytes = 2 << 20
)

// Make returns n zeroed elements in a mapping of their own; n = 0 gives nil.
// Mappings of 2 MiB and more are aligned for huge pages and ask for them.
// Small objects do not belong here: each call costs at least one page.
func Make[T any](n int) ([]T, error) {
	var zero T
	bytes, err := sizeOf[T](n)
	if err != nil || bytes == 0 {
		return nil, err
	}
	if t := reflect.TypeFor[T](); hasPointers(t) {
		invariant.Fail("pinned: type %v contains pointers", t)
	}
	p, err := mapMemory(bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes for %d x %T: %w", bytes, n, zero, err)
	}
	return unsafe.Slice((*T)(p), n), nil
}

// Grow returns s extended by zeroed elements to n. The memory may move: s must
// not be used any more, unless an error is returned. Elements removed by an
// earlier Grow to a smaller size are not kept.
func Grow[T any](s []T, n int) ([]T, error) {
	if cap(s) == 0 {
		return Make[T](n)
	}
	bytes, err := sizeOf[T](n)
	if err != nil {
		return nil, err
	}
	if bytes == 0 {
		Free(s)
		return nil, nil
	}
	p, err := remapMemory(unsafe.Pointer(unsafe.SliceData(s)), bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot grow a mapping to %d bytes: %w", bytes, err)
	}
	if n < len(s) { // the last page may be kept: it must read as zeros later
		var zero T
		clear(unsafe.Slice((*byte)(p), roundUp(bytes, pageBytes))[uintptr(n)*unsafe.Sizeof(zero):])
	}
	return unsafe.Slice((*T)(p), n), nil
}

// Free returns the memory of s, which must start where Make or Grow said.
// Free of nil does nothing.
func Free[T any](s []T) {
	if cap(s) != 0 {
		unmapMemory(unsafe.Pointer(unsafe.SliceData(s)))
	}
}

// AlignedBuffer returns n zeroed bytes, aligned to 4 KiB, for direct I/O.
// It is for long-lived buffers; requests take theirs from a Pool.
func AlignedBuffer(n int) ([]byte, error) { return Make[byte](n) }

// Bytes is the total size of all memory handed out by this package, in bytes
// of address space. Pages that were never touched do not use RAM yet.
func Bytes() int64 {
	maps.Lock()
	defer maps.Unlock()
	return maps.bytes
}

func sizeOf[T any](n int) (int, error) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if n < 0 || size != 0 && n > (1<<47)/size {
		return 0, fmt.Errorf("cannot map %d x %d bytes: size is out of range", n, size)
	}
	return n * size, nil
}

// hasPointers tells whether the garbage collector would have to look into t.
func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return false
	case reflect.Array:
		return hasPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	}
	return true
}

// maps knows every mapping by its address, so that Free of anything else is
// noticed. Mappings are few and rare: the lock is not on the data path.
var maps = struct {
	sync.Mutex
	size  map[unsafe.Pointer]int
	bytes int64
}{size: map[unsafe.Pointer]int{}}

func mapMemory(bytes int) (unsafe.Pointer, error) {
	p, size, err := mapAligned(roundUp(bytes, pageBytes))
	if err != nil {
		return nil, err
	}
	maps.Lock()
	defer maps.Unlock()
	maps.size[p] = size
	maps.bytes += int64(size)
	return p, nil
}

// mapAligned maps size bytes, big ones on a 2 MiB boundary by mapping more and
// returning what is too much.
func mapAligned(size int) (unsafe.Pointer, int, error) {
	extra := 0
	if size >= hugePageBytes {
		extra = hugePageBytes - pageBytes
	}
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size+extra), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil || extra == 0 {
		return p, size, err
	}
	head := int(-uintptr(p) & (hugePageBytes - 1))
	if head > 0 {
		err = unix.MunmapPtr(p, uintptr(head))
	}
	p = unsafe.Add(p, head)
	if tail := extra - head; err == nil && tail > 0 {
		err = unix.MunmapPtr(unsafe.Add(p, size), uintptr(tail))
	}
	if err == nil {
		adviseHuge(p, size)
	}
	return p, size, err
}

// adviseHuge asks for huge pages. Kernels without them refuse, which is no
// reason to fail: everything works, only slower.
func adviseHuge(p unsafe.Pointer, size int) {
	_ = unix.Madvise(unsafe.Slice((*byte)(p), size), unix.MADV_HUGEPAGE)
}

func remapMemory(p unsafe.Pointer, bytes int) (unsafe.Pointer, error) {
	maps.Lock()
	defer maps.Unlock()
	old, ok := maps.size[p]
	invariant.Must(ok, "pinned: Grow of memory that Make did not return")
	size := roundUp(bytes, pageBytes)
	if size == old {
		return p, nil
	}
	moved, err := unix.MremapPtr(p, uintptr(old), nil, uintptr(size), unix.MREMAP_MAYMOVE)
	if err != nil {
		return nil, err
	}
	delete(maps.size, p)
	maps.size[moved] = size
	maps.bytes += int64(size - old)
	if size >= hugePageBytes && size > old {
		adviseHuge(moved, size)
	}
	return moved, nil
}

func unmapMemory(p unsafe.Pointer) {
	maps.Lock()
	defer maps.Unlock()
	size, ok := maps.size[p]
	invariant.Must(ok, "pinned: Free of memory that Make did not return, or twice")
	if err := unix.MunmapPtr(p, uintptr(size)); err != nil {
		invariant.Fail("pinned: munmap of %d bytes: %v", size, err)
	}
	delete(maps.size, p)
	maps.bytes -= int64(size)
}

func roundUp(n, unit int) int { return (n + unit - 1) &^ (unit - 1) }
