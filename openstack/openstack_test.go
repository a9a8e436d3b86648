package openstack

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vitastor/internal/e2e/cluster"
)

var only = flag.String("flow", "test_flow", "tests of tests/flow that TestFlow runs, such as test_flow.Flow.test_backup")

// interpreter is Debian's, which finds Debian's Cinder.
const interpreter = "/usr/bin/python3"

// python runs a program of Python's; its output is shown if it fails.
func python(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(interpreter, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
	t.Logf("%s", out)
}

// full skips what needs packages of OpenStack.
func full(t *testing.T) {
	t.Helper()
	if os.Getenv("VITASTOR_E2E") != "full" {
		t.Skip("needs Debian's Cinder and Nova: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
}

// TestDriver: the driver over a cluster in memory, killed around every command.
func TestDriver(t *testing.T) {
	if _, err := exec.LookPath(interpreter); err != nil && os.Getenv("CI") == "" {
		t.Skipf("Python is not installed (Debian: python3): %v", err)
	}
	python(t, "tests", []string{"VITASTOR_TEST_WITHOUT_CINDER=1"}, "-m", "unittest", "test_driver", "test_connect", "test_pools")
}

// TestDriverInCinder: the same with the real Cinder around it.
func TestDriverInCinder(t *testing.T) {
	full(t)
	python(t, "tests", nil, "-m", "unittest", "test_driver", "test_connect", "test_pools")
}

// TestCompliance: the tests that Cinder ships for all drivers.
func TestCompliance(t *testing.T) {
	full(t)
	python(t, "tests", nil, "compliance.py")
}

// TestNova: our volume driver, and Nova's tests of its own, in a patched copy.
func TestNova(t *testing.T) {
	full(t)
	python(t, "tests", nil, "nova_copy.py")
}

// TestFlow: API, scheduler, volume and backup service over a real cluster.
func TestFlow(t *testing.T) {
	full(t)
	python(t, filepath.Join("tests", "flow"), reach(start(t)), "-m", "unittest", "-v", *only)
}

// TestTempest: Tempest's volume suite, with a Keystone.
func TestTempest(t *testing.T) {
	if os.Getenv("VITASTOR_TEMPEST") == "" {
		t.Skip("needs Debian's Keystone and Tempest, and minutes: runs with VITASTOR_TEMPEST=1, as in make tempest")
	}
	python(t, filepath.Join("tests", "flow"), reach(start(t)), "run_tempest.py")
}

// reach is the environment that leads to a cluster.
func reach(c *cluster.Cluster) []string {
	return []string{"VITASTOR_CONF=" + c.ConfigFile(), "PATH=" + filepath.Dir(c.Bin.Program("vitastor-cli")) + ":" + os.Getenv("PATH")}
}

// start runs a cluster with the pools copies (1) and parity (2).
func start(t *testing.T) *cluster.Cluster {
	t.Helper()
	dir := tempDir(t)
	bin, err := cluster.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", dir+"/", "../frontends/cli/vitastor-cli", "../frontends/nbd/vitastor-nbd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	work := filepath.Join(dir, "cluster")
	if err := os.Mkdir(work, 0o777); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.New(cluster.Config{Dir: work, Bin: bin, OSDBytes: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs(10))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(c.Start(), c.CreatePool(1, cluster.Replicated("copies", 2, 8)), c.CreatePool(2, cluster.EC("parity", 2, 1, 8))); err != nil {
		t.Fatal(err)
	}
	return c
}

// tempDir is in memory if possible.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-openstack-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
