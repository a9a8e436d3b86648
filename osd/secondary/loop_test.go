package secondary

import (
	"bytes"
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
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// The tests below run real loops, threads, sockets and files.

// real is a loop on a thread of its own.
type real struct {
	t testing.TB
	l *loop.Loop
}

func startLoop(t testing.TB) *real {
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { l.Run(context.Background()); close(ended) }()
	t.Cleanup(func() { l.Stop(); <-ended })
	return &real{t, l}
}

// call runs f on the loop and waits until it has called finish.
func (x *real) call(f func(finish func(error))) {
	x.t.Helper()
	done := make(chan error, 1)
	x.l.Post(func() { f(func(err error) { done <- err }) })
	select {
	case err := <-done:
		if err != nil {
			x.t.Fatal(err)
		}
	case <-time.After(time.Minute):
		x.t.Fatal("not finished in a minute")
	}
}

const realBlocks = 512

// realOSD is an OSD on a file in dir.
type realOSD struct {
	*real
	s    *Server
	addr netip.AddrPort
}

func startOSD(t testing.TB, dir string) *realOSD {
	path := filepath.Join(dir, fmt.Sprintf("osd-%d", os.Getpid()))
	c := store.Config{BlockBytes: blockBytes, GranuleBytes: granuleBytes, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: store.CommitAll,
		AtomicWriteBytes: 4096, Areas: areas(blockBytes, realBlocks)}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if err := os.Truncate(path, c.Areas.DataOffset+c.Areas.DataLen); err != nil {
		t.Fatal(err)
	}
	// Loops are stopped before the messenger's memory is freed.
	var m *msgr.Messenger
	t.Cleanup(func() {
		if m != nil {
			m.Free()
		}
	})
	o := &realOSD{real: startLoop(t)}
	o.call(func(finish func(error)) {
		disk, err := o.l.OpenDisk(path, env.DiskOptions{})
		if err != nil {
			finish(err)
			return
		}
		c.OnFatal = func(err error) { t.Errorf("store: %v", err) }
		store.Open(o.l.Env(), store.Disks{Data: disk, Meta: disk, Buffer: disk}, c, func(st *store.Store, err error) {
			if err == nil {
				m, err = o.serve(st)
			}
			finish(err)
		})
	})
	return o
}

func (o *realOSD) serve(st *store.Store) (m *msgr.Messenger, err error) {
	v := newView()
	for id, p := range v.pools {
		st.Reshard(id, p.PGCount, p.PGStripeBytes)
	}
	cfg := Config{OSD: us, BlockBytes: blockBytes, GranuleBytes: granuleBytes, Commit: meta.CommitAll, Recovery: tuned()}
	if o.s, err = New(o.l.Env(), st, v, cfg); err != nil {
		return nil, err
	}
	if m, err = msgr.New(o.l.Env(), msgr.Options{OSD: us, Handler: handler{o.s}, ShowConfig: o.s.ShowConfig}); err != nil {
		return nil, err
	}
	o.addr, err = m.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	return m, err
}

// realPeer is an OSD connected to one on a file.
type realPeer struct {
	*real
	up   chan *msgr.Conn
	conn *msgr.Conn
}

func (p *realPeer) Serve(r *msgr.Request)                   { r.Fail(wire.EINVAL) }
func (p *realPeer) Connected(c *msgr.Conn)                  { p.up <- c }
func (p *realPeer) ConnectFailed(_ meta.OSDNum, e error)    { p.t.Error(e) }
func (p *realPeer) Disconnected(_ *msgr.Conn, reason error) { p.t.Error(reason) }

func (o *realOSD) peer() *realPeer {
	p := &realPeer{real: startLoop(o.t), up: make(chan *msgr.Conn, 1)}
	p.call(func(finish func(error)) {
		m, err := msgr.New(p.l.Env(), msgr.Options{OSD: 1, Handler: p})
		if err == nil {
			m.SetAddresses(us, []netip.AddrPort{o.addr})
			m.Want(us)
		}
		finish(err)
	})
	select {
	case p.conn = <-p.up:
	case <-time.After(20 * time.Second):
		o.t.Fatal("no connection")
	}
	return p
}

// slot is one request in flight, again and again.
type slot struct {
	op      msgr.Op
	i       int
	id      meta.ObjectID
	version meta.Version
	data    [blockBytes]byte
	attr    [bitmapBytes]byte
	list    [wire.ObjectItemBytes]byte
	payload [2][]byte
	body    [1][]byte
}

func newSlots(n int) []*slot {
	slots := make([]*slot, n)
	for i := range slots {
		s := &slot{i: i, id: oid(1, 1, uint64(i)*blockBytes)}
		s.op.Attr = s.attr[:]
		slots[i] = s
	}
	return slots
}

// request fills the slot's operation.
func (s *slot) request(code wire.Op, offset, n uint32) {
	s.op.Payload, s.op.Body = s.payload[:0], s.body[:0]
	switch code {
	case wire.OpSecWrite, wire.OpSecWriteStable:
		s.version++
		s.op.Payload = append(s.op.Payload, s.attr[:], s.data[:n])
		(&wire.SecRw{Op: code, Chunk: s.id, Version: s.version, Offset: offset, Len: n, AttrLen: bitmapBytes}).Encode(&s.op.Packet)
	case wire.OpSecRead:
		s.op.Body = append(s.op.Body, s.data[:n])
		(&wire.SecRw{Op: code, Chunk: s.id, Version: newest, Offset: offset, Len: n}).Encode(&s.op.Packet)
	case wire.OpSecStabilize, wire.OpSecRollback, wire.OpSecReadBmp:
		wire.ObjectList(s.list[:]).Set(0, at(s.id, s.version))
		s.op.Payload, s.op.Body = append(s.op.Payload, s.list[:]), append(s.op.Body, s.data[:12])
		if code == wire.OpSecReadBmp {
			(&wire.SecReadBmp{Len: wire.ObjectItemBytes}).Encode(&s.op.Packet)
		} else {
			(&wire.SecStab{Op: code, Len: wire.ObjectItemBytes}).Encode(&s.op.Packet)
		}
	case wire.OpSecSync:
		(&wire.SecSync{}).Encode(&s.op.Packet)
	case wire.OpSecDelete:
		s.version++
		(&wire.SecDel{Chunk: s.id, Version: s.version}).Encode(&s.op.Packet)
	}
}

// run keeps all slots busy until count requests are done. next fills the next
// request of a slot, done looks at a reply.
func (p *realPeer) run(slots []*slot, count int, next func(s *slot), done func(s *slot) error) {
	p.t.Helper()
	p.call(func(finish func(error)) {
		left, running := count, 0
		var failed error
		submit := func(s *slot) {
			left--
			running++
			next(s)
			p.conn.Submit(&s.op)
		}
		for _, s := range slots {
			s.op.Done = func(op *msgr.Op) {
				running--
				err := done(s)
				if err == nil && op.Retval.Failed() {
					err = fmt.Errorf("%v: %v", op.Packet.Op(), op.Retval)
				}
				if failed == nil {
					failed = err
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

func ignore(*slot) error { return nil }

// TestRealLoopback writes, reads back and lists over TCP on a file.
func TestRealLoopback(t *testing.T) {
	o := startOSD(t, t.TempDir())
	p := o.peer()
	slots := newSlots(32)
	turns := make([]int, len(slots))
	p.run(slots, 64*len(slots), func(s *slot) {
		k := turns[s.i]
		turns[s.i]++
		offset, n := uint32(k/2%31*4096), uint32(4096)
		if k%16 < 2 {
			offset, n = 0, blockBytes
		}
		if k%2 == 0 {
			copy(s.data[:], pattern(int(n), uint64(s.i*1000+k)))
			s.attr = [4]byte{byte(k), byte(s.i), 1, 2}
			s.request(wire.OpSecWriteStable, offset, n)
		} else {
			clear(s.data[:n])
			s.request(wire.OpSecRead, offset, n)
		}
	}, func(s *slot) error {
		k := turns[s.i] - 1
		if k%2 == 1 && (!bytes.Equal(s.data[:s.op.BodyBytes], pattern(s.op.BodyBytes, uint64(s.i*1000+k-1))) || s.attr != [4]byte{byte(k - 1), byte(s.i), 1, 2}) {
			return fmt.Errorf("object %d, request %d: wrong data", s.i, k)
		}
		return nil
	})
	seen := map[meta.ObjectVersion]bool{}
	for pg := meta.PGNum(1); pg <= 4; pg++ {
		q := wire.PeeringList(meta.PG{Pool: 1, Num: pg}, 4, blockBytes)
		one := slots[:1]
		p.run(one, 1, func(s *slot) {
			q.Encode(&s.op.Packet)
			s.op.Payload, s.op.Body = nil, [][]byte{s.data[:]}
		}, func(s *slot) error {
			l := wire.ObjectList(s.data[:s.op.BodyBytes])
			for i := range l.Len() {
				seen[l.At(i)] = true
			}
			return nil
		})
	}
	for _, s := range slots {
		if !seen[at(s.id, s.version)] {
			t.Errorf("%v version %v is not listed", s.id, s.version)
		}
	}
	if len(seen) != len(slots) {
		t.Errorf("%d objects listed", len(seen))
	}
}

// TestOperationsDoNotAllocate counts what both sides, their loops and the store
// allocate for each kind of operation once everything is warm.
func TestOperationsDoNotAllocate(t *testing.T) {
	o := startOSD(t, t.TempDir())
	p := o.peer()
	slots := newSlots(8)
	turns := make([]int, len(slots))
	for _, c := range []struct {
		name  string
		codes []wire.Op
	}{
		{"stable writes", []wire.Op{wire.OpSecWriteStable}},
		{"reads", []wire.Op{wire.OpSecRead}},
		{"bitmaps", []wire.Op{wire.OpSecReadBmp}},
		{"two-phase writes", []wire.Op{wire.OpSecWrite, wire.OpSecStabilize}},
		{"deletes, syncs", []wire.Op{wire.OpSecDelete, wire.OpSecWriteStable, wire.OpSecSync}},
	} {
		next := func(s *slot) {
			s.request(c.codes[turns[s.i]%len(c.codes)], 4096, 4096)
			turns[s.i]++
		}
		run := func(n int) uint64 {
			clear(turns)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p.run(slots, n, next, ignore)
			runtime.ReadMemStats(&after)
			return after.Mallocs - before.Mallocs
		}
		const n = 1200 // a multiple of all
		run(n)
		least := run(n)
		for range 2 {
			least = min(least, run(n))
		}
		if least > n/20 { // the driver, the runtime, and what grows to its final size
			t.Errorf("%s: %d allocations in %d operations", c.name, least, n)
		}
		t.Logf("%s: %d allocations in %d operations", c.name, least, n)
	}
	if got := o.s.slab.made; got != opsPerChunk {
		t.Errorf("%d operations were made for 8 requests at a time", got)
	}
}

// The benchmarks use a file in memory: they show the CPU time of the way from
// socket to store and back, on both sides.
func benchmark(b *testing.B, depth int, code wire.Op) {
	dir := "/dev/shm"
	if _, err := os.Stat(dir); err != nil {
		b.Skipf("no memory file system: %v", err)
	}
	o := startOSD(b, dir)
	p := o.peer()
	slots := newSlots(depth)
	write := func(s *slot) { s.request(wire.OpSecWriteStable, 4096, 4096) }
	whole := func(s *slot) { s.request(wire.OpSecWriteStable, 0, blockBytes) }
	p.run(slots, depth, whole, ignore)
	next := write
	if code == wire.OpSecRead {
		next = func(s *slot) { s.request(wire.OpSecRead, 4096, 4096) }
	}
	p.run(slots, 2000, next, ignore)
	b.ReportAllocs()
	b.ResetTimer()
	p.run(slots, b.N, next, ignore)
}

func BenchmarkLoopback(b *testing.B) {
	for _, code := range []wire.Op{wire.OpSecWriteStable, wire.OpSecRead} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%v/4K/depth=%d", code, depth), func(b *testing.B) { benchmark(b, depth, code) })
		}
	}
}
