package proxmox

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/guest"
	"vitastor/internal/e2e/guest/boot"
	"vitastor/internal/e2e/machine"
)

// TestKernel runs t/kernel in a machine that has VDUSE, ublk and NBD.
func TestKernel(t *testing.T) {
	if os.Getenv("VITASTOR_E2E") != "full" {
		t.Skip("boots a machine: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
	if _, err := machine.FetchKernel(machine.CacheDir()); errors.Is(err, machine.ErrNoPackages) && os.Getenv("CI") == "" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	setup, err := guest.NewSetup(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range setup.Broken {
		t.Errorf("%s: %v", name, why)
	}
	var out, console bytes.Buffer
	config := guest.Config{Limit: 8 * time.Minute, Out: &out, Console: &console, Log: t.Logf}
	here := filepath.Join(setup.Dir, "proxmox") // the machine has another /tmp, where the tree may be
	if err := os.CopyFS(here, os.DirFS(filepath.Join(root, "proxmox"))); err != nil {
		t.Fatal(err)
	}
	code, err := setup.Run(t.Context(), config, "env", "VITASTOR_PVE_METHODS="+os.Getenv("VITASTOR_PVE_METHODS"), "VITASTOR_BIN="+boot.Programs, "VITASTOR_CONFIG=/etc/vitastor/vitastor.conf",
		"perl", "-T", "-w", "-I"+here+"/perl5", "-I"+here+"/t/lib", here+"/t/kernel/devices.t")
	t.Logf("%s", &out)
	if err != nil || code != 0 || !bytes.Contains(out.Bytes(), []byte("\n1..4")) {
		t.Errorf("exit code %d: %v\n=== console\n%s", code, err, console.Bytes()[max(0, console.Len()-4000):])
	}
}
