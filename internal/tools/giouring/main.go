// Command giouring compares our io_uring package with
// github.com/pawelgaczynski/giouring: the cost of a request, and what a request
// inherits from the former use of its slot. It is the measurement behind
// docs/decisions/0003-own-io-uring.md.
//
// giouring links only with a relaxed linker, therefore a module of its own:
//
//	go run -ldflags=-checklinkname=0 .
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"github.com/pawelgaczynski/giouring"

	"vitastor/internal/pinned"
	"vitastor/internal/uring"
)

const (
	rounds   = 7
	requests = 20000
	block    = 4096
)

// ring is what the comparison needs of both: run n requests, depth at a time.
type ring interface {
	nops(n, depth int)
	writes(fd int, buf []byte, n, depth int)
	staleFlags(fd int, buf []byte) int32
}

func main() {
	runtime.LockOSThread()
	f, err := os.CreateTemp("", "uring-compare")
	check(err)
	check(os.Remove(f.Name()))
	check(f.Truncate(64 << 20))
	buf, err := pinned.AlignedBuffer(block)
	check(err)

	own, err := uring.New(uring.Options{Entries: 64})
	check(err)
	theirs, err := giouring.CreateRing(64)
	check(err)
	a, b := &ownRing{r: own}, &giouringRing{r: theirs}

	fmt.Printf("%-28s %10s %10s %8s   (ns per request, medians of %d alternating rounds)\n",
		"", "own", "giouring", "ratio", rounds)
	for _, depth := range []int{1, 32} {
		compare(fmt.Sprintf("nop, depth %d", depth), a, b, func(r ring) { r.nops(requests, depth) })
		compare(fmt.Sprintf("4 KiB write, depth %d", depth), a, b, func(r ring) {
			r.writes(int(f.Fd()), buf, requests, depth)
		})
	}
	fmt.Println("\na plain write in a slot whose former request had flags set (4096 is right):")
	fmt.Printf("  own       %d\n", a.staleFlags(int(f.Fd()), buf))
	fmt.Printf("  giouring  %d (%v)\n", b.staleFlags(int(f.Fd()), buf), syscall.Errno(-min(0, b.staleFlags(int(f.Fd()), buf))))
}

func compare(name string, a, b ring, work func(ring)) {
	var own, their, ratio []float64
	for range rounds {
		x, y := timed(a, work), timed(b, work)
		own, their, ratio = append(own, x), append(their, y), append(ratio, x/y)
	}
	fmt.Printf("%-28s %10.0f %10.0f %8.2f\n", name, median(own), median(their), median(ratio))
}

func timed(r ring, work func(ring)) float64 {
	start := time.Now()
	work(r)
	return float64(time.Since(start).Nanoseconds()) / requests
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "giouring comparison:", err)
		os.Exit(1)
	}
}

type ownRing struct {
	r    *uring.Ring
	cqes [64]uring.CQE
}

func (o *ownRing) batch(depth int, prep func(*uring.SQE)) {
	for range depth {
		prep(o.r.SQE())
	}
	for left := depth; left > 0; {
		if errno := o.r.Wait(left); errno != 0 && errno != syscall.EINTR {
			check(errno)
		}
		left -= o.r.Drain(o.cqes[:])
	}
}

func (o *ownRing) nops(n, depth int) {
	for range n / depth {
		o.batch(depth, (*uring.SQE).PrepNop)
	}
}

func (o *ownRing) writes(fd int, buf []byte, n, depth int) {
	offset := int64(0)
	for range n / depth {
		o.batch(depth, func(s *uring.SQE) {
			s.PrepWrite(fd, buf, offset%(64<<20), 0)
			offset += block
		})
	}
}

func (o *ownRing) staleFlags(fd int, buf []byte) (res int32) {
	for range 2 * 64 { // every slot gets flags once
		o.batch(1, func(s *uring.SQE) { s.PrepFsync(fd, 0); s.OpFlags = 1 << 30 })
	}
	o.batch(1, func(s *uring.SQE) { s.PrepWrite(fd, buf, 0, 0) })
	return o.cqes[0].Res
}

type giouringRing struct {
	r    *giouring.Ring
	cqes [64]*giouring.CompletionQueueEvent
	last int32
}

func (g *giouringRing) batch(depth int, prep func(*giouring.SubmissionQueueEntry)) {
	for range depth {
		prep(g.r.GetSQE())
	}
	for left := depth; left > 0; {
		if _, err := g.r.SubmitAndWait(uint32(left)); err != nil && err != syscall.EINTR {
			check(err)
		}
		n := g.r.PeekBatchCQE(g.cqes[:])
		g.last = g.cqes[0].Res
		g.r.CQAdvance(n)
		left -= int(n)
	}
}

func (g *giouringRing) nops(n, depth int) {
	for range n / depth {
		g.batch(depth, (*giouring.SubmissionQueueEntry).PrepareNop)
	}
}

func (g *giouringRing) writes(fd int, buf []byte, n, depth int) {
	offset := uint64(0)
	address := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	for range n / depth {
		g.batch(depth, func(s *giouring.SubmissionQueueEntry) {
			s.PrepareWrite(fd, address, block, offset%(64<<20))
			offset += block
		})
	}
}

func (g *giouringRing) staleFlags(fd int, buf []byte) int32 {
	for range 2 * 64 {
		g.batch(1, func(s *giouring.SubmissionQueueEntry) { s.PrepareFsync(fd, 1<<30) })
	}
	address := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	g.batch(1, func(s *giouring.SubmissionQueueEntry) { s.PrepareWrite(fd, address, block, 0) })
	return g.last
}
