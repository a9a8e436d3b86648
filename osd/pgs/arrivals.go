package pgs

import (
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/osd/peering"
)

// When an OSD comes back, every active PG that has it as a member peers again,
// and serves nobody meanwhile. All at once they would wait for each other's
// lists, for seconds on large disks. So active PGs learn of it a few at a time;
// until then they go on without it, as before. Whatever else they learn about
// peers or their configuration comes after it: the order of events is kept.
const (
	arrivalsMax = 8 // PGs peering for this reason
	// arrivalWait lets further ones begin when these take long.
	arrivalWait = 100 * time.Millisecond
)

// arrivals are PGs that wait to be told.
type arrivals struct {
	m     *Manager
	queue []*pg
	begun []*pg // and not done
	task  env.Task
	timer env.Timer
}

func (a *arrivals) init(m *Manager) {
	a.m = m
	a.task.Run = a.pump
	a.timer.Fire = func() {
		a.begun = a.begun[:0]
		a.pump()
	}
}

// arrive tells a PG that an OSD is connected, now or in its turn.
func (p *pg) arrive(osd meta.OSDNum) {
	if p.machine.State()&meta.PGActive == 0 || !slices.Contains(p.machine.DeadPeers(), osd) {
		p.m.step(p, peering.PeerConnected{OSD: osd})
		return
	}
	a := &p.m.arrivals
	if p.arrived = append(p.arrived, osd); len(p.arrived) == 1 {
		a.queue = append(a.queue, p)
		p.m.env.Exec.Defer(&a.task)
	}
}

// held are the events that have to come before ev.
func (p *pg) held(ev peering.Event) []meta.OSDNum {
	switch ev := ev.(type) {
	case peering.PeerDisconnected:
		p.leave(ev.OSD)
	case peering.PeerKeyGone:
		p.leave(ev.OSD)
	case peering.PeerConnected, peering.PeerKeySeen, peering.Inputs, peering.Shutdown:
	default:
		return nil
	}
	osds := p.arrived
	p.arrived = nil
	return osds
}

// leave forgets an OSD that has gone before it was told about.
func (p *pg) leave(osd meta.OSDNum) {
	p.arrived = slices.DeleteFunc(p.arrived, func(o meta.OSDNum) bool { return o == osd })
}

// pump tells the next PGs.
func (a *arrivals) pump() {
	a.begun = slices.DeleteFunc(a.begun, func(p *pg) bool { return p.machine.State()&(meta.PGRepeering|meta.PGPeering) == 0 })
	for len(a.queue) > 0 && len(a.begun) < arrivalsMax {
		p := a.queue[0]
		a.queue = a.queue[1:]
		if len(p.arrived) == 0 {
			continue // told already, or gone
		}
		osd := p.arrived[0]
		p.arrived = p.arrived[1:]
		a.begun = append(a.begun, p)
		a.m.step(p, peering.PeerConnected{OSD: osd})
	}
	if len(a.queue) > 0 {
		a.m.env.Clock.Arm(&a.timer, arrivalWait)
	} else {
		a.m.env.Clock.Disarm(&a.timer)
	}
}
