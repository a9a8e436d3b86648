package main

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/osd/store/storebench"
)

const (
	storeRoundTime = 200 * time.Millisecond
	runtimeAllocs  = 32 // in a round, by the runtime and the measurement
	memoryFolder   = "/dev/shm"
	tmpfsMagic     = 0x01021994
)

// storeRun is one store and its jobs.
type storeRun struct {
	name string
	o    storebench.Options
	jobs []storeJob
}

// storeJob is a workload and what is promised of it; 0 = nothing.
type storeJob struct {
	storebench.Job
	maxAmplification, maxCPU, maxP50 float64
}

func write4k(name string, depth, intentDepth int) storebench.Job {
	return storebench.Job{Name: name, Write: true, Bytes: 4096, Depth: depth, IntentDepth: intentDepth}
}

// The jobs of the object store. One latency of the disk: two would be a ratio
// of 2.
var (
	low      = storeJob{Job: write4k("4K overwrite, depth 1", 1, 0), maxP50: 1.5}
	lowCPU   = storeJob{Job: low.Job} // in memory there is no latency, only CPU time
	deep32   = storeJob{Job: write4k("4K overwrite, depth 32", 32, 0), maxAmplification: 1.15, maxCPU: 1.3}
	deep128  = storeJob{Job: write4k("4K overwrite, depth 128", 128, 0), maxAmplification: 1.15, maxCPU: 1.3}
	buffered = storeJob{Job: write4k("4K overwrite, depth 32, always buffered", 32, -1)}
	inPlace  = storeJob{Job: write4k("4K overwrite, depth 1, always in place", 1, 1)}
	blocks   = storeJob{Job: storebench.Job{Name: "128K new blocks, depth 8", Write: true, Bytes: storebench.BlockBytes, Depth: 8}, maxAmplification: 1.05}
	read1    = storeJob{Job: storebench.Job{Name: "4K read, depth 1", Bytes: 4096, Depth: 1}}
	read32   = storeJob{Job: storebench.Job{Name: "4K read, depth 32", Bytes: 4096, Depth: 32}}
	stream   = storeJob{Job: storebench.Job{Name: "128K sequential read, depth 8", Bytes: storebench.BlockBytes, Depth: 8, Sequential: true}}
	synced1  = storeJob{Job: storebench.Job{Name: "4K overwrite, depth 1, sync after each", Write: true, Bytes: 4096, Depth: 1, SyncEvery: 1}}
	synced32 = storeJob{Job: storebench.Job{Name: "4K overwrite, depth 32, sync after 32", Write: true, Bytes: 4096, Depth: 32, SyncEvery: 32}}
)

