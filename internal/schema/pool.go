package schema

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/meta"
)

// Limits of a pool (etcd.md 2.3).
const (
	MaxPGSize             = 256
	MinBlockBytes         = 4096
	MaxBlockBytes         = 128 << 20
	MinMaxOSDCombinations = 100
)

// LocalReads says which OSD serves reads of a replicated pool.
type LocalReads uint8

const (
	ReadPrimary LocalReads = iota
	ReadNearest
	ReadRandom
)

var localReadsNames = []string{"primary", "nearest", "random"}

// String is the name in config/pools.
func (l LocalReads) String() string { return localReadsNames[min(l, ReadRandom)] }

// LevelSequence is one level of level_placement: positions with equal items are
// placed in the same node of the level, others in different ones.
type LevelSequence struct {
	Level string
	Items []string // exactly PGSize
}

// Pool is a valid pool (etcd.md 2.3) with defaults filled in.
type Pool struct {
	ID                  meta.PoolID
	Name                string
	Scheme              meta.Scheme
	PGSize              int
	ParityChunks        int // 0 for replicated, 1 for xor
	PGMinSize           int
	PGCount             uint32 // wanted; objects are mapped by the count in pg/config
	FailureDomain       string
	LevelPlacement      []LevelSequence // in stored order
	RawPlacement        string
	LocalReads          LocalReads
	MaxOSDCombinations  int
	BlockBytes          uint32 // of one chunk, a power of two
	GranularityBytes    uint32
	Commit              meta.CommitMode
	PGStripeBytes       uint64 // at least one object
	RootNode            string // "" = the whole tree
	OSDTags             []string
	PrimaryAffinityTags []string
	ScrubInterval       time.Duration // 0 = global
	UsedForApp          string        // "" = images; used_for_fs X reads as "fs:X"
	Config              Object        // as stored
}

// DataChunks is the number of chunks an object's data is cut into.
func (p *Pool) DataChunks() int {
	if p.Scheme == meta.Replicated {
		return 1
	}
	return p.PGSize - p.ParityChunks
}

// ObjectBytes is the amount of image data in one object.
func (p *Pool) ObjectBytes() uint64 { return uint64(p.BlockBytes) * uint64(p.DataChunks()) }

// BitmapBytes is the length of the bitmap of one chunk.
func (p *Pool) BitmapBytes() int { return meta.BitmapBytes(p.BlockBytes, p.GranularityBytes) }

// Pools is config/pools. A wrong pool does not break the others.
type Pools struct {
	Valid map[meta.PoolID]*Pool
	// Invalid has the reason for each pool that OSDs and clients must skip and
	// the monitor must leave as it is.
	Invalid map[meta.PoolID]error
	// Warnings are about values that work but not as somebody may think.
	Warnings []error
	Config   Object // as stored: pool id -> object
}

// DecodePools reads config/pools. The error joins everything in Invalid, and
// members that are no pools; nothing in Valid is affected by it.
func DecodePools(key string, data []byte, defaults PoolDefaults) (*Pools, error) {
	d := open(key, data)
	p := &Pools{
		Valid:   make(map[meta.PoolID]*Pool),
		Invalid: make(map[meta.PoolID]error),
		Config:  d.keep(d.root),
	}
	for name, raw := range p.Config.All() {
		d.path = []step{{name: []byte(name)}}
		pid, ok := poolID(d, []byte(name))
		if !ok {
			continue
		}
		pool, warnings, err := DecodePool(key, pid, raw, defaults)
		p.Warnings = append(p.Warnings, warnings...)
		if err != nil {
			p.Invalid[pid] = err
			d.errs = append(d.errs, err)
			continue
		}
		p.Valid[pid] = pool
	}
	return p, d.err()
}

// DecodePool reads and checks one member of config/pools. On an error the pool
// must not be used.
func DecodePool(key string, pid meta.PoolID, data []byte, defaults PoolDefaults) (*Pool, []error, error) {
	d := open(key, data)
	d.path = []step{{name: strconv.AppendUint(nil, uint64(pid), 10)}}
	r := &poolReader{decoder: d, pool: &Pool{
		ID:                 pid,
		FailureDomain:      DefaultFailureDomain,
		MaxOSDCombinations: DefaultMaxOSDCombinations,
		BlockBytes:         defaults.BlockBytes,
		GranularityBytes:   defaults.GranularityBytes,
		Commit:             defaults.Commit,
		Config:             d.keep(d.root),
	}}
	if d.root.kind() == kindNull {
		d.fail(d.root, "a JSON object")
	}
	for name, v := range d.object(d.root) {
		r.number(string(name), v)
		r.text(string(name), v)
	}
	if d.errorCount() == 0 {
		r.check()
	}
	if err := d.err(); err != nil {
		return nil, r.warnings, err
	}
	return r.pool, r.warnings, nil
}

