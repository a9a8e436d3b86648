package heal

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// cluster is a PG of a pool on real stores and connections: OSDs 1..n, of which
// the first runs the primary and the Healer. Peering is left out: the tests say
// where objects are.
type cluster struct {
	t       testing.TB
	w       *sim.World
	pool    schema.Pool
	osds    []*osd
	code    *ec.Code // nil: replicated
	buf     []byte
	arena   peering.Arena
	p       *primary.Server
	h       *Healer
	planned []plan
	flags   meta.PGState
	commit  meta.CommitMode
	epoch   uint64
	client  *client
}

type osd struct {
	c    *cluster
	num  meta.OSDNum
	node *sim.Node
	disk *sim.Disk
	area store.Areas
	st   *store.Store
	s    *secondary.Server
	m    *msgr.Messenger
	addr netip.AddrPort
	up   int // connections made that are ready
}

type clusterConfig struct {
	pool    schema.Pool
	csum    uint32 // checksum block of the stores, 0 = none
	osds    int    // 0: pg_size
	curSet  []meta.OSDNum
	objects int // blocks of each disk
	options func(o *Options)
	disk    sim.DiskConfig
	net     sim.NetConfig
	lazy    bool // immediate_commit none
}

var (
	rep2 = schema.Pool{ID: 1, Scheme: meta.Replicated, PGSize: 2, BlockBytes: 128 << 10}
	rep3 = schema.Pool{ID: 1, Scheme: meta.Replicated, PGSize: 3, BlockBytes: 128 << 10}
	ec42 = schema.Pool{ID: 1, Scheme: meta.EC, PGSize: 6, ParityChunks: 2, BlockBytes: 128 << 10}
	ec21 = schema.Pool{ID: 1, Scheme: meta.EC, PGSize: 3, ParityChunks: 1, BlockBytes: 128 << 10}
	xor3 = schema.Pool{ID: 1, Scheme: meta.XOR, PGSize: 4, ParityChunks: 1, BlockBytes: 128 << 10}
)

var onlyPG = meta.PG{Pool: 1, Num: 1}

func newCluster(t testing.TB, seed uint64, cc clusterConfig) *cluster {
	t.Helper()
	c := &cluster{t: t, w: sim.NewWorld(seed, sim.Options{Net: cc.net}), pool: cc.pool, epoch: 1}
	if c.commit = meta.CommitAll; cc.lazy {
		c.commit = meta.CommitNone
	}
	c.pool.GranularityBytes, c.pool.PGCount, c.pool.Commit = 4096, 1, c.commit
	c.pool.PGStripeBytes = c.pool.ObjectBytes()
	c.pool.PGMinSize = c.pool.DataChunks()
	var err error
	if c.buf, err = pinned.AlignedBuffer(int(c.pool.BlockBytes)); err != nil {
		t.Fatal(err)
	}
	switch c.pool.Scheme {
	case meta.EC:
		c.code, _ = ec.New(ec.ReedSolomon, c.pool.DataChunks(), c.pool.ParityChunks)
	case meta.XOR:
		c.code, _ = ec.New(ec.XOR, c.pool.DataChunks(), 1)
	}
	if cc.osds == 0 {
		cc.osds = c.pool.PGSize
	}
	for n := range cc.osds {
		c.osds = append(c.osds, c.newOSD(meta.OSDNum(n+1), cc))
	}
	c.connect()
	if cc.curSet == nil {
		for n := range c.pool.PGSize {
			cc.curSet = append(cc.curSet, meta.OSDNum(n+1))
		}
	}
	c.start(cc)
	c.activate(cc.curSet)
	t.Cleanup(c.free)
	return c
}

func (c *cluster) free() {
	c.h.Free()
	c.p.Free()
	for _, o := range c.osds {
		o.m.Free()
	}
	if c.client != nil {
		c.client.m.Free()
	}
	c.arena.Free()
	pinned.Free(c.buf)
}

