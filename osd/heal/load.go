package heal

import (
	"time"

	"vitastor/internal/env"
)

const (
	// loadWindow is how often the load of clients is looked at.
	loadWindow = 100 * time.Millisecond
	// quietTime is how long clients have to be quiet before more is done at
	// a time than configured.
	quietTime = time.Second
	// busyShare is the part of the time that clients may use while they count
	// as quiet: 1/busyShare. It is the least client_util_low of the tuning
	// of recovery delays (osd.md §12).
	busyShare = 100

	// idleDepth and idleBytes bound the recoveries at a time without clients.
	idleDepth = 16
	idleBytes = 16 << 20
)

// load tells whether clients are busy, from the time that their operations take.
type load struct {
	seen  time.Duration // total at the last sample
	at    env.Instant   // of the last sample
	busy  env.Instant   // when they were busy for the last time
	begun bool
}

// sample looks at the total time spent for clients since the start.
func (l *load) sample(now env.Instant, total time.Duration) {
	if !l.begun { // nothing is known: the next sample will tell
		*l = load{seen: total, at: now, busy: now.Add(loadWindow - quietTime), begun: true}
		return
	}
	if passed := now.Sub(l.at); passed >= loadWindow {
		if (total-l.seen)*busyShare > passed {
			l.busy = now
		}
		l.seen, l.at = total, now
	}
}

// forget ends sampling: what happens until the next sample is not seen.
func (l *load) forget() { l.begun = false }

// quiet tells whether recovery may use what is there.
func (l *load) quiet(now env.Instant) bool { return l.begun && now.Sub(l.busy) >= quietTime }

// admits tells whether another recovery may begin: of bytes while there are
// running ones with runningBytes together.
func admits(quiet bool, configured, running int, runningBytes, bytes uint64) bool {
	if running < configured {
		return true
	}
	return quiet && running < idleDepth && runningBytes+bytes <= idleBytes
}
