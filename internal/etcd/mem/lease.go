package mem

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"vitastor/internal/env"
)

// lease is a granted lease and the keys that die with it.
type lease struct {
	ttl     time.Duration
	expires env.Instant
	keys    map[string]bool
}

// firstLease is as large as the ids of real servers: larger than what a
// float64 (JSON in some languages) can hold exactly.
const firstLease env.LeaseID = 7_587_893_107_654_321_001

// MaxLeaseSeconds is the longest lease that etcd grants.
const MaxLeaseSeconds = 9_000_000_000

// Tick says what time it is. Leases that have expired are revoked in the order
// of their expiry, each in a revision of its own, like etcd does. Time never
// runs backwards.
func (s *Store) Tick(now env.Instant) {
	s.now = max(s.now, now)
	for {
		id, at, ok := s.nextExpiry()
		if !ok || at > s.now {
			return
		}
		s.drop(id)
	}
}

// NextExpiry tells when Tick will have something to do, if nothing else
// happens before.
func (s *Store) NextExpiry() (at env.Instant, ok bool) {
	_, at, ok = s.nextExpiry()
	return at, ok
}

func (s *Store) nextExpiry() (id env.LeaseID, at env.Instant, ok bool) {
	for i, l := range s.leases {
		if !ok || cmp.Or(cmp.Compare(l.expires, at), cmp.Compare(i, id)) < 0 {
			id, at, ok = i, l.expires, true
		}
	}
	return id, at, ok
}

// Grant makes a lease that lives for ttlSeconds after the last Tick.
func (s *Store) Grant(ttlSeconds int64) (env.LeaseID, error) {
	if ttlSeconds > MaxLeaseSeconds {
		return 0, env.ErrKVInvalid
	}
	// Durations end at 292 years; the lease does not live to see it.
	seconds := min(max(ttlSeconds, s.limits.MinLeaseSeconds), math.MaxInt64/4/int64(time.Second))
	ttl := time.Duration(seconds) * time.Second
	s.lastLease++
	s.leases[s.lastLease] = &lease{ttl: ttl, expires: s.now.Add(ttl), keys: map[string]bool{}}
	return s.lastLease, nil
}

// KeepAlive lets the lease live for its full time again. It returns that time
// in seconds, or 0 when there is no such lease.
func (s *Store) KeepAlive(id env.LeaseID) int64 {
	l := s.leases[id]
	if l == nil {
		return 0
	}
	l.expires = s.now.Add(l.ttl)
	return int64(l.ttl / time.Second)
}

// Revoke ends a lease: its keys are deleted in one revision.
func (s *Store) Revoke(id env.LeaseID) error {
	if s.leases[id] == nil {
		return env.ErrKVNoLease
	}
	s.drop(id)
	return nil
}

// Restart does to leases what a restart or a new leader does: all of them
// live for their full time again, because the remaining time is not stored.
func (s *Store) Restart() {
	for _, l := range s.leases {
		l.expires = s.now.Add(l.ttl)
	}
}

func (s *Store) drop(id env.LeaseID) {
	keys := slices.Sorted(maps.Keys(s.leases[id].keys))
	if len(keys) > 0 {
		s.revision++
	}
	for _, key := range keys {
		s.remove(key, s.revision)
	}
	delete(s.leases, id)
}

func (s *Store) detach(kv *env.KeyValue) {
	if l := s.leases[kv.Lease]; l != nil {
		delete(l.keys, kv.Key)
	}
}

// Leases lists the leases that live, ascending.
func (s *Store) Leases() []env.LeaseID { return slices.Sorted(maps.Keys(s.leases)) }
