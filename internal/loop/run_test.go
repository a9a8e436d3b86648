package loop

import (
	"context"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"vitastor/internal/env"
)

func descriptors(t *testing.T) int {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestStopReleasesEverything(t *testing.T) {
	path, mem := newFile(t, 1<<20), alloc(t, 1<<20)
	// The net package opens its own epoll now, and the other loop its side of
	// the connection.
	if !greeted(t, client(t, listen(t, start(t, Options{}), localhost, greeter)), 10*time.Second) {
		t.Fatal("no connection")
	}
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	for _, o := range []Options{{}, {NoRing: true}} {
		l, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { l.Run(ctx); close(ended) }()
		d := openDisk(t, l, path, env.DiskOptions{})
		c := client(t, listen(t, l, localhost, greeter))
		if !greeted(t, c, 10*time.Second) {
			t.Fatal("no connection")
		}
		l.Post(func() { // requests in flight when the loop ends
			for i := range 16 {
				d.Submit(&env.DiskOp{Kind: env.DiskWrite, Offset: int64(i) << 16, Buf: mem[i<<16:][:1<<16], Done: func(*env.DiskOp) {}})
			}
			stop()
		})
		<-ended
		if l.Post(func() {}) {
			t.Error("Post to a stopped loop")
		}
		l.Stop()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(c); os.IsTimeout(err) {
			t.Error("the connection is still open")
		}
		c.Close()
	}
	for range 100 {
		if runtime.NumGoroutine() <= goroutines && descriptors(t) <= fds {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines and %d descriptors leaked", runtime.NumGoroutine()-goroutines, descriptors(t)-fds)
}

func TestDiskBeforeRun(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	path, mem := newFile(t, 1<<20), alloc(t, 4096)
	d, err := l.OpenDisk(path, env.DiskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancelled, written := false, false
	op := &env.DiskOp{Kind: env.DiskWrite, Buf: mem, Done: func(op *env.DiskOp) { cancelled = op.Err == env.ErrDiskClosed }}
	d.Submit(op)
	d.Close()
	if d, err = l.OpenDisk(path, env.DiskOptions{}); err != nil {
		t.Fatal(err)
	}
	d.Submit(&env.DiskOp{Kind: env.DiskWrite, Buf: mem, Done: func(op *env.DiskOp) {
		written = op.Err == nil
		l.Stop()
	}})
	l.Run(context.Background())
	if !cancelled || !written {
		t.Errorf("cancelled %v, written %v", cancelled, written)
	}
}

// allocations counts those of the whole process while body runs the given
// number of rounds on the loop, after a warm-up of the same length.
func allocations(t *testing.T, l *Loop, rounds int, body func(rounds int, finish func())) float64 {
	var before, after runtime.MemStats
	do(t, l, func(finish func()) {
		body(rounds, func() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			body(rounds, func() {
				runtime.ReadMemStats(&after)
				finish()
			})
		})
	})
	return float64(after.Mallocs-before.Mallocs) / float64(rounds)
}

func TestNothingAllocatesPerOperation(t *testing.T) {
	const most = 0.05 // allowance for what the runtime does beside
	for name, o := range map[string]Options{"ring": {}, "threads": {NoRing: true}} {
		l := start(t, o)
		mem := alloc(t, 4*4096)
		d := openDisk(t, l, newFile(t, 1<<20), env.DiskOptions{})
		left, finished := 0, func() {}
		op := &env.DiskOp{Kind: env.DiskWrite, Iov: [][]byte{mem[:4096], mem[4096:8192]}}
		var timer env.Timer
		var task env.Task
		op.Done = func(op *env.DiskOp) {
			op.Kind ^= env.DiskWrite // a read, a write, ...
			l.Defer(&task)
		}
		task.Run = func() { l.Arm(&timer, 1) }
		timer.Fire = func() {
			if left--; left == 0 {
				finished()
				return
			}
			d.Submit(op)
		}
		if n := allocations(t, l, 500, func(rounds int, finish func()) {
			left, finished = rounds, finish
			d.Submit(op)
		}); n > most {
			t.Errorf("%s: %.2f allocations per disk request, task and timer", name, n)
		}
	}
	l := start(t, Options{})
	p := newPingPong(t, l, l)
	if n := allocations(t, l, 2000, p.run); n > most {
		t.Errorf("%.2f allocations per message", n)
	}
}

func TestEnvsDrawDifferentNumbers(t *testing.T) {
	draw := func() uint64 {
		l, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.shutdown()
		return l.Env().Rand.Uint64()
	}
	if a, b := draw(), draw(); a == b {
		t.Errorf("two processes would draw the same numbers: %d", a)
	}
}
