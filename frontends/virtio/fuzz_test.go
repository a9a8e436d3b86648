package virtio

import (
	"errors"
	"testing"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/guestmem"
)

// arena is the memory of a fuzzed guest, with a model of what it may be:
//
//	0        rings, 3 x 1 KiB, then data: region at 0x1000, may be written
//	0x3000   forbidden
//	0x4000   region at 0x4000, to be read only
//	0x5000   region at 0x5000 (adjacent), may be written
//	0x6000   forbidden
type arena struct {
	b     []byte
	space *guestmem.Space
	model []byte
	may   []int // changes of the number of reasons why the device may have written here
}

const arenaBytes = 0x7000

func newArena(t testing.TB) *arena {
	fd, m, err := guestmem.NewShared("fuzz", arenaBytes)
	if err != nil {
		t.Fatal(err)
	}
	closeFD(fd)
	s, err := guestmem.NewSpace([]guestmem.Region{
		{Addr: 0x1000, Mapping: m, Offset: 0, Bytes: 0x3000, Writable: true},
		{Addr: 0x4000, Mapping: m, Offset: 0x4000, Bytes: 0x1000},
		{Addr: 0x5000, Mapping: m, Offset: 0x5000, Bytes: 0x1000, Writable: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &arena{b: m.Data(), space: s, model: make([]byte, arenaBytes), may: make([]int, arenaBytes+1)}
}

// reset fills the memory with what the fuzzer wants in the first region.
func (a *arena) reset(data []byte) {
	for i := range a.b {
		a.b[i] = 0xa5
	}
	clear(a.may)
	clear(a.b[:0x3000])
	copy(a.b[:0x3000], data)
	copy(a.model, a.b)
}

// Slices implements Memory, and remembers what may be written.
func (a *arena) Slices(dst [][]byte, addr uint64, n uint32, write bool) ([][]byte, bool) {
	got, ok := a.space.Slices(dst, addr, n, write)
	if ok && write {
		if addr < 0x4000 {
			addr -= 0x1000
		}
		a.allow(int(addr), int(n))
	}
	return got, ok
}

// allow lets the device write a range, in O(1).
func (a *arena) allow(at, n int) {
	a.may[at]++
	a.may[at+n]--
}

func (a *arena) Stable() bool { return true }
func (a *arena) Hold()        {}
func (a *arena) Release()     {}

// rings are the three parts, and all that the device may write of them.
func (a *arena) rings(l Layout) Rings {
	_, _, device := l.Bytes()
	a.allow(0x800, device)
	if l.Packed {
		a.allow(0, int(l.Size)*16)
	}
	return Rings{a.b[0:0x400], a.b[0x400:0x800], a.b[0x800:0xc00]}
}

// poke is a write of the guest.
func (a *arena) poke(at int, v byte) {
	a.b[at], a.model[at] = v, v
}

func (a *arena) check(t *testing.T) {
	reasons := 0
	for i := range a.b {
		reasons += a.may[i]
		never := i >= 0x3000 && i < 0x5000 || i >= 0x6000
		if a.b[i] != a.model[i] && (reasons == 0 || never) {
			t.Fatalf("byte %#x of the memory was changed, which nobody may write", i)
		}
	}
}

// script takes single bytes of what the fuzzer wants.
type script struct{ b []byte }

func (s *script) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

// seeds are a valid read and a chain of three, in memory as split and packed
// rings want it.
func seeds(f *testing.F) {
	split := make([]byte, 0x1100)
	writeSplit(split, 0, part{0x2000, 16, false}, 1, 1)
	writeSplit(split, 1, part{0x5000, 512, true}, 1, 2)
	writeSplit(split, 2, part{0x2010, 1, true}, 0, 0)
	writeSplit(split, 3, part{0x2100, 48, false}, 4, 0)
	put16(split, 0x406, 3)
	put16(split, 0x402, 2)
	copy(split[0x1000:], header(0, 1))
	f.Add(byte(0x03), []byte{2, 0, 4, 0, 5, 1, 2, 0}, split)
	f.Add(byte(0x06), []byte{2, 0, 4, 0, 1, 0x80, 0x10, 1, 2, 0}, split)
	across := append([]byte(nil), split...) // writes to what is to be read only
	put64(across, 16, 0x4f00)
	f.Add(byte(0x23), []byte{2, 4, 1, 2, 2, 4}, across)
	packed := make([]byte, 0x1100)
	for i, p := range []part{{0x2000, 16, false}, {0x5000, 1024, true}, {0x2010, 1, true}} {
		flags := uint16(1<<7 | 1)
		if p.write {
			flags |= 2
		}
		if i == 2 {
			flags &^= 1
		}
		put64(packed, i*16, p.addr)
		put32(packed, i*16+8, p.n)
		put16(packed, i*16+14, flags)
	}
	copy(packed[0x1000:], header(1, 0))
	f.Add(byte(0x03), []byte{2, 0, 4, 0, 5, 1, 2, 0}, packed)
	f.Add(byte(0x1a), []byte{2, 2, 2, 4, 4, 3, 6}, packed)
}

// fuzzQueue lets a driver that does anything use a queue.
func fuzzQueue(t *testing.T, a *arena, l Layout, steps *script, memory []byte, shared []byte) {
	a.reset(memory)
	clear(shared)
	q := &Queue{}
	var flying []*Chain
	start := func(s State) bool {
		in, err := NewInflight(shared, l.Size, l.Packed)
		if err != nil {
			return false
		}
		return q.Start(l, a, a.rings(l), s, in) == nil
	}
	if !start(StartState()) {
		return
	}
	for len(steps.b) > 0 {
		switch op := steps.next(); op % 8 {
		case 0, 1:
			a.poke((int(steps.next())<<8|int(steps.next()))%0x3000, steps.next())
		case 2, 3:
			c := &Chain{}
			ok, err := q.Pop(c)
			if err != nil {
				if !errors.Is(err, ErrRing) && !errors.Is(err, ErrStale) {
					t.Fatal(err)
				}
				a.check(t)
				return
			}
			if ok {
				scribble(c)
				flying = append(flying, c)
			}
			if len(flying) > int(l.Size) {
				t.Fatal("more requests than descriptors are in flight")
			}
		case 4:
			if len(flying) > 0 {
				i := int(op/8) % len(flying)
				q.Push(flying[i], uint32(flying[i].WriteBytes))
				flying = append(flying[:i], flying[i+1:]...)
			}
			q.Interrupt()
		case 5:
			q.Kicks(op&8 != 0)
		case 6: // another server
			flying = nil
			q = &Queue{}
			if !start(State{Avail: uint16(op) % l.Size, AvailWrap: true}) {
				a.check(t)
				return
			}
		case 7:
			i := steps.next()
			shared[int(i)%len(shared)] = steps.next()
		}
	}
	a.check(t)
}

// scribble uses the memory of a chain as a device would.
func scribble(c *Chain) {
	sum := byte(0)
	for _, r := range c.Read {
		sum += r[0] + r[len(r)-1]
	}
	for _, w := range c.Write {
		w[0], w[len(w)-1] = sum, sum
	}
}

func fuzzLayout(kind byte, packed bool) Layout {
	return Layout{Size: 1 << (kind >> 4 & 3), Packed: packed, EventIdx: kind&1 != 0, Indirect: kind&2 != 0}
}

func FuzzSplit(f *testing.F) {
	seeds(f)
	a, shared := newArena(f), shared(f, InflightBytes(8, false))
	f.Fuzz(func(t *testing.T, kind byte, steps, memory []byte) {
		fuzzQueue(t, a, fuzzLayout(kind, false), &script{steps}, memory, shared)
	})
}

func FuzzPacked(f *testing.F) {
	seeds(f)
	a, shared := newArena(f), shared(f, InflightBytes(8, true))
	f.Fuzz(func(t *testing.T, kind byte, steps, memory []byte) {
		fuzzQueue(t, a, fuzzLayout(kind, true), &script{steps}, memory, shared)
	})
}

// FuzzBlk lets a driver that does anything use a disk.
func FuzzBlk(f *testing.F) {
	seeds(f)
	a := newArena(f)
	x := &exec{}
	e := &env.Env{Exec: x}
	disk, err := blockdev.NewMemory(e, "fuzz", 64<<10, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind byte, steps, memory []byte) {
		l := fuzzLayout(kind, kind&4 != 0)
		a.reset(memory)
		broken := false
		b, err := NewBlk(BlkConfig{Env: e, Disk: disk, Queues: 1, Interrupt: func(int) {}, Broken: func(int, error) { broken = true }})
		if err != nil {
			t.Fatal(err)
		}
		b.SetFeatures(b.Features())
		if !l.Packed {
			b.features &^= FeaturePacked
		}
		if b.Start(0, int(l.Size), a, a.rings(l), StartState(), nil) != nil {
			return
		}
		for s := (&script{steps}); len(s.b) > 0; {
			switch s.next() % 4 {
			case 0:
				a.poke((int(s.next())<<8|int(s.next()))%0x3000, s.next())
			case 1:
				b.Kick(0)
			default:
				x.run()
			}
		}
		x.run()
		stopped := false
		b.Stop(0, func(State) { stopped = true })
		x.run()
		if s := b.Stats(0); !stopped || s.InFlight != 0 || s.Running {
			t.Fatalf("the queue does not stop (broken %v): %+v", broken, s)
		}
		b.Close()
		a.check(t)
	})
}
