package clusterview_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/etcd/kvtest"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

const (
	pool1 = `{"name":"one","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2}`
	pool2 = `{"name":"two","scheme":"ec","pg_size":3,"parity_chunks":1,"pg_minsize":2,"pg_count":1,"block_size":4096}`
	osdUp = `{"state":"up","addresses":["10.0.0.5"],"host":"h","port":5000}`
)

func pg(pool meta.PoolID, num meta.PGNum) meta.PG { return meta.PG{Pool: pool, Num: num} }

// TestEverythingOnce loads one of each, changes it and deletes it again.
func TestEverythingOnce(t *testing.T) {
	l := kvtest.NewLoop(t, true)
	m := kvtest.NewModel(l)
	image := meta.MakeInode(1, 7)
	m.Apply(t, kvtest.Put(keys.Global(), `{"block_size":"8192","x":1}`),
		kvtest.Put(keys.Pools(), `{"1":`+pool1+`,"2":`+pool2+`}`),
		kvtest.Put(keys.NodePlacement(), `{"rack1":{"level":"rack"}}`),
		kvtest.Put(keys.PGConfig(), `{"items":{"1":{"1":{"osd_set":["3","5"],"primary":"3"},"2":{"osd_set":["5",0],"primary":"5"}}},"hash":"h"}`),
		kvtest.Put(keys.PGState(pg(1, 1)), `{"primary":3,"state":["active"],"peers":[3,5]}`),
		kvtest.Put(keys.PGHistory(pg(1, 2)), `{"all_peers":[3,5],"epoch":4}`),
		kvtest.Put(keys.OSDState(3), osdUp),
		kvtest.Put(keys.OSDStats(3), `{"size":1}`), // not of the view
		kvtest.Put(keys.InodeConfig(image), `{"name":"vm1","size":4096}`))
	r := newRig(t, l, m)
	r.until("the first load", r.view.Loaded)
	v := r.view
	if want := "{Reloaded:true Global:true Placement:true Pools:[1 2] PGConfigs:[1] PGStates:[1/1] PGHistories:[1/2] OSDs:[3] Inodes:[1/7]}"; len(r.log) != 1 || r.log[0] != want {
		t.Errorf("first load: %q", r.log)
	}
	if p := v.Pool(1); p.BlockBytes != 8192 || p.PGSize != 2 || v.Pool(2).BlockBytes != 4096 || v.Pool(3) != nil {
		t.Errorf("pools: %+v", p)
	}
	target := v.PGConfig().Pool(1).PG(2)
	if v.PGConfig().Pool(1).Count() != 2 || target.Primary != 5 || !slices.Equal(target.OSDSet, []meta.OSDNum{5, 0}) {
		t.Errorf("target: %+v", target)
	}
	h, err := v.PGHistory(pg(1, 2))
	if s := v.PGState(pg(1, 1)); s.Primary != 3 || s.State != meta.PGActive || err != nil || h.Epoch != 4 {
		t.Errorf("PGs: %+v, %+v, %v", s, h, err)
	}
	if o := v.OSD(3); o == nil || o.Port != 5000 || v.OSD(4) != nil {
		t.Errorf("OSD: %+v", o)
	}
	if i := v.InodeByName("vm1"); i == nil || i.ID != image || i.Rev != 2 || v.Inode(image) != i {
		t.Errorf("inode: %+v", i)
	}
	if len(v.NodePlacement()) != 1 || v.PGRevision() != 2 {
		t.Errorf("placement %+v, PG revision %d", v.NodePlacement(), v.PGRevision())
	}
	for _, c := range []struct{ key, value, want string }{
		{keys.Global(), `{"block_size":4096}`, "Global:true"},
		{keys.NodePlacement(), `{}`, "Placement:true"},
		{keys.Pools(), `{"1":` + pool1 + `,"3":` + pool2 + `}`, "Pools:[2 3]"},
		{keys.PGConfig(), `{"items":{"1":{"1":{"osd_set":["3","5"],"primary":"5"},"2":{"osd_set":["5",0],"primary":"5"}}},"backfillfull_pools":["2"]}`, "PGConfigs:[1 2]"},
		{keys.PGState(pg(1, 1)), `{"primary":5,"state":["peering"],"peers":[]}`, "PGStates:[1/1]"},
		{keys.PGState(pg(1, 1)), ``, "PGStates:[1/1]"},
		{keys.PGHistory(pg(1, 2)), ``, "PGHistories:[1/2]"},
		{keys.OSDState(3), osdUp, "OSDs:[3]"}, // even if nothing differs
		{keys.OSDState(3), ``, "OSDs:[3]"},
		{keys.InodeConfig(image), `{"name":"vm2","size":4096}`, "Inodes:[1/7]"},
		{keys.InodeConfig(image), `null`, "Inodes:[1/7]"},
		{keys.Pools(), ``, "Pools:[1 3]"},
		{keys.PGConfig(), ``, "PGConfigs:[1 2]"},
		{keys.OSDConfig(3), `{"reweight":0.5}`, ""}, // watched, but not of the view
		{keys.Prefix() + "/config/whatever", `{}`, ""},
	} {
		r.log = nil
		r.put(c.key, c.value)
		only(t, r.log, c.want)
	}
	if v.InodeByName("vm1") != nil || v.InodeByName("vm2") != nil || len(v.OSDs()) != 1 || v.Pool(1) != nil ||
		len(v.PGConfig().Pools) != 0 || v.PGState(pg(1, 1)).State != 0 {
		t.Error("something is left")
	}
}

