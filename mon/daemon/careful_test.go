package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

func (r *rig) restartMon() {
	r.Helper()
	r.mons[0].node.Crash()
	r.mons[0].node.Restart()
	r.until("there is a master again", 20*time.Second, func() bool { n, _ := r.masters(); return n == 1 })
	r.RunFor(3 * time.Second)
}

// A distribution that somebody else has made stays as it is while the hash is
// right, however good or bad it is.
func TestForeignDistribution(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 8))
	c := r.config()
	pgs := slices.Clone(c.Pool(1).PGs)
	for i := range pgs {
		pgs[i].OSDSet = []meta.OSDNum{1, 3} // only two of four OSDs
	}
	c.SetPool(1, pgs)
	r.put(keys.PGConfig(), string(c.Encode()))
	r.del(keys.LastCleanPGs())
	r.RunFor(3 * time.Second)
	r.restartMon()
	r.unchanged("a new master", 5*time.Second)
	if r.uses(2) || r.uses(4) {
		t.Errorf("PGs were placed: %s", r.get(keys.PGConfig()))
	}
	r.put(keys.OSDConfig(4), `{"reweight":0.9}`)
	r.until("PGs are placed", 3*time.Second, func() bool { return r.uses(2) && r.uses(4) })
}

// With no OSD left to put them on, PGs stay where they were.
func TestNobodyLeft(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 8))
	before := r.config()
	for n := range r.osds {
		r.put(keys.OSDConfig(n), `{"reweight":0}`)
	}
	r.RunFor(5 * time.Second)
	if !slices.EqualFunc(before.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget) {
		t.Errorf("PGs were placed: %s", r.get(keys.PGConfig()))
	}
	for n := range r.osds {
		r.del(keys.OSDConfig(n))
	}
	r.until("all is well", 5*time.Second, r.good)
	if !slices.EqualFunc(before.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget) {
		t.Errorf("PGs moved: %s", r.get(keys.PGConfig()))
	}
	r.pool(2, replicated(2, 4)) // and a new pool without any OSD is only waiting
	for n := range r.osds {
		r.put(keys.OSDConfig(n), `{"reweight":0}`)
	}
	r.RunFor(3 * time.Second)
	for n := range r.osds {
		r.del(keys.OSDConfig(n))
	}
	r.until("all is well", 5*time.Second, r.good)
}

// While PGs must not be placed, a pool whose pg_count changes runs as before,
// with failover.
func TestFailoverWhileHeld(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 8))
	r.put(keys.NodePlacement(), "{nonsense")
	r.restartMon()
	r.pool(1, replicated(2, 16))
	r.RunFor(3 * time.Second)
	num := r.config().Pool(1).PGs[0].Primary
	r.osds[num].node.Crash()
	r.revoke(r.osds[num].lease)
	r.until("new primaries", 50*time.Millisecond, func() bool { return !r.primaries()[num] })
	r.osds[num].node.Restart()
	r.put(keys.NodePlacement(), "{}")
	r.until("16 PGs", 5*time.Second, func() bool { return r.placed(1, 16, 2) })
}

