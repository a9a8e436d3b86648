package primary

import (
	"fmt"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// sub is one request to one OSD, this one included, on behalf of an operation or
// of a SYNC. It stays in the list of its owner until the owner has looked at the
// results of all.
type sub struct {
	s     *Server
	to    subOwner
	next  *sub // in the owner's list, or free
	queue *sub // in Server.lostSubs, which may have several of one owner
	osd   meta.OSDNum
	role  meta.Role
	item  meta.ObjectVersion // what it is about
	began env.Instant

	conn   *msgr.Conn // nil = this OSD, or there is no connection
	remote msgr.Op
	local  secondary.Op
	parts  [][]byte
	list   wire.ObjectList
	items  []meta.ObjectVersion

	ret     wire.Retval
	version meta.Version
	lost    bool // no answer
	whole   bool // a write of the whole chunk
}

// subOwner is told of every answer.
type subOwner interface{ answered(b *sub) }

const subsPerChunk = 32

// listKept is the longest list, in items, whose memory an idle sub keeps.
const listKept = 4096

// takeSub returns an empty request to an OSD.
func (s *Server) takeSub(to subOwner, osd meta.OSDNum, role meta.Role) *sub {
	if s.freeSubs == nil {
		slab := make([]sub, subsPerChunk)
		for i := range slab {
			b := &slab[i]
			b.s = s
			b.remote.Done, b.local.Done = b.remoteDone, b.localDone
			b.next, s.freeSubs = s.freeSubs, b
		}
		s.subsMade += subsPerChunk
	}
	b := s.freeSubs
	s.freeSubs, b.next = b.next, nil
	b.to, b.osd, b.role = to, osd, role
	b.ret, b.version, b.lost, b.whole, b.conn = wire.OK, 0, false, false, nil
	b.remote.Payload, b.remote.Attr, b.remote.Body = nil, nil, nil
	b.local.Buf, b.local.Iov, b.local.Bitmap, b.local.Items = nil, nil, nil, nil
	b.parts, b.list, b.items = b.parts[:0], b.list[:0], b.items[:0]
	return b
}

func (s *Server) putSub(b *sub) {
	if cap(b.items) > listKept || b.list.Len() > listKept {
		b.items, b.list = nil, nil
	}
	b.to, b.conn = nil, nil
	b.next, s.freeSubs = s.freeSubs, b
}

// reachable tells whether requests to the OSD can be sent now.
func (s *Server) reachable(osd meta.OSDNum) bool {
	return osd == s.config.OSD || s.peers.Conn(osd) != nil
}

// submitRemote sends an encoded request.
func (b *sub) submitRemote() {
	b.began = b.s.env.Clock.Now()
	if b.conn = b.s.peers.Conn(b.osd); b.conn != nil {
		b.conn.Submit(&b.remote)
		return
	}
	b.queue, b.s.lostSubs = b.s.lostSubs, b // was reachable a moment ago: rare
	b.s.env.Exec.Defer(&b.s.lostTask)
}

// failLost answers requests that could not be sent.
func (s *Server) failLost() {
	for s.lostSubs != nil {
		b := s.lostSubs
		s.lostSubs, b.queue = b.queue, nil
		b.ret, b.lost = wire.EPIPE, true
		b.to.answered(b)
	}
	s.drain()
}

func (b *sub) submitLocal(recovery bool) {
	b.local.Recovery = recovery
	b.s.local.Submit(&b.local)
}

func (b *sub) remoteDone(m *msgr.Op) {
	b.ret, b.lost = m.Retval, m.Lost
	code := m.Packet.Op()
	if !m.Lost {
		bytes := uint64(0)
		switch code {
		case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable:
			var reply wire.SecRwReply
			reply.Decode(&m.Reply)
			b.version = reply.Version
			bytes = uint64(max(m.Retval, 0))
		}
		b.s.stats.SubOps[code].add(bytes, uint64(b.s.env.Clock.Now().Sub(b.began)))
	}
	b.to.answered(b)
	b.s.drain()
}

func (b *sub) localDone(l *secondary.Op) {
	b.ret, b.version = l.Retval(), l.Version
	b.to.answered(b)
	b.s.drain()
}

// isLocal tells whether the request is to this OSD.
func (b *sub) isLocal() bool { return b.osd == b.s.config.OSD }

// read asks for a part of a chunk, into buf or, of another OSD, the parts of body.
func (b *sub) read(id meta.ObjectID, limit meta.Version, offset, length uint32, buf []byte, bitmap []byte, flags wire.SecFlags) {
	if b.isLocal() {
		l := &b.local
		l.Kind, l.OID, l.Version, l.Offset, l.Len = store.OpRead, id, limit, offset, length
		l.Buf, l.Bitmap = buf, bitmap
		b.submitLocal(flags&wire.FlagRecovery != 0)
		return
	}
	(&wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: limit, Offset: offset, Len: length, Flags: flags}).Encode(&b.remote.Packet)
	b.remote.Attr = bitmap
	if len(b.parts) == 0 && length > 0 {
		b.parts = append(b.parts, buf)
	}
	b.remote.Body = b.parts
	b.submitRemote()
}

