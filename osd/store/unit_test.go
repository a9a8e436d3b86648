package store

import (
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/osd/store/layout"
)

func TestBlockBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 63, 64, 65, 4096, 4097, 300_000} {
		b := newBlockBits(n)
		used := map[int]bool{}
		for range 2000 {
			low := b.lowestFree()
			for i := 0; i < min(n, low) && i < 100; i++ {
				if !used[i] {
					t.Fatalf("n %d: %d is free, lowest is %d", n, i, low)
				}
			}
			if low < 0 != (len(used) == n) || low >= n || used[low] {
				t.Fatalf("n %d: lowest free %d with %d used", n, low, len(used))
			}
			if low >= 0 && rng.IntN(3) > 0 {
				b.set(low)
				used[low] = true
			} else if i := rng.IntN(n); used[i] {
				b.clear(i)
				delete(used, i)
			} else if rng.IntN(2) == 0 {
				b.set(i)
				used[i] = true
			}
			from := rng.IntN(n)
			to := min(n, from+rng.IntN(200))
			any := false
			for i := from; i < to; i++ {
				any = any || used[i]
			}
			if b.anyUsed(from, to) != any || b.used != len(used) {
				t.Fatal("anyUsed or count differs")
			}
		}
	}
}

func TestGranuleBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	b := newGranuleBits(300)
	type span struct{ at, n int }
	var held []span
	for range 20000 {
		n := 1 + rng.IntN(31)
		if rng.IntN(2) == 0 && len(held) > 0 {
			i := rng.IntN(len(held))
			b.release(held[i].at, held[i].n)
			held = slices.Delete(held, i, i+1)
			continue
		}
		run, longest := 0, 0
		for i := range 300 {
			if run++; b.get(i) {
				run = 0
			}
			longest = max(longest, run)
		}
		at := b.take(n)
		if (at >= 0) != (longest >= n) {
			t.Fatalf("%d granules: got %d, the longest free run is %d", n, at, longest)
		}
		if at >= 0 {
			held = append(held, span{at, n})
		}
	}
}

// The index agrees with a map, through splits, removals and resharding.
func TestIndexAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	recs := newRecords(4096, 0)
	s := &Store{recs: recs, index: newIndex(recs, 42, 0), cfg: Config{ReshardChunkObjects: 500}, env: &env.Env{Clock: newMemLoop(t, 4096)}}
	x := s.index
	want := map[meta.ObjectID]ref{}
	var ids []meta.ObjectID
	for i := range 60_000 {
		switch {
		case i%20000 == 19999: // whatever is under way
			count := uint32(1 + rng.IntN(9))
			s.ReshardNow(1, count, 1<<20)
			if !s.Sharded(1, count, 1<<20) {
				t.Fatal("not sorted now")
			}
		case i%9000 == 8999:
			s.Reshard(1, uint32(1+rng.IntN(9)), 1<<(17+rng.IntN(3)))
		case i%50 == 0:
			s.reshard()
		case rng.IntN(3) > 0 || len(ids) == 0:
			id := oid(rng.Uint64N(100_000))
			if want[id] != 0 {
				continue
			}
			r, err := recs.alloc(40)
			if err != nil {
				t.Fatal(err)
			}
			layout.PutDelete(recs.bytes(r)[recHeader:], 1, id)
			if err := x.insert(id, r); err != nil {
				t.Fatal(err)
			}
			want[id] = r
			ids = append(ids, id)
		default:
			k := rng.IntN(len(ids))
			x.remove(ids[k])
			recs.release(want[ids[k]])
			delete(want, ids[k])
			ids[k] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
		}
		if i%100 == 0 {
			for range 10 {
				id := oid(rng.Uint64N(100_000))
				if x.head(id) != want[id] {
					t.Fatalf("step %d: %v: %d, want %d", i, id, x.head(id), want[id])
				}
			}
		}
	}
	seen := 0
	x.eachObject(func(slot uint64) bool {
		if id := x.objectOf(slotRef(slot)); want[id] != slotRef(slot) {
			t.Fatalf("%v has another record", id)
		}
		seen++
		return true
	})
	if seen != len(want) || x.objects != uint64(seen) || recs.live != seen {
		t.Errorf("%d objects, index counts %d, want %d", seen, x.objects, len(want))
	}
}

func TestRecordsReuseMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	m := newRecords(4096, 0)
	live := map[ref]int{}
	for round := range 6 {
		for range 5000 {
			size := []int{40, 52, 61, 64, 180, 188}[(rng.IntN(2)+round)%6]
			r, err := m.alloc(size)
			if err != nil || live[r] != 0 || len(m.entry(r)) != size {
				t.Fatalf("alloc of %d: %d, %v, entry of %d", size, r, err, len(m.entry(r)))
			}
			live[r] = size
		}
		for r := range live {
			if len(m.entry(r)) != live[r] {
				t.Fatal("a record has changed its size")
			}
			if rng.IntN(10) > 0 || round == 5 {
				m.release(r)
				delete(live, r)
			}
		}
		if m.live != len(live) {
			t.Fatal("count of records")
		}
	}
	if m.memory() != 0 {
		t.Errorf("%d bytes in use without records", m.memory())
	}
}

// What requests that make no sense get.
func TestErrors(t *testing.T) {
	r := newRig(t)
	a := oid(1)
	r.want(writeOp(OpWrite, a, 5, 0, 4096, 1), 0)
	bad := func(change func(op *Op)) *Op {
		op := stableOp(oid(2), 1, 0, 4096, 1)
		change(op)
		return op
	}
	for _, c := range []struct {
		name string
		op   *Op
		want syscall.Errno
	}{
		{"offset not aligned", bad(func(op *Op) { op.Offset = 1 }), syscall.EINVAL},
		{"length not aligned", bad(func(op *Op) { op.Len, op.Buf = 1, op.Buf[:1] }), syscall.EINVAL},
		{"beyond the block", bad(func(op *Op) { op.Offset = 131072 }), syscall.EINVAL},
		{"empty at the end", bad(func(op *Op) { op.Offset, op.Len, op.Buf = 131072, 0, nil }), syscall.EINVAL},
		{"offset overflow", bad(func(op *Op) { op.Offset = 0xfffff000 }), syscall.EINVAL},
		{"short buffer", bad(func(op *Op) { op.Len = 8192 }), syscall.EINVAL},
		{"short bitmap", bad(func(op *Op) { op.Bitmap = op.Bitmap[:3] }), syscall.EINVAL},
		{"version 0", bad(func(op *Op) { op.Version = 0 }), syscall.EINVAL},
		{"kind", bad(func(op *Op) { op.Kind = 99 }), syscall.EINVAL},
		{"internal kind", bad(func(op *Op) { op.Kind = opItem }), syscall.EINVAL},
		{"same version", writeOp(OpWrite, a, 5, 0, 4096, 1), syscall.EEXIST},
		{"older version", writeOp(OpWrite, a, 4, 0, 131072, 1), syscall.EEXIST},
		{"stable over unstable", stableOp(a, 6, 0, 4096, 1), syscall.EINVAL},
		{"read of nothing", &Op{Kind: OpRead, OID: oid(9), Version: newest}, syscall.ENOENT},
		{"read of an older version", &Op{Kind: OpRead, OID: a, Version: 4}, syscall.ENOENT},
		{"stabilize nothing", &Op{Kind: OpStabilize, Items: items(1, oid(9))}, syscall.ENOENT},
		{"stabilize an unknown version", &Op{Kind: OpStabilize, Items: items(6, a)}, syscall.ENOENT},
		{"stabilize no items", &Op{Kind: OpStabilize}, 0},
		{"roll back nothing", &Op{Kind: OpRollback, Items: items(1, oid(9))}, syscall.ENOENT},
		{"roll back to the newest", &Op{Kind: OpRollback, Items: items(5, a)}, 0},
		{"delete nothing", &Op{Kind: OpDelete, OID: oid(9), Version: 1}, 0},
		{"list nothing", &Op{Kind: OpList}, syscall.EINVAL},
		{"list PG 0", &Op{Kind: OpList, List: &List{Pool: 1, PGCount: 1, PGStripeBytes: 1 << 17, Min: a, Max: a}}, syscall.EINVAL},
		{"list of two pools", &Op{Kind: OpList, List: &List{Pool: 1, PG: 1, PGCount: 1, PGStripeBytes: 1 << 17, Min: a, Max: meta.MaxObjectID}}, syscall.EINVAL},
		{"list unsharded", &Op{Kind: OpList, List: &List{Pool: 1, PG: 1, PGCount: 1, PGStripeBytes: 1 << 17, Min: a, Max: a}}, syscall.EAGAIN},
	} {
		if r.one(c.op); c.op.Err != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.op.Err, c.want)
		}
	}
	r.stabilize(a, 5, 0)
	r.rollback(a, 4, syscall.EBUSY)
	r.want(&Op{Kind: OpDelete, OID: a, Version: 6}, 0)
	r.stabilize(a, 5, 0) // deleted objects: wire.md §7.6
	r.rollback(a, 5, syscall.ENOENT)
}

