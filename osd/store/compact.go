package store

import (
	"syscall"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// compaction makes one stable BIG_WRITE of the stable part of a chain, so that
// its small writes, COMMITs and ROLLBACKs become garbage (spec ondisk.md §8).
// Objects wait in a queue. Workers start when the queue is long, a write waits
// for space, or an object is needed in a state that allows writing in place;
// then they compact what is queued at that time, many at once: a single writer
// is disturbed rarely, and results share metadata blocks.
type compaction struct {
	queue   fifo[meta.ObjectID]
	running int
	copying int // of these, not yet waiting for their result to be written
	active  []*compactor
	idle    *compactor
	made    []*compactor // all, for freeing their memory
	quota   int          // objects to compact before the queue has to grow long again
	urgent  bool
	all     opQueue // OpCompact
}

// queueCompact notes that an object has something to compact.
func (s *Store) queueCompact(id meta.ObjectID) {
	slot := s.index.find(id)
	if slot == nil {
		return
	}
	if *slot&slotQueued != 0 {
		if s.effective%16 == 0 && s.longChain(slotRef(*slot)) {
			s.compact.urgent = true
		}
		return
	}
	*slot |= slotQueued
	s.compact.queue.push(id)
}

// chainMax is the length of a chain that is compacted without waiting for more.
const chainMax = 48

func (s *Store) longChain(r ref) bool {
	for n := 0; r != 0; r = s.recs.older(r) {
		if n++; n > chainMax {
			return true
		}
	}
	return false
}

// compactMore starts workers if there is a reason to.
func (s *Store) compactMore() {
	c := &s.compact
	if s.failed != nil || s.closing != nil && c.all.empty() && s.spaceq.empty() {
		return
	}
	pressure := !s.spaceq.empty() || !c.all.empty()
	if pressure || c.urgent || c.quota == 0 && c.queue.len() > s.cfg.CompactQueueStart {
		c.quota = c.queue.len()
	}
	limit := min(max(2*s.writing, s.cfg.MinCompactors), s.cfg.MaxCompactors)
	if pressure {
		limit = s.cfg.MaxCompactors
	}
	limit = min(limit, max(1, s.meta.roomy-1)) // each needs room for its result
	for c.quota > 0 && c.copying < limit && c.running < s.cfg.MaxCompactors && c.queue.len() > 0 {
		c.quota--
		id := c.queue.pop()
		if slot := s.index.find(id); slot != nil {
			*slot &^= slotQueued
			s.startCompactor(id, pressure)
		}
	}
	if c.queue.len() == 0 {
		c.quota, c.urgent = 0, false
		if c.running == 0 {
			for op := c.all.pop(); op != nil; op = c.all.pop() {
				s.ready(op)
			}
		}
	}
}

// selection is what one compaction replaces (spec §8.2).
type selection struct {
	lsn    layout.LSN // of the newest replaced entry, which is over; 0 = nothing to do
	over   ref
	newest ref   // newest surviving data entry: gives version and ext bitmap
	small  []ref // SMALL_WRITE and INTENT_WRITE, newest first
	base   ref   // BIG entry; 0 = nothing is left, the result is a DELETE
}

// choose selects the part of a chain that can be compacted. Unless forced it
// leaves alone what an unstable overwrite is about to make unnecessary.
func (s *Store) choose(sel *selection, head ref, forced bool) {
	*sel = selection{small: sel.small[:0]}
	commit, limit := meta.Version(0), meta.NewestVersion
	for r := head; r != 0; r = s.recs.older(r) {
		e, t := s.recs.entry(r), s.recs.entry(r).Type()
		settled := !s.recs.has(r, flagPending|flagUnsettled)
		switch {
		case t == layout.Commit && settled:
			commit = max(commit, e.Version())
			sel.begin(r, e)
			continue
		case t == layout.Rollback && settled:
			limit = min(limit, e.Version())
			sel.begin(r, e)
			continue
		case t == layout.Delete && settled:
			if sel.newest != 0 {
				sel.lsn = 0 // no base: the chain is not valid, leave it alone
			}
			return
		case t != layout.Commit && t != layout.Rollback && t != layout.Delete && e.Version() > limit:
			continue
		}
		if !settled || !e.Stable() && e.Version() > commit {
			*sel = selection{small: sel.small[:0]}
			if t == layout.Delete || e.IsBig() && (e.Stable() || !forced) {
				return
			}
			continue
		}
		if sel.newest == 0 {
			sel.newest = r
		}
		if e.IsBig() {
			if !e.Stable() {
				sel.begin(r, e)
			}
			sel.base = r
			return
		}
		sel.begin(r, e)
		sel.small = append(sel.small, r)
	}
	if sel.newest != 0 {
		sel.lsn = 0
	}
}

func (sel *selection) begin(r ref, e layout.Entry) {
	if sel.lsn == 0 {
		sel.lsn, sel.over = e.LSN(), r
	}
}

// compactor is one worker. It holds a reader's generation, so nothing it looks
// at is freed, but not the lock of the object: writes go on, and add entries
// over the place of the result. An overwrite among them makes the result
// unnecessary; one that comes after the result has a later ticket, so the
// result has its effect first.
type compactor struct {
	s          *Store
	op         Op     // waits for syncs and room
	data, base []byte // a block each, kept: what is copied, and (C > G) what is there
	id         meta.ObjectID
	sel        selection
	over       ref
	generation uint8
	again      bool
	placed     bool
	phase      compactPhase
	pending    int
	failed     bool
	source     []ref // of each granule: the small write that has its newest data
	pieces     []copyPiece
	blocks     []int       // checksum blocks to compute, C > G only
	written    meta.Bitmap // granules that the result has
	sums       layout.Csums
	watchers   opQueue
	next       *compactor
}

type compactPhase uint8

const (
	compactReading compactPhase = iota
	compactWriting              // waits for older reads, or is writing
	compactPlacing              // waits for a sync or for room, or the result is on its way
)

// compacting is the worker of an object, or nil.
func (s *Store) compacting(id meta.ObjectID) *compactor {
	for _, c := range s.compact.active {
		if c.id == id {
			return c
		}
	}
	return nil
}

// startCompactor begins a compaction; nil if there is nothing to do.
func (s *Store) startCompactor(id meta.ObjectID, forced bool) *compactor {
	if c := s.compacting(id); c != nil {
		c.again = true
		return c
	}
	c := s.compact.idle
	if c == nil {
		c = s.newCompactor()
	} else {
		s.compact.idle = c.next
	}
	s.choose(&c.sel, s.index.head(id), forced)
	if c.sel.lsn == 0 {
		c.next = s.compact.idle
		s.compact.idle = c
		return nil
	}
	c.op.prepare(s)
	c.op.Kind, c.op.OID, c.op.worker = opCompactor, id, c
	c.id, c.over, c.failed, c.again = id, c.sel.over, false, false
	c.generation = s.readStart()
	c.placed = false
	s.compact.running++
	s.compact.copying++
	s.compact.active = append(s.compact.active, c)
	c.begin()
	return c
}

func (s *Store) newCompactor() *compactor {
	g := &s.geo
	c := &compactor{s: s, source: make([]ref, g.Granules()), written: make(meta.Bitmap, g.BitmapBytes()),
		sums: make(layout.Csums, 4*g.CsumCount())}
	var err error
	if c.data, err = pinned.AlignedBuffer(int(g.BlockBytes)); err == nil && g.CsumBytes > g.GranuleBytes {
		c.base, err = pinned.AlignedBuffer(int(g.BlockBytes))
	}
	if err != nil {
		invariant.Fail("store: memory for compaction: %v", err)
	}
	s.compact.made = append(s.compact.made, c)
	return c
}

// runCompactor goes on after a wait.
func (s *Store) runCompactor(op *Op) {
	c := op.worker
	switch c.phase {
	case compactWriting:
		c.copyOut()
	case compactPlacing:
		c.place()
	default:
		invariant.Fail("store: a compactor was woken while it is reading")
	}
}

// place adds the result over the newest entry that it replaces.
func (c *compactor) place() {
	s := c.s
	if s.failed != nil || !c.stillWanted() {
		c.end(false)
		return
	}
	size := s.geo.BigWriteBytes()
	if c.sel.base == 0 {
		size = 40
	}
	if s.windowFull() {
		s.waitSpace(&c.op)
		return
	}
	w := s.chooseBlock(size, useCompact)
	if w == nil {
		s.waitSpace(&c.op)
		return
	}
	r, err := s.recs.alloc(size)
	if err != nil {
		c.end(false)
		return
	}
	dst := s.recs.bytes(r)[recHeader:]
	if c.sel.base == 0 {
		layout.PutDelete(dst, c.sel.lsn, c.id)
	} else {
		newest, base := s.recs.entry(c.sel.newest), s.recs.entry(c.sel.base)
		h := layout.Head{LSN: c.sel.lsn, Object: c.id, Version: newest.Version(), Stable: true}
		var sums layout.Csums
		if s.geo.CsumBytes != 0 {
			sums = c.sums
		}
		s.geo.PutBigWrite(dst, h, base.Block(), newest.ExtBitmap(&s.geo), c.written, sums)
	}
	c.op.pending = 1
	c.placed = true
	s.compact.copying--
	s.place(&c.op, w, r)
	s.compactMore()
}

// stillWanted tells whether the selection is still live: no overwrite entry,
// in flight or not, has appeared over it.
func (c *compactor) stillWanted() bool {
	s := c.s
	for r := s.index.head(c.id); r != 0; r = s.recs.older(r) {
		if r == c.sel.over {
			return true
		}
		if s.recs.entry(r).IsOverwrite() {
			return false
		}
	}
	return false
}

// compactorPlaced: the result is on disk, or writing it failed.
func (s *Store) compactorPlaced(op *Op) { op.worker.end(s.failed == nil) }

// end finishes a compaction.
func (c *compactor) end(done bool) {
	s := c.s
	if done {
		s.counters.Compactions++
	} else {
		invariant.Sometimes("store: a compaction is given up")
		s.counters.CompactionsGivenUp++
	}
	for i, a := range s.compact.active {
		if a == c {
			last := len(s.compact.active) - 1
			s.compact.active[i] = s.compact.active[last]
			s.compact.active[last] = nil
			s.compact.active = s.compact.active[:last]
			break
		}
	}
	s.compact.running--
	if !c.placed {
		s.compact.copying--
		s.env.Exec.Defer(&s.metaTask) // a block of results may be waiting for it
	}
	if c.again {
		s.queueCompact(c.id)
	}
	for op := c.watchers.pop(); op != nil; op = c.watchers.pop() {
		s.ready(op)
	}
	generation := c.generation
	c.next = s.compact.idle
	s.compact.idle = c
	s.readEnd(generation)
	s.compactMore()
	s.wake()
	if s.closing != nil {
		s.env.Exec.Defer(&s.doneTask)
	}
}

// compactFirst lets a rollback continue after a compaction of its object; false
// if there is nothing to compact, or was not the last time.
func (s *Store) compactFirst(it *Op) bool {
	if it.compacted {
		return false
	}
	it.compacted = true
	c := s.startCompactor(it.OID, true)
	if c == nil {
		return false
	}
	c.watchers.push(it)
	invariant.Sometimes("store: a rollback waits for a compaction")
	return true
}

// startCompactAll compacts everything that can be.
func (s *Store) startCompactAll(op *Op) {
	op.step = stepSynced
	s.afterRound(op)
}

// runCompactAll goes on after a round: what it made effective is compacted,
// and another round makes that durable, until there is nothing more. Then
// stale metadata blocks are rewritten until no DELETE entries are needed.
func (s *Store) runCompactAll(op *Op) {
	if s.failed != nil {
		s.finish(op, syscall.EIO)
		return
	}
	if op.step == stepStart {
		op.step = stepSynced
		s.afterRound(op)
		return
	}
	op.step = stepStart
	if s.compact.queue.len() == 0 && s.compact.running == 0 && s.effective == s.completed {
		if !s.sweepFor(op) {
			s.finish(op, 0)
		}
		return
	}
	s.compact.all.push(op)
	s.compactMore()
}
