package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

// The tests below run real loops, threads and sockets.

// echoOSD answers reads with whatever is in memory, and forgets writes.
type echoOSD struct {
	num  meta.OSDNum
	m    *msgr.Messenger
	bits [4]byte
}

func (o *echoOSD) Connected(*msgr.Conn)             {}
func (o *echoOSD) ConnectFailed(meta.OSDNum, error) {}
func (o *echoOSD) Disconnected(*msgr.Conn, error)   {}
func (o *echoOSD) Serve(r *msgr.Request) {
	var rw wire.Rw
	rw.Decode(&r.Packet)
	reply := wire.RwReply{Op: rw.Op, Retval: wire.Retval(rw.Len), Version: 1}
	if rw.Op == wire.OpRead {
		reply.BitmapLen = uint32(len(o.bits))
		r.ReplyParts = append(append(r.ReplyParts, o.bits[:]), r.Body...)
	}
	reply.Encode(&r.Reply)
	r.Finish()
}

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

// onLoop runs f on a loop and waits until it calls finish.
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

// startReal makes an OSD and a client, each on a loop of its own.
func startReal(t testing.TB) (*loop.Loop, *client.Client) {
	osd := &echoOSD{num: 1}
	ol, cl := startLoop(t), startLoop(t)
	var addr netip.AddrPort
	var c *client.Client
	t.Cleanup(func() { osd.m.Free(); c.Free() })
	onLoop(t, ol, func(finish func(error)) {
		var err error
		osd.m, err = msgr.New(ol.Env(), msgr.Options{OSD: 1, Handler: osd, ShowConfig: func(*msgr.Conn, wire.ConfigRequest) wire.ConfigReply {
			return wire.ConfigReply{OSDNum: 1, ProtocolVersion: 1}
		}})
		if err == nil {
			addr, err = osd.m.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
		}
		finish(err)
	})
	onLoop(t, cl, func(finish func(error)) {
		e := cl.Env()
		e.Log = slog.New(slog.DiscardHandler)
		store := mem.New(mem.Limits{})
		e.KV = mem.NewKV(store, e.Clock, e.Exec)
		keys := schema.NewKeys("")
		config := &schema.PGConfig{}
		config.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{1}, Primary: 1}})
		pg := schema.PGState{Primary: 1, State: meta.PGActive, Peers: []meta.OSDNum{1}}
		st := schema.OSDState{State: "up", Addresses: []string{"127.0.0.1"}, Port: addr.Port()}
		put := func(k string, v []byte) env.KVOp { return env.KVOp{Kind: env.KVPut, Key: k, Value: v} }
		e.KV.Txn(&env.Txn{Then: []env.KVOp{
			put(keys.Pools(), []byte(`{"1":{"name":"p","scheme":"replicated","pg_size":1,"pg_minsize":1,"pg_count":1,"block_size":131072,"immediate_commit":"all"}}`)),
			put(keys.PGConfig(), config.Encode()), put(keys.PGState(meta.PG{Pool: 1, Num: 1}), pg.Encode()), put(keys.OSDState(1), st.Encode()),
		}}, time.Second, func(_ *env.TxnResponse, err error) {
			if err == nil {
				c, err = client.New(e, client.Config{})
			}
			if err != nil {
				finish(err)
				return
			}
			c.Start(finish)
		})
	})
	return cl, c
}

// drive runs n operations, depth at a time.
type drive struct {
	c          *client.Client
	left, live int
	finish     func(error)
}

func (d *drive) done(op *client.Op) {
	if op.Err != 0 {
		d.finish(op.Err)
	}
	d.live--
	d.next(op)
}

func (d *drive) next(op *client.Op) {
	if d.left > 0 {
		d.left--
		d.live++
		if op.Kind == client.Write {
			op.Version = 0
		}
		d.c.Submit(op)
	} else if d.live == 0 {
		d.finish(nil)
	}
}

func driveOps(t testing.TB, l *loop.Loop, d *drive, ops []*client.Op, n int) {
	onLoop(t, l, func(finish func(error)) {
		d.left, d.live, d.finish = n, 0, finish
		for _, op := range ops {
			d.next(op)
		}
	})
}

func realOps(d *drive, kind client.Kind, depth int, bytes uint64) []*client.Op {
	var ops []*client.Op
	for i := range depth {
		op := &client.Op{Kind: kind, Inode: inode(1, 1), Offset: uint64(i) * bytes, Bytes: bytes, Done: d.done}
		buf := make([]byte, bytes)
		op.Iov = [][]byte{buf[:bytes/2], buf[bytes/2:]}
		ops = append(ops, op)
	}
	return ops
}

func TestPlainOperationsDoNotAllocate(t *testing.T) {
	l, c := startReal(t)
	for _, x := range []struct {
		kind  client.Kind
		bytes uint64
	}{{client.Read, 4096}, {client.Write, 4096}, {client.Read, 1 << 20}, {client.Write, 1 << 20}} {
		t.Run(fmt.Sprint(x.kind, x.bytes), func(t *testing.T) {
			d := &drive{c: c}
			ops := realOps(d, x.kind, 8, x.bytes)
			n := 2000
			if x.bytes > 4096 {
				n = 200
			}
			least := uint64(1 << 60)
			for range 5 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				driveOps(t, l, d, ops, n)
				runtime.ReadMemStats(&after)
				least = min(least, after.Mallocs-before.Mallocs)
			}
			if least > uint64(n/10) { // the test and the runtime
				t.Errorf("%d allocations in %d operations", least, n)
			}
			t.Logf("%d allocations in %d operations", least, n)
		})
	}
}

func BenchmarkReal(b *testing.B) {
	for _, depth := range []int{1, 32} {
		for _, kind := range []client.Kind{client.Read, client.Write} {
			b.Run(fmt.Sprint(kind, " 4k depth ", depth), func(b *testing.B) {
				l, c := startReal(b)
				d := &drive{c: c}
				ops := realOps(d, kind, depth, 4096)
				b.ResetTimer()
				driveOps(b, l, d, ops, b.N)
			})
		}
	}
}

// TestNoEtcd: a client that cannot read etcd says so.
func TestNoEtcd(t *testing.T) {
	l := startLoop(t)
	var failed error
	onLoop(t, l, func(finish func(error)) {
		e := l.Env()
		e.Log = slog.New(slog.DiscardHandler)
		kv := mem.NewKV(mem.New(mem.Limits{}), e.Clock, e.Exec)
		kv.SetDown(true)
		e.KV = kv
		layer := simpleLayer("max_etcd_attempts", "1", "etcd_slow_timeout", "1000")
		c, err := client.New(e, client.Config{Layers: layer})
		if err != nil {
			finish(err)
			return
		}
		op := read(inode(1, 1), 0, 4096)
		var ended bool
		op.Done = func(op *client.Op) {
			if op.Err != syscall.ECANCELED {
				t.Error(op.Err)
			}
			ended = true
		}
		c.Submit(op)
		c.Start(func(err error) {
			failed = err
			c.Close(func() {
				if !ended {
					t.Error("Close ends before an operation")
				}
				finish(nil)
			})
		})
	})
	if !errors.Is(failed, env.ErrKVTimeout) {
		t.Errorf("ready was told %v", failed)
	}
}
