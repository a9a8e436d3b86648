package client_test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

func (o *fakeOSD) Connected(*msgr.Conn)             {}
func (o *fakeOSD) ConnectFailed(meta.OSDNum, error) {}
func (o *fakeOSD) Disconnected(c *msgr.Conn, _ error) {
	delete(o.dirty, c)
	o.lost++
}

func (o *fakeOSD) chance(p float64) bool { return p > 0 && o.w.Rand().Float64() < p }

// Serve executes a request after a while, in the order of arrival of each object.
func (o *fakeOSD) Serve(r *msgr.Request) {
	if o.hold {
		o.held = append(o.held, func() { o.execute(r) })
		return
	}
	d := time.Duration(20) * time.Microsecond
	if o.delay > 0 {
		d += time.Duration(o.w.Rand().Int64N(int64(o.delay)))
	}
	t := &env.Timer{Fire: func() { o.execute(r) }}
	o.env.Clock.Arm(t, d)
}

// release executes what was held.
func (o *fakeOSD) release() {
	o.node.Do(func(*env.Env) {
		o.hold = false
		for _, f := range o.held {
			f()
		}
		o.held = nil
	})
}

func (o *fakeOSD) execute(r *msgr.Request) {
	if o.fail != nil {
		if e := o.fail(r); e != 0 {
			r.Fail(e)
			return
		}
	}
	if o.chance(o.drop) {
		r.Conn.Drop(errors.New("injected"))
		r.Fail(wire.EPIPE)
		return
	}
	if o.chance(o.epipe) {
		r.Fail(wire.EPIPE)
		return
	}
	if o.logging {
		o.log = append(o.log, fmt.Sprintf("%d %v", o.num, r.Op()))
	}
	switch r.Op() {
	case wire.OpRead, wire.OpWrite, wire.OpDelete:
		o.rw(r)
	case wire.OpSync:
		o.sync(r)
	case wire.OpSecList:
		o.list(r)
	default:
		r.Fail(wire.EINVAL)
	}
}

func (o *fakeOSD) rw(r *msgr.Request) {
	var rw wire.Rw
	rw.Decode(&r.Packet)
	id := meta.ObjectID{Inode: rw.Inode, Stripe: rw.Offset / block * block}
	p := o.pools[rw.Inode.Pool()]
	if e := rw.Check(uint32(o.granuleOf(rw.Inode))); p != nil && e != 0 {
		o.t.Errorf("misaligned request %+v", rw)
	}
	if e := rw.CheckObject(block); e != 0 {
		o.t.Errorf("request over the border of an object: %+v", rw)
	}
	pg := o.pgOf(id)
	local := rw.Op == wire.OpRead && p.local != "" && p.local != "primary" && (o.num == o.nth(int(pg.Num)-1) || o.num == o.nth(int(pg.Num)))
	if o.primary[pg] != o.num && !local {
		r.Fail(wire.EPIPE)
		return
	}
	if o.chance(o.eio) {
		r.Fail(wire.EIO)
		return
	}
	switch rw.Op {
	case wire.OpRead:
		o.read(r, &rw, id)
	case wire.OpWrite:
		o.change(r, &rw, id, pg)
	case wire.OpDelete:
		o.change(r, &rw, id, pg)
	}
	if o.chance(o.dropAfter) {
		r.Conn.Drop(errors.New("injected after the reply"))
	}
}

func (f *fake) object(id meta.ObjectID) *object {
	ob := f.objects[id]
	if ob == nil {
		ob = &object{}
		f.objects[id] = ob
	}
	return ob
}

