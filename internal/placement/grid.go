package placement

import "vitastor/internal/invariant"

// grid is the PGs of a pool in work: slot pg*size+position holds an OSD.
type grid struct {
	*layout
	pgs   int
	set   []int32 // by slot; -1 = empty
	count []int   // replicas by OSD
	// slots of each OSD, and where each slot stands in that list.
	slots [][]int32
	at    []int32
	// homes are sets that have the data of a PG already; the first one is the
	// set that it was given before. Empty = a new PG.
	homes [][][]int32
	// share is the ideal number of replicas of each OSD. Those outside of
	// [outerLow, outerHigh] are brought back to [low, high].
	share                          []float64
	low, high, outerLow, outerHigh []int
	// byRole: a replica that changes its position has to be copied (EC).
	byRole bool
	random random
	dirty  []bool  // by class: best may have changed
	best   []int32 // by class: its member with most room
	work   int     // done so far, in looked-at slots
}

func newGrid(l *layout, pgs int, byRole bool) *grid {
	g := &grid{layout: l, pgs: pgs, byRole: byRole,
		set: make([]int32, pgs*l.size), at: make([]int32, pgs*l.size),
		count: make([]int, len(l.osds)), slots: make([][]int32, len(l.osds)), homes: make([][][]int32, pgs),
		dirty: make([]bool, len(l.classes)), best: make([]int32, len(l.classes))}
	for i := range g.set {
		g.set[i] = -1
	}
	return g
}

// pg is the present set of a PG; it must not be changed.
func (g *grid) pg(p int) []int32 { return g.set[p*g.size : (p+1)*g.size] }

// put replaces what is in a slot; -1 = nothing.
func (g *grid) put(slot int, o int32) {
	if old := g.set[slot]; old >= 0 {
		list := g.slots[old]
		last := list[len(list)-1]
		list[g.at[slot]] = last
		g.at[last] = g.at[slot]
		g.slots[old] = list[:len(list)-1]
		g.count[old]--
		g.dirty[g.class[old]] = true
	}
	g.set[slot] = o
	if o >= 0 {
		g.at[slot] = int32(len(g.slots[o]))
		g.slots[o] = append(g.slots[o], int32(slot))
		g.count[o]++
		g.dirty[g.class[o]] = true
	}
}

// fullness is how full an OSD is, relative to its share, with n replicas.
func (g *grid) fullness(o int32, n int) float64 { return float64(n) / max(g.share[o], 1e-9) }

// mayMove tells whether the OSD in a slot may be replaced by o.
func (g *grid) mayMove(slot int, o int32) bool {
	p, i := slot/g.size, slot%g.size
	set := g.pg(p)
	g.work++
	if !g.fits(set, i, o) {
		return false
	}
	return !g.soft || set[i] < 0 || g.dislikes(set, i, o) <= g.dislikes(set, i, set[i])
}

// away is 1 if the data would have to be copied to o, otherwise 0.
func (g *grid) away(slot int, o int32) int {
	p, i := slot/g.size, slot%g.size
	for _, home := range g.homes[p] {
		if g.byRole {
			if home[i] == o {
				return 0
			}
			continue
		}
		for _, h := range home {
			if h == o {
				return 0
			}
		}
	}
	return 1
}

// route is a search for a chain of replacements: an OSD gives a slot to the next
// one, which gives another slot to the next one, and so on to one with room.
type route struct {
	// into[o] is the slot that o would take; of the OSD before it in the chain.
	into    []int32
	visited []bool
}

// searchWork limits a search under rules that are not plain: there it may fail,
// and other ways may be found.
const searchWork = 200_000

// find looks for the shortest chain from one of sources (or from the open slot
// start, if it is not -1) to one of goals, and carries it out. Earlier sources
// and goals are preferred among chains of equal length. It returns the last OSD
// or -1.
func (g *grid) find(sources []int32, start int, goals []int32) int32 {
	r := &route{into: make([]int32, len(g.osds)), visited: make([]bool, len(g.osds))}
	frontier := sources
	for _, o := range sources {
		r.into[o], r.visited[o] = -1, true
	}
	if start >= 0 {
		for o := range g.osds {
			if g.mayMove(start, int32(o)) {
				r.into[o], r.visited[o] = int32(start), true
				frontier = append(frontier, int32(o))
			}
		}
	}
	limit := g.work + searchWork
	for len(frontier) > 0 && (g.plain || g.work < limit) {
		for _, goal := range goals {
			for _, o := range frontier {
				if slot := g.cheapestSlot(r, o, goal); slot >= 0 {
					g.follow(r, slot, goal)
					return goal
				}
			}
		}
		frontier = g.advance(r, frontier)
	}
	return -1
}

// advance lists the OSDs that are one replacement further.
func (g *grid) advance(r *route, frontier []int32) []int32 {
	var next []int32
	for v := range g.osds {
		if r.visited[v] {
			continue
		}
		for _, o := range frontier {
			if slot := g.anySlot(r, o, int32(v)); slot >= 0 {
				r.into[v], r.visited[v] = slot, true
				next = append(next, int32(v))
				break
			}
		}
	}
	return next
}

// anySlot is a slot of o that may go to v, -1 = none. A chain must not use a PG
// twice.
func (g *grid) anySlot(r *route, o, v int32) int32 {
	list := g.slots[o]
	for k, start := 0, g.random.below(len(list)); k < len(list); k++ {
		if slot := list[(start+k)%len(list)]; g.mayMove(int(slot), v) && !g.onChain(r, o, int(slot)/g.size) {
			return slot
		}
	}
	return -1
}

// cheapestSlot is a slot of o that may go to v at the least movement of data;
// -1 = none.
func (g *grid) cheapestSlot(r *route, o, v int32) int32 {
	best, bestCost := int32(-1), 2
	list := g.slots[o]
	for k, start := 0, g.random.below(len(list)); k < len(list); k++ {
		slot := list[(start+k)%len(list)]
		if !g.mayMove(int(slot), v) || g.onChain(r, o, int(slot)/g.size) {
			continue
		}
		cost := g.away(int(slot), v) - g.away(int(slot), o)
		if cost < bestCost {
			best, bestCost = slot, cost
			if cost <= -1 || cost <= 0 && len(g.homes[int(slot)/g.size]) == 0 {
				break
			}
		}
	}
	return best
}

func (g *grid) onChain(r *route, o int32, p int) bool {
	for slot := r.into[o]; slot >= 0; slot = r.into[o] {
		if int(slot)/g.size == p {
			return true
		}
		if o = g.set[slot]; o < 0 {
			return false
		}
	}
	return false
}

// follow carries a chain out, from its end on.
func (g *grid) follow(r *route, slot, to int32) {
	for slot >= 0 {
		from := g.set[slot]
		invariant.Must(g.fits(g.pg(int(slot)/g.size), int(slot)%g.size, to), "a chain of replacements keeps the rules")
		g.put(int(slot), to)
		if from < 0 {
			return
		}
		to, slot = from, r.into[from]
	}
}

// random is a small generator of its own, so that results never depend on a
// library.
type random uint64

func (r *random) below(n int) int {
	if n <= 1 {
		return 0
	}
	*r += 0x9e3779b97f4a7c15
	x := uint64(*r)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return int(x % uint64(n))
}
