package heal

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// Scrub serves a SCRUB request of a client (wire.md §6.7). It is given to
// primary.Server.SetScrub.
func (h *Healer) Scrub(r *msgr.Request) {
	var q wire.Rw
	q.Decode(&r.Packet)
	pg, id, ret := h.locate(&q)
	if ret.Failed() {
		r.Fail(ret)
		return
	}
	if h.asked >= requestsAtOnce || len(h.requests) > 0 {
		h.requests = append(h.requests, r) // the messenger bounds their number
		return
	}
	h.serve(r, pg, id)
}

// locate checks a request and finds its object (wire.md §6.1).
func (h *Healer) locate(q *wire.Rw) (pg meta.PG, id meta.ObjectID, ret wire.Retval) {
	if ret = q.Check(h.config.GranuleBytes); ret.Failed() {
		return pg, id, ret
	}
	pool := h.deps.View.Pool(q.Inode.Pool())
	if pool == nil || h.stopped {
		return pg, id, wire.EPIPE
	}
	id = meta.ObjectID{Inode: q.Inode, Stripe: q.Offset - q.Offset%pool.ObjectBytes()}
	pg = meta.PG{Pool: pool.ID, Num: meta.PGOf(id.Stripe, pool.PGStripeBytes, h.deps.View.PGCount(pool.ID))}
	if h.deps.Primary.Objects(pg) == nil {
		return pg, id, wire.EPIPE
	}
	return pg, id, q.CheckObject(pool.ObjectBytes())
}

func (h *Healer) serve(r *msgr.Request, pg meta.PG, id meta.ObjectID) {
	h.asked++
	h.scrubObject(pg, id).req = r
}

func (h *Healer) requestDone(r *msgr.Request, err wire.Retval) {
	h.asked--
	(&wire.RwReply{Op: wire.OpScrub, Retval: err}).Encode(&r.Reply)
	r.Finish()
	h.wake()
}

// serveRequests begins requests that waited.
func (h *Healer) serveRequests() {
	for h.asked < requestsAtOnce && len(h.requests) > 0 {
		r := h.requests[0]
		h.requests = append(h.requests[:0], h.requests[1:]...)
		var q wire.Rw
		q.Decode(&r.Packet)
		if pg, id, ret := h.locate(&q); ret.Failed() {
			r.Fail(ret)
		} else {
			h.serve(r, pg, id)
		}
	}
}

// answerAll refuses what waits.
func (h *Healer) answerAll() {
	for _, r := range h.requests {
		r.Fail(wire.EPIPE)
	}
	h.requests = nil
}
