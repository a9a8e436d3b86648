package simcluster

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag     = flag.String("simcluster.seed", "", "run only this seed, or a range like 100-299, or random")
	durationFlag = flag.Duration("simcluster.duration", 15*time.Second, "virtual time with faults")
	traceFlag    = flag.String("simcluster.trace", "", "write the log of the (last) run to this file")
	eventsFlag   = flag.Bool("simcluster.events", false, "every event goes to the trace, too")
	minimiseFlag = flag.Int("simcluster.minimise", 0, "runs to spend on a shorter plan for each failure")
	soakFlag     = flag.Duration("simcluster.soak", 0, "go on with new seeds for this long (real time)")
	onlyFlag     = flag.String("simcluster.only", "", "the faults of the plan to keep, by number, with commas")
)

// seedRange is what -simcluster.seed asks for.
func seedRange(t *testing.T) (first, last uint64) {
	switch {
	case *seedFlag == "random" || *seedFlag == "" && *soakFlag > 0:
		first = uint64(time.Now().UnixNano()) % 1e9
		t.Logf("the first seed is %d", first)
		return first, first
	case *seedFlag == "":
		return 1, 6
	}
	a, b, found := strings.Cut(*seedFlag, "-")
	first, err := strconv.ParseUint(a, 10, 64)
	last = first
	if err == nil && found {
		last, err = strconv.ParseUint(b, 10, 64)
	}
	if err != nil {
		t.Fatalf("-simcluster.seed=%s: %v", *seedFlag, err)
	}
	return first, last
}

// TestSeeds runs worlds that are drawn from their seeds. A failure prints the
// command that repeats it.
func TestSeeds(t *testing.T) {
	first, last := seedRange(t)
	begin := time.Now()
	for seed := first; seed <= last || *soakFlag > 0 && time.Since(begin) < *soakFlag; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runSeed(t, seed) })
	}
}

func runSeed(t *testing.T, seed uint64) {
	c := NewConfig(seed, *durationFlag)
	judge(t, c, kept(t, NewPlan(c)))
}

// judge runs a world and reports what it found.
func judge(t *testing.T, c *Config, p Plan) *Result {
	t.Helper()
	var o Options
	if *traceFlag != "" {
		f, err := os.Create(*traceFlag)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		o.Log = f
		if *eventsFlag {
			o.Trace = f
		}
	}
	begin := time.Now()
	r := Run(c, p, o)
	t.Logf("%.1f s: %v", time.Since(begin).Seconds(), r)
	if len(r.Violations) == 0 {
		return r
	}
	if *minimiseFlag > 0 {
		m := Minimise(r, *minimiseFlag)
		t.Logf("with a shorter plan: %v", m)
		t.Errorf("repeat with: %s -simcluster.only=%s", Replay(t.Name(), c), m.Plan.numbers())
		return r
	}
	t.Errorf("repeat with: %s", Replay(t.Name(), c))
	return r
}

// kept is the plan with the faults of -simcluster.only.
func kept(t *testing.T, p Plan) Plan {
	if *onlyFlag == "" {
		return p
	}
	keep := map[int]bool{}
	for _, s := range strings.FieldsFunc(*onlyFlag, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("-simcluster.only=%s: %v", *onlyFlag, err)
		}
		keep[n] = true
	}
	return slices.DeleteFunc(p, func(f Fault) bool { return !keep[f.N] })
}

// The same seed gives the same execution.
func TestRunsAreDeterministic(t *testing.T) {
	for seed := range uint64(5) {
		c := NewConfig(seed, 8*time.Second)
		a := Run(c, NewPlan(c), Options{})
		b := Run(c, NewPlan(c), Options{Log: io.Discard})
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Fatalf("two runs of seed %d differ: %016x after %d events, %016x after %d", seed, a.Hash, a.Events, b.Hash, b.Events)
		}
	}
}
