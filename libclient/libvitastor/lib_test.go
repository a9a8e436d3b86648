package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
)

// The tests compile the library and programs in C as users do, and run them
// against a cluster of real processes.

// rig is shared by all tests: one cluster, with a pool of copies (1) and one
// with parity (2).
var rig struct {
	once    sync.Once
	dir     string
	lib     string // folder of the library
	cluster *cluster.Cluster
	err     error
	images  uint64
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if rig.cluster != nil {
		if err := rig.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.RemoveAll(rig.dir)
	os.Exit(code)
}

func start() error {
	var err error
	for _, parent := range []string{"/dev/shm", ""} {
		if rig.dir, err = os.MkdirTemp(parent, "vitastor-lib-"); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	rig.lib = filepath.Join(rig.dir, "lib")
	if out, err := exec.Command("make", "OUT="+rig.lib).CombinedOutput(); err != nil {
		return fmt.Errorf("make: %w\n%s", err, out)
	}
	bin, err := cluster.Build(rig.dir)
	if err != nil {
		return err
	}
	work := filepath.Join(rig.dir, "cluster")
	if err := os.Mkdir(work, 0o777); err != nil {
		return err
	}
	c, err := cluster.New(cluster.Config{Dir: work, Bin: bin})
	if err != nil {
		return err
	}
	rig.cluster = c
	return errors.Join(c.Start(), c.CreatePool(1, cluster.Replicated("copies", 2, 8)), c.CreatePool(2, cluster.EC("parity", 2, 1, 8)))
}

// setUp starts what all tests share.
func setUp(t *testing.T) *cluster.Cluster {
	t.Helper()
	rig.once.Do(func() { rig.err = start() })
	if errors.Is(rig.err, cluster.ErrNoEtcd) && os.Getenv("CI") == "" {
		t.Skip(rig.err)
	}
	if rig.err != nil {
		t.Fatal(rig.err)
	}
	return rig.cluster
}

// newImage makes an image of 16 MiB and returns its name.
func newImage(t *testing.T, pool meta.PoolID) string {
	t.Helper()
	rig.images++
	name := fmt.Sprintf("image%d", rig.images)
	if err := rig.cluster.CreateImage(pool, rig.images, name, 16<<20); err != nil {
		t.Fatal(err)
	}
	return name
}

func etcdAddress() string { return strings.Join(rig.cluster.Endpoints(), ",") }

// compile makes a program of a C file, with warnings as errors.
func compile(t *testing.T, file string) string {
	t.Helper()
	program := filepath.Join(rig.dir, strings.TrimSuffix(filepath.Base(file), ".c"))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	cmd := exec.Command("gcc", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-I../include", file, "-L"+rig.lib,
		"-lvitastor_client", "-lpthread", "-o", program)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", file, err, out)
	}
	return program
}

// command is a program that uses the library.
func command(t *testing.T, program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+rig.lib)
	return cmd
}

// run runs it and returns what it prints; it must succeed.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := command(t, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestExports: the interface is what capi.md §2 lists, and four functions of
// ours.
func TestExports(t *testing.T) {
	setUp(t)
	out := run(t, "nm", "-D", "--defined-only", filepath.Join(rig.lib, "libvitastor_client.so"))
	var names []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		names = append(names, f[len(f)-1])
	}
	want := strings.Fields(`close_watch create_epoll_json create_qemu create_qemu_uring create_uring create_uring_json delete
		destroy epoll_get_fd epoll_handle_events get_error get_internal_client get_used inode_get_bitmap_granularity
		inode_get_block_size inode_get_immediate_commit inode_get_meta inode_get_mod_revision inode_get_num
		inode_get_parent_id inode_get_readonly inode_get_size is_ready on_ready read read_bitmap resize sync
		uring_handle_events uring_has_work uring_register_eventfd uring_wait_events uring_wait_ready watch_inode write zero_objects`)
	for i := range want {
		want[i] = "vitastor_c_" + want[i]
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("exported:\n%s\nwant:\n%s", strings.Join(names, " "), strings.Join(want, " "))
	}
	if out := run(t, "readelf", "-d", filepath.Join(rig.lib, "libvitastor_client.so")); !strings.Contains(out, "soname: [libvitastor_client.so.0]") {
		t.Errorf("soname:\n%s", out)
	}
	cpp := filepath.Join(rig.dir, "header.cc")
	os.WriteFile(cpp, []byte("#include <vitastor_c.h>\nint main() { return vitastor_c_is_ready(0); }\n"), 0o666)
	run(t, "gcc", "-Wall", "-Werror", "-I../include", "-fsyntax-only", "-x", "c", cpp)
}

