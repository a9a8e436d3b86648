package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/loop"
)

// memories is a Catalogue of disks of memory.
type memories struct {
	disks map[string]*blockdev.Memory
	names []string // in order; the first is the default
	opens int      // minus closes
}

type countedDisk struct {
	*blockdev.Memory
	m *memories
}

func (d *countedDisk) Close() { d.m.opens-- }

func (m *memories) Open(name string) (blockdev.Disk, error) {
	if name == "" {
		name = m.names[0]
	}
	d := m.disks[name]
	if d == nil {
		return nil, fmt.Errorf("there is no %q here, but %v", name, m.names)
	}
	m.opens++
	return &countedDisk{d, m}, nil
}

func (m *memories) List(f func(name, description string)) {
	for _, n := range m.names {
		f(n, "memory")
	}
}

// rig is a server on a loop of its own.
type rig struct {
	testing.TB
	loop   *loop.Loop
	env    *env.Env
	server *Server
	disks  *memories
	path   string
}

const mib = 1 << 20

// newRig serves the disks "data" (64 MiB), "odd" (1 MiB + 1000 bytes) and
// "fixed" (read-only).
func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	r := &rig{TB: t, loop: l, env: l.Env(), path: filepath.Join(t.TempDir(), "s")}
	r.disks = &memories{disks: map[string]*blockdev.Memory{}}
	for _, d := range []struct {
		name  string
		bytes uint64
		fixed bool
	}{{"data", 64 * mib, false}, {"odd", mib + 1000, false}, {"fixed", mib, true}} {
		m, err := blockdev.NewMemory(r.env, d.name, d.bytes, d.fixed)
		if err != nil {
			t.Fatal(err)
		}
		r.disks.disks[d.name], r.disks.names = m, append(r.disks.names, d.name)
	}
	r.on(func() {
		config := Config{Env: r.env, Catalogue: r.disks}
		if change != nil {
			change(&config)
		}
		if r.server, err = NewServer(config); err == nil {
			_, err = l.ListenUnix(r.path, r.server.Accept)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-ended
		r.server.Free()
		for _, m := range r.disks.disks {
			m.Free()
		}
	})
	return r
}

// on runs f on the loop.
func (r *rig) on(f func()) {
	done := make(chan struct{})
	r.loop.Post(func() { defer close(done); f() })
	<-done
}

// eventually waits until f, on the loop, is true.
func (r *rig) eventually(what string, f func() bool) {
	r.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		ok := false
		r.on(func() { ok = f() })
		if ok {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("%s: not within 10 s", what)
		}
	}
}

func (r *rig) uri(name string) string { return "nbd+unix:///" + name + "?socket=" + r.path }

// peer runs a program of somebody else, or skips the test.
func peer(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (make deps installs it)", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin") // nbdsh needs Debian's Python
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is peer that succeeds and prints all of want.
func must(t testing.TB, want []string, name string, args ...string) string {
	t.Helper()
	out, err := peer(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%s %q: no %q in\n%s", name, args, w, out)
		}
	}
	return out
}

