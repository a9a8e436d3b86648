package sim

import (
	"testing"
	"time"

	"vitastor/internal/env"
)

// ticker counts, once per interval of its own clock.
type ticker struct {
	env.Timer
	n int
}

func (k *ticker) start(e *env.Env, d time.Duration) {
	k.Fire = func() {
		k.n++
		e.Clock.Arm(&k.Timer, d)
	}
	e.Clock.Arm(&k.Timer, d)
}

func TestCrashDropsEverything(t *testing.T) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	var k ticker
	posted := 0
	var old *env.Env
	n.Do(func(e *env.Env) {
		old = e
		k.start(e, time.Second)
		e.Exec.Post(func() { posted++ })
	})
	n.Crash()
	w.RunFor(time.Minute)
	if k.n != 0 || posted != 0 || n.Running() || n.Env() != nil {
		t.Errorf("after the crash %d ticks, %d posts", k.n, posted)
	}
	e := n.Restart()
	if e == old {
		t.Error("the same environment again")
	}
	old.Clock.Arm(&k.Timer, time.Second)
	old.Exec.Defer(&env.Task{Run: func() { t.Error("a task of a dead process ran") }})
	if old.Exec.Post(func() {}) {
		t.Error("a dead loop takes posts")
	}
	w.RunFor(time.Minute)
	if k.n != 0 {
		t.Error("a dead process's timer fired")
	}
}

func TestProgramRunsAtEveryStart(t *testing.T) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	var seen []*env.Env
	n.SetProgram(func(e *env.Env) { seen = append(seen, e) })
	n.Crash()
	n.Restart()
	n.PowerLoss()
	n.Restart()
	if len(seen) != 3 || seen[0] == seen[1] {
		t.Errorf("started %d times", len(seen))
	}
}

func TestPauseAndResume(t *testing.T) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	var k ticker
	n.Do(func(e *env.Env) { k.start(e, time.Second) })
	w.RunFor(10*time.Second + time.Millisecond)
	n.Pause()
	before := k.n
	w.RunFor(time.Minute)
	if before != 10 || k.n != before {
		t.Errorf("%d ticks before, %d after a pause", before, k.n)
	}
	n.Resume()
	w.RunFor(10 * time.Second)
	if k.n < before+10 || k.n > before+11 {
		t.Errorf("%d ticks after Resume", k.n-before)
	}
}

func TestClocks(t *testing.T) {
	w := NewWorld(1, Options{})
	a, b := w.NewNode("a"), w.NewNode("b")
	ca, cb := a.Env().Clock, b.Env().Clock
	if ca.Now() == cb.Now() {
		t.Error("origins of monotonic time are equal")
	}
	a.SetClockDrift(1000)
	wall, mono, monoB := ca.WallNanos(), ca.Now(), cb.Now()
	w.RunFor(1000 * time.Second)
	if d := cb.Now().Sub(monoB); d != 1000*time.Second {
		t.Errorf("exact clock ran %v", d)
	}
	if d := ca.Now().Sub(mono); d != 1001*time.Second {
		t.Errorf("fast clock ran %v", d)
	}
	mono = ca.Now()
	a.JumpClock(-time.Hour)
	if d := time.Duration(ca.WallNanos() - wall); d != 1001*time.Second-time.Hour {
		t.Errorf("time of day ran %v", d)
	}
	if ca.Now() != mono {
		t.Error("a jump changed monotonic time")
	}
	a.SetClockDrift(-1000)
	if ca.Now() != mono {
		t.Error("a change of drift changed monotonic time")
	}
	var k ticker
	a.Do(func(e *env.Env) { k.start(e, 999*time.Millisecond) })
	w.RunFor(100*time.Second + time.Millisecond)
	if k.n != 100 {
		t.Errorf("slow clock ticked %d times", k.n)
	}
}

func TestLoopCost(t *testing.T) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	n.SetLoopCost(10 * time.Millisecond)
	ran := 0
	n.Do(func(e *env.Env) {
		for range 100 {
			e.Exec.Post(func() { ran++ })
		}
	})
	w.RunFor(500 * time.Millisecond)
	if ran < 45 || ran > 51 {
		t.Errorf("%d events in 500 ms at 10 ms each", ran)
	}
	w.RunFor(time.Second)
	if ran != 100 {
		t.Errorf("%d events in the end", ran)
	}
}
