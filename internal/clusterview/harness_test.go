package clusterview_test

import (
	"fmt"
	"maps"
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

// keys are those of the tests' cluster.
var keys = schema.NewKeys("/c")

// fast are time limits for tests with real servers.
var fast = clusterview.Timing{Load: time.Second, KeepAlive: 500 * time.Millisecond, Reload: 50 * time.Millisecond}

// rig is a View under test with what it has reported.
type rig struct {
	*testing.T
	loop   *kvtest.Loop
	server kvtest.Server
	view   *clusterview.View
	shadow map[string]string // state by what Changed has named
	log    []string          // calls of Changed
	fatal  error
	marker uint64
}

func newRig(t *testing.T, l *kvtest.Loop, s kvtest.Server) *rig {
	r := &rig{T: t, loop: l, server: s, shadow: map[string]string{}}
	r.start(clusterview.Config{KV: s.KV(t), Timing: fast})
	return r
}

// modelRig is a rig on the model.
func modelRig(t *testing.T) (*rig, *kvtest.Model) {
	l := kvtest.NewLoop(t, true)
	m := kvtest.NewModel(l)
	r := newRig(t, l, m)
	r.until("the first load", r.view.Loaded)
	return r, m
}

// start replaces the view by a new one.
func (r *rig) start(c clusterview.Config) {
	c.Clock, c.Keys, c.NodePlacement = r.loop, keys, true
	c.Changed = r.changed
	c.Fatal = func(err error) { r.fatal = err }
	r.view = clusterview.New(c)
	r.Cleanup(r.view.Stop)
	r.view.Start()
}

func (r *rig) until(what string, cond func() bool) {
	r.Helper()
	r.loop.Until(r, what, func() bool { return cond() || r.fatal != nil })
	if r.fatal != nil {
		r.Fatal(r.fatal)
	}
}

func (r *rig) changed(c *clusterview.Changes) {
	if !r.view.Loaded() {
		r.Error("a change before the view is loaded")
	}
	update(r.view, c, r.shadow)
	shown := *c
	shown.Revision = 0
	shown.Inodes = without(c.Inodes, markerInode)
	shown.OSDs = without(c.OSDs, markerOSD)
	shown.PGHistories = without(c.PGHistories, markerPG)
	if text := fmt.Sprintf("%+v", shown); text != "{"+nothing {
		r.log = append(r.log, strings.Replace(text, "Revision:0 ", "", 1))
	}
}

const nothing = "Reloaded:false Revision:0 Global:false Placement:false Pools:[] PGConfigs:[] " +
	"PGStates:[] PGHistories:[] OSDs:[] Inodes:[]}"

func without[T comparable](list []T, x T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(y T) bool { return x == y })
}

// put stores values and waits until the view has caught up.
func (r *rig) put(pairs ...string) {
	r.Helper()
	var ops []env.KVOp
	for i := 0; i < len(pairs); i += 2 {
		op := kvtest.Put(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			op.Kind = env.KVDelete
		}
		ops = append(ops, op)
	}
	r.server.Apply(r, ops...)
	r.settle()
}

// Things in each of the watched ranges that nothing else uses. They show how far
// a view has come, and are not in the log.
const markerOSD = 999

var (
	markerInode = meta.MakeInode(9, 9)
	markerPG    = meta.PG{Pool: 9, Num: 9}
)

func markers(n uint64) []env.KVOp {
	inode := schema.InodeConfig{ID: markerInode, Name: fmt.Sprint("marker", n)}
	osd := schema.OSDState{State: "up", Addresses: []string{"a"}, Port: 1, Version: fmt.Sprint(n)}
	return []env.KVOp{
		kvtest.Put(keys.InodeConfig(markerInode), string(inode.Encode())),
		kvtest.Put(keys.OSDState(markerOSD), string(osd.Encode())),
		kvtest.Put(keys.PGHistory(markerPG), fmt.Sprintf(`{"epoch":%d}`, n)),
	}
}

// settle waits until the view has seen everything.
func (r *rig) settle() {
	r.Helper()
	r.marker++
	r.server.Apply(r, markers(r.marker)...)
	r.until("the markers", func() bool {
		inode, osd := r.view.Inode(markerInode), r.view.OSD(markerOSD)
		h, _ := r.view.PGHistory(markerPG)
		return inode != nil && inode.Name == fmt.Sprint("marker", r.marker) && osd != nil &&
			osd.Version == fmt.Sprint(r.marker) && h.Epoch == r.marker
	})
}

