package primary

import (
	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// Where the bytes of a data chunk come from after a write:
//
//	0        request         read            block end
//	|- read -|### client's ###|----- read -----|        op.chunks[r].buf, r.Body
//	|0000000000|### client's ###|00000000000000|        the object did not exist
//
// Nothing is copied together: writes and the code work on the pieces.

// writeChunks computes parity and sends the first phase of an EC write.
func (o *op) writeChunks() {
	p, us := o.pg, o.s.config.OSD
	o.mergeBitmaps()
	if err := o.encode(); err != nil {
		invariant.Fail("primary: parity of %v: %v", o.oid, err)
	}
	p.objects.SetOverride(o.oid, o.old)
	o.holdPhase(phaseWriting)
	for r, osd := range p.curSet {
		if osd != 0 && osd != us {
			o.writeChunk(r, osd)
		}
	}
	for r, osd := range p.curSet {
		if osd == us {
			o.writeChunk(r, osd)
		}
	}
	o.sent()
}

// writeChunk sends the new version of one chunk: bitmap and the changed range.
func (o *op) writeChunk(r int, osd meta.OSDNum) {
	c, w := &o.chunks[r], o.plan.Roles[r].Write
	b := o.sub(osd, meta.Role(r))
	b.parts = append(b.parts, c.bitmap)
	if r >= o.pg.dataChunks {
		b.parts = appendNonEmpty(b.parts, c.out)
	} else {
		b.parts = o.appendData(b.parts, r, w)
		if len(b.parts) > env.DiskIovMax {
			o.joinChunk(b, r)
		}
	}
	b.write(wire.OpSecWrite, o.oid.WithRole(meta.Role(r)), o.version, w.From, w.Len(), b.parts, o.flags())
}

// joinChunk copies the client's part of a moved chunk into what was read of it:
// there are too many parts for one request to the disk.
func (o *op) joinChunk(b *sub, r int) {
	c, q := &o.chunks[r], o.plan.Roles[r].Request
	if c.buf == nil || c.read != o.plan.Roles[r].Write {
		return // at most as many parts as a request has
	}
	o.pieces = appendSlices(o.pieces[:0], o.body(), o.position(r, q.From), int(q.Len()))
	dst := c.buf[q.From-c.read.From:]
	for _, piece := range o.pieces {
		dst = dst[copy(dst, piece):]
	}
	b.parts = append(b.parts[:1], c.buf)
}

// appendData appends the new contents of a range of data chunk r.
func (o *op) appendData(dst [][]byte, r int, want ec.Range) [][]byte {
	if want.Empty() {
		return dst
	}
	q := o.plan.Roles[r].Request
	if q.Empty() || q.To <= want.From || q.From >= want.To {
		return o.appendOld(dst, r, want)
	}
	if want.From < q.From {
		dst = o.appendOld(dst, r, ec.Range{From: want.From, To: q.From})
	}
	mine := ec.Range{From: max(q.From, want.From), To: min(q.To, want.To)}
	dst = appendSlices(dst, o.body(), o.position(r, mine.From), int(mine.Len()))
	if want.To > q.To {
		dst = o.appendOld(dst, r, ec.Range{From: q.To, To: want.To})
	}
	return dst
}

// appendOld appends a range of the old contents of data chunk r.
func (o *op) appendOld(dst [][]byte, r int, want ec.Range) [][]byte {
	if c := &o.chunks[r]; !o.fresh {
		invariant.Must(c.buf != nil && c.read.Contains(want), "primary: a write needs what was not read")
		return append(dst, c.buf[want.From-c.read.From:want.To-c.read.From])
	}
	for n := int(want.Len()); n > 0; n -= zeroBytes {
		dst = append(dst, o.s.memory.zero[:min(n, zeroBytes)])
	}
	return dst
}

// mergeBitmaps makes the bitmaps of all chunks as they are after the write.
// Those of parity are computed even if no parity is: nothing else is true of
// them (osd.md §5.2, caution).
func (o *op) mergeBitmaps() {
	k, granule := o.pg.dataChunks, o.s.config.GranuleBytes
	shards := o.s.shardsFor(len(o.chunks))
	for r := range o.chunks {
		c := &o.chunks[r]
		if q := o.plan.Roles[r].Request; r < k && !q.Empty() {
			meta.Bitmap(c.bitmap).SetBytes(q.From, q.Len(), granule)
		}
		shards[r] = c.bitmap
	}
	if err := o.pg.code.Encode(shards[:k], shards[k:]); err != nil {
		invariant.Fail("primary: bitmaps of %v: %v", o.oid, err)
	}
	clear(shards)
}

// encode computes parity over plan.Coded, piece by piece: in a piece every data
// chunk lies in one part of memory.
func (o *op) encode() error {
	k := o.pg.dataChunks
	coded := o.plan.Coded
	any := false
	for r := k; r < len(o.chunks); r++ {
		any = any || o.chunks[r].out != nil
	}
	if coded.Empty() || !any {
		return nil
	}
	shards := o.s.shardsFor(len(o.chunks))
	for at := coded.From; at < coded.To; {
		n := coded.To - at
		for r := range k {
			shards[r] = o.dataAt(r, at, coded.To)
			n = min(n, uint32(len(shards[r])))
		}
		for r := range k {
			shards[r] = shards[r][:n]
		}
		for r := k; r < len(o.chunks); r++ {
			if shards[r] = nil; o.chunks[r].out != nil {
				shards[r] = o.chunks[r].out[at-coded.From : at-coded.From+n]
			}
		}
		if err := o.pg.code.Encode(shards[:k], shards[k:]); err != nil {
			return err
		}
		at += n
	}
	clear(shards)
	return nil
}

// dataAt returns new contents of data chunk r from at on, as far as they lie
// together, at most up to end.
func (o *op) dataAt(r int, at, end uint32) []byte {
	q := o.plan.Roles[r].Request
	if q.Empty() || at >= q.To {
		return o.oldAt(r, at, end)
	}
	if at < q.From {
		return o.oldAt(r, at, min(end, q.From))
	}
	pos, n := o.position(r, at), int(min(end, q.To)-at)
	for _, part := range o.body() {
		if pos < len(part) {
			return part[pos:min(len(part), pos+n)]
		}
		pos -= len(part)
	}
	invariant.Fail("primary: request of %v has no byte %d of chunk %d", o.oid, at, r)
	return nil
}

func (o *op) oldAt(r int, at, end uint32) []byte {
	if o.fresh {
		return o.s.memory.zero[:min(end-at, zeroBytes)]
	}
	c := &o.chunks[r]
	invariant.Must(c.buf != nil && c.read.Contains(ec.Range{From: at, To: end}), "primary: parity needs what was not read")
	return c.buf[at-c.read.From : end-c.read.From]
}
