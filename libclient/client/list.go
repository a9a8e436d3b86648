package client

import (
	"slices"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// listPGsMax is how many PGs are listed at the same time.
const listPGsMax = 16

// List finds the objects of an image (osd.md §21).
type List struct {
	Inode meta.Inode
	// MinOffset and MaxOffset limit the range, in bytes; objects that begin in
	// the same unit of placement as MinOffset are included. MaxOffset 0 = no
	// limit.
	MinOffset, MaxOffset uint64
	// PG is called once for each PG with its objects, ascending, without
	// roles; or with EPIPE when it stayed inactive for client_wait_up_timeout.
	PG func(pg meta.PGNum, objects []meta.ObjectID, err syscall.Errno)
	// Done is called once. EAGAIN: the number of PGs has changed, begin again;
	// EINVAL: there is no such pool.
	Done func(err syscall.Errno)
}

// listing is a List that runs.
type listing struct {
	*List
	c        *Client
	pool     *pool
	gen      uint32
	next     meta.PGNum
	running  int
	finished int
	err      syscall.Errno
	start    env.Task
}

// listPG lists one PG.
type listPG struct {
	l        *listing
	num      meta.PGNum
	since    env.Instant
	timer    env.Timer
	requests []*Raw
	left     int
	failed   bool
	objects  []meta.ObjectID
}

// List starts a listing. Nothing is called inside.
func (c *Client) List(list *List) {
	l := &listing{List: list, c: c, next: 1}
	c.busyWork++
	l.start.Run = l.begin
	c.env.Exec.Defer(&l.start)
}

func (l *listing) begin() {
	c := l.c
	if l.pool = c.pools[l.Inode.Pool()]; l.pool == nil || len(l.pool.pgs) == 0 || c.ended {
		l.err = syscall.EINVAL
		if c.ended {
			l.err = syscall.ECANCELED
		}
		l.end()
		return
	}
	l.gen = l.pool.gen
	l.more()
}

// more starts PGs while there may be more of them at a time.
func (l *listing) more() {
	for l.running < listPGsMax && l.err == 0 && int(l.next) <= len(l.pool.pgs) && l.gen == l.pool.gen {
		p := &listPG{l: l, num: l.next, since: l.c.env.Clock.Now()}
		p.timer.Fire = p.try
		l.next++
		l.running++
		p.try()
	}
	if l.running == 0 {
		l.end()
	}
}

func (l *listing) end() {
	l.c.busyWork--
	l.Done(l.err)
	l.c.idle()
}

// try asks the primary, or waits.
func (p *listPG) try() {
	l := p.l
	c := l.c
	switch {
	case c.ended:
		p.end(syscall.ECANCELED)
		return
	case l.gen != l.pool.gen || l.pool.gone:
		p.resharded()
		return
	}
	g := &l.pool.pgs[p.num-1]
	now := c.env.Clock.Now()
	if !g.active {
		if now.Sub(p.since) >= c.opts.WaitUpTimeout {
			p.end(syscall.EPIPE)
			return
		}
		c.env.Clock.Arm(&p.timer, c.opts.RetryInterval)
		return
	}
	p.since = now
	p.objects, p.failed = p.objects[:0], false
	p.ask([]meta.OSDNum{g.primary}, wire.ListPrimary)
}

// resharded: the PGs are others now. If nothing was reported yet, all begins
// again, otherwise the caller has to.
func (p *listPG) resharded() {
	l := p.l
	if l.finished > 0 || l.pool.gone {
		p.end(syscall.EAGAIN)
		return
	}
	if l.running--; l.running == 0 {
		l.next, l.gen = 1, l.pool.gen
		if len(l.pool.pgs) == 0 {
			l.err = syscall.EAGAIN
		}
		l.more()
	}
}

// ask sends the request to some OSDs.
func (p *listPG) ask(osds []meta.OSDNum, flags wire.ListFlags) {
	l := p.l
	unit := l.pool.spec.PGStripeBytes
	q := wire.SecList{PG: p.num, PGCount: uint32(len(l.pool.pgs)), PGStripeBytes: unit, Flags: flags,
		Min: meta.ObjectID{Inode: l.Inode, Stripe: l.MinOffset / unit * unit},
		Max: meta.ObjectID{Inode: l.Inode, Stripe: ^uint64(0)}}
	if l.MaxOffset > 0 {
		q.Max.Stripe = l.MaxOffset | meta.RoleMask
	}
	p.requests = p.requests[:0]
	p.left = len(osds)
	for _, n := range osds {
		r := &Raw{OSD: n, Done: p.answered}
		q.Encode(&r.Op.Packet)
		r.Op.Grow = growList
		p.requests = append(p.requests, r)
	}
	for _, r := range p.requests {
		l.c.Request(r)
	}
}

func (p *listPG) answered(r *Raw) {
	var reply wire.SecListReply
	if p.left--; r.Op.Retval.Failed() {
		p.failed = true
	} else {
		reply.Decode(&r.Op.Reply)
		p.take(r)
	}
	if p.left > 0 {
		return
	}
	l := p.l
	if p.failed {
		l.c.env.Clock.Arm(&p.timer, l.c.opts.RetryInterval)
		return
	}
	if len(p.requests) == 1 && reply.Flags&wire.ListPrimary == 0 && !p.fallback() {
		return
	}
	slices.SortFunc(p.objects, meta.ObjectID.Compare)
	p.objects = slices.Compact(p.objects)
	p.end(0)
}

// fallback asks all peers of a PG that is not clean, because its primary does
// not know the kind of listing that we want. It tells whether the answer of the
// primary is enough. Compat: OSDs before 1.11.
func (p *listPG) fallback() (enough bool) {
	l := p.l
	state := l.c.view.PGState(meta.PG{Pool: l.pool.id, Num: p.num})
	peers := allPeers(state.Peers, state.Primary)
	if state.State == meta.PGActive || len(peers) < 2 || len(p.requests) > 1 {
		return true
	}
	p.objects = p.objects[:0]
	p.ask(peers, 0)
	return false
}

func allPeers(peers []meta.OSDNum, primary meta.OSDNum) []meta.OSDNum {
	all := append(slices.Clone(peers), primary)
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(n meta.OSDNum) bool { return n == 0 })
}

// listBytesMax bounds the answer for one PG: 4 million objects.
const listBytesMax = 96 << 20

// growList makes room for a list, whose length the OSD chooses.
func growList(op *msgr.Op, bytes int) bool {
	if bytes > listBytesMax {
		return false
	}
	op.Body = [][]byte{make([]byte, bytes)}
	return true
}

// take adds the objects of an answer.
func (p *listPG) take(r *Raw) {
	if len(r.Op.Body) == 0 {
		return
	}
	items := wire.ObjectList(r.Op.Body[0][:r.Op.BodyBytes])
	for i := range items.Len() {
		id := items.At(i).ObjectID.Object()
		if id.Inode != p.l.Inode { // an OSD that answers something else
			continue
		}
		if n := len(p.objects); n == 0 || p.objects[n-1] != id {
			p.objects = append(p.objects, id)
		}
	}
}

func (p *listPG) end(err syscall.Errno) {
	l := p.l
	l.running--
	switch err {
	case syscall.EAGAIN, syscall.ECANCELED:
		l.err = worse(l.err, err)
	default:
		l.finished++
		l.PG(p.num, p.objects, err)
	}
	l.more()
}
