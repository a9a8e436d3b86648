package hosts

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vm is a QEMU without a guest, driven by QMP: its devices and jobs use disks as
// a running one does.
type vm struct {
	t     *testing.T
	cmd   *exec.Cmd
	conn  net.Conn
	lines *bufio.Scanner
	out   bytes.Buffer
}

func startVM(t *testing.T, args ...string) *vm {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is not installed (Debian: qemu-system-x86)")
	}
	socket := filepath.Join(t.TempDir(), "qmp")
	v := &vm{t: t}
	v.cmd = command(t, "qemu-system-x86_64", append([]string{"-accel", "tcg", "-M", "q35", "-m", "32", "-display", "none", "-nodefaults",
		"-S", "-qmp", "unix:" + socket + ",server=on,wait=off"}, args...)...)
	v.cmd.Stdout, v.cmd.Stderr = &v.out, &v.out
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.cmd.Process.Kill()
		v.cmd.Wait()
		if t.Failed() {
			t.Log(v.out.String())
		}
	})
	for end := time.Now().Add(30 * time.Second); v.conn == nil; time.Sleep(20 * time.Millisecond) {
		var err error
		if v.conn, err = net.Dial("unix", socket); err != nil && time.Now().After(end) {
			t.Fatalf("no QMP: %v\n%s", err, &v.out)
		}
	}
	v.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	v.lines = bufio.NewScanner(v.conn)
	v.lines.Scan() // greeting
	v.do("qmp_capabilities", nil)
	return v
}

// do runs a command and returns its answer, which must not be an error.
func (v *vm) do(name string, arguments any) json.RawMessage {
	v.t.Helper()
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	data, _ := json.Marshal(request)
	if _, err := v.conn.Write(append(data, '\n')); err != nil {
		v.t.Fatal(err)
	}
	for v.lines.Scan() {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(v.lines.Bytes(), &answer); err != nil {
			v.t.Fatal(err)
		}
		if answer.Error != nil {
			v.t.Fatalf("%s: %s", data, answer.Error.Desc)
		}
		if answer.Return != nil {
			return answer.Return
		}
	}
	v.t.Fatalf("%s: QEMU has gone: %v\n%s", data, v.lines.Err(), &v.out)
	return nil
}

type arguments map[string]any

// try runs a command of qemu-io on a drive.
func (v *vm) try(drive, what string) error {
	v.t.Helper()
	out := string(v.do("human-monitor-command", arguments{"command-line": fmt.Sprintf(`qemu-io %s "%s"`, drive, what)}))
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") || strings.Contains(out, "ound") {
		return fmt.Errorf("%s: %s", what, out)
	}
	return nil
}

// io must succeed.
func (v *vm) io(drive, what string) {
	v.t.Helper()
	if err := v.try(drive, what); err != nil {
		v.t.Fatal(err)
	}
}

// eventually must succeed some time. It waits for requests in flight instead of
// aio_flush, for which QEMU 7.2 waits with the lock of the AioContext held, so
// that no iothread can complete anything.
func (v *vm) eventually(drive, what string) {
	v.t.Helper()
	var err error
	for range 1000 {
		if err = v.try(drive, what); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	v.t.Fatal(err)
}

// until repeats a query until it contains a text.
func (v *vm) until(query, want string) {
	v.t.Helper()
	got := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = string(v.do(query, nil)); strings.Contains(got, want) {
			return
		}
	}
	v.t.Fatalf("%s: %s, want %s", query, got, want)
}

// node is the name of the node of a drive.
func (v *vm) node(drive string) string {
	v.t.Helper()
	var list []struct {
		Device   string
		Inserted struct {
			Node string `json:"node-name"`
		}
	}
	json.Unmarshal(v.do("query-block", nil), &list)
	for _, d := range list {
		if d.Device == drive {
			return d.Inserted.Node
		}
	}
	v.t.Fatalf("no drive %s", drive)
	return ""
}

func drive(id, file string) string {
	return "if=none,id=" + id + ",format=raw,cache=none,discard=unmap,file=" + strings.ReplaceAll(file, ",", ",,")
}

