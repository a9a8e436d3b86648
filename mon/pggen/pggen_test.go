package pggen

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

var keys = schema.NewKeys("/v")

// cluster is a monitor's view of a modelled etcd.
type cluster struct {
	t     testing.TB
	store *mem.Store
	lease env.LeaseID
	up    map[meta.OSDNum]bool // all OSDs
}

func newCluster(t testing.TB, osds int) *cluster {
	c := &cluster{t: t, store: mem.New(mem.Limits{}), up: map[meta.OSDNum]bool{}}
	var err error
	if c.lease, err = c.store.Grant(100); err != nil {
		t.Fatal(err)
	}
	c.do(env.KVOp{Kind: env.KVPut, Key: keys.MonMaster(), Value: []byte("{}"), Lease: c.lease})
	for o := range osds {
		num := meta.OSDNum(o + 1)
		c.up[num] = true
		c.put(keys.OSDStats(num), `{"size":1099511627776}`)
		c.put(keys.OSDState(num), `{"state":"up"}`)
	}
	return c
}

func (c *cluster) do(ops ...env.KVOp) {
	c.t.Helper()
	if _, err := c.store.Apply(&env.Txn{Then: ops}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) put(key, value string) {
	c.do(env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value)})
}

func (c *cluster) remove(key string) { c.do(env.KVOp{Kind: env.KVDelete, Key: key}) }

// get is the text of a key, "" = it does not exist.
func (c *cluster) get(key string) string {
	r, err := c.store.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(r.Responses[0].KVs) == 0 {
		return ""
	}
	return string(r.Responses[0].KVs[0].Value)
}

func (c *cluster) config() *schema.PGConfig { return c.decode(keys.PGConfig()) }

func (c *cluster) decode(key string) *schema.PGConfig {
	config, err := schema.DecodePGConfig(key, []byte(c.get(key)))
	if err != nil {
		c.t.Log(err)
	}
	return config
}

// state reads everything.
func (c *cluster) state() *State {
	c.t.Helper()
	s := &State{Keys: keys, Lease: c.lease, Revision: c.store.Revision(), Config: c.config(), Legacy: c.get(keys.LegacyPGConfig()) != "",
		PGStates: map[meta.PG]schema.PGState{}, Histories: map[meta.PG]*schema.PGHistory{}, OSDs: slices.Sorted(maps.Keys(c.up))}
	s.Pools, _ = schema.DecodePools(keys.Pools(), []byte(c.get(keys.Pools())), schema.BuiltinPoolDefaults())
	r, err := c.store.Apply(&env.Txn{Then: []env.KVOp{keys.PGs().Get()}})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, kv := range r.Responses[0].KVs {
		key, _ := keys.Parse(kv.Key)
		pg := meta.PG{Pool: key.Pool, Num: key.PG}
		switch key.Kind {
		case schema.KindPGState:
			state, err := schema.DecodePGState(kv.Key, kv.Value)
			if err != nil {
				c.t.Fatal(err)
			}
			s.PGStates[pg] = state
		case schema.KindPGHistory:
			h, err := schema.DecodePGHistory(kv.Key, kv.Value)
			if err != nil {
				c.t.Fatal(err)
			}
			s.Histories[pg] = &h
		}
	}
	return s
}

// primaries are those of OSDs that are up.
func (c *cluster) primaries() *placement.Primaries {
	var none schema.Object
	in := &placement.Input{Levels: placement.NewLevels(&none)}
	for num, up := range c.up {
		in.OSDs = append(in.OSDs, placement.OSD{Num: num, HasState: up, Config: schema.OSDConfig{Reweight: 1, NoOut: true},
			Stats: &schema.OSDStats{SizeBytes: 1 << 40, Host: fmt.Sprint("h", num)}})
	}
	return placement.Build(in).NewPrimaries()
}

func nothingFull(*schema.PGConfig) []meta.PoolID { return nil }

// decision places pools as given; sets are texts such as "1,2 2,0".
func (c *cluster) decision(hash string, pools map[meta.PoolID]string) *Decision {
	d := &Decision{Hash: hash, Placed: map[meta.PoolID]*Placed{}, Primaries: c.primaries(), Full: nothingFull}
	for pool, text := range pools {
		d.Placed[pool] = &Placed{Sets: parseSets(text), Stats: schema.PoolStats{PGRealSize: 2}}
	}
	return d
}