// PGs that do not stop, for a change of pg_count or because their pool is
// deleted, do not keep other pools from being placed.
func TestStuckPG(t *testing.T) {
	r := ready(t, 1, 6, replicated(2, 8), replicated(2, 8), replicated(2, 8))
	hash := r.config().Hash
	for _, o := range r.osds {
		o.stuck = true
	}
	r.pool(1, replicated(2, 16))
	r.pool(2, "")
	r.until("PGs are paused", 3*time.Second, func() bool { return r.config().Pool(1).PGs[0].Pause && r.config().Pool(2).PGs[0].Pause })
	r.put(keys.OSDConfig(6), `{"reweight":0}`)
	r.RunFor(10 * time.Second)
	c := r.config()
	for i := range c.Pool(3).PGs {
		if slices.Contains(c.Pool(3).PGs[i].OSDSet, 6) {
			t.Fatalf("pool 3 waits for the others: %s", r.get(keys.PGConfig()))
		}
	}
	for _, id := range []meta.PoolID{1, 2} {
		if c.Pool(id).Count() != 8 || !c.Pool(id).PGs[0].Pause || !c.Pool(id).PGs[7].Pause {
			t.Errorf("pool %d has not waited: %s", id, r.get(keys.PGConfig()))
		}
	}
	if c.Hash != hash {
		t.Error("the hash says that everything is placed")
	}
	before := string(r.get(keys.PGConfig()))
	r.RunFor(10 * time.Second)
	if string(r.get(keys.PGConfig())) != before {
		t.Errorf("pg/config does not come to rest")
	}
	for _, o := range r.osds {
		o.stuck = false
		o.node.Do(func(*env.Env) { o.reconcile() })
	}
	r.until("all is well", 5*time.Second, func() bool { return r.good() && r.config().Hash != hash && r.config().Pool(2) == nil && !r.uses(6) })
}

// A state that cannot be read is one of a PG that runs.
func TestUnreadableState(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 4))
	key := keys.PGState(meta.PG{Pool: 1, Num: 9}) // of nobody here
	r.put(key, `{"primary":1,"state":["sleeping"],"peers":[1]}`)
	r.pool(1, replicated(2, 8))
	r.RunFor(5 * time.Second)
	if n := r.config().Pool(1).Count(); n != 4 {
		t.Fatalf("%d PGs", n)
	}
	r.del(key)
	r.until("8 PGs", 3*time.Second, func() bool { return r.placed(1, 8, 2) })
}

// A pool with a history that cannot be read is not placed, until it can; the
// next master knows that it was not.
func TestUnreadableHistory(t *testing.T) {
	r := ready(t, 1, 4, replicated(2, 4), replicated(2, 4))
	before, hash := r.config(), r.config().Hash
	key := keys.PGHistory(meta.PG{Pool: 1, Num: 2})
	r.put(key, `{"osd_sets":[["1","x"]],"epoch":3}`)
	r.pool(1, replicated(2, 8))
	r.put(keys.OSDConfig(4), `{"reweight":0}`)
	r.until("pool 2 is placed", 5*time.Second, func() bool {
		return !slices.EqualFunc(before.Pool(2).PGs, r.config().Pool(2).PGs, sameTarget)
	})
	r.RunFor(3 * time.Second)
	if !slices.EqualFunc(before.Pool(1).PGs, r.config().Pool(1).PGs, sameTarget) {
		t.Errorf("pool 1 was placed: %s", r.get(keys.PGConfig()))
	}
	if r.config().Hash != hash {
		t.Error("the hash says that everything is placed")
	}
	num := r.config().Pool(1).PGs[0].Primary
	r.osds[num].node.Crash()
	r.revoke(r.osds[num].lease)
	r.until("new primaries", 50*time.Millisecond, func() bool { return !r.primaries()[num] })
	r.osds[num].node.Restart()
	r.RunFor(5 * time.Second)
	if n := strings.Count(r.log.String(), `what=pool 1`); n != 1 {
		t.Errorf("the problem was logged %d times", n)
	}
	r.pool(1, replicated(2, 4))
	r.RunFor(3 * time.Second)
	r.put(key, `{"osd_sets":[["1","2"]],"epoch":3}`)
	r.restartMon()
	r.until("pool 1 is placed", 10*time.Second, func() bool { return !r.uses(4) && r.placed(1, 4, 2) && r.config().Hash != hash })
	if h := string(r.get(key)); !strings.Contains(h, `["1","2"]`) || !strings.Contains(h, `"epoch":3`) {
		t.Errorf("history: %s", h)
	}
}

// One seed, one execution.
func TestDeterminism(t *testing.T) {
	run := func() uint64 {
		r := ready(t, 3, 6, replicated(2, 16), replicated(3, 8))
		r.pool(1, replicated(2, 12))
		r.mons[0].node.Crash()
		r.RunFor(10 * time.Second)
		r.put(keys.OSDConfig(1), `{"reweight":0.5}`)
		r.RunFor(10 * time.Second)
		return r.Hash()
	}
	if a, b := run(), run(); a != b {
		t.Errorf("%x and %x", a, b)
	}
}

