package statsum

import (
	"fmt"
	"strings"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

var keys = schema.NewKeys("/c")

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(...any)
	Errorf(string, ...any)
}

// rig is a store of etcd with Sums that follow it, as a master does.
type rig struct {
	tester
	store *mem.Store
	watch *mem.Watcher
	lease env.LeaseID
	sums  *Sums
	// Writes by round; a round is one successful transaction.
	puts, dels int
}

func newRig(t tester) *rig {
	r := &rig{tester: t, store: mem.New(mem.Limits{}), sums: New(keys, nil)}
	r.watch = r.store.Watch(env.WatchRequest{Key: keys.All().Key, End: keys.All().End, Start: 1})
	r.lease, _ = r.store.Grant(100)
	r.put(keys.MonMaster(), `{"ip":["10.0.0.5"],"hostname":"m","id":"7"}`, r.lease)
	return r
}

func (r *rig) put(key, value string, lease ...env.LeaseID) {
	op := env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value)}
	if len(lease) > 0 {
		op.Lease = lease[0]
	}
	r.do(&env.Txn{Then: []env.KVOp{op}})
}

func (r *rig) del(keys ...string) {
	t := &env.Txn{}
	for _, k := range keys {
		t.Then = append(t.Then, env.KVOp{Kind: env.KVDelete, Key: k})
	}
	r.do(t)
}

func (r *rig) do(t *env.Txn) bool {
	r.Helper()
	response, err := r.store.Apply(t)
	if err != nil {
		r.Fatal(err)
	}
	return response.Succeeded
}

// follow applies all events.
func (r *rig) follow() {
	for w := r.watch.Poll(0); w != nil; w = r.watch.Poll(0) {
		for i := range w.Events {
			r.sums.Apply(&w.Events[i])
		}
	}
}

// settle publishes until nothing differs.
func (r *rig) settle() {
	r.Helper()
	r.puts, r.dels = 0, 0
	for range 20 {
		r.follow()
		t := r.sums.Txn(r.lease)
		if t == nil {
			if r.sums.Dirty() {
				r.Fatal("nothing to write, but dirty")
			}
			return
		}
		if !r.do(t) {
			r.Fatal("the write was refused")
		}
		for _, op := range t.Then {
			if op.Kind == env.KVPut {
				r.puts++
			} else {
				r.dels++
			}
		}
	}
	r.Fatal("the statistics do not settle")
}

// get is a stored value, "" = no key.
func (r *rig) get(key string) string {
	response, err := r.store.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if err != nil {
		r.Fatal(err)
	}
	if kvs := response.Responses[0].KVs; len(kvs) > 0 {
		return string(kvs[0].Value)
	}
	return ""
}

func (r *rig) want(key, value string) {
	r.Helper()
	if got := r.get(key); got != value {
		r.Errorf("%s is\n%s\nwant\n%s", key, got, value)
	}
}

// up announces an OSD.
func (r *rig) up(o meta.OSDNum) {
	r.put(keys.OSDState(o), fmt.Sprintf(`{"state":"up","host":"h%d","addresses":["10.0.0.1"],"port":1}`, o), r.lease)
}

// report is one report of an OSD, in one transaction as OSDs write it.
type report struct {
	seconds uint64
	ops     map[string]schema.Counters
	subops  map[string]schema.Counters
	recover map[string]schema.Counters
	space   []schema.InodeBytes
	io      []schema.InodeIO
}

func (r *rig) report(o meta.OSDNum, p report) {
	stats := &schema.OSDStats{TimeMillis: p.seconds * 1000, SizeBytes: 1 << 40, FreeBytes: 1 << 39, BlockBytes: 131072,
		Host: fmt.Sprintf("h%d", o), Ops: p.ops, Subops: p.subops, Recovery: p.recover}
	t := keys.ReportOSDStats(o, stats, p.space, p.io, nil)
	r.do(&t)
}

func inodeID(pool meta.PoolID, n uint64) meta.Inode { return meta.MakeInode(pool, n) }

func contains(t testing.TB, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("no %s in\n%s", part, text)
	}
}
