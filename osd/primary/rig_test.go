package primary

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

const (
	testBlock  = 128 << 10
	testGran   = 4096
	testBitmap = 4
)

// rig is a cluster without etcd and peering machines: the test plays osd/pgs.
// All OSDs run primary, secondary and store on simulated machines.
type rig struct {
	t      testing.TB
	w      *sim.World
	commit meta.CommitMode
	osds   map[meta.OSDNum]*osd
	pools  map[meta.PoolID]*schema.Pool
	inodes map[meta.Inode]*schema.SeenInode
	pgs    map[meta.PG]*rigPG
	config func(c *Config)

	epochDelay time.Duration
	block      uint32
	noEpochs   bool                  // etcd does not answer
	blocks     map[meta.OSDNum]int64 // of OSDs with small disks
}

// rigPG is what the test knows of a PG.
type rigPG struct {
	id       meta.PG
	set      []meta.OSDNum // target
	members  []meta.OSDNum // everybody who may have data
	primary  meta.OSDNum
	recorded uint64
	maxEpoch uint64
	running  bool // activated and not stopped
	stopping bool
	drained  bool
	arena    peering.Arena
	flags    meta.PGState
	needed   int // NeedEpoch calls
}

type osd struct {
	r     *rig
	num   meta.OSDNum
	node  *sim.Node
	disk  *sim.Disk
	st    *store.Store
	sec   *secondary.Server
	m     *msgr.Messenger
	pri   *Server
	addr  netip.AddrPort
	up    bool
	lease bool
	fatal error
	hook  func(r *msgr.Request) bool // answers requests itself
}

func newRig(t testing.TB, seed uint64, commit meta.CommitMode, osds int, opts ...func(r *rig)) *rig {
	t.Helper()
	o := sim.Options{}
	if os.Getenv("PRIMARY_LOG") != "" {
		o.Log = os.Stderr
	}
	r := &rig{t: t, w: sim.NewWorld(seed, o), commit: commit, osds: map[meta.OSDNum]*osd{}, pools: map[meta.PoolID]*schema.Pool{},
		inodes: map[meta.Inode]*schema.SeenInode{}, pgs: map[meta.PG]*rigPG{}, epochDelay: time.Millisecond, block: testBlock}
	for _, o := range opts {
		o(r)
	}
	for i := 1; i <= osds; i++ {
		r.addOSD(meta.OSDNum(i))
	}
	r.connectAll()
	t.Cleanup(r.free)
	return r
}

func (r *rig) free() {
	for _, o := range r.osds {
		o.release()
	}
}

func (o *osd) release() {
	if o.m != nil {
		o.m.Free()
		o.pri.Free()
		o.m = nil
	}
}

func (r *rig) addOSD(num meta.OSDNum) {
	a := r.areas(num)
	o := &osd{r: r, num: num, node: r.w.NewNode(fmt.Sprintf("osd%d", num))}
	o.disk = o.node.AddDisk("disk", sim.DiskConfig{SizeBytes: a.DataOffset + a.DataLen})
	r.osds[num] = o
	o.boot(a)
}

// areas is where things are on the disk of an OSD.
func (r *rig) areas(num meta.OSDNum) store.Areas {
	const data = 4096 + 8<<20 + 64*4096
	return store.Areas{BufferOffset: 4096, BufferLen: 8 << 20, MetaOffset: 4096 + 8<<20, MetaLen: 64 * 4096,
		DataOffset: data, DataLen: cmp.Or(r.blocks[num], 96) * int64(r.block)}
}

func (o *osd) boot(a store.Areas) {
	r := o.r
	r.t.Helper()
	var err error
	o.up, o.lease, o.fatal = false, true, nil
	c := store.Config{BlockBytes: r.block, GranuleBytes: testGran, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: r.commit,
		AtomicWriteBytes: 4096, BufferPoolBytes: 1 << 20, Areas: a}
	c.OnFatal = func(err error) { o.fatal = err }
	o.node.Do(func(e *env.Env) {
		disk, oerr := e.Storage.OpenDisk("disk", env.DiskOptions{})
		if oerr != nil {
			err = oerr
			return
		}
		store.Open(e, store.Disks{Data: disk, Meta: disk, Buffer: disk}, c, func(st *store.Store, serr error) {
			if err = serr; err == nil {
				err = o.serve(e, st)
				o.up = true
			}
		})
	})
	if !r.w.RunUntil(func() bool { return o.up || err != nil }, time.Hour) || err != nil {
		r.t.Fatalf("OSD %d does not start: %v", o.num, err)
	}
}

