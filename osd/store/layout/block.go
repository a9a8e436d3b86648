package layout

import (
	"fmt"

	"vitastor/internal/invariant"
)

// endMarker is the type word behind the last entry of a block.
const endMarker = 0xAB8F

// Fault is what is wrong with a place of a metadata block.
type Fault uint8

// Faults; the first group makes the rest of the block unreadable, the second
// one only the entry.
const (
	NoFault     Fault = iota
	FaultSize         // entry goes beyond the block
	FaultMarker       // end marker missing or wrong
	FaultShort        // entry shorter than its header

	FaultType          // unknown type or flag, or flags that do not fit the type
	FaultFields        // wrong size for its type
	FaultCommitVersion // COMMIT of version 0
	FaultChecksum      // crc32c mismatch
	FaultRange         // written range outside of the block or unaligned
	FaultBlockNum      // block number beyond the data area
	FaultLocation      // buffered data outside of the buffer area or unaligned
)

var faultTexts = [...]string{
	NoFault:            "no fault",
	FaultSize:          "entry goes beyond the end of the block",
	FaultMarker:        "end marker is missing or wrong",
	FaultShort:         "entry is shorter than its header",
	FaultType:          "invalid entry type",
	FaultFields:        "entry size does not fit its type",
	FaultCommitVersion: "COMMIT of version 0",
	FaultChecksum:      "crc32c mismatch",
	FaultRange:         "written range is unaligned or outside of the object",
	FaultBlockNum:      "data block number is beyond the data area",
	FaultLocation:      "location is unaligned or outside of the buffer area",
}

func (f Fault) String() string {
	if int(f) < len(faultTexts) {
		return faultTexts[f]
	}
	return fmt.Sprintf("fault %d", uint8(f))
}

// EndsBlock tells whether everything behind the fault is unreadable too.
func (f Fault) EndsBlock() bool { return f >= FaultSize && f <= FaultShort }

// CorruptError is a fault with its place.
type CorruptError struct {
	Block  uint32 // metadata block, superblock not counted
	Offset int    // byte in the block
	Fault  Fault
	What   string // the entry, as far as it is readable
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("metadata block %d, byte %d: %v (%s)", e.Block, e.Offset, e.Fault, e.What)
}

// BlockScan walks over the entries of a metadata block:
//
//	for s := g.ScanBlock(block); s.Next(); {
//		if s.Fault != NoFault { ... s.Error(number) ... }
//	}
//
// Entries flagged as garbage are returned like others, unchecked. After a
// fault that EndsBlock Next returns false.
type BlockScan struct {
	Entry  Entry // the entry; with a fault that EndsBlock, the rest of the block
	Offset int   // where it begins
	Fault  Fault

	g     *Geometry
	block []byte
	next  int
	ended bool
}

// ScanBlock begins a walk over block, which is MetaBlockBytes long.
func (g *Geometry) ScanBlock(block []byte) BlockScan { return BlockScan{g: g, block: block} }

// Next moves to the next entry and tells whether there is one.
func (s *BlockScan) Next() bool {
	rest := s.block[s.next:]
	if s.ended || len(rest) < 2 {
		return false
	}
	s.Offset, s.Fault = s.next, NoFault
	size := int(le.Uint16(rest))
	switch {
	case size > len(rest):
		return s.end(FaultSize)
	case len(rest) < headerBytes, size >= 4 && le.Uint16(rest[offType:]) == endMarker:
		if size != len(rest) || size >= 4 && le.Uint16(rest[offType:]) != endMarker {
			return s.end(FaultMarker)
		}
		s.ended = true
		return false
	case size < headerBytes:
		return s.end(FaultShort)
	}
	s.Entry = Entry(rest[:size:size])
	s.next += size
	if !s.Entry.Garbage() {
		s.Fault = s.g.CheckEntry(s.Entry)
	}
	return true
}

// end reports a fault behind which nothing is readable.
func (s *BlockScan) end(f Fault) bool {
	s.Entry, s.Fault, s.ended = Entry(s.block[s.next:]), f, true
	return true
}

// Used is the number of bytes taken by the entries up to and including the
// current one; after the walk, where the end marker begins.
func (s *BlockScan) Used() int { return s.next }

