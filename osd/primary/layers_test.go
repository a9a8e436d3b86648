package primary

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
)

func TestExtents(t *testing.T) {
	m := layerMap{perChunk: 8, bytes: 1}
	for _, c := range []struct {
		layers   []meta.Bitmap
		from, to int
		want     string
	}{
		{[]meta.Bitmap{{0}, {0}}, 0, 8, "[{-1 0 8}]"},
		{[]meta.Bitmap{{0xff}, {0xff}}, 2, 6, "[{0 2 6}]"},
		{[]meta.Bitmap{{0x0f}, {0xff}}, 0, 8, "[{0 0 4} {1 4 8}]"},
		{[]meta.Bitmap{{0x09}, {0x12}, {0x80}}, 0, 8, "[{0 0 1} {1 1 2} {-1 2 3} {0 3 4} {1 4 5} {-1 5 7} {2 7 8}]"},
		{[]meta.Bitmap{{0x09}, {0x12}, {0x80}}, 5, 5, "[]"},
		{[]meta.Bitmap{{0xf0, 0x01}, {0x00, 0xff}}, 3, 16, "[{-1 3 4} {0 4 9} {1 9 16}]"},
	} {
		if got := fmt.Sprint(m.appendExtents(nil, c.layers, c.from, c.to)); got != c.want {
			t.Errorf("%v: %s, want %s", c.layers, got, c.want)
		}
	}
	small := layerMap{perChunk: 2, bytes: 1} // the rest of each byte is unused
	if got := fmt.Sprint(small.appendExtents(nil, []meta.Bitmap{{0x02, 0xfd}}, 0, 4)); got != "[{-1 0 1} {0 1 3} {-1 3 4}]" {
		t.Error(got)
	}
	b := meta.Bitmap{0, 0}
	small.set(b, extent{0, 1, 3})
	if !bytes.Equal(b, []byte{2, 1}) {
		t.Error(b)
	}
}

// image makes the config of an inode; parent 0 = none.
func (r *rig) image(i, parent meta.Inode, rev int64) {
	c := schema.InodeConfig{ID: i}
	c.Parent = parent
	r.inodes[i] = &schema.SeenInode{InodeConfig: c, Rev: rev}
}

// layered is an image with parents, and what it should contain.
type layered struct {
	u      *user
	pool   meta.PoolID
	layers []meta.Inode // newest first
	bytes  int          // of an object
	data   [][]byte     // by layer; of object 0
	has    [][]bool     // granules
}

func newLayered(u *user, pool meta.PoolID, n int) *layered {
	l := &layered{u: u, pool: pool, bytes: int(u.r.pools[pool].ObjectBytes())}
	for i := range n {
		inode := meta.MakeInode(pool, uint64(20+i))
		parent := meta.MakeInode(pool, uint64(21+i))
		if i == n-1 {
			parent = 0
		}
		u.r.image(inode, parent, int64(100+i))
		l.layers = append(l.layers, inode)
		l.data = append(l.data, make([]byte, l.bytes))
		l.has = append(l.has, make([]bool, l.bytes/testGran))
	}
	return l
}

func (l *layered) write(layer, granule, n int, seed uint64) {
	l.u.t.Helper()
	data := pattern(n*testGran, seed)
	l.u.want(wire.Retval(len(data)), l.u.begin(&wire.Rw{Op: wire.OpWrite, Inode: l.layers[layer],
		Offset: uint64(granule) * testGran, Len: uint32(len(data))}, 0, data))
	copy(l.data[layer][granule*testGran:], data)
	for g := range n {
		l.has[layer][granule+g] = true
	}
}

func (l *layered) delete(layer int) {
	l.u.t.Helper()
	l.u.want(wire.OK, l.u.begin(&wire.Rw{Op: wire.OpDelete, Inode: l.layers[layer]}, 0))
	clear(l.data[layer])
	clear(l.has[layer])
}

// want is what a chained read from a layer returns: data and bitmap.
func (l *layered) want(from, granule, n int) ([]byte, meta.Bitmap) {
	data := make([]byte, n*testGran)
	bitmap := make(meta.Bitmap, l.bytes/testGran/8)
	for g := granule; g < granule+n; g++ {
		for layer := from; layer < len(l.layers); layer++ {
			if l.has[layer][g] {
				copy(data[(g-granule)*testGran:][:testGran], l.data[layer][g*testGran:])
				bitmap.SetRange(g, g+1)
				break
			}
		}
	}
	return data, bitmap
}

