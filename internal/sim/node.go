package sim

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// worldEpochNanos is the time of day when a world starts: 2026-01-01 UTC.
const worldEpochNanos = 1_767_225_600_000_000_000

// Node is one machine. It has power from the start, and one process at a time.
type Node struct {
	w       *World
	index   int
	name    string
	addr    netip.Addr
	off     bool // without power: silent on the network
	proc    *process
	runs    uint64 // processes started so far
	disks   []*Disk
	clock   nodeClock
	host    *host // network stack, see net.go
	kvCut   kvDirection
	program func(*env.Env)
	// loopCost is the time that the process is busy with each event (slow node).
	loopCost time.Duration
}

// NewNode adds a machine and starts a process on it.
func (w *World) NewNode(name string) *Node {
	for _, n := range w.nodes {
		if n.name == name {
			invariant.Fail("sim: node %s exists already", name)
		}
	}
	i := len(w.nodes)
	n := &Node{w: w, index: i, name: name, addr: netip.AddrFrom4([4]byte{10, 0, byte((i + 1) >> 8), byte(i + 1)})}
	n.host = newHost(w.net, n)
	w.nodes = append(w.nodes, n)
	n.start()
	return n
}

// Name is the name given to NewNode.
func (n *Node) Name() string { return n.name }

// Addr is the node's network address.
func (n *Node) Addr() netip.Addr { return n.addr }

// World is the world the node belongs to.
func (n *Node) World() *World { return n.w }

// Env is the environment of the running process; nil after Crash until
// Restart. Use it inside Do, or in callbacks.
func (n *Node) Env() *env.Env {
	if n.proc == nil {
		return nil
	}
	return &n.proc.env
}

// Running tells whether the node has a process, stopped or not.
func (n *Node) Running() bool { return n.proc != nil }

// Do runs f on the node's loop at once, like an event.
func (n *Node) Do(f func(e *env.Env)) {
	invariant.Must(n.w.current == nil, "sim: Do from inside an event")
	if n.proc == nil {
		invariant.Fail("sim: Do on node %s, which has no process", n.name)
	}
	p := n.proc
	p.run(funcActor(func() { f(&p.env) }), 0)
}

func (n *Node) start() {
	n.runs++
	p := &process{node: n, w: n.w, rng: n.w.derive(n.name, n.runs)}
	// The origin of monotonic time means nothing, and differs to show it.
	p.origin = env.Instant(p.rng.Int64N(int64(1000 * time.Hour)))
	p.turn.p = p
	p.env = env.Env{
		Clock: p, Rand: p, Exec: p,
		Net:     &processNet{p},
		Storage: &processStorage{p},
		Log:     slog.New(&logHandler{w: n.w, node: n.name}),
	}
	n.proc = p
	if n.w.kv != nil {
		p.env.KV = &kvClient{n.w.kv, p}
	}
	n.w.trace(traceNode, n.index, 1, n.runs)
}

// Crash kills the process at once (kill -9). Its timers, tasks and requests are
// gone; the kernel closes its streams; disk writes in flight may happen, partly
// happen, or not.
func (n *Node) Crash() {
	if n.proc == nil {
		return
	}
	n.w.trace(traceNode, n.index, 2, n.runs)
	n.endProcess()
	n.host.processDied()
	for _, d := range n.disks {
		d.processDied()
	}
}

// PowerLoss cuts the power: the process dies, the network is silent, and of
// what the disks had not made durable anything may be left (see Disk).
func (n *Node) PowerLoss() {
	if n.off {
		return
	}
	n.w.trace(traceNode, n.index, 3, n.runs)
	n.off = true
	n.endProcess()
	n.host.powerLost()
	for _, d := range n.disks {
		d.PowerLoss()
	}
}

func (n *Node) endProcess() {
	p := n.proc
	if p == nil {
		return
	}
	p.dead, n.proc = true, nil
	p.held, p.timers, p.tasks = nil, env.Timers{}, env.Tasks{}
	if n.w.kv != nil {
		n.w.kv.processDied(p)
	}
}

