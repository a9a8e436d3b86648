package envtest

import (
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
)

var clockChecks = []check{
	{"never fires early or inside Arm", checkTimerNotEarly},
	{"fires in order of deadline, then of arming", checkTimerOrder},
	{"disarm and rearm", checkTimerRearm},
	{"arming for now does not starve others", checkTimerNoStarvation},
	{"runs forward", checkTimeRunsForward},
}

var execChecks = []check{
	{"tasks run once, in order, not inside Defer", checkTaskOrder},
	{"a task deferred for ever does not starve others", checkTaskNoStarvation},
	{"posted functions all run, in order of each poster", checkPost},
}

func checkTimerNotEarly(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		c := w.Env.Clock
		left := 0
		for _, d := range []time.Duration{-1, 0, 1, time.Microsecond, time.Millisecond, 30 * time.Millisecond} {
			left++
			start, inside := c.Now(), true
			tm := &env.Timer{}
			tm.Fire = func() {
				if inside || tm.Armed() {
					t.Errorf("%v: fired inside Arm or still armed", d)
				}
				if passed := c.Now().Sub(start); passed < d {
					t.Errorf("%v: fired after %v", d, passed)
				}
				if left--; left == 0 {
					finish()
				}
			}
			c.Arm(tm, d)
			if !tm.Armed() {
				t.Errorf("%v: not armed after Arm", d)
			}
			inside = false
		}
	})
}

func checkTimerOrder(t *testing.T, w *World) {
	var fired []int
	w.run(t, func(finish func()) {
		timers := make([]env.Timer, 8)
		for i := range timers {
			timers[i].Fire = func() {
				if fired = append(fired, i); len(fired) == len(timers) {
					finish()
				}
			}
		}
		for i := range timers { // 0..3 are due later than 4..7
			w.Env.Clock.Arm(&timers[i], time.Duration(2-i/4)*5*time.Millisecond)
		}
	})
	if want := []int{4, 5, 6, 7, 0, 1, 2, 3}; !slices.Equal(fired, want) {
		t.Errorf("fired in order %v, want %v", fired, want)
	}
}

func checkTimerRearm(t *testing.T, w *World) {
	fired := 0
	w.run(t, func(finish func()) {
		c := w.Env.Clock
		victim := &env.Timer{Fire: func() { t.Error("a disarmed timer fired") }}
		moved := &env.Timer{Fire: func() { fired++ }}
		early := &env.Timer{Fire: func() { c.Disarm(victim) }}
		end := &env.Timer{Fire: finish}
		again := &env.Timer{}
		again.Fire = func() {
			if fired++; fired < 5 {
				c.Arm(again, time.Millisecond)
			}
		}
		c.Arm(again, time.Millisecond)
		c.Arm(early, 2*time.Millisecond)
		c.Arm(victim, 2*time.Millisecond) // due together with early, disarmed by it
		c.Arm(moved, time.Hour)
		c.Arm(moved, time.Millisecond)
		c.Disarm(&env.Timer{})
		c.Arm(end, 100*time.Millisecond)
	})
	if fired != 5 {
		t.Errorf("%d firings of again and moved, want 5", fired)
	}
}

// busyRounds is how often something may run for "now" before what is due a
// nanosecond later has its turn. A simulation charges time for events.
const busyRounds = 1000

func checkTimerNoStarvation(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		var busy env.Timer
		rounds, stop := 0, false
		busy.Fire = func() {
			if rounds++; !stop && rounds < 10*busyRounds {
				w.Env.Clock.Arm(&busy, 0)
			}
		}
		w.Env.Clock.Arm(&busy, 0)
		w.Env.Clock.Arm(&env.Timer{Fire: func() {
			if stop = true; rounds > busyRounds {
				t.Errorf("fired after %d rounds of another timer", rounds)
			}
			finish()
		}}, 1)
	})
}

func checkTimeRunsForward(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		last, n := w.Env.Clock.Now(), 0
		first, wall := last, w.Env.Clock.WallNanos()
		var tm env.Timer
		tm.Fire = func() {
			now := w.Env.Clock.Now()
			if now < last {
				t.Error("Now ran backwards")
			}
			last = now
			if n++; n < 20 {
				w.Env.Clock.Arm(&tm, time.Millisecond)
				return
			}
			if last.Sub(first) < 20*time.Millisecond || w.Env.Clock.WallNanos() <= wall {
				t.Error("time stands still")
			}
			finish()
		}
		w.Env.Clock.Arm(&tm, time.Millisecond)
	})
}

func checkTaskOrder(t *testing.T, w *World) {
	var ran []int
	w.run(t, func(finish func()) {
		tasks := make([]env.Task, 4)
		inside := true
		for i := range tasks {
			tasks[i].Run = func() {
				if inside {
					t.Error("ran inside Defer")
				}
				ran = append(ran, i)
				switch {
				case i == 1 && len(ran) == 2:
					w.Env.Exec.Defer(&tasks[0]) // from a task: behind the rest
				case i == 0 && len(ran) > 1:
					finish()
				}
			}
		}
		for i := range tasks {
			w.Env.Exec.Defer(&tasks[i])
			w.Env.Exec.Defer(&tasks[0]) // queued already
		}
		inside = false
	})
	if want := []int{0, 1, 2, 3, 0}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
}

func checkTaskNoStarvation(t *testing.T, w *World) {
	w.run(t, func(finish func()) {
		var busy env.Task
		rounds, stop := 0, false
		busy.Run = func() {
			if rounds++; !stop && rounds < 10*busyRounds {
				w.Env.Exec.Defer(&busy)
			}
		}
		w.Env.Exec.Defer(&busy)
		w.Env.Clock.Arm(&env.Timer{Fire: func() {
			if stop = true; rounds > busyRounds {
				t.Errorf("a timer fired after %d rounds of a task", rounds)
			}
			finish()
		}}, 1)
	})
}

func checkPost(t *testing.T, w *World) {
	const posters, each = 4, 3000 // more than a mailbox holds
	total := 0
	poster := func(each int, finish func()) {
		next := 0
		for i := range each {
			ok := w.Env.Exec.Post(func() {
				if next != i {
					t.Errorf("posted %d ran when %d was next", i, next)
				}
				next++
				if total++; total == posters*each {
					finish()
				}
			})
			if !ok {
				t.Error("Post says that the loop has stopped")
			}
		}
	}
	w.run(t, func(finish func()) {
		if w.Threads {
			for range posters {
				go poster(each, finish)
			}
			return
		}
		inside := true
		w.Env.Exec.Post(func() {
			if inside {
				t.Error("ran inside Post")
			}
			finish()
		})
		inside = false
	})
}
