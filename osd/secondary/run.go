package secondary

import (
	"time"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// Submit executes an operation of our own primary. PG locks are not asked: they
// are for others.
func (s *Server) Submit(op *Op) {
	invariant.Must(op.phase == phaseFree, "secondary: an operation was submitted while it is running")
	op.bind(s)
	op.code, op.arrived, op.retval = CodeOf(op.Kind), s.env.Clock.Now(), 0
	s.admit(op)
}

// admit begins an operation whose form is right.
func (s *Server) admit(op *Op) {
	if op.r != nil {
		op.Recovery = op.flags&wire.FlagRecovery != 0
	}
	s.active.add(op)
	if op.code == wire.OpSecList {
		s.hurry() // the listing has to show what came before it
	}
	if d := s.delayBefore(op); d > 0 {
		s.delay(op, phaseDelayed, d)
		return
	}
	s.equip(op)
}

// equip gives op the memory it needs besides that of the request, or makes it
// wait.
func (s *Server) equip(op *Op) {
	op.phase = phaseWaiting
	switch {
	case op.r == nil && op.code != wire.OpSecList: // a listing stays behind what waits
		s.start(op)
		return
	case op.r == nil:
	case s.needsBulk(op):
		if !s.laneOf(op).equip(op) {
			return
		}
	case op.Kind == store.OpRead && op.Len > pinned.MaxBufferBytes:
		if !s.longReads.equip(op, s.config.BlockBytes) {
			return
		}
	}
	s.enqueue(op)
}

// enqueue starts op when it is its turn.
func (s *Server) enqueue(op *Op) {
	if s.running >= s.config.Limits.Running || !s.waiting.empty() {
		s.stats.Waits++
		s.waiting.push(op)
		return
	}
	s.start(op)
}

// fill gives free slots to those who wait. Operations may finish inside: that
// does not begin a second time.
func (s *Server) fill() {
	if s.filling {
		return
	}
	s.filling = true
	for s.running < s.config.Limits.Running && !s.waiting.empty() {
		s.start(s.waiting.pop())
	}
	s.filling = false
}

// start executes op, if it may still be executed.
func (s *Server) start(op *Op) {
	op.started = s.env.Clock.Now()
	if op.r != nil {
		if !s.permitted(op) {
			op.retval = wire.EPIPE
			s.end(op)
			return
		}
		s.running++
	}
	op.phase = phaseRunning
	if op.code == wire.OpSecList {
		s.noteLister(op)
	}
	switch {
	case op.code == wire.OpSecReadBmp:
		s.workOn(op)
		return
	case op.bulk != nil:
		op.prepareList()
	}
	s.store.Submit(&op.Op)
}

// stored is the completion of the store.
func (op *Op) stored(*store.Op) {
	s := op.s
	op.retval = retvalOf(op.Err, op.dataBytes())
	switch {
	case op.r == nil:
	case op.code == wire.OpSecList && op.Err == 0:
		s.workOn(op) // the answer is made in slices
		return
	case op.long != nil:
		if op.Err == 0 {
			spread(op.r.Body, op.long[:op.Len])
		}
		s.longReads.release(op)
	}
	s.executed(op)
}

// executed ends the part that counts: statistics, slot, delay, reply.
func (s *Server) executed(op *Op) {
	s.account(op)
	if op.r != nil {
		s.running--
	}
	if op.code == wire.OpSecStabilize && op.Recovery && s.delays.pause > 0 {
		s.delay(op, phaseAfter, s.delays.pause)
	} else {
		s.end(op)
	}
	s.fill()
}

// end tells the result to whoever asked.
func (s *Server) end(op *Op) {
	s.active.remove(op)
	if op.r != nil {
		s.reply(op)
	} else {
		op.phase = phaseFree
		op.Done(op)
	}
	if s.closed != nil && s.active.head == nil {
		s.env.Clock.Arm(&s.delays.idle, 0)
	}
}

// reply answers a request.
func (s *Server) reply(op *Op) {
	r, ret := op.r, op.retval
	if op.bulk != nil && (ret.Failed() || len(op.bulk.out) == 0) {
		s.releaseBulk(op)
	}
	if op.long != nil { // it was not executed
		s.longReads.release(op)
	}
	if ret.Failed() {
		s.put(op)
		r.Fail(ret)
		return
	}
	switch op.code {
	case wire.OpSecRead:
		(&wire.SecRwReply{Op: op.code, Retval: ret, Version: op.Version, AttrLen: uint32(s.bitmap)}).Encode(&r.Reply)
		r.ReplyParts = append(append(r.ReplyParts, op.Bitmap), r.Body...)
	case wire.OpSecWrite, wire.OpSecWriteStable:
		(&wire.SecRwReply{Op: op.code, Retval: ret, Version: op.Version}).Encode(&r.Reply)
	case wire.OpSecDelete:
		(&wire.SecDelReply{Retval: ret, Version: op.Version}).Encode(&r.Reply)
	case wire.OpSecList:
		(&wire.SecListReply{Retval: ret, StableCount: uint64(op.bulk.stable())}).Encode(&r.Reply)
	default:
		(&wire.StatusReply{Op: op.code, Retval: ret}).Encode(&r.Reply)
	}
	if op.bulk != nil {
		r.ReplyParts = append(r.ReplyParts, op.bulk.out)
	} else if op.code == wire.OpSecReadBmp && ret > 0 {
		r.ReplyParts = append(r.ReplyParts, op.scratch[:ret])
	}
	if len(r.ReplyParts) == 0 {
		s.put(op)
	} else {
		op.phase, r.User, r.Sent = phaseReplying, op, s.sent
	}
	r.Finish()
}

// replySent takes back what a reply was sent from.
func (s *Server) replySent(r *msgr.Request) {
	op := r.User.(*Op)
	if op.bulk != nil {
		s.releaseBulk(op)
	}
	s.put(op)
}

// fired is the timer of op.
func (op *Op) fired() {
	s := op.s
	switch op.phase {
	case phaseDelayed:
		s.delays.count--
		s.equip(op)
	case phaseAfter:
		s.end(op)
	case phaseWorking:
		s.workOn(op)
	default:
		invariant.Fail("secondary: timer of %v operation %v", op.phase, op.code)
	}
}

// SlowOp describes an operation that is being executed for a long time.
type SlowOp struct {
	Code  wire.Op
	OID   meta.ObjectID // of operations on one object
	Conn  *msgr.Conn    // nil = of our own primary
	Age   time.Duration
	State string
}

// SlowOps calls f for every operation that is at least age old, oldest first,
// and returns their number. f must not submit or finish operations.
func (s *Server) SlowOps(age time.Duration, f func(o SlowOp)) (n int) {
	now := s.env.Clock.Now()
	for op := s.active.head; op != nil; op = op.next {
		d := now.Sub(op.arrived)
		if d < age {
			continue // a payload may have taken long to arrive: not the end
		}
		o := SlowOp{Code: op.code, OID: op.OID, Age: d, State: op.phase.String()}
		if op.r != nil {
			o.Conn = op.r.Conn
		}
		f(o)
		n++
	}
	return n
}
