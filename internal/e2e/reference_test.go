package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
)

// reference finds a program of the reference implementation.
func reference(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv(cluster.ReferenceEnv)
	if dir == "" {
		t.Skipf("%s does not name a folder with programs of the reference implementation", cluster.ReferenceEnv)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no program of the reference: %v", err)
	}
	return path
}

// TestReferenceOSD: two of our OSDs and one of the reference, which is primary
// and secondary, and gets killed like the others.
func TestReferenceOSD(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, cluster.Config{Program: map[string]string{"osd2": reference(t, "vitastor-osd")}})
			r.mixed(s.pool)
		})
	}
}

// TestReferenceMonitor: the reference's monitor with our OSDs.
func TestReferenceMonitor(t *testing.T) {
	r := newRig(t, cluster.Config{Program: map[string]string{"mon1": reference(t, "vitastor-mon")}})
	r.mixed(schemes[0].pool)
}

// mixed kills every OSD once under load.
func (r *rig) mixed(pool cluster.Pool) {
	r.Helper()
	image := r.open(r.pool(1, pool, imageBytes), imageBytes)
	r.hasPrimary(2)
	for _, n := range r.c.OSDNumbers() {
		r.under(fmt.Sprintf("kill -9 of OSD %d", n), image, gentle, 2*time.Second, func() { r.must(r.c.OSD(n).Kill()) })
		r.must(r.c.WaitDown(n, 30*time.Second)) // the reference's lease lives 15 s
		r.under(fmt.Sprintf("start of OSD %d", n), image, gentle, time.Second, func() { r.must(r.c.OSD(n).Start()) })
		r.must(r.c.WaitState(1, "active", 60*time.Second))
		r.verify(image)
	}
}

// TestReferenceClient: what our client has written is read by vitastor-cli of the
// reference, and the other way round.
func TestReferenceClient(t *testing.T) {
	cli := reference(t, "vitastor-cli")
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, cluster.Config{})
			name := r.pool(1, s.pool, imageBytes)
			image := r.open(name, imageBytes)
			r.under("our writes", image, gentle, time.Second, func() {})
			mine := make([]byte, imageBytes)
			_, err := image.image.ReadAt(mine, 0)
			r.must(err)
			file := filepath.Join(r.c.Dir, "copy")
			dd := func(args ...string) {
				t.Helper()
				cmd := exec.Command(cli, append([]string{"dd", "--config_path", r.c.ConfigFile()}, args...)...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
				}
			}
			dd("iimg="+name, "of="+file)
			theirs, err := os.ReadFile(file)
			r.must(err)
			if !bytes.Equal(mine, theirs) {
				t.Error("the reference reads something else than we do")
			}
			for i := range theirs {
				theirs[i] ^= 0xA5
			}
			r.must(os.WriteFile(file, theirs, 0o644))
			dd("if="+file, "oimg="+name)
			_, err = r.dial(name).ReadAt(mine, 0)
			r.must(err)
			if !bytes.Equal(mine, theirs) {
				t.Error("we read something else than the reference has written")
			}
		})
	}
}
