package cli

import (
	"strings"
	"unicode/utf8"
)

// table is a text table (spec cli.md §1.2).
type table struct {
	columns []column
	rows    []map[string]string
}

type column struct {
	key, title string
	right      bool
}

func (t *table) add(columns ...column) { t.columns = append(t.columns, columns...) }

// String pads every cell to the width of its column, the last one included.
func (t *table) text(color bool) string {
	width := make([]int, len(t.columns))
	for i, c := range t.columns {
		width[i] = utf8.RuneCountInString(c.title)
		for _, row := range t.rows {
			width[i] = max(width[i], utf8.RuneCountInString(row[c.key]))
		}
	}
	var b strings.Builder
	line := func(cell func(c column) string) {
		for i, c := range t.columns {
			if i > 0 {
				b.WriteString("  ")
			}
			s := cell(c)
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(s))
			if c.right {
				b.WriteString(pad + s)
			} else {
				b.WriteString(s + pad)
			}
		}
	}
	if color {
		b.WriteString("\033[1m")
	}
	line(func(c column) string { return c.title })
	if color {
		b.WriteString("\033[0m")
	}
	for _, row := range t.rows {
		b.WriteByte('\n')
		line(func(c column) string { return row[c.key] })
	}
	return b.String()
}

// sheet is a list of "Title: value" lines, values aligned; a line without title
// is empty.
type sheet struct{ lines [][2]string }

func (s *sheet) add(title, value string) { s.lines = append(s.lines, [2]string{title, value}) }

func (s *sheet) text(color bool) string {
	width := 0
	for _, l := range s.lines {
		width = max(width, len(l[0]))
	}
	var b strings.Builder
	for i, l := range s.lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		if l[0] == "" {
			continue
		}
		b.WriteString(l[0] + ": " + strings.Repeat(" ", width-len(l[0])))
		if color {
			b.WriteString("\033[1m" + l[1] + "\033[0m")
		} else {
			b.WriteString(l[1])
		}
	}
	return b.String()
}
