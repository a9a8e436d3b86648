package vduse

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/vduse/uapi"
	"vitastor/frontends/virtio"
	"vitastor/internal/guestmem"
	"vitastor/internal/sys"
)

// answerLimit is after what the fake kernel gives a device up; the real one takes
// 30 seconds.
const answerLimit = 10 * time.Second

// fakeKernel is the kernel's side, with the rules of linux/vduse.h as the real
// one has them, and with a driver of its own.
type fakeKernel struct {
	testing.TB
	load   error             // of Load
	users  map[string]string // of block devices
	driver driverConfig

	mu      sync.Mutex
	devices map[string]*fakeDevice
}

func newFakeKernel(t testing.TB, c driverConfig) *fakeKernel {
	return &fakeKernel{TB: t, users: map[string]string{}, driver: c, devices: map[string]*fakeDevice{}}
}

func (k *fakeKernel) device(name string) *fakeDevice {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devices[name]
}

func (k *fakeKernel) Load() error             { return k.load }
func (k *fakeKernel) Exists(name string) bool { return k.device(name) != nil }

func (k *fakeKernel) Create(c uapi.DeviceConfig) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.devices[c.Name] != nil:
		return syscall.EEXIST
	case c.DeviceID != 2 || c.Features&(1<<33) == 0 || c.Features&(1<<11) != 0 || c.Queues == 0 || c.Align > 4096 || len(c.Config) > 4096:
		return syscall.EINVAL
	}
	poll, err := sys.NewEventfd()
	if err != nil {
		return err
	}
	d := &fakeDevice{k: k, name: c.Name, offered: c.Features, config: slices.Clone(c.Config), queues: make([]fakeQueue, c.Queues), poll: poll}
	for i := range d.queues {
		d.queues[i] = fakeQueue{kick: -1, irq: make(chan struct{}, 1)}
	}
	k.devices[c.Name] = d
	return nil
}

