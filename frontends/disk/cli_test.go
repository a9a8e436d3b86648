package disk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vitastor/osd/store/layout/vectortest"
)

var commands = []string{"prepare", "read-sb", "write-sb", "update-sb", "udev", "exec-osd", "pre-exec", "start", "stop", "restart",
	"enable", "disable", "purge", "trim", "check", "dump-meta", "write-meta", "resize", "simple-offsets",
	"dump-journal", "write-journal", "raw-resize", "upgrade-simple"}

// Help exists for every command, with examples for those that people type.
func TestHelp(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{}, {"--help"}, {"-h"}, {"help"}, {"frobnicate"}, {"frobnicate", "--x", "1"}} {
		r := w.run("", args...)
		if r.code != 0 || !strings.Contains(r.out, "simple-offsets") {
			t.Errorf("%v: exit %d, %q", args, r.code, r.out)
		}
		if strings.Contains(r.err, "unknown command: frobnicate") != (len(args) > 0 && args[0] == "frobnicate") {
			t.Errorf("%v: %q", args, r.err)
		}
	}
	for _, name := range commands {
		a, b, c := w.ok(name, "--help"), w.ok("--help", name), w.ok("help", name)
		if a != b || a != c {
			t.Errorf("%s: three forms of help differ", name)
		}
		if !strings.Contains(a, "Examples:") && !strings.Contains(a, "not supported") && !slices.Contains([]string{"udev", "pre-exec"}, name) {
			t.Errorf("%s: no examples:\n%s", name, a)
		}
	}
}

// What this version does not have says so and what to do.
func TestUnsupported(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"dump-journal", "write-journal", "raw-resize", "upgrade-simple"} {
		w.fails([]string{name, "--json", "x"}, name+" is not supported by this version: ")
	}
	link := filepath.Join(w.dir, "vitastor-dump-journal")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(link, "x").CombinedOutput(); err == nil || !strings.Contains(string(out), "dump-journal is not supported") {
		t.Errorf("%v %s", err, out)
	}
}

