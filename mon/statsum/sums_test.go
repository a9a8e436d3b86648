package statsum

import (
	"fmt"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

type counters = map[string]schema.Counters

const pools = `{"1":{"name":"r","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2},` +
	`"2":{"name":"e","scheme":"ec","pg_size":3,"parity_chunks":1,"pg_minsize":2,"pg_count":1,"block_size":65536}}`

// TestPublished checks the stored text of every key against sums made by hand.
func TestPublished(t *testing.T) {
	r := newRig(t)
	r.put(keys.Pools(), pools)
	r.put(keys.InodeConfig(inodeID(1, 7)), `{"name":"img","size":1048576}`)
	r.put(keys.PoolStats(1), `{"used_raw_tb":0,"total_raw_tb":2,"pg_real_size":2,"raw_to_usable":2,"space_efficiency":0.5}`)
	r.put(keys.PGStats(meta.PG{Pool: 1, Num: 1}), `{"object_count":10,"clean_count":8,"misplaced_count":2,"degraded_count":0,"incomplete_count":0,"write_osd_set":[1,2]}`)
	r.put(keys.LegacyPGStats(meta.PG{Pool: 1, Num: 1}), `{"object_count":1000}`)
	r.put(keys.LegacyPGStats(meta.PG{Pool: 1, Num: 2}), `{"object_count":1,"clean_count":"1"}`)
	r.put(keys.PGStats(meta.PG{Pool: 2, Num: 1}), `{"object_count":3,"degraded_count":2,"incomplete_count":1}`)
	for o := range meta.OSDNum(2) {
		r.up(o + 1)
		r.report(o+1, report{seconds: 1000, ops: counters{"read": {Count: 100, Usec: 1000, Bytes: 409600}},
			subops:  counters{"write": {Count: 5, Usec: 500}},
			recover: counters{"degraded": {Count: 1, Bytes: 131072, Usec: 10}, "misplaced": {}},
			space:   []schema.InodeBytes{{Inode: inodeID(1, 7), Bytes: 1 << 20}},
			io:      []schema.InodeIO{{Inode: inodeID(1, 7), Read: schema.Counters{Count: 100, Usec: 1000, Bytes: 409600}}}})
	}
	r.settle()
	const objects = `"object_counts":{"object":"14","clean":"9","misplaced":"2","degraded":"2","incomplete":"1"},` +
		`"object_bytes":{"object":"1835008","clean":"1179648","misplaced":"262144","degraded":"262144","incomplete":"131072"}}`
	r.want(keys.Stats(), `{"op_stats":{"read":{"bytes":"819200","usec":"2000","count":"200","bps":"0","iops":"0","lat":"0"}},`+
		`"subop_stats":{"write":{"usec":"1000","count":"10","iops":"0","lat":"0"}},`+
		`"recovery_stats":{"degraded":{"count":"2","bytes":"262144","bps":"0","iops":"0"},"misplaced":{}},`+objects)
	r.want(keys.PoolStats(1), `{"used_raw_tb":0.0000019073486328125,"total_raw_tb":2,"pg_real_size":2,"raw_to_usable":2,"space_efficiency":0.5}`)
	r.want(keys.PoolStats(2), "") // made together with a distribution

	// OSD 1: 300 reads of 10 us in 4 seconds; OSD 2: 100 of 50 us.
	for o, c := range []schema.Counters{{Count: 400, Usec: 4000, Bytes: 1638400}, {Count: 200, Usec: 6000, Bytes: 819200}} {
		r.report(meta.OSDNum(o+1), report{seconds: 1004, ops: counters{"read": c},
			subops:  counters{"write": {Count: 5, Usec: 500}},
			recover: counters{"degraded": {Count: 9, Bytes: 9 * 131072, Usec: 90}},
			space:   []schema.InodeBytes{{Inode: inodeID(1, 7), Bytes: 1 << 20}},
			io:      []schema.InodeIO{{Inode: inodeID(1, 7), Read: c}}})
	}
	r.settle()
	r.want(keys.Stats(), `{"op_stats":{"read":{"bytes":"2457600","usec":"10000","count":"600","bps":"409600","iops":"100","lat":"20"}},`+
		`"subop_stats":{"write":{"usec":"1000","count":"10","iops":"0","lat":"0"}},`+
		`"recovery_stats":{"degraded":{"count":"18","bytes":"2359296","bps":"524288","iops":"4"},"misplaced":{}},`+objects)
	const none = `{"count":"0","usec":"0","bytes":"0","bps":"0","iops":"0","lat":"0"}`
	r.want(keys.InodeStats(inodeID(1, 7)), `{"raw_used":"2097152","read":{"count":"600","usec":"10000","bytes":"2457600",`+
		`"bps":"409600","iops":"100","lat":"20"},"write":`+none+`,"delete":`+none+`}`)
}

// TestDownOSD: operations of an OSD that is down do not count, its space does.
func TestDownOSD(t *testing.T) {
	r := newRig(t)
	io := func(n uint64) []schema.InodeIO {
		return []schema.InodeIO{{Inode: inodeID(1, 7), Write: schema.Counters{Count: n, Usec: n, Bytes: n}}}
	}
	space := []schema.InodeBytes{{Inode: inodeID(1, 7), Bytes: 4096}}
	for o := range meta.OSDNum(2) {
		r.up(o + 1)
		r.report(o+1, report{seconds: 10, ops: counters{"write": {Count: 10}}, space: space, io: io(10)})
		r.report(o+1, report{seconds: 11, ops: counters{"write": {Count: 20}}, space: space, io: io(20)})
	}
	r.settle()
	contains(t, r.get(keys.InodeStats(inodeID(1, 7))), `"write":{"count":"40","usec":"40"`)
	r.del(keys.OSDState(2))
	r.settle()
	contains(t, r.get(keys.InodeStats(inodeID(1, 7))), `"raw_used":"8192"`)
	contains(t, r.get(keys.InodeStats(inodeID(1, 7))), `"write":{"count":"20","usec":"20"`)
	contains(t, r.get(keys.Stats()), `"write":{"bytes":"0","usec":"0","count":"20"`)
	r.up(2)
	r.settle()
	contains(t, r.get(keys.Stats()), `"count":"40"`)
	r.del(keys.OSDState(2), keys.OSDStats(2), keys.OSDSpace(2), keys.InodeIO(2)) // rm-osd
	r.settle()
	contains(t, r.get(keys.InodeStats(inodeID(1, 7))), `"raw_used":"4096"`)
	contains(t, r.get(keys.Stats()), `"count":"20"`)
	if len(r.sums.osds) != 1 {
		t.Errorf("%d OSDs are remembered", len(r.sums.osds))
	}
}

// TestRates: restarts, clocks that stand or go back, missing times.
func TestRates(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after report
		rates         string
	}{
		{"normal", rep(100, 10, 100, 1000), rep(102, 30, 700, 5000), `"bps":"2000","iops":"10","lat":"30"`},
		{"OSD started anew", rep(100, 10, 100, 1000), rep(102, 9, 100, 1000), `"bps":"0","iops":"0","lat":"0"`},
		{"more operations, fewer bytes", rep(100, 10, 100, 1000), rep(102, 30, 90, 900), `"bps":"0","iops":"10","lat":"0"`},
		{"time stands", rep(100, 10, 100, 1000), rep(100, 30, 700, 5000), `"bps":"0","iops":"0","lat":"0"`},
		{"time goes back", rep(100, 10, 100, 1000), rep(99, 30, 700, 5000), `"bps":"0","iops":"0","lat":"0"`},
		{"huge", rep(100, 10, 100, 1000), rep(101, 11, 1<<62, 1<<62), `"bps":"4611686018427386000","iops":"1","lat":"17592186044415"`}, // the mean is limited
		{"same again", rep(100, 10, 100, 1000), rep(110, 10, 100, 1000), `"bps":"0","iops":"0","lat":"0"`},
	} {
		r := newRig(t)
		r.up(1)
		r.report(1, c.before)
		r.settle()
		r.report(1, c.after)
		r.settle()
		contains(t, r.get(keys.Stats()), c.rates)
		contains(t, r.get(keys.InodeStats(inodeID(3, 0))), c.rates)
	}
	// The derivation after a clock went back starts from there.
	r := newRig(t)
	r.up(1)
	for _, p := range []report{rep(100, 10, 0, 0), rep(50, 20, 0, 0), rep(51, 25, 0, 0)} {
		r.report(1, p)
		r.settle()
	}
	contains(t, r.get(keys.Stats()), `"iops":"5"`)
}

