package store

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
)

// A process is killed after every few events of a busy life, its start and its
// verification included, and nothing of its memory stays.
func TestFreeInTheMiddle(t *testing.T) {
	for _, opts := range [][]rigOption{{csum(4096), with(func(c *Config) { c.IntentDepth = -1 })}, {cachedDisk, csum(4096)}} {
		r := newRig(t, opts...)
		r.node.Crash()
		r.s.Free()
		before := pinned.Bytes()
		r.node.Restart()
		r.mustOpen()
		for n := range 40 {
			var ops []*Op
			r.node.Do(func(*env.Env) {
				for i := range uint64(24) {
					op := stableOp(oid(i+1), meta.Version(n+1)<<16, uint32(n%8)*4096, 4096<<(i%5), i)
					op.Done = func(*Op) {}
					ops = append(ops, op)
					r.s.Submit(op)
				}
				for i := range uint64(8) {
					buf := aligned(32 << 10)
					op := &Op{Kind: OpRead, OID: oid(i + 1), Version: meta.NewestVersion, Len: 32 << 10, Buf: buf, Done: func(*Op) {}}
					ops = append(ops, op)
					r.s.Submit(op)
				}
			})
			for range n * 7 {
				r.w.Step()
			}
			r.node.Crash()
			r.s.Free()
			for _, op := range ops {
				pinned.Free(op.Buf)
			}
			if got := pinned.Bytes(); got != before {
				t.Fatalf("round %d: %d bytes more than before", n, got-before)
			}
			// The next start is killed, too, then there is one that succeeds.
			r.node.Restart()
			var o *Opening
			r.node.Do(func(e *env.Env) {
				d, err := e.Storage.OpenDisk("disk", env.DiskOptions{})
				if err != nil {
					t.Fatal(err)
				}
				o = Open(e, Disks{d, d, d}, r.cfg, func(s *Store, err error) { r.s = s })
			})
			r.s = nil
			for i := 0; i < n*3 && r.s == nil; i++ {
				r.w.Step()
			}
			r.node.Crash()
			o.Free()
			if r.s != nil {
				r.s.Free()
			}
			if got := pinned.Bytes(); got != before {
				t.Fatalf("round %d: %d bytes more than before a killed start", n, got-before)
			}
			r.node.Restart()
			r.mustOpen()
			r.w.RunFor(time.Millisecond)
		}
	}
}
