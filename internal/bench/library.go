package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"vitastor/internal/e2e/cluster"
)

// libraryMost is what the C library may need of the CPU of the Go client.
const libraryMost = 1.1

// benchLibrary compares what an operation costs a process that uses the C
// library with one that uses the Go client, on the same cluster.
func benchLibrary(rounds int, report func(Row)) error {
	return benchHosts(hostSection{jobs: clusterJobs[:4], needs: []string{"make", "cc"}, build: "lib",
		targets: func(r *hostRig) ([]*target, error) {
			program := filepath.Join(r.dir, "cbench")
			source := filepath.Join(filepath.Dir(filepath.Dir(r.lib)), "libclient")
			cmd := exec.Command("cc", "-O2", "-o", program, "-I"+filepath.Join(source, "include"), filepath.Join(source, "examples", "c", "cbench.c"),
				"-L"+r.lib, "-lvitastor_client", "-Wl,-rpath,"+r.lib)
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%v: %w\n%s", cmd, err, out)
			}
			return []*target{
				{name: "C library", run: runC, used: usedBy(r.ours), args: []string{program, hostImage, strings.Join(r.ours.Endpoints(), ",")}},
				{name: "Go client", run: runGo(r.ours), used: usedBy(r.ours)},
			}, nil
		},
		compare: func(_ []*target, runs [][]hostRun) (Row, bool) {
			x := hostRatio(runs[0], runs[1], clientOf)
			return Row{Figure: "CPU of the process per operation, C / Go", Value: fmt.Sprintf("%.2fx", x), Target: "<= 1.1x", OK: x <= libraryMost}, true
		}}, rounds, report)
}

// runC runs cbench, which does the same as clusterio with the C library.
func runC(t *target, j clusterJob) (r hostRun, ops float64, err error) {
	kind := "read"
	if j.job.Write {
		kind = "write"
	}
	cmd := exec.Command(t.args[0], t.args[1], t.args[2], kind, strconv.FormatUint(j.job.Bytes, 10), strconv.Itoa(j.job.Depth),
		strconv.Itoa(int(hostTime.Seconds())))
	out, err := cmd.CombinedOutput()
	if err == nil {
		_, err = fmt.Sscanf(string(out), "%f ops/s, %f us CPU", &r.perSecond, &r.client)
	}
	if err != nil {
		return r, 0, fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return r, r.perSecond * (hostTime + clusterWarm).Seconds(), nil
}

// runGo runs clusterio.
func runGo(c *cluster.Cluster) hostClient {
	return func(_ *target, j clusterJob) (hostRun, float64, error) {
		s, err := runClusterJob(c, j.job)
		if err != nil {
			return hostRun{}, 0, err
		}
		return hostRun{perSecond: s.OpsPerSecond, bytes: s.BytesPerSec, p50: p50(s), p99: p99(s), client: clientPerOp(s)}, float64(s.AllOps), nil
	}
}
