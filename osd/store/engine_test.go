package store

import (
	"syscall"
	"testing"

	"vitastor/internal/meta"
)

const newest = meta.NewestVersion

// modes are the kinds of stores that most tests run on.
var modes = []struct {
	name string
	opts []rigOption
}{
	{"plain", nil},
	{"csum4k", []rigOption{csum(4096)}},
	{"csum16k", []rigOption{csum(16384)}},
	{"in place", []rigOption{with(func(c *Config) { c.IntentDepth = 1 })}},
	{"in place, csum4k", []rigOption{csum(4096), with(func(c *Config) { c.IntentDepth = 1 })}},
	{"cached", []rigOption{cachedDisk}},
	{"cached, csum4k", []rigOption{cachedDisk, csum(4096)}},
	{"cached, csum16k, durable", []rigOption{cachedDisk, csum(16384), with(func(c *Config) { c.Commit = CommitAll })}},
}

func forModes(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { f(t, newRig(t, m.opts...)) })
	}
}

func (r *rig) sync() { r.t.Helper(); r.want(&Op{Kind: OpSync}, 0) }

// again checks something now, after a compaction, and after a restart.
func (r *rig) again(f func()) {
	r.t.Helper()
	f()
	r.sync()
	r.restart()
	r.check()
	f()
	r.want(&Op{Kind: OpCompact}, 0)
	f()
	r.restart()
	r.check()
	f()
	r.parse()
}

func TestReplicatedObject(t *testing.T) {
	forModes(t, func(t *testing.T, r *rig) {
		a, b, c := oid(1), oid(2), oid(3)
		r.want(stableOp(a, 1, 0, 131072, 10), 0)
		r.want(stableOp(a, 2, 8192, 4096, 11), 0)
		r.want(stableOp(a, 3, 4096, 12288, 12), 0)
		r.want(stableOp(a, 4, 0, 0, 13), 0)
		r.want(stableOp(b, 7, 16384, 8192, 20), 0)
		r.want(stableOp(b, 8, 20480, 4096, 21), 0)
		r.want(stableOp(c, 5, 0, 0, 30), 0)
		r.want(stableOp(c, 5, 0, 4096, 30), syscall.EEXIST)
		r.want(stableOp(c, 4, 0, 4096, 30), syscall.EEXIST)
		r.again(func() {
			r.expect(a, newest, 4, 13, [3]int{0, 32, 10}, [3]int{2, 1, 11}, [3]int{1, 3, 12})
			r.expect(b, newest, 8, 21, [3]int{4, 2, 20}, [3]int{5, 1, 21})
			r.expect(c, newest, 5, 30)
			r.expect(oid(4), newest, 0, 0)
		})
		r.want(stableOp(a, 5, 0, 131072, 14), 0)
		r.want(&Op{Kind: OpDelete, OID: b, Version: 9}, 0)
		r.want(&Op{Kind: OpDelete, OID: b, Version: 9}, 0)
		r.want(&Op{Kind: OpDelete, OID: oid(4), Version: 1}, 0)
		r.again(func() {
			r.expect(a, newest, 5, 14, [3]int{0, 32, 14})
			r.expect(b, newest, 0, 0)
		})
		r.want(stableOp(b, 1, 4096, 4096, 22), 0)
		r.again(func() { r.expect(b, newest, 1, 22, [3]int{1, 1, 22}) })
		if got := r.s.InodeBytes(a.Inode); got != 3*131072 {
			t.Errorf("inode takes %d bytes", got)
		}
	})
}

func TestErasureCodedObject(t *testing.T) {
	forModes(t, func(t *testing.T, r *rig) {
		a := oid(1)
		r.want(writeOp(OpWrite, a, 1, 0, 131072, 10), 0)
		r.want(writeOp(OpWrite, a, 2, 4096, 4096, 11), 0)
		r.want(stableOp(a, 3, 4096, 4096, 11), syscall.EINVAL)
		r.want(writeOp(OpWrite, a, 3, 8192, 4096, 12), 0)
		r.expect(a, 0, 0, 0)
		r.expect(a, 1, 1, 10, [3]int{0, 32, 10})
		r.expect(a, 2, 2, 11, [3]int{0, 32, 10}, [3]int{1, 1, 11})
		r.stabilize(a, 4, syscall.ENOENT)
		r.stabilize(oid(2), 1, syscall.ENOENT)
		r.stabilize(a, 2, 0)
		r.stabilize(a, 2, 0)
		r.stabilize(a, 1, 0)
		r.rollback(a, 1, syscall.EBUSY)
		r.again(func() {
			r.expect(a, newest, 3, 12, [3]int{0, 32, 10}, [3]int{1, 1, 11}, [3]int{2, 1, 12})
			r.expect(a, 2, 2, 11, [3]int{0, 32, 10}, [3]int{1, 1, 11})
		})
		r.rollback(a, 2, 0)
		r.rollback(a, 2, 0)
		r.want(writeOp(OpWrite, a, 3, 0, 131072, 13), 0)
		r.again(func() {
			r.expect(a, newest, 3, 13, [3]int{0, 32, 13})
			r.expect(a, 2, 2, 11, [3]int{0, 32, 10}, [3]int{1, 1, 11})
		})
		r.rollback(a, 2, 0) // a dropped block over a live one: D1
		r.again(func() { r.expect(a, newest, 2, 11, [3]int{0, 32, 10}, [3]int{1, 1, 11}) })
		r.want(writeOp(OpWrite, oid(5), 1, 0, 131072, 50), 0)
		r.expect(a, newest, 2, 11, [3]int{0, 32, 10}, [3]int{1, 1, 11})
		r.rollback(oid(5), 0, 0) // nothing is left: D2
		r.again(func() { r.expect(oid(5), newest, 0, 0) })
		r.rollback(oid(6), 0, syscall.ENOENT)
	})
}

// Two rollbacks over reused version numbers: D9.
func TestTwoRollbacks(t *testing.T) {
	forModes(t, func(t *testing.T, r *rig) {
		a := oid(1)
		for v := meta.Version(1); v <= 5; v++ {
			n := uint32(4096)
			if v == 1 {
				n = 131072
			}
			r.want(writeOp(OpWrite, a, v, 0, n, uint64(v)), 0)
		}
		r.rollback(a, 4, 0)
		r.want(writeOp(OpWrite, a, 5, 4096, 4096, 15), 0)
		r.rollback(a, 3, 0)
		r.again(func() { r.expect(a, newest, 3, 3, [3]int{0, 32, 1}, [3]int{0, 1, 3}) })
		r.stabilize(a, 3, 0)
		r.again(func() { r.expect(a, newest, 3, 3, [3]int{0, 32, 1}, [3]int{0, 1, 3}) })
	})
}