// The transcript of spec cli.md §6, and the other formats.
func TestSimpleOffsets(t *testing.T) {
	w := newWorld(t)
	w.file("DEV", 2<<30)
	want := "--meta_format 3\n--data_device DEV\n--journal_offset 0\n--meta_offset 33554432\n--data_offset 35102720\n"
	if got := w.ok("simple-offsets", "--format", "options", "DEV"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if r := w.run("", "simple-offsets", "DEV"); r.out != want || r.err == "" {
		t.Errorf("text: %+v", r)
	}
	if got := w.ok("--device-size", "1G", "simple-offsets", "--json", "X"); got != `{"data_device": "X", "data_offset": 34316288, "data_size": 1039425536, "journal_block_size": 4096, "journal_offset": 0, "meta_block_size": 4096, "meta_format": 3, "meta_offset": 33554432}`+"\n" {
		t.Errorf("json: %s", got)
	}
	if got := w.ok("simple-offsets", "--format", "env", "--device_size", "1G", "--data_csum_type", "crc32c", "X"); !strings.Contains(got, "data_offset=35876864\n") || !strings.Contains(got, "data_size=1037864960\n") {
		t.Errorf("env: %s", got)
	}
	w.fails([]string{"simple-offsets", "--format", "options"}, "--device_size")
	w.fails([]string{"simple-offsets", "nofile"}, "nofile", "no such file")
	w.fails([]string{"simple-offsets", "--journal_size", "8G", "DEV"}, "DEV", "do not fit")
	w.fails([]string{"simple-offsets", "--journal_sise", "1G", "DEV"}, "unknown flag")
	w.fails([]string{"simple-offsets", "--meta_format", "2", "DEV"}, "only 3")
}

const sample = `{"block_size": 131072, "data_device": "%s", "data_offset": 2101248, "journal_offset": 4096, "meta_offset": 1052672, "osd_num": 7}`

// Superblocks: bytes as in spec cli.md §3.1, and all commands on them.
func TestSuperblock(t *testing.T) {
	w := newWorld(t)
	dev := w.file("sb.img", 64<<20)
	text := fmt.Sprintf(sample, dev)
	w.fails([]string{"read-sb", dev}, dev, "no disk superblock")
	if r := w.run(text, "write-sb", dev); r.code != 0 {
		t.Fatal(r.err)
	}
	b, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	size := binary32(b[12:])
	crc := crc32.Checksum(b[12:size], crc32.MakeTable(crc32.Castagnoli))
	if string(b[:8]) != "vITADisk" || string(b[16:size]) != text || int(size) != 16+len(text) || crc != binary32(b[8:]) ||
		!bytes.Equal(b[size:8192], make([]byte, 8192-size)) {
		t.Errorf("superblock %q", b[:size])
	}
	if got := w.ok("read-sb", dev); got != text+"\n" {
		t.Errorf("read-sb: %s", got)
	}
	if log := w.log(); log != "" { // a file: nothing for udev
		t.Errorf("ran %s", log)
	}
	if got := w.ok("udev", dev); got != "VITASTOR_OSD_NUM=7\nVITASTOR_ALIAS=osd7-data\nVITASTOR_DATA_DEVICE="+dev+"\n" {
		t.Errorf("udev: %s", got)
	}
	w.ok("update-sb", dev, "--max-write-iodepth", "64", "--io", "cached", "--throttle_small_writes=1")
	got := decodeJSON[map[string]any](t, w.ok("read-sb", dev))
	if got["max_write_iodepth"] != "64" || got["io"] != "cached" || got["throttle_small_writes"] != "1" || fmt.Sprint(got["osd_num"]) != "7" {
		t.Errorf("update-sb: %v", got)
	}
	w.ok("update-sb", dev, "--io", "")
	if got := w.ok("read-sb", dev); strings.Contains(got, "cached") {
		t.Errorf("not removed: %s", got)
	}
	w.fails([]string{"update-sb", dev, "--data_offset", "128M"}, "would not start")
	w.fails([]string{"update-sb", dev, "--block_size", "100k"}, "block_size")
	w.fails([]string{"update-sb", dev, "--data_device", "/dev/null"}, dev)
	w.fails([]string{"update-sb", dev}, "--KEY VALUE")
	w.fails([]string{"update-sb", dev, "--max_write_iodepth", "fast"}, dev, "max_write_iodepth", "whole number")
	if r := w.run("", "update-sb", dev, "--max_write_iodept", "3"); r.code != 0 || !strings.Contains(r.err, "did you mean max_write_iodepth?") {
		t.Errorf("unknown parameter: %+v", r)
	}
	if got := w.ok("read-sb", dev); !strings.Contains(got, `"data_offset": 2101248`) {
		t.Errorf("a refused change was written: %s", got)
	}
}

func binary32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Everything that is not a superblock of this device is refused by name.
func TestSuperblockRefusals(t *testing.T) {
	w := newWorld(t)
	dev := w.file("sb.img", 64<<20)
	text := fmt.Sprintf(sample, dev)
	w.run(text, "write-sb", dev)
	content, _ := os.ReadFile(dev)
	w.sparse(filepath.Join(w.dir, "copy.img"), content)
	w.fails([]string{"read-sb", "copy.img"}, "copy.img", "belongs to another device", dev, "--force")
	if got := w.ok("read-sb", "--force", "copy.img"); got != text+"\n" {
		t.Errorf("--force: %s", got)
	}
	w.fails([]string{"udev", "copy.img"}, "belongs to another device")
	if err := os.Symlink(dev, filepath.Join(w.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got := w.ok("read-sb", "link"); got != text+"\n" {
		t.Errorf("through a link: %s", got)
	}
	w.patch("copy.img", 100, []byte{0xff})
	w.fails([]string{"read-sb", "--force", "copy.img"}, "copy.img", "corrupt", "write-sb")
	w.fails([]string{"read-sb", "none.img"}, "none.img", "no such file")
	w.fails([]string{"read-sb", w.dir}, w.dir)
	w.file("tiny.img", 100)
	w.fails([]string{"read-sb", "tiny.img"}, "tiny.img", "only 100 bytes")
	w.fails([]string{"read-sb", "/dev/null"}, "/dev/null")

	write := func(stdin, path string, words ...string) {
		t.Helper()
		wantFailure(t, []string{"write-sb", path}, w.run(stdin, "write-sb", path), words...)
	}
	write("", dev, "standard input")
	write("{}", dev, "osd_num")
	write(`{"osd_num": 1}`, dev, "data_device")
	write(fmt.Sprintf(sample, "/dev/other"), dev, dev, "/dev/other")
	write(strings.Replace(text, "{", `{"x": "`+strings.Repeat("y", 4096)+`",`, 1), dev, "parameters, but only")
	foreign := w.file("fs.img", 64<<20)
	w.patch(foreign, 0x438, []byte("\x53\xef"))
	write(fmt.Sprintf(sample, foreign), foreign, foreign, "ext2/3/4", "--force")
	if r := w.run(fmt.Sprintf(sample, foreign), "write-sb", "--force", foreign); r.code != 0 || !strings.Contains(r.err, "overwriting an ext") {
		t.Errorf("--force: %+v", r)
	}
	if got := w.ok("read-sb", dev); got != text+"\n" {
		t.Errorf("changed: %s", got)
	}
}

// Commands that start things call the right programs.
func TestServices(t *testing.T) {
	w := newWorld(t)
	for i, name := range []string{"a.img", "b.img"} {
		dev := w.file(name, 64<<20)
		if r := w.run(strings.Replace(fmt.Sprintf(sample, dev), `"osd_num": 7`, fmt.Sprintf(`"osd_num": %d, "disable_data_fsync": true, "journal_device": ""`, i+1), 1), "write-sb", dev); r.code != 0 {
			t.Fatal(r.err)
		}
	}
	for _, verb := range []string{"start", "stop", "restart", "enable", "disable"} {
		w.ok(verb, "a.img", "b.img", "a.img")
		if log := w.log(); log != "systemctl "+verb+" vitastor-osd@1 vitastor-osd@2\n" {
			t.Errorf("%s: %q", verb, log)
		}
	}
	w.ok("--now", "enable", "b.img")
	if log := w.log(); log != "systemctl enable --now vitastor-osd@2\n" {
		t.Errorf("enable --now: %q", log)
	}
	w.file("empty.img", 1<<20)
	w.fails([]string{"stop", "empty.img", "b.img"}, "empty.img")
	if log := w.log(); log != "systemctl stop vitastor-osd@2\n" {
		t.Errorf("stop: %q", log)
	}
	w.fails([]string{"stop", "12345"}, "/dev/vitastor/osd12345-data")
	w.fake("systemctl", "exit 4")
	if r := w.run("", "stop", "a.img"); r.code != 4 {
		t.Errorf("exit status of systemctl is lost: %+v", r)
	}
	w.log()
	dir := w.dir
	w.ok("exec-osd", "a.img")
	want := "vitastor-osd --block_size 131072 --data_device " + dir + "/a.img --data_offset 2101248 --disable_data_fsync true --journal_device  --journal_offset 4096 --meta_offset 1052672 --osd_num 1\n"
	if log := w.log(); log != want {
		t.Errorf("exec-osd: %q\nwant %q", log, want)
	}
	os.Remove(filepath.Join(w.path, "vitastor-osd"))
	w.fails([]string{"exec-osd", "a.img"}, "vitastor-osd", "install it")
	if r := w.run("", "pre-exec", "a.img"); r.code != 0 || !strings.Contains(r.err, "is a file") {
		t.Errorf("pre-exec: %+v", r)
	}
	w.ok("update-sb", "a.img", "--use_atomic_flag", "1")
	w.fails([]string{"pre-exec", "a.img"}, "atomic_write_size is 4096", "update-sb")
}

// A store that somebody else uses is left alone by all commands that look at
// more than its superblock.
func TestInUse(t *testing.T) {
	w := newWorldIn(t, t.TempDir())
	w.vector(vectortest.Load(t, "plain"))
	lock := exec.Command("flock", "-x", "disk.img", "sleep", "60")
	lock.Dir = w.dir
	if err := lock.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Process.Kill(); _ = lock.Wait() }()
	for range 100 {
		if w.run("", "check", "disk.img").code != 0 {
			break
		}
	}
	for _, args := range [][]string{{"check"}, {"dump-meta"}, {"write-meta"}, {"resize", "--data_size", "max"}, {"prepare", "--force", "--data_device"}} {
		w.fails(append(args, "disk.img"), "disk.img: in use by pid", "(flock)", "vitastor-disk stop")
	}
	if r := w.run("", "trim", "disk.img"); r.code != 0 || !strings.Contains(r.err, "in use by pid") {
		t.Errorf("trim: %+v", r)
	}
	w.fake("vitastor-cli", "")
	w.fails([]string{"purge", "disk.img"}, "in use by pid")
	w.ok("read-sb", "disk.img") // reading the superblock of a running OSD is fine
	w.ok("update-sb", "disk.img", "--autosync_writes", "64")
}

// A device that is shorter than its superblock says.
func TestTruncated(t *testing.T) {
	w := newWorld(t)
	v := vectortest.Load(t, "plain")
	w.vector(v)
	for size, word := range map[int64]string{1500000: "data_offset is 1576960, but the device", 1 << 20: "the device", 1576960 + 4096: "blocks of 131072 bytes"} {
		if err := os.Truncate(filepath.Join(w.dir, "disk.img"), size); err != nil {
			t.Fatal(err)
		}
		w.fails([]string{"check", "disk.img"}, "disk.img", word)
		w.fails([]string{"dump-meta", "disk.img"}, "disk.img", word)
		w.sparse(filepath.Join(w.dir, "disk.img"), v.Devices["disk.img"])
	}
	if err := os.Truncate(filepath.Join(w.dir, "disk.img"), 1576960+3*131072); err != nil {
		t.Fatal(err)
	}
	r := w.check("disk.img")
	if r.OK || r.Problems[0].Kind != "block-out-of-range" || !strings.Contains(r.Problems[0].Meaning, "made smaller") {
		t.Errorf("%+v", r.Problems)
	}
	sep := vectortest.Load(t, "sepdev")
	w.vector(sep)
	os.Remove(filepath.Join(w.dir, "meta.img"))
	w.fails([]string{"check", "disk.img"}, "meta.img", "no such file")
}

// Trim frees what no entry refers to, and nothing else.
func TestTrim(t *testing.T) {
	w := newWorldIn(t, t.TempDir())
	v := vectortest.Load(t, "plain")
	dev := v.Devices["disk.img"]
	for at := 40 << 20; at < 50<<20; at++ {
		dev[at] = 0xee // old data in free blocks
	}
	w.vector(v)
	before := w.ok("dump-meta", "disk.img")
	if out := w.ok("trim", "disk.img"); !strings.Contains(out, "discarded 5") && !strings.Contains(out, "discarded 6") {
		t.Errorf("trim: %s", out)
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "disk.img"))
	if err != nil || !bytes.Equal(b[40<<20:50<<20], make([]byte, 10<<20)) {
		t.Errorf("free blocks are not discarded: %v", err)
	}
	verifyVector(w, v)
	if after := w.ok("dump-meta", "disk.img"); after != before {
		t.Error("metadata changed")
	}
	w.patch("disk.img", 1056801, []byte{1}) // damaged: what it refers to is unknown
	if r := w.run("", "trim", "disk.img"); r.code != 0 || !strings.Contains(r.err, "crc32c mismatch") {
		t.Errorf("trim of a damaged store: %+v", r)
	}
}
