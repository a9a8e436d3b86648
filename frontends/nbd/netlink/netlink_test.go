package netlink

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vitastor/frontends/blockdev/genetlink"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// little skips on hosts whose byte order the expected bytes are not in.
func little(t *testing.T) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the expected bytes are those of little-endian hosts")
	}
}

// TestMessages: bytes written by hand from linux/netlink.h, genetlink.h and
// nbd-netlink.h.
func TestMessages(t *testing.T) {
	little(t)
	o := Options{SizeBytes: 1 << 30, BlockBytes: 4096, ServerFlags: 0x10d, ClientFlags: 1, TimeoutSeconds: 30, DeadConnSeconds: 300}
	for _, c := range []struct {
		name     string
		got      *genetlink.Message
		sequence uint32
		want     string
	}{
		{"connect", connectMessage(cmdConnect, 5, []int{7, 9}, o), 2, "80000000 1f00 0500 02000000 00000000  01 01 0000" +
			"0800 0100 05000000" +
			"0c00 0200 0000004000000000" +
			"0c00 0300 0010000000000000" +
			"0c00 0500 0d01000000000000" +
			"0c00 0600 0100000000000000" +
			"0c00 0400 1e00000000000000" +
			"0c00 0800 2c01000000000000" +
			"1c00 0780  0c00 0180 0800 0100 07000000  0c00 0180 0800 0100 09000000"},
		{"connect to any", connectMessage(cmdConnect, -1, []int{7}, Options{SizeBytes: 1, BlockBytes: 512}), 2,
			"54000000 1f00 0500 02000000 00000000  01 01 0000" +
				"0c00 0200 0100000000000000  0c00 0300 0002000000000000  0c00 0500 0000000000000000  0c00 0600 0000000000000000" +
				"1000 0780 0c00 0180 0800 0100 07000000"},
		{"revive", connectMessage(cmdReconfigure, 5, []int{7}, Options{SizeBytes: 1, BlockBytes: 512, DeadConnSeconds: 1}), 3,
			"5c000000 1f00 0500 03000000 00000000  03 01 0000  0800 0100 05000000" +
				"0c00 0200 0100000000000000  0c00 0300 0002000000000000  0c00 0600 0000000000000000  0c00 0800 0100000000000000" +
				"1000 0780 0c00 0180 0800 0100 07000000"},
		{"resize", sizeMessage(5, 1<<20), 4, "28000000 1f00 0500 04000000 00000000  03 01 0000  0800 0100 05000000  0c00 0200 0000100000000000"},
		{"disconnect", disconnectMessage(5), 5, "1c000000 1f00 0500 05000000 00000000  02 01 0000  0800 0100 05000000"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got.Encode(0x1f, c.sequence), want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, c.got.Encode(0x1f, c.sequence), want)
		}
	}
}

// calls is a kernel that notes what it is asked for.
type calls struct {
	list []uintptr
	fail uintptr // this request fails
}

func (c *calls) device() *Device {
	return &Device{index: 3, file: os.NewFile(^uintptr(0), "none"), call: func(request, argument uintptr) error {
		c.list = append(c.list, request, argument)
		if request == c.fail {
			return syscall.EBUSY
		}
		return nil
	}}
}

func TestSetUp(t *testing.T) {
	o := Options{SizeBytes: 1 << 40, BlockBytes: 4096, ServerFlags: 0x105}
	for _, c := range []struct {
		name    string
		fds     []int
		timeout uint64
		fail    uintptr
		want    []uintptr
	}{
		{"one socket", []int{7}, 0, 0, []uintptr{0xab00, 7, 0xab01, 4096, 0xab02, 1 << 40, 0xab0a, 0x105}},
		{"two, and a timeout", []int{7, 8}, 30, 0, []uintptr{0xab00, 7, 0xab00, 8, 0xab01, 4096, 0xab02, 1 << 40, 0xab0a, 0x105, 0xab09, 30}},
		{"in use", []int{7}, 0, ioSetSock, []uintptr{0xab00, 7}},
		{"refused later", []int{7}, 0, ioSetSize, []uintptr{0xab00, 7, 0xab01, 4096, 0xab02, 1 << 40, 0xab04, 0}},
	} {
		k := &calls{fail: c.fail}
		o.TimeoutSeconds = c.timeout
		if err := k.device().setUp(c.fds, o); (err != nil) != (c.fail != 0) || !slices.Equal(k.list, c.want) {
			t.Errorf("%s: %v, calls %#x, want %#x", c.name, err, k.list, c.want)
		}
	}
}

func TestRun(t *testing.T) {
	k := &calls{}
	d := k.device()
	if err := d.Run(); err != nil || !slices.Equal(k.list, []uintptr{0xab03, 0, 0xab05, 0, 0xab04, 0}) {
		t.Errorf("%v %#x", err, k.list)
	}
	k.list = nil
	d.Resize(4096)
	d.Disconnect()
	if !slices.Equal(k.list, []uintptr{0xab02, 4096, 0xab08, 0}) {
		t.Errorf("%#x", k.list)
	}
	k.fail = ioDoIt
	if err := d.Run(); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "/dev/nbd3") {
		t.Errorf("%v", err)
	}
}

func TestIndex(t *testing.T) {
	for text, want := range map[string]int{"/dev/nbd0": 0, "/dev/nbd12": 12, "7": 7, "/dev/sda": -1, "": -1, "-1": -1, "/dev/nbd": -1} {
		n, err := Index(text)
		if (err != nil) != (want < 0) || err == nil && n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
}

func TestSys(t *testing.T) {
	root := t.TempDir()
	s := Sys{root}
	if s.Loaded() || s.Exists(0) || s.PID(0) != 0 || s.CommandLine(5) != nil || s.Processes() != nil {
		t.Error("there is something in an empty folder")
	}
	for name, text := range map[string]string{"sys/module/nbd/x": "", "sys/block/nbd0/pid": "123\n", "sys/block/nbd1/size": "0", "sys/block/nbd0/size": "2048\n",
		"proc/123/cmdline": "/usr/bin/vitastor-nbd\x00map\x00--image\x00a b\x00", "proc/self/x": ""} {
		path := filepath.Join(root, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Loaded() || !s.Exists(0) || !s.Exists(1) || s.Exists(2) || s.PID(0) != 123 || s.PID(1) != 0 || s.SizeBytes(0) != 1<<20 || s.SizeBytes(1) != 0 || s.SizeBytes(2) != 0 {
		t.Error("devices are not found")
	}
	if got := s.CommandLine(123); !slices.Equal(got, []string{"/usr/bin/vitastor-nbd", "map", "--image", "a b"}) {
		t.Errorf("%q", got)
	}
	if got := s.Processes(); !slices.Equal(got, []int{123}) {
		t.Errorf("%v", got)
	}
}

// TestThisHost: the real kernel answers, or it is said what is missing.
func TestThisHost(t *testing.T) {
	err := Disconnect(1 << 20)
	switch {
	case err == nil:
		t.Error("a device that cannot exist is disconnected")
	case errors.Is(err, ErrNoFamily):
		if (Sys{}).Loaded() {
			t.Errorf("the module is loaded, but %v", err)
		}
		t.Log("this kernel has no module nbd: only the answer to that was tested")
	default:
		t.Log(err)
	}
	if _, err := Attach(1<<20, nil, Options{}); err == nil || !strings.Contains(err.Error(), "/dev/nbd1048576") {
		t.Errorf("a device that cannot exist: %v", err)
	}
}