func (k *fakeKernel) Destroy(name string) error {
	d := k.device(name)
	if d == nil {
		return syscall.EINVAL
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open || d.attached {
		return syscall.EBUSY
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.devices, name)
	sys.Close(d.poll)
	return nil
}

func (k *fakeKernel) Open(name string) (Device, error) {
	d := k.device(name)
	if d == nil {
		return nil, syscall.ENOENT
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open {
		return nil, syscall.EBUSY
	}
	d.open = true
	return &fakeHandle{fakeDevice: d}, nil
}

// Attach also binds the driver, as virtio_vdpa does.
func (k *fakeKernel) Attach(name string) error {
	d := k.device(name)
	if d == nil {
		return syscall.EINVAL
	}
	d.mu.Lock()
	ready := !slices.ContainsFunc(d.queues, func(q fakeQueue) bool { return q.sizeMax == 0 })
	attached := d.attached
	d.attached = d.attached || ready
	d.mu.Unlock()
	switch {
	case attached:
		return syscall.EEXIST
	case !ready:
		return syscall.EINVAL
	}
	d.driver = newDriver(d, k.driver)
	return d.driver.probe()
}

func (k *fakeKernel) Detach(name string) error {
	d := k.device(name)
	if d == nil || !k.Attached(name) {
		return syscall.ENODEV
	}
	err := d.driver.remove()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attached = false
	return err
}

func (k *fakeKernel) Attached(name string) bool {
	d := k.device(name)
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attached
}

func (k *fakeKernel) BlockDevice(name string) string {
	if k.Attached(name) {
		return "/dev/vd-" + name
	}
	return ""
}

func (k *fakeKernel) InUse(block string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.users[block], nil
}

// use makes somebody use a block device; "" = nobody does.
func (k *fakeKernel) use(block, who string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.users[block] = who
}

// fakeDevice is one VDUSE device.
type fakeDevice struct {
	k       *fakeKernel
	name    string
	offered uint64
	poll    int // eventfd that is readable while there are messages
	driver  *driver

	mu       sync.Mutex
	open     bool
	attached bool
	broken   bool
	config   []byte
	queues   []fakeQueue
	status   byte
	features uint64
	regions  []fakeRegion
	nextID   uint32
	waiting  []*fakeMessage // to be read
	read     []*fakeMessage // and not answered
	changes  int            // interrupts about the configuration
}

type fakeQueue struct {
	sizeMax uint16
	info    uapi.QueueInfo
	kick    int
	kicked  bool // while there was no eventfd
	irq     chan struct{}
}

// fakeRegion is an entry of the IOTLB.
type fakeRegion struct {
	uapi.Region
	fd int
}

type fakeMessage struct {
	request uapi.Request
	answer  chan uapi.Response
}

var errBroken = errors.New("the fake kernel has given the device up")

// ask sends a request to the server and waits.
func (d *fakeDevice) ask(r uapi.Request) (uapi.Response, error) {
	m := &fakeMessage{request: r, answer: make(chan uapi.Response, 1)}
	d.mu.Lock()
	if d.broken {
		d.mu.Unlock()
		return uapi.Response{}, errBroken
	}
	d.nextID++
	m.request.ID = d.nextID
	d.waiting = append(d.waiting, m)
	sys.WakeEventfd(d.poll)
	d.mu.Unlock()
	select {
	case a := <-m.answer:
		if a.Failed {
			return a, syscall.EIO
		}
		return a, nil
	case <-time.After(answerLimit):
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = true
		return uapi.Response{}, errBroken
	}
}

// setStatus is what a driver does; the device forgets everything at a reset.
func (d *fakeDevice) setStatus(status byte) error {
	if _, err := d.ask(uapi.Request{Type: uapi.SetStatus, Status: status}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status = status; status != 0 {
		return nil
	}
	d.features, d.regions = 0, nil
	for i := range d.queues {
		q := &d.queues[i]
		if q.kick >= 0 {
			sys.Close(q.kick)
		}
		q.info, q.kick, q.kicked = uapi.QueueInfo{}, -1, false
	}
	return nil
}

// kick is what a driver does after it has added requests.
func (d *fakeDevice) kick(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := &d.queues[i]; q.kick >= 0 {
		sys.WakeEventfd(q.kick)
	} else {
		q.kicked = true
	}
}

// addRegion makes memory known to the server.
func (d *fakeDevice) addRegion(r fakeRegion) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.regions = append(d.regions, r)
	slices.SortFunc(d.regions, func(a, b fakeRegion) int { return int(int64(a.Start) - int64(b.Start)) })
}

// fakeHandle is an open descriptor of the device.
type fakeHandle struct {
	*fakeDevice
	closed bool
}

func (h *fakeHandle) lock() func() {
	h.mu.Lock()
	if h.closed {
		h.k.Error("a closed descriptor is used")
	}
	return h.mu.Unlock
}

func (h *fakeHandle) FD() int { return h.poll }

func (h *fakeHandle) Receive() (uapi.Request, bool, error) {
	defer h.lock()()
	if len(h.waiting) == 0 {
		sys.DrainEventfd(h.poll)
		return uapi.Request{}, false, nil
	}
	m := h.waiting[0]
	h.waiting, h.read = h.waiting[1:], append(h.read, m)
	return m.request, true, nil
}

func (h *fakeHandle) Answer(r uapi.Response) error {
	defer h.lock()()
	i := slices.IndexFunc(h.read, func(m *fakeMessage) bool { return m.request.ID == r.ID })
	if i < 0 {
		h.k.Errorf("an answer to a request that was not made: %+v", r)
		return syscall.ENOENT
	}
	h.read[i].answer <- r
	h.read = slices.Delete(h.read, i, i+1)
	return nil
}

func (h *fakeHandle) SetupQueue(i int, sizeMax uint16) error {
	defer h.lock()()
	if i >= len(h.queues) || h.attached {
		return syscall.EINVAL
	}
	h.queues[i].sizeMax = sizeMax
	return nil
}

func (h *fakeHandle) Features() (uint64, error) {
	defer h.lock()()
	return h.features, nil
}

func (h *fakeHandle) Queue(i int, packed bool) (uapi.QueueInfo, error) {
	defer h.lock()()
	if i >= len(h.queues) {
		return uapi.QueueInfo{}, syscall.EINVAL
	}
	if packed != (h.features&virtio.FeaturePacked != 0) {
		h.k.Error("the state of a queue is read as if it were of another kind")
	}
	return h.queues[i].info, nil
}

func (h *fakeHandle) SetKick(i, fd int) error {
	defer h.lock()()
	own, err := syscall.Dup(fd)
	if err != nil {
		return err
	}
	q := &h.queues[i]
	if q.kick >= 0 {
		sys.Close(q.kick)
	}
	if q.kick = own; q.info.Ready && q.kicked {
		sys.WakeEventfd(own)
		q.kicked = false
	}
	return nil
}

func (h *fakeHandle) Interrupt(i int) error {
	defer h.lock()()
	if h.status&statusDriverOK == 0 {
		return syscall.EINVAL
	}
	select {
	case h.queues[i].irq <- struct{}{}:
	default:
	}
	return nil
}

func (h *fakeHandle) SetConfig(config []byte) error {
	defer h.lock()()
	if len(config) == 0 || len(config) > len(h.config) {
		return syscall.EINVAL
	}
	copy(h.config, config)
	if h.status&statusDriverOK != 0 {
		h.changes++
	}
	return nil
}

func (h *fakeHandle) Map(start, last uint64) (uapi.Region, *guestmem.Mapping, error) {
	defer h.lock()()
	for _, r := range h.regions {
		if r.Start <= last && start <= r.Last {
			m, err := guestmem.Map(r.fd, r.Offset, r.Bytes(), r.Write)
			return r.Region, m, err
		}
	}
	return uapi.Region{}, nil, nil
}

// Close is also what happens when the process dies: what was not answered comes
// again.
func (h *fakeHandle) Close() {
	defer h.lock()()
	h.closed, h.open = true, false
	if h.waiting = append(h.read, h.waiting...); len(h.waiting) > 0 {
		sys.WakeEventfd(h.poll)
	}
	h.read = nil
}

func (d *fakeDevice) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("%s: open %v, attached %v, broken %v, status %d, features %#x, %d regions, messages %d %d", d.name, d.open, d.attached,
		d.broken, d.status, d.features, len(d.regions), len(d.waiting), len(d.read))
}
