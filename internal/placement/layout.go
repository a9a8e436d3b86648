package placement

import (
	"cmp"
	"maps"
	"slices"

	"vitastor/internal/meta"
)

// layout is the tree and the rules of a pool in numbers: OSDs are indices, and
// each condition is split into what concerns one OSD alone and what relates the
// OSDs of two positions.
type layout struct {
	size   int // positions of a PG
	osds   []meta.OSDNum
	index  map[meta.OSDNum]int32
	weight []float64
	// node[level][osd] is the rank of the OSD's node of that level, -1 = none; nil
	// = no relation concerns the level.
	node [][]int32
	// alone[position][osd]: conditions that need no other position hold.
	alone [][]bool
	// dislike[position][osd]: unsatisfied preferences for named nodes.
	dislike [][]int8
	// barren[position][class]: positions that stay open if one of the class is
	// there, because no other OSD would be in the relation that they need.
	barren [][]int8
	pairs  [][]pair // by position: every relation it takes part in
	soft   bool     // there are preferences
	// plain: position i differs from all before it at one level, that all OSDs
	// have, and nothing else. Then positions are interchangeable.
	plain bool
	// OSDs of one class are the same to the rules.
	class   []int32
	classes [][]int32
}

// pair relates an OSD at some position to the one at position peer.
type pair struct {
	peer  int
	level int
	op    Op
	// owner: the condition belongs to this position, and peer is its argument.
	owner bool
}

func newLayout(t *Tree, rules Rules) *layout {
	leaves := t.Leaves()
	slices.SortFunc(leaves, func(a, b *Node) int { return cmp.Compare(a.OSD, b.OSD) })
	l := &layout{size: len(rules), index: make(map[meta.OSDNum]int32, len(leaves)), pairs: make([][]pair, len(rules))}
	for i, n := range leaves {
		l.osds = append(l.osds, n.OSD)
		l.weight = append(l.weight, n.WeightTB)
		l.index[n.OSD] = int32(i)
	}
	levels := slices.Sorted(maps.Keys(rules.Levels()))
	ranks := make([]map[string]int32, len(levels))
	for k, level := range levels {
		l.node = append(l.node, nil)
		l.node[k], ranks[k] = rankNodes(leaves, level)
	}
	for i, conditions := range rules {
		l.alone = append(l.alone, make([]bool, len(leaves)))
		l.dislike = append(l.dislike, make([]int8, len(leaves)))
		for o := range leaves {
			l.alone[i][o] = true
		}
		for _, c := range conditions {
			l.compile(i, &c, slices.Index(levels, c.Level), leaves)
		}
	}
	l.plain = isPlain(rules) && len(l.osds) > 0 && (len(l.node) == 0 || !slices.Contains(l.node[0], -1))
	if !l.plain {
		l.simplify()
	}
	l.classify()
	l.findBarren()
	return l
}

// simplify drops what holds anyway: as no PG has an OSD twice, positions differ
// at a level whose nodes are single OSDs. What remains tells fewer OSDs apart.
func (l *layout) simplify() {
	needless := make([]bool, len(l.node))
	for k, of := range l.node {
		seen := map[int32]bool{}
		needless[k] = true
		for _, rank := range of {
			needless[k] = needless[k] && (rank < 0 || !seen[rank])
			seen[rank] = true
		}
		for _, pairs := range l.pairs {
			for _, p := range pairs {
				needless[k] = needless[k] && (p.level != k || p.op == NotEqual)
			}
		}
	}
	for i := range l.pairs {
		l.pairs[i] = slices.DeleteFunc(l.pairs[i], func(p pair) bool { return needless[p.level] })
	}
	for k := range l.node {
		if needless[k] {
			l.node[k] = nil
		}
	}
}

// rankNodes numbers the nodes of a level in the order of their ids.
func rankNodes(leaves []*Node, level string) (of []int32, ranks map[string]int32) {
	var nodes []*Node
	ranks = map[string]int32{}
	for _, n := range leaves {
		if at := n.At(level); at != nil {
			if _, seen := ranks[at.ID]; !seen {
				ranks[at.ID] = 0
				nodes = append(nodes, at)
			}
		}
	}
	slices.SortFunc(nodes, func(a, b *Node) int { return compareID(a.ID, b.ID, a.OSD != 0 && b.OSD != 0) })
	for i, n := range nodes {
		ranks[n.ID] = int32(i)
	}
	for _, n := range leaves {
		rank := int32(-1)
		if at := n.At(level); at != nil {
			rank = ranks[at.ID]
		}
		of = append(of, rank)
	}
	return of, ranks
}