// benchStore measures the object store on files: on a disk and in memory.
func benchStore(rounds int, report func(Row)) error {
	disk := diskFolder()
	for _, r := range []storeRun{
		{"disk", storebench.Options{Dir: disk}, []storeJob{low, deep32, deep128, buffered, inPlace, blocks, read1, read32, stream}},
		{"disk, crc32c 4K", storebench.Options{Dir: disk, CsumBytes: 4096, DataSetBytes: 256 << 20}, []storeJob{deep32, blocks, read32}},
		{"disk with cache", storebench.Options{Dir: disk, Volatile: true, DataSetBytes: 256 << 20}, []storeJob{synced1, synced32}},
		{"tmpfs", storebench.Options{Dir: memoryFolder}, []storeJob{lowCPU, deep32, deep128, blocks, read32}},
	} {
		if err := r.run(rounds, report); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if err := benchStartUp(storebench.StartUpOptions{Dir: disk}, 100, report); err != nil {
		return err
	}
	return benchStartUp(storebench.StartUpOptions{Dir: disk, Objects: 4000000, CsumBytes: 4096}, 230, report)
}

// diskFolder is the temporary folder, if that is not in memory.
func diskFolder() string {
	var fs syscall.Statfs_t
	if dir := os.TempDir(); syscall.Statfs(dir, &fs) == nil && fs.Type != tmpfsMagic {
		return dir
	}
	return "."
}

func (r *storeRun) run(rounds int, report func(Row)) error {
	r.o.Rounds, r.o.RoundTime, r.o.Mode = rounds, storeRoundTime, env.DiskDirect
	for _, j := range r.jobs {
		r.o.Jobs = append(r.o.Jobs, j.Job)
	}
	out, err := storebench.Run(r.o)
	if err != nil {
		return err
	}
	for i, j := range r.jobs {
		j.report(r.name+": "+j.Name, &out.Jobs[i], rounds, report)
	}
	return nil
}

// report gives one row for information, then the promised figures.
func (j *storeJob) report(name string, m *storebench.Result, rounds int, report func(Row)) {
	text := fmt.Sprintf("%.1fk IOPS (%.2fx of the disk), p50 %v (%.2fx), p99 %v (%.2fx), CPU %v (%.2fx)",
		m.Store.IOPS/1000, m.IOPSRatio, microseconds(m.Store.P50), m.P50Ratio, microseconds(m.Store.P99), m.P99Ratio,
		m.Store.CPU.Round(10*time.Nanosecond), m.CPURatio)
	if j.Write {
		text += fmt.Sprintf(", %.2f bytes per byte; buffered %.0f%%, in place %.0f%%, new %.0f%%; compactions %.2f per write",
			m.Amplification, m.Buffered*100, m.Intent*100, m.Big*100, m.CompactPerOp)
	}
	report(Row{Figure: name, Value: text})
	limit := func(what string, value, most float64) {
		if most != 0 {
			report(Row{Figure: name + ": " + what, Value: fmt.Sprintf("%.2f", value), Target: fmt.Sprintf("<= %g", most), OK: value <= most})
		}
	}
	limit("write amplification", m.Amplification, j.maxAmplification)
	limit("CPU to the disk alone", m.CPURatio, j.maxCPU)
	limit("latency to one of the disk", m.P50Ratio, j.maxP50)
	// The runtime allocates now and then, whatever the number of operations is.
	allocs := max(0, m.AllocsPerOp-float64(runtimeAllocs*rounds)/float64(m.Ops))
	report(Row{Figure: name + ": allocations per operation", Value: fmt.Sprintf("%.3f", allocs), Target: "0", OK: allocs < 0.001})
}

func microseconds(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

// benchStartUp measures opening a store with millions of objects, and what they
// take in memory.
func benchStartUp(o storebench.StartUpOptions, maxBytes float64, report func(Row)) error {
	m, err := storebench.StartUp(o)
	if err != nil {
		return fmt.Errorf("start-up: %w", err)
	}
	name := fmt.Sprintf("start-up with %.0f M objects", float64(m.Options.Objects)/1e6)
	if o.CsumBytes != 0 {
		name += fmt.Sprintf(", crc32c %dK", o.CsumBytes>>10)
	}
	report(Row{Figure: name, Value: fmt.Sprintf("%.1f s (CPU %.1f s), %d MiB of metadata read past the page cache", m.Open.Seconds(), m.CPU.Seconds(), m.MetaBytes>>20),
		Target: "<= 10 s", OK: m.Open <= 10*time.Second})
	report(Row{Figure: name + ": peak memory to steady state", Value: fmt.Sprintf("%.2f (%d MiB)", m.PeakRatio, m.Peak>>20), Target: "<= 1.3", OK: m.PeakRatio <= 1.3})
	report(Row{Figure: name + ": memory per object", Value: fmt.Sprintf("%.1f bytes (resident %.1f)", m.PerObject, m.ResidentPerObject),
		Target: fmt.Sprintf("<= %g", maxBytes), OK: m.PerObject <= maxBytes && m.ResidentPerObject <= maxBytes})
	report(Row{Figure: name + ": Go heap per object", Value: fmt.Sprintf("%.2f bytes", float64(m.HeapBytes)/float64(m.Options.Objects)),
		Target: "0", OK: float64(m.HeapBytes) <= float64(m.Options.Objects)})
	return nil
}
