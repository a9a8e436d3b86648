package vhost

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/vhost/frontend"
	"vitastor/internal/meta"
)

const mib = 1 << 20

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
		{"two images", (*served).twoImages},
		{"map", (*served).mapped},
		{"mistakes", (*served).mistakes},
		{"killed", func(s *served) { s.killed(frontend.Options{EventIdx: true, Indirect: true}) }},
		{"killed, packed", func(s *served) { s.killed(frontend.Options{EventIdx: true, Packed: true}) }},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(&served{t, s.c, s.program, s.dir}) })
	}
}

func newServed(t *testing.T) *served {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-vhost-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	bin := filepath.Join(dir, "bin")
	s := &served{T: t, dir: dir, program: filepath.Join(bin, programName)}
	programs, err := cluster.Build(bin)
	s.must(err)
	out, err := exec.Command("go", "build", "-o", bin+"/", "./"+programName).CombinedOutput()
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
	for i := range uint64(2) {
		s.must(s.c.CreateImage(1, i+1, fmt.Sprintf("image%d", i+1), 16*mib))
	}
	t.Setenv("VITASTOR_RUN_DIR", filepath.Join(dir, "run"))
	return s
}

func (s *served) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// serve starts the program and waits until it is ready.
func (s *served) serve(sockets int, args ...string) *exec.Cmd {
	s.Helper()
	cmd := exec.Command(s.program, append(args, "--config_path", s.c.ConfigFile())...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &lines{}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	s.Cleanup(func() {
		cmd.Process.Kill()
		if s.Failed() {
			s.Log(log.b.String())
		}
	})
	lines := bufio.NewScanner(out)
	for range sockets {
		if !lines.Scan() {
			cmd.Wait()
			s.Fatalf("%q ended: %s", args, log.b.String())
		}
	}
	return cmd
}

// stop ends the program and expects success.
func (s *served) stop(cmd *exec.Cmd) {
	s.Helper()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		s.Error(err)
	}
}

