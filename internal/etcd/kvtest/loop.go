// Package kvtest tests implementations of env.KV: one suite, run against the
// model, the embedded server and Debian's etcd. It also has the tools that such
// tests need: a loop that the test itself turns, a network that can be broken,
// and an etcd as a child process.
//
// Guarantee: what passes here may be relied on by everything above env.KV.
//
// Concurrency: a Loop belongs to the test's goroutine.
package kvtest

import (
	"sync"
	"testing"
	"time"

	"vitastor/internal/env"
)

// Loop is an env.Clock and env.Exec that runs while the test waits. Its time is
// either real, or virtual: then it jumps to the next timer when nothing else is
// to be done.
type Loop struct {
	virtual bool
	started time.Time
	now     env.Instant
	timers  env.Timers
	tasks   env.Tasks
	mailbox chan func()
	stopped chan struct{}
	stop    sync.Once
}

var (
	_ env.Clock = (*Loop)(nil)
	_ env.Exec  = (*Loop)(nil)
)

// NewLoop makes a loop that is stopped at the end of the test.
func NewLoop(t testing.TB, virtual bool) *Loop {
	l := &Loop{virtual: virtual, started: time.Now(),
		mailbox: make(chan func(), 64), stopped: make(chan struct{})}
	t.Cleanup(l.Stop)
	return l
}

// Stop makes Post return false.
func (l *Loop) Stop() { l.stop.Do(func() { close(l.stopped) }) }

// Now is env.Clock.Now.
func (l *Loop) Now() env.Instant {
	if !l.virtual {
		l.now = max(l.now, env.Instant(time.Since(l.started)))
	}
	return l.now
}

// WallNanos is env.Clock.WallNanos.
func (l *Loop) WallNanos() int64 { return l.started.UnixNano() + int64(l.Now()) }

// Arm is env.Clock.Arm.
func (l *Loop) Arm(t *env.Timer, d time.Duration) { l.timers.Arm(t, l.Now().Add(max(d, 0))) }

// Disarm is env.Clock.Disarm.
func (l *Loop) Disarm(t *env.Timer) { l.timers.Disarm(t) }

// Defer is env.Exec.Defer.
func (l *Loop) Defer(t *env.Task) { l.tasks.Push(t) }

// Post is env.Exec.Post.
func (l *Loop) Post(fn func()) bool {
	select {
	case <-l.stopped:
		return false
	default:
	}
	select {
	case l.mailbox <- fn:
		return true
	case <-l.stopped:
		return false
	}
}

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

// Until turns the loop until cond holds; the test ends if it never does.
func (l *Loop) Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !l.turn(patience, cond) {
		t.Fatalf("waited %v in vain: %s", patience, what)
	}
}

// Sleep turns the loop for d.
func (l *Loop) Sleep(d time.Duration) { l.turn(d, func() bool { return false }) }

// turn runs the loop until cond holds or limit has passed.
func (l *Loop) turn(limit time.Duration, cond func() bool) bool {
	var alarm env.Timer
	late := false
	alarm.Fire = func() { late = true }
	l.Arm(&alarm, limit)
	defer l.Disarm(&alarm)
	for !cond() {
		if late {
			return false
		}
		if !l.runOne() {
			l.wait()
		}
	}
	return true
}

// runOne runs one thing that is ready.
func (l *Loop) runOne() bool {
	select {
	case fn := <-l.mailbox:
		fn()
		return true
	default:
	}
	if task := l.tasks.Pop(); task != nil {
		task.Run()
		return true
	}
	if timer := l.timers.Pop(l.Now()); timer != nil {
		timer.Fire()
		return true
	}
	return false
}

// glance is how often a waiting test looks at conditions that are not made on
// the loop.
const glance = 10 * time.Millisecond

// wait waits for a message or for the next timer, of which there is one.
func (l *Loop) wait() {
	next, _ := l.timers.Next()
	if l.virtual {
		l.now = max(l.now, next)
		return
	}
	select {
	case fn := <-l.mailbox:
		fn()
	case <-time.After(min(next.Sub(l.Now()), glance)):
	}
}
