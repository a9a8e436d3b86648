package placement

import (
	"slices"
	"strconv"

	"vitastor/internal/meta"
)

func osdID(o meta.OSDNum) string { return strconv.FormatUint(uint64(o), 10) }

// arrange chooses the order inside the sets, if all orders satisfy the rules and
// none costs data movement: of all sets of new PGs, and of changed sets of
// replicas. The order decides who is primary (monitor.md §6), and in EC pools who
// holds data and who parity, so it is chosen to balance both.
func (d *Distribution) arrange() (done bool) {
	a := &arranger{Distribution: d, primaries: make([]int, len(d.osds)), parity: make([]int, len(d.osds))}
	var free []int
	for p := range d.pgs {
		d.work += 2 * d.size
		if d.mayArrange(p) {
			free = append(free, p)
		} else {
			a.count(p, 1)
		}
	}
	for round := range arrangeRounds {
		for _, p := range free {
			if round > 0 {
				a.count(p, -1)
			}
			a.arrange(p)
			a.count(p, 1)
		}
	}
	return true
}

const arrangeRounds = 3

// mayArrange tells whether the order of a set is free.
func (d *Distribution) mayArrange(p int) bool {
	if len(d.homes[p]) == 0 {
		return true
	}
	if d.byRole {
		return false
	}
	for _, o := range d.pg(p) {
		if o >= 0 && !slices.Contains(d.homes[p][0], o) {
			return true
		}
	}
	return false
}

type arranger struct {
	*Distribution
	primaries []int // PGs by OSD, if all OSDs are up
	parity    []int // parity chunks by OSD
}

// count adds one PG, or takes it away.
func (a *arranger) count(p, n int) {
	set := a.pg(p)
	if i := a.primary(p); i >= 0 {
		a.primaries[set[i]] += n
	}
	for _, o := range set[a.dataPositions():] {
		if o >= 0 {
			a.parity[o] += n
		}
	}
}

func (a *arranger) dataPositions() int {
	if a.byRole {
		return a.pool.DataChunks()
	}
	return a.size
}

// primary is the position that the rule of monitor.md §6 chooses; -1 = none.
func (a *arranger) primary(p int) int {
	return pickPrimary(p+1, a.pg(p), a.dataPositions(),
		func(o int32) bool { return o >= 0 }, func(o int32) bool { return a.affine[o] })
}

// arrange puts those with least parity to the parity positions, and swaps the
// one with fewest primaries to the position of the primary.
func (a *arranger) arrange(p int) {
	set := slices.Clone(a.pg(p))
	width := filled(set)
	slices.SortStableFunc(set, func(x, y int32) int { // open positions last
		return btoi(x < 0) - btoi(y < 0)
	})
	if data := a.dataPositions(); data < width {
		slices.SortStableFunc(set[:width], func(x, y int32) int {
			// a.parity[x]/count[x] descending: the first get data
			l, r := a.parity[x]*a.grid.count[y], a.parity[y]*a.grid.count[x]
			return r - l
		})
	}
	a.replace(p, set)
	at := a.primary(p)
	if at < 0 {
		return
	}
	best := at
	anyAffine := a.affine[set[at]]
	for i, o := range set[:min(width, a.dataPositions())] {
		if a.affine[o] == anyAffine && (a.primaries[o]+1)*a.grid.count[set[best]] < (a.primaries[set[best]]+1)*a.grid.count[o] {
			best = i
		}
	}
	set[at], set[best] = set[best], set[at]
	a.replace(p, set)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
