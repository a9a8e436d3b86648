package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/virtio"
	"vitastor/internal/guestmem"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
)

// messagesPerEvent is how many messages one client may send before others have
// their turn.
const messagesPerEvent = 16

// client is one front-end and its device.
type client struct {
	x     *Export
	fd    int
	watch *loop.Watch // nil while no messages are read

	// The message that is being received.
	head [headerBytes]byte
	h    header
	body []byte
	got  int  // bytes of head or body
	full bool // the head is there
	fds  []int

	features uint64 // that were accepted, with those of the protocol
	protocol uint64
	blk      *virtio.Blk
	rings    []*ring
	mem      memory
	log      *dirtyLog         // nil = none
	inflight *guestmem.Mapping // nil = none
	area     inflightArea
	backend  int // our channel to the client; -1 = none
	dead     bool
	running  int // rings that have been started and not stopped
}

func newClient(x *Export, fd int) (*client, error) {
	s := &client{x: x, fd: fd, backend: -1}
	for i := range x.c.Queues {
		s.rings = append(s.rings, newRing(s, i))
	}
	var err error
	s.blk, err = virtio.NewBlk(virtio.BlkConfig{Env: x.c.Env, Disk: x.c.Disk, Serial: x.c.Serial, ReadOnly: x.c.ReadOnly,
		Queues: x.c.Queues, QueueSize: x.c.QueueSize,
		Interrupt: func(i int) { s.rings[i].interrupt() },
		Broken:    func(i int, err error) { s.rings[i].breaks(err) }})
	if err != nil {
		return nil, err
	}
	return s, s.read()
}

// offered are the features of the device and of the protocol.
func (s *client) offered() uint64 { return s.blk.Features() | featureLogAll | featureProtocolFeatures }

// read begins to read messages, pause ends that.
func (s *client) read() (err error) {
	s.watch, err = s.x.c.Loop.Watch(s.fd, s.ready)
	return err
}

func (s *client) pause() {
	if s.watch != nil {
		s.watch.Close()
		s.watch = nil
	}
}

// ready receives what there is.
func (s *client) ready() {
	for range messagesPerEvent {
		if s.dead || s.watch == nil {
			return
		}
		ok, err := s.receive()
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return
		case err != nil:
			s.drop(err)
			return
		case ok:
			s.handle()
		}
	}
}

// receive reads a part of a message; ok = it is complete. A part is never more
// than the head or the body of one, so that descriptors are those of this one.
func (s *client) receive() (ok bool, err error) {
	to := s.body
	if !s.full {
		to = s.head[:]
	}
	n, fds, err := sys.ReceiveFDs(s.fd, to[s.got:], s.fds)
	s.fds = fds
	switch {
	case err != nil:
		return false, err
	case n == 0:
		return false, io.EOF
	case len(s.fds) > sys.FDsMax:
		return false, sys.ErrTooManyFDs
	}
	if s.got += n; s.got < len(to) {
		return false, nil
	}
	s.got = 0
	if !s.full {
		if s.h, err = parseHeader(s.head[:]); err != nil {
			return false, err
		}
		s.body = append(s.body[:0], make([]byte, s.h.size)...)
		s.full = true
		if s.h.size > 0 {
			return false, nil
		}
	}
	s.full = false
	return true, nil
}

// handle executes a message and answers it.
func (s *client) handle() {
	h := s.h
	reply, err := s.execute(h.request, &payload{b: s.body})
	s.closeFDs()
	if s.dead {
		return
	}
	wanted := h.flags&flagNeedReply != 0 && s.protocol&protocolReplyAck != 0
	switch {
	case reply != nil:
		s.reply(h.request, reply)
	case err == errLater:
	case err != nil && wanted:
		s.x.log.Warn("a message of the client is refused", "message", h.request, "err", err)
		s.reply(h.request, u64(1))
	case err != nil:
		s.drop(fmt.Errorf("message %d: %w", h.request, err))
	case wanted:
		s.reply(h.request, u64(0))
	}
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// reply answers a message.
func (s *client) reply(r request, payload []byte, fds ...int) {
	if s.dead {
		return
	}
	if err := sys.SendFDs(s.fd, appendMessage(nil, r, flagReply, payload), fds...); err != nil {
		s.drop(fmt.Errorf("an answer cannot be sent: %w", err))
	}
}

// takeFD takes the only descriptor of a message, which belongs to the caller
// then.
func (s *client) takeFD() (int, error) {
	if len(s.fds) != 1 {
		return -1, fmt.Errorf("%d file descriptors came where one is needed", len(s.fds))
	}
	fd := s.fds[0]
	s.fds = s.fds[:0]
	return fd, nil
}

// closeFDs closes what nobody has taken.
func (s *client) closeFDs() {
	for _, fd := range s.fds {
		sys.Close(fd)
	}
	s.fds = s.fds[:0]
}

// updateRings starts and stops rings as what is known of them wants.
func (s *client) updateRings() {
	for _, r := range s.rings {
		r.update()
	}
}

// configChanged tells the client that the configuration space has changed.
func (s *client) configChanged() {
	if s.backend < 0 || s.protocol&protocolConfig == 0 {
		return
	}
	if err := sys.SendFDs(s.backend, appendMessage(nil, configChange, 0, nil)); err != nil {
		s.x.log.Warn("the client cannot be told of a new size", "err", err)
	}
}

// drop ends the connection; err says why, nil or io.EOF if there is nothing to
// tell. Requests in flight go on, and the client with them.
func (s *client) drop(err error) {
	if s.dead {
		return
	}
	s.dead = true
	if err != nil && !errors.Is(err, io.EOF) {
		s.x.log.Warn("connection to a client ended", "err", err)
	} else {
		s.x.log.Info("client has left")
	}
	s.pause()
	sys.Close(s.fd)
	s.closeFDs()
	s.x.left(s)
	s.updateRings()
	s.drain()
}

// drain goes on when a client that has left has nothing in flight any more: what it
// wrote is made durable, then it is over.
func (s *client) drain() {
	if !s.dead || s.running > 0 || s.fd < 0 {
		return
	}
	s.fd = -1
	for _, r := range s.rings {
		r.close()
	}
	if s.x.c.ReadOnly || s.x.c.Disk.Info().ReadOnly {
		s.end()
		return
	}
	f := &blockdev.Request{Kind: blockdev.Flush}
	f.Done = func(*blockdev.Request) {
		if f.Err != 0 {
			s.x.log.Error("the last writes of a client may be lost", "err", f.Err)
		}
		s.end()
	}
	s.x.c.Disk.Submit(f)
}

// end gives back what the client has shared.
func (s *client) end() {
	s.x.drained(s)
	s.blk.Close()
	s.mem.close()
	if s.log != nil {
		s.log.close()
		s.log = nil
	}
	s.dropInflight()
	if s.backend >= 0 {
		sys.Close(s.backend)
		s.backend = -1
	}
}

func (s *client) dropInflight() {
	if s.inflight != nil {
		s.inflight.Release()
		s.inflight = nil
	}
}
