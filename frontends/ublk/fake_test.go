package ublk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/ublk/ublkproto"
	"vitastor/internal/sys"
	"vitastor/internal/uring"
)

// fakeKernel is the driver as linux/ublk_cmd.h describes it. What a server must
// not do is an error of the test.
type fakeKernel struct {
	t        *testing.T
	features ublkproto.Features // 0 = Linux before 6.4
	user     bool               // we have no privileges
	devices  map[uint32]*fakeDevice
	commands map[int][]string // command lines by process
	ended    map[int]bool     // processes
	inUse    map[uint32]bool
	killed   []int
	calls    []ublkproto.Control
	noModule bool
	failOpen error
	hold     chan struct{} // START_DEV waits for it, if it is set
	looks    time.Duration
	slow     int // so many START_USER_RECOVERY come before the driver knows that the server is dead

	mu   sync.Mutex
	cond *sync.Cond
}

type fakeDevice struct {
	k       *fakeKernel
	info    ublkproto.DevInfo
	params  *ublkproto.Params
	channel *fakeChannel // open
	pending []*userIO    // wait for a tag
	removed bool         // by DEL_DEV
	stopped bool
}

// userIO is a request of a user of the block device.
type userIO struct {
	request ublkproto.Request
	data    []byte
	result  int32
	done    chan struct{}
}

// tagStage says what a tag does, from the driver's side.
type tagStage int

const (
	tagNew tagStage = iota
	tagIdle
	tagBusy
	tagOver
)

type fakeTag struct {
	stage tagStage
	user  uint64
	buf   []byte
	io    *userIO
}

type fakeChannel struct {
	d       *fakeDevice
	fd      int
	thread  int
	desc    [][]byte
	tags    []fakeTag
	entries []func() // not submitted
	cqes    []uring.CQE
	refuse  int // that many Submits fail
	dead    bool
}

func newFakeKernel(t *testing.T) *fakeKernel {
	k := &fakeKernel{t: t, devices: map[uint32]*fakeDevice{}, commands: map[int][]string{}, ended: map[int]bool{}, inUse: map[uint32]bool{}}
	k.features = ublkproto.UserRecovery | ublkproto.UserRecoveryReissue | ublkproto.IoctlEncode | ublkproto.Unprivileged
	k.cond = sync.NewCond(&k.mu)
	return k
}

func (k *fakeKernel) Load() error {
	if k.noModule {
		return fmt.Errorf("no module")
	}
	return nil
}
func (k *fakeKernel) Privileged() bool { return !k.user }
func (k *fakeKernel) Alive(pid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return pid > 0 && !k.ended[pid]
}
func (k *fakeKernel) CommandLine(pid int) []string { return k.commands[pid] }
func (k *fakeKernel) InUse(n uint32) (bool, error) { return k.inUse[n], nil }
func (k *fakeKernel) LookAt(n uint32, after time.Duration) error {
	k.looks = after
	return nil
}
func (k *fakeKernel) Kill(pid int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.killed = append(k.killed, pid)
	for _, d := range k.devices {
		if d.channel != nil {
			d.channel.crash()
		}
	}
	return nil
}

func (k *fakeKernel) Usable(n uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.devices[n] == nil {
		return fs.ErrNotExist
	}
	return nil
}

func (k *fakeKernel) Devices() (list []uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for n := range k.devices {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// Do is strict about what a command needs.
func (k *fakeKernel) Do(c *Call) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, c.Command)
	old := k.features == 0
	if old != c.Legacy || old && !c.Command.Legacy() {
		return syscall.EOPNOTSUPP
	}
	switch c.Command {
	case ublkproto.GetFeatures:
		binary.LittleEndian.PutUint64(c.Memory, uint64(k.features))
		return nil
	case ublkproto.AddDev:
		return k.add(c)
	}
	d := k.devices[c.Device]
	if d == nil {
		return syscall.ENODEV
	}
	path := d.info.Flags&ublkproto.Unprivileged != 0 || c.Command == ublkproto.GetDevInfo2
	switch {
	case !path && k.user:
		return syscall.EPERM
	case path && c.Path == "" || !path && c.Path != "":
		return syscall.EINVAL
	case path && c.Path != charPath(c.Device):
		return syscall.EACCES
	}
	return d.do(c)
}

