package crashtest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Failure is a case that failed, as small as it could be made.
type Failure struct {
	Case   *Case
	Err    error  // of the case as it was drawn
	Kept   []int  // steps of the shrunk script; nil = could not be shrunk
	Dense  bool   // how the shrunk script was run
	Salt   uint64 // ...
	Shrunk error
	Log    string // what happens in the shrunk script
}

// Replay is the command that runs the case again, and the shrunk one.
func (f *Failure) Replay() string {
	cmd := fmt.Sprintf("go test ./osd/store/crashtest -run 'TestReplay$' -v -args -seed=%d -case=%d", f.Case.Seed, f.Case.Number)
	if f.Kept == nil {
		return cmd
	}
	return fmt.Sprintf("%s\nshrunk: %s", cmd, f.replayShrunk(cmd))
}

func (f *Failure) replayShrunk(cmd string) string {
	text := make([]string, len(f.Kept))
	for i, k := range f.Kept {
		text[i] = fmt.Sprint(k)
	}
	return fmt.Sprintf("%s -keep=%s -dense=%v -salt=%d", cmd, strings.Join(text, ","), f.Dense, f.Salt)
}

func (f *Failure) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d case %d: %v\n\nreplay: %s\nconfig: %v\n", f.Case.Seed, f.Case.Number, f.Err, f.Replay(), f.Case.Config)
	if f.Kept != nil {
		fmt.Fprintf(&b, "\nshrunk to %d of %d steps: %v\n\n%s", len(f.Kept), len(f.Case.Script), f.Shrunk, f.Log)
	}
	return b.String()
}

// Shrink removes steps of a failed case as long as it fails. A removed step
// moves all later crashes, so the smaller scripts also crash at every event,
// with a few different choices of what survives. It takes about limit.
func Shrink(fresh func() *Harness, c *Case, err error, limit time.Duration) *Failure {
	s := shrinker{fresh: fresh, f: &Failure{Case: c, Err: err}, end: time.Now().Add(limit)}
	all := make([]int, len(c.Script))
	for i := range all {
		all[i] = i
	}
	if !s.fails(all) {
		s.f.Log = s.tail(c)
		return s.f
	}
	for size := len(all) / 2; size >= 1; {
		if !s.removeOnce(size) {
			size /= 2
		}
	}
	s.f.Log = s.tail(s.f.Case.Reduced(s.f.Kept, s.f.Dense, s.f.Salt))
	return s.f
}

type shrinker struct {
	fresh func() *Harness
	f     *Failure
	end   time.Time
}

// removeOnce tries to do without any size consecutive steps.
func (s *shrinker) removeOnce(size int) bool {
	removed := false
	for at := 0; at+size <= len(s.f.Kept); {
		if !s.fails(slices.Delete(slices.Clone(s.f.Kept), at, at+size)) {
			at += size
			continue
		}
		removed = true
	}
	return removed
}

// fails tells whether a reduced script fails in some way, and keeps it if so.
func (s *shrinker) fails(kept []int) bool {
	for _, salt := range []uint64{s.f.Salt, s.f.Salt + 1, s.f.Salt + 2} {
		for _, dense := range []bool{false, true} {
			if time.Now().After(s.end) {
				return false
			}
			h := s.fresh()
			h.PointsMax = 3000
			err := h.Run(s.f.Case.Reduced(kept, dense, salt))
			if err != nil && Signature(err) == Signature(s.f.Err) {
				s.f.Kept, s.f.Dense, s.f.Salt, s.f.Shrunk = kept, dense, salt, err
				return true
			}
		}
	}
	return false
}

// Reduced is the case with some of its steps only.
func (c *Case) Reduced(kept []int, dense bool, salt uint64) *Case {
	r := *c
	r.Dense, r.Salt, r.Script = dense, salt, nil
	for _, k := range kept {
		r.Script = append(r.Script, c.Script[k])
	}
	return &r
}

// Signature is what failures with the same cause have in common, more or less:
// the last part of the message without its numbers.
func Signature(err error) string {
	text := err.Error()
	if i := strings.Index(text, "\ngoroutine "); i >= 0 {
		text = text[:i]
	}
	for { // the outer parts only tell when it happened
		i := strings.Index(text, ":\n")
		if i < 0 {
			break
		}
		text = text[i+2:]
	}
	text, _, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, "found ")
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return -1
		}
		return c
	}, text)
}

// logBytesMax is how much of the end of a log is kept.
const logBytesMax = 24 << 10

// tail runs a failing case once more and returns the end of its log.
func (s *shrinker) tail(c *Case) string {
	h := s.fresh()
	h.PointsMax = 3000
	var log tailBuffer
	h.log = &log
	err := h.Run(c)
	return fmt.Sprintf("%s%v\n", log.String(), err)
}

// tailBuffer keeps the end of what is written.
type tailBuffer struct {
	b     bytes.Buffer
	start int // bytes thrown away
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	if n := t.b.Len(); n > 4*logBytesMax {
		t.start += n - logBytesMax
		t.b.Next(n - logBytesMax)
	}
	return t.b.Write(p)
}

// mark is a place in the log to which forget goes back.
func (t *tailBuffer) mark() int { return t.start + t.b.Len() }

func (t *tailBuffer) forget(mark int) { t.b.Truncate(max(0, mark-t.start)) }

func (t *tailBuffer) String() string {
	b := t.b.Bytes()
	if len(b) <= logBytesMax {
		return string(b)
	}
	b = b[len(b)-logBytesMax:]
	return "...\n" + string(b[bytes.IndexByte(b, '\n')+1:])
}
