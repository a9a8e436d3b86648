package virtio

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitastor/internal/guestmem"
)

func closeFD(fd int) { unix.Close(fd) }

// pair is a driver and a device that talk to each other through memory.
type pair struct {
	t      *testing.T
	rng    *rand.Rand
	m      *ram
	d      driver
	q      *Queue
	area   []byte // of requests in flight
	want   map[uint16]request
	flying []*Chain // popped

	kicked, interrupted bool
	sleeping            bool // the driver waits for an interrupt
	waiting             bool // the device waits for a kick
	popped, pushed      int
}

// request is what a driver has asked for.
type request struct {
	parts []part
	order int
}

func newPair(t *testing.T, seed uint64, l Layout, inflight bool) *pair {
	m := newRAM(t)
	p := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 3)), m: m, d: newDriver(m, l), q: &Queue{}, want: map[uint16]request{}}
	if inflight {
		p.area = shared(t, InflightBytes(l.Size, l.Packed))
	}
	p.start(StartState())
	return p
}

func shared(t testing.TB, n int) []byte {
	t.Helper()
	fd, m, err := guestmem.NewShared("test", uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	closeFD(fd)
	t.Cleanup(m.Release)
	return m.Data()
}

func (p *pair) start(s State) {
	p.t.Helper()
	var f *Inflight
	if p.area != nil {
		var err error
		if f, err = NewInflight(p.area, p.d.layout().Size, p.d.layout().Packed); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.q.Start(p.d.layout(), p.m.space, p.d.rings(), s, f); err != nil {
		p.t.Fatal(err)
	}
	p.waiting, p.kicked = false, true
	p.interrupted = true // transports interrupt after a start
}

// parts makes a random request in random memory.
func (p *pair) parts() (list []part) {
	limit := int(p.d.layout().Size)
	n := 1 + p.rng.IntN(min(limit, 5))
	reads := p.rng.IntN(n + 1)
	for i := range n {
		list = append(list, part{dataAt + p.rng.Uint64N(dataBytes-5000), uint32(1 + p.rng.IntN(5000)), i >= reads})
	}
	if p.rng.IntN(4) == 0 {
		i := p.rng.IntN(n)
		list[i].addr = dataAt + dataBytes/2 - p.rng.Uint64N(uint64(list[i].n)) // spans two regions
	}
	return list
}

// submit adds a few requests and kicks if the device wants it.
func (p *pair) submit() {
	for range 1 + p.rng.IntN(4) {
		parts := p.parts()
		id, ok := p.d.add(parts, p.d.layout().Indirect && p.rng.IntN(2) == 0)
		if !ok {
			break
		}
		p.want[id] = request{parts: parts, order: p.popped + len(p.want)}
	}
	if p.d.publish() {
		p.kicked = true
	}
}

// work is the device's loop, which must not run if nobody kicks it.
func (p *pair) work() {
	if p.waiting && !p.kicked {
		return
	}
	p.kicked, p.waiting = false, false
	p.check2(p.q.Kicks(false))
	for range 1 + p.rng.IntN(8) {
		c := &Chain{}
		ok, err := p.q.Pop(c)
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			more, err := p.q.Kicks(true)
			if err != nil {
				p.t.Fatal(err)
			}
			p.waiting, p.kicked = !more, p.kicked && more
			return
		}
		p.popped++
		p.flying = append(p.flying, c)
	}
}

func (p *pair) check2(_ bool, err error) {
	if err != nil {
		p.t.Fatal(err)
	}
}

// complete pushes some requests, in any order, with data.
func (p *pair) complete() {
	for range p.rng.IntN(4) {
		if len(p.flying) == 0 {
			break
		}
		i := p.rng.IntN(len(p.flying))
		c := p.flying[i]
		p.flying = slices.Delete(p.flying, i, i+1)
		for _, w := range c.Write {
			for j := range w {
				w[j] = byte(p.pushed)
			}
		}
		if err := p.q.Push(c, uint32(c.WriteBytes)); err != nil {
			p.t.Fatal(err)
		}
		p.pushed++
	}
	yes, err := p.q.Interrupt()
	if err != nil {
		p.t.Fatal(err)
	}
	p.interrupted = p.interrupted || yes
}

// collect is the driver's interrupt handler; it must not run without one.
func (p *pair) collect() {
	if p.sleeping && !p.interrupted {
		return
	}
	p.interrupted, p.sleeping = false, false
	p.d.want(false)
	for {
		id, n, ok := p.d.used()
		if !ok {
			break
		}
		r, found := p.want[id]
		if !found {
			p.t.Fatalf("%d was completed twice", id)
		}
		delete(p.want, id)
		sum := uint32(0)
		for _, x := range r.parts {
			if x.write {
				sum += x.n
			}
		}
		if n != sum {
			p.t.Fatalf("%d bytes were written to %d, the device says %d", sum, id, n)
		}
	}
	if p.rng.IntN(3) > 0 {
		p.sleeping = !p.d.want(true)
	}
}

// TestRandom: any order of steps on any kind of ring; nobody looks at the other's
// part unless told, so a lost notification ends in a standstill.
func TestRandom(t *testing.T) {
	for _, l := range layouts() {
		for seed := range uint64(3) {
			p := newPair(t, seed, l, seed == 2)
			for range 1500 {
				switch p.rng.IntN(4) {
				case 0:
					p.submit()
				case 1:
					p.work()
				case 2:
					p.complete()
				case 3:
					p.collect()
				}
			}
			for range 1000 {
				p.work()
				p.complete()
				p.collect()
			}
			if len(p.want) > 0 || p.q.InFlight() != 0 || p.popped != p.pushed || p.popped < 50 {
				t.Fatalf("%v seed %d: %d requests are never completed (%d popped, %d pushed, waiting %v, sleeping %v)",
					l, seed, len(p.want), p.popped, p.pushed, p.waiting, p.sleeping)
			}
		}
	}
}

// TestContent: what the device gets is what the driver describes.
func TestContent(t *testing.T) {
	for _, l := range layouts() {
		p := newPair(t, 1, l, true)
		for round := range 200 {
			parts := p.parts()
			var read []byte
			writes := uint64(0)
			for i, x := range parts {
				data := make([]byte, x.n)
				for j := range data {
					data[j] = byte(p.rng.Uint32())
				}
				if x.write {
					writes += uint64(x.n)
				} else {
					p.m.put(part{x.addr, x.n, true}, data)
				}
				_ = i
			}
			for _, x := range parts { // they may overlap: read when all are there
				if !x.write {
					read = append(read, p.m.get(x)...)
				}
			}
			if _, ok := p.d.add(parts, l.Indirect && round%2 == 0); !ok {
				t.Fatal("no room")
			}
			p.d.publish()
			var c Chain
			if ok, err := p.q.Pop(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if got := bytes.Join(c.Read, nil); !bytes.Equal(got, read) || c.ReadBytes != uint64(len(read)) {
				t.Fatalf("%v: the device reads something else", l)
			}
			if n := len(bytes.Join(c.Write, nil)); uint64(n) != writes || c.WriteBytes != writes {
				t.Fatalf("%v: the device may write %d bytes of %d", l, n, writes)
			}
			if err := p.q.Push(&c, 0); err != nil {
				t.Fatal(err)
			}
			if _, _, ok := p.d.used(); !ok {
				t.Fatalf("%v: not completed", l)
			}
		}
	}
}

// TestTakeOver: servers die with requests in flight; the next one does them
// again, in their order, and no other.
func TestTakeOver(t *testing.T) {
	for _, l := range layouts() {
		for seed := range uint64(4) {
			p := newPair(t, seed, l, true)
			for range 120 {
				for range p.rng.IntN(10) {
					p.submit()
					p.work()
					p.complete()
					p.collect()
				}
				p.takeOver()
			}
			for range 1000 {
				p.work()
				p.complete()
				p.collect()
			}
			if len(p.want) > 0 {
				t.Fatalf("%v seed %d: %d requests are lost", l, seed, len(p.want))
			}
		}
	}
}

// takeOver replaces the device by a new one.
func (p *pair) takeOver() {
	p.t.Helper()
	flying := p.flying
	p.flying = nil
	p.q = &Queue{}
	p.start(State{Avail: 0xbad & (p.d.layout().Size - 1)})
	slices.SortFunc(flying, func(a, b *Chain) int { return int(a.order(p)) - int(b.order(p)) })
	for _, old := range flying {
		c := &Chain{}
		ok, err := p.q.Pop(c)
		if !ok || err != nil {
			p.t.Fatalf("%v: a request in flight is lost: %v", p.d.layout(), err)
		}
		if c.head != old.head && !p.d.layout().Packed || c.id != old.id || c.slots != old.slots ||
			c.ReadBytes != old.ReadBytes || c.WriteBytes != old.WriteBytes {
			p.t.Fatalf("%v: request %d comes instead of %d", p.d.layout(), c.id, old.id)
		}
		p.flying = append(p.flying, c)
	}
}

// order is the place of a chain in the order of popping.
func (c *Chain) order(p *pair) uint64 {
	f := p.area
	if p.d.layout().Packed {
		return uint64(get32(f, packedHead+int(c.head)*packedEntry+8))
	}
	return uint64(get32(f, splitHead+int(c.head)*splitEntry+8))
}

// TestDeathInPush stops a push at each of its steps.
func TestDeathInPush(t *testing.T) {
	for _, packed := range []bool{false, true} {
		for at := range 4 {
			l := Layout{Size: 4, Packed: packed}
			p := newPair(t, 1, l, true)
			var chains []*Chain
			for range 3 {
				if _, ok := p.d.add([]part{{dataAt, 100, true}}, false); !ok {
					t.Fatal("no room")
				}
				p.d.publish()
				c := &Chain{}
				if ok, err := p.q.Pop(c); !ok || err != nil {
					t.Fatal(err)
				}
				chains = append(chains, c)
			}
			seen := pushPartly(p, chains[1], at)
			p.q = &Queue{}
			p.start(StartState())
			for i, old := range chains {
				if i == 1 && seen {
					continue
				}
				c := &Chain{}
				if ok, err := p.q.Pop(c); !ok || err != nil || c.id != old.id {
					t.Fatalf("packed %v, step %d: request %d is lost (%v)", packed, at, i, err)
				}
				if err := p.q.Push(c, 100); err != nil {
					t.Fatal(err)
				}
			}
			if ok, err := p.q.Pop(&Chain{}); ok || err != nil {
				t.Fatalf("packed %v, step %d: a request is done twice: %v", packed, at, err)
			}
			for range 3 {
				if _, _, ok := p.d.used(); !ok {
					t.Fatalf("packed %v, step %d: not completed", packed, at)
				}
			}
		}
	}
}

// pushPartly does the first steps of a push; it tells whether the driver can see
// it already.
func pushPartly(p *pair, c *Chain, steps int) (seen bool) {
	q, f := p.q, p.q.inflight
	if p.d.layout().Packed {
		next, wrap := step(q.state.Used, q.state.UsedWrap, c.slots, q.Size)
		if steps > 0 {
			f.pushingPacked(c.head, State{Used: next, UsedWrap: wrap})
		}
		if steps > 1 {
			put32(p.d.rings().Desc, 8, 100)
			put16(p.d.rings().Desc, 12, c.id)
			put16(p.d.rings().Desc, 14, 1<<7|1<<15|2)
		}
		if steps > 2 {
			f.pushedPacked(c.head)
		}
		return steps > 1
	}
	if steps > 0 {
		put32(p.d.rings().Device, 4, uint32(c.head))
		put32(p.d.rings().Device, 8, 100)
		f.pushingSplit(c.head)
	}
	if steps > 1 {
		put16(p.d.rings().Device, 2, 1)
	}
	if steps > 2 {
		f.pushedSplit(c.head, 1)
	}
	return steps > 1
}

func TestHostileSplit(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(d *splitDriver)
	}{
		{"head descriptor 8 of 8", func(d *splitDriver) { put16(d.avail, 4, 8); put16(d.avail, 2, 1) }},
		{"9 requests are available", func(d *splitDriver) { put16(d.avail, 2, 9) }},
		{"longer than the 8", func(d *splitDriver) {
			writeSplit(d.desc, 0, part{dataAt, 1, false}, 1, 1)
			writeSplit(d.desc, 1, part{dataAt, 1, false}, 1, 0)
			put16(d.avail, 2, 1)
		}},
		{"descriptor 65535", func(d *splitDriver) {
			writeSplit(d.desc, 0, part{dataAt, 1, false}, 1, 65535)
			put16(d.avail, 2, 1)
		}},
		{"read from after", func(d *splitDriver) { d.add([]part{{dataAt, 1, true}, {dataAt, 1, false}}, false); d.publish() }},
		{"not memory", func(d *splitDriver) { d.add([]part{{dataAt + dataBytes - 1, 2, false}}, false); d.publish() }},
		{"not memory", func(d *splitDriver) { d.add([]part{{^uint64(0), ^uint32(0), true}}, false); d.publish() }},
		{"table of 17 bytes", func(d *splitDriver) {
			writeSplit(d.desc, 0, part{ringAt, 17, false}, 4, 0)
			put16(d.avail, 2, 1)
		}},
		{"table of 0 bytes", func(d *splitDriver) { writeSplit(d.desc, 0, part{ringAt, 0, false}, 4, 0); put16(d.avail, 2, 1) }},
		{"table of 16400 bytes", func(d *splitDriver) {
			writeSplit(d.desc, 0, part{ringAt, 1025 * 16, false}, 4, 0)
			put16(d.avail, 2, 1)
		}},
		{"table of 16 bytes at 0x1, which", func(d *splitDriver) {
			writeSplit(d.desc, 0, part{1, 16, false}, 4, 0)
			put16(d.avail, 2, 1)
		}},
		{"has a next one", func(d *splitDriver) { writeSplit(d.desc, 0, part{ringAt, 16, false}, 5, 0); put16(d.avail, 2, 1) }},
		{"refers to another", func(d *splitDriver) {
			writeSplit(d.desc, 0, part{ringAt, 16, false}, 4, 0) // to itself
			put16(d.avail, 2, 1)
		}},
		{"while it is in use", func(d *splitDriver) {
			writeSplit(d.desc, 3, part{dataAt, 1, false}, 0, 0)
			put16(d.avail, 4, 3)
			put16(d.avail, 6, 3)
			put16(d.avail, 2, 2)
		}},
	} {
		p := newPair(t, 1, Layout{Size: 8, Indirect: true}, false)
		c.do(p.d.(*splitDriver))
		expectBroken(t, p.q, c.what)
	}
	p := newPair(t, 1, Layout{Size: 8}, false)
	p.d.add([]part{{dataAt, 1, false}}, true)
	p.d.publish()
	expectBroken(t, p.q, "not negotiated")
}

func expectBroken(t *testing.T, q *Queue, what string) {
	t.Helper()
	for range 20 {
		ok, err := q.Pop(&Chain{})
		if err != nil {
			if !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), what) {
				t.Errorf("%v, want %q", err, what)
			}
			return
		}
		if !ok {
			break
		}
	}
	t.Errorf("%s: not noticed", what)
}

