package peering

import (
	"slices"

	"vitastor/internal/meta"
)

// Objects is what the primary knows about the objects of one PG after peering.
// An object that is in none of the maps is clean: exactly on the current set,
// all copies of the newest version.
type Objects struct {
	Layout
	total     uint64
	states    objectMap // -> index of record
	overrides objectMap // -> version
	records   records
	flush     flushQueue
	scratch   []Location
}

func newObjects(l Layout, arena *Arena) *Objects {
	l.CurSet = slices.Clone(l.CurSet)
	o := &Objects{Layout: l}
	o.states.arena, o.overrides.arena = arena, arena
	o.records.layout = &o.Layout
	return o
}

// Free gives the memory back to the Arena. The Objects must not be used any more.
func (o *Objects) Free() {
	o.states.clear()
	o.overrides.clear()
	o.records, o.flush = records{}, flushQueue{}
}

// Lookup returns the state of an object, nil = clean, and the version that
// reads have to ask for: meta.NewestVersion unless a newer one is not to be
// seen yet. Version 0 means: what the OSDs have of the object is being rolled
// back, it does not exist. id must have no role.
//
// EC objects that are inconsistent are read as clean ones (osd.md §4).
func (o *Objects) Lookup(id meta.ObjectID) (*Record, meta.Version) {
	v := meta.NewestVersion
	if o.overrides.n != 0 {
		if x, ok := o.overrides.get(id); ok {
			v = meta.Version(x)
		}
	}
	if i, ok := o.states.get(id); ok {
		return o.records.all[i], v
	}
	return nil, v
}

// SetOverride hides versions above v from reads, while they are written in two
// phases.
func (o *Objects) SetOverride(id meta.ObjectID, v meta.Version) {
	o.overrides.set(id, uint64(v))
}

// ClearOverride shows the newest version again.
func (o *Objects) ClearOverride(id meta.ObjectID) { o.overrides.delete(id) }

// Mark adds bits to what is bad about one location of an object: corrupted,
// outdated (a replica that missed a write) or inconsistent. It returns whether
// anything changed; if not, there is no sense in trying again.
func (o *Objects) Mark(id meta.ObjectID, role meta.Role, osd meta.OSDNum, bad meta.LocBad) bool {
	locs := o.locations(id)
	for i := range locs {
		if loc := &locs[i]; loc.OSD == osd && loc.Role == role && loc.Bad|bad != loc.Bad {
			loc.Bad |= bad
			o.SetLocations(id, locs)
			return true
		}
	}
	return false
}

// RemoveLocation forgets a location that turned out not to exist, and returns
// whether it was known. Without locations the object is clean again, that is:
// it does not exist.
func (o *Objects) RemoveLocation(id meta.ObjectID, role meta.Role, osd meta.OSDNum) bool {
	locs := o.locations(id)
	i := slices.IndexFunc(locs, func(l Location) bool { return l.OSD == osd && l.Role == role })
	if i < 0 {
		return false
	}
	locs = slices.Delete(locs, i, i+1)
	if len(locs) == 0 {
		o.Deleted(id)
		return true
	}
	o.SetLocations(id, locs)
	return true
}

// locations returns a copy of an object's locations in scratch memory.
func (o *Objects) locations(id meta.ObjectID) []Location {
	if i, ok := o.states.get(id); ok {
		o.scratch = append(o.scratch[:0], o.records.all[i].Locs...)
	} else {
		o.scratch = o.appendCurrent(o.scratch[:0])
	}
	return o.scratch
}

// SetLocations gives an object other locations, for example those that a scrub
// has found, and calculates its state.
func (o *Objects) SetLocations(id meta.ObjectID, locs []Location) {
	if o.Evaluate(locs) == 0 {
		o.Forget(id)
		return
	}
	r := o.records.find(locs)
	o.records.hold(r)
	if i, ok := o.states.get(id); ok {
		o.records.release(o.records.all[i])
	}
	o.states.set(id, uint64(r.index))
}

// Forget makes an object clean: it was written to the whole current set. The
// extra copies (AppendExtra, taken before) are deleted afterwards, so that no
// read can go there.
func (o *Objects) Forget(id meta.ObjectID) {
	if i, ok := o.states.get(id); ok {
		o.states.delete(id)
		o.records.release(o.records.all[i])
	}
}

// Created counts an object that did not exist before.
func (o *Objects) Created() { o.total++ }

// Deleted forgets an object that does not exist any more.
func (o *Objects) Deleted(id meta.ObjectID) {
	o.Forget(id)
	o.overrides.delete(id)
	o.total = max(o.total, 1) - 1
}

// Next finds the first object at or after id whose state has a bit of mask;
// mask 0 means any. Recovery and DESCRIBE walk with it while objects change.
func (o *Objects) Next(id meta.ObjectID, mask meta.ObjectState) (found meta.ObjectID, r *Record) {
	o.states.from(id, func(id meta.ObjectID, i uint64) bool {
		if mask == 0 || o.records.all[i].State&mask != 0 {
			found, r = id, o.records.all[i]
			return false
		}
		return true
	})
	return found, r
}

// Counts are numbers of objects, for pgstats and the PG state.
type Counts struct {
	Total, Clean, Degraded, Incomplete, Misplaced, Corrupted, Inconsistent uint64
}

// Counts returns the present numbers.
func (o *Objects) Counts() Counts {
	c := &o.records.counts
	return Counts{
		Total: o.total, Clean: o.total - min(o.total, uint64(o.states.n)), Degraded: c[0],
		Incomplete: c[1], Misplaced: c[2], Corrupted: c[3], Inconsistent: c[4],
	}
}

// Flags are the PG state bits that follow from the objects, has_unclean while
// there is something to flush included.
func (o *Objects) Flags() meta.PGState {
	s := meta.PGState(0)
	for i, flag := range [5]meta.PGState{meta.PGHasDegraded, meta.PGHasIncomplete,
		meta.PGHasMisplaced, meta.PGHasCorrupted, meta.PGHasInconsistent} {
		if o.records.counts[i] > 0 {
			s |= flag
		}
	}
	if o.flush.left() {
		s |= meta.PGHasUnclean
	}
	return s
}
