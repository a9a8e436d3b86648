package heal

import (
	"fmt"
	"log/slog"
	"time"

	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
)

// Primary is what is needed of osd/primary.Server.
type Primary interface {
	// Objects of a PG that is active; nil otherwise.
	Objects(pg meta.PG) *peering.Objects
	Recover(r *primary.Recovery)
	Hold(h *primary.Hold)
	Release(h *primary.Hold)
	SetScrubbing(pg meta.PG, on bool)
	// Changed: Objects of the PG were changed.
	Changed(pg meta.PG)
	Stats() *primary.Stats
}

// Local is the own store behind osd/secondary.Server.
type Local interface {
	Submit(op *secondary.Op)
	Stats() *secondary.Stats
}

// View is what has to be known of the cluster's configuration.
type View interface {
	// Pool is nil when the pool is not known or not valid.
	Pool(id meta.PoolID) *schema.Pool
	// PGCount is the number of PGs that objects are mapped by now.
	PGCount(id meta.PoolID) uint32
}

// Owner keeps next_scrub in the history of PGs. It may call PlanScrub inside.
type Owner interface {
	ScrubPlanned(pg meta.PG, at uint64)
}

// Deps are the other parts of the OSD.
type Deps struct {
	Primary Primary
	Local   Local
	Peers   primary.Peers
	View    View
	Owner   Owner
	// Backfillfull tells whether the pool is in backfillfull_pools of pg/config:
	// nothing is recovered there. When that changes, Recoverable has to be
	// called for its PGs. nil = no pool is.
	Backfillfull func(pool meta.PoolID) bool
}

// Config does not change while the OSD runs, except for the options.
type Config struct {
	OSD                      meta.OSDNum
	BlockBytes, GranuleBytes uint32 // of the store
	ReadOnly                 bool   // scrub, but do not recover
	// ScrubMemoryBytes bounds the buffers of scrubs; 0 means 32 MiB.
	ScrubMemoryBytes int
	Options
}

// Options may change at any time.
type Options struct {
	Recovery option.Recovery // QueueDepth, PGSwitch, NoRecovery, NoRebalance
	Scrub    option.Scrub
}

// Stats are totals since the start, if not named otherwise.
type Stats struct {
	Recovering      int    // objects in work now
	Failed          uint64 // recoveries
	ScrubbedObjects uint64
	ScrubbedPGs     uint64
	ScrubBytes      uint64 // read
	Corrupted       uint64 // locations newly marked
	Inconsistent    uint64 // objects newly marked
	Missing         uint64 // locations found empty
}

// Healer does the background work of a primary. It implements pgs.Healer.
type Healer struct {
	env    *env.Env
	log    *slog.Logger
	deps   Deps
	config Config
	stats  Stats

	// Recovery.
	queue   *Queue
	load    load
	pace    pace
	tick    env.Timer
	kick    env.Task
	free    *recovery
	running int
	bytes   uint64 // of the running ones
	size    uint64 // bytes of the object taken last

	// Scrub.
	plans    plans
	run      *scrubRun // of the PG in work
	resume   scrubMark
	scrubAt  env.Timer
	list     lister
	pool     *pinned.Pool
	codes    map[codeKey]*ec.Code
	jobs     jobList // in work
	idle     *scrubJob
	hungry   []*scrubJob // wait for memory
	requests []*msgr.Request
	asked    int // requests in work

	stopped bool
}

type codeKey struct {
	scheme ec.Scheme
	k, m   int
}

const (
	scrubMemoryBytes = 32 << 20
	jobMemoryBytes   = 8 << 20 // of one scrub at most
	requestsAtOnce   = 4
)

// New makes a Healer that has nothing to do yet. SCRUB requests go to Scrub.
func New(e *env.Env, d Deps, c Config) (*Healer, error) {
	if c.ScrubMemoryBytes == 0 {
		c.ScrubMemoryBytes = scrubMemoryBytes
	}
	if c.ScrubMemoryBytes < 2*jobMemoryBytes {
		return nil, fmt.Errorf("memory for scrubs: %d bytes are less than %d", c.ScrubMemoryBytes, 2*jobMemoryBytes)
	}
	h := &Healer{env: e, log: e.Log, deps: d, config: c, codes: map[codeKey]*ec.Code{}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if h.pool, err = pinned.NewPool("scrub", c.ScrubMemoryBytes); err != nil {
		return nil, err
	}
	h.queue = NewQueue(source{h}, queueConfig(&c.Recovery))
	h.tick.Fire, h.kick.Run, h.scrubAt.Fire = h.ticked, h.work, h.scrubMore
	h.list.init(h)
	return h, nil
}

func queueConfig(r *option.Recovery) QueueConfig {
	return QueueConfig{PGSwitch: r.PGSwitch, NoRecovery: r.NoRecovery, NoRebalance: r.NoRebalance}
}

// Apply changes the options.
func (h *Healer) Apply(o Options) {
	h.config.Options = o
	h.queue.SetConfig(queueConfig(&o.Recovery))
	h.planMissing()
	h.wake()
}

// Recoverable: there may be objects to recover or to move in the active PG.
func (h *Healer) Recoverable(pg meta.PG) {
	h.queue.Add(pg)
	h.wake()
}

// Flushing: unstable versions of the PG are being settled; no recovery meanwhile.
func (h *Healer) Flushing(pg meta.PG, on bool) {
	h.queue.SetFlushing(pg, on)
	h.wake()
}

// Stopped: the PG is not active any more. What is in work for it ends by itself.
func (h *Healer) Stopped(pg meta.PG) {
	h.queue.Remove(pg)
	h.plans.remove(pg)
	h.leave(pg)
	h.wake()
}

// PlanScrub: next_scrub of the active PG; 0 = not planned.
func (h *Healer) PlanScrub(pg meta.PG, at uint64) {
	h.plans.set(pg, at)
	h.planMissing()
	h.wake()
}

// Stats returns the totals; the pointer stays valid.
func (h *Healer) Stats() *Stats {
	h.stats.Recovering = h.running
	return &h.stats
}

// Scrubbing is the PG in work now; the zero PG = none.
func (h *Healer) Scrubbing() meta.PG {
	if h.run == nil {
		return meta.PG{}
	}
	return h.run.pg
}

// Stop lets nothing begin any more. What is in work ends by itself.
func (h *Healer) Stop() {
	h.stopped = true
	h.env.Clock.Disarm(&h.tick)
	h.env.Clock.Disarm(&h.scrubAt)
	h.answerAll()
}

// Free returns the memory. The loop must not run any more.
func (h *Healer) Free() { h.pool.Discard() }

// wake looks for work after the current event.
func (h *Healer) wake() { h.env.Exec.Defer(&h.kick) }

func (h *Healer) work() {
	h.recoverMore()
	h.scrubMore()
}

// wallSeconds is the time of day as in next_scrub.
func (h *Healer) wallSeconds() uint64 {
	return uint64(max(h.env.Clock.WallNanos(), 0) / int64(time.Second))
}
