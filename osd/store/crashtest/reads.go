package crashtest

import (
	"fmt"
	"slices"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// submitRead reads a part of an object, perhaps while it changes; the answer
// must be one of the states that it had meanwhile (rule 5).
func (r *runner) submitRead(s *Step) {
	o := r.object(s)
	g := r.c.Store.GranuleBytes
	from := s.B % r.c.granules()
	n := s.C % (r.c.granules() - from + 1)
	if s.C/256%3 == 0 {
		from, n = 0, r.c.granules()
	}
	op := &store.Op{Kind: store.OpRead, OID: o.id, Version: meta.NewestVersion, Offset: uint32(from) * g, Len: uint32(n) * g}
	if n > 0 {
		op.Buf = r.h.buffer(int(op.Len))
	}
	if s.A%4 != 0 {
		op.Bitmap = make([]byte, r.c.bitmapBytes())
	}
	switch x := s.A / 16 % 8; {
	case x < 4 && len(o.live) > 0:
		op.Version = o.live[s.A/256%len(o.live)].Number
	case x == 4:
		op.Version = meta.Version(s.A / 256 % 8)
	}
	limit, since := op.Version, len(o.past)-1
	r.submit(op, fmt.Sprintf("READ object %d limit v%d granules [%d,%d)", o.index, limit, from, from+n), func(op *store.Op) {
		r.checkRead(o, op, limit, since, from)
		r.h.Stats.Reads++
	})
}

func (r *runner) checkRead(o *object, op *store.Op, limit meta.Version, since, from int) {
	var got *Version
	switch op.Err {
	case 0:
		got = &Version{Number: op.Version, Content: decode(op.Buf, op.Offset, r.c.Store.GranuleBytes), Ext: string(op.Bitmap)}
	case syscall.ENOENT:
	default:
		// Under the newest stable version anything goes, even while it becomes so.
		undefined := slices.ContainsFunc(o.window(since), func(s State) bool { _, defined := s.read(limit); return !defined })
		if r.rig.fatal == nil && !undefined && !(r.sickReads && op.Err == syscall.EIO) {
			r.failf("read of object %d (%v), limit %d: %w", o.index, o.id, limit, op.Err)
		}
		return
	}
	window := o.window(since)
	for _, s := range window {
		if want, defined := s.read(limit); !defined || matchesPart(got, want, from) {
			return
		}
	}
	text := ""
	for _, s := range window {
		text += fmt.Sprintf("\n  possible: %v", s)
	}
	if got == nil {
		r.failf("read of object %d (%v), limit %d: ENOENT%s", o.index, o.id, limit, text)
	} else {
		r.failf("read of object %d (%v), limit %d, from granule %d: %v%s", o.index, o.id, limit, from, got, text)
	}
}

// matchesPart compares what was read from a granule on with a version.
func matchesPart(got, want *Version, from int) bool {
	if got == nil || want == nil {
		return got == want
	}
	return got.Number == want.Number && (got.Ext == "" || got.Ext == want.Ext) &&
		slices.Equal(got.Content, want.Content[from:from+len(got.Content)])
}

// checkStat asks for a version without reading.
func (r *runner) checkStat(s *Step) {
	o := r.object(s)
	limit := meta.NewestVersion
	if s.A%2 == 0 && len(o.live) > 0 {
		limit = o.live[s.B%len(o.live)].Number
	}
	ext := make([]byte, r.c.bitmapBytes())
	n, ok := r.rig.engine.Stat(o.id, limit, ext)
	for _, st := range o.window(len(o.past) - 1) {
		want, defined := st.read(limit)
		if !defined || want == nil && !ok || want != nil && ok && n == want.Number && want.Ext == string(ext) {
			return
		}
	}
	r.failf("Stat of object %d, limit %d: version %d, %v, ext %x; it is %v", o.index, limit, n, ok, ext, o.live)
}

// submitList lists a PG or a part of it; it must contain everything that was
// submitted before (wire.md §7.8).
func (r *runner) submitList(s *Step) {
	pool := oneOf(r.rng, replicatedPool, ecPool)
	op := listOp(pool, uint32(1+s.A%int(r.pgCount)), r.pgCount)
	l := op.List
	if s.B%3 == 0 {
		a, b := r.objs[s.B%len(r.objs)].id, r.objs[s.C%len(r.objs)].id
		if a.Inode.Pool() == pool && b.Inode.Pool() == pool {
			l.Min, l.Max = a, b
		}
	}
	if s.C%4 == 0 {
		l.StableLimit = 1 + s.C/4%3
	}
	since := make([]int, len(r.objs))
	for i, o := range r.objs {
		since[i] = len(o.past) - 1
		if o.inFlight != nil {
			since[i]++
		}
	}
	r.submit(op, fmt.Sprintf("LIST PG %d/%d of %d", pool, l.PG, r.pgCount), func(op *store.Op) {
		if op.Err != 0 {
			r.failf("LIST of PG %d/%d: %w", pool, l.PG, op.Err)
			return
		}
		r.checkList(l, since)
	})
}

func (r *runner) checkList(l *store.List, since []int) {
	out := make([]finding, len(r.objs))
	for i, part := range [][]meta.ObjectVersion{l.Stable, l.Unstable} {
		for _, item := range part {
			if err := addListed(r.objs, out, l, item, i == 0); err != nil {
				r.failf("%w", err)
				return
			}
			if item.ObjectID.Less(l.Min) || l.Max.Less(item.ObjectID) {
				r.failf("LIST from %v to %v contains %v", l.Min, l.Max, item)
			}
		}
	}
	if l.StableLimit > 0 && (len(l.Stable) > l.StableLimit || !slices.IsSortedFunc(l.Stable, meta.ObjectVersion.Compare)) {
		r.failf("LIST with limit %d: %v", l.StableLimit, l.Stable)
	}
	cut := meta.MaxObjectID // stable items behind it are cut off
	if n := len(l.Stable); n > 0 && n == l.StableLimit {
		cut = l.Stable[n-1].ObjectID
	}
	for i, o := range r.objs {
		in := o.id.Inode.Pool() == l.Pool && meta.PGOf(o.id.Stripe, pgStripe, l.PGCount) == l.PG && !o.id.Less(l.Min) && !l.Max.Less(o.id)
		if in && !r.listedRight(o, out[i].state, since[i], cut.Less(o.id)) {
			r.failf("LIST: object %d (%v) is listed as %v, it is %v (window %v)", i, o.id, out[i].state, o.live, o.window(since[i]))
		}
	}
}

func (r *runner) listedRight(o *object, listed State, since int, stableCut bool) bool {
	for _, s := range o.window(since) {
		if stableCut && s.stable() != nil && len(listed) < len(s) {
			s = s[1:]
		}
		if sameVersions(s, listed) {
			return true
		}
	}
	return false
}

func sameVersions(s, listed State) bool {
	if len(s) != len(listed) {
		return false
	}
	for _, v := range s {
		w := listed.at(v.Number)
		if w == nil || w.Stable != v.Stable {
			return false
		}
	}
	return true
}
