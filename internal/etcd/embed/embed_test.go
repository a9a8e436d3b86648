package embed

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// The server itself is tested by the conformance suite in internal/etcd.

// call uses the JSON gateway, as the reference's daemons do.
func call(t *testing.T, s *Server, path, body string) (answer map[string]any) {
	t.Helper()
	r, err := http.Post(s.Endpoint()+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s: %s", err, text)
	}
	return answer
}

func TestGatewayAndReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	s, err := Start(Config{Dir: dir, Client: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	call(t, s, "/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`)
	s.Stop()
	s.Stop()
	if s, err = Start(Config{Dir: dir, Client: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if got := call(t, s, "/v3/kv/range", `{"key":"Zm9v"}`); got["count"] != "1" {
		t.Errorf("after reopening: %v", got)
	}
	select {
	case err := <-s.Failed():
		t.Errorf("failed: %v", err)
	default:
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestOptions(t *testing.T) {
	o := options(Config{Dir: "d"}, "0.0.0.0:1", "127.0.0.1:2")
	if o.MaxTxnOps != 100000 || o.MaxRequestBytes != 104857600 || o.AutoCompactionMode != "revision" ||
		o.AutoCompactionRetention != "10" || o.SnapshotCount != 10000 {
		t.Errorf("%+v", o)
	}
	if got := o.AdvertiseClientUrls[0].String(); got != "http://127.0.0.1:1" {
		t.Errorf("announced address %s", got)
	}
}

func TestErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"no data directory":                     {},
		"is not host:port":                      {Dir: t.TempDir(), Client: "nonsense"},
		file:                                    {Dir: file, Client: "127.0.0.1:0"},
		"cannot listen on " + l.Addr().String(): {Dir: t.TempDir(), Client: l.Addr().String()},
	} {
		s, err := Start(c)
		if err == nil {
			s.Stop()
		}
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// No lease expires while the server stops, and its holder gets the whole time
// again after a restart, although a watch is open and nothing refreshes it.
func TestStopDoesNotExpireLeases(t *testing.T) {
	c := Config{Dir: t.TempDir(), Client: "127.0.0.1:0"}
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	granted := call(t, s, "/v3/lease/grant", `{"TTL":2}`)
	call(t, s, "/v3/kv/put", `{"key":"Zm9v","value":"YmFy","lease":"`+granted["ID"].(string)+`"}`)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deleted := make(chan bool, 1)
	go func() {
		for r := range client.Watch(t.Context(), "foo") {
			for _, e := range r.Events {
				if e.Type == clientv3.EventTypeDelete {
					deleted <- true
				}
			}
		}
	}()
	time.Sleep(100 * time.Millisecond) // the watch is there
	http.DefaultClient.CloseIdleConnections()
	began := time.Now()
	s.Stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	c.Client = strings.TrimPrefix(s.Endpoint(), "http://") // is free again
	if s, err = Start(c); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if got := call(t, s, "/v3/kv/range", `{"key":"Zm9v"}`); got["count"] != "1" {
		t.Errorf("the key is gone: %v", got)
	}
	select {
	case <-deleted:
		t.Error("the watch was told that the lease has expired")
	default:
	}
	http.DefaultClient.CloseIdleConnections()
}
