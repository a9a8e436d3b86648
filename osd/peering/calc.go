package peering

import (
	"fmt"
	"slices"

	"vitastor/internal/ec"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// Calc finds the state of every object of a PG from what all its peers list
// (osd.md §11.1). Use: Open, Add, Close for each peer; Step until done; Result.
type Calc struct {
	layout  Layout
	lists   listings
	objects *Objects
	sum     Summary
	started bool
	pieces  []copyItem // scratch
	locs    []Location // scratch
}

// Summary is what the Machine has to know of a calculation.
type Summary struct {
	// MaxEpoch is the highest epoch of all versions listed.
	MaxEpoch uint64
	// Flags are the has_... bits of the PG.
	Flags meta.PGState
	// Invalid says what cannot be in this pool; "" = nothing. The PG must not
	// become active.
	Invalid string
}

// NewCalc begins a calculation. Its Objects take memory from arena.
func NewCalc(l Layout, arena *Arena) *Calc {
	invariant.Must(l.DataChunks > 0 && l.PGStripeBytes > 0 && l.PGCount > 0 && l.CurSize() >= l.DataChunks,
		"peering: a PG without enough OSDs, without chunks or a place in its pool")
	c := &Calc{objects: newObjects(l, arena)}
	c.layout = c.objects.Layout
	return c
}

// Step works on about the given number of objects and returns whether all are
// done. 1000 with three copies take about 0.2 ms.
func (c *Calc) Step(objects int) (done bool) {
	if !c.started {
		c.lists.start()
		c.started = true
	}
	for range objects {
		id, items, ok := c.lists.next()
		if !ok {
			c.lists.free()
			c.sum.Flags = c.objects.Flags()
			return true
		}
		c.object(id, items)
	}
	return false
}

// Result returns the objects, which the caller has to Free, after Step is done.
func (c *Calc) Result() (*Objects, Summary) {
	o := c.objects
	c.objects = nil
	return o, c.sum
}

// Free drops a calculation: an unfinished one, or one whose Result was taken.
func (c *Calc) Free() {
	c.lists.free()
	if c.objects != nil {
		c.objects.Free()
		c.objects = nil
	}
}

// object decides about one object.
func (c *Calc) object(id meta.ObjectID, items []copyItem) {
	if c.isClean(items) {
		c.objects.total++
		return
	}
	slices.SortFunc(items, byVersion)
	items = slices.CompactFunc(items, func(a, b copyItem) bool {
		return a.version == b.version && a.role == b.role && a.osd == b.osd
	})
	current, target := c.findTarget(id, items)
	c.locs = c.locs[:0]
	for _, it := range current {
		c.locs = append(c.locs, Location{OSD: it.osd, Role: it.role})
	}
	c.settlePieces(id, items, target)
	if target < items[0].version {
		c.objects.overrides.set(id, uint64(target))
	}
	if target == meta.NoVersion {
		return // only rollbacks remain
	}
	c.objects.total++
	c.objects.SetLocations(id, c.locs)
}

// isClean recognises what nearly all objects are like: one stable version on
// exactly the current set.
func (c *Calc) isClean(items []copyItem) bool {
	for i := range items {
		it := &items[i]
		if !it.stable || it.version != items[0].version || !c.layout.belongs(it.role, it.osd) {
			return false
		}
		for j := range i {
			if items[j].role == it.role && items[j].osd == it.osd {
				return false // listed twice
			}
		}
	}
	return len(items) == c.layout.CurSize()
}

// findTarget returns the newest version that is known to be complete: some part
// of it is stable, or there are enough chunks to decode it. It is the version
// that clients see from now on; newer ones were never acknowledged.
func (c *Calc) findTarget(id meta.ObjectID, items []copyItem) ([]copyItem, meta.Version) {
	for len(items) > 0 {
		n, stable := 0, false
		var roles ec.RoleSet
		for ; n < len(items) && items[n].version == items[0].version; n++ {
			it := &items[n]
			if c.layout.impossible(it.role) {
				c.invalid(id, it)
			} else {
				roles.Add(int(it.role))
			}
			stable = stable || it.stable
		}
		if stable || c.layout.Scheme != meta.Replicated && roles.Len() >= c.layout.DataChunks {
			return items[:n], items[0].version
		}
		items = items[n:]
	}
	return nil, meta.NoVersion
}

func (c *Calc) invalid(id meta.ObjectID, it *copyItem) {
	if c.sum.Invalid == "" {
		c.sum.Invalid = fmt.Sprintf("OSD %d has chunk %d of object %v, but the pool has %d chunks "+
			"(scheme %v): the pool's scheme or pg_size was changed while it had data; change it back",
			it.osd, it.role, id, len(c.layout.CurSet), c.layout.Scheme)
	}
}

// settlePieces looks at each chunk on each OSD: what has to be flushed there,
// and whether it only has an older version.
func (c *Calc) settlePieces(id meta.ObjectID, items []copyItem, target meta.Version) {
	c.pieces = append(c.pieces[:0], items...)
	slices.SortFunc(c.pieces, byPiece)
	for rest := c.pieces; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].role == rest[0].role && rest[n].osd == rest[0].osd {
			n++
		}
		c.piece(id, rest[:n], target)
		rest = rest[n:]
	}
}

// piece has all versions of one chunk, newest first.
func (c *Calc) piece(id meta.ObjectID, versions []copyItem, target meta.Version) {
	newest, stable, kept := versions[0].version, meta.NoVersion, meta.NoVersion
	for _, v := range versions {
		if v.stable {
			stable = max(stable, v.version)
		}
		if v.version <= target {
			kept = max(kept, v.version)
		}
	}
	role, osd := versions[0].role, versions[0].osd
	if newest > target {
		c.flush(id.WithRole(role), osd, kept, true)
	}
	if stable < kept {
		c.flush(id.WithRole(role), osd, kept, false)
	}
	// EC: the chunk that the current set wants is rewritten by recovery, so it is
	// not an extra copy. (A DELETE goes there all the same: AppendDelete.)
	wanted := c.layout.Scheme != meta.Replicated && c.layout.belongs(role, osd)
	if kept != meta.NoVersion && kept < target && !wanted {
		c.locs = append(c.locs, Location{OSD: osd, Role: role, Bad: meta.LocOutdated})
	}
}

func (c *Calc) flush(chunk meta.ObjectID, osd meta.OSDNum, v meta.Version, rollback bool) {
	q := &c.objects.flush
	q.items = append(q.items, FlushItem{meta.ObjectVersion{ObjectID: chunk, Version: v}, osd, rollback})
}
