package pgs

import (
	"slices"

	"vitastor/internal/env"
	"vitastor/osd/peering"
)

// stepObjects of a calculation take about half a millisecond.
const stepObjects = 2000

// job is work that is done in slices: adding lists, calculations.
type job interface {
	// slice does a part and returns whether there is more.
	slice() (more bool)
}

// worker gives every job a slice in turns, one slice per turn of the loop.
type worker struct {
	m    *Manager
	jobs []job
	task env.Task
}

func (w *worker) init(m *Manager) {
	w.m = m
	w.task.Run = w.turn
}

func (w *worker) add(j job) {
	w.jobs = append(w.jobs, j)
	w.m.env.Exec.Defer(&w.task)
}

func (w *worker) turn() {
	if len(w.jobs) == 0 {
		return
	}
	j := w.jobs[0]
	w.jobs[0] = nil
	if w.jobs = w.jobs[1:]; j.slice() {
		w.jobs = append(w.jobs, j)
	}
	if len(w.jobs) > 0 {
		w.m.env.Exec.Defer(&w.task)
	}
}

// calculate handles Calculate: all lists are there.
func (p *pg) calculate(number uint64) {
	r := p.round
	if r == nil || r.number != number {
		return // a Reset is under way
	}
	r.becomeReady()
	p.m.work.add(r)
}

// becomeReady lets the next PG be the oldest one.
func (r *round) becomeReady() {
	l := &r.p.m.lists
	if !r.ready {
		r.ready = true
		l.rounds = slices.DeleteFunc(l.rounds, func(x *round) bool { return x == r })
		if len(l.queue) > 0 {
			l.m.env.Exec.Defer(&l.task)
		}
	}
}

// slice implements job.
func (r *round) slice() (more bool) {
	if r.ended {
		return false
	}
	if !r.calc.Step(stepObjects) {
		return true
	}
	objects, summary := r.calc.Result()
	r.objects = objects
	if summary.Invalid != "" {
		r.p.complain(&r.p.badData, summary.Invalid)
	} else {
		r.p.complain(&r.p.badData, "")
	}
	r.p.m.step(r.p, peering.Calculated{Round: r.number, Summary: summary})
	return false
}

// endRound drops the lists and the calculation of a PG. What runs for them finds
// out when it ends.
func (m *Manager) endRound(p *pg) {
	r := p.round
	if r == nil {
		return
	}
	p.round = nil
	r.becomeReady()
	r.ended = true
	r.account(-r.bytes)
	r.calc.Free()
	if r.objects != nil {
		r.objects.Free()
		r.objects = nil
	}
}