// compare checks the view against what was reported, and against a fresh one.
func (r *rig) compare() {
	r.Helper()
	r.settle()
	got := describe(r.view)
	diff(r.T, "the view and what it has reported", got, r.shadow)
	fresh := &rig{T: r.T, loop: r.loop, server: r.server, shadow: map[string]string{}}
	fresh.start(clusterview.Config{KV: r.server.KV(r), Timing: fast})
	fresh.until("a fresh view", fresh.view.Loaded)
	defer fresh.view.Stop()
	diff(r.T, "the view and a fresh one", got, describe(fresh.view))
}

func diff(t *testing.T, what string, a, b map[string]string) {
	t.Helper()
	both := maps.Clone(a)
	maps.Copy(both, b)
	for _, k := range slices.Sorted(maps.Keys(both)) {
		if a[k] != b[k] {
			t.Errorf("%s differ in %s:\n%s\n%s", what, k, a[k], b[k])
		}
	}
}

// describe renders everything that a view knows.
func describe(v *clusterview.View) map[string]string {
	all := &clusterview.Changes{Global: true, Placement: true, Pools: v.Pools(), PGStates: v.PGs(),
		OSDs: v.OSDs(), Inodes: v.Inodes()}
	for _, p := range v.PGConfig().Pools {
		all.PGConfigs = append(all.PGConfigs, p.Pool)
	}
	for pool := range meta.PoolID(10) {
		all.Pools = append(all.Pools, pool) // invalid ones
		for num := range meta.PGNum(10) {
			all.PGHistories = append(all.PGHistories, meta.PG{Pool: pool, Num: num})
		}
	}
	m := map[string]string{}
	update(v, all, m)
	return m
}

// update renders the parts of a view that have changed.
func update(v *clusterview.View, c *clusterview.Changes, m map[string]string) {
	set := func(key string, exists bool, value any) {
		if delete(m, key); exists {
			m[key] = fmt.Sprintf("%+v", value)
		}
	}
	if c.Global {
		set("global", v.Global().Len() > 0, string(v.Global().Encode()))
	}
	if c.Placement {
		set("placement", len(v.NodePlacement()) > 0, v.NodePlacement())
	}
	for _, id := range c.Pools {
		p := v.Pool(id)
		if set(fmt.Sprint("pool ", id), p != nil, nil); p != nil {
			config := string(p.Config.Encode())
			flat := *p
			flat.Config = schema.Object{}
			m[fmt.Sprint("pool ", id)] = fmt.Sprintf("%s %+v", config, flat)
		}
		set(fmt.Sprint("pool error ", id), v.PoolError(id) != nil, v.PoolError(id))
	}
	for _, id := range c.PGConfigs {
		p := v.PGConfig().Pool(id)
		if set(fmt.Sprint("pgs ", id), p != nil, nil); p != nil {
			m[fmt.Sprint("pgs ", id)] = fmt.Sprintf("%d %+v %v", p.Count(), p.PGs,
				slices.Contains(v.PGConfig().Backfillfull, id))
		}
	}
	for _, pg := range c.PGStates {
		set("state "+pg.String(), v.PGState(pg).State != 0, v.PGState(pg))
	}
	for _, pg := range c.PGHistories {
		h, err := v.PGHistory(pg)
		set("history "+pg.String(), h.Epoch != 0 || len(h.AllPeers) > 0, h)
		set("history error "+pg.String(), err != nil, err)
	}
	for _, n := range c.OSDs {
		if set(fmt.Sprint("osd ", n), v.OSD(n) != nil, nil); v.OSD(n) != nil {
			m[fmt.Sprint("osd ", n)] = fmt.Sprintf("%+v", *v.OSD(n))
		}
	}
	updateInodes(v, c.Inodes, set)
}

func updateInodes(v *clusterview.View, ids []meta.Inode, set func(string, bool, any)) {
	for _, id := range ids {
		i := v.Inode(id)
		if i == nil {
			set("inode "+id.String(), false, nil)
			continue
		}
		set("inode "+id.String(), true, *i)
		if v.InodeByName(i.Name) == nil || v.InodeByName(i.Name).Name != i.Name {
			set("inode "+id.String(), true, "is not found by its name "+i.Name)
		}
	}
}
