package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"vitastor/internal/invariant"
)

// FaultKind is a kind of fault in a Plan.
type FaultKind uint8

const (
	FaultCrash      FaultKind = iota // kill -9, restarted at the heal time
	FaultPowerLoss                   // of one node
	FaultBlackout                    // power loss of all nodes at once
	FaultPause                       // SIGSTOP
	FaultIsolate                     // node without network, etcd included
	FaultCut                         // two nodes do not reach each other
	FaultCutOneWay                   // node does not reach other
	FaultReset                       // streams between two nodes break
	FaultBlackhole                   // streams between two nodes fall silent
	FaultLoss                        // packets get lost everywhere
	FaultSlowNode                    // each event takes the process Amount ns
	FaultSlowNet                     // each packet of the node takes Amount ns more
	FaultSlowDisk                    // all disks of the node: latency x Amount
	FaultStall                       // all disks of the node stop for Amount ns now and then
	FaultClockJump                   // time of day + Amount ns; jumps back at the heal time
	FaultClockDrift                  // Amount ppm
	FaultKVDown                      // etcd is away
	FaultKVCut                       // node does not reach etcd
	FaultKVAnswers                   // node gets no answers from etcd
	FaultKVFlaky                     // some requests and answers get lost, watches break
	FaultKVCompact                   // all history of etcd is forgotten
	FaultLatent                      // a random sector of the node's disks becomes unreadable
	FaultBitRot                      // a random written bit of the node's disks flips
	faultKinds
)

var faultNames = [faultKinds]string{
	"crash", "power-loss", "blackout", "pause", "isolate", "cut", "cut-one-way", "reset", "blackhole", "loss",
	"slow-node", "slow-net", "slow-disk", "stall", "clock-jump", "clock-drift",
	"kv-down", "kv-cut", "kv-answers", "kv-flaky", "kv-compact", "latent", "bit-rot",
}

func (k FaultKind) String() string { return faultNames[k] }

// DefaultFaults are the kinds that a correct cluster survives without losing
// anything: all but damage to the media.
func DefaultFaults() []FaultKind {
	var all []FaultKind
	for k := range FaultLatent {
		all = append(all, k)
	}
	return all
}

// Fault is one entry of a Plan. Node and Other are numbers of nodes in
// PlanConfig.Nodes; what Amount means depends on the kind.
type Fault struct {
	At, Heal    time.Duration // virtual time since the start of the world
	Kind        FaultKind
	Node, Other int
	Amount      int64
}

func (f Fault) String() string {
	return fmt.Sprintf("%v..%v %v node %d other %d amount %d", f.At, f.Heal, f.Kind, f.Node, f.Other, f.Amount)
}

// Plan is a schedule of faults, ascending by At. It is data: print it, remove
// entries from it to find which of them matter, apply it to a fresh world.
type Plan []Fault

func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// PlanConfig tells what a Plan may contain.
type PlanConfig struct {
	Nodes      []*Node
	Kinds      []FaultKind   // nil = DefaultFaults; repeat a kind to weight it
	Start, End time.Duration // all faults are healed at End
	Every      time.Duration // mean time between faults; default 2 s
	Last       time.Duration // mean duration of a fault; default 3 s
	// DownMax is the largest number of nodes that are dead, stopped or isolated
	// at the same time (except in a blackout); default 1.
	DownMax int
}

// NewPlan draws a plan that depends on the seed of the world only.
func (w *World) NewPlan(c PlanConfig) Plan {
	setDefault(&c.Every, 2*time.Second)
	setDefault(&c.Last, 3*time.Second)
	setDefault(&c.DownMax, 1)
	if c.Kinds == nil {
		c.Kinds = DefaultFaults()
	}
	invariant.Must(len(c.Nodes) > 0, "sim: a plan needs nodes")
	rng := w.derive("plan", 0)
	var p Plan
	for at := c.Start + exponential(rng, c.Every); at < c.End; at += exponential(rng, c.Every) {
		f := Fault{At: at, Kind: c.Kinds[rng.IntN(len(c.Kinds))], Node: rng.IntN(len(c.Nodes))}
		f.Heal = min(at+exponential(rng, c.Last)+time.Millisecond, c.End)
		if len(c.Nodes) > 1 {
			f.Other = (f.Node + 1 + rng.IntN(len(c.Nodes)-1)) % len(c.Nodes)
		}
		f.Amount = faultAmount(f.Kind, rng)
		if p.admits(f, &c) && (w.kv != nil || !f.Kind.needsKV()) {
			p = append(p, f)
		}
	}
	return p
}

