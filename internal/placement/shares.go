package placement

import (
	"cmp"
	"math"
	"slices"
)

// Ideal shares: how many of a pool's replicas each OSD should have. They are
// proportional to the weights as far as the rules permit, and as even as
// possible where they do not.
//
// Plain rules (monitor.md 3.3, default): a PG takes each failure domain at most
// once, so no domain gets more than one replica per PG; what is cut off there
// is spread over the others: water is poured into vessels of limited height.
//
// Other rules: a fluid is poured PG by PG, each time into the set of OSDs that
// is least full where it matters (Frank-Wolfe on the sum of powers of the
// ratios, which tends to the fairest distribution; package lp has the exact
// bound that tests compare with).

// pour divides amount in proportion to the weights; nothing gets more than
// limit(i).
func pour(weights []float64, amount float64, limit func(i int) float64) []float64 {
	share := make([]float64, len(weights))
	order := make([]int, len(weights))
	rest := 0.0
	for i, w := range weights {
		order[i] = i
		rest += w
	}
	// The fullest first: those that reach their limit do it in this order.
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(weights[b]*limit(a), weights[a]*limit(b))
	})
	for _, i := range order {
		if rest > 0 {
			share[i] = min(limit(i), amount*weights[i]/rest)
		}
		amount -= share[i]
		rest -= weights[i]
	}
	return share
}

// spread turns shares of classes into shares of OSDs. A PG has no OSD twice.
func (l *layout) spread(ofClass []float64, pgs float64) []float64 {
	share := make([]float64, len(l.osds))
	for c, members := range l.classes {
		weights := make([]float64, len(members))
		for i, o := range members {
			weights[i] = l.weight[o]
		}
		for i, s := range pour(weights, ofClass[c], func(int) float64 { return pgs }) {
			share[members[i]] = s
		}
	}
	return share
}

func (l *layout) classWeights() []float64 {
	weights := make([]float64, len(l.classes))
	for o, c := range l.class {
		weights[c] += l.weight[o]
	}
	return weights
}

// plainShares are exact. width is the number of positions that can be filled.
func (l *layout) plainShares(pgs int) (share []float64, width int) {
	width = min(l.size, len(l.classes))
	limit := func(int) float64 { return float64(pgs) }
	ofClass := pour(l.classWeights(), float64(width)*float64(pgs), limit)
	return l.spread(ofClass, float64(pgs)), width
}

// fluid computes shares for any rules, a round at a time.
type fluid struct {
	*layout
	weights []float64 // of classes
	load    []float64 // of classes: average number of members per PG
	price   []float64
	width   int
	round   int // PGs poured
	tries   int
	rounds  int // that are enough
}

const (
	roundsPerClass, minRounds, maxRounds = 8, 800, 4000
	// fluidPower makes the fullest classes dearest. A higher one is fairer at
	// the top and slower.
	fluidPower = 40
)

func newFluid(l *layout) *fluid {
	return &fluid{layout: l, weights: l.classWeights(), load: make([]float64, len(l.classes)), price: make([]float64, len(l.classes)),
		rounds: min(max(roundsPerClass*len(l.classes), minRounds), maxRounds)}
}

// pourRound adds one PG to the fluid; it returns the work done, and whether the
// result is good enough.
func (f *fluid) pourRound() (work int, done bool) {
	top := 0.0
	for c, w := range f.weights {
		top = max(top, f.load[c]/w)
	}
	for c, w := range f.weights {
		f.price[c] = 1e-12 / w
		if top > 0 {
			f.price[c] += math.Pow(f.load[c]/w/top, fluidPower)
		}
	}
	best, width, work := f.cheapest()
	f.tries++
	if width < f.width { // the search had bad luck
		return work, f.tries >= 2*f.rounds
	}
	if width > f.width { // everything before was not wide enough
		f.width, f.round = width, 0
		clear(f.load)
	}
	step := 1.0
	if f.round > 0 {
		step = 2 / float64(f.round+2)
	}
	for c := range f.load {
		f.load[c] *= 1 - step
	}
	for _, c := range best {
		if c >= 0 {
			f.load[c] += step
		}
	}
	f.round++
	return work, f.round >= f.rounds || f.width == 0
}

// shares are the result for a number of PGs.
func (f *fluid) shares(pgs int) (share []float64, width int) {
	ofClass := make([]float64, len(f.load))
	for c, load := range f.load {
		ofClass[c] = load * float64(pgs)
	}
	return f.spread(ofClass, float64(pgs)), f.width
}

