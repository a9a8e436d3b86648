package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test program start a cluster and wait for its death.
const childEnv = "VITASTOR_E2E_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		c, err := New(Config{Dir: dir, Namespaces: canNamespaces(), OSDs: -1, Monitors: -1})
		if err == nil {
			err = c.Start()
		}
		fmt.Println("started", err)
		select {}
	}
	os.Exit(m.Run())
}

func canNamespaces() bool {
	n, err := newNetwork()
	if err == nil {
		n.remove()
	}
	return err == nil
}

func start(t *testing.T, c Config) *Cluster {
	t.Helper()
	c.Dir, c.Log = t.TempDir(), t.Logf
	cl, err := New(c)
	if errors.Is(err, ErrNoEtcd) && os.Getenv("CI") == "" || errors.Is(err, ErrNoNamespaces) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
		if left := marked(cl.mark); len(left) > 0 {
			t.Errorf("left after Close: %v", left)
		}
	})
	if err := cl.Start(); err != nil {
		t.Fatal(err)
	}
	return cl
}

// TestEtcd: three members, two of them down and up again.
func TestEtcd(t *testing.T) {
	c := start(t, Config{EtcdMembers: 3, OSDs: -1, Monitors: -1})
	if err := c.Put("/x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{1, 2} {
		if err := c.Etcd(i).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get("/x"); err == nil {
		t.Error("etcd answers without majority")
	}
	if err := c.Etcd(2).Start(); err != nil {
		t.Fatal(err)
	}
	err := c.Until("etcd answers again", 15*time.Second, func() error {
		v, err := c.Get("/x")
		if err == nil && string(v) != "1" {
			err = fmt.Errorf("value %q", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := c.Etcd(2).Start(); err == nil {
		t.Error("a second start while it runs")
	}
	if err := c.Etcd(1).Kill(); err == nil {
		t.Error("killed what does not run")
	}
}

// TestNamespaces: cables and one-way losses work, and can be undone.
func TestNamespaces(t *testing.T) {
	c := start(t, Config{EtcdMembers: 1, OSDs: -1, Monitors: -1, Namespaces: true})
	dial := func() error {
		conn, err := net.DialTimeout("tcp", c.Endpoints()[0], 300*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, cut := range []struct {
		name     string
		cut, end func() error
	}{
		{"cable", func() error { return c.Isolate("etcd1") }, func() error { return c.Rejoin("etcd1") }},
		{"there", func() error { return c.Cut(Host, "etcd1") }, func() error { return c.Mend(Host, "etcd1") }},
		{"back", func() error { return c.Cut("etcd1", Host) }, func() error { return c.Mend("etcd1", Host) }},
	} {
		if err := dial(); err != nil {
			t.Fatalf("before %s: %v", cut.name, err)
		}
		if err := cut.cut(); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if err := dial(); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s is cut: %v", cut.name, err)
		}
		if err := cut.end(); err != nil {
			t.Fatal(err)
		}
		if err := c.Until("mended", 5*time.Second, dial); err != nil {
			t.Error(err)
		}
	}
}

// TestOrphans: whoever uses a cluster and is killed leaves nothing running, and
// no namespace once somebody else uses some.
func TestOrphans(t *testing.T) {
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip(ErrNoEtcd)
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := out.Read(line)
	mark := fmt.Sprintf("%d-%s", child.Process.Pid, filepath.Base(dir))
	if got := strings.TrimSpace(string(line[:n])); got != "started <nil>" || len(marked(mark)) == 0 {
		t.Errorf("the child says %q, and runs %v", got, marked(mark))
	}
	child.Process.Kill()
	child.Wait()
	for end := time.Now().Add(5 * time.Second); len(marked(mark)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left: %v", marked(mark))
		}
	}
	removeStale()
	if list, err := run("", "ip", "netns", "list"); err == nil && strings.Contains(list, fmt.Sprintf("%s%d-", namePrefix, child.Process.Pid)) {
		t.Errorf("namespaces are left: %s", list)
	}
}