func (l *layered) begin(u *user, from, granule, n int) *call {
	return u.begin(&wire.Rw{Op: wire.OpRead, Inode: l.layers[from], Offset: uint64(granule) * testGran, Len: uint32(n * testGran),
		MetaRevision: uint64(100 + from)}, n*testGran)
}

// check reads granules through the layers.
func (l *layered) check(u *user, from, granule, n int) *call {
	l.u.t.Helper()
	c := u.want(wire.Retval(n*testGran), l.begin(u, from, granule, n))
	at, length := granule, n
	if n == 0 {
		at, length = 0, l.bytes/testGran
	}
	data, bitmap := l.want(from, at, length)
	if got := c.Attr[:c.AttrBytes]; !bytes.Equal(got, bitmap) {
		l.u.t.Errorf("granules %d+%d of layer %d: bitmap %x, want %x", granule, n, from, got, bitmap)
	}
	if n > 0 && !bytes.Equal(c.data, data) {
		l.u.t.Errorf("granules %d+%d of layer %d: %s", granule, n, from, differ(c.data, data))
	}
	return c
}

func TestChainedReads(t *testing.T) {
	for name, parity := range map[string]int{"replicated": 0, "ec": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, meta.CommitAll, 3)
			scheme := meta.Replicated
			if parity > 0 {
				scheme = meta.EC
			}
			r.pool(1, scheme, parity, 1, 2, 3)
			u := r.user(1)
			l := newLayered(u, 1, 4)
			all := l.bytes / testGran
			l.check(u, 0, 0, all) // nothing anywhere
			l.write(3, 0, 20, 1)
			c := l.check(u, 0, 0, all)
			if c.version() != 0 {
				t.Errorf("version %v of an object that the image does not have", c.version())
			}
			l.write(2, 4, 3, 2)
			l.write(0, 5, 1, 3)
			l.write(1, 10, 15, 4)
			if parity > 0 {
				l.write(0, 30, 4, 5) // across chunks
				l.write(2, 33, 20, 6)
			}
			for from := range 3 {
				l.check(u, from, 0, all)
				l.check(u, from, 0, 0)
				l.check(u, from, 5, 1)
				l.check(u, from, 3, 9)
			}
			l.delete(0)
			l.check(u, 0, 0, all)
			l.delete(1)
			l.check(u, 0, 0, all)
			l.check(u, 1, 0, 0)
			if n := r.osds[1].pri.Stats().Ops[wire.OpRead]; n.Count < 15 || n.Bytes%testGran != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestChainedReadErrors(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 2)
	r.pool(1, meta.Replicated, 0, 1, 2)
	r.pool(2, meta.Replicated, 0, 1, 2)
	u := r.user(1)
	a, b, other := meta.MakeInode(1, 1), meta.MakeInode(1, 2), meta.MakeInode(2, 1)
	read := func(i meta.Inode, rev uint64) *call {
		return u.begin(&wire.Rw{Op: wire.OpRead, Inode: i, Len: testGran, MetaRevision: rev}, testGran)
	}
	u.want(wire.EPIPE, read(a, 5)) // not known
	r.image(a, b, 5)
	u.want(wire.EPIPE, read(a, 4)) // known otherwise
	u.want(testGran, read(a, 5))   // the parent has no key
	r.image(b, a, 6)
	u.want(wire.EINVAL, read(a, 5))
	r.image(b, b, 6)
	u.want(wire.EINVAL, read(a, 5))
	u.want(wire.EINVAL, read(b, 6))
	r.image(b, other, 6) // a parent in another pool is the client's matter
	u.want(testGran, read(b, 6))
	u.want(testGran, read(a, 5))
	u.want(wire.EINVAL, u.begin(&wire.Rw{Op: wire.OpRead, Inode: a, Offset: 4096, Len: testBlock, MetaRevision: 5}, testBlock))
	r.osds[1].lease = false
	u.want(wire.EPIPE, read(a, 5))
}