func TestOperations(t *testing.T) {
	setUp(t)
	for pool, facts := range []string{1: "block 131072", 2: "block 262144"} {
		if pool == 0 {
			continue
		}
		name := newImage(t, meta.PoolID(pool))
		if pool == 1 {
			run(t, compile(t, "testdata/io.c"), etcdAddress(), name)
		}
		out := run(t, compile(t, "testdata/io.c"), etcdAddress(), name, "facts")
		if !strings.Contains(out, facts+" granule 4096 commit 2 revision 1 internal 0") || !strings.Contains(out, fmt.Sprintf("inode %x", uint64(meta.MakeInode(meta.PoolID(pool), rig.images)))) {
			t.Errorf("pool %d: %s", pool, out)
		}
	}
}

func TestReadOnly(t *testing.T) {
	c := setUp(t)
	name := newImage(t, 1)
	inode := meta.MakeInode(1, rig.images)
	err := c.PutJSON(c.Keys.InodeConfig(inode), map[string]any{"name": name, "size": 16 << 20, "readonly": true,
		"meta": map[string]any{"a": 1}, "parent_id": 1})
	if err != nil {
		t.Fatal(err)
	}
	run(t, compile(t, "testdata/io.c"), etcdAddress(), name, "readonly")
	out := run(t, compile(t, "testdata/io.c"), etcdAddress(), name, "facts")
	if want := `parent 1000000000001 readonly 1 meta {"a":1}`; !strings.Contains(out, want) {
		t.Errorf("%s, want %s", out, want)
	}
}

// TestFollow: a handle follows the name (capi.md 2.5).
func TestFollow(t *testing.T) {
	c := setUp(t)
	name := newImage(t, 1)
	first, second := meta.MakeInode(1, rig.images), meta.MakeInode(1, rig.images+1000)
	cmd := command(t, compile(t, "testdata/io.c"), etcdAddress(), name, "follow")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	expect := func(want meta.Inode) {
		t.Helper()
		if !lines.Scan() || lines.Text() != fmt.Sprintf("%x", uint64(want)) {
			t.Fatalf("the handle says %q, want %x", lines.Text(), uint64(want))
		}
	}
	index := func(i meta.Inode) map[string]any { return map[string]any{"id": i.Number(), "pool_id": 1} }
	put := func(key string, value any) {
		t.Helper()
		if err := c.PutJSON(key, value); err != nil {
			t.Fatal(err)
		}
	}
	expect(first)
	put(c.Keys.InodeConfig(first), map[string]any{"name": name + "@snap", "size": 16 << 20, "readonly": true})
	expect(0)
	if err := cmd.Wait(); err != nil { // follow ends at 0
		t.Fatal(err)
	}
	put(c.Keys.InodeConfig(second), map[string]any{"name": name, "size": 32 << 20, "parent_id": first.Number()})
	put(c.Keys.ImageIndex(name), index(second))
	if out := run(t, compile(t, "testdata/io.c"), etcdAddress(), name, "facts"); !strings.Contains(out, fmt.Sprintf("inode %x size 33554432 parent %x", uint64(second), uint64(first))) {
		t.Error(out)
	}
}

// TestLife runs the cases of life.c: constructors, loops, threads, forks.
func TestLife(t *testing.T) {
	setUp(t)
	name := newImage(t, 2)
	for _, c := range strings.Fields("version epoll setfd nested eventfd inflight fork coroutine threads noetcd") {
		t.Run(c, func(t *testing.T) {
			out := run(t, compile(t, "testdata/life.c"), etcdAddress(), name, c)
			if c == "fork" && !strings.Contains(out, "Make clients after fork()") {
				t.Errorf("the child was told nothing:\n%s", out)
			}
		})
	}
}

