package lp

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// packing makes a problem like the reference's: random sets of replicas OSDs on
// different hosts; each OSD has a capacity, and every set counts 1.
func packing(seed uint64, osds, perHost, columns, replicas int, uniform bool) (*Problem, float64) {
	r := rand.New(rand.NewPCG(seed, 1))
	weight, sum := make([]float64, osds), 0.0
	for i := range weight {
		weight[i] = 8
		if !uniform {
			weight[i] = []float64{4, 8, 16}[r.IntN(3)]
		}
		sum += weight[i]
	}
	const pgs = 1024
	p := &Problem{B: make([]float64, osds)}
	for i := range p.B {
		p.B[i] = weight[i] / sum * float64(replicas) * pgs
	}
	for j := range columns {
		rows := make([]int32, 0, replicas)
		for len(rows) < replicas {
			o := int32(r.IntN(osds))
			if len(rows) == 0 {
				o = int32(j % osds)
			}
			if !slices.ContainsFunc(rows, func(x int32) bool { return int(x)/perHost == int(o)/perHost }) {
				rows = append(rows, o)
			}
		}
		slices.Sort(rows)
		p.Columns = append(p.Columns, Column{Cost: 1, Rows: rows})
	}
	return p, pgs
}

// certify proves a result optimal, or reports why not.
func certify(p *Problem, r *Result) error {
	if bad := p.Infeasibility(r.X); bad > 1e-9 {
		return fmt.Errorf("infeasible by %g", bad)
	}
	total := 0.0
	for _, x := range r.X {
		total += x
	}
	if gap := r.Gap(p, 10*total+1); math.Abs(gap) > 2e-6*(1+math.Abs(r.Objective)) {
		return fmt.Errorf("gap %g at objective %g after %d pivots", gap, r.Objective, r.Pivots)
	}
	return nil
}

