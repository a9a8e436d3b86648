package crashtest

import (
	"testing"
	"vitastor/internal/pinned"

	"pgregory.net/rapid"
)

// rapidDice draws from rapid, which then shrinks what it drew.
type rapidDice struct{ t *rapid.T }

func (d rapidDice) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "choice") }

// TestHistories is TestCrash with rapid choosing the cases: it tends to small
// numbers and repetitions, that is to histories in which everything happens to
// the same few granules of the same object.
func TestHistories(t *testing.T) {
	var total Stats
	rapid.Check(t, func(rt *rapid.T) {
		d := rapidDice{rt}
		c := &Case{Seed: uint64(d.IntN(1 << 30)), Config: NewConfig(d)}
		c.Script = NewScript(d, 5+d.IntN(40))
		h := newHarness()
		h.PointsMax = 100
		if err := h.Run(c); err != nil {
			rt.Fatalf("%v\nconfig: %v\nscript: %v", err, c.Config, c.Script)
		}
		total.Add(&h.Stats)
	})
	t.Log(&total)
}

// TestMemoryIsReturned: a soak runs for hours, and buffers and engines are not
// seen by the garbage collector.
func TestMemoryIsReturned(t *testing.T) {
	before := pinned.Bytes()
	for number := range uint64(20) {
		if err := newHarness().Run(NewCase(3, number+1)); err != nil {
			t.Fatal(err)
		}
	}
	if after := pinned.Bytes(); after > before {
		t.Errorf("%d KiB are lost after 20 cases", (after-before)>>10)
	}
}
