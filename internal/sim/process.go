package sim

import (
	"math/rand/v2"
	"time"

	"vitastor/internal/env"
)

// loopTurnMin is the time that an immediate timer takes: without it a program
// that polls would stop the virtual clock.
const loopTurnMin = time.Microsecond

// tasksPerTurnMax is how many deferred tasks run before other events have their
// turn, so that a task that defers itself for ever does not stop the clock.
const tasksPerTurnMax = 256

// process is one life of a program on a node; it implements env.Clock, env.Rand
// and env.Exec. Everything it is asked for after its death does nothing.
type process struct {
	node      *Node
	w         *World
	rng       *rand.Rand
	env       env.Env
	origin    env.Instant
	dead      bool
	stopped   bool
	busyUntil env.Instant
	held      []event // what happened while stopped

	timers     env.Timers  // by the node's local time
	wakeAt     env.Instant // when the next timer event is scheduled; 0 = none
	tasks      env.Tasks
	turn       nextTurn
	turnQueued bool

	dirty, spareDirty []*stream // streams with something to flush
	shared            []byte    // receive buffer
}

// run makes one loop iteration: the event, then what it deferred, then the
// flush of the streams it sent on.
func (p *process) run(a actor, arg uint64) {
	w := p.w
	w.current = p
	a.fire(arg)
	p.finishTurn()
	w.current = nil
	if p.node.loopCost > 0 {
		p.busyUntil = w.now.Add(p.node.loopCost)
	}
}

func (p *process) finishTurn() {
	for n := 0; !p.dead; {
		if n < tasksPerTurnMax {
			if t := p.tasks.Pop(); t != nil {
				n++
				t.Run()
				continue
			}
		}
		if p.flushStreams() {
			continue
		}
		if !p.tasks.Empty() && !p.turnQueued {
			p.turnQueued = true
			p.w.schedule(p.w.now.Add(loopTurnMin), p, &p.turn, 0)
		}
		return
	}
}

// nextTurn is an event with nothing in it, for the tasks that are left.
type nextTurn struct{ p *process }

func (t *nextTurn) fire(uint64) { t.p.turnQueued = false }

// Now implements env.Clock.
func (p *process) Now() env.Instant { return p.node.clock.local(p.w.now) + p.origin }

// WallNanos implements env.Clock.
func (p *process) WallNanos() int64 {
	c := &p.node.clock
	return worldEpochNanos + int64(c.local(p.w.now)) + int64(c.wallOffset)
}

// Arm implements env.Clock.
func (p *process) Arm(t *env.Timer, d time.Duration) {
	if p.dead {
		return
	}
	p.timers.Arm(t, p.node.clock.local(p.w.now).Add(max(d, loopTurnMin)))
	p.scheduleWake()
}

// Disarm implements env.Clock.
func (p *process) Disarm(t *env.Timer) {
	if !p.dead {
		p.timers.Disarm(t)
	}
}

// scheduleWake makes sure that a timer event comes when the first timer is due.
func (p *process) scheduleWake() {
	l, ok := p.timers.Next()
	if !ok {
		return
	}
	at := max(p.node.clock.world(l), p.w.now)
	if p.wakeAt == 0 || at < p.wakeAt || p.wakeAt < p.w.now {
		p.wakeAt = at
		p.w.schedule(at, p, p, uint64(at))
	}
}

// fire runs the first timer that is due; the others get an event each, so that
// what one of them does is complete before the next.
func (p *process) fire(at uint64) {
	if env.Instant(at) != p.wakeAt {
		return // superseded by an earlier one
	}
	p.wakeAt = 0
	if t := p.timers.Pop(p.node.clock.local(p.w.now)); t != nil {
		p.w.trace(traceTimer, p.node.index, 0, 0)
		t.Fire()
	}
	p.scheduleWake()
}

// Defer implements env.Exec.
func (p *process) Defer(t *env.Task) {
	if !p.dead {
		p.tasks.Push(t)
	}
}

// Post implements env.Exec. In the simulation only the world's goroutine may
// call it.
func (p *process) Post(fn func()) bool {
	if p.dead {
		return false
	}
	p.w.trace(tracePost, p.node.index, 0, 0)
	p.w.schedule(p.w.now, p, funcActor(fn), 0)
	return true
}

// Uint64 implements env.Rand.
func (p *process) Uint64() uint64 { return p.rng.Uint64() }
