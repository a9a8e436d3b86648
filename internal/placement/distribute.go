package placement

import (
	"cmp"
	"slices"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Distribution places the PGs of one pool (monitor.md §4). It is computed in
// steps, so that an event loop can do other things in between:
//
//	d, err := Distribute(tree, pool, previous)
//	for !d.Step(work) { ... }
//	sets := d.Sets()
//
// Guarantee: the rules of the pool hold for every set (what cannot be filled
// stays 0), no PG has an OSD twice, and the result depends on nothing but the
// arguments.
//
// It does not choose among random combinations, as the reference's linear
// programme does. It starts from the previous sets, fills what is open, and then
// moves single replicas along shortest chains from OSDs that have too many to
// OSDs that have too few: what is moved is what has to be moved, except for the
// inner links of chains, which are rarely needed.
type Distribution struct {
	*grid
	pool     *schema.Pool
	rules    Rules
	previous [][]meta.OSDNum
	fresh    bool // there were no PGs
	fluid    *fluid
	width    int
	// order[pg][position of the rules] is the position in the PG's set; nil = the
	// same. Sets made by others may satisfy the rules in another order.
	order  [][]int
	affine []bool // may be primaries
	stages []func() bool
	cursor int // of the present stage
	queue  []int32
	goal   []int // of raise, by OSD
	enough int   // work after which rules that are not plain are left as they are
}

// improvements is how often sets under rules that are not plain are gone
// through: one improvement may open the way to another.
const (
	improvements    = 4
	improvementWork = 40_000_000
)

// Distribute prepares a distribution of a pool over the tree that the pool may
// use (Inventory.Tree). previous are the sets of PG 1, 2, ... to which movement is
// compared: the last ones that were clean (monitor.md 4.2), in any number; nil =
// none. Their OSDs may be gone and their length different. The error says what
// is wrong with the pool's rules.
func Distribute(tree *Tree, pool *schema.Pool, previous [][]meta.OSDNum) (*Distribution, error) {
	rules, err := RulesOf(pool)
	if err != nil {
		return nil, err
	}
	l := newLayout(tree, rules)
	d := &Distribution{grid: newGrid(l, int(pool.PGCount), pool.Scheme != meta.Replicated), pool: pool, rules: rules,
		previous: previous, order: make([][]int, pool.PGCount)}
	d.fresh = !slices.ContainsFunc(previous, func(set []meta.OSDNum) bool {
		return slices.ContainsFunc(set, func(o meta.OSDNum) bool { return o != 0 })
	})
	d.random = random(uint64(pool.ID)<<32 + uint64(pool.PGCount))
	for _, n := range l.osds {
		node := tree.byID[osdID(n)]
		d.affine = append(d.affine, node.HasTags(pool.PrimaryAffinityTags))
	}
	d.stages = []func() bool{d.computeShares, d.adopt, d.fill, d.lower, d.raise, d.arrange}
	if !l.plain {
		d.stages = []func() bool{d.computeShares, d.adopt, d.fill}
		for range improvements {
			d.stages = append(d.stages, d.settle, d.lower, d.raise, d.repair)
		}
		d.stages = append(d.stages, d.settle)
	}
	if len(l.osds) == 0 {
		d.stages = nil
	}
	return d, nil
}

// Step does about work units of work (a few nanoseconds each), at least one
// piece, and tells whether everything is done. A piece is at most some
// milliseconds with 1000 OSDs.
func (d *Distribution) Step(work int) (done bool) {
	for limit := d.work + work; len(d.stages) > 0; {
		if d.stages[0]() {
			d.stages, d.cursor, d.queue = d.stages[1:], 0, nil
		}
		d.work++
		if d.work >= limit {
			break
		}
	}
	return len(d.stages) == 0
}

// Work is the number of units done so far.
func (d *Distribution) Work() int { return d.work }

// Sets are the OSDs of PG 1, 2, ..., when done; 0 = nobody.
func (d *Distribution) Sets() [][]meta.OSDNum {
	invariant.Must(len(d.stages) == 0, "a distribution is used only when it is done")
	sets := make([][]meta.OSDNum, d.pgs)
	for p := range sets {
		sets[p] = make([]meta.OSDNum, d.size)
		for i, o := range d.pg(p) {
			if o >= 0 {
				sets[p][d.position(p, i)] = d.osds[o]
			}
		}
	}
	return sets
}

// Share is the ideal number of replicas of an OSD, when done.
func (d *Distribution) Share(o meta.OSDNum) float64 {
	i, ok := d.index[o]
	if !ok || d.share == nil {
		return 0
	}
	return d.share[i]
}

func (d *Distribution) position(p, i int) int {
	if d.order[p] == nil {
		return i
	}
	return d.order[p][i]
}

// computeShares is the first stage.
func (d *Distribution) computeShares() (done bool) {
	if d.plain {
		d.share, d.width = d.plainShares(d.pgs)
	} else {
		if d.fluid == nil {
			d.fluid = newFluid(d.layout)
		}
		work, done := d.fluid.pourRound()
		d.work += work
		if !done {
			return false
		}
		d.share, d.width = d.fluid.shares(d.pgs)
	}
	d.setBands(d.width, d.fresh)
	for c := range d.dirty {
		d.dirty[c] = true
	}
	return true
}

// adopt takes over the previous set of one PG.
func (d *Distribution) adopt() (done bool) {
	if d.fresh || d.cursor == d.pgs {
		return true
	}
	p := d.cursor
	d.cursor++
	d.work += d.size
	for k, set := range d.previousOf(p) {
		home := d.known(set)
		if k == 0 {
			home = d.keep(p, home)
		} else {
			home = d.reorder(p, home)
		}
		if slices.ContainsFunc(home, func(o int32) bool { return o >= 0 }) {
			d.homes[p] = append(d.homes[p], home)
		}
	}
	return false
}

// previousOf are the sets that hold the data of PG index p now. Objects are
// mapped by their number modulo the number of PGs, so when that grows by a
// factor, new PGs find their data in the old ones, cyclically; when it
// shrinks, in several of them.
func (d *Distribution) previousOf(p int) [][]meta.OSDNum {
	old := len(d.previous)
	sets := [][]meta.OSDNum{d.previous[p%old]}
	if old > d.pgs && old%d.pgs == 0 {
		for q := p + d.pgs; q < old; q += d.pgs {
			sets = append(sets, d.previous[q])
		}
	}
	return sets
}

// known translates a set to OSDs of the tree, in the present number of
// positions.
func (d *Distribution) known(set []meta.OSDNum) []int32 {
	home := make([]int32, 0, max(d.size, len(set)))
	for _, num := range set {
		o, ok := d.index[num]
		if !ok {
			o = -1
		}
		home = append(home, o)
	}
	if len(home) > d.size && !d.byRole {
		home = slices.DeleteFunc(home, func(o int32) bool { return o < 0 })
	}
	home = home[:min(len(home), d.size)]
	for len(home) < d.size {
		home = append(home, -1)
	}
	return home
}

// keep puts as much of a set into PG p as the rules permit, and returns the set
// in the order of the rules' positions.
func (d *Distribution) keep(p int, home []int32) []int32 {
	if !d.plain && !d.consistent(home) {
		if order := d.findOrder(home); order != nil {
			d.order[p] = order
			home = d.reorder(p, home)
			if !d.byRole && d.pool.RawPlacement != "" {
				d.order[p] = nil // replicas may simply change places
			}
		}
	}
	for i, o := range home {
		if o >= 0 && d.fits(d.pg(p), i, o) {
			d.put(p*d.size+i, o)
		}
	}
	return home
}

func (d *Distribution) reorder(p int, set []int32) []int32 {
	if d.order[p] == nil {
		return set
	}
	out := make([]int32, len(set))
	for i := range out {
		out[i] = set[d.order[p][i]]
	}
	return out
}

// consistent tells whether no two OSDs of a set contradict the rules.
func (d *Distribution) consistent(set []int32) bool {
	for i, o := range set {
		if o >= 0 && !d.fits(set, i, o) {
			return false
		}
	}
	return true
}

const orderBudget = 2000 // permutations looked at per PG

// findOrder looks for an order in which a set satisfies the rules: order[i] is
// the index in the set of what takes position i of the rules. The reference
// rotates the sets of its pools, and then its own rules do not recognise them.
// For level_placement any order is as safe as the first one. raw_placement can
// mean the roles, so only replicas, that have none, may be reordered there.
func (d *Distribution) findOrder(set []int32) []int {
	if d.byRole && d.pool.RawPlacement != "" {
		return nil
	}
	s := orderSearch{layout: d.layout, from: set, to: make([]int32, d.size), used: make([]bool, d.size), left: orderBudget}
	for i := range s.to {
		s.to[i] = -1
	}
	if !s.try(0) {
		return nil
	}
	return s.order
}

type orderSearch struct {
	*layout
	from, to []int32
	used     []bool
	order    []int
	left     int
}

func (s *orderSearch) try(i int) bool {
	if i == s.size {
		return true
	}
	for k, o := range s.from {
		if s.used[k] || s.left <= 0 || o >= 0 && !s.fits(s.to, i, o) {
			continue
		}
		s.left--
		s.used[k], s.to[i] = true, o
		s.order = append(s.order, k)
		if !s.orphan(s.to, i) && s.try(i+1) {
			return true
		}
		s.order = s.order[:len(s.order)-1]
		s.used[k], s.to[i] = false, -1
	}
	return false
}

// byFullness sorts OSDs by how full they would be with extra replicas more;
// equal ones stay in a random, but reproducible, order.
func (d *Distribution) byFullness(list []int32, extra int, fullestFirst bool) []int32 {
	for i := len(list) - 1; i > 0; i-- {
		j := d.random.below(i + 1)
		list[i], list[j] = list[j], list[i]
	}
	slices.SortStableFunc(list, func(a, b int32) int {
		x, y := d.fullness(a, d.count[a]+extra), d.fullness(b, d.count[b]+extra)
		if fullestFirst {
			x, y = y, x
		}
		return cmp.Compare(x, y)
	})
	return list
}

// withRoom lists the OSDs below their upper limit, emptiest first.
func (d *Distribution) withRoom() []int32 {
	var list []int32
	for o := range d.osds {
		if d.count[o] < d.high[o] {
			list = append(list, int32(o))
		}
	}
	return d.byFullness(list, 1, false)
}
