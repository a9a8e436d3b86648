package meta

import "math/bits"

// Bitmap has one bit per granule of a chunk: bit i is bit i%8 of byte i/8.
// 1 = the granule was written.
type Bitmap []byte

// BitmapBytes is the length of the bitmap of one chunk: at least one byte.
func BitmapBytes(blockBytes, granularityBytes uint32) int {
	return int((blockBytes/granularityBytes + 7) / 8)
}

// Get returns bit i.
func (b Bitmap) Get(i int) bool { return b[i>>3]>>(i&7)&1 != 0 }

// SetRange sets the bits [from, to).
func (b Bitmap) SetRange(from, to int) {
	for from < to {
		if from&7 == 0 && to-from >= 8 {
			b[from>>3] = 0xff
			from += 8
			continue
		}
		b[from>>3] |= 1 << (from & 7)
		from++
	}
}

// ClearRange clears the bits [from, to).
func (b Bitmap) ClearRange(from, to int) {
	for ; from < to; from++ {
		b[from>>3] &^= 1 << (from & 7)
	}
}

// SetBytes sets the bits of the byte range [offset, offset+length), which must
// be aligned to the granularity.
func (b Bitmap) SetBytes(offset, length, granularityBytes uint32) {
	b.SetRange(int(offset/granularityBytes), int((offset+length)/granularityBytes))
}

// Or sets every bit that is set in c, which must not be longer than b.
func (b Bitmap) Or(c Bitmap) {
	for i, v := range c {
		b[i] |= v
	}
}

// Any tells whether a bit of [from, to) is set.
func (b Bitmap) Any(from, to int) bool {
	for ; from < to; from++ {
		if b.Get(from) {
			return true
		}
	}
	return false
}

// All tells whether every bit of [from, to) is set.
func (b Bitmap) All(from, to int) bool {
	for ; from < to; from++ {
		if !b.Get(from) {
			return false
		}
	}
	return true
}

// Count is the number of set bits.
func (b Bitmap) Count() int {
	n := 0
	for _, v := range b {
		n += bits.OnesCount8(v)
	}
	return n
}
