package vduse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/internal/e2e/cluster"
)

const mib = 1 << 20

// rig is a real cluster and the fake kernel.
type rig struct {
	*host
	c *cluster.Cluster
}

// TestTool runs the commands on a cluster of real processes.
func TestTool(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-vduse-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	h := newHost(t, driverConfig{})
	programs, err := cluster.Build(filepath.Join(dir, "bin"))
	h.must(err)
	c, err := cluster.New(cluster.Config{Dir: dir, Bin: programs, Lazy: true, Log: t.Logf})
	if errors.Is(err, cluster.ErrNoEtcd) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	h.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs(20))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	h.must(c.Start())
	h.must(c.CreatePool(1, cluster.Replicated("testpool", 2, 16)))
	h.must(c.CreateImage(1, 1, "group/image1", 16*mib))
	h.must(c.CreateImage(1, 2, "image2", 16*mib))
	for _, test := range []struct {
		name string
		f    func(*rig)
	}{
		{"map and unmap", (*rig).mapped},
		{"take over", (*rig).takenOver},
		{"dead", (*rig).dead},
		{"taken names", (*rig).taken},
		{"mistakes", (*rig).mistakes},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.f(&rig{newHost(t, driverConfig{}), c})
		})
	}
}

// tool is a command that runs in this process.
type tool struct {
	*rig
	out, errs logged
	signals   chan os.Signal
	code      chan int
}

func (r *rig) start(args ...string) *tool {
	t := &tool{rig: r, signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	if args[0] == "map" {
		args = append(args, "--foreground", "1", "--config_path", r.c.ConfigFile())
	}
	go func() { t.code <- (&Tool{Out: &t.out, Err: &t.errs, Kernel: r.k, Signals: t.signals}).Main(args) }()
	return t
}

// ready waits for the block device.
func (t *tool) ready() string {
	t.Helper()
	t.until("a block device", func() bool {
		select {
		case code := <-t.code:
			t.Fatalf("exit %d: %s", code, t.errs.String())
		default:
		}
		return strings.HasSuffix(t.out.String(), "\n")
	})
	return strings.TrimSpace(t.out.String())
}

func (t *tool) ended(want int) string {
	t.Helper()
	select {
	case code := <-t.code:
		if code != want {
			t.Errorf("exit %d: %s", code, t.errs.String())
		}
	case <-time.After(waitLimit):
		t.Fatal("it does not end")
	}
	return t.errs.String()
}

// run runs a command to its end.
func (r *rig) run(want int, args ...string) (out, errs string) {
	r.Helper()
	t := r.start(args...)
	t.ended(want)
	return t.out.String(), t.errs.String()
}

// listed is what ls --json says of a device.
func (r *rig) listed(device string) map[string]any {
	r.Helper()
	out, _ := r.run(0, "ls", "--json")
	all := map[string]map[string]any{}
	r.must(json.Unmarshal([]byte(out), &all))
	return all[device]
}

func (r *rig) clean() {
	r.Helper()
	left, err := os.ReadDir(daemon.StateDir())
	if err != nil || len(left) != 0 || len(r.k.devices) != 0 {
		r.Errorf("left: %v, %d devices (%v)", left, len(r.k.devices), err)
	}
}

func (r *rig) queue(name string) *driverQueue { return r.k.device(name).driver.queues[0] }

// mapped: requests reach the cluster; a resize reaches the driver.
func (r *rig) mapped() {
	pidfile := filepath.Join(r.TempDir(), "pid")
	m := r.start("map", "--image", "group/image1", "--num-queues", "3", "--queue-size", "64", "--pidfile", pidfile)
	const name = "group_image1"
	if got := m.ready(); got != "/dev/vd-"+name {
		r.Fatalf("%q is printed", got)
	}
	d := r.k.device(name)
	if pid, _ := os.ReadFile(pidfile); string(pid) != fmt.Sprint(os.Getpid()) || len(d.queues) != 3 || d.queues[2].sizeMax != 64 {
		r.Errorf("pid file %q, %d queues", pid, len(d.queues))
	}
	data := bytes.Repeat([]byte("vduse"), 1639)[:8192]
	r.queue(name).write(r, 1, data)
	r.queue(name).start(blkFlush, 0, nil, 0).wait(r)
	if got := d.driver.queues[2].read(r, 1, 8192); !bytes.Equal(got, data) {
		r.Error("what was written is not read")
	}
	if got := r.listed("/dev/vd-" + name); got["image"] != "group/image1" || got["name"] != name || got["pid"] != float64(os.Getpid()) || got["dead"] != nil {
		r.Errorf("ls: %v", got)
	}
	if out, _ := r.run(0, "ls"); !strings.Contains(out, "/dev/vd-"+name+"\nimage: group/image1\ninterface: vduse\n") {
		r.Errorf("ls: %q", out)
	}
	r.must(r.c.CreateImage(1, 1, "group/image1", 20*mib))
	r.until("the new size", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.changes == 1
	})
	// Somebody uses it: only --force helps, or SIGINT later.
	r.k.use("/dev/vd-"+name, "it is mounted")
	if _, errs := r.run(1, "unmap", name); !strings.Contains(errs, "/dev/vd-"+name+" is in use: it is mounted") {
		r.Error(errs)
	}
	r.k.use("/dev/vd-"+name, "")
	m.signals <- syscall.SIGINT
	m.ended(0)
	if _, err := os.Stat(pidfile); err == nil {
		r.Error("the pid file stays")
	}
	r.clean()
	// Read-only, on another name.
	m = r.start("map", "--image", "image2", "--readonly", "--name", "b")
	m.ready()
	if f := r.k.device("b").offered; f&(1<<5) == 0 || f&(1<<34) != 0 {
		r.Errorf("features %#x", f)
	}
	if err := <-r.queue("b").start(blkOut, 0, data, 0).result; err == nil {
		r.Error("a read-only device is written")
	}
	r.must(r.k.Detach("b")) // by hand
	if got := r.listed("/dev/vduse/b"); got["image"] != "image2" || got["readonly"] != true {
		r.Errorf("ls: %v", got)
	}
	m.signals <- syscall.SIGTERM
	m.ended(0)
	r.clean()
}

