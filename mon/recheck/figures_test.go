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
	"vitastor/mon/pggen"
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

// BenchmarkLarge tells what placing 8192 PGs on 1000 OSDs costs, how long the
// loop is busy at most, and how long new primaries take.
func BenchmarkLarge(b *testing.B) {
	for _, domain := range []string{"host", "osd"} {
		b.Run(domain, func(b *testing.B) {
			s, o := large(b, domain, 8192)
			for b.Loop() {
				s.config = nil
				s.osds[13].config = nil
				place(b, s, o, "initial")
				s.osds[13].config = &schema.OSDConfig{}
				place(b, s, o, "out")
			}
			s.osds[7].up = false
			r := &Rechecker{Config: Config{Env: &env.Env{Clock: still{}}, Lease: 1, Options: *o}, state: s}
			begin := time.Now()
			out, err := pggen.Recheck(s.decide(1, s.unpaused()), r.decision())
			if err != nil || out.Kind != pggen.Writing {
				b.Fatal(err, out)
			}
			b.ReportMetric(time.Since(begin).Seconds()*1000, "primaries-ms")
			begin = time.Now()
			pggen.CleanPGs(&pggen.State{Keys: s.keys, Lease: 1, Config: s.present(), Pools: s.pools, PGStates: s.states}, s.present())
			b.ReportMetric(time.Since(begin).Seconds()*1000, "clean-ms")
		})
	}
}

// place computes a distribution and makes it pg/config.
func place(b *testing.B, s *State, o *Options, what string) {
	begin := time.Now()
	p, err := s.assess(o, 2000, map[meta.PoolID]string{}, nil)
	if err != nil || len(p.todo) != 1 {
		b.Fatal(err, p)
	}
	longest, at := time.Since(begin), time.Now()
	for done := false; !done; {
		if done, err = p.todo[0].step(stepWork); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(at))
		at = time.Now()
	}
	b.ReportMetric(longest.Seconds()*1000, what+"-longest-ms")
	b.ReportMetric(time.Since(begin).Seconds()*1000, what+"-total-ms")
	s.config = configOf(s, p.todo[0].sets)
}

// configOf is pg/config after a placement.
func configOf(s *State, sets [][]meta.OSDNum) *schema.PGConfig {
	targets := make([]schema.PGTarget, len(sets))
	for i, set := range sets {
		targets[i] = schema.PGTarget{Num: meta.PGNum(i + 1), OSDSet: set, Primary: set[0]}
	}
	c := &schema.PGConfig{Hash: "x"}
	c.SetPool(1, targets)
	return c
}

// still is a clock that shows one time.
type still struct{ env.Clock }

func (still) Now() env.Instant { return 0 }

func (still) WallNanos() int64 { return 2e9 }
