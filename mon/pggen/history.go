package pggen

import (
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// addOldSets notes the present sets of PGs whose set changes in their histories:
// they hold the data until it is moved. Histories of other PGs are neither
// written nor compared; nothing depends on them. (The reference writes them
// all, which wakes up every OSD.)
func (s *State) addOldSets(histories map[meta.PG]*schema.PGHistory, old *schema.PoolPGs, targets []schema.PGTarget) {
	for i := range old.PGs {
		t := &old.PGs[i]
		if slices.Equal(t.OSDSet, targets[t.Num-1].OSDSet) {
			continue
		}
		pg := meta.PG{Pool: old.Pool, Num: t.Num}
		h := s.history(pg)
		h.AddSet(t.OSDSet)
		histories[pg] = h
		if len(h.OSDSets) == 0 && s.Histories[pg] == nil {
			histories[pg] = nil // an empty set before, and nothing known
		}
	}
}

// history is a copy of a PG's history, or an empty one.
func (s *State) history(pg meta.PG) *schema.PGHistory {
	h := &schema.PGHistory{}
	if known := s.Histories[pg]; known != nil {
		*h = *known
		h.OSDSets = slices.Clone(known.OSDSets)
		h.AllPeers = slices.Clone(known.AllPeers)
	}
	return h
}

// inheritAll makes the histories of all PGs when their number changes: objects
// are mapped by a remainder, so each new PG has objects of certain old ones, and
// of all of them when neither number is a multiple of the other.
func (s *State) inheritAll(histories map[meta.PG]*schema.PGHistory, old *schema.PoolPGs, count uint32) {
	before := uint32(old.MaxNum())
	for num := uint32(1); num <= max(before, count); num++ {
		pg := meta.PG{Pool: old.Pool, Num: meta.PGNum(num)}
		histories[pg] = nil
		if num > count {
			continue
		}
		h := &schema.PGHistory{}
		for i := range old.PGs {
			if t := &old.PGs[i]; inherits(num-1, uint32(t.Num)-1, before, count) {
				s.inherit(h, meta.PG{Pool: old.Pool, Num: t.Num}, t)
			}
		}
		if len(h.OSDSets)+len(h.AllPeers) > 0 || h.Epoch > 0 {
			histories[pg] = h
		}
	}
	for pg := range s.Histories { // left over from even more PGs
		if pg.Pool == old.Pool && uint32(pg.Num) > max(before, count) {
			histories[pg] = nil
		}
	}
}

// inherits tells whether new PG index i can have objects of old PG index j.
func inherits(i, j, before, count uint32) bool {
	switch {
	case count%before == 0:
		return i%before == j
	case before%count == 0:
		return j%count == i
	}
	return true
}

// inherit adds what is known about an old PG. When it was scrubbed does not
// matter any more.
func (s *State) inherit(h *schema.PGHistory, pg meta.PG, t *schema.PGTarget) {
	known := s.history(pg)
	for _, set := range known.OSDSets {
		h.AddSet(set)
	}
	h.AddSet(t.OSDSet)
	h.AllPeers = schema.NormalSet(append(h.AllPeers, known.AllPeers...))
	h.Epoch = max(h.Epoch, known.Epoch)
}
