package store

import (
	"errors"
	"syscall"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

// edit changes the contents of the (only) disk while nothing runs.
func (r *rig) edit(f func(m *sim.Image)) {
	r.t.Helper()
	r.node.Crash()
	m := r.disks[0].Image()
	f(m)
	r.disks[0].SetImage(m)
	r.node.Restart()
}

// eachEntry calls f for each entry on the disk, which it may change.
func (r *rig) eachEntry(m *sim.Image, f func(e layout.Entry)) {
	block := make([]byte, 4096)
	geo, _ := r.cfg.geometry(Disks{})
	for n := range r.cfg.Areas.MetaLen/4096 - 1 {
		at := r.cfg.Areas.MetaOffset + (n+1)*4096
		if _, err := m.ReadAt(block, at); err != nil {
			r.t.Fatal(err)
		}
		for sc := geo.ScanBlock(block); sc.Next(); {
			f(sc.Entry)
		}
		if _, err := m.WriteAt(block, at); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A block that two objects claim is refused; with the repair option the object
// that checksums confirm stays, the other one is dropped for good.
func TestDoubleClaim(t *testing.T) {
	r := newRig(t, csum(4096))
	a, b := oid(1), oid(2)
	r.want(stableOp(a, 1, 0, 131072, 10), 0)
	r.want(stableOp(b, 1, 0, 131072, 20), 0)
	r.edit(func(m *sim.Image) {
		r.eachEntry(m, func(e layout.Entry) {
			if e.Object() == b {
				e[40] = 0 // the block of a
				e.Seal()
			}
		})
	})
	if err := r.open(); !errors.Is(err, ErrDoubleUsed) {
		t.Fatalf("started: %v", err)
	}
	r.node.Crash()
	r.node.Restart()
	r.cfg.RepairDoubleClaims = true
	r.mustOpen()
	r.check()
	r.expect(a, newest, 1, 10, [3]int{0, 32, 10})
	r.expect(b, newest, 0, 0)
	r.cfg.RepairDoubleClaims = false
	r.restart()
	r.expect(a, newest, 1, 10, [3]int{0, 32, 10})
	r.expect(b, newest, 0, 0)
}

// Without checksums nothing can be confirmed: both objects are dropped.
func TestDoubleClaimVector(t *testing.T) {
	base, cases := vectortest.Negative(t)
	for _, c := range cases {
		if c.Name != "double-claim" {
			continue
		}
		v := vectortest.Load(t, base)
		c.Apply(t, v)
		r := vectorRig(t, v)
		r.cfg.RepairDoubleClaims = true
		r.mustOpen()
		r.check()
		var left []vectortest.Object
		for _, o := range v.Objects {
			if o.Inode != 1 || o.Stripe > 0x20000 {
				left = append(left, o)
			}
		}
		if len(left) != len(v.Objects)-2 {
			t.Fatal("the vector has changed")
		}
		r.expectObjects(left)
		return
	}
	t.Fatal("the vector is missing")
}

// A corrupt entry is refused with its place; skipping it keeps the others, and
// drops the object of which only a part is left.
func TestSkipCorruptedEntries(t *testing.T) {
	r := newRig(t)
	a, b := oid(1), oid(2)
	r.want(stableOp(a, 1, 0, 131072, 10), 0)
	r.want(stableOp(b, 1, 0, 131072, 20), 0)
	r.want(stableOp(b, 2, 0, 4096, 21), 0)
	r.edit(func(m *sim.Image) {
		r.eachEntry(m, func(e layout.Entry) {
			if e.Object() == b && e.IsBig() {
				e[44] ^= 1
			}
		})
	})
	if err := r.open(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("started: %v", err)
	}
	r.node.Crash()
	r.node.Restart()
	r.cfg.SkipCorruptedEntries = true
	r.mustOpen()
	r.check()
	r.expect(a, newest, 1, 10, [3]int{0, 32, 10})
	r.expect(b, newest, 0, 0)
	r.cfg.SkipCorruptedEntries = false
	r.restart()
	r.parse()
	r.expect(b, newest, 0, 0)
}

// Data that a compaction of release 3.0.8 has lost is copied again (D3).
func TestLostCompactionCopy(t *testing.T) {
	for _, sums := range []uint32{0, 4096, 16384} {
		r := newRig(t, cachedDisk, csum(sums), with(func(c *Config) { c.RepairLostCopies = sums == 0 }))
		a := oid(1)
		r.want(stableOp(a, 1, 0, 131072, 10), 0)
		r.want(stableOp(a, 2, 4096, 8192, 11), 0)
		r.want(stableOp(a, 3, 8192, 8192, 12), 0)
		r.want(&Op{Kind: OpCompact}, 0)
		r.sync()
		r.edit(func(m *sim.Image) { // the copy never reached the disk
			old := make([]byte, 12288)
			fill(old, 10, 4096)
			if _, err := m.WriteAt(old, r.cfg.Areas.DataOffset+4096); err != nil {
				t.Fatal(err)
			}
		})
		r.mustOpen()
		r.check()
		r.expect(a, newest, 3, 12, [3]int{0, 32, 10}, [3]int{1, 2, 11}, [3]int{2, 2, 12})
	}
}

// An unreadable sector under such data, or where it should come from, keeps no
// store from starting: the rest of the disk is fine.
func TestLostCompactionCopyUnreadable(t *testing.T) {
	for _, buffer := range []bool{false, true} {
		r := newRig(t, cachedDisk, csum(4096))
		a, b := oid(1), oid(2)
		for _, id := range []meta.ObjectID{a, b} {
			r.want(stableOp(id, 1, 0, 131072, 10), 0)
			r.want(stableOp(id, 2, 4096, 8192, 11), 0)
		}
		r.want(&Op{Kind: OpCompact}, 0)
		r.sync()
		r.edit(func(m *sim.Image) {
			if buffer {
				m.MakeUnreadable(r.cfg.Areas.BufferOffset, r.cfg.Areas.BufferLen)
			} else {
				m.MakeUnreadable(r.cfg.Areas.DataOffset, 512)
			}
		})
		r.mustOpen()
		r.check()
		r.expect(b, newest, 2, 11, [3]int{0, 1, 10}, [3]int{1, 2, 11}, [3]int{3, 29, 10})
		_, _, _, err := r.read(a, newest)
		if want := map[bool]syscall.Errno{false: syscall.EIO, true: 0}[buffer]; err != want {
			t.Errorf("buffer %v: the object reads with %v, want %v", buffer, err, want)
		}
	}
}
