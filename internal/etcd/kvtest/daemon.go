package kvtest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is an etcd in a process of its own. It dies with the test.
type Daemon struct {
	t        testing.TB
	binary   string
	args     []string
	endpoint string
	cmd      *exec.Cmd
}

// FindDaemon returns the path of Debian's etcd. Without one the test is skipped
// with a message, but in CI it fails.
func FindDaemon(t testing.TB) string {
	path, err := exec.LookPath("etcd")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("etcd is missing: CI has to install the package etcd-server")
	}
	if err != nil {
		t.Skip("etcd is not in PATH: install the package etcd-server to run this test")
	}
	return path
}

// StartDaemons starts a cluster of n members with the options of etcd.md §5;
// extra options come after these.
func StartDaemons(t testing.TB, n int, extra ...string) []*Daemon {
	binary := FindDaemon(t)
	peers, clients, names := make([]string, n), make([]string, n), make([]string, n)
	for i := range n {
		peers[i], clients[i] = freeEndpoint(t), freeEndpoint(t)
		names[i] = fmt.Sprintf("m%d=%s", i, peers[i])
	}
	daemons := make([]*Daemon, n)
	for i := range n {
		daemons[i] = &Daemon{t: t, binary: binary, endpoint: clients[i], args: append([]string{
			"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(t.TempDir(), "data"),
			"--listen-client-urls", clients[i], "--advertise-client-urls", clients[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(names, ","), "--max-txn-ops=100000",
			"--max-request-bytes=104857600", "--auto-compaction-mode=revision",
			"--auto-compaction-retention=10", "--snapshot-count=10000", "--logger=zap", "--log-outputs=stderr", "--log-level=error",
		}, extra...)}
		daemons[i].launch()
		t.Cleanup(daemons[i].Kill)
	}
	for _, d := range daemons {
		d.waitHealthy()
	}
	return daemons
}

// Endpoint is the address for clients.
func (d *Daemon) Endpoint() string { return d.endpoint }

// Kill is kill -9.
func (d *Daemon) Kill() {
	if d.cmd != nil {
		d.cmd.Process.Signal(syscall.SIGCONT)
		d.cmd.Process.Kill()
		d.cmd.Wait()
		d.cmd = nil
	}
}

// Start starts a killed daemon on its old data and waits until it serves.
func (d *Daemon) Start() {
	d.launch()
	d.waitHealthy()
}

// Freeze stops the process without ending it; Thaw lets it go on.
func (d *Daemon) Freeze() { d.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (d *Daemon) Thaw() { d.cmd.Process.Signal(syscall.SIGCONT) }

func (d *Daemon) launch() {
	d.cmd = exec.Command(d.binary, d.args...)
	d.cmd.Stderr = os.Stderr
	if runtime.GOARCH != "amd64" { // etcd 3.4 wants to be asked twice
		d.cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
	}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Daemon) waitHealthy() {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		r, err := client.Get(d.endpoint + "/health")
		if err != nil {
			continue
		}
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return
		}
	}
	d.t.Fatalf("etcd at %s is not healthy after %v", d.endpoint, patience)
}

func freeEndpoint(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}
