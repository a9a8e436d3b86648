package primary

import (
	"slices"

	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// startDelete asks for the version of the object.
func (o *op) startDelete() {
	o.lookup()
	p := o.pg
	sources := o.sources()
	if !p.replicated && o.knownAbsent() {
		o.prepareChunks(0)
		o.old, o.known = 0, true
		o.haveOld()
		return
	}
	if p.replicated {
		o.prepareChunks(1)
		o.chunks[0].from, o.chunks[0].need = o.s.pick(sources), ec.NeedBitmap
		if o.chunks[0].from == 0 {
			o.noSource()
			return
		}
	} else {
		o.prepareChunks(p.roles)
		for r, osd := range sources {
			o.chunks[r].from = osd
		}
		if !o.known && !o.askVersion() {
			o.noSource()
			return
		}
	}
	o.fetch()
}

// sendDeletes deletes every copy.
func (o *op) sendDeletes() {
	p := o.pg
	if o.old == 0 {
		o.version = 0
		o.end()
		return
	}
	rec, _ := p.objects.Lookup(o.oid)
	o.scratch = p.objects.AppendDelete(o.scratch[:0], rec)
	for _, l := range o.scratch {
		if !o.s.reachable(l.OSD) {
			o.fail(wire.EPIPE)
			return
		}
	}
	p.dropUnstable(o.oid) // a SYNC must not name what does not exist any more
	p.objects.SetOverride(o.oid, o.old)
	o.staleFirst(rec)
	o.holdPhase(phaseWriting)
	if o.stale > 0 {
		o.deleteAt(o.scratch[:o.stale])
	} else {
		o.deleteAt(o.scratch)
	}
	o.sent()
}

// staleFirst puts locations that may have an older version to the front of
// scratch: if only the newest copies were deleted, the older one would be the
// object again.
func (o *op) staleFirst(rec *peering.Record) {
	o.stale = 0
	if rec == nil {
		return
	}
	has := func(l peering.Location) bool {
		return slices.ContainsFunc(rec.Locs, func(m peering.Location) bool {
			return m.OSD == l.OSD && m.Role == l.Role && m.Bad&meta.LocOutdated == 0
		})
	}
	for i, l := range o.scratch {
		if !has(l) {
			o.scratch[i], o.scratch[o.stale] = o.scratch[o.stale], l
			o.stale++
		}
	}
}

// staleGone goes on with the newest copies.
func (o *op) staleGone() {
	stale, err := o.stale, o.count()
	o.stale = 0
	switch {
	case o.failed > 0 && o.dropped, !o.active():
		o.fail(wire.EPIPE)
	case o.failed > 0:
		o.pg.objects.ClearOverride(o.oid)
		o.fail(err)
	default:
		o.holdPhase(phaseWriting)
		o.deleteAt(o.scratch[stale:])
		o.sent()
	}
}

// deletesDone looks at the results.
func (o *op) deletesDone() {
	if o.stale > 0 {
		o.staleGone()
		return
	}
	p := o.pg
	p.s.countDelete(o.oid)
	err := o.count()
	o.lazy = o.s.config.Commit != meta.CommitAll
	switch {
	case o.failed > 0 && (o.dropped || !o.active()), !o.active() && o.lazy:
		o.fail(wire.EPIPE)
	case !o.active():
		o.end()
	case o.failed > 0:
		p.objects.ClearOverride(o.oid)
		if o.ok > 0 {
			o.keepUndeleted()
		}
		o.fail(err)
	default:
		p.objects.Deleted(o.oid)
		// A power loss may bring it back, also on an OSD that the PG leaves.
		p.deleted = p.deleted || o.lazy && p.unclean
		p.changed()
		if p.mourns() && o.rec == nil {
			o.bury()
			return
		}
		if o.lazy {
			p.s.sync.wrote(o)
		}
		o.end()
	}
}

// keepUndeleted notes where the object still is after a delete that failed in
// part. The next delete, or recovery, makes it whole.
func (o *op) keepUndeleted() {
	p := o.pg
	rec, _ := p.objects.Lookup(o.oid)
	locs := o.scratch[:0]
	for b := o.subs; b != nil; b = b.next {
		if b.ret.Failed() {
			role := b.role
			locs = append(locs, peering.Location{OSD: b.osd, Role: role, Bad: badOf(rec, b.osd, role)})
		}
	}
	o.scratch = locs
	p.objects.SetLocations(o.oid, locs)
	p.changed()
}

// finishDelete answers the DELETE of a client.
func (o *op) finishDelete() {
	r := o.r
	o.s.account(o, wire.OpDelete)
	reply := wire.DeleteReply{Retval: o.err}
	switch o.err {
	case wire.OK:
		reply.Flags = wire.DeleteReportsDead
		for _, osd := range o.pg.dead {
			if o.buried {
				break // it will not come back
			}
			reply.Flags |= wire.DeleteLeftOnDead
			reply.AddLeftOnDead(osd)
		}
	case wire.EINTR:
		reply.Version = o.version
	}
	reply.Encode(&r.Reply)
	r.Finish()
}
