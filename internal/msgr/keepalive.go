package msgr

import (
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/wire"
)

// liveness is when a connection gave signs of life. The zero time of pinged
// means that no PING waits for a sign.
type liveness struct {
	heard  env.Instant // last complete packet or payload, or the start
	pinged env.Instant
	asked  bool // pinged is set
}

// sign notes that something arrived completely.
func (l *liveness) sign(now env.Instant) { l.heard, l.asked = now, false }

type keepaliveAction uint8

const (
	keepaliveNothing keepaliveAction = iota
	keepalivePing
	keepaliveGiveUp
)

// check decides what to do at now (wire.md §5).
func (l *liveness) check(now env.Instant, t *Timeouts) keepaliveAction {
	switch {
	case l.asked && now.Sub(l.pinged) >= t.Ping:
		return keepaliveGiveUp
	case !l.asked && now.Sub(l.heard) >= t.Idle:
		return keepalivePing
	}
	return keepaliveNothing
}

// keepAlive runs once per second on each ready connection.
func (c *Conn) keepAlive(now env.Instant) {
	if c.osd == 0 {
		return // plain clients drop connections on which they are pinged
	}
	t := &c.m.timeouts
	if c.wait != waitNothing {
		// We do not read: silence says nothing of the peer. But it may be
		// waiting for an answer to its PING, which we cannot see: any packet
		// of ours shows it that we live.
		c.live.sign(now)
		if now.Sub(c.reassured) >= t.Idle/2 && c.pings < reassuringMax {
			c.reassured = now
			c.ping()
		}
		return
	}
	switch c.live.check(now, t) {
	case keepalivePing:
		if c.pings >= pingsMax {
			c.drop(fmt.Errorf("%d PINGs were not answered", c.pings))
			return
		}
		c.live.pinged, c.live.asked = now, true
		c.ping()
	case keepaliveGiveUp:
		c.drop(fmt.Errorf("nothing heard for %v, PING was not answered", now.Sub(c.live.heard).Round(time.Millisecond)))
	}
}

// ping sends a PING, past the limit of requests in flight.
func (c *Conn) ping() {
	op := &Op{Done: func(op *Op) { op.conn.pings-- }}
	(&wire.HeaderOnly{Op: wire.OpPing}).Encode(&op.Packet)
	c.pings++
	c.begin(op)
	c.transmit(op)
}

// pong is an answer to PING; it needs no memory from anywhere.
type pong struct {
	packet wire.Packet
	send   env.SendOp
	busy   bool
}

// answerPing returns false when the peer has not read earlier answers.
func (c *Conn) answerPing(p *wire.Packet) bool {
	for i := range c.pongs {
		g := &c.pongs[i]
		if g.busy {
			continue
		}
		if g.send.Done == nil {
			g.send.Parts = [][]byte{g.packet[:]}
			g.send.Done = func(*env.SendOp, error) {
				g.busy = false
				if c.wait == waitPong {
					c.m.env.Exec.Defer(&c.resume)
				}
			}
		}
		(&wire.StatusReply{ID: p.ID(), Op: wire.OpPing}).Encode(&g.packet)
		g.busy = true
		c.stream.Send(&g.send)
		return true
	}
	return false
}
