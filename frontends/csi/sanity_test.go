package csi

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// TestSanity is the suite of the CSI project, with file systems and with raw
// blocks. It has its own module, because of what it depends on.
func TestSanity(t *testing.T) {
	needLoop(t)
	if !full() {
		t.Skip("takes half a minute, and compiles the suite: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
	program := filepath.Join(theRig(t).dir, "csi-sanity")
	out, err := exec.Command("go", "-C", "../../internal/tools/csisanity", "build", "-o", program,
		"github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity").CombinedOutput()
	if err != nil {
		t.Fatalf("csi-sanity: %v\n%s", err, out)
	}
	for _, kind := range []string{"mount", "block"} {
		t.Run(kind, func(t *testing.T) { sanity(t, program, kind) })
	}
}

var sanityTotals = regexp.MustCompile(`(\d+) Passed.*\| .*?(\d+) Failed.*\| .*?(\d+) Pending.*\| .*?(\d+) Skipped`)

func sanity(t *testing.T, program, kind string) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go b.config.Attachers[0].(*loopFiles).follow(ctx)
	params := filepath.Join(b.dir, "params.yaml")
	b.must(os.WriteFile(params, fmt.Appendf(nil, "poolId: rep\nvolumePrefix: %q\n", b.prefix), 0o644))
	cmd := exec.Command(program, "--ginkgo.no-color", "--csi.endpoint", "unix:"+b.dir+"/s", "--csi.testvolumeparameters", params,
		"--csi.testvolumeaccesstype", kind, "--csi.mountdir", b.dir+"/mnt", "--csi.stagingdir", b.dir+"/staging",
		"--csi.testvolumesize", fmt.Sprint(64*mib), "--csi.testvolumeexpandsize", fmt.Sprint(128*mib))
	out, err := cmd.CombinedOutput()
	total := sanityTotals.FindStringSubmatch(string(out))
	if err != nil || total == nil || total[1] == "0" || total[2] != "0" {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("csi-sanity, %s volumes: %s", kind, total[0])
	b.wantClean()
	if strings.Contains(b.log.String(), "panic") {
		t.Error("a panic")
	}
}
