package virtio

import (
	"encoding/binary"
	"fmt"

	"vitastor/internal/guestmem"
)

// A split ring of n descriptors (virtio 1.2 §2.7), little endian:
//
//	available ring (driver)  0 flags, 2 idx, 4 ring[n] of 2, then used_event
//	used ring (device)       0 flags, 2 idx, 4 ring[n] of {id, len}, then avail_event
//
// Indexes count modulo 2^16.
const (
	availRing     = 4
	usedRing      = 4
	usedBytes     = 8
	noInterrupt   = 1 // available ring
	noKick        = 1 // used ring
	splitIdxShift = 16
)

// popSplit takes the next entry of the available ring.
func (q *Queue) popSplit(c *Chain) (bool, error) {
	if q.state.Avail == q.fetched {
		if q.fetched = guestmem.Load16(q.rings.Driver, 2); q.state.Avail == q.fetched {
			return false, nil
		}
		if n := q.fetched - q.state.Avail; n > q.Size {
			return false, fmt.Errorf("%w: %d requests are available at once in a queue of %d", ErrRing, n, q.Size)
		}
	}
	at := int(q.state.Avail&(q.Size-1)) * 2
	head := binary.LittleEndian.Uint16(q.rings.Driver[availRing+at:])
	switch {
	case head >= q.Size:
		return false, fmt.Errorf("%w: head descriptor %d of %d", ErrRing, head, q.Size)
	case q.busy[head]:
		return false, fmt.Errorf("%w: descriptor %d is made available while it is in use", ErrRing, head)
	}
	q.busy[head] = true
	q.state.Avail++
	q.slots++
	c.head, c.slots = head, 1
	if q.inflight != nil {
		q.inflight.popSplit(head)
	}
	return true, q.readSplit(c)
}

// readSplit follows the chain of c.head.
func (q *Queue) readSplit(c *Chain) error {
	return q.walkSplit(c, q.rings.Desc, int(q.Size), c.head, false)
}

// pushSplit appends to the used ring.
func (q *Queue) pushSplit(c *Chain, written uint32) {
	at := usedRing + int(q.state.Used&(q.Size-1))*usedBytes
	binary.LittleEndian.PutUint64(q.rings.Device[at:], uint64(c.head)|uint64(written)<<32)
	if q.inflight != nil {
		q.inflight.pushingSplit(c.head)
	}
	q.state.Used++
	q.busy[c.head] = false
	guestmem.Store32(q.rings.Device, 0, q.flags|uint32(q.state.Used)<<splitIdxShift)
	if q.inflight != nil {
		q.inflight.pushedSplit(c.head, q.state.Used)
	}
	q.logDevice(at, usedBytes)
	q.logDevice(0, 4)
}

// interruptSplit looks at what the driver wants.
func (q *Queue) interruptSplit() bool {
	if !q.EventIdx {
		return guestmem.Load16(q.rings.Driver, 0)&noInterrupt == 0
	}
	event := guestmem.Load16(q.rings.Driver, availRing+2*int(q.Size))
	return q.unknown || needEvent(event, q.state.Used, q.state.Used-q.pushed)
}

// kicksSplit tells the driver whether to kick. With event indexes nothing has to
// be done to switch it off: the next kick is for an entry that has passed.
func (q *Queue) kicksSplit(on bool) bool {
	switch {
	case q.EventIdx && !on:
		return false
	case q.EventIdx:
		at := usedRing + usedBytes*int(q.Size)
		guestmem.Store16(q.rings.Device, at, q.state.Avail)
		q.logDevice(at, 2)
	default:
		flags := uint32(noKick)
		if on {
			flags = 0
		}
		if flags != q.flags {
			q.flags = flags
			guestmem.Store32(q.rings.Device, 0, q.flags|uint32(q.state.Used)<<splitIdxShift)
			q.logDevice(0, 4)
		}
	}
	return on && (q.fetched != q.state.Avail || guestmem.Load16(q.rings.Driver, 2) != q.state.Avail)
}
