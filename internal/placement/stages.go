package placement

import "slices"

// The stages of a Distribution after the previous sets are in. Each call is one
// small piece of work; true = the stage is finished.

// fill finds OSDs for the open slots of one PG.
func (d *Distribution) fill() (done bool) {
	if d.cursor == d.pgs {
		d.enough = d.work + improvementWork
		return true
	}
	p := d.cursor
	d.cursor++
	if !d.plain && len(d.homes[p]) == 0 {
		r := d.rebuild(p)
		r.copies, r.starts = 0, 4
		if len(d.classes) > 300 {
			r.starts = 2
		}
		if set := r.newSet(); set != nil {
			d.replace(p, set)
		}
		return false
	}
	for i, o := range d.pg(p) {
		if o < 0 && !d.lacks(d.pg(p), i) && !d.fillSlot(p*d.size+i) && !d.plain && d.pg(p)[i] >= 0 {
			if set := d.rebuild(p).newSet(); set != nil && filled(set) >= filled(d.pg(p)) {
				d.replace(p, set) // others have to move, too
			}
			break
		}
	}
	return false
}

func (d *Distribution) rebuild(p int) *rebuild {
	return &rebuild{grid: d.grid, p: p, banned: -1, forced: -1, copies: 0.7, starts: 3}
}

// fillSlot takes the emptiest OSD that fits. If all that fit are full, one of
// them may pass another replica on. It returns false if one has too many now, or
// none was found.
func (d *Distribution) fillSlot(slot int) bool {
	best, ties := int32(-1), 0
	bestFull, bestDislikes := 0.0, 0
	for o := range d.osds {
		full := d.fullness(int32(o), d.count[o]+1)
		// Most OSDs are out by their fullness alone; fits is dearer.
		if best >= 0 && full > bestFull && !d.soft || !d.mayMove(slot, int32(o)) {
			continue
		}
		dislikes := d.dislikes(d.pg(slot/d.size), slot%d.size, int32(o))
		switch {
		case best < 0 || dislikes < bestDislikes || dislikes == bestDislikes && full < bestFull:
			best, bestFull, bestDislikes, ties = int32(o), full, dislikes, 1
		case dislikes == bestDislikes && full == bestFull:
			ties++
			if d.random.below(ties) == 0 {
				best = int32(o)
			}
		}
	}
	d.work += len(d.osds) / 4
	if best < 0 {
		return false
	}
	full := d.count[best] >= d.outerHigh[best]
	if full && bestDislikes == 0 && d.find(nil, slot, d.withRoom()) >= 0 {
		return true
	}
	d.put(slot, best)
	return !full
}

// lower takes one replica from an OSD that has too many.
func (d *Distribution) lower() (done bool) {
	o, ok := d.next(func(o int32) bool { return d.count[o] > d.outerHigh[o] }, true)
	if !ok || d.improved() {
		return true
	}
	if d.count[o] > d.high[o] && d.find([]int32{o}, -1, d.without(d.withRoom(), o)) >= 0 {
		return false
	}
	d.giveUp(o)
	return false
}

// giveUp drops an OSD from the queue. Under rules that are not plain it takes
// a long time to find out that there is no chain, and the reason is mostly that
// the limit is in the node above; so in large trees its other OSDs go, too.
func (d *Distribution) giveUp(o int32) {
	if d.plain || len(d.osds) <= 100 {
		d.queue = d.queue[1:]
		return
	}
	level := -1
	for k, of := range d.node {
		if of != nil && (level < 0 || slices.Max(of) < slices.Max(d.node[level])) {
			level = k
		}
	}
	d.queue = slices.DeleteFunc(d.queue, func(v int32) bool {
		return v == o || level >= 0 && d.node[level][v] == d.node[level][o]
	})
}

// improved tells that enough work was done on what is only improvement.
func (d *Distribution) improved() bool { return !d.plain && d.work > d.enough }

// raise brings one replica to an OSD that has too few. One that has nearly all
// of its share gets no more than it must have: that can need chains.
func (d *Distribution) raise() (done bool) {
	if d.cursor == 0 {
		d.goal = slices.Clone(d.low)
		for o, n := range d.count {
			if float64(n) >= leastShare*d.share[o] {
				d.goal[o] = d.outerLow[o]
			}
		}
	}
	o, ok := d.next(func(o int32) bool { return d.count[o] < d.outerLow[o] }, false)
	if !ok || d.improved() {
		return true
	}
	if d.count[o] < d.goal[o] {
		var sources []int32
		for v := range d.osds {
			if int32(v) != o && d.count[v] > d.low[v] {
				sources = append(sources, int32(v))
			}
		}
		if d.find(d.byFullness(sources, 0, true), -1, []int32{o}) >= 0 {
			return false
		}
	}
	d.giveUp(o)
	return false
}

// next is the OSD that a stage works on: the first of those that needed it when
// the stage began, the worst first.
func (d *Distribution) next(needed func(o int32) bool, fullestFirst bool) (o int32, ok bool) {
	if d.cursor == 0 {
		d.cursor = 1
		for o := range d.osds {
			if needed(int32(o)) {
				d.queue = append(d.queue, int32(o))
			}
		}
		d.queue = d.byFullness(d.queue, 0, fullestFirst)
	}
	if len(d.queue) == 0 {
		return 0, false
	}
	return d.queue[0], true
}

