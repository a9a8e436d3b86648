package pingpong

import (
	"os/exec"
	"testing"
)

// TestBothProgramsWork runs one short round of each; speed is not looked at.
func TestBothProgramsWork(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc: the C side cannot be built")
	}
	c, ours, err := build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{c, ours} {
		for _, inFlight := range []int{1, 64} {
			f, err := round(program, inFlight, 2000)
			if err != nil {
				t.Fatal(program, err)
			}
			if f.P50Nanos <= 0 || f.P99Nanos < f.P50Nanos || f.CPUNanos() <= 0 {
				t.Errorf("%s: %+v", program, f)
			}
		}
	}
}

func TestMediansOfRatios(t *testing.T) {
	cs := []Figures{{P50Nanos: 10, ClientCPUNanos: 1, ServerCPUNanos: 1}, {P50Nanos: 100, ClientCPUNanos: 2, ServerCPUNanos: 2}, {P50Nanos: 1000, ClientCPUNanos: 3, ServerCPUNanos: 3}}
	gos := []Figures{{P50Nanos: 11, ClientCPUNanos: 1, ServerCPUNanos: 3}, {P50Nanos: 500, ClientCPUNanos: 2, ServerCPUNanos: 2}, {P50Nanos: 900, ClientCPUNanos: 3, ServerCPUNanos: 4.5}}
	d := compare(7, cs, gos)
	if d.InFlight != 7 || d.P50Ratio != 1.1 || d.CPURatio != 1.25 || d.ServerCPURatio != 1.5 || d.C.P50Nanos != 100 {
		t.Errorf("%+v", d)
	}
}

// BenchmarkPingPong reports ours/C: go test -bench . -benchtime 7x runs 7
// paired rounds.
func BenchmarkPingPong(b *testing.B) {
	r, err := Run(max(b.N, 3))
	if err != nil {
		b.Fatal(err)
	}
	b.Log(r)
	for _, d := range r.Depths {
		b.ReportMetric(d.P50Ratio, map[int]string{1: "p50-ratio-QD1", 64: "p50-ratio-QD64"}[d.InFlight])
		b.ReportMetric(d.CPURatio, map[int]string{1: "cpu-ratio-QD1", 64: "cpu-ratio-QD64"}[d.InFlight])
	}
}