// takenOver: a device outlives its server.
func (r *rig) takenOver() {
	m := r.start("map", "--image", "image2", "--packed", "--log_level", "3")
	device := m.ready()
	if r.k.device("image2").offered&(1<<34) == 0 {
		r.Error("packed rings are not offered")
	}
	data := bytes.Repeat([]byte{9}, 4096)
	r.queue("image2").write(r, 0, data)
	m.signals <- syscall.SIGTERM
	m.ended(0)
	if !strings.Contains(m.errs.String(), "map --recover image2") {
		r.Errorf("log: %s", m.errs.String())
	}
	if got := r.listed(device); got["dead"] != true || got["last_image"] != "image2" || got["image"] != nil || got["pid"] != nil {
		r.Errorf("ls: %v", got)
	}
	waiting := r.queue("image2").start(blkIn, 0, nil, 4096)
	for _, args := range [][]string{{"--recover", "image2"}, {"--image", "image2"}} {
		m = r.start(append([]string{"map"}, args...)...)
		if got := m.ready(); got != device {
			r.Errorf("%q is printed", got)
		}
		if waiting != nil && !bytes.Equal(waiting.wait(r), data) {
			r.Error("what was written is not read")
		}
		waiting = nil
		if got := r.listed(device); got["image"] != "image2" || got["dead"] != nil {
			r.Errorf("ls: %v", got)
		}
		r.k.use(device, "it is mounted")
		m.signals <- syscall.SIGINT
		m.ended(0)
	}
	// Another image must not become the device's.
	for _, args := range [][]string{{"--image", "group/image1", "--name", "image2"}, {"--image", "image2", "--readonly"}} {
		if _, errs := r.run(1, append([]string{"map"}, args...)...); !strings.Contains(errs, "image2, whose server") {
			r.Error(errs)
		}
	}
	var s state
	path := daemon.StatePath(kind, "image2")
	text, err := os.ReadFile(path)
	foreign := bytes.Replace(text, []byte(`"cluster":"/vitastor@`), []byte(`"cluster":"/other@`), 1)
	os.WriteFile(path, foreign, 0o644)
	if _, errs := r.run(1, "map", "--image", "image2"); bytes.Equal(text, foreign) || !strings.Contains(errs, "of another cluster (/other@") {
		r.Error(errs, string(text))
	}
	os.WriteFile(path, text, 0o644)
	if err := errors.Join(err, json.Unmarshal(text, &s)); err != nil || string(s.Options["log_level"]) != `"3"` {
		r.Errorf("%v: %s", err, text)
	}
	r.k.use(device, "")
	r.run(0, "unmap", device)
	r.clean()
}

