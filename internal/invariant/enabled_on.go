//go:build invariants || race

package invariant

import (
	"maps"
	"sync"
)

// Enabled tells whether Check and Sometimes do anything in this build.
const Enabled = true

var (
	reachedMu sync.Mutex
	reached   = map[string]uint64{}
)

// Sometimes marks the named path as reached.
func Sometimes(name string) {
	reachedMu.Lock()
	reached[name]++
	reachedMu.Unlock()
}

// Reached returns how often each named path was taken since the start.
func Reached() map[string]uint64 {
	reachedMu.Lock()
	defer reachedMu.Unlock()
	return maps.Clone(reached)
}
