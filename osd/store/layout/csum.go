package layout

import (
	"hash/crc32"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeroes stands for the holes of formula P; nobody writes to it.
var zeroes [4096]byte

// Csums is an array of crc32c values as stored in entries.
type Csums []byte

// Count is the number of checksums.
func (c Csums) Count() int { return len(c) / 4 }

// At returns checksum i.
func (c Csums) At(i int) uint32 { return le.Uint32(c[4*i:]) }

// Set stores checksum i.
func (c Csums) Set(i int, v uint32) { le.PutUint32(c[4*i:], v) }

// CRC is the crc32c of data.
func CRC(data []byte) uint32 { return crc32.Update(0, castagnoli, data) }

// crcZeroes continues a crc32c over n zero bytes.
func crcZeroes(crc uint32, n uint32) uint32 {
	for n > 0 {
		part := min(n, uint32(len(zeroes)))
		crc = crc32.Update(crc, castagnoli, zeroes[:part])
		n -= part
	}
	return crc
}

// FillWriteCsums computes the checksums stored in a SMALL_WRITE or
// INTENT_WRITE: dst has WriteCsums(offset, len(data)) elements, each over the
// part of the write inside one checksum block; one over all with checksums
// off. An empty write stores zeroes.
func (g *Geometry) FillWriteCsums(dst Csums, offset uint32, data []byte) {
	clear(dst)
	for i := 0; len(data) > 0; i++ {
		n := g.csumPart(offset, len(data))
		dst.Set(i, CRC(data[:n]))
		data, offset = data[n:], offset+uint32(n)
	}
}

// csumPart is how many of the n bytes at offset are in one checksum block.
func (g *Geometry) csumPart(offset uint32, n int) int {
	if g.CsumBytes == 0 {
		return n
	}
	return min(n, int(g.CsumBytes-offset%g.CsumBytes))
}

// VerifyWrite compares data, exactly the written range, with the checksums of
// a SMALL_WRITE, INTENT_WRITE or BIG_INTENT: the test at start-up that tells
// whether the data of an entry was written (spec §7.1 step 7).
func (g *Geometry) VerifyWrite(e Entry, data []byte) bool {
	offset, length := e.Range()
	invariant.Must(uint32(len(data)) == length, "layout: verification needs exactly the written range")
	sums := e.Csums(g)
	if e.Type() == BigIntent && g.CsumBytes != 0 {
		return g.verifyIntent(e, offset, data)
	}
	for i := 0; len(data) > 0; i++ {
		n := g.csumPart(offset, len(data))
		if CRC(data[:n]) != sums.At(i) {
			return false
		}
		data, offset = data[n:], offset+uint32(n)
	}
	return true
}

// verifyIntent checks the written range of a BIG_INTENT against its array of
// block checksums. With C > G such an entry is a redirect, whose bitmap is
// exactly the written range, so that what lies outside of it is a hole.
func (g *Geometry) verifyIntent(e Entry, offset uint32, data []byte) bool {
	sums := e.Csums(g)
	for len(data) > 0 {
		n := g.csumPart(offset, len(data))
		want, lead := sums.At(int(offset/g.CsumBytes)), offset%g.CsumBytes
		ok := CRC(data[:n]) == want ||
			lead != 0 && offset != lead && crc32.Update(crcZeroes(0, lead), castagnoli, data[:n]) == want
		if !ok {
			return false
		}
		data, offset = data[n:], offset+uint32(n)
	}
	return true
}

// BlockCsum is formula P for checksum block c of a data block: data is the
// content of that checksum block, written the int bitmap of the data block.
// Granules that are not written count as zeroes, but not behind the last
// written one and, in checksum block 0, not before the first one; if none is
// written the value is 0. With C = G that is the crc32c of the granule.
func (g *Geometry) BlockCsum(c int, written meta.Bitmap, data []byte) uint32 {
	return g.blockCsum(c, written, data, c != 0)
}

func (g *Geometry) blockCsum(c int, written meta.Bitmap, data []byte, countLead bool) uint32 {
	per := int(g.CsumBytes / g.GranuleBytes)
	crc, hole, any := uint32(0), uint32(0), false
	for i := range per {
		if !written.Get(c*per + i) {
			hole += g.GranuleBytes
			continue
		}
		if any || countLead {
			crc = crcZeroes(crc, hole)
		}
		at := i * int(g.GranuleBytes)
		crc = crc32.Update(crc, castagnoli, data[at:at+int(g.GranuleBytes)])
		hole, any = 0, true
	}
	return crc
}

// FillBlockCsums computes the K checksums of a BIG_WRITE over the content of
// a whole data block; nothing with checksums off.
func (g *Geometry) FillBlockCsums(dst Csums, written meta.Bitmap, block []byte) {
	for c := range g.csumCount {
		at := c * int(g.CsumBytes)
		dst.Set(c, g.BlockCsum(c, written, block[at:at+int(g.CsumBytes)]))
	}
}

// VerifyCsumBlock compares data, the content of checksum block c, with the
// checksum of a BIG entry. A checksum block without written granules always
// matches. A leading hole may be counted or not: release 3.0.8 stores a first
// write that does not begin at a checksum block without it (spec §9.2, D10),
// and a later compaction keeps the value of a block it does not touch.
func (g *Geometry) VerifyCsumBlock(e Entry, c int, data []byte) bool {
	written, per := e.IntBitmap(g), int(g.CsumBytes/g.GranuleBytes)
	if !written.Any(c*per, (c+1)*per) {
		return true
	}
	want := e.Csums(g).At(c)
	if g.BlockCsum(c, written, data) == want {
		return true
	}
	return c != 0 && !written.Get(c*per) && g.blockCsum(c, written, data, false) == want
}

// OverlayCsums puts the checksums of a small entry over those of the block
// under it, as compaction does with C = G (spec §9.3), oldest entry first.
func (g *Geometry) OverlayCsums(dst Csums, e Entry) {
	invariant.Must(g.CsumBytes == g.GranuleBytes, "layout: checksums can be overlaid only if C = G")
	offset, length := e.Range()
	if length != 0 {
		copy(dst[4*(offset/g.CsumBytes):], e.Csums(g))
	}
}
