package msgr

import (
	"fmt"

	"vitastor/internal/env"
	"vitastor/internal/wire"
)

// waitReason is why a connection does not read: back-pressure.
type waitReason uint8

const (
	waitNothing waitReason = iota
	waitShared             // memory or a request of the class; in its list
	waitOwn                // too many requests of this connection are being executed
	waitPong               // the peer does not read answers to its PINGs
)

func (w waitReason) String() string {
	return [...]string{"nothing", "memory or requests shared with others", "its own requests", "its reading of answers"}[w]
}

// waitList are connections that wait for a class, first come first served.
type waitList struct{ head, tail *Conn }

func (l *waitList) push(c *Conn) {
	c.waitPrev, c.waitNext = l.tail, nil
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.waitNext = c
	}
	l.tail = c
}

func (l *waitList) remove(c *Conn) {
	if c.waitPrev == nil {
		l.head = c.waitNext
	} else {
		c.waitPrev.waitNext = c.waitNext
	}
	if c.waitNext == nil {
		l.tail = c.waitPrev
	} else {
		c.waitNext.waitPrev = c.waitPrev
	}
	c.waitPrev, c.waitNext = nil, nil
}

// startWaiting stops reading. p is the packet that has to wait, rest what was
// received behind it: at most one shared buffer of the loop.
func (c *Conn) startWaiting(why waitReason, p *wire.Packet, rest []byte) {
	if p != &c.head {
		c.head = *p
	}
	c.headBytes = wire.PacketBytes
	if len(rest) > 0 {
		c.stash = append(c.m.takeStash(), rest...)
	}
	c.m.stats.Waits++
	c.stream.PauseRead()
	c.wait, c.reassured = why, c.progress
	if why == waitShared {
		c.waitClass.waiters.push(c)
	}
}

// stopWaiting forgets why the connection waits; reading stays stopped.
func (c *Conn) stopWaiting() {
	if c.wait == waitShared {
		c.waitClass.waiters.remove(c)
		c.m.wakeWaiters(c.waitClass) // perhaps the next one needs less
	}
	c.wait = waitNothing
}

// proceed tries the waiting packet again, then what was received behind it,
// then reads on. It returns false if the packet still has to wait.
func (c *Conn) proceed() bool {
	if c.wait == waitNothing || c.state == connClosed {
		return true
	}
	c.progress = c.m.now()
	why := c.message(&c.head)
	if c.state == connClosed {
		return true
	}
	if why != waitNothing {
		if why == waitShared && c.wait != waitShared {
			c.wait = waitShared
			c.waitClass.waiters.push(c)
		}
		return false
	}
	if c.wait == waitShared {
		c.waitClass.waiters.remove(c)
	}
	rest := c.stash
	c.wait, c.headBytes, c.stash = waitNothing, 0, nil
	c.parse(rest) // may lead to the next wait, with another stash
	c.m.recycleStash(rest)
	if c.wait == waitNothing && c.state != connClosed {
		c.live.sign(c.progress)
		c.stream.ResumeRead()
	}
	return true
}

// wakeWaiters lets the connections that wait for cl try again, later in this
// iteration.
func (m *Messenger) wakeWaiters(cl *class) {
	if cl.waiters.head != nil {
		m.env.Exec.Defer(&m.wakeTask)
	}
}

// wake lets waiting connections go on, in order, as far as resources reach.
func (m *Messenger) wake() {
	for _, cl := range m.classes {
		for cl.waiters.head != nil && cl.waiters.head.proceed() {
		}
	}
}

// reap drops connections that hold what others wait for and make no progress:
// a payload that does not arrive, or replies that nobody reads. A peer that lost
// its power looks like that until TCP gives up, which takes a quarter of an
// hour.
func (c *Conn) reap(now env.Instant) {
	sent, replying := c.sentReplies, false
	var stuck *Request
	for r := c.first; r != nil; r = r.next {
		if r.phase == requestReplying {
			replying = true
			sent += uint64(r.send.Sent)
		}
		if r.class.waiters.head != nil && (r.phase == requestReplying || r.phase == requestReceiving && r.refused == 0) {
			stuck = r
		}
	}
	if sent != c.sentMark || !replying {
		c.sentMark, c.sentAt = sent, now
	}
	if stuck == nil {
		return
	}
	silent, what := now.Sub(c.sentAt), "the reply to %v is not read for %v while others wait for memory"
	if stuck.phase == requestReceiving {
		silent, what = now.Sub(c.progress), "the payload of %v does not arrive for %v while others wait for memory"
	}
	if silent >= payloadStallMax {
		c.drop(fmt.Errorf(what, stuck.Op(), silent))
	}
}

// stashesKept is how many unused stashes are kept for reuse.
const stashesKept = 16

func (m *Messenger) takeStash() []byte {
	n := len(m.stashes)
	if n == 0 {
		return nil
	}
	b := m.stashes[n-1]
	m.stashes = m.stashes[:n-1]
	return b[:0]
}

func (m *Messenger) recycleStash(b []byte) {
	if cap(b) > 0 && len(m.stashes) < stashesKept {
		m.stashes = append(m.stashes, b)
	}
}
