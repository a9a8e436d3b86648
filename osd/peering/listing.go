package peering

import (
	"cmp"
	"fmt"
	"slices"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
)

// Lists are kept as sorted runs of limited length. So no step of the work takes
// long, nothing is copied to sort it, and the memory of a run is returned as
// soon as the merge has consumed it.
//
//	peer 1   [run][run][run]..
//	peer 2   [run][run]..         --merge--> all items of one object at a time
//	peer 3   [run][run][run]..
const (
	firstRunItems = 512
	runItems      = 16384
)

// run is a part of one peer's list, sorted by object.
type run struct {
	items  []meta.ObjectVersion
	at     int
	osd    meta.OSDNum
	stable bool
}

func (r *run) head() meta.ObjectID { return r.items[r.at].Object() }

// copyItem is one item of a list without the object it belongs to.
type copyItem struct {
	version meta.Version
	osd     meta.OSDNum
	role    meta.Role
	stable  bool
}

// byVersion: newest first; the same version of a chunk listed twice as stable
// first.
func byVersion(a, b copyItem) int {
	return cmp.Or(cmp.Compare(b.version, a.version), cmp.Compare(a.role, b.role),
		cmp.Compare(a.osd, b.osd), stableFirst(a, b))
}

// byPiece: all versions of one chunk on one OSD together, newest first.
func byPiece(a, b copyItem) int {
	return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.osd, b.osd),
		cmp.Compare(b.version, a.version), stableFirst(a, b))
}

func stableFirst(a, b copyItem) int {
	if a.stable == b.stable {
		return 0
	} else if a.stable {
		return -1
	}
	return 1
}

// listings collects lists and merges them.
type listings struct {
	runs  []run
	heap  []int32 // runs by the first object left in them
	items []copyItem
}

// add appends an item to the last run of the list, which is open when it has
// room.
func (l *listings) add(open int, v meta.ObjectVersion, osd meta.OSDNum, stable bool) (int, error) {
	if open < 0 || len(l.runs[open].items) == cap(l.runs[open].items) {
		size := runItems
		if open < 0 {
			size = firstRunItems
		} else {
			l.runs[open].sort()
		}
		mem, err := pinned.Make[meta.ObjectVersion](size)
		if err != nil {
			return open, fmt.Errorf("no memory for a list of objects: %w", err)
		}
		open = len(l.runs)
		l.runs = append(l.runs, run{items: mem[:0], osd: osd, stable: stable})
	}
	r := &l.runs[open]
	r.items = append(r.items, v)
	return open, nil
}

func (r *run) sort() {
	slices.SortFunc(r.items, byObject)
}

// byObject is most of the time of a calculation, so it compares no more than it
// has to.
func byObject(a, b meta.ObjectVersion) int {
	switch {
	case a.Inode != b.Inode:
		if a.Inode < b.Inode {
			return -1
		}
		return 1
	case a.Stripe < b.Stripe:
		return -1
	case a.Stripe > b.Stripe:
		return 1
	}
	return 0
}

func (r *run) free() {
	pinned.Free(r.items[:cap(r.items)])
	r.items = nil
}

// start makes the heap when all lists are complete.
func (l *listings) start() {
	for i := range l.runs {
		if len(l.runs[i].items) > 0 {
			l.heap = append(l.heap, int32(i))
		}
	}
	for i := len(l.heap)/2 - 1; i >= 0; i-- {
		l.sift(i)
	}
}

// sift moves the run at place i of the heap down to where it belongs.
func (l *listings) sift(i int) {
	moving := l.heap[i]
	head := l.runs[moving].head()
	for {
		child := 2*i + 1
		if child >= len(l.heap) {
			break
		}
		least := l.runs[l.heap[child]].head()
		if right := child + 1; right < len(l.heap) {
			if h := l.runs[l.heap[right]].head(); h.Less(least) {
				child, least = right, h
			}
		}
		if !least.Less(head) {
			break
		}
		l.heap[i] = l.heap[child]
		i = child
	}
	l.heap[i] = moving
}

// next returns all items of the next object, in no order; ok is false at the
// end. They are valid until the next call.
func (l *listings) next() (id meta.ObjectID, items []copyItem, ok bool) {
	if len(l.heap) == 0 {
		return id, nil, false
	}
	id = l.runs[l.heap[0]].head()
	l.items = l.items[:0]
	for len(l.heap) > 0 && l.runs[l.heap[0]].head() == id {
		r := &l.runs[l.heap[0]]
		for ; r.at < len(r.items) && r.head() == id; r.at++ {
			v := &r.items[r.at]
			l.items = append(l.items, copyItem{v.Version, r.osd, v.Role(), r.stable})
		}
		if r.at == len(r.items) {
			r.free()
			last := len(l.heap) - 1
			l.heap[0] = l.heap[last]
			if l.heap = l.heap[:last]; last == 0 {
				break
			}
		}
		l.sift(0)
	}
	return id, l.items, true
}

func (l *listings) free() {
	for i := range l.runs {
		if l.runs[i].items != nil {
			l.runs[i].free()
		}
	}
	*l = listings{}
}

// List receives the answer of one peer to SEC_LIST, in pieces as they arrive.
type List struct {
	c          *Calc
	osd        meta.OSDNum
	stableLeft uint64 // items until the unstable part begins
	open       [2]int // runs being filled: unstable, stable
}

// Open begins the list of a peer whose first stableCount items are stable. Each
// peer is listed once.
func (c *Calc) Open(osd meta.OSDNum, stableCount uint64) *List {
	invariant.Must(!c.started, "peering: a list is added to a calculation that runs")
	return &List{c: c, osd: osd, stableLeft: stableCount, open: [2]int{-1, -1}}
}

// Add takes a piece of the payload, of whole items. An error says that the
// answer is not usable: the peer has to be dropped.
func (l *List) Add(items wire.ObjectList) error {
	for i := range items.Len() {
		stable := l.stableLeft > 0
		if stable {
			l.stableLeft--
		}
		if err := l.addItem(items.At(i), stable); err != nil {
			return err
		}
	}
	return nil
}

// AddItems takes items of one kind: from the own store.
func (l *List) AddItems(items []meta.ObjectVersion, stable bool) error {
	for _, v := range items {
		if err := l.addItem(v, stable); err != nil {
			return err
		}
	}
	return nil
}

func (l *List) addItem(v meta.ObjectVersion, stable bool) error {
	lay := &l.c.layout
	if v.Version == 0 || v.Inode.Pool() != lay.PG.Pool ||
		meta.PGOf(v.Stripe, lay.PGStripeBytes, lay.PGCount) != lay.PG.Num {
		return fmt.Errorf("OSD %d lists %v version %v for PG %v, where it cannot be: "+
			"check that pg_count and pg_stripe_size are the same everywhere", l.osd, v.ObjectID, v.Version, lay.PG)
	}
	kind := 0
	if stable {
		kind = 1
	}
	var err error
	l.open[kind], err = l.c.lists.add(l.open[kind], v, l.osd, stable)
	l.c.sum.MaxEpoch = max(l.c.sum.MaxEpoch, v.Version.Epoch())
	return err
}

// Close ends the list when the whole payload was added.
func (l *List) Close() error {
	for _, open := range l.open {
		if open >= 0 {
			l.c.lists.runs[open].sort()
		}
	}
	if l.stableLeft > 0 {
		return fmt.Errorf("the list of OSD %d for PG %v ends %d items before its stable part does: "+
			"the peer is broken", l.osd, l.c.layout.PG, l.stableLeft)
	}
	return nil
}
