package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vitastor/internal/e2e/cluster"
)

// The sections fio and qemu, and the rows of nbd on a cluster: the programs that
// people use, on the cluster of the section cluster, beside the same program on
// other servers with a raw file in memory.

// hostKind is that cluster.
var hostKind = clusterKind{"replicated 2, tmpfs", memoryFolder, cluster.Replicated("bench", 2, 16)}

const (
	hostImage  = "bench"
	servedName = "vitastor-nbd serve"
)

// referenceFigures are those of release 3.0.8 by itself, with its fio engine, on
// such a cluster on such a machine. They were taken in another sitting, so they
// only tell the order of magnitude.
var referenceFigures = map[string]string{
	"4K write T1Q1":   "6967 IOPS, average 143 us, OSDs 129 us, client 27 us per op",
	"4K read T1Q1":    "16079 IOPS, average 62 us, OSDs 40 us, client 22 us per op",
	"4K write T1Q128": "52129 IOPS, average 2165 us, OSDs 28 us, client 8 us per op",
	"4K read T1Q128":  "70431 IOPS, average 1222 us, OSDs 17 us, client 9 us per op",
	"4M write Q16":    "812 MB/s, average 82 ms, OSDs 8138 us, client 1139 us per op",
	"4M read Q16":     "1454 MB/s, average 46 ms, OSDs 2173 us, client 2153 us per op",
}

// target is a disk as one client program sees it.
type target struct {
	name string
	run  hostClient // the client program
	args []string   // that tell it about the disk
	env  []string   // of it
	used cpuTimes   // of what serves the disk
}

// cpuTimes is the CPU time of some processes so far.
type cpuTimes func() (time.Duration, error)

// hostRun is what one run has measured.
type hostRun struct {
	perSecond float64
	bytes     float64 // per second
	p50, p99  float64 // microseconds; 0 = the program does not tell
	client    float64 // CPU of the client program, microseconds per operation
	servers   float64 // CPU of OSDs and servers, the same
}

func halfOf(r hostRun) float64    { return r.p50 }
func clientOf(r hostRun) float64  { return r.client }
func serversOf(r hostRun) float64 { return r.servers }

// hostClient runs a job on a target; allOps are the operations that the servers
// have seen.
type hostClient func(t *target, j clusterJob) (r hostRun, allOps float64, err error)

// hostSection says what is compared with what.
type hostSection struct {
	jobs      []clusterJob
	needs     []string // programs
	build     string   // goal of make, "" = none
	reference bool     // a second cluster is the reference's, if it is there
	targets   func(r *hostRig) ([]*target, error)
	// compare is the verdict on a job, if there is one; nil = never.
	compare func(targets []*target, runs [][]hostRun) (r Row, ok bool)
}

// hostRig is what runs meanwhile.
type hostRig struct {
	dir, lib  string // for everything; with what make has built
	bin       cluster.Bin
	ours      *cluster.Cluster
	reference *cluster.Cluster // nil = its programs are not there
	servers   []*nbdServer
	cleanups  []func()
}

func (r *hostRig) close() {
	for _, s := range r.servers {
		s.stop()
	}
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}

// benchHosts runs a section.
func benchHosts(s hostSection, rounds int, report func(Row)) error {
	if !slices.ContainsFunc(s.jobs, func(j clusterJob) bool { return wantedRow(hostKind, j) }) {
		return nil
	}
	for _, name := range s.needs {
		if _, err := exec.LookPath(name); err != nil {
			report(Row{Figure: "everything on a cluster", Value: "not measured: " + name + " is not installed (make deps)"})
			return nil
		}
	}
	r, problem, err := newHostRig(s)
	defer r.close()
	if err != nil {
		return err
	}
	if problem != "" {
		report(Row{Figure: "everything on a cluster", Value: "not measured: " + problem})
		return nil
	}
	targets, err := s.targets(r)
	if err != nil {
		return err
	}
	for _, j := range s.jobs {
		if !wantedRow(hostKind, j) {
			continue
		}
		runs, err := runHosts(targets, j, rounds)
		if err != nil {
			return err
		}
		reportHosts(s, targets, j, runs, report)
	}
	if s.reference && r.reference == nil {
		report(Row{Figure: "beside the reference's engine and OSDs", Value: "not measured: " + cluster.ReferenceEnv +
			" does not name a folder with vitastor-osd and libfio_vitastor.so"})
	}
	return nil
}

// newHostRig builds and starts a cluster with a full image. A problem is a
// reason not to measure.
func newHostRig(s hostSection) (r *hostRig, problem string, err error) {
	r = &hostRig{}
	root, err := cluster.Root()
	if err != nil {
		return r, "", err
	}
	r.lib = filepath.Join(root, "bin", "lib")
	if s.build != "" {
		if out, err := exec.Command("make", "-C", root, s.build).CombinedOutput(); err != nil {
			return r, fmt.Sprintf("make %s fails: %s", s.build, lastLine(out)), nil
		}
	}
	if r.dir, err = os.MkdirTemp(memoryFolder, "bench-hosts-"); err != nil {
		return r, "", err
	}
	r.cleanups = append(r.cleanups, func() { os.RemoveAll(r.dir) })
	if r.bin, err = cluster.Build(filepath.Join(r.dir, "bin")); err != nil {
		return r, "", err
	}
	if r.ours, err = r.start("ours"); err != nil {
		return r, "", err
	}
	if s.reference && os.Getenv(cluster.ReferenceEnv) != "" {
		if _, err := os.Stat(referenceEngine()); err == nil {
			r.reference, err = r.start("reference")
			return r, "", err
		}
	}
	return r, "", nil
}

