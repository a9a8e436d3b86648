package simcluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// bruteForce decides the same question as linearizable by trying every order of
// single steps: let one running write happen (as often as wanted), let one
// running read happen, or pass the next end of an interval.
func bruteForce(events []event, initial Stamp) bool {
	ms := moments(events)
	index := map[*event]int{}
	for i := range events {
		index[&events[i]] = i
	}
	type truth struct {
		passed int
		value  Stamp
		done   uint64
	}
	seen := map[truth]bool{}
	var try func(t truth) bool
	try = func(t truth) bool {
		if seen[t] {
			return false
		}
		seen[t] = true
		if t.passed == len(ms) {
			return true
		}
		running := map[int]bool{}
		for _, m := range ms[:t.passed] {
			running[index[m.e]] = m.begin
		}
		for i := range events {
			e := &events[i]
			if !running[i] {
				continue
			}
			if e.write && try(truth{t.passed, e.value, t.done | 1<<i}) {
				return true
			}
			if !e.write && e.value == t.value && try(truth{t.passed, t.value, t.done | 1<<i}) {
				return true
			}
		}
		m := ms[t.passed]
		if !m.begin && m.e.must && t.done&(1<<index[m.e]) == 0 {
			return false
		}
		return try(truth{t.passed + 1, t.value, t.done})
	}
	return try(truth{value: initial})
}

// randomEvents are a few operations; the reads of some are what a real register
// would have said, others are arbitrary.
func randomEvents(rng *rand.Rand) []event {
	n := 2 + rng.IntN(6)
	ticks := rng.Perm(2 * n)
	events := make([]event, n)
	stamp := Stamp(0)
	for i := range events {
		a, b := Tick(ticks[2*i]), Tick(ticks[2*i+1])
		e := &events[i]
		e.from, e.to, e.must = min(a, b), max(a, b), true
		e.op = &Op{ID: i}
		if e.write = rng.IntN(2) == 0; e.write {
			stamp++
			e.value = stamp
			if rng.IntN(8) == 0 {
				e.value = 0 // a deletion
			}
			if rng.IntN(4) == 0 {
				e.must, e.to = false, Forever
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int { return int(a.from - b.from) })
	honest := rng.IntN(3) > 0
	if honest {
		playRegister(rng, events)
	}
	for i := range events {
		if e := &events[i]; !e.write && (!honest || rng.IntN(10) == 0) {
			e.value = Stamp(rng.IntN(int(stamp) + 1))
		}
	}
	return events
}

// playRegister gives the reads what they may have seen.
func playRegister(rng *rand.Rand, events []event) {
	value := Stamp(0)
	done := map[*event]bool{}
	var running []*event
	step := func(e *event) {
		if e.write {
			value = e.value
		} else if !done[e] {
			e.value = value
		}
		done[e] = true
	}
	for _, m := range moments(events) {
		if m.begin {
			running = append(running, m.e)
		} else if !done[m.e] {
			step(m.e)
		}
		if !m.begin {
			running = slices.DeleteFunc(running, func(e *event) bool { return e == m.e })
		}
		for range rng.IntN(3) {
			if len(running) > 0 {
				step(running[rng.IntN(len(running))])
			}
		}
	}
}

func TestLinearizableAgreesWithBruteForce(t *testing.T) {
	count := map[bool]int{}
	for seed := range uint64(30000) {
		events := randomEvents(rand.New(rand.NewPCG(seed, 1)))
		want := bruteForce(events, 0)
		bad := linearizable(events, 0)
		count[want]++
		if (bad == nil) != want {
			t.Fatalf("seed %d: linearizable says %v, brute force %v:\n%s", seed, bad == nil, want, dump(events))
		}
	}
	if count[true] < 3000 || count[false] < 3000 {
		t.Fatalf("the generator is one-sided: %v", count)
	}
}

func dump(events []event) string {
	text := ""
	for i, e := range events {
		text += fmt.Sprintf("%d: write %v value %d from %d to %d must %v\n", i, e.write, e.value, e.from, e.to, e.must)
	}
	return text
}

// w and r make events: w(value, from, to), to 0 = no answer.
func w(v Stamp, from, to Tick) event {
	e := event{op: &Op{Kind: OpWrite, Stamp: v, Client: 1}, from: from, to: to, value: v, write: true, must: to != 0}
	if to == 0 {
		e.to = Forever
	}
	return e
}

func r(v Stamp, from, to Tick) event {
	return event{op: &Op{Client: 2}, from: from, to: to, value: v, must: true}
}

func TestLinearizableByHand(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []event
		ok     bool
	}{
		{"read after write", []event{w(1, 1, 2), r(1, 3, 4)}, true},
		{"lost write", []event{w(1, 1, 2), r(0, 3, 4)}, false},
		{"stale read", []event{w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)}, false},
		{"old value while a write runs", []event{w(1, 1, 2), w(2, 3, 6), r(1, 4, 5)}, true},
		{"new, then old, while a write runs", []event{w(1, 1, 2), w(2, 3, 8), r(2, 4, 5), r(1, 6, 7)}, false},
		{"unanswered write appears late", []event{w(1, 1, 0), w(2, 3, 4), r(2, 5, 6), r(1, 7, 8)}, true},
		{"unanswered write appears and vanishes", []event{w(1, 1, 0), w(2, 3, 4), r(1, 5, 6), r(2, 7, 8)}, false},
		{"repeated while it runs", []event{w(1, 1, 8), w(2, 2, 3), r(2, 4, 5), r(1, 6, 7)}, true},
		{"repeated twice", []event{w(1, 1, 20), w(2, 2, 19), r(2, 3, 4), r(1, 5, 6), r(2, 7, 8)}, true},
		{"repeated after its answer", []event{w(1, 1, 3), w(2, 2, 4), r(2, 5, 6), r(1, 7, 8)}, false},
		{"two readers disagree on the order", []event{w(1, 1, 4), w(2, 2, 3), r(1, 5, 6), r(2, 7, 8)}, false},
	} {
		if got := linearizable(c.events, 0) == nil; got != c.ok {
			t.Errorf("%s: linearizable says %v", c.name, got)
		}
	}
}

