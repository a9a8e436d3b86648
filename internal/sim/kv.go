package sim

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/invariant"
)

// KVConfig describes the way to etcd; zero fields mean the defaults.
type KVConfig struct {
	Latency   time.Duration // one way, with what etcd needs itself: 300 us
	Jitter    time.Duration // up to this much more, 500 us; requests may overtake each other
	Reconnect time.Duration // how long a broken watch needs to try again, 1 s
	Limits    mem.Limits
}

// KVFaults are chances per request; the zero value is a healthy etcd.
type KVFaults struct {
	LoseRequest float64       // never arrives: ErrKVTimeout
	LoseAnswer  float64       // done, but ErrKVTimeout
	Unavailable float64       // ErrKVUnavailable, done or not
	BreakWatch  float64       // per watch response: the watch has to reconnect
	Delay       time.Duration // more latency, each way
}

// KV is the world's etcd: one store (internal/etcd/mem) behind a network with
// latency and faults. Every process finds its client in env.Env.KV.
//
// Leases run on virtual time. While etcd is down its time stands still, and
// afterwards all leases live for their full time again, because a new leader
// does not know the rest.
type KV struct {
	w      *World
	c      KVConfig
	rng    *rand.Rand
	store  *mem.Store
	faults KVFaults

	down      bool
	downSince env.Instant
	downTotal time.Duration
	expiryAt  env.Instant // of the scheduled look at the leases; 0 = none
	watches   []*kvWatch
}

// NewKV starts the world's etcd; running processes get a client at once.
func (w *World) NewKV() *KV {
	invariant.Must(w.kv == nil, "sim: a world has one KV")
	c := w.opt.KV
	setDefault(&c.Latency, 300*time.Microsecond)
	setDefault(&c.Jitter, 500*time.Microsecond)
	setDefault(&c.Reconnect, time.Second)
	w.kv = &KV{w: w, c: c, rng: w.derive("kv", 0), store: mem.New(c.Limits)}
	for _, n := range w.nodes {
		if n.proc != nil {
			n.proc.env.KV = &kvClient{w.kv, n.proc}
		}
	}
	return w.kv
}

// KV is the world's etcd; nil if there is none.
func (w *World) KV() *KV { return w.kv }

// Store is the model itself, to look at; change it through Apply.
func (k *KV) Store() *mem.Store { return k.store }

// Apply runs a transaction at once, as an administrator would.
func (k *KV) Apply(t *env.Txn) (*env.TxnResponse, error) {
	k.tick()
	r, err := k.store.Apply(t)
	k.changed()
	return r, err
}

// Revoke ends a lease at once, like somebody who knows that its owner is dead.
func (k *KV) Revoke(id env.LeaseID) error {
	k.tick()
	err := k.store.Revoke(id)
	k.changed()
	return err
}

// Reaches tells whether a node gets requests to etcd and answers from it.
func (k *KV) Reaches(n *Node) bool { return k.reaches(n, kvRequests) && k.reaches(n, kvAnswers) }

// Compact forgets the history up to a revision.
func (k *KV) Compact(revision int64) error {
	k.w.trace(traceKV, 0, 1, uint64(revision))
	return k.store.Compact(revision)
}

// SetFaults replaces the fault plan.
func (k *KV) SetFaults(f KVFaults) { k.faults = f }

// SetDown takes etcd off the net for everybody, or brings it back.
func (k *KV) SetDown(down bool) {
	if k.down == down {
		return
	}
	k.w.trace(traceKV, 0, 2, boolBit(down))
	k.tick()
	if k.down = down; down {
		k.downSince = k.w.now
		for _, w := range k.watches {
			w.disconnect()
		}
		return
	}
	k.downTotal += k.w.now.Sub(k.downSince)
	k.store.Restart()
	k.changed()
}

// kvDirection says which messages between a node and etcd are lost.
type kvDirection uint8

const (
	kvRequests kvDirection = 1 << iota
	kvAnswers
)

// Cut loses what the node asks (requests) or what it is answered (answers).
func (k *KV) Cut(n *Node, requests, answers bool) {
	n.kvCut = kvDirection(boolBit(requests))*kvRequests | kvDirection(boolBit(answers))*kvAnswers
	k.w.trace(traceKV, n.index, 3, uint64(n.kvCut))
}

// reaches tells whether a message in that direction gets through.
func (k *KV) reaches(n *Node, d kvDirection) bool {
	return !k.down && n.kvCut&d == 0 && !n.host.isolated && !n.off
}

func (k *KV) delay() time.Duration {
	return k.c.Latency + k.faults.Delay + time.Duration(k.rng.Uint64N(uint64(k.c.Jitter)))
}

func (k *KV) hits(chance float64) bool { return chance > 0 && k.rng.Float64() < chance }

// tick lets etcd's time catch up, which ends leases.
func (k *KV) tick() {
	if !k.down {
		k.store.Tick(k.w.now - env.Instant(k.downTotal))
	}
}

