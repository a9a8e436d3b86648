package layout

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"vitastor/internal/meta"
)

// EntryType is what an entry means; the values are on disk.
type EntryType uint8

// The entry types of spec §3.2.
const (
	BigWrite    EntryType = 1 // new data block
	SmallWrite  EntryType = 2 // data in the buffer area
	IntentWrite EntryType = 3 // in-place write into the block under it
	BigIntent   EntryType = 4 // complete new state of a block, last write included
	Delete      EntryType = 5
	Commit      EntryType = 6 // versions up to Version become stable
	Rollback    EntryType = 7 // unstable versions over Version are dropped
)

var typeNames = [8]string{"type 0", "BIG_WRITE", "SMALL_WRITE", "INTENT_WRITE",
	"BIG_INTENT", "DELETE", "COMMIT", "ROLLBACK"}

func (t EntryType) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

const (
	typeMask    = 0x07
	stableFlag  = 0x40
	garbageFlag = 0x80
)

// Offsets of fields and lengths of the fixed parts of the entry types.
const (
	offType     = 2
	offCRC      = 4
	offLSN      = 8
	offInode    = 16
	offStripe   = 24
	offVersion  = 32
	headerBytes = 40

	offBlockNum     = 40
	bigWriteFixed   = 44
	offLocation     = 40
	offSmallOffset  = 48
	offSmallLen     = 52
	smallWriteFixed = 56
	offIntentOffset = 44
	offIntentLen    = 48
	bigIntentFixed  = 52
)

var le = binary.LittleEndian

// Entry is a view of one entry: exactly its bytes, inside a metadata block.
// The accessors of fields which a type does not have return zero values.
// Except for Bytes they may only be used on an entry which came out of a
// BlockScan without a fault, or out of an encoder.
type Entry []byte

// Bytes is the size of the entry.
func (e Entry) Bytes() int { return len(e) }

// TypeWord is the type with all flags, as stored.
func (e Entry) TypeWord() uint16 { return le.Uint16(e[offType:]) }

// Type is the type without flags.
func (e Entry) Type() EntryType { return EntryType(e[offType] & typeMask) }

// Stable is the stable bit of the entry itself; COMMIT makes others stable.
func (e Entry) Stable() bool { return e[offType]&stableFlag != 0 }

// Garbage tells whether the entry is flagged as not existing any more.
func (e Entry) Garbage() bool { return e[offType]&garbageFlag != 0 }

// SetGarbage flags the entry. Its crc32c is left as it is: nobody checks it
// on a flagged entry.
func (e Entry) SetGarbage() { e[offType] |= garbageFlag }

// LSN is the sequence number.
func (e Entry) LSN() LSN { return LSN(le.Uint64(e[offLSN:])) }

// Object is the object the entry belongs to, role included.
func (e Entry) Object() meta.ObjectID {
	return meta.ObjectID{Inode: meta.Inode(le.Uint64(e[offInode:])), Stripe: le.Uint64(e[offStripe:])}
}

// Version is the version written, committed or returned to; 0 for DELETE.
func (e Entry) Version() meta.Version { return meta.Version(le.Uint64(e[offVersion:])) }

// IsBig tells whether the entry names a data block.
func (e Entry) IsBig() bool { return e.Type() == BigWrite || e.Type() == BigIntent }

// IsSmall tells whether the entry is a partial write over a block under it.
func (e Entry) IsSmall() bool { return e.Type() == SmallWrite || e.Type() == IntentWrite }

// IsOverwrite tells whether everything older than the entry is garbage once
// the entry is effective: stable BIG_WRITE, stable BIG_INTENT, DELETE.
func (e Entry) IsOverwrite() bool { return e.Type() == Delete || e.IsBig() && e.Stable() }

// Block is the data block of a BIG entry.
func (e Entry) Block() BlockNum {
	if !e.IsBig() {
		return 0
	}
	return BlockNum(le.Uint32(e[offBlockNum:]))
}

