package simcluster

import (
	"fmt"
	"strconv"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// schedule arranges the faults of a plan; now is its zero.
func (k *Cluster) schedule(p Plan) {
	for _, f := range p {
		k.w.After(f.At, func() {
			k.logf("fault %v", f)
			k.inject(f)
		})
		k.w.After(f.Heal, func() {
			k.logf("heal %v", f)
			k.heal(f)
		})
	}
}

// machine is an OSD's or, above them, a client's.
func (k *Cluster) machine(i int) *sim.Node {
	if i <= len(k.osds) {
		return k.osds[i-1].node
	}
	return k.clients[i-1-len(k.osds)].node
}

// etcdUser is an OSD's machine, then those of monitors, then of clients.
func (k *Cluster) etcdUser(i int) *sim.Node {
	i--
	if i < len(k.osds) {
		return k.osds[i].node
	}
	if i -= len(k.osds); i < len(k.mons) {
		return k.mons[i].node
	}
	return k.clients[i-len(k.mons)].node
}

func (k *Cluster) inject(f Fault) {
	switch f.Kind {
	case Kill, KillSilent:
		k.osds[f.A-1].kill(f.Kind == Kill)
	case PowerLoss:
		k.osds[f.A-1].powerLoss()
	case Blackout:
		for _, n := range k.osds {
			n.powerLoss()
		}
	case Stop:
		k.osds[f.A-1].stop()
	case Pause:
		k.osds[f.A-1].node.Pause()
		k.osds[f.A-1].frozen = true
	case MonitorKill:
		k.mons[f.A-1].held = true
		k.mons[f.A-1].node.Crash()
	case ClientKill:
		k.clients[f.A-1].kill()
	case Out, Reweight:
		k.reweight(f.A, float64(f.Amount)/100)
	case PGCount, PGSize, PoolAdd:
		k.changePools(f, true)
	case Full:
		k.fillDisks()
	case BitRot, Latent:
		k.damage(f)
	default:
		k.injectNet(f)
	}
}

func (k *Cluster) injectNet(f Fault) {
	net := k.w.Net()
	switch f.Kind {
	case Isolate:
		net.Isolate(k.machine(f.A), true)
	case Cut:
		net.Cut(k.machine(f.A), k.machine(f.B))
	case CutOneWay:
		net.CutOneWay(k.machine(f.A), k.machine(f.B))
	case Reset:
		net.Reset(k.machine(f.A), k.machine(f.B))
	case Blackhole:
		net.Blackhole(k.machine(f.A), k.machine(f.B))
	case Loss:
		net.SetLoss(0.01)
	case SlowNet:
		net.SetSlow(k.machine(f.A), time.Duration(f.Amount))
	default:
		k.injectSlow(f)
	}
}

func (k *Cluster) injectSlow(f Fault) {
	switch f.Kind {
	case SlowNode:
		k.machine(f.A).SetLoopCost(time.Duration(f.Amount))
	case SlowDisk:
		setDisks(k.machine(f.A), sim.DiskFaults{Slowdown: float64(f.Amount)})
	case Stall:
		setDisks(k.machine(f.A), sim.DiskFaults{Stall: 0.01, StallTime: time.Duration(f.Amount)})
	case DiskErrors:
		setDisks(k.machine(f.A), sim.DiskFaults{ReadError: 0.01, WriteError: 0.002})
	case ClockJump:
		k.machine(f.A).JumpClock(time.Duration(f.Amount))
	case ClockDrift:
		k.machine(f.A).SetClockDrift(f.Amount)
	case KVDown:
		k.w.KV().SetDown(true)
	case KVCut:
		k.w.KV().Cut(k.etcdUser(f.A), true, true)
	case KVAnswers:
		k.w.KV().Cut(k.etcdUser(f.A), false, true)
	case KVExile:
		k.w.KV().Cut(k.etcdUser(f.A), true, true)
		k.w.KV().Cut(k.etcdUser(f.B), true, true)
	case KVFlaky:
		k.w.KV().SetFaults(sim.KVFaults{LoseRequest: 0.05, LoseAnswer: 0.05, Unavailable: 0.05, BreakWatch: 0.05})
	case KVCompact:
		k.watch()
		if s := k.w.KV().Store(); s.Revision() > s.Compacted() {
			if err := k.w.KV().Compact(s.Revision()); err != nil {
				panic(err)
			}
		}
	}
}

func setDisks(n *sim.Node, f sim.DiskFaults) {
	for _, d := range n.Disks() {
		d.SetFaults(f)
	}
}

func (k *Cluster) heal(f Fault) {
	switch f.Kind {
	case Kill, KillSilent, PowerLoss, Stop:
		k.osds[f.A-1].release()
	case Blackout:
		for _, n := range k.osds {
			n.release()
		}
	case Pause:
		k.osds[f.A-1].node.Resume()
		k.osds[f.A-1].frozen = false
	case MonitorKill:
		k.mons[f.A-1].held = false
		k.mons[f.A-1].node.Restart()
	case ClientKill:
		k.clients[f.A-1].release()
	case Out, Reweight:
		k.reweight(f.A, 1)
	case PGCount, PGSize, PoolAdd:
		k.changePools(f, false)
	case Full:
		k.emptyDisks()
	default:
		k.healNet(f)
	}
}

func (k *Cluster) healNet(f Fault) {
	net, kv := k.w.Net(), k.w.KV()
	switch f.Kind {
	case Isolate:
		net.Isolate(k.machine(f.A), false)
	case Cut, CutOneWay:
		net.Join(k.machine(f.A), k.machine(f.B))
	case Blackhole: // else servers keep what they have received of the requests for long
		net.Reset(k.machine(f.A), k.machine(f.B))
	case Loss:
		net.SetLoss(0)
	case SlowNet:
		net.SetSlow(k.machine(f.A), 0)
	case SlowNode:
		k.machine(f.A).SetLoopCost(0)
	case SlowDisk, Stall, DiskErrors:
		setDisks(k.machine(f.A), sim.DiskFaults{})
	case ClockJump:
		k.machine(f.A).JumpClock(-time.Duration(f.Amount))
	case ClockDrift:
		k.machine(f.A).SetClockDrift(0)
	case KVDown:
		kv.SetDown(false)
	case KVCut, KVAnswers:
		kv.Cut(k.etcdUser(f.A), false, false)
	case KVExile:
		kv.Cut(k.etcdUser(f.A), false, false)
		kv.Cut(k.etcdUser(f.B), false, false)
	case KVFlaky:
		kv.SetFaults(sim.KVFaults{})
	}
}

// reweight sets config/osd/N.
func (k *Cluster) reweight(osd int, to float64) {
	value := fmt.Sprintf(`{"reweight":%s}`, strconv.FormatFloat(to, 'g', -1, 64))
	k.put(k.keys.OSDConfig(meta.OSDNum(osd)), []byte(value))
}

// changePools writes config/pools with a change, or without it again.
func (k *Cluster) changePools(f Fault, on bool) {
	var p *PoolConfig
	if f.Kind != PoolAdd {
		p = &k.c.Pools[f.A-1]
	}
	sign := map[bool]int{true: 1, false: -1}[on]
	switch f.Kind {
	case PoolAdd:
		k.c.extraPool = on
	case PGSize:
		if p.Replicated() && (k.sizes[p.ID] > 0 || k.c.Hosts > p.Size) {
			p.Size += sign
			k.sizes[p.ID] += sign
		}
	case PGCount:
		if p.PGs *= 2; !on {
			p.PGs /= 4
		}
	}
	k.put(k.keys.Pools(), k.c.poolsJSON())
}

// damage hits the data area of a disk: the metadata of a store has no second
// copy on the same disk.
func (k *Cluster) damage(f Fault) {
	d := k.osds[f.A-1].data
	var places []int64
	d.Image().EachPage(func(off int64, _ []byte) {
		if off >= dataOffset {
			places = append(places, off)
		}
	})
	if len(places) == 0 {
		return
	}
	off := places[k.rng.IntN(len(places))] + k.rng.Int64N(8)*512
	if f.Kind == Latent {
		d.MakeUnreadable(off, 1)
	} else {
		d.FlipBit(off, uint(k.rng.IntN(8)))
	}
}
