package store

import (
	"slices"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// reader is a read under way. It sees the entries that its walk found, even if
// they are replaced meanwhile: limbo keeps them and their space until it ends.
type reader struct {
	s          *Store
	op         *Op
	generation uint8
	grace      uint8
	head       ref    // of the object when the read began
	intentSeq  uint64 // of the store
	from, to   uint32 // range of sources, whole checksum blocks if C > G
	source     []ref  // of each granule of the range; 0 = zeroes
	limit      meta.Version
	pieces     []piece
	pending    int
	bounced    int
	err        syscall.Errno
	next       *reader
}

// piece is one request to a disk: bytes of one entry that are contiguous in
// the object and on the disk.
type piece struct {
	source   ref
	from, to uint32 // bytes of the object
	buf      []byte
	bounce   bool // what is wanted is copied out of buf, which comes from the pool
	own      bool // or from the system
	verify   bool
}

// readPool keeps readers and requests for reuse.
type readPool struct {
	readers  *reader
	requests *request
	prepared *request
	bounced  int      // buffers taken from the pool
	owned    [][]byte // taken from the system
}

// request is one disk request of a reader or compactor.
type request struct {
	op     env.DiskOp
	s      *Store
	reader *reader
	worker *compactor
	dev    *device
	next   *request
}

func (s *Store) newRequest() *request {
	q := s.reads.requests
	if q == nil {
		q = &request{s: s}
		q.op.Done = q.done
		return q
	}
	s.reads.requests = q.next
	q.next = nil
	return q
}

func (q *request) done(op *env.DiskOp) {
	s := q.s
	if q.reader != nil {
		q.reader.done(op.Err)
	} else {
		q.worker.done(q, op.Err)
	}
	q.reader, q.worker, op.Buf = nil, nil, nil
	clear(op.Iov)
	op.Iov = op.Iov[:0]
	q.next = s.reads.requests
	s.reads.requests = q
	s.ioEnd()
}

// startRead begins or repeats a read.
func (s *Store) startRead(op *Op) {
	if s.failed != nil {
		s.finish(op, syscall.EIO)
		return
	}
	head := s.index.head(op.OID)
	w := s.walkFrom(head)
	if !w.find(op.Version) {
		s.finish(op, syscall.ENOENT)
		return
	}
	if op.Len == 0 {
		s.endRead(op, &w)
		return
	}
	if h := s.locks.holder(op.OID); h != nil && h != op && h.path == pathIntent && h.ref != 0 && h.overlaps(op) {
		// A write in place is running: wait for it, and keep others away.
		invariant.Sometimes("store: a read waits for a write in place")
		if !s.locks.take(op) {
			return
		}
	}
	r := s.reads.readers
	if r == nil {
		r = &reader{s: s, source: make([]ref, s.geo.Granules())}
	} else {
		s.reads.readers = r.next
	}
	r.op, r.head, r.intentSeq, r.err, r.pending = op, head, s.intentSeq, 0, 0
	r.plan(head, w.entry.Version())
	if !r.makePieces() {
		r.recycle()
		s.bufferq.push(op)
		return
	}
	s.counters.Reads++
	s.counters.UserReadBytes += uint64(op.Len)
	r.version(&w)
	r.generation, r.grace = s.readStart(), s.grace.enter()
	r.submit()
}

// version stores version and bitmap in the result.
func (r *reader) version(w *walk) {
	r.limit = w.entry.Version()
	copy(r.op.Bitmap, w.entry.ExtBitmap(&r.s.geo))
}

func (op *Op) overlaps(o *Op) bool {
	return op.Offset < o.Offset+o.Len && o.Offset < op.Offset+op.Len
}

// endRead answers from memory.
func (s *Store) endRead(op *Op, w *walk) {
	s.counters.Reads++
	op.Version = w.entry.Version()
	copy(op.Bitmap, w.entry.ExtBitmap(&s.geo))
	s.finish(op, 0)
}

// plan finds the source of every granule of the range: the newest visible
// entry with a version <= v that wrote it.
func (r *reader) plan(head ref, v meta.Version) {
	g := &r.s.geo
	r.from, r.to = r.op.Offset, r.op.Offset+r.op.Len
	left := r.granules()
	clear(r.source[:left])
	w := r.s.walkFrom(head)
	for ok := w.find(v); ok && left > 0; ok = w.next() {
		if w.entry.IsBig() {
			bits := w.entry.IntBitmap(g)
			for i := range r.granules() {
				if r.source[i] == 0 && bits.Get(int(r.from/g.GranuleBytes)+i) {
					r.source[i] = w.ref
				}
			}
			return
		}
		offset, n := w.entry.Range()
		from, to := max(offset, r.from), min(offset+n, r.to)
		for at := from; at < to; at += g.GranuleBytes {
			if i := (at - r.from) / g.GranuleBytes; r.source[i] == 0 {
				r.source[i] = w.ref
				left--
			}
		}
	}
}

func (r *reader) granules() int { return int((r.to - r.from) / r.s.geo.GranuleBytes) }

// makePieces turns sources into requests; false if there is no memory.
func (r *reader) makePieces() bool {
	g := &r.s.geo
	r.pieces = r.pieces[:0]
	n := r.granules()
	for i := 0; i < n; {
		j := i + 1
		for j < n && r.source[j] == r.source[i] {
			j++
		}
		from, to := r.from+uint32(i)*g.GranuleBytes, r.from+uint32(j)*g.GranuleBytes
		if r.source[i] == 0 {
			clear(r.op.Buf[from-r.from : to-r.from])
		} else if !r.addPieces(r.source[i], from, to) {
			return false
		}
		i = j
	}
	return true
}

// addPieces adds what has to be read for [from, to) of one entry. Checksums
// that cover more than is wanted need the rest, too: that is read to a buffer
// of the pool, one checksum block at a time.
func (r *reader) addPieces(src ref, from, to uint32) bool {
	g := &r.s.geo
	if g.CsumBytes <= g.GranuleBytes {
		r.pieces = append(r.pieces, piece{source: src, from: from, to: to, verify: g.CsumBytes != 0, buf: r.op.Buf[from-r.from : to-r.from]})
		return true
	}
	for from < to {
		c := from / g.CsumBytes
		end := min(to, (c+1)*g.CsumBytes)
		p := piece{source: src, from: from, to: end}
		whole, ok := r.checkedRange(src, c)
		switch {
		case !ok:
			p.buf = r.op.Buf[from-r.from : end-r.from]
		case whole.from == from && whole.to == end:
			p.buf, p.verify = r.op.Buf[from-r.from:end-r.from], true
		case len(r.pieces) > 0 && r.pieces[len(r.pieces)-1].covers(src, from, end):
			from = end // another part of a checksum block that is read already
			continue
		default:
			p = piece{source: src, from: whole.from, to: whole.to, bounce: true, verify: true}
			if !r.takeBuffer(&p) {
				return false
			}
		}
		r.pieces = append(r.pieces, p)
		from = end
	}
	return true
}

// takeBuffer gives p memory. If the pool has none, the read waits for others to
// return theirs; if there are no others, it takes memory from the system.
func (r *reader) takeBuffer(p *piece) (ok bool) {
	s, n := r.s, int(p.to-p.from)
	if p.buf, ok = s.pool.Get(n); ok {
		s.reads.bounced++
		r.bounced++
		return true
	}
	if s.reads.bounced > r.bounced {
		return false
	}
	var err error
	p.buf, err = pinned.AlignedBuffer(n)
	p.own = true
	s.reads.owned = append(s.reads.owned, p.buf)
	invariant.Sometimes("store: a read takes memory from the system")
	return err == nil
}

func (p *piece) covers(src ref, from, to uint32) bool {
	return p.bounce && p.source == src && p.from <= from && to <= p.to
}

type span struct{ from, to uint32 }

// checkedRange is the range that the checksum of entry src for checksum block
// c covers. ok is false if the checksum cannot be compared: newer partial
// writes touch the checksum block of a data block, and a compaction may be
// changing it (spec ondisk.md §9.3).
func (r *reader) checkedRange(src ref, c uint32) (whole span, ok bool) {
	s, size := r.s, r.s.geo.CsumBytes
	whole = span{c * size, (c + 1) * size}
	e := s.recs.entry(src)
	if e.Type() == layout.SmallWrite {
		offset, n := e.Range()
		return span{max(whole.from, offset), min(whole.to, offset+n)}, true
	}
	for x := r.head; x != src; x = s.recs.older(x) {
		o := s.recs.entry(x)
		if o.IsSmall() && o.Len() != 0 && o.Offset() < whole.to && o.Offset()+o.Len() > whole.from {
			return whole, false
		}
	}
	if e.Type() == layout.IntentWrite {
		offset, n := e.Range()
		return span{max(whole.from, offset), min(whole.to, offset+n)}, true
	}
	return whole, true
}

// submit sends the requests; with nothing to read the operation is finished.
func (r *reader) submit() {
	s := r.s
	r.pending = len(r.pieces) + 1
	for i := range r.pieces {
		p := &r.pieces[i]
		q := s.newRequest()
		q.reader = r
		dev, at := s.locate(p.source, p.from)
		q.op.Kind, q.op.Flags, q.op.Offset, q.op.Buf = env.DiskRead, 0, at, p.buf
		s.ioStart()
		dev.disk.Submit(&q.op)
	}
	r.done(nil)
}

// locate is where byte at of the object is stored according to entry src.
func (s *Store) locate(src ref, at uint32) (*device, int64) {
	e := s.recs.entry(src)
	switch e.Type() {
	case layout.SmallWrite:
		return s.bufferDev, s.cfg.Areas.BufferOffset + int64(e.Location()) + int64(at-e.Offset())
	case layout.IntentWrite:
		e = s.recs.entry(s.base(src))
	}
	return s.dataDev, s.blockOffset(uint32(e.Block())) + int64(at)
}

func (r *reader) done(err error) {
	if err != nil {
		r.err = errno(err)
	}
	if r.pending--; r.pending != 0 {
		return
	}
	s, op := r.s, r.op
	if r.err == 0 && !r.verify() {
		r.err = syscall.EDOM
	}
	// A write in place that began meanwhile may have changed what was read.
	if s.intentSeq != r.intentSeq && r.disturbed() {
		r.end()
		s.counters.ReadRetries++
		invariant.Sometimes("store: a read is repeated after a write in place")
		if op.locked || s.locks.take(op) {
			s.ready(op)
		}
		return
	}
	switch r.err {
	case 0:
		op.Version = r.limit
	case syscall.EDOM:
		s.counters.ChecksumErrors++
	default:
		s.counters.ReadErrors++
	}
	err0 := r.err
	r.end()
	s.finish(op, err0)
}

// disturbed tells whether the object has changed since the read began, or is
// being changed in place.
func (r *reader) disturbed() bool {
	h := r.s.locks.holder(r.op.OID)
	return r.s.index.head(r.op.OID) != r.head || h != nil && h != r.op && h.path == pathIntent
}

// verify compares what was read with checksums and copies what is wanted out
// of pool buffers.
func (r *reader) verify() bool {
	for i := range r.pieces {
		p := &r.pieces[i]
		if p.verify && !r.s.verifyPiece(p) {
			return false
		}
		if !p.bounce {
			continue
		}
		g := r.s.geo.GranuleBytes
		for at := max(p.from, r.from); at < min(p.to, r.to); at += g {
			if r.source[(at-r.from)/g] == p.source {
				copy(r.op.Buf[at-r.from:at-r.from+g], p.buf[at-p.from:])
			}
		}
	}
	return true
}

// verifyPiece compares [from, to) of an entry, whole units of its checksums.
func (s *Store) verifyPiece(p *piece) bool {
	e, c := s.recs.entry(p.source), s.geo.CsumBytes
	sums := e.Csums(&s.geo)
	for at := p.from; at < p.to; {
		n := min(p.to-at, c-at%c)
		data := p.buf[at-p.from : at-p.from+n]
		switch {
		case !e.IsBig():
			if layout.CRC(data) != sums.At(int(at/c-e.Offset()/c)) {
				return false
			}
		case !s.geo.VerifyCsumBlock(e, int(at/c), data):
			return false
		}
		at += n
	}
	return true
}

func (r *reader) end() {
	generation, grace := r.generation, r.grace
	r.recycle()
	r.s.readEnd(generation)
	r.s.leaveGrace(grace)
}

// recycle returns the reader and its pool buffers.
func (r *reader) recycle() {
	r.s.reads.bounced -= r.bounced
	r.bounced = 0
	for i := range r.pieces {
		switch p := &r.pieces[i]; {
		case p.own:
			r.s.reads.disown(p.buf)
		case p.bounce:
			r.s.putBuffer(p.buf)
		}
		r.pieces[i] = piece{}
	}
	r.op = nil
	r.next = r.s.reads.readers
	r.s.reads.readers = r
}

// disown frees memory that was taken from the system.
func (p *readPool) disown(buf []byte) {
	i := slices.IndexFunc(p.owned, func(b []byte) bool { return &b[0] == &buf[0] })
	p.owned = slices.Delete(p.owned, i, i+1)
	pinned.Free(buf)
}

// errno is the error number of a disk error.
func errno(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok && e != 0 {
		return e
	}
	return syscall.EIO
}
