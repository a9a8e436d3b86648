package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// logLinesMax are the lines that wait for the reader of the log.
const logLinesMax = 4096

// flushMax is how long the end of the program waits for them.
const flushMax = time.Second

// logWriter takes lines without waiting: the loop of an OSD must not stand still,
// and lose its lease, because whoever reads its log does. Lines that do not fit
// are counted.
type logWriter struct {
	lines chan []byte
	lost  atomic.Uint64
	idle  chan chan struct{}
}

func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{lines: make(chan []byte, logLinesMax), idle: make(chan chan struct{})}
	go l.run(w)
	return l
}

// Write implements io.Writer for slog, which writes one line at a time.
func (l *logWriter) Write(line []byte) (int, error) {
	select {
	case l.lines <- append([]byte(nil), line...):
	default:
		l.lost.Add(1)
	}
	return len(line), nil
}

func (l *logWriter) run(w io.Writer) {
	for {
		select {
		case line := <-l.lines:
			l.put(w, line)
		case done := <-l.idle:
			for range len(l.lines) {
				l.put(w, <-l.lines)
			}
			close(done)
		}
	}
}

func (l *logWriter) put(w io.Writer, line []byte) {
	w.Write(line) // if that fails nobody can be told
	if n := l.lost.Swap(0); n > 0 {
		fmt.Fprintf(w, "level=WARN msg=\"the log is not read fast enough\" lost_lines=%d\n", n)
	}
}

// flush waits until everything is written, but not for ever.
func (l *logWriter) flush() {
	limit := time.After(flushMax)
	done := make(chan struct{})
	select {
	case l.idle <- done:
	case <-limit:
		return
	}
	select {
	case <-done:
	case <-limit:
	}
}
