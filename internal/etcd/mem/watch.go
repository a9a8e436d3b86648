package mem

import (
	"fmt"
	"slices"
	"sort"

	"vitastor/internal/env"
)

// Watcher is a cursor in the history of a Store. It costs nothing while it is
// not polled and needs no end. A watch that was connected all the time is one
// that is polled after every change: it never meets a compaction.
type Watcher struct {
	store    *Store
	key, end string
	next     int64 // first revision that was not looked at
	progress bool
	ended    bool
}

// Watch begins at revision r.Start, or after the newest one if that is 0.
func (s *Store) Watch(r env.WatchRequest) *Watcher {
	w := &Watcher{store: s, key: r.Key, end: r.End, next: r.Start}
	if r.Start <= 0 {
		w.next = s.revision + 1
	}
	return w
}

// RequestProgress makes the next Poll answer even if nothing has changed.
func (w *Watcher) RequestProgress() { w.progress = true }

// Poll returns what a server would send next, or nil. maxRevisions limits how
// much one response carries (0 = no limit), because servers do not always send
// everything at once. The last response is the one with Err set.
func (w *Watcher) Poll(maxRevisions int) *env.WatchResponse {
	s := w.store
	switch {
	case w.ended:
		return nil
	case w.next <= s.compacted:
		w.ended = true
		return &env.WatchResponse{Compacted: s.compacted + 1, Err: fmt.Errorf(
			"watch of %q from revision %d: %w", w.key, w.next, env.ErrKVCompacted)}
	}
	if events := w.collect(maxRevisions); len(events) > 0 {
		return &env.WatchResponse{Revision: events[len(events)-1].KV.ModRevision, Events: events}
	}
	if w.progress {
		w.progress = false
		return &env.WatchResponse{Revision: s.revision}
	}
	return nil
}

// collect takes the next matching events and moves the cursor behind them.
func (w *Watcher) collect(maxRevisions int) []env.WatchEvent {
	h := w.store.history
	from := sort.Search(len(h), func(i int) bool { return h[i].KV.ModRevision >= w.next })
	var events []env.WatchEvent
	revisions, last := 0, int64(0)
	for _, e := range h[from:] {
		if !contains(w.key, w.end, e.KV.Key) {
			continue
		}
		if e.KV.ModRevision != last {
			if maxRevisions > 0 && revisions == maxRevisions {
				w.next = last + 1
				return events
			}
			revisions, last = revisions+1, e.KV.ModRevision
		}
		events = append(events, e)
	}
	w.next = max(w.next, w.store.revision+1)
	return events
}

// Compact forgets the history up to and including revision. Like in etcd it is
// an error to compact what is compacted already or has not happened yet.
func (s *Store) Compact(revision int64) error {
	if revision <= s.compacted {
		return env.ErrKVCompacted
	}
	if revision > s.revision {
		return fmt.Errorf("%w: compaction of revision %d, the newest is %d",
			env.ErrKVInvalid, revision, s.revision)
	}
	h := s.history
	keep := sort.Search(len(h), func(i int) bool { return h[i].KV.ModRevision > revision })
	s.history = slices.Clone(h[keep:])
	s.compacted = revision
	return nil
}

// Compacted is the revision up to which the history is forgotten; 0 = none.
func (s *Store) Compacted() int64 { return s.compacted }
