package schema

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// PutMonMember announces a running monitor (etcd.md 2.10).
func (k Keys) PutMonMember(m *Monitor, id string, lease env.LeaseID) env.Txn {
	member := *m
	member.ID = ""
	return env.Txn{Then: []env.KVOp{putLeased(k.MonMember(id), member.Encode(), lease)}}
}

// BecomeMaster tries to take mon/master (2.10). When it fails, the answer has
// the present master: poll again later.
func (k Keys) BecomeMaster(m *Monitor, lease env.LeaseID) env.Txn {
	key := k.MonMaster()
	return env.Txn{
		If:   []env.Compare{notCreated(key)},
		Then: []env.KVOp{putLeased(key, m.Encode(), lease)},
		Else: []env.KVOp{get(key)},
	}
}

// MasterGuard makes a transaction fail unless the lease's owner is the master.
func (k Keys) MasterGuard(lease env.LeaseID) env.Compare { return leased(k.MonMaster(), lease) }

// ErrNoHash refuses to write pg/config without hash.
var ErrNoHash = errors.New("pg/config must not be written without hash: " +
	"a reference monitor would reshuffle all pools")

// PGConfigWrite is a change of pg/config by the master monitor (2.7.1).
type PGConfigWrite struct {
	Config *PGConfig
	// Histories to be put; nil = delete that key. Every PG of a recalculated
	// pool belongs here, changed or not: each is also compared.
	Histories map[meta.PG]*PGHistory
	// GuardOSDs makes the write fail when the state of one of these OSDs
	// changed: given when PGs are paused before a change of their number.
	GuardOSDs []meta.OSDNum
	// PoolStats to be put.
	PoolStats map[meta.PoolID]PoolStats
	// Resized pools lose their pgstats. Deleted ones also their pool/stats and
	// histories.
	Resized, Deleted []meta.PoolID
	// Legacy says that config/pgs exists, so the same goes there.
	Legacy bool
}

// PutPGConfig builds a guarded write of pg/config. seen is the newest revision
// that the monitor has processed. A failure means that somebody wrote: wait for
// newer events and calculate again.
func (k Keys) PutPGConfig(w *PGConfigWrite, lease env.LeaseID, seen int64) (env.Txn, error) {
	if w.Config.Hash == "" {
		return env.Txn{}, ErrNoHash
	}
	config := w.Config.Encode()
	t := env.Txn{
		If:   []env.Compare{k.MasterGuard(lease), unchanged(k.PGConfig(), seen)},
		Then: []env.KVOp{put(k.PGConfig(), config)},
	}
	if w.Legacy {
		t.Then = append(t.Then, put(k.LegacyPGConfig(), config))
	}
	for _, osd := range w.GuardOSDs {
		t.If = append(t.If, unchanged(k.OSDState(osd), seen))
	}
	for _, pg := range slices.SortedFunc(maps.Keys(w.Histories), meta.PG.Compare) {
		k.putHistory(&t, pg, w.Histories[pg], slices.Contains(w.Deleted, pg.Pool), seen)
	}
	for _, pool := range slices.Sorted(maps.Keys(w.PoolStats)) {
		stats := w.PoolStats[pool]
		t.Then = append(t.Then, put(k.PoolStats(pool), stats.Encode()))
	}
	for _, pool := range w.Resized {
		t.Then = append(t.Then, delRange(k.Pool(KindPGStats, pool)), delRange(k.Pool(KindLegacyPGStats, pool)))
	}
	for _, pool := range w.Deleted {
		t.Then = append(t.Then, delRange(k.Pool(KindPGHistory, pool)), delRange(k.Pool(KindPGStats, pool)),
			delRange(k.Pool(KindLegacyPGStats, pool)), del(k.PoolStats(pool)))
	}
	return t, nil
}

// putHistory compares and writes one history. Those of a deleted pool go with
// the range deletion.
func (k Keys) putHistory(t *env.Txn, pg meta.PG, h *PGHistory, poolDeleted bool, seen int64) {
	key := k.PGHistory(pg)
	t.If = append(t.If, unchanged(key, seen))
	switch {
	case poolDeleted:
	case h == nil:
		t.Then = append(t.Then, del(key))
	default:
		t.Then = append(t.Then, put(key, h.EncodeMon()))
	}
}

