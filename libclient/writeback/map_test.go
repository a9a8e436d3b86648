package writeback

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"vitastor/internal/meta"
)

// countingMemory knows what is in use.
type countingMemory struct {
	t    testing.TB
	used map[*byte]int
}

func newMemory(t testing.TB) *countingMemory {
	return &countingMemory{t: t, used: map[*byte]int{}}
}

func (m *countingMemory) Get(n int) []byte {
	if n == 0 || n > pieceBytesMax {
		m.t.Fatalf("Get(%d)", n)
	}
	b := make([]byte, n)
	m.used[&b[0]] = n
	return b
}

func (m *countingMemory) Put(b []byte) {
	if m.used[&b[0]] != len(b) {
		m.t.Fatal("memory returned that was not handed out")
	}
	delete(m.used, &b[0])
	for i := range b {
		b[i] = 0xdd // whoever still uses it will be noticed
	}
}

const unit = 4096

// model has the content, state and tag of every unit.
type model map[meta.Inode]map[uint64]cell

type cell struct {
	value uint64
	state State
	tag   uint64
}

func (m model) set(inode meta.Inode, offset, bytes uint64, f func(at uint64) (cell, bool)) {
	if m[inode] == nil {
		m[inode] = map[uint64]cell{}
	}
	for at := offset / unit; at < (offset+bytes)/unit; at++ {
		if c, ok := f(at); ok {
			m[inode][at] = c
		} else {
			delete(m[inode], at)
		}
	}
}

// each changes the cells of all inodes.
func (m model) each(f func(at uint64, c cell) (cell, bool)) {
	for inode := range m {
		for at, c := range m[inode] {
			if c, ok := f(at, c); ok {
				m[inode][at] = c
			} else {
				delete(m[inode], at)
			}
		}
	}
}

func data(value, bytes uint64) []byte {
	b := make([]byte, bytes)
	for i := uint64(0); i < bytes; i += unit {
		binary.LittleEndian.PutUint64(b[i:], value)
	}
	return b
}

func compare(t *testing.T, m *Map, want model) {
	t.Helper()
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	var bytes [states]uint64
	for inode, cells := range want {
		seen := 0
		for _, p := range piecesOf(m, inode) {
			for at := p.Offset; at < p.End(); at += unit {
				c := cells[at/unit]
				seen++
				if v := binary.LittleEndian.Uint64(p.data[at-p.Offset:]); c.value != v || c.state != p.State || c.tag != p.Tag {
					t.Fatalf("inode %v at %d: %d in state %d of %d, want %+v", inode, at, v, p.State, p.Tag, c)
				}
			}
		}
		if seen != len(cells) {
			t.Fatalf("inode %v has %d units, want %d", inode, seen, len(cells))
		}
		for _, c := range cells {
			bytes[c.state] += unit
		}
	}
	for s := range bytes {
		if m.Bytes(State(s)) != bytes[s] {
			t.Fatalf("state %d: %d bytes, want %d", s, m.Bytes(State(s)), bytes[s])
		}
	}
}

func piecesOf(m *Map, inode meta.Inode) []*Piece {
	if l := m.layers[inode]; l != nil {
		return l.pieces
	}
	return nil
}

