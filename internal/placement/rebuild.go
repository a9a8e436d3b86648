package placement

import "math"

// rebuild looks for a whole new set for a PG: for new PGs under rules that are
// not plain, and where single replacements do not suffice (two positions that
// must be in one rack can only change together).
type rebuild struct {
	*grid
	p      int
	banned int32 // OSD that must not be in the set; -1 = none
	forced int32 // OSD for position role; -1 = none
	role   int
	copies float64 // price of copying one replica
	starts int     // different first positions to try

	set   []int32
	best  []int32
	width int
	price float64
}

const rebuildWays = 3 // candidates tried at each position but the first

// newSet returns the best set that was found; nil if there is none at all. It
// takes the best candidate at every position, and then does the same again with
// another choice at one of them.
func (r *rebuild) newSet() []int32 {
	r.set = make([]int32, r.size)
	for i := range r.set {
		r.set[i] = -1
	}
	r.place(0, 0, 0, true)
	return r.best
}

// place fills position i and those behind it; price and width are of those
// before. mayDiffer: so far, every choice was the first one.
func (r *rebuild) place(i int, price float64, width int, mayDiffer bool) {
	possible := width + r.size - i
	if r.best != nil && (possible < r.width || possible == r.width && price >= r.price) {
		return
	}
	if i == r.size {
		r.finish(price, width)
		return
	}
	ways := 1
	if mayDiffer {
		if ways = rebuildWays; i == 0 {
			ways = r.starts
		}
	}
	candidates := r.candidates(i, ways)
	for k, c := range candidates {
		r.set[i] = c.osd
		r.place(i+1, price+c.price, width+1, mayDiffer && k == 0)
		r.set[i] = -1
	}
	if len(candidates) == 0 {
		r.place(i+1, price, width, mayDiffer)
	}
}

func (r *rebuild) finish(price float64, width int) {
	if width > 0 && (r.forced < 0 || r.set[r.role] == r.forced) {
		r.best, r.width, r.price = append(r.best[:0:0], r.set...), width, price
	}
}

// candidate is an OSD with a price.
type candidate struct {
	osd      int32
	dislikes int
	price    float64
}

func (c candidate) better(d candidate) bool {
	return c.dislikes < d.dislikes || c.dislikes == d.dislikes && c.price < d.price
}

// candidates lists the cheapest OSDs for position i: of each class the one with
// most room, and the one that is there now.
func (r *rebuild) candidates(i, ways int) []candidate {
	if r.forced >= 0 && i == r.role {
		if !r.allowed(i, r.forced) {
			return nil
		}
		return []candidate{r.priced(i, r.forced)}
	}
	var list []candidate
	if now := r.grid.pg(r.p)[i]; now >= 0 && r.allowed(i, now) {
		list = r.insert(list, r.priced(i, now), ways)
	}
	for c := range r.classes {
		if o := r.roomiest(int32(c), i); o >= 0 {
			list = r.insert(list, r.priced(i, o), ways)
		}
	}
	return list
}

func (r *rebuild) insert(list []candidate, c candidate, ways int) []candidate {
	for _, other := range list {
		if other.osd == c.osd {
			return list
		}
	}
	at := len(list)
	for at > 0 && c.better(list[at-1]) {
		at--
	}
	if at == ways {
		return list
	}
	if len(list) < ways {
		list = append(list, c)
	}
	copy(list[at+1:], list[at:])
	list[at] = c
	return list
}

func (r *rebuild) allowed(i int, o int32) bool {
	r.work++
	if o == r.banned || o == r.forced && i != r.role || !r.fits(r.set, i, o) {
		return false
	}
	for k := range r.pairs[i] {
		p := &r.pairs[i][k]
		if p.owner && (p.op == Equal || p.op == Greater) && p.peer < i && r.set[p.peer] < 0 {
			return false
		}
		if r.forced >= 0 && p.peer == r.role && r.role > i && p.op != Prefer && !r.holds(p, o, r.forced) {
			return false
		}
	}
	return true
}

// roomiest is the member of a class with most room that is allowed; -1 = none.
func (r *rebuild) roomiest(c int32, i int) int32 {
	members := r.classes[c]
	if r.dirty[c] {
		r.dirty[c] = false
		r.grid.best[c] = members[0]
		for _, o := range members[1:] {
			if r.fullness(o, r.count[o]+1) < r.fullness(r.grid.best[c], r.count[r.grid.best[c]]+1) {
				r.grid.best[c] = o
			}
		}
	}
	if o := r.grid.best[c]; r.allowed(i, o) {
		return o
	}
	// The members differ only in being taken already, or banned.
	found, room := int32(-1), math.Inf(1)
	if len(members) > 1 && r.alone[i][members[0]] {
		for _, o := range members {
			if full := r.fullness(o, r.count[o]+1); full < room && r.allowed(i, o) {
				found, room = o, full
			}
		}
	}
	return found
}

func (r *rebuild) priced(i int, o int32) candidate {
	n := r.count[o] + 1
	for _, now := range r.grid.pg(r.p) {
		if now == o {
			n--
		}
	}
	price := r.fullness(o, n) + 1e-6*float64(r.random.below(1000))/1000
	if n > r.high[o] {
		price += 2
	}
	price += r.copies * float64(r.away(r.p*r.size+i, o))
	for k := range r.pairs[i] { // those that could not stay beside it
		p := &r.pairs[i][k]
		if now := r.grid.pg(r.p)[p.peer]; p.peer > i && p.op != Prefer && now >= 0 && !r.holds(p, o, now) {
			price += r.copies
		}
	}
	return candidate{o, r.dislikes(r.set, i, o) + int(r.barren[i][r.class[o]]), price}
}

// replace puts a set in place of the present one.
func (g *grid) replace(p int, set []int32) {
	for i, o := range set {
		if g.set[p*g.size+i] != o {
			g.put(p*g.size+i, -1)
		}
	}
	for i, o := range set {
		if g.set[p*g.size+i] != o {
			g.put(p*g.size+i, o)
		}
	}
}

// uneven is by how much the distance of all OSDs from their shares grows if the
// set of a PG is replaced: the sum of (replicas - share)²/share.
func (g *grid) uneven(p int, set []int32) float64 {
	sum := 0.0
	change := func(o int32, by int) {
		if o >= 0 {
			sum += g.distance(o, g.count[o]+by) - g.distance(o, g.count[o])
			g.count[o] += by
		}
	}
	old := g.pg(p)
	for _, o := range old {
		change(o, -1)
	}
	for _, o := range set {
		change(o, 1)
	}
	for i := range set { // and back
		if set[i] >= 0 {
			g.count[set[i]]--
		}
		if old[i] >= 0 {
			g.count[old[i]]++
		}
	}
	return sum
}

func (g *grid) distance(o int32, n int) float64 {
	d := float64(n) - g.share[o]
	return d * d / max(g.share[o], 1)
}
