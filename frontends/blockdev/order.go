package blockdev

// order keeps changes apart that must not run at the same time: those that
// touch the same granules, when one of them does not cover a granule as a whole
// and so has to read it, change it and write it back.
//
// As long as there are no such partial changes, which is the rule, entering and
// leaving cost nothing.
type order struct {
	granule     uint64
	first, last *Request // changes that run or wait, in order of arrival
	partial     int      // how many of them are partial
}

// enter adds a change and tells whether it may start; otherwise that happens
// later.
func (o *order) enter(r *Request) bool {
	r.from, r.to = align(r.Offset, r.Bytes, o.granule)
	r.partial = r.Kind != Discard && (r.from != r.Offset || r.to != r.Offset+r.Bytes)
	r.prev, r.next, r.ordered = o.last, nil, true
	if o.last == nil {
		o.first = r
	} else {
		o.last.next = r
	}
	o.last = r
	if r.partial {
		o.partial++
	}
	r.waiting = o.partial > 0 && o.blocked(r)
	return !r.waiting
}

// blocked tells whether an earlier change must end first.
func (o *order) blocked(r *Request) bool {
	for e := r.prev; e != nil; e = e.prev {
		if (e.partial || r.partial) && e.from < r.to && r.from < e.to {
			return true
		}
	}
	return false
}

// leave removes a change that has ended, and starts what waited for it.
func (o *order) leave(r *Request) {
	if r.prev == nil {
		o.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		o.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	later, any := r.next, o.partial > 0
	r.prev, r.next, r.ordered = nil, nil, false
	if r.partial {
		o.partial--
	}
	if !any {
		return
	}
	for ; later != nil; later = later.next {
		if later.waiting && !o.blocked(later) {
			later.waiting = false
			later.startChange()
		}
	}
}

// align is the smallest range of whole granules that contains a range.
func align(offset, bytes, granule uint64) (from, to uint64) {
	return offset / granule * granule, (offset + bytes + granule - 1) / granule * granule
}
