package primary

import (
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// syncer knows what is written but not durable (osd.md §8), and makes it so, one
// SYNC at a time:
//
//	take over ─▶ SEC_SYNC ─▶ SEC_STABILIZE ─▶ SEC_DELETE of old copies ─▶ done
//	    ▲             └─────────────┴────────────────┴─▶ error: put back
//	    └── next one, for all who have asked meanwhile
//
// A SYNC covers every write that has completed before it began, of all clients.
type syncer struct {
	s *Server

	osds     []meta.OSDNum // dirty, ascending
	pgs      []*pg         // dirty
	writes   int           // since the last SYNC began
	recovers int
	forced   int    // SYNCs to make without being asked
	itemsMax int    // in one SEC_STABILIZE
	clock    uint64 // counts lazy writes
	waiting  list   // operations that ask for a SYNC
	timer    env.Timer

	// The one that runs.
	step     syncStep
	serving  list
	took     uint64 // clock when it began
	tookOSDs []meta.OSDNum
	tookPGs  []*pg
	pending  int
	subs     *sub
	lastSub  *sub

	clients []*client // with unsynced writes, oldest first
	byConn  map[*msgr.Conn]*client
}

type syncStep uint8

const (
	syncIdle syncStep = iota
	syncWrites
	syncStabilize
	syncRemove
)

// client is a connection with unsynced writes: in each PG the newest of them, as
// a value of syncer.clock.
type client struct {
	conn *msgr.Conn
	pgs  map[*pg]uint64
}

// SetTimes changes the conditions of automatic SYNCs.
func (s *Server) SetTimes(autosync time.Duration, writes, recoveryBatch int) {
	s.config.AutosyncInterval, s.config.AutosyncWrites, s.config.RecoverySyncBatch = autosync, writes, recoveryBatch
	s.env.Clock.Disarm(&s.sync.timer)
	s.sync.armTimer()
}

// wrote notes a lazy write or delete that has succeeded.
func (y *syncer) wrote(o *op) {
	p := o.pg
	y.clock++
	y.writes++
	if o.kind == opDelete {
		for _, l := range o.scratch {
			y.addOSD(l.OSD)
		}
	} else {
		for _, osd := range p.curSet {
			if osd != 0 {
				y.addOSD(osd)
			}
		}
		if !p.replicated {
			p.unstable.set(meta.ObjectVersion{ObjectID: o.oid, Version: o.version})
		}
	}
	y.needed(p)
	if o.r != nil {
		y.clientOf(o.r.Conn).pgs[p] = y.clock
	}
	if o.rec != nil {
		y.recovers++
	}
	y.checkLimits()
}

// needed marks a PG: it has something for the next SYNC.
func (y *syncer) needed(p *pg) {
	if !p.dirty {
		p.dirty = true
		y.pgs = append(y.pgs, p)
	}
	y.armTimer()
}

func (y *syncer) addOSD(osd meta.OSDNum) {
	if i, ok := slices.BinarySearch(y.osds, osd); !ok {
		y.osds = slices.Insert(y.osds, i, osd)
	}
}

func (y *syncer) armTimer() {
	if d := y.s.config.AutosyncInterval; d > 0 && len(y.pgs) > 0 && !y.timer.Armed() {
		y.s.env.Clock.Arm(&y.timer, d)
	}
}

func (y *syncer) fired() {
	y.begin()
	y.armTimer()
}

// checkLimits begins a SYNC when enough has gathered.
func (y *syncer) checkLimits() {
	c := &y.s.config
	if c.AutosyncWrites > 0 && y.writes >= min(c.AutosyncWrites, y.s.autosyncMax) ||
		c.RecoverySyncBatch > 0 && y.recovers >= c.RecoverySyncBatch || y.forced > 0 {
		y.begin()
	}
}

// force makes two SYNCs: all objects of the PG are where they belong, so the
// first deletes the old copies and the second makes that durable.
func (y *syncer) force(p *pg) {
	if y.s.config.Commit != meta.CommitAll {
		y.forced = 2
		y.needed(p)
		y.s.env.Exec.Defer(&y.s.syncTask)
	}
}

// clientOf finds what is known of a client.
func (y *syncer) clientOf(c *msgr.Conn) *client {
	cl := y.byConn[c]
	if cl == nil {
		cl = &client{conn: c, pgs: make(map[*pg]uint64)}
		y.byConn[c] = cl
		y.clients = append(y.clients, cl)
	}
	return cl
}

// Disconnected forgets what a client has not synced.
func (s *Server) Disconnected(c *msgr.Conn) { s.sync.forgetClient(c) }

func (y *syncer) forgetClient(c *msgr.Conn) {
	if cl := y.byConn[c]; cl != nil {
		delete(y.byConn, c)
		y.clients = slices.DeleteFunc(y.clients, func(x *client) bool { return x == cl })
	}
}

// dropClients closes the connections of those who have unsynced writes in the
// PG: that is how they learn that they have to repeat them.
func (y *syncer) dropClients(p *pg, why error) {
	y.clients = slices.DeleteFunc(y.clients, func(cl *client) bool {
		if _, ok := cl.pgs[p]; !ok {
			return false
		}
		delete(y.byConn, cl.conn)
		cl.conn.Drop(why)
		return true
	})
}

// forget drops a PG.
func (y *syncer) forget(p *pg) {
	if p.dirty {
		p.dirty = false
		y.pgs = slices.DeleteFunc(y.pgs, func(x *pg) bool { return x == p })
	}
}

// serveSync executes the SYNC of a client.
func (s *Server) serveSync(r *msgr.Request) {
	o := s.takeOp(opSync, nil)
	o.r, o.finish = r, (*op).finishSync
	s.sync.ask(o)
}

// Sync executes a SYNC and calls done with the result, later.
func (s *Server) Sync(done func(wire.Retval)) {
	o := s.takeOp(opSync, nil)
	o.finish, o.parent = (*op).finishSync, done
	s.env.Exec.Defer(&s.syncTask)
	s.sync.askLater(o)
}

// finishSync tells the result.
func (o *op) finishSync() {
	switch {
	case o.r != nil:
		o.s.account(o, wire.OpSync)
		o.r.Fail(o.err)
	case o.parent != nil:
		o.parent.(func(wire.Retval))(o.err)
	}
}

func (y *syncer) askLater(o *op) {
	o.phase = phaseSync
	y.waiting.push(o)
}

func (y *syncer) ask(o *op) {
	y.askLater(o)
	y.begin()
}

// begin starts a SYNC if none runs, and there is something to do.
func (y *syncer) begin() {
	s := y.s
	if y.step != syncIdle {
		return
	}
	y.waiting.moveTo(&y.serving)
	y.forced = max(y.forced-1, 0)
	if len(y.pgs) == 0 {
		y.forced = 0
		y.tell(wire.OK)
		return
	}
	s.stats.Syncs++
	y.took, y.writes, y.recovers = y.clock, 0, 0
	y.tookOSDs, y.osds = append(y.tookOSDs[:0], y.osds...), y.osds[:0]
	y.tookPGs = append(y.tookPGs[:0], y.pgs...)
	clear(y.pgs)
	y.pgs = y.pgs[:0]
	for _, p := range y.tookPGs {
		p.dirty = false
		p.syncs++
		p.syncing, p.unstable = p.unstable, p.syncing
		p.removing, p.copies = p.copies, p.removing[:0]
		p.settling, p.deleted = p.deleted, false
	}
	y.hold(syncWrites)
	for _, local := range [2]bool{false, true} {
		for _, osd := range y.tookOSDs {
			// An OSD that is gone takes its PGs along: they peer again, and
			// their clients learn that what they wrote may be lost. As long as
			// one of them has not heard of it, the SYNC fails.
			if (osd == s.config.OSD) == local && (s.reachable(osd) || y.isMember(osd)) {
				y.sub(osd).sync()
			}
		}
	}
	y.sent()
}

// isMember tells whether the OSD is in the current set of a PG of the SYNC.
func (y *syncer) isMember(osd meta.OSDNum) bool {
	return slices.ContainsFunc(y.tookPGs, func(p *pg) bool { return p.active && slices.Contains(p.curSet, osd) })
}

// hold begins a step; sent ends it if nothing was to be sent.
func (y *syncer) hold(step syncStep) {
	y.dropSubs()
	y.step = step
	y.pending++
}

func (y *syncer) sent() {
	if y.pending--; y.pending == 0 {
		y.next()
	}
}

// answered implements subOwner.
func (y *syncer) answered(b *sub) { y.sent() }

func (y *syncer) sub(osd meta.OSDNum) *sub {
	b := y.s.takeSub(y, osd, 0)
	if y.lastSub == nil {
		y.subs = b
	} else {
		y.lastSub.next = b
	}
	y.lastSub = b
	y.pending++
	return b
}

func (y *syncer) dropSubs() {
	for y.subs != nil {
		b := y.subs
		y.subs = b.next
		y.s.putSub(b)
	}
	y.lastSub = nil
}

// next goes on when everything of a step was answered.
func (y *syncer) next() {
	err := wire.OK
	for b := y.subs; b != nil; b = b.next {
		if e, _ := b.judge(); errorRank(e) > errorRank(err) {
			err = e
		}
	}
	switch {
	case y.step == syncRemove:
		y.keepUnremoved()
		y.finish(err)
	case err != wire.OK:
		y.finish(err)
	case y.step == syncWrites:
		y.stabilize()
	default:
		y.remove()
	}
}

// stabilize sends the collected versions, grouped by OSD.
func (y *syncer) stabilize() {
	y.hold(syncStabilize)
	for _, p := range y.tookPGs {
		if !p.active {
			continue
		}
		for role, osd := range p.curSet {
			if osd == 0 {
				continue
			}
			var b *sub
			for _, v := range p.syncing.list {
				if b == nil || !b.hasRoom() {
					b = y.subWithRoom(osd)
				}
				v.ObjectID = v.ObjectID.WithRole(meta.Role(role))
				b.add(v)
			}
		}
	}
	for _, local := range [2]bool{false, true} {
		for b := y.subs; b != nil; b = b.next {
			if b.isLocal() == local {
				b.settle(wire.OpSecStabilize, 0)
			}
		}
	}
	y.sent()
}

// hasRoom tells whether the request may take one more item.
func (b *sub) hasRoom() bool { return len(b.items)+b.list.Len() < b.s.sync.itemsMax }

// subWithRoom finds the request to an OSD that takes one more item.
func (y *syncer) subWithRoom(osd meta.OSDNum) *sub {
	for b := y.subs; b != nil; b = b.next {
		if b.osd == osd && b.hasRoom() {
			return b
		}
	}
	return y.sub(osd)
}

// remove deletes old copies of objects whose new ones are durable now.
func (y *syncer) remove() {
	for _, p := range y.tookPGs {
		p.syncing.clear()
	}
	y.hold(syncRemove)
	for _, local := range [2]bool{false, true} {
		for _, p := range y.tookPGs {
			if !p.active {
				continue
			}
			for _, c := range p.removing {
				if (c.osd == y.s.config.OSD) == local && y.s.reachable(c.osd) {
					y.addOSD(c.osd) // the deletion is for the next SYNC to make durable
					y.needed(p)
					p.deleted = true
					y.sub(c.osd).delete(c.item.ObjectID, c.item.Version, wire.FlagRecovery)
				}
			}
		}
	}
	y.sent()
}

// keepUnremoved leaves in pg.removing what could not be deleted.
func (y *syncer) keepUnremoved() {
	for _, p := range y.tookPGs {
		p.removing = p.removing[:0]
	}
	for b := y.subs; b != nil; b = b.next {
		if !b.ret.Failed() {
			continue
		}
		for _, p := range y.tookPGs {
			if pool := b.item.Inode.Pool(); p.active && pool == p.id.Pool &&
				meta.PGOf(b.item.Stripe, p.objects.PGStripeBytes, p.objects.PGCount) == p.id.Num {
				p.removing = append(p.removing, oldCopy{osd: b.osd, item: b.item})
			}
		}
	}
}

// finish ends the SYNC. After an error everything that was not done is put back.
func (y *syncer) finish(err wire.Retval) {
	y.dropSubs()
	for _, p := range y.tookPGs {
		if p.active {
			for _, v := range p.syncing.list {
				p.unstable.set(v)
			}
			p.copies = append(p.copies, p.removing...)
			p.deleted = p.deleted || err != wire.OK && p.settling
			if err == wire.OK && !p.unclean && (p.deleted || len(p.copies) > 0) {
				y.forced = max(y.forced, 1) // nothing else keeps the PG from being clean
			}
			if err != wire.OK || len(p.copies) > 0 {
				y.needed(p)
			}
		}
		p.syncing.clear()
		p.removing, p.settling = p.removing[:0], false
	}
	if err == wire.OK {
		y.synced()
	} else {
		for _, osd := range y.tookOSDs {
			y.addOSD(osd)
		}
	}
	y.step = syncIdle
	for i, p := range y.tookPGs {
		y.tookPGs[i] = nil
		p.syncs--
		p.changed()
		p.checkDrained()
	}
	y.tookPGs = y.tookPGs[:0]
	y.tell(err)
	if y.waiting.head != nil || err == wire.OK && y.forced > 0 {
		y.begin()
	} else {
		y.checkLimitsAfter(err)
	}
}

// checkLimitsAfter looks whether enough has gathered during a SYNC. After an
// error the timer tries again.
func (y *syncer) checkLimitsAfter(err wire.Retval) {
	if err == wire.OK {
		y.checkLimits()
	}
}

// synced clears what clients have written before the SYNC.
func (y *syncer) synced() {
	y.clients = slices.DeleteFunc(y.clients, func(cl *client) bool {
		for p, at := range cl.pgs {
			if at <= y.took {
				delete(cl.pgs, p)
			}
		}
		if len(cl.pgs) > 0 || cl.conn.Ready() {
			return false
		}
		delete(y.byConn, cl.conn) // it was closed before its write ended
		return true
	})
}

// tell answers those for whom the SYNC was.
func (y *syncer) tell(err wire.Retval) {
	for o := y.serving.pop(); o != nil; o = y.serving.pop() {
		o.err = err
		o.end()
	}
}

// dropUnstable takes an object off the lists of what has to be stabilised.
func (p *pg) dropUnstable(id meta.ObjectID) {
	p.unstable.drop(id)
	p.syncing.drop(id)
}
