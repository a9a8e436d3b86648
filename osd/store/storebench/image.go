package storebench

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"vitastor/internal/meta"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// image is the description of a store that is generated as a sparse file: its
// metadata is there, its data blocks are holes.
type image struct {
	params  *layout.Params
	objects uint64
	intents uint64 // of the objects: the newest write was in place, and start-up has to verify it
	step    uint64 // of the permutation of objects, see object
}

// stepPrime spreads objects over the metadata blocks.
const stepPrime = 2654435761

func newImage(path string, objects, intents int, csumBytes uint32) (*image, error) {
	if objects < 16 || objects%stepPrime == 0 {
		return nil, fmt.Errorf("a store of %d objects cannot be generated", objects)
	}
	dataBytes := int64(objects+objects/16) * BlockBytes
	p, err := plan(options(path, dataBytes, csumBytes, false), uint64(2*dataBytes)+4<<30)
	if err != nil {
		return nil, err
	}
	return &image{params: p, objects: uint64(objects), intents: uint64(min(intents, objects)), step: stepPrime}, nil
}

// object is the number in the image's address space of the i-th object on disk:
// neighbours on disk are strangers, as after a long life.
func (m *image) object(i uint64) meta.ObjectID {
	return meta.ObjectID{Inode: benchInode, Stripe: i * m.step % m.objects * BlockBytes}
}

// write makes the file: superblock and entries, evenly spread over all metadata
// blocks.
func (m *image) write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(m.params.Data.Offset + m.params.Data.Bytes)); err != nil {
		return err
	}
	out := io.NewOffsetWriter(f, int64(m.params.Meta.Offset))
	if _, err := out.Write(m.superblock()); err != nil {
		return err
	}
	e := newEncoder(&m.params.Geometry)
	buf := make([]byte, 0, 1<<20)
	blocks := uint64(m.params.MetaBlocks)
	for n := range blocks {
		at := len(buf)
		buf = buf[:at+metaBlockBytes]
		m.block(e, buf[at:], n*m.objects/blocks, (n+1)*m.objects/blocks)
		if len(buf) < cap(buf) && n+1 < blocks {
			continue
		}
		if _, err := out.Write(buf); err != nil {
			return err
		}
		buf = buf[:0]
	}
	return f.Sync()
}

func (m *image) superblock() []byte {
	g := &m.params.Geometry
	sb := layout.MetaSuperblock{MetaBlockBytes: g.MetaBlockBytes, BlockBytes: g.BlockBytes, GranuleBytes: g.GranuleBytes,
		CsumBytes: g.CsumBytes, AreaBytes: m.params.Meta.Bytes}
	if g.CsumBytes != 0 {
		sb.CsumType = layout.CsumTypeCRC32C
	}
	b := make([]byte, g.MetaBlockBytes)
	sb.Put(b)
	return b
}

// encoder has what the entries of all objects share: full bitmaps, and the
// checksums of zeros, which is what holes read as.
type encoder struct {
	geo        *layout.Geometry
	full       meta.Bitmap
	zeros      layout.Csums
	zeroIntent layout.Csums
}

func newEncoder(g *layout.Geometry) *encoder {
	e := &encoder{geo: g, full: make(meta.Bitmap, g.BitmapBytes()), zeros: make(layout.Csums, 4*g.CsumCount())}
	e.full.SetBytes(0, BlockBytes, g.GranuleBytes)
	g.FillBlockCsums(e.zeros, e.full, make([]byte, BlockBytes))
	e.zeroIntent = e.zeros
	if g.CsumBytes == 0 {
		e.zeroIntent = make(layout.Csums, 4)
		e.zeroIntent.Set(0, layout.CRC(make([]byte, granuleBytes)))
	}
	return e
}

// block writes the metadata block of the objects from..to-1.
func (m *image) block(e *encoder, block []byte, from, to uint64) {
	b := layout.NewBlockBuilder(block)
	for i := from; i < to; i++ {
		h := layout.Head{LSN: layout.LSN(i + 1), Object: m.object(i), Version: 1, Stable: true}
		if i+m.intents >= m.objects {
			b.Add(e.geo.PutBigIntent(b.Room(), h, layout.BlockNum(i), 0, granuleBytes, nil, e.full, e.zeroIntent))
			continue
		}
		b.Add(e.geo.PutBigWrite(b.Room(), h, layout.BlockNum(i), nil, e.full, e.zeros))
	}
	b.Finish()
}

// config is that of the generated store.
func (m *image) config() store.Config { return store.ConfigOf(m.params) }

func (m *image) String() string {
	return strconv.FormatUint(m.objects, 10) + " objects"
}
