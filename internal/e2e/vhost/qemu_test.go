package vhost

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bootLimit is long, because after a reset QEMU translates slowly on busy hosts.
const bootLimit = 150 * time.Second

// guest is a virtual machine, in one QEMU or, after a migration, in another.
type guest struct {
	t     *testing.T
	dir   string
	lines chan string // of its console, those that begin with "VM: "
	qemu  *qemu       // that it runs in now
}

// qemu is a stock QEMU whose disk is at a socket of ours.
type qemu struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	out     io.Reader // of the console
	console *os.File
	rest    string // of the last line, after ended
	monitor net.Conn
	replies *bufio.Scanner
	ended   chan struct{}
}

func newGuest(t *testing.T, dir string) *guest {
	return &guest{t: t, dir: dir, lines: make(chan string, 10000)}
}

// start runs a QEMU, the way docs/usage/vitastor-vhost.md says; incoming = wait
// for a migration to that unix socket.
func (g *guest) start(name, socket, device, incoming string) *qemu {
	g.t.Helper()
	monitor := filepath.Join(g.dir, name+".qmp")
	args := []string{"-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1", "-m", "512", "-nodefaults", "-nographic", "-serial", "stdio",
		"-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-M", "q35,memory-backend=mem",
		"-chardev", "socket,id=disk0,reconnect=1,path=" + socket,
		"-device", "vhost-user-blk-pci,chardev=disk0,bootindex=0" + device,
		"-qmp", "unix:" + monitor + ",server=on,wait=off"}
	if incoming != "" {
		args = append(args, "-incoming", "unix:"+incoming)
	}
	q := &qemu{cmd: exec.Command("qemu-system-x86_64", args...), ended: make(chan struct{})}
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	console, err := os.OpenFile(filepath.Join(g.dir, "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	g.must(err)
	q.cmd.Stderr, q.console = console, console
	q.stdin, err = q.cmd.StdinPipe()
	g.must(err)
	q.out, err = q.cmd.StdoutPipe()
	g.must(err)
	g.must(q.cmd.Start())
	if incoming == "" {
		go g.read(q, "")
	}
	g.t.Cleanup(func() {
		q.cmd.Process.Kill()
		if q == g.qemu {
			<-q.ended
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if q.monitor, err = net.Dial("unix", monitor); err == nil {
			break
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("QEMU has no monitor: %v\n%s", err, g.tail())
		}
	}
	q.replies = bufio.NewScanner(q.monitor)
	q.replies.Buffer(nil, 1<<20)
	q.replies.Scan() // the greeting
	g.qmp(q, "qmp_capabilities", nil)
	return q
}

// read takes what the machine prints in a QEMU, until that ends. begun is what
// another one has printed of the first line.
func (g *guest) read(q *qemu, begun string) {
	defer close(q.ended)
	r := bufio.NewReader(io.TeeReader(q.out, q.console))
	for {
		text, err := r.ReadString('\n')
		text, begun = begun+text, ""
		if err != nil {
			q.rest = text
			break
		}
		if _, line, ok := strings.Cut(text, "VM: "); ok {
			g.lines <- strings.TrimSpace(line)
		}
	}
	q.cmd.Wait()
	q.console.Close()
}

func (g *guest) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// qmp gives a command to the monitor.
func (g *guest) qmp(q *qemu, command string, arguments any) (result map[string]any) {
	g.t.Helper()
	m := map[string]any{"execute": command}
	if arguments != nil {
		m["arguments"] = arguments
	}
	text, err := json.Marshal(m)
	g.must(err)
	q.monitor.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = q.monitor.Write(append(text, '\n'))
	g.must(err)
	for q.replies.Scan() {
		var r struct {
			Return json.RawMessage `json:"return"`
			Error  *struct{ Desc string }
		}
		g.must(json.Unmarshal(q.replies.Bytes(), &r))
		switch {
		case r.Error != nil:
			g.t.Fatalf("QEMU: %s: %s", command, r.Error.Desc)
		case r.Return != nil:
			json.Unmarshal(r.Return, &result)
			return result
		}
	}
	g.t.Fatalf("QEMU: %s is not answered (%v)\n%s", command, q.replies.Err(), g.tail())
	return nil
}

// next is the next line of the console.
func (g *guest) next(limit time.Duration) string {
	g.t.Helper()
	select {
	case line := <-g.lines:
		if strings.HasPrefix(line, "failed") {
			g.t.Fatalf("the machine says %q\n%s", line, g.tail())
		}
		return line
	case <-time.After(limit):
		g.t.Fatalf("the machine says nothing for %v\n%s", limit, g.tail())
	}
	return ""
}

// booted waits until the machine takes commands.
func (g *guest) booted() {
	g.t.Helper()
	began := time.Now()
	for g.next(bootLimit) != "ready" {
	}
	g.t.Logf("booted in %v", time.Since(began).Round(10*time.Millisecond))
}

// do gives a command to the machine; line gets its answer.
func (g *guest) do(command string, line func(string)) {
	g.t.Helper()
	_, err := io.WriteString(g.qemu.stdin, command+"\n")
	g.must(err)
	for {
		text := g.next(60 * time.Second)
		if text == "done" {
			return
		}
		line(text)
	}
}

// halt shuts the machine down and waits for the end of QEMU.
func (g *guest) halt() {
	g.t.Helper()
	g.do("halt", func(string) {})
	select {
	case <-g.qemu.ended:
	case <-time.After(20 * time.Second):
		g.t.Fatal("QEMU does not end")
	}
}

// migrate moves the machine to another QEMU, which is waiting already.
func (g *guest) migrate(to *qemu, socket string) {
	g.t.Helper()
	g.qmp(g.qemu, "migrate", map[string]any{"uri": "unix:" + socket})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status := g.qmp(g.qemu, "query-migrate", nil)["status"]
		if status == "completed" {
			break
		}
		if status == "failed" || status == "cancelled" || time.Now().After(deadline) {
			g.t.Fatalf("migration: %v\n%s", status, g.tail())
		}
	}
	g.qmp(g.qemu, "quit", nil)
	<-g.qemu.ended
	go g.read(to, g.qemu.rest) // it may have stopped in the middle of a line
	g.qemu = to
}

// tail is the end of the console.
func (g *guest) tail() string {
	b, err := os.ReadFile(filepath.Join(g.dir, "console"))
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b[max(0, len(b)-3000):])
}
