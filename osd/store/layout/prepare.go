package layout

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	bufferBytesFast = 32 * mib  // default for disks without a volatile cache
	bufferBytesSlow = 128 * mib // default for HDD and disks that need fsync
)

// Plan is where the areas of a new OSD go.
type Plan struct {
	BufferOffset, MetaOffset, DataOffset uint64
	BufferBytes                          uint64 // 0 = the rest of its device
	MinMetaBytes                         uint64 // smallest possible metadata area
	DataBytes                            uint64 // from DataOffset to the end of the device, or data_size
}

// Into returns a copy of o with the offsets of the plan.
func (p *Plan) Into(o Options) Options {
	o = maps.Clone(o)
	for key, v := range map[string]uint64{"journal_offset": p.BufferOffset, "meta_offset": p.MetaOffset, "data_offset": p.DataOffset} {
		o[key] = jsonNumber(v)
	}
	return o
}

// MetaReserve is how much larger than necessary a metadata area on the data
// device is made: max(minimum * Factor, Bytes).
type MetaReserve struct {
	Factor float64
	Bytes  uint64
}

// ParseMetaReserve reads "2x,1G", "2x" (no smallest size) or "1G" (factor 2);
// "" is "2x,1G".
func ParseMetaReserve(text string) (MetaReserve, error) {
	r := MetaReserve{2, gib}
	if text == "" {
		return r, nil
	}
	bad := fmt.Errorf("meta_reserve is %q, must be a factor, a size or both, like 2x,1G", text)
	first, second, both := strings.Cut(text, ",")
	if factor, ok := strings.CutSuffix(strings.ToLower(first), "x"); ok {
		f, err := strconv.ParseFloat(factor, 64)
		if err != nil || !(f >= 1 && f <= 1000) {
			return r, fmt.Errorf("%w (the factor 1..1000)", bad)
		}
		r = MetaReserve{Factor: f}
		if !both {
			return r, nil
		}
		first = second
	} else if both {
		return r, bad
	}
	n, err := ParseSize(first)
	if err != nil {
		return r, bad
	}
	r.Bytes = n
	return r, nil
}

// Prepare places the areas of a new OSD (spec §1.3) on the devices that o
// names; hdd tells whether the data device is rotational. It reads the sizes
// of blocks, checksums, journal_size, data_size, meta_reserve and
// disable_data_fsync from o, and fails if the result would not start.
func Prepare(o Options, dev DeviceBytes, hdd bool) (*Plan, error) {
	g, err := geometryOptions(o)
	if err != nil {
		return nil, err
	}
	reserve, err := ParseMetaReserve(o.Text("meta_reserve"))
	if err != nil {
		return nil, err
	}
	dataDev, metaDev, bufferDev := o.Devices()
	p := &Plan{BufferOffset: SuperblockBytes, MetaOffset: SuperblockBytes, DataOffset: SuperblockBytes}
	if p.BufferBytes, err = preparedBuffer(o, hdd, bufferDev == dataDev || bufferDev == metaDev); err != nil {
		return nil, err
	}
	if bufferDev == metaDev {
		p.MetaOffset += p.BufferBytes
	}
	p.MetaOffset = roundUp(p.MetaOffset, uint64(g.MetaBlockBytes))
	if bufferDev == dataDev {
		p.DataOffset += p.BufferBytes
	}
	if err := p.placeData(o, &g, dev.Data, metaDev == dataDev, reserve); err != nil {
		return nil, err
	}
	check := p.Into(o)
	check["meta_format"] = "3"
	if bufferDev != metaDev && bufferDev != dataDev && p.BufferBytes == 0 {
		delete(check, "journal_size")
	}
	_, err = NewParams(check, dev)
	return p, err
}

// preparedBuffer is the size of the buffer area; 0 = all of its own device.
func preparedBuffer(o Options, hdd, shared bool) (uint64, error) {
	n, err := o.Size("journal_size", 0)
	if err != nil || n != 0 || !shared {
		return n, err
	}
	noFsync, err := o.Flag("disable_data_fsync")
	if hdd || !noFsync {
		return bufferBytesSlow, err
	}
	return bufferBytesFast, err
}

