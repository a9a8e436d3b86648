package peering

import (
	"fmt"
	"slices"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// PoolParams are the parameters of a pool that peering depends on.
type PoolParams struct {
	Scheme        meta.Scheme
	PGSize        int
	PGMinSize     int
	DataChunks    int    // k; 1 for replicated
	PGCount       uint32 // configured PGs (schema.PoolPGs.Count)
	PGStripeBytes uint64
	// Fits: block size and granularity are those of this OSD.
	Fits bool
	// Locks: enable_pg_locks, or, when that is not configured, a replicated
	// pool with local_reads (osd.md §11).
	Locks bool
	// AllowNetSplit: OSDs that run but are not connected count as dead.
	AllowNetSplit bool
	// ReadOnly: unstable versions are not flushed.
	ReadOnly bool
}

// Inputs are everything etcd says about a PG: the whole of it each time, so
// repeated and left out events do no harm. It is given when the configuration,
// the pool, the PG's state or its history have changed, after all events of
// one revision were applied to the view, and before a Report is made.
type Inputs struct {
	Revision int64 // the view of pg/ is complete up to here
	Exists   bool  // the PG is configured and its pool is valid
	Target   schema.PGTarget
	Pool     PoolParams
	Holder   meta.OSDNum // primary in pg/state, 0 = there is no such key
	History  schema.PGHistory
	// HistoryBad: the history cannot be read. Such a PG does not start; one that
	// runs goes on with the last history.
	HistoryBad bool
}

// Peers tells what is known about OSDs when a PG begins to care for them. Changes
// come as events.
type Peers interface {
	Connected(meta.OSDNum) bool
	HasKey(meta.OSDNum) bool // osd/state/<n> exists
	// CanLock: the peer announced the feature pg_locks.
	CanLock(meta.OSDNum) bool
}

// Machine is the life-cycle of one PG on its (possible) primary (osd.md §10).
//
//	OFFLINE -> STARTING -> PEERING -> ACTIVE <-> REPEERING -> PEERING
//	                          \-> INCOMPLETE -> PEERING
//	all of them -> STOPPING -> OFFLINE
//
// Every step starts from the newest Inputs; STOPPING and REPEERING wait until
// nothing is in flight. Rounds and sequence numbers make late answers harmless.
type Machine struct {
	pg   meta.PG
	me   meta.OSDNum
	view Peers
	out  []Action

	in       Inputs // newest, with History normalised
	shutdown bool

	// The PG as it was taken, which it stays until it stops.
	target []meta.OSDNum
	pool   PoolParams
	base   schema.PGHistory // newest one that is ours or that we started from

	state meta.PGState
	why   string // of the last state, for people
	round uint64 // of peering; answers to earlier rounds are ignored
	phase phase  // inside PEERING
	peers []peer // ascending; members first of all, and others that are locked

	curSet   []meta.OSDNum
	curPeers []meta.OSDNum
	dead     []meta.OSDNum
	epoch    uint64

	seq       uint64 // of StopOps, locks and timers
	opsSeq    uint64 // of the last StopOps
	drained   bool   // since then
	flushing  uint64 // seq of the batch in flight, 0 = none
	lockTimer uint64 // seq of the timer that runs, 0 = none

	report reporter
}

// phase of PEERING.
type phase uint8

const (
	locking phase = iota
	listing
	calculating
)

// New makes the Machine of a PG, offline until Inputs say otherwise.
func New(pg meta.PG, me meta.OSDNum, view Peers) *Machine {
	return &Machine{pg: pg, me: me, view: view, state: meta.PGOffline}
}

// State is the present state. Clients are served while PGActive is set.
func (m *Machine) State() meta.PGState { return m.state }

// Why explains the state when it is not active.
func (m *Machine) Why() string { return m.why }

// Epoch is that of the present or last activation. A write uses it, or a higher
// one when counters overflow, after EpochRecorded.
func (m *Machine) Epoch() uint64 { return m.epoch }

// CurPeers are the OSDs that take part, DeadPeers those that may have data and
// are not there ("left on dead" of a DELETE). Both ascending; read-only.
func (m *Machine) CurPeers() []meta.OSDNum  { return m.curPeers }
func (m *Machine) DeadPeers() []meta.OSDNum { return m.dead }

// Layout is what the calculation of the present round, and operations until the
// next one, work with.
func (m *Machine) Layout() Layout {
	return Layout{PG: m.pg, PGCount: m.pool.PGCount, PGStripeBytes: m.pool.PGStripeBytes,
		Scheme: m.pool.Scheme, DataChunks: m.pool.DataChunks, CurSet: m.curSet}
}

// Step handles an event. The actions are valid until the next Step.
func (m *Machine) Step(ev Event) []Action {
	clear(m.out)
	m.out = m.out[:0]
	switch ev := ev.(type) {
	case Inputs:
		m.onInputs(ev)
	case PeerConnected:
		m.onConnected(ev.OSD)
	case PeerDisconnected:
		m.onDisconnected(ev.OSD)
	case PeerKeySeen:
		m.onKey(ev.OSD)
	case PeerKeyGone:
		m.onKeyGone(ev.OSD)
	case LockResult:
		m.onLock(ev)
	case Timer:
		m.onTimer(ev)
	case ListDone:
		m.onList(ev)
	case Calculated:
		m.onCalculated(ev)
	case OpsDrained:
		if ev.Seq == m.opsSeq {
			m.drained = true
			m.advance()
		}
	case FlushDone:
		m.onFlush(ev)
	case FlagsChanged:
		m.onFlags(ev.Flags)
	case NeedEpoch:
		m.onNeedEpoch(ev.Epoch)
	case ScrubPlanned:
		m.onScrub(ev.At)
	case Shutdown:
		m.shutdown = true
		m.stop("the OSD shuts down")
	case Reported:
		m.onReported(ev.Revision)
	case ReportFailed:
		m.onReportFailed(ev)
	}
	invariant.Check(m.check)
	return m.out
}

// check is what must hold after every step.
func (m *Machine) check() error {
	life := m.state & meta.PGLifeCycle
	switch {
	case life&(life-1) != 0 || m.state.Validate() != nil:
		return fmt.Errorf("PG %v: state %v is not valid", m.pg, m.state)
	case life&(meta.PGActive|meta.PGPeering) != 0 && !m.report.acquired:
		return fmt.Errorf("PG %v: is %v without its etcd key", m.pg, m.state)
	}
	return nil
}

func (m *Machine) emit(a Action) { m.out = append(m.out, a) }

func (m *Machine) is(life meta.PGState) bool { return m.state&life != 0 }

// setState changes the state, which has to be reported, also to those who hold
// our locks.
func (m *Machine) setState(s meta.PGState, why string) {
	m.why = why
	if s == m.state {
		return
	}
	if m.is(meta.PGActive) && s&meta.PGActive == 0 {
		m.report.leaveActive()
	}
	m.state = s
	if s == meta.PGActive || s == meta.PGActive|meta.PGLeftOnDead {
		m.report.cleanup = true
	}
	m.markDirty()
	m.pumpLocks()
}

// onInputs compares what etcd wants with what we do.
func (m *Machine) onInputs(in Inputs) {
	in.History = cloneHistory(&in.History)
	in.History.Normalise()
	m.in = in
	if m.is(meta.PGOffline) {
		m.tryStart()
		return
	}
	if m.is(meta.PGStopping) {
		m.checkHolder()
		return
	}
	if !m.checkHolder() {
		return
	}
	if why := m.refuse(); why != "" {
		m.stop(why)
		return
	}
	if m.is(meta.PGStarting) {
		m.adopt()
		m.tryPeer()
		return
	}
	if !slices.Equal(in.Target.OSDSet, m.target) || in.Pool.differs(&m.pool) {
		m.stop("the configuration of the PG was changed")
		return
	}
	if !in.HistoryBad && !m.followHistory() {
		m.stop("the history of the PG was changed")
		return
	}
	m.followPool()
}

// differs tells whether running with the old parameters is wrong.
func (p *PoolParams) differs(q *PoolParams) bool {
	return p.Scheme != q.Scheme || p.PGSize != q.PGSize || p.DataChunks != q.DataChunks ||
		p.PGCount != q.PGCount || p.PGStripeBytes != q.PGStripeBytes
}

// followPool takes over parameters that do not need a restart.
func (m *Machine) followPool() {
	old := m.pool
	if m.pool = m.in.Pool; m.pool == old {
		return
	}
	readable := old.ReadOnly && !m.pool.ReadOnly
	old.ReadOnly = m.pool.ReadOnly
	switch {
	case m.pool == old:
	case !m.is(meta.PGActive), m.pool.Locks != old.Locks, m.curSize() < m.minSize():
		m.repeer("the pool's parameters were changed")
	}
	if readable {
		m.startFlush()
	}
}

// holder is who has the key of the PG, as far as we know: the view may be older
// than our own transaction.
func (m *Machine) holder() meta.OSDNum {
	if m.report.acquired && m.in.Revision < m.report.acquiredAt {
		return m.me
	}
	return m.in.Holder
}

// checkHolder handles the loss of the key and returns whether to go on.
func (m *Machine) checkHolder() bool {
	if !m.report.acquired || m.report.inFlightOffline() {
		return true
	}
	switch h := m.holder(); h {
	case m.me:
		return true
	case 0:
		m.report.acquired = false
		m.stop("the etcd key of the PG has disappeared")
		m.advance()
	default:
		m.fatal(h)
	}
	return false
}

func (m *Machine) fatal(other meta.OSDNum) {
	m.emit(Fatal{fmt.Sprintf("OSD %d has taken PG %v that OSD %d runs (%v): the lease of this OSD was lost. "+
		"Look for a second OSD %d, or for etcd being slow", other, m.pg, m.me, m.state, m.me)})
	m.report.acquired = false
	m.stop("another OSD has taken the PG")
	m.advance()
}

// refuse says why the PG must not run here; "" = take it (osd.md §10).
func (m *Machine) refuse() string {
	in := &m.in
	switch {
	case m.shutdown:
		return "the OSD shuts down"
	case !in.Exists:
		return "the PG is not configured"
	case !in.Pool.Fits:
		return "block_size or bitmap_granularity of the pool differs from this OSD's"
	case in.Target.Paused(in.Pool.PGSize):
		return "the PG is paused"
	case !in.Target.TakenBy(m.me, m.holder(), in.Pool.PGSize):
		return fmt.Sprintf("the PG belongs to OSD %d, and OSD %d runs it", in.Target.Primary, m.holder())
	}
	return ""
}

// tryStart takes the PG if we should.
func (m *Machine) tryStart() {
	if m.report.pending() {
		return // first etcd has to know that we are offline
	}
	if m.why = m.refuse(); m.why != "" {
		return
	}
	if m.in.HistoryBad {
		m.why = "the history of the PG cannot be read: OSDs with data would be left out"
		return
	}
	m.adopt()
	m.curPeers, m.dead, m.curSet = nil, nil, nil
	m.setState(meta.PGStarting, "the etcd key is being acquired")
}

// adopt makes the newest Inputs those of the PG.
func (m *Machine) adopt() {
	m.target, m.pool = slices.Clone(m.in.Target.OSDSet), m.in.Pool
	if !m.in.HistoryBad {
		m.base = cloneHistory(&m.in.History)
		m.report.written = nil
	}
}

// tryPeer goes on from STARTING when the key is ours and the watch shows it.
func (m *Machine) tryPeer() {
	r := &m.report
	if m.is(meta.PGStarting) && r.acquired && !m.in.HistoryBad &&
		m.in.Revision >= r.acquiredAt && m.in.Holder == m.me {
		m.startPeering()
	}
}

// stop begins to give the PG up.
func (m *Machine) stop(why string) {
	if m.is(meta.PGOffline | meta.PGStopping) {
		return
	}
	m.stopOps()
	m.setState(meta.PGStopping, why)
}

// stopOps ends operations; nothing is served any more.
func (m *Machine) stopOps() {
	m.round++
	m.seq++
	m.opsSeq, m.drained = m.seq, false
	m.emit(StopOps{m.opsSeq})
}

// repeer looks at everything again, because peers came or went.
func (m *Machine) repeer(why string) {
	switch {
	case m.is(meta.PGActive):
		m.stopOps()
		m.setState(meta.PGRepeering, why)
	case m.is(meta.PGPeering | meta.PGIncomplete):
		m.startPeering()
	}
}

// advance goes on with what waits for the end of things in flight.
func (m *Machine) advance() {
	if !m.drained || m.flushing != 0 {
		return
	}
	switch {
	case m.is(meta.PGRepeering):
		m.startPeering()
	case m.is(meta.PGStopping) && m.unlocked():
		m.emit(Reset{})
		m.setState(meta.PGOffline, m.why)
		if !m.report.pending() {
			m.released()
		}
	}
}

// released is the end: nobody holds the key, or somebody else.
func (m *Machine) released() {
	m.report = reporter{}
	m.peers, m.lockTimer = nil, 0
	m.curPeers, m.dead, m.curSet = nil, nil, nil
	m.emit(Forget{})
	m.tryStart()
}

// onFlags follows the objects of an active PG.
func (m *Machine) onFlags(flags meta.PGState) {
	if !m.is(meta.PGActive) {
		return
	}
	const mine = meta.PGHasIncomplete | meta.PGHasDegraded | meta.PGHasMisplaced |
		meta.PGHasCorrupted | meta.PGHasInconsistent | meta.PGScrubbing
	added := flags &^ m.state
	m.setState(m.state&^mine|flags&mine, m.why)
	if added&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0 && m.state&meta.PGHasUnclean == 0 {
		m.emit(Recover{})
	}
}

// startFlush sends a batch if there is something to flush.
func (m *Machine) startFlush() {
	if m.state&(meta.PGActive|meta.PGHasUnclean) == meta.PGActive|meta.PGHasUnclean &&
		m.flushing == 0 && !m.pool.ReadOnly {
		m.seq++
		m.flushing = m.seq
		m.emit(Flush{m.flushing})
	}
}

func (m *Machine) onFlush(ev FlushDone) {
	if m.flushing == 0 || m.flushing != ev.Seq {
		return
	}
	m.flushing = 0
	switch {
	case !m.is(meta.PGActive):
		m.advance()
	case !ev.OK:
		m.repeer("unstable versions could not be flushed")
	case ev.More:
		m.startFlush()
	default:
		m.setState(m.state&^meta.PGHasUnclean, m.why)
		if m.state&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0 {
			m.emit(Recover{})
		}
	}
}

func (m *Machine) onTimer(ev Timer) {
	switch ev.Kind {
	case LockRetry:
		if ev.Seq == m.lockTimer {
			m.lockTimer = 0
			for i := range m.peers {
				m.peers[i].retry = false
			}
			m.pumpLocks()
		}
	case PeerAgain:
		if ev.Seq == m.round && m.is(meta.PGPeering) {
			m.startPeering()
		}
	}
}
