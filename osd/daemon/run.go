package daemon

import (
	"fmt"
	"slices"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/osd/heal"
	"vitastor/osd/peering"
	"vitastor/osd/pgs"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
	"vitastor/osd/stats"
)

// makeParts makes everything that works on an open store, and joins it.
func (d *OSD) makeParts() (err error) {
	c := d.config
	t := d.store.Totals()
	granule := c.Layout.Pools.GranularityBytes
	commit := c.Layout.Pools.Commit
	d.pgs = pgs.New(d.env, pgs.Config{OSD: d.num, BlockBytes: t.BlockBytes, GranuleBytes: granule, Commit: commit,
		ReadOnly: c.Store.ReadOnly, RunPrimary: c.RunPrimary, Keys: d.keys, Options: d.pgOptions()})
	if d.local, err = secondary.New(d.env, d.store, d.pgs.SecondaryView(), secondary.Config{OSD: d.num, BlockBytes: t.BlockBytes, GranuleBytes: granule,
		Commit: commit, LeaseTimeoutSec: uint64(c.EtcdLeaseTTL.Seconds()), RunPrimary: c.RunPrimary, ReadOnly: c.Store.ReadOnly,
		PGLocks: c.EnablePGLocks, Recovery: c.Recovery}); err != nil {
		return err
	}
	if d.msgr, err = msgr.New(d.env, msgr.Options{OSD: d.num, Networks: c.Network.Cluster, ShowConfig: d.local.ShowConfig,
		Store:   &wire.StoreParams{BlockBytes: t.BlockBytes, GranularityBytes: granule, Commit: commit},
		Handler: (*handler)(d), Timeouts: c.Timeouts(), Limits: d.o.Limits}); err != nil {
		return err
	}
	d.primary = primary.New(d.env, d.local, d.store, d.msgr, d.pgs, d.pgs, primary.Config{OSD: d.num, BlockBytes: t.BlockBytes, GranuleBytes: granule,
		Commit: commit, ReadOnly: c.Store.ReadOnly, AutosyncInterval: c.Store.AutosyncInterval, AutosyncWrites: c.AutosyncWrites(d.bufferBytes),
		RecoverySyncBatch: c.Recovery.SyncBatch, MayServe: d.MayServe, Fatal: d.fatal})
	d.local.SetPrimary(d.primary)
	d.heal, err = heal.New(d.env, heal.Deps{Primary: d.primary, Local: d.local, Peers: d.msgr, View: d.pgs, Owner: d.pgs,
		Backfillfull: func(pool meta.PoolID) bool { return slices.Contains(d.view.PGConfig().Backfillfull, pool) }},
		heal.Config{OSD: d.num, BlockBytes: t.BlockBytes, GranuleBytes: granule, ReadOnly: c.Store.ReadOnly, Options: d.healOptions()})
	if err != nil {
		return err
	}
	d.primary.SetScrub(d.heal.Scrub)
	d.makeView()
	d.pgs.SetDeps(pgs.Deps{View: d.view, Msgr: d.msgr, Local: d.local, Store: d.store, Ops: d.primary, Heal: d.heal,
		Lease: d.Lease, MayServe: d.MayServe, Reported: d.reported, Fatal: d.fatal})
	d.stats = stats.New(d.env, stats.Config{OSD: d.num, Keys: d.keys, Host: d.o.Facts.Hostname, Version: Version, Commit: commit,
		GranularityBytes: granule, Interval: c.EtcdStatsInterval, Options: d.statsOptions(), Fatal: d.fatal},
		stats.Sources{Store: d.store, Msgr: d.msgr, Secondary: d.local, Primary: d.primary, Pool: d.view.Pool, EachPG: d.eachPG})
	return nil
}

// makeView makes the view of the cluster, whose loads only succeed while we
// have our lease.
func (d *OSD) makeView() {
	d.guard = []env.Compare{{Key: d.keys.OSDState(d.num), Target: env.CompareLease, Result: env.CompareEqual}}
	d.view = clusterview.New(clusterview.Config{Clock: d.env.Clock, KV: d.env.KV, Log: d.env.Log, Keys: d.keys, Timing: d.config.Timing(),
		Guard: d.guard, Changed: d.changed, Fatal: d.fatal})
}

// MayServe tells whether the OSD is certainly registered at this moment.
func (d *OSD) MayServe() bool { return d.register != nil && d.register.MayServe() }

func (d *OSD) pgOptions() pgs.Options {
	c := d.config
	return pgs.Options{AllowNetSplit: c.AllowNetSplit, PGLocks: c.EnablePGLocks, LockRetry: c.PGLockRetryInterval,
		ReportTimeout: c.Network.EtcdQuickTimeout}
}

func (d *OSD) healOptions() heal.Options {
	return heal.Options{Recovery: d.config.Recovery, Scrub: d.config.Scrub}
}

func (d *OSD) statsOptions() stats.Options {
	c := d.config
	return stats.Options{SlowTimeout: c.Network.EtcdSlowTimeout, Vanish: c.InodeVanishTime, SlowOps: c.SlowLogInterval, Print: c.PrintStatsInterval}
}