func exponential(rng *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(rng.ExpFloat64() * float64(mean))
}

func faultAmount(k FaultKind, rng *rand.Rand) int64 {
	switch k {
	case FaultSlowNode:
		return int64(10*time.Microsecond) << rng.IntN(8)
	case FaultSlowNet:
		return int64(time.Millisecond) << rng.IntN(8)
	case FaultSlowDisk:
		return 4 << rng.IntN(6)
	case FaultStall:
		return int64(100*time.Millisecond) << rng.IntN(6)
	case FaultClockJump:
		return (rng.Int64N(2)*2 - 1) * rng.Int64N(int64(time.Hour))
	case FaultClockDrift:
		return rng.Int64N(2001) - 1000
	}
	return 0
}

func (k FaultKind) needsKV() bool { return k >= FaultKVDown && k <= FaultKVCompact }

// down tells whether the victim does not work for others meanwhile.
func (k FaultKind) down() bool { return k <= FaultIsolate }

// admits keeps faults apart that would heal each other, and counts who is down.
func (p Plan) admits(f Fault, c *PlanConfig) bool {
	if len(c.Nodes) < 2 && f.Kind >= FaultCut && f.Kind <= FaultBlackhole {
		return false
	}
	down := 0
	for _, o := range p {
		if o.Heal < f.At {
			continue
		}
		if o.clashes(f) {
			return false
		}
		down += int(boolBit(o.Kind.down()))
	}
	return !f.Kind.down() || f.Kind == FaultBlackout || down < c.DownMax
}

// clashes tells whether two faults that overlap in time change the same thing.
func (f Fault) clashes(o Fault) bool {
	same := f.Node == o.Node
	pair := same && f.Other == o.Other || f.Node == o.Other && f.Other == o.Node
	group := func(k FaultKind) FaultKind {
		switch k {
		case FaultPowerLoss, FaultPause, FaultIsolate:
			return FaultCrash
		case FaultCutOneWay:
			return FaultCut
		case FaultStall:
			return FaultSlowDisk
		case FaultKVAnswers:
			return FaultKVCut
		}
		return k
	}
	a, b := group(f.Kind), group(o.Kind)
	switch {
	case a == FaultBlackout || b == FaultBlackout:
		return f.Kind.down() && o.Kind.down()
	case a != b:
		return false
	case a == FaultCut:
		return pair
	case a == FaultLoss || a == FaultKVDown || a == FaultKVFlaky:
		return true
	}
	return same
}

// Apply schedules the faults of a plan; nodes are numbered as in nodes. What
// restarted nodes run is set with Node.SetProgram.
func (w *World) Apply(p Plan, nodes []*Node) {
	for _, f := range p {
		w.After(f.At-w.Now(), func() {
			w.traceText(tracePlan, f.String())
			w.inject(f, nodes)
		})
		w.After(f.Heal-w.Now(), func() { w.heal(f, nodes) })
	}
}

func (w *World) inject(f Fault, nodes []*Node) {
	n, other := nodes[f.Node], nodes[f.Other]
	switch f.Kind {
	case FaultCrash:
		n.Crash()
	case FaultPowerLoss:
		n.PowerLoss()
	case FaultBlackout:
		for _, n := range nodes {
			n.PowerLoss()
		}
	case FaultPause:
		n.Pause()
	case FaultIsolate:
		w.net.Isolate(n, true)
	case FaultCut:
		w.net.Cut(n, other)
	case FaultCutOneWay:
		w.net.CutOneWay(n, other)
	case FaultReset:
		w.net.Reset(n, other)
	case FaultBlackhole:
		w.net.Blackhole(n, other)
	case FaultLoss:
		w.net.SetLoss(0.01)
	default:
		w.injectSlow(f, n)
	}
}

