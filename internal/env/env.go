// Package env is the border between code that decides and the world it acts
// on: time, randomness, disks, network and the key-value store (etcd).
//
// Everything above this package reaches the world only through these
// interfaces. They have two implementations: the real one (internal/loop on
// epoll and io_uring, internal/etcd on gRPC) and the simulated one
// (internal/sim), in which a whole cluster runs from one seed.
//
// Guarantee: all callbacks of one Env run on that Env's loop, one at a time,
// and never inside the call that started the operation. So no code above
// needs a lock, and no callback sees a half-finished caller.
//
// Concurrency: every method is called on the loop, except Exec.Post, which any
// goroutine may call. Operation structs (Timer, Task, DiskOp, SendOp) belong to
// the caller, are linked intrusively, and may be reused after their callback
// has begun: steady state allocates nothing.
package env

import (
	"log/slog"
	"time"
)

// Env is what one daemon or client sees of the world. Parts that a program does
// not use may be nil.
type Env struct {
	Clock   Clock
	Rand    Rand
	Exec    Exec
	Net     Net
	Storage Storage
	KV      KV
	Log     *slog.Logger
}

// Instant is a point of monotonic time in nanoseconds. Its origin differs
// between processes; only differences mean anything.
type Instant int64

// Add returns t + d.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns t - u.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Clock tells and schedules time.
type Clock interface {
	// Now is monotonic. The real clock reads it once per loop iteration, so
	// that it is cheap; it never runs backwards.
	Now() Instant
	// WallNanos is the time of day in nanoseconds since 1970; it may jump.
	WallNanos() int64
	// Arm (re)starts t: t.Fire runs once, not before d has passed. d <= 0
	// means the next loop iteration.
	Arm(t *Timer, d time.Duration)
	// Disarm stops t; a timer that is not armed stays so.
	Disarm(t *Timer)
}

// Precise is what a Clock may also be, if its Now is older than the call. A
// process that was frozen in the middle of a loop iteration goes on with the
// old Now: whoever must not act after a deadline asks PreciseNow.
type Precise interface {
	// PreciseNow is the time of the call, never before Now.
	PreciseNow() Instant
}

// PreciseNow is the time at this very moment, as far as c can tell.
func PreciseNow(c Clock) Instant {
	if p, ok := c.(Precise); ok {
		return p.PreciseNow()
	}
	return c.Now()
}

// Rand is a source of random 64-bit numbers; rand.New of math/rand/v2 takes it.
type Rand interface {
	Uint64() uint64
}

// Exec runs code on the loop.
type Exec interface {
	// Defer runs t.Run after the current event, before the loop waits.
	// A task that is already queued is not queued twice.
	Defer(t *Task)
	// Post hands fn to the loop from any goroutine. It blocks while the
	// mailbox is full and returns false when the loop has stopped. On the
	// loop itself use Defer.
	Post(fn func()) bool
}
