package client

import (
	"fmt"
	"slices"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
)

// part is what an io does to one object.
type part struct {
	io      *io
	sibling *part
	offset  uint64
	bytes   uint32
	iov     [][]byte
	attr    []byte // memory for the bitmap of the object
	rpc     msgr.Op
	session *session // that it was sent to last
	sync    syncWaiter

	// While it waits, see retry.go.
	why     waitReason
	to      *osd        // the connection it waits for
	again   env.Instant // when it is tried again at the latest; 0 = never
	since   env.Instant // since when its PG is inactive; 0 = it is not
	tried   bool        // it was sent before
	replica bool        // it was sent to another OSD than the primary
	primary bool        // a replica refused it
	next    *part       // in Client.waiting or among free ones
}

// newPart takes a part from the free list.
func (c *Client) newPart(x *io, offset uint64, bytes uint32) *part {
	p := c.freePart
	if p == nil {
		p = &part{}
		p.rpc.Done = p.answered
		p.sync.done, p.sync.part = partSynced, p
	} else {
		c.freePart = p.next
	}
	p.io, p.offset, p.bytes, p.next = x, offset, bytes, nil
	return p
}

func (c *Client) putPart(p *part) {
	clear(p.iov)
	p.io, p.sibling, p.session, p.to, p.iov = nil, nil, nil, nil, p.iov[:0]
	p.rpc.Body, p.rpc.Payload, p.rpc.Attr = nil, nil, nil
	p.why, p.again, p.since, p.tried, p.replica, p.primary = waitNothing, 0, 0, false, false, false
	p.next = c.freePart
	c.freePart = p
}

// dispatch sends a part, or finds out what it has to wait for.
func (c *Client) dispatch(p *part) {
	x := p.io
	switch {
	case c.ended || x.user != nil && x.user.cancelled:
		c.endPart(p, syscall.ECANCELED)
		return
	case x.err != 0: // of another part: this one does not matter any more
		c.endPart(p, x.err)
		return
	case x.pool.gone:
		c.endPart(p, syscall.EINVAL)
		return
	case x.gen != x.pool.gen:
		invariant.Sometimes("client: PG count changed under an operation")
		x.stale = true
		c.oneLess(x)
		return
	}
	g := x.pool.pgOf(p.offset)
	if g == nil || !g.active {
		c.waitForPG(p)
		return
	}
	p.since = 0
	o := c.choose(p, g)
	if !o.ready() {
		c.want(o)
		c.waitForConnection(p, o)
		return
	}
	p.replica = o != g.osd
	c.send(p, o)
}

// choose is the OSD that executes a part: the primary, or a replica for reads
// if the pool wants that (wire.md §11).
func (c *Client) choose(p *part, g *pg) *osd {
	if p.io.op != wire.OpRead || len(g.replicas) == 0 || p.primary {
		return g.osd
	}
	o := g.nearest
	if p.io.pool.spec.LocalReads == schema.ReadRandom {
		o = g.replicas[c.env.Rand.Uint64()%uint64(len(g.replicas))]
	}
	if !o.ready() && g.osd.ready() {
		c.want(o) // for the next ones
		return g.osd
	}
	return o
}

// send makes the request and submits it.
func (c *Client) send(p *part, o *osd) {
	x := p.io
	rw := wire.Rw{Op: x.op, Inode: x.inode, Offset: p.offset, Len: p.bytes, Version: x.cas}
	switch x.op {
	case wire.OpRead:
		if x.rev > 0 && p.tried { // the inode may have changed, and its parents
			if rev := c.revision(x.inode); rev != x.rev {
				x.rev, x.changed = rev, true
			}
		}
		rw.MetaRevision = x.rev
		if n := x.pool.bitmapBytes; len(p.attr) != n {
			p.attr = make([]byte, n)
		}
		p.rpc.Attr, p.rpc.Body = p.attr, p.iov
		if x.flags&ioBitsOnly != 0 {
			rw.Len, rw.Offset = 0, p.offset/x.pool.objectBytes*x.pool.objectBytes
		}
	case wire.OpWrite:
		p.rpc.Payload = p.iov
	case wire.OpDelete:
		rw.Len = 0
	}
	rw.Encode(&p.rpc.Packet)
	p.session, p.tried = o.session, true
	o.session.conn.Submit(&p.rpc)
}

// answered is called with the result of the request.
func (p *part) answered(_ *msgr.Op) {
	x := p.io
	c := x.c
	if r := p.rpc.Retval; r.Failed() {
		c.failed(p, r)
		return
	}
	switch x.op {
	case wire.OpRead:
		c.wasRead(p)
	case wire.OpWrite:
		var reply wire.RwReply
		reply.Decode(&p.rpc.Reply)
		x.version = reply.Version
	case wire.OpDelete:
		x.user.noteDead(&p.rpc.Reply)
	}
	if x.flags&ioDurable != 0 {
		p.session.sync(&p.sync)
		return
	}
	if x.flags&ioTracked != 0 {
		c.acked(x, p.offset, uint64(p.bytes), p.session)
	}
	c.endPart(p, 0)
}