// changed tells the watches and sets the timer for the next expiry.
func (k *KV) changed() {
	for _, w := range k.watches {
		w.poll()
	}
	at, ok := k.store.NextExpiry()
	if at += env.Instant(k.downTotal); ok && !k.down && k.expiryAt != at {
		k.expiryAt = at
		k.w.schedule(at, nil, k, uint64(at))
	}
}

// fire looks at the leases.
func (k *KV) fire(at uint64) {
	if env.Instant(at) != k.expiryAt {
		return
	}
	k.expiryAt = 0
	k.tick()
	k.changed()
}

func (k *KV) processDied(p *process) {
	k.watches = slices.DeleteFunc(k.watches, func(w *kvWatch) bool { return w.p == p })
}

// kvClient is a process's view of etcd; it implements env.KV.
type kvClient struct {
	k *KV
	p *process
}

// kvCall is one request. The first of its answer and its timeout counts.
type kvCall struct {
	k     *KV
	p     *process
	apply func() func() // what etcd does; returns how to tell the caller
	fail  func(error)
	tell  func() // the answer, when it has arrived
	ended bool
}

type (
	kvArrival struct{ *kvCall } // of the request at etcd
	kvReturn  struct{ *kvCall } // of the answer at the node
	kvTell    struct{ *kvCall } // of the answer at the process
	kvExpired struct{ *kvCall }
	kvRefusal struct{ *kvCall }
)

func (c *kvClient) call(timeout time.Duration, sum uint32, fail func(error), apply func() func()) {
	if c.p.dead {
		return
	}
	k, w := c.k, c.k.w
	w.trace(traceKV, c.p.node.index, 4, uint64(sum))
	r := &kvCall{k: k, p: c.p, apply: apply, fail: fail}
	w.schedule(w.now.Add(max(timeout, loopTurnMin)), c.p, kvExpired{r}, 0)
	w.schedule(w.now.Add(k.delay()), nil, kvArrival{r}, 0)
}

func (r kvArrival) fire(uint64) {
	k, w := r.k, r.k.w
	if !k.reaches(r.p.node, kvRequests) || k.hits(k.faults.LoseRequest) {
		return
	}
	refused := k.hits(k.faults.Unavailable)
	if refused {
		w.schedule(w.now.Add(k.delay()), r.p, kvRefusal(r), 0)
	}
	if refused && k.rng.Uint64()&1 == 0 {
		return
	}
	k.tick()
	r.tell = r.apply()
	k.changed()
	if !refused && k.reaches(r.p.node, kvAnswers) && !k.hits(k.faults.LoseAnswer) {
		w.schedule(w.now.Add(k.delay()), nil, kvReturn(r), 0)
	}
}

func (r kvReturn) fire(uint64) {
	if r.k.reaches(r.p.node, kvAnswers) {
		r.k.w.deliver(r.p, kvTell(r), 0)
	}
}

func (r kvTell) fire(uint64) {
	if !r.ended {
		r.ended = true
		r.k.w.trace(traceKV, r.p.node.index, 5, 0)
		r.tell()
	}
}

func (r kvExpired) fire(uint64) {
	if !r.ended {
		r.ended = true
		r.k.w.trace(traceKV, r.p.node.index, 6, 0)
		r.fail(env.ErrKVTimeout)
	}
}

func (r kvRefusal) fire(uint64) {
	if !r.ended {
		r.ended = true
		r.fail(env.ErrKVUnavailable)
	}
}

// Txn implements env.KV.
func (c *kvClient) Txn(t *env.Txn, timeout time.Duration, done func(*env.TxnResponse, error)) {
	sum := uint32(0)
	add := func(b []byte) { sum = crc32.Update(sum, castagnoli, b) }
	own := &env.Txn{If: slices.Clone(t.If), Then: slices.Clone(t.Then), Else: slices.Clone(t.Else)}
	for i := range own.If {
		x := &own.If[i]
		x.Value = bytes.Clone(x.Value)
		add([]byte(x.Key))
		add(x.Value)
	}
	for _, ops := range [][]env.KVOp{own.Then, own.Else} {
		for i := range ops {
			ops[i].Value = bytes.Clone(ops[i].Value)
			add([]byte(ops[i].Key))
			add(ops[i].Value)
		}
	}
	c.call(timeout, sum, func(err error) { done(nil, err) }, func() func() {
		r, err := c.k.store.Apply(own)
		if err != nil {
			return func() { done(nil, err) }
		}
		cloneValues(r)
		return func() { done(r, nil) }
	})
}

// cloneValues keeps callers from changing the store's own memory.
func cloneValues(r *env.TxnResponse) {
	for i := range r.Responses {
		for j := range r.Responses[i].KVs {
			kv := &r.Responses[i].KVs[j]
			kv.Value = bytes.Clone(kv.Value)
		}
	}
}

// Grant implements env.KV.
func (c *kvClient) Grant(ttlSeconds int64, timeout time.Duration, done func(env.LeaseID, error)) {
	c.call(timeout, 1, func(err error) { done(0, err) }, func() func() {
		id, err := c.k.store.Grant(ttlSeconds)
		return func() { done(id, err) }
	})
}

