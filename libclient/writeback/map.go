// Package writeback remembers written data that the cluster may not have: what
// was not sent yet (write-back cache, spec osd.md §20), and what was
// acknowledged but not synced, so that a crash of OSDs may undo it (§19).
//
//	          Put                    Next + Begin
//	writes ────────▶ Dirty ─────────────────────────▶ Repeating
//	   │                              ┌───────────────▲   │ Acked
//	   │ Put         Next + Begin     │                   ▼
//	   └───────────────────────────── │ ──────────────▶ Written ◀──────┐
//	                                  │  Lose             │ BeginSync  │ EndSync failed
//	                                 Lost ◀───────────────┴──▶ Flushing┘
//	                                                             │ EndSync
//	                                                             ▼ forgotten
//
// A Map is a set of pieces: disjoint ranges of inodes, each with its data and
// one State. A new write replaces whatever was there. Data belongs to
// reference-counted buffers, so that pieces can be cut, replaced and forgotten
// while their data is being sent.
//
// It guarantees: every byte that was Put is returned by Read, until newer data
// replaces it, a Sync covers it, or it is removed; and all memory comes back.
//
// Pure data structure: no I/O, no clock. A Map belongs to one goroutine.
package writeback

import (
	"slices"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// State says where the data of a piece is.
type State uint8

const (
	Dirty     State = iota // only here: it was never sent
	Lost                   // only here, perhaps: acknowledged by an OSD that may have lost it
	Repeating              // being sent; Tag is the id of the Run
	Written                // acknowledged, not durable; Tag is the session that has it
	Flushing               // the same, and a SYNC that covers it is running
	states
)

// pieceBytesMax is how much data shares a buffer.
const pieceBytesMax = 256 << 10

// Memory is where data is kept.
type Memory interface {
	// Get returns memory of n bytes, n <= 256 KiB; it never fails.
	Get(n int) []byte
	// Put takes back what Get returned.
	Put(b []byte)
}

// Piece is a range of an inode in one state. Users must not change it.
type Piece struct {
	Inode  meta.Inode
	Offset uint64 // bytes
	Tag    uint64 // see State
	State  State
	data   []byte
	buffer *buffer
	// prev and next are in the list of the state, the longest waiting first;
	// next also in the list of free ones.
	prev, next *Piece
}

// End is the offset behind the piece.
func (p *Piece) End() uint64 { return p.Offset + uint64(len(p.data)) }

// buffer is memory that pieces and Runs share.
type buffer struct {
	mem        []byte
	refs       int
	prev, next *buffer // in Map.buffers
}

// layer are the pieces of one inode, ascending and disjoint.
type layer struct{ pieces []*Piece }

// list is a queue of pieces of one state.
type list struct {
	head, tail *Piece
	count      int
	bytes      uint64
}

// Map is the set of all pieces.
type Map struct {
	mem     Memory
	layers  map[meta.Inode]*layer
	lists   [states]list
	runs    int      // of adjacent Dirty pieces
	buffers buffer   // ring of all of them
	spare   *Piece   // free pieces
	spares  []*layer // free layers
	lastID  uint64
}

// New makes an empty map.
func New(mem Memory) *Map {
	m := &Map{mem: mem, layers: map[meta.Inode]*layer{}}
	m.buffers.prev, m.buffers.next = &m.buffers, &m.buffers
	return m
}

// Empty tells whether there are no pieces.
func (m *Map) Empty() bool { return len(m.layers) == 0 }

// Bytes is how much data is in a state.
func (m *Map) Bytes(s State) uint64 { return m.lists[s].bytes }

// Count is the number of pieces in a state.
func (m *Map) Count(s State) int { return m.lists[s].count }

// DirtyRuns is the number of extents that Dirty pieces form.
func (m *Map) DirtyRuns() int { return m.runs }

// Overlaps tells whether there is data in a range.
func (m *Map) Overlaps(inode meta.Inode, offset, bytes uint64) bool {
	l := m.layers[inode]
	if l == nil {
		return false
	}
	i := l.find(offset)
	return i < len(l.pieces) && l.pieces[i].Offset < offset+bytes
}

// Read calls f for all data in a range, ascending. data is valid during the call.
func (m *Map) Read(inode meta.Inode, offset, bytes uint64, f func(offset uint64, data []byte)) {
	l := m.layers[inode]
	if l == nil {
		return
	}
	for _, p := range l.pieces[l.find(offset):] {
		if p.Offset >= offset+bytes {
			return
		}
		from, to := max(p.Offset, offset), min(p.End(), offset+bytes)
		f(from, p.data[from-p.Offset:to-p.Offset])
	}
}

// Put replaces a range by a copy of the bytes [skip, skip+bytes) of iov.
func (m *Map) Put(inode meta.Inode, offset, bytes uint64, iov [][]byte, skip uint64, s State, tag uint64) {
	m.Remove(inode, offset, bytes)
	l := m.layers[inode]
	if l == nil {
		l = m.newLayer()
		m.layers[inode] = l
	}
	src := cursor{iov: iov}
	src.skip(skip)
	for at := l.find(offset); bytes > 0; at++ {
		n := min(bytes, pieceBytesMax)
		b := m.newBuffer(int(n))
		src.copyTo(b.mem)
		p := m.newPiece()
		*p = Piece{Inode: inode, Offset: offset, Tag: tag, State: s, data: b.mem, buffer: b}
		l.pieces = slices.Insert(l.pieces, at, p)
		m.enter(l, at)
		offset, bytes = offset+n, bytes-n
	}
}

// Remove forgets a range.
func (m *Map) Remove(inode meta.Inode, offset, bytes uint64) {
	l := m.layers[inode]
	if l == nil {
		return
	}
	from, to := m.carve(l, offset, offset+bytes)
	for i := from; i < to; i++ {
		m.leave(l, i)
		m.unref(l.pieces[i].buffer)
		m.freePiece(l.pieces[i])
		l.pieces[i] = gap
	}
	l.pieces = slices.Delete(l.pieces, from, to)
	m.shrink(inode, l)
}

// gap stands for a piece that is being removed: nothing touches it.
var gap = &Piece{State: states}

// Lose finds out which acknowledged pieces an OSD may have lost: they are sent
// again. It returns whether there are any.
func (m *Map) Lose(lost func(p *Piece) bool) (any bool) {
	for _, s := range [...]State{Written, Flushing} {
		m.each(s, func(p *Piece) {
			if lost(p) {
				m.setState(p, Lost, 0)
				any = true
			}
		})
	}
	return any
}

// BeginSync notes that a SYNC begins, which covers everything Written.
func (m *Map) BeginSync() { m.each(Written, func(p *Piece) { m.setState(p, Flushing, p.Tag) }) }

// EndSync ends the SYNC of one session: what it had is durable, or not.
func (m *Map) EndSync(session uint64, ok bool) {
	m.each(Flushing, func(p *Piece) {
		switch {
		case p.Tag != session:
		case ok:
			m.Remove(p.Inode, p.Offset, uint64(len(p.data)))
		default:
			m.setState(p, Written, p.Tag)
		}
	})
}

// Each calls f for the pieces of a state, the longest waiting first.
func (m *Map) Each(s State, f func(p *Piece)) { m.each(s, f) }

// each calls f, which may remove the piece, for the pieces of a state.
func (m *Map) each(s State, f func(p *Piece)) {
	p := m.lists[s].head
	for range m.lists[s].count {
		next := p.next
		f(p)
		p = next
	}
}

// Free returns all memory, also of Runs that were not released.
func (m *Map) Free() {
	for b := m.buffers.next; b != &m.buffers; b = b.next {
		m.mem.Put(b.mem)
	}
	*m = *New(m.mem)
}

// find is the index of the first piece that ends behind offset.
func (l *layer) find(offset uint64) int {
	lo, hi := 0, len(l.pieces)
	for lo < hi {
		if mid := (lo + hi) / 2; l.pieces[mid].End() > offset {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// carve cuts pieces at the ends of a range and returns the indices of those
// inside.
func (m *Map) carve(l *layer, offset, end uint64) (from, to int) {
	from = l.find(offset)
	if from < len(l.pieces) && l.pieces[from].Offset < offset && offset < end {
		m.cut(l, from, offset)
		from++
	}
	for to = from; to < len(l.pieces) && l.pieces[to].Offset < end; to++ {
		if l.pieces[to].End() > end {
			m.cut(l, to, end)
		}
	}
	return from, to
}

// cut makes two pieces of one; the second one waits right behind the first.
func (m *Map) cut(l *layer, i int, at uint64) {
	p := l.pieces[i]
	q := m.newPiece()
	*q = *p
	q.Offset, q.data = at, p.data[at-p.Offset:]
	p.data = p.data[:at-p.Offset]
	p.buffer.refs++
	q.prev, p.next = p, q
	if q.next == nil {
		m.lists[p.State].tail = q
	} else {
		q.next.prev = q
	}
	m.lists[p.State].count++
	l.pieces = slices.Insert(l.pieces, i+1, q)
}

// setState moves a piece to another state.
func (m *Map) setState(p *Piece, s State, tag uint64) {
	l := m.layers[p.Inode]
	i := l.find(p.Offset)
	m.leave(l, i)
	p.State, p.Tag = s, tag
	m.enter(l, i)
}

// enter counts the piece in its state.
func (m *Map) enter(l *layer, i int) {
	p := l.pieces[i]
	if p.State == Dirty {
		m.runs += 1 - l.dirtyNeighbours(i)
	}
	q := &m.lists[p.State]
	p.prev, p.next = q.tail, nil
	if q.tail == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
	q.count++
	q.bytes += uint64(len(p.data))
}

// leave undoes enter.
func (m *Map) leave(l *layer, i int) {
	p := l.pieces[i]
	if p.State == Dirty {
		m.runs -= 1 - l.dirtyNeighbours(i)
	}
	q := &m.lists[p.State]
	if p.prev == nil {
		q.head = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		q.tail = p.prev
	} else {
		p.next.prev = p.prev
	}
	q.count--
	q.bytes -= uint64(len(p.data))
}

// dirtyNeighbours is how many Dirty pieces touch piece i.
func (l *layer) dirtyNeighbours(i int) int {
	n := 0
	if l.adjacent(i-1) && l.pieces[i-1].State == Dirty {
		n++
	}
	if l.adjacent(i) && l.pieces[i+1].State == Dirty {
		n++
	}
	return n
}

// adjacent tells whether pieces i and i+1 exist and touch each other.
func (l *layer) adjacent(i int) bool {
	return i >= 0 && i+1 < len(l.pieces) && l.pieces[i].End() == l.pieces[i+1].Offset
}

// shrink forgets an inode without data.
func (m *Map) shrink(inode meta.Inode, l *layer) {
	if len(l.pieces) == 0 {
		delete(m.layers, inode)
		m.spares = append(m.spares, l)
	}
}

func (m *Map) newLayer() *layer {
	n := len(m.spares)
	if n == 0 {
		return &layer{}
	}
	l := m.spares[n-1]
	m.spares = m.spares[:n-1]
	return l
}

func (m *Map) newPiece() *Piece {
	p := m.spare
	if p == nil {
		return &Piece{}
	}
	m.spare = p.next
	return p
}

func (m *Map) freePiece(p *Piece) {
	*p = Piece{next: m.spare}
	m.spare = p
}

func (m *Map) newBuffer(n int) *buffer {
	b := &buffer{mem: m.mem.Get(n), refs: 1, prev: m.buffers.prev, next: &m.buffers}
	b.prev.next, b.next.prev = b, b
	return b
}

func (m *Map) unref(b *buffer) {
	b.refs--
	invariant.Must(b.refs >= 0, "writeback: buffer released twice")
	if b.refs == 0 {
		b.prev.next, b.next.prev = b.next, b.prev
		m.mem.Put(b.mem)
		b.mem = nil
	}
}

// cursor walks over the bytes of an iov.
type cursor struct {
	iov [][]byte
	off int // in iov[0]
}

func (c *cursor) skip(n uint64) {
	for n > 0 {
		k := min(n, uint64(len(c.iov[0])-c.off))
		c.off, n = c.off+int(k), n-k
		c.turn()
	}
}

// turn goes on to the next part at the end of one.
func (c *cursor) turn() {
	for len(c.iov) > 0 && c.off == len(c.iov[0]) {
		c.iov, c.off = c.iov[1:], 0
	}
}

func (c *cursor) copyTo(b []byte) {
	for len(b) > 0 {
		c.turn()
		n := copy(b, c.iov[0][c.off:])
		b, c.off = b[n:], c.off+n
	}
}
