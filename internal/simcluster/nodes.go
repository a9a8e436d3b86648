package simcluster

import (
	"fmt"
	"math/rand/v2"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/mon/daemon"
)

// osdNode is a machine with one OSD; it is restarted like by a service manager.
type osdNode struct {
	k      *Cluster
	num    meta.OSDNum
	host   string
	node   *sim.Node
	data   *sim.Disk
	held   bool // a fault keeps it down
	frozen bool // SIGSTOP
	life   int
	// lease is what the sentinel was told last.
	lease env.LeaseID
	d     *osdDaemon // nil while it does not run
}

func (k *Cluster) newOSD(num int) *osdNode {
	n := &osdNode{k: k, num: meta.OSDNum(num), host: fmt.Sprintf("host%d", (num-1)%k.c.Hosts), node: k.w.NewNode(fmt.Sprintf("osd%d", num))}
	lazy := k.c.Commit != meta.CommitAll
	n.data = n.node.AddDisk(dataPath, sim.DiskConfig{SizeBytes: k.c.DiskBytes, VolatileCache: lazy, Overlap: sim.OverlapIgnore})
	if k.c.Commit == meta.CommitSmall {
		n.node.AddDisk(metaPath, sim.DiskConfig{SizeBytes: 16 << 20, Overlap: sim.OverlapIgnore})
	}
	n.node.SetProgram(n.start)
	return n
}

// start is the program of the machine.
func (n *osdNode) start(e *env.Env) {
	n.free()
	n.life++
	life := n.life
	n.d = startOSD(n, e, func(err error) {
		n.k.w.After(0, func() { n.exited(life, err) })
	})
}

func (n *osdNode) free() {
	if n.d != nil {
		n.d.free()
		n.d = nil
	}
}

// exited is the end of a process that ended itself.
func (n *osdNode) exited(life int, err error) {
	if n.life != life || n.d == nil {
		return
	}
	n.k.logf("osd %d exits: %v", n.num, err)
	n.k.exits++
	n.node.Crash()
	n.free()
	n.k.w.After(restartDelay, n.restart)
}

// restart starts the process unless a fault keeps it down or it runs.
func (n *osdNode) restart() {
	if !n.held && !n.node.Running() && n.k.found == nil {
		n.node.Restart()
	}
}

// kill is kill -9. With a sentinel, a small process that notices revokes the
// lease at once, if it reaches etcd.
func (n *osdNode) kill(sentinel bool) {
	n.held = true
	lease := n.lease
	n.node.Crash()
	n.free()
	if sentinel && lease != 0 {
		n.k.w.After(3*time.Millisecond, func() { n.k.revoke(n, lease) })
	}
}

// stop is SIGTERM: exited follows.
func (n *osdNode) stop() {
	n.held = true
	if n.d != nil {
		n.node.Do(func(*env.Env) { n.d.o.Shutdown() })
	}
}

func (n *osdNode) powerLoss() {
	n.held = true
	n.node.PowerLoss()
	n.free()
}

func (n *osdNode) release() {
	n.held = false
	n.restart()
}

// revoke does what the sentinel does.
func (k *Cluster) revoke(n *osdNode, lease env.LeaseID) {
	if !k.w.KV().Reaches(n.node) {
		return
	}
	err := k.w.KV().Revoke(lease)
	k.logf("sentinel of osd %d revokes lease %d: %v", n.num, lease, err)
}

// monNode is a machine with a monitor.
type monNode struct {
	k    *Cluster
	node *sim.Node
	m    *daemon.Monitor
	held bool
}

func (k *Cluster) newMonitor(num int) *monNode {
	n := &monNode{k: k, node: k.w.NewNode(fmt.Sprintf("mon%d", num))}
	n.node.SetProgram(func(e *env.Env) {
		m, err := daemon.Start(e, daemon.Options{Self: schema.Monitor{IPs: []string{n.node.Addr().String()}, Hostname: n.node.Name()}})
		if err != nil {
			panic(fmt.Sprintf("simcluster: the monitor does not start: %v", err))
		}
		n.m = m
	})
	return n
}

// clientNode is a machine with a client and its load.
type clientNode struct {
	k     *Cluster
	index int
	node  *sim.Node
	cl    *realClient // nil while it does not run
	work  *work       // nil until the load begins
	held  bool
}

func (k *Cluster) newClient(index int) *clientNode {
	n := &clientNode{k: k, index: index, node: k.w.NewNode(fmt.Sprintf("client%d", index))}
	n.node.SetProgram(n.start)
	return n
}

func (n *clientNode) start(e *env.Env) {
	n.work = nil
	n.k.lives++
	life := n.k.lives
	n.cl = newRealClient(n.k, e, fmt.Sprintf("host%d", n.index%n.k.c.Hosts), life, func() {
		if n.k.loading {
			n.load()
		}
	})
}

// load begins to make load.
func (n *clientNode) load() {
	if n.work != nil || n.cl == nil || !n.cl.ready {
		return
	}
	k := n.k
	c := k.c.Work
	c.Images = k.images
	n.work = &work{c: c, h: k.h, client: n.cl.life, node: n.index, now: k.w.Now, e: n.node.Env(), target: n.cl,
		rng: rand.New(rand.NewPCG(k.c.Seed, uint64(n.cl.life)<<8|0xc)), failed: k.failed}
	startWork(n.work)
}

func (n *clientNode) kill() {
	n.held = true
	n.k.h.Crash(n.cl.life)
	n.node.Crash()
	n.cl.free()
	n.cl, n.work = nil, nil
}

func (n *clientNode) release() {
	n.held = false
	if !n.node.Running() {
		n.node.Restart()
	}
}
