package pgs

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/osd/store"
)

// TestPrepare: an OSD with many objects sorts them before it is seen.
func TestPrepare(t *testing.T) {
	c := newCluster(t, 80, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2}, osdSet{1, 2})
	c.pool(2, replicated(2, 1, ""))
	c.put(c.keys.PGState(meta.PG{Pool: 1, Num: 1}), "nonsense")
	c.begin()
	o := c.osd(2)
	for i := range uint64(3000) {
		o.write(id(1, 1, i*blockBytes), 3, true)
	}
	for _, k := range []struct {
		name   string
		config string
		faults sim.KVFaults
		sorted bool
	}{
		{"all is well", string(c.config.Encode()), sim.KVFaults{}, true},
		{"no answer", string(c.config.Encode()), sim.KVFaults{LoseAnswer: 1}, false},
		{"no PGs", "", sim.KVFaults{}, false},
		{"nonsense", "[1", sim.KVFaults{}, false},
		{"a gap", `{"items":{"1":{"2":{"osd_set":[1,2],"primary":1}}}}`, sim.KVFaults{}, false},
	} {
		o.node.Do(func(*env.Env) { o.st.ReshardNow(1, 7, blockBytes) })
		o.st.Tune(store.Tunables{ReshardChunkObjects: 100})
		m := New(o.node.Env(), o.m.c)
		m.SetDeps(Deps{Store: o.st})
		c.put(c.keys.PGConfig(), k.config)
		c.kv.SetFaults(k.faults)
		done := 0
		o.node.Do(func(*env.Env) {
			m.Prepare(time.Second, func() { done++ })
			if done != 0 {
				t.Errorf("%s: called inside", k.name)
			}
		})
		c.w.RunFor(2 * time.Second)
		if done != 1 || o.st.Sharded(1, 2, blockBytes) != k.sorted {
			t.Errorf("%s: %d answers, sorted: %v", k.name, done, o.st.Sharded(1, 2, blockBytes))
		}
		c.kv.SetFaults(sim.KVFaults{})
	}
}
