// Package packages tests what `make packages` makes: installed by apt in a fresh
// Debian, a cluster starts from it.
//
// Guarantee: nothing of this machine but the kernel and its network is used
// inside; nothing is left behind.
// Concurrency: one test at a time.
package packages

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// full tells whether tests that take minutes run.
func full(t *testing.T) {
	if os.Getenv("VITASTOR_E2E") != "full" {
		t.Skip("it builds packages and a whole Debian, which takes minutes: VITASTOR_E2E=full runs it (make test-integrations)")
	}
	if os.Getuid() != 0 {
		t.Fatal("a chroot needs root")
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build makes the packages.
func build(t *testing.T) (debs, rpms []string) {
	out := t.TempDir()
	t.Log(run(t, "../../../packaging/build.sh", out, "deb", "rpm"))
	debs, _ = filepath.Glob(filepath.Join(out, "*.deb"))
	rpms, _ = filepath.Glob(filepath.Join(out, "*.rpm"))
	if len(debs) < 7 || len(debs) != len(rpms) {
		t.Fatalf("packages: %v %v", debs, rpms)
	}
	return debs, rpms
}

// names are the packages that a storage node has. The others belong to programs
// of others: their contents are looked at only.
var names = []string{"vitastor", "vitastor-osd", "vitastor-mon", "vitastor-client", "vitastor-client-dev"}

func TestPackages(t *testing.T) {
	full(t)
	debs, rpms := build(t)
	contents(t, debs, rpms)
	root := filepath.Join(t.TempDir(), "debian")
	run(t, "debootstrap", "--variant=minbase", "--include=systemd,udev", "bookworm", root)
	var inside []string
	for _, deb := range debs {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		if slices.Contains(names, name) {
			run(t, "cp", deb, filepath.Join(root, "root"))
			inside = append(inside, "/root/"+filepath.Base(deb))
		}
	}
	if len(inside) != len(names) {
		t.Fatalf("packages: %v", inside)
	}
	in := func(command ...string) string {
		t.Helper()
		script := `mount -t proc proc "$0/proc" && mkdir -p "$0/dev/shm" && mount -t tmpfs tmpfs "$0/dev/shm" && exec chroot "$0" "$@"`
		return run(t, "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, root}, command...)...)
	}
	in(append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends"}, inside...)...)
	units, _ := filepath.Glob(filepath.Join(root, "usr/lib/systemd/system/vitastor*"))
	if len(units) < 4 {
		t.Fatalf("units: %v", units)
	}
	for _, unit := range units {
		unit = strings.TrimPrefix(unit, root)
		unit = strings.Replace(unit, "@.", "@1.", 1)
		if out := in("systemd-analyze", "verify", "--man=no", unit); strings.Contains(out, "vitastor") {
			t.Errorf("%s: %s", unit, out)
		}
	}
	run(t, "cp", "testdata/inside.sh", filepath.Join(root, "root"))
	out := in("/bin/bash", "/root/inside.sh", port(t), port(t))
	t.Log(out)
	if !strings.HasSuffix(out, "== all is well\n") {
		t.Error("the script ended early")
	}
	in(append([]string{"dpkg", "--purge"}, names...)...)
	left := run(t, "sh", "-c", fmt.Sprintf("cd %q && find usr/bin usr/lib usr/share -name '*vitastor*'", root))
	if left != "" {
		t.Errorf("left after purge:\n%s", left)
	}
}

// contents looks at packages that are not installed here, and at all of the
// other kind.
func contents(t *testing.T, debs, rpms []string) {
	for _, deb := range debs {
		if out := run(t, "dpkg-deb", "-c", deb); !strings.Contains(out, "/usr/") || strings.Contains(out, "/tmp/") {
			t.Errorf("%s:\n%s", deb, out)
		}
	}
	db := t.TempDir()
	run(t, "rpm", append([]string{"--dbpath", db, "--root", t.TempDir(), "--nodeps", "--noscripts", "--test", "-i"}, rpms...)...)
	for _, rpm := range rpms {
		if out := run(t, "rpm", "-qpl", rpm); !strings.Contains(out, "/usr/") {
			t.Errorf("%s:\n%s", rpm, out)
		}
	}
}

// port is one that nobody uses now.
func port(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}
