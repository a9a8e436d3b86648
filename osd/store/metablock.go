package store

import (
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// metaBlocks says where entries are on disk. A block is in one of three states:
//
//	idle     in the list of its class; its image on disk has all its entries
//	open     gets new entries; a metaWrite collects who waits for them
//	writing  its image is on the way to the disk: closed for new entries
//
// An image is made from the records when its write is submitted, so entries
// that became garbage before are gone from it. Removing an entry from memory
// leaves its bytes on disk until then: the block is stale. Stale blocks are
// kept in a list ordered by the clock of their oldest stale entry, because a
// DELETE may only be forgotten after everything older has left the disk.
type metaBlocks struct {
	bytes    int // M
	entryMax int // E: a block with less room is nearfull
	classMin int // size of a BIG_WRITE: the step of the classes
	table    []metaBlock
	class    [metaClasses]uint32 // lists of idle blocks by room, +1
	roomy    int                 // blocks, whatever their state, that are not nearfull
	used     uint64              // bytes of all entries

	clock                 uint64     // counts effective overwrites
	staleOld, staleNew    uint32     // list of stale blocks by staleSince, +1
	open                  *metaWrite // where new entries go; nil = a new block has to be opened
	dirtyFirst, dirtyLast *metaWrite // open blocks in order of opening
	flying                []*metaWrite
	idleWrites            *metaWrite
	writes                []*metaWrite // all, for freeing their memory
}

// metaClasses are classes of room: class k has room for k BIG_WRITEs.
const metaClasses = 64

type metaBlock struct {
	first      uint32 // newest entry in it, 0 = none
	next, prev uint32 // in a class list, +1
	staleNext  uint32 // towards younger stale blocks, +1
	stalePrev  uint32
	staleSince uint64 // clock of the oldest stale entry on disk not on its way out; 0 = not stale
	used       uint16
	state      blockState
}

type blockState uint8

const (
	blockIdle blockState = iota
	blockOpen
	blockWriting
)

// metaWrite is one write of a metadata block, from opening it to completion.
type metaWrite struct {
	s          *Store
	n          uint32
	entries    int  // new ones
	lazy       bool // all of them are compaction results: nobody waits for it
	ops        opQueue
	followers  opQueue // wait for the completion to use the same block again
	buf        []byte  // M bytes, kept
	op         env.DiskOp
	staleSince uint64 // clock of the oldest stale entry which this write removes, 0 = none
	next       *metaWrite
}

// metaUse is who asks for room, and so how much has to be left (spec §8.4).
type metaUse uint8

const (
	useNormal  metaUse = iota // leaves the reserve
	useControl                // DELETE, COMMIT, ROLLBACK and what stands for them: leaves room for compaction
	useCompact                // may use everything
)

func (m *metaBlocks) init(bytes, entryMax, classMin int, table []metaBlock) {
	*m = metaBlocks{bytes: bytes, entryMax: entryMax, classMin: classMin, table: table, roomy: len(table), clock: 1}
}

func (m *metaBlocks) room(n uint32) int { return m.bytes - int(m.table[n].used) }

func (m *metaBlocks) classFor(n uint32) int { return min(m.room(n)/m.classMin, metaClasses-1) }

func (m *metaBlocks) list(n uint32) {
	b, head := &m.table[n], &m.class[m.classFor(n)]
	b.state, b.next, b.prev = blockIdle, *head, 0
	if *head != 0 {
		m.table[*head-1].prev = n + 1
	}
	*head = n + 1
}

func (m *metaBlocks) unlist(n uint32) {
	b := &m.table[n]
	if b.next != 0 {
		m.table[b.next-1].prev = b.prev
	}
	if b.prev != 0 {
		m.table[b.prev-1].next = b.next
	} else {
		m.class[m.classFor(n)] = b.next
	}
	b.next, b.prev = 0, 0
}

// resize changes the used space of a block.
func (m *metaBlocks) resize(n uint32, by int) {
	b := &m.table[n]
	if b.state == blockIdle {
		m.unlist(n)
	}
	was := m.room(n) >= m.entryMax
	used := int(b.used) + by
	invariant.Must(used >= 0 && used <= m.bytes, "store: a metadata block is used more than it can be")
	b.used = uint16(used)
	m.used = uint64(int64(m.used) + int64(by))
	if is := m.room(n) >= m.entryMax; is != was {
		if is {
			m.roomy++
		} else {
			m.roomy--
		}
	}
	if b.state == blockIdle {
		m.list(n)
	}
}

// allows tells whether an entry may go into block n without using up what has
// to be left.
func (s *Store) allows(n uint32, size int, use metaUse) bool {
	m := &s.meta
	room := m.room(n)
	if room < size {
		return false
	}
	left := m.roomy
	if room >= m.entryMax && room-size < m.entryMax {
		left--
	}
	switch use {
	case useNormal:
		return left >= s.metaReserve
	case useControl:
		return left >= 1
	}
	return true
}

// chooseBlock finds the open block for a new entry, opening one if necessary;
// nil = there is no room now.
func (s *Store) chooseBlock(size int, use metaUse) *metaWrite {
	m := &s.meta
	if m.open != nil && s.allows(m.open.n, size, use) {
		return m.open
	}
	n, ok := uint32(0), false
	if use != useNormal && m.roomy <= s.metaReserve {
		n, ok = s.fullestBlock(size, use) // spare the reserve
	} else {
		n, ok = s.emptiestBlock(size, use)
	}
	if !ok {
		return nil
	}
	m.open = s.openBlock(n)
	return m.open
}

// emptiestBlock finds one of the idle blocks with the most room.
func (s *Store) emptiestBlock(size int, use metaUse) (n uint32, ok bool) {
	for k := metaClasses - 1; k >= 0; k-- {
		if n := s.meta.class[k]; n != 0 {
			return n - 1, s.allows(n-1, size, use)
		}
	}
	return 0, false
}

// fullestBlock finds one of the idle blocks with the least room that is enough.
func (s *Store) fullestBlock(size int, use metaUse) (n uint32, ok bool) {
	for k := range s.meta.class {
		if n := s.meta.class[k]; n != 0 && s.allows(n-1, size, use) {
			return n - 1, true
		}
	}
	return 0, false
}

// openBlock makes an idle block open.
func (s *Store) openBlock(n uint32) *metaWrite {
	m := &s.meta
	invariant.Must(m.table[n].state == blockIdle, "store: a busy metadata block was opened")
	m.unlist(n)
	m.table[n].state = blockOpen
	w := m.idleWrites
	if w == nil {
		w = s.newMetaWrite()
	} else {
		m.idleWrites = w.next
	}
	w.n, w.entries, w.lazy, w.next, w.staleSince = n, 0, false, nil, 0
	if m.dirtyLast == nil {
		m.dirtyFirst = w
	} else {
		m.dirtyLast.next = w
	}
	m.dirtyLast = w
	s.env.Exec.Defer(&s.metaTask)
	return w
}

func (s *Store) newMetaWrite() *metaWrite {
	w := &metaWrite{s: s}
	buf, err := pinned.AlignedBuffer(s.meta.bytes)
	if err != nil {
		invariant.Fail("store: memory for a metadata write: %v", err)
	}
	w.buf, w.op.Done = buf, w.done
	s.meta.writes = append(s.meta.writes, w)
	return w
}

// writeOf is the open or running write of block n, or nil.
func (s *Store) writeOf(n uint32) *metaWrite {
	switch s.meta.table[n].state {
	case blockOpen:
		for w := s.meta.dirtyFirst; w != nil; w = w.next {
			if w.n == n {
				return w
			}
		}
	case blockWriting:
		for _, w := range s.meta.flying {
			if w.n == n {
				return w
			}
		}
	}
	return nil
}

// addEntry links record r into the block of w.
func (s *Store) addEntry(w *metaWrite, r ref) {
	m := &s.meta
	b := &m.table[w.n]
	s.recs.setU32(r, 4, b.first)
	s.recs.setU32(r, 8, 0)
	if b.first != 0 {
		s.recs.setU32(ref(b.first), 8, uint32(r))
	}
	b.first = uint32(r)
	s.recs.setU32(r, 12, w.n|s.recs.u32(r, 12)&^blockMask)
	m.resize(w.n, len(s.recs.entry(r)))
	w.entries++
}

// dropEntry unlinks record r from its block: the next image will not have it.
// Until then the block is stale.
func (s *Store) dropEntry(r ref) {
	m := &s.meta
	n := s.recs.block(r)
	b := &m.table[n]
	next, prev := s.recs.u32(r, 4), s.recs.u32(r, 8)
	if next != 0 {
		s.recs.setU32(ref(next), 8, prev)
	}
	if prev != 0 {
		s.recs.setU32(ref(prev), 4, next)
	} else {
		b.first = next
	}
	m.resize(n, -len(s.recs.entry(r)))
	m.makeStale(n)
}

// makeStale puts a block at the young end of the stale list.
func (m *metaBlocks) makeStale(n uint32) {
	b := &m.table[n]
	if b.staleSince != 0 {
		return
	}
	b.staleSince, b.stalePrev, b.staleNext = m.clock, m.staleNew, 0
	if m.staleNew != 0 {
		m.table[m.staleNew-1].staleNext = n + 1
	} else {
		m.staleOld = n + 1
	}
	m.staleNew = n + 1
}

// makeFresh takes a block out of the stale list: its image is being replaced.
func (m *metaBlocks) makeFresh(n uint32) (since uint64) {
	b := &m.table[n]
	since = b.staleSince
	if since == 0 {
		return 0
	}
	if b.stalePrev != 0 {
		m.table[b.stalePrev-1].staleNext = b.staleNext
	} else {
		m.staleOld = b.staleNext
	}
	if b.staleNext != 0 {
		m.table[b.staleNext-1].stalePrev = b.stalePrev
	} else {
		m.staleNew = b.stalePrev
	}
	b.staleSince, b.staleNext, b.stalePrev = 0, 0, 0
	return since
}

// staleClock is the clock of the oldest stale entry that may be on disk.
func (m *metaBlocks) staleClock() uint64 {
	oldest := ^uint64(0)
	if m.staleOld != 0 {
		oldest = m.table[m.staleOld-1].staleSince
	}
	for _, w := range m.flying {
		if w.staleSince != 0 {
			oldest = min(oldest, w.staleSince)
		}
	}
	return oldest
}

// flushMeta submits the writes of open blocks. While many writes are under
// way and a block is being written, the newest open block waits for more
// entries: that is what keeps write amplification near 1. Results of
// compactions wait for each other, or go with the next write.
func (s *Store) flushMeta() {
	m := &s.meta
	var held *metaWrite
	for w := m.dirtyFirst; w != nil; w = m.dirtyFirst {
		if w.next == nil && s.failed == nil && s.holds(w) {
			held = w
			break
		}
		m.dirtyFirst = w.next
		w.next = nil
		if w == m.open {
			m.open = nil
		}
		s.submitMeta(w)
	}
	if held == nil {
		m.dirtyLast = nil
	}
}

// metaBatch is the number of new entries with which a block is not held back.
const metaBatch = 24

// holds tells whether the newest open block waits for more entries: as long as
// something under way ends the waiting.
func (s *Store) holds(w *metaWrite) bool {
	if w != s.meta.open || w.entries >= metaBatch {
		return false
	}
	if w.lazy && s.compact.copying > 0 && s.spaceq.empty() {
		return true
	}
	return len(s.meta.flying) > 0 && s.busy()
}

// submitMeta takes the image of an open block and writes it.
func (s *Store) submitMeta(w *metaWrite) {
	m := &s.meta
	if s.failed != nil {
		s.finishMeta(w)
		return
	}
	at, buf := 0, w.buf
	for r := ref(m.table[w.n].first); r != 0; r = ref(s.recs.u32(r, 4)) {
		at += copy(buf[at:], s.recs.entry(r))
	}
	invariant.Must(at == int(m.table[w.n].used), "store: entries of a metadata block do not add up")
	layout.FinishBlock(buf, at)
	m.table[w.n].state = blockWriting
	w.staleSince = m.makeFresh(w.n)
	w.op.Kind, w.op.Buf, w.op.Offset = env.DiskWrite, buf, s.metaOffset(w.n)
	m.flying = append(m.flying, w)
	s.counters.MetaWrites++
	s.counters.MetaWriteBytes += uint64(len(buf))
	s.ioStart()
	s.metaDev.disk.Submit(&w.op)
}

// metaOffset is the place of block n on the metadata device.
func (s *Store) metaOffset(n uint32) int64 {
	return s.cfg.Areas.MetaOffset + (int64(n)+1)*int64(s.meta.bytes)
}

func (w *metaWrite) done(op *env.DiskOp) {
	s := w.s
	for i, f := range s.meta.flying {
		if f == w {
			last := len(s.meta.flying) - 1
			s.meta.flying[i] = s.meta.flying[last]
			s.meta.flying = s.meta.flying[:last]
		}
	}
	s.metaDev.wrote()
	if op.Err != nil {
		s.fatal("write", s.metaDev, op.Offset, s.meta.bytes, op.Err)
	}
	if s.meta.dirtyFirst != nil {
		s.env.Exec.Defer(&s.metaTask)
	}
	s.finishMeta(w)
	s.forgetDeletes()
	s.wake()
	s.ioEnd()
}

// finishMeta tells everybody who waited for w and makes its block idle.
func (s *Store) finishMeta(w *metaWrite) {
	m := &s.meta
	m.list(w.n)
	for op := w.ops.pop(); op != nil; op = w.ops.pop() {
		s.metaDone(op)
	}
	for op := w.followers.pop(); op != nil; op = w.followers.pop() {
		s.ready(op)
	}
	w.next = m.idleWrites
	m.idleWrites = w
}
