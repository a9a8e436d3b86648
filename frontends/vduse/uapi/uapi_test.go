package uapi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"vitastor/frontends/virtio"
)

// little skips on hosts whose byte order the expected bytes are not in.
func little(t *testing.T) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the expected bytes are those of little-endian hosts")
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zeroes(n int) string { return strings.Repeat("00", n) }

// TestEncode: bytes written by hand from linux/vduse.h; the numbers of requests
// and the offsets are those that a C compiler printed.
func TestEncode(t *testing.T) {
	little(t)
	c := DeviceConfig{Name: "vd0", VendorID: 0x0102, DeviceID: 2, Features: 0x3_0000_0200, Queues: 4, Align: 4096, Config: []byte{0xaa, 0xbb}}
	var state, failed [MessageBytes]byte
	(&Response{ID: 7, Index: 3, State: virtio.State{Avail: 9, AvailWrap: true, Used: 8}, Packed: true}).Encode(state[:])
	failed[100] = 1
	(&Response{ID: 7, Failed: true, State: virtio.State{Avail: 0x1234, Used: 5}}).Encode(failed[:])
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"device", c.Encode(), "766430" + zeroes(253) + "02010000 02000000 0002000003000000 04000000 00100000" + zeroes(52) + "02000000 aabb"},
		{"name", EncodeName("vd0"), "766430" + zeroes(253)},
		{"long name", EncodeName(strings.Repeat("x", 300)), strings.Repeat("78", 255) + "00"},
		{"region", AskRegion(0x1000, 0x1fff), zeroes(8) + "0010000000000000 ff1f000000000000" + zeroes(8)},
		{"config", EncodeConfigData(8, []byte{1, 2, 3}), "08000000 03000000 010203"},
		{"queue", EncodeQueue(3, 256), "03000000 0001" + zeroes(26)},
		{"kick", EncodeKick(3, -1), "03000000 ffffffff"},
		{"info", AskQueue(3), "03000000" + zeroes(44)},
		{"state of a queue", state[:], "07000000 00000000" + zeroes(16) + "03000000 0100 0900 0000 0800" + zeroes(116)},
		{"failure", failed[:], "07000000 01000000" + zeroes(16) + "00000000 3412" + zeroes(122)},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, c.got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	little(t)
	r, err := DecodeRegion(unhex(t, "0010000000000000 0020000000000000 ff2f000000000000 02"+zeroes(7)))
	if err != nil || r != (Region{Offset: 0x1000, Start: 0x2000, Last: 0x2fff, Write: true}) || r.Bytes() != 4096 {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", zeroes(31), zeroes(8) + "0100000000000000" + zeroes(16),
		zeroes(16) + "ffffffffffffffff" + zeroes(8), "00000000000000ff" + zeroes(24)} {
		if _, err := DecodeRegion(unhex(t, bad)); err == nil {
			t.Errorf("region %s is accepted", bad)
		}
	}
	info := unhex(t, "03000000 00010000 0010000000000000 0020000000000000 0030000000000000 0100 0500 0000 0700 01"+zeroes(7))
	for packed, want := range map[bool]virtio.State{false: {Avail: 1, Used: 1}, true: {AvailWrap: true, Avail: 5, Used: 7}} {
		q, err := DecodeQueueInfo(info, packed)
		if err != nil || q != (QueueInfo{Size: 256, Desc: 0x1000, Driver: 0x2000, Device: 0x3000, State: want, Ready: true}) {
			t.Errorf("%+v %v", q, err)
		}
	}
	if _, err := DecodeQueueInfo(info[:47], true); err == nil {
		t.Error("a short info is accepted")
	}
	for text, want := range map[string]Request{
		"00000000 05000000" + zeroes(16) + "02000000" + zeroes(124):                         {Type: GetQueueState, ID: 5, Index: 2},
		"01000000 06000000" + zeroes(16) + "0f000000" + zeroes(124):                         {Type: SetStatus, ID: 6, Status: 15},
		"02000000 07000000" + zeroes(16) + "0010000000000000ff1f000000000000" + zeroes(112): {Type: UpdateIOTLB, ID: 7, Start: 0x1000, Last: 0x1fff},
		"09000000 08000000" + zeroes(144):                                                   {Type: 9, ID: 8},
	} {
		if r, err := DecodeRequest(unhex(t, text)); err != nil || r != want {
			t.Errorf("%+v %v, want %+v", r, err, want)
		}
	}
	if _, err := DecodeRequest(make([]byte, 151)); err == nil {
		t.Error("a short message is accepted")
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string]string{"disk1": "disk1", "pool/disk 1@snap": "pool_disk_1_snap", "": "_", "..": "_..", "control": "_control",
		"ä": "_", strings.Repeat("a", 300): strings.Repeat("a", 255)} {
		if got := MakeName(text); got != want || CheckName(got) != nil {
			t.Errorf("%q: %q (%v)", text, got, CheckName(got))
		}
	}
	for _, bad := range []string{"", "a/b", "a b", ".", "..", "control", "a!b", "a\n", strings.Repeat("a", 256)} {
		if CheckName(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(make([]byte, MessageBytes))
	f.Add(make([]byte, regionBytes))
	f.Add(make([]byte, infoBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequest(b); err == nil && r.Type.String() == "" {
			t.Error("a type without a name")
		}
		if r, err := DecodeRegion(b); err == nil && (r.Last < r.Start || r.Bytes() == 0 || r.Offset+r.Bytes() < r.Offset) {
			t.Errorf("%+v", r)
		}
		for _, packed := range []bool{false, true} {
			if q, err := DecodeQueueInfo(b, packed); err == nil {
				again := make([]byte, 8)
				encodeState(again, q.State, packed)
				if decodeState(again, packed) != q.State {
					t.Errorf("%+v", q)
				}
			}
		}
	})
}
