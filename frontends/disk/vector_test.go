package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vitastor/osd/store/layout/vectortest"
)

// dump is the part of a metadata dump that is compared with the manifest.
type dump struct {
	Version string `json:"version"`
	Entries []struct {
		Pool   uint64 `json:"pool"`
		Inode  string `json:"inode"`
		Stripe string `json:"stripe"`
		Writes []struct {
			LSN     uint64 `json:"lsn"`
			Version uint64 `json:"version"`
			Type    string `json:"type"`
			Stable  bool   `json:"stable"`
			Ext     string `json:"ext_bitmap"`
		} `json:"writes"`
	} `json:"entries"`
}

// objects reads a dump as the manifest describes objects, by the rules of
// spec ondisk.md §5.1, without contents.
func (d *dump) objects(t *testing.T) (list []string, highest uint64) {
	number := func(s string) uint64 {
		v, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, e := range d.Entries {
		committed, back := uint64(0), uint64(1)<<63
		line := ""
	walk:
		for _, w := range e.Writes {
			highest = max(highest, w.LSN)
			stable := w.Stable || w.Version <= committed
			switch {
			case w.Type == "delete":
				break walk
			case w.Type == "commit":
				committed = max(committed, w.Version)
			case w.Type == "rollback":
				back = min(back, w.Version)
			case w.Version > back:
			default:
				if next := fmt.Sprintf(" %d %s", w.Version, w.Ext); !strings.Contains(line+" ", fmt.Sprintf(" %d ", w.Version)) {
					line += next
				}
				if stable {
					line += " stable"
					break walk
				}
			}
		}
		if line != "" {
			list = append(list, fmt.Sprintf("%d %d %d:%s", e.Pool, number(e.Inode), number(e.Stripe), line))
		}
		for _, w := range e.Writes {
			highest = max(highest, w.LSN)
		}
	}
	return list, highest
}

func manifestObjects(v *vectortest.Vector) (list []string) {
	for _, o := range v.Objects {
		line := ""
		for _, x := range o.Versions {
			line += fmt.Sprintf(" %d %s", x.Version, x.Ext)
		}
		if o.Stable != 0 {
			line += " stable"
		}
		list = append(list, fmt.Sprintf("%d %d %d:%s", o.Pool, o.Inode, o.Stripe, line))
	}
	return list
}

// checkReport is the JSON of check.
type checkReport struct {
	OK       bool `json:"ok"`
	Problems []struct {
		Kind     string `json:"kind"`
		Severity string `json:"severity"`
		Text     string `json:"text"`
		Meaning  string `json:"meaning"`
		Remedy   string `json:"remedy"`
		Device   string `json:"device"`
		Offset   uint64 `json:"offset"`
	} `json:"problems"`
	Objects    uint64 `json:"objects"`
	Dropped    uint64 `json:"dropped_entries"`
	DataUsed   uint64 `json:"data_used"`
	BufferUsed uint64 `json:"buffer_used"`
	MetaUsed   uint64 `json:"meta_used"`
	Highest    uint64 `json:"highest_lsn"`
	Space      []struct{ Pool, Inode, Bytes uint64 }
}

func (w *world) check(args ...string) checkReport {
	w.t.Helper()
	r := w.run("", append([]string{"check", "--json"}, args...)...)
	report := decodeJSON[checkReport](w.t, r.out+r.err)
	if report.OK != (r.code == 0) {
		w.t.Errorf("check %v: ok is %t, exit status %d", args, report.OK, r.code)
	}
	for _, p := range report.Problems {
		if p.Severity == "" || p.Meaning == "" || p.Remedy == "" || p.Text == "" {
			w.t.Errorf("check %v: unexplained problem %+v", args, p)
		}
	}
	return report
}

// Every vector is sound, and has the space, objects and LSN of its manifest;
// its dump has the versions of the manifest; writing the dump into a device
// without metadata and buffered data gives the same store again.
func TestVectors(t *testing.T) {
	for _, v := range vectortest.All(t) {
		t.Run(v.Name, func(t *testing.T) {
			w := newWorld(t)
			w.vector(v)
			verifyVector(w, v)
			text := w.ok("dump-meta", "disk.img")
			d := decodeJSON[dump](t, text)
			got, highest := d.objects(t)
			if highest != v.Totals.MaxLSN {
				t.Errorf("highest lsn %d, want %d", highest, v.Totals.MaxLSN)
			}
			// A dump does not verify data: unfinished writes are in it.
			unfinished := strings.HasPrefix(v.Name, "torn") || v.Name == "redirect"
			if g, m := strings.Join(got, "\n"), strings.Join(manifestObjects(v), "\n"); g != m && !unfinished {
				t.Errorf("dump:\n%s\nmanifest:\n%s", g, m)
			}
			roundTrip(w, v, text)
			if old := decodeJSON[dump](t, w.ok("dump-meta", "--format=old", "disk.img")); old.Version != "0.9" {
				t.Errorf("version %q", old.Version)
			}
		})
	}
}

func verifyVector(w *world, v *vectortest.Vector) {
	w.t.Helper()
	report := w.check("disk.img")
	drops := strings.HasPrefix(v.Name, "torn") || v.Name == "redirect"
	for _, p := range report.Problems {
		if !drops || p.Kind != "unfinished-write" {
			w.t.Errorf("%+v", p)
		}
	}
	if drops != (report.Dropped > 0) {
		w.t.Errorf("dropped %d", report.Dropped)
	}
	got := vectortest.Totals{DataUsed: report.DataUsed, BufferUsed: report.BufferUsed, MetaUsed: report.MetaUsed, MaxLSN: report.Highest}
	if got != v.Totals || report.Objects != uint64(len(v.Objects)) {
		w.t.Errorf("totals %+v, %d objects, want %+v, %d", got, report.Objects, v.Totals, len(v.Objects))
	}
	if a, b := fmt.Sprint(report.Space), fmt.Sprint(v.Space); strings.ReplaceAll(a, "[]", "") != strings.ReplaceAll(b, "[]", "") {
		w.t.Errorf("space %s, want %s", a, b)
	}
}

// roundTrip wipes the metadata and the buffer area and restores both.
func roundTrip(w *world, v *vectortest.Vector, entries string) {
	w.t.Helper()
	full := w.ok("dump-meta", "--format", "data", "disk.img")
	metaFile, bufferFile := v.Text("meta_device"), v.Text("journal_device")
	if metaFile == "" {
		metaFile = "disk.img"
	}
	if bufferFile == "" {
		bufferFile = metaFile
	}
	w.patch(metaFile, int64(v.Number("meta_offset")), make([]byte, 512<<10))
	w.patch(bufferFile, int64(v.Number("journal_offset")), make([]byte, 1<<20))
	dumpFile := filepath.Join(w.dir, "dump.json")
	if err := os.WriteFile(dumpFile, []byte(full), 0o666); err != nil {
		w.t.Fatal(err)
	}
	f, err := os.Open(dumpFile)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if r := w.runIn(w.dir, f, "write-meta", "disk.img"); r.code != 0 {
		w.t.Fatalf("write-meta: %s", r.err)
	}
	if again := w.ok("dump-meta", "disk.img"); again != entries {
		w.t.Errorf("after write-meta:\n%s\nbefore:\n%s", again, entries)
	}
	if !strings.HasPrefix(v.Name, "torn") && v.Name != "enc-tails" { // there: live bytes grow by garbage that is kept
		verifyVector(w, v)
	}
}

// Damaged stores: the problem is named with its place, and a store that is
// only untidy is sound.
func TestNegativeVectors(t *testing.T) {
	base, cases := vectortest.Negative(t)
	kinds := map[string]string{"entry-crc": "entry-damaged", "zero-block": "block-damaged", "type-bit": "entry-damaged",
		"stable-commit": "entry-damaged", "tail-size": "block-damaged", "double-claim": "double-claim", "small-without-base": "base-missing",
		"sb-geometry": "meta-superblock", "sb-area": "meta-superblock", "sb-magic": "meta-superblock", "sb-version": "meta-superblock",
		"block-out-of-range": "block-out-of-range", "sb-zero": "meta-superblock-lost",
		"sb-crc": "meta-superblock-crc", "torn-small": "unfinished-write"}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			v := vectortest.Load(t, base)
			c.Apply(t, v)
			w := newWorld(t)
			w.vector(v)
			report := w.check("disk.img")
			if report.OK != (c.Expected == "start") {
				t.Errorf("ok is %t, expected %s: %+v", report.OK, c.Expected, report.Problems)
			}
			found := kinds[c.Name] == ""
			for _, p := range report.Problems {
				found = found || p.Kind == kinds[c.Name]
			}
			if !found || kinds[c.Name] == "" && len(report.Problems) != 0 {
				t.Errorf("problems %+v, want %q", report.Problems, kinds[c.Name])
			}
			text := w.run("", "check", "disk.img")
			if kinds[c.Name] != "" && !strings.Contains(text.out, ": "+kinds[c.Name]+" (") || (text.code == 0) != report.OK {
				t.Errorf("exit %d:\n%s", text.code, text.out)
			}
		})
	}
}

