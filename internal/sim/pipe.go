package sim

import (
	"syscall"

	"vitastor/internal/env"
)

// pipe is one direction of a connection: the send buffer of one kernel, the
// packets under way, and the receive buffer of the other. All bytes that were
// written and not yet read are in one ring; where they are is told by positions
// in the stream:
//
//	read <= arrived <= sent <= written     acked <= arrived
//
//	written - acked  fills the send buffer (limit sendCap)
//	sent - read      fills the receive buffer and the network (limit recvCap)
//
// The FIN counts as one byte after the last. A lost segment throws sent back to
// arrived, and segments behind it are void: their epoch is old.
type pipe struct {
	net      *Network
	from, to *stream

	ring                         []byte // length a power of two
	read, arrived, sent, written uint64
	acked                        uint64
	fin                          bool // nothing will be written any more
	broken                       bool // reset: nothing will arrive any more
	sendCap, recvCap             uint64
	epoch                        uint16
	lastArrival                  env.Instant
	windowShut                   bool // the sender waits for the receiver to read
	waiting                      bool // for the retransmission timer
	backoff                      uint
	lossSince                    env.Instant
	arrival                      pipeArrival
	acknowledgement              pipeAck
	retransmission               pipeTimer
}

type (
	pipeArrival struct{ *pipe }
	pipeAck     struct{ *pipe }
	pipeTimer   struct{ *pipe }
)

// segmentBytesMax is what the kernel hands to the network at once.
const segmentBytesMax = 64 << 10

func newPipe(n *Network, from, to *stream) *pipe {
	p := &pipe{net: n, from: from, to: to}
	p.arrival.pipe, p.acknowledgement.pipe, p.retransmission.pipe = p, p, p
	p.sendCap = uint64(n.c.BufferBytes) >> n.rng.IntN(5)
	p.recvCap = uint64(n.c.BufferBytes) >> n.rng.IntN(5)
	return p
}

// end is the position behind everything, the FIN included.
func (p *pipe) end() uint64 { return p.written + boolBit(p.fin) }

// accept copies as much of b as fits into the send buffer.
func (p *pipe) accept(b []byte) int {
	room := uint64(0)
	if used := p.written - min(p.acked, p.written); used < p.sendCap {
		room = p.sendCap - used
	}
	n := int(min(uint64(len(b)), room))
	p.grow(uint64(n))
	for b = b[:n]; len(b) > 0; {
		k := copy(p.ring[p.written&uint64(len(p.ring)-1):], b)
		p.written += uint64(k)
		b = b[k:]
	}
	return n
}

func (p *pipe) grow(n uint64) {
	used := p.written - min(p.read, p.written)
	if used+n <= uint64(len(p.ring)) {
		return
	}
	size := uint64(max(4096, len(p.ring)))
	for size < used+n {
		size *= 2
	}
	ring := make([]byte, size)
	for i := p.read; i < p.written; {
		at := i & uint64(len(p.ring)-1)
		k := min(p.written-i, uint64(len(p.ring))-at)
		for part := p.ring[at : at+k]; len(part) > 0; {
			c := copy(ring[i&(size-1):], part)
			i += uint64(c)
			part = part[c:]
		}
	}
	p.ring = ring
}

// readable is the number of bytes that the receiver may take.
func (p *pipe) readable() int { return int(min(p.arrived, p.written) - min(p.read, p.written)) }

// ended tells whether everything was read and the sender has closed.
func (p *pipe) ended() bool { return p.fin && p.arrived > p.written && p.read == p.written }

// take copies n readable bytes to b.
func (p *pipe) take(b []byte) {
	for len(b) > 0 {
		k := copy(b, p.ring[p.read&uint64(len(p.ring)-1):])
		p.read += uint64(k)
		b = b[k:]
	}
	if p.windowShut {
		p.windowShut = false
		p.sendAck()
	}
}

