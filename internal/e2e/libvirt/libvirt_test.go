package libvirt

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	machines "vitastor/internal/e2e/machine"
	"vitastor/internal/e2e/vm"
)

const diskBytes = 160 << 20

// block is one of the page's: a file, or commands.
type block struct {
	file, text string
}

// blocks reads the page. Files begin with a comment that names them.
func blocks(t *testing.T, root string) (all []block) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "usage", "libvirt.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```(sh|xml)\n(.*?)^```").FindAllStringSubmatch(string(page), -1) {
		b := block{text: m[2]}
		if m[1] == "xml" {
			name := regexp.MustCompile(`^<!-- (\S+) -->\n`).FindStringSubmatch(m[2])
			if name == nil {
				t.Fatalf("no name:\n%s", m[2])
			}
			b.file = name[1]
		}
		all = append(all, b)
	}
	return all
}

func TestPage(t *testing.T) {
	if os.Getenv("VITASTOR_E2E") != "full" {
		t.Skip("boots machines with libvirt: runs with VITASTOR_E2E=full, as in make test-integrations")
	}
	for program, pkg := range map[string]string{"/usr/sbin/libvirtd": "libvirt-daemon", "virsh": "libvirt-clients", machines.QEMU: "qemu-system-x86"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is not installed (Debian: %s, libvirt-daemon-driver-qemu)", program, pkg)
		}
	}
	root, err := cluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	c, bin, dir := startCluster(t, root)
	h := startHost(t, dir, bin, c.ConfigFile(), filepath.Join(root, "packaging", "systemd"))
	h.importDisk("vm1")
	for _, b := range blocks(t, root) {
		if b.file != "" {
			text := strings.ReplaceAll(b.text, "type='kvm'", "type='qemu'")
			if err := os.WriteFile(filepath.Join(dir, "work", b.file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			h.checkFile(b.file)
			continue
		}
		h.must(b.text)
		for _, s := range steps {
			if strings.Contains(b.text, s.after) {
				s.check(h)
			}
		}
	}
}

// startCluster also returns the folder of programs, and one for the host.
func startCluster(t *testing.T, root string) (c *cluster.Cluster, programs, dir string) {
	top, err := os.MkdirTemp("/dev/shm", "vitastor-libvirt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	// Other users run programs there.
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	programs, dir = filepath.Join(top, "programs"), filepath.Join(top, "host")
	work := filepath.Join(top, "cluster")
	for _, d := range []string{programs, dir, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", programs+"/", "./frontends/nbd/vitastor-nbd", "./frontends/vhost/vitastor-vhost", "./frontends/cli/vitastor-cli")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin, err := cluster.Build(programs)
	if err == nil {
		c, err = cluster.New(cluster.Config{Dir: work, Bin: bin, OSDs: 2})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(c.Start(), c.CreatePool(1, cluster.Replicated("vms", 2, 8))); err != nil {
		t.Fatal(err)
	}
	return c, programs, dir
}

// importDisk makes an image that boots.
func (h *host) importDisk(image string) {
	h.t.Helper()
	guest, err := vm.Packages(machines.CacheDir())
	if err != nil {
		h.t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/init.sh")
	if err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(h.dir, "disk")
	if err := vm.BuildDisk(file, guest, vm.Disk{Bytes: diskBytes, Files: map[string][]byte{"sbin/init": script}}); err != nil {
		h.t.Fatal(err)
	}
	h.must("vitastor-cli dd if=" + file + " oimg=" + image + " status=none --progress 0")
}

// checkFile looks at files when they are new: what happens if they are used too
// early, and at disks that cannot be used here. libvirt knows block devices, and
// does not know the protocol of its patch.
func (h *host) checkFile(file string) {
	define := "{ echo \"<domain type='qemu'><name>only</name><memory>1</memory><os><type>hvm</type></os><devices>\"; cat " + file +
		"; echo '</devices></domain>'; } | grep -v '^<!--' >only.xml && virsh define only.xml"
	switch file {
	case "vm1.xml":
		h.refused("chmod 700 /run/vitastor-nbd/vm1.sock; virsh create vm1.xml", "Failed to connect to '/run/vitastor-nbd/vm1.sock': Permission denied")
		h.must("chmod 770 /run/vitastor-nbd/vm1.sock")
	case "data.xml":
		h.refused("virsh attach-device vm1 data.xml", "Failed to connect to '/run/vitastor-nbd/data.sock': No such file or directory")
	case "block.xml":
		h.must(define + " && virsh dumpxml only | grep -q \"<source dev='/dev/ublkb0'\" && virsh undefine only")
	case "patched.xml":
		h.refused(define, "Invalid value for attribute 'protocol'")
	}
}

// refused runs commands that must fail with this text, which the page knows.
func (h *host) refused(commands, want string) {
	h.t.Helper()
	if out, err := h.sh(commands); err == nil || !strings.Contains(out, want) {
		h.t.Errorf("%s: %v, want %q:\n%s", commands, err, want, out)
	}
}

// steps are what is checked when commands of the page were run.
var steps = []struct {
	after string // in the commands
	check func(h *host)
}{
	{"virsh create vm1.xml", (*host).checkBoot},
	{"virsh resume", (*host).checkResumed},
	{"virsh attach-device", (*host).checkAttached},
	{"virsh detach-device", (*host).checkDetached},
	{"virsh blockcopy", (*host).checkMoved},
	{"virsh create vm2.xml", (*host).checkBoot2},
	{"--resize 192M", (*host).checkGrown},
	{"sg kvm -c 'vitastor-vhost map", (*host).checkServed},
}

var vm1, vm2 *machine // those of the page

// checkBoot: the machine runs. When the server of its disk is killed, it stops at
// its next request, or waits.
func (h *host) checkBoot() {
	vm1 = h.console("/run/vm1.console")
	h.is(vm1.do("disks"), "vda 327680")
	h.is(vm1.do("file one"), "one")
	h.must("kill -KILL $(pgrep -P $(cat /run/vitastor-nbd@vm1.pid))")
	if _, err := vm1.conn.Write([]byte("file two\n")); err != nil {
		h.t.Fatal(err)
	}
	h.must("for i in {1..50}; do virsh domstate vm1 | grep -q paused && break; sleep 0.1; done; sleep 1.5 # systemd starts it again")
	h.t.Logf("without the server the machine is %s", strings.TrimSpace(h.must("virsh domstate vm1 --reason")))
}

// checkResumed: nothing is lost.
func (h *host) checkResumed() {
	h.is(strings.Join(vm1.until("done"), ", "), "two")
	h.is(strings.TrimSpace(h.must("virsh domstate vm1")), "running")
}

func (h *host) checkAttached() {
	for i := 0; i < 100 && !strings.Contains(vm1.do("disks"), "vdb"); i++ {
		time.Sleep(100 * time.Millisecond)
	}
	h.is(vm1.do("disks"), "vda 327680, vdb 131072")
	h.refused("sed s/vdb/vdc/ data.xml >more.xml; virsh attach-device vm1 more.xml", "No more available PCI slots")
	vm1.do("write vdb hello")
	h.is(vm1.do("read vdb"), "hello")
}

func (h *host) checkDetached() {
	h.is(vm1.do("disks"), "vda 327680")
	h.must("vitastor-cli dd iimg=data of=data.raw status=none --progress 0 && test \"$(dd if=data.raw bs=1M skip=1 status=none | head -c 5)\" = hello")
}

// checkMoved: what is written goes to the new image.
func (h *host) checkMoved() {
	h.is(vm1.do("file written-to-the-new-image"), "written-to-the-new-image")
	if _, err := vm1.conn.Write([]byte("halt\n")); err != nil {
		h.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if out := h.must("virsh -q list --all --name"); strings.TrimSpace(out) == "" {
			break
		}
		if time.Now().After(end) {
			h.t.Fatal("vm1 does not end")
		}
	}
	for image, want := range map[string]string{"vm1": "0", "moved": "1"} {
		h.must("vitastor-cli dd iimg=" + image + " of=" + image + ".raw status=none --progress 0")
		h.is(strings.TrimSpace(h.must("grep -c written-to-the-new-image "+image+".raw || true")), want)
	}
}

// checkBoot2: the clone has what the snapshot has.
func (h *host) checkBoot2() {
	vm2 = h.console("/run/vm2.console")
	h.is(vm2.do("disks"), "vda 327680")
	vm2.do("write vda1 hello")
	h.is(vm2.do("read vda1"), "hello")
	h.is(vm2.do("file four"), "four")
}

// checkGrown also kills the server, before the page starts it again.
func (h *host) checkGrown() {
	for i := 0; i < 100 && vm2.do("disks") != "vda 393216"; i++ {
		time.Sleep(100 * time.Millisecond)
	}
	h.is(vm2.do("disks"), "vda 393216")
	h.must("kill -KILL $(vitastor-vhost ls --json | grep -o '\"pid\": *[0-9]*' | grep -o '[0-9]*')")
	if _, err := vm2.conn.Write([]byte("file five\n")); err != nil {
		h.t.Fatal(err)
	}
}

// checkServed: the machine gets the answer for which it has waited. The page
// starts the server for the first time when there is no machine.
func (h *host) checkServed() {
	if vm2 == nil {
		return
	}
	h.is(strings.Join(vm2.until("done"), ", "), "five")
	h.must("virsh destroy vm2")
}

func (h *host) is(have, want string) {
	h.t.Helper()
	if have != want {
		h.t.Errorf("%q, want %q", have, want)
	}
}
