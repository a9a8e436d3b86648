// Package election makes one of several monitors the master (spec etcd.md 2.10,
// monitor.md §1): it holds a lease, announces the monitor under mon/member, and
// takes mon/master when nobody has it.
//
// Guarantee: Elected is called only while mon/master is bound to the given
// lease, and every Elected is followed by at most one Lost. That a monitor
// learns of its loss late is harmless: every transaction of a master carries
// schema.Keys.MasterGuard, which etcd checks.
//
// While etcd does not answer nothing is given up: the lease may well live, and
// if it does not, etcd says so. Certain tells whether it surely lives.
//
// Concurrency: everything runs on the loop of its Env, callbacks included.
//
//	grant lease -> put mon/member -> campaign --> master --> lost: from the start
//	                                  ^    |
//	                                  |    v
//	                                 standby: watches mon/master, and polls
package election

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema"
)

// Timing are the time limits, with the options they come from.
type Timing struct {
	Lease   time.Duration // etcd_lease_ttl: life time of the lease; 0 = by the others
	Refresh time.Duration // etcd_mon_ttl: between refreshes of the lease
	Request time.Duration // etcd_mon_timeout: for a request, and before it is repeated
	Retries int           // etcd_mon_retries: failures that the lease outlives
	Poll    time.Duration // etcd_start_timeout: between attempts to become the master
}

// TTL is the time to live of the lease, in whole seconds.
func (t Timing) TTL() int64 {
	ttl := t.Lease
	if ttl == 0 {
		ttl = t.Refresh + t.Request*time.Duration(t.Retries)
	}
	return max(1, int64((ttl+time.Second-1)/time.Second))
}

// Config says who takes part. Elected, Lost and Standby are called on the loop.
type Config struct {
	Env  *env.Env
	Keys schema.Keys
	Self schema.Monitor // IPs and Hostname
	Timing
	// Elected: this monitor is the master now, guarded by the lease.
	Elected func(lease env.LeaseID)
	// Lost: it is not any more. The election goes on by itself.
	Lost func(error)
}

// ErrLease is a reason of Lost.
var ErrLease = errors.New("the lease has expired: etcd was not reachable for too long, or this process did not run")

type phase uint8

const (
	off phase = iota
	granting
	joining
	standby
	master
)

// Election is one monitor's part in it.
type Election struct {
	Config
	log     *slog.Logger
	phase   phase
	turn    int // answers to requests of earlier turns are ignored
	lease   env.LeaseID
	renewed env.Instant // when the last successful refresh was sent
	ttl     int64       // of the lease, seconds
	asking  bool        // a campaign transaction is in flight
	again   bool        // the master went away meanwhile
	next    env.Timer   // the next step after a pause
	refresh env.Timer
	watch   env.Watch // of mon/master, on standby
}

// New makes an election; nothing happens before Start.
func New(c Config) *Election {
	e := &Election{Config: c, log: c.Env.Log}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.refresh.Fire = e.keepAlive
	return e
}

// Start takes part from now on.
func (e *Election) Start() { e.begin() }

// SetTiming changes the time limits; the lease keeps its TTL until the next
// election.
func (e *Election) SetTiming(t Timing) { e.Timing = t }

// Master tells whether this monitor was elected and has not learned of a loss.
func (e *Election) Master() bool { return e.phase == master }

// Certain tells whether this monitor is the master, and nobody else can be.
func (e *Election) Certain() bool {
	return e.phase == master && e.Env.Clock.Now() < e.renewed.Add(time.Duration(e.ttl)*time.Second)
}

// Lease is this monitor's lease, 0 = none. Its decimal form is the member id.
func (e *Election) Lease() env.LeaseID { return e.lease }

// Resign gives up being the master, because it cannot work as one, and takes
// part again after a pause. Lost is not called.
func (e *Election) Resign() {
	lease := e.end()
	if lease != 0 {
		e.Env.KV.Revoke(lease, e.Request, func(error) {})
	}
	e.after(e.Request, e.begin)
}

// Stop ends it: the keys disappear at once if etcd can be reached. done may be
// nil.
func (e *Election) Stop(done func()) {
	lease := e.end()
	e.phase = off
	if lease == 0 {
		if done != nil {
			done()
		}
		return
	}
	e.Env.KV.Revoke(lease, e.Request, func(err error) {
		if err != nil {
			e.log.Warn("cannot revoke the lease, it will expire", "err", err)
		}
		if done != nil {
			done()
		}
	})
}

// end forgets everything and returns the lease that was held.
func (e *Election) end() env.LeaseID {
	lease := e.lease
	e.turn++
	e.lease, e.asking, e.again = 0, false, false
	e.Env.Clock.Disarm(&e.next)
	e.Env.Clock.Disarm(&e.refresh)
	e.unwatch()
	return lease
}

