// Package co runs straight-line code on an event loop: a function that waits
// for disks, peers and timers without blocking the loop.
//
//	pool.Go(func(c *co.Co) {
//		err := c.Do(disk, op)        // or: start something, then c.Wait()
//		c.Sleep(clock, time.Second)
//	})
//
// Each runs on a pooled coroutine (iter.Pull). One wait costs about 130 ns, so
// that hot paths are better off as explicit state machines. Between two waits
// a function has the loop for itself, like a callback.
//
// Waiting counts: every Wake lets one Wait pass, whichever comes first. Start n
// operations that wake once each, then Wait n times.
//
// Guarantee: a function never runs inside Go, nor inside another one's Wake. No
// coroutine outlives Pool.Stop. A panic is logged with the coroutine's stack and
// goes on in the loop; runtime.Goexit (t.FailNow) becomes a panic instead of
// silently ending the loop's goroutine.
//
// Concurrency: a Pool and everything of it belong to one loop, and to the
// goroutine and thread that runs it: the Go runtime ends the process when a
// coroutine is resumed from another locked thread than it was made on. Functions
// must not block (channels, mutexes, system calls): they would block the loop.
package co

import (
	"errors"
	"iter"
	"log/slog"
	"runtime/debug"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// Pool holds the coroutines of one loop.
type Pool struct {
	exec    env.Exec
	log     *slog.Logger
	limit   int
	all     []*Co
	idle    []*Co // last in, first out: its stack is warm
	running *Co   // nil while the loop itself runs
	stopped bool
}

// New makes a pool of at most limit functions at a time. Coroutines are made
// when needed and kept; each has a stack of 4 KiB and more.
func New(exec env.Exec, limit int, log *slog.Logger) *Pool {
	return &Pool{exec: exec, limit: limit, log: log}
}

// Busy is the number of functions that have not returned.
func (p *Pool) Busy() int { return len(p.all) - len(p.idle) }

// Go runs fn on a coroutine, after the current event. It returns false when
// limit functions are busy, or after Stop: the caller tries again later.
func (p *Pool) Go(fn func(*Co)) bool {
	if p.stopped || p.Busy() >= p.limit {
		return false
	}
	var c *Co
	if n := len(p.idle); n > 0 {
		c, p.idle = p.idle[n-1], p.idle[:n-1]
	} else {
		c = p.create()
	}
	c.fn, c.state = fn, ready
	p.exec.Defer(&c.task)
	return true
}

// Stop ends all functions: what they wait for never comes, their deferred calls
// run. Memory of operations that they have started belongs to those still. It
// must not be called on a coroutine.
func (p *Pool) Stop() {
	invariant.Must(p.running == nil, "co: Stop was called on a coroutine")
	p.stopped = true
	for _, c := range p.all {
		p.running = c
		c.stop()
		p.running = nil
	}
	p.all, p.idle = nil, nil
}

// state is what a coroutine does.
type state uint8

const (
	idle    state = iota // in Pool.idle
	ready                // its task is deferred: fn starts
	active               // runs, or has resumed another one that runs
	waiting              // inside Wait
)

// errStopped unwinds a function when its pool is stopped.
var errStopped = errors.New("coroutine was stopped")

// Co is a coroutine, as its function sees it. It is valid until that returns.
type Co struct {
	pool  *Pool
	fn    func(*Co)
	state state
	wakes int    // Wakes that no Wait has used
	life  uint32 // number of functions that have ended here
	task  env.Task

	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool

	timer    env.Timer // of Sleep
	diskDone func(*env.DiskOp)
	done     bool // what Sleep or Do waits for has happened
}

func (p *Pool) create() *Co {
	c := &Co{pool: p}
	c.task.Run = c.run
	c.timer.Fire = c.finish
	c.diskDone = func(*env.DiskOp) { c.finish() }
	c.next, c.stop = iter.Pull(c.body)
	p.all = append(p.all, c)
	return c
}

// body runs one function after another, parked between them.
func (c *Co) body(yield func(struct{}) bool) {
	c.yield = yield
	for c.call() {
		c.fn, c.state, c.wakes = nil, idle, 0
		c.life++
		c.pool.idle = append(c.pool.idle, c)
		if !yield(struct{}{}) {
			return
		}
	}
}

// call runs fn; false means that it was stopped. Its stack is still there when
// the deferred function runs, but not where a panic surfaces.
func (c *Co) call() (returned bool) {
	defer func() {
		if returned {
			return
		}
		v := recover()
		if v == errStopped {
			return
		}
		if v == nil {
			v = errors.New("runtime.Goexit on a coroutine would end the event loop (t.FailNow, t.Fatal?)")
		}
		c.pool.log.Error("panic on a coroutine", "panic", v, "stack", string(debug.Stack()))
		panic(v)
	}()
	c.fn(c)
	return true
}

// run is the deferred task: a start, or a wake-up from another coroutine.
func (c *Co) run() {
	if !c.pool.stopped && (c.state == ready || c.state == waiting && c.wakes > 0) {
		c.resume()
	}
}

func (c *Co) resume() {
	invariant.Must(c.pool.running == nil, "co: a coroutine was resumed by another one")
	c.pool.running = c
	defer func() { c.pool.running = nil }()
	c.state = active
	c.next()
}

// Wait parks the function until the next Wake, or uses one that came before.
func (c *Co) Wait() {
	invariant.Must(c.pool.running == c, "co: Wait was called outside its coroutine")
	if c.wakes == 0 {
		if c.pool.stopped {
			panic(errStopped)
		}
		c.state = waiting
		if !c.yield(struct{}{}) {
			panic(errStopped)
		}
	}
	c.wakes--
}

// Waker wakes one function, from callbacks. Once the function has returned it
// does nothing, even if the coroutine runs another one by then.
type Waker struct {
	c    *Co
	life uint32
}

// Waker returns the waker of the function that runs on c now.
func (c *Co) Waker() Waker { return Waker{c, c.life} }

// Wake lets one Wait pass. From a callback the function goes on at once;
// from another coroutine after the current event.
func (w Waker) Wake() {
	if w.c.life == w.life {
		w.c.wake()
	}
}

func (c *Co) wake() {
	if c.pool.stopped {
		return
	}
	c.wakes++
	if c.state != waiting || c.wakes > 1 {
		return // runs, or will
	}
	if c.pool.running != nil {
		c.pool.exec.Defer(&c.task)
		return
	}
	c.resume()
}

// finish is the callback of the one Sleep or Do that is under way.
func (c *Co) finish() {
	c.done = true
	c.wake()
}

// waitDone waits for finish. Wakes for other operations are kept for later.
func (c *Co) waitDone() {
	others := 0
	for c.Wait(); !c.done; c.Wait() {
		others++
	}
	c.wakes += others
}

// Sleep waits for d.
func (c *Co) Sleep(clock env.Clock, d time.Duration) {
	c.done = false
	clock.Arm(&c.timer, d)
	defer clock.Disarm(&c.timer) // when stopped
	c.waitDone()
}

// Do submits op to d, waits and returns op.Err. It sets op.Done.
func (c *Co) Do(d env.Disk, op *env.DiskOp) error {
	c.done = false
	op.Done = c.diskDone
	d.Submit(op)
	c.waitDone()
	return op.Err
}
