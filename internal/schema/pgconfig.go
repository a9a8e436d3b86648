package schema

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"

	"vitastor/internal/meta"
)

// PGTarget is what pg/config wants of one placement group (etcd.md 2.7.1).
type PGTarget struct {
	Num meta.PGNum
	// OSDSet has an OSD per role, 0 = none. Its length must be pg_size.
	OSDSet  []meta.OSDNum
	Primary meta.OSDNum // 0 = nobody
	Pause   bool
	// Broken: a field could not be read. Such a PG must not run.
	Broken bool
	extra  Object
}

// Paused tells whether the PG must not run now: by order, because its set does
// not fit the pool (that is how a change of pg_size is made safe), or because
// its entry cannot be read.
func (t *PGTarget) Paused(pgSize int) bool {
	return t.Pause || t.Broken || len(t.OSDSet) != pgSize
}

// TakenBy tells whether OSD me has to run the PG (the part of the take rule of
// etcd.md 2.7.1 that etcd decides). holder is the primary in pg/state, 0 = none.
func (t *PGTarget) TakenBy(me, holder meta.OSDNum, pgSize int) bool {
	return me != 0 && t.Primary == me && !t.Paused(pgSize) && (holder == 0 || holder == me)
}

// Peers are all OSDs that may hold data of the PG: sorted, without 0.
func (t *PGTarget) Peers(h *PGHistory) []meta.OSDNum {
	peers := slices.Clone(t.OSDSet)
	if h != nil {
		peers = append(peers, h.AllPeers...)
		for _, set := range h.OSDSets {
			peers = append(peers, set...)
		}
	}
	return NormalSet(peers)
}

// NormalSet sorts a set of OSDs in place, without zeroes and duplicates: the
// form in which OSDs compare and store historical sets.
func NormalSet(set []meta.OSDNum) []meta.OSDNum {
	slices.Sort(set)
	set = slices.Compact(set)
	if len(set) > 0 && set[0] == 0 {
		set = set[1:]
	}
	return set
}

// PoolPGs are the placement groups of one pool, by number.
type PoolPGs struct {
	Pool  meta.PoolID
	PGs   []PGTarget // ascending; not necessarily 1..N
	extra Object     // members that are not PG numbers
}

// Count is the number of PGs by which objects are mapped: N when the PGs are
// exactly 1..N, otherwise 0, because then the pool counts as having none.
func (p *PoolPGs) Count() uint32 {
	if p == nil || p.extra.Len() > 0 || p.MaxNum() != meta.PGNum(len(p.PGs)) {
		return 0
	}
	return uint32(len(p.PGs))
}

// MaxNum is the highest PG number that exists, 0 = none.
func (p *PoolPGs) MaxNum() meta.PGNum {
	if p == nil || len(p.PGs) == 0 {
		return 0
	}
	return p.PGs[len(p.PGs)-1].Num
}

// PG returns the entry of a PG, or nil: it is not configured, its primary must
// stop it. In a pool whose Count is 0 that goes for all PGs.
func (p *PoolPGs) PG(num meta.PGNum) *PGTarget {
	if num == 0 || uint64(num) > uint64(p.Count()) {
		return nil
	}
	return &p.PGs[num-1]
}

// PGConfig is pg/config, config/pgs or history/last_clean_pgs.
type PGConfig struct {
	Pools []PoolPGs // ascending by pool
	// Hash is over the input of the placement. A reference monitor that finds
	// none reshuffles everything, so it is never left out when writing.
	Hash         string
	Backfillfull []meta.PoolID // recovery of these pools is suspended
	extra        Object
	itemsExtra   Object
}

// Pool returns the PGs of a pool, or nil (whose methods work).
func (c *PGConfig) Pool(pool meta.PoolID) *PoolPGs {
	i, ok := slices.BinarySearchFunc(c.Pools, pool, comparePool)
	if !ok {
		return nil
	}
	return &c.Pools[i]
}

func comparePool(p PoolPGs, pool meta.PoolID) int { return cmp.Compare(p.Pool, pool) }

// SetPool replaces or adds the PGs of a pool. Fields of PGs that we do not know
// are kept by PGs with the same number; members of the pool that are no PG
// numbers are dropped, because with them the pool would have no PGs.
func (c *PGConfig) SetPool(pool meta.PoolID, pgs []PGTarget) {
	i, ok := slices.BinarySearchFunc(c.Pools, pool, comparePool)
	if !ok {
		c.Pools = slices.Insert(c.Pools, i, PoolPGs{Pool: pool})
	}
	old := c.Pools[i].PGs
	pgs = slices.Clone(pgs)
	slices.SortFunc(pgs, comparePG)
	for n := range pgs {
		if at, ok := slices.BinarySearchFunc(old, pgs[n], comparePG); ok {
			pgs[n].extra = old[at].extra
		}
	}
	c.Pools[i].PGs, c.Pools[i].extra = pgs, Object{}
}

func comparePG(a, b PGTarget) int { return cmp.Compare(a.Num, b.Num) }

// DeletePool removes a pool and its place in Backfillfull.
func (c *PGConfig) DeletePool(pool meta.PoolID) {
	c.Pools = slices.DeleteFunc(c.Pools, func(p PoolPGs) bool { return p.Pool == pool })
	c.Backfillfull = slices.DeleteFunc(c.Backfillfull, func(p meta.PoolID) bool { return p == pool })
}

