package statsum

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/mon/metrics"
)

var update = flag.Bool("update", false, "write testdata/metrics.txt")

// TestMetrics is the whole way from keys in etcd to the text for Prometheus.
func TestMetrics(t *testing.T) {
	r := newRig(t)
	r.put(keys.Pools(), pools)
	r.put(keys.InodeConfig(inodeID(1, 7)), `{"name":"odd \"name\"\\\n","size":1048576}`)
	r.put(keys.MonMember("7"), `{"ip":["10.0.0.5","10.0.1.5"],"hostname":"m"}`)
	r.put(keys.MonMember("8"), `{"ip":[],"hostname":"standby"}`)
	r.put(keys.PoolStats(1), `{"used_raw_tb":0.25,"total_raw_tb":2,"pg_real_size":2,"raw_to_usable":2,"space_efficiency":0.711}`)
	r.put(keys.PGStats(meta.PG{Pool: 1, Num: 1}), `{"object_count":10,"clean_count":8,"misplaced_count":2}`)
	r.put(keys.PGState(meta.PG{Pool: 1, Num: 1}), `{"primary":1,"peers":[1],"state":["active","degraded","left_on_dead"]}`)
	r.put(keys.PGState(meta.PG{Pool: 2, Num: 1}), `{"primary":1,"peers":[1],"state":["active"]}`)
	r.up(1)
	r.report(1, report{seconds: 5, ops: counters{"primary_read": {Count: 10, Usec: 500, Bytes: 40960}},
		subops:  counters{"list": {Count: 3, Usec: 30}},
		recover: counters{"degraded": {Count: 1, Bytes: 131072, Usec: 10}, "misplaced": {}},
		space:   []schema.InodeBytes{{Inode: inodeID(1, 7), Bytes: 1 << 38}, {Inode: inodeID(2, 0), Bytes: 4096}},
		io:      []schema.InodeIO{{Inode: inodeID(1, 7), Read: schema.Counters{Count: 10, Usec: 500, Bytes: 40960}}}})
	r.put(keys.OSDStats(2), `{"host":"h2","size":1000,"free":0,"time":"1.5"}`)
	r.follow()
	config, err := schema.DecodePGConfig("", []byte(`{"items":{"1":{"1":{"osd_set":["1","2"],"primary":"1"},"2":{"osd_set":["1","2"],"primary":"2"}},"2":{"1":{"osd_set":["1","2",0]}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := metrics.Write(&got, r.sums.Snapshot(config)); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("metrics differ from %s (write it again with -update and look at the difference): %v\n%s", file, err, got.String())
	}
}

// TestSnapshotStays: later reports do not change what was handed out.
func TestSnapshotStays(t *testing.T) {
	r := newRig(t)
	r.up(1)
	r.report(1, rep(1, 5, 1, 1))
	r.follow()
	snap := r.sums.Snapshot(&schema.PGConfig{})
	var before, after bytes.Buffer
	metrics.Write(&before, snap)
	r.report(1, rep(2, 50, 10, 10))
	r.del(keys.OSDState(1))
	r.settle()
	metrics.Write(&after, snap)
	if before.String() != after.String() {
		t.Error("the snapshot has changed")
	}
}
