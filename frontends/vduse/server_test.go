package vduse

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/guestmem"
	"vitastor/internal/loop"
)

const (
	deviceName = "disk"
	diskBytes  = 4 << 20
)

// store is what a disk consists of; it outlives servers.
type store struct {
	mu     sync.Mutex
	data   []byte
	size   uint64
	writes int
}

// heldDisk is a disk whose requests are done when the test wants.
type heldDisk struct {
	*store
	exec env.Exec
	task env.Task
	hold bool
	list []*blockdev.Request
}

func (d *heldDisk) Info() blockdev.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return blockdev.Info{Name: "test", SizeBytes: d.size, GranuleBytes: 4096, ObjectBytes: 128 << 10, WriteCache: true}
}

func (d *heldDisk) Close() {}

func (d *heldDisk) Submit(r *blockdev.Request) {
	if d.list = append(d.list, r); !d.hold {
		d.task.Run = func() { d.work(len(d.list)) }
		d.exec.Defer(&d.task)
	}
}

// work does the first n requests, the last one first.
func (d *heldDisk) work(n int) {
	now := d.list[:n]
	d.list = slices.Clone(d.list[n:])
	for _, r := range slices.Backward(now) {
		d.do(r)
		r.Done(r)
	}
}

func (d *heldDisk) do(r *blockdev.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := d.data[r.Offset:]
	for _, b := range r.Iov {
		if r.Kind == blockdev.Write {
			at = at[copy(at, b):]
			d.writes++
		} else {
			at = at[copy(b, at):]
		}
	}
	r.Err = 0
}

// host is a host with the fake kernel.
type host struct {
	testing.TB
	k     *fakeKernel
	store *store
	queue int // of new devices
	size  uint16
}

func newHost(t testing.TB, c driverConfig) *host {
	t.Setenv("VITASTOR_RUN_DIR", t.TempDir())
	return &host{TB: t, k: newFakeKernel(t, c), store: &store{data: make([]byte, 4*diskBytes), size: diskBytes}, queue: 2, size: 16}
}

// logged is what a server has logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logged) Len() int { return len(l.String()) }

// life is a server from its start to its death.
type life struct {
	*host
	loop    *loop.Loop
	cancel  func()
	ended   chan struct{}
	server  *server
	disk    *heldDisk
	handle  Device
	journal *journal
	log     *logged
	failed  chan error
}

// live makes a process with a server, which knows no device yet.
func (h *host) live() *life {
	h.Helper()
	l, err := loop.New(loop.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	h.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &life{host: h, loop: l, cancel: cancel, ended: make(chan struct{}), log: &logged{}, failed: make(chan error, 1)}
	go func() { defer close(s.ended); l.Run(ctx) }()
	s.journal, err = openJournal(deviceName)
	h.must(err)
	return s
}

func (s *life) open() error {
	return s.do(func() (err error) {
		e := s.loop.Env()
		s.disk = &heldDisk{store: s.store, exec: e.Exec}
		s.server, err = newServer(serverConfig{loop: s.loop, env: e, log: slog.New(slog.NewTextHandler(s.log, nil)), disk: s.disk,
			serial: deviceName, journal: s.journal, ended: func(err error) { s.failed <- err }})
		return err
	})
}

// create makes the device and attaches it.
func (h *host) create() *life {
	h.Helper()
	s := h.live()
	h.must(s.journal.create(h.queue, h.size))
	h.must(s.open())
	h.must(h.k.Create(s.server.deviceConfig(deviceName)))
	var err error
	s.handle, err = h.k.Open(deviceName)
	h.must(err)
	h.must(s.do(func() error { return s.server.begin(s.handle) }))
	h.must(h.k.Attach(deviceName))
	return s
}

// takeOver serves the device after a death.
func (h *host) takeOver(hold bool) *life {
	h.Helper()
	s, err := h.tryTakeOver(hold)
	h.must(err)
	return s
}

func (h *host) tryTakeOver(hold bool) (*life, error) {
	s := h.live()
	if err := s.journal.load(); err != nil {
		return s, err
	}
	if err := s.open(); err != nil {
		return s, err
	}
	var err error
	s.handle, err = h.k.Open(deviceName)
	h.must(err)
	return s, s.do(func() error {
		s.disk.hold = hold
		return s.server.resume(s.handle)
	})
}

// do runs something on the loop.
func (s *life) do(f func() error) error {
	return onLoop(s.loop, func(done func(error)) { done(f()) })
}

// kill ends the process in the middle of what it does: only files stay.
func (s *life) kill() {
	s.cancel()
	<-s.ended
	s.handle.Close()
	s.journal.close()
}

// leave ends the server as it wants.
func (s *life) leave() {
	s.Helper()
	s.must(onLoop(s.loop, s.server.end))
	s.cancel()
	<-s.ended
	s.journal.close()
	if s.log.Len() > 0 {
		s.Errorf("log: %s", s.log)
	}
}

func (s *life) holding() (n int) {
	s.must(s.do(func() error { n = len(s.disk.list); return nil }))
	return n
}

// finish lets the disk do n requests, and, if go_on, all that come.
func (s *life) finish(n int, goOn bool) {
	s.must(s.do(func() error {
		s.disk.hold = !goOn
		s.disk.work(min(n, len(s.disk.list)))
		return nil
	}))
}

func (h *host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// until waits for something that will be soon.
func (h *host) until(what string, f func() bool) {
	h.Helper()
	for end := time.Now().Add(waitLimit); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("%s does not happen: %v", what, h.k.device(deviceName))
		}
	}
}

