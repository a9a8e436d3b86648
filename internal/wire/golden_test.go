package wire

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"vitastor/internal/meta"
)

// unhex reads the notation of spec wire.md §15: "|", blanks and line ends
// separate, an id of dots is 1.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	s = strings.ReplaceAll(s, strings.Repeat(".", 16), "0100000000000000")
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "|", "", "\n", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	req = "53454325 03b1d72b|"
	rep = "5345437b b899a6ba|"
)

func chunkID(inode meta.Inode, stripe uint64) meta.ObjectID {
	return meta.ObjectID{Inode: inode, Stripe: stripe}
}

func chunkVersion(inode meta.Inode, stripe uint64, v meta.Version) meta.ObjectVersion {
	return meta.ObjectVersion{ObjectID: chunkID(inode, stripe), Version: v}
}

// goldenPackets are all packets of spec wire.md §15: captured from, or
// accepted by, the reference. Where the spec shows a packet from byte 24 on, or
// only names its fields (SEC_READ_BMP, the reply of the EC read), the header
// here follows §1 with id 1.
var goldenPackets = []struct {
	name    string
	bytes   string // without the unused rest of the packet
	message Message
	payload Payload
}{
	{"show config", req + "0100000000000000|0a00000000000000|2800000000000000",
		&ShowConfig{ID: 1, JSONLen: 40}, Payload{Kind: PayloadJSON, Body: 40}},
	{"show config reply", rep + "0100000000000000|0a00000000000000|f000000000000000",
		&StatusReply{ID: 1, Op: OpShowConfig, Retval: 240}, Payload{Kind: PayloadJSON, Body: 240}},
	{"write", req + "0200000000000000|0c00000000000000|0500000000000100|0000000000000000|00100000|00000000|0000000000000000|0000000000000000",
		&Rw{ID: 2, Op: OpWrite, Inode: meta.MakeInode(1, 5), Len: 4096}, Payload{Kind: PayloadData, Body: 4096}},
	{"write reply", rep + "0200000000000000|0c00000000000000|0010000000000000|00000000|00000000|0100000000000000",
		&RwReply{ID: 2, Op: OpWrite, Retval: 4096, Version: 1}, Payload{}},
	{"read", req + "0300000000000000|0b00000000000000|0500000000000100|0000000000000000|00100000|00000000|0000000000000000|0000000000000000",
		&Rw{ID: 3, Op: OpRead, Inode: meta.MakeInode(1, 5), Len: 4096}, Payload{}},
	{"read reply", rep + "0300000000000000|0b00000000000000|0010000000000000|04000000|00000000|0100000000000000",
		&RwReply{ID: 3, Op: OpRead, Retval: 4096, BitmapLen: 4, Version: 1}, Payload{Kind: PayloadData, Attr: 4, Body: 4096}},
	{"CAS failure", rep + "................|0c00000000000000|fcffffffffffffff|00000000|00000000|0100000000000000",
		&RwReply{ID: 1, Op: OpWrite, Retval: EINTR, Version: 1}, Payload{}},
	{"EC: read for RMW", req + "................|0100000000000000|0800000000000200|0100000000000000|ffffffffffffffff|00100000|00100000|00000000|00000000",
		&SecRw{ID: 1, Op: OpSecRead, Chunk: chunkID(0x2000000000008, 1), Version: meta.NewestVersion, Offset: 4096, Len: 4096}, Payload{}},
	{"EC: no such chunk", rep + "................|0100000000000000|feffffffffffffff|0000000000000000|00000000",
		&SecRwReply{ID: 1, Op: OpSecRead, Retval: ENOENT}, Payload{}},
	{"EC: bitmap only", req + "................|0200000000000000|0800000000000200|0100000000000000|0100000000000000|00000000|00000000|04000000|00000000",
		&SecRw{ID: 1, Op: OpSecWrite, Chunk: chunkID(0x2000000000008, 1), Version: 1, AttrLen: 4},
		Payload{Kind: PayloadData, Attr: 4}},
	{"EC: parity", req + "................|0200000000000000|0800000000000200|0200000000000000|0100000000000000|00100000|00100000|04000000|00000000",
		&SecRw{ID: 1, Op: OpSecWrite, Chunk: chunkID(0x2000000000008, 2), Version: 1, Offset: 4096, Len: 4096, AttrLen: 4},
		Payload{Kind: PayloadData, Attr: 4, Body: 4096}},
	{"EC: stabilize", req + "................|0500000000000000|1800000000000000|00000000|00000000",
		&SecStab{ID: 1, Op: OpSecStabilize, Len: 24}, Payload{Kind: PayloadObjects, Body: 24}},
	{"recovery write", req + "................|0200000000000000|0700000000000200|0100000000000000|0100020000000000|00000000|00000000|04000000|01000000",
		&SecRw{ID: 1, Op: OpSecWrite, Chunk: chunkID(0x2000000000007, 1), Version: meta.MakeVersion(2, 1), AttrLen: 4, Flags: FlagRecovery},
		Payload{Kind: PayloadData, Attr: 4}},
	{"list for peering", req + "3000000000000000|0900000000000000|01000000|01000000|0000040000000000|0000000000000200|ffffffffffff0200|0000000000000000|0000000000000000|00000000|0000000000000000",
		func() Message {
			l := PeeringList(meta.PG{Pool: 2, Num: 1}, 1, 0x40000)
			l.ID = 0x30
			return &l
		}(), Payload{}},
	{"list reply", rep + "3000000000000000|0900000000000000|0200000000000000|0200000000000000|0000000000000000",
		&SecListReply{ID: 0x30, Retval: 2, StableCount: 2}, Payload{Kind: PayloadObjects, Body: 48}},
	{"primary list", req + "................|0900000000000000|01000000|01000000|0000000000000000|0700000000000200|0700000000000200|0000000000000000|0000000000000000|00000000|0100000000000000",
		&SecList{ID: 1, PG: 1, PGCount: 1, Min: chunkID(0x2000000000007, 0), Max: chunkID(0x2000000000007, 1<<64-1), Flags: ListPrimary}, Payload{}},
	{"primary list reply", rep + "................|0900000000000000|0100000000000000|0100000000000000|0100000000000000",
		&SecListReply{ID: 1, Retval: 1, StableCount: 1, Flags: ListPrimary}, Payload{Kind: PayloadObjects, Body: 24}},
	{"read bitmaps", req + "................|1000000000000000|3000000000000000|00000000",
		&SecReadBmp{ID: 1, Len: 48}, Payload{Kind: PayloadObjects, Body: 48}},
	{"read bitmaps reply", rep + "................|1000000000000000|1800000000000000",
		&StatusReply{ID: 1, Op: OpSecReadBmp, Retval: 24}, Payload{Kind: PayloadBitmaps, Body: 24}},
	{"lock, peering", req + "................|1300000000000000|0100000000000000|0100000000000000|0200000000000000|0200000000000000",
		&SecLock{ID: 1, Flags: LockAcquire, Pool: 1, PG: 2, PGState: uint64(meta.PGPeering)}, Payload{}},
	{"lock, active", req + "................|1300000000000000|0100000000000000|0100000000000000|0200000000000000|0800000000000000",
		&SecLock{ID: 1, Flags: LockAcquire, Pool: 1, PG: 2, PGState: uint64(meta.PGActive)}, Payload{}},
	{"delete reply", rep + "................|0e00000000000000|0000000000000000|03000000|01000000|03000000",
		&DeleteReply{ID: 1, Flags: DeleteReportsDead | DeleteLeftOnDead, Count: 1, LeftOnDead: [22]uint32{3}}, Payload{}},
	{"ping", req + "0100000000000000|0f00000000000000", &HeaderOnly{ID: 1, Op: OpPing}, Payload{}},
}

