package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"vitastor/osd/store/layout"
)

func (t *Tool) dumpMetaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dump-meta [--format data|old] OSD|DEV | FILE BLOCK OFFSET SIZE | LAYOUT OPTIONS", Short: "Dump the metadata of a store as JSON",
		Long: `Prints every entry of the metadata as JSON, without reading data. The OSD must be stopped.
  --format data   with the data of small writes which are still in the buffer area
  --format old    only the newest stable data block of every object, in format 0.9
FILE BLOCK OFFSET SIZE is a metadata area without superblock: its metadata block size, where it begins, its length.
Damaged entries are left out, named on standard error, and make the exit status 1.`,
		Example: examples("vitastor-disk dump-meta /dev/vitastor/osd1-data > meta.json", "vitastor-disk dump-meta --format data 1 > meta.json",
			"vitastor-disk dump-meta disk.img 4096 33554432 761856", "vitastor-disk dump-meta --data_device disk.img --journal_offset 0 --meta_offset 33554432 --data_offset 34316288"),
		Args: cobra.MaximumNArgs(4),
	}
	textOptions(cmd, append([]textOption{{"format", "entries (default), data or old"}}, layoutOptions...))
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return t.dumpMeta(given(cmd), args) }
	return cmd
}

func (t *Tool) dumpMeta(o layout.Options, args []string) error {
	format := layout.DumpEntries
	switch v := o.Text("format"); v {
	case "", "entries":
	case "data":
		format = layout.DumpData
	case "old":
		format = layout.DumpOld
	default:
		return fmt.Errorf("--format is %q, must be data or old", v)
	}
	delete(o, "format")
	src, err := t.metaSource(o, args, access{lock: true})
	if err != nil {
		return err
	}
	defer src.close()
	used, err := src.usedBlocks(t.progress("reading metadata", src.area.Bytes))
	if err != nil {
		return err
	}
	var buffer []byte
	if format == layout.DumpData {
		if src.osd == nil {
			return fmt.Errorf("--format data needs the buffer area: give a device with superblock, or the layout options")
		}
		buffer = make([]byte, src.osd.Params.Buffer.Bytes)
		if _, err := src.osd.Buffer.ReadAt(buffer, int64(src.osd.Params.Buffer.Offset)); err != nil {
			return err
		}
	}
	skipped, err := layout.DumpMeta(t.Out, &src.geometry, used.area, buffer, format)
	if err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	for _, fault := range skipped {
		t.note("%s: left out: %v", src.device.Path, used.realNumber(fault))
	}
	if len(skipped) > 0 {
		t.note("%s: run vitastor-disk check on the OSD to see what the damage means", src.device.Path)
		return errReported
	}
	return nil
}

// metaSource is a metadata area to read or write.
type metaSource struct {
	osd      *OSD // nil if only the area is known
	device   *Device
	area     layout.Area
	geometry layout.Geometry
	write    bool
}

func (m *metaSource) close() {
	if m.osd != nil {
		m.osd.Close()
	} else if m.device != nil {
		m.device.Close()
	}
}

// metaSource opens what the command line names: an OSD, a bare area, or a
// store described by options.
func (t *Tool) metaSource(o layout.Options, args []string, a access) (*metaSource, error) {
	switch {
	case len(args) == 4:
		return t.bareArea(args, a)
	case len(args) == 1 && len(o) == 0:
		s, err := t.openOSD(osdDevice(args[0]), a)
		if err != nil {
			return nil, err
		}
		return sourceOf(s), nil
	case len(args) <= 1:
		if len(args) == 1 && o.Text("data_device") == "" {
			o["data_device"] = args[0]
		}
		if o.Text("data_device") == "" {
			return nil, fmt.Errorf("give a device, FILE BLOCK OFFSET SIZE, or layout options with at least --data_device")
		}
		s, err := t.openStore(o, a)
		if err != nil {
			return nil, err
		}
		return sourceOf(s), nil
	}
	return nil, fmt.Errorf("%d arguments: give one device, or FILE BLOCK OFFSET SIZE", len(args))
}

func sourceOf(s *OSD) *metaSource {
	return &metaSource{osd: s, device: s.Meta, area: s.Params.Meta, geometry: s.Params.Geometry}
}

func (t *Tool) bareArea(args []string, a access) (*metaSource, error) {
	a.cached = t.cached
	d, err := openDevice(args[0], a)
	if err != nil {
		return nil, err
	}
	src := &metaSource{device: d, write: a.write}
	if err := src.measure(args); err != nil {
		src.close()
		return nil, err
	}
	return src, nil
}