func (h *host) driver() *driver { return h.k.device(deviceName).driver }

// everyDriver runs a test with drivers of all kinds.
func everyDriver(t *testing.T, f func(h *host)) {
	for i := range 8 {
		c := driverConfig{packed: i&1 != 0, indirect: i&2 != 0, eventIdx: i&4 != 0}
		t.Run(fmt.Sprintf("packed=%v indirect=%v eventidx=%v", c.packed, c.indirect, c.eventIdx), func(t *testing.T) {
			f(newHost(t, c))
		})
	}
}

func pattern(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestServe: requests of several threads on two queues, through to the disk.
func TestServe(t *testing.T) {
	everyDriver(t, func(h *host) {
		mapped := guestmem.Mapped()
		s := h.create()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(1, uint64(i)))
				q := h.driver().queues[i%2]
				for range 200 {
					sector := uint64(i)*2048 + r.Uint64N(2000)
					data := pattern(r, 512*(1+r.IntN(40)))
					q.write(h, sector, data)
					if !bytes.Equal(q.read(h, sector, len(data)), data) {
						h.Errorf("sector %d is not what was written", sector)
						return
					}
				}
				q.start(blkFlush, 0, nil, 0).wait(h)
			}()
		}
		wg.Wait()
		for _, q := range h.driver().queues {
			q.mu.Lock()
			if q.signal == 0 || q.added != q.completed {
				h.Errorf("%d interrupts, %d requests, %d completed", q.signal, q.added, q.completed)
			}
			q.mu.Unlock()
		}
		h.must(h.k.Detach(deviceName))
		s.leave()
		h.must(h.k.Destroy(deviceName))
		if n := guestmem.Mapped(); n != mapped {
			h.Errorf("%d mappings are left", n-mapped)
		}
	})
}

// TestTakeOver kills servers again and again. What they had is done by the next
// one, once.
func TestTakeOver(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		r := rand.New(rand.NewPCG(2, 2))
		for round := range 12 {
			h.must(s.do(func() error { s.disk.hold = true; return nil }))
			var list []*request
			var want [][]byte
			n := 1 + r.IntN(8)
			for i := range n {
				data := pattern(r, 4096)
				want = append(want, data)
				list = append(list, h.driver().queues[i%2].start(blkOut, uint64(8*i), data, 0))
			}
			h.until("all requests are taken", func() bool { return s.holding() == n })
			done := r.IntN(n)
			s.finish(done, false)
			s.kill()
			s = h.takeOver(true)
			if got := s.holding(); got != n-done {
				h.Fatalf("round %d: %d of %d requests were completed, %d are done again", round, done, n, got)
			}
			s.finish(n, true)
			for i, q := range list {
				q.wait(h)
				if got := h.driver().queues[1].read(h, uint64(8*i), 4096); !bytes.Equal(got, want[i]) {
					h.Fatalf("round %d: request %d is not on the disk", round, i)
				}
			}
		}
		if s.log.Len() > 0 {
			h.Error(s.log)
		}
		s.kill()
		s = h.takeOver(false)
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}

// TestKillWhileIdle: new requests come while there is no server.
func TestKillWhileIdle(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		q := h.driver().queues[0]
		q.write(h, 0, make([]byte, 512))
		s.leave()
		list := []*request{q.start(blkOut, 8, bytes.Repeat([]byte{7}, 512), 0), q.start(blkIn, 0, nil, 512)}
		s = h.takeOver(false)
		for _, r := range list {
			r.wait(h)
		}
		if got := q.read(h, 8, 512); got[0] != 7 || h.store.writes != 2 {
			h.Errorf("%d, %d writes", got[0], h.store.writes)
		}
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}