func parseSets(text string) (sets [][]meta.OSDNum) {
	for set := range strings.FieldsSeq(text) {
		var osds []meta.OSDNum
		for o := range strings.SplitSeq(set, ",") {
			n, err := strconv.Atoi(o)
			if err != nil {
				panic(err)
			}
			osds = append(osds, meta.OSDNum(n))
		}
		sets = append(sets, osds)
	}
	return sets
}

// apply runs Apply and its transaction.
func (c *cluster) apply(d *Decision) *Outcome {
	c.t.Helper()
	o, err := Apply(c.state(), d)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.commit(o)
}

func (c *cluster) commit(o *Outcome) *Outcome {
	c.t.Helper()
	if o.Kind == Nothing || o.Kind == Waiting {
		if len(o.Txn.Then) > 0 {
			c.t.Fatalf("%s with a transaction", o.Kind)
		}
		return o
	}
	r, err := c.store.Apply(&o.Txn)
	if err != nil || !r.Succeeded {
		c.t.Fatalf("%s: the transaction failed: %v", o.Kind, err)
	}
	if want := o.Config.Encode(); c.get(keys.LastCleanPGs()) != string(o.Config.EncodeItems()) && c.get(keys.PGConfig()) != string(want) {
		c.t.Fatalf("the outcome says %s", want)
	}
	return o
}

func pool(count int) string {
	return fmt.Sprintf(`{"name":"p","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":%d}`, count)
}

func (c *cluster) pools(text string) { c.put(keys.Pools(), text) }

func (c *cluster) expect(key, want string) {
	c.t.Helper()
	if got := c.get(key); got != want {
		c.t.Errorf("%s is\n%s, want\n%s", key, got, want)
	}
}

func (c *cluster) outcome(o *Outcome, want Kind) {
	c.t.Helper()
	if o.Kind != want {
		c.t.Fatalf("%s, want %s", o.Kind, want)
	}
}

func history(pool meta.PoolID, num meta.PGNum) string {
	return keys.PGHistory(meta.PG{Pool: pool, Num: num})
}

