package env

import (
	"errors"
	"time"
)

// KV is the cluster's configuration store, with etcd's data model: a flat map
// of keys with revisions, leases, transactions and watches. Keys are full keys
// (with the cluster prefix). Control plane only: it may allocate. Requests in
// flight at the same time are not ordered.
type KV interface {
	// Txn runs t atomically. On an error the outcome is unknown, unless the
	// error is ErrKVTooLarge, ErrKVNoLease or ErrKVInvalid: then nothing was
	// done, and the same request will not do better next time.
	Txn(t *Txn, timeout time.Duration, done func(*TxnResponse, error))
	Grant(ttlSeconds int64, timeout time.Duration, done func(LeaseID, error))
	// KeepAlive refreshes the lease once. ttlSeconds 0 means: expired.
	KeepAlive(id LeaseID, timeout time.Duration, done func(ttlSeconds int64, err error))
	Revoke(id LeaseID, timeout time.Duration, done func(error))
	// Watch reports changes of the range from revision Start on, in order, to
	// h until Cancel or a response with Err set, which is the last one. It
	// reconnects by itself and never skips or repeats a revision.
	Watch(r WatchRequest, h func(*WatchResponse)) Watch
}

// LeaseID names a lease; 0 = none.
type LeaseID int64

// Txn is If-Then-Else over keys.
type Txn struct {
	If   []Compare
	Then []KVOp
	Else []KVOp
}

// CompareTarget is the property of a key that a Compare looks at. A missing
// key has 0 in all of them, but no value: a CompareValue of it never holds,
// whatever the relation.
type CompareTarget uint8

const (
	CompareVersion CompareTarget = iota
	CompareCreate
	CompareMod
	CompareLease
	CompareValue
)

// CompareResult is the wanted relation between the key's property and the value.
type CompareResult uint8

const (
	CompareEqual CompareResult = iota
	CompareGreater
	CompareLess
	CompareNotEqual
)

// Compare is one condition.
type Compare struct {
	Key    string
	Target CompareTarget
	Result CompareResult
	Number int64  // for all targets but CompareValue
	Value  []byte // for CompareValue
}

// KVOpKind tells what a KVOp does.
type KVOpKind uint8

const (
	KVGet KVOpKind = iota
	KVPut
	KVDelete
)

// KVOp is one operation of a transaction. End makes KVGet and KVDelete work on
// the range [Key, End). A transaction must not put a key twice, nor put and
// delete the same key.
type KVOp struct {
	Kind  KVOpKind
	Key   string
	End   string
	Value []byte
	Lease LeaseID
}

// KeyValue is one key as stored.
type KeyValue struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Version        int64 // number of puts since the key was created
	Lease          LeaseID
}

// TxnResponse is the outcome; Responses has one item per executed KVOp.
type TxnResponse struct {
	Succeeded bool
	Revision  int64
	Responses []KVOpResponse
}

// KVOpResponse is what one KVOp found (KVGet, ascending by key) or removed.
type KVOpResponse struct {
	KVs     []KeyValue
	Deleted int64
}

// WatchRequest selects what to watch. End as in KVOp. Start 0 = from now.
type WatchRequest struct {
	Key   string
	End   string
	Start int64
}

// WatchResponse carries all changes of one or more whole revisions. Revision
// tells how far the watch has come; a response without events is progress.
type WatchResponse struct {
	Revision int64
	Events   []WatchEvent
	// Compacted is set together with Err = ErrKVCompacted: the first revision
	// from which a watch may begin without missing a change.
	Compacted int64
	Err       error
}

// WatchEvent is a put, or a deletion (then only Key and ModRevision are set).
type WatchEvent struct {
	Deleted bool
	KV      KeyValue
}

// Watch is a running watch.
type Watch interface {
	// RequestProgress asks for a WatchResponse that tells the store's current
	// revision: a test of liveness.
	RequestProgress()
	// Cancel ends the watch; the handler is not called any more.
	Cancel()
}

// The options that etcd has to be started with (etcd.md §5): --max-txn-ops and
// --max-request-bytes.
const (
	KVMaxTxnOps       = 100_000
	KVMaxRequestBytes = 100 << 20
)

// Errors of KV. Others are possible and mean the same as ErrKVUnavailable.
var (
	ErrKVTimeout     = errors.New("etcd did not answer in time")
	ErrKVUnavailable = errors.New("etcd is not available")
	ErrKVNoLease     = errors.New("etcd lease does not exist or has expired")
	ErrKVCompacted   = errors.New("etcd has compacted the wanted revision")
	ErrKVTooLarge    = errors.New("etcd refuses the request as too large: " +
		"start etcd with --max-txn-ops=100000 --max-request-bytes=104857600")
	ErrKVInvalid = errors.New("etcd refuses the request")
)