func (c *cluster) newOSD(n meta.OSDNum, cc clusterConfig) *osd {
	o := &osd{c: c, num: n, node: c.w.NewNode(fmt.Sprintf("osd%d", n))}
	block, blocks := int64(c.pool.BlockBytes), int64(max(cc.objects, 32))
	o.area = store.Areas{BufferOffset: 4096, BufferLen: 8 << 20, MetaOffset: 4096 + 8<<20, MetaLen: 64 * 4096,
		DataOffset: 4096 + 8<<20 + 64*4096, DataLen: blocks * block}
	if cc.csum != 0 {
		o.area.MetaLen *= 8
		o.area.DataOffset = o.area.MetaOffset + o.area.MetaLen
	}
	d := cc.disk
	d.SizeBytes = o.area.DataOffset + o.area.DataLen
	o.disk = o.node.AddDisk("disk", d)
	var err error
	o.node.Do(func(e *env.Env) {
		disk, oerr := e.Storage.OpenDisk("disk", env.DiskOptions{})
		if oerr != nil {
			err = oerr
			return
		}
		store.Open(e, store.Disks{Data: disk, Meta: disk, Buffer: disk}, store.Config{BlockBytes: c.pool.BlockBytes,
			GranuleBytes: 4096, MetaBlockBytes: 4096, CsumBytes: cc.csum, DisableDataFsync: true, DisableMetaFsync: true,
			DisableBufferFsync: true, Commit: c.commit, BufferPoolBytes: 16 << 20, Areas: o.area,
			OnFatal: func(err error) { c.t.Errorf("store: %v", err) },
		}, func(st *store.Store, serr error) {
			if err = errors.Join(err, serr); err == nil {
				err = o.serve(e, st)
			}
		})
	})
	if !c.w.RunUntil(func() bool { return o.m != nil || err != nil }, time.Hour) || err != nil {
		c.t.Fatalf("OSD does not start: %v", err)
	}
	return o
}

func (o *osd) serve(e *env.Env, st *store.Store) error {
	st.Reshard(1, 1, o.c.pool.PGStripeBytes)
	s, err := secondary.New(e, st, o, secondary.Config{OSD: o.num, BlockBytes: o.c.pool.BlockBytes, GranuleBytes: 4096,
		Commit: o.c.commit, RunPrimary: true})
	if err != nil {
		return err
	}
	m, err := msgr.New(e, msgr.Options{OSD: o.num, Handler: o, ShowConfig: s.ShowConfig,
		Store: &wire.StoreParams{BlockBytes: o.c.pool.BlockBytes, GranularityBytes: 4096, Commit: o.c.commit}})
	if err != nil {
		return err
	}
	o.st, o.s = st, s
	o.addr, err = m.Listen(netip.AddrPortFrom(o.node.Addr(), 7000))
	o.m = m
	return err
}

func (o *osd) Pool(meta.PoolID) (secondary.Pool, bool) {
	return secondary.Pool{PGCount: 1, PGStripeBytes: o.c.pool.PGStripeBytes, Replicated: o.c.code == nil}, true
}
func (o *osd) Primary(meta.PG) bool             { return o.num == 1 }
func (o *osd) Serve(r *msgr.Request)            { o.s.Serve(r) }
func (o *osd) ConnectFailed(meta.OSDNum, error) {}
func (o *osd) Connected(k *msgr.Conn) {
	if !k.Incoming() {
		o.up++
	}
}
func (o *osd) Disconnected(k *msgr.Conn, _ error) {
	if !k.Incoming() {
		o.up--
	}
	o.s.Disconnected(k)
	if o.num == 1 && o.c.p != nil {
		o.c.p.Disconnected(k)
	}
}

// connect makes the connections of the primary.
func (c *cluster) connect() {
	first := c.osds[0]
	first.node.Do(func(*env.Env) {
		for _, o := range c.osds[1:] {
			first.m.SetAddresses(o.num, []netip.AddrPort{o.addr})
			first.m.Want(o.num)
		}
	})
	if !c.w.RunUntil(func() bool { return first.up == len(c.osds)-1 }, time.Minute) {
		c.t.Fatal("no connections")
	}
}

