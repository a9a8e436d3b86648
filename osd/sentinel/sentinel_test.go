package sentinel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"vitastor/internal/env"
	"vitastor/internal/etcd/embed"
)

// TestMain lets the test binary be all three processes.
func TestMain(m *testing.M) {
	if Is() {
		os.Exit(Main())
	}
	if osd := os.Getenv("SENTINEL_TEST_OSD"); osd != "" {
		playOSD(osd)
	}
	os.Exit(m.Run())
}

// playOSD starts a sentinel, says so, and waits to be killed or told to end.
func playOSD(text string) {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	os.Unsetenv("SENTINEL_TEST_OSD")
	s, err := Start(o.OSD, o.Etcd)
	if err == nil {
		err = s.Guard(o.Lease)
	}
	fmt.Println(s.child.Process.Pid, err)
	bufio.NewReader(os.Stdin).ReadString('\n')
	s.Close()
	time.Sleep(time.Hour)
}

type fixture struct {
	t      *testing.T
	client *clientv3.Client
	etcd   Etcd
}

func newFixture(t *testing.T) *fixture {
	server, err := embed.Start(embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &fixture{t, c, Etcd{Endpoints: []string{server.Endpoint()}}}
}

// osd starts a process with a key under a lease of a minute.
func (f *fixture) osd(key string) (cmd *exec.Cmd, end func(), sentinel int) {
	ctx := context.Background()
	lease, err := f.client.Grant(ctx, 60)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.client.Put(ctx, key, "up", clientv3.WithLease(lease.ID)); err != nil {
		f.t.Fatal(err)
	}
	text, _ := json.Marshal(order{7, env.LeaseID(lease.ID), f.etcd})
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SENTINEL_TEST_OSD="+string(text))
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, said, _ := strings.Cut(strings.TrimSpace(line), " ")
	if sentinel, err = strconv.Atoi(pid); err != nil || said != "<nil>" {
		f.t.Fatalf("the process said %q", line)
	}
	return cmd, func() { in.Write([]byte("\n")) }, sentinel
}

// gone waits until a key is gone and returns how long that took.
func (f *fixture) gone(key string, limit time.Duration) time.Duration {
	f.t.Helper()
	start := time.Now()
	for time.Since(start) < limit {
		re, err := f.client.Get(context.Background(), key)
		if err == nil && len(re.Kvs) == 0 {
			return time.Since(start)
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.t.Errorf("%s is still there after %v", key, limit)
	return limit
}

func (f *fixture) there(key string) {
	f.t.Helper()
	if re, err := f.client.Get(context.Background(), key); err != nil || len(re.Kvs) != 1 {
		f.t.Errorf("%s: %v %v", key, re, err)
	}
}

func TestKilledOSD(t *testing.T) {
	f := newFixture(t)
	cmd, _, pid := f.osd("/osd/7")
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	for i := 0; i < 100 && err == nil && strings.TrimSpace(string(comm)) != Name; i++ {
		time.Sleep(10 * time.Millisecond) // until it has renamed itself
		comm, err = os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	}
	if err != nil || strings.TrimSpace(string(comm)) != Name {
		t.Errorf("the child is called %q, %v", comm, err)
	}
	// A frozen process is not dead, and signals to the child are not for it.
	cmd.Process.Signal(syscall.SIGSTOP)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		syscall.Kill(pid, sig)
	}
	time.Sleep(300 * time.Millisecond)
	f.there("/osd/7")
	cmd.Process.Signal(syscall.SIGKILL)
	took := f.gone("/osd/7", 5*time.Second)
	t.Logf("revoked %v after the kill", took)
	for i := 0; syscall.Kill(pid, 0) == nil; i++ {
		if i == 2000 {
			t.Fatal("the sentinel still runs")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The OSD ends orderly: the lease goes, too, whoever is first.
func TestClosed(t *testing.T) {
	f := newFixture(t)
	_, end, _ := f.osd("/osd/7")
	f.there("/osd/7")
	end()
	f.gone("/osd/7", 5*time.Second)
}

func TestOrders(t *testing.T) {
	for _, c := range []struct {
		in    string
		lease env.LeaseID
		bad   bool
	}{
		{"", 0, false},
		{`{"OSD":1,"Lease":5}` + "\n", 5, false},
		{`{"OSD":1,"Lease":5}` + "\n" + `{"OSD":1,"Lease":6}` + "\n", 6, false},
		{`{"OSD":1,"Lease":5}` + "\n" + `{"OSD":1,"Le`, 5, true}, // died in the middle of a line
		{"x\n", 0, true},
	} {
		o, err := readOrders(strings.NewReader(c.in))
		if o.Lease != c.lease || (err != nil) != c.bad {
			t.Errorf("%q: %+v, %v", c.in, o, err)
		}
	}
}
