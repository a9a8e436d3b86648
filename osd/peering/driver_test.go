package peering

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// driver is the rest of the world of a Machine in tests: peers, etcd, and the
// OSD that carries out actions. Everything that was asked for stays open until
// the test answers.
type driver struct {
	m   *Machine
	me  meta.OSDNum
	log strings.Builder

	up      map[meta.OSDNum]bool // connected
	keys    map[meta.OSDNum]bool
	noLocks map[meta.OSDNum]bool         // without the feature
	locked  map[meta.OSDNum]meta.PGState // what each peer believes

	// etcd
	in         Inputs // as it is now
	seen       Inputs // as the Machine was told
	ownLease   bool   // the key has our lease
	historyMod int64

	// open requests
	drain  uint64
	locks  map[meta.OSDNum]Action
	lists  map[meta.OSDNum]uint64
	calc   uint64
	flush  uint64
	timers []StartTimer
	report bool
	txn    *schema.PGReport
	txnRev int64 // of the view when it was made

	wanted map[meta.OSDNum]bool // connections
	drops  []meta.OSDNum
	fatal  bool
	epochs []uint64 // recorded, as told
	active int      // times
	after  func()   // every step
}

func newDriver(me meta.OSDNum) *driver {
	d := &driver{me: me, up: map[meta.OSDNum]bool{}, keys: map[meta.OSDNum]bool{}, noLocks: map[meta.OSDNum]bool{},
		locked: map[meta.OSDNum]meta.PGState{}, locks: map[meta.OSDNum]Action{}, lists: map[meta.OSDNum]uint64{},
		wanted: map[meta.OSDNum]bool{}}
	d.in.Revision = 1
	d.in.Pool = PoolParams{Scheme: meta.Replicated, PGSize: 2, PGMinSize: 1, DataChunks: 1,
		PGCount: 1, PGStripeBytes: testStripe, Fits: true}
	d.m = New(testPG, me, d)
	return d
}

func (d *driver) Connected(o meta.OSDNum) bool { return d.up[o] }
func (d *driver) HasKey(o meta.OSDNum) bool    { return d.keys[o] }
func (d *driver) CanLock(o meta.OSDNum) bool   { return !d.noLocks[o] }

// step gives an event and carries out the actions.
func (d *driver) step(ev Event) {
	if in, ok := ev.(Inputs); ok && d.after != nil {
		fmt.Fprintf(&d.log, "inputs %d: %v %v primary %d pause %v holder %d history %v\n", in.Revision, in.Exists,
			in.Target.OSDSet, in.Target.Primary, in.Target.Pause, in.Holder, in.History)
	} else if d.after != nil {
		fmt.Fprintf(&d.log, "%T %+v\n", ev, ev)
	}
	for _, a := range d.m.Step(ev) {
		fmt.Fprintf(&d.log, "  %s\n", showAction(a))
		d.act(a)
	}
	if d.after != nil {
		d.after()
	}
}

func (d *driver) act(a Action) {
	switch a := a.(type) {
	case Connect:
		d.wanted[a.OSD] = true
	case DropPeer:
		d.drops = append(d.drops, a.OSD)
		delete(d.locked, a.OSD) // with the connection
		delete(d.locks, a.OSD)
		d.up[a.OSD] = false
	case SendReport:
		d.report = true
	case StopOps:
		d.drain = a.Seq
	case Reset:
		clear(d.lists)
		d.calc = 0
	case SendLock:
		d.locks[a.OSD] = a
	case SendUnlock:
		d.locks[a.OSD] = a
	case StartTimer:
		d.timers = append(d.timers, a)
	case SendList:
		d.lists[a.OSD] = a.Round
	case Calculate:
		d.calc = a.Round
	case Flush:
		d.flush = a.Seq
	case Activate:
		d.active++
	case EpochRecorded:
		d.epochs = append(d.epochs, a.Epoch)
	case Fatal:
		d.fatal = true
	}
}

func showAction(a Action) string {
	name := strings.TrimPrefix(fmt.Sprintf("%T", a), "peering.")
	switch a := a.(type) {
	case StopOps, Reset, Calculate, Flush, Forget, Recover:
		return name
	case SendReport:
		if a.Later {
			return name + " later"
		}
		return name
	case SendLock:
		return fmt.Sprintf("SendLock %d %v", a.OSD, a.State)
	case SendUnlock:
		return fmt.Sprintf("SendUnlock %d", a.OSD)
	case SendList:
		return fmt.Sprintf("SendList %d", a.OSD)
	case StartTimer:
		return fmt.Sprintf("StartTimer %s", [...]string{"LockRetry", "PeerAgain"}[a.Kind])
	case DropPeer:
		return fmt.Sprintf("DropPeer %d: %s", a.OSD, a.Why)
	case Fatal:
		return "Fatal: " + a.Why
	}
	return name + " " + strings.Trim(fmt.Sprint(a), "{}")
}

// connect, disconnect change the connection and tell.
func (d *driver) connect(o meta.OSDNum) {
	if slices.Contains(d.drops, o) {
		d.disconnect(o)
	}
	d.up[o] = true
	d.step(PeerConnected{o})
}

