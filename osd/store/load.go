package store

import (
	"fmt"
	"slices"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// Loading keeps the peak of memory near the steady state: an entry is dropped
// as soon as a newer overwrite entry is seen that certainly counts. A
// BIG_INTENT newer than completed_lsn does not yet: its data may be missing,
// and then what is under it is the state of the object.

// load takes the entries of the blocks of a chunk.
func (l *loader) load(c *loadChunk) {
	m := int64(l.s.geo.MetaBlockBytes)
	for at := int64(0); at < int64(len(c.op.Buf)) && l.err == nil; at += m {
		l.loadBlock(uint32((c.from+at)/m-1), c.op.Buf[at:at+m])
	}
}

// loadBlock takes the entries of a block: first it looks at the index where
// they belong, then it puts them in. The looks do not depend on each other, so
// the processor waits for memory about once, not for every entry.
func (l *loader) loadBlock(n uint32, block []byte) {
	s := l.s
	entries := l.entries[:0]
	for sc := s.geo.ScanBlock(block); sc.Next(); {
		switch {
		case sc.Fault != layout.NoFault:
			if !s.cfg.SkipCorruptedEntries {
				l.fail(fmt.Errorf("%w: %s at %d: %w: check the device; skip_corrupted_meta_entries starts without this entry, which loses data",
					ErrCorrupt, l.metaPath(), s.metaOffset(n)+int64(sc.Offset), sc.Error(n)))
				return
			}
			l.skipped++
			l.corrupt[n] = true
			if s.env.Log != nil {
				s.env.Log.Error("corrupt metadata entry is skipped", "device", l.metaPath(), "err", sc.Error(n))
			}
		case sc.Entry.Garbage():
			s.meta.makeStale(n)
		default:
			entries = append(entries, sc.Entry)
		}
	}
	l.entries = entries
	for _, e := range entries {
		l.peeked += s.index.peek(e.Object())
	}
	for _, e := range entries {
		if err := l.loadEntry(n, e); err != nil {
			l.fail(err)
			return
		}
	}
}

// solid tells whether an entry makes everything older garbage for certain.
func (l *loader) solid(e layout.Entry) bool {
	return e.IsOverwrite() && (e.Type() != layout.BigIntent || e.LSN() <= l.completed)
}

// loadEntry puts an entry into the chain of its object.
func (l *loader) loadEntry(n uint32, e layout.Entry) error {
	s := l.s
	l.highest = max(l.highest, e.LSN())
	id := e.Object()
	solid := l.solid(e)
	slot := s.index.find(id)
	if slot == nil {
		r, err := l.newRecord(n, e)
		if err == nil {
			err = s.index.insert(id, r)
		}
		if err == nil && (!solid || e.Type() == layout.Delete) {
			l.suspect(id)
		}
		return err
	}
	// Where in the chain it belongs: behind newer, which is 0 for the head.
	newer, older := ref(0), slotRef(*slot)
	for older != 0 && s.recs.entry(older).Compare(e) >= 0 {
		if o := s.recs.entry(older); l.solid(o) {
			if o.Type() == layout.Delete {
				s.recs.set(older, flagPending) // has something older on disk
			}
			if !l.keepsOld(o) {
				s.meta.makeStale(n)
				return nil
			}
		}
		newer, older = older, s.recs.older(older)
	}
	r, err := l.newRecord(n, e)
	if err != nil {
		return err
	}
	s.recs.setOlder(r, older)
	if newer == 0 {
		*slot = *slot&^(1<<32-1) | uint64(r)
	} else {
		s.recs.setOlder(newer, r)
	}
	if solid {
		if e.Type() == layout.Delete && older != 0 {
			s.recs.set(r, flagPending)
		}
		if !l.keepsOld(e) {
			l.cut(r)
		}
	}
	l.suspect(id)
	return nil
}

// keepsOld tells whether entries under the overwrite entry e are needed: on a
// write-back disk of release 3.0.8 they may have the only copy of what a
// compaction should have copied (spec §7.3, D3).
func (l *loader) keepsOld(e layout.Entry) bool { return l.s.cached && e.Type() == layout.BigWrite }

func (l *loader) newRecord(n uint32, e layout.Entry) (ref, error) {
	s := l.s
	r, err := s.recs.alloc(len(e))
	if err != nil {
		return 0, err
	}
	copy(s.recs.bytes(r)[recHeader:], e)
	b := &s.meta.table[n]
	s.recs.setU32(r, 4, b.first)
	s.recs.setU32(r, 12, n)
	if b.first != 0 {
		s.recs.setU32(ref(b.first), 8, uint32(r))
	}
	b.first = uint32(r)
	b.used += uint16(len(e))
	return r, nil
}

// forget removes a record from its block and frees it; the chain is up to the
// caller.
func (l *loader) forget(r ref) {
	s := l.s
	n := s.recs.block(r)
	b := &s.meta.table[n]
	next, prev := s.recs.u32(r, 4), s.recs.u32(r, 8)
	if next != 0 {
		s.recs.setU32(ref(next), 8, prev)
	}
	if prev != 0 {
		s.recs.setU32(ref(prev), 4, next)
	} else {
		b.first = next
	}
	b.used -= uint16(len(s.recs.entry(r)))
	s.meta.makeStale(n)
	s.recs.release(r)
}

// cut forgets everything under r.
func (l *loader) cut(r ref) {
	s := l.s
	for x := s.recs.older(r); x != 0; {
		next := s.recs.older(x)
		l.forget(x)
		x = next
	}
	s.recs.setOlder(r, 0)
}

// suspect notes that an object has to be looked at after reading.
func (l *loader) suspect(id meta.ObjectID) {
	slot := l.s.index.find(id)
	if *slot&slotQueued == 0 {
		*slot |= slotQueued
		l.suspects.push(id)
	}
}

// queued is an object to compact, with the LSN that orders the queue.
type queued struct {
	lsn layout.LSN
	id  meta.ObjectID
}

// loaded goes on when everything is read.
func (l *loader) loaded() {
	if l.skipped > 0 && l.s.env.Log != nil {
		l.s.env.Log.Error("corrupt metadata entries were skipped", "count", l.skipped)
	}
	l.startVerify()
}

// verified goes on when unfinished writes are dropped: the rules of chains and
// of space have to hold, or the store is not started.
func (l *loader) verified() {
	err := l.checkChains()
	if err == nil {
		err = l.claim()
	}
	if err != nil {
		l.fail(err)
		l.finish()
		return
	}
	l.settleDisputes(func() { l.copyBack(l.claimed) })
}

// claimed goes on when the content of the store is known.
func (l *loader) claimed() {
	s := l.s
	s.lsn = uint64(max(l.highest, l.completed))
	s.completed, s.effective = s.lsn, s.lsn
	s.meta.clock++
	l.listBlocks()
	l.dropChunks()
	l.syncAll(0)
}

// checkChains tests the rules of every chain that is not a single stable entry
// and drops what is under its newest overwrite entry.
func (l *loader) checkChains() error {
	s := l.s
	var chain layout.Chain
	for l.suspects.len() > 0 {
		id := l.suspects.pop()
		slot := s.index.find(id)
		if slot == nil {
			continue // everything was dropped
		}
		*slot &^= slotQueued
		head := slotRef(*slot)
		chain = s.chain(chain[:0], head)
		if e := fatalRule(chain); e != nil {
			if s.cfg.SkipCorruptedEntries {
				l.dropObject(id, e.Error())
				continue
			}
			return fmt.Errorf("%w: %s: %w: run a check of the store; remove the object's entries, recovery restores it from other OSDs",
				ErrCorrupt, l.metaPath(), e)
		}
		if s.cached && (s.geo.CsumBytes != 0 || s.cfg.RepairLostCopies) {
			l.noteCopies(chain)
		}
		compactable := false
		for r := head; r != 0; r = s.recs.older(r) {
			e := s.recs.entry(r)
			if e.IsOverwrite() {
				if e.Type() == layout.Delete && s.recs.older(r) != 0 {
					s.recs.set(r, flagPending)
				}
				l.cut(r)
				break
			}
			compactable = compactable || e.Type() != layout.BigWrite && (e.Stable() || !e.IsSmall())
		}
		if compactable {
			l.compact = append(l.compact, queued{s.recs.entry(head).LSN(), id})
		}
		l.loadDelete(id, head)
	}
	slices.SortFunc(l.compact, func(a, b queued) int {
		if a.lsn != b.lsn {
			return int(min(max(int64(a.lsn-b.lsn), -1), 1))
		}
		return a.id.Compare(b.id)
	})
	return nil
}

// fatalRule is the first violated rule with which a store must not start.
func fatalRule(c layout.Chain) *layout.RuleError {
	for _, e := range c.Check() {
		if e.Fatal() {
			return e
		}
	}
	return nil
}

// chain is the chain from head on, as the layout package sees it.
func (s *Store) chain(dst layout.Chain, head ref) layout.Chain {
	for r := head; r != 0; r = s.recs.older(r) {
		dst = append(dst, s.recs.entry(r))
	}
	return dst
}

// loadDelete forgets a DELETE that stands alone on the disk, others have to
// wait until everything older is gone from it.
func (l *loader) loadDelete(id meta.ObjectID, head ref) {
	s := l.s
	for r := head; r != 0; r = s.recs.older(r) {
		e := s.recs.entry(r)
		if e.Type() != layout.Delete {
			continue
		}
		if s.recs.has(r, flagPending) {
			s.recs.unset(r, flagPending)
			s.deletes.push(deleted{id: id, lsn: e.LSN(), clock: s.meta.clock})
		} else if r == head {
			s.index.remove(id)
			l.forget(r)
		}
		return
	}
}
