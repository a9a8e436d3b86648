package primary

import (
	"runtime"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
)

// chainView adds images with a parent each to what realView knows.
type chainView struct {
	realView
	images map[meta.Inode]*schema.SeenInode
}

func (v chainView) Inode(i meta.Inode) *schema.SeenInode { return v.images[i] }

// A read through layers allocates as little as others do.
func TestChainedReadsDoNotAllocate(t *testing.T) {
	for _, scheme := range []meta.Scheme{meta.Replicated, meta.EC} {
		t.Run(scheme.String(), func(t *testing.T) { chainedReadsDoNotAllocate(t, scheme) })
	}
}

func chainedReadsDoNotAllocate(t *testing.T, scheme meta.Scheme) {
	size, parity := 2, 0
	if scheme == meta.EC {
		size, parity = 3, 1
	}
	osds := startCluster(t, memoryDir(t), scheme, size, parity, meta.CommitAll)
	child, parent := meta.MakeInode(1, 8), inode(1)
	images := map[meta.Inode]*schema.SeenInode{
		child: {InodeConfig: schema.InodeConfig{ID: child, Parent: parent}, Rev: 5}}
	onLoop(t, osds[0].l, func(finish func(error)) {
		osds[0].pri.view = chainView{realView{osds[0]}, images}
		finish(nil)
	})
	cl := startClient(t, osds[0])
	slots := newSlots(4, testBlock)
	object := osds[0].pool.ObjectBytes()
	cl.run(slots, 4, func(s *slot) { s.request(wire.OpWrite, object, 0, 65536) }) // the parent
	cl.run(slots, 4, func(s *slot) {                                              // granules 2 and 3 of the image
		s.payload[0] = s.data[:8192]
		s.op.Payload, s.op.Body = s.payload[:], nil
		(&wire.Rw{Op: wire.OpWrite, Inode: child, Offset: uint64(s.i)*object + 8192, Len: 8192}).Encode(&s.op.Packet)
	})
	run := func(n int) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cl.run(slots, n, func(s *slot) {
			s.body[0] = s.data[:32768]
			s.op.Payload, s.op.Body = nil, s.body[:]
			(&wire.Rw{Op: wire.OpRead, Inode: child, Offset: uint64(s.i) * object, Len: 32768, MetaRevision: 5}).Encode(&s.op.Packet)
		})
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	const n = 1000
	run(n)
	least := run(n)
	for range 3 {
		least = min(least, run(n))
	}
	if least > n/20 {
		t.Errorf("%v: %d allocations in %d reads", scheme, least, n)
	}
	t.Logf("%v: %d allocations in %d reads", scheme, least, n)
}