func TestKnownProblems(t *testing.T) {
	for _, c := range []struct {
		name string
		p    Problem
		want float64
	}{
		{"nothing", Problem{}, 0},
		{"no columns", Problem{B: []float64{1}}, 0},
		{"worked example A", Problem{B: []float64{51.2, 51.2, 25.6}, Columns: []Column{
			{1, []int32{0, 1}, nil}, {1, []int32{0, 2}, nil}, {1, []int32{1, 2}, nil}}}, 64},
		{"worked example B", Problem{B: []float64{24, 24, 24, 24}, Columns: []Column{{1, []int32{0, 1, 2}, nil},
			{1, []int32{0, 1, 3}, nil}, {1, []int32{0, 2, 3}, nil}, {1, []int32{1, 2, 3}, nil}}}, 32},
		{"no room", Problem{B: []float64{0, 1}, Columns: []Column{{1, []int32{0, 1}, nil}}}, 0},
		{"values", Problem{B: []float64{6, 4}, Columns: []Column{{3, []int32{0, 1}, []float64{2, 1}}, {2, []int32{0, 1}, []float64{1, 2}}}}, 9 + 1.0/3},
		{"negative cost", Problem{B: []float64{5}, Columns: []Column{{-1, []int32{0}, nil}}}, 0},
		{"Klee-Minty", Problem{B: []float64{5, 25, 125}, Columns: []Column{{4, []int32{0, 1, 2}, []float64{1, 4, 8}},
			{2, []int32{1, 2}, []float64{1, 4}}, {1, []int32{2}, nil}}}, 125},
	} {
		r, err := Solve(&c.p, Options{})
		if err != nil {
			t.Fatal(c.name, err)
		}
		if r.Status != Optimal || math.Abs(r.Objective-c.want) > 1e-5*(1+c.want) {
			t.Errorf("%s: %s, objective %g, want %g", c.name, r.Status, r.Objective, c.want)
		}
		if err := certify(&c.p, r); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestBadProblems(t *testing.T) {
	for name, p := range map[string]Problem{
		"negative side": {B: []float64{-1}},
		"NaN side":      {B: []float64{math.NaN()}},
		"row":           {B: []float64{1}, Columns: []Column{{1, []int32{1}, nil}}},
		"order":         {B: []float64{1, 1}, Columns: []Column{{1, []int32{1, 0}, nil}}},
		"values":        {B: []float64{1}, Columns: []Column{{1, []int32{0}, []float64{1, 2}}}},
		"cost":          {B: []float64{1}, Columns: []Column{{math.Inf(1), []int32{0}, nil}}},
		"infinite":      {B: []float64{1}, Columns: []Column{{1, []int32{0}, []float64{math.Inf(1)}}}},
	} {
		if _, err := Solve(&p, Options{}); !errors.Is(err, ErrProblem) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnbounded(t *testing.T) {
	p := Problem{B: []float64{1, 1}, Columns: []Column{{1, []int32{0}, nil}, {1, nil, nil}}}
	r, err := Solve(&p, Options{})
	if err != nil || r.Status != Unbounded || p.Infeasibility(r.X) > 0 {
		t.Fatal(r, err)
	}
}

// TestCertificates: every optimum is proved by its duals, every intermediate
// result is feasible, and a warm start finds the same with less work.
func TestCertificates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.IntRange(1, 30).Draw(t, "rows")
		p := &Problem{}
		for range m {
			p.B = append(p.B, float64(rapid.IntRange(0, 20).Draw(t, "b")))
		}
		for range rapid.IntRange(1, 80).Draw(t, "columns") {
			c := Column{Cost: float64(rapid.IntRange(-2, 9).Draw(t, "cost"))}
			for i := range m {
				if rapid.IntRange(0, m/3).Draw(t, "in") == 0 {
					c.Rows = append(c.Rows, int32(i))
				}
			}
			if len(c.Rows) == 0 {
				c.Rows = []int32{0}
			}
			if rapid.Bool().Draw(t, "values") {
				for range c.Rows {
					c.Values = append(c.Values, float64(rapid.IntRange(1, 8).Draw(t, "value"))/2)
				}
			}
			p.Columns = append(p.Columns, c)
		}
		s, err := New(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		last := -1e-9
		for !s.Step(3) {
			r := s.Result()
			if bad := p.Infeasibility(r.X); bad > 1e-9 || r.Objective < last-1e-6 {
				t.Fatalf("after %d pivots: infeasible by %g, objective %g after %g", r.Pivots, bad, r.Objective, last)
			}
			last = r.Objective
		}
		r := s.Result()
		if r.Status != Optimal {
			t.Fatal(r.Status)
		}
		if err := certify(p, r); err != nil {
			t.Fatal(err)
		}
		var warm []int
		for j, x := range r.X {
			if x > 0 {
				warm = append(warm, j)
			}
		}
		again, err := Solve(p, Options{Warm: warm})
		if err != nil || math.Abs(again.Objective-r.Objective) > 1e-6*(1+r.Objective) {
			t.Fatalf("warm start: %v %v, cold %v", again.Objective, err, r.Objective)
		}
	})
}

// TestPackings covers the sizes and the degeneracy of real clusters.
func TestPackings(t *testing.T) {
	for _, uniform := range []bool{true, false} {
		p, target := packing(7, 100, 5, 3000, 3, uniform)
		r, err := Solve(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := certify(p, r); err != nil {
			t.Error(err)
		}
		early, err := Solve(p, Options{Target: target})
		if err != nil || early.Pivots > r.Pivots || math.Abs(early.Objective-r.Objective) > 2e-6*target {
			t.Errorf("with a target: %s after %d pivots, %g; without %d, %g; %v", early.Status, early.Pivots, early.Objective, r.Pivots, r.Objective, err)
		}
		same, err := Solve(p, Options{})
		if err != nil || !slices.Equal(same.X, r.X) {
			t.Error("two runs give different results")
		}
		limited, err := Solve(p, Options{Pivots: 20})
		if err != nil || limited.Status != Limited || limited.Pivots != 20 || limited.Objective <= 0 || p.Infeasibility(limited.X) > 1e-9 {
			t.Errorf("limited: %v %v", limited.Status, err)
		}
	}
}

// lpSolve asks the lp_solve program for the optimum.
func lpSolve(t testing.TB, p *Problem) float64 {
	path, err := exec.LookPath("lp_solve")
	if err != nil {
		t.Skip("lp_solve is not installed (Debian package lp-solve): no comparison with it")
	}
	var text bytes.Buffer
	text.WriteString("max: ")
	rows := make([][]string, len(p.B))
	for j := range p.Columns {
		c := &p.Columns[j]
		fmt.Fprintf(&text, "%+g x%d ", c.Cost, j)
		for k, row := range c.Rows {
			rows[row] = append(rows[row], fmt.Sprintf("%+g x%d", c.value(k), j))
		}
	}
	text.WriteString(";\n")
	for i, terms := range rows {
		if len(terms) > 0 {
			fmt.Fprintf(&text, "r%d: %s <= %.12g;\n", i, strings.Join(terms, " "), p.B[i])
		}
	}
	cmd := exec.Command(path, "-S4")
	cmd.Stdin = &text
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lp_solve: %v\n%s", err, out)
	}
	_, after, found := strings.Cut(string(out), "objective function:")
	if fields := strings.Fields(after); found && len(fields) > 0 {
		if v, err := strconv.ParseFloat(fields[0], 64); err == nil {
			return v
		}
	}
	t.Fatalf("lp_solve said: %.500s", out)
	return 0
}

func TestAgainstLPSolve(t *testing.T) {
	for seed := range uint64(6) {
		p, _ := packing(seed, 24, 3, 300, 2+int(seed%3), seed%2 == 0)
		r := rand.New(rand.NewPCG(seed, 2))
		for j := range p.Columns {
			p.Columns[j].Cost = float64(1 + r.IntN(7))
		}
		want := lpSolve(t, p)
		got, err := Solve(p, Options{})
		if err != nil || math.Abs(got.Objective-want) > 1e-5*want {
			t.Errorf("seed %d: %g, lp_solve %g, %v", seed, got.Objective, want, err)
		}
	}
}

// BenchmarkSolve has the sizes of the survey of LP solvers (60 OSDs: lp_solve 76 ms,
// 300: 0.37 s, 1000: 2.65 s CPU, 2000: 61 s wall; gonum: 53 s for 300).
func BenchmarkSolve(b *testing.B) {
	for _, size := range []struct{ osds, columns int }{{60, 4402}, {300, 9865}, {1000, 10955}, {2000, 11988}} {
		p, target := packing(1, size.osds, 1, size.columns, 3, false)
		for _, exact := range []bool{false, true} {
			o := Options{Target: target}
			name := fmt.Sprintf("%d/target", size.osds)
			if exact {
				o.Target, name = 0, fmt.Sprintf("%d/optimum", size.osds)
			}
			b.Run(name, func(b *testing.B) {
				pivots := 0
				for b.Loop() {
					r, err := Solve(p, o)
					if err != nil {
						b.Fatal(err)
					}
					if err := certify(p, r); err != nil && exact {
						b.Fatal(err)
					}
					pivots = r.Pivots
				}
				b.ReportMetric(float64(pivots), "pivots")
			})
		}
	}
}
