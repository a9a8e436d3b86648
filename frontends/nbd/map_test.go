package nbd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/nbd/nbdproto"
	"vitastor/frontends/nbd/netlink"
	"vitastor/internal/meta"
)

// fakeKernel is a kernel with a few devices.
type fakeKernel struct {
	devices  int
	busy     map[int]bool // in use by somebody else
	pids     map[int]int
	commands map[int][]string

	mu       sync.Mutex
	events   []string
	looks    int // at sizes; the first ones see that there is none yet
	attached chan *fakeDevice
}

// looksMin is how often one has to look before a device has a size.
const looksMin = 4

// fakeDevice is the other end of the sockets: what the kernel does with them.
type fakeDevice struct {
	k       *fakeKernel
	index   int
	options netlink.Options
	conns   []*raw
	end     chan struct{}
	once    sync.Once
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{devices: 4, busy: map[int]bool{}, pids: map[int]int{}, commands: map[int][]string{}, attached: make(chan *fakeDevice, 1)}
}

func (k *fakeKernel) note(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events = append(k.events, fmt.Sprintf(format, args...))
}

func (k *fakeKernel) noted(what string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.events, what)
}

func (k *fakeKernel) Load(devices, parts int) error { k.note("load %d %d", devices, parts); return nil }
func (k *fakeKernel) Exists(i int) bool             { return i < k.devices }
func (k *fakeKernel) PID(i int) int                 { return k.pids[i] }
func (k *fakeKernel) SizeBytes(int) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.looks++; k.looks < looksMin {
		return 0
	}
	return mib
}
func (k *fakeKernel) CommandLine(pid int) []string { return k.commands[pid] }
func (k *fakeKernel) Processes() (list []int) {
	for pid := range k.commands {
		list = append(list, pid)
	}
	return list
}

func (k *fakeKernel) Mounts() string {
	return "proc /proc proc rw 0 0\n/dev/nbd5p1 /mnt ext4 rw 0 0\n/dev/nbd11 /srv ext4 rw 0 0\n"
}

func (k *fakeKernel) take(i int, fds []int, o netlink.Options) (*fakeDevice, error) {
	switch {
	case i >= k.devices:
		return nil, fmt.Errorf("/dev/nbd%d: %w", i, syscall.ENOENT)
	case k.busy[i]:
		return nil, fmt.Errorf("/dev/nbd%d: %w", i, syscall.EBUSY)
	}
	d := &fakeDevice{k: k, index: i, options: o, end: make(chan struct{})}
	for _, fd := range fds {
		own, err := syscall.Dup(fd)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(own), "device")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		d.conns = append(d.conns, &raw{nil, c})
	}
	k.attached <- d
	return d, nil
}

