package msgr

import (
	"fmt"

	"vitastor/internal/wire"
)

const (
	// directBytesMin is the rest of a payload from which on another system
	// call is cheaper than copying it out of the shared buffer.
	directBytesMin = 32 << 10
	// smallAttrMax is the longest bitmap that is read together with a packet.
	smallAttrMax   = 64
	smallReadBytes = wire.PacketBytes + smallAttrMax
)

// ReadInto implements env.StreamHandler. Large payloads go straight to where
// they belong. Where the last payload was large, the next one probably is: then
// only its packet (and bitmap) is read first, so that the payload is not copied
// either.
func (c *Conn) ReadInto() []byte {
	c.direct = nil
	switch {
	case c.sink.left >= directBytesMin:
		if mem := c.sink.memory(); len(mem) >= directBytesMin {
			c.direct = mem
		}
	case c.sink.left == 0 && c.lastPayload.Body >= directBytesMin && c.lastPayload.Attr <= smallAttrMax:
		return c.small[:wire.PacketBytes-c.headBytes+int(c.lastPayload.Attr)]
	}
	return c.direct
}

// Received implements env.StreamHandler.
func (c *Conn) Received(b []byte) {
	m := c.m
	m.stats.BytesReceived += uint64(len(b))
	c.progress = m.now()
	if c.direct != nil && &b[0] == &c.direct[0] {
		c.direct = nil
		if c.sink.advance(len(b)); c.sink.left == 0 {
			c.payloadDone()
		}
		return
	}
	c.parse(b)
}

// parse consumes received bytes. When a request has to wait for resources the
// rest is kept, and nothing more is read.
func (c *Conn) parse(b []byte) {
	for c.state != connClosed {
		if c.sink.left > 0 {
			if b = c.sink.take(b); c.sink.left > 0 {
				return
			}
			c.payloadDone()
			continue
		}
		if len(b) == 0 {
			return
		}
		var p *wire.Packet
		if c.headBytes == 0 && len(b) >= wire.PacketBytes {
			p, b = (*wire.Packet)(b), b[wire.PacketBytes:]
		} else {
			n := copy(c.head[c.headBytes:], b)
			b = b[n:]
			if c.headBytes += n; c.headBytes < wire.PacketBytes {
				return
			}
			p, c.headBytes = &c.head, 0
		}
		if why := c.message(p); why != waitNothing {
			c.startWaiting(why, p, b)
			return
		}
	}
}

// message handles a packet; the payload, if any, follows. It changes nothing
// when it returns a reason to wait.
func (c *Conn) message(p *wire.Packet) waitReason {
	switch p.Kind() {
	case wire.KindReply:
		c.lastPayload = wire.Payload{}
		c.heard()
		c.reply(p)
		if op := c.receiving; op != nil {
			c.lastPayload = wire.Payload{Attr: uint32(op.AttrBytes), Body: uint32(op.BodyBytes)}
		}
		return waitNothing
	case wire.KindRequest:
		return c.request(p)
	}
	c.drop(fmt.Errorf("unknown magic number %x: not the OSD protocol, or bytes were lost", p[:8]))
	return waitNothing
}

// heard notes that something has arrived completely.
func (c *Conn) heard() { c.live.sign(c.progress) }

// payloadDone runs when the last byte of a payload is in its place.
func (c *Conn) payloadDone() {
	c.heard()
	if op := c.receiving; op != nil {
		c.receiving = nil
		c.replied(op)
		return
	}
	r := c.incoming
	c.incoming = nil
	r.execute()
}
