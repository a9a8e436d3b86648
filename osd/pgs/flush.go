package pgs

import (
	"fmt"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// flushPause follows a batch that failed: what is wrong may be wrong for long.
const flushPause = 100 * time.Millisecond

// flush is one batch: a ROLLBACK and a STABILIZE for each OSD, all at once.
type flush struct {
	p      *pg
	seq    uint64
	left   int
	failed bool
	timer  env.Timer
}

// flushPart is one request of a batch.
type flushPart struct {
	f        *flush
	osd      meta.OSDNum
	rollback bool
	items    []meta.ObjectVersion
	conn     *msgr.Conn
	remote   msgr.Op
	local    secondary.Op
}

// startFlush handles Flush.
func (p *pg) startFlush(seq uint64) {
	invariant.Must(p.flush == nil && p.service == serving, "pgs: a flush of a PG that is being flushed or does not run")
	m := p.m
	f := &flush{p: p, seq: seq}
	p.flush = f
	if !p.flushing {
		p.flushing = true
		if m.Heal != nil {
			m.Heal.Flushing(p.id, true)
		}
	}
	f.begin()
}

// begin sends the batch, as soon as the lease is certain.
func (f *flush) begin() {
	m, p := f.p.m, f.p
	f.timer.Fire = f.answer
	switch {
	case m.MayServe == nil || m.MayServe():
	case p.machine.State()&meta.PGActive == 0: // the PG waits for us to stop
		f.failed = true
		f.answer()
		return
	default:
		f.timer.Fire = f.begin
		m.env.Clock.Arm(&f.timer, flushPause)
		return
	}
	parts := f.split(p.objects.FlushBatch())
	f.left = len(parts) + 1
	for _, part := range parts {
		part.send()
	}
	f.end() // it does not end before all are sent
}

// split groups a batch by OSD and kind, in the order in which they come up.
func (f *flush) split(batch []peering.FlushItem) []*flushPart {
	var parts []*flushPart
	for i := range batch {
		it := &batch[i]
		n := slices.IndexFunc(parts, func(x *flushPart) bool { return x.osd == it.OSD && x.rollback == it.Rollback })
		if n < 0 {
			n = len(parts)
			parts = append(parts, &flushPart{f: f, osd: it.OSD, rollback: it.Rollback})
		}
		parts[n].items = append(parts[n].items, it.ObjectVersion)
	}
	return parts
}

func (x *flushPart) send() {
	m := x.f.p.m
	if x.osd == m.c.OSD {
		x.local.Kind = store.OpStabilize
		if x.rollback {
			x.local.Kind = store.OpRollback
		}
		x.local.Items, x.local.Done = x.items, x.done
		m.Local.Submit(&x.local)
		return
	}
	x.conn = m.Msgr.Conn(x.osd)
	if x.conn == nil {
		x.f.failed = true
		x.f.end()
		return
	}
	q := wire.SecStab{Op: wire.OpSecStabilize, Len: uint64(len(x.items) * wire.ObjectItemBytes)}
	if x.rollback {
		q.Op = wire.OpSecRollback
	}
	q.Encode(&x.remote.Packet)
	list := make(wire.ObjectList, 0, q.Len)
	for _, v := range x.items {
		list = list.Append(v)
	}
	x.remote.Payload, x.remote.Done = [][]byte{list}, x.answered
	x.conn.Submit(&x.remote)
}

func (x *flushPart) done(op *secondary.Op) { x.result(op.Retval()) }

// answered is the answer of a peer: after an error it has to be listed again.
func (x *flushPart) answered(op *msgr.Op) {
	if op.Retval.Failed() && !op.Lost {
		x.conn.Drop(fmt.Errorf("unstable versions of PG %v cannot be settled: %v answers %v", x.f.p.id, op.Packet.Op(), op.Retval))
	}
	x.result(op.Retval)
}

func (x *flushPart) result(ret wire.Retval) {
	if ret.Failed() {
		x.f.failed = true
		x.f.p.m.log.Warn("unstable versions cannot be settled", "pg", x.f.p.id.String(), "osd", uint64(x.osd),
			"rollback", x.rollback, "objects", len(x.items), "err", ret.String())
	}
	x.f.end()
}

// end is for each part.
func (f *flush) end() {
	if f.left--; f.left > 0 {
		return
	}
	if f.failed {
		f.p.m.env.Clock.Arm(&f.timer, flushPause)
		return
	}
	f.answer()
}

// answer tells the Machine, and operations that wait for the objects.
func (f *flush) answer() {
	p := f.p
	ev := peering.FlushDone{Seq: f.seq, OK: !f.failed}
	if ev.OK {
		ev.More = p.objects.FlushDone()
	}
	p.flush = nil
	if !ev.More || p.service != serving {
		p.endFlushing()
	}
	p.m.step(p, ev)
	if ev.OK && p.service == serving {
		p.m.Ops.Flushed(p.id)
	}
}

func (p *pg) endFlushing() {
	if !p.flushing {
		return
	}
	p.flushing = false
	if p.m.Heal != nil {
		p.m.Heal.Flushing(p.id, false)
	}
}
