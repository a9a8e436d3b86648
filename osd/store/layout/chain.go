package layout

import (
	"fmt"
	"slices"

	"vitastor/internal/meta"
)

// Chain are all entries of one object, newest first (Entry.Compare). What is
// visible of the object is told by walking down from the newest entry, with
// cv = the highest committed and rv = the lowest rolled-back-to version so far:
//
//	ROLLBACK(v)        rv = min(rv, v)
//	COMMIT(v)          cv = max(cv, v)
//	DELETE             end: nothing exists below
//	version > rv       ignored
//	others             visible; stable with the stable bit or if version <= cv
type Chain []Entry

// Sort puts the entries in order, newest first.
func (c Chain) Sort() { slices.SortStableFunc(c, func(a, b Entry) int { return b.Compare(a) }) }

// Live is the part that counts: down to and including the newest overwrite
// entry. What is under it is garbage.
func (c Chain) Live() Chain {
	for i, e := range c {
		if e.IsOverwrite() {
			return c[:i+1]
		}
	}
	return c
}

// Walk goes over the visible entries of a chain, newest first.
type Walk struct {
	Entry  Entry
	Index  int  // of Entry in the chain
	Stable bool // whether the version of Entry is stable

	chain                 Chain
	next                  int
	committed, rolledBack meta.Version
	hasRollback           bool
}

// Walk begins a walk.
func (c Chain) Walk() Walk { return Walk{chain: c} }

// Next moves to the next visible entry and tells whether there is one.
func (w *Walk) Next() bool {
	for w.next < len(w.chain) {
		e := w.chain[w.next]
		w.next++
		v := e.Version()
		switch e.Type() {
		case Rollback:
			if !w.hasRollback || v < w.rolledBack {
				w.rolledBack, w.hasRollback = v, true
			}
			continue
		case Commit:
			w.committed = max(w.committed, v)
			continue
		case Delete:
			w.next = len(w.chain)
			return false
		}
		if w.hasRollback && v > w.rolledBack {
			continue
		}
		w.Entry, w.Index, w.Stable = e, w.next-1, e.Stable() || v <= w.committed
		return true
	}
	return false
}

// VersionState is a version of an object that can be read.
type VersionState struct {
	Version meta.Version
	Stable  bool
}

// Versions appends the versions of the object to dst, newest first, down to
// and including the newest stable one. None: the object does not exist.
func (c Chain) Versions(dst []VersionState) []VersionState {
	from := len(dst)
	for w := c.Walk(); w.Next(); {
		v := w.Entry.Version()
		if last := len(dst) - 1; last >= from && dst[last].Version == v {
			dst[last].Stable = dst[last].Stable || w.Stable
		} else {
			dst = append(dst, VersionState{v, w.Stable})
		}
		if w.Stable {
			break
		}
	}
	return dst
}

// Layers appends to dst the entries that make up the newest version <= limit:
// dst[0] has the version and its ext bitmap; the data is that of the small
// writes, newest first, over the BIG entry that comes last. Without one at
// the end, the rest of the object reads as zeroes; without any entry the
// object does not exist.
func (c Chain) Layers(dst Chain, limit meta.Version) Chain {
	for w := c.Walk(); w.Next(); {
		if w.Entry.Version() > limit {
			continue
		}
		dst = append(dst, w.Entry)
		if w.Entry.IsBig() {
			break
		}
	}
	return dst
}

// Base is the BIG entry whose block an INTENT_WRITE at index i went to: the
// first one under it; nil if there is none.
func (c Chain) Base(i int) Entry {
	for _, e := range c[i+1:] {
		switch {
		case e.IsBig():
			return e
		case e.Type() == Delete:
			return nil
		}
	}
	return nil
}

// RuleError is a violation of a rule of spec §5.2 by the chain of an object.
type RuleError struct {
	Rule   int // 1..7
	Object meta.ObjectID
	What   string
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("object %v: %s (chain rule %d)", e.Object, e.What, e.Rule)
}

// Fatal tells whether a store with the violation must not be started.
// Rules 6 and 7 only make release 3.0.8 fail in some later situations.
func (e *RuleError) Fatal() bool { return e.Rule <= 5 }

