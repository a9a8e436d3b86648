package store

import (
	"fmt"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// Check compares everything in memory with everything else, for tests: its cost
// is proportional to the store. It may be called at any moment between events.
func (s *Store) Check() error {
	k := checker{s: s, seen: map[ref]bool{}, blocks: map[uint32]meta.Inode{}, space: map[meta.Inode]uint64{}, granules: map[uint64]bool{}}
	for _, f := range []func() error{k.objects, k.limbo, k.metadata, k.data} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

type checker struct {
	s        *Store
	seen     map[ref]bool
	blocks   map[uint32]meta.Inode // claimed data blocks and by whom
	space    map[meta.Inode]uint64
	granules map[uint64]bool
	err      error
	objs     uint64
}

// objects checks every chain: order, rules of what it means, index.
func (k *checker) objects() error {
	s := k.s
	s.index.eachObject(func(slot uint64) bool {
		k.objs++
		k.err = k.chain(slotRef(slot))
		return k.err == nil
	})
	if k.err == nil && k.objs != s.index.objects {
		return fmt.Errorf("index counts %d objects, has %d", s.index.objects, k.objs)
	}
	return k.err
}

func (k *checker) chain(head ref) error {
	s := k.s
	id := s.index.objectOf(head)
	if slot := s.index.find(id); slot == nil || slotRef(*slot) != head {
		return fmt.Errorf("object %v is not found by its id", id)
	}
	var done layout.Chain
	var last layout.Entry
	own := map[uint32]bool{}
	for r := head; r != 0; r = s.recs.older(r) {
		e := s.recs.entry(r)
		if k.seen[r] || s.recs.has(r, flagDead) || e.Object() != id {
			return fmt.Errorf("object %v: record %d (%v) does not belong into its chain", id, r, e)
		}
		k.seen[r] = true
		if e.Checksum() != e.ComputeChecksum() {
			return fmt.Errorf("object %v: %v: wrong crc32c", id, e)
		}
		if last != nil && last.Compare(e) <= 0 {
			return fmt.Errorf("object %v: %v is over %v", id, last, e)
		}
		last = e
		if !s.recs.has(r, flagPending) {
			done = append(done, e)
		}
		if err := k.claim(r, e, own); err != nil {
			return err
		}
	}
	for _, e := range done.Check() {
		if e.Fatal() {
			return e
		}
	}
	return nil
}

// claim notes the space of a record. Entries of one object may share a block
// only while the older ones are about to become garbage.
func (k *checker) claim(r ref, e layout.Entry, own map[uint32]bool) error {
	s := k.s
	switch {
	case e.IsBig():
		b := uint32(e.Block())
		if _, taken := k.blocks[b]; taken && !own[b] {
			return fmt.Errorf("data block %d of %v is used twice", b, e)
		}
		if own[b] {
			return nil
		}
		own[b] = true
		k.blocks[b] = e.Object().Inode
		k.space[s.statInode(e.Object().Inode)] += uint64(s.geo.BlockBytes)
	case e.Type() == layout.SmallWrite:
		for g := e.Location(); g < e.Location()+uint64(e.Len()); g += uint64(s.geo.GranuleBytes) {
			if k.granules[g] {
				return fmt.Errorf("buffer at %d of %v is used twice", g, e)
			}
			k.granules[g] = true
		}
	}
	return nil
}

// limbo claims what waits for readers.
func (k *checker) limbo() error {
	s := k.s
	for i := range s.limbo {
		for r := s.limbo[i].first; r != 0; r = s.recs.older(r) {
			e := s.recs.entry(r)
			if k.seen[r] || !s.recs.has(r, flagDead) {
				return fmt.Errorf("record %d (%v) is in limbo and elsewhere", r, e)
			}
			k.seen[r] = true
			if e.IsBig() && !s.recs.has(r, flagFrees) {
				continue // its block has another owner
			}
			if err := k.claim(r, e, map[uint32]bool{}); err != nil {
				return err
			}
		}
	}
	if len(k.seen) != s.recs.live {
		return fmt.Errorf("%d records, %d in chains or limbo", s.recs.live, len(k.seen))
	}
	return nil
}

// metadata checks that each live record is in exactly one metadata block.
func (k *checker) metadata() error {
	s, m := k.s, &k.s.meta
	listed, roomy, used := 0, 0, uint64(0)
	for n := range m.table {
		b := &m.table[n]
		sum, prev := 0, ref(0)
		for r := ref(b.first); r != 0; r = ref(s.recs.u32(r, 4)) {
			if s.recs.block(r) != uint32(n) || ref(s.recs.u32(r, 8)) != prev || !k.seen[r] || s.recs.has(r, flagDead) {
				return fmt.Errorf("metadata block %d: record %d (%v) is not linked right", n, r, s.recs.entry(r))
			}
			sum += len(s.recs.entry(r))
			prev = r
			listed++
		}
		if sum != int(b.used) {
			return fmt.Errorf("metadata block %d: %d bytes used, %d counted", n, sum, b.used)
		}
		if m.room(uint32(n)) >= m.entryMax {
			roomy++
		}
		used += uint64(sum)
		if b.state != blockIdle && s.writeOf(uint32(n)) == nil {
			return fmt.Errorf("metadata block %d is busy, but nobody writes it", n)
		}
	}
	dead := 0
	for i := range s.limbo {
		for r := s.limbo[i].first; r != 0; r = s.recs.older(r) {
			dead++
		}
	}
	if roomy != m.roomy || used != m.used || listed+dead != s.recs.live {
		return fmt.Errorf("metadata: roomy %d, counted %d; used %d, counted %d; records %d, in blocks %d, in limbo %d",
			roomy, m.roomy, used, m.used, s.recs.live, listed, dead)
	}
	return nil
}

// data compares the allocators with what entries and running writes claim.
func (k *checker) data() error {
	s := k.s
	for b := range s.locks.buckets {
		for op := s.locks.buckets[b]; op != nil; op = op.lockNext {
			if op.path == pathBig && op.step == stepPlace && op.ref == 0 { // block taken, no entry yet
				if _, taken := k.blocks[op.block]; taken {
					return fmt.Errorf("data block %d of a running write is used twice", op.block)
				}
				k.blocks[op.block] = op.OID.Inode
				k.space[s.statInode(op.OID.Inode)] += uint64(s.geo.BlockBytes)
			}
		}
	}
	for b := range k.blocks {
		if !s.blocks.get(int(b)) {
			return fmt.Errorf("data block %d is used, but free", b)
		}
	}
	if want := len(k.blocks) + s.discarding(); want != s.blocks.used {
		return fmt.Errorf("%d data blocks are claimed, %d are not free", want, s.blocks.used)
	}
	for g := range k.granules {
		if !s.buffer.get(int(g / uint64(s.geo.GranuleBytes))) {
			return fmt.Errorf("buffer at %d is used, but free", g)
		}
	}
	if want := len(k.granules); want != s.buffer.used {
		return fmt.Errorf("%d granules of the buffer area are claimed, %d are not free", want, s.buffer.used)
	}
	if len(k.space) != len(s.inodes) {
		return fmt.Errorf("%d inodes take space, %d are counted", len(k.space), len(s.inodes))
	}
	for i, n := range k.space {
		if s.inodes[i] != n {
			return fmt.Errorf("inode %v takes %d bytes, %d are counted", i, n, s.inodes[i])
		}
	}
	return nil
}
