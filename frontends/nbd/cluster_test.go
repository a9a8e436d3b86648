package nbd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
)

// served is a real cluster and the program.
type served struct {
	*testing.T
	c       *cluster.Cluster
	program string
	dir     string
}

// TestCluster runs the program on a cluster of real processes.
func TestCluster(t *testing.T) {
	s := newServed(t)
	for _, test := range []struct {
		name string
		f    func(*served)
	}{
		{"qemu", (*served).qemu},
		{"nbd tools", (*served).tools},
		{"parents and snapshots", (*served).layers},
		{"resize", (*served).resize},
		{"loss of an OSD", (*served).lostOSD},
		{"TLS", (*served).tls},
		{"mistakes", (*served).mistakes},
		{"clients that die", (*served).deaths},
		{"map", (*served).mapped},
		{"map in the background", (*served).mapBackground},
		{"netlink", (*served).netlinkMapped},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(&served{t, s.c, s.program, s.dir}) })
	}
}

func newServed(t *testing.T) *served {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-nbd-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	bin := filepath.Join(dir, "bin")
	s := &served{T: t, dir: dir, program: filepath.Join(bin, "vitastor-nbd")}
	programs, err := cluster.Build(bin)
	s.must(err)
	out, err := exec.Command("go", "build", "-o", bin+"/", "./vitastor-nbd").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.c, err = cluster.New(cluster.Config{Dir: dir, Bin: programs, Log: t.Logf})
	if errors.Is(err, cluster.ErrNoEtcd) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	s.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.c.Logs(20))
		}
		if err := s.c.Close(); err != nil {
			t.Error(err)
		}
	})
	s.must(s.c.Start())
	s.must(s.c.CreatePool(1, cluster.Replicated("testpool", 2, 16)))
	for i, bytes := range []uint64{64 * mib, 32 * mib, mib + 1000} {
		s.must(s.c.CreateImage(1, uint64(i+1), fmt.Sprintf("image%d", i+1), bytes))
	}
	return s
}

func (s *served) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// serving is a running vitastor-nbd serve.
type serving struct {
	s    *served
	cmd  *exec.Cmd
	log  bytes.Buffer
	uris []string
}

// args are a command line for our cluster.
func (s *served) args(args ...string) []string {
	return append(args, "--config_path", s.c.ConfigFile())
}

// serve starts the program and waits until it is ready.
func (s *served) serve(exports int, args ...string) *serving {
	s.Helper()
	v := &serving{s: s, cmd: exec.Command(s.program, s.args(append([]string{"serve"}, args...)...)...)}
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	v.cmd.Stderr = &v.log
	out, err := v.cmd.StdoutPipe()
	s.must(err)
	s.must(v.cmd.Start())
	s.Cleanup(func() { v.cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	for range exports {
		if !lines.Scan() {
			v.cmd.Wait()
			s.Fatalf("serve %q ended: %s", args, v.log.String())
		}
		v.uris = append(v.uris, lines.Text())
	}
	go io.Copy(io.Discard, out)
	return v
}

// stop ends the program and expects success.
func (v *serving) stop() {
	v.s.Helper()
	v.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- v.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			v.s.Errorf("serve: %v\n%s", err, v.log.String())
		}
	case <-time.After(20 * time.Second):
		v.s.Errorf("serve does not stop\n%s", v.log.String())
	}
}

