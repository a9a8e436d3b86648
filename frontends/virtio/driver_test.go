package virtio

import (
	"encoding/binary"
	"fmt"
	"testing"

	"vitastor/internal/guestmem"
)

// The driver's side of both kinds of rings, written from the standard and with
// nothing of the device's code, for the tests.

// part is a buffer of a request.
type part struct {
	addr  uint64
	n     uint32
	write bool
}

type driver interface {
	// add puts a request into the ring without telling the device. ok is false
	// if there is no room.
	add(parts []part, indirect bool) (id uint16, ok bool)
	// publish makes what was added available; kick = the device wants a kick.
	publish() (kick bool)
	// used takes the next request that the device has completed.
	used() (id uint16, n uint32, ok bool)
	// want says that the driver waits for an interrupt (or does not want any).
	// more tells that something was completed already.
	want(interrupt bool) (more bool)
	layout() Layout
	rings() Rings
}

// ram is the memory of a guest: one region for rings and tables, two adjacent
// ones for data, of which the first byte of the second follows the last of the
// first only in the guest's view.
type ram struct {
	t     testing.TB
	b     []byte // everything
	space *guestmem.Space
	next  uint64 // free memory for tables
}

const (
	ramBytes  = 1 << 20
	ringAt    = 0x10000 // guest addresses
	dataAt    = 0x100000
	dataBytes = 512 << 10
	tableAt   = 0x60000 // offset in ram, for indirect tables
)

