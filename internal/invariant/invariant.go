// Package invariant states what must hold, in three strengths.
//
// Must is always on: it guards data, and stops the process rather than let a
// broken state reach a disk or a peer. Check is on only in test builds (build
// tag "invariants", or the race detector) and may be expensive. Sometimes
// marks a rare path as taken, so that the simulator can prove that its runs
// reach it; it compiles to nothing outside test builds.
//
// Guarantee: a passing assertion allocates nothing and takes no lock in
// production builds. All functions may be called from any goroutine.
package invariant

import "fmt"

// Violation is the panic value of a failed assertion.
type Violation struct{ Text string }

func (v Violation) Error() string { return "invariant violated: " + v.Text }

// Must stops the program when ok is false. Arguments that are costly to build
// belong behind an explicit condition and Fail.
func Must(ok bool, what string) {
	if !ok {
		panic(Violation{what})
	}
}

// Fail reports a violation with its values. Callers test the condition
// themselves, so that nothing is formatted when it holds.
func Fail(format string, args ...any) {
	panic(Violation{fmt.Sprintf(format, args...)})
}

// Check runs f in test builds and stops the program when it returns an error.
func Check(f func() error) {
	if !Enabled {
		return
	}
	if err := f(); err != nil {
		panic(Violation{err.Error()})
	}
}
