package daemon_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/mon/daemon"
)

// ready is a rig with one pool that runs, and OSDs on hosts of two.
func ready(t *testing.T, mons, osds int, pools ...string) *rig {
	r := newRig(t, 7, mons)
	r.startMons()
	r.addOSDs(osds, 2)
	for i, p := range pools {
		r.pool(i+1, p)
	}
	r.until("all is well", 20*time.Second, func() bool { return r.up() == osds && r.good() })
	r.RunFor(3 * time.Second)
	return r
}

// unchanged fails when the items of pg/config change within d.
func (r *rig) unchanged(what string, d time.Duration) {
	r.Helper()
	before := string(r.config().EncodeItems())
	r.RunFor(d)
	if after := string(r.config().EncodeItems()); after != before {
		r.Errorf("%s moves PGs:\n%s\n%s", what, before, after)
	}
	r.check()
}

// What a pool's distribution does not depend on does not touch it, but changes
// the hash, like in the reference.
func TestUnrelatedChanges(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 16))
	r.pool(2, `{"name":"tagged","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":8,"osd_tags":"hdd"}`)
	r.RunFor(3 * time.Second)
	hash := r.config().Hash
	for _, step := range []struct{ what, key, value string }{
		{"a tag", keys.OSDConfig(3), `{"tags":["x"]}`},
		{"a rename", keys.Pools(), strings.Replace(string(r.get(keys.Pools())), `"tagged"`, `"other"`, 1)},
		{"a level", keys.Global(), `{"placement_levels":{"rack":50}}`},
		{"a node", keys.NodePlacement(), `{"rack1":{"level":"rack"}}`},
	} {
		r.put(step.key, step.value)
		r.unchanged(step.what, 3*time.Second)
		if now := r.config().Hash; now == hash {
			t.Errorf("%s does not change the hash", step.what)
		} else {
			hash = now
		}
	}
	before := r.config()
	for n := meta.OSDNum(1); n <= 6; n += 2 {
		r.put(keys.OSDConfig(n), `{"tags":["hdd"]}`)
	}
	r.RunFor(3 * time.Second)
	after := r.config()
	if !slices.EqualFunc(before.Pool(1).PGs, after.Pool(1).PGs, sameTarget) {
		t.Error("tags move a pool that has none")
	}
	if !r.placed(2, 8, 2) {
		t.Errorf("the pool with tags is not placed: %s", r.get(keys.PGConfig()))
	}
}

func sameTarget(a, b schema.PGTarget) bool { return slices.Equal(a.OSDSet, b.OSDSet) }

// uses tells whether an OSD is in some set.
func (r *rig) uses(n meta.OSDNum) bool {
	for _, p := range r.config().Pools {
		for i := range p.PGs {
			if slices.Contains(p.PGs[i].OSDSet, n) {
				return true
			}
		}
	}
	return false
}

// An OSD is out exactly osd_out_time after its last report, unless noout.
func TestOutTime(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 16))
	r.put(keys.Global(), `{"osd_out_time":30}`)
	r.put(keys.OSDConfig(2), `{"noout":true}`)
	r.RunFor(2 * time.Second)
	o := r.osds[1]
	r.osds[2].node.Crash()
	o.node.Crash()
	stats, err := schema.DecodeOSDStats(keys.OSDStats(1), r.get(keys.OSDStats(1)))
	if err != nil {
		t.Fatal(err)
	}
	wall := int64(0)
	r.mons[0].node.Do(func(e *env.Env) { wall = e.Clock.WallNanos() })
	out := time.Duration(int64(stats.TimeMillis)*1e6 + 30e9 - wall)
	r.RunFor(out - time.Millisecond)
	if !r.uses(1) {
		t.Fatal("out too early")
	}
	r.until("OSD 1 is out", 50*time.Millisecond, func() bool { return !r.uses(1) })
	r.RunFor(60 * time.Second)
	if !r.uses(2) {
		t.Error("noout was ignored")
	}
	before := r.config()
	o.node.Restart()
	r.until("OSD 1 is in again", 10*time.Second, func() bool { return r.uses(1) && r.primaries()[1] })
	clean, _ := schema.DecodePGConfig(keys.LastCleanPGs(), r.get(keys.LastCleanPGs()))
	if !slices.EqualFunc(clean.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget) && clean.Pool(1) != nil &&
		slices.EqualFunc(clean.Pool(1).PGs, before.Pool(1).PGs, sameTarget) {
		t.Log("the PGs were clean without it")
	}
}

