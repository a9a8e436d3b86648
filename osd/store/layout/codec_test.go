package layout_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

var le = binary.LittleEndian

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func geometry(t testing.TB, block, csum uint32) *layout.Geometry {
	t.Helper()
	g, err := layout.Geometry{BlockBytes: block, GranuleBytes: 4096, MetaBlockBytes: 4096,
		CsumBytes: csum, BlockCount: 1 << 20, BufferBytes: 1 << 20}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return &g
}

// The table of spec §3.2.
func TestEntrySizes(t *testing.T) {
	for _, c := range []struct {
		block, csum                     uint32
		bm, big, intent, small, perMeta int
	}{
		{128 << 10, 0, 4, 52, 64, 64, 78},
		{128 << 10, 4096, 4, 180, 188, 64, 22},
		{128 << 10, 16384, 4, 84, 92, 64, 48},
		{1 << 20, 0, 32, 108, 120, 92, 37},
		{1 << 20, 32768, 32, 236, 244, 92, 17},
		{1 << 20, 4096, 32, 1132, 1140, 92, 3},
		{32 << 10, 0, 1, 46, 58, 61, 89},
	} {
		g := geometry(t, c.block, c.csum)
		if g.BitmapBytes() != c.bm || g.BigWriteBytes() != c.big || g.BigIntentBytes() != c.intent ||
			g.SmallWriteBytes(4096, 4096) != c.small || 4096/g.BigWriteBytes() != c.perMeta {
			t.Errorf("%d/%d: bitmap %d big %d intent %d small %d", c.block, c.csum,
				g.BitmapBytes(), g.BigWriteBytes(), g.BigIntentBytes(), g.SmallWriteBytes(4096, 4096))
		}
	}
	g := geometry(t, 128<<10, 16384)
	for _, c := range [][3]uint32{{0, 0, 0}, {4096, 0, 1}, {4096, 4096, 1}, {12288, 8192, 2}, {0, 131072, 8}, {131072, 0, 0}} {
		if n := g.WriteCsums(c[0], c[1]); n != int(c[2]) {
			t.Errorf("checksums of %d+%d: %d, want %d", c[0], c[1], n, c[2])
		}
	}
}

func TestGeometryErrors(t *testing.T) {
	ok := layout.Geometry{BlockBytes: 131072, GranuleBytes: 4096, MetaBlockBytes: 4096}
	for want, change := range map[string]func(*layout.Geometry){
		"block_size is 131073":      func(g *layout.Geometry) { g.BlockBytes++ },
		"block_size is 134217728":   func(g *layout.Geometry) { g.BlockBytes = 128 << 20 },
		"bitmap_granularity is 0":   func(g *layout.Geometry) { g.GranuleBytes = 0 },
		"at least 8 parts":          func(g *layout.Geometry) { g.GranuleBytes = 32768 },
		"csum_block_size is 2048":   func(g *layout.Geometry) { g.CsumBytes = 2048 },
		"csum_block_size is 12288":  func(g *layout.Geometry) { g.CsumBytes = 12288 },
		"csum_block_size is 262144": func(g *layout.Geometry) { g.CsumBytes = 262144 },
		"meta_block_size is 32768":  func(g *layout.Geometry) { g.MetaBlockBytes = 32768 },
		"meta_block_size is 100":    func(g *layout.Geometry) { g.MetaBlockBytes = 100 },
		"largest entry takes 1140":  func(g *layout.Geometry) { g.BlockBytes, g.CsumBytes, g.MetaBlockBytes = 1<<20, 4096, 1024 },
	} {
		g := ok
		change(&g)
		_, err := g.Complete()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", g, err, want)
		}
	}
}