// measure reads BLOCK OFFSET SIZE and the superblock of the area.
func (m *metaSource) measure(args []string) error {
	var sizes [3]uint64
	for i, name := range []string{"BLOCK", "OFFSET", "SIZE"} {
		var err error
		if sizes[i], err = layout.ParseSize(args[i+1]); err != nil {
			return fmt.Errorf("%s is %q: %w", name, args[i+1], err)
		}
	}
	m.area = layout.Area{Offset: sizes[1], Bytes: sizes[2]}
	if sizes[0] < layout.MetaSuperblockBytes || m.area.Bytes < 2*sizes[0] || m.area.Offset+m.area.Bytes > m.device.Bytes() {
		return fmt.Errorf("%s: block size %d, area of %d bytes at %d do not fit its %d bytes", args[0], sizes[0], sizes[2], sizes[1], m.device.Bytes())
	}
	head := make([]byte, layout.MetaSuperblockBytes)
	if _, err := m.device.ReadAt(head, int64(m.area.Offset)); err != nil {
		return err
	}
	if m.write {
		unmark(head)
	}
	sb, _, err := layout.DecodeMetaSuperblock(head)
	if err == nil {
		m.geometry, err = sb.Geometry()
	}
	if err == nil && uint64(m.geometry.MetaBlockBytes) != sizes[0] {
		err = fmt.Errorf("metadata block size is %d, not %d", m.geometry.MetaBlockBytes, sizes[0])
	}
	if err != nil {
		return fmt.Errorf("%s at %d: %w", args[0], m.area.Offset, err)
	}
	return nil
}

// usedBlocks are the metadata blocks that have something in them, behind each
// other: an area for layout.DumpMeta that does not take the memory of the
// empty ones.
type usedBlocks struct {
	area    []byte // superblock first
	numbers []uint32
}

func (m *metaSource) usedBlocks(p *progress) (*usedBlocks, error) {
	size := int(m.geometry.MetaBlockBytes)
	used := &usedBlocks{area: make([]byte, size)}
	empty := make([]byte, size)
	layout.EmptyBlock(empty)
	if _, err := m.device.ReadAt(used.area, int64(m.area.Offset)); err != nil {
		return nil, err
	}
	fresh := layout.IsZero(used.area)
	err := readBlocks(m.device, m.area, uint64(size), p, func(number uint32, b []byte) error {
		if s := m.geometry.ScanBlock(b); string(b) == string(empty) || !s.Next() || fresh && layout.IsZero(b) {
			return nil
		}
		used.area = append(used.area, b...)
		used.numbers = append(used.numbers, number)
		return nil
	})
	return used, err
}

// realNumber turns a fault of the packed area into one of the device.
func (u *usedBlocks) realNumber(fault error) error {
	var c *layout.CorruptError
	if errors.As(fault, &c) && int(c.Block) < len(u.numbers) {
		real := *c
		real.Block = u.numbers[c.Block]
		return &real
	}
	return fault
}

func (t *Tool) writeMetaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "write-meta OSD|DEV | FILE BLOCK OFFSET SIZE | LAYOUT OPTIONS", Short: "Replace the metadata of a store by a dump",
		Long: `Reads a dump of dump-meta from standard input, checks all of it, and then replaces the metadata of a stopped OSD
by it. Data is not touched, except that the data of small writes is written back if the dump has it. If it is
interrupted, the store refuses to start until write-meta is run again.`,
		Example: examples("vitastor-disk dump-meta --format data 1 > meta.json", "vitastor-disk write-meta 1 < meta.json"),
		Args:    cobra.MaximumNArgs(4),
	}
	textOptions(cmd, layoutOptions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return t.writeMeta(given(cmd), args) }
	return cmd
}

func (t *Tool) writeMeta(o layout.Options, args []string) error {
	dst, err := t.metaSource(o, args, access{write: true, lock: true, exclusive: true})
	if err != nil {
		return err
	}
	defer dst.close()
	params := dst.params()
	dump, done, err := spool(t.In)
	if err != nil {
		return err
	}
	defer done()
	// First pass: nothing is overwritten by a dump that is not good.
	result, err := layout.RestoreMeta(dump, params, layout.RestoreSink{
		Block:  func(uint32, []byte) error { return nil },
		Buffer: func(uint64, []byte) error { return nil }})
	if err != nil {
		return fmt.Errorf("standard input: %w; %s was not changed", err, dst.device.Path)
	}
	if _, err := dump.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	if err := dst.restore(dump, params, result.HighestLSN, t.progress("writing metadata", dst.area.Bytes)); err != nil {
		return err
	}
	t.note("%s: %d objects, %d entries written", dst.device.Path, result.Objects, result.Entries)
	return nil
}

