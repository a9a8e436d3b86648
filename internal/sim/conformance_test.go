package sim

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/env/envtest"
	"vitastor/internal/pinned"
)

// TestConformance runs the checks that the real loop passes, too.
func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		drift int64
		cost  time.Duration
		disk  DiskConfig
		loss  float64
	}{
		"healthy":  {},
		"drifting": {drift: 20_000, disk: DiskConfig{BlockBytes: 512, VolatileCache: true, DiscardGranularityBytes: 4096}},
		"slow":     {drift: -20_000, cost: 5 * time.Microsecond, disk: DiskConfig{DiscardGranularityBytes: 512}},
		"lossy":    {loss: 0.002},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				envtest.Run(t, func(t *testing.T) *envtest.World {
					w := NewWorld(seed, Options{Net: NetConfig{Loss: c.loss}})
					a, b := w.NewNode("a"), w.NewNode("b")
					a.SetClockDrift(c.drift)
					a.SetLoopCost(c.cost)
					return conformanceWorld(w, a, b, c.disk)
				})
			}
		})
	}
}

func conformanceWorld(w *World, a, b *Node, c DiskConfig) *envtest.World {
	return &envtest.World{
		Env: a.Env(), Peer: b.Env(), Addr: a.Addr(), PeerAddr: b.Addr(),
		Refused: netip.AddrPortFrom(b.Addr(), 1),
		NewDisk: func(_ *testing.T, bytes int64) string {
			path := fmt.Sprintf("/dev/%d", len(a.Disks()))
			c := c
			c.SizeBytes = bytes
			a.AddDisk(path, c)
			return path
		},
		Alloc: func(t *testing.T, bytes int) []byte {
			m, err := pinned.AlignedBuffer(bytes)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.RunFor(time.Second); pinned.Free(m) })
			return m
		},
		Run: func(_ *testing.T, body func(finish func())) bool {
			finished := false
			a.Do(func(*env.Env) { body(func() { finished = true }) })
			return w.RunUntil(func() bool { return finished }, envtest.TimeLimit)
		},
	}
}
