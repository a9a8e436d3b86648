package heal

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/primary"
)

// source lets the Queue look at the objects of osd/primary.
type source struct{ h *Healer }

func (s source) Next(pg meta.PG, from meta.ObjectID, k Kind) (meta.ObjectID, bool) {
	objects := s.h.deps.Primary.Objects(pg)
	if objects == nil {
		return meta.ObjectID{}, false
	}
	id, r := objects.Next(from, k.Mask())
	return id, r != nil
}

func (s source) Incomplete(pg meta.PG) bool {
	objects := s.h.deps.Primary.Objects(pg)
	return objects == nil || objects.CurSize() < len(objects.CurSet)
}

func (s source) Suspended(pool meta.PoolID) bool {
	return s.h.deps.Backfillfull != nil && s.h.deps.Backfillfull(pool)
}

// recovery is one object in work.
type recovery struct {
	primary.Recovery
	h     *Healer
	job   Job
	bytes uint64
	began env.Instant
	next  *recovery // in Healer.free
}

// recoverMore begins as many recoveries as may run now.
func (h *Healer) recoverMore() {
	if h.stopped || h.config.ReadOnly {
		return
	}
	now := h.env.Clock.Now()
	h.load.sample(now, h.clientTime())
	depth := 0
	if h.load.quiet(now) {
		depth = h.pace.depth()
	} else {
		h.pace = pace{}
	}
	wake := env.Instant(0)
	for admits(depth, max(h.config.Recovery.QueueDepth, 1), h.running, h.bytes, h.size) {
		job, ok := h.queue.Next(now)
		if !ok {
			wake = h.queue.Wake()
			break
		}
		h.begin(job)
	}
	h.armTick(now, wake)
}

// clientTime is the time spent for clients by our disk and by us as a primary.
func (h *Healer) clientTime() time.Duration {
	disk, ops := uint64(0), uint64(0)
	s := h.deps.Local.Stats()
	for _, op := range [...]wire.Op{wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable} {
		disk += s.Ops[op].Nanos - s.Recovery[op].Nanos
	}
	p := h.deps.Primary.Stats()
	for _, op := range [...]wire.Op{wire.OpRead, wire.OpWrite, wire.OpDelete} {
		ops += p.Ops[op].Nanos
	}
	return time.Duration(disk + ops)
}

// begin recovers the object of a job.
func (h *Healer) begin(job Job) {
	r := h.free
	if r == nil {
		r = &recovery{h: h}
		r.Done = r.done
	} else {
		h.free, r.next = r.next, nil
	}
	r.job, r.PG, r.OID, r.bytes = job, job.PG, job.OID, 0
	if pool := h.deps.View.Pool(job.PG.Pool); pool != nil {
		r.bytes = pool.ObjectBytes()
	}
	r.began = h.env.Clock.Now()
	h.size = r.bytes
	h.running++
	h.bytes += r.bytes
	h.deps.Primary.Recover(&r.Recovery)
}

func (r *recovery) done(*primary.Recovery) {
	h, job, err := r.h, r.job, r.Err
	h.running--
	h.bytes -= r.bytes
	r.job = Job{}
	r.next, h.free = h.free, r
	ok := !err.Failed()
	if ok { // but is it?
		h.pace.finished(h.env.Clock.Now().Sub(r.began))
		id, found := source{h}.Next(job.PG, job.OID, job.Kind)
		ok = !found || id != job.OID
	}
	if !ok {
		h.stats.Failed++
	}
	if first := h.queue.Done(job, ok, h.env.Clock.Now()); first && err != wire.EPIPE {
		h.log.Warn("object cannot be recovered now, it is tried again", "pg", job.PG.String(), "object", job.OID.String(),
			"kind", job.Kind.String(), "error", err.String(), "again_in", retryPause.String())
	}
	h.wake()
}

// armTick lets ticked run when something may have changed without an event.
func (h *Healer) armTick(now, wake env.Instant) {
	switch {
	case h.running > 0:
		if !h.tick.Armed() {
			h.env.Clock.Arm(&h.tick, loadWindow)
		}
	case wake != 0:
		h.load.forget()
		h.env.Clock.Arm(&h.tick, wake.Sub(now))
	default:
		h.load.forget()
		h.env.Clock.Disarm(&h.tick)
	}
}

func (h *Healer) ticked() { h.work() }
