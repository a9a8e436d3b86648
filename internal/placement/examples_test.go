package placement

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// box makes clusters by hand: host name, size of each OSD in TB.
type box struct {
	osds  []OSD
	nodes []schema.PlacedNode
}

func (b *box) osd(num meta.OSDNum, host string, sizeTB float64) {
	b.osds = append(b.osds, OSD{Num: num, HasState: true, Config: schema.OSDConfig{Reweight: 1},
		Stats: &schema.OSDStats{SizeBytes: uint64(sizeTB * (1 << 40)), Host: host}})
}

func (b *box) remove(num meta.OSDNum) {
	b.osds = slices.DeleteFunc(b.osds, func(o OSD) bool { return o.Num == num })
}

func (b *box) inventory() *Inventory {
	var levels schema.Object
	levels.SetUint("rack", 90)
	return Build(&Input{Levels: NewLevels(&levels), OSDs: slices.Clone(b.osds), Nodes: b.nodes})
}

func (b *box) counts(t *testing.T, pool *schema.Pool, previous [][]meta.OSDNum) (sets [][]meta.OSDNum, count map[meta.OSDNum]int, d *Distribution) {
	t.Helper()
	tree := b.inventory().Tree(pool)
	d, sets = distribute(t, tree, pool, previous, 1<<20)
	if err := checkSets(tree, pool, sets, false); err != nil {
		t.Fatal(err)
	}
	count = map[meta.OSDNum]int{}
	for _, set := range sets {
		for _, o := range set {
			if o != 0 {
				count[o]++
			}
		}
	}
	return sets, count, d
}

func (b *box) efficiency(pool *schema.Pool, sets [][]meta.OSDNum) float64 {
	return 100 * StatsOf(b.inventory().Tree(pool), pool, sets, 0).SpaceEfficiency
}

// The worked examples of monitor.md §9. A new distribution is at least as
// efficient as the reference's there, and each step moves less: A 22 and 46
// replicas instead of 30 and 62, B 20 instead of 22, C 27 instead of 73.
func TestExampleA(t *testing.T) {
	b := &box{}
	for i, o := range []struct {
		host string
		tb   float64
	}{{"h1", 4}, {"h1", 4}, {"h2", 8}, {"h3", 2}, {"h3", 2}} {
		b.osd(meta.OSDNum(i+1), o.host, o.tb)
	}
	pool := repPool(2, "host")
	pool.PGCount = 64
	sets, count, _ := b.counts(t, &pool, nil)
	if want := (map[meta.OSDNum]int{1: 26, 2: 26, 3: 51, 4: 12, 5: 13}); b.efficiency(&pool, sets) < 98.46-0.01 || count[3] != 51 {
		t.Errorf("%v, for example %v; efficiency %.2f", count, want, b.efficiency(&pool, sets))
	}
	b.osd(6, "h4", 4)
	next, count, d := b.counts(t, &pool, sets)
	if moved, bound := movement(d, &pool, sets, next); moved > 22 || bound != 22 || count[6] < 20 || b.efficiency(&pool, next) < 96.9 {
		t.Errorf("h4: moved %d, bound %d, %v, efficiency %.2f", moved, bound, count, b.efficiency(&pool, next))
	}
	b.remove(3)
	last, count, d := b.counts(t, &pool, next)
	if moved, bound := movement(d, &pool, next, last); float64(moved) > 1.3*float64(bound) || b.efficiency(&pool, last) < 96.9 {
		t.Errorf("without 3: moved %d, bound %d, %v, efficiency %.2f", moved, bound, count, b.efficiency(&pool, last))
	}
}

func TestExampleB(t *testing.T) {
	b := &box{}
	for i := range 4 {
		b.osd(meta.OSDNum(i+1), "h", 1)
	}
	pool := repPool(3, "osd")
	pool.PGCount = 32
	sets, count, _ := b.counts(t, &pool, nil)
	for o := range meta.OSDNum(4) {
		if count[o+1] != 24 {
			t.Errorf("OSD %d has %d", o+1, count[o+1])
		}
	}
	b.osd(5, "h", 1)
	next, count, d := b.counts(t, &pool, sets)
	if moved, _ := movement(d, &pool, sets, next); moved > 20 || count[5] != 19 || b.efficiency(&pool, next) < 96 {
		t.Errorf("moved %d, %v, efficiency %.2f", moved, count, b.efficiency(&pool, next))
	}
}

