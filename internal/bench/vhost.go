package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/vhost"
	"vitastor/internal/e2e/vhost/frontend"
	"vitastor/internal/env"
	"vitastor/internal/loop"
)

// vhostArgument makes this program the server of vitastor-vhost on a disk that
// does nothing, or on a file: what the protocol costs, without a cluster.
const vhostArgument = "vhost-disk"

const (
	vhostBytes    = 256 << 20
	vhostRequests = 40_000 // of one run
)

// vhostJob is what a guest does.
type vhostJob struct {
	name  string
	depth int
	write bool
}

var vhostJobs = []vhostJob{
	{"4K read, depth 1", 1, false}, {"4K write, depth 1", 1, true},
	{"4K read, depth 32", 32, false}, {"4K write, depth 32", 32, true},
}

// vhostRun is what one run has measured.
type vhostRun struct{ cpu, p50 float64 } // of the server per request; both in microseconds

// Targets: ours / theirs.
const (
	vhostCPUTarget = 1.2
	vhostP50Target = 1.1
)

// benchVhost compares our server with qemu-storage-daemon, on disks that do
// nothing and on a raw file in memory, with the same front-end.
func benchVhost(rounds int, report func(Row)) error {
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		report(Row{Figure: "vhost-user-blk servers", Value: "not measured: qemu-storage-daemon is not installed (make deps)"})
		return nil
	}
	dir, err := os.MkdirTemp(memoryFolder, "bench-vhost-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "raw")
	if err := writeZeroes(file, vhostBytes); err != nil {
		return err
	}
	for _, backend := range []struct {
		name, ours, theirs string
	}{
		{"null", "null", "null-co,node-name=d,size=268435456"},
		{"raw file", file, "file,node-name=d,aio=io_uring,filename=" + file},
	} {
		err := vhostPair(filepath.Join(dir, backend.name[:3]), backend.ours, backend.theirs, func(j vhostJob, run func() (ours, theirs vhostRun, err error)) error {
			return reportVhost(backend.name, j, rounds, run, report)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// vhostPair runs both servers while each job is done.
func vhostPair(path, ours, theirs string, do func(vhostJob, func() (vhostRun, vhostRun, error)) error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a, err := startNBDServer("ours", path+".ours", func(p string) []string { return []string{self, vhostArgument, ours, p} })
	if a != nil {
		defer a.stop()
	}
	if err != nil {
		return err
	}
	b, err := startNBDServer("qemu-storage-daemon", path+".qsd", func(p string) []string {
		return []string{"qemu-storage-daemon", "--blockdev", theirs,
			"--export", "vhost-user-blk,id=e,node-name=d,writable=on,addr.type=unix,addr.path=" + p}
	})
	if b != nil {
		defer b.stop()
	}
	if err != nil {
		return err
	}
	for _, j := range vhostJobs {
		err := do(j, func() (x, y vhostRun, err error) {
			if x, err = a.runVhost(j); err == nil {
				y, err = b.runVhost(j)
			}
			return x, y, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// reportVhost does a job several times on both.
func reportVhost(backend string, j vhostJob, rounds int, run func() (ours, theirs vhostRun, err error), report func(Row)) error {
	var cpu, p50, ourCPU, ourP50 []float64
	for range rounds {
		a, b, err := run()
		if err != nil {
			return fmt.Errorf("%s, %s: %w", backend, j.name, err)
		}
		cpu, p50 = append(cpu, a.cpu/b.cpu), append(p50, a.p50/b.p50)
		ourCPU, ourP50 = append(ourCPU, a.cpu), append(ourP50, a.p50)
	}
	middle := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)/2]
	}
	for _, f := range []struct {
		what         string
		ratio, value float64
		target       float64
	}{
		{"CPU of the server per request", middle(cpu), middle(ourCPU), vhostCPUTarget},
		{"latency, p50", middle(p50), middle(ourP50), vhostP50Target},
	} {
		report(Row{Figure: fmt.Sprintf("%s, %s: %s beside qemu-storage-daemon", backend, j.name, f.what),
			Value: fmt.Sprintf("%.2f x (%.1f us)", f.ratio, f.value), Target: fmt.Sprintf("<= %.2f x", f.target), OK: f.ratio <= f.target})
	}
	return nil
}

// runVhost does a job once.
func (s *nbdServer) runVhost(j vhostJob) (r vhostRun, err error) {
	f, err := frontend.Dial(s.path, frontend.Options{Size: 256})
	if err != nil {
		return r, fmt.Errorf("%s: %w", s.name, err)
	}
	defer f.Close()
	if err := f.Start(); err != nil {
		return r, fmt.Errorf("%s: %w", s.name, err)
	}
	defer f.M.Free()
	before, err := s.cpuNanos()
	if err != nil {
		return r, err
	}
	lat, err := vhostLoad(f.Queue(0), j)
	if err != nil {
		return r, fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := s.cpuNanos()
	slices.Sort(lat)
	return vhostRun{float64(after-before) / 1e3 / float64(len(lat)), float64(lat[len(lat)/2].Nanoseconds()) / 1e3}, err
}

// vhostLoad keeps some requests in flight, and tells how long each took.
func vhostLoad(q *frontend.Queue, j vhostJob) ([]time.Duration, error) {
	began := make([]time.Time, j.depth)
	lat := make([]time.Duration, 0, vhostRequests)
	kind, block := uint32(frontend.In), uint64(0)
	if j.write {
		kind = frontend.Out
	}
	submit := func(i int, now time.Time) {
		block = block*6364136223846793005 + 1442695040888963407
		began[i] = now
		q.Add(i, kind, block>>33%(vhostBytes/4096)*8, 4096)
	}
	now := time.Now()
	for i := range j.depth {
		submit(i, now)
	}
	q.Publish()
	for len(lat) < vhostRequests {
		if err := q.Wait(10 * time.Second); err != nil {
			return nil, err
		}
		now = time.Now()
		for {
			i, status, ok := q.Next()
			if !ok {
				break
			}
			if status != 0 {
				return nil, fmt.Errorf("a request has the status %d", status)
			}
			lat = append(lat, now.Sub(began[i]))
			submit(i, now)
		}
		q.Publish()
	}
	for busy := true; busy; { // nothing may be in flight when the memory goes
		busy = false
		for i := range j.depth {
			busy = busy || q.Busy(i)
		}
		if _, _, ok := q.Next(); !ok && busy {
			if err := q.Wait(10 * time.Second); err != nil {
				return nil, err
			}
		}
	}
	return lat, nil
}

// cpuNanos is the time that all threads of the server have run.
func (s *nbdServer) cpuNanos() (sum uint64, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("%s has no schedstat (%v)", s.name, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// runVhostServer is the server, until it is killed.
func runVhostServer(disk, socket string) int {
	err := func() error {
		l, err := loop.New(loop.Options{})
		if err != nil {
			return err
		}
		e := l.Env()
		var d blockdev.Disk = &nullDisk{exec: e.Exec}
		if disk != "null" {
			raw, err := l.OpenDisk(disk, env.DiskOptions{Mode: env.DiskCached, NoLock: true})
			if err != nil {
				return err
			}
			d = &fileDisk{raw: raw}
		}
		if _, err := vhost.New(vhost.Config{Loop: l, Env: e, Disk: d, Path: socket, Queues: 1, QueueSize: 256}); err != nil {
			return err
		}
		l.Run(context.Background())
		return nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// nullDisk completes everything, as null-co does.
type nullDisk struct {
	exec env.Exec
	done []*blockdev.Request
	task env.Task
}

func (d *nullDisk) Info() blockdev.Info {
	return blockdev.Info{Name: "null", SizeBytes: vhostBytes, GranuleBytes: 4096, ObjectBytes: 128 << 10}
}

func (d *nullDisk) Submit(r *blockdev.Request) {
	if d.task.Run == nil {
		d.task.Run = d.work
	}
	d.done = append(d.done, r)
	d.exec.Defer(&d.task)
}

func (d *nullDisk) work() {
	for _, r := range d.done {
		r.Err = 0
		r.Done(r)
	}
	d.done = d.done[:0]
}

func (d *nullDisk) Close() {}

// fileDisk reads and writes a file.
type fileDisk struct {
	raw  env.Disk
	idle *fileOp
}

type fileOp struct {
	env.DiskOp
	d    *fileDisk
	r    *blockdev.Request
	next *fileOp
}

func (d *fileDisk) Info() blockdev.Info {
	return blockdev.Info{Name: "file", SizeBytes: vhostBytes, GranuleBytes: 4096, ObjectBytes: 128 << 10, WriteCache: true}
}

func (d *fileDisk) Submit(r *blockdev.Request) {
	op := d.idle
	if op == nil {
		op = &fileOp{d: d}
		op.Done = func(*env.DiskOp) { op.finish() }
	} else {
		d.idle = op.next
	}
	op.r, op.Offset, op.Iov = r, int64(r.Offset), r.Iov
	switch r.Kind {
	case blockdev.Read:
		op.Kind = env.DiskRead
	case blockdev.Write:
		op.Kind = env.DiskWrite
	default:
		op.Kind = env.DiskSync
	}
	d.raw.Submit(&op.DiskOp)
}

func (o *fileOp) finish() {
	r := o.r
	r.Err = 0
	if o.Err != nil {
		r.Err = syscall.EIO
	}
	o.r, o.Iov = nil, nil
	o.next, o.d.idle = o.d.idle, o
	r.Done(r)
}

func (d *fileDisk) Close() {}
