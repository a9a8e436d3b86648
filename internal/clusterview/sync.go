package clusterview

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/schema"
)

// Timing are the time limits of a Sync, with the options they come from.
type Timing struct {
	Load      time.Duration // etcd_slow_timeout: of one load, and between failed ones
	KeepAlive time.Duration // etcd_ws_keepalive_interval: between tests of watches
	Reload    time.Duration // etcd_min_reload_interval: at least between loads
}

// DefaultTiming are the defaults of the options.
var DefaultTiming = Timing{Load: 5 * time.Second, KeepAlive: 5 * time.Second, Reload: time.Second}

// SyncConfig says what a Sync follows.
type SyncConfig struct {
	Clock env.Clock
	KV    env.KV
	Log   *slog.Logger
	Timing
	// Load are the ranges that are followed, Watch the ranges of the watches,
	// which have to cover them. What is watched but not loaded is ignored.
	Load, Watch []schema.Range
	// Guard makes loads fail for good when it does not hold (an OSD's own
	// lease, etcd.md 3.1).
	Guard []env.Compare
	// Attempts limits how often the first load is tried, 0 = for ever.
	Attempts int
	// Once makes a compaction the end, instead of a new load (monitors start
	// again from their election).
	Once bool
	// Apply gets every change. It may stop the Sync.
	Apply func(*Batch)
	// Fatal is the last call when the Sync cannot go on.
	Fatal func(error)
}

// Batch is what one message of etcd has changed, or one load.
type Batch struct {
	Reloaded bool  // the result of a load
	Watch    int   // otherwise: which watch
	Revision int64 // of etcd
	// Events are the changes against what was known before, one per key,
	// ascending.
	Events []env.WatchEvent
}

// ErrGuard is given to Fatal when the guard of a load did not hold.
var ErrGuard = errors.New("the lease was lost: another instance may run, or etcd was not reachable for too long")

// Sync follows ranges of etcd: it loads them at once, watches them, watches the
// watches, and loads everything again when etcd has forgotten too much.
type Sync struct {
	SyncConfig
	known    map[string]int64 // followed keys and their revisions
	watches  []*follower
	pulse    env.Timer // tests watches
	again    env.Timer // starts a load
	loadedAt env.Instant
	failures int // of loads, in a row
	loaded   bool
	stopped  bool
}

// follower is one watch of a Sync.
type follower struct {
	sync     *Sync
	index    int
	request  env.WatchRequest
	watch    env.Watch // nil while loading
	revision int64     // everything up to here was applied
	asked    bool      // a progress request was sent
	heard    bool      // and something came since
}

// NewSync makes a Sync; nothing happens before Start.
func NewSync(c SyncConfig) *Sync {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Timing == (Timing{}) {
		c.Timing = DefaultTiming
	}
	s := &Sync{SyncConfig: c, known: map[string]int64{}}
	for i, r := range c.Watch {
		s.watches = append(s.watches, &follower{sync: s, index: i,
			request: env.WatchRequest{Key: r.Key, End: r.End}})
	}
	s.pulse.Fire = s.testWatches
	s.again.Fire = s.load
	return s
}

// Start begins with the first load.
func (s *Sync) Start() { s.load() }

// Stop ends everything; there are no more calls.
func (s *Sync) Stop() {
	s.stopped = true
	s.disconnect()
	s.Clock.Disarm(&s.again)
}

// Loaded tells whether the first load is done.
func (s *Sync) Loaded() bool { return s.loaded }

// Revision tells how far a watch has come: nothing up to this revision is
// missing in its range.
func (s *Sync) Revision(watch int) int64 { return s.watches[watch].revision }

func (s *Sync) fail(err error) {
	s.Stop()
	s.Fatal(err)
}

// disconnect ends the watches.
func (s *Sync) disconnect() {
	s.Clock.Disarm(&s.pulse)
	for _, w := range s.watches {
		if w.watch != nil {
			w.watch.Cancel()
			w.watch = nil
		}
	}
}

// load reads everything in one transaction.
func (s *Sync) load() {
	s.loadedAt = s.Clock.Now()
	t := &env.Txn{If: s.Guard}
	for _, r := range s.Load {
		t.Then = append(t.Then, r.Get())
	}
	s.KV.Txn(t, s.Timing.Load, func(r *env.TxnResponse, err error) {
		switch {
		case s.stopped:
		case err != nil:
			s.loadFailed(err)
		case !r.Succeeded:
			s.fail(ErrGuard)
		default:
			s.failures = 0
			s.applyLoad(r)
		}
	})
}

