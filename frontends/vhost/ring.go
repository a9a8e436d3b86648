package vhost

import (
	"errors"
	"fmt"
	"time"

	"vitastor/frontends/virtio"
	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
)

// pollInterval is for rings whose driver does not kick.
const pollInterval = 100 * time.Microsecond

// ring is what a client says about a virtqueue.
type ring struct {
	s *client
	i int

	num   uint32
	addr  vringAddr
	known bool   // addr is
	base  uint32 // where to begin, packed by virtio.State
	// started by a kick descriptor, stopped by GET_VRING_BASE.
	started, enabled bool
	kick, call, err  int // eventfds; -1 = none
	watch            *loop.Watch
	poll             env.Timer // without a kick descriptor

	running bool
	broken  bool
	onStop  []func() // when it has stopped; nil = it is not being stopped
}

func newRing(s *client, i int) *ring {
	r := &ring{s: s, i: i, kick: -1, call: -1, err: -1}
	r.poll.Fire = r.polled
	return r
}

func (r *ring) setNum(n uint32) error {
	if r.running {
		return fmt.Errorf("ring %d: its size changes while it is running", r.i)
	}
	if n == 0 || n > virtio.QueueSizeMax {
		return fmt.Errorf("ring %d: %d descriptors, 1 to %d are possible", r.i, n, virtio.QueueSizeMax)
	}
	r.num = n
	r.update()
	return nil
}

func (r *ring) setBase(base uint32) error {
	if r.running {
		return fmt.Errorf("ring %d: its position changes while it is running", r.i)
	}
	r.base, r.broken = base, false
	return nil
}

// setAddr takes the addresses of the parts, or another way to log of the same.
func (r *ring) setAddr(a vringAddr) error {
	r.addr, r.known = a, true
	if r.running {
		if _, err := r.find(); err != nil {
			return err
		}
		r.move()
	}
	r.s.updateLog()
	r.update()
	return nil
}

// setKick takes the descriptor that tells of new requests, -1 = poll; it starts
// the ring.
func (r *ring) setKick(fd int) error {
	r.unwatch()
	replaceFD(&r.kick, fd)
	if fd >= 0 {
		w, err := r.s.x.c.Loop.Watch(fd, r.kicked)
		if err != nil {
			return err
		}
		r.watch = w
	} else {
		r.s.x.c.Env.Clock.Arm(&r.poll, pollInterval)
	}
	r.started = true
	r.update()
	return nil
}

func (r *ring) unwatch() {
	if r.watch != nil {
		r.watch.Close()
		r.watch = nil
	}
	r.s.x.c.Env.Clock.Disarm(&r.poll)
}

// kicked is called when the driver has something new.
func (r *ring) kicked() {
	sys.DrainEventfd(r.kick)
	if r.running {
		r.s.blk.Kick(r.i)
	}
}

// polled looks for something new without being told.
func (r *ring) polled() {
	if r.running {
		r.s.blk.Poll(r.i)
	}
	r.s.x.c.Env.Clock.Arm(&r.poll, pollInterval)
}

// interrupt tells the driver of completed requests.
func (r *ring) interrupt() {
	if r.call >= 0 {
		sys.WakeEventfd(r.call)
	}
}

// breaks is called when the driver broke the rules, or memory has vanished.
func (r *ring) breaks(err error) {
	r.broken = true
	r.s.x.log.Warn("a queue is broken until the guest resets the device", "queue", r.i, "err", err)
	if r.err >= 0 {
		sys.WakeEventfd(r.err)
	}
}

// packed tells which kind of ring was negotiated.
func (r *ring) packed() bool { return r.s.features&virtio.FeaturePacked != 0 }

// wanted tells whether the ring should be running.
func (r *ring) wanted() bool {
	s := r.s
	enabled := r.enabled || s.features&featureProtocolFeatures == 0
	return r.started && enabled && r.known && r.num > 0 && s.mem.space != nil && !r.broken && !s.dead
}

// update starts or stops the ring. It is not started while requests of a former
// client are in flight.
func (r *ring) update() {
	switch want := r.wanted(); {
	case want && !r.running && len(r.s.x.draining) == 0:
		r.start()
	case !want && r.running && !r.broken, r.running && r.s.dead:
		r.stop(func() {})
	}
}

// find is the memory of the ring.
func (r *ring) find() (rings virtio.Rings, err error) {
	desc, driver, device := virtio.LayoutOf(r.s.features, uint16(r.num)).Bytes()
	var errs [3]error
	rings.Desc, _, errs[0] = r.s.mem.user(r.addr.desc, desc)
	rings.Driver, _, errs[1] = r.s.mem.user(r.addr.driver, driver)
	rings.Device, _, errs[2] = r.s.mem.user(r.addr.used, device)
	return rings, errors.Join(errs[:]...)
}

// ringLog says where changes of the ring are logged. The log address that the
// client gives is that of the used ring; it has none for packed rings.
func (r *ring) ringLog() virtio.RingLog {
	l := virtio.RingLog{On: r.known && r.addr.flags&vringLog != 0, Device: r.addr.log}
	if l.On && r.packed() {
		_, l.Desc, _ = r.s.mem.user(r.addr.desc, 1)
		_, l.Device, _ = r.s.mem.user(r.addr.used, 1)
	}
	return l
}

// start begins to serve the ring.
func (r *ring) start() {
	rings, err := r.find()
	var inflight *virtio.Inflight
	if err == nil && r.s.inflight != nil && r.i < int(r.s.area.queues) {
		stride := r.s.stride(r.s.area.queueDescs)
		area := r.s.inflight.Data()[uint64(r.i)*stride:][:stride]
		inflight, err = virtio.NewInflight(area, uint16(r.num), r.packed())
	}
	if err != nil {
		r.breaks(err)
		return
	}
	r.running = true
	r.s.running++
	err = r.s.blk.Start(r.i, int(r.num), r.s.mem.space, rings, virtio.Unpack(r.base, r.packed()), inflight)
	if err != nil {
		r.running = false
		r.s.running--
		r.breaks(err)
	}
}

// move tells the queue of another mapping of memory.
func (r *ring) move() {
	if !r.running {
		r.update()
		return
	}
	if r.s.mem.space == nil {
		r.breaks(errors.New("the memory of a running ring was taken away"))
		return
	}
	rings, err := r.find()
	if err != nil {
		r.breaks(err)
		r.stop(func() {})
		return
	}
	r.s.blk.Move(r.i, r.s.mem.space, rings)
}

// stop calls done when nothing of the ring is in flight any more, maybe inside.
func (r *ring) stop(done func()) {
	if !r.running {
		done()
		return
	}
	stopping := r.onStop != nil
	r.onStop = append(r.onStop, done)
	if !stopping {
		r.s.blk.Stop(r.i, r.stopped)
	}
}

func (r *ring) stopped(state virtio.State) {
	r.base = state.Pack(r.packed())
	r.running = false
	r.s.running--
	list := r.onStop
	r.onStop = nil
	for _, done := range list {
		done()
	}
	r.update()
	r.s.drain()
}

// forget is for a reset of the device: everything but descriptors.
func (r *ring) forget() {
	r.num, r.known, r.base, r.broken = 0, false, 0, false
	r.addr = vringAddr{}
}

// close gives descriptors back.
func (r *ring) close() {
	r.unwatch()
	replaceFD(&r.kick, -1)
	replaceFD(&r.call, -1)
	replaceFD(&r.err, -1)
}
