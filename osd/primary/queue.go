package primary

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// objectTable finds the operation that holds an object: every write, delete,
// recovery or Hold does, one after another, in the order of arrival. The others
// are in its list behind.
type objectTable struct{ buckets [objectBuckets]*op }

// objectBuckets is about the number of operations that clients can have here.
const objectBuckets = 4096

func (t *objectTable) bucket(id meta.ObjectID) **op {
	h := (uint64(id.Inode)*0x9e3779b97f4a7c15 ^ id.Stripe) * 0xff51afd7ed558ccd
	return &t.buckets[h>>52]
}

// holder is the operation that holds the object, or nil.
func (t *objectTable) holder(id meta.ObjectID) *op {
	o := *t.bucket(id)
	for o != nil && o.oid != id {
		o = o.hashNext
	}
	return o
}

func (t *objectTable) put(o *op) {
	b := t.bucket(o.oid)
	o.hashNext, *b, o.holder = *b, o, true
}

func (t *objectTable) remove(o *op) {
	b := t.bucket(o.oid)
	for *b != o {
		invariant.Must(*b != nil, "primary: the holder of an object is not in the table")
		b = &(*b).hashNext
	}
	*b, o.hashNext, o.holder = o.hashNext, nil, false
}

// Busy tells whether an operation of the object (without role) runs or waits,
// plain reads excepted.
func (s *Server) Busy(id meta.ObjectID) bool { return s.objects.holder(id) != nil }

// later lets an operation go on after the present event.
func (s *Server) later(o *op) {
	o.phase = phaseReady
	s.ready.push(o)
	s.env.Exec.Defer(&s.readyTask)
}

// soon lets an operation go on when the present one has come to an end.
func (s *Server) soon(o *op) {
	o.phase = phaseReady
	s.ready.push(o)
}

// drain runs what is ready. Operations may end inside and make others ready:
// that does not begin a second time, so a long queue needs no deep stack.
func (s *Server) drain() {
	if s.draining {
		return
	}
	s.draining = true
	for o := s.ready.pop(); o != nil; o = s.ready.pop() {
		o.resume(o)
	}
	s.draining = false
}

// begin is the first step of every operation on an object: it takes its turn.
func (o *op) begin() {
	if !o.active() {
		o.fail(wire.EPIPE)
		return
	}
	if !o.queues {
		o.start()
		return
	}
	if h := o.s.objects.holder(o.oid); h != nil {
		o.phase = phaseQueued
		h.behind.push(o)
		return
	}
	o.s.objects.put(o)
	o.start()
}

// leaveObject gives the object to the next operation.
func (s *Server) leaveObject(o *op) {
	s.objects.remove(o)
	next := o.behind.pop()
	if next == nil {
		return
	}
	s.objects.put(next)
	o.behind.moveTo(&next.behind)
	next.resume = (*op).start
	s.soon(next)
}

// start executes the operation, whose turn it is. It is also where one begins
// again when things have changed.
func (o *op) start() {
	if !o.active() {
		o.fail(wire.EPIPE)
		return
	}
	p := o.pg
	if o.holder && p.objects.FlushPending(o.oid) {
		o.resume = (*op).start
		o.phase = phaseFlush
		p.flushWaiters.push(o)
		return
	}
	switch o.kind {
	case opRead:
		o.startRead()
	case opWrite:
		o.startWrite()
	case opDelete:
		o.startDelete()
	case opHold:
		o.granted()
	}
}

// restart executes the operation from the beginning.
func (o *op) restart() {
	o.retries++
	o.dropSubs()
	o.releaseMemory()
	o.forget()
	o.resume = (*op).start
	o.s.soon(o)
	o.s.drain()
}

// failQueued ends the writes that wait for the object of o with its error.
func (o *op) failQueued() {
	for w := o.behind.head; w != nil; {
		next := w.next
		if w.kind == opWrite {
			o.behind.remove(w)
			w.err = o.err
			w.resume = (*op).end
			o.s.soon(w)
		}
		w = next
	}
}

// awaitOutcome makes a read wait for the write w that has produced what it saw:
// a client must not see what may still be undone.
func (o *op) awaitOutcome(w *op) {
	o.phase = phaseOutcome
	w.reads.push(o)
}

// wakeReads lets reads go on that wait for what becomes of o.
func (o *op) wakeReads() {
	for r := o.reads.pop(); r != nil; r = o.reads.pop() {
		if r.resume = (*op).completeRead; o.err != wire.OK {
			r.resume = (*op).restart
		}
		o.s.soon(r)
	}
}
