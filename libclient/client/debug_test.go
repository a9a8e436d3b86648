package client

import (
	"fmt"

	"vitastor/libclient/writeback"
)

type writebackState = writeback.State

func (c *Client) Debug() string {
	s := fmt.Sprintf("ops %d busy %d writing %d flushing %d sync %v asked %d\n", c.ops, c.busyWork, c.writing, c.flushing, c.sync.active, c.sync.asked)
	for x := c.mutations.head; x != nil; x = x.next {
		s += fmt.Sprintf("mutation %v %d+%d flags %x left %d gen %d/%d err %v stale %v\n", x.op, x.offset, x.bytes, x.flags, x.left, x.gen, x.pool.gen, x.err, x.stale)
	}
	for x := c.blocked.head; x != nil; x = x.next {
		s += fmt.Sprintf("blocked %v %d+%d flags %x\n", x.op, x.offset, x.bytes, x.flags)
	}
	for p := c.waiting.head; p != nil; p = p.next {
		s += fmt.Sprintf("waiting part %v %d+%d why %d again %d tried %v\n", p.io.op, p.offset, p.bytes, p.why, p.again, p.tried)
		if g := p.io.pool.pgOf(p.offset); g != nil {
			s += fmt.Sprintf("   pg %+v\n", g)
			if g.osd != nil {
				s += fmt.Sprintf("   osd %+v\n", *g.osd)
			}
		}
	}
	for i := range 5 {
		s += fmt.Sprintf("state %d: %d pieces\n", i, c.buffers.Count(writebackState(i)))
	}
	for op := c.queue.head; op != nil; op = op.next {
		s += fmt.Sprintf("queued %v %d+%d\n", op.Kind, op.Offset, op.Bytes)
	}
	return s
}
