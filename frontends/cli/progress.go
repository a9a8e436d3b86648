package cli

import (
	"fmt"
	"strings"
	"time"
)

// progress shows how far long work is, on standard error: on a terminal a bar
// that is drawn again and again, otherwise a line from time to time.
type progress struct {
	r       *run
	last    time.Time
	begun   time.Time
	drawn   bool
	pending string
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = time.Second
	barCells  = 30
)

func (r *run) newProgress() *progress { return &progress{r: r, begun: now()} }

// at shows a text, and a bar if total is known. It may be called as often as
// there is something new; most of it is not shown.
func (p *progress) at(done, total uint64, text string) {
	if !p.r.progress {
		return
	}
	every := lineEvery
	if p.r.color {
		every = barEvery
		text = "\r" + text + bar(done, total, now().Sub(p.begun)) + "\033[K"
	} else {
		text += "\n"
	}
	t := now()
	if t.Sub(p.last) < every {
		p.pending = text
		return
	}
	p.last = t
	p.draw(text)
}

func (p *progress) draw(text string) {
	p.drawn, p.pending = true, ""
	fmt.Fprint(p.r.Err, text)
}

// end shows the last state and leaves the line.
func (p *progress) end() {
	if p.pending != "" {
		p.draw(p.pending)
	}
	if p.drawn && p.r.color {
		fmt.Fprintln(p.r.Err)
	}
}

// bar is " [=====>    ] 52% 12s left".
func bar(done, total uint64, elapsed time.Duration) string {
	if total == 0 || done > total {
		return ""
	}
	cells := int(float64(done) / float64(total) * barCells)
	s := strings.Repeat("=", cells)
	if cells < barCells {
		s += ">" + strings.Repeat(" ", barCells-cells-1)
	}
	s = fmt.Sprintf(" [%s] %d%%", s, int(float64(done)/float64(total)*100))
	if done > 0 && done < total && elapsed > 2*time.Second {
		s += " " + duration(time.Duration(float64(elapsed)*float64(total-done)/float64(done))) + " left"
	}
	return s
}
