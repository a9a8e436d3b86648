package store

// A round makes everything durable that is complete when it begins: one sync
// of each device with unsynced writes. At its end every entry up to the
// completed LSN of its beginning is effective, and operations that came before
// its beginning go on. Rounds run one at a time; who comes while one is
// running waits for the next, because the running one may not cover him.
//
// On a write-through store a round has nothing to do and ends at once.
type round struct {
	running   bool
	wanted    bool // another one has to follow
	lsn       uint64
	clock     uint64
	targets   [3]uint64
	ops, next opQueue
}

// afterRound lets op continue after a round that begins from now on.
func (s *Store) afterRound(op *Op) {
	s.round.next.push(op)
	s.wantRound()
}

func (s *Store) wantRound() {
	s.round.wanted = true
	s.env.Exec.Defer(&s.roundTask)
}

// startRound is deferred, so that a round serves everybody of one loop pass.
func (s *Store) startRound() {
	r := &s.round
	if r.running || !r.wanted {
		return
	}
	r.running, r.wanted = true, false
	r.ops, r.next = r.next, opQueue{}
	r.lsn, r.clock = s.completed, min(s.meta.staleClock(), s.meta.clock)
	for i, d := range s.devices {
		r.targets[i] = d.done
		d.startSync()
	}
	s.roundStep()
}

// roundStep ends the round when every device has got where it should.
func (s *Store) roundStep() {
	r := &s.round
	if !r.running {
		return
	}
	for i, d := range s.devices {
		if d.synced < r.targets[i] && s.failed == nil {
			d.startSync()
			return
		}
	}
	r.running = false
	if s.failed == nil && s.cached {
		s.deleteClock = max(s.deleteClock, r.clock)
		s.settle(r.lsn)
	}
	for op := r.ops.pop(); op != nil; op = r.ops.pop() {
		s.ready(op)
	}
	if r.wanted {
		s.env.Exec.Defer(&s.roundTask)
	}
}

// afterSettled lets op continue when entry LSNs up to lsn have become
// effective, or have come nearer to it: op has to look again.
func (s *Store) afterSettled(op *Op, lsn uint64) {
	if s.completed < lsn {
		s.lsnWaiters.push(op)
		return
	}
	s.afterRound(op)
}
