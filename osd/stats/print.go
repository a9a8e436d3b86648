package stats

import (
	"fmt"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/wire"
)

// printer writes a line about the load to the log from time to time, if there
// was any.
type printer struct {
	r     *Reporter
	timer env.Timer
	last  Totals
	at    env.Instant
}

func (p *printer) init(r *Reporter) {
	p.r = r
	p.timer.Fire = func() { p.print(); p.arm() }
}

func (p *printer) arm() {
	if p.r.c.Print > 0 {
		p.r.env.Clock.Arm(&p.timer, p.r.c.Print)
	} else {
		p.r.env.Clock.Disarm(&p.timer)
	}
}

func (p *printer) print() {
	r, now := p.r, p.r.env.Clock.Now()
	totals := collect(r.s.Msgr.Stats(), r.s.Secondary.Stats(), r.s.Primary.Stats())
	delta, passed := totals.since(&p.last), now.Sub(p.at)
	if p.at == 0 {
		delta, passed = Totals{}, 0
	}
	p.last, p.at = totals, now
	if text := load(&delta, passed); text != "" {
		r.env.Log.Info("load: " + text)
	}
}

// load describes what happened in a time; "" = nothing.
func load(d *Totals, passed time.Duration) string {
	var parts []string
	add := func(name string, t Total) {
		if t.Count == 0 || passed <= 0 {
			return
		}
		text := fmt.Sprintf("%s %.1f/s", name, float64(t.Count)/passed.Seconds())
		if t.Bytes > 0 {
			text += fmt.Sprintf(" %.2f MiB/s", float64(t.Bytes)/(1<<20)/passed.Seconds())
		}
		parts = append(parts, text+fmt.Sprintf(" avg %v", (time.Duration(t.Nanos/t.Count)).Round(time.Microsecond)))
	}
	for _, op := range []wire.Op{wire.OpRead, wire.OpWrite, wire.OpDelete, wire.OpSync} {
		add("client "+op.StatName()[len("primary_"):], d.Ops[op])
	}
	for op := wire.OpSecRead; op <= wire.OpSecDelete; op++ {
		add("disk "+op.StatName(), d.Ops[op])
	}
	add("recovery", d.Degraded)
	add("rebalance", d.Misplaced)
	return strings.Join(parts, ", ")
}
