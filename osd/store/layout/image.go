package layout

import (
	"fmt"
	"slices"

	"vitastor/internal/meta"
)

// Image is a store as bytes: exactly its three areas.
type Image struct{ Data, Meta, Buffer []byte }

// Located is an entry with its place.
type Located struct {
	Entry  Entry
	Block  uint32 // metadata block
	Offset int
}

// Object is an object of a loaded store.
type Object struct {
	ID    meta.ObjectID
	Chain Chain // the live part, newest first; dropped entries are not in it
	Old   Chain // what is under it: garbage that is still on the disk
}

// Loaded is what a store contains.
type Loaded struct {
	Superblock MetaSuperblock
	Objects    []Object // by ascending id; objects without visible versions too
	Claims     *Claims
	// HighestLSN of all parsed entries, dropped ones included. The next entry
	// must be over this and over Superblock.CompletedLSN.
	HighestLSN LSN
	LiveBytes  uint64 // sum of the sizes of the entries of all live parts
	// Space are the bytes of data blocks per inode.
	Space    map[meta.Inode]uint64
	Dropped  []Located // data was not written; the newest first per object
	Corrupt  []error   // skipped faults, only with SkipCorrupt
	Warnings []error

	g     *Geometry
	image Image
}

// LoadOptions change what LoadImage does; the zero value is what a store has
// to do at start.
type LoadOptions struct {
	// SkipCorrupt leaves out corrupt entries (or the rest of a block).
	SkipCorrupt bool
	// NoVerify takes all entries for complete, as a dump does.
	NoVerify bool
}

// LoadImage reads a store from its areas and does what a start has to do
// (spec §7.1): check the superblock, parse the blocks, build the chains,
// verify unfinished writes, check the rules, claim the space. It is the slow,
// obvious reader that faster ones are tested against. Entries and bitmaps of
// the result are views of the image.
func LoadImage(im Image, p *Params, opt LoadOptions) (*Loaded, error) {
	g := &p.Geometry
	if uint64(len(im.Data)) != p.Data.Bytes || uint64(len(im.Meta)) != p.Meta.Bytes || uint64(len(im.Buffer)) != p.Buffer.Bytes {
		return nil, fmt.Errorf("image of a store: areas have %d, %d, %d bytes, the parameters say %d, %d, %d",
			len(im.Data), len(im.Meta), len(im.Buffer), p.Data.Bytes, p.Meta.Bytes, p.Buffer.Bytes)
	}
	l := &Loaded{g: g, image: im, Space: map[meta.Inode]uint64{}, Claims: g.NewClaims()}
	if err := l.readSuperblock(p); err != nil {
		return nil, err
	}
	entries, faults := Parse(im.Meta, g)
	if len(faults) != 0 && !opt.SkipCorrupt {
		return nil, faults[0]
	}
	l.Corrupt = faults
	if opt.NoVerify {
		l.buildObjects(entries, nil)
	} else {
		l.buildObjects(entries, func(c Chain) Chain { return l.verify(c, p.WriteThrough()) })
	}
	l.locateDropped(entries)
	return l, l.check()
}

// readSuperblock checks block 0 of the metadata area.
func (l *Loaded) readSuperblock(p *Params) error {
	m := int(p.Geometry.MetaBlockBytes)
	if IsZero(l.image.Meta[:m]) {
		if n, ok := firstUsedBlock(l.image.Meta, &p.Geometry); ok {
			return fmt.Errorf("the metadata superblock is zero, but metadata block %d has entries: it was lost, do not initialize this store; restore it from the parameters", n)
		}
		l.Superblock = p.MetaSuperblock(0)
		return nil
	}
	sb, warning, err := DecodeMetaSuperblock(l.image.Meta)
	if err != nil {
		return err
	}
	if warning != nil {
		l.Warnings = append(l.Warnings, warning)
	}
	l.Superblock = sb
	return sb.Match(p.MetaSuperblock(0))
}

