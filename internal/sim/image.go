package sim

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sync/atomic"

	"vitastor/internal/invariant"
)

const (
	pageBytes    = 4096
	leafPages    = 256 // 1 MiB per leaf
	leafBytes    = leafPages * pageBytes
	badUnitBytes = 512 // unit of unreadable sectors
)

type page = [pageBytes]byte

// Image is the contents of a disk: sparse, reading as zeroes where nothing was
// written, and cheap to clone.
//
//	root []*leaf ──► leaf {owner; 256 x *page; bit mask: which pages are its own}
//
// Clones share leaves and pages. A leaf may be changed by the image whose owner
// number it carries, a page if besides its bit is set in such a leaf;
// everything else is copied before it is changed. Clone gives both sides new
// owner numbers. So shared memory is never written, and clones may be used by
// different goroutines.
type Image struct {
	size  int64
	owner uint64
	root  []*imageLeaf
	pages int64              // allocated
	bad   map[int64]struct{} // unreadable units; nil when there are none
}

type imageLeaf struct {
	owner uint64
	own   [leafPages / 64]uint64
	page  [leafPages]*page
}

var lastOwner atomic.Uint64

// NewImage makes an image that reads as zeroes.
func NewImage(sizeBytes int64) *Image {
	invariant.Must(sizeBytes >= 0, "sim: image of negative size")
	return &Image{
		size: sizeBytes, owner: lastOwner.Add(1),
		root: make([]*imageLeaf, (sizeBytes+leafBytes-1)/leafBytes),
	}
}

// NewImageFrom makes an image that starts with b.
func NewImageFrom(b []byte, sizeBytes int64) *Image {
	m := NewImage(max(sizeBytes, int64(len(b))))
	for off := 0; off < len(b); off += pageBytes {
		p := b[off:min(off+pageBytes, len(b))]
		if slices.IndexFunc(p, func(c byte) bool { return c != 0 }) >= 0 {
			m.write(int64(off), p)
		}
	}
	return m
}

// SizeBytes is the size of the disk.
func (m *Image) SizeBytes() int64 { return m.size }

// AllocatedBytes is how much was ever written and not discarded.
func (m *Image) AllocatedBytes() int64 { return m.pages * pageBytes }

// Clone returns an independent copy in time proportional to size / 1 MiB.
func (m *Image) Clone() *Image {
	c := &Image{size: m.size, pages: m.pages, root: slices.Clone(m.root)}
	base := lastOwner.Add(2)
	m.owner, c.owner = base-1, base
	if len(m.bad) > 0 {
		c.bad = make(map[int64]struct{}, len(m.bad))
		for u := range m.bad { // into a map: the order does not matter
			c.bad[u] = struct{}{}
		}
	}
	return c
}

func (m *Image) check(off, n int64) {
	if off < 0 || n < 0 || off > m.size-n {
		invariant.Fail("sim: [%d, +%d) is outside of an image of %d bytes", off, n, m.size)
	}
}

// ReadAt implements io.ReaderAt; unreadable sectors read as their old contents.
func (m *Image) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off > m.size {
		return 0, fmt.Errorf("read at %d of an image of %d bytes", off, m.size)
	}
	n := int(min(int64(len(b)), m.size-off))
	m.read(off, b[:n])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt; it makes unreadable sectors readable.
func (m *Image) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > m.size-int64(len(b)) {
		return 0, fmt.Errorf("write at %d+%d of an image of %d bytes", off, len(b), m.size)
	}
	m.write(off, b)
	return len(b), nil
}

// Bytes is the whole contents.
func (m *Image) Bytes() []byte {
	b := make([]byte, m.size)
	m.EachPage(func(off int64, p []byte) { copy(b[off:], p) })
	return b
}

// EachPage calls f for every allocated page in ascending order. f must not
// change p, which is shorter than a page at the end of an odd-sized disk.
func (m *Image) EachPage(f func(off int64, p []byte)) {
	for i, l := range m.root {
		if l == nil {
			continue
		}
		for j, p := range l.page {
			if p != nil {
				off := int64(i)*leafBytes + int64(j)*pageBytes
				f(off, p[:min(pageBytes, m.size-off)])
			}
		}
	}
}