// A list stops at the first error; what was done before stays (D18).
func TestItemsStopAtError(t *testing.T) {
	r := newRig(t)
	for i := range 4 {
		r.want(writeOp(OpWrite, oid(uint64(i)), 1, 0, 4096, 1), 0)
	}
	list := append(items(1, oid(0), oid(1), oid(9)), items(1, oid(2))...)
	r.want(&Op{Kind: OpStabilize, Items: list}, syscall.ENOENT)
	r.again(func() {
		for i, stable := range []bool{true, true, false, false} {
			if st := r.s.state(oid(uint64(i))); st.stable != stable {
				t.Errorf("object %d: stable %v", i, st.stable)
			}
		}
	})
}

// A long list shares metadata writes.
func TestItemsShareWrites(t *testing.T) {
	r := newRig(t)
	var ids []meta.ObjectID
	for i := range 40 {
		ids = append(ids, oid(uint64(i)))
		r.want(writeOp(OpWrite, oid(uint64(i)), 1, 0, 4096, 1), 0)
	}
	before := r.s.Counters().MetaWrites
	r.want(&Op{Kind: OpStabilize, Items: items(1, ids...)}, 0)
	if n := r.s.Counters().MetaWrites - before; n > 2 {
		t.Errorf("%d metadata writes for 40 items", n)
	}
}

// Full stores answer ENOSPC, lose nothing, and work again after deletions.
func TestNoSpace(t *testing.T) {
	forModes(t, func(t *testing.T, r *rig) {
		n := uint64(0)
		for ; ; n++ {
			op := r.one(stableOp(oid(n), 1, 0, 131072, n+1))
			if op.Err == syscall.ENOSPC {
				break
			}
			if op.Err != 0 || n > 64 {
				t.Fatalf("write %d: %v", n, op.Err)
			}
		}
		if n != 64 {
			t.Errorf("%d blocks of 64 were written", n)
		}
		r.want(stableOp(oid(3), 2, 4096, 4096, 99), 0) // partial writes still work
		r.again(func() { r.expect(oid(3), newest, 2, 99, [3]int{0, 32, 4}, [3]int{1, 1, 99}) })
		r.want(&Op{Kind: OpDelete, OID: oid(5), Version: 2}, 0)
		r.want(stableOp(oid(100), 1, 0, 131072, 7), 0)
		r.expect(oid(100), newest, 1, 7, [3]int{0, 32, 7})
	})
}

