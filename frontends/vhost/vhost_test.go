package vhost

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitastor/frontends/blockdev"
	"vitastor/internal/e2e/vhost/frontend"
	"vitastor/internal/guestmem"
	"vitastor/internal/loop"
)

const diskBytes = 4 << 20

// holding is a Disk that can keep requests for a while.
type holding struct {
	*blockdev.Memory
	hold bool
	held []*blockdev.Request
	size uint64 // if not 0
}

func (h *holding) Info() blockdev.Info {
	i := h.Memory.Info()
	if h.size != 0 {
		i.SizeBytes = h.size
	}
	return i
}

func (h *holding) Submit(r *blockdev.Request) {
	if h.hold {
		h.held = append(h.held, r)
		return
	}
	h.Memory.Submit(r)
}

// rig is a back-end on a loop of its own.
type rig struct {
	t    *testing.T
	l    *loop.Loop
	disk *holding
	x    *Export
	path string
	log  *lines
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "s"), log: &lines{}}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if r.l, err = loop.New(loop.Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		r.l.Run(ctx)
		close(ended)
	}()
	r.on(func() {
		e := r.l.Env()
		memory, err := blockdev.NewMemory(e, "test", diskBytes, false)
		if err != nil {
			t.Error(err)
			return
		}
		r.disk = &holding{Memory: memory}
		c := Config{Loop: r.l, Env: e, Log: log, Disk: r.disk, Path: r.path, Serial: "serial", Queues: 4}
		if change != nil {
			change(&c)
		}
		if r.x, err = New(c); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		done := make(chan struct{})
		r.on(func() {
			r.release()
			r.x.Close(func() { close(done) })
		})
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the export does not close")
		}
		cancel()
		<-ended
		r.disk.Free()
		if _, err := os.Lstat(r.path); err == nil {
			t.Error("the socket is left")
		}
		if t.Failed() {
			t.Log(r.log.b.String())
		}
	})
	return r
}

// on runs f on the loop.
func (r *rig) on(f func()) {
	done := make(chan struct{})
	r.l.Post(func() {
		defer close(done)
		f()
	})
	<-done
}

// release lets the disk go on.
func (r *rig) release() {
	r.disk.hold = false
	for _, q := range r.disk.held {
		r.disk.Memory.Submit(q)
	}
	r.disk.held = nil
}

