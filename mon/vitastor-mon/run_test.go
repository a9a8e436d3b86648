package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"vitastor/internal/etcd/embed"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// output may be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a run of the program.
type process struct {
	*testing.T
	out, errs output
	signals   chan os.Signal
	code      chan int
}

func start(t *testing.T, args ...string) *process {
	p := &process{T: t, signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	args = append([]string{"--config_path", filepath.Join(t.TempDir(), "none")}, args...)
	go func() { p.code <- run(args, &p.out, &p.errs, p.signals) }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.errs.String())
		}
	})
	return p
}

func (p *process) exit(want int) {
	p.Helper()
	select {
	case got := <-p.code:
		if got != want {
			p.Errorf("exit code %d, want %d\n%s", got, want, p.errs.String())
		}
	case <-time.After(20 * time.Second):
		p.Fatal("the program does not end")
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 20 s:", what)
		}
	}
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func client(t *testing.T, endpoint string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var keys = schema.NewKeys("")

func get(t *testing.T, c *clientv3.Client, key string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := c.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	if _, err := c.Put(context.Background(), key, value); err != nil {
		t.Fatal(err)
	}
}

// addOSDs makes the keys of OSDs that are up.
func addOSDs(t *testing.T, c *clientv3.Client, n int) {
	for i := 1; i <= n; i++ {
		put(t, c, fmt.Sprintf("/vitastor/osd/stats/%d", i), fmt.Sprintf(
			`{"time":"%d.000","size":1000000000000,"free":1000000000000,"host":"h%d"}`, time.Now().Unix(), i))
		put(t, c, fmt.Sprintf("/vitastor/osd/state/%d", i),
			`{"state":"up","addresses":["127.0.0.1"],"host":"h","port":1,"primary_enabled":true,"blockstore_enabled":true}`)
	}
}

func TestEmbedded(t *testing.T) {
	port := freePort(t)
	dir := filepath.Join(t.TempDir(), "etcd")
	args := []string{"--embed-etcd", dir, "--embed-etcd-listen", "127.0.0.1:0", "--mon_http_port", port,
		"--mon_http_ip", "127.0.0.1", "--mon_change_timeout", "100"}
	p := start(t, args...)
	const line = "other programs of this cluster: "
	until(t, "the address of etcd", func() bool { return strings.Contains(p.out.String(), line) })
	_, endpoint, _ := strings.Cut(p.out.String(), line)
	c := client(t, strings.TrimSpace(endpoint))
	addOSDs(t, c, 3)
	put(t, c, keys.Pools(), `{"1":{"name":"p","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":4}}`)
	until(t, "the pool is placed", func() bool { return strings.Contains(get(t, c, keys.PGConfig()), `"4":{"osd_set":["`) })
	if s := get(t, c, keys.PoolStats(1)); !strings.Contains(s, `"pg_real_size":2`) {
		t.Errorf("pool/stats: %s", s)
	}
	until(t, "statistics", func() bool { return get(t, c, keys.Stats()) != "" })
	var body []byte
	until(t, "metrics", func() bool {
		r, err := http.Get("http://127.0.0.1:" + port + "/metrics")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, _ = io.ReadAll(r.Body)
		return r.StatusCode == http.StatusOK && bytes.Contains(body, []byte(`vitastor_pool_info{`))
	})
	failover(t, c)
	before := get(t, c, keys.PGConfig())
	c.Close()
	p.signals <- syscall.SIGTERM
	p.exit(exitOK)

	p = start(t, args...) // with the same data
	until(t, "the address of etcd", func() bool { return strings.Contains(p.out.String(), line) })
	_, endpoint, _ = strings.Cut(p.out.String(), line)
	c = client(t, strings.TrimSpace(endpoint))
	until(t, "the master", func() bool { return get(t, c, keys.MonMaster()) != "" })
	if after := get(t, c, keys.PGConfig()); after != before {
		t.Errorf("pg/config has changed by a restart:\n%s\n%s", before, after)
	}
	c.Close()
	p.signals <- syscall.SIGINT
	p.exit(exitOK)
}

// failover measures how long the PGs of a vanished OSD have a dead primary.
func failover(t *testing.T, c *clientv3.Client) {
	watch := c.Watch(context.Background(), keys.PGConfig(), clientv3.WithRev(0))
	for osd := 1; osd <= 3; osd++ {
		if !strings.Contains(get(t, c, keys.PGConfig()), fmt.Sprintf(`"primary":"%d"`, osd)) {
			continue
		}
		begin := time.Now()
		if _, err := c.Delete(context.Background(), keys.OSDState(meta.OSDNum(osd))); err != nil {
			t.Fatal(err)
		}
		for r := range watch {
			if !strings.Contains(string(r.Events[len(r.Events)-1].Kv.Value), fmt.Sprintf(`"primary":"%d"`, osd)) {
				break
			}
		}
		took := time.Since(begin)
		t.Logf("OSD %d: new primaries after %v", osd, took)
		if took > time.Second { // half of it would be a busy machine
			t.Errorf("new primaries after %v", took)
		}
		addOSDs(t, c, 3)
		until(t, "all OSDs are primaries again", func() bool {
			return strings.Contains(get(t, c, keys.PGConfig()), fmt.Sprintf(`"primary":"%d"`, osd))
		})
	}
}

// SIGTERM hands over at once: nobody waits for leases.
func TestHandover(t *testing.T) {
	server, err := embed.Start(embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	c := client(t, server.Endpoint())
	master := func() string { return get(t, c, keys.MonMaster()) }
	first := start(t, "--etcd_address", server.Endpoint(), "--enable_prometheus", "0")
	until(t, "the first master", func() bool { return master() != "" })
	was := master()
	second := start(t, "--etcd_address", server.Endpoint(), "--enable_prometheus", "0")
	until(t, "a standby monitor", func() bool { return strings.Contains(second.errs.String(), "on standby") })
	begin := time.Now()
	first.signals <- syscall.SIGTERM
	until(t, "the second master", func() bool { return master() != "" && master() != was })
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the second monitor took over after %v", took)
	}
	first.exit(exitOK)
	second.signals <- syscall.SIGTERM
	second.exit(exitOK)
	if m := master(); m != "" {
		t.Errorf("mon/master is still %s", m)
	}
}

// A second signal does not wait for an etcd that does not answer.
func TestSecondSignal(t *testing.T) {
	p := start(t, "--etcd_address", "127.0.0.1:1", "--enable_prometheus", "0", "--etcd_mon_timeout", "60000")
	until(t, "an attempt", func() bool { return strings.Contains(p.errs.String(), "cannot read config/global") || len(p.code) > 0 })
	p.signals <- syscall.SIGTERM
	p.signals <- syscall.SIGTERM
	select {
	case <-p.code: // 0 or 1: whatever came first
	case <-time.After(10 * time.Second):
		t.Fatal("the program does not end")
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitFailed, "etcd_address is required"},
		{[]string{"x"}, exitUsage, "unexpected argument"},
		{[]string{"--etcd_address"}, exitUsage, "needs a value"},
		{[]string{"--etcd_address", "ftp://x"}, exitFailed, "etcd_address"},
		{[]string{"--etcd_address", "x", "--osd_out_time", "soon"}, exitFailed, "osd_out_time"},
		{[]string{"--etcd_address", "x", "--use_antietcd", "1"}, exitFailed, "--embed-etcd"},
		{[]string{"--config_path", write("bad", "{")}, exitFailed, "must be a JSON object"},
		{[]string{"--config_path", write("anti", `{"use_antietcd":true,"etcd_address":"x"}`)}, exitFailed, "no antietcd"},
		{[]string{"--config_path", dir}, exitFailed, "configuration file"},
		{[]string{"--embed-etcd-listen", "127.0.0.1:0"}, exitFailed, "only for --embed-etcd"},
		{[]string{"--embed-etcd", write("file", ""), "--embed-etcd-listen", "127.0.0.1:0"}, exitFailed, "data directory"},
		{[]string{"--embed-etcd", filepath.Join(dir, "d"), "--embed-etcd-listen", "nowhere"}, exitFailed, "not host:port"},
	} {
		p := start(t, c.args...)
		p.exit(c.code)
		if got := p.errs.String(); !strings.Contains(got, c.want) {
			t.Errorf("%q: %s\nwant something with %q", c.args, got, c.want)
		}
	}
	p := start(t, "--help")
	p.exit(exitOK)
	if !strings.Contains(p.out.String(), "--embed_etcd DIR") {
		t.Error("help does not mention --embed_etcd")
	}
}