func (k *fakeKernel) add(c *Call) error {
	i, err := ublkproto.DecodeDevInfo(c.Memory)
	switch {
	case err != nil || c.Device != i.Device || c.Path != "" || i.RequestBytes%4096 != 0:
		return syscall.EINVAL
	case k.user && i.Flags&ublkproto.Unprivileged == 0:
		return syscall.EPERM
	case i.Device != ublkproto.NewDevice && k.devices[i.Device] != nil:
		return syscall.EEXIST
	case i.Device == ublkproto.NewDevice:
		for i.Device = 0; k.devices[i.Device] != nil; i.Device++ {
		}
	}
	i.State, i.ServerPID = ublkproto.Dead, -1
	if k.features != 0 {
		i.Flags |= ublkproto.IoctlEncode
	}
	k.devices[i.Device] = &fakeDevice{k: k, info: i}
	copy(c.Memory, i.Append(nil))
	return nil
}

func (d *fakeDevice) do(c *Call) error {
	switch c.Command {
	case ublkproto.GetDevInfo, ublkproto.GetDevInfo2:
		if len(c.Memory) != ublkproto.DevInfoBytes {
			return syscall.EINVAL
		}
		copy(c.Memory, d.info.Append(nil))
		return nil
	case ublkproto.SetParams:
		return d.setParams(c.Memory)
	case ublkproto.GetParams:
		if binary.LittleEndian.Uint32(c.Memory) != uint32(len(c.Memory)) || d.params == nil {
			return syscall.EINVAL
		}
		copy(c.Memory, d.params.Append(nil))
		return nil
	case ublkproto.StartDev, ublkproto.EndUserRecovery:
		return d.start(c)
	case ublkproto.StartUserRecovery:
		switch {
		case d.info.Flags&ublkproto.UserRecovery == 0:
			return syscall.EINVAL
		case d.channel != nil || d.info.State != ublkproto.Quiesced:
			return syscall.EBUSY
		case d.k.slow > 0:
			d.k.slow--
			return syscall.EBUSY
		}
		return nil
	case ublkproto.TryStopDev, ublkproto.StopDev:
		if c.Command == ublkproto.TryStopDev && d.k.inUse[d.info.Device] {
			return syscall.EBUSY
		}
		return d.stop()
	case ublkproto.DelDev, ublkproto.DelDevAsync:
		return d.remove(c.Command == ublkproto.DelDev)
	case ublkproto.UpdateSize:
		if d.info.Flags&ublkproto.SizeUpdates == 0 {
			return syscall.EOPNOTSUPP
		}
		d.params.Sectors = c.Data
		return nil
	}
	return syscall.EOPNOTSUPP
}

func (d *fakeDevice) setParams(b []byte) error {
	p, err := ublkproto.DecodeParams(b)
	le := binary.LittleEndian
	switch {
	case d.info.State == ublkproto.Live:
		return syscall.EACCES
	case err != nil, le.Uint32(b) != uint32(len(b)), p.LogicalShift < 9, p.LogicalShift > 12, p.LogicalShift > p.PhysicalShift,
		p.MaxSectors > d.info.RequestBytes/512, p.Sectors == 0:
		return syscall.EINVAL
	case le.Uint32(b[4:])&2 != 0 && (p.DiscardGranularity == 0 || p.DiscardGranularity&(p.DiscardGranularity-1) != 0 ||
		le.Uint16(b[56:]) != 1 || le.Uint16(b[58:]) != 0):
		return syscall.EINVAL
	}
	d.params = &p
	return nil
}

// start waits for all tags, as the driver does.
func (d *fakeDevice) start(c *Call) error {
	recovery := c.Command == ublkproto.EndUserRecovery
	switch {
	case int32(c.Data) <= 0 || d.params == nil:
		return syscall.EINVAL
	case recovery != (d.info.State == ublkproto.Quiesced):
		return syscall.EBUSY
	}
	for d.channel == nil || !d.channel.all(tagIdle) {
		if d.channel != nil && d.channel.dead {
			return syscall.EINTR
		}
		d.k.cond.Wait()
	}
	d.info.State, d.info.ServerPID = ublkproto.Live, int32(c.Data)
	d.channel.feed()
	if hold := d.k.hold; hold != nil { // the search for partitions
		d.k.mu.Unlock()
		<-hold
		d.k.mu.Lock()
	}
	return nil
}