// write sends a version of a chunk. parts begin with the bitmap.
func (b *sub) write(code wire.Op, id meta.ObjectID, v meta.Version, offset, length uint32, parts [][]byte, flags wire.SecFlags) {
	if b.isLocal() {
		l := &b.local
		l.Kind, l.OID, l.Version, l.Offset, l.Len = store.OpWriteStable, id, v, offset, length
		if code == wire.OpSecWrite {
			l.Kind = store.OpWrite
		}
		l.Bitmap = parts[0]
		if data := parts[1:]; len(data) == 1 {
			l.Buf = data[0]
		} else {
			l.Iov = data
		}
		b.submitLocal(flags&wire.FlagRecovery != 0)
		return
	}
	(&wire.SecRw{Op: code, Chunk: id, Version: v, Offset: offset, Len: length, AttrLen: uint32(len(parts[0])), Flags: flags}).Encode(&b.remote.Packet)
	b.remote.Payload = parts
	b.submitRemote()
}

// delete removes a chunk.
func (b *sub) delete(id meta.ObjectID, v meta.Version, flags wire.SecFlags) {
	b.item = meta.ObjectVersion{ObjectID: id, Version: v}
	if b.isLocal() {
		b.local.Kind, b.local.OID, b.local.Version = store.OpDelete, id, v
		b.submitLocal(flags&wire.FlagRecovery != 0)
		return
	}
	(&wire.SecDel{Chunk: id, Version: v, Flags: flags}).Encode(&b.remote.Packet)
	b.submitRemote()
}

// add puts an item into the list of a stabilize or rollback.
func (b *sub) add(v meta.ObjectVersion) {
	if b.isLocal() {
		b.items = append(b.items, v)
	} else {
		b.list = b.list.Append(v)
	}
}

// settle makes the items of the list stable, or rolls them back.
func (b *sub) settle(code wire.Op, flags wire.SecFlags) {
	if b.isLocal() {
		b.local.Kind, b.local.Items = store.OpStabilize, b.items
		if code == wire.OpSecRollback {
			b.local.Kind = store.OpRollback
		}
		b.submitLocal(flags&wire.FlagRecovery != 0)
		return
	}
	(&wire.SecStab{Op: code, Len: uint64(len(b.list)), Flags: flags}).Encode(&b.remote.Packet)
	b.parts = append(b.parts, b.list)
	b.remote.Payload = b.parts
	b.submitRemote()
}

// sync makes the OSD's writes durable.
func (b *sub) sync() {
	if b.isLocal() {
		b.local.Kind = store.OpSync
		b.submitLocal(false)
		return
	}
	(&wire.SecSync{}).Encode(&b.remote.Packet)
	b.submitRemote()
}

// tolerated are failures that an OSD may have and still be a good member of its
// PGs (wire.md §10).
func tolerated(code wire.Op, ret wire.Retval) bool {
	switch ret {
	case wire.EDOM, wire.ERANGE:
		return true
	case wire.ENOENT:
		return code == wire.OpSecRead
	case wire.EIO:
		return code == wire.OpSecRead || code == wire.OpSecWrite || code == wire.OpSecWriteStable
	case wire.ENOSPC:
		return code == wire.OpSecWrite || code == wire.OpSecWriteStable || code == wire.OpSecDelete
	}
	return false
}

// code is the opcode of the request.
func (b *sub) code() wire.Op {
	if !b.isLocal() {
		return b.remote.Packet.Op()
	}
	return secondary.CodeOf(b.local.Kind)
}

