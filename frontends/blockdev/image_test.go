package blockdev

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/libclient/client"
)

// world is an env.Exec and a Backend: layers of one image in memory. Operations
// are completed one by one, in any order.
type world struct {
	t        *testing.T
	rng      *rand.Rand
	deferred []*env.Task
	pending  []*client.Op
	granule  uint64
	object   uint64
	layers   map[meta.Inode]map[uint64][]byte // granules
	parent   map[meta.Inode]meta.Inode
	readOnly map[meta.Inode]bool
	seen     *schema.SeenInode
	commit   meta.CommitMode
	dead     bool // Deletes leave something behind
	unsynced int  // changes since the last Sync
	fail     syscall.Errno
	ops      []client.Kind // that were submitted
}

func (w *world) Defer(t *env.Task)   { w.deferred = append(w.deferred, t) }
func (w *world) Post(fn func()) bool { panic("no goroutines here") }
func (w *world) Submit(op *client.Op) {
	w.pending = append(w.pending, op)
	w.ops = append(w.ops, op.Kind)
}
func (w *world) inode() meta.Inode     { return w.seen.ID }
func (w *world) index(o uint64) uint64 { return o / w.granule }

// step completes one operation, or runs deferred tasks.
func (w *world) step() bool {
	if len(w.deferred) > 0 {
		t := w.deferred[0]
		w.deferred = w.deferred[1:]
		t.Run()
		return true
	}
	if len(w.pending) == 0 {
		return false
	}
	i := w.rng.IntN(len(w.pending))
	op := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	op.Err, op.LeftOnDead = w.execute(op), w.dead && op.Kind == client.Delete
	op.Done(op)
	return true
}

func (w *world) execute(op *client.Op) syscall.Errno {
	if op.Kind == client.Sync {
		w.unsynced = 0
		return w.fail
	}
	if op.Offset%w.granule != 0 || op.Bytes%w.granule != 0 || op.Bytes == 0 {
		w.t.Errorf("%v at %d of %d bytes is not aligned", op.Kind, op.Offset, op.Bytes)
	}
	n := uint64(0)
	for _, b := range op.Iov {
		n += uint64(len(b))
	}
	if n != op.Bytes && (op.Kind == client.Read || op.Kind == client.Write) {
		w.t.Errorf("%v of %d bytes has memory of %d", op.Kind, op.Bytes, n)
	}
	if w.fail != 0 {
		return w.fail
	}
	changes := op.Kind == client.Write || op.Kind == client.Delete
	if changes && w.readOnly[op.Inode] {
		return syscall.EROFS
	}
	if changes {
		w.unsynced++
	}
	layer := w.layers[op.Inode]
	if layer == nil {
		layer = map[uint64][]byte{}
		w.layers[op.Inode] = layer
	}
	flat := bytes.Join(op.Iov, nil)
	from, to := w.index(op.Offset), w.index(op.Offset+op.Bytes)
	switch op.Kind {
	case client.Delete:
		from, to = op.Offset/w.object*w.object/w.granule, (op.Offset+op.Bytes+w.object-1)/w.object*w.object/w.granule
		for g := from; g < to; g++ {
			delete(layer, g)
		}
		return 0
	case client.Write:
		for g := from; g < to; g++ {
			layer[g] = bytes.Clone(flat[(g-from)*w.granule:][:w.granule])
		}
		return 0
	}
	out := make([]byte, 0, op.Bytes)
	for g := from; g < to; g++ {
		data := w.find(op.Inode, g)
		if op.Kind == client.ReadChainBitmap {
			if bit := int(g - from); data != nil {
				op.Bitmap[bit/8] |= 1 << (bit % 8)
			} else {
				op.Bitmap[bit/8] &^= 1 << (bit % 8)
			}
		}
		if data == nil {
			data = make([]byte, w.granule)
		}
		out = append(out, data...)
	}
	for _, b := range op.Iov {
		out = out[copy(b, out):]
	}
	return 0
}

// find looks through the chain of layers.
func (w *world) find(i meta.Inode, g uint64) []byte {
	for ; i != 0; i = w.parent[i] {
		if data := w.layers[i][g]; data != nil {
			return data
		}
	}
	return nil
}

