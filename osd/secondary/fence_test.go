package secondary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

func TestListers(t *testing.T) {
	var l Listers
	pg := meta.PG{Pool: 1, Num: 2}
	a, b := new(msgr.Conn), new(msgr.Conn)
	if l.Fenced(pg, 8, a) || l.Fenced(pg, 8, nil) {
		t.Error("nobody has listed")
	}
	l.Listed(pg, 8, a)
	if l.Fenced(pg, 8, a) || !l.Fenced(pg, 8, b) || l.Fenced(pg, 16, b) || l.Fenced(meta.PG{Pool: 1, Num: 3}, 8, b) {
		t.Error("after the listing of a")
	}
	l.Disconnected(a)
	if !l.Fenced(pg, 8, b) || !l.Fenced(pg, 8, a) {
		t.Error("the fence fell with the connection")
	}
	l.Listed(pg, 8, nil)
	if !l.Fenced(pg, 8, a) || !l.Fenced(pg, 8, b) || l.Fenced(pg, 8, nil) {
		t.Error("our own primary has listed")
	}
}

// TestFence: when another primary has listed the PG, whatever the former one
// sends is refused and not executed, also without PG locks, until it lists again.
func TestFence(t *testing.T) {
	r := newRig(t, 1)
	p, q, stranger := r.peer(1), r.peer(3), r.peer(0)
	pg := meta.PG{Pool: 2, Num: 1}
	id := oid(2, 1, 0)
	p.list(r.peering(pg))
	p.write(4096, wire.OpSecWrite, id, 1, 0, 4096, 1, 1)
	q.list(r.peering(pg))
	items := wire.ObjectList(nil).Append(at(id, 1))
	p.write(wire.EPIPE, wire.OpSecWrite, id, 2, 0, 4096, 1, 1)
	p.write(wire.EPIPE, wire.OpSecWriteStable, id, 2, 0, 4096, 1, 1)
	p.want(wire.EPIPE, &wire.SecStab{Op: wire.OpSecStabilize, Len: 24}, items)
	p.want(wire.EPIPE, &wire.SecStab{Op: wire.OpSecRollback, Len: 24}, items)
	p.want(wire.EPIPE, &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Len: 4096})
	p.want(wire.EPIPE, &wire.SecDel{Chunk: id, Version: 3})
	stranger.want(4096, &wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Len: 4096}) // vitastor-cli
	// A part of a listing, as in scrubs and of clients, is no claim.
	part := r.peering(pg)
	part.StableLimit = 1
	p.list(part)
	stranger.list(r.peering(pg))
	q.want(0, &wire.SecStab{Op: wire.OpSecStabilize, Len: 24}, items)
	if s, u := q.list(r.peering(pg)); len(s) != 1 || len(u) != 0 || s[0].Version != 1 {
		t.Errorf("listed %v %v", s, u)
	}
	p.list(r.peering(pg))
	p.write(4096, wire.OpSecWriteStable, id, 2, 0, 4096, 1, 1)

	// We take the PG ourselves.
	l := &store.List{Pool: 2, PG: 1, PGCount: 1, PGStripeBytes: 2 * blockBytes, Min: oid(2, 0, 0), Max: oid(2, meta.MaxInodeNumber, 1<<64-1)}
	listed := false
	own := &Op{Op: store.Op{Kind: store.OpList, List: l}, Done: func(*Op) { listed = true }}
	r.node.Do(func(*env.Env) { r.s.Submit(own) })
	r.w.RunUntil(func() bool { return listed }, time.Minute)
	p.write(wire.EPIPE, wire.OpSecWriteStable, id, 3, 0, 4096, 1, 1)
	q.write(wire.EPIPE, wire.OpSecWriteStable, id, 3, 0, 4096, 1, 1)
	r.idle()
}
