package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
)

const (
	fullEnv   = "VITASTOR_E2E"             // "full" = run
	moduleEnv = "VITASTOR_E2E_QEMU_MODULE" // path of block-vitastor.so: the test runs with it too
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
// image is snapshotted and exported. Another machine does the same on a clone in
// another pool until it is killed itself.
func TestMachine(t *testing.T) {
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("boots machines: runs with %s=full, as in make test-integrations", fullEnv)
	}
	need(t, QEMU, "qemu-system-x86", "qemu-img", "qemu-utils", sbin("mke2fs"), "e2fsprogs", sbin("debugfs"), "e2fsprogs",
		"as", "binutils", "ld", "binutils")
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	guest, err := Packages(filepath.Join(root, "tmp", "guest"))
	if errors.Is(err, ErrNoPackages) && os.Getenv("CI") == "" {
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
	ways := map[string]func(*cluster.Cluster) (*Attach, error){
		"nbd": func(c *cluster.Cluster) (*Attach, error) { return ServeNBD(c, filepath.Join(programs, "vitastor-nbd")) },
	}
	if module := os.Getenv(moduleEnv); module != "" {
		ways["module"] = func(c *cluster.Cluster) (*Attach, error) { return Module(c, module), nil }
	} else {
		t.Logf("only with vitastor-nbd: %s does not name a block-vitastor.so", moduleEnv)
	}
	for name, attach := range ways {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, bin, filepath.Join(programs, "vitastor-cli"), attach)
			r.importDisk(guest)
			written := r.firstMachine()
			r.secondMachine(written)
		})
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
	// Volatile caches: what the machine syncs must be synced all the way down.
	r.c, err = cluster.New(cluster.Config{Dir: dir, Bin: bin, Lazy: true, Log: t.Logf})
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
		4:  func() { r.must(r.c.OSD(n).Kill()) },
		12: func() { r.must(r.c.OSD(n).Start()) },
	}
}

// firstMachine writes on the image itself, and tells what.
func (r *rig) firstMachine() contents {
	c := contents{}
	m := r.boot("disk")
	for n := meta.OSDNum(1); n <= 3; n++ {
		began := time.Now()
		last := int(n) * 10
		r.must(r.write(m, last-9, last, c, r.during(n)))
		r.Logf("10 files and 10 blocks were written while OSD %d was killed: %v", n, time.Since(began).Round(time.Millisecond))
		r.healthy()
	}
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
	r.check(r.path("s1.raw"), c, nil)
	return c
}

// secondMachine writes on a clone of what the first one has written, and loses
// its power.
func (r *rig) secondMachine(c contents) {
	r.vitastor("create", "--parent", "disk@s1", "--pool", "clones", "clone")
	m := r.boot("clone")
	r.must(r.write(m, 41, 50, c, r.during(2)))
	err := r.write(m, 51, 60, c, map[int]func(){9: m.Kill})
	if !errors.Is(err, ErrEnded) {
		r.Fatalf("the machine lives on after kill -9: %v", err)
	}
	r.healthy()
	raw := r.path("clone.raw")
	r.img("convert", "-f", "raw", "-O", "raw", r.attach.Drive("clone"), raw)
	// The journal is replayed: exit code 1 = corrected.
	var code *exec.ExitError
	fsck := command(r.dir, sbin("e2fsck"), "-p", partition(raw))
	if errors.As(fsck, &code) && code.ExitCode() == 1 {
		fsck = nil
	}
	r.must(fsck)
	unsure := map[int]bool{}
	for i := 51; i <= 60; i++ {
		unsure[block(i)] = true
	}
	r.check(raw, c, unsure)

	r.img("compare", "-f", "raw", "-F", "raw", r.path("s1.raw"), r.attach.Drive("disk@s1"))
	r.img("convert", "-f", "raw", "-O", "raw", r.attach.Drive("clone"), r.path("before.raw"))
	r.vitastor("flatten", "clone")
	r.img("compare", "-f", "raw", "-F", "raw", r.path("before.raw"), r.attach.Drive("clone"))
}

// healthy waits until no OSD is missing.
func (r *rig) healthy() {
	r.Helper()
	r.must(r.c.WaitState(replicated, "active", 30*time.Second))
	r.must(r.c.WaitState(coded, "active", 30*time.Second))
}

// partition is the ext4 on a disk, as e2fsprogs names it.
func partition(raw string) string { return fmt.Sprintf("%s?offset=%d", raw, PartitionAt) }

// check compares an exported disk with what the machine told. The unsure blocks
// may have been written without that it could tell.
func (r *rig) check(raw string, c contents, unsure map[int]bool) {
	r.Helper()
	r.must(command(r.dir, sbin("e2fsck"), "-fn", partition(raw)))
	out := raw + ".files"
	r.must(os.MkdirAll(out, 0o755))
	r.must(command(r.dir, sbin("debugfs"), "-R", "rdump /data "+out, partition(raw)))
	for name, want := range c {
		if !strings.HasPrefix(name, "f") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(out, "data", name))
		r.must(err)
		if got := hash(data); got != want {
			r.Errorf("%s of %s has the hash %s, the machine wrote %s", name, raw, got, want)
		}
	}
	blocks, err := os.ReadFile(filepath.Join(out, "data", "blocks"))
	r.must(err)
	if len(blocks) != blocksBytes {
		r.Fatalf("%s: the file of blocks has %d bytes instead of %d", raw, len(blocks), blocksBytes)
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
			r.Errorf("block %d of %s has the hash %s instead of %s", i, raw, got, want)
		}
	}
	r.Logf("%s: %d files and %d overwritten blocks are as the machine wrote them", filepath.Base(raw), c.files(), len(c)-c.files())
}

// block is the one that init.sh overwrites with file i.
func block(i int) int { return i * 53 % (blocksBytes / blockBytes) }

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
