package secondary

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

const (
	blockBytes   = 128 << 10
	granuleBytes = 4096
	bitmapBytes  = 4
	newest       = meta.NewestVersion
	us           = meta.OSDNum(2) // the OSD under test
)

// view is what the OSD under test knows of the cluster: pool 1 is replicated, 2
// is EC 2+1, 3 is replicated with local reads.
type view struct {
	pools   map[meta.PoolID]Pool
	primary map[meta.PG]bool
}

func newView() *view {
	return &view{
		pools: map[meta.PoolID]Pool{
			1: {PGCount: 4, PGStripeBytes: blockBytes, Replicated: true},
			2: {PGCount: 1, PGStripeBytes: 2 * blockBytes},
			3: {PGCount: 2, PGStripeBytes: blockBytes, Replicated: true, LocalReads: true},
		},
		primary: map[meta.PG]bool{},
	}
}

func (v *view) Pool(id meta.PoolID) (Pool, bool) { p, ok := v.pools[id]; return p, ok }
func (v *view) Primary(pg meta.PG) bool          { return v.primary[pg] }

// rig is the OSD under test: a secondary on a simulated machine.
type rig struct {
	t     testing.TB
	w     *sim.World
	node  *sim.Node
	disk  *sim.Disk
	store store.Config
	cfg   Config
	view  *view
	peers int

	s    *Server
	st   *store.Store
	m    *msgr.Messenger
	addr netip.AddrPort
}

type rigOption func(r *rig, d *sim.DiskConfig)

func areas(block int64, blocks int64) store.Areas {
	return store.Areas{BufferOffset: 4096, BufferLen: 8 << 20, MetaOffset: 4096 + 8<<20, MetaLen: 64 * 4096,
		DataOffset: 4096 + 8<<20 + 64*4096, DataLen: blocks * block}
}

func newRig(t testing.TB, seed uint64, opts ...rigOption) *rig {
	t.Helper()
	r := &rig{t: t, view: newView(), w: sim.NewWorld(seed, sim.Options{})}
	r.store = store.Config{BlockBytes: blockBytes, GranuleBytes: granuleBytes, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: store.CommitAll,
		AtomicWriteBytes: 4096, BufferPoolBytes: 1 << 20, Areas: areas(blockBytes, 64)}
	r.cfg = Config{OSD: us, BlockBytes: blockBytes, GranuleBytes: granuleBytes, Commit: meta.CommitAll, LeaseTimeoutSec: 15, RunPrimary: true}
	var d sim.DiskConfig
	for _, o := range opts {
		o(r, &d)
	}
	d.SizeBytes = r.store.Areas.DataOffset + r.store.Areas.DataLen
	r.node = r.w.NewNode("osd")
	r.disk = r.node.AddDisk("disk", d)
	r.boot()
	return r
}

// boot starts the OSD in the node's current process.
func (r *rig) boot() {
	r.t.Helper()
	var err error
	r.s = nil
	fail := func(e error) { err = errors.Join(err, e) }
	r.node.Do(func(e *env.Env) {
		disk, oerr := e.Storage.OpenDisk("disk", env.DiskOptions{})
		if oerr != nil {
			fail(oerr)
			return
		}
		c := r.store
		c.OnFatal = func(err error) { r.t.Errorf("store: %v", err) }
		store.Open(e, store.Disks{Data: disk, Meta: disk, Buffer: disk}, c, func(st *store.Store, serr error) {
			if serr != nil {
				fail(serr)
				return
			}
			fail(r.serve(e, st))
		})
	})
	if !r.w.RunUntil(func() bool { return r.s != nil || err != nil }, time.Hour) || err != nil {
		r.t.Fatalf("OSD does not start: %v", err)
	}
}

func (r *rig) serve(e *env.Env, st *store.Store) error {
	for id := meta.PoolID(1); id <= 3; id++ {
		p := r.view.pools[id]
		st.Reshard(id, p.PGCount, p.PGStripeBytes)
	}
	s, err := New(e, st, r.view, r.cfg)
	if err != nil {
		return err
	}
	m, err := msgr.New(e, msgr.Options{OSD: us, Handler: handler{s}, ShowConfig: s.ShowConfig})
	if err != nil {
		return err
	}
	r.t.Cleanup(m.Free)
	r.addr, err = m.Listen(netip.AddrPortFrom(r.node.Addr(), 7000))
	r.s, r.st, r.m = s, st, m
	return err
}

type handler struct{ *Server }

func (handler) Connected(*msgr.Conn)                      {}
func (handler) ConnectFailed(meta.OSDNum, error)          {}
func (h handler) Disconnected(c *msgr.Conn, reason error) { h.Server.Disconnected(c) }