func newWorld(t *testing.T, seed uint64, size uint64) (*world, *Image) {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), granule: 4096, object: 32768, layers: map[meta.Inode]map[uint64][]byte{},
		parent: map[meta.Inode]meta.Inode{}, readOnly: map[meta.Inode]bool{}, seen: &schema.SeenInode{}, commit: meta.CommitAll}
	w.seen.ID, w.seen.Size = meta.MakeInode(1, 1), size
	i := &Image{name: "test", seen: func() *schema.SeenInode { return w.seen }}
	geometry := func(meta.Inode) (client.Geometry, bool) {
		return client.Geometry{ObjectBytes: w.object, GranuleBytes: uint32(w.granule), Commit: w.commit}, true
	}
	if err := i.open(&env.Env{Exec: w}, w, geometry); err != nil {
		t.Fatal(err)
	}
	return w, i
}

// do executes one request alone.
func (w *world) do(i *Image, r *Request) syscall.Errno {
	done := false
	r.Done = func(*Request) { done = true }
	i.Submit(r)
	if done {
		w.t.Error("Done was called inside of Submit")
	}
	for !done {
		if !w.step() {
			w.t.Fatalf("%v at %d of %d bytes is never completed", r.Kind, r.Offset, r.Bytes)
		}
	}
	return r.Err
}

// snapshot makes a new layer.
func (w *world) snapshot() {
	old := w.seen
	now := *old
	now.ID, now.Parent = old.ID+1, old.ID
	w.parent[now.ID], w.readOnly[old.ID] = old.ID, true
	w.seen = &now
}

// pieces cuts memory at random places.
func pieces(r *rand.Rand, b []byte) (list [][]byte) {
	for len(b) > 0 {
		n := 1 + r.IntN(len(b))
		list = append(list, b[:n])
		b = b[n:]
	}
	return list
}

// TestRandomOneByOne compares an image with a slice of bytes.
func TestRandomOneByOne(t *testing.T) {
	for seed := range uint64(15) {
		const size = 300_001
		w, i := newWorld(t, seed, size)
		w.commit = meta.CommitMode(w.rng.IntN(3))
		model := make([]byte, size)
		for range 150 {
			offset := w.rng.Uint64N(size)
			n := min(1+w.rng.Uint64N(100_000), size-offset)
			if w.rng.IntN(3) == 0 {
				offset, n = offset/4096*4096, min((n+4095)/4096*4096, size-offset/4096*4096)
			}
			r := &Request{Kind: Kind(w.rng.IntN(6)), Offset: offset, Bytes: n, Flags: Flags(w.rng.IntN(8))}
			w.dead = w.rng.IntN(2) == 0
			if w.rng.IntN(20) == 0 {
				w.snapshot()
			}
			random(t, w, i, r, model)
		}
		got := make([]byte, size)
		if err := w.do(i, &Request{Kind: Read, Bytes: size, Iov: [][]byte{got}}); err != 0 || !bytes.Equal(got, model) {
			t.Fatalf("seed %d: the content is wrong at the end (%v)", seed, err)
		}
		if i.order.first != nil || i.order.partial != 0 {
			t.Fatal("changes are left in order")
		}
	}
}

// random executes a random request, on the model too.
func random(t *testing.T, w *world, i *Image, r *Request, model []byte) {
	t.Helper()
	at := model[r.Offset:][:r.Bytes]
	buf := make([]byte, r.Bytes)
	switch r.Kind {
	case Write:
		for j := range buf {
			buf[j] = byte(w.rng.Uint32())
		}
		copy(at, buf)
		r.Iov = pieces(w.rng, buf)
	case Read:
		r.Iov = pieces(w.rng, buf)
	case WriteZeroes:
		clear(at)
	case Flush:
		r.Bytes = 0
	}
	if err := w.do(i, r); err != 0 {
		t.Fatalf("%v at %d of %d bytes: %v", r.Kind, r.Offset, r.Bytes, err)
	}
	switch r.Kind {
	case Read:
		if !bytes.Equal(buf, at) {
			t.Fatalf("read at %d of %d bytes returns something else", r.Offset, r.Bytes)
		}
	case Discard: // may have changed its range to anything
		n := r.Bytes
		if err := w.do(i, &Request{Kind: Read, Offset: r.Offset, Bytes: n, Iov: [][]byte{at}}); err != 0 {
			t.Fatal(err)
		}
	case Status:
		checkExtents(t, r, at)
	}
	durable := r.Kind == Flush || r.Flags&FUA != 0 && (r.Kind == Write || r.Kind == WriteZeroes || r.Kind == Discard)
	if durable && w.commit != meta.CommitAll && w.unsynced > 0 {
		t.Fatalf("%v is not durable", r.Kind)
	}
}

