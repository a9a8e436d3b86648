package lp

import (
	"math"
	"slices"
)

// factors are a sparse LU factorisation of the basis, followed by updates:
//
//	B = L U E1 E2 ... Ek
//
// Rows are those of the problem; positions are the columns of the basis. L is
// kept as the row operations that made U, in order.
type factors struct {
	m      int
	pivots []pivot
	lower  []entry // operations of all pivots
	upper  []entry // rows of U without the pivots
	etas   []eta
	etaNZ  []entry
	elim   *elimination
}

type entry struct {
	at  int32
	val float64
}

// pivot is one step of the elimination.
type pivot struct {
	row, position    int32
	val              float64
	lowerEnd, upperE int // end of its entries; they begin where the previous end
}

// eta replaces the basic variable of one position.
type eta struct {
	position int32
	val      float64
	end      int
}

const (
	pivotThreshold = 0.1   // least size of a pivot, relative to its row
	smallest       = 1e-13 // below, a number counts as 0
)

// elimination is the part of the matrix that is not yet factorised.
type elimination struct {
	rows    [][]entry // by row: entries by position
	columns [][]int32 // by position: rows that may have an entry
	count   []int     // by position: number of rows that have one
	done    []bool    // rows
	gone    []bool    // positions
	at      []int32   // by position: index in the row being changed, +1
	queue   []int32   // positions with one row
	rowsQ   []int32   // rows with one position
	scratch []int32
}

// factorise computes L and U of the given columns. It returns the positions
// that are linearly dependent, with the rows that are left over for them.
func (f *factors) factorise(m int, column func(position int) *Column) (bad, left []int32) {
	f.m, f.pivots, f.lower, f.upper = m, f.pivots[:0], f.lower[:0], f.upper[:0]
	f.etas, f.etaNZ = f.etas[:0], f.etaNZ[:0]
	if f.elim == nil {
		f.elim = &elimination{rows: make([][]entry, m), columns: make([][]int32, m), count: make([]int, m),
			done: make([]bool, m), gone: make([]bool, m), at: make([]int32, m)}
	}
	e := f.elim
	e.load(m, column)
	for len(f.pivots) < m {
		row, position := e.choose()
		if row < 0 {
			break
		}
		f.eliminate(e, row, position)
	}
	for i := range m {
		if !e.gone[i] {
			bad = append(bad, int32(i))
		}
		if !e.done[i] {
			left = append(left, int32(i))
		}
	}
	return bad, left
}

func (e *elimination) load(m int, column func(position int) *Column) {
	for i := range m {
		e.rows[i], e.columns[i], e.count[i] = e.rows[i][:0], e.columns[i][:0], 0
		e.done[i], e.gone[i], e.at[i] = false, false, 0
	}
	e.queue, e.rowsQ = e.queue[:0], e.rowsQ[:0]
	for position := range m {
		c := column(position)
		for k, row := range c.Rows {
			if v := c.value(k); v != 0 {
				e.rows[row] = append(e.rows[row], entry{int32(position), v})
				e.columns[position] = append(e.columns[position], row)
			}
		}
		if e.count[position] = len(e.columns[position]); e.count[position] == 1 {
			e.queue = append(e.queue, int32(position))
		}
	}
	for row := range m {
		if len(e.rows[row]) == 1 {
			e.rowsQ = append(e.rowsQ, int32(row))
		}
	}
}

// choose finds a pivot that causes few new entries (Markowitz): columns and rows
// with one entry cause none.
func (e *elimination) choose() (row, position int32) {
	for len(e.queue) > 0 {
		position := e.queue[len(e.queue)-1]
		e.queue = e.queue[:len(e.queue)-1]
		if e.gone[position] || e.count[position] != 1 {
			continue
		}
		if row := e.liveRows(position)[0]; e.large(row, position) {
			return row, position
		}
	}
	for len(e.rowsQ) > 0 {
		row := e.rowsQ[len(e.rowsQ)-1]
		e.rowsQ = e.rowsQ[:len(e.rowsQ)-1]
		if !e.done[row] && len(e.rows[row]) == 1 && math.Abs(e.rows[row][0].val) > smallest {
			return row, e.rows[row][0].at
		}
	}
	return e.search()
}

// search looks through the columns with fewest entries.
func (e *elimination) search() (row, position int32) {
	const columnsLookedAt = 4
	row, best := -1, math.MaxInt
	for want := 1; want <= len(e.count); want++ {
		seen := 0
		for p := range e.count {
			if e.gone[p] || e.count[p] != want {
				continue
			}
			for _, r := range e.liveRows(int32(p)) {
				cost := (want - 1) * (len(e.rows[r]) - 1)
				if cost < best && e.large(r, int32(p)) {
					row, position, best = r, int32(p), cost
				}
			}
			if seen++; seen >= columnsLookedAt && row >= 0 {
				return row, position
			}
		}
		if row >= 0 && best <= want*want {
			return row, position
		}
	}
	return row, position
}

// liveRows drops rows that have no entry any more.
func (e *elimination) liveRows(position int32) []int32 {
	list := e.columns[position]
	kept := list[:0]
	for _, r := range list {
		if !e.done[r] && e.index(r, position) >= 0 {
			kept = append(kept, r)
		}
	}
	e.columns[position] = kept
	return kept
}

func (e *elimination) index(row, position int32) int {
	for i := range e.rows[row] {
		if e.rows[row][i].at == position {
			return i
		}
	}
	return -1
}

