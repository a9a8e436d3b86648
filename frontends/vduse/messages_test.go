package vduse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/vduse/uapi"
	"vitastor/frontends/virtio"
	"vitastor/internal/guestmem"
)

// TestResetWaits: the driver gets its memory back only when nothing uses it.
func TestResetWaits(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		h.must(s.do(func() error { s.disk.hold = true; return nil }))
		q := h.driver().queues[0]
		q.start(blkIn, 0, nil, 4096)
		h.until("the request is taken", func() bool { return s.holding() == 1 })
		removed := make(chan error, 1)
		go func() { removed <- h.k.Detach(deviceName) }()
		// Other requests of the kernel are answered meanwhile.
		h.until("the reset is read", func() bool { return h.k.device(deviceName).unread() == 0 })
		_, err := h.k.device(deviceName).ask(uapi.Request{Type: uapi.UpdateIOTLB, Start: 1 << 50, Last: 1<<50 + 4095})
		h.must(err)
		if _, err := h.k.device(deviceName).ask(uapi.Request{Type: 99}); !errors.Is(err, syscall.EIO) {
			h.Errorf("a request of an unknown type: %v", err)
		}
		select {
		case err := <-removed:
			h.Fatalf("the device is reset while a request is in flight (%v)", err)
		case <-time.After(50 * time.Millisecond):
		}
		s.finish(1, true)
		h.must(<-removed)
		if st := s.journal.status(); st != 0 || bytes.ContainsFunc(s.journal.memory[journalHead:], func(r rune) bool { return r != 0 }) {
			h.Errorf("the journal knows of the old rings, status %d", st)
		}
		// The next driver begins anew.
		h.must(h.k.Attach(deviceName))
		h.driver().queues[1].write(h, 0, make([]byte, 512))
		h.must(h.k.Detach(deviceName))
		if !strings.Contains(s.log.String(), "request type 99") {
			h.Errorf("log: %s", s.log)
		}
		s.log.Reset()
		s.leave()
	})
}

// unread is the number of messages that were not read.
func (d *fakeDevice) unread() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.waiting)
}

// TestKillInReset: the server dies between any steps of a reset.
func TestKillInReset(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		for _, step := range []func(){
			func() {},
			func() { s.journal.setStatus(0) },
			func() { s.journal.setStatus(0); s.journal.forget() },
		} {
			q := h.driver().queues[0]
			for range 20 {
				q.write(h, 0, []byte(strings.Repeat("x", 512)))
			}
			writes := h.store.writes
			// The server reads the request, and does a part.
			h.must(s.do(func() error { s.server.watch.Close(); return nil }))
			removed := make(chan error, 1)
			go func() { removed <- h.k.Detach(deviceName) }()
			h.until("the reset is asked for", func() bool { return h.k.device(deviceName).unread() == 1 })
			s.handle.Receive()
			step()
			s.kill()
			s = h.takeOver(false)
			h.must(<-removed)
			if h.store.writes != writes {
				h.Errorf("requests that were answered are done again: %d", h.store.writes-writes)
			}
			h.must(h.k.Attach(deviceName))
		}
		h.driver().queues[0].write(h, 0, make([]byte, 512))
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}

// TestResetWhileEnding: a server that ends does not answer any more, the next one
// does.
func TestResetWhileEnding(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		h.must(s.do(func() error { s.disk.hold = true; return nil }))
		h.driver().queues[0].start(blkIn, 0, nil, 4096)
		h.until("the request is taken", func() bool { return s.holding() == 1 })
		d := h.k.device(deviceName)
		ended := make(chan error, 1)
		h.must(s.do(func() error { s.server.end(func(err error) { ended <- err }); return nil }))
		removed := make(chan error, 1)
		go func() { removed <- h.k.Detach(deviceName) }()
		state := make(chan error, 1)
		go func() {
			_, err := d.ask(uapi.Request{Type: uapi.GetQueueState})
			state <- err
		}()
		h.until("the reset is read", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(d.read) == 2
		})
		s.finish(1, true)
		h.must(<-ended)
		if st := s.journal.status(); st&statusDriverOK == 0 {
			h.Errorf("the journal says %d, the driver was told nothing", st)
		}
		s.cancel()
		<-s.ended
		s.journal.close()
		s = h.takeOver(false)
		h.must(errors.Join(<-removed, <-state))
		s.leave()
	})
}

