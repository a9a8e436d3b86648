package layout_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"vitastor/osd/store/layout"
)

const (
	tb  = 1000 * 1000 * 1000 * 1000
	gib = 1 << 30
	mib = 1 << 20
)

// The worked examples of spec §1.3 for `prepare`.
func TestPrepareExamples(t *testing.T) {
	one := func(more ...string) layout.Options {
		o := layout.Options{"data_device": "/dev/d", "disable_data_fsync": true}
		for i := 0; i < len(more); i += 2 {
			o[more[i]] = more[i+1]
		}
		return o
	}
	for _, c := range []struct {
		name   string
		o      layout.Options
		dev    layout.DeviceBytes
		hdd    bool
		want   [3]uint64
		minSum uint64
		blocks uint32
		meta   uint32
	}{
		{"64 MiB file", one("journal_size", "1M", "meta_reserve", "1M"), layout.DeviceBytes{Data: 64 * mib}, false,
			[3]uint64{4096, 1052672, 2101248}, 0, 495, 255},
		{"10^12 SSD", one(), layout.DeviceBytes{Data: tb}, false, [3]uint64{4096, 33558528, 1107300352}, 400629760, 0, 262143},
		{"10^12 SSD with checksums", one("data_csum_type", "crc32c"), layout.DeviceBytes{Data: tb}, false,
			[3]uint64{4096, 33558528, 2874372096}, 346779 * 4096, 0, 2*346779 - 1},
		{"10^12 HDD, separate partitions", one("meta_device", "/dev/m", "journal_device", "/dev/j", "block_size", "1M"),
			layout.DeviceBytes{Data: tb, Meta: gib + 4096, Buffer: gib}, true, [3]uint64{4096, 4096, 4096}, 0, 0, gib/4096 - 1},
		{"HDD default buffer", one(), layout.DeviceBytes{Data: tb}, true, [3]uint64{4096, 4096 + 128*mib, 4096 + 128*mib + gib}, 0, 0, gib/4096 - 1},
		{"buffer on the metadata device, no size given", one("meta_device", "/dev/m", "journal_device", "/dev/m"),
			layout.DeviceBytes{Data: tb, Meta: 10 * gib}, false, [3]uint64{4096, 4096 + 32*mib, 4096}, 0, 0, 0},
		{"large metadata blocks", one("meta_block_size", "16k", "meta_reserve", "2x,16M"), layout.DeviceBytes{Data: gib}, false,
			[3]uint64{4096, 32*mib + 16384, 48*mib + 16384}, 0, 0, 1023},
		{"both parts of meta_reserve count", one("meta_reserve", "3x,2G"), layout.DeviceBytes{Data: tb}, false,
			[3]uint64{4096, 33558528, 33558528 + 2*gib}, 0, 0, 0},
	} {
		plan, err := layout.Prepare(c.o, c.dev, c.hdd)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := [3]uint64{plan.BufferOffset, plan.MetaOffset, plan.DataOffset}; got != c.want || c.minSum != 0 && plan.MinMetaBytes != c.minSum {
			t.Errorf("%s: offsets %v (min metadata %d), want %v (%d)", c.name, got, plan.MinMetaBytes, c.want, c.minSum)
		}
		o := plan.Into(c.o)
		o["meta_format"] = json.Number("3")
		p, err := layout.NewParams(o, c.dev)
		if err != nil || c.blocks != 0 && p.Geometry.BlockCount != c.blocks || c.meta != 0 && p.MetaBlocks != c.meta {
			t.Errorf("%s: %v, %+v", c.name, err, p)
		}
	}
}

// The traps of the tool: what cannot work is an error that says what to do.
func TestPrepareErrors(t *testing.T) {
	for _, c := range []struct {
		more string
		dev  uint64
		want string
	}{
		{`{}`, gib, "lower meta_reserve, for example 2x,"},
		{`{}`, mib, "use a larger device"},
		{`{"meta_reserve":"1G,2x"}`, tb, "meta_reserve is"},
		{`{"meta_reserve":"0.5x"}`, tb, "the factor 1..1000"},
		{`{"meta_reserve":"many"}`, tb, "meta_reserve is"},
		{`{"journal_size":"100k"}`, tb, "buffer area has 102400 bytes, must be at least 1048576"},
		{`{"data_size":"2T"}`, tb, "no room for data"},
		{`{"block_size":"100k"}`, tb, "block_size is 102400"},
		{`{"block_size":"large"}`, tb, `block_size is "large": not a size`},
		{`{"block_size":4096,"bitmap_granularity":512,"disk_alignment":512}`, 9 * 1000 * tb, "use a larger block_size"},
	} {
		o, err := layout.ParseOptions([]byte(c.more))
		if err != nil {
			t.Fatal(err)
		}
		o["data_device"] = "/dev/d"
		if plan, err := layout.Prepare(o, layout.DeviceBytes{Data: c.dev}, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %+v; want %q", c.more, err, plan, c.want)
		}
	}
}

