package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
)

// rig is one real cluster for all tests: embedded etcd, a monitor, three OSDs,
// a replicated pool 1 "rep" and an EC pool 2 "ec".
type rig struct {
	*cluster.Cluster
	dir     string // for files of tests
	program string
}

var shared struct {
	sync.Mutex
	rig *rig
	err error
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if r := shared.rig; r != nil {
		if err := r.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// theRig starts the cluster when the first test needs it.
func theRig(t *testing.T) *rig {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.rig == nil && shared.err == nil {
		shared.rig, shared.err = startRig()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.rig
}

func startRig() (*rig, error) {
	base := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "vitastor-cli-test-")
	if err != nil {
		return nil, err
	}
	shared.dir = dir
	bin, err := cluster.Build(filepath.Join(dir))
	if err != nil {
		return nil, err
	}
	r := &rig{dir: dir, program: filepath.Join(dir, "vitastor-cli")}
	if out, err := exec.Command("go", "build", "-o", r.program, "./vitastor-cli").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	r.Cluster, err = cluster.New(cluster.Config{Dir: filepath.Join(dir), Bin: bin, EmbeddedEtcd: true, OSDBytes: 2 << 30,
		Global: map[string]any{"immediate_commit": "all", "client_wait_up_timeout": 3, "osd_out_time": 3600,
			"etcd_stats_interval": 1, "mon_stats_timeout": 500}})
	if err != nil {
		return nil, err
	}
	if err := r.Start(); err != nil {
		return r, fmt.Errorf("%w\n%s", err, r.Logs(20))
	}
	for _, args := range [][]string{{"create-pool", "rep", "-s", "2", "-n", "8", "--failure_domain", "osd", "--wait"},
		{"create-pool", "ec", "--ec", "2+1", "-n", "4", "--failure_domain", "osd", "--wait"}} {
		if res := r.run("", args...); res.code != 0 {
			return r, fmt.Errorf("%v: %s%s\n%s", args, res.out, res.err, r.Logs(20))
		}
	}
	return r, nil
}

// ran is what a run of the program gave.
type ran struct {
	out, err string
	code     int
}

func (r *rig) command(args ...string) *exec.Cmd {
	return exec.Command(r.program, append([]string{"--etcd_address", strings.Join(r.Endpoints(), ",")}, args...)...)
}

func (r *rig) run(stdin string, args ...string) ran {
	cmd := r.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return ran{"", err.Error(), -1}
	}
	return ran{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs a command that must succeed.
func (r *rig) ok(t *testing.T, args ...string) string {
	t.Helper()
	res := r.run("", args...)
	if res.code != 0 {
		t.Fatalf("%v: exit %d\n%s%s", args, res.code, res.out, res.err)
	}
	return res.out
}

// fails runs a command that must exit with a code and say all of words.
func (r *rig) fails(t *testing.T, code int, args []string, words ...string) ran {
	t.Helper()
	res := r.run("", args...)
	if res.code != code {
		t.Fatalf("%v: exit %d, want %d\n%s%s", args, res.code, code, res.out, res.err)
	}
	for _, w := range words {
		if !strings.Contains(res.out+res.err, w) {
			t.Errorf("%v does not say %q: %s%s", args, w, res.out, res.err)
		}
	}
	return res
}

func (r *rig) json(t *testing.T, v any, args ...string) {
	t.Helper()
	out := r.ok(t, append([]string{"--json", "--progress", "0"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("%v: %v in %s", args, err, out)
	}
}

func (r *rig) file(name string) string { return filepath.Join(r.dir, name) }

// write puts bytes into an image with dd.
func (r *rig) write(t *testing.T, image string, offset int, p []byte) {
	t.Helper()
	path := r.file("in." + t.Name())
	if err := os.WriteFile(path, p, 0o666); err != nil {
		t.Fatal(err)
	}
	r.ok(t, "dd", "if="+path, "oimg="+image, "bs=64k", fmt.Sprintf("oseek=%dB", offset))
}

// wantContent compares an image with what it should be.
func (r *rig) wantContent(t *testing.T, image string, want []byte) {
	t.Helper()
	path := r.file("out." + t.Name())
	r.ok(t, "dd", "iimg="+image, "of="+path, "conv=trunc", "bs=256k")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Fatalf("%s has %d bytes, want %d", image, len(got), len(want))
	}
	for i := 0; i < len(got); i += 4096 {
		if !bytes.Equal(got[i:i+4096], want[i:i+4096]) {
			t.Fatalf("%s differs at %d: %x, want %x\n%s", image, i, got[i:i+8], want[i:i+8], r.ok(t, "ls", "--tree"))
		}
	}
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}
