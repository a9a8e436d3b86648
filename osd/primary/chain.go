package primary

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// chain is a READ through the layers of an image (osd.md §4.1, wire.md §6.3): of
// each granule the newest layer that has it. Layers are reads inside of an
// operation which stands for the request:
//
//	bitmaps of all layers ──▶ extents ──▶ reads of extents, straight into
//	                                      the memory of the reply ──▶ reply
//
// A layer's object may be deleted between its bitmap and its data. Then what is
// below it has to be seen, so everything is read once more.
type chain struct {
	s       *Server
	o       *op // the request
	inodes  []meta.Inode
	memory  []byte        // of bitmaps
	bitmaps []meta.Bitmap // by layer
	version meta.Version  // of the first layer
	extents []extent
	at      int // the next one to be read
	running int // reads inside
	err     wire.Retval
	deletes uint64 // of objects like ours, when it began
	tries   int
	parts   [chainReads][][]byte // of running reads of extents
	used    [chainReads]bool
	next    *chain // in Server.freeChains
}

const (
	// chainReads is how many extents are read at the same time.
	chainReads = 16
	// chainTries is how often a read begins again because of deletes.
	chainTries = 10
)

// serveChained executes a READ through the layers of an image.
func (s *Server) serveChained(r *msgr.Request, q *wire.Rw, p *pg) {
	c := s.freeChains
	if c == nil {
		c = &chain{s: s}
	} else {
		s.freeChains, c.next = c.next, nil
	}
	inodes, ok := s.appendLayers(c.inodes[:0], q.Inode)
	if c.inodes = inodes; !ok {
		s.putChain(c)
		r.Fail(wire.EINVAL)
		return
	}
	o := s.takeOp(opRead, p)
	o.r, o.parent, o.finish = r, c, (*op).finishChain
	o.offset = q.Offset % p.objectBytes()
	o.oid = meta.ObjectID{Inode: q.Inode, Stripe: q.Offset - o.offset}
	o.length, o.into, o.phase = q.Len, r.Body, phaseReading
	c.o, c.tries = o, 0
	c.begin()
	s.drain()
}

func (s *Server) putChain(c *chain) {
	c.o = nil
	c.next, s.freeChains = s.freeChains, c
}

// begin asks for the bitmaps of all layers.
func (c *chain) begin() {
	o := c.o
	n := o.pg.dataChunks * c.s.bitmapBytes
	if need := n * len(c.inodes); cap(c.memory) < need {
		c.memory = make([]byte, need)
	}
	c.bitmaps, c.err = c.bitmaps[:0], wire.OK
	for i := range c.inodes {
		c.bitmaps = append(c.bitmaps, c.memory[:cap(c.memory)][i*n:(i+1)*n])
	}
	c.deletes = c.deletions()
	c.running = 1
	for layer := range c.inodes {
		c.read(layer, 0, 0, (*op).finishLayer)
	}
	c.bitmapRead()
}

// read begins a read of a part of one layer's object.
func (c *chain) read(layer int, offset uint64, length uint32, finish func(*op)) *op {
	o := c.s.takeOp(opRead, c.o.pg)
	o.oid = meta.ObjectID{Inode: c.inodes[layer], Stripe: c.o.oid.Stripe}
	o.offset, o.length = offset, length
	o.parent, o.finish, o.slot = c, finish, layer
	c.running++
	if length == 0 {
		o.begin()
	}
	return o
}

// finishLayer has the bitmap of a layer; its number is in slot.
func (o *op) finishLayer() {
	c := o.parent.(*chain)
	b := c.bitmaps[o.slot]
	clear(b)
	if o.err == wire.OK {
		copy(b, o.bm)
	}
	if o.slot == 0 {
		c.version = o.version
	}
	c.fail(o.err)
	c.bitmapRead()
}

// fail notes an error: the worst one counts.
func (c *chain) fail(err wire.Retval) {
	if errorRank(err) > errorRank(c.err) {
		c.err = err
	}
}