// RemoveOSDs replaces the OSDs by 0 in all sets, like rm-osd does, and tells
// whether anything changed. Primaries are left to the monitor, except that a
// removed OSD is nobody's primary.
func (c *PGConfig) RemoveOSDs(osds []meta.OSDNum) (changed bool) {
	for p := range c.Pools {
		for i := range c.Pools[p].PGs {
			t := &c.Pools[p].PGs[i]
			for role, o := range t.OSDSet {
				if o != 0 && slices.Contains(osds, o) {
					t.OSDSet[role], changed = 0, true
				}
			}
			if t.Primary != 0 && slices.Contains(osds, t.Primary) {
				t.Primary, changed = 0, true
			}
		}
	}
	return changed
}

// DecodePGConfig reads pg/config, config/pgs or history/last_clean_pgs. PGs
// with an unreadable field are kept as Broken, so on an error everything that
// is not named in it can be used; a monitor must not write the value back.
func DecodePGConfig(key string, data []byte) (*PGConfig, error) {
	d := open(key, data)
	c := &PGConfig{}
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "items":
			d.pgItems(c, v)
		case "hash":
			c.Hash = d.str(v)
		case "backfillfull_pools":
			c.Backfillfull = nil
			for _, item := range d.array(v) {
				if pool := d.uint(item, uint64(meta.MaxPoolID)); pool != 0 {
					c.Backfillfull = append(c.Backfillfull, meta.PoolID(pool))
				}
			}
		default:
			c.extra.Set(string(name), compact(v))
		}
	}
	return c, d.err()
}

func (d *decoder) pgItems(c *PGConfig, items value) {
	c.Pools, c.itemsExtra = nil, Object{}
	for name, v := range d.object(items) {
		pool, ok := poolID(d, name)
		if !ok {
			c.itemsExtra.Set(string(name), compact(v))
			continue
		}
		p := PoolPGs{Pool: pool}
		d.poolPGs(&p, v)
		c.Pools = append(c.Pools, p)
	}
	c.Pools = sortLast(c.Pools, func(a, b PoolPGs) int { return cmp.Compare(a.Pool, b.Pool) })
}

// sortLast sorts, and of equal items keeps the last one: that is the one that
// counts when a JSON object has a name twice.
func sortLast[T any](list []T, compare func(a, b T) int) []T {
	strictly := true
	for i := 1; i < len(list) && strictly; i++ {
		strictly = compare(list[i-1], list[i]) < 0
	}
	if strictly {
		return list
	}
	slices.Reverse(list)
	slices.SortStableFunc(list, compare)
	return slices.CompactFunc(list, func(a, b T) bool { return compare(a, b) == 0 })
}

func (d *decoder) poolPGs(p *PoolPGs, v value) {
	var sets []meta.OSDNum // one backing array for many PGs
	for name, v := range d.object(v) {
		t := PGTarget{}
		if !id(d, name, math.MaxUint32, &t.Num) {
			p.extra.Set(string(name), compact(v))
			continue
		}
		if cap(sets)-len(sets) < MaxPGSize {
			sets = make([]meta.OSDNum, 0, 16*MaxPGSize)
		}
		start := len(sets)
		before := d.errorCount()
		sets = d.pgTarget(&t, v, sets)
		t.OSDSet = sets[start:len(sets):len(sets)]
		t.Broken = d.errorCount() != before
		p.PGs = append(p.PGs, t)
	}
	p.PGs = sortLast(p.PGs, comparePG)
}

// pgTarget appends the OSD set to sets.
func (d *decoder) pgTarget(t *PGTarget, v value, sets []meta.OSDNum) []meta.OSDNum {
	start := len(sets)
	for name, v := range d.object(v) {
		switch string(name) {
		case "osd_set":
			sets = d.osds(sets[:start], v)
		case "primary":
			t.Primary = d.osd(v)
		case "pause":
			t.Pause = d.bool(v)
		default:
			t.extra.Set(string(name), compact(v))
		}
	}
	return sets
}

// Encode is the value of pg/config and config/pgs in the monitor's form.
func (c *PGConfig) Encode() []byte {
	w := c.writer()
	if len(c.Backfillfull) > 0 {
		w.name("backfillfull_pools")
		w.open('[')
		for _, p := range c.Backfillfull {
			w.uintString(uint64(p))
		}
		w.close(']')
	}
	w.name("hash")
	w.str(c.Hash)
	c.writeItems(w)
	w.members(&c.extra)
	w.close('}')
	return w.buf
}

// EncodeItems is the value of history/last_clean_pgs: nothing but the items.
func (c *PGConfig) EncodeItems() []byte {
	w := c.writer()
	c.writeItems(w)
	w.close('}')
	return w.buf
}

func (c *PGConfig) writer() *writer {
	const pgBytes = 64 // about what one PG needs
	n := 0
	for _, p := range c.Pools {
		n += len(p.PGs)
	}
	w := &writer{buf: make([]byte, 0, 256+n*pgBytes)}
	w.open('{')
	return w
}

func (c *PGConfig) writeItems(w *writer) {
	w.name("items")
	w.open('{')
	for i := range c.Pools {
		p := &c.Pools[i]
		w.id(uint64(p.Pool))
		w.open('{')
		for j := range p.PGs {
			w.pgTarget(&p.PGs[j])
		}
		w.members(&p.extra)
		w.close('}')
	}
	w.members(&c.itemsExtra)
	w.close('}')
}

func (w *writer) pgTarget(t *PGTarget) {
	w.id(uint64(t.Num))
	w.open('{')
	w.name("osd_set")
	w.osdStrings(t.OSDSet)
	if t.Pause {
		w.name("pause")
		w.raw(json.RawMessage("true"))
	}
	w.name("primary")
	w.osdString(t.Primary)
	w.members(&t.extra)
	w.close('}')
}
