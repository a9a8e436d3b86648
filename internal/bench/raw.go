package main

import (
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
type fioResult struct{ Jobs []fioJob }

type fioJob struct {
	Error       int
	User        float64 `json:"usr_cpu"` // percent of the time
	System      float64 `json:"sys_cpu"`
	Read, Write fioSide
}

type fioSide struct {
	Iops    float64 `json:"iops"`
	BW      float64 `json:"bw_bytes"`
	Total   float64 `json:"total_ios"`
	Runtime float64 `json:"runtime"` // milliseconds
	Lat     struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"lat_ns"` // submission included, with --lat_percentiles
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
	direct := "1"
	if folder == memoryFolder {
		direct = "0" // tmpfs knows no direct I/O here
	}
	out, err := exec.Command("fio", "--name=raw", "--filename="+filepath.Join(dir, "f"), "--size="+strconv.Itoa(clusterImage),
		"--ioengine=io_uring", "--direct="+direct, "--rw="+fioMode(j), "--bs="+strconv.FormatUint(j.Bytes, 10),
		"--iodepth="+strconv.Itoa(j.Depth), "--time_based", "--runtime=2", "--ramp_time=0.5", "--fallocate=none", "--lat_percentiles=1", "--output-format=json").Output()
	if err != nil {
		return r, false, fmt.Errorf("fio: %w", err)
	}
	side, _, err := fioOnly(out, j.Write)
	if err != nil {
		return r, false, err
	}
	p := side.Lat.Percentile
	return rawResult{side.Iops, p["50.000000"] / 1e3, p["99.000000"] / 1e3, side.BW}, true, nil
}

// fioMode is fio's name of a workload.
func fioMode(j clusterio.Job) string {
	mode := "read"
	if j.Write {
		mode = "write"
	}
	if !j.Sequential {
		mode = "rand" + mode
	}
	return mode
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
