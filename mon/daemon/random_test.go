package daemon_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

var (
	seeds = flag.Int("mon.seeds", 30, "number of random clusters")
	seed1 = flag.Uint64("mon.seed", 0, "run only this seed, with its log")
)

// objects are numbered; PGs take them by remainder. 0..59 cover all
// combinations of remainders of up to 6 PGs.
const objects = 60

// holders knows where data of each object of a pool may be, as in a cluster
// that never moves anything.
type holders [objects][][]meta.OSDNum

// watchHistories checks after every change of pg/config that no set of OSDs
// that was a target once is forgotten.
type watchHistories struct {
	r     *rig
	a     *admin
	pools map[meta.PoolID]*holders
	mod   int64
}

func (h *watchHistories) look() error {
	resp, _ := h.r.kv.Store().Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: keys.PGConfig()}}})
	if h.a.broken[keys.PGConfig()] != "" || len(resp.Responses[0].KVs) == 0 || resp.Responses[0].KVs[0].ModRevision == h.mod {
		return nil
	}
	h.mod = resp.Responses[0].KVs[0].ModRevision
	config := h.r.config()
	for id := range h.pools {
		if config.Pool(id) == nil {
			delete(h.pools, id)
		}
	}
	for i := range config.Pools {
		if err := h.pool(&config.Pools[i]); err != nil {
			return err
		}
	}
	return nil
}

func (h *watchHistories) pool(pgs *schema.PoolPGs) error {
	held := h.pools[pgs.Pool]
	if held == nil {
		held = &holders{}
		h.pools[pgs.Pool] = held
	}
	n := pgs.Count()
	if n == 0 {
		return fmt.Errorf("pool %d has PGs that are not 1..N", pgs.Pool)
	}
	known := make([][][]meta.OSDNum, n)
	for i := range known {
		pg := meta.PG{Pool: pgs.Pool, Num: meta.PGNum(i + 1)}
		history, err := schema.DecodePGHistory(keys.PGHistory(pg), h.r.get(keys.PGHistory(pg)))
		if err != nil && h.a.broken[keys.PGHistory(pg)] == "" {
			return err
		} else if err != nil {
			history, _ = schema.DecodePGHistory("", []byte(h.a.broken[keys.PGHistory(pg)]))
		}
		known[i] = append(history.OSDSets, pgs.PG(pg.Num).OSDSet)
	}
	has := func(list [][]meta.OSDNum, set []meta.OSDNum) bool {
		return slices.ContainsFunc(list, func(k []meta.OSDNum) bool { return slices.Equal(k, set) })
	}
	for x := range held {
		i := uint32(x) % n
		for _, set := range held[x] {
			if !has(known[i], set) {
				return fmt.Errorf("object %d is on %v, PG %d/%d knows %v", x, set, pgs.Pool, i+1, known[i])
			}
		}
		if set := pgs.PG(meta.PGNum(i + 1)).OSDSet; slices.Max(set) > 0 && !has(held[x], set) {
			held[x] = append(held[x], set)
		}
	}
	return nil
}

// admin changes the configuration at random.
type admin struct {
	r      *rig
	rng    *rand.Rand
	broken map[string]string // key -> good value
	kept   []string          // of these, those that only monitors write
}

func (a *admin) pool() string {
	count := 1 + a.rng.IntN(6)
	domain := []string{"host", "osd"}[a.rng.IntN(2)]
	if a.rng.IntN(3) == 0 {
		return fmt.Sprintf(`{"name":"ec","scheme":"ec","pg_size":3,"parity_chunks":1,"pg_minsize":2,"pg_count":%d,"failure_domain":"%s"}`, count, domain)
	}
	return fmt.Sprintf(`{"name":"r%d","scheme":"replicated","pg_size":%d,"pg_minsize":1,"pg_count":%d,"failure_domain":"%s"}`,
		a.rng.IntN(100), 1+a.rng.IntN(3), count, domain)
}

func (a *admin) act() {
	osd := meta.OSDNum(1 + a.rng.IntN(len(a.r.osds)))
	switch a.rng.IntN(13) {
	case 0, 1, 2, 3:
		a.r.pool(1+a.rng.IntN(3), a.pool())
	case 4:
		a.r.pool(2+a.rng.IntN(2), "")
	case 5:
		a.r.pool(1+a.rng.IntN(3), `{"name":"wrong","scheme":"replicated","pg_size":2,"pg_minsize":3,"pg_count":1}`)
	case 6, 7:
		a.r.put(keys.OSDConfig(osd), fmt.Sprintf(`{"reweight":%.1f,"tags":["t%d"]}`, float64(a.rng.IntN(11))/10, a.rng.IntN(3)))
	case 8:
		a.r.put(keys.NodePlacement(), fmt.Sprintf(`{"%d":{"parent":"h%d"}}`, osd, 1+a.rng.IntN(4)))
	case 9:
		a.r.put(keys.Global(), fmt.Sprintf(`{"mon_change_timeout":%d,"osd_out_time":%d}`, 100+a.rng.IntN(2000), 5+a.rng.IntN(20)))
	case 10:
		o := a.r.osds[osd]
		o.stuck = true
		a.r.After(time.Duration(a.rng.IntN(5000))*time.Millisecond, o.unstick)
	default:
		a.breakSomething(osd)
	}
}

