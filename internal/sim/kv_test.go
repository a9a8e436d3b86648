package sim

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/kvtest"
)

// kvServer is the simulated etcd as kvtest.Server.
type kvServer struct {
	k *KV
	n *Node
}

func (s *kvServer) KV(testing.TB) env.KV { return s.n.Env().KV }

func (s *kvServer) Apply(t testing.TB, ops ...env.KVOp) int64 {
	r, err := s.k.Apply(&env.Txn{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	return r.Revision
}

func (s *kvServer) Compact(t testing.TB, revision int64) {
	if err := s.k.Compact(revision); err != nil {
		t.Fatal(err)
	}
}

func (s *kvServer) Network(_ testing.TB, m kvtest.Mode) {
	s.k.Cut(s.n, m != kvtest.Open, m != kvtest.Open)
}

func (s *kvServer) Restart(testing.TB) {
	s.k.SetDown(true)
	s.k.SetDown(false)
}

// follow lets the world's time run with the loop's: always up to the next event.
func follow(l *kvtest.Loop, w *World) {
	var tick env.Timer
	tick.Fire = func() {
		w.Run(time.Duration(l.Now()))
		next := l.Now().Add(100 * time.Microsecond)
		if at, ok := w.queue.next(); ok {
			next = min(next, at)
		}
		l.Arm(&tick, next.Sub(l.Now()))
	}
	l.Arm(&tick, 0)
}

func TestKVConformance(t *testing.T) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	l := kvtest.NewLoop(t, true)
	follow(l, w)
	kvtest.Run(t, l, &kvServer{w.NewKV(), n})
}

// kvRig is a world with an etcd and nodes.
type kvRig struct {
	t *testing.T
	w *World
	k *KV
	n []*Node
}

func newKVRig(t *testing.T, seed uint64, nodes int) *kvRig {
	r := &kvRig{t: t, w: NewWorld(seed, Options{})}
	for i := range nodes {
		r.n = append(r.n, r.w.NewNode(fmt.Sprint("n", i)))
	}
	r.k = r.w.NewKV()
	return r
}

// put writes a key and waits for the answer.
func (r *kvRig) put(n *Node, key, value string, lease env.LeaseID) (err error) {
	done := false
	n.Do(func(e *env.Env) {
		op := env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value), Lease: lease}
		e.KV.Txn(&env.Txn{Then: []env.KVOp{op}}, 2*time.Second, func(_ *env.TxnResponse, e error) { err, done = e, true })
	})
	if !r.w.RunUntil(func() bool { return done }, time.Minute) {
		r.t.Fatal("no answer and no timeout")
	}
	return err
}

func (r *kvRig) value(key string) string {
	res, err := r.k.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, kv := range res.Responses[0].KVs {
		return string(kv.Value)
	}
	return ""
}

func (r *kvRig) grant(n *Node, seconds int64) (id env.LeaseID) {
	n.Do(func(e *env.Env) {
		e.KV.Grant(seconds, time.Second, func(got env.LeaseID, err error) { id = got })
	})
	r.w.RunUntil(func() bool { return id != 0 }, time.Minute)
	return id
}

func TestKVCutIsPerNodeAndDirection(t *testing.T) {
	r := newKVRig(t, 1, 2)
	a, b := r.n[0], r.n[1]
	r.k.Cut(a, true, true)
	if err := r.put(a, "k", "1", 0); err != env.ErrKVTimeout || r.value("k") != "" {
		t.Errorf("cut off: %v, value %q", err, r.value("k"))
	}
	if err := r.put(b, "k", "2", 0); err != nil {
		t.Errorf("the other node: %v", err)
	}
	r.k.Cut(a, false, true)
	if err := r.put(a, "k", "3", 0); err != env.ErrKVTimeout || r.value("k") != "3" {
		t.Errorf("without answers: %v, value %q", err, r.value("k"))
	}
	r.k.Cut(a, false, false)
	r.w.Net().Isolate(a, true)
	if err := r.put(a, "k", "4", 0); err != env.ErrKVTimeout {
		t.Errorf("isolated: %v", err)
	}
	r.w.Net().HealAll()
	if err := r.put(a, "k", "5", 0); err != nil || r.value("k") != "5" {
		t.Errorf("healed: %v", err)
	}
}

