package recheck

import (
	"log/slog"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// Options are the parameters of monitors that matter here.
type Options struct {
	Change  time.Duration // mon_change_timeout: how long changes are collected
	Retry   time.Duration // mon_retry_change_timeout: pause after a collision
	Request time.Duration // etcd_mon_timeout: of a change of primaries
	Apply   time.Duration // etcd_start_timeout: of a whole distribution
	OutTime time.Duration // osd_out_time
	Levels  placement.Levels
	// FullRatio is osd_backfillfull_ratio.
	FullRatio float64
	Defaults  schema.PoolDefaults
	// Hold: PGs must not be placed, because of this. Primaries still change.
	Hold error
}

// Config says whose pg/config is kept.
type Config struct {
	Env     *env.Env
	Keys    schema.Keys
	Lease   env.LeaseID // the master's
	Options Options
	// Lost: a write has shown that this monitor is not the master.
	Lost func(error)
}

const (
	// stepWork is about a millisecond (placement.Distribution.Step).
	stepWork = 200_000
	// spacing is the least time between writes because of OSDs that come: many
	// may start at once, and pg/config can be large. Those that go do not wait.
	spacing = 100 * time.Millisecond
	// After a write has failed, pauses grow from Options.Retry up to backoffMax.
	backoffMax = time.Second
	// refused requests will not do better soon.
	refusedPause = 10 * time.Second
)

// Rechecker is the master at work.
type Rechecker struct {
	Config
	log   *slog.Logger
	state *State

	known   map[meta.PoolID]string // fingerprints of the present distributions
	results map[meta.PoolID]*task  // computed and not written yet
	plan    *plan                  // nil = nothing is to be done
	stale   bool                   // something has changed since plan was made

	primaries bool // have to be checked
	urgent    bool // and do not wait for others

	started, stopped bool
	writes           writes
	clean            cleaner
	changed          env.Timer // debounce
	out              env.Timer // the next OSD is due
	stepping         env.Timer
	space            env.Timer // checks for full OSDs
	complaints       map[string]string
}

// New makes a Rechecker; nothing happens before the first Apply.
func New(c Config) *Rechecker {
	r := &Rechecker{Config: c, log: c.Env.Log, state: NewState(c.Keys, c.Options.Defaults),
		known: map[meta.PoolID]string{}, results: map[meta.PoolID]*task{}, complaints: map[string]string{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.changed.Fire = r.assess
	r.out.Fire = r.assess
	r.stepping.Fire = r.step
	r.space.Fire = r.checkSpace
	r.writes.retry.Fire = r.pump
	r.writes.spaced.Fire = r.pump
	r.writes.poll.Fire = r.pollWaiting
	r.clean.hold.Fire = r.cleanAgain
	return r
}

// State is what is known, for status and tests.
func (r *Rechecker) State() *State { return r.state }

// Stop ends everything.
func (r *Rechecker) Stop() {
	r.stopped = true
	w := &r.writes
	for _, t := range []*env.Timer{&r.changed, &r.out, &r.stepping, &r.space, &w.retry, &w.spaced, &w.poll, &r.clean.hold} {
		r.Env.Clock.Disarm(t)
	}
}

// Writing tells whether pool/stats are about to change, so nobody else must
// write them from what he has seen.
func (r *Rechecker) Writing() bool { return r.writes.busy || r.state.revision < r.writes.await }

// Placing tells whether distributions are being computed or carried out.
func (r *Rechecker) Placing() bool { return r.plan != nil }

// SetOptions applies changed parameters.
func (r *Rechecker) SetOptions(o Options) {
	r.Options = o
	r.state.SetDefaults(o.Defaults)
	if r.started {
		r.trigger()
		r.armOut()
	}
}

// Apply takes what has changed in etcd.
func (r *Rechecker) Apply(b *clusterview.Batch) {
	if r.stopped {
		return
	}
	c := r.state.Apply(b)
	for _, err := range c.Problems {
		r.log.Error("a value in etcd cannot be used", "err", err)
	}
	if c.Placement {
		r.stale = true
		r.armOut()
	}
	r.primaries = r.primaries || c.Vanished || c.Appeared
	r.urgent = r.urgent || c.Vanished
	if c.Vanished {
		// etcd works again, or only one large write does not.
		r.Env.Clock.Disarm(&r.writes.retry)
		r.writes.backoff = 0
	}
	switch {
	case !r.started:
		r.started, r.primaries, r.urgent = true, true, true
		r.assess()
	case c.Placement:
		r.trigger()
	}
	if c.Space && !r.space.Armed() {
		r.Env.Clock.Arm(&r.space, r.Options.Change)
	}
	if c.PGStates {
		r.lookStopped()
	}
	if c.PGStates || c.Placement {
		r.checkClean()
	}
	r.pump()
}

// trigger assesses soon: together with what else changes until then.
func (r *Rechecker) trigger() {
	r.stale = true
	if !r.changed.Armed() {
		r.Env.Clock.Arm(&r.changed, r.Options.Change)
	}
}

func (r *Rechecker) nowMillis() uint64 {
	return uint64(r.Env.Clock.WallNanos() / int64(time.Millisecond))
}

// longest is how long timers by the time of day may run, which may jump.
const longest = time.Minute

func (r *Rechecker) armOut() {
	if d, ok := r.state.nextOut(r.Options.OutTime, r.nowMillis()); ok {
		r.Env.Clock.Arm(&r.out, min(d, longest))
	} else {
		r.Env.Clock.Disarm(&r.out)
	}
}

// assess finds out what has to be done. While distributions are computed, it
// waits for them: they may still be right.
func (r *Rechecker) assess() {
	if r.plan != nil && !r.plan.ready() {
		r.stale = true
		return
	}
	if r.Writing() { // what is written is not seen yet
		r.stale = true
		r.Env.Clock.Arm(&r.changed, r.Options.Retry)
		return
	}
	r.armOut()
	r.stale = false
	p, err := r.state.assess(&r.Options, r.nowMillis(), r.known, r.results)
	r.complain("placement", err)
	if err != nil {
		r.plan = nil
		return
	}
	r.showFrozen(p)
	r.primaries = true
	if p.idle {
		r.plan, r.writes.waiting = nil, 0
		clear(r.results)
		r.pump()
		return
	}
	r.plan = p
	if p.ready() {
		r.pump()
		return
	}
	r.log.Info("placing PGs", "pools", len(p.todo))
	r.Env.Clock.Arm(&r.stepping, 0)
}

func (r *Rechecker) showFrozen(p *plan) {
	for name := range r.state.pools.Config.All() {
		id, _ := strconv.ParseUint(name, 10, 16) // 0 is no pool
		r.complain("pool "+name, p.frozen[meta.PoolID(id)])
	}
}

// step computes for about a millisecond.
func (r *Rechecker) step() {
	p := r.plan
	t := p.todo[0]
	done, err := t.step(stepWork)
	switch {
	case err != nil:
		p.frozen[t.pool.ID] = err
		p.keepHash(r.state.present())
		r.complain("pool "+poolName(t.pool.ID), err)
		p.todo = p.todo[1:]
		delete(p.fingerprints, t.pool.ID)
	case done:
		r.results[t.pool.ID], p.done[t.pool.ID] = t, t
		p.todo = p.todo[1:]
	}
	if !p.ready() {
		r.Env.Clock.Arm(&r.stepping, 0)
		return
	}
	r.pump()
}

// checkSpace looks for pools that became full, or are not any more.
func (r *Rechecker) checkSpace() {
	config := r.state.present()
	if full := r.state.full(r.Options.FullRatio)(config); !slices.Equal(full, config.Backfillfull) {
		r.primaries = true
		r.pump()
	}
}

// complain logs each problem once, and its end.
func (r *Rechecker) complain(about string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == r.complaints[about] {
		return
	}
	r.complaints[about] = text
	if err != nil {
		r.log.Error("PGs cannot be changed as they should be", "what", about, "err", err)
	} else {
		r.log.Info("PGs can be changed again", "what", about)
	}
}