func TestQEMUImg(t *testing.T) {
	r := newRig(t, nil)
	must(t, []string{"virtual size: 64 MiB"}, "qemu-img", "info", r.uri("data"))
	file := filepath.Join(t.TempDir(), "raw")
	must(t, nil, "qemu-img", "create", "-f", "raw", file, "64M")
	must(t, nil, "qemu-io", "-f", "raw", "-c", "write -P 0xa5 1M 3M", "-c", "write -P 7 63M 1M", file)
	must(t, nil, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", file, r.uri("data"))
	must(t, []string{"Images are identical"}, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, r.uri("data"))
	m := must(t, nil, "qemu-img", "map", "-f", "raw", "--output=json", r.uri("data"))
	want := `"start": 0, "length": 1048576, "depth": 0, "present": true, "zero": true, "data": false`
	if !strings.Contains(m, want) || !strings.Contains(m, `"start": 1048576, "length": 3145728`) {
		t.Errorf("map: no %s, or not the data, in\n%s", want, m)
	}
}

func TestQEMUIO(t *testing.T) {
	r := newRig(t, nil)
	args := []string{"-f", "raw", "-t", "none"}
	for _, c := range []string{"write -P 1 0 4k", "write -P 2 -f 4k 1M", "aio_write -P 3 8M 2M", "aio_write -P 4 20M 512", "aio_flush", "flush",
		"write -z 512k 4k", "discard 8M 128k", "read -P 1 0 4k", "read -P 2 4k 500k", "read -P 0 512k 4k", "read -P 3 9M 1M",
		"read -P 4 20M 512", "write -P 5 1000k 7", "read -P 5 1000k 7", "read -P 2 1001k 1k"} {
		args = append(args, "-c", c)
	}
	out := must(t, nil, "qemu-io", append(args, r.uri("data"))...)
	if strings.Contains(out, "fail") || strings.Contains(out, "rror") {
		t.Error(out)
	}
	var flushes, durable int
	r.on(func() { flushes, durable = r.disks.disks["data"].Flushes, r.disks.disks["data"].Durable })
	if flushes == 0 || durable == 0 {
		t.Errorf("%d flushes, %d writes with FUA", flushes, durable)
	}
}

func TestNBDInfo(t *testing.T) {
	r := newRig(t, nil)
	must(t, []string{"export-size: 67108864", "protocol: newstyle-fixed without TLS, using structured packets", "base:allocation",
		"is_read_only: false", "can_cache: false", "can_df: true", "can_flush: true", "can_fua: true", "can_multi_conn: true",
		"can_trim: true", "can_zero: true", "block_size_preferred: 4096", "block_size_maximum: 33554432"}, "nbdinfo", r.uri("data"))
	must(t, []string{"is_read_only: true", "can_trim: false"}, "nbdinfo", r.uri("fixed"))
	must(t, []string{`export="data"`, `export="odd"`, `export="fixed"`, "description: memory"}, "nbdinfo", "--list", r.uri(""))
	out, err := peer(t, "qemu-img", "info", r.uri("nothing")) // shows what the server says
	if err == nil || !strings.Contains(out, "there is no \"nothing\" here") {
		t.Errorf("an unknown export: %v\n%s", err, out)
	}
}

func TestNBDCopy(t *testing.T) {
	r := newRig(t, nil)
	var data []byte
	r.on(func() {
		data = make([]byte, len(r.disks.disks["odd"].Data()))
		for i := range data {
			data[i] = byte(i * 7 / 3)
		}
		r.disks.disks["odd"].Put(0, data)
	})
	file := filepath.Join(t.TempDir(), "copy")
	must(t, nil, "nbdcopy", r.uri("odd"), file)
	must(t, nil, "nbdcopy", "--allocated", file, r.uri("data"))
	var same bool
	r.on(func() { same = slices.Equal(data, r.disks.disks["data"].Data()[:len(data)]) })
	if !same {
		t.Error("what was copied there and back is not the same")
	}
}

// TestNBDShell is what libnbd can do beyond its tools: requests in any number
// and order, and every error.
func TestNBDShell(t *testing.T) {
	r := newRig(t, nil)
	script := `
import nbd
h.connect_uri(uri)
assert h.get_structured_replies_negotiated()
size = h.get_size()
# Many requests in flight, answered in any order.
buf = {}
for i in range(400):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i & 255]) * 4096), i * 4096, lambda err: 1)
while h.aio_in_flight() > 0:
    h.poll(-1)
for i in range(400):
    buf[i] = nbd.Buffer(4096)
    h.aio_pread(buf[i], i * 4096, lambda err: 1)
while h.aio_in_flight() > 0:
    h.poll(-1)
for i in range(400):
    assert buf[i].to_bytearray() == bytearray([i & 255]) * 4096, i
# Unaligned, and large.
h.pwrite(b"x" * 1001, 5 * 4096 - 7, nbd.CMD_FLAG_FUA)
assert h.pread(1001, 5 * 4096 - 7) == b"x" * 1001
big = bytearray(range(256)) * (32 * 4096)
h.pwrite(big, 16 * 1024 * 1024)
assert h.pread(len(big), 16 * 1024 * 1024) == big
h.zero(8192, 16 * 1024 * 1024, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(8192, 16 * 1024 * 1024) == bytearray(8192)
h.trim(4096, 0, nbd.CMD_FLAG_FUA)
h.flush()
# Errors.
h.set_strict_mode(0)
def fails(f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        return e.errno
    raise Exception("no error")
assert fails(h.pread, 4096, size) == "EINVAL"
assert fails(h.pwrite, b"x" * 4096, size - 4095) == "ENOSPC"
assert fails(h.zero, 4096, size) == "ENOSPC"
assert fails(h.pread, 32 * 1024 * 1024 + 1, 0) in ("EOVERFLOW", "EINVAL"), fails(h.pread, 32 * 1024 * 1024 + 1, 0)
assert fails(h.cache, 4096, 0) == "EINVAL"
assert h.pread(4096, 4096 * 399) == bytearray([399 & 255]) * 4096
h.shutdown()
print("all good")
`
	script = strings.Replace(script, "h.connect_uri(uri)", fmt.Sprintf("h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)\nh.connect_uri(%q)", r.uri("data")), 1)
	must(t, []string{"all good"}, "nbdsh", "-c", script)
	r.eventually("the disk is closed", func() bool { return r.disks.opens == 0 && r.server.Connections() == 0 })
	r.on(func() {
		if used := r.server.pool.Stats().UsedBytes; used != 0 {
			t.Errorf("%d bytes of memory are still in use", used)
		}
	})
}

func TestNBDShellReadOnly(t *testing.T) {
	for _, name := range []string{"fixed", "data"} {
		r := newRig(t, func(c *Config) { c.ReadOnly = true })
		must(t, []string{"EPERM EPERM EPERM"}, "nbdsh", "-c", fmt.Sprintf(`
h.connect_uri(%q)
h.set_strict_mode(0)
def fails(f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        return e.errno
print(fails(h.pwrite, b"x" * 4096, 0), fails(h.zero, 4096, 0), fails(h.trim, 4096, 0))
`, r.uri(name)))
	}
}

// TestShutdown: the server ends although clients have requests.
func TestShutdown(t *testing.T) {
	r := newRig(t, nil)
	c := dialRaw(t, r)
	c.goOn("data", false)
	done := make(chan struct{})
	r.on(func() { r.server.Shutdown(func() { close(done) }) })
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Shutdown does not end")
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client sees %v", err)
	}
}