// Location is the byte offset of the data of a SMALL_WRITE in the buffer area.
func (e Entry) Location() uint64 {
	if e.Type() != SmallWrite {
		return 0
	}
	return le.Uint64(e[offLocation:])
}

// Range is the written range, in bytes inside the object; all but BIG_WRITE.
func (e Entry) Range() (offset, length uint32) {
	switch e.Type() {
	case SmallWrite, IntentWrite:
		return le.Uint32(e[offSmallOffset:]), le.Uint32(e[offSmallLen:])
	case BigIntent:
		return le.Uint32(e[offIntentOffset:]), le.Uint32(e[offIntentLen:])
	}
	return 0, 0
}

// Offset is the start of the written range.
func (e Entry) Offset() uint32 { o, _ := e.Range(); return o }

// Len is the length of the written range.
func (e Entry) Len() uint32 { _, n := e.Range(); return n }

// fixedBytes is the length of the part in front of the bitmaps.
func (e Entry) fixedBytes() int {
	switch e.Type() {
	case BigWrite:
		return bigWriteFixed
	case SmallWrite, IntentWrite:
		return smallWriteFixed
	case BigIntent:
		return bigIntentFixed
	}
	return 0
}

// ExtBitmap is the opaque bitmap of the version; nil for DELETE, COMMIT and
// ROLLBACK. It is a view: writing to it changes the entry.
func (e Entry) ExtBitmap(g *Geometry) meta.Bitmap {
	at := e.fixedBytes()
	if at == 0 {
		return nil
	}
	return meta.Bitmap(e[at : at+g.bitmapBytes])
}

// IntBitmap are the granules that hold data in the block of a BIG entry; nil
// for other types. It is a view.
func (e Entry) IntBitmap(g *Geometry) meta.Bitmap {
	if !e.IsBig() {
		return nil
	}
	at := e.fixedBytes() + g.bitmapBytes
	return meta.Bitmap(e[at : at+g.bitmapBytes])
}

// Csums are the checksums of the entry as stored: K for BIG entries (one of
// the written range for BIG_INTENT with checksums off), WriteCsums for small
// ones. It is a view.
func (e Entry) Csums(g *Geometry) Csums {
	at := e.fixedBytes()
	if at == 0 {
		return nil
	}
	at += g.bitmapBytes
	if e.IsBig() {
		at += g.bitmapBytes
	}
	return Csums(e[at:])
}

// Checksum is the stored crc32c of the entry itself.
func (e Entry) Checksum() uint32 { return le.Uint32(e[offCRC:]) }

// ComputeChecksum is the crc32c the entry should have.
func (e Entry) ComputeChecksum() uint32 {
	c := crc32.Update(0, castagnoli, e[:offCRC])
	c = crc32.Update(c, castagnoli, zeroes[:4])
	return crc32.Update(c, castagnoli, e[offCRC+4:])
}

// Seal stores the crc32c. Encoders do it; call it again after changing a view.
func (e Entry) Seal() { le.PutUint32(e[offCRC:], e.ComputeChecksum()) }

// String describes the entry for messages and logs.
func (e Entry) String() string {
	if len(e) < headerBytes {
		return fmt.Sprintf("truncated entry of %d bytes", len(e))
	}
	s := ""
	if e.Stable() {
		s = " stable"
	}
	if e.Garbage() {
		s += " garbage"
	}
	return fmt.Sprintf("%v%s lsn %d object %v version %d", e.Type(), s, e.LSN(), e.Object(), uint64(e.Version()))
}

// Compare orders entries of one object by age: negative if e is older than f.
// Of two entries with one LSN the overwrite entry is newer (a compaction
// result carries the LSN of the newest entry it replaces); 0 means that the
// chain is invalid.
func (e Entry) Compare(f Entry) int {
	switch a, b := e.LSN(), f.LSN(); {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	switch a, b := e.IsOverwrite(), f.IsOverwrite(); {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
