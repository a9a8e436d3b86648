package csi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fuseDisks is a stand-in for kernels without VDUSE, ublk and NBD, with the real
// data of images:
//
//	image ── vitastor-nbd serve ── unix socket ── nbdfuse ── file ── loop device
type fuseDisks struct {
	loopFiles
	t       *testing.T
	program string // vitastor-nbd

	mu   sync.Mutex
	disk map[string]*fuseDisk // by device
}

type fuseDisk struct {
	Attachment
	server, fuse *exec.Cmd
	dir          string
}

func (f *fuseDisks) Attach(ctx context.Context, want Attachment) (Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := sha256.Sum256([]byte(want.Image))
	d := &fuseDisk{Attachment: want, dir: filepath.Join(f.dir, hex.EncodeToString(sum[:6]))}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return want, err
	}
	socket, file := d.dir+"/s", d.dir+"/disk"
	d.server = exec.Command(f.program, "serve", "--image", want.Image, "--config_path", want.ConfigPath, "--socket", socket)
	d.fuse = exec.Command("nbdfuse", file, "--unix", socket)
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return want, err
	}
	for _, step := range []struct {
		cmd   *exec.Cmd
		ready func() bool
	}{{d.server, func() bool { _, err := os.Stat(socket); return err == nil }},
		{d.fuse, func() bool { i, err := os.Stat(file); return err == nil && i.Size() > 0 }}} {
		step.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := step.cmd.Start(); err != nil {
			return want, err
		}
		for end := time.Now().Add(10 * time.Second); !step.ready(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				return want, fmt.Errorf("%v does not begin", step.cmd)
			}
		}
	}
	out, err := try(ctx, f.run, "losetup", "-f", "--show", file)
	d.Device = strings.TrimSpace(out)
	f.disk[d.Device] = d
	return d.Attachment, err
}

func (f *fuseDisks) List(context.Context, []Attachment) ([]Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []Attachment
	for _, d := range f.disk {
		list = append(list, d.Attachment)
	}
	return list, nil
}

func (f *fuseDisks) Detach(ctx context.Context, a Attachment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.disk[a.Device]
	if _, err := try(ctx, f.run, "losetup", "-d", a.Device); err != nil {
		return err
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := try(ctx, f.run, "umount", d.dir+"/disk")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	d.fuse.Wait()
	d.server.Process.Signal(syscall.SIGTERM)
	if err := d.server.Wait(); err != nil {
		f.t.Errorf("vitastor-nbd: %v", err)
	}
	delete(f.disk, a.Device)
	return nil
}

// TestData: files that a pod has written are there after the volume was moved,
// restored and cloned, and only as they were at that moment.
func TestData(t *testing.T) {
	needLoop(t)
	if !full() {
		t.Skip("needs nbdfuse and loop devices, and takes a minute: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
	if _, err := exec.LookPath("nbdfuse"); err != nil {
		t.Skipf("the stand-in for block devices needs nbdfuse: %v", err)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("the stand-in for block devices needs FUSE: %v", err)
	}
	b := newBench(t)
	b.conn.Close()
	b.driver.kill()
	<-b.serving
	disks := &fuseDisks{loopFiles: *b.config.Attachers[0].(*loopFiles), t: t, program: filepath.Join(b.rig.dir, "vitastor-nbd"), disk: map[string]*fuseDisk{}}
	b.config.Attachers = []Attacher{disks}
	b.start()
	one, two := make([]byte, 3*mib), make([]byte, 2*mib)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range one {
		one[i] = byte(random.Uint32())
	}
	copy(two, one[mib/2:])
	b.volume("v", 48*mib, nil)
	b.use("v", func(dir string) { b.must(os.WriteFile(dir+"/one", one, 0o644)) })
	s := b.snapshot(b.prefix+"s", b.id("v"))
	b.use("v", func(dir string) {
		b.must(os.WriteFile(dir+"/two", two, 0o644))
		b.must(os.Remove(dir + "/one"))
	})
	b.volume("clone", 64*mib, fromVolume(b.id("v")))
	b.volume("old", 48*mib, fromSnapshot(s))
	b.use("v", func(dir string) { b.must(os.Remove(dir + "/two")) })
	want := func(name string, files map[string][]byte) {
		t.Helper()
		b.use(name, func(dir string) {
			for _, file := range []string{"one", "two"} {
				got, err := os.ReadFile(dir + "/" + file)
				if content, there := files[file]; !there && !os.IsNotExist(err) || there && !bytes.Equal(got, content) {
					t.Errorf("%s/%s: %d bytes, %v", name, file, len(got), err)
				}
			}
		})
	}
	want("v", nil)
	want("clone", map[string][]byte{"two": two})
	want("old", map[string][]byte{"one": one})
	b.deleteVolume(b.id("v"))
	b.deleteSnapshot(s)
	want("clone", map[string][]byte{"two": two})
	want("old", map[string][]byte{"one": one})
	b.deleteVolume(b.id("clone"))
	b.deleteVolume(b.id("old"))
	b.wantClean()
}

// use stages and publishes a volume, and takes it away again.
func (b *bench) use(name string, f func(dir string)) {
	b.Helper()
	c := mountCapability(singleNodeWriter, "ext4")
	b.must(b.stage(name, c))
	b.must(b.publish(name, "pod", c, false))
	f(b.path("pod"))
	b.must(b.unpublish(name, "pod"))
	b.must(b.unstage(name))
}