func TestGoldenPackets(t *testing.T) {
	for _, c := range goldenPackets {
		defined := unhex(t, c.bytes)
		var want, got Packet
		copy(want[:], defined)
		for i := range got {
			got[i] = 0xaa // must be overwritten
		}
		c.message.Encode(&got)
		if got != want {
			t.Errorf("%s: encoded\n% x, want\n% x", c.name, got[:88], want[:88])
		}
		// The reference leaves stale memory behind the last field.
		for i := len(defined); i < PacketBytes; i++ {
			want[i] = 0xaa
		}
		if m := want.Message(); !reflect.DeepEqual(m, c.message) {
			t.Errorf("%s: decoded\n%+v, want\n%+v", c.name, m, c.message)
		}
		rule := RequestPayload
		if want.Kind() == KindReply {
			rule = ReplyPayload
		}
		if pl, err := rule(&want); err != nil || pl != c.payload {
			t.Errorf("%s: payload %+v, %v, want %+v", c.name, pl, err, c.payload)
		}
	}
}

func TestGoldenObjectLists(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		items       []meta.ObjectVersion
	}{
		{"stabilize data", "0800000000000200|0100000000000000|0100000000000000",
			[]meta.ObjectVersion{chunkVersion(0x2000000000008, 1, 1)}},
		{"stabilize parity", "0800000000000200|0200000000000000|0100000000000000",
			[]meta.ObjectVersion{chunkVersion(0x2000000000008, 2, 1)}},
		{"list", `0700000000000200|0100000000000000|0100010000000000
			4600000000000200|0100000000000000|0100010000000000`,
			[]meta.ObjectVersion{chunkVersion(0x2000000000007, 1, 0x10001), chunkVersion(0x2000000000046, 1, 0x10001)}},
		{"primary list", "0700000000000200|0000000000000000|0000000000000000",
			[]meta.ObjectVersion{chunkVersion(0x2000000000007, 0, 0)}},
		{"read bitmaps", "0700000000000200|0000000000000000|ffffffffffffffff|6300000000000200|0000000000000000|ffffffffffffffff",
			[]meta.ObjectVersion{chunkVersion(0x2000000000007, 0, meta.NewestVersion), chunkVersion(0x2000000000063, 0, meta.NewestVersion)}},
	} {
		want := unhex(t, strings.ReplaceAll(c.bytes, "\t", ""))
		var appended ObjectList
		set := make(ObjectList, len(want))
		for i, v := range c.items {
			appended = appended.Append(v)
			set.Set(i, v)
			if got := ObjectList(want).At(i); got != v {
				t.Errorf("%s: item %d = %v, want %v", c.name, i, got, v)
			}
		}
		if !bytes.Equal(appended, want) || !bytes.Equal(set, want) {
			t.Errorf("%s: written\n% x\n% x, want\n% x", c.name, appended, set, want)
		}
		// A rest that is no item does not count.
		if n := ObjectList(append(want, make([]byte, 23)...)).Len(); n != len(c.items) {
			t.Errorf("%s: %d items", c.name, n)
		}
	}
}

