package main

import (
	"fmt"
	"strings"
	"time"

	"vitastor/internal/placement/figures"
)

// benchPlacement prints the table of spec monitor.md §8: how well PGs are
// spread, and what each step moves, beside the least possible and the
// reference. It needs no paired runs: only the CPU times depend on the machine.
func benchPlacement(_ int, report func(Row)) error {
	for i := range figures.Cases {
		c := &figures.Cases[i]
		r, err := c.Run()
		if err != nil {
			return err
		}
		initial, slowest := &r.Moves[0], time.Duration(0)
		row := Row{Figure: c.Name + " efficiency", Value: fmt.Sprintf("%.2f %%, ratio %.2f..%.2f", initial.Efficiency*100, initial.Least, initial.Most)}
		if c.RefEfficiency > 0 {
			row.Target, row.OK = fmt.Sprintf(">= %.2f %%", c.RefEfficiency), c.Judge(initial) == nil
		}
		report(row)
		for k := range r.Moves {
			m := &r.Moves[k]
			slowest = max(slowest, m.CPU)
			if k > 0 {
				report(placementStep(c, k, m))
			}
		}
		report(Row{Figure: c.Name + " CPU", Value: fmt.Sprintf("%.3f s new, %.3f s slowest step", initial.CPU.Seconds(), slowest.Seconds()),
			Target: "<= 3 s", OK: slowest <= 3*time.Second})
	}
	return nil
}

func placementStep(c *figures.Case, k int, m *figures.Move) Row {
	parts := []string{fmt.Sprintf("%.1f / %.1f", m.Moved*100, m.Bound*100), fmt.Sprintf("ratio %.2f..%.2f", m.Least, m.Most)}
	if k-1 < len(c.RefMoved) && c.RefMoved[k-1] == c.RefMoved[k-1] {
		parts = append(parts, fmt.Sprintf("reference %.1f", c.RefMoved[k-1]))
	}
	row := Row{Figure: c.Name + " " + m.Step, Value: strings.Join(parts, ", ")}
	if c.Racks > 0 {
		return row // the bound does not know the rules
	}
	switch {
	case m.Step == figures.Again:
		row.Target = "0 moved"
	case m.Step == figures.Doubled || m.Step == figures.Halved:
		row.Target = "<= 1 % moved"
	case c.EC:
		row.Target = "<= 1.5 x bound, ratio >= 0.9"
	default:
		row.Target = "<= 1.3 x bound, ratio >= 0.9"
	}
	row.OK = c.Judge(m) == nil
	return row
}
