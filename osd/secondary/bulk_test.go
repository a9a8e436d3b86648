package secondary

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// fill makes n objects of one granule in pool 2, half of them stable.
func (p *peer) fill(n int) {
	p.t.Helper()
	var l wire.ObjectList
	for i := range n {
		id := oid(2, uint64(i/8+1), uint64(i%8)*2*blockBytes)
		p.want(0, &wire.SecRw{Op: wire.OpSecWrite, Chunk: id, Version: 5, AttrLen: bitmapBytes}, []byte{byte(i), byte(i >> 8), 0, 0})
		if i%2 == 0 {
			l = l.Append(at(id, 5))
		}
	}
	p.want(0, &wire.SecStab{Op: wire.OpSecStabilize, Len: uint64(len(l))}, l)
}

func TestListing(t *testing.T) {
	r := newRig(t, 1)
	p := r.peer(1)
	p.fill(40)
	two := oid(2, 1, 0) // more versions of one object
	p.write(4096, wire.OpSecWrite, two, 6, 0, 4096, 1, 1)
	p.write(4096, wire.OpSecWrite, two, 8, 0, 4096, 1, 1)
	all := *r.peering(meta.PG{Pool: 2, Num: 1})
	stable, unstable := p.list(&all)
	if len(stable) != 20 || len(unstable) != 22 {
		t.Errorf("%d stable, %d unstable", len(stable), len(unstable))
	}
	for _, v := range []meta.Version{6, 8} {
		if !slices.Contains(unstable, at(two, v)) {
			t.Errorf("version %d is not listed", v)
		}
	}
	// Pages: sorted, cut to the limit; unstable ones are not cut.
	var paged []meta.ObjectVersion
	q := all
	q.StableLimit = 7
	for {
		page, u := p.list(&q)
		if len(page) > 7 || len(paged) == 0 && len(u) != 22 {
			t.Fatalf("page of %d, %d unstable", len(page), len(u))
		}
		paged = append(paged, page...)
		if len(page) < 7 {
			break
		}
		q.Min = page[6].ObjectID
		q.Min.Stripe++
	}
	slices.SortFunc(stable, meta.ObjectVersion.Compare)
	if !slices.Equal(paged, stable) {
		t.Errorf("pages: %v", paged)
	}
	// Ranges are of pairs, roles included.
	q = all
	q.Min, q.Max = oid(2, 1, 2*blockBytes+1), oid(2, 2, 0)
	if s, u := p.list(&q); len(s)+len(u) != 7 {
		t.Errorf("range: %v %v", s, u)
	}
	q.Min, q.Max = oid(2, 2, 0), oid(2, 1, 0)
	if s, u := p.list(&q); len(s)+len(u) != 0 {
		t.Errorf("empty range: %v %v", s, u)
	}
	r.s.answerMax = 41 * wire.ObjectItemBytes
	p.want(wire.EINVAL, &all)
	r.s.answerMax++
	p.want(wire.EINVAL, &all)
	r.s.answerMax = 42 * wire.ObjectItemBytes
	p.want(42, &all)
	r.idle()
}

// TestListingOrder: a listing shows every mutation sent before it on the same
// connection, and on others if it was received before.
func TestListingOrder(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.Limits.Running, c.Limits.Answers = 2, 1 }))
	p := r.peer(1)
	var ops []*msgr.Op
	var lists [4]*msgr.Op
	for i := range uint64(20) {
		ops = append(ops, p.begin(&wire.SecRw{Op: wire.OpSecWrite, Chunk: oid(2, i+1, 0), Version: 1, Len: 4096}, make([]byte, 4096)))
		if i%5 == 4 {
			lists[i/5] = p.begin(r.peering(meta.PG{Pool: 2, Num: 1}))
		}
	}
	p.wait(ops...)
	p.wait(lists[:]...)
	for i, op := range lists {
		if op.Retval < wire.Retval(5*i+5) {
			t.Errorf("listing %d shows only %d of %d writes", i, op.Retval, 5*i+5)
		}
	}
	// One of our own primary does not overtake what waits for a slot.
	ops = ops[:0]
	for i := range uint64(20) {
		ops = append(ops, p.begin(&wire.SecRw{Op: wire.OpSecWrite, Chunk: oid(2, i+1, 1), Version: 1, Len: 4096}, make([]byte, 4096)))
	}
	r.w.RunUntil(func() bool { return r.s.active.count > 8 }, time.Minute)
	received, listed := r.s.active.count, false
	l := &store.List{Pool: 2, PG: 1, PGCount: 1, PGStripeBytes: 2 * blockBytes, Min: oid(2, 0, 0), Max: oid(2, meta.MaxInodeNumber, 0)}
	own := &Op{Op: store.Op{Kind: store.OpList, List: l}, Done: func(*Op) { listed = true }}
	r.node.Do(func(*env.Env) { r.s.Submit(own) })
	p.wait(ops...)
	if !listed || len(l.Unstable) < 20+received {
		t.Errorf("own listing shows %d of %d writes", len(l.Unstable)-20, received)
	}
	r.idle()
}

