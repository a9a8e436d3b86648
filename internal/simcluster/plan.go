package simcluster

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind uint8

// The kinds. A is the number of an OSD unless the comment says otherwise.
const (
	Kill       FaultKind = iota // kill -9; the sentinel revokes the lease
	KillSilent                  // ... nobody does
	PowerLoss
	Blackout    // power loss of all OSDs
	Stop        // SIGTERM, started again when healed
	Pause       // SIGSTOP
	Isolate     // without network, etcd included
	Cut         // A and B do not reach each other; above OSDs, B is a client
	CutOneWay   // A does not reach B
	Reset       // streams between A and B break
	Blackhole   // streams between A and B fall silent
	Loss        // packets get lost everywhere
	SlowNode    // each event takes Amount ns
	SlowNet     // each packet takes Amount ns more
	SlowDisk    // latency x Amount
	Stall       // the disk stops for Amount ns now and then
	ClockJump   // time of day + Amount ns until healed
	ClockDrift  // Amount ppm
	KVDown      // etcd is away
	KVCut       // A does not reach etcd; above OSDs: monitors, then clients
	KVAnswers   // A gets no answers from etcd
	KVExile     // A and client B do not reach etcd, but each other
	KVFlaky     // some requests and answers get lost, watches break
	KVCompact   // etcd forgets its history
	BitRot      // a bit flips on the disk of the OSD that may rot
	Latent      // a sector becomes unreadable there
	DiskErrors  // reads and writes fail there now and then
	MonitorKill // A is a monitor
	ClientKill  // A is a client
	Out         // reweight 0 until healed
	Reweight    // Amount percent until healed
	PGCount     // of pool A: doubled, or halved again
	PGSize      // of pool A, replicated: one more
	PoolAdd     // another pool exists until healed
	Full        // the disks are filled up
	faultKinds
)

var faultNames = [faultKinds]string{"kill", "kill-silent", "power-loss", "blackout", "stop", "pause", "isolate", "cut", "cut-one-way", "reset",
	"blackhole", "loss", "slow-node", "slow-net", "slow-disk", "stall", "clock-jump", "clock-drift", "kv-down", "kv-cut", "kv-answers",
	"kv-exile", "kv-flaky", "kv-compact", "bit-rot", "latent", "disk-errors", "monitor-kill", "client-kill", "out", "reweight", "pg-count", "pg-size",
	"pool-add", "full"}

func (k FaultKind) String() string { return faultNames[k] }

// Fault is one entry of a Plan. Times count from the beginning of the load.
type Fault struct {
	N        int // number in the plan as drawn, to name it
	At, Heal time.Duration
	Kind     FaultKind
	A, B     int
	Amount   int64
}

func (f Fault) String() string {
	return fmt.Sprintf("#%d %v..%v %v %d %d %d", f.N, f.At.Round(time.Millisecond), f.Heal.Round(time.Millisecond), f.Kind, f.A, f.B, f.Amount)
}

// Plan is a schedule of faults, ascending by At. It is data: entries may be
// removed to find those that matter.
type Plan []Fault

func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p {
		fmt.Fprintln(&b, " ", f)
	}
	return b.String()
}

// down tells whether the OSD does nothing for others meanwhile.
func (k FaultKind) down() bool { return k <= Isolate }

// NewPlan draws the faults of a world.
func NewPlan(c *Config) Plan {
	rng := rand.New(rand.NewPCG(c.Seed, 0xfa17))
	var p Plan
	for at := draw(rng, c.Every); at < c.Duration; at += draw(rng, c.Every) {
		f := Fault{At: at, Kind: c.Faults[rng.IntN(len(c.Faults))]}
		f.Heal = min(at+f.Kind.lasts(rng), c.Duration)
		f.place(c, rng)
		f.Amount = f.Kind.amount(rng)
		f.spareCopies(c)
		if p.admits(f, c) {
			f.N = len(p)
			p = append(p, f)
		}
	}
	return p
}

func draw(rng *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(rng.ExpFloat64()*float64(mean)) + time.Millisecond
}

// leaseTime is the default of etcd_lease_ttl.
const leaseTime = 4 * time.Second

