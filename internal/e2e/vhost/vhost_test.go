package vhost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/machine"
	"vitastor/internal/e2e/vhost/frontend"
	"vitastor/internal/e2e/vm"
	"vitastor/internal/meta"
)

const (
	fullEnv   = "VITASTOR_E2E" // "full" = run
	diskBytes = 96 << 20
)

// rig is a cluster with an image that boots.
type rig struct {
	*testing.T
	dir     string
	c       *cluster.Cluster
	image   string
	program string
	guest   *guest
	wrote   map[string]string // hashes that the machine told after fsync
	files   int
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// TestQEMU is the life of a machine.
func TestQEMU(t *testing.T) {
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("boots machines: runs with %s=full, as in make test-integrations", fullEnv)
	}
	for _, c := range []struct {
		name, device string
		reboot       bool
	}{
		{"split", "", true},
		{"packed", ",packed=on,num-queues=2,queue-size=256", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.life(c.device, c.reboot)
		})
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOf(t, "disk")
}

// newRigOf makes a cluster with one image.
func newRigOf(t *testing.T, image string) *rig {
	t.Helper()
	need(t, "qemu-system-x86_64", "qemu-system-x86", machine.Sbin("mke2fs"), "e2fsprogs", "as", "binutils", "xz", "xz-utils")
	// Paths of unix sockets may not be long.
	dir, err := os.MkdirTemp("/dev/shm", "vhost-")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, dir: dir, image: image, program: filepath.Join(dir, "vitastor-vhost"), wrote: map[string]string{}}
	t.Cleanup(func() { os.RemoveAll(dir) })
	packages, err := vm.Packages(machine.CacheDir())
	if errors.Is(err, machine.ErrNoPackages) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	r.must(err)
	bin, err := cluster.Build(dir)
	r.must(err)
	root, err := cluster.Root()
	r.must(err)
	build := exec.Command("go", "build", "-o", dir+"/", "./frontends/vhost/vitastor-vhost")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.c, err = cluster.New(cluster.Config{Dir: filepath.Join(dir, "c"), Bin: bin, Log: t.Logf})
	if errors.Is(err, cluster.ErrNoEtcd) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	r.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.c.Logs(10))
		}
		if err := r.c.Close(); err != nil {
			t.Error(err)
		}
	})
	r.must(r.c.Start())
	r.must(r.c.CreatePool(1, cluster.Replicated("vms", 2, 8)))
	r.must(r.c.CreateImage(1, 1, image, diskBytes))
	r.guest = newGuest(t, dir)
	r.importDisk(packages)
	return r
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

