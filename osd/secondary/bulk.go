package secondary

import (
	"vitastor/internal/invariant"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// bulk is the memory of one long answer: a listing, or more bitmaps than fit
// into the operation. It belongs to the request until the reply was sent.
type bulk struct {
	list store.List
	out  []byte
}

func (b *bulk) stable() int {
	if b == nil {
		return 0
	}
	return len(b.list.Stable)
}

// lane is a share of long answers. OSDs and others have their own: who does
// not read its answers keeps the memory, and only OSDs are known to be dropped
// for that soon (keepalive).
type lane struct {
	idle      []*bulk
	made, max int
	waiting   opQueue
}

// keptBytes is how much memory an idle bulk keeps of each kind.
const keptBytes = 1 << 20

// equip gives op a bulk; if there is none it waits and false is returned.
func (l *lane) equip(op *Op) bool {
	n := len(l.idle)
	switch {
	case n > 0:
		op.bulk, l.idle = l.idle[n-1], l.idle[:n-1]
	case l.made < l.max:
		l.made++
		op.bulk = &bulk{}
	default:
		op.s.stats.Waits++
		l.waiting.push(op)
		return false
	}
	return true
}

func (s *Server) laneOf(op *Op) *lane {
	if op.strange {
		return &s.strangers
	}
	return &s.peers
}

// releaseBulk gives op's bulk to the next one, or keeps it.
func (s *Server) releaseBulk(op *Op) {
	b, l := op.bulk, s.laneOf(op)
	op.bulk = nil
	b.out = kept(b.out, 1)
	b.list.Stable, b.list.Unstable = kept(b.list.Stable, wire.ObjectItemBytes), kept(b.list.Unstable, wire.ObjectItemBytes)
	l.idle = append(l.idle, b)
	if next := l.waiting.pop(); next != nil {
		l.equip(next)
		s.enqueue(next)
	}
}

// kept empties b, and forgets it if it is large.
func kept[T any](b []T, size int) []T {
	if cap(b)*size > keptBytes {
		return nil
	}
	return b[:0]
}

// serveList begins a SEC_LIST of a secondary; one of a primary is not ours.
func (s *Server) serveList(r *msgr.Request) {
	var q wire.SecList
	q.Decode(&r.Packet)
	if q.Flags&wire.ListPrimary != 0 {
		s.servePrimary(r)
		return
	}
	if ret := q.Check(); ret.Failed() {
		r.Fail(ret)
		return
	}
	op := s.take(r)
	op.Kind, op.query = store.OpList, q
	s.admit(op)
}

// needsBulk tells whether the answer to op does not fit into op.
func (s *Server) needsBulk(op *Op) bool {
	switch op.code {
	case wire.OpSecList:
		return true
	case wire.OpSecReadBmp:
		return op.answer > len(op.scratch)
	}
	return false
}

// serveBitmaps begins SEC_READ_BMP.
func (s *Server) serveBitmaps(r *msgr.Request) {
	var q wire.SecReadBmp
	q.Decode(&r.Packet)
	items := itemsOf(r)
	each := wire.BitmapItemBytes(s.bitmap)
	if items.n > s.answerMax/each {
		r.Fail(wire.EINVAL)
		return
	}
	op := s.take(r)
	op.flags, op.answer = q.Flags, items.n*each
	s.admit(op)
}

// sliceItems is how many items of a long answer are made before others get
// their turn: some 100 microseconds.
const sliceItems = 4096

// workOn makes the next slice of a long answer.
func (s *Server) workOn(op *Op) {
	first := op.phase == phaseRunning
	op.phase = phaseWorking
	var more bool
	if op.code == wire.OpSecList {
		more = s.encodeList(op, first)
	} else {
		more = s.readBitmaps(op)
	}
	if more {
		s.env.Clock.Arm(&op.timer, 0)
		return
	}
	s.executed(op)
}

// encodeList puts the next items of a listing into its answer.
func (s *Server) encodeList(op *Op, first bool) (more bool) {
	b := op.bulk
	stable, unstable := b.list.Stable, b.list.Unstable
	n := len(stable) + len(unstable)
	if first {
		if n > s.answerMax/wire.ObjectItemBytes {
			op.retval = wire.EINVAL
			if s.env.Log != nil {
				s.env.Log.Error("listing is too long for one reply: it has to be asked for in parts",
					"pool", b.list.Pool, "pg", b.list.PG, "items", n, "peer", op.r.Conn.String())
			}
			return false
		}
		op.retval = wire.Retval(n)
		b.out = sized(b.out, n*wire.ObjectItemBytes)
	}
	end := min(op.cursor+sliceItems, n)
	out := wire.ObjectList(b.out)
	for i := op.cursor; i < end; i++ {
		if i < len(stable) {
			out.Set(i, stable[i])
		} else {
			out.Set(i, unstable[i-len(stable)])
		}
	}
	op.cursor = end
	return end < n
}

// sized is b with n bytes of any content.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// readBitmaps looks up the next items of SEC_READ_BMP. They are in memory.
func (s *Server) readBitmaps(op *Op) (more bool) {
	answer := op.scratch[:min(op.answer, len(op.scratch))]
	if op.bulk != nil {
		op.bulk.out = sized(op.bulk.out, op.answer)
		answer = op.bulk.out
	}
	items := itemsOf(op.r)
	out, err := wire.MakeBitmapList(answer, s.bitmap, items.n)
	if err != nil {
		invariant.Fail("secondary: %v", err)
	}
	end := min(op.cursor+sliceItems, items.n)
	for i := op.cursor; i < end; i++ {
		item := items.at(i)
		v, _ := s.store.Stat(item.ObjectID, item.Version, out.Bitmap(i))
		out.SetVersion(i, v)
	}
	op.cursor, op.retval = end, wire.Retval(op.answer)
	return end < items.n
}

// prepareList prepares the listing that op asks for.
func (op *Op) prepareList() {
	q, l := &op.query, &op.bulk.list
	l.Pool, l.PG, l.PGCount, l.PGStripeBytes = q.Min.Inode.Pool(), q.PG, q.PGCount, q.PGStripeBytes
	l.Min, l.Max, l.StableLimit = q.Min, q.Max, int(q.StableLimit)
	op.List = l
}

// longPool is memory for reads that do not fit one buffer of the messenger: the
// store reads to contiguous memory only. It is used while the disk reads.
type longPool struct {
	idle      [][]byte
	made, max int
	waiting   opQueue
}

// equip gives op a buffer; if there is none it waits and false is returned.
func (p *longPool) equip(op *Op, blockBytes uint32) bool {
	if len(p.idle) == 0 && p.made < p.max {
		b, err := pinned.AlignedBuffer(int(blockBytes))
		switch {
		case err == nil:
			p.made++
			p.idle = append(p.idle, b)
		case p.made == 0:
			invariant.Fail("secondary: no memory to read a block: %v", err)
		}
	}
	n := len(p.idle)
	if n == 0 {
		op.s.stats.Waits++
		p.waiting.push(op)
		return false
	}
	op.long, p.idle = p.idle[n-1], p.idle[:n-1]
	op.Buf = op.long[:op.Len]
	return true
}

func (p *longPool) release(op *Op) {
	p.idle = append(p.idle, op.long)
	op.long, op.Buf = nil, nil
	if next := p.waiting.pop(); next != nil {
		p.equip(next, 0)
		next.s.enqueue(next)
	}
}

func (p *longPool) free() {
	for _, b := range p.idle {
		pinned.Free(b)
	}
	p.made -= len(p.idle)
	p.idle = nil
}

// spread copies b to parts.
func spread(parts [][]byte, b []byte) {
	for _, p := range parts {
		b = b[copy(p, b):]
	}
}