// cheapest looks for a set of classes that fills most positions at the lowest
// price. The first choice at each position is the cheapest class; the budget is
// for others, because a cheap class may need a dear one beside it.
func (f *fluid) cheapest() (best []int32, width, work int) {
	s := classSearch{fluid: f, set: make([]int32, f.size)}
	for i := range s.set {
		s.set[i] = -1
	}
	starts := classWays
	for c := s.next(0, -1); c >= 0 && starts > 0; c = s.next(0, c) {
		s.left = min(max(4000/len(f.classes), 2*f.size), 15*f.size)
		s.try(0, c, 0, 0)
		starts--
	}
	return s.best, s.width, s.work
}

// next is the class for position i that comes after last in the order of
// preference, price and number; last = -1: the first one. -1 = there is none.
func (s *classSearch) next(i int, last int32) int32 {
	s.work += len(s.classes)
	best, bestDislikes, lastDislikes := int32(-1), 0, 0
	if last >= 0 {
		lastDislikes = s.classDislikes(s.set, i, last)
	}
	for c := int32(0); c < int32(len(s.classes)); c++ {
		if best >= 0 && !s.soft && s.barren[i][c] >= s.barren[i][best] && s.fluid.price[c] >= s.fluid.price[best] || !s.classFits(s.set, i, c) {
			continue
		}
		dislikes := s.classDislikes(s.set, i, c)
		if last >= 0 && s.compare(c, dislikes, last, lastDislikes) <= 0 {
			continue
		}
		if best < 0 || s.compare(c, dislikes, best, bestDislikes) < 0 {
			best, bestDislikes = c, dislikes
		}
	}
	return best
}

func (s *classSearch) compare(a int32, aDislikes int, b int32, bDislikes int) int {
	return cmp.Or(cmp.Compare(aDislikes, bDislikes), cmp.Compare(s.fluid.price[a], s.fluid.price[b]), cmp.Compare(a, b))
}

// classDislikes is dislikes for classes and the positions before i. What leaves
// other positions open is worse than what is only dear.
func (f *fluid) classDislikes(set []int32, i int, c int32) int {
	n := int(f.barren[i][c])
	if !f.soft {
		return n
	}
	o := f.classes[c][0]
	n += int(f.dislike[i][o])
	for k := range f.pairs[i] {
		if p := &f.pairs[i][k]; p.owner && p.op == Prefer && (set[p.peer] < 0 || !f.holds(p, o, f.classes[set[p.peer]][0])) {
			n++
		}
	}
	return n
}

// classFits is fits for classes: a class may be taken as often as it has
// members, if the rules permit. set has the positions before i.
func (f *fluid) classFits(set []int32, i int, c int32) bool {
	o := f.classes[c][0]
	if !f.alone[i][o] {
		return false
	}
	used := 0
	for _, other := range set[:i] {
		if other == c {
			used++
		}
	}
	if used >= len(f.classes[c]) {
		return false
	}
	for k := range f.pairs[i] {
		p := &f.pairs[i][k]
		if p.peer >= i || p.op == Prefer {
			continue
		}
		other := set[p.peer]
		if other < 0 {
			if p.owner && p.op != NotEqual {
				return false
			}
			continue
		}
		if !f.holds(p, o, f.classes[other][0]) {
			return false
		}
	}
	return true
}

// classSearch goes through positions in order, cheapest class first, and back
// when a position cannot be filled, as long as the budget lasts.
type classSearch struct {
	*fluid
	set   []int32
	left  int
	work  int
	best  []int32
	width int
	price float64
}

// try puts class c (-1 = none) at position i and goes on; price and width are of
// the positions before.
func (s *classSearch) try(i int, c int32, price float64, width int) {
	s.left--
	if c >= 0 {
		price += s.fluid.price[c]
		width++
	}
	possible := width + s.size - i - 1
	if s.best != nil && (possible < s.width || possible == s.width && price >= s.price) {
		return
	}
	s.set[i] = c
	if i+1 == s.size {
		s.best, s.width, s.price = slices.Clone(s.set), width, price
	} else if next := s.next(i+1, -1); next < 0 {
		s.try(i+1, -1, price, width)
	} else {
		for ways := 0; next >= 0 && ways < classWays && (ways == 0 || s.left > 0); ways++ {
			s.try(i+1, next, price, width)
			next = s.next(i+1, next)
		}
	}
	s.set[i] = -1
}

const classWays = 6 // classes tried at one position
