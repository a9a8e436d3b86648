package client

import (
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// io reads, writes or deletes one range of one inode. It is cut into parts at
// the borders of objects, each of which is sent and repeated by itself.
type io struct {
	c      *Client
	op     wire.Op // READ, WRITE or DELETE
	flags  ioFlags
	inode  meta.Inode
	offset uint64
	bytes  uint64
	iov    [][]byte
	rev    uint64       // READ: > 0 = with the parents in the same pool
	cas    meta.Version // condition
	bitmap []byte       // READ: wanted bits, one per granule of the range; nil = none
	done   func(x *io)

	// Who wants it: one of them.
	user   *Op
	reader *reader
	flush  *flush

	pool    *pool
	gen     uint32 // of pool, when it was cut
	parts   *part
	left    int // parts without a result, and 1 while they are being started
	err     syscall.Errno
	stale   bool // a part has no result because the PGs are others now
	version meta.Version

	changed bool // rev is not the one that the chain of layers was found with
	// The wanted part of the range, if it is read into memory of its own.
	bounce               bool
	bounceFrom, bounceTo uint64

	list       *ioList
	prev, next *io // in list; next also among free ones
}

type ioFlags uint8

const (
	ioCAS      ioFlags = 1 << iota // one attempt, no more (osd.md §18)
	ioForever                      // no error ends it: the data was acknowledged
	ioWaitUp                       // Flags.WaitUpTimeout
	ioTracked                      // changes data that may be buffered, see track.go
	ioBitsOnly                     // READ of bitmaps
	ioDurable                      // in a lazy pool: done after a SYNC
)

// newIO takes an io from the free list; the caller fills it in.
func (c *Client) newIO() *io {
	x := c.freeIO
	if x == nil {
		return &io{c: c}
	}
	c.freeIO = x.next
	x.next = nil
	return x
}

// launch cuts x and sends its parts.
func (c *Client) launch(x *io) {
	c.busyWork++
	c.cut(x)
}

func (c *Client) cut(x *io) {
	x.gen, x.stale, x.left = x.pool.gen, false, 1
	var last *part
	pos := position{}
	for offset, end := x.offset, x.offset+x.bytes; offset < end || x.parts == nil; {
		object := offset / x.pool.objectBytes * x.pool.objectBytes
		n := min(end, object+x.pool.objectBytes, offset+wire.MaxIOBytes) - offset
		p := c.newPart(x, offset, uint32(n))
		if x.op != wire.OpDelete && x.flags&ioBitsOnly == 0 {
			p.iov = pos.take(p.iov, x.iov, n)
		}
		if last == nil {
			x.parts = p
		} else {
			last.sibling = p
		}
		last = p
		x.left++
		offset += n
	}
	for p := x.parts; p != nil; p = p.sibling {
		c.dispatch(p)
	}
	c.oneLess(x)
}

// oneLess counts a part that has a result, or the end of cutting.
func (c *Client) oneLess(x *io) {
	if x.left--; x.left > 0 {
		return
	}
	for p := x.parts; p != nil; {
		next := p.sibling
		c.putPart(p)
		p = next
	}
	x.parts = nil
	if x.stale && x.err == 0 {
		if x.flags&ioCAS == 0 {
			c.cut(x) // everything, with the new PGs
			return
		}
		x.err = syscall.EINTR
	}
	c.endIO(x)
}

// endIO gives x back to who wanted it.
func (c *Client) endIO(x *io) {
	c.busyWork--
	if x.list != nil {
		x.list.remove(x)
		c.admit()
	}
	x.done(x)
	*x = io{c: c, next: c.freeIO}
	c.freeIO = x
	c.idle()
}

// idle lets Close end.
func (c *Client) idle() {
	if c.ended {
		c.env.Exec.Defer(&c.doneTask)
	}
}

// worse is the error of an operation with two of them (osd.md §18).
func worse(a, b syscall.Errno) syscall.Errno {
	if rank(b) > rank(a) {
		return b
	}
	return a
}

func rank(e syscall.Errno) int {
	switch e {
	case 0:
		return 0
	case syscall.EPIPE:
		return 1
	case syscall.ETIMEDOUT:
		return 2
	case syscall.ENOSPC:
		return 3
	case syscall.EIO:
		return 4
	case syscall.ECANCELED:
		return 6
	}
	return 5
}

// position walks over the bytes of an iov.
type position struct{ part, off int }

// take appends the next n bytes to parts.
func (q *position) take(parts, iov [][]byte, n uint64) [][]byte {
	for n > 0 {
		b := iov[q.part][q.off:]
		if uint64(len(b)) > n {
			b = b[:n]
			q.off += int(n)
		} else {
			q.part, q.off = q.part+1, 0
		}
		if len(b) > 0 {
			parts = append(parts, b)
		}
		n -= uint64(len(b))
	}
	return parts
}
