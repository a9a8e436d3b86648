package sim

import (
	"math/rand/v2"

	"vitastor/internal/env"
)

// What a power loss leaves of the writes that were not durable: of each all,
// nothing or some of its units (DiskConfig.TearBytes), independently of its
// order and of the others. Two things limit it. Of two completed writes to one
// place the older never comes back over the newer, because a disk's cache is
// coherent. And a write inside one atomic window is never torn.
//
// A disk that behaves can do each of these things; a real one usually does not
// do them all at once. So the fates are drawn under a random regime, from
// "nothing survives" over "exactly one write is lost" to "all independent":
// each regime finds mistakes that the others hide.

type fate uint8

const (
	fateLost fate = iota
	fateKept
	fateTorn
)

type regime uint8

const (
	regimeNothing     regime = iota // no undurable write survives
	regimeAll                       // every write survives, also those in flight
	regimeIndependent               // each by its own chance
	regimeCut                       // the first k survive, the next is torn
	regimeReverseCut                // the last k survive, the one before is torn
	regimeOneLost
	regimeOneKept
	regimes
)

// fates deals fates to n writes in the order of their completion.
type fates struct {
	rng        *rand.Rand
	regime     regime
	n, i, cut  int
	keep, tear float64
}

func newFates(g regime, rng *rand.Rand, n int) fates {
	f := fates{rng: rng, regime: g, n: n, cut: rng.IntN(n + 1)}
	f.keep = [...]float64{0.1, 0.5, 0.9}[rng.IntN(3)]
	f.tear = [...]float64{0, 0.1, 0.5}[rng.IntN(3)]
	return f
}

func (f *fates) next() fate {
	i := f.i
	f.i++
	switch f.regime {
	case regimeNothing:
		return fateLost
	case regimeAll:
		return fateKept
	case regimeCut:
		return cutFate(i, f.cut)
	case regimeReverseCut:
		return cutFate(f.n-1-i, f.cut)
	case regimeOneLost:
		return fate(1 - boolBit(i == f.cut%f.n))
	case regimeOneKept:
		return fate(boolBit(i == f.cut%f.n))
	}
	if f.rng.Float64() < f.tear {
		return fateTorn
	}
	return fate(boolBit(f.rng.Float64() < f.keep))
}

func cutFate(i, cut int) fate {
	switch {
	case i < cut:
		return fateKept
	case i == cut:
		return fateTorn
	}
	return fateLost
}

// PowerLoss loses the power of this disk alone: its contents become one of the
// possible post-crash contents, and requests in flight are never answered.
func (d *Disk) PowerLoss() {
	m := d.PowerLossImages(1)[0]
	d.w.trace(traceDiskLoss, d.index, d.samples, uint64(len(d.pending)))
	d.abandonInFlight()
	d.lock = nil
	d.setContents(m)
}

// PowerLossImages returns n contents that the disk may have if the power is
// lost at this moment. The disk itself goes on undisturbed. Of n >= 2 images
// the first holds the minimum and the second the maximum; the others are drawn
// at random, differently in every call.
func (d *Disk) PowerLossImages(n int) []*Image {
	out := make([]*Image, n)
	for i := range out {
		d.samples++
		rng := d.sampleRand()
		g := regime(rng.IntN(int(regimes)))
		if n >= 2 && i < 2 {
			g = regime(i)
		}
		out[i] = d.powerLossImage(g, rng)
	}
	return out
}

// CrashImages returns n contents that the disk may have after the process is
// killed at this moment: completed writes are there, those in flight may be.
func (d *Disk) CrashImages(n int) []*Image {
	out := make([]*Image, n)
	for i := range out {
		d.samples++
		rng := d.sampleRand()
		m := d.visible.Clone()
		for _, r := range d.writesInFlight(rng) {
			d.applyPart(m, r, killFate(rng), rng)
		}
		out[i] = m
	}
	return out
}

func (d *Disk) sampleRand() *rand.Rand {
	s := deriveSeed(d.w.seed, d.name, d.samples)
	return rand.New(rand.NewPCG(s, d.samples))
}