// Changes of pg_count pause PGs, wait for all of them, and can be taken back.
func TestPGCount(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 8), replicated(2, 4))
	hash := r.config().Hash
	stuck := r.osds[r.config().Pool(1).PGs[0].Primary]
	stuck.stuck = true
	r.pool(1, replicated(2, 16))
	paused := func() bool { return r.config().Pool(1).PGs[7].Pause }
	r.until("PGs are paused", 3*time.Second, paused)
	if r.config().Hash != hash {
		t.Error("the hash has changed with the pause")
	}
	r.RunFor(5 * time.Second)
	if r.config().Pool(1).Count() != 8 {
		t.Fatal("the number of PGs has changed while one runs")
	}
	// Meanwhile failures are reacted to.
	num := r.config().Pool(2).PGs[0].Primary
	if num == stuck.num {
		num = r.config().Pool(2).PGs[1].Primary
	}
	r.osds[num].node.Crash()
	r.revoke(r.osds[num].lease)
	r.until("pool 2 has other primaries", 50*time.Millisecond, func() bool {
		return !slices.ContainsFunc(r.config().Pool(2).PGs, func(p schema.PGTarget) bool { return p.Primary == num })
	})
	r.osds[num].node.Restart()
	r.pool(1, replicated(2, 8))
	r.until("the pause has ended", 3*time.Second, func() bool { return !paused() && r.config().Pool(1).Count() == 8 })
	r.pool(1, replicated(2, 16))
	r.until("PGs are paused again", 3*time.Second, paused)
	stuck.stuck = false
	stuck.node.Do(func(*env.Env) { stuck.reconcile() })
	r.until("pool 1 has 16 PGs", 5*time.Second, func() bool { return r.placed(1, 16, 2) && r.active(1) })
	r.pool(1, replicated(2, 8))
	r.until("PGs are paused once more", 3*time.Second, paused)
	r.until("8 PGs", 45*time.Millisecond, func() bool { return r.placed(1, 8, 2) }) // nobody polls
	r.pool(1, replicated(3, 4))
	r.until("pool 1 has 4 wider PGs", 5*time.Second, func() bool { return r.placed(1, 4, 3) && r.active(1) })
}

func TestDeletePool(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 4), replicated(2, 4))
	r.put(keys.PGHistory(meta.PG{Pool: 2, Num: 1}), `{"epoch":5}`)
	r.pool(2, "")
	r.until("pool 2 is gone", 5*time.Second, func() bool { return r.config().Pool(2) == nil })
	r.RunFor(2 * time.Second)
	for _, key := range []string{keys.PGHistory(meta.PG{Pool: 2, Num: 1}), keys.PoolStats(2), keys.PGState(meta.PG{Pool: 2, Num: 1})} {
		if v := r.get(key); v != nil {
			t.Errorf("%s is still there: %s", key, v)
		}
	}
	// All pools at once are deleted only by an order that can be read.
	r.del(keys.Pools())
	r.RunFor(5 * time.Second)
	if r.config().Pool(1) == nil || r.config().Pool(1).PGs[0].Pause {
		t.Error("pool 1 was deleted or paused because config/pools is missing")
	}
	r.put(keys.Pools(), "{}")
	r.until("pool 1 is gone", 5*time.Second, func() bool { return len(r.config().Pools) == 0 })
}

// Values that cannot be read are neither used nor overwritten.
func TestBadValues(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 4), replicated(2, 4))
	for _, key := range []string{keys.Pools(), keys.NodePlacement(), keys.OSDConfig(1), keys.Global(), keys.OSDStats(2),
		keys.PGHistory(meta.PG{Pool: 1, Num: 2}), keys.LastCleanPGs(), keys.PoolStats(1), keys.PGConfig()} {
		for _, bad := range []string{"{nonsense", "17", `"x"`, "[]"} {
			r.bad(key, bad)
		}
	}
}

