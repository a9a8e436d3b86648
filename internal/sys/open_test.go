package sys

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLockHolderText(t *testing.T) {
	const locks = `1: POSIX  ADVISORY  WRITE 11 08:10:2890 0 EOF
2: FLOCK  ADVISORY  WRITE 708 08:10:2890 0 EOF
2: -> FLOCK  ADVISORY  WRITE 709 08:10:2890 0 EOF
3: FLOCK  ADVISORY  WRITE 12 fd:01:2890 0 EOF
`
	if pid := lockHolder(locks, 8, 16, 2890); pid != 708 {
		t.Errorf("holder %d", pid)
	}
	if pid := lockHolder(locks, 8, 17, 2890); pid != 0 {
		t.Errorf("holder of an unlocked file %d", pid)
	}
	lockHolder("x\n\n: : : : : :\n", 0, 0, 0)
}

func TestLockAndHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	a, e := OpenDisk(path, OpenDiskFlags{})
	if e != 0 {
		t.Fatal(e)
	}
	defer Close(a)
	b, e := OpenDisk(path, OpenDiskFlags{ReadOnly: true, Sync: true})
	if e != 0 {
		t.Fatal(e)
	}
	defer Close(b)
	if e := LockExclusive(a); e != 0 {
		t.Fatal(e)
	}
	if e := LockExclusive(b); e != unix.EWOULDBLOCK {
		t.Errorf("second lock: %v", e)
	}
	if h, alive := LockHolder(b); !strings.Contains(h, "pid ") || !alive {
		t.Errorf("holder %q, alive %v", h, alive)
	}
	if _, e := OpenDisk(path+"x", OpenDiskFlags{}); e != unix.ENOENT {
		t.Error(e)
	}
}

func TestProbeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, _ := OpenDisk(path, OpenDiskFlags{})
	defer Close(fd)
	f, err := ProbeDisk(fd)
	if err != nil || f.SizeBytes != 1<<20 || f.BlockDevice || f.BlockBytes < 512 || f.PhysicalBytes < f.BlockBytes ||
		f.DiscardGranularity == 0 {
		t.Errorf("%+v, %v", f, err)
	}
	t.Logf("%+v", f)
	if e := PunchHole(fd, 0, 4096); e != 0 && e != unix.EOPNOTSUPP {
		t.Error(e)
	}
	if e := SyncData(fd); e != 0 {
		t.Error(e)
	}
	dir, _ := unix.Open(t.TempDir(), unix.O_RDONLY, 0)
	defer Close(dir)
	if _, err := ProbeDisk(dir); err == nil {
		t.Error("a directory is a disk")
	}
}

func TestProbeBlockDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %v %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	fd, e := OpenDisk(dev, OpenDiskFlags{Direct: true})
	if e != 0 {
		t.Fatal(e)
	}
	defer Close(fd)
	f, err := ProbeDisk(fd)
	if err != nil || !f.BlockDevice || f.SizeBytes != 4<<20 || f.BlockBytes < 512 {
		t.Errorf("%+v, %v", f, err)
	}
	t.Logf("%+v", f)
	if f.DiscardGranularity > 0 {
		if e := Discard(fd, 0, 1<<20); e != 0 {
			t.Error(e)
		}
	}
}

func TestSockets(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		l, addr, err := ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(ip), 0), 10)
		if err != nil {
			if ip == "::1" {
				t.Logf("no IPv6 here: %v", err)
				continue
			}
			t.Fatal(err)
		}
		defer Close(l)
		c, err := DialTCP(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer Close(c)
		var s int
		var remote netip.AddrPort
		e := unix.EAGAIN
		for range 1000 {
			if s, remote, e = AcceptTCP(l); e != unix.EAGAIN {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if e != 0 {
			t.Fatal(e)
		}
		defer Close(s)
		if remote != LocalAddr(c) || LocalAddr(s) != addr || addr.Addr() != netip.MustParseAddr(ip).Unmap() || SocketError(c) != 0 {
			t.Errorf("%v: remote %v, dialer %v, own %v", addr, remote, LocalAddr(c), LocalAddr(s))
		}
		if _, _, err := ListenTCP(addr, 10); err == nil {
			t.Error("two listeners")
		}
	}
	if _, _, e := AcceptTCP(-1); e != unix.EBADF {
		t.Error(e)
	}
	if z := zoneName(zoneIndex("lo")); z != "lo" {
		t.Errorf("zone %q", z)
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	if zombie(os.Getpid()) {
		t.Error("this process is called dead")
	}
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 { // until it has ended; nobody has waited for it yet
		if zombie(child.Process.Pid) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !zombie(child.Process.Pid) {
		t.Error("an ended process that nobody has waited for is called alive")
	}
	child.Wait()
	if !zombie(child.Process.Pid) {
		t.Error("a gone process is called alive")
	}
}
