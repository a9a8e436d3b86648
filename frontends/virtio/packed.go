package virtio

import (
	"encoding/binary"
	"fmt"

	"vitastor/internal/guestmem"
)

// A packed ring (virtio 1.2 §2.8) is one ring of descriptors that driver and
// device go through, one behind the other:
//
//	0        8     12   14      16
//	| addr   | len | id | flags |
//
// A descriptor is available if AVAIL is the driver's wrap counter and USED is
// not, and used if both are the device's. The device writes one used descriptor
// for a chain, and skips as many as that had. The event suppression of either
// side is {position | wrap << 15, flags}.
const (
	eventEnable  = 0
	eventDisable = 1
	eventDesc    = 2
)

func availFlags(wrap bool) uint16 {
	if wrap {
		return descAvail
	}
	return descUsed
}

func usedFlags(wrap bool) uint16 {
	if wrap {
		return descAvail | descUsed
	}
	return 0
}

// step moves a position in a packed ring on.
func step(at uint16, wrap bool, n, size uint16) (uint16, bool) {
	if at += n; at >= size {
		return at - size, !wrap
	}
	return at, wrap
}

// packedReady tells whether there is an available descriptor at the position of
// the device.
func (q *Queue) packedReady() bool {
	word := guestmem.Load32(q.rings.Desc, int(q.state.Avail)*descBytes+12)
	return uint16(word>>16)&(descAvail|descUsed) == availFlags(q.state.AvailWrap)
}

// popPacked takes the next chain of the ring.
func (q *Queue) popPacked(c *Chain) (bool, error) {
	if !q.packedReady() {
		return false, nil
	}
	entry, err := uint16(0), error(nil)
	if q.inflight != nil {
		if entry, err = q.inflight.beginPacked(); err != nil {
			return false, err
		}
	}
	c.head, c.slots = entry, 0
	at, wrap := q.state.Avail, q.state.AvailWrap
	for {
		if q.slots+int(c.slots) == int(q.Size) {
			return false, fmt.Errorf("%w: more descriptors are available than the ring has", ErrRing)
		}
		d := packedDesc(q.rings.Desc, int(at))
		c.slots, c.id = c.slots+1, d.next
		last := d.flags&descNext == 0
		if q.inflight != nil {
			if err := q.inflight.addPacked(entry, d, last); err != nil {
				return false, err
			}
		}
		if err := q.addPacked(c, d); err != nil {
			return false, err
		}
		if at, wrap = step(at, wrap, 1, q.Size); last {
			break
		}
	}
	q.state.Avail, q.state.AvailWrap = at, wrap
	q.slots += int(c.slots)
	return true, nil
}

func (q *Queue) addPacked(c *Chain, d desc) error {
	if d.flags&descIndirect != 0 {
		return q.addTable(c, d)
	}
	return q.add(c, d)
}

// readEntries takes a chain from the shared memory.
func (q *Queue) readEntries(c *Chain, entry uint16) error {
	c.head, c.slots = entry, 0
	return q.inflight.eachPacked(entry, func(d desc) error {
		c.slots, c.id = c.slots+1, d.next
		return q.addPacked(c, d)
	})
}

// pushPacked writes a used descriptor.
func (q *Queue) pushPacked(c *Chain, written uint32) error {
	at := int(q.state.Used) * descBytes
	flags := usedFlags(q.state.UsedWrap)
	if written > 0 {
		flags |= descWrite
	}
	q.state.Used, q.state.UsedWrap = step(q.state.Used, q.state.UsedWrap, c.slots, q.Size)
	if q.inflight != nil {
		if err := q.inflight.pushingPacked(c.head, q.state); err != nil {
			return err
		}
	}
	binary.LittleEndian.PutUint32(q.rings.Desc[at+8:], written)
	guestmem.Store32(q.rings.Desc, at+12, uint32(c.id)|uint32(flags)<<16)
	if q.inflight != nil {
		q.inflight.pushedPacked(c.head)
	}
	q.logDesc(at, descBytes)
	return nil
}

// interruptPacked looks at what the driver wants.
func (q *Queue) interruptPacked() bool {
	word := guestmem.Load32(q.rings.Driver, 0)
	switch word >> 16 & 3 {
	case eventDisable:
		return false
	case eventDesc:
		if !q.EventIdx || q.unknown {
			return true
		}
	default:
		return true
	}
	event := uint16(word) &^ wrapBit
	if (word&wrapBit != 0) != q.state.UsedWrap {
		event -= q.Size
	}
	return needEvent(event, q.state.Used, q.state.Used-q.pushed)
}

// kicksPacked tells the driver whether to kick.
func (q *Queue) kicksPacked(on bool) bool {
	word := uint32(eventDisable) << 16
	switch {
	case on && q.EventIdx:
		word = uint32(position(q.state.Avail, q.state.AvailWrap)) | eventDesc<<16
	case on:
		word = eventEnable << 16
	}
	guestmem.Store32(q.rings.Device, 0, word)
	q.logDevice(0, 4)
	return on && q.packedReady()
}
