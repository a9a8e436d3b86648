package secondary

import (
	"time"

	"vitastor/internal/schema/option"
)

// Load is what happened in an interval.
type Load struct {
	Interval      time.Duration
	ClientTime    time.Duration // spent by subops of clients, summed up
	RecoveryTime  time.Duration // by subops of recovery, without delays
	RecoveryCount uint64        // of them
}

// Tuner finds the delay of recovery subops that keeps recovery to the share of
// time left by clients (osd.md §12). Pure.
type Tuner struct {
	samples []time.Duration // the last ones, a ring
	next    int
}

// Add takes a sample and returns the new delay; ok is false when it does not
// change anything.
func (t *Tuner) Add(c *option.Recovery, l Load) (delay time.Duration, ok bool) {
	if l.RecoveryCount == 0 || l.Interval <= 0 {
		return 0, false
	}
	sample := wantedDelay(c, l)
	if sample > c.TuneSleepCutoff {
		return 0, false
	}
	t.push(sample, max(c.TuneAggInterval, 1))
	sum := time.Duration(0)
	for _, d := range t.samples {
		sum += d
	}
	return sum / time.Duration(len(t.samples)), true
}

// push adds a sample to the last n.
func (t *Tuner) push(d time.Duration, n int) {
	if len(t.samples) > n { // the window was made smaller: begin a new one
		t.samples = t.samples[:0]
	}
	if len(t.samples) < n {
		t.samples, t.next = append(t.samples, d), 0
		return
	}
	t.samples[t.next] = d
	t.next = (t.next + 1) % n
}

// wantedDelay is the delay that one sample asks for. A share of the whole time
// or more is no limit: many subops at once take more than all the time together,
// and without clients nobody is served by holding them back.
func wantedDelay(c *option.Recovery, l Load) time.Duration {
	interval := l.Interval.Seconds()
	share := targetUtil(c, l.ClientTime.Seconds()/interval)
	if share >= 1 {
		return 0
	}
	latency := l.RecoveryTime.Seconds() / float64(l.RecoveryCount)
	target := latency * (l.RecoveryTime.Seconds() / interval) / share
	if target <= latency+c.TuneSleepMin.Seconds() {
		return 0
	}
	if d := target - latency; d < float64(1<<62)/float64(time.Second) {
		return time.Duration(d * float64(time.Second))
	}
	return 1 << 62
}

// targetUtil is the share of time that recovery may take while clients take
// the given one.
func targetUtil(c *option.Recovery, client float64) float64 {
	low, high := max(c.TuneClientUtilLow, 0.01), max(c.TuneClientUtilHigh, 0.01)
	utilLow, utilHigh := max(c.TuneUtilLow, 0.01), max(c.TuneUtilHigh, 0.01)
	switch {
	case client < low:
		return utilHigh
	case client >= high:
		return utilLow
	}
	return utilLow + (utilHigh-utilLow)*(high-client)/(high-low)
}
