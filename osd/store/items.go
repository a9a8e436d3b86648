package store

import (
	"syscall"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// OpStabilize and OpRollback work on lists. Each item is an operation of its
// own (kind opItem), which locks its object. Items are evaluated in order, the
// next one when the entry of the one before has its place, so all entries of a
// list share metadata writes. After an error no further item is evaluated, but
// what was placed is written (spec ondisk.md §12, D18).

// itemPool keeps items for reuse, and limits how many there are.
type itemPool struct {
	idle    *Op
	made    int
	waiting opQueue // lists that wait for an item
}

const itemsMax = 1024

func (s *Store) newItem() *Op {
	p := &s.items
	it := p.idle
	if it != nil {
		p.idle = it.qnext
		it.qnext = nil
	} else if p.made < itemsMax {
		it = &Op{}
		p.made++
	}
	return it
}

func (s *Store) startItems(op *Op) {
	op.stopped, op.parked = 0, false
	s.runItems(op)
}

// runItems evaluates items until one has to wait.
func (s *Store) runItems(op *Op) {
	if s.failed != nil {
		op.stopped = syscall.EIO
	}
	for op.cursor < len(op.Items) && op.stopped == 0 {
		it := s.newItem()
		if it == nil {
			op.parked = true
			s.items.waiting.push(op)
			return
		}
		v := op.Items[op.cursor]
		op.cursor++
		op.running++
		it.prepare(s)
		it.Kind, it.OID, it.Version = opItem, v.ObjectID, v.Version
		it.parent, it.evaluating, it.detached = op, true, false
		if s.locks.take(it) {
			s.run(it)
		}
		if it.evaluating {
			it.detached = true
			return
		}
	}
	switch {
	case op.running > 0:
	case s.cached && op.step == stepStart:
		op.step = stepSynced
		s.afterRound(op)
	default:
		s.finish(op, op.stopped)
	}
}

// evaluated tells the list of an item that the next one may be evaluated.
func (s *Store) evaluated(it *Op) {
	it.evaluating = false
	if it.detached {
		it.detached = false
		s.ready(it.parent)
	}
}

// itemDone: an item is finished, with or without an entry.
func (s *Store) itemDone(it *Op) {
	op := it.parent
	op.running--
	if op.stopped == 0 {
		op.stopped = it.Err
	}
	switch {
	case it.evaluating:
		s.evaluated(it)
	case op.running == 0 && (op.cursor == len(op.Items) || op.stopped != 0) && !op.parked:
		s.ready(op)
	}
	it.parent = nil
	it.qnext = s.items.idle
	s.items.idle = it
	if w := s.items.waiting.pop(); w != nil {
		w.parked = false
		s.ready(w)
	}
}

// runItem evaluates an item that holds the lock of its object.
func (s *Store) runItem(it *Op) {
	st := s.state(it.OID)
	switch {
	case st.head == 0:
		s.finish(it, syscall.ENOENT)
	case it.parent.Kind == OpStabilize:
		s.stabilize(it, st)
	default:
		s.rollback(it, st)
	}
}

// mustSettle makes it wait until everything of its object is durable: what is
// under a COMMIT, a ROLLBACK or an unstable BIG_WRITE counts, but is not
// verified at start-up.
func (s *Store) mustSettle(it *Op, st state) bool {
	if !s.cached {
		return false
	}
	r := s.unsettled(st.head)
	if r == 0 {
		return false
	}
	s.afterSettled(it, uint64(s.recs.entry(r).LSN()))
	return true
}

// stabilize adds a COMMIT if the version exists and is not stable.
func (s *Store) stabilize(it *Op, st state) {
	if st.newest == 0 {
		if s.recs.entry(st.head).Type() == layout.Delete {
			s.finish(it, 0)
		} else {
			s.finish(it, syscall.ENOENT)
		}
		return
	}
	found := false
	w := s.walkFrom(st.head)
	for w.next() {
		if w.stable {
			if it.Version <= w.entry.Version() {
				s.finish(it, 0)
				return
			}
			break
		}
		found = found || w.entry.Version() == it.Version
	}
	switch {
	case !found:
		s.finish(it, syscall.ENOENT)
	case s.mustSettle(it, st):
	default:
		s.placePlain(it, st, layout.Commit, it.Version)
	}
}

// survivors is what a rollback leaves of an object.
type survivors struct {
	newest     ref
	stable     bool // of newest
	busy       bool // a version to drop is stable
	dropped    int
	droppedBig bool // one of the dropped has a data block
	rolledBack bool // the chain has a ROLLBACK already
}

func (s *Store) survivors(head ref, v meta.Version) survivors {
	var out survivors
	w := s.walkFrom(head)
	for w.next() {
		if w.entry.Version() <= v {
			out.newest, out.stable = w.ref, w.stable
			break
		}
		out.busy = out.busy || w.stable
		out.droppedBig = out.droppedBig || w.entry.IsBig()
		out.dropped++
	}
	for r := head; r != 0 && !s.recs.entry(r).IsOverwrite(); r = s.recs.older(r) {
		out.rolledBack = out.rolledBack || s.recs.entry(r).Type() == layout.Rollback
	}
	return out
}

// rollback drops versions. The chains that release 3.0.8 mishandles (spec
// ondisk.md §12: D1, D2, D9) are avoided by stating what is left instead:
//
//	nothing is left              DELETE
//	one stable BIG entry is left BIG_WRITE with the same content
//	more, and a plain ROLLBACK   compact the stable part, then as above
//	would make such a chain
//	otherwise                    ROLLBACK
func (s *Store) rollback(it *Op, st state) {
	if st.newest == 0 {
		s.finish(it, syscall.ENOENT)
		return
	}
	left := s.survivors(st.head, it.Version)
	switch {
	case left.busy:
		s.finish(it, syscall.EBUSY)
	case left.dropped == 0:
		s.finish(it, 0)
	case left.newest == 0:
		s.placePlain(it, st, layout.Delete, 0)
	case s.mustSettle(it, st):
	case left.stable && s.recs.entry(left.newest).IsBig():
		invariant.Sometimes("store: a rollback states what is left")
		s.restate(it, st, left.newest)
	case left.stable && (left.droppedBig || left.rolledBack) && s.compactFirst(it):
	default:
		s.placePlain(it, st, layout.Rollback, it.Version)
	}
}

// restate writes the content of BIG entry r as a stable BIG_WRITE.
func (s *Store) restate(it *Op, st state, r ref) {
	size := s.geo.BigWriteBytes()
	w, wait := s.roomFor(it, st, size, useControl, false)
	if wait {
		return
	}
	if w == nil {
		s.waitSpace(it)
		return
	}
	n, ok := s.newRecord(it, size)
	if !ok {
		return
	}
	e := s.recs.entry(r)
	h := layout.Head{LSN: layout.LSN(s.lsn + 1), Object: it.OID, Version: e.Version(), Stable: true}
	var sums layout.Csums
	if s.geo.CsumBytes != 0 {
		sums = e.Csums(&s.geo)
	}
	s.geo.PutBigWrite(s.recs.bytes(n)[recHeader:], h, e.Block(), e.ExtBitmap(&s.geo), e.IntBitmap(&s.geo), sums)
	it.pending = 1
	s.place(it, w, n)
}