func TestNewPool(t *testing.T) {
	c := newCluster(t, 3)
	c.pools(`{"1":` + pool(2) + `}`)
	c.put(history(1, 2), `{"all_peers":[1,2,3],"x":1}`) // left by an administrator
	c.outcome(c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2 3,0"})), Writing)
	c.expect(keys.PGConfig(), `{"hash":"h1","items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"},"2":{"osd_set":["3",0],"primary":"3"}}}}`)
	c.expect(history(1, 1), "")
	c.expect(history(1, 2), `{"all_peers":[1,2,3],"x":1}`)
	c.expect(keys.PoolStats(1), `{"used_raw_tb":0,"total_raw_tb":0,"pg_real_size":2,"raw_to_usable":0,"space_efficiency":0}`)
}

func TestMovedPGs(t *testing.T) {
	c := newCluster(t, 4)
	c.pools(`{"1":` + pool(3) + `}`)
	c.put(keys.LegacyPGConfig(), "{}")
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2 3,0 0,0"}))
	c.put(history(1, 2), `{"osd_sets":[["1","3"]],"epoch":7,"next_scrub":5,"y":[1]}`)
	c.outcome(c.apply(c.decision("h2", map[meta.PoolID]string{1: "1,2 3,4 1,2"})), Writing)
	c.expect(history(1, 1), "")
	c.expect(history(1, 2), `{"osd_sets":[["1","3"],["3",0]],"all_peers":[],"epoch":7,"next_scrub":5,"y":[1]}`)
	c.expect(history(1, 3), "") // the old set was empty
	c.apply(c.decision("h3", map[meta.PoolID]string{1: "4,2 3,4 1,2"}))
	c.expect(history(1, 1), `{"osd_sets":[["1","2"]],"all_peers":[],"epoch":0}`)
	if c.get(keys.LegacyPGConfig()) != c.get(keys.PGConfig()) {
		t.Error("config/pgs was not written too")
	}
}

// TestDoubling is the sequence that a change of pg_count makes (monitor.md §5).
func TestDoubling(t *testing.T) {
	c := newCluster(t, 4)
	c.pools(`{"1":` + pool(2) + `,"2":` + pool(1) + `}`)
	first := map[meta.PoolID]string{1: "1,2 3,4", 2: "1,2"}
	c.apply(c.decision("h1", first))
	one := meta.PG{Pool: 1, Num: 1}
	c.put(keys.PGState(one), `{"primary":2,"state":["active"],"peers":[1,2]}`)
	c.put(history(1, 1), `{"all_peers":[1,2,3],"epoch":5,"osd_sets":[[2,3]],"next_scrub":9}`)
	c.put(keys.PGStats(one), `{"object_count":1}`)
	c.put(keys.PGStats(meta.PG{Pool: 2, Num: 1}), `{"object_count":1}`)
	c.pools(`{"1":` + pool(4) + `,"2":` + pool(1) + `}`)
	next := c.decision("h2", map[meta.PoolID]string{1: "1,2 3,4 1,2 4,2"})

	c.outcome(c.apply(next), Pausing)
	c.expect(keys.PGConfig(), `{"hash":"h1","items":{"1":{"1":{"osd_set":["1","2"],"pause":true,"primary":"2"},`+
		`"2":{"osd_set":["3","4"],"pause":true,"primary":"3"}},"2":{"1":{"osd_set":["1","2"],"primary":"2"}}}}`)
	o := c.apply(next)
	c.outcome(o, Waiting)
	if !slices.Equal(o.Running, []meta.PG{one}) {
		t.Error(o.Running)
	}
	c.remove(keys.PGState(one))
	c.outcome(c.apply(next), Writing)
	c.expect(keys.PGConfig(), `{"hash":"h2","items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"},"2":{"osd_set":["3","4"],"primary":"3"},`+
		`"3":{"osd_set":["1","2"],"primary":"2"},"4":{"osd_set":["4","2"],"primary":"4"}},"2":{"1":{"osd_set":["1","2"],"primary":"2"}}}}`)
	for _, num := range []meta.PGNum{1, 3} {
		c.expect(history(1, num), `{"osd_sets":[["2","3"],["1","2"]],"all_peers":[1,2,3],"epoch":5}`)
	}
	for _, num := range []meta.PGNum{2, 4} {
		c.expect(history(1, num), `{"osd_sets":[["3","4"]],"all_peers":[],"epoch":0}`)
	}
	c.expect(keys.PGStats(one), "")
	c.expect(keys.PGStats(meta.PG{Pool: 2, Num: 1}), `{"object_count":1}`)
}

func TestOtherCounts(t *testing.T) {
	for _, tc := range []struct {
		before, after string
		want          []string // osd_sets of the new histories
	}{
		{"1,2 2,3 3,4 4,1", "1,2 2,3", []string{"1,2 3,4", "2,3 4,1"}},
		{"1,2 2,3 1,2 2,3", "1,2 2,3", []string{"1,2", "2,3"}},
		{"1,2 2,3", "1,2 2,3 3,4", []string{"1,2 2,3", "1,2 2,3", "1,2 2,3"}},
		{"1,2 2,3 3,4", "1,2 2,3", []string{"1,2 2,3 3,4", "1,2 2,3 3,4"}},
		{"1,2 0,0", "1,2", []string{"1,2"}},
	} {
		c := newCluster(t, 4)
		before, after := len(parseSets(tc.before)), len(parseSets(tc.after))
		c.pools(`{"1":` + pool(before) + `}`)
		c.apply(c.decision("h1", map[meta.PoolID]string{1: tc.before}))
		c.put(history(1, meta.PGNum(before)), `{"epoch":3}`)
		c.put(history(1, 9), `{"epoch":3}`)
		c.pools(`{"1":` + pool(after) + `}`)
		d := c.decision("h2", map[meta.PoolID]string{1: tc.after})
		c.outcome(c.apply(d), Pausing)
		c.outcome(c.apply(d), Writing)
		state := c.state()
		if len(state.Histories) != after {
			t.Errorf("%s -> %s: %d histories", tc.before, tc.after, len(state.Histories))
		}
		epochs := 0
		for i, want := range tc.want {
			h := state.Histories[meta.PG{Pool: 1, Num: meta.PGNum(i + 1)}]
			if !slices.EqualFunc(h.OSDSets, parseSets(want), slices.Equal[[]meta.OSDNum]) {
				t.Errorf("%s -> %s: PG %d has %v, want %s", tc.before, tc.after, i+1, h.OSDSets, want)
			}
			epochs += int(h.Epoch)
		}
		if epochs == 0 {
			t.Errorf("%s -> %s: the epoch is lost", tc.before, tc.after)
		}
	}
}

func TestRevertedCount(t *testing.T) {
	c := newCluster(t, 2)
	c.pools(`{"1":` + pool(1) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2"}))
	before := c.get(keys.PGConfig())
	c.pools(`{"1":` + pool(2) + `}`)
	c.outcome(c.apply(c.decision("h2", map[meta.PoolID]string{1: "1,2 2,1"})), Pausing)
	o, err := Recheck(c.state(), c.decision("", nil))
	if err != nil || o.Kind != Nothing {
		t.Fatal("a pause was ended too early", o, err)
	}
	c.pools(`{"1":` + pool(1) + `}`)
	if o, err = Recheck(c.state(), c.decision("", nil)); err != nil {
		t.Fatal(err)
	}
	c.outcome(c.commit(o), Writing)
	c.expect(keys.PGConfig(), before)
}

func TestDeletedPool(t *testing.T) {
	c := newCluster(t, 2)
	c.pools(`{"1":` + pool(1) + `,"2":` + pool(1) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2", 2: "2,1"}))
	two := meta.PG{Pool: 2, Num: 1}
	c.put(history(2, 1), `{}`)
	c.put(history(1, 1), `{}`)
	c.put(keys.PGStats(two), `{}`)
	c.put(keys.PGState(two), `{"primary":2,"state":["active"],"peers":[1,2]}`)
	c.pools(`{"1":` + pool(1) + `}`)
	d := c.decision("h2", nil)
	c.outcome(c.apply(d), Pausing)
	c.outcome(c.apply(d), Waiting)
	c.remove(keys.PGState(two))
	c.outcome(c.apply(d), Writing)
	c.expect(keys.PGConfig(), `{"hash":"h2","items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"}}}}`)
	for _, key := range []string{history(2, 1), keys.PGStats(two), keys.PoolStats(2)} {
		c.expect(key, "")
	}
	c.expect(history(1, 1), `{}`)
}

// TestOtherPools: pools without a new distribution get right primaries, too.
func TestOtherPools(t *testing.T) {
	c := newCluster(t, 2)
	c.pools(`{"1":` + pool(1) + `}`)
	c.put(keys.PGConfig(), `{"hash":"h","items":{"1":{"1":{"osd_set":["1","2"],"pause":true}}}}`)
	c.outcome(c.apply(c.decision("h2", nil)), Writing)
	c.expect(keys.PGConfig(), `{"hash":"h2","items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"}}}}`)
}

// TestInvalidPool: its PGs stay as they are.
func TestInvalidPool(t *testing.T) {
	c := newCluster(t, 2)
	c.pools(`{"1":` + pool(1) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2"}))
	c.pools(`{"1":{"name":"p","scheme":"replicated","pg_size":0,"pg_count":7}}`)
	c.up[2] = false
	c.outcome(c.apply(c.decision("h2", nil)), Writing)
	c.expect(keys.PGConfig(), `{"hash":"h2","items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"}}}}`)
}

func TestRecheck(t *testing.T) {
	c := newCluster(t, 3)
	c.pools(`{"1":` + pool(2) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2 3,1"}))
	check := func(want Kind, config string) {
		t.Helper()
		d := c.decision("", nil)
		d.Full = func(p *schema.PGConfig) []meta.PoolID {
			if c.get("/full") != "" {
				return []meta.PoolID{1}
			}
			return nil
		}
		o, err := Recheck(c.state(), d)
		if err != nil {
			t.Fatal(err)
		}
		c.outcome(c.commit(o), want)
		c.expect(keys.PGConfig(), config)
	}
	all := `{"hash":"h1","items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"},"2":{"osd_set":["3","1"],"primary":"3"}}}}`
	check(Nothing, all)
	c.up[2], c.up[3] = false, false
	check(Writing, `{"hash":"h1","items":{"1":{"1":{"osd_set":["1","2"],"primary":"1"},"2":{"osd_set":["3","1"],"primary":"1"}}}}`)
	c.up[1] = false
	check(Writing, `{"hash":"h1","items":{"1":{"1":{"osd_set":["1","2"],"primary":0},"2":{"osd_set":["3","1"],"primary":0}}}}`)
	c.up[1], c.up[2], c.up[3] = true, true, true
	check(Writing, all)
	c.put("/full", "1")
	check(Writing, `{"backfillfull_pools":["1"],`+all[1:])
	check(Nothing, `{"backfillfull_pools":["1"],`+all[1:])
	c.remove("/full")
	check(Writing, all)
}

// TestGuards: no transaction succeeds after somebody else wrote.
func TestGuards(t *testing.T) {
	for name, interfere := range map[string]func(c *cluster){
		"pg/config":  func(c *cluster) { c.put(keys.PGConfig(), c.get(keys.PGConfig())) },
		"history":    func(c *cluster) { c.put(history(1, 1), `{"epoch":9}`) },
		"mastership": func(c *cluster) { c.remove(keys.MonMaster()) },
	} {
		c := newCluster(t, 3)
		c.pools(`{"1":` + pool(1) + `}`)
		c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2"}))
		o, err := Apply(c.state(), c.decision("h2", map[meta.PoolID]string{1: "1,3"}))
		if err != nil {
			t.Fatal(err)
		}
		interfere(c)
		if r, err := c.store.Apply(&o.Txn); err != nil || r.Succeeded {
			t.Errorf("%s: not noticed, %v", name, err)
		}
	}
	c := newCluster(t, 3)
	c.pools(`{"1":` + pool(1) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2"}))
	c.put(history(1, 1), `{"epoch":1}`)
	c.pools(`{}`)
	c.apply(c.decision("h2", nil)) // pause
	deleting, err := Apply(c.state(), c.decision("h2", nil))
	if err != nil || deleting.Kind != Writing {
		t.Fatal(deleting, err)
	}
	c.put(history(1, 1), `{"epoch":2}`)
	if r, err := c.store.Apply(&deleting.Txn); err != nil || r.Succeeded {
		t.Error("a history is deleted that somebody writes", err)
	}
	c = newCluster(t, 3)
	c.pools(`{"1":` + pool(1) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2"}))
	c.pools(`{"1":` + pool(2) + `}`)
	o, err := Apply(c.state(), c.decision("h2", map[meta.PoolID]string{1: "1,2 1,2"}))
	if err != nil || o.Kind != Pausing {
		t.Fatal(o, err)
	}
	c.put(keys.OSDState(3), `{"state":"up"}`) // it may have read pg/config without the pause
	if r, err := c.store.Apply(&o.Txn); err != nil || r.Succeeded {
		t.Error("a starting OSD is not noticed", err)
	}
}

func TestRefusals(t *testing.T) {
	c := newCluster(t, 2)
	c.pools(`{"1":` + pool(2) + `}`)
	for _, tc := range []struct {
		name string
		d    *Decision
		want error
	}{
		{"no hash", c.decision("", map[meta.PoolID]string{1: "1,2 1,2"}), schema.ErrNoHash},
		{"not placed", c.decision("h", nil), ErrNotPlaced},
		{"count", c.decision("h", map[meta.PoolID]string{1: "1,2"}), nil},
		{"size", c.decision("h", map[meta.PoolID]string{1: "1,2 1"}), nil},
		{"unknown pool", c.decision("h", map[meta.PoolID]string{1: "1,2 1,2", 2: "1,2"}), nil},
	} {
		if _, err := Apply(c.state(), tc.d); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	c.put(keys.PGConfig(), `{"hash":"h","items":{"1":{"1":{"osd_set":["a"]},"2":{"osd_set":["1","2"]}}}}`)
	if _, err := Apply(c.state(), c.decision("h", map[meta.PoolID]string{1: "1,2 1,2"})); !errors.Is(err, ErrBroken) {
		t.Error("Apply on a broken value:", err)
	}
	if _, err := Recheck(c.state(), c.decision("h", nil)); !errors.Is(err, ErrBroken) {
		t.Error("Recheck on a broken value:", err)
	}
	c.put(keys.PGConfig(), `{"items":{"3":{"1":{"osd_set":["1","2"],"primary":"1"}}}}`)
	c.pools(`{}`)
	if o := c.apply(c.decision("h", nil)); o.Kind != Pausing || !strings.Contains(c.get(keys.PGConfig()), `"hash":"`+noHash) {
		t.Error("without a hash", c.get(keys.PGConfig()))
	}
}

func TestLastClean(t *testing.T) {
	c := newCluster(t, 4)
	c.pools(`{"1":` + pool(2) + `,"2":` + pool(1) + `}`)
	c.apply(c.decision("h1", map[meta.PoolID]string{1: "1,2 3,4", 2: "1,2"}))
	update := func(want Kind, text string) {
		t.Helper()
		o := CleanPGs(c.state(), c.decode(keys.LastCleanPGs()))
		c.outcome(c.commit(o), want)
		c.expect(keys.LastCleanPGs(), text)
	}
	update(Nothing, "")
	state := func(pool meta.PoolID, num meta.PGNum, text string, peers string) {
		c.put(keys.PGState(meta.PG{Pool: pool, Num: num}), `{"primary":1,"state":["`+strings.ReplaceAll(text, " ", `","`)+`"],"peers":[`+peers+`]}`)
	}
	state(1, 1, "active", "1,2")
	update(Nothing, "") // PG 2 is offline
	state(1, 2, "active has_misplaced", "3,4")
	update(Nothing, "")
	state(1, 2, "active left_on_dead", "4,3")
	const clean = `{"items":{"1":{"1":{"osd_set":["1","2"],"primary":"2"},"2":{"osd_set":["3","4"],"primary":"3"}}}}`
	update(Writing, clean)
	update(Nothing, clean)
	// A new target: the PG is still active with its old set.
	c.apply(c.decision("h2", map[meta.PoolID]string{1: "1,3 3,4"}))
	update(Nothing, clean)
	if got := Previous(c.config(), c.decode(keys.LastCleanPGs()), 1); fmt.Sprint(got) != "[[1 2] [3 4]]" {
		t.Error("the base is not the clean distribution", got)
	}
	if got := Previous(c.config(), c.decode(keys.LastCleanPGs()), 2); fmt.Sprint(got) != "[[1 2]]" {
		t.Error("the base is not pg/config", got)
	}
	if got := Previous(c.config(), &schema.PGConfig{}, 3); got != nil {
		t.Error("a base out of nothing", got)
	}
	state(1, 1, "active", "1,2,3")
	update(Writing, strings.Replace(clean, `["1","2"],"primary":"2"`, `["1","3"],"primary":"3"`, 1))
	c.pools(`{"2":` + pool(1) + `}`)
	update(Writing, `{"items":{}}`)
	state(2, 1, "active", "1,2")
	c.pools(`{"2":` + pool(2) + `}`)
	update(Nothing, `{"items":{}}`) // not the wanted number
	c.apply(c.decision("h3", map[meta.PoolID]string{2: "1,2 1,2"}))
	c.pools(`{"2":` + pool(1) + `}`)
	update(Nothing, `{"items":{}}`) // paused
}

func TestPreviousAfterResize(t *testing.T) {
	config, clean := &schema.PGConfig{}, &schema.PGConfig{}
	config.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{1}}, {Num: 2, OSDSet: []meta.OSDNum{2}}})
	clean.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{3}}})
	if got := Previous(config, clean, 1); fmt.Sprint(got) != "[[1] [2]]" {
		t.Error(got)
	}
	if got := Previous(&schema.PGConfig{}, clean, 1); fmt.Sprint(got) != "[[3]]" {
		t.Error(got)
	}
}

func TestNeedsPlacing(t *testing.T) {
	config := &schema.PGConfig{}
	config.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{1, 2}}, {Num: 2, OSDSet: []meta.OSDNum{2, 0}}})
	for _, tc := range []struct {
		pool  schema.Pool
		known string
		want  bool
	}{
		{schema.Pool{ID: 1, PGCount: 2, PGSize: 2}, "f", false},
		{schema.Pool{ID: 1, PGCount: 2, PGSize: 2}, "g", true},
		{schema.Pool{ID: 1, PGCount: 2, PGSize: 2}, "", true},
		{schema.Pool{ID: 1, PGCount: 3, PGSize: 2}, "f", true},
		{schema.Pool{ID: 1, PGCount: 2, PGSize: 3}, "f", true},
		{schema.Pool{ID: 2, PGCount: 2, PGSize: 2}, "f", true},
	} {
		if got := NeedsPlacing(&tc.pool, config, tc.known, "f"); got != tc.want {
			t.Errorf("%+v %s: %t", tc.pool, tc.known, got)
		}
	}
}
