package disk

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// Options may stand anywhere; values that look like commands are values.
func TestCommandFirst(t *testing.T) {
	isCommand := func(s string) bool { return s == "prepare" || s == "check" || s == "purge" }
	for line, want := range map[string]string{
		"prepare /dev/sda":                  "prepare /dev/sda",
		"--json prepare x":                  "prepare --json x",
		"--tags check prepare x":            "prepare --tags check x",
		"--tags=a --dry-run prepare x":      "prepare --tags=a --dry-run x",
		"--no-data --data_device check x y": "--no-data --data_device check x y",
		"--help purge":                      "purge --help",
		"-h purge":                          "purge -h",
		"x check":                           "x check",
		"":                                  "",
		"--json":                            "--json",
	} {
		if got := strings.Join(commandFirst(strings.Fields(line), isCommand), " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

const gptTable = `{"partitiontable": {"label":"gpt", "firstlba":2048, "lastlba":4194270, "sectorsize":512, "partitions": [
 {"node":"/dev/x2", "start":1050624, "size":204800, "type":"E7009FAC-A5A1-4D72-AF72-53DE13059903", "uuid":"AA"},
 {"node":"/dev/x1", "start":2048, "size":204800, "type":"0FC63DAF-8483-4772-8E79-3D69D8477DE4", "uuid":"BB"}]}}`

// Partitions go into the largest gap, aligned, as spec ondisk.md §1.2 says.
func TestTable(t *testing.T) {
	x, err := parseTable(gptTable)
	if err != nil {
		t.Fatal(err)
	}
	if start, bytes := x.free(); start != (1050624+204800)*512 || bytes != 1434*mib {
		t.Errorf("free %d+%d", start, bytes)
	}
	parts := x.split(3)
	if len(parts) != 3 || parts[0].Bytes != 477*mib || parts[1].Bytes != 477*mib || parts[2].Bytes != 480*mib || parts[1].Start != parts[0].Start+477*mib {
		t.Errorf("split: %+v", parts)
	}
	want := "label: gpt\nstart=1255424, size=976896, type=e7009fac-a5a1-4d72-af72-53de13059903\n"
	if got := x.script(parts[:1], true); got != want {
		t.Errorf("script: %q", got)
	}
	if x.place(1<<30, 500*mib) != nil || len(x.place(1<<30, 400*mib)) != 2 {
		t.Error("place")
	}
	if e := emptyTable(1 << 20); e.split(1) != nil {
		t.Error("a tiny disk gets a partition")
	}
	for _, bad := range []string{"", "{}", `{"partitiontable": {"label":"dos"}}`, strings.Replace(gptTable, "512", "3000", 1),
		strings.Replace(gptTable, "4194270", "99999999999999999", 1), strings.Replace(gptTable, "204800", "18446744073709551615", 1)} {
		if x, err := parseTable(bad); err == nil {
			t.Errorf("%s: %+v", bad, x)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(gptTable, 2)
	f.Add(`{"partitiontable": {"label":"gpt"}}`, 1)
	f.Add(strings.Replace(gptTable, "2048", "0", 1), 64)
	f.Fuzz(func(t *testing.T, text string, n int) {
		x, err := parseTable(text)
		if err != nil {
			return
		}
		for _, p := range x.split(n % 65) {
			from, to := p.Start/x.SectorBytes, (p.Start+p.Bytes)/x.SectorBytes
			if p.Start%mib != 0 || p.Bytes%mib != 0 || p.Bytes == 0 || from < x.FirstLBA || to > x.LastLBA+1 {
				t.Fatalf("%+v in %+v", p, x)
			}
			for _, q := range x.Parts {
				if q.Size != 0 && from < q.Start+q.Size && q.Start < to {
					t.Fatalf("%+v overlaps %+v", p, q)
				}
			}
		}
	})
}

// The own look at a device never fails, whatever is there, and takes only
// zeroes and deleted superblocks for nothing.
func FuzzLook(f *testing.F) {
	o := layout.Options{"osd_num": "1", "data_device": "/x", "data_offset": "8192", "meta_offset": "4096", "journal_offset": "12288"}
	sb, err := layout.EncodeSuperblock(o)
	if err != nil {
		f.Fatal(err)
	}
	cleared := slices.Clone(sb)
	copy(cleared, layout.ClearedSuperblock())
	f.Add(sb, []byte{})
	f.Add(cleared, make([]byte, 5000))
	f.Add(make([]byte, 9000), []byte("x"))
	f.Add([]byte("\x00\x00LUKS"), []byte("EFI PART"))
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		c := look(head, tail, uint64(len(head)+len(tail)))
		first := head[:min(len(head), 4096)]
		if c.What == "" && !layout.IsZero(first) && !clearedOSD(first) {
			t.Fatalf("%q is taken for empty", first)
		}
	})
}

func TestLookOfSuperblocks(t *testing.T) {
	o := layout.Options{"osd_num": "12", "data_device": "/x", "data_offset": "8192", "meta_offset": "4096", "journal_offset": "12288"}
	sb, err := layout.EncodeSuperblock(o)
	if err != nil {
		t.Fatal(err)
	}
	empty := make([]byte, 8192)
	if c := look(sb, empty, 1<<20); c.What != "OSD 12" || c.OSD == nil {
		t.Errorf("%+v", c)
	}
	damaged := slices.Clone(sb)
	damaged[30] ^= 1
	if c := look(damaged, empty, 1<<20); !strings.HasPrefix(c.What, "a damaged OSD superblock") {
		t.Errorf("%+v", c)
	}
	copy(sb, layout.ClearedSuperblock())
	if c := look(sb, empty, 1<<20); c.What != "" {
		t.Errorf("%+v", c)
	}
}

// The cache mode of SCSI disks is set; that of others is only read.
func TestEnsureWriteThrough(t *testing.T) {
	scsi := func(mode string, perm os.FileMode) string {
		dir := t.TempDir()
		sub := filepath.Join(dir, "device", "scsi_disk", "0:0:0:0")
		if err := os.MkdirAll(sub, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "cache_type"), []byte(mode+"\n"), perm); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	other := func(mode string) string {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "queue"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "queue", "write_cache"), []byte(mode), 0o666); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	back := scsi("write back", 0o666)
	for _, c := range []struct {
		dir  string
		want cacheMode
	}{{scsi("write through", 0o666), cacheWriteThrough}, {back, cacheWriteThrough}, {other("write through\n"), cacheWriteThrough},
		{other("write back\n"), cacheWriteBack}, {t.TempDir(), cacheUnknown}} {
		got, err := ensureWriteThrough(c.dir)
		if got != c.want || (err != nil) != (c.want == cacheWriteBack) {
			t.Errorf("%s: %v %v", c.dir, got, err)
		}
	}
	if got := sysText(back + "/device/scsi_disk/0:0:0:0/cache_type"); got != "write through" {
		t.Errorf("cache_type is %q", got)
	}
	stuck := scsi("write back", 0o666)
	name := filepath.Join(stuck, "device/scsi_disk/0:0:0:0/cache_type")
	os.Remove(name)
	if err := os.Mkdir(name, 0o777); err != nil { // cannot be written
		t.Fatal(err)
	}
	if _, err := ensureWriteThrough(stuck); err == nil || !strings.Contains(err.Error(), "hdparm -W 0") {
		t.Errorf("%v", err)
	}
}

// A plan never takes more than what is free, and says why it does nothing.
func TestDiskPlan(t *testing.T) {
	full, err := parseTable(`{"partitiontable": {"label":"gpt", "firstlba":2048, "lastlba":204800, "sectorsize":512, "partitions": [{"node":"a","start":2048,"size":202753}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		disk  diskState
		n     int
		count int
		skip  string
	}{
		{"new disk", diskState{bytes: 1 << 40}, 3, 3, ""},
		{"one is there", diskState{bytes: 1 << 40, osds: 1}, 3, 2, ""},
		{"all are there", diskState{bytes: 1 << 40, osds: 3}, 3, 0, "already has 3 OSDs"},
		{"empty partitions first", diskState{bytes: 1 << 40, empty: []string{"a", "b"}, table: full}, 1, 1, ""},
		{"then new ones, if there is room", diskState{bytes: 1 << 40, empty: []string{"a"}, table: full}, 2, 1, ""},
		{"no room", diskState{bytes: 1 << 40, table: full}, 1, 0, "no free space"},
		{"somebody else's", diskState{bytes: 1 << 40, others: 1 << 38}, 1, 0, "belong to partitions of others"},
	} {
		if p := c.disk.plan(c.n, 0.1); p.count() != c.count || !strings.Contains(p.skip, c.skip) || (p.skip == "") != (c.skip == "") {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

// NVMe, mixed caches: which fsyncs are switched off.
func TestFillOptions(t *testing.T) {
	for _, c := range []struct {
		off  noSync
		want string
	}{{noSync{true, true, true}, "all"}, {noSync{true, true, false}, "none"}, {noSync{false, true, true}, "none"}, {noSync{}, "none"}} {
		o := layout.Options{}
		if err := fillOptions(o, layout.Options{}, c.off, false, false); err != nil || o.Text("immediate_commit") != c.want {
			t.Errorf("%+v: %v %s", c.off, err, o.JSON())
		}
	}
}

// Free ranges are whole units between used blocks.
func TestFreeRanges(t *testing.T) {
	p := &layout.Params{Data: layout.Area{Offset: 5 * 4096, Bytes: 8 << 17}}
	p.Geometry.BlockBytes, p.Geometry.BlockCount = 1<<17, 8
	used := make(meta.Bitmap, 1)
	used.SetRange(2, 3)
	used.SetRange(7, 8)
	got := freeRanges(p, used, 1<<16)
	want := []layout.Area{{Offset: 65536, Bytes: 196608}, {Offset: 458752, Bytes: 458752}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1 K", 13207024435: "12.3 G", 20 << 30: "20 G", 1 << 41: "2 T"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if got := escape("/dev/a b'$"); got != `/dev/a\ b\'\$` {
		t.Errorf("%s", got)
	}
}

// What is read again is verified: not what lies under a stable block, which may
// be damaged data that was repaired by the version above it.
func TestDataToVerify(t *testing.T) {
	geometry, err := layout.Geometry{BlockBytes: 131072, GranuleBytes: 4096, MetaBlockBytes: 4096, CsumBytes: 4096,
		BlockCount: 100, BufferBytes: 1 << 20}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	g := &geometry
	id := meta.ObjectID{Inode: 1}
	head := func(lsn layout.LSN, v meta.Version) layout.Head { return layout.Head{LSN: lsn, Object: id, Version: v} }
	space := func() []byte { return make([]byte, 4096) }
	big := func(lsn layout.LSN, v meta.Version) layout.Entry {
		return g.PutBigWrite(space(), head(lsn, v), layout.BlockNum(v), nil, nil, nil)
	}
	small := func(lsn layout.LSN, v meta.Version) layout.Entry {
		return g.PutSmallWrite(space(), head(lsn, v), 0, 0, 4096, nil, nil)
	}
	commit := func(lsn layout.LSN, v meta.Version) layout.Entry { return layout.PutCommit(space(), lsn, id, v) }
	for _, c := range []struct {
		name  string
		chain layout.Chain
		want  []meta.Version
	}{
		{"repaired", layout.Chain{commit(4, 2), big(3, 2), commit(2, 1), big(1, 1)}, []meta.Version{2}},
		{"not stable yet", layout.Chain{big(3, 2), commit(2, 1), big(1, 1)}, []meta.Version{2, 1}},
		{"small over big", layout.Chain{commit(4, 2), small(3, 2), commit(2, 1), big(1, 1)}, []meta.Version{2, 1}},
		{"small over repaired", layout.Chain{small(5, 3), commit(4, 2), big(3, 2), commit(2, 1), big(1, 1)}, []meta.Version{3, 2}},
	} {
		k := &checker{g: g, p: &layout.Params{}}
		k.planData(c.chain, nil)
		var got []meta.Version
		for _, j := range k.jobs {
			got = append(got, j.entry.Version())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: versions %v, want %v", c.name, got, c.want)
		}
	}
}
