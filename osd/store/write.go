package store

import (
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// runWrite goes on with a write that holds the lock of its object.
func (s *Store) runWrite(op *Op) {
	if op.step == stepPlace {
		s.placeBig(op)
		return
	}
	st := s.state(op.OID)
	switch {
	case st.newest != 0 && op.Version <= st.version:
		s.finish(op, syscall.EEXIST)
	case st.newest != 0 && op.Kind == OpWriteStable && !st.stable:
		s.finish(op, syscall.EINVAL)
	case st.newest == 0 || op.Len == s.geo.BlockBytes:
		s.writeBig(op)
	case s.inPlace(op, st):
		s.writeIntent(op, st)
	default:
		s.writeSmall(op, st)
	}
}

// inPlace tells whether all conditions of spec ondisk.md §6.3 hold, and
// whether writing in place is worth its second disk latency.
func (s *Store) inPlace(op *Op, st state) bool {
	atomic := s.cfg.AtomicWriteBytes
	if op.Kind != OpWriteStable || op.Len == 0 || op.Len > atomic || s.cached || !s.busy() ||
		s.geo.CsumBytes != 0 && s.geo.CsumBytes != s.geo.GranuleBytes {
		return false
	}
	if st.newest != st.head || !s.recs.entry(st.head).IsBig() || !s.recs.entry(st.head).Stable() {
		s.compact.urgent = true // the next write should be able to
		return false
	}
	at := uint64(s.blockOffset(uint32(s.recs.entry(st.head).Block()))) + uint64(op.Offset)
	return at/uint64(atomic) == (at+uint64(op.Len)-1)/uint64(atomic)
}

// blockOffset is the place of a data block on the data device.
func (s *Store) blockOffset(block uint32) int64 {
	return s.cfg.Areas.DataOffset + int64(block)*int64(s.geo.BlockBytes)
}

// extBitmap is the external bitmap that a write of op stores.
func (s *Store) extBitmap(op *Op, newest ref) meta.Bitmap {
	if len(op.Bitmap) != 0 {
		return op.Bitmap
	}
	if newest == 0 {
		return nil
	}
	return s.recs.entry(newest).ExtBitmap(&s.geo)
}

// writeBig takes a new data block and writes the data into it. Room for the
// entry is looked for when the data is there.
func (s *Store) writeBig(op *Op) {
	block, ok := s.takeBlock(op.OID.Inode)
	if !ok {
		s.waitSpace(op)
		return
	}
	op.path, op.block, op.step = pathBig, block, stepPlace
	s.counters.BigWrites++
	if op.Len == 0 {
		s.placeBig(op)
		return
	}
	s.counters.DataWrites++
	s.counters.DataWriteBytes += uint64(op.Len)
	s.writeData(op, s.dataDev, s.blockOffset(block)+int64(op.Offset), 0)
}

// writeData submits the data of op.
func (s *Store) writeData(op *Op, d *device, offset int64, flags env.DiskFlags) {
	op.disk.Kind, op.disk.Flags, op.disk.Offset = env.DiskWrite, flags, offset
	op.disk.Buf, op.disk.Iov = op.Buf, op.Iov
	s.ioStart()
	d.disk.Submit(&op.disk)
}

// diskDone is the completion of writeData.
func (op *Op) diskDone(d *env.DiskOp) {
	s := op.s
	dev := s.dataDev
	if op.path == pathSmall {
		dev = s.bufferDev
	}
	dev.wrote()
	if d.Err != nil {
		s.fatal("write", dev, d.Offset, int(op.Len), d.Err)
	}
	switch {
	case op.path != pathBig:
		s.partDone(op)
	case s.failed != nil:
		s.finish(op, syscall.EIO)
	case !s.dataDev.wait(op): // spec §6.1: the data is durable before the entry
		s.placeBig(op)
	}
	s.ioEnd()
}

// placeBig adds the BIG_WRITE entry of a written data block.
func (s *Store) placeBig(op *Op) {
	if s.failed != nil {
		s.finish(op, syscall.EIO)
		return
	}
	st := s.state(op.OID)
	stable := op.Kind == OpWriteStable
	if !stable && s.mustSettle(op, st) {
		return
	}
	w, wait := s.roomFor(op, st, s.geo.BigWriteBytes(), useNormal, false)
	if wait {
		return
	}
	if w == nil {
		s.waitSpace(op)
		return
	}
	r, ok := s.newRecord(op, s.geo.BigWriteBytes())
	if !ok {
		return
	}
	h := layout.Head{LSN: layout.LSN(s.lsn + 1), Object: op.OID, Version: op.Version, Stable: stable}
	e := s.geo.PutBigWrite(s.recs.bytes(r)[recHeader:], h, layout.BlockNum(op.block), s.extBitmap(op, st.newest), nil, nil)
	e.IntBitmap(&s.geo).SetBytes(op.Offset, op.Len, s.geo.GranuleBytes)
	s.fillBigCsums(e.Csums(&s.geo), op)
	e.Seal()
	op.pending = 1
	s.place(op, w, r)
}

// dropBig gives back the block of a write that gets no entry.
func (s *Store) dropBig(op *Op) {
	if op.path == pathBig && op.step == stepPlace {
		s.freeBlock(op.OID.Inode, op.block)
		op.path, op.step = pathPlain, stepStart
	}
}

// writeSmall writes the data to the buffer area and the entry in parallel: the
// checksum in the entry tells after a crash whether both are there.
func (s *Store) writeSmall(op *Op, st state) {
	size := s.geo.SmallWriteBytes(op.Offset, op.Len)
	location, ok := uint64(0), true
	if op.Len != 0 {
		location, ok = s.takeBuffer(op.Len)
	}
	if !ok {
		s.waitSpace(op)
		return
	}
	r := s.smallRecord(op, st, size)
	if r == 0 {
		if op.Len != 0 {
			s.freeBuffer(location, op.Len)
		}
		return
	}
	h := layout.Head{LSN: layout.LSN(s.lsn + 1), Object: op.OID, Version: op.Version, Stable: op.Kind == OpWriteStable}
	e := s.geo.PutSmallWrite(s.recs.bytes(r)[recHeader:], h, location, op.Offset, op.Len, s.extBitmap(op, st.newest), nil)
	s.fillWriteCsums(e.Csums(&s.geo), op)
	e.Seal()
	op.path, op.pending = pathSmall, 1
	s.counters.SmallWrites++
	s.place(op, op.write, r)
	if op.Len != 0 {
		op.pending++
		s.counters.BufferWrites++
		s.counters.BufferWriteBytes += uint64(op.Len)
		s.writeData(op, s.bufferDev, s.cfg.Areas.BufferOffset+int64(location), 0)
	}
}

// smallRecord finds room for a SMALL_WRITE of op and makes its record; 0 if op
// has to wait or has failed.
func (s *Store) smallRecord(op *Op, st state, size int) ref {
	w, wait := s.roomFor(op, st, size, useNormal, true)
	if wait {
		return 0
	}
	if w == nil {
		s.waitSpace(op)
		return 0
	}
	op.write = w
	r, _ := s.newRecord(op, size)
	return r
}

// writeIntent adds a BIG_INTENT with the state that the block will have; the
// data follows in place when the entry is durable.
func (s *Store) writeIntent(op *Op, st state) {
	size := s.geo.BigIntentBytes()
	w, wait := s.roomFor(op, st, size, useNormal, true)
	if wait {
		return
	}
	if w == nil {
		s.waitSpace(op)
		return
	}
	r, ok := s.newRecord(op, size)
	if !ok {
		return
	}
	base := s.recs.entry(st.head)
	h := layout.Head{LSN: layout.LSN(s.lsn + 1), Object: op.OID, Version: op.Version, Stable: true}
	e := s.geo.PutBigIntent(s.recs.bytes(r)[recHeader:], h, base.Block(), op.Offset, op.Len,
		s.extBitmap(op, st.head), base.IntBitmap(&s.geo), nil)
	e.IntBitmap(&s.geo).SetBytes(op.Offset, op.Len, s.geo.GranuleBytes)
	sums := e.Csums(&s.geo)
	if s.geo.CsumBytes == 0 {
		sums.Set(0, op.data().crc(0, 0, op.Len))
	} else {
		copy(sums, base.Csums(&s.geo))
		s.fillBigCsums(sums, op)
	}
	e.Seal()
	op.path, op.block, op.pending = pathIntent, uint32(base.Block()), 2
	s.counters.IntentWrites++
	s.place(op, w, r)
}

// roomFor finds room for the entry of op. wait means that op will be called
// again. chained entries mean something only together with what is under them:
// on a write-back disk they go into the block of the newest entry that is not
// durable yet, or wait until it is (spec §6.7).
func (s *Store) roomFor(op *Op, st state, size int, use metaUse, chained bool) (w *metaWrite, wait bool) {
	if s.windowFull() {
		invariant.Sometimes("store: the window of tickets is full")
		if s.cached {
			s.wantRound()
		}
		return nil, false
	}
	if s.cached && chained {
		if r := s.unsettled(st.head); r != 0 {
			return s.roomBeside(op, r, size, use)
		}
	}
	return s.chooseBlock(size, use), false
}

func (s *Store) roomBeside(op *Op, r ref, size int, use metaUse) (w *metaWrite, wait bool) {
	n := s.recs.block(r)
	if w := s.writeOf(n); w != nil && s.meta.table[n].state == blockWriting {
		w.followers.push(op)
		invariant.Sometimes("store: the block of an unsynced entry is being written")
		return nil, true
	}
	if !s.allows(n, size, use) {
		s.afterSettled(op, uint64(s.recs.entry(r).LSN()))
		invariant.Sometimes("store: no room beside an unsynced entry")
		return nil, true
	}
	if w := s.writeOf(n); w != nil {
		return w, false
	}
	return s.openBlock(n), false
}

// newRecord makes the record of an entry; without memory op fails.
func (s *Store) newRecord(op *Op, size int) (ref, bool) {
	r, err := s.recs.alloc(size)
	if err != nil {
		s.dropBig(op)
		s.finish(op, syscall.ENOMEM)
		return 0, false
	}
	return r, true
}

// place links the finished entry in record r into its object and block.
func (s *Store) place(op *Op, w *metaWrite, r ref) {
	s.recs.set(r, flagPending|flagUnsettled)
	op.ref, op.ticket = r, s.placed(r)
	invariant.Must(op.Kind == opCompactor || uint64(s.recs.entry(r).LSN()) == op.ticket, "store: LSN and ticket of an entry differ")
	if op.Kind == opCompactor {
		s.insertOver(op.OID, r, op.worker.over)
	} else if err := s.push(op.OID, r); err != nil {
		invariant.Fail("store: %v", err)
	}
	s.addEntry(w, r)
	w.lazy = op.Kind == opCompactor && (w.lazy || w.entries == 1)
	w.ops.push(op)
	s.env.Exec.Defer(&s.metaTask)
	if op.evaluating {
		s.evaluated(op)
	}
}

// metaDone: the metadata block with the entry of op is written.
func (s *Store) metaDone(op *Op) {
	if op.path == pathIntent && s.failed == nil {
		op.pending--
		s.intentSeq++
		flags := env.DiskFlags(0)
		if s.cfg.UseAtomicFlag {
			flags = env.DiskAtomic
		}
		s.counters.DataWrites++
		s.counters.DataWriteBytes += uint64(op.Len)
		s.writeData(op, s.dataDev, s.blockOffset(op.block)+int64(op.Offset), flags)
		return
	}
	if op.path == pathIntent {
		op.pending--
	}
	s.partDone(op)
}

// partDone: the entry or the data of op is written. With the last part the
// entry becomes visible and the operation is acknowledged.
func (s *Store) partDone(op *Op) {
	if op.pending--; op.pending != 0 {
		return
	}
	switch {
	case op.Kind == opCompactor && s.failed != nil:
		s.compactorPlaced(op)
		return
	case op.Kind == opRepair:
		op.Done(op)
		return
	case s.failed != nil:
		s.finish(op, syscall.EIO)
		return
	}
	s.recs.unset(op.ref, flagPending)
	s.ticketDone(op.ticket)
	switch op.Kind {
	case opCompactor:
		s.compactorPlaced(op)
	case OpWrite, OpWriteStable:
		s.counters.Writes++
		s.counters.UserWriteBytes += uint64(op.Len)
		if op.path == pathIntent {
			s.trimIntents()
		}
		s.acknowledge(op)
	case OpDelete:
		s.counters.Deletes++
		s.acknowledge(op)
	default:
		if op.parent.Kind == OpStabilize {
			s.counters.Stabilized++
		} else {
			s.counters.RolledBack++
		}
		s.finish(op, 0)
	}
}

// acknowledge reports success when the commit mode allows it.
func (s *Store) acknowledge(op *Op) {
	durable := s.cfg.Commit == CommitAll || s.cfg.Commit == CommitSmall && (op.Kind == OpDelete || op.Len < s.geo.BlockBytes)
	if s.cached && durable {
		op.step = stepFinish
		s.afterRound(op)
		return
	}
	if op.path == pathSmall && s.throttle(op) {
		return
	}
	s.finish(op, 0)
}

// runDelete adds a DELETE entry if there is something to delete.
func (s *Store) runDelete(op *Op) {
	st := s.state(op.OID)
	if st.head == 0 || s.recs.entry(st.head).Type() == layout.Delete {
		s.finish(op, 0)
		return
	}
	s.placePlain(op, st, layout.Delete, 0)
}

// placePlain adds a DELETE, COMMIT or ROLLBACK entry, or makes op wait.
func (s *Store) placePlain(op *Op, st state, t layout.EntryType, v meta.Version) {
	const size = 40
	w, wait := s.roomFor(op, st, size, useControl, t != layout.Delete)
	if wait {
		return
	}
	if w == nil {
		s.waitSpace(op)
		return
	}
	r, ok := s.newRecord(op, size)
	if !ok {
		return
	}
	dst, lsn := s.recs.bytes(r)[recHeader:], layout.LSN(s.lsn+1)
	switch t {
	case layout.Delete:
		layout.PutDelete(dst, lsn, op.OID)
	case layout.Commit:
		layout.PutCommit(dst, lsn, op.OID, v)
	case layout.Rollback:
		layout.PutRollback(dst, lsn, op.OID, v)
	}
	op.pending = 1
	s.place(op, w, r)
}
