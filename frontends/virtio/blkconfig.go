package virtio

import (
	"encoding/binary"
	"fmt"
)

// Feature bits of virtio-blk (virtio 1.2 §5.2.3).
const (
	BlkSizeMax     = 1 << 1
	BlkSegMax      = 1 << 2
	BlkReadOnly    = 1 << 5
	BlkBlockSize   = 1 << 6
	BlkFlush       = 1 << 9
	BlkTopology    = 1 << 10
	BlkConfigWCE   = 1 << 11
	BlkMultiQueue  = 1 << 12
	BlkDiscard     = 1 << 13
	BlkWriteZeroes = 1 << 14
)

// ConfigBytes is the size of the configuration space (virtio 1.2 §5.2.4), little
// endian:
//
//	 0 capacity u64 in sectors     24 physical_block_exp u8     36 max_discard_sectors u32
//	 8 size_max u32                25 alignment_offset u8       40 max_discard_seg u32
//	12 seg_max u32                 26 min_io_size u16           44 discard_sector_alignment u32
//	16 geometry, 4 bytes           28 opt_io_size u32           48 max_write_zeroes_sectors u32
//	20 blk_size u32                32 writeback u8              52 max_write_zeroes_seg u32
//	                               34 num_queues u16            56 write_zeroes_may_unmap u8
const ConfigBytes = 60

const (
	sectorBytes = 512
	atWriteback = 32
)

// offer is what the device can do.
func (b *Blk) offer() uint64 {
	f := uint64(BlkSizeMax | BlkSegMax | BlkBlockSize | BlkFlush | BlkTopology | BlkMultiQueue |
		FeatureIndirect | FeatureEventIdx | FeatureVersion1)
	if !b.c.NoConfigWCE {
		f |= BlkConfigWCE
	}
	if !b.c.NoPacked {
		f |= FeaturePacked
	}
	if b.c.ReadOnly || b.c.Disk.Info().ReadOnly {
		return f | BlkReadOnly
	}
	return f | BlkDiscard | BlkWriteZeroes
}

// Features are the bits that the device offers, with those of rings and
// VERSION_1; transports add and remove theirs.
func (b *Blk) Features() uint64 { return b.offered }

// Config is the configuration space now.
func (b *Blk) Config() (c [ConfigBytes]byte) {
	info := b.c.Disk.Info()
	le := binary.LittleEndian
	granule, object := max(info.GranuleBytes, sectorBytes), max(info.ObjectBytes, sectorBytes)
	le.PutUint64(c[0:], info.SizeBytes/sectorBytes)
	le.PutUint32(c[8:], segmentBytesMax)
	le.PutUint32(c[12:], uint32(max(b.c.QueueSize-2, 1)))
	le.PutUint32(c[20:], sectorBytes)
	for exp := granule / sectorBytes; exp > 1; exp /= 2 {
		c[24]++
	}
	le.PutUint16(c[26:], uint16(min(granule/sectorBytes, 1<<15)))
	le.PutUint32(c[28:], uint32(min(object/sectorBytes, 1<<31)))
	c[atWriteback] = b.wce
	le.PutUint16(c[34:], uint16(b.c.Queues))
	le.PutUint32(c[36:], discardBytesMax/sectorBytes)
	le.PutUint32(c[40:], rangesMax)
	le.PutUint32(c[44:], uint32(min(object/sectorBytes, 1<<31)))
	le.PutUint32(c[48:], zeroesBytesMax/sectorBytes)
	le.PutUint32(c[52:], rangesMax)
	c[56] = 1
	return c
}

// SetConfig is a write of the driver to the configuration space; only the
// write cache mode can be written.
func (b *Blk) SetConfig(offset int, data []byte) error {
	if offset != atWriteback || len(data) != 1 || b.features&BlkConfigWCE == 0 {
		return fmt.Errorf("the driver writes %d bytes at %d of the configuration, which it may not", len(data), offset)
	}
	if data[0] > 1 {
		return fmt.Errorf("the driver wants the write cache mode %d", data[0])
	}
	b.wce = data[0]
	return nil
}

// durable tells whether writes have to be durable when they are completed: the
// driver will not flush.
func (b *Blk) durable() bool {
	return b.features&BlkFlush == 0 || b.features&BlkConfigWCE != 0 && b.wce == 0
}
