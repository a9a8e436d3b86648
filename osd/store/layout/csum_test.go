package layout_test

import (
	"hash/crc32"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>9)
	}
	return b
}

// slowP is formula P of spec §9.2 word by word, for checksum block c with the
// range beginning at s (absolute), which ends with the checksum block.
func slowP(g *layout.Geometry, written meta.Bitmap, block []byte, c int, s uint32) uint32 {
	end := (uint32(c) + 1) * g.CsumBytes
	var sum []byte
	var hole []byte
	any := false
	for at := s; at < end; at += g.GranuleBytes {
		if !written.Get(int(at / g.GranuleBytes)) {
			hole = append(hole, make([]byte, g.GranuleBytes)...)
			continue
		}
		if any || s != 0 {
			sum = append(sum, hole...)
		}
		hole, any = nil, true
		sum = append(sum, block[at:at+g.GranuleBytes]...)
	}
	if !any {
		return 0
	}
	return crc32.Checksum(sum, castagnoli)
}

func TestFormulaP(t *testing.T) {
	block := pattern(131072)
	for _, csum := range []uint32{4096, 8192, 16384, 131072} {
		g := geometry(t, 131072, csum)
		sums := make(layout.Csums, 4*g.CsumCount())
		buf := make([]byte, 4096)
		for seed := range 200 {
			written := make(meta.Bitmap, 4)
			for i := range 32 {
				if (seed*2654435761>>i)&1 != 0 || seed == 1 {
					written.SetRange(i, i+1)
				}
			}
			g.FillBlockCsums(sums, written, block)
			e := g.PutBigWrite(buf, layout.Head{LSN: 1, Object: someID, Version: 1, Stable: true}, 0, nil, written, sums)
			for c := range g.CsumCount() {
				at := c * int(csum)
				data := block[at : at+int(csum)]
				if want := slowP(g, written, block, c, uint32(at)); sums.At(c) != want {
					t.Fatalf("C %d block %d bitmap %x: %08x, want %08x", csum, c, written, sums.At(c), want)
				}
				checkVariants(t, g, e, c, data)
			}
		}
	}
}

// checkVariants: a checksum block matches its value with and without the
// leading hole, not another value, and always if nothing is written.
func checkVariants(t *testing.T, g *layout.Geometry, e layout.Entry, c int, data []byte) {
	t.Helper()
	if !g.VerifyCsumBlock(e, c, data) {
		t.Fatalf("own checksum %d does not match", c)
	}
	per, written, sums := int(g.CsumBytes/g.GranuleBytes), e.IntBitmap(g), e.Csums(g)
	old := sums.At(c)
	defer sums.Set(c, old)
	sums.Set(c, old+1)
	first := c * per
	for first < (c+1)*per && !written.Get(first) {
		first++
	}
	if first == (c+1)*per {
		if old != 0 || !g.VerifyCsumBlock(e, c, data) {
			t.Fatalf("unwritten checksum block %d: %08x is checked", c, old)
		}
		return
	}
	if g.VerifyCsumBlock(e, c, data) {
		t.Fatalf("wrong checksum %d matches", c)
	}
	// What release 3.0.8 stores for a first write at the first written granule.
	sums.Set(c, slowP(g, written, append(make([]byte, c*int(g.CsumBytes)), data...), c, uint32(first)*g.GranuleBytes))
	if !g.VerifyCsumBlock(e, c, data) {
		t.Fatalf("checksum %d without the leading hole does not match", c)
	}
}

func TestWriteCsums(t *testing.T) {
	block := pattern(131072)
	buf, sums := make([]byte, 4096), make(layout.Csums, 4096)
	for _, csum := range []uint32{0, 4096, 16384} {
		g := geometry(t, 131072, csum)
		for _, r := range [][2]uint32{{0, 4096}, {4096, 4096}, {12288, 8192}, {0, 131072}, {20480, 65536}, {8192, 0}, {16384, 0}} {
			data := block[r[0] : r[0]+r[1]]
			s := sums[:4*g.WriteCsums(r[0], r[1])]
			g.FillWriteCsums(s, r[0], data)
			small := g.PutSmallWrite(buf, layout.Head{LSN: 1, Object: someID, Version: 1, Stable: true}, 0, r[0], r[1], nil, s)
			if csum == 0 && r[1] != 0 && s.At(0) != crc32.Checksum(data, castagnoli) {
				t.Error("the one checksum is not over all data")
			}
			checkDamage(t, g, small, data)
		}
	}
}

// checkDamage: the entry verifies its data, and each changed byte is found.
func checkDamage(t *testing.T, g *layout.Geometry, e layout.Entry, data []byte) {
	t.Helper()
	if !g.VerifyWrite(e, data) {
		t.Errorf("%v %d+%d: own data does not match", e, e.Offset(), e.Len())
	}
	for i := 0; i < len(data); i += 4095 {
		data[i] ^= 0x10
		if g.VerifyWrite(e, data) {
			t.Errorf("%v %d+%d: damage at %d is not found", e, e.Offset(), e.Len(), i)
		}
		data[i] ^= 0x10
	}
}

// A BIG_INTENT is verified over its written range: with C = G and off in
// place, with C > G as a redirect in both variants of the leading hole.
func TestIntentCsums(t *testing.T) {
	block := pattern(131072)
	buf := make([]byte, 4096)
	h := layout.Head{LSN: 1, Object: someID, Version: 1, Stable: true}
	for _, csum := range []uint32{0, 4096, 16384} {
		g := geometry(t, 131072, csum)
		for _, r := range [][2]uint32{{0, 4096}, {4096, 4096}, {8192, 16384}, {0, 131072}, {20480, 16384}, {24576, 4096}} {
			written := make(meta.Bitmap, 4)
			written.SetBytes(r[0], r[1], 4096)
			data := block[r[0] : r[0]+r[1]]
			sums := make(layout.Csums, 4*max(g.CsumCount(), 1))
			if csum == 0 {
				g.FillWriteCsums(sums, r[0], data)
			} else {
				g.FillBlockCsums(sums, written, block)
			}
			checkDamage(t, g, g.PutBigIntent(buf, h, 0, r[0], r[1], nil, written, sums), data)
			if csum > 4096 { // as release 3.0.8 stores it: the range begins at offset
				sums.Set(int(r[0]/csum), slowP(g, written, block, int(r[0]/csum), r[0]))
				checkDamage(t, g, g.PutBigIntent(buf, h, 0, r[0], r[1], nil, written, sums), data)
			}
		}
	}
}

func TestOverlayCsums(t *testing.T) {
	g := geometry(t, 131072, 4096)
	base, over := pattern(131072), pattern(16384)
	over[5] = 99
	all := meta.Bitmap{255, 255, 255, 255}
	sums, small := make(layout.Csums, 128), make(layout.Csums, 16)
	g.FillBlockCsums(sums, all, base)
	g.FillWriteCsums(small, 8192, over)
	buf := make([]byte, 200)
	h := layout.Head{LSN: 1, Object: someID, Version: 1, Stable: true}
	g.OverlayCsums(sums, g.PutSmallWrite(buf, h, 0, 8192, 16384, nil, small))
	g.OverlayCsums(sums, g.PutSmallWrite(buf, h, 0, 131072, 0, nil, nil))
	copy(base[8192:], over)
	want := make(layout.Csums, 128)
	g.FillBlockCsums(want, all, base)
	if string(want) != string(sums) {
		t.Error("overlaid checksums are not those of the merged content")
	}
}
