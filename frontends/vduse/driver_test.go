package vduse

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitastor/frontends/vduse/uapi"
	"vitastor/frontends/virtio"
	"vitastor/internal/guestmem"
)

// driverConfig says what kind of driver the fake kernel has.
type driverConfig struct {
	size     uint16 // of queues; 0 = the largest
	packed   bool
	indirect bool
	eventIdx bool
	file     string // folder of files that have the memory, which can vanish; "" = memfds
}

// Places in the memory for data, of slotsMax requests.
const (
	slotBytes  = 32 << 10
	slotsMax   = 128
	slotHeader = 0   // 16 bytes
	slotStatus = 16  // 1 byte
	slotTable  = 64  // of 3 descriptors
	slotData   = 512 // up to slotBytes

	ringsAt = 1 << 32 // address of the first ring
	dataAt  = 0
)

// shared is memory that the driver and the server have.
type shared struct {
	fd   int
	data []byte
}

// driver is a driver of virtio-blk over rings in shared memory. It was written
// from the standard and shares no code with the device.
type driver struct {
	d      *fakeDevice
	c      driverConfig
	queues []*driverQueue
	data   shared
	mapped sync.Once // data is known to the server
	slots  chan int
	rings  int
	stop   chan struct{}
	ended  sync.WaitGroup
}

// driverQueue is one ring.
type driverQueue struct {
	d                        *driver
	index                    int
	size                     uint16
	mu                       sync.Mutex
	desc, avail, used        []byte // of a packed ring: descriptors, driver's and device's events
	free                     []uint16
	inFlight                 map[uint16]*request // by head, or id
	next, last               uint16              // index of the next entry to add, and to be seen used
	wrap, lastWrap           bool
	added, completed, signal int
}

// request is one on its way.
type request struct {
	slot   int
	descs  []uint16
	n      uint16 // descriptors in a packed ring
	read   int    // bytes of data to be read
	result chan error
	data   []byte
}

func newDriver(d *fakeDevice, c driverConfig) *driver {
	v := &driver{d: d, c: c, slots: make(chan int, slotsMax), stop: make(chan struct{})}
	for i := range slotsMax {
		v.slots <- i
	}
	v.data = v.memory(slotsMax * slotBytes)
	return v
}

// memory makes what the server can map.
func (v *driver) memory(n int) shared {
	n = (n + 4095) / 4096 * 4096
	fd, err := v.file()
	if err == nil {
		err = syscall.Ftruncate(fd, int64(n))
	}
	if err != nil {
		v.d.k.Fatal(err)
	}
	data, err := syscall.Mmap(fd, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		v.d.k.Fatal(err)
	}
	v.d.k.Cleanup(func() { syscall.Munmap(data); syscall.Close(fd) })
	return shared{fd, data}
}

