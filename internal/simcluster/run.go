package simcluster

import (
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
)

// Result is what a run found.
type Result struct {
	Config     *Config
	Plan       Plan
	Hash       uint64 // of the whole execution
	Events     uint64
	Ops        int
	Ended      time.Duration // virtual time
	Failed     map[string]int
	Exits      int
	Slowest    time.Duration // acknowledged operation
	Violations []Violation
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// String is a report for people.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n%d operations, the slowest %v, %d events, %v of virtual time, %d exits, trace hash %016x\n",
		r.Config, r.Ops, r.Slowest, r.Events, r.Ended, r.Exits, r.Hash)
	for _, e := range sortedKeys(r.Failed) {
		fmt.Fprintf(&b, "%6d x %s\n", r.Failed[e], e)
	}
	if len(r.Violations) > 0 {
		fmt.Fprintf(&b, "plan:\n%v", r.Plan)
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "VIOLATION of %v\n", v)
	}
	return b.String()
}

// Limits of virtual time.
const (
	bootLimit  = 2 * time.Minute // until everything is active for the first time
	drainLimit = 2 * time.Minute // until operations are answered after faults stop
	cleanLimit = 10 * time.Minute
	pollTime   = 100 * time.Millisecond
)

// Run lives through one world. A panic of the code under test is a violation.
func Run(c *Config, p Plan, o Options) (r *Result) {
	r = &Result{Config: c, Plan: p}
	memory, goroutines := pinned.Bytes(), runtime.NumGoroutine()
	k := newCluster(c, o)
	defer func() {
		k.freeAll()
		if len(k.found) == 0 {
			k.checkLeaks(memory, goroutines)
		}
		r.Hash, r.Events, r.Ops, r.Ended = k.w.Hash(), k.w.Events(), len(k.h.Ops), k.w.Now()
		r.Failed, r.Exits, r.Violations = k.failed, k.exits, k.found
		for _, o := range k.h.Ops {
			if o.Outcome == Done {
				r.Slowest = max(r.Slowest, o.EndAt-o.BeginAt)
			}
		}
	}()
	defer func() {
		if x := recover(); x != nil {
			k.violate("panic", "%v\n%s", panicText(x), stack())
		}
	}()
	k.live(p)
	return r
}

func panicText(x any) string {
	if v, ok := x.(invariant.Violation); ok {
		return v.Text
	}
	return fmt.Sprint(x)
}

func stack() string {
	b := make([]byte, 16<<10)
	return string(b[:runtime.Stack(b, false)])
}

// live is the life of a world, phase by phase.
func (k *Cluster) live(p Plan) {
	phases := []func(){
		func() { k.waitClean("start", bootLimit) },
		k.fillParents,
		func() { k.load(p) },
		k.drain,
		func() { k.waitClean("end", cleanLimit) },
		k.finalReads,
		k.checkHistory,
		k.rest,
		k.checkAtRest,
	}
	for _, f := range phases {
		if f(); len(k.found) > 0 {
			return
		}
	}
}

// waitFor lets the world live until cond holds; false after limit.
func (k *Cluster) waitFor(cond func() bool, limit time.Duration) bool {
	for end := k.w.Now() + limit; !cond(); k.w.RunFor(pollTime) {
		k.watch()
		if k.w.Now() >= end || len(k.found) > 0 {
			return false
		}
	}
	return true
}

// waitClean waits until all PGs are active and clean, and stay so for a while.
func (k *Cluster) waitClean(when string, limit time.Duration) {
	since := time.Duration(-1)
	why := ""
	ok := k.waitFor(func() bool {
		if why = k.unclean(); why != "" {
			since = -1
			return false
		}
		if since < 0 {
			since = k.w.Now()
		}
		return k.w.Now() >= since+2*time.Second
	}, limit)
	if !ok && len(k.found) == 0 {
		k.violate("liveness", "after %v at the %s the cluster is not active and clean: %s", limit, when, why)
	}
	k.logf("clean at the %s", when)
}

// load makes load and faults.
func (k *Cluster) load(p Plan) {
	k.loading = true
	for _, n := range k.clients {
		n.node.Do(func(*env.Env) { n.load() })
	}
	k.schedule(p)
	k.runWatched(k.c.Duration + time.Second)
}

