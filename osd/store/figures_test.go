package store

import (
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// bigRig is a store with n data blocks of 128 KiB and metadata as the tool
// would prepare it.
func bigRig(t testing.TB, n int64, opts ...rigOption) *rig {
	return newRig(t, append([]rigOption{func(c *Config, d *sim.DiskConfig) {
		c.BufferPoolBytes = 64 << 20
		c.Areas = Areas{BufferOffset: 4096, BufferLen: 32 << 20, MetaOffset: 4096 + 32<<20, MetaLen: 16 << 20,
			DataOffset: 4096 + 48<<20, DataLen: n * 128 << 10}
		d.Timing.WriteLatency, d.Timing.OpTime = 30e3, 1e3
	}}, opts...)...)
}

// load keeps depth writes in flight: each next one is chosen by next.
func (r *rig) load(depth, count int, next func(i int, op *Op)) {
	r.t.Helper()
	left, i := count, 0
	r.node.Do(func(*env.Env) {
		for range depth {
			op := &Op{}
			op.Done = func(op *Op) {
				if op.Err != 0 {
					r.t.Fatalf("write failed: %v", op.Err)
				}
				if left--; i < count {
					i++
					next(i-1, op)
					r.s.Submit(op)
				}
			}
			i++
			next(i-1, op)
			r.s.Submit(op)
		}
	})
	if !r.w.RunUntil(func() bool { return left == 0 }, 1e12) {
		r.t.Fatalf("%d writes do not finish", left)
	}
}

// amplification of a phase: bytes submitted to the disk per byte written.
func (r *rig) amplification(f func()) float64 {
	r.t.Helper()
	user, disk := r.s.Counters().UserWriteBytes, r.disks[0].Stats().WriteBytes
	f()
	r.w.RunFor(1e9)
	return float64(r.disks[0].Stats().WriteBytes-disk) / float64(r.s.Counters().UserWriteBytes-user)
}

// Write amplification, everything included, stays within its figures: near 1
// for new blocks and at depth, and with compaction for a single writer.
func TestWriteAmplification(t *testing.T) {
	for _, m := range []struct {
		name string
		opts []rigOption
	}{{"plain", nil}, {"csum4k", []rigOption{csum(4096)}}} {
		t.Run(m.name, func(t *testing.T) {
			const objects = 2000
			r := bigRig(t, objects+100, m.opts...)
			data, small := aligned(128<<10), aligned(4096)
			versions := make([]meta.Version, objects)
			bitmap := []byte{255, 255, 255, 255}
			fill := r.amplification(func() {
				r.load(4, objects, func(i int, op *Op) {
					versions[i]++
					op.Kind, op.OID, op.Version, op.Len, op.Buf, op.Bitmap = OpWriteStable, oid(uint64(i)), versions[i], 128<<10, data, bitmap
				})
			})
			rng := r.w.Rand()
			inUse := map[int]bool{}
			overwrite := func(depth, count int) float64 {
				slots := map[*Op]int{}
				return r.amplification(func() {
					r.load(depth, count, func(i int, op *Op) {
						delete(inUse, slots[op])
						n := rng.IntN(objects)
						for inUse[n] {
							n = rng.IntN(objects)
						}
						inUse[n], slots[op] = true, n
						versions[n]++
						op.Kind, op.OID, op.Version, op.Offset = OpWriteStable, oid(uint64(n)), versions[n], uint32(rng.IntN(32))*4096
						op.Len, op.Buf, op.Bitmap = 4096, small, bitmap
					})
				})
			}
			shallow := overwrite(1, 2000)
			deep8, deep16 := overwrite(8, 6000), overwrite(16, 6000)
			deep32 := overwrite(32, 10000)
			deep128 := overwrite(128, 10000)
			c := r.s.Counters()
			t.Logf("128 KiB: %.3f; 4 KiB: depth 1 %.3f, depth 8 %.3f, depth 16 %.3f, depth 32 %.3f, depth 128 %.3f; in place %d, buffered %d, compactions %d, meta writes %d",
				fill, shallow, deep8, deep16, deep32, deep128, c.IntentWrites, c.SmallWrites, c.Compactions, c.MetaWrites)
			if fill > 1.05 || deep32 > 1.15 || deep128 > 1.15 || shallow > 4.1 {
				t.Error("write amplification is too high")
			}
			r.check()
		})
	}
}

// A single small overwrite is acknowledged after one disk latency: its entry
// and its data are on the way together.
func TestOneLatency(t *testing.T) {
	r := newRig(t)
	r.want(stableOp(oid(1), 1, 0, 131072, 1), 0)
	op, finished := stableOp(oid(1), 2, 4096, 4096, 2), false
	op.Done = func(*Op) { finished = true }
	r.node.Do(func(*env.Env) { r.s.Submit(op) })
	if n := r.disks[0].InFlight(); n != 2 {
		t.Fatalf("%d requests are in flight", n)
	}
	for r.disks[0].InFlight() > 0 {
		r.w.Step()
	}
	r.w.RunFor(1)
	if !finished {
		t.Error("it needs more than these two requests")
	}
}
