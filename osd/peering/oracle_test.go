package peering

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// The oracle follows the words of osd.md §11.1 step by step, with maps and
// without any thought of speed.

type oracleObject struct {
	state    meta.ObjectState
	locs     string // sorted
	target   meta.Version
	override bool
	flush    []string
	invalid  bool
}

type piece struct {
	role meta.Role
	osd  meta.OSDNum
}

func oracle(l Layout, items []item) map[meta.ObjectID]oracleObject {
	groups := map[meta.ObjectID][]item{}
	for _, it := range items {
		groups[it.Object()] = append(groups[it.Object()], it)
	}
	out := map[meta.ObjectID]oracleObject{}
	for id, group := range groups {
		out[id] = oracleOne(l, group)
	}
	return out
}

func oracleOne(l Layout, group []item) (o oracleObject) {
	k, size := l.DataChunks, len(l.CurSet)
	inCur := func(p piece) bool {
		if l.Scheme == meta.Replicated {
			return p.role == 0 && slices.Contains(l.CurSet, p.osd)
		}
		return int(p.role) < size && l.CurSet[p.role] == p.osd
	}
	maxRole := size
	if l.Scheme == meta.Replicated {
		maxRole = 1
	}
	versions := map[meta.Version]map[piece]bool{} // -> stable
	pieces := map[piece]map[meta.Version]bool{}
	unstable := false
	for _, it := range group {
		p := piece{it.Role(), it.osd}
		if versions[it.Version] == nil {
			versions[it.Version] = map[piece]bool{}
		}
		if pieces[p] == nil {
			pieces[p] = map[meta.Version]bool{}
		}
		versions[it.Version][p] = versions[it.Version][p] || it.stable
		pieces[p][it.Version] = pieces[p][it.Version] || it.stable
	}
	sorted := slices.Sorted(maps.Keys(versions))
	slices.Reverse(sorted)
	// 1, 2: the target version.
	roles, copies, mismatched := map[meta.Role]bool{}, 0, 0
	for _, v := range sorted {
		clear(roles)
		stable := 0
		copies, mismatched = 0, 0
		for p, s := range versions[v] {
			copies++
			if int(p.role) >= maxRole {
				o.invalid = true
			} else {
				roles[p.role] = true
			}
			if s {
				stable++
			}
			if !inCur(p) {
				mismatched++
			}
		}
		if stable > 0 || l.Scheme != meta.Replicated && len(roles) >= k {
			o.target = v
			break
		}
	}
	// 3: flush.
	for _, vs := range pieces {
		for _, s := range vs {
			unstable = unstable || !s
		}
	}
	for p, vs := range pieces {
		var maxv, stab, maxt meta.Version
		for v, s := range vs {
			maxv = max(maxv, v)
			if s {
				stab = max(stab, v)
			}
			if v <= o.target {
				maxt = max(maxt, v)
			}
		}
		if !unstable {
			continue
		}
		upTo := maxv
		if maxv > o.target {
			o.flush = append(o.flush, fmt.Sprintf("%d@%d ROLLBACK %d", p.role, p.osd, maxt))
			upTo = maxt
		}
		if stab < upTo {
			o.flush = append(o.flush, fmt.Sprintf("%d@%d STABILIZE %d", p.role, p.osd, upTo))
		}
	}
	slices.Sort(o.flush)
	o.override = o.target < sorted[0]
	if o.target == 0 {
		return o
	}
	// 5: the state.
	cur := 0
	for _, osd := range l.CurSet {
		if osd != 0 {
			cur++
		}
	}
	n := len(roles)
	if l.Scheme == meta.Replicated {
		n = copies
	}
	switch {
	case l.Scheme != meta.Replicated && len(roles) < k:
		o.state = meta.ObjectIncomplete
	case n < cur:
		o.state = meta.ObjectDegraded
	case mismatched > 0:
		o.state = meta.ObjectMisplaced
	}
	// 6: locations.
	var locs []string
	for p := range pieces {
		_, has := versions[o.target][p]
		older := slices.ContainsFunc(slices.Collect(maps.Keys(pieces[p])), func(v meta.Version) bool { return v < o.target })
		switch {
		case has:
			locs = append(locs, fmt.Sprintf("%d@%d", p.role, p.osd))
		case older && (l.Scheme == meta.Replicated || !inCur(p)):
			locs = append(locs, fmt.Sprintf("%d@%d outdated", p.role, p.osd))
			if o.state == 0 {
				o.state = meta.ObjectMisplaced
			}
		}
	}
	slices.Sort(locs)
	if o.state != 0 {
		o.locs = strings.Join(locs, " ")
	}
	return o
}

