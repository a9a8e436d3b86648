package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// NetConfig describes the network; zero fields mean the defaults.
type NetConfig struct {
	Latency         time.Duration // one way, 40 us
	Jitter          time.Duration // up to this much more, 40 us; order of a stream is kept
	LoopbackLatency time.Duration // inside of a node, 10 us
	BytesPerSecond  int64         // what a node can send, 1.25e9
	// BufferBytes is the most that the kernel buffers per stream and side,
	// 256 KiB; a stream gets this or a fraction of it, by the seed.
	BufferBytes int
	// Loss is the chance of a segment to be lost and come 200 ms late.
	Loss float64
	// GiveUp ends connections whose packets were not acknowledged for so long;
	// 15 minutes, as Linux does.
	GiveUp time.Duration
}

const (
	retransmitMin = 200 * time.Millisecond
	retransmitMax = 10 * time.Second // Linux: 120 s; shorter, so that healing is seen
	synRetry      = time.Second      // doubles
	synAttempts   = 7                // then ETIMEDOUT, after 127 s
	noHostAfter   = 3 * time.Second  // then EHOSTUNREACH
	firstPort     = 32768            // of dialers and of listeners with port 0
)

// Network is everything between the nodes. Packets from one node to another
// are lost while the way in that direction is cut; TCP then retransmits until
// GiveUp, so a cut is silence and not an error.
type Network struct {
	w       *World
	c       NetConfig
	rng     *rand.Rand
	cut     [][]bool // [from][to]; rows and columns appear as needed
	streams int      // made so far
}

// host is the network stack of a node.
type host struct {
	net       *Network
	node      *Node
	boot      int  // changes with each power loss: what is older does not exist
	isolated  bool // cut off from all others
	slow      time.Duration
	nicFree   env.Instant // when the interface has sent everything
	nextPort  uint16
	listeners []*listener
	endpoints []*stream // open ones
}

func newNetwork(w *World, c NetConfig) *Network {
	setDefault(&c.Latency, 40*time.Microsecond)
	setDefault(&c.Jitter, 40*time.Microsecond)
	setDefault(&c.LoopbackLatency, 10*time.Microsecond)
	setDefault(&c.BytesPerSecond, 1_250_000_000)
	setDefault(&c.BufferBytes, 256<<10)
	setDefault(&c.GiveUp, 15*time.Minute)
	return &Network{w: w, c: c, rng: w.derive("network", 0)}
}

func newHost(n *Network, node *Node) *host {
	return &host{net: n, node: node, nextPort: firstPort}
}

// Net is the world's network.
func (w *World) Net() *Network { return w.net }

// Cut loses all packets between a and b.
func (n *Network) Cut(a, b *Node) { n.CutOneWay(a, b); n.CutOneWay(b, a) }

// CutOneWay loses all packets from one node to the other.
func (n *Network) CutOneWay(from, to *Node) { n.setCut(from, to, true) }

// Join undoes Cut and CutOneWay between a and b.
func (n *Network) Join(a, b *Node) { n.setCut(a, b, false); n.setCut(b, a, false) }

func (n *Network) setCut(from, to *Node, cut bool) {
	invariant.Must(from != to, "sim: a node cannot be cut off from itself")
	n.w.trace(traceNetFault, from.index, uint64(to.index), boolBit(cut))
	for len(n.cut) <= from.index {
		n.cut = append(n.cut, nil)
	}
	for len(n.cut[from.index]) <= to.index {
		n.cut[from.index] = append(n.cut[from.index], false)
	}
	n.cut[from.index][to.index] = cut
}

// Partition cuts the nodes of each group off from those of the other groups.
// Nodes in no group keep all their connections.
func (n *Network) Partition(groups ...[]*Node) {
	for i, g := range groups {
		for _, other := range groups[i+1:] {
			for _, a := range g {
				for _, b := range other {
					n.Cut(a, b)
				}
			}
		}
	}
}

// Isolate cuts a node off from all others, including those made later.
func (n *Network) Isolate(node *Node, on bool) {
	n.w.trace(traceNetFault, node.index, 1<<32, boolBit(on))
	node.host.isolated = on
}

