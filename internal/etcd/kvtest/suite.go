package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
)

// Server is an etcd with everything that the suite does to it.
type Server interface {
	// KV makes a client, which reaches the server through the network.
	KV(t testing.TB) env.KV
	// Apply and Compact always reach the server.
	Apply(t testing.TB, ops ...env.KVOp) (revision int64)
	Compact(t testing.TB, revision int64)
	// Network lets the network work, refuse or hang.
	Network(t testing.TB, m Mode)
	// Restart kills the server and starts it again on the same data.
	Restart(t testing.TB)
}

// Run runs the suite. All tests share one server.
func Run(t *testing.T, l *Loop, s Server) {
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"Compare", (*suite).compare},
		{"TxnBranches", (*suite).txnBranches},
		{"TxnIsAtomic", (*suite).txnIsAtomic},
		{"Refusals", (*suite).refusals},
		{"LeaseExpires", (*suite).leaseExpires},
		{"LeaseRevoked", (*suite).leaseRevoked},
		{"LargeValues", (*suite).largeValues},
		{"ManyOps", (*suite).manyOps},
		{"WatchThePast", (*suite).watchThePast},
		{"WatchFromNow", (*suite).watchFromNow},
		{"WatchOrder", (*suite).watchOrder},
		{"WatchProgress", (*suite).watchProgress},
		{"WatchCancel", (*suite).watchCancel},
		{"WatchSurvivesRefusal", func(s *suite) { s.watchSurvives(Refuse) }},
		{"WatchSurvivesHang", func(s *suite) { s.watchSurvives(Hang) }},
		{"WatchSurvivesRestart", (*suite).watchSurvivesRestart},
		{"CompactionWhileAway", (*suite).compactionWhileAway},
		{"CompactionAtDeletion", (*suite).compactionAtDeletion},
		{"Unavailable", (*suite).unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(&suite{T: t, loop: l, server: s, kv: s.KV(t), dir: "/" + test.name + "/"})
		})
	}
}

// suite is one running test. Its keys begin with dir.
type suite struct {
	*testing.T
	loop   *Loop
	server Server
	kv     env.KV
	dir    string
}

const timeout = 30 * time.Second

// attempt runs a transaction and waits for its end.
func (s *suite) attempt(kv env.KV, t *env.Txn, timeout time.Duration) (r *env.TxnResponse, err error) {
	s.Helper()
	ended := false
	kv.Txn(t, timeout, func(response *env.TxnResponse, e error) {
		if ended {
			s.Error("a request ended twice")
		}
		r, err, ended = response, e, true
	})
	if ended {
		s.Error("callback inside the call")
	}
	s.loop.Until(s, "the end of a transaction", func() bool { return ended })
	return r, err
}

func (s *suite) txn(t *env.Txn) *env.TxnResponse {
	s.Helper()
	r, err := s.attempt(s.kv, t, timeout)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *suite) do(ops ...env.KVOp) *env.TxnResponse {
	s.Helper()
	return s.txn(&env.Txn{Then: ops})
}

func (s *suite) get(key string) env.KeyValue {
	s.Helper()
	kvs := s.do(s.opGet(key)).Responses[0].KVs
	if len(kvs) == 0 {
		return env.KeyValue{}
	}
	return kvs[0]
}

func (s *suite) opPut(key, value string) env.KVOp { return Put(s.dir+key, value) }
func (s *suite) opGet(key string) env.KVOp        { return env.KVOp{Kind: env.KVGet, Key: s.dir + key} }
func (s *suite) opDelete(key string) env.KVOp     { return env.KVOp{Kind: env.KVDelete, Key: s.dir + key} }

// Put makes an operation.
func Put(key, value string) env.KVOp {
	return env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value)}
}

// end is the end of the test's range.
func (s *suite) end() string { return s.dir[:len(s.dir)-1] + "0" }

func (s *suite) all() env.KVOp { return env.KVOp{Kind: env.KVGet, Key: s.dir, End: s.end()} }