// only checks that one call of Changed was made, about exactly one thing.
func only(t *testing.T, log []string, want string) {
	t.Helper()
	if want == "" && len(log) == 0 {
		return
	}
	rest := ""
	if len(log) == 1 {
		rest = strings.Replace(log[0], want, "", 1)
	}
	if want == "" || rest == log[0] || strings.ContainsAny(strings.ReplaceAll(rest, "[]", ""), "[") ||
		strings.Contains(rest, "true") {
		t.Errorf("reported %q, want %q", log, want)
	}
}

// TestOneCallPerMessage: several keys, and several changes of one key.
func TestOneCallPerMessage(t *testing.T) {
	r, m := modelRig(t)
	r.log = nil
	m.Network(t, kvtest.Hang)
	m.Apply(t, kvtest.Put(keys.PGState(pg(2, 10)), `{"primary":1,"state":["starting"]}`))
	m.Apply(t, kvtest.Put(keys.PGState(pg(2, 10)), `{"primary":1,"state":["active"]}`),
		kvtest.Put(keys.PGState(pg(2, 9)), `{"primary":1,"state":["peering"]}`))
	m.Apply(t, kvtest.Put(keys.PGState(pg(1, 1)), `{"primary":1,"state":["peering"]}`))
	m.Apply(t, env.KVOp{Kind: env.KVDelete, Key: keys.PGState(pg(1, 1))}) // nobody needs to know
	m.Network(t, kvtest.Open)
	r.loop.Sleep(time.Millisecond)
	only(t, r.log, "PGStates:[2/9 2/10]")
	if s := r.view.PGState(pg(2, 10)); s.State != meta.PGActive {
		t.Errorf("state %+v", s)
	}
}

// TestLegacyPGConfig: config/pgs counts only without pg/config.
func TestLegacyPGConfig(t *testing.T) {
	r, _ := modelRig(t)
	primary := func() (p meta.OSDNum) {
		if g := r.view.PGConfig().Pool(1).PG(1); g != nil {
			p = g.Primary
		}
		return p
	}
	text := `{"items":{"1":{"1":{"osd_set":["7"],"primary":"7"}}}}`
	for i, step := range []struct {
		key, value string
		want       meta.OSDNum
		report     string
	}{
		{keys.LegacyPGConfig(), text, 7, "PGConfigs:[1]"},
		{keys.PGConfig(), strings.ReplaceAll(text, "7", "8"), 8, "PGConfigs:[1]"},
		{keys.LegacyPGConfig(), strings.ReplaceAll(text, "7", "6"), 8, ""},
		{keys.PGConfig(), "", 6, "PGConfigs:[1]"},
		{keys.LegacyPGConfig(), "", 0, "PGConfigs:[1]"},
	} {
		r.log = nil
		r.put(step.key, step.value)
		if only(t, r.log, step.report); primary() != step.want {
			t.Errorf("step %d: primary %d", i, primary())
		}
	}
}

