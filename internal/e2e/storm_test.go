package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/workload"
	"vitastor/internal/meta"
)

// stormEnv is how long the storm lasts, such as 10m; default 15 s.
const stormEnv = "VITASTOR_E2E_STORM"

// TestStorm: everything at once and again and again, on a replicated and an EC
// pool: OSDs are killed, stopped and frozen, monitors and members of etcd killed.
func TestStorm(t *testing.T) {
	full(t)
	length := 15 * time.Second
	if text := os.Getenv(stormEnv); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, cluster.Config{OSDs: 4, Monitors: 2, EtcdMembers: 3})
	var images []*tested
	var runs []*workload.Run
	for i, s := range schemes {
		images = append(images, r.open(r.pool(meta.PoolID(i+1), s.pool, imageBytes), imageBytes))
	}
	for _, image := range images {
		runs = append(runs, image.Start(image.image, workload.Options{Writers: 8, Reads: 0.4, Pause: 2 * time.Millisecond, Bound: 2 * time.Minute}))
	}
	var log []string
	var mu sync.Mutex
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, time.Now().Format("15:04:05.000 ")+what)
	}
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	seed := uint64(time.Now().UnixNano())
	victims := []*cluster.Process{r.c.Mon(1), r.c.Mon(2), r.c.Etcd(1 + int(seed%3))}
	for _, n := range r.c.OSDNumbers() {
		victims = append(victims, r.c.OSD(n))
	}
	for i, p := range victims {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for time.Now().Before(end) {
				time.Sleep(time.Duration(1+rng.IntN(8)) * time.Second)
				if err := strike(p, rng, note); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for time.Now().Before(end) && !runs[0].Failed() && !runs[1].Failed() {
		time.Sleep(100 * time.Millisecond)
	}
	wg.Wait()
	r.restartEnded()
	for i := range images {
		r.must(r.c.WaitState(meta.PoolID(i+1), "active...", time.Minute))
		r.progress(runs[i], 100)
	}
	for i, image := range images {
		result, err := runs[i].Stop()
		if err != nil {
			t.Fatalf("%s: %v\n%v", schemes[i].name, err, log)
		}
		t.Logf("%s: %d reads, %d writes, the longest took %v", schemes[i].name, result.Reads, result.Writes, result.Longest)
		r.must(r.c.WaitState(meta.PoolID(i+1), "active", 30*time.Second))
		r.verify(image)
	}
}

// strike does something bad to a process and repairs it after a while.
func strike(p *cluster.Process, rng *rand.Rand, note func(string)) error {
	pause := time.Duration(rng.IntN(5000)) * time.Millisecond
	switch rng.IntN(3) {
	case 0:
		if !p.Running() {
			break
		}
		note("stop " + p.Name)
		if _, err := p.Terminate(30 * time.Second); err != nil {
			return err
		}
	case 1:
		if !p.Running() {
			break
		}
		note("freeze " + p.Name)
		p.Freeze() // it may just have ended
		time.Sleep(pause * 2)
		p.Thaw()
		note("thaw " + p.Name)
	default:
		note("kill " + p.Name)
		p.Kill()
	}
	time.Sleep(pause)
	if p.Running() {
		return nil
	}
	note("start " + p.Name)
	if err := p.Start(); err != nil {
		return fmt.Errorf("%s does not start: %w", p.Name, err)
	}
	return nil
}
