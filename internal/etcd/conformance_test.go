package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/etcd/kvtest"
)

// open makes a KV that is gone at the end of the test.
func open(t *testing.T, l *kvtest.Loop, c etcd.Config) *etcd.KV {
	t.Helper()
	k, err := etcd.Open(c, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.Close()
		ended := make(chan struct{})
		go func() { k.Wait(); close(ended) }()
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Millisecond):
				l.Sleep(0) // let posts through
			}
		}
	})
	return k
}

// server is a real server behind a proxy, as kvtest.Server.
type server struct {
	loop    *kvtest.Loop
	proxy   *kvtest.Proxy
	admin   *clientv3.Client // of another make than what is tested
	restart func(t *testing.T)
}

func newServer(t *testing.T, l *kvtest.Loop, endpoint string, restart func(*testing.T)) *server {
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close() })
	return &server{loop: l, proxy: kvtest.NewProxy(t, endpoint), admin: admin, restart: restart}
}

func (s *server) KV(t *testing.T) env.KV {
	return open(t, s.loop, etcd.Config{Endpoints: []string{s.proxy.Endpoint()}})
}

func (s *server) Apply(t *testing.T, ops ...env.KVOp) int64 {
	var converted []clientv3.Op
	for _, op := range ops {
		switch op.Kind {
		case env.KVPut:
			converted = append(converted, clientv3.OpPut(op.Key, string(op.Value)))
		case env.KVDelete:
			converted = append(converted, clientv3.OpDelete(op.Key))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := s.admin.Txn(ctx).Then(converted...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func (s *server) Compact(t *testing.T, revision int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := s.admin.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

func (s *server) Network(t *testing.T, m kvtest.Mode) { s.proxy.Set(t, m) }
func (s *server) Restart(t *testing.T)                { s.restart(t) }

func startEmbedded(t *testing.T, c embed.Config) *embed.Server {
	t.Helper()
	e, err := embed.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformanceEmbedded(t *testing.T) {
	t.Parallel()
	c := embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"}
	e := startEmbedded(t, c)
	t.Cleanup(func() { e.Stop() })
	fmt.Sscanf(e.Endpoint(), "http://%s", &c.Client) // the next ones have the same address
	l := kvtest.NewLoop(t, false)
	var s *server
	s = newServer(t, l, e.Endpoint(), func(t *testing.T) {
		// etcd's stop waits 7 s for watches to end: break them.
		s.proxy.Set(t, kvtest.Refuse)
		e.Stop()
		e = startEmbedded(t, c)
		s.proxy.Set(t, kvtest.Open)
	})
	kvtest.Run(t, l, s)
}

func TestConformanceDebian(t *testing.T) {
	t.Parallel()
	d := kvtest.StartDaemons(t, 1)[0]
	l := kvtest.NewLoop(t, false)
	kvtest.Run(t, l, newServer(t, l, d.Endpoint(), func(t *testing.T) {
		d.Kill()
		l.Sleep(300 * time.Millisecond)
		d.Start()
	}))
}
