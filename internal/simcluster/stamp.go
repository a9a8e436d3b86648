package simcluster

import (
	"encoding/binary"

	"vitastor/internal/meta"
)

// Stamp says which write a granule comes from. The contents of a granule are
// a function of the stamp and of its place, so that data which is torn, or in
// the wrong place, does not look like any stamp:
//
//	word 0  stamp
//	word i  mix(stamp, inode, granule) + i * odd constant
type Stamp uint64

const (
	// Zeroes is the stamp of what was never written, or deleted.
	Zeroes Stamp = 0
	// Garbage is the stamp of contents that no write makes.
	Garbage Stamp = 1<<64 - 1
)

func stampSeed(s Stamp, inode meta.Inode, granule int) uint64 {
	x := uint64(s)*0x9e3779b97f4a7c15 ^ uint64(inode)*0xbf58476d1ce4e5b9 ^ uint64(granule)*0x94d049bb133111eb
	x ^= x >> 31
	x *= 0x7fb5d329728ea185
	return x ^ x>>27
}

// Fill writes the contents of one granule to b (GranuleBytes long).
func (s Stamp) Fill(b []byte, inode meta.Inode, granule int) {
	if s == Zeroes {
		clear(b)
		return
	}
	x := stampSeed(s, inode, granule)
	binary.LittleEndian.PutUint64(b, uint64(s))
	for i := 8; i+8 <= len(b); i += 8 {
		x += 0xd1342543de82ef95
		binary.LittleEndian.PutUint64(b[i:], x)
	}
}

// ReadStamp tells which write the contents of a granule come from.
func ReadStamp(b []byte, inode meta.Inode, granule int) Stamp {
	s := Stamp(binary.LittleEndian.Uint64(b))
	if s == Garbage {
		return Garbage
	}
	x := stampSeed(s, inode, granule)
	for i := 8; i+8 <= len(b); i += 8 {
		x += 0xd1342543de82ef95
		want := x
		if s == Zeroes {
			want = 0
		}
		if binary.LittleEndian.Uint64(b[i:]) != want {
			return Garbage
		}
	}
	return s
}

// ReadStamps decodes what was read of an image from granule first on. The
// contents may come from a parent: chain is the image and its ancestors.
func ReadStamps(b []byte, chain []meta.Inode, first int) []Stamp {
	seen := make([]Stamp, len(b)/GranuleBytes)
	for i := range seen {
		part := b[i*GranuleBytes : (i+1)*GranuleBytes]
		seen[i] = Garbage
		for _, inode := range chain {
			if s := ReadStamp(part, inode, first+i); s != Garbage {
				seen[i] = s
				break
			}
		}
	}
	return seen
}
