package registration

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// Action is something that the acting part has to do.
type Action uint8

const (
	Grant     Action = iota // ask for a lease
	Create                  // put the key with Core.Lease, if it does not exist
	KeepAlive               // refresh Core.Lease once
	WatchKey                // tell Gone when the key of somebody else vanishes
	Revoke                  // end Core.Lease
	Leased                  // Core.Lease is new
	Register                // the key is ours: begin to work
	Freeze                  // the lease may have expired; for the log
	Thaw                    // it has not; for the log
	Exists                  // somebody else has the key and keeps it: the end
	Fail                    // Core.Err: the end
	End                     // Stop is done
)

type phase uint8

const (
	idle       phase = iota
	granting         // no lease
	creating         // the key is being created
	waiting          // for the key of a former process
	registered       // the key is ours until etcd says otherwise
	stopping
	ended
)

// Core decides; pure. Times are of one clock that runs at most maxDrift slower
// than etcd's. Each method returns what to do next, in order.
type Core struct {
	TTL      time.Duration // of the lease
	Patience time.Duration // how long the key of a dead process may stay

	Lease env.LeaseID
	Err   error // with Fail

	phase     phase
	until     env.Instant // the lease certainly lives so long
	refreshAt env.Instant // next KeepAlive; 0 = none
	retryAt   env.Instant // again what failed; 0 = nothing did
	giveUpAt  env.Instant // for waiting; 0 = never waited
	frozen    bool
	requested bool // a grant is in flight
}

// Fractions of the lease time.
const (
	refreshes = 4  // in a lease time
	retries   = 8  // in a lease time
	maxDrift  = 32 // our clock may be slower than etcd's by one part in this many
)

// Begin is the first event.
func (c *Core) Begin() []Action { return c.grant() }

func (c *Core) grant() []Action {
	c.phase, c.Lease, c.until, c.refreshAt, c.retryAt = granting, 0, 0, 0, 0
	c.requested = true
	return []Action{Grant}
}

// Granted is the answer to Grant, which was sent at sent.
func (c *Core) Granted(sent, now env.Instant, id env.LeaseID, err error) []Action {
	c.requested = false
	switch {
	case c.phase == stopping && err == nil: // nobody needs it any more
		c.Lease = id
		return []Action{Revoke}
	case c.phase == stopping:
		return c.end()
	case final(err):
		return c.fail(fmt.Errorf("cannot get a lease: %w", err))
	case err != nil:
		c.retryAt = now.Add(c.TTL / retries)
		return nil
	}
	c.phase, c.Lease = creating, id
	c.extend(sent, c.TTL)
	c.refreshAt = sent.Add(c.TTL / refreshes)
	return []Action{Leased, Create}
}

// extend: a lease that was refreshed after sent lives until sent + ttl by
// etcd's clock.
func (c *Core) extend(sent env.Instant, ttl time.Duration) {
	ttl = min(ttl, c.TTL)
	c.until = max(c.until, sent.Add(ttl-ttl/maxDrift))
}

// Created is the answer to Create: taken with lease holder, which is ours if
// the key was created, now or by an earlier request.
func (c *Core) Created(now env.Instant, holder env.LeaseID, err error) []Action {
	switch {
	case c.phase != creating:
		return nil
	case errors.Is(err, env.ErrKVNoLease):
		return c.grant()
	case final(err):
		return c.fail(fmt.Errorf("cannot announce this OSD: %w", err))
	case err != nil: // perhaps it was created: the next answer tells
		c.retryAt = now.Add(c.TTL / retries)
		return nil
	case holder == c.Lease:
		c.phase, c.retryAt = registered, 0
		return []Action{Register}
	}
	invariant.Sometimes("registration: the key of another process is there")
	c.phase = waiting
	if c.giveUpAt == 0 {
		c.giveUpAt = now.Add(c.Patience)
	}
	return []Action{WatchKey}
}

