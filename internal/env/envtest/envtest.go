// Package envtest checks that an implementation of env.Clock, env.Exec,
// env.Net and env.Storage keeps what internal/env promises. The real loop and
// the simulation run the same tests, so that code proven in one holds in the
// other.
//
// Guarantee: every check follows from the comments in internal/env; what they
// leave open (timing, sizes of pieces, order between streams) is not checked.
//
// Concurrency: the package has no state of its own; all code of a check runs
// on the loop of the world under test, except checks of Post.
package envtest

import (
	"net/netip"
	"testing"
	"time"

	"vitastor/internal/env"
)

// World is an implementation under test: two processes that can reach each
// other. They may be one and the same Env.
type World struct {
	Env, Peer *env.Env

	// Addr and PeerAddr are the addresses that Env and Peer may listen on.
	Addr, PeerAddr netip.Addr
	// Refused is an address that nobody listens on and that answers so.
	Refused netip.AddrPort

	// NewDisk makes an empty disk of that size (a multiple of 1 MiB) that
	// reads as zeros, and returns the path that Env.Storage opens.
	NewDisk func(t *testing.T, sizeBytes int64) (path string)
	// Alloc returns zeroed memory fit for disk requests until the test ends.
	Alloc func(t *testing.T, bytes int) []byte

	// Run calls body on the loop and then serves events until finish has been
	// called (from any callback). It reports false when that did not happen
	// within TimeLimit. It is called from the test's goroutine, several times.
	// Callbacks of Env and Peer never run at the same time.
	Run func(t *testing.T, body func(finish func())) bool

	// Threads tells that Post may be called from other goroutines while Run
	// is running. A simulation without threads says false; then body calls
	// Post itself.
	Threads bool
}

// TimeLimit is the time, by the world's clock, after which Run gives up.
const TimeLimit = 20 * time.Second

// Run runs all checks, each in a new world. newWorld registers what must be
// cleaned up with t.Cleanup. A world without Storage or Net skips their checks.
func Run(t *testing.T, newWorld func(t *testing.T) *World) {
	groups := []struct {
		name   string
		checks []check
		has    func(*World) bool
	}{
		{"clock", clockChecks, func(w *World) bool { return w.Env.Clock != nil }},
		{"exec", execChecks, func(w *World) bool { return w.Env.Exec != nil }},
		{"net", netChecks, func(w *World) bool { return w.Env.Net != nil }},
		{"disk", diskChecks, func(w *World) bool { return w.Env.Storage != nil }},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			if !g.has(newWorld(t)) {
				t.Skipf("this world has no %s", g.name)
			}
			for _, c := range g.checks {
				t.Run(c.name, func(t *testing.T) { c.run(t, newWorld(t)) })
			}
		})
	}
}

type check struct {
	name string
	run  func(*testing.T, *World)
}

// run is World.Run that fails the test when body does not finish.
func (w *World) run(t *testing.T, body func(finish func())) {
	t.Helper()
	if !w.Run(t, body) {
		t.Fatalf("not finished within %v", TimeLimit)
	}
}