func TestKVRevokeAndReaches(t *testing.T) {
	r := newKVRig(t, 1, 1)
	id := r.grant(r.n[0], 10)
	r.put(r.n[0], "k", "1", id)
	if err := r.k.Revoke(id); err != nil || r.value("k") != "" {
		t.Errorf("revoked: %v, value %q", err, r.value("k"))
	}
	if r.k.Revoke(id) == nil {
		t.Error("a lease ended twice")
	}
	for _, c := range []struct {
		change, undo func()
	}{
		{func() { r.k.Cut(r.n[0], false, true) }, func() { r.k.Cut(r.n[0], false, false) }},
		{func() { r.w.Net().Isolate(r.n[0], true) }, r.w.Net().HealAll},
		{func() { r.k.SetDown(true) }, func() { r.k.SetDown(false) }},
	} {
		c.change()
		if r.k.Reaches(r.n[0]) {
			t.Error("a node that is cut off reaches etcd")
		}
		if c.undo(); !r.k.Reaches(r.n[0]) {
			t.Error("a node does not reach etcd")
		}
	}
}
func TestKVUnknownOutcomes(t *testing.T) {
	r := newKVRig(t, 1, 1)
	r.k.SetFaults(KVFaults{LoseRequest: 0.2, LoseAnswer: 0.2, Unavailable: 0.2})
	type outcome struct {
		err     error
		applied bool
	}
	seen := map[outcome]int{}
	for i := range 300 {
		v := fmt.Sprint(i)
		err := r.put(r.n[0], "k", v, 0)
		seen[outcome{err, r.value("k") == v}]++
	}
	for _, o := range []outcome{{nil, true}, {env.ErrKVTimeout, false}, {env.ErrKVTimeout, true},
		{env.ErrKVUnavailable, false}, {env.ErrKVUnavailable, true}} {
		if seen[o] == 0 {
			t.Errorf("never seen: %+v", o)
		}
		delete(seen, o)
	}
	if len(seen) > 0 {
		t.Errorf("impossible outcomes %v", seen)
	}
}

func TestKVLeases(t *testing.T) {
	r := newKVRig(t, 1, 1)
	id := r.grant(r.n[0], 10)
	r.put(r.n[0], "k", "1", id)
	r.n[0].Crash()
	r.w.RunFor(9 * time.Second)
	if r.value("k") == "" {
		t.Error("the lease ended too early")
	}
	r.w.RunFor(2 * time.Second)
	if r.value("k") != "" {
		t.Error("the lease of a dead node lives")
	}
	r.n[0].Restart()
	id = r.grant(r.n[0], 10)
	if err := r.put(r.n[0], "k", "2", id); err != nil {
		t.Fatal(err)
	}
	r.w.RunFor(8 * time.Second)
	r.k.SetDown(true)
	if err := r.put(r.n[0], "k", "3", id); err != env.ErrKVTimeout {
		t.Errorf("while down: %v", err)
	}
	r.w.RunFor(time.Hour)
	r.k.SetDown(false)
	r.w.RunFor(9 * time.Second)
	if r.value("k") != "2" {
		t.Error("the lease did not get its full time after an outage")
	}
	r.w.RunFor(2 * time.Second)
	if r.value("k") != "" {
		t.Error("the lease never ends")
	}
}

func TestKVWatchSurvivesFaultsAndEndsAtCompaction(t *testing.T) {
	for seed := range uint64(10) {
		r := newKVRig(t, seed, 1)
		var got []int64
		var end error
		watch := func(e *env.Env) {
			e.KV.Watch(env.WatchRequest{Key: "k", Start: 2}, func(x *env.WatchResponse) {
				for _, v := range x.Events {
					got = append(got, v.KV.ModRevision)
				}
				end = x.Err
			})
		}
		r.n[0].Do(watch)
		r.k.SetFaults(KVFaults{BreakWatch: 0.3})
		for i := range 100 {
			r.k.Apply(&env.Txn{Then: []env.KVOp{kvtest.Put("k", fmt.Sprint(i))}})
			r.w.RunFor(200 * time.Microsecond)
			if i%20 == 0 {
				r.k.SetDown(true)
				r.w.RunFor(time.Second)
				r.k.SetDown(false)
			}
		}
		r.w.RunFor(time.Minute)
		for i, v := range got {
			if v != int64(i)+2 {
				t.Fatalf("seed %d: revisions %v", seed, got)
			}
		}
		if len(got) != 100 || end != nil {
			t.Fatalf("seed %d: %d revisions, end %v", seed, len(got), end)
		}
		r.k.Cut(r.n[0], true, true)
		r.k.Apply(&env.Txn{Then: []env.KVOp{kvtest.Put("k", "lost")}})
		r.w.RunFor(time.Second)
		r.k.Compact(r.k.Store().Revision())
		r.k.Cut(r.n[0], false, false)
		r.w.RunFor(time.Minute)
		if !errors.Is(end, env.ErrKVCompacted) {
			t.Errorf("seed %d: after compaction: %v", seed, end)
		}
	}
}

func TestKVAnswersNobodyAfterACrash(t *testing.T) {
	r := newKVRig(t, 1, 1)
	r.n[0].Do(func(e *env.Env) {
		e.KV.Watch(env.WatchRequest{Key: "k"}, func(*env.WatchResponse) { t.Error("a dead watch was told") })
		e.KV.Txn(&env.Txn{Then: []env.KVOp{kvtest.Put("k", "1")}}, time.Second,
			func(*env.TxnResponse, error) { t.Error("a dead process was told") })
	})
	r.n[0].Crash()
	r.w.RunFor(time.Minute)
	if r.value("k") != "1" {
		t.Error("a request on its way was lost by the death of the sender")
	}
}
