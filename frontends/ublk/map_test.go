package ublk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/ublk/ublkproto"
	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
)

const mib = 1 << 20

// rig is a real cluster, and a kernel that is not.
type rig struct {
	*testing.T
	c *cluster.Cluster
	k *fakeKernel
}

// TestMap runs the program on a cluster of real processes.
func TestMap(t *testing.T) {
	t.Setenv("VITASTOR_RUN_DIR", filepath.Join(t.TempDir(), "run"))
	c := startCluster(t)
	for _, test := range []struct {
		name string
		f    func(*rig)
	}{
		{"life of a device", (*rig).life},
		{"killed", (*rig).killed},
		{"signals", (*rig).signals},
		{"caches", (*rig).caches},
		{"it cannot be started", (*rig).notStarted},
		{"stuck", (*rig).stuck},
		{"mistakes", (*rig).mistakes},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &rig{t, c, newFakeKernel(t)}
			r.k.commands[os.Getpid()] = []string{"/usr/bin/vitastor-ublk", "map", "--image", "image1", "--logfile", "x"}
			test.f(r)
		})
	}
}

func startCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-ublk-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	programs, err := cluster.Build(filepath.Join(dir, "bin"))
	must(err)
	c, err := cluster.New(cluster.Config{Dir: dir, Bin: programs, EmbeddedEtcd: true, OSDs: 2, Log: t.Logf})
	must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs(20))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	must(c.Start())
	must(c.CreatePool(1, cluster.Replicated("testpool", 2, 8)))
	must(c.CreatePool(2, cluster.Replicated("cached", 2, 8).With("immediate_commit", "none")))
	for i := range uint64(2) {
		must(c.CreateImage(1, i+1, fmt.Sprintf("image%d", i+1), 32*mib))
	}
	must(c.CreateImage(2, 1, "cached", 32*mib))
	return c
}

// running is the program in this process.
type running struct {
	r       *rig
	out     output
	errs    output
	signals chan os.Signal
	code    chan int
}

// output may be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) { o.mu.Lock(); defer o.mu.Unlock(); return o.b.Write(b) }
func (o *output) String() string              { o.mu.Lock(); defer o.mu.Unlock(); return o.b.String() }

