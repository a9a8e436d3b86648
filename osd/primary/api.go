package primary

import (
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// Notes for those who add operations to this package: the dispatch is in
// serve.go; admit gives the PG of a request after all checks; an op inside of
// another one reads any part of an object, or only its bitmaps, with all rules of
// EC pools and of degraded objects, into memory of the caller: see "Reading
// inside of other operations" in read.go.

// Config is how the server works.
type Config struct {
	OSD                      meta.OSDNum
	BlockBytes, GranuleBytes uint32 // of the store
	Commit                   meta.CommitMode
	ReadOnly                 bool

	AutosyncInterval  time.Duration // 0 = never by time
	AutosyncWrites    int           // writes not yet durable that cause a SYNC; 0 = never
	RecoverySyncBatch int           // recovered objects that cause a SYNC; 0 = never

	// MemoryBytes bounds the buffers for parity, for what read-modify-write
	// reads and for degraded reads; more operations wait. Default 128 MiB.
	MemoryBytes int

	// MayServe tells whether the lease is certainly valid. It is asked when an
	// operation of a client is admitted; if not, it gets EPIPE.
	MayServe func() bool
	// Fatal is told that the local store failed: the process has to end.
	Fatal func(error)
}

// View is what has to be known of the cluster's configuration. It is asked for
// each request, so it must be cheap.
type View interface {
	// Pool is nil when the pool is not known or not valid.
	Pool(id meta.PoolID) *schema.Pool
	// PGCount is the number of PGs that objects are mapped by now.
	PGCount(id meta.PoolID) uint32
	// Inode is nil when there is no such key.
	Inode(id meta.Inode) *schema.SeenInode
}

// Peers finds connections to other OSDs.
type Peers interface {
	// Conn is nil when there is no connection that is ready.
	Conn(osd meta.OSDNum) *msgr.Conn
}

// Owner runs the PGs' peering.
type Owner interface {
	// NeedEpoch asks to record an epoch. EpochRecorded of it or a higher one is
	// the answer, also when it is recorded already.
	NeedEpoch(pg meta.PG, epoch uint64)
	// FlagsChanged tells the present flags of an active PG: those of its
	// Objects, has_misplaced while copies wait to be deleted, scrubbing. It is
	// called from a task of its own, never inside a call of the Server.
	FlagsChanged(pg meta.PG, flags meta.PGState)
}

// Activation is the beginning of a PG's service.
type Activation struct {
	PG    meta.PG
	Epoch uint64
	// Objects is the Server's until Reset.
	Objects *peering.Objects
	// CurPeers take part; DeadPeers may have data and are not there. Copied.
	CurPeers, DeadPeers []meta.OSDNum
}

// Recovery is the task to bring one object to its place: a write of nothing.
// Its subops are marked as those of recovery. The caller owns it, sets PG, OID
// (without role) and Done, and may reuse it when Done has begun.
type Recovery struct {
	PG   meta.PG
	OID  meta.ObjectID
	Done func(*Recovery) // never inside Recover
	// Err is OK, also if the object was clean already; EPIPE when the PG is
	// not active any more, EIO when there are not enough chunks.
	Err wire.Retval
}

// Hold is the exclusive use of one object: writes and deletes of it wait until
// Release. The caller owns it, sets PG, OID (without role) and Granted. It
// counts as an operation in flight of the PG.
type Hold struct {
	PG  meta.PG
	OID meta.ObjectID
	// Granted is called once for each Hold, never inside it.
	Granted func(*Hold)
	// Err is OK, or EPIPE when the PG is not active: then there is nothing to
	// release.
	Err wire.Retval

	op *op
}

// OpStats are totals since the start.
type OpStats struct {
	Count uint64
	Bytes uint64 // of data
	Nanos uint64 // from arrival, or sending, to the answer
}

func (o *OpStats) add(bytes, nanos uint64) {
	o.Count++
	o.Bytes += bytes
	o.Nanos += nanos
}

// InodeStats are the successful operations of clients on one inode.
type InodeStats struct{ Read, Write, Delete OpStats }

// Stats are totals since the start. Arrays are indexed by wire.Op.
type Stats struct {
	Ops    [wire.MaxOp + 1]OpStats // operations of clients
	SubOps [wire.MaxOp + 1]OpStats // requests to other OSDs, answered
	// Recovered objects: Bytes are those of the chunks written.
	Degraded, Misplaced OpStats
	// Inodes may be pruned by the reader: entries are made again when needed.
	Inodes map[meta.Inode]*InodeStats

	Retries uint64 // reads begun again: damaged chunks, or overtaken by a write
	Waits   uint64 // operations that waited for memory
	Syncs   uint64 // SYNCs executed, automatic ones included
}