// plainBlock0 is spec §11.3: block 0 of the vector "plain".
const plainBlock0 = `
34 00 41 00 15 36 38 b0  01 00 00 00 00 00 00 00
01 00 00 00 00 00 01 00  00 00 00 00 00 00 00 00
01 00 00 00 00 00 00 00  00 00 00 00 ff ff ff ff
ff ff ff ff
34 00 41 00 68 21 9b fd  02 00 00 00 00 00 00 00
01 00 00 00 00 00 01 00  00 00 02 00 00 00 00 00
01 00 00 00 00 00 00 00  01 00 00 00 00 00 00 01
04 00 00 00
40 00 42 00 68 19 21 9b  03 00 00 00 00 00 00 00
01 00 00 00 00 00 01 00  00 00 02 00 00 00 00 00
02 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
00 40 00 00 00 20 00 00  00 00 00 03 48 10 aa 10
40 00 42 00 5a 05 d3 bc  04 00 00 00 00 00 00 00
01 00 00 00 00 00 01 00  00 00 02 00 00 00 00 00
03 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00  00 00 00 07 00 00 00 00
40 00 44 00 63 1e ca 90  08 00 00 00 00 00 00 00
01 00 00 00 00 00 01 00  00 00 04 00 00 00 00 00
03 00 00 00 00 00 00 00  02 00 00 00 00 f0 01 00
00 10 00 00 ff ff ff ff  ff ff ff ff ca 12 59 0f
34 00 41 00 a3 fe b6 9a  11 00 00 00 00 00 00 00
01 00 00 00 00 00 01 00  00 00 08 00 00 00 00 00
01 00 00 00 00 00 00 00  03 00 00 00 ff ff ff ff
02 00 00 00
34 00 41 00 02 d1 9d b4  14 00 00 00 00 00 00 00
02 00 00 00 00 00 01 00  00 00 00 00 00 00 00 00
02 00 00 00 00 00 00 00  05 00 00 00 ff ff ff ff
ff ff ff ff
40 00 42 00 7d bb 18 77  16 00 00 00 00 00 00 00
02 00 00 00 00 00 01 00  00 00 00 00 00 00 00 00
03 00 00 00 00 00 00 00  00 20 00 00 00 00 00 00
00 20 00 00 00 30 00 00  ff ff ff ff a3 fe fa 8c
34 00 41 00 bc f6 ad be  17 00 00 00 00 00 00 00
04 00 00 00 00 00 01 00  00 00 00 00 00 00 00 00
01 00 00 00 00 00 00 00  04 00 00 00 ff ff ff ff
01 00 00 00
34 00 41 00 1f 89 72 c1  18 00 00 00 00 00 00 00
04 00 00 00 00 00 01 00  00 00 02 00 00 00 00 00
03 00 00 00 00 00 00 00  06 00 00 00 ff ff ff ff
01 00 00 00
28 00 45 00 39 ad 7d 75  19 00 00 00 00 00 00 00
04 00 00 00 00 00 01 00  00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00
a0 0d 8f ab 00`

func crcBytes(v uint32) layout.Csums { c := make(layout.Csums, 4); c.Set(0, v); return c }

// Encoding the entries of §11.3 from their described fields gives its bytes,
// and the block on the disk of the vector.
func TestGoldenBlock(t *testing.T) {
	g := geometry(t, 131072, 0)
	all := meta.Bitmap{255, 255, 255, 255}
	head := func(inode, stripe, lsn, version uint64) layout.Head {
		return layout.Head{LSN: layout.LSN(lsn), Version: meta.Version(version), Stable: true,
			Object: meta.ObjectID{Inode: meta.MakeInode(1, inode), Stripe: stripe}}
	}
	block := make([]byte, 4096)
	b := layout.NewBlockBuilder(block)
	add := func(e layout.Entry) { b.Add(e) }
	add(g.PutBigWrite(b.Room(), head(1, 0, 1, 1), 0, all, all, nil))
	add(g.PutBigWrite(b.Room(), head(1, 0x20000, 2, 1), 1, meta.Bitmap{0, 0, 0, 1}, meta.Bitmap{4, 0, 0, 0}, nil))
	add(g.PutSmallWrite(b.Room(), head(1, 0x20000, 3, 2), 0, 16384, 8192, meta.Bitmap{0, 0, 0, 3}, crcBytes(0x10aa1048)))
	add(g.PutSmallWrite(b.Room(), head(1, 0x20000, 4, 3), 0, 0, 0, meta.Bitmap{0, 0, 0, 7}, nil))
	add(g.PutBigIntent(b.Room(), head(1, 0x40000, 8, 3), 2, 126976, 4096, all, all, crcBytes(0x0f5912ca)))
	add(g.PutBigWrite(b.Room(), head(1, 0x80000, 17, 1), 3, all, meta.Bitmap{2, 0, 0, 0}, nil))
	add(g.PutBigWrite(b.Room(), head(2, 0, 20, 2), 5, all, all, nil))
	add(g.PutSmallWrite(b.Room(), head(2, 0, 22, 3), 8192, 8192, 12288, all, crcBytes(0x8cfafea3)))
	add(g.PutBigWrite(b.Room(), head(4, 0, 23, 1), 4, all, meta.Bitmap{1, 0, 0, 0}, nil))
	add(g.PutBigWrite(b.Room(), head(4, 0x20000, 24, 3), 6, all, meta.Bitmap{1, 0, 0, 0}, nil))
	add(layout.PutDelete(b.Room(), 25, head(4, 0, 0, 0).Object))
	b.Finish()
	want := make([]byte, 4096)
	copy(want, unhex(t, plainBlock0))
	if !bytes.Equal(block, want) {
		t.Fatalf("got\n%x\nwant\n%x", block[:640], want[:640])
	}
	v := vectortest.Load(t, "plain")
	if disk := v.Device("meta_device")[v.Number("meta_offset")+4096:][:4096]; !bytes.Equal(disk, block) {
		t.Error("the block of the vector differs")
	}
}