// TestDefaultsCountAtLoads: a change of config/global does not change pools
// until the next load.
func TestDefaultsCountAtLoads(t *testing.T) {
	r, m := modelRig(t)
	r.put(keys.Pools(), `{"1":`+pool1+`}`)
	r.put(keys.Global(), `{"block_size":1048576}`)
	if p := r.view.Pool(1); p.BlockBytes != schema.DefaultBlockBytes {
		t.Errorf("block size %d before a load", p.BlockBytes)
	}
	r.log = nil
	compactAway(t, m, r)
	if p := r.view.Pool(1); p.BlockBytes != 1048576 || !strings.Contains(strings.Join(r.log, ""), "Reloaded:true") {
		t.Errorf("block size %d after a load, reports %q", p.BlockBytes, r.log)
	}
	if !strings.Contains(strings.Join(r.log, ""), "Pools:[1]") {
		t.Errorf("the pool is not reported: %q", r.log)
	}
}

// compactAway forces a load.
func compactAway(t *testing.T, m *kvtest.Model, r *rig) {
	t.Helper()
	m.Network(t, kvtest.Hang)
	last := m.Apply(t, kvtest.Put("/elsewhere", ""))
	m.Apply(t, kvtest.Put("/elsewhere", ""))
	m.Compact(t, last)
	n := len(r.log)
	m.Network(t, kvtest.Open)
	r.until("a reload", func() bool { return len(r.log) > n && strings.Contains(r.log[len(r.log)-1], "Reloaded:true") })
}

// TestReloadForgets: what was deleted while the view was away is gone, and only
// differences are reported.
func TestReloadForgets(t *testing.T) {
	r, m := modelRig(t)
	r.put(keys.Pools(), `{"1":`+pool1+`}`, keys.OSDState(1), osdUp, keys.OSDState(2), osdUp,
		keys.PGState(pg(1, 1)), `{"primary":1,"state":["active"]}`, keys.PGHistory(pg(1, 1)), `{"epoch":3}`,
		keys.InodeConfig(meta.MakeInode(1, 1)), `{"name":"a","size":1}`)
	m.Network(t, kvtest.Hang)
	m.Apply(t, env.KVOp{Kind: env.KVDelete, Key: keys.OSDState(1)}, kvtest.Put(keys.OSDState(3), osdUp),
		env.KVOp{Kind: env.KVDelete, Key: keys.PGState(pg(1, 1))},
		env.KVOp{Kind: env.KVDelete, Key: keys.PGHistory(pg(1, 1))},
		env.KVOp{Kind: env.KVDelete, Key: keys.InodeConfig(meta.MakeInode(1, 1))})
	r.log = nil
	compactAway(t, m, r)
	want := "{Reloaded:true Global:false Placement:false Pools:[] PGConfigs:[] PGStates:[1/1] PGHistories:[1/1] OSDs:[1 3] Inodes:[1/1]}"
	if len(r.log) != 1 || r.log[0] != want {
		t.Errorf("reload: %q", r.log)
	}
	r.compare()
}

// TestSameNames: of inodes with one name the lowest is found, until it is gone.
func TestSameNames(t *testing.T) {
	r, _ := modelRig(t)
	a, b := meta.MakeInode(1, 5), meta.MakeInode(1, 3)
	r.put(keys.InodeConfig(a), `{"name":"x","size":1}`, keys.InodeConfig(b), `{"name":"x","size":1}`)
	for _, step := range []struct {
		change meta.Inode
		value  string
		want   meta.Inode
	}{{b, `{"name":"y","size":1}`, a}, {b, `{"name":"x","size":1}`, b}, {b, ``, a}} {
		r.put(keys.InodeConfig(step.change), step.value)
		if i := r.view.InodeByName("x"); i == nil || i.ID != step.want {
			t.Errorf("%+v: found %+v", step, i)
		}
	}
}

