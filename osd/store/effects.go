package store

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// Every entry takes a ticket when it is placed, the next value of the LSN
// counter (for all but compaction results it is the entry's LSN). The window
// holds the tickets that have had no effect yet:
//
//	effective          completed                        lsn
//	    |                  |                             |
//	----+------------------+-----------------------------+
//	    | done; on a write-| done and not done, mixed    |
//	    | back disk not yet|                             |
//	    | synced           |                             |
//
// Effects (older entries become garbage, the object is queued for compaction)
// happen in order of tickets, when everything up to the ticket is done and
// durable. So what is released was replaced by something that no power cut
// can take back.
const windowSlots = 1 << 15

type ticket struct {
	ref  ref
	done bool
}

// placed gives the record of a new entry its ticket.
func (s *Store) placed(r ref) uint64 {
	s.lsn++
	invariant.Must(s.lsn-s.effective <= windowSlots, "store: too many entries in flight")
	s.window[s.lsn%windowSlots] = ticket{ref: r}
	return s.lsn
}

// windowFull tells that nothing may be placed before effects catch up. A
// quarter is left for what is under way already.
func (s *Store) windowFull() bool { return s.lsn-s.effective > windowSlots*3/4 }

// settled marks a ticket as done and applies what has become effective.
func (s *Store) ticketDone(t uint64) {
	s.window[t%windowSlots].done = true
	moved := false
	for s.completed < s.lsn && s.window[(s.completed+1)%windowSlots].done {
		s.completed++
		moved = true
	}
	if !moved {
		return
	}
	for op := s.lsnWaiters.pop(); op != nil; op = s.lsnWaiters.pop() {
		s.ready(op)
	}
	if !s.cached {
		s.settle(s.completed)
		return
	}
	if s.completed-s.effective > windowSlots/4 {
		s.wantRound()
	}
	s.wake() // who waits for space asks for a round
}

// settle applies the effects of all tickets up to t.
func (s *Store) settle(t uint64) {
	if s.failed != nil {
		return
	}
	for s.effective < t {
		s.effective++
		slot := &s.window[s.effective%windowSlots]
		r := slot.ref
		*slot = ticket{}
		s.apply(r)
	}
	s.drainLimbo()
	s.forgetDeletes()
	s.compactMore()
	s.wake()
}

// apply is the effect of one entry.
func (s *Store) apply(r ref) {
	s.recs.unset(r, flagUnsettled)
	e := s.recs.entry(r)
	s.durableLSN = max(s.durableLSN, uint64(e.LSN()))
	switch {
	case e.IsOverwrite():
		s.collect(r, e)
		if uint64(e.LSN()) != s.effective { // a compaction result: what came over it meanwhile is next
			s.queueCompact(e.Object())
		}
	case e.Type() != layout.BigWrite && (e.Stable() || e.Type() == layout.Commit || e.Type() == layout.Rollback):
		s.queueCompact(e.Object())
	}
}

// collect makes everything under the effective overwrite entry r garbage. The
// data block of a removed entry is released, unless r uses it, too.
func (s *Store) collect(r ref, e layout.Entry) {
	s.meta.clock++
	isBig, block := e.IsBig(), uint32(e.Block())
	for x := s.recs.older(r); x != 0; {
		next := s.recs.older(x)
		invariant.Must(!s.recs.has(x, flagPending|flagUnsettled), "store: an entry in flight became garbage")
		old := s.recs.entry(x)
		s.dropEntry(x)
		if old.IsBig() && !(isBig && uint32(old.Block()) == block) && s.blockReleased(uint32(old.Block())) {
			s.recs.set(x, flagFrees)
		}
		s.bury(x)
		x = next
	}
	s.recs.setOlder(r, 0)
	if e.Type() == layout.Delete {
		s.deletes.push(deleted{id: e.Object(), lsn: e.LSN(), clock: s.meta.clock})
	}
	s.meta.clock++
}

// deleted is a DELETE entry that waits for everything older to leave the disk.
type deleted struct {
	id    meta.ObjectID
	lsn   layout.LSN
	clock uint64
}

