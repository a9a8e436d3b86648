package loop

import (
	"testing"
	"time"

	"vitastor/internal/env"
)

// Within an iteration Now stands still, PreciseNow does not.
func TestPreciseNow(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Post(func() {
		before, precise := l.Now(), env.PreciseNow(l)
		time.Sleep(20 * time.Millisecond)
		if d := env.PreciseNow(l).Sub(precise); l.Now() != before || precise < before || d < 20*time.Millisecond {
			t.Errorf("Now %v, then %v; PreciseNow moved by %v", before, l.Now(), d)
		}
		l.Stop()
	})
	l.Run(t.Context())
}
