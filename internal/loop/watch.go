package loop

import (
	"fmt"

	"vitastor/internal/sys"
)

// Watch is a descriptor of somebody else that the loop waits for: an eventfd, a
// device, a ring.
type Watch struct {
	l     *Loop
	fd    int // -1 = closed
	ready func()
}

// Watch calls ready on the loop whenever fd can be read, or has failed, until
// the Watch is closed. ready has to read what there is, or it is called again.
// The descriptor stays the caller's, who closes it after the Watch.
func (l *Loop) Watch(fd int, ready func()) (*Watch, error) {
	w := &Watch{l, fd, ready}
	if err := l.poll.add(fd, sys.EventIn, watched{w}); err != nil {
		return nil, fmt.Errorf("descriptor %d cannot be waited for: %w", fd, err)
	}
	return w, nil
}

// Close ends the waiting. ready is not called any more, not even for an event
// that has happened already.
func (w *Watch) Close() {
	if w.fd >= 0 {
		w.l.poll.remove(w.fd)
		w.fd = -1
	}
}

// watched keeps the poller's method out of Watch's.
type watched struct{ *Watch }

func (w watched) ready(uint32) { w.Watch.ready() }
