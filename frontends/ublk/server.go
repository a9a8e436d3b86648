package ublk

import (
	"fmt"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/ublk/ublkproto"
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/uring"
)

// Channel is /dev/ublkcN with a ring of its own: the kernel's side of a Server.
// All its methods are called on one thread.
type Channel interface {
	// FD is readable while completions wait.
	FD() int
	// Descriptors are the requests of a queue, by tag, in memory that the kernel
	// writes before it completes the command of the tag.
	Descriptors(queue int) []byte
	// Fetch, once for each tag, lets requests come; data of writes is put into buf.
	Fetch(queue, tag uint16, user uint64, buf []byte)
	// Commit ends the request of a tag with bytes or -errno; data of reads is
	// taken from buf. Then it is Fetch.
	Commit(queue, tag uint16, user uint64, result int32, buf []byte)
	// Submit makes the kernel look at Fetch and Commit. After EAGAIN or EBUSY it
	// has to be repeated.
	Submit() syscall.Errno
	// Drain returns commands that were completed, with their user numbers.
	Drain(out []uring.CQE) int
	Close()
}

// Config is what a Server needs.
type Config struct {
	Env     *env.Env
	Disk    blockdev.Disk
	Channel Channel
	Info    ublkproto.DevInfo
	// Buffers are memory off the Go heap: BufferBytes(Info).
	Buffers []byte
	// NoFlush: the kernel believes that writes are durable when they are completed.
	NoFlush bool
	// Ended is called once, when the kernel has taken back all tags: the device was
	// stopped. The error is nil, or why the device cannot be served any more.
	Ended func(error)
}

// BufferBytes is the memory for requests: one more than there are tags, for what
// is thrown away. Only what was used once takes RAM.
func BufferBytes(i ublkproto.DevInfo) int { return (i.Tags() + 1) * int(i.RequestBytes) }

// Server executes the requests of a device.
type Server struct {
	c      Config
	tags   []tag
	waste  []byte // memory of requests that only get an error
	active int    // requests in the hands of the disk
	gone   int    // tags that the kernel has taken back
	ended  bool

	submit env.Task
	again  env.Timer
	cqes   [completionsPerDrain]uring.CQE

	failing bool   // answer everything with EIO
	idle    func() // stopping: start nothing; called when no request is active

	// Stats counts what was done.
	Stats Stats
}

// Stats of a Server.
type Stats struct {
	Requests, Errors uint64 // completed, and with an error
}

const (
	completionsPerDrain = 64
	submitPause         = time.Millisecond // when the kernel lacks memory
)

// tag is a place for a request.
type tag struct {
	s          *Server
	queue, tag uint16
	state      tagState
	busy       bool // the disk works on request
	buf        []byte
	iov        [1][]byte
	request    blockdev.Request
}

// tagState says who has a tag.
type tagState uint8

const (
	tagFetched tagState = iota // the kernel
	tagOurs                    // we: there is a request
	tagHeld                    // nobody: the next server gets the request
	tagGone                    // it was taken back
)

// NewServer prepares a server.
func NewServer(c Config) (*Server, error) {
	total, each := c.Info.Tags(), int(c.Info.RequestBytes)
	if len(c.Buffers) < BufferBytes(c.Info) {
		return nil, fmt.Errorf("ublk: %d bytes of memory for %d requests of %d bytes", len(c.Buffers), total, each)
	}
	s := &Server{c: c, tags: make([]tag, total), waste: c.Buffers[total*each:]}
	s.submit.Run = s.submitNow
	s.again.Fire = s.submitNow
	for i := range s.tags {
		t := &s.tags[i]
		t.s, t.queue, t.tag = s, uint16(i/int(c.Info.Depth)), uint16(i%int(c.Info.Depth))
		t.buf = c.Buffers[i*each:][:each:each]
		t.request.Done = t.done
	}
	return s, nil
}

// Start gives all tags to the kernel.
func (s *Server) Start() {
	for i := range s.tags {
		t := &s.tags[i]
		s.c.Channel.Fetch(t.queue, t.tag, uint64(i), t.buf)
	}
	s.submitNow()
}

// Ready takes completions. It is called when the channel's descriptor is
// readable.
func (s *Server) Ready() {
	for {
		n := s.c.Channel.Drain(s.cqes[:])
		for i := range s.cqes[:n] {
			s.completed(&s.cqes[i])
		}
		if n < len(s.cqes) {
			return
		}
	}
}

func (s *Server) completed(c *uring.CQE) {
	invariant.Must(c.UserData < uint64(len(s.tags)), "ublk: a command of no tag was completed")
	t := &s.tags[c.UserData]
	invariant.Must(t.state == tagFetched, "ublk: a command was completed twice")
	if c.Res == ublkproto.ResultOK {
		t.state = tagOurs
		t.begin()
		return
	}
	t.state = tagGone
	s.gone++
	switch {
	case c.Res > 0:
		s.end(fmt.Errorf("the kernel has answered something unknown for /dev/ublkc%d: %d", s.c.Info.Device, c.Res))
	case c.Res != ublkproto.ResultNoMore:
		s.end(fmt.Errorf("the kernel refuses commands for /dev/ublkc%d: %w", s.c.Info.Device, syscall.Errno(-c.Res)))
	case s.gone == len(s.tags):
		s.end(nil)
	}
}

