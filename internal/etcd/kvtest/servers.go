package kvtest

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/etcd/mem"
)

// Model is the model of etcd as a Server. Its loop should be virtual.
type Model struct {
	Store *mem.Store
	kv    *mem.KV
}

// NewModel makes an empty one.
func NewModel(l *Loop) *Model {
	s := mem.New(mem.Limits{})
	return &Model{s, mem.NewKV(s, l, l)}
}

// KV is Server.KV; all clients share one.
func (m *Model) KV(testing.TB) env.KV { return m.kv }

// Apply is Server.Apply.
func (m *Model) Apply(t testing.TB, ops ...env.KVOp) int64 {
	t.Helper()
	r, err := m.Store.Apply(&env.Txn{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	m.kv.Touch()
	return r.Revision
}

// Compact is Server.Compact.
func (m *Model) Compact(t testing.TB, revision int64) {
	t.Helper()
	if err := m.Store.Compact(revision); err != nil {
		t.Fatal(err)
	}
}

// Network is Server.Network: the model does not know half-dead networks.
func (m *Model) Network(_ testing.TB, mode Mode) { m.kv.SetDown(mode != Open) }

// Restart is Server.Restart.
func (m *Model) Restart(testing.TB) {
	m.kv.SetDown(true)
	m.Store.Restart()
	m.kv.SetDown(false)
}

// Real is a real server behind a Proxy. Its loop must not be virtual.
type Real struct {
	Proxy   *Proxy
	loop    *Loop
	admin   *clientv3.Client // of another make than what is tested
	restart func(t testing.TB)
}

func newReal(t testing.TB, l *Loop, endpoint string) *Real {
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close() })
	return &Real{loop: l, Proxy: NewProxy(t, endpoint), admin: admin}
}

// NewEmbedded starts an embedded server until the end of the test.
func NewEmbedded(t testing.TB, l *Loop) *Real {
	t.Helper()
	c := embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"}
	e, err := embed.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Stop() })
	c.Client = strings.TrimPrefix(e.Endpoint(), "http://") // for the next ones, too
	r := newReal(t, l, e.Endpoint())
	r.restart = func(t testing.TB) {
		// etcd's stop waits 7 s for watches to end: break them.
		r.Proxy.Set(t, Refuse)
		e.Stop()
		if e, err = embed.Start(c); err != nil {
			t.Fatal(err)
		}
		r.Proxy.Set(t, Open)
	}
	return r
}

// NewDebian starts the etcd of the distribution until the end of the test; see
// FindDaemon.
func NewDebian(t testing.TB, l *Loop) *Real {
	t.Helper()
	d := StartDaemons(t, 1)[0]
	r := newReal(t, l, d.Endpoint())
	r.restart = func(testing.TB) {
		d.Kill()
		l.Sleep(300 * time.Millisecond)
		d.Start()
	}
	return r
}

// KV is Server.KV: a client of its own, gone at the end of the test.
func (r *Real) KV(t testing.TB) env.KV {
	return OpenKV(t, r.loop, etcd.Config{Endpoints: []string{r.Proxy.Endpoint()}})
}

// OpenKV makes a KV that is gone at the end of the test.
func OpenKV(t testing.TB, l *Loop, c etcd.Config) *etcd.KV {
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

const adminTimeout = 10 * time.Second

// Apply is Server.Apply.
func (r *Real) Apply(t testing.TB, ops ...env.KVOp) int64 {
	t.Helper()
	converted := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		switch end := clientv3.WithRange(op.End); op.Kind {
		case env.KVPut:
			converted[i] = clientv3.OpPut(op.Key, string(op.Value))
		case env.KVDelete:
			converted[i] = clientv3.OpDelete(op.Key, end)
		case env.KVGet:
			converted[i] = clientv3.OpGet(op.Key, end)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	answer, err := r.admin.Txn(ctx).Then(converted...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header.Revision
}

// Compact is Server.Compact.
func (r *Real) Compact(t testing.TB, revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	if _, err := r.admin.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

// Network is Server.Network.
func (r *Real) Network(t testing.TB, m Mode) { r.Proxy.Set(t, m) }

// Restart is Server.Restart.
func (r *Real) Restart(t testing.TB) { r.restart(t) }
