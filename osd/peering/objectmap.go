package peering

import (
	"slices"
	"sort"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
)

// blockEntries makes a block nearly 4 KiB.
const blockEntries = 170

type entry struct {
	id    meta.ObjectID
	value uint64
}

type block [blockEntries]entry

// Arena is the memory of the Objects of all PGs of an OSD. It is off-heap and
// grows to the largest size that was needed at one time.
type Arena struct {
	blocks pinned.Table[block]
	free   []uint32
}

// take returns a block. Without memory the OSD cannot go on, as with Go's heap.
func (a *Arena) take() uint32 {
	if n := len(a.free); n > 0 {
		b := a.free[n-1]
		a.free = a.free[:n-1]
		return b
	}
	i, err := a.blocks.Append()
	if err != nil {
		invariant.Fail("peering: no memory for states of objects: %v", err)
	}
	return uint32(i)
}

func (a *Arena) put(b uint32) { a.free = append(a.free, b) }

// UsedBytes is the memory in use now.
func (a *Arena) UsedBytes() int64 {
	return int64(a.blocks.Len()-len(a.free)) * blockEntries * 24
}

// Free returns everything to the system. No Objects of it may be used any more.
func (a *Arena) Free() {
	a.blocks.Free()
	a.free = nil
}

// blockRef is a block in use: its first key, for searching, and its length.
type blockRef struct {
	first meta.ObjectID // not after any entry; after all of the block before
	block uint32
	len   uint32
}

// objectMap is a sorted map from objects to numbers: an index of sorted blocks.
// Loaded in order, the blocks are full: 24 bytes per object.
type objectMap struct {
	arena *Arena
	refs  []blockRef // ascending
	n     int
}

func (m *objectMap) entries(ref *blockRef) []entry {
	return m.arena.blocks.At(int(ref.block))[:ref.len]
}

// findBlock returns the only block that may have id: the last one that does not
// begin after it, or the first.
func (m *objectMap) findBlock(id meta.ObjectID) int {
	lo, hi := 0, len(m.refs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if id.Less(m.refs[mid].first) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return max(lo-1, 0)
}

// search returns the place of id in a block, or where it belongs.
func search(entries []entry, id meta.ObjectID) (int, bool) {
	lo, hi := 0, len(entries)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if entries[mid].id.Less(id) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(entries) && entries[lo].id == id
}

func (m *objectMap) get(id meta.ObjectID) (uint64, bool) {
	if m.n == 0 {
		return 0, false
	}
	entries := m.entries(&m.refs[m.findBlock(id)])
	i, ok := search(entries, id)
	if !ok {
		return 0, false
	}
	return entries[i].value, true
}

// set adds or replaces a value.
func (m *objectMap) set(id meta.ObjectID, value uint64) {
	if m.n == 0 {
		m.refs = append(m.refs[:0], blockRef{id, m.arena.take(), 0})
	}
	b := m.findBlock(id)
	i, ok := search(m.entries(&m.refs[b]), id)
	if ok {
		m.entries(&m.refs[b])[i].value = value
		return
	}
	if m.refs[b].len == blockEntries {
		b, i = m.split(b, i)
	}
	ref := &m.refs[b]
	ref.len++
	entries := m.entries(ref)
	copy(entries[i+1:], entries[i:])
	entries[i] = entry{id, value}
	ref.first = entries[0].id
	m.n++
}

// split makes room for an entry at place i of the full block b and returns the
// entry's new place. At the end of the map nothing is moved.
func (m *objectMap) split(b, i int) (int, int) {
	keep := blockEntries / 2
	if b == len(m.refs)-1 && i == blockEntries {
		keep = blockEntries
	}
	right := blockRef{block: m.arena.take(), len: uint32(blockEntries - keep)}
	old := m.entries(&m.refs[b])
	copy(m.entries(&right), old[keep:])
	if right.len > 0 {
		right.first = old[keep].id
	} else {
		right.first = old[len(old)-1].id // replaced by set
	}
	m.refs[b].len = uint32(keep)
	m.refs = slices.Insert(m.refs, b+1, right)
	if i < keep || i == keep && right.len > 0 {
		return b, i
	}
	return b + 1, i - keep
}

func (m *objectMap) delete(id meta.ObjectID) bool {
	if m.n == 0 {
		return false
	}
	b := m.findBlock(id)
	ref := &m.refs[b]
	entries := m.entries(ref)
	i, ok := search(entries, id)
	if !ok {
		return false
	}
	copy(entries[i:], entries[i+1:])
	ref.len--
	m.n--
	if ref.len == 0 {
		m.dropBlock(b)
		return true
	}
	if ref.len < blockEntries/4 && b+1 < len(m.refs) && ref.len+m.refs[b+1].len <= blockEntries/2 {
		m.joinNext(b)
	}
	return true
}

// joinNext moves the entries of the next block into block b.
func (m *objectMap) joinNext(b int) {
	ref, next := &m.refs[b], &m.refs[b+1]
	at := ref.len
	ref.len += next.len
	copy(m.entries(ref)[at:], m.entries(next))
	m.dropBlock(b + 1)
}

func (m *objectMap) dropBlock(b int) {
	m.arena.put(m.refs[b].block)
	m.refs = slices.Delete(m.refs, b, b+1)
}

// from calls f for every entry >= id in order until it returns false.
func (m *objectMap) from(id meta.ObjectID, f func(meta.ObjectID, uint64) bool) {
	if m.n == 0 {
		return
	}
	b := m.findBlock(id)
	entries := m.entries(&m.refs[b])
	i := sort.Search(len(entries), func(i int) bool { return !entries[i].id.Less(id) })
	for {
		for ; i < len(entries); i++ {
			if !f(entries[i].id, entries[i].value) {
				return
			}
		}
		if b++; b == len(m.refs) {
			return
		}
		entries, i = m.entries(&m.refs[b]), 0
	}
}

func (m *objectMap) clear() {
	for i := range m.refs {
		m.arena.put(m.refs[i].block)
	}
	m.refs, m.n = nil, 0
}
