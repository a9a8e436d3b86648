package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
)

const (
	block   = 16384
	granule = 4096
)

// memOSD is an OSD that keeps objects in memory, and follows no parents: the
// cluster has one pool of one PG on it. Its loop is its own.
type memOSD struct {
	t       testing.TB
	m       *msgr.Messenger
	objects map[meta.ObjectID]*[block]byte
	stuck   bool // does not answer
}

func (o *memOSD) Connected(*msgr.Conn)             {}
func (o *memOSD) ConnectFailed(meta.OSDNum, error) {}
func (o *memOSD) Disconnected(*msgr.Conn, error)   {}

func (o *memOSD) Serve(r *msgr.Request) {
	if o.stuck {
		return
	}
	var rw wire.Rw
	rw.Decode(&r.Packet)
	id := meta.ObjectID{Inode: rw.Inode, Stripe: rw.Offset / block * block}
	data := o.objects[id]
	at := int(rw.Offset % block)
	switch r.Op() {
	case wire.OpRead:
		bits := []byte{0}
		for _, b := range r.Body {
			clear(b)
			if data != nil {
				copy(b, data[at:])
				bits[0] = 15
			}
			at += len(b)
		}
		r.ReplyParts = append(append(r.ReplyParts, bits), r.Body...)
		(&wire.RwReply{Op: wire.OpRead, Retval: wire.Retval(rw.Len), BitmapLen: 1}).Encode(&r.Reply)
		r.Finish()
	case wire.OpWrite:
		if data == nil {
			data = new([block]byte)
			o.objects[id] = data
		}
		for _, b := range r.Body {
			at += copy(data[at:], b)
		}
		(&wire.RwReply{Op: wire.OpWrite, Retval: wire.Retval(rw.Len)}).Encode(&r.Reply)
		r.Finish()
	case wire.OpDelete:
		delete(o.objects, id)
		r.Fail(wire.OK)
	case wire.OpSecList:
		var q wire.SecList
		q.Decode(&r.Packet)
		var list wire.ObjectList
		for id := range o.objects {
			if id.Inode == q.Min.Inode {
				list = list.Append(meta.ObjectVersion{ObjectID: id})
			}
		}
		(&wire.SecListReply{Retval: wire.Retval(list.Len()), StableCount: uint64(list.Len()), Flags: wire.ListPrimary}).Encode(&r.Reply)
		if len(list) > 0 {
			r.ReplyParts = append(r.ReplyParts, list)
		}
		r.Finish()
	default:
		o.t.Errorf("unexpected %v", r.Op())
		r.Fail(wire.EINVAL)
	}
}

type rig struct {
	testing.TB
	osd      *memOSD
	osdLoop  *loop.Loop
	endpoint string
	etcd     *embed.Server
}

// startRig runs an etcd and an OSD, and registers everything.
func startRig(t testing.TB) *rig {
	s, err := embed.Start(embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	r := &rig{TB: t, osd: &memOSD{t: t, objects: map[meta.ObjectID]*[block]byte{}}, endpoint: s.Endpoint(), etcd: s}
	if r.osdLoop, err = loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { r.osdLoop.Run(context.Background()); close(ended) }()
	t.Cleanup(func() { r.osdLoop.Stop(); <-ended; r.osd.m.Free() })
	registered := make(chan error, 1)
	r.osdLoop.Post(func() { registered <- nil; r.register(registered) })
	<-registered
	if err := <-registered; err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) register(done chan error) {
	e := r.osdLoop.Env()
	m, err := msgr.New(e, msgr.Options{OSD: 1, Handler: r.osd, ShowConfig: func(*msgr.Conn, wire.ConfigRequest) wire.ConfigReply {
		return wire.ConfigReply{OSDNum: 1, ProtocolVersion: 1}
	}})
	if err != nil {
		done <- err
		return
	}
	r.osd.m = m
	addr, err := m.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		done <- err
		return
	}
	kv, err := etcd.Open(etcd.Config{Endpoints: []string{r.endpoint}}, e.Exec)
	if err != nil {
		done <- err
		return
	}
	r.Cleanup(func() { kv.Close(); kv.Wait() })
	keys := schema.NewKeys("")
	config := &schema.PGConfig{}
	config.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{1}, Primary: 1}})
	pg := schema.PGState{Primary: 1, State: meta.PGActive, Peers: []meta.OSDNum{1}}
	st := schema.OSDState{State: "up", Addresses: []string{"127.0.0.1"}, Port: addr.Port()}
	put := func(k, v string) env.KVOp { return env.KVOp{Kind: env.KVPut, Key: k, Value: []byte(v)} }
	kv.Txn(&env.Txn{Then: []env.KVOp{
		put(keys.Pools(), `{"1":{"name":"p","scheme":"replicated","pg_size":1,"pg_minsize":1,"pg_count":1,"block_size":16384,"immediate_commit":"all"}}`),
		put(keys.PGConfig(), string(config.Encode())), put(keys.PGState(meta.PG{Pool: 1, Num: 1}), string(pg.Encode())),
		put(keys.OSDState(1), string(st.Encode())),
	}}, time.Second*10, func(_ *env.TxnResponse, err error) { done <- err })
}

