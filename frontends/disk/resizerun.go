package disk

import (
	"fmt"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// run does what was decided: copy blocks, change entries, copy areas,
// switch.
func (r *resizing) run() error {
	for _, x := range r.taken {
		if err := r.t.setType(x); err != nil {
			return err
		}
	}
	for _, step := range []func() error{r.copyBlocks, r.changeEntries, r.copyBuffer, r.copyMeta, r.switchOver} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// inspect requires a store without any doubt, and plans what has to move.
func (r *resizing) inspect() error {
	s := r.old
	for _, d := range s.devices {
		if err := d.Sync(); err != nil { // what is read now is durable
			return err
		}
	}
	c := &checker{t: r.t, s: s, p: s.Params, g: &s.Params.Geometry, r: &report{}}
	fresh := !c.metaSuperblock()
	if !fresh {
		c.metadata()
		c.objects()
	}
	for _, p := range c.r.problems {
		switch {
		case p.kind == "not-initialized":
			return fmt.Errorf("%s: the store was never started: prepare it again with other options instead", s.Data.Path)
		case p.severity() == sevError:
			return fmt.Errorf("%s: not resized, the store has problems, see vitastor-disk check: %s", s.Data.Path, p.line())
		case p.kind == "unfinished-write":
			return fmt.Errorf("%s: not resized, it has writes that a crash interrupted: start the OSD once and stop it again", s.Data.Path)
		}
	}
	return r.plan(c)
}

// plan finds the entries that do not fit the new areas.
func (r *resizing) plan(c *checker) error {
	r.relocate, r.flag = map[*byte]layout.BlockNum{}, map[*byte]bool{}
	r.entries = map[uint32][]layout.Located{}
	live := map[*byte]bool{}
	for _, chain := range layout.Chains(c.entries) {
		for _, e := range chain.Live() {
			live[&e[0]] = true
		}
	}
	ng := &r.to.Params.Geometry
	referenced := make(meta.Bitmap, (c.g.BlockCount+7)/8)
	for _, e := range c.entries {
		if e.Entry.IsBig() {
			referenced.SetRange(int(e.Entry.Block()), int(e.Entry.Block())+1)
		}
	}
	next := layout.BlockNum(0)
	for _, e := range c.entries {
		first := &e.Entry[0]
		switch {
		case e.Entry.IsBig() && uint32(e.Entry.Block()) >= ng.BlockCount:
			if !live[first] {
				r.flag[first] = true
				break
			}
			for uint32(next) < min(ng.BlockCount, c.g.BlockCount) && referenced.Get(int(next)) {
				next++
			}
			if uint32(next) >= min(ng.BlockCount, c.g.BlockCount) {
				return fmt.Errorf("%s: the data does not fit: %s are used, the new size is %s", r.old.Data.Path,
					humanBytes(c.r.dataUsed), humanBytes(r.to.Params.Data.Bytes))
			}
			r.relocate[first] = next
			r.moves = append(r.moves, struct{ from, to layout.BlockNum }{e.Entry.Block(), next})
			next++
		case e.Entry.Type() == layout.SmallWrite && e.Entry.Location()+uint64(e.Entry.Len()) > ng.BufferBytes:
			if live[first] {
				return fmt.Errorf("%s: the buffer area has data at %d, behind its new end: start the OSD, wait until it has compacted its writes, stop it and repeat",
					r.old.Buffer.Path, e.Entry.Location())
			}
			r.flag[first] = true
		default:
			continue
		}
		r.entries[e.Block] = append(r.entries[e.Block], e)
	}
	return r.metaFits(c)
}

// metaFits checks that a new metadata area can take all blocks in use.
func (r *resizing) metaFits(c *checker) error {
	if r.meta != nil && c.r.usedMetaBlocks >= uint64(r.to.Params.MetaBlocks) {
		return fmt.Errorf("%s: %d metadata blocks are in use, the new area has %d: choose a larger one", r.to.Meta.Path, c.r.usedMetaBlocks, r.to.Params.MetaBlocks)
	}
	return nil
}

// copyBlocks copies data blocks into free ones.
func (r *resizing) copyBlocks() error {
	if len(r.moves) == 0 {
		return nil
	}
	p, d := r.old.Params, r.old.Data
	show := r.t.progress("moving data", uint64(len(r.moves))*uint64(p.Geometry.BlockBytes))
	defer show.done()
	buf := make([]byte, p.Geometry.BlockBytes)
	for i, m := range r.moves {
		if _, err := d.ReadAt(buf, int64(p.DataOffset(m.from))); err != nil {
			return err
		}
		if _, err := d.WriteAt(buf, int64(p.DataOffset(m.to))); err != nil {
			return err
		}
		show.at(uint64(i+1) * uint64(len(buf)))
	}
	return d.Sync()
}

// changeEntries lets entries refer to the copies. Each metadata block is
// valid before and after its write.
func (r *resizing) changeEntries() error {
	if len(r.entries) == 0 {
		return nil
	}
	p, d := r.old.Params, r.old.Meta
	g := &p.Geometry
	buf := make([]byte, g.MetaBlockBytes)
	for number, list := range r.entries {
		if _, err := d.ReadAt(buf, int64(p.MetaBlockOffset(number))); err != nil {
			return err
		}
		for _, e := range list {
			at := layout.Entry(buf[e.Offset : e.Offset+len(e.Entry)])
			if r.flag[&e.Entry[0]] {
				at.SetGarbage()
				continue
			}
			setBlock(at, r.relocate[&e.Entry[0]])
		}
		if _, err := d.WriteAt(buf, int64(p.MetaBlockOffset(number))); err != nil {
			return err
		}
	}
	return d.Sync()
}

// setBlock changes the data block of a BIG entry; its number is at byte 40.
func setBlock(e layout.Entry, to layout.BlockNum) {
	const at = 40
	for i := range 4 {
		e[at+i] = byte(to >> (8 * i))
	}
	e.Seal()
}

// copyBuffer copies the buffer area to its new place.
func (r *resizing) copyBuffer() error {
	if r.buffer == nil {
		return nil
	}
	from, to := r.old.Params.Buffer, *r.buffer
	show := r.t.progress("copying buffered data", from.Bytes)
	defer show.done()
	buf := make([]byte, bounceBytes)
	for at := uint64(0); at < min(from.Bytes, to.Bytes); at += uint64(len(buf)) {
		part := buf[:min(uint64(len(buf)), min(from.Bytes, to.Bytes)-at)]
		if _, err := r.old.Buffer.ReadAt(part, int64(from.Offset+at)); err != nil {
			return err
		}
		if _, err := r.to.Buffer.WriteAt(part, int64(to.Offset+at)); err != nil {
			return err
		}
		show.at(at)
	}
	return r.to.Buffer.Sync()
}

// copyMeta writes the metadata blocks in use to their new place, empty ones
// behind them, and the superblock last.
func (r *resizing) copyMeta() error {
	if r.meta == nil {
		return nil
	}
	p, np := r.old.Params, r.to.Params
	size := uint64(p.Geometry.MetaBlockBytes)
	head := make([]byte, size)
	if _, err := r.old.Meta.ReadAt(head, int64(p.Meta.Offset)); err != nil {
		return err
	}
	sb, _, err := layout.DecodeMetaSuperblock(head)
	if err != nil {
		return fmt.Errorf("%s: %w", r.old.Meta.Path, err)
	}
	w := &blockWriter{d: r.to.Meta, at: int64(np.MetaBlockOffset(0))}
	count := uint32(0)
	err = r.old.metaReader(r.t.progress("copying metadata", p.Meta.Bytes), func(_ uint32, b []byte) error {
		if !p.Geometry.BlockLooksUsed(b) {
			return nil
		}
		count++
		return w.add(b)
	})
	if err != nil {
		return err
	}
	empty := make([]byte, size)
	layout.EmptyBlock(empty)
	for ; count < np.MetaBlocks; count++ {
		if err := w.add(empty); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := r.to.Meta.Sync(); err != nil {
		return err
	}
	sb = np.MetaSuperblock(sb.CompletedLSN)
	sb.Put(head)
	if _, err := r.to.Meta.WriteAt(head, int64(np.Meta.Offset)); err != nil {
		return err
	}
	return r.to.Meta.Sync()
}

// switchOver writes the superblocks: new devices first, then the data device,
// which decides; then the others, and abandoned devices lose theirs.
func (r *resizing) switchOver() error {
	o := r.to.Options
	written := map[*Device]bool{}
	put := func(d *Device) error {
		if written[d] {
			return nil
		}
		written[d] = true
		return d.writeSuperblock(o)
	}
	for _, x := range r.taken {
		if err := put(x.Device); err != nil {
			return err
		}
	}
	for _, d := range []*Device{r.to.Data, r.to.Meta, r.to.Buffer} {
		if err := put(d); err != nil {
			return err
		}
	}
	for _, d := range r.old.devices {
		if !written[d] {
			if err := d.clearSuperblock(); err != nil {
				return err
			}
			r.t.note("%s is not used by OSD %d any more", d.Path, o.OSDNum())
		}
	}
	for d := range written {
		r.t.announce(d)
	}
	return nil
}