// dead: a device without a server is removed; its requests get errors.
func (r *rig) dead() {
	m := r.start("map", "--image", "image2", "--name", "x")
	m.ready()
	m.signals <- syscall.SIGTERM
	m.ended(0)
	lost := r.queue("x").start(blkIn, 0, nil, 4096)
	r.k.use("/dev/vd-x", "process 5 has it open")
	if _, errs := r.run(1, "unmap", "x"); !strings.Contains(errs, "process 5") {
		r.Error(errs)
	}
	r.run(0, "unmap", "--force", "--image", "image2")
	if err := <-lost.result; err == nil {
		r.Error("a request to a device without a server succeeds")
	}
	r.clean()
	// Without a journal nobody knows about requests.
	m = r.start("map", "--image", "image2", "--name", "x")
	m.ready()
	m.signals <- syscall.SIGTERM
	m.ended(0)
	r.must(os.Remove(journalPath("x")))
	if _, errs := r.run(1, "map", "--recover", "x"); !strings.Contains(errs, "no journal") || !strings.Contains(errs, "unmap --force x") {
		r.Error(errs)
	}
	r.run(0, "unmap", "--force", "x")
	r.clean()
	if _, errs := r.run(1, "map", "--recover", "x"); !strings.Contains(errs, "nothing is known about a device x") {
		r.Error(errs)
	}
}

// taken: names of others.
func (r *rig) taken() {
	m := r.start("map", "--image", "image2", "--name", "x")
	m.ready()
	for _, image := range []string{"image2", "group/image1"} {
		if _, errs := r.run(1, "map", "--image", image, "--name", "x"); !strings.Contains(errs, "serves image image2 as /dev/vd-x") {
			r.Error(errs)
		}
	}
	second := r.start("map", "--image", "image2", "--name", "y")
	second.ready()
	if _, errs := r.run(1, "unmap", "--image", "image2"); !strings.Contains(errs, "unmap one of x, y") {
		r.Error(errs)
	}
	second.signals <- syscall.SIGINT
	second.ended(0)
	m.signals <- syscall.SIGINT
	m.ended(0)
	// A device of another program: served, and forgotten.
	h := *r.host
	foreign := h.create()
	if _, errs := r.run(1, "unmap", deviceName); !strings.Contains(errs, "nothing is known") {
		r.Error(errs)
	}
	foreign.journal.file.Close() // nobody has the lock; its memory stays
	os.Remove(journalPath(deviceName))
	if _, errs := r.run(1, "unmap", "--force", deviceName); !strings.Contains(errs, "busy") {
		r.Error(errs)
	}
	if left, _ := os.ReadDir(daemon.StateDir()); len(left) != 0 {
		r.Errorf("left: %v", left)
	}
	h.must(h.k.Detach(deviceName))
	if _, errs := r.run(1, "map", "--image", "image2", "--name", deviceName); !strings.Contains(errs, "the name disk is taken") {
		r.Error(errs)
	}
	foreign.handle.Close()
	m = r.start("map", "--image", "image2", "--name", deviceName)
	m.ready()
	m.signals <- syscall.SIGINT
	m.ended(0)
	r.clean()
}

// mistakes of command lines, and of hosts.
func (r *rig) mistakes() {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"map"}, "which image?"},
		{[]string{"map", "/dev/vda", "--image", "image2"}, "the kernel chooses"},
		{[]string{"map", "--image", "nothing"}, "image nothing does not exist"},
		{[]string{"map", "--image", "image2", "--name", "a/b"}, `"a/b" cannot be the name`},
		{[]string{"map", "--image", "image2", "--num_queues", "65"}, "between 1 and 64"},
		{[]string{"map", "--image", "image2", "--num_queues", "many"}, "a number is expected"},
		{[]string{"map", "--image", "image2", "--queue_size", "100"}, "a power of two"},
		{[]string{"map", "--image", "image2", "--nonsense", "1"}, "nonsense"},
		{[]string{"map", "--recover", "x", "--image", "image2"}, "does not go together with --image"},
		{[]string{"map", "--recover", "../x"}, "cannot be the name"},
		{[]string{"unmap"}, "which device?"},
		{[]string{"unmap", "nothing"}, "nothing is not mapped"},
		{[]string{"unmap", "/dev/sda"}, "/dev/sda is not mapped"},
		{[]string{"unmap", "x", "--image", "y"}, "either a device or --image"},
		{[]string{"unmap", "--image", "y"}, "image y is not mapped"},
		{[]string{"unmap", "x", "y"}, "unexpected argument"},
	} {
		if _, errs := r.run(1, c.args...); !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			r.Errorf("%q: %s", c.args, errs)
		}
	}
	r.k.load = errors.New("no module")
	if _, errs := r.run(1, "map", "--image", "image2"); !strings.Contains(errs, "no module") {
		r.Error(errs)
	}
	for _, args := range [][]string{{"--help"}, {"map", "-h"}, {"what"}} {
		if out, _ := r.run(0, args...); !strings.Contains(out, "map --recover disk1") || !strings.Contains(out, "--num_queues") {
			r.Errorf("%q: %s", args, out)
		}
	}
	r.clean()
}

