package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/workload"
	"vitastor/internal/meta"
)

// fullEnv selects all scenarios.
const fullEnv = "VITASTOR_E2E"

// bin has the programs of this tree.
var bin cluster.Bin

var keepDirs = flag.Bool("keep", false, "keep the folders of clusters")

// pauses are what scenarios have measured.
var pauses struct {
	sync.Mutex
	lines []string
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vitastor-e2e-bin-")
	if err == nil {
		defer os.RemoveAll(dir)
		bin, err = cluster.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	for _, line := range pauses.lines {
		fmt.Println(line)
	}
	return code
}

// full skips a scenario in quick runs.
func full(t *testing.T) {
	t.Helper()
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("a slow scenario: runs with %s=full, as in make test-integrations", fullEnv)
	}
}

// rig is one scenario: a cluster and its clients.
type rig struct {
	*testing.T
	c *cluster.Cluster
}

// scratch is a folder in memory, because etcd and the disks of most scenarios
// shall not depend on what else the machine writes.
func scratch(t *testing.T) string {
	for _, parent := range []string{"/dev/shm", ""} {
		dir, err := os.MkdirTemp(parent, "vitastor-e2e-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if *keepDirs {
				t.Log("kept", dir)
				return
			}
			os.RemoveAll(dir)
		})
		return dir
	}
	t.Fatal("no folder for temporary files")
	return ""
}

// newRig starts a cluster.
func newRig(t *testing.T, c cluster.Config) *rig {
	t.Helper()
	r := prepareRig(t, c)
	r.must(r.c.Start())
	return r
}

// prepareRig describes a cluster that does not run yet.
func prepareRig(t *testing.T, c cluster.Config) *rig {
	t.Helper()
	c.Bin, c.Log = bin, t.Logf
	if c.Dir == "" {
		c.Dir = scratch(t)
	}
	cl, err := cluster.New(c)
	if errors.Is(err, cluster.ErrNoEtcd) && os.Getenv("CI") == "" || errors.Is(err, cluster.ErrNoNamespaces) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t, cl}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(cl.Logs(25))
		}
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
		if !t.Skipped() {
			if err := cl.CheckDisks(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// pool makes a pool and an image in it, both with number n.
func (r *rig) pool(n meta.PoolID, p cluster.Pool, imageBytes uint64) string {
	r.Helper()
	name := fmt.Sprintf("image%d", n)
	r.must(r.c.CreatePool(n, p))
	r.must(r.c.CreateImage(n, 1, name, imageBytes))
	return name
}

// tested is an image with what it must contain.
type tested struct {
	*workload.Content
	image *handle
}

// open connects a client of its own to an image that is full of zeroes.
func (r *rig) open(name string, bytes int64) *tested {
	r.Helper()
	return &tested{workload.New(uint64(time.Now().UnixNano()), bytes), r.dial(name)}
}

// gentle is a load that leaves the machine time for failover.
var gentle = workload.Options{Writers: 8, Reads: 0.3, Pause: 2 * time.Millisecond}

// under runs a fault while the load runs, for at least the given time after it.
func (r *rig) under(what string, t *tested, o workload.Options, after time.Duration, fault func()) workload.Result {
	r.Helper()
	run := t.Start(t.image, o)
	r.progress(run, 100)
	fault()
	time.Sleep(after)
	r.progress(run, 100)
	result, err := run.Stop()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
	r.Logf("%s: %d reads, %d writes, %d failed; the longest took %v", what, result.Reads, result.Writes, result.Failed,
		result.Longest.Round(time.Millisecond))
	pauses.Lock()
	pauses.lines = append(pauses.lines, fmt.Sprintf("pause %7.0f ms  %s: %s", float64(result.Longest.Microseconds())/1000, r.Name(), what))
	pauses.Unlock()
	return result
}

// progress waits until that many more operations have ended.
func (r *rig) progress(run *workload.Run, more uint64) {
	r.Helper()
	from := run.Done()
	for end := time.Now().Add(30 * time.Second); run.Done() < from+more; time.Sleep(5 * time.Millisecond) {
		if run.Failed() || time.Now().After(end) {
			_, err := run.Stop()
			r.Fatalf("the load does not get on: %d of %d operations: %v", run.Done()-from, more, err)
		}
	}
}

// verify reads everything back, also with a new client.
func (r *rig) verify(t *tested) {
	r.Helper()
	r.must(t.Verify(t.image))
	fresh := r.dial(t.image.name)
	r.must(t.Verify(fresh))
	fresh.Close()
}

// atMost tests a limit that tells whether the mechanism works at all.
func (r *rig) atMost(result workload.Result, limit time.Duration, why string) {
	r.Helper()
	if result.Longest > limit {
		r.Errorf("an operation took %v, more than %v: %s\n%v", result.Longest, limit, why, result.Slowest(time.Second))
	}
}