func newRAM(t testing.TB) *ram {
	t.Helper()
	fd, m, err := guestmem.NewShared("guest", ramBytes)
	if err != nil {
		t.Fatal(err)
	}
	closeFD(fd)
	half := uint64(dataBytes / 2)
	s, err := guestmem.NewSpace([]guestmem.Region{
		{Addr: ringAt, Mapping: m, Offset: 0, Bytes: ramBytes / 2, Writable: true},
		{Addr: dataAt, Mapping: m, Offset: ramBytes - half, Bytes: half, Writable: true},
		{Addr: dataAt + half, Mapping: m, Offset: ramBytes / 2, Bytes: half, Writable: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Release()
	t.Cleanup(s.Release)
	return &ram{t: t, b: m.Data(), space: s, next: tableAt}
}

// slices are the pieces of memory at a guest address.
func (r *ram) slices(p part) [][]byte {
	s, ok := r.space.Slices(nil, p.addr, p.n, p.write)
	if !ok {
		r.t.Fatalf("%v is not memory", p)
	}
	return s
}

func (r *ram) put(p part, b []byte) {
	for _, s := range r.slices(p) {
		b = b[copy(s, b):]
	}
}

func (r *ram) get(p part) (b []byte) {
	for _, s := range r.slices(p) {
		b = append(b, s...)
	}
	return b
}

// table takes memory for an indirect table, at a guest address.
func (r *ram) table(n int) (b []byte, addr uint64) {
	size := uint64(n * 16)
	if r.next+size > ramBytes/2 {
		r.next = tableAt
	}
	at := r.next
	r.next += size
	return r.b[at : at+size], ringAt + at
}

func put16(b []byte, at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
func put64(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }
func get16(b []byte, at int) uint16    { return binary.LittleEndian.Uint16(b[at:]) }
func get32(b []byte, at int) uint32    { return binary.LittleEndian.Uint32(b[at:]) }

// splitDriver drives a split ring.
type splitDriver struct {
	l                   Layout
	m                   *ram
	desc, avail, usedRg []byte
	free                []uint16
	chain               map[uint16][]uint16 // descriptors by head
	idx                 uint16              // to be published
	told                uint16              // published
	seen                uint16              // of the used ring
}

func newSplitDriver(m *ram, l Layout) *splitDriver {
	n := int(l.Size)
	d := &splitDriver{l: l, m: m, chain: map[uint16][]uint16{}}
	d.desc = m.b[0 : 16*n]
	d.avail = m.b[0x8000 : 0x8000+6+2*n]
	d.usedRg = m.b[0x10000 : 0x10000+6+8*n]
	clear(d.desc)
	clear(d.avail)
	clear(d.usedRg)
	for i := range n {
		d.free = append(d.free, uint16(n-1-i))
	}
	return d
}

func (d *splitDriver) layout() Layout { return d.l }
func (d *splitDriver) rings() Rings   { return Rings{d.desc, d.avail, d.usedRg} }

func writeSplit(table []byte, at int, p part, flags, next uint16) {
	if p.write {
		flags |= 2
	}
	put64(table, at*16, p.addr)
	put32(table, at*16+8, p.n)
	put16(table, at*16+12, flags)
	put16(table, at*16+14, next)
}

func (d *splitDriver) add(parts []part, indirect bool) (uint16, bool) {
	if indirect {
		return d.addIndirect(parts)
	}
	if len(d.free) < len(parts) {
		return 0, false
	}
	ids := append([]uint16(nil), d.free[len(d.free)-len(parts):]...)
	d.free = d.free[:len(d.free)-len(parts)]
	for i, p := range parts {
		flags, next := uint16(0), uint16(0)
		if i+1 < len(parts) {
			flags, next = 1, ids[i+1]
		}
		writeSplit(d.desc, int(ids[i]), p, flags, next)
	}
	d.enqueue(ids)
	return ids[0], true
}

func (d *splitDriver) addIndirect(parts []part) (uint16, bool) {
	if len(d.free) == 0 {
		return 0, false
	}
	table, addr := d.m.table(len(parts))
	for i, p := range parts {
		flags, next := uint16(0), uint16(0)
		if i+1 < len(parts) {
			flags, next = 1, uint16(i+1)
		}
		writeSplit(table, i, p, flags, next)
	}
	id := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	writeSplit(d.desc, int(id), part{addr, uint32(len(table)), false}, 4, 0)
	d.enqueue([]uint16{id})
	return id, true
}

func (d *splitDriver) enqueue(ids []uint16) {
	d.chain[ids[0]] = ids
	put16(d.avail, 4+2*int(d.idx%d.l.Size), ids[0])
	d.idx++
}

func (d *splitDriver) publish() bool {
	old := d.told
	put16(d.avail, 2, d.idx)
	d.told = d.idx
	if d.idx == old {
		return false
	}
	if !d.l.EventIdx {
		return get16(d.usedRg, 0)&1 == 0
	}
	event := get16(d.usedRg, 4+8*int(d.l.Size))
	return d.idx-event-1 < d.idx-old
}

func (d *splitDriver) used() (uint16, uint32, bool) {
	if get16(d.usedRg, 2) == d.seen {
		return 0, 0, false
	}
	at := 4 + 8*int(d.seen%d.l.Size)
	id, n := get32(d.usedRg, at), get32(d.usedRg, at+4)
	d.seen++
	ids := d.chain[uint16(id)]
	if ids == nil {
		d.m.t.Fatalf("the device completes %d, which is not in flight", id)
	}
	delete(d.chain, uint16(id))
	d.free = append(d.free, ids...)
	return uint16(id), n, true
}

func (d *splitDriver) want(interrupt bool) bool {
	switch {
	case d.l.EventIdx && interrupt:
		put16(d.avail, 4+2*int(d.l.Size), d.seen)
	case d.l.EventIdx:
		put16(d.avail, 4+2*int(d.l.Size), d.seen-1)
	case interrupt:
		put16(d.avail, 0, 0)
	default:
		put16(d.avail, 0, 1)
	}
	return interrupt && get16(d.usedRg, 2) != d.seen
}

// packedDriver drives a packed ring.
type packedDriver struct {
	l           Layout
	m           *ram
	ring        []byte
	mine, yours []byte // event suppression of driver and device
	ids         []uint16
	slots       map[uint16]int // of requests in flight
	room        int
	at          int // next to be made available
	wrap        bool
	usedAt      int
	usedWrap    bool
	pending     []func() // publish heads, in order
	added       int
}

func newPackedDriver(m *ram, l Layout) *packedDriver {
	n := int(l.Size)
	d := &packedDriver{l: l, m: m, slots: map[uint16]int{}, room: n, wrap: true, usedWrap: true}
	d.ring = m.b[0 : 16*n]
	d.mine, d.yours = m.b[0x8000:0x8004], m.b[0x8100:0x8104]
	clear(d.ring)
	clear(d.mine)
	clear(d.yours)
	for i := range n {
		d.ids = append(d.ids, uint16(n-1-i))
	}
	return d
}

func (d *packedDriver) layout() Layout { return d.l }
func (d *packedDriver) rings() Rings   { return Rings{d.ring, d.mine, d.yours} }

func (d *packedDriver) add(parts []part, indirect bool) (uint16, bool) {
	need := len(parts)
	if indirect {
		need = 1
	}
	if d.room < need || len(d.ids) == 0 {
		return 0, false
	}
	id := d.ids[len(d.ids)-1]
	d.ids = d.ids[:len(d.ids)-1]
	d.room -= need
	d.slots[id] = need
	list := parts
	var extra uint16
	if indirect {
		table, addr := d.m.table(len(parts))
		for i, p := range parts {
			flags := uint16(0)
			if p.write {
				flags = 2
			}
			put64(table, i*16, p.addr)
			put32(table, i*16+8, p.n)
			put16(table, i*16+12, 0xdead) // reserved: to be ignored
			put16(table, i*16+14, flags)
		}
		list, extra = []part{{addr, uint32(len(table)), false}}, 4
	}
	for i, p := range list {
		d.place(id, p, extra, i == 0, i+1 == len(list))
	}
	return id, true
}

// place writes one descriptor. The flags of a head come last, by publish.
func (d *packedDriver) place(id uint16, p part, extra uint16, head, last bool) {
	flags := extra
	if p.write {
		flags |= 2
	}
	if !last {
		flags |= 1
	}
	if d.wrap {
		flags |= 1 << 7
	} else {
		flags |= 1 << 15
	}
	at := d.at * 16
	put64(d.ring, at, p.addr)
	put32(d.ring, at+8, p.n)
	put16(d.ring, at+12, id)
	if head {
		d.pending = append(d.pending, func() { put16(d.ring, at+14, flags) })
	} else {
		put16(d.ring, at+14, flags)
	}
	d.added++
	if d.at++; d.at == int(d.l.Size) {
		d.at, d.wrap = 0, !d.wrap
	}
}

func (d *packedDriver) publish() bool {
	for i := len(d.pending) - 1; i >= 0; i-- { // the first one makes all visible
		d.pending[i]()
	}
	added := d.added
	d.pending, d.added = nil, 0
	if added == 0 {
		return false
	}
	flags := get16(d.yours, 2)
	switch flags & 3 {
	case 0:
		return true
	case 1:
		return false
	}
	word := get16(d.yours, 0)
	event := int(word & 0x7fff)
	if (word>>15 == 1) != d.wrap {
		event -= int(d.l.Size)
	}
	old := d.at - added
	return event >= old && event < d.at
}

func (d *packedDriver) used() (uint16, uint32, bool) {
	at := d.usedAt * 16
	flags := get16(d.ring, at+14)
	if a, u := flags>>7&1 == 1, flags>>15&1 == 1; a != d.usedWrap || u != d.usedWrap {
		return 0, 0, false
	}
	id, n := get16(d.ring, at+12), get32(d.ring, at+8)
	slots := d.slots[id]
	if slots == 0 {
		d.m.t.Fatalf("the device completes %d, which is not in flight", id)
	}
	delete(d.slots, id)
	d.ids = append(d.ids, id)
	d.room += slots
	if d.usedAt += slots; d.usedAt >= int(d.l.Size) {
		d.usedAt, d.usedWrap = d.usedAt-int(d.l.Size), !d.usedWrap
	}
	return id, n, true
}

func (d *packedDriver) want(interrupt bool) bool {
	switch {
	case !interrupt:
		put16(d.mine, 2, 1)
	case d.l.EventIdx:
		word := uint16(d.usedAt)
		if d.usedWrap {
			word |= 1 << 15
		}
		put16(d.mine, 0, word)
		put16(d.mine, 2, 2)
	default:
		put16(d.mine, 2, 0)
	}
	if !interrupt {
		return false
	}
	flags := get16(d.ring, d.usedAt*16+14)
	return flags>>7&1 == flags>>15&1 && (flags>>7&1 == 1) == d.usedWrap
}

func newDriver(m *ram, l Layout) driver {
	if l.Packed {
		return newPackedDriver(m, l)
	}
	return newSplitDriver(m, l)
}

// layouts are all kinds of rings, small and large.
func layouts() (list []Layout) {
	for _, size := range []uint16{1, 2, 8, 256} {
		for i := range 8 {
			list = append(list, Layout{Size: size, Packed: i&1 != 0, EventIdx: i&2 != 0, Indirect: i&4 != 0})
		}
	}
	return append(list, Layout{Size: 7, Packed: true, EventIdx: true, Indirect: true})
}

func (l Layout) String() string {
	return fmt.Sprintf("%d packed=%v event=%v indirect=%v", l.Size, l.Packed, l.EventIdx, l.Indirect)
}
