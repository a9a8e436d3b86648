package secondary

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema/option"
	"vitastor/internal/wire"
)

// delays makes subops of recovery wait, so that clients get their share of the
// disk.
type delays struct {
	tuner  Tuner
	config option.Recovery
	pause  time.Duration // before each subop now
	count  int           // operations delayed before execution
	timer  env.Timer     // of the tuner
	idle   env.Timer     // of Close
	since  env.Instant
	seen   Stats // at the last sample
}

// SetRecovery changes the delay of recovery subops and its tuning.
func (s *Server) SetRecovery(c option.Recovery) {
	d := &s.delays
	old := d.config
	d.config = c
	if c.TuneInterval <= 0 || c.Sleep != old.Sleep || c.TuneInterval != old.TuneInterval {
		d.tuner, d.pause = Tuner{}, c.Sleep // without tuning, or the start value of it
	}
	s.env.Clock.Disarm(&d.timer)
	if s.closed != nil {
		d.pause = 0
	} else if c.TuneInterval > 0 {
		d.since, d.seen = s.env.Clock.Now(), s.stats
		s.env.Clock.Arm(&d.timer, c.TuneInterval)
	}
}

// RecoveryPause is the present delay of recovery subops.
func (s *Server) RecoveryPause() time.Duration { return s.delays.pause }

// tune takes a sample of the load and adjusts the delay to it.
func (s *Server) tune() {
	d := &s.delays
	now := s.env.Clock.Now()
	s.env.Clock.Arm(&d.timer, d.config.TuneInterval)
	sample := loadBetween(&d.seen, &s.stats, now.Sub(d.since))
	if pause, ok := d.tuner.Add(&d.config, sample); ok {
		d.pause = pause
	}
	d.since, d.seen = now, s.stats
}

// delayBefore is how long op has to wait before its execution (wire.md §13).
func (s *Server) delayBefore(op *Op) time.Duration {
	if !op.Recovery || op.code == wire.OpSecStabilize || op.code == wire.OpSecSync {
		return 0
	}
	return s.delays.pause
}

func (s *Server) delay(op *Op, p phase, d time.Duration) {
	op.phase = p
	if p == phaseDelayed {
		s.delays.count++
	}
	s.stats.Delayed++
	s.stats.DelayNanos += uint64(d)
	s.env.Clock.Arm(&op.timer, d)
}

// hurry starts all operations that are delayed, in the order of their arrival.
func (s *Server) hurry() {
	if s.delays.count == 0 {
		return
	}
	var q opQueue
	for op := s.active.head; op != nil; op = op.next {
		if op.phase == phaseDelayed {
			s.env.Clock.Disarm(&op.timer)
			q.push(op)
		}
	}
	s.delays.count = 0
	for op := q.pop(); op != nil; op = q.pop() {
		s.equip(op)
	}
}
