package pgs

import (
	"slices"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// TestScale: many OSDs and PGs start, and lose one OSD, with few transactions
// and few requests.
func TestScale(t *testing.T) {
	const osds, pgs = 24, 600
	c := newCluster(t, 60, osds, func(o *sim.Options) { o.Log = nil })
	c.pool(1, replicated(3, 1, ""))
	c.begin()
	wall := time.Now()
	before := c.kv.Store().Revision()
	var sets [][]meta.OSDNum
	for i := range pgs {
		var set osdSet
		for _, n := range c.w.Rand().Perm(osds)[:3] {
			set = append(set, meta.OSDNum(n+1))
		}
		set[0] = meta.OSDNum(i%osds + 1)
		if slices.Contains(set[1:], set[0]) {
			set[1], set[2] = set[0]%osds+1, (set[0]+1)%osds+1
		}
		sets = append(sets, set)
	}
	c.place(1, sets...)
	took := c.are(1, active, 5*time.Second)
	started := c.kv.Store().Revision() - before
	t.Logf("%d PGs on %d OSDs are active after %v, %d transactions; in %v", pgs, osds, took, started, time.Since(wall))
	if started > 1+6*osds {
		t.Errorf("%d transactions", started)
	}
	lists := uint64(0)
	for _, o := range c.osds {
		lists += o.msgr.Stats().Sent[9].Count
	}
	if lists != 2*pgs {
		t.Errorf("%d lists from peers", lists)
	}

	wall, before = time.Now(), c.kv.Store().Revision()
	c.osd(5).node.Crash()
	c.w.RunFor(leaseTTL + time.Second)
	c.move()
	took = c.until("all are active", 5*time.Second, func() bool {
		for i := range sets {
			if c.state(meta.PG{Pool: 1, Num: meta.PGNum(i + 1)}).State&active == 0 {
				return false
			}
		}
		return true
	})
	lost := c.kv.Store().Revision() - before
	t.Logf("after the loss of an OSD active after %v, %d transactions; in %v", took, lost, time.Since(wall))
	if lost > 2+8*osds {
		t.Errorf("%d transactions", lost)
	}
}