// breakSomething puts a value that nobody can read; later calls and the end put
// the good one back.
func (a *admin) breakSomething(osd meta.OSDNum) {
	history := keys.PGHistory(meta.PG{Pool: meta.PoolID(1 + a.rng.IntN(3)), Num: meta.PGNum(1 + a.rng.IntN(4))})
	all := []string{keys.NodePlacement(), keys.OSDConfig(osd), keys.Global(), keys.Pools(), keys.PGConfig(), keys.LastCleanPGs(), history}
	i := a.rng.IntN(len(all))
	key, ours := all[i], i >= 4
	good := string(a.r.get(key))
	if a.broken[key] != "" || ours && good == "" {
		return
	}
	if good == "" {
		good = "{}"
	}
	a.broken[key] = good
	a.r.put(key, "{nonsense")
	a.r.After(time.Duration(a.rng.IntN(3000))*time.Millisecond, func() { a.correct(key) })
	if ours {
		a.kept = append(a.kept, key)
	}
}

func (a *admin) correct(key string) {
	if good := a.broken[key]; good != "" {
		delete(a.broken, key)
		now := string(a.r.get(key))
		if now == "{nonsense" {
			a.r.put(key, good)
		} else if now != "" && slices.Contains(a.kept, key) {
			a.r.problems = append(a.r.problems, fmt.Sprintf("%s was overwritten: %s", key, now))
		}
	}
}

var monFaults = []sim.FaultKind{sim.FaultCrash, sim.FaultCrash, sim.FaultPowerLoss, sim.FaultBlackout, sim.FaultPause, sim.FaultSlowNode,
	sim.FaultClockJump, sim.FaultClockDrift, sim.FaultKVDown, sim.FaultKVCut, sim.FaultKVAnswers, sim.FaultKVFlaky, sim.FaultKVCompact}

// Random clusters with random faults and administrators: histories never lose
// a set, nothing is written without guard, and in the end every PG runs.
func TestRandom(t *testing.T) {
	first, last := uint64(1), uint64(*seeds)
	if *seed1 != 0 {
		first, last = *seed1, *seed1
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { random(t, seed) })
	}
}

func random(t *testing.T, seed uint64) {
	r := newRig(t, seed, 3)
	for _, m := range r.mons {
		m.options = map[string]string{"etcd_mon_ttl": "2", "etcd_mon_retries": "2", "etcd_start_timeout": "2"}
	}
	r.startMons()
	r.addOSDs(4+r.Rand().IntN(5), 1+r.Rand().IntN(2))
	r.put(keys.Global(), `{"osd_out_time":10}`)
	a := &admin{r: r, rng: r.Rand(), broken: map[string]string{}}
	r.pool(1, a.pool())
	var nodes []*sim.Node
	nodes = append(nodes, r.Nodes()...)
	plan := r.NewPlan(sim.PlanConfig{Nodes: nodes, Kinds: monFaults, Start: 3 * time.Second, End: 60 * time.Second, DownMax: 3})
	r.World.Apply(plan, nodes)
	histories := &watchHistories{r: r, a: a, pools: map[meta.PoolID]*holders{}}
	next := 3 * time.Second
	step := func(until func() bool, limit time.Duration) bool {
		return r.RunUntil(func() bool {
			if err := histories.look(); err != nil {
				t.Fatalf("at %v: %v\n%v", r.Now(), err, plan)
			}
			return until()
		}, limit)
	}
	for r.Now() < 60*time.Second {
		step(func() bool { return r.Now() >= next }, 60*time.Second-r.Now())
		next = r.Now() + time.Duration(100+r.Rand().IntN(4000))*time.Millisecond
		a.act()
	}
	r.heal(a)
	if !step(r.good, 60*time.Second) {
		t.Fatalf("not well: %s\n%s\n%s\n%v", r.why(), r.get(keys.PGConfig()), r.get(keys.Pools()), plan)
	}
	r.RunFor(25 * time.Second) // until everything that was to move has moved
	before := string(r.get(keys.PGConfig()))
	r.RunFor(10 * time.Second)
	if after := string(r.get(keys.PGConfig())); after != before {
		t.Errorf("pg/config does not come to rest:\n%s\n%s", before, after)
	}
	if !r.good() {
		t.Errorf("not well any more: %s", r.why())
	}
	r.check()
}

// heal makes everything right again.
func (r *rig) heal(a *admin) {
	for key := range a.broken {
		a.correct(key)
	}
	for _, n := range r.Nodes() {
		if !n.Running() {
			n.Restart()
		}
	}
	for num, o := range r.osds {
		r.put(keys.OSDConfig(num), `{}`)
		o.unstick()
	}
	for id := 1; id <= 3; id++ {
		r.pool(id, replicated(2, 1+a.rng.IntN(6)))
	}
	r.put(keys.Global(), `{"osd_out_time":10}`)
}

func (r *rig) good() bool { return r.why() == "" }

// why tells what is not as it should be.
func (r *rig) why() string {
	if n, _ := r.masters(); n != 1 {
		return fmt.Sprintf("%d masters", n)
	}
	if n := r.up(); n != len(r.osds) {
		return fmt.Sprintf("%d OSDs of %d", n, len(r.osds))
	}
	pools, err := schema.DecodePools(keys.Pools(), r.get(keys.Pools()), schema.BuiltinPoolDefaults())
	if err != nil {
		return err.Error()
	}
	for id, pool := range pools.Valid {
		switch {
		case !r.placed(id, int(pool.PGCount), pool.PGSize):
			return fmt.Sprintf("pool %d is not placed", id)
		case !r.active(id) || !r.running(id):
			return fmt.Sprintf("pool %d does not run", id)
		}
		stats, err := schema.DecodePoolStats(keys.PoolStats(id), r.get(keys.PoolStats(id)))
		if err != nil || !stats.Complete() {
			return fmt.Sprintf("pool %d has no statistics: %v", id, err)
		}
	}
	return ""
}
