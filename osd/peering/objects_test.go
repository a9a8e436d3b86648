package peering

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

func TestObjectMap(t *testing.T) {
	var arena Arena
	defer arena.Free()
	rapid.Check(t, func(rt *rapid.T) {
		m := objectMap{arena: &arena}
		want := map[int]uint64{}
		span := rapid.SampledFrom([]int{10, 600, 5000}).Draw(rt, "span")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		for range 4 {
			bias := rapid.IntRange(0, 10).Draw(rt, "deletes of 10")
			ordered := rapid.Bool().Draw(rt, "ordered")
			for i := range 2 * span {
				n := r.IntN(span)
				if ordered {
					n = i % span
				}
				if r.IntN(10) < bias {
					_, had := want[n]
					if m.delete(testObject(n)) != had {
						rt.Fatal("delete")
					}
					delete(want, n)
				} else {
					m.set(testObject(n), uint64(i))
					want[n] = uint64(i)
				}
			}
			checkMap(rt, &m, want, span)
		}
		m.clear()
		if arena.UsedBytes() != 0 {
			rt.Fatal("blocks leaked")
		}
	})
}

func checkMap(t *rapid.T, m *objectMap, want map[int]uint64, span int) {
	if m.n != len(want) {
		t.Fatalf("%d entries, want %d", m.n, len(want))
	}
	for n := range span {
		v, ok := m.get(testObject(n))
		if w, has := want[n]; ok != has || v != w {
			t.Fatalf("%d: %d, %v, want %d, %v", n, v, ok, w, has)
		}
	}
	start := rapid.IntRange(0, span).Draw(t, "start")
	keys := slices.DeleteFunc(slices.Sorted(maps.Keys(want)), func(n int) bool { return n < start })
	m.from(testObject(start), func(id meta.ObjectID, v uint64) bool {
		if len(keys) == 0 || id != testObject(keys[0]) || v != want[keys[0]] {
			t.Fatalf("iteration: %v", id)
		}
		keys = keys[1:]
		return true
	})
	if len(keys) != 0 {
		t.Fatalf("%d entries not visited", len(keys))
	}
}

// A random sequence of changes; counters and records must always be what a
// count over all objects gives.
func TestCountsFollowChanges(t *testing.T) {
	var arena Arena
	defer arena.Free()
	rapid.Check(t, func(rt *rapid.T) {
		l := drawLayout(rt)
		var items []item
		for n := range 6 {
			items = append(items, drawObject(rt, l, n)...)
		}
		o, _ := runCalc(t, l, &arena, items, 100)
		defer o.Free()
		for range 30 {
			id := testObject(rapid.IntRange(0, 7).Draw(rt, "object"))
			role := meta.Role(rapid.IntRange(0, 3).Draw(rt, "role"))
			osd := meta.OSDNum(rapid.IntRange(1, 6).Draw(rt, "osd"))
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0, 1, 2:
				bad := meta.LocBad(rapid.SampledFrom([]int{1, 2, 4}).Draw(rt, "bad"))
				changed := o.Mark(id, role, osd, bad)
				if changed && o.Mark(id, role, osd, bad) {
					rt.Fatal("the same mark twice changes something")
				}
			case 3:
				before, _ := o.Lookup(id)
				if o.total == 0 && before == nil {
					continue // it does not exist: nobody reads it
				}
				o.RemoveLocation(id, role, osd)
			case 4:
				o.Forget(id)
			case 5:
				if r, _ := o.Lookup(id); r != nil {
					o.Deleted(id)
				}
			}
			checkCounts(rt, o)
		}
	})
}

func checkCounts(t *rapid.T, o *Objects) {
	var counts [5]uint64
	seen := map[*Record]uint64{}
	o.states.from(meta.ObjectID{}, func(id meta.ObjectID, i uint64) bool {
		r := o.records.all[i]
		seen[r]++
		if r.State != o.Evaluate(r.Locs) || r.State == 0 {
			t.Fatalf("%v: state %v of %v", id, r.State, r.Locs)
		}
		if r.State&meta.ObjectCorrupted != 0 && r.State == meta.ObjectCorrupted {
			t.Fatal("corrupted must not be alone")
		}
		for b, bit := range stateBits {
			if r.State&bit != 0 {
				counts[b]++
			}
		}
		return true
	})
	if counts != o.records.counts {
		t.Fatalf("counts %v, want %v", o.records.counts, counts)
	}
	live := 0
	for _, r := range o.records.all {
		if r == nil {
			continue
		}
		live++
		if r.Objects != seen[r] {
			t.Fatalf("record has %d objects, want %d", r.Objects, seen[r])
		}
	}
	if live != len(seen) {
		t.Fatalf("%d records for %d states", live, len(seen))
	}
}