// Spec §11.4, from the described fields.
func TestGoldenEC(t *testing.T) {
	g := geometry(t, 131072, 0)
	id := meta.ObjectID{Inode: meta.MakeInode(2, 1), Stripe: 0x40001}
	all := meta.Bitmap{255, 255, 255, 255}
	buf := make([]byte, 4096)
	for _, c := range []struct {
		got  layout.Entry
		want string
	}{
		{g.PutBigWrite(buf, layout.Head{LSN: 6, Object: id, Version: 1}, 2, all, meta.Bitmap{1, 0, 0, 0}, nil),
			`34 00 01 00 52 c6 28 05  06 00 00 00 00 00 00 00  01 00 00 00 00 00 02 00  01 00 04 00 00 00 00 00
			 01 00 00 00 00 00 00 00  02 00 00 00 ff ff ff ff  01 00 00 00`},
		{layout.PutCommit(buf[100:], 7, id, 1),
			`28 00 06 00 e0 df 45 1a  07 00 00 00 00 00 00 00  01 00 00 00 00 00 02 00  01 00 04 00 00 00 00 00
			 01 00 00 00 00 00 00 00`},
		{g.PutSmallWrite(buf[200:], layout.Head{LSN: 8, Object: id, Version: 2}, 8192, 4096, 4096, all, crcBytes(0x75e7b38e)),
			`40 00 02 00 31 16 18 da  08 00 00 00 00 00 00 00  01 00 00 00 00 00 02 00  01 00 04 00 00 00 00 00
			 02 00 00 00 00 00 00 00  00 20 00 00 00 00 00 00  00 10 00 00 00 10 00 00  ff ff ff ff 8e b3 e7 75`},
		{layout.PutRollback(buf[300:], 11, id, 3),
			`28 00 07 00 0b 36 f3 d5  0b 00 00 00 00 00 00 00  01 00 00 00 00 00 02 00  01 00 04 00 00 00 00 00
			 03 00 00 00 00 00 00 00`},
		{layout.PutCommit(buf[400:], 12, id, 2),
			`28 00 06 00 7d d9 30 6f  0c 00 00 00 00 00 00 00  01 00 00 00 00 00 02 00  01 00 04 00 00 00 00 00
			 02 00 00 00 00 00 00 00`},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%v: got\n%x\nwant\n%x", c.got, []byte(c.got), want)
		}
	}
}

// Spec §11.5: entries with checksums are on the disks of the vectors with the
// bytes of the spec, and encode to them.
func TestGoldenChecksums(t *testing.T) {
	for _, c := range []struct {
		vector, bytes string
		typ           layout.EntryType
		csum          uint32
		csums         int
	}{
		{"intent16k", `40 00 43 00 7d 42 3a aa  02 00 00 00 00 00 00 00  01 00 00 00 00 00 01 00  00 00 00 00 00 00 00 00
			02 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  00 80 00 00 00 10 00 00  ff ff ff ff 06 e8 39 4b`, layout.IntentWrite, 16384, 1},
		{"csum4k", "44 00 42 00 0b ba 71 84", layout.SmallWrite, 4096, 2},
		{"csum4k", "3c 00 42 00 fb c5 2d 2d", layout.SmallWrite, 4096, 0},
		{"csum4k", "bc 00 44 00 a5 5f 04 91", layout.BigIntent, 4096, 32},
	} {
		v := vectortest.Load(t, c.vector)
		dev := v.Device("meta_device")[v.Number("meta_offset")+4096:]
		g := geometry(t, 131072, c.csum)
		at := bytes.Index(dev[:4096], unhex(t, c.bytes))
		if at < 0 {
			t.Fatalf("%s: %v not found", c.vector, c.typ)
		}
		e := layout.Entry(dev[at:])
		e = e[:int(e[0])]
		if f := g.CheckEntry(e); f != layout.NoFault || e.Type() != c.typ || e.Csums(g).Count() != c.csums {
			t.Errorf("%s: %v: %v, %d checksums", c.vector, e, f, e.Csums(g).Count())
		}
		if again := reencode(g, e, make([]byte, 4096)); !bytes.Equal(again, e) {
			t.Errorf("%s: %v: encoded to %x", c.vector, e, []byte(again))
		}
		if c.typ == layout.BigIntent {
			if last := e.Csums(g).At(31); last != 0x0f5912ca {
				t.Errorf("last checksum %08x", last)
			}
		}
		if c.csums == 2 {
			tail := unhex(t, "00 40 00 00 00 20 00 00  00 00 00 03  ff 42 ae 6e  e3 04 ab a7")
			if !bytes.Equal(e[48:], tail) {
				t.Errorf("tail %x", []byte(e[48:]))
			}
		}
	}
}

