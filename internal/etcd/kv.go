// Package etcd connects env.KV to real etcd servers through gRPC.
//
// The connections (TLS, authentication, HTTP/2) are those of etcd's client
// library; requests and watches are made on them directly, because the cluster
// depends on details that the library hides: which member answers, when a
// request has surely not been executed, and from where a watch resumes.
//
// One member is used until it fails, then the next one: nearby members first.
// Requests that certainly have not reached a member are repeated elsewhere
// until their time is over; others fail, and the caller decides. Every request
// ends within its timeout. Requests in flight at the same time are not ordered.
//
// Guarantee: a watch reports every change from its first revision on exactly
// once, in order, whole revisions at a time, across reconnects, or ends with
// env.ErrKVCompacted. Two defects of etcd up to 3.4.24 and 3.5.17 are worked
// around: see watch.go.
//
// Concurrency: all methods are called on the loop of exec, callbacks run there
// (through Exec.Post). Requests and watches live on goroutines of their own,
// which share nothing but the choice of the member.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"vitastor/internal/env"
)

// Config says how to reach etcd.
type Config struct {
	// Endpoints as ParseEndpoints returns them.
	Endpoints []string
	// CAFile, CertFile and KeyFile (PEM) are for https endpoints. Without
	// CAFile the system's authorities are trusted; CertFile and KeyFile are
	// for servers that ask for client certificates.
	CAFile, CertFile, KeyFile string
	// User and Password are for servers with authentication; both or none.
	User, Password string
	// Log gets changes of the used member. nil = silent.
	Log *slog.Logger
}

// KV is an env.KV on real servers.
type KV struct {
	exec    env.Exec
	members *members
	keeper  keeper
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup
	closed  bool // on the loop
}

var _ env.KV = (*KV)(nil)

// Open prepares connections; it does not wait for them, so it fails only on a
// bad configuration.
func Open(c Config, exec env.Exec) (*KV, error) {
	if len(c.Endpoints) == 0 {
		return nil, fmt.Errorf("no etcd endpoints are given: set etcd_address")
	}
	if (c.User == "") != (c.Password == "") {
		return nil, fmt.Errorf("etcd user and password must be set together")
	}
	tlsConfig, err := loadTLS(c)
	if err != nil {
		return nil, err
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &KV{exec: exec, members: newMembers(c, tlsConfig, log)}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k, nil
}

// loadTLS reads the certificates; nil when no endpoint needs them.
func loadTLS(c Config) (*tls.Config, error) {
	secure := false
	for _, e := range c.Endpoints {
		secure = secure || strings.HasPrefix(e, "https://")
	}
	if !secure {
		if c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" {
			return nil, fmt.Errorf("etcd certificates are set, but no address begins with https://")
		}
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("etcd CA certificate: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA certificate %s: no PEM certificate inside", c.CAFile)
		}
	}
	if c.CertFile != "" || c.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("etcd client certificate %q with key %q: %w", c.CertFile, c.KeyFile, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// SetEndpoints replaces the addresses. What is on its way goes on with the old
// ones, watches do until they break.
func (k *KV) SetEndpoints(endpoints []string) error {
	c := k.members.config
	if c.Endpoints = endpoints; len(endpoints) == 0 {
		return fmt.Errorf("no etcd endpoints are given")
	}
	t, err := loadTLS(c)
	if err == nil {
		k.members.set(endpoints, t)
	}
	return err
}

// Close ends everything. No callback runs afterwards; requests in flight end
// with unknown outcome. It does not wait: see Wait.
func (k *KV) Close() {
	k.closed = true
	k.cancel()
}

// Wait returns when all goroutines and connections of a closed KV are gone. It
// must not be called on the loop, which has to run (or to be stopped).
func (k *KV) Wait() {
	k.running.Wait()
	k.members.close()
}

// Txn is env.KV.Txn.
func (k *KV) Txn(t *env.Txn, timeout time.Duration, done func(*env.TxnResponse, error)) {
	request := encodeTxn(t)
	var answer *env.TxnResponse
	k.start(timeout, readsOnly(t), func(c call) error {
		r, err := pb.NewKVClient(c.conn).Txn(c.ctx, request, sizes...)
		if err == nil {
			answer = decodeTxn(r)
		}
		return err
	}, func(err error) { done(answer, err) })
}

// Grant is env.KV.Grant.
func (k *KV) Grant(ttlSeconds int64, timeout time.Duration, done func(env.LeaseID, error)) {
	var id env.LeaseID
	k.start(timeout, false, func(c call) error {
		r, err := pb.NewLeaseClient(c.conn).LeaseGrant(c.ctx, &pb.LeaseGrantRequest{TTL: ttlSeconds})
		id = env.LeaseID(r.GetID())
		return err
	}, func(err error) { done(id, err) })
}

// Revoke is env.KV.Revoke.
func (k *KV) Revoke(id env.LeaseID, timeout time.Duration, done func(error)) {
	k.start(timeout, false, func(c call) error {
		_, err := pb.NewLeaseClient(c.conn).LeaseRevoke(c.ctx, &pb.LeaseRevokeRequest{ID: int64(id)})
		return err
	}, done)
}

// start runs f on a goroutine of its own, and done with its result on the loop.
func (k *KV) start(timeout time.Duration, repeatable bool, f func(call) error, done func(error)) {
	if k.closed {
		return
	}
	k.running.Go(func() {
		ctx, cancel := context.WithTimeout(k.ctx, timeout)
		defer cancel()
		err := k.members.try(ctx, repeatable, f)
		k.post(func() { done(err) })
	})
}

// post runs f on the loop unless the KV has been closed until then.
func (k *KV) post(f func()) {
	k.exec.Post(func() {
		if !k.closed {
			f()
		}
	})
}
