package virtio

import (
	"errors"
	"fmt"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
)

// BlkConfig describes a virtio-blk device.
type BlkConfig struct {
	Env       *env.Env
	Disk      blockdev.Disk
	Serial    string // what GET_ID tells; 20 bytes of it count
	ReadOnly  bool
	Queues    int // 1 to QueuesMax
	QueueSize int // descriptors of a queue, for SEG_MAX; 0 = QueueSizeDefault
	// NoConfigWCE: the driver may not choose about the write cache (VDUSE does
	// not allow it).
	NoConfigWCE bool
	// NoPacked: packed rings are not offered.
	NoPacked bool
	// BounceBytes limits the copies of data in memory that may vanish
	// (Memory.Stable); 0 = BounceDefault.
	BounceBytes int
	// Interrupt is called to notify the driver about a queue, once for all
	// that was completed in one turn of the loop.
	Interrupt func(queue int)
	// Broken is called, once, when a queue breaks: what the driver did is
	// against the rules. The queue does nothing more until it is started anew.
	Broken func(queue int, err error)
}

// Limits of devices.
const (
	QueuesMax        = 64
	QueueSizeDefault = 128
	BounceDefault    = 64 << 20
	// segmentBytesMax and SEG_MAX together keep honest drivers below
	// requestBytesMax.
	segmentBytesMax = 256 << 10
	requestBytesMax = 64 << 20

	discardBytesMax = 4 << 30
	zeroesBytesMax  = 256 << 20
	rangesMax       = 32 // of one discard or write zeroes
)

// Blk is a virtio-blk device (virtio 1.2 §5.2) on a disk.
type Blk struct {
	c        BlkConfig
	offered  uint64
	features uint64 // negotiated
	wce      byte   // what the driver said about the write cache
	queues   []*blkQueue
	bounce   *pinned.Pool // made when first needed
	starved  bool         // somebody waits for memory of it
	retry    env.Task
}

// NewBlk makes a device whose queues are stopped.
func NewBlk(c BlkConfig) (*Blk, error) {
	if c.Queues < 1 || c.Queues > QueuesMax {
		return nil, fmt.Errorf("a device of %d queues is not possible: 1 to %d", c.Queues, QueuesMax)
	}
	if c.QueueSize == 0 {
		c.QueueSize = QueueSizeDefault
	}
	if c.BounceBytes == 0 {
		c.BounceBytes = BounceDefault
	}
	b := &Blk{c: c, wce: 1}
	b.offered = b.offer()
	for i := range c.Queues {
		b.queues = append(b.queues, newBlkQueue(b, i))
	}
	b.retry.Run = b.retryAll
	return b, nil
}

// SetFeatures takes what the driver has accepted. What was not offered is
// ignored: transports check that.
func (b *Blk) SetFeatures(f uint64) { b.features = f & b.offered }

// Reset brings back the state before negotiation. All queues must be stopped.
func (b *Blk) Reset() {
	b.mustBeStopped()
	b.features, b.wce = 0, 1
}

// Close frees memory. All queues must be stopped.
func (b *Blk) Close() {
	b.mustBeStopped()
	if b.bounce != nil {
		b.bounce.Discard()
		b.bounce = nil
	}
}

func (b *Blk) mustBeStopped() {
	for _, q := range b.queues {
		invariant.Must(!q.ring.Running() && q.inFlight == 0, "virtio: a device is reset or closed while a queue is running")
	}
}

// ErrQueue is the error of a queue that does not exist.
var ErrQueue = errors.New("there is no such queue")