// TestExamples runs what users read first.
func TestExamples(t *testing.T) {
	setUp(t)
	const examples = "../examples/c/"
	name := newImage(t, 1)
	if out := run(t, compile(t, examples+"hello.c"), name, etcdAddress()); out != name+" (16 MiB) says: hello, world of blocks\n" {
		t.Errorf("hello: %s", out)
	}
	if out := run(t, compile(t, examples+"hostloop.c"), name, etcdAddress()); out != name+": 1 of 4096 granules hold something\n" {
		t.Errorf("hostloop: %s", out)
	}
	if out := run(t, compile(t, examples+"cbench.c"), name, etcdAddress(), "write", "4096", "4", "0.3"); !strings.Contains(out, "ops/s") {
		t.Errorf("cbench: %s", out)
	}
	out, err := command(t, compile(t, examples+"hello.c"), "nothing", etcdAddress()).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("there is no image nothing")) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOSDKilled: a program with a loop of its own goes on when an OSD dies.
func TestOSDKilled(t *testing.T) {
	c := setUp(t)
	cmd := command(t, compile(t, "../examples/c/cbench.c"), newImage(t, 2), etcdAddress(), "write", "4096", "8", "3")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := c.OSD(1).Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := c.OSD(1).Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
	if err := c.WaitState(2, "active", 30*time.Second); err != nil {
		t.Error(err)
	}
}

// TestReferenceFio loads the reference's fio engine with our library.
func TestReferenceFio(t *testing.T) {
	dir := os.Getenv(cluster.ReferenceEnv)
	engine := filepath.Join(dir, "libfio_vitastor.so")
	if _, err := os.Stat(engine); dir == "" || err != nil {
		t.Skipf("needs libfio_vitastor.so of the reference, for Debian's fio, in the folder that %s names", cluster.ReferenceEnv)
	}
	setUp(t)
	for _, more := range [][]string{{"--iodepth=1"}, {"--iodepth=16"}, {"--iodepth=16", "--no_io_uring=1"}} {
		args := append([]string{"--name=t", "--ioengine=" + engine, "--thread", "--etcd=" + etcdAddress(), "--image=" + newImage(t, 1),
			"--rw=randwrite", "--bs=4k", "--size=16m", "--verify=crc32c", "--direct=1", "--fsync=32", "--verify_state_save=0"}, more...)
		run(t, "fio", args...)
	}
}

// TestSanitized runs the C side under address sanitizer, leaks included.
func TestSanitized(t *testing.T) {
	setUp(t)
	dir := filepath.Join(rig.dir, "sanitized")
	sources, err := filepath.Glob("shim/*.c")
	if err == nil {
		err = errors.Join(os.Mkdir(dir, 0o777), os.Symlink(filepath.Join(rig.lib, "libvitastor_core.so.0"), filepath.Join(dir, "libvitastor_core.so.0")))
	}
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{"-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-I../include", "-o"}
	run(t, "gcc", append(append(flags, filepath.Join(dir, "libvitastor_client.so.0"), "-shared", "-fPIC", "-fvisibility=hidden",
		"-Wl,-soname,libvitastor_client.so.0"), append(sources, "-ldl", "-lpthread")...)...)
	if err := os.Symlink("libvitastor_client.so.0", filepath.Join(dir, "libvitastor_client.so")); err != nil {
		t.Fatal(err)
	}
	for program, cases := range map[string][]string{"io": {""}, "life": strings.Fields("version epoll setfd eventfd inflight threads noetcd")} {
		path := filepath.Join(dir, program)
		run(t, "gcc", append(append(flags, path), "testdata/"+program+".c", "-L"+dir, "-Wl,-rpath,"+dir, "-lvitastor_client", "-lpthread")...)
		for _, c := range cases {
			cmd := command(t, path, etcdAddress(), newImage(t, 1), c) // an empty one: io looks at what is allocated
			cmd.Env = os.Environ()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s %s: %v\n%s", program, c, err, out)
			}
		}
	}
}
