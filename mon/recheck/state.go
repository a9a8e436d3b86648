package recheck

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
	"vitastor/mon/pggen"
)

// State is what the monitor knows of the keys that PGs depend on. Values that
// cannot be read keep their last good value, and are listed in bad.
type State struct {
	keys     schema.Keys
	defaults schema.PoolDefaults
	revision int64

	poolsRaw []byte // config/pools, nil = no such key
	pools    *schema.Pools
	// valid are the pools as they were when they were valid last.
	valid map[meta.PoolID]*schema.Pool
	nodes []schema.PlacedNode
	osds  map[meta.OSDNum]*osd

	config  *schema.PGConfig // pg/config, or nil
	legacy  *schema.PGConfig // config/pgs, or nil
	clean   *schema.PGConfig // history/last_clean_pgs, never nil
	states  map[meta.PG]schema.PGState
	history map[meta.PG]*schema.PGHistory
	objects map[meta.PG]uint64
	old     map[meta.PG]uint64 // objects by the legacy pg/stats
	stats   map[meta.PoolID]schema.PoolStats

	bad map[string]badValue // by key
}

// badValue is a value that cannot be read.
type badValue struct {
	key schema.Key
	err error
	// unknown: there was never a good value, so what depends on it must wait.
	unknown bool
}

// osd is what is known about one OSD.
type osd struct {
	stats  *schema.OSDStats // nil = no key
	config *schema.OSDConfig
	up     bool // osd/state exists
}

// NewState is the state of an empty cluster.
func NewState(keys schema.Keys, defaults schema.PoolDefaults) *State {
	return &State{
		keys: keys, defaults: defaults,
		pools: &schema.Pools{}, valid: map[meta.PoolID]*schema.Pool{},
		osds:  map[meta.OSDNum]*osd{},
		clean: &schema.PGConfig{}, states: map[meta.PG]schema.PGState{},
		history: map[meta.PG]*schema.PGHistory{}, objects: map[meta.PG]uint64{}, old: map[meta.PG]uint64{},
		stats: map[meta.PoolID]schema.PoolStats{}, bad: map[string]badValue{},
	}
}

// Changes tells what a batch means.
type Changes struct {
	Vanished  bool // osd/state of some OSD
	Appeared  bool
	Placement bool // what distributions depend on
	PGStates  bool
	Space     bool // sizes of OSDs or numbers of objects
	Problems  []error
}

// Apply takes a batch of changes.
func (s *State) Apply(b *clusterview.Batch) Changes {
	var c Changes
	s.revision = b.Revision
	for i := range b.Events {
		e := &b.Events[i]
		key, ok := s.keys.Parse(e.KV.Key)
		if !ok {
			continue // ours or not: nobody reads it
		}
		value := e.KV.Value
		if e.Deleted {
			value = nil
		}
		s.read(&c, key, e.KV.Key, value, e.Deleted)
	}
	return c
}

// SetDefaults changes what pools without own values use.
func (s *State) SetDefaults(d schema.PoolDefaults) {
	if d == s.defaults {
		return
	}
	s.defaults = d
	var c Changes
	s.readPools(&c, s.keys.Pools(), s.poolsRaw)
}

// osd returns the entry of an OSD.
func (s *State) osd(n meta.OSDNum) *osd {
	o := s.osds[n]
	if o == nil {
		o = &osd{}
		s.osds[n] = o
	}
	return o
}

// present is pg/config, or what stands for it.
func (s *State) present() *schema.PGConfig {
	switch {
	case s.config != nil && len(s.config.Pools) > 0:
		return s.config
	case s.legacy != nil && len(s.legacy.Pools) > 0:
		return s.legacy
	case s.config != nil:
		return s.config
	}
	return &schema.PGConfig{}
}

// migrates tells whether pg/config has to be made from the legacy key.
func (s *State) migrates() bool { return s.present() == s.legacy }

// input is what the tree is made from.
func (s *State) input(o *Options, nowMillis uint64) *placement.Input {
	in := &placement.Input{Levels: o.Levels, Nodes: s.nodes, NowMillis: nowMillis, OutTime: o.OutTime}
	for n, known := range s.osds {
		if known.stats == nil {
			continue
		}
		config := schema.OSDConfig{Reweight: 1}
		if known.config != nil {
			config = *known.config
		}
		in.OSDs = append(in.OSDs, placement.OSD{Num: n, Stats: known.stats, Config: config, HasState: known.up})
	}
	return in
}

// nextOut is how long it takes until the next OSD has been silent for
// osd_out_time.
func (s *State) nextOut(outTime time.Duration, nowMillis uint64) (d time.Duration, ok bool) {
	for _, o := range s.osds {
		if o.up || o.stats == nil || o.stats.SizeBytes == 0 || o.config != nil && o.config.NoOut {
			continue
		}
		// It is in until exactly then (placement.Build).
		at := o.stats.TimeMillis + uint64(outTime.Milliseconds()) + 1
		if at <= nowMillis {
			continue
		}
		if left := time.Duration(at-nowMillis) * time.Millisecond; !ok || left < d {
			d, ok = left, true
		}
	}
	return d, ok
}

// full lists the pools whose OSDs would not have room (monitor.md 7.5).
func (s *State) full(ratio float64) func(*schema.PGConfig) []meta.PoolID {
	return func(c *schema.PGConfig) []meta.PoolID {
		var space []placement.OSDSpace
		for _, n := range slices.Sorted(maps.Keys(s.osds)) {
			if stats := s.osds[n].stats; stats != nil {
				space = append(space, placement.OSDSpace{Num: n, SizeBytes: stats.SizeBytes, BlockBytes: stats.BlockBytes})
			}
		}
		objects := func(pg meta.PG) uint64 {
			if n, ok := s.objects[pg]; ok {
				return n
			}
			return s.old[pg]
		}
		return placement.Backfillfull(space, c, objects, ratio)
	}
}

// decide is the state for pggen. Pools that are not to be touched but by
// changes of primaries are taken as they are in pg/config: those that are not
// valid now, and those in frozen.
func (s *State) decide(lease env.LeaseID, frozen map[meta.PoolID]error) *pggen.State {
	g := &pggen.State{Keys: s.keys, Lease: lease, Revision: s.revision, Config: s.present(), Legacy: s.legacy != nil,
		PGStates: s.states, Histories: s.history}
	pools := *s.pools
	pools.Valid = maps.Clone(s.pools.Valid)
	if pools.Valid == nil {
		pools.Valid = map[meta.PoolID]*schema.Pool{}
	}
	for id, pool := range s.valid {
		count := g.Config.Pool(id).MaxNum()
		switch {
		case s.pools.Valid[id] != nil && frozen[id] == nil:
		case count == 0:
			delete(pools.Valid, id)
		default:
			as := *pool
			as.PGCount = uint32(count)
			pools.Valid[id] = &as
		}
	}
	g.Pools = &pools
	for n, o := range s.osds {
		if o.stats != nil {
			g.OSDs = append(g.OSDs, n)
		}
	}
	slices.Sort(g.OSDs)
	return g
}

// configured tells whether a pool is in config/pools, valid or not.
func (s *State) configured(id meta.PoolID) bool {
	return s.pools.Config.Get(strconv.Itoa(int(id))) != nil
}

// PGConfig is pg/config as far as it can be read.
func (s *State) PGConfig() *schema.PGConfig { return s.present() }
