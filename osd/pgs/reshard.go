package pgs

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/osd/secondary"
)

// When the number of PGs of a pool, or its pg_stripe_size, changes, objects
// belong to other PGs. The store sorts them again while it runs, but not while
// anybody works with the PGs: first all of the pool's PGs stop, for which their
// Machines are told that they do not exist; then the store sorts, and then the
// new PGs are taken. (The reference ends the process if one of them is active.)
//
//	wanted == sorted ──change──▶ PGs stop ──all offline──▶ store sorts ──done──▶ wanted == sorted

// sorting is how objects are mapped to PGs; count 0 = the pool has none.
type sorting struct {
	count  uint32
	stripe uint64 // bytes
}

// pool is what is known of a pool.
type pool struct {
	id        meta.PoolID
	wanted    sorting // as etcd says
	sorted    sorting // as the store has them, or is to have them
	working   bool    // the store sorts
	secondary secondary.Pool
	complaint notice
}

// moving: PGs of the pool must not run.
func (p *pool) moving() bool { return p.working || p.wanted != p.sorted }

// reshardWait looks whether the store is done.
type reshardWait struct {
	m     *Manager
	timer env.Timer
}

const reshardPoll = 10 * time.Millisecond

func (w *reshardWait) init(m *Manager) {
	w.m = m
	w.timer.Fire = m.tryReshard
}

// followPool handles a change of a pool or of its PGs' configuration.
func (m *Manager) followPool(id meta.PoolID) {
	p := m.pools[id]
	if p == nil {
		p = &pool{id: id}
		m.pools[id] = p
	}
	sp, targets := m.View.Pool(id), m.View.PGConfig().Pool(id)
	p.wanted.count = 0
	if sp != nil {
		p.wanted = sorting{targets.Count(), sp.PGStripeBytes}
		p.secondary.Replicated = sp.Scheme == meta.Replicated
		p.secondary.LocalReads = sp.LocalReads != schema.ReadPrimary
	}
	m.complainPool(p, sp, targets)
	m.tryReshardPool(p)
	m.inputPool(id)
}

// complainPool says once what keeps the PGs of a pool from running here.
func (m *Manager) complainPool(p *pool, sp *schema.Pool, targets *schema.PoolPGs) {
	why, write := "", m.log.Warn
	ours := targets != nil && slices.ContainsFunc(targets.PGs, func(t schema.PGTarget) bool { return t.Primary == m.c.OSD })
	switch {
	case !ours:
	case sp == nil:
		if err := m.View.PoolError(p.id); err != nil {
			why = err.Error()
		} else { // as a rule it was deleted, or is new, and we know one half of it
			why, write = "the pool does not exist", m.log.Info
		}
	case targets.Count() == 0:
		why = fmt.Sprintf("the numbers of its PGs in pg/config are not 1 to %d: the pool counts as having none", len(targets.PGs))
	default:
		why = m.misfit(sp)
	}
	if notice(why) != p.complaint {
		if p.complaint = notice(why); why != "" {
			write("PGs of a pool cannot be run by this OSD", "pool", uint64(p.id), "why", why)
		}
	}
}

// tryReshard goes on with all pools that are not as they should be.
func (m *Manager) tryReshard() {
	for _, id := range slices.Sorted(maps.Keys(m.pools)) {
		p := m.pools[id]
		if p.moving() && m.tryReshardPool(p) {
			m.inputPool(id)
		}
	}
}

// tryReshardPool lets the store sort as soon as no PG runs, and returns whether
// PGs may run now.
func (m *Manager) tryReshardPool(p *pool) bool {
	if p.working && !m.sortedNow(p) {
		m.env.Clock.Arm(&m.waiting.timer, reshardPoll)
		return false
	}
	p.working = false
	if p.wanted == p.sorted {
		return true
	}
	if slices.ContainsFunc(m.order, func(x *pg) bool { return x.id.Pool == p.id && !x.idle }) {
		return false // sweep comes again
	}
	m.log.Info("sorting objects into PGs", "pool", uint64(p.id), "pg_count", p.wanted.count, "pg_stripe_size", p.wanted.stripe)
	p.sorted = p.wanted
	p.secondary.PGCount, p.secondary.PGStripeBytes = p.sorted.count, p.sorted.stripe
	m.Store.Reshard(p.id, p.sorted.count, p.sorted.stripe)
	if p.working = !m.sortedNow(p); p.working {
		m.env.Clock.Arm(&m.waiting.timer, reshardPoll)
	}
	return !p.working
}

func (m *Manager) sortedNow(p *pool) bool {
	return p.sorted.count == 0 || m.Store.Sharded(p.id, p.sorted.count, p.sorted.stripe)
}