func TestReadConfig(t *testing.T) {
	l := kvtest.NewLoop(t, true)
	m := kvtest.NewModel(l)
	for _, c := range []struct {
		global, pools string
		valid         int
		wantErr       string
	}{
		{"", "", 0, ""},
		{`{"block_size":4096}`, `{"1":` + pool1 + `,"2":{}}`, 1, ""},
		{`{`, `{}`, 0, keys.Global()},
		{`{}`, `[]`, 0, keys.Pools()},
	} {
		for key, value := range map[string]string{keys.Global(): c.global, keys.Pools(): c.pools} {
			if value != "" {
				m.Apply(t, kvtest.Put(key, value))
			}
		}
		ended := false
		clusterview.ReadConfig(m.KV(t), keys, time.Second, func(g *schema.Object, p *schema.Pools, err error) {
			ended = true
			if (err != nil) != (c.wantErr != "") || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%+v: %v", c, err)
			}
			if len(p.Valid) != c.valid || c.valid == 1 && p.Valid[1].BlockBytes != 4096 {
				t.Errorf("%+v: %+v", c, p.Valid)
			}
		})
		l.Until(t, "the configuration", func() bool { return ended })
	}
	m.Network(t, kvtest.Hang)
	var failed error
	clusterview.ReadConfig(m.KV(t), keys, time.Second, func(_ *schema.Object, _ *schema.Pools, err error) { failed = err })
	l.Until(t, "the end", func() bool { return failed != nil })
	if !errors.Is(failed, env.ErrKVTimeout) {
		t.Error(failed)
	}
}

// TestBadValues stores nonsense in every key of the view: nothing else may
// suffer, and the next good value counts.
func TestBadValues(t *testing.T) {
	image := meta.MakeInode(1, 1)
	good := map[string]string{
		keys.Global(): `{"a":1}`, keys.Pools(): `{"1":` + pool1 + `}`, keys.NodePlacement(): `{"r":{"level":"rack"}}`,
		keys.PGConfig():          `{"items":{"1":{"1":{"osd_set":["3","5"],"primary":"3"}}}}`,
		keys.LegacyPGConfig():    `{"items":{"1":{"1":{"osd_set":["3","5"],"primary":"3"}}}}`,
		keys.PGState(pg(1, 1)):   `{"primary":3,"state":["active"],"peers":[3,5]}`,
		keys.PGHistory(pg(1, 1)): `{"epoch":4}`, keys.OSDState(3): osdUp, keys.InodeConfig(image): `{"name":"i","size":1}`,
	}
	for key, value := range good {
		r, m := modelRig(t)
		for k, v := range good {
			m.Apply(t, kvtest.Put(k, v))
		}
		r.settle()
		before := describe(r.view)
		for _, bad := range []string{"{", "]", "[]", "7", `"x"`, "\xff\xfe", `{"a":}`, "{}}", strings.Repeat("[", 20000), `{"state":7}`,
			`{"1":7}`, `{"items":7}`, `{"items":{"1":{"1":7}}}`, `{"primary":"x"}`, `{"osd_sets":7,"epoch":"x"}`, `{"name":7,"size":"x"}`,
			`{"state":"up","addresses":7,"port":"x"}`} {
			r.put(key, bad)
			after := describe(r.view)
			for k := range before {
				// Only what is stored in this key may differ.
				if after[k] != before[k] && !belongs(k, key) {
					t.Errorf("%s = %.30s: %s changed from %s to %s", key, bad, k, before[k], after[k])
				}
			}
		}
		r.put(key, value)
		compactAway(t, m, r)
		r.compare()
	}
}

// belongs tells whether a line of describe depends on a key.
func belongs(line, key string) bool {
	for prefix, of := range map[string]string{"global": keys.Global(), "placement": keys.NodePlacement(),
		"pool": keys.Pools(), "pgs": keys.PGConfig(), "state 1/1": keys.PGState(pg(1, 1)),
		"history": keys.PGHistory(pg(1, 1)), "osd 3": keys.OSDState(3),
		"inode 1/1": keys.InodeConfig(meta.MakeInode(1, 1))} {
		if strings.HasPrefix(line, prefix) && key == of {
			return true
		}
	}
	return strings.Contains(line, "9/9") || strings.Contains(line, "999") // markers
}