// Restart starts a new process after Crash or PowerLoss, with the same disks,
// and returns its environment.
func (n *Node) Restart() *env.Env {
	if n.proc != nil {
		invariant.Fail("sim: Restart of node %s, which runs", n.name)
	}
	n.off = false
	n.start()
	if n.program != nil {
		n.Do(n.program)
	}
	return n.Env()
}

// SetProgram says what every process of the node does first, and lets the
// running one do it now. Fault plans restart nodes; this is what they start.
func (n *Node) SetProgram(f func(*env.Env)) {
	n.program = f
	if n.proc != nil {
		n.Do(f)
	}
}

// Pause stops the process (SIGSTOP): nothing happens in it until Resume, while
// its disks go on and the kernel goes on with its network buffers.
func (n *Node) Pause() {
	if n.proc != nil && !n.proc.stopped {
		n.w.trace(traceNode, n.index, 4, n.runs)
		n.proc.stopped = true
	}
}

// Resume continues a paused process.
func (n *Node) Resume() {
	p := n.proc
	if p == nil || !p.stopped {
		return
	}
	n.w.trace(traceNode, n.index, 5, n.runs)
	p.stopped = false
	for _, e := range p.held {
		n.w.schedule(n.w.now, p, e.act, e.arg)
	}
	p.held = p.held[:0]
}

// SetLoopCost makes every event keep the process busy for d: a slow node.
func (n *Node) SetLoopCost(d time.Duration) { n.loopCost = d }

// JumpClock changes the time of day by d at once; monotonic time is unaffected.
func (n *Node) JumpClock(d time.Duration) {
	n.w.trace(traceNode, n.index, 6, uint64(d))
	n.clock.wallOffset += d
}

// SetClockDrift makes the node's clocks, monotonic time included, run fast by
// ppm parts in a million (negative: slow) from now on.
func (n *Node) SetClockDrift(ppm int64) {
	invariant.Must(ppm > -1e6 && ppm < 1e6, "sim: clock drift must be less than 1e6 ppm")
	c := &n.clock
	c.baseLocal, c.baseWorld = c.local(n.w.now), n.w.now
	c.ppm = ppm
	n.w.trace(traceNode, n.index, 7, uint64(ppm))
	if n.proc != nil {
		n.proc.wakeAt = 0
		n.proc.scheduleWake()
	}
}

// nodeClock turns the world's time into the node's.
type nodeClock struct {
	baseWorld, baseLocal env.Instant
	ppm                  int64
	wallOffset           time.Duration
}

func (c *nodeClock) local(t env.Instant) env.Instant {
	e := int64(t - c.baseWorld)
	return c.baseLocal + env.Instant(e+e/1e6*c.ppm+e%1e6*c.ppm/1e6)
}

// world is the first moment at which local time l has surely come.
func (c *nodeClock) world(l env.Instant) env.Instant {
	e := int64(l - c.baseLocal)
	if c.ppm == 0 {
		return c.baseWorld + env.Instant(e)
	}
	rate := 1e6 + c.ppm
	return c.baseWorld + env.Instant(e/rate*1e6+e%rate*1e6/rate+2)
}

// processStorage implements env.Storage with the node's disks.
type processStorage struct{ p *process }

func (s *processStorage) OpenDisk(path string, o env.DiskOptions) (env.Disk, error) {
	if s.p.dead {
		return nil, env.ErrDiskClosed
	}
	for _, d := range s.p.node.disks {
		if d.path == path {
			return d.open(s.p, o)
		}
	}
	return nil, fmt.Errorf("open %s: no such disk on node %s: attach one with Node.AddDisk", path, s.p.node.name)
}

// AddDisk makes an empty disk and attaches it under a path.
func (n *Node) AddDisk(path string, c DiskConfig) *Disk {
	d := NewDisk(n.w, n.name+":"+path, c)
	n.Attach(path, d)
	return d
}

// Attach gives the node a disk under a path.
func (n *Node) Attach(path string, d *Disk) {
	for _, o := range n.disks {
		if o.path == path || o == d {
			invariant.Fail("sim: node %s has a disk at %s already", n.name, o.path)
		}
	}
	d.path = path
	n.disks = append(n.disks, d)
}

// Disks are the node's disks in the order of attachment.
func (n *Node) Disks() []*Disk { return n.disks }
