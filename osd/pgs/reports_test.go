package pgs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

func (c *cluster) delete(key string) {
	c.t.Helper()
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVDelete, Key: key}}}); err != nil {
		c.t.Fatal(err)
	}
}

// TestForeignKey: a PG whose key belongs to somebody else, or cannot be read,
// waits; the others start all the same.
func TestForeignKey(t *testing.T) {
	for name, value := range map[string]string{
		"another OSD": `{"primary":9,"state":["active"],"peers":[9]}`,
		"new word":    `{"primary":9,"state":["active","dancing"],"peers":[9]}`,
		"nonsense":    `{"primary":`,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 20, 2)
			c.pool(1, replicated(2, 1, ""))
			first := meta.PG{Pool: 1, Num: 1}
			c.put(c.keys.PGState(first), value)
			c.place(1, c.spread(6, 2)...)
			c.begin()
			c.until("the others are active", time.Second, func() bool {
				for num := meta.PGNum(2); num <= 6; num++ {
					if c.state(meta.PG{Pool: 1, Num: num}).State != active {
						return false
					}
				}
				return true
			})
			c.w.RunFor(10 * time.Second)
			if got := string(c.get(c.keys.PGState(first)).Value); got != value {
				t.Fatalf("the key was overwritten with %s", got)
			}
			if n := c.count("its state in etcd cannot be read"); n > 1 {
				t.Errorf("%d complaints", n)
			}
			c.osd(2).node.Crash() // reports of the others go on
			c.until("PG 3 is degraded", 10*time.Second, func() bool { return c.state(meta.PG{Pool: 1, Num: 3}).State == degraded })
			c.osd(2).node.Restart()
			c.delete(c.keys.PGState(first))
			c.are(1, active, 10*time.Second)
		})
	}
}

// TestStolenKey: whoever loses the key of a PG that it runs ends at once.
func TestStolenKey(t *testing.T) {
	c := newCluster(t, 21, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{2, 1})
	c.begin()
	c.are(1, active, time.Second)
	pg := meta.PG{Pool: 1, Num: 1}
	c.put(c.keys.PGState(pg), `{"primary":2,"state":["starting"],"peers":[]}`)
	c.until("OSD 1 ends", time.Second, func() bool { return c.osd(1).fatal != nil })
	if why := c.osd(1).fatal.Error(); !strings.Contains(why, "OSD 2 has taken PG 1/1") {
		t.Errorf("OSD 1 ends: %v", why)
	}
	c.delete(c.keys.PGState(pg))
	c.are(1, active, 20*time.Second)
}

// TestReportFaults: requests and answers are lost.
func TestReportFaults(t *testing.T) {
	for seed := range uint64(4) {
		c := newCluster(t, 30+seed, 3)
		c.pool(1, replicated(2, 1, ""))
		c.pool(2, replicated(3, 2, `,"local_reads":"random"`))
		c.place(1, c.spread(9, 2)...)
		c.place(2, c.spread(9, 3)...)
		c.begin()
		c.kv.SetFaults(sim.KVFaults{LoseRequest: 0.1, LoseAnswer: 0.3, Unavailable: 0.2, BreakWatch: 0.05})
		c.w.RunFor(2 * time.Second)
		for i := range 6 {
			o := c.osds[i%3]
			for pg := range o.ops.active {
				o.node.Do(func(*env.Env) { o.m.NeedEpoch(pg, uint64(i+10)) })
			}
			c.w.RunFor(2 * time.Second)
		}
		c.kv.SetFaults(sim.KVFaults{})
		c.are(1, active, 20*time.Second)
		c.are(2, active, 20*time.Second)
		for _, o := range c.osds {
			if o.fatal != nil {
				t.Logf("seed %d: OSD %d: %v", seed, o.num, o.fatal)
			}
		}
	}
}