func TestGoldenBitmapList(t *testing.T) {
	want := unhex(t, "0100000000000000|00000080|0000000000000000|00000000")
	l, err := MakeBitmapList(want, 4, 2)
	if err != nil || l.Len() != 2 {
		t.Fatal(err, l.Len())
	}
	if l.Version(0) != 1 || l.Version(1) != 0 || !l.Bitmap(0).Get(31) || l.Bitmap(0).Count() != 1 || l.Bitmap(1).Count() != 0 {
		t.Errorf("% x", want)
	}
	built := make([]byte, 24)
	l, _ = MakeBitmapList(built, 4, 2)
	l.SetVersion(0, 1)
	l.Bitmap(0).SetRange(31, 32)
	if !bytes.Equal(built, want) {
		t.Errorf("built % x", built)
	}
	if cap(l.Bitmap(0)) != 4 {
		t.Error("a bitmap can be appended to, over the next item")
	}
	for _, n := range []int{0, 1, 3} {
		if _, err := MakeBitmapList(want, 4, n); err == nil {
			t.Errorf("24 bytes accepted as %d items of 12", n)
		}
	}
	if (BitmapList{}).Len() != 0 {
		t.Error("empty list")
	}
}

func TestDescribeList(t *testing.T) {
	want := unhex(t, "0700000000000200|0000040000000000|02000000|06000000|0500000000000000")
	item := DescribeItem{chunkID(0x2000000000007, 0x40000), 2, meta.LocCorrupted | meta.LocInconsistent, 5}
	l := DescribeList(nil).Append(item).Append(DescribeItem{OSD: 1})
	if l.Len() != 2 || !bytes.Equal(l[:32], want) || l.At(0) != item || l.At(1).OSD != 1 {
		t.Errorf("% x", l)
	}
}
