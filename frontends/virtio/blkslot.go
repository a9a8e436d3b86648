package virtio

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/internal/guestmem"
)

// A request of virtio-blk (virtio 1.2 §5.2.6): what the device reads begins with
//
//	0      4          8        16
//	| type | reserved | sector |
//
// and what it writes ends with a status byte; data is between them. How that is
// spread over descriptors does not matter.
const headerBytes = 16

const (
	typeIn      = 0
	typeOut     = 1
	typeFlush   = 4
	typeGetID   = 8
	typeDiscard = 11
	typeZeroes  = 13

	statusOK     = 0
	statusIOErr  = 1
	statusUnsupp = 2

	serialBytes = 20
	rangeBytes  = 16
	rangeUnmap  = 1 // flag
)

// blkSlot is a request in flight.
type blkSlot struct {
	q     *blkQueue
	next  *blkSlot // while idle
	chain Chain
	r     blockdev.Request
	kind  uint32
	// status is the last byte that the guest lets us write; data the bytes of
	// payload (read or written).
	status []byte
	data   uint64
	bufs   [][]byte // copies of the payload, of memory that may vanish

	ranges [rangesMax * rangeBytes]byte
	count  int // of ranges
	at     int // current one
}

func newBlkSlot(q *blkQueue) *blkSlot {
	s := &blkSlot{q: q}
	s.r.Done = func(*blockdev.Request) { s.diskDone() }
	return s
}

// begin takes a request apart.
func (s *blkSlot) begin() {
	c := &s.chain
	if c.ReadBytes < headerBytes || c.WriteBytes < 1 {
		err := fmt.Errorf("%w: a request with %d bytes to read and %d to write has no header or no status byte",
			ErrRing, c.ReadBytes, c.WriteBytes)
		s.q.fail(err)
		s.abandon()
		return
	}
	head, err := s.split()
	if err != nil {
		s.q.fail(err)
		s.abandon()
		return
	}
	s.kind = binary.LittleEndian.Uint32(head[:])
	sector := binary.LittleEndian.Uint64(head[8:])
	s.count, s.at, s.data = 0, 0, 0
	s.r.Flags, s.r.Iov, s.r.Bytes, s.r.Offset = 0, nil, 0, sector*sectorBytes
	if status := s.prepare(sector); status != statusOK {
		s.answer(status, 0)
		return
	}
	s.start()
}

// abandon gives up a request of a broken queue.
func (s *blkSlot) abandon() {
	s.q.ring.Push(&s.chain, 0) // an error breaks what is broken
	s.q.put(s)
}

