package frontend

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vitastor/internal/guestmem"
)

// Types of requests.
const (
	In     = 0
	Out    = 1
	Flush  = 4
	GetID  = 8
	Unmap  = 11
	Zeroes = 13
)

// Queue is the driver's side of a ring. A request lives in a slot, which has
// three descriptors (one, if they are indirect) and memory of its own:
//
//	queue: descriptors | driver's part | device's part | slots
//	slot:  header, 16 bytes; status byte at 32; table at 64; data at 4096
type Queue struct {
	o                    Options
	m                    *Memory
	index                int
	at                   int // of the queue in the memory
	desc, driver, device []byte
	kick, call, err      int

	avail, used   uint16 // next positions; packed: in the ring
	wrap, useWrap bool
	published     uint16
	added         int // packed: descriptors since the last kick
	slots         []slot
}

type slot struct {
	busy  bool
	descs int // of the ring
}

const slotHead = 4096

// slotsOf is how many requests fit into a ring.
func slotsOf(o Options) int {
	if o.Indirect {
		return o.Size
	}
	return o.Size / 3
}

func align(n int) int { return (n + pageBytes - 1) &^ (pageBytes - 1) }

// ringBytes are where the parts of a ring begin, and its size.
func ringBytes(o Options) (driver, device, size int) {
	driver = align(o.Size * 16)
	device = driver + align(o.Size*2+6)
	return driver, device, device + align(o.Size*8+6)
}

