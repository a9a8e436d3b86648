package blockdev

import (
	"syscall"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// stage is what a request waits for.
type stage uint8

const (
	stageIdle     stage = iota
	stageRead           // Read
	stageStatus         // Status
	stageReadHead       // a write: the granule that it begins in
	stageReadTail       // a write: the granule that it ends in
	stageWrite          // a write
	stageDelete         // objects
	stageSync           // durability
)

// run is what an Image knows of a request in flight.
type run struct {
	image *Image
	op    client.Op
	stage stage

	// In order.
	from, to         uint64
	ordered          bool // in the list
	partial, waiting bool
	prev, next       *Request

	nextEnded *Request

	// The rest of WriteZeroes and Discard.
	steps [stepsMax]step
	count int // of steps
	at    int // current one

	// The write, or read, that runs: bytes at offset from user. The granules at
	// its ends that it does not cover are in edge.
	offset, bytes uint64
	user          [][]byte
	span          span
	edge          []byte
	iov           [][]byte
	bitmap        []byte
}

// submit runs op on the layer that the image is now.
func (r *Request) submit(s stage, k client.Kind, offset, bytes uint64, iov [][]byte) {
	seen := r.image.seen()
	if seen == nil {
		r.end(syscall.ENOENT)
		return
	}
	r.stage = s
	op := &r.op
	op.Kind, op.Inode, op.Offset, op.Bytes, op.Iov, op.Bitmap, op.Version = k, seen.ID, offset, bytes, iov, nil, 0
	if s == stageStatus {
		op.Bitmap = r.bitmap
	}
	r.image.back.Submit(op)
}

// opDone goes on after a step.
func opDone(op *client.Op) {
	r := op.User.(*Request)
	if op.Err != 0 {
		r.failed(op.Err)
		return
	}
	switch r.stage {
	case stageRead:
		r.span.copyOut(r.edge, r.user)
		r.end(0)
	case stageStatus:
		r.describe()
		r.end(0)
	case stageReadHead:
		if r.span.tail {
			r.readTail()
			return
		}
		r.writeSpan()
	case stageReadTail:
		r.writeSpan()
	case stageWrite:
		r.written()
	case stageDelete:
		r.deleted()
	case stageSync:
		r.end(0)
	default:
		invariant.Must(false, "blockdev: an operation of no request was completed")
	}
}

// failed ends a request with an error, unless the image has got a new layer
// meanwhile.
func (r *Request) failed(err syscall.Errno) {
	seen := r.image.seen()
	if err == syscall.EROFS && seen != nil && seen.ID != r.op.Inode && !seen.ReadOnly {
		r.op.Inode = seen.ID
		r.image.back.Submit(&r.op)
		return
	}
	r.end(err)
}

// end completes the request. Only operations and waiting lead here, so it is
// never inside of Submit.
func (r *Request) end(err syscall.Errno) {
	if r.ordered {
		r.image.order.leave(r)
	}
	r.stage, r.user = stageIdle, nil
	r.Err = known(err)
	r.Done(r)
}

// sync makes what was done durable.
func (r *Request) sync() {
	r.stage = stageSync
	op := &r.op
	op.Kind, op.Offset, op.Bytes, op.Iov, op.Bitmap, op.Version = client.Sync, 0, 0, nil, nil, 0
	r.image.back.Submit(op)
}

// startRead reads, in whole granules.
func (r *Request) startRead() {
	r.target(r.Offset, r.Bytes, r.Iov)
	r.submit(stageRead, client.Read, r.span.from, r.span.to-r.span.from, r.iov)
}

// target describes a transfer between the user's memory and the image.
func (r *Request) target(offset, bytes uint64, iov [][]byte) {
	r.offset, r.bytes, r.user = offset, bytes, iov
	g := r.image.granule
	r.span = newSpan(offset, bytes, g)
	if !r.span.head && !r.span.tail {
		r.iov = append(r.iov[:0], iov...)
		return
	}
	if uint64(len(r.edge)) < 2*g {
		r.edge = make([]byte, 2*g)
	}
	r.iov = r.span.iov(r.iov[:0], r.edge, iov)
}

// startChange begins a change whose turn it is.
func (r *Request) startChange() {
	if r.Kind == Write {
		r.write(r.Offset, r.Bytes, r.Iov)
		return
	}
	seen := r.image.seen()
	mayDelete := seen != nil && seen.Parent == 0 && r.Flags&NoHole == 0
	size := uint64(0)
	if seen != nil {
		size = seen.Size
	}
	r.count, r.at = plan(&r.steps, r.Kind, r.Offset, r.Bytes, size, r.image.object, mayDelete), 0
	r.nextStep()
}

// nextStep executes the plan of WriteZeroes or Discard.
func (r *Request) nextStep() {
	if r.at == r.count {
		r.changed()
		return
	}
	s := &r.steps[r.at]
	if s.delete {
		n := min(s.bytes, deleteChunk)
		r.submit(stageDelete, client.Delete, s.offset, n, nil)
		return
	}
	// Chunks end at whole granules, so that only the ends are partial.
	n := s.bytes
	if n > zeroChunk {
		n = (s.offset+zeroChunk)/zeroChunk*zeroChunk - s.offset
	}
	r.write(s.offset, n, cut(nil, r.image.zeroes, 0, n))
}

// advance takes what was done off the plan.
func (r *Request) advance(n uint64) {
	s := &r.steps[r.at]
	s.offset, s.bytes = s.offset+n, s.bytes-n
	if s.bytes == 0 {
		r.at++
	}
	r.nextStep()
}

// deleted goes on after some objects were deleted. Copies on OSDs that are down
// may come back: zeroes must be written where they are promised.
func (r *Request) deleted() {
	s, n := &r.steps[r.at], r.op.Bytes
	if r.Kind == WriteZeroes && r.op.LeftOnDead {
		s.delete, s.bytes = false, min(s.bytes, r.Offset+r.Bytes-s.offset)
		r.nextStep()
		return
	}
	r.advance(min(n, s.bytes))
}

// write writes a range. Granules that it covers in part are read before.
func (r *Request) write(offset, bytes uint64, iov [][]byte) {
	r.target(offset, bytes, iov)
	switch g := r.image.granule; {
	case r.span.head:
		r.submit(stageReadHead, client.Read, r.span.from, g, append(r.iov[:0], r.edge[:g]))
	case r.span.tail:
		r.readTail()
	default:
		r.submit(stageWrite, client.Write, offset, bytes, r.iov)
	}
}

func (r *Request) readTail() {
	g := r.image.granule
	r.submit(stageReadTail, client.Read, r.span.to-g, g, append(r.iov[:0], r.edge[g:2*g]))
}

// writeSpan writes the user's data with what was read around it.
func (r *Request) writeSpan() {
	r.span.copyIn(r.edge, r.user)
	r.iov = r.span.iov(r.iov[:0], r.edge, r.user)
	r.submit(stageWrite, client.Write, r.span.from, r.span.to-r.span.from, r.iov)
}

// written goes on after a write.
func (r *Request) written() {
	if r.Kind == Write {
		r.changed()
		return
	}
	r.advance(r.bytes)
}

// changed makes a change durable, if that was wanted, and ends it. A plan may
// have been empty: then this is still inside of Submit.
func (r *Request) changed() {
	i := r.image
	seen := i.seen()
	if r.Flags&FUA != 0 && (seen == nil || i.cached(seen)) {
		i.order.leave(r)
		r.sync()
		return
	}
	if r.stage == stageIdle {
		i.endSoon(r, 0)
		return
	}
	r.end(0)
}

// startStatus asks which granules exist.
func (r *Request) startStatus(granule uint64) {
	r.offset, r.bytes = r.Offset, min(r.Bytes, StatusBytesMax)
	from, to := align(r.offset, r.bytes, granule)
	need := int((to-from)/granule+7) / 8
	if cap(r.bitmap) < need {
		r.bitmap = make([]byte, need)
	}
	r.bitmap = r.bitmap[:need]
	r.submit(stageStatus, client.ReadChainBitmap, from, to-from, nil)
}

// describe turns the bitmap into extents.
func (r *Request) describe() {
	g := r.image.granule
	bits := meta.Bitmap(r.bitmap)
	base := r.offset / g
	for at, end := r.offset, r.offset+r.bytes; at < end; {
		bit := at/g - base
		stop := min(end, (at/g+1)*g)
		if !r.extend(stop-at, bits.Get(int(bit))) {
			return
		}
		at = stop
	}
}
