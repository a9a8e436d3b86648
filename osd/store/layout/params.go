package layout

import (
	"fmt"

	"vitastor/internal/meta"
)

// Area is a range of a device, in bytes.
type Area struct{ Offset, Bytes uint64 }

// DeviceBytes are the sizes of the devices. Meta and Buffer are not looked at
// when the area is on the data or metadata device.
type DeviceBytes struct{ Data, Meta, Buffer uint64 }

// Params is a store: its devices, areas and geometry.
type Params struct {
	OSDNum meta.OSDNum // 0 if not given

	DataDevice, MetaDevice, BufferDevice string // never empty; equal = same device
	Data, Meta, Buffer                   Area
	Geometry                             Geometry
	MetaBlocks                           uint32 // metadata blocks, superblock not counted
	DiskAlignment                        uint32

	DisableDataFsync, DisableMetaFsync, DisableBufferFsync bool

	ImmediateCommit   string // all, small or none
	AtomicWriteBytes  uint32 // largest in-place intent write; 0 = none
	UseAtomicFlag     bool
	DisableDeviceLock bool
}

const (
	defaultBlockBytes     = 128 << 10
	defaultGranuleBytes   = 4096
	defaultMetaBlockBytes = 4096
	defaultAlignment      = 4096
	defaultAtomicBytes    = 4096
)

// WriteThrough tells whether a completed write is durable on all devices.
func (p *Params) WriteThrough() bool {
	return p.DisableDataFsync && p.DisableMetaFsync && p.DisableBufferFsync
}

// MetaBlockOffset is where metadata block n begins on its device.
func (p *Params) MetaBlockOffset(n uint32) uint64 {
	return p.Meta.Offset + (uint64(n)+1)*uint64(p.Geometry.MetaBlockBytes)
}

// DataOffset is where data block b begins on its device.
func (p *Params) DataOffset(b BlockNum) uint64 {
	return p.Data.Offset + uint64(b)*uint64(p.Geometry.BlockBytes)
}

// NewParams derives the store from its parameters and the sizes of its
// devices (spec §1.3). The errors name the parameter, its value and what is
// allowed.
func NewParams(o Options, dev DeviceBytes) (*Params, error) {
	if v := o.Text("meta_format"); v != "3" {
		return nil, fmt.Errorf("meta_format is %q, only 3 is supported: prepare the disk again, or refill it through recovery", v)
	}
	p := &Params{OSDNum: o.OSDNum()}
	p.DataDevice, p.MetaDevice, p.BufferDevice = o.Devices()
	if p.DataDevice == "" {
		return nil, fmt.Errorf("data_device is empty")
	}
	g, err := geometryOptions(o)
	if err != nil {
		return nil, err
	}
	p.Geometry = g
	if err := p.modes(o); err != nil {
		return nil, err
	}
	if err := p.areas(o, dev); err != nil {
		return nil, err
	}
	return p, p.count()
}

// geometryOptions reads the sizes; the areas are not known yet.
func geometryOptions(o Options) (g Geometry, err error) {
	for _, f := range []struct {
		key    string
		into   *uint32
		absent uint32
	}{
		{"block_size", &g.BlockBytes, defaultBlockBytes},
		{"bitmap_granularity", &g.GranuleBytes, defaultGranuleBytes},
		{"meta_block_size", &g.MetaBlockBytes, defaultMetaBlockBytes},
	} {
		if *f.into, err = o.size32(f.key, f.absent); err != nil {
			return g, err
		}
		if *f.into == 0 {
			*f.into = f.absent
		}
	}
	switch t := o.Text("data_csum_type"); t {
	case "", "none":
	case "crc32c":
		if g.CsumBytes, err = o.size32("csum_block_size", g.GranuleBytes); err != nil {
			return g, err
		}
		if g.CsumBytes == 0 {
			g.CsumBytes = g.GranuleBytes
		}
	default:
		return g, fmt.Errorf("data_csum_type is %q, must be none or crc32c", t)
	}
	return g.Complete()
}

