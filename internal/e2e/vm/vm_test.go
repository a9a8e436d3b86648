package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/machine"
	"vitastor/internal/meta"
)

const (
	fullEnv   = "VITASTOR_E2E"             // "full" = run
	moduleEnv = "VITASTOR_E2E_QEMU_MODULE" // path of block-vitastor.so; default: where make qemu-plugin puts it
)

var keep = flag.Bool("keep", false, "keep the folder of the test")

// Pools: the image is replicated, its clone is erasure coded.
const (
	replicated meta.PoolID = 1
	coded      meta.PoolID = 2
)

const (
	diskBytes   = 160 << 20
	blocksBytes = 8 << 20 // of the file that is overwritten: 2048 blocks, as in init.sh
	blockBytes  = 4096
	filesPerOSD = 40
)

// rig is a cluster with what is needed to run machines on it.
type rig struct {
	*testing.T
	ctx    context.Context
	c      *cluster.Cluster
	dir    string
	attach *Attach
	cli    string
	golden []byte // what the file "blocks" has at first
}

// contents are hashes that the machine told after fsync: "f7" for a file,
// "blocks:53" for a block of that file.
type contents map[string]string

// TestMachine: a disk is imported into a cluster, a machine boots from it and
// writes with fsync while each OSD is killed in turn; after its shutdown the
// image is snapshotted and exported. Another machine goes on with a clone in
// another pool until it is killed together with everything else.
func TestMachine(t *testing.T) {
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("boots machines: runs with %s=full, as in make test-integrations", fullEnv)
	}
	need(t, machine.QEMU, "qemu-system-x86", "qemu-img", "qemu-utils", machine.Sbin("mke2fs"), "e2fsprogs", machine.Sbin("debugfs"), "e2fsprogs",
		"as", "binutils", "ld", "binutils", "zstd", "zstd", "xz", "xz-utils", machine.Sbin("depmod"), "kmod")
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	guest, err := Packages(machine.CacheDir())
	if errors.Is(err, machine.ErrNoPackages) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	bin, err := cluster.Build(programs)
	if err == nil {
		err = command(root, "go", "build", "-o", programs+"/", "./frontends/nbd/vitastor-nbd", "./frontends/cli/vitastor-cli")
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, attach func(*cluster.Cluster) (*Attach, error)) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, bin, filepath.Join(programs, "vitastor-cli"), attach)
			r.importDisk(guest)
			written := r.firstMachine()
			r.secondMachine(written)
		})
	}
	run("nbd", func(c *cluster.Cluster) (*Attach, error) { return ServeNBD(c, filepath.Join(programs, "vitastor-nbd")) })
	module := os.Getenv(moduleEnv)
	if module == "" {
		module = filepath.Join(root, "bin", "lib", "block-vitastor.so")
	}
	if isFile(module) {
		run("module", func(c *cluster.Cluster) (*Attach, error) { return Module(c, module), nil })
	} else {
		t.Logf("not through QEMU's driver vitastor: there is no %s: make qemu-plugin", module)
	}
}

// need skips, or fails in CI, without programs: pairs of program and package.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for i := 0; i < len(programs); i += 2 {
		if _, err := exec.LookPath(programs[i]); err != nil {
			text := fmt.Sprintf("%s is not installed (Debian: %s)", programs[i], programs[i+1])
			if os.Getenv("CI") != "" {
				t.Fatal(text)
			}
			t.Skip(text)
		}
	}
}