// forgetDeletes removes DELETE entries that have nothing older on disk any
// more. On a write-back disk that is known only up to deleteClock (see
// round.go). The newest entry of the store stays (see trim.go).
func (s *Store) forgetDeletes() {
	if s.deletes.len() == 0 || s.failed != nil {
		return
	}
	clock := s.deleteClock
	if !s.cached {
		clock = s.meta.staleClock()
	}
	n := 0
	for s.deletes.len() > 0 && s.deletes.front().clock < clock && s.deletesMayGo() {
		d := s.deletes.pop()
		n++
		slot := s.index.find(d.id)
		if slot == nil {
			continue
		}
		r := slotRef(*slot)
		for r != 0 && s.recs.entry(r).LSN() != d.lsn {
			r = s.recs.older(r)
		}
		if r == 0 || s.recs.entry(r).Type() != layout.Delete {
			continue // replaced by a newer entry
		}
		s.unlink(d.id, r)
		s.dropEntry(r)
		s.bury(r)
	}
	if n > 0 {
		s.drainLimbo()
	}
	s.sweepStale()
}

// Limbo: records that are out of their chains, and the space they name, stay
// untouched until no reader is left that may have seen them. Readers count in
// one of two generations; what is buried belongs to the current one. When the
// old generation has no readers its records are freed and the generations
// change places, so a stream of new readers delays nothing (spec D21).
type limbo struct {
	first, last ref
	readers     int
}

// bury puts a record that is out of its chain and block into limbo.
func (s *Store) bury(r ref) {
	s.recs.set(r, flagDead)
	s.recs.setOlder(r, 0)
	l := &s.limbo[s.generation&1]
	if l.last == 0 {
		l.first = r
	} else {
		s.recs.setOlder(l.last, r)
	}
	l.last = r
}

// readStart begins a time in which no record or space seen now is freed.
func (s *Store) readStart() (generation uint8) {
	s.limbo[s.generation&1].readers++
	return s.generation
}

func (s *Store) readEnd(generation uint8) {
	l := &s.limbo[generation&1]
	l.readers--
	if l.readers == 0 && s.limbo[0].first|s.limbo[1].first != 0 {
		s.drainLimbo()
		s.wake()
	}
}

// drainLimbo frees what no reader can see.
func (s *Store) drainLimbo() {
	for range 2 {
		old := &s.limbo[(s.generation+1)&1]
		if old.readers != 0 {
			return
		}
		for r := old.first; r != 0; {
			next := s.recs.older(r)
			s.freeRecord(r)
			r = next
		}
		old.first, old.last = 0, 0
		if s.limbo[s.generation&1].first == 0 {
			return
		}
		s.generation ^= 1
	}
}

// freeRecord releases a record and the space it owns.
func (s *Store) freeRecord(r ref) {
	e := s.recs.entry(r)
	if s.recs.has(r, flagFrees) {
		s.freeBlock(e.Object().Inode, uint32(e.Block()))
	}
	if e.Type() == layout.SmallWrite && e.Len() != 0 {
		s.freeBuffer(e.Location(), e.Len())
	}
	s.recs.release(r)
}

// limboEmpty tells whether nothing waits for readers.
func (s *Store) limboEmpty() bool { return s.limbo[0].first|s.limbo[1].first == 0 }

// grace lets a compaction wait for the reads that began before it: they may be
// reading what it is about to write over. Like limbo it has two generations,
// but only reads count, so that compactions never wait for each other.
type grace struct {
	readers [2]int
	waiting [2]opQueue
	current uint8
}

func (g *grace) enter() (generation uint8) {
	g.readers[g.current]++
	return g.current
}

func (s *Store) leaveGrace(generation uint8) {
	s.grace.readers[generation]--
	s.advanceGrace()
}

// afterReads makes op run when all reads that have begun are finished; false
// if there are none.
func (s *Store) afterReads(op *Op) bool {
	g := &s.grace
	if g.readers[0]+g.readers[1] == 0 {
		return false
	}
	g.waiting[g.current].push(op)
	s.advanceGrace()
	return true
}

func (s *Store) advanceGrace() {
	g := &s.grace
	for range 2 {
		old := g.current ^ 1
		if g.readers[old] != 0 {
			return
		}
		for op := g.waiting[old].pop(); op != nil; op = g.waiting[old].pop() {
			s.ready(op)
		}
		if g.waiting[g.current].empty() {
			return
		}
		g.current = old
	}
}
