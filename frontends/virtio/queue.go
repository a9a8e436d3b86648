// Package virtio is the device's side of virtio 1.2: virtqueues of both kinds,
// split and packed, and virtio-blk on top of them. It knows no transport: vduse
// and vhost tell where the rings are, wait for kicks and deliver notifications.
//
//	ring ─▶ Queue.Pop ─▶ Chain ─▶ Blk: header, checks ─▶ blockdev.Disk
//	     ◀─ Queue.Push ◀──────── status byte ◀───────────── Done
//
// Guarantee: whatever a guest writes into its rings and descriptors, nothing
// outside of the memory that Memory says is its own is touched, and nothing
// panics: what breaks the rules breaks its queue, with an error that names it.
// Each request is answered exactly once, also by a server that takes over from
// one that has died (Inflight). Every field that the guest can write is read
// once.
//
// Concurrency: everything runs on one loop. Nothing allocates in steady state.
package virtio

// Feature bits (virtio 1.2 §6).
const (
	FeatureIndirect  = 1 << 28
	FeatureEventIdx  = 1 << 29
	FeatureVersion1  = 1 << 32
	FeatureAccess    = 1 << 33 // ACCESS_PLATFORM: addresses are those of an IOMMU
	FeaturePacked    = 1 << 34
	FeatureRingReset = 1 << 40
	QueueSizeMax     = 1024 // descriptors; our limit, the standard's is 32768
	descriptorsMax   = 1024 // of one request
	descBytes        = 16
	RingAlign        = 4 // of the parts of a packed ring; DescAlign of descriptors
	DescAlign        = 16
)

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

// Bytes tells the sizes of the three parts of a ring.
func (l Layout) Bytes() (desc, driver, device int) { panic("skeleton") }

// Rings is the memory of the parts of a ring, each in one piece of the length
// that Layout.Bytes tells:
//
//	          split ring         packed ring
//	Desc      descriptor table   descriptor ring
//	Driver    available ring     driver's event suppression
//	Device    used ring          device's event suppression
type Rings struct{ Desc, Driver, Device []byte }

// State is how far a queue has got. A split queue has Avail only: entries of the
// available ring, modulo 2^16 (and Used is what the used ring says). A packed
// one has positions in the ring, each with its wrap counter.
type State struct {
	Avail, Used         uint16
	AvailWrap, UsedWrap bool
}

// Pack is the 32 bits that vhost and VDUSE use for a State: of a packed queue
// avail | wrap << 15 | used << 16 | wrap << 31, of a split one the avail index.
func (s State) Pack(packed bool) uint32 { panic("skeleton") }

// Unpack is the reverse of Pack.
func Unpack(v uint32, packed bool) State { panic("skeleton") }

// Queue is the device's side of a virtqueue.
type Queue struct{ _ int }

// Start begins to use a ring. Without inflight (nil) nothing may be in flight at
// state. With it, requests that were popped before and not pushed are popped
// once more, in their order, before new ones, and the state is taken from the
// shared memory; state counts only if inflight was never used.
// Errors say what is wrong with the ring: nothing was started then.
func (q *Queue) Start(l Layout, m Memory, r Rings, state State, inflight *Inflight) error {
	panic("skeleton")
}

// Move tells that memory is mapped in another way now. Chains that were popped
// before keep what they have.
func (q *Queue) Move(m Memory, r Rings) error { panic("skeleton") }

// SetLog makes the queue record what it writes (nil = no more): data by the
// addresses that the guest gave, its own part of the ring (the used ring, or
// descriptors and event suppression) as if it began at ringAddr if logRing.
func (q *Queue) SetLog(log Log, logRing bool, ringAddr uint64) { panic("skeleton") }

// Pop takes the next request of the driver into c. ok is false if there is
// none. After an error the queue is broken.
func (q *Queue) Pop(c *Chain) (ok bool, err error) { panic("skeleton") }

// Push gives a chain back to the driver; written is the number of bytes that
// the device has written to c.Write. Chains may come back in any order.
func (q *Queue) Push(c *Chain, written uint32) error { panic("skeleton") }

// Interrupt tells, after one or more Push, whether the driver has to be told.
func (q *Queue) Interrupt() (bool, error) { panic("skeleton") }

// Kicks says whether the driver has to kick the device for new requests. When
// that is switched on, more tells that there are some already.
func (q *Queue) Kicks(on bool) (more bool, err error) { panic("skeleton") }

// State is where another queue can go on, when InFlight is 0.
func (q *Queue) State() State { panic("skeleton") }

// InFlight is the number of chains that were popped and not pushed.
func (q *Queue) InFlight() int { panic("skeleton") }

// Stop ends the use of the ring. Chains in flight are forgotten: pushing them
// has no effect any more, but releases their memory.
func (q *Queue) Stop() { panic("skeleton") }

// Chain is one request in a queue: memory that the device may read, then memory
// that it may write. The owner keeps it from Pop to Push, and may use it again.
type Chain struct {
	Read, Write           [][]byte
	ReadBytes, WriteBytes uint64
}
