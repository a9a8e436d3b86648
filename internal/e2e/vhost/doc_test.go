package vhost

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDocumentation runs the first example of docs/usage/vitastor-vhost.md as it
// is written, and the one of a new server.
func TestDocumentation(t *testing.T) {
	if os.Getenv(fullEnv) != "full" {
		t.Skipf("boots machines: runs with %s=full, as in make test-integrations", fullEnv)
	}
	text, err := os.ReadFile("../../../docs/usage/vitastor-vhost.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(text), "```sh\n")
	example, rest, ok2 := strings.Cut(example, "```")
	_, again, ok3 := strings.Cut(rest, "```sh\n")
	again, _, _ = strings.Cut(again, "```")
	if !ok || !ok2 || !ok3 {
		t.Fatal("there are no examples")
	}
	r := newRigOf(t, "vm1")
	r.Setenv("VITASTOR_RUN_DIR", filepath.Join(r.dir, "run"))
	// The example finds our program, which finds our cluster.
	bin := filepath.Join(r.dir, "path")
	r.must(os.Mkdir(bin, 0o755))
	script := "#!/bin/sh\nexec " + r.program + ` "$@" --config_path ` + r.c.ConfigFile() + "\n"
	r.must(os.WriteFile(filepath.Join(bin, "vitastor-vhost"), []byte(script), 0o755))
	r.Setenv("PATH", bin+":"+os.Getenv("PATH"))

	cmd := exec.Command("bash", "-euxc", example)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	console, err := os.Create(filepath.Join(r.dir, "console"))
	r.must(err)
	cmd.Stderr = console
	q := &qemu{cmd: cmd, console: console, ended: make(chan struct{})}
	q.stdin, err = cmd.StdinPipe()
	r.must(err)
	out, err := cmd.StdoutPipe()
	r.must(err)
	var list strings.Builder
	q.out = io.TeeReader(out, &list)
	r.must(cmd.Start())
	r.guest.qemu = q
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	go r.guest.read(q, "")
	r.guest.booted()
	r.write(3, func() {
		if out, err := exec.Command("bash", "-euxc", again).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	r.reread()
	r.guest.do("halt", func(string) {})
	select {
	case <-q.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the example does not end")
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 || !strings.Contains(list.String(), `vhost-vm1.sock":{`) {
		t.Errorf("exit code %d, %s", code, r.guest.tail())
	}
}
