package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitastor/internal/bench/clusterio"
	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
)

const (
	clusterArgument = "cluster-client"
	clusterImage    = 1 << 30
	clusterDisk     = 2 << 30
	clusterWarm     = 500 * time.Millisecond
	clusterTime     = 2 * time.Second
	clusterPool     = 1
	worstRatio      = 0.9 // of the reference, in every row
)

// clusterKind is where a cluster lies and how its pool is coded.
type clusterKind struct {
	name   string
	folder string
	pool   cluster.Pool
}

// clusterJob is a row of the table.
type clusterJob struct {
	name string
	job  clusterio.Job
	big  bool // MB/s instead of IOPS
	aim  float64
}

var clusterJobs = []clusterJob{
	{"4K write T1Q1", clusterio.Job{Write: true, Bytes: 4096, Depth: 1}, false, 0.6},
	{"4K read T1Q1", clusterio.Job{Bytes: 4096, Depth: 1}, false, 0.6},
	{"4K write T1Q128", clusterio.Job{Write: true, Bytes: 4096, Depth: 128}, false, 0},
	{"4K read T1Q128", clusterio.Job{Bytes: 4096, Depth: 128}, false, 0},
	{"4M write Q16", clusterio.Job{Write: true, Sequential: true, Bytes: 4 << 20, Depth: 16}, true, 0},
	{"4M read Q16", clusterio.Job{Sequential: true, Bytes: 4 << 20, Depth: 16}, true, 0},
}

// rowsWanted is the flag -rows.
var rowsWanted *regexp.Regexp

func rowName(k clusterKind, j clusterJob) string { return k.name + ": " + j.name }

func wantedRow(k clusterKind, j clusterJob) bool { return rowsWanted.MatchString(rowName(k, j)) }

// clusterPrepare: the figures to compare with were taken without checksums of data.
var clusterPrepare = []string{"--data_csum_type", "none"}

// side is one of the systems that are compared.
type side struct {
	name string
	c    *cluster.Cluster
}

// sample is one run of a job.
type sample struct {
	clusterio.Result
	osdCPU time.Duration // of all OSDs, per operation
}

// benchCluster measures whole clusters of three OSDs, all processes on this
// machine, and, if its programs are there, the reference's OSDs with our client
// in alternation.
func benchCluster(rounds int, report func(Row)) error {
	dir, err := os.MkdirTemp("", "bench-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := cluster.Build(filepath.Join(dir, "bin"))
	if err != nil {
		return err
	}
	disk := diskFolder()
	for _, k := range []clusterKind{
		{"replicated 2, tmpfs", memoryFolder, cluster.Replicated("bench", 2, 16)},
		{"EC 2+1, tmpfs", memoryFolder, cluster.EC("bench", 2, 1, 16)},
		{"replicated 2, disk", disk, cluster.Replicated("bench", 2, 16)},
		{"EC 2+1, disk", disk, cluster.EC("bench", 2, 1, 16)},
	} {
		if !slices.ContainsFunc(clusterJobs, func(j clusterJob) bool { return wantedRow(k, j) }) {
			continue
		}
		if err := benchClusterKind(bin, k, rounds, report); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	if os.Getenv(cluster.ReferenceEnv) == "" {
		report(Row{Figure: "ratios to the reference", Value: "not measured: " + cluster.ReferenceEnv + " does not name its programs"})
	}
	return nil
}

func benchClusterKind(bin cluster.Bin, k clusterKind, rounds int, report func(Row)) error {
	var sides []side
	defer func() {
		for _, s := range sides {
			s.c.Close()
		}
	}()
	names := []string{"ours"}
	if os.Getenv(cluster.ReferenceEnv) != "" {
		names = append(names, "reference")
	}
	for _, name := range names {
		c, cleanup, err := startSide(bin, k, name)
		if err != nil {
			return err
		}
		defer cleanup()
		sides = append(sides, side{name, c})
	}
	for _, j := range clusterJobs {
		if !wantedRow(k, j) {
			continue
		}
		runs := make([][]sample, len(sides))
		for range rounds {
			for i, s := range sides {
				got, err := runClusterJob(s.c, j.job)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, j.name, err)
				}
				runs[i] = append(runs[i], got)
			}
		}
		reportJob(k, j, sides, runs, report)
		if err := reportRaw(k, j, report); err != nil {
			return err
		}
	}
	return nil
}

