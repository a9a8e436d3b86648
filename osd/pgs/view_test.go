package pgs

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/primary"
)

var (
	_ primary.View  = (*Manager)(nil)
	_ primary.Owner = (*Manager)(nil)
	_ Ops           = (*primary.Server)(nil)
)

// TestNothingAllocates: what is asked for each request of a client or a peer.
func TestNothingAllocates(t *testing.T) {
	if invariant.Enabled {
		t.Log("with invariants other things are measured: only that it works")
	}
	c := newCluster(t, 70, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2})
	c.begin()
	c.are(1, active, time.Second)
	m := c.osd(1).m
	v, pg := m.SecondaryView(), meta.PG{Pool: 1, Num: 1}
	ask := func() {
		if p, ok := v.Pool(1); !ok || p.PGCount != 1 || !v.Primary(pg) || v.Primary(meta.PG{Pool: 1, Num: 2}) {
			t.Error("wrong answer to a secondary")
		}
		if m.Pool(1) == nil || m.PGCount(1) != 1 || m.Inode(5) != nil {
			t.Error("wrong answer to a primary")
		}
	}
	if n := testing.AllocsPerRun(100, ask); n != 0 && !invariant.Enabled {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		m.FlagsChanged(pg, 0)
		m.NeedEpoch(pg, 1)
	}); n != 0 && !invariant.Enabled {
		t.Errorf("%v allocations to tell news", n)
	}
	if _, ok := v.Pool(2); ok || m.Pool(2) != nil || m.PGCount(2) != 0 {
		t.Error("an unknown pool is known")
	}
	m.NeedEpoch(meta.PG{Pool: 9, Num: 9}, 1) // nobody's
	m.FlagsChanged(meta.PG{Pool: 9, Num: 9}, 1)
	c.osd(1).node.Do(func(*env.Env) { m.ScrubPlanned(meta.PG{Pool: 9, Num: 9}, 1) })
}

// TestScrubPlan: next_scrub goes to etcd and comes back, also from others.
func TestScrubPlan(t *testing.T) {
	c := newCluster(t, 71, 2)
	c.pool(1, replicated(2, 1, ""))
	c.place(1, osdSet{1, 2})
	c.begin()
	c.are(1, active, time.Second)
	o, pg := c.osd(1), meta.PG{Pool: 1, Num: 1}
	if at, told := o.heal.scrubs[pg]; !told || at != 0 {
		t.Errorf("at start: %d, %v", at, told)
	}
	o.node.Do(func(*env.Env) { o.m.ScrubPlanned(pg, 12345) })
	c.until("it is in etcd", time.Second, func() bool { return c.history(pg).NextScrub == 12345 && o.heal.scrubs[pg] == 12345 })
	h := c.history(pg)
	h.NextScrub = 1
	c.put(c.keys.PGHistory(pg), string(h.EncodeMon()))
	c.until("the administrator wants it now", time.Second, func() bool { return o.heal.scrubs[pg] == 1 })
	if len(o.ops.active) != 1 {
		t.Error("the PG was stopped")
	}
}

// TestBackfill: recovery looks again when a pool is allowed or forbidden it.
func TestBackfill(t *testing.T) {
	c := newCluster(t, 72, 2)
	c.pool(1, replicated(2, 1, ""))
	c.begin()
	c.osd(1).write(id(1, 1, 0), 3, true)
	c.place(1, osdSet{1, 2}, osdSet{1, 2})
	o := c.osd(1)
	c.until("PG 1 is active", time.Second, func() bool { return c.state(meta.PG{Pool: 1, Num: 1}).State&active != 0 })
	for _, full := range [][]meta.PoolID{{1}, nil} {
		o.heal.recoverable = nil
		c.config.Backfillfull = full
		c.put(c.keys.PGConfig(), string(c.config.Encode()))
		c.w.RunFor(10 * time.Millisecond)
		if len(o.heal.recoverable) != 1 || o.heal.recoverable[0].Num != 1 {
			t.Errorf("backfillfull %v: %v", full, o.heal.recoverable)
		}
	}
}
