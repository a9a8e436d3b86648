package client_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

const (
	block   = 16384
	granule = 4096
	units   = block / granule
)

// fake is a cluster of scripted OSDs: they share one store, and one truth about
// who is primary of what, and misbehave on request.
type fake struct {
	t     testing.TB
	w     *sim.World
	keys  schema.Keys
	osds  map[meta.OSDNum]*fakeOSD
	pools map[meta.PoolID]*fakePool
	// primary is the truth; what etcd says may lag behind it.
	primary map[meta.PG]meta.OSDNum
	objects map[meta.ObjectID]*object
	revs    map[meta.Inode]int64
	parents map[meta.Inode]meta.Inode
	client  *sim.Node
	log     []string // requests executed, if wanted
	logging bool
}

type fakePool struct {
	commit  string
	pgs     uint32
	local   string
	granule uint32
}

// object is the content of an object and what a crash may undo.
type object struct {
	content
	undo []content // states before unsynced changes, the oldest first
}

type content struct {
	data    [block]byte
	bits    uint8 // per granule
	version uint64
}

type fakeOSD struct {
	*fake
	num   meta.OSDNum
	node  *sim.Node
	env   *env.Env
	msgr  *msgr.Messenger
	addr  netip.AddrPort
	dirty map[*msgr.Conn]map[meta.PG]bool
	// chances of trouble per request
	epipe, eio, enospc, drop, dropAfter float64
	delay                               time.Duration // up to
	fail                                func(r *msgr.Request) wire.Retval
	held                                []func() // requests that wait for release
	hold                                bool
	lost                                int // connections
}

func newFake(t testing.TB, seed uint64, osds int, pools map[meta.PoolID]*fakePool) *fake {
	var log io.Writer
	if testing.Verbose() {
		log = testLog{t}
	}
	f := &fake{t: t, w: sim.NewWorld(seed, sim.Options{Log: log}), keys: schema.NewKeys("/vitastor"),
		osds: map[meta.OSDNum]*fakeOSD{}, pools: pools, primary: map[meta.PG]meta.OSDNum{},
		objects: map[meta.ObjectID]*object{}, revs: map[meta.Inode]int64{}, parents: map[meta.Inode]meta.Inode{}}
	f.w.NewKV()
	for n := meta.OSDNum(1); n <= meta.OSDNum(osds); n++ {
		f.startOSD(n)
	}
	f.putPools()
	for _, id := range f.poolIDs() {
		f.putPGs(id)
	}
	f.client = f.w.NewNode("client")
	return f
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) { l.t.Logf("%s", b); return len(b), nil }

func (f *fake) poolIDs() []meta.PoolID { return slices.Sorted(maps.Keys(f.pools)) }

func (f *fake) put(key, value string) int64 {
	op := env.KVOp{Kind: env.KVPut, Key: key, Value: []byte(value)}
	if value == "" {
		op = env.KVOp{Kind: env.KVDelete, Key: key}
	}
	r, err := f.w.KV().Apply(&env.Txn{Then: []env.KVOp{op}})
	if err != nil {
		f.t.Fatal(err)
	}
	return r.Revision
}

func (f *fake) putPools() {
	all := map[string]any{}
	for id, p := range f.pools {
		g := p.granule
		if g == 0 {
			g = granule
		}
		all[fmt.Sprint(id)] = map[string]any{"name": fmt.Sprint("pool", id), "scheme": "replicated", "pg_size": 2,
			"pg_minsize": 1, "pg_count": p.pgs, "block_size": block, "bitmap_granularity": g,
			"immediate_commit": p.commit, "failure_domain": "osd", "local_reads": p.local}
	}
	text, _ := json.Marshal(all)
	f.put(f.keys.Pools(), string(text))
}

// putPGs makes pg/config of a pool, and PG n active on OSD n mod count.
func (f *fake) putPGs(ids ...meta.PoolID) {
	config := &schema.PGConfig{Hash: "x"}
	for _, id := range f.poolIDs() {
		var pgs []schema.PGTarget
		for n := range f.pools[id].pgs {
			a, b := f.nth(int(n)), f.nth(int(n)+1)
			pgs = append(pgs, schema.PGTarget{Num: meta.PGNum(n + 1), OSDSet: []meta.OSDNum{a, b}, Primary: a})
		}
		config.SetPool(id, pgs)
	}
	f.put(f.keys.PGConfig(), string(config.Encode()))
	for _, id := range ids {
		for n := range f.pools[id].pgs {
			f.setPrimary(meta.PG{Pool: id, Num: meta.PGNum(n + 1)}, f.nth(int(n)))
		}
	}
}

func (f *fake) nth(n int) meta.OSDNum { return meta.OSDNum(n%len(f.osds) + 1) }

// setPrimary moves a PG; 0 = offline.
func (f *fake) setPrimary(pg meta.PG, to meta.OSDNum) {
	if old := f.primary[pg]; old != 0 && old != to {
		f.stopPG(f.osds[old], pg)
	}
	f.primary[pg] = to
	if to == 0 {
		f.put(f.keys.PGState(pg), "")
		return
	}
	s := schema.PGState{Primary: to, State: meta.PGActive, Peers: []meta.OSDNum{to}}
	f.put(f.keys.PGState(pg), string(s.Encode()))
}

// stopPG is what an OSD does when it is not primary any more: unsynced writes
// may be undone, and clients that made some are disconnected (osd.md §8).
func (f *fake) stopPG(o *fakeOSD, pg meta.PG) {
	f.undo(pg)
	if o.msgr == nil {
		return
	}
	o.node.Do(func(*env.Env) {
		o.msgr.Connections(func(c *msgr.Conn) {
			if o.dirty[c][pg] {
				c.Drop(fmt.Errorf("PG %v stops", pg))
			}
		})
	})
}

