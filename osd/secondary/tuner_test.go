package secondary

import (
	"math"
	"testing"
	"time"

	"vitastor/internal/schema/option"
)

// tuned are the defaults of the options.
func tuned() option.Recovery {
	return option.Recovery{TuneInterval: time.Second, TuneUtilLow: 0.1, TuneUtilHigh: 1, TuneClientUtilLow: 0, TuneClientUtilHigh: 0.5,
		TuneAggInterval: 10, TuneSleepMin: 10 * time.Microsecond, TuneSleepCutoff: 10 * time.Second}
}

func TestTargetUtil(t *testing.T) {
	c := tuned()
	for client, want := range map[float64]float64{0: 1, 0.009: 1, 0.01: 1, 0.255: 0.55, 0.5: 0.1, 3: 0.1} {
		if got := targetUtil(&c, client); math.Abs(got-want) > 1e-9 {
			t.Errorf("client %v: %v, want %v", client, got, want)
		}
	}
	c.TuneClientUtilLow, c.TuneClientUtilHigh, c.TuneUtilLow = 0.2, 0.4, 0
	for client, want := range map[float64]float64{0.19: 1, 0.3: 0.505, 0.4: 0.01} {
		if got := targetUtil(&c, client); math.Abs(got-want) > 1e-9 {
			t.Errorf("client %v: %v, want %v", client, got, want)
		}
	}
	c.TuneClientUtilLow, c.TuneClientUtilHigh = 0.5, 0.5 // no interpolation left
	if a, b := targetUtil(&c, 0.49), targetUtil(&c, 0.5); a != 1 || b != 0.01 {
		t.Errorf("at a step: %v %v", a, b)
	}
}

// Delays worked out by hand from the formula of osd.md §12.
func TestWantedDelay(t *testing.T) {
	const ms = time.Millisecond
	for i, c := range []struct {
		load Load
		want time.Duration
	}{
		// No clients, recovery takes all the time: it may.
		{Load{time.Second, 0, time.Second, 1000}, 0},
		// Even if 16 at once take more than all the time.
		{Load{time.Second, 0, 16 * time.Second, 4000}, 0},
		{Load{time.Second, 9 * ms, 16 * time.Second, 4000}, 0},
		// Clients are busy: target 0.1, so 1 ms becomes 1*1/0.1 = 10 ms.
		{Load{time.Second, 600 * ms, time.Second, 1000}, 9 * ms},
		// The same in half the time and with half the operations.
		{Load{500 * ms, 300 * ms, 500 * ms, 500}, 9 * ms},
		// Recovery already takes less than its share.
		{Load{time.Second, 600 * ms, 50 * ms, 50}, 0},
		// 0.1 of the time: 1*0.1/0.1 = 1 ms, nothing to wait for.
		{Load{time.Second, 600 * ms, 100 * ms, 100}, 0},
		// Slightly more: 1.009 ms is within sleep_min, 1.02 is not.
		{Load{time.Second, 600 * ms, 100900 * time.Microsecond, 100}, 0},
		{Load{time.Second, 600 * ms, 102 * ms, 102}, 20 * time.Microsecond},
		// Parallel operations take more than all the time: 4*4/0.1 - 4 ms.
		{Load{time.Second, 600 * ms, 4 * time.Second, 1000}, 156 * ms},
	} {
		cfg := tuned()
		if got := wantedDelay(&cfg, c.load); (got - c.want).Abs() > time.Microsecond {
			t.Errorf("row %d: %v, want %v", i, got, c.want)
		}
	}
	cfg := tuned()
	if got := wantedDelay(&cfg, Load{1, math.MaxInt64, math.MaxInt64, 1}); got <= cfg.TuneSleepCutoff {
		t.Errorf("overflow: %v", got)
	}
}

func TestTunerAverages(t *testing.T) {
	c := tuned()
	c.TuneAggInterval = 3
	busy := func(recoveryMs int) Load {
		return Load{time.Second, time.Second, time.Duration(recoveryMs) * time.Millisecond, 1}
	}
	var u Tuner
	add := func(l Load, want time.Duration, ok bool) {
		t.Helper()
		if got, k := u.Add(&c, l); k != ok || (got-want).Abs() > time.Microsecond {
			t.Errorf("%v: %v %v, want %v %v", l, got, k, want, ok)
		}
	}
	ms := time.Millisecond
	add(busy(200), 200*ms, true)                        // one operation of 0.2 s: 0.2*0.2/0.1 - 0.2
	add(Load{time.Second, time.Second, 0, 0}, 0, false) // nothing happened: nothing changes
	add(busy(400), (200+1200)*ms/2, true)
	add(busy(100), (200+1200+0)*ms/3, true)
	add(busy(2000), 0, false) // 38 s is beyond the cut-off
	add(busy(100), (1200+0+0)*ms/3, true)
	c.TuneAggInterval = 1
	add(busy(200), 200*ms, true)
	add(busy(100), 0, true)
	c.TuneAggInterval = 0 // counts as 1
	add(busy(200), 200*ms, true)
	c.TuneAggInterval = 4
	add(busy(400), 700*ms, true)
}

func TestLoadBetween(t *testing.T) {
	var a, b Stats
	for i := range b.Ops {
		b.Ops[i] = OpStats{Count: 10, Nanos: 1000}
		b.Recovery[i] = OpStats{Count: 2, Nanos: 300}
		a.Ops[i], a.Recovery[i] = OpStats{Count: 1, Nanos: 100}, OpStats{Count: 1, Nanos: 100}
	}
	// SEC_READ, SEC_WRITE, SEC_WRITE_STABLE, SEC_STABILIZE, SEC_SYNC, SEC_DELETE
	if got, want := loadBetween(&a, &b, 5), (Load{5, 6 * 700, 6 * 200, 6}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}
