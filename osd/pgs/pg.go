package pgs

import (
	"errors"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
)

// pg is one placement group: its Machine, and what was asked for by it.
type pg struct {
	m       *Manager
	id      meta.PG
	machine *peering.Machine
	idle    bool // offline, and etcd knows it
	dropped bool // not the Manager's any more

	badConfig notice
	badData   notice
	logged    meta.PGState

	report wish

	// Operations. Ops knows the PG from Activate to Reset.
	service  service
	stopSeq  uint64
	objects  *peering.Objects // Ops has them too
	flushing bool             // Heal was told
	flush    *flush           // the batch in flight

	// News from operations, told once per turn of the loop.
	isPoked   bool
	flags     meta.PGState
	hasFlags  bool
	wantEpoch uint64

	arrived   []meta.OSDNum // connected, and not told yet, see arrivals.go
	round     *round        // of lists and calculation
	lockTimer retryTimer
	peerTimer retryTimer
}

// service is what Ops does with the PG.
type service uint8

const (
	unknown  service = iota // it does not know it
	serving                 // since Activate
	stopping                // since Stop, until it answers
	stopped                 // until Reset
)

// retryTimer gives a peering.Timer.
type retryTimer struct {
	env.Timer
	seq uint64
}

// queued is an event to be given to a Machine.
type queued struct {
	p  *pg
	ev peering.Event
}

// find returns the PG or its place in m.order.
func (m *Manager) find(id meta.PG) (int, bool) {
	return slices.BinarySearchFunc(m.order, id, func(p *pg, id meta.PG) int { return p.id.Compare(id) })
}

// add makes the Machine of a PG.
func (m *Manager) add(id meta.PG) *pg {
	p := &pg{m: m, id: id, machine: peering.New(id, m.c.OSD, peerView{m}), idle: true, logged: meta.PGOffline}
	p.lockTimer.Fire = func() { m.step(p, peering.Timer{Kind: peering.LockRetry, Seq: p.lockTimer.seq}) }
	p.peerTimer.Fire = func() { m.step(p, peering.Timer{Kind: peering.PeerAgain, Seq: p.peerTimer.seq}) }
	i, _ := m.find(id)
	m.order = slices.Insert(m.order, i, p)
	m.pgs[id] = p
	return p
}

// step gives an event to a PG's Machine and does what it asks for. Events that
// come up meanwhile follow.
func (m *Manager) step(p *pg, ev peering.Event) {
	if len(p.arrived) > 0 {
		for _, osd := range p.held(ev) {
			m.queue = append(m.queue, queued{p, peering.PeerConnected{OSD: osd}})
		}
	}
	m.queue = append(m.queue, queued{p, ev})
	if m.draining {
		return
	}
	m.draining = true
	for i := 0; i < len(m.queue); i++ {
		q := m.queue[i]
		if !q.p.dropped {
			q.p.handle(q.ev)
		}
	}
	clear(m.queue)
	m.queue, m.draining = m.queue[:0], false
}

// stepAll gives an event to all PGs.
func (m *Manager) stepAll(ev peering.Event) {
	for _, p := range m.order {
		m.step(p, ev)
	}
}

func (p *pg) handle(ev peering.Event) {
	for _, a := range p.machine.Step(ev) {
		p.act(a)
	}
	if state := p.machine.State(); state != meta.PGOffline {
		p.idle = false
	}
	if len(p.m.arrivals.queue) > 0 && p.machine.State() != p.logged {
		p.m.env.Exec.Defer(&p.m.arrivals.task)
	}
	p.logState()
}

// act does what a Machine asks for.
func (p *pg) act(a peering.Action) {
	m := p.m
	switch a := a.(type) {
	case peering.Connect:
		m.want(a.OSD)
	case peering.DropPeer:
		if c := m.Msgr.Conn(a.OSD); c != nil {
			c.Drop(errors.New(a.Why))
		}
	case peering.SendReport:
		p.wantReport(a.Later)
	case peering.SendLock:
		p.sendLock(a.OSD, a.Seq, a.State)
	case peering.SendUnlock:
		p.sendLock(a.OSD, a.Seq, 0)
	case peering.StartTimer:
		p.startTimer(a)
	case peering.SendList:
		p.sendList(a.OSD, a.Round)
	case peering.Calculate:
		p.calculate(a.Round)
	case peering.Forget:
		p.idle = true
		m.env.Exec.Defer(&m.sweepTask)
	case peering.Fatal:
		m.Fatal(errors.New(a.Why))
	default:
		p.actOnOps(a)
	}
}

