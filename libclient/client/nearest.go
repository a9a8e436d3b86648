package client

import (
	"strconv"

	"vitastor/internal/schema"
)

// placementPaths tells how far apart nodes of the placement tree are
// (etcd.md 2.2).
type placementPaths struct {
	host  string
	nodes map[string]*schema.PlacedNode
	mine  []string
}

// pathMax bounds the depth of the tree, which may contain cycles.
const pathMax = 64

func (t *placementPaths) update(nodes []schema.PlacedNode, host string) {
	t.nodes, t.host = make(map[string]*schema.PlacedNode, len(nodes)), host
	for i := range nodes {
		t.nodes[nodes[i].Name] = &nodes[i]
	}
	t.mine = t.path(host)
}

// path lists a node and everything above it; the root is "".
func (t *placementPaths) path(name string) []string {
	var path []string
	for name != "" && len(path) < pathMax {
		path = append(path, name)
		if n := t.nodes[name]; n != nil {
			name = n.Parent
		} else {
			name = ""
		}
	}
	return append(path, "")
}

// ofOSD is the path of an OSD: its entry in the tree counts, otherwise the host
// that it tells.
func (t *placementPaths) ofOSD(num uint64, host string) []string {
	name := strconv.FormatUint(num, 10)
	if t.nodes[name] != nil {
		return t.path(name)
	}
	return append([]string{name}, t.path(host)...)
}

// distance is the number of steps from the client's host to the end of a path.
func (t *placementPaths) distance(path []string) int {
	for i, a := range t.mine {
		for j, b := range path {
			if a == b {
				return i + j
			}
		}
	}
	return len(t.mine) + len(path)
}

// nearest is the replica with the shortest way; of several the primary, because
// it needs no lock to be up to date.
func (c *Client) nearest(g *pg) *osd {
	if len(c.paths.mine) == 0 {
		c.paths.update(c.view.NodePlacement(), c.opts.HostName)
	}
	var best *osd
	bestDistance := 0
	for _, o := range g.replicas {
		d := c.paths.distance(c.paths.ofOSD(uint64(o.num), c.view.OSD(o.num).Host))
		if best == nil || d < bestDistance || d == bestDistance && o.num == g.primary {
			best, bestDistance = o, d
		}
	}
	return best
}