// idle checks that nothing of finished requests is left.
func (r *rig) idle() {
	r.t.Helper()
	r.w.RunFor(time.Second)
	if s := r.s; s.active.count != 0 || s.running != 0 || s.delays.count != 0 || !s.waiting.empty() ||
		s.peers.made != len(s.peers.idle) || s.strangers.made != len(s.strangers.idle) || s.longReads.made != len(s.longReads.idle) {
		r.t.Errorf("not idle: %d active, %d running, %d delayed", s.active.count, s.running, s.delays.count)
	}
	n := 0
	for op := r.s.slab.free; op != nil; op = op.qnext {
		n++
	}
	if n != r.s.slab.made {
		r.t.Errorf("%d of %d operations are free", n, r.s.slab.made)
	}
	for _, p := range r.m.Pools() {
		if st := p.Stats(); st.UsedBytes != 0 {
			r.t.Errorf("%s: %d bytes are not free", st.Name, st.UsedBytes)
		}
	}
}

// peer is an OSD (or a client, number 0) that sends requests to the one under
// test.
type peer struct {
	r    *rig
	t    testing.TB
	node *sim.Node
	m    *msgr.Messenger
	osd  meta.OSDNum
	up   *msgr.Conn
	lost int
}

func (p *peer) Serve(q *msgr.Request)                     { p.t.Errorf("unexpected %v", q.Op()); q.Fail(wire.EINVAL) }
func (p *peer) Connected(c *msgr.Conn)                    { p.up = c }
func (p *peer) ConnectFailed(_ meta.OSDNum, reason error) {}
func (p *peer) Disconnected(c *msgr.Conn, reason error)   { p.up = nil; p.lost++ }

func (r *rig) peer(osd meta.OSDNum) *peer {
	r.t.Helper()
	r.peers++
	p := &peer{r: r, t: r.t, osd: osd, node: r.w.NewNode(fmt.Sprintf("peer%d", r.peers))}
	p.node.Do(func(e *env.Env) {
		o := msgr.Options{OSD: osd, Handler: p, Timeouts: msgr.Timeouts{ConnectInterval: time.Second}}
		if osd != 0 {
			o.Store = &wire.StoreParams{BlockBytes: r.cfg.BlockBytes, GranularityBytes: granuleBytes, Commit: r.cfg.Commit}
		}
		var err error
		if p.m, err = msgr.New(e, o); err != nil {
			r.t.Fatal(err)
		}
		p.m.SetAddresses(us, []netip.AddrPort{r.addr})
		p.m.Want(us)
	})
	p.connected()
	return p
}

func (p *peer) connected() {
	p.t.Helper()
	if !p.r.w.RunUntil(func() bool { return p.up != nil }, time.Minute) {
		p.t.Fatalf("peer %d does not connect", p.osd)
	}
}

// begin sends a request; done tells when there is a reply.
func (p *peer) begin(q wire.Message, payload ...[]byte) *msgr.Op {
	op := prepare(q, payload...)
	p.node.Do(func(*env.Env) { p.up.Submit(op) })
	return op
}

// prepare makes a request that is to be submitted.
func prepare(q wire.Message, payload ...[]byte) *msgr.Op {
	op := &msgr.Op{Payload: payload, Attr: make([]byte, 4096)}
	q.Encode(&op.Packet)
	op.Body = [][]byte{make([]byte, 2<<20)}
	op.Grow = func(o *msgr.Op, n int) bool { o.Body = [][]byte{make([]byte, n)}; return true }
	op.User = false
	op.Done = func(o *msgr.Op) { o.User = true }
	return op
}

func done(op *msgr.Op) bool { return op.User.(bool) }

// call sends a request and waits for the reply.
func (p *peer) call(q wire.Message, payload ...[]byte) *msgr.Op {
	p.t.Helper()
	op := p.begin(q, payload...)
	p.wait(op)
	return op
}

func (p *peer) wait(ops ...*msgr.Op) {
	p.t.Helper()
	for _, op := range ops {
		if !p.r.w.RunUntil(func() bool { return done(op) }, time.Hour) {
			p.t.Fatalf("no reply to %v", op.Packet.String())
		}
	}
}

// want calls and compares the result.
func (p *peer) want(ret wire.Retval, q wire.Message, payload ...[]byte) *msgr.Op {
	p.t.Helper()
	op := p.call(q, payload...)
	if op.Retval != ret || op.Lost {
		p.t.Errorf("%v: %v (lost %v), want %v", op.Packet.String(), op.Retval, op.Lost, ret)
	}
	if ret.Failed() && (op.AttrBytes != 0 || op.BodyBytes != 0) {
		p.t.Errorf("%v: an error with %d+%d bytes", op.Packet.String(), op.AttrBytes, op.BodyBytes)
	}
	return op
}

