package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// fault says what happens at one step of a driver, which is one program that it
// runs.
type fault int

const (
	killedBefore fault = iota // the driver is killed before the step
	killedAfter               // the step is done, and then the driver is killed
	stepFails                 // the step fails, and the driver lives
	faults
)

func (f fault) String() string { return [...]string{"killed before", "killed after", "failure of"}[f] }

var errKilled = errors.New("the driver was killed")

// faultyRunner runs programs until the step. A driver that was killed does
// nothing any more.
type faultyRunner struct {
	Runner
	at   int // from 1
	kind fault

	mu   sync.Mutex
	step int
	what string // the step, when it was reached
}

func (r *faultyRunner) Run(ctx context.Context, c Command) (Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step++
	switch {
	case r.step > r.at && r.kind != stepFails:
		return Result{}, errKilled
	case r.step != r.at:
		return r.Runner.Run(ctx, c)
	}
	r.what = c.String()
	switch r.kind {
	case stepFails:
		return Result{Err: "made to fail", Code: 5}, nil
	case killedAfter:
		r.Runner.Run(ctx, c)
	}
	return Result{}, errKilled
}

// scenario is a call that is killed at every step.
type scenario struct {
	name string
	// prepare returns the call, what must be so after it, and what ends it all.
	prepare func(b *bench) (call func() error, check func() string, cleanUp func())
	// undo is the call that an orchestrator may make instead of repeating the
	// first one; after it, and cleanUp, nothing may be left. nil = there is none.
	undo func(b *bench) error
}

// check compares text.
func check(what, got, want string) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%s: %q, want %q", what, got, want)
}

const (
	small = 16 * mib
	large = 32 * mib
)

// controllerScenarios are about images.
var controllerScenarios = []scenario{
	{name: "create", prepare: func(b *bench) (func() error, func() string, func()) {
		return func() error {
				_, err := b.controller.CreateVolume(b.context(), b.request("v", small, nil))
				return err
			}, func() string { return check("images", b.images(), "v") },
			func() { b.deleteVolume(b.id("v")) }
	}, undo: func(b *bench) error { return b.tryDelete("v") }},

	{name: "restore", prepare: func(b *bench) (func() error, func() string, func()) {
		s := b.snapshot(b.prefix+"s", b.volume("v", small, nil))
		return func() error {
				_, err := b.controller.CreateVolume(b.context(), b.request("w", large, fromSnapshot(s)))
				return err
			}, func() string {
				return check("images", b.images(), b.relative("v<v@S v@S w<v@S"))
			}, func() { b.deleteVolume(b.id("w")); b.deleteSnapshot(s); b.deleteVolume(b.id("v")) }
	}, undo: func(b *bench) error { return b.tryDelete("w") }},

	{name: "clone", prepare: func(b *bench) (func() error, func() string, func()) {
		v := b.volume("v", small, nil)
		return func() error {
				_, err := b.controller.CreateVolume(b.context(), b.request("w", small, fromVolume(v)))
				return err
			}, func() string {
				return check("images", b.images(), b.relative("v<v@C-w v@C-w w<v@C-w"))
			}, func() { b.deleteVolume(b.id("w")); b.deleteVolume(v) }
	}, undo: func(b *bench) error { return b.tryDelete("w") }},

	{name: "delete a clone", prepare: func(b *bench) (func() error, func() string, func()) {
		v := b.volume("v", small, nil)
		b.volume("w", small, fromVolume(v))
		return func() error { return b.tryDelete("w") },
			func() string { return check("images", b.images(), "v") },
			func() { b.deleteVolume(v) }
	}},

	{name: "delete the source of a clone", prepare: func(b *bench) (func() error, func() string, func()) {
		b.volume("w", small, fromVolume(b.volume("v", small, nil)))
		return func() error { return b.tryDelete("v") },
			func() string { return check("images", b.images(), b.relative("v@C-w w<v@C-w")) },
			func() { b.deleteVolume(b.id("w")) }
	}},

	{name: "snapshot", prepare: func(b *bench) (func() error, func() string, func()) {
		v := b.volume("v", small, nil)
		return func() error {
				_, err := b.controller.CreateSnapshot(b.context(), &spec.CreateSnapshotRequest{Name: b.prefix + "s", SourceVolumeId: v})
				return err
			}, func() string { return check("images", b.images(), b.relative("v<v@S v@S")) },
			func() { b.deleteSnapshot(b.snapshotID("v")); b.deleteVolume(v) }
	}},

	{name: "delete a snapshot with a clone", prepare: func(b *bench) (func() error, func() string, func()) {
		v := b.volume("v", small, nil)
		s := b.snapshot(b.prefix+"s", v)
		w := b.volume("w", small, fromSnapshot(s))
		return func() error {
				_, err := b.controller.DeleteSnapshot(b.context(), &spec.DeleteSnapshotRequest{SnapshotId: s})
				return err
			}, func() string { return check("images", b.images(), "v w") },
			func() { b.deleteVolume(v); b.deleteVolume(w) }
	}},

	{name: "expand", prepare: func(b *bench) (func() error, func() string, func()) {
		v := b.volume("v", small, nil)
		return func() error {
				_, err := b.controller.ControllerExpandVolume(b.context(), &spec.ControllerExpandVolumeRequest{VolumeId: v, CapacityRange: &spec.CapacityRange{RequiredBytes: large}})
				return err
			}, func() string {
				r, err := b.controller.ControllerGetVolume(b.context(), &spec.ControllerGetVolumeRequest{VolumeId: v})
				return check("size", fmt.Sprint(r.GetVolume().GetCapacityBytes(), err), fmt.Sprint(large, error(nil)))
			}, func() { b.deleteVolume(v) }
	}},
}

