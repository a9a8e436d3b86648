package figures

import "testing"

// TestFigures holds the promises of the table: efficiency of a new distribution,
// movement near the bound while every OSD gets its share, and nearly none when
// PGs are doubled.
func TestFigures(t *testing.T) {
	for i := range Cases {
		c := &Cases[i]
		if c.Racks > 0 && c.Mixed {
			continue // it takes seconds; bench has it
		}
		r, err := c.Run()
		if err != nil {
			t.Fatal(err)
		}
		for k := range r.Moves {
			m := &r.Moves[k]
			t.Logf("%-24s %-9s moved %6.2f%% bound %6.2f%% ratio %.2f..%.2f efficiency %.2f%% work %d", c.Name, m.Step,
				m.Moved*100, m.Bound*100, m.Least, m.Most, m.Efficiency*100, m.Work)
			if c.Racks > 0 { // the bound does not know that pairs have to move together
				if m.Least < 0.9 || m.Moved > 2*m.Bound {
					t.Errorf("%s, %s: moved %.4f, bound %.4f, ratio %.2f", c.Name, m.Step, m.Moved, m.Bound, m.Least)
				}
				continue
			}
			if err := c.Judge(m); err != nil {
				t.Errorf("%s, %s: %v", c.Name, m.Step, err)
			}
		}
	}
}