func TestHostilePacked(t *testing.T) {
	all := func(d *packedDriver, flags uint16) {
		for i := range int(d.l.Size) {
			put64(d.ring, i*16, dataAt)
			put32(d.ring, i*16+8, 1)
			put16(d.ring, i*16+14, flags)
		}
	}
	for _, c := range []struct {
		what string
		do   func(d *packedDriver)
	}{
		{"more descriptors are available", func(d *packedDriver) { all(d, 1<<7|1) }},
		{"read from after", func(d *packedDriver) { d.add([]part{{dataAt, 1, true}, {dataAt, 1, false}}, false); d.publish() }},
		{"not memory", func(d *packedDriver) { d.add([]part{{0, 1, true}}, false); d.publish() }},
		{"has a next one", func(d *packedDriver) { all(d, 1<<7|1|4); put32(d.ring, 8, 16) }},
		{"table of 1 bytes", func(d *packedDriver) { all(d, 1<<7|4) }},
		{"refers to another", func(d *packedDriver) { all(d, 1<<7|4); put64(d.ring, 0, ringAt); put32(d.ring, 8, 32) }},
	} {
		p := newPair(t, 1, Layout{Size: 8, Packed: true, Indirect: true}, false)
		c.do(p.d.(*packedDriver))
		expectBroken(t, p.q, c.what)
	}
	// Descriptors that were made available again while the device has them.
	p := newPair(t, 1, Layout{Size: 2, Packed: true}, false)
	d := p.d.(*packedDriver)
	all(d, 1<<7)
	for range 2 {
		if ok, err := p.q.Pop(&Chain{}); !ok || err != nil {
			t.Fatal(err)
		}
	}
	all(d, 1<<15)
	expectBroken(t, p.q, "more descriptors are available")
}

