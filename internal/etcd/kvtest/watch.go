package kvtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
)

// recorder collects what a watch reports.
type recorder struct {
	dir       string
	responses []*env.WatchResponse // with events
	progress  []int64              // revisions of those without
	err       *env.WatchResponse   // the last one
	watch     env.Watch
}

func (s *suite) watch(start int64) *recorder {
	s.Helper()
	w := &recorder{dir: s.dir}
	inside := true
	w.watch = s.kv.Watch(env.WatchRequest{Key: s.dir, End: s.end(), Start: start}, func(r *env.WatchResponse) {
		switch {
		case inside:
			s.Error("callback inside the call")
		case w.err != nil:
			s.Error("a response after the last one")
		case r.Err != nil:
			w.err = r
		case len(r.Events) == 0:
			w.progress = append(w.progress, r.Revision)
		default:
			w.responses = append(w.responses, r)
			if last := r.Events[len(r.Events)-1].KV.ModRevision; last > r.Revision {
				s.Errorf("events of revision %d in a response of revision %d", last, r.Revision)
			}
		}
	})
	inside = false
	s.Cleanup(w.watch.Cancel)
	return w
}

// String renders all events: "key@revision", with "-" for deletions.
func (w *recorder) String() string {
	var b strings.Builder
	for _, r := range w.responses {
		for _, e := range r.Events {
			fmt.Fprintf(&b, " %s@%d", strings.TrimPrefix(e.KV.Key, w.dir), e.KV.ModRevision)
			if e.Deleted {
				b.WriteByte('-')
			}
		}
	}
	return strings.TrimPrefix(b.String(), " ")
}

func (w *recorder) expect(t testing.TB, want string) {
	t.Helper()
	if got := w.String(); got != want || w.err != nil {
		t.Errorf("the watch reported %q (err %v), want %q", got, w.err, want)
	}
}

// count is the number of events.
func (w *recorder) count() (n int) {
	for _, r := range w.responses {
		n += len(r.Events)
	}
	return n
}

func (s *suite) watchThePast() {
	first := s.do(s.opPut("a", "1")).Revision
	s.do(Put("/elsewhere", "x"), Put(s.end(), "x"))
	s.do(s.opPut("b", "1"), s.opDelete("a"))
	s.do(s.opPut("a", "2"))
	want := fmt.Sprintf("a@%d b@%d a@%d- a@%d", first, first+2, first+2, first+3)
	early, late := s.watch(first), s.watch(first+3)
	s.loop.Until(s, "events", func() bool { return early.count() == 4 && late.count() == 1 })
	early.expect(s, want)
	late.expect(s, fmt.Sprintf("a@%d", first+3))
	for _, r := range early.responses {
		for _, e := range r.Events {
			if e.Deleted && (e.KV.Value != nil || e.KV.Version != 0 || e.KV.CreateRevision != 0) {
				s.Errorf("deletion with %+v", e.KV)
			}
			if e.KV.ModRevision == first+3 && (string(e.KV.Value) != "2" || e.KV.Version != 1 ||
				e.KV.CreateRevision != first+3) {
				s.Errorf("second life of a: %+v", e.KV)
			}
		}
	}
	// A watch may begin in the future.
	future := s.watch(first + 5)
	s.do(s.opPut("f", "4"))
	s.do(s.opPut("f", "5"))
	s.loop.Until(s, "the event of the future", func() bool { return future.count() > 0 })
	future.expect(s, fmt.Sprintf("f@%d", first+5))
}

func (s *suite) watchFromNow() {
	s.do(s.opPut("old", ""))
	w := s.watch(0)
	for i := 0; w.count() == 0; i++ { // until the watch has begun
		s.do(s.opPut("new", fmt.Sprint(i)))
	}
	s.do(s.opPut("last", ""))
	s.loop.Until(s, "the last event", func() bool { return strings.Contains(w.String(), "last") })
	if strings.Contains(w.String(), "old") {
		s.Errorf("the past is reported: %s", w)
	}
	// Without a gap after the first one.
	first := w.responses[0].Events[0].KV.ModRevision
	for i, r := range w.responses {
		if r.Events[0].KV.ModRevision != first+int64(i) {
			s.Fatalf("gap or repetition in %s", w)
		}
	}
}

