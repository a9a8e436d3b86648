package client_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

// layered is a cluster with a chain of layers in three pools, of which the last
// one has finer granules, and what is in them.
type layered struct {
	*fake
	c      *client.Client
	r      *rand.Rand
	chain  []meta.Inode // from the top
	layers []map[uint64]byte
}

const layerBytes = 4 * block

func newLayered(t *testing.T, seed uint64, params map[string]string) *layered {
	f := newFake(t, seed, 3, map[meta.PoolID]*fakePool{1: {commit: "all", pgs: 4}, 2: {commit: "none", pgs: 4}, 3: {commit: "all", pgs: 4}})
	l := &layered{fake: f, r: rand.New(rand.NewPCG(seed, 3)),
		chain: []meta.Inode{inode(1, 5), inode(1, 4), inode(2, 3), inode(2, 9), inode(3, 1)}}
	for i, id := range l.chain {
		parent := meta.Inode(0)
		if i+1 < len(l.chain) {
			parent = l.chain[i+1]
		}
		f.putInode(id, fmt.Sprint("layer", i), layerBytes, parent, false)
		l.layers = append(l.layers, map[uint64]byte{})
	}
	l.c = f.start(params)
	return l
}

// write puts some granules into a layer.
func (l *layered) write(i int) {
	at, n := uint64(l.r.IntN(layerBytes/granule)), uint64(1+l.r.IntN(3))
	n = min(n, layerBytes/granule-at)
	v := byte(1 + l.r.IntN(250))
	want(l.t, l.run(l.c, write(l.chain[i], at*granule, fill(int(n*granule), v))), 0)
	for g := range n {
		l.layers[i][at+g] = v
	}
}

// at is what a granule holds, seen from the top.
func (l *layered) at(g uint64) (v byte, exists bool) {
	for _, m := range l.layers {
		if v, ok := m[g]; ok {
			return v, true
		}
	}
	return 0, false
}

func (l *layered) check() {
	l.t.Helper()
	from := uint64(l.r.IntN(layerBytes / granule))
	n := 1 + uint64(l.r.IntN(int(layerBytes/granule-from)))
	op := read(l.chain[0], from*granule, n*granule)
	op.Bitmap = bytes.Repeat([]byte{0xaa}, int(n+7)/8)
	want(l.t, l.run(l.c, op), 0)
	chain := &client.Op{Kind: client.ReadChainBitmap, Inode: l.chain[0], Offset: from * granule, Bytes: n * granule, Bitmap: make([]byte, (n+7)/8)}
	want(l.t, l.run(l.c, chain), 0)
	own := &client.Op{Kind: client.ReadBitmap, Inode: l.chain[0], Offset: from * granule, Bytes: n * granule, Bitmap: make([]byte, (n+7)/8)}
	want(l.t, l.run(l.c, own), 0)
	for g := range n {
		v, exists := l.at(from + g)
		_, mine := l.layers[0][from+g]
		if got := op.Iov[0][g*granule]; got != v || op.Iov[0][(g+1)*granule-1] != v {
			l.t.Errorf("granule %d: %d, want %d", from+g, got, v)
		}
		if meta.Bitmap(op.Bitmap).Get(int(g)) != exists || meta.Bitmap(chain.Bitmap).Get(int(g)) != exists || meta.Bitmap(own.Bitmap).Get(int(g)) != mine {
			l.t.Errorf("granule %d: wrong bits, exists %v, own %v", from+g, exists, mine)
		}
	}
}

// TestLayers reads through chains that cross pools, with data in the client's
// own buffers at every level.
func TestLayers(t *testing.T) {
	for seed := range uint64(6) {
		params := map[string]string{}
		if seed%2 == 1 {
			params = map[string]string{"client_enable_writeback": "1", "client_writeback_allowed": "1"}
		}
		l := newLayered(t, seed, params)
		for range 60 {
			l.write(l.r.IntN(len(l.chain)))
			l.check()
			switch l.r.IntN(10) {
			case 0:
				want(t, l.run(l.c, &client.Op{Kind: client.Sync}), 0)
			case 1: // an unsynced layer is lost by its OSDs
				pg := meta.PG{Pool: 2, Num: meta.PGNum(1 + l.r.IntN(4))}
				l.setPrimary(pg, l.nth(l.r.IntN(3)))
			}
		}
		l.end(l.c)
	}
}

// TestBounds: a chain that is a ring, or misses a pool, is an error.
func TestBrokenChains(t *testing.T) {
	l := newLayered(t, 1, nil)
	l.putInode(inode(3, 1), "layer4", layerBytes, inode(1, 5), false) // back to the top
	l.putInode(inode(3, 2), "x", layerBytes, inode(7, 5), false)
	l.putInode(inode(3, 7), "y", layerBytes, inode(3, 8), false)
	l.putInode(inode(3, 8), "z", layerBytes, inode(3, 7), false)
	l.w.RunFor(time.Second)
	for _, i := range []meta.Inode{inode(1, 5), inode(3, 2), inode(3, 7)} {
		want(t, l.run(l.c, read(i, 0, granule)), syscall.EINVAL)
	}
	l.end(l.c)
}

