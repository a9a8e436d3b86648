package lp

import "math"

const (
	optimalBelow = 1e-9 // reduced costs up to this count as not improving
	pivotLeast   = 1e-9 // least size of a pivot
	harris       = 1e-11
	// perturbation: right sides are made smaller by up to this factor.
	perturbation = 1e-7
	targetWithin = 1e-6
)

// Solver is a problem in work.
type Solver struct {
	p       *Problem
	options Options
	m, n    int // rows; columns without slacks
	slacks  []Column
	b       []float64 // perturbed
	basis   []int32   // by position: variable; >= n is the slack of row -n
	where   []int32   // by variable: position, -1 = not basic
	x       []float64 // by position
	cost    []float64 // by variable: reduced costs
	weight  []float64 // by variable: Devex
	status  Status
	pivots  int
	f       factors
	warm    []int32 // columns to price first; empty = all

	column, alpha, unit, row []float64
}

// New prepares a problem, which must not be changed then.
func New(p *Problem, o Options) (*Solver, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	m, n := len(p.B), len(p.Columns)
	s := &Solver{p: p, options: o, m: m, n: n, slacks: make([]Column, m), b: make([]float64, m),
		basis: make([]int32, m), where: make([]int32, n+m), x: make([]float64, m),
		cost: make([]float64, n+m), weight: make([]float64, n+m),
		column: make([]float64, m), alpha: make([]float64, m), unit: make([]float64, m), row: make([]float64, m)}
	for _, j := range o.Warm {
		if j >= 0 && j < n {
			s.warm = append(s.warm, int32(j))
		}
	}
	noise := uint64(12345)
	for i := range m {
		noise = noise*6364136223846793005 + 1442695040888963407
		s.b[i] = p.B[i] * (1 - perturbation*float64(noise>>40)/(1<<24))
		s.slacks[i] = Column{Rows: []int32{int32(i)}}
		s.basis[i] = int32(n + i)
	}
	for j := range s.where {
		s.where[j], s.weight[j] = -1, 1
	}
	for i := range m {
		s.where[n+i] = int32(i)
	}
	s.refactor()
	return s, nil
}

func (s *Solver) columnOf(j int32) *Column {
	if int(j) >= s.n {
		return &s.slacks[int(j)-s.n]
	}
	return &s.p.Columns[j]
}

func (s *Solver) costOf(j int32) float64 {
	if int(j) >= s.n {
		return 0
	}
	return s.p.Columns[j].Cost
}

// refactor computes everything that follows from the basis.
func (s *Solver) refactor() {
	bad, left := s.f.factorise(s.m, func(i int) *Column { return s.columnOf(s.basis[i]) })
	if len(bad) > 0 { // rounding made them dependent: take slacks instead
		for k, position := range bad {
			s.where[s.basis[position]] = -1
			s.basis[position] = int32(s.n) + left[k]
			s.where[s.basis[position]] = position
		}
		s.f.factorise(s.m, func(i int) *Column { return s.columnOf(s.basis[i]) })
	}
	copy(s.column, s.b)
	s.f.solve(s.column, s.x)
	for i, j := range s.basis {
		s.unit[i] = s.costOf(j)
	}
	s.f.solveTransposed(s.unit, s.row)
	for j := range s.cost {
		s.cost[j] = s.reduced(int32(j), s.row)
	}
}

func (s *Solver) reduced(j int32, duals []float64) float64 {
	if s.where[j] >= 0 {
		return 0
	}
	return s.costOf(j) - s.dot(j, duals)
}

func (s *Solver) dot(j int32, byRow []float64) float64 {
	if int(j) >= s.n {
		return byRow[int(j)-s.n]
	}
	c := &s.p.Columns[j]
	sum := 0.0
	if c.Values == nil {
		for _, row := range c.Rows {
			sum += byRow[row]
		}
		return sum
	}
	for k, row := range c.Rows {
		sum += byRow[row] * c.Values[k]
	}
	return sum
}

// Step makes up to a number of pivots and tells whether the solver has stopped.
func (s *Solver) Step(pivots int) (done bool) {
	for ; pivots > 0 && s.status == Running; pivots-- {
		s.pivot()
	}
	return s.status != Running
}