func (w *World) injectSlow(f Fault, n *Node) {
	switch f.Kind {
	case FaultSlowNode:
		n.SetLoopCost(time.Duration(f.Amount))
	case FaultSlowNet:
		w.net.SetSlow(n, time.Duration(f.Amount))
	case FaultSlowDisk:
		n.setDiskFaults(DiskFaults{Slowdown: float64(f.Amount)})
	case FaultStall:
		n.setDiskFaults(DiskFaults{Stall: 0.01, StallTime: time.Duration(f.Amount)})
	case FaultClockJump:
		n.JumpClock(time.Duration(f.Amount))
	case FaultClockDrift:
		n.SetClockDrift(f.Amount)
	case FaultLatent, FaultBitRot:
		n.damage(f.Kind)
	default:
		w.injectKV(f, n)
	}
}

func (w *World) injectKV(f Fault, n *Node) {
	switch f.Kind {
	case FaultKVDown:
		w.kv.SetDown(true)
	case FaultKVCut:
		w.kv.Cut(n, true, true)
	case FaultKVAnswers:
		w.kv.Cut(n, false, true)
	case FaultKVFlaky:
		w.kv.SetFaults(KVFaults{LoseRequest: 0.05, LoseAnswer: 0.05, Unavailable: 0.05, BreakWatch: 0.05})
	case FaultKVCompact:
		if r := w.kv.store.Revision(); r > w.kv.store.Compacted() {
			err := w.kv.Compact(r)
			invariant.Must(err == nil, "sim: compaction failed")
		}
	}
}

func (w *World) heal(f Fault, nodes []*Node) {
	n, other := nodes[f.Node], nodes[f.Other]
	switch f.Kind {
	case FaultCrash, FaultPowerLoss:
		nodes = []*Node{n}
		fallthrough
	case FaultBlackout:
		for _, n := range nodes {
			if !n.Running() {
				n.Restart()
			}
		}
	case FaultPause:
		n.Resume()
	case FaultIsolate:
		w.net.Isolate(n, false)
	case FaultCut, FaultCutOneWay:
		w.net.Join(n, other)
	case FaultLoss:
		w.net.SetLoss(w.opt.Net.Loss)
	case FaultSlowNode:
		n.SetLoopCost(0)
	case FaultSlowNet:
		w.net.SetSlow(n, 0)
	case FaultSlowDisk, FaultStall:
		n.setDiskFaults(DiskFaults{})
	case FaultClockJump:
		n.JumpClock(-time.Duration(f.Amount))
	case FaultClockDrift:
		n.SetClockDrift(0)
	case FaultKVDown:
		w.kv.SetDown(false)
	case FaultKVCut, FaultKVAnswers:
		w.kv.Cut(n, false, false)
	case FaultKVFlaky:
		w.kv.SetFaults(KVFaults{})
	}
}

func (n *Node) setDiskFaults(f DiskFaults) {
	for _, d := range n.disks {
		d.SetFaults(f)
	}
}

// damage hits one random allocated page of the node's disks.
func (n *Node) damage(k FaultKind) {
	if len(n.disks) == 0 {
		return
	}
	d := n.disks[n.w.rng.IntN(len(n.disks))]
	var pages []int64
	d.visible.EachPage(func(off int64, _ []byte) { pages = append(pages, off) })
	if len(pages) == 0 {
		return
	}
	off := pages[n.w.rng.IntN(len(pages))] + n.w.rng.Int64N(pageBytes/badUnitBytes)*badUnitBytes
	off = slices.Min([]int64{off, d.info.SizeBytes - 1})
	if k == FaultLatent {
		d.MakeUnreadable(off, 1)
	} else {
		d.FlipBit(off, uint(n.w.rng.IntN(8)))
	}
}
