package etcd_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/etcd/kvtest"
)

// txn runs one transaction.
func txn(t *testing.T, l *kvtest.Loop, kv env.KV, timeout time.Duration, ops ...env.KVOp) (*env.TxnResponse, error) {
	t.Helper()
	var response *env.TxnResponse
	var failure error
	ended := false
	kv.Txn(&env.Txn{Then: ops}, timeout, func(r *env.TxnResponse, err error) {
		response, failure, ended = r, err, true
	})
	l.Until(t, "the end of a transaction", func() bool { return ended })
	return response, failure
}

// pair is one server behind two proxies: two members for the client, one of
// which can be broken.
func pair(t *testing.T) (l *kvtest.Loop, kv *etcd.KV, p [2]*kvtest.Proxy) {
	e := startEmbedded(t, embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	t.Cleanup(e.Stop)
	l = kvtest.NewLoop(t, false)
	var endpoints []string
	for i := range p {
		p[i] = kvtest.NewProxy(t, e.Endpoint())
		endpoints = append(endpoints, p[i].Endpoint())
	}
	return l, kvtest.OpenKV(t, l, etcd.Config{Endpoints: endpoints}), p
}

func TestRefusingMemberCostsNothing(t *testing.T) {
	t.Parallel()
	l, kv, p := pair(t)
	for i := range 4 {
		p[i%2].Set(t, kvtest.Refuse)
		p[1-i%2].Set(t, kvtest.Open)
		l.Sleep(100 * time.Millisecond) // requests that meet the break itself may fail
		began := time.Now()
		if _, err := txn(t, l, kv, 5*time.Second, kvtest.Put("/a", "1")); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("round %d took %v", i, took)
		}
	}
}

func TestHangingMemberCostsOneTimeout(t *testing.T) {
	t.Parallel()
	l, kv, p := pair(t)
	if _, err := txn(t, l, kv, time.Second, kvtest.Put("/a", "1")); err != nil {
		t.Fatal(err)
	}
	p[0].Set(t, kvtest.Hang) // in use
	_, err := txn(t, l, kv, 500*time.Millisecond, kvtest.Put("/a", "2"))
	if !errors.Is(err, env.ErrKVTimeout) || !strings.Contains(err.Error(), p[0].Endpoint()) ||
		!strings.Contains(err.Error(), "etcd_address") {
		t.Errorf("unhelpful error: %v", err)
	}
	if _, err := txn(t, l, kv, 5*time.Second, kvtest.Put("/a", "3")); err != nil {
		t.Errorf("second attempt: %v", err)
	}
	p[0].Set(t, kvtest.Open)
}

