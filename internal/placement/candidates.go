package placement

import (
	"cmp"
	"slices"
)

// Candidates are the leaves that the rules allow at a position (from 1) of a
// PG, when chosen are the leaves of the positions before it; nil = an unfilled
// one. They are in the order of the tree. No candidates: the position stays
// empty. Preferences choose among what the other conditions leave, in whatever
// order they are written.
func (t *Tree) Candidates(rules Rules, position int, chosen []*Node) []*Node {
	nodes := t.Root.Children
	for _, preferences := range []bool{false, true} {
		for _, c := range rules[position-1] {
			if (c.Op == Prefer) != preferences {
				continue
			}
			var kept []*Node
			for _, n := range nodes {
				kept = c.filter(kept, n, chosen)
			}
			if len(kept) > 0 || !preferences {
				nodes = kept
			}
		}
	}
	var leaves []*Node
	for _, n := range nodes {
		if n.Leaf() {
			leaves = append(leaves, n)
		} else {
			leaves = appendLeaves(leaves, n)
		}
	}
	return leaves
}

// filter appends n, or what is below it, as far as the condition holds. What
// is in no node of the level is left out.
func (c *Condition) filter(kept []*Node, n *Node, chosen []*Node) []*Node {
	if at := n.At(c.Level); at != nil {
		if c.holds(at, chosen) {
			kept = append(kept, n)
		}
		return kept
	}
	for _, below := range n.Children {
		kept = c.filter(kept, below, chosen)
	}
	return kept
}

// Allows tells whether leaves, one per position, nil = unfilled, satisfy the
// rules. Preferences do not matter.
func (t *Tree) Allows(rules Rules, leaves []*Node) bool {
	if len(leaves) != len(rules) {
		return false
	}
	for i, n := range leaves {
		if n != nil && slices.ContainsFunc(rules[i], func(c Condition) bool {
			at := n.At(c.Level)
			return c.Op != Prefer && (at == nil || !c.holds(at, leaves[:i]))
		}) {
			return false
		}
	}
	return true
}

// holds compares a node with all arguments.
func (c *Condition) holds(at *Node, chosen []*Node) bool {
	for _, a := range c.Args {
		id, osd := a.Node, false
		if a.Position != 0 {
			other := a.node(c.Level, chosen)
			if other == nil && c.Op != NotEqual {
				return false // an unfilled position is equal to nothing
			}
			if other == nil {
				continue
			}
			id, osd = other.ID, other.OSD != 0
		}
		order := compareID(at.ID, id, at.OSD != 0 && (osd || a.Position == 0))
		switch c.Op {
		case Equal, Prefer:
			if order != 0 {
				return false
			}
		case NotEqual:
			if order == 0 {
				return false
			}
		case Greater:
			if order <= 0 {
				return false
			}
		}
	}
	return true
}

func (a Arg) node(level string, chosen []*Node) *Node {
	if a.Position > len(chosen) || chosen[a.Position-1] == nil {
		return nil
	}
	return chosen[a.Position-1].At(level)
}

// compareID orders names of nodes as texts, and OSDs by number: without
// leading zeros the longer number is the greater one.
func compareID(a, b string, osds bool) int {
	if osds {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	}
	return cmp.Compare(a, b)
}
