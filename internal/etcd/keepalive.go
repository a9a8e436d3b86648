package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"vitastor/internal/env"
)

// keeper sends all refreshes of leases over one stream that stays open.
//
// An etcd that is told to stop waits up to 7 seconds for open streams (watches)
// to end. Meanwhile it refuses everything new but lets leases expire, and tells
// the watches so. Who has a stream for refreshes already is still served: a
// restart of an etcd with one member does not end all OSDs.
type keeper struct {
	mu     sync.Mutex
	stream *leaseStream // nil = none, or it is broken
}

// leaseStream is an open stream to one member.
type leaseStream struct {
	pb.Lease_LeaseKeepAliveClient
	member int
	cancel context.CancelFunc
	ended  chan struct{} // closed when err is set
	err    error

	mu      sync.Mutex // of Send and waiting
	waiting map[int64][]chan int64
}

// KeepAlive is env.KV.KeepAlive.
func (k *KV) KeepAlive(id env.LeaseID, timeout time.Duration, done func(int64, error)) {
	if k.closed {
		return
	}
	k.running.Go(func() {
		ctx, cancel := context.WithTimeout(k.ctx, timeout)
		defer cancel()
		ttl, err := k.refresh(ctx, id, timeout)
		k.post(func() { done(ttl, err) })
	})
}

// refresh uses the open stream, and makes a new one if that does not answer
// within half of the time.
func (k *KV) refresh(ctx context.Context, id env.LeaseID, timeout time.Duration) (ttl int64, err error) {
	if s := k.keeper.open(); s != nil {
		half, cancel := context.WithTimeout(ctx, timeout/2)
		defer cancel()
		if ttl, err = s.refresh(half, int64(id)); err == nil {
			return ttl, nil
		}
		k.keeper.drop(s)
		k.members.failed(s.member, err)
	}
	err = k.members.try(ctx, true, func(c call) (err error) {
		s, err := k.newStream(c)
		if err != nil {
			return err
		}
		if ttl, err = s.refresh(c.ctx, int64(id)); err != nil {
			k.keeper.drop(s)
			return err
		}
		k.keeper.keep(s)
		return nil
	})
	return ttl, err
}

// newStream opens a stream that lives as long as the KV, unless it is dropped.
func (k *KV) newStream(c call) (*leaseStream, error) {
	ctx, cancel := context.WithCancel(k.ctx)
	unless := context.AfterFunc(c.ctx, cancel) // opening may last no longer
	stream, err := pb.NewLeaseClient(c.conn).LeaseKeepAlive(ctx)
	if !unless() && err == nil {
		err = c.ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s := &leaseStream{Lease_LeaseKeepAliveClient: stream, member: c.member, cancel: cancel,
		ended: make(chan struct{}), waiting: map[int64][]chan int64{}}
	k.running.Go(s.receive)
	return s, nil
}

func (k *keeper) open() *leaseStream {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stream
}

// keep makes s the stream to use. Of two that were made at the same time the
// last one stays.
func (k *keeper) keep(s *leaseStream) {
	k.mu.Lock()
	old := k.stream
	k.stream = s
	k.mu.Unlock()
	if old != nil && old != s {
		old.cancel() // whoever waits on it tries again
	}
}

// drop ends a stream that has failed.
func (k *keeper) drop(s *leaseStream) {
	k.mu.Lock()
	if k.stream == s {
		k.stream = nil
	}
	k.mu.Unlock()
	s.cancel()
}

// refresh asks once. A stream on which an answer has not come in time must not
// be used any more: it would be taken for the answer to the next question, and
// that counts from a later time.
func (s *leaseStream) refresh(ctx context.Context, id int64) (ttl int64, err error) {
	answer := make(chan int64, 1)
	s.mu.Lock()
	s.waiting[id] = append(s.waiting[id], answer)
	_ = s.Send(&pb.LeaseKeepAliveRequest{ID: id}) // when it fails, Recv has the reason
	s.mu.Unlock()
	select {
	case ttl = <-answer:
		return ttl, nil
	case <-s.ended:
		return 0, s.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// receive gives answers to those who wait for them, in order.
func (s *leaseStream) receive() {
	for {
		r, err := s.Recv()
		if err != nil {
			s.err = err
			close(s.ended)
			s.cancel()
			return
		}
		s.mu.Lock()
		queue := s.waiting[r.GetID()]
		if len(queue) == 0 {
			s.mu.Unlock()
			s.err = errStranger
			close(s.ended)
			s.cancel()
			return
		}
		if s.waiting[r.GetID()] = queue[1:]; len(queue) == 1 {
			delete(s.waiting, r.GetID())
		}
		s.mu.Unlock()
		queue[0] <- r.GetTTL() // 0 when the lease is unknown
	}
}

var errStranger = errors.New("etcd answered a refresh of a lease that nobody asked for")
