package recheck

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

var testKeys = schema.NewKeys("/c")

// lines makes a batch of "key value" lines; a key alone is deleted.
func lines(text string, revision int64) *clusterview.Batch {
	b := &clusterview.Batch{Revision: revision}
	for line := range strings.Lines(text) {
		key, value, put := strings.Cut(strings.TrimSpace(line), " ")
		if key != "" {
			b.Events = append(b.Events, env.WatchEvent{Deleted: !put, KV: env.KeyValue{Key: "/c/" + key, Value: []byte(value), ModRevision: revision}})
		}
	}
	return b
}

// four OSDs and two pools, nothing placed.
const cluster = `
config/pools {"1":{"name":"a","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2},"2":{"name":"b","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2,"osd_tags":"x"}}
config/osd/1 {"tags":["x"]}
config/osd/2 {"tags":["x"]}
osd/state/1 {"state":"up"}
osd/state/2 {"state":"up"}
osd/state/3 {"state":"up"}
osd/state/4 {"state":"up"}
osd/stats/1 {"time":"100.000","size":1099511627776,"host":"h1"}
osd/stats/2 {"time":"100.000","size":1099511627776,"host":"h2"}
osd/stats/3 {"time":"100.000","size":1099511627776,"host":"h3"}
osd/stats/4 {"time":"100.000","size":1099511627776,"host":"h4"}
`

const nowMillis = 101_000

