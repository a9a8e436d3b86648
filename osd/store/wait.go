package store

import (
	"syscall"

	"vitastor/internal/invariant"
)

// waitSpace makes op wait for data blocks, buffer space, metadata room or
// tickets. It is tried again whenever something was released. When nothing is
// left that could release anything, it fails with ENOSPC: nobody waits for
// ever (spec ondisk.md §10).
func (s *Store) waitSpace(op *Op) {
	s.counters.SpaceWaits++
	s.spaceq.push(op)
	if !s.retrying {
		s.wake()
	}
}

// wake tries waiting operations again when the current event is over.
func (s *Store) wake() {
	if !s.spaceq.empty() {
		s.env.Exec.Defer(&s.wakeTask)
	}
}

func (s *Store) retrySpace() {
	s.retrying = true
	s.retryAll()
	if !s.spaceq.empty() && s.failed == nil {
		s.compactMore()
		s.sweepStale()
		if s.meta.dirtyFirst != nil { // what is held back must not be what is waited for
			s.env.Exec.Defer(&s.metaTask)
		}
		if s.cached && (s.effective < s.completed || s.deletes.len() > 0 && s.meta.staleClock() > s.deletes.front().clock) {
			s.wantRound()
		}
		if !s.mayRelease() {
			q := s.spaceq
			s.spaceq = opQueue{}
			for op := q.pop(); op != nil; op = q.pop() {
				s.noSpace(op)
			}
		}
	}
	s.retrying = false
}

func (s *Store) retryAll() {
	q := s.spaceq
	s.spaceq = opQueue{}
	for op := q.pop(); op != nil; op = q.pop() {
		s.run(op)
	}
}

// mayRelease tells whether something under way can release space or room. Each
// of these ends with a wake.
func (s *Store) mayRelease() bool {
	waiting := 0
	for op := s.spaceq.first; op != nil; op = op.qnext {
		if op.Kind == opCompactor {
			waiting++
		}
	}
	c := &s.compact
	return s.effective < s.lsn || // entries in flight, or not yet synced
		c.running > waiting || c.queue.len() > 0 && c.running < s.cfg.MaxCompactors ||
		!s.limboEmpty() || // readers
		len(s.meta.flying) > 0 || s.meta.dirtyFirst != nil ||
		s.deletes.len() > 0 && s.deletesMayGo() ||
		s.discard.running > 0
}

// deletesMayGo tells whether forgetting DELETE entries is still possible: all
// but the newest entry of the store can be.
func (s *Store) deletesMayGo() bool { return uint64(s.deletes.front().lsn) < s.durableLSN }

func (s *Store) noSpace(op *Op) {
	if op.Kind == opCompactor {
		op.worker.end(false)
		return
	}
	s.counters.ENOSPCs++
	s.dropBig(op)
	s.finish(op, syscall.ENOSPC)
}

// sweepFor rewrites the metadata block with the oldest stale entries, if DELETE
// entries wait for that, and lets op go on afterwards.
func (s *Store) sweepFor(op *Op) bool {
	m := &s.meta
	if s.deletes.len() == 0 || !s.deletesMayGo() || m.staleOld == 0 || m.table[m.staleOld-1].staleSince > s.deletes.front().clock {
		return false
	}
	w := s.writeOf(m.staleOld - 1)
	if w == nil {
		w = s.openBlock(m.staleOld - 1)
	}
	w.followers.push(op)
	return true
}

// sweepMax is the number of metadata blocks rewritten at a time only to get
// stale entries off the disk.
const sweepMax = 4

// sweepStale rewrites the blocks with the oldest stale entries, so that DELETE
// entries can be forgotten: when there are many, or when space is needed.
func (s *Store) sweepStale() {
	if s.deletes.len() == 0 || s.failed != nil || !s.deletesMayGo() ||
		s.spaceq.empty() && s.deletes.len() < max(64, len(s.meta.table)/4) {
		return
	}
	m := &s.meta
	for n := 0; n < sweepMax && len(m.flying) < sweepMax && m.staleOld != 0; n++ {
		b := m.staleOld - 1
		if m.table[b].staleSince > s.deletes.front().clock || m.table[b].state != blockIdle {
			return
		}
		invariant.Sometimes("store: a stale metadata block is rewritten")
		s.openBlock(b)
	}
}
