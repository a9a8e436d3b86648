package crashtest

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vitastor/internal/invariant"
)

var (
	flagSeed     = flag.String("seed", "", `seed of the cases: a number, or "random"`)
	flagCase     = flag.Uint64("case", 0, "number of the case to replay")
	flagKeep     = flag.String("keep", "", "steps of the shrunk script, as printed")
	flagDense    = flag.Bool("dense", false, "crash at every event, as printed with a shrunk script")
	flagSalt     = flag.Uint64("salt", 0, "choice of crashes, as printed with a shrunk script")
	flagDuration = flag.Duration("duration", 0, "how long TestSoak runs")
	flagTrace    = flag.Bool("trace", false, "TestReplay: print the whole history with all disk requests")
	flagShrink   = flag.Bool("shrink", true, "look for a shorter script that fails")
	flagFailures = flag.Int("failures", 1, "stop after that many failed cases")
)

// shrinkLimit is how long a failure is shrunk.
const shrinkLimit = 30 * time.Second

// newHarness makes harnesses for the real engine.
func newHarness() *Harness { return &Harness{Open: OpenStore} }

// seedFlag is -seed, or a default.
func seedFlag(t *testing.T, absent uint64) uint64 {
	switch *flagSeed {
	case "":
		return absent
	case "random":
		return rand.Uint64() >> 1
	}
	n, err := strconv.ParseUint(*flagSeed, 0, 64)
	if err != nil {
		t.Fatalf("-seed: %v", err)
	}
	return n
}

// TestCrash runs random histories; with CRASH_POINTS=n in the environment until
// n crashes have been tried.
func TestCrash(t *testing.T) {
	points := uint64(4000)
	if text := os.Getenv("CRASH_POINTS"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("CRASH_POINTS=%s: %v", text, err)
		}
		points = n
	}
	c := &campaign{t: t, seed: seedFlag(t, 1), fresh: newHarness, enough: func(s *Stats) bool { return s.Points >= points }}
	c.run()
	if names := c.total.Unreached(); points >= 50000 && len(c.failures) == 0 && len(names) > 0 {
		t.Errorf("never happened in the engine: %v", names)
	}
}

// TestSoak runs for -duration; make soak passes -seed=random.
func TestSoak(t *testing.T) {
	if *flagDuration == 0 {
		t.Skip("only with -duration")
	}
	end := time.Now().Add(*flagDuration)
	(&campaign{t: t, seed: seedFlag(t, uint64(time.Now().UnixNano())), fresh: newHarness, verbose: true,
		enough: func(*Stats) bool { return time.Now().After(end) }}).run()
}

// TestReplay runs one case again: the command is printed with every failure.
func TestReplay(t *testing.T) {
	if *flagSeed == "" {
		t.Skip("only with -seed and -case")
	}
	c := NewCase(seedFlag(t, 0), *flagCase)
	h := newHarness()
	if *flagKeep != "" {
		var kept []int
		for text := range strings.SplitSeq(*flagKeep, ",") {
			k, err := strconv.Atoi(text)
			if err != nil || k >= len(c.Script) {
				t.Fatalf("-keep=%s: %q is not a step of this case", *flagKeep, text)
			}
			kept = append(kept, k)
		}
		c, h.PointsMax = c.Reduced(kept, *flagDense, *flagSalt), 3000
	}
	if *flagTrace {
		h.log, h.engineLog = os.Stdout, os.Stdout
	}
	err := h.Run(c)
	t.Logf("config: %v\n%v", c.Config, &h.Stats)
	switch {
	case err == nil:
	case *flagKeep != "":
		t.Errorf("%v", err)
	default:
		t.Errorf("%v", Shrink(newHarness, c, err, shrinkLimit))
	}
}

// campaign runs the cases of a seed on all processors.
type campaign struct {
	t       *testing.T
	seed    uint64
	fresh   func() *Harness
	enough  func(*Stats) bool
	verbose bool

	mu       sync.Mutex
	total    Stats
	failures []*Failure
}

func (c *campaign) run() {
	c.t.Logf("seed %d", c.seed)
	start := time.Now()
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for c.one(next.Add(1)) {
			}
		})
	}
	if c.verbose {
		stop := make(chan struct{})
		defer close(stop)
		go c.report(start, stop)
	}
	wg.Wait()
	c.t.Logf("%v in %v", &c.total, time.Since(start).Round(time.Millisecond))
	c.t.Logf("paths: %v", c.total.Paths)
	printReached(c.t)
	kinds := map[string]int{}
	for _, f := range c.failures {
		if kinds[Signature(f.Err)]++; kinds[Signature(f.Err)] > 1 {
			continue
		}
		c.t.Errorf("%v", f)
		writeFailure(c.t, f)
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		c.t.Logf("%d x %s", kinds[k], k)
	}
}

// one runs a case and tells whether to go on.
func (c *campaign) one(number uint64) bool {
	h := c.fresh()
	k := NewCase(c.seed, number)
	err := h.Run(k)
	var f *Failure
	if err != nil {
		f = &Failure{Case: k, Err: err}
		if *flagShrink {
			f = Shrink(c.fresh, k, err, shrinkLimit)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.Add(&h.Stats)
	if f != nil {
		c.failures = append(c.failures, f)
	}
	return len(c.failures) < *flagFailures && !c.enough(&c.total)
}

func (c *campaign) report(start time.Time, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Second):
		}
		c.mu.Lock()
		fmt.Printf("seed %d after %v: %v\n", c.seed, time.Since(start).Round(time.Second), &c.total)
		c.mu.Unlock()
	}
}

func printReached(t *testing.T) {
	reached := invariant.Reached()
	names := slices.SortedFunc(maps.Keys(reached), func(a, b string) int { return cmp.Compare(reached[a], reached[b]) })
	for _, n := range names {
		t.Logf("reached %8d times: %s", reached[n], n)
	}
}

// writeFailure keeps a failure where CI collects such things.
func writeFailure(t *testing.T, f *Failure) {
	dir := os.Getenv("CRASH_FAILURES")
	if dir == "" {
		return
	}
	name := filepath.Join(dir, fmt.Sprintf("crash-%d-%d.txt", f.Case.Seed, f.Case.Number))
	if err := os.WriteFile(name, []byte(f.String()), 0o644); err != nil {
		t.Errorf("cannot keep the failure: %v", err)
	}
}
