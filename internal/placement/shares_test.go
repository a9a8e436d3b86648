package placement

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"vitastor/internal/placement/lp"
)

// TestPour: shares are proportional up to the limit.
func TestPour(t *testing.T) {
	for _, c := range []struct {
		weights []float64
		amount  float64
		limit   float64
		want    []float64
	}{
		{[]float64{1, 1, 2}, 8, 10, []float64{2, 2, 4}},
		{[]float64{1, 1, 2}, 8, 3, []float64{2.5, 2.5, 3}},
		{[]float64{1, 3, 30}, 6, 3, []float64{0.75, 2.25, 3}},
		{[]float64{1, 1}, 8, 3, []float64{3, 3}}, // it does not fit
		{nil, 8, 3, nil},
	} {
		got := pour(c.weights, c.amount, func(int) float64 { return c.limit })
		for i := range c.want {
			if math.Abs(got[i]-c.want[i]) > 1e-9 {
				t.Errorf("%v: %v, want %v", c.weights, got, c.want)
				break
			}
		}
	}
}

// allSets are all sets of classes of the greatest width, as columns of the
// linear programme of monitor.md 4.2.
func allSets(f *fluid) (columns []lp.Column, width int) {
	set := slices.Repeat([]int32{-1}, f.size)
	seen := map[string]bool{}
	var try func(i int)
	try = func(i int) {
		if i == f.size {
			w := filled(set)
			if w > width {
				columns, width = nil, w
				clear(seen)
			}
			sorted := slices.Sorted(slices.Values(set))
			if key := fmt.Sprint(sorted); w == width && !seen[key] {
				seen[key] = true
				columns = append(columns, columnOf(sorted))
			}
			return
		}
		any := false
		for c := range f.classes {
			if f.classFits(set, i, int32(c)) {
				any = true
				set[i] = int32(c)
				try(i + 1)
				set[i] = -1
			}
		}
		if !any {
			try(i + 1)
		}
	}
	try(0)
	return columns, width
}

func columnOf(sorted []int32) lp.Column {
	c := lp.Column{Cost: 1}
	for _, class := range sorted {
		switch n := len(c.Rows); {
		case class < 0:
		case n > 0 && c.Rows[n-1] == class:
			c.Values[n-1]++
		default:
			c.Rows, c.Values = append(c.Rows, class), append(c.Values, 1)
		}
	}
	return c
}

// TestFluidIsFair compares the shares under rules that are not plain with the
// proved optimum: the fullest class cannot be much less full.
func TestFluidIsFair(t *testing.T) {
	kinds := otherPools()
	worst := 1.0
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom(kinds).Draw(rt, "kind")
		m := newModel(rt)
		pool := kind.draw(rt)
		rules, err := RulesOf(pool)
		if err != nil {
			rt.Fatal(err)
		}
		f := newFluid(newLayout(m.inventory().Tree(pool), rules))
		if len(f.classes) > 12 {
			return
		}
		for done := false; !done; {
			_, done = f.pourRound()
		}
		columns, width := allSets(f)
		if f.width != width {
			rt.Fatalf("%s: width %d, possible is %d", kind.name, f.width, width)
		}
		if width == 0 {
			return
		}
		result, err := lp.Solve(&lp.Problem{B: f.weights, Columns: columns}, lp.Options{})
		if err != nil || result.Status != lp.Optimal {
			rt.Fatal(result.Status, err)
		}
		top, sum := 0.0, 0.0
		for c, load := range f.load {
			top = max(top, load/f.weights[c])
			sum += load
		}
		if math.Abs(sum-float64(width)) > 1e-6 {
			rt.Fatalf("shares of one PG are %g, not %d", sum, width)
		}
		ratio := top * result.Objective
		if f.soft || width < f.size {
			return // there, preferences and width come first
		}
		worst = max(worst, ratio)
		if ratio > 1.10 {
			rt.Fatalf("%s: the fullest class is %.3f times as full as it must be: load %v weights %v", kind.name, ratio, f.load, f.weights)
		}
	})
	t.Logf("worst ratio to the optimum: %.3f", worst)
}
