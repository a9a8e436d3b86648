package loop

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// readable polls the descriptor of a loop as its host would.
func readable(t *testing.T, l *Loop, limit time.Duration) bool {
	t.Helper()
	host, err := sys.NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(host)
	if e := sys.EpollCtl(host, sys.EpollAdd, l.FD(), sys.EpollEvent{Events: sys.EventIn}); e != 0 {
		t.Fatal(e)
	}
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		n, _ := sys.EpollWait(host, make([]sys.EpollEvent, 1), false, sys.WaitRaw)
		if n == 1 || time.Now().After(end) {
			return n == 1
		}
	}
}

// settled makes a loop and runs what its making has left.
func settled(t *testing.T) *Loop {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Shutdown)
	if !l.Step(false) {
		t.Fatal("a new loop has something to do")
	}
	if readable(t, l, 0) {
		t.Fatal("an idle loop is readable")
	}
	return l
}

func TestStepTimer(t *testing.T) {
	l := settled(t)
	fired := 0
	timer := env.Timer{Fire: func() { fired++ }}
	l.Arm(&timer, 30*time.Millisecond)
	if !l.Settle() {
		t.Error("a loop with a far timer is busy")
	}
	if readable(t, l, 5*time.Millisecond) {
		t.Error("readable before the timer is due")
	}
	if !readable(t, l, 5*time.Second) {
		t.Fatal("not readable when the timer is due")
	}
	if l.Step(false); fired != 1 {
		t.Errorf("the timer fired %d times in the step that was due", fired)
	}
	if readable(t, l, 0) {
		t.Error("still readable")
	}
}

func TestStepPost(t *testing.T) {
	l := settled(t)
	ran := false
	go l.Post(func() { ran = true })
	if !readable(t, l, 5*time.Second) {
		t.Fatal("a post does not make the loop readable")
	}
	if l.Step(false); !ran {
		t.Error("the post did not run")
	}
	if sys.WakeEventfd(l.WakeFD()); !readable(t, l, 0) {
		t.Error("WakeFD does not make the loop readable")
	}
	if l.Step(false); readable(t, l, 0) {
		t.Error("the step did not reset WakeFD")
	}
}

// TestStepWaits: a waiting step returns with an event, and does not wait when
// something is due already.
func TestStepWaits(t *testing.T) {
	l := settled(t)
	woken := false
	go func() {
		time.Sleep(20 * time.Millisecond)
		l.Post(func() { woken = true })
	}()
	for !woken {
		l.Step(true)
	}
	runs := 0
	var task env.Task
	task.Run = func() {
		if runs++; runs < 10*settleTurns {
			l.Defer(&task) // never idle until then
		}
	}
	l.Defer(&task)
	for n := 0; runs < 10*settleTurns; n++ {
		if idle := l.Step(true); idle != (runs == 10*settleTurns) || !idle && !readable(t, l, 0) {
			t.Fatalf("after %d runs: idle %v, readable %v", runs, idle, readable(t, l, 0))
		}
		if n > 10*settleTurns {
			t.Fatal("no progress")
		}
	}
}

// TestStepFromThreads: calls from different threads, one at a time.
func TestStepFromThreads(t *testing.T) {
	l := settled(t)
	for range 20 {
		ran := false
		l.Post(func() { ran = true })
		done := make(chan struct{})
		go func() { defer close(done); l.Step(false) }()
		if <-done; !ran {
			t.Fatal("the post did not run")
		}
	}
}

func TestStepAllocatesNothing(t *testing.T) {
	l := settled(t)
	if n := testing.AllocsPerRun(100, func() { l.Step(false) }); n != 0 {
		t.Errorf("%v allocations per step", n)
	}
}