// start makes the primary and the Healer.
func (c *cluster) start(cc clusterConfig) {
	first := c.osds[0]
	first.node.Do(func(e *env.Env) {
		c.p = primary.New(e, first.s, first.st, first.m, c, c, primary.Config{OSD: 1, BlockBytes: c.pool.BlockBytes, GranuleBytes: 4096,
			Commit: c.commit, AutosyncInterval: 100 * time.Millisecond, AutosyncWrites: 30, RecoverySyncBatch: 4, MayServe: func() bool { return true }, Fatal: func(err error) { c.t.Errorf("primary: %v", err) }})
		first.s.SetPrimary(c.p)
		o := defaults()
		if cc.options != nil {
			cc.options(&o)
		}
		var err error
		c.h, err = New(e, Deps{Primary: c.p, Local: first.s, Peers: first.m, View: c, Owner: c},
			Config{OSD: 1, BlockBytes: c.pool.BlockBytes, GranuleBytes: 4096, Options: o})
		if err != nil {
			c.t.Fatal(err)
		}
		c.p.SetScrub(c.h.Scrub)
	})
}

// The View and the Owner of primary and Healer.

func (c *cluster) Pool(id meta.PoolID) *schema.Pool {
	if id != 1 {
		return nil
	}
	return &c.pool
}
func (c *cluster) PGCount(meta.PoolID) uint32         { return 1 }
func (c *cluster) Inode(meta.Inode) *schema.SeenInode { return nil }
func (c *cluster) FlagsChanged(pg meta.PG, flags meta.PGState) {
	added := flags &^ c.flags
	if c.flags = flags; added&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0 {
		c.h.Recoverable(pg) // as peering.Machine does
	}
}
func (c *cluster) ScrubPlanned(pg meta.PG, at uint64) { c.planned = append(c.planned, plan{pg, at}) }
func (c *cluster) NeedEpoch(pg meta.PG, epoch uint64) {
	c.epoch = max(c.epoch, epoch)
	task := &env.Task{Run: func() { c.p.EpochRecorded(pg, c.epoch) }}
	c.osds[0].node.Env().Exec.Defer(task)
}

func (c *cluster) do(f func()) { c.osds[0].node.Do(func(*env.Env) { f() }) }

func (c *cluster) layout(curSet []meta.OSDNum) peering.Layout {
	return peering.Layout{PG: onlyPG, PGCount: 1, PGStripeBytes: c.pool.PGStripeBytes, Scheme: c.pool.Scheme,
		DataChunks: c.pool.DataChunks(), CurSet: curSet}
}

// activate begins to serve the PG, with nothing in it.
func (c *cluster) activate(curSet []meta.OSDNum) {
	calc := peering.NewCalc(c.layout(curSet), &c.arena)
	calc.Step(1)
	objects, _ := calc.Result()
	c.do(func() {
		c.p.Activate(primary.Activation{PG: onlyPG, Epoch: 1, Objects: objects, CurPeers: slices.Clone(curSet)})
	})
}

func (c *cluster) objects() *peering.Objects { return c.p.Objects(onlyPG) }

func (c *cluster) object(n int) meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(1, 7), Stripe: uint64(n) * c.pool.ObjectBytes()}
}

// content is the chunk of a role of object n.
func (c *cluster) content(n int) [][]byte {
	chunks := make([][]byte, c.pool.PGSize)
	for role := range chunks {
		chunks[role] = make([]byte, c.pool.BlockBytes)
		if role > 0 && c.code == nil {
			copy(chunks[role], chunks[0])
			continue
		}
		for i := range chunks[role] {
			chunks[role][i] = byte(i*7 + i>>12*13 + i>>5 + n*31 + role*101)
		}
	}
	if c.code != nil {
		k := c.pool.DataChunks()
		if err := c.code.Encode(chunks[:k], chunks[k:]); err != nil {
			c.t.Fatal(err)
		}
	}
	return chunks
}

const version1 = meta.Version(1<<16 | 1)

