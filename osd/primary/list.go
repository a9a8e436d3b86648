package primary

import (
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// listing answers SEC_LIST with wire.ListPrimary (wire.md §7.8): the objects of
// one image in one PG. Clean objects are those that a member of the PG has, this
// OSD if it is one; the others are known by their state.
type listing struct {
	s      *Server
	r      *msgr.Request
	p      *pg
	q      wire.SecList
	local  secondary.Op
	list   store.List
	remote msgr.Op
	items  []uint64 // stripes with roles
	next   *listing // in Server.freeListings
}

// listingsAtOnce bounds memory: a listing may be long. More requests wait.
const listingsAtOnce = 4

// serveList executes SEC_LIST with wire.ListPrimary.
func (s *Server) serveList(r *msgr.Request) {
	if s.listings >= listingsAtOnce {
		s.listWaiters = append(s.listWaiters, r) // the messenger bounds their number
		return
	}
	s.beginList(r)
}

// beginList checks a request and asks for the objects that a member has.
func (s *Server) beginList(r *msgr.Request) {
	var q wire.SecList
	q.Decode(&r.Packet)
	id := q.Min.Inode.Pool()
	count, stripe := uint32(0), uint64(0)
	if pool := s.view.Pool(id); pool != nil {
		count, stripe = s.view.PGCount(id), pool.PGStripeBytes
	}
	if err := q.CheckPrimary(count, stripe); err != wire.OK {
		r.Fail(err)
		return
	}
	p := s.pgs[meta.PG{Pool: id, Num: q.PG}]
	if p == nil || !p.active || !s.config.MayServe() {
		r.Fail(wire.EPIPE)
		return
	}
	q.PGCount, q.PGStripeBytes = p.objects.PGCount, p.objects.PGStripeBytes
	l := s.takeListing()
	l.r, l.p, l.q = r, p, q
	s.listings++
	if p.self >= 0 {
		l.askStore()
	} else {
		l.askMember()
	}
}

func (s *Server) takeListing() *listing {
	l := s.freeListings
	if l == nil {
		l = &listing{s: s}
		l.local.Done, l.remote.Done, l.remote.Grow = l.listed, l.received, l.grow
		return l
	}
	s.freeListings, l.next = l.next, nil
	return l
}

func (l *listing) askStore() {
	q := &l.q
	l.list.Pool, l.list.PG, l.list.PGCount, l.list.PGStripeBytes = l.p.id.Pool, q.PG, q.PGCount, q.PGStripeBytes
	l.list.Min, l.list.Max = q.Min, q.Max
	l.local.Kind, l.local.List = store.OpList, &l.list
	l.s.local.Submit(&l.local)
}

// listed has what our own store has. Objects of which there is no stable
// version yet exist, too, in the lazy commit modes.
func (l *listing) listed(op *secondary.Op) {
	if op.Err != 0 {
		l.end(wire.EPIPE)
		return
	}
	l.items = l.items[:0]
	for _, part := range [2][]meta.ObjectVersion{l.list.Stable, l.list.Unstable} {
		for i := range part {
			l.items = append(l.items, part[i].Stripe)
		}
	}
	l.complete()
}

// askMember asks the first member of the PG.
func (l *listing) askMember() {
	for _, osd := range l.p.curSet {
		if c := l.s.peers.Conn(osd); osd != 0 && c != nil {
			q := l.q
			q.Flags = 0
			q.Encode(&l.remote.Packet)
			c.Submit(&l.remote)
			return
		}
	}
	l.end(wire.EPIPE)
}

// grow takes memory for the answer of a member.
func (l *listing) grow(op *msgr.Op, n int) bool {
	if n > wire.MaxPayloadBytes/2 {
		return false
	}
	op.Body = [][]byte{make([]byte, n)}
	return true
}

func (l *listing) received(op *msgr.Op) {
	switch {
	case op.Lost:
		l.end(wire.EPIPE)
		return
	case op.Retval.Failed():
		op.Body = nil
		l.end(wire.EPIPE)
		return
	}
	l.items = l.items[:0]
	if op.BodyBytes > 0 {
		list := wire.ObjectList(op.Body[0][:op.BodyBytes])
		for i := range list.Len() {
			l.items = append(l.items, list.At(i).Stripe)
		}
	}
	op.Body = nil
	l.complete()
}

// complete adds what is known by its state, and answers.
func (l *listing) complete() {
	s, p := l.s, l.p
	if !p.active || s.pgs[p.id] != p {
		l.end(wire.EPIPE)
		return
	}
	slices.Sort(l.items)
	l.items = slices.CompactFunc(l.items, func(a, b uint64) bool { return a|meta.RoleMask == b|meta.RoleMask })
	l.items = slices.DeleteFunc(l.items, l.rolledBack)
	listed := len(l.items)
	from := l.q.Min
	for {
		id, r := p.objects.Next(from, 0)
		if r == nil || l.q.Max.Less(id) {
			break
		}
		if _, found := slices.BinarySearchFunc(l.items[:listed], id.Stripe, byObject); !found {
			l.items = append(l.items, id.Stripe)
		}
		from = meta.ObjectID{Inode: id.Inode, Stripe: id.Stripe + 1}
	}
	if len(l.items) > listed {
		slices.Sort(l.items)
	}
	if len(l.items) > wire.MaxPayloadBytes/wire.ObjectItemBytes {
		if s.env.Log != nil {
			s.env.Log.Error("listing is too long for one reply", "pg", p.id.String(), "objects", len(l.items))
		}
		l.end(wire.EINVAL)
		return
	}
	l.end(wire.Retval(len(l.items)))
}

// byObject compares without the role.
func byObject(item, stripe uint64) int {
	switch a, b := item|meta.RoleMask, stripe|meta.RoleMask; {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// rolledBack tells that what the store has of an object was never acknowledged.
func (l *listing) rolledBack(stripe uint64) bool {
	_, limit := l.p.objects.Lookup(meta.ObjectID{Inode: l.q.Min.Inode, Stripe: stripe}.Object())
	return limit == meta.NoVersion
}

// end answers with the items, or with an error, and lets the next one begin.
func (l *listing) end(ret wire.Retval) {
	s, r := l.s, l.r
	reply := wire.SecListReply{Retval: ret, Flags: wire.ListPrimary}
	if ret > 0 {
		out := make(wire.ObjectList, 0, int(ret)*wire.ObjectItemBytes)
		for _, stripe := range l.items {
			out = out.Append(meta.ObjectVersion{ObjectID: meta.ObjectID{Inode: l.q.Min.Inode, Stripe: stripe}})
		}
		r.ReplyParts = append(r.ReplyParts, out)
		reply.StableCount = uint64(ret)
	}
	if ret.Failed() {
		r.Fail(ret)
	} else {
		reply.Encode(&r.Reply)
		r.Finish()
	}
	l.forget()
	s.listings--
	l.next, s.freeListings = s.freeListings, l
	for len(s.listWaiters) > 0 && s.listings < listingsAtOnce {
		w := s.listWaiters[0]
		s.listWaiters = slices.Delete(s.listWaiters, 0, 1)
		s.beginList(w)
	}
}

// itemsKept is how many items an idle listing keeps memory for.
const itemsKept = 65536

func (l *listing) forget() {
	l.r, l.p = nil, nil
	if cap(l.items) > itemsKept {
		l.items = nil
	}
	if cap(l.list.Stable) > itemsKept {
		l.list.Stable = nil
	}
	if cap(l.list.Unstable) > itemsKept {
		l.list.Unstable = nil
	}
}