// PutLastCleanPGs writes history/last_clean_pgs. Other than the reference's it
// is guarded by the master lease.
func (k Keys) PutLastCleanPGs(c *PGConfig, lease env.LeaseID) env.Txn {
	return env.Txn{
		If:   []env.Compare{k.MasterGuard(lease)},
		Then: []env.KVOp{put(k.LastCleanPGs(), c.EncodeItems())},
	}
}

// StatsWrite is one round of aggregated statistics (2.11).
type StatsWrite struct {
	Stats      Stats
	Inodes     map[meta.Inode]InodeStats
	GoneInodes []meta.Inode // their keys are deleted
	Pools      map[meta.PoolID]PoolStats
	GonePools  []meta.PoolID
	// SeenPools are revisions of pool/stats that Pools and GonePools were
	// calculated from: the write fails when one has changed since. Pools that
	// are not here are written whatever is stored.
	SeenPools map[meta.PoolID]int64
}

// PutStats writes aggregated statistics. Other than the reference's it is
// guarded by the master lease (etcd.md §6, rule 5).
func (k Keys) PutStats(w *StatsWrite, lease env.LeaseID) env.Txn {
	t := env.Txn{
		If:   []env.Compare{k.MasterGuard(lease)},
		Then: []env.KVOp{put(k.Stats(), w.Stats.Encode())},
	}
	for _, pool := range slices.Sorted(maps.Keys(w.SeenPools)) {
		t.If = append(t.If, unchanged(k.PoolStats(pool), w.SeenPools[pool]))
	}
	for _, inode := range slices.SortedFunc(maps.Keys(w.Inodes), cmp.Compare) {
		s := w.Inodes[inode]
		t.Then = append(t.Then, put(k.InodeStats(inode), s.Encode()))
	}
	for _, inode := range w.GoneInodes {
		t.Then = append(t.Then, del(k.InodeStats(inode)))
	}
	for _, pool := range slices.Sorted(maps.Keys(w.Pools)) {
		s := w.Pools[pool]
		t.Then = append(t.Then, put(k.PoolStats(pool), s.Encode()))
	}
	for _, pool := range w.GonePools {
		t.Then = append(t.Then, del(k.PoolStats(pool)))
	}
	return t
}

// RemoveOSDs deletes all keys of the OSDs and writes pg/config and
// last_clean_pgs without them (rm-osd). seenConfig and seenClean are the
// revisions at which those were read; they are compared, which the reference
// intends but does not do. nil = leave that key alone.
func (k Keys) RemoveOSDs(osds []meta.OSDNum, config *PGConfig, seenConfig int64,
	clean *PGConfig, seenClean int64) (env.Txn, error) {
	var t env.Txn
	for _, o := range osds {
		t.Then = append(t.Then, del(k.OSDConfig(o)), del(k.OSDStats(o)), del(k.OSDState(o)),
			del(k.InodeIO(o)), del(k.OSDSpace(o)))
	}
	if config != nil {
		if config.Hash == "" {
			return env.Txn{}, ErrNoHash
		}
		t.If = append(t.If, unchanged(k.PGConfig(), seenConfig))
		t.Then = append(t.Then, put(k.PGConfig(), config.Encode()))
	}
	if clean != nil {
		t.If = append(t.If, unchanged(k.LastCleanPGs(), seenClean))
		t.Then = append(t.Then, put(k.LastCleanPGs(), clean.EncodeItems()))
	}
	return t, nil
}

// PutPGHistory writes a history outside of the monitor (rm-osd). On failure the
// answer has the present value.
func (k Keys) PutPGHistory(pg meta.PG, h *PGHistory, seen int64) env.Txn {
	key := k.PGHistory(pg)
	return env.Txn{
		If:   []env.Compare{unchanged(key, seen)},
		Then: []env.KVOp{put(key, h.EncodeMon())},
		Else: []env.KVOp{get(key)},
	}
}
