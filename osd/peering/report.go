package peering

import (
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// reporter is what etcd knows, does not know yet, and may know of the PG.
type reporter struct {
	dirty    bool
	inFlight *schema.PGReport
	cleaning bool // the report in flight was meant to shrink the history

	acquired   bool  // the key is ours ...
	acquiredAt int64 // ... since this revision
	maybe      bool  // the outcome of taking it is unknown

	cleanup   bool   // the history should shrink (osd.md §11.3)
	wantEpoch uint64 // a write waits until this is recorded, 0 = none
	scrub     *uint64

	// written is a history of ours that the watch has not shown yet.
	written   *schema.PGHistory
	writtenAt int64 // its revision, 0 = it is unknown whether it was written
}

// leaveActive drops wishes that only an active PG has.
func (r *reporter) leaveActive() { r.cleanup, r.wantEpoch, r.scrub = false, 0, nil }

// pending: there is something to tell, or being told.
func (r *reporter) pending() bool { return r.dirty || r.inFlight != nil }

func (r *reporter) inFlightOffline() bool { return r.inFlight != nil && r.inFlight.State.Offline() }

// holds: the key is ours, or it may be.
func (r *reporter) holds() bool { return r.acquired || r.maybe || r.inFlight != nil }

// unseen: a history of ours is written, and the next one has to wait until the
// watch shows it.
func (r *reporter) unseen() bool { return r.written != nil && r.writtenAt != 0 }

// markDirty asks for a report if etcd has to know the present state.
func (m *Machine) markDirty() {
	r := &m.report
	if !m.is(meta.PGStarting) && !r.holds() {
		r.dirty = false
		return
	}
	if !r.dirty && r.inFlight == nil {
		m.emit(SendReport{})
	}
	r.dirty = true
}

// Report returns what to put into a transaction now, and whether there is
// anything. Reported or ReportFailed must follow; until then it is not called.
func (m *Machine) Report() (schema.PGReport, bool) {
	r := &m.report
	if !r.dirty || r.inFlight != nil {
		return schema.PGReport{}, false
	}
	// Until the key is ours there is nothing to tell but that we want it, or that
	// we have given it up if we got it.
	if !r.acquired && !m.is(meta.PGStarting) && !(m.is(meta.PGOffline) && r.maybe) {
		r.dirty = false
		return schema.PGReport{}, false
	}
	rep := schema.PGReport{
		PG:     m.pg,
		State:  schema.PGState{Primary: m.me, State: m.state, Peers: slices.Clone(m.curPeers)},
		Holder: schema.HeldByNobody,
	}
	if r.acquired || r.maybe && m.is(meta.PGOffline) {
		rep.Holder = schema.HeldByMe
	}
	if m.is(meta.PGActive) {
		if rep.History = m.nextHistory(); !r.unseen() {
			r.cleaning, r.cleanup = r.cleanup, false
		}
	}
	r.dirty, r.inFlight = false, &rep
	return rep, true
}

// nextHistory is what the history should be, nil = as it is (osd.md §2, §11.3).
// Its epoch never decreases.
func (m *Machine) nextHistory() *schema.PGHistory {
	r := &m.report
	if r.unseen() {
		return nil
	}
	h := cloneHistory(&m.base)
	changed := false
	if r.cleanup && m.cleanHistory(&h) {
		changed = true
	}
	if r.wantEpoch > h.Epoch {
		h.Epoch, changed = r.wantEpoch, true
		if m.state != meta.PGActive {
			h.AddSet(schema.NormalSet(slices.Clone(m.curSet)))
		}
	}
	if r.scrub != nil && *r.scrub != h.NextScrub {
		h.NextScrub, changed = *r.scrub, true
	}
	if !changed {
		return nil
	}
	h.Normalise()
	return &h
}

// cleanHistory forgets former OSDs when all data is on the target set. It must
// still be so when the report is made, not only when it was asked for.
func (m *Machine) cleanHistory(h *schema.PGHistory) (changed bool) {
	var all []meta.OSDNum
	switch m.state {
	case meta.PGActive:
		if len(h.AllPeers) == 0 && len(h.OSDSets) == 0 {
			return false // nothing that could be forgotten
		}
		all = schema.NormalSet(slices.Clone(m.target))
	case meta.PGActive | meta.PGLeftOnDead:
		all = schema.NormalSet(append(slices.Clone(m.target), m.dead...))
	default:
		return false
	}
	if len(h.OSDSets) == 0 && slices.Equal(h.AllPeers, all) {
		return false
	}
	h.OSDSets, h.AllPeers = nil, all
	if m.state == meta.PGActive {
		h.Epoch = max(h.Epoch, m.epoch) // spares the first write a transaction
	}
	return true
}

// followHistory compares the history with what we started from or have written,
// and returns false if somebody else has changed it.
func (m *Machine) followHistory() bool {
	r, h := &m.report, &m.in.History
	if r.written != nil && (r.writtenAt != 0 && m.in.Revision >= r.writtenAt || samePlaces(h, r.written) && !samePlaces(h, &m.base)) {
		m.base.OSDSets, m.base.AllPeers = r.written.OSDSets, r.written.AllPeers
		r.written = nil
		if samePlaces(h, &m.base) {
			m.historyWritten()
		}
	}
	if !samePlaces(h, &m.base) {
		// It may be ours before the answer to our transaction has come.
		return r.inFlight != nil && r.inFlight.History != nil && samePlaces(h, r.inFlight.History)
	}
	if r.wantEpoch != 0 && h.Epoch > m.base.Epoch {
		m.emit(EpochRecorded{h.Epoch})
		if h.Epoch >= r.wantEpoch {
			r.wantEpoch = 0
		}
	}
	m.base.Epoch = h.Epoch
	if h.NextScrub != m.base.NextScrub {
		m.base.NextScrub = h.NextScrub
		if m.is(meta.PGActive) {
			m.emit(PlanScrub{h.NextScrub})
		}
	}
	if r.scrub != nil && *r.scrub == h.NextScrub {
		r.scrub = nil
	}
	if m.is(meta.PGActive) && !r.pending() && m.nextHistory() != nil {
		m.markDirty()
	}
	return true
}

// historyWritten follows our own change: OSDs may have no data any more.
func (m *Machine) historyWritten() {
	if !m.is(meta.PGActive) {
		m.repeer("our history was written")
		return
	}
	m.setMembers()
	former := func(osd meta.OSDNum) bool {
		p := m.peer(osd)
		return p == nil || !p.member
	}
	m.curPeers = slices.DeleteFunc(m.curPeers, former)
	m.dead = slices.DeleteFunc(m.dead, former)
	m.pumpLocks()
	// A set of an earlier round, recorded only now: nothing was written with it,
	// but nobody else could know that. Very rare: two members changed places
	// during the transaction.
	if why := m.lackingSet(); why != "" {
		m.repeer(why)
	}
}

// samePlaces: the same OSDs may have data, with the same sets. Both normalised.
func samePlaces(a, b *schema.PGHistory) bool {
	return slices.Equal(a.AllPeers, b.AllPeers) && slices.EqualFunc(a.OSDSets, b.OSDSets, slices.Equal)
}

func (m *Machine) onNeedEpoch(epoch uint64) {
	if !m.is(meta.PGActive) {
		return
	}
	m.epoch = max(m.epoch, epoch)
	if m.base.Epoch >= epoch {
		m.emit(EpochRecorded{epoch})
		return
	}
	if epoch > m.report.wantEpoch {
		m.report.wantEpoch = epoch
		m.markDirty()
	}
}

func (m *Machine) onScrub(at uint64) {
	if m.is(meta.PGActive) && at != m.base.NextScrub {
		m.report.scrub = &at
		m.markDirty()
	}
}

// onReported: etcd has what we reported.
func (m *Machine) onReported(revision int64) {
	r := &m.report
	rep := r.inFlight
	if rep == nil {
		return
	}
	r.inFlight, r.cleaning = nil, false
	switch {
	case rep.State.Offline():
		m.released()
		return
	case rep.State.State == meta.PGStarting:
		r.acquired, r.acquiredAt = true, revision
	}
	if rep.History != nil {
		r.written, r.writtenAt = rep.History, revision
	}
	m.afterReport(false)
}

// onReportFailed: another PG of the transaction may be the reason, or ours.
func (m *Machine) onReportFailed(ev ReportFailed) {
	r := &m.report
	rep := r.inFlight
	if rep == nil {
		return
	}
	r.inFlight = nil
	if r.cleaning {
		r.cleaning, r.cleanup = false, m.is(meta.PGActive)
	}
	if ev.Unknown {
		r.maybe = r.maybe || rep.State.State == meta.PGStarting
		if rep.History != nil {
			r.written, r.writtenAt = rep.History, 0
		}
		r.dirty = true
		m.afterReport(true)
		return
	}
	foreign := ev.Primary != 0 && !ev.Own
	switch {
	case rep.State.Offline():
		if !ev.Own {
			m.released()
			return
		}
		r.dirty = true
	case rep.State.State == meta.PGStarting:
		// An earlier attempt without an answer may have succeeded.
		r.acquired, r.acquiredAt, r.maybe = ev.Own, ev.Revision, false
		r.dirty = r.dirty || !ev.Own
	case foreign:
		m.fatal(ev.Primary)
	default:
		r.dirty = true
	}
	m.afterReport(true)
}

// afterReport goes on with what the end of a transaction makes possible.
func (m *Machine) afterReport(later bool) {
	r := &m.report
	if m.is(meta.PGOffline) && !r.acquired && !r.maybe {
		m.released()
		return
	}
	if !m.is(meta.PGStarting) && !r.holds() {
		r.dirty = false
	}
	if r.dirty {
		m.emit(SendReport{Later: later})
	}
	// The watch may have been faster than the answer.
	if m.is(meta.PGStarting) {
		m.tryPeer()
	} else if !m.is(meta.PGOffline) {
		m.onInputs(m.in)
	}
}