// lose starts again after the lease is gone.
func (e *Election) lose(err error) {
	was := e.phase
	e.end()
	e.begin()
	if was == master {
		e.log.Error("not the master any more", "err", err)
		e.Lost(err)
	}
}

func (e *Election) after(d time.Duration, f func()) {
	e.next.Fire = f
	e.Env.Clock.Arm(&e.next, d)
}

// current makes a callback that is ignored after the turn has ended.
func (e *Election) current() func() bool {
	turn := e.turn
	return func() bool { return turn == e.turn }
}

func (e *Election) begin() {
	e.phase = granting
	current := e.current()
	sent, ttl := e.Env.Clock.Now(), e.TTL()
	e.Env.KV.Grant(ttl, e.Poll, func(id env.LeaseID, err error) {
		switch {
		case !current():
			if err == nil {
				e.Env.KV.Revoke(id, e.Request, func(error) {})
			}
		case err != nil:
			e.log.Warn("cannot get a lease from etcd, trying again", "err", err)
			e.after(e.Request, e.begin)
		default:
			e.lease, e.renewed, e.ttl = id, sent, ttl
			e.Env.Clock.Arm(&e.refresh, e.Refresh)
			e.join()
		}
	})
}

// id is what mon/member and mon/master call this monitor.
func (e *Election) id() string { return strconv.FormatInt(int64(e.lease), 10) }

func (e *Election) join() {
	e.phase = joining
	current := e.current()
	txn := e.Keys.PutMonMember(&e.Self, e.id(), e.lease)
	e.Env.KV.Txn(&txn, e.Poll, func(_ *env.TxnResponse, err error) {
		switch {
		case !current():
		case errors.Is(err, env.ErrKVNoLease):
			e.lose(ErrLease)
		case err != nil:
			e.log.Warn("cannot announce this monitor, trying again", "err", err)
			e.after(e.Request, e.join)
		default:
			e.phase = standby
			e.campaign()
		}
	})
}

// campaign tries to become the master.
func (e *Election) campaign() {
	if e.asking {
		e.again = true
		return
	}
	e.asking, e.again = true, false
	e.after(e.Poll, e.campaign)
	current := e.current()
	self := e.Self
	self.ID = e.id()
	txn := e.Keys.BecomeMaster(&self, e.lease)
	e.Env.KV.Txn(&txn, e.Poll, func(r *env.TxnResponse, err error) {
		if !current() {
			return
		}
		e.asking = false
		switch {
		case errors.Is(err, env.ErrKVNoLease):
			e.lose(ErrLease)
		case err != nil:
			e.log.Warn("cannot take part in the election, trying again", "err", err)
			e.after(e.Request, e.campaign)
		case r.Succeeded || e.ours(r):
			e.win()
		case e.again:
			e.campaign()
		default:
			e.stand(r)
		}
	})
}

// ours tells whether an earlier attempt has succeeded whose answer was lost.
func (e *Election) ours(r *env.TxnResponse) bool {
	for _, kv := range r.Responses[0].KVs {
		return kv.Lease == e.lease
	}
	return false
}

func (e *Election) win() {
	e.phase = master
	e.Env.Clock.Disarm(&e.next)
	e.unwatch()
	e.log.Info("this monitor is the master now", "id", e.id())
	e.Elected(e.lease)
}

// stand waits for the end of the present master. The watch makes it short,
// polling makes it sure.
func (e *Election) stand(r *env.TxnResponse) {
	if e.watch != nil {
		return
	}
	for _, kv := range r.Responses[0].KVs {
		m, err := schema.DecodeMonitor(kv.Key, kv.Value)
		e.log.Info("on standby", "master", m.Hostname, "id", m.ID, "err", err)
	}
	current := e.current()
	e.watch = e.Env.KV.Watch(env.WatchRequest{Key: e.Keys.MonMaster(), Start: r.Revision + 1}, func(w *env.WatchResponse) {
		switch {
		case !current():
		case w.Err != nil:
			e.unwatch()
		case len(w.Events) > 0 && w.Events[len(w.Events)-1].Deleted:
			e.campaign()
		}
	})
}

func (e *Election) unwatch() {
	if e.watch != nil {
		e.watch.Cancel()
		e.watch = nil
	}
}

// keepAlive refreshes the lease.
func (e *Election) keepAlive() {
	current := e.current()
	sent := e.Env.Clock.Now()
	e.Env.KV.KeepAlive(e.lease, e.Request, func(ttl int64, err error) {
		switch {
		case !current():
		case errors.Is(err, env.ErrKVNoLease) || err == nil && ttl == 0:
			e.lose(ErrLease)
		case err != nil:
			e.log.Warn("cannot refresh the lease, trying again", "err", err, "since", fmt.Sprint(sent.Sub(e.renewed)))
			e.Env.Clock.Arm(&e.refresh, e.Request)
		default:
			e.renewed = sent
			e.Env.Clock.Arm(&e.refresh, e.Refresh-e.Env.Clock.Now().Sub(sent))
		}
	})
}
