// Package layout is the on-disk format of an OSD: the disk superblock, the
// areas, the metadata superblock, metadata blocks and entries, checksums, and
// what a chain of entries means. Spec: ondisk.md §1-3, §5, §7, §9, §14.
//
// Guarantee: pure functions over byte slices; no I/O, no clock. Whatever the
// bytes are, a decoder returns an error that names the place and never panics;
// what an encoder of this package writes, the parser of this package (and the
// reference release 3.0.8) accepts. Encoding, block scanning and checksums
// allocate nothing.
//
// Concurrency: no shared state; values may be used from any goroutine, a byte
// slice only by one writer at a time.
//
// A disk of an OSD (one, two or three devices), offsets from its superblock:
//
//	0        4096      journal_offset     meta_offset        data_offset
//	+--------+- - - - -+------------------+------------------+--------------
//	| disk   |         | buffer area:     | metadata area:   | data area:
//	| super- |         | data of small    | superblock, then | blocks of
//	| block  |         | writes           | metadata blocks  | block_size
//	+--------+- - - - -+------------------+------------------+--------------
//
// Metadata entry, little endian, packed:
//
//	0      2      4        8        16        24         32         40
//	+------+------+--------+--------+---------+----------+----------+---...
//	| size | type | crc32c |  lsn   |  inode  |  stripe  | version  | by type
//	+------+------+--------+--------+---------+----------+----------+---...
//
//	BIG_WRITE     block u32 | ext bitmap | int bitmap | K checksums
//	SMALL_WRITE   location u64 | offset u32 | len u32 | ext bitmap | checksums
//	INTENT_WRITE  as SMALL_WRITE, location 0
//	BIG_INTENT    block u32 | offset u32 | len u32 | ext | int | K (or 1) checksums
//	DELETE, COMMIT, ROLLBACK    nothing
//
// Metadata block: entries without gaps, then the end marker (see FinishBlock).
//
// The files, in reading order: geometry.go, entry.go, encode.go, block.go,
// csum.go (the codec); chain.go, verify.go (meaning); metasb.go, options.go,
// superblock.go, params.go, prepare.go (parameters); image.go (a whole store
// read from byte images); dump.go, restore.go (JSON).
package layout
