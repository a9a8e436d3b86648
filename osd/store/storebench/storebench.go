// Package storebench measures the object store on real files, as fio measures a
// disk, and what of it is the store's own cost.
//
//	Run       workloads, each paired with the same pattern on the bare disk
//	StartUp   time and memory of opening a store with many objects
//
// Guarantee: a ratio compares segments of one run that alternate on one file
// through one event loop; bytes are counted where they are handed to the disk
// and have to agree with the counters of the store, otherwise Run fails.
//
// Concurrency: Run and StartUp block; one at a time in a process, because they
// measure the CPU time and the memory of all of it. Operations run on a loop of
// their own.
package storebench

import (
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/osd/store"
)

// Options are the conditions of a run. The zero value of a field means the
// default named in its comment.
type Options struct {
	Dir          string              // for the file, which is deleted afterwards; "" = the current one
	Mode         env.DiskMode        // how the file is opened
	DataSetBytes int64               // objects that exist and are worked on. Default 512 MiB
	CsumBytes    uint32              // checksum block; 0 = no checksums
	Volatile     bool                // the disk has a cache: commit by syncs. Default: write-through
	Rounds       int                 // measured pairs per job, after one that is not. Default 5
	RoundTime    time.Duration       // of each side of a pair. Default 300 ms
	Tune         func(*store.Config) // changes the configuration of the store; nil = nothing
	// Only leaves away one side of the pairs, for profiling.
	Only Side
	Jobs []Job
}

// Side is the store or the bare disk.
type Side uint8

const (
	BothSides Side = iota
	StoreSide
	RawSide
)

// Job is one workload.
type Job struct {
	Name       string
	Write      bool // otherwise read
	Sequential bool // otherwise random places, aligned to Bytes
	Bytes      int  // of an operation; divides BlockBytes
	Depth      int  // operations in flight
	SyncEvery  int  // a sync after so many writes; 0 = never
	// IntentDepth is store.Config.IntentDepth: negative forces the buffered
	// path, 1 writing in place.
	IntentDepth int
}

// BlockBytes is the size of the objects of a run.
const BlockBytes = 128 << 10

const (
	granuleBytes   = 4096
	metaBlockBytes = 4096
)

// Result is what a job measured.
type Result struct {
	Job        Job
	Store, Raw Figures // medians of the rounds
	// Store to raw, medians of the ratios of the rounds.
	P50Ratio, P99Ratio, CPURatio, IOPSRatio float64

	// Of the store, over all measured rounds. Bytes are those submitted to the
	// disk; what was compacted meanwhile is included.
	Ops           int
	UserBytes     int64
	DiskBytes     int64
	Amplification float64 // DiskBytes / UserBytes
	MetaPerOp     float64 // metadata blocks written per operation
	CompactPerOp  float64 // objects compacted per operation
	AllocsPerOp   float64 // objects allocated on the Go heap
	// Shares of the writes by path, 0..1.
	Buffered, Intent, Big float64
}

// Figures are what one side of a pair measured.
type Figures struct {
	IOPS     float64
	P50, P99 time.Duration // of an operation
	CPU      time.Duration // per operation, of the process, system time included
}

// Report is the outcome of Run.
type Report struct {
	Options Options
	Jobs    []Result
	Totals  store.Totals // at the end
}

func orDefault[T int | int64 | time.Duration](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

func (o *Options) complete() error {
	orDefault(&o.DataSetBytes, 512<<20)
	orDefault(&o.Rounds, 5)
	orDefault(&o.RoundTime, 300*time.Millisecond)
	if o.Dir == "" {
		o.Dir = "."
	}
	if o.DataSetBytes < 16*BlockBytes || o.DataSetBytes%BlockBytes != 0 {
		return fmt.Errorf("data set of %d bytes: must be a multiple of %d, at least 16 of them", o.DataSetBytes, BlockBytes)
	}
	for _, j := range o.Jobs {
		if j.Bytes < granuleBytes || BlockBytes%j.Bytes != 0 || j.Depth < 1 {
			return fmt.Errorf("job %q: operations of %d bytes at depth %d: must divide %d and be at least %d bytes, the depth at least 1",
				j.Name, j.Bytes, j.Depth, BlockBytes, granuleBytes)
		}
	}
	return nil
}

// Run makes a store in a new file, fills it, and runs the jobs.
func Run(o Options) (Report, error) {
	report := Report{Options: o}
	if err := o.complete(); err != nil {
		return report, err
	}
	r, err := newRig(o)
	if err != nil {
		return report, err
	}
	defer r.close()
	if err := r.fill(); err != nil {
		return report, err
	}
	for _, j := range o.Jobs {
		res, err := r.runJob(j)
		if err != nil {
			return report, fmt.Errorf("job %q: %w", j.Name, err)
		}
		report.Jobs = append(report.Jobs, res)
	}
	report.Totals = r.totals
	return report, nil
}
