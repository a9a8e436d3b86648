package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"vitastor/internal/env"
)

// Each watch has a gRPC stream of its own: that is the unit in which etcd
// answers progress requests. When a stream breaks, the next one resumes from
// what was delivered. Two defects of older servers matter:
//
//   - When revision R is compacted, they may lose a deletion made at exactly R,
//     but still allow a watch from R (etcd issues 18089, 19179). So streams
//     always begin one revision earlier than needed: then the server refuses
//     what it might not have, and the surplus is dropped here.
//   - Answers to progress requests may overtake the changes they speak of (etcd
//     issue 15220). From servers with that defect such an answer only shows
//     that they live.

const (
	// How long a member may take to confirm a new stream.
	createTimeout = 5 * time.Second
	// Pause after a broken stream; it doubles while nothing is received.
	retryPause, retryPauseMax = 50 * time.Millisecond, time.Second
)

// watch is an env.Watch.
type watch struct {
	kv       *KV
	request  env.WatchRequest
	handler  func(*env.WatchResponse)
	cancel   context.CancelFunc
	canceled bool // on the loop

	asks  chan struct{} // a progress request is to be sent
	asked atomic.Bool   // and nothing was received since
	index atomic.Int32  // member in use

	// Of the goroutine in run:
	next  int64               // first revision not delivered; 0 = from now
	parts []*pb.WatchResponse // fragments of the next response
}

// Watch is env.KV.Watch.
func (k *KV) Watch(r env.WatchRequest, h func(*env.WatchResponse)) env.Watch {
	ctx, cancel := context.WithCancel(k.ctx)
	w := &watch{kv: k, request: r, handler: h, cancel: cancel, asks: make(chan struct{}, 1), next: r.Start}
	k.running.Go(func() {
		defer cancel()
		w.run(ctx)
	})
	return w
}

// RequestProgress is env.Watch.RequestProgress.
func (w *watch) RequestProgress() {
	w.asked.Store(true)
	select {
	case w.asks <- struct{}{}:
	default:
	}
}

// Cancel is env.Watch.Cancel. If a progress request was not answered, the
// member counts as failed: the next watch and all requests use another one.
func (w *watch) Cancel() {
	if w.asked.Load() && !w.canceled {
		w.kv.members.failed(int(w.index.Load()), errors.New("watch does not answer"))
	}
	w.canceled = true
	w.cancel()
}

// run keeps a stream open until ctx ends or the server ends the watch.
func (w *watch) run(ctx context.Context) {
	pause := retryPause
	for ctx.Err() == nil {
		index := w.kv.members.pick()
		w.index.Store(int32(index))
		received, err := w.stream(ctx, index)
		if final := (*canceledError)(nil); errors.As(err, &final) {
			w.deliver(&final.response)
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.kv.members.failed(index, err)
		if pause = min(2*pause, retryPauseMax); received {
			pause = retryPause
		}
		sleep(ctx, pause)
	}
}

// canceledError is how the server ends a watch for good.
type canceledError struct{ response env.WatchResponse }

func (e *canceledError) Error() string { return e.response.Err.Error() }

// stream watches on one member until something breaks; received tells whether
// the member has confirmed the watch before.
func (w *watch) stream(ctx context.Context, index int) (received bool, err error) {
	conn, err := w.kv.members.connect(ctx, index)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(createTimeout, func() {
		cancel(fmt.Errorf("watch was not confirmed within %v", createTimeout))
	})
	defer patience.Stop()
	exact := exactProgress(ctx, conn)
	// A member that has lost its cluster must not pretend that all is well.
	s, err := pb.NewWatchClient(conn).Watch(clientv3.WithRequireLeader(ctx), sizes...)
	if err != nil {
		return false, err
	}
	if err := s.Send(w.createRequest()); err != nil {
		return false, err
	}
	w.kv.running.Go(func() { w.ask(s) })
	w.parts = nil
	for {
		r, err := s.Recv()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return received, err
		}
		if patience.Stop(); !received {
			received = true
			w.kv.members.worked(index)
		}
		w.asked.Store(false)
		if err := w.process(r, exact); err != nil {
			return received, err
		}
	}
}

// createRequest asks for one revision more than needed: see above.
func (w *watch) createRequest() *pb.WatchRequest {
	start := w.next
	if start > 0 {
		start = max(start-1, 1)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{
			Key: []byte(w.request.Key), RangeEnd: []byte(w.request.End),
			StartRevision: start, ProgressNotify: true, Fragment: true,
		}}}
}

// ask sends progress requests as long as the stream lives.
func (w *watch) ask(s pb.Watch_WatchClient) {
	for {
		select {
		case <-s.Context().Done():
			return
		case <-w.asks:
			// When Send fails, Recv has the reason.
			_ = s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
				ProgressRequest: &pb.WatchProgressRequest{}}})
		}
	}
}

// process turns one message into at most one response.
func (w *watch) process(r *pb.WatchResponse, exact bool) error {
	revision := r.GetHeader().GetRevision()
	switch {
	case r.Canceled:
		return w.canceledBy(r)
	case r.Created:
		if w.next == 0 {
			w.next = revision + 1
		}
	case r.Fragment:
		w.parts = append(w.parts, r)
	case len(r.Events) > 0 || len(w.parts) > 0:
		w.changed(append(w.parts, r))
		w.parts = nil
	case r.WatchId == -1 && !exact:
		w.deliver(&env.WatchResponse{Revision: w.next - 1})
	default:
		w.next = max(w.next, revision+1)
		w.deliver(&env.WatchResponse{Revision: w.next - 1})
	}
	return nil
}

// changed delivers the events that were not delivered before. The revision in
// the header may be larger than what the server has sent so far, so it is not
// used.
func (w *watch) changed(parts []*pb.WatchResponse) {
	var events []env.WatchEvent
	for _, p := range parts {
		for _, e := range p.Events {
			if e.Kv.ModRevision >= w.next {
				events = append(events, decodeEvent(e))
			}
		}
	}
	if len(events) == 0 {
		return
	}
	w.next = events[len(events)-1].KV.ModRevision + 1
	w.deliver(&env.WatchResponse{Revision: w.next - 1, Events: events})
}

// canceledBy makes the last response of a watch that the server has ended.
func (w *watch) canceledBy(r *pb.WatchResponse) error {
	name := fmt.Sprintf("watch of %q", w.request.Key)
	if r.CompactRevision != 0 {
		return &canceledError{env.WatchResponse{Compacted: r.CompactRevision + 1, Err: fmt.Errorf(
			"%s from revision %d: %w", name, w.next, env.ErrKVCompacted)}}
	}
	return &canceledError{env.WatchResponse{Err: fmt.Errorf(
		"%s: %w: %s", name, env.ErrKVInvalid, r.CancelReason)}}
}

func (w *watch) deliver(r *env.WatchResponse) {
	w.kv.post(func() {
		if !w.canceled {
			w.handler(r)
		}
	})
}

// exactProgress tells whether the server orders answers to progress requests
// with changes.
func exactProgress(ctx context.Context, conn *grpc.ClientConn) bool {
	r, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return false // the stream itself will find out what is wrong
	}
	v, err := semver.NewVersion(r.Version)
	if err != nil {
		return false
	}
	fixed := semver.Version{Major: 3, Minor: 5, Patch: 8}
	if v.Major == 3 && v.Minor <= 4 {
		fixed = semver.Version{Major: 3, Minor: 4, Patch: 25}
	}
	return !v.LessThan(fixed)
}