// NewMemory makes memory for all queues.
func NewMemory(o Options) (*Memory, error) {
	_, _, ring := ringBytes(o)
	per := ring + slotsOf(o)*(slotHead+align(o.SlotBytes))
	var fd int
	var err error
	if o.Unsealed {
		var f *os.File
		if f, err = os.CreateTemp("", "guest-ram-"); err != nil {
			return nil, err
		}
		os.Remove(f.Name())
		fd, err = unix.Dup(int(f.Fd()))
		f.Close()
	} else {
		fd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err == nil {
		err = unix.Ftruncate(fd, int64(per*o.Queues))
	}
	if err != nil {
		return nil, err
	}
	m := &Memory{File: fd, Inflight: -1}
	if m.B, err = unix.Mmap(fd, 0, per*o.Queues, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, err
	}
	for i := range o.Queues {
		q, err := newQueue(o, m, i, i*per)
		if err != nil {
			return nil, err
		}
		m.queues = append(m.queues, q)
	}
	return m, nil
}

// Free unmaps the memory and closes its descriptors.
func (m *Memory) Free() {
	unix.Munmap(m.B)
	unix.Close(m.File)
	if m.Inflight >= 0 {
		unix.Close(m.Inflight)
	}
	for _, q := range m.queues {
		unix.Close(q.kick)
		unix.Close(q.call)
		unix.Close(q.err)
	}
}

func newQueue(o Options, m *Memory, index, at int) (q *Queue, err error) {
	driver, device, _ := ringBytes(o)
	q = &Queue{o: o, m: m, index: index, at: at, wrap: true, useWrap: true, slots: make([]slot, slotsOf(o)),
		desc: m.B[at : at+o.Size*16], driver: m.B[at+driver : at+driver+o.Size*2+6], device: m.B[at+device : at+device+o.Size*8+6]}
	for _, fd := range []*int{&q.kick, &q.call, &q.err} {
		if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// base is where the back-end is to begin, as SET_VRING_BASE wants it: where the
// used ring is. A back-end that knows what is in flight knows better.
func (q *Queue) base() uint32 {
	if !q.o.Packed {
		return uint32(guestmem.Load16(q.device, 2))
	}
	if q.o.Inflight {
		return 1<<15 | 1<<31
	}
	v := uint32(q.used)
	if q.useWrap {
		v |= 1 << 15
	}
	return v | v<<16
}

// address is SET_VRING_ADDR.
func (q *Queue) address(flags uint32) []byte {
	driver, device, _ := ringBytes(q.o)
	at := uint64(q.at)
	return append(U32(uint32(q.index), flags), U64(UserBase+at, UserBase+at+uint64(device), UserBase+at+uint64(driver),
		GuestBase+at+uint64(device))...)
}

// Slots is the number of requests that can be in flight.
func (q *Queue) Slots() int { return len(q.slots) }

func (q *Queue) slotAt(i int) int {
	_, _, ring := ringBytes(q.o)
	return q.at + ring + i*(slotHead+align(q.o.SlotBytes))
}

// Data is the memory of a slot.
func (q *Queue) Data(i int) []byte {
	at := q.slotAt(i) + slotHead
	return q.m.B[at : at+q.o.SlotBytes]
}

// Add puts a request of n bytes of data into a slot that is not busy; the
// back-end is told by Publish.
func (q *Queue) Add(i int, kind uint32, sector uint64, n int) {
	at := q.slotAt(i)
	head := q.m.B[at : at+slotHead]
	binary.LittleEndian.PutUint32(head, kind)
	binary.LittleEndian.PutUint64(head[8:], sector)
	head[32] = 0xff
	data := uint16(0)
	if kind == In || kind == GetID {
		data = 2
	}
	guest := uint64(GuestBase + at)
	var list [3]descriptor
	parts := append(list[:0], descriptor{guest, 16, 0})
	if n > 0 {
		parts = append(parts, descriptor{guest + slotHead, uint32(n), data})
	}
	parts = append(parts, descriptor{guest + 32, 1, 2})
	if q.o.Indirect {
		q.table(head[64:], parts)
		list[0] = descriptor{guest + 64, uint32(16 * len(parts)), 4}
		parts = list[:1]
	}
	q.slots[i] = slot{true, len(parts)}
	if q.o.Packed {
		q.addPacked(i, parts)
		return
	}
	first := i * 3
	if q.o.Indirect {
		first = i
	}
	for j, d := range parts {
		if j+1 < len(parts) {
			d.flags |= 1
		}
		d.put(q.desc[(first+j)*16:], uint16(first+j+1), false)
	}
	binary.LittleEndian.PutUint16(q.driver[4+2*int(q.avail&uint16(q.o.Size-1)):], uint16(first))
	q.avail++
}

type descriptor struct {
	addr  uint64
	n     uint32
	flags uint16
}

// put writes a descriptor; word is the next one, or the id of the buffer.
func (d descriptor) put(b []byte, word uint16, packed bool) {
	binary.LittleEndian.PutUint64(b, d.addr)
	binary.LittleEndian.PutUint32(b[8:], d.n)
	if packed {
		binary.LittleEndian.PutUint16(b[12:], word)
		binary.LittleEndian.PutUint16(b[14:], d.flags)
		return
	}
	binary.LittleEndian.PutUint16(b[12:], d.flags)
	binary.LittleEndian.PutUint16(b[14:], word)
}

func (q *Queue) table(b []byte, parts []descriptor) {
	for j, d := range parts {
		if j+1 < len(parts) && !q.o.Packed {
			d.flags |= 1
		}
		d.put(b[16*j:], uint16(j+1), q.o.Packed)
	}
}

// addPacked writes descriptors behind each other, the flags of the first one
// last.
func (q *Queue) addPacked(id int, parts []descriptor) {
	first, firstFlags := int(q.avail)*16, uint16(0)
	for j, d := range parts {
		if j+1 < len(parts) {
			d.flags |= 1
		}
		if q.wrap {
			d.flags |= 1 << 7
		} else {
			d.flags |= 1 << 15
		}
		at := int(q.avail) * 16
		if j == 0 {
			firstFlags = d.flags
			old := binary.LittleEndian.Uint16(q.desc[at+14:])
			d.flags = old
		}
		d.put(q.desc[at:], uint16(id), true)
		if q.avail++; int(q.avail) == q.o.Size {
			q.avail, q.wrap = 0, !q.wrap
		}
	}
	q.added += len(parts)
	guestmem.Store32(q.desc, first+12, uint32(id)|uint32(firstFlags)<<16)
}

// Publish makes added requests available, and kicks the back-end if it wants
// that.
func (q *Queue) Publish() {
	if q.o.Packed {
		if q.added > 0 && q.wantsPacked() {
			q.Kick()
		}
		q.added = 0
		return
	}
	old := q.published
	word := guestmem.Load16(q.driver, 0)
	guestmem.Store32(q.driver, 0, uint32(word)|uint32(q.avail)<<16)
	q.published = q.avail
	if old == q.avail {
		return
	}
	if q.o.EventIdx {
		event := guestmem.Load16(q.device, 4+8*q.o.Size)
		if q.avail-event-1 < q.avail-old {
			q.Kick()
		}
	} else if guestmem.Load16(q.device, 0)&1 == 0 {
		q.Kick()
	}
}

func (q *Queue) wantsPacked() bool {
	word := guestmem.Load32(q.device, 0)
	switch word >> 16 & 3 {
	case 0:
		return true
	case 1:
		return false
	}
	event := int(word & 0x7fff)
	if (word>>15&1 == 1) != q.wrap {
		event -= q.o.Size
	}
	return event >= int(q.avail)-q.added && event < int(q.avail)
}

// Kick tells the back-end that there is something.
func (q *Queue) Kick() {
	unix.Write(q.kick, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Next takes a completed request: its slot and status. ok is false if there is
// none.
func (q *Queue) Next() (i int, status byte, ok bool) {
	if q.o.Packed {
		word := guestmem.Load32(q.desc, int(q.used)*16+12)
		flags := word >> 16
		if a, u := flags>>7&1 == 1, flags>>15&1 == 1; a != q.useWrap || u != q.useWrap {
			return 0, 0, false
		}
		i = int(word & 0xffff)
		if q.used += uint16(q.slots[i].descs); int(q.used) >= q.o.Size {
			q.used, q.useWrap = q.used-uint16(q.o.Size), !q.useWrap
		}
	} else {
		if guestmem.Load16(q.device, 2) == q.used {
			return 0, 0, false
		}
		i = int(binary.LittleEndian.Uint32(q.device[4+8*int(q.used&uint16(q.o.Size-1)):]))
		if !q.o.Indirect {
			i /= 3
		}
		q.used++
	}
	if !q.slots[i].busy {
		panic(fmt.Sprintf("the back-end completes a request that is not in flight: slot %d", i))
	}
	q.slots[i].busy = false
	return i, q.m.B[q.slotAt(i)+32], true
}

// Busy tells whether a slot has a request in flight.
func (q *Queue) Busy(i int) bool { return q.slots[i].busy }

// Listen asks for an interrupt when something is completed; true = something is
// there already.
func (q *Queue) Listen() bool {
	if q.o.EventIdx && !q.o.Packed {
		guestmem.Store16(q.driver, 4+2*q.o.Size, q.used)
	} else if q.o.EventIdx {
		word := uint32(q.used) | 2<<16
		if q.useWrap {
			word |= 1 << 15
		}
		guestmem.Store32(q.driver, 0, word)
	}
	return q.ready()
}

// ready tells whether Next has something.
func (q *Queue) ready() bool {
	if !q.o.Packed {
		return guestmem.Load16(q.device, 2) != q.used
	}
	flags := guestmem.Load32(q.desc, int(q.used)*16+12) >> 16
	return flags>>7&1 == flags>>15&1 && (flags>>7&1 == 1) == q.useWrap
}

// Wait waits for an interrupt.
func (q *Queue) Wait(d time.Duration) error {
	if q.Listen() {
		return nil
	}
	deadline := time.Now().Add(d)
	for {
		p := []unix.PollFd{{Fd: int32(q.call), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(time.Until(deadline).Milliseconds())+1)
		if n == 1 {
			var b [8]byte
			unix.Read(q.call, b[:])
			return nil
		}
		if err != unix.EINTR && time.Now().After(deadline) {
			return fmt.Errorf("queue %d: no interrupt within %v", q.index, d)
		}
	}
}

// Broken tells whether the back-end has signalled an error.
func (q *Queue) Broken() bool {
	var b [8]byte
	n, _ := unix.Read(q.err, b[:])
	return n == 8
}

// Do executes one request in slot 0 and waits for it.
func (q *Queue) Do(kind uint32, sector uint64, n int) (status byte, err error) {
	q.Add(0, kind, sector, n)
	q.Publish()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if _, status, ok := q.Next(); ok {
			return status, nil
		}
		if err := q.Wait(time.Until(deadline)); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("queue %d: a request is not completed", q.index)
}

func get32(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
func get64(b []byte, at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }

// Address is SET_VRING_ADDR of the ring, with flags.
func (q *Queue) Address(flags uint32) []byte { return q.address(flags) }

// Spoil makes a request available that breaks the rules.
func (q *Queue) Spoil() {
	if q.o.Packed {
		panic("only split rings are spoiled")
	}
	for i := range q.o.Size {
		binary.LittleEndian.PutUint16(q.driver[4+2*i:], 0xffff)
	}
	guestmem.Store32(q.driver, 0, uint32(q.avail+1)<<16)
}

// DriverPage is the page of queue 0 that the driver alone changes.
func (f *Frontend) DriverPage() int {
	driver, _, _ := ringBytes(f.o)
	return driver / pageBytes
}
