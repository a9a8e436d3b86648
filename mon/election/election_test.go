package election_test

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/mon/election"
)

var seeds = flag.Int("election.seeds", 100, "number of random elections")

var keys = schema.NewKeys("")

// candidate is a monitor that does nothing but take part.
type candidate struct {
	node     *sim.Node
	election *election.Election
	timing   election.Timing
	master   bool // between Elected and Lost
	terms    int
	problems []string
}

var timing = election.Timing{Refresh: time.Second, Request: 300 * time.Millisecond, Retries: 5, Poll: 2 * time.Second}

func (c *candidate) start(e *env.Env) {
	c.master = false
	c.election = election.New(election.Config{Env: e, Keys: keys, Timing: c.timing,
		Self: schema.Monitor{Hostname: c.node.Name()},
		Elected: func(lease env.LeaseID) {
			if c.master || lease == 0 || lease != c.election.Lease() || !c.election.Master() {
				c.problems = append(c.problems, "elected in a wrong state")
			}
			c.master = true
			c.terms++
		},
		Lost: func(err error) {
			if !c.master || !errors.Is(err, election.ErrLease) {
				c.problems = append(c.problems, fmt.Sprint("lost in a wrong state: ", err))
			}
			c.master = false
		}})
	c.election.Start()
}

func candidates(w *sim.World, n int, t election.Timing) (list []*candidate) {
	for i := range n {
		c := &candidate{timing: t, node: w.NewNode(fmt.Sprint("mon", i+1))}
		list = append(list, c)
		c.node.SetProgram(c.start)
	}
	return list
}

func masters(list []*candidate) (certain, believing int) {
	for _, c := range list {
		if !c.node.Running() || c.election == nil {
			continue
		}
		if c.election.Certain() {
			certain++
		}
		if c.election.Master() {
			believing++
		}
	}
	return certain, believing
}

func TestTTL(t *testing.T) {
	for _, c := range []struct {
		t    election.Timing
		want int64
	}{
		{election.Timing{Refresh: 5 * time.Second, Request: time.Second, Retries: 5}, 10},
		{election.Timing{Refresh: 5 * time.Second, Request: 300 * time.Millisecond, Retries: 1}, 6},
		{election.Timing{Lease: 4 * time.Second, Refresh: 5 * time.Second, Request: time.Second, Retries: 5}, 4},
		{election.Timing{}, 1},
	} {
		if got := c.t.TTL(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.t, got, c.want)
		}
	}
}

