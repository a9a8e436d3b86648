// Package registration is the OSD's presence in etcd: its lease, and the key
// osd/state/N that exists as long as the lease lives (spec osd.md §14, etcd.md
// 2.5).
//
//	grant ──▶ create osd/state/N ──▶ registered ──▶ keepalive every TTL/4
//	              │ exists                             │ no answer
//	              ▼                                    ▼
//	          wait until it vanishes             frozen: MayServe is false,
//	          (a former process of ours),        nothing else; goes on when
//	          else Exists                        etcd answers again
//
// It guarantees that MayServe is true only while the key certainly exists, so
// that no other OSD can be primary of our PGs: the time is counted on our own
// monotonic clock, from the moment at which the last answered keepalive was
// sent. This assumes that clocks run at the same rate as etcd's, with 3 % for
// differences, and that etcd never ends a lease early (it does not: a new
// leader lets all leases live for their full time again). The clock has to count
// the time in which the process is frozen; that of a virtual machine which is
// paused as a whole does not.
//
// A process is never ended by silence of etcd, only by its word that the lease
// is gone: while etcd is down nobody else can take over, and all OSDs go on
// together when it is back.
//
// core.go decides and is pure; this file acts.
//
// Concurrency: everything runs on the loop.
package registration

import (
	"log/slog"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Config says what to announce, and who is told.
type Config struct {
	OSD   meta.OSDNum
	Keys  schema.Keys
	State schema.OSDState
	TTL   time.Duration // etcd_lease_ttl, whole seconds
	// Patience is how long the lease of a former process of this OSD may live
	// on after its death: also that of a reference OSD on the same disk.
	Patience     time.Duration
	QuickTimeout time.Duration // etcd_quick_timeout
	// Leased is told the lease as soon as there is one, and each further one
	// until Registered. May be nil.
	Leased func(env.LeaseID)
	// Registered is called once: the OSD may begin.
	Registered func()
	// Exists is the last call when another process has the OSD's number.
	Exists func(other schema.OSDState)
	// Fatal is the last call when the OSD must stop at once.
	Fatal func(error)
}

// Registration is one OSD's.
type Registration struct {
	env   *env.Env
	c     Config
	core  Core
	timer env.Timer
	other schema.OSDState // who has the key
	seen  int64           // revision at which it had
	watch env.Watch
	done  func()

	failing bool // the last refresh had no answer
}

// New makes a registration; nothing happens before Start.
func New(e *env.Env, c Config) *Registration {
	if c.Leased == nil {
		c.Leased = func(env.LeaseID) {}
	}
	if e.Log == nil {
		copied := *e
		copied.Log, e = slog.New(slog.DiscardHandler), &copied
	}
	r := &Registration{env: e, c: c, core: Core{TTL: c.TTL, Patience: c.Patience}}
	r.timer.Fire = func() { r.do(r.core.Fire(r.now())) }
	return r
}

// Start begins. Everything else follows in callbacks.
func (r *Registration) Start() { r.do(r.core.Begin()) }

// MayServe tells whether the OSD is certainly registered at this very moment.
func (r *Registration) MayServe() bool { return r.core.MayServe(r.now()) }

// Lease is the present lease, 0 if there is none.
func (r *Registration) Lease() env.LeaseID { return r.core.Lease }

// Lost is to be called when a watch shows that the key is not there any more.
func (r *Registration) Lost() { r.do(r.core.Lost()) }

// Stop revokes the lease: all keys of this OSD that depend on it vanish. done
// is called when that is done, or has failed, in which case they vanish later.
func (r *Registration) Stop(done func()) {
	r.done = done
	r.do(r.core.Stop())
}

// now is precise: after a freeze of the process, no operation may slip through
// with the time of before.
func (r *Registration) now() env.Instant { return env.PreciseNow(r.env.Clock) }

func (r *Registration) do(list []Action) {
	for _, a := range list {
		r.act(a)
	}
	if at := r.core.Deadline(); at == 0 {
		r.env.Clock.Disarm(&r.timer)
	} else {
		r.env.Clock.Arm(&r.timer, at.Sub(r.env.Clock.Now()))
	}
}

func (r *Registration) act(a Action) {
	switch a {
	case Grant:
		r.grant()
	case Create:
		r.create()
	case KeepAlive:
		r.keepAlive()
	case WatchKey:
		r.watchKey()
	case Revoke:
		r.unwatch()
		r.env.KV.Revoke(r.core.Lease, r.c.QuickTimeout, func(error) { r.do(r.core.Revoked()) })
	case Leased:
		r.c.Leased(r.core.Lease)
	case Register:
		r.env.Log.Info("registered in etcd", "osd", r.c.OSD, "lease", r.core.Lease, "ttl", r.c.TTL)
		r.c.Registered()
	case Freeze:
		r.env.Log.Warn("no answer from etcd for so long that the lease may have expired: clients are not served until it answers",
			"osd", r.c.OSD, "ttl", r.c.TTL)
	case Thaw:
		r.env.Log.Info("etcd answers, the lease is alive: clients are served again", "osd", r.c.OSD)
	case Exists:
		r.unwatch()
		r.c.Exists(r.other)
	case Fail:
		r.unwatch()
		r.c.Fatal(r.core.Err)
	case End:
		r.unwatch()
		if done := r.done; done != nil {
			r.done = nil
			done()
		}
	}
}

func (r *Registration) grant() {
	sent := r.now()
	r.env.KV.Grant(int64(r.c.TTL/time.Second), r.c.QuickTimeout, func(id env.LeaseID, err error) {
		if err != nil {
			r.env.Log.Warn("cannot get a lease from etcd, trying again", "osd", r.c.OSD, "err", err)
		}
		r.do(r.core.Granted(sent, r.now(), id, err))
	})
}

func (r *Registration) create() {
	lease := r.core.Lease
	t := r.c.Keys.CreateOSDState(r.c.OSD, &r.c.State, lease)
	r.env.KV.Txn(&t, r.c.QuickTimeout, func(answer *env.TxnResponse, err error) {
		if lease != r.core.Lease {
			return // of a lease that is gone, and its key with it
		}
		if err != nil {
			r.env.Log.Warn("cannot announce this OSD in etcd", "osd", r.c.OSD, "err", err)
		}
		holder := lease
		if err == nil && !answer.Succeeded {
			holder = r.noteOther(answer)
		}
		r.do(r.core.Created(r.now(), holder, err))
	})
}

// noteOther remembers who has the key.
func (r *Registration) noteOther(answer *env.TxnResponse) env.LeaseID {
	r.seen = answer.Revision
	if len(answer.Responses) == 0 || len(answer.Responses[0].KVs) == 0 {
		return 0 // impossible: the key exists
	}
	kv := &answer.Responses[0].KVs[0]
	if kv.Lease != r.core.Lease {
		// What cannot be read only lacks in the message.
		r.other, _ = schema.DecodeOSDState(kv.Key, kv.Value)
		r.env.Log.Warn("this OSD is registered already: waiting for the key of its former process to vanish", "osd", r.c.OSD,
			"key", kv.Key, "host", r.other.Host, "addresses", r.other.Addresses, "port", r.other.Port, "at_most", r.c.Patience)
	}
	return kv.Lease
}

func (r *Registration) keepAlive() {
	sent, id := r.now(), r.core.Lease
	// Longer than the time between two, so that a slow answer counts, but
	// short enough to notice a dead etcd member before the lease ends.
	timeout := r.c.TTL * 3 / 8
	r.env.KV.KeepAlive(id, timeout, func(ttl int64, err error) {
		if err != nil && !r.failing { // once is enough: Freeze follows if it stays so
			r.env.Log.Warn("cannot refresh the lease, trying again", "osd", r.c.OSD, "err", err)
		}
		r.failing = err != nil
		r.do(r.core.Refreshed(sent, id, time.Duration(ttl)*time.Second, err))
	})
}

// watchKey waits for the deletion of somebody else's key.
func (r *Registration) watchKey() {
	r.unwatch()
	var w env.Watch
	w = r.env.KV.Watch(env.WatchRequest{Key: r.c.Keys.OSDState(r.c.OSD), Start: r.seen + 1}, func(answer *env.WatchResponse) {
		if w != r.watch {
			return
		}
		if answer.Err != nil || len(answer.Events) > 0 {
			r.unwatch()
			r.do(r.core.Gone()) // or changed: Create finds out
		}
	})
	r.watch = w
}

func (r *Registration) unwatch() {
	if r.watch != nil {
		r.watch.Cancel()
		r.watch = nil
	}
}