func checkExtents(t *testing.T, r *Request, at []byte) {
	t.Helper()
	sum := uint64(0)
	for j, x := range r.Extents {
		if x.Bytes == 0 || j > 0 && x.Allocated == r.Extents[j-1].Allocated {
			t.Fatalf("extents %v", r.Extents)
		}
		if !x.Allocated && !bytes.Equal(at[sum:][:x.Bytes], make([]byte, x.Bytes)) {
			t.Fatal("what is not allocated has content")
		}
		sum += x.Bytes
	}
	if sum == 0 || r.Flags&OneExtent == 0 && sum != r.Bytes || r.Flags&OneExtent != 0 && len(r.Extents) != 1 {
		t.Fatalf("extents %v of a request for %d bytes", r.Extents, r.Bytes)
	}
}

// TestRandomAtOnce submits many requests that overlap only in granules: each
// writes bytes of its own, and none of them may be lost.
func TestRandomAtOnce(t *testing.T) {
	for seed := range uint64(40) {
		const size, each = 100_000, 777
		w, i := newWorld(t, seed, size)
		model := make([]byte, size)
		left := 0
		for _, slot := range w.rng.Perm(size / each) {
			offset := uint64(slot * each)
			data := make([]byte, each)
			for j := range data {
				data[j] = byte(w.rng.Uint32())
			}
			r := &Request{Kind: Write, Offset: offset, Bytes: each, Iov: pieces(w.rng, data), Flags: Flags(w.rng.IntN(2))}
			if w.rng.IntN(4) == 0 {
				r.Kind, r.Iov = WriteZeroes, nil
				clear(data)
			}
			copy(model[offset:], data)
			left++
			r.Done = func(r *Request) {
				left--
				if r.Err != 0 {
					t.Error(r.Err)
				}
			}
			i.Submit(r)
			for range w.rng.IntN(4) {
				w.step()
			}
			if w.rng.IntN(50) == 0 {
				w.snapshot()
			}
		}
		for w.step() {
		}
		if left != 0 {
			t.Fatalf("seed %d: %d requests are never completed", seed, left)
		}
		got := make([]byte, size)
		w.do(i, &Request{Kind: Read, Bytes: size, Iov: [][]byte{got}})
		if !bytes.Equal(got, model) {
			t.Fatalf("seed %d: bytes of some request are lost", seed)
		}
	}
}