// Check tests the live part against rules 1-4, 6 and 7 and returns all
// violations. Rule 5 is about several objects: see Claims.
func (c Chain) Check() []*RuleError {
	live := c.Live()
	var found []*RuleError
	add := func(rule int, e Entry, format string, args ...any) {
		found = append(found, &RuleError{rule, e.Object(), fmt.Sprintf(format, args...)})
	}
	var commit Entry
	for i, e := range live {
		if i > 0 && live[i-1].Compare(e) == 0 {
			add(1, e, "two entries of the same kind with lsn %d", e.LSN())
		}
		if e.Type() == Commit {
			if commit != nil && commit.Version() < e.Version() {
				add(2, e, "COMMIT of version %d (lsn %d) over COMMIT of version %d", commit.Version(), commit.LSN(), e.Version())
			}
			commit = e
		}
		if e.IsSmall() {
			switch base := live.Base(i); {
			case base == nil:
				add(4, e, "%v at lsn %d has no data block under it", e.Type(), e.LSN())
			case e.Type() == IntentWrite && base.Stable() != e.Stable():
				add(6, e, "INTENT_WRITE at lsn %d over a block that is not equally stable", e.LSN())
			}
		}
	}
	return append(append(found, live.checkStability()...), live.checkTop()...)
}

// checkStability is rule 3: nothing unstable under something stable.
func (c Chain) checkStability() (found []*RuleError) {
	var stable Entry
	for w := c.Walk(); w.Next(); {
		switch {
		case w.Stable:
			stable = w.Entry
		case stable != nil:
			found = append(found, &RuleError{3, w.Entry.Object(), fmt.Sprintf(
				"unstable version %d (lsn %d) under stable version %d", w.Entry.Version(), w.Entry.LSN(), stable.Version())})
		}
	}
	return found
}

// checkTop is rule 7: the SMALL_WRITE run on top is uniform.
func (c Chain) checkTop() []*RuleError {
	for i := 1; i < len(c) && c[i].Type() == SmallWrite && c[0].Type() == SmallWrite; i++ {
		if c[i].Stable() != c[0].Stable() {
			return []*RuleError{{7, c[i].Object(), fmt.Sprintf("stable and unstable small writes are mixed at lsn %d", c[i].LSN())}}
		}
	}
	return nil
}

// Claims tells which data blocks and buffer granules are in use (rule 5).
type Claims struct {
	Blocks   meta.Bitmap // one bit per data block
	Granules meta.Bitmap // one bit per granule of the buffer area

	// BlockCount and GranuleCount are the numbers of set bits.
	BlockCount, GranuleCount uint64

	g *Geometry
}

// NewClaims returns an empty set for a store of that geometry.
func (g *Geometry) NewClaims() *Claims {
	granules := g.BufferBytes / uint64(g.GranuleBytes)
	return &Claims{g: g, Blocks: make(meta.Bitmap, (uint64(g.BlockCount)+7)/8), Granules: make(meta.Bitmap, (granules+7)/8)}
}

// Add claims what the live part of a chain uses, rolled back entries included.
func (cl *Claims) Add(c Chain) error {
	for _, e := range c.Live() {
		if err := cl.addEntry(e); err != nil {
			return err
		}
	}
	return nil
}

func (cl *Claims) addEntry(e Entry) error {
	switch {
	case e.IsBig():
		b := int(e.Block())
		if cl.Blocks.Get(b) {
			return &RuleError{5, e.Object(), fmt.Sprintf("data block %d of version %d (lsn %d) belongs to another entry too", b, e.Version(), e.LSN())}
		}
		cl.Blocks.SetRange(b, b+1)
		cl.BlockCount++
	case e.Type() == SmallWrite:
		from := int(e.Location() / uint64(cl.g.GranuleBytes))
		to := from + int(e.Len()/cl.g.GranuleBytes)
		if cl.Granules.Any(from, to) {
			return &RuleError{5, e.Object(), fmt.Sprintf("buffer range %d+%d of version %d (lsn %d) belongs to another entry too",
				e.Location(), e.Len(), e.Version(), e.LSN())}
		}
		cl.Granules.SetRange(from, to)
		cl.GranuleCount += uint64(to - from)
	}
	return nil
}
