package stats

import (
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
)

// slowLinesMax bounds what is written to the log at a time; the oldest count.
const slowLinesMax = 10

// slowLog looks for operations that take too long.
type slowLog struct {
	r                  *Reporter
	timer              env.Timer
	primary, secondary uint64 // as of the last look
}

func (l *slowLog) init(r *Reporter) {
	l.r = r
	l.timer.Fire = func() { l.look(); l.arm() }
}

func (l *slowLog) arm() {
	if l.r.c.SlowOps > 0 {
		l.r.env.Clock.Arm(&l.timer, l.r.c.SlowOps)
	} else {
		l.r.env.Clock.Disarm(&l.timer)
	}
}

// counts are the numbers of slow operations now.
func (l *slowLog) counts() (primary, secondary uint64) {
	if l.r.c.SlowOps <= 0 {
		return 0, 0
	}
	l.visit(func(string, time.Duration) {})
	return l.primary, l.secondary
}

// look writes slow operations to the log.
func (l *slowLog) look() {
	lines := 0
	total := l.visit(func(text string, age time.Duration) {
		if lines++; lines <= slowLinesMax {
			l.r.env.Log.Warn("slow operation", "op", text, "age", age.Round(time.Millisecond))
		}
	})
	if total > slowLinesMax {
		l.r.env.Log.Warn("more slow operations", "count", total-slowLinesMax, "as_primary", l.primary, "as_secondary", l.secondary)
	}
}

// visit calls f for each slow operation and counts them: operations of clients,
// those that other primaries ask of us, those of our own on our disk, and those
// that we wait for, which tell why the first ones are slow.
func (l *slowLog) visit(f func(text string, age time.Duration)) (total int) {
	r := l.r
	l.primary, l.secondary = 0, 0
	r.s.Msgr.SlowOps(r.c.SlowOps, func(o msgr.SlowOp) {
		op := o.Packet.Op()
		switch {
		case o.Outgoing:
			f(fmt.Sprintf("waiting for %s to answer %s (%s)", o.Conn, describe(o.Packet), o.State), o.Age)
		case clientOp(op):
			l.primary++
			f(fmt.Sprintf("%s of %s (%s)", describe(o.Packet), o.Conn, o.State), o.Age)
		default:
			return // the secondary knows more about them
		}
		total++
	})
	r.s.Secondary.SlowOps(r.c.SlowOps, func(o secondary.SlowOp) {
		who := "this OSD itself"
		if o.Conn != nil {
			who = o.Conn.String()
			l.secondary++
		}
		total++
		f(fmt.Sprintf("%v of %s: object %v (%s)", o.Code, who, o.OID, o.State), o.Age)
	})
	return total
}

// clientOp tells whether a primary executes op.
func clientOp(op wire.Op) bool {
	switch op {
	case wire.OpRead, wire.OpWrite, wire.OpSync, wire.OpDelete, wire.OpScrub, wire.OpDescribe:
		return true
	}
	return false
}

// describe says what a request is about.
func describe(p *wire.Packet) string {
	op := p.Op()
	switch op {
	case wire.OpRead, wire.OpWrite, wire.OpDelete, wire.OpScrub:
		var q wire.Rw
		q.Decode(p)
		return fmt.Sprintf("%v inode %v offset %#x length %d", op, q.Inode, q.Offset, q.Len)
	case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable:
		var q wire.SecRw
		q.Decode(p)
		return fmt.Sprintf("%v object %v version %v offset %#x length %d", op, q.Chunk, q.Version, q.Offset, q.Len)
	case wire.OpSecDelete:
		var q wire.SecDel
		q.Decode(p)
		return fmt.Sprintf("%v object %v version %v", op, q.Chunk, q.Version)
	case wire.OpSecList:
		var q wire.SecList
		q.Decode(p)
		return fmt.Sprintf("%v PG %v", op, meta.PG{Pool: q.Min.Inode.Pool(), Num: q.PG})
	}
	return op.String()
}
