package pgs

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/primary"
	"vitastor/osd/registration"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

const (
	blockBytes   = 128 << 10
	granuleBytes = 4096
	leaseTTL     = 4 * time.Second
)

// cluster is a simulated cluster of OSDs whose clients' operations do nothing.
// Its monitor is the test.
type cluster struct {
	t      testing.TB
	w      *sim.World
	kv     *sim.KV
	keys   schema.Keys
	osds   []*testOSD // by number, from 1
	pools  map[meta.PoolID]string
	config schema.PGConfig
	log    *strings.Builder
	lazy   bool // OSDs with CommitNone
	blocks int64
}

func newCluster(t testing.TB, seed uint64, osds int, more ...func(*sim.Options)) *cluster {
	t.Helper()
	log := &strings.Builder{}
	o := sim.Options{Log: log}
	if testing.Verbose() && os.Getenv("PGS_LOG") != "" {
		o.Log = io.MultiWriter(log, os.Stderr)
	}
	for _, f := range more {
		f(&o)
	}
	c := &cluster{t: t, w: sim.NewWorld(seed, o), pools: map[meta.PoolID]string{}, log: log, blocks: 4096}
	c.kv = c.w.NewKV()
	before := pinned.Bytes()
	for n := range osds {
		c.osds = append(c.osds, c.newOSD(meta.OSDNum(n+1)))
	}
	t.Cleanup(func() {
		for _, o := range c.osds {
			o.abandon()
		}
		if n := pinned.Bytes() - before; n != 0 {
			t.Errorf("%d bytes of memory are left", n)
		}
	})
	return c
}

// replicated, ec are values of config/pools.
func replicated(size, minSize int, more string) string {
	return fmt.Sprintf(`{"name":"pool%d%d","scheme":"replicated","pg_size":%d,"pg_minsize":%d,"pg_count":1%s}`, size, minSize, size, minSize, more)
}

func ecPool(size, parity int, more string) string {
	return fmt.Sprintf(`{"name":"ec%d%d","scheme":"ec","pg_size":%d,"parity_chunks":%d,"pg_minsize":%d,"pg_count":1%s}`,
		size, parity, size, parity, size-parity, more)
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVPut, Key: key, Value: []byte(value)}}}); err != nil {
		c.t.Fatal(err)
	}
}

// pool defines a pool in config/pools.
func (c *cluster) pool(id meta.PoolID, json string) {
	c.pools[id] = json
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(c.pools)) {
		parts = append(parts, fmt.Sprintf("%q:%s", fmt.Sprint(id), c.pools[id]))
	}
	c.put(c.keys.Pools(), "{"+strings.Join(parts, ",")+"}")
}

// place puts PGs of a pool on OSDs: one set per PG; the first member is primary.
func (c *cluster) place(pool meta.PoolID, sets ...[]meta.OSDNum) { c.placeWith(nil, pool, sets...) }

// placeWith does so together with other changes.
func (c *cluster) placeWith(with []env.KVOp, pool meta.PoolID, sets ...[]meta.OSDNum) {
	var pgs []schema.PGTarget
	for i, set := range sets {
		t := schema.PGTarget{Num: meta.PGNum(i + 1), OSDSet: set}
		for _, o := range set {
			if t.Primary == 0 {
				t.Primary = o
			}
		}
		pgs = append(pgs, t)
	}
	c.targets(pool, pgs, with...)
}

func (c *cluster) targets(pool meta.PoolID, pgs []schema.PGTarget, with ...env.KVOp) {
	c.t.Helper()
	c.config.SetPool(pool, pgs)
	ops := append(with, env.KVOp{Kind: env.KVPut, Key: c.keys.PGConfig(), Value: c.config.Encode()})
	if _, err := c.kv.Apply(&env.Txn{Then: ops}); err != nil {
		c.t.Fatal(err)
	}
}

