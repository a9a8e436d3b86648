package client

import (
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// reader executes a read layer by layer: data of the client's own buffers, what
// the OSDs have of the layer (and of its parents in the same pool, which they
// follow themselves), then the rest from the next layer (osd.md §17).
//
// Reads of which the first request is the whole answer need no reader.
type reader struct {
	c     *Client
	op    *Op
	layer meta.Inode // being read
	next  meta.Inode // to be read afterwards, 0 = none
	pool  *pool      // of layer
	rev   uint64     // for requests of this layer
	left  int        // ios in flight, and 1 while they are being started
	err   syscall.Errno
	// filled has a bit per unit of the operation whose content is final. A unit
	// is the smallest granule of the pools in the chain.
	filled meta.Bitmap
	unit   uint64 // bytes
	count  int    // units
	depth  int
	// changed: some layer has other parents now than when the chain was found.
	changed bool
}

// chainMax bounds a chain of parents, which may be a ring by mistake.
const chainMax = 4096

func (c *Client) read(op *Op, p *pool) {
	op.Version = 0
	next, rev, ok := c.chain(op.Inode, op.Offset, op.Bytes)
	switch {
	case !ok:
		c.log.Error("parents of an image form a ring: correct parent_id", "inode", op.Inode)
		c.finish(op, syscall.EINVAL)
		return
	case op.Bytes == 0:
		next, rev = 0, 0
	case op.Kind == ReadBitmap:
		next, rev = 0, 0
	}
	buffered := op.Bytes > 0 && c.buffers.Overlaps(op.Inode, op.Offset, op.Bytes)
	if next == 0 && !buffered {
		x := c.newRead(op, p, rev, 0, op.Bytes)
		x.iov, x.bitmap, x.done = op.Iov, op.Bitmap, readDone
		c.launch(x)
		return
	}
	unit := c.smallestGranule(op.Inode, p)
	r := &reader{c: c, op: op, unit: unit, count: int(op.Bytes / unit)}
	r.filled = make(meta.Bitmap, (r.count+7)/8)
	r.readLayer(op.Inode)
}

// newRead makes an io for a range of the operation, relative to its start.
func (c *Client) newRead(op *Op, p *pool, rev, from, bytes uint64) *io {
	x := c.newIO()
	x.op, x.inode, x.offset, x.bytes = wire.OpRead, op.Inode, op.Offset+from, bytes
	x.user, x.pool, x.rev = op, p, rev
	if op.Flags&WaitUpTimeout != 0 {
		x.flags |= ioWaitUp
	}
	if op.Kind >= ReadBitmap {
		x.flags |= ioBitsOnly
	}
	return x
}

func readDone(x *io) {
	op := x.user
	if x.changed && x.err == 0 {
		x.c.start(op) // by the new chain
		return
	}
	if x.err == 0 && op.Offset/x.pool.objectBytes == (op.Offset+max(op.Bytes, 1)-1)/x.pool.objectBytes {
		op.Version = x.version
	}
	x.c.finish(op, x.err)
}

// chain tells how to read a layer: the revision that makes its OSDs follow the
// parents, and the layer to read after it. Those are in another pool; or all
// of them one by one, when we have data for one that its OSD may not have.
func (c *Client) chain(inode meta.Inode, offset, bytes uint64) (next meta.Inode, rev uint64, ok bool) {
	s := c.view.Inode(inode)
	if s == nil {
		return 0, 0, true
	}
	rev = uint64(s.Rev)
	first, depth := s.Parent, 0
	for parent := first; parent != 0; depth++ {
		if parent.Pool() != inode.Pool() {
			return parent, rev, true
		}
		if depth > chainMax {
			return 0, 0, false
		}
		if c.buffers.Overlaps(parent, offset, bytes) {
			return first, 0, true
		}
		if s = c.view.Inode(parent); s == nil {
			break
		}
		parent = s.Parent
	}
	return 0, rev, true
}

// smallestGranule looks at all layers of an inode.
func (c *Client) smallestGranule(inode meta.Inode, p *pool) uint64 {
	unit := p.granule
	for s, depth := c.view.Inode(inode), 0; s != nil && s.Parent != 0 && depth < chainMax; depth++ {
		if q := c.pools[s.Parent.Pool()]; q != nil {
			unit = min(unit, q.granule)
		}
		s = c.view.Inode(s.Parent)
	}
	return unit
}

// readLayer reads what is missing from one layer.
func (r *reader) readLayer(inode meta.Inode) {
	c, op := r.c, r.op
	r.layer, r.left, r.pool = inode, 1, c.pools[inode.Pool()]
	var ok bool
	r.next, r.rev, ok = c.chain(inode, op.Offset, op.Bytes)
	if r.depth++; !ok || r.depth > chainMax || r.pool == nil || len(r.pool.pgs) == 0 || r.pool.granule%r.unit != 0 {
		c.log.Error("a parent of an image cannot be read: its pool is missing, or the chain is a ring",
			"inode", op.Inode, "parent", inode)
		r.end(syscall.EINVAL)
		return
	}
	if op.Kind == ReadBitmap {
		r.next, r.rev = 0, 0
	}
	r.takeBuffered()
	r.missing(r.readRange)
	r.oneLess()
}

// takeBuffered copies what our buffers have of the layer.
func (r *reader) takeBuffered() {
	u := r.unit
	r.c.buffers.Read(r.layer, r.op.Offset, r.op.Bytes, func(offset uint64, data []byte) {
		for at := offset - r.op.Offset; len(data) > 0; at, data = at+u, data[u:] {
			if i := int(at / u); !r.filled.Get(i) {
				r.copyIn(at, data[:u])
				r.filled.SetRange(i, i+1)
			}
		}
	})
}

// copyIn copies data to its place in the buffers of a Read.
func (r *reader) copyIn(at uint64, data []byte) {
	if r.op.Kind != Read {
		return
	}
	for _, b := range r.op.Iov {
		if at >= uint64(len(b)) {
			at -= uint64(len(b))
			continue
		}
		n := copy(b[at:], data)
		at, data = 0, data[n:]
		if len(data) == 0 {
			return
		}
	}
}

// missing calls f for each range that is not final yet.
func (r *reader) missing(f func(from, to int)) {
	for i := 0; i < r.count; {
		if r.filled.Get(i) {
			i++
			continue
		}
		from := i
		for i < r.count && !r.filled.Get(i) {
			i++
		}
		f(from, i)
	}
}

// readRange reads some units from the layer. If its granules are larger, a
// longer range is read and a part of it copied.
func (r *reader) readRange(from, to int) {
	op, g := r.op, r.pool.granule
	start, end := op.Offset+uint64(from)*r.unit, op.Offset+uint64(to)*r.unit
	x := r.c.newRead(op, r.pool, r.rev, 0, 0)
	x.inode, x.reader, x.done = r.layer, r, layerDone
	x.offset = start / g * g
	x.bytes = (end+g-1)/g*g - x.offset
	x.bitmap = make([]byte, (x.bytes/g+7)/8)
	switch {
	case op.Kind != Read:
	case x.offset == start && x.offset+x.bytes == end:
		var q position
		q.take(nil, op.Iov, start-op.Offset) // moves on
		x.iov = q.take(nil, op.Iov, x.bytes)
	default:
		x.iov = [][]byte{make([]byte, x.bytes)}
		x.bounce, x.bounceFrom, x.bounceTo = true, start, end
	}
	r.left++
	r.c.launch(x)
}

// layerDone notes what a layer has.
func layerDone(x *io) {
	r := x.reader
	r.err = worse(r.err, x.err)
	r.changed = r.changed || x.changed
	if x.err == 0 {
		r.fill(x)
		if op := r.op; x.inode == op.Inode && x.bytes == op.Bytes &&
			op.Offset/x.pool.objectBytes == (op.Offset+op.Bytes-1)/x.pool.objectBytes {
			op.Version = x.version
		}
	}
	r.oneLess()
}

// fill notes which units are final, by the bits of an answer.
func (r *reader) fill(x *io) {
	if x.bounce {
		r.copyIn(x.bounceFrom-r.op.Offset, x.iov[0][x.bounceFrom-x.offset:x.bounceTo-x.offset])
	}
	g := x.pool.granule
	for i := range x.bytes / g {
		if !meta.Bitmap(x.bitmap).Get(int(i)) {
			continue
		}
		from := max(x.offset+i*g, r.op.Offset)
		to := min(x.offset+(i+1)*g, r.op.Offset+r.op.Bytes)
		r.filled.SetRange(int((from-r.op.Offset)/r.unit), int((to-r.op.Offset)/r.unit))
	}
}

// oneLess goes on to the next layer, or ends.
func (r *reader) oneLess() {
	if r.left--; r.left > 0 {
		return
	}
	if r.err == 0 && r.changed {
		r.c.start(r.op)
		return
	}
	if r.err == 0 && r.next != 0 && r.filled.Count() < r.count {
		r.readLayer(r.next)
		return
	}
	r.end(r.err)
}

func (r *reader) end(err syscall.Errno) {
	op := r.op
	if g := int(r.c.granuleOf(op.Inode) / r.unit); err == 0 && op.Bitmap != nil && g > 0 {
		bits := meta.Bitmap(op.Bitmap)
		bits.ClearRange(0, r.count/g)
		for i := range r.count / g {
			if r.filled.Any(i*g, (i+1)*g) {
				bits.SetRange(i, i+1)
			}
		}
	}
	r.c.finish(op, err)
}

// granuleOf is the granularity of the pool of an inode; 0 = it was removed.
func (c *Client) granuleOf(inode meta.Inode) uint64 {
	if p := c.pools[inode.Pool()]; p != nil {
		return p.granule
	}
	return 0
}