// split takes header and status byte off the memory of the chain, so that only
// the payload is left.
func (s *blkSlot) split() (head [headerBytes]byte, err error) {
	if !s.q.stable {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	c := &s.chain
	skip := 0
	for n := 0; n < headerBytes; {
		k := copy(head[n:], c.Read[skip])
		if n += k; k == len(c.Read[skip]) {
			skip++
		} else {
			c.Read[skip] = c.Read[skip][k:]
		}
	}
	// The pieces are moved, not cut off, to keep the room in front.
	c.Read = append(c.Read[:0], c.Read[skip:]...)
	c.ReadBytes -= headerBytes
	last := len(c.Write) - 1
	end := len(c.Write[last]) - 1
	s.status = c.Write[last][end:]
	if c.Write[last] = c.Write[last][:end]; end == 0 {
		c.Write = c.Write[:last]
	}
	c.WriteBytes--
	return head, nil
}

// prepare checks a request and fills r; the result is a status.
func (s *blkSlot) prepare(sector uint64) byte {
	c, r, durable := &s.chain, &s.r, s.q.b.durable()
	if durable {
		r.Flags = blockdev.FUA
	}
	switch s.kind {
	case typeIn:
		r.Kind, r.Flags, s.data = blockdev.Read, 0, c.WriteBytes
	case typeOut:
		if s.q.b.offered&BlkReadOnly != 0 {
			return statusIOErr
		}
		r.Kind, s.data = blockdev.Write, c.ReadBytes
	case typeFlush:
		r.Kind, r.Offset, r.Flags = blockdev.Flush, 0, 0
		return statusOK
	case typeGetID:
		return statusOK
	case typeDiscard, typeZeroes:
		return s.prepareRanges()
	default:
		s.q.stats.Others++
		return statusUnsupp
	}
	if sector > 1<<54 || s.data%sectorBytes != 0 || s.data > requestBytesMax {
		return statusIOErr
	}
	r.Bytes = s.data
	return statusOK
}

// prepareRanges takes the ranges of a discard or write zeroes, after a look at
// all of them.
func (s *blkSlot) prepareRanges() byte {
	c := &s.chain
	s.r.Kind = blockdev.Discard
	offered, limit := uint64(BlkDiscard), uint64(discardBytesMax)
	if s.kind == typeZeroes {
		s.r.Kind, offered, limit = blockdev.WriteZeroes, BlkWriteZeroes, zeroesBytesMax
	}
	if s.q.b.offered&offered == 0 {
		return statusUnsupp
	}
	n := c.ReadBytes
	if n == 0 || n%rangeBytes != 0 || n > uint64(len(s.ranges)) {
		return statusIOErr
	}
	if err := s.copyIn(s.ranges[:n]); err != nil {
		s.q.fail(err)
		return statusIOErr
	}
	s.count = int(n / rangeBytes)
	for i := range s.count {
		sector, sectors, flags := s.rangeAt(i)
		known := uint32(0)
		if s.kind == typeZeroes {
			known = rangeUnmap
		}
		switch {
		case flags&^known != 0:
			return statusUnsupp
		case sector > 1<<54 || uint64(sectors)*sectorBytes > limit:
			return statusIOErr
		}
	}
	s.setRange()
	return statusOK
}

// rangeAt is a range of a discard or write zeroes.
func (s *blkSlot) rangeAt(i int) (sector uint64, sectors, flags uint32) {
	b := s.ranges[i*rangeBytes:]
	return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
}

// setRange makes r the current range.
func (s *blkSlot) setRange() {
	sector, sectors, flags := s.rangeAt(s.at)
	r := &s.r
	r.Offset, r.Bytes = sector*sectorBytes, uint64(sectors)*sectorBytes
	if r.Flags &^= blockdev.NoHole; s.kind == typeZeroes && flags&rangeUnmap == 0 {
		r.Flags |= blockdev.NoHole
	}
}

// start hands the request to the disk.
func (s *blkSlot) start() {
	q, r := s.q, &s.r
	if s.kind == typeGetID {
		s.tellID()
		return
	}
	if s.data > 0 {
		switch {
		case !q.stable:
			if !s.bounce() {
				return
			}
			r.Iov = s.bufs
		case s.kind == typeIn:
			r.Iov = s.chain.Write
		default:
			r.Iov = s.chain.Read
		}
	}
	q.b.c.Disk.Submit(r)
}

// bounce makes a copy of the payload, or room for it; false = not now, or the
// request has ended.
func (s *blkSlot) bounce() bool {
	q := s.q
	bufs, ok := q.b.memory(s.bufs[:0], s.data)
	s.bufs = bufs
	switch {
	case !ok:
		q.starving, q.b.starved = s, true
		return false
	case len(bufs) == 0:
		s.answer(statusIOErr, 0)
		return false
	}
	q.stats.Bounced++
	if s.kind == typeIn {
		return true
	}
	if err := s.copyIn(s.bufs...); err != nil {
		q.fail(err)
		s.answer(statusIOErr, 0)
		return false
	}
	return true
}

// copyIn copies what the guest wrote.
func (s *blkSlot) copyIn(to ...[]byte) (err error) {
	if !s.q.stable {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	copyPieces(to, s.chain.Read)
	return nil
}

// copyOut copies to where the guest reads.
func (s *blkSlot) copyOut(from ...[]byte) (err error) {
	if !s.q.stable {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	copyPieces(s.chain.Write, from)
	return nil
}

// copyPieces copies between lists of pieces, until either ends. It does not
// change them.
func copyPieces(to, from [][]byte) {
	t, f := 0, 0 // offsets in the first piece of each
	for len(to) > 0 && len(from) > 0 {
		n := copy(to[0][t:], from[0][f:])
		if t += n; t == len(to[0]) {
			to, t = to[1:], 0
		}
		if f += n; f == len(from[0]) {
			from, f = from[1:], 0
		}
	}
}

// tellID answers GET_ID.
func (s *blkSlot) tellID() {
	var id [serialBytes]byte
	copy(id[:], s.q.b.c.Serial)
	s.q.stats.Others++
	n := min(s.chain.WriteBytes, serialBytes)
	if err := s.copyOut(id[:n]); err != nil {
		s.q.fail(err)
	}
	s.answer(statusOK, uint32(n))
}

// diskDone goes on after the disk.
func (s *blkSlot) diskDone() {
	r := &s.r
	s.q.count(r.Kind, r.Bytes)
	if r.Err == 0 && s.at+1 < s.count {
		s.at++
		s.setRange()
		s.q.b.c.Disk.Submit(r)
		return
	}
	s.finish(r.Err)
}

// finish ends a request with the result of the disk.
func (s *blkSlot) finish(e syscall.Errno) {
	status, written := byte(statusOK), uint32(0)
	if e != 0 {
		status = statusIOErr
	}
	if s.kind == typeIn && status == statusOK {
		written = uint32(s.data)
		if len(s.bufs) > 0 {
			if err := s.copyOut(s.bufs...); err != nil {
				s.q.fail(err)
			}
		}
	}
	s.answer(status, written)
}

// answer writes the status and gives the request back; written are bytes of
// payload.
func (s *blkSlot) answer(status byte, written uint32) {
	if len(s.bufs) > 0 {
		s.q.b.giveBack(s.bufs)
		s.bufs = s.bufs[:0]
		s.q.b.freed()
	}
	s.r.Iov = nil
	if status != statusOK {
		s.q.stats.Errors++
	}
	if err := s.setStatus(status); err != nil {
		s.q.fail(err)
	}
	s.status = nil
	s.q.done(s, written+1)
}

func (s *blkSlot) setStatus(status byte) (err error) {
	if !s.q.stable {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	s.status[0] = status
	return nil
}