func (r *rig) start(args ...string) *running {
	p := &running{r: r, signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	tool := &Tool{Out: &p.out, Err: &p.errs, Kernel: r.k, Signals: p.signals, Patience: 50 * time.Millisecond}
	if args[0] == "map" {
		args = append(args, "--config_path", r.c.ConfigFile(), "--foreground", "1")
	}
	go func() { p.code <- tool.Main(args) }()
	return p
}

// serving waits for the device.
func (p *running) serving(device string) *fakeDevice {
	p.r.Helper()
	p.r.until(func() error {
		select {
		case code := <-p.code:
			p.r.Fatalf("exit %d: %s", code, p.errs.String())
		default:
		}
		if p.out.String() != device+"\n" {
			return fmt.Errorf("%q is printed", p.out.String())
		}
		return nil
	})
	n, _ := deviceNumber(device)
	return p.r.k.devices[n]
}

func (p *running) exits(want int, text string) {
	p.r.Helper()
	select {
	case code := <-p.code:
		if code != want || !strings.Contains(p.errs.String(), text) {
			p.r.Errorf("exit %d, want %d with %q: %s", code, want, text, p.errs.String())
		}
	case <-time.After(30 * time.Second):
		p.r.Fatalf("it does not end: %s", p.errs.String())
	}
}

// run is start for what ends by itself.
func (r *rig) run(want int, text string, args ...string) string {
	r.Helper()
	p := r.start(args...)
	p.exits(want, text)
	return p.out.String()
}

func (r *rig) until(f func() error) {
	r.Helper()
	if err := r.c.Until("it", 20*time.Second, f); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) list() map[string]map[string]any {
	r.Helper()
	var m map[string]map[string]any
	if err := json.Unmarshal([]byte(r.run(0, "", "ls", "--json")), &m); err != nil {
		r.Fatal(err)
	}
	return m
}

func (r *rig) crash(d *fakeDevice) {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	d.channel.crash()
}

// life: map, requests, resize, ls, unmap.
func (r *rig) life() {
	r.k.features |= ublkproto.SizeUpdates
	pidfile := filepath.Join(r.TempDir(), "pid")
	p := r.start("map", "--image", "image1", "--queues", "2", "--queue_depth", "16", "--max_io_size", "256k", "--hdd", "--pidfile", pidfile)
	d := p.serving("/dev/ublkb0")
	if r.k.looks != lookAfter {
		r.Error("the driver will not notice that we are dead")
	}
	if d.info.Queues != 2 || d.info.Depth != 16 || d.info.RequestBytes != 256<<10 || d.params.Attributes != ublkproto.Rotational ||
		d.params.Sectors != 32*mib/512 || d.info.Flags&ublkproto.UserRecoveryReissue == 0 {
		r.Errorf("%+v %+v", d.info, *d.params)
	}
	if pid, err := os.ReadFile(pidfile); string(pid) != strconv.Itoa(os.Getpid()) {
		r.Errorf("pidfile %q, %v", pid, err)
	}
	data := bytes.Repeat([]byte("ublk"), 64<<10)
	d.write(r.T, 4096, data, ublkproto.RequestFUA)
	if got := d.read(r.T, 4096, len(data)); !bytes.Equal(got, data) {
		r.Error("something else is read")
	}
	want := fmt.Sprintf("map[/dev/ublkb0:map[image:image1 logfile:x pid:%d]]", os.Getpid())
	if got := fmt.Sprint(r.list()); got != want {
		r.Errorf("%s, want %s", got, want)
	}
	if text := r.run(0, "", "list"); text != fmt.Sprintf("/dev/ublkb0\nimage: image1\nlogfile: x\npid: %d\n\n", os.Getpid()) {
		r.Errorf("%q", text)
	}
	if err := r.c.PutJSON(r.c.Keys.InodeConfig(meta.MakeInode(1, 1)), map[string]any{"name": "image1", "size": 40 * mib}); err != nil {
		r.Fatal(err)
	}
	r.until(func() error {
		r.k.mu.Lock()
		defer r.k.mu.Unlock()
		if d.params.Sectors != 40*mib/512 {
			return fmt.Errorf("%d sectors", d.params.Sectors)
		}
		return nil
	})
	r.k.inUse[0] = true
	r.run(1, "is in use", "unmap", "/dev/ublkb0")
	r.k.features |= ublkproto.SafeStop
	r.k.inUse[0] = false
	r.run(0, "", "unmap", "--wait", "1", "--image", "image1")
	p.exits(0, "")
	if _, err := os.Stat(pidfile); len(r.k.devices) != 0 || !os.IsNotExist(err) || len(r.list()) != 0 {
		r.Errorf("%v is left, %v", r.k.devices, err)
	}
	if files, _ := filepath.Glob(filepath.Join(daemon.StateDir(), "*")); len(files) != 0 {
		r.Errorf("%q are left", files)
	}
}

// killed: requests wait for the next server.
func (r *rig) killed() {
	p := r.start("map", "/dev/ublkb5", "--image", "image2")
	d := p.serving("/dev/ublkb5")
	r.run(1, "is served by process", "map", "5", "--image", "image2")
	data := bytes.Repeat([]byte{5}, 8192)
	d.write(r.T, 0, data, 0)
	r.crash(d)
	late := make([]byte, 8192)
	io := d.begin(ublkproto.Request{Op: ublkproto.OpRead, Bytes: 8192}, late)
	if got := fmt.Sprint(r.list()); got != "map[/dev/ublkb5:map[dead:true last_image:image2]]" {
		r.Error(got)
	}
	r.run(1, "is not mapped here", "unmap", "--image", "image1")
	r.run(1, "has no server: map it with --recover", "map", "5", "--image", "image1")
	r.run(1, "made for another image", "map", "--recover", "5", "--image", "image1")
	r.run(1, "has no device without a server", "map", "--recover", "--image", "image1")
	// Another cluster may have an image of this name.
	path := daemon.StatePath(stateKind, "ublkb5")
	text, err := os.ReadFile(path)
	foreign := bytes.Replace(text, []byte(`"cluster":"/vitastor@`), []byte(`"cluster":"/other@`), 1)
	if err != nil || bytes.Equal(text, foreign) {
		r.Fatalf("%v: %s", err, text)
	}
	os.WriteFile(path, foreign, 0o644)
	r.run(1, "belongs to another cluster", "map", "5", "--image", "image2")
	r.run(1, "belongs to another cluster", "map", "--recover", "5")
	os.WriteFile(path, text, 0o644)
	r.k.slow = 2
	second := r.start("map", "--image", "image2") // finds it
	second.serving("/dev/ublkb5")
	if n, e := io.wait(r.T); n != 8192 || e != 0 || !bytes.Equal(late, data) {
		r.Errorf("%d, %v", n, e)
	}
	// What it serves is in the state file.
	r.crash(d)
	third := r.start("map", "--recover", "/dev/ublkb5")
	third.serving("/dev/ublkb5")
	r.k.commands[os.Getpid()] = []string{"vitastor-ublk", "map", "--recover", "/dev/ublkb5"}
	if m := r.list()["/dev/ublkb5"]; m["image"] != "image2" || m["dev_num"] != 5.0 {
		r.Errorf("%v", m)
	}
	// One of the reference has no mark.
	r.crash(d)
	d.info.Mark = 0
	fourth := r.start("map", "--recover", "5", "--image", "image2")
	fourth.serving("/dev/ublkb5")
	r.run(0, "", "unmap", "5")
	fourth.exits(0, "")
	// The others do not know that they are dead.
	for _, p := range []*running{p, second, third} {
		p.signals <- syscall.SIGTERM
		p.exits(0, "waits for its next server")
	}
}

func (r *rig) signals() {
	p := r.start("map", "--image", "image1")
	d := p.serving("/dev/ublkb0")
	p.signals <- syscall.SIGTERM
	p.exits(0, "waits for its next server")
	if d.info.State != ublkproto.Quiesced {
		r.Errorf("state %d", d.info.State)
	}
	p = r.start("map", "--image", "image1")
	p.serving("/dev/ublkb0")
	r.k.inUse[0] = true
	p.signals <- syscall.SIGINT
	p.exits(0, "waits for its next server")
	p = r.start("map", "--image", "image1")
	p.serving("/dev/ublkb0")
	r.k.inUse[0] = false
	p.signals <- syscall.SIGINT
	p.exits(0, "")
	if len(r.k.devices) != 0 {
		r.Error("the device is left")
	}
}

// caches: when the kernel has to flush, and what that has to do with recovery.
func (r *rig) caches() {
	p := r.start("map", "--image", "cached", "--size=0")
	p.exits(1, "use either --image")
	p = r.start("map", "--image", "cached")
	d := p.serving("/dev/ublkb0")
	if want := ublkproto.VolatileCache | ublkproto.FUA; d.params.Attributes != want {
		r.Errorf("attributes %#x, want %#x", d.params.Attributes, want)
	}
	d.write(r.T, 0, make([]byte, 4096), 0)
	if _, e := d.begin(ublkproto.Request{Op: ublkproto.OpFlush}, nil).wait(r.T); e != 0 {
		r.Error(e)
	}
	d.write(r.T, 0, make([]byte, 4096), 0)
	r.crash(d)
	second := r.start("map", "--image", "cached")
	second.serving("/dev/ublkb0")
	r.run(0, "", "unmap", "0")
	second.exits(0, "")
	p.signals <- syscall.SIGTERM
	p.exits(0, "")
	// With write-back, a dead server must not be replaced.
	p = r.start("map", "--image", "image1", "--client_writeback_allowed", "true", "--readonly")
	d = p.serving("/dev/ublkb0")
	if want := ublkproto.VolatileCache | ublkproto.FUA | ublkproto.ReadOnly; d.params.Attributes != want || d.info.Flags&ublkproto.UserRecovery != 0 {
		r.Errorf("attributes %#x, want %#x, flags %#x", d.params.Attributes, want, d.info.Flags)
	}
	p.signals <- syscall.SIGTERM
	p.exits(0, "")
	if len(r.k.devices) != 0 {
		r.Error("a device that nobody can serve is left")
	}
}

func (r *rig) notStarted() {
	r.k.failOpen = errors.New("no ring")
	r.run(1, "no ring", "map", "--image", "image1")
	if len(r.k.devices) != 0 {
		r.Errorf("%v is left", r.k.devices)
	}
	r.k.failOpen = nil
	// A signal while the kernel reads the table of partitions.
	r.k.hold = make(chan struct{})
	p := r.start("map", "--image", "image1")
	r.until(func() error {
		r.k.mu.Lock()
		defer r.k.mu.Unlock()
		if d := r.k.devices[0]; d == nil || d.info.State != ublkproto.Live {
			return errors.New("it does not start")
		}
		return nil
	})
	p.signals <- syscall.SIGINT
	d := r.k.devices[0]
	r.until(func() error {
		if _, e := d.begin(ublkproto.Request{Op: ublkproto.OpRead, Bytes: 512}, make([]byte, 512)).wait(r.T); e != syscall.EIO {
			return errors.New("requests do not fail")
		}
		return nil
	})
	close(r.k.hold)
	p.exits(1, "stopped")
	if len(r.k.devices) != 0 {
		r.Errorf("%v is left", r.k.devices)
	}
	// Somebody has added a device, and did not start it.
	control, err := newControl(r.k)
	if err == nil {
		_, err = control.add(ublkproto.DevInfo{Queues: 1, Depth: 1, RequestBytes: 4096})
	}
	if err != nil {
		r.Fatal(err)
	}
	r.run(1, "was not started", "map", "0", "--image", "image1")
	r.run(0, "", "unmap", "0")
}

// stuck: a cluster that does not answer, and unmap --force.
func (r *rig) stuck() {
	p := r.start("map", "--image", "image1")
	d := p.serving("/dev/ublkb0")
	for n := range meta.OSDNum(2) {
		if err := r.c.OSD(n + 1).Freeze(); err != nil {
			r.Fatal(err)
		}
	}
	io := d.begin(ublkproto.Request{Op: ublkproto.OpWrite, Bytes: 512}, make([]byte, 512))
	r.until(func() error { // the server has it, not the queue
		if d.k.mu.Lock(); len(d.pending) > 0 {
			d.k.mu.Unlock()
			return errors.New("nobody takes the request")
		}
		d.k.mu.Unlock()
		return nil
	})
	waits := r.start("unmap", "0")
	r.until(func() error {
		if !strings.Contains(waits.errs.String(), "gives them up") {
			return fmt.Errorf("only this is said: %s", waits.errs.String())
		}
		return nil
	})
	r.run(0, "", "unmap", "--force", "0")
	waits.exits(0, "")
	if _, e := io.wait(r.T); e != syscall.EIO || len(r.k.killed) != 1 {
		r.Errorf("%v, killed %v", e, r.k.killed)
	}
	// Nothing is begun while the image cannot be read.
	late := r.start("map", "--image", "image2")
	time.Sleep(100 * time.Millisecond)
	late.signals <- syscall.SIGINT
	late.exits(1, "stopped")
	if len(r.k.devices) != 0 {
		r.Errorf("%v is left", r.k.devices)
	}
	for n := range meta.OSDNum(2) {
		if err := r.c.OSD(n + 1).Thaw(); err != nil {
			r.Fatal(err)
		}
	}
	p.signals <- syscall.SIGTERM
	p.exits(0, "")
}

func (r *rig) mistakes() {
	for _, c := range []struct{ want, args string }{
		{"image nothing does not exist", "map --image nothing"},
		{"which image?", "map"},
		{"which image?", "map --recover 7"},
		{"is not a ublk device", "map /dev/sda --image image1"},
		{"max_io_size 102400: a power of two", "map --image image1 --max_io_size 100k"},
		{"queues 40000: at least 1", "map --image image1 --queues 40000"},
		{"/dev/ublkb7 does not exist", "map --recover 7 --image image1"},
		{"/dev/ublkb7 does not exist", "unmap 7"},
		{"which device?", "unmap"},
		{"unexpected argument", "unmap 7 8"},
		{"did you mean --etcd_address", "map --image image1 --etcd_adress x"},
	} {
		r.run(1, c.want, strings.Fields(c.args)...)
	}
	for _, args := range []string{"--help", "help", "map --help"} {
		if out := r.run(0, "", append(strings.Fields(args), "--all")...); !strings.Contains(out, "--recover") {
			r.Errorf("%s: %q", args, out)
		}
	}
	r.k.noModule = true
	r.run(1, "no module", "map", "--image", "image1")
	if r.list() == nil {
		r.Error("ls does not work without the module")
	}
}