// runWatched lets the world live, with a look at it now and then.
func (k *Cluster) runWatched(d time.Duration) {
	for end := k.w.Now() + d; k.w.Now() < end && len(k.found) == 0; {
		k.w.RunFor(min(watchEvery, end-k.w.Now()))
		k.watch()
	}
}

// drain stops the load and waits for all answers.
func (k *Cluster) drain() {
	k.loading = false
	for _, n := range k.clients {
		if n.work != nil {
			n.work.stop = true
		}
	}
	active := func() (count int) {
		if k.ballast != nil {
			count = k.ballast.active
		}
		for _, n := range k.clients {
			if n.work != nil {
				count += n.work.active
			}
		}
		return count
	}
	if !k.waitFor(func() bool { return active() == 0 }, drainLimit) && len(k.found) == 0 {
		var b strings.Builder
		for _, o := range k.h.Ops {
			if o.Outcome == Pending && !k.h.Crashed[o.Client] {
				fmt.Fprintf(&b, "\n  %v", o)
			}
		}
		k.violate("liveness", "%d operations got no answer within %v after the last fault; %s%s", active(), drainLimit, k.unclean(), b.String())
	}
	k.logf("drained")
}

// one runs a single operation on a client and waits for it.
func (k *Cluster) one(n *clientNode, o *Op, m *Image, allowReadonly bool) {
	w := &work{h: k.h, client: n.cl.life, node: n.index, now: k.w.Now, e: n.node.Env(), target: n.cl, failed: k.failed,
		known: map[objectKey]uint64{}, stop: true}
	q := &Request{Kind: o.Kind, AllowReadonly: allowReadonly}
	n.node.Do(func(*env.Env) { (&worker{w: w}).submit(o, m, q) })
	if !k.waitFor(func() bool { return w.active == 0 }, drainLimit) && len(k.found) == 0 {
		k.violate("liveness", "no answer: %v; %s", o, k.unclean())
	}
}

// fillParents writes the frozen images, then makes their children.
func (k *Cluster) fillParents() {
	n := k.clients[0]
	if !k.waitFor(func() bool { return n.cl.ready }, bootLimit) {
		k.violate("liveness", "client 0 does not start")
		return
	}
	for i := range k.c.Pools {
		p := &k.c.Pools[i]
		for _, ic := range p.Images {
			m := k.config[meta.MakeInode(p.ID, ic.Number)]
			if ic.Frozen {
				k.fill(n, m)
			}
			if ic.Parent != 0 {
				k.announce(m, false)
			}
		}
	}
	k.w.RunFor(time.Second)
}

// fill writes every other run of granules of an image.
func (k *Cluster) fill(n *clientNode, m *Image) {
	for g := 0; g < m.Granules; g += 5 {
		k.one(n, &Op{Kind: OpWrite, Inode: m.Inode, First: g, Count: min(3, m.Granules-g), Stamp: k.h.NewStamp()}, m, true)
	}
	k.one(n, &Op{Kind: OpSync, Inode: m.Inode}, m, false)
}

// finalReads syncs all clients, then reads everything with a client that knows
// nothing.
func (k *Cluster) finalReads() {
	for _, n := range k.clients {
		k.one(n, &Op{Kind: OpSync}, k.images[0], false)
	}
	n := k.newClient(len(k.clients))
	k.clients = append(k.clients, n)
	if !k.waitFor(func() bool { return n.cl.ready }, bootLimit) {
		k.violate("liveness", "the last client does not start")
		return
	}
	for _, inode := range slices.Sorted(maps.Keys(k.config)) {
		m := k.config[inode]
		for g := 0; g < m.Granules; g += m.PerObject {
			k.one(n, &Op{Kind: OpRead, Inode: inode, First: g, Count: min(m.PerObject, m.Granules-g)}, m, false)
		}
	}
}

// checkHistory judges what clients saw.
func (k *Cluster) checkHistory() {
	k.found = append(k.found, k.h.Check(k.rules())...)
	for _, e := range sortedKeys(k.failed) {
		k.logf("%d x %s", k.failed[e], e)
	}
}

func (k *Cluster) rules() Rules {
	lazy := k.c.Lazy()
	return Rules{
		Initial:    k.initial,
		Lazy:       func(meta.Inode) bool { return lazy },
		LocalReads: func(i meta.Inode) bool { return k.pool(i.Pool()).LocalReads != "primary" },
		Chained:    func(i meta.Inode) bool { return len(k.config[i].Chain) > 1 },
		PerObject:  func(i meta.Inode) int { return k.config[i].PerObject },
	}
}