// partSynced is called after the SYNC that follows a CAS or a delete in a lazy
// pool. A lost connection means that nobody knows whether it is still there.
func partSynced(w *syncWaiter, s *session, r wire.Retval) {
	p := w.part
	c := p.io.c
	if r.Failed() {
		c.failed(p, r)
		return
	}
	c.acked(p.io, p.offset, uint64(p.bytes), s)
	c.endPart(p, 0)
}

// wasRead takes version and bits out of the reply.
func (c *Client) wasRead(p *part) {
	x := p.io
	var reply wire.RwReply
	reply.Decode(&p.rpc.Reply)
	x.version = reply.Version
	if x.bitmap == nil {
		return
	}
	g := x.pool.granule
	from := int(p.offset % x.pool.objectBytes / g)
	have := p.attr[:p.rpc.AttrBytes]
	copyBits(x.bitmap, int((p.offset-x.offset)/g), have, from, int(uint64(p.bytes)/g))
}

// endPart notes the result of a part.
func (c *Client) endPart(p *part, err syscall.Errno) {
	x := p.io
	if err != 0 {
		if x.err == 0 && x.left > 1 {
			c.kick() // parts that wait need not go on
		}
		x.err = worse(x.err, err)
	}
	c.oneLess(x)
}

// failed decides what follows an error (osd.md §18).
func (c *Client) failed(p *part, r wire.Retval) {
	x := p.io
	err := r.Errno()
	if r == wire.EDOM { // no good copy is left: the same as EIO (wire.md §10)
		err = syscall.EIO
	}
	known := err == syscall.EPIPE || err == syscall.EIO || err == syscall.ENOSPC || err == syscall.EINTR
	if !known && !p.rpc.Lost {
		p.session.conn.Drop(fmt.Errorf("%v of inode %v at %d failed: %v", x.op, x.inode, p.offset, r))
	}
	eio := c.opts.EIORetryInterval
	switch {
	case c.ended:
		c.endPart(p, syscall.ECANCELED)
	case x.flags&ioCAS != 0:
		c.endPart(p, c.failedCAS(p, err))
	case p.replica && !p.primary: // the primary knows better
		p.primary = true
		c.waitForRetry(p, 0)
	case err == syscall.EPIPE:
		c.waitForRetry(p, c.opts.RetryInterval)
	case x.flags&ioForever != 0, err == syscall.EIO && eio > 0, err == syscall.ENOSPC && c.opts.RetryENOSPC:
		if eio == 0 {
			eio = eioRetryDefault
		}
		c.waitForTime(p, eio)
	default:
		c.endPart(p, err)
	}
}

// failedCAS is the error of a CAS operation: when nobody knows the outcome, it
// is the same as when the version did not match.
func (c *Client) failedCAS(p *part, err syscall.Errno) syscall.Errno {
	if err == syscall.EINTR && !p.rpc.Lost {
		var reply wire.RwReply // DELETE has the version in the same place
		reply.Decode(&p.rpc.Reply)
		p.io.version = reply.Version
	}
	if err == syscall.EPIPE {
		return syscall.EINTR
	}
	return err
}

// noteDead remembers which OSDs may still have the object (wire.md 6.4).
func (op *Op) noteDead(p *wire.Packet) {
	var reply wire.DeleteReply
	reply.Decode(p)
	if reply.Flags&wire.DeleteLeftOnDead == 0 {
		return
	}
	op.LeftOnDead = true
	for _, n := range reply.Dead() {
		if !slices.Contains(op.DeadOSDs, meta.OSDNum(n)) {
			op.DeadOSDs = append(op.DeadOSDs, meta.OSDNum(n))
		}
	}
}

// revision is the mod_revision of an inode, 0 = its key is not known.
func (c *Client) revision(inode meta.Inode) uint64 {
	if s := c.view.Inode(inode); s != nil {
		return uint64(s.Rev)
	}
	return 0
}

// copyBits copies n bits; missing ones at the end of src are 0.
func copyBits(dst []byte, to int, src []byte, from, n int) {
	if to%8 == 0 && from%8 == 0 && n%8 == 0 && (from+n)/8 <= len(src) {
		copy(dst[to/8:(to+n)/8], src[from/8:])
		return
	}
	d := meta.Bitmap(dst)
	d.ClearRange(to, to+n)
	for i := range min(n, len(src)*8-from) {
		if meta.Bitmap(src).Get(from + i) {
			dst[(to+i)/8] |= 1 << ((to + i) % 8)
		}
	}
}