// id is that of a volume of this test.
func (b *bench) id(name string) string {
	return handle{ConfigPath: b.config.ConfigPath, Name: b.prefix + name}.String()
}

func (b *bench) snapshotID(volume string) string {
	return handle{ConfigPath: b.config.ConfigPath, Name: b.prefix + volume, Snapshot: b.prefix + "s"}.String()
}

// relative writes names of snapshots as they are: S is that of the test, C-x the
// one below clone x.
func (b *bench) relative(images string) string {
	return strings.NewReplacer("@S", "@"+b.prefix+"s", "@C-", "@"+cloneMark+b.prefix).Replace(images)
}

func (b *bench) tryDelete(name string) error {
	_, err := b.controller.DeleteVolume(b.context(), &spec.DeleteVolumeRequest{VolumeId: b.id(name)})
	return err
}

// staged is a volume of the test that can be staged and published.
func (b *bench) stage(name string, c *spec.VolumeCapability) error {
	_, err := b.node.NodeStageVolume(b.context(), &spec.NodeStageVolumeRequest{VolumeId: b.id(name), StagingTargetPath: b.path("staged"), VolumeCapability: c})
	return err
}

func (b *bench) unstage(name string) error {
	_, err := b.node.NodeUnstageVolume(b.context(), &spec.NodeUnstageVolumeRequest{VolumeId: b.id(name), StagingTargetPath: b.path("staged")})
	return err
}

func (b *bench) publish(name, target string, c *spec.VolumeCapability, readOnly bool) error {
	_, err := b.node.NodePublishVolume(b.context(), &spec.NodePublishVolumeRequest{VolumeId: b.id(name), StagingTargetPath: b.path("staged"),
		TargetPath: b.path(target), VolumeCapability: c, Readonly: readOnly})
	return err
}

