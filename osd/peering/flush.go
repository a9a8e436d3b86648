package peering

import (
	"sort"

	"vitastor/internal/meta"
)

// flushBatchItems is how many items of one OSD end a batch (osd.md §11.2).
const flushBatchItems = 512

// FlushItem is one chunk whose unstable versions have to be settled: rolled
// back to Version, or made stable up to it. The stripe has the role.
type FlushItem struct {
	meta.ObjectVersion
	OSD      meta.OSDNum
	Rollback bool
}

// flushQueue holds what is to be flushed, ascending by object.
type flushQueue struct {
	items []FlushItem
	done  int // items before are flushed
	sent  int // items before are flushed or in the running batch
	perOS map[meta.OSDNum]int
}

func (q *flushQueue) left() bool { return q.done < len(q.items) }

// FlushBatch returns the next batch in order of objects: to be sent as one
// ROLLBACK and one STABILIZE request per OSD, all at once. It is empty when
// there is nothing left, or a batch is running. It is valid until FlushDone.
func (o *Objects) FlushBatch() []FlushItem {
	q := &o.flush
	if q.sent != q.done || !q.left() {
		return nil
	}
	if q.perOS == nil {
		q.perOS = make(map[meta.OSDNum]int)
	}
	clear(q.perOS)
	full, end := false, q.done
	for ; end < len(q.items); end++ {
		if full && q.items[end].Object() != q.items[end-1].Object() {
			break
		}
		osd := q.items[end].OSD
		q.perOS[osd]++
		full = full || q.perOS[osd] >= flushBatchItems
	}
	q.sent = end
	return q.items[q.done:end]
}

// FlushDone tells that the whole batch succeeded: its objects are not pending
// any more and show their newest version. After an error the PG has to peer
// again instead. It returns whether there is more to flush.
func (o *Objects) FlushDone() (more bool) {
	q := &o.flush
	for ; q.done < q.sent; q.done++ {
		o.overrides.delete(q.items[q.done].Object())
	}
	if !q.left() {
		o.flush = flushQueue{}
	}
	return o.flush.left()
}

// FlushPending tells whether writes to the object have to wait for a batch.
func (o *Objects) FlushPending(id meta.ObjectID) bool {
	if !o.flush.left() {
		return false
	}
	items := o.flush.items[o.flush.done:]
	i := sort.Search(len(items), func(i int) bool { return !items[i].Object().Less(id) })
	return i < len(items) && items[i].Object() == id
}
