// Package clusterview turns the cluster's state in etcd into typed values that
// OSDs and clients work with: pools, placement groups, OSDs, inodes and the
// global configuration (etcd.md §3.1).
//
// Sync is the part that does not know the meaning of keys: it loads, watches,
// survives interruptions and compactions, and says what has changed. A monitor
// or the NFS proxy uses it for its own ranges. View is a Sync with the ranges
// of OSDs and clients, and decoders.
//
//	etcd --> Sync: one event per changed key, in byte order of the keys
//	           --> View: typed state --> Changed(what), once per message
//
// Guarantee: after quiet, a View holds exactly what a fresh one would load,
// whatever was lost, repeated or compacted in between. The exceptions are
// values that cannot be read: they are ignored with a logged reason, and the
// last good value stays (said at each accessor). Values that a View returns are
// never modified, only replaced.
//
// Concurrency: everything runs on the loop of its Env, callbacks included.
package clusterview

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Config says what a View follows. See SyncConfig for the meaning of the rest.
type Config struct {
	Clock env.Clock
	KV    env.KV
	Log   *slog.Logger
	Keys  schema.Keys
	Timing
	// Guard of all loads: an OSD's own lease.
	Guard []env.Compare
	// Attempts of the first load, 0 = for ever.
	Attempts int
	// NodePlacement loads config/node_placement, too (for local_reads).
	NodePlacement bool
	// Changed is called after each message that has changed something, and
	// after each load. Loaded is true from its first call on.
	Changed func(*Changes)
	// Fatal is the last call when etcd ends a watch, refuses the load, or the
	// guard does not hold: the process has to end.
	Fatal func(error)
}

// Changes says what a message has changed: new, different or removed. Lists are
// ascending.
type Changes struct {
	Reloaded    bool  // everything was read again; the rest is still exact
	Revision    int64 // of etcd
	Global      bool
	Placement   bool          // config/node_placement
	Pools       []meta.PoolID // parameters of pools, or whether they are valid
	PGConfigs   []meta.PoolID // targets of PGs, their number, backfillfull
	PGStates    []meta.PG     // written, even if with the same value
	PGHistories []meta.PG     // the same
	OSDs        []meta.OSDNum // the same: an OSD may have restarted
	Inodes      []meta.Inode  // the same: mod_revision is significant
}

// View is the state of one cluster as etcd knows it.
type View struct {
	config Config
	sync   *Sync

	global    *schema.Object
	defaults  schema.PoolDefaults // as of the last load
	placement []schema.PlacedNode
	pools     map[meta.PoolID]*schema.Pool
	poolErrs  map[meta.PoolID]error
	poolsText env.KeyValue     // as stored
	pgConfig  *schema.PGConfig // nil = the key does not exist
	legacy    *schema.PGConfig // config/pgs, the same
	noPGs     *schema.PGConfig // empty
	states    map[meta.PG]*schema.PGState
	histories map[meta.PG]*history
	osds      map[meta.OSDNum]*schema.OSDState
	inodes    map[meta.Inode]*schema.SeenInode
	names     map[string][]meta.Inode

	changes *Changes // of the batch in work
}

// history is a PG's history and why its present value is not used.
type history struct {
	value schema.PGHistory
	err   error
}

// The watches of a View (etcd.md 3.1).
const (
	watchConfig = iota
	watchOSDs
	watchPGs
)

// New makes a View; nothing happens before Start.
func New(c Config) *View {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	v := &View{config: c, global: &schema.Object{}, noPGs: &schema.PGConfig{}, defaults: schema.BuiltinPoolDefaults(),
		pools: map[meta.PoolID]*schema.Pool{}, poolErrs: map[meta.PoolID]error{},
		states: map[meta.PG]*schema.PGState{}, histories: map[meta.PG]*history{},
		osds: map[meta.OSDNum]*schema.OSDState{}, inodes: map[meta.Inode]*schema.SeenInode{},
		names: map[string][]meta.Inode{}}
	k := c.Keys
	load := []schema.Range{{Key: k.Global()}, {Key: k.Pools()}, {Key: k.LegacyPGConfig()},
		{Key: k.PGConfig()}, k.Kind(schema.KindInodeConfig), k.Kind(schema.KindPGHistory),
		k.Kind(schema.KindPGState), k.OSDStates()}
	if c.NodePlacement {
		load = append(load, schema.Range{Key: k.NodePlacement()})
	}
	v.sync = NewSync(SyncConfig{Clock: c.Clock, KV: c.KV, Log: c.Log, Timing: c.Timing, Load: load,
		Watch: []schema.Range{watchConfig: k.Config(), watchOSDs: k.OSDStates(), watchPGs: k.PGs()},
		Guard: c.Guard, Attempts: c.Attempts, Apply: v.apply, Fatal: c.Fatal})
	return v
}

// Start begins to load. A process that needs config/global before (an OSD opens
// its store first) uses ReadConfig.
func (v *View) Start() { v.sync.Start() }

