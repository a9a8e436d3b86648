package csi

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// runningMax is how many calls may be at work, or go on in the background.
const runningMax = 128

// guard lets one call at a time change a volume, and lets work outlive its call:
// orchestrators give up waiting after a minute or so and repeat the call, while
// removing a layer may take hours and would never end if it were killed each
// time.
type guard struct {
	log    *slog.Logger
	ctx    context.Context // of the work; ends with the driver
	cancel context.CancelFunc

	mu      sync.Mutex
	held    map[string]int // -1 = by one, n > 0 = by n who share it
	running int
	work    sync.WaitGroup
}

func newGuard(log *slog.Logger) *guard {
	g := &guard{log: log, held: map[string]int{}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// close interrupts the work and waits for it.
func (g *guard) close() {
	g.cancel()
	g.work.Wait()
}

// locks are the keys that a call needs: some alone, some together with others.
type locks struct{ alone, shared []string }

// take locks everything or nothing; free ends it.
func (g *guard) take(l locks) (free func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range l.alone {
		if g.held[key] != 0 {
			return nil, aborted("another operation on %s is in progress: repeat the call later", key)
		}
	}
	for _, key := range l.shared {
		if g.held[key] < 0 {
			return nil, aborted("another operation on %s is in progress: repeat the call later", key)
		}
	}
	if g.running >= runningMax {
		return nil, status.Errorf(codes.ResourceExhausted, "%d operations are in progress already: repeat the call later", g.running)
	}
	g.running++
	for _, key := range l.alone {
		g.held[key] = -1
	}
	for _, key := range l.shared {
		g.held[key]++
	}
	return func() { g.free(l) }, nil
}

func (g *guard) free(l locks) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	for _, key := range l.alone {
		delete(g.held, key)
	}
	for _, key := range l.shared {
		if g.held[key]--; g.held[key] == 0 {
			delete(g.held, key)
		}
	}
}

// outcome is what work has given.
type outcome[T any] struct {
	value T
	err   error
}

// guarded runs f while it holds the locks. When the caller leaves, f goes on.
func guarded[T any](ctx context.Context, g *guard, l locks, f func(context.Context) (T, error)) (T, error) {
	var none T
	free, err := g.take(l)
	if err != nil {
		return none, err
	}
	done := make(chan outcome[T], 1)
	g.work.Add(1)
	go func() {
		defer g.work.Done()
		var o outcome[T]
		defer func() {
			free()
			done <- o
		}()
		defer func() {
			if p := recover(); p != nil {
				o.err = g.panicked(p)
			}
		}()
		o.value, o.err = f(g.ctx)
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return none, status.Errorf(codes.DeadlineExceeded, "still at work, which goes on: repeat the call (%v)", ctx.Err())
	}
}

// panicked makes an error of a panic, which is a bug of ours.
func (g *guard) panicked(p any) error {
	g.log.Error("panic", "value", fmt.Sprint(p), "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "the driver has a bug, please report it with its log: %v", p)
}
