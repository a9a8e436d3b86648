package store

import (
	"vitastor/internal/env"
	"vitastor/osd/store/layout"
)

// trimmer moves completed_lsn in the metadata superblock forward: intents up
// to it need no verification at start-up (spec ondisk.md §2.2). It is done
// after every IntentTrimInterval writes in place; those happen only on
// write-through stores, so what is effective is durable.
//
// The value is at most the LSN of an entry that is on the disk for ever, or
// until a newer one is: release 3.0.8 numbers on from the entries alone (D15).
// forgetDeletes takes care that the newest entry never vanishes.
type trimmer struct {
	block     []byte // block 0 of the metadata area
	completed layout.LSN
	intents   int
	running   bool
	op        env.DiskOp
}

// trimIntents counts a finished write in place.
func (s *Store) trimIntents() {
	t := &s.trim
	t.intents++
	lsn := layout.LSN(min(s.effective, s.durableLSN))
	if t.intents < s.cfg.IntentTrimInterval || t.running || lsn <= t.completed {
		return
	}
	t.intents, t.running = 0, true
	sb := s.superblock(lsn)
	sb.Put(t.block)
	t.completed = lsn
	t.op.Kind, t.op.Flags, t.op.Offset, t.op.Buf = env.DiskWrite, env.DiskFUA, s.cfg.Areas.MetaOffset, t.block
	s.counters.SuperblockWrites++
	s.ioStart()
	s.metaDev.disk.Submit(&t.op)
}

func (s *Store) trimDone(op *env.DiskOp) {
	s.trim.running = false
	if op.Err != nil {
		s.fatal("write", s.metaDev, op.Offset, len(op.Buf), op.Err)
	}
	s.ioEnd()
}

// superblock is the metadata superblock of the store.
func (s *Store) superblock(completed layout.LSN) layout.MetaSuperblock {
	sb := layout.MetaSuperblock{MetaBlockBytes: s.geo.MetaBlockBytes, BlockBytes: s.geo.BlockBytes,
		GranuleBytes: s.geo.GranuleBytes, CsumBytes: s.geo.CsumBytes,
		AreaBytes: uint64(s.cfg.Areas.MetaLen), CompletedLSN: completed}
	if s.geo.CsumBytes != 0 {
		sb.CsumType = layout.CsumTypeCRC32C
	}
	return sb
}
