// Package virtio is the device's side of virtio 1.2: virtqueues of both kinds,
// split and packed, and virtio-blk on top of them. It knows no transport: vduse
// and vhost tell where the rings are, wait for kicks and deliver interrupts.
//
//	ring ─▶ Queue.Pop ─▶ Chain ─▶ Blk: header, checks ─▶ blockdev.Disk
//	     ◀─ Queue.Push ◀──────── status byte ◀───────────── Done
//
// Guarantee: whatever a guest writes into its rings and descriptors, nothing
// outside of the memory that Memory says is its own is touched, and nothing
// panics: what breaks the rules breaks its queue, with an error that names it.
// Each request is answered exactly once, also by a server that takes over from
// one that has died (Inflight). A field that the guest can write is read once.
//
// Concurrency: everything runs on one loop. Nothing allocates in steady state.
package virtio

import (
	"errors"
	"fmt"

	"vitastor/internal/guestmem"
)

// Feature bits of queues (virtio 1.2 §6).
const (
	FeatureIndirect = 1 << 28
	FeatureEventIdx = 1 << 29
	FeatureVersion1 = 1 << 32
	FeatureAccess   = 1 << 33 // ACCESS_PLATFORM: addresses are those of an IOMMU
	FeaturePacked   = 1 << 34
)

// Limits.
const (
	// QueueSizeMax is the largest number of descriptors of a queue here; the
	// standard's is 32768.
	QueueSizeMax = 1024
	// tableMax is the largest number of descriptors in an indirect table.
	tableMax = 1024
)

const descBytes = 16

// Layout is what was negotiated about a ring.
type Layout struct {
	Size     uint16 // descriptors; a power of two if the ring is split
	Packed   bool
	EventIdx bool
	Indirect bool
}

// LayoutOf takes a layout from negotiated features.
func LayoutOf(features uint64, size uint16) Layout {
	return Layout{Size: size, Packed: features&FeaturePacked != 0, EventIdx: features&FeatureEventIdx != 0,
		Indirect: features&FeatureIndirect != 0}
}

// Bytes tells the sizes of the three parts of a ring, with the event indexes of
// a split one.
func (l Layout) Bytes() (desc, driver, device int) {
	n := int(l.Size)
	if l.Packed {
		return n * descBytes, 4, 4
	}
	return n * descBytes, 4 + 2*n + 2, 4 + 8*n + 2
}

// Rings is the memory of the parts of a ring, each in one piece of the length
// that Layout.Bytes tells:
//
//	          split ring         packed ring
//	Desc      descriptor table   descriptor ring
//	Driver    available ring     driver's event suppression
//	Device    used ring          device's event suppression
type Rings struct{ Desc, Driver, Device []byte }

// State is how far a queue has got. A split queue has Avail only, the index of
// the available ring modulo 2^16: what is used is in its used ring. A packed
// one has two positions in the ring, each with its wrap counter.
type State struct {
	Avail, Used         uint16
	AvailWrap, UsedWrap bool
}

// StartState is that of a queue that was never used.
func StartState() State { return State{AvailWrap: true, UsedWrap: true} }

// Pack is the 32 bits that the vhost protocols use for a State: of a packed queue
// avail | wrap << 15 | used << 16 | wrap << 31, of a split one the avail index.
func (s State) Pack(packed bool) uint32 {
	if !packed {
		return uint32(s.Avail)
	}
	return uint32(position(s.Avail, s.AvailWrap)) | uint32(position(s.Used, s.UsedWrap))<<16
}

// Unpack is the reverse of Pack.
func Unpack(v uint32, packed bool) State {
	if !packed {
		return State{Avail: uint16(v)}
	}
	return State{Avail: uint16(v) &^ wrapBit, AvailWrap: v&wrapBit != 0,
		Used: uint16(v>>16) &^ wrapBit, UsedWrap: v>>16&wrapBit != 0}
}

const wrapBit = 1 << 15

func position(at uint16, wrap bool) uint16 {
	if wrap {
		at |= wrapBit
	}
	return at
}

// Errors of queues. They are wrapped with what was found.
var (
	ErrRing  = errors.New("the ring breaks the rules of virtio")
	ErrStale = errors.New("the shared memory of requests in flight cannot be used")
)

