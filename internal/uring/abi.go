package uring

// The kernel's interface, from <linux/io_uring.h>. Names are the kernel's
// without IORING_.

// SQE is struct io_uring_sqe, a request:
//
//	 0 opcode u8 | flags u8 | ioprio u16 | fd s32
//	 8 off u64 (or addr2, or cmd_op u32)
//	16 addr u64
//	24 len u32 | op flags u32 (rw_flags, fsync_flags, ...)
//	32 user_data u64
//	40 buf_index u16 | personality u16 | file_index u32
//	48 addr3 u64 | pad u64      (with SQE128: 80 bytes of command from here)
type SQE struct {
	Opcode      Op
	Flags       uint8
	IOPrio      uint16
	Fd          int32
	Off         uint64
	Addr        uint64
	Len         uint32
	OpFlags     uint32
	UserData    uint64
	BufIndex    uint16
	Personality uint16
	FileIndex   uint32
	Addr3       uint64
	_           uint64
}

// CQE is struct io_uring_cqe, a completion.
type CQE struct {
	UserData uint64
	Res      int32 // result, or -errno
	Flags    uint32
}

// Op is a request's opcode.
type Op uint8

// Opcodes that this package prepares.
const (
	OpNop         Op = 0
	OpReadv       Op = 1
	OpWritev      Op = 2
	OpFsync       Op = 3
	OpReadFixed   Op = 4
	OpWriteFixed  Op = 5
	OpPollAdd     Op = 6
	OpTimeout     Op = 11
	OpAsyncCancel Op = 14
	OpFallocate   Op = 17
	OpRead        Op = 22
	OpWrite       Op = 23
	OpMsgRing     Op = 40
	OpUringCmd    Op = 46
)

// Flags of SQE.Flags.
const (
	SQEFixedFile uint8 = 1 << 0 // Fd is an index into the registered files
	SQEDrain     uint8 = 1 << 1 // starts after all earlier requests ended
	SQELink      uint8 = 1 << 2 // the next request starts when this one succeeded
	SQEAsync     uint8 = 1 << 4 // do not try without a worker first
)

// Flags of CQE.Flags.
const (
	CQEMore uint32 = 1 << 1 // the request will produce more completions
)

// Flags of single requests, in SQE.OpFlags.
const (
	FsyncDatasync      uint32 = 1 << 0
	CancelAll          uint32 = 1 << 0
	TimeoutEtimeIsGood uint32 = 1 << 5
)

// Set-up flags (io_uring_params.flags).
const (
	setupCQSize       = 1 << 3
	setupClamp        = 1 << 4
	setupSubmitAll    = 1 << 7  // 5.18: a bad request does not stop the ones behind it
	setupCoopTaskrun  = 1 << 8  // 5.19: completions do not interrupt user code
	setupSQE128       = 1 << 10 // 5.19
	setupSingleIssuer = 1 << 12 // 6.0: only one thread submits
	setupNoSQArray    = 1 << 16 // 6.6: requests are taken in ring order
)

// Features that we need (io_uring_params.features); all are there since 5.5.
const (
	featSingleMmap   = 1 << 0
	featNoDrop       = 1 << 1
	featSubmitStable = 1 << 2
	featNeeded       = featSingleMmap | featNoDrop | featSubmitStable
)

const (
	enterGetEvents      = 1 << 0
	enterRegisteredRing = 1 << 4

	sqCQOverflow = 1 << 1 // sq flags: completions wait inside the kernel

	offSQRing = 0
	offSQEs   = 0x10000000

	registerBuffers    = 0
	unregisterBuffers  = 1
	registerFiles      = 2
	unregisterFiles    = 3
	registerProbe      = 8
	registerRingFds    = 20
	unregisterRingFds  = 21
	probeOpSupported   = 1 << 0
	ringFdAnySlot      = ^uint32(0)
	pollAddMulti       = 1 << 0
	msgRingData        = 0
	cancelByUserData   = 1 << 4
	fallocKeepSize     = 1
	fallocPunchHole    = 2
	commandBytesSQE64  = 16
	commandBytesSQE128 = 80
)

// params is struct io_uring_params.
type params struct {
	sqEntries    uint32
	cqEntries    uint32
	flags        uint32
	sqThreadCPU  uint32
	sqThreadIdle uint32
	features     uint32
	wqFd         uint32
	_            [3]uint32
	sq           sqOffsets
	cq           cqOffsets
}

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

// rsrcUpdate is struct io_uring_rsrc_update.
type rsrcUpdate struct {
	offset uint32
	_      uint32
	data   uint64
}

// probe is struct io_uring_probe with room for every possible opcode.
type probe struct {
	lastOp uint8
	opsLen uint8
	_      uint16
	_      [3]uint32
	ops    [256]probeOp
}

type probeOp struct {
	op    uint8
	_     uint8
	flags uint16
	_     uint32
}

// Timespec is struct __kernel_timespec.
type Timespec struct {
	Sec, Nsec int64
}
