package peering

import "vitastor/internal/meta"

// Event is something that a Machine has to know. Repeating one does no harm,
// except for the two answers to Report.
type Event interface{ event() }

// PeerConnected: a connection to an OSD is ready for requests. What Peers tells
// has to be up to date when events are given.
type PeerConnected struct{ OSD meta.OSDNum }

// PeerDisconnected: the connection is gone; requests on it have failed. Ops
// in flight to it must be counted until their results were handled.
type PeerDisconnected struct{ OSD meta.OSDNum }

// PeerKeySeen: osd/state/<n> exists.
type PeerKeySeen struct{ OSD meta.OSDNum }

// PeerKeyGone: osd/state/<n> has disappeared, so the lease of that OSD is over.
type PeerKeyGone struct{ OSD meta.OSDNum }

// LockResult answers SendLock and SendUnlock. For an unlock, -ENOENT of the peer
// counts as success: it does not know the pool.
type LockResult struct {
	OSD meta.OSDNum
	Seq uint64
	OK  bool
}

// Timer: the time of a StartTimer has come.
type Timer struct {
	Kind TimerKind
	Seq  uint64
}

// ListDone answers SendList: the whole list was added to the Calc, or not.
type ListDone struct {
	OSD   meta.OSDNum
	Round uint64
	OK    bool
}

// Calculated answers Calculate.
type Calculated struct {
	Round   uint64
	Summary Summary
}

// OpsDrained answers StopOps: no operation of the PG is in flight any more.
type OpsDrained struct{ Seq uint64 }

// FlushDone answers Flush, when every request of the batch was answered. More
// is the result of Objects.FlushDone; without OK it is not used. There must be
// one for each Flush, whatever happens to the PG meanwhile.
type FlushDone struct {
	Seq  uint64
	OK   bool
	More bool
}

// FlagsChanged tells the present flags of an active PG: Objects.Flags, with
// has_misplaced as long as copies wait to be deleted, and scrubbing. Other bits
// are ignored.
type FlagsChanged struct{ Flags meta.PGState }

// NeedEpoch: a write wants to use an epoch (meta.NextVersion) that may not be
// recorded yet. EpochRecorded is the answer.
type NeedEpoch struct{ Epoch uint64 }

// ScrubPlanned changes next_scrub in the history: a unix time, 0 = none.
type ScrubPlanned struct{ At uint64 }

// Shutdown stops the PG for good.
type Shutdown struct{}

// Reported: the transaction with the last Report succeeded at this revision.
type Reported struct{ Revision int64 }

// ReportFailed: the transaction with the last Report did not succeed.
type ReportFailed struct {
	// Unknown: no answer, it may have been done.
	Unknown bool
	// Otherwise: what the key contains. Primary 0 = it does not exist; Own = it
	// has the lease of this process.
	Primary  meta.OSDNum
	Own      bool
	Revision int64
}

func (PeerConnected) event()    {}
func (PeerDisconnected) event() {}
func (PeerKeySeen) event()      {}
func (PeerKeyGone) event()      {}
func (LockResult) event()       {}
func (Timer) event()            {}
func (ListDone) event()         {}
func (Calculated) event()       {}
func (OpsDrained) event()       {}
func (FlushDone) event()        {}
func (FlagsChanged) event()     {}
func (NeedEpoch) event()        {}
func (ScrubPlanned) event()     {}
func (Shutdown) event()         {}
func (Reported) event()         {}
func (ReportFailed) event()     {}
func (Inputs) event()           {}

// Action is something that the Machine wants to be done, in the order given.
type Action interface{ action() }

// Connect wants a connection to an OSD, again and again until it is there.
type Connect struct{ OSD meta.OSDNum }

// DropPeer closes the connection to an OSD: Peers does not show it any more, and
// PeerDisconnected follows, before the next PeerConnected.
type DropPeer struct {
	OSD meta.OSDNum
	Why string
}

// SendReport: call Report when the next transaction with PG states is made. Later:
// after an error, so wait for the retry interval (500 ms).
type SendReport struct{ Later bool }

// StopOps: admit no more operations, fail the queued ones with EPIPE, close the
// connections of clients that have unsynced writes in the PG (the only way to
// tell them that these may be lost, osd.md §8), and answer with OpsDrained.
type StopOps struct{ Seq uint64 }

// Reset: forget Objects, unstable writes and copies to delete of the PG, and
// any running calculation.
type Reset struct{}

// SendLock sends SEC_LOCK with this state; the answer is LockResult.
type SendLock struct {
	OSD   meta.OSDNum
	Seq   uint64
	State meta.PGState
}

// SendUnlock sends SEC_LOCK to unlock; the answer is LockResult.
type SendUnlock struct {
	OSD meta.OSDNum
	Seq uint64
}

// TimerKind tells what a timer is for.
type TimerKind uint8

const (
	// LockRetry is pg_lock_retry_interval (100 ms).
	LockRetry TimerKind = iota
	// PeerAgain is for a listing of our own store that failed (100 ms).
	PeerAgain
)

// StartTimer wants a Timer event after the time of the kind.
type StartTimer struct {
	Kind TimerKind
	Seq  uint64
}

// SendList lists the PG on an OSD (or in the own store) for the Calc of the
// round, which is made with the Machine's Layout. The answer is ListDone.
type SendList struct {
	OSD   meta.OSDNum
	Round uint64
}

// Calculate runs the Calc of the round. The answer is Calculated.
type Calculate struct{ Round uint64 }

// Activate admits operations, with the Objects of the calculation.
type Activate struct{ Epoch uint64 }

// Flush sends the next batch of Objects.FlushBatch. The answer is FlushDone.
type Flush struct{ Seq uint64 }

// Recover: there may be objects to recover or to move.
type Recover struct{}

// PlanScrub: next_scrub of the PG is this (0: plan one if auto_scrub is on).
type PlanScrub struct{ At uint64 }

// EpochRecorded: writes that wait for epochs up to this one may go on.
type EpochRecorded struct{ Epoch uint64 }

// Forget: the PG is offline and etcd knows it. Unless it starts again, which
// following actions would tell, the Machine may be dropped when the PG is
// not configured any more.
type Forget struct{}

// Fatal: another OSD has the key of a PG that we run, so our lease was lost. The
// process must end at once.
type Fatal struct{ Why string }

func (Connect) action()       {}
func (DropPeer) action()      {}
func (SendReport) action()    {}
func (StopOps) action()       {}
func (Reset) action()         {}
func (SendLock) action()      {}
func (SendUnlock) action()    {}
func (StartTimer) action()    {}
func (SendList) action()      {}
func (Calculate) action()     {}
func (Activate) action()      {}
func (Flush) action()         {}
func (Recover) action()       {}
func (PlanScrub) action()     {}
func (EpochRecorded) action() {}
func (Forget) action()        {}
func (Fatal) action()         {}
