package e2e

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/workload"
)

// TestPartition cuts OSDs off: from everybody, and one-way from single peers.
func TestPartition(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{Namespaces: true})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	result := r.under("OSD 2 is cut off from everybody", image, gentle, 8*time.Second, func() { r.must(r.c.Isolate("osd2")) })
	r.atMost(result, 20*time.Second, "the lease of 4 s and the ping timeouts have to end")
	r.under("OSD 2 is back", image, workload.Options{Reads: 0.7, Pause: time.Millisecond}, 2*time.Second, func() { r.must(r.c.Rejoin("osd2")) })
	r.restartEnded()
	r.must(r.c.WaitState(1, "active", 20*time.Second))
	r.verify(image)
}

// TestOneWay loses what goes from one to another, for some seconds each.
func TestOneWay(t *testing.T) {
	for _, cut := range [][2]string{{"osd1", "osd2"}, {"osd2", "etcd1"}, {cluster.Host, "osd3"}, {"osd3", cluster.Host}, {"mon1", "etcd1"}} {
		t.Run(fmt.Sprintf("from %s to %s", cut[0], cut[1]), func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{Namespaces: true})
			image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
			r.under("loss", image, gentle, time.Second, func() {
				r.must(r.c.Cut(cut[0], cut[1]))
				time.Sleep(6 * time.Second)
				r.must(r.c.Mend(cut[0], cut[1]))
			})
			r.restartEnded()
			r.must(r.c.WaitState(1, "active", 30*time.Second))
			r.verify(image)
		})
	}
}
