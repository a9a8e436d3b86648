package client

import (
	"fmt"
	"log/slog"
	"syscall"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/writeback"
)

// Client executes operations on one cluster.
type Client struct {
	env    *env.Env
	log    *slog.Logger
	config Config
	keys   schema.Keys
	opts   option.ClientConfig // in use
	set    *option.Set
	view   *clusterview.View
	msgr   *msgr.Messenger
	ready  func(error) // told once; nil afterwards
	loaded bool
	closed func() // told when nothing is left; set by Close
	ended  bool   // Close was called

	// What we know of the cluster, see route.go.
	pools    map[meta.PoolID]*pool
	poolIDs  []meta.PoolID // their keys, ascending: the order of everything
	osds     map[meta.OSDNum]*osd
	osdIDs   []meta.OSDNum
	paths    placementPaths
	watches  []*Watch
	open     map[uint64]*session
	sessions uint64 // ids given

	// Parts that cannot be sent now, see retry.go.
	waiting  partList
	retry    env.Timer
	retryAt  env.Instant
	kickTask env.Task
	freePart *part
	freeIO   *io

	// Operations, see admit.go.
	queue     opQueue // wait for earlier ones
	ops       int     // submitted and not completed
	cancels   int     // since the queue was looked at
	busyWork  int     // ios, listings and raw requests in flight
	failedRaw []*osd  // have requests that cannot be sent
	finished  opQueue // to be completed by doneTask
	doneTask  env.Task
	admitTask env.Task

	// Data that may have to be sent again, see track.go.
	buffers   *writeback.Map
	memory    memory
	mutations ioList // tracked ios that change data
	blocked   ioList // wait because they overlap with mutations
	writing   int    // tracked ios in mutations and blocked, of users
	flushing  int    // those of Runs
	freeRun   *flush
	sync      syncRun
}

// New makes a client; nothing happens before Start.
func New(e *env.Env, c Config) (*Client, error) {
	cl := &Client{env: e, log: e.Log, config: c, pools: map[meta.PoolID]*pool{}, osds: map[meta.OSDNum]*osd{},
		open: map[uint64]*session{}}
	if cl.log == nil {
		cl.log = slog.New(slog.DiscardHandler)
	}
	if e.KV == nil {
		return nil, fmt.Errorf("client needs etcd: set etcd_address")
	}
	if err := cl.mergeOptions(nil); err != nil {
		return nil, err
	}
	if cl.keys = c.Keys; cl.keys.Prefix() == "" {
		cl.keys = schema.NewKeys(cl.opts.Common.EtcdPrefix)
	}
	m, err := msgr.New(e, msgr.Options{Networks: cl.opts.Network.Public, Handler: handler{cl}, Timeouts: cl.timeouts()})
	if err != nil {
		return nil, err
	}
	cl.msgr = m
	cl.memory.limit = c.MemoryBytes
	cl.buffers = writeback.New(&cl.memory)
	cl.retry.Fire = cl.retryDue
	cl.kickTask.Run = cl.reroute
	cl.doneTask.Run = cl.runDone
	cl.admitTask.Run = cl.admitNext
	cl.sync.init(cl)
	attempts := cl.opts.Network.MaxEtcdAttempts
	if cl.opts.InfiniteStart {
		attempts = 0
	}
	cl.view = clusterview.New(clusterview.Config{Clock: e.Clock, KV: e.KV, Log: cl.log, Keys: cl.keys,
		Timing: cl.timing(), Attempts: attempts, NodePlacement: true, Changed: cl.changed, Fatal: cl.fatal})
	return cl, nil
}

// Start begins to follow the cluster. ready is called once: with nil when it is
// known, or with the reason why etcd could not be read. Operations may be
// submitted before.
func (c *Client) Start(ready func(error)) {
	c.ready = ready
	c.view.Start()
}

// View is the state of the cluster as etcd knows it.
func (c *Client) View() *clusterview.View { return c.view }

