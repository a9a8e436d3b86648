package virtio

import (
	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
)

// BlkConfig describes a virtio-blk device.
type BlkConfig struct {
	Env       *env.Env
	Disk      blockdev.Disk
	Serial    string // 20 bytes at most count; what GET_ID tells
	ReadOnly  bool
	Queues    int    // 1 to QueuesMax
	QueueSize uint16 // for SegMax; 0 = 256
	// NoConfigWCE: the driver may not choose about the write cache (VDUSE does
	// not allow it).
	NoConfigWCE bool
	// BounceBytes limits the copies that are made of data in memory that may
	// vanish (Memory.Stable); 0 = 64 MiB.
	BounceBytes int
	// Interrupt is called to notify the driver about a queue, once for all
	// that was completed in one turn of the loop.
	Interrupt func(queue int)
	// Broken is called, once, when a queue breaks: what the driver did is
	// against the rules. The queue does nothing more until it is started anew.
	Broken func(queue int, err error)
}

// QueuesMax is the limit of queues of a device.
const QueuesMax = 64

// ConfigBytes is the size of the configuration space.
const ConfigBytes = 60

// Blk is a virtio-blk device (virtio 1.2 §5.2) on a disk.
type Blk struct{ _ int }

// NewBlk makes a device whose queues are stopped.
func NewBlk(c BlkConfig) (*Blk, error) { panic("skeleton") }

// Features are the bits that the device offers, with those of rings and
// VERSION_1; transports add and remove theirs.
func (b *Blk) Features() uint64 { panic("skeleton") }

// SetFeatures takes what the driver has accepted. Bits that were not offered
// are ignored: transports check them.
func (b *Blk) SetFeatures(f uint64) { panic("skeleton") }

// Config is the configuration space now, little endian.
func (b *Blk) Config() [ConfigBytes]byte { panic("skeleton") }

// SetConfig is a write of the driver to the configuration space; only the
// write cache mode can be written.
func (b *Blk) SetConfig(offset int, data []byte) error { panic("skeleton") }

// Reset brings back the state before negotiation. All queues must be stopped.
func (b *Blk) Reset() { panic("skeleton") }

// Close frees memory. All queues must be stopped.
func (b *Blk) Close() { panic("skeleton") }

// Start begins to serve a queue; the layout is that of the negotiated features.
// See Queue.Start. It behaves as after a kick.
func (b *Blk) Start(queue int, size uint16, m Memory, r Rings, state State, inflight *Inflight) error {
	panic("skeleton")
}

// Kick serves what is new in a queue. Without any it costs little.
func (b *Blk) Kick(queue int) { panic("skeleton") }

// Stop takes no more requests from a queue; done is called with its state, on
// the loop and maybe inside, when all that are in flight have been completed.
// A queue that is stopped, or broken without requests in flight, is done at once.
func (b *Blk) Stop(queue int, done func(State)) { panic("skeleton") }

// Move and SetLog are those of a queue.
func (b *Blk) Move(queue int, m Memory, r Rings) error { panic("skeleton") }

// SetLog is that of a queue.
func (b *Blk) SetLog(queue int, log Log, logRing bool, ringAddr uint64) { panic("skeleton") }

// BlkStats counts since the device was made.
type BlkStats struct {
	Reads, Writes, Flushes, Discards, Zeroes, Others, Errors uint64
	ReadBytes, WriteBytes                                    uint64
	Kicks, Interrupts                                        uint64
	Bounced                                                  uint64 // requests whose data was copied
	InFlight                                                 int
	Running, Broken                                          bool
}

// Stats tells what a queue has done.
func (b *Blk) Stats(queue int) BlkStats { panic("skeleton") }
