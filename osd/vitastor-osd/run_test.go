package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"vitastor/frontends/disk"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/osd/sentinel"
)

// childArgs in the environment makes the test binary be the program.
const childArgs = "VITASTOR_OSD_TEST_ARGS"

func TestMain(m *testing.M) {
	if sentinel.Is() {
		os.Exit(sentinel.Main())
	}
	if text := os.Getenv(childArgs); text != "" {
		os.Unsetenv(childArgs)
		var args []string
		if err := json.Unmarshal([]byte(text), &args); err != nil {
			panic(err)
		}
		os.Exit(run(args, os.Stdout, os.Stderr, nil))
	}
	exitNow = func(int) {} // several OSDs run in this process
	os.Exit(m.Run())
}

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

// fixture is an etcd and a folder.
type fixture struct {
	*testing.T
	dir    string
	conf   string
	client *clientv3.Client
	keys   schema.Keys
}

func newFixture(t *testing.T) *fixture {
	s, err := embed.Start(embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	f := &fixture{T: t, dir: t.TempDir(), keys: schema.NewKeys("")}
	if f.client, err = clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.client.Close() })
	f.conf = filepath.Join(f.dir, "vitastor.conf")
	// Short times: an OSD whose number is taken gives up after 4 s.
	text := fmt.Sprintf(`{"etcd_address":[%q],"etcd_lease_ttl":2,"etcd_report_interval":1,"max_etcd_attempts":1,"etcd_quick_timeout":400}`, s.Endpoint())
	if err := os.WriteFile(f.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// programs catches what vitastor-disk would run.
type programs struct{ args []string }

func (p *programs) Output(string, string, ...string) (string, error) { return "", nil }
func (p *programs) Exec(name string, args ...string) error {
	p.args = append([]string{name}, args...)
	return nil
}

// disk prepares a disk in a file and returns how vitastor-disk exec-osd starts
// its OSD.
func (f *fixture) disk(num int, name string) (path string, args []string) {
	f.Helper()
	path = filepath.Join(f.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Truncate(path, 128<<20); err != nil {
		f.Fatal(err)
	}
	p := &programs{}
	for _, line := range [][]string{
		{"prepare", "--osd_num", fmt.Sprint(num), "--data_device", path, "--meta_reserve", "2x,8M", "--disable_data_fsync", "1", "--data_csum_type", "crc32c"},
		{"exec-osd", path},
	} {
		var out output
		tool := disk.Tool{In: strings.NewReader(""), Out: &out, Err: &out, Programs: p}
		if code := tool.Main(line); code != 0 {
			f.Fatalf("vitastor-disk %v: %s", line, &out)
		}
	}
	if len(p.args) == 0 || p.args[0] != "vitastor-osd" {
		f.Fatalf("exec-osd runs %v", p.args)
	}
	return path, p.args[1:]
}

func (f *fixture) get(key string) string {
	r, err := f.client.Get(f.Context(), key)
	if err != nil {
		f.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func (f *fixture) put(key, value string) {
	if _, err := f.client.Put(f.Context(), key, value); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) until(what string, limit time.Duration, cond func() bool) time.Duration {
	f.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > limit {
			f.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// process is a run of the program.
type process struct {
	f       *fixture
	errs    output
	signals chan os.Signal
	code    chan int
}

func (f *fixture) start(args ...string) *process {
	p := &process{f: f, signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	go func() {
		p.code <- run(append([]string{"--config_path", f.conf}, args...), io.Discard, &p.errs, p.signals)
	}()
	f.Cleanup(func() {
		p.signals <- syscall.SIGTERM
		if f.Failed() {
			f.Log(p.errs.String())
		}
	})
	return p
}

func (p *process) exit(want int) {
	p.f.Helper()
	select {
	case got := <-p.code:
		if got != want {
			p.f.Errorf("exit code %d, want %d\n%s", got, want, &p.errs)
		}
	case <-time.After(20 * time.Second):
		p.f.Fatal("the program does not end")
	}
}

func TestCluster(t *testing.T) {
	f := newFixture(t)
	var all []*process
	for n := 1; n <= 3; n++ {
		path, args := f.disk(n, fmt.Sprintf("osd%d.img", n))
		if n == 2 { // by hand: the superblock knows the rest
			args = []string{"--data_device", path}
		}
		all = append(all, f.start(args...))
	}
	f.put(f.keys.Pools(), `{"1":{"name":"p","scheme":"replicated","pg_size":3,"pg_minsize":2,"pg_count":2,"failure_domain":"osd"}}`)
	f.put(f.keys.PGConfig(), `{"items":{"1":{"1":{"osd_set":["1","2","3"],"primary":"1"},"2":{"osd_set":["1","2","3"],"primary":"2"}}}}`)
	for num := range 2 {
		f.until("the PGs are active", 15*time.Second, func() bool {
			return strings.Contains(f.get(f.keys.PGState(meta.PG{Pool: 1, Num: meta.PGNum(num + 1)})), `"state":["active"]`)
		})
	}
	f.until("statistics", 5*time.Second, func() bool {
		return strings.Contains(f.get(f.keys.PGStats(meta.PG{Pool: 1, Num: 2})), `"write_osd_set":[1,2,3]`)
	})
	for n, p := range all {
		if text := p.errs.String(); strings.Contains(text, "not known") || strings.Contains(text, "level=ERROR") {
			t.Errorf("OSD %d complains: %s", n+1, text)
		}
	}
	// Handed over at once, and back.
	all[1].signals <- syscall.SIGTERM
	all[1].exit(0)
	if s := f.get(f.keys.OSDState(2)); s != "" {
		t.Errorf("the key is still there: %s", s)
	}
	again := f.start("--data_device", filepath.Join(f.dir, "osd2.img"))
	f.until("the PG is active again", 10*time.Second, func() bool {
		return strings.Contains(f.get(f.keys.PGState(meta.PG{Pool: 1, Num: 2})), `"state":["active"]`)
	})
	for _, p := range []*process{all[0], again, all[2]} {
		p.signals <- syscall.SIGINT
		p.exit(0)
	}
}

func TestNumberInUse(t *testing.T) {
	f := newFixture(t)
	_, args := f.disk(1, "first.img")
	first := f.start(args...)
	f.until("it is registered", 10*time.Second, func() bool { return f.get(f.keys.OSDState(1)) != "" })
	same := f.start(args...)
	same.exit(1)
	if !strings.Contains(same.errs.String(), "first.img: it is in use by pid") {
		t.Errorf("%s", &same.errs)
	}
	_, args = f.disk(1, "second.img")
	second := f.start(args...)
	second.exit(0)
	if text := second.errs.String(); !strings.Contains(text, "OSD 1 is running already: on host") || !strings.Contains(text, "waiting for the key") {
		t.Error(text)
	}
	if f.get(f.keys.OSDState(1)) == "" {
		t.Error("the first one lost its key")
	}
	first.signals <- syscall.SIGTERM
	first.exit(0)
}

// The kernel tells the sentinel that the process is dead: the key vanishes long
// before the lease ends, and the next process does not wait.
func TestKill(t *testing.T) {
	f := newFixture(t)
	_, args := f.disk(1, "osd1.img")
	text, _ := json.Marshal(append([]string{"--config_path", f.conf, "--etcd_lease_ttl", "60"}, args...))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0])
	c.Env = append(os.Environ(), childArgs+"="+string(text))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	f.until("it is registered", 10*time.Second, func() bool { return f.get(f.keys.OSDState(1)) != "" })
	c.Process.Kill()
	c.Wait()
	took := f.until("the key vanishes", 10*time.Second, func() bool { return f.get(f.keys.OSDState(1)) == "" })
	t.Logf("noticed after %v", took)
	next := f.start(args...)
	f.until("it is registered again", 3*time.Second, func() bool { return f.get(f.keys.OSDState(1)) != "" })
	next.signals <- syscall.SIGTERM
	next.exit(0)
}

func TestWaitsForEtcd(t *testing.T) {
	f := newFixture(t)
	path, _ := f.disk(1, "osd1.img")
	p := f.start("--etcd_address", "127.0.0.1:1", "--etcd_slow_timeout", "300", "--data_device", path)
	f.until("it says so", 10*time.Second, func() bool { return strings.Contains(p.errs.String(), "cannot read the configuration from etcd") })
	p.signals <- syscall.SIGTERM
	p.exit(0)
}

// config/global has other addresses of etcd than the file: they are used, a
// wrong one is not.
func TestOtherAddressOfEtcd(t *testing.T) {
	f := newFixture(t)
	address := strings.TrimPrefix(f.client.Endpoints()[0], "http://")
	_, args := f.disk(1, "osd1.img")
	f.put(f.keys.Global(), fmt.Sprintf(`{"etcd_address":["%s/v3","127.0.0.1:1"]}`, address))
	p := f.start(args...)
	f.until("it is registered", 10*time.Second, func() bool { return f.get(f.keys.OSDState(1)) != "" })
	f.put(f.keys.Global(), fmt.Sprintf(`{"etcd_address":"127.0.0.1:1,%s"}`, address))
	f.until("the second change", 5*time.Second, func() bool { return strings.Count(p.errs.String(), "using other addresses of etcd") == 2 })
	f.put(f.keys.Global(), `{"etcd_address":"ftp://x"}`)
	f.until("the refusal", 5*time.Second, func() bool { return strings.Contains(p.errs.String(), "the addresses of etcd stay as they were") })
	time.Sleep(3 * time.Second) // longer than the lease
	p.signals <- syscall.SIGTERM
	p.exit(0)
	if f.get(f.keys.OSDState(1)) != "" || strings.Contains(p.errs.String(), "level=ERROR") {
		t.Error(p.errs.String())
	}
}

func TestCommandLines(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--help", 0, "Usage: vitastor-osd --etcd_address LIST"},
		{"--help", 0, "--etcd_lease_ttl SECONDS"},
		{"--version", 0, "compatible with release 3.0.8"},
		{"osd1.img", 2, `unexpected argument "osd1.img"`},
		{"--osd_num", 2, "option --osd_num needs a value"},
		{"", 1, `etcd_address is empty: set it to a list like 10.0.0.1:2379,10.0.0.2:2379; in ` + none},
		{"--etcd_address x:y", 1, "etcd_address"},
		{"--etcd_address 127.0.0.1:1 --data_device /no/such/disk", 1, "cannot open disk /no/such/disk: no such file or directory"},
		{"--config_path " + broken, 1, "it must be a JSON object"},
	} {
		var out output
		args := strings.Fields(c.args)
		if !strings.Contains(c.args, "config_path") {
			args = append(args, "--config_path", none)
		}
		if code := run(args, &out, &out, nil); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: code %d, want %d and %q:\n%.2000s", c.args, code, c.code, c.want, &out)
		}
	}
}