func newRig(t *testing.T, bin cluster.Bin, cli string, attach func(*cluster.Cluster) (*Attach, error)) *rig {
	ctx, cancel := context.WithTimeout(t.Context(), 170*time.Second)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-vm-")
	if err != nil {
		dir = t.TempDir()
	}
	r := &rig{T: t, ctx: ctx, dir: dir, cli: cli}
	t.Cleanup(func() {
		if *keep {
			t.Log("kept", dir)
		} else {
			os.RemoveAll(dir)
		}
	})
	// Disks with volatile caches, and a cache in the memory of clients: what the
	// machine syncs must be synced all the way down.
	r.c, err = cluster.New(cluster.Config{Dir: dir, Bin: bin, Lazy: true, Log: t.Logf,
		Global: map[string]any{"client_enable_writeback": true}})
	if errors.Is(err, cluster.ErrNoEtcd) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	r.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.c.Logs(25))
		}
		if err := errors.Join(r.c.Close(), r.c.CheckDisks()); err != nil {
			t.Error(err)
		}
	})
	r.must(r.c.Start())
	r.vitastor("create-pool", "vms", "--pg_size", "2", "--pg_count", "8", "--failure_domain", "osd", "--force")
	r.vitastor("create-pool", "clones", "--ec", "2+1", "--pg_count", "8", "--failure_domain", "osd", "--force")
	r.must(r.c.WaitState(replicated, "active", 20*time.Second))
	r.must(r.c.WaitState(coded, "active", 20*time.Second))
	r.attach, err = attach(r.c)
	r.must(err)
	t.Cleanup(func() {
		if err := r.attach.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// vitastor runs vitastor-cli.
func (r *rig) vitastor(args ...string) {
	r.Helper()
	r.must(command(r.dir, append([]string{r.cli, "--config_path", r.c.ConfigFile(), "--progress", "0"}, args...)...))
}

// img runs qemu-img.
func (r *rig) img(args ...string) {
	r.Helper()
	began := time.Now()
	cmd := exec.CommandContext(r.ctx, "qemu-img", args...)
	cmd.Env = append(os.Environ(), r.attach.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	r.Logf("qemu-img %s: %v", args[0], time.Since(began).Round(time.Millisecond))
}

// importDisk makes a disk and the image "disk" from it.
func (r *rig) importDisk(g Guest) {
	r.Helper()
	r.golden = make([]byte, blocksBytes)
	rand.NewChaCha8([32]byte{1}).Read(r.golden)
	raw := r.path("disk.raw")
	r.must(BuildDisk(raw, g, Disk{Bytes: diskBytes, Files: map[string][]byte{"data/blocks": r.golden}}))
	r.vitastor("create", "--size", strconv.Itoa(diskBytes), "--pool", "vms", "disk")
	r.img("convert", "-n", "-f", "raw", "-O", "raw", raw, r.attach.Drive("disk"))
	r.img("compare", "-f", "raw", "-F", "raw", raw, r.attach.Drive("disk"))
}

// boot starts a machine from an image.
func (r *rig) boot(image string) *Running {
	r.Helper()
	m, err := Boot(r.ctx, Machine{Drive: r.attach.Drive(image), Env: r.attach.Env, Console: filepath.Join(r.dir, "log", "machine")})
	r.must(err)
	r.Cleanup(m.Kill)
	r.Logf("a machine has booted from %s in %v", image, m.BootTime().Round(time.Millisecond))
	return m
}

// write lets the machine write files first to last, and takes what it told.
// At the n-th line at[n] is called.
func (r *rig) write(m *Running, first, last int, c contents, at map[int]func()) error {
	n := 0
	return m.Do(r.ctx, fmt.Sprintf("write %d %d", first, last), func(line string) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "synced" {
			r.Fatalf("the machine says %q", line)
		}
		c[words[1]] = words[2]
		if f := at[n]; f != nil {
			f()
		}
		n++
	})
}

// reread compares what the machine reads from its disk with what it wrote.
func (r *rig) reread(m *Running, c contents) {
	r.Helper()
	seen := 0
	r.must(m.Do(r.ctx, "read", func(line string) {
		words := strings.Fields(line)
		if want := c[words[1]]; want != "" {
			if seen++; words[2] != want {
				r.Errorf("the machine reads %s as %s, wrote %s", words[1], words[2], want)
			}
		}
	}))
	if files := c.files(); seen != files {
		r.Errorf("the machine sees %d of %d files", seen, files)
	}
}

// during is what happens to an OSD while a machine writes.
func (r *rig) during(n meta.OSDNum) map[int]func() {
	return map[int]func(){
		10: func() { r.must(r.c.OSD(n).Kill()) },
		40: func() { r.must(r.c.OSD(n).Start()) },
	}
}

// firstMachine writes on the image itself, and tells what.
func (r *rig) firstMachine() contents {
	c := contents{}
	m := r.boot("disk")
	for n := meta.OSDNum(1); n <= 3; n++ {
		began := time.Now()
		last := int(n) * filesPerOSD
		r.must(r.write(m, last-filesPerOSD+1, last, c, r.during(n)))
		r.Logf("%d files and as many blocks were written while OSD %d was killed and started: %v", filesPerOSD, n,
			time.Since(began).Round(time.Millisecond))
		r.healthy()
	}
	live := r.snapshotLive(m, c)
	r.must(r.c.OSD(1).Kill())
	r.reread(m, c)
	r.must(r.c.OSD(1).Start())
	r.must(m.Do(r.ctx, "delete 1 5", func(string) {}))
	for i := 1; i <= 5; i++ {
		delete(c, fmt.Sprintf("f%d", i))
	}
	r.must(m.Halt(r.ctx))

	r.vitastor("snap-create", "disk@s1")
	r.img("convert", "-f", "raw", "-O", "raw", r.attach.Drive("disk@s1"), r.path("s1.raw"))
	r.check(r.partition(r.path("s1.raw")), c, nil)
	live()
	return c
}

// snapshotLive makes a snapshot while the machine writes, and returns the test
// of it: it has what was synced before it was made, and is as a disk after a
// power failure.
func (r *rig) snapshotLive(m *Running, c contents) (check func()) {
	first, last := 3*filesPerOSD+1, 4*filesPerOSD
	var before contents
	r.must(r.write(m, first, last, c, map[int]func(){filesPerOSD: func() {
		before = maps.Clone(c)
		r.vitastor("snap-create", "disk@live")
	}}))
	return func() {
		raw := r.path("live.raw")
		r.img("convert", "-f", "raw", "-O", "raw", r.attach.Drive("disk@live"), raw)
		r.check(r.replayed(raw), before, blocksOf(first, last))
	}
}

// secondMachine writes on a clone of what the first one has written, and loses
// its power together with the whole cluster.
func (r *rig) secondMachine(c contents) {
	r.vitastor("create", "--parent", "disk@s1", "--pool", "clones", "clone")
	m := r.boot("clone")
	first := 4*filesPerOSD + 1
	last := first + filesPerOSD - 1
	began := time.Now()
	r.must(r.write(m, first, last, c, map[int]func(){10: r.killAll}))
	r.Logf("%d files and as many blocks were written while all OSDs were killed and started: %v", filesPerOSD,
		time.Since(began).Round(time.Millisecond))
	first, last = last+1, last+filesPerOSD
	err := r.write(m, first, last, c, map[int]func(){25: func() {
		m.Kill()
		r.must(r.attach.Kill())
		r.killAll()
		r.must(r.attach.Start())
	}})
	if !errors.Is(err, ErrEnded) {
		r.Fatalf("the machine lives on after kill -9: %v", err)
	}
	r.healthy()
	raw := r.path("clone.raw")
	r.img("convert", "-f", "raw", "-O", "raw", r.attach.Drive("clone"), raw)
	r.check(r.replayed(raw), c, blocksOf(first, last))

	r.img("compare", "-f", "raw", "-F", "raw", r.path("s1.raw"), r.attach.Drive("disk@s1"))
	r.vitastor("flatten", "clone")
	r.img("compare", "-f", "raw", "-F", "raw", raw, r.attach.Drive("clone"))
}

// killAll ends all OSDs at once, as a power failure of the cluster would, and
// starts them again.
func (r *rig) killAll() {
	for _, n := range r.c.OSDNumbers() {
		r.must(r.c.OSD(n).Kill())
	}
	for _, n := range r.c.OSDNumbers() {
		r.must(r.c.OSD(n).Start())
	}
}

// healthy waits until no OSD is missing.
func (r *rig) healthy() {
	r.Helper()
	r.must(r.c.WaitState(replicated, "active", 30*time.Second))
	r.must(r.c.WaitState(coded, "active", 30*time.Second))
}

// partition copies the ext4 out of an exported disk.
func (r *rig) partition(raw string) string {
	r.Helper()
	in, err := os.Open(raw)
	r.must(err)
	defer in.Close()
	out, err := os.Create(raw + ".ext4")
	r.must(err)
	_, err = io.Copy(out, io.NewSectionReader(in, PartitionAt, diskBytes-PartitionAt))
	r.must(errors.Join(err, out.Close()))
	return out.Name()
}

// replayed is the ext4 of a disk that was not unmounted, after replay of its
// journal.
func (r *rig) replayed(raw string) string {
	r.Helper()
	ext4 := r.partition(raw)
	// Exit code 1 = corrected.
	var code *exec.ExitError
	err := command(r.dir, machine.Sbin("e2fsck"), "-p", ext4)
	if errors.As(err, &code) && code.ExitCode() == 1 {
		err = nil
	}
	r.must(err)
	return ext4
}

// check compares an exported ext4 with what the machine told. The unsure blocks
// may have been written without that it could tell.
func (r *rig) check(ext4 string, c contents, unsure map[int]bool) {
	r.Helper()
	r.must(command(r.dir, machine.Sbin("e2fsck"), "-fn", ext4))
	out := ext4 + ".files"
	r.must(os.MkdirAll(out, 0o755))
	r.must(command(r.dir, machine.Sbin("debugfs"), "-R", "rdump /data "+out, ext4))
	for name, want := range c {
		if !strings.HasPrefix(name, "f") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(out, "data", name))
		r.must(err)
		if got := hash(data); got != want {
			r.Errorf("%s of %s has the hash %s, the machine wrote %s", name, ext4, got, want)
		}
	}
	blocks, err := os.ReadFile(filepath.Join(out, "data", "blocks"))
	r.must(err)
	if len(blocks) != blocksBytes {
		r.Fatalf("%s: the file of blocks has %d bytes instead of %d", ext4, len(blocks), blocksBytes)
	}
	for i := range blocksBytes / blockBytes {
		part := func(b []byte) string { return hash(b[i*blockBytes:][:blockBytes]) }
		want := c[fmt.Sprintf("blocks:%d", i)]
		if want == "" && unsure[i] {
			continue
		}
		if want == "" {
			want = part(r.golden)
		}
		if got := part(blocks); got != want {
			r.Errorf("block %d of %s has the hash %s instead of %s", i, ext4, got, want)
		}
	}
	r.Logf("%s: %d files and %d overwritten blocks are as the machine wrote them", filepath.Base(ext4), c.files(), len(c)-c.files())
}

// blocksOf are those that init.sh overwrites with files first to last.
func blocksOf(first, last int) map[int]bool {
	all := map[int]bool{}
	for i := first; i <= last; i++ {
		all[i*53%(blocksBytes/blockBytes)] = true
	}
	return all
}

func hash(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// files counts those of contents.
func (c contents) files() (n int) {
	for name := range c {
		if strings.HasPrefix(name, "f") {
			n++
		}
	}
	return n
}
