package placement

import (
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// pickPrimary is the rule of monitor.md §6: the position of the primary of PG
// number num, -1 = nobody can be it. data is the number of positions that hold
// data: all of a replicated pool.
func pickPrimary[T comparable](num int, set []T, data int, up, affine func(T) bool) int {
	data = min(data, len(set))
	ranges := [...]struct {
		set    []T
		affine bool
	}{{set[:data], true}, {set, true}, {set[:data], false}, {set, false}}
	for _, r := range ranges {
		candidates := 0
		for _, o := range r.set {
			if up(o) && (!r.affine || affine(o)) {
				candidates++
			}
		}
		if candidates == 0 {
			continue
		}
		skip := num % candidates
		for i, o := range r.set {
			if !up(o) || r.affine && !affine(o) {
				continue
			}
			if skip == 0 {
				return i
			}
			skip--
		}
	}
	return -1
}

// Primaries chooses primaries of PGs. Compat: exactly like the reference's
// monitor, otherwise every change of the master would move them.
type Primaries struct{ up map[meta.OSDNum]*Node }

// NewPrimaries takes the OSDs that are in and up.
func (v *Inventory) NewPrimaries() *Primaries {
	p := &Primaries{map[meta.OSDNum]*Node{}}
	for _, n := range v.Tree(nil).Leaves() {
		if n.Up {
			p.up[n.OSD] = n
		}
	}
	return p
}

// Of is the primary of a PG, 0 = nobody. An OSD that is down, or out, is never
// it; there is no stickiness.
func (p *Primaries) Of(pool *schema.Pool, num meta.PGNum, set []meta.OSDNum) meta.OSDNum {
	data := len(set)
	if pool.Scheme != meta.Replicated {
		data = pool.DataChunks()
	}
	i := pickPrimary(int(num), set, data,
		func(o meta.OSDNum) bool { return p.up[o] != nil },
		func(o meta.OSDNum) bool { return p.up[o].HasTags(pool.PrimaryAffinityTags) })
	if i < 0 {
		return 0
	}
	return set[i]
}