// A listing that waited for memory gets in line behind what waits for a slot,
// also when both become free at the same moment.
func TestListingStaysInLine(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.Limits.Running, c.Limits.Answers = 1, 1 }))
	p := r.peer(1)
	q := *r.peering(meta.PG{Pool: 2, Num: 1})
	q.PGStripeBytes *= 2
	fails := prepare(&q) // EAGAIN
	write := prepare(&wire.SecRw{Op: wire.OpSecWrite, Chunk: oid(2, 1, 0), Version: 1, Len: 4096}, make([]byte, 4096))
	list := prepare(r.peering(meta.PG{Pool: 2, Num: 1}))
	p.node.Do(func(*env.Env) {
		for _, op := range []*msgr.Op{fails, write, list} {
			p.up.Submit(op)
		}
	})
	p.wait(fails, write, list)
	if fails.Retval != wire.EAGAIN || write.Retval != 4096 || list.Retval != 1 {
		t.Errorf("listing %v, write %v, listing %v", fails.Retval, write.Retval, list.Retval)
	}
	r.idle()
}

// TestManyItems: lists longer than a buffer of the messenger and than a slice
// of work, answered in parts between which others get their turn.
func TestManyItems(t *testing.T) {
	r := newRig(t, 1, func(r *rig, _ *sim.DiskConfig) { r.store.Areas = areas(blockBytes, 128) })
	p := r.peer(1)
	p.fill(100)
	const n = 100_000
	var l wire.ObjectList
	item := func(i int) meta.ObjectVersion { // every third one does not exist
		k := i % 150
		return at(oid(2, uint64(k/8+1), uint64(k%8)*2*blockBytes), newest)
	}
	for i := range n {
		l = l.Append(item(i))
	}
	op := p.begin(&wire.SecReadBmp{Len: uint64(len(l))}, l)
	slices := 0
	for !done(op) {
		r.w.Step()
		if r.s.running == 1 && r.s.active.head != nil && r.s.active.head.phase == phaseWorking {
			slices = max(slices, r.s.active.head.cursor)
		}
	}
	if slices == 0 || slices >= n {
		t.Errorf("never seen at work: %d", slices)
	}
	got, err := wire.MakeBitmapList(op.Body[0][:op.BodyBytes], bitmapBytes, n)
	if err != nil || op.Retval != n*12 {
		t.Fatalf("%v, %v", op.Retval, err)
	}
	for i := range n {
		k, want, v := i%150, []byte{byte(i % 150), 0, 0, 0}, meta.Version(5)
		if k >= 100 {
			want, v = make([]byte, 4), 0
		}
		if got.Version(i) != v || !bytes.Equal(got.Bitmap(i), want) {
			t.Fatalf("item %d: version %v, bitmap %x", i, got.Version(i), got.Bitmap(i))
		}
	}
	// A listing and a STABILIZE as long as that.
	l = nil
	for i := range n {
		if v := item(i); i%150 < 100 {
			l = l.Append(at(v.ObjectID, 5))
		}
	}
	p.want(0, &wire.SecStab{Op: wire.OpSecStabilize, Len: uint64(len(l))}, l)
	if s, u := p.list(r.peering(meta.PG{Pool: 2, Num: 1})); len(s) != 100 || len(u) != 0 {
		t.Errorf("%d stable, %d unstable", len(s), len(u))
	}
	r.s.answerMax = n*12 - 1
	p.want(wire.EINVAL, &wire.SecReadBmp{Len: n * 24}, make([]byte, n*24))
	for op := r.s.slab.free; op != nil; op = op.qnext {
		if cap(op.items) > itemsKept {
			t.Errorf("an idle operation keeps %d items", cap(op.items))
		}
	}
	for _, b := range r.s.peers.idle {
		if cap(b.out) > keptBytes {
			t.Errorf("an idle answer keeps %d bytes", cap(b.out))
		}
	}
	r.idle()
}

