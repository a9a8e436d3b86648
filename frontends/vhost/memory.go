package vhost

import (
	"errors"
	"fmt"
	"slices"

	"vitastor/internal/guestmem"
)

// memory is what a front-end has shared with us.
type memory struct {
	regions []sharedRegion
	space   *guestmem.Space // nil = none; changes with regions
}

// sharedRegion is a mapped region.
type sharedRegion struct {
	region
	mapping *guestmem.Mapping
}

// mapRegion maps a region of a file.
func mapRegion(r region, fd int) (sharedRegion, error) {
	if r.guest+r.size < r.guest || r.user+r.size < r.user {
		return sharedRegion{}, fmt.Errorf("memory at %#x of %d bytes: the end overflows", r.guest, r.size)
	}
	m, err := guestmem.MapFile(fd, r.offset, r.size, true)
	if err != nil {
		return sharedRegion{}, fmt.Errorf("memory at %#x: %w", r.guest, err)
	}
	return sharedRegion{r, m}, nil
}

// set replaces all regions; files has one descriptor for each.
func (m *memory) set(list []region, files []int) (err error) {
	if len(list) != len(files) {
		return fmt.Errorf("%d regions of memory come with %d file descriptors", len(list), len(files))
	}
	var fresh []sharedRegion
	for i := 0; i < len(list) && err == nil; i++ {
		var r sharedRegion
		if r, err = mapRegion(list[i], files[i]); err == nil {
			fresh = append(fresh, r)
		}
	}
	if err == nil {
		err = m.replace(fresh)
	} else {
		release(fresh)
	}
	return err
}

// add appends a region.
func (m *memory) add(r region, fd int) error {
	if len(m.regions) >= regionsMax {
		return fmt.Errorf("there are %d regions of memory already", regionsMax)
	}
	fresh, err := mapRegion(r, fd)
	if err != nil {
		return err
	}
	for _, old := range m.regions {
		old.mapping.Hold()
	}
	return m.replace(append(slices.Clone(m.regions), fresh))
}

// remove takes a region away, which is found by all but its offset.
func (m *memory) remove(r region) error {
	at := slices.IndexFunc(m.regions, func(s sharedRegion) bool {
		return s.guest == r.guest && s.user == r.user && s.size == r.size
	})
	if at < 0 {
		return fmt.Errorf("there is no region of memory at %#x of %d bytes to be removed", r.guest, r.size)
	}
	rest := slices.Delete(slices.Clone(m.regions), at, at+1)
	for _, old := range rest {
		old.mapping.Hold()
	}
	return m.replace(rest)
}

// replace takes over fresh, with one use of each mapping, also if it fails.
func (m *memory) replace(fresh []sharedRegion) error {
	list := make([]guestmem.Region, len(fresh))
	for i, r := range fresh {
		list[i] = guestmem.Region{Addr: r.guest, Mapping: r.mapping, Bytes: r.size, Writable: true}
	}
	space, err := guestmem.NewSpace(list)
	if err != nil {
		release(fresh)
		return err
	}
	m.close()
	m.regions, m.space = fresh, space
	return nil
}

func release(list []sharedRegion) {
	for _, r := range list {
		r.mapping.Release()
	}
}

// close gives up all memory; requests in flight keep what they use.
func (m *memory) close() {
	release(m.regions)
	if m.space != nil {
		m.space.Release()
	}
	m.regions, m.space = nil, nil
}

// errNotShared is the error of an address that is not in a region.
var errNotShared = errors.New("is not in memory that the front-end has shared")

// user finds n bytes at an address of the front-end's process, and their address
// in the guest.
func (m *memory) user(addr uint64, n int) (b []byte, guest uint64, err error) {
	for _, r := range m.regions {
		if at := addr - r.user; addr >= r.user && at < r.size && r.size-at >= uint64(n) {
			return r.mapping.Data()[at : at+uint64(n) : at+uint64(n)], r.guest + at, nil
		}
	}
	return nil, 0, fmt.Errorf("a ring of %d bytes at %#x %w", n, addr, errNotShared)
}
