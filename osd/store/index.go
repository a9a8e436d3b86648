package store

import (
	"encoding/binary"
	"math/bits"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
)

// index finds the newest record of an object. Each PG of a sharded pool has a
// hash table of its own, so that a listing visits only the objects of its PG;
// an unsharded pool is one table.
//
// A table is an extendible hash: a directory of segments of 1024 slots with
// linear probing inside the segment. Growing splits one segment, so an insert
// takes bounded time. A slot of 8 bytes, 0 = empty:
//
//	63..62  61..32                                31..0
//	flags | hash: 20 bits directory, 10 bits slot | ref of the newest record
//
// A changing pool (see reshard.go) has objects in two layouts.
type index struct {
	recs  *records
	pools []*poolIndex // few: searched linearly, the last one used first
	seed  uint64

	regions   [][]segment
	perRegion uint32   // segments of a region
	depth     []uint8  // of each segment: directory bits that its objects share
	count     []uint16 // of each segment: slots in use
	idle      []uint32 // free segments
	objects   uint64
}

const (
	segmentBits  = 10
	segmentSlots = 1 << segmentBits
	segmentFull  = segmentSlots * 7 / 8
	hashBits     = 30
	hashMask     = 1<<hashBits - 1
	// slotQueued: the object is in the queue of objects to compact (or, while
	// starting, in the list of objects to check).
	slotQueued = 1 << 63
)

type segment [segmentSlots]uint64

// shards is one layout of a pool. An unsharded pool has one table.
type shards struct {
	pgCount       uint32 // 0 = unsharded
	pgStripeBytes uint64
	tables        []table
}

// table is the directory of an extendible hash; no segments yet: dir is empty.
type table struct {
	dir   []uint32
	depth uint8
}

type poolIndex struct {
	pool meta.PoolID
	cur  shards
	old  *shards // objects not moved to cur yet; nil = all moved
	// Progress of moving: table and directory position in old.
	oldTable, oldSegment int
	moved                int // objects moved so far
}

func newIndex(recs *records, seed uint64, areaBytes int64) *index {
	return &index{recs: recs, seed: seed, perRegion: regionUnits(areaBytes, segmentSlots*8)}
}

func (x *index) segment(n uint32) *segment { return &x.regions[n/x.perRegion][n%x.perRegion] }

// hash spreads object ids over 30 bits, differently in each process.
func (x *index) hash(id meta.ObjectID) uint32 {
	hi, lo := bits.Mul64(uint64(id.Inode)^x.seed^0x9e3779b97f4a7c15, id.Stripe^0xe7037ed1a0b428db)
	h := hi ^ lo ^ uint64(id.Inode)*0xff51afd7ed558ccd ^ id.Stripe*0xc4ceb9fe1a85ec53
	h ^= h >> 32
	h *= 0x94d049bb133111eb
	return uint32(h>>33) & hashMask
}

func (x *index) pool(p meta.PoolID) *poolIndex {
	for i, pi := range x.pools {
		if pi.pool == p {
			if i > 0 {
				x.pools[i], x.pools[i-1] = x.pools[i-1], x.pools[i]
			}
			return pi
		}
	}
	return nil
}

func (x *index) makePool(p meta.PoolID) *poolIndex {
	pi := x.pool(p)
	if pi == nil {
		pi = &poolIndex{pool: p, cur: shards{tables: make([]table, 1)}}
		x.pools = append(x.pools, pi)
	}
	return pi
}

// table of the object in a layout.
func (l *shards) table(id meta.ObjectID) *table {
	if l.pgCount == 0 {
		return &l.tables[0]
	}
	return &l.tables[meta.PGOf(id.Stripe, l.pgStripeBytes, l.pgCount)-1]
}

// find returns the slot of an object, or nil. The slot is valid until the next
// insert or remove.
func (x *index) find(id meta.ObjectID) *uint64 {
	pi := x.pool(id.Inode.Pool())
	if pi == nil {
		return nil
	}
	h := x.hash(id)
	if s := x.lookup(pi.cur.table(id), id, h); s != nil || pi.old == nil {
		return s
	}
	return x.lookup(pi.old.table(id), id, h)
}

// head is the newest record of an object, 0 = none.
func (x *index) head(id meta.ObjectID) ref {
	if s := x.find(id); s != nil {
		return slotRef(*s)
	}
	return 0
}

func slotRef(slot uint64) ref { return ref(uint32(slot)) }

func slotHash(slot uint64) uint32 { return uint32(slot>>32) & hashMask }

func makeSlot(h uint32, r ref) uint64 { return uint64(h)<<32 | uint64(r) }

func (x *index) lookup(t *table, id meta.ObjectID, h uint32) *uint64 {
	if len(t.dir) == 0 {
		return nil
	}
	s := x.segment(t.dir[h>>segmentBits&(1<<t.depth-1)])
	for i := h; ; i++ {
		v := &s[i%segmentSlots]
		if *v == 0 {
			return nil
		}
		if slotHash(*v) == h && x.objectOf(slotRef(*v)) == id {
			return v
		}
	}
}

// peek reads the slot where the search for an object begins.
func (x *index) peek(id meta.ObjectID) uint64 {
	pi := x.pool(id.Inode.Pool())
	if pi == nil {
		return 0
	}
	t := pi.cur.table(id)
	if len(t.dir) == 0 {
		return 0
	}
	h := x.hash(id)
	return x.segment(t.dir[h>>segmentBits&(1<<t.depth-1)])[h%segmentSlots]
}

