package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"syscall"

	"vitastor/internal/clusterview"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// state is what the client knew about the cluster at one moment. Its values are
// never changed.
type state struct {
	pools   map[meta.PoolID]*schema.Pool
	inodes  map[meta.Inode]*schema.SeenInode
	order   []meta.Inode // ascending
	targets *schema.PGConfig
	pgs     map[meta.PG]schema.PGState
	global  *schema.Object
	nodes   []schema.PlacedNode
	up      map[meta.OSDNum]bool
}

// state connects and takes a copy.
func (r *run) state() (*state, error) {
	c, err := r.connect()
	if err != nil {
		return nil, err
	}
	return c.state()
}

func (c *cluster) state() (*state, error) {
	s := &state{pools: map[meta.PoolID]*schema.Pool{}, inodes: map[meta.Inode]*schema.SeenInode{}, pgs: map[meta.PG]schema.PGState{}, up: map[meta.OSDNum]bool{}}
	err := c.view(func(v *clusterview.View) {
		for _, id := range v.Pools() {
			s.pools[id] = v.Pool(id)
		}
		s.order = slices.Clone(v.Inodes())
		for _, id := range s.order {
			s.inodes[id] = v.Inode(id)
		}
		for _, pg := range v.PGs() {
			s.pgs[pg] = v.PGState(pg)
		}
		for _, n := range v.OSDs() {
			s.up[n] = true
		}
		s.targets, s.global, s.nodes = v.PGConfig(), v.Global(), v.NodePlacement()
	})
	return s, err
}

// freshState is the state with all images that exist now: who removes data must
// not overlook a clone that was just made, nor one that cannot be read.
func (c *cluster) freshState() (*state, error) {
	got, _, err := c.read(c.keys.Kind(schema.KindInodeConfig).Get())
	if err != nil {
		return nil, err
	}
	newest := int64(0)
	for _, kv := range got[0].KVs {
		newest = max(newest, kv.ModRevision)
		key, ok := c.keys.Parse(kv.Key)
		if _, err := schema.DecodeInodeConfig(kv.Key, key.Inode(), kv.Value); !ok || err != nil {
			return nil, fail(syscall.EINVAL, "%v: it may need the data of other layers, correct or delete it before removing any", cmp.Or(err, fmt.Errorf("%s is no key of an inode", kv.Key)))
		}
	}
	if err := c.until(newest); err != nil {
		return nil, err
	}
	return c.state()
}

// poolIDs are ascending.
func (s *state) poolIDs() []meta.PoolID { return sortedKeys(s.pools) }

// pool finds a pool by its id or name.
func (s *state) pool(name string) *schema.Pool {
	if id, err := strconv.ParseUint(name, 10, 16); err == nil && s.pools[meta.PoolID(id)] != nil {
		return s.pools[meta.PoolID(id)]
	}
	for _, id := range s.poolIDs() {
		if s.pools[id].Name == name {
			return s.pools[id]
		}
	}
	return nil
}

// wantPool is pool, or an error.
func (s *state) wantPool(name string) (*schema.Pool, error) {
	p := s.pool(name)
	if p == nil {
		return nil, fail(syscall.ENOENT, "Pool %s does not exist", name)
	}
	return p, nil
}

// poolName is for people, also for pools that do not exist any more.
func (s *state) poolName(id meta.PoolID) string {
	if p := s.pools[id]; p != nil {
		return p.Name
	}
	return "? (ID:" + strconv.Itoa(int(id)) + ")"
}

// image finds an image or snapshot by its full name.
func (s *state) image(name string) *schema.SeenInode {
	for _, id := range s.order {
		if s.inodes[id].Name == name {
			return s.inodes[id]
		}
	}
	return nil
}

// children are the inodes whose parent is the given one, ascending.
func (s *state) children(parent meta.Inode) []*schema.SeenInode {
	var list []*schema.SeenInode
	for _, id := range s.order {
		if s.inodes[id].Parent == parent {
			list = append(list, s.inodes[id])
		}
	}
	return list
}

// nameOf is the name of an inode, "" if there is none.
func (s *state) nameOf(id meta.Inode) string {
	if i := s.inodes[id]; i != nil {
		return i.Name
	}
	return ""
}

// highest inode number that is known in a pool.
func (s *state) highest(pool meta.PoolID) (n uint64) {
	for _, id := range s.order {
		if id.Pool() == pool {
			n = max(n, id.Number())
		}
	}
	return n
}

// globalNumber is a parameter of config/global that only tools look at.
func (s *state) globalNumber(name string, def float64) float64 {
	v := decodeAny(s.global.Get(name))
	if n, ok := asFloat(v); ok {
		return n
	}
	return def
}

// asFloat reads a JSON number or a decimal string.
func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case string:
		n, err := strconv.ParseFloat(v, 64)
		return n, err == nil
	case bool:
		return 0, false
	case nil:
		return 0, false
	}
	n, err := strconv.ParseFloat(encodeJSON(v), 64)
	return n, err == nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
