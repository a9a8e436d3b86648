package registration

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

const ttl = 4 * time.Second

// rig is a world in which some nodes claim to be OSD 7.
type rig struct {
	t     *testing.T
	w     *sim.World
	kv    *sim.KV
	keys  schema.Keys
	runs  []*run // the present process of each node
	kinds map[string]int
}

// run is one process.
type run struct {
	node   *sim.Node
	r      *Registration
	done   string // "" = it goes on
	err    error
	leases int
}

func newRig(t *testing.T, seed uint64, nodes int) *rig {
	g := &rig{t: t, w: sim.NewWorld(seed, sim.Options{}), keys: schema.NewKeys(""), runs: make([]*run, nodes), kinds: map[string]int{}}
	g.kv = g.w.NewKV()
	for i := range nodes {
		n := g.w.NewNode(fmt.Sprintf("n%d", i))
		n.SetProgram(func(e *env.Env) { g.begin(i, n, e) })
	}
	return g
}

func (g *rig) begin(i int, n *sim.Node, e *env.Env) {
	p := &run{node: n}
	g.runs[i] = p
	end := func(how string, err error) {
		if p.done != "" {
			g.t.Errorf("ended by %s after %s", how, p.done)
		}
		p.done, p.err = how, err
		g.kinds[how]++
	}
	p.r = New(e, Config{
		OSD: 7, Keys: g.keys, TTL: ttl, Patience: 10 * time.Second, QuickTimeout: time.Second,
		State:      schema.OSDState{State: schema.StateUp, Host: n.Name(), Port: 1, Addresses: []string{"10.0.0.1"}},
		Leased:     func(env.LeaseID) { p.leases++ },
		Registered: func() { g.kinds["registered"]++ },
		Exists:     func(o schema.OSDState) { end("exists on "+o.Host, nil) },
		Fatal:      func(err error) { end("fatal", err) },
	})
	p.r.Start()
}

// check is the property: who may serve has the key, by its own lease.
func (g *rig) check() bool {
	serving := 0
	for _, p := range g.runs {
		if p == nil || !p.node.Running() || p.node.Env() == nil || p.done != "" || !p.r.MayServe() {
			continue
		}
		serving++
		if holder := g.holder(); holder != p.r.Lease() || holder == 0 {
			g.t.Fatalf("at %v %s may serve with lease %d, but etcd has the key with lease %d", g.w.Now(), p.node.Name(), p.r.Lease(), holder)
		}
	}
	if serving > 1 {
		g.t.Fatalf("%d may serve", serving)
	}
	return false
}

// holder is the lease of the key in etcd, 0 if it does not exist.
func (g *rig) holder() env.LeaseID {
	r, err := g.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: g.keys.OSDState(7)}}})
	if err != nil {
		g.t.Fatal(err)
	}
	if len(r.Responses[0].KVs) == 0 {
		return 0
	}
	return r.Responses[0].KVs[0].Lease
}

func (g *rig) runFor(d time.Duration) { g.w.RunUntil(g.check, d) }

// fault does something random to the world.
func (g *rig) fault() {
	rng := g.w.Rand()
	n := g.runs[rng.IntN(len(g.runs))].node
	switch rng.IntN(12) {
	case 0:
		n.Pause()
	case 1:
		n.Resume()
	case 2:
		n.Crash()
	case 3:
		g.kv.SetDown(true)
	case 4:
		g.kv.SetDown(false)
	case 5:
		g.kv.Cut(n, true, rng.IntN(2) == 0)
	case 6:
		g.kv.Cut(n, false, true)
	case 7:
		g.kv.Cut(n, false, false)
	case 8:
		g.kv.SetFaults(sim.KVFaults{LoseRequest: 0.3, LoseAnswer: 0.3, Unavailable: 0.2, BreakWatch: 0.2, Delay: time.Duration(rng.IntN(900)) * time.Millisecond})
	case 9:
		g.kv.SetFaults(sim.KVFaults{})
	case 10:
		n.SetClockDrift(rng.Int64N(40_001) - 20_000) // the difference to etcd stays within 3 %
	case 11:
		if p := g.runs[rng.IntN(len(g.runs))]; p.node.Running() && p.done == "" && rng.IntN(3) == 0 {
			p.node.Do(func(*env.Env) { p.r.Stop(func() { p.done = "stopped"; g.kinds["stopped"]++ }) })
		}
	}
	for _, p := range g.runs { // something starts again what has ended
		if !p.node.Running() || p.done != "" {
			p.node.Crash()
			p.node.Restart()
		}
	}
}

func TestNeverServesWithoutTheKey(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(400) {
		g := newRig(t, seed, 2)
		for range 60 {
			g.runFor(time.Duration(g.w.Rand().IntN(3000)) * time.Millisecond)
			g.fault()
		}
		// When all is well, one of them is registered.
		g.kv.SetFaults(sim.KVFaults{})
		g.kv.SetDown(false)
		for _, p := range g.runs {
			p.node.Resume()
			g.kv.Cut(p.node, false, false)
		}
		g.runFor(15 * time.Second)
		serving := 0
		for _, p := range g.runs {
			if p.node.Running() && p.done == "" && p.r.MayServe() {
				serving++
			}
		}
		if serving == 0 && (g.runs[0].done == "" || g.runs[1].done == "") {
			t.Fatalf("seed %d: nobody serves in a healthy world: %q %q", seed, g.runs[0].done, g.runs[1].done)
		}
		for k, n := range g.kinds {
			kinds[k] += n
		}
	}
	for _, k := range []string{"registered", "fatal", "stopped", "exists on n0", "exists on n1"} {
		if kinds[k] == 0 {
			t.Errorf("the faults never led to %q: %v", k, kinds)
		}
	}
	t.Log(kinds)
}