// modes reads everything that is not a size or a place of an area.
func (p *Params) modes(o Options) (err error) {
	for _, f := range []struct {
		key  string
		into *bool
	}{
		{"disable_data_fsync", &p.DisableDataFsync}, {"disable_meta_fsync", &p.DisableMetaFsync},
		{"disable_journal_fsync", &p.DisableBufferFsync}, {"use_atomic_flag", &p.UseAtomicFlag},
		{"disable_device_lock", &p.DisableDeviceLock},
	} {
		if *f.into, err = o.Flag(f.key); err != nil {
			return err
		}
	}
	if p.MetaDevice == p.DataDevice {
		p.DisableMetaFsync = p.DisableDataFsync
	}
	if p.BufferDevice == p.MetaDevice {
		p.DisableBufferFsync = p.DisableMetaFsync
	}
	if p.AtomicWriteBytes, err = o.size32("atomic_write_size", defaultAtomicBytes); err != nil {
		return err
	}
	if p.DiskAlignment, err = o.size32("disk_alignment", defaultAlignment); err != nil {
		return err
	}
	if a := p.DiskAlignment; a == 0 || a%sectorBytes != 0 || p.Geometry.GranuleBytes%a != 0 {
		return fmt.Errorf("disk_alignment is %d, must be a multiple of 512 which divides bitmap_granularity %d", a, p.Geometry.GranuleBytes)
	}
	return p.commitMode(o)
}

func (p *Params) commitMode(o Options) error {
	p.ImmediateCommit = o.Text("immediate_commit")
	switch p.ImmediateCommit {
	case "":
		p.ImmediateCommit = "none"
	case "none", "small", "all":
	default:
		return fmt.Errorf("immediate_commit is %q, must be all, small or none", p.ImmediateCommit)
	}
	if p.ImmediateCommit != "none" && !p.DisableBufferFsync {
		return fmt.Errorf("immediate_commit is %s, but disable_journal_fsync is not set: buffered writes are not durable at once", p.ImmediateCommit)
	}
	if p.ImmediateCommit == "all" && !p.DisableDataFsync {
		return fmt.Errorf("immediate_commit is all, but disable_data_fsync is not set: data writes are not durable at once")
	}
	return nil
}

// areas places the three areas on their devices.
func (p *Params) areas(o Options, dev DeviceBytes) (err error) {
	offset := func(key string, unit uint64) (v uint64) {
		if err != nil {
			return 0
		}
		if v, err = o.Size(key, 0); err == nil && v%unit != 0 {
			err = fmt.Errorf("%s is %d, must be a multiple of %d", key, v, unit)
		}
		return v
	}
	unit, err := o.Size("journal_block_size", defaultAlignment)
	if err != nil {
		return err
	}
	p.Data.Offset = offset("data_offset", uint64(p.DiskAlignment))
	p.Meta.Offset = offset("meta_offset", uint64(p.Geometry.MetaBlockBytes))
	p.Buffer.Offset = offset("journal_offset", max(unit, 1))
	if err != nil {
		return err
	}
	if p.MetaDevice == p.DataDevice {
		dev.Meta = dev.Data
	}
	switch p.BufferDevice {
	case p.DataDevice:
		dev.Buffer = dev.Data
	case p.MetaDevice:
		dev.Buffer = dev.Meta
	}
	places := []place{{"data_offset", p.DataDevice, dev.Data, &p.Data}, {"meta_offset", p.MetaDevice, dev.Meta, &p.Meta},
		{"journal_offset", p.BufferDevice, dev.Buffer, &p.Buffer}}
	for i := range places {
		if err := places[i].measure(places); err != nil {
			return err
		}
	}
	return p.chosenSizes(o)
}

// place is an area while its length is not known.
type place struct {
	key    string
	device string
	bytes  uint64 // of the device
	area   *Area
}

// measure gives the area all bytes up to the next area on its device, or to
// the end of the device.
func (a *place) measure(all []place) error {
	if a.area.Offset >= a.bytes {
		return fmt.Errorf("%s is %d, but the device %s has only %d bytes: use a larger device, or prepare it with a smaller metadata reserve (meta_reserve) and journal_size",
			a.key, a.area.Offset, a.device, a.bytes)
	}
	end := a.bytes
	for i := range all {
		b := &all[i]
		if b == a || b.device != a.device || b.area.Offset < a.area.Offset {
			continue
		}
		if b.area.Offset == a.area.Offset {
			return fmt.Errorf("%s and %s are both %d on %s: areas must not overlap", a.key, b.key, a.area.Offset, a.device)
		}
		end = min(end, b.area.Offset)
	}
	a.area.Bytes = end - a.area.Offset
	return nil
}

