package virtio

import (
	"encoding/binary"
	"fmt"
	"slices"

	"vitastor/internal/guestmem"
)

// Inflight is shared memory that remembers what was popped from a queue and not
// pushed yet, so that a server that takes over from one that has died knows
// what to do again. It must outlive the process: a memfd that somebody else
// keeps, or a file in memory. The layout is that of the vhost-user protocol,
// "Inflight I/O tracking", in the host's byte order:
//
//	split    0 features u64, 8 version u16, 10 desc_num u16, 12 last_batch_head u16, 14 used_idx u16
//	         16 + 16 i: inflight u8, next u16 at 6, counter u64 at 8
//	packed   0 features u64, 8 version u16, 10 desc_num u16, 12 free_head u16, 14 old_free_head u16,
//	         16 used_idx u16, 18 old_used_idx u16, 20 used_wrap u8, 21 old_used_wrap u8
//	         32 + 32 i: inflight u8, next u16 at 2, last u16 at 4, num u16 at 6, counter u64 at 8,
//	         id u16 at 16, flags u16 at 18, len u32 at 20, addr u64 at 24
//
// Whoever keeps the memory may write what he wants: every index is checked.
type Inflight struct {
	b       []byte
	size    uint16
	packed  bool
	used    bool // it was when we got it
	counter uint64
}

const (
	inflightVersion = 1

	atVersion, atDescNum            = 8, 10
	atLastBatch, atUsedIdx          = 12, 14
	splitHead, splitEntry           = 16, 16
	atFree, atOldFree               = 12, 14
	atPackedUsed, atOldPackedUsed   = 16, 18
	atUsedWrap, atOldUsedWrap       = 20, 21
	packedHead, packedEntry         = 32, 32
	entryNextSplit                  = 6
	entryNext, entryLast, entryNum  = 2, 4, 6
	entryCounter, entryID           = 8, 16
	entryFlags, entryLen, entryAddr = 18, 20, 24
)

// InflightBytes is the size of the area of one queue.
func InflightBytes(size uint16, packed bool) int {
	if packed {
		return packedHead + int(size)*packedEntry
	}
	return splitHead + int(size)*splitEntry
}

// NewInflight takes the area of one queue: fresh, if it is all zeroes. It must
// not vanish (see Memory.Stable) and be aligned to 8 bytes.
func NewInflight(area []byte, size uint16, packed bool) (*Inflight, error) {
	f := &Inflight{b: area, size: size, packed: packed}
	if len(area) < InflightBytes(size, packed) || !guestmem.Aligned(area, 8) {
		return nil, fmt.Errorf("%w: %d bytes for a queue of %d descriptors", ErrStale, len(area), size)
	}
	switch v, n := f.get(atVersion), f.get(atDescNum); {
	case v == 0:
	case v != inflightVersion:
		return nil, fmt.Errorf("%w: version %d, known is %d", ErrStale, v, inflightVersion)
	case n != size:
		return nil, fmt.Errorf("%w: it is for %d descriptors, the queue has %d", ErrStale, n, size)
	default:
		f.used = true
	}
	return f, nil
}

// get and set access a field of 16 bits; sets happen in the order of the program.
func (f *Inflight) get(at int) uint16    { return guestmem.Load16(f.b, at) }
func (f *Inflight) set(at int, v uint16) { guestmem.Store16(f.b, at, v) }

// entry is where entry i begins.
func (f *Inflight) entry(i uint16) int {
	if f.packed {
		return packedHead + int(i)*packedEntry
	}
	return splitHead + int(i)*splitEntry
}

// mark sets the inflight byte of an entry. The byte behind it is padding.
func (f *Inflight) mark(i uint16, v uint16) { f.set(f.entry(i), v) }

func (f *Inflight) marked(i uint16) bool { return f.get(f.entry(i))&0xff != 0 }

// stamp gives an entry the next number.
func (f *Inflight) stamp(i uint16) {
	binary.NativeEndian.PutUint64(f.b[f.entry(i)+entryCounter:], f.counter)
	f.counter++
}

// unfinished collects what is marked, in order of the counters.
func (f *Inflight) unfinished(list []again) []again {
	for i := range f.size {
		if !f.marked(i) {
			continue
		}
		counter := binary.NativeEndian.Uint64(f.b[f.entry(i)+entryCounter:])
		list = append(list, again{i, counter})
		f.counter = max(f.counter, counter+1)
	}
	slices.SortFunc(list, func(a, b again) int {
		if a.counter < b.counter {
			return -1
		}
		return 1
	})
	return list
}

// recoverSplit repairs what the dead server was just doing, and tells what it
// had in flight. usedIdx is the index of the used ring.
func (f *Inflight) recoverSplit(list []again, usedIdx uint16) ([]again, error) {
	if !f.used {
		f.set(atDescNum, f.size)
		f.set(atUsedIdx, usedIdx)
		f.set(atVersion, inflightVersion)
		return list, nil
	}
	batch := usedIdx - f.get(atUsedIdx)
	if batch > f.size {
		return nil, fmt.Errorf("%w: the used ring is %d entries ahead", ErrStale, batch)
	}
	head := f.get(atLastBatch)
	for range batch {
		if head >= f.size {
			return nil, fmt.Errorf("%w: entry %d of %d", ErrStale, head, f.size)
		}
		f.mark(head, 0)
		head = f.get(f.entry(head) + entryNextSplit)
	}
	f.set(atUsedIdx, usedIdx)
	return f.unfinished(list), nil
}

func (f *Inflight) popSplit(head uint16) {
	f.stamp(head)
	f.mark(head, 1)
}

// pushingSplit is called before the index of the used ring changes, pushedSplit
// afterwards.
func (f *Inflight) pushingSplit(head uint16) {
	f.set(f.entry(head)+entryNextSplit, f.get(atLastBatch))
	f.set(atLastBatch, head)
}

func (f *Inflight) pushedSplit(head, usedIdx uint16) {
	f.mark(head, 0)
	f.set(atUsedIdx, usedIdx)
}
