package vduse

import (
	"fmt"
	"math"
	"slices"

	"vitastor/frontends/vduse/uapi"
	"vitastor/internal/guestmem"
)

// space is the memory that a driver has given to the device, by I/O virtual
// addresses. It implements virtio.Memory.
//
// Regions are mapped when they are needed first: a driver of this host makes
// some of them late. What an address means does not change in one space; when
// the kernel says that it does (UPDATE_IOTLB), the next space is made without
// that range, and the old one is unmapped as soon as no request uses it.
type space struct {
	device  Device
	regions []region // sorted
	stable  bool     // none of them can vanish
	users   int
	// failed is told, once, why memory could not be mapped.
	failed func(error)
}

type region struct {
	uapi.Region
	mapping *guestmem.Mapping
}

// regionsMax is far more than drivers have: they use one for data and up to
// three for each ring, or those of a guest.
const regionsMax = 4096

// newSpace maps everything that there is now. The caller is the first user.
func newSpace(d Device, failed func(error)) (*space, error) {
	s := &space{device: d, stable: true, users: 1, failed: failed}
	for at, more := uint64(0), true; more; {
		r, err := s.add(at, math.MaxUint64)
		if err != nil {
			s.Release()
			return nil, err
		}
		if more = r != nil && r.Last < math.MaxUint64; more {
			at = r.Last + 1
		}
	}
	for i := range s.regions {
		s.stable = s.stable && s.regions[i].mapping.Stable()
	}
	return s, nil
}

// add maps the first region that has an address of a range; nil = there is none.
func (s *space) add(start, last uint64) (*region, error) {
	r, mapping, err := s.device.Map(start, last)
	if mapping == nil || err != nil {
		return nil, err
	}
	i, _ := slices.BinarySearchFunc(s.regions, r.Start, func(have region, start uint64) int {
		if have.Start < start {
			return -1
		}
		return 1
	})
	overlaps := i > 0 && s.regions[i-1].Last >= r.Start || i < len(s.regions) && s.regions[i].Start <= r.Last
	if overlaps || len(s.regions) == regionsMax {
		mapping.Release()
		return nil, fmt.Errorf("memory of the driver from %#x to %#x overlaps with another region, or there are more than %d", r.Start, r.Last, regionsMax)
	}
	s.regions = slices.Insert(s.regions, i, region{r, mapping})
	return &s.regions[i], nil
}

// without makes the next space: what is left when a range has changed.
func (s *space) without(start, last uint64) (*space, error) {
	next := &space{device: s.device, stable: true, users: 1, failed: s.failed}
	for _, r := range s.regions {
		if r.Start <= last && start <= r.Last {
			continue
		}
		r.mapping.Hold()
		next.regions = append(next.regions, r)
		next.stable = next.stable && r.mapping.Stable()
	}
	// What is in the range now may be memory that can vanish.
	for at := start; ; {
		r, err := next.add(at, last)
		if err != nil {
			next.Release()
			return nil, err
		}
		if r == nil {
			return next, nil
		}
		next.stable = next.stable && r.mapping.Stable()
		if r.Last >= last {
			return next, nil
		}
		at = r.Last + 1
	}
}

// Stable implements virtio.Memory.
func (s *space) Stable() bool { return s.stable }

// Hold implements virtio.Memory.
func (s *space) Hold() { s.users++ }

// Release implements virtio.Memory.
func (s *space) Release() {
	if s.users--; s.users > 0 {
		return
	}
	for i := range s.regions {
		s.regions[i].mapping.Release()
	}
	s.regions = nil
}

// find is the region of an address; nil = there is none.
func (s *space) find(addr uint64) *region {
	lo, hi := 0, len(s.regions)
	for lo < hi {
		mid := (lo + hi) / 2
		switch r := &s.regions[mid]; {
		case addr < r.Start:
			hi = mid
		case addr > r.Last:
			lo = mid + 1
		default:
			return r
		}
	}
	return s.late(addr)
}

// late maps a region that was made after the space. It may not be of another
// kind than those that are known: Stable was asked already.
func (s *space) late(addr uint64) *region {
	r, err := s.add(addr, addr)
	if err == nil && r != nil && s.stable && !r.mapping.Stable() {
		err = fmt.Errorf("memory of the driver at %#x can vanish, unlike the rest of it", addr)
	}
	if err != nil {
		if s.failed != nil {
			s.failed(err)
			s.failed = nil
		}
		return nil
	}
	return r
}

// Slices implements virtio.Memory.
func (s *space) Slices(dst [][]byte, addr uint64, n uint32, write bool) ([][]byte, bool) {
	before := len(dst)
	for left := uint64(n); left > 0; {
		r := s.find(addr)
		if r == nil || write && !r.Write {
			return dst[:before], false
		}
		at := addr - r.Start
		part := min(left, r.Last-addr+1)
		dst = append(dst, r.mapping.Data()[at:at+part:at+part])
		left, addr = left-part, addr+part
		if left > 0 && addr == 0 { // beyond the last address there is
			return dst[:before], false
		}
	}
	return dst, true
}

// one is memory in one piece.
func (s *space) one(addr uint64, n int, write bool) ([]byte, error) {
	list, ok := s.Slices(nil, addr, uint32(n), write)
	if !ok || len(list) != 1 {
		return nil, fmt.Errorf("%d bytes at %#x are not in one region of the driver's memory", n, addr)
	}
	return list[0], nil
}