func (r *hostRig) start(name string) (*cluster.Cluster, error) {
	c, cleanup, err := startSide(r.bin, hostKind, name)
	if err == nil {
		r.cleanups = append(r.cleanups, cleanup, func() { c.Close() })
	}
	return c, err
}

func referenceEngine() string {
	return filepath.Join(os.Getenv(cluster.ReferenceEnv), "libfio_vitastor.so")
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// serve starts vitastor-nbd on our cluster, as the first server.
func (r *hostRig) serve() error {
	program := filepath.Join(r.dir, "vitastor-nbd")
	if out, err := exec.Command("go", "build", "-o", program, "vitastor/frontends/nbd/vitastor-nbd").CombinedOutput(); err != nil {
		return fmt.Errorf("go build vitastor-nbd: %w\n%s", err, out)
	}
	return r.server(servedName, "ours", func(socket string) []string {
		return []string{program, "serve", "--socket", socket, "--image", hostImage, "--config_path", r.ours.ConfigFile()}
	})
}

// serveRaw starts servers of others on a raw file in memory.
func (r *hostRig) serveRaw() error {
	raw := filepath.Join(r.dir, "raw")
	if err := writeZeroes(raw, clusterImage); err != nil {
		return err
	}
	return errors.Join(r.server("nbdkit file", "nbdkit", nbdkitArgs(raw)), r.server("qemu-nbd", "qemu-nbd", qemuNBDArgs(raw)))
}

func (r *hostRig) server(name, socket string, args func(socket string) []string) error {
	s, err := startNBDServer(name, filepath.Join(r.dir, socket), args)
	if s != nil {
		r.servers = append(r.servers, s)
	}
	return err
}

// usedBy is the CPU time of the OSDs of a cluster and of servers in front of it.
func usedBy(c *cluster.Cluster, servers ...*nbdServer) cpuTimes {
	return func() (sum time.Duration, err error) {
		if c != nil {
			sum, err = osdCPU(c)
		}
		for _, s := range servers { // which also have threads that end with their connection
			ticks, e := s.ticks()
			sum, err = sum+time.Duration(ticks)*time.Second/nbdTickRate, errors.Join(err, e)
		}
		return sum, err
	}
}

// nbdTargets are the servers as targets of a client program; args makes the arguments out of a URI.
func (r *hostRig) nbdTargets(client hostClient, args func(uri string) []string) (list []*target) {
	for _, s := range r.servers {
		t := &target{name: s.name + ", raw file", run: client, args: args("nbd+unix:///?socket=" + s.path), used: usedBy(nil, s)}
		if s.name == servedName {
			t.name, t.used = s.name, usedBy(r.ours, s)
		}
		list = append(list, t)
	}
	return list
}

// runHosts runs a job on all targets in turn.
func runHosts(targets []*target, j clusterJob, rounds int) ([][]hostRun, error) {
	runs := make([][]hostRun, len(targets))
	for range rounds {
		for i, t := range targets {
			before, err := t.used()
			if err != nil {
				return nil, err
			}
			r, ops, err := t.run(t, j)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", t.name, j.name, err)
			}
			after, err := t.used()
			if err != nil {
				return nil, err
			}
			r.servers = float64(after-before) / float64(time.Microsecond) / ops
			runs[i] = append(runs[i], r)
		}
	}
	return runs, nil
}

func reportHosts(s hostSection, targets []*target, j clusterJob, runs [][]hostRun, report func(Row)) {
	for i, t := range targets {
		median := func(f func(hostRun) float64) float64 {
			return hostMedian(runs[i], runs[i], func(a, _ hostRun) float64 { return f(a) })
		}
		value := fmt.Sprintf("%.0f IOPS", median(func(r hostRun) float64 { return r.perSecond }))
		if j.big {
			value = fmt.Sprintf("%.0f MB/s", median(func(r hostRun) float64 { return r.bytes / 1e6 }))
		}
		if p50 := median(halfOf); p50 > 0 {
			value += fmt.Sprintf(", p50 %.0f us, p99 %.0f us", p50, median(func(r hostRun) float64 { return r.p99 }))
		}
		value += fmt.Sprintf(", servers %.1f us, client %.1f us per op", median(serversOf), median(clientOf))
		report(Row{Figure: j.name + ", " + t.name, Value: value})
	}
	if s.compare != nil {
		if row, ok := s.compare(targets, runs); ok {
			row.Figure = j.name + ", " + row.Figure
			report(row)
		}
	}
	if len(s.jobs) == len(clusterJobs) {
		report(Row{Figure: j.name + ", reference with its fio engine, another sitting", Value: referenceFigures[j.name]})
	}
}

// hostRatio is the median of the ratios of runs that followed each other.
func hostRatio(a, b []hostRun, f func(hostRun) float64) float64 {
	return hostMedian(a, b, func(a, b hostRun) float64 { return f(a) / f(b) })
}

func hostMedian(a, b []hostRun, f func(a, b hostRun) float64) float64 {
	v := make([]float64, len(a))
	for i := range a {
		v[i] = f(a[i], b[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}
