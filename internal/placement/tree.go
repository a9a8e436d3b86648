package placement

import (
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Tree is what one pool may use.
type Tree struct {
	Root *Node // a node without id and level
	byID map[string]*Node
}

// Node is the root, a node, an OSD, or (after Fold) a leaf that stands for
// several OSDs. It must not be changed.
type Node struct {
	ID       string
	Level    string
	Parent   *Node   // nil = the root
	Children []*Node // OSDs by number, then nodes by name; empty = a leaf
	WeightTB float64 // of all OSDs below
	OSD      meta.OSDNum
	Up       bool     // an OSD with osd/state
	Tags     []string // of an OSD
	// Members are the OSDs that a leaf stands for; an OSD stands for itself.
	Members []*Node
}

// Leaf tells whether n has nothing below it in this tree.
func (n *Node) Leaf() bool { return len(n.Children) == 0 }

// At returns n, or the node above it, that is of a level; nil if there is none.
func (n *Node) At(level string) *Node {
	for ; n != nil && n.Parent != nil; n = n.Parent {
		if n.Level == level {
			return n
		}
	}
	return nil
}

// Find returns a node by its name, or nil.
func (t *Tree) Find(id string) *Node { return t.byID[id] }

// Leaves are all leaves, in the order of the tree.
func (t *Tree) Leaves() []*Node { return appendLeaves(nil, t.Root) }

func appendLeaves(list []*Node, n *Node) []*Node {
	for _, c := range n.Children {
		if c.Leaf() {
			list = append(list, c)
		} else {
			list = appendLeaves(list, c)
		}
	}
	return list
}

// HasTags tells whether an OSD has every one of tags.
func (n *Node) HasTags(tags []string) bool { return hasAll(n.Tags, tags) }

func hasAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(tag string) bool { return !slices.Contains(have, tag) })
}

// Tree applies the filters of a pool (monitor.md 3.2); nil = all OSDs.
func (v *Inventory) Tree(pool *schema.Pool) *Tree {
	t := &Tree{Root: &Node{}, byID: map[string]*Node{}}
	children := map[*item][]*item{}
	for _, it := range v.order {
		if pool == nil || v.below(it, pool.RootNode) && (it.osd == nil || it.osd.fits(pool)) {
			parent := v.up(it)
			children[parent] = append(children[parent], it)
		}
	}
	t.grow(t.Root, nil, children)
	return t
}

// grow adds what is below an item to its node. Nodes without OSDs are left out.
func (t *Tree) grow(n *Node, it *item, children map[*item][]*item) {
	for _, below := range children[it] {
		c := &Node{ID: below.id, Level: below.level, Parent: n}
		if o := below.osd; o != nil {
			c.WeightTB, c.OSD, c.Up, c.Tags = o.weight, o.num, o.up, o.tags
			c.Members = []*Node{c}
		}
		t.grow(c, below, children)
		if c.Leaf() && !(c.WeightTB > 0) {
			continue
		}
		n.Children = append(n.Children, c)
		n.WeightTB += c.WeightTB
		t.byID[c.ID] = c
	}
}

// below tells whether an item is under the pool's root, or above it.
func (v *Inventory) below(it *item, root string) bool {
	return root == "" || v.onPath(it, root) || v.items[root] != nil && v.onPath(v.items[root], it.id)
}

// onPath tells whether it, or a node above it, is called id.
func (v *Inventory) onPath(it *item, id string) bool {
	for ; it != nil; it = v.up(it) {
		if it.id == id {
			return true
		}
	}
	return false
}

// fits applies tags and the layout of the pool. What the OSD does not report
// is not checked.
func (o *leaf) fits(pool *schema.Pool) bool {
	s := o.stats
	if !hasAll(o.tags, pool.OSDTags) ||
		s.BlockBytes != 0 && s.BlockBytes != pool.BlockBytes ||
		s.GranularityBytes != 0 && s.GranularityBytes != pool.GranularityBytes {
		return false
	}
	commit, reported := s.CommitMode()
	return !reported || commit >= pool.Commit
}