// compare tries every target and relation on a key that exists and on one that
// does not.
func (s *suite) compare() {
	id := s.grant(60)
	withLease := s.opPut("here", "bb")
	withLease.Lease = id
	s.do(s.opPut("here", "aa"))
	s.do(withLease)
	kv := s.get("here")
	if kv.Version != 2 || kv.CreateRevision >= kv.ModRevision || kv.Lease != id || string(kv.Value) != "bb" {
		s.Fatalf("stored %+v", kv)
	}
	for target, n := range map[env.CompareTarget]int64{env.CompareVersion: kv.Version,
		env.CompareCreate: kv.CreateRevision, env.CompareMod: kv.ModRevision, env.CompareLease: int64(id)} {
		for _, diff := range []int64{-1, 0, 1} {
			s.compareOne(env.Compare{Key: s.dir + "here", Target: target, Number: n + diff}, -diff, true)
			s.compareOne(env.Compare{Key: s.dir + "not", Target: target, Number: diff}, -diff, true)
		}
	}
	for value, order := range map[string]int64{"ba": 1, "b": 1, "": 1, "bb": 0, "bbb": -1, "c": -1} {
		s.compareOne(env.Compare{Key: s.dir + "here", Target: env.CompareValue, Value: []byte(value)}, order, true)
		s.compareOne(env.Compare{Key: s.dir + "not", Target: env.CompareValue, Value: []byte(value)}, 0, false)
	}
}

// compareOne evaluates c with all relations; order is that of the stored
// property to the given one, comparable says whether there is such a property.
func (s *suite) compareOne(c env.Compare, order int64, comparable bool) {
	for result, holds := range map[env.CompareResult]bool{env.CompareEqual: order == 0,
		env.CompareGreater: order > 0, env.CompareLess: order < 0, env.CompareNotEqual: order != 0} {
		c.Result = result
		if r := s.txn(&env.Txn{If: []env.Compare{c}}); r.Succeeded != (holds && comparable) {
			s.Errorf("%+v: %v", c, r.Succeeded)
		}
	}
}

func (s *suite) txnBranches() {
	before := s.do(s.opPut("b", "1"), s.opPut("a", "2"), s.opPut("c/d", "3"))
	isNew := []env.Compare{{Key: s.dir + "a", Target: env.CompareCreate}}
	r := s.txn(&env.Txn{If: isNew, Then: []env.KVOp{s.opPut("a", "never")},
		Else: []env.KVOp{s.opGet("a"), s.all(), s.opGet("none")}})
	if r.Succeeded || r.Revision != before.Revision || len(r.Responses) != 3 {
		s.Fatalf("failed compare: %+v", r)
	}
	if got := fmt.Sprint(Keys(r.Responses[1].KVs)); got != fmt.Sprintf("[%[1]sa %[1]sb %[1]sc/d]", s.dir) {
		s.Errorf("range: %s", got)
	}
	if len(r.Responses[0].KVs) != 1 || len(r.Responses[2].KVs) != 0 {
		s.Errorf("gets: %+v", r)
	}
	part := env.KVOp{Kind: env.KVDelete, Key: s.dir + "b", End: s.dir + "c/d"} // not c/d
	r = s.txn(&env.Txn{If: isNew[:0], Then: []env.KVOp{s.opPut("new", "4"), s.all(), part, s.all(), part}})
	if !r.Succeeded || r.Revision != before.Revision+1 || r.Responses[2].Deleted != 1 || r.Responses[4].Deleted != 0 {
		s.Errorf("%+v", r)
	}
	// Each operation sees what those before it did.
	if len(r.Responses[1].KVs) != 4 || len(r.Responses[3].KVs) != 3 {
		s.Errorf("%d keys after the put, %d after the deletion", len(r.Responses[1].KVs), len(r.Responses[3].KVs))
	}
	if r := s.do(s.opDelete("none"), s.opGet("a")); r.Revision != before.Revision+1 {
		s.Errorf("a transaction without effect made revision %d", r.Revision)
	}
	s.do(s.opDelete("a"))
	s.do(s.opPut("a", "again"))
	if kv := s.get("a"); kv.Version != 1 || kv.CreateRevision != kv.ModRevision || kv.ModRevision != before.Revision+3 {
		s.Errorf("recreated key: %+v", kv)
	}
}

// Keys lists the keys of kvs.
func Keys(kvs []env.KeyValue) []string {
	keys := make([]string, len(kvs))
	for i := range kvs {
		keys[i] = kvs[i].Key
	}
	return keys
}

