package loop

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// clock is monotonic time, read once per iteration, and the armed timers. A
// timerfd in the epoll set ends waits: it is only touched when the earliest
// deadline comes nearer, so that a loaded loop with far deadlines, such as
// keepalive, makes no system call for them.
type clock struct {
	now    env.Instant
	timers env.Timers
	fd     int
	alarm  env.Instant // when fd becomes readable; 0 = not set
}

func (c *clock) open(l *Loop) (err error) {
	if c.fd, err = sys.NewTimerfd(); err != nil {
		return err
	}
	if err = l.poll.add(c.fd, sys.EventIn, c); err != nil {
		sys.Close(c.fd)
	}
	return err
}

func (c *clock) close() { sys.Close(c.fd) }

// ready implements pollee: the alarm went off; the next iteration looks at the
// timers.
func (c *clock) ready(uint32) {
	sys.DrainEventfd(c.fd)
	c.alarm = 0
}

// due makes sure that the loop wakes up for the earliest timer; true = now.
func (c *clock) due() bool {
	at, ok := c.timers.Next()
	if !ok {
		return false
	}
	if at <= c.now {
		return true
	}
	if c.alarm == 0 || at < c.alarm {
		if e := sys.SetTimerfd(c.fd, at.Sub(c.now)); e != 0 {
			panic("timerfd_settime: " + e.Error())
		}
		c.alarm = at
	}
	return false
}

// origin is where Instants count from.
var origin = time.Now()

func (c *clock) tick() { c.now = max(c.now, env.Instant(time.Since(origin))) }

// Now implements env.Clock.
func (l *Loop) Now() env.Instant { return l.clock.now }

// PreciseNow implements env.Precise.
func (l *Loop) PreciseNow() env.Instant { return max(l.clock.now, env.Instant(time.Since(origin))) }

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
