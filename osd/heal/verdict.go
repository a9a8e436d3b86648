package heal

import (
	"cmp"
	"slices"

	"vitastor/internal/meta"
	"vitastor/osd/peering"
)

// condition is what reading a chunk has shown.
type condition uint8

const (
	readable condition = iota
	missing            // ENOENT
	broken             // EIO or EDOM
	older              // of an older version than the others
	strange            // of a newer version than the object can be read in
)

// reading is the outcome of reading one location.
type reading struct {
	loc  peering.Location
	cond condition
	// version that was read; only if readable at first.
	version meta.Version
	good    bool // after the comparison
}

// byRole is the order in which chunks are compared.
func byRole(a, b reading) int {
	return cmp.Or(cmp.Compare(a.loc.Role, b.loc.Role), cmp.Compare(a.loc.OSD, b.loc.OSD))
}

// sortVersions finds the version in which the object exists: the newest one of
// which there are k roles, or if there is none the newest one. Others do not take
// part in the comparison (osd.md §11.1).
func sortVersions(rs []reading, k int) {
	version := meta.NoVersion
	for pass := range 2 {
		for i := range rs {
			r := &rs[i]
			if r.cond == readable && r.version > version && (pass == 1 || rolesOf(rs, r.version) >= k) {
				version = r.version
			}
		}
		if version != meta.NoVersion {
			break
		}
	}
	for i := range rs {
		r := &rs[i]
		switch {
		case r.cond != readable || r.version == version:
		case r.version < version:
			r.cond = older
		default:
			r.cond = strange
		}
	}
}

// rolesOf counts the roles that are readable in a version. rs is sorted by role.
func rolesOf(rs []reading, v meta.Version) int {
	n, last := 0, -1
	for i := range rs {
		if r := &rs[i]; r.cond == readable && r.version == v && int(r.loc.Role) != last {
			n, last = n+1, int(r.loc.Role)
		}
	}
	return n
}

// judge appends the locations of the object after a scrub: marked where there is
// something wrong, without those that have nothing. decided is false when the
// comparison found differences but not who is right.
func judge(dst []peering.Location, rs []reading, decided bool) []peering.Location {
	undecided := !decided || slices.ContainsFunc(rs, func(r reading) bool { return r.cond == strange })
	for i := range rs {
		r := &rs[i]
		loc := r.loc
		loc.Bad = 0
		switch {
		case r.cond == missing:
			continue
		case r.cond == broken:
			loc.Bad = meta.LocCorrupted
		case r.cond == older:
			loc.Bad = meta.LocOutdated
		case undecided:
			loc.Bad = meta.LocInconsistent
		case !r.good:
			loc.Bad = meta.LocCorrupted
		}
		dst = append(dst, loc)
	}
	return dst
}

// sameLocations tells whether a and b are equal but for their order.
func sameLocations(a, b []peering.Location) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}