func TestBadStarts(t *testing.T) {
	m := newRAM(t)
	d := newDriver(m, Layout{Size: 8})
	good := d.rings()
	for _, c := range []struct {
		what string
		l    Layout
		r    Rings
		s    State
	}{
		{"not possible", Layout{Size: 0}, good, State{}},
		{"not possible", Layout{Size: 6}, good, State{}},
		{"not possible", Layout{Size: 2048}, good, State{}},
		{"descriptors of 128 bytes", Layout{Size: 16}, good, State{}},
		{"driver's part of", Layout{Size: 8}, Rings{good.Desc, good.Driver[:21], good.Device}, State{}},
		{"device's part of", Layout{Size: 8}, Rings{good.Desc, good.Driver, good.Device[1:]}, State{}},
		{"not aligned to 16", Layout{Size: 8}, Rings{m.b[8:500], good.Driver, good.Device}, State{}},
		{"not aligned to 4", Layout{Size: 8}, Rings{good.Desc, good.Driver, m.b[2:500]}, State{}},
		{"cannot be at position 8", Layout{Size: 8, Packed: true}, good, State{Avail: 8}},
	} {
		q := &Queue{}
		if err := q.Start(c.l, m.space, c.r, c.s, nil); err == nil || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%v, want %q", err, c.what)
		}
		if q.Running() {
			t.Error("it runs")
		}
	}
}