// TestEtcdOutage: PGs run on without etcd, also beyond the lease time, but stop
// when a member is lost.
func TestEtcdOutage(t *testing.T) {
	c := newCluster(t, 22, 3)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{2, 3}, osdSet{3, 1})
	c.begin()
	c.are(1, active, time.Second)
	c.kv.SetDown(true)
	c.w.RunFor(30 * time.Second)
	for _, o := range c.osds {
		if len(o.ops.active) != 1 || o.fatal != nil || o.reg.MayServe() {
			t.Errorf("OSD %d: %d PGs are active, %v, serves: %v", o.num, len(o.ops.active), o.fatal, o.reg.MayServe())
		}
	}
	c.osd(3).node.Crash()
	c.w.RunFor(5 * time.Second)
	if o := c.osd(2); len(o.ops.active) != 0 || len(c.osd(1).ops.active) != 1 {
		t.Error("PG 2 is active without one of its OSDs")
	}
	c.kv.SetDown(false)
	c.until("PG 2 is degraded", 10*time.Second, func() bool { return c.state(meta.PG{Pool: 1, Num: 2}).State == degraded })
	c.osd(3).node.Restart()
	c.are(1, active, 10*time.Second)
}

// TestHistoryConflict: the monitor changes the history while we want to record
// an epoch in it.
func TestHistoryConflict(t *testing.T) {
	c := newCluster(t, 23, 3)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 0})
	c.begin()
	c.are(1, active|meta.PGDegraded, time.Second)
	pg := meta.PG{Pool: 1, Num: 1}
	o := c.osd(1)
	h := schema.PGHistory{AllPeers: osdSet{2}, OSDSets: [][]meta.OSDNum{{2, 3}}, Epoch: 5}
	c.put(c.keys.PGHistory(pg), string(h.EncodeMon()))
	o.node.Do(func(*env.Env) { o.m.NeedEpoch(pg, 1) }) // it cannot know yet
	took := c.until("the PG runs with the new history", time.Second, func() bool {
		a := o.ops.active[pg]
		return a != nil && len(a.CurPeers) == 3
	})
	if took > 100*time.Millisecond {
		t.Errorf("it takes %v", took)
	}
	if h := c.history(pg); h.Epoch < 5 || len(h.OSDSets) != 1 {
		t.Errorf("the history of the monitor was overwritten: %+v", h)
	}
	if e := o.ops.active[pg].Epoch; e < 6 {
		t.Errorf("epoch %d", e)
	}
}

// TestTooLarge: an etcd with small limits gets small transactions.
func TestTooLarge(t *testing.T) {
	c := newCluster(t, 24, 2, func(o *sim.Options) { o.KV.Limits.MaxTxnOps = 16 })
	c.pool(1, replicated(2, 1, ""))
	c.place(1, c.spread(64, 2)...)
	c.begin()
	c.are(1, active, 30*time.Second)
}

