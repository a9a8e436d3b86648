package uring

import (
	"time"
	"unsafe"

	"vitastor/internal/sys"
)

// The Prep methods fill a request as SQE() returned it. The caller sets UserData
// and, where wanted, Flags afterwards.

// PrepNop makes a request that does nothing and completes.
func (s *SQE) PrepNop() { s.Opcode = OpNop }

// PrepRead reads into b at an offset.
func (s *SQE) PrepRead(fd int, b []byte, offset int64) { s.transfer(OpRead, fd, b, offset) }

// PrepWrite writes b at an offset. rwFlags are unix.RWF_*.
func (s *SQE) PrepWrite(fd int, b []byte, offset int64, rwFlags uint32) {
	s.transfer(OpWrite, fd, b, offset)
	s.OpFlags = rwFlags
}

// PrepReadFixed reads into b, which lies in registered buffer index.
func (s *SQE) PrepReadFixed(fd int, b []byte, offset int64, index uint16) {
	s.transfer(OpReadFixed, fd, b, offset)
	s.BufIndex = index
}

// PrepWriteFixed writes b, which lies in registered buffer index.
func (s *SQE) PrepWriteFixed(fd int, b []byte, offset int64, rwFlags uint32, index uint16) {
	s.transfer(OpWriteFixed, fd, b, offset)
	s.OpFlags, s.BufIndex = rwFlags, index
}

// PrepReadv reads into parts. parts itself is read at submission only.
func (s *SQE) PrepReadv(fd int, parts []sys.Iovec, offset int64) {
	s.vector(OpReadv, fd, parts, offset)
}

// PrepWritev writes parts. parts itself is read at submission only.
func (s *SQE) PrepWritev(fd int, parts []sys.Iovec, offset int64, rwFlags uint32) {
	s.vector(OpWritev, fd, parts, offset)
	s.OpFlags = rwFlags
}

// PrepFsync makes completed writes durable; with FsyncDatasync without the
// file's times.
func (s *SQE) PrepFsync(fd int, flags uint32) {
	s.Opcode, s.Fd, s.OpFlags = OpFsync, int32(fd), flags
}

// PrepPunchHole frees a range of a file, which reads as zeros afterwards.
func (s *SQE) PrepPunchHole(fd int, offset, length int64) {
	s.Opcode, s.Fd = OpFallocate, int32(fd)
	s.Off, s.Addr, s.Len = uint64(offset), uint64(length), fallocPunchHole|fallocKeepSize
}

// PrepPoll completes when fd has one of the events (unix.POLL*); with multi
// each time, until cancelled.
func (s *SQE) PrepPoll(fd int, events uint32, multi bool) {
	s.Opcode, s.Fd, s.OpFlags = OpPollAdd, int32(fd), events // little endian: no swapped halves
	if multi {
		s.Len = pollAddMulti
	}
}

// PrepTimeout completes with -ETIME after t, which must stay in place until
// Submit. flags may be TimeoutEtimeIsGood.
func (s *SQE) PrepTimeout(t *Timespec, flags uint32) {
	s.Opcode, s.Fd, s.OpFlags = OpTimeout, -1, flags
	s.Addr, s.Len = uint64(uintptr(unsafe.Pointer(t))), 1
}

// NewTimespec converts a duration.
func NewTimespec(d time.Duration) Timespec {
	return Timespec{Sec: int64(d / time.Second), Nsec: int64(d % time.Second)}
}

// PrepCancel cancels the request with that user data (all such with CancelAll).
func (s *SQE) PrepCancel(userData uint64, flags uint32) {
	s.Opcode, s.Fd, s.Addr, s.OpFlags = OpAsyncCancel, -1, userData, flags|cancelByUserData
}

// PrepMsgRing posts a completion (userData, res) to another ring.
func (s *SQE) PrepMsgRing(target *Ring, res int32, userData uint64) {
	s.Opcode, s.Fd, s.Addr = OpMsgRing, int32(target.fd), msgRingData
	s.Len, s.Off = uint32(res), userData
}

// PrepCommand sends a command to the driver behind fd. Its argument goes to
// Ring.Command.
func (s *SQE) PrepCommand(fd int, command uint32) {
	s.Opcode, s.Fd, s.Off = OpUringCmd, int32(fd), uint64(command)
}

func (s *SQE) transfer(op Op, fd int, b []byte, offset int64) {
	s.Opcode, s.Fd, s.Off = op, int32(fd), uint64(offset)
	s.Addr, s.Len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint32(len(b))
}

func (s *SQE) vector(op Op, fd int, parts []sys.Iovec, offset int64) {
	s.Opcode, s.Fd, s.Off = op, int32(fd), uint64(offset)
	s.Addr, s.Len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(parts)))), uint32(len(parts))
}