// poolReader fills a pool from its members.
type poolReader struct {
	*decoder
	pool     *Pool
	warnings []error
	usedFS   bool
	stripe   uint64 // pg_stripe_size as configured
}

func (r *poolReader) number(name string, v value) {
	p := r.pool
	switch name {
	case "pg_size":
		p.PGSize = int(r.uint(v, math.MaxInt32))
	case "parity_chunks":
		p.ParityChunks = int(r.uint(v, math.MaxInt32))
	case "pg_minsize":
		p.PGMinSize = int(r.uint(v, math.MaxInt32))
	case "pg_count":
		p.PGCount = uint32(r.uint(v, math.MaxUint32))
	case "max_osd_combinations":
		if v.kind() != kindNull {
			p.MaxOSDCombinations = int(r.uint(v, math.MaxInt32))
		}
	case "block_size":
		r.size(v, &p.BlockBytes)
	case "bitmap_granularity":
		r.size(v, &p.GranularityBytes)
	case "pg_stripe_size":
		r.stripe = r.sized(v, math.MaxUint64)
	case "scrub_interval":
		r.scrubInterval(v)
	}
}

// size reads a byte count; 0 stands for the default.
func (r *poolReader) size(v value, n *uint32) {
	if got := r.sized(v, math.MaxUint32); got != 0 {
		*n = uint32(got)
	}
}

func (r *poolReader) sized(v value, limit uint64) uint64 {
	n, suffixed := r.bytes(v, limit)
	if suffixed {
		r.warn(v, fmt.Sprintf("%d: reference programs do not understand the suffix here", n))
	}
	return n
}

func (r *poolReader) warn(v value, want string) {
	r.warnings = append(r.warnings, &FieldError{r.key, r.field(), shorten(v), want})
}

// scrubInterval cannot make a pool invalid: other readers ignore what they
// cannot parse, and so do we.
func (r *poolReader) scrubInterval(v value) {
	if v.kind() == kindNull {
		return
	}
	const want = `a string such as "30d" (it is ignored)`
	if v.kind() != kindString {
		r.warn(v, want)
		return
	}
	interval, err := ParseInterval(v.text())
	if err != nil {
		r.warn(v, want)
	}
	r.pool.ScrubInterval = interval
}

func (r *poolReader) text(name string, v value) {
	p := r.pool
	switch name {
	case "name":
		p.Name = r.str(v)
	case "scheme":
		if scheme, err := meta.ParseScheme(r.str(v)); err == nil {
			p.Scheme = scheme
		} else {
			r.fail(v, `"replicated", "xor" or "ec"`)
		}
	case "failure_domain":
		if s := r.str(v); s != "" {
			p.FailureDomain = s
		}
	case "level_placement":
		p.LevelPlacement = r.levelPlacement(v)
	case "raw_placement":
		p.RawPlacement = r.str(v)
	case "local_reads":
		r.localReads(v)
	case "immediate_commit":
		r.commit(v, &p.Commit)
	case "root_node":
		p.RootNode = r.str(v)
	case "osd_tags":
		p.OSDTags = r.strs(v)
	case "primary_affinity_tags":
		p.PrimaryAffinityTags = r.strs(v)
	case "used_for_app":
		if s := r.str(v); !r.usedFS {
			p.UsedForApp = s
		}
	case "used_for_fs":
		if s := r.str(v); s != "" {
			p.UsedForApp, r.usedFS = "fs:"+s, true
		}
	}
}

func (r *poolReader) localReads(v value) {
	s := r.str(v)
	i := slices.Index(localReadsNames, s)
	if i < 0 && s != "" {
		r.fail(v, `"primary", "nearest" or "random"`)
		return
	}
	r.pool.LocalReads = LocalReads(max(i, 0))
}

// check tests what depends on several fields (etcd.md 2.3, column constraint).
func (r *poolReader) check() {
	p := r.pool
	r.must(p.Name != "", "name", "a non-empty string")
	r.must(p.Scheme != 0, "scheme", `"replicated", "xor" or "ec"`)
	r.checkSizes()
	r.must(p.PGCount >= 1, "pg_count", "at least 1")
	r.must(p.MaxOSDCombinations >= MinMaxOSDCombinations, "max_osd_combinations",
		fmt.Sprintf("at least %d", MinMaxOSDCombinations))
	block := p.BlockBytes
	r.must(block >= MinBlockBytes && block <= MaxBlockBytes && block&(block-1) == 0, "block_size",
		fmt.Sprintf("a power of two from %d to %d (in use: %d)", MinBlockBytes, MaxBlockBytes, block))
	r.must(p.GranularityBytes != 0 && block%max(p.GranularityBytes, 1) == 0, "bitmap_granularity",
		fmt.Sprintf("a divisor of block_size %d (in use: %d)", block, p.GranularityBytes))
	for _, s := range p.LevelPlacement {
		r.must(len(s.Items) == p.PGSize, "level_placement",
			fmt.Sprintf("one item per position: level %q has %d, pg_size is %d", s.Level, len(s.Items), p.PGSize))
	}
	if r.errorCount() == 0 {
		p.PGStripeBytes = meta.PGStripeBytes(r.stripe, uint64(block), p.DataChunks())
	}
}

