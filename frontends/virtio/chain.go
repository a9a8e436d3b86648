package virtio

import (
	"encoding/binary"
	"fmt"
)

// Chain is one request in a queue: memory that the device may read, then memory
// that it may write. The owner keeps it from Pop to Push, and may use it again
// and change the slices meanwhile. Pieces are never empty.
type Chain struct {
	Read, Write           [][]byte
	ReadBytes, WriteBytes uint64

	queue      *Queue
	generation uint32
	mem        Memory // held
	head       uint16 // split: descriptor; packed: entry of the shared memory
	id         uint16 // packed: of the buffer
	slots      uint16 // of the ring
	written    []span // guest addresses of Write, for the log
}

// span is a range of guest addresses.
type span struct {
	addr uint64
	n    uint32
}

func (c *Chain) begin() {
	c.Read, c.Write, c.ReadBytes, c.WriteBytes, c.written = c.Read[:0], c.Write[:0], 0, 0, c.written[:0]
}

func (c *Chain) logTo(log Log) {
	for _, s := range c.written {
		log.Written(s.addr, s.n)
	}
}

// Flags of descriptors.
const (
	descNext     = 1 << 0
	descWrite    = 1 << 1
	descIndirect = 1 << 2
	descAvail    = 1 << 7 // packed only, as is:
	descUsed     = 1 << 15
)

// desc is a descriptor that was read once. The last two fields are in the order
// of a split ring; in a packed one the first of them is the id of the buffer and
// flags are the second.
type desc struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

// splitDesc is descriptor i of a table.
//
//	0        8     12      14     16
//	| addr   | len | flags | next |
func splitDesc(table []byte, i int) desc {
	b := table[i*descBytes:][:descBytes]
	tail := binary.LittleEndian.Uint64(b[8:])
	return desc{binary.LittleEndian.Uint64(b), uint32(tail), uint16(tail >> 32), uint16(tail >> 48)}
}

// packedDesc is descriptor i of a ring, or of a table that a packed ring refers
// to. next is the id of the buffer.
//
//	0        8     12   14      16
//	| addr   | len | id | flags |
func packedDesc(table []byte, i int) desc {
	b := table[i*descBytes:][:descBytes]
	tail := binary.LittleEndian.Uint64(b[8:])
	return desc{binary.LittleEndian.Uint64(b), uint32(tail), uint16(tail >> 48), uint16(tail >> 32)}
}

// add appends the memory of a descriptor.
func (q *Queue) add(c *Chain, d desc) (err error) {
	ok := true
	switch {
	case d.len == 0: // no memory: harmless
	case d.flags&descWrite != 0:
		c.Write, ok = q.mem.Slices(c.Write, d.addr, d.len, true)
		c.WriteBytes += uint64(d.len)
		c.written = append(c.written, span{d.addr, d.len})
	case len(c.Write) > 0:
		return fmt.Errorf("%w: a descriptor to read from after one to write to", ErrRing)
	default:
		c.Read, ok = q.mem.Slices(c.Read, d.addr, d.len, false)
		c.ReadBytes += uint64(d.len)
	}
	if !ok {
		return fmt.Errorf("%w: a descriptor refers to %d bytes at %#x, which is not memory of the guest", ErrRing, d.len, d.addr)
	}
	return nil
}

// addTable appends what an indirect descriptor refers to: a copy of the table is
// looked at, so that it cannot change meanwhile.
func (q *Queue) addTable(c *Chain, d desc) error {
	n := int(d.len / descBytes)
	switch {
	case !q.Indirect:
		return fmt.Errorf("%w: an indirect descriptor, which was not negotiated", ErrRing)
	case d.flags&descNext != 0:
		return fmt.Errorf("%w: an indirect descriptor has a next one", ErrRing)
	case n == 0 || n > tableMax || d.len%descBytes != 0:
		return fmt.Errorf("%w: an indirect table of %d bytes", ErrRing, d.len)
	}
	// The end of Read is used for the slices of the table itself.
	before := len(c.Read)
	pieces, ok := q.mem.Slices(c.Read, d.addr, d.len, false)
	if !ok {
		return fmt.Errorf("%w: an indirect table of %d bytes at %#x, which is not memory of the guest", ErrRing, d.len, d.addr)
	}
	q.table = q.table[:0]
	for _, p := range pieces[before:] {
		q.table = append(q.table, p...)
	}
	c.Read = pieces[:before]
	if q.Packed {
		return q.walkPackedTable(c, n)
	}
	return q.walkSplit(c, q.table, n, 0, true)
}

// walkSplit follows a chain in a table of n descriptors.
func (q *Queue) walkSplit(c *Chain, table []byte, n int, at uint16, indirect bool) error {
	for range n {
		if int(at) >= n {
			return fmt.Errorf("%w: descriptor %d of %d", ErrRing, at, n)
		}
		d := splitDesc(table, int(at))
		var err error
		switch {
		case d.flags&descIndirect == 0:
			err = q.add(c, d)
		case indirect:
			err = fmt.Errorf("%w: an indirect table refers to another one", ErrRing)
		default:
			err = q.addTable(c, d)
		}
		if err != nil || d.flags&descNext == 0 {
			return err
		}
		at = d.next
	}
	return fmt.Errorf("%w: a chain is longer than the %d descriptors that there are", ErrRing, n)
}

// walkPackedTable takes all descriptors of an indirect table of a packed ring.
func (q *Queue) walkPackedTable(c *Chain, n int) error {
	for i := range n {
		d := packedDesc(q.table, i)
		if d.flags&descIndirect != 0 {
			return fmt.Errorf("%w: an indirect table refers to another one", ErrRing)
		}
		if err := q.add(c, d); err != nil {
			return err
		}
	}
	return nil
}
