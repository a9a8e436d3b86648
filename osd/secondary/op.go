package secondary

import (
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// Op is a secondary operation of our own primary, executed like those that
// come over the network. The caller owns it, sets the arguments of the embedded
// store.Op (all but its Done), submits it, and may reuse it when Done has begun.
type Op struct {
	store.Op
	// Recovery marks a subop of recovery or rebalance: it may be delayed.
	Recovery bool
	// Done is called once for each Submit, never inside it. Op.Err is the
	// result, Retval the same as a peer would be told it.
	Done func(op *Op)

	s       *Server
	code    wire.Op
	phase   phase
	retval  wire.Retval
	arrived env.Instant
	started env.Instant // with the store
	timer   env.Timer   // of delays and of work in slices

	prev, next *Op // in Server.active
	qnext      *Op // in an opQueue, or the free list

	// Requests of peers.
	r       *msgr.Request // nil = ours
	flags   wire.SecFlags
	scratch []byte // bitmap of a read, or a short answer
	items   []meta.ObjectVersion
	strange bool         // of a peer that is no OSD
	query   wire.SecList // the listing asked for
	answer  int          // bytes of bitmaps asked for
	bulk    *bulk        // memory of a long answer
	long    []byte       // memory of a long read
	cursor  int          // work in slices: items done
}

// phase tells where an operation is.
type phase uint8

const (
	phaseFree     phase = iota
	phaseDelayed        // for recovery, before the store
	phaseWaiting        // for memory or a slot
	phaseRunning        // in the store
	phaseWorking        // a long answer is being made
	phaseAfter          // delayed for recovery, after the store
	phaseReplying       // the answer is on its way
)

func (p phase) String() string {
	return [...]string{"free", "delayed", "waiting", "executing", "answering", "delayed after execution", "replying"}[p]
}

// Retval is the result as a peer would be told it: a length or an error.
func (op *Op) Retval() wire.Retval { return op.retval }

// CodeOf is the opcode that a peer would use.
func CodeOf(k store.OpKind) wire.Op {
	switch k {
	case store.OpRead:
		return wire.OpSecRead
	case store.OpWrite:
		return wire.OpSecWrite
	case store.OpWriteStable:
		return wire.OpSecWriteStable
	case store.OpDelete:
		return wire.OpSecDelete
	case store.OpSync:
		return wire.OpSecSync
	case store.OpStabilize:
		return wire.OpSecStabilize
	case store.OpRollback:
		return wire.OpSecRollback
	case store.OpList:
		return wire.OpSecList
	}
	return 0
}

// retvalOf translates a result of the store (wire.md §10).
func retvalOf(err syscall.Errno, bytes uint32) wire.Retval {
	switch err {
	case 0:
		return wire.Retval(bytes)
	case syscall.ESHUTDOWN: // the store is being closed: ask again, elsewhere
		return wire.EPIPE
	}
	return wire.RetvalOf(err)
}

// dataBytes is the length that a successful operation reports.
func (op *Op) dataBytes() uint32 {
	switch op.code {
	case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable:
		return op.Len
	}
	return 0
}

// opQueue is a FIFO of operations, linked through them.
type opQueue struct{ head, tail *Op }

func (q *opQueue) push(op *Op) {
	op.qnext = nil
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.qnext = op
	}
	q.tail = op
}

func (q *opQueue) pop() *Op {
	op := q.head
	if op == nil {
		return nil
	}
	if q.head = op.qnext; q.head == nil {
		q.tail = nil
	}
	op.qnext = nil
	return op
}

func (q *opQueue) empty() bool { return q.head == nil }

// activeList holds every operation that is not finished, oldest first.
type activeList struct {
	head, tail *Op
	count      int
}

func (l *activeList) add(op *Op) {
	op.prev, op.next = l.tail, nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
	l.count++
}

func (l *activeList) remove(op *Op) {
	if op.prev == nil {
		l.head = op.next
	} else {
		op.prev.next = op.next
	}
	if op.next == nil {
		l.tail = op.prev
	} else {
		op.next.prev = op.prev
	}
	op.prev, op.next = nil, nil
	l.count--
}

// slab makes the operations of requests in chunks and reuses them. There is
// one for each request that the messenger lets in, so it needs no other limit.
type slab struct {
	free         *Op
	made         int
	scratchBytes int
}

const (
	opsPerChunk  = 64
	scratchLeast = 256
	// itemsKept is the longest list of items for which an idle operation keeps
	// its memory.
	itemsKept = 256
)

// take returns the operation of a request.
func (s *Server) take(r *msgr.Request) *Op {
	b := &s.slab
	if b.free == nil {
		chunk := make([]Op, opsPerChunk)
		scratch := make([]byte, opsPerChunk*b.scratchBytes)
		for i := range chunk {
			op := &chunk[i]
			op.bind(s)
			op.scratch = scratch[i*b.scratchBytes : (i+1)*b.scratchBytes : (i+1)*b.scratchBytes]
			op.qnext, b.free = b.free, op
		}
		b.made += opsPerChunk
	}
	op := b.free
	b.free, op.qnext = op.qnext, nil
	invariant.Must(op.phase == phaseFree && op.r == nil, "secondary: an operation in use was taken for a free one")
	op.r, op.code, op.arrived = r, r.Op(), r.Arrived
	op.strange, op.flags, op.retval, op.cursor = r.Conn.OSD() == 0, 0, 0, 0
	return op
}

// put takes back the operation of a request.
func (s *Server) put(op *Op) {
	if cap(op.items) > itemsKept {
		op.items = nil
	}
	op.phase, op.r = phaseFree, nil
	op.Buf, op.Iov, op.Bitmap, op.Items, op.List = nil, nil, nil, nil, nil
	op.qnext, s.slab.free = s.slab.free, op
}

// bind sets the callbacks, once.
func (op *Op) bind(s *Server) {
	if op.s == s {
		return
	}
	op.s = s
	op.Op.Done = op.stored
	op.timer.Fire = op.fired
}
