package layout_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

// restore makes the metadata and buffer areas from a dump.
func restore(t testing.TB, dump []byte, p *layout.Params) (area, buffer []byte, done layout.Restored, err error) {
	area, buffer = make([]byte, p.Meta.Bytes), make([]byte, p.Buffer.Bytes)
	m := int(p.Geometry.MetaBlockBytes)
	next := uint32(0)
	done, err = layout.RestoreMeta(bytes.NewReader(dump), p, layout.RestoreSink{
		Block: func(n uint32, block []byte) error {
			if n != next {
				return fmt.Errorf("block %d after %d", n, next)
			}
			next++
			copy(area[(int(n)+1)*m:], block)
			return nil
		},
		Buffer: func(at uint64, data []byte) error {
			copy(buffer[at:], data)
			return nil
		},
	})
	if err == nil && next != p.MetaBlocks {
		t.Errorf("%d blocks of %d were written", next, p.MetaBlocks)
	}
	sb := p.MetaSuperblock(0)
	sb.Put(area)
	return area, buffer, done, err
}

// A dump with data restores to a store with the same objects, and dumping
// that gives the same text; no small write or intent is lost.
func TestDumpRestore(t *testing.T) {
	for _, v := range vectortest.All(t) {
		p, im := open(t, v)
		var dump bytes.Buffer
		skipped, err := layout.DumpMeta(&dump, &p.Geometry, im.Meta, im.Buffer, layout.DumpData)
		if err != nil || len(skipped) != 0 {
			t.Fatal(err, skipped)
		}
		area, buffer, done, err := restore(t, dump.Bytes(), p)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		l, err := layout.LoadImage(layout.Image{Data: im.Data, Meta: area, Buffer: buffer}, p, layout.LoadOptions{})
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		sameListing(t, v.Name, listing(t, l), v.Objects)
		if uint64(done.HighestLSN) != v.Totals.MaxLSN || l.LiveBytes != v.Totals.MetaUsed {
			t.Errorf("%s: %+v, %d live bytes", v.Name, done, l.LiveBytes)
		}
		var again bytes.Buffer
		if _, err := layout.DumpMeta(&again, &p.Geometry, area, buffer, layout.DumpData); err != nil || again.String() != dump.String() {
			t.Errorf("%s: the restored store dumps differently: %v", v.Name, err)
		}
	}
}

// The fields of spec §14.
func TestDumpFields(t *testing.T) {
	_, im := open(t, vectortest.Load(t, "plain"))
	sb, _, err := layout.DecodeMetaSuperblock(im.Meta)
	if err != nil {
		t.Fatal(err)
	}
	g, err := sb.Geometry()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := layout.DumpMeta(&out, &g, im.Meta, nil, layout.DumpEntries); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	want := []string{
		`{"version":"3.0","meta_block_size":4096,"data_block_size":131072,"bitmap_granularity":4096,"data_csum_type":"none","csum_block_size":0,"entries":[`,
		`{"pool":1,"inode":"0x1","stripe":"0x0","writes":[{"lsn":1,"version":1,"type":"big","stable":true,"location":0,"bitmap":"ffffffff","ext_bitmap":"ffffffff"}]},`,
		`{"pool":1,"inode":"0x1","stripe":"0x20000","writes":[` +
			`{"lsn":4,"version":3,"type":"small","stable":true,"location":0,"offset":0,"len":0,"ext_bitmap":"00000007"},` +
			`{"lsn":3,"version":2,"type":"small","stable":true,"location":0,"offset":16384,"len":8192,"ext_bitmap":"00000003","data_crc32c":"10aa1048"},` +
			`{"lsn":2,"version":1,"type":"big","stable":true,"location":131072,"bitmap":"04000000","ext_bitmap":"00000001"}]},`,
		`{"pool":1,"inode":"0x1","stripe":"0x40000","writes":[{"lsn":8,"version":3,"type":"big_intent","stable":true,"location":262144,"offset":126976,"len":4096,"bitmap":"ffffffff","ext_bitmap":"ffffffff","data_crc32c":"0f5912ca"}]},`,
	}
	for i, w := range want {
		if lines[i] != w {
			t.Errorf("line %d:\n got %s\nwant %s", i, lines[i], w)
		}
	}
	if !strings.Contains(out.String(), `{"lsn":25,"version":0,"type":"delete","stable":true}`) || !json.Valid(out.Bytes()) {
		t.Error(out.String())
	}
}

