package wire

import (
	"fmt"

	"vitastor/internal/meta"
)

// ObjectItemBytes is the size of an item of an ObjectList.
const ObjectItemBytes = 24

// ObjectList is the payload of SEC_LIST replies and of SEC_STABILIZE,
// SEC_ROLLBACK and SEC_READ_BMP requests, read and written in place.
//
//	0       8             16        24
//	| inode | stripe|role | version |
//
// Bytes after the last whole item do not count.
type ObjectList []byte

// Len is the number of items.
func (l ObjectList) Len() int { return len(l) / ObjectItemBytes }

// At reads item i.
func (l ObjectList) At(i int) meta.ObjectVersion {
	b := l[i*ObjectItemBytes:][:ObjectItemBytes]
	return meta.ObjectVersion{
		ObjectID: meta.ObjectID{Inode: meta.Inode(le.Uint64(b[0:8])), Stripe: le.Uint64(b[8:16])},
		Version:  meta.Version(le.Uint64(b[16:24])),
	}
}

// Set writes item i.
func (l ObjectList) Set(i int, v meta.ObjectVersion) {
	b := l[i*ObjectItemBytes:][:ObjectItemBytes]
	le.PutUint64(b[0:8], uint64(v.Inode))
	le.PutUint64(b[8:16], v.Stripe)
	le.PutUint64(b[16:24], uint64(v.Version))
}

// Append adds an item, like append. l must consist of whole items.
func (l ObjectList) Append(v meta.ObjectVersion) ObjectList {
	l = le.AppendUint64(l, uint64(v.Inode))
	l = le.AppendUint64(l, v.Stripe)
	return le.AppendUint64(l, uint64(v.Version))
}

// BitmapList is the payload of a SEC_READ_BMP reply, read and written in
// place: one item for each object asked for.
//
//	0         8        8+bitmap bytes
//	| version | bitmap |
type BitmapList struct {
	b         []byte
	itemBytes int
}

// BitmapItemBytes is the size of an item with a bitmap of bitmapBytes.
func BitmapItemBytes(bitmapBytes int) int { return 8 + bitmapBytes }

// MakeBitmapList looks at b as items with bitmaps of bitmapBytes each. For a
// received payload, items is how many were asked for: another length is an
// error.
func MakeBitmapList(b []byte, bitmapBytes, items int) (BitmapList, error) {
	l := BitmapList{b, BitmapItemBytes(bitmapBytes)}
	if len(b) != items*l.itemBytes {
		return BitmapList{}, fmt.Errorf("list of bitmaps has %d bytes, %d objects with %d bytes of bitmap need %d: "+
			"the peer has another block_size or bitmap_granularity", len(b), items, bitmapBytes, items*l.itemBytes)
	}
	return l, nil
}

// Len is the number of items.
func (l BitmapList) Len() int {
	if l.itemBytes == 0 {
		return 0
	}
	return len(l.b) / l.itemBytes
}

// Version of object i; 0 = it does not exist.
func (l BitmapList) Version(i int) meta.Version {
	return meta.Version(le.Uint64(l.item(i)[0:8]))
}

// SetVersion writes the version of item i.
func (l BitmapList) SetVersion(i int, v meta.Version) { le.PutUint64(l.item(i)[0:8], uint64(v)) }

// Bitmap of object i: a part of the list, to be read or filled in place.
func (l BitmapList) Bitmap(i int) meta.Bitmap { return meta.Bitmap(l.item(i)[8:]) }

func (l BitmapList) item(i int) []byte {
	return l.b[i*l.itemBytes : (i+1)*l.itemBytes : (i+1)*l.itemBytes]
}

// DescribeItemBytes is the size of an item of a DescribeList.
const DescribeItemBytes = 32

// DescribeItem is one location of an unclean object.
type DescribeItem struct {
	Object meta.ObjectID // without role
	Role   meta.Role
	LocBad meta.LocBad
	OSD    meta.OSDNum
}

// DescribeList is the payload of a DESCRIBE reply, read and written in place.
//
//	0       8        16     20        24        32
//	| inode | stripe | role | loc_bad | osd_num |
type DescribeList []byte

// Len is the number of items.
func (l DescribeList) Len() int { return len(l) / DescribeItemBytes }

// At reads item i.
func (l DescribeList) At(i int) DescribeItem {
	b := l[i*DescribeItemBytes:][:DescribeItemBytes]
	return DescribeItem{
		Object: meta.ObjectID{Inode: meta.Inode(le.Uint64(b[0:8])), Stripe: le.Uint64(b[8:16])},
		Role:   meta.Role(le.Uint32(b[16:20])),
		LocBad: meta.LocBad(le.Uint32(b[20:24])),
		OSD:    meta.OSDNum(le.Uint64(b[24:32])),
	}
}

// Append adds an item, like append. l must consist of whole items.
func (l DescribeList) Append(v DescribeItem) DescribeList {
	l = le.AppendUint64(l, uint64(v.Object.Inode))
	l = le.AppendUint64(l, v.Object.Stripe)
	l = le.AppendUint32(l, uint32(v.Role))
	l = le.AppendUint32(l, uint32(v.LocBad))
	return le.AppendUint64(l, uint64(v.OSD))
}
