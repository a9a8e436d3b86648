package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/nbd"
	"vitastor/internal/loop"
)

// nbdArgument makes this program the NBD server of vitastor-nbd on a disk of
// memory: what its protocol costs, without a cluster.
const nbdArgument = "nbd-memory"

const (
	nbdBytes    = 256 << 20
	nbdTickRate = 100 // of /proc/PID/stat
)

// nbdJob is one run of qemu-img bench.
type nbdJob struct {
	name   string
	args   []string
	count  int
	target float64 // of our throughput / nbdkit's; 0 = for information
}

var nbdJobs = []nbdJob{
	{"4K read, depth 1", []string{"-d", "1", "-s", "4096"}, 20_000, 0},
	{"4K read, depth 16", []string{"-d", "16", "-s", "4096"}, 80_000, 1},
	{"4K read, depth 64", []string{"-d", "64", "-s", "4096"}, 80_000, 1},
	{"4K write, depth 16", []string{"-w", "-d", "16", "-s", "4096"}, 80_000, 1},
	{"4K write, depth 64", []string{"-w", "-d", "64", "-s", "4096"}, 80_000, 1},
	{"1M read, depth 16", []string{"-d", "16", "-s", "1048576"}, 3_000, 1},
	{"1M write, depth 16", []string{"-w", "-d", "16", "-s", "1048576"}, 3_000, 1},
}

// nbdServer is a running server on a unix socket.
type nbdServer struct {
	name string
	cmd  *exec.Cmd
	path string
}

// nbdRun is what one run of a job has measured.
type nbdRun struct{ perSecond, cpu float64 } // operations; seconds of the server's CPU per operation

// benchNBD compares our server on memory with others on a raw file in memory,
// with QEMU's block layer as the client.
func benchNBD(rounds int, report func(Row)) error {
	for _, name := range []string{"qemu-img", "nbdkit", "qemu-nbd"} {
		if _, err := exec.LookPath(name); err != nil {
			report(Row{Figure: "NBD servers", Value: "not measured: " + name + " is not installed (make deps)"})
			return nil
		}
	}
	dir, err := os.MkdirTemp(memoryFolder, "bench-nbd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	servers, err := startNBD(dir)
	for _, s := range servers {
		defer s.stop()
	}
	if err != nil {
		return err
	}
	for _, j := range nbdJobs {
		runs := make([][]nbdRun, len(servers))
		for range rounds {
			for i, s := range servers {
				r, err := s.run(j)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, j.name, err)
				}
				runs[i] = append(runs[i], r)
			}
		}
		reportNBD(j, servers, runs, report)
	}
	return benchServed(rounds, report)
}

func reportNBD(j nbdJob, servers []*nbdServer, runs [][]nbdRun, report func(Row)) {
	ours := nbdMedian(runs[0], runs[0], func(a, _ nbdRun) float64 { return a.perSecond })
	for i, s := range servers[1:] {
		ratio := nbdMedian(runs[0], runs[i+1], func(a, b nbdRun) float64 { return a.perSecond / b.perSecond })
		cpu := nbdMedian(runs[0], runs[i+1], func(a, b nbdRun) float64 { return a.cpu / b.cpu })
		row := Row{Figure: fmt.Sprintf("%s: throughput beside %s", j.name, s.name),
			Value: fmt.Sprintf("%.2f x (%.0f/s), CPU of the server %.2f x", ratio, ours, cpu)}
		if j.target > 0 && i == 0 {
			row.Target, row.OK = fmt.Sprintf(">= %.2f x", j.target), ratio >= j.target
		}
		report(row)
	}
}

