package store

import (
	"fmt"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// claim takes the space of all entries. Two owners of one block are a reason to
// refuse (release 3.0.8 produces that, spec ondisk.md §12 D1), unless repairing
// is allowed: then they are noted.
func (l *loader) claim() error {
	s := l.s
	g := uint64(s.geo.GranuleBytes)
	return s.recs.each(func(r ref) error {
		if s.recs.has(r, flagDead) {
			return nil // dropped, on its way out
		}
		e := s.recs.entry(r)
		s.durableLSN = max(s.durableLSN, uint64(e.LSN()))
		switch {
		case e.IsBig():
			if s.blocks.get(int(e.Block())) {
				return l.doubleClaim(r, fmt.Sprintf("data block %d", e.Block()))
			}
			s.claimBlock(e.Object().Inode, uint32(e.Block()))
		case e.Type() == layout.SmallWrite && e.Len() != 0:
			at, n := int(e.Location()/g), int(uint64(e.Len())/g)
			if !s.buffer.free(at, n) {
				return l.doubleClaim(r, fmt.Sprintf("buffer range %d+%d", e.Location(), e.Len()))
			}
			s.buffer.claim(at, n)
		}
		return nil
	})
}

// sharing tells whether two entries use the same space.
func sharing(e, o layout.Entry) bool {
	if e.IsBig() {
		return o.IsBig() && o.Block() == e.Block()
	}
	return e.Type() == layout.SmallWrite && o.Type() == layout.SmallWrite &&
		o.Location() < e.Location()+uint64(e.Len()) && e.Location() < o.Location()+uint64(o.Len())
}

func (l *loader) doubleClaim(r ref, what string) error {
	s := l.s
	e := s.recs.entry(r)
	owners := []ref{r}
	_ = s.recs.each(func(x ref) error {
		if x != r && !s.recs.has(x, flagDead) && sharing(e, s.recs.entry(x)) {
			owners = append(owners, x)
		}
		return nil
	})
	if s.cfg.RepairDoubleClaims {
		l.disputes = append(l.disputes, owners...)
		return nil
	}
	return fmt.Errorf("%w: %s: %s belongs to %v and to %v: run a check of the store; "+
		"the repair option drops the objects that checksums do not confirm, recovery restores them from other OSDs",
		ErrDoubleUsed, l.metaPath(), what, e, s.recs.entry(owners[1]))
}

// settleDisputes reads the data of disputed entries. An entry keeps its claim if
// its checksums confirm it and no other confirmed one is newer; the objects of
// the others are dropped as a whole, so that they are restored from elsewhere.
func (l *loader) settleDisputes(then func()) {
	s := l.s
	if len(l.disputes) == 0 {
		then()
		return
	}
	confirmed := map[ref]bool{}
	v := l.verifiers[0]
	i := 0
	op := &env.DiskOp{Kind: env.DiskRead}
	next := func() {
		if i == len(l.disputes) {
			l.dropLosers(confirmed)
			then()
			return
		}
		r := l.disputes[i]
		e := s.recs.entry(r)
		offset, n := uint32(0), s.geo.BlockBytes
		if !e.IsBig() {
			offset, n = e.Range()
		}
		dev, at := s.locate(r, offset)
		op.Offset, op.Buf = at, v.buf[:n]
		dev.disk.Submit(op)
	}
	op.Done = func(op *env.DiskOp) {
		r := l.disputes[i]
		confirmed[r] = op.Err == nil && s.confirms(s.recs.entry(r), op.Buf)
		i++
		next()
	}
	next()
}

// confirms tells whether checksums prove that data belongs to entry e.
func (s *Store) confirms(e layout.Entry, data []byte) bool {
	if !e.IsBig() {
		return s.geo.VerifyWrite(e, data)
	}
	c := int(s.geo.CsumBytes)
	for i := range s.geo.CsumCount() {
		if !s.geo.VerifyCsumBlock(e, i, data[i*c:(i+1)*c]) {
			return false
		}
	}
	return c != 0
}

func (l *loader) dropLosers(confirmed map[ref]bool) {
	s := l.s
	var losers []meta.ObjectID
	for _, r := range l.disputes {
		keeps := confirmed[r]
		for _, o := range l.disputes {
			if e, f := s.recs.entry(r), s.recs.entry(o); o != r && confirmed[o] && sharing(e, f) && f.LSN() > e.LSN() {
				keeps = false
			}
		}
		if id := s.recs.entry(r).Object(); !keeps && !slices.Contains(losers, id) {
			losers = append(losers, id)
		}
	}
	for _, id := range losers {
		l.dropObject(id, "its space has another owner")
	}
	l.disputes = nil
	// Claim everything again, now without them.
	s.blocks, s.buffer = newBlockBits(s.blocks.n), newGranuleBits(s.buffer.n)
	clear(s.inodes)
	s.durableLSN = 0
	if err := l.claim(); err != nil || len(l.disputes) != 0 {
		invariant.Fail("store: space is still claimed twice after repair")
	}
}

// dropObject removes all entries of an object.
func (l *loader) dropObject(id meta.ObjectID, why string) {
	s := l.s
	if s.env.Log != nil {
		s.env.Log.Error("object is dropped", "object", id.String(), "because", why)
	}
	head := s.index.head(id)
	s.index.remove(id)
	for r := head; r != 0; {
		older := s.recs.older(r)
		l.pass[1][s.recs.block(r)] = true
		l.forget(r)
		r = older
	}
}
