package etcd_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/etcd/kvtest"
)

// TestSmallLimits uses a server without the options that the cluster needs.
func TestSmallLimits(t *testing.T) {
	t.Parallel()
	e := startEmbedded(t, embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0",
		MaxTxnOps: 10, MaxRequestBytes: 64 << 10})
	t.Cleanup(e.Stop)
	l := kvtest.NewLoop(t, false)
	kv := kvtest.OpenKV(t, l, etcd.Config{Endpoints: []string{e.Endpoint()}})
	many := make([]env.KVOp, 11)
	for i := range many {
		many[i] = kvtest.Put(fmt.Sprint("/", i), "")
	}
	for name, ops := range map[string][]env.KVOp{
		"operations":          many,
		"bytes":               {kvtest.Put("/a", strings.Repeat("x", 65<<10))},
		"bytes of gRPC, too":  {kvtest.Put("/a", strings.Repeat("x", 2<<20))},
		"bytes of everything": {kvtest.Put("/a", strings.Repeat("x", 40<<10)), kvtest.Put("/b", strings.Repeat("x", 40<<10))},
	} {
		_, err := txn(t, l, kv, 5*time.Second, ops...)
		if !errors.Is(err, env.ErrKVTooLarge) || !strings.Contains(err.Error(), "--max-txn-ops=100000") ||
			!strings.Contains(err.Error(), e.Endpoint()) {
			t.Errorf("too many %s: %v", name, err)
		}
	}
	fragments(t, l, kv)
}

// fragments makes one revision with more events than the server puts into one
// message: they must arrive together.
func fragments(t *testing.T, l *kvtest.Loop, kv env.KV) {
	const keys, batch = 4000, 10
	prefix := "/frag/" + strings.Repeat("n", 500)
	for i := 0; i < keys; i += batch {
		ops := make([]env.KVOp, batch)
		for j := range ops {
			ops[j] = kvtest.Put(fmt.Sprintf("%s%04d", prefix, i+j), "")
		}
		if _, err := txn(t, l, kv, 5*time.Second, ops...); err != nil {
			t.Fatal(err)
		}
	}
	r, err := txn(t, l, kv, 5*time.Second, env.KVOp{Kind: env.KVDelete, Key: "/frag/", End: "/frag0"})
	if err != nil || r.Responses[0].Deleted != keys {
		t.Fatal(err, r)
	}
	var got []*env.WatchResponse
	w := kv.Watch(env.WatchRequest{Key: "/frag/", End: "/frag0", Start: r.Revision},
		func(r *env.WatchResponse) { got = append(got, r) })
	defer w.Cancel()
	l.Until(t, "the deletions", func() bool { return len(got) > 0 })
	if len(got) != 1 || len(got[0].Events) != keys || got[0].Revision != r.Revision {
		t.Errorf("%d responses, the first with %d events", len(got), len(got[0].Events))
	}
}

// TestHugeValue: servers since 3.5.5 survive values above 10 MB.
func TestHugeValue(t *testing.T) {
	t.Parallel()
	c := embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"}
	e := startEmbedded(t, c)
	l := kvtest.NewLoop(t, false)
	value := bytes.Repeat([]byte("vitastor"), 4<<20)
	kv := kvtest.OpenKV(t, l, etcd.Config{Endpoints: []string{e.Endpoint()}})
	if _, err := txn(t, l, kv, 20*time.Second, env.KVOp{Kind: env.KVPut, Key: "/huge", Value: value}); err != nil {
		t.Error(err)
	}
	e.Stop()
	e = startEmbedded(t, c)
	t.Cleanup(e.Stop)
	kv = kvtest.OpenKV(t, l, etcd.Config{Endpoints: []string{e.Endpoint()}})
	r, err := txn(t, l, kv, 20*time.Second, env.KVOp{Kind: env.KVGet, Key: "/huge"})
	if err != nil || len(r.Responses[0].KVs) != 1 || !bytes.Equal(r.Responses[0].KVs[0].Value, value) {
		t.Errorf("after a restart: %v", err)
	}
}
