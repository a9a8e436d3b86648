package disk

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

func (t *Tool) checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check [--json] [--no-data] OSD|DEV | LAYOUT OPTIONS", Short: "Verify a stopped store",
		Long: `Reads everything that a start of the OSD reads, and all data with checksums, and reports what is wrong, what it means
and what to do. Nothing is written. The OSD must be stopped. --no-data leaves out the data and checks the metadata only.
The exit status is 0 if the store is sound; warnings and notes do not count.`,
		Example: examples("vitastor-disk check /dev/vitastor/osd1-data", "vitastor-disk check --json 1", "vitastor-disk check --no-data disk.img"),
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().Bool("no_data", false, "do not read data")
	textOptions(cmd, layoutOptions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := t.check(given(cmd), args, flag(cmd, "no_data"))
		if err != nil {
			return err
		}
		t.showReport(r)
		if r.bad() {
			return errReported
		}
		return nil
	}
	return cmd
}

// check opens a store and verifies it. What is wrong with the store is in the
// report; the error is about the devices.
func (t *Tool) check(o layout.Options, args []string, noData bool) (*report, error) {
	src, err := t.metaSource(o, args, access{lock: true})
	if err != nil {
		return nil, err
	}
	defer src.close()
	s := src.osd
	c := &checker{t: t, s: s, p: s.Params, g: &s.Params.Geometry, r: &report{osd: s.Params.OSDNum, noData: noData}}
	c.r.describe(s)
	if len(o) == 0 {
		c.superblocks()
	}
	if c.metaSuperblock() && c.metadata() {
		c.objects()
		if !noData {
			c.data()
		}
	}
	return c.r, nil
}

// checker verifies one store.
type checker struct {
	t *Tool
	s *OSD
	p *layout.Params
	g *layout.Geometry
	r *report

	completed layout.LSN
	entries   []layout.Located // copies, garbage left out
	claims    *layout.Claims
	jobs      []dataJob
}

// superblocks compares the copies on the devices.
func (c *checker) superblocks() {
	want := string(c.s.Options.JSON())
	for _, d := range c.s.devices {
		o, _, err := d.superblock(false)
		switch {
		case err != nil:
			c.r.add(problem{kind: "superblock", device: d.Path, what: err.Error()})
		case string(withFormat(o).JSON()) != want:
			c.r.add(problem{kind: "superblock-differs", device: d.Path, what: "is not the same as on " + c.s.Data.Path})
		}
	}
}

// withFormat is what OSD.open does to options.
func withFormat(o layout.Options) layout.Options {
	if o.Text("meta_format") == "" {
		o["meta_format"] = "3"
	}
	return o
}

// metaSuperblock checks block 0 of the metadata area and tells whether the
// rest has a meaning.
func (c *checker) metaSuperblock() bool {
	at := c.p.Meta.Offset
	head := make([]byte, c.g.MetaBlockBytes)
	if !c.read(c.s.Meta, head, at) {
		return false
	}
	if layout.IsZero(head) {
		return c.zeroSuperblock()
	}
	place := problem{kind: "meta-superblock", device: c.s.Meta.Path, offset: at, placed: true}
	if string(head[magicAt:magicAt+len(restoring)]) == restoring {
		place.kind, place.what = "restore-interrupted", "write-meta or resize was interrupted here"
		c.r.add(place)
		return false
	}
	sb, warning, err := layout.DecodeMetaSuperblock(head)
	if err == nil {
		err = sb.Match(c.p.MetaSuperblock(0))
	}
	if err != nil {
		place.what = err.Error()
		c.r.add(place)
		return false
	}
	if warning != nil {
		place.kind, place.what = "meta-superblock-crc", warning.Error()
		c.r.add(place)
	}
	c.completed, c.r.completed = sb.CompletedLSN, sb.CompletedLSN
	return true
}

// zeroSuperblock tells a new store from one that has lost its superblock.
func (c *checker) zeroSuperblock() bool {
	found := errors.New("found")
	used := uint32(0)
	err := c.s.metaReader(c.t.progress("reading metadata", c.p.Meta.Bytes), func(number uint32, b []byte) error {
		if c.g.BlockLooksUsed(b) {
			used = number
			return found
		}
		return nil
	})
	switch {
	case errors.Is(err, found):
		c.r.add(problem{kind: "meta-superblock-lost", device: c.s.Meta.Path, offset: c.p.Meta.Offset, placed: true,
			what: fmt.Sprintf("the metadata superblock is zero, but metadata block %d has entries", used)})
	case err != nil:
		c.r.add(problem{kind: "read-error", device: c.s.Meta.Path, what: err.Error()})
	default:
		c.r.add(problem{kind: "not-initialized", device: c.s.Meta.Path, what: "the store was never started"})
	}
	return false
}