// disconnect fails everything that is open with the peer, before or after.
func (d *driver) disconnect(o meta.OSDNum) {
	d.up[o] = false
	d.drops = slices.DeleteFunc(d.drops, func(x meta.OSDNum) bool { return x == o })
	delete(d.locked, o)
	delete(d.locks, o)
	_, listing := d.lists[o]
	delete(d.lists, o)
	round := d.m.round
	d.step(PeerDisconnected{o})
	if listing {
		d.step(ListDone{o, round, false})
	}
}

// lockResult answers the open lock request of a peer.
func (d *driver) lockResult(o meta.OSDNum, ok bool) {
	switch a := d.locks[o].(type) {
	case SendLock:
		delete(d.locks, o)
		if ok {
			d.locked[o] = a.State
		}
		d.step(LockResult{o, a.Seq, ok})
	case SendUnlock:
		delete(d.locks, o)
		if ok {
			delete(d.locked, o)
		}
		d.step(LockResult{o, a.Seq, ok})
	}
}

func (d *driver) listResult(o meta.OSDNum, ok bool) {
	if round, open := d.lists[o]; open {
		delete(d.lists, o)
		d.step(ListDone{o, round, ok})
	}
}

func (d *driver) calculated(s Summary) {
	if round := d.calc; round != 0 {
		d.calc = 0
		d.step(Calculated{round, s})
	}
}

func (d *driver) drained() {
	if seq := d.drain; seq != 0 {
		d.drain = 0
		d.step(OpsDrained{seq})
	}
}

func (d *driver) flushed(ok, more bool) {
	if seq := d.flush; seq != 0 {
		d.flush = 0
		d.step(FlushDone{seq, ok, more})
	}
}

func (d *driver) timer() {
	if len(d.timers) > 0 {
		t := d.timers[0]
		d.timers = d.timers[1:]
		d.step(Timer(t))
	}
}

// watch delivers the present state of etcd.
func (d *driver) watch() {
	d.seen = d.in
	d.seen.History = cloneHistory(&d.in.History)
	d.step(d.seen)
}

// changed is called for every change in etcd by others.
func (d *driver) changed() { d.in.Revision++ }

func (d *driver) setHistory(h schema.PGHistory) {
	d.changed()
	d.in.History, d.historyMod = h, d.in.Revision
}

// sendReport makes the transaction.
func (d *driver) sendReport() *schema.PGReport {
	if d.txn != nil || !d.report {
		return nil
	}
	d.report = false
	rep, ok := d.m.Report()
	if !ok {
		return nil
	}
	d.txn, d.txnRev = &rep, d.seen.Revision
	return d.txn
}

// commit is what etcd does with the transaction; see schema.ReportPGs.
func (d *driver) commit() (ok bool) {
	rep := d.txn
	free := d.in.Holder == 0
	mine := d.in.Holder == d.me && d.ownLease
	switch {
	case rep.State.State == meta.PGStarting || rep.Holder == schema.HeldByNobody:
		ok = free
	default:
		ok = mine
	}
	if rep.History != nil && d.historyMod > d.txnRev {
		ok = false
	}
	if !ok {
		return false
	}
	d.changed()
	if rep.State.Offline() {
		d.in.Holder, d.ownLease = 0, false
	} else {
		d.in.Holder, d.ownLease = d.me, true
	}
	if rep.History != nil {
		h, err := schema.DecodePGHistory("history", rep.History.EncodeOSD())
		if err != nil {
			panic(err)
		}
		d.in.History, d.historyMod = h, d.in.Revision
	}
	return true
}

// txnResult ends the transaction: done tells whether etcd gets it, answered
// whether we get the answer.
func (d *driver) txnResult(done, answered bool) {
	if d.txn == nil {
		return
	}
	ok := done && d.commit()
	d.txn = nil
	switch {
	case !answered:
		d.step(ReportFailed{Unknown: true})
	case ok:
		d.step(Reported{d.in.Revision})
	default:
		d.step(ReportFailed{Primary: d.in.Holder, Own: d.ownLease, Revision: d.in.Revision})
	}
}

// settle answers everything well until nothing is open any more.
func (d *driver) settle(s Summary) {
	for range 300 {
		switch {
		case d.drain != 0:
			d.drained()
		case len(d.locks) > 0:
			d.lockResult(slices.Min(slices.Collect(maps.Keys(d.locks))), true)
		case len(d.lists) > 0:
			d.listResult(slices.Min(slices.Collect(maps.Keys(d.lists))), true)
		case d.calc != 0:
			d.calculated(s)
		case d.flush != 0:
			d.flushed(true, false)
		case len(d.drops) > 0:
			o := d.drops[0]
			d.drops = d.drops[1:]
			d.disconnect(o)
		case len(d.timers) > 0:
			d.timer()
		case d.seen.Revision != d.in.Revision:
			d.watch()
		case d.txn != nil:
			d.txnResult(true, true)
		case d.report:
			d.sendReport()
		default:
			return
		}
	}
	panic("it does not come to rest:\n" + d.log.String()[max(0, d.log.Len()-3000):])
}
