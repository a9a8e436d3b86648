package store

import (
	"errors"
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// Open starts the store on d, initializing the disks if their metadata area is
// blank; done is called once, not inside Open, with the store or an error that
// names the device, the place and the remedy. Nothing is written before it is
// certain that the store can be started.
func Open(e *env.Env, d Disks, c Config, done func(*Store, error)) *Opening {
	l := &loader{done: done}
	l.failTask.Run = func() { done(nil, l.err) }
	c.setDefaults()
	geo, err := c.geometry(d)
	if err == nil {
		l.s, err = newStore(e, d, c, geo)
	}
	if err == nil {
		err = l.init()
	}
	if err != nil {
		l.err = err
		if l.s != nil {
			l.s.free()
		}
		l.over = true
		e.Exec.Defer(&l.failTask)
		return &Opening{l}
	}
	l.readSuperblock()
	return &Opening{l}
}

// Opening is a start under way.
type Opening struct{ l *loader }

// Free returns the memory of a start that will never end, because its loop does
// not run any more; once done was called it does nothing.
func (o *Opening) Free() {
	l := o.l
	if l.over {
		return
	}
	l.over = true
	for _, v := range l.verifiers {
		pinned.Free(v.buf)
	}
	for _, b := range l.owned {
		pinned.Free(b)
	}
	l.s.Free()
}

// newStore makes an empty store in memory.
func newStore(e *env.Env, d Disks, c Config, geo layout.Geometry) (*Store, error) {
	s := &Store{env: e, cfg: c, geo: geo, inodes: map[meta.Inode]uint64{}, window: make([]ticket, windowSlots)}
	s.addDevices(d)
	seed := uint64(0)
	if e.Rand != nil {
		seed = e.Rand.Uint64()
	}
	s.recs = newRecords(geo.MetaBlockBytes, c.Areas.MetaLen)
	s.index = newIndex(s.recs, seed, c.Areas.MetaLen)
	s.blocks = newBlockBits(int(geo.BlockCount))
	s.releasing = make([]uint64, (geo.BlockCount+63)/64)
	s.buffer = newGranuleBits(int(geo.BufferBytes / uint64(geo.GranuleBytes)))
	blocks := int(c.Areas.MetaLen/int64(geo.MetaBlockBytes)) - 1
	table, err := pinned.Make[metaBlock](blocks)
	if err == nil {
		s.trim.block, err = pinned.AlignedBuffer(int(geo.MetaBlockBytes))
	}
	if err == nil {
		s.pool, err = pinned.NewPool("store", c.BufferPoolBytes)
	}
	if err != nil {
		s.free()
		return nil, fmt.Errorf("memory for the object store: %w", err)
	}
	s.meta.init(int(geo.MetaBlockBytes), geo.MaxEntryBytes(), geo.BigWriteBytes(), table)
	s.metaReserve = max(2, min(1+c.MaxCompactors, blocks/8))
	s.trim.op.Done = s.trimDone
	s.runTask.Run = s.runReady
	s.doneTask.Run = s.runDone
	s.metaTask.Run = s.flushMeta
	s.roundTask.Run = s.startRound
	s.wakeTask.Run = s.retrySpace
	s.resharder.timer.Fire = s.reshard
	return s, nil
}

// addDevices makes a device of each different disk. If one device serves
// several areas it is write-through only if all of them say so.
func (s *Store) addDevices(d Disks) {
	c := &s.cfg
	add := func(disk env.Disk, cached bool) *device {
		for _, x := range s.devices {
			if x.disk == disk {
				x.cached = x.cached || cached
				return x
			}
		}
		x := &device{s: s, disk: disk, cached: cached}
		x.op.Done = x.syncDone
		s.devices = append(s.devices, x)
		return x
	}
	s.dataDev = add(d.Data, !c.DisableDataFsync)
	s.metaDev = add(d.Meta, !c.DisableMetaFsync)
	s.bufferDev = add(d.Buffer, !c.DisableBufferFsync)
	for _, x := range s.devices {
		s.cached = s.cached || x.cached
	}
}

// loader is a store that is being opened.
type loader struct {
	s        *Store
	done     func(*Store, error)
	err      error
	failTask env.Task
	over     bool // done was called, or will be called with an error

	chunks    []loadChunk
	at, total int64 // metadata area: next byte to read or write, end
	finished  int64
	pending   int
	then      func() // when all chunks are finished
	work      func(c *loadChunk)
	lastTold  env.Instant
	told      string // the last phase reported as complete

	entries []layout.Entry // of the block that is being loaded
	peeked  uint64         // means nothing, see loadBlock

	completed layout.LSN // of the superblock
	highest   layout.LSN
	suspects  fifo[meta.ObjectID] // objects that are more than one stable entry
	corrupt   map[uint32]bool     // blocks to rewrite because of skipped entries
	skipped   int
	pass      [2]map[uint32]bool // blocks to rewrite because of dropped entries
	oldest    []ref              // of each object with dropped entries: the one dropped last
	verifiers []*verifier
	checked   int
	compact   []queued
	copies    []lostCopy
	disputes  []ref    // entries whose space has another owner, too
	owned     [][]byte // memory to free
}

// loadChunk is one of the requests that are in flight at a time.
type loadChunk struct {
	l    *loader
	op   env.DiskOp
	buf  []byte
	from int64 // offset in the metadata area
}

const loadDepth = 8

func (l *loader) init() error {
	s := l.s
	l.total = s.cfg.Areas.MetaLen
	l.lastTold = s.env.Clock.Now()
	l.corrupt, l.pass = map[uint32]bool{}, [2]map[uint32]bool{{}, {}}
	m := int(s.geo.MetaBlockBytes)
	size := int(min(int64(s.cfg.ReadAheadStartBytes), l.total, max(int64(s.cfg.BufferPoolBytes)/4, int64(m)))) / m * m
	l.chunks = make([]loadChunk, loadDepth)
	for i := range l.chunks {
		c := &l.chunks[i]
		buf, ok := s.pool.Get(size)
		if !ok {
			if i == 0 {
				return errors.New("memory for reading metadata: the buffer pool is too small")
			}
			l.chunks = l.chunks[:i]
			break
		}
		c.l, c.buf = l, buf
		c.op.Done = c.finished
	}
	return nil
}

// fail ends the start with an error.
func (l *loader) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// finish reports the result.
func (l *loader) finish() {
	s := l.s
	l.over = true
	l.dropChunks()
	for _, v := range l.verifiers {
		pinned.Free(v.buf)
	}
	for _, b := range l.owned {
		pinned.Free(b)
	}
	if l.err != nil {
		s.free()
		l.done(nil, l.err)
		return
	}
	l.done(s, nil)
}

// dropChunks returns the memory for reading.
func (l *loader) dropChunks() {
	for i := range l.chunks {
		l.s.pool.Put(l.chunks[i].buf)
	}
	l.chunks = nil
}

func (l *loader) metaPath() string { return l.s.metaDev.disk.Info().Path }

// progress reports and logs how far a phase is, about once per second.
func (l *loader) progress(phase string, done, total int64) {
	s := l.s
	now := s.env.Clock.Now()
	if now.Sub(l.lastTold) < time.Second && done < total || done == total && l.told == phase {
		return
	}
	l.lastTold = now
	if done == total {
		l.told = phase
	}
	if s.cfg.OnProgress != nil {
		s.cfg.OnProgress(Progress{phase, done, total})
	}
	if s.env.Log != nil {
		s.env.Log.Info("object store is starting", "phase", phase, "done", done, "total", total)
	}
}

// readSuperblock decides between loading and initializing.
func (l *loader) readSuperblock() {
	s := l.s
	op := &s.trim.op
	op.Done = func(op *env.DiskOp) {
		op.Done = s.trimDone
		l.checkSuperblock(op.Err)
	}
	op.Kind, op.Offset, op.Buf = env.DiskRead, s.cfg.Areas.MetaOffset, s.trim.block
	s.metaDev.disk.Submit(op)
}

func (l *loader) checkSuperblock(err error) {
	s := l.s
	if err != nil {
		l.fail(fmt.Errorf("%s: reading the metadata superblock at %d: %w", l.metaPath(), s.cfg.Areas.MetaOffset, err))
		l.finish()
		return
	}
	if layout.IsZero(s.trim.block) {
		l.initialize()
		return
	}
	sb, warning, err := layout.DecodeMetaSuperblock(s.trim.block)
	if err != nil {
		err = fmt.Errorf("%w: %s at %d: %w", ErrNotAStore, l.metaPath(), s.cfg.Areas.MetaOffset, err)
	} else if e := sb.Match(s.superblock(0)); e != nil {
		err = fmt.Errorf("%w: %s at %d: %w", ErrMismatch, l.metaPath(), s.cfg.Areas.MetaOffset, e)
	}
	if err != nil {
		l.fail(err)
		l.finish()
		return
	}
	if warning != nil && s.env.Log != nil {
		s.env.Log.Warn("metadata superblock", "device", l.metaPath(), "warning", warning)
	}
	l.warnAtomicity()
	l.completed, s.trim.completed = sb.CompletedLSN, sb.CompletedLSN
	l.scan(env.DiskRead, "read", l.load, l.loaded)
}

// warnAtomicity tells when the devices do not promise what the format needs:
// metadata blocks and writes in place must never be torn. Most disks keep that
// promise for 4 KiB without stating it.
func (l *loader) warnAtomicity() {
	s := l.s
	if s.env.Log == nil {
		return
	}
	m, d := s.metaDev.disk.Info(), s.dataDev.disk.Info()
	if m.AtomicWriteBytes < s.meta.bytes {
		s.env.Log.Warn("the device does not state that it writes metadata blocks atomically", "device", m.Path, "needed", s.meta.bytes, "stated", m.AtomicWriteBytes)
	}
	if !s.cached && !s.cfg.UseAtomicFlag && d.AtomicWriteBytes < int(s.cfg.AtomicWriteBytes) {
		s.env.Log.Warn("the device does not state that it writes atomic_write_size atomically", "device", d.Path, "needed", s.cfg.AtomicWriteBytes, "stated", d.AtomicWriteBytes)
	}
}

// scan reads or writes all metadata blocks, many chunks at a time; work is
// called with each chunk (after a read, before a write), then at the end.
func (l *loader) scan(kind env.DiskOpKind, phase string, work func(c *loadChunk), then func()) {
	l.at, l.finished = int64(l.s.geo.MetaBlockBytes), int64(l.s.geo.MetaBlockBytes)
	l.work, l.then = work, func() { l.progress(phase, l.total, l.total); then() }
	if kind == env.DiskRead {
		l.work = func(c *loadChunk) { work(c); l.progress(phase, l.finished, l.total) }
	}
	for i := range l.chunks {
		l.chunks[i].op.Kind = kind
		l.chunks[i].start()
	}
}

func (c *loadChunk) start() {
	l := c.l
	if l.at >= l.total || l.err != nil {
		return
	}
	c.from = l.at
	n := min(int64(len(c.buf)), l.total-l.at)
	l.at += n
	l.pending++
	c.op.Buf, c.op.Offset = c.buf[:n], l.s.cfg.Areas.MetaOffset+c.from
	if c.op.Kind == env.DiskWrite {
		l.work(c)
	}
	l.s.metaDev.disk.Submit(&c.op)
}

func (c *loadChunk) finished(op *env.DiskOp) {
	l := c.l
	l.pending--
	l.finished += int64(len(op.Buf))
	switch {
	case op.Err != nil:
		l.fail(fmt.Errorf("%s: metadata at %d, %d bytes: %w", l.metaPath(), op.Offset, len(op.Buf), op.Err))
	case op.Kind == env.DiskRead && l.err == nil:
		l.work(c)
	}
	c.start()
	if l.pending > 0 {
		return
	}
	if l.err != nil {
		l.finish()
		return
	}
	l.then()
}

// initialize makes the metadata of an empty store: the blocks first and the
// superblock last, so that an interrupted one is repeated (spec §2.3).
func (l *loader) initialize() {
	s := l.s
	l.scan(env.DiskRead, "look for old metadata", l.refuseUsed, func() {
		for i := range l.chunks {
			fillEmpty(l.chunks[i].buf, int(s.geo.MetaBlockBytes))
		}
		l.scan(env.DiskWrite, "initialize", func(*loadChunk) {}, l.writeSuperblock)
	})
}

// refuseUsed makes sure that only the superblock is missing because nothing
// was ever there.
func (l *loader) refuseUsed(c *loadChunk) {
	m := int(l.s.geo.MetaBlockBytes)
	for at := 0; at < len(c.op.Buf); at += m {
		if l.s.geo.BlockLooksUsed(c.op.Buf[at : at+m]) {
			l.fail(fmt.Errorf("%w: %s: the metadata superblock at %d is blank, but the block at %d has entries: "+
				"the superblock was lost or the offsets are wrong; zero the metadata area to start anew",
				ErrNotEmpty, l.metaPath(), l.s.cfg.Areas.MetaOffset, l.s.cfg.Areas.MetaOffset+c.from+int64(at)))
			return
		}
	}
}

func fillEmpty(buf []byte, m int) {
	for at := 0; at < len(buf); at += m {
		layout.EmptyBlock(buf[at : at+m])
	}
}

func (l *loader) writeSuperblock() {
	s := l.s
	sb := s.superblock(0)
	clear(s.trim.block)
	sb.Put(s.trim.block)
	l.sync(s.metaDev, func() {
		op := &s.trim.op
		op.Done = func(op *env.DiskOp) {
			op.Done = s.trimDone
			if op.Err != nil {
				l.fail(fmt.Errorf("%s: writing the metadata superblock at %d: %w", l.metaPath(), op.Offset, op.Err))
				l.finish()
				return
			}
			l.sync(s.metaDev, func() { l.finishEmpty() })
		}
		op.Kind, op.Flags, op.Offset, op.Buf = env.DiskWrite, env.DiskFUA, s.cfg.Areas.MetaOffset, s.trim.block
		s.metaDev.disk.Submit(op)
	})
}

// sync makes everything written so far durable, whatever the configuration
// says about the device: at start-up it is cheap.
func (l *loader) sync(d *device, then func()) {
	op := &env.DiskOp{Kind: env.DiskSync}
	op.Done = func(op *env.DiskOp) {
		if op.Err != nil {
			l.fail(fmt.Errorf("%s: sync: %w", d.disk.Info().Path, op.Err))
			l.finish()
			return
		}
		then()
	}
	d.disk.Submit(op)
}

func (l *loader) finishEmpty() {
	l.listBlocks()
	l.s.initDiscard()
	l.finish()
}

// listBlocks puts all metadata blocks into their classes.
func (l *loader) listBlocks() {
	m := &l.s.meta
	m.roomy, m.used = 0, 0
	for n := len(m.table) - 1; n >= 0; n-- {
		if m.room(uint32(n)) >= m.entryMax {
			m.roomy++
		}
		m.used += uint64(m.table[n].used)
		m.list(uint32(n))
	}
	invariant.Must(m.roomy <= len(m.table), "store: more roomy metadata blocks than blocks")
}
