package libvirt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// host is a libvirtd in namespaces of its own.
type host struct {
	t   *testing.T
	dir string // of the test
	bin string // our programs
	pid int    // of process 1 of the namespaces
	log string
}

// startHost runs testdata/host.sh.
func startHost(t *testing.T, dir, bin, config, units string) *host {
	t.Helper()
	script, err := filepath.Abs("testdata/host.sh")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, bin: bin, log: filepath.Join(dir, "host.log")}
	log, err := os.Create(h.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", script, dir, bin, config, units)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("host:\n%s", h.said())
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if strings.Contains(h.said(), "ready\n") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("libvirtd does not begin")
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if h.pid, err = strconv.Atoi(strings.Fields(string(children))[0]); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) said() string {
	text, _ := os.ReadFile(h.log)
	return string(text)
}

// sh runs commands in the folder with the files of the page.
func (h *host) sh(commands string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	path := fmt.Sprintf("PATH=%s/bin:%s:/usr/sbin:/usr/bin:/sbin:/bin", h.dir, h.bin)
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(h.pid), "--mount", "--pid", "--wd="+filepath.Join(h.dir, "work"),
		"env", path, "bash", "-e", "-c", commands)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is sh that succeeds.
func (h *host) must(commands string) string {
	h.t.Helper()
	began := time.Now()
	out, err := h.sh(commands)
	if err != nil {
		h.t.Fatalf("%s\n%v\n%s", commands, err, out)
	}
	h.t.Logf("%.1f s: %s", time.Since(began).Seconds(), strings.ReplaceAll(strings.TrimSpace(commands), "\n", "; "))
	return out
}

// machine is the console of a machine that runs testdata/init.sh.
type machine struct {
	t     *testing.T
	conn  net.Conn
	lines chan string
}

// console connects to the console, a path of the page, and waits for the machine.
func (h *host) console(path string) *machine {
	h.t.Helper()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root%s", h.pid, path))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	m := &machine{t: h.t, conn: conn, lines: make(chan string, 1000)}
	go func() {
		defer close(m.lines)
		var all bytes.Buffer
		for s := bufio.NewScanner(conn); s.Scan(); {
			fmt.Fprintln(&all, s.Text())
			if _, line, ok := strings.Cut(s.Text(), "VM: "); ok {
				m.lines <- strings.TrimSpace(line)
			}
		}
		os.WriteFile(filepath.Join(h.dir, "console"), all.Bytes(), 0o644)
	}()
	m.until("ready")
	return m
}

// errSilent ends waiting for the machine.
var errSilent = errors.New("the machine does not answer")

// until returns the lines before this one.
func (m *machine) until(end string) (lines []string) {
	m.t.Helper()
	limit := time.After(75 * time.Second)
	for {
		select {
		case line, ok := <-m.lines:
			switch {
			case !ok:
				m.t.Fatal("the machine has ended")
			case line == end:
				return lines
			case strings.HasPrefix(line, "failed"):
				m.t.Fatal(line)
			}
			lines = append(lines, line)
		case <-limit:
			m.t.Fatalf("%v, want %q, have %q", errSilent, end, lines)
		}
	}
}

// do gives a command to the machine and returns the answer.
func (m *machine) do(command string) string {
	m.t.Helper()
	if _, err := fmt.Fprintln(m.conn, command); err != nil {
		m.t.Fatal(err)
	}
	return strings.Join(m.until("done"), ", ")
}