// Queue is the device's side of a virtqueue. The zero value is a stopped one.
type Queue struct {
	Layout
	mem      Memory
	rings    Rings
	inflight *Inflight
	running  bool
	protect  bool // memory may vanish

	state    State
	slots    int // of the ring that are with the device
	chains   int // that were popped
	again    []again
	busy     []bool // split: heads that are with the device
	table    []byte // copy of an indirect table
	fetched  uint16 // split: the driver's index, as seen last
	flags    uint32 // split: used.flags now
	pushed   uint16 // entries (split) or descriptors (packed) since the last interrupt
	unknown  bool   // what the driver was told last is not known: interrupt in any case
	log      Log
	logRings RingLog
	// generation tells chains of this start from those of earlier ones.
	generation uint32
}

// again is a request that another server has popped and not pushed.
type again struct {
	head    uint16 // split: descriptor; packed: entry of the shared memory
	counter uint64
}

// Start begins to use a ring. Without inflight (nil) nothing may be in flight at
// state. With it, requests that were popped before and not pushed are popped
// once more, in their order, before new ones, and the state is taken from the
// shared memory; state counts only if inflight was never used.
// Errors say what is wrong with the ring: nothing was started then.
func (q *Queue) Start(l Layout, m Memory, r Rings, state State, inflight *Inflight) (err error) {
	if l.Size == 0 || l.Size > QueueSizeMax || !l.Packed && l.Size&(l.Size-1) != 0 {
		return fmt.Errorf("a queue of %d descriptors is not possible: 1 to %d, of a split queue a power of two", l.Size, QueueSizeMax)
	}
	if err := l.check(r); err != nil {
		return err
	}
	if l.Packed && (state.Avail >= l.Size || state.Used >= l.Size) {
		return fmt.Errorf("a packed queue of %d descriptors cannot be at position %d or %d", l.Size, state.Avail, state.Used)
	}
	q.Stop()
	*q = Queue{Layout: l, rings: r, state: state, inflight: inflight, unknown: true,
		generation: q.generation + 1, busy: q.busy, table: q.table, again: q.again[:0],
		log: q.log, logRings: q.logRings}
	q.busy = append(q.busy[:0], make([]bool, l.Size)...)
	q.protect = !m.Stable()
	defer guestmem.Recover(guestmem.Protect(), &err)
	if !l.Packed {
		word := guestmem.Load32(r.Device, 0)
		q.flags, q.state.Used = word&0xffff, uint16(word>>16)
	}
	if err := q.recover(); err != nil {
		return err
	}
	q.fetched = q.state.Avail
	q.mem, q.running = m, true
	m.Hold()
	return nil
}

// check looks at the memory of a ring.
func (l Layout) check(r Rings) error {
	desc, driver, device := l.Bytes()
	align := [3]int{16, 2, 4}
	if l.Packed {
		align[1] = 4
	}
	for i, p := range []struct {
		what  string
		b     []byte
		bytes int
	}{{"descriptors", r.Desc, desc}, {"driver's part", r.Driver, driver}, {"device's part", r.Device, device}} {
		if len(p.b) < p.bytes {
			return fmt.Errorf("%w: %s of %d bytes where %d are needed", ErrRing, p.what, len(p.b), p.bytes)
		}
		if !guestmem.Aligned(p.b, align[i]) {
			return fmt.Errorf("%w: the %s are not aligned to %d", ErrRing, p.what, align[i])
		}
	}
	return nil
}

// recover takes state and requests in flight over from the shared memory.
func (q *Queue) recover() (err error) {
	if q.inflight == nil {
		return nil
	}
	if q.inflight.packed != q.Packed || q.inflight.size != q.Size {
		return fmt.Errorf("%w: it is for another kind of queue", ErrStale)
	}
	if q.Packed {
		q.again, q.state, q.slots, err = q.inflight.recoverPacked(q.again, q.state, q.rings.Desc)
		return err
	}
	q.again, err = q.inflight.recoverSplit(q.again, q.state.Used)
	if err == nil && q.inflight.used {
		q.state.Avail = q.state.Used + uint16(len(q.again))
	}
	q.slots = len(q.again)
	return err
}

// Move tells that memory is mapped in another way now. Chains that were popped
// before keep what they have.
func (q *Queue) Move(m Memory, r Rings) error {
	if !q.running {
		return nil
	}
	if err := q.Layout.check(r); err != nil {
		return err
	}
	m.Hold()
	q.mem.Release()
	q.mem, q.rings, q.protect = m, r, !m.Stable()
	return nil
}

