package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"vitastor/internal/bench/clusterio"
)

// rawResult is what fio says of one file.
type rawResult struct {
	ops, p50, p99, bytesPerSecond float64 // per second; microseconds
}

// fioResult is the part of fio's output that we look at.
type fioResult struct {
	Jobs []struct{ Read, Write fioSide }
}

type fioSide struct {
	Iops float64 `json:"iops"`
	BW   float64 `json:"bw_bytes"`
	Clat struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// rawFile runs a job on a file with fio and io_uring: what the machine can do
// without us. ok is false when there is no fio.
func rawFile(folder string, j clusterio.Job) (r rawResult, ok bool, err error) {
	if _, err := exec.LookPath("fio"); err != nil {
		return r, false, nil
	}
	dir, err := os.MkdirTemp(folder, "bench-raw-")
	if err != nil {
		return r, false, err
	}
	defer os.RemoveAll(dir)
	rw := map[[2]bool]string{{false, false}: "randread", {true, false}: "randwrite", {false, true}: "read", {true, true}: "write"}
	direct := "1"
	if folder == memoryFolder {
		direct = "0" // tmpfs knows no direct I/O here
	}
	out, err := exec.Command("fio", "--name=raw", "--filename="+filepath.Join(dir, "f"), "--size="+strconv.Itoa(clusterImage),
		"--ioengine=io_uring", "--direct="+direct, "--rw="+rw[[2]bool{j.Write, j.Sequential}], "--bs="+strconv.FormatUint(j.Bytes, 10),
		"--iodepth="+strconv.Itoa(j.Depth), "--time_based", "--runtime=2", "--ramp_time=0.5", "--fallocate=none", "--output-format=json").Output()
	if err != nil {
		return r, false, fmt.Errorf("fio: %w", err)
	}
	var f fioResult
	if err := json.Unmarshal(out, &f); err != nil || len(f.Jobs) != 1 {
		return r, false, fmt.Errorf("fio: %d jobs in its output, %v", len(f.Jobs), err)
	}
	side := f.Jobs[0].Read
	if j.Write {
		side = f.Jobs[0].Write
	}
	p := side.Clat.Percentile
	return rawResult{side.Iops, p["50.000000"] / 1e3, p["99.000000"] / 1e3, side.BW}, true, nil
}

// reportRaw prints what fio has measured beside a row.
func reportRaw(k clusterKind, j clusterJob, report func(Row)) error {
	r, ok, err := rawFile(k.folder, j.job)
	if err != nil || !ok {
		return err
	}
	value := fmt.Sprintf("%.0f IOPS", r.ops)
	if j.big {
		value = fmt.Sprintf("%.0f MB/s", r.bytesPerSecond/1e6)
	}
	report(Row{Figure: rowName(k, j) + ", one file (fio)", Value: fmt.Sprintf("%s, p50 %.0f us, p99 %.0f us", value, r.p50, r.p99)})
	return nil
}
