package primary

import (
	"maps"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// describer answers DESCRIBE (wire.md §9): the locations of objects that are not
// clean. An answer may be long (32 MiB), so there is one at a time and it is made
// in slices; what changes meanwhile may be in it or not.
type describer struct {
	s       *Server
	waiting []*msgr.Request // the first one is in work
	q       wire.Describe
	pgs     []meta.PG // left to be described, in order
	from    meta.ObjectID
	out     wire.DescribeList
	begun   bool
	timer   env.Timer // the next slice
}

// describeSlice is how many objects are described at a time.
const describeSlice = 2048

// serveDescribe executes DESCRIBE.
func (s *Server) serveDescribe(r *msgr.Request) {
	if !s.config.MayServe() {
		r.Fail(wire.EPIPE)
		return
	}
	d := &s.describer
	if d.s == nil {
		d.s, d.timer.Fire = s, d.step
	}
	d.waiting = append(d.waiting, r) // the messenger bounds their number
	if len(d.waiting) == 1 {
		d.step()
	}
}

// step works on the first request.
func (d *describer) step() {
	if !d.begun {
		d.begin()
	}
	if d.more() {
		d.s.env.Clock.Arm(&d.timer, 0)
		return
	}
	d.answer()
	if len(d.waiting) > 0 {
		d.s.env.Clock.Arm(&d.timer, 0)
	}
}

// begin chooses the PGs.
func (d *describer) begin() {
	d.begun = true
	d.q.Decode(&d.waiting[0].Packet)
	d.pgs, d.out, d.from = d.pgs[:0], nil, d.q.Min
	for _, id := range slices.SortedFunc(maps.Keys(d.s.pgs), meta.PG.Compare) {
		if d.q.Pool == 0 || id.Pool == d.q.Pool && (d.q.PG == 0 || id.Num == d.q.PG) {
			d.pgs = append(d.pgs, id)
		}
	}
}

// more describes the next objects, and returns whether there are others.
func (d *describer) more() bool {
	mask := meta.ObjectState(d.q.ObjectState)
	if d.q.ObjectState != 0 && mask == 0 {
		d.pgs = d.pgs[:0] // no object is in a state with such a number
	}
	for n := 0; len(d.pgs) > 0 && uint64(d.out.Len()) < d.q.MaxItems(); {
		p := d.s.pgs[d.pgs[0]]
		var r *peering.Record
		id := d.from
		if p != nil && p.active {
			id, r = p.objects.Next(d.from, mask)
		}
		if r == nil || d.q.UpTo().Less(id) {
			d.pgs, d.from = d.pgs[1:], d.q.Min
			continue
		}
		for _, l := range r.Locs {
			d.out = d.out.Append(wire.DescribeItem{Object: id, Role: l.Role, LocBad: l.Bad, OSD: l.OSD})
		}
		d.from = meta.ObjectID{Inode: id.Inode, Stripe: id.Stripe + 1}
		if n++; n == describeSlice {
			return true
		}
	}
	return false
}

// answer ends the first request.
func (d *describer) answer() {
	r := d.waiting[0]
	(&wire.DescribeReply{Retval: wire.Retval(d.out.Len())}).Encode(&r.Reply)
	if len(d.out) > 0 {
		r.ReplyParts = append(r.ReplyParts, d.out)
	}
	d.out, d.begun = nil, false
	d.waiting = slices.Delete(d.waiting, 0, 1)
	r.Finish()
}