func (o *fakeOSD) read(r *msgr.Request, rw *wire.Rw, id meta.ObjectID) {
	if rw.MetaRevision > 0 && int64(rw.MetaRevision) != o.revs[rw.Inode] {
		r.Fail(wire.EPIPE)
		return
	}
	top := o.object(id)
	view := top.content
	for parent := o.parents[rw.Inode]; rw.MetaRevision > 0 && parent != 0 && parent.Pool() == rw.Inode.Pool(); parent = o.parents[parent] {
		below := o.object(meta.ObjectID{Inode: parent, Stripe: id.Stripe})
		g := o.granuleOf(parent)
		for i := range block / g {
			if view.bits&(1<<i) == 0 && below.bits&(1<<i) != 0 {
				view.bits |= 1 << i
				copy(view.data[i*g:(i+1)*g], below.data[i*g:])
			}
		}
	}
	from := int(rw.Offset - id.Stripe)
	src := view.data[from : from+int(rw.Len)]
	for _, b := range r.Body {
		n := copy(b, src)
		src = src[n:]
		r.ReplyParts = append(r.ReplyParts, b)
	}
	bits := []byte{view.bits}
	r.ReplyParts = append([][]byte{bits}, r.ReplyParts...)
	(&wire.RwReply{Op: wire.OpRead, Retval: wire.Retval(rw.Len), BitmapLen: uint32(len(bits)),
		Version: meta.Version(top.version)}).Encode(&r.Reply)
	r.Finish()
}

func (f *fake) granuleOf(i meta.Inode) int {
	if g := f.pools[i.Pool()].granule; g != 0 {
		return int(g)
	}
	return granule
}

func (o *fakeOSD) change(r *msgr.Request, rw *wire.Rw, id meta.ObjectID, pg meta.PG) {
	ob := o.object(id)
	if rw.Version != 0 && uint64(rw.Version) != ob.version+1 {
		if rw.Op == wire.OpDelete {
			(&wire.DeleteReply{Retval: wire.EINTR, Version: meta.Version(ob.version)}).Encode(&r.Reply)
		} else {
			(&wire.RwReply{Op: wire.OpWrite, Retval: wire.EINTR, Version: meta.Version(ob.version)}).Encode(&r.Reply)
		}
		r.Finish()
		return
	}
	if o.chance(o.enospc) && rw.Op == wire.OpWrite {
		r.Fail(wire.ENOSPC)
		return
	}
	if o.pools[pg.Pool].commit != "all" {
		ob.undo = append(ob.undo, ob.content)
		if o.dirty[r.Conn] == nil {
			o.dirty[r.Conn] = map[meta.PG]bool{}
		}
		o.dirty[r.Conn][pg] = true
	}
	ob.version++
	if rw.Op == wire.OpDelete {
		ob.content = content{}
		(&wire.DeleteReply{Flags: wire.DeleteReportsDead}).Encode(&r.Reply)
		r.Finish()
		return
	}
	at := int(rw.Offset - id.Stripe)
	for _, b := range r.Body {
		at += copy(ob.data[at:], b)
	}
	g := o.granuleOf(rw.Inode)
	for i := range int(rw.Len) / g {
		ob.bits |= 1 << (int(rw.Offset-id.Stripe)/g + i)
	}
	(&wire.RwReply{Op: wire.OpWrite, Retval: wire.Retval(rw.Len), Version: meta.Version(ob.version)}).Encode(&r.Reply)
	r.Finish()
}

func (o *fakeOSD) sync(r *msgr.Request) {
	if o.chance(o.eio) {
		r.Fail(wire.EIO)
		return
	}
	for id, ob := range o.objects {
		if o.primary[o.pgOf(id)] == o.num {
			ob.undo = nil
		}
	}
	delete(o.dirty, r.Conn)
	r.Fail(wire.OK)
}

func (o *fakeOSD) list(r *msgr.Request) {
	var q wire.SecList
	q.Decode(&r.Packet)
	pool := q.Min.Inode.Pool()
	if o.primary[meta.PG{Pool: pool, Num: q.PG}] != o.num {
		r.Fail(wire.EPIPE)
		return
	}
	var ids []meta.ObjectID
	for id, ob := range o.objects {
		if ob.version > 0 && id.Inode.Pool() == pool && o.pgOf(id).Num == q.PG && !id.Less(q.Min) && !q.Max.Less(id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, meta.ObjectID.Compare)
	var list wire.ObjectList
	for _, id := range ids {
		list = list.Append(meta.ObjectVersion{ObjectID: id})
	}
	(&wire.SecListReply{Retval: wire.Retval(len(ids)), StableCount: uint64(len(ids)), Flags: q.Flags & wire.ListPrimary}).Encode(&r.Reply)
	if len(list) > 0 {
		r.ReplyParts = append(r.ReplyParts, list)
	}
	r.Finish()
}