// serve starts a back-end and waits until it listens.
func (r *rig) serve(socket string) *exec.Cmd {
	r.Helper()
	log, err := os.OpenFile(socket+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	r.must(err)
	defer log.Close()
	cmd := exec.Command(r.program, "serve", "--image", r.image, "--socket", socket, "--config_path", r.c.ConfigFile())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	r.must(err)
	r.must(cmd.Start())
	r.Cleanup(func() {
		cmd.Process.Kill()
		if b, _ := os.ReadFile(socket + ".log"); r.Failed() {
			r.Logf("%s", b)
		}
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		b, _ := os.ReadFile(socket + ".log")
		r.Fatalf("vitastor-vhost: %s", b)
	}
	go io.Copy(io.Discard, out)
	return cmd
}

// importDisk writes a disk that boots, with our own front-end.
func (r *rig) importDisk(g vm.Guest) {
	r.Helper()
	golden := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(golden)
	raw := filepath.Join(r.dir, "raw")
	r.must(vm.BuildDisk(raw, g, vm.Disk{Bytes: diskBytes, Files: map[string][]byte{"data/blocks": golden}}))
	in, err := os.Open(raw)
	r.must(err)
	defer in.Close()
	defer os.Remove(raw)
	socket := filepath.Join(r.dir, "import")
	cmd := r.serve(socket)
	f, err := frontend.Dial(socket, frontend.Options{Size: 16, SlotBytes: 1 << 20})
	r.must(err)
	r.must(f.Start())
	defer f.M.Free()
	q := f.Queue(0)
	for sector := uint64(0); sector < diskBytes/512; sector += 2048 {
		_, err := io.ReadFull(in, q.Data(0))
		r.must(err)
		if bytes.Count(q.Data(0), []byte{0}) == 1<<20 {
			continue
		}
		if status, err := q.Do(frontend.Out, sector, 1<<20); status != 0 || err != nil {
			r.Fatal(status, err)
		}
	}
	f.Close()
	r.must(cmd.Process.Signal(syscall.SIGTERM))
	r.must(cmd.Wait())
}

// write lets the machine write n files and as many blocks with fsync; at is
// called after the third.
func (r *rig) write(n int, at func()) {
	r.Helper()
	from := r.files + 1
	r.files += n
	lines := 0
	r.guest.do(fmt.Sprintf("write %d %d", from, r.files), func(line string) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "synced" {
			r.Fatalf("the machine says %q", line)
		}
		r.wrote[words[1]] = words[2]
		if lines++; lines == 3 && at != nil {
			at()
		}
	})
}

// reread compares what the machine reads from its disk with what it wrote.
func (r *rig) reread() {
	r.Helper()
	left := maps.Clone(r.wrote)
	maps.DeleteFunc(left, func(name, _ string) bool { return !strings.HasPrefix(name, "f") })
	r.guest.do("read", func(line string) {
		words := strings.Fields(line)
		if want := r.wrote[words[1]]; want != "" && words[2] != want {
			r.Errorf("the machine reads %s as %s, wrote %s", words[1], words[2], want)
		}
		delete(left, words[1])
	})
	if len(left) > 0 {
		r.Errorf("the machine does not see %d files", len(left))
	}
}

// life is what happens to a machine.
func (r *rig) life(device string, reboot bool) {
	g := r.guest
	first, second := filepath.Join(r.dir, "first"), filepath.Join(r.dir, "second")
	backend := r.serve(first)
	g.qemu = g.start("a", first, device, "")
	g.booted()
	r.write(8, nil)
	g.do("delete 1 2", func(string) {}) // and fstrim: discards
	delete(r.wrote, "f1")
	delete(r.wrote, "f2")
	r.reread()

	for range 2 { // killed while the machine writes
		r.write(8, func() {
			r.must(backend.Process.Kill())
			backend.Wait()
			time.Sleep(300 * time.Millisecond)
			backend = r.serve(first)
		})
	}
	r.reread()

	r.resize(g, diskBytes+(32<<20))

	if reboot {
		g.qmp(g.qemu, "system_reset", nil)
		g.booted()
		r.reread()
		r.write(4, nil)
	}

	// To another QEMU and another back-end, as on another host, while it writes.
	other := r.serve(second)
	incoming := filepath.Join(r.dir, "m")
	to := g.start("b", second, device, incoming)
	r.write(30, func() { g.migrate(to, incoming) })
	r.must(backend.Process.Signal(syscall.SIGTERM))
	r.must(backend.Wait())
	r.reread()
	g.halt()
	r.must(other.Process.Signal(syscall.SIGTERM))
	r.must(other.Wait())
}

// resize makes the image larger; the machine sees it without a reboot.
func (r *rig) resize(g *guest, bytes uint64) {
	r.Helper()
	r.must(r.c.PutJSON(r.c.Keys.InodeConfig(meta.MakeInode(1, 1)), map[string]any{"name": r.image, "size": bytes}))
	want := fmt.Sprintf("size %d", bytes/512)
	r.must(r.c.Until("the new size in the machine", 10*time.Second, func() (err error) {
		g.do("size", func(line string) {
			if line != want {
				err = fmt.Errorf("%s, want %s", line, want)
			}
		})
		return err
	}))
}
