package stats

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema"
)

// Total is what a counter of operations has reached since the start.
type Total struct {
	Count, Bytes, Nanos uint64
}

// since is what has happened after u.
func (t Total) since(u Total) Total {
	return Total{t.Count - u.Count, t.Bytes - u.Bytes, t.Nanos - u.Nanos}
}

// rate turns what happened in a number of whole seconds into rates. The times
// of lat are whole microseconds.
func rate(total, delta Total, seconds uint64) schema.Counters {
	c := schema.Counters{Count: total.Count, Bytes: total.Bytes, Usec: total.Nanos / 1000}
	if delta.Count > 0 {
		c.LatUsec = delta.Nanos / delta.Count / 1000
	}
	if seconds > 0 {
		c.BPS, c.IOPS = delta.Bytes/seconds, delta.Count/seconds
	}
	return c
}

// window computes rates between two points of time that are at least a second
// apart: reports may follow each other faster when PGs change their states, and
// then repeat the rates of the last window.
type window struct {
	begun  env.Instant
	base   Totals
	deltas Totals
	secs   uint64 // of deltas; 0 = there are none yet
}

// advance looks at the totals of now.
func (w *window) advance(now env.Instant, t *Totals) {
	secs := uint64(now.Sub(w.begun) / time.Second)
	if w.begun == 0 || secs == 0 {
		if w.begun == 0 {
			w.begun, w.base = now, *t
		}
		return
	}
	w.deltas = t.since(&w.base)
	w.begun, w.base, w.secs = now, *t, secs
}
