package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitastor/internal/e2e/guest/boot"
	"vitastor/internal/e2e/machine"
)

const fullEnv = "VITASTOR_E2E" // "full" = run

// limit is for the whole run. On a quiet machine it takes two minutes.
const limit = 10 * time.Minute

// end is the last case of the life of a device.
const end = "clone_of_the_snapshot"

// needs are what the machine uses of this host: programs and their packages.
var needs = []string{machine.QEMU, "qemu-system-x86", "zstd", "zstd", "xz", "xz-utils", "depmod", "kmod", "fio", "fio",
	"mkfs.ext4", "e2fsprogs", "mkfs.xfs", "xfsprogs", "vdpa", "iproute2"}

// need skips, or fails in CI, without programs: pairs of program and package.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for i := 0; i < len(programs); i += 2 {
		_, err := exec.LookPath(programs[i])
		if err != nil {
			_, err = os.Stat(machine.Sbin(programs[i]))
		}
		missing(t, err, programs[i]+" is not installed (Debian: "+programs[i+1]+")")
	}
}

// missing skips, or fails in CI, if there is an error.
func missing(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(text)
	case err != nil:
		t.Skip(text)
	}
}

// TestFrontEnds runs the life of a device of each front end in one machine.
func TestFrontEnds(t *testing.T) {
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("boots a machine: runs with %s=full, as in make test-integrations", fullEnv)
	}
	need(t, needs...)
	_, err := machine.FetchKernel(machine.CacheDir())
	if errors.Is(err, machine.ErrNoPackages) {
		missing(t, err, err.Error())
	}
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
	results := map[string]bool{}
	var said bytes.Buffer
	out := Lines(func(line string) {
		word, name, times, ok := boot.ParseCase(line)
		if !ok {
			said.WriteString(line + "\n")
			return
		}
		good := t.Run(name, func(t *testing.T) {
			if word != boot.CaseOK {
				t.Errorf("%s", said.String())
			}
			t.Log("the machine is up for", times)
		})
		results[name] = good
		said.Reset()
	})
	var console bytes.Buffer
	code, err := setup.Cases(t.Context(), Config{Limit: limit, Out: out, Console: &console, Log: t.Logf}, Suites...)
	if err != nil || code != 0 {
		t.Errorf("exit code %d: %v\n%s", code, err, said.String())
	}
	for name, last := range map[string]string{"nbd": "killed_server", "nbd-netlink": end, "ublk": end, "vduse": end, "attach": "detach_in_use"} {
		if !results[name+"/"+last] {
			t.Errorf("%s did not come to its last case, %s", name, last)
		}
	}
	if t.Failed() {
		t.Logf("=== console\n%s\n%s", tail(console.String(), 60), Logs(setup.LogDir, 30))
	}
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// fakeQEMU makes a script QEMU. It is started anew for each boot and gets the
// number of the boot.
func fakeQEMU(t *testing.T, script string) []string {
	t.Helper()
	count := filepath.Join(t.TempDir(), "count")
	return []string{"sh", "-c", "echo >>" + count + "; n=$(wc -l <" + count + "); " + script}
}

// TestVerdict: every way in which a machine may end, and when it is booted
// again.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name, script string
		code         int
		err          error
		out          string
	}{
		{"success", `printf 'SeaBIOS\r\n[ 1.0] GUEST: start\r\nhello\r\nGUEST: exit 0\r\n[ 3.0] reboot\r\n'`, 0, nil, "hello\n"},
		{"exit code", `echo 'GUEST: start'; echo 'GUEST: exit 77'`, 77, nil, ""},
		{"second attempt", `[ $n = 2 ] && echo 'GUEST: start' && echo 'GUEST: exit 0'; true`, 0, nil, ""},
		{"panic before", `echo panic`, 0, ErrNotUp, ""},
		{"panic later", `[ $n = 1 ] && echo 'GUEST: start' && echo words; exit 0`, 0, ErrLost, "words\n"},
		{"exit before start", `echo 'GUEST: exit 0'`, 0, ErrNotUp, ""},
		{"no number", `echo 'GUEST: start'; echo 'GUEST: exit x'`, 0, ErrLost, ""},
		{"too long", `echo 'GUEST: start'; exec sleep 30`, 0, ErrLimit, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			config := Config{Out: &out}
			config.defaults()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, ErrLimit)
			defer cancel()
			code, err := config.boot(ctx, fakeQEMU(t, c.script))
			if code != c.code || !errors.Is(err, c.err) || out.String() != c.out {
				t.Errorf("%d, %v, %q", code, err, out.String())
			}
		})
	}
	config := Config{}
	config.defaults()
	if _, err := config.boot(t.Context(), fakeQEMU(t, `echo 'GUEST: failed no root'`)); err == nil || !strings.Contains(err.Error(), "no root") {
		t.Errorf("process 1 fails: %v", err)
	}
}

// TestLines: lines come whole, however they were written.
func TestLines(t *testing.T) {
	var got []string
	w := Lines(func(line string) { got = append(got, line) })
	for _, part := range []string{"a", "b\nc", "\n", "\n", "end"} {
		io.WriteString(w, part)
	}
	if text := strings.Join(got, "|"); text != "ab|c|" {
		t.Errorf("lines %q", text)
	}
}

func TestCaseLine(t *testing.T) {
	word, name, times, ok := boot.ParseCase(boot.CaseLine(boot.CaseFailed, "nbd/a b", 2*time.Second, time.Second))
	if word != "FAIL" || name != "nbd/a_b" || times != "2.0s (1.0s)" || !ok {
		t.Error(word, name, times, ok)
	}
	for _, line := range []string{"", "CASE", "CASE maybe x", "ok nbd"} {
		if _, _, _, ok := boot.ParseCase(line); ok {
			t.Errorf("%q is a case", line)
		}
	}
}
