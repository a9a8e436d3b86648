package genetlink

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
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

// TestEncode: bytes written by hand from linux/netlink.h and genetlink.h.
func TestEncode(t *testing.T) {
	little(t)
	all := New(3, 1)
	all.String(4, "vd0")
	all.U32(1, 5)
	all.U64(2, 1<<30)
	var inner Attrs
	inner.U32(1, 7)
	all.Nest(7, inner)
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"family", familyMessage("nbd").Encode(controlID, 1), "1c000000 1000 0500 01000000 00000000  03 01 0000  0800 0200 6e626400"},
		{"none", New(9, 2).Encode(0x1f, 5), "14000000 1f00 0500 05000000 00000000  09 02 0000"},
		{"all kinds", all.Encode(0x20, 2), "3c000000 2000 0500 02000000 00000000  03 01 0000" +
			"0800 0400 76643000" + "0800 0100 05000000" + "0c00 0200 0000004000000000" + "0c00 0780 0800 0100 07000000"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, c.got, want)
		}
	}
}

const (
	answerIndex = "1c000000 1f00 0000 02000000 44332211  01 01 0000  0800 0100 05000000"
	answerAck   = "24000000 0200 0001 02000000 44332211  00000000  80000000 1f00 0500 02000000 00000000"
	answerBusy  = "24000000 0200 0001 02000000 44332211  f0ffffff  80000000 1f00 0500 02000000 00000000"
	answerOther = "24000000 0200 0001 01000000 44332211  f0ffffff  80000000 1f00 0500 02000000 00000000"
	answerWords = "30000000 0200 0003 02000000 44332211  eaffffff  80000000 1f00 0500 02000000 00000000  0900 0100 4f68202100 000000"
	// The same, with a copy of the request's payload of 4 bytes.
	answerLong = "34000000 0200 0002 02000000 44332211  eaffffff  14000000 1f00 0500 02000000 00000000 03010000 0900 0100 4f68202100 000000"
)

func TestParse(t *testing.T) {
	little(t)
	list, err := parse(unhex(t, answerOther+answerIndex+answerAck), 2)
	if err != nil || len(list) != 2 || list[0].final || !list[1].final || list[1].failure() != nil {
		t.Fatalf("%+v %v", list, err)
	}
	if n, ok := list[0].attrs.Number(1); n != 5 || !ok {
		t.Errorf("%d %v", n, ok)
	}
	if _, ok := list[0].attrs.Number(4); ok {
		t.Error("an attribute that is not there")
	}
	list, err = parse(unhex(t, answerBusy), 2)
	if err != nil || len(list) != 1 || list[0].failure() != error(syscall.EBUSY) {
		t.Errorf("%+v %v", list, err)
	}
	for _, words := range []string{answerWords, answerLong} {
		list, err = parse(unhex(t, words), 2)
		if err != nil || len(list) != 1 || !errors.Is(list[0].failure(), syscall.EINVAL) || !strings.Contains(list[0].failure().Error(), "Oh !") {
			t.Errorf("%+v %v", list, err)
		}
	}
	for _, bad := range []string{"10", "0f000000 0200 0001 02000000 44332211", "ff000000 0200 0001 02000000 44332211",
		"12000000 0200 0001 02000000 44332211 0000", "18000000 1f00 0000 02000000 44332211 01010000 0300 0100",
		"18000000 1f00 0000 02000000 44332211 01010000 0900 0100",
		"24000000 0200 0002 02000000 44332211  eaffffff  ffffffff 1f00 0500 02000000 00000000"} {
		if _, err := parse(unhex(t, bad), 2); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{answerIndex, answerAck, answerBusy, answerWords, answerLong} {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parse(b, 2)
		for _, r := range list {
			r.attrs.Number(1)
			if err != nil || r.final && r.attrs != nil || (r.failure() != nil) != (r.err != 0) {
				t.Errorf("%+v %v", r, err)
			}
		}
	})
}

// TestThisHost asks the real kernel, which has always a family of that name.
func TestThisHost(t *testing.T) {
	a, err := Call("nlctrl", familyMessage("nlctrl"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := a.Number(familyID); !ok || id != controlID {
		t.Errorf("the family of families has number %d, %v", id, ok)
	}
	if _, err := Call("no-such", New(1, 1), 10*time.Second); !errors.Is(err, ErrNoFamily) {
		t.Errorf("a family that does not exist: %v", err)
	}
	if _, err := Call("nlctrl", familyMessage("no-such"), 10*time.Second); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a request that the kernel refuses: %v", err)
	}
}
