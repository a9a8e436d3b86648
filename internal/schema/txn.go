package schema

import (
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// Builders of transactions. Each one is a row of a table in etcd.md and
// returns the compares and operations, nothing is sent. "seen" arguments are
// the ModRevision of the key as it was read, 0 = it did not exist.

func put(key string, v []byte) env.KVOp {
	return env.KVOp{Kind: env.KVPut, Key: key, Value: v}
}

func putLeased(key string, v []byte, lease env.LeaseID) env.KVOp {
	return env.KVOp{Kind: env.KVPut, Key: key, Value: v, Lease: lease}
}

func get(key string) env.KVOp { return env.KVOp{Kind: env.KVGet, Key: key} }

func del(key string) env.KVOp { return env.KVOp{Kind: env.KVDelete, Key: key} }

func delRange(r Range) env.KVOp {
	return env.KVOp{Kind: env.KVDelete, Key: r.Key, End: r.End}
}

// Get reads the range in a transaction.
func (r Range) Get() env.KVOp { return env.KVOp{Kind: env.KVGet, Key: r.Key, End: r.End} }

func absent(key string) env.Compare {
	return env.Compare{Key: key, Target: env.CompareVersion, Result: env.CompareEqual}
}

func notCreated(key string) env.Compare {
	return env.Compare{Key: key, Target: env.CompareCreate, Result: env.CompareEqual}
}

// unchanged: not modified after revision seen. A key that was deleted since
// passes too.
func unchanged(key string, seen int64) env.Compare {
	return env.Compare{Key: key, Target: env.CompareMod, Result: env.CompareLess, Number: seen + 1}
}

// exactly: the very revision that was seen.
func exactly(key string, seen int64) env.Compare {
	return env.Compare{Key: key, Target: env.CompareMod, Result: env.CompareEqual, Number: seen}
}

// leased: the key exists and belongs to the lease.
func leased(key string, lease env.LeaseID) env.Compare {
	invariant.Must(lease != 0, "a guard by lease needs a lease: 0 would match a missing key")
	return env.Compare{Key: key, Target: env.CompareLease, Result: env.CompareEqual, Number: int64(lease)}
}

// PutPools writes config/pools (etcd.md 2.3). When it fails, the answer has the
// present value: start again from it.
func (k Keys) PutPools(pools []byte, seen int64) env.Txn {
	key := k.Pools()
	return env.Txn{
		If:   []env.Compare{unchanged(key, seen)},
		Then: []env.KVOp{put(key, pools)},
		Else: []env.KVOp{get(key)},
	}
}

// PutOSDConfig writes config/osd/<osd> (2.4), or deletes it when config is nil.
// A failure is an error to the user.
func (k Keys) PutOSDConfig(osd meta.OSDNum, config []byte, seen int64) env.Txn {
	key := k.OSDConfig(osd)
	t := env.Txn{If: []env.Compare{unchanged(key, seen)}, Then: []env.KVOp{put(key, config)}}
	if seen == 0 {
		t.If[0] = absent(key)
	}
	if config == nil {
		t.Then[0] = del(key)
	}
	return t
}

// CreateOSDState announces a starting OSD (2.5). When it fails, the answer has
// the present value if there is one: the OSD is already running.
func (k Keys) CreateOSDState(osd meta.OSDNum, state *OSDState, lease env.LeaseID) env.Txn {
	key := k.OSDState(osd)
	return env.Txn{
		If:   []env.Compare{notCreated(key)},
		Then: []env.KVOp{putLeased(key, state.Encode(), lease)},
		Else: []env.KVOp{get(key)},
	}
}

// ReserveOSD takes an OSD number (2.6). When it fails, the answer has all keys
// of osd/stats: choose the lowest free number and try again.
func (k Keys) ReserveOSD(osd meta.OSDNum) env.Txn {
	key := k.OSDStats(osd)
	return env.Txn{
		If:   []env.Compare{absent(key)},
		Then: []env.KVOp{put(key, []byte(EmptyOSDStats))},
		Else: []env.KVOp{k.Kind(KindOSDStats).Get()},
	}
}

// PGReportedStats is the statistics of one PG that the OSD is primary of.
type PGReportedStats struct {
	PG    meta.PG
	Stats PGStats
}

// ReportOSDStats writes all statistics of an OSD, without compares (2.6).
func (k Keys) ReportOSDStats(osd meta.OSDNum, stats *OSDStats, space []InodeBytes,
	io []InodeIO, pgs []PGReportedStats) env.Txn {
	ops := []env.KVOp{
		put(k.OSDStats(osd), stats.Encode()),
		put(k.OSDSpace(osd), EncodeOSDSpace(space)),
		put(k.InodeIO(osd), EncodeInodeIO(io)),
	}
	for i := range pgs {
		ops = append(ops, put(k.PGStats(pgs[i].PG), pgs[i].Stats.Encode()))
	}
	return env.Txn{Then: ops}
}

// Holder says what an OSD knows about the etcd key of a PG state.
type Holder uint8

const (
	HeldByNobody Holder = iota // no key
	HeldByMe
	HeldByOther
)

// PGReport is one PG of a state report.
type PGReport struct {
	PG meta.PG
	// State to announce; offline gives the key up.
	State  PGState
	Holder Holder
	// History is to be written together with the state; nil = unchanged.
	History *PGHistory
}

// ReportPGs announces states of PGs by their primary (2.7.2). lease is the
// OSD's own; seen is the newest revision of the watch of pg/. One conflict
// fails all, and the answer has every state key, in the order of reports. A PG
// must not be reported twice in one transaction: etcd refuses it.
func (k Keys) ReportPGs(reports []PGReport, lease env.LeaseID, seen int64) env.Txn {
	var t env.Txn
	for i := range reports {
		r := &reports[i]
		key := k.PGState(r.PG)
		t.Else = append(t.Else, get(key))
		starting := r.State.State == meta.PGStarting
		offline := r.State.Offline()
		switch {
		case offline && r.Holder == HeldByOther:
			t.If = append(t.If, unchanged(key, seen))
		case starting || r.Holder == HeldByNobody:
			t.If = append(t.If, absent(key))
		default:
			t.If = append(t.If, leased(key, lease))
		}
		switch {
		case !offline:
			t.Then = append(t.Then, putLeased(key, r.State.Encode(), lease))
		case r.Holder == HeldByMe:
			t.Then = append(t.Then, del(key))
		}
		if r.History != nil {
			historyKey := k.PGHistory(r.PG)
			t.If = append(t.If, unchanged(historyKey, seen))
			t.Then = append(t.Then, put(historyKey, r.History.EncodeOSD()))
		}
	}
	return t
}