func TestExampleC(t *testing.T) {
	b := &box{}
	for h := range 8 {
		host, rack := fmt.Sprintf("host%d", h+1), fmt.Sprintf("rack%d", h/2+1)
		b.nodes = append(b.nodes, schema.PlacedNode{Name: host, Level: "host", Parent: rack}, schema.PlacedNode{Name: rack, Level: "rack"})
		b.osd(meta.OSDNum(2*h+1), host, 1)
		b.osd(meta.OSDNum(2*h+2), host, 1)
	}
	pool := withLevels(ecPool(6, 2, "host"), "rack", "112233")
	pool.PGCount = 32
	sets, count, _ := b.counts(t, &pool, nil)
	for o := range meta.OSDNum(16) {
		if count[o+1] != 12 {
			t.Errorf("OSD %d has %d", o+1, count[o+1])
		}
	}
	b.remove(1)
	next, count, d := b.counts(t, &pool, sets)
	moved, bound := movement(d, &pool, sets, next)
	t.Logf("moved %d (reference 73), bound %d, efficiency %.1f (reference 91.4), %v", moved, bound, b.efficiency(&pool, next), count)
	if moved > 45 || b.efficiency(&pool, next) < 91 {
		t.Errorf("moved %d, bound %d, efficiency %.1f", moved, bound, b.efficiency(&pool, next))
	}
}

func TestExampleD(t *testing.T) {
	b := &box{}
	b.osd(1, "h1", 1)
	b.osd(2, "h2", 1)
	pool := repPool(3, "host")
	pool.PGCount = 16
	sets, _, _ := b.counts(t, &pool, nil)
	for _, set := range sets {
		if set[2] != 0 || set[0]+set[1] != 3 {
			t.Fatal(set)
		}
	}
	s := StatsOf(b.inventory().Tree(&pool), &pool, sets, 0.25)
	if want := (schema.PoolStats{UsedRawTB: 0.25, TotalRawTB: 2, PGRealSize: 2, RawToUsable: 2, SpaceEfficiency: 1}); s != want {
		t.Errorf("%+v", s)
	}
	b.osd(3, "h3", 1)
	next, count, _ := b.counts(t, &pool, sets)
	if count[3] != 16 {
		t.Errorf("%v", count)
	}
	for p, set := range next {
		if !slices.Contains(set, sets[p][0]) || !slices.Contains(set, sets[p][1]) {
			t.Fatal("a replica was moved to fill an empty place", sets[p], set)
		}
	}
}

func TestExampleE(t *testing.T) {
	b := &box{}
	for i := range 4 {
		b.osd(meta.OSDNum(i+1), []string{"h1", "h2"}[i/2], 1)
	}
	pool := repPool(2, "host")
	pool.PGCount = 16
	sets, _, _ := b.counts(t, &pool, nil)
	b.osds[2].Config.Reweight = 0.5
	_, count, _ := b.counts(t, &pool, sets)
	if count[1] != 8 || count[2] != 8 || count[3] > 6 || count[4] < 10 {
		t.Errorf("%v", count)
	}
}

// TestForeignSets: sets that the reference sorted or rotated stay where they are,
// although its rules do not hold position by position.
func TestForeignSets(t *testing.T) {
	b := &box{}
	for h := range 6 {
		host, rack := fmt.Sprintf("host%d", h+1), fmt.Sprintf("rack%d", h/2+1)
		b.nodes = append(b.nodes, schema.PlacedNode{Name: host, Level: "host", Parent: rack}, schema.PlacedNode{Name: rack, Level: "rack"})
		b.osd(meta.OSDNum(h+1), host, 1)
	}
	pool := withLevels(ecPool(6, 2, "host"), "rack", "112233")
	pool.PGCount = 3
	sets := [][]meta.OSDNum{{6, 1, 2, 3, 4, 5}, {1, 3, 5, 2, 4, 6}, {1, 2, 3, 4, 5, 6}}
	if _, got := distribute(t, b.inventory().Tree(&pool), &pool, sets, 100); !equalSets(got, sets) {
		t.Errorf("%v", got)
	}
	raw := withRaw(repPool(2, "host"), "rack=rack1, rack=rack2")
	raw.PGCount = 2
	_, got := distribute(t, b.inventory().Tree(&raw), &raw, [][]meta.OSDNum{{1, 3}, {4, 2}}, 100)
	if !equalSets(got, [][]meta.OSDNum{{1, 3}, {2, 4}}) {
		t.Errorf("replicas change places instead of moving: %v", got)
	}
}

