package msgr

import (
	"errors"
	"net/netip"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// peer is an OSD that we know, and connect to while it is wanted.
//
//	          Want, has addresses            SHOW_CONFIG ok
//	idle ───────────────────────▶ connecting ──────────────▶ ready
//	  ▲                             │   ▲                      │
//	  │ unwanted, or no addresses   ▼   │ timer                │
//	  └────────────────────────── waiting ◀────────────────────┘ connection lost
type peer struct {
	m      *Messenger
	osd    meta.OSDNum
	wanted bool
	plan   dialPlan
	conn   *Conn     // connecting, ready, or closed but not gone
	timer  env.Timer // armed while waiting
}

var errUnwanted = errors.New("not wanted any more")

func (m *Messenger) peer(osd meta.OSDNum) *peer {
	p := m.peersByID[osd]
	if p == nil {
		p = &peer{m: m, osd: osd}
		p.timer.Fire = p.connect
		m.peersByID[osd] = p
	}
	return p
}

// SetAddresses tells where an OSD is, from /osd/state/<n>; none = nobody knows.
// An established connection stays. Different addresses are tried at once, or
// when the running attempt fails.
func (m *Messenger) SetAddresses(osd meta.OSDNum, addrs []netip.AddrPort) {
	p := m.peer(osd)
	if p.plan.set(PreferAddresses(addrs, m.networks)) {
		p.schedule()
	}
}

// Want keeps a connection to the OSD from now on: Connected and ConnectFailed
// tell how it goes.
func (m *Messenger) Want(osd meta.OSDNum) {
	p := m.peer(osd)
	if !p.wanted {
		p.wanted = true
		p.schedule()
	}
}

// Unwant ends attempts to connect to the OSD. An established connection stays,
// but is not replaced when it is lost.
func (m *Messenger) Unwant(osd meta.OSDNum) {
	p := m.peersByID[osd]
	if p == nil || !p.wanted {
		return
	}
	p.wanted = false
	m.env.Clock.Disarm(&p.timer)
	if p.conn != nil && p.conn.state < connReady {
		p.conn.drop(errUnwanted)
	}
}

// Forget is Unwant for an OSD that does not exist any more; its connection is
// closed.
func (m *Messenger) Forget(osd meta.OSDNum) {
	p := m.peersByID[osd]
	if p == nil {
		return
	}
	m.Unwant(osd)
	if p.conn != nil {
		p.conn.drop(errUnwanted)
	}
	delete(m.peersByID, osd)
}

// Conn returns the connection to the OSD that is ready for requests, or nil.
func (m *Messenger) Conn(osd meta.OSDNum) *Conn {
	if p := m.peersByID[osd]; p != nil && p.conn != nil && p.conn.state == connReady {
		return p.conn
	}
	return nil
}

// schedule starts connecting, unless that is going on already.
func (p *peer) schedule() {
	if !p.wanted || p.conn != nil || len(p.plan.addrs) == 0 || p.m.closed {
		return
	}
	p.m.env.Clock.Arm(&p.timer, p.plan.again(p.m.now(), p.m.timeouts.ConnectInterval))
}

// connect starts the next attempt.
func (p *peer) connect() {
	m := p.m
	if p.conn != nil || len(p.plan.addrs) == 0 {
		return
	}
	addr := p.plan.start(m.now())
	c := m.newConn(p)
	p.conn = c
	m.env.Clock.Arm(&c.timer, m.timeouts.Connect)
	c.stream = m.env.Net.Dial(addr, c)
}

// lost ends an attempt or a connection.
func (p *peer) lost(c *Conn) {
	p.conn = nil
	if !p.wanted || p.m.closed {
		return
	}
	if c.known { // it was ready
		p.plan.lost(p.m.now(), p.m.timeouts.ConnectInterval)
		p.schedule()
		return
	}
	if len(p.plan.addrs) == 0 {
		return
	}
	wait, exhausted := p.plan.failed(p.m.timeouts.ConnectInterval)
	p.m.env.Clock.Arm(&p.timer, wait)
	if exhausted {
		p.m.handler.ConnectFailed(p.osd, c.reason)
	}
}
