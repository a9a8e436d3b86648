package virtio

import (
	"encoding/binary"
	"fmt"

	"vitastor/internal/guestmem"
)

// The shared memory of a packed queue has copies of descriptors, because used
// ones overwrite them in the ring. Entries that are not in use are in a list;
// fields called old say how things were before the change that is going on.

// freshPacked sets up memory that was never used.
func (f *Inflight) freshPacked(s State) {
	for i := range f.size {
		f.set(f.entry(i)+entryNext, i+1)
	}
	f.set(atDescNum, f.size)
	for _, at := range []int{atPackedUsed, atOldPackedUsed} {
		f.set(at, s.Used)
	}
	f.b[atUsedWrap], f.b[atOldUsedWrap] = bit(s.UsedWrap), bit(s.UsedWrap)
	f.set(atVersion, inflightVersion)
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// recoverPacked repairs what the dead server was just doing and tells what it
// had in flight, how far it got, and how many descriptors are with the device.
func (f *Inflight) recoverPacked(list []again, s State, ring []byte) ([]again, State, int, error) {
	if !f.used {
		f.freshPacked(s)
		return list, s, 0, nil
	}
	old := f.get(atOldPackedUsed)
	if old >= f.size || f.get(atPackedUsed) >= f.size {
		return nil, s, 0, fmt.Errorf("%w: position %d of %d", ErrStale, old, f.size)
	}
	if f.get(atPackedUsed) != old || f.b[atUsedWrap] != f.b[atOldUsedWrap] {
		word := guestmem.Load32(ring, int(old)*descBytes+12)
		if uint16(word>>16)&(descAvail|descUsed) != availFlags(f.b[atOldUsedWrap] != 0) {
			f.commit() // the driver has got it
		}
	}
	f.set(atFree, f.get(atOldFree))
	f.set(atPackedUsed, f.get(atOldPackedUsed))
	f.b[atUsedWrap] = f.b[atOldUsedWrap]
	free := f.get(atFree)
	for range f.size {
		if free >= f.size {
			break
		}
		f.mark(free, 0)
		free = f.get(f.entry(free) + entryNext)
	}
	list = f.unfinished(list)
	s.Used, s.UsedWrap = f.get(atPackedUsed), f.b[atUsedWrap] != 0
	slots := 0
	for _, a := range list {
		slots += int(f.get(f.entry(a.head) + entryNum))
	}
	if slots > int(f.size) {
		return nil, s, 0, fmt.Errorf("%w: %d descriptors of %d are in flight", ErrStale, slots, f.size)
	}
	s.Avail, s.AvailWrap = step(s.Used, s.UsedWrap, uint16(slots), f.size)
	return list, s, slots, nil
}

// commit makes the present state the old one.
func (f *Inflight) commit() {
	f.set(atOldFree, f.get(atFree))
	f.set(atOldPackedUsed, f.get(atPackedUsed))
	f.b[atOldUsedWrap] = f.b[atUsedWrap]
}

// index reads an index of an entry.
func (f *Inflight) index(at int) (uint16, error) {
	i := f.get(at)
	if i >= f.size {
		return 0, fmt.Errorf("%w: entry %d of %d", ErrStale, i, f.size)
	}
	return i, nil
}

// beginPacked begins with a new chain, in the entry that it returns.
func (f *Inflight) beginPacked() (uint16, error) {
	entry, err := f.index(atOldFree)
	if err != nil {
		return 0, err
	}
	f.set(atFree, entry)
	f.set(f.entry(entry)+entryNum, 0)
	f.stamp(entry)
	f.mark(entry, 1)
	return entry, nil
}

// addPacked appends a descriptor to the chain.
func (f *Inflight) addPacked(entry uint16, d desc, last bool) error {
	free, err := f.index(atFree)
	if err != nil {
		return err
	}
	head, at := f.entry(entry), f.entry(free)
	if last {
		f.set(head+entryLast, free)
	}
	f.set(head+entryNum, f.get(head+entryNum)+1)
	binary.NativeEndian.PutUint64(f.b[at+entryAddr:], d.addr)
	binary.NativeEndian.PutUint32(f.b[at+entryLen:], d.len)
	f.set(at+entryFlags, d.flags)
	f.set(at+entryID, d.next)
	next := f.get(at + entryNext)
	f.set(atFree, next)
	if last {
		f.set(atOldFree, next)
	}
	return nil
}

// eachPacked calls do for the descriptors of a chain.
func (f *Inflight) eachPacked(entry uint16, do func(desc) error) error {
	n := f.get(f.entry(entry) + entryNum)
	if n == 0 || n > f.size {
		return fmt.Errorf("%w: a chain of %d descriptors", ErrStale, n)
	}
	for at := entry; ; {
		b := f.entry(at)
		d := desc{binary.NativeEndian.Uint64(f.b[b+entryAddr:]), binary.NativeEndian.Uint32(f.b[b+entryLen:]),
			f.get(b + entryFlags), f.get(b + entryID)}
		if err := do(d); err != nil {
			return err
		}
		if n--; n == 0 {
			return nil
		}
		next, err := f.index(b + entryNext)
		if err != nil {
			return err
		}
		at = next
	}
}

// pushingPacked is called before the used descriptor is written, with the state
// afterwards; pushedPacked when it was.
func (f *Inflight) pushingPacked(entry uint16, s State) error {
	last, err := f.index(f.entry(entry) + entryLast)
	if err != nil {
		return err
	}
	f.set(f.entry(last)+entryNext, f.get(atFree))
	f.set(atFree, entry)
	f.set(atPackedUsed, s.Used)
	f.b[atUsedWrap] = bit(s.UsedWrap)
	return nil
}

func (f *Inflight) pushedPacked(entry uint16) {
	f.mark(entry, 0)
	f.commit()
}
