package clusterview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/etcd/kvtest"
	"vitastor/internal/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spy is an env.KV that counts, and can break what the model cannot.
type spy struct {
	env.KV
	txns, watches int
	starts        []env.Instant // of transactions
	loop          *kvtest.Loop
	err           error // of transactions
	handlers      []func(*env.WatchResponse)
	mute          bool // watches do not answer progress requests
}

func (s *spy) Txn(t *env.Txn, timeout time.Duration, done func(*env.TxnResponse, error)) {
	s.txns++
	s.starts = append(s.starts, s.loop.Now())
	if err := s.err; err != nil {
		timer := &env.Timer{Fire: func() { done(nil, err) }}
		s.loop.Arm(timer, time.Millisecond)
		return
	}
	s.KV.Txn(t, timeout, done)
}

func (s *spy) Watch(r env.WatchRequest, h func(*env.WatchResponse)) env.Watch {
	s.watches++
	s.handlers = append(s.handlers, h)
	w := s.KV.Watch(r, h)
	if s.mute {
		return muteWatch{w}
	}
	return w
}

type muteWatch struct{ env.Watch }

func (muteWatch) RequestProgress() {}

// follow makes a Sync of two ranges on a model behind a spy.
type follow struct {
	*testing.T
	loop    *kvtest.Loop
	model   *kvtest.Model
	spy     *spy
	sync    *clusterview.Sync
	batches []string
	fatal   error
}

func newFollow(t *testing.T, adjust func(*clusterview.SyncConfig)) *follow {
	l := kvtest.NewLoop(t, true)
	f := &follow{T: t, loop: l, model: kvtest.NewModel(l)}
	f.spy = &spy{KV: f.model.KV(t), loop: l}
	ranges := []schema.Range{{Key: "/a/", End: "/a0"}, {Key: "/b/", End: "/b0"}}
	c := clusterview.SyncConfig{Clock: l, KV: f.spy, Load: ranges, Watch: ranges,
		Apply: func(b *clusterview.Batch) {
			text := fmt.Sprintf("%v/%d", b.Reloaded, b.Watch)
			for _, e := range b.Events {
				text += " " + e.KV.Key
				if e.Deleted {
					text += "-"
				}
			}
			f.batches = append(f.batches, text)
		},
		Fatal: func(err error) {
			if f.fatal != nil {
				t.Error("Fatal was called twice")
			}
			f.fatal = err
		}}
	if adjust != nil {
		adjust(&c)
	}
	f.sync = clusterview.NewSync(c)
	t.Cleanup(f.sync.Stop)
	return f
}

func (f *follow) expect(want ...string) {
	f.Helper()
	f.loop.Sleep(0)
	if got := strings.Join(f.batches, "; "); got != strings.Join(want, "; ") {
		f.Errorf("batches %q, want %q", got, strings.Join(want, "; "))
	}
	f.batches = nil
}

func TestSyncFollows(t *testing.T) {
	f := newFollow(t, nil)
	f.model.Apply(t, kvtest.Put("/b/1", ""), kvtest.Put("/a/1", ""), kvtest.Put("/c", ""))
	f.sync.Start()
	f.loop.Until(t, "the load", f.sync.Loaded)
	f.expect("true/0 /a/1 /b/1")
	if f.sync.Revision(0) != 2 || f.sync.Revision(1) != 2 {
		t.Errorf("revisions %d, %d", f.sync.Revision(0), f.sync.Revision(1))
	}
	f.model.Apply(t, kvtest.Put("/b/0", ""), kvtest.Put("/a/2", ""), env.KVOp{Kind: env.KVDelete, Key: "/a/1"})
	f.expect("false/0 /a/1- /a/2", "false/1 /b/0")
	f.model.Apply(t, kvtest.Put("/b/0", ""))
	f.expect("false/1 /b/0")
	if f.sync.Revision(0) != 3 || f.sync.Revision(1) != 4 {
		t.Errorf("revisions %d, %d", f.sync.Revision(0), f.sync.Revision(1))
	}
	// The test of liveness also tells the revision to a watch without changes.
	f.loop.Sleep(clusterview.DefaultTiming.KeepAlive + time.Millisecond)
	if f.sync.Revision(0) != 4 || f.spy.watches != 2 || f.spy.txns != 1 {
		t.Errorf("revision %d, %d watches, %d loads", f.sync.Revision(0), f.spy.watches, f.spy.txns)
	}
	f.sync.Stop()
	f.model.Apply(t, kvtest.Put("/a/1", ""))
	f.loop.Sleep(time.Minute)
	f.expect()
}

