package heal

import (
	"fmt"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// listBytesMax bounds the answer to one listing of a peer.
const listBytesMax = 256 << 20

// lister gets the pages of a scrubRun: sorted lists of limited length from the
// own store if it is a member of the PG, otherwise from another member. There is
// one listing at a time.
type lister struct {
	h     *Healer
	run   *scrubRun // that the listing is for
	busy  bool
	limit int
	local secondary.Op
	list  store.List
	op    msgr.Op
	timer env.Timer // after an error
}

func (l *lister) init(h *Healer) {
	l.h = h
	l.local.Done, l.op.Done = l.listed, l.received
	l.op.Grow = func(op *msgr.Op, n int) bool {
		if n > listBytesMax {
			return false
		}
		op.Body = [][]byte{make([]byte, n)}
		return true
	}
	l.timer.Fire = func() {
		if l.h.run != nil {
			l.h.run.retry = false
		}
		l.h.wake()
	}
}

// begin asks for the next page of r. If a listing of an earlier run is still
// under way, it is left to its end first.
func (l *lister) begin(r *scrubRun) {
	h := l.h
	if l.busy {
		return
	}
	objects, pool := h.deps.Primary.Objects(r.pg), h.deps.View.Pool(r.pg.Pool)
	if objects == nil || pool == nil {
		return
	}
	from := meta.OSDNum(0)
	for _, osd := range objects.CurSet {
		if osd == h.config.OSD || from == 0 {
			from = osd
		}
	}
	l.limit = max(h.config.Scrub.ListLimit, 1)
	l.run, l.busy, r.listing = r, true, true
	last := meta.ObjectID{Inode: meta.MakeInode(r.pg.Pool, meta.MaxInodeNumber), Stripe: ^uint64(0)}
	if from == h.config.OSD {
		l.list.Pool, l.list.PG, l.list.PGCount, l.list.PGStripeBytes = r.pg.Pool, r.pg.Num, objects.PGCount, objects.PGStripeBytes
		l.list.Min, l.list.Max, l.list.StableLimit = r.from, last, l.limit
		l.local.Kind, l.local.List = store.OpList, &l.list
		h.deps.Local.Submit(&l.local)
		return
	}
	conn := h.deps.Peers.Conn(from)
	if conn == nil {
		l.failed(fmt.Errorf("OSD %d is not connected", from))
		return
	}
	(&wire.SecList{PG: r.pg.Num, PGCount: objects.PGCount, PGStripeBytes: objects.PGStripeBytes,
		Min: r.from, Max: last, StableLimit: uint32(min(l.limit, 1<<31))}).Encode(&l.op.Packet)
	conn.Submit(&l.op)
}

// listed has a page from the own store.
func (l *lister) listed(op *secondary.Op) {
	if op.Err != 0 {
		l.failed(op.Err)
		return
	}
	l.begun()
	for i := range l.list.Stable {
		l.run.add(l.list.Stable[i].ObjectID)
	}
	end := len(l.list.Stable) < l.limit
	for i := range l.list.Unstable {
		l.run.addUnstable(l.list.Unstable[i].ObjectID, end)
	}
	l.paged(end)
	if cap(l.list.Unstable) > 4096 {
		l.list.Unstable = nil
	}
}

// received has a page from a peer.
func (l *lister) received(op *msgr.Op) {
	if op.Retval.Failed() {
		l.failed(op.Retval.Err())
		return
	}
	var re wire.SecListReply
	re.Decode(&op.Reply)
	items := wire.ObjectList(nil)
	if op.BodyBytes > 0 {
		items = wire.ObjectList(op.Body[0][:op.BodyBytes])
	}
	stable := int(min(re.StableCount, uint64(items.Len())))
	l.begun()
	end := stable < l.limit
	for i := range items.Len() {
		if id := items.At(i).ObjectID; i < stable {
			l.run.add(id)
		} else {
			l.run.addUnstable(id, end)
		}
	}
	op.Body = nil
	l.paged(end)
}

// begun empties the page.
func (l *lister) begun() { l.run.page, l.run.at = l.run.page[:0], 0 }

// add puts a stable item into the page; r.from becomes what follows it. Chunks of
// one object are neighbours.
func (r *scrubRun) add(id meta.ObjectID) {
	object := id.Object()
	if n := len(r.page); n == 0 || r.page[n-1] != object {
		r.page = append(r.page, object)
	}
	r.from = after(id)
}

// addUnstable puts an unstable item into the page. It may be the only item of its
// object, in the lazy commit modes. They come with every page, all that are left.
func (r *scrubRun) addUnstable(id meta.ObjectID, end bool) {
	if end || id.Less(r.from) {
		r.page = append(r.page, id.Object())
	}
}

// paged ends a listing.
func (l *lister) paged(end bool) {
	r := l.run
	slices.SortFunc(r.page, meta.ObjectID.Compare)
	r.page = slices.Compact(r.page)
	l.busy, l.run = false, nil
	r.end, r.listing = end, false
	l.h.wake()
}

func (l *lister) failed(err error) {
	r := l.run
	l.busy, l.run = false, nil
	r.listing, r.retry = false, true
	l.h.log.Warn("objects cannot be listed for a scrub, trying again", "pg", r.pg.String(), "error", err)
	l.h.env.Clock.Arm(&l.timer, listRetry)
}