// TestHalving: PGs of any distribution can be merged without moving data to
// third OSDs, because half of a distribution is even, too.
func TestHalving(t *testing.T) {
	b := &box{}
	for i := range 40 {
		b.osd(meta.OSDNum(i+1), fmt.Sprintf("h%d", i/4), 1)
	}
	pool := repPool(3, "host")
	pool.PGCount = 512
	sets, _, _ := b.counts(t, &pool, nil)
	pool.PGCount = 256
	half, count, _ := b.counts(t, &pool, sets)
	moved := 0
	for p, set := range half {
		for _, o := range set {
			if !slices.Contains(sets[p], o) && !slices.Contains(sets[p+256], o) {
				moved++
			}
		}
	}
	if moved > 7 { // 1 %
		t.Errorf("%d of 768 replicas moved, %v", moved, count)
	}
}

func TestNoOSDs(t *testing.T) {
	pool := repPool(2, "host")
	pool.PGCount = 3
	_, sets := distribute(t, (&box{}).inventory().Tree(&pool), &pool, [][]meta.OSDNum{{1, 2}, {2, 1}, {0, 0}}, 1)
	if !equalSets(sets, [][]meta.OSDNum{{0, 0}, {0, 0}, {0, 0}}) {
		t.Error(sets)
	}
	bad := withRaw(pool, "host=")
	if _, err := Distribute((&box{}).inventory().Tree(&bad), &bad, nil); err == nil {
		t.Error("wrong rules are accepted")
	}
}

// TestSizes: pg_size changes keep what they can.
func TestSizes(t *testing.T) {
	b := &box{}
	for i := range 6 {
		b.osd(meta.OSDNum(i+1), fmt.Sprintf("h%d", i+1), 1)
	}
	pool := repPool(2, "host")
	pool.PGCount = 60
	two, _, _ := b.counts(t, &pool, nil)
	pool.PGSize = 3
	three, _, d := b.counts(t, &pool, two)
	if moved, _ := movement(d, &pool, two, three); moved > 60 {
		t.Errorf("60 replicas were added, %d moved", moved)
	}
	pool.PGSize = 2
	again, _, d := b.counts(t, &pool, three)
	if moved, _ := movement(d, &pool, three, again); moved > 6 {
		t.Errorf("one replica was dropped, %d moved", moved)
	}
}

// TestPrimaryBalance: with all OSDs up, each is primary of its share of PGs,
// and in EC pools has its share of parity.
func TestPrimaryBalance(t *testing.T) {
	b := &box{}
	for i := range 20 {
		b.osd(meta.OSDNum(i+1), fmt.Sprintf("h%d", i/2), float64(1+i%2))
	}
	for _, pool := range []schema.Pool{repPool(3, "host"), repPool(2, "osd"), ecPool(6, 2, "host")} {
		pool.PGCount = 600
		sets, count, _ := b.counts(t, &pool, nil)
		primaries, parity := map[meta.OSDNum]int{}, map[meta.OSDNum]int{}
		choose := b.inventory().NewPrimaries()
		for p, set := range sets {
			primaries[choose.Of(&pool, meta.PGNum(p+1), set)]++
			if pool.Scheme == meta.EC {
				for _, o := range set[4:] {
					parity[o]++
				}
			}
		}
		for o, n := range count {
			if want := float64(n) / float64(pool.PGSize); math.Abs(float64(primaries[o])-want) > 2.5 {
				t.Errorf("%s %d: OSD %d is primary of %d of %d PGs", pool.Scheme, pool.PGSize, o, primaries[o], n)
			}
			if want := float64(n) / 3; pool.Scheme == meta.EC && math.Abs(float64(parity[o])-want) > 3 {
				t.Errorf("OSD %d has %d parity chunks of %d", o, parity[o], n)
			}
		}
	}
}