func (b *bench) unpublish(name, target string) error {
	_, err := b.node.NodeUnpublishVolume(b.context(), &spec.NodeUnpublishVolumeRequest{VolumeId: b.id(name), TargetPath: b.path(target)})
	return err
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// at tells what is mounted on a path of the test.
func (b *bench) at(name string) string {
	m, err := mountAt(b.path(name))
	b.must(err)
	switch {
	case m == nil:
		return "nothing"
	case m.readOnly():
		return m.fsType + " ro"
	}
	return m.fsType
}

// attachments counts devices.
func (b *bench) devices() string {
	list, err := b.driver.node.attached(context.Background())
	b.must(err)
	files, _ := filepath.Glob(filepath.Join(b.config.StateDir, "*.json"))
	return fmt.Sprintf("%d devices, %d files", len(list), len(files))
}

func stageScenario(fsType string) scenario {
	c := mountCapability(singleNodeWriter, fsType)
	return scenario{name: "stage " + fsType, prepare: func(b *bench) (func() error, func() string, func()) {
		size := int64(small)
		if fsType == "xfs" {
			size = 320 * mib // the least that it takes
		}
		b.volume("v", size, nil)
		return func() error { return b.stage("v", c) },
			func() string {
				return check("mounted", b.at("staged")+", "+b.devices(), fsType+", 1 devices, 1 files")
			}, func() { b.must(b.unstage("v")); b.deleteVolume(b.id("v")) }
	}, undo: func(b *bench) error { return b.unstage("v") }}
}

// nodeScenarios are about devices and mounts.
var nodeScenarios = []scenario{
	stageScenario("ext4"), stageScenario("xfs"),

	{name: "stage a block volume", prepare: func(b *bench) (func() error, func() string, func()) {
		b.volume("v", small, nil)
		return func() error { return b.stage("v", blockCapability(multiNodeMultiWriter)) },
			func() string { return check("devices", b.devices(), "1 devices, 1 files") },
			func() { b.must(b.unstage("v")); b.deleteVolume(b.id("v")) }
	}, undo: func(b *bench) error { return b.unstage("v") }},

	{name: "publish read-only", prepare: func(b *bench) (func() error, func() string, func()) {
		c := mountCapability(singleNodeWriter, "")
		b.volume("v", small, nil)
		b.must(b.stage("v", c))
		return func() error { return b.publish("v", "pod", c, true) },
			func() string { return check("mounted", b.at("staged")+", "+b.at("pod"), "ext4, ext4 ro") },
			func() { b.must(b.unpublish("v", "pod")); b.must(b.unstage("v")); b.deleteVolume(b.id("v")) }
	}, undo: func(b *bench) error { return b.unpublish("v", "pod") }},

	{name: "publish a block volume", prepare: func(b *bench) (func() error, func() string, func()) {
		c := blockCapability(singleNodeWriter)
		b.volume("v", small, nil)
		b.must(b.stage("v", c))
		return func() error { return b.publish("v", "pod", c, false) },
			func() string {
				size, err := deviceBytes(b.path("pod"))
				return check("size", fmt.Sprint(size, err), fmt.Sprint(small, error(nil)))
			},
			func() { b.must(b.unpublish("v", "pod")); b.must(b.unstage("v")); b.deleteVolume(b.id("v")) }
	}, undo: func(b *bench) error { return b.unpublish("v", "pod") }},

	{name: "unpublish", prepare: func(b *bench) (func() error, func() string, func()) {
		c := mountCapability(singleNodeWriter, "")
		b.volume("v", small, nil)
		b.must(b.stage("v", c))
		b.must(b.publish("v", "pod", c, false))
		return func() error { return b.unpublish("v", "pod") },
			func() string {
				_, err := os.Stat(b.path("pod"))
				return check("target", fmt.Sprint(b.at("pod"), os.IsNotExist(err)), "nothingtrue")
			},
			func() { b.must(b.unstage("v")); b.deleteVolume(b.id("v")) }
	}},

	{name: "unstage", prepare: func(b *bench) (func() error, func() string, func()) {
		b.volume("v", small, nil)
		b.must(b.stage("v", mountCapability(singleNodeWriter, "")))
		return func() error { return b.unstage("v") },
			func() string { return check("left", b.at("staged")+", "+b.devices(), "nothing, 0 devices, 0 files") },
			func() { b.deleteVolume(b.id("v")) }
	}},
}

// TestKilled kills the driver at every step of every call, then either repeats
// the call or takes it back. The result is that of one call, and at the end
// nothing is left.
func TestKilled(t *testing.T) {
	for _, s := range controllerScenarios {
		t.Run(s.name, func(t *testing.T) { killEverywhere(t, s) })
	}
	for _, s := range nodeScenarios {
		t.Run(s.name, func(t *testing.T) {
			needLoop(t)
			killEverywhere(t, s)
		})
	}
}

// quick are the scenarios of every run, in which the driver is only killed after
// steps.
var quick = map[string]bool{"clone": true, "delete a clone": true, "stage ext4": true, "unstage": true}

// full tells whether tests that take minutes shall run.
func full() bool { return os.Getenv("VITASTOR_E2E") == "full" }

func killEverywhere(t *testing.T, s scenario) {
	if !full() && !quick[s.name] {
		t.Skip("kills every call at every step, which takes minutes: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
	b, points := newBench(t), 0
	for kind := range faults {
		if !full() && kind != killedAfter {
			continue
		}
		for at := 1; ; at++ {
			what := killAt(b, s, at, kind, false)
			if what == "" {
				break
			}
			points++
			if s.undo != nil && full() {
				killAt(b, s, at, kind, true)
			}
		}
	}
	if points < 1 {
		b.Errorf("only %d points", points)
	}
	b.Logf("%d points", points)
}

// killAt returns the step, "" if the call has not so many.
func killAt(b *bench, s scenario, at int, kind fault, undo bool) string {
	b.Helper()
	call, want, cleanUp := s.prepare(b)
	f := &faultyRunner{Runner: b.run, at: at, kind: kind}
	b.restart(f)
	err := call()
	b.restart(b.run)
	where := fmt.Sprintf("%v step %d (%s)", kind, at, f.what)
	switch {
	case f.what == "" && err != nil:
		b.Fatalf("without a fault: %v", err)
	case f.what != "" && kind != stepFails && err == nil && !strings.HasPrefix(f.what, "resize2fs") && !strings.HasPrefix(f.what, "xfs_growfs"): // not fatal
		b.Fatalf("%s: no error", where)
	case undo:
		if err := s.undo(b); err != nil {
			b.Fatalf("%s: taking it back: %v", where, err)
		}
	default:
		if err := call(); err != nil {
			b.Fatalf("%s: repeated: %v", where, err)
		}
		if wrong := want(); wrong != "" {
			b.Fatalf("%s: repeated: %s", where, wrong)
		}
	}
	cleanUp()
	b.wantClean()
	return f.what
}
