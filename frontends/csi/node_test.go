package csi

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// TestFileSystems: a volume with a file system through its life on a node.
func TestFileSystems(t *testing.T) {
	needLoop(t)
	for fsType, size := range map[string]int64{"ext4": 64 * mib, "xfs": 320 * mib} {
		t.Run(fsType, func(t *testing.T) {
			b := newBench(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go b.config.Attachers[0].(*loopFiles).follow(ctx)
			c := mountCapability(singleNodeWriter, fsType)
			v := b.volume("v", size, nil)
			for range 2 {
				b.must(b.stage("v", c))
				b.must(b.publish("v", "pod", c, false))
			}
			b.must(b.publish("v", "reader", c, true))
			b.must(os.WriteFile(b.path("pod/file"), []byte("hello"), 0o644))
			if err := os.WriteFile(b.path("reader/file"), nil, 0o644); err == nil {
				t.Error("a read-only mount was written to")
			}
			wantCode(t, b.publish("v", "reader", c, false), codes.AlreadyExists, "read-only")
			wantCode(t, b.unstage("v"), codes.FailedPrecondition, "still used", b.path("pod"), b.path("reader"))
			b.must(b.stage("v", c)) // what unstage has unmounted
			if growable := fsType != "ext4" || mayGrowExt4(t); growable {
				b.grow(v, "pod", size, 2*size)
			}
			wantCode(t, b.stage("v", mountCapability(multiNodeReader, fsType)), codes.AlreadyExists, "in another way")
			b.must(b.unpublish("v", "reader"))
			b.must(b.unpublish("v", "pod"))
			for range 2 {
				b.must(b.unpublish("v", "pod"))
				b.must(b.unstage("v"))
			}
			b.rig.cli(t, "modify", b.prefix+"v", "--resize", fmt.Sprint(3*size)) // while it is not attached
			readers := mountCapability(multiNodeReader, fsType)
			b.must(b.stage("v", readers))
			b.must(b.publish("v", "pod", readers, false))
			if text, err := os.ReadFile(b.path("pod/file")); string(text) != "hello" || b.at("pod") != fsType+" ro" || b.at("staged") != fsType+" ro" {
				t.Errorf("%q, %v, %s", text, err, b.at("pod"))
			}
			wantCode(t, b.stage("v", c), codes.AlreadyExists, "read-only")
			b.must(b.unpublish("v", "pod"))
			b.must(b.unstage("v"))
			b.must(b.stage("v", c))
			if total := b.total("staged"); total < 5*size/2 && (fsType != "ext4" || mayGrowExt4(t)) {
				t.Errorf("%d bytes: the file system has not grown", total)
			}
			b.must(b.unstage("v"))
			b.deleteVolume(v)
			b.wantClean()
		})
	}
}

// mayGrowExt4 tells whether we have CAP_SYS_RESOURCE, which the kernel demands
// of those who enlarge a mounted ext4. Containers may lack it; nodes of
// Kubernetes, where the driver is privileged, do not.
func mayGrowExt4(t *testing.T) bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "CapEff:")
	caps, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const sysResource = 24
	if caps&(1<<sysResource) == 0 {
		t.Log("enlarging ext4 is not tested here: the kernel demands CAP_SYS_RESOURCE, which we do not have")
		return false
	}
	return true
}

// grow expands a volume that is in use.
func (b *bench) grow(id, target string, from, to int64) {
	b.Helper()
	if total := b.total(target); total > from {
		b.Errorf("%d bytes", total)
	}
	expand := &spec.NodeExpandVolumeRequest{VolumeId: id, VolumePath: b.path(target), CapacityRange: &spec.CapacityRange{RequiredBytes: to}}
	_, err := b.node.NodeExpandVolume(b.context(), expand)
	wantCode(b.T, err, codes.OutOfRange, "ControllerExpandVolume")
	_, err = b.controller.ControllerExpandVolume(b.context(), &spec.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &spec.CapacityRange{RequiredBytes: to}})
	b.must(err)
	for range 2 {
		r, err := b.node.NodeExpandVolume(b.context(), expand)
		if err != nil || r.GetCapacityBytes() != to {
			b.Errorf("%v, %v", r, err)
		}
	}
	if total := b.total(target); total <= from || total > to {
		b.Errorf("%d bytes after growing to %d", total, to)
	}
}

// total is the size that statistics tell.
func (b *bench) total(target string) int64 {
	b.Helper()
	r, err := b.node.NodeGetVolumeStats(b.context(), &spec.NodeGetVolumeStatsRequest{VolumeId: b.id("v"), VolumePath: b.path(target)})
	b.must(err)
	if u := r.GetUsage(); len(u) > 1 && (u[0].GetAvailable() <= 0 || u[0].GetUsed() <= 0 || u[1].GetTotal() <= 0) {
		b.Errorf("%v", u)
	}
	return r.GetUsage()[0].GetTotal()
}

