package pinned

import (
	"fmt"
	"math/bits"
	"unsafe"

	"vitastor/internal/invariant"
)

// MaxBufferBytes is the largest buffer of a Pool. Longer payloads are gathered
// from several.
const MaxBufferBytes = 1 << 20

const (
	spanBytes  = MaxBufferBytes // unit in which classes take memory
	spanPages  = spanBytes / pageBytes
	classCount = 9 // 4 KiB << 0..8
)

// Pool hands out I/O buffers from one region of fixed size. Its pages are
// touched, and cost RAM, only when first used.
//
// The region is cut into spans of 1 MiB. A span is either idle or cut into
// buffers of one size class (powers of two from 4 KiB), and becomes idle again
// when its last buffer returns:
//
//	region  | span 0: 256 x 4 KiB | span 1: idle | span 2: 8 x 128 KiB | ...
//
// Get and Put are a few memory accesses and allocate nothing.
type Pool struct {
	name   string
	region []byte
	pages  []page
	spans  []span
	idle   int32             // first idle span, -1 = none
	usable [classCount]int32 // first span of the class with a free buffer, -1 = none
	stats  PoolStats
}

// PoolStats tells how a pool is used. Sizes count whole buffers of a class.
type PoolStats struct {
	Name       string
	LimitBytes int64
	UsedBytes  int64
	PeakBytes  int64
	Gets       uint64
	Refusals   uint64 // Gets that found the pool empty
}

// page is the state of a buffer, kept at the index of its first page.
type page struct {
	next int32 // next free buffer of the span, as a page index; -1 = last
	used bool
}

type span struct {
	next, prev int32 // in the idle list (next only) or in usable[class]
	free       int32 // first returned buffer, as a page index; -1 = none
	fresh      int32 // page index of the first buffer never handed out since the span was cut
	live       int32 // buffers handed out
	class      int8  // -1 = idle
}

// NewPool reserves limitBytes (rounded up to 1 MiB) of address space for a pool.
// name appears in statistics and in messages of violated invariants.
func NewPool(name string, limitBytes int) (*Pool, error) {
	n := roundUp(max(limitBytes, 1), spanBytes)
	region, err := Make[byte](n)
	if err != nil {
		return nil, fmt.Errorf("buffer pool %q: %w", name, err)
	}
	p := &Pool{name: name, region: region, stats: PoolStats{Name: name, LimitBytes: int64(n)},
		pages: make([]page, n/pageBytes), spans: make([]span, n/spanBytes)}
	for i := range p.spans {
		p.spans[i] = span{next: int32(i + 1), class: -1}
	}
	p.spans[len(p.spans)-1].next = -1
	for i := range p.usable {
		p.usable[i] = -1
	}
	return p, nil
}

// Get returns a buffer of n bytes (1 <= n <= MaxBufferBytes) aligned to 4 KiB,
// with capacity up to the end of its size class. ok is false when the limit is
// reached: the caller waits, and stops taking in new work meanwhile. The
// content is arbitrary.
func (p *Pool) Get(n int) (b []byte, ok bool) {
	if n <= 0 || n > MaxBufferBytes {
		invariant.Fail("pool %q: a buffer of %d bytes was asked for", p.name, n)
	}
	class := classOf(n)
	s := p.usable[class]
	if s < 0 {
		if s = p.takeSpan(class); s < 0 {
			p.stats.Refusals++
			return nil, false
		}
	}
	sp := &p.spans[s]
	at := sp.free
	if at >= 0 {
		sp.free = p.pages[at].next
	} else {
		at = sp.fresh
		sp.fresh += 1 << class
	}
	invariant.Must(!p.pages[at].used, "pool: a buffer in use was taken for a free one")
	p.pages[at].used = true
	sp.live++
	if p.full(s) {
		p.unlink(s)
	}
	size := pageBytes << class
	p.stats.Gets++
	p.stats.UsedBytes += int64(size)
	p.stats.PeakBytes = max(p.stats.PeakBytes, p.stats.UsedBytes)
	start := int(at) * pageBytes
	return p.region[start : start+n : start+size], true
}

// Put takes a buffer back. b must begin where Get's result began.
func (p *Pool) Put(b []byte) {
	offset := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(p.region)))
	if cap(b) == 0 || offset >= uintptr(len(p.region)) || offset%pageBytes != 0 {
		invariant.Fail("pool %q: a foreign buffer was put (%d bytes)", p.name, cap(b))
	}
	at := int32(offset / pageBytes)
	pg := &p.pages[at]
	if !pg.used {
		invariant.Fail("pool %q: buffer at page %d was put twice, or not at its start", p.name, at)
	}
	s := at / spanPages
	sp := &p.spans[s]
	size := pageBytes << sp.class
	if invariant.Enabled {
		poison(p.region[offset : int(offset)+size])
	}
	if p.full(s) {
		p.link(s)
	}
	pg.used, pg.next = false, sp.free
	sp.free = at
	sp.live--
	p.stats.UsedBytes -= int64(size)
	if sp.live == 0 {
		p.unlink(s)
		sp.class, sp.next = -1, p.idle
		p.idle = s
	}
}

// Stats returns the current statistics.
func (p *Pool) Stats() PoolStats { return p.stats }

// Region is the whole memory of the pool, for registration with an io_uring.
func (p *Pool) Region() []byte { return p.region }

// Free returns the region. All buffers must have been put back.
func (p *Pool) Free() {
	if p.stats.UsedBytes != 0 {
		invariant.Fail("pool %q: freed with %d bytes in use", p.name, p.stats.UsedBytes)
	}
	Free(p.region)
	*p = Pool{name: p.name}
}

// Discard is Free with buffers in use: for the owner of a pool whose users were
// abandoned in the middle of their work (a crashed process of the simulator).
func (p *Pool) Discard() {
	Free(p.region)
	*p = Pool{name: p.name}
}

func classOf(n int) int { return bits.Len(uint(n-1) / pageBytes) }

// poison makes use of a returned buffer visible.
func poison(b []byte) {
	for n := copy(b, "returned"); n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

// takeSpan cuts an idle span into buffers of the class; -1 = none is idle.
func (p *Pool) takeSpan(class int) int32 {
	s := p.idle
	if s < 0 {
		return -1
	}
	sp := &p.spans[s]
	p.idle = sp.next
	sp.class, sp.free, sp.fresh, sp.live = int8(class), -1, s*spanPages, 0
	p.link(s)
	return s
}

// full tells whether span s has no buffer left to hand out.
func (p *Pool) full(s int32) bool {
	sp := &p.spans[s]
	return sp.free < 0 && sp.fresh == (s+1)*spanPages
}

func (p *Pool) link(s int32) {
	sp := &p.spans[s]
	head := &p.usable[sp.class]
	sp.prev, sp.next = -1, *head
	if *head >= 0 {
		p.spans[*head].prev = s
	}
	*head = s
}

func (p *Pool) unlink(s int32) {
	sp := &p.spans[s]
	if sp.prev >= 0 {
		p.spans[sp.prev].next = sp.next
	} else {
		p.usable[sp.class] = sp.next
	}
	if sp.next >= 0 {
		p.spans[sp.next].prev = sp.prev
	}
}
