package pinned

import "unsafe"

// Table is an array that grows without moving: pointers to its elements stay
// valid, and growing costs the same at any size. Its segments are 2 MiB
// (or one element, if that is larger). The zero value is an empty table.
type Table[T any] struct {
	segments [][]T
	len      int
	shift    uint8 // elements per segment = 1 << shift
	mask     uint32
}

// Len is the number of elements.
func (t *Table[T]) Len() int { return t.len }

// At returns element i, 0 <= i < Len.
func (t *Table[T]) At(i int) *T {
	return &t.segments[uint(i)>>t.shift][uint32(i)&t.mask]
}

// Grow makes room for n elements; the new ones are zero. Fewer than Len
// changes nothing. On an error the table is as before.
func (t *Table[T]) Grow(n int) error {
	if t.segments == nil {
		t.shift = segmentShift[T]()
		t.mask = 1<<t.shift - 1
	}
	for len(t.segments)<<t.shift < n {
		s, err := Make[T](1 << t.shift)
		if err != nil {
			return err
		}
		t.segments = append(t.segments, s)
	}
	t.len = max(t.len, n)
	return nil
}

// Append adds a zero element and returns its index.
func (t *Table[T]) Append() (int, error) {
	err := t.Grow(t.len + 1)
	return t.len - 1, err
}

// Free returns the memory; the table is empty afterwards.
func (t *Table[T]) Free() {
	for _, s := range t.segments {
		Free(s)
	}
	*t = Table[T]{}
}

// segmentShift chooses the largest power of two of elements within 2 MiB.
func segmentShift[T any]() uint8 {
	var zero T
	shift := uint8(0)
	for unsafe.Sizeof(zero)<<(shift+1) <= hugePageBytes && shift < 21 {
		shift++
	}
	return shift
}