func TestKilledAndRestarted(t *testing.T) {
	g := newRig(t, 1, 1)
	serves := func() bool { return g.runs[0].r != nil && g.runs[0].r.MayServe() }
	if !g.w.RunUntil(serves, time.Second) {
		t.Fatal("not registered")
	}
	g.runFor(20 * time.Second)
	if !serves() {
		t.Fatal("does not stay registered")
	}
	g.w.Nodes()[0].Crash()
	g.runFor(time.Second)
	g.w.Nodes()[0].Restart()
	began := g.w.Now()
	if !g.w.RunUntil(serves, 10*time.Second) || g.w.Now()-began > ttl+time.Second {
		t.Fatalf("registered %v after the restart", g.w.Now()-began)
	}
	// With the lease of the dead process revoked (the sentinel) it does not wait.
	lease := g.runs[0].r.Lease()
	g.w.Nodes()[0].Crash()
	g.w.Nodes()[0].Restart()
	g.runFor(100 * time.Millisecond)
	if serves() {
		t.Fatal("the former key was overwritten")
	}
	g.w.NewNode("watch").Do(func(e *env.Env) { e.KV.Revoke(lease, time.Second, func(error) {}) })
	began = g.w.Now()
	if !g.w.RunUntil(serves, time.Second) || g.w.Now()-began > 20*time.Millisecond {
		t.Fatalf("registered %v after the revocation", g.w.Now()-began)
	}
}

func TestTwoOSDsWithOneNumber(t *testing.T) {
	g := newRig(t, 1, 1)
	g.runFor(time.Second)
	n := g.w.NewNode("n1")
	g.runs = append(g.runs, nil)
	n.SetProgram(func(e *env.Env) { g.begin(1, n, e) })
	g.runFor(9 * time.Second)
	if g.runs[1].done != "" {
		t.Fatalf("gave up too early: %s", g.runs[1].done)
	}
	g.runFor(2 * time.Second)
	if g.runs[1].done != "exists on n0" || g.runs[0].done != "" || !g.runs[0].r.MayServe() {
		t.Fatalf("%+v %+v", g.runs[0], g.runs[1])
	}
	g.runFor(10 * time.Second)
	if n := len(g.kv.Store().Leases()); n != 1 {
		t.Errorf("%d leases are left, want 1", n)
	}
}

// While etcd is away the OSD is frozen and not ended; afterwards it goes on.
func TestEtcdOutage(t *testing.T) {
	g := newRig(t, 1, 1)
	g.runFor(10 * time.Second)
	g.kv.SetDown(true)
	g.runFor(2 * time.Second)
	if !g.runs[0].r.MayServe() {
		t.Error("frozen too early")
	}
	g.runFor(time.Minute)
	if p := g.runs[0]; p.r.MayServe() || p.done != "" {
		t.Errorf("after a minute without etcd: %v %q", p.r.MayServe(), p.done)
	}
	g.kv.SetDown(false)
	g.runFor(2 * time.Second)
	if p := g.runs[0]; !p.r.MayServe() || p.leases != 1 {
		t.Errorf("after the outage: %v %q", p.r.MayServe(), p.done)
	}
}

func TestFrozenProcess(t *testing.T) {
	g := newRig(t, 1, 1)
	g.runFor(10 * time.Second)
	node := g.w.Nodes()[0]
	node.Pause()
	g.runFor(3 * time.Second)
	node.Resume()
	g.runFor(time.Second)
	if p := g.runs[0]; p.done != "" || !p.r.MayServe() {
		t.Fatalf("3 s of sleep: %q", p.done)
	}
	node.Pause()
	g.runFor(10 * time.Second)
	node.Resume()
	g.runFor(2 * time.Second)
	if p := g.runs[0]; p.done != "fatal" {
		t.Fatalf("10 s of sleep: %q", p.done)
	}
}

func TestStopRevokes(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, time.Second} {
		g := newRig(t, 1, 1)
		g.runFor(wait)
		p, done := g.runs[0], false
		g.w.Nodes()[0].Do(func(*env.Env) { p.r.Stop(func() { done = true }) })
		if p.r.MayServe() {
			t.Errorf("%v: serves while stopping", wait)
		}
		g.runFor(2 * time.Second)
		if leases := g.kv.Store().Leases(); !done || len(leases) != 0 || g.holder() != 0 {
			t.Errorf("%v: done %v, leases %v, key of %d", wait, done, leases, g.holder())
		}
	}
}

// What etcd refuses for good ends the process with a reason.
func TestRefused(t *testing.T) {
	for _, err := range []error{env.ErrKVTooLarge, env.ErrKVInvalid} {
		c := Core{TTL: ttl}
		c.Begin()
		if do := c.Granted(0, 0, 0, err); len(do) != 1 || do[0] != Fail || c.Err == nil {
			t.Errorf("%v: %v", err, do)
		}
		c = Core{TTL: ttl}
		c.Begin()
		c.Granted(0, 0, 5, nil)
		if do := c.Created(1, 5, err); len(do) != 1 || do[0] != Fail || c.Deadline() != 0 {
			t.Errorf("%v: %v", err, do)
		}
	}
}

func TestRemovedKey(t *testing.T) {
	g := newRig(t, 1, 1)
	g.runFor(time.Second)
	p := g.runs[0]
	g.w.Nodes()[0].Do(func(*env.Env) { p.r.Lost() })
	if p.done != "fatal" {
		t.Errorf("%q", p.done)
	}
}