// read reports a failed read.
func (c *checker) read(d *Device, b []byte, at uint64) bool {
	if _, err := d.ReadAt(b, int64(at)); err != nil {
		c.r.add(problem{kind: "read-error", device: d.Path, offset: at, placed: true, what: err.Error()})
		return false
	}
	return true
}

// metadata reads all blocks and keeps copies of the entries.
func (c *checker) metadata() bool {
	var arena []byte
	err := c.s.metaReader(c.t.progress("reading metadata", c.p.Meta.Bytes), func(number uint32, b []byte) error {
		filled := false
		for scan := c.g.ScanBlock(b); scan.Next(); {
			filled = true
			if scan.Fault != layout.NoFault {
				c.fault(number, &scan)
				continue
			}
			if scan.Entry.Garbage() {
				c.r.garbage++
				continue
			}
			if len(arena)+len(scan.Entry) > cap(arena) {
				arena = make([]byte, 0, 1<<20)
			}
			from := len(arena)
			arena = append(arena, scan.Entry...)
			c.entries = append(c.entries, layout.Located{Entry: layout.Entry(arena[from:len(arena):len(arena)]), Block: number, Offset: scan.Offset})
		}
		if filled {
			c.r.usedMetaBlocks++
		}
		return nil
	})
	if err != nil {
		c.r.add(problem{kind: "read-error", device: c.s.Meta.Path, what: err.Error()})
	}
	c.r.entries = uint64(len(c.entries))
	for _, e := range c.entries {
		c.r.highest = max(c.r.highest, e.Entry.LSN())
	}
	return true
}

// fault reports a place that does not parse.
func (c *checker) fault(number uint32, scan *layout.BlockScan) {
	kind := "entry-damaged"
	switch {
	case scan.Fault.EndsBlock():
		kind = "block-damaged"
	case scan.Fault == layout.FaultBlockNum:
		kind = "block-out-of-range"
	}
	c.r.add(problem{kind: kind, device: c.s.Meta.Path, offset: c.p.MetaBlockOffset(number) + uint64(scan.Offset), placed: true,
		what: scan.Error(number).Error()})
}

// objects builds the chains, verifies unfinished writes, applies the rules and
// claims the space.
func (c *checker) objects() {
	c.claims = c.g.NewClaims()
	c.r.space = map[meta.Inode]uint64{}
	var chains []layout.Chain
	for _, all := range layout.Chains(c.entries) {
		kept := c.verify(all)
		live := kept.Live()
		if len(live) == 0 || len(kept) == 1 && kept[0].Type() == layout.Delete {
			continue
		}
		chains = append(chains, live)
		c.rules(live)
		c.count(live)
		c.planData(live, kept[len(live):])
	}
	c.claim(chains)
	c.r.dataUsed = c.claims.BlockCount * uint64(c.g.BlockBytes)
	c.r.bufferUsed = c.claims.GranuleCount * uint64(c.g.GranuleBytes)
}

func (c *checker) rules(live layout.Chain) {
	for _, v := range live.Check() {
		kind := "chain"
		if !v.Fatal() {
			kind = "chain-old-release"
		} else if v.Rule == 4 {
			kind = "base-missing"
		}
		c.r.add(problem{kind: kind, object: &v.Object, what: v.Error()})
	}
}

func (c *checker) count(live layout.Chain) {
	versions := live.Versions(nil)
	if len(versions) > 0 {
		c.r.objects++
		if !versions[len(versions)-1].Stable || len(versions) > 1 {
			c.r.unstable++
		}
	}
	for _, e := range live {
		c.r.liveBytes += uint64(e.Bytes())
	}
}