func TestErrors(t *testing.T) {
	w, i := newWorld(t, 1, 1<<20)
	buf := [][]byte{make([]byte, 4096)}
	for _, c := range []struct {
		what string
		r    Request
		set  func()
		want syscall.Errno
	}{
		{"a read beyond the end", Request{Kind: Read, Offset: 1 << 20, Bytes: 4096, Iov: buf}, nil, syscall.EINVAL},
		{"a write beyond the end", Request{Kind: Write, Offset: 1<<20 - 4095, Bytes: 4096, Iov: buf}, nil, syscall.ENOSPC},
		{"an offset that overflows", Request{Kind: Write, Offset: ^uint64(0), Bytes: 4096, Iov: buf}, nil, syscall.EINVAL},
		{"zeroes beyond the end", Request{Kind: WriteZeroes, Offset: 0, Bytes: 1<<20 + 1}, nil, syscall.ENOSPC},
		{"too little memory", Request{Kind: Read, Bytes: 8192, Iov: buf}, nil, syscall.EINVAL},
		{"no memory", Request{Kind: Write, Bytes: 1}, nil, syscall.EINVAL},
		{"status of nothing", Request{Kind: Status}, nil, syscall.EINVAL},
		{"an unknown kind", Request{Kind: 77, Bytes: 1}, nil, syscall.EINVAL},
		{"nothing", Request{Kind: Write}, nil, 0},
		{"an error of the cluster", Request{Kind: Write, Offset: 1, Bytes: 4096, Iov: buf}, func() { w.fail = syscall.EPIPE }, syscall.EIO},
		{"no space", Request{Kind: Write, Bytes: 4096, Iov: buf}, func() { w.fail = syscall.ENOSPC }, syscall.ENOSPC},
		{"a flush that fails", Request{Kind: Flush}, nil, syscall.ENOSPC},
		{"a read-only image", Request{Kind: Discard, Bytes: 4096}, func() { w.fail = 0; w.seen.ReadOnly = true }, syscall.EROFS},
		{"an image that is gone", Request{Kind: Read, Bytes: 4096, Iov: buf}, func() { w.seen = nil }, syscall.ENOENT},
	} {
		if c.set != nil {
			c.set()
		}
		if err := w.do(i, &c.r); err != c.want {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if info := i.Info(); !info.ReadOnly || info.SizeBytes != 1<<20 {
		t.Errorf("an image that is gone: %+v", info)
	}
}

// TestGoneMeanwhile: the image is removed between two steps.
func TestGoneMeanwhile(t *testing.T) {
	w, i := newWorld(t, 1, 1<<20)
	var got []syscall.Errno
	for k := range uint64(2) {
		r := &Request{Kind: Write, Offset: 10 + k, Bytes: 1, Iov: [][]byte{{1}}}
		r.Done = func(r *Request) { got = append(got, r.Err) }
		i.Submit(r)
	}
	w.seen = nil
	for w.step() {
	}
	if !slices.Equal(got, []syscall.Errno{syscall.ENOENT, syscall.ENOENT}) {
		t.Errorf("%v", got)
	}
}

func TestPlan(t *testing.T) {
	const k, object, size = 1 << 10, 32 << 10, 1000 << 10
	for _, c := range []struct {
		kind          Kind
		offset, bytes uint64
		mayDelete     bool
		want          []step
	}{
		{WriteZeroes, 0, 64 * k, true, []step{{0, 64 * k, true}}},
		{WriteZeroes, 0, 64 * k, false, []step{{0, 64 * k, false}}},
		{WriteZeroes, 1 * k, 64 * k, true, []step{{1 * k, 31 * k, false}, {32 * k, 32 * k, true}, {64 * k, 1 * k, false}}},
		{WriteZeroes, 1 * k, 30 * k, true, []step{{1 * k, 30 * k, false}}},
		{WriteZeroes, 992 * k, 8 * k, true, []step{{992 * k, 32 * k, true}}}, // up to the end
		{WriteZeroes, 993 * k, 7 * k, true, []step{{993 * k, 7 * k, false}}},
		{Discard, 1 * k, 64 * k, true, []step{{32 * k, 32 * k, true}}},
		{Discard, 1 * k, 30 * k, true, nil},
		{Discard, 0, 64 * k, false, nil},
	} {
		var steps [stepsMax]step
		n := plan(&steps, c.kind, c.offset, c.bytes, size, object, c.mayDelete)
		if !slices.Equal(steps[:n], c.want) {
			t.Errorf("%v %d+%d: %v, want %v", c.kind, c.offset, c.bytes, steps[:n], c.want)
		}
	}
}

func TestResized(t *testing.T) {
	w, i := newWorld(t, 1, 1<<20)
	var sizes []uint64
	i.Resized = func(n uint64) { sizes = append(sizes, n) }
	i.changed(nil)
	bigger := *w.seen
	bigger.Size = 2 << 20
	w.seen = &bigger
	i.changed(nil)
	if !slices.Equal(sizes, []uint64{2 << 20}) || i.Info().SizeBytes != 2<<20 {
		t.Errorf("%v", sizes)
	}
	if err := w.do(i, &Request{Kind: Write, Offset: 2<<20 - 1, Bytes: 1, Iov: [][]byte{{1}}}); err != 0 {
		t.Error(err)
	}
}

// TestZeroesStay: copies on dead OSDs would come back, so zeroes are written.
func TestZeroesStay(t *testing.T) {
	w, i := newWorld(t, 1, 1<<20)
	w.dead = true
	w.do(i, &Request{Kind: WriteZeroes, Offset: 0, Bytes: 64 << 10})
	if w.layers[w.inode()][3] == nil {
		t.Errorf("nothing was written: %v", w.ops)
	}
	w.dead = false
	w.do(i, &Request{Kind: WriteZeroes, Offset: 0, Bytes: 64 << 10})
	if w.layers[w.inode()][3] != nil {
		t.Errorf("nothing was freed: %v", w.ops)
	}
}

func TestNothingAllocates(t *testing.T) {
	w, i := newWorld(t, 1, 1<<20)
	back := &echo{}
	i.back = back
	r := &Request{Iov: [][]byte{make([]byte, 4096)}, Bytes: 4096}
	r.Done = func(r *Request) {}
	for _, k := range []Kind{Read, Write, Flush} {
		r.Kind = k
		if n := testing.AllocsPerRun(100, func() { i.Submit(r); back.op.Done(back.op) }); n != 0 {
			t.Errorf("%v: %v allocations", k, n)
		}
	}
	_ = w
}

type echo struct{ op *client.Op }

func (e *echo) Submit(op *client.Op) { e.op = op }
