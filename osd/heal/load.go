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

	// idleDepth, and idleDepthMax when everything is fast enough for it, and
	// idleBytes bound the recoveries at a time without clients.
	idleDepth    = 16
	idleDepthMax = 128
	idleBytes    = 16 << 20
	// What is in work when clients come back is in their way for as long as one
	// recovery takes: see pace.
	fastRecovery = 25 * time.Millisecond
	slowRecovery = 50 * time.Millisecond
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

// pace finds the depth without clients: as many recoveries at a time as disks
// and other OSDs do in a short time. Where many primaries recover to one OSD, or
// a disk rotates, that is not more than at first.
type pace struct {
	doublings int           // of idleDepth
	done      int           // recoveries since the depth was changed or confirmed
	took      time.Duration // by them, summed up
}

// depth is how many recoveries there may be at a time without clients.
func (p *pace) depth() int { return idleDepth << p.doublings }

// finished takes the duration of a recovery. After as many of them as may run
// at a time it is known what the present depth leads to.
func (p *pace) finished(took time.Duration) {
	p.done++
	p.took += took
	if p.done < p.depth() {
		return
	}
	switch mean := p.took / time.Duration(p.done); {
	case mean < fastRecovery && p.depth() < idleDepthMax:
		p.doublings++
	case mean > slowRecovery && p.doublings > 0:
		p.doublings--
	}
	p.done, p.took = 0, 0
}

// admits tells whether another recovery may begin: of bytes while there are
// running ones with runningBytes together. depth is 0 while clients are busy.
func admits(depth, configured, running int, runningBytes, bytes uint64) bool {
	if running < configured {
		return true
	}
	return running < depth && runningBytes+bytes <= idleBytes
}