// placeData moves DataOffset behind the metadata area, if that is on the same
// device.
func (p *Plan) placeData(o Options, g *Geometry, deviceBytes uint64, metaOnData bool, reserve MetaReserve) error {
	p.DataOffset = roundUp(p.DataOffset, defaultAlignment)
	dataBytes, err := o.Size("data_size", 0)
	if err != nil {
		return err
	}
	need := p.DataOffset + 2*uint64(g.BlockBytes)
	if deviceBytes < need {
		return fmt.Errorf("the data device has %d bytes, at least %d are needed: use a larger device or a smaller journal_size", deviceBytes, need)
	}
	blocks := (deviceBytes - p.DataOffset) / uint64(g.BlockBytes)
	if dataBytes != 0 {
		blocks = dataBytes / uint64(g.BlockBytes)
	}
	if blocks > MaxBlockCount {
		return fmt.Errorf("%d data blocks of %d bytes, at most %d are possible: use a larger block_size", blocks, g.BlockBytes, uint64(MaxBlockCount))
	}
	p.MinMetaBytes = g.MinMetaBytes(blocks)
	if metaOnData {
		p.DataOffset = p.MetaOffset + reserve.bytes(p.MinMetaBytes, uint64(g.MetaBlockBytes))
		for p.DataOffset%defaultAlignment != 0 {
			p.DataOffset += uint64(g.MetaBlockBytes)
		}
	}
	if deviceBytes < p.DataOffset || deviceBytes-p.DataOffset < max(dataBytes, 2*uint64(g.BlockBytes)) {
		return fmt.Errorf("no room for data: the data area would begin at %d of %d bytes, %d of them metadata (at least %d are needed): lower meta_reserve, for example 2x,%d",
			p.DataOffset, deviceBytes, p.DataOffset-p.MetaOffset, p.MinMetaBytes, p.MinMetaBytes)
	}
	p.DataBytes = deviceBytes - p.DataOffset
	if dataBytes != 0 {
		p.DataBytes = dataBytes
	}
	return nil
}

func (r MetaReserve) bytes(minimum, unit uint64) uint64 {
	return roundUp(max(uint64(math.Floor(float64(minimum)*r.Factor)), r.Bytes), unit)
}

// HybridMetaBytes is the size of the metadata partition on the fast device of
// a hybrid OSD.
func HybridMetaBytes(minMeta uint64) uint64 { return max(2*roundUp(minMeta, mib), gib) }

// PartitionMiB is the size, in MiB, of all but the last of n partitions on
// freeBytes of a disk.
func PartitionMiB(freeBytes uint64, n int) uint64 {
	if n <= 0 || freeBytes < mib {
		return 0
	}
	return (freeBytes - mib) / mib / uint64(n)
}

func roundUp(v, unit uint64) uint64 { return (v + unit - 1) / unit * unit }

// SimpleOffsets places the areas of a deployment without disk superblock on
// one device (tool command simple-offsets). It reads object_size,
// bitmap_granularity, data_csum_type, csum_block_size, device_block_size,
// journal_offset, journal_size and meta_reserve (a plain factor) from o.
func SimpleOffsets(o Options, deviceBytes uint64) (*Plan, error) {
	unit, err := o.size32("device_block_size", defaultMetaBlockBytes)
	if err != nil {
		return nil, err
	}
	sizes := maps.Clone(o)
	if sizes == nil {
		sizes = Options{}
	}
	sizes["block_size"], sizes["meta_block_size"] = o["object_size"], jsonNumber(uint64(unit))
	g, err := geometryOptions(sizes)
	if err != nil {
		return nil, err
	}
	reserve := 1.5
	if text := o.Text("meta_reserve"); text != "" {
		if reserve, err = strconv.ParseFloat(text, 64); err != nil || !(reserve >= 1 && reserve <= 1000) {
			return nil, fmt.Errorf("meta_reserve is %q, must be a factor 1..1000", text)
		}
	}
	d := uint64(unit)
	p := &Plan{}
	if p.BufferOffset, err = o.Size("journal_offset", 0); err != nil {
		return nil, err
	}
	if p.BufferBytes, err = o.Size("journal_size", bufferBytesFast); err != nil {
		return nil, err
	}
	if p.BufferBytes < MinBufferBytes || p.BufferBytes > deviceBytes || p.BufferOffset > deviceBytes {
		return nil, fmt.Errorf("journal_offset %d, journal_size %d do not fit a device of %d bytes: journal_size must be at least %d",
			p.BufferOffset, p.BufferBytes, deviceBytes, MinBufferBytes)
	}
	p.BufferOffset = roundUp(p.BufferOffset, d)
	p.MetaOffset = p.BufferOffset + roundUp(p.BufferBytes, d)
	return p, p.simpleData(&g, deviceBytes, d, reserve)
}

func (p *Plan) simpleData(g *Geometry, deviceBytes, d uint64, reserve float64) error {
	if p.MetaOffset < deviceBytes {
		objects := (deviceBytes - p.MetaOffset) / uint64(g.BlockBytes)
		perBlock := d / uint64(g.BigIntentBytes()) // 52 + 2*bm + (4*K or 4)
		blocks := math.Floor(float64((objects+perBlock-1)/perBlock) * reserve)
		p.MinMetaBytes = g.MinMetaBytes(objects)
		p.DataOffset = p.MetaOffset + d*uint64(blocks)
	}
	if p.DataOffset == 0 || p.DataOffset+2*uint64(g.BlockBytes) > deviceBytes {
		return fmt.Errorf("no room for data on a device of %d bytes behind a buffer area of %d: use a larger device or a smaller journal_size",
			deviceBytes, p.BufferBytes)
	}
	p.DataBytes = deviceBytes - p.DataOffset
	return nil
}
