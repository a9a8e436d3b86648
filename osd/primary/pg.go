package primary

import (
	"fmt"
	"slices"

	"vitastor/internal/ec"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// pg is one activation of a PG, from Activate to Reset. Operations of an earlier
// activation keep theirs, so that they cannot touch the new one.
type pg struct {
	s       *Server
	id      meta.PG
	objects *peering.Objects
	active  bool // until Stop
	stopped func()

	// Of the pool and the round of peering.
	replicated bool
	dataChunks int // 1 for replicas
	roles      int // 1 for replicas
	geometry   ec.Geometry
	code       *ec.Code
	curSet     []meta.OSDNum
	self       int // our role in curSet, -1 = none
	dead       []meta.OSDNum

	// epoch is that of new versions, recorded the highest one that etcd is known
	// to have, asked the highest one that was asked for.
	epoch, recorded, asked uint64
	epochWaiters           list
	flushWaiters           list

	head, tail *op // all operations in flight, oldest first
	count      int
	syncs      int // SYNCs under way that concern the PG

	// Lazy commit modes, see sync.go.
	dirty             bool // in syncer.dirtyPGs
	unstable, syncing versions
	copies, removing  []oldCopy
	leaving           int // operations that delete old copies at once
	// Deletions of old copies that a power loss may undo: they need a SYNC, or
	// are part of the one that runs.
	deleted, settling bool

	flags     meta.PGState // as told to the owner
	scrubbing bool
	telling   bool // in Server.telling
	unclean   bool // has degraded or misplaced objects
}

// Activate begins to serve a PG. The Objects are the Server's until Reset.
func (s *Server) Activate(a Activation) {
	if s.pgs[a.PG] != nil {
		s.Reset(a.PG)
	}
	l := &a.Objects.Layout
	p := &pg{s: s, id: a.PG, objects: a.Objects, active: true, epoch: a.Epoch, self: -1,
		replicated: l.Scheme == meta.Replicated, dataChunks: l.DataChunks, roles: 1,
		curSet: l.CurSet, dead: slices.Clone(a.DeadPeers)}
	p.self = slices.Index(p.curSet, s.config.OSD)
	if !p.replicated {
		p.roles = len(p.curSet)
		p.geometry = ec.Geometry{DataChunks: l.DataChunks, ParityChunks: p.roles - l.DataChunks, BlockBytes: s.config.BlockBytes}
		p.code = s.codeFor(l.Scheme, p.geometry)
	}
	p.flags = p.allFlags()
	p.unclean = p.objects.Flags()&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0
	s.pgs[a.PG] = p
}

// codeFor finds the code of a geometry, which all PGs of that shape share.
func (s *Server) codeFor(scheme meta.Scheme, g ec.Geometry) *ec.Code {
	key := codeKey{scheme, g.DataChunks, g.ParityChunks}
	if c := s.codes[key]; c != nil {
		return c
	}
	kind := ec.ReedSolomon
	if scheme == meta.XOR {
		kind = ec.XOR
	}
	c, err := ec.New(kind, g.DataChunks, g.ParityChunks)
	if err != nil {
		invariant.Fail("primary: a PG of a pool that cannot exist: %v", err)
	}
	s.codes[key] = c
	return c
}

type codeKey struct {
	scheme       meta.Scheme
	data, parity int
}

// add links an operation into the PG: it is in flight.
func (p *pg) add(o *op) {
	o.pg, o.pgPrev, o.pgNext = p, p.tail, nil
	if p.tail == nil {
		p.head = o
	} else {
		p.tail.pgNext = o
	}
	p.tail = o
	p.count++
}

func (p *pg) remove(o *op) {
	if o.pgPrev == nil {
		p.head = o.pgNext
	} else {
		o.pgPrev.pgNext = o.pgNext
	}
	if o.pgNext == nil {
		p.tail = o.pgPrev
	} else {
		o.pgNext.pgPrev = o.pgPrev
	}
	o.pg, o.pgPrev, o.pgNext = nil, nil, nil
	p.count--
	p.checkDrained()
}

// checkDrained tells the end of a Stop.
func (p *pg) checkDrained() {
	if !p.active && p.stopped != nil && p.count == 0 && p.syncs == 0 {
		p.s.stopped = append(p.s.stopped, p.stopped)
		p.stopped = nil
		p.s.env.Exec.Defer(&p.s.stoppedTask)
	}
}

// tellStopped calls back for PGs in which nothing is in flight any more.
func (s *Server) tellStopped() {
	for len(s.stopped) > 0 {
		done := s.stopped[0]
		s.stopped = slices.Delete(s.stopped, 0, 1)
		done()
	}
}

// Stop ends the service of a PG: operations that wait fail with EPIPE, clients
// with unsynced writes in it are dropped, and done is called, later, when nothing
// of it is in flight any more.
func (s *Server) Stop(id meta.PG, done func()) {
	p := s.pgs[id]
	if p == nil {
		s.stopped = append(s.stopped, done)
		s.env.Exec.Defer(&s.stoppedTask)
		return
	}
	if before := p.stopped; before != nil {
		p.stopped = func() { before(); done() }
	} else {
		p.stopped = done
	}
	p.halt()
	p.checkDrained()
}

// halt ends everything that waits.
func (p *pg) halt() {
	if !p.active {
		return
	}
	p.active = false
	s := p.s
	s.sync.dropClients(p, fmt.Errorf("PG %v stops: unsynced writes may be lost", p.id))
	s.sync.forget(p)
	for o := p.head; o != nil; o = o.pgNext {
		if !o.phase.waits() {
			continue
		}
		if o.q != nil {
			o.q.remove(o)
		}
		o.err, o.resume = wire.EPIPE, (*op).end
		s.later(o)
	}
}

// Reset forgets everything about a PG: objects, unstable versions, copies to
// delete. Results of operations still in flight have no effect.
func (s *Server) Reset(id meta.PG) {
	p := s.pgs[id]
	if p == nil {
		return
	}
	p.halt()
	delete(s.pgs, id)
	p.objects.Free()
	p.objects = nil
	p.unstable.clear()
	p.syncing.clear()
	p.copies, p.removing = nil, nil
	p.deleted, p.settling = false, false
}

// EpochRecorded lets writes go on that use an epoch up to this one.
func (s *Server) EpochRecorded(id meta.PG, epoch uint64) {
	p := s.pgs[id]
	if p == nil || epoch <= p.recorded {
		return
	}
	p.recorded = epoch
	for o := p.epochWaiters.head; o != nil; {
		next := o.next
		if o.version.Epoch() <= epoch {
			p.epochWaiters.remove(o)
			o.resume = (*op).sendWrites
			s.later(o)
		}
		o = next
	}
}

// awaitEpoch makes a write wait until its epoch is recorded.
func (p *pg) awaitEpoch(o *op) {
	o.phase = phaseEpoch
	p.epochWaiters.push(o)
	if epoch := o.version.Epoch(); epoch > p.asked {
		p.asked = epoch
		p.s.owner.NeedEpoch(p.id, epoch)
	}
}

// Flushed lets operations go on that waited for a flush: a batch is done.
func (s *Server) Flushed(id meta.PG) {
	p := s.pgs[id]
	if p == nil {
		return
	}
	var waiters list
	p.flushWaiters.moveTo(&waiters)
	for o := waiters.pop(); o != nil; o = waiters.pop() {
		s.later(o)
	}
	p.changed()
}

// Objects of a PG from Activate to Reset; nil otherwise.
func (s *Server) Objects(id meta.PG) *peering.Objects {
	if p := s.pgs[id]; p != nil {
		return p.objects
	}
	return nil
}

// PGCounts returns the numbers of objects of a PG that was activated.
func (s *Server) PGCounts(id meta.PG) (peering.Counts, bool) {
	if p := s.pgs[id]; p != nil {
		return p.objects.Counts(), true
	}
	return peering.Counts{}, false
}

// SetScrubbing sets or clears the flag of a PG.
func (s *Server) SetScrubbing(id meta.PG, on bool) {
	if p := s.pgs[id]; p != nil {
		p.scrubbing = on
		p.changed()
	}
}

// Changed tells that the caller has changed Objects of a PG: its flags may be
// others now.
func (s *Server) Changed(id meta.PG) {
	if p := s.pgs[id]; p != nil {
		p.changed()
	}
}

func (p *pg) allFlags() meta.PGState {
	flags := p.objects.Flags()
	if len(p.copies)+len(p.removing)+p.leaving > 0 || p.deleted || p.settling {
		flags |= meta.PGHasMisplaced
	}
	if p.scrubbing {
		flags |= meta.PGScrubbing
	}
	return flags
}

// changed is called when the state of objects or what follows from it may have
// changed. The owner is told after the present event.
func (p *pg) changed() {
	if !p.active {
		return
	}
	unclean := p.objects.Flags()&(meta.PGHasDegraded|meta.PGHasMisplaced) != 0
	if p.unclean && !unclean {
		p.s.sync.force(p)
	}
	p.unclean = unclean
	if p.allFlags() != p.flags && !p.telling {
		p.telling = true
		p.s.telling = append(p.s.telling, p)
		p.s.env.Exec.Defer(&p.s.tellTask)
	}
}

// tellFlags tells the owner what has changed.
func (s *Server) tellFlags() {
	for len(s.telling) > 0 {
		p := s.telling[0]
		s.telling = slices.Delete(s.telling, 0, 1)
		p.telling = false
		if !p.active {
			continue
		}
		if flags := p.allFlags(); flags != p.flags {
			p.flags = flags
			s.owner.FlagsChanged(p.id, flags)
		}
	}
}