func (r *poolReader) checkSizes() {
	p, minPGSize := r.pool, 1
	if p.Scheme == meta.XOR || p.Scheme == meta.EC {
		minPGSize = 3
	}
	if !r.must(p.PGSize >= minPGSize && p.PGSize <= MaxPGSize, "pg_size",
		fmt.Sprintf("from %d to %d", minPGSize, MaxPGSize)) {
		return
	}
	minMinSize := 1
	switch p.Scheme {
	case meta.Replicated:
		p.ParityChunks = 0
	case meta.XOR:
		r.must(p.ParityChunks <= 1, "parity_chunks", "absent or 1 in a xor pool")
		p.ParityChunks = 1
	case meta.EC:
		if !r.must(p.ParityChunks >= 1 && p.ParityChunks <= p.PGSize-2, "parity_chunks",
			fmt.Sprintf("from 1 to pg_size-2 = %d", p.PGSize-2)) {
			return
		}
	}
	if p.Scheme != meta.Replicated {
		minMinSize = p.PGSize - p.ParityChunks
	}
	r.must(p.PGMinSize >= minMinSize && p.PGMinSize <= p.PGSize, "pg_minsize",
		fmt.Sprintf("from %d to %d", minMinSize, p.PGSize))
}

// must reports the stored value of a field unless ok.
func (r *poolReader) must(ok bool, field, want string) bool {
	if !ok {
		r.path = append(r.path, step{name: []byte(field)})
		r.fail(value(r.pool.Config.Get(field)), want)
		r.path = r.path[:len(r.path)-1]
	}
	return ok
}

// ErrPoolLimit means that there is no higher pool id left.
var ErrPoolLimit = errors.New("no free pool id: the highest possible one, 65535, is in use")

// NextID is the id of a new pool: one above the highest. (So the id of a deleted
// highest pool is used again, and its leftover objects may reappear.)
func (p *Pools) NextID() (meta.PoolID, error) {
	highest := meta.PoolID(0)
	for name := range p.Config.All() {
		var pid meta.PoolID
		if parseID(name, uint64(meta.MaxPoolID), &pid) {
			highest = max(highest, pid)
		}
	}
	if highest == meta.MaxPoolID {
		return 0, ErrPoolLimit
	}
	return highest + 1, nil
}

// CheckNew tests what only writers must take care of: the name is unused, the
// granularity is a multiple of 512, and only replicated pools have local reads.
func (p *Pools) CheckNew(pool *Pool) error {
	for _, other := range p.Valid {
		if other.ID != pool.ID && other.Name == pool.Name {
			return fmt.Errorf("pool name %q is already used by pool %d", pool.Name, other.ID)
		}
	}
	if pool.GranularityBytes%512 != 0 {
		return fmt.Errorf("bitmap_granularity of pool %q is %d, it must be a multiple of 512",
			pool.Name, pool.GranularityBytes)
	}
	if pool.LocalReads != ReadPrimary && pool.Scheme != meta.Replicated {
		return fmt.Errorf("local_reads of pool %q is %s, only replicated pools can use another value than primary",
			pool.Name, pool.LocalReads)
	}
	return nil
}

// With is the object to store after pool pid is set to config; the other pools
// stay byte for byte. The form is the CLI's: no parity_chunks unless the scheme
// is ec, no local_reads for the default, used_for_app instead of used_for_fs.
func (p *Pools) With(pid meta.PoolID, config *Object) Object {
	c := config.Clone()
	if scheme := value(c.Get("scheme")); scheme.kind() == kindString {
		if s, err := meta.ParseScheme(scheme.text()); err == nil && s != meta.EC {
			c.Delete("parity_chunks")
		}
	}
	if local := value(c.Get("local_reads")); local.kind() == kindString &&
		(local.text() == "" || local.text() == ReadPrimary.String()) {
		c.Delete("local_reads")
	}
	if fs := value(c.Get("used_for_fs")); fs != nil {
		if fs.kind() == kindString && fs.text() != "" {
			c.SetString("used_for_app", "fs:"+fs.text())
		}
		c.Delete("used_for_fs")
	}
	all := p.Config.Clone()
	all.Set(strconv.Itoa(int(pid)), c.Encode())
	return all
}

// Without is the object to store after pool pid is deleted.
func (p *Pools) Without(pid meta.PoolID) Object {
	all := p.Config.Clone()
	all.Delete(strconv.Itoa(int(pid)))
	return all
}