// compare checks everything the fast calculation has found.
func compare(l Layout, items []item, o *Objects, sum Summary) error {
	want := oracle(l, items)
	var total, clean uint64
	invalid, maxEpoch := false, uint64(0)
	for _, it := range items {
		maxEpoch = max(maxEpoch, it.Version.Epoch())
	}
	flush := map[meta.ObjectID][]string{}
	for i, f := range o.flush.items {
		what := "STABILIZE"
		if f.Rollback {
			what = "ROLLBACK"
		}
		flush[f.Object()] = append(flush[f.Object()], fmt.Sprintf("%d@%d %s %d", f.Role(), f.OSD, what, f.Version))
		if i > 0 && f.Object().Less(o.flush.items[i-1].Object()) {
			return fmt.Errorf("flush items are not in order")
		}
	}
	for id, w := range want {
		invalid = invalid || w.invalid
		if w.target != 0 {
			total++
			if w.state == 0 {
				clean++
			}
		}
		r, v := o.Lookup(id)
		if err := compareOne(id, w, r, v); err != nil {
			return err
		}
		slices.Sort(flush[id])
		if !slices.Equal(flush[id], w.flush) || o.FlushPending(id) != (len(w.flush) > 0) {
			return fmt.Errorf("object %v: flush %v, want %v", id, flush[id], w.flush)
		}
	}
	c := o.Counts()
	if c.Total != total || !invalid && c.Clean != clean || sum.MaxEpoch != maxEpoch || (sum.Invalid != "") != invalid {
		return fmt.Errorf("%+v %+v, want total %d clean %d epoch %d invalid %v", c, sum, total, clean, maxEpoch, invalid)
	}
	return nil
}

func compareOne(id meta.ObjectID, w oracleObject, r *Record, v meta.Version) error {
	wantV := meta.NewestVersion
	if w.override {
		wantV = w.target
	}
	state, locs := meta.ObjectState(0), ""
	if r != nil {
		state = r.State
		var list []string
		for _, loc := range r.Locs {
			s := fmt.Sprintf("%d@%d", loc.Role, loc.OSD)
			if loc.Bad != 0 {
				s += " outdated"
			}
			list = append(list, s)
		}
		slices.Sort(list)
		locs = strings.Join(list, " ")
	}
	if v != wantV || !w.invalid && (state != w.state || locs != w.locs) {
		return fmt.Errorf("object %v: %v [%s] version %v, want %v [%s] %v", id, state, locs, v, w.state, w.locs, wantV)
	}
	return nil
}

func drawLayout(t *rapid.T) Layout {
	scheme := rapid.SampledFrom([]meta.Scheme{meta.Replicated, meta.XOR, meta.EC}).Draw(t, "scheme")
	size := rapid.IntRange(1, 4).Draw(t, "size")
	k := 1
	switch scheme {
	case meta.XOR:
		size = max(size, 3)
		k = size - 1
	case meta.EC:
		size = max(size, 3)
		k = rapid.IntRange(1, size-1).Draw(t, "k")
	}
	cur := make([]meta.OSDNum, size)
	for i := range cur {
		if rapid.IntRange(0, 4).Draw(t, "there") > 0 {
			cur[i] = meta.OSDNum(i + 1)
		}
	}
	for i := 0; (&Layout{CurSet: cur}).CurSize() < k; i++ {
		cur[i] = meta.OSDNum(i + 1)
	}
	return testLayout(scheme, k, cur)
}

// drawObject draws what OSDs may list about one object: mostly what a cluster
// does, sometimes nonsense.
func drawObject(t *rapid.T, l Layout, n int) (items []item) {
	add := func(osd meta.OSDNum, role int, v meta.Version, stable bool) {
		items = append(items, item{meta.ObjectVersion{ObjectID: testObject(n).WithRole(meta.Role(role)), Version: v}, osd, stable})
	}
	version := func() meta.Version {
		return meta.MakeVersion(uint64(rapid.IntRange(0, 2).Draw(t, "epoch")), uint16(rapid.IntRange(1, 3).Draw(t, "counter")))
	}
	base := version()
	if rapid.IntRange(0, 3).Draw(t, "plain") == 0 {
		for role, osd := range l.CurSet {
			if l.Scheme == meta.Replicated {
				role = 0
			}
			if osd != 0 {
				add(osd, role, base, true)
			}
		}
		return items
	}
	for range rapid.IntRange(1, 7).Draw(t, "pieces") {
		osd := meta.OSDNum(rapid.IntRange(1, 6).Draw(t, "osd"))
		role := int(osd - 1)
		if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
			role = rapid.IntRange(0, 4).Draw(t, "role")
		}
		if l.Scheme == meta.Replicated && rapid.IntRange(0, 15).Draw(t, "valid") > 0 {
			role = 0
		}
		v := base
		if rapid.Bool().Draw(t, "other") {
			v = version()
		}
		unstable := l.Scheme != meta.Replicated || rapid.IntRange(0, 7).Draw(t, "odd") == 0
		add(osd, role, v, !unstable || rapid.Bool().Draw(t, "stable"))
		for ; unstable && rapid.IntRange(0, 2).Draw(t, "more") == 0; v++ {
			add(osd, role, v+1, false)
		}
	}
	return items
}

