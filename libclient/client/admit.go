package client

import (
	"syscall"

	"vitastor/internal/invariant"
	"vitastor/internal/wire"
	"vitastor/libclient/writeback"
)

// Submit starts an operation. op.Done is called later, never inside.
func (c *Client) Submit(op *Op) {
	invariant.Must(op.phase == phaseIdle && op.Done != nil, "client: Op submitted twice or without Done")
	op.phase, op.cancelled, op.Err = phaseActive, false, 0
	op.LeftOnDead, op.DeadOSDs = false, op.DeadOSDs[:0]
	c.ops++
	switch {
	case c.ended:
		c.finish(op, syscall.ECANCELED)
	case !c.loaded || !c.direct(op):
		op.phase = phaseQueued
		c.queue.push(op)
		c.admitNext()
	default:
		c.start(op)
	}
}

// direct tells whether op needs no order among others: reads, and changes in
// pools with immediate_commit=all when nothing is buffered.
func (c *Client) direct(op *Op) bool {
	switch op.Kind {
	case Write, Delete:
		p := c.pools[op.Inode.Pool()]
		return p == nil || !p.lazy && !c.writebackOn() && c.buffers.Empty()
	case Sync:
		return c.queue.head == nil && c.writing == 0 && !c.sync.active && c.buffers.Empty()
	}
	return true
}

// admit looks at the queues soon.
func (c *Client) admit() { c.env.Exec.Defer(&c.admitTask) }

// admitNext starts what may start, in order: what is overlapped by nothing any
// more, buffered data that has to be sent, a SYNC that waited for both, then
// queued operations until one has to wait.
func (c *Client) admitNext() {
	c.endRaw()
	c.dropCancelled()
	c.unblock()
	c.sendBuffered()
	c.sync.step()
	for c.loaded && c.queue.head != nil && !c.sync.active && c.mayStart(c.queue.head) {
		op := c.queue.pop()
		op.phase = phaseActive
		c.start(op)
	}
}

// mayStart tells whether the first operation of the queue may start. If it
// needs a SYNC first, that is begun.
func (c *Client) mayStart(op *Op) bool {
	p := c.pools[op.Inode.Pool()]
	switch {
	case op.Kind == Sync:
		return c.writing == 0
	case op.Kind != Write && op.Kind != Delete, p == nil:
		return true
	case op.Kind == Write && op.Version == 0 && c.writebackOn():
		if c.cacheFull() {
			return false
		}
	case op.Kind == Delete || op.Version != 0:
		// Neither is kept in the buffers, and what is there must not come back
		// over it.
		from, bytes := p.objects(op.Offset, op.Bytes)
		if c.buffers.Overlaps(op.Inode, from, bytes) {
			c.sync.begin(nil)
			return false
		}
	}
	if p.lazy && c.unsyncedFull() {
		c.sync.begin(nil)
		return false
	}
	return true
}

// objects is the range of the whole objects that a range touches.
func (p *pool) objects(offset, bytes uint64) (from, n uint64) {
	from = offset / p.objectBytes * p.objectBytes
	end := (offset + bytes + p.objectBytes - 1) / p.objectBytes * p.objectBytes
	return from, end - from
}

// cacheFull: writes wait while too much is on its way (osd.md §20). Data that is
// on its way counts too, so that the memory is bounded.
func (c *Client) cacheFull() bool {
	held := c.buffers.Bytes(writeback.Dirty) + c.buffers.Bytes(writeback.Repeating)
	return c.flushing >= c.opts.MaxWritebackIODepth || held >= 2*c.opts.MaxBufferedBytes
}

// unsyncedFull: a SYNC comes before the next write (osd.md §19, 6).
func (c *Client) unsyncedFull() bool {
	bytes, count := uint64(0), 0
	for _, s := range [...]writeback.State{writeback.Lost, writeback.Written, writeback.Flushing} {
		bytes += c.buffers.Bytes(s)
		count += c.buffers.Count(s)
	}
	return bytes >= c.opts.MaxDirtyBytes || count >= c.opts.MaxDirtyOps
}