// firstUsedBlock finds a block which holds something that looks like entries.
func firstUsedBlock(area []byte, g *Geometry) (uint32, bool) {
	m := int(g.MetaBlockBytes)
	for n := 0; (n+2)*m <= len(area); n++ {
		if g.BlockLooksUsed(area[(n+1)*m : (n+2)*m]) {
			return uint32(n), true
		}
	}
	return 0, false
}

// BlockLooksUsed tells whether a metadata block contains a plausible entry:
// one without a fault, or one flagged as garbage. A store whose superblock is
// zero may be initialized only if no block does (spec §2.3).
func (g *Geometry) BlockLooksUsed(block []byte) bool {
	for s := g.ScanBlock(block); s.Next(); {
		if s.Fault == NoFault {
			return true
		}
	}
	return false
}

// Parse reads all metadata blocks of an area and returns the entries that are
// not flagged as garbage, in the order of the blocks, and all faults.
func Parse(area []byte, g *Geometry) (entries []Located, faults []error) {
	m := int(g.MetaBlockBytes)
	for n := 0; (n+2)*m <= len(area); n++ {
		for s := g.ScanBlock(area[(n+1)*m : (n+2)*m]); s.Next(); {
			switch {
			case s.Fault != NoFault:
				faults = append(faults, s.Error(uint32(n)))
			case !s.Entry.Garbage():
				entries = append(entries, Located{s.Entry, uint32(n), s.Offset})
			}
		}
	}
	return entries, faults
}

// Chains groups entries by object: chains newest first, by ascending object.
func Chains(entries []Located) []Chain {
	all := make(Chain, len(entries))
	for i := range entries {
		all[i] = entries[i].Entry
	}
	slices.SortStableFunc(all, func(a, b Entry) int {
		if c := a.Object().Compare(b.Object()); c != 0 {
			return c
		}
		return b.Compare(a)
	})
	var chains []Chain
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].Object() == all[0].Object() {
			n++
		}
		chains = append(chains, all[:n:n])
		all = all[n:]
	}
	return chains
}

// buildObjects makes the objects; verify drops the unfinished entries of a
// chain.
func (l *Loaded) buildObjects(entries []Located, verify func(Chain) Chain) {
	for _, e := range entries {
		l.HighestLSN = max(l.HighestLSN, e.Entry.LSN())
	}
	for _, c := range Chains(entries) {
		id := c[0].Object()
		if verify != nil {
			c = verify(c)
		}
		live := c.Live()
		if len(live) == 0 || len(c) == 1 && c[0].Type() == Delete {
			continue // nothing left, or a DELETE with nothing under it
		}
		l.Objects = append(l.Objects, Object{id, live, c[len(live):]})
	}
}

// verify drops entries whose data was not written, with all newer ones, until
// nothing on top is suspect.
func (l *Loaded) verify(c Chain, writeThrough bool) Chain {
	for {
		bad := l.firstBad(c, writeThrough)
		if bad < 0 {
			return c
		}
		if bad == 0 && c.KeepsMismatch(l.g, writeThrough) {
			l.Warnings = append(l.Warnings, fmt.Errorf("object %v: the data of the last write (version %d) is damaged", c[0].Object(), c[0].Version()))
			return c
		}
		for _, e := range c[:bad+1] {
			l.Dropped = append(l.Dropped, Located{Entry: e})
		}
		c = c[bad+1:]
	}
}

// firstBad is the index of the oldest suspect that fails verification, or -1.
func (l *Loaded) firstBad(c Chain, writeThrough bool) int {
	completed := l.Superblock.CompletedLSN
	if !writeThrough {
		if i := c.SuspectRedirect(completed); i >= 0 && !l.g.RedirectMatches(c, i, l.block(c[i])) {
			return i
		}
	}
	for i := c.Suspects(completed) - 1; i >= 0; i-- {
		if data, ok := l.written(c, i); ok && !l.g.VerifyWrite(c[i], data) {
			return i
		}
	}
	return -1
}