func (k *fakeKernel) Attach(i int, fds []int, o netlink.Options) (Device, error) {
	d, err := k.take(i, fds, o)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (k *fakeKernel) Connect(i int, fds []int, o netlink.Options) (int, error) {
	if i < 0 {
		i = 2
	}
	_, err := k.take(i, fds, o)
	return i, err
}

func (k *fakeKernel) Reconfigure(i int, fds []int, o netlink.Options) error {
	k.note("reconfigure %d", i)
	_, err := k.take(i, fds, o)
	return err
}

func (k *fakeKernel) Resize(i int, n uint64) error   { k.note("resize %d %d", i, n); return nil }
func (k *fakeKernel) Disconnect(i int) error         { k.note("disconnect %d", i); return nil }
func (k *fakeKernel) Detach(i int, force bool) error { k.note("detach %d %v", i, force); return nil }
func (d *fakeDevice) Resize(n uint64) error          { return d.k.Resize(d.index, n) }
func (d *fakeDevice) Run() error                     { <-d.end; d.close(); return nil }
func (d *fakeDevice) Disconnect() error              { d.once.Do(func() { close(d.end) }); return nil }

// close does what the kernel does at the end: it says good bye.
func (d *fakeDevice) close() {
	for _, c := range d.conns {
		c.Write(request(nbdproto.CmdDisconnect, 0, 0, 0))
		c.Close()
	}
}

// mapping runs the tool in this process.
type mappingRun struct {
	s       *served
	k       *fakeKernel
	out     bytes.Buffer
	errs    bytes.Buffer
	signals chan os.Signal
	code    chan int
}

func (s *served) mapWith(k *fakeKernel, args ...string) *mappingRun {
	m := &mappingRun{s: s, k: k, signals: make(chan os.Signal, 1), code: make(chan int, 1)}
	tool := &Tool{Out: &m.out, Err: &m.errs, Kernel: k, Signals: m.signals}
	go func() { m.code <- tool.Main(s.args(args...)) }()
	return m
}

func (m *mappingRun) device() *fakeDevice {
	m.s.Helper()
	select {
	case d := <-m.k.attached:
		for _, c := range d.conns {
			c.TB = m.s
		}
		return d
	case code := <-m.code:
		m.s.Fatalf("exit %d: %s", code, m.errs.String())
	case <-time.After(20 * time.Second):
		m.s.Fatal("no device")
	}
	return nil
}

func (m *mappingRun) ended(want int) {
	m.s.Helper()
	select {
	case code := <-m.code:
		if code != want {
			m.s.Errorf("exit %d: %s", code, m.errs.String())
		}
	case <-time.After(20 * time.Second):
		m.s.Fatal("it does not end")
	}
}

// mapped: two connections of one device, by ioctl.
func (s *served) mapped() {
	k := newFakeKernel()
	k.busy[0] = true
	k.pids[1], k.commands[77] = 77, []string{"/usr/bin/vitastor-nbd", "map", "--image", "other"}
	m := s.mapWith(k, "map", "--image", "image3", "--foreground", "1", "--connections", "2", "--nbd_timeout", "30")
	d := m.device()
	flags := nbdproto.HasFlags | nbdproto.SendFlush | nbdproto.SendFUA | nbdproto.SendTrim | nbdproto.SendWriteZeroes | nbdproto.CanMultiConn
	want := netlink.Options{SizeBytes: mib + 512, BlockBytes: 512, ServerFlags: uint64(flags), TimeoutSeconds: 30}
	if d.index != 1 && d.index != 2 || d.options != want || len(d.conns) != 2 {
		s.Errorf("device %d, %d sockets, %+v, want %+v", d.index, len(d.conns), d.options, want)
	}
	data := bytes.Repeat([]byte("block"), 8192/5+1)[:8192]
	d.conns[0].send(request(nbdproto.CmdWrite, 1, 512, 8192), data)
	if cookie, e := d.conns[0].simple(); cookie != 1 || e != 0 {
		s.Error(cookie, e)
	}
	d.conns[1].send(request(nbdproto.CmdFlush, 2, 0, 0), request(nbdproto.CmdRead, 3, 512, 8192))
	d.conns[1].simple()
	if cookie, e := d.conns[1].simple(); cookie != 3 || e != 0 || !bytes.Equal(d.conns[1].want(8192), data) {
		s.Error("the other connection reads something else")
	}
	s.must(s.c.PutJSON(s.c.Keys.InodeConfig(meta.MakeInode(1, 3)), map[string]any{"name": "image3", "size": 3 * mib}))
	resized := fmt.Sprintf("resize %d %d", d.index, 3*mib)
	s.must(s.c.Until(resized, 5*time.Second, func() error {
		if !k.noted(resized) {
			return errors.New("the kernel is not told")
		}
		return nil
	}))
	m.signals <- syscall.SIGTERM
	m.ended(0)
	if k.looks != looksMin {
		s.Errorf("the device is announced after %d looks at its size", k.looks)
	}
	if !k.noted("load 64 3") || m.out.String() != netlink.Path(d.index)+"\n" {
		s.Errorf("%q %q", k.events, m.out.String())
	}
	// Read-only, a device that is given, and the end by unmap.
	m = s.mapWith(k, "map", "/dev/nbd3", "--image", "image1", "--foreground", "1", "--readonly", "--connections", "2")
	d = m.device()
	if d.index != 3 || d.options.ServerFlags&uint64(nbdproto.ReadOnly) == 0 || d.options.BlockBytes != 4096 ||
		d.options.TimeoutSeconds < 86400 { // the kernel's 30 s would end the device when the cluster has a break
		s.Errorf("%+v", d)
	}
	d.conns[0].send(request(nbdproto.CmdWrite, 1, 0, 512), data[:512])
	if _, e := d.conns[0].simple(); e != nbdproto.EPERM {
		s.Errorf("a write to a read-only device: %d", e)
	}
	d.Disconnect()
	m.ended(0)
	if m.out.Len() != 0 {
		s.Errorf("a device that was given is printed: %q", m.out.String())
	}
	// Nothing is free; one is in use.
	k.devices = 1
	m = s.mapWith(k, "map", "--image", "image1", "--foreground", "1")
	m.ended(1)
	if !strings.Contains(m.errs.String(), "no free devices") {
		s.Error(m.errs.String())
	}
	m = s.mapWith(k, "map", "0", "--image", "image1", "--foreground", "1")
	m.ended(1)
	if !strings.Contains(m.errs.String(), "busy") {
		s.Error(m.errs.String())
	}
}

// mapBackground: without the module, the process in the background tells why.
func (s *served) mapBackground() {
	if (netlink.Sys{}).Loaded() {
		s.Skip("this host has the module nbd: mapping would be real")
	}
	_, errs, code := s.run(s.args("map", "--image", "image1")...)
	if code != 1 || !strings.Contains(errs, "the kernel module nbd cannot be loaded") || strings.Count(errs, "\n") != 1 {
		s.Errorf("exit %d, %q", code, errs)
	}
	log := s.TempDir() + "/log"
	_, errs, code = s.run(s.args("map", "--image", "nothing", "--logfile", log)...)
	text, _ := os.ReadFile(log)
	if code != 1 || !strings.Contains(errs, "image nothing does not exist") || !strings.Contains(string(text), "does not exist") {
		s.Errorf("exit %d, %q, log %q", code, errs, text)
	}
}

// netlinkMapped: the server dies, another one revives the device.
func (s *served) netlinkMapped() {
	k := newFakeKernel()
	m := s.mapWith(k, "netlink-map", "--image", "image2", "--foreground", "1", "--nbd_conn_timeout", "60", "--nbd_ro", "1",
		"--nbd_destroy_on_disconnect", "1", "--connections", "2")
	d := m.device()
	if d.index != 2 || d.options.DeadConnSeconds != 60 || d.options.TimeoutSeconds != 60 || d.options.ClientFlags != netlink.DestroyOnDisconnect ||
		d.options.ServerFlags&uint64(nbdproto.ReadOnly) == 0 {
		s.Errorf("%+v", d)
	}
	d.close() // as unmap does
	m.ended(0)
	if m.out.String() != "/dev/nbd2\n" {
		s.Error(m.out.String())
	}
	m = s.mapWith(k, "netlink-revive", "/dev/nbd2", "--image", "image2", "--foreground", "1")
	d = m.device()
	if d.options.TimeoutSeconds != 0 {
		s.Errorf("requests time out: %+v", d.options)
	}
	d.conns[0].send(request(nbdproto.CmdRead, 5, 0, 4096))
	if cookie, e := d.conns[0].simple(); cookie != 5 || e != 0 {
		s.Error(cookie, e)
	}
	m.signals <- syscall.SIGTERM
	m.ended(0)
	if !k.noted("reconfigure 2") || !k.noted("disconnect 2") {
		s.Errorf("%q", k.events)
	}
}

func TestList(t *testing.T) {
	k := newFakeKernel()
	k.pids = map[int]int{0: 10, 1: 11, 2: 12, 3: 13}
	k.commands = map[int][]string{
		10: {"/usr/bin/vitastor-nbd", "map", "--image", "a", "--nbd_timeout", "30", "--foreground"},
		11: {"/usr/sbin/nbd-client", "map", "--image", "b"},
		12: {"vitastor-nbd", "netlink-map", "/dev/nbd2", "--image", "c", "--readonly"},
		99: {"vitastor-nbd", "netlink-revive", "3", "--image", "d"},
	}
	var out, errs bytes.Buffer
	tool := &Tool{Out: &out, Err: &errs, Kernel: k}
	if code := tool.Main([]string{"ls", "--json"}); code != 0 {
		t.Fatal(errs.String())
	}
	var got map[string]map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := `map[/dev/nbd0:map[foreground:1 image:a interface:nbd nbd_timeout:30 pid:10] ` +
		`/dev/nbd2:map[dev_num:2 image:c interface:netlink pid:12 readonly:1] ` +
		`/dev/nbd3:map[dev_num:3 image:d interface:netlink pid:99]]`
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
	out.Reset()
	tool.Main([]string{"list-mapped"})
	if text := "/dev/nbd0\nforeground: 1\nimage: a\ninterface: nbd\nnbd_timeout: 30\npid: 10\n\n/dev/nbd2\n"; !strings.HasPrefix(out.String(), text) {
		t.Errorf("%q", out.String())
	}
}

func TestUnmap(t *testing.T) {
	k := newFakeKernel()
	k.pids[1], k.pids[5] = 5, 6
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"unmap", "/dev/nbd1"}, 0, "detach 1 false"},
		{[]string{"unmap", "2"}, 1, ""},
		{[]string{"unmap", "--force", "2"}, 0, "detach 2 true"},
		{[]string{"unmap", "5"}, 1, ""}, // mounted
		{[]string{"netlink-unmap", "5"}, 1, ""},
		{[]string{"unmap", "--force", "5"}, 0, "detach 5 true"},
		{[]string{"netlink-unmap", "/dev/nbd1"}, 0, "disconnect 1"},
		{[]string{"netlink-unmap", "/dev/nbd3"}, 1, ""}, // the kernel would not mind
		{[]string{"netlink-unmap", "/dev/nbd3", "--force"}, 0, "disconnect 3"},
	} {
		k.events = nil
		var out, errs bytes.Buffer
		tool := &Tool{Out: &out, Err: &errs, Kernel: k}
		if code := tool.Main(c.args); code != c.code || strings.Join(k.events, " ") != c.want {
			t.Errorf("%q: exit %d, %q, %s", c.args, code, k.events, errs.String())
		}
	}
}

func TestKernelSize(t *testing.T) {
	for bytes, want := range map[uint64][2]uint64{1 << 20: {1 << 20, 4096}, 1<<20 + 512: {1<<20 + 512, 512}, 1<<20 + 1000: {1<<20 + 512, 512}} {
		if size, block := kernelSize(bytes); size != want[0] || block != want[1] {
			t.Errorf("%d: %d in blocks of %d", bytes, size, block)
		}
	}
}
