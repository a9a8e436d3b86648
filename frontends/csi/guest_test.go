package csi

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// realEnv names the configuration of a cluster on a host whose kernel has VDUSE,
// ublk and NBD, and methodsEnv those which are tested, separated by commas.
// internal/e2e/guest runs this test in a virtual machine.
const (
	realEnv    = "VITASTOR_CSI_CONFIG"
	methodsEnv = "VITASTOR_CSI_METHODS"
)

// TestRealDevices: volumes with a file system and raw ones on the kernel's own
// devices, which grow while they are used and survive the death of their
// processes and of the driver.
func TestRealDevices(t *testing.T) {
	config := os.Getenv(realEnv)
	if config == "" {
		t.Skipf("needs kernel modules that are seldom there: internal/e2e/guest runs it in a machine, with %s", realEnv)
	}
	for method := range strings.SplitSeq(os.Getenv(methodsEnv), ",") {
		t.Run(method, func(t *testing.T) {
			b := prepareBench(t, filepath.Join(t.TempDir(), method))
			b.pool = "1"
			b.config.ConfigPath, b.config.CLI, b.config.Method = config, "vitastor-cli", method
			b.config.RestoreInterval = 500 * time.Millisecond
			b.config.Attachers = Programs(b.run, b.config.StateDir)
			b.start()
			realFileSystem(b)
			realBlocks(b)
			b.wantClean()
		})
	}
}

// revived kills the process of a device and waits until there is another one;
// work goes on meanwhile.
func (b *bench) revived(name string, work func()) {
	b.Helper()
	h := handleOf(b.config.ConfigPath, b.prefix+name)
	own, err := b.driver.node.attachments(context.Background(), h)
	if err != nil || len(own) != 1 {
		b.Fatalf("%v, %v", own, err)
	}
	p := b.driver.node.by(own[0].Method).(*program)
	pid := func() int {
		rows, err := p.rows(context.Background())
		b.must(err)
		n, _ := rows[own[0].Device]["pid"].(float64)
		return int(n)
	}
	old := pid()
	b.must(syscall.Kill(old, syscall.SIGKILL))
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	for end := time.Now().Add(3 * time.Minute); pid() == 0 || pid() == old; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("%s has no new process", own[0].Device)
		}
	}
	select {
	case <-done:
	case <-time.After(3 * time.Minute):
		b.Fatal("work does not go on")
	}
	b.Logf("process %d of %s was replaced by %d", old, own[0].Device, pid())
}

func realFileSystem(b *bench) {
	b.Helper()
	const size, grown = 64 * mib, 96 * mib
	c := mountCapability(singleNodeWriter, "ext4")
	b.volume("v", size, nil)
	b.must(b.stage("v", c))
	b.must(b.publish("v", "pod", c, false))
	one, two := bytes.Repeat([]byte("one "), mib), bytes.Repeat([]byte("two "), mib)
	b.write("pod/one", one)
	b.growReal("v", "pod", size, grown)
	b.revived("v", func() { b.write("pod/two", two) })
	b.restart(b.run)
	b.must(b.stage("v", c))
	b.must(b.publish("v", "pod", c, false))
	health, err := b.node.NodeGetVolumeHealth(b.context(), &spec.NodeGetVolumeHealthRequest{VolumeId: b.id("v")})
	if err != nil || len(health.GetVolumeHealth().GetHealthStatuses()) != 0 {
		b.Errorf("%v, %v", health, err)
	}
	b.must(b.unpublish("v", "pod"))
	b.must(b.unstage("v"))
	clone := b.volume("clone", grown, fromVolume(b.id("v")))
	for _, name := range []string{"v", "clone"} {
		b.use(name, func(dir string) {
			for file, want := range map[string][]byte{"one": one, "two": two} {
				if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !bytes.Equal(got, want) {
					b.Errorf("%s of %s: %d bytes, %v", file, name, len(got), err)
				}
			}
		})
	}
	b.must(b.stage("v", c))
	if total := b.total("staged"); total <= size {
		b.Errorf("%d bytes after growing", total)
	}
	b.must(b.unstage("v"))
	b.deleteVolume(clone)
	b.deleteVolume(b.id("v"))
}

// growReal expands a volume that is in use. ublk of Linux before 6.16 cannot: then
// it is said so, and the next staging does it.
func (b *bench) growReal(name, target string, from, to int64) {
	b.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	b.must(err)
	var major, minor int
	fmt.Sscanf(string(text), "%d.%d", &major, &minor)
	if b.config.Method != "ublk" || major*1000+minor >= 6016 {
		b.grow(b.id(name), target, from, to)
		return
	}
	_, err = b.controller.ControllerExpandVolume(b.context(), &spec.ControllerExpandVolumeRequest{VolumeId: b.id(name), CapacityRange: &spec.CapacityRange{RequiredBytes: to}})
	b.must(err)
	_, err = b.node.NodeExpandVolume(b.context(), &spec.NodeExpandVolumeRequest{VolumeId: b.id(name), VolumePath: b.path(target), CapacityRange: &spec.CapacityRange{RequiredBytes: to}})
	wantCode(b.T, err, codes.FailedPrecondition, "cannot enlarge it while it is used")
}

// write writes a file so that it is durable.
func (b *bench) write(name string, data []byte) {
	f, err := os.Create(b.path(name))
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		b.Error(err)
	}
}

func realBlocks(b *bench) {
	b.Helper()
	c := blockCapability(multiNodeMultiWriter)
	b.volume("v", small, nil)
	b.must(b.stage("v", c))
	b.must(b.publish("v", "raw", c, false))
	data := bytes.Repeat([]byte("raw "), mib)
	put := func(at int64) {
		f, err := os.OpenFile(b.path("raw"), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(data, at)
		}
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			b.Error(err)
		}
	}
	put(0)
	b.growReal("v", "raw", small, large)
	b.revived("v", func() { put(small / 2) })
	f, err := os.Open(b.path("raw"))
	b.must(err)
	for _, at := range []int64{0, small / 2} {
		got := make([]byte, len(data))
		if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, data) {
			b.Errorf("at %d: %v", at, err)
		}
	}
	b.must(f.Close())
	b.must(b.unpublish("v", "raw"))
	b.must(b.unstage("v"))
	r := mountCapability(multiNodeReader, "")
	if err := b.stage("v", r); err == nil || !strings.Contains(err.Error(), "no file system") {
		b.Errorf("what is no file system: %v", err)
	}
	if got := fmt.Sprint(b.devices()); got != "0 devices, 0 files" {
		b.Error(got)
	}
	b.deleteVolume(b.id("v"))
}
