package layout

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// Head is what every data entry begins with.
type Head struct {
	LSN     LSN
	Object  meta.ObjectID
	Version meta.Version
	Stable  bool
}

// The Put functions write one entry at the start of dst, which must have room
// for it, and return its view. Bitmaps must be BitmapBytes long or nil (all
// zero), checksums as long as the entry stores or nil (all zero). To fill a
// bitmap or checksums in place, pass nil, write to the views, then Seal.

// PutBigWrite encodes a BIG_WRITE: the object version is in a data block.
func (g *Geometry) PutBigWrite(dst []byte, h Head, block BlockNum, ext, written meta.Bitmap, csums Csums) Entry {
	e := putHeader(dst, g.BigWriteBytes(), BigWrite, h)
	le.PutUint32(e[offBlockNum:], uint32(block))
	putTail(e[bigWriteFixed:], g.bitmapBytes, ext, written, csums)
	e.Seal()
	return e
}

// PutSmallWrite encodes a SMALL_WRITE: length bytes of the object at offset
// are at location in the buffer area.
func (g *Geometry) PutSmallWrite(dst []byte, h Head, location uint64, offset, length uint32, ext meta.Bitmap, csums Csums) Entry {
	invariant.Must(location+uint64(length) <= g.BufferBytes, "layout: SMALL_WRITE beyond the buffer area")
	return g.putSmall(dst, SmallWrite, h, location, offset, length, ext, csums)
}

// PutIntentWrite encodes an INTENT_WRITE: [offset, offset+length) is written
// in place into the block of the BIG entry under it.
func (g *Geometry) PutIntentWrite(dst []byte, h Head, offset, length uint32, ext meta.Bitmap, csums Csums) Entry {
	invariant.Must(h.Stable, "layout: unstable INTENT_WRITE")
	return g.putSmall(dst, IntentWrite, h, 0, offset, length, ext, csums)
}

func (g *Geometry) putSmall(dst []byte, t EntryType, h Head, location uint64, offset, length uint32, ext meta.Bitmap, csums Csums) Entry {
	invariant.Must(g.Aligned(offset, length), "layout: small write not in whole granules of a block")
	e := putHeader(dst, g.SmallWriteBytes(offset, length), t, h)
	le.PutUint64(e[offLocation:], location)
	le.PutUint32(e[offSmallOffset:], offset)
	le.PutUint32(e[offSmallLen:], length)
	putField(putField(e[smallWriteFixed:], ext, g.bitmapBytes), csums, len(e)-smallWriteFixed-g.bitmapBytes)
	e.Seal()
	return e
}

// PutBigIntent encodes a BIG_INTENT: the complete state of a block after the
// write of [offset, offset+length). With checksums off csums is the one
// crc32c of the written range.
func (g *Geometry) PutBigIntent(dst []byte, h Head, block BlockNum, offset, length uint32, ext, written meta.Bitmap, csums Csums) Entry {
	invariant.Must(h.Stable, "layout: unstable BIG_INTENT")
	invariant.Must(g.Aligned(offset, length), "layout: intent not in whole granules of a block")
	e := putHeader(dst, g.BigIntentBytes(), BigIntent, h)
	le.PutUint32(e[offBlockNum:], uint32(block))
	le.PutUint32(e[offIntentOffset:], offset)
	le.PutUint32(e[offIntentLen:], length)
	putTail(e[bigIntentFixed:], g.bitmapBytes, ext, written, csums)
	e.Seal()
	return e
}

// PutDelete encodes a DELETE of the object.
func PutDelete(dst []byte, lsn LSN, id meta.ObjectID) Entry {
	return putPlain(dst, Delete, Head{LSN: lsn, Object: id, Stable: true})
}

// PutCommit encodes a COMMIT of all versions up to v, which must not be 0.
func PutCommit(dst []byte, lsn LSN, id meta.ObjectID, v meta.Version) Entry {
	invariant.Must(v != 0, "layout: COMMIT of version 0")
	return putPlain(dst, Commit, Head{LSN: lsn, Object: id, Version: v})
}

// PutRollback encodes a ROLLBACK to version v; 0 = drop everything unstable.
func PutRollback(dst []byte, lsn LSN, id meta.ObjectID, v meta.Version) Entry {
	return putPlain(dst, Rollback, Head{LSN: lsn, Object: id, Version: v})
}

func putPlain(dst []byte, t EntryType, h Head) Entry {
	e := putHeader(dst, headerBytes, t, h)
	e.Seal()
	return e
}

func putHeader(dst []byte, size int, t EntryType, h Head) Entry {
	invariant.Must(len(dst) >= size, "layout: no room for an entry")
	e := Entry(dst[:size:size])
	word := uint16(t)
	if h.Stable {
		word |= stableFlag
	}
	le.PutUint16(e, uint16(size))
	le.PutUint16(e[offType:], word)
	le.PutUint64(e[offLSN:], uint64(h.LSN))
	le.PutUint64(e[offInode:], uint64(h.Object.Inode))
	le.PutUint64(e[offStripe:], h.Object.Stripe)
	le.PutUint64(e[offVersion:], uint64(h.Version))
	return e
}

// putTail writes what follows the fixed part of a BIG entry.
func putTail(tail []byte, bitmapBytes int, ext, written meta.Bitmap, csums Csums) {
	tail = putField(tail, ext, bitmapBytes)
	tail = putField(tail, written, bitmapBytes)
	putField(tail, csums, len(tail))
}

// putField copies src, or n zero bytes if it is nil, and returns the rest.
func putField(dst, src []byte, n int) []byte {
	if src == nil {
		clear(dst[:n])
	} else {
		invariant.Must(len(src) == n, "layout: bitmap or checksums of a wrong length")
		copy(dst, src)
	}
	return dst[n:]
}
