package primary

import (
	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// Reading inside of other operations: take an op with takeOp(opRead, pg), set
// oid, offset, length, into (memory for exactly length bytes outside of the Go
// heap, parts aligned as those of msgr.Request.Body), finish and parent, and
// call begin, when the PG is active. finish is called with err, version and,
// without an error, the data in into and in o.bm[:dataChunks*bitmapBytes] the
// bitmaps of the data chunks (those touched; all when length is 0). It may run
// inside begin. The op ends when finish returns.

// readTries is how often a read begins again because writes have overtaken it
// before it takes its turn among the writes of the object.
const readTries = 3

// lookup finds out where the object is.
func (o *op) lookup() {
	rec, limit := o.pg.objects.Lookup(o.oid)
	o.record, o.limit, o.state = rec, limit, 0
	if rec != nil {
		o.state = rec.State
	}
}

// sources are the OSDs that have the object, per role or of replicas in any
// order.
func (o *op) sources() []meta.OSDNum {
	if o.record == nil {
		return o.pg.curSet
	}
	return o.record.ReadTarget
}

// pick chooses an OSD to read a replica from: this one if it can, else the first
// that is there. 0 = there is none.
func (s *Server) pick(from []meta.OSDNum) (osd meta.OSDNum) {
	for _, x := range from {
		if x == s.config.OSD {
			return x
		}
		if x != 0 && osd == 0 && s.peers.Conn(x) != nil {
			osd = x
		}
	}
	return osd
}

// unreadable is the error of an object that lacks chunks.
func (o *op) unreadable() {
	o.fail(min(wire.EIO, o.damage)) // the damage found, if any, says more: EDOM < EIO
}

func (o *op) startRead() {
	o.lookup()
	p := o.pg
	switch {
	case o.limit == 0: // it is being written for the first time, or rolled back
		o.readNothing()
	case p.replicated:
		o.startReplicaRead()
	case o.knownAbsent():
		o.readNothing()
	default:
		o.startChunksRead()
	}
}

// knownAbsent tells that an EC object does not exist, because it is clean and
// our own chunk does not exist.
func (o *op) knownAbsent() bool {
	p := o.pg
	if o.record != nil || o.limit != meta.NewestVersion || p.self < 0 {
		return false
	}
	v, ok := o.s.store.Stat(o.oid.WithRole(meta.Role(p.self)), meta.NewestVersion, nil)
	o.old, o.known = v, true
	return !ok
}

// readNothing is the result of reading an object that does not exist.
func (o *op) readNothing() {
	o.prepareChunks(o.pg.dataChunks)
	for _, part := range o.into {
		clear(part)
	}
	o.version = 0
	o.end()
}

func (o *op) startReplicaRead() {
	if o.state&meta.ObjectIncomplete != 0 {
		o.unreadable()
		return
	}
	from := o.s.pick(o.sources())
	if from == 0 {
		o.fail(wire.EPIPE)
		return
	}
	o.prepareChunks(1)
	c := &o.chunks[0]
	c.from, c.need = from, ec.NeedBitmap
	if o.length > 0 {
		c.need, c.read = ec.NeedData, ec.Range{From: uint32(o.offset), To: uint32(o.offset) + o.length}
		c.direct = from != o.s.config.OSD || len(o.into) == 1
	}
	o.fetch()
}

func (o *op) startChunksRead() {
	p := o.pg
	err := o.plan.PlanRead(p.geometry, o.sources(), o.offset, uint64(o.length))
	if err == nil && o.length == 0 {
		err = planBitmaps(&o.plan)
	}
	if err != nil {
		o.unreadable()
		return
	}
	o.planChunks()
	if o.plan.Decode == (ec.RoleSet{}) {
		for r := range o.chunks {
			c := &o.chunks[r]
			c.direct = c.need == ec.NeedData && (c.from != o.s.config.OSD || o.inOnePart(r))
		}
	}
	o.fetch()
}

// planBitmaps makes the plan of a read of nothing one that reads all bitmaps.
func planBitmaps(plan *ec.Plan) error {
	k := plan.Geometry.DataChunks
	var present ec.RoleSet
	for r := range plan.Roles {
		role := &plan.Roles[r]
		switch {
		case !role.Missing():
			present.Add(r)
			if r < k {
				role.Need = ec.NeedBitmap
			}
		case r < k:
			role.Need = ec.NeedBitmap
			plan.Decode.Add(r)
		}
	}
	if plan.Decode == (ec.RoleSet{}) {
		return nil
	}
	sources, ok := present.First(k, len(plan.Roles))
	if !ok {
		return ec.ErrTooFewChunks
	}
	plan.Sources = sources
	for r := sources.Next(0); r >= 0; r = sources.Next(r + 1) {
		plan.Roles[r].Need = ec.NeedBitmap
	}
	return nil
}

// planChunks takes over what the plan wants to know.
func (o *op) planChunks() {
	o.prepareChunks(len(o.plan.Roles))
	for r := range o.plan.Roles {
		role, c := &o.plan.Roles[r], &o.chunks[r]
		c.from, c.need, c.read = role.From, role.Need, role.Read
	}
}

// position is where the beginning of what is read of chunk r belongs in into.
func (o *op) position(r int, at uint32) int {
	return int(uint64(r)*uint64(o.s.config.BlockBytes) + uint64(at) - o.offset)
}

// inOnePart tells whether what is read of chunk r lies in one part of into.
func (o *op) inOnePart(r int) bool {
	c, n := &o.chunks[r], 0
	pos := o.position(r, c.read.From)
	for _, part := range o.into {
		if pos < n+len(part) {
			return pos+int(c.read.Len()) <= n+len(part)
		}
		n += len(part)
	}
	return false
}

// appendSlices appends the bytes [from, from+n) of parts to dst.
func appendSlices(dst, parts [][]byte, from, n int) [][]byte {
	for _, part := range parts {
		if n == 0 {
			break
		}
		if from >= len(part) {
			from -= len(part)
			continue
		}
		take := min(n, len(part)-from)
		dst = append(dst, part[from:from+take:from+take])
		from, n = 0, n-take
	}
	return dst
}

// fetch reads the chunks as they are prepared.
func (o *op) fetch() {
	if o.equip() {
		o.issueReads()
	}
}

// issueReads sends the reads, to other OSDs first.
func (o *op) issueReads() {
	if !o.active() {
		o.fail(wire.EPIPE)
		return
	}
	us := o.s.config.OSD
	for i := range o.chunks {
		if c := &o.chunks[i]; c.need != ec.NeedNothing && c.from != 0 && !o.s.reachable(c.from) {
			o.fail(wire.EPIPE)
			return
		}
	}
	o.holdPhase(phaseReading)
	for i := range o.chunks {
		if c := &o.chunks[i]; c.need != ec.NeedNothing && c.from != 0 && c.from != us {
			o.readChunk(i)
		}
	}
	for i := range o.chunks {
		if c := &o.chunks[i]; c.need != ec.NeedNothing && c.from == us {
			o.readChunk(i)
		}
	}
	o.sent()
}

// readChunk asks for one chunk. The store knows our own bitmaps at once.
func (o *op) readChunk(i int) {
	c, id := &o.chunks[i], o.oid.WithRole(meta.Role(i))
	if c.need == ec.NeedBitmap && c.from == o.s.config.OSD {
		v, ok := o.s.store.Stat(id, o.limit, c.bitmap)
		c.version, c.absent = v, !ok
		return
	}
	b := o.sub(c.from, meta.Role(i))
	buf := c.buf
	if c.direct {
		b.parts = appendSlices(b.parts, o.into, o.position(i, c.read.From), int(c.read.Len()))
		buf = b.parts[0]
	}
	b.read(id, o.limit, c.read.From, c.read.Len(), buf, c.bitmap, o.flags())
}

// readAnswered notes the answer for a chunk.
func (o *op) readAnswered(b *sub) {
	c := &o.chunks[b.role]
	err, dropped := b.judge()
	switch {
	case dropped:
		o.dropped = true
	case err == wire.ENOENT:
		c.absent = true
		o.clearChunk(int(b.role))
	case err != wire.OK:
		c.err = err
	default:
		c.version = b.version
	}
}

// clearChunk makes a chunk that does not exist read as zeroes.
func (o *op) clearChunk(i int) {
	c := &o.chunks[i]
	clear(c.bitmap)
	clear(c.buf)
	if c.direct {
		for pos, n, at := o.position(i, c.read.From), int(c.read.Len()), 0; at < len(o.into) && n > 0; at++ {
			if part := o.into[at]; pos < len(part) {
				take := min(n, len(part)-pos)
				clear(part[pos : pos+take])
				pos, n = 0, n-take
			} else {
				pos -= len(part)
			}
		}
	}
}

// finishRead answers the READ of a client.
func (o *op) finishRead() {
	s, r := o.s, o.r
	s.account(o, wire.OpRead)
	if o.err != wire.OK {
		r.Fail(o.err)
		return
	}
	bitmaps := o.bm[:o.pg.dataChunks*s.bitmapBytes]
	(&wire.RwReply{Op: wire.OpRead, Retval: wire.Retval(o.length), BitmapLen: uint32(len(bitmaps)), Version: o.version}).Encode(&r.Reply)
	r.ReplyParts = append(append(r.ReplyParts, bitmaps), r.Body...)
	o.phase = phaseReplying
	r.User, r.Sent = o, s.readSent
	r.Finish()
}

// replySent takes back an operation whose bitmaps were sent.
func (s *Server) replySent(r *msgr.Request) { s.putOp(r.User.(*op)) }

// inodeStats returns the totals of an inode.
func (s *Server) inodeStats(inode meta.Inode) *InodeStats {
	i := s.stats.Inodes[inode]
	if i == nil {
		i = &InodeStats{}
		s.stats.Inodes[inode] = i
	}
	return i
}

// account counts an operation of a client that has ended.
func (s *Server) account(o *op, code wire.Op) {
	since := o.began
	if o.r != nil {
		since = o.r.Arrived
	}
	nanos, bytes := uint64(s.env.Clock.Now().Sub(since)), uint64(o.length)
	if o.err != wire.OK {
		bytes = 0
	}
	s.stats.Ops[code].add(bytes, nanos)
	if o.err != wire.OK || code == wire.OpSync {
		return
	}
	i := s.inodeStats(o.oid.Inode)
	switch code {
	case wire.OpRead:
		i.Read.add(bytes, nanos)
	case wire.OpWrite:
		i.Write.add(bytes, nanos)
	case wire.OpDelete:
		i.Delete.add(bytes, nanos)
	}
}