// TestKillInProbe: the server dies when the driver has just said that it is
// ready.
func TestKillInProbe(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		h.must(h.k.Detach(deviceName))
		h.must(s.do(func() error { s.server.watch.Close(); return nil }))
		attached := make(chan error, 1)
		go func() { attached <- h.k.Attach(deviceName) }()
		for done := false; !done; {
			h.until("a message", func() bool { return h.k.device(deviceName).unread() == 1 })
			h.must(s.do(func() error {
				r, ok, err := s.handle.Receive()
				if done = ok && r.Status&statusDriverOK != 0; done {
					s.handle = &mute{s.handle}
					s.server.device = s.handle
				}
				return errors.Join(err, s.server.handle(r))
			}))
		}
		s.kill()
		s = h.takeOver(false)
		h.must(<-attached)
		h.driver().queues[0].write(h, 0, make([]byte, 512))
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}

// mute is a device whose answers get lost: the server dies before it.
type mute struct{ Device }

func (m *mute) Answer(uapi.Response) error { return nil }

// TestMemoryMoves: the kernel says that addresses mean something else.
func TestMemoryMoves(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		q := h.driver().queues[0]
		q.write(h, 0, bytes.Repeat([]byte{1}, 4096))
		h.must(s.do(func() error { s.disk.hold = true; return nil }))
		inFlight := q.start(blkIn, 0, nil, 4096)
		h.until("the request is taken", func() bool { return s.holding() == 1 })
		before := guestmem.Mapped()
		// All regions are replaced by others of the same memory.
		d := h.k.device(deviceName)
		for range 3 {
			_, err := d.ask(uapi.Request{Type: uapi.UpdateIOTLB, Start: 0, Last: 1<<64 - 1})
			h.must(err)
		}
		regions := len(d.regions)
		if n := guestmem.Mapped(); n != before+regions {
			h.Errorf("%d mappings while a request uses old ones, %d before, %d regions", n, before, regions)
		}
		s.finish(1, true)
		if data := inFlight.wait(h); data[0] != 1 {
			h.Errorf("the request in flight has read %d", data[0])
		}
		q.write(h, 8, bytes.Repeat([]byte{2}, 4096))
		if n := guestmem.Mapped(); n != before {
			h.Errorf("%d mappings, %d before", n, before)
		}
		// The data's memory is taken away, and comes back later.
		d.mu.Lock()
		data := d.regions[0]
		d.regions = d.regions[1:]
		d.mu.Unlock()
		_, err := d.ask(uapi.Request{Type: uapi.UpdateIOTLB, Start: data.Start, Last: data.Last})
		h.must(err)
		if n := guestmem.Mapped(); n != before-1 {
			h.Errorf("%d mappings without that of the data", n)
		}
		d.addRegion(data)
		if got := q.read(h, 8, 512); got[0] != 2 {
			h.Errorf("%d is read", got[0])
		}
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}

// TestRingsVanish: a queue without memory is not served; a reset heals it.
func TestRingsVanish(t *testing.T) {
	h := newHost(t, driverConfig{})
	s := h.create()
	h.driver().queues[0].write(h, 0, make([]byte, 512))
	d := h.k.device(deviceName)
	d.mu.Lock()
	d.regions = d.regions[:1]
	d.mu.Unlock()
	_, err := d.ask(uapi.Request{Type: uapi.UpdateIOTLB, Start: ringsAt, Last: 1<<64 - 1})
	h.must(err)
	d.kick(0)
	h.until("the queue is stopped", func() bool {
		running := true
		h.must(s.do(func() error { running = s.server.queues[0].running; return nil }))
		return !running
	})
	h.must(h.k.Detach(deviceName))
	h.must(h.k.Attach(deviceName))
	h.driver().queues[0].write(h, 0, make([]byte, 512))
	h.must(h.k.Detach(deviceName))
	if !strings.Contains(s.log.String(), "taken its memory away") {
		t.Errorf("log: %s", s.log)
	}
	s.log.Reset()
	s.leave()
}

