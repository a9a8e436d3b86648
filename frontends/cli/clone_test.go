package cli_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestSnapshotMeta: what a snapshot is to remember stays with it, not with the
// image.
func TestSnapshotMeta(t *testing.T) {
	r := theRig(t)
	r.ok(t, "create", "-s", "1M", "-p", "rep", "about")
	r.ok(t, "create", "--snapshot", "s", "--image_meta", `{"create_ts":1700000000}`, "about")
	r.fails(t, 22, []string{"create", "--snapshot", "s2", "--image_meta", "5", "about"}, "--image_meta must be a JSON object")
	var rows []struct {
		Name string
		Meta map[string]any
	}
	r.json(t, &rows, "ls", "about*")
	for _, row := range rows {
		if want := row.Name == "about@s"; (row.Meta["create_ts"] == 1700000000.0) != want {
			t.Errorf("%s has meta %v", row.Name, row.Meta)
		}
	}
	if len(rows) != 2 {
		t.Errorf("%v", rows)
	}
	r.ok(t, "rm", "about@s", "about")
}

// TestCloneWhileRemoved: a clone that is made of a snapshot which is just being
// removed either is not made, or reads what the snapshot had. Before, the data
// could be deleted below a clone that was made between two looks of rm.
func TestCloneWhileRemoved(t *testing.T) {
	r := theRig(t)
	data := bytes.Repeat([]byte("vitastor"), 64<<10)
	made := 0
	for i := range 8 {
		base := fmt.Sprintf("base%d", i)
		r.ok(t, "create", "-s", "512k", "-p", "rep", base)
		r.write(t, base, 0, data)
		r.ok(t, "snap-create", base+"@s")
		r.ok(t, "rm", base)
		var group sync.WaitGroup
		clones := make([]ran, 3)
		for n := range clones {
			group.Go(func() {
				time.Sleep(time.Duration(n*5+i) * time.Millisecond)
				clones[n] = r.run("", "create", "--parent", base+"@s", fmt.Sprintf("%s-clone%d", base, n))
			})
		}
		group.Go(func() { r.run("", "rm", base+"@s") })
		group.Wait()
		for end := 0; r.run("", "rm", base+"@s").code != 2; end++ { // until it is not found
			if end == 10 {
				t.Fatalf("%s@s cannot be removed: %+v", base, r.run("", "rm", base+"@s"))
			}
		}
		for n, c := range clones {
			if name := fmt.Sprintf("%s-clone%d", base, n); c.code == 0 {
				made++
				r.wantContent(t, name, data)
				r.ok(t, "rm", name)
			}
		}
	}
	t.Logf("%d clones were made in time", made)
}
