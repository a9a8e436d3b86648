package pgs

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

var (
	randomSeed  = flag.Uint64("pgs.seed", 0, "the one random history to try")
	randomSeeds = flag.Uint64("pgs.seeds", 8, "random histories to try")
)

// TestRandomFaults: OSDs crash, freeze, lose each other and etcd while a monitor
// moves PGs and changes their number. No PG is ever active twice (see
// fakeOps.Activate), epochs grow, and in the end all is well.
func TestRandomFaults(t *testing.T) {
	first, n := uint64(100), *randomSeeds
	if *randomSeed != 0 {
		first, n = *randomSeed, 1
	}
	for seed := first; seed < first+n && !t.Failed(); seed++ {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { randomFaults(t, seed) }) {
			t.Logf("replay: go test ./osd/pgs -run TestRandomFaults -pgs.seed=%d", seed)
		}
	}
}

type chaos struct {
	*cluster
	epochs map[meta.PG]uint64
	active int
}

func randomFaults(t *testing.T, seed uint64) {
	c := &chaos{cluster: newCluster(t, seed, 5), epochs: map[meta.PG]uint64{}}
	c.pool(1, replicated(2, 1, ""))
	c.pool(2, replicated(3, 2, `,"local_reads":"random"`))
	c.pool(3, ecPool(3, 1, ""))
	c.place(1, c.spread(10, 2)...)
	c.place(2, c.spread(5, 3)...)
	c.place(3, c.spread(5, 3)...)
	c.begin()
	for i := range uint64(40) {
		c.osds[i%5].write(id(1, 1, i*blockBytes), meta.MakeVersion(1, 1), true)
	}
	for i := range uint64(10) {
		for role, osd := range c.config.Pool(3).PGs[i%5].OSDSet {
			c.osd(osd).write(id(3, 1, i*2*blockBytes).WithRole(meta.Role(role)), meta.MakeVersion(1, 1), false)
		}
	}
	var nodes []*sim.Node
	for _, o := range c.osds {
		nodes = append(nodes, o.node)
	}
	plan := c.w.NewPlan(sim.PlanConfig{Nodes: nodes, End: 50 * time.Second, Every: 2 * time.Second, DownMax: 2})
	c.w.Apply(plan, nodes)
	for c.w.Now() < 60*time.Second {
		c.w.RunFor(time.Duration(c.w.Rand().IntN(1500)) * time.Millisecond)
		c.disturb()
		c.cluster.move()
	}
	c.w.RunFor(30 * time.Second) // dead ones come back
	c.cluster.move()
	c.until("all PGs are active", time.Minute, func() bool {
		c.cluster.move()
		for i := range c.config.Pools {
			for _, target := range c.config.Pools[i].PGs {
				s := c.state(meta.PG{Pool: c.config.Pools[i].Pool, Num: target.Num})
				if s.State&active == 0 || s.State&meta.PGLeftOnDead != 0 || s.Primary != target.Primary {
					return false
				}
			}
		}
		return true
	})
	c.settled()
}

// disturb is what clients and the administrator do.
func (c *chaos) disturb() {
	r := c.w.Rand()
	for _, o := range c.osds {
		if !o.up() || !o.node.Running() {
			continue
		}
		for _, p := range o.m.order {
			a := o.ops.active[p.id]
			if a == nil || a.stopping || !o.reg.MayServe() {
				continue
			}
			c.active++
			if a.Epoch < c.epochs[p.id] {
				c.t.Errorf("PG %v is active in epoch %d, after %d", p.id, a.Epoch, c.epochs[p.id])
			}
			if r.IntN(10) == 0 { // a write
				o.node.Env().Exec.Post(func() { o.m.NeedEpoch(p.id, a.Epoch) })
			}
		}
		for id, epoch := range o.ops.recorded {
			c.epochs[id] = max(c.epochs[id], epoch)
		}
	}
	switch r.IntN(12) {
	case 0:
		c.shuffle(meta.PoolID(1 + r.IntN(3)))
	case 1:
		if n := 4 + r.IntN(10); n != len(c.config.Pool(1).PGs) {
			c.repart(n)
		}
	}
}

// repart changes the number of PGs of pool 1, without a pause. Everybody may
// have data of everything.
func (c *chaos) repart(n int) {
	h := schema.PGHistory{AllPeers: osdSet{1, 2, 3, 4, 5}}
	for i := range 20 {
		h.Epoch = max(h.Epoch, c.history(meta.PG{Pool: 1, Num: meta.PGNum(i + 1)}).Epoch)
	}
	c.config.SetPool(1, nil)
	var with []env.KVOp
	for i := range n {
		with = append(with, env.KVOp{Kind: env.KVPut, Key: c.keys.PGHistory(meta.PG{Pool: 1, Num: meta.PGNum(i + 1)}), Value: h.EncodeMon()})
	}
	c.placeWith(with, 1, c.spread(n, 2)...)
}

// shuffle moves a PG of a pool, with history.
func (c *chaos) shuffle(pool meta.PoolID) {
	r := c.w.Rand()
	pgs := c.config.Pool(pool).PGs
	target := &pgs[r.IntN(len(pgs))]
	pg := meta.PG{Pool: pool, Num: target.Num}
	h := c.history(pg)
	h.AddSet(target.OSDSet)
	h.AllPeers = append(h.AllPeers, target.OSDSet...)
	set := make(osdSet, len(target.OSDSet))
	for i, osd := range r.Perm(5)[:len(set)] {
		set[i] = meta.OSDNum(osd + 1)
	}
	target.OSDSet, target.Primary = set, set[r.IntN(len(set))]
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{
		{Kind: env.KVPut, Key: c.keys.PGConfig(), Value: c.config.Encode()},
		{Kind: env.KVPut, Key: c.keys.PGHistory(pg), Value: h.EncodeMon()}}}); err != nil {
		c.t.Fatal(err)
	}
}

// settled checks that nothing is left over.
func (c *chaos) settled() {
	c.w.RunFor(time.Second)
	for _, o := range c.osds {
		l := &o.m.lists
		if l.bytes != 0 || len(l.rounds) != 0 || len(l.asked) != 0 || len(l.queue) != 0 || len(o.m.work.jobs) != 0 || len(o.m.queue) != 0 {
			c.t.Errorf("OSD %d: lists are left: %d bytes, %d rounds", o.num, l.bytes, len(l.rounds))
		}
		for osd, p := range o.m.peers {
			if p.listing != 0 {
				c.t.Errorf("OSD %d: %d lists from OSD %d are counted", o.num, p.listing, osd)
			}
		}
		done := false
		o.node.Do(func(*env.Env) { o.m.Shutdown(func() { done = true }) })
		c.until("OSD shuts down", 10*time.Second, func() bool { return done })
		if n := o.m.arena.UsedBytes(); n != 0 || len(o.ops.active) != 0 {
			c.t.Errorf("OSD %d: %d bytes of objects and %d PGs are left", o.num, n, len(o.ops.active))
		}
	}
	if c.active < 200 {
		c.t.Errorf("only %d observations of active PGs", c.active)
	}
}
