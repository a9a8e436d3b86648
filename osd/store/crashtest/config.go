package crashtest

import (
	"fmt"
	"time"

	"vitastor/internal/meta"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// Dice makes the decisions from which a case is drawn: *rand.Rand, or rapid.
type Dice interface {
	IntN(n int) int // 0..n-1
}

func oneOf[T any](d Dice, of ...T) T { return of[d.IntN(len(of))] }

func chance(d Dice, percent int) bool { return d.IntN(100) < percent }

// Caching says which devices have a volatile cache.
type Caching uint8

// Kinds of devices under a store.
const (
	WriteThrough Caching = iota // none
	Cached                      // all
	CachedData                  // the data device, if it has nothing else on it
)

// Config is everything about a store and its disks that a case chooses.
type Config struct {
	Store   store.Config
	Caching Caching
	// Device numbers of the areas: data is on 0, the others there or on 1, 2.
	MetaDevice, BufferDevice int
	DeviceBytes              []int64

	SectorBytes int // block size of the disks
	AtomicBytes int // what they write atomically
	Slow        float64
	DiscardUnit int64

	Objects     int // of each pool
	Depth       int // operations in flight
	UnstableMax int // unstable versions of one object
	// InPlace: most writes are of one granule and could be made in place.
	InPlace bool
	// Mixed: each pool is written with WRITE and WRITE_STABLE.
	Mixed bool
}

// pools of the histories: the first is written like a replicated one, the
// second like an erasure-coded one.
const (
	replicatedPool meta.PoolID = 1
	ecPool         meta.PoolID = 2
)

func (c *Config) granules() int    { return int(c.Store.BlockBytes / c.Store.GranuleBytes) }
func (c *Config) bitmapBytes() int { return meta.BitmapBytes(c.Store.BlockBytes, c.Store.GranuleBytes) }

func (c *Config) String() string {
	s := &c.Store
	return fmt.Sprintf("B=%d G=%d C=%d M=%d metaBlocks=%d dataBlocks=%d buffer=%d devices=%d meta@%d buffer@%d caching=%d commit=%d "+
		"intentDepth=%d atomic=%d/%d flag=%v sector=%d writeDepth=%d compactors=%d..%d queue=%d trim=%d slow=%.0f discard=%d objects=%d depth=%d unstable<=%d mixed=%v pool=%d",
		s.BlockBytes, s.GranuleBytes, s.CsumBytes, s.MetaBlockBytes, s.Areas.MetaLen/int64(s.MetaBlockBytes)-1, s.Areas.DataLen/int64(s.BlockBytes),
		s.Areas.BufferLen, len(c.DeviceBytes), c.MetaDevice, c.BufferDevice, c.Caching, s.Commit, s.IntentDepth, s.AtomicWriteBytes, c.AtomicBytes,
		s.UseAtomicFlag, c.SectorBytes, s.MaxWriteDepth, s.MinCompactors, s.MaxCompactors, s.CompactQueueStart, s.IntentTrimInterval,
		c.Slow, c.DiscardUnit, c.Objects, c.Depth, c.UnstableMax, c.Mixed, s.BufferPoolBytes)
}

// NewConfig draws a configuration.
func NewConfig(d Dice) *Config {
	c := &Config{Objects: 2 + d.IntN(4), Depth: oneOf(d, 1, 2, 4, 8), UnstableMax: oneOf(d, 2, 4, 7), Slow: 1}
	c.Mixed = chance(d, 20)
	c.chooseSizes(d)
	c.chooseDurability(d)
	c.chooseLimits(d)
	if chance(d, 25) {
		c.preferInPlace(d)
	}
	c.place(d)
	return c
}

func (c *Config) chooseSizes(d Dice) {
	s := &c.Store
	size := oneOf(d, [2]uint32{4096, 512}, [2]uint32{32 << 10, 4096}, [2]uint32{32 << 10, 4096}, [2]uint32{64 << 10, 4096}, [2]uint32{128 << 10, 16 << 10})
	s.BlockBytes, s.GranuleBytes = size[0], size[1]
	s.CsumBytes = oneOf(d, 0, s.GranuleBytes, 4*s.GranuleBytes)
	s.MetaBlockBytes = oneOf[uint32](d, 512, 1024, 2048, 4096, 4096)
	c.SectorBytes, c.AtomicBytes = 512, oneOf(d, int(s.MetaBlockBytes), 4096, 16384)
	if s.GranuleBytes >= 4096 && s.MetaBlockBytes == 4096 && chance(d, 30) {
		c.SectorBytes = 4096
	}
}

func (c *Config) chooseDurability(d Dice) {
	s := &c.Store
	c.Caching = oneOf(d, WriteThrough, WriteThrough, Cached, Cached, CachedData)
	switch c.Caching {
	case WriteThrough:
		s.DisableDataFsync, s.DisableMetaFsync, s.DisableBufferFsync = true, true, true
		s.Commit = oneOf(d, store.CommitAll, store.CommitAll, store.CommitSmall, store.CommitNone)
	case Cached:
		s.Commit = store.CommitNone
	case CachedData:
		s.DisableMetaFsync, s.DisableBufferFsync = true, true
		s.Commit = oneOf(d, store.CommitSmall, store.CommitSmall, store.CommitNone)
	}
	s.AtomicWriteBytes = 0
	if atomic := uint32(c.AtomicBytes); chance(d, 75) && atomic >= s.GranuleBytes {
		s.AtomicWriteBytes = min(atomic, s.GranuleBytes*oneOf[uint32](d, 1, 1, 4, 8))
		s.UseAtomicFlag = chance(d, 30)
	}
	s.IntentDepth = oneOf(d, 1, 1, 2, 4, -1)
}

// preferInPlace makes in-place writes frequent, which need many conditions
// (ondisk.md §6.3).
func (c *Config) preferInPlace(d Dice) {
	s := &c.Store
	c.InPlace, c.Caching = true, WriteThrough
	s.DisableDataFsync, s.DisableMetaFsync, s.DisableBufferFsync = true, true, true
	c.AtomicBytes = max(c.AtomicBytes, 4096, int(s.GranuleBytes))
	s.AtomicWriteBytes = min(uint32(c.AtomicBytes), s.GranuleBytes*oneOf[uint32](d, 1, 1, 4, 8))
	s.IntentDepth, s.IntentTrimInterval = oneOf(d, 1, 1, 2), oneOf(d, 1, 2, 8)
	if s.CsumBytes > s.GranuleBytes && chance(d, 50) {
		s.CsumBytes = s.GranuleBytes
	}
}

func (c *Config) chooseLimits(d Dice) {
	s := &c.Store
	s.MaxWriteDepth = oneOf(d, 1, 2, 4, 16)
	s.MinCompactors, s.MaxCompactors = 1, oneOf(d, 1, 2, 4)
	s.CompactQueueStart = oneOf(d, 1, 1, 2, 4, 1000)
	s.IntentTrimInterval = oneOf(d, 1, 2, 4, 64)
	s.VerifyDepth = oneOf(d, 1, 2, 16)
	s.ReadAheadStartBytes = oneOf(d, 4096, 65536)
	s.BufferPoolBytes = 4 << 20
	s.ReshardChunkObjects, s.ReshardChunkPause = oneOf(d, 1, 3, 1000), -1
	s.DiscardGranularityBytes = -1
	if chance(d, 30) {
		c.DiscardUnit = 4096
		s.DiscardGranularityBytes, s.MinDiscardBytes = 0, int64(s.BlockBytes)
		s.DiscardOnStart = chance(d, 50)
	}
	if chance(d, 10) {
		c.Slow = float64(oneOf(d, 5, 50))
		s.ThrottleSmallWrites = true
		s.ThrottleTargetIOPS, s.ThrottleTargetMBs, s.ThrottleThreshold = 5000, 100, 50*time.Microsecond
	}
}

// place draws the sizes of the areas, small so that space runs out all the
// time, and puts them on devices.
func (c *Config) place(d Dice) {
	s := &c.Store
	blocks := int64(max(2, 2*c.Objects+d.IntN(4*c.Objects)-c.Objects/2))
	g := layout.Geometry{BlockBytes: s.BlockBytes, GranuleBytes: s.GranuleBytes, MetaBlockBytes: s.MetaBlockBytes,
		CsumBytes: s.CsumBytes, BlockCount: uint32(blocks), BufferBytes: 1 << 20}
	g, err := g.Complete()
	if err != nil {
		s.MetaBlockBytes, c.AtomicBytes, g.MetaBlockBytes = 4096, max(c.AtomicBytes, 4096), 4096
		if g, err = g.Complete(); err != nil {
			panic(err)
		}
	}
	m := int64(s.MetaBlockBytes)
	metaBlocks := max(3, int64(g.MinMetaBytes(uint64(blocks)))/m+oneOf[int64](d, 0, 1, 2, 4, 6, 12))
	a := &s.Areas
	a.DataLen, a.MetaLen = blocks*int64(s.BlockBytes), (1+metaBlocks)*m
	a.BufferLen = int64(s.BlockBytes) + int64(s.GranuleBytes)*oneOf[int64](d, 0, 1, 4, 16, 48)
	layouts := [][2]int{{0, 0}, {1, 1}, {1, 2}, {0, 1}, {1, 0}}
	on := oneOf(d, layouts...)
	if c.Caching == CachedData {
		on = layouts[1+d.IntN(2)]
	}
	c.MetaDevice, c.BufferDevice = on[0], on[1]
	c.DeviceBytes = make([]int64, 1+max(on[0], on[1]))
	for i := range c.DeviceBytes {
		c.DeviceBytes[i] = 4096
	}
	put := func(device int, length int64) int64 {
		at := c.DeviceBytes[device]
		c.DeviceBytes[device] = (at + length + 16383) &^ 16383
		return at
	}
	for i := range c.DeviceBytes {
		c.DeviceBytes[i] = 16384
	}
	a.BufferOffset = put(c.BufferDevice, a.BufferLen)
	a.MetaOffset = put(c.MetaDevice, a.MetaLen)
	a.DataOffset = put(0, a.DataLen)
}

// params describes the store to the reader of images.
func (c *Config) params() *layout.Params {
	s, a := &c.Store, &c.Store.Areas
	g, err := layout.Geometry{BlockBytes: s.BlockBytes, GranuleBytes: s.GranuleBytes, MetaBlockBytes: s.MetaBlockBytes, CsumBytes: s.CsumBytes,
		BlockCount: uint32(a.DataLen / int64(s.BlockBytes)), BufferBytes: uint64(a.BufferLen)}.Complete()
	if err != nil {
		panic(err)
	}
	return &layout.Params{
		Data:       layout.Area{Offset: uint64(a.DataOffset), Bytes: uint64(a.DataLen)},
		Meta:       layout.Area{Offset: uint64(a.MetaOffset), Bytes: uint64(a.MetaLen)},
		Buffer:     layout.Area{Offset: uint64(a.BufferOffset), Bytes: uint64(a.BufferLen)},
		Geometry:   g,
		MetaBlocks: uint32(a.MetaLen/int64(s.MetaBlockBytes) - 1), DiskAlignment: uint32(c.SectorBytes),
		DisableDataFsync: s.DisableDataFsync, DisableMetaFsync: s.DisableMetaFsync, DisableBufferFsync: s.DisableBufferFsync,
		AtomicWriteBytes: s.AtomicWriteBytes,
	}
}

// durableOnAck tells whether the contract makes a mutation durable when it is
// acknowledged (rule 6). On write-through disks everything is (ondisk.md §6).
func (c *Config) durableOnAck(m *Mutation) bool {
	switch {
	case c.Caching == WriteThrough || c.Store.Commit == store.CommitAll:
		return true
	case c.Store.Commit == store.CommitNone:
		return false
	}
	return m.To-m.From < c.granules()
}
