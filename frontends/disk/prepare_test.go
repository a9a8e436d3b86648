package disk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

// The worked example of spec ondisk.md §1.3: superblock with exactly the keys
// that release 3.0.8 writes, areas cleared, nothing started for a file.
func TestPrepareFile(t *testing.T) {
	w := newWorldIn(t, t.TempDir())
	dev := w.file("disk.img", 64<<20)
	args := []string{"prepare", "--json", "--data_device", "disk.img", "--journal_size", "1M", "--meta_reserve", "1M", "--disable_data_fsync", "1"}
	want := `{"bitmap_granularity": 4096, "block_size": 131072, "data_device": "` + dev + `", "data_offset": 2101248, "data_size": 0, ` +
		`"disable_data_fsync": true, "disable_device_lock": false, "disable_journal_fsync": true, "disable_meta_fsync": true, "disk_alignment": 4096, ` +
		`"immediate_commit": "all", "journal_block_size": 4096, "journal_device": "", "journal_no_same_sector_overwrites": true, "journal_offset": 4096, ` +
		`"journal_sector_buffer_count": 1024, "meta_block_size": 4096, "meta_device": "", "meta_format": "3", "meta_offset": 1052672, "osd_num": 1, "skip_cache_check": false}` + "\n"
	if got := w.ok(args...); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if log := w.log(); log != "vitastor-cli alloc-osd\n" {
		t.Errorf("ran %q", log)
	}
	if got := w.ok("read-sb", dev); got != want {
		t.Errorf("read-sb: %s", got)
	}
	r := w.check("disk.img")
	if !r.OK || len(r.Problems) != 1 || r.Problems[0].Kind != "not-initialized" {
		t.Errorf("check: %+v", r)
	}
	// Again: there is an OSD now.
	w.fails(args, "disk.img: has OSD 1", "purge", "--force")
	again := w.run("", append(args, "--force", "--osd_num", "5", "--config_path", "/x")...)
	if again.code != 0 || !strings.Contains(again.err, "overwriting OSD 1") || !strings.Contains(again.out, `"osd_num": 5`) || w.log() != "" {
		t.Errorf("--force: %+v", again)
	}
}

// Preparing a disk that had a store leaves nothing that looks like its
// metadata.
func TestPrepareOverOldStore(t *testing.T) {
	w := newWorld(t)
	w.vector(vectortest.Load(t, "enc-plain"))
	r := w.run("", "prepare", "--force", "--osd_num", "3", "--data_device", "disk.img", "--journal_size", "1M", "--meta_reserve", "1M")
	if r.code != 0 {
		t.Fatal(r.err)
	}
	if c := w.check("disk.img"); !c.OK || c.Problems[0].Kind != "not-initialized" {
		t.Errorf("%+v", c)
	}
	w.ok("purge", "disk.img")
	if log := w.log(); log != "vitastor-cli rm-osd --allow-up 3 --dry-run\nsystemctl disable --now vitastor-osd@3\nvitastor-cli rm-osd --allow-up 3\n" {
		t.Errorf("purge ran %q", log)
	}
	w.fails([]string{"read-sb", "disk.img"}, "no disk superblock")
	// A purged device is empty: no force needed.
	w.ok("prepare", "--osd_num", "4", "--data_device", "disk.img", "--journal_size", "1M", "--meta_reserve", "1M")
}

// Options and their defaults, in the superblock.
func TestPrepareOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		args string
		want map[string]string
	}{
		{"fsync needed", "", map[string]string{"disable_data_fsync": "false", "immediate_commit": "none", "min_flusher_count": "32",
			"max_flusher_count": "256", "autosync_writes": "512", "journal_offset": "4096", "meta_offset": fmt.Sprint(4096 + 128<<20)}},
		{"no fsync", "--disable_data_fsync 1", map[string]string{"immediate_commit": "all", "min_flusher_count": "", "meta_offset": fmt.Sprint(4096 + 32<<20)}},
		{"HDD with checksums", "--hdd --data_csum_type crc32c", map[string]string{"block_size": "1048576", "csum_block_size": "32k", "journal_no_same_sector_overwrites": "false", "atomic_write_size": ""}},
		{"HDD with a fast journal", "--hdd --journal_device j.img", map[string]string{"block_size": "1048576", "atomic_write_size": "0", "throttle_small_writes": "1",
			"journal_no_same_sector_overwrites": "true", "journal_device": "j.img", "meta_device": "", "data_offset": fmt.Sprint(4096 + 512<<20)}},
		{"passthrough", "--max_write_iodepth 8 --block-size 256k --data_size 100M", map[string]string{"max_write_iodepth": "8", "block_size": "262144", "data_size": "104857600"}},
		{"three devices", "--meta_device m.img --journal_device j.img", map[string]string{"meta_device": "m.img", "journal_device": "j.img", "meta_offset": "4096", "data_offset": "4096", "journal_offset": "4096"}},
		{"journal with the metadata", "--meta_device m.img --journal_device m.img", map[string]string{"meta_device": "m.img", "journal_device": "", "meta_offset": fmt.Sprint(4096 + 128<<20), "journal_offset": "4096"}},
		{"the same device three times", "--meta_device d.img --journal_device d.img", map[string]string{"meta_device": "", "journal_device": ""}},
		{"small device", "--data_device small.img --journal_size 1M", map[string]string{"data_offset": fmt.Sprint(4096 + 5<<20)}},
	} {
		w := newWorld(t)
		for name, size := range map[string]int64{"d.img": 8 << 30, "m.img": 2 << 30, "j.img": 1 << 30, "small.img": 64 << 20} {
			w.file(name, size)
		}
		args := append([]string{"prepare", "--json", "--osd_num", "9"}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "--data_device") {
			args = append(args, "--data_device", "d.img")
		}
		r := w.run("", args...)
		if r.code != 0 {
			t.Errorf("%s: %s", c.name, r.err)
			continue
		}
		o, err := layout.ParseOptions([]byte(r.out))
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range c.want {
			if got := strings.TrimPrefix(o.Text(key), w.dir+"/"); got != want {
				t.Errorf("%s: %s is %q, want %q", c.name, key, got, want)
			}
		}
		for _, key := range []string{"data_device", "meta_device", "journal_device"} {
			if path := o.Text(key); path != "" && w.ok("read-sb", path) != r.out {
				t.Errorf("%s: superblock of %s differs", c.name, path)
			}
		}
	}
}

