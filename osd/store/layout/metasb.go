package layout

import (
	"fmt"

	"vitastor/internal/invariant"
)

// MetaSuperblock is the content of block 0 of the metadata area:
//
//	0      8       16        24  28  32  36      40  44         48         56
//	+------+-------+---------+---+---+---+-------+---+----------+----------+----------+
//	| zero | magic | version | M | B | G | csum  | C | header   | area     | completed|
//	|      |       | 3       |   |   |   | type  |   | crc32c   | bytes    | lsn      |
//	+------+-------+---------+---+---+---+-------+---+----------+----------+----------+
//
// Bytes 64..M-1 are not interpreted and kept.
type MetaSuperblock struct {
	MetaBlockBytes uint32
	BlockBytes     uint32
	GranuleBytes   uint32
	CsumType       uint32 // 0 or CsumTypeCRC32C
	CsumBytes      uint32
	AreaBytes      uint64 // the whole metadata area, superblock included
	// CompletedLSN: intents up to it are durable, data included, and are not
	// verified at start. Never more than the highest durable LSN.
	CompletedLSN LSN
}

const (
	metaMagic   = 0x726F747341544956 // "VITAstor"
	metaVersion = 3
	// MetaSuperblockBytes is the part of the block that has a meaning.
	MetaSuperblockBytes = 64
	// CsumTypeCRC32C is the stored checksum type; its low byte is the size.
	CsumTypeCRC32C = 0x104

	offMetaMagic   = 8
	offMetaVersion = 16
	offMetaM       = 24
	offMetaB       = 28
	offMetaG       = 32
	offMetaType    = 36
	offMetaC       = 40
	offMetaCRC     = 44
	offMetaArea    = 48
	offMetaLSN     = 56
)

// MetaSuperblock is the superblock of a store with these parameters.
func (p *Params) MetaSuperblock(completed LSN) MetaSuperblock {
	g := &p.Geometry
	s := MetaSuperblock{MetaBlockBytes: g.MetaBlockBytes, BlockBytes: g.BlockBytes, GranuleBytes: g.GranuleBytes,
		CsumBytes: g.CsumBytes, AreaBytes: p.Meta.Bytes, CompletedLSN: completed}
	if g.CsumBytes != 0 {
		s.CsumType = CsumTypeCRC32C
	}
	return s
}

// Put writes the superblock to the first MetaSuperblockBytes of block and
// leaves the rest.
func (s *MetaSuperblock) Put(block []byte) {
	invariant.Must(len(block) >= MetaSuperblockBytes, "layout: no room for the metadata superblock")
	b := block[:MetaSuperblockBytes]
	clear(b)
	le.PutUint64(b[offMetaMagic:], metaMagic)
	le.PutUint64(b[offMetaVersion:], metaVersion)
	le.PutUint32(b[offMetaM:], s.MetaBlockBytes)
	le.PutUint32(b[offMetaB:], s.BlockBytes)
	le.PutUint32(b[offMetaG:], s.GranuleBytes)
	le.PutUint32(b[offMetaType:], s.CsumType)
	le.PutUint32(b[offMetaC:], s.CsumBytes)
	le.PutUint64(b[offMetaArea:], s.AreaBytes)
	le.PutUint64(b[offMetaLSN:], uint64(s.CompletedLSN))
	le.PutUint32(b[offMetaCRC:], CRC(b)) // the field is still zero
}

// DecodeMetaSuperblock reads a superblock. A wrong crc32c of the header is
// only a warning: release 3.0.8 does not check it and its restore tool writes
// a wrong one.
func DecodeMetaSuperblock(block []byte) (s MetaSuperblock, warning, err error) {
	if len(block) < MetaSuperblockBytes {
		return s, nil, fmt.Errorf("metadata superblock: only %d bytes", len(block))
	}
	b := block[:MetaSuperblockBytes]
	switch {
	case le.Uint64(b) != 0 || le.Uint64(b[offMetaMagic:]) != metaMagic:
		return s, nil, fmt.Errorf("no metadata superblock: first bytes are %x; check meta_offset, or run a store check", b[:16])
	case le.Uint64(b[offMetaVersion:]) != metaVersion:
		return s, nil, fmt.Errorf("metadata superblock: format version is %d, only %d is supported", le.Uint64(b[offMetaVersion:]), metaVersion)
	}
	s = MetaSuperblock{
		MetaBlockBytes: le.Uint32(b[offMetaM:]), BlockBytes: le.Uint32(b[offMetaB:]), GranuleBytes: le.Uint32(b[offMetaG:]),
		CsumType: le.Uint32(b[offMetaType:]), CsumBytes: le.Uint32(b[offMetaC:]),
		AreaBytes: le.Uint64(b[offMetaArea:]), CompletedLSN: LSN(le.Uint64(b[offMetaLSN:])),
	}
	crc := CRC(append(append(append([]byte(nil), b[:offMetaCRC]...), 0, 0, 0, 0), b[offMetaArea:]...))
	if stored := le.Uint32(b[offMetaCRC:]); stored != crc {
		warning = fmt.Errorf("metadata superblock: header crc32c is %08x, stored is %08x", crc, stored)
	}
	return s, warning, nil
}

// Match compares the superblock on disk with the configured one; the error
// names the first difference. CompletedLSN is not compared.
func (s *MetaSuperblock) Match(configured MetaSuperblock) error {
	for _, f := range []struct {
		name             string
		disk, configured uint64
	}{
		{"meta_block_size", uint64(s.MetaBlockBytes), uint64(configured.MetaBlockBytes)},
		{"block_size", uint64(s.BlockBytes), uint64(configured.BlockBytes)},
		{"bitmap_granularity", uint64(s.GranuleBytes), uint64(configured.GranuleBytes)},
		{"data_csum_type", uint64(s.CsumType), uint64(configured.CsumType)},
		{"csum_block_size", uint64(s.CsumBytes), uint64(configured.CsumBytes)},
		{"size of the metadata area", s.AreaBytes, configured.AreaBytes},
	} {
		if f.disk != f.configured {
			return fmt.Errorf("metadata superblock: %s is %d on disk, but %d is configured: correct the configuration or resize the store offline",
				f.name, f.disk, f.configured)
		}
	}
	return nil
}

// IsZero tells whether b consists of zeroes: a metadata block 0 like that
// belongs to a store that was never started, or has lost its superblock.
func IsZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