func TestCalcAgreesWithOracle(t *testing.T) {
	var arena Arena
	defer arena.Free()
	rapid.Check(t, func(rt *rapid.T) {
		l := drawLayout(rt)
		var items []item
		for n := range rapid.IntRange(0, 8).Draw(rt, "objects") {
			items = append(items, drawObject(rt, l, n)...)
		}
		for i := len(items) - 1; i > 0; i-- {
			j := rapid.IntRange(0, i).Draw(rt, "swap")
			items[i], items[j] = items[j], items[i]
		}
		o, sum := runCalc(t, l, &arena, items, rapid.IntRange(1, 5).Draw(rt, "step"))
		defer o.Free()
		if err := compare(l, items, o, sum); err != nil {
			rt.Fatal(err)
		}
	})
}

// Many runs per peer, in all orders, through the wire form, in small pieces.
func TestBigLists(t *testing.T) {
	var arena Arena
	defer arena.Free()
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		k := 1
		if scheme == meta.EC {
			k = 2
		}
		l := testLayout(scheme, k, []meta.OSDNum{1, 2, 3})
		r := rand.New(rand.NewPCG(1, uint64(scheme)))
		var items []item
		for n := range 40000 {
			for osd := range meta.OSDNum(4) {
				role := meta.Role(osd)
				if scheme == meta.Replicated || osd == 3 {
					role = 0
				}
				if osd == 3 && n%100 != 0 || r.IntN(1000) == 0 {
					continue
				}
				v := meta.MakeVersion(uint64(n%3), uint16(n%7+1))
				id := testObject(n).WithRole(role)
				items = append(items, item{meta.ObjectVersion{ObjectID: id, Version: v}, osd + 1, true})
				if scheme == meta.EC && r.IntN(300) == 0 {
					items = append(items, item{meta.ObjectVersion{ObjectID: id, Version: v + 1}, osd + 1, false})
				}
			}
		}
		for _, order := range []string{"sorted", "reversed", "random"} {
			switch order {
			case "reversed":
				slices.Reverse(items)
			case "random":
				r.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
			}
			o, sum := wireCalc(t, l, &arena, items)
			if err := compare(l, items, o, sum); err != nil {
				t.Errorf("%v, %s: %v", scheme, order, err)
			}
			flushAll(t, o)
			o.Free()
		}
	}
	if arena.UsedBytes() != 0 {
		t.Errorf("%d bytes were not returned to the arena", arena.UsedBytes())
	}
}

func wireCalc(t *testing.T, l Layout, arena *Arena, items []item) (*Objects, Summary) {
	c := NewCalc(l, arena)
	for osd := meta.OSDNum(1); osd <= 4; osd++ {
		var stable, unstable wire.ObjectList
		for _, it := range items {
			if it.osd == osd && it.stable {
				stable = stable.Append(it.ObjectVersion)
			} else if it.osd == osd {
				unstable = unstable.Append(it.ObjectVersion)
			}
		}
		list := c.Open(osd, uint64(stable.Len()))
		payload := append(stable, unstable...)
		for len(payload) > 0 {
			n := min(len(payload), 4093*wire.ObjectItemBytes)
			if err := list.Add(payload[:n]); err != nil {
				t.Fatal(err)
			}
			payload = payload[n:]
		}
		if err := list.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for !c.Step(1000) {
	}
	defer c.Free()
	return c.Result()
}

// flushAll checks the batches: all items, whole objects, limited.
func flushAll(t *testing.T, o *Objects) {
	want := slices.Clone(o.flush.items)
	var got []FlushItem
	for more := o.flush.left(); more; {
		batch := slices.Clone(o.FlushBatch())
		per := map[meta.OSDNum]int{}
		for _, f := range batch {
			if !o.FlushPending(f.Object()) {
				t.Fatal("an object of the running batch is not pending")
			}
			per[f.OSD]++
		}
		for osd, n := range per {
			if n > flushBatchItems+8 {
				t.Errorf("%d items for OSD %d in a batch", n, osd)
			}
		}
		more = o.FlushDone()
		if last := batch[len(batch)-1].Object(); o.FlushPending(last) {
			t.Errorf("%v is split between batches", last)
		}
		got = append(got, batch...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d items flushed, want %d", len(got), len(want))
	}
	if o.overrides.n != 0 || o.Flags()&meta.PGHasUnclean != 0 {
		t.Error("overrides or has_unclean are left after the flush")
	}
}