func rep(seconds, count, usec, bytes uint64) report {
	c := schema.Counters{Count: count, Usec: usec, Bytes: bytes}
	return report{seconds: seconds, ops: counters{"primary_write": c},
		space: []schema.InodeBytes{{Inode: inodeID(3, 0), Bytes: 4096}},
		io:    []schema.InodeIO{{Inode: inodeID(3, 0), Delete: c}}}
}

// TestVanishedInode: the key goes with the last data, unless there is an image.
func TestVanishedInode(t *testing.T) {
	r := newRig(t)
	r.up(1)
	image, other := inodeID(1, 7), inodeID(1, 8)
	r.put(keys.InodeConfig(image), `{"name":"img","size":1}`)
	r.put(keys.InodeConfig(inodeID(1, 9)), `{"name":"never used","size":1}`)
	r.put(keys.InodeStats(inodeID(5, 5)), `{"raw_used":"77"}`) // left over by an earlier master
	r.report(1, report{seconds: 1, space: []schema.InodeBytes{{Inode: image, Bytes: 1}, {Inode: other, Bytes: 2}}})
	r.settle()
	if r.get(keys.InodeStats(image)) == "" || r.get(keys.InodeStats(other)) == "" {
		t.Error("missing statistics")
	}
	if r.get(keys.InodeStats(inodeID(1, 9))) != "" || r.get(keys.InodeStats(inodeID(5, 5))) != "" {
		t.Error("statistics without anything to tell")
	}
	r.report(1, report{seconds: 2})
	r.settle()
	contains(t, r.get(keys.InodeStats(image)), `"raw_used":"0"`)
	if r.get(keys.InodeStats(other)) != "" {
		t.Error("statistics of an inode that is gone")
	}
	r.del(keys.InodeConfig(image), keys.InodeConfig(inodeID(1, 9)))
	r.settle()
	if r.get(keys.InodeStats(image)) != "" || len(r.sums.inodes) != 0 {
		t.Errorf("statistics of a deleted image; %d inodes are remembered", len(r.sums.inodes))
	}
}

