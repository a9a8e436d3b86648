package store

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// walk goes over the visible versions of an object from the newest to the
// oldest (spec ondisk.md §5.1). Entries in flight are not visible.
//
//	w := s.walkFrom(head)
//	for w.next() { ... w.ref, w.entry, w.stable ... }
type walk struct {
	recs   *records
	at     ref // where to go on
	ref    ref
	entry  layout.Entry
	stable bool
	commit meta.Version // newest COMMIT seen
	limit  meta.Version // oldest ROLLBACK seen
}

func (s *Store) walkFrom(head ref) walk {
	return walk{recs: s.recs, at: head, limit: meta.NewestVersion}
}

func (w *walk) next() bool {
	for w.at != 0 {
		r := w.at
		w.at = w.recs.older(r)
		if w.recs.has(r, flagPending) {
			continue
		}
		e := w.recs.entry(r)
		switch e.Type() {
		case layout.Rollback:
			w.limit = min(w.limit, e.Version())
			continue
		case layout.Commit:
			w.commit = max(w.commit, e.Version())
			continue
		case layout.Delete:
			w.at = 0
			return false
		}
		if e.Version() > w.limit {
			continue
		}
		w.ref, w.entry, w.stable = r, e, e.Stable() || e.Version() <= w.commit
		return true
	}
	return false
}

// find moves to the newest visible entry with a version <= v. Versions older
// than the newest stable one are not found: they may be half overwritten.
func (w *walk) find(v meta.Version) bool {
	for w.next() {
		if w.entry.Version() <= v {
			return true
		}
		if w.stable {
			break
		}
	}
	return false
}

// base is the BIG entry directly under r in its chain, r included, whatever
// its state: the block that in-place writes of r went to.
func (s *Store) base(r ref) ref {
	for r != 0 && !s.recs.entry(r).IsBig() {
		r = s.recs.older(r)
	}
	invariant.Must(r != 0, "store: a partial write without a block under it")
	return r
}

// unsettled is the newest entry of a chain that is not known to be durable, 0
// if there is none. Compaction results do not count: whether they are durable
// makes no difference to what the chain means.
func (s *Store) unsettled(head ref) ref {
	for r := head; r != 0 && s.recs.has(r, flagUnsettled); r = s.recs.older(r) {
		if uint64(s.recs.entry(r).LSN()) > s.effective {
			return r
		}
	}
	return 0 // what is under a settled entry is settled, too
}

// push links r as the newest record of its object.
func (s *Store) push(id meta.ObjectID, r ref) error {
	slot := s.index.find(id)
	if slot == nil {
		return s.index.insert(id, r)
	}
	s.recs.setOlder(r, slotRef(*slot))
	*slot = *slot&^(1<<32-1) | uint64(r)
	return nil
}

// insertOver links r, a compaction result, over the entry with its LSN.
func (s *Store) insertOver(id meta.ObjectID, r, over ref) {
	slot := s.index.find(id)
	invariant.Must(slot != nil, "store: compaction of an object that is not there")
	s.recs.setOlder(r, over)
	at := slotRef(*slot)
	if at == over {
		*slot = *slot&^(1<<32-1) | uint64(r)
		return
	}
	for s.recs.older(at) != over {
		at = s.recs.older(at)
		invariant.Must(at != 0, "store: a compacted entry is not in its chain any more")
	}
	s.recs.setOlder(at, r)
}

// unlink takes r out of the chain of id, and id out of the index with its last
// record.
func (s *Store) unlink(id meta.ObjectID, r ref) {
	slot := s.index.find(id)
	invariant.Must(slot != nil, "store: a record to unlink has no object")
	older := s.recs.older(r)
	at := slotRef(*slot)
	if at == r {
		if older == 0 {
			s.index.remove(id)
		} else {
			*slot = *slot&^(1<<32-1) | uint64(older)
		}
		return
	}
	for s.recs.older(at) != r {
		at = s.recs.older(at)
		invariant.Must(at != 0, "store: a record to unlink is not in its chain")
	}
	s.recs.setOlder(at, older)
}

// state is what a new write has to know about an object.
type state struct {
	head    ref          // newest record, 0 = none
	newest  ref          // newest visible data entry, 0 = the object does not exist
	version meta.Version // of newest
	stable  bool         // newest is stable or committed
}

func (s *Store) state(id meta.ObjectID) state {
	st := state{head: s.index.head(id)}
	w := s.walkFrom(st.head)
	if w.next() {
		st.newest, st.version, st.stable = w.ref, w.entry.Version(), w.stable
	}
	return st
}

// Stat tells the newest version <= limit of an object and copies its external
// bitmap to bitmap if that is not nil (zeroes if there is none). It reads no
// disk. Writes in flight do not count.
func (s *Store) Stat(id meta.ObjectID, limit meta.Version, bitmap []byte) (v meta.Version, ok bool) {
	w := s.walkFrom(s.index.head(id))
	if !w.find(limit) {
		clear(bitmap)
		return 0, false
	}
	copy(bitmap, w.entry.ExtBitmap(&s.geo))
	return w.entry.Version(), true
}