// undo loses some unsynced changes of a PG.
func (f *fake) undo(pg meta.PG) {
	for _, id := range slices.SortedFunc(maps.Keys(f.objects), meta.ObjectID.Compare) {
		o := f.objects[id]
		if f.pgOf(id) != pg || len(o.undo) == 0 {
			continue
		}
		if n := f.w.Rand().IntN(len(o.undo) + 1); n < len(o.undo) {
			o.content = o.undo[n]
		}
		o.undo = nil
	}
}

func (f *fake) pgOf(id meta.ObjectID) meta.PG {
	p := id.Inode.Pool()
	return meta.PG{Pool: p, Num: meta.PGOf(id.Stripe, block, f.pools[p].pgs)}
}

func (f *fake) startOSD(n meta.OSDNum) {
	o := f.osds[n]
	if o == nil {
		o = &fakeOSD{fake: f, num: n, node: f.w.NewNode(fmt.Sprint("osd", n))}
		f.osds[n] = o
	} else {
		o.node.Restart()
	}
	o.dirty = map[*msgr.Conn]map[meta.PG]bool{}
	o.held = nil
	o.node.Do(func(e *env.Env) {
		m, err := msgr.New(e, msgr.Options{OSD: n, Handler: o,
			ShowConfig: func(*msgr.Conn, wire.ConfigRequest) wire.ConfigReply {
				return wire.ConfigReply{OSDNum: n, ProtocolVersion: 1, BlockBytes: block, GranularityBytes: granule, ImmediateCommit: "all"}
			}})
		if err != nil {
			f.t.Fatal(err)
		}
		o.env, o.msgr = e, m
		if o.addr, err = m.Listen(netip.AddrPortFrom(o.node.Addr(), 0)); err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(m.Free)
	})
	f.putOSD(n, true)
}

func (f *fake) putOSD(n meta.OSDNum, up bool) {
	if !up {
		f.put(f.keys.OSDState(n), "")
		return
	}
	o := f.osds[n]
	s := schema.OSDState{State: "up", Addresses: []string{o.addr.Addr().String()}, Port: o.addr.Port(),
		Host: fmt.Sprint("host", n), PrimaryEnabled: true, BlockstoreEnabled: true}
	f.put(f.keys.OSDState(n), string(s.Encode()))
}

// crash kills an OSD; its PGs lose unsynced changes and go elsewhere after a
// while.
func (f *fake) crash(n meta.OSDNum, takeover time.Duration) {
	o := f.osds[n]
	o.node.Crash()
	o.msgr = nil
	for _, pg := range f.allPGs() {
		if f.primary[pg] == n {
			f.undo(pg)
			f.primary[pg] = 0
			f.w.After(takeover, func() {
				if f.primary[pg] == 0 {
					f.setPrimary(pg, f.nth(int(n)))
				}
			})
		}
	}
	f.w.After(takeover/2, func() {
		if o.msgr == nil {
			f.putOSD(n, false)
		}
	})
}

func (f *fake) allPGs() []meta.PG { return slices.SortedFunc(maps.Keys(f.primary), meta.PG.Compare) }

func (f *fake) putInode(i meta.Inode, name string, size uint64, parent meta.Inode, readonly bool) {
	c := schema.InodeConfig{ID: i, Name: name, Size: size, Parent: parent, ReadOnly: readonly}
	f.revs[i] = f.put(f.keys.InodeConfig(i), string(c.Encode()))
	f.parents[i] = parent
}

// simpleLayer makes a source of parameters of names and values.
func simpleLayer(list ...string) []option.Layer {
	l := option.Layer{Source: option.CommandLine, Where: "the test"}
	for i := 0; i < len(list); i += 2 {
		l.Values.SetString(list[i], list[i+1])
	}
	return []option.Layer{l}
}

// start makes the client.
func (f *fake) start(params map[string]string) *client.Client {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(params)) {
		list = append(list, k, params[k])
	}
	var c *client.Client
	f.client.Do(func(e *env.Env) {
		var err error
		c, err = client.New(e, client.Config{Facts: option.Facts{Hostname: "host2"},
			Layers: simpleLayer(list...)})
		if err != nil {
			f.t.Fatal(err)
		}
		c.Start(func(err error) {
			if err != nil {
				f.t.Error(err)
			}
		})
	})
	f.t.Cleanup(c.Free)
	return c
}

// run submits an operation and waits for it.
func (f *fake) run(c *client.Client, op *client.Op) *client.Op {
	f.t.Helper()
	done := f.begin(c, op)
	if !f.w.RunUntil(func() bool { return *done > 0 }, time.Minute) {
		f.t.Fatalf("%v at %d is not completed", op.Kind, op.Offset)
	}
	return op
}

// begin submits an operation; the result counts completions.
func (f *fake) begin(c *client.Client, op *client.Op) *int {
	done := new(int)
	f.client.Do(func(*env.Env) {
		inside := true
		op.Done = func(*client.Op) {
			if inside {
				f.t.Error("Done was called inside Submit")
			}
			if *done++; *done > 1 {
				f.t.Error("an operation was completed twice")
			}
		}
		c.Submit(op)
		inside = false
	})
	return done
}

// end closes the client: everything must come back.
func (f *fake) end(c *client.Client) {
	f.t.Helper()
	closed := false
	f.client.Do(func(*env.Env) { c.Close(func() { closed = true }) })
	if !f.w.RunUntil(func() bool { return closed }, time.Minute) {
		f.t.Errorf("Close does not end: %d operations are left", c.Outstanding())
	}
}

func inode(pool meta.PoolID, n uint64) meta.Inode { return meta.MakeInode(pool, n) }
