package store

import (
	"errors"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// Disks are the open devices of a store. One device may be used for two or all
// three areas: then the same env.Disk is given for each. They stay open after
// Close: who opened them closes them.
type Disks struct {
	Data, Meta, Buffer env.Disk
}

// Areas says where the areas are on their devices, in bytes (spec ondisk.md
// §1.3). No length may be zero and no areas may overlap.
type Areas struct {
	DataOffset, DataLen     int64
	MetaOffset, MetaLen     int64 // with the metadata superblock; multiple of MetaBlockBytes
	BufferOffset, BufferLen int64 // the area called "journal" in the options
}

// CommitMode says when acknowledged writes are durable (spec osd.md §8).
type CommitMode = meta.CommitMode

const (
	CommitNone  = meta.CommitNone  // after OpSync
	CommitSmall = meta.CommitSmall // writes shorter than a block: at once
	CommitAll   = meta.CommitAll   // at once
)

// Config are the parameters of a store. Zero values of the optional fields
// mean the defaults named in the comments.
type Config struct {
	BlockBytes     uint32 // size of an object, B
	GranuleBytes   uint32 // unit of reads and writes, G
	MetaBlockBytes uint32 // M
	CsumBytes      uint32 // checksum block, C; 0 = no checksums
	Areas          Areas

	// A device "without fsync" makes every completed write durable by itself.
	// All three set: a write-through store.
	DisableDataFsync, DisableMetaFsync, DisableBufferFsync bool
	Commit                                                 CommitMode

	AtomicWriteBytes uint32 // largest write made in place, 0 = none
	UseAtomicFlag    bool   // ask the device to guarantee it (RWF_ATOMIC)
	// IntentDepth is the number of writes in flight from which small
	// overwrites go in place instead of through the buffer area. Default 8;
	// 1 = always; negative = never.
	IntentDepth int

	MaxWriteDepth     int // writes in flight; others wait in the store. Default 128
	MinCompactors     int // at once, even if few writes are in flight. Default 8
	MaxCompactors     int // default 32
	CompactQueueStart int // objects to compact before compaction starts. Default 128
	// IntentTrimInterval is the number of in-place writes after which the
	// start-up verification mark (completed_lsn) is moved. Default 4096.
	IntentTrimInterval int
	VerifyDepth        int // reads in flight while verifying at start-up. Default 16

	SkipCorruptedEntries bool // start without entries that cannot be parsed
	// RepairDoubleClaims lets a store start in which two objects claim the same
	// space: an object whose claim cannot be confirmed by checksums is dropped.
	RepairDoubleClaims bool
	// RepairLostCopies is for the first start on write-back disks without
	// checksums that release 3.0.8 has written last: data which its compaction
	// may have lost in a power failure is copied again. Wrong on disks that we
	// have written.
	RepairLostCopies bool

	DiscardOnStart          bool
	MinDiscardBytes         int64 // default 1 MiB
	DiscardGranularityBytes int64 // default: the device's; negative = never discard

	ThrottleSmallWrites bool
	ThrottleTargetIOPS  int                    // default 100
	ThrottleTargetMBs   int                    // default 100
	ThrottleParallelism int                    // default 1
	ThrottleThreshold   time.Duration          // default 50 us
	ReshardChunkObjects int                    // default 100000
	ReshardChunkPause   time.Duration          // default 100 ms; negative = none
	ReadAheadStartBytes int                    // unit of reads at start-up. Default 1 MiB
	BufferPoolBytes     int                    // memory for metadata writes, compaction, checked reads. Default 64 MiB
	NoInodeStats        func(meta.PoolID) bool // pools counted as one, under inode number 0
	OnFatal             func(error)            // a write failed: the process has to stop
	OnProgress          func(Progress)         // start-up, about once per second
}

// Progress tells how far start-up is.
type Progress struct {
	Phase       string // "initialize", "read", "verify", "repair"
	Done, Total int64  // bytes, or entries while verifying
}

// OpKind tells what an Op does.
type OpKind uint8

const (
	// OpRead reads [Offset, Offset+Len) of the newest version <= Version into
	// Buf. Len 0: version and bitmap only. Errors: ENOENT (also when every
	// version is newer), EDOM (checksum mismatch), EIO, EINVAL.
	OpRead OpKind = iota
	// OpWrite creates the unstable version Version, OpWriteStable a stable
	// one. Errors: EEXIST (Version is not newer than the newest one), EINVAL
	// (also a stable write while the newest version is unstable), ENOSPC.
	OpWrite
	OpWriteStable
	// OpDelete removes all versions; nothing there is a success.
	OpDelete
	// OpSync makes everything durable that was acknowledged before.
	OpSync
	// OpStabilize makes all versions <= that of each of Items stable, durably.
	// Stops at the first error: ENOENT (no such object or version).
	OpStabilize
	// OpRollback drops all unstable versions > that of each of Items, durably.
	// Stops at the first error: EBUSY (a newer version is stable), ENOENT.
	OpRollback
	// OpList fills List.Stable and List.Unstable. It runs after everything
	// submitted before has finished. Errors: EINVAL, EAGAIN (the pool is not
	// sharded by exactly this PG count and stripe size).
	OpList
	// OpCompact compacts everything that can be compacted, durably: the state
	// in which a disk is best handed over. Maintenance; may be slow.
	OpCompact

	opCompactor // internal: the last step of a compaction
	opItem      // internal: one item of OpStabilize or OpRollback
	opRepair    // internal: a metadata block is rewritten while starting
)

// Op is one operation. The caller owns it, may embed it, sets the arguments,
// submits it, and may reuse it (with the same Done or another) when Done has
// begun. Buf, Iov, Bitmap and Items must stay unchanged until then.
type Op struct {
	Kind    OpKind
	OID     meta.ObjectID
	Version meta.Version // reads: limit, meta.NewestVersion = newest; result: what was read or written
	Offset  uint32       // bytes, multiple of GranuleBytes, < BlockBytes even with Len 0
	Len     uint32       // bytes, multiple of GranuleBytes

	// Buf is the data: exactly Len bytes, outside of the Go heap and aligned
	// to the device's block size. Writes may give Iov instead: at most
	// env.DiskIovMax parts, each a multiple of the device's block size.
	Buf []byte
	Iov [][]byte
	// Bitmap is the external bitmap. Writes: the complete new one, or nil (an
	// existing object keeps its bitmap, a new one gets zeroes). Reads: BitmapBytes
	// long, filled with that of the version read; or nil.
	Bitmap []byte
	Items  []meta.ObjectVersion // OpStabilize, OpRollback
	List   *List                // OpList

	Done func(*Op)

	// Err is the result, 0 = success. On success Version is the version read
	// or written.
	Err syscall.Errno

	opState
}

// List is the argument and result of OpList (spec wire.md §7.8).
type List struct {
	Pool          meta.PoolID
	PG            meta.PGNum // 1..PGCount
	PGCount       uint32
	PGStripeBytes uint64
	Min, Max      meta.ObjectID // inclusive, roles included; both in Pool
	// StableLimit > 0: stable items are sorted and cut to that number.
	StableLimit int

	// Stable has the newest stable version of each object, Unstable every
	// version newer than that. The slices are truncated, filled by append and
	// may be reused.
	Stable, Unstable []meta.ObjectVersion
}

// Counters count since the start. Bytes are those submitted to the disks.
type Counters struct {
	// Items that needed an entry; others were in the wanted state already.
	Stabilized, RolledBack        uint64
	Reads, Writes, Deletes, Syncs uint64
	UserWriteBytes, UserReadBytes uint64

	DataWrites, DataWriteBytes              uint64 // new blocks and in-place writes
	BufferWrites, BufferWriteBytes          uint64
	MetaWrites, MetaWriteBytes              uint64
	CompactWrites, CompactWriteBytes        uint64 // copies into data blocks
	SuperblockWrites, DiskSyncs             uint64
	BigWrites, SmallWrites, IntentWrites    uint64 // user writes by path
	Compactions, CompactionsGivenUp         uint64
	SpaceWaits, ENOSPCs, Discards           uint64
	ChecksumErrors, ReadErrors, ReadRetries uint64
}

// Totals are sizes now, in bytes if not named otherwise.
type Totals struct {
	TotalBlocks, FreeBlocks  uint64
	BlockBytes               uint32
	BufferTotal, BufferUsed  uint64
	MetaTotal, MetaUsed      uint64 // MetaUsed: entries that are not garbage
	Objects                  uint64
	Entries                  uint64
	MemoryBytes              int64 // index and entries
	CompactQueue, Compactors int
	MaxLSN, CompletedLSN     uint64 // newest entry; everything up to CompletedLSN is effective
}

// Errors of Open beside those of the disks. Each is wrapped with what was
// found where, and what to do about it.
var (
	ErrCorrupt    = errors.New("metadata is corrupt")
	ErrNotAStore  = errors.New("not a store of this format")
	ErrMismatch   = errors.New("parameters do not fit the store")
	ErrNotEmpty   = errors.New("refusing to initialize: metadata blocks are not empty")
	ErrDoubleUsed = errors.New("space is claimed twice")
	ErrClosed     = errors.New("store is closed")
)
