package simcluster

import (
	"cmp"
	"slices"
)

// The strict check: one granule is a register, and its history must be
// linearizable, with one relaxation that the protocol needs (spec osd.md §18):
// a write may take effect any number of times between its beginning and its
// end, because clients repeat what was not answered. An acknowledged one has
// taken effect at least once; one without answer may do so, for ever.
//
// Sweep over the ends of all intervals; between two of them the same operations
// run. A state is the contents of the register and the running operations that
// still have to find their moment. What makes this cheap: when any effect
// happens in a gap, all running writes may happen just before it at no cost,
// each seen by the running reads that want it. So after an effect of w the
// register holds w, no write is left to be done, and no read of a running
// write; there are never more than a few states.

// event is the life of one operation on one register.
type event struct {
	op       *Op
	from, to Tick
	value    Stamp
	write    bool
	must     bool // has to find its moment before `to`
}

// events are the operations on a register that matter to the checkers.
func (r *register) events(initial Stamp) []event {
	all := make([]event, 0, len(r.ops))
	for _, o := range r.ops {
		e := event{op: o, from: o.Begin, to: o.End, write: o.Kind != OpRead, must: o.Outcome == Done}
		switch o.Kind {
		case OpRead:
			if !e.must {
				continue
			}
			e.value = o.Seen[r.granule-o.First]
		case OpWrite:
			e.value = o.Stamp
		case OpDelete:
			e.value = initial
		}
		if o.Outcome == Refused {
			continue
		}
		if !e.must {
			e.to = Forever
		}
		all = append(all, e)
	}
	return all
}

// state is one possible truth in a gap: what the register holds, and which
// running operations (bits by slot) have not found their moment.
type state struct {
	value Stamp
	open  uint64
}

// sweep is the run over one register.
type sweep struct {
	states []state
	slots  [64]*event // running operations with a duty
	reads  uint64     // slots that are reads
	writes []*event   // running writes, with a duty or not
	next   []state
}

// moment is one end of an event.
type moment struct {
	at    Tick
	e     *event
	begin bool
}

// linearizable returns the first operation that fits in no order, or nil.
func linearizable(events []event, initial Stamp) *event {
	s := &sweep{states: []state{{value: initial}}}
	for _, m := range moments(events) {
		if m.begin {
			s.begin(m.e)
		} else if !s.end(m.e) {
			return m.e
		}
		s.settle()
	}
	return nil
}

func moments(events []event) []moment {
	ms := make([]moment, 0, 2*len(events))
	for i := range events {
		e := &events[i]
		ms = append(ms, moment{e.from, e, true})
		if e.to != Forever {
			ms = append(ms, moment{e.to, e, false})
		}
	}
	slices.SortFunc(ms, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	return ms
}

func (s *sweep) begin(e *event) {
	if e.write {
		s.writes = append(s.writes, e)
	}
	if !e.must {
		return
	}
	slot := slices.Index(s.slots[:], nil)
	if slot < 0 {
		panic("simcluster: more than 64 operations on one granule at once")
	}
	s.slots[slot] = e
	if !e.write {
		s.reads |= 1 << slot
	}
	for i := range s.states {
		s.states[i].open |= 1 << slot
	}
}

// end removes an operation, and the states in which it found no moment.
func (s *sweep) end(e *event) bool {
	if i := slices.Index(s.writes, e); i >= 0 {
		s.writes = slices.Delete(s.writes, i, i+1)
	}
	slot := slices.Index(s.slots[:], e)
	s.slots[slot] = nil
	s.reads &^= 1 << slot
	s.states = slices.DeleteFunc(s.states, func(t state) bool { return t.open&(1<<slot) != 0 })
	return len(s.states) > 0
}

// settle adds the states that can be reached in this gap, and drops those that
// are no better than another.
func (s *sweep) settle() {
	s.next = s.next[:0]
	for _, t := range s.states {
		t.open &^= s.readsOf(t.value)
		s.keep(t)
		if len(s.writes) == 0 {
			continue
		}
		open := t.open & s.reads
		for _, w := range s.writes {
			open &^= s.readsOf(w.value)
		}
		for _, w := range s.writes {
			s.keep(state{w.value, open})
		}
	}
	s.states, s.next = s.next, s.states
}

// readsOf are the running reads that returned v.
func (s *sweep) readsOf(v Stamp) uint64 {
	var m uint64
	for slot, e := range s.slots {
		if e != nil && !e.write && e.value == v {
			m |= 1 << slot
		}
	}
	return m
}

// keep adds a state to next unless one there has less left to do.
func (s *sweep) keep(t state) {
	for i, o := range s.next {
		if o.value != t.value {
			continue
		}
		if o.open&^t.open == 0 {
			return
		}
		if t.open&^o.open == 0 {
			s.next[i] = t
			return
		}
	}
	s.next = append(s.next, t)
}