// TestSilentWatchMovesOn: whoever gives up a watch that does not answer finds
// another member with the next one.
func TestSilentWatchMovesOn(t *testing.T) {
	t.Parallel()
	l, kv, p := pair(t)
	r, err := txn(t, l, kv, time.Second, kvtest.Put("/a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	answers := 0
	watch := func() env.Watch {
		return kv.Watch(env.WatchRequest{Key: "/a", Start: r.Revision}, func(*env.WatchResponse) { answers++ })
	}
	w := watch()
	l.Until(t, "the first event", func() bool { return answers == 1 })
	p[0].Set(t, kvtest.Hang)
	w.RequestProgress()
	l.Sleep(300 * time.Millisecond)
	if answers != 1 {
		t.Fatal("a hanging member answers")
	}
	w.Cancel()
	w = watch()
	defer w.Cancel()
	l.Until(t, "an answer of the other member", func() bool { return answers == 2 })
	p[0].Set(t, kvtest.Open)
}

// logText is a log that may be read while it is written.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestMemberWithoutQuorum: a member that has lost the others goes on as if
// nothing had happened, unless one asks it to tell (etcd.md §4.2).
func TestMemberWithoutQuorum(t *testing.T) {
	t.Parallel()
	d := kvtest.StartDaemons(t, 3)
	l := kvtest.NewLoop(t, false)
	var log logText
	kv := kvtest.OpenKV(t, l, etcd.Config{Log: slog.New(slog.NewTextHandler(&log, nil)),
		Endpoints: []string{d[0].Endpoint(), d[1].Endpoint(), d[2].Endpoint()}})
	r, err := txn(t, l, kv, 5*time.Second, kvtest.Put("/a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	var revisions []int64
	w := kv.Watch(env.WatchRequest{Key: "/a", Start: r.Revision}, func(r *env.WatchResponse) {
		if r.Err != nil {
			t.Error(r.Err)
		}
		for _, e := range r.Events {
			revisions = append(revisions, e.KV.ModRevision)
		}
	})
	defer w.Cancel()
	l.Until(t, "the first event", func() bool { return len(revisions) == 1 })

	// The member in use is alone: both others stand still.
	d[1].Freeze()
	d[2].Freeze()
	l.Until(t, "the watch to leave the lonely member", func() bool {
		return strings.Contains(log.String(), "no leader")
	})
	if _, err := txn(t, l, kv, 500*time.Millisecond, env.KVOp{Kind: env.KVGet, Key: "/a"}); err == nil {
		t.Error("a read without quorum succeeded")
	}
	d[1].Thaw()
	d[2].Thaw()
	written := int64(0)
	for range 20 {
		if r, err := txn(t, l, kv, time.Second, kvtest.Put("/a", "2")); err == nil {
			written = r.Revision
			break
		}
	}
	if written == 0 {
		t.Fatal("no write succeeded with all members back")
	}
	l.Until(t, "the last event", func() bool { return slices.Contains(revisions, written) })
	for i, r := range revisions[1:] { // failed writes may have succeeded, even later
		if r <= revisions[i] {
			t.Errorf("events of revisions %v", revisions)
		}
	}
}

func TestCloseIsSilent(t *testing.T) {
	t.Parallel()
	l, kv, p := pair(t)
	p[0].Set(t, kvtest.Hang)
	p[1].Set(t, kvtest.Hang)
	fail := func(...any) { t.Error("callback after Close") }
	kv.Txn(&env.Txn{}, 300*time.Millisecond, func(*env.TxnResponse, error) { fail() })
	kv.Grant(5, 300*time.Millisecond, func(env.LeaseID, error) { fail() })
	w := kv.Watch(env.WatchRequest{Key: "/a"}, func(*env.WatchResponse) { fail() })
	kv.Close()
	w.RequestProgress()
	w.Cancel()
	kv.Txn(&env.Txn{}, 300*time.Millisecond, func(*env.TxnResponse, error) { fail() })
	l.Sleep(500 * time.Millisecond)
	p[0].Set(t, kvtest.Open)
	p[1].Set(t, kvtest.Open)
}

// Addresses may change while everything runs, and change back.
func TestSetEndpoints(t *testing.T) {
	t.Parallel()
	e := startEmbedded(t, embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	t.Cleanup(e.Stop)
	l := kvtest.NewLoop(t, false)
	var p [2]*kvtest.Proxy
	for i := range p {
		p[i] = kvtest.NewProxy(t, e.Endpoint())
	}
	kv := kvtest.OpenKV(t, l, etcd.Config{Endpoints: []string{p[0].Endpoint()}})
	events := 0
	kv.Watch(env.WatchRequest{Key: "/a", Start: 1}, func(r *env.WatchResponse) { events += len(r.Events) })
	for i := range 4 {
		if err := kv.SetEndpoints([]string{p[i%2].Endpoint()}); err != nil {
			t.Fatal(err)
		}
		p[i%2].Set(t, kvtest.Open)
		p[1-i%2].Set(t, kvtest.Refuse)
		l.Sleep(100 * time.Millisecond)
		if _, err := txn(t, l, kv, 5*time.Second, kvtest.Put("/a", "1")); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		l.Until(t, "the event of the watch", func() bool { return events == i+1 })
	}
	if kv.SetEndpoints(nil) == nil {
		t.Error("no endpoints were accepted")
	}
}
