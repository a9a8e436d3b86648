package virtio

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/guestmem"
)

// exec runs deferred tasks when told.
type exec struct{ tasks env.Tasks }

func (e *exec) Defer(t *env.Task)   { e.tasks.Push(t) }
func (e *exec) Post(fn func()) bool { panic("no goroutines here") }
func (e *exec) run() {
	for t := e.tasks.Pop(); t != nil; t = e.tasks.Pop() {
		t.Run()
	}
}

// slowDisk keeps requests until they are released, in any order.
type slowDisk struct {
	blockdev.Disk
	rng     *rand.Rand
	held    []*blockdev.Request
	hold    bool
	largest uint64
	flags   blockdev.Flags // of the last request
}

func (d *slowDisk) Submit(r *blockdev.Request) {
	d.largest, d.flags = max(d.largest, r.Bytes), r.Flags
	if d.hold {
		d.held = append(d.held, r)
		return
	}
	d.Disk.Submit(r)
}

func (d *slowDisk) release() {
	for len(d.held) > 0 {
		i := d.rng.IntN(len(d.held))
		r := d.held[i]
		d.held = slices.Delete(d.held, i, i+1)
		d.Disk.Submit(r)
	}
}

// box is a guest with a driver and one virtio-blk device with one queue.
type box struct {
	t          testing.TB
	e          *exec
	m          *ram
	d          driver
	memory     *blockdev.Memory
	disk       *slowDisk
	b          *Blk
	interrupts int
	broken     error
	rng        *rand.Rand
}

const diskBytes = 1 << 20

func newBox(t testing.TB, l Layout, m *ram, change func(*BlkConfig)) *box {
	t.Helper()
	x := &box{t: t, e: &exec{}, m: m, rng: rand.New(rand.NewPCG(7, 7))}
	x.d = newDriver(m, l)
	e := &env.Env{Exec: x.e}
	var err error
	if x.memory, err = blockdev.NewMemory(e, "test", diskBytes, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.memory.Free)
	x.disk = &slowDisk{Disk: x.memory, rng: x.rng}
	c := BlkConfig{Env: e, Disk: x.disk, Serial: "serial-of-a-disk-that-is-long", Queues: 1,
		Interrupt: func(int) { x.interrupts++ },
		Broken: func(_ int, err error) {
			if x.broken != nil {
				t.Error("broken twice")
			}
			x.broken = err
		}}
	if change != nil {
		change(&c)
	}
	if x.b, err = NewBlk(c); err != nil {
		t.Fatal(err)
	}
	x.b.SetFeatures(x.b.Features())
	if !l.Packed {
		x.b.features &^= FeaturePacked
	}
	if !l.EventIdx {
		x.b.features &^= FeatureEventIdx
	}
	if !l.Indirect {
		x.b.features &^= FeatureIndirect
	}
	x.start(StartState())
	return x
}

func (x *box) start(s State) {
	x.t.Helper()
	if err := x.b.Start(0, int(x.d.layout().Size), x.m.space, x.d.rings(), s, nil); err != nil {
		x.t.Fatal(err)
	}
}

// stop stops the queue and closes the device.
func (x *box) stop() State {
	x.t.Helper()
	var got *State
	x.b.Stop(0, func(s State) { got = &s })
	x.disk.hold = false
	x.disk.release()
	x.e.run()
	if got == nil {
		x.t.Fatalf("the queue does not stop: %+v", x.b.Stats(0))
	}
	return *got
}

const (
	headAt   = dataAt
	statusAt = dataAt + 64
	payload  = dataAt + 4096
)

