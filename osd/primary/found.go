package primary

import (
	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// readsDone looks at what was read.
func (o *op) readsDone() {
	switch {
	case o.dropped || !o.active():
		o.fail(wire.EPIPE)
		return
	case o.foundDamage():
		return
	case !o.agree():
		return
	case o.kind == opDelete: // has no plan, and wants no contents
		o.haveOld()
		return
	}
	if err := o.rebuild(); err != nil {
		o.unreadable()
		return
	}
	if o.kind == opRead {
		o.completeRead()
	} else {
		o.haveOld()
	}
}

// foundDamage marks unreadable chunks and reads again, as long as that changes
// anything (osd.md §4).
func (o *op) foundDamage() bool {
	damage, changed := wire.OK, false
	for i := range o.chunks {
		if c := &o.chunks[i]; c.err != wire.OK {
			damage = c.err
			changed = o.pg.objects.Mark(o.oid, meta.Role(i), c.from, meta.LocCorrupted) || changed
		}
	}
	if damage == wire.OK {
		return false
	}
	o.damage = damage
	if rec, _ := o.pg.objects.Lookup(o.oid); rec != o.record {
		changed = true // or another operation has marked it since we began
	}
	if !changed {
		o.fail(damage)
		return true
	}
	o.pg.changed()
	o.again()
	return true
}

// again restarts the operation and counts it.
func (o *op) again() {
	o.s.stats.Retries++
	o.restart()
}

// agree checks that all chunks are of one version, and of one that may be shown.
// If not, the operation goes another way.
func (o *op) agree() bool {
	found, absent, present, differ := meta.Version(0), 0, 0, false
	if o.known && o.old != 0 {
		found, present = o.old, 1
	}
	for i := range o.chunks {
		c := &o.chunks[i]
		switch {
		case c.need == ec.NeedNothing || c.from == 0:
		case c.absent || c.version == 0:
			absent++
		default:
			present++
			differ = differ || found != 0 && c.version != found
			found = max(found, c.version)
		}
	}
	o.old, o.known = found, true
	if o.holder {
		return o.agreeAlone(differ, absent, present)
	}
	// Writes may have gone on while we were reading.
	w := o.s.objects.holder(o.oid)
	_, limit := o.pg.objects.Lookup(o.oid)
	switch {
	case differ || absent > 0 && present > 0 || o.limit != meta.NewestVersion && limit != o.limit:
		o.overtaken()
		return false
	case w != nil && (w.phase == phaseWriting || w.phase == phaseRollback) && found != w.old:
		o.version = found
		if o.rebuild() != nil {
			o.unreadable()
			return false
		}
		o.awaitOutcome(w)
		return false
	case absent > 0 && o.record != nil && w != nil:
		o.overtaken()
		return false
	case absent > 0 && o.record != nil && o.forgetAbsent():
		return false
	}
	o.version = found
	return true
}

// agreeAlone is agree without writes beside us.
func (o *op) agreeAlone(differ bool, absent, present int) bool {
	if differ {
		o.fail(wire.ERANGE)
		return false
	}
	if absent > 0 && (present > 0 || o.record != nil) && o.forgetAbsent() {
		return false
	}
	o.version = o.old
	return true
}

// forgetAbsent takes chunks that do not exist off the list of locations and
// begins again; false = they are not on it.
func (o *op) forgetAbsent() (changed bool) {
	for i := range o.chunks {
		if c := &o.chunks[i]; c.need != ec.NeedNothing && c.from != 0 && c.absent {
			changed = o.pg.objects.RemoveLocation(o.oid, meta.Role(i), c.from) || changed
		}
	}
	if rec, _ := o.pg.objects.Lookup(o.oid); rec != o.record {
		changed = true // or another operation has done that since we began
	}
	if changed {
		o.pg.changed()
		o.again()
	}
	return changed
}

// overtaken makes a read that saw two versions read again; after some failures
// between the writes of the object instead of beside them.
func (o *op) overtaken() {
	if o.retries >= readTries && !o.queues {
		o.queues = true
		o.dropSubs()
		o.releaseMemory()
		o.forget()
		o.s.stats.Retries++
		o.resume = (*op).begin
		o.s.soon(o)
		o.s.drain()
		return
	}
	o.again()
}

// rebuild calculates missing chunks from the others.
func (o *op) rebuild() error {
	plan := &o.plan
	if o.pg.replicated || o.fresh || plan.Decode == (ec.RoleSet{}) {
		return nil
	}
	code, shards := o.pg.code, o.s.shardsFor(len(o.chunks))
	for r := range o.chunks {
		shards[r] = o.chunks[r].bitmap
	}
	if err := code.Reconstruct(shards, plan.Sources, plan.Decode); err != nil {
		return err
	}
	for r := plan.Decode.Next(0); r >= 0; r = plan.Decode.Next(r + 1) {
		c := &o.chunks[r]
		if c.need != ec.NeedData {
			continue
		}
		clear(shards)
		shards[r] = c.buf
		for i := plan.Sources.Next(0); i >= 0; i = plan.Sources.Next(i + 1) {
			from := o.chunks[i].read.From
			shards[i] = o.chunks[i].buf[c.read.From-from : c.read.To-from]
		}
		if err := code.Reconstruct(shards, plan.Sources, ec.Roles(r)); err != nil {
			return err
		}
	}
	clear(shards)
	return nil
}

// shardsFor is scratch memory for the arguments of the code.
func (s *Server) shardsFor(n int) [][]byte {
	if cap(s.shards) < n {
		s.shards = make([][]byte, n)
	}
	s.shards = s.shards[:n]
	return s.shards
}

// completeRead puts what is in own memory into its place.
func (o *op) completeRead() {
	for r := range o.chunks {
		c := &o.chunks[r]
		if c.need != ec.NeedData || c.direct {
			continue
		}
		wanted := c.read
		if !o.pg.replicated {
			wanted = o.plan.Roles[r].Request
		}
		if wanted.Empty() || r >= o.pg.dataChunks {
			continue
		}
		src := c.buf[wanted.From-c.read.From : wanted.To-c.read.From]
		copyInto(o.into, o.position(r, wanted.From), src)
	}
	o.end()
}

// copyInto copies src to the place at pos of parts.
func copyInto(parts [][]byte, pos int, src []byte) {
	for _, part := range parts {
		if pos >= len(part) {
			pos -= len(part)
			continue
		}
		src = src[copy(part[pos:], src):]
		pos = 0
	}
}