// The keys are those of etcd.md 2.10.
func TestKeys(t *testing.T) {
	w := sim.NewWorld(1, sim.Options{})
	kv := w.NewKV()
	list := candidates(w, 2, timing)
	w.RunFor(time.Second)
	get := func(r schema.Range) []env.KeyValue {
		resp, err := kv.Store().Apply(&env.Txn{Then: []env.KVOp{r.Get()}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Responses[0].KVs
	}
	members := get(keys.Kind(schema.KindMonMember))
	if len(members) != 2 {
		t.Errorf("members: %v", members)
	}
	i := slices.IndexFunc(list, func(c *candidate) bool { return c.master })
	if i < 0 {
		t.Fatal("no master")
	}
	for _, kv := range get(schema.Range{Key: keys.MonMaster()}) {
		m, err := schema.DecodeMonitor(kv.Key, kv.Value)
		if err != nil || m.ID != fmt.Sprint(int64(list[i].election.Lease())) || kv.Lease != list[i].election.Lease() {
			t.Errorf("%s, lease %d, %v", kv.Value, kv.Lease, err)
		}
	}
	// A master that cannot work makes room.
	resigned := list[i]
	resigned.node.Do(func(*env.Env) {
		resigned.election.Resign()
		resigned.master = false
	})
	if !w.RunUntil(func() bool { return list[1-i].master }, 100*time.Millisecond) {
		t.Error("nobody takes over after Resign")
	}
	for _, c := range list {
		c.node.Do(func(*env.Env) { c.election.Stop(func() {}) })
	}
	w.RunFor(time.Second)
	if left := get(keys.All()); len(left) != 0 {
		t.Errorf("left after Stop: %v", left)
	}
}

// Whatever happens, never are two monitors sure to be the master, nor does one
// stay for long that is not; and in the end there is one.
func TestRandom(t *testing.T) {
	kinds := []sim.FaultKind{sim.FaultCrash, sim.FaultPause, sim.FaultSlowNode, sim.FaultClockJump, sim.FaultKVDown, sim.FaultKVCut,
		sim.FaultKVAnswers, sim.FaultKVFlaky, sim.FaultKVCompact}
	terms := 0
	for seed := uint64(1); seed <= uint64(*seeds); seed++ {
		w := sim.NewWorld(seed, sim.Options{})
		w.NewKV()
		list := candidates(w, 3, timing)
		nodes := w.Nodes()
		plan := w.NewPlan(sim.PlanConfig{Nodes: nodes, Kinds: kinds, Start: time.Second, End: time.Minute, DownMax: 2})
		w.Apply(plan, nodes)
		w.RunUntil(func() bool {
			if certain, _ := masters(list); certain > 1 {
				t.Fatalf("seed %d, %v: %d masters are certain\n%v", seed, w.Now(), certain, plan)
			}
			return false
		}, time.Minute)
		if !w.RunUntil(func() bool { c, b := masters(list); return c == 1 && b == 1 }, 15*time.Second) {
			t.Fatalf("seed %d: no single master in the end\n%v", seed, plan)
		}
		w.RunFor(10 * time.Second)
		if certain, believing := masters(list); certain != 1 || believing != 1 {
			t.Errorf("seed %d: %d, %d masters later", seed, certain, believing)
		}
		for _, c := range list {
			terms += c.terms
			for _, p := range c.problems {
				t.Errorf("seed %d: %s", seed, p)
			}
		}
	}
	if terms < 2**seeds {
		t.Errorf("only %d terms of office: the test does little", terms)
	}
}

// A deletion of mon/master while a standby is asking is not missed.
func TestMissedDeletion(t *testing.T) {
	for seed := range uint64(300) {
		w := sim.NewWorld(seed, sim.Options{KV: sim.KVConfig{Latency: 50 * time.Millisecond, Jitter: 500 * time.Millisecond}})
		w.NewKV()
		slow := timing
		slow.Poll = 20 * time.Second
		list := candidates(w, 2, slow)
		w.RunUntil(func() bool { c, _ := masters(list); return c == 1 }, 10*time.Second)
		// Around the time of the next attempt.
		w.Run(19*time.Second + time.Duration(w.Rand().IntN(4000))*time.Millisecond)
		i := slices.IndexFunc(list, func(c *candidate) bool { return c.master })
		stopped := list[i]
		stopped.node.Do(func(*env.Env) { stopped.election.Stop(nil) })
		// Revoking takes a way to etcd; the news one back; asking both.
		if !w.RunUntil(func() bool { return list[1-i].master }, 5*time.Second) {
			t.Errorf("seed %d: the standby slept", seed)
		}
	}
}

// When the answer that says "you are the master" is lost, the next attempt finds
// out.
func TestLostAnswer(t *testing.T) {
	w := sim.NewWorld(1, sim.Options{})
	kv := w.NewKV()
	c := candidates(w, 1, timing)[0]
	taken := func() bool {
		resp, err := kv.Store().Apply(&env.Txn{If: []env.Compare{{Key: keys.MonMaster(), Result: env.CompareGreater}}})
		return err == nil && resp.Succeeded
	}
	if !w.RunUntil(taken, time.Second) || c.master {
		t.Fatal("not the moment that is meant")
	}
	kv.Cut(c.node, false, true)
	w.RunFor(timing.Poll + 100*time.Millisecond)
	if c.master {
		t.Fatal("the answer was not lost")
	}
	kv.Cut(c.node, false, false)
	if !w.RunUntil(func() bool { return c.master }, timing.Poll) {
		t.Error("it stands by for itself")
	}
}