// populate writes clean objects from..to-1 to the current set.
func (c *cluster) populate(from, to int) {
	for n := from; n < to; n++ {
		chunks := c.content(n)
		for role, num := range c.objects().CurSet {
			if num != 0 {
				c.osds[num-1].write(c.chunk(n, role), version1, chunks[role])
			}
		}
		c.objects().Created()
	}
}

// chunk is the id of a chunk as it is stored.
func (c *cluster) chunk(n, role int) meta.ObjectID {
	if c.code == nil {
		role = 0
	}
	return c.object(n).WithRole(meta.Role(role))
}

// exec runs an operation on the store, behind the back of the primary.
func (o *osd) exec(op *secondary.Op) {
	o.c.t.Helper()
	done := false
	op.Done = func(*secondary.Op) { done = true }
	o.node.Do(func(*env.Env) { o.s.Submit(op) })
	if !o.c.w.RunUntil(func() bool { return done }, time.Minute) {
		o.c.t.Fatalf("OSD %d does not answer", o.num)
	}
}

func (o *osd) write(id meta.ObjectID, v meta.Version, data []byte) {
	o.c.t.Helper()
	copy(o.c.buf, data)
	op := &secondary.Op{}
	op.Kind, op.OID, op.Version, op.Len, op.Buf = store.OpWriteStable, id, v, uint32(len(data)), o.c.buf[:len(data)]
	op.Bitmap = bytes.Repeat([]byte{0xff}, o.c.pool.BitmapBytes())
	if o.exec(op); op.Err != 0 {
		o.c.t.Fatalf("OSD %d: write of %v: %v", o.num, id, op.Err)
	}
}

func (o *osd) remove(id meta.ObjectID, v meta.Version) {
	op := &secondary.Op{}
	op.Kind, op.OID, op.Version = store.OpDelete, id, v
	if o.exec(op); op.Err != 0 {
		o.c.t.Fatal(op.Err)
	}
}

// read returns the content of a chunk and its version.
func (o *osd) read(id meta.ObjectID) ([]byte, meta.Version, syscall.Errno) {
	op := &secondary.Op{}
	op.Kind, op.OID, op.Version, op.Len, op.Buf = store.OpRead, id, meta.NewestVersion, o.c.pool.BlockBytes, o.c.buf
	o.exec(op)
	return bytes.Clone(o.c.buf), op.Version, op.Err
}

// rot flips a bit of a chunk on the disk.
func (o *osd) rot(data []byte, at int) {
	o.c.t.Helper()
	im := o.disk.Image()
	head := make([]byte, 64)
	for off := o.area.DataOffset; off < o.area.DataOffset+o.area.DataLen; off += int64(o.c.pool.BlockBytes) {
		if im.ReadAt(head, off); bytes.Equal(head, data[:64]) {
			o.disk.FlipBit(off+int64(at), 3)
			return
		}
	}
	o.c.t.Fatalf("OSD %d does not have the chunk", o.num)
}

// states describes all objects that are not clean: number, state, locations.
func (c *cluster) states() string {
	var out []string
	from := meta.ObjectID{}
	for {
		id, r := c.objects().Next(from, 0)
		if r == nil {
			return strings.Join(out, "; ")
		}
		text := fmt.Sprintf("%d %v", id.Stripe/c.pool.ObjectBytes(), r.State)
		locs := slices.Clone(r.Locs)
		slices.SortFunc(locs, func(a, b peering.Location) int {
			return byRole(reading{loc: a}, reading{loc: b})
		})
		for _, l := range locs {
			text += fmt.Sprintf(" %d@%d", l.Role, l.OSD)
			if l.Bad != 0 {
				text += fmt.Sprintf("=%d", l.Bad)
			}
		}
		out = append(out, text)
		from = after(id)
	}
}

