// Package loop is the real env: one event loop on one operating system thread
// that owns connections, disk requests, timers and all state above them.
//
// An iteration:
//
//	timers due -> deferred tasks -> flush streams (by priority) -> submit disk
//	requests -> completions of disk requests -> wait -> events of sockets,
//	the ring and the mailbox
//
// Sockets are level-triggered epoll: one read of up to 128 KiB per event, all
// messages queued on a stream leave with one system call. Disks are an io_uring
// whose descriptor is in the same epoll set, or threads where io_uring is not
// allowed; files in memory (tmpfs) are copied from and to at once, a bounded
// number of bytes per turn. All system calls of loaded paths are raw (see internal/sys).
//
// Guarantee: callbacks run one at a time, on the loop's thread, and never inside
// the call that started the operation. In steady state nothing allocates.
// Every queue is bounded: the mailbox and disk requests in flight by Options,
// requests waiting and sends by what their owners have.
//
// Concurrency: New, Stop and Post may be called from any goroutine. Everything
// else is called on the loop: from callbacks, or from a function given to Post.
// Code on the loop must not block; iter.Pull coroutines (package co) may be
// created and resumed there only.
package loop

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// Defaults of Options.
const (
	MailboxDefault      = 1024
	DiskInFlightDefault = 512
	DiskThreadsDefault  = 16
	StreamsDefault      = 16384
)

const (
	readBytes       = 128 << 10 // shared receive buffer
	readsPerEvent   = 8         // then other streams have their turn
	sendsPerFlush   = 8
	acceptsPerEvent = 16
	eventsPerWait   = 256
	passesPerWait   = 4 // disk completions served before sockets have their turn again
	interruptsMax   = 3 // waits interrupted without an event, until waiting is left to the scheduler
)

// Options configure a loop. The zero value is good for clients; a process with
// disks may want more.
type Options struct {
	Log          *slog.Logger  // nil = slog.Default()
	Mailbox      int           // functions posted and not run yet; 0 = MailboxDefault
	Streams      int           // open streams; 0 = StreamsDefault
	DiskInFlight int           // disk requests given to the kernel; 0 = DiskInFlightDefault
	DiskThreads  int           // used instead of io_uring; 0 = DiskThreadsDefault
	NoRing       bool          // never use io_uring
	BusyPoll     time.Duration // go on polling for so long after the last event: only with a CPU core of its own
}

// ErrStopped is the result of using a loop that has ended.
var ErrStopped = errors.New("event loop has stopped")

// Loop implements env.Clock, env.Exec, env.Net and env.Storage.
type Loop struct {
	o   Options
	log *slog.Logger

	clock  clock
	tasks  env.Tasks
	mark   env.Task // ends the batch of tasks that runs now
	poll   poller
	mail   mailbox
	flush  flusher
	io     diskIO
	shared []byte // receive buffer for handlers without memory of their own
	conns  int    // open streams

	iterations uint64
	interrupts int // waits in a row that ended without an event
	lastEvent  env.Instant
	parkAlways bool // with one processor a raw wait would stop all other goroutines

	stopping atomic.Bool
	stopped  chan struct{}
}

// New makes a loop; Run runs it, or the caller does, by Step.
func New(o Options) (*Loop, error) {
	setDefault(&o.Mailbox, MailboxDefault)
	setDefault(&o.Streams, StreamsDefault)
	setDefault(&o.DiskInFlight, DiskInFlightDefault)
	setDefault(&o.DiskThreads, DiskThreadsDefault)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	l := &Loop{o: o, log: o.Log, stopped: make(chan struct{}), shared: make([]byte, readBytes)}
	l.parkAlways = runtime.GOMAXPROCS(0) < 2
	l.clock.tick()
	l.mark.Run = func() {}
	if err := l.poll.open(); err != nil {
		return nil, err
	}
	if err := l.mail.open(l); err != nil {
		l.poll.close()
		return nil, err
	}
	if err := l.clock.open(l); err != nil {
		l.mail.close()
		l.poll.close()
		return nil, err
	}
	if err := l.io.open(l); err != nil {
		l.clock.close()
		l.mail.close()
		l.poll.close()
		return nil, err
	}
	l.flush.open(l)
	return l, nil
}

func setDefault(n *int, value int) {
	if *n <= 0 {
		*n = value
	}
}

