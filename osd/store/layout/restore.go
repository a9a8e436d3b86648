package layout

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"vitastor/internal/meta"
)

// RestoreSink takes what RestoreMeta makes. The bytes are reused after the
// call.
type RestoreSink struct {
	// Block gets every metadata block once, by ascending number. Sync them,
	// then write the superblock.
	Block func(number uint32, block []byte) error
	// Buffer gets the data of small writes which the dump contains; nil if
	// they stay where they are.
	Buffer func(location uint64, data []byte) error
}

// Restored tells what a dump contained.
type Restored struct {
	Objects, Entries uint64
	HighestLSN       LSN
}

// RestoreMeta is the inverse of DumpMeta: it reads a dump of version 3.0 or
// 0.9 and makes the metadata blocks of a store with parameters p, object by
// object, so that memory does not grow with the dump except for the map of
// claimed space. Everything a start would refuse is an error here. The
// entries of a dump of version 0.9 become stable BIG_WRITE entries.
func RestoreMeta(r io.Reader, p *Params, sink RestoreSink) (Restored, error) {
	m := &restorer{p: p, g: &p.Geometry, sink: sink, claims: p.Geometry.NewClaims()}
	m.block = make([]byte, m.g.MetaBlockBytes)
	m.builder = NewBlockBuilder(m.block)
	d := json.NewDecoder(r)
	d.UseNumber()
	if err := m.document(d); err != nil {
		return m.done, fmt.Errorf("dump, near byte %d: %w", d.InputOffset(), err)
	}
	for m.number < p.MetaBlocks {
		if err := m.flush(); err != nil {
			return m.done, err
		}
	}
	return m.done, nil
}

// restorer packs objects into blocks as they come.
type restorer struct {
	p       *Params
	g       *Geometry
	sink    RestoreSink
	claims  *Claims
	block   []byte
	builder BlockBuilder
	number  uint32 // of the block that is being filled
	done    Restored
}

// document reads the outer object key by key; only "entries" is long.
func (m *restorer) document(d *json.Decoder) error {
	if err := expectDelim(d, '{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		seen[name] = true
		switch name {
		case "entries":
			err = m.entries(d)
		default:
			var v any
			if err = d.Decode(&v); err == nil {
				err = m.header(name, v)
			}
		}
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"version", "entries", "data_block_size", "bitmap_granularity"} {
		if !seen[name] {
			return fmt.Errorf("%q is missing: not a metadata dump", name)
		}
	}
	return expectDelim(d, '}')
}

func expectDelim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("found %v, expected %v", t, want)
	}
	return err
}

// header compares what the dump says about its store with the target.
func (m *restorer) header(name string, v any) error {
	csumType := "none"
	if m.g.CsumBytes != 0 {
		csumType = "crc32c"
	}
	want := ""
	switch name {
	case "version":
		if s := fmt.Sprint(v); s != "3.0" && s != "0.9" {
			return fmt.Errorf("version is %s, only 3.0 and 0.9 are supported", s)
		}
		return nil
	case "data_block_size":
		want = fmt.Sprint(m.g.BlockBytes)
	case "bitmap_granularity":
		want = fmt.Sprint(m.g.GranuleBytes)
	case "data_csum_type":
		want = csumType
	case "csum_block_size":
		want = fmt.Sprint(m.g.CsumBytes)
	case "journal":
		if list, ok := v.([]any); !ok || len(list) != 0 {
			return fmt.Errorf("the dump has a journal of an old store: flush it with the old release before dumping")
		}
		return nil
	default: // meta_block_size may differ: entries are packed again
		return nil
	}
	if fmt.Sprint(v) != want {
		return fmt.Errorf("%s of the dump is %v, that of the target %s: they must be equal", name, v, want)
	}
	return nil
}

func (m *restorer) entries(d *json.Decoder) error {
	if err := expectDelim(d, '['); err != nil {
		return err
	}
	for d.More() {
		var o dumpObject
		if err := d.Decode(&o); err != nil {
			return err
		}
		if err := m.object(&o); err != nil {
			return fmt.Errorf("object pool %d inode %#x stripe %#x: %w", o.Pool, uint64(o.Inode), uint64(o.Stripe), err)
		}
	}
	return expectDelim(d, ']')
}

