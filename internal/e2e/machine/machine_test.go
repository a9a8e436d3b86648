package machine

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeKernel is a cache with a kernel of four modules.
func fakeKernel(t *testing.T) *Kernel {
	t.Helper()
	dir := t.TempDir()
	modules := filepath.Join(dir, "lib/modules/6.12-test")
	files := map[string]string{
		filepath.Join(dir, "boot/vmlinuz-6.12-test"): "",
		modules + "/modules.dep":                     "kernel/a.ko:\nkernel/b-x.ko: kernel/a.ko\nkernel/c.ko: kernel/b-x.ko kernel/a.ko\nkernel/lost.ko:\n",
		modules + "/modules.builtin":                 "kernel/fs/in-side.ko\n",
		modules + "/kernel/a.ko":                     "A",
		modules + "/kernel/b-x.ko":                   "B",
		modules + "/kernel/c.ko":                     "C",
	}
	for path, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	k, err := openKernel(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestModules: each module once, after those that it needs.
func TestModules(t *testing.T) {
	k := fakeKernel(t)
	for _, c := range []struct{ wanted, want string }{
		{"c max=3,a", "a:A b_x:B c max=3:C"},
		{"b-x,c", "a:A b_x:B c:C"},
		{"in_side,a", "a:A"},
		{"nothing", `no module "nothing"`},
		{"lost", "no such file"},
	} {
		list, err := k.Modules(strings.Split(c.wanted, ",")...)
		var words []string
		for _, m := range list {
			words = append(words, strings.TrimSpace(m.Name+" "+m.Parameters)+":"+string(m.Data))
		}
		if got := strings.Join(words, " "); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v instead of %q", c.wanted, got, err, c.want)
		}
	}
}

// TestPayload: a kernel whose header lies is an error.
func TestPayload(t *testing.T) {
	image := func(offset, length uint32) []byte {
		b := make([]byte, 4096)
		b[0x1f1] = 1 // the real-mode part has 2 sectors
		copy(b[0x202:], "HdrS")
		binary.LittleEndian.PutUint32(b[0x248:], offset)
		binary.LittleEndian.PutUint32(b[0x24c:], length)
		copy(b[1024+16:], "payload")
		return b
	}
	if got, err := payloadOf(image(16, 7+4)); err != nil || string(got) != "payload" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range [][]byte{nil, make([]byte, 4096), image(16, 3), image(1<<31, 1<<31), image(16, 1<<20), image(1<<32-1, 1<<32-1)} {
		if _, err := payloadOf(bad); err == nil {
			t.Errorf("%d bytes are a kernel", len(bad))
		}
	}
}

// TestFetch: a folder that could not be made complete is not there, and what is
// there is not made again.
func TestFetch(t *testing.T) {
	cache := t.TempDir()
	bin := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" >>" + bin + "/calls\ncase $2 in download) [ \"$3\" != missing ] && >pkg.deb;; esac\n"
	for name, text := range map[string]string{"apt-get": script, "dpkg": "#!/bin/sh\nmkdir -p boot\n"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if _, err := Fetch(cache, "missing", func(string) error { return nil }); !errors.Is(err, ErrNoPackages) {
		t.Errorf("a package that apt does not know: %v", err)
	}
	broken := errors.New("broken")
	if _, err := Fetch(cache, "thing", func(string) error { return broken }); !errors.Is(err, broken) || isDir(filepath.Join(cache, "thing")) {
		t.Errorf("an incomplete folder: %v", err)
	}
	for range 2 {
		dir, err := Fetch(cache, "thing", func(dir string) error { return os.Mkdir(filepath.Join(dir, "prepared"), 0o755) })
		if err != nil || !isDir(filepath.Join(dir, "prepared")) || !isDir(filepath.Join(dir, "boot")) {
			t.Fatalf("%s: %v", dir, err)
		}
	}
	calls, err := os.ReadFile(filepath.Join(bin, "calls"))
	downloads := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(calls)), "\n"), func(s string) bool { return !strings.HasSuffix(s, " thing") })
	if err != nil || len(downloads) != 2 {
		t.Errorf("downloads: %v, %v", downloads, err)
	}
}
