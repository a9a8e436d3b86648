// Package vduse serves images as block devices of this host's kernel by VDUSE
// (linux/vduse.h): the device is a virtio-blk device on the vDPA bus, whose
// driver in the kernel puts requests into rings in memory that it shares with
// this program.
//
//	/dev/vdX ── virtio-blk ── virtio_vdpa ── vDPA bus ── vduse ── /dev/vduse/NAME
//	                                                                  │ messages, kicks, interrupts
//	image ── blockdev.Image ── virtio.Blk ── rings in shared memory ──┘
//
// A device outlives its server. What the driver has handed out and not got back
// is in the journal, a file in memory; the next server of the device does that
// again and goes on. The kernel lets the users of the device wait meanwhile.
//
// Guarantee: each request of the driver is answered exactly once, whatever
// happens to servers, as long as the journal is there. Memory of the driver is
// unmapped only when no request uses it. The driver is told that the device was
// reset only when nothing touches its memory any more.
//
// Concurrency: a server lives on one loop. Tool is used from one goroutine; what
// may block (netlink, modules) runs there, while the loop serves the device.
package vduse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/vduse/uapi"
	"vitastor/frontends/virtio"
	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
)

// Status of a device, as its driver sets it (virtio 1.2 §2.1).
const (
	statusFeaturesOK = 8
	statusDriverOK   = 4
)

const (
	deviceBlock = 2 // virtio's number of block devices
	vendor      = 0x56495441
	ringAlign   = 4096
	// messagesPerEvent: then requests have their turn.
	messagesPerEvent = 16
	// ringFeatures are those that another server has to know, too; others change
	// with the image.
	ringFeatures = virtio.FeatureIndirect | virtio.FeatureEventIdx | virtio.FeatureVersion1 | virtio.FeaturePacked
)

// serverConfig is what a server needs.
type serverConfig struct {
	loop     *loop.Loop
	env      *env.Env
	log      *slog.Logger
	disk     blockdev.Disk
	serial   string
	readOnly bool
	noPacked bool // packed rings are not offered
	journal  *journal
	// ended is called, on the loop, when the device cannot be served any more.
	ended func(error)
}

// server is the device's side of /dev/vduse/NAME.
type server struct {
	serverConfig
	device Device
	blk    *virtio.Blk
	watch  *loop.Watch
	queues []queue
	space  *space // nil = the driver is not ready

	offered, features uint64
	resets            []uint32 // requests to reset the device that wait for the last queue
	closed            bool
}

// queue is one of a device.
type queue struct {
	kick    int // eventfd
	watch   *loop.Watch
	running bool                 // between Start and the end of Stop
	stopped []func(virtio.State) // who waits for the end of Stop
	layout  virtio.Layout
	info    uapi.QueueInfo
}

// newServer makes a server. Its queues are those of the journal, which may be
// that of another one that is dead.
func newServer(c serverConfig) (*server, error) {
	s := &server{serverConfig: c}
	var err error
	s.blk, err = virtio.NewBlk(virtio.BlkConfig{Env: c.env, Disk: c.disk, Serial: c.serial, ReadOnly: c.readOnly,
		Queues: c.journal.queues, QueueSize: int(c.journal.size), NoConfigWCE: true, NoPacked: c.noPacked,
		Interrupt: s.interrupt, Broken: s.broken})
	if err != nil {
		return nil, err
	}
	s.offered = s.blk.Features() | virtio.FeatureAccess
	s.queues = make([]queue, c.journal.queues)
	for i := range s.queues {
		s.queues[i].kick = -1
	}
	return s, nil
}

// deviceConfig is what the kernel makes the device of.
func (s *server) deviceConfig(name string) uapi.DeviceConfig {
	space := s.blk.Config()
	s.journal.setFeatures(s.offered)
	s.journal.setCapacity(capacityOf(space[:]))
	return uapi.DeviceConfig{Name: name, VendorID: vendor, DeviceID: deviceBlock, Features: s.offered,
		Queues: uint32(len(s.queues)), Align: ringAlign, Config: space[:]}
}

// begin serves a device that was just created.
func (s *server) begin(d Device) error {
	s.device = d
	for i := range s.queues {
		if err := d.SetupQueue(i, s.journal.size); err != nil {
			return err
		}
	}
	if err := s.announce(); err != nil { // it may have changed since the device was created
		return err
	}
	return s.listen()
}

// resume serves a device whose server has died.
func (s *server) resume(d Device) error {
	s.device = d
	if lost := s.journal.features() & ringFeatures &^ s.offered; lost != 0 {
		return fmt.Errorf("the device was created with features that this program does not know (%#x): use the one that has mapped it", lost)
	}
	s.offered = s.journal.features()
	if err := s.listen(); err != nil {
		return err
	}
	if s.journal.status()&statusDriverOK == 0 {
		return nil // the driver will tell more
	}
	if err := s.start(); err != nil {
		return err
	}
	// What the other server has not told.
	for i := range s.queues {
		if s.queues[i].running {
			s.interrupt(i)
		}
	}
	return nil
}

// listen waits for messages and kicks.
func (s *server) listen() (err error) {
	for i := range s.queues {
		q := &s.queues[i]
		if q.kick, err = sys.NewEventfd(); err != nil {
			return err
		}
		q.watch, err = s.loop.Watch(q.kick, func() { s.kicked(i) })
		if err != nil {
			return err
		}
	}
	s.watch, err = s.loop.Watch(s.device.FD(), s.receive)
	return err
}

