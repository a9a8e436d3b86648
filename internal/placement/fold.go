package placement

// Fold returns a smaller tree, in which everything below the lowest level that
// the rules mention is one leaf (monitor.md 3.4). With failure_domain=host each
// host is a leaf, with osd each OSD.
func (t *Tree) Fold(rules Rules) *Tree {
	f := folder{levels: rules.Levels(), tree: &Tree{byID: map[string]*Node{}}}
	f.tree.Root = f.node(t.Root, nil)
	return f.tree
}

type folder struct {
	levels map[string]bool
	tree   *Tree
}

// node copies n and what is below it that has to be told apart.
func (f *folder) node(n, parent *Node) *Node {
	c := &Node{ID: n.ID, Level: n.Level, Parent: parent, WeightTB: n.WeightTB,
		OSD: n.OSD, Up: n.Up, Tags: n.Tags, Members: n.Members}
	together := parent != nil && !n.Leaf()
	for _, child := range n.Children {
		below := f.node(child, c)
		c.Children = append(c.Children, below)
		together = together && below.Leaf() && !f.levels[below.Level]
	}
	if together {
		for _, below := range c.Children {
			c.Members = append(c.Members, below.Members...)
			delete(f.tree.byID, below.ID)
		}
		c.Children = nil
	}
	if parent != nil {
		f.tree.byID[c.ID] = c
	}
	return c
}