func TestPrimaries(t *testing.T) {
	b := &box{}
	for i := range 6 {
		b.osd(meta.OSDNum(i+1), "h", 1)
	}
	b.osds[3].HasState = false // 4 is down
	b.osds[4].Config.Reweight = 0
	for _, i := range []int{1, 3} { // 2 and 4 are fast
		b.osds[i].Config.Config.SetStrings("tags", []string{"fast", "x"})
	}
	p := b.inventory().NewPrimaries()
	for _, c := range []struct {
		name string
		tags []string
		ec   bool
		num  meta.PGNum
		set  []meta.OSDNum
		want meta.OSDNum
	}{
		{"by number", nil, false, 0, []meta.OSDNum{1, 2, 3}, 1},
		{"by number", nil, false, 1, []meta.OSDNum{1, 2, 3}, 2},
		{"by number", nil, false, 5, []meta.OSDNum{1, 2, 3}, 3},
		{"down", nil, false, 2, []meta.OSDNum{4, 1, 2}, 1},
		{"reweight 0", nil, false, 4, []meta.OSDNum{5, 1, 2}, 1},
		{"unknown and empty", nil, false, 7, []meta.OSDNum{9, 0, 2}, 2},
		{"nobody", nil, false, 7, []meta.OSDNum{9, 0, 4}, 0},
		{"no set", nil, false, 7, nil, 0},
		{"tags", []string{"fast"}, false, 3, []meta.OSDNum{1, 2, 4}, 2},
		{"all tags", []string{"fast", "y"}, false, 3, []meta.OSDNum{1, 2, 3}, 1},
		{"tags are down", []string{"fast"}, false, 3, []meta.OSDNum{1, 4, 3}, 3},
		{"ec: data", nil, true, 3, []meta.OSDNum{1, 2, 3}, 2},
		{"ec: affine parity before data", []string{"fast"}, true, 3, []meta.OSDNum{1, 3, 2}, 2},
		{"ec: data down", nil, true, 3, []meta.OSDNum{4, 5, 2}, 2},
		{"ec: data up, tags nowhere", []string{"no"}, true, 3, []meta.OSDNum{1, 3, 2}, 3},
	} {
		pool := repPool(3, "osd")
		if c.ec {
			pool = ecPool(3, 1, "osd")
		}
		pool.PrimaryAffinityTags = c.tags
		if got := p.Of(&pool, c.num, c.set); got != c.want {
			t.Errorf("%s: PG %d of %v: %d, want %d", c.name, c.num, c.set, got, c.want)
		}
	}
}

// TestFingerprint: it changes only with what concerns the pool.
func TestFingerprint(t *testing.T) {
	make := func(change func(b *box, p *schema.Pool)) string {
		b := &box{}
		for i := range 4 {
			b.osd(meta.OSDNum(i+1), fmt.Sprintf("h%d", i/2), 1)
			b.osds[i].Config.Config.SetStrings("tags", []string{[]string{"a", "a", "a", "b"}[i]})
		}
		pool := repPool(2, "host")
		pool.PGCount, pool.Name, pool.OSDTags = 8, "p", []string{"a"}
		change(b, &pool)
		f, err := Fingerprint(b.inventory().Tree(&pool), &pool)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	same := make(func(*box, *schema.Pool) {})
	for name, change := range map[string]func(b *box, p *schema.Pool){
		"nothing":          func(*box, *schema.Pool) {},
		"name":             func(_ *box, p *schema.Pool) { p.Name = "q" },
		"other OSD":        func(b *box, _ *schema.Pool) { b.osds[3].Config.Reweight = 0.5 },
		"new other OSD":    func(b *box, _ *schema.Pool) { b.osd(9, "h9", 1) },
		"further tag":      func(b *box, _ *schema.Pool) { b.osds[0].Config.Config.SetStrings("tags", []string{"a", "c"}) },
		"down":             func(b *box, _ *schema.Pool) { b.osds[0].HasState, b.osds[0].Config.NoOut = false, true },
		"affinity":         func(_ *box, p *schema.Pool) { p.PrimaryAffinityTags = []string{"c"} },
		"pg_minsize":       func(_ *box, p *schema.Pool) { p.PGMinSize = 2 },
		"a level for h0":   func(b *box, _ *schema.Pool) { b.nodes = []schema.PlacedNode{{Name: "r", Level: "rack"}} },
		"order of reports": func(b *box, _ *schema.Pool) { slices.Reverse(b.osds) },
	} {
		if make(change) != same {
			t.Errorf("%s changes the fingerprint", name)
		}
	}
	for name, change := range map[string]func(b *box, p *schema.Pool){
		"weight":   func(b *box, _ *schema.Pool) { b.osds[0].Config.Reweight = 0.5 },
		"tag":      func(b *box, _ *schema.Pool) { b.osds[0].Config.Config.Delete("tags") },
		"host":     func(b *box, _ *schema.Pool) { b.osds[0].Stats.Host = "h7" },
		"gone":     func(b *box, _ *schema.Pool) { b.remove(1) },
		"pg_count": func(_ *box, p *schema.Pool) { p.PGCount = 9 },
		"pg_size":  func(_ *box, p *schema.Pool) { p.PGSize = 3 },
		"domain":   func(_ *box, p *schema.Pool) { p.FailureDomain = "osd" },
	} {
		if make(change) == same {
			t.Errorf("%s does not change the fingerprint", name)
		}
	}
}

func TestBackfillfull(t *testing.T) {
	config := &schema.PGConfig{}
	config.SetPool(1, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{1, 2}}, {Num: 2, OSDSet: []meta.OSDNum{2, 0}}})
	config.SetPool(2, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{3, 1}}})
	config.SetPool(3, []schema.PGTarget{{Num: 1, OSDSet: []meta.OSDNum{3}}})
	objects := map[meta.PG]uint64{{Pool: 1, Num: 1}: 60, {Pool: 1, Num: 2}: 39, {Pool: 2, Num: 1}: 10, {Pool: 3, Num: 1}: 1}
	list := func(blocks ...uint64) []meta.PoolID {
		var osds []OSDSpace
		for i, n := range blocks {
			osds = append(osds, OSDSpace{meta.OSDNum(i + 1), n*4096 + 4095, 4096})
		}
		return Backfillfull(osds, config, func(pg meta.PG) uint64 { return objects[pg] }, 0.99)
	}
	for _, c := range []struct {
		blocks []uint64
		want   []meta.PoolID
	}{
		{[]uint64{100, 100, 100}, nil},
		{[]uint64{100, 99, 100}, []meta.PoolID{1}}, // 99 objects > 98.01
		{[]uint64{70, 100, 100}, []meta.PoolID{1, 2}},
		{[]uint64{71, 100, 11}, []meta.PoolID{2, 3}},
		{nil, nil},
	} {
		if got := list(c.blocks...); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.blocks, got, c.want)
		}
	}
	if got := Backfillfull([]OSDSpace{{1, 1, 0}}, config, func(pg meta.PG) uint64 { return 1 }, 0.99); got != nil {
		t.Error("an OSD that reports no block size", got)
	}
}

