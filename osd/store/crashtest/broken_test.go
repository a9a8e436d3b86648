package crashtest

import (
	"testing"

	"vitastor/osd/store"
)

// TestLiesAreFound: devices that break their contract make the engine break
// its own, and the harness notices each within a few cases.
func TestLiesAreFound(t *testing.T) {
	lies := []struct {
		name string
		lie  Lie
		fits func(*Config) bool
	}{
		{"drops syncs", DropsSyncs, func(c *Config) bool { return c.Caching == Cached }},
		{"answers syncs early", AnswersSync, func(c *Config) bool { return c.Caching == Cached }},
		{"drops syncs of the data device", DropsSyncs, func(c *Config) bool { return c.Caching == CachedData }},
		{"answers writes early", AnswersEarly, func(c *Config) bool { return c.Caching == WriteThrough && c.Store.Commit == store.CommitAll }},
		{"answers data early", AnswersBigEarly, func(c *Config) bool { return c.Caching == WriteThrough }},
		{"loses writes", LosesWrites, func(*Config) bool { return true }},
		{"tears metadata blocks", SwapsSectors, func(c *Config) bool { return c.Store.MetaBlockBytes > uint32(c.SectorBytes) }},
	}
	for _, l := range lies {
		t.Run(l.name, func(t *testing.T) {
			tried := 0
			for number := uint64(0); tried < 60; number++ {
				c := NewCase(11, number)
				if !l.fits(c.Config) {
					continue
				}
				tried++
				h := newHarness()
				h.Wrap = BrokenDisks(l.lie, int(c.Config.Store.MetaBlockBytes))
				if err := h.Run(c); err != nil {
					t.Logf("found in case %d: %.300v", number, err)
					return
				}
			}
			t.Errorf("not noticed in %d cases", tried)
		})
	}
}

// TestLostFUAIsHarmless: after initialization the engine marks with FUA only
// how far start-up need not look, and an older mark is as good.
func TestLostFUAIsHarmless(t *testing.T) {
	for tried, number := 0, uint64(0); tried < 25; number++ {
		c := NewCase(12, number)
		if c.Config.Caching == WriteThrough {
			continue
		}
		tried++
		h := newHarness()
		h.Wrap = BrokenDisks(IgnoresFUA, int(c.Config.Store.MetaBlockBytes))
		h.PointsMax = 200
		if err := h.Run(c); err != nil {
			t.Fatalf("case %d: %v", number, err)
		}
	}
}