// With chunks missing, and while the PG stops.
func TestChainedReadDegraded(t *testing.T) {
	r := newRig(t, 3, meta.CommitAll, 3)
	p := r.pool(1, meta.EC, 1, 1, 2, 3)
	u := r.user(1)
	l := newLayered(u, 1, 3)
	l.write(2, 0, l.bytes/testGran, 1)
	l.write(1, 7, 30, 2)
	l.write(0, 20, 3, 3)
	r.crash(2)
	r.peer(p)
	for from := range 2 {
		l.check(u, from, 0, l.bytes/testGran)
		l.check(u, from, 0, 0)
		l.check(u, from, 25, 10)
	}
	var calls []*call
	for range 20 {
		calls = append(calls, l.begin(u, 0, 0, l.bytes/testGran))
	}
	r.stop(p)
	for _, c := range calls {
		u.wait(c)
		if c.Retval != wire.Retval(l.bytes) && c.Retval != wire.EPIPE {
			t.Errorf("%v while the PG stops", c.Retval)
		}
	}
	u.want(wire.EPIPE, l.begin(u, 0, 0, 1))
}

// The object of the image is deleted and written while others read through it: a
// granule is that of the image or that of its parent, never zeroes.
func TestChainedReadsAndDeletes(t *testing.T) {
	for seed := range uint64(20) {
		r := newRig(t, seed, meta.CommitAll, 2)
		r.pool(1, meta.Replicated, 0, 1, 2)
		u, v := r.user(1), r.user(1)
		l := newLayered(u, 1, 2)
		l.write(1, 0, 32, 1)
		parent := bytes.Clone(l.data[1])
		top := pattern(testBlock, 99)
		rng := rand.New(rand.NewPCG(seed, 1))
		writing, reads := true, 0
		var next func()
		writes := 0
		next = func() {
			if writes++; writes > 60 {
				writing = false
				return
			}
			q := &wire.Rw{Op: wire.OpDelete, Inode: l.layers[0]}
			var payload [][]byte
			if writes%2 == 1 {
				g := rng.IntN(30)
				q.Op, q.Offset, q.Len = wire.OpWrite, uint64(g)*testGran, 2*testGran
				payload = [][]byte{top[g*testGran : (g+2)*testGran]}
			}
			c := &call{}
			c.Payload = payload
			q.Encode(&c.Packet)
			op := &c.Op
			op.Done = func(op *msgr.Op) {
				if op.Retval.Failed() {
					t.Errorf("%v: %v", q.Op, op.Retval)
				}
				next()
			}
			u.up.Submit(op)
		}
		u.node.Do(func(*env.Env) { next() })
		for writing {
			c := v.want(testBlock, l.begin(v, 0, 0, 32))
			reads++
			for g := range 32 {
				got := c.data[g*testGran : (g+1)*testGran]
				if !bytes.Equal(got, parent[g*testGran:(g+1)*testGran]) && !bytes.Equal(got, top[g*testGran:(g+1)*testGran]) {
					t.Fatalf("seed %d, read %d: granule %d is of no layer: %x...", seed, reads, g, got[:16])
				}
			}
			r.w.RunFor(time.Duration(rng.IntN(100)) * time.Microsecond)
		}
		if reads < 5 {
			t.Errorf("only %d reads", reads)
		}
	}
}

// Random layers: what is read is what a model says.
func TestChainedReadsRandom(t *testing.T) {
	for seed := range uint64(6) {
		r := newRig(t, seed, meta.CommitAll, 3)
		if seed%2 == 0 {
			r.pool(1, meta.Replicated, 0, 1, 2, 3)
		} else {
			r.pool(1, meta.XOR, 1, 1, 2, 3)
		}
		u := r.user(1)
		l := newLayered(u, 1, 2+int(seed)%4)
		rng := rand.New(rand.NewPCG(seed, 2))
		all := l.bytes / testGran
		for step := range 60 {
			switch rng.IntN(5) {
			case 0, 1:
				g := rng.IntN(all)
				l.write(rng.IntN(len(l.layers)), g, 1+rng.IntN(min(all-g, 9)), uint64(step)+seed*1000)
			case 2:
				if rng.IntN(4) == 0 {
					l.delete(rng.IntN(len(l.layers)))
				}
			default:
				g := rng.IntN(all)
				n := rng.IntN(all - g + 1)
				l.check(u, rng.IntN(len(l.layers)-1), g, n)
			}
		}
	}
}
