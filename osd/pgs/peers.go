package pgs

import (
	"errors"
	"net/netip"
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/osd/peering"
)

// peer is another OSD.
type peer struct {
	osd       meta.OSDNum
	key       bool // osd/state/<n> exists
	listing   int  // lists being received
	complaint string
}

func (m *Manager) peer(osd meta.OSDNum) *peer {
	p := m.peers[osd]
	if p == nil {
		p = &peer{osd: osd}
		m.peers[osd] = p
	}
	return p
}

// peerView is what Machines see of other OSDs.
type peerView struct{ m *Manager }

func (v peerView) Connected(osd meta.OSDNum) bool { return v.m.Msgr.Conn(osd) != nil }

func (v peerView) HasKey(osd meta.OSDNum) bool {
	p := v.m.peers[osd]
	return p != nil && p.key
}

func (v peerView) CanLock(osd meta.OSDNum) bool {
	c := v.m.Msgr.Conn(osd)
	return c != nil && c.Config().PGLocks
}

// Connected is for msgr.Handler: a wanted OSD is reachable.
func (m *Manager) Connected(c *msgr.Conn) {
	for _, p := range m.order {
		p.arrive(c.OSD())
	}
}

// Disconnected is for msgr.Handler. Only connections that we have made matter.
func (m *Manager) Disconnected(c *msgr.Conn) {
	if !c.Incoming() {
		m.stepAll(peering.PeerDisconnected{OSD: c.OSD()})
	}
}

func (m *Manager) want(osd meta.OSDNum) {
	if !slices.Contains(m.wanted, osd) {
		m.wanted = append(m.wanted, osd)
		m.Msgr.Want(osd)
	}
}

// unwant ends attempts to connect to OSDs that no PG needs: a Machine asks
// again each time it looks for its peers.
func (m *Manager) unwant() {
	needed := map[meta.OSDNum]bool{}
	for _, p := range m.order {
		for _, osd := range p.machine.CurPeers() {
			needed[osd] = true
		}
		for _, osd := range p.machine.DeadPeers() {
			needed[osd] = true
		}
	}
	m.wanted = slices.DeleteFunc(m.wanted, func(osd meta.OSDNum) bool {
		if !needed[osd] {
			m.Msgr.Unwant(osd)
		}
		return !needed[osd]
	})
}

// followOSD handles a change of osd/state/<n>. OSDs never rewrite their key, so
// a different one is another life of the OSD.
func (m *Manager) followOSD(osd meta.OSDNum) {
	if osd == m.c.OSD {
		return
	}
	p, state := m.peer(osd), m.View.OSD(osd)
	if p.key {
		m.vanish(p)
	}
	if state != nil {
		p.key = true
		m.Msgr.SetAddresses(osd, m.addresses(p, state))
		m.stepAll(peering.PeerKeySeen{OSD: osd})
	}
}

// errVanished is why connections are closed at once, without waiting for a
// timeout: what such an OSD still sends must not be executed any more.
var errVanished = errors.New("its key in etcd has disappeared: the OSD has stopped, or has lost its lease")

// vanish drops everything that belongs to an OSD whose lease is over.
func (m *Manager) vanish(p *peer) {
	p.key = false
	m.Msgr.SetAddresses(p.osd, nil)
	m.Msgr.Connections(func(c *msgr.Conn) {
		if c.OSD() == p.osd {
			c.Drop(errVanished)
		}
	})
	m.stepAll(peering.PeerKeyGone{OSD: p.osd})
}

// addresses are where an OSD says it is.
func (m *Manager) addresses(p *peer, s *schema.OSDState) []netip.AddrPort {
	var addrs []netip.AddrPort
	bad := ""
	for _, text := range s.Addresses {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			bad = err.Error()
			continue
		}
		if a := netip.AddrPortFrom(ip, s.Port); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if bad != p.complaint {
		if p.complaint = bad; bad != "" {
			m.log.Warn("OSD announces an address that cannot be used", "osd", uint64(p.osd), "err", bad)
		}
	}
	return addrs
}