func (r *rig) dial(o frontend.Options) *frontend.Frontend {
	r.t.Helper()
	f, err := frontend.Dial(r.path, o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(f.Close)
	if err := f.Start(); err != nil {
		r.t.Fatal(err)
	}
	if o.Memory == nil {
		r.t.Cleanup(f.M.Free)
	}
	return f
}

// eventually waits for a condition on the loop.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		good := false
		r.on(func() { good = ok() })
		if good {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// do executes one request, which has to succeed.
func do(t *testing.T, q *frontend.Queue, kind uint32, sector uint64, n int) {
	t.Helper()
	if status, err := q.Do(kind, sector, n); err != nil || status != 0 {
		t.Fatalf("request of type %d: status %d, %v", kind, status, err)
	}
}

// kinds are all kinds of rings.
func kinds() (list []frontend.Options) {
	for i := range 8 {
		list = append(list, frontend.Options{Packed: i&1 != 0, EventIdx: i&2 != 0, Indirect: i&4 != 0, Inflight: true, Size: 16})
	}
	return list
}

func TestReadsAndWrites(t *testing.T) {
	r := newRig(t, nil)
	for _, o := range kinds() {
		f := r.dial(o)
		q := f.Queue(0)
		rng := rand.New(rand.NewPCG(1, 1))
		for range 50 { // more than the ring has
			sector := rng.Uint64N(diskBytes/512 - 8)
			want := make([]byte, 4096)
			for i := range want {
				want[i] = byte(rng.Uint32())
			}
			copy(q.Data(0), want)
			do(t, q, frontend.Out, sector, 4096)
			clear(q.Data(0))
			do(t, q, frontend.In, sector, 4096)
			if !bytes.Equal(q.Data(0), want) {
				t.Fatalf("%+v: something else is read", o)
			}
		}
		do(t, q, frontend.Flush, 0, 0)
		do(t, q, frontend.GetID, 0, 20)
		if id := string(bytes.TrimRight(q.Data(0)[:20], "\x00")); id != "serial" {
			t.Errorf("id %q", id)
		}
		binary.LittleEndian.PutUint64(q.Data(0), 8)
		binary.LittleEndian.PutUint64(q.Data(0)[8:], 8)
		do(t, q, frontend.Zeroes, 0, 16)
		do(t, q, frontend.In, 8, 4096)
		if !bytes.Equal(q.Data(0), make([]byte, 4096)) {
			t.Error("not zeroes")
		}
		if config, err := f.Config(); err != nil || binary.LittleEndian.Uint64(config) != diskBytes/512 {
			t.Errorf("capacity %d, %v", binary.LittleEndian.Uint64(config), err)
		}
		if n, err := f.Get(frontend.GetQueueNum); n != 4 || err != nil {
			t.Errorf("%d queues, %v", n, err)
		}
		f.Close()
	}
	r.eventually("all clients have left", func() bool { return r.x.active == nil && len(r.x.draining) == 0 })
	r.on(func() {
		if s := r.x.Stats(); s.Reads == 0 || s.Clients != 8 || s.Errors != 0 || s.Running {
			t.Errorf("%+v", s)
		}
		if n := guestmem.Mapped(); n != 0 {
			t.Errorf("%d mappings are left", n)
		}
		if r.disk.Flushes < 16 { // each client's, and one for each that has left
			t.Errorf("%d flushes", r.disk.Flushes)
		}
	})
}

// TestManyQueues: queues work at the same time.
func TestManyQueues(t *testing.T) {
	r := newRig(t, nil)
	f := r.dial(frontend.Options{Queues: 4, EventIdx: true, Size: 64})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			left := 3000
			churn(t, f.Queue(i), uint64(i)*1024, func() bool { left--; return left > 0 })
		})
	}
	wg.Wait()
	r.on(func() {
		if s := r.x.Stats(); s.Writes < 4*1000 || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// churn keeps all slots of a queue busy while more says so, with writes and
// reads of blocks that each slot has for itself.
func churn(t *testing.T, q *frontend.Queue, from uint64, more func() bool) {
	written := make([]byte, q.Slots())
	reading := make([]bool, q.Slots())
	submit := func(i int) {
		sector := from + uint64(i)*8
		if reading[i] = written[i] > 0 && !reading[i]; reading[i] {
			q.Add(i, frontend.In, sector, 4096)
			return
		}
		written[i] = written[i]%250 + 1
		for j := range q.Data(i) {
			q.Data(i)[j] = written[i]
		}
		q.Add(i, frontend.Out, sector, 4096)
	}
	for i := range q.Slots() {
		submit(i)
	}
	busy := q.Slots()
	for q.Publish(); busy > 0; q.Publish() {
		i, status, ok := q.Next()
		if !ok {
			if err := q.Wait(20 * time.Second); err != nil {
				t.Error(err)
				return
			}
			continue
		}
		if status != 0 || reading[i] && (q.Data(i)[0] != written[i] || q.Data(i)[4095] != written[i]) {
			t.Errorf("slot %d: status %d, or something else was read", i, status)
			return
		}
		if more() {
			submit(i)
		} else {
			busy--
		}
	}
}

// TestReconnect: a client loses its connection with requests in flight, comes
// back, and all of them are completed once. Rings of the second connection wait
// for what the first one left.
func TestReconnect(t *testing.T) {
	for _, o := range kinds() {
		r := newRig(t, nil)
		f := r.dial(o)
		q := f.Queue(0)
		for range 20 {
			do(t, q, frontend.Out, 0, 4096)
		}
		r.on(func() { r.disk.hold = true })
		for i := range q.Slots() {
			q.Data(i)[0] = byte(i + 1)
			q.Add(i, frontend.Out, uint64(i)*8, 4096)
		}
		q.Publish()
		r.eventually("requests at the disk", func() bool { return len(r.disk.held) == q.Slots() })
		f.Close()
		o.Memory = f.M
		again := r.dial(o)
		r.on(func() {
			if len(r.x.draining) != 1 || r.x.active == nil || r.x.active.running != 0 {
				t.Errorf("rings are running while %d former clients have something in flight", len(r.x.draining))
			}
			r.release()
		})
		for range q.Slots() {
			complete(t, q)
		}
		do(t, q, frontend.In, 8, 4096)
		if q.Data(0)[0] != 2 {
			t.Error("a write is lost")
		}
		again.Close()
	}
}

func complete(t *testing.T, q *frontend.Queue) {
	t.Helper()
	for {
		if _, status, ok := q.Next(); ok {
			if status != 0 {
				t.Fatalf("status %d", status)
			}
			return
		}
		if err := q.Wait(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecondClientWaits until the first one has gone.
func TestSecondClientWaits(t *testing.T) {
	r := newRig(t, nil)
	first := r.dial(frontend.Options{})
	second, err := frontend.Connect(r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.Timeout = 50 * time.Millisecond
	if _, err := second.Get(frontend.GetFeatures); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
	first.Close()
	second.Timeout = 10 * time.Second
	if _, _, err := second.Receive(frontend.GetFeatures); err != nil {
		t.Error(err)
	}
}

func TestStopAndStart(t *testing.T) {
	for _, o := range kinds() {
		o.Inflight = false
		r := newRig(t, nil)
		f := r.dial(o)
		q := f.Queue(0)
		for range 7 {
			do(t, q, frontend.Out, 0, 4096)
		}
		r.on(func() { r.disk.hold = true })
		q.Add(1, frontend.In, 0, 4096)
		q.Publish()
		r.eventually("a request", func() bool { return len(r.disk.held) == 1 })
		f.Timeout = 50 * time.Millisecond
		if _, err := f.StopQueue(0); err == nil {
			t.Error("a ring is stopped with a request in flight")
		}
		f.Timeout = 10 * time.Second
		r.on(r.release)
		reply, _, err := f.Receive(frontend.GetVringBase)
		if err != nil {
			t.Fatal(err)
		}
		complete(t, q)
		q.Add(1, frontend.In, 0, 4096)
		q.Publish()
		time.Sleep(10 * time.Millisecond)
		if _, _, ok := q.Next(); ok {
			t.Error("a stopped ring is served")
		}
		base := binary.NativeEndian.Uint32(reply[4:])
		if err := f.OK(frontend.SetVringBase, frontend.U32(0, base)); err != nil {
			t.Fatal(err)
		}
		kick, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.OK(frontend.SetVringKick, frontend.U64(0), kick); err != nil {
			t.Fatal(err)
		}
		unix.Close(kick)
		complete(t, q)
		// Disabled, then enabled again.
		if err := f.OK(frontend.VringEnable, frontend.U32(0, 0)); err != nil {
			t.Fatal(err)
		}
		q.Add(2, frontend.In, 0, 4096)
		q.Publish()
		time.Sleep(10 * time.Millisecond)
		if _, _, ok := q.Next(); ok {
			t.Error("a disabled ring is served")
		}
		if err := f.OK(frontend.VringEnable, frontend.U32(0, 1)); err != nil {
			t.Fatal(err)
		}
		complete(t, q)
	}
}

// TestPolled: the client does not kick.
func TestPolled(t *testing.T) {
	r := newRig(t, nil)
	f := r.dial(frontend.Options{EventIdx: true})
	if err := f.OK(frontend.SetVringKick, frontend.U64(0x100)); err != nil {
		t.Fatal(err)
	}
	do(t, f.Queue(0), frontend.In, 0, 4096)
}

func TestResize(t *testing.T) {
	r := newRig(t, nil)
	f := r.dial(frontend.Options{})
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.OK(frontend.SetBackendFD, nil, pair[1]); err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[1])
	defer unix.Close(pair[0])
	r.on(func() {
		r.disk.size = 1 << 20
		r.x.Resized()
	})
	b := make([]byte, 100)
	n, err := unix.Read(pair[0], b)
	if want := frontend.Message(2, 1, nil); err != nil || !bytes.Equal(b[:n], want) {
		t.Fatalf("%x, %v", b[:n], err)
	}
	if config, err := f.Config(); err != nil || binary.LittleEndian.Uint64(config) != 2048 {
		t.Error(err)
	}
}

func TestWriteCacheMode(t *testing.T) {
	r := newRig(t, nil)
	f := r.dial(frontend.Options{NoFlush: true})
	do(t, f.Queue(0), frontend.Out, 0, 4096)
	r.on(func() {
		if r.disk.Durable != 1 {
			t.Error("a write is not durable, and the client does not flush")
		}
	})
	if err := f.OK(frontend.SetConfig, append(frontend.U32(32, 1, 0), 0)); err == nil {
		t.Error("the mode was set, which was not negotiated")
	}
	if err := f.OK(frontend.SetConfig, append(frontend.U32(0, 60, 1), make([]byte, 60)...)); err != nil {
		t.Errorf("a migration's configuration: %v", err)
	}
}

// TestMigrationLog: each page that changes is marked.
func TestMigrationLog(t *testing.T) {
	for _, o := range kinds() {
		r := newRig(t, nil)
		f := r.dial(o)
		q := f.Queue(0)
		do(t, q, frontend.In, 0, 4096)
		logFD, log, err := guestmem.NewShared("log", (frontend.GuestBase+uint64(len(f.M.B)))/4096/8+1)
		if err != nil {
			t.Fatal(err)
		}
		reply, _, err := f.Call(frontend.SetLogBase, frontend.U64(uint64(len(log.Data())), 0), logFD)
		if err != nil || len(reply) != 8 {
			t.Fatal(err)
		}
		unix.Close(logFD)
		if err := f.OK(frontend.SetFeatures, frontend.U64(f.Accepted|frontend.FeatureLogAll)); err != nil {
			t.Fatal(err)
		}
		if err := f.OK(frontend.SetVringAddr, q.Address(1)); err != nil {
			t.Fatal(err)
		}
		r.on(func() {
			for i := range r.disk.Data()[:4096] {
				r.disk.Data()[i] = byte(i) | 1
			}
		})
		q.Add(1, frontend.In, 0, 4096)
		before := bytes.Clone(f.M.B)
		q.Publish()
		complete(t, q)
		after := bytes.Clone(f.M.B)
		changed, marked := 0, 0
		for page := range len(before) / 4096 {
			at := uint64(frontend.GuestBase)/4096 + uint64(page)
			bit := log.Data()[at/8]&(1<<(at%8)) != 0
			if bit {
				marked++
			}
			if !bytes.Equal(before[page*4096:][:4096], after[page*4096:][:4096]) && !driverPage(f, page) {
				if changed++; !bit {
					t.Errorf("%+v: page %d has changed and is not marked", o, page)
				}
			}
		}
		if changed < 2 || marked > 8 {
			t.Errorf("%d pages have changed, %d are marked", changed, marked)
		}
		if err := f.OK(frontend.SetFeatures, frontend.U64(f.Accepted)); err != nil {
			t.Fatal(err)
		}
		clear(log.Data())
		do(t, q, frontend.In, 0, 4096)
		if !bytes.Equal(log.Data(), make([]byte, len(log.Data()))) {
			t.Error("logged, although that was switched off")
		}
		f.Close()
		r.eventually("the client has left", func() bool { return len(r.x.draining) == 0 && r.x.active == nil })
		log.Release()
	}
}

// driverPage tells whether a page is changed by the driver alone.
func driverPage(f *frontend.Frontend, page int) bool { return page == f.DriverPage() }

func TestMemorySlots(t *testing.T) {
	r := newRig(t, nil)
	f, err := frontend.Dial(r.path, frontend.Options{Size: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.Get(frontend.MaxMemSlots); n < 32 || err != nil {
		t.Errorf("%d slots, %v", n, err)
	}
	o := frontend.Options{Queues: 1, Size: 16, SlotBytes: 4096}
	m, err := frontend.NewMemory(o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	// The memory in two regions; adding comes late, removing is noticed.
	half := uint64(len(m.B)/2) &^ 4095
	low := frontend.U64(0, frontend.GuestBase, half, frontend.UserBase, 0)
	high := frontend.U64(0, frontend.GuestBase+half, uint64(len(m.B))-half, frontend.UserBase+half, half)
	steps := []struct {
		request uint32
		payload []byte
		files   []int
		fails   bool
	}{
		{frontend.AddMemReg, low, []int{m.File}, false},
		{frontend.AddMemReg, low, []int{m.File}, true},
		{frontend.AddMemReg, high, nil, true},
		{frontend.AddMemReg, high, []int{m.File}, false},
		{frontend.RemMemReg, frontend.U64(0, 1, 2, 3, 4), nil, true},
		{frontend.RemMemReg, high, []int{m.File}, false},
		{frontend.AddMemReg, high, []int{m.File}, false},
		{frontend.AddMemReg, frontend.U64(0, 0, uint64(len(m.B))+4096, 0, 0), []int{m.File}, true},
	}
	for i, s := range steps {
		if err := f.OK(s.request, s.payload, s.files...); (err != nil) != s.fails {
			t.Errorf("step %d: %v", i, err)
		}
	}
	r.on(func() {
		if n := guestmem.Mapped(); n != 2 {
			t.Errorf("%d mappings", n)
		}
	})
}

// TestMemoryMoves: memory is mapped anew while a request is in flight, which
// keeps the old mapping until it is done.
func TestMemoryMoves(t *testing.T) {
	for _, o := range kinds() {
		r := newRig(t, nil)
		f := r.dial(o)
		q := f.Queue(0)
		do(t, q, frontend.Out, 0, 4096)
		before := guestmem.Mapped()
		r.on(func() { r.disk.hold = true })
		q.Data(1)[0] = 99
		q.Add(1, frontend.Out, 8, 4096)
		q.Publish()
		r.eventually("a request", func() bool { return len(r.disk.held) == 1 })
		if err := f.Share(); err != nil {
			t.Fatal(err)
		}
		if n := guestmem.Mapped(); n != before+1 {
			t.Errorf("%d mappings instead of %d", n, before+1)
		}
		r.on(r.release)
		complete(t, q)
		r.eventually("the old mapping goes", func() bool { return guestmem.Mapped() == before })
		do(t, q, frontend.In, 8, 4096)
		if q.Data(0)[0] != 99 {
			t.Error("a write is lost")
		}
		// Memory that a ring is in goes away: the queue breaks.
		if err := f.OK(frontend.SetMemTable, frontend.U32(0, 0)); err != nil {
			t.Fatal(err)
		}
		r.eventually("an error", q.Broken)
		f.Close()
		r.eventually("everything is unmapped", func() bool { return guestmem.Mapped() == 0 })
	}
}

// TestMemoryVanishes: the client truncates its memory; its queue breaks, it can
// begin again, and so can others.
func TestMemoryVanishes(t *testing.T) {
	r := newRig(t, nil)
	f := r.dial(frontend.Options{Unsealed: true, EventIdx: true})
	q := f.Queue(0)
	q.Data(0)[0] = 77
	do(t, q, frontend.Out, 0, 4096)
	r.on(func() {
		if s := r.x.Stats(); s.Bounced != 1 || r.disk.Data()[0] != 77 {
			t.Errorf("%+v", s)
		}
	})
	unix.Ftruncate(f.M.File, 0)
	q.Kick()
	for deadline := time.Now().Add(10 * time.Second); !q.Broken(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no error is signalled")
		}
	}
	if !r.log.has("taken memory away") {
		t.Error("nothing in the log")
	}
	if _, err := f.StopQueue(0); err != nil {
		t.Error(err)
	}
	f.Close()
	do(t, r.dial(frontend.Options{}).Queue(0), frontend.In, 0, 4096)
}

// TestBrokenQueue: others go on, and the device can be reset.
func TestBrokenQueue(t *testing.T) {
	r := newRig(t, nil)
	f := r.dial(frontend.Options{Queues: 2})
	q := f.Queue(0)
	q.Spoil()
	q.Kick()
	r.eventually("an error", q.Broken)
	do(t, f.Queue(1), frontend.In, 0, 4096)
	if err := f.OK(frontend.ResetDevice, nil); err != nil {
		t.Fatal(err)
	}
	f.Close()
	do(t, r.dial(frontend.Options{}).Queue(0), frontend.In, 0, 4096)
}

// TestHostileMessages: bad messages are refused or end the connection; the next
// client notices nothing.
func TestHostileMessages(t *testing.T) {
	r := newRig(t, nil)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	file, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	unix.Ftruncate(file, 8192)
	u32, u64 := frontend.U32, frontend.U64
	for _, c := range []struct {
		request uint32
		payload []byte
		files   []int
	}{
		{0, nil, nil}, {19, u64(0), nil}, {22, u64(0), nil}, {35, u64(0), nil}, {39, u64(0), nil}, {1 << 31, nil, nil},
		{frontend.SetFeatures, nil, nil}, {frontend.SetFeatures, u64(1 << 63), nil}, {frontend.SetProtocol, u64(1 << 40), nil},
		{frontend.SetVringNum, u32(4, 8), nil}, {frontend.SetVringNum, u32(0, 0), nil}, {frontend.SetVringNum, u32(0, 1<<20), nil},
		{frontend.SetVringNum, u32(0), nil}, {frontend.SetVringAddr, u64(0), nil}, {frontend.SetVringAddr, append(u32(99, 0), u64(0, 0, 0, 0)...), nil},
		{frontend.SetVringKick, u64(0), nil}, {frontend.SetVringKick, u64(0), []int{file}}, {frontend.SetVringKick, u64(0), []int{event, event}},
		{frontend.SetVringKick, u64(4), []int{event}}, {frontend.SetVringCall, u64(0), []int{file}}, {frontend.SetVringErr, nil, []int{event}},
		{frontend.SetMemTable, u32(1, 0), []int{file}}, {frontend.SetMemTable, append(u32(1, 0), u64(0, 4096, 0, 0)...), nil},
		{frontend.SetMemTable, append(u32(1, 0), u64(0, 1<<40, 0, 0)...), []int{file}},
		{frontend.SetMemTable, append(u32(1, 0), u64(0, 4096, 0, 0)...), []int{event}},
		{frontend.SetMemTable, append(u32(2, 0), u64(0, 4096, 0, 0, 0, 4096, 0, 4096)...), []int{file, file}},
		{frontend.SetMemTable, u32(1<<31, 0), nil}, {frontend.SetMemTable, append(u32(1, 0), u64(^uint64(0), 4096, 0, 0)...), []int{file}},
		{frontend.AddMemReg, u64(0, 0), []int{file}}, {frontend.SetLogBase, u64(4096, 0), nil}, {frontend.SetLogBase, u64(1<<40, 0), []int{file}},
		{frontend.GetInflightFD, u64(0, 0), nil}, {frontend.GetInflightFD, append(u64(0, 0), u32(0xffffffff)...), nil},
		{frontend.SetInflightFD, append(u64(8192, 0), u32(1|128<<16, 0)...), nil},
		{frontend.SetInflightFD, append(u64(64, 0), u32(1|128<<16, 0)...), []int{file}},
		{frontend.SetInflightFD, append(u64(1<<40, 0), u32(1|128<<16, 0)...), []int{file}},
		{frontend.GetConfig, u32(0, 60), nil}, {frontend.GetConfig, u32(0, 257, 0), nil}, {frontend.GetConfig, u32(1<<31, 4, 0, 0), nil},
		{frontend.SetConfig, append(u32(0, 8, 0), make([]byte, 8)...), nil}, {frontend.SetBackendFD, nil, nil},
	} {
		f, err := frontend.Dial(r.path, frontend.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.OK(c.request, c.payload, c.files...); err == nil {
			t.Errorf("message %d %x is accepted", c.request, c.payload)
		}
		f.Close()
	}
	for _, raw := range [][]byte{{1}, frontend.Message(1, 0, nil), frontend.Message(1, 5, nil), append(u32(1, 1), u32(5000)...), bytes.Repeat([]byte{0xff}, 100)} {
		f, err := frontend.Connect(r.path)
		if err != nil {
			t.Fatal(err)
		}
		f.Raw(raw, event)
		f.Close()
	}
	do(t, r.dial(frontend.Options{}).Queue(0), frontend.In, 0, 4096)
	r.eventually("descriptors are closed", func() bool { return countFDs(t, "anon_inode:[eventfd]") < 30 })
}

func countFDs(t *testing.T, name string) (n int) {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if link, _ := os.Readlink("/proc/self/fd/" + e.Name()); link == name {
			n++
		}
	}
	return n
}

func TestPathTaken(t *testing.T) {
	gid := os.Getgid()
	if os.Getuid() == 0 {
		gid = 4242
	}
	r := newRig(t, func(c *Config) { c.Mode, c.GID = 0o600, gid })
	if info, err := os.Stat(r.path); err != nil || info.Mode().Perm() != 0o600 || int(info.Sys().(*syscall.Stat_t).Gid) != gid {
		t.Error(info, err)
	}
	r.on(func() {
		if _, err := New(Config{Loop: r.l, Env: r.l.Env(), Disk: r.disk, Path: r.path}); err == nil || !strings.Contains(err.Error(), r.path) {
			t.Errorf("%v", err)
		}
	})
}

func TestReadOnly(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ReadOnly = true })
	f := r.dial(frontend.Options{})
	if f.Features&(1<<5) == 0 {
		t.Error("it is not told")
	}
	if status, err := f.Queue(0).Do(frontend.Out, 0, 4096); status != 1 || err != nil {
		t.Error(fmt.Sprint(status, err))
	}
}
