package store

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// resharder moves the objects of pools to new layouts in bounded steps.
type resharder struct {
	timer env.Timer
}

// Reshard indexes the objects of a pool by the given PG count and stripe size,
// in bounded steps; listings of the pool get EAGAIN until it is finished. An
// OSD calls it for every pool when it learns of it, and when the PG count or
// stripe size changes. pgCount 0 = the pool is gone.
func (s *Store) Reshard(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) {
	pi := s.index.makePool(pool)
	if pi.cur.pgCount == pgCount && pi.cur.pgStripeBytes == pgStripeBytes {
		return
	}
	if pi.old != nil { // finish the last change first: there are never three layouts
		for s.reshardStep(pi, 1<<30) {
		}
	}
	old := pi.cur
	pi.cur = shards{pgCount: pgCount, pgStripeBytes: pgStripeBytes, tables: make([]table, max(pgCount, 1))}
	pi.old, pi.oldTable, pi.oldSegment = &old, 0, 0
	s.reshard()
}

// ReshardNow is Reshard without pauses: for the start of an OSD, when nobody
// waits for anything else. Ten million objects take a second or two.
func (s *Store) ReshardNow(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) {
	s.Reshard(pool, pgCount, pgStripeBytes)
	for pi := s.index.pool(pool); pi.old != nil; {
		s.reshardStep(pi, 1<<30)
	}
}

// Sharded tells whether listings with these parameters work.
func (s *Store) Sharded(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) bool {
	pi := s.index.pool(pool)
	return pi != nil && pgCount != 0 && pi.old == nil && pi.cur.pgCount == pgCount && pi.cur.pgStripeBytes == pgStripeBytes
}

// reshard moves a chunk of objects now and the next one after a pause.
func (s *Store) reshard() {
	budget := s.cfg.ReshardChunkObjects
	more := false
	for _, pi := range s.index.pools {
		for pi.old != nil && budget > 0 {
			before := pi.moved
			s.reshardStep(pi, segmentSlots)
			budget -= max(pi.moved-before, 1)
		}
		more = more || pi.old != nil
	}
	if more && !s.resharder.timer.Armed() {
		s.env.Clock.Arm(&s.resharder.timer, max(s.cfg.ReshardChunkPause, time.Duration(0)))
	}
}

// reshardStep moves the objects of one or more segments, at least one; false
// when none are left.
func (s *Store) reshardStep(pi *poolIndex, slots int) bool {
	x := s.index
	for slots > 0 {
		if pi.oldTable == len(pi.old.tables) {
			pi.old = nil
			return false
		}
		t := &pi.old.tables[pi.oldTable]
		if pi.oldSegment == len(t.dir) {
			x.drop(t)
			pi.oldTable, pi.oldSegment = pi.oldTable+1, 0
			continue
		}
		n := t.dir[pi.oldSegment]
		if uint32(pi.oldSegment)>>x.depth[n] == 0 {
			s.moveSegment(pi, n)
			slots -= segmentSlots
		}
		pi.oldSegment++
	}
	return true
}

// moveSegment moves the objects of one segment to the current layout.
func (s *Store) moveSegment(pi *poolIndex, n uint32) {
	x := s.index
	seg := x.segment(n)
	for i, v := range seg {
		if v == 0 {
			continue
		}
		if err := x.add(pi.cur.table(x.objectOf(slotRef(v))), v); err != nil {
			invariant.Fail("store: %v", err)
		}
		seg[i] = 0
		pi.moved++
	}
	x.count[n] = 0
}
