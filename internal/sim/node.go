package sim

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// loopTurnMin is the time that an immediate timer takes: without it a program
// that polls would stop the virtual clock.
const loopTurnMin = time.Microsecond

// tasksPerEventMax stops programs that defer for ever.
const tasksPerEventMax = 10_000_000

// worldEpochNanos is the time of day when a world starts: 2026-01-01 UTC.
const worldEpochNanos = 1_767_225_600_000_000_000

// Node is one machine. It has power from the start, and one process at a time.
type Node struct {
	w     *World
	index int
	name  string
	addr  netip.Addr
	off   bool // without power: silent on the network
	proc  *process
	runs  uint64 // processes started so far
	disks []*Disk
	clock nodeClock
	host  *host // network stack, see net.go
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
	p.env = env.Env{
		Clock: p, Rand: p, Exec: p,
		Storage: &processStorage{p},
		Log:     slog.New(&logHandler{w: n.w, node: n.name}),
	}
	n.proc = p
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
}

// Restart starts a new process after Crash or PowerLoss, with the same disks,
// and returns its environment.
func (n *Node) Restart() *env.Env {
	if n.proc != nil {
		invariant.Fail("sim: Restart of node %s, which runs", n.name)
	}
	n.off = false
	n.start()
	return n.Env()
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

// process is one life of a program on a node; it implements env.Clock, env.Rand
// and env.Exec. Everything it is asked for after its death does nothing.
type process struct {
	node      *Node
	w         *World
	rng       *rand.Rand
	env       env.Env
	origin    env.Instant
	dead      bool
	stopped   bool
	busyUntil env.Instant
	held      []event // what happened while stopped

	timers env.Timers  // by the node's local time
	wakeAt env.Instant // when the next timer event is scheduled; 0 = none
	tasks  env.Tasks
	dirty  []*stream // streams with something to flush
}

// run makes one loop iteration: the event, then what it deferred, then the
// flush of the streams it sent on.
func (p *process) run(a actor, arg uint64) {
	w := p.w
	w.current = p
	a.fire(arg)
	n := 0
	for !p.dead {
		if t := p.tasks.Pop(); t != nil {
			t.Run()
			if n++; n > tasksPerEventMax {
				invariant.Fail("sim: node %s defers tasks for ever", p.node.name)
			}
			continue
		}
		if !p.flushStreams() {
			break
		}
	}
	w.current = nil
	if p.node.loopCost > 0 {
		p.busyUntil = w.now.Add(p.node.loopCost)
	}
}

// Now implements env.Clock.
func (p *process) Now() env.Instant { return p.node.clock.local(p.w.now) + p.origin }

// WallNanos implements env.Clock.
func (p *process) WallNanos() int64 {
	c := &p.node.clock
	return worldEpochNanos + int64(c.local(p.w.now)) + int64(c.wallOffset)
}

// Arm implements env.Clock.
func (p *process) Arm(t *env.Timer, d time.Duration) {
	if p.dead {
		return
	}
	p.timers.Arm(t, p.node.clock.local(p.w.now).Add(max(d, loopTurnMin)))
	p.scheduleWake()
}

// Disarm implements env.Clock.
func (p *process) Disarm(t *env.Timer) {
	if !p.dead {
		p.timers.Disarm(t)
	}
}

// scheduleWake makes sure that a timer event comes when the first timer is due.
func (p *process) scheduleWake() {
	l, ok := p.timers.Next()
	if !ok {
		return
	}
	at := max(p.node.clock.world(l), p.w.now)
	if p.wakeAt == 0 || at < p.wakeAt || p.wakeAt < p.w.now {
		p.wakeAt = at
		p.w.schedule(at, p, p, uint64(at))
	}
}

// fire runs the first timer that is due; the others get an event each, so that
// what one of them does is complete before the next.
func (p *process) fire(at uint64) {
	if env.Instant(at) != p.wakeAt {
		return // superseded by an earlier one
	}
	p.wakeAt = 0
	if t := p.timers.Pop(p.node.clock.local(p.w.now)); t != nil {
		p.w.trace(traceTimer, p.node.index, 0, 0)
		t.Fire()
	}
	p.scheduleWake()
}

// Defer implements env.Exec.
func (p *process) Defer(t *env.Task) {
	if !p.dead {
		p.tasks.Push(t)
	}
}

// Post implements env.Exec. In the simulation only the world's goroutine may
// call it.
func (p *process) Post(fn func()) bool {
	if p.dead {
		return false
	}
	p.w.trace(tracePost, p.node.index, 0, 0)
	p.w.schedule(p.w.now, p, funcActor(fn), 0)
	return true
}

// Uint64 implements env.Rand.
func (p *process) Uint64() uint64 { return p.rng.Uint64() }

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
