package primary

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// localRead is a READ of a client on a replicated PG that another OSD is primary
// of: this OSD holds its lock, which tells that our copies are good (wire.md
// §11). Bitmaps are in memory, so it is clear at once what to read: pieces of
// layers, straight into the memory of the reply.
type localRead struct {
	s       *Server
	r       *msgr.Request
	inodes  []meta.Inode
	stripe  uint64
	offset  uint32 // in the object
	length  uint32
	pg      meta.PG
	memory  []byte // of bitmaps: the reply's, then those of the layers
	bitmaps []meta.Bitmap
	version []meta.Version // by layer
	extents []extent
	pieces  []piece // to be read
	at      int     // the next one
	running int
	retval  wire.Retval
	again   bool // an object was deleted meanwhile
	tries   int
	ops     [chainReads]localOp
	next    *localRead // in Server.freeLocals
}

// piece is a part of an extent that lies in one part of the reply's memory.
type piece struct {
	layer  int
	offset uint32 // in the object
	buf    []byte
}

type localOp struct {
	secondary.Op
	l     *localRead
	layer int
	busy  bool
}

// serveLocal executes a READ if this OSD may serve it without being primary, and
// returns whether it did. The form of the request was checked.
func (s *Server) serveLocal(r *msgr.Request, q *wire.Rw) bool {
	pool := s.view.Pool(q.Inode.Pool())
	if q.Op != wire.OpRead || !s.config.MayServe() || pool == nil || pool.Scheme != meta.Replicated || pool.BlockBytes != s.config.BlockBytes {
		return false
	}
	pg := meta.PG{Pool: pool.ID, Num: meta.PGOf(q.Offset, pool.PGStripeBytes, s.view.PGCount(pool.ID))}
	if !s.local.LocalReads(pg) {
		return false
	}
	if err := q.CheckObject(uint64(s.config.BlockBytes)); err != wire.OK {
		r.Fail(err)
		return true
	}
	l := s.takeLocal()
	l.inodes = append(l.inodes[:0], q.Inode)
	if q.MetaRevision != 0 {
		chained, ok := s.chained(q)
		if ok && chained {
			l.inodes, ok = s.appendLayers(l.inodes[:0], q.Inode)
			if !ok {
				s.putLocal(l)
				r.Fail(wire.EINVAL)
				return true
			}
		}
		if !ok {
			s.putLocal(l)
			return false
		}
	}
	l.offset = uint32(q.Offset % uint64(s.config.BlockBytes))
	l.r, l.pg, l.stripe, l.length, l.tries = r, pg, q.Offset-uint64(l.offset), q.Len, 0
	l.begin()
	return true
}

func (s *Server) takeLocal() *localRead {
	l := s.freeLocals
	if l == nil {
		l = &localRead{s: s}
		for i := range l.ops {
			op := &l.ops[i]
			op.l = l
			op.Done = op.done
		}
		return l
	}
	s.freeLocals, l.next = l.next, nil
	return l
}

func (s *Server) putLocal(l *localRead) {
	l.r = nil
	l.next, s.freeLocals = s.freeLocals, l
}

// begin looks at the bitmaps and decides what to read.
func (l *localRead) begin() {
	s, n := l.s, l.s.bitmapBytes
	if need := n * (len(l.inodes) + 1); cap(l.memory) < need {
		l.memory = make([]byte, need)
	}
	l.memory = l.memory[:n*(len(l.inodes)+1)]
	clear(l.memory)
	l.bitmaps, l.version = l.bitmaps[:0], l.version[:0]
	for i, inode := range l.inodes {
		b := meta.Bitmap(l.memory[(i+1)*n : (i+2)*n])
		v, _ := s.store.Stat(meta.ObjectID{Inode: inode, Stripe: l.stripe}, meta.NewestVersion, b)
		l.bitmaps, l.version = append(l.bitmaps, b), append(l.version, v)
	}
	l.plan()
	l.retval, l.again, l.at, l.running = wire.Retval(l.length), false, 0, 1
	l.readMore()
	l.readDone()
}

