package stats

import (
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
)

// Totals are all counters at one moment. Arrays are indexed by opcode.
type Totals struct {
	Ops, Subops         [wire.MaxOp + 1]Total
	Degraded, Misplaced Total
}

// collect adds up who counts what: the primary its clients' operations, the
// secondary what was done to the store, own subops included, the messenger
// what it or others answer at once, and everything sent to other OSDs.
func collect(m *msgr.Stats, s *secondary.Stats, p *primary.Stats) (t Totals) {
	for op := wire.Op(1); op <= wire.MaxOp; op++ {
		switch op {
		case wire.OpRead, wire.OpWrite, wire.OpSync, wire.OpDelete, wire.OpScrub, wire.OpDescribe:
			t.Ops[op] = Total(p.Ops[op])
		case wire.OpShowConfig, wire.OpPing, wire.OpSecLock, wire.OpTestSyncStab:
			t.Ops[op] = Total(m.Received[op])
		default:
			t.Ops[op] = Total(s.Ops[op])
		}
		t.Subops[op] = Total(m.Sent[op])
	}
	t.Degraded, t.Misplaced = Total(p.Degraded), Total(p.Misplaced)
	return t
}

func (t *Totals) since(u *Totals) (d Totals) {
	for op := range t.Ops {
		d.Ops[op], d.Subops[op] = t.Ops[op].since(u.Ops[op]), t.Subops[op].since(u.Subops[op])
	}
	d.Degraded, d.Misplaced = t.Degraded.since(u.Degraded), t.Misplaced.since(u.Misplaced)
	return d
}

// fill puts totals and rates into a report: every operation is always there
// (etcd.md 2.6).
func (t *Totals) fill(r *schema.OSDStats, w *window) {
	r.Ops, r.Subops = map[string]schema.Counters{}, map[string]schema.Counters{}
	for op := wire.Op(1); op <= wire.MaxOp; op++ {
		name := op.StatName()
		r.Ops[name] = rate(t.Ops[op], w.deltas.Ops[op], w.secs)
		r.Subops[name] = rate(t.Subops[op], w.deltas.Subops[op], w.secs)
	}
	r.Recovery = map[string]schema.Counters{
		"degraded":  rate(t.Degraded, w.deltas.Degraded, w.secs),
		"misplaced": rate(t.Misplaced, w.deltas.Misplaced, w.secs),
	}
}
