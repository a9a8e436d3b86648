package disk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

// program is the real program, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vitastor-disk-test")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "vitastor-disk")
	if out, err := exec.Command("go", "build", "-o", program, "./vitastor-disk").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// result is what a run of the program gave.
type result struct {
	out, err string
	code     int
}

// world is a folder with fakes of the programs that this machine may lack,
// and with a log of what they were called with.
type world struct {
	t    testing.TB
	dir  string
	path string
}

// fakes are shell scripts; each logs its command line.
var fakes = map[string]string{
	"systemctl":    ``,
	"vitastor-osd": ``,
	"vitastor-cli": `case "$*" in *alloc-osd*) n=$(cat "$FAKE_DIR/osd" 2>/dev/null || echo 0); n=$((n+1)); echo $n > "$FAKE_DIR/osd"; echo $n;; esac`,
	// udev as far as the tool needs it: links to partitions by their UUID.
	"udevadm": `for dev in /dev/loop*p*; do [ -b "$dev" ] || continue; uuid=$(/usr/sbin/blkid -p -s PART_ENTRY_UUID -o value "$dev") || continue
mkdir -p /dev/disk/by-partuuid; ln -sfn "$dev" "/dev/disk/by-partuuid/$uuid"; done`,
	"partprobe": `exit 1`,
}

// newWorld is in memory if possible: whole devices are written there.
func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-disk-test")
	if err != nil {
		return newWorldIn(t, t.TempDir())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return newWorldIn(t, dir)
}

func newWorldIn(t testing.TB, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir}
	w.path = filepath.Join(w.dir, "bin")
	if err := os.Mkdir(w.path, 0o777); err != nil {
		t.Fatal(err)
	}
	for name := range fakes {
		w.fake(name, fakes[name])
	}
	return w
}

// fake puts a program in front of the PATH.
func (w *world) fake(name, script string) {
	text := "#!/bin/sh\necho \"" + name + " $*\" >> \"$FAKE_DIR/log\"\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(w.path, name), []byte(text), 0o777); err != nil {
		w.t.Fatal(err)
	}
}

// log is what the fakes were called with since the last call of log.
func (w *world) log() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	os.Remove(filepath.Join(w.dir, "log"))
	return string(b)
}

// run runs the program in the folder of the world.
func (w *world) run(stdin string, args ...string) result {
	w.t.Helper()
	return w.runIn(w.dir, strings.NewReader(stdin), args...)
}

func (w *world) runIn(dir string, stdin io.Reader, args ...string) result {
	w.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdin = dir, stdin
	cmd.Env = append(os.Environ(), "PATH="+w.path+":/usr/sbin:/usr/bin:/sbin:/bin", "FAKE_DIR="+w.dir)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs a command that must succeed and returns its output.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.run("", args...)
	if r.code != 0 {
		w.t.Fatalf("%v: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// fails runs a command that must exit with 1 and say all of words.
func (w *world) fails(args []string, words ...string) {
	w.t.Helper()
	wantFailure(w.t, args, w.run("", args...), words...)
}

func wantFailure(t testing.TB, args []string, r result, words ...string) {
	t.Helper()
	if r.code != 1 {
		t.Errorf("%v: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	for _, word := range words {
		if !strings.Contains(r.err, word) {
			t.Errorf("%v: error does not say %q:\n%s", args, word, r.err)
		}
	}
}

// file makes a sparse file.
func (w *world) file(name string, bytes int64) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(bytes)
		f.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return path
}

// sparse writes content without its zeroes.
func (w *world) sparse(path string, content []byte) {
	w.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	const step = 64 << 10
	for at := 0; at < len(content); at += step {
		part := content[at:min(at+step, len(content))]
		if !layout.IsZero(part) {
			if _, err := f.WriteAt(part, int64(at)); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		w.t.Fatal(err)
	}
}

// vector writes the devices of a vector into the folder of the world, where
// their names in the superblock (relative ones) lead to them.
func (w *world) vector(v *vectortest.Vector) {
	w.t.Helper()
	for name, content := range v.Devices {
		w.sparse(filepath.Join(w.dir, name), content)
	}
}

// patch overwrites bytes of a file.
func (w *world) patch(path string, offset int64, b []byte) {
	w.t.Helper()
	f, err := os.OpenFile(filepath.Join(w.dir, filepath.Base(path)), os.O_RDWR, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, offset); err != nil {
		w.t.Fatal(err)
	}
}

func decodeJSON[T any](t testing.TB, text string) (v T) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	return v
}