// HealAll undoes Cut, CutOneWay, Partition and Isolate everywhere.
func (n *Network) HealAll() {
	n.w.trace(traceNetFault, 0, 1<<33, 0)
	n.cut = nil
	for _, node := range n.w.nodes {
		node.host.isolated = false
	}
}

// SetLoss changes NetConfig.Loss.
func (n *Network) SetLoss(chance float64) { n.c.Loss = chance }

// SetSlow delays every packet from and to node by d.
func (n *Network) SetSlow(node *Node, d time.Duration) {
	n.w.trace(traceNetFault, node.index, 1<<34, uint64(d))
	node.host.slow = d
}

// Reset breaks all streams between a and b: both sides get ECONNRESET.
func (n *Network) Reset(a, b *Node) {
	n.eachStream(a, b, func(s *stream) { s.fail(syscall.ECONNRESET) })
}

// Blackhole makes the existing streams between a and b silent for ever, like a
// firewall that lost its state; new ones work.
func (n *Network) Blackhole(a, b *Node) {
	n.eachStream(a, b, func(s *stream) { s.blackhole = true })
}

func (n *Network) eachStream(a, b *Node, f func(*stream)) {
	n.w.trace(traceNetFault, a.index, 1<<35, uint64(b.index))
	for _, s := range slices.Clone(a.host.endpoints) {
		if s.peer != nil && s.peer.host == b.host {
			f(s)
			f(s.peer)
		}
	}
}

// open tells whether a packet gets from one host to the other now.
func (n *Network) open(from, to *host) bool {
	if to.node.off {
		return false
	}
	if from == to {
		return true
	}
	i, j := from.node.index, to.node.index
	return !from.isolated && !to.isolated && (i >= len(n.cut) || j >= len(n.cut[i]) || !n.cut[i][j])
}

// delay is the time that a packet without queueing needs.
func (n *Network) delay(from, to *host) time.Duration {
	if from == to {
		return n.c.LoopbackLatency
	}
	return n.c.Latency + time.Duration(n.rng.Uint64N(uint64(n.c.Jitter))) + from.slow + to.slow
}

// hostAt finds the host with an address, as seen from h.
func (h *host) hostAt(a netip.Addr) *host {
	if a = a.Unmap(); a.IsLoopback() {
		return h
	}
	for _, n := range h.net.w.nodes {
		if n.addr == a {
			return n.host
		}
	}
	return nil
}

func (h *host) port() uint16 {
	for {
		p := h.nextPort
		if h.nextPort++; h.nextPort < firstPort {
			h.nextPort = firstPort
		}
		if !slices.ContainsFunc(h.listeners, func(l *listener) bool { return l.addr.Port() == p }) {
			return p
		}
	}
}

// listener implements env.Listener.
type listener struct {
	p       *process
	host    *host
	addr    netip.AddrPort
	accept  func(env.Stream) env.StreamHandler
	backlog []*stream // connected, not yet accepted
	closed  bool
}

// processNet implements env.Net.
type processNet struct{ p *process }

func (n *processNet) Listen(addr netip.AddrPort, accept func(env.Stream) env.StreamHandler) (env.Listener, error) {
	if n.p.dead {
		return nil, env.ErrStreamClosed
	}
	h := n.p.node.host
	a := addr.Addr().Unmap()
	if !a.IsUnspecified() && h.hostAt(a) != h {
		return nil, fmt.Errorf("listen on %v: not an address of node %s: %w", addr, n.p.node.name, syscall.EADDRNOTAVAIL)
	}
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), h.port())
	}
	for _, l := range h.listeners {
		if l.addr.Port() == addr.Port() && (l.addr == addr || a.IsUnspecified() || l.addr.Addr().IsUnspecified()) {
			return nil, fmt.Errorf("listen on %v: another listener has this address: %w", addr, syscall.EADDRINUSE)
		}
	}
	l := &listener{p: n.p, host: h, addr: addr, accept: accept}
	h.listeners = append(h.listeners, l)
	return l, nil
}

func (l *listener) Addr() netip.AddrPort { return l.addr }

