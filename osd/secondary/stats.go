package secondary

import (
	"time"

	"vitastor/internal/wire"
)

// OpStats are totals of one opcode since the start.
type OpStats struct {
	Count uint64
	Bytes uint64 // of data read or written, without bitmaps; of lists
	Nanos uint64 // in the store, without waiting for a slot and delays
}

// Stats are totals since the start. Arrays are indexed by opcode. What is in
// msgr.Stats besides is the view of the network: time from request to reply,
// only requests of others.
type Stats struct {
	Ops      [wire.MaxOp + 1]OpStats // of peers and of our own primary
	Recovery [wire.MaxOp + 1]OpStats // of them subops of recovery

	Delayed    uint64 // operations delayed for recovery
	DelayNanos uint64
	Waits      uint64 // requests that waited for a slot or memory
}

// Stats returns the totals; the pointer stays valid and must not be written to.
func (s *Server) Stats() *Stats { return &s.stats }

// account counts an executed operation.
func (s *Server) account(op *Op) {
	if op.code == 0 {
		return
	}
	nanos, bytes := uint64(s.env.Clock.Now().Sub(op.started)), uint64(0)
	if !op.retval.Failed() {
		bytes = op.resultBytes()
	}
	s.stats.Ops[op.code].add(bytes, nanos)
	if op.Recovery {
		s.stats.Recovery[op.code].add(bytes, nanos)
	}
}

func (o *OpStats) add(bytes, nanos uint64) {
	o.Count++
	o.Bytes += bytes
	o.Nanos += nanos
}

func (op *Op) resultBytes() uint64 {
	switch op.code {
	case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable, wire.OpSecReadBmp:
		return uint64(op.retval)
	case wire.OpSecStabilize, wire.OpSecRollback:
		return uint64(len(op.Items)) * wire.ObjectItemBytes
	case wire.OpSecList:
		if op.List != nil {
			return uint64(len(op.List.Stable)+len(op.List.Unstable)) * wire.ObjectItemBytes
		}
	}
	return 0
}

// utilCodes are the operations whose time counts as load (osd.md §12).
var utilCodes = [...]wire.Op{wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable, wire.OpSecStabilize,
	wire.OpSecSync, wire.OpSecDelete}

// loadBetween is the load between two states of the statistics.
func loadBetween(a, b *Stats, interval time.Duration) Load {
	l := Load{Interval: interval}
	for _, code := range utilCodes {
		recovery := b.Recovery[code].Nanos - a.Recovery[code].Nanos
		l.RecoveryTime += time.Duration(recovery)
		l.ClientTime += time.Duration(b.Ops[code].Nanos - a.Ops[code].Nanos - recovery)
		l.RecoveryCount += b.Recovery[code].Count - a.Recovery[code].Count
	}
	return l
}