// TestRandom drives the map and a trivial model with the same operations.
func TestRandom(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { random(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

type driver struct {
	t     *testing.T
	r     *rand.Rand
	mem   *countingMemory
	m     *Map
	want  model
	value uint64
	runs  []*Run
}

func random(t *testing.T, r *rand.Rand) {
	d := &driver{t: t, r: r, mem: newMemory(t), want: model{}}
	d.m = New(d.mem)
	for range 2000 {
		d.step()
	}
	for _, run := range d.runs {
		d.m.Release(run)
	}
	for inode := range d.want {
		d.m.Remove(inode, 0, 1<<40)
	}
	if !d.m.Empty() || d.m.DirtyRuns() != 0 || len(d.mem.used) != 0 {
		t.Errorf("%d buffers are left", len(d.mem.used))
	}
}

func (d *driver) place() (inode meta.Inode, offset, bytes uint64) {
	n := uint64(1 + d.r.IntN(8))
	if d.r.IntN(20) == 0 {
		n = 150 // more than one buffer
	}
	return meta.MakeInode(1, uint64(1+d.r.IntN(3))), uint64(d.r.IntN(40)) * unit, n * unit
}

func (d *driver) step() {
	inode, offset, bytes := d.place()
	switch d.r.IntN(12) {
	case 0, 1, 2, 3:
		d.put(inode, offset, bytes)
	case 4:
		d.m.Remove(inode, offset, bytes)
		d.want.set(inode, offset, bytes, func(uint64) (cell, bool) { return cell{}, false })
	case 5, 6:
		d.begin()
	case 7, 8:
		d.ack()
	case 9:
		tag := uint64(1000 + d.r.IntN(3))
		any := false
		d.want.each(func(_ uint64, c cell) (cell, bool) {
			if (c.state == Written || c.state == Flushing) && c.tag == tag {
				c.state, c.tag, any = Lost, 0, true
			}
			return c, true
		})
		if got := d.m.Lose(func(p *Piece) bool { return p.Tag == tag }); got != any {
			d.t.Fatal("Lose does not tell the truth")
		}
	case 10:
		d.m.BeginSync()
		d.want.each(func(_ uint64, c cell) (cell, bool) {
			if c.state == Written {
				c.state = Flushing
			}
			return c, true
		})
	case 11:
		d.endSync()
	}
	compare(d.t, d.m, d.want)
	d.read(inode, offset, bytes)
	for _, r := range d.runs { // what is on its way does not change
		want := uint64(0)
		for _, b := range r.Iov {
			want += uint64(len(b))
			if b[0] == 0xdd && b[1] == 0xdd {
				d.t.Fatal("memory of a run was freed")
			}
		}
		if want != r.Bytes {
			d.t.Fatal("a run has changed")
		}
	}
}

func (d *driver) put(inode meta.Inode, offset, bytes uint64) {
	d.value++
	s, tag := Dirty, uint64(0)
	if d.r.IntN(2) == 0 {
		s, tag = Written, uint64(1000+d.r.IntN(3))
	}
	all := data(d.value, bytes+unit)
	cut := d.r.IntN(len(all))
	d.m.Put(inode, offset, bytes, [][]byte{all[:cut], all[cut:]}, unit, s, tag)
	d.want.set(inode, offset, bytes, func(uint64) (cell, bool) { return cell{d.value, s, tag}, true })
}

func (d *driver) begin() {
	s := State(d.r.IntN(2))
	r := &Run{}
	if !d.m.Next(s, 1<<20, func(meta.Inode, uint64, uint64) bool { return d.r.IntN(4) == 0 }, r) {
		return
	}
	d.want.set(r.Inode, r.Offset, r.Bytes, func(at uint64) (cell, bool) {
		c := d.want[r.Inode][at]
		if c.state != s {
			d.t.Fatalf("a run of state %d contains %+v", s, c)
		}
		c.state, c.tag = Repeating, d.m.lastID+1
		return c, true
	})
	d.m.Begin(r)
	d.runs = append(d.runs, r)
}

func (d *driver) ack() {
	if len(d.runs) == 0 {
		return
	}
	i := d.r.IntN(len(d.runs))
	r := d.runs[i]
	from := uint64(d.r.IntN(int(r.Bytes / unit)))
	n := 1 + uint64(d.r.IntN(int(r.Bytes/unit-from)))
	durable := d.r.IntN(2) == 0
	d.m.Acked(r, r.Offset+from*unit, n*unit, 1001, durable)
	d.want.set(r.Inode, r.Offset+from*unit, n*unit, func(at uint64) (cell, bool) {
		c, ok := d.want[r.Inode][at]
		if c.state != Repeating || c.tag != r.ID {
			return c, ok
		}
		c.state, c.tag = Written, 1001
		return c, !durable
	})
	if d.r.IntN(2) == 0 {
		d.m.Release(r)
		d.runs = append(d.runs[:i], d.runs[i+1:]...)
	}
}

func (d *driver) endSync() {
	tag, ok := uint64(1000+d.r.IntN(3)), d.r.IntN(2) == 0
	d.m.EndSync(tag, ok)
	d.want.each(func(_ uint64, c cell) (cell, bool) {
		if c.state == Flushing && c.tag == tag {
			c.state = Written
			return c, !ok
		}
		return c, true
	})
}

func (d *driver) read(inode meta.Inode, offset, bytes uint64) {
	next, any := offset, false
	d.m.Read(inode, offset, bytes, func(at uint64, b []byte) {
		any = true
		if at < next || at+uint64(len(b)) > offset+bytes {
			d.t.Fatal("Read leaves its range")
		}
		next = at + uint64(len(b))
		if c := d.want[inode][at/unit]; binary.LittleEndian.Uint64(b) != c.value {
			d.t.Fatal("Read returns other data")
		}
	})
	if d.m.Overlaps(inode, offset, bytes) != any {
		d.t.Fatal("Overlaps and Read differ")
	}
}

func TestRunsAreMergedOldestFirst(t *testing.T) {
	m := New(newMemory(t))
	put := func(at uint64) { m.Put(1, at*unit, unit, [][]byte{data(at, unit)}, 0, Dirty, 0) }
	for _, at := range []uint64{7, 3, 5, 4, 2, 20} {
		put(at)
	}
	if m.DirtyRuns() != 3 {
		t.Errorf("%d runs", m.DirtyRuns())
	}
	free := func(meta.Inode, uint64, uint64) bool { return false }
	var got [][2]uint64
	for r := (Run{}); m.Next(Dirty, 3*unit, free, &r); r = (Run{}) {
		m.Begin(&r)
		if !bytes.Equal(bytes.Join(r.Iov, nil)[:8], data(r.Offset/unit, unit)[:8]) {
			t.Error("wrong data")
		}
		got = append(got, [2]uint64{r.Offset / unit, r.Bytes / unit})
	}
	if fmt.Sprint(got) != "[[7 1] [2 2] [5 1] [4 1] [20 1]]" && fmt.Sprint(got) != "[[7 1] [2 3] [5 1] [20 1]]" {
		t.Errorf("runs %v", got)
	}
	m.Free()
	if !m.Empty() || len(m.mem.(*countingMemory).used) != 0 {
		t.Error("Free leaves something")
	}
}

func TestNeighbourInTheWay(t *testing.T) {
	m := New(newMemory(t))
	m.Put(1, 0, 2*unit, [][]byte{data(1, 2*unit)}, 0, Dirty, 0)
	m.Put(1, 2*unit, unit, [][]byte{data(2, unit)}, 0, Dirty, 0)
	busy := func(_ meta.Inode, offset, bytes uint64) bool { return offset+bytes > 2*unit }
	var r Run
	if !m.Next(Dirty, 1<<20, busy, &r) || r.Offset != 0 || r.Bytes != 2*unit {
		t.Errorf("run %+v", r)
	}
}

func BenchmarkPutAck(b *testing.B) {
	m := New(&heap{})
	buf := [][]byte{make([]byte, unit)}
	for i := 0; b.Loop(); i++ {
		m.Put(1, uint64(i%1024)*2*unit, unit, buf, 0, Written, 1)
		if i%1024 == 1023 {
			m.BeginSync()
			m.EndSync(1, true)
		}
	}
}

type heap struct{ free [][]byte }

func (h *heap) Get(n int) []byte {
	if k := len(h.free); k > 0 {
		b := h.free[k-1]
		h.free = h.free[:k-1]
		return b[:n]
	}
	return make([]byte, n, pieceBytesMax)
}
func (h *heap) Put(b []byte) { h.free = append(h.free, b) }
