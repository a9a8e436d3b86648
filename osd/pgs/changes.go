package pgs

import (
	"fmt"
	"slices"

	"vitastor/internal/clusterview"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/peering"
)

// Changed follows the view; it is for clusterview.Config.Changed.
func (m *Manager) Changed(ch *clusterview.Changes) {
	if !m.started {
		return
	}
	for _, osd := range ch.OSDs {
		m.followOSD(osd)
	}
	for _, id := range ch.Pools {
		m.followPool(id)
	}
	for _, id := range ch.PGConfigs {
		m.followPool(id)
	}
	for _, id := range ch.PGStates {
		m.input(id)
	}
	for _, id := range ch.PGHistories {
		m.input(id)
	}
	if len(ch.PGConfigs) > 0 {
		m.followBackfill()
	}
	m.reports.viewAdvanced()
}

// refresh looks at everything the view has.
func (m *Manager) refresh() {
	for _, osd := range m.View.OSDs() {
		m.followOSD(osd)
	}
	ids := m.View.Pools()
	for i := range m.View.PGConfig().Pools {
		ids = append(ids, m.View.PGConfig().Pools[i].Pool)
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		m.followPool(id)
	}
	m.full = m.View.PGConfig().Backfillfull
}

// inputAll tells all Machines what etcd says.
func (m *Manager) inputAll() {
	for _, p := range m.order {
		m.step(p, m.inputs(p))
	}
}

// target is the entry of a PG in pg/config, or nil.
func (m *Manager) target(id meta.PG) *schema.PGTarget {
	return m.View.PGConfig().Pool(id.Pool).PG(id.Num)
}

// input tells the Machine of a PG, if it has one, what etcd says.
func (m *Manager) input(id meta.PG) {
	p := m.pgs[id]
	if p == nil {
		if t := m.target(id); t == nil || t.Primary != m.c.OSD || m.shutdown {
			return
		}
		p = m.add(id)
	}
	m.step(p, m.inputs(p))
}

// inputPool does so for all PGs of a pool.
func (m *Manager) inputPool(id meta.PoolID) {
	for _, p := range slices.Clone(m.order) {
		if p.id.Pool == id {
			m.step(p, m.inputs(p))
		}
	}
	targets := m.View.PGConfig().Pool(id)
	if targets.Count() == 0 {
		return
	}
	for i := range targets.PGs {
		t := &targets.PGs[i]
		if t.Primary == m.c.OSD && m.pgs[meta.PG{Pool: id, Num: t.Num}] == nil {
			m.input(meta.PG{Pool: id, Num: t.Num})
		}
	}
}

// inputs is everything that etcd says about a PG.
func (m *Manager) inputs(p *pg) peering.Inputs {
	v := m.View
	in := peering.Inputs{Revision: v.PGRevision(), Holder: v.PGState(p.id).Primary}
	var err error
	in.History, err = v.PGHistory(p.id)
	in.HistoryBad = err != nil
	why := ""
	t, sp, pl := m.target(p.id), v.Pool(p.id.Pool), m.pools[p.id.Pool]
	if t != nil && sp != nil && pl != nil {
		in.Target = *t
		in.Pool = m.params(sp, v.PGConfig().Pool(p.id.Pool).Count())
		in.Exists = !pl.moving()
		if why = m.impossible(t, sp); why != "" {
			in.Target.Broken = true
		}
		if in.HistoryBad && why == "" {
			why = fmt.Sprintf("its history in etcd cannot be read: %v", err)
		}
		if t.Primary != m.c.OSD {
			why = ""
		}
	}
	p.complain(&p.badConfig, why)
	return in
}

// params are the parameters of a pool that its PGs work with.
func (m *Manager) params(p *schema.Pool, count uint32) peering.PoolParams {
	locks := m.c.PGLocks == option.On
	if m.c.PGLocks == option.Auto {
		locks = p.Scheme == meta.Replicated && p.LocalReads != schema.ReadPrimary
	}
	return peering.PoolParams{
		Scheme: p.Scheme, PGSize: p.PGSize, PGMinSize: p.PGMinSize, DataChunks: p.DataChunks(),
		PGCount: count, PGStripeBytes: p.PGStripeBytes, Fits: m.misfit(p) == "", Locks: locks,
		AllowNetSplit: m.c.AllowNetSplit, ReadOnly: m.c.ReadOnly,
	}
}

// misfit says why PGs of a pool cannot be run by this OSD; "" = they can.
func (m *Manager) misfit(p *schema.Pool) string {
	switch {
	case !m.c.RunPrimary:
		return "this OSD was started with run_primary off"
	case p.BlockBytes != m.c.BlockBytes:
		return fmt.Sprintf("its block_size is %d, that of this OSD is %d", p.BlockBytes, m.c.BlockBytes)
	case p.GranularityBytes != m.c.GranuleBytes:
		return fmt.Sprintf("its bitmap_granularity is %d, that of this OSD is %d", p.GranularityBytes, m.c.GranuleBytes)
	case p.Commit > m.c.Commit:
		return fmt.Sprintf("its immediate_commit is %v, this OSD only has %v: clients would believe that writes are durable which are not",
			p.Commit, m.c.Commit)
	}
	return ""
}

// impossible says what is wrong with a PG's entry in pg/config, apart from what
// makes it a paused one.
func (m *Manager) impossible(t *schema.PGTarget, p *schema.Pool) string {
	for i, osd := range t.OSDSet {
		if osd != 0 && slices.Contains(t.OSDSet[:i], osd) {
			return fmt.Sprintf("its osd_set %v in pg/config has OSD %d twice: correct it, or let the monitor do it", t.OSDSet, osd)
		}
	}
	if len(t.OSDSet) != p.PGSize && !t.Pause && !t.Broken {
		return fmt.Sprintf("its osd_set %v in pg/config does not have pg_size %d items: it counts as paused", t.OSDSet, p.PGSize)
	}
	return ""
}

// followBackfill tells recovery about pools whose recovery was suspended or
// allowed.
func (m *Manager) followBackfill() {
	full := m.View.PGConfig().Backfillfull
	for _, p := range m.order {
		changed := slices.Contains(full, p.id.Pool) != slices.Contains(m.full, p.id.Pool)
		state := p.machine.State()
		if changed && m.Heal != nil && state&meta.PGActive != 0 && state&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0 {
			m.Heal.Recoverable(p.id)
		}
	}
	m.full = full
}