// file makes one of the kind that was chosen.
func (v *driver) file() (int, error) {
	if v.c.file == "" {
		return unix.MemfdCreate("driver", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	f, err := os.CreateTemp(v.c.file, "memory-")
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return syscall.Dup(int(f.Fd()))
}

// probe begins to use the device, as virtio 1.2 §3.1.1 says.
func (v *driver) probe() error {
	d := v.d
	features := uint64(virtio.FeatureVersion1 | virtio.FeatureAccess | virtio.BlkMultiQueue | virtio.BlkFlush | virtio.BlkDiscard |
		virtio.BlkWriteZeroes | virtio.BlkSegMax | virtio.BlkReadOnly)
	for bit, on := range map[uint64]bool{virtio.FeaturePacked: v.c.packed, virtio.FeatureIndirect: v.c.indirect, virtio.FeatureEventIdx: v.c.eventIdx} {
		if on {
			features |= bit
		}
	}
	for _, status := range []byte{0, 1, 3} {
		if err := d.setStatus(status); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.features = features & d.offered
	d.mu.Unlock()
	if err := d.setStatus(11); err != nil {
		return err
	}
	for i := range d.queues {
		v.addQueue(i)
	}
	if err := d.setStatus(15); err != nil {
		return err
	}
	for _, q := range v.queues {
		v.ended.Add(1)
		go q.serve()
	}
	return nil
}

// remove ends the use.
func (v *driver) remove() error {
	err := v.d.setStatus(0)
	close(v.stop)
	v.ended.Wait()
	return err
}

// region makes shared memory known at the next free address, or at one.
func (v *driver) region(s shared, start uint64) uint64 {
	r := fakeRegion{fd: s.fd}
	r.Start, r.Last, r.Read, r.Write = start, start+uint64(len(s.data))-1, true, true
	v.d.addRegion(r)
	return start
}

// addQueue makes a ring: like Linux, one region for a split one and three for a
// packed one.
func (v *driver) addQueue(i int) {
	size := v.d.queues[i].sizeMax
	if v.c.size != 0 {
		size = min(size, v.c.size)
	}
	q := &driverQueue{d: v, index: i, size: size, inFlight: map[uint16]*request{}, wrap: true, lastWrap: true}
	for n := size; n > 0; n-- {
		q.free = append(q.free, n-1)
	}
	at := func(s shared) uint64 { v.rings++; return v.region(s, ringsAt+uint64(v.rings)<<24) }
	info := uapi.QueueInfo{Size: uint32(size), Ready: true}
	if v.c.packed {
		a, b, c := v.memory(16*int(size)), v.memory(4), v.memory(4)
		q.desc, q.avail, q.used = a.data, b.data, c.data
		info.Desc, info.Driver, info.Device = at(a), at(b), at(c)
		info.State = virtio.State{AvailWrap: true, UsedWrap: true}
	} else {
		descBytes, availBytes := 16*int(size), (6+2*int(size)+3)/4*4
		s := v.memory(descBytes + availBytes + 6 + 8*int(size))
		q.desc, q.avail, q.used = s.data[:descBytes], s.data[descBytes:][:availBytes], s.data[descBytes+availBytes:]
		info.Desc = at(s)
		info.Driver, info.Device = info.Desc+uint64(descBytes), info.Desc+uint64(descBytes+availBytes)
	}
	v.d.mu.Lock()
	v.d.queues[i].info = info
	v.d.mu.Unlock()
	v.queues = append(v.queues, q)
}

// descriptor of both kinds of rings.
type descriptor struct {
	addr  uint64
	n     uint32
	write bool
}

const (
	flagNext, flagWrite, flagIndirect = 1, 2, 4
	flagAvail, flagUsed               = 1 << 7, 1 << 15
)

func putSplit(b []byte, d descriptor, flags, next uint16) {
	binary.LittleEndian.PutUint64(b, d.addr)
	binary.LittleEndian.PutUint32(b[8:], d.n)
	binary.LittleEndian.PutUint16(b[12:], flags|writes(d))
	binary.LittleEndian.PutUint16(b[14:], next)
}

func writes(d descriptor) uint16 {
	if d.write {
		return flagWrite
	}
	return 0
}

// start puts a request into the ring and kicks; its result comes later. Data is
// what is written, or read bytes are wanted.
func (q *driverQueue) start(kind uint32, sector uint64, data []byte, read int) *request {
	v := q.d
	r := &request{slot: <-v.slots, read: read, result: make(chan error, 1)}
	m := v.data.data[r.slot*slotBytes:][:slotBytes]
	binary.LittleEndian.PutUint32(m[slotHeader:], kind)
	binary.LittleEndian.PutUint32(m[slotHeader+4:], 0)
	binary.LittleEndian.PutUint64(m[slotHeader+8:], sector)
	m[slotStatus] = 0xee
	copy(m[slotData:], data)
	base := uint64(dataAt + r.slot*slotBytes)
	chain := []descriptor{{base + slotHeader, 16, false}}
	if n := len(data) + read; n > 0 {
		chain = append(chain, descriptor{base + slotData, uint32(n), read > 0})
	}
	chain = append(chain, descriptor{base + slotStatus, 1, true})
	q.mu.Lock()
	defer q.mu.Unlock()
	v.mapped.Do(func() { v.region(v.data, dataAt) }) // late, as Linux does
	if v.c.packed {
		q.addPacked(r, chain, m[slotTable:], base+slotTable)
	} else {
		q.addSplit(r, chain, m[slotTable:], base+slotTable)
	}
	q.added++
	v.d.kick(q.index)
	return r
}

func (q *driverQueue) addSplit(r *request, chain []descriptor, table []byte, tableAt uint64) {
	if q.d.c.indirect {
		for i, d := range chain {
			flags := uint16(flagNext)
			if i == len(chain)-1 {
				flags = 0
			}
			putSplit(table[16*i:], d, flags, uint16(i+1))
		}
		r.descs = []uint16{q.take()}
		putSplit(q.desc[16*int(r.descs[0]):], descriptor{tableAt, uint32(16 * len(chain)), false}, flagIndirect, 0)
	} else {
		for range chain {
			r.descs = append(r.descs, q.take())
		}
		for i, d := range chain {
			flags, next := uint16(0), uint16(0)
			if i < len(chain)-1 {
				flags, next = flagNext, r.descs[i+1]
			}
			putSplit(q.desc[16*int(r.descs[i]):], d, flags, next)
		}
	}
	head := r.descs[0]
	q.inFlight[head] = r
	binary.LittleEndian.PutUint16(q.avail[4+2*int(q.next%q.size):], head)
	q.next++
	guestmem.Store16(q.avail, 2, q.next)
}

// take waits for a free descriptor.
func (q *driverQueue) take() uint16 {
	for len(q.free) == 0 {
		q.mu.Unlock()
		time.Sleep(time.Millisecond)
		q.mu.Lock()
	}
	d := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	return d
}

// addPacked writes the first descriptor last.
func (q *driverQueue) addPacked(r *request, chain []descriptor, table []byte, tableAt uint64) {
	indirect := uint16(0)
	if q.d.c.indirect {
		for i, d := range chain {
			putSplit(table[16*i:], d, 0, 0)
			binary.LittleEndian.PutUint16(table[16*i+12:], 0) // the id; flags are where split descriptors have next
			binary.LittleEndian.PutUint16(table[16*i+14:], writes(d))
		}
		chain, indirect = []descriptor{{tableAt, uint32(16 * len(chain)), false}}, flagIndirect
	}
	for range chain {
		r.descs = append(r.descs, q.take())
	}
	id := r.descs[0]
	q.inFlight[id] = r
	r.n = uint16(len(chain))
	first, firstFlags := q.next, uint16(0)
	for i, d := range chain {
		flags := writes(d) | indirect
		if i < len(chain)-1 {
			flags |= flagNext
		}
		if q.wrap {
			flags |= flagAvail
		} else {
			flags |= flagUsed
		}
		at := 16 * int(q.next)
		binary.LittleEndian.PutUint64(q.desc[at:], d.addr)
		binary.LittleEndian.PutUint32(q.desc[at+8:], d.n)
		binary.LittleEndian.PutUint16(q.desc[at+12:], id)
		if i == 0 {
			firstFlags = flags
		} else {
			guestmem.Store16(q.desc, at+14, flags)
		}
		if q.next++; q.next == q.size {
			q.next, q.wrap = 0, !q.wrap
		}
	}
	guestmem.Store16(q.desc, 16*int(first)+14, firstFlags)
}

// serve takes what the device has completed, whenever it interrupts.
func (q *driverQueue) serve() {
	defer q.d.ended.Done()
	for {
		for more := true; more; {
			for q.takeUsed() {
			}
			more = q.arm()
		}
		select {
		case <-q.d.d.queues[q.index].irq:
			q.mu.Lock()
			q.signal++
			q.mu.Unlock()
		case <-q.d.stop:
			return
		}
	}
}

// arm asks for an interrupt at the next completion; true = there is one already.
func (q *driverQueue) arm() bool {
	if !q.d.c.eventIdx {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.d.c.packed {
		guestmem.Store16(q.avail, 4+2*int(q.size), q.last)
		return guestmem.Load16(q.used, 2) != q.last
	}
	wrap := uint16(0)
	if q.lastWrap {
		wrap = 1 << 15
	}
	guestmem.Store16(q.avail, 0, q.last|wrap)
	guestmem.Store16(q.avail, 2, 2) // RING_EVENT_FLAGS_DESC
	return q.usedPacked()
}

// usedPacked tells whether the next descriptor was used.
func (q *driverQueue) usedPacked() bool {
	flags := guestmem.Load16(q.desc, 16*int(q.last)+14)
	avail, used := flags&flagAvail != 0, flags&flagUsed != 0
	return avail == used && used == q.lastWrap
}

// takeUsed takes one completion.
func (q *driverQueue) takeUsed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	var id uint16
	if q.d.c.packed {
		if !q.usedPacked() {
			return false
		}
		id = binary.LittleEndian.Uint16(q.desc[16*int(q.last)+12:])
	} else {
		if guestmem.Load16(q.used, 2) == q.last {
			return false
		}
		id = uint16(binary.LittleEndian.Uint32(q.used[4+8*int(q.last%q.size):]))
	}
	r := q.inFlight[id]
	if r == nil {
		q.d.d.k.Errorf("queue %d: request %d is answered, which is not in flight", q.index, id)
		return false
	}
	delete(q.inFlight, id)
	q.free = append(q.free, r.descs...)
	if q.completed++; q.d.c.packed {
		if q.last += r.n; q.last >= q.size {
			q.last, q.lastWrap = q.last-q.size, !q.lastWrap
		}
	} else {
		q.last++
	}
	r.finish(q.d)
	return true
}

// finish tells the result.
func (r *request) finish(v *driver) {
	m := v.data.data[r.slot*slotBytes:][:slotBytes]
	var err error
	if s := m[slotStatus]; s != 0 {
		err = fmt.Errorf("status %d", s)
	}
	r.data = append([]byte(nil), m[slotData:][:r.read]...)
	v.slots <- r.slot
	r.result <- err
}

const (
	blkIn, blkOut, blkFlush = 0, 1, 4
	waitLimit               = 20 * time.Second
)

// wait returns what was read.
func (r *request) wait(t testing.TB) []byte {
	t.Helper()
	select {
	case err := <-r.result:
		if err != nil {
			t.Fatal(err)
		}
		return r.data
	case <-time.After(waitLimit):
		t.Fatal("a request is not answered")
	}
	return nil
}

func (q *driverQueue) write(t testing.TB, sector uint64, data []byte) {
	t.Helper()
	q.start(blkOut, sector, data, 0).wait(t)
}

func (q *driverQueue) read(t testing.TB, sector uint64, n int) []byte {
	t.Helper()
	return q.start(blkIn, sector, nil, n).wait(t)
}