// params of the target. For a bare area the limits of the data and buffer
// areas are not known.
func (m *metaSource) params() *layout.Params {
	if m.osd != nil {
		return m.osd.Params
	}
	g := m.geometry
	g.BufferBytes = 1 << 40
	return &layout.Params{Geometry: g, Meta: m.area, MetaBlocks: uint32(m.area.Bytes/uint64(g.MetaBlockBytes) - 1)}
}

// spool makes the input readable twice.
func spool(in io.Reader) (dump *os.File, done func(), err error) {
	if f, ok := in.(*os.File); ok {
		if at, err := f.Seek(0, io.SeekCurrent); err == nil && at == 0 {
			return f, func() {}, nil
		}
	}
	f, err := os.CreateTemp("", "vitastor-disk-*.json")
	if err != nil {
		return nil, nil, fmt.Errorf("a copy of standard input is needed: %w: set TMPDIR to a folder with enough room, or read from a file", err)
	}
	os.Remove(f.Name())
	if _, err = io.Copy(f, in); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("cannot copy standard input: %w", err)
	}
	return f, func() { f.Close() }, nil
}

// A metadata superblock has this in place of its magic while the metadata is
// being replaced: no store starts with it, and none takes it for an empty one.
// The rest stays, so that the replacement can be repeated.
const (
	restoring = "RESTORE!"
	metaMagic = "VITAstor"
	magicAt   = 8
)

// unmark undoes the mark in the bytes of a superblock.
func unmark(head []byte) {
	if string(head[magicAt:magicAt+len(restoring)]) == restoring {
		copy(head[magicAt:], metaMagic)
	}
}

// restore writes the metadata: superblock invalidated, blocks and buffered
// data, then the superblock, with a sync between them.
func (m *metaSource) restore(dump io.Reader, p *layout.Params, highest layout.LSN, show *progress) error {
	defer show.done()
	size := int64(p.Geometry.MetaBlockBytes)
	head := make([]byte, size)
	if _, err := m.device.ReadAt(head, int64(m.area.Offset)); err != nil {
		return err
	}
	unmark(head)
	completed := layout.LSN(0)
	if old, _, err := layout.DecodeMetaSuperblock(head); err == nil {
		completed = min(old.CompletedLSN, highest)
	}
	marker := bytes.Clone(head)
	copy(marker[magicAt:], restoring)
	if err := m.put(marker); err != nil {
		return err
	}
	w := &blockWriter{d: m.device, at: int64(m.area.Offset) + size}
	sink := layout.RestoreSink{Block: func(number uint32, b []byte) error {
		show.at(uint64(number) * uint64(size))
		return w.add(b)
	}}
	if m.osd != nil {
		sink.Buffer = func(location uint64, data []byte) error {
			_, err := m.osd.Buffer.WriteAt(data, int64(p.Buffer.Offset+location))
			return err
		}
	}
	if _, err := layout.RestoreMeta(dump, p, sink); err != nil {
		return fmt.Errorf("%s: interrupted, the store does not start until write-meta is repeated: %w", m.device.Path, err)
	}
	if err := w.flush(); err != nil {
		return err
	}
	if m.osd != nil {
		if err := m.osd.Buffer.Sync(); err != nil {
			return err
		}
	}
	sb := p.MetaSuperblock(completed)
	clear(head[:layout.MetaSuperblockBytes])
	sb.Put(head)
	if err := m.device.Sync(); err != nil {
		return err
	}
	return m.put(head)
}

// put writes and syncs block 0 of the area.
func (m *metaSource) put(block []byte) error {
	if _, err := m.device.WriteAt(block, int64(m.area.Offset)); err != nil {
		return err
	}
	return m.device.Sync()
}

// blockWriter joins small writes that follow each other.
type blockWriter struct {
	d   *Device
	at  int64
	buf []byte
}

func (w *blockWriter) add(b []byte) error {
	w.buf = append(w.buf, b...)
	if len(w.buf) >= bounceBytes/2 {
		return w.flush()
	}
	return nil
}

func (w *blockWriter) flush() error {
	n, err := w.d.WriteAt(w.buf, w.at)
	w.at, w.buf = w.at+int64(n), w.buf[:0]
	return err
}

// sizeArgument reads a size with the name of its option.
func sizeArgument(name, text string) (uint64, error) {
	v, err := layout.ParseSize(text)
	if err != nil {
		return 0, fmt.Errorf("--%s is %s: %w", name, strconv.Quote(text), err)
	}
	return v, nil
}
