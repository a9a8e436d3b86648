package layout_test

import (
	"bytes"
	"testing"

	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

func FuzzSuperblock(f *testing.F) {
	good, err := layout.EncodeSuperblock(base())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Add(append([]byte("vITADisk"), make([]byte, 30)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 16 { // let the fuzzer reach the JSON
			b = bytes.Clone(b)
			size := min(len(b), 131072)
			le.PutUint32(b[12:], uint32(size))
			le.PutUint32(b[8:], layout.CRC(b[12:size]))
		}
		o, err := layout.DecodeSuperblock(b)
		if err != nil {
			return
		}
		again, err := layout.ParseOptions(o.JSON())
		if err != nil || !bytes.Equal(again.JSON(), o.JSON()) {
			t.Fatalf("%v: %s, then %s", err, o.JSON(), again.JSON())
		}
		if p, err := layout.NewParams(o, layout.DeviceBytes{Data: 1 << 30, Meta: 1 << 26, Buffer: 1 << 26}); err == nil {
			checkParams(t, p)
		}
	})
}

// checkParams: areas of accepted parameters are on their devices, apart.
func checkParams(t *testing.T, p *layout.Params) {
	type on struct {
		device string
		area   layout.Area
	}
	all := []on{{p.DataDevice, p.Data}, {p.MetaDevice, p.Meta}, {p.BufferDevice, p.Buffer}}
	for i, a := range all {
		if a.area.Bytes == 0 || a.area.Offset+a.area.Bytes > 1<<30 {
			t.Fatalf("area %+v", a)
		}
		for _, b := range all[:i] {
			if a.device == b.device && a.area.Offset < b.area.Offset+b.area.Bytes && b.area.Offset < a.area.Offset+a.area.Bytes {
				t.Fatalf("areas %+v and %+v overlap", a, b)
			}
		}
	}
}

func FuzzMetaSuperblock(f *testing.F) {
	b := make([]byte, 64)
	s := layout.MetaSuperblock{MetaBlockBytes: 4096, BlockBytes: 131072, GranuleBytes: 4096, AreaBytes: 1 << 20}
	s.Put(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, warning, err := layout.DecodeMetaSuperblock(b)
		if err != nil {
			return
		}
		if g, err := s.Geometry(); err == nil && g.MaxEntryBytes() > int(s.MetaBlockBytes) {
			t.Fatal("entries do not fit")
		}
		again := make([]byte, 64)
		s.Put(again)
		if warning == nil && !bytes.Equal(again, b[:64]) {
			t.Fatalf("%x, then %x", b[:64], again)
		}
	})
}

// FuzzEntry: whatever passes the check encodes to its own bytes.
func FuzzEntry(f *testing.F) {
	for _, csum := range []uint16{0, 4096, 16384} {
		g := geometry(f, 131072, uint32(csum))
		buf := make([]byte, 4096)
		h := layout.Head{LSN: 7, Object: someID, Version: 2, Stable: true}
		f.Add(csum, bytes.Clone(g.PutBigWrite(buf, h, 3, nil, nil, nil)))
		f.Add(csum, bytes.Clone(g.PutBigIntent(buf, h, 3, 4096, 8192, nil, nil, nil)))
		f.Add(csum, bytes.Clone(g.PutSmallWrite(buf, h, 4096, 12288, 8192, nil, nil)))
		f.Add(csum, bytes.Clone(g.PutIntentWrite(buf, h, 12288, 8192, nil, nil)))
		f.Add(csum, bytes.Clone(layout.PutCommit(buf, 1, someID, 4)))
	}
	f.Fuzz(func(t *testing.T, csum uint16, b []byte) {
		g, err := layout.Geometry{BlockBytes: 131072, GranuleBytes: 4096, MetaBlockBytes: 4096, CsumBytes: uint32(csum),
			BlockCount: 1000, BufferBytes: 1 << 20}.Complete()
		if err != nil || len(b) < 40 || len(b) > 4096 {
			return
		}
		e := layout.Entry(bytes.Clone(b))
		le.PutUint16(e, uint16(len(e)))
		e.Seal()
		if e.Garbage() || g.CheckEntry(e) != layout.NoFault {
			return
		}
		word := e.TypeWord()
		if word == 0x03 || word == 0x04 || word == 0x45 && e.Version() != 0 || e.Type() == layout.IntentWrite && le.Uint64(e[40:]) != 0 {
			return // read, but never written
		}
		if again := reencode(&g, e, make([]byte, 4096)); !bytes.Equal(again, e) {
			t.Fatalf("%v: %x, then %x", e, []byte(e), []byte(again))
		}
	})
}