// manyObjects makes an OSD with n objects in PG 1 of pool 2.
func manyObjects(t *testing.T, n uint64, opts ...rigOption) *rig {
	r := newRig(t, 1, append(opts, func(r *rig, _ *sim.DiskConfig) {
		r.store.BlockBytes, r.cfg.BlockBytes = 32768, 32768
		r.store.Areas = areas(32768, int64(n)+64)
		r.store.Areas.MetaLen, r.store.Areas.DataOffset = 2048*4096, 4096+8<<20+2048*4096
	})...)
	finished := uint64(0)
	r.node.Do(func(*env.Env) {
		for i := range n {
			op := &Op{Done: func(op *Op) {
				if finished++; op.Retval().Failed() {
					t.Errorf("write: %v", op.Retval())
				}
			}}
			op.Kind, op.OID, op.Version = store.OpWrite, oid(2, 1, i*32768), 3
			r.s.Submit(op)
		}
	})
	if !r.w.RunUntil(func() bool { return finished == n }, time.Hour) {
		t.Fatalf("%d of %d writes", finished, n)
	}
	return r
}

// TestListingSlices lists more objects than are encoded at once.
func TestListingSlices(t *testing.T) {
	const n = 2*sliceItems + 5
	r := manyObjects(t, n)
	p := r.peer(1)
	s, u := p.list(r.peering(meta.PG{Pool: 2, Num: 1}))
	slices.SortFunc(u, meta.ObjectVersion.Compare)
	if len(s) != 0 || len(u) != n {
		t.Fatalf("%d stable, %d unstable", len(s), len(u))
	}
	for i := range u {
		if u[i] != at(oid(2, 1, uint64(i)*32768), 3) {
			t.Fatalf("item %d is %v", i, u[i])
		}
	}
	r.idle()
}

// TestStrangersDoNotBlockOSDs: clients that do not read their listings use up
// their own share only.
func TestStrangersDoNotBlockOSDs(t *testing.T) {
	const n = 3 * sliceItems
	r := manyObjects(t, n, withConfig(func(c *Config) { c.Limits.Strangers = 2 }))
	p, client := r.peer(1), r.peer(0)
	var ops []*msgr.Op
	for range 10 {
		ops = append(ops, client.begin(r.peering(meta.PG{Pool: 2, Num: 1})))
	}
	r.w.RunUntil(func() bool { return r.s.strangers.made > 0 }, time.Minute)
	client.node.Pause()
	r.w.RunFor(time.Second)
	for range 10 {
		p.want(n, r.peering(meta.PG{Pool: 2, Num: 1}))
	}
	if r.s.strangers.made != 2 || len(r.s.strangers.idle) != 0 || r.s.strangers.waiting.empty() || r.s.peers.made != 1 {
		t.Errorf("%d and %d answers at once", r.s.strangers.made, r.s.peers.made)
	}
	client.node.Resume()
	client.wait(ops...)
	for _, op := range ops {
		if op.Retval != n {
			t.Errorf("listing: %v", op.Retval)
		}
	}
	// One that never reads again is lost, and its share comes back.
	ops = ops[:0]
	for range 10 {
		ops = append(ops, client.begin(r.peering(meta.PG{Pool: 2, Num: 1})))
	}
	r.w.RunUntil(func() bool { return len(r.s.strangers.idle) == 0 }, time.Minute)
	client.node.Pause()
	r.w.RunFor(time.Second)
	client.node.Crash()
	r.idle()
}

