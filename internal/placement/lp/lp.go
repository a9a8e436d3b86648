// Package lp solves packing problems: maximise c·x where A·x <= b and x >= 0,
// with b >= 0 and few non-zeros per column. It tells how well PGs can be spread
// over OSDs under given rules at best (spec monitor.md 4.2), which is what the
// distribution of package placement is measured by.
//
// It is a primal simplex method: all slacks are basic at first, which is
// feasible, so there is no first phase; columns are chosen by Devex pricing;
// the basis is a sparse LU factorisation and a product of updates; and the right
// side is made a little smaller by different amounts, which avoids ties, and
// keeps every intermediate solution feasible.
//
// Guarantee: a result is feasible whenever the solver is stopped, it comes with
// dual values that prove how close to the optimum it is (Result.Gap), and it is
// the same on every machine and run. No I/O, no clock. A Solver must not be used
// concurrently.
//
// # Reading order
//
// lp.go (the problem and its result), simplex.go (pivots), lu.go (the basis).
package lp

import (
	"errors"
	"fmt"
	"math"
)

// Column is one variable.
type Column struct {
	Cost   float64
	Rows   []int32   // ascending, each once
	Values []float64 // nil = all 1
}

func (c *Column) value(k int) float64 {
	if c.Values == nil {
		return 1
	}
	return c.Values[k]
}

// Problem is max Cost·x, Σ Columns·x <= B, x >= 0.
type Problem struct {
	B       []float64 // >= 0
	Columns []Column
}

// ErrProblem refuses what is not a packing problem.
var ErrProblem = errors.New("not a packing problem")

func (p *Problem) check() error {
	for i, b := range p.B {
		if !(b >= 0) || math.IsInf(b, 0) {
			return fmt.Errorf("%w: right side %d is %g, it must be a number from 0", ErrProblem, i, b)
		}
	}
	for j := range p.Columns {
		c := &p.Columns[j]
		if c.Values != nil && len(c.Values) != len(c.Rows) {
			return fmt.Errorf("%w: column %d has %d values and %d rows", ErrProblem, j, len(c.Values), len(c.Rows))
		}
		if math.IsNaN(c.Cost) || math.IsInf(c.Cost, 0) {
			return fmt.Errorf("%w: cost %d is %g", ErrProblem, j, c.Cost)
		}
		last := int32(-1)
		for k, row := range c.Rows {
			if row <= last || int(row) >= len(p.B) {
				return fmt.Errorf("%w: row %d of column %d: rows are ascending, below %d", ErrProblem, row, j, len(p.B))
			}
			if v := c.value(k); math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("%w: value %d of column %d is %g", ErrProblem, k, j, v)
			}
			last = row
		}
	}
	return nil
}

// Options change how a problem is solved, not what the optimum is.
type Options struct {
	// Target is a known upper bound of the objective: within 1e-6 of it the
	// solver stops. 0 = none.
	Target float64
	// Pivots is a limit of the number of steps; 0 = none.
	Pivots int
	// Warm are columns that are probably in the solution, such as those of an
	// earlier one. They are tried before all others.
	Warm []int
}

// Status says why the solver stopped.
type Status uint8

const (
	Running Status = iota
	Optimal
	Reached   // the target
	Limited   // by the number of pivots
	Unbounded // the objective has no limit
)

func (s Status) String() string {
	return [...]string{"running", "optimal", "target reached", "limit of pivots reached", "unbounded"}[s]
}

// Result is the best solution so far.
type Result struct {
	Status    Status
	X         []float64 // by column, feasible
	Objective float64
	// Duals are prices of the rows, >= 0. If every column costs at least what it
	// brings at these prices, no solution is better than Σ Duals·B.
	Duals  []float64
	Pivots int
}

// Gap is a proof of quality: no solution is better than Objective+Gap. bound
// is a limit of Σ x that holds for all solutions; it matters only before the
// optimum is found (+Inf = none known).
func (r *Result) Gap(p *Problem, bound float64) float64 {
	upper, worst := 0.0, 0.0
	for i, y := range r.Duals {
		upper += y * p.B[i]
	}
	for j := range p.Columns {
		c := &p.Columns[j]
		reduced := c.Cost
		for k, row := range c.Rows {
			reduced -= r.Duals[row] * c.value(k)
		}
		worst = max(worst, reduced)
	}
	if worst > 0 {
		upper += worst * bound
	}
	return upper - r.Objective
}

// Infeasibility is by how much x breaks a row at most, relative to 1+b.
func (p *Problem) Infeasibility(x []float64) float64 {
	sum := make([]float64, len(p.B))
	worst := 0.0
	for j := range p.Columns {
		worst = max(worst, -x[j])
		for k, row := range p.Columns[j].Rows {
			sum[row] += x[j] * p.Columns[j].value(k)
		}
	}
	for i, s := range sum {
		worst = max(worst, (s-p.B[i])/(1+p.B[i]))
	}
	return worst
}

// Solve solves a problem at once.
func Solve(p *Problem, o Options) (*Result, error) {
	s, err := New(p, o)
	if err != nil {
		return nil, err
	}
	for !s.Step(1000) {
	}
	return s.Result(), nil
}
