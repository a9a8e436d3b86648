package stats

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/osd/primary"
)

// space is osd/space: pools of applications count as one inode with number 0.
func space(inodes func(yield func(i meta.Inode, bytes uint64) bool), pool func(meta.PoolID) *schema.Pool) (list []schema.InodeBytes) {
	sums := map[meta.Inode]uint64{}
	for i, n := range inodes {
		if p := pool(i.Pool()); p != nil && p.UsedForApp != "" {
			i = meta.MakeInode(i.Pool(), 0)
		}
		if n > 0 {
			sums[i] += n
		}
	}
	for _, i := range slices.Sorted(maps.Keys(sums)) {
		list = append(list, schema.InodeBytes{Inode: i, Bytes: sums[i]})
	}
	return list
}

// vanishing are inodes without data, and since when.
type vanishing map[meta.Inode]vanished

type vanished struct {
	since env.Instant
	ops   uint64
}

// prune removes statistics of inodes that have had no data for some time, and
// on which nobody works any more.
func (v vanishing) prune(now env.Instant, after time.Duration, all map[meta.Inode]*primary.InodeStats, bytes func(meta.Inode) uint64) {
	for i, s := range all {
		ops := s.Read.Count + s.Write.Count + s.Delete.Count
		old, waits := v[i]
		switch {
		case bytes(i) > 0:
			delete(v, i)
		case !waits || old.ops != ops:
			v[i] = vanished{now, ops}
		case now.Sub(old.since) >= after:
			delete(v, i)
			delete(all, i)
		}
	}
	for i := range v {
		if all[i] == nil {
			delete(v, i)
		}
	}
}

// inodeIO is osd/inodestats.
func inodeIO(all map[meta.Inode]*primary.InodeStats) (list []schema.InodeIO) {
	for i, s := range all {
		list = append(list, schema.InodeIO{Inode: i, Read: counters(s.Read), Write: counters(s.Write), Delete: counters(s.Delete)})
	}
	slices.SortFunc(list, func(a, b schema.InodeIO) int { return cmp.Compare(a.Inode, b.Inode) })
	return list
}

func counters(o primary.OpStats) schema.Counters {
	return schema.Counters{Count: o.Count, Usec: o.Nanos / 1000, Bytes: o.Bytes}
}