// TestMemoryThatVanishes: files can become shorter, so nothing is handed out of
// them.
func TestMemoryThatVanishes(t *testing.T) {
	h := newHost(t, driverConfig{file: t.TempDir()})
	s := h.create()
	q := h.driver().queues[0]
	data := bytes.Repeat([]byte("data"), 1024)
	q.write(h, 0, data)
	if !bytes.Equal(q.read(h, 0, 4096), data) {
		t.Error("what was written is not read")
	}
	h.must(s.do(func() error {
		if s.server.space.Stable() || s.server.blk.Stats(0).Bounced != 2 {
			t.Errorf("stable %v, %+v", s.server.space.Stable(), s.server.blk.Stats(0))
		}
		return nil
	}))
	h.must(syscall.Ftruncate(h.driver().data.fd, 0))
	s.log.Reset()
	guestmem.Store16(q.avail, 4, 0) // the next entry: head 0 again
	q.mu.Lock()
	guestmem.Store16(q.avail, 2, q.next+1)
	q.mu.Unlock()
	h.k.device(deviceName).kick(0)
	broken := false
	h.until("the queue breaks", func() bool {
		h.must(s.do(func() error { broken = s.server.blk.Stats(0).Broken; return nil }))
		return broken
	})
	h.must(h.k.Detach(deviceName))
	s.log.Reset()
	s.leave()
}

// TestBrokenQueue: nonsense in a ring stops this queue, until the next reset.
func TestBrokenQueue(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		q := h.driver().queues[0]
		q.write(h, 0, make([]byte, 512))
		if q.d.c.packed {
			binary.LittleEndian.PutUint64(q.desc[16*int(q.next):], 1<<60)
			binary.LittleEndian.PutUint32(q.desc[16*int(q.next)+8:], 16)
			guestmem.Store16(q.desc, 16*int(q.next)+14, flagAvail)
		} else {
			guestmem.Store16(q.avail, 2, q.next+1000)
		}
		h.k.device(deviceName).kick(0)
		h.until("the queue breaks", func() (broken bool) {
			h.must(s.do(func() error { broken = s.server.blk.Stats(0).Broken; return nil }))
			return broken
		})
		h.driver().queues[1].write(h, 8, make([]byte, 512))
		if !strings.Contains(s.log.String(), "breaks the rules") {
			h.Errorf("log: %s", s.log)
		}
		s.log.Reset()
		h.must(h.k.Detach(deviceName))
		h.must(h.k.Attach(deviceName))
		h.driver().queues[0].write(h, 0, make([]byte, 512))
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}

// TestQueueState: where a queue is, is told when nothing of it is in flight.
func TestQueueState(t *testing.T) {
	everyDriver(t, func(h *host) {
		s := h.create()
		q := h.driver().queues[0]
		for range 3 {
			q.write(h, 0, make([]byte, 512))
		}
		h.must(s.do(func() error { s.disk.hold = true; return nil }))
		inFlight := q.start(blkIn, 0, nil, 512)
		h.until("the request is taken", func() bool { return s.holding() == 1 })
		d := h.k.device(deviceName)
		answer := make(chan uapi.Response, 1)
		go func() {
			a, _ := d.ask(uapi.Request{Type: uapi.GetQueueState, Index: 0})
			answer <- a
		}()
		h.until("the question is read", func() bool { return d.unread() == 0 })
		s.finish(1, true)
		inFlight.wait(h)
		want := virtio.State{Avail: 4, Used: 4}
		if q.d.c.packed {
			want = virtio.State{Avail: q.next, Used: q.last, AvailWrap: q.wrap, UsedWrap: q.lastWrap}
		}
		if a := <-answer; a.State != want || a.Index != 0 || a.Packed != q.d.c.packed {
			h.Errorf("%+v, want %+v", a, want)
		}
		if a, err := d.ask(uapi.Request{Type: uapi.GetQueueState, Index: 0}); err != nil || a.Packed != q.d.c.packed {
			h.Errorf("%+v %v", a, err)
		}
		if _, err := d.ask(uapi.Request{Type: uapi.GetQueueState, Index: 9}); err == nil {
			h.Error("a queue that does not exist has a state")
		}
		s.log.Reset()
		h.must(h.k.Detach(deviceName))
		s.leave()
	})
}

