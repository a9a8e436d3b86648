// Package mem is a model of etcd: revisions, versions, leases, transactions,
// watches, compaction and limits, without network, clock or goroutines.
//
// Store is passive: requests are function calls, time is what the caller says
// it is (Tick), watches are cursors that the caller polls. So a simulator can
// delay, lose or reorder everything around it, and the same calls always give
// the same answers. KV wraps a Store as an env.KV without any latency, for
// unit tests.
//
// Guarantee: a Store answers like etcd 3.4 and later (internal/etcd/kvtest
// runs the same tests against this package and against real servers), with
// one deliberate strictness: a watch has to begin after the compacted revision,
// not at it, which is what internal/etcd makes of real servers, too.
//
// Concurrency: none; one caller at a time.
package mem

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sort"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// Limits are etcd's options of the same names. Zero means the value that
// Vitastor clusters use.
type Limits struct {
	MaxTxnOps       int   // compares, or operations of one branch; env.KVMaxTxnOps
	MaxRequestBytes int   // about the size of one encoded request; env.KVMaxRequestBytes
	MinLeaseSeconds int64 // shorter leases are granted this much; defaultMinLeaseSeconds
}

// defaultMinLeaseSeconds follows from etcd's default election timeout.
const defaultMinLeaseSeconds = 2

// Store is the state of one etcd cluster.
type Store struct {
	limits Limits
	now    env.Instant

	keys      map[string]*env.KeyValue
	order     []string // the keys, ascending
	revision  int64    // of the newest change
	compacted int64    // changes up to and including this one are forgotten
	history   []env.WatchEvent

	leases    map[env.LeaseID]*lease
	lastLease env.LeaseID
}

// New makes an empty store. Like etcd's it begins at revision 1.
func New(l Limits) *Store {
	return &Store{
		limits: Limits{
			MaxTxnOps:       cmp.Or(l.MaxTxnOps, env.KVMaxTxnOps),
			MaxRequestBytes: cmp.Or(l.MaxRequestBytes, env.KVMaxRequestBytes),
			MinLeaseSeconds: cmp.Or(l.MinLeaseSeconds, defaultMinLeaseSeconds),
		},
		keys:      map[string]*env.KeyValue{},
		revision:  1,
		leases:    map[env.LeaseID]*lease{},
		lastLease: firstLease - 1,
	}
}

// Revision is the revision of the newest change.
func (s *Store) Revision() int64 { return s.revision }

// Apply runs one transaction. Its errors are env.ErrKVTooLarge,
// env.ErrKVNoLease and env.ErrKVInvalid; then nothing has been changed.
// Values in the response are the store's own: do not modify them.
func (s *Store) Apply(t *env.Txn) (*env.TxnResponse, error) {
	if err := s.check(t); err != nil {
		return nil, err
	}
	r := &env.TxnResponse{Succeeded: true}
	for i := range t.If {
		r.Succeeded = r.Succeeded && s.holds(&t.If[i])
	}
	ops := t.Then
	if !r.Succeeded {
		ops = t.Else
	}
	for i := range ops {
		if id := ops[i].Lease; id != 0 && ops[i].Kind == env.KVPut && s.leases[id] == nil {
			return nil, fmt.Errorf("put %q with lease %d: %w", ops[i].Key, id, env.ErrKVNoLease)
		}
	}
	before, revision := len(s.history), s.revision+1
	r.Responses = make([]env.KVOpResponse, len(ops))
	for i := range ops {
		r.Responses[i] = s.run(&ops[i], revision)
	}
	if len(s.history) > before {
		s.revision = revision
	}
	r.Revision = s.revision
	invariant.Check(s.verify)
	return r, nil
}

// check refuses what etcd refuses before it runs anything. Both branches
// count, executed or not.
func (s *Store) check(t *env.Txn) error {
	n := max(len(t.If), len(t.Then), len(t.Else))
	if n > s.limits.MaxTxnOps {
		return fmt.Errorf("%w (%d operations, the limit is %d)",
			env.ErrKVTooLarge, n, s.limits.MaxTxnOps)
	}
	size := 0
	for i := range t.If {
		if t.If[i].Key == "" {
			return fmt.Errorf("%w: compare with an empty key", env.ErrKVInvalid)
		}
		size += itemBytes + len(t.If[i].Key) + len(t.If[i].Value)
	}
	for _, ops := range [][]env.KVOp{t.Then, t.Else} {
		if err := checkOps(ops); err != nil {
			return err
		}
		for i := range ops {
			size += itemBytes + len(ops[i].Key) + len(ops[i].End) + len(ops[i].Value)
		}
	}
	if size > s.limits.MaxRequestBytes {
		return fmt.Errorf("%w (%d bytes, the limit is %d)",
			env.ErrKVTooLarge, size, s.limits.MaxRequestBytes)
	}
	return nil
}

// itemBytes is about what the encoding adds to the strings of one operation.
const itemBytes = 12