// claim finds space that two entries use. The chains were built in the order
// of their objects; on a conflict both sides are named.
func (c *checker) claim(chains []layout.Chain) {
	for _, live := range chains {
		before := c.claims.BlockCount
		err := c.claims.Add(live)
		c.r.space[live[0].Object().Inode] += (c.claims.BlockCount - before) * uint64(c.g.BlockBytes)
		if err == nil {
			continue
		}
		id := live[0].Object()
		c.r.add(problem{kind: "double-claim", object: &id, what: err.Error() + c.otherClaim(chains, live)})
	}
}

// otherClaim names an object that uses the same space as one of live.
func (c *checker) otherClaim(chains []layout.Chain, live layout.Chain) string {
	for _, other := range chains {
		if &other[0][0] == &live[0][0] {
			continue
		}
		for _, a := range live {
			for _, b := range other {
				if a.IsBig() && b.IsBig() && a.Block() == b.Block() || sameBuffer(a, b) {
					return fmt.Sprintf("; the other one is %v version %d (lsn %d)", b.Object(), uint64(b.Version()), b.LSN())
				}
			}
		}
	}
	return ""
}

func sameBuffer(a, b layout.Entry) bool {
	return a.Type() == layout.SmallWrite && b.Type() == layout.SmallWrite &&
		a.Location() < b.Location()+uint64(b.Len()) && b.Location() < a.Location()+uint64(a.Len())
}

// verify does what a start does with writes that may be unfinished: drops them
// with everything newer (spec ondisk.md §7.1 steps 6-8).
func (c *checker) verify(chain layout.Chain) layout.Chain {
	for {
		bad := c.firstBad(chain)
		if bad < 0 {
			return chain
		}
		id := chain[0].Object()
		if bad == 0 && chain.KeepsMismatch(c.g, c.p.WriteThrough()) {
			c.r.add(problem{kind: "last-write-damaged", object: &id, what: fmt.Sprintf("the data of %v does not match its checksum", chain[0])})
			return chain
		}
		for _, e := range chain[:bad+1] {
			c.r.dropped++
			c.r.add(problem{kind: "unfinished-write", object: &id, what: fmt.Sprintf("%v: the data was not written", e)})
		}
		chain = chain[bad+1:]
	}
}

// firstBad is the index of the oldest suspect that fails, or -1.
func (c *checker) firstBad(chain layout.Chain) int {
	if !c.p.WriteThrough() {
		if i := chain.SuspectRedirect(c.completed); i >= 0 {
			block := make([]byte, c.g.BlockBytes)
			if c.read(c.s.Data, block, c.p.DataOffset(chain[i].Block())) && !c.g.RedirectMatches(chain, i, block) {
				return i
			}
		}
	}
	for i := chain.Suspects(c.completed) - 1; i >= 0; i-- {
		if data, ok := c.written(chain, i); ok && !c.g.VerifyWrite(chain[i], data) {
			return i
		}
	}
	return -1
}

// written reads the data of entry i of a chain; false if there is nothing to
// compare.
func (c *checker) written(chain layout.Chain, i int) ([]byte, bool) {
	e := chain[i]
	offset, length := e.Range()
	if length == 0 {
		return nil, false
	}
	data := make([]byte, length)
	if e.Type() == layout.SmallWrite {
		return data, c.read(c.s.Buffer, data, c.p.Buffer.Offset+e.Location())
	}
	base := e
	if e.Type() == layout.IntentWrite {
		if base = chain.Base(i); base == nil {
			return nil, false
		}
	}
	return data, c.read(c.s.Data, data, c.p.DataOffset(base.Block())+uint64(offset))
}

// dataJob is data to be compared with checksums: a block with what is written
// over it, or one small write.
type dataJob struct {
	at    uint64       // for the order of reading: byte on the device
	small bool         // in the buffer area
	entry layout.Entry // small write, or BIG entry
	over  layout.Chain // entries over a BIG entry, newest first
	old   layout.Chain // what is under it
}

// planData collects what the visible entries of an object refer to. What lies
// under a stable block is never read again and waits to be removed: it may be
// what a scrub has found damaged and repaired by a newer version.
func (c *checker) planData(live, old layout.Chain) {
	for w := live.Walk(); w.Next(); {
		e := w.Entry
		switch {
		case e.IsBig() && c.g.CsumBytes != 0:
			c.jobs = append(c.jobs, dataJob{at: c.p.DataOffset(e.Block()), entry: e, over: live[:w.Index], old: old})
		case e.Type() == layout.SmallWrite && e.Len() != 0:
			c.jobs = append(c.jobs, dataJob{at: c.p.Buffer.Offset + e.Location(), small: true, entry: e})
		}
		if e.IsBig() && w.Stable {
			return
		}
	}
}