// TestBlocks: a raw volume, also for several pods and nodes.
func TestBlocks(t *testing.T) {
	needLoop(t)
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go b.config.Attachers[0].(*loopFiles).follow(ctx)
	c := blockCapability(multiNodeMultiWriter)
	v := b.volume("v", small, nil)
	wantCode(t, b.publish("v", "pods/a", c, false), codes.FailedPrecondition, "staged first")
	b.must(b.stage("v", c))
	for range 2 {
		b.must(b.publish("v", "pods/a", c, false))
		b.must(b.publish("v", "pods/b", c, false))
	}
	f, err := os.OpenFile(b.path("pods/a"), os.O_WRONLY, 0)
	b.must(err)
	_, err = f.WriteAt([]byte("hello"), 4096)
	b.must(err)
	b.must(f.Close())
	text := make([]byte, 5)
	f, err = os.Open(b.path("pods/b"))
	b.must(err)
	if _, err := f.ReadAt(text, 4096); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	f.Close()
	b.grow(v, "pods/a", small, large)
	wantCode(t, b.unstage("v"), codes.FailedPrecondition, "pods/a", "pods/b")
	b.must(b.unpublish("v", "pods/a"))
	b.must(b.unpublish("v", "pods/b"))
	single := blockCapability(singleNodeSingleWriter)
	b.must(b.publish("v", "pods/a", single, false))
	b.must(b.publish("v", "pods/a", single, false))
	wantCode(t, b.publish("v", "pods/b", single, false), codes.FailedPrecondition, "pods/a", "no second pod")
	b.must(b.unpublish("v", "pods/a"))
	b.must(b.unstage("v"))
	b.deleteVolume(v)
	b.wantClean()
}

// TestWrongContent: nothing that is on a volume is ever formatted over.
func TestWrongContent(t *testing.T) {
	needLoop(t)
	b := newBench(t)
	v := b.volume("v", 320*mib, nil)
	b.must(b.stage("v", mountCapability(singleNodeWriter, "xfs")))
	b.must(b.unstage("v"))
	wantCode(t, b.stage("v", mountCapability(singleNodeWriter, "ext4")), codes.FailedPrecondition, "has the file system xfs", "not overwritten")
	if got := b.devices(); got != "0 devices, 0 files" {
		t.Errorf("after a failure: %s", got)
	}
	block := blockCapability(singleNodeWriter)
	for what, make := range map[string][]string{"partitions": {"sh", "-c", `wipefs -qa "$0" && printf 'label: gpt\n,\n' | sfdisk -q --no-reread "$0"`},
		"swap": {"sh", "-c", `dd if=/dev/zero of="$0" bs=1M count=2 conv=notrunc status=none && wipefs -qa "$0" && mkswap -q "$0"`}} {
		b.must(b.stage("v", block))
		b.must(b.publish("v", "pod", block, false))
		if out, err := exec.Command(make[0], append(make[1:], b.path("pod"))...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", what, err, out)
		}
		b.must(b.unpublish("v", "pod"))
		b.must(b.unstage("v"))
		wantCode(t, b.stage("v", mountCapability(singleNodeWriter, "")), codes.FailedPrecondition, what)
	}
	wantCode(t, b.stage("nono", block), codes.NotFound, "no image")
	w := b.volume("w", small, nil)
	wantCode(t, b.stage("w", mountCapability(multiNodeReader, "")), codes.FailedPrecondition, "no file system")
	b.deleteVolume(w)
	b.deleteVolume(v)
	b.wantClean()
}

// TestUnfinishedXFS: mkfs.xfs that was killed is begun again.
func TestUnfinishedXFS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	sb := make([]byte, 4096)
	copy(sb, "XFSB")
	for _, inProgress := range []byte{1, 0} {
		sb[126] = inProgress
		if err := os.WriteFile(file, sb, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := xfsUnfinished(file); got != (inProgress == 1) {
			t.Errorf("%d: %v", inProgress, got)
		}
	}
	if xfsUnfinished(file + "x") {
		t.Error("a file that is not there")
	}
}

// TestNodeInfo tells the node, and how many volumes it takes.
func TestNodeInfo(t *testing.T) {
	b := newBench(t)
	r, err := b.node.NodeGetInfo(b.context(), &spec.NodeGetInfoRequest{})
	usable := (&loopFiles{}).Usable(b.context()) == nil
	if err != nil || r.GetNodeId() != "node1" || usable && r.GetMaxVolumesPerNode() != 8 {
		t.Errorf("%v, %v", r, err)
	}
	b.driver.node.maxGiven = 5
	if r, err = b.node.NodeGetInfo(b.context(), &spec.NodeGetInfoRequest{}); err != nil || r.GetMaxVolumesPerNode() != 5 {
		t.Errorf("%v, %v", r, err)
	}
	info, err := b.identity.GetPluginInfo(b.context(), &spec.GetPluginInfoRequest{})
	if err != nil || info.GetName() != DriverName || info.GetVendorVersion() != Version {
		t.Errorf("%v, %v", info, err)
	}
}

// TestSocket: what a dead driver has left is replaced, other files are not.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o644)
	for endpoint, want := range map[string]string{"unix://" + file: "is no socket", "x": "use unix://", "http://a": "use unix://", "unix:///nowhere/s": "no such file", "tcp://nowhere.invalid:x": "lookup"} {
		if _, err := listen(endpoint); err == nil || !strings.Contains(err.Error(), want) && want != "lookup" {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	for _, endpoint := range []string{"unix://" + dir + "/s", "unix:" + dir + "/s", "tcp://127.0.0.1:0"} {
		l, err := listen(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if u, is := l.(interface{ SetUnlinkOnClose(bool) }); is {
			u.SetUnlinkOnClose(false)
		}
		l.Close()
	}
}