// Format "old" has the newest stable block of every object, and restores as
// stable BIG_WRITE entries.
func TestDumpOld(t *testing.T) {
	for _, name := range []string{"enc-handover", "csum4k", "compacted"} {
		v := vectortest.Load(t, name)
		p, im := open(t, v)
		var out bytes.Buffer
		if _, err := layout.DumpMeta(&out, &p.Geometry, im.Meta, nil, layout.DumpOld); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(out.String(), `{"version":"0.9",`) || !strings.Contains(out.String(), `{"block":0,"pool":`) {
			t.Error(out.String())
		}
		area, _, done, err := restore(t, out.Bytes(), p)
		if err != nil || int(done.Objects) != len(v.Objects) || done.Entries != done.Objects {
			t.Errorf("%s: %v, %+v", name, err, done)
			continue
		}
		if _, err := layout.LoadImage(layout.Image{Data: im.Data, Meta: area, Buffer: im.Buffer}, p, layout.LoadOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestDumpSkipsCorrupt(t *testing.T) {
	v := vectortest.Load(t, "plain")
	p, im := open(t, v)
	im.Meta[4096+20] ^= 1
	var out bytes.Buffer
	skipped, err := layout.DumpMeta(&out, &p.Geometry, im.Meta, nil, layout.DumpEntries)
	if err != nil || len(skipped) != 1 || strings.Contains(out.String(), `"lsn":1,`) {
		t.Error(err, skipped)
	}
}

func TestRestoreErrors(t *testing.T) {
	v := vectortest.Load(t, "plain")
	p, im := open(t, v)
	var out bytes.Buffer
	if _, err := layout.DumpMeta(&out, &p.Geometry, im.Meta, nil, layout.DumpEntries); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, want string }{
		{`{"version"`, `["version"`, "expected {"},
		{`"version":"3.0"`, `"version":"0.6"`, "version is 0.6"},
		{`"data_block_size":131072`, `"data_block_size":262144`, "data_block_size of the dump is 262144"},
		{`"csum_block_size":0`, `"csum_block_size":4096`, "csum_block_size of the dump is 4096"},
		{`"csum_block_size":0`, `"journal":[{}]`, "journal of an old store"},
		{`"entries":[`, `"elements":[`, `"entries" is missing`},
		{`"pool":1`, `"pool":0`, "invalid pool"},
		{`"inode":"0x1"`, `"inode":"0x1000000000000"`, "invalid pool or inode"},
		{`"writes":`, `"reads":`, "neither writes nor block"},
		{`"type":"big"`, `"type":"huge"`, "unknown type"},
		{`"bitmap":"ffffffff"`, `"bitmap":"ffff"`, "must have 4 bytes"},
		{`"bitmap":"ffffffff"`, `"bitmap":"xx"`, "invalid byte"},
		{`"location":131072`, `"location":131073`, "not a block of the data area"},
		{`"location":131072`, `"location":131072000000000`, "not a block of the data area"},
		{`"location":131072`, `"location":0`, "data block 0"},
		{`"offset":16384`, `"offset":16385`, "unaligned"},
		{`"len":8192,`, ``, "offset, len and location are missing"},
		{`"location":0,"offset":16384`, `"location":1048576,"offset":16384`, "outside of the buffer area"},
		{`,"data_crc32c":"10aa1048"`, ``, "data_crc32c is missing"},
		{`,"data_crc32c":"10aa1048"`, `,"data_crc32c":"zz"`, "8 hex digits"},
		{`"type":"big_intent","stable":true`, `"type":"big_intent","stable":false`, "always stable"},
		{`"lsn":3,`, `"lsn":4,`, "chain rule 1"},
		{`"type":"delete"`, `"type":"commit"`, "commit of version 0"},
	} {
		dump := strings.Replace(out.String(), c.from, c.to, 1)
		if dump == out.String() {
			t.Fatalf("%q is not in the dump", c.from)
		}
		if _, _, _, err := restore(t, []byte(dump), p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.to, err, c.want)
		}
	}
	tails := vectortest.Load(t, "enc-tails")
	p, im = open(t, tails)
	out.Reset()
	if _, err := layout.DumpMeta(&out, &p.Geometry, im.Meta, nil, layout.DumpEntries); err != nil {
		t.Fatal(err)
	}
	p.MetaBlocks = 2
	if _, _, _, err := restore(t, out.Bytes(), p); err == nil || !strings.Contains(err.Error(), "do not fit the 2 metadata blocks") {
		t.Error(err)
	}
}
