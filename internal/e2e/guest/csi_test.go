package guest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/machine"
)

// TestCSI runs the driver of Kubernetes with the kernel's own devices: its test
// TestRealDevices, in a machine with a cluster.
func TestCSI(t *testing.T) {
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("boots a machine: runs with %s=full, as in make test-integrations", fullEnv)
	}
	need(t, append(needs, "blkid", "util-linux", "resize2fs", "e2fsprogs")...)
	_, err := machine.FetchKernel(machine.CacheDir())
	if errors.Is(err, machine.ErrNoPackages) {
		missing(t, err, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	setup, err := NewSetup(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range setup.Broken {
		t.Errorf("%s: %v", name, why)
	}
	test := filepath.Join(setup.Dir, "csi.test")
	build := exec.Command("go", "test", "-c", "-o", test, "./frontends/csi")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	methods := os.Getenv("VITASTOR_CSI_METHODS")
	if methods == "" {
		methods = "vduse"
		t.Log("with VDUSE only, which takes minutes: VITASTOR_CSI_METHODS=nbd,ublk,vduse (make soak) tries all three")
	}
	var out, console bytes.Buffer
	config := Config{Limit: 2 * limit, Out: &out, Console: &console, Log: t.Logf}
	code, err := setup.Run(t.Context(), config, "env", "VITASTOR_CSI_CONFIG=/etc/vitastor/vitastor.conf", "VITASTOR_CSI_METHODS="+methods,
		test, "-test.v", "-test.run=^TestRealDevices$")
	t.Logf("%s", out.String())
	if err != nil || code != 0 || !bytes.Contains(out.Bytes(), []byte("--- PASS: TestRealDevices")) {
		t.Errorf("exit code %d: %v\n=== console\n%s\n%s", code, err, tail(console.String(), 60), Logs(setup.LogDir, 30))
	}
}