// Env returns an Env with the parts that the loop implements, and a source of
// random numbers that is seeded by the operating system.
func (l *Loop) Env() *env.Env {
	var seed [32]byte
	rand.Read(seed[:]) // never fails
	return &env.Env{Clock: l, Rand: mathrand.NewChaCha8(seed), Exec: l, Net: l, Storage: l, Log: l.log}
}

// Stats is what a loop knows about itself.
type Stats struct {
	Iterations   uint64 // since the start
	Streams      int    // open or connecting
	DiskInFlight int    // requests in the kernel's hands
	Ring         bool   // disks are served by io_uring; known after the first request
}

// Stats returns the current statistics.
func (l *Loop) Stats() Stats {
	return Stats{l.iterations, l.conns, l.io.taken, l.io.ring != nil}
}

// Run serves events on the calling goroutine, locked to its thread, until ctx
// ends or Stop is called. Then it closes streams, listeners and disks without
// calling anybody, after waiting for disk requests in flight. A loop runs once.
func (l *Loop) Run(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer context.AfterFunc(ctx, l.Stop)()
	l.io.running = true
	for !l.stopping.Load() {
		l.iterate()
	}
	l.shutdown()
}

// Stop makes Run return soon.
func (l *Loop) Stop() {
	if !l.stopping.Swap(true) {
		l.mail.wake()
	}
}

// shutdown releases everything in an order that leaves no memory with the
// kernel and no other goroutine waiting for the loop.
func (l *Loop) shutdown() {
	close(l.stopped)
	l.io.shutdown()
	for _, p := range l.poll.sources {
		if s, ok := p.p.(*stream); ok {
			s.release()
		} else if n, ok := p.p.(*listener); ok {
			n.Close()
		}
	}
	l.mail.close()
	l.clock.close()
	l.poll.close()
}

// iterate is one turn of the loop. It must stay a real call with a stack frame:
// raw system calls are invisible to the scheduler, so this is where it can
// stop the goroutine for garbage collection.
//
//go:noinline
func (l *Loop) iterate() {
	l.iterations++
	for range passesPerWait {
		l.runTimers()
		l.runTasks()
		l.flush.all()
		if !l.io.turn() {
			break
		}
	}
	events := l.wait()
	l.clock.tick()
	if len(events) > 0 {
		l.lastEvent = l.clock.now
	}
	for i := range events {
		l.poll.dispatch(&events[i])
	}
}

// runTimers fires what is due now; timers armed meanwhile are due later.
func (l *Loop) runTimers() {
	for t := l.clock.timers.Pop(l.clock.now); t != nil; t = l.clock.timers.Pop(l.clock.now) {
		t.Fire()
	}
}

// runTasks runs the tasks queued until now; those that they queue come later.
func (l *Loop) runTasks() {
	if l.tasks.Empty() {
		return
	}
	l.tasks.Push(&l.mark)
	for t := l.tasks.Pop(); t != &l.mark; t = l.tasks.Pop() {
		t.Run()
	}
}

// wait returns the next events. While there is other work it only looks.
//
// A thread blocked in a raw call wakes up fastest, but the runtime interrupts
// it every 10 ms for as long as it seems busy. So after some interruptions
// without an event the scheduler is told, once, that the thread waits: an idle
// process costs nothing, a loaded one does not pay for it.
func (l *Loop) wait() []sys.EpollEvent {
	block := l.mayBlock()
	how := sys.WaitRaw
	if block && (l.interrupts >= interruptsMax || l.parkAlways) {
		how = sys.WaitParked
	}
	n, e := sys.EpollWait(l.poll.fd, l.poll.events, block, how)
	switch {
	case e == syscall.EINTR:
		if l.interrupts++; l.io.ready() { // the interruption was a completion
			l.interrupts = 0
		}
	case e != 0:
		panic("epoll_pwait: " + e.Error())
	case n > 1 || n == 1 && l.poll.events[0].Fd != int32(l.clock.fd): // timers alone are no load
		l.interrupts = 0
	}
	return l.poll.events[:n]
}

// mayBlock tells whether nothing but events needs the loop now.
func (l *Loop) mayBlock() bool {
	if !l.tasks.Empty() || l.flush.pending() || l.io.pending() || l.stopping.Load() {
		return false
	}
	if l.o.BusyPoll > 0 && l.clock.now.Sub(l.lastEvent) < l.o.BusyPoll {
		return false
	}
	return !l.clock.due()
}