// bitmapRead counts bitmaps; with the last one it is clear what to read.
func (c *chain) bitmapRead() {
	if c.running--; c.running > 0 {
		return
	}
	o := c.o
	if c.err != wire.OK || !o.active() {
		c.end()
		return
	}
	p := o.pg
	granule := c.s.config.GranuleBytes
	m := layerMap{perChunk: int(c.s.config.BlockBytes / granule), bytes: c.s.bitmapBytes}
	from, to := int(o.offset/uint64(granule)), int((o.offset+uint64(o.length))/uint64(granule))
	if o.length == 0 {
		from, to = 0, m.perChunk*p.dataChunks
	}
	c.extents, c.at = m.appendExtents(c.extents[:0], c.bitmaps, from, to), 0
	o.prepareChunks(p.dataChunks)
	for _, x := range c.extents {
		if x.layer >= 0 {
			m.set(o.bm, x)
		}
	}
	o.version = c.version
	if o.length == 0 {
		c.extents = c.extents[:0]
	}
	c.running = 1
	c.extentRead()
}

// readMore reads extents, not too many at a time.
func (c *chain) readMore() {
	o, granule := c.o, uint64(c.s.config.GranuleBytes)
	for c.at < len(c.extents) && c.running <= chainReads && c.err == wire.OK {
		x := c.extents[c.at]
		c.at++
		offset, bytes := uint64(x.from)*granule, uint64(x.to-x.from)*granule
		slot := c.slot()
		parts := appendSlices(c.parts[slot][:0], o.into, int(offset-o.offset), int(bytes))
		c.parts[slot] = parts
		if x.layer < 0 {
			for _, part := range parts {
				clear(part)
			}
			continue
		}
		c.used[slot] = true
		read := c.read(x.layer, offset, uint32(bytes), (*op).finishExtent)
		read.into, read.slot = parts, slot
		read.begin()
	}
}

// slot returns one that is free. There is always one: see readMore.
func (c *chain) slot() int {
	for i := range c.used {
		if !c.used[i] {
			return i
		}
	}
	return 0
}

func (o *op) finishExtent() {
	c := o.parent.(*chain)
	c.used[o.slot] = false
	c.fail(o.err)
	c.extentRead()
}

// extentRead counts reads of extents, begins others, and is the end.
func (c *chain) extentRead() {
	c.readMore()
	if c.running--; c.running > 0 {
		return
	}
	if c.err == wire.OK && c.deletes != c.deletions() {
		c.s.stats.Retries++
		if c.tries++; c.tries < chainTries && c.o.active() {
			c.begin()
			return
		}
		c.err = wire.EPIPE // the client tries again
	}
	c.end()
}

// end answers.
func (c *chain) end() {
	if c.err == wire.OK && !c.o.active() {
		c.err = wire.EPIPE
	}
	c.o.err = c.err
	c.o.end()
}

// finishChain is the end of the operation that stands for the request.
func (o *op) finishChain() {
	c := o.parent.(*chain)
	o.parent = nil
	o.s.putChain(c)
	o.finishRead()
}

// deleteClasses is in how many classes deletes are counted, by object.
const deleteClasses = 256

func deleteClass(id meta.ObjectID) int {
	return int((uint64(id.Inode)*0x9e3779b97f4a7c15 ^ id.Stripe) * 0xff51afd7ed558ccd >> 56)
}

// countDelete is called when the outcome of a delete is known, before others see it.
func (s *Server) countDelete(id meta.ObjectID) { s.deletes[deleteClass(id)]++ }

// deletions counts the deletes of objects in the classes of our layers: as long
// as it stays the same, none of them was deleted.
func (c *chain) deletions() (n uint64) {
	for _, inode := range c.inodes {
		n += c.s.deletes[deleteClass(meta.ObjectID{Inode: inode, Stripe: c.o.oid.Stripe})]
	}
	return n
}