func (r *rig) dial(c Config) *Cluster {
	r.Helper()
	c.EtcdAddress = r.endpoint
	c.Log = slog.New(slog.DiscardHandler)
	cl, err := Dial(context.Background(), c)
	if err != nil {
		r.Fatal(err)
	}
	return cl
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) fails(err error, words ...string) {
	r.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			r.Errorf("error %v, want one with %q", err, w)
		}
	}
}

// TestLifeOfAnImage goes through everything.
func TestLifeOfAnImage(t *testing.T) {
	r := startRig(t)
	ctx := context.Background()
	c := r.dial(Config{})
	_, err := c.Open("disk")
	if r.fails(err, "disk", "create"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v is not ENOENT", err)
	}
	r.fails(c.Create(ctx, "disk", 1<<20, "q"), "disk", "[p]")
	r.fails(c.Create(ctx, "disk", 1000, "p"), "multiple of 4096")
	r.fails(c.Create(ctx, "a@b", 1<<20, "p"), "snapshots")
	r.must(c.Create(ctx, "disk", 1<<20, "p"))
	r.fails(c.Create(ctx, "disk", 1<<20, ""), "disk", "another name")
	img, err := c.Open("disk")
	r.must(err)
	if n, err := img.Size(); n != 1<<20 || err != nil || img.BlockBytes() != granule || img.Name() != "disk" {
		t.Errorf("size %d, %v", n, err)
	}
	r.checkIO(img)
	r.must(c.Snapshot(ctx, "disk", "s1"))
	r.fails(c.Snapshot(ctx, "disk", "s1"), "disk@s1", "another name")
	r.fails(c.Snapshot(ctx, "nothing", "s1"), "nothing")
	r.fails(c.Snapshot(ctx, "disk", ""), "empty")
	info, err := img.Info()
	if err != nil || info.Parent != "disk@s1" || info.Number != 2 {
		t.Errorf("after the snapshot: %+v, %v", info, err)
	}
	snap, err := c.Open("disk@s1")
	r.must(err)
	_, err = snap.WriteAt(make([]byte, granule), 0)
	r.fails(err, "disk@s1", "read-only")
	_, err = img.WriteAt(make([]byte, 2*granule), 0) // into the new layer
	r.must(err)
	r.fails(c.Resize(ctx, "disk", 4096), "smaller")
	r.must(c.Resize(ctx, "disk", 2<<20))
	if n, _ := img.Size(); n != 2<<20 {
		t.Errorf("size %d after resize", n)
	}
	list, err := c.Images(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "disk@s1" || !list[0].ReadOnly || list[1].Name != "disk" || list[1].Size != 2<<20 {
		t.Errorf("%+v, %v", list, err)
	}
	r.fails(c.Delete(ctx, "disk@s1"), "disk is based on it")
	r.must(c.Delete(ctx, "disk"))
	_, err = img.ReadAt(make([]byte, 10), 0)
	r.fails(err, "disk", "removed")
	r.must(c.Delete(ctx, "disk@s1"))
	if len(r.osd.objects) != 0 {
		t.Errorf("%d objects are left", len(r.osd.objects))
	}
	r.must(img.Close())
	r.must(c.Close())
	if _, err := c.Open("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := c.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

// checkIO reads and writes at odd places, compared with a slice.
func (r *rig) checkIO(img *Image) {
	r.Helper()
	shadow := make([]byte, 1<<20)
	for i, x := range [][2]int64{{0, granule}, {100, 1}, {4095, 2}, {4000, 9000}, {1<<20 - 1, 1}, {0, 1 << 20}, {block - 7, 14}, {8192, 100}, {8191, 4097}} {
		p := bytes.Repeat([]byte{byte(i + 1)}, int(x[1]))
		n, err := img.WriteAt(p, x[0])
		if r.must(err); n != len(p) {
			r.Errorf("wrote %d of %d", n, len(p))
		}
		copy(shadow[x[0]:], p)
		got := make([]byte, x[1]+50)
		from := max(0, x[0]-20)
		n, err = img.ReadAt(got, from)
		want := shadow[from:min(int64(len(shadow)), from+int64(len(got)))]
		if n != len(want) || !bytes.Equal(got[:n], want) || (err == io.EOF) != (n < len(got)) || err != nil && err != io.EOF {
			r.Errorf("read %d at %d: %d, %v", len(got), from, n, err)
		}
	}
	r.must(img.Sync())
	all, err := io.ReadAll(io.NewSectionReader(img, 0, 1<<20))
	if err != nil || !bytes.Equal(all, shadow) {
		r.Errorf("%v: other content", err)
	}
	if _, err := img.ReadAt(make([]byte, 1), 1<<20); err != io.EOF {
		r.Errorf("read at the end: %v", err)
	}
	_, err = img.WriteAt(make([]byte, 2), 1<<20-1)
	r.fails(err, "disk", "resize")
	_, err = img.ReadAt(make([]byte, 2), -1)
	r.fails(err, "disk")
	if n, err := img.WriteAt(nil, 5); n != 0 || err != nil {
		r.Error("empty write")
	}
}

func TestManyGoroutines(t *testing.T) {
	r := startRig(t)
	c := r.dial(Config{Options: map[string]string{"client_enable_writeback": "true", "client_writeback_allowed": "true"}})
	defer c.Close()
	ctx := context.Background()
	r.must(c.Create(ctx, "disk", 1<<20, ""))
	img, err := c.Open("disk")
	r.must(err)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			p, got := bytes.Repeat([]byte{byte(g + 1)}, 5000), make([]byte, 5000)
			for i := range 12 {
				at := int64(g*100_000 + i*777)
				if _, err := img.WriteAt(p, at); err != nil {
					t.Error(err)
				}
				if _, err := img.ReadAt(got, at); err != nil || !bytes.Equal(p, got) {
					t.Errorf("%v: other data", err)
				}
			}
			if err := img.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestCancel: who waits can leave, and the memory is not touched afterwards.
func TestCancel(t *testing.T) {
	r := startRig(t)
	c := r.dial(Config{})
	r.must(c.Create(context.Background(), "disk", 1<<20, ""))
	img, err := c.Open("disk")
	r.must(err)
	r.osdLoop.Post(func() { r.osd.stuck = true })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := img.WriteContext(ctx, make([]byte, granule), 0); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "disk") {
		t.Errorf("write: %v", err)
	}
	if _, err := img.ReadContext(ctx, make([]byte, granule), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := img.ReadAt(make([]byte, granule), 0)
		waits <- err
	}()
	time.Sleep(20 * time.Millisecond)
	r.must(c.Close())
	if err := <-waits; !errors.Is(err, ErrClosed) {
		t.Errorf("Close while a read waits: %v", err)
	}
}

func TestDialFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.conf")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	fails := func(c Config, words ...string) {
		t.Helper()
		c.Log = slog.New(slog.DiscardHandler)
		cl, err := Dial(ctx, c)
		if err == nil {
			cl.Close()
		}
		(&rig{TB: t}).fails(err, words...)
	}
	fails(Config{ConfigPath: path}, path)
	if err := os.WriteFile(path, []byte(`{"etcd_prefix":"/x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(Config{ConfigPath: path}, "etcd_address", path)
	fails(Config{ConfigPath: path, EtcdAddress: "127.0.0.1:1:1"}, "127.0.0.1:1:1")
	fails(Config{ConfigPath: path, EtcdAddress: "127.0.0.1:1", Options: map[string]string{"client_retry_intervall": "1"}}, "did you mean client_retry_interval")
	fails(Config{ConfigPath: path, EtcdAddress: "127.0.0.1:1", Options: map[string]string{"client_retry_interval": "soon"}}, "client_retry_interval")
	fails(Config{ConfigPath: path, EtcdAddress: "127.0.0.1:1"}, "127.0.0.1:1")
}