// watchOrder lets two clients write at the same time.
func (s *suite) watchOrder() {
	const each = 50
	w := s.watch(s.do(s.opGet("x")).Revision + 1)
	left := 0
	var want []int64
	for _, kv := range []env.KV{s.kv, s.server.KV(s.T)} {
		left++
		var next func(i int)
		next = func(i int) {
			if i == each {
				left--
				return
			}
			kv.Txn(&env.Txn{Then: []env.KVOp{s.opPut("a", ""), s.opPut("b", "")}}, timeout,
				func(r *env.TxnResponse, err error) {
					if err != nil {
						s.Error(err)
						left = 0
						return
					}
					want = append(want, r.Revision)
					next(i + 1)
				})
		}
		next(0)
	}
	s.loop.Until(s, "the writers", func() bool { return left == 0 })
	s.loop.Until(s, "events", func() bool { return w.count() >= 4*each })
	slices.Sort(want)
	w.expectRevisions(s, want, 2)
}

// expectRevisions checks that each of the revisions was reported exactly once,
// in order, as a whole.
func (w *recorder) expectRevisions(t testing.TB, want []int64, eventsEach int) {
	t.Helper()
	var got []int64
	for _, r := range w.responses {
		if len(r.Events)%eventsEach != 0 {
			t.Errorf("a response has a part of a revision: %d events", len(r.Events))
		}
		for i := 0; i < len(r.Events); i += eventsEach {
			got = append(got, r.Events[i].KV.ModRevision)
		}
	}
	if !slices.Equal(got, want) || w.err != nil {
		t.Errorf("reported revisions %v (err %v), want %v", got, w.err, want)
	}
}

func (s *suite) watchProgress() {
	w := s.watch(s.do(s.opPut("a", "")).Revision + 1)
	for range 3 {
		n := len(w.progress)
		s.do(Put("/elsewhere", ""))
		now := s.do(s.opGet("a")).Revision
		s.loop.Sleep(150 * time.Millisecond) // old servers miss requests of new watches
		w.watch.RequestProgress()
		s.loop.Until(s, "progress", func() bool { return len(w.progress) > n })
		if got := w.progress[n]; got > now {
			s.Errorf("progress at revision %d, the server is at %d", got, now)
		}
	}
	if !slices.IsSorted(w.progress) || w.count() != 0 {
		s.Errorf("progress %v, events %s", w.progress, w)
	}
}

func (s *suite) watchCancel() {
	start := s.do(s.opPut("a", "")).Revision
	canceled, other := s.watch(start), s.watch(start)
	s.loop.Until(s, "events", func() bool { return canceled.count() == 1 && other.count() == 1 })
	s.server.Apply(s.T, s.opPut("a", "")) // may be on its way
	canceled.watch.Cancel()
	canceled.watch.Cancel()
	s.loop.Until(s, "events", func() bool { return other.count() == 2 })
	if n := canceled.count(); n > 1 {
		s.Errorf("%d events after the end", n-1)
	}
}

// watchSurvives interrupts the network several times during changes.
func (s *suite) watchSurvives(m Mode) {
	w := s.watch(s.do(s.opPut("a", "")).Revision + 1)
	var want []int64
	change := func() {
		want = append(want, s.server.Apply(s.T, s.opPut("a", ""), s.opPut("b", "")))
	}
	for range 3 {
		change()
		s.server.Network(s.T, m)
		change()
		s.loop.Sleep(100 * time.Millisecond)
		change()
		s.server.Network(s.T, Open)
		change()
		s.loop.Until(s, "events", func() bool { return w.count() >= 2*len(want) })
	}
	w.expectRevisions(s, want, 2)
}