// written is the data of the entry at index i of a chain; false if there is
// nothing to compare (no length, or no block under an intent).
func (l *Loaded) written(c Chain, i int) ([]byte, bool) {
	e := c[i]
	offset, length := e.Range()
	if length == 0 {
		return nil, false
	}
	base := e
	switch e.Type() {
	case SmallWrite:
		return l.image.Buffer[e.Location():][:length], true
	case IntentWrite:
		if base = c.Base(i); base == nil {
			return nil, false
		}
	}
	return l.block(base)[offset : offset+length], true
}

// block is the content of the data block of a BIG entry.
func (l *Loaded) block(e Entry) []byte {
	size := uint64(l.g.BlockBytes)
	return l.image.Data[uint64(e.Block())*size:][:size]
}

// locateDropped fills in the places of the dropped entries.
func (l *Loaded) locateDropped(entries []Located) {
	if len(l.Dropped) == 0 {
		return
	}
	places := make(map[*byte]Located, len(entries))
	for _, e := range entries {
		places[&e.Entry[0]] = e
	}
	for i, d := range l.Dropped {
		l.Dropped[i] = places[&d.Entry[0]]
	}
}

// check applies the chain rules and claims the space.
func (l *Loaded) check() error {
	for _, o := range l.Objects {
		for _, v := range o.Chain.Check() {
			if v.Fatal() {
				return v
			}
			l.Warnings = append(l.Warnings, v)
		}
		before := l.Claims.BlockCount
		if err := l.Claims.Add(o.Chain); err != nil {
			return err
		}
		if n := l.Claims.BlockCount - before; n != 0 {
			l.Space[o.ID.Inode] += n * uint64(l.g.BlockBytes)
		}
		for _, e := range o.Chain {
			l.LiveBytes += uint64(e.Bytes())
		}
	}
	return nil
}

// Content is an object version as read.
type Content struct {
	Version meta.Version
	Ext     meta.Bitmap
	Data    []byte // BlockBytes long
	// BadCsums are the checksum blocks of the base that do not match; those
	// that a newer small write touches are not checked.
	BadCsums []int
}

// Read returns the newest version <= limit of an object; nil if there is none.
func (l *Loaded) Read(o *Object, limit meta.Version) *Content {
	layers := o.Chain.Layers(nil, limit)
	if len(layers) == 0 {
		return nil
	}
	out := &Content{Version: layers[0].Version(), Ext: layers[0].ExtBitmap(l.g), Data: make([]byte, l.g.BlockBytes)}
	small := layers
	if base := layers[len(layers)-1]; base.IsBig() {
		small = layers[:len(layers)-1]
		l.readBase(out, base, small)
	}
	for i := len(small) - 1; i >= 0; i-- {
		at := slices.IndexFunc(o.Chain, func(e Entry) bool { return &e[0] == &small[i][0] })
		if data, ok := l.written(o.Chain, at); ok {
			copy(out.Data[small[i].Offset():], data)
		}
	}
	return out
}

// readBase copies the written granules of a BIG entry and checks its checksums.
func (l *Loaded) readBase(out *Content, base Entry, over Chain) {
	g, block, written := l.g, l.block(base), base.IntBitmap(l.g)
	for i := range g.Granules() {
		if at := i * int(g.GranuleBytes); written.Get(i) {
			copy(out.Data[at:at+int(g.GranuleBytes)], block[at:])
		}
	}
	for c := range g.CsumCount() {
		at := c * int(g.CsumBytes)
		if !over.overlap(uint32(at), g.CsumBytes) && !g.VerifyCsumBlock(base, c, block[at:at+int(g.CsumBytes)]) {
			out.BadCsums = append(out.BadCsums, c)
		}
	}
}
