package primary

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// The tests below run real loops, threads, sockets and files.

// realOSD is an OSD on a file. It is also what it knows of the cluster.
type realOSD struct {
	t     testing.TB
	num   meta.OSDNum
	l     *loop.Loop
	st    *store.Store
	sec   *secondary.Server
	m     *msgr.Messenger
	pri   *Server
	addr  netip.AddrPort
	pool  *schema.Pool
	ready chan struct{}
}

func (o *realOSD) Conn(osd meta.OSDNum) *msgr.Conn    { return o.m.Conn(osd) }
func (o *realOSD) Serve(r *msgr.Request)              { o.sec.Serve(r) }
func (o *realOSD) Connected(*msgr.Conn)               { o.ready <- struct{}{} }
func (o *realOSD) ConnectFailed(meta.OSDNum, error)   {} // at the end
func (o *realOSD) Disconnected(c *msgr.Conn, _ error) { o.sec.Disconnected(c); o.pri.Disconnected(c) }
func (o *realOSD) FlagsChanged(meta.PG, meta.PGState) {}
func (o *realOSD) Primary(meta.PG) bool               { return o.num == 1 }
func (o *realOSD) NeedEpoch(pg meta.PG, epoch uint64) {
	t := &env.Timer{Fire: func() { o.pri.EpochRecorded(pg, epoch) }}
	o.l.Env().Clock.Arm(t, time.Millisecond)
}
func (o *realOSD) Pool(id meta.PoolID) (secondary.Pool, bool) {
	return secondary.Pool{PGCount: 1, PGStripeBytes: o.pool.PGStripeBytes, Replicated: o.pool.Scheme == meta.Replicated}, id == 1
}

type realView struct{ o *realOSD }

func (v realView) Pool(id meta.PoolID) *schema.Pool {
	if id != 1 {
		return nil
	}
	return v.o.pool
}
func (v realView) PGCount(meta.PoolID) uint32         { return 1 }
func (v realView) Inode(meta.Inode) *schema.SeenInode { return nil }

func startLoop(t testing.TB) *loop.Loop {
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { l.Run(context.Background()); close(ended) }()
	t.Cleanup(func() { l.Stop(); <-ended })
	return l
}

// onLoop runs f on a loop and waits until it has called finish.
func onLoop(t testing.TB, l *loop.Loop, f func(finish func(error))) {
	t.Helper()
	done := make(chan error, 1)
	l.Post(func() { f(func(err error) { done <- err }) })
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("not finished in a minute")
	}
}

func startReal(t testing.TB, dir string, num meta.OSDNum, pool *schema.Pool, commit meta.CommitMode) *realOSD {
	o := &realOSD{t: t, num: num, pool: pool, ready: make(chan struct{}, 16)}
	a := store.Areas{BufferOffset: 4096, BufferLen: 8 << 20, MetaOffset: 4096 + 8<<20, MetaLen: 64 * 4096,
		DataOffset: 4096 + 8<<20 + 64*4096, DataLen: 512 * testBlock}
	c := store.Config{BlockBytes: testBlock, GranuleBytes: testGran, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: commit, AtomicWriteBytes: 4096, Areas: a}
	path := filepath.Join(dir, fmt.Sprintf("osd-%d-%d", os.Getpid(), num))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if err := os.Truncate(path, a.DataOffset+a.DataLen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if o.m != nil {
			o.m.Free()
			o.pri.Free()
		}
	})
	o.l = startLoop(t)
	onLoop(t, o.l, func(finish func(error)) {
		disk, err := o.l.OpenDisk(path, env.DiskOptions{})
		if err != nil {
			finish(err)
			return
		}
		c.OnFatal = func(err error) { t.Errorf("store: %v", err) }
		store.Open(o.l.Env(), store.Disks{Data: disk, Meta: disk, Buffer: disk}, c, func(st *store.Store, err error) {
			if err == nil {
				err = o.serve(st, commit)
			}
			finish(err)
		})
	})
	return o
}

func (o *realOSD) serve(st *store.Store, commit meta.CommitMode) (err error) {
	o.st = st
	st.Reshard(1, 1, o.pool.PGStripeBytes)
	if o.sec, err = secondary.New(o.l.Env(), st, o, secondary.Config{OSD: o.num, BlockBytes: testBlock, GranuleBytes: testGran, Commit: commit}); err != nil {
		return err
	}
	if o.m, err = msgr.New(o.l.Env(), msgr.Options{OSD: o.num, Handler: o, ShowConfig: o.sec.ShowConfig}); err != nil {
		return err
	}
	o.pri = New(o.l.Env(), o.sec, st, o, realView{o}, o, Config{OSD: o.num, BlockBytes: testBlock, GranuleBytes: testGran, Commit: commit,
		MayServe: func() bool { return true }, Fatal: func(err error) { o.t.Error(err) }, AutosyncWrites: 64})
	o.sec.SetPrimary(o.pri)
	o.addr, err = o.m.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	return err
}