// Keys are the keys of the cluster in etcd.
func (c *Client) Keys() schema.Keys { return c.keys }

// Loaded tells whether the state of the cluster is known.
func (c *Client) Loaded() bool { return c.loaded }

// Geometry is what users of images have to know of a pool.
type Geometry struct {
	ObjectBytes  uint64 // block size times data chunks: what one OSD operation can be atomic in
	GranuleBytes uint32 // alignment of all operations
	// Commit is what the user of this client has to expect: CommitNone if
	// writes are buffered, whatever the pool is like.
	Commit meta.CommitMode
}

// Geometry tells about the pool of an inode; ok is false if there is none.
func (c *Client) Geometry(inode meta.Inode) (g Geometry, ok bool) {
	p := c.pools[inode.Pool()]
	if p == nil {
		return g, false
	}
	g = Geometry{ObjectBytes: p.objectBytes, GranuleBytes: uint32(p.granule), Commit: p.spec.Commit}
	if c.writebackOn() {
		g.Commit = meta.CommitNone
	}
	return g, true
}

// Outstanding is the number of operations submitted and not completed.
func (c *Client) Outstanding() int { return c.ops }

// Unsynced is how much data is buffered for being sent, or sent again.
func (c *Client) Unsynced() uint64 {
	n := uint64(0)
	for s := writeback.Dirty; s <= writeback.Flushing; s++ {
		n += c.buffers.Bytes(s)
	}
	return n
}

// Cancel gives an operation up: what waits is not sent any more. Requests that
// are on their way cannot be taken back, so Done may come late, and the
// operation may have been executed. Err is ECANCELED unless it ended before.
// Data in the write-back cache stays there.
func (c *Client) Cancel(op *Op) {
	if op.phase == phaseIdle {
		return
	}
	op.cancelled = true
	c.cancels++
	c.admit()
	c.kick()
}

// Close gives up all operations (ECANCELED) and everything that was not synced,
// and disconnects. done is called when all memory of operations is free.
func (c *Client) Close(done func()) {
	invariant.Must(!c.ended, "client: closed twice")
	c.ended, c.closed = true, done
	c.view.Stop()
	c.msgr.Close()
	c.env.Clock.Disarm(&c.retry)
	c.sync.stop()
	c.admit()
	c.kick()
	c.env.Exec.Defer(&c.doneTask)
}

// Free returns memory outside of the Go heap. It is for the end, when the loop
// does not run any more, also after a crash.
func (c *Client) Free() {
	c.buffers.Free()
	c.memory.free()
	c.msgr.Free()
}

// changed is told what has changed in etcd.
func (c *Client) changed(ch *clusterview.Changes) {
	c.loaded = true
	if ch.Global || ch.Reloaded {
		c.reconfigure()
	}
	c.updateRoutes(ch)
	c.updateWatches(ch)
	if r := c.ready; r != nil {
		c.ready = nil
		r(nil)
	}
	if c.config.Changed != nil {
		c.config.Changed(ch)
	}
	c.admit()
}

// fatal is told why etcd cannot be followed any more.
func (c *Client) fatal(err error) {
	if r := c.ready; r != nil {
		c.ready = nil
		r(fmt.Errorf("cannot read the state of the cluster from etcd: %w", err))
		return
	}
	c.log.Error("the state of the cluster is not followed any more", "err", err)
	if c.config.Fatal != nil {
		c.config.Fatal(err)
	}
}

// finish completes an operation, soon: never inside a call of its owner.
func (c *Client) finish(op *Op, err syscall.Errno) {
	op.Err = err
	c.finished.push(op)
	c.env.Exec.Defer(&c.doneTask)
}

func (c *Client) runDone() {
	for op := c.finished.pop(); op != nil; op = c.finished.pop() {
		c.ops--
		op.phase = phaseIdle
		op.Done(op)
	}
	if c.ended && c.closed != nil && c.ops == 0 && c.busyWork == 0 {
		f := c.closed
		c.closed = nil
		f()
	}
}