// start executes an operation whose turn it is.
func (c *Client) start(op *Op) {
	if op.Kind == Sync {
		if c.sync.nothing() {
			c.finish(op, 0)
		} else {
			c.sync.begin(op)
		}
		return
	}
	p := c.pools[op.Inode.Pool()]
	if p == nil || len(p.pgs) == 0 || !op.fits(p) {
		c.finish(op, syscall.EINVAL)
		return
	}
	switch op.Kind {
	case Write, Delete:
		if s := c.view.Inode(op.Inode); s != nil && s.ReadOnly && op.Flags&IgnoreReadonly == 0 {
			c.finish(op, syscall.EROFS)
			return
		}
		if op.Kind == Write && op.Version == 0 && c.writebackOn() {
			c.buffers.Put(op.Inode, op.Offset, op.Bytes, op.Iov, 0, writeback.Dirty, 0)
			c.finish(op, 0)
			c.sendBuffered()
			return
		}
		c.change(op, p)
	default:
		c.read(op, p)
	}
}

// fits checks an operation against its pool.
func (op *Op) fits(p *pool) bool {
	g := p.granule
	if op.Offset%g != 0 || op.Bytes%g != 0 || op.Offset+op.Bytes < op.Offset || op.Kind > ReadChainBitmap {
		return false
	}
	if op.Bytes == 0 && op.Kind != Read {
		return false
	}
	if n := (op.Bytes/g + 7) / 8; uint64(len(op.Bitmap)) < n && (op.Bitmap != nil || op.Kind >= ReadBitmap) {
		return false
	}
	switch op.Kind {
	case Read, Write:
		n := uint64(0)
		for _, b := range op.Iov {
			n += uint64(len(b))
		}
		if n != op.Bytes {
			return false
		}
	}
	if op.Version != 0 && (op.Kind == Write || op.Kind == Delete) {
		return op.Offset/p.objectBytes == (op.Offset+op.Bytes-1)/p.objectBytes && op.Bytes <= wire.MaxIOBytes
	}
	return true
}

// change sends a write or a delete.
func (c *Client) change(op *Op, p *pool) {
	x := c.newIO()
	x.op, x.inode, x.offset, x.bytes, x.iov = wire.OpWrite, op.Inode, op.Offset, op.Bytes, op.Iov
	x.user, x.pool, x.done, x.cas = op, p, changeDone, op.Version
	if op.Flags&WaitUpTimeout != 0 {
		x.flags |= ioWaitUp
	}
	if op.Version != 0 {
		x.flags |= ioCAS
	}
	if op.Kind == Delete {
		x.op, x.iov = wire.OpDelete, nil
	}
	if p.lazy && x.flags&ioCAS != 0 || p.lazy && op.Kind == Delete {
		x.flags |= ioDurable
	}
	if !p.lazy && c.buffers.Empty() {
		c.launch(x)
		return
	}
	c.writing++
	c.track(x)
}

func changeDone(x *io) {
	op, c := x.user, x.c
	if x.flags&ioTracked != 0 {
		c.writing--
		c.admit()
	}
	op.Version = 0
	if x.offset/x.pool.objectBytes == (x.offset+x.bytes-1)/x.pool.objectBytes {
		op.Version = x.version
	}
	c.finish(op, x.err)
}

// dropCancelled ends queued operations that were given up.
func (c *Client) dropCancelled() {
	if c.cancels == 0 && !c.ended {
		return
	}
	c.cancels = 0
	var kept opQueue
	for op := c.queue.pop(); op != nil; op = c.queue.pop() {
		if op.cancelled || c.ended {
			op.phase = phaseActive
			c.finish(op, syscall.ECANCELED)
		} else {
			kept.push(op)
		}
	}
	c.queue = kept
}
