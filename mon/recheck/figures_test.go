package recheck

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// large is the state of a cluster of 1000 OSDs on 50 hosts with one pool, and
// the keys that made it.
func large(b testing.TB, domain string, pgs int) (*State, *Options) {
	keys := schema.NewKeys("")
	s := NewState(keys, schema.BuiltinPoolDefaults())
	batch := &clusterview.Batch{Reloaded: true, Revision: 10}
	put := func(key string, value []byte) {
		batch.Events = append(batch.Events, env.WatchEvent{KV: env.KeyValue{Key: key, Value: value, ModRevision: 10}})
	}
	for n := meta.OSDNum(1); n <= 1000; n++ {
		stats := schema.OSDStats{TimeMillis: 1000, SizeBytes: 8 << 40, BlockBytes: 131072, GranularityBytes: 4096,
			ImmediateCommit: "all", Host: fmt.Sprint("h", (n-1)/20)}
		put(keys.OSDStats(n), stats.Encode())
		put(keys.OSDState(n), []byte(`{"state":"up"}`))
	}
	put(keys.Pools(), fmt.Appendf(nil, `{"1":{"name":"p","scheme":"replicated","pg_size":3,"pg_minsize":1,"pg_count":%d,"failure_domain":"%s"}}`, pgs, domain))
	if c := s.Apply(batch); len(c.Problems) > 0 {
		b.Fatal(c.Problems)
	}
	return s, &Options{OutTime: time.Minute, Levels: placement.NewLevels(&schema.Object{}), FullRatio: 1}
}

// BenchmarkLarge tells what one placement of 1000 OSDs costs, how long the loop
// is busy at most, and how long new primaries take meanwhile.
func BenchmarkLarge(b *testing.B) {
	for _, domain := range []string{"host", "osd"} {
		b.Run(domain, func(b *testing.B) {
			s, o := large(b, domain, 8192)
			for b.Loop() {
				begin := time.Now()
				p, err := s.assess(o, 2000, map[meta.PoolID]string{}, nil)
				if err != nil || len(p.todo) != 1 {
					b.Fatal(err, p)
				}
				longest := time.Since(begin)
				b.ReportMetric(longest.Seconds()*1000, "assess-ms")
				steps, at := 0, time.Now()
				longest = 0
				for done := false; !done; steps++ {
					if done, err = p.todo[0].step(stepWork); err != nil {
						b.Fatal(err)
					}
					longest = max(longest, time.Since(at))
					at = time.Now()
				}
				b.ReportMetric(float64(steps), "steps")
				b.ReportMetric(longest.Seconds()*1000, "longest-step-ms")
				b.ReportMetric(time.Since(begin).Seconds()*1000, "total-ms")
			}
		})
	}
}
