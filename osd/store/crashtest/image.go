package crashtest

import (
	"errors"
	"fmt"

	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/osd/store/layout"
)

// layoutPercent of the crashes are also read by layout.LoadImage.
const layoutPercent = 50

// loadImages reads images of the devices as a reference daemon would.
func (r *runner) loadImages(images []*sim.Image) (*layout.Loaded, error) {
	a := &r.c.Store.Areas
	im := layout.Image{
		Data:   r.h.area(0, images[0], a.DataOffset, a.DataLen),
		Meta:   r.h.area(1, images[r.c.MetaDevice], a.MetaOffset, a.MetaLen),
		Buffer: r.h.area(2, images[r.c.BufferDevice], a.BufferOffset, a.BufferLen),
	}
	return layout.LoadImage(im, r.c.params(), layout.LoadOptions{})
}

// initialized tells whether the metadata superblock was written, which has to
// be the last step of initialization (ondisk.md §2.3).
func (r *runner) initialized(images []*sim.Image) bool {
	s := &r.c.Store
	return !layout.IsZero(r.h.area(1, images[r.c.MetaDevice], s.Areas.MetaOffset, int64(s.MetaBlockBytes)))
}

// checkImages compares images with the model, and with the check list for disks
// that release 3.0.8 must start (ondisk.md §13).
//
// It returns the space that the inodes take, nil if it did not look.
func (r *runner) checkImages(images []*sim.Image) (map[meta.Inode]uint64, error) {
	if r.h.NoLayout || r.policy.images > 0 && !chance(r.rng, layoutPercent) {
		return nil, nil
	}
	if !r.initialized(images) {
		return nil, nil // the start-up of a blank disk was cut off; no daemon could know
	}
	l, err := r.loadImages(images)
	if err != nil {
		return nil, err
	}
	if err := r.compareLoaded(l); err != nil {
		return nil, err
	}
	return l.Space, r.checkList13(l)
}

func (r *runner) compareLoaded(l *layout.Loaded) error {
	r.h.Stats.Loads++
	found := make([]State, len(r.objs))
	for i := range l.Objects {
		o := &l.Objects[i]
		index := -1
		for j, p := range r.objs {
			if p.id == o.ID {
				index = j
			}
		}
		if index < 0 {
			return fmt.Errorf("contains object %v, which was never written", o.ID)
		}
		state, err := loadState(l, o, r.c.Store.GranuleBytes)
		if err != nil {
			return fmt.Errorf("object %d: %w", index, err)
		}
		found[index] = state
	}
	for i, o := range r.objs {
		if _, err := o.match(found[i]); err != nil {
			return err
		}
	}
	return nil
}

func loadState(l *layout.Loaded, o *layout.Object, granule uint32) (State, error) {
	versions := o.Chain.Versions(nil)
	s := make(State, len(versions))
	for i, v := range versions {
		c := l.Read(o, v.Version)
		if c == nil || c.Version != v.Version {
			return nil, fmt.Errorf("version %d cannot be read: %v", v.Version, c)
		}
		if len(c.BadCsums) > 0 {
			return nil, fmt.Errorf("version %d: checksum blocks %v do not match", v.Version, c.BadCsums)
		}
		s[len(s)-1-i] = &Version{Number: v.Version, Stable: v.Stable, Ext: string(c.Ext), Content: decode(c.Data, 0, granule)}
	}
	return s, nil
}

// checkList13 checks what LoadImage does not.
func (r *runner) checkList13(l *layout.Loaded) error {
	for _, w := range l.Warnings {
		// Rule 7 is about runs of stable and unstable small writes.
		if rule := (*layout.RuleError)(nil); !r.c.Mixed || !errors.As(w, &rule) || rule.Rule != 7 {
			return fmt.Errorf("warning: %w", w)
		}
	}
	if l.Superblock.CompletedLSN > l.HighestLSN {
		return fmt.Errorf("completed_lsn %d is over the highest LSN %d", l.Superblock.CompletedLSN, l.HighestLSN)
	}
	writeThrough := r.c.Caching == WriteThrough
	for i := range l.Objects {
		for _, e := range l.Objects[i].Chain {
			switch {
			case e.Type() == layout.IntentWrite && (!writeThrough || e.Len() > r.c.Store.AtomicWriteBytes):
				return fmt.Errorf("object %v: forbidden in-place write: %v", l.Objects[i].ID, e)
			case e.Type() == layout.BigIntent && writeThrough && e.Len() > r.c.Store.AtomicWriteBytes && e.Len() < r.c.Store.BlockBytes:
				return fmt.Errorf("object %v: forbidden in-place write: %v", l.Objects[i].ID, e)
			}
		}
	}
	return nil
}

// checkHandover checks a compacted disk: one stable BIG entry per object (a DELETE
// where older entries are still on the disk), and a metadata block with room for any entry (ondisk.md §13, 10 and 11).
func (r *runner) checkHandover(images []*sim.Image) error {
	if r.h.NoLayout {
		return nil
	}
	l, err := r.loadImages(images)
	if err != nil {
		return err
	}
	for i := range l.Objects {
		if c := l.Objects[i].Chain; len(c) != 1 || c[0].Type() != layout.Delete && (!c[0].IsBig() || !c[0].Stable()) {
			return fmt.Errorf("compacted disk: object %v still consists of %v", l.Objects[i].ID, c)
		}
	}
	live := map[entryKey]bool{}
	for i := range l.Objects {
		for _, e := range l.Objects[i].Chain {
			live[keyOf(e)] = true
		}
	}
	m, a := r.c.Store.MetaBlockBytes, &r.c.Store.Areas
	g := r.c.params().Geometry
	area := r.h.area(1, images[r.c.MetaDevice], a.MetaOffset, a.MetaLen)
	for at := m; at < uint32(len(area)); at += m {
		used := 0
		for s := g.ScanBlock(area[at : at+m]); s.Next(); {
			if live[keyOf(s.Entry)] { // whoever starts on it may drop the others (§3.5, §7.1 step 9)
				used += s.Entry.Bytes()
			}
		}
		if int(m)-used >= g.MaxEntryBytes() {
			return nil
		}
	}
	return fmt.Errorf("compacted disk: no metadata block has room for an entry of %d bytes", g.MaxEntryBytes())
}

// entryKey names an entry: the LSN of a compaction result is that of an entry
// of another type.
type entryKey struct {
	id  meta.ObjectID
	lsn layout.LSN
	typ layout.EntryType
}

func keyOf(e layout.Entry) entryKey { return entryKey{e.Object(), e.LSN(), e.Type()} }
