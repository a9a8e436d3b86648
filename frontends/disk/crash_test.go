package disk

// Crash tests of the commands that change more than one thing. They run the
// tool in this process, to stop it at every write.

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

var errPower = errors.New("power failure")

// crash lets a number of writes and syncs happen, then fails; what was written since the
// last sync of a device may be lost.
type crash struct {
	left    int
	seed    int
	rnd     *rand.Rand
	undo    []undo
	happens bool
}

type undo struct {
	path   string
	offset int64
	before []byte
}

func (c *crash) hook(d *Device, p []byte, offset int64) error {
	if c.left--; c.left < 0 {
		c.happens = true
		return errPower
	}
	if p == nil {
		kept := c.undo[:0]
		for _, u := range c.undo {
			if u.path != d.Real {
				kept = append(kept, u)
			}
		}
		c.undo = kept
		return nil
	}
	before := make([]byte, len(p))
	if _, err := d.f.ReadAt(before, offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	c.undo = append(c.undo, undo{d.Real, offset, before})
	return nil
}

// lose takes back a random part of what was not synced, newest first.
func (c *crash) lose(t *testing.T) {
	for i := len(c.undo) - 1; i >= 0; i-- {
		u := c.undo[i]
		lost := c.rnd.IntN(2) == 0
		if newest := len(c.undo) - 1 - i; newest < 2 { // of these, every combination
			lost = c.seed>>newest&1 != 0
		}
		if !lost {
			continue
		}
		f, err := os.OpenFile(u.path, os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt(u.before, u.offset)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// noPrograms knows wipefs, which finds nothing, and nothing else.
type noPrograms struct{}

func (noPrograms) Output(_, name string, _ ...string) (string, error) {
	if name == "wipefs" {
		return "", nil
	}
	return "", fmt.Errorf("%s must not run", name)
}
func (noPrograms) Exec(name string, _ ...string) error { return fmt.Errorf("%s must not run", name) }

// tool runs a command in this process.
func tool(stdin string, args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	x := Tool{In: strings.NewReader(stdin), Out: &o, Err: &e, Programs: noPrograms{}}
	code = x.Main(append(args, "--io", "cached"))
	return o.String(), e.String(), code
}

// content is what a store contains, as text; an error if it does not start.
func content(path string) (string, error) {
	x := Tool{Out: io.Discard, Err: io.Discard, Programs: noPrograms{}, cached: true}
	s, err := x.openOSD(path, access{})
	if err != nil {
		return "", err
	}
	defer s.Close()
	read := func(d *Device) []byte {
		b := make([]byte, d.Bytes())
		_, readErr := d.ReadAt(b, 0)
		err = errors.Join(err, readErr)
		return b
	}
	dataDev := read(s.Data)
	metaDev, bufferDev := dataDev, dataDev
	if s.Meta != s.Data {
		metaDev = read(s.Meta)
	}
	if bufferDev = metaDev; s.Buffer != s.Meta {
		bufferDev = read(s.Buffer)
	}
	if s.Buffer == s.Data {
		bufferDev = dataDev
	}
	if err != nil {
		return "", err
	}
	im, err := s.Params.Slice(dataDev, metaDev, bufferDev)
	if err != nil {
		return "", err
	}
	l, err := layout.LoadImage(im, s.Params, layout.LoadOptions{})
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for i := range l.Objects {
		o := &l.Objects[i]
		for _, v := range o.Chain.Versions(nil) {
			c := l.Read(o, v.Version)
			fmt.Fprintf(&text, "%v %d %t %08x %s %v\n", o.ID, v.Version, v.Stable, layout.CRC(c.Data), hex.EncodeToString(c.Ext), c.BadCsums)
		}
	}
	return text.String(), nil
}

// fastDir is a temporary folder in memory, if there is one: these tests write
// whole devices hundreds of times.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-disk-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// inFolder makes a fresh folder with the devices of a vector the current one.
func inFolder(t *testing.T, v *vectortest.Vector) {
	t.Helper()
	for name, b := range v.Devices {
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// crashes runs a command with a crash at every write (at most some hundred
// points), and verifies what is there after each, and after a repetition.
func crashes(t *testing.T, v *vectortest.Vector, verify func(t *testing.T, when string), stdin string, args ...string) {
	t.Helper()
	const seeds = 4 // what of the unsynced writes is lost
	points := 0
	for n := 0; ; n++ {
		inFolder(t, v)
		for _, name := range []string{"new.img", "new2.img"} {
			if err := os.WriteFile(name, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(name, 4<<20); err != nil {
				t.Fatal(err)
			}
		}
		c := &crash{left: n / seeds, seed: n, rnd: rand.New(rand.NewPCG(uint64(n)*0x9e3779b97f4a7c15, 7))}
		deviceHook = c.hook
		_, errs, code := tool(stdin, args...)
		deviceHook = nil
		if !c.happens {
			if code != 0 {
				t.Fatalf("%v: %s", args, errs)
			}
			verify(t, "complete")
			break
		}
		if code != 1 || !strings.Contains(errs, errPower.Error()) {
			t.Fatalf("crash at step %d: exit %d, %s", n, code, errs)
		}
		c.lose(t)
		verify(t, fmt.Sprintf("crash at step %d, seed %d", n/seeds, n))
		points++
	}
	if points < 3*seeds {
		t.Errorf("%v: only %d crash points", args, points)
	}
	t.Logf("%v: %d crash points", args, points)
}

// spread moves all data blocks of a store up by some blocks, so that making
// the data area smaller has something to do.
func spread(t *testing.T, v *vectortest.Vector, blocks uint64) {
	t.Helper()
	inFolder(t, v)
	dump, errs, code := tool("", "dump-meta", "--format", "data", "disk.img")
	if code != 0 {
		t.Fatal(errs)
	}
	dev, at, size := v.Devices["disk.img"], v.Number("data_offset"), v.Number("block_size")
	area := bytes.Clone(dev[at:])
	copy(dev[at+blocks*size:], area)
	clear(dev[at:][:blocks*size])
	big := regexp.MustCompile(`("type":"big(?:_intent)?","stable":(?:true|false),"location":)([0-9]+)`)
	dump = big.ReplaceAllStringFunc(dump, func(m string) string {
		part := big.FindStringSubmatch(m)
		n, err := strconv.ParseUint(part[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return part[1] + strconv.FormatUint(n+blocks*size, 10)
	})
	inFolder(t, v)
	if _, errs, code := tool(dump, "write-meta", "disk.img"); code != 0 {
		t.Fatal(errs)
	}
	for name := range v.Devices {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		v.Devices[name] = b
	}
}

// A resize that crashes leaves the old layout or the new one, with the same
// objects; it can be repeated after either.
func TestResizeCrash(t *testing.T) {
	for _, c := range []struct {
		vector string
		spread uint64
		args   []string
		want   map[string]string // in the superblock afterwards
	}{
		{"csum4k", 20, []string{"--data_size", "1M"}, map[string]string{"data_size": "1048576"}},
		{"compacted", 20, []string{"--data_size", "2M", "--move_meta", ""}, map[string]string{"data_size": "2097152"}},
		{"ec4k", 15, []string{"--data_size", "1152k"}, map[string]string{"data_size": "1179648"}},
		{"enc-csum4k", 12, []string{"--move_journal", "", "--journal_size", "2M"}, map[string]string{"journal_size": "2097152", "journal_offset": fmt.Sprint(4 << 20)}},
		{"enc-csum4k", 0, []string{"--move_meta", ""}, map[string]string{"meta_offset": fmt.Sprint(6<<20 - 512<<10), "meta_device": ""}},
		{"csum4k", 0, []string{"--move_journal", "new.img"}, map[string]string{"journal_device": "new.img", "journal_offset": "4096"}},
		{"ec", 20, []string{"--move_meta", "new.img", "--move_journal", "new2.img", "--data_size", "2M"}, map[string]string{"journal_device": "new2.img", "meta_device": "new.img"}},
		{"sepdev", 4, []string{"--move_meta", "", "--move_journal", ""}, map[string]string{"journal_device": "", "meta_device": ""}},
	} {
		t.Run(c.vector+strings.Join(c.args, ""), func(t *testing.T) {
			v := vectortest.Load(t, c.vector)
			// Small devices: hundreds of them are written.
			size := 6 << 20
			if c.vector == "sepdev" {
				size = 9 << 20
			}
			v.Devices["disk.img"] = v.Devices["disk.img"][:size]
			t.Chdir(fastDir(t))
			inFolder(t, v)
			original, err := content("disk.img")
			if err != nil {
				t.Fatal(err)
			}
			if c.spread != 0 {
				spread(t, v, c.spread)
			}
			want, err := content("disk.img")
			if err != nil {
				t.Fatal(err)
			}
			if want != original {
				t.Fatalf("spread changed the store:\n%s\n%s", want, original)
			}
			args := append(append([]string{"resize"}, c.args...), "disk.img")
			verify := func(t *testing.T, when string) {
				t.Helper()
				if got, err := content("disk.img"); err != nil || got != want {
					t.Fatalf("%s: %v\n%s\nwant\n%s", when, err, got, want)
				}
				if when != "complete" {
					return
				}
				out, errs, code := tool("", "check", "disk.img")
				if code != 0 {
					t.Errorf("check: %s%s", out, errs)
				}
				sb, _, _ := tool("", "read-sb", "disk.img")
				o, err := layout.ParseOptions([]byte(sb))
				if err != nil {
					t.Fatal(err)
				}
				for key, value := range c.want {
					if got := filepath.Base("/" + o.Text(key)); got != value && o.Text(key) != value {
						t.Errorf("%s is %q, want %q", key, o.Text(key), value)
					}
				}
			}
			crashes(t, v, verify, "", args...)
		})
	}
}

// After a crash the command can simply be repeated.
func TestResizeRepeat(t *testing.T) {
	v := vectortest.Load(t, "ec")
	t.Chdir(fastDir(t))
	v.Devices["disk.img"] = v.Devices["disk.img"][:6<<20]
	spread(t, v, 20)
	want, err := content("disk.img")
	if err != nil {
		t.Fatal(err)
	}
	c := &crash{rnd: rand.New(rand.NewPCG(1, 1))}
	runs := 0
	for code := 1; code != 0; runs++ { // every run gets some writes further
		c.left, c.seed, c.undo = 1+runs, runs, nil
		deviceHook = c.hook
		var errs string
		_, errs, code = tool("", "resize", "--data_size", "1M", "disk.img")
		deviceHook = nil
		if runs > 100 {
			t.Fatal(errs)
		}
		c.lose(t)
		if got, err := content("disk.img"); err != nil || got != want {
			t.Fatalf("run %d: %v\n%s", runs, err, got)
		}
	}
	if runs < 3 {
		t.Errorf("only %d runs", runs)
	}
}

// What cannot be resized safely is refused and not touched.
func TestResizeRefusals(t *testing.T) {
	vectors := map[string]*vectortest.Vector{}
	for _, name := range []string{"plain", "sepdev", "torn"} {
		vectors[name] = vectortest.Load(t, name)
	}
	t.Chdir(fastDir(t))
	for _, c := range []struct {
		vector, args, want string
	}{
		{"plain", "", "nothing to do"},
		{"plain", "--data_size 512k", "does not fit"},
		{"plain", "--data_size 100G", "data_size is"},
		{"plain", "--data_size 100k", "blocks of"},
		{"plain", "--journal_size 100k", "buffer area"},
		{"plain", "--journal_size 1G", "no room"},
		{"plain", "--move_journal disk.img", "already a device"},
		{"plain", "--move_journal none.img", "none.img"},
		{"plain", "--move_meta used.img", "unknown data"},
		{"plain", "--move_meta tiny.img", "metadata area"},
		{"sepdev", "--journal_size 1M", "has its own device"},
		{"torn", "--data_size 2M", "start the OSD once"},
	} {
		inFolder(t, vectors[c.vector])
		for name, b := range map[string][]byte{"used.img": bytes.Repeat([]byte("x"), 4<<20), "tiny.img": make([]byte, 8192)} {
			if err := os.WriteFile(name, b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		writes := 0
		deviceHook = func(_ *Device, p []byte, _ int64) error {
			if p != nil {
				writes++
			}
			return nil
		}
		args := append(append([]string{"resize"}, strings.Fields(c.args)...), "disk.img")
		_, errs, code := tool("", args...)
		deviceHook = nil
		if code != 1 || !strings.Contains(errs, c.want) || writes != 0 {
			t.Errorf("%s: exit %d, %d writes, %s; want %q", c.args, code, writes, errs, c.want)
		}
	}
	inFolder(t, vectors["plain"])
	before, _ := os.ReadFile("disk.img")
	if _, errs, code := tool("", "resize", "--dry-run", "--data_size", "512k", "disk.img"); code != 1 || !strings.Contains(errs, "does not fit") {
		t.Errorf("a dry run does not see what would fail: %s", errs)
	}
	out, errs, code := tool("", "resize", "--dry-run", "--json", "--data_size", "1M", "disk.img")
	after, _ := os.ReadFile("disk.img")
	if code != 0 || !strings.Contains(out, `{"new_sb_params": {`) || !strings.Contains(out, `"data_size": 1048576`) || !bytes.Equal(before, after) {
		t.Errorf("dry run: %s%s", out, errs)
	}
}

// While metadata is being replaced the store does not start, rather than with
// half of it; the command can be repeated.
func TestWriteMetaCrash(t *testing.T) {
	v := vectortest.Load(t, "enc-plain")
	t.Chdir(fastDir(t))
	inFolder(t, v)
	want, err := content("disk.img")
	if err != nil {
		t.Fatal(err)
	}
	dump, _, _ := tool("", "dump-meta", "disk.img")
	// The store is empty before, so that no half of the new state looks whole.
	dev, at := v.Devices["disk.img"], v.Number("meta_offset")
	for n := uint64(1); n < 128; n++ {
		layout.EmptyBlock(dev[at+n*4096:][:4096])
	}
	refused := 0
	verify := func(t *testing.T, when string) {
		t.Helper()
		got, err := content("disk.img")
		before := got == "" && strings.HasPrefix(when, "crash at step 0,") || strings.HasPrefix(when, "crash at step 1,")
		if err == nil && got != want && !before {
			t.Errorf("%s: %q", when, got)
		}
		if err != nil {
			refused++
			if out, _, code := tool("", "check", "disk.img"); code != 1 || !strings.Contains(out, "restore-interrupted") {
				t.Errorf("%s: check says %s", when, out)
			}
		}
		if _, errs, code := tool(dump, "write-meta", "disk.img"); code != 0 {
			t.Errorf("%s: repeated: %s", when, errs)
		}
		if got, err := content("disk.img"); err != nil || got != want {
			t.Errorf("%s: after repeating: %v %s", when, err, got)
		}
	}
	crashes(t, v, verify, dump, "write-meta", "disk.img")
	if refused == 0 {
		t.Error("no crash between")
	}
}

// A new OSD appears with its last write. Before that there is the old one,
// untouched, or none.
func TestPrepareCrash(t *testing.T) {
	v := vectortest.Load(t, "enc-plain")
	t.Chdir(fastDir(t))
	inFolder(t, v)
	want, err := content("disk.img")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	verify := func(t *testing.T, when string) {
		t.Helper()
		sb, errs, code := tool("", "read-sb", "disk.img")
		switch {
		case code != 0 && strings.Contains(errs, "no disk superblock"):
			seen["none"]++
		case strings.Contains(sb, `"osd_num": 1}`):
			seen["old"]++
			if got, err := content("disk.img"); err != nil || got != want {
				t.Errorf("%s: old store: %v %s", when, err, got)
			}
		case strings.Contains(sb, `"osd_num": 8,`):
			seen["new"]++
			if out, _, code := tool("", "check", "disk.img"); code != 0 || !strings.Contains(out, "not-initialized") {
				t.Errorf("%s: new store: %s", when, out)
			}
		default:
			t.Errorf("%s: %s %s", when, sb, errs)
		}
	}
	crashes(t, v, verify, "", "prepare", "--force", "--osd_num", "8", "--data_device", "disk.img", "--meta_device", "new.img", "--journal_size", "1M")
	if seen["none"] == 0 || seen["old"] == 0 || seen["new"] == 0 {
		t.Errorf("%v", seen)
	}
}