// When somebody deletes or takes mon/master, the master notices at once.
func TestMasterKey(t *testing.T) {
	r := ready(t, 2, 4, replicated(2, 4))
	for i := range 4 {
		r.del(keys.MonMaster())
		r.until(fmt.Sprint("a master, time ", i), 2*time.Second, func() bool {
			n, _ := r.masters()
			return n == 1 && r.get(keys.MonMaster()) != nil
		})
		r.RunFor(time.Second)
	}
	r.put(keys.MonMaster(), `{"hostname":"stranger","id":"1"}`)
	r.RunFor(time.Second)
	if n, _ := r.masters(); n != 0 {
		t.Errorf("%d masters beside a foreign one", n)
	}
	r.RunFor(20 * time.Second)
	if n, _ := r.masters(); n != 0 {
		t.Errorf("%d masters beside a foreign one", n)
	}
	r.del(keys.MonMaster())
	r.until("a master", 2*time.Second, func() bool { n, _ := r.masters(); return n == 1 })
	r.unchanged("all this", 5*time.Second)
}

// Few writes: nothing that did not change is written, and OSDs that start
// together are collected.
func TestFewWrites(t *testing.T) {
	r := ready(t, 1, 12, replicated(2, 64))
	writes := func() (n int) {
		resp, err := r.kv.Store().Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: keys.PGConfig()}}})
		if err != nil {
			t.Fatal(err)
		}
		return int(resp.Responses[0].KVs[0].Version)
	}
	before := writes()
	r.RunFor(time.Minute)
	if n := writes() - before; n != 0 {
		t.Errorf("%d writes of pg/config in a quiet minute", n)
	}
	for _, o := range r.osds {
		o.node.Crash()
	}
	r.until("all OSDs are down", 10*time.Second, func() bool { return r.up() == 0 })
	r.RunFor(time.Second)
	before = writes()
	for _, o := range r.osds {
		o.node.Restart()
	}
	r.until("all is well", 10*time.Second, r.good)
	if n := writes() - before; n > 4 {
		t.Errorf("%d writes of pg/config for 12 OSDs that start together", n)
	}
	var p schema.PoolStats
	p, err := schema.DecodePoolStats(keys.PoolStats(1), r.get(keys.PoolStats(1)))
	if err != nil || !p.Complete() {
		t.Errorf("%+v %v", p, err)
	}
}

// An etcd that refuses large transactions stops placements, with a message, but
// not failovers.
func TestTooLarge(t *testing.T) {
	r := newRigKV(t, 7, 1, sim.KVConfig{Limits: mem.Limits{MaxTxnOps: 60}})
	r.startMons()
	r.addOSDs(4, 1)
	r.pool(1, replicated(2, 16))
	r.until("all is well", 20*time.Second, func() bool { return r.up() == 4 && r.good() })
	r.pool(1, replicated(2, 128))
	r.until("the message", 10*time.Second, func() bool { return strings.Contains(r.log.String(), "max-txn-ops") })
	r.pool(2, replicated(2, 16))
	r.RunFor(3 * time.Second)
	r.pool(1, replicated(2, 16))
	r.until("all is well", 20*time.Second, r.good)
	r.pool(1, replicated(2, 128))
	r.RunFor(3 * time.Second)
	num := r.config().Pool(2).PGs[0].Primary
	r.osds[num].node.Crash()
	r.revoke(r.osds[num].lease)
	r.until("new primaries of pool 2", 50*time.Millisecond, func() bool {
		return !slices.ContainsFunc(r.config().Pool(2).PGs, func(p schema.PGTarget) bool { return p.Primary == num })
	})
	if n := strings.Count(r.log.String(), "max-txn-ops"); n > 4 {
		t.Errorf("the reason was logged %d times", n)
	}
}
