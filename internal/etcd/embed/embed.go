// Package embed runs an etcd server inside the process: for one-machine set-ups
// (vitastor-mon --embed-etcd) and for tests. It is the only package that links
// etcd's server.
//
// Guarantee: the server has the options that Vitastor needs (etcd.md §5), and
// Start returns only when it serves, or with an error that says what to do.
// Other daemons, the reference's included, can use it like any etcd: gRPC and
// the JSON gateway are on the same port.
//
// Concurrency: all functions may be called from any goroutine; they block.
package embed

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
)

// Config says where the server keeps its data and where it listens.
type Config struct {
	// Dir is the data directory; it is created when missing.
	Dir string
	// Client is where clients connect, "127.0.0.1:2379" when empty. Port 0
	// means any free one.
	Client string
	// Log gets etcd's warnings and errors. nil = silent.
	Log *slog.Logger
	// MaxTxnOps and MaxRequestBytes are for tests; 0 = what Vitastor needs.
	MaxTxnOps, MaxRequestBytes uint
}

const (
	defaultClient = "127.0.0.1:2379"
	startTimeout  = time.Minute
	watchPatience = 500 * time.Millisecond
	// The only member of its cluster needs an address for its peers, too.
	// It is chosen anew at each start.
	peerHost  = "127.0.0.1"
	peerTries = 5
	// How often the history is compacted is etcd's choice: 5 minutes.
	keepRevisions = "10"
	snapshotCount = 10000
	quotaBytes    = 8 << 30
)

// Server is a running server.
type Server struct {
	etcd     *embed.Etcd
	endpoint string
	stop     sync.Once
}

// Start starts a server and waits until it serves.
func Start(c Config) (*Server, error) {
	if c.Dir == "" {
		return nil, errors.New("embedded etcd: no data directory is given")
	}
	if c.Client == "" {
		c.Client = defaultClient
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded etcd: data directory: %w", err)
	}
	var last error
	for range peerTries {
		e, err := startOnce(c)
		if err == nil {
			return serve(e, c)
		}
		last = explain(c, err)
		if !errors.Is(err, errLostPort) {
			break
		}
	}
	return nil, last
}

// errLostPort: somebody else took a port that was free a moment ago.
var errLostPort = errors.New("lost the race for a free port")

func startOnce(c Config) (*embed.Etcd, error) {
	client, err := clientAddr(c.Client)
	if err != nil {
		return nil, err
	}
	peer, err := freeAddr(peerHost + ":0")
	if err != nil {
		return nil, err
	}
	e, err := embed.StartEtcd(options(c, client, peer))
	if errors.Is(err, syscall.EADDRINUSE) {
		if _, busy := freeAddr(c.Client); busy == nil {
			return nil, errLostPort
		}
	}
	return e, err
}

// options is the configuration of etcd.md §5.
func options(c Config, client, peer string) *embed.Config {
	o := embed.NewConfig()
	o.Name = "vitastor"
	o.Dir = c.Dir
	o.ListenClientUrls = []url.URL{{Scheme: "http", Host: client}}
	o.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: reachable(client)}}
	o.ListenPeerUrls = []url.URL{{Scheme: "http", Host: peer}}
	o.AdvertisePeerUrls = o.ListenPeerUrls
	o.InitialCluster = o.InitialClusterFromName(o.Name)
	o.MaxTxnOps = env.KVMaxTxnOps
	if c.MaxTxnOps != 0 {
		o.MaxTxnOps = c.MaxTxnOps
	}
	o.MaxRequestBytes = env.KVMaxRequestBytes
	if c.MaxRequestBytes != 0 {
		o.MaxRequestBytes = c.MaxRequestBytes
	}
	o.AutoCompactionMode = embed.CompactorModeRevision
	o.AutoCompactionRetention = keepRevisions
	o.SnapshotCount = snapshotCount
	o.QuotaBackendBytes = quotaBytes
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o.ZapLoggerBuilder = embed.NewZapLoggerBuilder(etcd.NewZap(log))
	return o
}

// serve waits until the server is ready.
func serve(e *embed.Etcd, c Config) (*Server, error) {
	s := &Server{etcd: e, endpoint: "http://" + reachable(e.Clients[0].Addr().String())}
	select {
	case <-e.Server.ReadyNotify():
		return s, nil
	case err := <-e.Err():
		s.Stop()
		return nil, explain(c, err)
	case <-time.After(startTimeout):
		s.Stop()
		return nil, fmt.Errorf("embedded etcd in %s was not ready within %v: see its log messages",
			c.Dir, startTimeout)
	}
}

// Endpoint is the address for clients, as etcd_address wants it.
func (s *Server) Endpoint() string { return s.endpoint }

// Failed yields the error that has ended a running server.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Stop ends the server and waits until its data is closed.
//
// The server proper ends first. Otherwise it would wait up to 7 seconds for
// watches to end, accept nobody who wants to refresh a lease, let the leases
// expire, and tell so: a restart would end every OSD. Once it has ended and its
// addresses are free, the watches are not waited for.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.etcd.Server.HardStop()
		closed := make(chan struct{})
		go func() { s.etcd.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(watchPatience):
		}
		<-s.etcd.Server.StopNotify()
	})
}

func explain(c Config, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("embedded etcd cannot listen on %s: another program does; "+
			"stop it or choose another address: %w", c.Client, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("embedded etcd may not use %s or listen on %s: %w", c.Dir, c.Client, err)
	}
	return fmt.Errorf("embedded etcd in %s, listening on %s: %w", c.Dir, c.Client, err)
}

// clientAddr replaces port 0 by a free one, because etcd has to announce it.
func clientAddr(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("address %q is not host:port", addr)
	}
	if port != "0" {
		return net.JoinHostPort(host, port), nil
	}
	return freeAddr(addr)
}

// freeAddr finds a free port by listening on it for a moment.
func freeAddr(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// reachable replaces a wildcard address by that of the loopback.
func reachable(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
