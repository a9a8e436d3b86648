package primary

import (
	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// startWrite plans a write: what has to be known of the object first.
func (o *op) startWrite() {
	o.lookup()
	switch {
	case o.rec != nil && o.record == nil:
		o.end() // nothing to recover any more
	case o.rec != nil && o.state&meta.ObjectIncomplete != 0:
		o.unreadable()
	case o.pg.replicated:
		o.startReplicaWrite()
	default:
		o.startChunksWrite()
	}
}

// startReplicaWrite: a clean object, or one that is overwritten, needs only its
// version and bitmap. Others are read, and written as a whole to the whole
// current set.
func (o *op) startReplicaWrite() {
	block := o.s.config.BlockBytes
	full := o.length == block
	o.whole = full || o.record != nil
	if o.whole && !full && o.state&meta.ObjectIncomplete != 0 {
		o.unreadable()
		return
	}
	o.prepareChunks(1)
	c := &o.chunks[0]
	if c.from = o.s.pick(o.sources()); c.from == 0 {
		o.noSource()
		return
	}
	c.need = ec.NeedBitmap
	if o.whole && !full {
		c.need, c.read = ec.NeedData, ec.Range{To: block}
	}
	o.fetch()
}

// noSource ends an operation that found nobody to ask: nobody has the object, or
// nobody of those is there.
func (o *op) noSource() {
	for _, osd := range o.sources() {
		if osd != 0 {
			o.fail(wire.EPIPE)
			return
		}
	}
	o.unreadable()
}

func (o *op) startChunksWrite() {
	p := o.pg
	if err := o.plan.PlanWrite(p.geometry, o.sources(), p.curSet, o.offset, uint64(o.length)); err != nil {
		o.unreadable()
		return
	}
	o.planChunks()
	if o.fresh = o.knownAbsent(); o.fresh {
		for i := range o.chunks {
			o.chunks[i].need, o.chunks[i].from = ec.NeedNothing, 0
		}
	} else if !o.known && !o.askVersion() {
		o.noSource()
		return
	}
	o.fetch()
}

// askVersion makes sure that at least one chunk of an EC object is looked at.
func (o *op) askVersion() bool {
	any := -1
	for i := range o.chunks {
		c := &o.chunks[i]
		if c.from == 0 {
			continue
		}
		if c.need != ec.NeedNothing {
			return true
		}
		if c.from == o.s.config.OSD || any < 0 && o.s.peers.Conn(c.from) != nil {
			any = i
		}
	}
	if any >= 0 {
		o.chunks[any].need = ec.NeedBitmap
	}
	return any >= 0
}

// haveOld goes on when the present version is known.
func (o *op) haveOld() {
	p := o.pg
	if o.cas != 0 && o.old != o.cas-1 {
		o.version = o.old
		o.fail(wire.EINTR)
		return
	}
	switch {
	case o.kind == opDelete && o.old != 0 && p.mourns():
		if o.version = o.grave(); o.version.Epoch() > p.recorded {
			p.awaitEpoch(o)
			return
		}
		fallthrough
	case o.kind == opDelete:
		o.version = o.old + 1
		o.sendDeletes()
		return
	case o.rec != nil && o.old == 0:
		o.end() // it does not exist
		return
	case o.exhumes():
		o.exhume()
		return
	}
	next, epoch := meta.NextVersion(o.old, p.epoch)
	p.epoch = max(p.epoch, epoch)
	o.version = next
	if next.Epoch() > p.recorded {
		p.awaitEpoch(o)
		return
	}
	o.sendWrites()
}

// sendWrites merges the request with what was read and writes to the whole
// current set.
func (o *op) sendWrites() {
	if !o.active() {
		o.fail(wire.EPIPE)
		return
	}
	if o.kind == opDelete { // it has waited for the epoch of its grave
		o.version = o.old + 1
		o.sendDeletes()
		return
	}
	for _, osd := range o.pg.curSet {
		if osd != 0 && !o.s.reachable(osd) {
			o.fail(wire.EPIPE)
			return
		}
	}
	if o.pg.replicated {
		o.writeReplicas()
	} else {
		o.writeChunks()
	}
}

// writeReplicas writes the range of the request to copies that are good, and the
// whole block to the others. So recovery moves only what is missing, and good
// copies get the new version alone: a write of nothing.
func (o *op) writeReplicas() {
	block, us := o.s.config.BlockBytes, o.s.config.OSD
	c := &o.chunks[0]
	meta.Bitmap(c.bitmap).SetBytes(uint32(o.offset), o.length, o.s.config.GranuleBytes)
	at, n := uint32(o.offset), o.length
	o.pieces = append(append(o.pieces[:0], c.bitmap), o.body()...)
	if o.whole && n < block {
		o.payload = append(o.payload[:0], c.bitmap)
		o.payload = appendNonEmpty(o.payload, c.buf[:at])
		o.payload = append(o.payload, o.body()...)
		o.payload = appendNonEmpty(o.payload, c.buf[at+n:])
		if len(o.payload) > env.DiskIovMax {
			o.joinBody(c.buf[at:])
			o.payload = append(o.payload[:1], c.buf)
		}
	}
	o.holdPhase(phaseWriting)
	o.copied = 0
	for _, osd := range o.pg.curSet {
		if osd != 0 && osd != us {
			o.writeReplica(osd, at, n)
		}
	}
	if o.pg.self >= 0 {
		o.writeReplica(us, at, n)
	}
	o.sent()
}

// writeReplica writes the range of the request, or the whole block, to one OSD.
func (o *op) writeReplica(osd meta.OSDNum, at, n uint32) {
	b, parts := o.sub(osd, 0), o.pieces
	if o.whole && n < o.s.config.BlockBytes && !o.hasGood(osd) {
		at, n, parts = 0, o.s.config.BlockBytes, o.payload
	}
	b.whole = n == o.s.config.BlockBytes
	o.copied += uint64(n)
	b.write(wire.OpSecWriteStable, o.oid, o.version, at, n, parts, o.flags())
}

// hasGood tells whether an OSD has a good copy of the version being replaced.
func (o *op) hasGood(osd meta.OSDNum) bool {
	rec, _ := o.pg.objects.Lookup(o.oid)
	if rec == nil {
		return false // it was unclean when it was read: take no chances
	}
	for i := range rec.Locs {
		if l := &rec.Locs[i]; l.OSD == osd {
			return l.Bad == 0
		}
	}
	return false
}

// body is the data of the client.
func (o *op) body() [][]byte {
	if o.r == nil {
		return nil
	}
	return o.r.Body
}

// joinBody copies the data of the client to b: there are too many parts for one
// request to the disk.
func (o *op) joinBody(b []byte) {
	for _, part := range o.body() {
		b = b[copy(b, part):]
	}
}

func appendNonEmpty(dst [][]byte, b []byte) [][]byte {
	if len(b) == 0 {
		return dst
	}
	return append(dst, b)
}

// writesDone looks at the results.
func (o *op) writesDone() {
	err := o.count()
	switch {
	case o.failed == 0:
		o.written()
	case o.dropped || !o.active():
		// The PG peers again and finds out what is true.
		if errorRank(err) < errorRank(wire.ENOSPC) {
			err = wire.EPIPE
		}
		o.fail(err)
	case o.pg.replicated:
		if o.ok > 0 {
			o.missed()
		}
		o.fail(err)
	default:
		o.err = err
		o.rollBack()
	}
}

// missed notes which replicas do not have the new version, although they are
// there (osd.md §5.3): they are brought up to date by recovery.
func (o *op) missed() {
	p := o.pg
	rec, _ := p.objects.Lookup(o.oid)
	locs := o.scratch[:0]
	for b := o.subs; b != nil; b = b.next {
		loc := peering.Location{OSD: b.osd}
		if b.ret.Failed() {
			loc.Bad = meta.LocOutdated
		} else if !b.whole {
			loc.Bad = badOf(rec, b.osd, 0)
		}
		locs = append(locs, loc)
	}
	extra := len(locs)
	locs = p.objects.AppendExtra(locs, rec)
	for i := extra; i < len(locs); i++ {
		locs[i].Bad |= meta.LocOutdated
	}
	o.scratch = locs
	if o.old == 0 {
		p.objects.Created()
	}
	p.objects.SetLocations(o.oid, locs)
	p.changed()
}

// badOf is what is known to be bad about one location.
func badOf(rec *peering.Record, osd meta.OSDNum, role meta.Role) meta.LocBad {
	if rec != nil {
		for i := range rec.Locs {
			if l := &rec.Locs[i]; l.OSD == osd && l.Role == role {
				return l.Bad
			}
		}
	}
	return 0
}

// written goes on when the whole current set has the new version.
func (o *op) written() {
	p := o.pg
	o.lazy = o.isLazy()
	if !o.active() {
		// Peering has begun, or will, without us. What is durable is found.
		if o.lazy || !p.replicated {
			o.err = wire.EPIPE
		}
		o.end()
		return
	}
	if o.old == 0 {
		p.objects.Created()
	}
	if !p.replicated {
		p.objects.ClearOverride(o.oid)
	}
	o.settle()
	switch {
	case o.lazy:
		o.queueExtra() // a SYNC that begins with this write deletes them, too
		p.s.sync.wrote(o)
		o.end()
	case p.replicated:
		o.removeExtra()
	default:
		o.stabilize()
	}
}

// settle notes that the whole current set has the new version. Copies elsewhere
// are left in scratch, to be deleted: nobody reads them from now on.
func (o *op) settle() {
	p := o.pg
	rec, _ := p.objects.Lookup(o.oid)
	o.scratch = p.objects.AppendExtra(o.scratch[:0], rec)
	if rec == nil {
		return
	}
	extra := len(o.scratch)
	if extra > 0 && !o.leaving {
		// Until the copies are gone the PG must not seem to be clean: its peers
		// that have them would be forgotten, and the copies left there.
		o.leaving = true
		p.leaving++
	}
	// A chunk that was found damaged while we were at it, and was not written
	// as a whole, stays so.
	damaged := false
	for role, osd := range p.curSet {
		if osd == 0 {
			continue
		}
		loc := peering.Location{OSD: osd}
		if !p.replicated {
			loc.Role = meta.Role(role)
		}
		if !o.wroteWhole(role) {
			loc.Bad = badOf(rec, osd, loc.Role) &^ meta.LocOutdated
			damaged = damaged || loc.Bad != 0
		}
		o.scratch = append(o.scratch, loc)
	}
	if damaged {
		p.objects.SetLocations(o.oid, o.scratch[extra:])
	} else {
		p.objects.Forget(o.oid)
	}
	o.scratch = o.scratch[:extra]
	p.changed()
}

// wroteWhole tells whether the whole chunk was written. It may be asked until the
// next phase begins.
func (o *op) wroteWhole(role int) bool {
	if !o.pg.replicated {
		return o.plan.Roles[role].Write == (ec.Range{To: o.s.config.BlockBytes})
	}
	for b := o.subs; b != nil; b = b.next {
		if b.osd == o.pg.curSet[role] {
			return b.whole
		}
	}
	return false
}

// finishWrite answers the WRITE of a client.
func (o *op) finishWrite() {
	r := o.r
	o.s.account(o, wire.OpWrite)
	switch o.err {
	case wire.OK:
		(&wire.RwReply{Op: wire.OpWrite, Retval: wire.Retval(o.length), Version: o.version}).Encode(&r.Reply)
	case wire.EINTR:
		(&wire.RwReply{Op: wire.OpWrite, Retval: o.err, Version: o.version}).Encode(&r.Reply)
	default:
		r.Fail(o.err)
		return
	}
	r.Finish()
}
