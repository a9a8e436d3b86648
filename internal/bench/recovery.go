package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/bench/clusterio"
	"vitastor/internal/e2e/cluster"
)

const (
	recoveredOSD   = 3
	recoveryImage  = 3 << 29 // two thirds of the copies of 1.5 GiB are on each of three OSDs: 1 GiB
	recoveryLimit  = 3 * time.Minute
	recoveryLeast  = 0.7 // of the sequential speed of the disk
	recoveryP99Max = 2.0 // of that without recovery
)

// benchRecovery loses the disk of one of three OSDs and measures how fast its
// data comes back, alone and under load, and what clients notice.
func benchRecovery(rounds int, report func(Row)) error {
	dir, err := os.MkdirTemp(diskFolder(), "bench-recovery-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := cluster.Build(filepath.Join(dir, "bin"))
	if err != nil {
		return err
	}
	c, err := startRecovery(bin, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	var alone, loaded, normal, during, ratios []float64
	for range min(rounds, 5) {
		raw, err := sequentialWrite(dir)
		if err != nil {
			return err
		}
		took, err := recoverDisk(c)
		if err != nil {
			return err
		}
		alone = append(alone, took)
		if raw > 0 {
			ratios = append(ratios, took/raw)
		}
		took, before, meanwhile, err := recoverLoaded(c)
		if err != nil {
			return err
		}
		loaded, normal, during = append(loaded, took), append(normal, p99(before)), append(during, p99(meanwhile))
	}
	report(Row{Figure: "1 GiB to an empty disk, no clients", Value: fmt.Sprintf("%.0f MB/s", middle(alone)/1e6)})
	if len(ratios) > 0 {
		report(Row{Figure: "same / sequential writes of fio", Value: fmt.Sprintf("%.2fx", middle(ratios)), Target: ">= 0.7x", OK: middle(ratios) >= recoveryLeast})
	} else {
		report(Row{Figure: "same / sequential writes of fio", Value: "not measured: fio is not installed"})
	}
	x := middle(during) / middle(normal)
	report(Row{Figure: "with clients (4K writes, depth 8)", Value: fmt.Sprintf("%.0f MB/s, p99 %.0f us, otherwise %.0f us", middle(loaded)/1e6, middle(during), middle(normal))})
	report(Row{Figure: "p99 with / without recovery", Value: fmt.Sprintf("%.2fx", x), Target: "<= 2x", OK: x <= recoveryP99Max})
	return nil
}

// startRecovery starts a cluster of three OSDs and fills its image.
func startRecovery(bin cluster.Bin, dir string) (*cluster.Cluster, error) {
	c, err := cluster.New(cluster.Config{Dir: dir, Bin: bin, OSDBytes: clusterDisk, Prepare: clusterPrepare,
		Global: map[string]any{"immediate_commit": "all"}})
	if err != nil {
		return nil, err
	}
	if err = c.Start(); err == nil {
		err = c.CreatePool(clusterPool, cluster.Replicated("bench", 2, 16))
	}
	if err == nil {
		_, err = runClusterJob(c, clusterio.Job{Write: true, Sequential: true, Bytes: 4 << 20, Depth: 8, Ops: recoveryImage >> 22, ImageBytes: recoveryImage})
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

func recoverDisk(c *cluster.Cluster) (bytesPerSecond float64, err error) {
	return recoverDiskWith(c, func() {})
}

// recoverLoaded is a recovery while clients write, and what they see before it
// and meanwhile.
func recoverLoaded(c *cluster.Cluster) (bytesPerSecond float64, before, meanwhile sample, err error) {
	load := clusterio.Job{Write: true, Bytes: 4096, Depth: 8, ImageBytes: recoveryImage, Warm: clusterWarm, Time: 4 * time.Second}
	if before, err = runClusterJob(c, load); err != nil {
		return 0, before, meanwhile, err
	}
	done := make(chan error, 1)
	bytesPerSecond, err = recoverDiskWith(c, func() {
		var err error
		meanwhile, err = runClusterJob(c, load)
		done <- err
	})
	if err == nil {
		err = <-done
	}
	return bytesPerSecond, before, meanwhile, err
}

// recoverDiskWith gives an OSD an empty disk and waits until everything is
// clean; meanwhile runs beside it.
func recoverDiskWith(c *cluster.Cluster, meanwhile func()) (bytesPerSecond float64, err error) {
	if err := c.OSD(recoveredOSD).Kill(); err != nil {
		return 0, err
	}
	if err := c.WaitDown(recoveredOSD, time.Minute); err != nil {
		return 0, err
	}
	if err := c.PrepareDisk(recoveredOSD, c.Disk(recoveredOSD), clusterDisk, append([]string{"--disable_data_fsync", "1"}, clusterPrepare...)...); err != nil {
		return 0, err
	}
	if err := writeOut(c.Disk(recoveredOSD)); err != nil {
		return 0, err
	}
	if err := c.OSD(recoveredOSD).Start(); err != nil {
		return 0, err
	}
	if err := c.WaitUp(recoveredOSD, time.Minute); err != nil {
		return 0, err
	}
	start := time.Now()
	go meanwhile()
	if err := c.WaitState(clusterPool, "active", recoveryLimit); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, c.Logs(5))
	}
	return float64(1<<30) / time.Since(start).Seconds(), nil
}

var fioBytes = regexp.MustCompile(`"bw_bytes" : (\d+)`)

// sequentialWrite is the speed of the disk according to fio, in bytes per
// second; 0 = there is no fio.
func sequentialWrite(dir string) (float64, error) {
	if _, err := exec.LookPath("fio"); err != nil {
		return 0, nil
	}
	file := filepath.Join(dir, "fio")
	defer os.Remove(file)
	out, err := exec.Command("fio", "--name=raw", "--filename="+file, "--size=1G", "--rw=write", "--bs=128k", "--iodepth=16",
		"--ioengine=io_uring", "--direct=1", "--output-format=json").Output()
	if err != nil {
		return 0, fmt.Errorf("fio: %w", err)
	}
	best := 0.0
	for _, m := range fioBytes.FindAllSubmatch(out, -1) { // of reads, writes and trims
		v, _ := strconv.ParseFloat(string(m[1]), 64)
		best = max(best, v)
	}
	return best, nil
}

func middle(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