// Unstable small writes that nobody commits fill the buffer area: ENOSPC, and
// everything goes on after a COMMIT.
func TestBufferFull(t *testing.T) {
	forModes(t, func(t *testing.T, r *rig) {
		a := oid(1)
		r.want(writeOp(OpWrite, a, 1, 0, 131072, 1), 0)
		v := meta.Version(2)
		for ; ; v++ {
			op := r.one(writeOp(OpWrite, a, v, 0, 126976, uint64(v)))
			if op.Err == syscall.ENOSPC {
				break
			}
			if op.Err != 0 || v > 100 {
				t.Fatalf("version %d: %v", v, op.Err)
			}
		}
		if v != 10 { // 1 MiB / 124 KiB
			t.Errorf("%d writes did fit", v-2)
		}
		r.stabilize(a, v-1, 0)
		r.want(writeOp(OpWrite, a, v, 0, 126976, uint64(v)), 0)
		r.again(func() {
			r.expect(a, newest, v, uint32(v), [3]int{0, 32, 1}, [3]int{0, 31, int(v)})
			r.expect(a, v-1, v-1, uint32(v-1), [3]int{0, 32, 1}, [3]int{0, 31, int(v - 1)})
		})
	})
}

// A metadata area that is full of entries: ENOSPC leaves room for deletions and
// compaction, which make room again.
func TestMetadataFull(t *testing.T) {
	for _, blocks := range []int64{3, 4, 9} {
		tiny := with(func(c *Config) {
			c.Areas.MetaLen = (blocks + 1) * 4096
			c.Areas.DataLen = 1000 * 128 << 10
		})
		r := newRig(t, tiny)
		n := uint64(0)
		for ; ; n++ {
			if op := r.one(stableOp(oid(n), 1, 0, 0, n)); op.Err == syscall.ENOSPC {
				break
			} else if op.Err != 0 {
				t.Fatal(op.Err)
			}
		}
		if least := uint64(blocks-2) * 4096 / 52 * 9 / 10; n < least {
			t.Errorf("%d blocks: only %d objects", blocks, n)
		}
		for i := range n {
			r.want(&Op{Kind: OpDelete, OID: oid(i), Version: 2}, 0)
		}
		for i := range n {
			r.want(stableOp(oid(i), 1, 0, 0, i), 0)
		}
		r.restart()
		r.check()
		r.parse()
	}
}

// A write error stops everything with EIO and is reported once.
func TestWriteErrorIsFatal(t *testing.T) {
	r := newRig(t)
	r.want(stableOp(oid(1), 1, 0, 131072, 1), 0)
	r.disks[0].SetFaults(sim.DiskFaults{WriteError: 1})
	var ops []*Op
	for i := range 20 {
		ops = append(ops, stableOp(oid(uint64(i+2)), 1, 0, 4096, 1))
	}
	ops = append(ops, &Op{Kind: OpStabilize, Items: items(1, oid(3), oid(1))}, &Op{Kind: OpDelete, OID: oid(1), Version: 2},
		stableOp(oid(1), 2, 0, 4096, 1))
	left := len(ops)
	r.node.Do(func(*env.Env) {
		for _, op := range ops {
			op.Done = func(*Op) { left-- }
			r.s.Submit(op)
		}
	})
	if !r.w.RunUntil(func() bool { return left == 0 }, time.Hour) {
		t.Fatalf("%d operations hang", left)
	}
	for _, op := range ops {
		if op.Err == 0 && op.Kind != OpStabilize {
			t.Errorf("kind %d of %v succeeded", op.Kind, op.OID)
		}
	}
	if r.fatal == nil {
		t.Error("the error was not reported")
	}
	var closed error
	finished := false
	r.node.Do(func(*env.Env) { r.s.Close(func(err error) { closed, finished = err, true }) })
	if r.w.RunUntil(func() bool { return finished }, time.Hour); closed == nil {
		t.Error("Close says that all is well")
	}
}