// KeepAlive implements env.KV.
func (c *kvClient) KeepAlive(id env.LeaseID, timeout time.Duration, done func(int64, error)) {
	c.call(timeout, uint32(id), func(err error) { done(0, err) }, func() func() {
		ttl := c.k.store.KeepAlive(id)
		return func() { done(ttl, nil) }
	})
}

// Revoke implements env.KV.
func (c *kvClient) Revoke(id env.LeaseID, timeout time.Duration, done func(error)) {
	c.call(timeout, uint32(id), done, func() func() {
		err := c.k.store.Revoke(id)
		return func() { done(err) }
	})
}

// kvWatch implements env.Watch. Its server side is a cursor (source), its
// client side remembers what was delivered, so that after a break the next
// cursor begins there.
type kvWatch struct {
	k       *KV
	p       *process
	request env.WatchRequest // Start = first revision that was not delivered
	handler func(*env.WatchResponse)

	source   *mem.Watcher // nil while disconnected
	epoch    uint64       // of the connection
	last     env.Instant  // arrival of the latest response, to keep the order
	inbox    []*env.WatchResponse
	queued   bool
	canceled bool
}

// kvResponse is a watch response on its way.
type kvResponse struct {
	w     *kvWatch
	r     *env.WatchResponse
	epoch uint64
}

type (
	kvConnect  struct{ *kvWatch }
	kvProgress struct{ *kvWatch }
)

// Watch implements env.KV. "From now" is the moment of the call, so that no
// change is missed; a real client asks for the current revision first.
func (c *kvClient) Watch(r env.WatchRequest, h func(*env.WatchResponse)) env.Watch {
	w := &kvWatch{k: c.k, p: c.p, request: r, handler: h}
	if c.p.dead {
		return w
	}
	if r.Start == 0 {
		w.request.Start = c.k.store.Revision() + 1
	}
	c.k.watches = append(c.k.watches, w)
	c.k.w.schedule(c.k.w.now.Add(c.k.delay()), nil, kvConnect{w}, w.epoch)
	return w
}

// fire connects, or tries again later.
func (c kvConnect) fire(epoch uint64) {
	w := c.kvWatch
	if w.canceled || w.p.dead || epoch != w.epoch {
		return
	}
	if !w.k.reaches(w.p.node, kvRequests) || !w.k.reaches(w.p.node, kvAnswers) {
		w.k.w.schedule(w.k.w.now.Add(w.k.c.Reconnect), nil, c, epoch)
		return
	}
	w.source = w.k.store.Watch(w.request)
	w.poll()
}

func (w *kvWatch) disconnect() {
	if w.source == nil {
		return
	}
	w.source = nil
	w.epoch++
	w.k.w.schedule(w.k.w.now.Add(w.k.c.Reconnect), nil, kvConnect{w}, w.epoch)
}

// poll sends what has happened.
func (w *kvWatch) poll() {
	k := w.k
	for w.source != nil && !k.down {
		r := w.source.Poll(1 + k.rng.IntN(4))
		if r == nil {
			return
		}
		if !k.reaches(w.p.node, kvAnswers) { // lost on the way out
			w.disconnect()
			return
		}
		w.last = max(w.last, k.w.now.Add(k.delay()))
		k.w.schedule(w.last, nil, &kvResponse{w, r, w.epoch}, 0)
	}
}

// fire is the arrival of a response at the node.
func (a *kvResponse) fire(uint64) {
	w := a.w
	if w.canceled || w.p.dead || a.epoch != w.epoch {
		return
	}
	if !w.k.reaches(w.p.node, kvAnswers) || w.k.hits(w.k.faults.BreakWatch) {
		w.disconnect()
		return
	}
	w.request.Start = max(w.request.Start, a.r.Revision+1)
	if a.r.Err != nil {
		w.source = nil
		w.epoch++
	}
	w.inbox = append(w.inbox, a.r)
	if !w.queued {
		w.queued = true
		w.k.w.deliver(w.p, w, 0)
	}
}

// fire hands over what has arrived.
func (w *kvWatch) fire(uint64) {
	w.queued = false
	for len(w.inbox) > 0 && !w.canceled && !w.p.dead {
		r := w.inbox[0]
		w.inbox = w.inbox[1:]
		w.k.w.trace(traceKV, w.p.node.index, 7, uint64(r.Revision))
		for i := range r.Events {
			r.Events[i].KV.Value = bytes.Clone(r.Events[i].KV.Value)
		}
		w.handler(r)
	}
}

// RequestProgress implements env.Watch.
func (w *kvWatch) RequestProgress() {
	if !w.p.dead {
		w.k.w.schedule(w.k.w.now.Add(w.k.delay()), nil, kvProgress{w}, w.epoch)
	}
}

func (g kvProgress) fire(epoch uint64) {
	w := g.kvWatch
	if w.canceled || epoch != w.epoch || w.source == nil || !w.k.reaches(w.p.node, kvRequests) {
		return
	}
	w.source.RequestProgress()
	w.poll()
}

// Cancel implements env.Watch.
func (w *kvWatch) Cancel() {
	if !w.canceled {
		w.canceled = true
		w.k.watches = slices.DeleteFunc(w.k.watches, func(o *kvWatch) bool { return o == w })
	}
}
