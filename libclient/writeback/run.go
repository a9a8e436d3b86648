package writeback

import (
	"fmt"

	"vitastor/internal/meta"
)

// Run is contiguous data of one inode on its way to the OSDs.
type Run struct {
	ID     uint64 // Tag of its pieces
	Inode  meta.Inode
	Offset uint64
	Bytes  uint64
	Iov    [][]byte // stays unchanged until Release

	buffers []*buffer
}

// Next finds the run of Dirty or Lost pieces that waits longest, of at most
// maxBytes (or one piece), and which busy does not object to because something
// else is on its way to the same place. It fills in the range of r.
func (m *Map) Next(s State, maxBytes uint64, busy func(inode meta.Inode, offset, bytes uint64) bool, r *Run) bool {
	for p := m.lists[s].head; p != nil; p = p.next {
		m.extend(p, maxBytes, r)
		if !busy(r.Inode, r.Offset, r.Bytes) {
			return true
		}
		// Perhaps only a neighbour is in the way.
		r.Offset, r.Bytes = p.Offset, uint64(len(p.data))
		if !busy(r.Inode, r.Offset, r.Bytes) {
			return true
		}
	}
	return false
}

// extend makes the longest run around p: first what is before it.
func (m *Map) extend(p *Piece, maxBytes uint64, r *Run) {
	l := m.layers[p.Inode]
	i := l.find(p.Offset)
	from, to, bytes := i, i, uint64(len(p.data))
	fits := func(i int) bool {
		q := l.pieces[i]
		return q.State == p.State && bytes+uint64(len(q.data)) <= maxBytes
	}
	for l.adjacent(from-1) && fits(from-1) {
		from--
		bytes += uint64(len(l.pieces[from].data))
	}
	for l.adjacent(to) && fits(to+1) {
		to++
		bytes += uint64(len(l.pieces[to].data))
	}
	r.Inode, r.Offset, r.Bytes = p.Inode, l.pieces[from].Offset, bytes
}

// Begin takes the data of the range that Next found: its pieces are Repeating.
func (m *Map) Begin(r *Run) {
	m.lastID++
	r.ID = m.lastID
	r.Iov, r.buffers = r.Iov[:0], r.buffers[:0]
	l := m.layers[r.Inode]
	for i := l.find(r.Offset); i < len(l.pieces) && l.pieces[i].Offset < r.Offset+r.Bytes; i++ {
		p := l.pieces[i]
		p.buffer.refs++
		r.buffers = append(r.buffers, p.buffer)
		r.Iov = append(r.Iov, p.data)
		m.setState(p, Repeating, r.ID)
	}
}

// Acked notes that a session has a part of a run. Data that was replaced
// meanwhile is not affected. What is durable is forgotten.
func (m *Map) Acked(r *Run, offset, bytes, session uint64, durable bool) {
	l := m.layers[r.Inode]
	if l == nil {
		return
	}
	from, to := m.carve(l, offset, offset+bytes)
	for i := from; i < to; i++ {
		p := l.pieces[i]
		switch {
		case p.State != Repeating || p.Tag != r.ID:
		case durable:
			m.Remove(p.Inode, p.Offset, uint64(len(p.data)))
			i, to = i-1, to-1
		default:
			m.setState(p, Written, session)
		}
	}
}

// Release gives up the data of a run.
func (m *Map) Release(r *Run) {
	for i, b := range r.buffers {
		m.unref(b)
		r.buffers[i] = nil
	}
	clear(r.Iov)
	r.buffers, r.Iov = r.buffers[:0], r.Iov[:0]
}

// Check verifies everything that must hold between pieces, lists and buffers.
func (m *Map) Check() error {
	var lists [states]list
	refs := map[*buffer]int{}
	runs := 0
	for inode, l := range m.layers {
		if len(l.pieces) == 0 {
			return fmt.Errorf("inode %v has no pieces", inode)
		}
		for i, p := range l.pieces {
			if p.Inode != inode || len(p.data) == 0 || i > 0 && l.pieces[i-1].End() > p.Offset {
				return fmt.Errorf("piece %d of inode %v at %d is wrong", i, inode, p.Offset)
			}
			lists[p.State].count++
			lists[p.State].bytes += uint64(len(p.data))
			refs[p.buffer]++
			if p.State == Dirty && !(l.adjacent(i-1) && l.pieces[i-1].State == Dirty) {
				runs++
			}
		}
	}
	for s := range lists {
		n, prev := 0, (*Piece)(nil)
		for p := m.lists[s].head; p != nil; prev, p = p, p.next {
			if n++; p.State != State(s) || p.prev != prev {
				return fmt.Errorf("list of state %d is wrong", s)
			}
		}
		if q := m.lists[s]; n != q.count || q.tail != prev || q.count != lists[s].count || q.bytes != lists[s].bytes {
			return fmt.Errorf("state %d has %d pieces, %d bytes, counted %d and %d", s, q.count, q.bytes, lists[s].count, lists[s].bytes)
		}
	}
	if runs != m.runs {
		return fmt.Errorf("%d dirty runs, counted %d", m.runs, runs)
	}
	for b := m.buffers.next; b != &m.buffers; b = b.next {
		if b.refs < refs[b] || b.refs == 0 {
			return fmt.Errorf("a buffer with %d users has %d references", refs[b], b.refs)
		}
	}
	return nil
}
