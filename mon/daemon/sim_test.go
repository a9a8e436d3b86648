package daemon_test

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

func TestPlacesPools(t *testing.T) {
	r := newRig(t, 1, 1)
	r.startMons()
	r.addOSDs(6, 2)
	r.pool(1, replicated(2, 16))
	r.until("pool 1 is placed", 10*time.Second, func() bool { return r.placed(1, 16, 2) })
	r.until("all PGs are active", 5*time.Second, func() bool { return r.active(1) })
	r.pool(2, `{"name":"ec","scheme":"ec","pg_size":3,"parity_chunks":1,"pg_minsize":2,"pg_count":8}`)
	r.until("pool 2 is placed", 5*time.Second, func() bool { return r.placed(2, 8, 3) && r.active(2) })
}

// When an OSD's key vanishes, its PGs get other primaries at once.
func TestFailover(t *testing.T) {
	r := newRig(t, 2, 1)
	r.startMons()
	r.addOSDs(6, 2)
	r.pool(1, replicated(2, 64))
	r.until("all is well", 15*time.Second, func() bool { return r.placed(1, 64, 2) && r.active(1) && r.up() == 6 })
	r.RunFor(3 * time.Second)
	worst := time.Duration(0)
	for num := meta.OSDNum(1); num <= 6; num++ {
		o := r.osds[num]
		lease := o.lease
		o.node.Crash()
		r.revoke(lease)
		at := r.Now()
		r.until("no primary is dead", time.Second, func() bool { return !r.primaries()[num] })
		worst = max(worst, r.Now()-at)
		r.until("all PGs run", time.Second, func() bool { return r.running(1) })
		o.node.Restart()
		r.until("it is back", 10*time.Second, func() bool { return r.active(1) && r.primaries()[num] })
	}
	t.Logf("new primaries after %v", worst)
	if worst > 50*time.Millisecond {
		t.Errorf("new primaries took %v", worst)
	}
}

func (r *rig) up() (n int) {
	for num := range r.osds {
		if r.get(keys.OSDState(num)) != nil {
			n++
		}
	}
	return n
}

func (r *rig) primaries() map[meta.OSDNum]bool {
	list := map[meta.OSDNum]bool{}
	for _, p := range r.config().Pools {
		for i := range p.PGs {
			list[p.PGs[i].Primary] = true
		}
	}
	return list
}

// running tells whether each PG of a pool runs on its primary.
func (r *rig) running(id meta.PoolID) bool {
	p := r.config().Pool(id)
	for i := range p.PGs {
		if s := r.state(meta.PG{Pool: id, Num: p.PGs[i].Num}); s.Primary != p.PGs[i].Primary || s.State&meta.PGActive == 0 {
			return false
		}
	}
	return true
}

// revoke is what a sentinel does for a dead OSD.
func (r *rig) revoke(lease env.LeaseID) {
	n := r.NewNode(fmt.Sprint("sentinel", lease))
	n.Do(func(e *env.Env) { e.KV.Revoke(lease, time.Second, func(error) {}) })
}
