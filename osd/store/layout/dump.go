package layout

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
)

// DumpFormat is how DumpMeta prints a store.
type DumpFormat int

// The formats of the tool command dump-meta.
const (
	DumpEntries DumpFormat = iota // every entry
	DumpData                      // every entry, with the data of small writes
	DumpOld                       // newest stable data block of every object, as of format 0.9
)

// Names of the entry types in dumps, by EntryType.
var dumpTypes = [8]string{"", "big", "small", "intent", "big_intent", "delete", "commit", "rollback"}

// Geometry is that of a store of which only the metadata is at hand: sizes
// from the superblock, areas without limits. NewClaims must not be used on it.
func (s *MetaSuperblock) Geometry() (Geometry, error) {
	if s.CsumType != 0 && s.CsumType != CsumTypeCRC32C {
		return Geometry{}, fmt.Errorf("metadata superblock: data_csum_type is %#x, only 0 and %#x are supported", s.CsumType, CsumTypeCRC32C)
	}
	if (s.CsumType == 0) != (s.CsumBytes == 0) {
		return Geometry{}, fmt.Errorf("metadata superblock: data_csum_type is %#x with csum_block_size %d", s.CsumType, s.CsumBytes)
	}
	return Geometry{BlockBytes: s.BlockBytes, GranuleBytes: s.GranuleBytes, MetaBlockBytes: s.MetaBlockBytes, CsumBytes: s.CsumBytes,
		BlockCount: MaxBlockCount, BufferBytes: 1 << 62}.Complete()
}

// DumpMeta prints the entries of a metadata area as JSON (spec §14), one line
// per object: also overwritten entries, and without verifying data. Corrupt
// entries are left out and returned as skipped. buffer is the buffer area,
// needed only for DumpData.
//
// Compat: release 3.0.8 leaves out offset, len and location with DumpData and
// the checksums of intents; they are printed here, so that RestoreMeta gives
// back the same entries.
func DumpMeta(w io.Writer, g *Geometry, area, buffer []byte, format DumpFormat) (skipped []error, err error) {
	entries, skipped := Parse(area, g)
	out := bufio.NewWriter(w)
	version, csum := "3.0", "none"
	if format == DumpOld {
		version = "0.9"
	}
	if g.CsumBytes != 0 {
		csum = "crc32c"
	}
	fmt.Fprintf(out, `{"version":"%s","meta_block_size":%d,"data_block_size":%d,"bitmap_granularity":%d,"data_csum_type":"%s","csum_block_size":%d,"entries":[`,
		version, g.MetaBlockBytes, g.BlockBytes, g.GranuleBytes, csum, g.CsumBytes)
	d := dumper{g: g, buffer: buffer, format: format}
	separator := "\n"
	for _, c := range Chains(entries) {
		d.line = d.line[:0]
		if format == DumpOld {
			d.old(c)
		} else {
			d.object(c)
		}
		if len(d.line) == 0 {
			continue
		}
		out.WriteString(separator)
		out.Write(d.line)
		separator = ",\n"
	}
	out.WriteString("\n]}\n")
	return skipped, out.Flush()
}

// dumper builds the JSON of one object at a time.
type dumper struct {
	g      *Geometry
	buffer []byte
	format DumpFormat
	line   []byte
}

func (d *dumper) printf(format string, args ...any) { d.line = fmt.Appendf(d.line, format, args...) }

func (d *dumper) number(key string, v uint64) {
	d.line = strconv.AppendUint(append(append(append(d.line, ',', '"'), key...), '"', ':'), v, 10)
}

func (d *dumper) hex(key string, b []byte) {
	d.line = append(append(append(d.line, ',', '"'), key...), '"', ':', '"')
	d.line = append(hex.AppendEncode(d.line, b), '"')
}

func (d *dumper) object(c Chain) {
	id := c[0].Object()
	d.printf(`{"pool":%d,"inode":"%#x","stripe":"%#x","writes":[`, id.Inode.Pool(), id.Inode.Number(), id.Stripe)
	for i, e := range c {
		if i > 0 {
			d.line = append(d.line, ',')
		}
		d.entry(e)
	}
	d.line = append(d.line, "]}"...)
}

func (d *dumper) entry(e Entry) {
	t, g := e.Type(), d.g
	d.printf(`{"lsn":%d,"version":%d,"type":"%s","stable":%t`, e.LSN(), uint64(e.Version()), dumpTypes[t], e.Stable())
	switch t {
	case BigWrite, BigIntent:
		d.number("location", uint64(e.Block())*uint64(g.BlockBytes))
	case SmallWrite:
		d.number("location", e.Location())
	case IntentWrite:
	default:
		d.line = append(d.line, '}')
		return
	}
	offset, length := e.Range()
	if t != BigWrite {
		d.number("offset", uint64(offset))
		d.number("len", uint64(length))
	}
	if at := e.Location(); t == SmallWrite && d.format == DumpData && at+uint64(length) <= uint64(len(d.buffer)) {
		d.hex("data", d.buffer[at:at+uint64(length)])
	}
	if e.IsBig() {
		d.hex("bitmap", e.IntBitmap(g))
	}
	d.hex("ext_bitmap", e.ExtBitmap(g))
	if g.CsumBytes != 0 {
		d.hex("block_csums", e.Csums(g))
	}
	switch {
	case t == BigIntent, g.CsumBytes == 0 && e.IsSmall() && length > 0:
		d.printf(`,"data_crc32c":"%08x"`, e.Csums(g).At(0))
	}
	d.line = append(d.line, '}')
}

// old prints the newest stable block of an object; nothing if it has none.
func (d *dumper) old(c Chain) {
	for w := c.Walk(); w.Next(); {
		e := w.Entry
		if !w.Stable || !e.IsBig() {
			continue
		}
		id := e.Object()
		d.printf(`{"block":%d,"pool":%d,"inode":"%#x","stripe":"%#x","version":%d`,
			e.Block(), id.Inode.Pool(), id.Inode.Number(), id.Stripe, uint64(e.Version()))
		d.hex("bitmap", e.IntBitmap(d.g))
		d.hex("ext_bitmap", e.ExtBitmap(d.g))
		if d.g.CsumBytes != 0 {
			d.hex("block_csums", e.Csums(d.g))
		}
		d.line = append(d.line, '}')
		return
	}
}
