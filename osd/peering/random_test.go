package peering

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

var worldSeed = flag.Uint64("peering.seed", 0, "the one random history to try")
var worldSeeds = flag.Uint64("peering.seeds", 400, "random histories of a PG to try")

// world is a driver with a memory of everything that was ever written, and rules
// that must hold after each step.
type world struct {
	*driver
	t    *testing.T
	r    *rand.Rand
	seed uint64

	wrote     uint64 // highest epoch of all versions
	listed    uint64 // what the calculation was told
	epoch     uint64 // highest of the Machine
	recorded  uint64 // epoch in etcd
	checked   int    // activations
	histories int
}

const worldOSDs = 5

// n draws a number from a to b.
func (w *world) n(a, b int) int { return a + w.r.IntN(b-a+1) }

func (w *world) one(osds []meta.OSDNum) meta.OSDNum { return osds[w.n(0, len(osds)-1)] }

func (w *world) otherOSD() meta.OSDNum {
	return meta.OSDNum(w.n(2, worldOSDs))
}

func (w *world) set() []meta.OSDNum {
	set := make([]meta.OSDNum, w.in.Pool.PGSize)
	for i := range set {
		set[i] = meta.OSDNum(w.n(0, worldOSDs))
		if slices.Contains(set[:i], set[i]) {
			set[i] = 0
		}
	}
	return set
}

// random does one thing.
func (w *world) random() {
	switch w.n(0, 25) {
	case 25:
		w.stale()
	case 24:
		w.listed = w.wrote
		w.settle(Summary{MaxEpoch: w.wrote, Flags: w.flags() &^ meta.PGScrubbing})
	case 0:
		w.monitor()
		w.changed()
	case 1, 2:
		w.watch()
	case 3:
		if o := w.otherOSD(); !w.up[o] && w.keys[o] {
			w.connect(o)
		}
	case 4:
		if o := w.otherOSD(); w.up[o] {
			w.disconnect(o)
		}
	case 5:
		o := w.otherOSD()
		if w.keys[o] = !w.keys[o]; w.keys[o] {
			w.step(PeerKeySeen{o})
		} else {
			w.step(PeerKeyGone{o})
		}
	case 6, 7:
		if len(w.locks) > 0 {
			o := w.one(slices.Sorted(maps.Keys(w.locks)))
			w.lockResult(o, w.n(0, 3) > 0)
		}
	case 8, 9, 10:
		if len(w.lists) > 0 {
			o := w.one(slices.Sorted(maps.Keys(w.lists)))
			w.listResult(o, w.n(0, 9) > 0)
		}
	case 11, 12:
		w.calculate()
	case 13, 14:
		w.drained()
	case 15:
		w.flushed(w.n(0, 4) > 0, w.n(0, 1) == 1)
	case 16:
		w.timer()
	case 17, 18:
		w.transaction()
	case 19, 20:
		w.transaction()
		w.watch()
	case 21:
		w.step(FlagsChanged{w.flags()})
	case 22:
		w.write()
	case 23:
		if len(w.drops) > 0 {
			w.disconnect(w.drops[0])
		}
	}
}

func (w *world) flags() meta.PGState {
	all := []meta.PGState{0, 0, meta.PGHasDegraded, meta.PGHasMisplaced,
		meta.PGHasUnclean, meta.PGHasCorrupted, meta.PGScrubbing, meta.PGHasDegraded | meta.PGHasUnclean}
	return all[w.n(0, len(all)-1)]
}