// bad puts a bad value, restarts the monitor, makes a change that needs all
// PGs of pool 2 placed anew, and corrects the value.
func (r *rig) bad(key, value string) {
	good := r.get(key)
	before := r.config()
	if key == keys.OSDStats(2) {
		r.osds[2].node.Pause() // it would correct it
		defer r.osds[2].node.Resume()
	}
	r.put(key, value)
	r.mons[0].node.Crash()
	r.mons[0].node.Restart()
	r.until("there is a master again", 20*time.Second, func() bool { n, _ := r.masters(); return n == 1 })
	r.put(keys.OSDConfig(5), `{"reweight":0.2}`)
	r.RunFor(3 * time.Second)
	stats, rewritten := keys.PoolStats(1), string(r.get(key)) != value
	if key != stats && rewritten {
		r.Errorf("%s was overwritten: %s", key, r.get(key))
	}
	if key == stats && !rewritten {
		r.Errorf("%s was not made anew", key)
	}
	if key != keys.PGConfig() {
		same := slices.EqualFunc(before.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget)
		harmless := key == stats || key == keys.LastCleanPGs()
		if !same && !harmless {
			r.Errorf("%s = %s: pool 1 was placed", key, value)
		}
	}
	switch {
	case good == nil:
		r.del(key)
	case key != stats:
		r.put(key, string(good))
	}
	r.put(keys.OSDConfig(5), `{}`)
	if key == keys.OSDStats(2) {
		r.osds[2].node.Resume()
	}
	r.until("all is well after "+key+" = "+value, 20*time.Second, func() bool { return r.good() })
	r.RunFor(2 * time.Second)
}

// A pool that is not valid any more keeps its PGs; others go on, and its
// primaries, too.
func TestInvalidPool(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 8), replicated(2, 8))
	before := r.config()
	r.pool(1, `{"name":"p8","scheme":"replicated","pg_size":2,"pg_minsize":3,"pg_count":16}`)
	r.pool(3, `{"name":"new","scheme":"nothing"}`)
	r.pool(2, replicated(2, 12))
	r.until("pool 2 has 12 PGs", 5*time.Second, func() bool { return r.placed(2, 12, 2) })
	if !slices.EqualFunc(before.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget) {
		t.Error("the invalid pool was placed")
	}
	num := r.config().Pool(1).PGs[0].Primary
	r.osds[num].node.Crash()
	r.revoke(r.osds[num].lease)
	r.until("new primaries", 50*time.Millisecond, func() bool { return !r.primaries()[num] })
	if n := strings.Count(r.log.String(), "pools that are not valid"); n == 0 || n > 5 {
		t.Errorf("the reason was logged %d times", n)
	}
}

// Several monitors: one works, the next one takes over.
func TestMonitors(t *testing.T) {
	r := ready(t, 3, 4, replicated(2, 8))
	n, first := r.masters()
	if n != 1 {
		t.Fatalf("%d masters", n)
	}
	begin := r.Now()
	first.node.Crash()
	r.until("another master", 4500*time.Millisecond, func() bool { n, _ := r.masters(); return n == 1 })
	t.Logf("after a crash: %v", r.Now()-begin)
	r.unchanged("a new master", 5*time.Second)

	_, second := r.masters()
	begin = r.Now()
	second.node.Do(func(*env.Env) { second.monitor.Shutdown(nil) })
	if second.monitor.Role() != daemon.Stopped {
		t.Error("still", second.monitor.Role())
	}
	r.until("the third master", time.Second, func() bool { n, m := r.masters(); return n == 1 && m != second })
	t.Logf("after a shutdown: %v", r.Now()-begin)

	_, third := r.masters()
	first.node.Restart()
	r.RunFor(time.Second)
	r.kv.Cut(third.node, true, true)
	third.node.Do(func(*env.Env) {
		if third.monitor.Snapshot() == nil {
			t.Error("no metrics on the master")
		}
	})
	r.until("the first again", 12*time.Second, func() bool { return first.monitor.Role() == daemon.Master })
	third.node.Do(func(*env.Env) {
		if third.monitor.Snapshot() != nil {
			t.Error("metrics on a master that has lost etcd")
		}
	})
	r.kv.Cut(third.node, false, false)
	r.until("one master", 10*time.Second, func() bool { n, m := r.masters(); return n == 1 && m == first })
	r.del(keys.MonMaster())
	r.until("a master after its key was deleted", 10*time.Second, func() bool { n, _ := r.masters(); return n == 1 && r.get(keys.MonMaster()) != nil })
	r.unchanged("all this", 5*time.Second)
}