func (x *index) objectOf(r ref) meta.ObjectID {
	b := x.recs.bytes(r)[recHeader:]
	return meta.ObjectID{Inode: meta.Inode(binary.LittleEndian.Uint64(b[16:])), Stripe: binary.LittleEndian.Uint64(b[24:])}
}

// insert adds an object that is not there.
func (x *index) insert(id meta.ObjectID, r ref) error {
	pi := x.makePool(id.Inode.Pool())
	if err := x.add(pi.cur.table(id), makeSlot(x.hash(id), r)); err != nil {
		return err
	}
	x.objects++
	return nil
}

// add puts a slot into a table, splitting segments as needed.
func (x *index) add(t *table, v uint64) error {
	if len(t.dir) == 0 {
		n, err := x.takeSegment(0)
		if err != nil {
			return err
		}
		t.dir = append(t.dir, n)
	}
	h := slotHash(v)
	for {
		n := t.dir[h>>segmentBits&(1<<t.depth-1)]
		if x.count[n] < segmentFull {
			x.place(n, v)
			return nil
		}
		if err := x.split(t, n, h); err != nil {
			return err
		}
	}
}

// place puts a slot into a segment that has room.
func (x *index) place(n uint32, v uint64) {
	s := x.segment(n)
	i := slotHash(v)
	for s[i%segmentSlots] != 0 {
		i++
	}
	s[i%segmentSlots] = v
	x.count[n]++
}

// split divides a full segment in two by the next bit of the hash.
func (x *index) split(t *table, n, h uint32) error {
	d := x.depth[n]
	invariant.Must(d < hashBits-segmentBits, "store: hash directory is too deep")
	twin, err := x.takeSegment(d + 1)
	if err != nil {
		return err
	}
	if d == t.depth {
		t.dir = append(t.dir, t.dir...)
		t.depth++
	}
	x.depth[n] = d + 1
	low := h >> segmentBits & (1<<d - 1)
	for i := low | 1<<d; i < uint32(len(t.dir)); i += 1 << (d + 1) {
		t.dir[i] = twin
	}
	s := x.segment(n)
	old := *s
	clear(s[:])
	x.count[n] = 0
	for _, v := range old {
		switch {
		case v == 0:
		case slotHash(v)>>(segmentBits+d)&1 != 0:
			x.place(twin, v)
		default:
			x.place(n, v)
		}
	}
	return nil
}

// takeSegment returns an empty segment.
func (x *index) takeSegment(depth uint8) (uint32, error) {
	if k := len(x.idle); k > 0 {
		n := x.idle[k-1]
		x.idle = x.idle[:k-1]
		x.depth[n] = depth
		return n, nil
	}
	n := uint32(len(x.depth))
	if int(n/x.perRegion) == len(x.regions) {
		region, err := pinned.Make[segment](int(x.perRegion))
		if err != nil {
			return 0, err
		}
		x.regions = append(x.regions, region)
	}
	x.depth = append(x.depth, depth)
	x.count = append(x.count, 0)
	return n, nil
}

// remove takes an object out. Later slots of the same probe sequence move up.
func (x *index) remove(id meta.ObjectID) {
	pi := x.pool(id.Inode.Pool())
	h := x.hash(id)
	t := pi.cur.table(id)
	v := x.lookup(t, id, h)
	if v == nil && pi.old != nil {
		t = pi.old.table(id)
		v = x.lookup(t, id, h)
	}
	invariant.Must(v != nil, "store: an object to remove is not in the index")
	n := t.dir[h>>segmentBits&(1<<t.depth-1)]
	s := x.segment(n)
	hole := h
	for &s[hole%segmentSlots] != v {
		hole++
	}
	hole %= segmentSlots
	for i := (hole + 1) % segmentSlots; s[i] != 0; i = (i + 1) % segmentSlots {
		home := slotHash(s[i]) % segmentSlots
		if (i-home)%segmentSlots >= (i-hole)%segmentSlots {
			s[hole] = s[i]
			hole = i
		}
	}
	s[hole] = 0
	x.count[n]--
	x.objects--
}

// each calls f for the head of every object of a table until it returns false.
// f must not change the index.
func (x *index) each(t *table, f func(slot uint64) bool) bool {
	for i, n := range t.dir {
		if uint32(i)>>x.depth[n] != 0 {
			continue // seen at a lower position
		}
		for _, v := range x.segment(n) {
			if v != 0 && !f(v) {
				return false
			}
		}
	}
	return true
}

// eachPool calls f for all objects of a pool.
func (x *index) eachPool(pi *poolIndex, f func(slot uint64) bool) bool {
	for i := range pi.cur.tables {
		if !x.each(&pi.cur.tables[i], f) {
			return false
		}
	}
	if pi.old != nil {
		for i := range pi.old.tables {
			if !x.each(&pi.old.tables[i], f) {
				return false
			}
		}
	}
	return true
}

// eachObject calls f for all objects.
func (x *index) eachObject(f func(slot uint64) bool) bool {
	for _, pi := range x.pools {
		if !x.eachPool(pi, f) {
			return false
		}
	}
	return true
}

// drop frees the segments of a table.
func (x *index) drop(t *table) {
	for i, n := range t.dir {
		if uint32(i)>>x.depth[n] != 0 {
			continue
		}
		clear(x.segment(n)[:])
		x.count[n] = 0
		x.idle = append(x.idle, n)
	}
	*t = table{}
}

// memory is the number of bytes of segments in use.
func (x *index) memory() int64 {
	return int64(len(x.depth)-len(x.idle)) * segmentSlots * 8
}

func (x *index) free() {
	for _, r := range x.regions {
		pinned.Free(r)
	}
	x.regions = nil
}