func TestSimpleOffsets(t *testing.T) {
	for _, c := range []struct {
		o     string
		bytes uint64
		want  [4]uint64
	}{
		{`{}`, gib, [4]uint64{0, 33554432, 34316288, 1039425536}},
		{`{"data_csum_type":"crc32c","csum_block_size":"4k"}`, gib, [4]uint64{0, 33554432, 35876864, 1037864960}},
		{`{}`, tb, [4]uint64{0, 33554432, 765956096, 999234043904}},
		{`{"data_csum_type":"crc32c"}`, 1 << 40, [4]uint64{0, 33554432, 2487750656, 1097023877120}},
	} {
		o, _ := layout.ParseOptions([]byte(c.o))
		p, err := layout.SimpleOffsets(o, c.bytes)
		if err != nil {
			t.Errorf("%s: %v", c.o, err)
			continue
		}
		if got := [4]uint64{p.BufferOffset, p.MetaOffset, p.DataOffset, p.DataBytes}; got != c.want {
			t.Errorf("%s of %d: %v, want %v", c.o, c.bytes, got, c.want)
		}
	}
	for o, want := range map[string]string{`{"meta_reserve":"0.5"}`: "factor", `{"journal_size":"2G"}`: "do not fit", `{"journal_size":"1G"}`: "no room for data"} {
		opts, _ := layout.ParseOptions([]byte(o))
		if _, err := layout.SimpleOffsets(opts, gib); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", o, err)
		}
	}
}

// base is a valid store on one 64 MiB device.
func base() layout.Options {
	return layout.Options{"osd_num": json.Number("1"), "meta_format": "3", "data_device": "/dev/d", "meta_device": "", "journal_device": "",
		"journal_offset": json.Number("4096"), "meta_offset": json.Number("1052672"), "data_offset": json.Number("2101248")}
}

func TestParamsAreas(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     layout.Options
		dev     layout.DeviceBytes
		d, m, b layout.Area
	}{
		{"usual order", nil, layout.DeviceBytes{Data: 64 * mib}, layout.Area{Offset: 2101248, Bytes: 64*mib - 2101248},
			layout.Area{Offset: 1052672, Bytes: mib}, layout.Area{Offset: 4096, Bytes: mib}},
		{"data first", layout.Options{"data_offset": "4096", "meta_offset": "32M", "journal_offset": "40M"}, layout.DeviceBytes{Data: 64 * mib},
			layout.Area{Offset: 4096, Bytes: 32*mib - 4096}, layout.Area{Offset: 32 * mib, Bytes: 8 * mib}, layout.Area{Offset: 40 * mib, Bytes: 24 * mib}},
		{"sizes", layout.Options{"data_size": "32M", "data_offset": "4M", "journal_offset": "36M", "meta_offset": "4096", "journal_size": "2M"}, layout.DeviceBytes{Data: 64 * mib},
			layout.Area{Offset: 4 * mib, Bytes: 32 * mib}, layout.Area{Offset: 4096, Bytes: 4*mib - 4096}, layout.Area{Offset: 36 * mib, Bytes: 2 * mib}},
		{"three devices", layout.Options{"meta_device": "/dev/m", "journal_device": "/dev/j", "data_offset": "4096", "meta_offset": "4096"},
			layout.DeviceBytes{Data: 64 * mib, Meta: 4 * mib, Buffer: 3 * mib},
			layout.Area{Offset: 4096, Bytes: 64*mib - 4096}, layout.Area{Offset: 4096, Bytes: 4*mib - 4096}, layout.Area{Offset: 4096, Bytes: 3*mib - 4096}},
		{"buffer on the metadata device", layout.Options{"meta_device": "/dev/m", "data_offset": "4096"}, layout.DeviceBytes{Data: 64 * mib, Meta: 4 * mib},
			layout.Area{Offset: 4096, Bytes: 64*mib - 4096}, layout.Area{Offset: 1052672, Bytes: 4*mib - 1052672}, layout.Area{Offset: 4096, Bytes: mib}},
	} {
		o := base()
		maps.Copy(o, c.set)
		p, err := layout.NewParams(o, c.dev)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.Data != c.d || p.Meta != c.m || p.Buffer != c.b {
			t.Errorf("%s: data %v meta %v buffer %v", c.name, p.Data, p.Meta, p.Buffer)
		}
	}
}

