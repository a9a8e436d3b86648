package kvtest

import (
	"errors"
	"fmt"
	"time"

	"vitastor/internal/env"
)

func (s *suite) grant(seconds int64) (id env.LeaseID) {
	s.Helper()
	ended := false
	s.kv.Grant(seconds, timeout, func(got env.LeaseID, err error) {
		if err != nil || got == 0 {
			s.Errorf("grant: %d, %v", got, err)
		}
		id, ended = got, true
	})
	s.loop.Until(s, "the grant of a lease", func() bool { return ended })
	return id
}

func (s *suite) keepAlive(id env.LeaseID, timeout time.Duration) (ttl int64, err error) {
	s.Helper()
	ended := false
	s.kv.KeepAlive(id, timeout, func(got int64, e error) { ttl, err, ended = got, e, true })
	s.loop.Until(s, "the end of a keepalive", func() bool { return ended })
	return ttl, err
}

func (s *suite) revoke(id env.LeaseID) (err error) {
	s.Helper()
	ended := false
	s.kv.Revoke(id, timeout, func(e error) { err, ended = e, true })
	s.loop.Until(s, "the end of a revocation", func() bool { return ended })
	return err
}

// opLeased puts key with a lease.
func (s *suite) opLeased(key string, id env.LeaseID) env.KVOp {
	op := s.opPut(key, "leased")
	op.Lease = id
	return op
}

func (s *suite) leaseExpires() {
	const seconds = 2
	id := s.grant(seconds)
	r := s.do(s.opLeased("b", id), s.opLeased("a", id), s.opLeased("freed", id), s.opPut("free", ""))
	s.do(s.opPut("freed", ""))
	w := s.watch(r.Revision + 2)
	for range 3 { // longer than it would live alone
		s.loop.Sleep(seconds * time.Second / 2)
		if ttl, err := s.keepAlive(id, timeout); err != nil || ttl != seconds {
			s.Fatalf("keepalive: %d, %v", ttl, err)
		}
	}
	kept := s.loop.Now()
	s.loop.Until(s, "the expiry", func() bool { return len(w.responses) > 0 })
	if lived := s.loop.Now().Sub(kept); lived < (seconds-1)*time.Second || lived > 3*seconds*time.Second {
		s.Errorf("the lease of %d s lived %v", seconds, lived)
	}
	// All keys die in one revision.
	w.expect(s, fmt.Sprintf("a@%[1]d- b@%[1]d-", w.responses[0].Revision))
	if r := s.do(s.all()); len(r.Responses[0].KVs) != 2 {
		s.Errorf("left: %v", Keys(r.Responses[0].KVs))
	}
	if ttl, err := s.keepAlive(id, timeout); ttl != 0 || err != nil {
		s.Errorf("keepalive of an expired lease: %d, %v", ttl, err)
	}
}

func (s *suite) leaseRevoked() {
	id := s.grant(60)
	r := s.do(s.opLeased("a", id))
	w := s.watch(r.Revision + 1)
	if err := s.revoke(id); err != nil {
		s.Fatal(err)
	}
	s.loop.Until(s, "the deletion", func() bool { return len(w.responses) > 0 })
	w.expect(s, fmt.Sprintf("a@%d-", r.Revision+1))
	if err := s.revoke(id); !errors.Is(err, env.ErrKVNoLease) {
		s.Errorf("second revocation: %v", err)
	}
	if r := s.do(s.opPut("a", "")); !r.Succeeded {
		s.Error("the key is not free")
	}
}
