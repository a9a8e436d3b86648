package peering

import (
	"fmt"
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// startPeering is steps 1 to 6 of osd.md §11: who is there, and is it enough.
// Nothing is in flight when it is called.
func (m *Machine) startPeering() {
	m.round++
	m.emit(Reset{})
	m.setMembers()
	before := m.curPeers
	m.curPeers, m.dead = nil, nil
	for i := range m.peers {
		p := &m.peers[i]
		p.listed = false
		switch {
		case !p.member:
		case p.osd == m.me || p.connected:
			m.curPeers = append(m.curPeers, p.osd)
		default:
			m.dead = append(m.dead, p.osd)
			m.emit(Connect{p.osd})
		}
	}
	m.curSet = make([]meta.OSDNum, len(m.target))
	for role, osd := range m.target {
		if osd != 0 && m.present(osd) {
			m.curSet[role] = osd
		}
	}
	if !slices.Equal(before, m.curPeers) {
		m.markDirty() // also when the state stays the same
	}
	if why := m.incomplete(); why != "" {
		m.setState(meta.PGIncomplete, why)
		m.pumpLocks()
		return
	}
	m.phase = locking
	m.setState(meta.PGPeering, "waiting for the OSDs of the PG")
	m.pumpLocks()
	m.tryList()
}

// incomplete says why the present OSDs are not enough; "" = they are.
func (m *Machine) incomplete() string {
	for _, osd := range m.dead {
		if m.peer(osd).hasKey && !m.pool.AllowNetSplit {
			return fmt.Sprintf("OSD %d runs, but there is no connection to it", osd)
		}
	}
	if m.curSize() < m.minSize() {
		return fmt.Sprintf("%d of the OSDs %v are there, pg_minsize is %d", m.curSize(), m.target, m.minSize())
	}
	return m.lackingSet()
}

// lackingSet finds a set of OSDs that may have taken writes without the others,
// and of which too few are there; "" = none.
func (m *Machine) lackingSet() string {
	for _, set := range m.base.OSDSets {
		members, present := 0, 0
		for _, osd := range set {
			members++
			if m.present(osd) {
				present++
			}
		}
		if members >= m.pool.DataChunks && present < m.pool.DataChunks {
			return fmt.Sprintf("%d of the OSDs %v that may have newer data are there, %d are needed",
				present, set, m.pool.DataChunks)
		}
	}
	return ""
}

func (m *Machine) curSize() int {
	l := Layout{CurSet: m.curSet}
	return l.CurSize()
}

// minSize is pg_minsize, but never so few that nothing could be read.
func (m *Machine) minSize() int { return max(m.pool.PGMinSize, m.pool.DataChunks, 1) }

// tryList goes on when all locks are there (step 8).
func (m *Machine) tryList() {
	if !m.is(meta.PGPeering) || m.phase != locking || !m.locked() {
		return
	}
	m.phase = listing
	for _, osd := range m.curPeers {
		m.emit(SendList{osd, m.round})
	}
	m.tryCalculate()
}

func (m *Machine) onList(ev ListDone) {
	if ev.Round != m.round || !m.is(meta.PGPeering) || m.phase != listing {
		return
	}
	p := m.peer(ev.OSD)
	switch {
	case p == nil || p.listed:
	case ev.OK:
		p.listed = true
		m.tryCalculate()
	case ev.OSD == m.me:
		m.emit(StartTimer{PeerAgain, m.round})
	default:
		m.emit(DropPeer{ev.OSD, "it did not list its objects"})
		m.lost(p)
	}
}

func (m *Machine) tryCalculate() {
	for _, osd := range m.curPeers {
		if !m.peer(osd).listed {
			return
		}
	}
	m.phase = calculating
	m.emit(Calculate{m.round})
}

// onCalculated activates the PG (step 9).
func (m *Machine) onCalculated(ev Calculated) {
	if ev.Round != m.round || !m.is(meta.PGPeering) || m.phase != calculating {
		return
	}
	// The maximum of all there is: the recorded epoch of a mixed cluster may be
	// lower than versions (osd.md 23, row 13), and the other way round.
	epoch := max(ev.Summary.MaxEpoch, m.base.Epoch, m.in.History.Epoch, m.epoch)
	invalid := ev.Summary.Invalid
	if invalid == "" && epoch >= 1<<48-1 {
		invalid = fmt.Sprintf("epoch %d is the last one there is: some OSD has a damaged object version", epoch)
	}
	if invalid != "" {
		m.emit(Reset{})
		m.setState(meta.PGIncomplete|meta.PGHasInvalid, invalid)
		return
	}
	state := meta.PGActive | ev.Summary.Flags&^meta.PGLifeCycle
	if m.curSize() < m.pool.PGSize {
		state |= meta.PGDegraded
	}
	if len(m.dead) > 0 {
		state |= meta.PGLeftOnDead
	}
	if state != meta.PGActive {
		epoch++
	}
	m.epoch = epoch
	m.emit(Activate{epoch})
	m.setState(state, "")
	m.startFlush()
	if state&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0 && state&meta.PGHasUnclean == 0 {
		m.emit(Recover{})
	}
	m.emit(PlanScrub{m.base.NextScrub})
}

func cloneHistory(h *schema.PGHistory) schema.PGHistory {
	c := *h
	c.AllPeers = slices.Clone(h.AllPeers)
	c.OSDSets = make([][]meta.OSDNum, len(h.OSDSets))
	for i, set := range h.OSDSets {
		c.OSDSets[i] = slices.Clone(set)
	}
	return c
}
