package loop

import "vitastor/internal/sys"

// settleTurns limits what Settle does without a look at descriptors.
const settleTurns = 16

// FD is the epoll descriptor of a loop that is driven by Step: it is readable
// when Step has something to do.
func (l *Loop) FD() int { return l.poll.fd }

// WakeFD is an eventfd that makes FD readable when something is written to it,
// from any thread, also one that Go does not know. The next Step resets it.
func (l *Loop) WakeFD() int { return l.mail.fd }

// Settle runs what is due without looking at descriptors: timers, deferred tasks
// and what streams have to send. It tells whether nothing is left to do before
// the next event; otherwise FD is readable.
func (l *Loop) Settle() (idle bool) {
	l.clock.tick()
	for range settleTurns {
		l.runTimers()
		l.runTasks()
		l.flush.all()
		if l.mayBlock() {
			return true
		}
		l.clock.tick()
	}
	sys.WakeEventfd(l.mail.fd)
	return false
}

// Step is one iteration of a loop that belongs to somebody else's: a caller that
// polls FD itself and calls Step when it is readable, or when it has done
// something on the loop (started operations, armed timers). With wait it blocks
// until there is an event, if nothing is due. The result is that of Settle.
//
// Step replaces Run. Calls may come from different threads, but not at the same
// time: being on the loop means not to be inside another call. Coroutines and
// disks, which are bound to a thread, cannot be used. Stop is ignored; the end
// is Shutdown.
//
//go:noinline
func (l *Loop) Step(wait bool) (idle bool) {
	l.iterations++
	if !l.Settle() {
		wait = false
	}
	events := l.poll.events
	if wait {
		events = l.wait()
	} else {
		n, _ := sys.EpollWait(l.poll.fd, events, false, sys.WaitRaw)
		events = events[:n]
	}
	for i := range events {
		l.poll.dispatch(&events[i])
	}
	return l.Settle()
}

// Shutdown closes what a stepped loop has, as the end of Run does.
func (l *Loop) Shutdown() {
	l.stopping.Store(true)
	l.shutdown()
}
