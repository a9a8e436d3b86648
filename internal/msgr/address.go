package msgr

import (
	"net/netip"
	"slices"
	"time"

	"vitastor/internal/env"
)

// PreferAddresses selects the addresses of a peer to use, in order: those in
// one of the networks, if the peer has several and at least one matches;
// otherwise all (wire.md §4.1). It does not change its arguments.
func PreferAddresses(addrs []netip.AddrPort, networks []netip.Prefix) []netip.AddrPort {
	if len(addrs) < 2 {
		return slices.Clone(addrs)
	}
	var preferred []netip.AddrPort
	for _, a := range addrs {
		ip := a.Addr().Unmap()
		if slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
			preferred = append(preferred, a)
		}
	}
	if len(preferred) == 0 {
		return slices.Clone(addrs)
	}
	return preferred
}

// dialPlan decides where and when to connect next (wire.md §4.3): all
// addresses in order without a pause, then a pause, then again; new addresses
// at once, from the first.
type dialPlan struct {
	addrs    []netip.AddrPort
	at       int         // address of the running or coming attempt
	restart  bool        // addresses changed during the running attempt
	tried    bool        // there was an attempt
	lastDial env.Instant // when the first address was dialled last
	short    int         // connections in a row that were ready, but not for an interval
}

// reconnectPause is the pause after a connection that had just been made was
// lost. It doubles with each such connection in a row. OSDs close connections to
// clients for a reason that has nothing to do with the network (osd.md §8): who
// would wait for the whole interval then would stand still for nothing.
const reconnectPause = 20 * time.Millisecond

// set replaces the addresses and tells whether they differ.
func (d *dialPlan) set(addrs []netip.AddrPort) bool {
	if slices.Equal(d.addrs, addrs) {
		return false
	}
	d.addrs, d.at, d.restart = addrs, 0, true
	return true
}

// start begins the next attempt; there must be addresses.
func (d *dialPlan) start(now env.Instant) netip.AddrPort {
	if d.at == 0 {
		d.tried, d.lastDial = true, now
	}
	d.restart = false
	return d.addrs[d.at]
}

// failed ends an attempt: the next one begins after wait. exhausted tells that
// all addresses were tried in vain.
func (d *dialPlan) failed(interval time.Duration) (wait time.Duration, exhausted bool) {
	if d.restart {
		return 0, false
	}
	if d.at++; d.at < len(d.addrs) {
		return 0, false
	}
	d.at, d.short = 0, 0
	return interval, true
}

// lost notes the end of a connection that was ready.
func (d *dialPlan) lost(now env.Instant, interval time.Duration) {
	if d.short++; now.Sub(d.lastDial) >= interval {
		d.short = 0
	}
}

// again begins a new round: at once, unless the last one began less than an
// interval (or a shorter pause, see reconnectPause) ago.
func (d *dialPlan) again(now env.Instant, interval time.Duration) (wait time.Duration) {
	d.at = 0
	if !d.tried || d.restart {
		return 0
	}
	pause := interval
	if d.short > 0 {
		pause = min(interval, reconnectPause<<min(d.short-1, 20))
	}
	return max(0, pause-now.Sub(d.lastDial))
}
