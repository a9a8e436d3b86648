package co

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/loop"
	"vitastor/internal/pinned"
)

// fakeExec is the smallest loop: deferred tasks, run by turn.
type fakeExec struct{ tasks env.Tasks }

func (f *fakeExec) Defer(t *env.Task)   { f.tasks.Push(t) }
func (f *fakeExec) Post(fn func()) bool { panic("not used") }
func (f *fakeExec) turn() {
	for t := f.tasks.Pop(); t != nil; t = f.tasks.Pop() {
		t.Run()
	}
}

func newPool(t testing.TB, limit int) (*Pool, *fakeExec, *bytes.Buffer) {
	log, exec := &bytes.Buffer{}, &fakeExec{}
	p := New(exec, limit, slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { p.Stop() })
	return p, exec, log
}

func TestWakesAndWaits(t *testing.T) {
	p, exec, _ := newPool(t, 2)
	var got []string
	var w Waker
	ok := p.Go(func(c *Co) {
		w = c.Waker()
		got = append(got, "start")
		c.Wait()
		got = append(got, "one")
		w.Wake() // before the wait
		c.Wait()
		c.Wait()
		c.Wait()
		got = append(got, "end")
	})
	if !ok || len(got) != 0 || p.Busy() != 1 {
		t.Fatal("ran inside Go, or was refused", got)
	}
	exec.turn()
	w.Wake()
	if !slices.Equal(got, []string{"start", "one"}) {
		t.Fatal(got)
	}
	w.Wake()
	w.Wake()
	if !slices.Equal(got, []string{"start", "one", "end"}) || p.Busy() != 0 {
		t.Fatal(got, p.Busy())
	}
	w.Wake() // late: nobody's
	var second Waker
	p.Go(func(c *Co) {
		second = c.Waker()
		c.Wait()
		got = append(got, "second")
	})
	exec.turn()
	w.Wake() // of the function before, on the same coroutine
	if len(got) != 3 || len(p.all) != 1 {
		t.Fatal("a stale wake reached another function", got)
	}
	second.Wake()
	if got[len(got)-1] != "second" {
		t.Fatal(got)
	}
}

func TestLimitAndReuse(t *testing.T) {
	p, exec, _ := newPool(t, 3)
	var wakers []Waker
	fn := func(c *Co) {
		wakers = append(wakers, c.Waker())
		c.Wait()
	}
	for range 3 {
		if !p.Go(fn) {
			t.Fatal("refused below the limit")
		}
	}
	if p.Go(fn) {
		t.Fatal("accepted above the limit")
	}
	exec.turn()
	wakers[1].Wake()
	if !p.Go(fn) || p.Go(fn) || len(p.all) != 3 {
		t.Fatalf("busy %d of %d", p.Busy(), len(p.all))
	}
	exec.turn()
	for _, w := range wakers {
		w.Wake()
	}
	if p.Busy() != 0 {
		t.Fatal(p.Busy())
	}
}

