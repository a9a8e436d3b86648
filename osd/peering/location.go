package peering

import (
	"slices"

	"vitastor/internal/ec"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// Layout is where the objects of a PG belong in one round of peering.
type Layout struct {
	PG            meta.PG
	PGCount       uint32 // of the pool
	PGStripeBytes uint64
	Scheme        meta.Scheme
	DataChunks    int // k; 1 for replicated
	// CurSet has the OSD of each role, 0 = it is not there. Its length is
	// pg_size. In replicated pools the order means nothing.
	CurSet []meta.OSDNum
}

// CurSize is the number of OSDs that every write goes to.
func (l *Layout) CurSize() int {
	n := 0
	for _, o := range l.CurSet {
		if o != 0 {
			n++
		}
	}
	return n
}

// belongs tells whether the current set wants this chunk on this OSD.
func (l *Layout) belongs(role meta.Role, osd meta.OSDNum) bool {
	if osd == 0 {
		return false
	}
	if l.Scheme == meta.Replicated {
		return role == 0 && slices.Contains(l.CurSet, osd)
	}
	return int(role) < len(l.CurSet) && l.CurSet[role] == osd
}

// impossible roles cannot come from this pool.
func (l *Layout) impossible(role meta.Role) bool {
	return role > 0 && l.Scheme == meta.Replicated || int(role) >= len(l.CurSet)
}

// Location is one chunk or copy of an object.
type Location struct {
	OSD  meta.OSDNum
	Role meta.Role
	Bad  meta.LocBad
}

// Evaluate calculates the state of an object from its locations, which must be
// different from each other (osd.md §3; at peering time §11.1 gives the same).
//
// Unlike the reference it counts the copies of replicated objects also after
// peering, so that one bad extra copy does not make an object degraded.
func (l *Layout) Evaluate(locs []Location) meta.ObjectState {
	var roles ec.RoleSet
	var copies, misplaced, outdated, corrupted int
	inconsistent := false
	for i := range locs {
		loc := &locs[i]
		switch {
		case loc.Bad&meta.LocOutdated != 0:
			outdated++
			continue
		case loc.Bad&meta.LocInconsistent != 0 || l.impossible(loc.Role):
			inconsistent = true
		}
		if loc.Bad&meta.LocCorrupted != 0 {
			corrupted++
			continue
		}
		copies++
		roles.Add(int(loc.Role))
		if !l.belongs(loc.Role, loc.OSD) {
			misplaced++
		}
	}
	pieces := copies
	if l.Scheme != meta.Replicated {
		pieces = roles.Len()
	}
	state := meta.ObjectState(0)
	switch {
	case inconsistent:
		state = meta.ObjectInconsistent
	case pieces < l.DataChunks:
		state = meta.ObjectIncomplete
	case pieces < l.CurSize():
		state = meta.ObjectDegraded
	case misplaced+outdated+corrupted > 0:
		state = meta.ObjectMisplaced
	}
	if corrupted > 0 {
		state |= meta.ObjectCorrupted
	}
	return state
}

// readTarget is where to read from: per role, or for replicas any order, padded
// with 0 to pg_size. Outdated locations never count, corrupted ones only when
// there is nothing else.
func (l *Layout) readTarget(locs []Location) []meta.OSDNum {
	target := make([]meta.OSDNum, 0, max(len(l.CurSet), len(locs)))
	avoid := meta.LocOutdated | meta.LocCorrupted
	if !slices.ContainsFunc(locs, func(x Location) bool { return x.Bad&avoid == 0 }) {
		avoid = meta.LocOutdated
	}
	if l.Scheme == meta.Replicated {
		for _, loc := range locs {
			if loc.Bad&avoid == 0 {
				target = append(target, loc.OSD)
			}
		}
		for len(target) < len(l.CurSet) {
			target = append(target, 0)
		}
		return target
	}
	target = append(target, make([]meta.OSDNum, len(l.CurSet))...)
	for _, loc := range locs {
		if loc.Bad&avoid != 0 || l.impossible(loc.Role) {
			continue
		}
		if target[loc.Role] == 0 || l.belongs(loc.Role, loc.OSD) {
			target[loc.Role] = loc.OSD
		}
	}
	return target
}

// appendCurrent appends the locations of a clean object.
func (l *Layout) appendCurrent(locs []Location) []Location {
	for role, osd := range l.CurSet {
		if osd == 0 {
			continue
		}
		loc := Location{OSD: osd}
		if l.Scheme != meta.Replicated {
			loc.Role = meta.Role(role)
		}
		locs = append(locs, loc)
	}
	return locs
}

// AppendExtra appends the locations that have to be deleted after the object
// was written to the whole current set (osd.md §9).
func (l *Layout) AppendExtra(dst []Location, r *Record) []Location {
	if r == nil {
		return dst
	}
	for _, loc := range r.Locs {
		if !l.belongs(loc.Role, loc.OSD) {
			dst = append(dst, loc)
		}
	}
	return dst
}

// AppendDelete appends the locations that a DELETE of the object goes to: all
// known ones and the current set, because a member of it may have an older
// version that is not in the list; it would come back as an object (deleting
// what is not there succeeds, wire.md 7.3).
func (l *Layout) AppendDelete(dst []Location, r *Record) []Location {
	return l.AppendExtra(l.appendCurrent(dst), r)
}

// Record is a state shared by all objects with the same locations. Everything
// in it is read-only, and it is valid until the next change of the Objects.
type Record struct {
	State   meta.ObjectState // never 0: clean objects have no record
	Objects uint64           // how many share it
	// Locs are sorted as they were found: current ones by role and OSD, then
	// outdated ones.
	Locs       []Location
	ReadTarget []meta.OSDNum // see Layout.readTarget

	index uint32
	hash  uint64
	next  *Record // with the same hash
}

// records keeps every location list once.
type records struct {
	layout *Layout
	all    []*Record
	free   []uint32
	byHash map[uint64]*Record
	last   *Record
	counts [5]uint64 // objects by state bit, see stateBits
}

var stateBits = [5]meta.ObjectState{meta.ObjectDegraded, meta.ObjectIncomplete,
	meta.ObjectMisplaced, meta.ObjectCorrupted, meta.ObjectInconsistent}

func hashLocations(locs []Location) uint64 {
	h := uint64(14695981039346656037)
	for _, l := range locs {
		for _, v := range [2]uint64{uint64(l.OSD), uint64(l.Role)<<32 | uint64(l.Bad)} {
			h = (h ^ v) * 0x9e3779b97f4a7c15
			h ^= h >> 29
		}
	}
	return h
}

// find returns the record of locs, a new one if need be. The caller counts it.
func (s *records) find(locs []Location) *Record {
	if s.last != nil && slices.Equal(s.last.Locs, locs) {
		return s.last
	}
	hash := hashLocations(locs)
	for r := s.byHash[hash]; r != nil; r = r.next {
		if slices.Equal(r.Locs, locs) {
			s.last = r
			return r
		}
	}
	r := &Record{State: s.layout.Evaluate(locs), Locs: slices.Clone(locs),
		ReadTarget: s.layout.readTarget(locs), hash: hash, next: s.byHash[hash]}
	if n := len(s.free); n > 0 {
		r.index, s.free = s.free[n-1], s.free[:n-1]
		s.all[r.index] = r
	} else {
		r.index = uint32(len(s.all))
		s.all = append(s.all, r)
	}
	if s.byHash == nil {
		s.byHash = make(map[uint64]*Record)
	}
	s.byHash[hash], s.last = r, r
	return r
}

func (s *records) hold(r *Record) {
	r.Objects++
	for i, bit := range stateBits {
		if r.State&bit != 0 {
			s.counts[i]++
		}
	}
}

// release takes one object away; a record without objects is dropped.
func (s *records) release(r *Record) {
	invariant.Must(r.Objects > 0, "peering: a state record is released more often than held")
	r.Objects--
	for i, bit := range stateBits {
		if r.State&bit != 0 {
			s.counts[i]--
		}
	}
	if r.Objects == 0 {
		s.drop(r)
	}
}

func (s *records) drop(r *Record) {
	if s.last == r {
		s.last = nil
	}
	s.all[r.index] = nil
	s.free = append(s.free, r.index)
	head := s.byHash[r.hash]
	switch {
	case head == r && r.next == nil:
		delete(s.byHash, r.hash)
		return
	case head == r:
		s.byHash[r.hash] = r.next
		return
	}
	for ; head.next != r; head = head.next {
	}
	head.next = r.next
}
