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

// TestRandomNames runs qemu-plugin/fuzz/names.c: file names and options with
// random input, sanitized, with the functions of the real QEMU.
func TestRandomNames(t *testing.T) {
	setUp(t)
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	make := []string{"-C", filepath.Join(root, "qemu-plugin"), "fuzz", "OUT=" + dir, "SRC=" + filepath.Join(root, "bin", ".src")}
	if other := os.Getenv(otherQEMU); other != "" {
		make = append(make, "QEMU_SRC="+filepath.Join(other, "src"), "QEMU_IMG="+filepath.Join(other, "usr", "bin", "qemu-img"))
	}
	if out, err := exec.Command("make", make...).CombinedOutput(); err != nil {
		t.Fatalf("make %v: %v\n%s", make, err, out)
	}
	sanitizer, err := exec.Command("cc", "-print-file-name=libasan.so").Output()
	if err != nil {
		t.Fatal(err)
	}
	seed := time.Now().UnixNano()
	cmd := command(t, "qemu-img")
	cmd.Env = append(os.Environ(), fmt.Sprintf("VITASTOR_FUZZ=%d 5", seed),
		"LD_PRELOAD="+strings.TrimSpace(string(sanitizer))+" "+filepath.Join(dir, "fuzz-names.so"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, out)
	}
	var tried, opened int
	if _, err := fmt.Sscanf(string(out), "%d names, %d opened", &tried, &opened); err != nil || opened < 1000 {
		t.Errorf("seed %d: %v in %q", seed, err, out)
	}
	t.Logf("%s", out)
}