// TestLastGoodValue: what unreadable values do to each kind.
func TestLastGoodValue(t *testing.T) {
	r, _ := modelRig(t)
	image := meta.MakeInode(1, 1)
	r.put(keys.Pools(), `{"1":`+pool1+`}`, keys.PGState(pg(1, 1)), `{"primary":3,"state":["active"]}`,
		keys.PGHistory(pg(1, 1)), `{"epoch":4}`, keys.OSDState(3), osdUp, keys.InodeConfig(image), `{"name":"i","size":1}`,
		keys.PGConfig(), `{"items":{"1":{"1":{"osd_set":["3","5"],"primary":"3"}}}}`)
	r.put(keys.Pools(), `{"1":{"name":"one"},"2":{}}`, keys.PGState(pg(1, 1)), `{"primary":3,"state":["unheard-of"]}`,
		keys.PGHistory(pg(1, 1)), `{"epoch":"x"}`, keys.OSDState(3), `{"state":"up"}`, keys.InodeConfig(image), `{"size":[]}`+"}",
		keys.PGConfig(), `{"items`)
	v := r.view
	if v.Pool(1) == nil || v.Pool(1).PGSize != 2 || v.PoolError(1) == nil || v.Pool(2) != nil || v.PoolError(2) == nil {
		t.Errorf("pools: %+v, %v, %v", v.Pool(1), v.PoolError(1), v.PoolError(2))
	}
	if v.PGState(pg(1, 1)).State != meta.PGActive {
		t.Error("an unknown state was accepted")
	}
	if h, err := v.PGHistory(pg(1, 1)); err == nil || h.Epoch != 4 {
		t.Errorf("history %+v, %v: a PG may start with it", h, err)
	}
	if v.OSD(3) != nil {
		t.Error("an OSD without address is used")
	}
	if v.Inode(image) != nil || v.InodeByName("i") != nil {
		t.Error("an unreadable inode is used")
	}
	if v.PGConfig().Pool(1).Count() != 1 {
		t.Error("the PG configuration is lost")
	}
	r.put(keys.Pools(), `{"2":{}}`)
	if v.Pool(1) != nil || v.PoolError(1) != nil {
		t.Error("a deleted pool is still there")
	}
	r.log = nil
	r.put(keys.Pools(), `{}`)
	only(t, r.log, "Pools:[2]")
}

func FuzzValues(f *testing.F) {
	f.Add(byte(0), `{"block_size":1}`)
	f.Add(byte(1), `{"1":`+pool1+`}`)
	f.Add(byte(3), `{"items":{"1":{"1":{"osd_set":["3",0],"primary":"3"}}}}`)
	f.Add(byte(5), `{"primary":3,"state":["active"],"peers":[3]}`)
	f.Add(byte(6), `{"osd_sets":[["1",0]],"epoch":"4"}`)
	f.Add(byte(7), osdUp)
	f.Add(byte(8), `{"name":"a","parent_id":281474976710657}`)
	targets := []string{keys.Global(), keys.Pools(), keys.NodePlacement(), keys.PGConfig(), keys.LegacyPGConfig(),
		keys.PGState(pg(1, 1)), keys.PGHistory(pg(1, 1)), keys.OSDState(3), keys.InodeConfig(meta.MakeInode(1, 1))}
	f.Fuzz(func(t *testing.T, which byte, value string) {
		r, m := modelRig(t)
		key := targets[int(which)%len(targets)]
		m.Apply(t, kvtest.Put(key, value))
		r.compare() // no good value before: what is loaded and what is watched agree
		m.Apply(t, env.KVOp{Kind: env.KVDelete, Key: key})
		r.compare()
		if n := len(r.view.Pools()) + len(r.view.PGs()) + len(r.view.OSDs()) + len(r.view.Inodes()); n != 2 {
			t.Errorf("%d things are left: %v", n, fmt.Sprint(describe(r.view)))
		}
	})
}