// initial is what is under an image: its parent, which was filled before.
func (k *Cluster) initial(inode meta.Inode, granule int) Stamp {
	m := k.config[inode]
	if len(m.Chain) == 1 {
		return Zeroes
	}
	return k.parents()[granuleKey{m.Chain[1], granule}]
}

type granuleKey struct {
	inode   meta.Inode
	granule int
}

// parents are the contents of frozen images.
func (k *Cluster) parents() map[granuleKey]Stamp {
	if k.frozen != nil {
		return k.frozen
	}
	k.frozen = map[granuleKey]Stamp{}
	for _, o := range k.h.Ops {
		if o.Kind == OpWrite && !slices.Contains(k.images, k.config[o.Inode]) {
			for g := o.First; g < o.First+o.Count; g++ {
				k.frozen[granuleKey{o.Inode, g}] = o.Stamp
			}
		}
	}
	return k.frozen
}

// rest gives lazy work time: automatic syncs, deletion of moved copies.
func (k *Cluster) rest() {
	if k.c.RotOSD != 0 {
		k.scrub()
	}
	defer k.checkBuffers()
	k.w.RunFor(20 * time.Second)
	k.waitClean("rest", time.Minute)
}

// scrub asks for a scrub of every PG, so that damage which nobody read is found
// and repaired (spec osd.md §13).
func (k *Cluster) scrub() {
	pgs := func(f func(pg meta.PG, h *schema.PGHistory)) {
		for _, p := range k.c.Pools {
			for i := range p.PGs {
				pg := meta.PG{Pool: p.ID, Num: meta.PGNum(i + 1)}
				var h schema.PGHistory
				if kv := k.get(k.keys.PGHistory(pg)); kv != nil {
					h, _ = schema.DecodePGHistory(kv.Key, kv.Value)
				}
				f(pg, &h)
			}
		}
	}
	pgs(func(pg meta.PG, h *schema.PGHistory) {
		h.NextScrub = 1
		t := k.keys.PutPGHistory(pg, h, k.w.KV().Store().Revision())
		k.apply(&t)
	})
	left := 0
	done := k.waitFor(func() bool {
		left = 0
		pgs(func(_ meta.PG, h *schema.PGHistory) {
			if h.NextScrub == 1 {
				left++
			}
		})
		return left == 0 && k.unclean() == ""
	}, 5*time.Minute)
	if !done && len(k.found) == 0 {
		k.violate("scrub", "%d PGs were not scrubbed; %s", left, k.unclean())
	}
}

// checkBuffers looks for memory of messages that nobody uses any more. A server
// needs a while to see that a silent client is gone.
func (k *Cluster) checkBuffers() {
	k.waitFor(func() bool { return k.buffers() == "" }, 2*time.Minute)
	if text := k.buffers(); text != "" && len(k.found) == 0 {
		k.violate("leak", "%s", text)
	}
}

// buffers tells which OSD has memory of messages in use.
func (k *Cluster) buffers() string {
	for _, n := range k.osds {
		if n.d == nil {
			return fmt.Sprintf("OSD %d does not run at the end", n.num)
		}
		if s := n.d.o.Status(); s.BufferBytes != 0 {
			return fmt.Sprintf("message buffers are in use at rest: %v", s)
		}
	}
	return ""
}

// checkLeaks compares with what was there before the world. It needs that no
// other world runs at the same time.
func (k *Cluster) checkLeaks(memory int64, goroutines int) {
	if now := pinned.Bytes(); now > memory {
		k.violate("leak", "%d bytes outside of the Go heap", now-memory)
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		k.violate("leak", "%d goroutines", now-goroutines)
	}
}

// freeAll ends all processes and gives their memory back.
func (k *Cluster) freeAll() {
	for _, n := range k.osds {
		n.node.Crash()
		n.free()
	}
	for _, n := range k.clients {
		if n.node.Crash(); n.cl != nil {
			n.cl.free()
		}
	}
	if k.ballast != nil {
		k.ballast.free()
	}
}

// Replay is the command that repeats a run of a test.
func Replay(test string, c *Config) string {
	parts := strings.Split(test, "/")
	for i := range parts {
		parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
	}
	return fmt.Sprintf("go test ./internal/simcluster -count=1 -run '%s' -simcluster.seed=%d -simcluster.duration=%v", strings.Join(parts, "/"), c.Seed, c.Duration)
}
