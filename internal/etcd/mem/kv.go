package mem

import (
	"fmt"
	"slices"
	"time"

	"vitastor/internal/env"
)

// KV is an env.KV on a Store that answers at once: the callback runs in the
// next turn of the loop. Everybody who shares the Store has to share the KV.
type KV struct {
	store   *Store
	clock   env.Clock
	exec    env.Exec
	down    bool
	watches []*watch
	expiry  env.Timer
	ready   []func()
	deliver env.Task
}

var _ env.KV = (*KV)(nil)

// NewKV makes a KV on s. All calls belong on the loop of clock and exec.
func NewKV(s *Store, clock env.Clock, exec env.Exec) *KV {
	k := &KV{store: s, clock: clock, exec: exec}
	k.deliver.Run = k.runReady
	k.expiry.Fire = k.Touch
	s.Tick(clock.Now())
	return k
}

// SetDown takes the server off the net, or brings it back. Meanwhile requests
// end with ErrKVTimeout and have no effect, and watches are silent; leases
// still expire.
func (k *KV) SetDown(down bool) {
	k.down = down
	if !down {
		for _, w := range k.watches {
			w.connect()
		}
	}
	k.Touch()
}

// Txn is env.KV.Txn.
func (k *KV) Txn(t *env.Txn, timeout time.Duration, done func(*env.TxnResponse, error)) {
	if k.lost(timeout, func(err error) { done(nil, err) }) {
		return
	}
	r, err := k.store.Apply(t)
	k.answer(func() { done(r, err) })
}

// Grant is env.KV.Grant.
func (k *KV) Grant(ttlSeconds int64, timeout time.Duration, done func(env.LeaseID, error)) {
	if k.lost(timeout, func(err error) { done(0, err) }) {
		return
	}
	id, err := k.store.Grant(ttlSeconds)
	k.answer(func() { done(id, err) })
}

// KeepAlive is env.KV.KeepAlive.
func (k *KV) KeepAlive(id env.LeaseID, timeout time.Duration, done func(int64, error)) {
	if k.lost(timeout, func(err error) { done(0, err) }) {
		return
	}
	ttl := k.store.KeepAlive(id)
	k.answer(func() { done(ttl, nil) })
}

// Revoke is env.KV.Revoke.
func (k *KV) Revoke(id env.LeaseID, timeout time.Duration, done func(error)) {
	if k.lost(timeout, done) {
		return
	}
	err := k.store.Revoke(id)
	k.answer(func() { done(err) })
}

// Watch is env.KV.Watch.
func (k *KV) Watch(r env.WatchRequest, h func(*env.WatchResponse)) env.Watch {
	w := &watch{kv: k, request: r, handler: h}
	if r.Start == 0 {
		w.request.Start = k.store.Revision() + 1
	}
	w.connect()
	k.watches = append(k.watches, w)
	k.Touch()
	return w
}

// lost answers a request with a timeout if the server is down. Otherwise it
// brings the store's time up to date.
func (k *KV) lost(timeout time.Duration, done func(error)) bool {
	k.store.Tick(k.clock.Now())
	if k.down {
		k.clock.Arm(&env.Timer{Fire: func() {
			done(fmt.Errorf("etcd model is down: %w", env.ErrKVTimeout))
		}}, timeout)
	}
	return k.down
}

// answer queues the callback of a request, then what the request made of
// watches and leases.
func (k *KV) answer(done func()) {
	k.ready = append(k.ready, done)
	k.Touch()
}

// Touch delivers what has happened in the store, and sets the timer for the next
// expiry. It is needed only after changes of the store that bypass the KV.
func (k *KV) Touch() {
	k.store.Tick(k.clock.Now())
	if !k.down {
		for _, w := range k.watches {
			w.poll()
		}
	}
	if at, ok := k.store.NextExpiry(); ok {
		k.clock.Arm(&k.expiry, at.Sub(k.clock.Now()))
	} else {
		k.clock.Disarm(&k.expiry)
	}
	if len(k.ready) > 0 {
		k.exec.Defer(&k.deliver)
	}
}

func (k *KV) runReady() {
	ready := k.ready
	k.ready = nil
	for _, f := range ready {
		f()
	}
}

// watch is a Watcher that is replaced by a new one after each interruption.
type watch struct {
	kv       *KV
	request  env.WatchRequest // Start moves with what was delivered
	handler  func(*env.WatchResponse)
	watcher  *Watcher
	ended    bool // the last response is on its way
	canceled bool
}

func (w *watch) connect() { w.watcher = w.kv.store.Watch(w.request) }

func (w *watch) poll() {
	for r := w.watcher.Poll(0); r != nil && !w.ended; r = w.watcher.Poll(0) {
		w.ended = r.Err != nil
		w.request.Start = max(w.request.Start, r.Revision+1)
		w.kv.ready = append(w.kv.ready, func() {
			if !w.canceled {
				w.handler(r)
			}
		})
	}
}

// RequestProgress is env.Watch.RequestProgress.
func (w *watch) RequestProgress() {
	if !w.kv.down {
		w.watcher.RequestProgress()
		w.kv.Touch()
	}
}

// Cancel is env.Watch.Cancel.
func (w *watch) Cancel() {
	w.canceled = true
	w.kv.watches = slices.DeleteFunc(w.kv.watches, func(x *watch) bool { return x == w })
}