func TestStaleByHand(t *testing.T) {
	syncs := map[int][]*Op{1: {{Begin: 10, End: 12}}}
	own := func(e event) event { e.op.Client = 1; return e }
	for _, c := range []struct {
		name   string
		lazy   bool
		events []event
		ok     bool
	}{
		{"replicas disagree while a write runs", false, []event{w(1, 1, 2), w(2, 3, 8), r(2, 4, 5), r(1, 6, 7)}, true},
		{"stale after the answer", false, []event{w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)}, false},
		{"from the future", false, []event{r(1, 1, 2), w(1, 3, 4)}, false},
		{"unsynced write vanishes for others", true, []event{w(1, 1, 2), w(2, 3, 4), r(2, 5, 6), r(1, 7, 8)}, true},
		{"unsynced overwrite of an unsynced write of another vanishes", true,
			[]event{{op: &Op{Client: 3}, from: 1, to: 2, value: 1, write: true, must: true}, w(2, 3, 4), r(2, 5, 6), r(1, 7, 8)}, true},
		{"... not for the writer", true,
			[]event{w(1, 1, 2), w(2, 3, 4), own(r(1, 7, 8))}, false},
		{"... not when it is synced", true, []event{w(1, 1, 2), w(2, 3, 4), r(1, 13, 14)}, false},
		{"synced write vanishes", true, []event{w(1, 3, 4), r(0, 13, 14)}, false},
		{"unsynced write vanishes", true, []event{w(1, 3, 4), r(0, 5, 6)}, true},
		{"synced write is repeated", true,
			[]event{w(1, 1, 2), {op: &Op{Client: 3}, from: 14, to: 15, value: 2, write: true, must: true}, r(1, 20, 21)}, true},
	} {
		bad, _ := stale(c.events, 0, c.lazy, syncs)
		if (bad == nil) != c.ok {
			t.Errorf("%s: stale says %v", c.name, bad == nil)
		}
	}
}