// monitor changes what etcd wants. It never lowers the epoch.
func (w *world) monitor() {
	h := cloneHistory(&w.in.History)
	switch w.n(0, 10) {
	case 10: // another OSD had the PG and wrote
		if w.in.Holder == 0 {
			h.Epoch += 2
			w.setHistory(h)
			w.wrote += uint64(w.n(0, 1)) * (h.Epoch - w.wrote)
		}
	case 0:
		w.in.Target.Pause = !w.in.Target.Pause && w.n(0, 1) == 1
	case 1:
		w.in.Target.Primary = meta.OSDNum(1 + w.n(0, 4)/4)
	case 2, 3: // as the monitor moves PGs
		h.AddSet(w.in.Target.OSDSet)
		w.in.Target.OSDSet = w.set()
		w.setHistory(h)
	case 4:
		h.AddSet(w.set())
		w.setHistory(h)
	case 5: // rm-osd
		h.RemoveOSDs([]meta.OSDNum{w.otherOSD()})
		w.setHistory(h)
	case 6:
		w.in.Exists = w.n(0, 4) > 0
	case 7:
		h.NextScrub = uint64(w.n(0, 2))
		w.setHistory(h)
	case 8: // a client of etcd deletes the key, or another OSD has it
		if w.in.Holder == 0 && w.n(0, 1) == 1 {
			w.in.Holder = 2
		} else if !w.ownLease || w.n(0, 4) == 0 {
			w.in.Holder, w.ownLease = meta.OSDNum(w.n(0, 1)*2), false
		}
	case 9:
		p := &w.in.Pool
		p.PGMinSize = w.n(p.DataChunks, p.PGSize)
		p.Locks = w.n(0, 1) == 1
		p.AllowNetSplit = w.n(0, 1) == 1
	}
}

// stale gives answers to questions of earlier rounds.
func (w *world) stale() {
	old := w.m.round - 1
	for _, ev := range []Event{ListDone{w.me, old, true}, ListDone{2, old, true}, ListDone{2, old, false},
		Calculated{old, Summary{}}, LockResult{2, 0, true}, OpsDrained{w.m.opsSeq - 1}, FlushDone{0, false, false},
		Timer{LockRetry, w.m.lockTimer + 1}, Timer{PeerAgain, old}} {
		state := w.m.State()
		if a := w.m.Step(ev); len(a) > 0 || w.m.State() != state {
			w.t.Fatalf("late %T: %v, %v", ev, a, w.m.State())
		}
	}
}

func (w *world) calculate() {
	if w.calc == 0 {
		return
	}
	w.listed = w.wrote
	s := Summary{MaxEpoch: w.listed, Flags: w.flags() &^ meta.PGScrubbing}
	if w.n(0, 15) == 0 {
		s.Invalid = "roles"
	}
	w.calculated(s)
}

// checkEpoch is for the step that has activated the PG.
func (w *world) checkEpoch() {
	e := w.m.Epoch()
	if e < w.listed || e < w.seen.History.Epoch {
		w.t.Fatalf("epoch %d, listed %d, recorded %d", e, w.listed, w.seen.History.Epoch)
	}
	if w.m.State() != meta.PGActive && (e <= w.listed || e <= w.seen.History.Epoch) {
		w.t.Fatalf("epoch %d is not new in %v: listed %d, recorded %d", e, w.m.State(), w.listed, w.seen.History.Epoch)
	}
}

// transaction begins or ends one.
func (w *world) transaction() {
	if w.txn == nil {
		rep := w.sendReport()
		if rep == nil {
			return
		}
		if err := rep.State.State.Validate(); err != nil {
			w.t.Fatal(err)
		}
		if h := rep.History; h != nil {
			w.histories++
			w.checkHistory(rep.State.State, h)
		}
		return
	}
	rep := *w.txn
	done := w.n(0, 4) > 0
	w.txnResult(done, w.n(0, 4) > 0)
	if rep.History != nil && w.in.History.Epoch < w.recorded {
		w.t.Fatalf("the recorded epoch falls from %d to %d", w.recorded, w.in.History.Epoch)
	}
	w.recorded = max(w.recorded, w.in.History.Epoch)
}

// checkHistory: sets and peers are forgotten only when all is well.
func (w *world) checkHistory(state meta.PGState, h *schema.PGHistory) {
	old := cloneHistory(&w.m.base)
	for _, set := range old.OSDSets {
		if !slices.ContainsFunc(h.OSDSets, func(s []meta.OSDNum) bool { return slices.Equal(s, set) }) &&
			state&^meta.PGLeftOnDead != meta.PGActive {
			w.t.Fatalf("set %v forgotten in %v", set, state)
		}
	}
	for _, o := range append(slices.Clone(w.m.target), old.AllPeers...) {
		known := o == 0 || slices.Contains(h.AllPeers, o) || slices.Contains(w.m.target, o)
		if !known && state&^meta.PGLeftOnDead != meta.PGActive {
			w.t.Fatalf("peer %d forgotten in %v", o, state)
		}
		if !known && slices.Contains(w.m.dead, o) {
			w.t.Fatalf("dead peer %d forgotten", o)
		}
	}
}

