package layout

// What start-up has to verify (spec §7.1 steps 6-8, §7.2, §7.3). An entry may
// be durable without its data: SMALL_WRITE and in-place intents are written in
// parallel with it, a redirect BIG_INTENT on a cached disk may lose it. The
// loader reads the data of the suspects and drops those that do not match,
// with everything newer.

// Suspects is how many of the newest entries have to be verified. Either the
// top is one intent newer than the completed LSN; or the uninterrupted run of
// SMALL_WRITE entries on top (those of length 0 have nothing to verify).
func (c Chain) Suspects(completed LSN) int {
	if len(c) == 0 {
		return 0
	}
	switch top := c[0]; top.Type() {
	case IntentWrite, BigIntent:
		if top.LSN() > completed {
			return 1
		}
		return 0
	}
	n := 0
	for n < len(c) && c[n].Type() == SmallWrite {
		n++
	}
	return n
}

// SuspectRedirect is the index of a redirect BIG_INTENT directly under the run
// of SMALL_WRITE entries on top, or -1: on a cached disk its data may have
// been lost although small writes over it are there (spec §7.3, D4). Its parts
// that no entry of the run overlaps can be verified, see RedirectParts.
func (c Chain) SuspectRedirect(completed LSN) int {
	n := 0
	for n < len(c) && c[n].Type() == SmallWrite {
		n++
	}
	if n == 0 || n == len(c) || c[n].Type() != BigIntent || c[n].LSN() <= completed {
		return -1
	}
	return n
}

// RedirectMatches verifies the BIG_INTENT at index i as far as the newer
// entries do not overlap it: by checksum blocks, or as a whole with checksums
// off. block is the content of its data block. What is overlapped may have
// been changed by an unfinished compaction and counts as matching.
func (g *Geometry) RedirectMatches(c Chain, i int, block []byte) bool {
	e := c[i]
	offset, length := e.Range()
	for length > 0 {
		n := uint32(g.csumPart(offset, int(length)))
		if !c[:i].overlap(offset, n) {
			if g.CsumBytes == 0 {
				return g.VerifyWrite(e, block[offset:offset+n])
			}
			if !g.verifyIntent(e, offset, block[offset:offset+n]) {
				return false
			}
		}
		offset, length = offset+n, length-n
	}
	return true
}

// overlap tells whether an entry of the run writes into [offset, offset+n).
func (c Chain) overlap(offset, n uint32) bool {
	for _, e := range c {
		if at, length := e.Range(); length != 0 && at < offset+n && offset < at+length {
			return true
		}
	}
	return false
}

// KeepsMismatch tells whether the newest entry of a chain stays although its
// data does not match: an in-place BIG_INTENT with nothing older left. The
// older entries are removed only after it completed, so this is damage of the
// medium, to be reported by reads, and not an unfinished write (spec §7.2,
// D16).
func (c Chain) KeepsMismatch(g *Geometry, writeThrough bool) bool {
	if len(c) != 1 || c[0].Type() != BigIntent {
		return false
	}
	if writeThrough {
		return true
	}
	offset, length := c[0].Range()
	from, to := int(offset/g.GranuleBytes), int((offset+length)/g.GranuleBytes)
	written := c[0].IntBitmap(g)
	return written.Any(0, from) || written.Any(to, g.Granules())
}

// CopySources are the small writes, newest first, whose data a compaction has
// copied into the block of the newest overwrite entry, as far as they are
// still on the disk: on a cached disk of release 3.0.8 the copy may have been
// lost in a power failure (spec §7.3, D3). None are returned unless the entry
// is certainly a compaction result: it shares its LSN with an entry under it.
//
// If the buffer range of a source is not claimed by a live entry and still
// matches its checksums (VerifyWrite), but the granules in the data block
// differ and, with checksums, do not match base, the data has to be copied
// again, oldest source first.
func (c Chain) CopySources() (base Entry, sources Chain) {
	live := c.Live()
	if len(live) == 0 || len(live) == len(c) {
		return nil, nil
	}
	base = live[len(live)-1]
	if base.Type() != BigWrite || !base.Stable() || c[len(live)].LSN() != base.LSN() {
		return nil, nil
	}
	for w := c[len(live):].Walk(); w.Next() && w.Entry.IsSmall(); {
		if w.Stable && w.Entry.Type() == SmallWrite && w.Entry.Len() != 0 {
			sources = append(sources, w.Entry)
		}
	}
	return base, sources
}