// data reads everything that has checksums, in the order of the device.
func (c *checker) data() {
	slices.SortFunc(c.jobs, func(a, b dataJob) int {
		if a.small != b.small {
			if a.small {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.at, b.at)
	})
	total := uint64(0)
	for _, j := range c.jobs {
		total += c.jobBytes(j)
	}
	show := c.t.progress("verifying data", total)
	defer show.done()
	buf := make([]byte, c.g.BlockBytes)
	for _, j := range c.jobs {
		data := buf[:c.jobBytes(j)]
		dev := c.s.Data
		if j.small {
			dev = c.s.Buffer
		}
		if c.read(dev, data, j.at) {
			c.r.dataChecked += uint64(len(data))
			c.compare(j, data)
		}
		show.at(c.r.dataChecked)
	}
}

func (c *checker) jobBytes(j dataJob) uint64 {
	if j.small {
		return uint64(j.entry.Len())
	}
	return uint64(c.g.BlockBytes)
}

// compare checks one piece of data.
func (c *checker) compare(j dataJob, data []byte) {
	id := j.entry.Object()
	if j.small {
		if !c.g.VerifyWrite(j.entry, data) {
			c.r.add(problem{kind: "data-checksum", device: c.s.Buffer.Path, offset: j.at, placed: true, object: &id,
				what: fmt.Sprintf("buffered data of version %d, bytes %d+%d of the object", uint64(j.entry.Version()), j.entry.Offset(), j.entry.Len())})
		}
		return
	}
	if c.r.damaged[id] && len(j.over) == 0 {
		return // reported as last-write-damaged
	}
	size := int(c.g.CsumBytes)
	for i := range c.g.CsumCount() {
		part := data[i*size:][:size]
		if over := newestOver(j.over, uint32(i*size), uint32(size)); over != nil && c.matchesIntent(over, uint32(i*size), part) ||
			over == nil && c.g.VerifyCsumBlock(j.entry, i, part) {
			continue
		}
		kind := "data-checksum"
		if c.lostCopy(j, uint32(i*size), uint32(size)) {
			kind = "copy-lost"
		}
		c.r.add(problem{kind: kind, device: c.s.Data.Path, offset: j.at + uint64(i*size), placed: true, object: &id,
			what: fmt.Sprintf("version %d, bytes %d+%d of the object", uint64(j.entry.Version()), i*size, size)})
	}
}

// newestOver is the newest entry that writes into a range: the checksum of the
// block under it may be outdated there.
func newestOver(over layout.Chain, offset, n uint32) layout.Entry {
	for _, e := range over {
		if at, length := e.Range(); e.IsSmall() && length != 0 && at < offset+n && offset < at+length {
			return e
		}
	}
	return nil
}

// matchesIntent compares a checksum block with what an in-place write has put
// there. Under a small write the block may be anything: compaction may have
// begun to copy.
func (c *checker) matchesIntent(e layout.Entry, offset uint32, data []byte) bool {
	if e.Type() != layout.IntentWrite || c.g.CsumBytes != c.g.GranuleBytes {
		return true
	}
	return layout.CRC(data) == e.Csums(c.g).At(int((offset-e.Offset())/c.g.CsumBytes))
}

// lostCopy tells whether a mismatch is explained by a copy of compaction that
// was lost in a power failure, and the data is still in the buffer area: a
// start copies it again (spec ondisk.md §7.3, D3).
func (c *checker) lostCopy(j dataJob, offset, n uint32) bool {
	if c.p.WriteThrough() {
		return false
	}
	base, sources := append(layout.Chain{j.entry}, j.old...).CopySources()
	if base == nil {
		return false
	}
	for _, e := range sources {
		from := int(e.Location() / uint64(c.g.GranuleBytes))
		if newestOver(layout.Chain{e}, offset, n) == nil || c.claims.Granules.Any(from, from+int(e.Len()/c.g.GranuleBytes)) {
			continue
		}
		data := make([]byte, e.Len())
		if _, err := c.s.Buffer.ReadAt(data, int64(c.p.Buffer.Offset+e.Location())); err == nil && c.g.VerifyWrite(e, data) {
			return true
		}
	}
	return false
}