// kicked runs when the driver has put something into a queue.
func (s *server) kicked(i int) {
	q := &s.queues[i]
	sys.DrainEventfd(q.kick)
	if q.running {
		s.blk.Kick(i)
	}
}

// interrupt tells the driver about a queue. A driver that is not ready yet does
// not want to know.
func (s *server) interrupt(i int) {
	if err := s.device.Interrupt(i); err != nil && !errors.Is(err, syscall.EINVAL) {
		s.log.Error("the driver is not told about a queue", "queue", i, "err", err)
	}
}

// broken runs when the driver has broken the rules. VDUSE has no way to tell it.
func (s *server) broken(i int, err error) {
	s.log.Error("the driver breaks the rules of virtio: its queue is not served any more, until the device is reset", "queue", i, "err", err)
}

// announce tells the driver how large the device is, unless it knows that.
func (s *server) announce() error {
	if s.device == nil {
		return nil // it will be created so
	}
	space := s.blk.Config()
	capacity := capacityOf(space[:])
	if capacity == s.journal.capacity() {
		return nil
	}
	if err := s.device.SetConfig(space[:]); err != nil {
		return err
	}
	s.journal.setCapacity(capacity)
	return nil
}

// capacityOf is the first field of the configuration space, in sectors.
func capacityOf(space []byte) uint64 { return binary.LittleEndian.Uint64(space) }

// resized runs when the size of the image has changed.
func (s *server) resized(sizeBytes uint64) {
	if err := s.announce(); err != nil {
		s.log.Error("the new size of the image is not seen by the device: unmap and map it", "err", err)
		return
	}
	s.log.Info("the size of the image has changed", "bytes", sizeBytes)
}

// start begins to serve all queues: the driver is ready.
func (s *server) start() error {
	features, err := s.device.Features()
	if err != nil {
		return err
	}
	if more := features &^ s.offered; more != 0 || features&virtio.FeatureVersion1 == 0 {
		return fmt.Errorf("the driver wants the features %#x, of which %#x were not offered, or is older than virtio 1.0", features, more)
	}
	s.features = features
	s.blk.SetFeatures(features)
	s.space, err = newSpace(s.device, func(err error) { s.log.Error("memory of the driver cannot be used", "err", err) })
	if err != nil {
		return err
	}
	for i := range s.queues {
		if err := s.startQueue(i); err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	return nil
}

func (s *server) packed() bool { return s.features&virtio.FeaturePacked != 0 }

func (s *server) startQueue(i int) (err error) {
	q := &s.queues[i]
	if q.info, err = s.device.Queue(i, s.packed()); err != nil || !q.info.Ready {
		return err
	}
	if q.info.Size == 0 || q.info.Size > uint32(s.journal.size) {
		return fmt.Errorf("the driver has chosen a size of %d, the limit is %d", q.info.Size, s.journal.size)
	}
	q.layout = virtio.LayoutOf(s.features, uint16(q.info.Size))
	rings, err := s.rings(q)
	if err != nil {
		return err
	}
	inflight, err := virtio.NewInflight(s.journal.area(i), q.layout.Size, q.layout.Packed)
	if err != nil {
		return err
	}
	if err := s.blk.Start(i, int(q.layout.Size), s.space, rings, q.info.State, inflight); err != nil {
		return err
	}
	q.running = true
	return s.device.SetKick(i, q.kick)
}

// rings finds the parts of a ring. Which of them the device writes depends on
// its kind.
func (s *server) rings(q *queue) (r virtio.Rings, err error) {
	desc, driver, device := q.layout.Bytes()
	if r.Desc, err = s.space.one(q.info.Desc, desc, q.layout.Packed); err != nil {
		return r, err
	}
	if r.Driver, err = s.space.one(q.info.Driver, driver, false); err != nil {
		return r, err
	}
	r.Device, err = s.space.one(q.info.Device, device, true)
	return r, err
}

// stopQueues calls done when no request of any queue is in flight.
func (s *server) stopQueues(done func()) {
	left := 1
	one := func() {
		if left--; left == 0 {
			done()
		}
	}
	for i := range s.queues {
		if !s.queues[i].running {
			continue
		}
		left++
		s.stop(i, func(virtio.State) { one() })
	}
	one()
}

// stop stops a queue that is running, and calls done when nothing of it is in
// flight.
func (s *server) stop(i int, done func(virtio.State)) {
	q := &s.queues[i]
	if q.stopped = append(q.stopped, done); len(q.stopped) > 1 {
		return
	}
	s.blk.Stop(i, func(state virtio.State) {
		waiting := q.stopped
		q.running, q.stopped = false, nil
		for _, done := range waiting {
			done(state)
		}
	})
}

// end stops serving after what is in flight; the device stays, and the next
// server goes on.
func (s *server) end(done func(error)) {
	s.stopQueues(func() {
		s.close()
		done(nil)
	})
}

// close gives everything back. No queue runs. Requests of the kernel that were not
// answered come to the next server.
func (s *server) close() {
	s.closed = true
	if s.watch != nil {
		s.watch.Close()
	}
	for i := range s.queues {
		q := &s.queues[i]
		if q.watch != nil {
			q.watch.Close()
		}
		if q.kick >= 0 {
			sys.Close(q.kick)
		}
	}
	if s.space != nil {
		s.space.Release()
		s.space = nil
	}
	if s.device != nil {
		s.device.Close()
	}
	s.blk.Close()
}
