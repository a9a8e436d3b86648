package daemon

import (
	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/schema"
	"vitastor/mon/recheck"
	"vitastor/mon/statsum"
)

// master is one term of a monitor as the master. It never comes back after
// stop.
type master struct {
	monitor *Monitor
	lease   env.LeaseID
	sync    *clusterview.Sync
	recheck *recheck.Rechecker
	sums    *statsum.Sums
	stats   env.Timer // the next statistics
	summing bool      // a write of statistics is in flight
	ended   bool
}

func newMaster(m *Monitor, lease env.LeaseID) *master {
	t := &master{monitor: m, lease: lease, sums: statsum.New(m.keys, m.log)}
	t.recheck = recheck.New(recheck.Config{Env: m.env, Keys: m.keys, Lease: lease,
		Options: m.settings.recheck(), Lost: m.lost})
	all := []schema.Range{m.keys.All()}
	t.sync = clusterview.NewSync(clusterview.SyncConfig{Clock: m.env.Clock, KV: m.env.KV, Log: m.log,
		Timing: m.timing(), Load: all, Watch: all,
		Guard: []env.Compare{m.keys.MasterGuard(lease)}, Apply: t.apply, Fatal: m.lost})
	t.stats.Fire = t.sum
	return t
}

func (t *master) stop() {
	t.ended = true
	t.sync.Stop()
	t.recheck.Stop()
	t.monitor.env.Clock.Disarm(&t.stats)
}

// apply takes what has changed in etcd.
func (t *master) apply(b *clusterview.Batch) {
	m := t.monitor
	for i := range b.Events {
		e := &b.Events[i]
		if m.settings.config.Verbose && !b.Reloaded {
			m.log.Info("changed in etcd", "key", e.KV.Key, "deleted", e.Deleted, "value", string(e.KV.Value))
		}
		switch e.KV.Key {
		case m.keys.Global():
			t.configure(e)
		case m.keys.MonMaster():
			if e.Deleted || e.KV.Lease != t.lease {
				m.lost(recheck.ErrNotMaster)
				return
			}
		}
		t.sums.Apply(e)
	}
	t.recheck.Apply(b)
	t.sumSoon()
}

// configure applies a changed config/global.
func (t *master) configure(e *env.WatchEvent) {
	m := t.monitor
	m.settings.global(e.KV.Key, e.KV.Value, m.log)
	m.election.SetTiming(m.settings.election())
	t.sync.Timing = m.timing()
	t.recheck.SetOptions(m.settings.recheck())
}

// sumSoon writes statistics after reports were collected for a while.
func (t *master) sumSoon() {
	if !t.ended && !t.summing && !t.stats.Armed() && t.sums.Dirty() {
		t.monitor.env.Clock.Arm(&t.stats, t.monitor.settings.config.StatsTimeout)
	}
}

func (t *master) sum() {
	txn := t.sums.Txn(t.lease)
	if txn == nil {
		return
	}
	t.summing = true
	m := t.monitor
	m.env.KV.Txn(txn, m.settings.config.EtcdStartTimeout, func(_ *env.TxnResponse, err error) {
		t.summing = false
		if err != nil && !t.ended {
			m.log.Warn("cannot write statistics", "err", err)
		}
		t.sumSoon() // what was written is not dirty any more once it is seen
	})
}