func (s *Sync) loadFailed(err error) {
	s.failures++
	final := errors.Is(err, env.ErrKVTooLarge) || errors.Is(err, env.ErrKVInvalid)
	if final || !s.loaded && s.Attempts > 0 && s.failures >= s.Attempts {
		s.fail(fmt.Errorf("cannot load the cluster state, attempt %d: %w", s.failures, err))
		return
	}
	s.Log.Warn("cannot load the cluster state, trying again", "attempt", s.failures, "err", err)
	s.Clock.Arm(&s.again, max(s.untilLoad(s.Timing.Load), s.Timing.Reload))
}

// untilLoad is the rest of an interval that has begun with the last load.
func (s *Sync) untilLoad(interval time.Duration) time.Duration {
	return s.loadedAt.Add(interval).Sub(s.Clock.Now())
}

// applyLoad makes a batch of the difference between what was known and what
// was read.
func (s *Sync) applyLoad(r *env.TxnResponse) {
	b := &Batch{Reloaded: true, Revision: r.Revision}
	gone := maps.Clone(s.known)
	for i := range r.Responses {
		for _, kv := range r.Responses[i].KVs {
			delete(gone, kv.Key)
			if s.known[kv.Key] != kv.ModRevision {
				s.known[kv.Key] = kv.ModRevision
				b.Events = append(b.Events, env.WatchEvent{KV: kv})
			}
		}
	}
	for key := range gone {
		delete(s.known, key)
		b.Events = append(b.Events, env.WatchEvent{Deleted: true,
			KV: env.KeyValue{Key: key, ModRevision: r.Revision}})
	}
	slices.SortFunc(b.Events, byKey)
	s.loaded = true
	for _, w := range s.watches {
		// After a load from another member than before, etcd may seem to be
		// behind: it was restored from a backup. The load is the truth.
		w.revision = r.Revision
		w.connect()
	}
	s.Clock.Arm(&s.pulse, s.Timing.KeepAlive)
	s.Apply(b)
}

func byKey(a, b env.WatchEvent) int { return strings.Compare(a.KV.Key, b.KV.Key) }

// testWatches asks every watch for a sign of life, and replaces those that have
// given none since the last time.
func (s *Sync) testWatches() {
	for _, w := range s.watches {
		if w.asked && !w.heard {
			s.Log.Warn("etcd watch is silent, reconnecting", "key", w.request.Key, "revision", w.revision)
			w.watch.Cancel()
			w.connect()
			continue
		}
		w.asked, w.heard = true, false
		w.watch.RequestProgress()
	}
	s.Clock.Arm(&s.pulse, s.Timing.KeepAlive)
}

// connect watches from the first revision that was not applied.
func (w *follower) connect() {
	w.asked, w.heard = false, false
	w.request.Start = w.revision + 1
	w.watch = w.sync.KV.Watch(w.request, w.handle)
}

func (w *follower) handle(r *env.WatchResponse) {
	s := w.sync
	w.heard = true
	switch {
	case errors.Is(r.Err, env.ErrKVCompacted) && !s.Once:
		s.Log.Info("etcd has compacted what was missed, loading everything again",
			"key", w.request.Key, "revision", w.revision, "compacted", r.Compacted)
		invariant.Sometimes("clusterview: reload after compaction")
		s.disconnect()
		s.Clock.Arm(&s.again, s.untilLoad(s.Timing.Reload))
	case r.Err != nil:
		s.fail(r.Err)
	default:
		w.apply(r)
	}
}

// apply reduces a message to one event per key (etcd.md 3.1).
func (w *follower) apply(r *env.WatchResponse) {
	s := w.sync
	latest := map[string]env.WatchEvent{}
	for _, e := range r.Events {
		if e.KV.ModRevision > w.revision && s.follows(e.KV.Key) {
			latest[e.KV.Key] = e
		}
	}
	w.revision = max(w.revision, r.Revision)
	b := &Batch{Watch: w.index, Revision: r.Revision}
	for key, e := range latest {
		if e.Deleted {
			if _, exists := s.known[key]; !exists {
				continue
			}
			delete(s.known, key)
		} else {
			s.known[key] = e.KV.ModRevision
		}
		b.Events = append(b.Events, e)
	}
	if len(b.Events) > 0 {
		slices.SortFunc(b.Events, byKey)
		s.Apply(b)
	}
}

func (s *Sync) follows(key string) bool {
	for _, r := range s.Load {
		if r.Contains(key) || r.Key == key {
			return true
		}
	}
	return false
}