// compile splits a condition of position i.
func (l *layout) compile(i int, c *Condition, level int, leaves []*Node) {
	for _, a := range c.Args {
		if a.Position != 0 {
			j := a.Position - 1
			l.pairs[i] = append(l.pairs[i], pair{peer: j, level: level, op: c.Op, owner: true})
			l.pairs[j] = append(l.pairs[j], pair{peer: i, level: level, op: c.Op})
		}
	}
	l.soft = l.soft || c.Op == Prefer
	named := *c
	named.Args = slices.DeleteFunc(slices.Clone(c.Args), func(a Arg) bool { return a.Position != 0 })
	for o, n := range leaves {
		at := n.At(c.Level)
		holds := at != nil && named.holds(at, nil)
		switch {
		case c.Op != Prefer:
			l.alone[i][o] = l.alone[i][o] && holds
		case !holds:
			l.dislike[i][o]++
		}
	}
}

// isPlain recognises the rules of failure_domain alone.
func isPlain(rules Rules) bool {
	for i, conditions := range rules {
		if i == 0 && len(conditions) == 0 {
			continue
		}
		if i == 0 || len(conditions) != 1 {
			return false
		}
		c := &conditions[0]
		if c.Op != NotEqual || c.Level != rules[1][0].Level || len(c.Args) != i {
			return false
		}
		for k, a := range c.Args {
			if a.Position != k+1 {
				return false
			}
		}
	}
	return true
}

// classify groups OSDs that no condition tells apart.
func (l *layout) classify() {
	l.class = make([]int32, len(l.osds))
	byKey := map[string]int32{}
	var key []byte
	for o := range l.osds {
		key = key[:0]
		for _, of := range l.node {
			if of == nil {
				continue
			}
			key = append(key, byte(of[o]), byte(of[o]>>8), byte(of[o]>>16), byte(of[o]>>24))
		}
		for i := range l.alone {
			bit := byte(0)
			if l.alone[i][o] {
				bit = 1
			}
			key = append(key, bit, byte(l.dislike[i][o]))
		}
		c, seen := byKey[string(key)]
		if !seen {
			c = int32(len(l.classes))
			byKey[string(key)] = c
			l.classes = append(l.classes, nil)
		}
		l.class[o] = c
		l.classes[c] = append(l.classes[c], int32(o))
	}
}

func (l *layout) findBarren() {
	for i := range l.pairs {
		of := make([]int8, len(l.classes))
		for k := range l.pairs[i] {
			p := &l.pairs[i][k]
			if p.owner || p.op != Equal && p.op != Greater {
				continue
			}
			for c := range l.classes {
				if !l.fertile(p, int32(c)) {
					of[c]++
				}
			}
		}
		l.barren = append(l.barren, of)
	}
}

// fertile tells whether some OSD could be at the position that needs class c at
// its own.
func (l *layout) fertile(p *pair, c int32) bool {
	own := l.classes[c][0]
	for other, members := range l.classes {
		if (int32(other) != c || len(members) > 1) && l.alone[p.peer][members[0]] && l.holds(p, own, members[0]) {
			return true
		}
	}
	return false
}

// holds evaluates a relation; own is the OSD at the position that p belongs to.
// Positions that are still open do not come here.
func (l *layout) holds(p *pair, own, peer int32) bool {
	of := l.node[p.level]
	a, b := of[own], of[peer]
	if !p.owner {
		a, b = b, a
	}
	switch p.op {
	case NotEqual:
		return b < 0 || a != b
	case Greater:
		return b >= 0 && a > b
	}
	return a >= 0 && a == b
}

// fits tells whether OSD o may take position i of a PG; set are the OSDs of
// the other positions, -1 = open (no relation with it is checked).
func (l *layout) fits(set []int32, i int, o int32) bool {
	if !l.alone[i][o] {
		return false
	}
	if l.plain {
		class := l.class[o]
		for j, other := range set {
			if j != i && other >= 0 && l.class[other] == class {
				return false
			}
		}
		return true
	}
	for j, other := range set {
		if j != i && other == o {
			return false
		}
	}
	for k := range l.pairs[i] {
		p := &l.pairs[i][k]
		if other := set[p.peer]; other >= 0 && p.op != Prefer && !l.holds(p, o, other) {
			return false
		}
	}
	return true
}

// dislikes counts the preferences that o at position i leaves unsatisfied.
func (l *layout) dislikes(set []int32, i int, o int32) int {
	if !l.soft {
		return 0
	}
	n := int(l.dislike[i][o])
	for k := range l.pairs[i] {
		p := &l.pairs[i][k]
		if other := set[p.peer]; other >= 0 && p.op == Prefer && !l.holds(p, o, other) {
			n++
		}
	}
	return n
}

// orphan tells whether position i needs a position that is open: nothing is
// equal to, or greater than, an unfilled one.
func (l *layout) orphan(set []int32, i int) bool {
	return set[i] >= 0 && l.lacks(set, i)
}

// lacks tells whether nothing may be at position i for that reason.
func (l *layout) lacks(set []int32, i int) bool {
	for _, p := range l.pairs[i] {
		if p.owner && set[p.peer] < 0 && (p.op == Equal || p.op == Greater) {
			return true
		}
	}
	return false
}

// valid tells whether a whole set satisfies the rules.
func (l *layout) valid(set []int32) bool {
	for i, o := range set {
		if o >= 0 && (!l.fits(set, i, o) || l.orphan(set, i)) {
			return false
		}
	}
	return true
}
