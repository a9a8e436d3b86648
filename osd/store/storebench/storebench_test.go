package storebench

import (
	"testing"
	"time"

	"vitastor/internal/env"
)

// runs of all kinds of jobs on a small store; nothing is asserted about time.
func TestRun(t *testing.T) {
	jobs := []Job{
		{Name: "buffered", Write: true, Bytes: 4096, Depth: 1},
		{Name: "intent", Write: true, Bytes: 4096, Depth: 32, IntentDepth: 1},
		{Name: "big", Write: true, Sequential: true, Bytes: BlockBytes, Depth: 4},
		{Name: "read", Bytes: 4096, Depth: 8},
		{Name: "read big", Bytes: BlockBytes, Depth: 2},
	}
	for _, csum := range []uint32{0, 4096} {
		rep, err := Run(Options{Dir: t.TempDir(), Mode: env.DiskCached, DataSetBytes: 64 * BlockBytes, CsumBytes: csum,
			Rounds: 2, RoundTime: 20 * time.Millisecond, Jobs: jobs})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Totals.Objects != 64 {
			t.Errorf("%d objects, expected 64", rep.Totals.Objects)
		}
		for _, r := range rep.Jobs {
			checkResult(t, r)
		}
	}
}

func checkResult(t *testing.T, r Result) {
	t.Helper()
	name := r.Job.Name
	if r.Ops == 0 || r.UserBytes != int64(r.Ops)*int64(r.Job.Bytes) {
		t.Errorf("%s: %d operations, %d bytes", name, r.Ops, r.UserBytes)
	}
	for _, f := range []Figures{r.Store, r.Raw} {
		if f.IOPS <= 0 || f.P50 <= 0 || f.P99 < f.P50 || f.CPU <= 0 {
			t.Errorf("%s: implausible figures %+v", name, f)
		}
	}
	// What was written was written at least once; reads of written data read
	// nothing else.
	if r.Amplification < 1 || !r.Job.Write && r.Amplification != 1 {
		t.Errorf("%s: amplification %g", name, r.Amplification)
	}
	sum := r.Buffered + r.Intent + r.Big
	want := 0.0
	if r.Job.Write {
		want = 1
	}
	if sum < want-0.01 || sum > want+0.01 {
		t.Errorf("%s: %g of the operations took a path of writes", name, sum)
	}
	switch {
	case r.Job.Bytes == BlockBytes && r.Job.Write && r.Big < 0.99:
		t.Errorf("%s: only %g went into new blocks", name, r.Big)
	case name == "buffered" && r.Buffered < 0.99:
		t.Errorf("%s: only %g were buffered", name, r.Buffered)
	case name == "intent" && r.Intent < 0.1:
		t.Errorf("%s: only %g went in place", name, r.Intent)
	}
}

// TestVolatile: on a disk with a cache syncs are counted and nothing goes in
// place.
func TestVolatile(t *testing.T) {
	rep, err := Run(Options{Dir: t.TempDir(), Mode: env.DiskCached, DataSetBytes: 16 * BlockBytes, Volatile: true, Rounds: 1,
		RoundTime: 20 * time.Millisecond, Jobs: []Job{{Name: "synced", Write: true, Bytes: 4096, Depth: 4, SyncEvery: 8}}})
	if err != nil {
		t.Fatal(err)
	}
	if r := rep.Jobs[0]; r.Intent != 0 || r.Amplification < 1 {
		t.Errorf("in place %g, amplification %g", r.Intent, r.Amplification)
	}
}

// TestRefusals: conditions that make no sense are errors, not figures.
func TestRefusals(t *testing.T) {
	for name, o := range map[string]Options{
		"size of operations": {Jobs: []Job{{Bytes: 4095, Depth: 1}}},
		"depth":              {Jobs: []Job{{Bytes: 4096}}},
		"data set":           {DataSetBytes: 5},
		"folder":             {Dir: "/nonexistent"},
	} {
		if _, err := Run(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