// TestPoolStats: only the used space is touched, never over a newer value, and
// the key goes when neither pool nor data exists.
func TestPoolStats(t *testing.T) {
	const rest = `"total_raw_tb":2,"pg_real_size":2,"raw_to_usable":2,"space_efficiency":0.5}`
	r := newRig(t)
	r.put(keys.Pools(), `{"1":{"name":"r","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2},"2":{"name":"broken"}}`)
	for _, p := range []meta.PoolID{1, 2, 3, 4} {
		r.put(keys.PoolStats(p), `{"used_raw_tb":9,`+rest)
	}
	r.up(1)
	r.report(1, report{seconds: 1, space: []schema.InodeBytes{{Inode: inodeID(1, 1), Bytes: 1 << 39}, {Inode: inodeID(3, 1), Bytes: 1 << 40}}})
	r.settle()
	r.want(keys.PoolStats(1), `{"used_raw_tb":0.5,`+rest)
	r.want(keys.PoolStats(2), `{"used_raw_tb":0,`+rest)
	r.want(keys.PoolStats(3), `{"used_raw_tb":1,`+rest)
	r.want(keys.PoolStats(4), "")

	// A distribution is written between calculation and write.
	r.report(1, report{seconds: 2, space: []schema.InodeBytes{{Inode: inodeID(1, 1), Bytes: 1 << 40}}})
	r.follow()
	late := r.sums.Txn(r.lease)
	r.put(keys.PoolStats(1), `{"used_raw_tb":0,"total_raw_tb":7,"pg_real_size":3,"raw_to_usable":3,"space_efficiency":1}`)
	if r.do(late) {
		t.Error("a newer pool/stats was overwritten")
	}
	r.settle()
	r.want(keys.PoolStats(1), `{"used_raw_tb":1,"total_raw_tb":7,"pg_real_size":3,"raw_to_usable":3,"space_efficiency":1}`)
	r.want(keys.PoolStats(3), "")
}

// TestGuard: who is not the master writes nothing.
func TestGuard(t *testing.T) {
	r := newRig(t)
	r.up(1)
	r.report(1, rep(1, 1, 1, 1))
	r.follow()
	txn := r.sums.Txn(r.lease)
	r.del(keys.MonMaster())
	if r.do(txn) || r.get(keys.Stats()) != "" {
		t.Error("statistics were written without being the master")
	}
	other, _ := r.store.Grant(100)
	r.put(keys.MonMaster(), `{}`, other)
	if r.do(r.sums.Txn(r.lease)) {
		t.Error("statistics were written by a former master")
	}
}

// TestOnlyDifferences: an idle cluster writes nothing, one change few keys.
func TestOnlyDifferences(t *testing.T) {
	r := newRig(t)
	r.up(1)
	space := make([]schema.InodeBytes, 500)
	for i := range space {
		space[i] = schema.InodeBytes{Inode: inodeID(1, uint64(i+1)), Bytes: 1}
	}
	r.report(1, report{seconds: 1, space: space})
	r.settle()
	if r.puts != 501 {
		t.Errorf("%d keys were written at first", r.puts)
	}
	r.report(1, report{seconds: 2, space: space})
	r.settle()
	if r.puts+r.dels != 0 {
		t.Errorf("%d keys were written although nothing has changed", r.puts+r.dels)
	}
	space[3].Bytes, space = 2, space[:499]
	r.report(1, report{seconds: 3, space: space})
	r.settle()
	if r.puts != 2 || r.dels != 1 { // stats go along
		t.Errorf("%d puts and %d deletions for one change and one deletion", r.puts, r.dels)
	}
	// Somebody damages a key: it is repaired.
	r.put(keys.InodeStats(space[0].Inode), `{"raw_used":"12345"}`)
	r.del(keys.InodeStats(space[1].Inode), keys.Stats())
	r.settle()
	contains(t, r.get(keys.InodeStats(space[0].Inode)), `"raw_used":"1"`)
	contains(t, r.get(keys.InodeStats(space[1].Inode)), `"raw_used":"1"`)
	contains(t, r.get(keys.Stats()), `"op_stats":{}`)
}