// One coroutine that wakes another goes on first.
func TestWakeFromCoroutine(t *testing.T) {
	p, exec, _ := newPool(t, 3)
	var got []string
	var a, b Waker
	p.Go(func(c *Co) {
		a = c.Waker()
		c.Wait()
		got = append(got, "a")
		b.Wake()
		got = append(got, "still a")
		c.Wait()
		got = append(got, "a again")
	})
	p.Go(func(c *Co) {
		b = c.Waker()
		c.Wait()
		got = append(got, "b")
		a.Wake()
		p.Go(func(*Co) { got = append(got, "c") })
		got = append(got, "b ends")
	})
	exec.turn()
	a.Wake()
	exec.turn()
	if want := []string{"a", "still a", "b", "b ends", "a again", "c"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func explode(c *Co) { panic(invariant.Violation{Text: "boom"}) }

func TestPanicSurfacesWithItsStackLogged(t *testing.T) {
	p, exec, log := newPool(t, 2)
	p.Go(func(c *Co) { c.Wait() })
	p.Go(explode)
	func() {
		defer func() {
			if v, ok := recover().(invariant.Violation); !ok || v.Text != "boom" {
				t.Errorf("recovered %v", v)
			}
		}()
		exec.turn()
	}()
	if !strings.Contains(log.String(), "explode") {
		t.Errorf("the log has no stack of the coroutine: %s", log)
	}
	if p.running != nil {
		t.Error("pool is stuck")
	}
}

func TestGoexitBecomesAPanic(t *testing.T) {
	p, exec, log := newPool(t, 2)
	cleaned := false
	p.Go(func(*Co) {
		defer func() { cleaned = true }()
		runtime.Goexit()
	})
	var got any
	func() {
		defer func() { got = recover() }()
		exec.turn()
	}()
	if err, _ := got.(error); err == nil || !strings.Contains(err.Error(), "Goexit") || !cleaned {
		t.Errorf("recovered %v, cleaned %v", got, cleaned)
	}
	if !strings.Contains(log.String(), "Goexit") {
		t.Error("not logged")
	}
}

func TestStopUnwindsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	p, exec, log := newPool(t, 100)
	unwound, w := 0, Waker{}
	for i := range 50 {
		p.Go(func(c *Co) {
			defer func() {
				unwound++
				if i == 7 {
					c.Wait() // in a deferred call: must not hang
				}
			}()
			w = c.Waker()
			if i%2 == 0 {
				c.Wait()
			}
		})
	}
	exec.turn()
	neverStarted := false
	p.Go(func(*Co) { neverStarted = true })
	p.Stop()
	w.Wake()
	exec.turn()
	if unwound != 50 || neverStarted || p.Go(explode) {
		t.Errorf("unwound %d, started after Stop: %v", unwound, neverStarted)
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines leaked; log: %s", n-before, log)
	}
}

func TestMisuse(t *testing.T) {
	p, exec, _ := newPool(t, 2)
	var outside *Co
	p.Go(func(c *Co) { outside = c; c.Wait() })
	exec.turn()
	for name, f := range map[string]func(){
		"Wait outside": func() { outside.Wait() },
		"Stop inside":  func() { p.Go(func(*Co) { p.Stop() }); exec.turn() },
	} {
		func() {
			defer func() {
				if _, ok := recover().(invariant.Violation); !ok {
					t.Errorf("%s is not noticed", name)
				}
			}()
			f()
		}()
	}
}

func TestNothingAllocates(t *testing.T) {
	p, exec, _ := newPool(t, 2)
	var w Waker
	fn := func(c *Co) {
		w = c.Waker()
		c.Wait()
		c.Wait()
	}
	if n := testing.AllocsPerRun(100, func() {
		p.Go(fn)
		exec.turn()
		w.Wake()
		w.Wake()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// On the real loop: coroutines are made and resumed on its locked thread.
func TestOnTheLoop(t *testing.T) {
	l, err := loop.New(loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	mem, err := pinned.AlignedBuffer(16 * 4096)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { l.Run(context.Background()); close(ended) }()
	result := make(chan error, 16)
	p := New(l, 16, slog.Default())
	l.Post(func() {
		d, err := l.OpenDisk(path, env.DiskOptions{})
		if err != nil {
			panic(err)
		}
		for i := range 16 {
			p.Go(func(c *Co) { result <- roundTrip(c, l, d, mem[i*4096:][:4096], i) })
		}
	})
	for range 16 {
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
	l.Post(func() { p.Stop(); l.Stop() })
	<-ended
}

func roundTrip(c *Co, l *loop.Loop, d env.Disk, mem []byte, i int) error {
	for round := range 5 {
		mem[0], mem[4095] = byte(i), byte(round)
		write := env.DiskOp{Kind: env.DiskWrite, Offset: int64(i) * 4096, Buf: mem}
		if err := c.Do(d, &write); err != nil {
			return err
		}
		start := l.Now()
		c.Sleep(l, time.Millisecond)
		if l.Now().Sub(start) < time.Millisecond {
			return errors.New("slept too short")
		}
		clear(mem)
		read := env.DiskOp{Kind: env.DiskRead, Offset: int64(i) * 4096, Buf: mem}
		if err := c.Do(d, &read); err != nil {
			return err
		}
		if mem[0] != byte(i) || mem[4095] != byte(round) {
			return errors.New("read something else than was written")
		}
	}
	return nil
}

// Wakes for other operations survive a Sleep.
func TestSleepKeepsOtherWakes(t *testing.T) {
	p, exec, _ := newPool(t, 1)
	clock := &fakeClock{}
	var w Waker
	step := 0
	p.Go(func(c *Co) {
		w = c.Waker()
		c.Sleep(clock, time.Second)
		step = 1
		c.Wait()
		c.Wait()
		step = 2
	})
	exec.turn()
	w.Wake()
	w.Wake()
	if step != 0 {
		t.Fatal("another wake ended the sleep")
	}
	clock.timer.Fire()
	if step != 2 {
		t.Error("wakes during the sleep were lost")
	}
}

type fakeClock struct{ timer *env.Timer }

func (f *fakeClock) Now() env.Instant                  { return 0 }
func (f *fakeClock) WallNanos() int64                  { return 0 }
func (f *fakeClock) Arm(t *env.Timer, _ time.Duration) { f.timer = t }
func (f *fakeClock) Disarm(*env.Timer)                 {}

func BenchmarkWait(b *testing.B) {
	p, exec, _ := newPool(b, 1)
	var w Waker
	p.Go(func(c *Co) {
		for w = c.Waker(); ; {
			c.Wait()
		}
	})
	exec.turn()
	for b.Loop() {
		w.Wake()
	}
}
