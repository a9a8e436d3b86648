package cli

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// osdInfo is what etcd has about one OSD.
type osdInfo struct {
	num    meta.OSDNum
	stats  schema.OSDStats
	raw    schema.Object // of the statistics
	config schema.OSDConfig
	up     bool
}

// osds reads all OSDs that have statistics, ascending, also those that are
// only reserved numbers.
func (c *cluster) osds() ([]*osdInfo, error) {
	k := c.keys
	r, _, err := c.read(k.Kind(schema.KindOSDStats).Get(), k.Kind(schema.KindOSDConfig).Get(), k.Kind(schema.KindOSDState).Get())
	if err != nil {
		return nil, err
	}
	all := map[meta.OSDNum]*osdInfo{}
	for _, kv := range r[0].KVs {
		key, ok := k.Parse(kv.Key)
		if !ok {
			continue
		}
		o := &osdInfo{num: key.OSD}
		o.stats, _ = schema.DecodeOSDStats(kv.Key, kv.Value)
		o.raw, _ = schema.DecodeObject(kv.Key, kv.Value)
		o.config, _ = schema.DecodeOSDConfig(kv.Key, nil)
		all[key.OSD] = o
	}
	for _, kv := range r[1].KVs {
		if key, ok := k.Parse(kv.Key); ok && all[key.OSD] != nil {
			all[key.OSD].config, _ = schema.DecodeOSDConfig(kv.Key, kv.Value)
		}
	}
	for _, kv := range r[2].KVs {
		if key, ok := k.Parse(kv.Key); ok && all[key.OSD] != nil {
			all[key.OSD].up = true
		}
	}
	list := make([]*osdInfo, 0, len(all))
	for _, n := range sortedKeys(all) {
		list = append(list, all[n])
	}
	return list, nil
}

// treeNode is an OSD or what contains some.
type treeNode struct {
	name     string
	level    string
	parent   string
	osd      *osdInfo // nil = not an OSD
	children []*treeNode
	depth    int
}

// treeOf is the placement tree, as a list in its order: OSDs by number, then
// other nodes by name; children after their parent (spec cli.md §2.15).
func treeOf(osds []*osdInfo, placed []schema.PlacedNode) []*treeNode {
	nodes := map[string]*treeNode{}
	parents := map[string]string{}
	for _, p := range placed {
		parents[p.Name] = p.Parent
		if !p.IsOSD {
			nodes[p.Name] = &treeNode{name: p.Name, level: cmp.Or(p.Level, "unknown")}
		}
	}
	for _, o := range osds {
		if o.stats.SizeBytes == 0 {
			continue // a reserved number
		}
		name := strconv.FormatUint(uint64(o.num), 10)
		nodes[name] = &treeNode{name: name, level: schema.LevelOSD, osd: o}
		if _, is := parents[name]; is && parents[name] != "" {
			continue
		}
		if parents[name] = o.stats.Host; o.stats.Host != "" && nodes[o.stats.Host] == nil {
			nodes[o.stats.Host] = &treeNode{name: o.stats.Host, level: "host"}
		}
	}
	var roots []*treeNode
	for _, name := range sortedKeys(nodes) {
		n, parent := nodes[name], nodes[parents[name]]
		if parent == nil || isAncestor(nodes, parents, name, parents[name]) {
			roots = append(roots, n)
			continue
		}
		n.parent = parent.name
		parent.children = append(parent.children, n)
	}
	return walk(nil, roots, 0)
}

// isAncestor tells whether node is above start: then they form a ring.
func isAncestor(nodes map[string]*treeNode, parents map[string]string, node, start string) bool {
	for range len(nodes) {
		if start == node {
			return true
		}
		if nodes[start] == nil {
			return false
		}
		start = parents[start]
	}
	return true
}

