package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vitastor/internal/e2e/cluster"
)

// Both tools say the same about the same cluster, byte for byte.
func TestReference(t *testing.T) {
	dir := os.Getenv(cluster.ReferenceEnv)
	if dir == "" {
		t.Skipf("%s is not set: it names a folder with vitastor-cli of release 3.0.8 to compare with", cluster.ReferenceEnv)
	}
	program := filepath.Join(dir, "vitastor-cli")
	if _, err := os.Stat(program); err != nil {
		t.Skipf("no reference to compare with: %v", err)
	}
	r := theRig(t)
	m := newTree(t, r, "r")
	numbers := regexp.MustCompile(`[0-9.]+ [KM] database size|"etcd_db_size": [0-9]+|[0-9.]+ [BKMGT](/s)?\b|[0-9.]+( [KM])? op/s|"(free_raw|used_raw|max_available)": [0-9]+|[0-9.]+ ?%|[0-9.]+ (us|ms|s)\b`)
	for _, line := range []string{"status", "df", "ls-pools", "ls-pools --detail", "osds", "osd-tree", "pgs --pool ec", "pgs ^active", "pgs foo",
		"ls", "ls --tree", "ls r*", "ls -p rep", "ls -p nono", "ls --sort size -r -n 3", "--json ls", "--json ls-pools", "--json df",
		"create -s 1G x", "create -s 10001 -p rep x", "create -s zz -p rep x", "create -s 1G -p rep a@b", "create -s 1G -p rep ra", "create --parent nono x",
		"snap-create ra", "snap-create ra@1", "modify ra", "modify nono --resize 1G", "modify ra@1 --readwrite", "modify ra@1 --resize 1M",
		"rm", "rm nosuch", "rm ra rb", "flatten nosuch", "rm-data --pool 77 --inode 1", "create-pool x", "create-pool x -s 2", "create-pool rep -s 2 -n 3 -f",
		"create-pool x -s 9 -n 3", "modify-pool nono", "modify-pool rep --scheme ec", "rm-pool rep", "modify-osd 99 --reweight 1", "nosuch"} {
		args := append([]string{"--etcd_address", strings.Join(r.Endpoints(), ",")}, strings.Fields(line)...)
		cmd := exec.Command(program, args...)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		ours := r.run("", strings.Fields(line)...)
		for _, c := range [][2]string{{ours.out, out.String()}, {ours.err, errs.String()}} {
			if got, want := numbers.ReplaceAllString(c[0], "N"), numbers.ReplaceAllString(c[1], "N"); got != want {
				t.Errorf("%s:\n%s\nreference:\n%s", line, got, want)
			}
		}
		if code := cmd.ProcessState.ExitCode(); code != ours.code {
			t.Errorf("%s: exit %d, reference %d", line, ours.code, code)
		}
	}
	m.check()
	r.ok(t, "rm", "--matching", "r*")
}
