package sim

import (
	"hash/crc32"
	"math/bits"

	"vitastor/internal/env"
)

// diskRequest is one env.DiskOp on its way. It fires twice: when the device has
// done its work, and (as r.notify) when the process is told.
type diskRequest struct {
	d          *Disk
	h          *diskHandle
	op         *env.DiskOp
	gen        uint64 // changes with every use, so that stale events are known
	crc        uint32 // of a write's data at submission
	n          int64  // bytes
	durable    bool   // on completion (FUA)
	early      bool   // a read that took its data at submission
	covers     uint64 // a sync: completed writes up to this number
	err        error
	prev, next *diskRequest
	notify     diskNotice
}

type diskNotice struct{ r *diskRequest }

// append puts r at the end of the requests in flight.
func (d *Disk) append(r *diskRequest) {
	r.prev, r.next = d.last, nil
	if d.last != nil {
		d.last.next = r
	} else {
		d.first = r
	}
	d.last = r
	d.inFlight++
	d.stats.InFlightMax = max(d.stats.InFlightMax, d.inFlight)
}

func (d *Disk) remove(r *diskRequest) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		d.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		d.last = r.prev
	}
	r.prev, r.next = nil, nil
	d.inFlight--
}

func (d *Disk) newRequest() *diskRequest {
	r := d.freeRequests
	if r == nil {
		r = &diskRequest{d: d}
		r.notify.r = r
		return r
	}
	d.freeRequests, r.next = r.next, nil
	return r
}

func (d *Disk) putRequest(r *diskRequest) {
	r.gen++
	r.op, r.h, r.crc = nil, nil, 0
	r.next, d.freeRequests = d.freeRequests, r
}

func (d *Disk) getWrite(n int) *cachedWrite {
	class := bits.Len(uint(max(n, 1) - 1))
	free := d.freeWrites[class]
	if len(free) == 0 {
		return &cachedWrite{data: make([]byte, n, 1<<class)}
	}
	c := free[len(free)-1]
	d.freeWrites[class] = free[:len(free)-1]
	c.data = c.data[:n]
	return c
}

func (d *Disk) putWrite(c *cachedWrite) {
	class := bits.Len(uint(cap(c.data) - 1))
	d.freeWrites[class] = append(d.freeWrites[class], c)
}

func (s *DiskStats) count(op *env.DiskOp, n int64) {
	switch op.Kind {
	case env.DiskRead:
		s.Reads++
		s.ReadBytes += uint64(n)
	case env.DiskWrite:
		s.Writes++
		s.WriteBytes += uint64(n)
		if op.Flags&env.DiskFUA != 0 {
			s.FUAWrites++
		}
	case env.DiskSync:
		s.Syncs++
	case env.DiskDiscard:
		s.Discards++
		s.DiscardBytes += uint64(n)
	}
}

// eachPart calls f for every piece of the request's memory with its offset.
func eachPart(op *env.DiskOp, f func(off int64, b []byte)) {
	if len(op.Iov) == 0 {
		f(op.Offset, op.Buf)
		return
	}
	off := op.Offset
	for _, p := range op.Iov {
		f(off, p)
		off += int64(len(p))
	}
}

func crcOf(op *env.DiskOp) uint32 {
	if len(op.Iov) == 0 {
		return crc32.Checksum(op.Buf, castagnoli)
	}
	c := uint32(0)
	for _, p := range op.Iov {
		c = crc32.Update(c, castagnoli, p)
	}
	return c
}

func boolBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