// pump sends what the window allows.
func (p *pipe) pump() {
	n, w := p.net, p.net.w
	for !p.broken && !p.waiting && p.sent < p.end() {
		k := min(p.end()-p.sent, segmentBytesMax)
		if p.sent < p.written { // the window does not hold back a lone FIN
			if p.sent-p.read >= p.recvCap {
				p.windowShut = true
				return
			}
			k = min(p.written-p.sent, segmentBytesMax, p.recvCap-(p.sent-p.read))
			if x := n.rng.Uint64(); x&7 == 0 {
				k = 1 + x>>3%k
			}
		}
		p.sent += k
		if !p.passable() {
			p.lost()
			return
		}
		h := p.from.host
		h.nicFree = max(h.nicFree, w.now) + env.Instant(k*1_000_000_000/uint64(n.c.BytesPerSecond))
		at := h.nicFree.Add(n.delay(h, p.to.host))
		if n.c.Loss > 0 && n.rng.Float64() < n.c.Loss {
			at = at.Add(retransmitMin)
		}
		p.lastArrival = max(p.lastArrival, at)
		w.schedule(p.lastArrival, nil, &p.arrival, uint64(p.epoch)<<48|p.sent)
	}
}

// passable tells whether a packet gets through now; back is the same for the
// other direction.
func (p *pipe) passable() bool {
	return !p.from.blackhole && p.net.open(p.from.host, p.to.host)
}

func (p *pipe) back() bool {
	return !p.from.blackhole && p.net.open(p.to.host, p.from.host)
}

// fire is the arrival of a segment that ends at a position.
func (p *pipeArrival) fire(arg uint64) {
	upto := arg & (1<<48 - 1)
	switch {
	case uint16(arg>>48) != p.epoch || p.broken:
		return
	case !p.passable():
		p.lost()
		return
	case p.to.gone(), p.to.kernelClosed && upto > p.arrived && p.arrived < p.written:
		// Nobody is there, or nobody wants the data.
		p.sendReset(p.to)
		return
	}
	p.arrived = max(p.arrived, upto)
	p.net.w.trace(traceNetData, p.to.id, upto, 0)
	p.sendAck()
	p.to.wake()
}

// sendAck tells the sender how far the stream has arrived and been read.
func (p *pipe) sendAck() {
	w := p.net.w
	w.schedule(w.now.Add(p.net.delay(p.to.host, p.from.host)), nil, &p.acknowledgement, p.arrived)
}

func (p *pipeAck) fire(upto uint64) {
	if p.broken || p.from.gone() {
		return
	}
	if !p.back() {
		p.wait()
		return
	}
	p.acked = max(p.acked, upto)
	p.backoff, p.lossSince = 0, 0
	if p.from.sends.head != nil {
		p.from.wake()
	}
	p.pump()
}

// lost throws everything under way back to be sent again.
func (p *pipe) lost() {
	p.epoch++
	p.sent = p.arrived
	p.wait()
}

// wait starts the retransmission timer.
func (p *pipe) wait() {
	if p.waiting || p.broken || p.from.gone() {
		return
	}
	w := p.net.w
	if p.lossSince == 0 {
		p.lossSince = w.now
	}
	p.waiting = true
	d := min(retransmitMin<<p.backoff, retransmitMax)
	p.backoff = min(p.backoff+1, 10)
	w.schedule(w.now.Add(d), nil, &p.retransmission, 0)
}

func (p *pipeTimer) fire(uint64) {
	p.waiting = false
	if p.broken || p.from.gone() {
		return
	}
	if p.lossSince != 0 && p.net.w.now.Sub(p.lossSince) > p.net.c.GiveUp {
		p.from.fail(syscall.ETIMEDOUT)
		return
	}
	if !p.passable() {
		p.wait()
		return
	}
	switch {
	case p.to.gone():
		p.sendReset(p.to)
		return
	case p.acked < p.arrived || p.windowShut:
		p.windowShut = false
		p.sendAck()
	}
	p.pump()
}

// sendReset answers from the end of a stream that does not exist any more: the
// other end is told, unless the packet is lost.
func (p *pipe) sendReset(at *stream) {
	w, other := p.net.w, at.peer
	d := p.net.delay(at.host, other.host)
	w.schedule(w.now.Add(d), nil, &resetting{at, other}, 0)
}

// resetting is the arrival of an RST.
type resetting struct{ from, to *stream }

func (r *resetting) fire(uint64) {
	if !r.from.host.net.open(r.from.host, r.to.host) || r.to.blackhole {
		return
	}
	r.to.fail(syscall.ECONNRESET)
}