func TestHostileInflight(t *testing.T) {
	for _, packed := range []bool{false, true} {
		r := rand.New(rand.NewPCG(5, 5))
		for range 3000 {
			l := Layout{Size: 8, Packed: packed, Indirect: true}
			p := newPair(t, 1, l, true)
			p.submit()
			p.work()
			for range 1 + r.IntN(6) {
				p.area[8+r.IntN(len(p.area)-8)] = byte(r.IntN(12))
			}
			q := &Queue{}
			f, err := NewInflight(p.area, l.Size, packed)
			if err != nil || q.Start(l, p.m.space, p.d.rings(), StartState(), f) != nil {
				continue
			}
			for range 20 { // no panic, no endless loop
				c := &Chain{}
				if ok, err := q.Pop(c); !ok || err != nil {
					break
				}
				if q.Push(c, 1) != nil {
					break
				}
			}
			p.m.space.Regions()
		}
	}
}

// TestStopInFlight: chains of a stopped queue release their memory, and change
// nothing.
func TestStopInFlight(t *testing.T) {
	for _, packed := range []bool{false, true} {
		p := newPair(t, 1, Layout{Size: 8, Packed: packed}, false)
		p.d.add([]part{{dataAt, 10, true}}, false)
		p.d.publish()
		var c Chain
		if ok, err := p.q.Pop(&c); !ok || err != nil {
			t.Fatal(err)
		}
		p.q.Stop()
		p.d = newDriver(p.m, p.d.layout())
		p.start(StartState())
		if err := p.q.Push(&c, 1); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := p.d.used(); ok || p.q.InFlight() != 0 {
			t.Error("a request of a former life was completed")
		}
	}
}

