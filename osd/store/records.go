package store

import (
	"encoding/binary"
	"fmt"

	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// ref names a record; 0 = none. It is chunk<<slotBits | slot.
type ref uint32

// records holds the metadata entries of the store outside of the Go heap, each
// in a record of exactly its size:
//
//	0        4          8          12             16
//	+--------+----------+----------+--------------+-----------------------+
//	| older  | blkNext  | blkPrev  | block, flags | the entry as on disk  |
//	+--------+----------+----------+--------------+-----------------------+
//
// older links the chain of an object (newest first), or the limbo list;
// blkNext/blkPrev link the entries of one metadata block. Records of one size
// share chunks of 64 KiB; an empty chunk may serve another size. The size of
// the entry (its first field) is 0 in a free record.
type records struct {
	regions   [][]byte
	perRegion uint32 // chunks of a region: 32 (2 MiB, a huge page) or less for a small store
	chunks    []chunk
	classOf   []uint16 // by entry size: class number + 1, 0 = not seen yet
	classes   []recClass
	idle      uint32 // list of chunks without records
	live      int
}

const (
	recHeader  = 16
	slotBits   = 11
	slotMask   = 1<<slotBits - 1
	chunkBytes = 64 << 10
	maxChunks  = 1 << (32 - slotBits)
)

// chunk is the state of 64 KiB: records of one size.
type chunk struct {
	stride     uint32 // bytes of a record; 0 = idle
	next, prev uint32 // in the list of chunks with room, or in the idle list
	used       uint16 // live records
	fresh      uint16 // slots ever used
	free       uint16 // first free slot + 1
}

type recClass struct {
	stride uint32
	room   uint32 // chunks with room
}

// Flags of a record, in the top bits of the block field.
const (
	flagPending   = 1 << 31 // not acknowledged yet: no reader may see it
	flagUnsettled = 1 << 30 // not effective yet (spec ondisk.md §4.3)
	flagDead      = 1 << 29 // in limbo: waits for readers, then is freed
	flagFrees     = 1 << 28 // its data block is freed with it
	blockMask     = flagFrees - 1
)

// newRecords makes an empty set for a metadata area of the given size.
func newRecords(metaBlockBytes uint32, areaBytes int64) *records {
	return &records{
		perRegion: regionUnits(areaBytes, chunkBytes),
		chunks:    make([]chunk, 1), // chunk 0 does not exist, so that no ref is 0
		classOf:   make([]uint16, metaBlockBytes+1),
	}
}

// regionUnits is how many units of memory are taken from the system at a time:
// 2 MiB, but less for stores so small that it would be wasted on them.
func regionUnits(areaBytes int64, unit uint32) uint32 {
	const large, small = 2 << 20, 64 << 10
	if areaBytes < 32<<20 {
		return small / unit
	}
	return large / unit
}

func (m *records) bytes(r ref) []byte {
	c := uint32(r) >> slotBits
	stride := m.chunks[c].stride
	at := c%m.perRegion*chunkBytes + uint32(r)&slotMask*stride
	return m.regions[c/m.perRegion][at : at+stride : at+stride]
}

// entry is the view of the entry in record r.
func (m *records) entry(r ref) layout.Entry {
	b := m.bytes(r)
	end := recHeader + int(binary.LittleEndian.Uint16(b[recHeader:]))
	return layout.Entry(b[recHeader:end:end])
}

func (m *records) u32(r ref, at int) uint32       { return binary.LittleEndian.Uint32(m.bytes(r)[at:]) }
func (m *records) setU32(r ref, at int, v uint32) { binary.LittleEndian.PutUint32(m.bytes(r)[at:], v) }

func (m *records) older(r ref) ref          { return ref(m.u32(r, 0)) }
func (m *records) setOlder(r, o ref)        { m.setU32(r, 0, uint32(o)) }
func (m *records) block(r ref) uint32       { return m.u32(r, 12) & blockMask }
func (m *records) has(r ref, f uint32) bool { return m.u32(r, 12)&f != 0 }
func (m *records) set(r ref, f uint32)      { m.setU32(r, 12, m.u32(r, 12)|f) }
func (m *records) unset(r ref, f uint32)    { m.setU32(r, 12, m.u32(r, 12)&^f) }

// alloc makes a record for an entry of the given size; its content is
// arbitrary, except that the header is zero.
func (m *records) alloc(size int) (ref, error) {
	if m.classOf[size] == 0 {
		m.classes = append(m.classes, recClass{stride: uint32(recHeader + (size+3)&^3)})
		m.classOf[size] = uint16(len(m.classes))
	}
	k := &m.classes[m.classOf[size]-1]
	if k.room == 0 {
		if err := m.addChunk(k); err != nil {
			return 0, err
		}
	}
	n := k.room
	c := &m.chunks[n]
	var slot uint32
	if c.free != 0 {
		slot = uint32(c.free - 1)
	} else {
		slot = uint32(c.fresh)
		c.fresh++
	}
	r := ref(n<<slotBits | slot)
	b := m.bytes(r)
	if c.free != 0 {
		c.free = uint16(binary.LittleEndian.Uint32(b))
	}
	clear(b[:recHeader])
	binary.LittleEndian.PutUint16(b[recHeader:], uint16(size))
	c.used++
	m.live++
	if m.full(c) {
		k.room = m.unlink(k.room, n)
	}
	return r, nil
}

// full tells whether a chunk has no room for another record.
func (m *records) full(c *chunk) bool {
	return c.free == 0 && uint32(c.fresh+1)*c.stride > chunkBytes
}

func (m *records) addChunk(k *recClass) error {
	n := m.idle
	if n != 0 {
		m.idle = m.chunks[n].next
	} else {
		if len(m.chunks) == maxChunks {
			return fmt.Errorf("more than %d MiB of metadata entries", maxChunks*chunkBytes>>20)
		}
		n = uint32(len(m.chunks))
		for int(n/m.perRegion) >= len(m.regions) {
			region, err := pinned.Make[byte](int(m.perRegion) * chunkBytes)
			if err != nil {
				return fmt.Errorf("memory for metadata entries: %w", err)
			}
			m.regions = append(m.regions, region)
		}
		m.chunks = append(m.chunks, chunk{})
	}
	m.chunks[n] = chunk{stride: k.stride}
	k.room = m.link(k.room, n)
	return nil
}

// release frees a record.
func (m *records) release(r ref) {
	n := uint32(r) >> slotBits
	c := &m.chunks[n]
	b := m.bytes(r)
	size := binary.LittleEndian.Uint16(b[recHeader:])
	invariant.Must(size != 0, "store: a metadata record was freed twice")
	k := &m.classes[m.classOf[size]-1]
	if m.full(c) {
		k.room = m.link(k.room, n)
	}
	binary.LittleEndian.PutUint16(b[recHeader:], 0)
	binary.LittleEndian.PutUint32(b, uint32(c.free))
	c.free = uint16(uint32(r)&slotMask) + 1
	c.used--
	m.live--
	if c.used == 0 {
		k.room = m.unlink(k.room, n)
		*c = chunk{next: m.idle}
		m.idle = n
	}
}

// link and unlink change a list of chunks and return its new head.
func (m *records) link(head, n uint32) uint32 {
	m.chunks[n].next, m.chunks[n].prev = head, 0
	if head != 0 {
		m.chunks[head].prev = n
	}
	return n
}

func (m *records) unlink(head, n uint32) uint32 {
	c := &m.chunks[n]
	if c.next != 0 {
		m.chunks[c.next].prev = c.prev
	}
	if c.prev != 0 {
		m.chunks[c.prev].next = c.next
		return head
	}
	return c.next
}

// each calls f for every record, in order of memory.
func (m *records) each(f func(r ref) error) error {
	for n := range m.chunks {
		c := m.chunks[n]
		for slot := range uint32(c.fresh) {
			r := ref(uint32(n)<<slotBits | slot)
			if c.stride == 0 || binary.LittleEndian.Uint16(m.bytes(r)[recHeader:]) == 0 {
				continue
			}
			if err := f(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// memory is the number of bytes of chunks that are in use.
func (m *records) memory() int64 {
	idle := 0
	for n := m.idle; n != 0; n = m.chunks[n].next {
		idle++
	}
	return int64(len(m.chunks)-1-idle) * chunkBytes
}

func (m *records) free() {
	for _, r := range m.regions {
		pinned.Free(r)
	}
	*m = records{}
}
