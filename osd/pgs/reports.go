package pgs

import (
	"errors"
	"fmt"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/osd/peering"
)

// The states of all PGs that have changed go to etcd in one transaction, one at
// a time (etcd.md 2.7.2). One conflict fails all of it, so a PG whose report may
// be the reason is a suspect, and reported alone until that has worked: a key
// that nobody can read must not keep the other PGs from starting.

// wish is what a PG has to tell etcd.
type wish struct {
	due     dueTime
	at      env.Instant // of dueLater
	suspect bool
	seen    int64 // view of the failed attempt; 0 = the outcome is unknown
	// unreadable is the last complaint about what another OSD has written.
	unreadable string
}

type dueTime uint8

const (
	dueNever dueTime = iota
	dueNow
	dueLater
)

// reporter makes the transactions.
type reporter struct {
	m        *Manager
	task     env.Task
	timer    env.Timer
	sent     []*pg // in the transaction in flight
	reports  []schema.PGReport
	busy     bool
	seen     int64 // view it was made with
	batchMax int
	refused  string // logged last
}

// reportBatchMax limits a transaction: PGs have up to 5 operations and compares.
const reportBatchMax = 4096

func (r *reporter) init(m *Manager) {
	r.m, r.batchMax = m, reportBatchMax
	r.task.Run, r.timer.Fire = r.send, r.send
}

// wantReport handles SendReport.
func (p *pg) wantReport(later bool) {
	r := &p.m.reports
	if !later {
		p.report.due = dueNow
		p.m.env.Exec.Defer(&r.task)
		return
	}
	p.report.due, p.report.at = dueLater, p.m.env.Clock.Now().Add(p.m.c.ReportRetry)
	r.arm()
}

// arm waits for the first report that is to be repeated.
func (r *reporter) arm() {
	if r.busy || r.timer.Armed() {
		return
	}
	wait, found := r.m.c.ReportRetry, false
	for _, p := range r.m.order {
		switch p.report.due {
		case dueNow: // there is no lease
			found = true
		case dueLater:
			wait, found = min(wait, p.report.at.Sub(r.m.env.Clock.Now())), true
		}
	}
	if found {
		r.m.env.Clock.Arm(&r.timer, max(wait, 0))
	}
}

// viewAdvanced lets reports that failed because our view was old go at once.
func (r *reporter) viewAdvanced() {
	now := false
	for _, p := range r.m.order {
		if w := &p.report; w.due == dueLater && w.seen != 0 && w.seen < r.m.View.PGRevision() {
			w.due, now = dueNow, true
		}
	}
	if now {
		r.m.env.Exec.Defer(&r.task)
	}
}

// send makes the next transaction.
func (r *reporter) send() {
	if r.busy {
		return
	}
	m := r.m
	lease := m.Lease()
	if lease == 0 {
		r.arm()
		return
	}
	r.seen = m.View.PGRevision()
	r.collect(false)
	if len(r.reports) == 0 {
		r.collect(true)
	}
	if len(r.reports) == 0 {
		r.arm()
		return
	}
	r.busy = true
	m.env.Clock.Disarm(&r.timer)
	t := m.c.Keys.ReportPGs(r.reports, lease, r.seen)
	m.env.KV.Txn(&t, m.c.ReportTimeout, func(a *env.TxnResponse, err error) { r.answered(a, err, lease) })
}

// collect takes the reports that are due: of suspects only one.
func (r *reporter) collect(suspects bool) {
	m, limit := r.m, r.batchMax
	if suspects {
		limit = 1
	}
	now := m.env.Clock.Now()
	for _, p := range m.order {
		w := &p.report
		if w.suspect != suspects || w.due == dueNever || w.due == dueLater && now < w.at {
			continue
		}
		if len(r.reports) == limit {
			return // the rest follows
		}
		m.step(p, m.inputs(p)) // the report is made with the view of the transaction
		w.due = dueNever
		if rep, ok := p.machine.Report(); ok {
			r.sent, r.reports = append(r.sent, p), append(r.reports, rep)
		}
	}
}

// answered tells the outcome to all PGs of the transaction.
func (r *reporter) answered(a *env.TxnResponse, err error, lease env.LeaseID) {
	m := r.m
	sent, reports := r.sent, r.reports
	r.sent, r.reports, r.busy = nil, nil, false
	switch {
	case err != nil:
		r.failed(err, len(sent))
		for _, p := range sent {
			p.report.seen = 0
			m.step(p, peering.ReportFailed{Unknown: true})
		}
	case a.Succeeded:
		r.refused = ""
		for _, p := range sent {
			p.report.suspect = false
			m.step(p, peering.Reported{Revision: a.Revision})
		}
	default:
		r.conflict(sent, reports, a, lease)
	}
	if r.pending() {
		m.env.Exec.Defer(&r.task)
		return
	}
	if err == nil && a.Succeeded && m.Reported != nil {
		m.Reported()
	}
}

// pending: there is something to report now.
func (r *reporter) pending() bool {
	return slices.ContainsFunc(r.m.order, func(p *pg) bool { return p.report.due != dueNever })
}

// failed logs the reason and adapts to it.
func (r *reporter) failed(err error, sent int) {
	switch {
	case errors.Is(err, env.ErrKVNoLease):
		r.m.Fatal(fmt.Errorf("states of PGs cannot be reported: %w", err))
	case errors.Is(err, env.ErrKVTooLarge):
		r.batchMax = max(sent/2, 1)
	}
	if text := err.Error(); text != r.refused {
		r.refused = text
		r.m.log.Warn("etcd does not take the states of PGs", "err", err)
	}
}

// conflict: some key is not as we believed. The answer has all of them.
func (r *reporter) conflict(sent []*pg, reports []schema.PGReport, a *env.TxnResponse, lease env.LeaseID) {
	guilty := make([]bool, len(sent))
	results := make([]peering.ReportFailed, len(sent))
	found := false
	for i, p := range sent {
		results[i] = p.foundState(&a.Responses[i], lease)
		exists := len(a.Responses[i].KVs) > 0
		if reports[i].State.State == meta.PGStarting || reports[i].Holder == schema.HeldByNobody {
			guilty[i] = exists
		} else {
			guilty[i] = !results[i].Own
		}
		found = found || guilty[i]
	}
	for i, p := range sent {
		if guilty[i] || !found && reports[i].History != nil {
			p.report.suspect = true
		}
		p.report.seen = r.seen
		r.m.step(p, results[i])
	}
	r.viewAdvanced() // meanwhile, perhaps
}

// foundState is what the state key of the PG contains.
func (p *pg) foundState(r *env.KVOpResponse, lease env.LeaseID) peering.ReportFailed {
	if len(r.KVs) == 0 {
		return peering.ReportFailed{}
	}
	kv := &r.KVs[0]
	f := peering.ReportFailed{Own: kv.Lease == lease, Revision: kv.ModRevision}
	s, err := schema.DecodePGState(kv.Key, kv.Value)
	if err != nil && err.Error() != p.report.unreadable {
		p.report.unreadable = err.Error()
		p.m.log.Warn("PG cannot be run: its state in etcd cannot be read, delete the key", "pg", p.id.String(), "err", err)
	}
	if f.Primary = s.Primary; f.Own {
		f.Primary = p.m.c.OSD
	}
	return f
}