// TestRevisionOfReads: OSDs refuse to follow a chain that they know otherwise;
// the client tries again with what it has learned.
func TestRevisionOfReads(t *testing.T) {
	l := newLayered(t, 1, nil)
	l.layers[1][0] = 9
	l.object(meta.ObjectID{Inode: l.chain[1]}).content.bits = 1
	copy(l.object(meta.ObjectID{Inode: l.chain[1]}).data[:], fill(granule, 9))
	l.w.RunFor(time.Second)
	l.w.KV().Cut(l.client, true, true) // the OSD knows more than we
	l.putInode(l.chain[0], "layer0", 2*layerBytes, l.chain[1], false)
	op := read(l.chain[0], 0, granule)
	done := l.begin(l.c, op)
	l.w.RunFor(300 * time.Millisecond)
	if *done != 0 {
		t.Error("a read with an old revision was served")
	}
	l.w.KV().Cut(l.client, false, false)
	l.w.RunUntil(func() bool { return *done > 0 }, 20*time.Second)
	wantData(t, op, fill(granule, 9))
	l.end(l.c)
}

func TestCoarseParent(t *testing.T) {
	f := newFake(t, 1, 3, map[meta.PoolID]*fakePool{1: {commit: "all", pgs: 4}, 2: {commit: "all", pgs: 4, granule: 2 * granule}})
	f.putInode(inode(1, 1), "top", layerBytes, inode(2, 1), false)
	f.putInode(inode(2, 1), "base", layerBytes, 0, false)
	c := f.start(nil)
	want(t, f.run(c, write(inode(2, 1), 2*granule, fill(2*granule, 7))), 0)
	f.putInode(inode(2, 1), "base", layerBytes, inode(1, 2), false)
	want(t, f.run(c, write(inode(1, 2), 0, fill(6*granule, 5))), 0) // at the bottom
	want(t, f.run(c, write(inode(1, 1), 3*granule, fill(granule, 8))), 0)
	wantData(t, f.run(c, read(inode(1, 1), granule, 2*granule)), fill(granule, 5), fill(granule, 7))
	wantData(t, f.run(c, read(inode(1, 1), 2*granule, 2*granule)), fill(granule, 7), fill(granule, 8))
	f.end(c)
}

// TestLocalReads: reads go to the nearest replica, and to the primary when that
// refuses; writes never.
func TestLocalReads(t *testing.T) {
	f := newFake(t, 1, 3, map[meta.PoolID]*fakePool{1: {commit: "all", pgs: 3, local: "nearest"}, 2: {commit: "all", pgs: 3, local: "random"}})
	f.put(f.keys.NodePlacement(), `{"host1":{"level":"host","parent":"r1"},"host2":{"level":"host","parent":"r2"},"host3":{"level":"host","parent":"r2"}}`)
	c := f.start(nil) // on host2
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		want(t, f.run(c, write(inode(pool, 1), 0, fill(3*block, 1))), 0)
	}
	f.run(c, read(inode(1, 1), 0, 3*block)) // connects
	f.logging = true
	// PG 1 is on 1 (primary), 2; PG 2 on 2, 3; PG 3 on 3, 1.
	for n, osd := range []string{"2", "2", "3"} {
		f.log = nil
		wantData(t, f.run(c, read(inode(1, 1), uint64(n)*block, granule)), fill(granule, 1))
		if len(f.log) != 1 || f.log[0] != osd+" READ" {
			t.Errorf("PG %d was read from %v, want OSD %s", n+1, f.log, osd)
		}
	}
	f.osds[2].fail = func(*msgr.Request) wire.Retval { return wire.EPIPE } // has no lock
	f.log = nil
	wantData(t, f.run(c, read(inode(1, 1), 0, granule)), fill(granule, 1))
	if len(f.log) != 1 || f.log[0] != "1 READ" {
		t.Errorf("read from %v, want the primary", f.log)
	}
	f.osds[2].fail = nil
	f.log = nil
	for range 40 {
		f.run(c, read(inode(2, 1), 0, granule))
	}
	if s := fmt.Sprint(f.log); !bytes.Contains([]byte(s), []byte("1 READ")) || !bytes.Contains([]byte(s), []byte("2 READ")) {
		t.Errorf("random reads went to %v", f.log)
	}
	// A degraded PG is read from its primary only.
	f.put(f.keys.PGState(meta.PG{Pool: 1, Num: 1}), `{"primary":1,"state":["active","degraded"],"peers":[1]}`)
	f.w.RunFor(time.Second)
	f.log = nil
	f.run(c, read(inode(1, 1), 0, granule))
	if len(f.log) != 1 || f.log[0] != "1 READ" {
		t.Errorf("a degraded PG was read from %v", f.log)
	}
	f.end(c)
}

func TestWatch(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	f.w.RunFor(time.Second)
	var w *client.Watch
	calls := 0
	f.client.Do(func(*env.Env) { w = c.Watch("img", func(*client.Watch) { calls++ }) })
	if w.Image() != nil || w.Name() != "img" {
		t.Error("an image that is not there")
	}
	f.putInode(inode(1, 5), "img", 1<<20, 0, false)
	f.putInode(inode(1, 6), "other", 1<<20, 0, false)
	f.w.RunFor(time.Second)
	if s := w.Image(); s == nil || s.ID != inode(1, 5) || calls != 1 {
		t.Errorf("%+v after %d calls", s, calls)
	}
	f.putInode(inode(1, 5), "img@snap", 1<<20, 0, true) // a snapshot
	f.putInode(inode(1, 7), "img", 2<<20, inode(1, 5), false)
	f.w.RunFor(time.Second)
	if s := w.Image(); s == nil || s.ID != inode(1, 7) || s.Size != 2<<20 || s.Parent != inode(1, 5) {
		t.Errorf("%+v after a snapshot", s)
	}
	f.client.Do(func(*env.Env) { w.Close() })
	f.putInode(inode(1, 7), "img", 3<<20, inode(1, 5), false)
	n := calls
	f.w.RunFor(time.Second)
	if calls != n {
		t.Error("called after Close")
	}
	f.end(c)
}
