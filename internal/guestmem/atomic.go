package guestmem

import (
	"sync/atomic"
	"unsafe"

	"vitastor/internal/invariant"
)

// There are no atomic accesses of 16 bits in Go. A value is read with the 32
// bits around it, which are in the same page, and written by exchanging them.

// word is the aligned word around the value of n bytes at b[at], and where in it
// that is, in bits.
func word(b []byte, at, n int) (*uint32, uint) {
	_ = b[at+n-1]
	p := unsafe.Pointer(&b[at])
	in := uintptr(p) & 3
	invariant.Must(int(in)+n <= 4, "guestmem: an atomic access is not aligned")
	return (*uint32)(unsafe.Add(p, -int(in))), uint(in) * 8
}

// Load16 reads the value at b[at], which must be aligned in memory.
func Load16(b []byte, at int) uint16 {
	w, shift := word(b, at, 2)
	return uint16(atomic.LoadUint32(w) >> shift)
}

// Store16 writes 16 bits; what is around them stays as it is.
func Store16(b []byte, at int, v uint16) {
	w, shift := word(b, at, 2)
	for {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

// Load32 reads the value at b[at], which must be aligned in memory.
func Load32(b []byte, at int) uint32 {
	w, _ := word(b, at, 4)
	return atomic.LoadUint32(w)
}

// Store32 writes the value at b[at], which must be aligned in memory.
func Store32(b []byte, at int, v uint32) {
	w, _ := word(b, at, 4)
	atomic.StoreUint32(w, v)
}

// Or8 sets bits of b[at].
func Or8(b []byte, at int, bits byte) {
	w, shift := word(b, at, 1)
	if v := uint32(bits) << shift; atomic.LoadUint32(w)&v != v {
		atomic.OrUint32(w, v)
	}
}

// Aligned tells whether b begins at a multiple of n in memory.
func Aligned(b []byte, n int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&uintptr(n-1) == 0
}