// checkOps refuses branches that put a key twice, or put what they delete.
func checkOps(ops []env.KVOp) error {
	var puts []string
	for i := range ops {
		if ops[i].Key == "" {
			return fmt.Errorf("%w: operation with an empty key", env.ErrKVInvalid)
		}
		if ops[i].Kind == env.KVPut {
			puts = append(puts, ops[i].Key)
		}
	}
	slices.Sort(puts)
	for i := 1; i < len(puts); i++ {
		if puts[i] == puts[i-1] {
			return fmt.Errorf("%w: key %q is put twice in one transaction", env.ErrKVInvalid, puts[i])
		}
	}
	for i := range ops {
		if op := &ops[i]; op.Kind == env.KVDelete && len(within(puts, op.Key, op.End)) > 0 {
			return fmt.Errorf("%w: keys from %q on are put and deleted in one transaction",
				env.ErrKVInvalid, op.Key)
		}
	}
	return nil
}

// holds evaluates one compare. A missing key is 0 in every number, but has no
// value at all: comparing that is false, whatever the operator.
func (s *Store) holds(c *env.Compare) bool {
	kv, exists := s.keys[c.Key]
	if !exists {
		if c.Target == env.CompareValue {
			return false
		}
		kv = &env.KeyValue{}
	}
	order := 0
	switch c.Target {
	case env.CompareVersion:
		order = cmp.Compare(kv.Version, c.Number)
	case env.CompareCreate:
		order = cmp.Compare(kv.CreateRevision, c.Number)
	case env.CompareMod:
		order = cmp.Compare(kv.ModRevision, c.Number)
	case env.CompareLease:
		order = cmp.Compare(int64(kv.Lease), c.Number)
	case env.CompareValue:
		order = bytes.Compare(kv.Value, c.Value)
	}
	switch c.Result {
	case env.CompareGreater:
		return order > 0
	case env.CompareLess:
		return order < 0
	case env.CompareNotEqual:
		return order != 0
	}
	return order == 0
}

func (s *Store) run(op *env.KVOp, revision int64) (r env.KVOpResponse) {
	switch op.Kind {
	case env.KVGet:
		for _, key := range s.find(op.Key, op.End) {
			r.KVs = append(r.KVs, *s.keys[key])
		}
	case env.KVPut:
		s.put(op, revision)
	case env.KVDelete:
		// The found keys are a part of s.order, which remove changes.
		for _, key := range slices.Clone(s.find(op.Key, op.End)) {
			s.remove(key, revision)
			r.Deleted++
		}
	}
	return r
}

func (s *Store) put(op *env.KVOp, revision int64) {
	old, exists := s.keys[op.Key]
	kv := &env.KeyValue{Key: op.Key, Value: bytes.Clone(op.Value), CreateRevision: revision,
		ModRevision: revision, Version: 1, Lease: op.Lease}
	if exists {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		s.detach(old)
	} else {
		i := sort.SearchStrings(s.order, op.Key)
		s.order = slices.Insert(s.order, i, op.Key)
	}
	s.keys[op.Key] = kv
	if l := s.leases[op.Lease]; l != nil {
		l.keys[op.Key] = true
	}
	s.history = append(s.history, env.WatchEvent{KV: *kv})
}

func (s *Store) remove(key string, revision int64) {
	s.detach(s.keys[key])
	delete(s.keys, key)
	i := sort.SearchStrings(s.order, key)
	s.order = slices.Delete(s.order, i, i+1)
	s.history = append(s.history, env.WatchEvent{
		Deleted: true, KV: env.KeyValue{Key: key, ModRevision: revision}})
}

// find returns the existing keys of a range: a part of s.order.
func (s *Store) find(key, end string) []string { return within(s.order, key, end) }

// within returns the part of the sorted keys that is in the range.
func within(keys []string, key, end string) []string {
	from := sort.SearchStrings(keys, key)
	to := from
	switch end {
	case "":
		if from < len(keys) && keys[from] == key {
			to++
		}
	case fromKey:
		to = len(keys)
	default:
		to = max(from, sort.SearchStrings(keys, end))
	}
	return keys[from:to]
}

// fromKey as the end of a range means: no end.
const fromKey = "\x00"

// contains tells whether k is in the range [key, end); an empty end means
// just the key, "\x00" means no end.
func contains(key, end, k string) bool {
	switch end {
	case "":
		return k == key
	case fromKey:
		return k >= key
	}
	return k >= key && k < end
}

// verify checks that the indexes of the store agree (test builds only).
func (s *Store) verify() error {
	if len(s.order) != len(s.keys) || !slices.IsSorted(s.order) {
		return fmt.Errorf("mem: %d keys, %d in order", len(s.keys), len(s.order))
	}
	for key, kv := range s.keys {
		if kv.Lease != 0 && (s.leases[kv.Lease] == nil || !s.leases[kv.Lease].keys[key]) {
			return fmt.Errorf("mem: key %q is not attached to its lease %d", key, kv.Lease)
		}
		if kv.Version < 1 || kv.CreateRevision > kv.ModRevision || kv.ModRevision > s.revision {
			return fmt.Errorf("mem: impossible revisions in %+v at %d", kv, s.revision)
		}
	}
	for i := 1; i < len(s.history); i++ {
		if s.history[i].KV.ModRevision < s.history[i-1].KV.ModRevision {
			return fmt.Errorf("mem: history is not ordered at %d", i)
		}
	}
	return nil
}
