package layout

import (
	"fmt"

	"vitastor/internal/meta"
)

// LSN is the sequence number of an entry; 0 = none.
type LSN uint64

// BlockNum is the number of a data block in the data area, from 0.
type BlockNum uint32

// Geometry is everything the codec has to know about a store. Fill the
// exported fields and call Complete; a Geometry made any other way is invalid.
type Geometry struct {
	BlockBytes     uint32 // data block (object) size, B
	GranuleBytes   uint32 // bitmap granularity, G
	MetaBlockBytes uint32 // metadata block size, M
	CsumBytes      uint32 // checksum block size, C; 0 = checksums off
	BlockCount     uint32 // data blocks in the data area
	BufferBytes    uint64 // length of the buffer area

	bitmapBytes int // one bitmap, bm
	csumCount   int // checksums of a data block, K
}

// Limits of the format.
const (
	minBlockBytes     = 4096
	maxBlockBytes     = 128 << 20 // exclusive
	maxMetaBlockBytes = 32768     // exclusive
	minGranules       = 8
	sectorBytes       = 512 // smallest direct I/O unit
	// MaxBlockCount is the largest number of data blocks of a store.
	MaxBlockCount = 1<<31 - 1
	// MinBufferBytes is the smallest buffer area.
	MinBufferBytes = 1 << 20
)

// Complete checks the sizes against each other and fills the derived ones.
func (g Geometry) Complete() (Geometry, error) {
	b, gr, c, m := g.BlockBytes, g.GranuleBytes, g.CsumBytes, g.MetaBlockBytes
	switch {
	case b < minBlockBytes || b >= maxBlockBytes || b&(b-1) != 0:
		return g, fmt.Errorf("block_size is %d, must be a power of two from 4096 to 64 MiB", b)
	case gr == 0 || gr%sectorBytes != 0 || b%gr != 0 || b/gr < minGranules:
		return g, fmt.Errorf("bitmap_granularity is %d, must be a multiple of 512 which divides block_size %d into at least 8 parts", gr, b)
	case c != 0 && (c%gr != 0 || b%c != 0):
		return g, fmt.Errorf("csum_block_size is %d, must be a multiple of bitmap_granularity %d and divide block_size %d", c, gr, b)
	case m == 0 || m%sectorBytes != 0 || m >= maxMetaBlockBytes:
		return g, fmt.Errorf("meta_block_size is %d, must be a multiple of 512 below 32768", m)
	}
	g.bitmapBytes = meta.BitmapBytes(b, gr)
	if c != 0 {
		g.csumCount = int(b / c)
	}
	if g.MaxEntryBytes() > int(m) {
		return g, fmt.Errorf("meta_block_size is %d, but the largest entry takes %d bytes: use larger metadata blocks, granules or checksum blocks",
			m, g.MaxEntryBytes())
	}
	return g, nil
}

// BitmapBytes is the length of each bitmap of an entry.
func (g *Geometry) BitmapBytes() int { return g.bitmapBytes }

// CsumCount is the number of checksums of a data block; 0 with checksums off.
func (g *Geometry) CsumCount() int { return g.csumCount }

// Granules is the number of granules of a data block.
func (g *Geometry) Granules() int { return int(g.BlockBytes / g.GranuleBytes) }

// BigWriteBytes is the size of a BIG_WRITE entry.
func (g *Geometry) BigWriteBytes() int {
	return bigWriteFixed + 2*g.bitmapBytes + 4*g.csumCount
}

// BigIntentBytes is the size of a BIG_INTENT entry.
func (g *Geometry) BigIntentBytes() int {
	return bigIntentFixed + 2*g.bitmapBytes + 4*max(g.csumCount, 1)
}

// SmallWriteBytes is the size of a SMALL_WRITE or INTENT_WRITE entry over
// [offset, offset+length).
func (g *Geometry) SmallWriteBytes(offset, length uint32) int {
	return smallWriteFixed + g.bitmapBytes + 4*g.WriteCsums(offset, length)
}

// WriteCsums is the number of checksums stored with a SMALL_WRITE or
// INTENT_WRITE over [offset, offset+length): one per touched checksum block,
// or one with checksums off. A write of length 0 keeps the count the formula
// gives, with unused values (spec §3.2).
func (g *Geometry) WriteCsums(offset, length uint32) int {
	c := uint64(g.CsumBytes)
	if c == 0 {
		return 1
	}
	return int((uint64(offset)+uint64(length)+c-1)/c - uint64(offset)/c)
}

// MaxEntryBytes is the size of the largest entry, E: a metadata block with
// that much free space takes any entry.
func (g *Geometry) MaxEntryBytes() int {
	return max(g.BigIntentBytes(), smallWriteFixed+g.bitmapBytes+4*max(g.csumCount, 1))
}

// EntryBytes is the size of an entry of type t; offset and length matter only
// for SmallWrite and IntentWrite. An unknown type gives 0.
func (g *Geometry) EntryBytes(t EntryType, offset, length uint32) int {
	switch t {
	case BigWrite:
		return g.BigWriteBytes()
	case SmallWrite, IntentWrite:
		return g.SmallWriteBytes(offset, length)
	case BigIntent:
		return g.BigIntentBytes()
	case Delete, Commit, Rollback:
		return headerBytes
	}
	return 0
}

// Aligned tells whether [offset, offset+length) is made of whole granules
// inside a data block.
func (g *Geometry) Aligned(offset, length uint32) bool {
	return offset%g.GranuleBytes == 0 && length%g.GranuleBytes == 0 &&
		uint64(offset)+uint64(length) <= uint64(g.BlockBytes)
}
