package simcluster

import (
	"cmp"
	"fmt"
	"slices"

	"vitastor/internal/meta"
)

// The check of versions, per object with immediate commit that was never
// deleted (spec osd.md §2, §5, §18):
//
//   - no two acknowledged writes made the same version;
//   - a write that began after another operation ended makes a higher version
//     than that one returned, a read returns at least that;
//   - one version has one contents, whoever reads it (not for images with
//     parents: their version is read before the data, wire.md §6.3);
//   - an acknowledged compare-and-swap followed directly on the version it
//     expected: nothing has a version in between, and it is the next one of the
//     epoch or the first one of a newer epoch.

// object is what was done to one object, as far as versions are known.
type object struct {
	inode  meta.Inode
	index  int
	ops    []*Op
	broken bool // deleted, or written without a known version
}

// objects groups the operations with versions by object.
func (h *History) objects(granules func(meta.Inode) int) []*object {
	type key struct {
		inode meta.Inode
		index int
	}
	m := map[key]*object{}
	var all []*object
	for _, o := range h.Ops {
		if o.Kind == OpSync {
			continue
		}
		per := granules(o.Inode)
		for i := o.First / per; i*per < o.First+o.Count; i++ {
			k := key{o.Inode, i}
			x := m[k]
			if x == nil {
				x = &object{inode: o.Inode, index: i}
				m[k] = x
				all = append(all, x)
			}
			x.broken = x.broken || o.Kind == OpDelete
			inside := o.First/per == (o.First+o.Count-1)/per
			if inside && o.Outcome == Done && (o.Version != 0 || o.Kind == OpRead) {
				x.ops = append(x.ops, o)
			}
		}
	}
	return all
}

// check returns a text about the first contradiction, or "".
func (x *object) check(localReads, chained bool) string {
	if x.broken {
		return ""
	}
	for i, f := range []func() string{x.unique, func() string { return x.ascending(localReads) }, x.swaps, x.contents} {
		if text := f(); text != "" && !(chained && i == 3) {
			return fmt.Sprintf("object %v of inode %v: %s", x.index, x.inode, text)
		}
	}
	return ""
}

func (x *object) unique() string {
	by := map[uint64]*Op{}
	for _, o := range x.ops {
		if o.Kind != OpWrite {
			continue
		}
		if p := by[o.Version]; p != nil {
			return fmt.Sprintf("two writes made one version:\n  %v\n  %v", p, o)
		}
		by[o.Version] = o
	}
	return ""
}

// ascending compares each operation with the highest version returned before
// it began.
func (x *object) ascending(localReads bool) string {
	begins := slices.Clone(x.ops)
	ends := slices.Clone(x.ops)
	slices.SortFunc(begins, func(a, b *Op) int { return cmp.Compare(a.Begin, b.Begin) })
	slices.SortFunc(ends, func(a, b *Op) int { return cmp.Compare(a.End, b.End) })
	var highest *Op
	for _, o := range begins {
		for len(ends) > 0 && ends[0].End < o.Begin {
			e := ends[0]
			ends = ends[1:]
			if (highest == nil || e.Version > highest.Version) && !(localReads && e.Kind == OpRead) {
				highest = e
			}
		}
		if highest == nil {
			continue
		}
		if o.Version < highest.Version || o.Kind == OpWrite && o.Version == highest.Version {
			return fmt.Sprintf("version went back:\n  %v\n  %v", highest, o)
		}
	}
	return ""
}

func (x *object) contents() string {
	type key struct {
		version uint64
		granule int
	}
	type value struct {
		stamp Stamp
		op    *Op
	}
	m := map[key]value{}
	for _, o := range x.ops {
		for i := range o.Count {
			s := o.Stamp
			if o.Kind == OpRead {
				s = o.Seen[i]
			}
			k := key{o.Version, o.First + i}
			v, ok := m[k]
			if ok && v.stamp != s {
				return fmt.Sprintf("one version has two contents at granule %d:\n  %v\n  %v", k.granule, v.op, o)
			}
			m[k] = value{s, o}
		}
	}
	return ""
}

func (x *object) swaps() string {
	sorted := slices.Clone(x.ops)
	slices.SortStableFunc(sorted, func(a, b *Op) int { return cmp.Compare(a.Version, b.Version) })
	for _, o := range x.ops {
		if !o.Compare || o.Kind != OpWrite {
			continue
		}
		i, _ := slices.BinarySearchFunc(sorted, o.Expect+1, func(a *Op, v uint64) int { return cmp.Compare(a.Version, v) })
		if i < len(sorted) && sorted[i].Version < o.Version {
			return fmt.Sprintf("compare-and-swap skipped a version:\n  %v\n  %v", sorted[i], o)
		}
		from, to := meta.Version(o.Expect), meta.Version(o.Version)
		if to != from+1 && (to.Epoch() <= from.Epoch() || to.Counter() != 1) {
			return fmt.Sprintf("compare-and-swap made a version that does not follow the expected one: %v", o)
		}
	}
	return ""
}