func (d *Disk) powerLossImage(g regime, rng *rand.Rand) *Image {
	m := d.durable.Clone()
	writes := d.writesInFlight(rng)
	f := newFates(g, rng, len(d.pending)+len(writes))
	for _, c := range d.pending {
		switch f.next() {
		case fateKept:
			m.write(c.off, c.data)
		case fateTorn:
			d.tear(m, c.off, c.data, c.atomic, rng)
		}
	}
	for _, r := range writes {
		d.applyPart(m, r, f.next(), rng)
	}
	return m
}

// writesInFlight lists them in any order: nothing orders overlapping ones.
func (d *Disk) writesInFlight(rng *rand.Rand) []*diskRequest {
	if d.inFlight == 0 {
		return nil
	}
	writes := make([]*diskRequest, 0, d.inFlight)
	for r := d.first; r != nil; r = r.next {
		if r.op.Kind == env.DiskWrite && r.err == nil {
			writes = append(writes, r)
		}
	}
	rng.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	return writes
}

func (d *Disk) applyPart(m *Image, r *diskRequest, f fate, rng *rand.Rand) {
	switch f {
	case fateKept:
		eachPart(r.op, m.write)
	case fateTorn:
		if len(r.op.Iov) == 0 {
			d.tear(m, r.op.Offset, r.op.Buf, r.op.Flags&env.DiskAtomic != 0, rng)
			return
		}
		c := d.getWrite(int(r.n))
		n := 0
		eachPart(r.op, func(_ int64, b []byte) { n += copy(c.data[n:], b) })
		d.tear(m, r.op.Offset, c.data, r.op.Flags&env.DiskAtomic != 0, rng)
		d.putWrite(c)
	}
}

// tear writes some units of b: a prefix, a suffix or any subset.
func (d *Disk) tear(m *Image, off int64, b []byte, atomic bool, rng *rand.Rand) {
	grain, end := int64(d.c.TearBytes), off+int64(len(b))
	if atomic || d.oneWindow(off, int64(len(b))) {
		if rng.Uint64()&1 == 0 {
			m.write(off, b)
		}
		return
	}
	first, units := off/grain, (end-1)/grain-off/grain+1
	style, cut, keep := rng.IntN(3), rng.Int64N(units+1), rng.Float64()
	for u := range units {
		survives := u < cut
		switch style {
		case 1:
			survives = !survives
		case 2:
			survives = rng.Float64() < keep
		}
		if survives {
			lo, hi := max(off, (first+u)*grain), min(end, (first+u+1)*grain)
			m.write(lo, b[lo-off:hi-off])
		}
	}
}

// processDied lets the kernel end the requests of a killed process: what had
// been handed to the device happens, the rest does not, a large write may be
// halfway.
func (d *Disk) processDied() {
	for _, r := range d.writesInFlight(d.rng) {
		d.applyFate(r, killFate(d.rng), d.rng)
	}
	d.abandonInFlight()
	d.lock = nil
}

func killFate(rng *rand.Rand) fate {
	switch x := rng.IntN(8); {
	case x < 2:
		return fateLost
	case x < 3:
		return fateTorn
	}
	return fateKept
}

// applyFate lets a write in flight happen as far as its fate says, on the
// running disk; where it is cached it is as undurable as others.
func (d *Disk) applyFate(r *diskRequest, f fate, rng *rand.Rand) {
	if f == fateLost {
		return
	}
	if f == fateKept {
		d.apply(r)
		return
	}
	if d.visible == d.durable && !(d.c.VolatileCache || r.h.o.Mode == env.DiskCached) {
		d.applyPart(d.visible, r, f, rng)
		return
	}
	// Write the torn contents as one cached write.
	torn := d.visible.Clone()
	d.applyPart(torn, r, f, rng)
	d.splitImages()
	d.completions++
	c := d.getWrite(int(r.n))
	c.off, c.seq, c.atomic = r.op.Offset, d.completions, false
	torn.read(c.off, c.data)
	d.visible.write(c.off, c.data)
	d.addPending(c)
}

// abandonInFlight forgets all requests; nobody is told.
func (d *Disk) abandonInFlight() {
	for d.first != nil {
		r := d.first
		d.remove(r)
		d.putRequest(r)
	}
	d.busFree = d.w.now
}
