package schema

import (
	"encoding/json"
	"math"

	"vitastor/internal/meta"
)

// PoolDefaults are the values of config/global that pools without an own value
// use (etcd.md 2.1).
type PoolDefaults struct {
	BlockBytes       uint32
	GranularityBytes uint32
	Commit           meta.CommitMode
}

// Built-in defaults of a pool.
const (
	DefaultBlockBytes         = 131072
	DefaultGranularityBytes   = 4096
	DefaultMaxOSDCombinations = 10000
	DefaultFailureDomain      = "host"
)

// BuiltinPoolDefaults are used when config/global says nothing.
func BuiltinPoolDefaults() PoolDefaults {
	return PoolDefaults{DefaultBlockBytes, DefaultGranularityBytes, meta.CommitAll}
}

// GlobalPoolDefaults takes the defaults of pools out of config/global. A value
// that cannot be read is reported, and the built-in one used.
func GlobalPoolDefaults(key string, global *Object) (PoolDefaults, error) {
	p := BuiltinPoolDefaults()
	d := &decoder{key: key}
	size := func(name string, n *uint32) {
		v := value(global.Get(name))
		d.path = []step{{name: []byte(name)}}
		if got, _ := d.bytes(v, math.MaxUint32); got != 0 {
			*n = uint32(got)
		}
	}
	size("block_size", &p.BlockBytes)
	size("bitmap_granularity", &p.GranularityBytes)
	d.path = []step{{name: []byte("immediate_commit")}}
	d.commit(value(global.Get("immediate_commit")), &p.Commit)
	return p, d.err()
}

// commit reads immediate_commit; anything but a string leaves m as it is.
func (d *decoder) commit(v value, m *meta.CommitMode) {
	if v.kind() != kindString {
		return
	}
	mode, err := meta.ParseCommitMode(v.text())
	if err != nil {
		d.fail(v, `"all", "small" or "none"`)
		return
	}
	*m = mode
}

// PlacedNode is one entry of config/node_placement (etcd.md 2.2).
type PlacedNode struct {
	Name   string
	IsOSD  bool        // the name consists of digits: it is OSD number OSD
	OSD    meta.OSDNum // its level is "osd" whatever the entry says
	Level  string      // "" = not given
	Parent string      // "" = none
	// ParentRaw is the parent as stored: the placement hash needs it verbatim.
	// nil = the entry has no such field.
	ParentRaw json.RawMessage
}

// LevelOSD is the level of OSDs in placement trees.
const LevelOSD = "osd"

// DecodeNodePlacement reads config/node_placement, in stored order. Entries
// that are not objects are reported and left out.
func DecodeNodePlacement(key string, data []byte) ([]PlacedNode, error) {
	d := open(key, data)
	var nodes []PlacedNode
	for name, v := range d.object(d.root) {
		if v.kind() != kindObject {
			d.fail(v, "an object")
			continue
		}
		n := PlacedNode{Name: string(name)}
		n.IsOSD = isDigits(n.Name)
		if n.IsOSD && !parseID(n.Name, math.MaxUint64, &n.OSD) {
			d.fail(value(name), "named by an OSD number without leading zeros")
			continue
		}
		d.placedNode(&n, v)
		nodes = append(nodes, n)
	}
	return nodes, d.err()
}

func (d *decoder) placedNode(n *PlacedNode, v value) {
	for field, v := range d.object(v) {
		switch string(field) {
		case "level":
			n.Level = d.str(v)
		case "parent":
			n.ParentRaw = compact(v)
			n.Parent = d.scalar(v)
		}
	}
	if n.IsOSD {
		n.Level = LevelOSD
	}
}

func isDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// OSDConfig is config/osd/<osd> (etcd.md 2.4).
type OSDConfig struct {
	Reweight float64 // 0..1, factor of the size; 0 = take the OSD out
	Tags     []string
	NoOut    bool   // never taken out by osd_out_time
	Config   Object // as stored
}

// DecodeOSDConfig reads config/osd/<osd>. reweight is converted like the
// reference monitor does (ECMAScript); what makes no sense is 1.
func DecodeOSDConfig(key string, data []byte) (OSDConfig, error) {
	d := open(key, data)
	c := OSDConfig{Reweight: 1, Config: d.keep(d.root)}
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "reweight":
			if c.Reweight = jsNumber(v); !(c.Reweight >= 0 && c.Reweight <= 1) {
				c.Reweight = 1
			}
		case "tags":
			c.Tags = d.strs(v)
		case "noout":
			c.NoOut = d.bool(v)
		}
	}
	return c, d.err()
}

// Encode writes the settings into the stored object and returns its text. Like
// the CLI it removes defaults; nil = nothing is left, delete the key.
func (c *OSDConfig) Encode() []byte {
	o := c.Config.Clone()
	if c.Reweight == 1 {
		o.Delete("reweight")
	} else {
		var w writer
		w.float(c.Reweight)
		o.Set("reweight", w.buf)
	}
	if len(c.Tags) == 0 {
		o.Delete("tags")
	} else {
		o.SetStrings("tags", c.Tags)
	}
	if c.NoOut {
		o.Set("noout", json.RawMessage("true"))
	} else {
		o.Delete("noout")
	}
	if o.Len() == 0 {
		return nil
	}
	return o.Encode()
}
