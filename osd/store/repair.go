package store

import "slices"

// syncAll makes durable what was read: after the death of only the process it
// may still be in the cache of a device, while from now on it counts as durable.
func (l *loader) syncAll(i int) {
	switch d := l.s.devices; {
	case i == len(d):
		l.repair()
	case d[i].cached:
		l.sync(d[i], func() { l.syncAll(i + 1) })
	default:
		l.syncAll(i + 1)
	}
}

// repair writes the metadata blocks from which entries were dropped, then the
// store is open. The records dropped last of each object stay in their blocks
// until the second pass.
func (l *loader) repair() {
	l.rewrite(l.pass[0], func() {
		for _, r := range l.oldest {
			l.s.dropEntry(r)
			l.s.recs.release(r)
		}
		for n := range l.corrupt {
			l.pass[1][n] = true
		}
		l.rewrite(l.pass[1], l.opened)
	})
}

// rewrite writes blocks, a few at a time in the order of their numbers, and
// makes them durable.
func (l *loader) rewrite(blocks map[uint32]bool, then func()) {
	if len(blocks) == 0 {
		then()
		return
	}
	s := l.s
	left := make([]uint32, 0, len(blocks))
	for n := range blocks {
		left = append(left, n)
	}
	slices.Sort(left)
	var op Op
	next := func() {
		if s.failed != nil {
			l.fail(s.failed)
			l.finish()
			return
		}
		if len(left) == 0 {
			l.sync(s.metaDev, then)
			return
		}
		op.prepare(s)
		op.Kind, op.pending, op.ref = opRepair, 1, 0
		w := s.openBlock(left[0])
		left = left[1:]
		w.ops.push(&op)
	}
	op.Done = func(*Op) { next() }
	next()
}

// opened reports success and lets compaction begin.
func (l *loader) opened() {
	s := l.s
	s.durableLSN = min(s.durableLSN, s.lsn)
	for _, q := range l.compact {
		s.queueCompact(q.id)
	}
	l.compact = nil
	s.initDiscard()
	if s.env.Log != nil {
		s.env.Log.Info("object store is open", "objects", s.index.objects, "entries", s.recs.live,
			"highest lsn", s.lsn, "free blocks", s.blocks.n-s.blocks.used)
	}
	l.finish()
	s.forgetDeletes()
	s.compactMore()
}