func (o *osd) serve(e *env.Env, st *store.Store) (err error) {
	r := o.r
	for id, p := range r.pools {
		st.Reshard(id, p.PGCount, p.PGStripeBytes)
	}
	o.st = st
	o.sec, err = secondary.New(e, st, o, secondary.Config{OSD: o.num, BlockBytes: r.block, GranuleBytes: testGran, Commit: r.commit, RunPrimary: true})
	if err != nil {
		return err
	}
	o.m, err = msgr.New(e, msgr.Options{OSD: o.num, Handler: o, ShowConfig: o.sec.ShowConfig,
		Timeouts: msgr.Timeouts{ConnectInterval: time.Second},
		Store:    &wire.StoreParams{BlockBytes: r.block, GranularityBytes: testGran, Commit: r.commit}})
	if err != nil {
		return err
	}
	c := Config{OSD: o.num, BlockBytes: r.block, GranuleBytes: testGran, Commit: r.commit,
		MayServe: func() bool { return o.lease }, Fatal: func(err error) { o.fatal = errors.Join(o.fatal, err) }}
	if r.config != nil {
		r.config(&c)
	}
	o.pri = New(e, o.sec, st, o.m, priView{o}, o, c)
	o.sec.SetPrimary(o.pri)
	o.addr, err = o.m.Listen(netip.AddrPortFrom(o.node.Addr(), 7000))
	return err
}

// priView is what the primary knows of the cluster.
type priView struct{ o *osd }

func (v priView) Pool(id meta.PoolID) *schema.Pool      { return v.o.r.pools[id] }
func (v priView) Inode(id meta.Inode) *schema.SeenInode { return v.o.r.inodes[id] }
func (v priView) PGCount(id meta.PoolID) uint32 {
	if p := v.o.r.pools[id]; p != nil {
		return p.PGCount
	}
	return 0
}

// What the secondary knows.
func (o *osd) Pool(id meta.PoolID) (secondary.Pool, bool) {
	p := o.r.pools[id]
	if p == nil {
		return secondary.Pool{}, false
	}
	return secondary.Pool{PGCount: p.PGCount, PGStripeBytes: p.PGStripeBytes, Replicated: p.Scheme == meta.Replicated}, true
}
func (o *osd) Primary(pg meta.PG) bool { p := o.r.pgs[pg]; return p != nil && p.primary == o.num }

// What the messenger tells.
func (o *osd) Serve(r *msgr.Request) {
	if o.hook == nil || !o.hook(r) {
		o.sec.Serve(r)
	}
}
func (o *osd) Connected(*msgr.Conn)             {}
func (o *osd) ConnectFailed(meta.OSDNum, error) {}
func (o *osd) Disconnected(c *msgr.Conn, reason error) {
	o.sec.Disconnected(c)
	o.pri.Disconnected(c)
	if c.Incoming() {
		return
	}
	for _, id := range o.r.sortedPGs() { // as osd/pgs does: the PG stops at once
		if p := o.r.pgs[id]; p.primary == o.num && p.running && slices.Contains(p.members, c.OSD()) {
			p.stop(o)
		}
	}
}

func (p *rigPG) stop(o *osd) {
	if p.running && !p.stopping {
		p.stopping, p.drained = true, false
		o.pri.Stop(p.id, func() { p.drained = true })
	}
}

// What the primary wants from us.
func (o *osd) NeedEpoch(id meta.PG, epoch uint64) {
	p := o.r.pgs[id]
	p.needed++
	if o.r.noEpochs {
		return
	}
	t := &env.Timer{}
	pri := o.pri
	t.Fire = func() {
		p.recorded = max(p.recorded, epoch)
		pri.EpochRecorded(id, p.recorded)
	}
	o.node.Env().Clock.Arm(t, o.r.epochDelay)
}

func (o *osd) FlagsChanged(id meta.PG, flags meta.PGState) { o.r.pgs[id].flags = flags }

func (r *rig) sortedPGs() []meta.PG {
	var ids []meta.PG
	for id := range r.pgs {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, meta.PG.Compare)
	return ids
}

func (r *rig) sortedOSDs() []*osd {
	var l []*osd
	for i := meta.OSDNum(1); len(l) < len(r.osds); i++ {
		if o := r.osds[i]; o != nil {
			l = append(l, o)
		}
	}
	return l
}