// settle computes and stores what a master would.
func settle(t *testing.T, s *State, o *Options, known map[meta.PoolID]string) {
	t.Helper()
	p, err := s.assess(o, nowMillis, known, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := &schema.PGConfig{Pools: slices.Clone(s.present().Pools), Hash: p.hash}
	for _, task := range p.todo {
		for done := false; !done; {
			if done, err = task.step(1000); err != nil {
				t.Fatal(err)
			}
		}
		targets := configOf(s, task.sets).Pool(1).PGs
		config.SetPool(task.pool.ID, targets)
		known[task.pool.ID] = task.fingerprint
		s.stats[task.pool.ID] = schema.PoolStats{PGRealSize: 2, RawToUsable: 2, SpaceEfficiency: 1, TotalRawTB: 1}
	}
	s.config = config
}

func TestAssess(t *testing.T) {
	for _, c := range []struct{ name, change, want string }{
		{"nothing", "", "idle"},
		{"an OSD is down", "osd/state/1", "idle"},
		{"weight of an OSD of both pools", `config/osd/1 {"tags":["x"],"reweight":0.5}`, "place 1 2"},
		{"weight of an OSD of pool 1", `config/osd/3 {"reweight":0.5}`, "place 1"},
		{"weight that makes no sense", `config/osd/3 {"reweight":"much"}`, "idle"},
		{"tag of another kind", `config/osd/3 {"tags":["y"]}`, "write"},
		{"tag of pool 2", `config/osd/3 {"tags":["x"]}`, "place 2"},
		{"another layout, which the hash does not show", `osd/stats/3 {"time":"100.000","size":1099511627776,"host":"h3","data_block_size":4096}`, "place 1"},
		{"another host", `osd/stats/3 {"time":"100.000","size":1099511627776,"host":"h9"}`, "place 1"},
		{"only statistics", `osd/stats/3 {"time":"101.000","size":1099511627776,"free":5,"host":"h3"}`, "idle"},
		{"bad statistics", `osd/stats/3 {"time":"101.000","size":1099511627776,"op_stats":5,"host":"h3"}`, "idle"},
		{"a bad size: the last one counts", `osd/stats/3 {"time":"101.000","size":"x","host":"h3"}`, "idle"},
		{"a new OSD with a bad size", `osd/stats/5 {"time":"101.000","size":"x","host":"h3"}`, "PGs are not placed"},
		{"a reserved number", `osd/stats/5 {}`, "idle"},
		{"settings of no OSD", `config/osd/9 nonsense`, "idle"},
		{"a bad tree when there was none", `config/node_placement 5`, "PGs are not placed"},
		{"a tree of others", `config/node_placement {"rack":{"level":"rack"}}`, "idle"},
		{"pools go", "config/pools", "config/pools does not exist"},
		{"a pool goes", `config/pools {"1":{"name":"a","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2}}`, "write"},
		{"bad pools", `config/pools [`, "idle"},
		{"a pool is wrong", `config/pools {"1":{"name":"a","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":3},"2":{"scheme":"x"}}`, "place 1"},
		{"wrong rules", `config/pools {"1":{"name":"a","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2,"raw_placement":"host=9"},"2":{"name":"b","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2,"osd_tags":"x"}}`, "frozen 1 idle"},
		{"a wider pool", `config/pools {"1":{"name":"a","scheme":"replicated","pg_size":3,"pg_minsize":1,"pg_count":2},"2":{"name":"b","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2,"osd_tags":"x"}}`, "place 1"},
		{"bad history", "pg/history/2/1 {\"epoch\":\"x\"}\nconfig/osd/1 {\"tags\":[\"x\"],\"reweight\":0.5}", "place 1 frozen 2"},
		{"bad history of nobody", "pg/history/9/1 {", "idle"},
		{"bad pg/config", "pg/config {", "PGs are not placed"},
		{"a bad PG", `pg/config {"items":{"1":{"1":{"osd_set":["x","2"]}}},"hash":"1"}`, "PGs are not placed"},
		{"no pg/config", "pg/config", "place 1 2"},
		{"bad legacy", "config/pgs {", "idle"},
		{"bad legacy and nothing else", "config/pgs {\npg/config", "PGs are not placed"},
		{"bad clean", "history/last_clean_pgs {", "idle"},
		{"bad pool/stats", "pool/stats/1 {", "refresh 1"},
		{"no pool/stats", "pool/stats/2", "refresh 2"},
	} {
		s := NewState(testKeys, schema.BuiltinPoolDefaults())
		_, o := large(t, "host", 1)
		s.Apply(lines(cluster, 5))
		known := map[meta.PoolID]string{}
		settle(t, s, o, known)
		if p, err := s.assess(o, nowMillis, known, nil); err != nil || !p.idle {
			t.Fatalf("not settled: %+v %v", p, err)
		}
		s.Apply(lines(c.change, 6))
		if got := describe(s.assess(o, nowMillis, known, nil)); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func describe(p *plan, err error) string {
	if err != nil {
		return err.Error()
	}
	var words []string
	add := func(name string, ids []meta.PoolID) {
		if len(ids) > 0 {
			words = append(words, name, strings.Trim(fmt.Sprint(ids), "[]"))
		}
	}
	var todo []meta.PoolID
	for _, t := range p.todo {
		todo = append(todo, t.pool.ID)
	}
	add("place", todo)
	add("refresh", slices.Sorted(maps.Keys(p.refresh)))
	add("frozen", slices.Sorted(maps.Keys(p.frozen)))
	switch {
	case p.idle:
		words = append(words, "idle")
	case len(p.todo)+len(p.refresh) == 0:
		words = append(words, "write")
	}
	return strings.Join(words, " ")
}

func TestChanges(t *testing.T) {
	s := NewState(testKeys, schema.BuiltinPoolDefaults())
	s.Apply(lines(cluster, 5))
	for i, c := range []struct {
		change string
		want   Changes
	}{
		{"osd/state/1", Changes{Vanished: true, Placement: true}},
		{"osd/state/1", Changes{Placement: true}},
		{`osd/state/1 {"state":"up"}`, Changes{Appeared: true, Placement: true}},
		{`osd/state/1 nonsense`, Changes{Placement: true}}, // it exists
		{`osd/stats/1 {"time":"109.000","size":1099511627776,"host":"h1"}`, Changes{Space: true}},
		{`osd/stats/1 {"time":"109.000","size":5,"host":"h1"}`, Changes{Space: true, Placement: true}},
		{`osd/stats/1`, Changes{Placement: true}},
		{`pg/state/1/1 {"primary":1,"state":["active"],"peers":[1,2]}`, Changes{PGStates: true}},
		{`pgstats/1/1 {"object_count":5}`, Changes{Space: true}},
		{`pg/stats/1/1 {"object_count":5}`, Changes{Space: true}},
		{`pg/history/1/1 {"epoch":5}`, Changes{}},
		{`pool/stats/1 {"pg_real_size":2,"raw_to_usable":2,"space_efficiency":1,"total_raw_tb":1,"used_raw_tb":0}`, Changes{}},
		{`pool/stats/1`, Changes{Placement: true}},
		{`stats {}`, Changes{}},
		{`config/inode/1/1 {"name":"x"}`, Changes{}},
		{`what/ever 1`, Changes{}},
	} {
		got := s.Apply(lines(c.change, int64(6+i)))
		got.Problems = nil
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", c.change, got, c.want)
		}
	}
}

// Whatever is in etcd: an error, but no panic; and a repaired value repairs
// everything.
func FuzzState(f *testing.F) {
	for _, s := range []string{cluster, "config/pools {", `pg/config {"items":{"1":{"1":{"osd_set":["x"]}}}}`, "pg/history/1/1 5",
		`config/node_placement {"1":{"parent":"2"},"2":{"parent":"1","level":"host"}}`, `pg/state/1/1 {"state":["x"]}`,
		"config/pgs 7\nhistory/last_clean_pgs {}\npgstats/1/1 x\npg/stats/1/1 {}\npool/stats/1 []", "osd/state/1\nosd/stats/1 {}"} {
		f.Add(s)
	}
	_, o := large(f, "host", 1)
	f.Fuzz(func(t *testing.T, text string) {
		s := NewState(testKeys, schema.BuiltinPoolDefaults())
		s.Apply(lines(text, 5))
		p, err := s.assess(o, nowMillis, map[meta.PoolID]string{}, map[meta.PoolID]*task{})
		if err == nil && p.hash == "" {
			t.Error("a plan without hash")
		}
		s.decide(1, s.unpaused())
		s.nextOut(o.OutTime, nowMillis)
		s.full(1)(s.present())
		all := ""
		for key := range s.bad {
			all += strings.TrimPrefix(key, "/c/") + "\n"
		}
		s.Apply(lines(all, 6))
		if len(s.bad) > 0 {
			t.Errorf("still bad after deletion: %v", s.bad)
		}
	})
}
