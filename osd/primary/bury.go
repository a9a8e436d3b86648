package primary

import (
	"vitastor/internal/ec"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// The protocol has no tombstones: a deleted object comes back with an OSD that
// was dead when it was deleted - or, in EC pools, the rest of it does, which
// nobody can read. So, while somebody is dead who may have a part of it, an
// object is buried: deleted, and created again without contents, one version
// higher. An empty object takes no space for data, reads like none, also in chains
// of snapshots, and makes what the dead bring back old. When they are all back,
// recovery deletes objects that are empty instead of copying them (exhume).
//
// Compat: for a reference OSD it is an object like any other. What
// vitastor-cli prints about objects left on dead OSDs does not apply to it.

// mourns tells whether OSDs are dead that may have objects of the PG.
func (p *pg) mourns() bool { return len(p.dead) > 0 }

// grave is the version of the empty object.
func (o *op) grave() meta.Version {
	next, epoch := meta.NextVersion(o.old+1, o.pg.epoch)
	o.pg.epoch = max(o.pg.epoch, epoch)
	return next
}

// bury creates the object again when it was deleted everywhere.
func (o *op) bury() {
	p := o.pg
	o.version = o.grave()
	if o.version.Epoch() > p.recorded { // it has changed meanwhile: the client repeats
		o.fail(wire.EPIPE)
		return
	}
	o.kind, o.buried = opWrite, true
	o.forget()
	o.fresh, o.known = true, true
	o.offset, o.length = 0, 0
	if p.replicated {
		o.prepareChunks(1)
	} else {
		if err := o.plan.PlanWrite(p.geometry, p.curSet, p.curSet, 0, 0); err != nil {
			o.unreadable()
			return
		}
		o.planChunks()
		for i := range o.chunks {
			o.chunks[i].need, o.chunks[i].from = ec.NeedNothing, 0
		}
	}
	o.sendWrites()
}

// exhumes tells whether an object that is being recovered is empty, and may be
// deleted for good. Bitmaps of missing chunks were decoded, and may have been
// decoded from zeroes that release 3.0.8 has left (osd.md §5.2, caution): then the
// data counts, too.
func (o *op) exhumes() bool {
	p := o.pg
	if o.rec == nil || o.old == 0 || p.mourns() {
		return false
	}
	for _, osd := range p.curSet {
		if osd == 0 {
			return false
		}
	}
	k := p.dataChunks
	if p.replicated {
		k = 1
	}
	for r := range k {
		c := &o.chunks[r]
		if !allZero(c.bitmap) || !p.replicated && o.plan.Roles[r].Missing() && !allZero(c.buf) {
			return false
		}
	}
	return true
}

// exhume deletes an empty object everywhere.
func (o *op) exhume() {
	invariant.Must(o.rec != nil, "primary: an object is exhumed that is not being recovered")
	o.kind = opDelete
	o.version = o.old + 1
	o.sendDeletes()
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
