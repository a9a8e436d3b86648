package loop

import (
	"testing"

	"vitastor/internal/sys"
)

func TestWatch(t *testing.T) {
	l := start(t, Options{})
	fds := [2]int{}
	for i := range fds {
		fd, err := sys.NewEventfd()
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(fd)
		fds[i] = fd
	}
	calls := 0
	var first, second *Watch
	do(t, l, func(finish func()) {
		var err error
		first, err = l.Watch(fds[0], func() {
			sys.DrainEventfd(fds[0])
			if calls++; calls == 3 {
				finish()
				return
			}
			sys.WakeEventfd(fds[0])
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := l.Watch(fds[0], nil); err == nil {
			t.Error("the same descriptor is watched twice")
		}
		if _, err := l.Watch(-1, nil); err == nil {
			t.Error("a descriptor that is not open is watched")
		}
		sys.WakeEventfd(fds[0])
	})
	// Of two descriptors that are ready in the same turn, the callback of one
	// closes the other.
	other := 0
	do(t, l, func(finish func()) {
		first.Close()
		first.Close()
		ready := func() {
			other++
			first.Close()
			second.Close()
			l.Post(finish)
		}
		first, _ = l.Watch(fds[0], ready)
		second, _ = l.Watch(fds[1], ready)
		sys.WakeEventfd(fds[0])
		sys.WakeEventfd(fds[1])
	})
	if calls != 3 || other != 1 {
		t.Errorf("called %d and %d times", calls, other)
	}
}