// write uses the epoch, if it is recorded; else it asks for that.
func (w *world) write() {
	if !w.m.is(meta.PGActive) || w.fatal {
		return
	}
	e := w.m.Epoch() + uint64(w.n(0, 9)/9)
	told := len(w.epochs)
	w.step(NeedEpoch{e})
	if len(w.epochs) > told {
		w.useEpoch(w.epochs[len(w.epochs)-1])
	}
}

// useEpoch checks what makes it safe to write with an epoch.
func (w *world) useEpoch(e uint64) {
	if w.seen.History.Epoch < e {
		w.t.Fatalf("epoch %d is used, but %d recorded", e, w.seen.History.Epoch)
	}
	cur := schema.NormalSet(slices.Clone(w.m.curSet))
	whole := slices.Equal(cur, schema.NormalSet(slices.Clone(w.m.target)))
	h := cloneHistory(&w.seen.History)
	h.Normalise()
	if !whole && e == w.m.Epoch() && !slices.ContainsFunc(h.OSDSets, func(s []meta.OSDNum) bool { return slices.Equal(s, cur) }) {
		w.t.Fatalf("epoch %d is used on %v, which is not recorded: %v", e, cur, h.OSDSets)
	}
	w.wrote = max(w.wrote, e)
}

// check is the rules.
func (w *world) check() {
	m := w.m
	if err := m.check(); err != nil {
		w.t.Fatal(err)
	}
	if m.Epoch() < w.epoch {
		w.t.Fatalf("the epoch falls from %d to %d", w.epoch, m.Epoch())
	}
	w.epoch = m.Epoch()
	if m.is(meta.PGActive) {
		w.checkActive()
		if w.active != w.checked {
			w.checkEpoch()
			w.checked = w.active
		}
	}
	if m.is(meta.PGPeering) && len(w.lists) > 0 && m.pool.Locks {
		for _, o := range m.curPeers {
			if w.locked[o] != meta.PGPeering && o != w.me && !w.noLocks[o] && w.up[o] && !slices.Contains(w.drops, o) {
				w.t.Fatalf("OSD %d is not locked while we list", o)
			}
		}
	}
	if m.is(meta.PGPeering|meta.PGIncomplete|meta.PGOffline) && (w.drain != 0 || w.flush != 0) {
		w.t.Fatalf("%v while operations or a flush are in flight", m.State())
	}
	if m.is(meta.PGOffline) && len(w.locked) > 0 {
		w.t.Fatalf("offline, but %v are locked", w.locked)
	}
}

func (w *world) checkActive() {
	m := w.m
	if w.seen.Revision >= m.report.acquiredAt && w.seen.Holder != w.me {
		w.t.Fatal("active without the key")
	}
	if why := m.incompleteFor(w); why != "" {
		w.t.Fatalf("active although %s; %+v up %v keys %v", why, w.seen, w.up, w.keys)
	}
	if w.seen.Target.Pause || !w.seen.Exists || w.seen.Target.Primary != w.me {
		w.t.Fatal("active although it should not run")
	}
}

// incompleteFor repeats the rules of osd.md §11 from what the world knows.
func (m *Machine) incompleteFor(w *world) string {
	is := func(o meta.OSDNum) bool { return o == w.me || w.up[o] && w.keys[o] }
	n := 0
	for _, o := range w.seen.Target.OSDSet {
		if o != 0 && is(o) {
			n++
		}
	}
	p := &w.seen.Pool
	if n < p.PGMinSize || n < p.DataChunks {
		return fmt.Sprintf("%d OSDs are there", n)
	}
	for _, set := range w.seen.History.OSDSets {
		set = schema.NormalSet(slices.Clone(set))
		there := len(slices.DeleteFunc(slices.Clone(set), func(o meta.OSDNum) bool { return !is(o) }))
		if len(set) >= p.DataChunks && there < p.DataChunks {
			return fmt.Sprintf("only %d of %v are there", there, set)
		}
	}
	return ""
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{driver: newDriver(1), t: t, r: rand.New(rand.NewPCG(seed, 1)), seed: seed}
	if w.n(0, 1) == 1 {
		w.in.Pool.Scheme, w.in.Pool.PGSize, w.in.Pool.DataChunks, w.in.Pool.PGMinSize = meta.EC, 3, 2, 2
	}
	w.in.Pool.Locks = w.n(0, 1) == 1
	for o := meta.OSDNum(2); o <= worldOSDs; o++ {
		w.up[o] = w.n(0, 3) > 0
		w.keys[o] = w.up[o]
	}
	w.noLocks[3] = true
	w.in.Exists, w.in.Target.Primary = true, 1
	w.in.Target.OSDSet = []meta.OSDNum{1, 2, 3}[:w.in.Pool.PGSize]
	w.changed()
	w.after = w.check
	return w
}

