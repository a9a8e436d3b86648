package env

import "errors"

// Storage opens disks: block devices or files.
type Storage interface {
	// OpenDisk opens path. It blocks, so it is for start-up only. Errors name
	// the path and tell what to do.
	OpenDisk(path string, o DiskOptions) (Disk, error)
}

// DiskMode says how a disk is opened.
type DiskMode uint8

const (
	DiskDirect     DiskMode = iota // O_DIRECT, no page cache (the default)
	DiskCached                     // through the page cache
	DiskDirectSync                 // O_DIRECT and every write durable on completion
)

// DiskOptions are the conditions under which a disk is opened.
type DiskOptions struct {
	Mode     DiskMode
	ReadOnly bool
	NoLock   bool // do not take the exclusive lock that keeps a second process away
}

// DiskInfo describes an open disk. Sizes are in bytes.
type DiskInfo struct {
	Path                    string
	SizeBytes               int64
	BlockBytes              int   // smallest unit and alignment of I/O
	AtomicWriteBytes        int   // largest write that is never torn; at least BlockBytes
	DiscardGranularityBytes int64 // 0 = discard is not supported
	Rotational              bool
	DeviceID                string // serial number or wwid of the device below; "" = unknown
}

// Disk is one open disk. Requests may complete in any order and nothing orders
// overlapping requests in flight: callers do. A completed write is durable
// only after a later-submitted DiskSync completed (or with DiskFUA, or when the
// device has no volatile cache, which the caller knows from configuration).
type Disk interface {
	Info() DiskInfo
	// Submit starts op. op and its memory belong to the disk until op.Done
	// runs. Memory must be aligned to BlockBytes in address, offset and
	// length unless the disk is DiskCached, and must not be on the Go heap
	// (see internal/pinned).
	Submit(op *DiskOp)
	// Close waits for requests in flight, then releases the disk.
	Close() error
}

// DiskOpKind tells what a DiskOp does.
type DiskOpKind uint8

const (
	DiskRead    DiskOpKind = iota
	DiskWrite              // Buf, or Iov if set, to Offset
	DiskSync               // make every write durable that completed before the submission
	DiskDiscard            // the contents of [Offset, Offset+Length) may be forgotten
)

// DiskFlags modify a write.
type DiskFlags uint8

const (
	DiskFUA    DiskFlags = 1 << iota // durable on completion
	DiskAtomic                       // fail rather than be torn (RWF_ATOMIC)
)

// DiskOp is one request. The caller owns it, sets Done once and reuses it.
type DiskOp struct {
	Kind   DiskOpKind
	Flags  DiskFlags
	Offset int64    // bytes
	Length int64    // DiskDiscard only
	Buf    []byte   // read target or write source
	Iov    [][]byte // used instead of Buf when not empty; at most DiskIovMax parts
	Done   func(*DiskOp)

	// Err is the result: nil means that all bytes were transferred (short
	// transfers do not exist), otherwise a syscall.Errno or ErrDiskClosed.
	Err error

	// Next and Slot belong to the disk while the request is in flight.
	Next *DiskOp
	Slot uint32
}

// Bytes is the number of bytes that op transfers.
func (op *DiskOp) Bytes() int64 {
	if op.Kind == DiskDiscard {
		return op.Length
	}
	if len(op.Iov) == 0 {
		return int64(len(op.Buf))
	}
	n := int64(0)
	for _, p := range op.Iov {
		n += int64(len(p))
	}
	return n
}

// DiskIovMax is the largest number of parts in DiskOp.Iov.
const DiskIovMax = 64

// ErrDiskClosed is the result of requests submitted after Close.
var ErrDiskClosed = errors.New("disk is closed")