// connectAll connects every OSD that is up with every other.
func (r *rig) connectAll() {
	r.t.Helper()
	for _, a := range r.sortedOSDs() {
		for _, b := range r.sortedOSDs() {
			if a != b && a.up && b.up {
				a.node.Do(func(*env.Env) { a.m.SetAddresses(b.num, []netip.AddrPort{b.addr}); a.m.Want(b.num) })
			}
		}
	}
	ok := r.w.RunUntil(func() bool {
		for _, a := range r.osds {
			for _, b := range r.osds {
				if a != b && a.up && b.up && a.m.Conn(b.num) == nil {
					return false
				}
			}
		}
		return true
	}, time.Minute)
	if !ok {
		r.t.Fatal("OSDs do not connect")
	}
}

// pool adds a pool with one PG, on the given OSDs; the first is the primary.
func (r *rig) pool(id meta.PoolID, scheme meta.Scheme, parity int, set ...meta.OSDNum) *rigPG {
	r.t.Helper()
	p := &schema.Pool{ID: id, Scheme: scheme, PGSize: len(set), ParityChunks: parity, PGMinSize: 1, PGCount: 1, BlockBytes: r.block, GranularityBytes: testGran, Commit: r.commit}
	p.PGStripeBytes = p.ObjectBytes()
	r.pools[id] = p
	for _, o := range r.sortedOSDs() {
		o.node.Do(func(*env.Env) { o.st.Reshard(id, 1, p.PGStripeBytes) })
	}
	r.w.RunFor(time.Second)
	pg := &rigPG{id: meta.PG{Pool: id, Num: 1}, set: set, members: slices.Clone(set), primary: set[0]}
	r.pgs[pg.id] = pg
	r.peer(pg)
	return pg
}

// peer stops the PG if it runs, lists, calculates, activates and flushes.
func (r *rig) peer(p *rigPG) {
	r.t.Helper()
	r.stop(p)
	for !r.activate(p) {
		r.w.RunFor(time.Second)
	}
	r.flush(p)
}

func (r *rig) stop(p *rigPG) {
	r.t.Helper()
	o := r.osds[p.primary]
	if !p.running {
		return
	}
	o.node.Do(func(*env.Env) { p.stop(o) })
	if !r.w.RunUntil(func() bool { return p.drained }, time.Minute) {
		r.t.Fatalf("PG %v does not stop: %s", p.id, o.pri.describe(p.id))
	}
	o.node.Do(func(*env.Env) { o.pri.Reset(p.id) })
	p.running, p.stopping = false, false
}

// activate calculates the state from what all members list.
func (r *rig) activate(p *rigPG) bool {
	r.t.Helper()
	pool, o := r.pools[p.id.Pool], r.osds[p.primary]
	p.members = union(p.members, p.set)
	cur := slices.Clone(p.set)
	var peers, dead []meta.OSDNum
	for _, m := range p.members {
		if x := r.osds[m]; x.up && (m == o.num || o.m.Conn(m) != nil) {
			peers = append(peers, m)
		} else {
			dead = append(dead, m)
		}
	}
	for i, m := range cur {
		if !slices.Contains(peers, m) {
			cur[i] = 0
		}
	}
	c := peering.NewCalc(peering.Layout{PG: p.id, PGCount: pool.PGCount, PGStripeBytes: pool.PGStripeBytes,
		Scheme: pool.Scheme, DataChunks: pool.DataChunks(), CurSet: cur}, &p.arena)
	for _, m := range peers {
		stable, unstable, ok := r.listForPeering(o, r.osds[m], p.id)
		if !ok {
			c.Free()
			return false
		}
		l := c.Open(m, 0)
		for _, err := range []error{l.AddItems(stable, true), l.AddItems(unstable, false), l.Close()} {
			if err != nil {
				r.t.Fatal(err)
			}
		}
	}
	for !c.Step(1000) {
	}
	objects, sum := c.Result()
	c.Free()
	if sum.Invalid != "" {
		r.t.Fatalf("PG %v: %s", p.id, sum.Invalid)
	}
	epoch := max(sum.MaxEpoch, p.recorded, p.maxEpoch)
	if sum.Flags != 0 || len(dead) > 0 || objects.CurSize() < len(cur) {
		epoch++
	}
	p.maxEpoch = max(epoch, 1)
	p.flags = objects.Flags()
	p.running, p.stopping = true, false
	o.node.Do(func(*env.Env) {
		o.pri.Activate(Activation{PG: p.id, Epoch: p.maxEpoch, Objects: objects, CurPeers: peers, DeadPeers: dead})
	})
	return true
}