// reencode writes an entry again from its decoded fields.
func reencode(g *layout.Geometry, e layout.Entry, dst []byte) layout.Entry {
	h := layout.Head{LSN: e.LSN(), Object: e.Object(), Version: e.Version(), Stable: e.Stable()}
	offset, length := e.Range()
	switch e.Type() {
	case layout.BigWrite:
		return g.PutBigWrite(dst, h, e.Block(), e.ExtBitmap(g), e.IntBitmap(g), e.Csums(g))
	case layout.SmallWrite:
		return g.PutSmallWrite(dst, h, e.Location(), offset, length, e.ExtBitmap(g), e.Csums(g))
	case layout.IntentWrite:
		return g.PutIntentWrite(dst, h, offset, length, e.ExtBitmap(g), e.Csums(g))
	case layout.BigIntent:
		return g.PutBigIntent(dst, h, e.Block(), offset, length, e.ExtBitmap(g), e.IntBitmap(g), e.Csums(g))
	case layout.Delete:
		return layout.PutDelete(dst, h.LSN, h.Object)
	case layout.Commit:
		return layout.PutCommit(dst, h.LSN, h.Object, h.Version)
	}
	return layout.PutRollback(dst, h.LSN, h.Object, h.Version)
}

// Every metadata block of every vector is read to its end without a fault,
// every entry encodes to its own bytes, and packing the entries again gives
// the block without its garbage.
func TestVectorsReencode(t *testing.T) {
	buf, packed := make([]byte, 4096), make([]byte, 4096)
	types := map[layout.EntryType]int{}
	tails := map[int]bool{}
	garbage := 0
	for _, v := range vectortest.All(t) {
		csum := uint32(v.Number("csum_block_size"))
		switch {
		case v.Text("csum_block_size") == "32k":
			csum = 32768
		case csum == 0 && v.Text("data_csum_type") == "crc32c":
			csum = 4096
		}
		g := geometry(t, uint32(v.Number("block_size")), csum)
		dev, at := v.Device("meta_device"), v.Number("meta_offset")
		area := le.Uint64(dev[at+48:])
		for n := range area/4096 - 1 {
			block := dev[at+(n+1)*4096:][:4096]
			b := layout.NewBlockBuilder(packed)
			s := g.ScanBlock(block)
			for s.Next() {
				if s.Fault != layout.NoFault {
					t.Fatalf("%s: %v", v.Name, s.Error(uint32(n)))
				}
				if s.Entry.Garbage() {
					garbage++
					continue
				}
				types[s.Entry.Type()]++
				if e := reencode(g, s.Entry, buf); !bytes.Equal(e, s.Entry) {
					t.Errorf("%s: block %d: %v:\n%x\n%x", v.Name, n, s.Entry, []byte(s.Entry), []byte(e))
				}
				b.Add(s.Entry)
			}
			tails[4096-s.Used()] = true
			b.Finish()
			squeezed := make([]byte, 4096)
			if used := g.SqueezeBlock(squeezed, block, nil); used != b.Used() || !bytes.Equal(squeezed, packed) {
				t.Errorf("%s: block %d: squeezed differently", v.Name, n)
			}
			if b.Used() == s.Used() && !bytes.Equal(packed, block) {
				t.Errorf("%s: block %d: packed differently", v.Name, n)
			}
		}
	}
	for _, tail := range []int{0, 1, 2, 3, 4, 5, 39, 40} {
		if !tails[tail] {
			t.Errorf("no block with %d unused bytes was seen", tail)
		}
	}
	for e := layout.BigWrite; e <= layout.Rollback; e++ {
		if types[e] == 0 {
			t.Errorf("no %v was seen", e)
		}
	}
	if garbage == 0 {
		t.Error("no garbage entry was seen")
	}
	t.Logf("entries by type %v, garbage %d", types, garbage)
}