func (m *Image) read(off int64, b []byte) {
	m.check(off, int64(len(b)))
	for len(b) > 0 {
		in := int(off % pageBytes)
		n := min(len(b), pageBytes-in)
		if p := m.pageAt(off); p != nil {
			copy(b[:n], p[in:])
		} else {
			clear(b[:n])
		}
		off, b = off+int64(n), b[n:]
	}
}

func (m *Image) pageAt(off int64) *page {
	if l := m.root[off/leafBytes]; l != nil {
		return l.page[off%leafBytes/pageBytes]
	}
	return nil
}

func (m *Image) write(off int64, b []byte) {
	m.check(off, int64(len(b)))
	if len(m.bad) > 0 {
		m.forgetBad(off, int64(len(b)))
	}
	for len(b) > 0 {
		in := int(off % pageBytes)
		n := min(len(b), pageBytes-in)
		copy(m.ownPage(off, n < pageBytes)[in:], b[:n])
		off, b = off+int64(n), b[n:]
	}
}

// ownPage returns the page at off for writing; with keep its contents matter.
func (m *Image) ownPage(off int64, keep bool) *page {
	l := m.ownLeaf(off / leafBytes)
	i := off % leafBytes / pageBytes
	p := l.page[i]
	if p != nil && l.own[i/64]>>(i%64)&1 == 1 {
		return p
	}
	q := new(page)
	if p == nil {
		m.pages++
	} else if keep {
		*q = *p
	}
	l.page[i] = q
	l.own[i/64] |= 1 << (i % 64)
	return q
}

func (m *Image) ownLeaf(i int64) *imageLeaf {
	l := m.root[i]
	if l != nil && l.owner == m.owner {
		return l
	}
	c := &imageLeaf{owner: m.owner}
	if l != nil {
		c.page = l.page
	}
	m.root[i] = c
	return c
}

// discard forgets the whole pages of a range, and zeroes its ragged ends.
func (m *Image) discard(off, n int64) {
	m.check(off, n)
	m.forgetBad(off, n)
	var zero page
	for n > 0 {
		in := off % pageBytes
		k := min(n, pageBytes-in)
		switch p := m.pageAt(off); {
		case p == nil:
		case k == pageBytes:
			l := m.ownLeaf(off / leafBytes)
			i := off % leafBytes / pageBytes
			l.page[i] = nil
			l.own[i/64] &^= 1 << (i % 64)
			m.pages--
		default:
			copy(m.ownPage(off, true)[in:], zero[:k])
		}
		off, n = off+k, n-k
	}
}

// missingPages counts the pages that a write would have to allocate.
func (m *Image) missingPages(off, n int64) (missing int64) {
	for p := off / pageBytes; p*pageBytes < off+n; p++ {
		if m.pageAt(p*pageBytes) == nil {
			missing++
		}
	}
	return missing
}

// FlipBit changes one bit silently (bit rot).
func (m *Image) FlipBit(off int64, bit uint) {
	m.check(off, 1)
	m.ownPage(off, true)[off%pageBytes] ^= 1 << (bit % 8)
}

// MakeUnreadable makes reads of the 512-byte sectors that overlap [off, off+n)
// fail until they are written again.
func (m *Image) MakeUnreadable(off, n int64) {
	m.check(off, n)
	if m.bad == nil {
		m.bad = map[int64]struct{}{}
	}
	for u := off / badUnitBytes; u*badUnitBytes < off+n; u++ {
		m.bad[u] = struct{}{}
	}
}

func (m *Image) unreadable(off, n int64) bool {
	if len(m.bad) == 0 {
		return false
	}
	for u := off / badUnitBytes; u*badUnitBytes < off+n; u++ {
		if _, ok := m.bad[u]; ok {
			return true
		}
	}
	return false
}

func (m *Image) forgetBad(off, n int64) {
	for u := off / badUnitBytes; len(m.bad) > 0 && u*badUnitBytes < off+n; u++ {
		delete(m.bad, u)
	}
}

// ownedPages counts the pages that are not shared with clones, for tests.
func (m *Image) ownedPages() (n int) {
	for _, l := range m.root {
		if l != nil && l.owner == m.owner {
			for _, w := range l.own {
				n += bits.OnesCount64(w)
			}
		}
	}
	return n
}
