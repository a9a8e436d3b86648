package peering

import (
	"cmp"
	"slices"

	"vitastor/internal/meta"
)

// peer is an OSD that may have data of the PG, or that we have locked.
type peer struct {
	osd       meta.OSDNum
	member    bool // of all peers of the PG
	connected bool // and has its key: without, it is as good as dead
	hasKey    bool
	listed    bool // in this round

	canLock bool
	held    bool         // we have locked it, or are about to
	acked   meta.PGState // the state it has with the lock, 0 = unknown
	sent    meta.PGState // the state being sent
	busy    uint64       // seq of the lock request in flight, 0 = none
	retry   bool         // wait for the timer first
}

// disconnect: locks live as long as their connection.
func (p *peer) disconnect() {
	p.connected, p.canLock, p.listed = false, false, false
	p.held, p.acked, p.busy, p.retry = false, 0, 0, false
}

func (m *Machine) peer(osd meta.OSDNum) *peer {
	i, ok := slices.BinarySearchFunc(m.peers, osd, func(p peer, o meta.OSDNum) int { return cmp.Compare(p.osd, o) })
	if !ok {
		return nil
	}
	return &m.peers[i]
}

// setMembers makes all OSDs that may have data the peers. Others stay only as
// long as they hold locks.
func (m *Machine) setMembers() {
	t := m.in.Target
	t.OSDSet = m.target
	all := t.Peers(&m.base)
	for i := range m.peers {
		_, m.peers[i].member = slices.BinarySearch(all, m.peers[i].osd)
	}
	m.peers = slices.DeleteFunc(m.peers, func(p peer) bool { return !p.member && !p.held })
	for _, osd := range all {
		if m.peer(osd) == nil {
			m.peers = append(m.peers, peer{osd: osd, member: true,
				connected: osd == m.me || m.view.Connected(osd) && m.view.HasKey(osd),
				hasKey:    osd == m.me || m.view.HasKey(osd),
				canLock:   osd != m.me && m.view.CanLock(osd)})
			slices.SortFunc(m.peers, func(a, b peer) int { return cmp.Compare(a.osd, b.osd) })
		}
	}
}

func (m *Machine) present(osd meta.OSDNum) bool {
	if osd == m.me {
		return true
	}
	p := m.peer(osd)
	return p != nil && p.connected
}

func (m *Machine) onConnected(osd meta.OSDNum) {
	p := m.peer(osd)
	if p == nil || p.connected || osd == m.me {
		return
	}
	if p.hasKey = p.hasKey || m.view.HasKey(osd); !p.hasKey {
		return // it counts from when the key is seen
	}
	p.connected, p.canLock = true, m.view.CanLock(osd)
	if p.member {
		m.repeer("an OSD has come back")
	}
}

func (m *Machine) onDisconnected(osd meta.OSDNum) {
	p := m.peer(osd)
	if p == nil || !p.connected || osd == m.me {
		return
	}
	m.lost(p)
}

// lost: a connection is gone, or of no use any more.
func (m *Machine) lost(p *peer) {
	p.disconnect()
	if p.member {
		m.repeer("an OSD was lost")
	}
	m.advance()
}

func (m *Machine) onKey(osd meta.OSDNum) {
	p := m.peer(osd)
	if p == nil || p.hasKey {
		return
	}
	p.hasKey = true
	if m.view.Connected(osd) {
		m.onConnected(osd)
		return
	}
	if p.member && !p.connected && m.is(meta.PGPeering|meta.PGIncomplete|meta.PGActive|meta.PGRepeering) {
		m.emit(Connect{osd})
	}
}

// onKeyGone: that OSD is dead for the cluster. Its connection may live a little
// longer; using it would only delay the inevitable.
func (m *Machine) onKeyGone(osd meta.OSDNum) {
	p := m.peer(osd)
	if p == nil || !p.hasKey || osd == m.me {
		return
	}
	p.hasKey = false
	switch {
	case p.connected:
		m.emit(DropPeer{osd, "its key in etcd has disappeared"})
		m.lost(p)
	case p.member && m.is(meta.PGIncomplete):
		m.repeer("an OSD is dead for sure")
	}
}

// lockable: there has to be a lock before we list.
func (m *Machine) lockable(p *peer) bool {
	return m.pool.Locks && p.connected && p.canLock && p.osd != m.me
}

// wantsLock: locks are acquired when peering, and kept with the present state
// until the PG stops.
func (m *Machine) wantsLock(p *peer) bool {
	switch {
	case !m.lockable(p), m.is(meta.PGStopping | meta.PGOffline | meta.PGStarting):
		return false
	case m.is(meta.PGPeering):
		return slices.Contains(m.curPeers, p.osd)
	}
	return p.held && p.member
}

// lockState is the state that a peer is told. One that has to have nothing of the
// PG, but was asked what it has, is never told that all is well: it would serve
// localized reads of clients that do not know yet that the PG has moved away,
// with the emptiness that it has.
func (m *Machine) lockState(p *peer) meta.PGState {
	if m.is(meta.PGActive) && !slices.Contains(m.curSet, p.osd) {
		return m.state | meta.PGHasMisplaced
	}
	return m.state
}

// pumpLocks sends what each peer does not know yet, one request at a time.
func (m *Machine) pumpLocks() {
	for i := range m.peers {
		p := &m.peers[i]
		if p.busy != 0 || p.retry {
			continue
		}
		switch wants := m.wantsLock(p); {
		case wants && p.acked != m.lockState(p):
			m.seq++
			p.held, p.busy, p.sent = true, m.seq, m.lockState(p)
			m.emit(SendLock{p.osd, p.busy, p.sent})
		case !wants && p.held:
			m.seq++
			p.busy, p.sent = m.seq, 0
			m.emit(SendUnlock{p.osd, p.busy})
		}
	}
}

func (m *Machine) onLock(ev LockResult) {
	p := m.peer(ev.OSD)
	if p == nil || p.busy == 0 || p.busy != ev.Seq {
		return
	}
	p.busy = 0
	switch {
	case !ev.OK:
		p.acked, p.retry = 0, true
		if m.lockTimer == 0 {
			m.seq++
			m.lockTimer = m.seq
			m.emit(StartTimer{LockRetry, m.lockTimer})
		}
	case p.sent == 0:
		p.held, p.acked = false, 0
	default:
		p.acked = p.sent
	}
	m.pumpLocks()
	m.tryList()
	m.advance()
}

// locked: all present peers know that we peer.
func (m *Machine) locked() bool {
	for _, osd := range m.curPeers {
		if p := m.peer(osd); p != nil && m.lockable(p) && (p.busy != 0 || p.acked != m.lockState(p)) {
			return false
		}
	}
	return true
}

// unlocked: nobody holds a lock of ours.
func (m *Machine) unlocked() bool {
	return !slices.ContainsFunc(m.peers, func(p peer) bool { return p.held || p.busy != 0 })
}