// stop waits for requests in flight. Without a server they fail.
func (d *fakeDevice) stop() error {
	for d.info.State == ublkproto.Live && d.channel != nil && d.channel.busy() {
		d.k.cond.Wait()
	}
	d.info.State, d.info.ServerPID, d.stopped = ublkproto.Dead, -1, true
	for _, io := range d.pending {
		io.end(-int32(syscall.EIO))
	}
	d.pending = nil
	if c := d.channel; c != nil {
		for i := range c.tags {
			if c.tags[i].stage == tagIdle {
				c.tags[i].stage = tagOver
				c.complete(i, ublkproto.ResultNoMore)
			}
		}
	}
	return nil
}

func (d *fakeDevice) remove(wait bool) error {
	if d.removed {
		return syscall.ENODEV
	}
	d.stop()
	d.removed = true
	if d.channel == nil {
		delete(d.k.devices, d.info.Device)
	}
	for wait && d.channel != nil {
		d.k.cond.Wait()
	}
	return nil
}

// Open is what a server does on its thread.
func (k *fakeKernel) Open(i ublkproto.DevInfo, legacy bool) (Channel, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[i.Device]
	switch {
	case k.failOpen != nil:
		return nil, k.failOpen
	case d == nil:
		return nil, syscall.ENOENT
	case d.channel != nil:
		return nil, syscall.EBUSY
	case legacy != (k.features == 0):
		k.t.Error("wrong kind of commands")
	}
	fd, err := sys.NewEventfd()
	if err != nil {
		return nil, err
	}
	c := &fakeChannel{d: d, fd: fd, thread: syscall.Gettid(), tags: make([]fakeTag, i.Tags())}
	for range i.Queues {
		c.desc = append(c.desc, make([]byte, i.DescriptorBytes()))
	}
	d.channel = c
	return c, nil
}

func (c *fakeChannel) FD() int                     { return c.fd }
func (c *fakeChannel) Descriptors(q int) []byte    { return c.desc[q] }
func (c *fakeChannel) index(queue, tag uint16) int { return int(queue)*int(c.d.info.Depth) + int(tag) }

func (c *fakeChannel) onThread() {
	if syscall.Gettid() != c.thread {
		c.d.k.t.Error("a command comes from another thread")
	}
}

func (c *fakeChannel) all(s tagStage) bool {
	return !slices.ContainsFunc(c.tags, func(t fakeTag) bool { return t.stage != s })
}

func (c *fakeChannel) busy() bool {
	return slices.ContainsFunc(c.tags, func(t fakeTag) bool { return t.stage == tagBusy })
}

func (c *fakeChannel) Fetch(queue, tag uint16, user uint64, buf []byte) {
	i := c.index(queue, tag)
	c.entries = append(c.entries, func() { c.take(i, tagNew, user, 0, buf) })
}

func (c *fakeChannel) Commit(queue, tag uint16, user uint64, result int32, buf []byte) {
	i := c.index(queue, tag)
	c.entries = append(c.entries, func() { c.take(i, tagBusy, user, result, buf) })
}

// take executes the command of a tag.
func (c *fakeChannel) take(i int, want tagStage, user uint64, result int32, buf []byte) {
	t := &c.tags[i]
	if t.stage != want || len(buf) != int(c.d.info.RequestBytes) {
		c.d.k.t.Errorf("tag %d is in stage %d, not %d, with %d bytes of memory", i, t.stage, want, len(buf))
	}
	if t.io != nil {
		if t.io.request.Op == ublkproto.OpRead && result > 0 {
			copy(t.io.data, t.buf)
		}
		t.io.end(result)
	}
	*t = fakeTag{stage: tagIdle, user: user, buf: buf}
	if c.d.stopped {
		t.stage = tagOver
		c.complete(i, ublkproto.ResultNoMore)
	}
}

func (c *fakeChannel) complete(i int, result int32) {
	c.cqes = append(c.cqes, uring.CQE{UserData: c.tags[i].user, Res: result})
	sys.WakeEventfd(c.fd)
}

