// Package daemon is the monitor: election, and as the master placement,
// primaries and statistics of the whole cluster (spec monitor.md §1, §2).
//
// Guarantee: every write carries the guard of the master's lease; whatever goes
// wrong as the master — the lease is lost, etcd ends the watch, another monitor
// took over — ends in a new start from the election with nothing remembered.
//
// Concurrency: everything runs on the loop of its Env, so a monitor runs in
// internal/sim, too. The HTTP server of mon/web calls Snapshot on the loop.
//
//	Start -> read config/global -> election --> standby
//	                                  ^     `-> master: load and watch all keys
//	                                  |            |-> recheck: pg/config, primaries
//	                                  `--- lost ---'-> statsum: stats, inode/stats, pool/stats
package daemon

import (
	"log/slog"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/mon/election"
	"vitastor/mon/metrics"
	"vitastor/mon/recheck"
)

// Options say who the monitor is, and where its parameters come from.
type Options struct {
	File, CommandLine option.Layer
	Self              schema.Monitor // IPs and Hostname
}

// Role is what a monitor does.
type Role uint8

const (
	Starting Role = iota // no config/global yet
	Standby
	Master
	Stopped
)

func (r Role) String() string { return [...]string{"starting", "standby", "master", "stopped"}[r] }

// Monitor is a running monitor.
type Monitor struct {
	env      *env.Env
	log      *slog.Logger
	settings settings
	keys     schema.Keys
	election *election.Election
	master   *master // nil on standby
	again    env.Timer
	stopped  bool
}

// Start starts a monitor on a loop. It fails on parameters that cannot be used.
func Start(e *env.Env, o Options) (*Monitor, error) {
	m := &Monitor{env: e, log: e.Log, settings: settings{options: o}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := m.settings.merge(nil, m.log); err != nil {
		return nil, err
	}
	m.keys = schema.NewKeys(m.settings.config.Common.EtcdPrefix)
	m.again.Fire = m.readGlobal
	m.readGlobal()
	return m, nil
}

// readGlobal gets config/global, which has the times for the election.
func (m *Monitor) readGlobal() {
	key := m.keys.Global()
	txn := &env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}}
	c := &m.settings.config
	m.env.KV.Txn(txn, c.EtcdStartTimeout, func(r *env.TxnResponse, err error) {
		if m.stopped {
			return
		}
		if err != nil {
			m.log.Warn("cannot read config/global from etcd, trying again", "err", err)
			m.env.Clock.Arm(&m.again, c.EtcdTimeout)
			return
		}
		var value []byte
		for _, kv := range r.Responses[0].KVs {
			value = kv.Value
		}
		m.settings.global(key, value, m.log)
		m.join()
	})
}

// join takes part in the election from now on.
func (m *Monitor) join() {
	m.election = election.New(election.Config{Env: m.env, Keys: m.keys, Self: m.settings.options.Self,
		Timing: m.settings.election(), Elected: m.elected,
		Lost: func(error) { m.leave() }})
	m.election.Start()
}

func (m *Monitor) elected(lease env.LeaseID) {
	m.master = newMaster(m, lease)
	m.master.sync.Start()
}

// lost ends being the master; err says why it cannot go on.
func (m *Monitor) lost(err error) {
	m.log.Error("starting again from the election", "err", err)
	m.leave()
	m.election.Resign()
}

func (m *Monitor) leave() {
	if m.master != nil {
		m.master.stop()
		m.master = nil
	}
}

// Shutdown hands over to other monitors at once. done may be nil.
func (m *Monitor) Shutdown(done func()) {
	m.stopped = true
	m.env.Clock.Disarm(&m.again)
	m.leave()
	if m.election == nil {
		if done != nil {
			done()
		}
		return
	}
	m.election.Stop(done)
}

// Role tells what the monitor does now.
func (m *Monitor) Role() Role {
	switch {
	case m.stopped:
		return Stopped
	case m.election == nil:
		return Starting
	case m.master != nil && m.election.Master():
		return Master
	}
	return Standby
}

// Recheck is the part that places PGs, nil on standby; for status and tests.
func (m *Monitor) Recheck() *recheck.Rechecker {
	if m.master == nil {
		return nil
	}
	return m.master.recheck
}

// Config is the configuration in use.
func (m *Monitor) Config() option.MonitorConfig { return m.settings.config }

// Snapshot is what metrics show, nil when this monitor is not surely the master
// of a loaded cluster. It is for web.Options.
func (m *Monitor) Snapshot() *metrics.Snapshot {
	if m.master == nil || !m.election.Certain() || !m.master.sync.Loaded() {
		return nil
	}
	return m.master.sums.Snapshot(m.master.recheck.State().PGConfig())
}

// timing is that of the watch.
func (m *Monitor) timing() clusterview.Timing {
	c := &m.settings.config
	return clusterview.Timing{Load: c.EtcdStartTimeout, KeepAlive: c.Common.EtcdWatchKeepaliveInterval,
		Reload: clusterview.DefaultTiming.Reload}
}
