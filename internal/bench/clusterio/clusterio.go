// Package clusterio is the client side of the cluster's figures: one process,
// one loop, one image, and a job as fio would describe it. It runs in a process
// of its own so that its CPU time can be told from everybody else's.
//
// It guarantees that what it reports was measured between the first and the
// last completion after a warm-up. Concurrency: Run blocks; everything happens
// on the loop that it makes.
package clusterio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// Job is a workload on an image.
type Job struct {
	Etcd       []string
	Inode      meta.Inode
	ImageBytes uint64

	Write      bool
	Sequential bool
	Bytes      uint64 // of one operation
	Depth      int
	SyncEvery  int // 0 = never
	Warm, Time time.Duration
	Ops        uint64 // end after so many operations, 0 = by time; no warm-up
}

// Result is what was measured. Latencies are those of single operations.
type Result struct {
	Ops          uint64 // counted ones
	AllOps       uint64 // warm-up included
	Elapsed      time.Duration
	CPU          time.Duration // of this process, user and system
	Mean         time.Duration
	P50, P99     time.Duration
	Max          time.Duration
	FirstNanos   int64 // wall clock, between which Ops were counted
	LastNanos    int64
	Errors       uint64
	BytesPerSec  float64
	OpsPerSecond float64
}

// samplesMax bounds the latencies that are kept.
const samplesMax = 1 << 22

type runner struct {
	job     Job
	env     *env.Env
	client  *client.Client
	rng     *rand.Rand
	next    uint64 // sequential offset
	samples []int64
	begin   env.Instant
	warm    env.Instant
	counted bool
	cpu     time.Duration
	r       Result
	stop    func()
	running int
	ending  bool
	writes  int
	err     error
}

type slot struct {
	op      client.Op
	started env.Instant
	buf     []byte
}

// Run executes the job.
func Run(j Job) (*Result, error) {
	l, err := loop.New(loop.Options{})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	e := l.Env()
	endpoints, err := etcd.ParseEndpoints(strings.Join(j.Etcd, ","))
	if err != nil {
		return nil, err
	}
	kv, err := etcd.Open(etcd.Config{Endpoints: endpoints}, e.Exec)
	if err != nil {
		return nil, err
	}
	e.KV = kv
	r := &runner{job: j, env: e, stop: stop, rng: rand.New(rand.NewPCG(1, uint64(os.Getpid()))), samples: make([]int64, 0, samplesMax)}
	text, _ := json.Marshal(map[string]string{"etcd_address": strings.Join(j.Etcd, ",")})
	layer, problem := option.ReadLayer(option.Client, option.CommandLine, "the job", text)
	if problem != nil {
		return nil, problem
	}
	r.client, err = client.New(e, client.Config{Layers: []option.Layer{layer}})
	if err != nil {
		return nil, err
	}
	l.Env().Exec.Post(func() { r.client.Start(r.ready) })
	l.Run(ctx)
	if r.err == nil && r.r.Errors > 0 {
		r.err = fmt.Errorf("%d operations failed", r.r.Errors)
	}
	return &r.r, r.err
}

func (r *runner) ready(err error) {
	if err != nil {
		r.err = err
		r.stop()
		return
	}
	r.begin = r.env.Clock.Now()
	r.warm = r.begin.Add(r.job.Warm)
	for range r.job.Depth {
		s := &slot{buf: make([]byte, r.job.Bytes)}
		for i := range s.buf {
			s.buf[i] = byte(r.rng.Uint32())
		}
		s.op.Iov = [][]byte{s.buf}
		s.op.Done = func(*client.Op) { r.done(s) }
		r.submit(s)
	}
}

func (r *runner) offset() uint64 {
	slots := r.job.ImageBytes / r.job.Bytes
	if r.job.Sequential {
		r.next++
		return (r.next - 1) % slots * r.job.Bytes
	}
	return r.rng.Uint64N(slots) * r.job.Bytes
}

func (r *runner) submit(s *slot) {
	op := &s.op
	op.Inode, op.Version = r.job.Inode, 0
	if r.job.SyncEvery > 0 && r.writes >= r.job.SyncEvery {
		r.writes = 0
		op.Kind, op.Offset, op.Bytes = client.Sync, 0, 0
	} else {
		r.writes++
		op.Kind, op.Offset, op.Bytes = client.Read, r.offset(), r.job.Bytes
		if r.job.Write {
			op.Kind = client.Write
		}
	}
	s.started = env.PreciseNow(r.env.Clock)
	r.running++
	r.client.Submit(op)
}

func (r *runner) done(s *slot) {
	now := env.PreciseNow(r.env.Clock)
	r.running--
	r.r.AllOps++
	switch {
	case s.op.Err != 0:
		r.r.Errors++
	case !r.counted && now >= r.warm:
		r.counted = true
		r.begin, r.cpu, r.r.FirstNanos = now, cpuTime(), r.env.Clock.WallNanos()
	case r.counted && !r.ending && s.op.Kind != client.Sync:
		r.r.Ops++
		if len(r.samples) < samplesMax {
			r.samples = append(r.samples, int64(now.Sub(s.started)))
		}
	}
	over := r.counted && now.Sub(r.begin) >= r.job.Time
	if r.job.Ops > 0 {
		over = r.r.Ops+1 >= r.job.Ops
	}
	if over && !r.ending {
		r.ending = true
		r.finish(now)
	}
	if !r.ending {
		r.submit(s)
	} else if r.running == 0 {
		r.stop()
	}
}

func (r *runner) finish(now env.Instant) {
	re := &r.r
	re.Elapsed, re.CPU, re.LastNanos = now.Sub(r.begin), cpuTime()-r.cpu, r.env.Clock.WallNanos()
	if re.Ops == 0 {
		r.err = errors.New("no operation was completed")
		return
	}
	slices.Sort(r.samples)
	sum := int64(0)
	for _, v := range r.samples {
		sum += v
	}
	n := len(r.samples)
	re.Mean, re.P50, re.P99 = time.Duration(sum/int64(n)), time.Duration(r.samples[n/2]), time.Duration(r.samples[n*99/100])
	re.Max = time.Duration(r.samples[n-1])
	re.OpsPerSecond = float64(re.Ops) / re.Elapsed.Seconds()
	re.BytesPerSec = re.OpsPerSecond * float64(r.job.Bytes)
}

// cpuTime is that of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Main is the process: the job as JSON in its argument, the result on stdout.
func Main(argument string) int {
	var j Job
	err := json.Unmarshal([]byte(argument), &j)
	if err == nil {
		var re *Result
		if re, err = Run(j); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(re)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster client:", err)
		return 1
	}
	return 0
}
