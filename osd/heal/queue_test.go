package heal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// model is a cluster's unclean objects as a Queue sees them.
type model struct {
	objects    map[meta.PG]map[meta.ObjectID]Kind
	incomplete map[meta.PG]bool
	full       map[meta.PoolID]bool
}

func newModel() *model {
	return &model{map[meta.PG]map[meta.ObjectID]Kind{}, map[meta.PG]bool{}, map[meta.PoolID]bool{}}
}

func (m *model) Incomplete(pg meta.PG) bool      { return m.incomplete[pg] }
func (m *model) Suspended(pool meta.PoolID) bool { return m.full[pool] }

func (m *model) Next(pg meta.PG, from meta.ObjectID, k Kind) (best meta.ObjectID, ok bool) {
	for id, kind := range m.objects[pg] {
		if kind == k && !id.Less(from) && (!ok || id.Less(best)) {
			best, ok = id, true
		}
	}
	return best, ok
}

func (m *model) set(pg meta.PG, id meta.ObjectID, k Kind) {
	if m.objects[pg] == nil {
		m.objects[pg] = map[meta.ObjectID]Kind{}
	}
	m.objects[pg][id] = k
}

func objectN(pool meta.PoolID, n int) meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(pool, 1), Stripe: uint64(n) << 17}
}

// fill makes objects first..last of a kind in a PG.
func (m *model) fill(pg meta.PG, k Kind, first, last int) {
	for n := first; n <= last; n++ {
		m.set(pg, objectN(pg.Pool, n), k)
	}
}

// take asks for n objects and describes them as kind:pg/object.
func take(q *Queue, n int, now env.Instant) (string, []Job) {
	var text []string
	var jobs []Job
	for range n {
		j, ok := q.Next(now)
		if !ok {
			text = append(text, "-")
			break
		}
		jobs = append(jobs, j)
		text = append(text, fmt.Sprintf("%s:%v/%d", j.Kind.String()[:1], j.PG, j.OID.Stripe>>17))
	}
	return strings.Join(text, " "), jobs
}

func (m *model) finish(q *Queue, jobs []Job, now env.Instant) {
	for _, j := range jobs {
		delete(m.objects[j.PG], j.OID)
		q.Done(j, true, now)
	}
}

var pg1, pg2, pg3 = meta.PG{Pool: 1, Num: 1}, meta.PG{Pool: 1, Num: 2}, meta.PG{Pool: 2, Num: 1}