// object encodes the entries of an object, checks them together and packs them.
func (m *restorer) object(o *dumpObject) error {
	if o.Pool == 0 || meta.PoolID(o.Pool) > meta.MaxPoolID || uint64(o.Inode) > meta.MaxInodeNumber {
		return fmt.Errorf("invalid pool or inode number")
	}
	writes := o.Writes
	if writes == nil {
		if o.Block == nil {
			return fmt.Errorf("neither writes nor block")
		}
		o.dumpWrite.Type, o.dumpWrite.Stable = "big", true
		o.dumpWrite.LSN = uint64(m.done.HighestLSN) + 1
		o.dumpWrite.Location = *o.Block * uint64(m.g.BlockBytes)
		writes = []dumpWrite{o.dumpWrite}
	}
	id := meta.ObjectID{Inode: meta.MakeInode(meta.PoolID(o.Pool), uint64(o.Inode)), Stripe: uint64(o.Stripe)}
	chain := make(Chain, 0, len(writes))
	for i := range writes {
		w := &writes[i]
		e, err := w.encode(m.g, id)
		if err != nil {
			return fmt.Errorf("write with lsn %d, type %q: %w", w.LSN, w.Type, err)
		}
		if len(w.Data) != 0 && m.sink.Buffer != nil && e.Type() == SmallWrite {
			if err := m.sink.Buffer(e.Location(), w.Data); err != nil {
				return err
			}
		}
		chain = append(chain, e)
		m.done.HighestLSN = max(m.done.HighestLSN, e.LSN())
	}
	return m.add(chain)
}

func (m *restorer) add(chain Chain) error {
	chain.Sort()
	for _, v := range chain.Check() {
		if v.Fatal() {
			return v
		}
	}
	if err := m.claims.Add(chain); err != nil {
		return err
	}
	for _, e := range chain {
		if m.builder.Add(e) == nil {
			if err := m.flush(); err != nil {
				return err
			}
			m.builder.Add(e)
		}
		m.done.Entries++
	}
	m.done.Objects++
	return nil
}

// flush hands out the block and begins the next one.
func (m *restorer) flush() error {
	if m.number >= m.p.MetaBlocks {
		return fmt.Errorf("the entries do not fit the %d metadata blocks of the target: use a larger metadata area", m.p.MetaBlocks)
	}
	if err := m.sink.Block(m.number, m.builder.Finish()); err != nil {
		return err
	}
	m.number++
	m.builder = NewBlockBuilder(m.block)
	return nil
}

// dumpObject is an element of "entries": of version 3.0 with writes, of 0.9
// with the fields of one BIG_WRITE.
type dumpObject struct {
	Pool   uint32      `json:"pool"`
	Inode  dumpNumber  `json:"inode"`
	Stripe dumpNumber  `json:"stripe"`
	Writes []dumpWrite `json:"writes"`
	Block  *uint64     `json:"block"`
	dumpWrite
}

type dumpWrite struct {
	LSN      uint64  `json:"lsn"`
	Version  uint64  `json:"version"`
	Type     string  `json:"type"`
	Stable   bool    `json:"stable"`
	Location uint64  `json:"location"`
	Offset   uint32  `json:"offset"`
	Len      *uint32 `json:"len"`
	Data     dumpHex `json:"data"`
	Bitmap   dumpHex `json:"bitmap"`
	Ext      dumpHex `json:"ext_bitmap"`
	Csums    dumpHex `json:"block_csums"`
	CRC      string  `json:"data_crc32c"`
}

// encode makes the entry and checks it like one read from a disk.
func (w *dumpWrite) encode(g *Geometry, id meta.ObjectID) (Entry, error) {
	h := Head{LSN: LSN(w.LSN), Object: id, Version: meta.Version(w.Version), Stable: w.Stable}
	buf := make([]byte, g.MaxEntryBytes())
	var e Entry
	switch w.Type {
	case "big", "small", "intent", "big_intent":
		sums, err := w.check(g)
		if err != nil {
			return nil, err
		}
		e = w.encodeData(g, buf, h, sums)
	case "delete":
		e = PutDelete(buf, h.LSN, id)
	case "commit":
		if h.Version == 0 {
			return nil, fmt.Errorf("commit of version 0")
		}
		e = PutCommit(buf, h.LSN, id, h.Version)
	case "rollback":
		e = PutRollback(buf, h.LSN, id, h.Version)
	default:
		return nil, fmt.Errorf("unknown type")
	}
	if f := g.CheckEntry(e); f != NoFault {
		return nil, fmt.Errorf("%v", f)
	}
	return e, nil
}

