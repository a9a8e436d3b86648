// Package sim is the simulated world: clocks, networks, disks and the
// key-value store of any number of nodes, behind the interfaces of
// internal/env, in one goroutine and from one seed, with faults on demand.
//
//	World ── event queue ordered by (time, sequence), virtual clock, trace hash
//	  └─ Node ── a machine: power, addresses, disks, clock error
//	       └─ process ── what Node.Env gives out; dies by Crash, comes back by Restart
//
// It guarantees determinism: one seed and one program give one execution, bit
// for bit. Nothing depends on map order, wall time, addresses or goroutines,
// every random decision comes from a generator derived from the seed, and every
// event is folded into World.Hash, so that two runs can be compared.
//
// What it models is what the code above relies on or must survive: the volatile
// cache of a disk and torn writes (disk.go, powerloss.go), sick disks
// (faults.go), TCP with its buffers, resets and partitions (net.go, stream.go),
// clocks that jump and drift (node.go, process.go), an etcd that hides answers (kv.go), and
// schedules of all that (plan.go).
//
// Concurrency: a World and everything in it belong to one goroutine. Different
// Worlds are independent and may run in parallel, also on Images that are clones
// of each other; one Image value belongs to one goroutine.
package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// Options tune a World; the zero value is good for most tests.
type Options struct {
	Net NetConfig // zero fields mean the defaults of NetConfig
	KV  KVConfig  // zero fields mean the defaults of KVConfig
	// Trace gets every event as a line of text, for debugging. Nil = hash only.
	Trace io.Writer
	// Log gets what nodes log, with virtual time. Nil = nothing is formatted.
	Log io.Writer
}

// World is one simulation.
type World struct {
	seed   uint64
	opt    Options
	now    env.Instant // virtual time since the start
	seq    uint64
	queue  eventQueue
	hash   uint64
	events uint64
	rng    *rand.Rand // faults and plans; nodes, disks and links have their own

	nodes   []*Node
	current *process // whose callback is running; nil between callbacks
	net     *Network
	kv      *KV
	disks   int // made so far
}

// NewWorld makes an empty world.
func NewWorld(seed uint64, o Options) *World {
	w := &World{seed: seed, opt: o, hash: mix(seed, 0x5eed)}
	w.rng = w.derive("world", 0)
	w.net = newNetwork(w, o.Net)
	return w
}

// Seed is the seed of the world.
func (w *World) Seed() uint64 { return w.seed }

// Now is the virtual time since the start of the world. Code under test has
// env.Clock; this is for tests and checkers.
func (w *World) Now() time.Duration { return time.Duration(w.now) }

// Rand is the world's own generator, for the harness's decisions. What nodes,
// disks and links decide does not come from it.
func (w *World) Rand() *rand.Rand { return w.rng }

// Hash identifies the execution so far: equal hashes mean equal event
// sequences, including the contents of everything written and sent.
func (w *World) Hash() uint64 { return w.hash }

// Events is the number of events that have happened.
func (w *World) Events() uint64 { return w.events }

// Nodes are all nodes in the order of creation.
func (w *World) Nodes() []*Node { return w.nodes }

// derive returns a generator that depends on the seed, a name and a number
// only, so that a new consumer of randomness does not change the others.
func (w *World) derive(name string, n uint64) *rand.Rand {
	s := deriveSeed(w.seed, name, n)
	return rand.New(rand.NewPCG(s, mix(s, 0x9e3779b97f4a7c15)))
}

func deriveSeed(seed uint64, name string, n uint64) uint64 {
	h := mix(seed, n)
	for _, c := range []byte(name) {
		h = mix(h, uint64(c))
	}
	return h
}

