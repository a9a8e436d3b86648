package client

import (
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/wire"
	"vitastor/libclient/writeback"
)

// syncRun is the one SYNC that runs at a time (osd.md §19, 3): everything
// buffered is sent, then every OSD that acknowledged something syncs, and all
// of it again until nothing was lost in between.
type syncRun struct {
	c      *Client
	active bool
	op     *Op // whose it is; nil = ours
	asked  int // sessions that have not answered
	err    syscall.Errno
	again  bool // an OSD failed: make a pause
	pause  env.Timer
	// waiters are reused; they only carry the callback.
	waiter syncWaiter
}

func (s *syncRun) init(c *Client) {
	s.c = c
	s.pause.Fire = c.admit
	s.waiter.done = func(_ *syncWaiter, from *session, r wire.Retval) { s.answered(from, r) }
}

// nothing tells that there is nothing to sync.
func (s *syncRun) nothing() bool { return s.c.buffers.Empty() }

// begin starts a SYNC; op may be nil.
func (s *syncRun) begin(op *Op) {
	s.active, s.op, s.err, s.again = true, op, 0, false
	s.c.admit()
}

// step goes on when everything buffered was sent.
func (s *syncRun) step() {
	c := s.c
	b := c.buffers
	if s.op != nil && s.op.cancelled {
		c.finish(s.op, syscall.ECANCELED)
		s.op = nil
	}
	if !s.active || s.asked > 0 || s.pause.Armed() || c.ended ||
		b.Count(writeback.Dirty)+b.Count(writeback.Lost)+b.Count(writeback.Repeating) > 0 {
		return
	}
	if s.err != 0 || b.Count(writeback.Written) == 0 {
		s.end()
		return
	}
	b.BeginSync()
	b.Each(writeback.Flushing, func(p *writeback.Piece) {
		if from := c.open[p.Tag]; from != nil && !from.asked {
			from.asked = true
			s.asked++
			from.sync(&s.waiter)
		}
	})
	invariant.Must(s.asked > 0, "client: unsynced writes of no session")
}

// answered notes the result of one OSD.
func (s *syncRun) answered(from *session, r wire.Retval) {
	c := s.c
	from.asked = false
	c.buffers.EndSync(from.id, !r.Failed())
	switch err := r.Errno(); {
	case err == 0:
	case err == syscall.EPIPE, err == syscall.EIO, err == syscall.ENOSPC, s.op == nil: // nobody to tell
		s.again = true
	default:
		s.err = worse(s.err, err)
	}
	if s.asked--; s.asked == 0 && s.again && s.err == 0 && !c.ended {
		s.again = false
		c.env.Clock.Arm(&s.pause, c.opts.RetryInterval)
	}
	c.admit()
}

func (s *syncRun) end() {
	op := s.op
	s.active, s.op = false, nil
	if op != nil {
		s.c.finish(op, s.err)
	}
}

// stop gives the SYNC up at Close.
func (s *syncRun) stop() {
	s.c.env.Clock.Disarm(&s.pause)
	if op := s.op; op != nil {
		s.op = nil
		s.c.finish(op, syscall.ECANCELED)
	}
}
