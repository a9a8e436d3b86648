package loop

import (
	"time"

	"vitastor/internal/env"
)

// clock is monotonic time, read once per iteration, and the armed timers.
type clock struct {
	now    env.Instant
	timers env.Timers
}

// origin is where Instants count from.
var origin = time.Now()

func (c *clock) tick() { c.now = max(c.now, env.Instant(time.Since(origin))) }

// Now implements env.Clock.
func (l *Loop) Now() env.Instant { return l.clock.now }

// WallNanos implements env.Clock.
func (l *Loop) WallNanos() int64 { return time.Now().UnixNano() }

// Arm implements env.Clock. A timer for now is due in the next iteration, so
// that timers which rearm themselves leave room for others.
func (l *Loop) Arm(t *env.Timer, d time.Duration) {
	l.clock.timers.Arm(t, l.clock.now.Add(max(d, 1)))
}

// Disarm implements env.Clock.
func (l *Loop) Disarm(t *env.Timer) { l.clock.timers.Disarm(t) }

// Defer implements env.Exec.
func (l *Loop) Defer(t *env.Task) { l.tasks.Push(t) }

// Post implements env.Exec. On the loop itself it would wait for ever once the
// mailbox is full: use Defer there.
func (l *Loop) Post(fn func()) bool { return l.mail.post(fn, l.stopped) }