// spread makes n sets of the given size over all OSDs.
func (c *cluster) spread(n, size int) (sets [][]meta.OSDNum) {
	for i := range n {
		var set []meta.OSDNum
		for j := range size {
			set = append(set, meta.OSDNum((i+j*(1+i/len(c.osds)%(len(c.osds)-1)))%len(c.osds)+1))
		}
		if slices.Contains(set[1:], set[0]) || size > 2 && set[1] == set[2] {
			set = nil
			for j := range size {
				set = append(set, meta.OSDNum((i+j)%len(c.osds)+1))
			}
		}
		sets = append(sets, set)
	}
	return sets
}

// state is what etcd says about a PG.
func (c *cluster) state(pg meta.PG) schema.PGState {
	var s schema.PGState
	if kv := c.get(c.keys.PGState(pg)); kv != nil {
		var err error
		if s, err = schema.DecodePGState(kv.Key, kv.Value); err != nil {
			c.t.Error(err)
		}
	}
	return s
}

func (c *cluster) history(pg meta.PG) schema.PGHistory {
	var h schema.PGHistory
	if kv := c.get(c.keys.PGHistory(pg)); kv != nil {
		var err error
		if h, err = schema.DecodePGHistory(kv.Key, kv.Value); err != nil {
			c.t.Error(err)
		}
	}
	return h
}

func (c *cluster) get(key string) *env.KeyValue {
	r, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(r.Responses[0].KVs) == 0 {
		return nil
	}
	return &r.Responses[0].KVs[0]
}

