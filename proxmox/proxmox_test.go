package proxmox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vitastor/internal/e2e/cluster"
)

// TestSyntax compiles every file under taint mode, as pvedaemon runs them.
func TestSyntax(t *testing.T) {
	var files []string
	filepath.WalkDir("perl5", func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".pm") {
			files = append(files, path)
		}
		return err
	})
	if len(files) == 0 {
		t.Fatal("no files")
	}
	for _, file := range files {
		out, err := exec.Command("perl", "-T", "-w", "-c", "-Iperl5", "-It/lib", file).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != file+" syntax OK" {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// TestStandIns runs the tests that need no cluster.
func TestStandIns(t *testing.T) { prove(t, "t/*.t") }

// TestCluster runs the tests that need one.
func TestCluster(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "vitastor-pve-")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	c, err := start(dir)
	if c != nil {
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	if err != nil {
		t.Fatal(err)
	}
	prove(t, "t/cluster/*.t", "VITASTOR_BIN="+dir, "VITASTOR_CONFIG="+c.ConfigFile(), "VITASTOR_ETCD="+c.Endpoints()[0])
}

// start runs a cluster with the programs in dir.
func start(dir string) (*cluster.Cluster, error) {
	bin, err := cluster.Build(dir)
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("go", "build", "-o", dir, "../frontends/cli/vitastor-cli", "../frontends/nbd/vitastor-nbd").CombinedOutput(); err != nil {
		os.Stderr.Write(out)
		return nil, err
	}
	work := filepath.Join(dir, "cluster")
	if err := os.Mkdir(work, 0o777); err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{Dir: work, Bin: bin, OSDs: 2})
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return c, err
	}
	return c, c.CreatePool(1, cluster.Replicated("testpool", 2, 4))
}

// prove runs tests in Perl.
func prove(t *testing.T, pattern string, env ...string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".t")
		t.Run(name, func(t *testing.T) {
			if name == "killed" && os.Getenv("VITASTOR_E2E") != "full" {
				t.Skip("kills every method at every step, for most of a minute: runs with VITASTOR_E2E=full, as in make test-integrations")
			}
			cmd := exec.Command("perl", "-T", "-w", "-Iperl5", "-It/lib", file)
			cmd.Env = append(os.Environ(), env...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if strings.Contains(string(out), "# skip") {
				t.Logf("%s", out)
			}
		})
	}
}