func header(kind uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

// scatter cuts a range into parts.
func (x *box) scatter(addr uint64, n uint32, write bool) (list []part) {
	for n > 0 && len(list) < 3 {
		k := 1 + x.rng.Uint32N(n)
		if len(list) == 2 || int(x.d.layout().Size) < 16 {
			k = n
		}
		list = append(list, part{addr, k, write})
		addr, n = addr+uint64(k), n-k
	}
	return list
}

// submit adds one request with its header and status somewhere at slot.
func (x *box) submit(slot uint64, kind uint32, sector uint64, out []byte, in uint32) (id uint16) {
	x.t.Helper()
	h, s, p := headAt+slot*16, statusAt+slot, payload+slot*8192
	if slot > 0 {
		h, s = dataAt+1024+slot*16, dataAt+2048+slot
	}
	x.m.put(part{h, 16, true}, header(kind, sector))
	x.m.put(part{s, 1, true}, []byte{0xee})
	parts := []part{{h, 16, false}}
	if len(out) > 0 {
		x.m.put(part{p, uint32(len(out)), true}, out)
		parts = append(parts, x.scatter(p, uint32(len(out)), false)...)
	}
	if in > 0 {
		parts = append(parts, x.scatter(p, in, true)...)
	}
	parts = append(parts, part{s, 1, true})
	id, ok := x.d.add(parts, x.d.layout().Indirect && (int(x.d.layout().Size) < len(parts) || x.rng.IntN(2) == 0))
	if !ok {
		x.t.Fatalf("no room for %v", parts)
	}
	if x.d.publish() {
		x.b.Kick(0)
	}
	return id
}

// do executes one request alone.
func (x *box) do(kind uint32, sector uint64, out []byte, in uint32) (status byte, data []byte, written uint32) {
	x.t.Helper()
	id := x.submit(0, kind, sector, out, in)
	x.e.run()
	got, n, ok := x.d.used()
	if !ok || got != id {
		x.t.Fatalf("request of type %d is not completed (%v)", kind, x.broken)
	}
	return x.m.get(part{statusAt, 1, false})[0], x.m.get(part{payload, in, false}), n
}

func blkLayouts() []Layout {
	return []Layout{{Size: 16}, {Size: 64, EventIdx: true, Indirect: true}, {Size: 4, Indirect: true},
		{Size: 16, Packed: true}, {Size: 64, Packed: true, EventIdx: true, Indirect: true}}
}

// TestBlkRandom compares a device with a slice of bytes, with memory of both
// kinds.
func TestBlkRandom(t *testing.T) {
	for i, l := range blkLayouts() {
		for _, stable := range []bool{true, false} {
			x := newBox(t, l, newRAMOf(t, stable), nil)
			x.rng = rand.New(rand.NewPCG(uint64(i), 1))
			model := make([]byte, diskBytes)
			for range 400 {
				n := uint64(1+x.rng.IntN(16)) * 512
				sector := x.rng.Uint64N(diskBytes/512 - 16)
				x.randomRequest(model[sector*512:][:n], sector, n)
			}
			x.finish(model, !stable)
		}
	}
}

func (x *box) randomRequest(at []byte, sector, n uint64) {
	x.t.Helper()
	status := byte(0)
	switch x.rng.IntN(5) {
	case 0:
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(x.rng.Uint32())
		}
		copy(at, data)
		status, _, _ = x.do(1, sector, data, 0)
	case 1:
		s, got, written := x.do(0, sector, nil, uint32(n))
		if !bytes.Equal(got, at) || written != uint32(n)+1 {
			x.t.Fatalf("sector %d: something else is read (%d bytes written)", sector, written)
		}
		status = s
	case 2:
		status, _, _ = x.do(4, 0, nil, 0)
	case 3:
		clear(at)
		status, _, _ = x.do(13, 0, ranges(sector, n/512, x.rng.Uint64N(2)), 0)
	case 4:
		status, _, _ = x.do(11, 0, ranges(sector, n/512, 0), 0)
		copy(at, x.memory.Data()[sector*512:])
	}
	if status != 0 {
		x.t.Fatalf("status %d", status)
	}
}

func (x *box) finish(model []byte, bounced bool) {
	x.t.Helper()
	if x.broken != nil || !bytes.Equal(x.memory.Data(), model) {
		x.t.Fatalf("the disk is something else (%v)", x.broken)
	}
	s := x.b.Stats(0)
	if s.Reads == 0 || s.Writes == 0 || s.Zeroes == 0 || s.Discards == 0 || s.Flushes == 0 || s.Errors != 0 ||
		s.InFlight != 0 || bounced != (s.Bounced > 0) {
		x.t.Errorf("%+v", s)
	}
	x.stop()
	x.b.Close()
}