// until runs the world until f holds.
func (c *cluster) until(what string, limit time.Duration, f func() bool) time.Duration {
	c.t.Helper()
	begin := c.w.Now()
	for !f() { // not after each event: it asks etcd
		if c.w.Now()-begin > limit {
			c.t.Fatalf("%s: not within %v\n%s\nlog:\n%s", what, limit, c.summary(), tail(c.log.String(), 8000))
		}
		c.w.RunFor(time.Millisecond)
	}
	return c.w.Now() - begin
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// are waits until all configured PGs of a pool have a state in etcd, and their
// primaries know it, too.
func (c *cluster) are(pool meta.PoolID, state meta.PGState, limit time.Duration) time.Duration {
	c.t.Helper()
	return c.until(fmt.Sprintf("PGs of pool %d are %v", pool, state), limit, func() bool {
		for _, t := range c.config.Pool(pool).PGs {
			s := c.state(meta.PG{Pool: pool, Num: t.Num})
			if s.State != state || state != 0 && s.Primary != t.Primary {
				return false
			}
		}
		return true
	})
}

func (c *cluster) summary() string {
	var b strings.Builder
	for i := range c.config.Pools {
		p := &c.config.Pools[i]
		for _, t := range p.PGs {
			id := meta.PG{Pool: p.Pool, Num: t.Num}
			s := c.state(id)
			fmt.Fprintf(&b, "%v on %v primary %d: etcd %v by %d", id, t.OSDSet, t.Primary, s.State, s.Primary)
			for _, o := range c.osds {
				if o.m != nil {
					if p := o.m.pgs[id]; p != nil {
						fmt.Fprintf(&b, "; OSD %d: %v (%s)", o.num, p.machine.State(), p.machine.Why())
					}
				}
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// testOSD is an OSD made of real parts, except for operations of clients.
type testOSD struct {
	c    *cluster
	num  meta.OSDNum
	node *sim.Node
	life int

	reg   *registration.Registration
	view  *clusterview.View
	st    *store.Store
	local *secondary.Server
	msgr  *msgr.Messenger
	m     *Manager
	ops   *fakeOps
	heal  *fakeHeal
	mod   func(*Config)
	fatal error
	gone  bool // left the cluster by itself
	told  int  // Reported
	// hostile answers requests in another way.
	hostile func(r *msgr.Request) bool
}

func (c *cluster) newOSD(num meta.OSDNum) *testOSD {
	o := &testOSD{c: c, num: num, node: c.w.NewNode(fmt.Sprint("osd", num))}
	a := o.storeConfig().Areas
	o.node.AddDisk("disk", sim.DiskConfig{SizeBytes: a.DataOffset + a.DataLen})
	return o
}

func (o *testOSD) storeConfig() store.Config {
	s := store.Config{BlockBytes: blockBytes, GranuleBytes: granuleBytes, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: store.CommitAll,
		AtomicWriteBytes: 4096, BufferPoolBytes: 1 << 20, ReshardChunkPause: time.Millisecond,
		Areas: store.Areas{BufferOffset: 4096, BufferLen: 1 << 20, MetaOffset: 4096 + 1<<20, MetaLen: 64 * 4096,
			DataOffset: 4096 + 1<<20 + 256*4096, DataLen: blockBytes * o.c.blocks}}
	if o.c.lazy {
		s.Commit, s.DisableDataFsync, s.DisableMetaFsync, s.DisableBufferFsync = store.CommitNone, false, false, false
	}
	return s
}

// start boots the OSD now and at each restart of the node.
func (o *testOSD) start() { o.node.SetProgram(o.boot) }

func (c *cluster) start() {
	for _, o := range c.osds {
		o.start()
	}
}

func (o *testOSD) boot(e *env.Env) {
	o.abandon()
	o.life++
	disk, err := e.Storage.OpenDisk("disk", env.DiskOptions{})
	if err != nil {
		o.c.t.Fatal(err)
	}
	s := o.storeConfig()
	s.OnFatal = func(err error) { o.c.t.Errorf("store of OSD %d: %v", o.num, err) }
	store.Open(e, store.Disks{Data: disk, Meta: disk, Buffer: disk}, s, func(st *store.Store, err error) {
		if err != nil {
			o.c.t.Fatal(err)
		}
		o.st = st
		if err := o.serve(e, s.Commit); err != nil {
			o.c.t.Fatal(err)
		}
	})
}

// abandon frees what a former life has left.
func (o *testOSD) abandon() {
	if o.ops != nil {
		o.ops.dead = true
	}
	if o.m != nil {
		o.m.Free()
	}
	if o.local != nil {
		o.local.Free()
	}
	if o.msgr != nil {
		o.msgr.Free()
	}
	if o.st != nil {
		o.st.Free()
	}
	o.reg, o.view, o.st, o.local, o.msgr, o.m, o.ops, o.heal, o.gone = nil, nil, nil, nil, nil, nil, nil, nil, false
}

func (o *testOSD) serve(e *env.Env, commit meta.CommitMode) (err error) {
	pc := Config{OSD: o.num, BlockBytes: blockBytes, GranuleBytes: granuleBytes, Commit: commit, RunPrimary: true, Keys: o.c.keys}
	if o.mod != nil {
		o.mod(&pc)
	}
	o.m = New(e, pc)
	if o.local, err = secondary.New(e, o.st, o.m.SecondaryView(), secondary.Config{OSD: o.num, BlockBytes: blockBytes,
		GranuleBytes: granuleBytes, Commit: commit, RunPrimary: true, ReadOnly: pc.ReadOnly, PGLocks: pc.PGLocks}); err != nil {
		return err
	}
	o.msgr, err = msgr.New(e, msgr.Options{OSD: o.num, Handler: o, ShowConfig: o.local.ShowConfig,
		Store:    &wire.StoreParams{BlockBytes: blockBytes, GranularityBytes: granuleBytes, Commit: commit},
		Timeouts: msgr.Timeouts{Connect: time.Second, ConnectInterval: time.Second, Idle: 2 * time.Second, Ping: 2 * time.Second},
		Limits:   msgr.Limits{ClientPayloadBytes: 68 << 20, PeerPayloadBytes: 68 << 20, ListBytes: 1 << 20}})
	if err != nil {
		return err
	}
	addr, err := o.msgr.Listen(netip.AddrPortFrom(o.node.Addr(), 7000+uint16(o.life%2)))
	if err != nil {
		return err
	}
	o.m.SetDeps(Deps{Store: o.st})
	o.m.Prepare(time.Second, func() { o.register(e, addr) })
	return nil
}

func (o *testOSD) register(e *env.Env, addr netip.AddrPort) {
	o.reg = registration.New(e, registration.Config{OSD: o.num, Keys: o.c.keys, TTL: leaseTTL, Patience: 20 * time.Second, QuickTimeout: time.Second,
		State: schema.OSDState{State: schema.StateUp, Addresses: []string{addr.Addr().String()}, Port: addr.Port(),
			PrimaryEnabled: true, BlockstoreEnabled: true, Version: "3.0.8"},
		Registered: func() { o.registered(e) }, Fatal: o.die,
		Exists: func(schema.OSDState) { o.die(fmt.Errorf("OSD %d exists", o.num)) }})
	o.reg.Start()
}

func (o *testOSD) registered(e *env.Env) {
	o.ops = &fakeOps{o: o, e: e, active: map[meta.PG]*activation{}}
	o.heal = &fakeHeal{flushing: map[meta.PG]bool{}, scrubs: map[meta.PG]uint64{}}
	o.view = clusterview.New(clusterview.Config{Clock: e.Clock, KV: e.KV, Log: e.Log, Keys: o.c.keys,
		Guard:   []env.Compare{{Key: o.c.keys.OSDState(o.num), Target: env.CompareLease, Number: int64(o.reg.Lease())}},
		Changed: o.changed, Fatal: o.die})
	o.m.SetDeps(Deps{View: o.view, Msgr: o.msgr, Local: o.local, Store: o.st, Ops: o.ops, Heal: o.heal,
		Lease: o.reg.Lease, MayServe: o.reg.MayServe, Fatal: o.die, Reported: func() { o.told++ }})
	if o.num%2 == 0 { // or when the view is loaded
		o.m.Start()
	}
	o.view.Start()
}

func (o *testOSD) changed(ch *clusterview.Changes) {
	if slices.Contains(ch.OSDs, o.num) && o.view.OSD(o.num) == nil {
		o.reg.Lost()
	}
	o.m.Changed(ch)
	if !o.m.started {
		o.m.Start()
	}
}

// die ends the process, and begins a new one after a while.
func (o *testOSD) die(err error) {
	if o.fatal == nil {
		o.fatal = err
	}
	node, life := o.node, o.life
	o.c.w.After(0, func() {
		if o.life == life && node.Running() {
			node.Crash()
			o.c.w.After(time.Second, func() {
				if !node.Running() {
					node.Restart()
				}
			})
		}
	})
}

func (o *testOSD) Serve(r *msgr.Request) {
	if o.hostile == nil || !o.hostile(r) {
		o.local.Serve(r)
	}
}
func (o *testOSD) Connected(c *msgr.Conn)                   { o.m.Connected(c) }
func (o *testOSD) ConnectFailed(osd meta.OSDNum, err error) {}
func (o *testOSD) Disconnected(c *msgr.Conn, reason error) {
	o.local.Disconnected(c)
	o.m.Disconnected(c)
}

// up tells whether the OSD runs its PGs.
func (o *testOSD) up() bool { return o.node.Running() && o.m != nil && o.m.started && !o.gone }

// fakeOps is what operations of clients look like to the Manager.
type fakeOps struct {
	o         *testOSD
	e         *env.Env
	dead      bool
	active    map[meta.PG]*activation
	recorded  map[meta.PG]uint64
	flushed   int
	activated func()        // is told
	stopTime  time.Duration // of operations
}

type activation struct {
	primary.Activation
	stopping, stopped bool
	at                time.Duration
}

func (f *fakeOps) Activate(a primary.Activation) {
	if f.active[a.PG] != nil {
		f.o.c.t.Errorf("OSD %d: PG %v is activated twice", f.o.num, a.PG)
	}
	if f.activated != nil {
		f.activated()
	}
	f.active[a.PG] = &activation{Activation: a, at: f.o.c.w.Now()}
	for _, x := range f.o.c.osds {
		if x != f.o && x.up() && x.reg.MayServe() && x.ops.active[a.PG] != nil && !x.ops.active[a.PG].stopped {
			f.o.c.t.Errorf("at %v PG %v is active on OSDs %d and %d", f.o.c.w.Now(), a.PG, f.o.num, x.num)
		}
	}
}

func (f *fakeOps) EpochRecorded(pg meta.PG, epoch uint64) {
	if f.recorded == nil {
		f.recorded = map[meta.PG]uint64{}
	}
	f.recorded[pg] = max(f.recorded[pg], epoch)
}

func (f *fakeOps) Stop(pg meta.PG, done func()) {
	a := f.active[pg]
	if a == nil || a.stopping {
		f.o.c.t.Errorf("OSD %d: PG %v is stopped, which is not active", f.o.num, pg)
		return
	}
	a.stopping = true
	t := &env.Timer{Fire: func() { a.stopped = true; done() }}
	f.e.Clock.Arm(t, f.stopTime+time.Duration(f.e.Rand.Uint64()%uint64(2*time.Millisecond)))
}

func (f *fakeOps) Reset(pg meta.PG) {
	a := f.active[pg]
	if a == nil || !a.stopped {
		f.o.c.t.Errorf("OSD %d: PG %v is reset, which was not stopped", f.o.num, pg)
		return
	}
	a.Objects.Free()
	delete(f.active, pg)
}

func (f *fakeOps) Flushed(pg meta.PG) {
	if f.active[pg] == nil {
		f.o.c.t.Errorf("OSD %d: PG %v is flushed, which is not active", f.o.num, pg)
	}
	f.flushed++
}

type fakeHeal struct {
	recoverable []meta.PG
	flushing    map[meta.PG]bool
	scrubs      map[meta.PG]uint64
}

func (h *fakeHeal) Recoverable(pg meta.PG)          { h.recoverable = append(h.recoverable, pg) }
func (h *fakeHeal) Stopped(pg meta.PG)              {}
func (h *fakeHeal) PlanScrub(pg meta.PG, at uint64) { h.scrubs[pg] = at }
func (h *fakeHeal) Flushing(pg meta.PG, on bool)    { h.flushing[pg] = on }

// write puts a version of a chunk into the store of an OSD, around everything.
func (o *testOSD) write(id meta.ObjectID, v meta.Version, stable bool) {
	o.c.t.Helper()
	op := &secondary.Op{}
	op.Kind, op.OID, op.Version, op.Len = store.OpWrite, id, v, 0
	if stable {
		op.Kind = store.OpWriteStable
	}
	done := false
	op.Done = func(op *secondary.Op) {
		if done = true; op.Err != 0 {
			o.c.t.Fatalf("OSD %d: write of %v: %v", o.num, id, op.Err)
		}
	}
	o.node.Do(func(*env.Env) { o.local.Submit(op) })
	if !o.c.w.RunUntil(func() bool { return done }, time.Minute) {
		o.c.t.Fatal("a write does not end")
	}
}

func (c *cluster) osd(n meta.OSDNum) *testOSD { return c.osds[n-1] }

// begin starts all OSDs and waits until they are registered.
func (c *cluster) begin() {
	c.t.Helper()
	c.start()
	c.until("all OSDs run", time.Minute, func() bool {
		return !slices.ContainsFunc(c.osds, func(o *testOSD) bool { return !o.up() || !o.view.Loaded() })
	})
}

// pg is the Manager's record of a PG on its primary.
func (c *cluster) pg(id meta.PG) *pg {
	return c.osd(c.config.Pool(id.Pool).PG(id.Num).Primary).m.pgs[id]
}

// move gives PGs whose primary has no key to another member of their set, as a
// monitor does.
func (c *cluster) move() {
	changed := false
	for i := range c.config.Pools {
		pgs := c.config.Pools[i].PGs
		for j := range pgs {
			t := &pgs[j]
			if c.get(c.keys.OSDState(t.Primary)) != nil {
				continue
			}
			for _, o := range t.OSDSet {
				if o != 0 && c.get(c.keys.OSDState(o)) != nil {
					t.Primary, changed = o, true
					break
				}
			}
		}
	}
	if changed {
		c.put(c.keys.PGConfig(), string(c.config.Encode()))
	}
}

// count counts lines of the log with a text.
func (c *cluster) count(text string) int { return strings.Count(c.log.String(), text) }

func id(pool meta.PoolID, n uint64, stripe uint64) meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(pool, n), Stripe: stripe}
}
