package mem

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
)

// What real servers do as well is tested in internal/etcd/kvtest. Here are
// the parts of the model that only the simulator sees.

func put(key, value string) env.KVOp {
	return env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value)}
}

func apply(t *testing.T, s *Store, ops ...env.KVOp) *env.TxnResponse {
	t.Helper()
	r, err := s.Apply(&env.Txn{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// trace renders what a watcher sends as one line.
func trace(w *Watcher, maxRevisions int) string {
	var b strings.Builder
	for r := w.Poll(maxRevisions); r != nil; r = w.Poll(maxRevisions) {
		fmt.Fprintf(&b, "[%d", r.Revision)
		for _, e := range r.Events {
			fmt.Fprintf(&b, " %s@%d", e.KV.Key, e.KV.ModRevision)
			if e.Deleted {
				b.WriteByte('-')
			}
		}
		if r.Err != nil {
			fmt.Fprintf(&b, "compacted %d", r.Compacted)
		}
		b.WriteByte(']')
	}
	return b.String()
}

func TestLeasesExpireInOrder(t *testing.T) {
	s := New(Limits{})
	second := func(n int) env.Instant { return env.Instant(n) * env.Instant(time.Second) }
	s.Tick(second(100))
	long, _ := s.Grant(20)
	short, _ := s.Grant(10)
	tie, _ := s.Grant(10)
	tooShort, _ := s.Grant(1)
	for i, id := range []env.LeaseID{long, short, tie} {
		for _, key := range []string{"b", "a"} {
			op := put(fmt.Sprint(key, i), "")
			op.Lease = id
			apply(t, s, op)
		}
	}
	if ttl := s.KeepAlive(tooShort); ttl != 2 {
		t.Errorf("shortest lease is %d s", ttl)
	}
	for _, step := range []struct {
		at   int
		want string
	}{
		{109, ""},
		{110, "[8 a1@8- b1@8-][9 a2@9- b2@9-]"},
		{119, "[8 a1@8- b1@8-][9 a2@9- b2@9-]"},
		{120, "[8 a1@8- b1@8-][9 a2@9- b2@9-][10 a0@10- b0@10-]"},
	} {
		s.Tick(second(step.at))
		if got := trace(s.Watch(env.WatchRequest{Key: "a", End: "z", Start: 8}), 1); got != step.want {
			t.Errorf("at %d s: %s, want %s", step.at, got, step.want)
		}
	}
	if _, ok := s.NextExpiry(); ok {
		t.Error("leases are left")
	}
	if s.KeepAlive(long) != 0 || !errors.Is(s.Revoke(long), env.ErrKVNoLease) {
		t.Error("expired lease still answers")
	}
}

func TestRestartGivesFullTimeAgain(t *testing.T) {
	s := New(Limits{})
	id, _ := s.Grant(10)
	s.Tick(env.Instant(9 * time.Second))
	s.Restart()
	s.Tick(env.Instant(18 * time.Second))
	if s.KeepAlive(id) == 0 {
		t.Error("lease expired too early")
	}
	if at, ok := s.NextExpiry(); !ok || at != env.Instant(28*time.Second) {
		t.Errorf("expires at %v", at)
	}
}

func TestPollInPieces(t *testing.T) {
	s := New(Limits{})
	for i := range 5 {
		apply(t, s, put("b", fmt.Sprint(i)), put("a", ""), put("x", ""))
	}
	for _, c := range []struct {
		max  int
		want string
	}{
		{0, "[6 b@2 a@2 b@3 a@3 b@4 a@4 b@5 a@5 b@6 a@6]"},
		{2, "[3 b@2 a@2 b@3 a@3][5 b@4 a@4 b@5 a@5][6 b@6 a@6]"},
	} {
		if got := trace(s.Watch(env.WatchRequest{Key: "a", End: "c", Start: 1}), c.max); got != c.want {
			t.Errorf("%d at a time: %s", c.max, got)
		}
	}
	w := s.Watch(env.WatchRequest{Key: "a", End: "c", Start: 8}) // 7 is still to come
	w.RequestProgress()
	if got := trace(w, 0); got != "[6]" {
		t.Errorf("progress: %s", got)
	}
	apply(t, s, put("a", ""))
	apply(t, s, put("a", ""))
	if got := trace(w, 0); got != "[8 a@8]" {
		t.Errorf("future start: %s", got)
	}
}

func TestCompactionHitsOnlyTheLate(t *testing.T) {
	s := New(Limits{})
	early := s.Watch(env.WatchRequest{Key: "a"})
	apply(t, s, put("b", ""))
	if trace(early, 0) != "" {
		t.Error("event of another key")
	}
	late := s.Watch(env.WatchRequest{Key: "a", Start: 2})
	if err := s.Compact(2); err != nil {
		t.Fatal(err)
	}
	apply(t, s, put("a", ""))
	if got := trace(early, 0); got != "[3 a@3]" {
		t.Errorf("connected watch: %s", got)
	}
	if got := trace(late, 0); got != "[0compacted 3]" {
		t.Errorf("late watch: %s", got)
	}
	if !errors.Is(s.Compact(2), env.ErrKVCompacted) || !errors.Is(s.Compact(4), env.ErrKVInvalid) {
		t.Error("impossible compactions")
	}
	if got := trace(s.Watch(env.WatchRequest{Key: "a", Start: 3}), 0); got != "[3 a@3]" {
		t.Errorf("watch from the first left revision: %s", got)
	}
}

func TestLimits(t *testing.T) {
	s := New(Limits{MaxTxnOps: 3, MaxRequestBytes: 1000})
	big := strings.Repeat("x", 1000)
	many := []env.KVOp{put("a", ""), put("b", ""), put("c", ""), put("d", "")}
	for _, c := range []struct {
		txn  env.Txn
		want error
	}{
		{env.Txn{Then: many[:3]}, nil},
		{env.Txn{Then: many}, env.ErrKVTooLarge},
		{env.Txn{Else: many}, env.ErrKVTooLarge},
		{env.Txn{If: make([]env.Compare, 4)}, env.ErrKVTooLarge},
		{env.Txn{Then: []env.KVOp{put("a", big)}}, env.ErrKVTooLarge},
		{env.Txn{Else: []env.KVOp{put("a", big)}}, env.ErrKVTooLarge},
	} {
		if _, err := s.Apply(&c.txn); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.txn, err, c.want)
		}
	}
	if s.Revision() != 2 {
		t.Errorf("refused requests changed something: revision %d", s.Revision())
	}
}

// TestHistoryRebuildsState applies random transactions; the events of a watch
// from the beginning must lead to exactly the stored keys, and the same seed
// must lead to the same store.
func TestHistoryRebuildsState(t *testing.T) {
	var first *Store
	for range 2 {
		s := randomStore(t, 7)
		rebuilt := map[string]*env.KeyValue{}
		for r, w := (*env.WatchResponse)(nil), s.Watch(env.WatchRequest{Key: "\x00", End: "\x00", Start: 1}); ; {
			if r = w.Poll(3); r == nil {
				break
			}
			for _, e := range r.Events {
				if rebuilt[e.KV.Key] = &e.KV; e.Deleted {
					delete(rebuilt, e.KV.Key)
				}
			}
		}
		if !reflect.DeepEqual(rebuilt, s.keys) {
			t.Error("events do not lead to the stored keys")
		}
		if first != nil && !reflect.DeepEqual(first, s) {
			t.Error("the same calls made another store")
		}
		first = s
	}
}

func randomStore(t *testing.T, seed uint64) *Store {
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := New(Limits{})
	leases := []env.LeaseID{0}
	for i := range 2000 {
		s.Tick(env.Instant(i) * env.Instant(time.Second))
		if rnd.IntN(10) == 0 {
			id, _ := s.Grant(int64(rnd.IntN(50)))
			leases = append(leases, id)
		}
		var txn env.Txn
		for n := rnd.IntN(4); n > 0; n-- {
			op := put(fmt.Sprintf("k%02d", rnd.IntN(40)), fmt.Sprint(i))
			if op.Lease = leases[rnd.IntN(len(leases))]; rnd.IntN(3) == 0 {
				op.Kind, op.End = env.KVDelete, fmt.Sprintf("k%02d", rnd.IntN(40))
			}
			txn.Then = append(txn.Then, op)
		}
		if _, err := s.Apply(&txn); err != nil && !errors.Is(err, env.ErrKVNoLease) &&
			!errors.Is(err, env.ErrKVInvalid) {
			t.Fatal(err)
		}
		if err := s.verify(); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