func oid(pool meta.PoolID, number uint64, stripe uint64) meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(pool, number), Stripe: stripe}
}

// pattern is data that differs by seed and place.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(uint64(i/16)*31 + uint64(i)*7 + seed*13 + uint64(i)>>12)
	}
	return b
}

// write is a SEC_WRITE (or stable) with a bitmap of the given first byte.
func (p *peer) write(ret wire.Retval, code wire.Op, id meta.ObjectID, v meta.Version, offset, n uint32, bm byte, seed uint64) *msgr.Op {
	p.t.Helper()
	return p.want(ret, &wire.SecRw{Op: code, Chunk: id, Version: v, Offset: offset, Len: n, AttrLen: bitmapBytes},
		[]byte{bm, 0, 0, 0}, pattern(int(n), seed))
}

// read compares what a SEC_READ returns.
func (p *peer) read(id meta.ObjectID, limit meta.Version, offset, n uint32, v meta.Version, bm byte, data []byte) {
	p.t.Helper()
	op := p.want(wire.Retval(n), &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: limit, Offset: offset, Len: n})
	var re wire.SecRwReply
	re.Decode(&op.Reply)
	if re.Version != v || re.AttrLen != bitmapBytes || op.AttrBytes != bitmapBytes || op.Attr[0] != bm || op.BodyBytes != int(n) {
		p.t.Errorf("read of %v <= %v: %v, bitmap %x, %d bytes; want version %v, bitmap %x", id, limit, &re, op.Attr[:op.AttrBytes], op.BodyBytes, v, bm)
	}
	if got := op.Body[0][:op.BodyBytes]; data != nil && !bytes.Equal(got, data) {
		p.t.Errorf("read of %v <= %v: wrong data", id, limit)
	}
}

func (p *peer) readFails(ret wire.Retval, id meta.ObjectID, limit meta.Version) {
	p.t.Helper()
	p.want(ret, &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: limit, Len: 4096})
}

// stab is a SEC_STABILIZE or SEC_ROLLBACK.
func (p *peer) stab(ret wire.Retval, code wire.Op, items ...meta.ObjectVersion) {
	p.t.Helper()
	l := wire.ObjectList(nil)
	for _, v := range items {
		l = l.Append(v)
	}
	p.want(ret, &wire.SecStab{Op: code, Len: uint64(len(l))}, l)
}

func at(id meta.ObjectID, v meta.Version) meta.ObjectVersion {
	return meta.ObjectVersion{ObjectID: id, Version: v}
}

// list is a listing of a PG as peering asks for it.
func (p *peer) list(q *wire.SecList) (stable, unstable []meta.ObjectVersion) {
	p.t.Helper()
	op := p.call(q)
	var re wire.SecListReply
	re.Decode(&op.Reply)
	if op.Retval.Failed() || op.BodyBytes != int(re.Retval)*wire.ObjectItemBytes {
		p.t.Fatalf("listing: %v, %d bytes", &re, op.BodyBytes)
	}
	l := wire.ObjectList(op.Body[0][:op.BodyBytes])
	for i := range l.Len() {
		if uint64(i) < re.StableCount {
			stable = append(stable, l.At(i))
		} else {
			unstable = append(unstable, l.At(i))
		}
	}
	return stable, unstable
}

func (r *rig) peering(pg meta.PG) *wire.SecList {
	p := r.view.pools[pg.Pool]
	l := wire.PeeringList(pg, p.PGCount, p.PGStripeBytes)
	return &l
}

func (p *peer) lock(ret wire.Retval, flags uint64, pg meta.PG, state meta.PGState) meta.OSDNum {
	p.t.Helper()
	op := p.want(ret, &wire.SecLock{Flags: flags, Pool: uint64(pg.Pool), PG: uint64(pg.Num), PGState: uint64(state)})
	var re wire.SecLockReply
	re.Decode(&op.Reply)
	return re.CurPrimary
}

func withConfig(f func(c *Config)) rigOption { return func(r *rig, _ *sim.DiskConfig) { f(&r.cfg) } }

func pgLocks(mode option.Tristate) rigOption { return withConfig(func(c *Config) { c.PGLocks = mode }) }

// pool returns aligned memory of a block.
func pool(t testing.TB) []byte {
	b, err := pinned.AlignedBuffer(blockBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pinned.Free(b) })
	return b[:4096]
}