func (s *suite) txnIsAtomic() {
	before := s.do(s.opPut("a", "1")).Revision
	w := s.watch(before + 1)
	bad := s.opPut("c", "2")
	bad.Lease = 12345
	if _, err := s.attempt(s.kv, &env.Txn{Then: []env.KVOp{s.opPut("a", "2"), s.opPut("b", "2"), bad}},
		timeout); !errors.Is(err, env.ErrKVNoLease) {
		s.Errorf("unknown lease: %v", err)
	}
	r := s.do(s.opPut("b", "3"), s.opDelete("a"), s.opPut("0", "3"))
	if r.Revision != before+1 {
		s.Errorf("revision %d after %d: the refused transaction did something", r.Revision, before)
	}
	s.loop.Until(s, "events", func() bool { return len(w.responses) > 0 })
	// One response, in the order of the operations.
	w.expect(s, fmt.Sprintf("b@%[1]d a@%[1]d- 0@%[1]d", r.Revision))
	if len(w.responses) != 1 || w.responses[0].Revision != r.Revision {
		s.Errorf("responses %+v", w.responses)
	}
}

func (s *suite) refusals() {
	before := s.do(s.opPut("a", "1")).Revision
	rangeDelete := env.KVOp{Kind: env.KVDelete, Key: s.dir, End: s.end()}
	tooMany := make([]env.Compare, env.KVMaxTxnOps+1)
	for i := range tooMany {
		tooMany[i].Key = "x"
	}
	for name, c := range map[string]struct {
		txn  env.Txn
		want error
	}{
		"key put twice":     {env.Txn{Then: []env.KVOp{s.opPut("b", ""), s.opPut("b", "")}}, env.ErrKVInvalid},
		"put and deleted":   {env.Txn{Then: []env.KVOp{s.opPut("b", ""), s.opDelete("b")}}, env.ErrKVInvalid},
		"put in deleted":    {env.Txn{Then: []env.KVOp{s.opPut("b", ""), rangeDelete}}, env.ErrKVInvalid},
		"in the other path": {env.Txn{Else: []env.KVOp{s.opPut("b", ""), rangeDelete}}, env.ErrKVInvalid},
		"empty key":         {env.Txn{Then: []env.KVOp{Put("", "x")}}, env.ErrKVInvalid},
		"too many compares": {env.Txn{If: tooMany, Then: []env.KVOp{s.opPut("b", "")}}, env.ErrKVTooLarge},
	} {
		if _, err := s.attempt(s.kv, &c.txn, timeout); !errors.Is(err, c.want) {
			s.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if r := s.do(s.all()); r.Revision != before || len(r.Responses[0].KVs) != 1 {
		s.Errorf("a refused transaction had an effect: %+v", r)
	}
}

// largeBytes is the largest value that every server survives: etcd before 3.5.5
// stores larger ones, but cannot start any more then, because it reads no
// entries above 10 MB from its log (etcd issue 14114).
const largeBytes = 9 << 20

func (s *suite) largeValues() {
	w := s.watch(s.do(s.opGet("x")).Revision + 1)
	value := bytes.Repeat([]byte("0123456789abcdef"), largeBytes/16)
	s.do(env.KVOp{Kind: env.KVPut, Key: s.dir + "big", Value: value}, s.opPut("small", ""))
	if kv := s.get("big"); !bytes.Equal(kv.Value, value) {
		s.Errorf("read %d bytes, which are not the written ones", len(kv.Value))
	}
	s.loop.Until(s, "events", func() bool { return len(w.responses) > 0 })
	if e := w.responses[0].Events; len(e) != 2 || !bytes.Equal(e[0].KV.Value, value) {
		s.Error("the watch got something else")
	}
}

func (s *suite) manyOps() {
	t := &env.Txn{}
	for i := range 1000 {
		key := fmt.Sprintf("%04d", i)
		t.If = append(t.If, env.Compare{Key: s.dir + key, Target: env.CompareMod, Number: 1, Result: env.CompareLess})
		t.Then = append(t.Then, s.opPut(key, key))
		t.Else = append(t.Else, s.opGet(key))
	}
	w := s.watch(s.do(s.opGet("x")).Revision + 1)
	if r := s.txn(t); !r.Succeeded || len(r.Responses) != 1000 {
		s.Errorf("first: %v with %d responses", r.Succeeded, len(r.Responses))
	}
	r := s.txn(t)
	if r.Succeeded || len(r.Responses) != 1000 || string(r.Responses[999].KVs[0].Value) != "0999" {
		s.Errorf("second: %v with %d responses", r.Succeeded, len(r.Responses))
	}
	s.loop.Until(s, "events", func() bool { return len(w.responses) > 0 })
	if n := len(w.responses[0].Events); n != 1000 {
		s.Errorf("the watch got %d events at once", n)
	}
}