// end tells that nothing more will come.
func (s *Server) end(err error) {
	if !s.ended {
		s.ended = true
		s.c.Ended(err)
	}
}

// begin starts the request that the kernel has put into the tag's place.
func (t *tag) begin() {
	s := t.s
	if s.failing {
		t.commit(-int32(syscall.EIO))
		return
	}
	if s.idle != nil {
		t.state = tagHeld
		return
	}
	d := s.c.Channel.Descriptors(int(t.queue))[int(t.tag)*ublkproto.DescriptorSize:]
	p, err := ublkproto.DecodeRequest(d, s.c.Info.RequestBytes)
	if err != nil {
		s.c.Env.Log.Error("a request of the kernel", "err", err)
		t.commit(-int32(syscall.EINVAL))
		return
	}
	if e := t.translate(&p); e != 0 {
		t.commit(-int32(e))
		return
	}
	t.busy = true
	s.active++
	s.c.Disk.Submit(&t.request)
}

// translate makes the request of a disk.
func (t *tag) translate(p *ublkproto.Request) syscall.Errno {
	r := &t.request
	r.Flags, r.Offset, r.Bytes, r.Iov = 0, p.Offset, p.Bytes, nil
	if p.Flags&ublkproto.RequestFUA != 0 || t.s.c.NoFlush && p.Op != ublkproto.OpRead && t.s.c.Disk.Info().WriteCache {
		r.Flags = blockdev.FUA
	}
	switch p.Op {
	case ublkproto.OpRead:
		r.Kind = blockdev.Read
	case ublkproto.OpWrite:
		r.Kind = blockdev.Write
	case ublkproto.OpFlush:
		r.Kind, r.Offset, r.Bytes = blockdev.Flush, 0, 0
	case ublkproto.OpDiscard:
		r.Kind = blockdev.Discard
	case ublkproto.OpWriteZeroes:
		r.Kind = blockdev.WriteZeroes
		if p.Flags&ublkproto.RequestNoUnmap != 0 {
			r.Flags |= blockdev.NoHole
		}
	default:
		return syscall.EOPNOTSUPP
	}
	if p.HasData() {
		t.iov[0] = t.buf[:p.Bytes]
		r.Iov = t.iov[:]
	}
	return 0
}

// done is the end of a request.
func (t *tag) done(r *blockdev.Request) {
	s := t.s
	s.active--
	t.busy = false
	switch {
	case s.failing: // the kernel has got an answer already
	case r.Err != 0:
		t.commit(-int32(r.Err))
	case r.Kind == blockdev.Read || r.Kind == blockdev.Write:
		t.commit(int32(r.Bytes))
	default:
		t.commit(0)
	}
	if s.idle != nil && s.active == 0 {
		s.idled()
	}
}

// commit answers, and waits for the next request. Answers of one turn of the
// loop reach the kernel together.
func (t *tag) commit(result int32) {
	s := t.s
	s.Stats.Requests++
	if result < 0 {
		s.Stats.Errors++
	}
	t.state = tagFetched
	buf := t.buf
	if s.failing { // the disk may still read from the other
		buf = s.waste
	}
	s.c.Channel.Commit(t.queue, t.tag, uint64(t.queue)*uint64(s.c.Info.Depth)+uint64(t.tag), result, buf)
	s.c.Env.Exec.Defer(&s.submit)
}

// submitNow hands over commands. The kernel may lack memory for a moment.
func (s *Server) submitNow() {
	switch e := s.c.Channel.Submit(); e {
	case 0:
	case syscall.EAGAIN, syscall.EBUSY, syscall.ENOMEM:
		s.c.Env.Clock.Arm(&s.again, submitPause)
	default:
		s.end(fmt.Errorf("io_uring of /dev/ublkc%d: %w", s.c.Info.Device, e))
	}
}

// Stop lets active requests end and begins no other, then calls idle. Requests
// that come meanwhile wait for the next server of the device.
func (s *Server) Stop(idle func()) {
	s.idle = idle
	if s.active == 0 {
		s.idled()
	}
}

func (s *Server) idled() {
	idle := s.idle
	s.idle = func() {}
	s.submitNow()
	idle()
}

// Fail answers everything with an I/O error from now on, also what is active.
func (s *Server) Fail() {
	s.failing = true
	for i := range s.tags {
		if t := &s.tags[i]; t.state == tagOurs || t.state == tagHeld {
			t.commit(-int32(syscall.EIO))
		}
	}
}

// Active is the number of requests that the disk works on.
func (s *Server) Active() int { return s.active }

// Close gives up the timer. The channel is closed by its owner.
func (s *Server) Close() { s.c.Env.Clock.Disarm(&s.again) }
