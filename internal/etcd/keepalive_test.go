package etcd_test

import (
	"net"
	"net/url"
	"testing"
	"time"

	etcdserver "go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/kvtest"
)

// holder refreshes a lease every half second, as an OSD does.
type holder struct {
	l         *kvtest.Loop
	kv        *etcd.KV
	id        env.LeaseID
	refreshes int
	failures  int
	gone      bool
	timer     env.Timer
}

func newHolder(t *testing.T, l *kvtest.Loop, kv *etcd.KV, ttl int64) *holder {
	h := &holder{l: l, kv: kv}
	kv.Grant(ttl, 5*time.Second, func(id env.LeaseID, err error) {
		if err != nil {
			t.Error(err)
		}
		h.id = id
	})
	l.Until(t, "a lease", func() bool { return h.id != 0 })
	h.timer.Fire = func() {
		l.Arm(&h.timer, 500*time.Millisecond)
		kv.KeepAlive(h.id, 750*time.Millisecond, func(ttl int64, err error) {
			switch {
			case err != nil:
				h.failures++
			case ttl == 0:
				h.gone = true
			default:
				h.refreshes++
			}
		})
	}
	l.Arm(&h.timer, 0)
	return h
}

// stubborn is an etcd that stops as a process of its own does at SIGTERM.
func stubborn(t *testing.T, dir, client, peer string) *etcdserver.Etcd {
	o := etcdserver.NewConfig()
	o.Dir, o.Name, o.ZapLoggerBuilder = dir, "m", etcdserver.NewZapLoggerBuilder(zap.NewNop())
	urls := func(addr string) []url.URL { return []url.URL{{Scheme: "http", Host: addr}} }
	o.ListenClientUrls, o.AdvertiseClientUrls = urls(client), urls(client)
	o.ListenPeerUrls, o.AdvertisePeerUrls = urls(peer), urls(peer)
	o.InitialCluster = o.InitialClusterFromName(o.Name)
	e, err := etcdserver.StartEtcd(o)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Server.ReadyNotify()
	return e
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// An etcd that is stopped in the ordinary way takes 7 seconds while watches are
// open. A lease of 5 seconds survives that, and the restart.
func TestLeaseSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir, client, peer := t.TempDir(), freePort(t), freePort(t)
	server := stubborn(t, dir, client, peer)
	defer func() { server.Server.HardStop(); server.Close() }()
	l := kvtest.NewLoop(t, false)
	kv := kvtest.OpenKV(t, l, etcd.Config{Endpoints: []string{"http://" + client}})
	h := newHolder(t, l, kv, 5)
	deleted := false
	kv.Txn(&env.Txn{Then: []env.KVOp{{Kind: env.KVPut, Key: "/a", Lease: h.id}}}, 5*time.Second, func(_ *env.TxnResponse, err error) {
		if err != nil {
			t.Error(err)
		}
		kv.Watch(env.WatchRequest{Key: "/a"}, func(r *env.WatchResponse) {
			for _, e := range r.Events {
				deleted = deleted || e.Deleted
			}
		})
	})
	l.Until(t, "some refreshes", func() bool { return h.refreshes > 1 })
	h.refreshes = 0
	began, closed := time.Now(), make(chan bool)
	go func() { server.Close(); close(closed) }()
	l.Until(t, "the end of etcd", func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	})
	took, during := time.Since(began), h.refreshes
	server = stubborn(t, dir, client, peer)
	h.refreshes = 0
	l.Until(t, "refreshes after the restart", func() bool { return h.refreshes > 1 || h.gone })
	t.Logf("etcd took %v to stop, %d refreshes meanwhile, %d failed", took, during, h.failures)
	if h.gone || deleted {
		t.Errorf("the lease expired: refresh says %v, watch says %v", h.gone, deleted)
	}
	if took < 4*time.Second {
		t.Errorf("etcd stopped within %v: this tests nothing", took)
	}
}

// A member that hangs does not cost the lease when there is another one.
func TestLeaseSurvivesHangingMember(t *testing.T) {
	t.Parallel()
	l, kv, p := pair(t)
	h := newHolder(t, l, kv, 4)
	for i := range 4 {
		l.Until(t, "some refreshes", func() bool { return h.refreshes > 1 })
		p[i%2].Set(t, kvtest.Hang)
		p[1-i%2].Set(t, kvtest.Open)
		h.refreshes = 0
		began := time.Now()
		l.Until(t, "refreshes over the other member", func() bool { return h.refreshes > 1 || h.gone })
		t.Logf("round %d: refreshed again after %v", i, time.Since(began))
		if h.gone {
			t.Errorf("round %d: the lease is gone", i)
		}
	}
}

// Refreshes of many leases at a time share a stream, and each gets its own
// answer.
func TestManyLeases(t *testing.T) {
	t.Parallel()
	l, kv, _ := pair(t)
	var ids []env.LeaseID
	for range 20 {
		kv.Grant(100, 5*time.Second, func(id env.LeaseID, err error) { ids = append(ids, id) })
	}
	l.Until(t, "leases", func() bool { return len(ids) == 20 })
	answers := 0
	for round := range 5 {
		for i, id := range ids {
			want := int64(100)
			if i%4 == 3 { // one that does not exist
				id, want = id+1000000, 0
			}
			kv.KeepAlive(id, 5*time.Second, func(ttl int64, err error) {
				answers++
				if err != nil || ttl != want {
					t.Errorf("round %d, lease %d: ttl %d %v, want %d", round, i, ttl, err, want)
				}
			})
		}
	}
	l.Until(t, "answers", func() bool { return answers == 100 })
}