// Gone: the key of the other process has vanished, or it is not known any more
// whether it is there.
func (c *Core) Gone() []Action {
	if c.phase != waiting {
		return nil
	}
	c.phase = creating
	return []Action{Create}
}

// Refreshed is the answer to a KeepAlive of lease id that was sent at sent.
func (c *Core) Refreshed(sent env.Instant, id env.LeaseID, ttl time.Duration, err error) []Action {
	switch {
	case id != c.Lease || c.phase == stopping || c.phase == ended || err != nil:
		return nil // failures do not matter until the time is over
	case ttl > 0:
		c.extend(sent, ttl)
		if c.frozen {
			c.frozen = false
			return []Action{Thaw}
		}
		return nil
	case c.phase == registered:
		return c.fail(fmt.Errorf("etcd says that the lease has expired: this OSD was frozen or cut off from etcd for more than "+
			"%v (etcd_lease_ttl), and other OSDs may have taken over; it has to start again", c.TTL))
	}
	return c.grant()
}

// Lost: etcd shows that the key does not exist, or is not ours.
func (c *Core) Lost() []Action {
	if c.phase != registered {
		return nil
	}
	return c.fail(errors.New("the key of this OSD in etcd (osd/state) was removed: " +
		"by an administrator, or because its lease has expired; it has to start again"))
}

// Fire is called when Deadline has come.
func (c *Core) Fire(now env.Instant) (do []Action) {
	due := func(at *env.Instant) bool {
		is := *at != 0 && now >= *at
		if is {
			*at = 0
		}
		return is
	}
	if due(&c.retryAt) {
		if c.phase == granting {
			c.requested = true
			do = append(do, Grant)
		} else {
			do = append(do, Create)
		}
	}
	if due(&c.refreshAt) {
		c.refreshAt = now.Add(c.TTL / refreshes)
		do = append(do, KeepAlive)
	}
	if c.phase == registered && !c.frozen && now >= c.until {
		invariant.Sometimes("registration: frozen")
		c.frozen = true
		do = append(do, Freeze)
	}
	if c.phase == waiting && now >= c.giveUpAt {
		c.close()
		do = []Action{Exists, Revoke}
	}
	return do
}

// Deadline is when Fire has to be called next; 0 = not at all.
func (c *Core) Deadline() env.Instant {
	at := []env.Instant{c.retryAt, c.refreshAt}
	if c.phase == registered && !c.frozen {
		at = append(at, c.until)
	}
	if c.phase == waiting {
		at = append(at, c.giveUpAt)
	}
	at = slices.DeleteFunc(at, func(t env.Instant) bool { return t == 0 })
	if len(at) == 0 {
		return 0
	}
	return slices.Min(at)
}

// MayServe tells whether the key is certainly there, so that nobody can have
// taken over.
func (c *Core) MayServe(now env.Instant) bool { return c.phase == registered && now < c.until }

// Stop gives everything up.
func (c *Core) Stop() []Action {
	switch c.phase {
	case stopping: // Revoke is under way
		return nil
	case ended:
		return []Action{End}
	}
	c.close()
	switch {
	case c.Lease != 0:
		return []Action{Revoke}
	case c.requested:
		return nil // it will be revoked
	}
	return c.end()
}

// Revoked is the answer to Revoke, whatever it was.
func (c *Core) Revoked() []Action {
	if c.phase != stopping {
		return nil
	}
	return c.end()
}

func (c *Core) end() []Action {
	c.phase = ended
	return []Action{End}
}

func (c *Core) fail(err error) []Action {
	c.close()
	c.phase, c.Err = ended, err
	return []Action{Fail}
}

// close ends all timers.
func (c *Core) close() { c.phase, c.refreshAt, c.retryAt = stopping, 0, 0 }

// final tells that trying again will not help.
func final(err error) bool {
	return errors.Is(err, env.ErrKVTooLarge) || errors.Is(err, env.ErrKVInvalid)
}