// TestHost: on a host without the modules it is said what is missing.
func TestHost(t *testing.T) {
	h := Host{}
	if h.Exists("vitastor-test") || h.Attached("vitastor-test") || h.BlockDevice("vitastor-test") != "" {
		t.Error("a device that does not exist is found")
	}
	_, err := h.Open("vitastor-test")
	if err == nil || !strings.Contains(err.Error(), "vitastor-test") {
		t.Error(err)
	}
	if _, err := os.Stat("/dev/vduse/control"); err == nil {
		t.Skip("this host has VDUSE: the rest would be real")
	}
	if err := h.Destroy("vitastor-test"); err == nil || !strings.Contains(err.Error(), "modprobe vduse") {
		t.Error(err)
	}
	if err := h.Detach("vitastor-test"); err == nil || !strings.Contains(err.Error(), "vDPA") {
		t.Error(err)
	}
	if err := h.Load(); err == nil || !strings.Contains(err.Error(), "the kernel module vduse cannot be loaded") {
		t.Error(err)
	}
}

// TestHostFiles: a host made of files.
func TestHostFiles(t *testing.T) {
	root := t.TempDir()
	h := Host{Root: root}
	for _, path := range []string{"sys/bus/vdpa/devices/a/virtio3/block/vdb", "sys/module/vduse", "sys/module/virtio_vdpa",
		"sys/bus/virtio/drivers/virtio_blk", "dev/vduse/a", "proc/77/fd", "proc/78/fd", "proc/self/fd"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(root, "dev/vdb"), nil, 0o600)
	os.WriteFile(filepath.Join(root, "proc/77/comm"), []byte("dd\n"), 0o600)
	os.Symlink("/dev/vdbc", filepath.Join(root, "proc/77/fd/3"))
	os.Symlink("/dev/null", filepath.Join(root, "proc/77/fd/4"))
	if !h.Exists("a") || !h.Attached("a") || h.BlockDevice("a") != "/dev/vdb" {
		t.Error("the device is not found")
	}
	if err := h.Load(); err != nil {
		t.Error(err)
	}
	if who, err := h.InUse("/dev/vdb"); who != "" || err != nil {
		t.Errorf("used by %q, %v", who, err)
	}
	for _, target := range []string{"/dev/vdb", "/dev/vdb1", "/dev/vdbp12"} {
		link := filepath.Join(root, "proc/77/fd/5")
		os.Remove(link)
		os.Symlink(target, link)
		if who := h.opened("/dev/vdb"); who != "process 77 (dd) has it open" {
			t.Errorf("%s: %q", target, who)
		}
	}
	if err := h.noBlock("a"); !strings.Contains(err.Error(), "no driver") {
		t.Error(err)
	}
	os.Symlink("../../drivers/vhost_vdpa", filepath.Join(root, "sys/bus/vdpa/devices/a/driver"))
	if err := h.noBlock("a"); !strings.Contains(err.Error(), "modprobe -r vhost_vdpa") {
		t.Error(err)
	}
	os.Remove(filepath.Join(root, "sys/bus/vdpa/devices/a/driver"))
	os.Symlink("../../drivers/virtio_vdpa", filepath.Join(root, "sys/bus/vdpa/devices/a/driver"))
	if err := h.noBlock("a"); !strings.Contains(err.Error(), "dmesg") {
		t.Error(err)
	}
}