func (s *suite) watchSurvivesRestart() {
	w := s.watch(s.do(s.opPut("a", "")).Revision + 1)
	var want []int64
	for range 2 {
		want = append(want, s.server.Apply(s.T, s.opPut("a", ""), s.opPut("b", "")))
		s.server.Restart(s.T)
		want = append(want, s.server.Apply(s.T, s.opPut("a", ""), s.opPut("b", "")))
		s.loop.Until(s, "events", func() bool { return w.count() >= 2*len(want) })
	}
	w.expectRevisions(s, want, 2)
	if r := s.do(s.opPut("a", "")); r.Revision != want[len(want)-1]+1 {
		s.Errorf("revision %d after %v", r.Revision, want)
	}
}

func (s *suite) compactionWhileAway() {
	w := s.watch(s.do(s.opPut("a", "")).Revision + 1)
	seen := s.do(s.opPut("a", "")).Revision
	s.loop.Until(s, "the first event", func() bool { return w.count() == 1 })
	s.server.Network(s.T, Refuse)
	for range 5 {
		s.server.Apply(s.T, s.opPut("a", ""))
	}
	last := s.server.Apply(s.T, s.opPut("b", ""))
	s.server.Compact(s.T, last-1)
	s.server.Network(s.T, Open)
	s.loop.Until(s, "the end of the watch", func() bool { return w.err != nil })
	if !errors.Is(w.err.Err, env.ErrKVCompacted) || w.err.Compacted != last || w.count() != 1 {
		s.Errorf("after revision %d: %+v, %s", seen, w.err, w)
	}
	// From the reported revision on everything is there.
	again := s.watch(w.err.Compacted)
	s.loop.Until(s, "events", func() bool { return again.count() > 0 })
	again.expect(s, fmt.Sprintf("b@%d", last))
	tooEarly := s.watch(last - 1)
	s.loop.Until(s, "the end of the early watch", func() bool { return tooEarly.err != nil })
	if tooEarly.count() != 0 {
		s.Errorf("early watch: %s", tooEarly)
	}
}

// compactionAtDeletion compacts at a revision that is a deletion: some servers
// forget it, and must not be allowed to do so silently.
func (s *suite) compactionAtDeletion() {
	revision := s.do(s.opPut("a", "")).Revision
	w := s.watch(revision + 1)
	s.do(s.opPut("b", ""))
	s.loop.Until(s, "the first event", func() bool { return w.count() == 1 })
	s.server.Network(s.T, Refuse)
	deleted := s.server.Apply(s.T, s.opDelete("a"))
	s.server.Apply(s.T, s.opPut("b", ""))
	s.server.Compact(s.T, deleted)
	s.server.Network(s.T, Open)
	s.loop.Until(s, "an answer", func() bool { return w.err != nil || w.count() > 1 })
	if w.err == nil || w.err.Compacted != deleted+1 {
		s.Errorf("err %+v, events %s", w.err, w)
	}
}

func (s *suite) unavailable() {
	const short = 500 * time.Millisecond
	id := s.grant(600)
	for _, m := range []Mode{Refuse, Hang} {
		s.server.Network(s.T, m)
		for _, attempt := range []func() error{
			func() error { _, err := s.attempt(s.kv, &env.Txn{Then: []env.KVOp{s.opGet("a")}}, short); return err },
			func() error {
				_, err := s.attempt(s.kv, &env.Txn{Then: []env.KVOp{s.opPut("a", "")}}, short)
				return err
			},
			func() error { _, err := s.keepAlive(id, short); return err },
		} {
			began := s.loop.Now()
			err := attempt()
			took := s.loop.Now().Sub(began)
			if !errors.Is(err, env.ErrKVUnavailable) && !errors.Is(err, env.ErrKVTimeout) {
				s.Errorf("mode %d: %v", m, err)
			}
			if took > short+2*time.Second {
				s.Errorf("mode %d: the answer took %v of %v", m, took, short)
			}
		}
		s.server.Network(s.T, Open)
		began := s.loop.Now()
		s.do(s.opPut("a", ""))
		if took := s.loop.Now().Sub(began); took > 5*time.Second {
			s.Errorf("mode %d: it took %v to find back", m, took)
		}
		if ttl, err := s.keepAlive(id, timeout); ttl != 600 || err != nil {
			s.Errorf("keepalive: %d, %v", ttl, err)
		}
	}
}