func union(a, b []meta.OSDNum) []meta.OSDNum {
	for _, x := range b {
		if x != 0 && !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return schema.NormalSet(a)
}

// list lists the PG on an OSD, not as a primary does.
func (r *rig) list(o *osd, pg meta.PG) (stable, unstable []meta.ObjectVersion) {
	r.t.Helper()
	return r.listWith(o, pg, 1<<20)
}

func (r *rig) listWith(o *osd, pg meta.PG, limit int) (stable, unstable []meta.ObjectVersion) {
	r.t.Helper()
	pool, done := r.pools[pg.Pool], false
	q := wire.PeeringList(pg, pool.PGCount, pool.PGStripeBytes)
	l := &store.List{Pool: pg.Pool, PG: pg.Num, PGCount: pool.PGCount, PGStripeBytes: pool.PGStripeBytes, Min: q.Min, Max: q.Max, StableLimit: limit}
	op := &secondary.Op{Op: store.Op{Kind: store.OpList, List: l}, Done: func(*secondary.Op) { done = true }}
	o.node.Do(func(*env.Env) { o.sec.Submit(op) })
	if !r.w.RunUntil(func() bool { return done }, time.Minute) || op.Err != 0 {
		r.t.Fatalf("listing on OSD %d: %v", o.num, op.Err)
	}
	return l.Stable, l.Unstable
}

// listForPeering lists as a primary does; ok is false when the connection fails.
func (r *rig) listForPeering(from, to *osd, pg meta.PG) (stable, unstable []meta.ObjectVersion, ok bool) {
	r.t.Helper()
	if from == to {
		stable, unstable = r.listWith(to, pg, 0)
		return stable, unstable, true
	}
	pool, done := r.pools[pg.Pool], false
	q := wire.PeeringList(pg, pool.PGCount, pool.PGStripeBytes)
	op := &msgr.Op{Done: func(*msgr.Op) { done = true }}
	op.Grow = func(op *msgr.Op, n int) bool { op.Body = [][]byte{make([]byte, n)}; return true }
	q.Encode(&op.Packet)
	from.node.Do(func(*env.Env) {
		if c := from.m.Conn(to.num); c != nil {
			c.Submit(op)
		} else {
			done, op.Retval = true, wire.EPIPE
		}
	})
	if !r.w.RunUntil(func() bool { return done }, time.Minute) {
		r.t.Fatalf("listing on OSD %d does not end", to.num)
	}
	if op.Retval.Failed() {
		return nil, nil, false
	}
	var re wire.SecListReply
	re.Decode(&op.Reply)
	for i := range int(op.Retval) {
		if v := wire.ObjectList(op.Body[0]).At(i); uint64(i) < re.StableCount {
			stable = append(stable, v)
		} else {
			unstable = append(unstable, v)
		}
	}
	return stable, unstable, true
}

// flush settles unstable versions, as osd/pgs does.
func (r *rig) flush(p *rigPG) {
	r.t.Helper()
	o := r.osds[p.primary]
	for p.running && !p.stopping {
		batch := o.pri.Objects(p.id).FlushBatch()
		if len(batch) == 0 {
			return
		}
		left := 0
		for _, it := range batch {
			x := r.osds[it.OSD]
			op := &secondary.Op{Op: store.Op{Kind: store.OpStabilize, Items: []meta.ObjectVersion{it.ObjectVersion}}}
			if it.Rollback {
				op.Kind = store.OpRollback
			}
			left++
			op.Done = func(op *secondary.Op) {
				left--
				if op.Err != 0 {
					r.t.Errorf("flush of %+v: %v", it, op.Err)
				}
			}
			x.node.Do(func(*env.Env) { x.sec.Submit(op) })
		}
		if !r.w.RunUntil(func() bool { return left == 0 }, time.Minute) {
			r.t.Fatal("flush does not end")
		}
		if !p.running || p.stopping {
			return
		}
		o.node.Do(func(*env.Env) { o.pri.Objects(p.id).FlushDone(); o.pri.Flushed(p.id) })
	}
}

// crash kills an OSD; what is acknowledged stays on its disk.
func (r *rig) crash(num meta.OSDNum) {
	o := r.osds[num]
	o.up = false
	for _, p := range r.pgs {
		if p.primary == num {
			p.running, p.stopping = false, false
		}
	}
	o.node.Crash()
	o.release()
	r.w.RunFor(100 * time.Millisecond)
}

// restart starts a crashed OSD again.
func (r *rig) restart(num meta.OSDNum) {
	o := r.osds[num]
	o.node.Restart()
	o.boot(r.areas(num))
	r.w.RunFor(time.Second)
	r.connectAll()
}
