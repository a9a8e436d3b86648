package store

import (
	"slices"
	"syscall"

	"vitastor/internal/meta"
)

// startList begins a listing, which waits for everything submitted before.
func (s *Store) startList(op *Op) {
	l := op.List
	switch {
	case l.Pool == 0 || l.PG < 1 || uint32(l.PG) > l.PGCount || l.PGStripeBytes < 4096 ||
		l.Min.Inode.Pool() != l.Pool || l.Max.Inode.Pool() != l.Pool:
		s.finish(op, syscall.EINVAL)
	case !s.Sharded(l.Pool, l.PGCount, l.PGStripeBytes):
		s.finish(op, syscall.EAGAIN)
	case !s.barrier.wait(op):
		s.runList(op)
	}
}

// runList collects the objects of a PG (spec wire.md §7.8).
func (s *Store) runList(op *Op) {
	l := op.List
	l.Stable, l.Unstable = l.Stable[:0], l.Unstable[:0]
	pi := s.index.pool(l.Pool)
	if s.Sharded(l.Pool, l.PGCount, l.PGStripeBytes) {
		s.index.each(&pi.cur.tables[l.PG-1], func(slot uint64) bool {
			s.listObject(l, slotRef(slot))
			return true
		})
	} else { // resharded while the listing waited: slower, but possible
		s.index.eachPool(pi, func(slot uint64) bool {
			if meta.PGOf(s.index.objectOf(slotRef(slot)).Stripe, l.PGStripeBytes, l.PGCount) == l.PG {
				s.listObject(l, slotRef(slot))
			}
			return true
		})
	}
	if l.StableLimit > 0 {
		slices.SortFunc(l.Stable, meta.ObjectVersion.Compare)
		l.Stable = l.Stable[:min(len(l.Stable), l.StableLimit)]
	}
	s.finish(op, 0)
}

func (s *Store) listObject(l *List, head ref) {
	id := s.index.objectOf(head)
	if id.Less(l.Min) || l.Max.Less(id) {
		return
	}
	last := meta.NoVersion
	for w := s.walkFrom(head); w.next(); {
		v := meta.ObjectVersion{ObjectID: id, Version: w.entry.Version()}
		if w.stable {
			l.Stable = append(l.Stable, v)
			return
		}
		if v.Version != last {
			l.Unstable = append(l.Unstable, v)
		}
		last = v.Version
	}
}
