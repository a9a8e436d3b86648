package client

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/libclient/writeback"
)

// In pools without immediate_commit=all, and with a write-back cache, changes
// are tracked: of two changes of the same data only one is on its way at a
// time. Otherwise data that is sent again could end up over newer data, and what
// the buffers say could differ from what the OSDs have.

// runBytesMax is the longest piece of buffered data that is sent as one io.
const runBytesMax = 4 << 20

// flush is a Run of buffered data on its way.
type flush struct {
	run  writeback.Run
	next *flush // among free ones
}

// track sends a change when nothing overlaps with it.
func (c *Client) track(x *io) {
	x.flags |= ioTracked
	if c.overlapped(x) {
		c.blocked.push(x)
		return
	}
	c.mutations.push(x)
	c.launch(x)
}

// locked is the range that nothing else may change meanwhile.
func (x *io) locked() (from, bytes uint64) {
	if x.op == wire.OpDelete {
		return x.pool.objects(x.offset, x.bytes)
	}
	return x.offset, x.bytes
}

func (c *Client) overlapped(x *io) bool {
	from, bytes := x.locked()
	return c.busy(x.inode, from, bytes)
}

// busy tells whether a change of a range is on its way.
func (c *Client) busy(inode meta.Inode, offset, bytes uint64) bool {
	for y := c.mutations.head; y != nil; y = y.next {
		if y.inode != inode {
			continue
		}
		if from, n := y.locked(); from < offset+bytes && offset < from+n {
			return true
		}
	}
	return false
}

// unblock starts changes that are overlapped by nothing any more.
func (c *Client) unblock() {
	var next *io
	for x := c.blocked.head; x != nil; x = next {
		next = x.next
		if c.ended || x.user.cancelled || !c.overlapped(x) {
			c.blocked.remove(x)
			c.mutations.push(x)
			c.launch(x)
		}
	}
}

// sendBuffered sends what OSDs have lost, and from the cache what is too much
// or has to be synced. Only so many at a time; the longest waiting first.
func (c *Client) sendBuffered() {
	for !c.ended && c.flushing < max(1, c.opts.MaxWritebackIODepth) {
		f := c.freeRun
		if f == nil {
			f = &flush{}
		} else {
			c.freeRun = f.next
		}
		if !c.buffers.Next(writeback.Lost, runBytesMax, c.busy, &f.run) &&
			!(c.mustFlush() && c.buffers.Next(writeback.Dirty, runBytesMax, c.busy, &f.run)) {
			f.next, c.freeRun = c.freeRun, f
			return
		}
		c.sendRun(f)
	}
}

// mustFlush tells whether data leaves the cache.
func (c *Client) mustFlush() bool {
	return c.sync.active || !c.writebackOn() || c.buffers.Bytes(writeback.Dirty) > c.opts.MaxBufferedBytes ||
		c.buffers.DirtyRuns() > c.opts.MaxBufferedOps
}

func (c *Client) sendRun(f *flush) {
	r := &f.run
	p := c.pools[r.Inode.Pool()]
	if p == nil { // nobody can have this data any more
		c.log.Error("buffered data is lost: its pool was removed", "inode", r.Inode, "offset", r.Offset, "bytes", r.Bytes)
		c.buffers.Remove(r.Inode, r.Offset, r.Bytes)
		f.next, c.freeRun = c.freeRun, f
		return
	}
	c.buffers.Begin(r)
	c.flushing++
	x := c.newIO()
	x.op, x.inode, x.offset, x.bytes, x.iov = wire.OpWrite, r.Inode, r.Offset, r.Bytes, r.Iov
	x.pool, x.flush, x.flags, x.done = p, f, ioForever|ioTracked, runDone
	c.mutations.push(x)
	c.launch(x)
}

func runDone(x *io) {
	c, f := x.c, x.flush
	c.flushing--
	if x.err != 0 && !c.ended {
		c.log.Error("buffered data is lost", "inode", x.inode, "offset", x.offset, "bytes", x.bytes, "err", x.err)
		c.buffers.Acked(&f.run, x.offset, x.bytes, 0, true)
	}
	c.buffers.Release(&f.run)
	f.next, c.freeRun = c.freeRun, f
	c.admit()
}

// acked notes that an OSD has executed a part of a tracked change.
func (c *Client) acked(x *io, offset, bytes uint64, s *session) {
	lazy := x.pool.lazy && x.flags&ioDurable == 0
	switch {
	case x.flush != nil:
		c.buffers.Acked(&x.flush.run, offset, bytes, s.id, !lazy)
	case lazy:
		c.buffers.Put(x.inode, offset, bytes, x.iov, offset-x.offset, writeback.Written, s.id)
	case x.op == wire.OpDelete:
		from, n := x.pool.objects(offset, bytes)
		c.buffers.Remove(x.inode, from, n)
	default:
		c.buffers.Remove(x.inode, offset, bytes)
	}
	if lazy && x.movedFrom(offset, s.osd) {
		invariant.Sometimes("client: a write was acknowledged by a former primary")
		c.loseIf(func(q *writeback.Piece) bool {
			return q.Tag == s.id && q.Inode == x.inode && q.Offset < offset+bytes && offset < q.End()
		})
	}
}

// movedFrom tells that an OSD is not the primary of a part any more. A SYNC of
// this OSD might not cover what it acknowledged.
func (x *io) movedFrom(offset uint64, o *osd) bool {
	g := x.pool.pgOf(offset)
	return x.gen != x.pool.gen || g == nil || g.primary != o.num
}
