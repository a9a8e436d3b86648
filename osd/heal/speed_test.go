package heal

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// Recovery of a lost OSD, with default settings and without clients, is as fast as
// the disk that is filled: at least 70 % of its sequential speed (the simulator
// has latencies of disk and network, but no cost of CPU).
func TestRecoverySpeed(t *testing.T) {
	const bytesPerSecond, objects = 200e6, 400
	for name, pool := range map[string]schema.Pool{"replicated": rep2, "ec 2+1": ec21} {
		k := newCluster(t, 1, clusterConfig{pool: pool, csum: 4096, objects: objects + 16,
			net:     wideNet,
			options: func(o *Options) { o.Recovery.NoRecovery = true },
			disk:    sim.DiskConfig{Timing: sim.DiskTiming{BytesPerSecond: bytesPerSecond}}})
		k.lose(objects)
		k.recovery(true)
		k.w.RunFor(loadWindow) // at the beginning it is not known that there are no clients
		begin, left := k.w.Now(), k.objects().Counts().Degraded
		k.settle()
		took := k.w.Now() - begin
		speed := float64(left) * float64(pool.BlockBytes) / took.Seconds()
		t.Logf("%s: %d objects in %v: %.0f MB/s, %.0f %% of the disk", name, left, took.Round(time.Millisecond), speed/1e6, 100*speed/bytesPerSecond)
		if speed < 0.7*bytesPerSecond {
			t.Errorf("%s: %.0f MB/s is less than 70 %% of the disk's %.0f", name, speed/1e6, bytesPerSecond/1e6)
		}
	}
}

// lose makes objects 0..n-1, of which the last OSD has nothing.
func (c *cluster) lose(n int) {
	last := c.pool.PGSize - 1
	content := c.content(0)
	for i := range n { // all alike: it takes less time to make them
		for role, o := range c.osds[:last] {
			o.write(c.chunk(i, role), version1, content[role])
		}
	}
	c.do(func() {
		for i := range n {
			var locs []peering.Location
			for role := range last {
				locs = append(locs, peering.Location{OSD: c.osds[role].num, Role: c.chunk(i, role).Role()})
			}
			c.objects().Created()
			c.objects().SetLocations(c.object(i), locs)
		}
		c.h.Recoverable(onlyPG)
	})
}

// Clients that write while objects are recovered wait at most twice as long as
// without, 99 times of 100.
func TestClientsBesideRecovery(t *testing.T) {
	for name, pool := range map[string]schema.Pool{"replicated": rep2, "ec 2+1": ec21} {
		const objects = 1200
		k := newCluster(t, 1, clusterConfig{pool: pool, objects: objects + 100, net: wideNet, options: func(o *Options) { o.Recovery.NoRecovery = true }})
		k.lose(objects)
		for n := objects; n < objects+64; n++ {
			for role, o := range k.osds {
				o.write(k.chunk(n, role), version1, k.content(0)[role])
			}
		}
		a := k.newClient()
		for _, o := range k.osds {
			o.node.Do(func(*env.Env) { o.s.SetRecovery(tuned) })
		}
		before := a.latencies(1000, objects)
		k.recovery(true)
		during := a.latencies(1000, objects)
		left := k.objects().Counts().Degraded
		if left == 0 || left == objects {
			t.Errorf("%s: %d of %d objects are left: nothing was measured", name, left, objects)
		}
		t.Logf("%s: p50 %v -> %v, p99 %v -> %v; %d of %d objects recovered meanwhile", name, before[500], during[500],
			before[990], during[990], objects-left, objects)
		if during[990] > 2*before[990] {
			t.Errorf("%s: p99 %v during recovery, %v without", name, during[990], before[990])
		}
	}
}

// tuned are the defaults.
var tuned = option.Recovery{TuneInterval: time.Second, TuneUtilLow: 0.1, TuneUtilHigh: 1, TuneClientUtilHigh: 0.5,
	TuneAggInterval: 10, TuneSleepMin: 10 * time.Microsecond, TuneSleepCutoff: 10 * time.Second}

// latencies of n writes of 4 KiB to one of the 64 objects from first on, one
// after another, sorted.
func (k *client) latencies(n, first int) []time.Duration {
	var all []time.Duration
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 4096)
	var begin time.Duration
	op := &msgr.Op{Payload: [][]byte{data}}
	next := func() {
		id := k.c.object(first + r.IntN(64))
		(&wire.Rw{Op: wire.OpWrite, Inode: id.Inode, Offset: id.Stripe + uint64(r.IntN(32))*4096, Len: 4096}).Encode(&op.Packet)
		begin = k.c.w.Now()
		k.up[1].Submit(op)
	}
	op.Done = func(op *msgr.Op) {
		if op.Retval != 4096 {
			k.c.t.Errorf("write: %v", op.Retval)
		}
		if all = append(all, k.c.w.Now()-begin); len(all) < n {
			next()
		}
	}
	k.n.Do(func(*env.Env) { next() })
	if !k.c.w.RunUntil(func() bool { return len(all) == n }, time.Hour) {
		k.c.t.Fatal("writes do not end")
	}
	slices.Sort(all)
	return all
}

// wideNet has buffers that do not limit one connection; by default, a seed
// may make them so small that they do.
var wideNet = sim.NetConfig{BufferBytes: 16 << 20}
