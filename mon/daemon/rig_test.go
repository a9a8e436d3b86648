package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/mon/daemon"
)

var keys = schema.NewKeys("")

// rig is a world with monitors, fake OSDs and etcd.
type rig struct {
	*testing.T
	*sim.World
	kv       *sim.KV
	mons     []*mon
	osds     map[meta.OSDNum]*fakeOSD
	log      bytes.Buffer
	problems []string
}

// mon is one monitor; restarts are of its node.
type mon struct {
	r       *rig
	node    *sim.Node
	monitor *daemon.Monitor
	options map[string]string
}

func newRig(t *testing.T, seed uint64, mons int) *rig {
	return newRigKV(t, seed, mons, sim.KVConfig{})
}

func newRigKV(t *testing.T, seed uint64, mons int, c sim.KVConfig) *rig {
	r := &rig{T: t, osds: map[meta.OSDNum]*fakeOSD{}}
	r.World = sim.NewWorld(seed, sim.Options{Log: &r.log, KV: c})
	r.kv = r.NewKV()
	for i := range mons {
		m := &mon{r: r, node: r.NewNode(fmt.Sprint("mon", i+1))}
		r.mons = append(r.mons, m)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log := r.log.String()
			t.Logf("seed %d; the end of the log:\n%s", seed, log[max(0, len(log)-8000):])
		}
	})
	return r
}

// startMons lets all monitors run, now and after restarts.
func (r *rig) startMons() {
	for _, m := range r.mons {
		m.node.SetProgram(m.start)
	}
}

func (m *mon) start(e *env.Env) {
	e.KV = &guarded{KV: e.KV, m: m}
	line := option.Layer{Source: option.CommandLine, Where: "the command line"}
	for name, value := range m.options {
		line.Values.SetString(name, value)
	}
	monitor, err := daemon.Start(e, daemon.Options{CommandLine: line,
		Self: schema.Monitor{Hostname: m.node.Name(), IPs: []string{m.node.Addr().String()}}})
	if err != nil {
		m.r.Fatal(err)
	}
	m.monitor = monitor
}

// guarded is a KV that fails the test when a monitor writes without the guard
// of a master, or after a later master has written.
type guarded struct {
	env.KV
	m *mon
}

func (g *guarded) Txn(t *env.Txn, timeout time.Duration, done func(*env.TxnResponse, error)) {
	lease := env.LeaseID(0)
	for _, c := range t.If {
		if c.Key == keys.MonMaster() && c.Target == env.CompareLease {
			lease = env.LeaseID(c.Number)
		}
	}
	for i := range t.Then {
		own := strings.HasPrefix(t.Then[i].Key, keys.Prefix()+"/mon/")
		if t.Then[i].Kind != env.KVGet && !own && lease == 0 {
			g.m.r.problems = append(g.m.r.problems, "unguarded write of "+t.Then[i].Key)
		}
	}
	g.KV.Txn(t, timeout, done)
}

// masters counts monitors that believe to be it.
func (r *rig) masters() (n int, last *mon) {
	for _, m := range r.mons {
		if m.node.Running() && m.monitor != nil && m.monitor.Role() == daemon.Master {
			n++
			last = m
		}
	}
	return n, last
}

func (r *rig) apply(ops ...env.KVOp) {
	r.Helper()
	if _, err := r.kv.Apply(&env.Txn{Then: ops}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) put(key, value string) {
	r.apply(env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value)})
}

func (r *rig) del(key string) { r.apply(env.KVOp{Kind: env.KVDelete, Key: key}) }

func (r *rig) get(key string) []byte {
	resp, _ := r.kv.Store().Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	for _, kv := range resp.Responses[0].KVs {
		return kv.Value
	}
	return nil
}

// pool puts or replaces a pool in config/pools; "" deletes it.
func (r *rig) pool(id int, config string) {
	all := map[string]json.RawMessage{}
	_ = json.Unmarshal(r.get(keys.Pools()), &all)
	all[fmt.Sprint(id)] = json.RawMessage(config)
	if config == "" {
		delete(all, fmt.Sprint(id))
	}
	value, _ := json.Marshal(all)
	r.put(keys.Pools(), string(value))
}

func replicated(size, pgs int) string {
	return fmt.Sprintf(`{"name":"p%d","scheme":"replicated","pg_size":%d,"pg_minsize":1,"pg_count":%d}`, pgs, size, pgs)
}

func (r *rig) config() *schema.PGConfig {
	c, err := schema.DecodePGConfig(keys.PGConfig(), r.get(keys.PGConfig()))
	if err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *rig) state(pg meta.PG) schema.PGState {
	s, err := schema.DecodePGState(keys.PGState(pg), r.get(keys.PGState(pg)))
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// until runs the world until cond holds.
func (r *rig) until(what string, limit time.Duration, cond func() bool) {
	r.Helper()
	if !r.RunUntil(cond, limit) {
		r.Fatalf("not within %v: %s\npg/config: %.2000s", limit, what, r.get(keys.PGConfig()))
	}
	r.check()
}

func (r *rig) check() {
	r.Helper()
	for _, p := range r.problems {
		r.Error(p)
	}
}

// placed tells whether a pool has its PGs, with full sets.
func (r *rig) placed(id meta.PoolID, pgs, size int) bool {
	p := r.config().Pool(id)
	if int(p.Count()) != pgs {
		return false
	}
	for i := range p.PGs {
		t := &p.PGs[i]
		if len(t.OSDSet) != size || slices.Contains(t.OSDSet, 0) || t.Primary == 0 || t.Pause {
			return false
		}
	}
	return true
}

// active tells whether all PGs of a pool are exactly active.
func (r *rig) active(id meta.PoolID) bool {
	p := r.config().Pool(id)
	for i := range p.PGs {
		if r.state(meta.PG{Pool: id, Num: p.PGs[i].Num}).State&^meta.PGLeftOnDead != meta.PGActive {
			return false
		}
	}
	return len(p.PGs) > 0
}