func (s *served) dial(path string, o frontend.Options) *frontend.Frontend {
	s.Helper()
	f, err := frontend.Dial(path, o)
	s.must(err)
	s.Cleanup(f.Close)
	s.must(f.Start())
	if o.Memory == nil {
		s.Cleanup(f.M.Free)
	}
	return f
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

func (s *served) twoImages() {
	dir := s.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	cmd := s.serve(2, "serve", "--image", "image1,image2", "--socket", a+","+b)
	fa, fb := s.dial(a, frontend.Options{}), s.dial(b, frontend.Options{Packed: true})
	for i, f := range []*frontend.Frontend{fa, fb} {
		f.Queue(0).Data(0)[7] = byte(i + 1)
		do(s.T, f.Queue(0), frontend.Out, 8, 4096)
		do(s.T, f.Queue(0), frontend.Flush, 0, 0)
	}
	for i, f := range []*frontend.Frontend{fa, fb} {
		clear(f.Queue(0).Data(0))
		do(s.T, f.Queue(0), frontend.In, 8, 4096)
		if f.Queue(0).Data(0)[7] != byte(i+1) {
			s.Errorf("image %d has other content", i+1)
		}
		do(s.T, f.Queue(0), frontend.GetID, 0, 20)
		if got := string(bytes.TrimRight(f.Queue(0).Data(0)[:20], "\x00")); got != fmt.Sprintf("image%d", i+1) {
			s.Errorf("serial %q", got)
		}
	}
	s.stop(cmd)
	for _, path := range []string{a, b} {
		if _, err := os.Lstat(path); err == nil {
			s.Errorf("%s is left", path)
		}
	}
}

// mapped: map, ls, resize, unmap; and again after the server was killed.
func (s *served) mapped() {
	out, errs, code := s.run("map", "--image", "image1", "--config_path", s.c.ConfigFile(), "--num-queues", "2")
	path := strings.TrimSpace(out)
	if code != 0 || !strings.HasSuffix(path, "vhost-image1.sock") {
		s.Fatal(out, errs, code)
	}
	f := s.dial(path, frontend.Options{Queues: 2})
	do(s.T, f.Queue(1), frontend.In, 0, 4096)
	_, errs, code = s.run("map", "--image", "image1", "--config_path", s.c.ConfigFile())
	if code != 1 || !strings.Contains(errs, "is served by another process") {
		s.Errorf("mapped twice: %s", errs)
	}
	s.must(s.c.PutJSON(s.c.Keys.InodeConfig(meta.MakeInode(1, 1)), map[string]any{"name": "image1", "size": 20 * mib}))
	s.must(s.c.Until("the new size", 5*time.Second, func() error {
		c, err := f.Config()
		if err == nil && binary.LittleEndian.Uint64(c) != 20*mib/512 {
			err = fmt.Errorf("capacity %d", binary.LittleEndian.Uint64(c))
		}
		return err
	}))
	list := s.list()
	m := list[path]
	if m == nil || m["image"] != "image1" || m["interface"] != "vhost" || m["num_queues"] != "2" {
		s.Fatalf("ls: %v", list)
	}
	pid := int(m["pid"].(float64))
	s.must(syscall.Kill(pid, syscall.SIGKILL))
	s.must(s.c.Until("ls knows", 5*time.Second, func() error {
		if m := s.list()[path]; m["dead"] != true || m["image"] != nil {
			return fmt.Errorf("%v", m)
		}
		return nil
	}))
	if out, errs, code := s.run("map", "--image", "image1", "--config_path", s.c.ConfigFile()); code != 0 {
		s.Fatal(out, errs)
	}
	do(s.T, s.dial(path, frontend.Options{}).Queue(0), frontend.In, 0, 4096)
	if text, _, _ := s.run("ls"); !strings.HasPrefix(text, path+"\nconfig_path: ") {
		s.Errorf("ls: %s", text)
	}
	if out, errs, code := s.run("unmap", "--image", "image1"); code != 0 || out != "" {
		s.Fatal(out, errs)
	}
	if _, err := os.Lstat(path); err == nil || len(s.list()) != 0 {
		s.Error("something is left after unmap")
	}
}

func (s *served) list() (m map[string]map[string]any) {
	s.Helper()
	out, errs, code := s.run("ls", "--json")
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 {
		s.Fatal(out, errs, err)
	}
	return m
}

func (s *served) mistakes() {
	file := filepath.Join(s.TempDir(), "file")
	s.must(os.WriteFile(file, nil, 0o600))
	config := "--config_path=" + s.c.ConfigFile()
	for _, c := range []struct {
		want string
		args []string
	}{
		{"which image?", []string{"serve", config}},
		{"0 sockets for 1 images", []string{"serve", "--image", "image1", config}},
		{"1 sockets for 2 images", []string{"serve", "--image", "a,b", "--socket", "x", config}},
		{"use --socket x", []string{"serve", "x", "--image", "image1", config}},
		{"one image at one socket", []string{"map", "--image", "a,b", config}},
		{"given twice", []string{"map", "a", "--socket", "b", "--image", "image1", config}},
		{"image nope does not exist", []string{"serve", "--image", "nope", "--socket", file + "2", config}},
		{"image nope does not exist", []string{"map", "--image", "nope", config}},
		{"is no socket", []string{"serve", "--image", "image1", "--socket", file, config}},
		{"1 to 64 queues", []string{"serve", "--image", "image1", "--socket", "x", "--num-queues", "65", config}},
		{"4 to 1024 descriptors", []string{"map", "--image", "image1", "--queue-size", "2", config}},
		{"octal permissions", []string{"map", "--image", "image1", "--mode", "9", config}},
		{"--group nobody-of-that", []string{"map", "--image", "image1", "--group", "nobody-of-that", config}},
		{"107 bytes", []string{"map", "--image", "image1", "--socket", "/tmp/" + strings.Repeat("x", 120), config}},
		{"no such file or directory", []string{"map", "--image", "image1", "--socket", "/nowhere/s", config}},
		{"which socket?", []string{"unmap"}},
		{"is not mapped here", []string{"unmap", "/nowhere/s"}},
		{"is not mapped here", []string{"unmap", "--image", "image1"}},
		{`unexpected argument "c"`, []string{"unmap", "b", "c"}},
		{"there is no command", []string{"attach"}},
	} {
		out, errs, code := s.run(c.args...)
		if !strings.Contains(errs, c.want) || code != 1 && c.args[0] != "attach" {
			s.Errorf("%v: exit code %d, %q %q, want %q", c.args, code, out, errs, c.want)
		}
	}
	if out, _, code := s.run("--help"); code != 0 || !strings.Contains(out, "--num_queues") {
		s.Error("no help")
	}
}

// killed: the back-end is killed under load, several times; whoever comes back
// sees no error and the right data.
func (s *served) killed(o frontend.Options) {
	path := filepath.Join(s.TempDir(), "s")
	args := []string{"serve", "--image", "image2", "--socket", path}
	o.Inflight, o.Size = true, 64
	cmd := s.serve(1, args...)
	f := s.dial(path, o)
	o.Memory = f.M
	var stop atomic.Bool
	var done atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		churn(s.T, f.Queue(0), 0, func() bool { done.Add(1); return !stop.Load() })
	}()
	for round := range 5 {
		before := done.Load()
		s.must(s.c.Until("requests", 10*time.Second, func() error {
			if n := done.Load() - before; n < 300 {
				return fmt.Errorf("%d requests", n)
			}
			return nil
		}))
		s.must(cmd.Process.Kill())
		cmd.Wait()
		f.Close()
		cmd = s.serve(1, args...)
		f = s.dial(path, o)
		_ = round
	}
	stop.Store(true)
	<-ended
	if n := f.Queue(0); !s.Failed() {
		do(s.T, n, frontend.Flush, 0, 0)
	}
	f.Close()
	s.stop(cmd)
}