// verify compares all chunks of clean objects on the disks.
func (c *cluster) verify(from, to int) {
	c.t.Helper()
	for n := from; n < to; n++ {
		chunks := c.content(n)
		version := meta.NoVersion
		for role, num := range c.objects().CurSet {
			if num == 0 {
				continue
			}
			got, v, err := c.osds[num-1].read(c.chunk(n, role))
			if err != 0 || !bytes.Equal(got, chunks[role]) {
				c.t.Errorf("object %d, chunk %d on OSD %d: %v, or wrong data", n, role, num, err)
			}
			if version != meta.NoVersion && v != version {
				c.t.Errorf("object %d, chunk %d on OSD %d: version %v, others %v", n, role, num, v, version)
			}
			version = v
		}
	}
}

// scrub runs a scrub of the PG to its end.
func (c *cluster) scrub() {
	c.t.Helper()
	before := c.h.Stats().ScrubbedPGs
	c.do(func() { c.h.PlanScrub(onlyPG, 1) })
	if !c.w.RunUntil(func() bool { return c.h.Stats().ScrubbedPGs > before }, time.Hour) {
		c.t.Fatalf("the scrub does not end: %+v", c.h.Stats())
	}
}

// recovery lets objects be recovered, or not.
func (c *cluster) recovery(on bool) {
	o := c.h.config.Options
	o.Recovery.NoRecovery, o.Recovery.NoRebalance = !on, !on
	c.do(func() { c.h.Apply(o) })
}

// settle runs until nothing is left to be recovered.
func (c *cluster) settle() {
	c.t.Helper()
	c.recovery(true)
	done := func() bool {
		n := c.objects().Counts()
		return n.Degraded+n.Misplaced == 0 && c.h.running == 0
	}
	if !c.w.RunUntil(done, time.Hour) {
		c.t.Fatalf("not clean: %s; %+v", c.states(), c.h.Stats())
	}
}

// client sends requests to OSDs.
type client struct {
	c  *cluster
	m  *msgr.Messenger
	up map[meta.OSDNum]*msgr.Conn
	n  *sim.Node
}

func (k *client) Serve(r *msgr.Request)            { r.Fail(wire.EINVAL) }
func (k *client) Connected(x *msgr.Conn)           { k.up[x.OSD()] = x }
func (k *client) ConnectFailed(meta.OSDNum, error) {}
func (k *client) Disconnected(x *msgr.Conn, _ error) {
	delete(k.up, x.OSD())
}

func (c *cluster) newClient() *client {
	k := &client{c: c, up: map[meta.OSDNum]*msgr.Conn{}, n: c.w.NewNode("client")}
	k.n.Do(func(e *env.Env) {
		var err error
		if k.m, err = msgr.New(e, msgr.Options{Handler: k}); err != nil {
			c.t.Fatal(err)
		}
		for _, o := range c.osds {
			k.m.SetAddresses(o.num, []netip.AddrPort{o.addr})
			k.m.Want(o.num)
		}
	})
	c.client = k
	if !c.w.RunUntil(func() bool { return len(k.up) == len(c.osds) }, time.Minute) {
		c.t.Fatal("the client does not connect")
	}
	return k
}

// call sends a request to an OSD and returns the result.
func (k *client) call(num meta.OSDNum, q wire.Message, payload ...[]byte) *msgr.Op {
	k.c.t.Helper()
	done := false
	op := &msgr.Op{Payload: payload, Attr: make([]byte, 4096), Body: [][]byte{make([]byte, 8<<20)}, Done: func(*msgr.Op) { done = true }}
	q.Encode(&op.Packet)
	k.n.Do(func(*env.Env) { k.up[num].Submit(op) })
	if !k.c.w.RunUntil(func() bool { return done }, time.Hour) {
		k.c.t.Fatalf("no answer to %v", op.Packet.String())
	}
	return op
}

// begin sends a request, inside an event.
func (k *client) begin(num meta.OSDNum, q wire.Message, done func(wire.Retval)) {
	op := &msgr.Op{Done: func(op *msgr.Op) { done(op.Retval) }}
	q.Encode(&op.Packet)
	k.up[num].Submit(op)
}

func (k *client) scrub(n int) wire.Retval {
	k.c.t.Helper()
	id := k.c.object(n)
	return k.call(1, &wire.Rw{Op: wire.OpScrub, Inode: id.Inode, Offset: id.Stripe}).Retval
}