// After an outage of etcd, or a compaction while the watch was broken, the same
// master goes on.
func TestEtcdOutage(t *testing.T) {
	r := ready(t, 2, 4, replicated(2, 8))
	_, first := r.masters()
	master := string(r.get(keys.MonMaster()))
	r.kv.SetDown(true)
	r.RunFor(30 * time.Second)
	r.kv.SetDown(false)
	r.until("all is well", 20*time.Second, r.good)
	if err := r.kv.Compact(r.kv.Store().Revision()); err != nil {
		t.Fatal(err)
	}
	r.kv.Cut(first.node, false, true)
	r.RunFor(3 * time.Second)
	r.pool(1, replicated(2, 12))
	if err := r.kv.Compact(r.kv.Store().Revision()); err != nil {
		t.Fatal(err)
	}
	r.kv.Cut(first.node, false, false)
	r.until("12 PGs", 20*time.Second, func() bool { return r.placed(1, 12, 2) && r.good() })
	if now := string(r.get(keys.MonMaster())); now != master {
		t.Errorf("the master has changed from %s to %s", master, now)
	}
}

// Missing pool/stats are made; nothing moves because of them.
func TestPoolStats(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 8))
	r.del(keys.PoolStats(1))
	r.unchanged("missing statistics", 3*time.Second)
	r.put(keys.PoolStats(1), `{"used_raw_tb":5}`)
	r.unchanged("statistics that are not complete", 3*time.Second)
	stats, err := schema.DecodePoolStats(keys.PoolStats(1), r.get(keys.PoolStats(1)))
	if err != nil || !stats.Complete() {
		t.Errorf("%+v %v", stats, err)
	}
}

// The pre-1.8 key is taken over, and kept up to date while it exists.
func TestLegacyConfig(t *testing.T) {
	r := newRig(t, 3, 1)
	r.addOSDs(4, 1)
	r.RunFor(time.Second)
	hash := `{"1":{"name":"p2","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":2}}`
	r.put(keys.Pools(), hash)
	r.put(keys.LegacyPGConfig(), `{"items":{"1":{"1":{"osd_set":["1","2"],"primary":"1"},"2":{"osd_set":["3","4"],"primary":"3"}}},"hash":"x"}`)
	r.startMons()
	r.until("pg/config is made", 3*time.Second, func() bool { return r.placed(1, 2, 2) })
	if got := r.config().Pool(1).PGs; !slices.Equal(got[0].OSDSet, []meta.OSDNum{1, 2}) {
		t.Errorf("PGs moved: %v", got)
	}
	r.pool(1, replicated(2, 4))
	r.until("4 PGs", 5*time.Second, func() bool { return r.placed(1, 4, 2) })
	if string(r.get(keys.LegacyPGConfig())) != string(r.get(keys.PGConfig())) {
		t.Error("config/pgs differs from pg/config")
	}
}

func TestBackfillfull(t *testing.T) {
	r := ready(t, 1, 2, `{"name":"p","scheme":"replicated","pg_size":1,"pg_minsize":1,"pg_count":2}`)
	r.put(keys.PGStats(meta.PG{Pool: 1, Num: 1}), fmt.Sprintf(`{"object_count":%d}`, 1<<40/131072))
	r.until("pool 1 is full", 3*time.Second, func() bool { return slices.Equal(r.config().Backfillfull, []meta.PoolID{1}) })
	r.put(keys.PGStats(meta.PG{Pool: 1, Num: 1}), `{"object_count":1}`)
	r.until("pool 1 is not full", 3*time.Second, func() bool { return len(r.config().Backfillfull) == 0 })
	// An unreadable number counts like the last one.
	r.put(keys.PGStats(meta.PG{Pool: 1, Num: 1}), `{"object_count":"x"}`)
	r.RunFor(3 * time.Second)
	r.del(keys.PGStats(meta.PG{Pool: 1, Num: 1}))
	r.unchanged("statistics", time.Second)
}

