package hosts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/meta"
	"vitastor/libclient/image"
)

// rig is shared by all tests.
var rig struct {
	once    sync.Once
	dir     string
	lib     string // with the library and the engine
	driver  string // of QEMU
	cluster *cluster.Cluster
	images  *image.Cluster // a client of our own
	err     error
	count   uint64
}

// otherQEMU names a folder made by qemu-plugin/backports.sh, with a newer QEMU
// and the driver for it, to test instead of the one that is installed.
const otherQEMU = "VITASTOR_OTHER_QEMU"

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if rig.images != nil {
		rig.images.Close()
	}
	if rig.cluster != nil {
		if err := rig.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.RemoveAll(rig.dir)
	os.Exit(code)
}

func start() error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	rig.lib = filepath.Join(root, "bin", "lib")
	rig.driver = filepath.Join(rig.lib, "block-vitastor.so")
	if out, err := exec.Command("make", "-C", root, "fio", "qemu-plugin").CombinedOutput(); err != nil {
		return fmt.Errorf("make fio qemu-plugin: %w\n%s", err, out)
	}
	if other := os.Getenv(otherQEMU); other != "" {
		rig.driver = filepath.Join(other, "lib", "block-vitastor.so")
		os.Setenv("PATH", filepath.Join(other, "usr", "bin")+":"+os.Getenv("PATH"))
	}
	for _, parent := range []string{"/dev/shm", ""} {
		if rig.dir, err = os.MkdirTemp(parent, "vitastor-hosts-"); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	bin, err := cluster.Build(rig.dir)
	if err != nil {
		return err
	}
	work := filepath.Join(rig.dir, "cluster")
	if err := os.Mkdir(work, 0o777); err != nil {
		return err
	}
	c, err := cluster.New(cluster.Config{Dir: work, Bin: bin})
	if err != nil {
		return err
	}
	rig.cluster = c
	if err := errors.Join(c.Start(), c.CreatePool(1, cluster.Replicated("copies", 2, 8)), c.CreatePool(2, cluster.EC("parity", 2, 1, 8))); err != nil {
		return err
	}
	rig.images, err = image.Dial(context.Background(), image.Config{ConfigPath: c.ConfigFile()})
	return err
}

func setUp(t *testing.T) *cluster.Cluster {
	t.Helper()
	if os.Getenv("VITASTOR_E2E") != "full" {
		t.Skip("needs source packages of fio and QEMU: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
	rig.once.Do(func() { rig.err = start() })
	if rig.err != nil {
		t.Fatal(rig.err)
	}
	return rig.cluster
}

// newImage makes an image and returns its name.
func newImage(t *testing.T, pool meta.PoolID, bytes uint64) string {
	t.Helper()
	rig.count++
	name := fmt.Sprintf("image%d", rig.count)
	if err := rig.images.Create(context.Background(), name, bytes, fmt.Sprint(pool)); err != nil {
		t.Fatal(err)
	}
	return name
}

// disk is the file name of an image for QEMU's programs.
func disk(name string, options ...string) string {
	return strings.Join(append([]string{"vitastor:image=" + name, "config_path=" + rig.cluster.ConfigFile()}, options...), ":")
}

// command is a program of QEMU with our driver.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+rig.driver)
	return cmd
}

// run must succeed; it returns what the program prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := command(t, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// fail must fail, and say something with want in it.
func fail(t *testing.T, want, name string, args ...string) {
	t.Helper()
	out, err := command(t, name, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%s %s: %v, want an error with %q:\n%s", name, strings.Join(args, " "), err, want, out)
	}
}

// io runs commands of qemu-io on an image. Patterns that do not match make it
// print a message only.
func io(t *testing.T, target string, commands ...string) string {
	t.Helper()
	args := []string{"-f", "raw", "-t", "none"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := run(t, "qemu-io", append(args, target)...)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("qemu-io %q:\n%s", commands, out)
	}
	return out
}

// identical compares two disks.
func identical(t *testing.T, a, b string) {
	t.Helper()
	if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", a, b); !strings.Contains(out, "identical") {
		t.Error(out)
	}
}