func TestStateRoundTrip(t *testing.T) {
	for _, s := range []State{{1, 2, true, false}, {0x7fff, 0, false, true}, {}} {
		if got := Unpack(s.Pack(true), true); got != s {
			t.Errorf("%+v became %+v", s, got)
		}
	}
	if got := Unpack(State{Avail: 65535}.Pack(false), false); got != (State{Avail: 65535}) {
		t.Errorf("%+v", got)
	}
}

func TestQueueAllocatesNothing(t *testing.T) {
	for _, l := range []Layout{{Size: 8, EventIdx: true, Indirect: true}, {Size: 8, Packed: true, EventIdx: true, Indirect: true}} {
		p := newPair(t, 1, l, true)
		c := &Chain{}
		parts := []part{{dataAt, 16, false}, {dataAt + 16, 4096, true}, {dataAt + 8192, 1, true}}
		n := testing.AllocsPerRun(200, func() {
			p.q.Pop(c)
			p.q.Kicks(true)
			if c.mem != nil {
				p.q.Push(c, 1)
			}
			p.q.Interrupt()
		})
		before := n
		p.d.add(parts, true)
		p.d.publish()
		n = testing.AllocsPerRun(1, func() {
			p.q.Pop(c)
			p.q.Kicks(true)
			p.q.Interrupt()
		})
		if n > 6 || before != 0 { // the slices grow once
			t.Errorf("%v: %v, %v allocations", l, before, n)
		}
	}
}