// last_clean_pgs has what pg/config had when all PGs were clean.
func TestLastClean(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 8))
	same := func() bool {
		clean, err := schema.DecodePGConfig(keys.LastCleanPGs(), r.get(keys.LastCleanPGs()))
		return err == nil && slices.EqualFunc(clean.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget) && len(clean.Pool(1).PGs) == 8
	}
	r.until("last_clean_pgs", 3*time.Second, same)
	noted := string(r.get(keys.LastCleanPGs()))
	r.put(keys.Global(), `{"osd_out_time":20}`)
	for _, n := range []meta.OSDNum{1, 3} { // an OSD of two of the hosts: some PGs are degraded until it is out
		r.osds[n].node.Crash()
		r.revoke(r.osds[n].lease)
	}
	r.RunFor(10 * time.Second)
	if now := string(r.get(keys.LastCleanPGs())); now != noted {
		t.Errorf("noted while degraded:\n%s\n%s", noted, now)
	}
	for _, n := range []meta.OSDNum{1, 3} {
		r.osds[n].node.Restart()
	}
	r.until("all is well", 20*time.Second, r.good)
	r.until("the same again", 5*time.Second, same)
}

// A large distribution is computed in steps: failures do not wait for it.
func TestFailoverWhilePlacing(t *testing.T) {
	r := newRig(t, 5, 1)
	m := r.mons[0]
	m.options = map[string]string{"mon_change_timeout": "100"}
	now := uint64(0)
	m.node.Do(func(e *env.Env) { now = uint64(e.Clock.WallNanos() / 1e6) })
	const osds = 1000
	for n := meta.OSDNum(1); n <= osds; n++ {
		stats := schema.OSDStats{TimeMillis: now, SizeBytes: 8 << 40, FreeBytes: 8 << 40, BlockBytes: 131072,
			GranularityBytes: 4096, ImmediateCommit: "all", Host: fmt.Sprint("h", (n-1)/20)}
		r.put(keys.OSDStats(n), string(stats.Encode()))
		r.put(keys.OSDState(n), `{"state":"up"}`)
	}
	r.put(keys.Pools(), `{"1":{"name":"a","scheme":"replicated","pg_size":3,"pg_minsize":1,"pg_count":2048,"failure_domain":"osd"}}`)
	r.startMons()
	r.until("the pool is placed", 60*time.Second, func() bool { return r.config().Pool(1).Count() == 2048 })
	r.RunFor(time.Second)
	m.node.SetLoopCost(4 * time.Millisecond) // more than what a step costs really (BenchmarkLarge)
	r.put(keys.OSDConfig(7), `{"reweight":0}`)
	r.pool(2, `{"name":"b","scheme":"replicated","pg_size":3,"pg_minsize":1,"pg_count":8192,"failure_domain":"osd"}`)
	placing := false
	r.until("PGs are being placed", 10*time.Second, func() bool { return m.monitor.Recheck().Placing() })
	worst := time.Duration(0)
	lost := map[meta.OSDNum]bool{}
	for n := meta.OSDNum(20); r.config().Pool(2).Count() == 0; n += 10 {
		lost[n] = true
		r.del(keys.OSDState(n))
		at := r.Now()
		r.until("new primaries", time.Second, func() bool { return !r.primaries()[n] })
		worst = max(worst, r.Now()-at)
		placing = placing || m.monitor.Recheck() != nil && m.monitor.Recheck().Placing()
		r.RunFor(20 * time.Millisecond)
	}
	t.Logf("%d OSDs lost while placing, new primaries after at most %v", len(lost), worst)
	if !placing || len(lost) < 5 || worst > 50*time.Millisecond {
		t.Errorf("placing %v, %d OSDs, %v", placing, len(lost), worst)
	}
	if p := r.primaries(); slices.ContainsFunc(slices.Collect(maps.Keys(lost)), func(n meta.OSDNum) bool { return p[n] }) {
		t.Error("a lost OSD is primary after the placement")
	}
}