// TestRandomEvents: to repeat one, run with -peering.seed=N.
func TestRandomEvents(t *testing.T) {
	active, histories, fatal := 0, 0, 0
	first, last := uint64(0), *worldSeeds
	if *worldSeed != 0 {
		first, last = *worldSeed, *worldSeed+1
	}
	for seed := first; seed < last && !t.Failed(); seed++ {
		w := newWorld(t, seed)
		w.run()
		active, histories = active+w.active, histories+w.histories
		if w.fatal {
			fatal++
		}
	}
	t.Logf("active %d times, %d histories written, %d conflicts", active, histories, fatal)
	if n := int(last - first); n > 100 && (active < n || histories < n/4 || fatal == 0) {
		t.Error("that is too little to test anything")
	}
}

func (w *world) run() {
	defer func() {
		if p := recover(); p != nil || w.t.Failed() {
			w.t.Errorf("seed %d: %v, trace:\n%s", w.seed, p, w.log.String())
		}
	}()
	for range w.n(10, 300) {
		w.random()
		if w.fatal {
			w.checkFatal()
			return
		}
	}
	w.finish()
}

// checkFatal: the process may end only if its lease was lost.
func (w *world) checkFatal() {
	if w.in.Holder == w.me && w.ownLease {
		w.t.Fatal("fatal although the key is ours")
	}
	if w.m.is(meta.PGActive) {
		w.t.Fatal("active after fatal")
	}
}

// finish: with everything well the PG becomes active; when it must stop and
// everything is answered, it is offline and the key is gone.
func (w *world) finish() {
	for o := meta.OSDNum(2); o <= worldOSDs; o++ {
		w.keys[o] = true
		w.step(PeerKeySeen{o})
		if !w.up[o] {
			w.connect(o)
		}
	}
	w.in.Exists, w.in.Target.Pause, w.in.Target.Primary = true, false, 1
	w.in.Pool.PGMinSize = w.in.Pool.DataChunks
	w.in.Target.OSDSet = []meta.OSDNum{1, 2, 3}[:w.in.Pool.PGSize]
	if !w.ownLease {
		w.in.Holder = 0
	}
	w.changed()
	w.listed = w.wrote
	w.settle(Summary{MaxEpoch: w.wrote})
	for len(w.drops) > 0 || slices.ContainsFunc(w.m.dead, func(o meta.OSDNum) bool { return !w.up[o] }) {
		for _, o := range slices.Clone(w.m.dead) {
			w.connect(o)
		}
		w.settle(Summary{MaxEpoch: w.wrote})
	}
	if w.m.is(meta.PGHasInvalid) { // only a change of its peers or its restart makes it look again
		w.in.Target.Pause = true
		w.changed()
		w.settle(Summary{MaxEpoch: w.wrote})
		w.in.Target.Pause = false
		w.changed()
		w.settle(Summary{MaxEpoch: w.wrote})
	}
	w.step(FlagsChanged{}) // everything is recovered
	w.settle(Summary{MaxEpoch: w.wrote})
	if w.fatal {
		return
	}
	if w.m.State() != meta.PGActive {
		w.t.Fatalf("everything is well, but the PG is %v: %s", w.m.State(), w.m.Why())
	}
	if h := w.in.History; len(h.OSDSets) > 0 {
		w.t.Fatalf("everything is well, but history %+v", h)
	}
	w.in.Target.Pause = true
	w.changed()
	w.settle(Summary{})
	if !w.m.is(meta.PGOffline) || w.in.Holder == w.me || len(w.locked) > 0 {
		w.t.Fatalf("stopped, but %v, holder %d, locked %v", w.m.State(), w.in.Holder, w.locked)
	}
}