// RingLog says how what the device writes into a ring is logged.
type RingLog struct {
	On bool
	// Desc is the guest's address of a packed ring's descriptors. Device is
	// that of the used ring, or the device's event suppression.
	Desc, Device uint64
}

// SetLog makes the queue record what it writes (nil = no more): data by the
// addresses that the guest gave, rings by r. It stays set when the queue is
// started again.
func (q *Queue) SetLog(log Log, r RingLog) { q.log, q.logRings = log, r }

// logDesc and logDevice record a change of a part of the ring.
func (q *Queue) logDesc(at, n int) {
	if q.log != nil && q.logRings.On {
		q.log.Written(q.logRings.Desc+uint64(at), uint32(n))
	}
}

func (q *Queue) logDevice(at, n int) {
	if q.log != nil && q.logRings.On {
		q.log.Written(q.logRings.Device+uint64(at), uint32(n))
	}
}

// Pop takes the next request of the driver into c. ok is false if there is
// none. After an error the queue is broken and has to be stopped.
func (q *Queue) Pop(c *Chain) (ok bool, err error) {
	if q.protect {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	return q.pop(c)
}

func (q *Queue) pop(c *Chain) (ok bool, err error) {
	if !q.running {
		return false, nil
	}
	c.begin()
	if len(q.again) > 0 {
		ok, err = q.popAgain(c)
	} else if q.Packed {
		ok, err = q.popPacked(c)
	} else {
		ok, err = q.popSplit(c)
	}
	if !ok || err != nil {
		return false, err
	}
	c.queue, c.generation, c.mem = q, q.generation, q.mem
	q.mem.Hold()
	q.chains++
	return true, nil
}

// popAgain takes the next request of a server that has died.
func (q *Queue) popAgain(c *Chain) (bool, error) {
	a := q.again[0]
	q.again = q.again[1:]
	if q.Packed {
		return true, q.readEntries(c, a.head)
	}
	c.head, c.slots = a.head, 1
	q.busy[a.head] = true
	return true, q.readSplit(c)
}

// Push gives a chain back to the driver; written is the number of bytes that
// the device has written to c.Write. Chains may come back in any order. One
// that was popped before the queue was stopped only gives up its memory.
func (q *Queue) Push(c *Chain, written uint32) (err error) {
	if q.protect {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	mem := c.mem
	c.mem = nil
	defer mem.Release()
	if !q.running || c.generation != q.generation {
		return nil
	}
	if q.log != nil {
		c.logTo(q.log)
	}
	q.chains--
	q.slots -= int(c.slots)
	q.pushed += c.slots
	if q.Packed {
		return q.pushPacked(c, written)
	}
	q.pushSplit(c, written)
	return nil
}

// Interrupt tells, after one or more Push, whether the driver has to be told.
func (q *Queue) Interrupt() (yes bool, err error) {
	if q.protect {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	if !q.running || q.pushed == 0 {
		return false, nil
	}
	if q.Packed {
		yes = q.interruptPacked()
	} else {
		yes = q.interruptSplit()
	}
	q.pushed, q.unknown = 0, false
	return yes, nil
}

// Kicks says whether the driver has to kick the device for new requests. When
// that is switched on, more tells that there are some already.
func (q *Queue) Kicks(on bool) (more bool, err error) {
	if q.protect {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	switch {
	case !q.running:
		return false, nil
	case q.Packed:
		return q.kicksPacked(on), nil
	}
	return q.kicksSplit(on), nil
}

// needEvent tells whether a step from old to now passes event (virtio 1.2
// §2.7.10), all modulo 2^16.
func needEvent(event, now, old uint16) bool { return now-event-1 < now-old }

// State is where another queue can go on, when InFlight is 0.
func (q *Queue) State() State { return q.state }

// InFlight is the number of chains that were popped and not pushed.
func (q *Queue) InFlight() int { return q.chains }

// Running tells whether the queue was started and not stopped.
func (q *Queue) Running() bool { return q.running }

// Stop ends the use of the ring. Chains in flight are forgotten: to push them
// has no effect any more, but releases their memory.
func (q *Queue) Stop() {
	if !q.running {
		return
	}
	q.running, q.chains, q.inflight = false, 0, nil
	q.mem.Release()
	q.mem, q.rings = nil, Rings{}
}