// chosenSizes applies data_size and journal_size.
func (p *Params) chosenSizes(o Options) error {
	for _, f := range []struct {
		key  string
		area *Area
	}{{"data_size", &p.Data}, {"journal_size", &p.Buffer}} {
		n, err := o.Size(f.key, 0)
		if err != nil {
			return err
		}
		if n > f.area.Bytes {
			return fmt.Errorf("%s is %d, but there are only %d bytes at offset %d up to the next area or the end of the device",
				f.key, n, f.area.Bytes, f.area.Offset)
		}
		if n != 0 {
			f.area.Bytes = n
		}
	}
	return nil
}

// count derives the numbers of blocks and checks the areas against them.
func (p *Params) count() error {
	g := &p.Geometry
	blocks := p.Data.Bytes / uint64(g.BlockBytes)
	if blocks < 2 || blocks > MaxBlockCount {
		return fmt.Errorf("the data area of %d bytes at %d has %d blocks of %d bytes, must be 2..%d: choose another device or block_size",
			p.Data.Bytes, p.Data.Offset, blocks, g.BlockBytes, uint64(MaxBlockCount))
	}
	g.BlockCount = uint32(blocks)
	if p.Buffer.Bytes < MinBufferBytes {
		return fmt.Errorf("the buffer area has %d bytes, must be at least %d: check journal_offset and journal_size",
			p.Buffer.Bytes, MinBufferBytes)
	}
	g.BufferBytes = p.Buffer.Bytes
	m := uint64(g.MetaBlockBytes)
	if p.Meta.Bytes%m != 0 {
		return fmt.Errorf("the metadata area of %d bytes at %d is not a multiple of meta_block_size %d: make its partition %d bytes smaller",
			p.Meta.Bytes, p.Meta.Offset, m, p.Meta.Bytes%m)
	}
	if need := g.MinMetaBytes(blocks); p.Meta.Bytes < need || p.Meta.Bytes < 2*m {
		return fmt.Errorf("the metadata area has %d bytes, %d data blocks need at least %d: use a larger metadata area or a smaller data_size",
			p.Meta.Bytes, blocks, max(need, 2*m))
	}
	if n := p.Meta.Bytes/m - 1; n > 1<<32-1 {
		return fmt.Errorf("the metadata area has %d blocks, at most %d are supported: use larger blocks", n, uint64(1<<32-1))
	}
	p.MetaBlocks = uint32(p.Meta.Bytes/m - 1)
	return nil
}

// MinMetaBytes is the smallest metadata area for a number of data blocks: one
// BIG_WRITE per block.
func (g *Geometry) MinMetaBytes(blocks uint64) uint64 {
	perBlock := uint64(g.MetaBlockBytes) / uint64(g.BigWriteBytes())
	return (blocks + perBlock - 1) / perBlock * uint64(g.MetaBlockBytes)
}

// Slice cuts the areas out of images of the devices; the images of areas on
// one device are the same slice.
func (p *Params) Slice(dataDev, metaDev, bufferDev []byte) (Image, error) {
	cut := func(dev []byte, a Area, name string) ([]byte, error) {
		if a.Offset > uint64(len(dev)) || a.Bytes > uint64(len(dev))-a.Offset {
			return nil, fmt.Errorf("the image of the %s device has %d bytes, the area ends at %d", name, len(dev), a.Offset+a.Bytes)
		}
		return dev[a.Offset : a.Offset+a.Bytes], nil
	}
	var im Image
	var err error
	if im.Data, err = cut(dataDev, p.Data, "data"); err != nil {
		return im, err
	}
	if im.Meta, err = cut(metaDev, p.Meta, "metadata"); err != nil {
		return im, err
	}
	im.Buffer, err = cut(bufferDev, p.Buffer, "buffer")
	return im, err
}
