package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"vitastor/internal/env"
)

const (
	// How long one member may take to accept a connection before the next
	// one is tried, if the request has that much time.
	connectTimeout = 2 * time.Second
	// Pause after all members have refused.
	roundPause = 100 * time.Millisecond
	// A dead connection is noticed after about the sum of these. Servers
	// refuse clients that ping more often than every 5 s, and gRPC does not
	// ping more often than every 10 s.
	pingInterval = 10 * time.Second
	pingTimeout  = 5 * time.Second
)

// sizes lifts gRPC's limits on messages. What remains is the server's own
// --max-request-bytes (etcd.md §4.2).
var sizes = []grpc.CallOption{
	grpc.MaxCallSendMsgSize(math.MaxInt32), grpc.MaxCallRecvMsgSize(math.MaxInt32)}

// members is the list of etcd servers and the one in use. Safe for concurrent
// use.
type members struct {
	config Config
	log    *slog.Logger

	mu        sync.Mutex
	tlsConfig *tls.Config
	urls      []string           // all that were ever given: an index always means the same one
	clients   []*clientv3.Client // by index in urls; nil = not needed yet
	order     []int              // those in use, in the order of preference
	current   int                // one of them
	trouble   bool               // the last thing that was heard of was a failure
}

func newMembers(c Config, t *tls.Config, log *slog.Logger) *members {
	m := &members{config: c, log: log}
	m.set(c.Endpoints, t)
	return m
}

// set replaces the members. What is on its way over others goes on.
func (m *members) set(endpoints []string, t *tls.Config) {
	ordered := localFirst(endpoints, localAddrs())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tlsConfig, m.order = t, nil
	for _, url := range ordered {
		i := slices.Index(m.urls, url)
		if i < 0 {
			i = len(m.urls)
			m.urls, m.clients = append(m.urls, url), append(m.clients, nil)
		}
		m.order = append(m.order, i)
	}
	if !slices.Contains(m.order, m.current) {
		m.current = m.order[0]
	}
}

// inUse are the addresses of the members.
func (m *members) inUse() (urls []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.order {
		urls = append(urls, m.urls[i])
	}
	return urls
}

// call is what a request gets to run on.
type call struct {
	ctx    context.Context
	conn   *grpc.ClientConn
	member int
}

// try runs f on the current member. While it is certain that nothing has been
// executed, or if that does not matter (repeatable), it goes on to the next
// member, until ctx ends.
func (m *members) try(ctx context.Context, repeatable bool, f func(call) error) error {
	var last error
	count := len(m.inUse())
	for round := 0; ; round++ {
		if round > 0 && round%count == 0 {
			sleep(ctx, roundPause)
		}
		if ctx.Err() != nil {
			return m.explain(last, ctx.Err())
		}
		index := m.pick()
		conn, err := m.connect(ctx, index)
		sent := err == nil
		if sent {
			if err = f(call{ctx, conn, index}); err == nil {
				m.worked(index)
				return nil
			}
		}
		if !blamesMember(err) {
			return m.explain(err, nil)
		}
		m.failed(index, err)
		if last = err; sent && !repeatable {
			return m.explain(err, nil)
		}
	}
}

// pick returns the index of the member in use.
func (m *members) pick() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

// failed makes everybody use the member after index, unless somebody else has
// moved on already.
func (m *members) failed(index int, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != index {
		return
	}
	m.current = m.order[(slices.Index(m.order, index)+1)%len(m.order)]
	level := slog.LevelDebug // one message is enough for one time of trouble
	if !m.trouble {
		level = slog.LevelWarn
	}
	m.trouble = true
	m.log.Log(context.Background(), level, "etcd member failed",
		"failed", m.urls[index], "next", m.urls[m.current], "err", brief(why))
}

// worked notes that the member is well.
func (m *members) worked(index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trouble && m.current == index {
		m.trouble = false
		m.log.Info("etcd is available", "member", m.urls[index])
	}
}

// connect returns a connection to a member that was ready just now. An error
// means that nothing has been sent.
func (m *members) connect(ctx context.Context, index int) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := m.client(ctx, index)
	if err != nil {
		return nil, err
	}
	conn := c.ActiveConnection()
	conn.Connect()
	conn.ResetConnectBackoff()
	for {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return conn, nil
		case connectivity.TransientFailure:
			return conn, reason(ctx, conn)
		default:
			if !conn.WaitForStateChange(ctx, state) {
				return nil, fmt.Errorf("no connection to %s in time: %w", c.Endpoints()[0], ctx.Err())
			}
		}
	}
}

// reason finds out why there is no connection: a harmless request gets the
// answer. nil means that there is one in the meantime.
func reason(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if c := code(err); c == codes.Unavailable || c == codes.DeadlineExceeded {
		return err
	}
	return nil
}

// client returns the library's client of one member, made at first use.
func (m *members) client(ctx context.Context, index int) (*clientv3.Client, error) {
	m.mu.Lock()
	c, url, t := m.clients[index], m.urls[index], m.tlsConfig
	m.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := m.dial(ctx, url, t) // waits only to log in
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	other := m.clients[index]
	if other == nil {
		m.clients[index] = c
	}
	m.mu.Unlock()
	if other != nil {
		c.Close()
		return other, nil
	}
	return c, nil
}

func (m *members) dial(ctx context.Context, url string, t *tls.Config) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints:            []string{url},
		Context:              context.Background(), // ends with close
		DialTimeout:          connectTimeout,
		DialKeepAliveTime:    pingInterval,
		DialKeepAliveTimeout: pingTimeout,
		MaxUnaryRetries:      2, // once more after a renewed login
		Username:             m.config.User,
		Password:             m.config.Password,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: roundPause, Multiplier: 1.6, Jitter: 0.2,
				MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		})},
	}
	if strings.HasPrefix(url, "https://") {
		config.TLS = t
	}
	if deadline, ok := ctx.Deadline(); ok {
		config.DialTimeout = max(time.Until(deadline), time.Millisecond)
	}
	c, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("login at %s: %w", url, err)
	}
	return c, nil
}

// close closes all connections; nobody uses them any more.
func (m *members) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.clients {
		if c != nil {
			c.Close()
		}
	}
	clear(m.clients)
}

// explain makes the caller's error out of what the last member said and why
// the request was given up (nil: because of that).
func (m *members) explain(err, gaveUp error) error {
	kind := classify(err)
	if gaveUp != nil && (err == nil || kind == env.ErrKVTimeout) {
		kind = env.ErrKVTimeout
		if errors.Is(gaveUp, context.Canceled) {
			kind = env.ErrKVUnavailable
		}
	}
	text := "etcd at " + strings.Join(m.inUse(), ", ")
	if err != nil {
		text += ": " + brief(err)
	}
	if kind == env.ErrKVUnavailable || kind == env.ErrKVTimeout {
		text += " (check that etcd runs, has a quorum, and that etcd_address is right)"
	}
	return fmt.Errorf("%w: %s", kind, text)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