// startCluster starts OSDs with one pool of all of them, whose primary is 1.
func startCluster(t testing.TB, dir string, scheme meta.Scheme, size, parity int, commit meta.CommitMode) []*realOSD {
	pool := &schema.Pool{ID: 1, Scheme: scheme, PGSize: size, ParityChunks: parity, PGMinSize: 1, PGCount: 1, BlockBytes: testBlock, GranularityBytes: testGran}
	pool.PGStripeBytes = pool.ObjectBytes()
	// A loop keeps its P while it waits: one for each, and one for the others.
	before := runtime.GOMAXPROCS(size + 3)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	var osds []*realOSD
	var set []meta.OSDNum
	for i := range size {
		set = append(set, meta.OSDNum(i+1))
		osds = append(osds, startReal(t, dir, set[i], pool, commit))
	}
	first := osds[0]
	arena := &peering.Arena{}
	onLoop(t, first.l, func(finish func(error)) {
		for _, x := range osds[1:] {
			first.m.SetAddresses(x.num, []netip.AddrPort{x.addr})
			first.m.Want(x.num)
		}
		finish(nil)
	})
	for range osds[1:] {
		<-first.ready
	}
	onLoop(t, first.l, func(finish func(error)) {
		c := peering.NewCalc(peering.Layout{PG: meta.PG{Pool: 1, Num: 1}, PGCount: 1, PGStripeBytes: pool.PGStripeBytes,
			Scheme: scheme, DataChunks: pool.DataChunks(), CurSet: set}, arena)
		for !c.Step(1000) {
		}
		objects, _ := c.Result()
		c.Free()
		first.pri.Activate(Activation{PG: meta.PG{Pool: 1, Num: 1}, Epoch: 1, Objects: objects, CurPeers: set})
		finish(nil)
	})
	return osds
}

// realClient keeps operations in flight.
type realClient struct {
	t    testing.TB
	l    *loop.Loop
	conn *msgr.Conn
	up   chan *msgr.Conn
}

func (c *realClient) Serve(r *msgr.Request)            { r.Fail(wire.EINVAL) }
func (c *realClient) Connected(x *msgr.Conn)           { c.up <- x }
func (c *realClient) ConnectFailed(meta.OSDNum, error) {} // at the end
func (c *realClient) Disconnected(*msgr.Conn, error)   {}

func startClient(t testing.TB, to *realOSD) *realClient {
	c := &realClient{t: t, l: startLoop(t), up: make(chan *msgr.Conn, 1)}
	onLoop(t, c.l, func(finish func(error)) {
		m, err := msgr.New(c.l.Env(), msgr.Options{Handler: c})
		if err == nil {
			m.SetAddresses(to.num, []netip.AddrPort{to.addr})
			m.Want(to.num)
		}
		finish(err)
	})
	c.conn = <-c.up
	return c
}

// slot is one operation in flight, again and again.
type slot struct {
	op      msgr.Op
	i, turn int
	data    []byte
	attr    [256]byte
	payload [1][]byte
	body    [1][]byte
}

func newSlots(n int, bytes int) []*slot {
	slots := make([]*slot, n)
	for i := range slots {
		slots[i] = &slot{i: i, data: pattern(bytes, uint64(i))}
		slots[i].op.Attr = slots[i].attr[:]
	}
	return slots
}

// request fills the slot's operation: on its own object.
func (s *slot) request(code wire.Op, object uint64, offset uint64, n int) {
	s.op.Payload, s.op.Body = nil, nil
	q := wire.Rw{Op: code, Inode: inode(1), Offset: uint64(s.i)*object + offset, Len: uint32(n)}
	switch code {
	case wire.OpWrite:
		s.payload[0] = s.data[:n]
		s.op.Payload = s.payload[:]
	case wire.OpRead:
		s.body[0] = s.data[:n]
		s.op.Body = s.body[:]
	case wire.OpDelete:
		q.Len = 0
	case wire.OpSync:
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&s.op.Packet)
		return
	}
	q.Encode(&s.op.Packet)
}