func (d *Distribution) without(list []int32, o int32) []int32 {
	return slices.DeleteFunc(list, func(v int32) bool { return v == o })
}

const repairTries = 48 // PGs looked at for one OSD

// repair replaces whole sets for OSDs that single replacements did not help.
// Each success brings the counts closer to the shares, so it ends.
func (d *Distribution) repair() (done bool) {
	o, ok := d.next(func(o int32) bool { return d.count[o] > d.outerHigh[o] || d.count[o] < d.outerLow[o] }, true)
	if !ok || d.improved() {
		return true
	}
	better := false
	switch {
	case d.count[o] > d.high[o]:
		better = d.repairFull(o)
	case d.count[o] < d.low[o]:
		better = d.repairEmpty(o)
	}
	if !better {
		d.queue = d.queue[1:]
	}
	return false
}

// repairFull looks for a PG that is better off without o.
func (d *Distribution) repairFull(o int32) bool {
	var best choice
	list := d.slots[o]
	for k, start := 0, d.random.below(len(list)); k < min(len(list), repairTries) && best.found < goodChoices; k++ {
		p := int(list[(start+k)%len(list)]) / d.size
		r := d.rebuild(p)
		r.banned = o
		best.consider(d, p, r.newSet())
	}
	return best.carryOut(d)
}

// repairEmpty looks for a PG that is better off with o.
func (d *Distribution) repairEmpty(o int32) bool {
	var best choice
	for k, start := 0, d.random.below(d.pgs); k < min(d.pgs, repairTries) && best.found < goodChoices; k++ {
		p := (start + k) % d.pgs
		if slices.Contains(d.pg(p), o) {
			continue
		}
		for i, turn := 0, d.random.below(d.size); i < min(d.size, 2); i++ {
			if role := (turn + i) % d.size; d.alone[role][o] {
				r := d.rebuild(p)
				r.forced, r.role, r.starts = o, role, 2
				best.consider(d, p, r.newSet())
			}
		}
	}
	return best.carryOut(d)
}

// choice is the best change of a set so far: most gain per copied replica.
type choice struct {
	p     int
	set   []int32
	score float64
	found int // changes that are worth it
}

const goodChoices = 6 // among which to choose the best

// leastGain is what a change must be worth, in the unit of uneven.
const leastGain = 0.01

func (c *choice) consider(d *Distribution, p int, set []int32) {
	if set == nil || filled(set) < filled(d.pg(p)) {
		return
	}
	gain, copies := -d.uneven(p, set), 0
	for i, o := range set {
		if old := d.pg(p)[i]; o >= 0 && o != old {
			copies += d.away(p*d.size+i, o)
			if old >= 0 {
				copies -= d.away(p*d.size+i, old)
			}
		}
	}
	if gain <= leastGain {
		return
	}
	c.found++
	if score := gain / (float64(max(copies, 0)) + 0.3); c.set == nil || score > c.score {
		c.p, c.set, c.score = p, set, score
	}
}

func (c *choice) carryOut(d *Distribution) bool {
	if c.set == nil {
		return false
	}
	d.replace(c.p, c.set)
	return true
}

func filled(set []int32) int {
	n := 0
	for _, o := range set {
		if o >= 0 {
			n++
		}
	}
	return n
}

// settle gives one PG that is not as wide as possible, or needs a position that
// stayed open, another set; what is then still against the rules is emptied.
func (d *Distribution) settle() (done bool) {
	if d.cursor == d.pgs {
		return true
	}
	p := d.cursor
	d.cursor++
	set := d.pg(p)
	valid := d.valid(set)
	if valid && filled(set) >= d.width {
		return false
	}
	better := d.rebuild(p).newSet()
	if better != nil && (filled(better) > filled(set) || !valid && filled(better) >= filled(set)) {
		d.replace(p, better)
		return false
	}
	if !valid && !d.settleOrder(p) {
		d.dropOrphans(p)
	}
	return false
}

// settleOrder keeps the OSDs where they are if the rules hold in another order.
func (d *Distribution) settleOrder(p int) bool {
	order := d.findOrder(d.pg(p))
	if order == nil {
		return false
	}
	old, set := d.order[p], slices.Clone(d.pg(p))
	next := make([]int32, d.size)
	positions := make([]int, d.size)
	for i, k := range order {
		next[i] = set[k]
		positions[i] = k
		if old != nil {
			positions[i] = old[k]
		}
	}
	d.order[p] = positions
	if !d.byRole && d.pool.RawPlacement != "" {
		d.order[p] = nil
	}
	d.replace(p, next)
	return true
}

// dropOrphans empties positions whose argument is open, until there are none.
func (d *Distribution) dropOrphans(p int) {
	for range d.size {
		for i := range d.size {
			if d.orphan(d.pg(p), i) {
				d.put(p*d.size+i, -1)
			}
		}
	}
}