// startSide starts a cluster and fills its image.
func startSide(bin cluster.Bin, k clusterKind, name string) (*cluster.Cluster, func(), error) {
	dir, err := os.MkdirTemp(k.folder, "bench-"+name+"-")
	if err != nil {
		return nil, nil, err
	}
	cleanup := func() { os.RemoveAll(dir) }
	config := cluster.Config{Dir: dir, Bin: bin, OSDBytes: clusterDisk, Prepare: clusterPrepare,
		Global: map[string]any{"immediate_commit": "all"}}
	if name == "reference" {
		osd := filepath.Join(os.Getenv(cluster.ReferenceEnv), "vitastor-osd")
		config.Program = map[string]string{"osd1": osd, "osd2": osd, "osd3": osd}
	}
	c, err := cluster.New(config)
	if err == nil && k.folder != memoryFolder {
		err = writeHoles(c)
	}
	if err == nil {
		err = c.Start()
	}
	if err == nil {
		err = c.CreatePool(clusterPool, k.pool)
	}
	if err == nil {
		err = c.CreateImage(clusterPool, 1, "bench", clusterImage)
	}
	if err == nil {
		_, err = runClusterJob(c, clusterio.Job{Write: true, Sequential: true, Bytes: 4 << 20, Depth: 8, Ops: clusterImage >> 22})
	}
	if err != nil {
		if c != nil {
			err = fmt.Errorf("%w\n%s", err, c.Logs(5))
			c.Close()
		}
		cleanup()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, cleanup, nil
}

// runClusterJob runs the client and looks at what the OSDs have used meanwhile.
func runClusterJob(c *cluster.Cluster, j clusterio.Job) (sample, error) {
	j.Etcd, j.Inode = c.Endpoints(), meta.MakeInode(clusterPool, 1)
	if j.ImageBytes == 0 {
		j.ImageBytes = clusterImage
	}
	if j.Ops == 0 && j.Time == 0 {
		j.Warm, j.Time = clusterWarm, clusterTime
	}
	text, err := json.Marshal(j)
	if err != nil {
		return sample{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	before, err := osdCPU(c)
	if err != nil {
		return sample{}, err
	}
	out, err := exec.Command(self, clusterArgument, string(text)).Output()
	if err != nil {
		if x := (*exec.ExitError)(nil); errors.As(err, &x) {
			err = fmt.Errorf("%w: %s", err, x.Stderr)
		}
		return sample{}, err
	}
	var s sample
	if err := json.Unmarshal(out, &s.Result); err != nil {
		return s, err
	}
	after, err := osdCPU(c)
	s.osdCPU = (after - before) / time.Duration(s.AllOps)
	return s, err
}

// osdCPU is the CPU time of all threads of all OSDs.
func osdCPU(c *cluster.Cluster) (sum time.Duration, err error) {
	for _, n := range c.OSDNumbers() {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.OSD(n).PID()))
		if len(files) == 0 {
			return 0, fmt.Errorf("OSD %d does not run", n)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // a thread that has ended
			}
			first, _, _ := strings.Cut(string(text), " ")
			nanos, err := strconv.ParseInt(first, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", f, err)
			}
			sum += time.Duration(nanos)
		}
	}
	return sum, nil
}

// reportJob prints our figures, and the medians of the ratios to the reference.
func reportJob(k clusterKind, j clusterJob, sides []side, runs [][]sample, report func(Row)) {
	name := rowName(k, j)
	for i, s := range sides {
		rate := func(x sample) float64 { return x.OpsPerSecond }
		unit := "IOPS"
		if j.big {
			rate, unit = func(x sample) float64 { return x.BytesPerSec / 1e6 }, "MB/s"
		}
		report(Row{Figure: name + ", " + s.name, Value: fmt.Sprintf("%.0f %s, p50 %.0f us, p99 %.0f us, OSDs %.1f us, client %.1f us per op",
			medianOf(runs[i], rate), unit, medianOf(runs[i], p50), medianOf(runs[i], p99), medianOf(runs[i], osdPerOp), medianOf(runs[i], clientPerOp))})
	}
	if len(sides) < 2 {
		return
	}
	latency, cpu := ratioOf(runs[0], runs[1], p50), ratioOf(runs[0], runs[1], osdPerOp)
	report(Row{Figure: name + ", ours / reference", Value: fmt.Sprintf("p50 %.2fx, CPU of OSDs %.2fx", latency, cpu),
		Target: "<= 0.9x, 0.9x", OK: latency <= worstRatio && cpu <= worstRatio})
}

func p50(x sample) float64      { return float64(x.P50) / 1e3 }
func p99(x sample) float64      { return float64(x.P99) / 1e3 }
func osdPerOp(x sample) float64 { return float64(x.osdCPU) / 1e3 }
func clientPerOp(x sample) float64 {
	return float64(x.CPU) / 1e3 / float64(x.Ops)
}

func medianOf(s []sample, f func(sample) float64) float64 {
	v := make([]float64, len(s))
	for i, x := range s {
		v[i] = f(x)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// ratioOf is the median of the ratios of runs that followed each other.
func ratioOf(a, b []sample, f func(sample) float64) float64 {
	v := make([]float64, len(a))
	for i := range a {
		v[i] = f(a[i]) / f(b[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}
