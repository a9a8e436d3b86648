// Package blockdev is what all block front ends (nbd, ublk, vduse, vhost) share:
// requests of a virtual disk, executed on an image of the cluster.
//
//	Request ─▶ checks ─▶ order with overlapping partial writes ─▶ plan ─▶ client.Op ... ─▶ Done
//
// Requests have any offset and length: what is not aligned to the granularity of
// the pool is read and written back in whole granules, and other writes of this
// Disk to the same granules wait meanwhile.
//
// Guarantee: Done is called exactly once for each Submit, never inside it. A
// write with FUA, and everything completed before a Flush was submitted, is
// durable when that is completed with success. A range that WriteZeroes covered
// reads as zeroes, whatever happens to OSDs; Discard never changes anything
// outside of its range.
//
// Concurrency: everything runs on the loop of the client, callbacks included.
// In steady state aligned reads and writes allocate nothing and copy nothing.
package blockdev

import (
	"syscall"

	"vitastor/libclient/client"
)

// Kind says what a Request does.
type Kind uint8

const (
	Read        Kind = iota // the range into Iov
	Write                   // Iov to the range
	Flush                   // make everything durable that was completed before
	Discard                 // the contents of the range may be forgotten
	WriteZeroes             // the range reads as zeroes afterwards
	Status                  // tell in Extents what is allocated, from Offset on
)

func (k Kind) String() string {
	return [...]string{"read", "write", "flush", "discard", "write zeroes", "block status"}[k]
}

// Flags modify a Request.
type Flags uint8

const (
	// FUA: durable on completion (Write, WriteZeroes, Discard).
	FUA Flags = 1 << iota
	// NoHole: WriteZeroes must not free space.
	NoHole
	// OneExtent: Status wants no more than the first extent.
	OneExtent
)

// Extent is a range of a disk that is allocated, or is not and reads as zeroes.
type Extent struct {
	Bytes     uint64
	Allocated bool
}

// Limits of what one Request does.
const (
	// StatusBytesMax is the longest range that Status looks at; the extents of a
	// longer request cover only its beginning.
	StatusBytesMax = 64 << 20
	// ExtentsMax is the number of extents after which Status ends.
	ExtentsMax = 4096
)

// Request is one operation. The caller owns it, sets Done once, fills it,
// submits it and may reuse it from Done on. Between Submit and Done all its
// memory belongs to the disk.
type Request struct {
	Kind   Kind
	Flags  Flags
	Offset uint64   // bytes
	Bytes  uint64   // 0 for Flush
	Iov    [][]byte // Read, Write: exactly Bytes bytes
	// Extents are the answer of Status, in order from Offset on, without gaps.
	// At least one if Err is 0. The slice is reused.
	Extents []Extent
	Done    func(*Request)

	// Err is the result:
	//
	//	0
	//	EINVAL     a bad request
	//	EROFS      the disk is read-only
	//	ENOSPC     a write beyond the end, or no space in the cluster
	//	ENOENT     the image was removed or renamed
	//	EIO        anything else went wrong
	Err syscall.Errno

	run
}

// Info is what a disk is like now. Sizes are in bytes.
type Info struct {
	Name         string
	SizeBytes    uint64 // any number
	GranuleBytes uint32 // requests that are aligned to it are fast
	ObjectBytes  uint64 // best size and alignment; what Discard can free
	ReadOnly     bool
	// WriteCache: completed writes are durable only after a Flush.
	WriteCache bool
}

// Disk is what front ends serve.
type Disk interface {
	Info() Info
	// Submit starts r; r.Done is called later, never inside.
	Submit(r *Request)
	// Close ends the use of the disk. There must be no request in flight.
	Close()
}

// Backend executes operations of the client package. Submit is that of
// client.Client.
type Backend interface {
	Submit(op *client.Op)
}

// check is what is wrong with a request on a disk of that kind; the first thing
// that front ends need not check themselves.
func (r *Request) check(i *Info) syscall.Errno {
	end := r.Offset + r.Bytes
	switch {
	case r.Kind == Flush:
		return 0
	case end < r.Offset:
		return syscall.EINVAL
	case r.Kind != Read && r.Kind != Status && i.ReadOnly:
		return syscall.EROFS
	case end > i.SizeBytes && r.Kind != Read && r.Kind != Status:
		return syscall.ENOSPC
	case end > i.SizeBytes || r.Kind > Status:
		return syscall.EINVAL
	case r.Kind == Status && r.Bytes == 0:
		return syscall.EINVAL
	}
	if r.Kind != Read && r.Kind != Write {
		return 0
	}
	n := uint64(0)
	for _, b := range r.Iov {
		n += uint64(len(b))
	}
	if n != r.Bytes {
		return syscall.EINVAL
	}
	return 0
}

// known reduces errors to those that Request.Err documents.
func known(e syscall.Errno) syscall.Errno {
	switch e {
	case 0, syscall.EINVAL, syscall.EROFS, syscall.ENOSPC, syscall.ENOENT:
		return e
	}
	return syscall.EIO
}