// Error is the current fault as an error; number is that of the block.
func (s *BlockScan) Error(number uint32) error {
	if s.Fault == NoFault {
		return nil
	}
	return &CorruptError{number, s.Offset, s.Fault, s.Entry.String()}
}

// CheckEntry checks an entry that is not flagged as garbage (spec §3.4, steps
// 5-10). len(e) must be its size field and at least the header.
func (g *Geometry) CheckEntry(e Entry) Fault {
	if !validTypeWord(e.TypeWord()) {
		return FaultType
	}
	t := e.Type()
	if len(e) < e.fixedBytes() || t > BigIntent && len(e) != headerBytes {
		return FaultFields
	}
	if t == Commit && e.Version() == 0 {
		return FaultCommitVersion
	}
	if e.Checksum() != e.ComputeChecksum() {
		return FaultChecksum
	}
	offset, length := e.Range()
	switch {
	case !g.Aligned(offset, length):
		return FaultRange
	case len(e) != g.EntryBytes(t, offset, length):
		return FaultFields
	case e.IsBig() && uint32(e.Block()) >= g.BlockCount:
		return FaultBlockNum
	case t == SmallWrite && !g.inBuffer(e.Location(), length):
		return FaultLocation
	}
	return NoFault
}

func validTypeWord(w uint16) bool {
	t, stable := EntryType(w&typeMask), w&stableFlag != 0
	if w&^(typeMask|stableFlag) != 0 || t == 0 {
		return false
	}
	switch t {
	case Delete:
		return stable
	case Commit, Rollback:
		return !stable
	}
	return true
}

func (g *Geometry) inBuffer(location uint64, length uint32) bool {
	return location%uint64(g.GranuleBytes) == 0 && location <= g.BufferBytes &&
		uint64(length) <= g.BufferBytes-location
}

// FinishBlock writes what follows the used bytes of entries of a block:
//
//	unused >= 4   u16 unused, u16 0xAB8F, zeroes
//	unused 2, 3   u16 unused, zeroes
//	unused 1      0
func FinishBlock(block []byte, used int) {
	rest := block[used:]
	clear(rest)
	if len(rest) >= 2 {
		le.PutUint16(rest, uint16(len(rest)))
	}
	if len(rest) >= 4 {
		le.PutUint16(rest[offType:], endMarker)
	}
}

// EmptyBlock makes block a metadata block without entries.
func EmptyBlock(block []byte) { FinishBlock(block, 0) }

// BlockBuilder packs entries into one metadata block. The zero value is not
// usable: make it with NewBlockBuilder.
type BlockBuilder struct {
	block []byte
	used  int
}

// NewBlockBuilder begins an empty block in the given bytes.
func NewBlockBuilder(block []byte) BlockBuilder { return BlockBuilder{block: block} }

// Room is the space left.
func (b *BlockBuilder) Room() []byte { return b.block[b.used:] }

// Used is the space taken.
func (b *BlockBuilder) Used() int { return b.used }

// Add copies an entry behind the others and returns the copy, or nil if there
// is no room. An entry that was already encoded into Room stays where it is.
func (b *BlockBuilder) Add(e Entry) Entry {
	if len(e) > len(b.block)-b.used {
		return nil
	}
	at := b.block[b.used : b.used+len(e) : b.used+len(e)]
	copy(at, e)
	b.used += len(e)
	return Entry(at)
}

// Finish writes the end marker and returns the block.
func (b *BlockBuilder) Finish() []byte {
	FinishBlock(b.block, b.used)
	return b.block
}

// SqueezeBlock writes to dst the block src without the entries flagged as
// garbage and, if keep is not nil, without those it refuses; returns the used
// bytes. src must be free of faults; dst may be src.
func (g *Geometry) SqueezeBlock(dst, src []byte, keep func(offset int, e Entry) bool) int {
	invariant.Must(len(dst) == len(src), "layout: squeeze into a block of another size")
	used := 0
	s := g.ScanBlock(src)
	for s.Next() {
		invariant.Must(s.Fault == NoFault, "layout: squeeze of a corrupt block")
		if s.Entry.Garbage() || keep != nil && !keep(s.Offset, s.Entry) {
			continue
		}
		used += copy(dst[used:], s.Entry)
	}
	FinishBlock(dst, used)
	return used
}