// actOnOps does what concerns operations, recovery and scrub.
func (p *pg) actOnOps(a peering.Action) {
	m := p.m
	switch a := a.(type) {
	case peering.StopOps:
		p.stopOps(a.Seq)
	case peering.Reset:
		p.reset()
	case peering.Activate:
		p.activate(a.Epoch)
	case peering.EpochRecorded:
		m.Ops.EpochRecorded(p.id, a.Epoch)
	case peering.Flush:
		p.startFlush(a.Seq)
	case peering.Recover:
		if m.Heal != nil {
			m.Heal.Recoverable(p.id)
		}
	case peering.PlanScrub:
		if m.Heal != nil {
			m.Heal.PlanScrub(p.id, a.At)
		}
	default:
		invariant.Fail("pgs: unknown action %T", a)
	}
}

func (p *pg) startTimer(a peering.StartTimer) {
	t := &p.lockTimer
	if a.Kind == peering.PeerAgain {
		t = &p.peerTimer
	}
	t.seq = a.Seq
	p.m.env.Clock.Arm(&t.Timer, p.m.c.LockRetry)
}

// activate admits operations.
func (p *pg) activate(epoch uint64) {
	invariant.Must(p.service == unknown && p.round != nil && p.round.objects != nil, "pgs: a PG becomes active without a calculation")
	p.objects, p.round.objects = p.round.objects, nil
	p.m.endRound(p)
	p.service, p.hasFlags, p.wantEpoch = serving, false, 0
	p.m.Ops.Activate(primary.Activation{PG: p.id, Epoch: epoch, Objects: p.objects,
		CurPeers: slices.Clone(p.machine.CurPeers()), DeadPeers: slices.Clone(p.machine.DeadPeers())})
	p.m.env.Exec.Defer(&p.m.sweepTask)
}

// stopOps ends operations. There may be another request while the first one was
// not answered: the answer is to the last one.
func (p *pg) stopOps(seq uint64) {
	p.stopSeq, p.hasFlags, p.wantEpoch = seq, false, 0
	p.endFlushing()
	switch p.service {
	case unknown, stopped:
		p.m.step(p, peering.OpsDrained{Seq: seq})
	case serving:
		p.service = stopping
		if p.m.Heal != nil {
			p.m.Heal.Stopped(p.id)
		}
		p.m.Ops.Stop(p.id, p.drained)
	}
}

// drained is the answer of Ops.
func (p *pg) drained() {
	p.service = stopped
	p.m.step(p, peering.OpsDrained{Seq: p.stopSeq})
}

// reset forgets the objects, those in use and those being calculated.
func (p *pg) reset() {
	p.m.endRound(p)
	if p.service != unknown {
		invariant.Must(p.service == stopped && p.flush == nil, "pgs: a PG is reset while operations run")
		p.service, p.objects = unknown, nil
		p.m.Ops.Reset(p.id)
	}
}

// sweep drops PGs that are offline and not ours, and connections to OSDs that
// no PG needs any more.
func (m *Manager) sweep() {
	quiet := true
	for i := 0; i < len(m.order); {
		p := m.order[i]
		if !p.idle {
			quiet = false
		} else if t := m.target(p.id); t == nil || t.Primary != m.c.OSD {
			m.drop(p)
			continue
		}
		i++
	}
	m.unwant()
	m.tryReshard()
	if m.shutdown && quiet && m.down != nil {
		down := m.down
		m.down = nil
		down()
	}
}

func (m *Manager) drop(p *pg) {
	i, _ := m.find(p.id)
	m.order = slices.Delete(m.order, i, i+1)
	delete(m.pgs, p.id)
	p.dropped = true
	m.env.Clock.Disarm(&p.lockTimer.Timer)
	m.env.Clock.Disarm(&p.peerTimer.Timer)
}

// logState tells about changes that people care for.
func (p *pg) logState() {
	state := p.machine.State()
	if state == p.logged {
		return
	}
	write := p.m.log.Debug
	if state&(meta.PGActive|meta.PGIncomplete|meta.PGOffline) != 0 && (state^p.logged)&meta.PGLifeCycle != 0 {
		write = p.m.log.Info
	}
	p.logged = state
	write("PG is "+state.String(), "pg", p.id.String(), "why", p.machine.Why())
}

// notice is a complaint that is made once, not each time it is found.
type notice string

// complain says why a PG does not work; "" = it does.
func (p *pg) complain(n *notice, why string) {
	if notice(why) == *n {
		return
	}
	if *n = notice(why); why != "" {
		p.m.log.Warn("PG cannot be run", "pg", p.id.String(), "why", why)
	}
}
