package primary

import (
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// BenchmarkRecovery recovers objects whose last copy or chunk is missing, 16 at a
// time. Bytes are those of the chunk.
func BenchmarkRecovery(b *testing.B) {
	b.Run("replicated 2", func(b *testing.B) { benchmarkRecovery(b, meta.Replicated, 2, 0) })
	b.Run("EC 2+1", func(b *testing.B) { benchmarkRecovery(b, meta.EC, 3, 1) })
}

func benchmarkRecovery(b *testing.B, scheme meta.Scheme, size, parity int) {
	osds := startCluster(b, memoryDir(b), scheme, size, parity, meta.CommitAll)
	cl := startClient(b, osds[0])
	object := osds[0].pool.ObjectBytes()
	const depth = 16
	slots := newSlots(depth, int(object))
	cl.run(slots, depth, func(s *slot) { s.request(wire.OpWrite, object, 0, int(object)) })
	pri, pg := osds[0].pri, meta.PG{Pool: 1, Num: 1}
	var good []peering.Location
	for i := range size - 1 {
		l := peering.Location{OSD: osds[i].num}
		if parity > 0 {
			l.Role = meta.Role(i)
		}
		good = append(good, l)
	}
	b.SetBytes(testBlock)
	b.ReportAllocs()
	b.ResetTimer()
	onLoop(b, osds[0].l, func(finish func(error)) {
		left, running := b.N, 0
		var all [depth]Recovery
		begin := func(r *Recovery) {
			left--
			running++
			pri.Objects(pg).SetLocations(r.OID, good)
			pri.Recover(r)
		}
		for i := range all {
			r := &all[i]
			r.PG, r.OID = pg, meta.ObjectID{Inode: inode(1), Stripe: uint64(i) * object}
			r.Done = func(r *Recovery) {
				running--
				switch {
				case r.Err != wire.OK:
					b.Errorf("%v", r.Err)
					left = 0
				case left > 0:
					begin(r)
					return
				}
				if running == 0 {
					finish(nil)
				}
			}
		}
		for i := range all {
			if left > 0 {
				begin(&all[i])
			}
		}
	})
}
