package heal

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

func TestLoad(t *testing.T) {
	const ms = time.Millisecond
	at := func(d time.Duration) env.Instant { return env.Instant(5).Add(d) }
	var l load
	for _, s := range []struct {
		at, total time.Duration
		quiet     bool
	}{
		{0, 700 * ms, false}, // nothing is known
		{50 * ms, 700 * ms, false},
		{100 * ms, 700 * ms, true}, // one quiet window is enough at first
		{200 * ms, 701 * ms, true}, // 1 % is quiet
		{300 * ms, 703 * ms, false},
		{350 * ms, 703 * ms, false},
		{1250 * ms, 703 * ms, false},
		{1300 * ms, 703 * ms, true}, // a second after the last load
		{1340 * ms, 800 * ms, true}, // too early to look
		{1400 * ms, 800 * ms, false},
	} {
		l.sample(at(s.at), s.total)
		if got := l.quiet(at(s.at)); got != s.quiet {
			t.Errorf("at %v: quiet %v, want %v", s.at, got, s.quiet)
		}
	}
	l.forget()
	if l.quiet(at(time.Hour)) {
		t.Error("quiet without a sample")
	}
	l.sample(at(time.Hour), 900*ms)
	if l.quiet(at(time.Hour)) {
		t.Error("quiet after one sample")
	}
}

func TestAdmits(t *testing.T) {
	const mib = 1 << 20
	for i, c := range []struct {
		depth               int
		configured, running int
		runningBytes, bytes uint64
		want                bool
	}{
		{0, 1, 0, 0, 4 * mib, true},
		{0, 1, 1, 4 * mib, 4 * mib, false},
		{0, 4, 3, 100 * mib, 100 * mib, true}, // what is configured counts
		{16, 1, 1, mib / 8, mib / 8, true},
		{16, 1, 15, 15 * mib / 8, mib / 8, true},
		{16, 1, 16, 2 * mib, mib / 8, false},
		{64, 1, 63, 63 * mib / 8, mib / 8, true},
		{64, 1, 64, 8 * mib, mib / 8, false},
		{16, 1, 3, 12 * mib, 4 * mib, true},
		{16, 1, 4, 16 * mib, 4 * mib, false},
		{16, 32, 31, 128 * mib, 4 * mib, true},
		{16, 32, 32, 4 * mib, 4 * mib, false},
	} {
		if got := admits(c.depth, c.configured, c.running, c.runningBytes, c.bytes); got != c.want {
			t.Errorf("row %d: %v", i, got)
		}
	}
}

func TestPace(t *testing.T) {
	var p pace
	rounds := func(n int, took time.Duration) {
		for range n {
			for range p.depth() {
				p.finished(took)
			}
		}
	}
	for i, c := range []struct {
		rounds int
		took   time.Duration
		want   int
	}{
		{1, 30 * time.Millisecond, idleDepth}, // neither fast nor slow
		{1, time.Second, idleDepth},           // never less
		{1, 10 * time.Millisecond, 2 * idleDepth},
		{1, 40 * time.Millisecond, 2 * idleDepth},
		{10, 24 * time.Millisecond, idleDepthMax}, // never more
		{1, 51 * time.Millisecond, idleDepthMax / 2},
		{9, 51 * time.Millisecond, idleDepth},
	} {
		if rounds(c.rounds, c.took); p.depth() != c.want {
			t.Errorf("row %d: depth %d, want %d", i, p.depth(), c.want)
		}
	}
	for range idleDepth - 1 {
		p.finished(0)
	}
	if p.depth() != idleDepth {
		t.Error("the depth changed before it could have an effect")
	}
}

func TestPlans(t *testing.T) {
	var p plans
	if _, ok := p.first(); ok {
		t.Error("a plan without PGs")
	}
	p.set(pg3, 50)
	p.set(pg1, 0)
	p.set(pg2, 70)
	if x, ok := p.first(); !ok || x != (plan{pg3, 50}) {
		t.Error(x, ok)
	}
	p.set(pg2, 1)
	if x, _ := p.first(); x != (plan{pg2, 1}) {
		t.Error(x)
	}
	p.remove(pg2)
	p.remove(pg2)
	if x, _ := p.first(); x != (plan{pg3, 50}) {
		t.Error(x)
	}
	p.set(pg3, 0)
	if _, ok := p.first(); ok {
		t.Error("something is planned")
	}
	if pg, ok := p.unplanned(pg1); !ok || pg != pg1 {
		t.Error(pg)
	}
	if pg, ok := p.unplanned(pg2); !ok || pg != pg3 {
		t.Error(pg)
	}
	if _, ok := p.unplanned(pg3); !ok {
		t.Error("not found")
	}
	if _, ok := p.unplanned(meta.PG{Pool: 2, Num: 2}); ok {
		t.Error("found")
	}
}
