package primary

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// Recover brings one object to its place: all of the current set gets the same
// new version, other copies are deleted. r.Done is called later.
func (s *Server) Recover(r *Recovery) {
	o := s.takeOp(opWrite, s.pgs[r.PG])
	o.oid, o.rec, o.recovery, o.queues = r.OID, r, true, true
	o.finish = (*op).finishRecovery
	s.later(o)
}

func (o *op) finishRecovery() {
	r := o.rec
	r.Err = o.err
	if o.err == wire.OK && o.version != 0 {
		o.s.accountRecovery(o)
	}
	r.Done(r)
}

// accountRecovery counts a recovered object.
func (s *Server) accountRecovery(o *op) {
	bytes := o.copied
	for role, osd := range o.pg.curSet {
		if osd != 0 && !o.pg.replicated {
			bytes += uint64(o.plan.Roles[role].Write.Len())
		}
	}
	total := &s.stats.Misplaced
	if o.state&meta.ObjectDegraded != 0 {
		total = &s.stats.Degraded
	}
	total.add(bytes, uint64(s.env.Clock.Now().Sub(o.began)))
}

// Hold asks for the exclusive use of an object.
func (s *Server) Hold(h *Hold) {
	o := s.takeOp(opHold, s.pgs[h.PG])
	o.oid, o.hold, o.queues = h.OID, h, true
	o.finish = (*op).finishHold
	h.op = o
	s.later(o)
}

// granted gives the object to who asked.
func (o *op) granted() {
	o.phase = phaseHeld
	o.hold.Err = wire.OK
	o.hold.Granted(o.hold)
}

// finishHold is the end of one that was not granted, or was released.
func (o *op) finishHold() {
	if h := o.hold; h != nil {
		h.op, h.Err = nil, o.err
		h.Granted(h)
	}
}

// Release ends a granted Hold. Writes that wait go on, later; h may be reused
// at once.
func (s *Server) Release(h *Hold) {
	o := h.op
	invariant.Must(o != nil && o.phase == phaseHeld, "primary: a Hold was released that is not granted")
	h.op, o.hold = nil, nil
	o.resume = (*op).end
	s.later(o)
}