// Start begins to serve a queue; the layout is that of the negotiated features.
// See Queue.Start. It behaves as after a kick. A queue that was broken must
// have been stopped.
func (b *Blk) Start(queue, size int, m Memory, r Rings, s State, inflight *Inflight) error {
	if queue < 0 || queue >= len(b.queues) {
		return fmt.Errorf("%w: %d of %d", ErrQueue, queue, len(b.queues))
	}
	if size < 1 || size > QueueSizeMax {
		return fmt.Errorf("a queue of %d descriptors is not possible: 1 to %d", size, QueueSizeMax)
	}
	q := b.queues[queue]
	invariant.Must(!q.ring.Running() && q.inFlight == 0, "virtio: a queue is started twice")
	if err := q.ring.Start(LayoutOf(b.features, uint16(size)), m, r, s, inflight); err != nil {
		return err
	}
	q.broken, q.stable = false, m.Stable()
	if now := q.ring.State(); now.Avail != 0 || now.Used != 0 {
		// Whoever was before us may not have told the driver everything.
		b.c.Interrupt(queue)
	}
	q.run()
	return nil
}

// Kick serves what is new in a queue. It costs little if there is nothing.
func (b *Blk) Kick(queue int) {
	q := b.queues[queue]
	q.stats.Kicks++
	q.run()
}

// Poll is Kick without a kick; it tells whether there was something.
func (b *Blk) Poll(queue int) bool {
	q := b.queues[queue]
	before := q.requests
	q.run()
	return q.requests != before
}

// Stop takes no more requests from a queue; done is called with its state, on
// the loop and maybe inside, when all that are in flight have been completed.
func (b *Blk) Stop(queue int, done func(State)) {
	q := b.queues[queue]
	invariant.Must(q.stopping == nil, "virtio: a queue is stopped twice")
	q.stopping = done
	q.stopped()
}

// Move is that of a queue. An error breaks it.
func (b *Blk) Move(queue int, m Memory, r Rings) {
	q := b.queues[queue]
	if q.broken || !q.ring.Running() {
		return
	}
	if err := q.ring.Move(m, r); err != nil {
		q.fail(err)
		return
	}
	q.stable = m.Stable()
}

// SetLog is that of a queue.
func (b *Blk) SetLog(queue int, log Log, r RingLog) { b.queues[queue].ring.SetLog(log, r) }

// BlkStats counts what a queue did since the device was made.
type BlkStats struct {
	Reads, Writes, Flushes, Discards, Zeroes, Others, Errors uint64
	ReadBytes, WriteBytes                                    uint64
	Kicks, Interrupts                                        uint64
	Bounced                                                  uint64 // requests whose data was copied
	InFlight                                                 int
	Running, Broken                                          bool
}

// Stats tells what a queue has done.
func (b *Blk) Stats(queue int) BlkStats {
	q := b.queues[queue]
	s := q.stats
	s.InFlight, s.Running, s.Broken = q.inFlight, q.ring.Running(), q.broken
	return s
}

// retryAll goes on with queues that waited for memory.
func (b *Blk) retryAll() {
	b.starved = false
	for _, q := range b.queues {
		q.resume()
	}
}

// memory takes buffers for n bytes of data, all or none. ok is also true, with
// none, if there will never be enough.
func (b *Blk) memory(bufs [][]byte, n uint64) (list [][]byte, ok bool) {
	if b.bounce == nil {
		pool, err := pinned.NewPool("bounce buffers", b.c.BounceBytes)
		if err != nil {
			return bufs, true
		}
		b.bounce = pool
	}
	for n > 0 {
		buf, ok := b.bounce.Get(int(min(n, pinned.MaxBufferBytes)))
		if !ok {
			b.giveBack(bufs)
			return bufs[:0], b.bounce.Stats().UsedBytes == 0
		}
		bufs = append(bufs, buf)
		n -= uint64(len(buf))
	}
	return bufs, true
}

func (b *Blk) giveBack(bufs [][]byte) {
	for i, buf := range bufs {
		b.bounce.Put(buf)
		bufs[i] = nil
	}
}

// freed is called when a request has given memory back.
func (b *Blk) freed() {
	if b.starved {
		b.c.Env.Exec.Defer(&b.retry)
	}
}
