package ublk

import (
	"fmt"
	"hash/fnv"
	"math/bits"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/ublk/ublkproto"
)

const (
	sector = ublkproto.SectorBytes
	page   = 4096
	// tagsMax is what one io_uring takes.
	tagsMax = 32768
	// defaultRequest is the longest request, unless objects are larger.
	defaultRequest = 1 << 20
	// Longest ranges of requests without data. A request must not take so long
	// that the kernel believes the server to be stuck (30 s).
	discardBytes = 1 << 30
	zeroesBytes  = 64 << 20
)

// shape is what a device is made of.
type shape struct {
	queues       uint64
	depth        int
	requestBytes uint64 // 0 = what fits the disk
	rotational   bool
	readOnly     bool
	writeBack    bool // our client caches writes
}

// check refuses what no kernel takes.
func (s *shape) check() error {
	switch r := s.requestBytes; {
	case s.depth < 1 || s.depth > ublkproto.QueueDepthMax:
		return fmt.Errorf("queue_depth %d: between 1 and %d", s.depth, ublkproto.QueueDepthMax)
	case s.queues < 1 || s.queues > tagsMax || int(s.queues)*s.depth > tagsMax:
		return fmt.Errorf("queues %d: at least 1, and queues × queue_depth (%d) at most %d", s.queues, s.depth, tagsMax)
	case r != 0 && (r < page || r > ublkproto.RequestMax || r&(r-1) != 0):
		return fmt.Errorf("max_io_size %d: a power of two between 4K and 32M", r)
	}
	return nil
}

// info is what ADD_DEV asks for.
func (s *shape) info(d blockdev.Info, mark uint64, features ublkproto.Features) ublkproto.DevInfo {
	r := s.requestBytes
	if r == 0 {
		r = defaultRequest
		for r < d.ObjectBytes && r < ublkproto.RequestMax {
			r *= 2
		}
	}
	wanted := ublkproto.SizeUpdates
	if !s.writeBack { // a server that is killed must not take acknowledged writes with it
		wanted |= ublkproto.UserRecovery | ublkproto.UserRecoveryReissue
	}
	return ublkproto.DevInfo{Queues: uint16(s.queues), Depth: uint16(s.depth), RequestBytes: uint32(r), Device: ublkproto.NewDevice,
		Flags: wanted & features, Mark: mark}
}

// params is what SET_PARAMS says about a disk.
//
// Compat: the reference sets VOLATILE_CACHE where writes are durable, and does not
// where they need a flush. Here it is the other way round.
func (s *shape) params(d blockdev.Info, i *ublkproto.DevInfo) ublkproto.Params {
	logical := logicalBytes(d.SizeBytes, uint64(d.GranuleBytes))
	granule := max(powerPart(uint64(d.GranuleBytes)), logical)
	object := max(powerPart(d.ObjectBytes), granule)
	p := ublkproto.Params{LogicalShift: shift(logical), PhysicalShift: shift(granule), MinimalShift: shift(granule),
		OptimalShift: shift(object), MaxSectors: i.RequestBytes / sector, Sectors: d.SizeBytes / logical * logical / sector}
	if s.readOnly || d.ReadOnly {
		p.Attributes |= ublkproto.ReadOnly
	} else {
		p.DiscardGranularity = uint32(min(object, 1<<30))
		p.MaxDiscardSectors, p.MaxZeroesSectors = discardBytes/sector, zeroesBytes/sector
	}
	if s.rotational {
		p.Attributes |= ublkproto.Rotational
	}
	if d.WriteCache || s.writeBack {
		p.Attributes |= ublkproto.VolatileCache | ublkproto.FUA
	}
	return p
}

// logicalBytes is the block size of a device: that of the pool, as far as the
// kernel can have it, unless the end of the image would be lost.
func logicalBytes(size, granule uint64) uint64 {
	b := min(powerPart(granule), page)
	if b < sector || size%b != 0 {
		return sector
	}
	return b
}

// powerPart is the largest power of two that divides n.
func powerPart(n uint64) uint64 { return n & -n }

func shift(n uint64) uint8 { return uint8(bits.TrailingZeros64(n)) }

// markOf is what the kernel keeps for us about a device: which image it is. Not
// the number of the image, which changes with snapshots.
func markOf(t session.Target) uint64 {
	h := fnv.New64a()
	h.Write([]byte("vitastor " + t.String()))
	return h.Sum64() | 1
}
