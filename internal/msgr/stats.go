package msgr

import (
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// Stats are totals since the start. Arrays are indexed by opcode.
type Stats struct {
	Sent     [wire.MaxOp + 1]OpStats // requests we made and that were answered
	Received [wire.MaxOp + 1]OpStats // requests we served

	BytesReceived uint64 // from sockets
	Dropped       uint64 // connections closed for any reason
	Refused       uint64 // connections beyond Limits.Connections
	Waits         uint64 // times that back-pressure stopped reading a connection
}

// OpStats are totals of one opcode.
type OpStats struct {
	Count uint64
	Bytes uint64 // of payloads in both directions, bitmaps included
	Nanos uint64 // between request and reply
}

func (s *OpStats) add(bytes int, d time.Duration) {
	s.Count++
	s.Bytes += uint64(bytes)
	s.Nanos += uint64(d)
}

// Stats returns the totals; the pointer stays valid and must not be written to.
func (m *Messenger) Stats() *Stats { return &m.stats }

// SlowOp describes a request that is being executed for a long time.
type SlowOp struct {
	Conn     *Conn
	Packet   *wire.Packet // the request; valid during the call
	Age      time.Duration
	Outgoing bool   // a request of ours
	State    string // where it is
}

// SlowOps calls f for every request of ours or of peers that is at least age
// old. f must not submit or finish requests.
func (m *Messenger) SlowOps(age time.Duration, f func(o SlowOp)) {
	now := m.now()
	m.Connections(func(c *Conn) {
		visit := func(op *Op) {
			if d := now.Sub(op.started); d >= age {
				f(SlowOp{Conn: c, Packet: &op.Packet, Age: d, Outgoing: true, State: op.phase.String()})
			}
		}
		for i := range c.table.slots {
			if op := c.table.slots[i].op; op != nil {
				visit(op)
			}
		}
		if c.receiving != nil {
			visit(c.receiving)
		}
		for op := c.pending.head; op != nil; op = op.next {
			visit(op)
		}
		for r := c.first; r != nil; r = r.next {
			if d := now.Sub(r.Arrived); d >= age {
				f(SlowOp{Conn: c, Packet: &r.Packet, Age: d, State: r.phase.String()})
			}
		}
	})
}

func (p requestPhase) String() string {
	return [...]string{"free", "receiving", "executing", "replying"}[p]
}

// ConnInfo describes a connection for people.
type ConnInfo struct {
	OSD      meta.OSDNum
	Text     string
	State    string
	Ops      int    // our requests without a reply
	Requests int    // of the peer, not finished
	Waiting  string // what back-pressure waits for
}

// Info describes c.
func (c *Conn) Info() ConnInfo {
	return ConnInfo{OSD: c.osd, Text: c.String(), State: c.state.String(), Ops: c.ops, Requests: c.serving,
		Waiting: c.wait.String()}
}