func nbdMedian(a, b []nbdRun, f func(a, b nbdRun) float64) float64 {
	v := make([]float64, len(a))
	for i := range a {
		v[i] = f(a[i], b[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// startNBD starts ours first, then the others.
func startNBD(dir string) (servers []*nbdServer, err error) {
	file := filepath.Join(dir, "raw")
	if err := writeZeroes(file, nbdBytes); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		name string
		args func(socket string) []string
	}{
		{"ours", func(p string) []string { return []string{self, nbdArgument, p} }},
		{"nbdkit file", nbdkitArgs(file)},
		{"qemu-nbd", qemuNBDArgs(file)},
	} {
		server, err := startNBDServer(s.name, filepath.Join(dir, strings.Fields(s.name)[0]), s.args)
		if server != nil {
			servers = append(servers, server)
		}
		if err != nil {
			return servers, err
		}
		if _, err := server.run(nbdJob{args: []string{"-w", "-d", "16", "-s", "1048576"}, count: nbdBytes >> 20}); err != nil { // touch everything
			return servers, err
		}
	}
	return servers, nil
}

// Command lines of servers of a raw file.

func nbdkitArgs(file string) func(socket string) []string {
	return func(p string) []string { return []string{"nbdkit", "-f", "-U", p, "file", file} }
}

func qemuNBDArgs(file string) func(socket string) []string {
	return func(p string) []string { return []string{"qemu-nbd", "-k", p, "-f", "raw", "-t", "-e", "16", file} }
}

// writeZeroes makes a file without holes.
func writeZeroes(file string, bytes int64) error {
	f, err := os.Create(file)
	if err == nil {
		err = f.Truncate(bytes)
	}
	if err != nil {
		return err
	}
	f.Close()
	return writeOut(file)
}

// startNBDServer starts one and waits for its socket; what it says is in a file
// beside that.
func startNBDServer(name, path string, args func(socket string) []string) (*nbdServer, error) {
	line := args(path)
	s := &nbdServer{name, exec.Command(line[0], line[1:]...), path}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(path + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return s, nil
		} else if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			return s, fmt.Errorf("%s does not start: %s", name, lastLine(text))
		}
	}
}

func (s *nbdServer) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

var nbdSeconds = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

func (s *nbdServer) run(j nbdJob) (r nbdRun, err error) {
	before, err := s.ticks()
	if err != nil {
		return r, err
	}
	args := append([]string{"bench", "-f", "raw", "-c", strconv.Itoa(j.count)}, j.args...)
	out, err := exec.Command("qemu-img", append(args, "nbd+unix:///?socket="+s.path)...).CombinedOutput()
	if err != nil {
		return r, fmt.Errorf("qemu-img %q: %w\n%s", args, err, out)
	}
	m := nbdSeconds.FindSubmatch(out)
	if m == nil {
		return r, fmt.Errorf("qemu-img said %q", out)
	}
	seconds, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		return r, err
	}
	after, err := s.ticks()
	return nbdRun{float64(j.count) / seconds, float64(after-before) / nbdTickRate / float64(j.count)}, err
}

// ticks is the CPU time of the server until now.
func (s *nbdServer) ticks() (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	const user, system = 11, 12 // after the name
	f := strings.Fields(rest)
	if len(f) <= system {
		return 0, errors.New("/proc/PID/stat is not understood")
	}
	u, err := strconv.ParseUint(f[user], 10, 64)
	if err != nil {
		return 0, err
	}
	k, err := strconv.ParseUint(f[system], 10, 64)
	return u + k, err
}

// runNBD is our server; it ends with the process that started it.
func runNBD(path string) int {
	err := serveNBD(path)
	fmt.Fprintln(os.Stderr, "nbd server:", err)
	return 1
}

// oneDisk is the catalogue of that server.
type oneDisk struct{ *blockdev.Memory }

func (d oneDisk) Open(string) (blockdev.Disk, error)  { return d.Memory, nil }
func (d oneDisk) List(func(name, description string)) {}
func serveNBD(path string) error {
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	e := l.Env()
	disk, err := blockdev.NewMemory(e, "memory", nbdBytes, false)
	if err != nil {
		return err
	}
	server, err := nbd.NewServer(nbd.Config{Env: e, Catalogue: oneDisk{disk}})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go l.Post(func() {
		if _, err := l.ListenUnix(path, server.Accept); err != nil {
			failed <- err
			l.Stop()
		}
	})
	l.Run(context.Background())
	return <-failed
}