// judge looks at a failure. What no good member of a PG answers costs another
// OSD its connection, so that the PG peers again, and ends this one. It returns
// the error as the client should see it, and whether the PG lost the OSD.
func (b *sub) judge() (err wire.Retval, dropped bool) {
	code := b.code()
	switch {
	case !b.ret.Failed():
		return wire.OK, false
	case b.lost:
		return wire.EPIPE, true
	case tolerated(code, b.ret):
		if b.isLocal() && b.ret == wire.EIO && code != wire.OpSecRead {
			b.s.config.Fatal(fmt.Errorf("%v of %v: the store failed", code, b.subject()))
		}
		return b.ret, false
	case b.isLocal():
		if b.ret != wire.EPIPE { // the store is being closed
			b.s.config.Fatal(fmt.Errorf("%v of %v: the store answers %v", code, b.subject(), b.ret))
		}
	default:
		b.conn.Drop(fmt.Errorf("%v of %v: unexpected answer %v", code, b.subject(), b.ret))
	}
	return wire.EPIPE, true
}

// subject is the object version that the request is about.
func (b *sub) subject() meta.ObjectVersion {
	switch b.code() {
	case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable:
		if b.isLocal() {
			return meta.ObjectVersion{ObjectID: b.local.OID, Version: b.local.Version}
		}
		var q wire.SecRw
		q.Decode(&b.remote.Packet)
		return meta.ObjectVersion{ObjectID: q.Chunk, Version: q.Version}
	case wire.OpSecSync:
		return meta.ObjectVersion{}
	}
	if len(b.items) > 0 {
		return b.items[0]
	}
	if b.list.Len() > 0 {
		return b.list.At(0)
	}
	return b.item
}

// errorRank orders errors by what the client is told of several (wire.md §10).
func errorRank(err wire.Retval) int {
	switch err {
	case wire.OK:
		return 0
	case wire.EPIPE:
		return 1
	case wire.EDOM:
		return 2
	case wire.EIO:
		return 3
	case wire.ENOSPC:
		return 5
	}
	return 4
}

// sub takes a request of the operation.
func (o *op) sub(osd meta.OSDNum, role meta.Role) *sub {
	b := o.s.takeSub(o, osd, role)
	if o.lastSub == nil {
		o.subs = b
	} else {
		o.lastSub.next = b
	}
	o.lastSub = b
	o.pending++
	return b
}

// dropSubs takes back the requests of a finished phase.
func (o *op) dropSubs() {
	invariant.Must(o.pending == 0, "primary: requests are dropped that were not answered")
	for o.subs != nil {
		b := o.subs
		o.subs = b.next
		o.s.putSub(b)
	}
	o.lastSub = nil
}

// flags are those of all requests of the operation.
func (o *op) flags() wire.SecFlags {
	if o.recovery {
		return wire.FlagRecovery
	}
	return 0
}

// hold keeps the phase from ending while its requests are being sent; sent ends
// that.
func (o *op) holdPhase(p phase) {
	o.dropSubs()
	o.phase, o.failed, o.ok, o.dropped = p, 0, 0, false
	o.pending++
}

func (o *op) sent() {
	if o.pending--; o.pending == 0 {
		o.phaseDone()
	}
}

// answered counts the answer to a request; the last one ends the phase.
func (o *op) answered(b *sub) {
	if o.phase == phaseReading {
		o.readAnswered(b)
	}
	if o.pending--; o.pending == 0 {
		o.phaseDone()
	}
}

// count sums up the results of a phase that changes something.
func (o *op) count() (worst wire.Retval) {
	for b := o.subs; b != nil; b = b.next {
		err, dropped := b.judge()
		o.dropped = o.dropped || dropped
		if err == wire.OK {
			o.ok++
			continue
		}
		o.failed++
		if errorRank(err) > errorRank(worst) {
			worst = err
		}
	}
	return worst
}

// phaseDone goes on when all requests of the phase were answered.
func (o *op) phaseDone() {
	switch o.phase {
	case phaseReading:
		o.readsDone()
	case phaseWriting:
		if o.kind == opDelete {
			o.deletesDone()
		} else {
			o.writesDone()
		}
	case phaseRollback:
		o.rolledBack()
	case phaseStabilize:
		o.stabilized()
	case phaseRemoving:
		o.removed()
	default:
		invariant.Fail("primary: answers in phase %d", o.phase)
	}
}
