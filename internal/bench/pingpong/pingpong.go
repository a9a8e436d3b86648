// Package pingpong compares the messenger on the real loop with a C program on
// epoll that does the same: requests of 128+4096 bytes, replies of 128 bytes,
// over loopback, one connection, 1 or 64 requests in flight. Client and server
// are separate processes.
//
// Guarantee: both sides run in pairs of rounds, alternately, and the result is
// the median of the ratios of the rounds: other load on the machine hits both.
//
// Concurrency: one Run at a time, or they disturb each other.
package pingpong

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed c/pingpong.c
var sourceC []byte

// Depths are the numbers of requests in flight that are measured, with the
// number of requests of one round.
var depths = []struct{ inFlight, requests int }{{1, 20_000}, {64, 300_000}}

// roundLimit ends a round that hangs.
const roundLimit = 2 * time.Minute

// Figures of one round, or medians of several.
type Figures struct {
	P50Nanos       float64 `json:"p50_ns"`
	P99Nanos       float64 `json:"p99_ns"`
	ClientCPUNanos float64 // per request, user and system
	ServerCPUNanos float64
}

// CPUNanos is the time of both processes per request.
func (f Figures) CPUNanos() float64 { return f.ClientCPUNanos + f.ServerCPUNanos }

// Depth is the result for one number of requests in flight. Ratios are
// ours/C, medians of the ratios of the rounds.
type Depth struct {
	InFlight       int
	C, Go          Figures
	P50Ratio       float64
	CPURatio       float64
	ClientCPURatio float64
	ServerCPURatio float64
}

// Result of a Run.
type Result struct {
	Rounds int
	Depths []Depth
}

func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ping-pong 128+4096/128 bytes over loopback, %d paired rounds; ours/C\n", r.Rounds)
	for _, d := range r.Depths {
		fmt.Fprintf(&b, "  in flight %2d: p50 %6.1f / %6.1f us = %.2fx   CPU per request %5.2f / %5.2f us = %.2fx (client %.2fx, server %.2fx)\n",
			d.InFlight, d.Go.P50Nanos/1e3, d.C.P50Nanos/1e3, d.P50Ratio,
			d.Go.CPUNanos()/1e3, d.C.CPUNanos()/1e3, d.CPURatio, d.ClientCPURatio, d.ServerCPURatio)
	}
	return b.String()
}

// Run builds both programs (with gcc and go, in a temporary folder; the current
// folder must be in the module) and measures the given number of rounds.
func Run(rounds int) (Result, error) {
	dir, err := os.MkdirTemp("", "pingpong")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	c, ours, err := build(dir)
	if err != nil {
		return Result{}, err
	}
	result := Result{Rounds: rounds}
	for _, depth := range depths {
		var cs, gos []Figures
		for i := range rounds {
			for _, second := range []bool{false, true} {
				program, list := c, &cs
				if second == (i%2 == 0) { // who is first changes
					program, list = ours, &gos
				}
				f, err := round(program, depth.inFlight, depth.requests)
				if err != nil {
					return Result{}, fmt.Errorf("%s with %d in flight: %w", filepath.Base(program), depth.inFlight, err)
				}
				*list = append(*list, f)
			}
		}
		result.Depths = append(result.Depths, compare(depth.inFlight, cs, gos))
	}
	return result, nil
}

func build(dir string) (c, ours string, err error) {
	c, ours = filepath.Join(dir, "pingpong-c"), filepath.Join(dir, "pingpong-go")
	source := filepath.Join(dir, "pingpong.c")
	if err := os.WriteFile(source, sourceC, 0o644); err != nil {
		return "", "", err
	}
	for _, args := range [][]string{
		{"gcc", "-O2", "-Wall", "-Werror", "-o", c, source},
		{"go", "build", "-o", ours, "vitastor/internal/bench/pingpong/node"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return c, ours, nil
}

// round runs a server and a client of the program.
//
//	PROGRAM server                         prints its port, serves one
//	                                       connection, prints {"cpu_ns": ...}
//	PROGRAM client PORT IN_FLIGHT REQUESTS prints {"p50_ns": ..., "cpu_ns": ...}
func round(program string, inFlight, requests int) (Figures, error) {
	server := exec.Command(program, "server")
	server.Stderr = os.Stderr
	pipe, err := server.StdoutPipe()
	if err != nil {
		return Figures{}, err
	}
	if err := server.Start(); err != nil {
		return Figures{}, err
	}
	defer server.Wait()
	defer time.AfterFunc(roundLimit, func() { server.Process.Kill() }).Stop()
	out := bufio.NewReader(pipe)
	port, err := out.ReadString('\n')
	if err != nil {
		return Figures{}, fmt.Errorf("server: %w", err)
	}
	client := exec.Command(program, "client", strings.TrimSpace(port), strconv.Itoa(inFlight), strconv.Itoa(requests))
	client.Stderr = os.Stderr
	text, err := client.Output()
	if err != nil {
		server.Process.Kill()
		return Figures{}, fmt.Errorf("client: %w", err)
	}
	var f Figures
	var cpu struct {
		Nanos float64 `json:"cpu_ns"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(text), &f); err != nil {
		return Figures{}, err
	}
	if err := json.Unmarshal(text, &cpu); err != nil {
		return Figures{}, err
	}
	f.ClientCPUNanos = cpu.Nanos
	if err := json.NewDecoder(out).Decode(&cpu); err != nil {
		return Figures{}, fmt.Errorf("server: %w", err)
	}
	f.ServerCPUNanos = cpu.Nanos
	return f, nil
}

func compare(inFlight int, cs, gos []Figures) Depth {
	ratio := func(of func(Figures) float64) float64 {
		var all []float64
		for i := range cs {
			all = append(all, of(gos[i])/of(cs[i]))
		}
		return median(all)
	}
	return Depth{
		InFlight: inFlight, C: medians(cs), Go: medians(gos),
		P50Ratio:       ratio(func(f Figures) float64 { return f.P50Nanos }),
		CPURatio:       ratio(Figures.CPUNanos),
		ClientCPURatio: ratio(func(f Figures) float64 { return f.ClientCPUNanos }),
		ServerCPURatio: ratio(func(f Figures) float64 { return f.ServerCPUNanos }),
	}
}

func medians(fs []Figures) Figures {
	of := func(get func(Figures) float64) float64 {
		var all []float64
		for _, f := range fs {
			all = append(all, get(f))
		}
		return median(all)
	}
	return Figures{
		P50Nanos:       of(func(f Figures) float64 { return f.P50Nanos }),
		P99Nanos:       of(func(f Figures) float64 { return f.P99Nanos }),
		ClientCPUNanos: of(func(f Figures) float64 { return f.ClientCPUNanos }),
		ServerCPUNanos: of(func(f Figures) float64 { return f.ServerCPUNanos }),
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	if len(x)%2 == 0 {
		return (x[len(x)/2-1] + x[len(x)/2]) / 2
	}
	return x[len(x)/2]
}