// Bit rot is an error of the read, not of the store.
func TestBitRot(t *testing.T) {
	for _, sums := range []uint32{4096, 16384} {
		r := newRig(t, csum(sums))
		a, b := oid(1), oid(2)
		r.want(stableOp(a, 1, 0, 131072, 1), 0)
		r.want(stableOp(b, 1, 0, 131072, 2), 0)
		r.edit(func(m *sim.Image) { m.FlipBit(r.cfg.Areas.DataOffset+40960, 3) })
		r.mustOpen()
		r.want(&Op{Kind: OpRead, OID: a, Version: newest, Offset: 36864, Len: 8192, Buf: aligned(8192)}, syscall.EDOM)
		r.want(&Op{Kind: OpRead, OID: a, Version: newest, Offset: 65536, Len: 8192, Buf: aligned(8192)}, 0)
		r.expect(b, newest, 1, 2, [3]int{0, 32, 2})
		if r.s.Counters().ChecksumErrors != 1 || r.fatal != nil {
			t.Errorf("counters %+v, fatal %v", r.s.Counters(), r.fatal)
		}
	}
}

func TestListing(t *testing.T) {
	r := newRig(t)
	const stripe = 1 << 17
	id := func(n uint64) meta.ObjectID { return meta.ObjectID{Inode: meta.MakeInode(1, 7), Stripe: n * stripe} }
	for n := range uint64(20) {
		r.want(stableOp(id(n), 1, 0, 4096, 1), 0)
	}
	r.want(writeOp(OpWrite, id(3), 2, 0, 4096, 1), 0)
	r.want(writeOp(OpWrite, id(3), 3, 0, 0, 1), 0)
	r.want(writeOp(OpWrite, id(30), 1, 0, 4096, 1), 0)
	r.want(&Op{Kind: OpDelete, OID: id(4), Version: 2}, 0)
	r.node.Do(func(*env.Env) { r.s.Reshard(1, 2, stripe) })
	list := func(pg meta.PGNum, min, max uint64, limit int) *List {
		l := &List{Pool: 1, PG: pg, PGCount: 2, PGStripeBytes: stripe, Min: id(min), Max: id(max), StableLimit: limit}
		r.want(&Op{Kind: OpList, List: l}, 0)
		return l
	}
	l := list(1, 0, 100, 0)
	if len(l.Stable) != 9 || len(l.Unstable) != 1 || l.Unstable[0].ObjectID != id(30) {
		t.Errorf("PG 1: %v %v", l.Stable, l.Unstable)
	}
	l = list(2, 0, 100, 0)
	if len(l.Stable) != 10 || len(l.Unstable) != 2 {
		t.Errorf("PG 2: %v %v", l.Stable, l.Unstable)
	}
	l = list(1, 5, 14, 3)
	if want := items(1, id(6), id(8), id(10)); !slices.Equal(l.Stable, want) {
		t.Errorf("page: %v", l.Stable)
	}
	if l = list(1, 14, 5, 0); len(l.Stable)+len(l.Unstable) != 0 {
		t.Errorf("empty range: %v", l.Stable)
	}
	r.want(&Op{Kind: OpList, List: &List{Pool: 1, PG: 1, PGCount: 3, PGStripeBytes: stripe, Min: id(0), Max: id(9)}}, syscall.EAGAIN)

	// Ordered after what was submitted before, not after what comes later.
	l = &List{Pool: 1, PG: 1, PGCount: 2, PGStripeBytes: stripe, Min: id(40), Max: id(60)}
	r.do(stableOp(id(40), 1, 0, 131072, 1), &Op{Kind: OpList, List: l})
	if len(l.Stable) != 1 {
		t.Errorf("a listing did not wait for a write: %v", l.Stable)
	}
}