func TestParamsErrors(t *testing.T) {
	for _, c := range []struct {
		set, want string
	}{
		{`{"meta_format":"2"}`, `meta_format is "2", only 3`},
		{`{"meta_format":null}`, `meta_format is "", only 3`},
		{`{"data_device":""}`, "data_device is empty"},
		{`{"data_offset":2101249}`, "data_offset is 2101249, must be a multiple of 4096"},
		{`{"meta_offset":1052673}`, "meta_offset is 1052673, must be a multiple of 4096"},
		{`{"journal_offset":1}`, "journal_offset is 1, must be a multiple of 4096"},
		{`{"journal_offset":-4096}`, `journal_offset is "-4096"`},
		{`{"data_offset":1207963648}`, "smaller metadata reserve (meta_reserve)"},
		{`{"data_offset":1052672}`, "data_offset and meta_offset are both 1052672"},
		{`{"data_offset":1056768}`, "at least 28672"},
		{`{"data_size":"100M"}`, "data_size is 104857600, but there are only"},
		{`{"data_size":"200k"}`, "has 1 blocks of 131072 bytes, must be 2.."},
		{`{"journal_size":"2M"}`, "journal_size is 2097152, but there are only 1048576"},
		{`{"journal_size":"64k"}`, "must be at least 1048576"},
		{`{"meta_block_size":2560,"meta_offset":1054720,"data_offset":2101248}`, "is not a multiple of meta_block_size 2560: make its partition"},
		{`{"bitmap_granularity":"32k"}`, "bitmap_granularity is 32768"},
		{`{"disk_alignment":8192}`, "disk_alignment is 8192"},
		{`{"data_csum_type":"md5"}`, "data_csum_type is \"md5\""},
		{`{"data_csum_type":"crc32c","csum_block_size":"6k"}`, "csum_block_size is 6144"},
		{`{"data_csum_type":"crc32c","csum_block_size":"8g"}`, "below 4 GiB"},
		{`{"immediate_commit":"most"}`, `immediate_commit is "most"`},
		{`{"immediate_commit":"small"}`, "disable_journal_fsync is not set"},
		{`{"immediate_commit":"all","journal_device":"/dev/j","disable_journal_fsync":1}`, "disable_data_fsync is not set"},
		{`{"disable_data_fsync":"maybe"}`, "must be true or false"},
	} {
		o := base()
		set, err := layout.ParseOptions([]byte(c.set))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(o, set)
		if p, err := layout.NewParams(o, layout.DeviceBytes{Data: 64 * mib, Buffer: 64 * mib}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %+v; want %q", c.set, err, p, c.want)
		}
	}
}