// TestLongBlocks: chunks larger than the buffers of the messenger.
func TestLongBlocks(t *testing.T) {
	const block, bm = 4 << 20, 128
	r := newRig(t, 1, withConfig(func(c *Config) { c.BlockBytes = block; c.Limits.LongReads = 1 }), func(r *rig, _ *sim.DiskConfig) {
		r.store.BlockBytes, r.store.BufferPoolBytes = block, 32<<20
		r.store.Areas = areas(block, 8)
		for id, p := range r.view.pools {
			p.PGStripeBytes = 2 * block
			r.view.pools[id] = p
		}
	})
	p := r.peer(1)
	id := oid(1, 1, 0)
	data, bits := pattern(block, 9), pattern(bm, 4)
	p.want(block, &wire.SecRw{Op: wire.OpSecWriteStable, Chunk: id, Version: 1, Len: block, AttrLen: bm}, bits, data)
	var ops []*msgr.Op
	for _, n := range []int{block, 3<<20 + 4096, pinned.MaxBufferBytes + 4096, pinned.MaxBufferBytes, block, 4096, 0} {
		ops = append(ops, p.begin(&wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Offset: uint32(min(4096, block-n)), Len: uint32(n)}))
	}
	ops = append(ops, p.begin(&wire.SecRw{Op: wire.OpSecRead, Chunk: oid(1, 2, 0), Version: newest, Len: block}))
	for i, op := range ops {
		op.Body = [][]byte{make([]byte, block)}
		_ = i
	}
	p.wait(ops...)
	for i, op := range ops[:7] {
		var q wire.SecRw
		q.Decode(&op.Packet)
		if op.Retval != wire.Retval(q.Len) || !bytes.Equal(op.Body[0][:op.BodyBytes], data[q.Offset:q.Offset+q.Len]) || !bytes.Equal(op.Attr[:op.AttrBytes], bits) {
			t.Errorf("read %d of %d bytes: %v or wrong data", i, q.Len, op.Retval)
		}
	}
	if ops[7].Retval != wire.ENOENT || r.s.longReads.made != 1 || r.s.Stats().Waits == 0 {
		t.Errorf("%v, %d buffers, %d waits", ops[7].Retval, r.s.longReads.made, r.s.Stats().Waits)
	}
	p.want(wire.EPIPE, &wire.SecRw{Op: wire.OpSecRead, Chunk: oid(9, 1, 0), Version: newest, Len: block})
	op := p.want(136, &wire.SecReadBmp{Len: 24}, wire.ObjectList(nil).Append(at(id, newest)))
	if !bytes.Equal(op.Body[0][8:136], bits) {
		t.Error("wrong bitmap")
	}
	r.idle()
}

// TestSlots: no more requests than Limits.Running are in the store, and none
// is forgotten.
func TestSlots(t *testing.T) {
	r := newRig(t, 1, withConfig(func(c *Config) { c.Limits.Running = 3 }))
	p, q := r.peer(1), r.peer(3)
	var ops []*msgr.Op
	for i := range uint64(60) {
		pool := meta.PoolID(1)
		if i%7 == 3 {
			pool = 9 // refused when its turn comes
		}
		ops = append(ops, []*peer{p, q}[i%2].begin(&wire.SecRw{Op: wire.OpSecWriteStable, Chunk: oid(pool, 1+i%5, i/5*blockBytes), Version: 1, Len: 4096},
			make([]byte, 4096)))
	}
	most := 0
	for !done(ops[59]) || !done(ops[58]) {
		r.w.Step()
		most = max(most, r.s.running)
	}
	p.wait(ops...)
	for i, op := range ops {
		if want := wire.Retval(4096); i%7 == 3 && op.Retval != wire.EPIPE || i%7 != 3 && op.Retval != want {
			t.Errorf("%d: %v", i, op.Retval)
		}
	}
	if most != 3 || r.s.Stats().Waits == 0 {
		t.Errorf("%d at once, %d waited", most, r.s.Stats().Waits)
	}
	r.idle()
}