// Damaged data is found by its checksums, and only with data verification.
func TestCheckData(t *testing.T) {
	for _, c := range []struct {
		vector string
		offset int64
		want   string
	}{
		{"csum4k", 1576960 + 131072 + 8192, "data-checksum"}, {"csum16k", 1576960 + 2*131072 + 32768 + 100, "data-checksum"},
		{"sepdev", 4096 + 1<<20 + 70000, "data-checksum"},
	} {
		w := newWorld(t)
		v := vectortest.Load(t, c.vector)
		dev := v.Devices["disk.img"]
		dev[c.offset] ^= 0x10
		w.vector(v)
		report := w.check("disk.img")
		if len(report.Problems) != 1 || report.Problems[0].Kind != c.want || report.OK {
			t.Errorf("%s: %+v", c.vector, report.Problems)
			continue
		}
		if at := int64(report.Problems[0].Offset); at > c.offset || c.offset-at > 32<<10 {
			t.Errorf("%s: damage at %d reported at %d", c.vector, c.offset, at)
		}
		if report := w.check("--no-data", "disk.img"); !report.OK {
			t.Errorf("%s: --no-data: %+v", c.vector, report.Problems)
		}
	}
}

// Dumps of a bare area and of a store described by options are the same.
func TestDumpForms(t *testing.T) {
	w := newWorld(t)
	v := vectortest.Load(t, "plain")
	w.vector(v)
	want := w.ok("dump-meta", "disk.img")
	if got := w.ok("dump-meta", "disk.img", "4096", "1052672", "512k"); got != want {
		t.Errorf("bare area:\n%s", got)
	}
	o := []string{"--data_device", "disk.img", "--journal-offset", "4k", "--meta_offset", "1052672", "--data_offset=1576960",
		"--disable_data_fsync", "1"}
	if r := w.run("", append([]string{"dump-meta"}, o...)...); r.code != 1 || !strings.Contains(r.err, "unknown flag") {
		t.Errorf("an option without meaning here is accepted: %+v", r)
	}
	if got := w.ok(append([]string{"dump-meta"}, o[:7]...)...); got != want {
		t.Errorf("options:\n%s", got)
	}
	if r := w.check(o[:7]...); !r.OK || r.Objects != 6 {
		t.Errorf("check with options: %+v", r)
	}
	// The bare area can be written too, and a bad dump changes nothing.
	if r := w.run(want, "write-meta", "disk.img", "4096", "1052672", "524288"); r.code != 0 {
		t.Fatal(r.err)
	}
	for _, bad := range []string{"", "{}", want[:len(want)/2], strings.Replace(want, `"type":"big"`, `"type":"tiny"`, 1),
		strings.Replace(want, `"data_block_size":131072`, `"data_block_size":262144`, 1)} {
		r := w.run(bad, "write-meta", "disk.img")
		wantFailure(t, []string{"write-meta"}, r, "standard input", "was not changed")
	}
	if got := w.ok("dump-meta", "disk.img"); got != want {
		t.Errorf("after bad dumps:\n%s", got)
	}
	w.fails([]string{"dump-meta", "disk.img", "4096", "0", "512k"}, "no metadata superblock")
	w.fails([]string{"dump-meta", "disk.img", "4096", "1052672", "1G"}, "do not fit")
	w.fails([]string{"dump-meta", "--format", "xml", "disk.img"}, "data or old")
	w.patch("disk.img", 1056801, []byte{1})
	r := w.run("", "dump-meta", "disk.img")
	wantFailure(t, []string{"dump-meta"}, r, "left out", "metadata block 0, byte 0", "vitastor-disk check")
	if len(decodeJSON[dump](t, r.out).Entries) == 0 {
		t.Error("the rest is not dumped")
	}
}
