package pgs

import (
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/osd/peering"
	"vitastor/osd/secondary"
)

// Pool implements primary.View.
func (m *Manager) Pool(id meta.PoolID) *schema.Pool { return m.View.Pool(id) }

// PGCount implements primary.View: the count that objects are sorted by now.
func (m *Manager) PGCount(id meta.PoolID) uint32 {
	if p := m.pools[id]; p != nil {
		return p.sorted.count
	}
	return 0
}

// Inode implements primary.View.
func (m *Manager) Inode(id meta.Inode) *schema.SeenInode { return m.View.Inode(id) }

// SecondaryView is what secondary.Server asks.
func (m *Manager) SecondaryView() secondary.View { return secondaryView{m} }

type secondaryView struct{ m *Manager }

func (v secondaryView) Pool(id meta.PoolID) (secondary.Pool, bool) {
	if p := v.m.pools[id]; p != nil && p.sorted.count != 0 {
		return p.secondary, true
	}
	return secondary.Pool{}, false
}

func (v secondaryView) Primary(pg meta.PG) bool {
	p := v.m.pgs[pg]
	return p != nil && p.machine.State() != meta.PGOffline
}

// NeedEpoch implements primary.Owner.
func (m *Manager) NeedEpoch(id meta.PG, epoch uint64) {
	if p := m.pgs[id]; p != nil {
		p.wantEpoch = max(p.wantEpoch, epoch)
		p.poke()
	}
}

// FlagsChanged implements primary.Owner.
func (m *Manager) FlagsChanged(id meta.PG, flags meta.PGState) {
	if p := m.pgs[id]; p != nil {
		p.flags, p.hasFlags = flags, true
		p.poke()
	}
}

// ScrubPlanned changes next_scrub of a PG: a unix time, 0 = none.
func (m *Manager) ScrubPlanned(id meta.PG, at uint64) {
	if p := m.pgs[id]; p != nil {
		m.step(p, peering.ScrubPlanned{At: at})
	}
}

// poke tells the news of a PG later in this turn of the loop, once.
func (p *pg) poke() {
	if !p.isPoked {
		p.isPoked = true
		p.m.poked = append(p.m.poked, p)
		p.m.env.Exec.Defer(&p.m.pokeTask)
	}
}

func (m *Manager) tellPokes() {
	for i, p := range m.poked {
		m.poked[i], p.isPoked = nil, false
		if epoch := p.wantEpoch; epoch != 0 {
			p.wantEpoch = 0
			m.step(p, peering.NeedEpoch{Epoch: epoch})
		}
		if p.hasFlags {
			p.hasFlags = false
			m.step(p, peering.FlagsChanged{Flags: p.flags})
		}
	}
	m.poked = m.poked[:0]
}