// changed is told every change of the cluster's state.
func (d *OSD) changed(ch *clusterview.Changes) {
	if d.over || d.failed {
		return
	}
	for _, osd := range ch.OSDs {
		if osd == d.num && d.view.OSD(osd) == nil {
			d.register.Lost()
			return
		}
	}
	if ch.Global {
		d.reload(d.view.Global())
	}
	d.pgs.Changed(ch)
	if d.stage == "reading the state of the cluster" {
		d.stage = "running"
		d.env.Log.Info("OSD is started", "osd", d.num)
		d.pgs.Start()
		d.stats.Start()
		if d.o.Started != nil {
			d.o.Started()
		}
	}
}

// reload applies a new config/global.
func (d *OSD) reload(global *schema.Object) {
	next, changed := d.loader.Reload(d.config, global)
	if len(changed) == 0 {
		return
	}
	if !slices.Equal(d.config.Common.EtcdAddress, next.Common.EtcdAddress) {
		defer d.setEtcd()
	}
	d.config = next
	d.local.SetPGLocks(next.EnablePGLocks)
	d.local.SetRecovery(next.Recovery)
	d.primary.SetTimes(next.Store.AutosyncInterval, next.AutosyncWrites(d.bufferBytes), next.Recovery.SyncBatch)
	d.heal.Apply(d.healOptions())
	d.store.Tune(next.Tunables())
	d.msgr.SetTimeouts(next.Timeouts())
	d.view.SetTiming(next.Timing())
	d.pgs.SetOptions(d.pgOptions())
	d.stats.SetOptions(d.statsOptions())
	d.setLogLevel()
}

// reported: etcd knows the states of all PGs.
func (d *OSD) reported() {
	if d.stage == "running" {
		d.stats.Soon()
	}
}

// eachPG is for statistics: PGs that we serve as their primary.
func (d *OSD) eachPG(f func(pg meta.PG, counts peering.Counts, curSet []meta.OSDNum)) {
	d.pgs.Each(func(pg meta.PG, _ meta.PGState, _ string) {
		if o := d.primary.Objects(pg); o != nil {
			f(pg, o.Counts(), o.CurSet)
		}
	})
}

// handler is what the messenger tells.
type handler OSD

// Serve implements msgr.Handler.
func (h *handler) Serve(r *msgr.Request) {
	if h.over || h.failed {
		r.Fail(wire.EPIPE)
		return
	}
	h.local.Serve(r)
}

// Connected implements msgr.Handler.
func (h *handler) Connected(c *msgr.Conn) { h.pgs.Connected(c) }

// ConnectFailed implements msgr.Handler.
func (h *handler) ConnectFailed(osd meta.OSDNum, reason error) {
	h.env.Log.Debug("cannot connect", "osd", osd, "reason", reason)
}

// Disconnected implements msgr.Handler.
func (h *handler) Disconnected(c *msgr.Conn, reason error) {
	h.env.Log.Debug("connection ended", "conn", c.String(), "reason", reason)
	h.local.Disconnected(c)
	h.primary.Disconnected(c)
	h.pgs.Disconnected(c)
}

// Number is the OSD's number, 0 while it is not known.
func (d *OSD) Number() meta.OSDNum { return d.num }

// Lease is the OSD's lease, 0 if there is none at the moment.
func (d *OSD) Lease() env.LeaseID {
	if d.register == nil {
		return 0
	}
	return d.register.Lease()
}

// HasDisk tells whether a disk is open.
func (d *OSD) HasDisk() bool { return len(d.disks.opened) > 0 }

// PGStatus is one PG that the OSD runs or is to run.
type PGStatus struct {
	PG     meta.PG
	State  meta.PGState
	Why    string // why it is not active
	Counts peering.Counts
	Active bool
}

// Status is for tests and people.
type Status struct {
	OSD         meta.OSDNum
	Stage       string // what it does: starting, ..., running, stopping, failed
	MayServe    bool
	PGs         []PGStatus
	BufferBytes int64 // of messages, in use: 0 when nothing is being done
}

// Status describes the OSD now.
func (d *OSD) Status() Status {
	s := Status{OSD: d.num, Stage: d.stage, MayServe: d.MayServe()}
	if d.pgs != nil && d.primary != nil {
		d.pgs.Each(func(pg meta.PG, state meta.PGState, why string) {
			p := PGStatus{PG: pg, State: state, Why: why}
			p.Counts, p.Active = d.primary.PGCounts(pg)
			s.PGs = append(s.PGs, p)
		})
	}
	if d.msgr != nil {
		for _, p := range d.msgr.Pools() {
			s.BufferBytes += p.Stats().UsedBytes
		}
	}
	return s
}

// String is one line per PG, and one about the OSD.
func (s Status) String() string {
	text := fmt.Sprintf("OSD %d %s may_serve=%t buffers=%d", s.OSD, s.Stage, s.MayServe, s.BufferBytes)
	for _, p := range s.PGs {
		text += fmt.Sprintf("\n  PG %v %v objects=%d %s", p.PG, p.State, p.Counts.Total, p.Why)
	}
	return text
}
