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
		name string
		got  []byte
		want string
	}{
		{"family", familyMessage(1), "1c000000 1000 0500 01000000 00000000  03 01 0000  0800 0200 6e626400"},
		{"connect", connectMessage(0x1f, cmdConnect, 2, 5, []int{7, 9}, o), "80000000 1f00 0500 02000000 00000000  01 01 0000" +
			"0800 0100 05000000" +
			"0c00 0200 0000004000000000" +
			"0c00 0300 0010000000000000" +
			"0c00 0500 0d01000000000000" +
			"0c00 0600 0100000000000000" +
			"0c00 0400 1e00000000000000" +
			"0c00 0800 2c01000000000000" +
			"1c00 0780  0c00 0180 0800 0100 07000000  0c00 0180 0800 0100 09000000"},
		{"connect to any", connectMessage(0x1f, cmdConnect, 2, -1, []int{7}, Options{SizeBytes: 1, BlockBytes: 512}),
			"54000000 1f00 0500 02000000 00000000  01 01 0000" +
				"0c00 0200 0100000000000000  0c00 0300 0002000000000000  0c00 0500 0000000000000000  0c00 0600 0000000000000000" +
				"1000 0780 0c00 0180 0800 0100 07000000"},
		{"revive", connectMessage(0x1f, cmdReconfigure, 3, 5, []int{7}, Options{SizeBytes: 1, BlockBytes: 512, DeadConnSeconds: 1}),
			"5c000000 1f00 0500 03000000 00000000  03 01 0000  0800 0100 05000000" +
				"0c00 0200 0100000000000000  0c00 0300 0002000000000000  0c00 0600 0000000000000000  0c00 0800 0100000000000000" +
				"1000 0780 0c00 0180 0800 0100 07000000"},
		{"resize", sizeMessage(0x1f, 4, 5, 1<<20), "28000000 1f00 0500 04000000 00000000  03 01 0000  0800 0100 05000000  0c00 0200 0000100000000000"},
		{"disconnect", disconnectMessage(0x1f, 5, 5), "1c000000 1f00 0500 05000000 00000000  02 01 0000  0800 0100 05000000"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, c.got, want)
		}
	}
}

func TestParse(t *testing.T) {
	little(t)
	const (
		index = "1c000000 1f00 0000 02000000 44332211  01 01 0000  0800 0100 05000000"
		ack   = "24000000 0200 0001 02000000 44332211  00000000  80000000 1f00 0500 02000000 00000000"
		busy  = "24000000 0200 0001 02000000 44332211  f0ffffff  80000000 1f00 0500 02000000 00000000"
		other = "24000000 0200 0001 01000000 44332211  f0ffffff  80000000 1f00 0500 02000000 00000000"
	)
	list, err := parse(unhex(t, other+index+ack), 2)
	if err != nil || len(list) != 2 || list[0].final || !list[1].final || list[1].err != 0 {
		t.Fatalf("%+v %v", list, err)
	}
	if n, ok := list[0].number(attrIndex); n != 5 || !ok {
		t.Errorf("%d %v", n, ok)
	}
	if _, ok := list[0].number(attrTimeout); ok {
		t.Error("an attribute that is not there")
	}
	list, err = parse(unhex(t, busy), 2)
	if err != nil || len(list) != 1 || list[0].err != syscall.EBUSY {
		t.Errorf("%+v %v", list, err)
	}
	for _, bad := range []string{"10", "0f000000 0200 0001 02000000 44332211", "ff000000 0200 0001 02000000 44332211",
		"12000000 0200 0001 02000000 44332211 0000", "18000000 1f00 0000 02000000 44332211 01010000 0300 0100",
		"18000000 1f00 0000 02000000 44332211 01010000 0900 0100"} {
		if _, err := parse(unhex(t, bad), 2); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, "1c000000 1f00 0000 02000000 44332211  01 01 0000  0800 0100 05000000"))
	f.Add(unhex(f, "24000000 0200 0001 02000000 44332211  f0ffffff  80000000 1f00 0500 02000000 00000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parse(b, 2)
		for _, r := range list {
			r.number(attrIndex)
			if err != nil || r.final && r.attrs != nil {
				t.Errorf("%+v %v", r, err)
			}
		}
	})
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
	for name, text := range map[string]string{"sys/module/nbd/x": "", "sys/block/nbd0/pid": "123\n", "sys/block/nbd1/size": "0",
		"proc/123/cmdline": "/usr/bin/vitastor-nbd\x00map\x00--image\x00a b\x00", "proc/self/x": ""} {
		path := filepath.Join(root, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Loaded() || !s.Exists(0) || !s.Exists(1) || s.Exists(2) || s.PID(0) != 123 || s.PID(1) != 0 {
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
