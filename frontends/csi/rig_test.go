package csi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"vitastor/internal/e2e/cluster"
)

// rig is one real cluster for all tests, with a pool 1 "rep" and a pool 2 "ec",
// and the programs that the driver runs.
type rig struct {
	*cluster.Cluster
	dir string
}

var shared struct {
	sync.Mutex
	rig *rig
	err error
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if r := shared.rig; r != nil {
		if err := r.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

func theRig(t *testing.T) *rig {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.rig == nil && shared.err == nil {
		shared.rig, shared.err = startRig()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.rig
}

func startRig() (*rig, error) {
	base := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "vitastor-csi-test-")
	if err != nil {
		return nil, err
	}
	shared.dir = dir
	bin, err := cluster.Build(dir)
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("go", "build", "-o", dir+"/", "../cli/vitastor-cli", "../nbd/vitastor-nbd").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	work := filepath.Join(dir, "cluster")
	if err := os.Mkdir(work, 0o755); err != nil {
		return nil, err
	}
	r := &rig{dir: dir}
	r.Cluster, err = cluster.New(cluster.Config{Dir: work, Bin: bin, EmbeddedEtcd: true, OSDBytes: 4 << 30,
		Global: map[string]any{"immediate_commit": "all", "client_wait_up_timeout": 3, "osd_out_time": 3600, "etcd_stats_interval": 1}})
	if err != nil {
		return nil, err
	}
	if err := r.Start(); err != nil {
		return r, fmt.Errorf("%w\n%s", err, r.Logs(20))
	}
	if err := r.CreatePool(1, cluster.Replicated("rep", 2, 4)); err != nil {
		return r, err
	}
	return r, r.CreatePool(2, cluster.EC("ec", 2, 1, 2))
}

// cli runs vitastor-cli, which must succeed.
func (r *rig) cli(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(r.dir, "vitastor-cli"), append([]string{"--config_path", r.ConfigFile(), "--progress", "0"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("vitastor-cli %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// bench is a driver with its own folders.
type bench struct {
	*testing.T
	rig     *rig
	dir     string
	config  Config
	run     Runner
	driver  *Driver
	conn    *grpc.ClientConn
	serving chan error
	log     *lockedBuffer

	identity   spec.IdentityClient
	controller spec.ControllerClient
	node       spec.NodeClient
	prefix     string // of volumes of this test
	pool       string
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

var benches atomic.Int64

// newBench makes a driver that attaches with stand-ins.
func newBench(t *testing.T) *bench {
	t.Helper()
	r := theRig(t)
	b := prepareBench(t, filepath.Join(r.dir, fmt.Sprintf("t%d", benches.Add(1))))
	b.rig, b.pool = r, "rep"
	b.config.ConfigPath, b.config.CLI = r.ConfigFile(), filepath.Join(r.dir, "vitastor-cli")
	b.config.Attachers = []Attacher{&loopFiles{run: b.run, images: images{b.run, b.config.CLI}, dir: filepath.Join(b.dir, "devices")}}
	b.start()
	return b
}

// prepareBench makes a driver, which is to be told about its cluster and how to
// attach before it is started.
func prepareBench(t *testing.T, dir string) *bench {
	t.Helper()
	b := &bench{T: t, dir: dir, prefix: filepath.Base(dir) + "-", log: &lockedBuffer{}}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.run = Exec{log}
	b.config = Config{Endpoint: "unix://" + b.dir + "/s", Node: "node1", StateDir: filepath.Join(b.dir, "state"), Run: b.run, Log: log}
	t.Cleanup(func() {
		if b.driver == nil {
			return
		}
		b.stop()
		if t.Failed() {
			t.Log(b.log)
			b.cleanHost()
		}
	})
	return b
}

// cleanHost takes away what a failed test has left on this host.
func (b *bench) cleanHost() {
	mounts, _ := readMounts()
	for i := range slices.Backward(mounts) {
		if strings.HasPrefix(mounts[i].target, b.dir) {
			exec.Command("umount", mounts[i].target).Run()
		}
	}
	devices, _ := b.driver.node.attached(context.Background())
	for i := range devices {
		b.driver.node.detach(context.Background(), &devices[i])
	}
}

// start runs the driver.
func (b *bench) start() {
	b.Helper()
	var err error
	if b.driver, err = New(b.config); err != nil {
		b.Fatal(err)
	}
	b.serving = make(chan error, 1)
	driver := b.driver
	go func() { b.serving <- driver.Serve() }()
	if b.conn, err = grpc.NewClient("unix:"+b.dir+"/s", grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		b.Fatal(err)
	}
	b.identity, b.controller, b.node = spec.NewIdentityClient(b.conn), spec.NewControllerClient(b.conn), spec.NewNodeClient(b.conn)
}

func (b *bench) stop() {
	b.Helper()
	b.conn.Close()
	b.driver.Stop()
	if err := <-b.serving; err != nil {
		b.Error(err)
	}
}

// restart ends the driver at once, and begins anew with another Runner.
func (b *bench) restart(run Runner) {
	b.Helper()
	b.conn.Close()
	b.driver.kill()
	<-b.serving
	b.config.Run = run
	if l, is := b.config.Attachers[0].(*loopFiles); is {
		l.run = run
	}
	b.start()
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	b.Cleanup(cancel)
	return ctx
}

// must fails the test.
func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// wantCode compares the code of an error, and what it says.
func wantCode(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("want %v: %v", code, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is missing: %v", w, err)
		}
	}
}

func mountCapability(mode mode, fsType string) *spec.VolumeCapability {
	return &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{FsType: fsType}}}
}

func blockCapability(mode mode) *spec.VolumeCapability {
	return &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}}
}

// request is a volume of this test.
func (b *bench) request(name string, bytes int64, source *spec.VolumeContentSource) *spec.CreateVolumeRequest {
	return &spec.CreateVolumeRequest{Name: name, CapacityRange: &spec.CapacityRange{RequiredBytes: bytes},
		VolumeCapabilities:  []*spec.VolumeCapability{mountCapability(singleNodeWriter, "")},
		Parameters:          map[string]string{"poolId": b.pool, "volumePrefix": b.prefix},
		VolumeContentSource: source}
}

// volume creates one and returns its id.
func (b *bench) volume(name string, bytes int64, source *spec.VolumeContentSource) string {
	b.Helper()
	r, err := b.controller.CreateVolume(b.context(), b.request(name, bytes, source))
	b.must(err)
	return r.GetVolume().GetVolumeId()
}

func (b *bench) deleteVolume(id string) {
	b.Helper()
	_, err := b.controller.DeleteVolume(b.context(), &spec.DeleteVolumeRequest{VolumeId: id})
	b.must(err)
}

func (b *bench) deleteSnapshot(id string) {
	b.Helper()
	_, err := b.controller.DeleteSnapshot(b.context(), &spec.DeleteSnapshotRequest{SnapshotId: id})
	b.must(err)
}

func (b *bench) snapshot(name, volume string) string {
	b.Helper()
	r, err := b.controller.CreateSnapshot(b.context(), &spec.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
	b.must(err)
	return r.GetSnapshot().GetSnapshotId()
}

func fromSnapshot(id string) *spec.VolumeContentSource {
	return &spec.VolumeContentSource{Type: &spec.VolumeContentSource_Snapshot{Snapshot: &spec.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *spec.VolumeContentSource {
	return &spec.VolumeContentSource{Type: &spec.VolumeContentSource_Volume{Volume: &spec.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// images are the names of all images of this test, with their parents.
func (b *bench) images() string {
	b.Helper()
	list, err := images{Exec{slog.New(slog.DiscardHandler)}, b.config.CLI}.list(context.Background(), b.config.ConfigPath)
	b.must(err)
	var out []string
	for _, i := range list {
		if strings.HasPrefix(i.Name, b.prefix) {
			line := strings.TrimPrefix(i.Name, b.prefix)
			if i.Parent != "" {
				line += "<" + strings.TrimPrefix(i.Parent, b.prefix)
			}
			if i.Deleted {
				line += " deleted"
			}
			out = append(out, line)
		}
	}
	return strings.Join(sorted(out), " ")
}

// leftovers is everything that a test has to have cleaned up.
func (b *bench) leftovers() string {
	b.Helper()
	var out []string
	if i := b.images(); i != "" {
		out = append(out, "images: "+i)
	}
	mounts, err := readMounts()
	b.must(err)
	for _, m := range mounts {
		if strings.HasPrefix(m.target, b.dir) {
			out = append(out, "mount: "+m.target)
		}
	}
	devices, err := b.driver.node.attached(context.Background())
	b.must(err)
	for _, d := range devices {
		out = append(out, "device: "+d.Device+" of "+d.Image)
	}
	files, _ := filepath.Glob(filepath.Join(b.config.StateDir, "*.json*"))
	return strings.Join(append(out, files...), "\n")
}

func (b *bench) wantClean() {
	b.Helper()
	if left := b.leftovers(); left != "" {
		b.Fatalf("left behind:\n%s", left)
	}
}

// loopFiles is a stand-in for kernels without VDUSE, ublk and NBD: an image "is
// attached" as a loop device on a file of its own, with the size of the image
// but not its data. Nothing but the files and the kernel knows what is attached,
// as with the real ones.
type loopFiles struct {
	run    Runner
	images images
	dir    string
}

func (l *loopFiles) Method() string { return "loop" }
func (l *loopFiles) Max() int64     { return 8 }

func (l *loopFiles) Usable(context.Context) error {
	if os.Getuid() != 0 {
		return fmt.Errorf("loop devices need root")
	}
	_, err := os.Stat("/dev/loop-control")
	return err
}

func (l *loopFiles) file(a *Attachment) string {
	return filepath.Join(l.dir, url.PathEscape(a.ConfigPath+"|"+a.Image)+map[bool]string{true: ".ro", false: ".rw"}[a.ReadOnly])
}

func (l *loopFiles) Attach(ctx context.Context, want Attachment) (Attachment, error) {
	i, err := l.images.find(ctx, handleOf(want.ConfigPath, want.Image))
	if err != nil || i == nil {
		return want, fmt.Errorf("image %s: %v, %w", want.Image, i, err)
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return want, err
	}
	other := want
	other.ReadOnly = !want.ReadOnly
	os.Rename(l.file(&other), l.file(&want)) // the same data in both ways
	f, err := os.OpenFile(l.file(&want), os.O_CREATE|os.O_RDWR, 0o644)
	if err == nil {
		err = f.Truncate(int64(i.Size))
		f.Close()
	}
	if err != nil {
		return want, err
	}
	args := []string{"-f", "--show", l.file(&want)}
	if want.ReadOnly {
		args = append([]string{"-r"}, args...)
	}
	out, err := try(ctx, l.run, "losetup", args...)
	want.Device = strings.TrimSpace(out)
	return want, err
}

func (l *loopFiles) List(context.Context, []Attachment) ([]Attachment, error) {
	var list []Attachment
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range backing {
		text, err := os.ReadFile(path)
		name, is := strings.CutPrefix(strings.TrimSpace(string(text)), l.dir+"/")
		if err != nil || !is {
			continue
		}
		what, err := url.PathUnescape(name[:len(name)-3])
		if err != nil {
			return nil, err
		}
		config, image, _ := strings.Cut(what, "|")
		list = append(list, Attachment{Device: "/dev/" + strings.Split(path, "/")[3], ConfigPath: config, Image: image, ReadOnly: strings.HasSuffix(name, ".ro")})
	}
	return list, nil
}

func (l *loopFiles) Revive(context.Context, Attachment) error { return fmt.Errorf("nothing is dead") }

func (l *loopFiles) Detach(ctx context.Context, a Attachment) error {
	_, err := try(ctx, l.run, "losetup", "-d", a.Device)
	return err
}

// follow gives devices the size of their images, as serving processes do.
func (l *loopFiles) follow(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		list, _ := l.List(ctx, nil)
		for i := range list {
			a := &list[i]
			file, err := os.Stat(l.file(a))
			image, e := l.images.find(ctx, handleOf(a.ConfigPath, a.Image))
			if err == nil && e == nil && image != nil && uint64(file.Size()) < image.Size {
				os.Truncate(l.file(a), int64(image.Size))
				exec.Command("losetup", "-c", a.Device).Run()
			}
		}
	}
}

// needLoop skips tests that cannot run, and says why.
func needLoop(t *testing.T) {
	t.Helper()
	if err := (&loopFiles{}).Usable(context.Background()); err != nil {
		t.Skipf("the stand-in for block devices does not work here: %v", err)
	}
}
