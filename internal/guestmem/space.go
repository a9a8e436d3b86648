package guestmem

import (
	"errors"
	"fmt"
	"slices"
	"sort"
)

// Region is a range of a guest's addresses and its memory.
type Region struct {
	Addr     uint64 // the guest's
	Mapping  *Mapping
	Offset   uint64 // in the mapping
	Bytes    uint64
	Writable bool
}

func (r *Region) last() uint64 { return r.Addr + (r.Bytes - 1) }

// Space is the address space of a guest: regions that do not overlap. It never
// changes; a guest whose memory changes gets another one. It implements
// virtio.Memory.
type Space struct {
	regions []Region // sorted
	users   int
	stable  bool
}

// ErrOverlap is the error of regions that overlap.
var ErrOverlap = errors.New("regions of guest memory overlap")

// NewSpace makes a space, which uses the mappings until it is released; the
// caller is its first user.
func NewSpace(regions []Region) (*Space, error) {
	s := &Space{regions: slices.Clone(regions), users: 1, stable: true}
	sort.Slice(s.regions, func(i, j int) bool { return s.regions[i].Addr < s.regions[j].Addr })
	for i := range s.regions {
		r := &s.regions[i]
		n := uint64(len(r.Mapping.Data()))
		switch {
		case r.Bytes == 0 || r.Addr+(r.Bytes-1) < r.Addr:
			return nil, fmt.Errorf("region of guest memory at %#x of %d bytes is out of range", r.Addr, r.Bytes)
		case r.Offset > n || r.Bytes > n-r.Offset:
			return nil, fmt.Errorf("region of guest memory at %#x of %d bytes is beyond what is mapped", r.Addr, r.Bytes)
		case i > 0 && s.regions[i-1].last() >= r.Addr:
			return nil, fmt.Errorf("%w at %#x", ErrOverlap, r.Addr)
		}
		s.stable = s.stable && r.Mapping.Stable()
	}
	for i := range s.regions {
		s.regions[i].Mapping.Hold()
	}
	return s, nil
}

// Regions are what the space consists of, sorted.
func (s *Space) Regions() []Region { return s.regions }

// Stable tells whether no mapping can vanish.
func (s *Space) Stable() bool { return s.stable }

// Hold adds a user.
func (s *Space) Hold() { s.users++ }

// Release ends one use; the last one releases the mappings.
func (s *Space) Release() {
	if s.users--; s.users == 0 {
		for i := range s.regions {
			s.regions[i].Mapping.Release()
		}
	}
}

// find is the region that contains an address, or nil.
func (s *Space) find(addr uint64) *Region {
	lo, hi := 0, len(s.regions)
	for lo < hi {
		mid := (lo + hi) / 2
		if r := &s.regions[mid]; addr < r.Addr {
			hi = mid
		} else if addr > r.last() {
			lo = mid + 1
		} else {
			return r
		}
	}
	return nil
}

// Slices appends the memory of n bytes from addr on to dst, one slice for each
// region that they are in. ok is false, and dst as it was, if a part is in none,
// or may not be written and is to be.
func (s *Space) Slices(dst [][]byte, addr uint64, n uint32, write bool) ([][]byte, bool) {
	before := len(dst)
	for left := uint64(n); left > 0; {
		r := s.find(addr)
		if r == nil || write && !r.Writable {
			return dst[:before], false
		}
		at := addr - r.Addr
		part := min(left, r.Bytes-at)
		at += r.Offset
		dst = append(dst, r.Mapping.data[at:at+part:at+part])
		left, addr = left-part, addr+part
		if left > 0 && addr == 0 { // beyond the last address there is
			return dst[:before], false
		}
	}
	return dst, true
}
