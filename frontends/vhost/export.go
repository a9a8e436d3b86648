// Package vhost serves images to virtual machines: it is the back-end of
// vhost-user-blk, to which a hypervisor (the front-end, such as QEMU) connects
// over a unix socket. It is the program vitastor-vhost.
//
//	socket ─▶ client: messages, memory, eventfds ─▶ virtio.Blk ─▶ blockdev.Disk
//	guest  ◀────── rings and data in shared memory ──────┘
//
// A socket has one client at a time; the next one waits until that has gone.
// What a client leaves in flight is completed before rings of the next one are
// started, so that an old write never comes after a newer one. A client whose
// back-end has died connects to a new one and loses nothing (requests in flight
// are in memory that the client keeps).
//
// Guarantee: a client that breaks the rules loses its connection, or the queue,
// and harms nobody else; memory is unmapped when nothing uses it any more.
//
// Concurrency: everything lives on the loop. Messages are rare and may
// allocate; requests of the guest do not.
package vhost

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/virtio"
	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
)

// Config describes an export.
type Config struct {
	Loop *loop.Loop
	Env  *env.Env // of the loop
	Log  *slog.Logger
	Disk blockdev.Disk
	Path string // of the socket
	Mode os.FileMode
	GID  int // its group; 0 = ours
	// Serial is what the guest can ask for; 20 bytes count.
	Serial    string
	ReadOnly  bool
	Queues    int // 0 = QueuesDefault
	QueueSize int // descriptors; 0 = virtio.QueueSizeDefault
}

// QueuesDefault is the number of queues that are offered.
const QueuesDefault = 16

const (
	backlog     = 16
	drainingMax = 8 // clients that have left requests in flight
)

// Export is a disk at a socket.
type Export struct {
	c        Config
	log      *slog.Logger
	listener int         // -1 = closed
	watch    *loop.Watch // nil while nobody is accepted
	active   *client
	draining []*client
	closed   func() // of Close
	served   Stats  // of former clients
	retry    env.Timer
}

// Stats counts what all queues of all clients did.
type Stats struct {
	virtio.BlkStats
	Clients uint64
}

// New begins to listen.
func New(c Config) (*Export, error) {
	if c.Queues == 0 {
		c.Queues = QueuesDefault
	}
	x := &Export{c: c, log: c.Log}
	x.retry.Fire = x.tryListen
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	x.log = x.log.With("socket", c.Path)
	fd, err := sys.ListenUnix(c.Path, backlog)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", c.Path, err)
	}
	x.listener = fd
	if c.GID != 0 {
		err = os.Chown(c.Path, -1, c.GID)
	}
	if err == nil && c.Mode != 0 {
		err = os.Chmod(c.Path, c.Mode)
	}
	if err == nil {
		err = x.listen()
	}
	if err != nil {
		x.unlisten()
		return nil, fmt.Errorf("cannot listen on %s: %w", c.Path, err)
	}
	return x, nil
}

// listen waits for a client.
func (x *Export) listen() (err error) {
	if x.listener >= 0 && x.watch == nil && x.active == nil && len(x.draining) < drainingMax {
		x.watch, err = x.c.Loop.Watch(x.listener, x.accept)
	}
	return err
}

func (x *Export) pauseListen() {
	if x.watch != nil {
		x.watch.Close()
		x.watch = nil
	}
}

// unlisten removes the socket.
func (x *Export) unlisten() {
	x.pauseListen()
	x.c.Env.Clock.Disarm(&x.retry)
	if x.listener >= 0 {
		sys.Close(x.listener)
		os.Remove(x.c.Path)
		x.listener = -1
	}
}

// retryInterval is between attempts to accept a client, when there are no
// descriptors or no memory.
const retryInterval = time.Second

func (x *Export) tryListen() {
	if err := x.listen(); err != nil {
		x.log.Error("no client can be accepted", "err", err)
		x.c.Env.Clock.Arm(&x.retry, retryInterval)
	}
}

// accept takes one client; others wait in the kernel.
func (x *Export) accept() {
	fd, e := sys.AcceptUnix(x.listener)
	if e == syscall.EAGAIN {
		return
	}
	var s *client
	err := error(e)
	if e == 0 {
		if s, err = newClient(x, fd); err != nil {
			sys.Close(fd)
		}
	}
	if err != nil {
		x.log.Error("a client cannot be accepted", "err", err)
		x.pauseListen()
		x.c.Env.Clock.Arm(&x.retry, retryInterval)
		return
	}
	x.log.Info("client")
	x.served.Clients++
	x.active = s
	x.pauseListen()
}

// left is called when the active client has gone; it may have requests in
// flight.
func (x *Export) left(s *client) {
	x.active = nil
	x.draining = append(x.draining, s)
	x.tryListen()
}

// drained is called when nothing of a former client is in flight any more.
func (x *Export) drained(s *client) {
	x.served.add(s)
	x.draining = slices.DeleteFunc(x.draining, func(o *client) bool { return o == s })
	x.tryListen()
	if x.active != nil {
		x.active.updateRings()
	}
	x.ended()
}

// Resized tells the client that the size of the disk has changed.
func (x *Export) Resized() {
	if x.active != nil {
		x.active.configChanged()
	}
}

// Close ends the export: done is called when everything that clients have
// submitted was completed. The disk is not closed.
func (x *Export) Close(done func()) {
	x.closed = done
	x.unlisten()
	if x.active != nil {
		x.active.drop(nil)
	}
	x.ended()
}

func (x *Export) ended() {
	if done := x.closed; done != nil && x.active == nil && len(x.draining) == 0 {
		x.closed = nil
		done()
	}
}

// Stats tells what was done until now.
func (x *Export) Stats() Stats {
	s := x.served
	for _, o := range x.draining {
		s.add(o)
	}
	if x.active != nil {
		s.add(x.active)
	}
	return s
}

func (s *Stats) add(o *client) {
	for i := range o.rings {
		q := o.blk.Stats(i)
		s.Reads += q.Reads
		s.Writes += q.Writes
		s.Flushes += q.Flushes
		s.Discards += q.Discards
		s.Zeroes += q.Zeroes
		s.Others += q.Others
		s.Errors += q.Errors
		s.ReadBytes += q.ReadBytes
		s.WriteBytes += q.WriteBytes
		s.Kicks += q.Kicks
		s.Interrupts += q.Interrupts
		s.Bounced += q.Bounced
		s.InFlight += q.InFlight
		s.Running = s.Running || q.Running
		s.Broken = s.Broken || q.Broken
	}
}