// run keeps all slots busy until count operations are done.
func (c *realClient) run(slots []*slot, count int, next func(s *slot)) {
	c.t.Helper()
	onLoop(c.t, c.l, func(finish func(error)) {
		left, running := count, 0
		var failed error
		submit := func(s *slot) {
			left--
			running++
			next(s)
			s.turn++
			c.conn.Submit(&s.op)
		}
		for _, s := range slots {
			s.op.Done = func(op *msgr.Op) {
				running--
				if op.Retval.Failed() && failed == nil {
					failed = fmt.Errorf("%v: %v", op.Packet.Op(), op.Retval)
				}
				if left > 0 && failed == nil {
					submit(s)
				} else if running == 0 {
					finish(failed)
				}
			}
		}
		for _, s := range slots {
			if left > 0 {
				submit(s)
			}
		}
	})
}

// TestOperationsDoNotAllocate counts what client, OSDs, their loops and stores
// allocate for each kind of operation once everything is warm.
func TestOperationsDoNotAllocate(t *testing.T) {
	for _, c := range []struct {
		name         string
		scheme       meta.Scheme
		size, parity int
		commit       meta.CommitMode
		codes        []wire.Op
		bytes        int
	}{
		{"replicated writes", meta.Replicated, 2, 0, meta.CommitAll, []wire.Op{wire.OpWrite}, 4096},
		{"replicated reads", meta.Replicated, 2, 0, meta.CommitAll, []wire.Op{wire.OpRead}, 4096},
		{"EC writes", meta.EC, 3, 1, meta.CommitAll, []wire.Op{wire.OpWrite}, 4096},
		{"EC reads", meta.EC, 3, 1, meta.CommitAll, []wire.Op{wire.OpRead}, 2 * testBlock},
		{"EC, lazy, with SYNC", meta.EC, 3, 1, meta.CommitNone, []wire.Op{wire.OpWrite, wire.OpWrite, wire.OpSync}, 4096},
		{"deletes", meta.EC, 3, 1, meta.CommitAll, []wire.Op{wire.OpWrite, wire.OpDelete}, 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			osds := startCluster(t, memoryDir(t), c.scheme, c.size, c.parity, c.commit)
			cl := startClient(t, osds[0])
			slots := newSlots(8, 2*testBlock)
			object := osds[0].pool.ObjectBytes()
			next := func(s *slot) { s.request(c.codes[s.turn%len(c.codes)], object, 0, c.bytes) }
			run := func(n int) uint64 {
				for _, s := range slots {
					s.turn = 0
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				cl.run(slots, n, next)
				runtime.ReadMemStats(&after)
				return after.Mallocs - before.Mallocs
			}
			const n = 1200 // a multiple of all
			run(n)
			least := run(n)
			for range 3 {
				least = min(least, run(n))
			}
			if least > n/20 { // the driver, the runtime, and what grows to its final size
				t.Errorf("%d allocations in %d operations", least, n)
			}
			t.Logf("%d allocations in %d operations", least, n)
		})
	}
}

// memoryDir is a place for files that costs no time.
func memoryDir(t testing.TB) string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return t.TempDir()
}

// The benchmarks use files in memory: they show the way of an operation through
// client, primary, secondaries and their stores.
func benchmark(b *testing.B, scheme meta.Scheme, size, parity, depth int, code wire.Op, bytes int) {
	osds := startCluster(b, memoryDir(b), scheme, size, parity, meta.CommitAll)
	cl := startClient(b, osds[0])
	object := osds[0].pool.ObjectBytes()
	slots := newSlots(depth, int(object))
	cl.run(slots, depth, func(s *slot) { s.request(wire.OpWrite, object, 0, int(object)) })
	next := func(s *slot) { s.request(code, object, uint64(s.turn%16)*4096, bytes) }
	if bytes == int(object) {
		next = func(s *slot) { s.request(code, object, 0, bytes) }
	}
	cl.run(slots, 2000, next)
	b.ReportAllocs()
	b.ResetTimer()
	cl.run(slots, b.N, next)
}

func BenchmarkCluster(b *testing.B) {
	for _, code := range []wire.Op{wire.OpWrite, wire.OpRead} {
		for _, depth := range []int{1, 64} {
			b.Run(fmt.Sprintf("replicated 2/%v/4K/depth=%d", code, depth), func(b *testing.B) { benchmark(b, meta.Replicated, 2, 0, depth, code, 4096) })
			b.Run(fmt.Sprintf("EC 2+1/%v/4K/depth=%d", code, depth), func(b *testing.B) { benchmark(b, meta.EC, 3, 1, depth, code, 4096) })
		}
	}
	b.Run("replicated 2/WRITE/128K/depth=8", func(b *testing.B) { benchmark(b, meta.Replicated, 2, 0, 8, wire.OpWrite, testBlock) })
	b.Run("EC 2+1/WRITE/256K/depth=8", func(b *testing.B) { benchmark(b, meta.EC, 3, 1, 8, wire.OpWrite, 2*testBlock) })
}
