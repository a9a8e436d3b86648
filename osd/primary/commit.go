package primary

import (
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// isLazy tells whether what was just written is durable only after a SYNC
// (osd.md §8).
func (o *op) isLazy() bool {
	switch o.s.config.Commit {
	case meta.CommitAll:
		return false
	case meta.CommitNone:
		return true
	}
	if o.pg.replicated && o.record != nil {
		return true // good copies were not written as a whole, and may be younger than the last SYNC
	}
	for role, osd := range o.pg.curSet {
		if osd != 0 && o.wroteWhole(role) {
			return true
		}
	}
	return false
}

// stabilize is the second phase of an EC write. It covers all earlier versions
// of the object: no SYNC may name one of them afterwards.
func (o *op) stabilize() {
	o.pg.dropUnstable(o.oid)
	o.holdPhase(phaseStabilize)
	o.settleAll(wire.OpSecStabilize, o.version)
}

// settleAll sends one item to every OSD of the current set.
func (o *op) settleAll(code wire.Op, v meta.Version) {
	us := o.s.config.OSD
	for _, local := range [2]bool{false, true} {
		for role, osd := range o.pg.curSet {
			if osd == 0 || (osd == us) != local {
				continue
			}
			b := o.sub(osd, meta.Role(role))
			b.add(meta.ObjectVersion{ObjectID: o.oid.WithRole(meta.Role(role)), Version: v})
			b.settle(code, o.flags())
		}
	}
	o.sent()
}

// stabilized ends the second phase.
func (o *op) stabilized() {
	if o.count() != wire.OK {
		o.fail(wire.EPIPE)
		return
	}
	o.removeExtra()
}

// rollBack takes an EC write back that not all of the current set could execute,
// on those that did.
func (o *op) rollBack() {
	locs := o.scratch[:0]
	for b := o.subs; b != nil; b = b.next {
		if !b.ret.Failed() {
			locs = append(locs, peering.Location{OSD: b.osd, Role: b.role})
		}
	}
	o.scratch = locs
	o.holdPhase(phaseRollback)
	for _, l := range locs {
		b := o.sub(l.OSD, l.Role)
		b.add(meta.ObjectVersion{ObjectID: o.oid.WithRole(l.Role), Version: o.version - 1})
		b.settle(wire.OpSecRollback, o.flags())
	}
	o.sent()
}

// rolledBack tells the writer, and those behind it, why.
func (o *op) rolledBack() {
	if o.count(); o.failed > 0 {
		o.err = wire.EPIPE // the PG peers again
	} else if o.active() {
		o.pg.objects.ClearOverride(o.oid)
		o.failQueued()
	}
	o.end()
}

// removeExtra deletes the copies in scratch, which the object has left: now, or
// after the next SYNC, because until then they are all that is durable.
func (o *op) removeExtra() {
	p := o.pg
	if len(o.scratch) == 0 || !o.active() {
		o.end()
		return
	}
	if o.s.config.Commit != meta.CommitAll {
		o.queueExtra()
		p.s.sync.needed(p)
		o.end()
		return
	}
	o.holdPhase(phaseRemoving)
	o.deleteAt(o.scratch)
	o.sent()
}

// queueExtra leaves the copies in scratch to the next SYNC.
func (o *op) queueExtra() {
	p := o.pg
	for _, l := range o.scratch {
		p.copies = append(p.copies, oldCopy{osd: l.OSD,
			item: meta.ObjectVersion{ObjectID: o.oid.WithRole(l.Role), Version: o.version}})
	}
	p.changed()
}

// deleteAt sends a SEC_DELETE to each location that can be reached, to other
// OSDs first.
func (o *op) deleteAt(locs []peering.Location) {
	us := o.s.config.OSD
	for _, local := range [2]bool{false, true} {
		for _, l := range locs {
			if (l.OSD == us) == local && o.s.reachable(l.OSD) {
				o.sub(l.OSD, l.Role).delete(o.oid.WithRole(l.Role), o.version, o.flags())
			}
		}
	}
}

// removed: the write has succeeded whatever has become of the old copies. An
// OSD that could not delete was dropped, and the next peering finds them again.
func (o *op) removed() {
	o.count()
	o.end()
}

// oldCopy is a copy to be deleted when what replaced it is durable.
type oldCopy struct {
	osd  meta.OSDNum
	item meta.ObjectVersion
}

// versions is a set of objects with the newest version of each that is not
// stable yet. It is ordered, so that equal histories do equal things.
type versions struct {
	list  []meta.ObjectVersion
	index map[meta.ObjectID]int
}

// set adds an object; a higher version that is there stays.
func (v *versions) set(x meta.ObjectVersion) {
	if v.index == nil {
		v.index = make(map[meta.ObjectID]int)
	}
	if i, ok := v.index[x.ObjectID]; ok {
		v.list[i].Version = max(v.list[i].Version, x.Version)
		return
	}
	v.index[x.ObjectID] = len(v.list)
	v.list = append(v.list, x)
}

// drop removes an object, if it is there.
func (v *versions) drop(id meta.ObjectID) {
	i, ok := v.index[id]
	if !ok {
		return
	}
	delete(v.index, id)
	last := len(v.list) - 1
	if i < last {
		v.list[i] = v.list[last]
		v.index[v.list[i].ObjectID] = i
	}
	v.list = v.list[:last]
}

func (v *versions) clear() {
	v.list = slices.Delete(v.list, 0, len(v.list))
	clear(v.index)
}