// run runs the program to its end.
func (s *served) run(args ...string) (out, errs string, code int) {
	s.Helper()
	cmd := exec.Command(s.program, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	cmd.Run()
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// until repeats a peer until it prints what is wanted: the server sees changes
// in etcd a moment later.
func (s *served) until(want []string, name string, args ...string) {
	s.Helper()
	s.must(s.c.Until(fmt.Sprint(name, args), 5*time.Second, func() error {
		out, err := peer(s, name, args...)
		for _, w := range want {
			if err == nil && !strings.Contains(out, w) {
				err = fmt.Errorf("no %q", w)
			}
		}
		if err != nil {
			return fmt.Errorf("%v in\n%s", err, out)
		}
		return nil
	}))
}

func (s *served) qemu() {
	v := s.serve(1, "--image", "image1", "--listen", "127.0.0.1:0")
	uri := v.uris[0]
	file := filepath.Join(s.TempDir(), "raw")
	must(s, nil, "qemu-img", "create", "-f", "raw", file, "64M")
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -P 0xa5 1M 3M", "-c", "write -P 7 63M 1M", "-c", "write -P 8 12345 678", file)
	must(s, nil, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-m", "16", "-W", file, uri)
	must(s, []string{"Images are identical"}, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, uri)
	m := must(s, nil, "qemu-img", "map", "-f", "raw", "--output=json", uri)
	if !strings.Contains(m, `"start": 4194304, "length": 61865984, "depth": 0, "present": true, "zero": true`) {
		s.Errorf("map does not know what is empty:\n%s", m)
	}
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -z -u 1M 2M", "-c", "discard 63M 1M", "-c", "write -z 3000k 1000", "-c", "flush", uri)
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -z 1M 2M", "-c", "write -z 63M 1M", "-c", "write -z 3000k 1000", file)
	must(s, []string{"Images are identical"}, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, uri)
	v.stop()
	// What was flushed is there for the next server, also on a unix socket.
	v = s.serve(1, "--image", "image1", "--socket", filepath.Join(s.dir, "sock"), "--readonly")
	must(s, []string{"Images are identical"}, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, v.uris[0])
	v.stop()
}

func (s *served) tools() {
	v := s.serve(2, "--image", "image2,image3", "--listen", "127.0.0.1:0")
	must(s, []string{"export-size: 33554432", "can_multi_conn: true"}, "nbdinfo", v.uris[0])
	must(s, []string{`export="image2"`, `export="image3"`}, "nbdinfo", "--list", strings.TrimSuffix(v.uris[0], "image2"))
	data := make([]byte, mib+1000)
	for i := range data {
		data[i] = byte(i * 11 / 7)
	}
	file := filepath.Join(s.TempDir(), "odd")
	s.must(os.WriteFile(file, data, 0o666))
	must(s, nil, "nbdcopy", "--flush", file, v.uris[1]) // its size is no multiple of anything
	must(s, nil, "nbdcopy", "--request-size=4096", v.uris[1], file+"2")
	got, err := os.ReadFile(file + "2")
	s.must(err)
	if !bytes.Equal(got, data) {
		s.Error("what was copied there and back is not the same")
	}
	v.stop()
	// All images: the new one appears without a restart.
	v = s.serve(1, "--all", "--listen", "127.0.0.1:0")
	s.must(s.c.CreateImage(1, 9, "late", mib))
	s.until([]string{`export="image1"`, `export="late"`}, "nbdinfo", "--list", v.uris[0])
	v.stop()
}

// layers: a snapshot and its child.
func (s *served) layers() {
	v := s.serve(1, "--all", "--listen", "127.0.0.1:0")
	uri := func(name string) string { return v.uris[0] + name }
	s.must(s.c.CreateImage(1, 20, "base", 8*mib))
	s.until(nil, "nbdinfo", uri("base"))
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -P 1 0 8M", "-c", "flush", uri("base"))
	key := func(n int) string { return s.c.Keys.InodeConfig(meta.MakeInode(1, uint64(n))) }
	s.must(s.c.PutJSON(key(20), map[string]any{"name": "base@snap", "size": 8 * mib, "readonly": true}))
	s.must(s.c.PutJSON(key(21), map[string]any{"name": "base", "size": 8 * mib, "parent_id": 20}))
	s.until([]string{"is_read_only: true"}, "nbdinfo", uri("base@snap"))
	// Zeroes and discards must not let the parent be seen.
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -z -u 1M 1M", "-c", "write -P 5 100k 1", "-c", "flush", uri("base"))
	must(s, nil, "qemu-io", "-f", "raw", "-c", "read -P 0 1M 1M", "-c", "read -P 1 2M 6M", "-c", "read -P 5 100k 1",
		"-c", "read -P 1 0 100k", uri("base"))
	must(s, nil, "qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 8M", uri("base@snap"))
	v.stop()
}

func (s *served) resize() {
	v := s.serve(1, "--all", "--listen", "127.0.0.1:0")
	s.must(s.c.CreateImage(1, 30, "grows", mib))
	s.until([]string{"export-size: 1048576"}, "nbdinfo", v.uris[0]+"grows")
	s.must(s.c.PutJSON(s.c.Keys.InodeConfig(meta.MakeInode(1, 30)), map[string]any{"name": "grows", "size": 2 * mib}))
	s.until([]string{"export-size: 2097152"}, "nbdinfo", v.uris[0]+"grows")
	v.stop()
}

// lostOSD: clients only see a pause.
func (s *served) lostOSD() {
	v := s.serve(1, "--image", "image2", "--listen", "127.0.0.1:0")
	done := make(chan string, 1)
	go func() {
		args := []string{"-f", "raw"}
		for i := range 30 {
			args = append(args, "-c", fmt.Sprintf("write -P %d %dM 1M", i+1, i), "-c", "flush", "-c", fmt.Sprintf("read -P %d %dM 1M", i+1, i))
		}
		out, err := exec.Command("qemu-io", append(args, v.uris[0])...).CombinedOutput()
		if err != nil {
			out = append(out, err.Error()...)
		}
		done <- string(out)
	}()
	time.Sleep(100 * time.Millisecond)
	s.must(s.c.OSD(1).Kill())
	select {
	case out := <-done:
		if strings.Contains(out, "fail") || strings.Contains(out, "rror") || strings.Contains(out, "exit") {
			s.Error(out)
		}
	case <-time.After(60 * time.Second):
		s.Error("writes do not end after the loss of an OSD")
	}
	// Zeroes on objects of the dead OSD stay zeroes when it is back.
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -z -u 0 16M", "-c", "flush", v.uris[0])
	s.must(s.c.OSD(1).Start())
	s.must(s.c.WaitState(1, "active", 30*time.Second))
	must(s, nil, "qemu-io", "-f", "raw", "-c", "read -P 0 0 16M", "-c", "read -P 20 19M 1M", v.uris[0])
	v.stop()
}

// deaths: clients that are killed in the middle leave nothing behind.
func (s *served) deaths() {
	v := s.serve(1, "--image", "image2", "--socket", filepath.Join(s.dir, "deaths"))
	for range 5 {
		cmd := exec.Command("qemu-img", "bench", "-w", "-c", "1000000", "-d", "64", "-s", "4096", "-t", "none", "-f", "raw", v.uris[0])
		s.must(cmd.Start())
		time.Sleep(200 * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	must(s, nil, "qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", "-c", "flush", "-c", "read -P 9 0 1M", v.uris[0])
	v.stop()
	// On a busy machine some were killed before they had connected.
	if n := strings.Count(v.log.String(), "msg=client "); n < 2 {
		s.Errorf("%d clients in the log:\n%s", n, v.log.String())
	}
}

func (s *served) mistakes() {
	busy := s.serve(1, "--image", "image1", "--listen", "127.0.0.1:0")
	taken := strings.TrimSuffix(strings.TrimPrefix(busy.uris[0], "nbd://"), "/image1")
	for _, c := range []struct {
		args []string
		want string
	}{
		{s.args("serve", "--image", "nothing"), "image nothing does not exist: `vitastor-cli ls` lists images"},
		{s.args("serve"), "which image?"},
		{s.args("serve", "--image", "image1", "--pool", "1"), "use either --image, or"},
		{s.args("serve", "--pool", "1", "--inode", "7"), "needs all of --pool, --inode and --size"},
		{s.args("serve", "--pool", "70000", "--inode", "7", "--size", "4096"), "pools are numbered from 1"},
		{s.args("serve", "--pool", "77", "--inode", "7", "--size", "4096"), "its pool 77 does not exist"},
		{s.args("serve", "--image", "image1", "--listen", taken), "address already in use"},
		{s.args("serve", "--image", "image1", "--listen", "1.2.3.4.5:6"), "--listen 1.2.3.4.5:6"},
		{s.args("serve", "--image", "image1", "--socket", "/no/such/folder/s"), "/no/such/folder/s"},
		{s.args("serve", "--image", "image1", "--nbd_max_device", "3"), "did you mean --nbd_max_devices?"},
		{s.args("serve", "--image", "image1", "--memory", "1M"), "a number is expected"},
		{s.args("serve", "--image", "image1", "--tls_cert", "x"), "needs both --tls_cert and --tls_key"},
		{s.args("serve", "/dev/nbd0", "--image", "image1"), "use map"},
		{[]string{"serve", "--image", "x", "--config_path", "/nowhere"}, "/nowhere"},
		{[]string{"serve", "--image", "x", "--etcd_address", "127.0.0.1:1", "--max_etcd_attempts", "1"}, "http://127.0.0.1:1"},
		{s.args("map", "--image", "nothing"), ""},
		{s.args("unmap", "/dev/nbd7"), "is not mapped"},
		{s.args("unmap"), "which device?"},
		{s.args("unmap", "/dev/sda"), "is not an NBD device"},
		{s.args("netlink-revive", "--image", "image1"), "which device?"},
	} {
		_, errs, code := s.run(c.args...)
		if code != 1 || !strings.Contains(errs, c.want) || strings.Contains(errs, "panic") {
			s.Errorf("%q: exit %d, want %q in %q", c.args, code, c.want, errs)
		}
	}
	busy.stop()
	for _, args := range [][]string{{}, {"--help"}, {"what"}, {"-h"}} {
		out, _, code := s.run(args...)
		if code != 0 || !strings.Contains(out, "netlink-revive") {
			s.Errorf("%q: exit %d, %q", args, code, out)
		}
	}
	out, _, code := s.run("ls", "--json")
	if code != 0 || strings.TrimSpace(out) != "{}" {
		s.Errorf("ls --json without devices: exit %d, %q", code, out)
	}
}

// tls: psk is not offered, certificates are.
func (s *served) tls() {
	dir := s.TempDir()
	for _, args := range [][]string{
		{"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca-key.pem", "-out", "ca-cert.pem"},
		{"req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
			"-keyout", "server-key.pem", "-out", "server.csr"},
		{"x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2",
			"-copy_extensions", "copy", "-out", "server-cert.pem"},
	} {
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
			s.Skip("openssl is not installed (Debian: openssl)")
		} else if err != nil {
			s.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
	}
	v := s.serve(1, "--image", "image1", "--listen", "127.0.0.1:0", "--tls_cert", dir+"/server-cert.pem", "--tls_key", dir+"/server-key.pem",
		"--tls_require")
	port := strings.TrimSuffix(v.uris[0][strings.LastIndex(v.uris[0], ":")+1:], "/image1")
	secure := fmt.Sprintf("nbds://localhost:%s/image1?tls-certificates=%s", port, dir)
	must(s, []string{"newstyle-fixed with TLS", "export-size: 67108864"}, "nbdinfo", secure)
	file := filepath.Join(dir, "file")
	data := bytes.Repeat([]byte("secret! "), 64*mib/8)
	s.must(os.WriteFile(file, data, 0o600))
	must(s, nil, "nbdcopy", "--flush", file, secure)
	must(s, nil, "nbdcopy", secure, file+"2")
	got, err := os.ReadFile(file + "2")
	s.must(err)
	if !bytes.Equal(got, data) {
		s.Error("data is not the same after a way through TLS")
	}
	if out, err := peer(s, "qemu-img", "info", fmt.Sprintf("nbd://localhost:%s/image1", port)); err == nil || !strings.Contains(out, "TLS") {
		s.Errorf("without TLS: %v %s", err, out)
	}
	v.stop()
}