// pivot is one step of the simplex method.
func (s *Solver) pivot() {
	if s.f.stale() {
		s.refactor()
		if s.options.Target > 0 && s.objective() >= s.options.Target*(1-targetWithin) {
			s.status = Reached
			return
		}
	}
	if s.options.Pivots > 0 && s.pivots >= s.options.Pivots {
		s.status = Limited
		return
	}
	entering := s.price()
	if entering < 0 {
		s.finish()
		return
	}
	clear(s.column)
	c := s.columnOf(entering)
	for k, row := range c.Rows {
		s.column[row] = c.value(k)
	}
	s.f.solve(s.column, s.alpha)
	leaving := s.ratioTest()
	if leaving < 0 {
		if len(s.f.etas) > 0 { // make sure that it is not rounding
			s.refactor()
			return
		}
		s.status = Unbounded
		return
	}
	s.exchange(entering, leaving)
	s.pivots++
}

// finish is called when no column improves the objective.
func (s *Solver) finish() {
	switch {
	case len(s.warm) > 0:
		s.warm = nil
	case len(s.f.etas) > 0:
		s.refactor() // see with exact numbers
	default:
		s.status = Optimal
	}
}

// price chooses the entering variable: the steepest one, as far as Devex knows.
func (s *Solver) price() int32 {
	best, bestScore := int32(-1), 0.0
	consider := func(j int32) {
		if d := s.cost[j]; d > optimalBelow && s.where[j] < 0 {
			if score := d * d / s.weight[j]; score > bestScore {
				best, bestScore = j, score
			}
		}
	}
	if len(s.warm) > 0 {
		for _, j := range s.warm {
			consider(j)
		}
		return best
	}
	for j, d := range s.cost {
		if d > optimalBelow {
			consider(int32(j))
		}
	}
	return best
}

// ratioTest chooses the position that leaves the basis: among those that reach
// zero first, give or take a little, the one with the largest pivot.
func (s *Solver) ratioTest() int32 {
	limit := math.Inf(1)
	for i, a := range s.alpha {
		if a > pivotLeast {
			limit = min(limit, (max(s.x[i], 0)+harris)/a)
		}
	}
	best, largest := int32(-1), 0.0
	for i, a := range s.alpha {
		if a > pivotLeast && a > largest && max(s.x[i], 0) <= limit*a {
			best, largest = int32(i), a
		}
	}
	return best
}

// exchange lets a variable enter the basis at a position.
func (s *Solver) exchange(entering, position int32) {
	pivot := s.alpha[position]
	step := max(s.x[position], 0) / pivot
	for i, a := range s.alpha {
		s.x[i] -= step * a
	}
	s.x[position] = step
	clear(s.unit)
	s.unit[position] = 1
	s.f.solveTransposed(s.unit, s.row)
	leaving := s.basis[position]
	dual, weight := s.cost[entering]/pivot, s.weight[entering]/(pivot*pivot)
	for j := range s.cost {
		if s.where[j] >= 0 {
			continue
		}
		if a := s.dot(int32(j), s.row); a != 0 {
			s.cost[j] -= dual * a
			s.weight[j] = max(s.weight[j], a*a*weight)
		}
	}
	s.cost[entering], s.cost[leaving] = 0, -dual
	s.weight[leaving] = max(weight, 1)
	s.where[leaving], s.where[entering] = -1, position
	s.basis[position] = entering
	s.f.replace(position, s.alpha)
}

func (s *Solver) objective() float64 {
	sum := 0.0
	for i, j := range s.basis {
		sum += s.costOf(j) * max(s.x[i], 0)
	}
	return sum
}

// Result is the present solution. When the solver is done, it is computed from
// a fresh factorisation.
func (s *Solver) Result() *Result {
	if len(s.f.etas) > 0 {
		s.refactor()
	}
	r := &Result{Status: s.status, X: make([]float64, s.n), Duals: make([]float64, s.m), Pivots: s.pivots}
	for i, j := range s.basis {
		if int(j) < s.n {
			r.X[j] = max(s.x[i], 0)
			r.Objective += s.p.Columns[j].Cost * r.X[j]
		}
		s.unit[i] = s.costOf(j)
	}
	s.f.solveTransposed(s.unit, s.row)
	for i, y := range s.row {
		r.Duals[i] = max(y, 0)
	}
	return r
}