func TestDiscard(t *testing.T) {
	dev := func(c *Config, d *sim.DiskConfig) { d.DiscardGranularityBytes = 4096; c.MinDiscardBytes = 4 * 131072 }
	r := newRig(t, dev)
	for i := range uint64(10) {
		r.want(stableOp(oid(i), 1, 0, 131072, 1), 0)
	}
	for i := range uint64(8) {
		r.want(&Op{Kind: OpDelete, OID: oid(i), Version: 2}, 0)
	}
	r.settle()
	if got := r.disks[0].Stats().DiscardBytes; got != 8*131072 {
		t.Errorf("%d bytes were discarded", got)
	}
	if tot := r.s.Totals(); tot.FreeBlocks != 62 {
		t.Errorf("%d blocks are free", tot.FreeBlocks)
	}
	r.cfg.DiscardOnStart = true
	r.restart()
	r.settle()
	if got := r.disks[0].Stats().DiscardBytes; got != (8+60-4)*131072 && got != (8+60)*131072 && got < 60*131072 {
		t.Errorf("%d bytes were discarded after the start", got)
	}
	r.expect(oid(9), newest, 1, 1, [3]int{0, 32, 1})
}

// With a nearly full buffer small writes are slowed down to the target.
func TestThrottle(t *testing.T) {
	r := newRig(t, with(func(c *Config) {
		c.ThrottleSmallWrites, c.ThrottleTargetIOPS, c.CompactQueueStart = true, 100, 1000
	}))
	r.want(stableOp(oid(1), 1, 0, 131072, 1), 0)
	took := func(v meta.Version) time.Duration {
		start := r.w.Now()
		r.want(stableOp(oid(1), v, 0, 4096, 1), 0)
		return r.w.Now() - start
	}
	if d := took(2); d > time.Millisecond {
		t.Errorf("with an empty buffer: %v", d)
	}
	r.want(writeOp(OpWrite, oid(2), 1, 0, 131072, 1), 0)
	for v := meta.Version(2); v < 8; v++ {
		r.want(writeOp(OpWrite, oid(2), v, 0, 126976, 1), 0)
	}
	if d := took(3); d < 6*time.Millisecond || d > 11*time.Millisecond {
		t.Errorf("with three quarters used: %v", d)
	}
}

// completed_lsn moves with writes in place and is never ahead of the entries.
func TestCompletedLSN(t *testing.T) {
	r := newRig(t, with(func(c *Config) { c.IntentDepth, c.IntentTrimInterval = 1, 5 }))
	r.want(stableOp(oid(1), 1, 0, 131072, 1), 0)
	for v := meta.Version(2); v < 20; v++ {
		r.want(stableOp(oid(1), v, 0, 4096, uint64(v)), 0)
	}
	l := r.parse()
	if c := l.Superblock.CompletedLSN; c < 10 || c > l.HighestLSN {
		t.Errorf("completed_lsn %d, highest %d", c, l.HighestLSN)
	}
	if n := r.s.Counters().IntentWrites; n != 18 {
		t.Errorf("%d writes in place", n)
	}
	r.restart()
	r.expect(oid(1), newest, 19, 19, [3]int{0, 32, 1}, [3]int{0, 1, 19})
}

// After Close nothing is left in memory outside of the heap, and operations are
// refused.
func TestClose(t *testing.T) {
	forModes(t, func(t *testing.T, r *rig) {
		r.want(stableOp(oid(1), 1, 0, 131072, 1), 0)
		r.want(stableOp(oid(1), 2, 0, 4096, 2), 0)
		finished := false
		var late *Op
		r.node.Do(func(*env.Env) {
			op := stableOp(oid(2), 1, 0, 4096, 3)
			op.Done = func(op *Op) {
				if op.Err != 0 {
					t.Errorf("running write: %v", op.Err)
				}
			}
			r.s.Submit(op)
			r.s.Close(func(err error) {
				if err != nil {
					t.Error(err)
				}
				finished = true
			})
			late = stableOp(oid(3), 1, 0, 4096, 4)
			late.Done = func(*Op) {}
			r.s.Submit(late)
		})
		if !r.w.RunUntil(func() bool { return finished }, time.Hour) {
			t.Fatal("Close does not finish")
		}
		if late.Err != syscall.ESHUTDOWN {
			t.Errorf("late write: %v", late.Err)
		}
		r.restart()
		r.expect(oid(2), newest, 1, 3, [3]int{0, 1, 3})
	})
}