func (c *fakeChannel) Submit() syscall.Errno {
	c.onThread()
	c.d.k.mu.Lock()
	defer c.d.k.mu.Unlock()
	if c.refuse > 0 {
		c.refuse--
		return syscall.EAGAIN
	}
	for _, f := range c.entries {
		if !c.dead {
			f()
		}
	}
	c.entries = nil
	c.feed()
	c.d.k.cond.Broadcast()
	return 0
}

// feed gives requests to idle tags, in an order that nobody may rely on.
func (c *fakeChannel) feed() {
	d := c.d
	for i := len(c.tags) - 1; i >= 0 && len(d.pending) > 0 && d.info.State == ublkproto.Live; i-- {
		t := &c.tags[i]
		if t.stage != tagIdle {
			continue
		}
		t.stage, t.io = tagBusy, d.pending[0]
		d.pending = d.pending[1:]
		if t.io.request.Op == ublkproto.OpWrite {
			copy(t.buf, t.io.data)
		}
		depth := int(d.info.Depth)
		desc := t.io.request.Append(nil)
		if t.io.request.Op == ublkproto.OpFlush { // as Linux 6.12 does
			binary.LittleEndian.PutUint64(desc[8:], ^uint64(0))
		}
		copy(c.desc[i/depth][i%depth*ublkproto.DescriptorSize:], desc)
		c.complete(i, ublkproto.ResultOK)
	}
}

func (c *fakeChannel) Drain(out []uring.CQE) int {
	c.onThread()
	c.d.k.mu.Lock()
	defer c.d.k.mu.Unlock()
	sys.DrainEventfd(c.fd)
	if c.dead {
		return 0
	}
	n := copy(out, c.cqes)
	c.cqes = c.cqes[n:]
	return n
}

func (c *fakeChannel) Close() {
	c.d.k.mu.Lock()
	defer c.d.k.mu.Unlock()
	c.crash()
	sys.Close(c.fd)
}

// crash is the end of the server, as the driver sees it: what was not answered
// waits for the next one.
func (c *fakeChannel) crash() {
	d := c.d
	if c.dead {
		return
	}
	c.dead, d.channel = true, nil
	var again []*userIO
	for _, t := range c.tags {
		if t.stage == tagBusy {
			again = append(again, t.io)
		}
	}
	d.pending = append(again, d.pending...)
	switch {
	case d.removed:
		delete(d.k.devices, d.info.Device)
	case d.info.State == ublkproto.Live && d.info.Flags&ublkproto.UserRecovery != 0:
		d.info.State = ublkproto.Quiesced
	case d.info.State == ublkproto.Live:
		d.k.cond.Broadcast()
		d.stop()
	}
	d.k.cond.Broadcast()
}

func (io *userIO) end(result int32) {
	io.result = result
	close(io.done)
}

// start makes a request of a user.
func (d *fakeDevice) begin(r ublkproto.Request, data []byte) *userIO {
	io := &userIO{request: r, data: data, done: make(chan struct{})}
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	d.pending = append(d.pending, io)
	if d.channel != nil {
		d.channel.feed()
	}
	return io
}

// wait is the result of a request: bytes, or an error.
func (io *userIO) wait(t *testing.T) (int32, syscall.Errno) {
	t.Helper()
	select {
	case <-io.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%+v is never answered", io.request)
	}
	if io.result < 0 {
		return 0, syscall.Errno(-io.result)
	}
	return io.result, 0
}

func (d *fakeDevice) read(t *testing.T, offset uint64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if got, e := d.begin(ublkproto.Request{Op: ublkproto.OpRead, Offset: offset, Bytes: uint64(n)}, b).wait(t); e != 0 || int(got) != n {
		t.Errorf("read of %d bytes at %d: %d, %v", n, offset, got, e)
	}
	return b
}

func (d *fakeDevice) write(t *testing.T, offset uint64, data []byte, flags uint32) {
	t.Helper()
	r := ublkproto.Request{Op: ublkproto.OpWrite, Flags: flags, Offset: offset, Bytes: uint64(len(data))}
	if got, e := d.begin(r, bytes.Clone(data)).wait(t); e != 0 || int(got) != len(data) {
		t.Errorf("write of %d bytes at %d: %d, %v", len(data), offset, got, e)
	}
}
