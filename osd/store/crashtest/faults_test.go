package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"vitastor/internal/sim"
	"vitastor/osd/store/layout"
)

// grown runs a history without crashes and returns it at rest with everything
// durable, and what the devices hold then.
func grown(t *testing.T, seed uint64, fits func(*Config) bool) (*runner, []*sim.Image) {
	for number := seed << 20; ; number++ {
		c := NewCase(21, number)
		if !fits(c.Config) {
			continue
		}
		r := newHarness().newRunner(c.Config, rand.New(rand.NewPCG(21, number)), policy{})
		r.rig = r.h.newRig(c.Config, number, nil)
		must(t, r.begin())
		for i := range c.Script {
			if c.Script[i].Kind > StepSettle {
				c.Script[i].Kind = StepSync
			}
			must(t, r.execute(&c.Script[i]))
		}
		must(t, r.settle())
		r.submitSync()
		must(t, r.settle())
		images := r.rig.powerLoss(1)[0]
		must(t, r.rig.close())
		return r, images
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// spoil clones images and damages one of them.
func spoil(images []*sim.Image, device int, damage func(*sim.Image)) []*sim.Image {
	out := make([]*sim.Image, len(images))
	for i, m := range images {
		out[i] = m.Clone()
	}
	damage(out[device])
	return out
}

// usedByte is a random byte of what is live in the data or buffer area. With
// checksum blocks of several granules only objects without small writes count:
// where a newer small write touches a checksum block the base cannot be
// verified, as an unfinished compaction looks the same (ondisk.md §9.3).
func usedByte(r *runner, images []*sim.Image, rng *rand.Rand) (device int, off int64, err error) {
	l, err := r.loadImages(images)
	if err != nil {
		return 0, 0, err
	}
	c, s := r.c, &r.c.Store
	for tries := 0; len(l.Objects) > 0; {
		o := l.Objects[rng.IntN(len(l.Objects))]
		e := o.Chain[rng.IntN(len(o.Chain))]
		if s.CsumBytes > s.GranuleBytes && len(o.Chain) > 1 {
			if tries++; tries > 100 {
				break
			}
			continue
		}
		switch {
		case e.Type() == layout.SmallWrite && e.Len() > 0:
			return c.BufferDevice, s.Areas.BufferOffset + int64(e.Location()) + rng.Int64N(int64(e.Len())), nil
		case e.IsBig():
			return 0, s.Areas.DataOffset + int64(e.Block())*int64(s.BlockBytes) + rng.Int64N(int64(s.BlockBytes)), nil
		}
	}
	return 0, 0, errors.New("nothing is stored")
}

// tolerate starts an engine on damaged devices. At most one object may suffer:
// it may be unreadable or older, but nothing may be wrong.
func (r *runner) tolerate(images []*sim.Image, allowed syscall.Errno) (suffered bool, err error) {
	g := r.h.newRig(r.c, r.rng.Uint64(), images)
	if err := g.open(); err != nil {
		return true, fmt.Errorf("damage of one sector of data stops the start: %w", err)
	}
	found, err := g.inspect(r.objs, r.pgCount)
	if err != nil {
		return true, err
	}
	victims := 0
	for i, o := range r.objs {
		f := found[i]
		switch {
		case f.err == nil && f.state.equal(o.live):
			continue
		case f.err != nil && !errors.Is(f.err, allowed):
			return true, fmt.Errorf("instead of %w: %w", allowed, f.err)
		case f.err == nil && !olderState(f.state, o.live):
			return true, fmt.Errorf("object %d is silently wrong: %v\n  expected: %v", i, f.state, o.live)
		}
		victims++
	}
	if victims > 1 {
		return true, fmt.Errorf("%d objects suffer from one damaged sector", victims)
	}
	return victims > 0, g.close()
}

// olderState tells whether found is what it was before the newest versions: at
// start, what looks like an unfinished write is dropped.
func olderState(found, live State) bool {
	for _, v := range found {
		if w := live.at(v.Number); w != nil && !w.equal(v) {
			return false
		}
		if n := live.newest(); n != nil && v.Number > n.Number {
			return false
		}
	}
	return true
}

// TestBitRot: with checksums on, a flipped bit of data is reported, whatever
// was damaged, and never returned.
func TestBitRot(t *testing.T) {
	reported := 0
	for seed := range uint64(12) {
		r, images := grown(t, seed, func(c *Config) bool { return c.Store.CsumBytes != 0 })
		for range 12 {
			device, off, err := usedByte(r, images, r.rng)
			if err != nil {
				break
			}
			bad, err := r.tolerate(spoil(images, device, func(m *sim.Image) { m.FlipBit(off, uint(r.rng.IntN(8))) }), syscall.EDOM)
			if err != nil {
				t.Fatalf("seed %d, a bit of byte %d of device %d flipped: %v\nconfig: %v", seed, off, device, err, r.c)
			}
			if bad {
				reported++
			}
		}
	}
	if reported == 0 {
		t.Error("no damage was ever noticed")
	}
	t.Logf("noticed %d times", reported)
}

// TestUnreadableData: a sector that cannot be read fails the reads of one
// object, not those of others.
func TestUnreadableData(t *testing.T) {
	reported, refused := 0, 0
	for seed := range uint64(12) {
		r, images := grown(t, seed, func(*Config) bool { return true })
		for range 8 {
			device, off, err := usedByte(r, images, r.rng)
			if err != nil {
				break
			}
			bad, err := r.tolerate(spoil(images, device, func(m *sim.Image) { m.MakeUnreadable(off, 1) }), syscall.EIO)
			if err != nil && strings.Contains(err.Error(), "stops the start") && errors.Is(err, syscall.EIO) {
				refused++ // verification needs this sector: to guess would be worse
				continue
			}
			if err != nil {
				t.Fatalf("seed %d, sector at %d of device %d is unreadable: %v\nconfig: %v", seed, off, device, err, r.c)
			}
			if bad {
				reported++
			}
		}
	}
	if reported == 0 {
		t.Error("no unreadable sector was ever noticed")
	}
	t.Logf("%d times an object was unreadable, %d times the start was refused", reported, refused)
}

// TestDamagedMetadata: an unreadable or changed entry stops the start with an
// error, because nobody knows what it said. (The garbage flag is not protected
// by the format.)
func TestDamagedMetadata(t *testing.T) {
	for seed := range uint64(12) {
		r, images := grown(t, seed, func(*Config) bool { return true })
		c, s := r.c, &r.c.Store
		area := r.h.area(1, images[c.MetaDevice], s.Areas.MetaOffset, s.Areas.MetaLen)
		g := c.params().Geometry
		entries, faults := layout.Parse(area, &g)
		if len(faults) != 0 || len(entries) == 0 {
			continue
		}
		for range 6 {
			e := entries[r.rng.IntN(len(entries))]
			at := s.Areas.MetaOffset + int64(e.Block+1)*int64(s.MetaBlockBytes) + int64(e.Offset)
			k := 4 + r.rng.IntN(e.Entry.Bytes()-4)
			for name, images := range map[string][]*sim.Image{
				"changed":    spoil(images, c.MetaDevice, func(m *sim.Image) { m.FlipBit(at+int64(k), uint(r.rng.IntN(8))) }),
				"unreadable": spoil(images, c.MetaDevice, func(m *sim.Image) { m.MakeUnreadable(at+int64(k), 1) }),
			} {
				if err := r.h.newRig(c, 1, images).open(); err == nil || strings.Contains(err.Error(), "hangs") {
					t.Fatalf("seed %d: byte %d of entry %v is %s: start-up says %v", seed, k, e.Entry, name, err)
				}
			}
		}
	}
}

// TestSickDisks: writes and syncs fail now and then. The engine has to stop
// with OnFatal and acknowledge nothing wrongly; what is left is compared.
func TestSickDisks(t *testing.T) {
	faults := map[string]sim.DiskFaults{
		"writes": {WriteError: 0.02},
		"syncs":  {SyncError: 0.05},
		"reads":  {ReadError: 0.05},
		"stalls": {Stall: 0.05, StallTime: 2e9},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			stopped := 0
			for number := range uint64(40) {
				fatal, err := sickRun(NewCase(31, number), f)
				if err != nil {
					t.Fatalf("case %d: %v", number, err)
				}
				if fatal {
					stopped++
				}
			}
			if f.WriteError > 0 && stopped == 0 {
				t.Error("no write error was ever fatal")
			}
			if (f.ReadError > 0 || f.Stall > 0) && stopped > 0 {
				t.Errorf("%d times it was fatal", stopped)
			}
			t.Logf("fatal %d times of 40", stopped)
		})
	}
}