// Stop ends everything; Changed and Fatal are not called any more.
func (v *View) Stop() { v.sync.Stop() }

// SetTiming changes the time limits while the View runs.
func (v *View) SetTiming(t Timing) { v.sync.Timing = t }

// Loaded tells whether the view is complete.
func (v *View) Loaded() bool { return v.sync.Loaded() }

// PGRevision tells how far the watch of pg/ has come. Transactions on PGs
// compare with it (etcd.md 2.7.2).
func (v *View) PGRevision() int64 { return v.sync.Revision(watchPGs) }

// ConfigRevision tells how far the watch of config/ has come: who changed an
// inode at this revision finds the change here.
func (v *View) ConfigRevision() int64 { return v.sync.Revision(watchConfig) }

// Global is config/global. After an unreadable value the last good one.
func (v *View) Global() *schema.Object { return v.global }

// NodePlacement is config/node_placement, if the View was told to follow it.
func (v *View) NodePlacement() []schema.PlacedNode { return v.placement }

// Pool returns a pool, or nil. While the stored pool is not valid, it is the
// last valid one: see PoolError. Defaults are those of the last load.
func (v *View) Pool(id meta.PoolID) *schema.Pool { return v.pools[id] }

// PoolError says why the stored pool is not used; nil if it is, or is not there.
func (v *View) PoolError(id meta.PoolID) error { return v.poolErrs[id] }

// Pools lists the pools that Pool knows, ascending.
func (v *View) Pools() []meta.PoolID { return slices.Sorted(maps.Keys(v.pools)) }

// PGConfig is pg/config (or config/pgs, if only that exists), never nil. After
// an unreadable value the last good one.
func (v *View) PGConfig() *schema.PGConfig {
	switch {
	case v.pgConfig != nil:
		return v.pgConfig
	case v.legacy != nil:
		return v.legacy
	}
	return v.noPGs
}

// PGState is what the primary has announced; the zero value means offline.
// Invalid announcements are ignored.
func (v *View) PGState(pg meta.PG) schema.PGState {
	if s := v.states[pg]; s != nil {
		return *s
	}
	return schema.PGState{}
}

// PGHistory is where else data of the PG may be. With an error it is not up to
// date, and the PG must not be started.
func (v *View) PGHistory(pg meta.PG) (schema.PGHistory, error) {
	if h := v.histories[pg]; h != nil {
		return h.value, h.err
	}
	return schema.PGHistory{}, nil
}

// PGs lists all PGs that have a state, ascending.
func (v *View) PGs() []meta.PG { return slices.SortedFunc(maps.Keys(v.states), meta.PG.Compare) }

// OSD returns a running OSD that can be connected to, or nil.
func (v *View) OSD(n meta.OSDNum) *schema.OSDState { return v.osds[n] }

// OSDs lists the OSDs that OSD knows, ascending.
func (v *View) OSDs() []meta.OSDNum { return slices.Sorted(maps.Keys(v.osds)) }

// Inode returns an inode with the revision of its key, or nil. An inode whose
// value cannot be read does not exist.
func (v *View) Inode(id meta.Inode) *schema.SeenInode { return v.inodes[id] }

// InodeByName finds an image or snapshot ("image@snapshot"), or nil. If a name
// was given twice, the lowest id has it.
func (v *View) InodeByName(name string) *schema.SeenInode {
	if ids := v.names[name]; len(ids) > 0 {
		return v.inodes[ids[0]]
	}
	return nil
}

// Inodes lists all inodes, ascending.
func (v *View) Inodes() []meta.Inode { return slices.Sorted(maps.Keys(v.inodes)) }

// ReadConfig reads config/global and the pools once, which is what processes
// need before anything else (etcd.md 3.1, step 1). Pools with errors are in
// Pools.Invalid; an error is given only when nothing could be read.
func ReadConfig(kv env.KV, k schema.Keys, timeout time.Duration,
	done func(global *schema.Object, pools *schema.Pools, err error)) {
	t := &env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: k.Global()}, {Kind: env.KVGet, Key: k.Pools()}}}
	kv.Txn(t, timeout, func(r *env.TxnResponse, err error) {
		if err != nil {
			done(nil, nil, err)
			return
		}
		global, globalErr := schema.DecodeObject(k.Global(), first(&r.Responses[0]))
		defaults, _ := schema.GlobalPoolDefaults(k.Global(), &global)
		pools, poolsErr := schema.DecodePools(k.Pools(), first(&r.Responses[1]), defaults)
		if !unreadable(poolsErr) {
			poolsErr = nil
		}
		done(&global, pools, errors.Join(globalErr, poolsErr))
	})
}

// first is the value of the only key of a response, nil if it does not exist.
func first(r *env.KVOpResponse) []byte {
	if len(r.KVs) == 0 {
		return nil
	}
	return r.KVs[0].Value
}
