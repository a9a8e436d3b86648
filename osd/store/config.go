package store

import (
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// ConfigOf returns the configuration of a store whose parameters were derived
// from its superblock; tunables have their defaults.
func ConfigOf(p *layout.Params) Config {
	c := Config{
		BlockBytes: p.Geometry.BlockBytes, GranuleBytes: p.Geometry.GranuleBytes,
		MetaBlockBytes: p.Geometry.MetaBlockBytes, CsumBytes: p.Geometry.CsumBytes,
		Areas: Areas{
			DataOffset: int64(p.Data.Offset), DataLen: int64(p.Data.Bytes),
			MetaOffset: int64(p.Meta.Offset), MetaLen: int64(p.Meta.Bytes),
			BufferOffset: int64(p.Buffer.Offset), BufferLen: int64(p.Buffer.Bytes),
		},
		DisableDataFsync: p.DisableDataFsync, DisableMetaFsync: p.DisableMetaFsync, DisableBufferFsync: p.DisableBufferFsync,
		AtomicWriteBytes: p.AtomicWriteBytes, UseAtomicFlag: p.UseAtomicFlag,
	}
	switch p.ImmediateCommit {
	case "all":
		c.Commit = CommitAll
	case "small":
		c.Commit = CommitSmall
	}
	return c
}

func orDefault[T int | int64 | time.Duration](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

func (c *Config) setDefaults() {
	orDefault(&c.IntentDepth, 8)
	orDefault(&c.MaxWriteDepth, 128)
	orDefault(&c.MinCompactors, 8)
	orDefault(&c.MaxCompactors, 32)
	orDefault(&c.CompactQueueStart, 128)
	orDefault(&c.IntentTrimInterval, 4096)
	orDefault(&c.VerifyDepth, 16)
	orDefault(&c.MinDiscardBytes, 1<<20)
	orDefault(&c.ThrottleTargetIOPS, 100)
	orDefault(&c.ThrottleTargetMBs, 100)
	orDefault(&c.ThrottleParallelism, 1)
	orDefault(&c.ThrottleThreshold, 50*time.Microsecond)
	orDefault(&c.ReshardChunkObjects, 100000)
	orDefault(&c.ReshardChunkPause, 100*time.Millisecond)
	orDefault(&c.ReadAheadStartBytes, 1<<20)
	orDefault(&c.BufferPoolBytes, 64<<20)
	c.MaxWriteDepth = max(1, min(c.MaxWriteDepth, windowSlots/8))
	c.MaxCompactors = max(1, min(c.MaxCompactors, 256))
	c.ReadAheadStartBytes = max(int(c.MetaBlockBytes), min(c.ReadAheadStartBytes, pinned.MaxBufferBytes))
	c.BufferPoolBytes = max(c.BufferPoolBytes, 4*int(c.BlockBytes), 1<<20)
}

// geometry checks the configuration against itself and the devices.
func (c *Config) geometry(d Disks) (layout.Geometry, error) {
	a := &c.Areas
	if c.BlockBytes == 0 || a.DataLen < 2*int64(c.BlockBytes) || a.DataLen/int64(c.BlockBytes) > layout.MaxBlockCount {
		return layout.Geometry{}, fmt.Errorf("%w: data area of %d bytes must have 2 to 2^31-1 blocks of %d bytes", ErrMismatch, a.DataLen, c.BlockBytes)
	}
	g, err := layout.Geometry{
		BlockBytes: c.BlockBytes, GranuleBytes: c.GranuleBytes, MetaBlockBytes: c.MetaBlockBytes, CsumBytes: c.CsumBytes,
		BlockCount: uint32(a.DataLen / int64(c.BlockBytes)), BufferBytes: uint64(max(a.BufferLen, 0)),
	}.Complete()
	if err != nil {
		return g, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	m := int64(c.MetaBlockBytes)
	switch {
	case a.BufferLen < int64(c.BlockBytes):
		err = fmt.Errorf("buffer area of %d bytes is smaller than a block", a.BufferLen)
	case a.MetaLen < 4*m || a.MetaLen%m != 0:
		err = fmt.Errorf("metadata area of %d bytes must be a multiple of meta_block_size %d, at least 4 blocks", a.MetaLen, m)
	case a.MetaLen/m > flagFrees:
		err = fmt.Errorf("metadata area of %d bytes has more than %d blocks: use larger metadata blocks", a.MetaLen, flagFrees)
	case int(c.CsumBytes) > pinned.MaxBufferBytes:
		err = fmt.Errorf("csum_block_size is %d, more than %d is not supported", c.CsumBytes, pinned.MaxBufferBytes)
	}
	for _, x := range []struct {
		name    string
		disk    env.Disk
		off, n  int64
		granule int64
	}{
		{"data", d.Data, a.DataOffset, a.DataLen, int64(c.GranuleBytes)},
		{"metadata", d.Meta, a.MetaOffset, a.MetaLen, m},
		{"buffer", d.Buffer, a.BufferOffset, a.BufferLen, int64(c.GranuleBytes)},
	} {
		if err == nil {
			err = checkArea(x.name, x.disk, x.off, x.n, x.granule)
		}
	}
	if err == nil {
		err = a.overlap(d)
	}
	if err != nil {
		return g, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return g, nil
}

func checkArea(name string, disk env.Disk, off, n, granule int64) error {
	if disk == nil {
		return fmt.Errorf("no device for the %s area", name)
	}
	info := disk.Info()
	align := int64(info.BlockBytes)
	switch {
	case off < 0 || off+n > info.SizeBytes:
		return fmt.Errorf("%s: the %s area [%d, %d) is outside of the device of %d bytes: is the device truncated, or are the offsets of another one?",
			info.Path, name, off, off+n, info.SizeBytes)
	case off%align != 0 || granule%align != 0:
		return fmt.Errorf("%s: the %s area begins at %d and is used in units of %d bytes, but the device needs %d",
			info.Path, name, off, granule, align)
	}
	return nil
}

// overlap finds areas in the way of each other.
func (a *Areas) overlap(d Disks) error {
	type area struct {
		name string
		disk env.Disk
		from int64
		to   int64
	}
	all := []area{{"data", d.Data, a.DataOffset, a.DataOffset + a.DataLen},
		{"metadata", d.Meta, a.MetaOffset, a.MetaOffset + a.MetaLen},
		{"buffer", d.Buffer, a.BufferOffset, a.BufferOffset + a.BufferLen}}
	for i, x := range all {
		for _, y := range all[i+1:] {
			if x.disk == y.disk && x.from < y.to && y.from < x.to {
				return fmt.Errorf("%s: the %s area [%d, %d) and the %s area [%d, %d) overlap",
					x.disk.Info().Path, x.name, x.from, x.to, y.name, y.from, y.to)
			}
		}
	}
	return nil
}