// TestFullFileSystem: the devices are sparse files and their file system is
// full: a fatal error, and no damage.
func TestFullFileSystem(t *testing.T) {
	stopped := 0
	for number := range uint64(20) {
		c := NewCase(41, number)
		r := newHarness().newRunner(c.Config, rand.New(rand.NewPCG(41, number)), policy{})
		r.rig = r.h.newRig(c.Config, number, nil)
		must(t, r.begin())
		for _, d := range r.rig.devices {
			d.SetSpaceLimit(d.Image().AllocatedBytes() + 40<<10)
		}
		fatal, err := r.untilFatal(c.Script)
		if err != nil {
			t.Fatalf("case %d: %v", number, err)
		}
		if fatal {
			stopped++
		}
	}
	if stopped == 0 {
		t.Error("the space was always enough")
	}
}

func sickRun(c *Case, f sim.DiskFaults) (fatal bool, err error) {
	r := newHarness().newRunner(c.Config, rand.New(rand.NewPCG(31, c.Number)), policy{})
	r.rig = r.h.newRig(c.Config, c.Number, nil)
	if err := r.begin(); err != nil {
		return false, err
	}
	f.Slowdown = c.Config.Slow
	for _, d := range r.rig.devices {
		d.SetFaults(f)
	}
	r.sickReads = f.ReadError > 0
	return r.untilFatal(c.Script)
}

// untilFatal runs a script until the engine gives up, and then lets the power
// fail and compares.
func (r *runner) untilFatal(script Script) (bool, error) {
	r.rig.quiet = true
	for i := range script {
		if script[i].Kind > StepSettle {
			script[i].Kind = StepSync
		}
		err := r.execute(&script[i])
		if r.rig.fatal != nil {
			return true, r.verify(r.rig.powerLoss(1)[0], "power loss after a fatal error")
		}
		if err != nil {
			return false, err
		}
	}
	err := r.settle()
	if r.rig.fatal != nil {
		return true, r.verify(r.rig.powerLoss(1)[0], "power loss after a fatal error")
	}
	if err != nil {
		return false, err
	}
	return false, r.verify(r.rig.powerLoss(1)[0], "power loss")
}