// mix folds x into h (splitmix64's finaliser).
func mix(h, x uint64) uint64 {
	h ^= x + 0x9e3779b97f4a7c15 + h<<6 + h>>2
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

// An actor is what an event happens to. arg usually carries a generation
// number, by which actors that are reused recognise stale events.
type actor interface {
	fire(arg uint64)
}

// event is something that will happen at a time. Events of a process wait while
// it is stopped or busy and vanish when it dies; world events have proc nil.
type event struct {
	at   env.Instant
	seq  uint64
	act  actor
	proc *process
	arg  uint64
}

func (w *World) schedule(at env.Instant, p *process, a actor, arg uint64) {
	if at < w.now {
		at = w.now
	}
	w.seq++
	w.queue.push(event{at: at, seq: w.seq, act: a, proc: p, arg: arg})
}

// deliver lets p handle something that has just happened in the world: now if
// it runs, later if it is stopped or busy, never if it is dead.
func (w *World) deliver(p *process, a actor, arg uint64) {
	if w.current != nil || p.stopped || p.busyUntil > w.now {
		w.schedule(w.now, p, a, arg)
		return
	}
	if !p.dead {
		p.run(a, arg)
	}
}

type funcActor func()

func (f funcActor) fire(uint64) { f() }

// After runs f once, d from now, outside of every node: the harness's timer.
func (w *World) After(d time.Duration, f func()) {
	w.schedule(w.now.Add(d), nil, funcActor(f), 0)
}

// Step lets the next event happen; false when nothing is left to happen.
func (w *World) Step() bool {
	if w.queue.len() == 0 {
		return false
	}
	e := w.queue.pop()
	w.now = e.at
	p := e.proc
	if p == nil {
		w.events++
		e.act.fire(e.arg)
		return true
	}
	switch {
	case p.dead:
	case p.stopped:
		p.held = append(p.held, e)
	case p.busyUntil > w.now:
		w.schedule(p.busyUntil, p, e.act, e.arg)
	default:
		w.events++
		p.run(e.act, e.arg)
	}
	return true
}

// Run lets everything happen that happens before or at the virtual time until,
// and leaves the clock there.
func (w *World) Run(until time.Duration) {
	w.RunUntil(func() bool { return false }, until-w.Now())
}

// RunFor is Run for a time from now.
func (w *World) RunFor(d time.Duration) { w.Run(w.Now() + d) }

// RunUntil runs until cond holds, looking after each event; false when that
// did not happen within limit of virtual time from now.
func (w *World) RunUntil(cond func() bool, limit time.Duration) bool {
	invariant.Must(w.current == nil, "sim: the world is run from inside an event")
	finished := false
	defer func() {
		if !finished { // a panic, or a test's FailNow
			fmt.Fprintf(os.Stderr, "sim: stopped in an event of seed %d at %v\n", w.seed, w.Now())
		}
	}()
	end := w.now.Add(limit)
	for !cond() {
		at, ok := w.queue.next()
		if !ok || at > end {
			w.now = max(w.now, end)
			finished = true
			return cond()
		}
		w.Step()
	}
	finished = true
	return true
}

// Idle tells whether nothing is scheduled any more.
func (w *World) Idle() bool { return w.queue.len() == 0 }

// eventQueue is a binary heap by (at, seq).
type eventQueue struct{ heap []event }

func (q *eventQueue) len() int { return len(q.heap) }

func (q *eventQueue) next() (env.Instant, bool) {
	if len(q.heap) == 0 {
		return 0, false
	}
	return q.heap[0].at, true
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.seq < f.seq
}

func (q *eventQueue) push(e event) {
	q.heap = append(q.heap, e)
	h := q.heap
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(&h[parent]) {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = e
}

func (q *eventQueue) pop() event {
	h := q.heap
	top, last := h[0], h[len(h)-1]
	h[len(h)-1] = event{} // drops the references
	h = h[:len(h)-1]
	q.heap = h
	if len(h) == 0 {
		return top
	}
	i := 0
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1].before(&h[c]) {
			c++
		}
		if !h[c].before(&last) {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = last
	return top
}
