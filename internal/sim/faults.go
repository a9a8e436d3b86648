package sim

import (
	"math/rand/v2"
	"reflect"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// DiskFaults is a plan of misbehaviour: chances per request. The zero value is
// a healthy disk.
type DiskFaults struct {
	ReadError  float64 // EIO, once
	WriteError float64 // EIO; the range holds the old, the new, or a mixture
	// SyncError: EIO; the writes it covered stay visible, but any of them may
	// be lost at the next power loss, and later syncs do not help.
	SyncError   float64
	LatentError float64 // before a read, one sector of it becomes unreadable
	BitRot      float64 // before a read, one bit of it flips for good
	LostWrite   float64 // reported as done, never happens
	Stall       float64 // the device does nothing for StallTime
	StallTime   time.Duration
	Slowdown    float64 // factor on latency when > 1
}

// SetFaults replaces the fault plan.
func (d *Disk) SetFaults(f DiskFaults) {
	d.w.trace(traceDiskLoss, d.index, 1<<32, 0)
	d.faults = f
}

// SetReadOnly write-protects the disk, or not: writes and discards fail with
// EROFS, and so does opening it for writing.
func (d *Disk) SetReadOnly(on bool) { d.readOnly = on }

// SetSpaceLimit changes DiskConfig.SpaceLimitBytes.
func (d *Disk) SetSpaceLimit(bytes int64) { d.c.SpaceLimitBytes = bytes }

// FlipBit rots one bit.
func (d *Disk) FlipBit(off int64, bit uint) { d.onMedia(func(m *Image) { m.FlipBit(off, bit) }) }

// MakeUnreadable makes reads of the sectors in the range fail with EIO until
// they are written again.
func (d *Disk) MakeUnreadable(off, n int64) { d.onMedia(func(m *Image) { m.MakeUnreadable(off, n) }) }

func (d *Disk) onMedia(f func(*Image)) {
	f(d.visible)
	if d.durable != d.visible {
		f(d.durable)
	}
}

func (f *DiskFaults) hits(rng *rand.Rand, chance float64) bool {
	return chance > 0 && rng.Float64() < chance
}

func (d *Disk) maybeStall() {
	if d.faults.hits(d.rng, d.faults.Stall) {
		d.busFree = max(d.busFree, d.w.now).Add(d.faults.StallTime)
	}
}

func (d *Disk) readFault(off, n int64) error {
	f := &d.faults
	if f.hits(d.rng, f.LatentError) && n > 0 {
		d.MakeUnreadable(off+d.rng.Int64N(n), 1)
	}
	if f.hits(d.rng, f.BitRot) && n > 0 {
		d.FlipBit(off+d.rng.Int64N(n), uint(d.rng.IntN(8)))
	}
	if d.visible.unreadable(off, n) || f.hits(d.rng, f.ReadError) {
		return syscall.EIO
	}
	return nil
}

type writeFault uint8

const (
	writeWorks writeFault = iota
	writeFails
	writeIsLost
)

func (d *Disk) writeFault() writeFault {
	f := &d.faults
	switch {
	case f.hits(d.rng, f.WriteError):
		return writeFails
	case f.hits(d.rng, f.LostWrite):
		return writeIsLost
	}
	return writeWorks
}

// OverlapPolicy says what to do about overlapping requests in flight of which
// at least one writes: nothing orders them, so most programs must not have any.
type OverlapPolicy uint8

const (
	OverlapRecord OverlapPolicy = iota // keep the first ones for Disk.Overlaps
	OverlapFail                        // stop the world
	OverlapIgnore
)

// Overlap is a pair of overlapping requests in flight.
type Overlap struct {
	At                     time.Duration
	FirstKind, SecondKind  env.DiskOpKind
	FirstOffset, FirstSize int64
	SecondOffset, Size     int64
}

// overlapsMax limits the record; the first ones tell enough.
const overlapsMax = 64

// Overlaps returns the first overlapping requests seen. Reads that overlap
// writes are among them: they may return any mixture.
func (d *Disk) Overlaps() []Overlap { return d.overlaps }

func (d *Disk) noteOverlaps(r *diskRequest) {
	if d.c.Overlap == OverlapIgnore || r.op.Kind == env.DiskSync {
		return
	}
	lo, hi := r.op.Offset, r.op.Offset+r.n
	for o := d.first; o != nil; o = o.next {
		k := o.op.Kind
		if k == env.DiskSync || o.err != nil || k == env.DiskRead && r.op.Kind == env.DiskRead ||
			o.op.Offset >= hi || lo >= o.op.Offset+o.n {
			continue
		}
		v := Overlap{d.w.Now(), k, r.op.Kind, o.op.Offset, o.n, lo, r.n}
		if d.c.Overlap == OverlapFail {
			invariant.Fail("sim: %s: overlapping requests in flight: %+v", d.name, v)
		}
		if len(d.overlaps) < overlapsMax {
			d.overlaps = append(d.overlaps, v)
		}
	}
}

// checkAddresses stops programs whose memory a real disk would refuse.
func checkAddresses(op *env.DiskOp, mask int64) {
	ok := aligned(&op.Buf, mask)
	for i := range op.Iov {
		ok = ok && aligned(&op.Iov[i], mask)
	}
	if !ok {
		invariant.Fail("sim: memory of a disk request at %d is not aligned: use internal/pinned", op.Offset)
	}
}

func aligned(b *[]byte, mask int64) bool {
	return len(*b) == 0 || int64(reflect.ValueOf(b).Elem().Pointer())&mask == 0
}