func walk(out []*treeNode, nodes []*treeNode, depth int) []*treeNode {
	slices.SortFunc(nodes, func(a, b *treeNode) int {
		switch {
		case a.osd != nil && b.osd != nil:
			return cmp.Compare(a.osd.num, b.osd.num)
		case a.osd != nil:
			return -1
		case b.osd != nil:
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	for _, n := range nodes {
		n.depth = depth
		out = walk(append(out, n), n.children, depth+1)
	}
	return out
}

// pathTo is the names of all nodes above, from the root.
func pathTo(tree []*treeNode, n *treeNode) string {
	byName := map[string]*treeNode{}
	for _, t := range tree {
		byName[t.name] = t
	}
	var names []string
	for p := byName[n.parent]; p != nil; p = byName[p.parent] {
		names = append(names, p.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

func (r *run) osdTree() (result, error) { return r.listOSDs(true) }
func (r *run) osds() (result, error)    { return r.listOSDs(false) }

func (r *run) listOSDs(asTree bool) (result, error) {
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	osds, err := r.conn.osds()
	if err != nil {
		return result{}, err
	}
	tree := treeOf(osds, s.nodes)
	t := &table{}
	if asTree {
		t.add(column{key: "type", title: "TYPE"}, column{key: "name", title: "NAME"})
	} else {
		t.add(column{key: "name", title: "OSD"}, column{key: "parent", title: "PARENT"})
	}
	t.add(column{key: "up", title: "UP"}, column{key: "size", title: "SIZE"}, column{key: "used", title: "USED%"},
		column{key: "tags", title: "TAGS"}, column{key: "weight", title: "WEIGHT"}, column{key: "block", title: "BLOCK"},
		column{key: "bitmap", title: "BITMAP"}, column{key: "commit", title: "IMM"}, column{key: "noout", title: "NOOUT"})
	if r.flag("long") {
		t.add(ioColumns("DEL", false)...)
	}
	var data []any
	for _, n := range tree {
		data = append(data, n.json())
		if n.osd == nil && !asTree {
			continue
		}
		row := map[string]string{"type": strings.Repeat("  ", n.depth) + n.level, "name": n.name, "parent": pathTo(tree, n)}
		if n.osd != nil {
			n.osd.cells(row)
		}
		t.rows = append(t.rows, row)
	}
	if data == nil {
		data = []any{}
	}
	return result{text: t.text(r.color), data: data}, nil
}

// json is one element of the list.
func (n *treeNode) json() object {
	if n.osd == nil {
		return object{"type": n.level, "name": n.name, "parent": n.parent}
	}
	s, c := &n.osd.stats, &n.osd.config
	o := object{"type": "osd", "name": n.osd.num, "parent": n.parent, "up": upWord(n.osd.up), "size": s.SizeBytes, "free": s.FreeBytes,
		"reweight": c.Reweight, "noout": c.NoOut, "tags": orEmpty(c.Tags), "block": s.BlockBytes, "bitmap": s.GranularityBytes,
		"commit": cmp.Or(s.ImmediateCommit, "none"), "op_stats": n.osd.raw.Get("op_stats")}
	if s.SlowOpsPrimary > 0 {
		o["slow_ops_primary"] = s.SlowOpsPrimary
	}
	if s.SlowOpsSecondary > 0 {
		o["slow_ops_secondary"] = s.SlowOpsSecondary
	}
	return o
}

func (o *osdInfo) cells(row map[string]string) {
	s, c := &o.stats, &o.config
	used := 0.0
	if s.SizeBytes > 0 {
		used = 100 - 100*float64(s.FreeBytes)/float64(s.SizeBytes)
	}
	row["up"], row["size"], row["used"] = upWord(o.up), shortSize(s.SizeBytes), fraction(used)+" %"
	row["tags"], row["weight"] = strings.Join(c.Tags, ","), fraction(c.Reweight)
	row["block"], row["bitmap"] = shortSize(uint64(s.BlockBytes)), shortSize(uint64(s.GranularityBytes))
	row["commit"], row["noout"] = cmp.Or(s.ImmediateCommit, "none"), "-"
	if c.NoOut {
		row["noout"] = "noout"
	}
	for name, op := range map[string]string{"read": "primary_read", "write": "primary_write", "delete": "primary_delete"} {
		ioCells(row, name, s.Ops[op])
	}
}

// ioColumns are rates and latencies; del is the title for deletions.
func ioColumns(del string, queue bool) []column {
	var list []column
	for _, op := range [][2]string{{"read", "READ"}, {"write", "WRITE"}, {"delete", del}} {
		if op[1] == "" {
			continue
		}
		list = append(list, column{key: op[0] + "_bw", title: op[1]}, column{key: op[0] + "_iops", title: "IOPS"})
		if queue {
			list = append(list, column{key: op[0] + "_queue", title: "QUEUE"})
		}
		list = append(list, column{key: op[0] + "_lat", title: "LAT"})
	}
	return list
}

func ioCells(row map[string]string, name string, c schema.Counters) {
	row[name+"_bw"] = humanSize(c.BPS) + "/s"
	row[name+"_iops"] = strconv.FormatUint(c.IOPS, 10)
	row[name+"_queue"] = fraction(queueOf(c))
	row[name+"_lat"] = latency(c.LatUsec)
}

// queueOf is how many operations are executed at a time.
func queueOf(c schema.Counters) float64 { return float64(c.IOPS) * float64(c.LatUsec) / 1e6 }

func upWord(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