// Values of all kinds mean the same; fsync flags are inherited by device.
func TestParamsValues(t *testing.T) {
	for _, yes := range []any{true, "true", "yes", "1", json.Number("1")} {
		o := base()
		o["disable_data_fsync"], o["csum_block_size"], o["data_csum_type"] = yes, "16K", "crc32c"
		o["block_size"], o["atomic_write_size"] = "0x40000", "0"
		p, err := layout.NewParams(o, layout.DeviceBytes{Data: 64 * mib})
		if err != nil || !p.WriteThrough() || p.Geometry.CsumBytes != 16384 || p.Geometry.BlockBytes != 262144 || p.AtomicWriteBytes != 0 || p.OSDNum != 1 {
			t.Errorf("%v: %v %+v", yes, err, p)
		}
	}
	o := base()
	o["csum_block_size"], o["disable_meta_fsync"], o["disable_journal_fsync"] = "16K", true, true
	p, err := layout.NewParams(o, layout.DeviceBytes{Data: 64 * mib})
	if err != nil || p.Geometry.CsumBytes != 0 || p.DisableMetaFsync || p.DisableBufferFsync || p.AtomicWriteBytes != 4096 {
		t.Errorf("%v %+v", err, p)
	}
	for text, want := range map[string]uint64{"4096": 4096, "4k": 4096, "1M": mib, "2g": 2 * gib, "1T": 1 << 40, "0x10": 16, "010": 8, "1e6": 1000000, "1.9": 1} {
		if v, err := layout.ParseSize(text); err != nil || v != want {
			t.Errorf("%q: %d, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "k", "4kb", "-1", "1_000", "0x1_0", "1.5k", "1e30", "nan", "99999999999t", "08"} {
		if v, err := layout.ParseSize(text); err == nil && text != "08" {
			t.Errorf("%q: accepted as %d", text, v)
		}
	}
}

func TestSuperblock(t *testing.T) {
	text := `{"a list":[1,"x",{"z":null,"b":1.5}],"data_device":"/dev/<&>","data_offset":4096,"journal_offset":"4096","meta_offset":"0x2000","osd_num":"7","big":18446744073709551615,"unknown":true}`
	o, err := layout.ParseOptions([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a list": [1, "x", {"b": 1.5, "z": null}], "big": 18446744073709551615, "data_device": "/dev/<&>", "data_offset": 4096, "journal_offset": "4096", "meta_offset": "0x2000", "osd_num": "7", "unknown": true}`
	b, err := layout.EncodeSuperblock(o)
	if err != nil || len(b) != 4096 || string(b[16:16+len(want)]) != want || string(b[:8]) != "vITADisk" {
		t.Fatalf("%v %q", err, b[:300])
	}
	back, err := layout.DecodeSuperblock(b)
	if err != nil || string(back.JSON()) != want || back.OSDNum() != 7 || back.Text("big") != "18446744073709551615" {
		t.Fatal(err, back)
	}
	if copy(b, layout.ClearedSuperblock()); !layout.IsZero(b[:12]) || b[12] == 0 {
		t.Error("clearing touches more than the first 12 bytes")
	}
	if _, err := layout.DecodeSuperblock(b); err == nil || !strings.Contains(err.Error(), "no disk superblock") {
		t.Error(err)
	}
	o["note"] = strings.Repeat("x", 4096-16-len(want)-len(`, "note": ""`))
	if b, err = layout.EncodeSuperblock(o); err != nil || b[4095] != '}' {
		t.Error("exactly 4096 bytes:", err)
	}
	o["note"] = o["note"].(string) + "x"
	if _, err := layout.EncodeSuperblock(o); err == nil || !strings.Contains(err.Error(), "only 4080 fit") {
		t.Error(err)
	}
}

func TestSuperblockErrors(t *testing.T) {
	good, err := layout.EncodeSuperblock(base())
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(b []byte, n int) { le.PutUint32(b[12:], uint32(n)); le.PutUint32(b[8:], layout.CRC(b[12:n])) }
	size := int(le.Uint32(good[12:]))
	text := func(s string) func(b []byte) []byte {
		return func(b []byte) []byte { n := copy(b[16:], s); reseal(b, 16+n); return b }
	}
	for want, spoil := range map[string]func(b []byte) []byte{
		"only 10 bytes were read":     func(b []byte) []byte { return b[:10] },
		"no disk superblock":          func(b []byte) []byte { b[0]++; return b },
		"size is 17":                  func(b []byte) []byte { le.PutUint32(b[12:], 17); return b },
		"size is 131073":              func(b []byte) []byte { le.PutUint32(b[12:], 131073); return b },
		"5000 bytes long, but only":   func(b []byte) []byte { le.PutUint32(b[12:], 5000); return b },
		"corrupt: crc32c":             func(b []byte) []byte { b[20]++; return b },
		"not a JSON object":           func(b []byte) []byte { b[16] = 'x'; reseal(b, size); return b },
		"extra bytes":                 text(`{} {}`),
		"parameters are null":         text(`null`),
		`osd_num is "", must be`:      text(`{"data_device":"x"}`),
		"data_device is empty":        text(`{"osd_num":1}`),
		`data_offset is "0", must be`: text(`{"osd_num":1,"data_device":"x","data_offset":0}`),
	} {
		if _, err := layout.DecodeSuperblock(spoil(append([]byte(nil), good...))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// A superblock over 4096 bytes is read if all its bytes are there.
	o := base()
	o["x"] = strings.Repeat("y", 5000)
	long := append(append([]byte(nil), good[:16]...), o.JSON()...)
	reseal(long, len(long))
	if n, err := layout.SuperblockSize(long[:4096]); err != nil || n != len(long) {
		t.Error(n, err)
	}
	if back, err := layout.DecodeSuperblock(long); err != nil || back.Text("x") != o["x"] {
		t.Error(err)
	}
}

func TestRole(t *testing.T) {
	o := layout.Options{"data_device": "/dev/disk/by-partuuid/d", "meta_device": "/dev/disk/by-partuuid/m", "journal_device": ""}
	links := map[string]string{"/dev/disk/by-partuuid/d": "/dev/sda1", "/dev/disk/by-partuuid/m": "/dev/sdb1"}
	resolve := func(path string) (string, error) {
		if to, ok := links[path]; ok {
			return to, nil
		}
		return "", fmt.Errorf("no such file")
	}
	for dev, want := range map[string]string{"/dev/sda1": "data", "/dev/sdb1": "meta", "/dev/sdc1": ""} {
		role, err := o.Role(dev, resolve)
		if role != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", dev, role, err)
		}
	}
	if d, m, b := o.Devices(); m != "/dev/disk/by-partuuid/m" || b != m || d == m {
		t.Error(d, m, b)
	}
}

func TestPartitionSizes(t *testing.T) {
	if n := layout.HybridMetaBytes(400629760); n != gib {
		t.Error(n)
	}
	if n := layout.HybridMetaBytes(gib + 1); n != 2*(gib+mib) {
		t.Error(n)
	}
	if n := layout.PartitionMiB(100*mib+5, 3); n != 33 {
		t.Error(n)
	}
	if layout.PartitionMiB(100, 2) != 0 || layout.PartitionMiB(gib, 0) != 0 {
		t.Error("nothing fits")
	}
}
