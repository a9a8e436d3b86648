package loop

import (
	"sync"
	"sync/atomic"

	"vitastor/internal/sys"
)

// mailbox brings functions of other goroutines to the loop. The eventfd is
// written only when the loop has not been woken already.
type mailbox struct {
	l     *Loop
	fd    int
	posts chan func()
	woken atomic.Bool

	closing sync.Mutex // held while the eventfd is written or closed
	closed  bool
}

func (m *mailbox) open(l *Loop) (err error) {
	m.l, m.posts = l, make(chan func(), l.o.Mailbox)
	if m.fd, err = sys.NewEventfd(); err != nil {
		return err
	}
	return l.poll.add(m.fd, sys.EventIn, m)
}

func (m *mailbox) close() {
	m.closing.Lock()
	defer m.closing.Unlock()
	m.closed = true
	sys.Close(m.fd)
}

func (m *mailbox) post(fn func(), stopped chan struct{}) bool {
	select {
	case <-stopped:
		return false
	default:
	}
	select {
	case m.posts <- fn:
		m.wake()
		return true
	case <-stopped:
		return false
	}
}

// wake makes the loop look at the mailbox and at finished disk threads.
func (m *mailbox) wake() {
	if m.woken.Swap(true) {
		return
	}
	m.closing.Lock()
	defer m.closing.Unlock()
	if !m.closed {
		sys.WakeEventfd(m.fd)
	}
}

// ready runs what is in the mailbox now. New posts wake the loop again.
func (m *mailbox) ready(uint32) {
	sys.DrainEventfd(m.fd)
	m.woken.Store(false)
	for range len(m.posts) {
		(<-m.posts)()
	}
}