// What is on a device, and what cannot work, is refused with the device and
// the remedy; the device is not changed.
func TestPrepareRefusals(t *testing.T) {
	w := newWorld(t)
	shell := func(script string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir, cmd.Env = w.dir, append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", script, err, out)
		}
	}
	for _, c := range []struct{ name, make, word string }{
		{"ext4", "mkfs.ext4 -q -F x.img", "ext2/3/4"},
		{"swap", "mkswap -q x.img", "swap space"},
		{"gpt", "printf 'label: gpt\\n,\\n' | sfdisk -q x.img", "GPT"},
		{"backup gpt", "printf 'label: gpt\\n,\\n' | sfdisk -q x.img; dd if=/dev/zero of=x.img bs=32k count=1 conv=notrunc status=none", "GPT"},
		{"dos", "printf 'label: dos\\n,\\n' | sfdisk -q x.img", "boot sector"},
		{"only wipefs knows", "printf 'hsqs' | dd of=x.img conv=notrunc status=none; printf '\\004\\000\\000\\000' | dd of=x.img bs=1 seek=28 conv=notrunc status=none", "x.img: has "},
		{"unknown first bytes", "echo hello | dd of=x.img conv=notrunc status=none", "unknown data in its first bytes"},
		{"unknown last bytes", "echo hello | dd of=x.img bs=4096 seek=65535 conv=notrunc status=none", "unknown data in its last bytes"},
	} {
		w.file("x.img", 256<<20)
		shell(c.make)
		before, _ := os.ReadFile(filepath.Join(w.dir, "x.img"))
		w.fails([]string{"prepare", "--osd_num", "1", "--data_device", "x.img"}, "x.img: has ", c.word, "--force")
		after, _ := os.ReadFile(filepath.Join(w.dir, "x.img"))
		if string(before) != string(after) {
			t.Errorf("%s: the device was changed", c.name)
		}
		r := w.run("", "prepare", "--force", "--osd_num", "1", "--data_device", "x.img")
		if r.code != 0 || !strings.Contains(r.err, "warning: x.img: overwriting ") {
			t.Errorf("%s: --force: %+v", c.name, r)
		}
	}
	w.file("x.img", 256<<20)
	prepare := func(args string, words ...string) {
		t.Helper()
		w.fails(append([]string{"prepare"}, strings.Fields(args)...), words...)
		if b, err := os.ReadFile(filepath.Join(w.dir, "x.img")); err != nil || !layout.IsZero(b[:8192]) {
			t.Errorf("%s: the device was changed", args)
		}
	}
	prepare("", "--data_device")
	prepare("--data_device none.img", "none.img", "truncate -s")
	prepare("--data_device x.img --journal_size 300M", "x.img", "journal_size")
	prepare("--data_device x.img --meta_reserve 2x,1G", "x.img", "meta_reserve")
	prepare("--data_device x.img --meta_format 2", "only 3")
	prepare("--data_device x.img --block_size 5000", "x.img", "block_size")
	prepare("--data_device x.img --disable_data_fsync maybe", "disable_data_fsync")
	prepare("--data_device x.img --osd_num zero", "OSD number")
	prepare("--data_device x.img --io fast", "--io")
	prepare("--data_device x.img --meta_device none.img", "none.img")
	prepare("x.img", "not a disk", "--data_device")
	prepare("x.img --data_device x.img", "either disks")
	prepare("--osd_per_disk 0 x.img", "osd_per_disk")
	prepare("--max_other lots x.img", "max_other")
	w.fake("vitastor-cli", "echo 'etcd is not reachable' >&2; exit 5")
	prepare("--data_device x.img", "etcd is not reachable", "--osd_num")
	w.fake("wipefs", "exit 1")
	prepare("--data_device x.img --osd_num 1", "cannot find out what is on it")
}
