package placement

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// OSD is what etcd says about one OSD.
type OSD struct {
	Num    meta.OSDNum
	Stats  *schema.OSDStats // osd/stats
	Config schema.OSDConfig // config/osd; a missing key is decoded too (reweight 1)
	// HasState: the key osd/state exists. Its content does not matter here.
	HasState bool
}

// Input is everything that the tree depends on.
type Input struct {
	Levels    Levels
	OSDs      []OSD // in any order, each once
	Nodes     []schema.PlacedNode
	NowMillis uint64        // unix time
	OutTime   time.Duration // osd_out_time
}

// Inventory holds the OSDs that are in, and the nodes above them, before any
// filter of a pool (monitor.md 3.1).
type Inventory struct {
	levels Levels
	items  map[string]*item
	order  []*item // OSDs by number, then nodes by name
}

// item is an OSD or a node.
type item struct {
	id     string
	level  string
	parent string          // "" = none
	raw    json.RawMessage // parent as configured; nil = not given
	osd    *leaf           // nil = a node
}

// leaf is what only OSDs have.
type leaf struct {
	num    meta.OSDNum
	weight float64 // TB (2^40 bytes)
	up     bool
	tags   []string // nil = not configured, which is not the same as none
	stats  *schema.OSDStats
}

// In tells whether an OSD takes part in placement.
func (o *OSD) in(in *Input) bool {
	if o.Stats == nil || o.Stats.SizeBytes == 0 || !(o.Config.Reweight > 0) {
		return false
	}
	out := uint64(in.OutTime.Milliseconds())
	return o.HasState || o.Config.NoOut || o.Stats.TimeMillis+out >= in.NowMillis
}

// weightTB is computed in this order of operations in the reference too, so
// that rounding is the same.
func weightTB(reweight float64, sizeBytes uint64) float64 {
	return reweight * float64(sizeBytes) / 1024 / 1024 / 1024 / 1024
}

// Build applies monitor.md 3.1.
func Build(in *Input) *Inventory {
	v := &Inventory{levels: in.Levels, items: map[string]*item{}}
	for i := range in.OSDs {
		if o := &in.OSDs[i]; o.in(in) {
			v.addOSD(o)
		}
	}
	hosts := map[string]bool{}
	for _, it := range v.items {
		if it.parent != "" && v.items[it.parent] == nil {
			hosts[it.parent] = true
		}
	}
	for host := range hosts {
		v.items[host] = &item{id: host, level: LevelHost, raw: json.RawMessage("null")}
	}
	last := map[string]*schema.PlacedNode{}
	for i := range in.Nodes {
		last[in.Nodes[i].Name] = &in.Nodes[i]
	}
	for _, n := range last {
		v.place(n)
	}
	v.order = slices.SortedFunc(maps.Values(v.items), (*item).compare)
	return v
}

func (v *Inventory) addOSD(o *OSD) {
	it := &item{
		id:     strconv.FormatUint(uint64(o.Num), 10),
		level:  schema.LevelOSD,
		parent: o.Stats.Host,
		osd: &leaf{
			num:    o.Num,
			weight: weightTB(o.Config.Reweight, o.Stats.SizeBytes),
			up:     o.HasState,
			tags:   tagsOf(o.Config.Config.Get("tags")),
			stats:  o.Stats,
		},
	}
	if it.parent != "" {
		it.raw = quoteText(it.parent)
	}
	v.items[it.id] = it
}

// place applies one entry of config/node_placement. An entry without a parent
// detaches an OSD from its host.
func (v *Inventory) place(n *schema.PlacedNode) {
	it := v.items[n.Name]
	switch {
	case n.IsOSD && (it == nil || it.osd == nil):
		return // not in: its entry counts for nothing
	case !n.IsOSD && !v.levels.Known(n.Level):
		return
	case it == nil:
		it = &item{id: n.Name}
		v.items[n.Name] = it
	}
	if !n.IsOSD {
		it.level = n.Level
	}
	it.parent, it.raw = n.Parent, n.ParentRaw
}

// compare puts OSDs first, by number, then nodes by name.
func (it *item) compare(other *item) int {
	switch {
	case it.osd != nil && other.osd != nil:
		return cmp.Compare(it.osd.num, other.osd.num)
	case it.osd != nil:
		return -1
	case other.osd != nil:
		return 1
	}
	return cmp.Compare(it.id, other.id)
}

// up returns the parent if the link counts: it exists and is of a higher
// level, so that there are no loops. nil = the item hangs at the root.
func (v *Inventory) up(it *item) *item {
	parent := v.items[it.parent]
	if it.parent == "" || parent == nil || !v.levels.above(parent.level, it.level) {
		return nil
	}
	return parent
}

// OSDs are the numbers of the OSDs that are in, ascending.
func (v *Inventory) OSDs() []meta.OSDNum {
	var list []meta.OSDNum
	for _, it := range v.order {
		if it.osd != nil {
			list = append(list, it.osd.num)
		}
	}
	return list
}

// tagsOf reads tags of an OSD (monitor.md 3.6): a string is one tag, a list
// its elements. nil = none configured. Compat: an empty list is none too, but
// the hash shows it.
func tagsOf(raw json.RawMessage) []string {
	if len(raw) == 0 {
		return nil
	}
	v, err := parseJSON(raw)
	if err != nil {
		return nil // cannot happen: it was read from a valid object
	}
	if list, ok := v.([]any); ok {
		tags := make([]string, 0, len(list))
		for _, item := range list {
			tags = append(tags, textOf(item))
		}
		return tags
	}
	if !truthy(v) {
		return nil
	}
	return []string{textOf(v)}
}
