package layout_test

import (
	"errors"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

var someID = meta.ObjectID{Inode: meta.MakeInode(1, 7), Stripe: 0x20000}

func small(g *layout.Geometry, dst []byte) layout.Entry {
	return g.PutSmallWrite(dst, layout.Head{LSN: 5, Object: someID, Version: 2, Stable: true}, 8192, 4096, 8192, nil, nil)
}

// Each fault of §3.4 is found at its place, with the entries before it.
func TestScanFaults(t *testing.T) {
	g := geometry(t, 131072, 4096)
	seal := func(e layout.Entry) { e.Seal() }
	for _, c := range []struct {
		name  string
		spoil func(block []byte, e layout.Entry) // e is the second entry, at 40
		fault layout.Fault
		at    int
		rest  int // entries behind it
	}{
		{"beyond the block", func(b []byte, e layout.Entry) { le.PutUint16(e, 4096-39) }, layout.FaultSize, 40, 0},
		{"short entry", func(b []byte, e layout.Entry) { le.PutUint16(e, 39) }, layout.FaultShort, 40, 0},
		{"zeroes", func(b []byte, e layout.Entry) { clear(b[40:]) }, layout.FaultShort, 40, 0},
		{"marker too early", func(b []byte, e layout.Entry) { le.PutUint16(e[2:], 0xAB8F) }, layout.FaultMarker, 40, 0},
		{"marker size", func(b []byte, e layout.Entry) { le.PutUint16(b[148:], 100) }, layout.FaultMarker, 148, 0},
		{"type 0", func(b []byte, e layout.Entry) { e[2] = 0x40; seal(e) }, layout.FaultType, 40, 1},
		{"unknown bit", func(b []byte, e layout.Entry) { e[2] |= 8; seal(e) }, layout.FaultType, 40, 1},
		{"high type byte", func(b []byte, e layout.Entry) { e[3] = 1; seal(e) }, layout.FaultType, 40, 1},
		{"unstable delete", func(b []byte, e layout.Entry) { e[2] = 5; seal(e) }, layout.FaultType, 40, 1},
		{"stable commit", func(b []byte, e layout.Entry) { e[2] = 0x46; seal(e) }, layout.FaultType, 40, 1},
		{"stable rollback", func(b []byte, e layout.Entry) { e[2] = 0x47; seal(e) }, layout.FaultType, 40, 1},
		{"long commit", func(b []byte, e layout.Entry) { e[2] = 6; seal(e) }, layout.FaultFields, 40, 1},
		{"other size", func(b []byte, e layout.Entry) { e[2] = 0x44; seal(e) }, layout.FaultFields, 40, 1},
		{"short big", func(b []byte, e layout.Entry) { e[2] = 0x41; seal(e) }, layout.FaultFields, 40, 1},
		{"crc", func(b []byte, e layout.Entry) { e[60] ^= 1 }, layout.FaultChecksum, 40, 1},
		{"unaligned offset", func(b []byte, e layout.Entry) { e[48] = 1; seal(e) }, layout.FaultRange, 40, 1},
		{"unaligned length", func(b []byte, e layout.Entry) { e[52] = 1; seal(e) }, layout.FaultRange, 40, 1},
		{"beyond the object", func(b []byte, e layout.Entry) { le.PutUint32(e[48:], 126976); seal(e) }, layout.FaultRange, 40, 1},
		{"range overflow", func(b []byte, e layout.Entry) { le.PutUint32(e[48:], 0xfffff000); seal(e) }, layout.FaultRange, 40, 1},
		{"checksum count", func(b []byte, e layout.Entry) { le.PutUint32(e[52:], 4096); seal(e) }, layout.FaultFields, 40, 1},
		{"unaligned location", func(b []byte, e layout.Entry) { e[40] = 1; seal(e) }, layout.FaultLocation, 40, 1},
		{"location", func(b []byte, e layout.Entry) { le.PutUint64(e[40:], 1<<20-4096); seal(e) }, layout.FaultLocation, 40, 1},
		{"location overflow", func(b []byte, e layout.Entry) { le.PutUint64(e[40:], 1<<64-4096); seal(e) }, layout.FaultLocation, 40, 1},
		{"garbage is not checked", func(b []byte, e layout.Entry) { clear(e[4:]); e.SetGarbage() }, layout.NoFault, 0, 0},
	} {
		block := make([]byte, 4096)
		b := layout.NewBlockBuilder(block)
		b.Add(layout.PutDelete(b.Room(), 1, someID))
		e := b.Add(small(g, b.Room()))
		b.Add(layout.PutCommit(b.Room(), 6, someID, 2))
		b.Finish()
		// 40 + 68 + 40: the marker is at 148.
		c.spoil(block, e)
		checkScan(t, g, block, c.name, c.fault, c.at, c.rest)
	}
}

func checkScan(t *testing.T, g *layout.Geometry, block []byte, name string, fault layout.Fault, at, rest int) {
	t.Helper()
	good, after := 0, 0
	var found error
	for s := g.ScanBlock(block); s.Next(); {
		switch err := s.Error(9); {
		case err != nil && found != nil:
			t.Errorf("%s: a second fault: %v", name, err)
		case err != nil:
			found = err
		case found != nil:
			after++
		default:
			good++
		}
	}
	if fault == layout.NoFault {
		if found != nil || good != 3 {
			t.Errorf("%s: %v after %d entries", name, found, good)
		}
		return
	}
	var ce *layout.CorruptError
	if !errors.As(found, &ce) || ce.Fault != fault || ce.Offset != at || ce.Block != 9 || after != rest {
		t.Errorf("%s: got %v with %d entries behind, want %v at %d with %d", name, found, after, fault, at, rest)
	}
}

func TestScanBlockNumber(t *testing.T) {
	g := geometry(t, 131072, 0)
	g.BlockCount = 10
	buf := make([]byte, 64)
	h := layout.Head{LSN: 1, Object: someID, Version: 1}
	if f := g.CheckEntry(g.PutBigWrite(buf, h, 9, nil, nil, nil)); f != layout.NoFault {
		t.Error(f)
	}
	if f := g.CheckEntry(g.PutBigWrite(buf, h, 10, nil, nil, nil)); f != layout.FaultBlockNum {
		t.Error(f)
	}
}

// All tails of §3.3 are written as stated and read again.
func TestTails(t *testing.T) {
	g := geometry(t, 32<<10, 0)
	for unused := range 90 {
		block := make([]byte, 4096)
		// Any length of filling: one garbage entry of the wanted size.
		used := len(block) - unused
		le.PutUint16(block, uint16(used))
		block[2] = 0x80
		layout.FinishBlock(block, used)
		rest := block[used:]
		switch {
		case unused >= 4 && (le.Uint16(rest) != uint16(unused) || le.Uint16(rest[2:]) != 0xAB8F),
			(unused == 2 || unused == 3) && le.Uint16(rest) != uint16(unused),
			unused == 1 && rest[0] != 0:
			t.Errorf("tail of %d: %x", unused, rest)
		}
		n := 0
		s := g.ScanBlock(block)
		for s.Next() {
			n++
			if s.Fault != layout.NoFault {
				t.Errorf("tail of %d: %v", unused, s.Error(0))
			}
		}
		if n != 1 || s.Used() != used {
			t.Errorf("tail of %d: %d entries, %d used", unused, n, s.Used())
		}
	}
}

// The data path of the codec does not allocate.
func TestCodecAllocations(t *testing.T) {
	g := geometry(t, 131072, 4096)
	block, data := make([]byte, 4096), make([]byte, 131072)
	sums := make(layout.Csums, 4*g.CsumCount())
	all := make(meta.Bitmap, g.BitmapBytes())
	all.SetRange(0, 32)
	h := layout.Head{LSN: 5, Object: someID, Version: 2, Stable: true}
	n := testing.AllocsPerRun(100, func() {
		g.FillBlockCsums(sums, all, data)
		b := layout.NewBlockBuilder(block)
		b.Add(g.PutBigWrite(b.Room(), h, 3, all, all, sums))
		b.Add(g.PutBigIntent(b.Room(), h, 3, 4096, 4096, all, all, sums))
		g.FillWriteCsums(sums[:8], 4096, data[:8192])
		e := b.Add(g.PutSmallWrite(b.Room(), h, 0, 4096, 8192, all, sums[:8]))
		if !g.VerifyWrite(e, data[:8192]) {
			t.Fatal("own checksums do not match")
		}
		b.Add(layout.PutDelete(b.Room(), 9, someID))
		b.Finish()
		seen := LSNs(g, block)
		if seen != 5+5+5+9 {
			t.Fatal(seen)
		}
		g.SqueezeBlock(block, block, nil)
	})
	if n != 0 {
		t.Errorf("%v allocations per run", n)
	}
}

func LSNs(g *layout.Geometry, block []byte) (sum layout.LSN) {
	for s := g.ScanBlock(block); s.Next(); {
		if s.Fault != layout.NoFault {
			return 0
		}
		sum += s.Entry.LSN()
	}
	return sum
}
