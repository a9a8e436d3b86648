package csi

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestProgram runs the program itself: it is killed, started again on the socket
// that is left, and ended by a signal.
func TestProgram(t *testing.T) {
	r := theRig(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "vitastor-csi")
	if out, err := exec.Command("go", "build", "-o", program, "./vitastor-csi").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command(program, "--endpoint", "nowhere").CombinedOutput(); err == nil || !bytes.Contains(out, []byte("use unix://")) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := exec.Command(program, "--version").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != Version {
		t.Errorf("%v: %s", err, out)
	}
	socket := filepath.Join(r.dir, "p")
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		cmd := exec.Command(program, "--endpoint", "unix://"+socket, "--node", "n", "--config_path", r.ConfigFile(), "--cli", filepath.Join(r.dir, "vitastor-cli"))
		cmd.Env = append(os.Environ(), "STATE_DIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var log lockedBuffer
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), "ready"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(log.String())
			}
		}
		list, err := spec.NewControllerClient(conn).ListVolumes(t.Context(), &spec.ListVolumesRequest{})
		if err != nil {
			t.Errorf("%v, %v", list, err)
		}
		conn.Close()
		cmd.Process.Signal(signal)
		err = cmd.Wait()
		if signal == syscall.SIGTERM && (err != nil || !strings.Contains(log.String(), "ListVolumes")) {
			t.Errorf("%v\n%s", err, log.String())
		}
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

// TestInstallation does what docs/usage/kubernetes.md says before kubectl.
func TestInstallation(t *testing.T) {
	text, err := os.ReadFile("../../docs/usage/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	deploy := filepath.Join(dir, "frontends/csi/deploy")
	if err := os.MkdirAll(filepath.Dir(deploy), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(deploy, os.DirFS("deploy")); err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^sed .*$`).FindAllString(string(text), -1)
	if len(lines) != 3 {
		t.Fatalf("%q", lines)
	}
	for _, line := range lines {
		cmd := exec.Command("bash", "-c", line)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", line, err, out)
		}
	}
	all := ""
	paths, _ := filepath.Glob(deploy + "/manifests/*.yaml")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		documents(t, path, string(text))
		all += string(text)
	}
	for word, count := range map[string]int{"ETCD1:2379": 1, "ETCD2:2379": 1, "ETCD3:2379": 1, `poolId: "POOL"`: 1, "image: REGISTRY/vitastor-csi:v" + Version: 2, "192.168": 0, "testpool": 0} {
		if got := strings.Count(all, word); got != count {
			t.Errorf("%q is there %d times, not %d", word, got, count)
		}
	}
	for _, path := range regexp.MustCompile(`frontends/csi/[a-zA-Z0-9/_.-]+`).FindAllString(string(text), -1) {
		if strings.Contains(path, "[") || strings.HasSuffix(path, "/00") {
			continue
		}
		if _, err := os.Stat("../../" + path); err != nil {
			t.Errorf("the page names %s: %v", path, err)
		}
	}
}
