package store

import (
	"vitastor/internal/env"
	"vitastor/osd/store/layout"
)

// copyPiece is a part of a small write that goes into the data block.
type copyPiece struct {
	source   ref
	from, to uint32 // bytes of the object
}

// begin reads what has to be copied.
func (c *compactor) begin() {
	s := c.s
	if s.failed != nil {
		c.end(false)
		return
	}
	c.phase, c.pending = compactReading, 1
	if c.sel.base == 0 {
		c.phase = compactPlacing
		c.place()
		return
	}
	c.plan()
	for _, p := range c.pieces {
		dev, at := s.locate(p.source, p.from)
		c.request(dev, env.DiskRead, at).op.Buf = c.data[p.from:p.to]
	}
	size, at := int(s.geo.CsumBytes), s.blockOffset(uint32(s.recs.entry(c.sel.base).Block()))
	for _, b := range c.blocks {
		c.request(s.dataDev, env.DiskRead, at+int64(b*size)).op.Buf = c.base[b*size : (b+1)*size]
	}
	c.submit()
}

// plan finds the newest data of each granule and the bitmap of the result.
func (c *compactor) plan() {
	s, g := c.s, &c.s.geo
	base := s.recs.entry(c.sel.base)
	copy(c.written, base.IntBitmap(g))
	clear(c.source)
	for _, r := range c.sel.small {
		offset, n := s.recs.entry(r).Range()
		c.written.SetBytes(offset, n, g.GranuleBytes)
		for i := offset / g.GranuleBytes; i < (offset+n)/g.GranuleBytes; i++ {
			if c.source[i] == 0 {
				c.source[i] = r
			}
		}
	}
	c.pieces, c.blocks = c.pieces[:0], c.blocks[:0]
	for i := 0; i < len(c.source); {
		r, j := c.source[i], i+1
		for j < len(c.source) && c.source[j] == r {
			j++
		}
		if r != 0 && s.recs.entry(r).Type() == layout.SmallWrite {
			c.pieces = append(c.pieces, copyPiece{source: r, from: uint32(i) * g.GranuleBytes, to: uint32(j) * g.GranuleBytes})
		}
		i = j
	}
	if g.CsumBytes <= g.GranuleBytes {
		return
	}
	per := int(g.CsumBytes / g.GranuleBytes)
	for b := range g.CsumCount() {
		for i := b * per; i < (b+1)*per; i++ {
			if c.source[i] != 0 {
				c.blocks = append(c.blocks, b)
				break
			}
		}
	}
}

// request prepares a disk request; submit sends those made since the last one.
func (c *compactor) request(d *device, kind env.DiskOpKind, offset int64) *request {
	q := c.s.newRequest()
	q.worker, q.dev = c, d
	q.op.Kind, q.op.Flags, q.op.Offset = kind, 0, offset
	q.next, c.s.reads.prepared = c.s.reads.prepared, q
	c.pending++
	return q
}

func (c *compactor) submit() {
	for q := c.s.reads.prepared; q != nil; q = c.s.reads.prepared {
		c.s.reads.prepared = q.next
		q.next = nil
		c.s.ioStart()
		q.dev.disk.Submit(&q.op)
	}
	c.step()
}

// done is the completion of a request.
func (c *compactor) done(q *request, err error) {
	if q.op.Kind == env.DiskWrite {
		q.dev.wrote()
		if err != nil {
			c.s.fatal("write", q.dev, q.op.Offset, int(q.op.Bytes()), err)
		}
	} else if err != nil {
		c.failed = true
		c.s.counters.ReadErrors++
	}
	c.step()
}

// step goes on when all requests of a phase are finished.
func (c *compactor) step() {
	if c.pending--; c.pending != 0 {
		return
	}
	s := c.s
	if c.phase == compactReading && !c.failed && !c.verify() {
		c.failed = true
		s.counters.ChecksumErrors++
		if s.env.Log != nil {
			s.env.Log.Warn("compaction given up: buffered data does not match its checksum", "object", c.id.String())
		}
	}
	switch {
	case c.failed || s.failed != nil:
		c.end(false)
	case c.phase == compactReading:
		c.computeSums()
		if c.phase = compactWriting; len(c.pieces) == 0 || !s.afterReads(&c.op) {
			c.copyOut()
		}
	default:
		c.phase = compactPlacing
		if len(c.pieces) == 0 || !s.dataDev.wait(&c.op) { // durable before the entry: spec §12, D3
			c.place()
		}
	}
}

// verify compares what was read with the checksums that lie entirely in it.
func (c *compactor) verify() bool {
	s, size := c.s, c.s.geo.CsumBytes
	for _, p := range c.pieces {
		e := s.recs.entry(p.source)
		offset, n := e.Range()
		sums := e.Csums(&s.geo)
		if size == 0 {
			if p.from == offset && p.to == offset+n && layout.CRC(c.data[p.from:p.to]) != sums.At(0) {
				return false
			}
			continue
		}
		for at := p.from; at < p.to; {
			b := at / size
			from, to := max(b*size, offset), min((b+1)*size, offset+n)
			if from >= p.from && to <= p.to && layout.CRC(c.data[from:to]) != sums.At(int(b-offset/size)) {
				return false
			}
			at = (b + 1) * size
		}
	}
	return true
}

// computeSums makes the checksums of the result (spec §9.3).
func (c *compactor) computeSums() {
	s, g := c.s, &c.s.geo
	if g.CsumBytes == 0 {
		return
	}
	copy(c.sums, s.recs.entry(c.sel.base).Csums(g))
	if g.CsumBytes == g.GranuleBytes {
		for i := len(c.sel.small) - 1; i >= 0; i-- {
			g.OverlayCsums(c.sums, s.recs.entry(c.sel.small[i]))
		}
		return
	}
	for _, b := range c.blocks {
		start, end := uint32(b)*g.CsumBytes, uint32(b+1)*g.CsumBytes
		for _, p := range c.pieces {
			if from, to := max(p.from, start), min(p.to, end); from < to {
				copy(c.base[from:to], c.data[from:to])
			}
		}
		c.sums.Set(b, g.BlockCsum(b, c.written, c.base[start:end]))
	}
}

// copyOut writes the pieces into the data block, neighbours together.
func (c *compactor) copyOut() {
	s := c.s
	c.pending = 1
	at := s.blockOffset(uint32(s.recs.entry(c.sel.base).Block()))
	for i := 0; i < len(c.pieces); {
		from, j := c.pieces[i].from, i+1
		for j < len(c.pieces) && c.pieces[j].from == c.pieces[j-1].to {
			j++
		}
		to := c.pieces[j-1].to
		c.request(s.dataDev, env.DiskWrite, at+int64(from)).op.Buf = c.data[from:to]
		s.counters.CompactWrites++
		s.counters.CompactWriteBytes += uint64(to - from)
		i = j
	}
	c.submit()
}