func TestVMIOThreads(t *testing.T) {
	c := setUp(t)
	v := startVM(t, "-drive", drive("d", disk(newImage(t, 1, 64<<20))), "-object", "iothread,id=one", "-object", "iothread,id=two")
	v.io("d", "write -P 1 0 1M")
	for i := range 30 {
		v.do("x-blockdev-set-iothread", arguments{"node-name": v.node("d"), "iothread": []any{"one", nil, "two"}[i%3], "force": true})
		v.io("d", fmt.Sprintf("write -P %d 1M 1M", i+1))
		v.io("d", fmt.Sprintf("aio_write -P %d 4M 4M", i+100))
		v.io("d", fmt.Sprintf("read -P %d 1M 1M", i+1))
		v.eventually("d", fmt.Sprintf("read -P %d 4M 4M", i+100))
	}
	v.do("query-named-block-nodes", nil) // allocated size, from the main thread
	// in the main thread, because QEMU 7.2 aborts at the end when a node in an
	// iothread was resized, whatever its driver is
	v.do("x-blockdev-set-iothread", arguments{"node-name": v.node("d"), "iothread": nil, "force": true})
	v.do("block_resize", arguments{"node-name": v.node("d"), "size": 128 << 20})
	v.io("d", "write -P 5 127M 1M")
	v.do("x-blockdev-set-iothread", arguments{"node-name": v.node("d"), "iothread": "two", "force": true})
	if err := c.OSD(3).Kill(); err != nil {
		t.Fatal(err)
	}
	v.io("d", "write -P 6 0 32M")
	v.io("d", "read -P 6 0 32M")
	if err := c.OSD(3).Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(1, "active", time.Minute); err != nil {
		t.Error(err)
	}
	v.do("quit", nil)
	if err := v.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestVMJobs: a disk moves to another image while it is written to, and a
// backup of it is taken.
func TestVMJobs(t *testing.T) {
	setUp(t)
	from, to, backup := newImage(t, 1, 32<<20), newImage(t, 2, 32<<20), newImage(t, 1, 32<<20)
	v := startVM(t, "-drive", drive("d", disk(from)), "-object", "iothread,id=one", "-device", "virtio-blk-pci,drive=d,iothread=one")
	v.io("d", "write -P 1 0 16M")
	v.do("drive-backup", arguments{"device": "d", "job-id": "b", "target": disk(backup), "format": "raw", "sync": "full", "mode": "existing"})
	v.io("d", "write -P 2 0 4M")
	v.until("query-block-jobs", "[]")
	v.do("drive-mirror", arguments{"device": "d", "job-id": "m", "target": disk(to), "format": "raw", "sync": "full", "mode": "existing"})
	v.io("d", "write -P 3 8M 1M")
	v.until("query-block-jobs", `"ready": true`)
	v.io("d", "write -P 4 20M 1M")
	v.do("block-job-complete", arguments{"device": "m"})
	v.until("query-block-jobs", "[]")
	v.until("query-block", "image="+to) // the drive has moved
	v.io("d", "write -P 5 31M 1M")
	v.do("quit", nil)
	if err := v.cmd.Wait(); err != nil {
		t.Error(err)
	}
	io(t, disk(backup), "read -P 1 0 16M", "read -P 0 16M 16M")
	io(t, disk(to), "read -P 2 0 4M", "read -P 1 4M 4M", "read -P 3 8M 1M", "read -P 4 20M 1M", "read -P 5 31M 1M", "read -P 0 21M 10M")
	io(t, disk(from), "read -P 4 20M 1M", "read -P 0 31M 1M")
}

// TestVMMigration: two QEMUs have the same disk, one after the other.
func TestVMMigration(t *testing.T) {
	setUp(t)
	image := newImage(t, 1, 32<<20)
	device := []string{"-drive", drive("d", disk(image)), "-object", "iothread,id=one", "-device", "virtio-blk-pci,drive=d,iothread=one"}
	socket := "unix:" + filepath.Join(t.TempDir(), "migration")
	source := startVM(t, device...)
	target := startVM(t, append(device, "-incoming", socket)...)
	source.io("d", "write -P 1 0 8M")
	source.do("migrate", arguments{"uri": socket})
	source.until("query-migrate", `"status": "completed"`)
	target.do("cont", nil)
	target.io("d", "read -P 1 0 8M")
	target.io("d", "write -P 2 4M 8M")
	source.do("quit", nil)
	target.io("d", "read -P 2 4M 8M")
	target.do("quit", nil)
	if err := target.cmd.Wait(); err != nil {
		t.Error(err)
	}
	io(t, disk(image), "read -P 1 0 4M", "read -P 2 4M 8M")
}
