package store

import "vitastor/internal/pinned"

// Close waits for running operations, makes everything durable and frees the
// memory; done is not called inside Close and gets the error that stopped the
// store, if any. Operations submitted later fail with ESHUTDOWN.
func (s *Store) Close(done func(error)) {
	s.closing = done
	s.env.Clock.Disarm(&s.resharder.timer)
	s.env.Exec.Defer(&s.doneTask)
}

// closeStep goes on with Close when nothing runs any more: a last round, then
// the end.
func (s *Store) closeStep() {
	if s.closing == nil || s.active > 0 || s.compact.running > 0 || s.io > 0 || s.closed {
		return
	}
	if !s.closeSynced {
		s.closeSynced = true
		s.closeOp.prepare(s)
		s.closeOp.Kind, s.closeOp.step = OpSync, stepFinish
		s.closeOp.Done = func(*Op) {}
		s.active++
		s.afterRound(&s.closeOp)
		return
	}
	s.closed = true
	done, err := s.closing, s.failed
	s.free()
	done(err)
}

// Free returns the memory of a store whose loop does not run any more, whatever
// it was doing: the process was killed in the simulator. Nothing of the store,
// its operations included, may be used afterwards.
func (s *Store) Free() {
	if s.closed {
		return
	}
	s.closed = true
	for _, b := range s.reads.owned {
		pinned.Free(b)
	}
	s.reads.owned = nil
	s.pool.Discard()
	s.pool = nil
	s.free()
}

// free returns all memory outside of the Go heap.
func (s *Store) free() {
	s.recs.free()
	s.index.free()
	for _, w := range s.meta.writes {
		pinned.Free(w.buf)
	}
	for _, c := range s.compact.made {
		pinned.Free(c.data)
		pinned.Free(c.base)
	}
	pinned.Free(s.meta.table)
	pinned.Free(s.trim.block)
	s.meta.table, s.trim.block = nil, nil
	if s.pool != nil {
		s.pool.Free()
		s.pool = nil
	}
}