// plan lists the pieces to be read and makes the bitmap of the reply. A single
// layer is read as it is.
func (l *localRead) plan() {
	granule := l.s.config.GranuleBytes
	m := layerMap{perChunk: int(l.s.config.BlockBytes / granule), bytes: l.s.bitmapBytes}
	from, to := int(l.offset/granule), int((l.offset+l.length)/granule)
	result := meta.Bitmap(l.memory[:m.bytes])
	if l.length == 0 {
		from, to = 0, m.perChunk
	}
	l.extents, l.pieces = l.extents[:0], l.pieces[:0]
	if len(l.inodes) == 1 {
		copy(result, l.bitmaps[0])
		l.extents = append(l.extents, extent{0, from, to})
	} else {
		l.extents = m.appendExtents(l.extents, l.bitmaps, from, to)
		for _, x := range l.extents {
			if x.layer >= 0 {
				m.set(result, x)
			}
		}
	}
	if l.length > 0 {
		l.cut(granule)
	}
}

// cut cuts extents at the borders of the reply's memory. What nobody has is
// zeroes.
func (l *localRead) cut(granule uint32) {
	at := l.offset
	part, used := 0, uint32(0) // of the reply's memory
	for _, x := range l.extents {
		for end := uint32(x.to) * granule; at < end; {
			memory := l.r.Body[part]
			n := min(end-at, uint32(len(memory))-used)
			buf := memory[used : used+n : used+n]
			if used += n; int(used) == len(memory) {
				part, used = part+1, 0
			}
			if x.layer < 0 || l.version[x.layer] == 0 {
				clear(buf)
			} else {
				l.pieces = append(l.pieces, piece{x.layer, at, buf})
			}
			at += n
		}
	}
}

// readMore reads pieces, not too many at a time.
func (l *localRead) readMore() {
	for i := range l.ops {
		op := &l.ops[i]
		if op.busy || l.at == len(l.pieces) {
			continue
		}
		p := &l.pieces[l.at]
		l.at++
		op.busy, op.layer = true, p.layer
		op.Kind, op.OID = store.OpRead, meta.ObjectID{Inode: l.inodes[p.layer], Stripe: l.stripe}
		op.Version, op.Offset, op.Len, op.Buf, op.Bitmap = meta.NewestVersion, p.offset, uint32(len(p.buf)), p.buf, nil
		l.running++
		l.s.local.Submit(&op.Op)
	}
}

// done is the result of one read.
func (op *localOp) done(*secondary.Op) {
	l := op.l
	op.busy = false
	switch ret := op.Retval(); {
	case ret == wire.ENOENT:
		l.again = true
	case ret.Failed():
		l.retval = ret
	case op.Version < l.version[op.layer]:
		l.again = true
	}
	if !l.retval.Failed() {
		l.readMore()
	}
	l.readDone()
}

// readDone counts the reads; the last one ends the request. The lock must not
// have gone meanwhile: then others may have written.
func (l *localRead) readDone() {
	if l.running--; l.running > 0 {
		return
	}
	s, r := l.s, l.r
	switch {
	case !s.local.LocalReads(l.pg):
		l.retval = wire.EPIPE
	case l.again && !l.retval.Failed():
		s.stats.Retries++
		if l.tries++; l.tries < chainTries {
			l.begin()
			return
		}
		l.retval = wire.EPIPE
	}
	s.accountLocal(l)
	if l.retval.Failed() {
		s.putLocal(l)
		r.Fail(l.retval)
		return
	}
	bitmap := l.memory[:s.bitmapBytes]
	(&wire.RwReply{Op: wire.OpRead, Retval: l.retval, BitmapLen: uint32(len(bitmap)), Version: l.version[0]}).Encode(&r.Reply)
	r.ReplyParts = append(append(r.ReplyParts, bitmap), r.Body...)
	r.User, r.Sent = l, s.localSent
	r.Finish()
}

// accountLocal counts a READ as those of a primary are.
func (s *Server) accountLocal(l *localRead) {
	nanos, bytes := uint64(s.env.Clock.Now().Sub(l.r.Arrived)), uint64(l.length)
	if l.retval.Failed() {
		bytes = 0
	}
	s.stats.Ops[wire.OpRead].add(bytes, nanos)
	if !l.retval.Failed() {
		s.inodeStats(l.inodes[0]).Read.add(bytes, nanos)
	}
}

// localReadSent takes back what a reply was sent from.
func (s *Server) localReadSent(r *msgr.Request) { s.putLocal(r.User.(*localRead)) }
