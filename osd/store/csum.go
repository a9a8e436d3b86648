package store

import (
	"hash/crc32"

	"vitastor/osd/store/layout"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// holes stands for unwritten data in checksums; nobody writes to it.
var holes [4096]byte

// parts is the data of a write, in one piece or several.
type parts struct {
	buf []byte
	iov [][]byte
}

func (op *Op) data() parts { return parts{op.Buf, op.Iov} }

// crc continues a crc32c over [from, from+n) of the data.
func (p parts) crc(crc, from, n uint32) uint32 {
	if len(p.iov) == 0 {
		return crc32.Update(crc, castagnoli, p.buf[from:from+n])
	}
	for _, b := range p.iov {
		if from >= uint32(len(b)) {
			from -= uint32(len(b))
			continue
		}
		k := min(n, uint32(len(b))-from)
		crc = crc32.Update(crc, castagnoli, b[from:from+k])
		if n -= k; n == 0 {
			break
		}
		from = 0
	}
	return crc
}

// fillWriteCsums stores the checksums of a SMALL_WRITE of op: one per touched
// checksum block over the written part, or one over all (spec ondisk.md §9).
func (s *Store) fillWriteCsums(dst layout.Csums, op *Op) {
	data := op.data()
	for i, at := 0, uint32(0); at < op.Len; i++ {
		n := op.Len - at
		if c := s.geo.CsumBytes; c != 0 {
			n = min(n, c-(op.Offset+at)%c)
		}
		dst.Set(i, data.crc(0, at, n))
		at += n
	}
}

// fillBigCsums stores the checksums of the checksum blocks that op writes, the
// rest of which is unwritten: formula P of spec ondisk.md §9.2.
func (s *Store) fillBigCsums(dst layout.Csums, op *Op) {
	c := s.geo.CsumBytes
	if c == 0 {
		return
	}
	data := op.data()
	for at := uint32(0); at < op.Len; {
		pos := op.Offset + at
		n := min(op.Len-at, c-pos%c)
		crc := uint32(0)
		if pos >= c { // a hole in front counts, except in the first checksum block
			for lead := pos % c; lead > 0; {
				k := min(lead, uint32(len(holes)))
				crc = crc32.Update(crc, castagnoli, holes[:k])
				lead -= k
			}
		}
		dst.Set(int(pos/c), data.crc(crc, at, n))
		at += n
	}
}
