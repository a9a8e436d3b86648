package primary

import (
	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// opKind is what an operation does.
type opKind uint8

const (
	opRead opKind = iota
	opWrite
	opDelete
	opHold
	opSync
)

// phase tells where an operation is.
type phase uint8

const (
	phaseFree      phase = iota
	phaseReady           // in Server.ready
	phaseQueued          // behind another operation of its object
	phaseFlush           // in pg.flushWaiters
	phaseMemory          // in Server.memWaiters
	phaseReading         // its reads are on their way
	phaseEpoch           // in pg.epochWaiters
	phaseWriting         // its writes, or deletes, are on their way
	phaseRollback        // ... and are being taken back
	phaseStabilize       // second phase of an EC write
	phaseRemoving        // copies in wrong places are being deleted
	phaseHeld            // a Hold that was granted
	phaseOutcome         // a read that waits for what becomes of a write
	phaseSync            // waits for a SYNC
	phaseReplying        // the reply is on its way
)

// waits tells that nothing of the operation is on its way: Stop ends it.
func (p phase) waits() bool {
	return p == phaseQueued || p == phaseFlush || p == phaseMemory || p == phaseEpoch
}

// op is one operation. It is taken from a slab, belongs to at most one list and
// at most one object's queue at a time, and is linked into its PG as long as it
// counts as in flight.
type op struct {
	s     *Server
	pg    *pg
	kind  opKind
	phase phase

	// Who wants it: one of these, or finish alone.
	r      *msgr.Request
	rec    *Recovery
	hold   *Hold
	finish func(o *op) // tells the result
	parent any         // of an operation inside of another one
	slot   int         // which of the parent's operations this is
	resume func(o *op) // what to do in phaseReady

	// Arguments.
	oid      meta.ObjectID // without role
	offset   uint64        // in the object
	length   uint32
	cas      meta.Version // condition: 0 = none, v = the version is v-1
	into     [][]byte     // memory for the data of a read
	recovery bool         // subops are RECOVERY_RELATED
	began    env.Instant

	// Result.
	err     wire.Retval  // OK or why it failed
	version meta.Version // that was read, or is being written; with EINTR the present one

	// State of the object as it was looked up.
	record *peering.Record // nil = clean; to be compared, not followed
	state  meta.ObjectState
	limit  meta.Version // what reads ask for
	old    meta.Version // that a write or delete replaces
	known  bool         // old is known
	whole  bool         // replicas: the whole block is written
	damage wire.Retval  // why the reading had to begin again

	plan    ec.Plan
	chunks  []chunk
	bm      []byte // bitmaps of all chunks, one after another
	payload [][]byte
	copied  uint64 // bytes written to all replicas together
	pieces  [][]byte
	scratch []peering.Location

	pending int // subops without an answer
	subs    *sub
	lastSub *sub
	failed  int // subops
	ok      int // subops
	dropped bool
	retries int
	queues  bool // goes through its object's queue
	holder  bool // first in its object's queue
	lazy    bool // written, but not durable before a SYNC
	leaving bool // counts in pg.leaving
	stale   int  // of a DELETE: older copies, first in scratch, that are deleted first
	fresh   bool // EC: the object does not exist, there is nothing to read
	buried  bool // a DELETE that has left an empty object

	behind list // operations that wait for the object
	reads  list // reads that wait for the outcome

	hashNext       *op // in Server.objects
	prev, next     *op // in q
	q              *list
	pgPrev, pgNext *op // in pg
}

// chunk is what an operation knows of one chunk of its object.
type chunk struct {
	from   meta.OSDNum // to read from, 0 = not read
	need   ec.Need
	read   ec.Range
	direct bool   // data goes to op.into without a copy
	buf    []byte // of the range read, if it is in own memory
	out    []byte // parity to be written
	bitmap []byte // part of op.bm
	// Results of reading.
	absent  bool
	err     wire.Retval
	version meta.Version
}

const opsPerChunk = 32

// takeOp returns an empty operation that belongs to p, which may be nil.
func (s *Server) takeOp(kind opKind, p *pg) *op {
	if s.freeOps == nil {
		slab := make([]op, opsPerChunk)
		for i := range slab {
			slab[i].s = s
			slab[i].next, s.freeOps = s.freeOps, &slab[i]
		}
		s.opsMade += opsPerChunk
	}
	o := s.freeOps
	s.freeOps, o.next = o.next, nil
	invariant.Must(o.phase == phaseFree && o.q == nil && o.pg == nil, "primary: an operation in use was taken for a free one")
	o.kind, o.phase, o.began = kind, phaseReady, s.env.Clock.Now()
	o.resume = (*op).begin
	o.reset()
	if p != nil {
		p.add(o)
	}
	return o
}

// reset clears what an earlier use may have left.
func (o *op) reset() {
	o.r, o.rec, o.hold, o.finish, o.parent, o.into = nil, nil, nil, nil, nil, nil
	o.offset, o.length, o.cas, o.recovery = 0, 0, 0, false
	o.err, o.damage, o.version, o.retries = wire.OK, wire.OK, 0, 0
	o.queues, o.holder, o.lazy, o.leaving, o.buried = false, false, false, false, false
	o.forget()
}

// forget clears what was looked up, so that the operation can begin again.
func (o *op) forget() {
	o.record, o.state, o.limit, o.old, o.known = nil, 0, 0, 0, false
	o.whole, o.fresh, o.dropped, o.copied = false, false, false, 0
	o.failed, o.ok, o.stale = 0, 0, 0
}

// putOp takes an operation back.
func (s *Server) putOp(o *op) {
	invariant.Must(o.q == nil && o.pg == nil && o.subs == nil && !o.holder && o.behind.head == nil && o.reads.head == nil,
		"primary: an operation ends while something hangs on it")
	o.phase, o.r, o.rec, o.hold, o.finish, o.parent, o.into, o.record = phaseFree, nil, nil, nil, nil, nil, nil, nil
	o.next, s.freeOps = s.freeOps, o
}

// fail ends the operation with an error.
func (o *op) fail(err wire.Retval) {
	o.err = err
	o.end()
}

// end is the end of every operation: it leaves its queue, gives memory back,
// tells the result and leaves the PG.
func (o *op) end() {
	s, p := o.s, o.pg
	invariant.Must(o.pending == 0, "primary: an operation ends before its subops")
	if o.q != nil {
		o.q.remove(o)
	}
	o.dropSubs()
	o.releaseMemory()
	o.wakeReads()
	if o.holder {
		s.leaveObject(o)
	}
	if o.leaving {
		o.leaving = false
		p.leaving--
		p.changed()
	}
	o.finish(o)
	if p != nil {
		p.remove(o)
	}
	if o.phase != phaseReplying {
		s.putOp(o)
	}
	s.drain()
}

// active tells whether the operation may go on with its PG.
func (o *op) active() bool { return o.pg != nil && o.pg.active }

// prepareChunks makes n chunks without contents.
func (o *op) prepareChunks(n int) {
	bytes := o.s.bitmapBytes
	if cap(o.chunks) < n {
		o.chunks = make([]chunk, n)
	}
	o.chunks = o.chunks[:n]
	if cap(o.bm) < n*bytes {
		o.bm = make([]byte, n*bytes)
	}
	o.bm = o.bm[:n*bytes]
	clear(o.bm)
	for i := range o.chunks {
		o.chunks[i] = chunk{bitmap: o.bm[i*bytes : (i+1)*bytes : (i+1)*bytes]}
	}
}

// list is a FIFO of operations that wait for the same thing.
type list struct{ head, tail *op }

func (l *list) push(o *op) {
	invariant.Must(o.q == nil, "primary: an operation waits for two things")
	o.q, o.prev, o.next = l, l.tail, nil
	if l.tail == nil {
		l.head = o
	} else {
		l.tail.next = o
	}
	l.tail = o
}

func (l *list) remove(o *op) {
	if o.prev == nil {
		l.head = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		l.tail = o.prev
	} else {
		o.next.prev = o.prev
	}
	o.prev, o.next, o.q = nil, nil, nil
}

func (l *list) pop() *op {
	o := l.head
	if o != nil {
		l.remove(o)
	}
	return o
}

// moveTo appends everything to m.
func (l *list) moveTo(m *list) {
	for o := l.pop(); o != nil; o = l.pop() {
		m.push(o)
	}
}
