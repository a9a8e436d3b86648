package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"vitastor/internal/e2e/cluster"
)

// hostTime is about how long one run takes.
const hostTime = 2 * time.Second

// hostOps are the operations of one run of qemu-img, which ends by count.
var hostOps = map[string]int{"4K write T1Q1": 16_000, "4K read T1Q1": 30_000, "4K write T1Q128": 150_000, "4K read T1Q128": 250_000,
	"4M write Q16": 500, "4M read Q16": 800}

// qemuStride is between two requests of a random job. qemu-img bench knows no
// random offsets: it adds this, modulo the size of the disk, so that consecutive
// requests are far apart and no block repeats.
const qemuStride = 4096 * 161803

// benchFio: fio with our engine, and with its own NBD engine on raw files.
func benchFio(rounds int, report func(Row)) error {
	return benchHosts(hostSection{jobs: clusterJobs, needs: []string{"fio", "make", "cc", "nbdkit", "qemu-nbd"}, build: "fio", reference: true,
		targets: fioTargets,
		compare: func(targets []*target, runs [][]hostRun) (Row, bool) {
			p50, cpu := hostRatio(runs[0], runs[1], halfOf), hostRatio(runs[0], runs[1], serversOf)
			return Row{Figure: "ours / reference", Value: fmt.Sprintf("p50 %.2fx, CPU of OSDs %.2fx, CPU of fio %.2fx", p50, cpu,
				hostRatio(runs[0], runs[1], clientOf)), Target: "<= 0.9x, 0.9x", OK: p50 <= worstRatio && cpu <= worstRatio}, targets[1].name == referenceName
		}}, rounds, report)
}

const referenceName = "reference's engine and OSDs"

func fioTargets(r *hostRig) (list []*target, err error) {
	engine := func(file string, c *cluster.Cluster) []string {
		return []string{"--ioengine=" + file, "--conf=" + c.ConfigFile(), "--image=" + hostImage}
	}
	list = append(list, &target{name: "libfio_vitastor.so", run: runFio, used: usedBy(r.ours),
		args: engine(filepath.Join(r.lib, "libfio_vitastor.so"), r.ours)})
	if r.reference != nil { // whose engine does not work in processes
		list = append(list, &target{name: referenceName, run: runFio, used: usedBy(r.reference),
			args: append(engine(referenceEngine(), r.reference), "--thread")})
	}
	err = r.serveRaw()
	return append(list, r.nbdTargets(runFio, fioURI)...), err
}

func fioURI(uri string) []string { return []string{"--ioengine=nbd", "--uri=" + uri} }

// benchQEMU: QEMU's block layer with our driver, and with its own NBD driver.
func benchQEMU(rounds int, report func(Row)) error {
	return benchHosts(hostSection{jobs: clusterJobs, needs: []string{"qemu-img", "make", "cc", "nbdkit", "qemu-nbd"}, build: "qemu-plugin",
		targets: func(r *hostRig) ([]*target, error) {
			client := newQEMU()
			list := []*target{{name: "block-vitastor.so", run: client, used: usedBy(r.ours),
				args: []string{"vitastor:image=" + hostImage + ":config_path=" + r.ours.ConfigFile()},
				env:  []string{"LD_PRELOAD=" + filepath.Join(r.lib, "block-vitastor.so")}}}
			err := r.serveRaw()
			return append(list, r.nbdTargets(client, func(uri string) []string { return []string{uri} })...), err
		}}, rounds, report)
}

// benchServed: vitastor-nbd on a cluster, beside servers of a raw file.
func benchServed(rounds int, report func(Row)) error {
	return benchHosts(hostSection{jobs: clusterJobs, needs: []string{"fio", "nbdkit", "qemu-nbd"},
		targets: func(r *hostRig) ([]*target, error) {
			if err := r.serve(); err != nil {
				return nil, err
			}
			err := r.serveRaw()
			return r.nbdTargets(runFio, fioURI), err
		}}, rounds, report)
}

