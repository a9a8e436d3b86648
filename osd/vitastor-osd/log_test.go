package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func TestLogIsComplete(t *testing.T) {
	var out output
	l := newLogWriter(&out)
	for i := range 1000 {
		fmt.Fprintf(l, "line %d\n", i)
	}
	l.flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1000 || lines[999] != "line 999" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

// A reader that stands still stops nobody, and is told what it has missed.
func TestLogDoesNotWait(t *testing.T) {
	r, w := io.Pipe()
	l := newLogWriter(w)
	began := time.Now()
	for range 2 * logLinesMax {
		fmt.Fprintln(l, "a line")
	}
	l.flush() // gives up
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	var out output
	go io.Copy(&out, r)
	for end := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "lost_lines="); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was said about lost lines")
		}
	}
	l.flush()
	if n := strings.Count(out.String(), "a line\n"); n < logLinesMax/2 || n > logLinesMax+2 {
		t.Errorf("%d lines arrived", n)
	}
	w.Close()
}