func (w *dumpWrite) encodeData(g *Geometry, buf []byte, h Head, sums Csums) Entry {
	ext, written := meta.Bitmap(w.Ext), meta.Bitmap(w.Bitmap)
	block := BlockNum(w.Location / uint64(g.BlockBytes))
	switch w.Type {
	case "big":
		return g.PutBigWrite(buf, h, block, ext, written, sums)
	case "small":
		return g.PutSmallWrite(buf, h, w.Location, w.Offset, *w.Len, ext, sums)
	case "intent":
		return g.PutIntentWrite(buf, h, w.Offset, *w.Len, ext, sums)
	}
	return g.PutBigIntent(buf, h, block, w.Offset, *w.Len, ext, written, sums)
}

// check tests a data entry against what the encoders require and returns its
// checksums.
func (w *dumpWrite) check(g *Geometry) (Csums, error) {
	big := w.Type == "big" || w.Type == "big_intent"
	switch {
	case len(w.Ext) != g.bitmapBytes || big && len(w.Bitmap) != g.bitmapBytes:
		return nil, fmt.Errorf("bitmap and ext_bitmap must have %d bytes", g.bitmapBytes)
	case big && (w.Location%uint64(g.BlockBytes) != 0 || w.Location/uint64(g.BlockBytes) >= uint64(g.BlockCount)):
		return nil, fmt.Errorf("location %d is not a block of the data area", w.Location)
	case w.Type == "big":
		return w.sums(g, g.csumCount)
	case w.Len == nil:
		return nil, fmt.Errorf("offset, len and location are missing: a dump made with the data of small writes by another release cannot be restored")
	case !g.Aligned(w.Offset, *w.Len):
		return nil, fmt.Errorf("%v", FaultRange)
	case w.Type == "small" && !g.inBuffer(w.Location, *w.Len):
		return nil, fmt.Errorf("%v", FaultLocation)
	case len(w.Data) != 0 && len(w.Data) != int(*w.Len):
		return nil, fmt.Errorf("%d bytes of data, but len is %d", len(w.Data), *w.Len)
	case w.Type != "small" && !w.Stable:
		return nil, fmt.Errorf("intents are always stable")
	case w.Type == "big_intent":
		return w.sums(g, max(g.csumCount, 1))
	}
	return w.sums(g, g.WriteCsums(w.Offset, *w.Len))
}

// sums returns the n checksums of the entry.
func (w *dumpWrite) sums(g *Geometry, n int) (Csums, error) {
	if g.CsumBytes != 0 {
		if len(w.Csums) != 4*n {
			return nil, fmt.Errorf("block_csums has %d bytes, expected %d: a store with checksums must be compacted before release 3.0.8 dumps it",
				len(w.Csums), 4*n)
		}
		return Csums(w.Csums), nil
	}
	sums := make(Csums, 4*n)
	if w.CRC == "" {
		if n != 0 && *w.Len != 0 {
			return nil, fmt.Errorf("data_crc32c is missing")
		}
		return sums, nil
	}
	v, err := strconv.ParseUint(w.CRC, 16, 32)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("data_crc32c is %q, expected 8 hex digits, and none for a big write", w.CRC)
	}
	sums.Set(0, uint32(v))
	return sums, nil
}

// dumpHex is a byte string in hex.
type dumpHex []byte

// UnmarshalJSON reads a string of hex digits.
func (h *dumpHex) UnmarshalJSON(text []byte) error {
	var s string
	err := json.Unmarshal(text, &s)
	if err == nil {
		*h, err = hex.DecodeString(s)
	}
	return err
}

// dumpNumber is a number, or a string with a number in any notation.
type dumpNumber uint64

// UnmarshalJSON reads 17, "17" or "0x11".
func (n *dumpNumber) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseUint(strings.Trim(string(text), `"`), 0, 64)
	*n = dumpNumber(v)
	return err
}
