package msgr

import (
	"errors"
	"fmt"
	"net/netip"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
)

// Messenger is all that one loop has to do with the OSD protocol.
type Messenger struct {
	env      *env.Env
	osd      meta.OSDNum
	store    *wire.StoreParams
	networks []netip.Prefix
	config   func(*Conn, wire.ConfigRequest) wire.ConfigReply
	handler  Handler
	timeouts Timeouts
	limits   Limits

	listeners []env.Listener
	conns     connList
	peersByID map[meta.OSDNum]*peer // never iterated: its order is random
	tick      env.Timer
	closed    bool

	control, peers, clients *class   // nil until Listen
	classes                 []*class // those
	slab                    requestSlab
	stashes                 [][]byte
	wakeTask                env.Task

	// The end of things, in cleanTask.
	lost      opQueue
	unsent    requestQueue
	closing   []*Conn
	cleanTask env.Task

	stats Stats
	log   limitedLog
}

// New makes a messenger on e (its Clock, Exec, Net and Log).
func New(e *env.Env, o Options) (*Messenger, error) {
	if err := checkEnv(e); err != nil {
		return nil, err
	}
	m := &Messenger{
		env: e, osd: o.OSD, store: o.Store, networks: o.Networks, config: o.ShowConfig, handler: o.Handler,
		timeouts: o.Timeouts.withDefaults(), limits: o.Limits.withDefaults(),
		peersByID: map[meta.OSDNum]*peer{}, log: limitedLog{env: e},
	}
	if m.handler == nil {
		return nil, errors.New("messenger needs a handler")
	}
	if err := m.limits.check(); err != nil {
		return nil, err
	}
	m.wakeTask.Run, m.cleanTask.Run, m.tick.Fire = m.wake, m.clean, m.everySecond
	m.env.Clock.Arm(&m.tick, tickInterval)
	return m, nil
}

// Listen serves requests on addr (port 0 = any) and returns the real address.
// It may be called for several addresses.
func (m *Messenger) Listen(addr netip.AddrPort) (netip.AddrPort, error) {
	if m.config == nil {
		return netip.AddrPort{}, errors.New("messenger cannot listen without an answer to SHOW_CONFIG")
	}
	if err := m.makeClasses(); err != nil {
		return netip.AddrPort{}, err
	}
	l, err := m.env.Net.Listen(addr, m.accept)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("cannot listen on %v: %w", addr, err)
	}
	m.listeners = append(m.listeners, l)
	return l.Addr(), nil
}

func (m *Messenger) makeClasses() error {
	l := &m.limits
	for _, c := range []struct {
		class           **class
		name            string
		bytes, requests int
	}{
		{&m.control, "handshakes", controlBytes, controlRequests},
		{&m.peers, "requests of OSDs", l.PeerPayloadBytes, l.PeerRequests},
		{&m.clients, "requests of clients", l.ClientPayloadBytes, l.ClientRequests},
	} {
		if *c.class != nil {
			continue
		}
		pool, err := pinned.NewPool(c.name, c.bytes)
		if err != nil {
			return fmt.Errorf("memory for payloads: %w", err)
		}
		*c.class = &class{pool: pool, max: c.requests}
		m.classes = append(m.classes, *c.class)
	}
	return nil
}

// accept takes a new connection: of a client, until it says otherwise.
func (m *Messenger) accept(s env.Stream) env.StreamHandler {
	if m.closed || m.conns.accepted >= m.limits.Connections {
		m.stats.Refused++
		return nil
	}
	c := m.newConn(nil)
	c.stream, c.state, c.known = s, connReady, true
	return c
}

func (m *Messenger) newConn(p *peer) *Conn {
	c := &Conn{m: m, peer: p, nextID: 1}
	if p != nil {
		c.osd = p.osd
	}
	c.progress = m.now()
	c.heard()
	c.timer.Fire = c.timedOut
	c.resume.Run = func() { c.proceed() }
	m.conns.add(c)
	return c
}

// everySecond is the timer of keepalive.
func (m *Messenger) everySecond() {
	m.env.Clock.Arm(&m.tick, tickInterval)
	now := m.now()
	var next *Conn
	for c := m.conns.head; c != nil; c = next {
		next = c.next
		if c.state == connReady {
			c.keepAlive(now)
			c.reap(now)
		}
	}
}

// SetTimeouts changes the timeouts from now on.
func (m *Messenger) SetTimeouts(t Timeouts) { m.timeouts = t.withDefaults() }

// SetNetworks changes which addresses are preferred from the next SetAddresses on.
func (m *Messenger) SetNetworks(n []netip.Prefix) { m.networks = n }

// Connections calls f for each open connection in the order of their age.
func (m *Messenger) Connections(f func(c *Conn)) {
	var next *Conn
	for c := m.conns.head; c != nil; c = next {
		next = c.next
		if c.state != connClosed {
			f(c)
		}
	}
}

// Pools are the buffer pools of payloads, for registration with the kernel;
// none before Listen.
func (m *Messenger) Pools() []*pinned.Pool {
	var pools []*pinned.Pool
	for _, c := range m.classes {
		pools = append(pools, c.pool)
	}
	return pools
}

// Close stops listening and drops all connections. Ops complete with EPIPE as
// usual; Disconnected is not called any more.
func (m *Messenger) Close() {
	if m.closed {
		return
	}
	m.closed = true
	m.env.Clock.Disarm(&m.tick)
	for _, l := range m.listeners {
		l.Close()
	}
	for _, p := range m.peersByID {
		p.wanted = false
		m.env.Clock.Disarm(&p.timer)
	}
	m.Connections(func(c *Conn) { c.drop(errors.New("shutting down")) })
}

// Free returns the memory of all payloads, also of requests that were never
// finished. It is for the end, when the loop does not run any more.
func (m *Messenger) Free() {
	for _, chunk := range m.slab.chunks {
		for i := range chunk {
			if r := &chunk[i]; r.phase != requestFree {
				r.putMemory()
			}
		}
	}
	for _, p := range m.Pools() {
		p.Free()
	}
	m.control, m.peers, m.clients, m.classes = nil, nil, nil, nil
}

func (m *Messenger) now() env.Instant { return m.env.Clock.Now() }
