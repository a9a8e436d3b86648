package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Changes of the configuration while clients work.

// TestPGCount: pools get more and fewer PGs, and more copies.
func TestPGCount(t *testing.T) {
	for i, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{})
			image := r.open(r.pool(1, s.pool, imageBytes), imageBytes)
			change := func(what string, p cluster.Pool) {
				result := r.under(what, image, gentle, 0, func() {
					r.must(r.c.SetPool(1, p))
					r.must(r.c.WaitState(1, "active", 30*time.Second))
				})
				r.atMost(result, 20*time.Second, "PGs stop only for the time of the change")
				r.verify(image)
			}
			change("pg_count 16 -> 32", s.pool.With("pg_count", 32))
			change("pg_count 32 -> 12", s.pool.With("pg_count", 12))
			if i == 0 {
				p := s.pool.With("pg_count", 12)
				change("pg_size 2 -> 3", p.With("pg_size", 3))
				change("pg_size 3 -> 2", p)
			}
		})
	}
}

// TestRebalance: a new OSD gets data, an old one is emptied and removed.
func TestRebalance(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{})
			image := r.open(r.pool(1, s.pool, imageBytes), imageBytes)
			r.under("OSD 4 is new", image, gentle, 0, func() {
				r.must(r.c.AddOSD(4, 1<<30))
				r.must(r.c.OSD(4).Start())
				r.must(r.waitPlaced(4, true))
			})
			r.verify(image)
			r.under("OSD 1 is emptied", image, gentle, 0, func() {
				r.must(r.c.PutJSON(r.c.Keys.OSDConfig(1), map[string]any{"reweight": 0}))
				r.must(r.waitPlaced(1, false))
			})
			result := r.under("OSD 1 ends for ever", image, gentle, time.Second, func() { r.must(r.c.OSD(1).Kill()) })
			r.atMost(result, 2*time.Second, "it has no PGs")
			r.verify(image)
			r.must(r.c.WaitState(1, "active", 5*time.Second))
		})
	}
}

// waitPlaced waits until an OSD has PGs, or none, and everything is where it
// shall be.
func (r *rig) waitPlaced(n meta.OSDNum, placed bool) error {
	err := r.c.Until(fmt.Sprintf("PGs are placed on OSD %d: %v", n, placed), 20*time.Second, func() error {
		text, err := r.c.Get(r.c.Keys.PGConfig())
		if err != nil {
			return err
		}
		config, err := schema.DecodePGConfig("", text)
		if err != nil {
			return err
		}
		has := slices.ContainsFunc(config.Pool(1).PGs, func(t schema.PGTarget) bool { return slices.Contains(t.OSDSet, n) })
		if has != placed {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.c.WaitState(1, "active", 30*time.Second)
}

// TestSnapshots: a chain of snapshots keeps what each of them had, while the
// image is written and OSDs are killed.
func TestSnapshots(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{})
			name := r.pool(1, s.pool, imageBytes)
			image := r.open(name, imageBytes)
			var snapshots []*tested
			for i := range 3 {
				n := meta.OSDNum(i + 1)
				r.under(fmt.Sprintf("kill -9 of OSD %d with %d snapshots", n, i), image, gentle, 300*time.Millisecond,
					func() { r.must(r.c.OSD(n).Kill()) })
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				snapshot := fmt.Sprintf("s%d", n)
				r.must(image.image.cluster.Snapshot(ctx, name, snapshot))
				cancel()
				snapshots = append(snapshots, &tested{image.Clone(), r.dial(name + "@" + snapshot)})
				r.must(r.c.OSD(n).Start())
				r.must(r.c.WaitState(1, "active", 20*time.Second))
			}
			r.under("load", image, gentle, time.Second, func() {})
			for _, snapshot := range snapshots {
				r.verify(snapshot)
			}
			r.verify(image)
		})
	}
}