func TestHashCollisions(t *testing.T) {
	l := testLayout(meta.Replicated, 1, []meta.OSDNum{1, 2})
	s := records{layout: &l}
	lists := [][]Location{{{OSD: 1}}, {{OSD: 2}}, {{OSD: 3}}}
	var all []*Record
	for _, locs := range lists {
		r := s.find(locs)
		s.hold(r)
		all = append(all, r)
	}
	// Chain them as if they had one hash.
	s.byHash = map[uint64]*Record{9: all[0]}
	for i, r := range all {
		r.hash = 9
		if i+1 < len(all) {
			r.next = all[i+1]
		} else {
			r.next = nil
		}
	}
	s.release(all[1])
	if s.byHash[9] != all[0] || all[0].next != all[2] {
		t.Fatal("the middle of the chain")
	}
	s.release(all[0])
	if s.byHash[9] != all[2] {
		t.Fatal("the head of the chain")
	}
	s.release(all[2])
	if len(s.byHash) != 0 || len(s.free) != 3 {
		t.Fatal("the end of the chain")
	}
}

// A batch ends where an object ends, also when one OSD has reached the limit in
// the middle of it.
func TestFlushBatches(t *testing.T) {
	var arena Arena
	defer arena.Free()
	l := testLayout(meta.EC, 2, []meta.OSDNum{1, 2, 3})
	var items []item
	for n := range 3 * flushBatchItems {
		for osd := meta.OSDNum(1); osd < 4; osd++ {
			if n%7 == 0 && osd == 1 {
				continue // so that the others reach the limit first
			}
			id := testObject(n).WithRole(meta.Role(osd - 1))
			items = append(items, item{meta.ObjectVersion{ObjectID: id, Version: 1}, osd, false})
		}
	}
	o, _ := runCalc(t, l, &arena, items, 100)
	defer o.Free()
	flushAll(t, o)
}

func TestBadLists(t *testing.T) {
	var arena Arena
	defer arena.Free()
	l := testLayout(meta.EC, 2, []meta.OSDNum{1, 2, 3})
	l.PGCount, l.PG.Num = 2, 2 // odd stripes
	good := meta.ObjectVersion{ObjectID: testObject(1), Version: 1}
	for name, bad := range map[string]meta.ObjectVersion{
		"other pool": {ObjectID: meta.ObjectID{Inode: meta.MakeInode(2, 7), Stripe: testStripe}, Version: 1},
		"other PG":   {ObjectID: testObject(2), Version: 1},
		"version 0":  {ObjectID: testObject(1)},
	} {
		c := NewCalc(l, &arena)
		list := c.Open(1, 2)
		if err := list.Add(wire.ObjectList{}.Append(good)); err != nil {
			t.Error(err)
		}
		err := list.Add(wire.ObjectList{}.Append(bad))
		if err == nil || !strings.Contains(err.Error(), "OSD 1") {
			t.Errorf("%s: %v", name, err)
		}
		c.Free()
	}
	c := NewCalc(l, &arena)
	list := c.Open(2, 2)
	if err := list.Add(wire.ObjectList{}.Append(good)); err != nil {
		t.Error(err)
	}
	if err := list.Close(); err == nil || !strings.Contains(err.Error(), "OSD 2") {
		t.Errorf("short stable part: %v", err)
	}
	c.Free()
}