// ranges are triples of sector, number of sectors and flags.
func ranges(list ...uint64) (b []byte) {
	for i := 0; i < len(list); i += 3 {
		b = binary.LittleEndian.AppendUint64(b, list[i])
		b = binary.LittleEndian.AppendUint32(b, uint32(list[i+1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(list[i+2]))
	}
	return b
}

// newRAMOf makes memory that can vanish, or cannot.
func newRAMOf(t testing.TB, stable bool) *ram {
	t.Helper()
	if stable {
		return newRAM(t)
	}
	m, _ := vanishing(t)
	return m
}

// vanishing is memory of a file that can be truncated.
func vanishing(t testing.TB) (*ram, int) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(t.TempDir(), "ram"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Ftruncate(fd, ramBytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	m, err := guestmem.Map(fd, 0, ramBytes, true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := guestmem.NewSpace([]guestmem.Region{
		{Addr: ringAt, Mapping: m, Offset: 0, Bytes: ramBytes / 2, Writable: true},
		{Addr: dataAt, Mapping: m, Offset: ramBytes / 2, Bytes: ramBytes / 2, Writable: true}})
	if err != nil {
		t.Fatal(err)
	}
	m.Release()
	t.Cleanup(s.Release)
	return &ram{t: t, b: m.Data(), space: s, next: tableAt}, fd
}

func TestBlkStatus(t *testing.T) {
	x := newBox(t, Layout{Size: 16}, newRAM(t), nil)
	kb := make([]byte, 1024)
	sectors := uint64(diskBytes / 512)
	for _, c := range []struct {
		what   string
		kind   uint32
		sector uint64
		out    []byte
		in     uint32
		status byte
	}{
		{"a read", 0, 0, nil, 512, 0},
		{"the last sector", 0, sectors - 1, nil, 512, 0},
		{"beyond the end", 0, sectors - 1, nil, 1024, 1},
		{"a write beyond the end", 1, sectors, kb, 0, 1},
		{"an offset that overflows", 1, 1 << 55, kb, 0, 1},
		{"another one", 0, ^uint64(0), nil, 512, 1},
		{"half a sector", 1, 0, kb[:700], 0, 1},
		{"half a sector of a read", 0, 0, nil, 511, 1},
		{"nothing", 1, 0, nil, 0, 0},
		{"an unknown type", 77, 0, nil, 0, 2},
		{"a SCSI command", 2, 0, kb[:100], 100, 2},
		{"no ranges", 11, 0, nil, 0, 1},
		{"half a range", 11, 0, kb[:8], 0, 1},
		{"too many ranges", 13, 0, kb[:33*16], 0, 1},
		{"two ranges", 13, 0, ranges(0, 1, 0, 9, 1, 1), 0, 0},
		{"the second is beyond the end", 11, 0, ranges(0, 1, 0, sectors, 1, 0), 0, 1},
		{"discard with unmap", 11, 0, ranges(0, 1, 1), 0, 2},
		{"zeroes with an unknown flag", 13, 0, ranges(0, 1, 2), 0, 2},
		{"zeroes that are too long", 13, 0, ranges(0, zeroesBytesMax/512+1, 0), 0, 1},
		{"a range that overflows", 11, 0, ranges(1<<63, 1, 0), 0, 1},
	} {
		if status, _, _ := x.do(c.kind, c.sector, c.out, c.in); status != c.status {
			t.Errorf("%s: status %d, want %d", c.what, status, c.status)
		}
	}
	if status, id, n := x.do(8, 0, nil, 20); status != 0 || string(id) != "serial-of-a-disk-tha" || n != 21 {
		t.Errorf("id %q", id)
	}
	x.memory.Fail = func(*blockdev.Request) syscall.Errno { return syscall.EIO }
	if status, _, n := x.do(0, 0, nil, 512); status != 1 || n != 1 {
		t.Errorf("an error of the disk: %d", status)
	}
	if x.broken != nil {
		t.Error(x.broken)
	}
}

func TestBlkReadOnly(t *testing.T) {
	x := newBox(t, Layout{Size: 16}, newRAM(t), func(c *BlkConfig) { c.ReadOnly = true })
	if f := x.b.Features(); f&BlkReadOnly == 0 || f&(BlkDiscard|BlkWriteZeroes) != 0 {
		t.Errorf("features %#x", f)
	}
	for kind, want := range map[uint32]byte{1: 1, 11: 2, 13: 2} {
		if status, _, _ := x.do(kind, 0, make([]byte, 512), 0); status != want {
			t.Errorf("type %d: status %d", kind, status)
		}
	}
	if status, _, _ := x.do(0, 0, nil, 512); status != 0 {
		t.Error("a read")
	}
}

// TestBlkDurable: a driver that will not flush gets durable writes.
func TestBlkDurable(t *testing.T) {
	x := newBox(t, Layout{Size: 16}, newRAM(t), nil)
	write := func() blockdev.Flags {
		x.do(1, 0, make([]byte, 512), 0)
		return x.disk.flags & blockdev.FUA
	}
	if write() != 0 || x.b.Config()[32] != 1 {
		t.Error("durable with a write cache")
	}
	if err := x.b.SetConfig(32, []byte{0}); err != nil || write() == 0 || x.b.Config()[32] != 0 {
		t.Error("not durable without one", err)
	}
	if err := x.b.SetConfig(32, []byte{1}); err != nil || write() != 0 {
		t.Error("durable again", err)
	}
	for _, c := range []struct {
		at   int
		data []byte
	}{{32, []byte{2}}, {0, []byte{1}}, {32, []byte{1, 1}}, {-1, nil}, {1 << 30, []byte{0}}} {
		if x.b.SetConfig(c.at, c.data) == nil {
			t.Errorf("%v was written at %d", c.data, c.at)
		}
	}
	x.b.features &^= BlkFlush
	if write() == 0 {
		t.Error("not durable without FLUSH")
	}
	x.b.features |= BlkFlush
	x.b.features &^= BlkConfigWCE
	if write() != 0 || x.b.SetConfig(32, []byte{0}) == nil {
		t.Error("the mode is set without the feature")
	}
}

func TestBlkConfig(t *testing.T) {
	x := newBox(t, Layout{Size: 16}, newRAM(t), func(c *BlkConfig) { c.Queues = 3; c.QueueSize = 64; c.NoConfigWCE, c.NoPacked = true, true })
	c := x.b.Config()
	le := binary.LittleEndian
	for _, f := range []struct {
		what      string
		got, want uint64
	}{
		{"capacity", le.Uint64(c[0:]), diskBytes / 512}, {"seg_max", uint64(le.Uint32(c[12:])), 62},
		{"blk_size", uint64(le.Uint32(c[20:])), 512}, {"physical_block_exp", uint64(c[24]), 3},
		{"min_io_size", uint64(le.Uint16(c[26:])), 8}, {"opt_io_size", uint64(le.Uint32(c[28:])), 256},
		{"writeback", uint64(c[32]), 1}, {"num_queues", uint64(le.Uint16(c[34:])), 3},
		{"discard_sector_alignment", uint64(le.Uint32(c[44:])), 256}, {"max_discard_seg", uint64(le.Uint32(c[40:])), 32},
		{"write_zeroes_may_unmap", uint64(c[56]), 1},
	} {
		if f.got != f.want {
			t.Errorf("%s is %d, want %d", f.what, f.got, f.want)
		}
	}
	if f := x.b.Features(); f&(BlkConfigWCE|FeaturePacked) != 0 || f&FeatureVersion1 == 0 {
		t.Errorf("features %#x", f)
	}
	for _, n := range []int{0, 65} {
		if _, err := NewBlk(BlkConfig{Queues: n}); err == nil {
			t.Errorf("%d queues", n)
		}
	}
	if x.b.Start(3, 16, x.m.space, x.d.rings(), StartState(), nil) == nil || x.b.Start(1, 1<<20, x.m.space, x.d.rings(), StartState(), nil) == nil {
		t.Error("a queue that cannot be was started")
	}
}

// TestBlkManyAtOnce: disjoint requests in flight, completed in any order, larger
// than there is memory for copies of all of them.
func TestBlkManyAtOnce(t *testing.T) {
	for _, stable := range []bool{true, false} {
		for _, l := range []Layout{{Size: 64, EventIdx: true, Indirect: true}, {Size: 64, Packed: true, EventIdx: true, Indirect: true}, {Size: 64}} {
			x := newBox(t, l, newRAMOf(t, stable), func(c *BlkConfig) { c.BounceBytes = 1 << 20 })
			model := make([]byte, diskBytes)
			for round := range 40 {
				x.disk.hold = true
				sent := uint64(0)
				for slot := range uint64(12) {
					data := bytes.Repeat([]byte{byte(round + int(slot))}, 8192)
					copy(model[slot*20480:], data)
					x.submit(slot, 1, slot*40, data, 0)
					sent++
				}
				interrupts := x.interrupts
				x.d.want(true)
				x.e.run()
				x.disk.hold = false
				x.disk.release()
				x.e.run()
				for range sent {
					if _, _, ok := x.d.used(); !ok {
						t.Fatalf("%v: a request is lost: %+v %v", l, x.b.Stats(0), x.broken)
					}
				}
				if n := x.interrupts - interrupts; n != 1 {
					t.Errorf("%d interrupts for one turn", n)
				}
			}
			if !bytes.Equal(model, x.memory.Data()) {
				t.Fatal("the content is wrong")
			}
			x.stop()
			x.b.Close()
		}
	}
}

// TestBlkWaitsForMemory: copies are limited, requests wait; what can never fit
// fails.
func TestBlkWaitsForMemory(t *testing.T) {
	m, _ := vanishing(t)
	x := newBox(t, Layout{Size: 64, EventIdx: true}, m, func(c *BlkConfig) { c.BounceBytes = 1 })
	// The pool has one span of 1 MiB, which is cut into buffers of one size: 8
	// KiB ones keep it from 256 KiB ones.
	x.disk.hold = true
	x.submit(0, 0, 0, nil, 8192)
	x.submit(2, 0, 0, nil, 200<<10)
	x.submit(1, 0, 0, nil, 8192)
	x.e.run()
	if n := len(x.disk.held); n != 1 || x.b.Stats(0).InFlight != 2 {
		t.Fatalf("%d requests at the disk, %+v", n, x.b.Stats(0))
	}
	stopped := false
	for range 5 {
		x.disk.release()
		x.e.run()
	}
	for range 3 {
		if _, _, ok := x.d.used(); !ok {
			t.Fatal("a request waits for ever")
		}
	}
	x.submit(0, 0, 0, nil, 8192)
	x.submit(2, 0, 0, nil, 200<<10)
	x.b.Stop(0, func(State) { stopped = true })
	for range 5 {
		x.disk.release()
		x.e.run()
	}
	if !stopped {
		t.Fatal("a queue whose request waits does not stop")
	}
	x.b.Close()
}

// TestBlkVanishes: the guest's memory goes away; the queue breaks, nothing else.
func TestBlkVanishes(t *testing.T) {
	for _, hold := range []bool{false, true} {
		m, fd := vanishing(t)
		x := newBox(t, Layout{Size: 16}, m, nil)
		x.do(1, 0, bytes.Repeat([]byte{5}, 4096), 0)
		x.disk.hold = hold
		x.submit(1, 0, 0, nil, 4096) // completed afterwards if held
		x.e.run()
		unix.Ftruncate(fd, 0)
		x.b.Kick(0)
		x.disk.hold = false
		x.disk.release()
		x.e.run()
		var fault *guestmem.Fault
		if x.broken == nil || !strings.Contains(x.broken.Error(), "taken memory away") {
			t.Errorf("hold %v: %v, %v", hold, x.broken, fault)
		}
		if s := x.b.Stats(0); !s.Broken || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
		x.b.Kick(0)
		x.e.run()
		x.stop()
		x.b.Close()
	}
}

// TestBlkStop waits for what is in flight, and another start goes on there.
func TestBlkStop(t *testing.T) {
	for _, l := range blkLayouts() {
		x := newBox(t, l, newRAM(t), nil)
		x.disk.hold = true
		x.submit(0, 1, 0, bytes.Repeat([]byte{9}, 512), 0)
		x.e.run()
		var state *State
		x.b.Stop(0, func(s State) { state = &s })
		x.e.run()
		if state != nil {
			t.Fatal("stopped with a request in flight")
		}
		x.disk.hold = false
		x.disk.release()
		x.e.run()
		if state == nil || x.memory.Data()[0] != 9 {
			t.Fatal("not stopped")
		}
		if _, _, ok := x.d.used(); !ok {
			t.Fatal("not completed")
		}
		x.d.publish()
		x.b.Kick(0) // of a stopped queue
		s := Unpack(state.Pack(l.Packed), l.Packed)
		x.start(s)
		if x.interrupts == 0 {
			t.Error("a driver is not told after a change of servers")
		}
		if status, got, _ := x.do(0, 0, nil, 512); status != 0 || got[0] != 9 {
			t.Fatal("the queue does not go on")
		}
		x.stop()
		x.b.Reset()
		x.b.Close()
	}
}

func TestBlkBroken(t *testing.T) {
	for _, c := range []struct {
		what  string
		parts []part
	}{
		{"no header", []part{{dataAt, 15, false}, {dataAt, 1, true}}},
		{"no header or no status", []part{{dataAt, 16, false}}},
		{"no header or no status", []part{{dataAt, 1, true}}},
		{"not memory", []part{{1, 16, false}, {dataAt, 1, true}}},
	} {
		x := newBox(t, Layout{Size: 16, EventIdx: true}, newRAM(t), nil)
		x.disk.hold = true
		x.submit(0, 0, 0, nil, 512)
		x.d.add(c.parts, false)
		x.d.publish()
		x.b.Kick(0)
		x.e.run()
		if x.broken == nil || !strings.Contains(x.broken.Error(), c.what) {
			t.Errorf("%v, want %q", x.broken, c.what)
		}
		x.b.Kick(0)
		x.disk.release()
		x.e.run()
		x.stop()
		x.b.Reset()
		x.b.SetFeatures(0)
		x.d = newDriver(x.m, Layout{Size: 16})
		x.disk.hold = false
		x.start(StartState())
		if status, _, _ := x.do(0, 0, nil, 512); status != 0 {
			t.Error("a broken queue is not as new after a reset")
		}
	}
}

// pages is a Log.
type pages map[uint64]bool

func (p pages) Written(addr uint64, n uint32) {
	for a := addr >> 12; a <= (addr+uint64(n)-1)>>12; a++ {
		p[a] = true
	}
}

// TestBlkLog: every page that changes is in the log.
func TestBlkLog(t *testing.T) {
	for _, l := range blkLayouts() {
		x := newBox(t, l, newRAM(t), nil)
		log := pages{}
		ring := RingLog{On: true, Desc: ringAt, Device: ringAt + 0x10000}
		if l.Packed {
			ring.Device = ringAt + 0x8100
		}
		x.b.SetLog(0, log, ring)
		for i := range x.memory.Data() {
			x.memory.Data()[i] = byte(i>>9) | 1
		}
		x.submit(0, 0, 3, nil, 8192)
		before := bytes.Clone(x.m.b)
		x.b.Kick(0)
		x.e.run()
		for at := range before {
			if before[at] != x.m.b[at] && !log[x.guest(uint64(at))>>12] {
				t.Fatalf("%v: a change at %#x of the memory is not in the log", l, at)
			}
		}
		if len(log) > 8 {
			t.Errorf("%d pages", len(log))
		}
		x.b.SetLog(0, nil, RingLog{})
		x.stop()
	}
}

// guest is the guest's address of a place in the memory.
func (x *box) guest(at uint64) uint64 {
	for _, r := range x.m.space.Regions() {
		if at >= r.Offset && at < r.Offset+r.Bytes {
			return r.Addr + at - r.Offset
		}
	}
	return 0
}

func TestBlkAllocatesNothing(t *testing.T) {
	for _, stable := range []bool{true, false} {
		x := newBox(t, Layout{Size: 16}, newRAMOf(t, stable), nil)
		d := x.d.(*splitDriver)
		for range 3 {
			x.do(0, 0, nil, 4096)
		}
		x.submit(0, 0, 0, nil, 4096)
		x.e.run()
		n := testing.AllocsPerRun(200, func() {
			put16(d.avail, 4+2*int(d.idx%16), get16(d.avail, 4+2*int((d.idx-1)%16)))
			d.idx++
			put16(d.avail, 2, d.idx)
			x.b.Kick(0)
			x.e.run()
		})
		if n != 0 || x.broken != nil {
			t.Errorf("stable %v: %v allocations (%v)", stable, n, x.broken)
		}
		if s := x.b.Stats(0); s.Reads < 200 {
			t.Errorf("%+v", s)
		}
	}
}
