package statsum

import (
	"cmp"
	"maps"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// maxInodes limits one transaction; the rest follows with the next ones. (etcd
// takes env.KVMaxTxnOps operations, but answers nobody else meanwhile.)
const maxInodes = 10_000

const bytesPerTB = 1 << 40

// Txn is a write of everything that differs from what is stored, guarded by the
// master's lease and by the revisions of the pool/stats that it replaces; nil
// when nothing differs. One at a time: the next one after the answer.
func (s *Sums) Txn(lease env.LeaseID) *env.Txn {
	s.refresh()
	w := schema.StatsWrite{Stats: s.total()}
	s.collectInodes(&w)
	s.collectPools(&w)
	if len(w.Inodes)+len(w.GoneInodes)+len(w.Pools)+len(w.GonePools) == 0 &&
		s.stored != nil && sameStats(s.stored, &w.Stats) {
		s.changed = false
		return nil
	}
	t := s.keys.PutStats(&w, lease)
	return &t
}

// collectInodes finds dirty inodes that really differ and forgets the others.
func (s *Sums) collectInodes(w *schema.StatsWrite) {
	w.Inodes = map[meta.Inode]schema.InodeStats{}
	for _, id := range slices.SortedFunc(maps.Keys(s.dirty), cmp.Compare) {
		if len(w.Inodes)+len(w.GoneInodes) == maxInodes {
			return
		}
		in := s.dirty[id]
		stats := in.stats()
		switch wanted := in.wanted(); {
		case wanted && !(in.hasStored && in.stored == stats):
			w.Inodes[id] = stats
		case !wanted && in.hasStored:
			w.GoneInodes = append(w.GoneInodes, id)
		default:
			delete(s.dirty, id)
			if in.forgettable() {
				delete(s.inodes, id)
			}
		}
	}
}

// collectPools renews used_raw_tb of pool/stats that exist: the rest of them
// belongs to the distribution, which also makes them.
func (s *Sums) collectPools(w *schema.StatsWrite) {
	w.Pools, w.SeenPools = map[meta.PoolID]schema.PoolStats{}, map[meta.PoolID]int64{}
	for _, id := range slices.Sorted(maps.Keys(s.storedPools)) {
		old := s.storedPools[id]
		used, seen := s.used[id]
		if !seen && !s.configured(id) {
			w.GonePools = append(w.GonePools, id)
			w.SeenPools[id] = old.revision
			continue
		}
		now := old.stats
		now.UsedRawTB = float64(used) / bytesPerTB
		if now != old.stats {
			w.Pools[id] = now
			w.SeenPools[id] = old.revision
		}
	}
}

// configured: also a pool that is not valid.
func (s *Sums) configured(id meta.PoolID) bool {
	return s.pools.Valid[id] != nil || s.pools.Invalid[id] != nil
}

// total is the key stats: OSDs that are up, and all PGs (monitor.md 7.2, 7.3).
func (s *Sums) total() schema.Stats {
	ops, subops, recovery := map[string]opSum{}, map[string]opSum{}, map[string]opSum{}
	for _, o := range s.osds {
		if o.up {
			addAll(ops, o.rates.ops)
			addAll(subops, o.rates.subops)
			addAll(recovery, o.rates.recovery)
		}
	}
	t := schema.Stats{Ops: countersOf(ops), Subops: countersOf(subops)}
	for name, c := range t.Subops {
		c.Bytes, c.BPS = 0, 0
		t.Subops[name] = c
	}
	degraded, misplaced := recovery["degraded"], recovery["misplaced"]
	t.Degraded, t.Misplace = degraded.counters(), misplaced.counters()
	for _, c := range []*schema.Counters{&t.Degraded, &t.Misplace} {
		c.Usec, c.LatUsec = 0, 0
	}
	for id, n := range s.objects {
		addObjects(&t.Counts, n, 1)
		addObjects(&t.Bytes, n, s.objectBytes(id))
	}
	return t
}

func addAll(sums map[string]opSum, of map[string]schema.Counters) {
	for name, c := range of {
		sum, more := sums[name], sumOf(&c)
		sum.add(&more)
		sums[name] = sum
	}
}

func countersOf(sums map[string]opSum) map[string]schema.Counters {
	all := make(map[string]schema.Counters, len(sums))
	for name, sum := range sums {
		all[name] = sum.counters()
	}
	return all
}

func addObjects(to, n *schema.ObjectTotals, times uint64) {
	to.All += n.All * times
	to.Clean += n.Clean * times
	to.Misplaced += n.Misplaced * times
	to.Degraded += n.Degraded * times
	to.Incomplete += n.Incomplete * times
}

// objectBytes is the image data in one object of the pool. Compat: of a pool
// that is gone or not valid it is a block of the default size.
func (s *Sums) objectBytes(id meta.PoolID) uint64 {
	if p := s.pools.Valid[id]; p != nil {
		return p.ObjectBytes()
	}
	return uint64(s.global.BlockBytes)
}

// sameStats compares what is visible in etcd.
func sameStats(a, b *schema.Stats) bool {
	return a.Degraded == b.Degraded && a.Misplace == b.Misplace && a.Counts == b.Counts && a.Bytes == b.Bytes &&
		maps.Equal(a.Ops, b.Ops) && maps.Equal(a.Subops, b.Subops)
}
