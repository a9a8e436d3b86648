// Package client is the client of a cluster: it executes reads, writes, syncs
// and deletes of images against the primary OSDs of their placement groups,
// and lets nothing of the cluster's life be seen by its user (spec osd.md
// §17-§21, wire.md §6).
//
//	Submit ─▶ admission ─▶ io: one range of one inode ─▶ parts: one object each ─▶ msgr
//	           │  ▲                                        │   ▲
//	           ▼  │ order with SYNC, limits                ▼   │ retries: PG inactive,
//	         writeback.Map: data that a crash of OSDs      waiting parts  no connection,
//	         may undo, or that was not sent yet            EIO, ENOSPC
//
// Guarantee: an operation is completed exactly once. Plain operations are
// repeated until they succeed or their error is one that repeating cannot
// cure. What was acknowledged survives as long as this client lives, whatever
// happens to OSDs: in pools without immediate_commit=all unsynced writes are
// kept and sent again when the OSD that had them is lost. What a Sync covered
// survives the client too. Reads see all earlier acknowledged writes of this
// client.
//
// Concurrency: everything runs on the loop of the env.Env, callbacks included;
// they never run inside a call of this package. In steady state plain reads
// and writes in pools with immediate_commit=all allocate nothing and copy no
// payload.
package client

import (
	"syscall"

	"vitastor/internal/clusterview"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
)

// Kind says what an Op does.
type Kind uint8

const (
	// Read reads Bytes at Offset into Iov, through all parents of the inode.
	// If Bitmap is set it tells which granules exist in some layer. With Bytes
	// = 0 it only finds out the Version of the object at Offset.
	Read Kind = iota
	// Write writes Iov. With Version v > 0 it is a compare-and-swap: it
	// succeeds only if the object has version v-1, else Err is EINTR.
	Write
	// Sync makes all writes that were acknowledged before it, of all inodes,
	// durable.
	Sync
	// Delete removes all objects that the range touches, without a look at
	// parents. Version as for Write.
	Delete
	// ReadBitmap tells in Bitmap which granules of the range exist in this
	// inode alone.
	ReadBitmap
	// ReadChainBitmap tells which exist in the inode or in one of its parents.
	ReadChainBitmap
)

func (k Kind) String() string {
	return [...]string{"read", "write", "sync", "delete", "read bitmap", "read chain bitmap"}[k]
}

// Flags modify an Op.
type Flags uint8

const (
	// WaitUpTimeout ends the operation with ETIMEDOUT when a PG stays inactive
	// for client_wait_up_timeout, instead of waiting for ever.
	WaitUpTimeout Flags = 1 << iota
	// IgnoreReadonly writes to images that are marked as read-only: tools that
	// copy and merge layers need it.
	IgnoreReadonly
)

// Op is one operation. The caller owns it, fills it, submits it and may reuse
// it from Done on. Between Submit and Done all its memory belongs to the
// client. It must not be copied after its first use.
//
// Offset and Bytes must be multiples of the pool's granularity
// (bitmap_granularity), and Iov must have exactly Bytes bytes.
type Op struct {
	Kind   Kind
	Flags  Flags
	Inode  meta.Inode // with the pool
	Offset uint64     // bytes
	Bytes  uint64
	Iov    [][]byte
	// Bitmap has a bit per granule of the range, the least significant first.
	// The bytes that hold them are overwritten.
	Bitmap []byte
	// Version is the condition of Write and Delete, 0 = none. Afterwards it is
	// the version of the object if the operation touched exactly one and an
	// OSD told it (also with EINTR: the version the object has), otherwise 0.
	Version meta.Version
	// LeftOnDead tells after a Delete that OSDs which are down may still hold
	// objects; DeadOSDs are those that are known. They come back unless they
	// are deleted again when these OSDs are up.
	LeftOnDead bool
	DeadOSDs   []meta.OSDNum
	// Done is called once for each Submit.
	Done func(*Op)
	// User is the owner's.
	User any

	// Err is the result, 0 = success:
	//
	//	EINVAL     bad range, buffers, pool or chain; CAS over several objects
	//	EROFS      the image is read-only
	//	EIO        data is damaged (only with client_eio_retry_interval = 0, or CAS)
	//	ENOSPC     no space (only with client_retry_enospc = false, or CAS)
	//	EINTR      CAS failed, or nobody knows whether it succeeded
	//	ETIMEDOUT  see WaitUpTimeout
	//	ECANCELED  Cancel or Close
	//
	// and whatever else an OSD answers.
	Err syscall.Errno

	opState
}

// Config says who the client is and where its parameters come from.
type Config struct {
	// Layers are the sources of parameters except config/global of etcd: the
	// configuration file, the command line or the options of a driver. May be
	// empty.
	Layers []option.Layer
	Facts  option.Facts
	// Keys of the cluster. The zero value means those of etcd_prefix.
	Keys schema.Keys
	// Changed, if set, is told what has changed in the cluster, after the
	// client took note of it.
	Changed func(*clusterview.Changes)
	// Fatal, if set, is told when etcd ends our watch for good. Operations go
	// on with the last known state of the cluster, which gets old.
	Fatal func(error)
	// MemoryBytes limits the memory for data that waits to be sent or synced;
	// beyond it data is kept in the Go heap. 0 = 256 MiB. Pages are only used
	// when needed.
	MemoryBytes int
}
