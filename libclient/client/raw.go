package client

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// Raw is a request to a certain OSD, without retries: for tools (SCRUB,
// DESCRIBE, SEC_DELETE, SHOW_CONFIG...). The caller fills in Op.Packet and its
// memory. Op.Done and Op.Retval belong to the client while it runs.
type Raw struct {
	Op  msgr.Op
	OSD meta.OSDNum
	// Done is called once, never inside Request. Op.Retval is the result: EPIPE
	// if the OSD is not up, cannot be reached, or the connection is lost.
	Done func(r *Raw)

	c    *Client
	next *Raw
}

// rawQueue is a FIFO of requests that wait for a connection.
type rawQueue struct{ head, tail *Raw }

// Request sends a request to an OSD, connecting to it first if needed.
func (c *Client) Request(r *Raw) {
	r.c = c
	r.Op.Done = r.answered
	c.busyWork++
	o := c.osd(r.OSD)
	if o.ready() {
		o.session.conn.Submit(&r.Op)
		return
	}
	r.next = nil
	if o.raw.tail == nil {
		o.raw.head = r
	} else {
		o.raw.tail.next = r
	}
	o.raw.tail = r
	c.want(o)
	if !o.wanted {
		c.failedRaw = append(c.failedRaw, o)
		c.admit()
	}
}

func (r *Raw) answered(*msgr.Op) {
	c := r.c
	c.busyWork--
	r.Done(r)
	c.idle()
}

// sendRaw sends what waited for the connection.
func (o *osd) sendRaw(c *Client) {
	q := o.raw
	o.raw = rawQueue{}
	for r := q.head; r != nil; {
		next := r.next
		o.session.conn.Submit(&r.Op)
		r = next
	}
}

// failRaw gives up what waits for a connection that cannot be made.
func (o *osd) failRaw(c *Client) {
	q := o.raw
	o.raw = rawQueue{}
	for r := q.head; r != nil; {
		next := r.next
		r.Op.Retval, r.Op.Lost = wire.EPIPE, true
		r.answered(&r.Op)
		r = next
	}
}

// endRaw fails requests to OSDs that are not up.
func (c *Client) endRaw() {
	list := c.failedRaw
	c.failedRaw = nil
	for _, o := range list {
		if !o.wanted || c.ended {
			o.failRaw(c)
		}
	}
	if c.ended {
		for _, n := range c.osdIDs {
			c.osds[n].failRaw(c)
		}
	}
}
