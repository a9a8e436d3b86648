// Package store is the object store of an OSD: one disk (or three devices),
// versioned objects of one block each. Spec: store.md §1, ondisk.md.
//
// It guarantees what spec store.md §1 asks for: after a power cut at any
// moment every version exists completely or not at all, a durable one is
// there, an acknowledged but unsynced one may be missing only together with
// everything newer of its object, and nothing that was deleted, replaced or
// rolled back returns. The disks stay readable for release 3.0.8 and back.
//
// Concurrency: everything runs on the loop of the env.Env given to Open. Steady
// state allocates nothing: operations belong to the caller, entries live
// outside of the Go heap.
//
// How a write goes through the files:
//
//	store.go     Submit: admission and the lock of the object
//	write.go     which path: new block, buffer area, or in place by intent
//	metablock.go its entry joins others in a metadata block (group commit)
//	effects.go   acknowledged and durable: what it replaced becomes garbage
//	compact.go   buffered data moves into its block when there is time for it
//
// state: records.go (entries), index.go (objects), chain.go (what entries mean),
// bits.go and space.go (data blocks, buffer area), device.go and round.go
// (syncs); start-up: config.go, open.go, load.go, verify.go.
package store

import (
	"fmt"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// Store is an open object store.
type Store struct {
	env    *env.Env
	cfg    Config
	geo    layout.Geometry
	cached bool // some device has a volatile cache

	devices                     []*device // each once
	dataDev, metaDev, bufferDev *device
	pool                        *pinned.Pool

	// What is stored.
	recs      *records
	index     *index
	meta      metaBlocks
	blocks    *blockBits
	releasing []uint64 // data blocks whose last owner is in limbo
	buffer    *granuleBits
	inodes    map[meta.Inode]uint64

	// LSNs, tickets and their effects.
	lsn, completed, effective uint64
	durableLSN                uint64 // highest LSN of an effective entry
	window                    []ticket
	lsnWaiters                opQueue
	deletes                   fifo[deleted]
	deleteClock               uint64
	limbo                     [2]limbo
	generation                uint8
	grace                     grace
	round                     round
	trim                      trimmer

	// Operations.
	locks       locks
	runq, doneq opQueue
	admission   opQueue // more writes than MaxWriteDepth
	spaceq      opQueue // writes that wait for space
	bufferq     opQueue // reads that wait for buffer memory
	writing     int     // mutations admitted
	depth       int     // average of writing, times depthScale
	barrier     barrier
	reads       readPool
	items       itemPool
	compact     compaction
	discard     discarder
	resharder   resharder
	retrying    bool // spaceq is being worked on
	io          int  // disk requests under way
	active      int  // operations submitted and not finished
	intentSeq   uint64

	metaReserve int // roomy metadata blocks that normal writes leave
	counters    Counters

	runTask, doneTask, metaTask, roundTask, wakeTask env.Task

	failed              error // a write failed: nothing is acknowledged any more
	closing             func(error)
	closeOp             Op
	closeSynced, closed bool
}

// opState is the part of an Op that belongs to the store.
type opState struct {
	s           *Store
	bound       bool // callbacks are set
	step        step
	path        path
	locked      bool
	admitted    bool
	counted     bool // in the barrier
	compacted   bool // rollback: a compaction came first
	pending     uint8
	phase       uint64 // see barrier
	qnext       *Op
	lockNext    *Op
	lockWaiters opQueue

	disk       env.DiskOp
	write      *metaWrite
	ref        ref
	ticket     uint64
	block      uint32 // new data block
	syncTarget uint64
	started    env.Instant
	timer      env.Timer

	// Lists of items, see items.go.
	parent               *Op // of an item
	cursor, running      int
	stopped              syscall.Errno
	parked               bool
	evaluating, detached bool

	worker *compactor
}

// step is where an operation goes on when its turn comes.
type step uint8

const (
	stepStart  step = iota // evaluate the arguments against the object's state
	stepAdmit              // lock the object first
	stepPlace              // new block: data is written (and synced), place the entry
	stepSynced             // list of items: everything is durable
	stepFinish             // report success
)

// path is the way a write takes.
type path uint8

const (
	pathPlain  path = iota // entry only
	pathBig                // data to a new block, then the entry
	pathSmall              // entry and data in the buffer area in parallel
	pathIntent             // entry, then data in place
)

// Submit starts op; op.Done is called when it is finished, never inside Submit.
func (s *Store) Submit(op *Op) {
	op.prepare(s)
	s.active++
	if err := s.refuse(op); err != 0 {
		s.finish(op, err)
		return
	}
	switch op.Kind {
	case OpRead:
		s.startRead(op)
	case OpWrite, OpWriteStable, OpDelete:
		s.barrier.enter(op)
		s.admit(op)
	case OpSync:
		s.counters.Syncs++
		op.step = stepFinish
		s.afterRound(op)
	case OpStabilize, OpRollback:
		s.barrier.enter(op)
		s.startItems(op)
	case OpList:
		s.startList(op)
	case OpCompact:
		s.startCompactAll(op)
	}
}

func (op *Op) prepare(s *Store) {
	invariant.Must(op.qnext == nil && !op.locked, "store: an operation was submitted while it is running")
	op.s, op.Err = s, 0
	op.step, op.path, op.pending, op.compacted = stepStart, pathPlain, 0, false
	op.ref, op.cursor, op.running, op.parent = 0, 0, 0, nil
	if !op.bound {
		op.bound = true
		op.disk.Done = op.diskDone
		op.timer.Fire = op.timerFired
	}
}

// refuse finds arguments that no state of the store makes right.
func (s *Store) refuse(op *Op) syscall.Errno {
	switch {
	case s.failed != nil:
		return syscall.EIO
	case s.closing != nil:
		return syscall.ESHUTDOWN
	}
	switch op.Kind {
	case OpRead, OpWrite, OpWriteStable:
		if !s.geo.Aligned(op.Offset, op.Len) || op.Offset >= s.geo.BlockBytes ||
			len(op.Bitmap) != 0 && len(op.Bitmap) != s.geo.BitmapBytes() || op.dataBytes() != uint64(op.Len) {
			return syscall.EINVAL
		}
		if op.Kind != OpRead && op.Version == 0 || op.Kind == OpRead && len(op.Iov) != 0 || len(op.Iov) > env.DiskIovMax {
			return syscall.EINVAL
		}
	case OpList:
		if op.List == nil {
			return syscall.EINVAL
		}
	case OpDelete, OpSync, OpStabilize, OpRollback, OpCompact:
	default:
		return syscall.EINVAL
	}
	return 0
}

// dataBytes is the length of Buf or Iov.
func (op *Op) dataBytes() uint64 {
	if len(op.Iov) == 0 {
		return uint64(len(op.Buf))
	}
	n := uint64(0)
	for _, p := range op.Iov {
		n += uint64(len(p))
	}
	return n
}

// admit lets a limited number of mutations run and locks their objects.
func (s *Store) admit(op *Op) {
	if s.writing >= s.cfg.MaxWriteDepth {
		s.admission.push(op)
		return
	}
	s.writing++
	op.admitted = true
	s.depth += (s.writing*depthScale - s.depth) / depthWeight
	op.started = s.env.Clock.Now()
	if s.locks.take(op) {
		s.run(op)
	}
}

// The number of writes in flight is averaged over depthWeight writes.
const (
	depthScale  = 256
	depthWeight = 16
)

// busy tells whether so many writes are in flight that each byte written
// matters more than the latency of one of them.
func (s *Store) busy() bool {
	return s.cfg.IntentDepth == 1 || s.cfg.IntentDepth > 1 && s.depth >= s.cfg.IntentDepth*depthScale*3/4
}

// ready makes op go on when the current event is over.
func (s *Store) ready(op *Op) {
	s.runq.push(op)
	s.env.Exec.Defer(&s.runTask)
}

func (s *Store) runReady() {
	for op := s.runq.pop(); op != nil; op = s.runq.pop() {
		s.run(op)
	}
}

// run lets op go on where it stopped. A mutation holds the lock of its object.
func (s *Store) run(op *Op) {
	switch {
	case op.Kind == opCompactor:
		s.runCompactor(op)
	case op.Kind == OpRead:
		s.startRead(op)
	case op.Kind == OpStabilize || op.Kind == OpRollback:
		s.runItems(op)
	case s.failed != nil:
		s.finish(op, syscall.EIO)
	case op.step == stepAdmit:
		op.step = stepStart
		s.admit(op)
	case op.step == stepFinish:
		s.finish(op, 0)
	case op.Kind == OpWrite || op.Kind == OpWriteStable:
		s.runWrite(op)
	case op.Kind == OpDelete:
		s.runDelete(op)
	case op.Kind == opItem:
		s.runItem(op)
	case op.Kind == OpList:
		s.runList(op)
	case op.Kind == OpCompact:
		s.runCompactAll(op)
	default:
		invariant.Fail("store: operation of kind %d cannot go on", op.Kind)
	}
}

// finish ends op: its lock goes to the next one, Done is called when the
// current event is over.
func (s *Store) finish(op *Op, err syscall.Errno) {
	op.Err = err
	if op.locked {
		if heir := s.locks.drop(op); heir != nil {
			s.ready(heir)
		}
	}
	s.barrier.leave(s, op)
	if op.admitted {
		op.admitted = false
		s.writing--
		if next := s.admission.pop(); next != nil {
			next.step = stepAdmit
			s.ready(next)
		}
	}
	if op.parent != nil {
		s.itemDone(op)
		return
	}
	s.doneq.push(op)
	s.env.Exec.Defer(&s.doneTask)
}

func (s *Store) runDone() {
	for op := s.doneq.pop(); op != nil; op = s.doneq.pop() {
		s.active--
		op.Done(op)
	}
	s.closeStep()
}

// ioStart and ioEnd count disk requests under way, so that Close can wait.
func (s *Store) ioStart() { s.io++ }

func (s *Store) ioEnd() {
	s.io--
	if s.closing != nil {
		s.env.Exec.Defer(&s.doneTask)
	}
}

// putBuffer returns memory to the pool and lets those go on who wait for it.
func (s *Store) putBuffer(b []byte) {
	s.pool.Put(b)
	for op := s.bufferq.pop(); op != nil; op = s.bufferq.pop() {
		s.ready(op)
	}
}

// fatal notes that a write or sync failed. What is on the disk is unknown from
// now on: everything running and new fails, nothing more is written.
func (s *Store) fatal(what string, d *device, offset int64, n int, err error) {
	if s.failed != nil {
		return
	}
	s.failed = fmt.Errorf("%s: %s of %d bytes at %d failed: %w: the disk has to be replaced or repaired",
		d.disk.Info().Path, what, n, offset, err)
	if s.env.Log != nil {
		s.env.Log.Error("store stopped", "err", s.failed)
	}
	for _, q := range []*opQueue{&s.lsnWaiters, &s.spaceq, &s.bufferq, &s.round.ops, &s.round.next} {
		for op := q.pop(); op != nil; op = q.pop() {
			s.ready(op)
		}
	}
	s.env.Exec.Defer(&s.metaTask)
	if s.cfg.OnFatal != nil {
		s.cfg.OnFatal(s.failed)
	}
}

// BitmapBytes is the length of external bitmaps.
func (s *Store) BitmapBytes() int { return s.geo.BitmapBytes() }

// Counters returns what was done since the start.
func (s *Store) Counters() Counters { return s.counters }

// Totals returns sizes now.
func (s *Store) Totals() Totals {
	return Totals{
		TotalBlocks: uint64(s.blocks.n), FreeBlocks: uint64(s.blocks.n - s.blocks.used),
		BlockBytes:  s.geo.BlockBytes,
		BufferTotal: uint64(s.buffer.n) * uint64(s.geo.GranuleBytes), BufferUsed: uint64(s.buffer.used) * uint64(s.geo.GranuleBytes),
		MetaTotal: uint64(len(s.meta.table)) * uint64(s.meta.bytes), MetaUsed: s.meta.used,
		Objects: s.index.objects, Entries: uint64(s.recs.live),
		MemoryBytes:  s.recs.memory() + s.index.memory() + int64(len(s.meta.table))*metaBlockMemory,
		CompactQueue: s.compact.queue.len(), Compactors: s.compact.running,
		MaxLSN: s.lsn, CompletedLSN: s.effective,
	}
}

const metaBlockMemory = 40 // size of a metaBlock
