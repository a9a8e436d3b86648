package storebench

import (
	"testing"

	"vitastor/internal/env"
)

// TestStartUp opens small generated stores; nothing is asserted about time.
func TestStartUp(t *testing.T) {
	for _, csum := range []uint32{0, 4096} {
		const objects = 20000
		r, err := StartUp(StartUpOptions{Dir: t.TempDir(), Objects: objects, Intents: 100, CsumBytes: csum, Mode: env.DiskCached})
		if err != nil {
			t.Fatal(err)
		}
		entry := 52.0
		if csum != 0 {
			entry += 4 * BlockBytes / 4096
		}
		if r.PerObject < entry || r.MetaBytes < int64(objects*entry) || r.Peak < r.Before || r.Open <= 0 {
			t.Errorf("checksum block %d: implausible report %+v", csum, r)
		}
	}
}

func TestStartUpRefusals(t *testing.T) {
	for name, o := range map[string]StartUpOptions{
		"objects": {Dir: t.TempDir(), Objects: 3},
		"folder":  {Dir: "/nonexistent"},
	} {
		if _, err := StartUp(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