// FuzzBlock: a scan ends, its entries do not overlap, and a block without
// faults packs to one that scans alike.
func FuzzBlock(f *testing.F) {
	block := make([]byte, 4096)
	copy(block, unhex(f, plainBlock0))
	f.Add(block)
	f.Add(make([]byte, 4096))
	f.Add(block[:700])
	f.Fuzz(func(t *testing.T, b []byte) {
		g := geometry(t, 131072, 0)
		block := make([]byte, 4096)
		copy(block, b)
		end, live, clean := 0, 0, true
		for s := g.ScanBlock(block); s.Next(); {
			if s.Offset < end || s.Offset+len(s.Entry) > len(block) {
				t.Fatalf("entry at %d+%d after %d", s.Offset, len(s.Entry), end)
			}
			end = s.Offset + len(s.Entry)
			clean = clean && s.Fault == layout.NoFault
			if s.Fault == layout.NoFault && !s.Entry.Garbage() {
				live++
			} else if s.Error(1) != nil && s.Error(1).Error() == "" {
				t.Fatal("no text")
			}
		}
		if !clean {
			return
		}
		out := make([]byte, 4096)
		g.SqueezeBlock(out, block, nil)
		for s := g.ScanBlock(out); s.Next(); live-- {
			if s.Fault != layout.NoFault {
				t.Fatal(s.Error(0))
			}
		}
		if live != 0 {
			t.Fatalf("%d entries lost", live)
		}
	})
}

// FuzzLoadImage damages vectors: what is loaded can be read and dumped.
func FuzzLoadImage(f *testing.F) {
	names := []string{"plain", "csum4k", "csum16k", "ec4k", "torn", "redirect", "intent16k"}
	params, images := make([]*layout.Params, len(names)), make([]layout.Image, len(names))
	for i, name := range names {
		params[i], images[i] = open(f, vectortest.Load(f, name))
		f.Add(uint8(i), uint16(0), []byte{}, false)
		f.Add(uint8(i), uint16(4096+40), []byte{9, 0, 0, 0}, true)
		f.Add(uint8(i), uint16(4096+40+52), []byte{1, 0, 0, 0}, true)
		f.Add(uint8(i), uint16(56), []byte{1, 0, 0, 0}, true)
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint16, patch []byte, seal bool) {
		p, im := params[int(which)%len(names)], images[int(which)%len(names)]
		if int(at)+len(patch) > 65536 {
			return
		}
		im.Meta = bytes.Clone(im.Meta)
		copy(im.Meta[at:], patch)
		if seal {
			resealAll(im.Meta[4096:])
		}
		l, err := layout.LoadImage(im, p, layout.LoadOptions{SkipCorrupt: at%2 == 1})
		if err != nil {
			return
		}
		for i := range l.Objects {
			for _, v := range l.Objects[i].Chain.Versions(nil) {
				// A chain whose versions do not grow (only damage makes
				// one) reads as its newest entry within the limit.
				if c := l.Read(&l.Objects[i], v.Version); c == nil || c.Version > v.Version {
					t.Fatalf("object %v version %d is listed, but does not read", l.Objects[i].ID, v.Version)
				}
			}
		}
		var dump bytes.Buffer
		if _, err := layout.DumpMeta(&dump, &p.Geometry, im.Meta, im.Buffer, layout.DumpData); err != nil {
			t.Fatal(err)
		}
	})
}

// resealAll corrects the crc32c of all entries, so that damage gets further.
func resealAll(area []byte) {
	for block := area; len(block) >= 4096; block = block[4096:] {
		for at := 0; at+40 <= 4096; {
			n := int(le.Uint16(block[at:]))
			if n < 40 || at+n > 4096 || le.Uint16(block[at+2:]) == 0xAB8F {
				break
			}
			layout.Entry(block[at : at+n]).Seal()
			at += n
		}
	}
}

func FuzzRestore(f *testing.F) {
	var params []*layout.Params
	for _, name := range []string{"plain", "csum4k", "ec"} {
		v := vectortest.Load(f, name)
		p, im := open(f, v)
		params = append(params, p)
		var dump bytes.Buffer
		for _, format := range []layout.DumpFormat{layout.DumpEntries, layout.DumpOld} {
			dump.Reset()
			if _, err := layout.DumpMeta(&dump, &p.Geometry, im.Meta, im.Buffer, format); err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(len(params)-1), bytes.Clone(dump.Bytes()))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, dump []byte) {
		p := params[int(which)%len(params)]
		g := &p.Geometry
		_, _ = layout.RestoreMeta(bytes.NewReader(dump), p, layout.RestoreSink{
			Block: func(n uint32, block []byte) error {
				for s := g.ScanBlock(block); s.Next(); {
					if s.Fault != layout.NoFault {
						t.Fatal(s.Error(n))
					}
				}
				return nil
			},
			Buffer: func(at uint64, data []byte) error {
				if at+uint64(len(data)) > p.Buffer.Bytes {
					t.Fatalf("buffer write at %d+%d", at, len(data))
				}
				return nil
			},
		})
	})
}