// runFio is fio as a client. It counts everything from the first request: an
// engine has connected before.
func runFio(t *target, j clusterJob) (r hostRun, ops float64, err error) {
	dir, err := os.MkdirTemp("", "bench-fio-")
	if err != nil {
		return r, 0, err
	}
	defer os.RemoveAll(dir)
	result := filepath.Join(dir, "result")
	cmd := exec.Command("fio", append([]string{"--name=t", "--rw=" + fioMode(j.job), "--bs=" + strconv.FormatUint(j.job.Bytes, 10),
		"--iodepth=" + strconv.Itoa(j.job.Depth), "--direct=1", "--size=" + strconv.Itoa(clusterImage), "--norandommap", "--randrepeat=0",
		"--time_based", "--runtime=" + strconv.Itoa(int(hostTime.Seconds())), "--lat_percentiles=1",
		"--output-format=json", "--output=" + result}, t.args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), t.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, 0, fmt.Errorf("fio %q: %w\n%s", t.args, err, out)
	}
	text, err := os.ReadFile(result)
	if err != nil {
		return r, 0, err
	}
	side, job, err := fioOnly(text, j.job.Write)
	if err != nil {
		return r, 0, err
	}
	p := side.Lat.Percentile
	r = hostRun{perSecond: side.Iops, bytes: side.BW, p50: p["50.000000"] / 1e3, p99: p["99.000000"] / 1e3,
		client: (job.User + job.System) / 100 * side.Runtime * 1e3 / side.Total}
	return r, side.Total, nil
}

// fioOnly reads the output of the only job; an error too if some of its
// requests have failed.
func fioOnly(text []byte, write bool) (side fioSide, job fioJob, err error) {
	var f fioResult
	if err := json.Unmarshal(text, &f); err != nil || len(f.Jobs) != 1 {
		return side, job, fmt.Errorf("fio: %d jobs in its output, %v", len(f.Jobs), err)
	}
	job = f.Jobs[0]
	if side = job.Read; write {
		side = job.Write
	}
	if job.Error != 0 || side.Total == 0 {
		return side, job, fmt.Errorf("fio: error %d, %.0f requests", job.Error, side.Total)
	}
	return side, job, nil
}

// newQEMU makes qemu-img bench a client. What it needs to begin and to end,
// which differs between targets, is not counted as CPU of requests.
func newQEMU() hostClient {
	empty := map[*target]float64{}
	return func(t *target, j clusterJob) (r hostRun, ops float64, err error) {
		if _, known := empty[t]; !known {
			if _, empty[t], err = runQEMU(t, j, 1); err != nil {
				return r, 0, err
			}
		}
		n := hostOps[j.name]
		seconds, cpu, err := runQEMU(t, j, n)
		if err != nil {
			return r, 0, err
		}
		r.perSecond = float64(n) / seconds
		r.bytes = r.perSecond * float64(j.job.Bytes)
		r.client = max(cpu-empty[t], 0) * 1e6 / float64(n)
		return r, float64(n), nil
	}
}

// runQEMU returns the time of n requests, and the CPU time of the process.
func runQEMU(t *target, j clusterJob, n int) (seconds, cpu float64, err error) {
	args := []string{"bench", "-f", "raw", "-t", "none", "-c", strconv.Itoa(n), "-d", strconv.Itoa(j.job.Depth), "-s", strconv.FormatUint(j.job.Bytes, 10)}
	if j.job.Write {
		args = append(args, "-w")
	}
	if !j.job.Sequential {
		args = append(args, "-S", strconv.Itoa(qemuStride))
	}
	cmd := exec.Command("qemu-img", append(args, t.args...)...)
	cmd.Env = append(os.Environ(), t.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("qemu-img %q: %w\n%s", cmd.Args[1:], err, out)
	}
	m := nbdSeconds.FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("qemu-img said %q", out)
	}
	seconds, err = strconv.ParseFloat(string(m[1]), 64)
	return seconds, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), err
}
