package store

import (
	"bytes"
	"fmt"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// On write-back disks release 3.0.8 does not sync the data that a compaction
// copies before it writes the result (spec ondisk.md §12, D3). After a power
// loss the block may lack data which is still in the buffer area, under
// entries that are garbage by now. Start-up copies it again (§7.3), but only
// where that is proven: the checksums of the result refute the block as it is
// and confirm what it becomes. An old small write that differs from the block
// proves nothing: it may have been rolled back, or written over, by entries that
// have left the disk. So without checksums nothing is done unless
// Config.RepairLostCopies says that 3.0.8 has written the disk last.

// lostCopy is a compaction result with the small writes, newest first, whose
// data it should contain. Entries are copies.
type lostCopy struct {
	base    layout.Entry
	sources layout.Chain
}

// noteCopies remembers what has to be compared. It stops at the first version
// that is missing: its entry may have left the disk, and with it the knowledge
// of what it had written over older ones.
func (l *loader) noteCopies(chain layout.Chain) {
	base, sources := chain.CopySources()
	var c lostCopy
	for i, e := range sources {
		if e.Version() != base.Version()-meta.Version(i) {
			break
		}
		c.sources = append(c.sources, append(layout.Entry(nil), e...))
	}
	if len(c.sources) > 0 {
		c.base = append(layout.Entry(nil), base...)
		l.copies = append(l.copies, c)
	}
}

// copier works on one lostCopy after the other.
type copier struct {
	l       *loader
	then    func()
	i       int
	op      env.DiskOp
	block   []byte
	data    []byte
	good    []bool // granules that the checksums of the base confirm
	covered meta.Bitmap
	lost    []int // granules to write
	copied  int
}

// copyBack repairs lost copies, then goes on.
func (l *loader) copyBack(then func()) {
	if len(l.copies) == 0 {
		then()
		return
	}
	g := &l.s.geo
	k := &copier{l: l, then: then, block: l.verifiers[0].buf, covered: make(meta.Bitmap, g.BitmapBytes()), good: make([]bool, g.Granules())}
	data, err := pinned.AlignedBuffer(int(g.BlockBytes))
	if err != nil {
		l.fail(err)
		l.finish()
		return
	}
	k.data, l.owned = data, append(l.owned, data)
	k.next()
}

// read reads, or goes on with failed: what cannot be read proves nothing, and
// the objects around it must not be lost with it.
func (k *copier) read(d *device, at int64, buf []byte, done, failed func()) {
	k.op.Kind, k.op.Offset, k.op.Buf = env.DiskRead, at, buf
	k.op.Done = func(op *env.DiskOp) {
		if op.Err == nil {
			done()
			return
		}
		if log := k.l.s.env.Log; log != nil {
			log.Warn("cannot check whether a compaction has lost data", "device", d.disk.Info().Path, "offset", op.Offset, "err", op.Err)
		}
		failed()
	}
	d.disk.Submit(&k.op)
}

// next reads the block of the next compaction result.
func (k *copier) next() {
	s := k.l.s
	if k.i == len(k.l.copies) {
		if k.copied > 0 && s.env.Log != nil {
			s.env.Log.Warn("data of compactions that was lost in a power failure is copied again", "granules", k.copied)
		}
		k.l.sync(s.dataDev, k.then)
		return
	}
	c := &k.l.copies[k.i]
	k.i++
	k.read(s.dataDev, s.blockOffset(uint32(c.base.Block())), k.block, func() {
		k.judge(c)
		k.compare(c, 0)
	}, k.next)
}

// judge notes which granules are certainly right.
func (k *copier) judge(c *lostCopy) {
	g := &k.l.s.geo
	clear(k.covered)
	clear(k.good)
	k.lost = k.lost[:0]
	size := int(g.CsumBytes)
	for i := range g.CsumCount() {
		if g.VerifyCsumBlock(c.base, i, k.block[i*size:(i+1)*size]) {
			for j := i * size / int(g.GranuleBytes); j < (i+1)*size/int(g.GranuleBytes); j++ {
				k.good[j] = true
			}
		}
	}
}

// compare goes over the sources, newest first.
func (k *copier) compare(c *lostCopy, n int) {
	s := k.l.s
	g := uint64(s.geo.GranuleBytes)
	for ; n < len(c.sources); n++ {
		e := c.sources[n]
		offset, length := e.Range()
		if s.buffer.free(int(e.Location()/g), int(uint64(length)/g)) {
			data := k.data[:length]
			older := func() {
				k.covered.SetBytes(offset, length, uint32(g))
				k.compare(c, n+1)
			}
			k.read(s.bufferDev, s.cfg.Areas.BufferOffset+int64(e.Location()), data, func() {
				if s.geo.VerifyWrite(e, data) {
					k.merge(offset, data)
				}
				older()
			}, older)
			return
		}
		k.covered.SetBytes(offset, length, uint32(g))
	}
	k.prove(c)
	k.write(c)
}

// merge takes over what differs and is neither newer nor known to be right.
func (k *copier) merge(offset uint32, data []byte) {
	g := int(k.l.s.geo.GranuleBytes)
	for at := 0; at < len(data); at += g {
		i := (int(offset) + at) / g
		have, want := k.block[i*g:(i+1)*g], data[at:at+g]
		if !k.covered.Get(i) && !k.good[i] && !bytes.Equal(have, want) {
			copy(have, want)
			k.lost = append(k.lost, i)
		}
	}
}

// prove leaves those lost granules that checksums confirm in their new state.
func (k *copier) prove(c *lostCopy) {
	g := &k.l.s.geo
	if g.CsumBytes == 0 {
		return
	}
	size := int(g.CsumBytes)
	proven := k.lost[:0]
	for _, i := range k.lost {
		b := i * int(g.GranuleBytes) / size
		if g.VerifyCsumBlock(c.base, b, k.block[b*size:(b+1)*size]) {
			proven = append(proven, i)
		}
	}
	k.lost = proven
}

func (k *copier) write(c *lostCopy) {
	if len(k.lost) == 0 {
		k.next()
		return
	}
	s := k.l.s
	i, g := k.lost[0], int(s.geo.GranuleBytes)
	k.lost = k.lost[1:]
	k.copied++
	k.op.Kind, k.op.Offset, k.op.Buf = env.DiskWrite, s.blockOffset(uint32(c.base.Block()))+int64(i*g), k.block[i*g:(i+1)*g]
	k.op.Done = func(op *env.DiskOp) {
		if op.Err != nil {
			k.l.fail(fmt.Errorf("%s: repairing a lost copy at %d: %w", s.dataDev.disk.Info().Path, op.Offset, op.Err))
			k.l.finish()
			return
		}
		k.write(c)
	}
	s.dataDev.disk.Submit(&k.op)
}