func TestQueueOrder(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(m *model, q *Queue)
		take    int
		want    string
	}{
		"degraded of all PGs first": {func(m *model, q *Queue) {
			m.fill(pg1, Misplaced, 1, 2)
			m.fill(pg1, Degraded, 3, 3)
			m.fill(pg3, Degraded, 5, 6)
		}, 9, "d:1/1/3 d:2/1/5 d:2/1/6 m:1/1/1 m:1/1/2 -"},
		"another PG after PGSwitch": {func(m *model, q *Queue) {
			q.SetConfig(QueueConfig{PGSwitch: 2})
			m.fill(pg1, Degraded, 1, 5)
			m.fill(pg2, Degraded, 1, 1)
			m.fill(pg3, Degraded, 1, 3)
		}, 12, "d:1/1/1 d:1/1/2 d:1/2/1 d:2/1/1 d:2/1/2 d:1/1/3 d:1/1/4 d:2/1/3 d:1/1/5 -"},
		"PGSwitch 0 is 1": {func(m *model, q *Queue) {
			q.SetConfig(QueueConfig{})
			m.fill(pg1, Misplaced, 1, 2)
			m.fill(pg2, Misplaced, 1, 2)
		}, 9, "m:1/1/1 m:1/2/1 m:1/1/2 m:1/2/2 -"},
		"misplaced objects of a PG without a member": {func(m *model, q *Queue) {
			m.incomplete[pg1] = true
			m.fill(pg1, Misplaced, 1, 2)
			m.fill(pg1, Degraded, 7, 7)
			m.fill(pg2, Misplaced, 1, 1)
		}, 9, "d:1/1/7 m:1/2/1 -"},
		"full pools": {func(m *model, q *Queue) {
			m.full[1] = true
			m.fill(pg1, Degraded, 1, 2)
			m.fill(pg3, Misplaced, 1, 1)
		}, 9, "m:2/1/1 -"},
		"no_recovery": {func(m *model, q *Queue) {
			q.SetConfig(QueueConfig{PGSwitch: 9, NoRecovery: true})
			m.fill(pg1, Degraded, 1, 2)
			m.fill(pg1, Misplaced, 3, 3)
		}, 9, "m:1/1/3 -"},
		"no_rebalance": {func(m *model, q *Queue) {
			q.SetConfig(QueueConfig{PGSwitch: 9, NoRebalance: true})
			m.fill(pg1, Degraded, 1, 1)
			m.fill(pg1, Misplaced, 3, 3)
		}, 9, "d:1/1/1 -"},
		"nothing while a PG is flushed": {func(m *model, q *Queue) {
			q.SetFlushing(pg2, true)
			m.fill(pg1, Degraded, 1, 1)
		}, 9, "-"},
		"a stopped PG is not flushed any more": {func(m *model, q *Queue) {
			q.SetFlushing(pg2, true)
			q.Remove(pg2)
			m.fill(pg1, Degraded, 1, 1)
			m.fill(pg2, Degraded, 1, 1)
		}, 9, "d:1/1/1 -"},
	} {
		m := newModel()
		q := NewQueue(m, QueueConfig{PGSwitch: 128})
		for _, pg := range []meta.PG{pg3, pg1, pg2} {
			q.Add(pg)
		}
		c.prepare(m, q)
		if got, _ := take(q, c.take, 0); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Options that change while objects wait have effect at once.
func TestQueueOptionsChange(t *testing.T) {
	m := newModel()
	q := NewQueue(m, QueueConfig{PGSwitch: 9, NoRecovery: true, NoRebalance: true})
	m.fill(pg1, Degraded, 1, 2)
	m.fill(pg1, Misplaced, 3, 4)
	q.Add(pg1)
	step := func(change func(), want string) {
		t.Helper()
		change()
		got, jobs := take(q, 1, 0)
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
		m.finish(q, jobs, 0)
	}
	step(func() {}, "-")
	step(func() { q.SetConfig(QueueConfig{PGSwitch: 9, NoRecovery: true}) }, "m:1/1/3")
	step(func() { m.full[1] = true }, "-")
	step(func() { clear(m.full); q.SetConfig(QueueConfig{PGSwitch: 9}) }, "d:1/1/1")
	step(func() { q.SetFlushing(pg3, true) }, "-")
	step(func() { q.SetFlushing(pg3, false) }, "d:1/1/2")
	step(func() {}, "m:1/1/4")
	step(func() {}, "-")
}

func TestQueueObjectsAppearBehind(t *testing.T) {
	m := newModel()
	q := NewQueue(m, QueueConfig{PGSwitch: 9})
	m.fill(pg1, Degraded, 5, 6)
	q.Add(pg1)
	got, first := take(q, 1, 0)
	m.fill(pg1, Degraded, 1, 2) // without a word
	rest, more := take(q, 9, 0)
	if got+" "+rest != "d:1/1/5 d:1/1/6 -" {
		t.Errorf("%s %s", got, rest)
	}
	m.finish(q, first, 0)
	if rest, _ = take(q, 9, 0); rest != "-" { // the pass has not ended
		t.Error(rest)
	}
	m.finish(q, more, 0)
	rest, more = take(q, 9, 0)
	if rest != "d:1/1/1 d:1/1/2 -" {
		t.Error(rest)
	}
	m.finish(q, more, 0)
	if rest, _ = take(q, 9, 0); rest != "-" || len(q.pgs) != 0 {
		t.Errorf("%s, %d PGs are kept", rest, len(q.pgs))
	}
	m.fill(pg1, Misplaced, 3, 3)
	q.Add(pg1)
	if rest, _ = take(q, 9, 0); rest != "m:1/1/3 -" {
		t.Error(rest)
	}
}

// Add during a pass that has met nothing yet must not be forgotten.
func TestQueueAddDuringPass(t *testing.T) {
	m := newModel()
	q := NewQueue(m, QueueConfig{PGSwitch: 9})
	m.fill(pg1, Degraded, 5, 5)
	q.Add(pg1)
	_, jobs := take(q, 1, 0)
	m.finish(q, jobs, 0)
	m.fill(pg1, Degraded, 2, 2)
	q.Add(pg1)
	got, jobs := take(q, 9, 0)
	if got != "d:1/1/2 -" {
		t.Error(got)
	}
	m.finish(q, jobs, 0)
	if got, _ := take(q, 9, 0); got != "-" || q.Wake() != 0 {
		t.Error(got, q.Wake())
	}
}

func TestQueueFailures(t *testing.T) {
	m := newModel()
	q := NewQueue(m, QueueConfig{PGSwitch: 9})
	m.fill(pg1, Degraded, 1, 3)
	m.fill(pg1, Misplaced, 7, 7)
	q.Add(pg1)
	now := env.Instant(1000)
	got, jobs := take(q, 9, now)
	if got != "d:1/1/1 d:1/1/2 d:1/1/3 m:1/1/7 -" {
		t.Fatal(got)
	}
	if !q.Done(jobs[0], false, now) || q.Done(jobs[1], false, now) {
		t.Error("the first failure of a pass is not told")
	}
	m.finish(q, jobs[2:], now)
	if got, _ = take(q, 9, now); got != "-" || q.Wake() != now.Add(retryPause) {
		t.Errorf("%s, wake at %v", got, q.Wake())
	}
	q.Add(pg1) // that does not help
	if got, _ = take(q, 9, now.Add(retryPause-1)); got != "-" {
		t.Error(got)
	}
	now = now.Add(retryPause)
	got, jobs = take(q, 9, now)
	if got != "d:1/1/1 d:1/1/2 -" {
		t.Error(got)
	}
	m.finish(q, jobs, now)
	if got, _ = take(q, 9, now); got != "-" || q.Wake() != 0 || len(q.pgs) != 0 {
		t.Errorf("%s, wake at %v", got, q.Wake())
	}
}

// A PG in which everything fails is tried in portions, and gets to its end.
func TestQueueGivesUpPass(t *testing.T) {
	m := newModel()
	q := NewQueue(m, QueueConfig{PGSwitch: 9})
	const n = 2*failuresMax + 10
	m.fill(pg1, Degraded, 1, n)
	q.Add(pg1)
	tried := 0
	for now := env.Instant(0); now < env.Instant(3*retryPause); now = now.Add(retryPause) {
		for {
			j, ok := q.Next(now)
			if !ok {
				break
			}
			tried++
			if int(j.OID.Stripe>>17) != (tried-1)%n+1 {
				t.Fatalf("object %d is tried as number %d", j.OID.Stripe>>17, tried)
			}
			q.Done(j, false, now)
		}
	}
	if tried != n {
		t.Errorf("%d tries in three portions, want %d", tried, n)
	}
}

// Whatever happens, everything gets clean; no object is in work twice, nor more
// often than the pause allows when it fails; the order of kinds holds.
func TestQueueRandom(t *testing.T) {
	for seed := range uint64(300) {
		runQueue(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func runQueue(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	m := newModel()
	conf := QueueConfig{PGSwitch: 1 + r.IntN(5)}
	q := NewQueue(m, conf)
	pgs := []meta.PG{pg1, pg2, pg3}
	failures := map[meta.ObjectID]int{}
	lastFailure := map[meta.ObjectID]env.Instant{}
	running := map[meta.ObjectID]Job{}
	now := env.Instant(1)
	mark := func(pg meta.PG) {
		id := objectN(pg.Pool, int(pg.Num)*1000+r.IntN(40))
		if _, busy := running[id]; !busy {
			m.set(pg, id, Kind(r.IntN(2)))
			delete(lastFailure, id)
			failures[id] = max(r.IntN(6)-3, 0)
			q.Add(pg)
		}
	}
	finishOne := func() {
		ids := slices.SortedFunc(func(yield func(meta.ObjectID) bool) {
			for id := range running {
				if !yield(id) {
					return
				}
			}
		}, meta.ObjectID.Compare)
		id := ids[r.IntN(len(ids))]
		j := running[id]
		delete(running, id)
		ok := failures[id] == 0
		if ok {
			delete(m.objects[j.PG], id)
		} else {
			failures[id]--
			lastFailure[id] = now
		}
		q.Done(j, ok, now)
	}
	for step := range 3000 {
		now = now.Add(time.Duration(r.IntN(int(20 * time.Millisecond))))
		switch x := r.IntN(20); {
		case x < 3 && step < 1500:
			mark(pgs[r.IntN(3)])
		case x < 11 && len(running) < 4:
			j, ok := q.Next(now)
			if !ok {
				continue
			}
			if _, twice := running[j.OID]; twice || m.objects[j.PG][j.OID] != j.Kind {
				t.Errorf("step %d: wrong object %v", step, j)
			}
			if at, failed := lastFailure[j.OID]; failed && now.Sub(at) < retryPause {
				t.Errorf("step %d: %v is tried again after %v", step, j.OID, now.Sub(at))
			}
			delete(lastFailure, j.OID)
			running[j.OID] = j
		case len(running) > 0:
			finishOne()
		}
	}
	for range 10000 {
		if j, ok := q.Next(now); ok {
			running[j.OID] = j
		}
		if len(running) > 0 {
			finishOne()
		} else if q.Wake() == 0 {
			break
		} else {
			now = q.Wake()
		}
	}
	for pg, objects := range m.objects {
		if len(objects) > 0 {
			t.Errorf("%d objects are left in %v", len(objects), pg)
		}
	}
	if len(q.pgs) != 0 || len(running) != 0 {
		t.Errorf("the queue is not empty")
	}
}

func TestQueueAllocatesNothing(t *testing.T) {
	q := NewQueue(endless{}, QueueConfig{PGSwitch: 3})
	q.Add(pg1)
	q.Add(pg2)
	if n := testing.AllocsPerRun(100, func() {
		j, _ := q.Next(1)
		q.Done(j, true, 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// endless is a PG with as many degraded objects as one likes.
type endless struct{}

func (endless) Incomplete(meta.PG) bool    { return false }
func (endless) Suspended(meta.PoolID) bool { return false }
func (endless) Next(_ meta.PG, from meta.ObjectID, _ Kind) (meta.ObjectID, bool) {
	return meta.ObjectID{Inode: from.Inode, Stripe: from.Stripe&^meta.RoleMask + 1<<17}, true
}
