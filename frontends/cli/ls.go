package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// imageInfo is one image, snapshot, or inode that only has data.
type imageInfo struct {
	id    meta.Inode
	inode *schema.SeenInode // nil = not configured
	stats *schema.InodeStats
	used  uint64 // bytes of image data
}

func (r *run) ls() (result, error) {
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	var pool *schema.Pool
	if r.given("pool") {
		if pool, err = s.wantPool(r.text("pool")); err != nil {
			return result{}, err
		}
	}
	list, err := r.images(s, pool)
	if err != nil {
		return result{}, err
	}
	byNumber := pool != nil && fmt.Sprint(pool.ID) == r.text("pool")
	objects := map[*imageInfo]object{}
	var kept []*imageInfo
	for _, i := range list {
		if selected(r.words, r.flag("exact"), i.name()) {
			objects[i] = i.json(s)
			kept = append(kept, i)
		}
	}
	field := cmp.Or(r.text("sort"), "name")
	sortBy(kept, field, r.flag("reverse"), []string{"name", "pool_name"}, func(i *imageInfo) object { return objects[i] })
	if n := r.number("count"); n > 0 && uint64(len(kept)) > n {
		kept = kept[:n]
	}
	data := []any{}
	for _, i := range kept {
		data = append(data, objects[i])
	}
	t := &table{}
	t.add(column{key: "name", title: "NAME"})
	if pool == nil || byNumber {
		t.add(column{key: "pool", title: "POOL"})
	}
	t.add(column{key: "size", title: "SIZE"})
	if r.flag("long") {
		t.add(column{key: "used", title: "USED"})
		del := ""
		if r.flag("del") {
			del = "DEL"
		}
		t.add(ioColumns(del, true)...)
	}
	t.add(column{key: "flags", title: "FLAGS", right: true}, column{key: "parent", title: "PARENT"})
	branches := map[*imageInfo]string{}
	if r.flag("tree") {
		kept, branches = imageTree(kept)
	}
	for _, i := range kept {
		row := i.cells(s)
		row["name"] = branches[i] + row["name"]
		t.rows = append(t.rows, row)
	}
	return result{text: t.text(r.color), data: data}, nil
}

// images are all inodes, ascending, with statistics if they are wanted.
func (r *run) images(s *state, pool *schema.Pool) ([]*imageInfo, error) {
	byID := map[meta.Inode]*imageInfo{}
	for _, id := range s.order {
		if pool == nil || id.Pool() == pool.ID {
			byID[id] = &imageInfo{id: id, inode: s.inodes[id]}
		}
	}
	if r.flag("long") {
		k := r.conn.keys
		got, _, err := r.conn.read(k.Kind(schema.KindInodeStats).Get(), k.Kind(schema.KindPoolStats).Get())
		if err != nil {
			return nil, err
		}
		pools := map[meta.PoolID]schema.PoolStats{}
		for _, kv := range got[1].KVs {
			if key, ok := k.Parse(kv.Key); ok {
				pools[key.Pool], _ = schema.DecodePoolStats(kv.Key, kv.Value)
			}
		}
		for _, kv := range got[0].KVs {
			key, ok := k.Parse(kv.Key)
			if !ok || pool != nil && key.Pool != pool.ID {
				continue
			}
			id := key.Inode()
			if byID[id] == nil {
				byID[id] = &imageInfo{id: id}
			}
			stats, _ := schema.DecodeInodeStats(kv.Key, kv.Value)
			byID[id].stats = &stats
			byID[id].used = usedBytes(stats.RawUsedBytes, pools[key.Pool], s.pools[key.Pool])
		}
	}
	list := make([]*imageInfo, 0, len(byID))
	for _, id := range sortedKeys(byID) {
		list = append(list, byID[id])
	}
	return list, nil
}

// usedBytes is how much image data raw space holds.
func usedBytes(raw uint64, stats schema.PoolStats, pool *schema.Pool) uint64 {
	if pool == nil || stats.PGRealSize == 0 {
		return raw
	}
	return uint64(float64(raw) / stats.PGRealSize * float64(pool.DataChunks()))
}

func (i *imageInfo) name() string {
	if i.inode == nil {
		return fmt.Sprintf("Pool:%d,ID:%d", i.id.Pool(), i.id.Number())
	}
	return i.inode.Name
}

func (i *imageInfo) json(s *state) object {
	o := object{"name": i.name(), "size": uint64(0), "used_size": i.used, "readonly": false, "pool_id": i.id.Pool(), "pool_name": s.poolName(i.id.Pool()),
		"inode_num": i.id.Number(), "inode_id": i.id}
	if n := i.inode; n != nil {
		o["size"], o["readonly"], o["deleted"] = n.Size, n.ReadOnly, n.Deleted
		if n.Meta != nil {
			o["meta"] = n.Meta
		}
		if p := n.Parent; p != 0 {
			o["parent_name"], o["parent_pool_id"], o["parent_inode_num"], o["parent_inode_id"] = s.nameOf(p), p.Pool(), p.Number(), p
		}
	}
	if i.stats != nil {
		for name, c := range map[string]schema.Counters{"read": i.stats.Read, "write": i.stats.Write, "delete": i.stats.Delete} {
			o[name+"_bps"], o[name+"_iops"] = strconv.FormatUint(c.BPS, 10), strconv.FormatUint(c.IOPS, 10)
			o[name+"_lat"], o[name+"_queue"] = strconv.FormatUint(c.LatUsec, 10), queueOf(c)
		}
	}
	return o
}

func (i *imageInfo) cells(s *state) map[string]string {
	row := map[string]string{"name": i.name(), "pool": s.poolName(i.id.Pool()), "size": humanSize(uint64(0)), "used": humanSize(i.used), "flags": "-"}
	if n := i.inode; n != nil {
		row["size"], row["parent"] = humanSize(n.Size), s.nameOf(n.Parent)
		switch {
		case n.Deleted:
			row["flags"] = "DEL"
		case n.ReadOnly:
			row["flags"] = "RO"
		}
	}
	stats := i.stats
	if stats == nil {
		stats = &schema.InodeStats{}
	}
	ioCells(row, "read", stats.Read)
	ioCells(row, "write", stats.Write)
	ioCells(row, "delete", stats.Delete)
	return row
}

// imageTree puts children below their parents, which keep their order. What has
// no parent in the list is a root.
func imageTree(list []*imageInfo) (ordered []*imageInfo, branches map[*imageInfo]string) {
	byID := map[meta.Inode]bool{}
	for _, i := range list {
		byID[i.id] = true
	}
	children := map[meta.Inode][]*imageInfo{}
	for _, i := range list {
		parent := meta.Inode(0)
		if i.inode != nil && byID[i.inode.Parent] {
			parent = i.inode.Parent
		}
		children[parent] = append(children[parent], i)
	}
	branches = map[*imageInfo]string{}
	var walk func(nodes []*imageInfo, indent string, root bool)
	walk = func(nodes []*imageInfo, indent string, root bool) {
		for n, i := range nodes {
			branch, below := "├─ ", "│  "
			if n == len(nodes)-1 {
				branch, below = "└─ ", "   "
			}
			if root {
				branch, below = "", ""
			}
			ordered = append(ordered, i)
			branches[i] = indent + branch
			walk(children[i.id], indent+below, false)
		}
	}
	walk(children[0], "", true)
	for _, i := range list { // those in a ring of parents
		if !slices.Contains(ordered, i) {
			ordered = append(ordered, i)
		}
	}
	return ordered, branches
}
