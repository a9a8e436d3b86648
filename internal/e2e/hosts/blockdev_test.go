package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
)

// patchedQEMU names a folder made by qemu-plugin/patched.sh.
const patchedQEMU = "VITASTOR_PATCHED_QEMU"

// patched is a program of a QEMU that knows the driver by itself.
func patched(name string, args ...string) *exec.Cmd {
	dir := os.Getenv(patchedQEMU)
	cmd := exec.Command(filepath.Join(dir, "bin", name), args...)
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+filepath.Join(dir, "lib"))
	return cmd
}

// TestPatch: the patch fits the QEMU whose source was fetched for the driver.
func TestPatch(t *testing.T) {
	setUp(t)
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	sources, _ := filepath.Glob(filepath.Join(root, "bin", ".src", "qemu-*", "VERSION"))
	if other := os.Getenv(otherQEMU); other != "" {
		sources = append(sources, filepath.Join(other, "src", "VERSION"))
	}
	if len(sources) == 0 {
		t.Fatal("no source of QEMU in bin/.src")
	}
	for _, s := range sources {
		out, err := exec.Command("patch", "-p1", "--dry-run", "-f", "-d", filepath.Dir(s), "-i", filepath.Join(root, "qemu-plugin", "patches", "qemu-blockdev.patch")).CombinedOutput()
		if err != nil || strings.Contains(string(out), "fuzz") {
			t.Errorf("%s: %v\n%s", filepath.Dir(s), err, out)
		}
	}
}

// TestBlockdev: -blockdev of a patched QEMU, which loads the driver as a module.
func TestBlockdev(t *testing.T) {
	c := setUp(t)
	if os.Getenv(patchedQEMU) == "" {
		t.Skip("needs a patched QEMU: " + patchedQEMU + " has to name a folder made by qemu-plugin/patched.sh (5 to 10 minutes)")
	}
	name := newImage(t, 1, 16<<20)
	socket := filepath.Join(t.TempDir(), "nbd")
	node := fmt.Sprintf(`{"driver":"vitastor","node-name":"d","image":%q,"config-path":%q,"cache":{"direct":true},"discard":"unmap"}`, name, c.ConfigFile())
	daemon := patched("qemu-storage-daemon", "--blockdev", node, "--nbd-server", "addr.type=unix,addr.path="+socket,
		"--export", "nbd,id=e,node-name=d,name=x,writable=on")
	var out strings.Builder
	daemon.Stdout, daemon.Stderr = &out, &out
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		daemon.Process.Signal(os.Interrupt)
		if err := daemon.Wait(); err != nil {
			t.Errorf("the daemon: %v\n%s", err, &out)
		}
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the daemon has no socket:\n%s", &out)
		}
	}
	io(t, "nbd+unix:///x?socket="+socket, "write -P 1 0 4M", "write -P 2 8M 4M", "discard 8M 1M", "flush", "read -P 0 8M 1M")
	io(t, disk(name), "read -P 1 0 4M", "read -P 0 8M 1M", "read -P 2 9M 3M") // our driver, preloaded into Debian's
	if out, err := patched("qemu-img", "info", disk(name)).CombinedOutput(); err != nil || !strings.Contains(string(out), "16 MiB") {
		t.Errorf("qemu-img with the module: %v\n%s", err, out)
	}
	for node, want := range map[string]string{
		`{"driver":"vitastor","node-name":"d","image":"nothing","config-path":"` + c.ConfigFile() + `"}`: "does not exist",
		`{"driver":"vitastor","node-name":"d","image":5}`:                                                "expected: string",
		`{"driver":"vitastor","node-name":"d","imago":"x"}`:                                              "'imago' is unexpected",
		`{"driver":"vitastor","node-name":"d","pool":1,"inode":2}`:                                       "image is missing",
	} {
		out, err := patched("qemu-storage-daemon", "--blockdev", node).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %q in\n%s", node, err, want, out)
		}
	}
}