func (l *listener) Close() {
	if l.closed {
		return
	}
	l.closed = true
	l.host.listeners = slices.DeleteFunc(l.host.listeners, func(o *listener) bool { return o == l })
	for _, s := range l.backlog {
		s.kernelClose(true)
	}
	l.backlog = nil
}

// fire accepts one connection from the backlog.
func (l *listener) fire(uint64) {
	if l.closed || len(l.backlog) == 0 {
		return
	}
	s := l.backlog[0]
	l.backlog = slices.Delete(l.backlog, 0, 1)
	s.h = l.accept(s)
	if s.h == nil {
		s.Close()
		return
	}
	s.wake()
}

func (h *host) listenerFor(a netip.AddrPort) *listener {
	for _, l := range h.listeners {
		if l.addr.Port() == a.Port() && (l.addr.Addr().IsUnspecified() || l.addr.Addr().Unmap() == a.Addr().Unmap()) {
			return l
		}
	}
	return nil
}

// processDied closes what the process had open, as the kernel does.
func (h *host) processDied() {
	for _, l := range slices.Clone(h.listeners) {
		l.Close()
	}
	for _, s := range slices.Clone(h.endpoints) {
		s.kernelClose(false)
	}
}

// powerLost forgets everything; nobody is told.
func (h *host) powerLost() {
	h.boot++
	h.listeners, h.endpoints = nil, nil
}

func (n *processNet) Dial(addr netip.AddrPort, hd env.StreamHandler) env.Stream {
	h := n.p.node.host
	from := h.node.addr
	if addr.Addr().Unmap().IsLoopback() {
		from = addr.Addr()
	}
	s := h.newStream(n.p, netip.AddrPortFrom(from, h.port()), addr)
	s.h = hd
	if n.p.dead {
		s.closed, s.kernelClosed = true, true
		return s
	}
	h.endpoints = append(h.endpoints, s)
	h.net.w.trace(traceNetConnect, h.node.index, uint64(s.id), uint64(addr.Port()))
	h.net.w.schedule(h.net.w.now.Add(h.net.delay(h, h)), nil, &dialing{s: s}, 1)
	return s
}

// dialing is the three-way handshake of a stream.
type dialing struct{ s *stream }

// fire sends the SYN for the arg-th time; it is at the other end at once, and
// the answer takes the round trip.
func (d *dialing) fire(attempt uint64) {
	s := d.s
	n, w := s.host.net, s.host.net.w
	if s.kernelClosed || s.gone() || s.peer != nil {
		return
	}
	to := s.host.hostAt(s.remote.Addr())
	switch {
	case to == nil:
		w.schedule(w.now.Add(noHostAfter), nil, &failing{s, syscall.EHOSTUNREACH}, 0)
		return
	case !n.open(s.host, to) || !n.open(to, s.host):
		if attempt > synAttempts {
			s.fail(syscall.ETIMEDOUT)
			return
		}
		w.schedule(w.now.Add(synRetry<<(attempt-1)), nil, d, attempt+1)
		return
	}
	answer := w.now.Add(n.delay(s.host, to) + n.delay(to, s.host))
	l := to.listenerFor(s.remote)
	if l == nil {
		w.schedule(answer, nil, &failing{s, syscall.ECONNREFUSED}, 0)
		return
	}
	peer := to.newStream(l.p, s.remote, s.local)
	to.endpoints = append(to.endpoints, peer)
	join(s, peer)
	peer.connected = true
	l.backlog = append(l.backlog, peer)
	w.deliver(l.p, l, 0)
	w.schedule(answer, nil, &established{s}, 0)
}

// failing ends a stream with an error that comes from the network.
type failing struct {
	s   *stream
	err error
}

func (f *failing) fire(uint64) { f.s.fail(f.err) }

// established is the arrival of the SYN-ACK.
type established struct{ s *stream }

func (e *established) fire(uint64) {
	s := e.s
	n, w := s.host.net, s.host.net.w
	if s.gone() || s.kernelClosed {
		s.out.sendReset(s)
		return
	}
	if !n.open(s.peer.host, s.host) {
		w.schedule(w.now.Add(synRetry), nil, e, 0)
		return
	}
	s.connected = true
	s.wake()
}
