package statsum

import (
	"bytes"
	"log/slog"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// Sums is the model of all reports of one cluster.
type Sums struct {
	keys schema.Keys
	log  *slog.Logger

	global   schema.PoolDefaults
	poolsRaw env.KeyValue
	pools    *schema.Pools

	osds    map[meta.OSDNum]*osd
	touched []*osd // have news that are not in the sums yet

	inodes map[meta.Inode]*inode
	dirty  map[meta.Inode]*inode // may differ from what is stored

	pgs      map[meta.PG]*pg
	objects  map[meta.PoolID]*schema.ObjectTotals // sums of pgstats
	used     map[meta.PoolID]uint64               // bytes, sums of osd/space
	states   map[meta.PG]meta.PGState
	monitors map[string]schema.Monitor // by member id
	master   schema.Monitor

	stored      *schema.Stats // as in etcd, nil = no key
	storedPools map[meta.PoolID]*storedPool
	changed     bool // stats or pool/stats may differ from what is stored
}

// storedPool is pool/stats as in etcd.
type storedPool struct {
	stats    schema.PoolStats
	revision int64
}

// pg is what is known about the objects of one PG.
type pg struct {
	stats, legacy schema.PGStats
	has           [2]bool // which of them exist
}

// New makes empty sums; log may be nil.
func New(keys schema.Keys, log *slog.Logger) *Sums {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Sums{
		keys: keys, log: log, global: schema.BuiltinPoolDefaults(), pools: &schema.Pools{},
		osds: map[meta.OSDNum]*osd{}, inodes: map[meta.Inode]*inode{}, dirty: map[meta.Inode]*inode{},
		pgs: map[meta.PG]*pg{}, objects: map[meta.PoolID]*schema.ObjectTotals{}, used: map[meta.PoolID]uint64{},
		states: map[meta.PG]meta.PGState{}, monitors: map[string]schema.Monitor{},
		storedPools: map[meta.PoolID]*storedPool{}, changed: true,
	}
}

// Dirty tells whether Txn may have something to write.
func (s *Sums) Dirty() bool { return s.changed || len(s.touched) > 0 || len(s.dirty) > 0 }

// Apply takes one key as loaded, or as a watch reported it. Values that cannot
// be read are logged; what can be read of them counts.
func (s *Sums) Apply(e *env.WatchEvent) {
	k, ok := s.keys.Parse(e.KV.Key)
	if !ok {
		return
	}
	kv := e.KV
	if text := bytes.TrimSpace(kv.Value); e.Deleted || len(text) == 0 || string(text) == "null" {
		kv.Value = nil
	}
	var err error
	switch k.Kind {
	case schema.KindGlobal:
		err = s.applyGlobal(&kv)
	case schema.KindPools:
		s.poolsRaw = kv
		err = s.decodePools()
	case schema.KindInodeConfig:
		err = s.applyInodeConfig(&kv, k.Inode())
	case schema.KindOSDState, schema.KindOSDStats, schema.KindOSDSpace, schema.KindInodeIO:
		err = s.applyOSD(&kv, k)
	case schema.KindPGStats, schema.KindLegacyPGStats:
		err = s.applyPGStats(&kv, k)
	case schema.KindPGState:
		err = s.applyPGState(&kv, k.PGID())
	case schema.KindMonMaster:
		s.master, err = schema.DecodeMonitor(kv.Key, kv.Value)
	case schema.KindMonMember:
		err = s.applyMember(&kv, k.Name)
	case schema.KindStats, schema.KindInodeStats, schema.KindPoolStats:
		err = s.applyStored(&kv, k)
	}
	if err != nil {
		s.log.Warn("bad value in etcd, its readable part is used for statistics", "key", kv.Key, "err", err)
	}
}

func (s *Sums) applyGlobal(kv *env.KeyValue) error {
	global, err := schema.DecodeObject(kv.Key, kv.Value)
	if err != nil {
		return err
	}
	if s.global, err = schema.GlobalPoolDefaults(kv.Key, &global); err != nil {
		return err
	}
	return s.decodePools()
}

// decodePools reports only values that make no sense at all: what is wrong with
// single pools is told by who distributes them.
func (s *Sums) decodePools() error {
	pools, err := schema.DecodePools(s.poolsRaw.Key, s.poolsRaw.Value, s.global)
	s.pools, s.changed = pools, true
	if len(pools.Invalid) > 0 {
		err = nil
	}
	return err
}

func (s *Sums) applyPGStats(kv *env.KeyValue, k schema.Key) error {
	id := k.PGID()
	stats, err := schema.DecodePGStats(kv.Key, kv.Value)
	p := s.pgs[id]
	if p == nil {
		p = &pg{}
		s.pgs[id] = p
	}
	before := *p.counted()
	if k.Kind == schema.KindPGStats {
		p.stats, p.has[0] = stats, kv.Value != nil
	} else {
		p.legacy, p.has[1] = stats, kv.Value != nil
	}
	if p.has == ([2]bool{}) {
		delete(s.pgs, id)
	}
	total := s.objects[id.Pool]
	if total == nil {
		total = &schema.ObjectTotals{}
		s.objects[id.Pool] = total
	}
	// Differences may wrap around; the sums are right again.
	after := p.counted()
	total.All += after.Objects - before.Objects
	total.Clean += after.Clean - before.Clean
	total.Misplaced += after.Misplaced - before.Misplaced
	total.Degraded += after.Degraded - before.Degraded
	total.Incomplete += after.Incomplete - before.Incomplete
	s.changed = true
	return err
}

// counted is the report that counts: the legacy key only without the other.
func (p *pg) counted() *schema.PGStats {
	switch {
	case p.has[0]:
		return &p.stats
	case p.has[1]:
		return &p.legacy
	}
	return &schema.PGStats{}
}

func (s *Sums) applyPGState(kv *env.KeyValue, id meta.PG) error {
	state, err := schema.DecodePGState(kv.Key, kv.Value)
	switch {
	case err != nil: // every reader keeps the old state then
	case state.Offline():
		delete(s.states, id)
	default:
		s.states[id] = state.State
	}
	return err
}

func (s *Sums) applyMember(kv *env.KeyValue, id string) error {
	if kv.Value == nil {
		delete(s.monitors, id)
		return nil
	}
	m, err := schema.DecodeMonitor(kv.Key, kv.Value)
	s.monitors[id] = m
	return err
}

// applyStored learns what is published, so that only differences are written.
func (s *Sums) applyStored(kv *env.KeyValue, k schema.Key) (err error) {
	switch k.Kind {
	case schema.KindStats:
		s.stored, s.changed = nil, true
		if kv.Value != nil {
			var stats schema.Stats
			stats, err = schema.DecodeStats(kv.Key, kv.Value)
			s.stored = &stats
		}
	case schema.KindPoolStats:
		s.changed = true
		delete(s.storedPools, k.Pool)
		if kv.Value != nil {
			p := &storedPool{revision: kv.ModRevision}
			p.stats, err = schema.DecodePoolStats(kv.Key, kv.Value)
			s.storedPools[k.Pool] = p
		}
	case schema.KindInodeStats:
		in := s.inode(k.Inode())
		in.stored, in.hasStored = schema.InodeStats{}, kv.Value != nil
		if kv.Value != nil {
			in.stored, err = schema.DecodeInodeStats(kv.Key, kv.Value)
		}
	}
	return err
}

// Backfillfull lists the pools whose recovery must wait for space (monitor.md
// 7.5), ascending. ratio is osd_backfillfull_ratio.
func (s *Sums) Backfillfull(config *schema.PGConfig, ratio float64) []meta.PoolID {
	var osds []placement.OSDSpace
	for _, o := range s.sortedOSDs() {
		if o.stats != nil && o.stats.SizeBytes != 0 {
			osds = append(osds, placement.OSDSpace{Num: o.num, SizeBytes: o.stats.SizeBytes, BlockBytes: o.stats.BlockBytes})
		}
	}
	return placement.Backfillfull(osds, config, s.PGObjects, ratio)
}

// PGObjects is the number of objects of a PG by its last report.
func (s *Sums) PGObjects(id meta.PG) uint64 {
	if p := s.pgs[id]; p != nil {
		return p.counted().Objects
	}
	return 0
}
