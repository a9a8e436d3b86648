package pgs

import (
	"cmp"
	"log/slog"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// Config is what does not change while the OSD runs, and the first Options.
type Config struct {
	OSD                      meta.OSDNum
	BlockBytes, GranuleBytes uint32          // of the own store
	Commit                   meta.CommitMode // of the own store
	ReadOnly                 bool
	RunPrimary               bool // otherwise no PG is taken
	Keys                     schema.Keys
	// ListBudgetBytes is the memory for lists of objects being received and
	// compared above which no further ones are asked for, except by the PG that
	// waits for the longest time. Default 256 MiB.
	ListBudgetBytes int64
	Options
}

// Options may change while the OSD runs. Zero times mean the defaults.
type Options struct {
	AllowNetSplit bool
	PGLocks       option.Tristate
	LockRetry     time.Duration // pg_lock_retry_interval, 100 ms
	ReportRetry   time.Duration // between failed reports, 500 ms
	ReportTimeout time.Duration // etcd_quick_timeout, 1 s
}

func (o Options) withDefaults() Options {
	o.LockRetry = cmp.Or(o.LockRetry, 100*time.Millisecond)
	o.ReportRetry = cmp.Or(o.ReportRetry, 500*time.Millisecond)
	o.ReportTimeout = cmp.Or(o.ReportTimeout, time.Second)
	return o
}

// Ops executes the operations of clients; it is *primary.Server. For each PG
// Activate, Stop and Reset are called in turns.
type Ops interface {
	// Activate admits operations of a PG and takes over its Objects until Reset.
	Activate(a primary.Activation)
	// EpochRecorded answers NeedEpoch: epochs up to this one may be used.
	EpochRecorded(pg meta.PG, epoch uint64)
	// Stop ends the operations of a PG; done is called later, when none is left.
	Stop(pg meta.PG, done func())
	// Reset forgets the PG and frees its Objects.
	Reset(pg meta.PG)
	// Flushed: some objects of the PG are not FlushPending any more.
	Flushed(pg meta.PG)
}

// Healer does recovery and scrub; it is *heal.Healer.
type Healer interface {
	Recoverable(pg meta.PG)          // there may be objects to recover or move
	Stopped(pg meta.PG)              // the PG does not run any more
	PlanScrub(pg meta.PG, at uint64) // next_scrub, unix time; 0 = not planned
	Flushing(pg meta.PG, on bool)    // no recovery meanwhile
}

// Deps are the other parts of the OSD.
type Deps struct {
	View  *clusterview.View
	Msgr  *msgr.Messenger
	Local *secondary.Server
	Store *store.Store
	Ops   Ops
	Heal  Healer // may be nil
	// Lease is the OSD's own lease, 0 = there is none at the moment.
	Lease func() env.LeaseID
	// MayServe, if set, tells whether the lease is certain to be valid. While it
	// is not, nothing is listed and flushed.
	MayServe func() bool
	// Reported, if set, is called when etcd knows all states.
	Reported func()
	// Fatal is called when the process must end at once.
	Fatal func(error)
}

// Manager runs all PGs of an OSD. It implements primary.View and primary.Owner.
type Manager struct {
	env *env.Env
	log *slog.Logger
	c   Config
	Deps

	started  bool
	shutdown bool
	down     func() // tell when all PGs are offline

	pgs    map[meta.PG]*pg
	order  []*pg // ascending
	pools  map[meta.PoolID]*pool
	peers  map[meta.OSDNum]*peer // never iterated: its order is random
	wanted []meta.OSDNum         // connections to these

	queue    []queued // events to be given
	draining bool
	poked    []*pg // with news from operations
	pokeTask env.Task

	sweepTask env.Task
	arrivals  arrivals
	reports   reporter
	lists     lister
	work      worker
	arena     peering.Arena
	waiting   reshardWait
	full      []meta.PoolID // backfillfull_pools, as last seen
}

// New makes a Manager, which does nothing before SetDeps and Start.
func New(e *env.Env, c Config) *Manager {
	c.Options = c.Options.withDefaults()
	c.ListBudgetBytes = cmp.Or(c.ListBudgetBytes, 256<<20)
	m := &Manager{env: e, log: e.Log, c: c, pgs: map[meta.PG]*pg{}, pools: map[meta.PoolID]*pool{}, peers: map[meta.OSDNum]*peer{}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.pokeTask.Run, m.sweepTask.Run = m.tellPokes, m.sweep
	m.arrivals.init(m)
	m.reports.init(m)
	m.lists.init(m)
	m.work.init(m)
	m.waiting.init(m)
	return m
}

// SetDeps says who the others are. Before Start.
func (m *Manager) SetDeps(d Deps) { m.Deps = d }

// Start takes the PGs that are ours. The store is open and the messenger listens.
func (m *Manager) Start() {
	m.started = true
	if m.View.Loaded() {
		m.refresh()
	}
}

// SetOptions changes what may change.
func (m *Manager) SetOptions(o Options) {
	o = o.withDefaults()
	if o == m.c.Options {
		return
	}
	if m.c.Options = o; m.started {
		m.inputAll()
	}
}

// Each calls f for every PG that this OSD runs or is to run, in order.
func (m *Manager) Each(f func(pg meta.PG, state meta.PGState, why string)) {
	for _, p := range m.order {
		f(p.id, p.machine.State(), p.machine.Why())
	}
}

// Shutdown stops all PGs for good and calls done, later, when etcd knows that
// they are offline. Without etcd that may take for ever.
func (m *Manager) Shutdown(done func()) {
	m.shutdown, m.down = true, done
	for _, p := range m.order {
		m.step(p, peering.Shutdown{})
	}
	m.env.Exec.Defer(&m.sweepTask)
}

// Free returns all memory. It is for the end, when the loop does not run any
// more, and after Ops was freed.
func (m *Manager) Free() {
	for _, p := range m.order {
		m.endRound(p)
	}
	m.lists.free()
	m.arena.Free()
}