// TestResize: the driver is told the capacity once, also by the next server.
func TestResize(t *testing.T) {
	h := newHost(t, driverConfig{})
	s := h.create()
	d := h.k.device(deviceName)
	check := func(bytes uint64, changes int) {
		t.Helper()
		d.mu.Lock()
		defer d.mu.Unlock()
		if got := binary.LittleEndian.Uint64(d.config) * 512; got != bytes || d.changes != changes {
			t.Errorf("capacity %d, want %d; told %d times, want %d", got, bytes, d.changes, changes)
		}
	}
	resize := func(bytes uint64) {
		h.store.mu.Lock()
		h.store.size = bytes
		h.store.mu.Unlock()
	}
	check(diskBytes, 0)
	resize(2 * diskBytes)
	h.must(s.do(func() error { s.server.resized(2 * diskBytes); return nil }))
	check(2*diskBytes, 1)
	s.log.Reset()
	s.leave()
	s = h.takeOver(false)
	h.must(s.do(s.server.announce))
	check(2*diskBytes, 1)
	s.leave()
	resize(3 * diskBytes)
	s = h.takeOver(false)
	h.must(s.do(s.server.announce))
	check(3*diskBytes, 2)
	h.driver().queues[0].write(h, 2*diskBytes/512, make([]byte, 512))
	h.must(h.k.Detach(deviceName))
	s.leave()
}

// TestBadDrivers are refused when they say that they are ready.
func TestBadDrivers(t *testing.T) {
	h := newHost(t, driverConfig{})
	s := h.create()
	h.must(h.k.Detach(deviceName))
	d := h.k.device(deviceName)
	v := newDriver(d, driverConfig{})
	for name, f := range map[string]func(){
		"features": func() { d.features = virtio.FeatureVersion1 | 1<<50 },
		"old":      func() { d.features = virtio.FeatureAccess },
		"size 0":   func() { d.queues[0].info.Size = 0 },
		"too large": func() {
			d.queues[1].info.Size = 1000
		},
		"no memory":      func() { d.regions = nil },
		"wrong address":  func() { d.queues[0].info.Device = 0xfff_ffff_ffff_fff0 },
		"read-only ring": func() { d.regions[0].Write = false },
		"overlap": func() {
			r := d.regions[0]
			r.Start += 64
			r.Last += 64
			d.regions = slices.Insert(d.regions, 1, r)
		},
	} {
		h.must(d.setStatus(0))
		h.must(d.setStatus(3))
		d.mu.Lock()
		d.features = d.offered &^ virtio.FeaturePacked
		d.mu.Unlock()
		v.queues, v.rings = nil, 0
		for i := range d.queues {
			v.addQueue(i)
		}
		d.mu.Lock()
		f()
		d.mu.Unlock()
		if err := d.setStatus(15); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
		if s.journal.status()&statusDriverOK != 0 {
			t.Errorf("%s: the journal says that the driver is ready", name)
		}
	}
	s.log.Reset()
	h.must(h.k.Attach(deviceName))
	h.driver().queues[0].write(h, 0, make([]byte, 512))
	h.must(h.k.Detach(deviceName))
	s.leave()
}
