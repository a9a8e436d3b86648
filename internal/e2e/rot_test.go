package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
)

// TestBitRot changes bytes on the disk of one OSD after the other. Reads do not
// see it, and a scrub repairs it.
func TestBitRot(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{})
			image := r.open(r.pool(1, s.pool, imageBytes), imageBytes)
			image.fillAll(r)
			for _, n := range r.c.OSDNumbers() {
				r.must(r.c.OSD(n).Kill())
				r.rot(n, 40)
				r.must(r.c.OSD(n).Start())
				r.must(r.c.WaitUp(n, 20*time.Second))
				r.must(r.c.WaitState(1, "active", 20*time.Second))
				r.verify(image)
				r.scrub()
				r.must(r.c.WaitState(1, "active", 30*time.Second))
				r.verify(image)
			}
		})
	}
}

// fillAll writes every block once.
func (t *tested) fillAll(r *rig) {
	r.Helper()
	r.must(t.WriteAll(t.image))
	r.verify(t)
}

// rot changes some bytes where the disk of an OSD holds data.
func (r *rig) rot(n meta.OSDNum, count int) {
	r.Helper()
	text, err := r.c.Superblock(r.c.Disk(n))
	r.must(err)
	var sb struct {
		Offset int64 `json:"data_offset"`
	}
	r.must(json.Unmarshal(text, &sb))
	f, err := os.OpenFile(r.c.Disk(n), os.O_RDWR, 0)
	r.must(err)
	defer f.Close()
	const area = imageBytes / 2 // at least as much was written, from the beginning
	b := make([]byte, 16)
	changed := 0
	for range count {
		at := sb.Offset + rand.Int64N(area/16)*16
		_, err := f.ReadAt(b, at)
		r.must(err)
		if b[0] != 0 || b[8] != 0 {
			changed++
		}
		b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
		_, err = f.WriteAt(b, at)
		r.must(err)
	}
	if changed < count/2 {
		r.Errorf("only %d of %d places on the disk of OSD %d had data", changed, count, n)
	}
}

// scrub asks for a scrub of all PGs and waits until it is done.
func (r *rig) scrub() {
	r.Helper()
	for pg := meta.PGNum(1); pg <= 16; pg++ {
		key := r.c.Keys.PGHistory(meta.PG{Pool: 1, Num: pg})
		text, err := r.c.Get(key)
		r.must(err)
		history := map[string]any{}
		if text != nil {
			r.must(json.Unmarshal(text, &history))
		}
		history["next_scrub"] = 1
		r.must(r.c.PutJSON(key, history))
	}
	r.must(r.c.Until("all PGs are scrubbed", 30*time.Second, func() error {
		for pg := meta.PGNum(1); pg <= 16; pg++ {
			text, err := r.c.Get(r.c.Keys.PGHistory(meta.PG{Pool: 1, Num: pg}))
			if err != nil {
				return err
			}
			var history struct {
				Next int64 `json:"next_scrub"`
			}
			if err := json.Unmarshal(text, &history); err != nil {
				return err
			}
			if history.Next == 1 {
				return fmt.Errorf("PG %d waits for its scrub", pg)
			}
		}
		return nil
	}))
}