// FuzzList: whatever a peer sends, the calculation ends, and with a state.
func FuzzList(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	item := wire.ObjectList{}.Append(meta.ObjectVersion{ObjectID: testObject(1).WithRole(3), Version: 1 << 63})
	f.Add([]byte(item), uint64(1))
	f.Add([]byte(append(item, item...)), uint64(1))
	var arena Arena
	l := testLayout(meta.EC, 2, []meta.OSDNum{1, 2, 3})
	f.Fuzz(func(t *testing.T, payload []byte, stable uint64) {
		c := NewCalc(l, &arena)
		defer c.Free()
		for osd := meta.OSDNum(1); osd < 4; osd++ {
			list := c.Open(osd, stable)
			if list.Add(payload) != nil || list.Close() != nil {
				return
			}
		}
		for !c.Step(100) {
		}
		o, sum := c.Result()
		defer o.Free()
		counts := o.Counts()
		if counts.Clean > counts.Total || sum.Flags != o.Flags() {
			t.Errorf("%+v %+v", counts, sum)
		}
	})
}

func TestLookupAllocatesNothing(t *testing.T) {
	var arena Arena
	defer arena.Free()
	o := degraded(t, &arena, 20000)
	defer o.Free()
	n := 0
	if allocs := testing.AllocsPerRun(1000, func() {
		n++
		id := testObject(n)
		if r, v := o.Lookup(id); r == nil || v != meta.NewestVersion || o.FlushPending(id) {
			t.Fatal("not degraded")
		}
		o.SetOverride(id, 5)
		if _, v := o.Lookup(id); v != 5 {
			t.Fatal("no override")
		}
		o.ClearOverride(id)
		o.Forget(id)
		o.Mark(id, 0, 1, meta.LocCorrupted)
		if _, r := o.Next(id, meta.ObjectCorrupted); r == nil {
			t.Fatal("not found")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per operation", allocs)
	}
}

// degraded makes n objects that have one copy too few.
func degraded(t testing.TB, arena *Arena, n int) *Objects {
	c := NewCalc(testLayout(meta.Replicated, 1, []meta.OSDNum{1, 2, 3}), arena)
	defer c.Free()
	for osd := meta.OSDNum(1); osd < 3; osd++ {
		fill(t, c, osd, 0, n)
	}
	for !c.Step(10000) {
	}
	o, _ := c.Result()
	return o
}

func fill(t testing.TB, c *Calc, osd meta.OSDNum, role meta.Role, n int) {
	list := c.Open(osd, uint64(n))
	r := rand.New(rand.NewPCG(uint64(osd), 1))
	for _, i := range r.Perm(n + 1) {
		if i == n {
			continue
		}
		v := meta.ObjectVersion{ObjectID: testObject(i).WithRole(role), Version: meta.MakeVersion(3, 7)}
		if err := list.addItem(v, true); err != nil {
			t.Fatal(err)
		}
	}
	list.stableLeft = 0
	if err := list.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	var arena Arena
	defer arena.Free()
	o := degraded(b, &arena, 1000000)
	defer o.Free()
	r := rand.New(rand.NewPCG(1, 1))
	ids := make([]meta.ObjectID, 1<<16)
	for i := range ids {
		ids[i] = testObject(r.IntN(1000000))
	}
	b.Run("unclean", func(b *testing.B) {
		for i := range b.N {
			o.Lookup(ids[i&(1<<16-1)])
		}
	})
	clean := newObjects(o.Layout, &arena)
	b.Run("clean", func(b *testing.B) {
		for i := range b.N {
			clean.Lookup(ids[i&(1<<16-1)])
		}
	})
}

// BenchmarkCalc lists 200000 objects on 3 peers, in random order.
func BenchmarkCalc(b *testing.B) {
	const n = 200000
	for _, c := range []struct {
		name string
		cur  []meta.OSDNum
	}{{"clean", []meta.OSDNum{1, 2, 3}}, {"degraded", []meta.OSDNum{1, 2, 3, 4}}} {
		b.Run(c.name, func(b *testing.B) {
			var arena Arena
			defer arena.Free()
			b.ReportAllocs()
			for range b.N {
				b.StopTimer()
				calc := NewCalc(testLayout(meta.EC, 2, c.cur), &arena)
				b.StartTimer()
				for osd := meta.OSDNum(1); osd < 4; osd++ {
					fill(b, calc, osd, meta.Role(osd-1), n)
				}
				for !calc.Step(10000) {
				}
				b.StopTimer()
				o, _ := calc.Result()
				o.Free()
				calc.Free()
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(3*n), "ns/item")
		})
	}
}