// lasts draws a duration.
func (k FaultKind) lasts(rng *rand.Rand) time.Duration {
	switch k {
	case Pause, Isolate, KVCut, KVAnswers, KVExile: // often about as long as a lease, or longer
		around := leaseTime + time.Duration((rng.Float64()-0.5)*float64(time.Second))
		return pick(rng, draw(rng, 500*time.Millisecond), around, draw(rng, 6*time.Second))
	case Cut, CutOneWay, Blackhole:
		return draw(rng, pick(rng, time.Second, 10*time.Second))
	case Out, Reweight, PGCount, PGSize, PoolAdd, Full:
		return draw(rng, 12*time.Second)
	case KVDown:
		return draw(rng, pick(rng, time.Second, 6*time.Second))
	}
	return draw(rng, 3*time.Second)
}

// place chooses the victims.
func (f *Fault) place(c *Config, rng *rand.Rand) {
	f.A = 1 + rng.IntN(c.OSDs)
	switch f.Kind {
	case Cut, CutOneWay, Reset, Blackhole:
		f.B = 1 + rng.IntN(c.OSDs+c.Clients)
		if f.B == f.A {
			f.B = f.A%(c.OSDs+c.Clients) + 1
		}
		if f.Kind == CutOneWay && rng.IntN(2) == 0 {
			f.A, f.B = f.B, f.A
		}
	case KVCut, KVAnswers:
		f.A = 1 + rng.IntN(c.OSDs+c.Monitors+c.Clients)
	case KVExile:
		f.B = 1 + c.OSDs + c.Monitors + rng.IntN(c.Clients)
	case MonitorKill:
		f.A = 1 + rng.IntN(c.Monitors)
	case ClientKill:
		f.A = 1 + rng.IntN(c.Clients)
	case PGCount, PGSize:
		f.A = 1 + rng.IntN(len(c.Pools))
	case BitRot, Latent, DiskErrors:
		f.A = c.RotOSD
	}
}

// spareCopies: while the media of one OSD decay, the others have to be there.
// What is written while one of them is away has its newest version on the bad
// disk, and with pg_minsize nowhere else: decay would destroy the last copy.
func (f *Fault) spareCopies(c *Config) {
	if c.RotOSD == 0 {
		return
	}
	switch {
	case f.Kind == Blackout:
		f.Kind, f.A = PowerLoss, c.RotOSD
	case f.Kind.down(), (f.Kind.group() == KVCut) && f.A <= c.OSDs:
		f.A = c.RotOSD
	case f.Kind == KVFlaky:
		f.Kind = KVCompact
	}
}

func (k FaultKind) amount(rng *rand.Rand) int64 {
	switch k {
	case SlowNode:
		return int64(10*time.Microsecond) << rng.IntN(7)
	case SlowNet:
		return int64(time.Millisecond) << rng.IntN(8)
	case SlowDisk:
		return 4 << rng.IntN(6)
	case Stall:
		return int64(100*time.Millisecond) << rng.IntN(6)
	case ClockJump:
		return (rng.Int64N(2)*2 - 1) * rng.Int64N(int64(time.Hour))
	case ClockDrift:
		return rng.Int64N(2001) - 1000
	case Reweight:
		return 20 + rng.Int64N(60)
	}
	return 0
}

// admits keeps faults apart that would heal each other, and counts who is down.
func (p Plan) admits(f Fault, c *Config) bool {
	down := 0
	for _, o := range p {
		if o.Heal < f.At {
			continue
		}
		if o.clashes(f) {
			return false
		}
		if o.Kind.down() {
			down++
		}
	}
	return !f.Kind.down() || f.Kind == Blackout || down < c.DownMax
}

// group is what a fault changes: two of one group and place clash.
func (k FaultKind) group() FaultKind {
	switch k {
	case KillSilent, PowerLoss, Stop, Pause, Isolate:
		return Kill
	case CutOneWay:
		return Cut
	case Stall, DiskErrors:
		return SlowDisk
	case KVAnswers, KVExile:
		return KVCut
	case Reweight:
		return Out
	case PGSize, PoolAdd:
		return PGCount
	}
	return k
}

func (f Fault) clashes(o Fault) bool {
	a, b := f.Kind.group(), o.Kind.group()
	switch {
	case a == Blackout || b == Blackout:
		return f.Kind.down() && o.Kind.down()
	case a != b:
		return false
	case a == Cut:
		return f.A == o.A && f.B == o.B || f.A == o.B && f.B == o.A
	case a == KVCut:
		return f.A == o.A || f.B != 0 && f.B == o.A || o.B != 0 && o.B == f.A || f.B != 0 && f.B == o.B
	case a == Loss || a == KVDown || a == KVFlaky || a == PGCount || a == Full:
		return true
	}
	return f.A == o.A
}