// TestManyInodes: transactions stay small.
func TestManyInodes(t *testing.T) {
	r := newRig(t)
	r.up(1)
	space := make([]schema.InodeBytes, 2*maxInodes+5)
	for i := range space {
		space[i] = schema.InodeBytes{Inode: inodeID(1, uint64(i+1)), Bytes: 1}
	}
	r.report(1, report{seconds: 1, space: space})
	r.follow()
	if txn := r.sums.Txn(r.lease); len(txn.Then) != maxInodes+1 {
		t.Errorf("%d operations in one transaction", len(txn.Then))
	}
	r.settle()
	if r.puts < len(space) {
		t.Errorf("%d keys of %d inodes were written", r.puts, len(space))
	}
}

// TestBadValues: unreadable values neither stop nor distort the rest.
func TestBadValues(t *testing.T) {
	r := newRig(t)
	r.up(1)
	r.report(1, rep(1, 5, 1, 1))
	for i, key := range []string{keys.Global(), keys.Pools(), keys.OSDState(2), keys.OSDStats(2), keys.OSDSpace(2), keys.InodeIO(2),
		keys.PGStats(meta.PG{Pool: 1, Num: 1}), keys.PGState(meta.PG{Pool: 1, Num: 1}), keys.MonMember("7"),
		keys.Stats(), keys.InodeStats(inodeID(1, 1)), keys.PoolStats(1), keys.InodeConfig(inodeID(1, 1)), keys.Prefix() + "/bad/key"} {
		for _, value := range []string{"{", `"x"`, "[]", "null", "", `{"object_count":"x","read":7,"1":{"1":"x"},"op_stats":[]}`} {
			r.put(key, value)
			r.follow()
			r.sums.Txn(r.lease)
			r.sums.Snapshot(&schema.PGConfig{})
		}
		if t.Failed() {
			t.Fatalf("key %d", i)
		}
		r.del(key)
	}
	r.settle()
	contains(t, r.get(keys.Stats()), `"primary_write":{"bytes":"1","usec":"1","count":"5"`)
}

func TestBackfillfull(t *testing.T) {
	r := newRig(t)
	r.up(1)
	r.report(1, rep(1, 5, 1, 1)) // 2^23 blocks
	r.put(keys.OSDStats(2), schema.EmptyOSDStats)
	for num, objects := range []int{1 << 22, 1<<22 - 5} {
		r.put(keys.PGStats(meta.PG{Pool: 1, Num: meta.PGNum(num + 1)}), fmt.Sprintf(`{"object_count":%d}`, objects))
	}
	r.follow()
	config, err := schema.DecodePGConfig("", []byte(`{"items":{"1":{"1":{"osd_set":["1"]},"2":{"osd_set":["1"]}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if full := r.sums.Backfillfull(config, 1); len(full) != 0 {
		t.Errorf("full: %v", full)
	}
	if full := r.sums.Backfillfull(config, 0.99); len(full) != 1 {
		t.Errorf("full: %v", full)
	}
}

// TestReload: a load is all keys as puts, in byte order; the sums are the same
// as those that grew.
func TestReload(t *testing.T) {
	r := newRig(t)
	r.put(keys.Pools(), pools)
	r.up(1)
	r.report(1, rep(1, 5, 1, 1))
	r.put(keys.PGStats(meta.PG{Pool: 1, Num: 1}), `{"object_count":10}`)
	r.settle()
	all, err := r.store.Apply(&env.Txn{Then: []env.KVOp{keys.All().Get()}})
	if err != nil {
		t.Fatal(err)
	}
	r.sums = New(keys, nil)
	for range 2 { // twice does not hurt
		for _, kv := range all.Responses[0].KVs {
			r.sums.Apply(&env.WatchEvent{KV: kv})
		}
		if txn := r.sums.Txn(r.lease); txn != nil {
			t.Errorf("a new master finds differences: %d", len(txn.Then))
		}
	}
}