// TestWrongConfig: what does not fit is not run and complained about once.
func TestWrongConfig(t *testing.T) {
	c := newCluster(t, 25, 2)
	for _, o := range c.osds {
		o.mod = func(pc *Config) { pc.Commit = meta.CommitSmall }
	}
	c.pool(1, replicated(2, 1, ""))
	c.pool(2, replicated(1, 1, `,"block_size":65536`))
	c.pool(3, replicated(1, 1, `,"bitmap_granularity":8192`))
	c.pool(4, replicated(1, 1, `,"immediate_commit":"all"`))
	c.pool(5, replicated(1, 1, `,"immediate_commit":"small"`))
	c.pool(6, replicated(1, 0, ""))
	c.pool(7, ecPool(3, 1, ""))
	c.pool(1, replicated(2, 1, `,"immediate_commit":"small"`))
	c.place(1, osdSet{1, 1}, osdSet{1, 2}, osdSet{1}, osdSet{1, 0})
	for pool := meta.PoolID(2); pool <= 6; pool++ {
		c.place(pool, osdSet{1})
	}
	c.place(7, osdSet{1, 2, 2})
	c.place(8, osdSet{1})
	c.targets(9, []schema.PGTarget{{Num: 2, Primary: 1, OSDSet: osdSet{1}}})
	c.pool(9, replicated(1, 1, `,"immediate_commit":"none"`))
	c.begin()
	check := func() {
		t.Helper()
		c.w.RunFor(time.Second)
		for _, k := range []struct {
			pool  meta.PoolID
			num   meta.PGNum
			state meta.PGState
		}{{1, 1, 0}, {1, 2, active}, {1, 3, 0}, {1, 4, active | meta.PGDegraded}, {2, 1, 0}, {3, 1, 0}, {4, 1, 0}, {5, 1, active}, {6, 1, 0}, {7, 1, 0}, {8, 1, 0}, {9, 2, 0}} {
			if s := c.state(meta.PG{Pool: k.pool, Num: k.num}); s.State != k.state {
				t.Errorf("PG %d/%d is %v, expected %v", k.pool, k.num, s.State, k.state)
			}
		}
	}
	check()
	c.config.Backfillfull = []meta.PoolID{1}
	c.place(5, osdSet{1})
	c.pool(10, replicated(1, 1, ""))
	check()
	for _, text := range []string{
		"pg=1/1 why=its osd_set [1 1] in pg/config has OSD 1 twice",
		"pg=1/3 why=its osd_set [1] in pg/config does not have pg_size 2 items",
		"pg=7/1 why=its osd_set [1 2 2] in pg/config has OSD 2 twice",
		"pool=2 why=its block_size is 65536, that of this OSD is 131072",
		"pool=3 why=its bitmap_granularity is 8192, that of this OSD is 4096",
		"pool=4 why=its immediate_commit is all, this OSD only has small",
		"pool=6 why=", "pool=8 why=the pool does not exist", "pool=9 why=the numbers of its PGs",
	} {
		if n := c.count(text); n != 1 {
			t.Errorf("%d complaints with %s", n, text)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(c.log.String()) {
			if strings.Contains(line, "cannot be run") {
				fmt.Print(line)
			}
		}
	}
	c.place(1, osdSet{2, 1}, osdSet{1, 2}, osdSet{1, 2}, osdSet{1, 2}) // all is well
	c.are(1, active, time.Second)
}

// TestBadHistory: a PG does not start with a history that cannot be read, and
// goes on if it runs.
func TestBadHistory(t *testing.T) {
	c := newCluster(t, 26, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{2, 1})
	first, second := meta.PG{Pool: 1, Num: 1}, meta.PG{Pool: 1, Num: 2}
	c.put(c.keys.PGHistory(first), `{"osd_sets":[[1,"x"]]}`)
	c.begin()
	c.until("PG 2 is active", time.Second, func() bool { return c.state(second).State == active })
	c.put(c.keys.PGHistory(second), `{"osd_sets":[[1,"x"]]}`)
	c.w.RunFor(10 * time.Second)
	if c.state(first).State != 0 || c.state(second).State != active {
		t.Errorf("PGs are %v and %v", c.state(first).State, c.state(second).State)
	}
	if n := c.count("pg=1/1 why=its history in etcd cannot be read"); n != 1 {
		t.Errorf("%d complaints", n)
	}
	c.delete(c.keys.PGHistory(first))
	c.delete(c.keys.PGHistory(second))
	c.are(1, active, time.Second)
}

// TestBadAddress: an OSD that announces nonsense is complained about once, and
// reached by what makes sense.
func TestBadAddress(t *testing.T) {
	c := newCluster(t, 27, 1)
	c.begin()
	m := c.osd(1).m
	for _, state := range []string{
		`{"state":"up","port":1,"addresses":["here","10.0.0.9","10.0.0.9","::1"]}`,
		`{"state":"up","port":2,"addresses":["here","10.0.0.9"]}`,
		`{"state":"up","port":2,"addresses":["10.0.0.9"]}`,
	} {
		c.put(c.keys.OSDState(9), state)
		c.w.RunFor(10 * time.Millisecond)
	}
	if n := c.count("announces an address that cannot be used"); n != 1 {
		t.Errorf("%d complaints", n)
	}
	got := m.addresses(&peer{}, &schema.OSDState{Port: 5, Addresses: []string{"10.0.0.9", "x", "10.0.0.9", "::1"}})
	if fmt.Sprint(got) != "[10.0.0.9:5 [::1]:5]" {
		t.Errorf("addresses %v", got)
	}
	if v := (peerView{m}); !v.HasKey(9) || v.HasKey(8) || v.Connected(9) || v.CanLock(9) {
		t.Error("what is known of OSD 9 is wrong")
	}
}

// TestNoPrimary: with run_primary off no PG is taken, and secondaries work.
func TestNoPrimary(t *testing.T) {
	c := newCluster(t, 28, 2)
	c.osd(2).mod = func(pc *Config) { pc.RunPrimary = false }
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{2, 1})
	c.begin()
	c.w.RunFor(time.Second)
	if a, b := c.state(meta.PG{Pool: 1, Num: 1}).State, c.state(meta.PG{Pool: 1, Num: 2}).State; a != active || b != 0 {
		t.Errorf("PGs are %v and %v", a, b)
	}
	if n := c.count("run_primary off"); n != 1 {
		t.Errorf("%d complaints", n)
	}
}
