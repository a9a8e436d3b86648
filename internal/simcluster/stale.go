package simcluster

import (
	"cmp"
	"slices"
)

// The lenient check, for pools with lazy commit and for localized reads.
//
// Lazy commit (spec osd.md §19): what is acknowledged but not synced may vanish
// from the OSDs with their power until the client repeats it, so other clients
// may see it come and go; and the client may repeat it until its next sync, or
// until it writes the place again. If the client dies as well, it is lost.
//
// Localized reads (wire.md §11): two replicas may show a running write at
// different times.
//
// What remains: a read returns what some write made, a write that had begun;
// and not if that write was certainly over before another one began that
// certainly counted before the read began. A write counts for its own client
// from its acknowledgement, for others from then (immediate commit) or from
// the end of a sync (lazy commit).

// span is a write as the lenient check sees it.
type span struct {
	event
	last    Tick // it may happen until then
	counted Tick // it has happened, for other clients
}

// stale returns the first read that returned something older than it may, with
// the write that should have hidden it; or nil. lazy selects the commit mode.
func stale(events []event, initial Stamp, lazy bool, syncs map[int][]*Op) (bad, hider *event) {
	writes, reads := split(events, lazy, syncs)
	for i := range reads {
		if h, ok := explain(writes, &reads[i], initial); !ok {
			return &reads[i], h
		}
	}
	return nil, nil
}

func split(events []event, lazy bool, syncs map[int][]*Op) (writes []span, reads []event) {
	for _, e := range events {
		if !e.write {
			reads = append(reads, e)
			continue
		}
		w := span{event: e, last: e.to, counted: Forever}
		if e.must {
			w.counted = e.to
		}
		if lazy && e.must {
			w.counted = syncedAt(syncs[e.op.Client], e.to)
			w.last = w.counted
		}
		writes = append(writes, w)
	}
	if lazy {
		endByOverwrite(writes)
	}
	slices.SortFunc(reads, func(a, b event) int { return cmp.Compare(a.from, b.from) })
	return writes, reads
}

// syncedAt is the end of the first sync that began after t.
func syncedAt(syncs []*Op, t Tick) Tick {
	first := Forever
	for _, s := range syncs {
		if s.Begin > t {
			first = min(first, s.End)
		}
	}
	return first
}

// endByOverwrite: a client does not repeat what it has written over.
func endByOverwrite(writes []span) {
	for i := range writes {
		w := &writes[i]
		if !w.must {
			continue
		}
		for j := range writes {
			o := &writes[j]
			if o.must && o.op.Client == w.op.Client && o.from > w.to {
				w.last = min(w.last, o.to)
			}
		}
	}
}

// hides tells whether h, if it counts, makes it impossible to see w.
func (h *span) hides(w *span) bool {
	return w.last < h.from || w.must && w.to < h.from && w.op.Client == h.op.Client
}

// hiderOf returns a write that r must know of and that hides w; nil w stands
// for what was there at the beginning.
func hiderOf(writes []span, w *span, r *event) *event {
	for i := range writes {
		h := &writes[i]
		counted := h.counted
		if h.op.Client == r.op.Client && h.must {
			counted = min(counted, h.to)
		}
		if counted < r.from && (w == nil || h.hides(w)) {
			return &h.event
		}
	}
	return nil
}

// explain tells whether some write may be what r saw; if not, it may return
// one that should have hidden it.
func explain(writes []span, r *event, initial Stamp) (hider *event, ok bool) {
	if r.value == initial {
		if hider = hiderOf(writes, nil, r); hider == nil {
			return nil, true
		}
	}
	for i := range writes {
		w := &writes[i]
		if w.value != r.value || w.from > r.to {
			continue
		}
		if hider = hiderOf(writes, w, r); hider == nil {
			return nil, true
		}
	}
	return hider, false
}