// large tells whether an entry is large enough for a stable pivot.
func (e *elimination) large(row, position int32) bool {
	largest, val := 0.0, 0.0
	for _, x := range e.rows[row] {
		largest = max(largest, math.Abs(x.val))
		if x.at == position {
			val = math.Abs(x.val)
		}
	}
	return val > smallest && val >= pivotThreshold*largest
}

// eliminate carries out one pivot.
func (f *factors) eliminate(e *elimination, row, position int32) {
	own := e.rows[row]
	pivotAt := e.index(row, position)
	val := own[pivotAt].val
	e.done[row], e.gone[position] = true, true
	for _, r := range e.liveRowsBut(position, row) {
		i := e.index(r, position)
		factor := e.rows[r][i].val / val
		last := len(e.rows[r]) - 1
		e.rows[r][i] = e.rows[r][last]
		e.rows[r] = e.rows[r][:last]
		f.lower = append(f.lower, entry{r, factor})
		e.subtract(r, own, factor, position)
		if len(e.rows[r]) == 1 {
			e.rowsQ = append(e.rowsQ, r)
		}
	}
	for _, x := range own {
		if x.at != position {
			f.upper = append(f.upper, x)
			if e.count[x.at]--; e.count[x.at] == 1 {
				e.queue = append(e.queue, x.at)
			}
		}
	}
	f.pivots = append(f.pivots, pivot{row, position, val, len(f.lower), len(f.upper)})
}

func (e *elimination) liveRowsBut(position, row int32) []int32 {
	e.scratch = e.scratch[:0]
	for _, r := range e.columns[position] {
		if r != row && !e.done[r] && e.index(r, position) >= 0 {
			e.scratch = append(e.scratch, r)
		}
	}
	return e.scratch
}

// subtract takes factor times a row from row r.
func (e *elimination) subtract(r int32, own []entry, factor float64, position int32) {
	row := e.rows[r]
	for i := range row {
		e.at[row[i].at] = int32(i) + 1
	}
	for _, x := range own {
		if x.at == position {
			continue
		}
		if i := e.at[x.at]; i > 0 {
			row[i-1].val -= factor * x.val
			continue
		}
		row = append(row, entry{x.at, -factor * x.val})
		e.columns[x.at] = append(e.columns[x.at], r)
		e.count[x.at]++
	}
	kept := row[:0]
	for _, x := range row {
		e.at[x.at] = 0
		if math.Abs(x.val) > smallest {
			kept = append(kept, x)
			continue
		}
		list := e.columns[x.at]
		list[slices.Index(list, r)] = list[len(list)-1]
		e.columns[x.at] = list[:len(list)-1]
		if e.count[x.at]--; e.count[x.at] == 1 {
			e.queue = append(e.queue, x.at)
		}
	}
	e.rows[r] = kept
}

// solve computes B⁻¹v: v is by row, the result by position in out.
func (f *factors) solve(v, out []float64) {
	begin := 0
	for i := range f.pivots {
		p := &f.pivots[i]
		if t := v[p.row]; t != 0 {
			for _, x := range f.lower[begin:p.lowerEnd] {
				v[x.at] -= x.val * t
			}
		}
		begin = p.lowerEnd
	}
	for i := len(f.pivots) - 1; i >= 0; i-- {
		p := &f.pivots[i]
		begin := 0
		if i > 0 {
			begin = f.pivots[i-1].upperE
		}
		t := v[p.row]
		for _, x := range f.upper[begin:p.upperE] {
			t -= x.val * out[x.at]
		}
		out[p.position] = t / p.val
	}
	begin = 0
	for _, e := range f.etas {
		if out[e.position] != 0 {
			t := out[e.position] / e.val
			out[e.position] = t
			for _, x := range f.etaNZ[begin:e.end] {
				out[x.at] -= x.val * t
			}
		}
		begin = e.end
	}
}

// solveTransposed computes c B⁻¹: c is by position (and is destroyed), the result
// by row in out.
func (f *factors) solveTransposed(c, out []float64) {
	for i := len(f.etas) - 1; i >= 0; i-- {
		e := &f.etas[i]
		begin := 0
		if i > 0 {
			begin = f.etas[i-1].end
		}
		t := c[e.position]
		for _, x := range f.etaNZ[begin:e.end] {
			t -= x.val * c[x.at]
		}
		c[e.position] = t / e.val
	}
	begin := 0
	for i := range f.pivots {
		p := &f.pivots[i]
		t := c[p.position] / p.val
		out[p.row] = t
		if t != 0 {
			for _, x := range f.upper[begin:p.upperE] {
				c[x.at] -= x.val * t
			}
		}
		begin = p.upperE
	}
	for i := len(f.pivots) - 1; i >= 0; i-- {
		p := &f.pivots[i]
		begin := 0
		if i > 0 {
			begin = f.pivots[i-1].lowerEnd
		}
		t := out[p.row]
		for _, x := range f.lower[begin:p.lowerEnd] {
			t -= x.val * out[x.at]
		}
		out[p.row] = t
	}
}

// replace notes that the variable of a position is replaced by one whose column
// is alpha in terms of the present basis.
func (f *factors) replace(position int32, alpha []float64) {
	for i, v := range alpha {
		if int32(i) != position && math.Abs(v) > smallest {
			f.etaNZ = append(f.etaNZ, entry{int32(i), v})
		}
	}
	f.etas = append(f.etas, eta{position, alpha[position], len(f.etaNZ)})
}

// stale tells when a new factorisation pays off.
func (f *factors) stale() bool {
	return len(f.etas) >= 100 || len(f.etaNZ) > 3*(len(f.lower)+len(f.upper)+f.m)
}