// TestSyncIgnoresRepetition: even if a store breaks its promise.
func TestSyncIgnoresRepetition(t *testing.T) {
	f := newFollow(t, nil)
	f.sync.Start()
	f.loop.Until(t, "the load", f.sync.Loaded)
	f.expect("true/0")
	event := func(revision int64, deleted bool) *env.WatchResponse {
		return &env.WatchResponse{Revision: revision, Events: []env.WatchEvent{{Deleted: deleted,
			KV: env.KeyValue{Key: "/a/1", ModRevision: revision}}}}
	}
	for _, r := range []*env.WatchResponse{event(5, false), event(5, false), event(4, true), event(6, true), event(6, true), event(5, false)} {
		f.spy.handlers[0](r)
	}
	f.expect("false/0 /a/1", "false/0 /a/1-")
}

func TestSyncReplacesSilentWatches(t *testing.T) {
	f := newFollow(t, nil)
	f.spy.mute = true
	f.sync.Start()
	f.loop.Until(t, "the load", f.sync.Loaded)
	f.expect("true/0")
	f.loop.Sleep(6 * clusterview.DefaultTiming.KeepAlive / 2)
	if f.spy.watches != 4 { // both again
		t.Errorf("%d watches", f.spy.watches)
	}
	f.model.Apply(t, kvtest.Put("/a/1", "")) // once, although there were two
	f.expect("false/0 /a/1")
	f.spy.mute = false
	f.loop.Sleep(10 * clusterview.DefaultTiming.KeepAlive)
	n := f.spy.watches
	f.loop.Sleep(10 * clusterview.DefaultTiming.KeepAlive)
	if f.spy.watches != n {
		t.Error("answering watches were replaced")
	}
}

func TestSyncLoadsAgain(t *testing.T) {
	f := newFollow(t, nil)
	f.spy.err = fmt.Errorf("%w: test", env.ErrKVUnavailable)
	f.sync.Start()
	f.loop.Sleep(3*clusterview.DefaultTiming.Load + time.Millisecond)
	if f.sync.Loaded() || f.spy.txns != 4 || f.fatal != nil {
		t.Errorf("%d attempts, %v", f.spy.txns, f.fatal)
	}
	f.spy.err = nil
	f.loop.Until(t, "the load", f.sync.Loaded)
	f.expect("true/0")
	f.compact()
	f.compact()
	f.loop.Sleep(time.Minute)
	f.expect("true/0", "true/0")
	for i, at := range f.spy.starts[1:] {
		if at.Sub(f.spy.starts[i]) < clusterview.DefaultTiming.Reload {
			t.Errorf("loads at %v", f.spy.starts)
		}
	}
}

// compact makes the watches miss something and lets them notice it.
func (f *follow) compact() {
	f.model.Network(f, kvtest.Hang)
	revision := f.model.Apply(f, kvtest.Put("/elsewhere", ""))
	f.model.Compact(f, revision)
	n := f.spy.txns
	f.model.Network(f, kvtest.Open)
	f.loop.Until(f, "a load", func() bool { return f.spy.txns > n || f.fatal != nil })
}

func TestSyncEnds(t *testing.T) {
	for name, c := range map[string]struct {
		adjust func(*clusterview.SyncConfig)
		loads  error         // of all loads
		cause  func(*follow) // after the load
		want   error
	}{
		"guard": {func(c *clusterview.SyncConfig) {
			c.Guard = []env.Compare{{Key: "/lease", Target: env.CompareLease, Number: 5}}
		}, nil, nil, clusterview.ErrGuard},
		"attempts":  {func(c *clusterview.SyncConfig) { c.Attempts = 2 }, env.ErrKVTimeout, nil, env.ErrKVTimeout},
		"too large": {nil, env.ErrKVTooLarge, nil, env.ErrKVTooLarge},
		"once":      {func(c *clusterview.SyncConfig) { c.Once = true }, nil, (*follow).compact, env.ErrKVCompacted},
		"canceled": {nil, nil, func(f *follow) {
			f.spy.handlers[1](&env.WatchResponse{Err: env.ErrKVInvalid})
		}, env.ErrKVInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFollow(t, c.adjust)
			f.spy.err = c.loads
			f.sync.Start()
			if c.cause != nil {
				f.loop.Until(t, "the load", f.sync.Loaded)
				c.cause(f)
			}
			f.loop.Until(t, "the end", func() bool { return f.fatal != nil })
			if !errors.Is(f.fatal, c.want) {
				t.Errorf("ended with %v, want %v", f.fatal, c.want)
			}
			f.batches = nil
			f.spy.err = nil
			f.model.Apply(t, kvtest.Put("/a/1", ""))
			f.loop.Sleep(time.Minute)
			f.expect()
		})
	}
}

// TestSyncStopsInside: the callback may stop the Sync.
func TestSyncStopsInside(t *testing.T) {
	var f *follow
	f = newFollow(t, func(c *clusterview.SyncConfig) {
		apply := c.Apply
		c.Apply = func(b *clusterview.Batch) { apply(b); f.sync.Stop() }
	})
	f.sync.Start()
	f.loop.Until(t, "the load", f.sync.Loaded)
	f.model.Apply(t, kvtest.Put("/a/1", ""))
	f.loop.Sleep(time.Minute)
	f.expect("true/0")
}
