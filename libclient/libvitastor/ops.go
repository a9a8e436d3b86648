package main

/*
#include <stdlib.h>
#include "core.h"
*/
import "C"

import (
	"syscall"
	"unsafe"

	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// request carries an operation of the C side through the client.
type request struct {
	client.Op
	k     *core
	c     *C.vcore_op
	parts [][]byte
	cas   bool // with a condition
}

// complete gives op back to the C side.
func (k *core) complete(op *C.vcore_op, retval int64) {
	op.retval = C.int64_t(retval)
	op.next = nil
	if k.c.done_tail == nil {
		k.c.done_head = op
	} else {
		k.c.done_tail.next = op
	}
	k.c.done_tail = op
}

// submit starts an operation, or keeps it until the cluster is known.
func (k *core) submit(op *C.vcore_op) {
	switch {
	case op.kind == C.VCORE_UNWATCH:
		k.unwatch(op)
	case k.failed != nil:
		k.refuse(op)
	case k.c.ready == 0:
		if k.last == nil {
			k.waiting = op
		} else {
			k.last.next = op
		}
		k.last = op
	case op.kind == C.VCORE_READY:
		k.complete(op, 0)
	case op.kind == C.VCORE_WATCH:
		k.watch(op)
	case op.kind == C.VCORE_RESIZE:
		k.resize(op)
	case op.kind == C.VCORE_USED:
		k.used(op)
	default:
		k.transfer(op)
	}
}

// refuse completes an operation when the cluster cannot be known. An image that
// is watched stays without a number (capi.md 2.5).
func (k *core) refuse(op *C.vcore_op) {
	if op.kind == C.VCORE_WATCH {
		k.complete(op, 0)
		return
	}
	k.complete(op, -int64(k.c.error_code))
}

// kinds of operations on data.
var kinds = [...]client.Kind{C.VCORE_READ: client.Read, C.VCORE_WRITE: client.Write, C.VCORE_SYNC: client.Sync,
	C.VCORE_DELETE: client.Delete, C.VCORE_ZERO: client.Delete,
	C.VCORE_BITMAP: client.ReadBitmap, C.VCORE_CHAIN_BITMAP: client.ReadChainBitmap}

// transfer starts an operation on data.
func (k *core) transfer(op *C.vcore_op) {
	if op.kind == C.VCORE_ZERO {
		if e := k.mayZero(op); e != 0 {
			k.complete(op, -int64(e))
			return
		}
	}
	r := k.take()
	r.c = op
	r.Kind, r.Inode, r.Flags = kinds[op.kind], meta.Inode(op.inode), 0
	r.Offset, r.Bytes, r.Version = uint64(op.offset), uint64(op.len), 0
	if op.flags&C.VCORE_WAIT_UP_TIMEOUT != 0 {
		r.Flags |= client.WaitUpTimeout
	}
	if op.flags&C.VCORE_IGNORE_READONLY != 0 {
		r.Flags |= client.IgnoreReadonly
	}
	r.Iov, r.Bitmap = nil, nil
	switch r.Kind {
	case client.Write, client.Delete:
		r.Version = meta.Version(op.version)
		r.cas = op.version != 0
	case client.ReadBitmap, client.ReadChainBitmap:
		if !r.makeBitmap() {
			k.give(r)
			k.complete(op, -int64(syscall.EINVAL))
			return
		}
	}
	op.version = 0
	if r.Kind == client.Read || r.Kind == client.Write {
		r.gather()
	}
	k.client.Submit(&r.Op)
}

// mayZero tells whether deleting the objects of a range makes it read as zeroes:
// there must be nothing below, and nothing else in the objects.
func (k *core) mayZero(op *C.vcore_op) syscall.Errno {
	inode := meta.Inode(op.inode)
	g, ok := k.client.Geometry(inode)
	switch {
	case !ok || uint64(op.offset)%g.ObjectBytes != 0 || uint64(op.len)%g.ObjectBytes != 0:
		return syscall.EINVAL
	case k.client.View().Inode(inode) != nil && k.client.View().Inode(inode).Parent != 0:
		return syscall.ENOTSUP
	}
	return 0
}

// gather makes Iov of the vector of the C side, whose rest beyond the length of
// the operation is ignored.
func (r *request) gather() {
	rest := r.Bytes
	r.parts = r.parts[:0]
	for _, v := range unsafe.Slice(r.c.iov, r.c.iovcnt) {
		n := min(uint64(v.iov_len), rest)
		if n > 0 {
			r.parts = append(r.parts, unsafe.Slice((*byte)(v.iov_base), n))
		}
		rest -= n
	}
	r.Iov = r.parts
}

// bitmapMax limits the buffer of a bitmap: that of 4 TiB in granules of 4 KiB.
const bitmapMax = 128 << 20

// makeBitmap allocates the buffer that the callback will own.
func (r *request) makeBitmap() bool {
	g, ok := r.k.client.Geometry(r.Inode)
	if !ok {
		return false
	}
	n := (r.Bytes/uint64(g.GranuleBytes) + 7) / 8
	if n == 0 || n > bitmapMax {
		return false
	}
	p := C.calloc(1, C.size_t(n))
	r.c.bitmap = (*C.uint8_t)(p)
	r.Bitmap = unsafe.Slice((*byte)(p), n)
	return p != nil
}

// finished is Op.Done.
func (r *request) finished(*client.Op) {
	k, op := r.k, r.c
	retval := -int64(r.Err)
	if r.Err == 0 {
		switch r.Kind {
		case client.Read:
			op.version = C.uint64_t(r.Version)
			retval = int64(r.Bytes)
		case client.Write:
			retval = int64(r.Bytes)
		case client.Delete:
			retval = r.deleted()
		case client.ReadBitmap, client.ReadChainBitmap:
			g, _ := k.client.Geometry(r.Inode)
			retval = int64(r.Bytes / max(uint64(g.GranuleBytes), 1))
		}
	} else if op.bitmap != nil {
		C.free(unsafe.Pointer(op.bitmap))
		op.bitmap = nil
	}
	k.give(r)
	k.complete(op, retval)
}

// deleted is the length as given, or 0 after a compare-and-swap (capi.md 2.4).
func (r *request) deleted() int64 {
	switch {
	case r.c.kind == C.VCORE_ZERO && r.LeftOnDead:
		return -int64(syscall.EAGAIN)
	case r.cas:
		return 0
	}
	return int64(r.Bytes)
}

func (k *core) take() *request {
	if n := len(k.idle); n > 0 {
		r := k.idle[n-1]
		k.idle = k.idle[:n-1]
		return r
	}
	r := &request{k: k}
	r.Done = r.finished
	return r
}

func (k *core) give(r *request) {
	r.c = nil
	clear(r.parts)
	k.idle = append(k.idle, r)
}
