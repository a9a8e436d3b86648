// Package stats reports what an OSD does: the keys osd/stats, osd/space,
// osd/inodestats and pgstats in etcd (spec osd.md §15, etcd.md 2.6, 2.7.4),
// slow operations and a line about the load in the log.
//
//	counters of msgr, secondary, primary, store ──▶ Totals ──▶ rates ──▶ JSON ──▶ etcd
//
// It guarantees that a report is written every interval and soon after PGs
// have changed, that only one is on its way at a time, and that what etcd does
// not accept at once is sent in parts: reports have no compares, so parts are
// as good as one transaction.
//
// Concurrency: everything runs on the loop. Reports allocate; counting does not
// happen here.
package stats

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// Config is about the OSD as a whole.
type Config struct {
	OSD              meta.OSDNum
	Keys             schema.Keys
	Host, Version    string
	Commit           meta.CommitMode
	GranularityBytes uint32
	Interval         time.Duration // etcd_stats_interval
	Options
	// Fatal is told when etcd refuses reports for good.
	Fatal func(error)
}

// Options may change while the OSD runs.
type Options struct {
	SlowTimeout time.Duration // etcd_slow_timeout: of a report, and before another attempt
	Vanish      time.Duration // inode_vanish_time
	SlowOps     time.Duration // slow_log_interval
	Print       time.Duration // print_stats_interval; 0 = never
}

// Sources are the parts of the OSD.
type Sources struct {
	Store     *store.Store
	Msgr      *msgr.Messenger
	Secondary *secondary.Server
	Primary   *primary.Server
	Pool      func(meta.PoolID) *schema.Pool
	// EachPG calls f for every PG that this OSD is primary of and serves.
	EachPG func(f func(pg meta.PG, counts peering.Counts, curSet []meta.OSDNum))
}

// Reporter reports for one OSD.
type Reporter struct {
	env *env.Env
	c   Config
	s   Sources

	timer   env.Timer // the next report
	window  window
	vanish  vanishing
	sending bool
	wanted  bool // again, as soon as the present one is done
	stopped bool
	sent    env.Instant // when the last report was made; 0 = never
	opsMax  int         // what etcd takes at once; 0 = everything

	slow    slowLog
	printer printer
}

// New makes a Reporter; nothing happens before Start.
func New(e *env.Env, c Config, s Sources) *Reporter {
	if e.Log == nil {
		copied := *e
		copied.Log, e = slog.New(slog.DiscardHandler), &copied
	}
	r := &Reporter{env: e, c: c, s: s, vanish: vanishing{}}
	r.timer.Fire = r.Soon
	r.slow.init(r)
	r.printer.init(r)
	return r
}

// Start sends the first report.
func (r *Reporter) Start() {
	r.slow.arm()
	r.printer.arm()
	r.Soon()
}

// Stop ends all. A report on its way may still arrive.
func (r *Reporter) Stop() {
	r.stopped = true
	for _, t := range []*env.Timer{&r.timer, &r.slow.timer, &r.printer.timer} {
		r.env.Clock.Disarm(t)
	}
}

// SetOptions changes what may change.
func (r *Reporter) SetOptions(o Options) {
	if r.c.Options == o {
		return
	}
	r.c.Options = o
	if !r.stopped {
		r.slow.arm()
		r.printer.arm()
	}
}

// Soon sends a report now, or shortly after the last one.
func (r *Reporter) Soon() {
	switch {
	case r.stopped:
	case r.sending:
		r.wanted = true
	case r.sent != 0 && r.env.Clock.Now().Sub(r.sent) < reportPause:
		r.env.Clock.Arm(&r.timer, r.sent.Add(reportPause).Sub(r.env.Clock.Now()))
	default:
		r.sent = r.env.Clock.Now()
		r.send(r.report())
	}
}

// report is the transaction with everything.
func (r *Reporter) report() *env.Txn {
	now := r.env.Clock.Now()
	totals := collect(r.s.Msgr.Stats(), r.s.Secondary.Stats(), r.s.Primary.Stats())
	r.window.advance(now, &totals)
	t := r.s.Store.Totals()
	s := schema.OSDStats{
		TimeMillis: uint64(max(r.env.Clock.WallNanos(), 0)) / 1_000_000, BlockstoreReady: true,
		SizeBytes: t.TotalBlocks * uint64(t.BlockBytes), FreeBytes: t.FreeBlocks * uint64(t.BlockBytes),
		BlockBytes: t.BlockBytes, GranularityBytes: r.c.GranularityBytes, ImmediateCommit: r.c.Commit.String(),
		Host: r.c.Host, Version: r.c.Version,
	}
	s.SlowOpsPrimary, s.SlowOpsSecondary = r.slow.counts()
	totals.fill(&s, &r.window)
	inodes := r.s.Primary.Stats().Inodes
	r.vanish.prune(now, r.c.Vanish, inodes, r.s.Store.InodeBytes)
	var pgs []schema.PGReportedStats
	r.s.EachPG(func(pg meta.PG, c peering.Counts, curSet []meta.OSDNum) {
		pgs = append(pgs, schema.PGReportedStats{PG: pg, Stats: schema.PGStats{Clean: c.Clean, Misplaced: c.Misplaced,
			Degraded: c.Degraded, Incomplete: c.Incomplete, Corrupted: c.Corrupted, Objects: c.Total, WriteOSDSet: curSet}})
	})
	txn := r.c.Keys.ReportOSDStats(r.c.OSD, &s, space(r.s.Store.Inodes, r.s.Pool), inodeIO(inodes), pgs)
	return &txn
}

// send sends the report, in parts if etcd does not take it at once.
func (r *Reporter) send(rest *env.Txn) {
	part := *rest
	if r.opsMax > 0 && len(part.Then) > r.opsMax {
		part.Then = part.Then[:r.opsMax]
	}
	r.sending = true
	r.env.KV.Txn(&part, r.c.SlowTimeout, func(_ *env.TxnResponse, err error) {
		switch {
		case r.stopped:
		case errors.Is(err, env.ErrKVTooLarge) && len(part.Then) > 1:
			r.opsMax = (len(part.Then) + 1) / 2
			r.env.Log.Warn("etcd does not take all statistics at once, sending them in parts", "operations", r.opsMax, "err", err)
			r.send(rest)
		case errors.Is(err, env.ErrKVTooLarge), errors.Is(err, env.ErrKVInvalid):
			r.c.Fatal(fmt.Errorf("cannot report statistics: %w", err))
		case err != nil:
			r.env.Log.Warn("cannot report statistics, trying again", "err", err)
			r.finish(r.c.SlowTimeout)
		case len(part.Then) < len(rest.Then):
			rest.Then = rest.Then[len(part.Then):]
			r.send(rest)
		default:
			r.finish(r.c.Interval)
		}
	})
}

// finish ends a report and plans the next one.
func (r *Reporter) finish(pause time.Duration) {
	r.sending = false
	if r.wanted {
		r.wanted, pause = false, min(pause, reportPause)
	}
	r.env.Clock.Arm(&r.timer, pause)
}

// reportPause is between two reports at least: a PG may change its
// state many times in a second, and each report of 1000 OSDs is work for etcd
// and the monitor.
const reportPause = 250 * time.Millisecond