// TestNBDKit: nbdkit's own client, and a filter that cuts requests in its way.
func TestNBDKit(t *testing.T) {
	r := newRig(t, nil)
	data := make([]byte, 3*mib)
	for i := range data {
		data[i] = byte(i * 13 / 5)
	}
	r.on(func() { r.disks.disks["data"].Put(5*mib+333, data) })
	must(t, []string{"export-size: 67108864", "can_multi_conn: true"}, "nbdkit", "-U", "-", "nbd", "uri="+r.uri("data"), "--run", "nbdinfo $uri")
	file := filepath.Join(t.TempDir(), "copy")
	must(t, nil, "nbdkit", "-U", "-", "--filter=blocksize", "nbd", "uri="+r.uri("data"), "shared=1", "minblock=1", "maxdata=100k",
		"--run", "nbdcopy $uri "+file)
	got, err := os.ReadFile(file)
	if err != nil || len(got) != 64*mib || !slices.Equal(got[5*mib+333:][:len(data)], data) {
		t.Errorf("what was copied through nbdkit is not the same (%d bytes, %v)", len(got), err)
	}
}

// TestFio: many random requests of all sizes at once, all of which are verified.
func TestFio(t *testing.T) {
	if out, _ := peer(t, "fio", "--enghelp"); !strings.Contains(out, "\tnbd\n") {
		t.Skip("this fio has no NBD engine")
	}
	r := newRig(t, nil)
	must(t, []string{"err= 0"}, "fio", "--name=t", "--ioengine=nbd", "--uri="+r.uri("data"), "--rw=randrw", "--bsrange=512-128k", "--bs_unaligned",
		"--size=32M", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--fsync=50", "--verify_state_save=0")
	r.clean()
}

// TestSameDisk: an export has one disk, whatever it is called.
func TestSameDisk(t *testing.T) {
	r := newRig(t, nil)
	for _, name := range []string{"", "data", ""} {
		dialRaw(t, r).goOn(name, false)
	}
	r.on(func() {
		if x := r.server.exports["data"]; len(r.server.exports) != 1 || x.users != 3 || r.disks.opens != 1 {
			t.Errorf("%d exports, %d disks", len(r.server.exports), r.disks.opens)
		}
	})
}
