package pgs

import (
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// Lists of objects are asked for in the order in which PGs began to peer.
//
//	queued ─▶ asked ─▶ being added to the Calc, in slices ─▶ ListDone
//	   ▲        │
//	   └─ pause ┘  EAGAIN: the peer still sorts its objects into PGs; or our lease is not certain
//
// Per OSD a few are asked for at a time, so that one that hangs does not hold up
// the PGs of others. Beyond the budget of memory only the oldest PG goes on.
const (
	listsPerPeer = 8
	sliceItems   = 4096                   // added to a Calc in one go
	listPause    = 100 * time.Millisecond // before it is asked for again
	// smallListBytes are on the Go heap: a mapping costs more.
	smallListBytes = 32 << 10
)

// lister knows all lists of all PGs.
type lister struct {
	m      *Manager
	queue  []*listing
	rounds []*round // that are not ready to be calculated, oldest first
	bytes  int64    // of answers and of what was added to Calcs
	asked  map[*listing]struct{}
	task   env.Task
}

func (l *lister) init(m *Manager) {
	l.m, l.asked = m, map[*listing]struct{}{}
	l.task.Run = l.pump
}

// round is one round of peering of a PG: lists, then a calculation.
type round struct {
	p       *pg
	number  uint64
	layout  peering.Layout
	calc    *peering.Calc
	bytes   int64
	ready   bool             // all lists are there
	ended   bool             // nobody waits for it any more
	objects *peering.Objects // the result, until it is used
}

// listing is one list of one PG.
type listing struct {
	round  *round
	osd    meta.OSDNum
	timer  env.Timer // of pauses
	remote msgr.Op
	local  secondary.Op
	list   store.List // of local

	body   []byte // answer of a peer
	mapped bool   // body is not on the Go heap
	items  wire.ObjectList
	at     int
	into   *peering.List
}

// sendList handles SendList.
func (p *pg) sendList(osd meta.OSDNum, number uint64) {
	m := p.m
	if p.round == nil || p.round.number != number {
		m.endRound(p)
		l := p.machine.Layout()
		p.round = &round{p: p, number: number, layout: l, calc: peering.NewCalc(l, &m.arena)}
		m.lists.rounds = append(m.lists.rounds, p.round)
	}
	g := &listing{round: p.round, osd: osd}
	g.timer.Fire = func() { m.lists.enqueue(g) }
	g.remote.Done, g.remote.Grow, g.local.Done = g.answered, g.grow, g.listed
	m.lists.enqueue(g)
}

func (l *lister) enqueue(g *listing) {
	l.queue = append(l.queue, g)
	l.m.env.Exec.Defer(&l.task)
}

// pump asks for the lists whose turn it is.
func (l *lister) pump() {
	queue := l.queue
	l.queue = l.queue[:0:0]
	for _, g := range queue {
		switch {
		case g.round.ended:
		case !l.mayAsk(g):
			l.queue = append(l.queue, g)
		default:
			l.ask(g)
		}
	}
}

func (l *lister) mayAsk(g *listing) bool {
	return l.m.peer(g.osd).listing < listsPerPeer &&
		(l.bytes < l.m.c.ListBudgetBytes || l.rounds[0] == g.round)
}

func (l *lister) ask(g *listing) {
	m := l.m
	if m.MayServe != nil && !m.MayServe() {
		m.env.Clock.Arm(&g.timer, listPause)
		return
	}
	lay := &g.round.layout
	q := wire.PeeringList(lay.PG, lay.PGCount, lay.PGStripeBytes)
	if g.osd == m.c.OSD {
		g.list = store.List{Pool: lay.PG.Pool, PG: q.PG, PGCount: q.PGCount, PGStripeBytes: q.PGStripeBytes, Min: q.Min, Max: q.Max}
		g.local.Kind, g.local.List = store.OpList, &g.list
		l.start(g)
		m.Local.Submit(&g.local)
		return
	}
	c := m.Msgr.Conn(g.osd)
	if c == nil { // PeerDisconnected is on its way
		g.done(false)
		return
	}
	q.Encode(&g.remote.Packet)
	l.start(g)
	c.Submit(&g.remote)
}

func (l *lister) start(g *listing) {
	l.m.peer(g.osd).listing++
	l.asked[g] = struct{}{}
}

// end is for every listing that was started.
func (l *lister) end(g *listing) {
	l.m.peer(g.osd).listing--
	delete(l.asked, g)
	g.free()
	if len(l.queue) > 0 {
		l.m.env.Exec.Defer(&l.task)
	}
}

// grow gives memory for an answer.
func (g *listing) grow(_ *msgr.Op, n int) bool {
	if n <= smallListBytes {
		g.body = make([]byte, n)
	} else {
		body, err := pinned.Make[byte](n)
		if err != nil {
			g.round.p.m.log.Error("no memory for a list of objects", "osd", uint64(g.osd), "bytes", n, "err", err)
			return false
		}
		g.body, g.mapped = body, true
	}
	g.round.p.m.lists.bytes += int64(n)
	g.remote.Body = [][]byte{g.body}
	return true
}

func (g *listing) free() {
	g.round.p.m.lists.bytes -= int64(len(g.body))
	if g.mapped {
		pinned.Free(g.body)
	}
	g.body, g.items, g.mapped, g.remote.Body = nil, nil, false, nil
	g.list.Stable, g.list.Unstable = nil, nil
}

// answered is the end of a peer's answer.
func (g *listing) answered(op *msgr.Op) {
	m := g.round.p.m
	switch {
	case g.round.ended:
		m.lists.end(g)
	case op.Lost:
		g.done(false)
	case op.Retval == wire.EAGAIN:
		g.pause()
	case op.Retval.Failed():
		m.log.Warn("OSD cannot list the objects of a PG", "osd", uint64(g.osd), "pg", g.round.p.id.String(), "err", op.Retval.String())
		g.done(false)
	default:
		var reply wire.SecListReply
		reply.Decode(&op.Reply)
		g.items = wire.ObjectList(g.body[:op.BodyBytes])
		g.into = g.round.calc.Open(g.osd, reply.StableCount)
		m.work.add(g)
	}
}

// pause asks again later.
func (g *listing) pause() {
	m := g.round.p.m
	m.lists.end(g)
	m.env.Clock.Arm(&g.timer, listPause)
}

// listed is the end of our own list.
func (g *listing) listed(op *secondary.Op) {
	m := g.round.p.m
	switch {
	case g.round.ended:
		m.lists.end(g)
	case op.Retval() == wire.EAGAIN:
		g.pause()
	case op.Retval().Failed():
		g.round.p.complain(&g.round.p.badData, "the own store cannot list its objects: "+op.Retval().String())
		g.done(false)
	default:
		g.into = g.round.calc.Open(g.osd, 0)
		m.work.add(g)
	}
}

// slice implements job: it adds some items to the calculation.
func (g *listing) slice() (more bool) {
	if g.round.ended {
		g.round.p.m.lists.end(g)
		return false
	}
	n, err := 0, error(nil)
	if g.items != nil {
		n = min(g.items.Len()-g.at, sliceItems)
		err = g.into.Add(g.items[g.at*wire.ObjectItemBytes : (g.at+n)*wire.ObjectItemBytes])
		more = g.at+n < g.items.Len()
	} else {
		n, more, err = g.addOwn()
	}
	g.at += n
	g.round.account(int64(n) * wire.ObjectItemBytes)
	if err == nil && !more {
		err = g.into.Close()
	}
	switch {
	case err != nil:
		g.round.p.complain(&g.round.p.badData, fmt.Sprintf("the list of OSD %d is not usable: %v", g.osd, err))
		g.done(false)
		return false
	case !more:
		g.done(true)
	}
	return more
}

// addOwn adds items of the own store: first stable, then unstable ones.
func (g *listing) addOwn() (n int, more bool, err error) {
	stable := len(g.list.Stable)
	items, isStable, at := g.list.Stable, true, g.at
	if at >= stable {
		items, isStable, at = g.list.Unstable, false, at-stable
	}
	n = min(len(items)-at, sliceItems)
	err = g.into.AddItems(items[at:at+n], isStable)
	return n, g.at+n < stable+len(g.list.Unstable), err
}

// done answers SendList.
func (g *listing) done(ok bool) {
	m := g.round.p.m
	if _, asked := m.lists.asked[g]; asked {
		m.lists.end(g)
	}
	m.step(g.round.p, peering.ListDone{OSD: g.osd, Round: g.round.number, OK: ok})
}

func (r *round) account(bytes int64) {
	r.bytes += bytes
	r.p.m.lists.bytes += bytes
}

// free is for Manager.Free: no request runs any more.
func (l *lister) free() {
	for g := range l.asked {
		g.free()
	}
	l.asked, l.queue = nil, nil
}