// TestShuffledHalving: the same for a distribution whose first half is not even.
// OSDs of both merged PGs are preferred.
func TestShuffledHalving(t *testing.T) {
	b := &box{}
	for i := range 40 {
		b.osd(meta.OSDNum(i+1), fmt.Sprintf("h%d", i/4), 1)
	}
	pool := repPool(3, "host")
	pool.PGCount = 512
	sets, _, _ := b.counts(t, &pool, nil)
	r := random(1)
	for i := len(sets) - 1; i > 0; i-- {
		j := r.below(i + 1)
		sets[i], sets[j] = sets[j], sets[i]
	}
	pool.PGCount = 256
	half, count, d := b.counts(t, &pool, sets)
	moved, _ := movement(d, &pool, sets, half)
	copied := 0
	for p, set := range half {
		for _, o := range set {
			if !slices.Contains(sets[p], o) && !slices.Contains(sets[p+256], o) {
				copied++
			}
		}
	}
	t.Logf("%d replicas differ from the first half, %d of them are on neither side; %v", moved, copied, count)
	if copied > moved/2 {
		t.Errorf("%d of %d changed replicas are on third OSDs", copied, moved)
	}
}

// TestLooseHosts: hosts without a rack could only be at position 1, and then the
// second replica would have no place beside it.
func TestLooseHosts(t *testing.T) {
	b := &box{}
	for h := range 14 {
		host := fmt.Sprintf("host%d", h+1)
		b.osd(meta.OSDNum(2*h+1), host, 1)
		b.osd(meta.OSDNum(2*h+2), host, 1)
		if h >= 8 {
			rack := fmt.Sprintf("rack%d", h/2)
			b.nodes = append(b.nodes, schema.PlacedNode{Name: host, Level: "host", Parent: rack}, schema.PlacedNode{Name: rack, Level: "rack"})
		}
	}
	pool := withLevels(repPool(4, "host"), "rack", "1122")
	pool.PGCount = 30
	sets, count, d := b.counts(t, &pool, nil)
	for p, set := range sets {
		if slices.Contains(set, 0) {
			t.Fatalf("PG %d: %v", p+1, set)
		}
	}
	for o := meta.OSDNum(17); o <= 28; o++ {
		if count[o] != 10 || math.Abs(d.Share(o)-10) > 0.2 {
			t.Errorf("OSD %d has %d, its share is %.1f", o, count[o], d.Share(o))
		}
	}
}
