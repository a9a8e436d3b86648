package ublkproto

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// TestOpcodes: numbers as a C compiler makes them of linux/ublk_cmd.h.
func TestOpcodes(t *testing.T) {
	for _, c := range []struct {
		command Control
		want    uint32
	}{
		{GetDevInfo, 0x80207502}, {AddDev, 0xc0207504}, {DelDev, 0xc0207505}, {StartDev, 0xc0207506}, {StopDev, 0xc0207507},
		{SetParams, 0xc0207508}, {GetParams, 0x80207509}, {StartUserRecovery, 0xc0207510}, {EndUserRecovery, 0xc0207511},
		{GetDevInfo2, 0x80207512}, {GetFeatures, 0x80207513}, {DelDevAsync, 0x80207514}, {UpdateSize, 0xc0207515},
		{TryStopDev, 0xc0207517},
	} {
		if got := c.command.Opcode(false); got != c.want || c.command.Opcode(true) != c.want&0xff {
			t.Errorf("%v: %#x, want %#x", c.command, got, c.want)
		}
		if c.command.String()[0] == 'u' {
			t.Errorf("%#x has no name", uint8(c.command))
		}
	}
	if Fetch.Opcode(false) != 0xc0107520 || CommitAndFetch.Opcode(false) != 0xc0107521 || Fetch.Opcode(true) != 0x20 {
		t.Error("commands of tags")
	}
	if Control(0x99).String() == "" || GetFeatures.Legacy() || !StopDev.Legacy() {
		t.Error("other commands")
	}
}

// TestLayouts: bytes where the header has its fields.
func TestLayouts(t *testing.T) {
	i := DevInfo{Queues: 0x0102, Depth: 0x0304, State: 1, RequestBytes: 0x80000, Device: 0x21222324, ServerPID: -2,
		Flags: 0x58, Mark: 0x3132333435363738, OwnerUID: 0x41424344, OwnerGID: 0x51525354}
	b := i.Append(nil)
	want := "0201040301000000" + "0000080024232221" + "feffffff00000000" + "5800000000000000" +
		"3837363534333231" + "4443424154535251" + "0000000000000000" + "0000000000000000"
	if hex.EncodeToString(b) != want || len(b) != DevInfoBytes {
		t.Errorf("device information %x", b)
	}
	if got, err := DecodeDevInfo(b); got != i || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	p := Params{Attributes: VolatileCache | FUA, LogicalShift: 9, PhysicalShift: 12, OptimalShift: 17, MinimalShift: 11,
		MaxSectors: 0x01020304, Sectors: 0x1112131415161718, DiscardGranularity: 0x21222324, MaxDiscardSectors: 0x31323334, MaxZeroesSectors: 0x41424344}
	b = p.Append(nil)
	want = "3c000000" + "03000000" + "0c000000" + "090c110b" + "04030201" + "00000000" + "1817161514131211" + "0000000000000000" +
		"00000000" + "24232221" + "34333231" + "44434241" + "0100" + "0000"
	if hex.EncodeToString(b) != want || len(b) != ParamsBytes {
		t.Errorf("parameters %x", b)
	}
	if got, err := DecodeParams(b); got != p || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	p = Params{Sectors: 8}
	if got, err := DecodeParams(p.Append(nil)); got != p || err != nil {
		t.Errorf("without discard: %+v, %v", got, err)
	}
	r := Request{Op: OpWrite, Flags: RequestFUA, Offset: 0x123 * 512, Bytes: 8 * 512}
	if b = r.Append(nil); hex.EncodeToString(b) != "01200000"+"08000000"+"2301000000000000"+"0000000000000000" {
		t.Errorf("request %x", b)
	}
	flush, _ := hex.DecodeString("02000000" + "00000000" + "ffffffffffffffff" + "0000000000000000")
	if got, err := DecodeRequest(flush, 4096); got != (Request{Op: OpFlush}) || err != nil {
		t.Errorf("flush %+v, %v", got, err)
	}
	b = make([]byte, IOCommandBytes)
	if PutIOCommand(b, 0x0102, 0x0304, -5, 0x1112131415161718); hex.EncodeToString(b) != "0201"+"0403"+"fbffffff"+"1817161514131211" {
		t.Errorf("command of a tag %x", b)
	}
	b = bytes.Repeat([]byte{0}, ControlBytes)
	(&ControlCommand{Device: 0x01020304, Address: 0x1112131415161718, Length: 0x2122, Data: 0x31, Path: 13}).Put(b)
	if hex.EncodeToString(b) != "04030201"+"ffff"+"2221"+"1817161514131211"+"3100000000000000"+"0d00"+"0000"+"00000000" {
		t.Errorf("control command %x", b)
	}
	if f, err := DecodeFeatures([]byte{0x42, 0, 0, 0, 0, 0, 0, 1}); f != 0x42|1<<56 || err != nil {
		t.Errorf("features %#x, %v", f, err)
	}
}

func TestMappings(t *testing.T) {
	i := DevInfo{Queues: 2, Depth: 256}
	if i.DescriptorBytes() != 8192 || DescriptorOffset(0) != 0 || DescriptorOffset(2) != 2*98304 || i.Tags() != 512 {
		t.Errorf("%d bytes, at %d", i.DescriptorBytes(), DescriptorOffset(2))
	}
}

func TestBadInput(t *testing.T) {
	good := DevInfo{Queues: 1, Depth: 1, RequestBytes: 4096}
	for name, spoil := range map[string]func(*DevInfo){
		"no queue":       func(i *DevInfo) { i.Queues = 0 },
		"many queues":    func(i *DevInfo) { i.Queues = QueuesMax + 1 },
		"no tag":         func(i *DevInfo) { i.Depth = 0 },
		"many tags":      func(i *DevInfo) { i.Depth = QueueDepthMax + 1 },
		"tiny requests":  func(i *DevInfo) { i.RequestBytes = 512 },
		"large requests": func(i *DevInfo) { i.RequestBytes = RequestMax + 1 },
	} {
		i := good
		spoil(&i)
		if _, err := DecodeDevInfo(i.Append(nil)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 7)} {
		_, e1 := DecodeDevInfo(b)
		_, e2 := DecodeParams(b)
		_, e3 := DecodeRequest(b, 4096)
		_, e4 := DecodeFeatures(b)
		if e1 == nil || e2 == nil || e3 == nil || e4 == nil {
			t.Errorf("%d bytes are accepted", len(b))
		}
	}
	if _, err := DecodeParams(make([]byte, ParamsRoom)); err == nil {
		t.Error("parameters without the basic ones are accepted")
	}
}

// TestFlush: Linux 6.12 sends them with sector -1.
func TestFlush(t *testing.T) {
	b := (&Request{Op: OpFlush, Flags: RequestFUA}).Append(nil)
	le.PutUint64(b[8:], 1<<64-1)
	if r, err := DecodeRequest(b, 4096); err != nil || r != (Request{Op: OpFlush, Flags: RequestFUA}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	r := Request{Op: OpRead, Offset: 512, Bytes: 4096}
	f.Add(r.Append(nil), uint32(65536))
	f.Add(append([]byte{byte(OpFlush)}, bytes.Repeat([]byte{255}, DescriptorSize)...), uint32(4096))
	f.Add(bytes.Repeat([]byte{255}, DescriptorSize), uint32(4096))
	f.Fuzz(func(t *testing.T, b []byte, limit uint32) {
		r, err := DecodeRequest(b, limit)
		if err != nil {
			return
		}
		if r.HasData() && r.Bytes > uint64(limit) || r.Offset+r.Bytes < r.Offset || r.Offset+r.Bytes > 1<<63 || r.Bytes%SectorBytes != 0 {
			t.Errorf("%+v", r)
		}
		if again, err := DecodeRequest(r.Append(nil), limit); again != r || err != nil {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzDecodeControl(f *testing.F) {
	i, p := DevInfo{Queues: 1, Depth: 128, RequestBytes: 1 << 20}, Params{LogicalShift: 12, Sectors: 100, DiscardGranularity: 4096}
	f.Add(i.Append(nil))
	f.Add(p.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := DecodeDevInfo(b); err == nil {
			if again, err := DecodeDevInfo(i.Append(nil)); again != i || err != nil || i.Tags() < 1 || i.DescriptorBytes() < i.Tags()/int(i.Queues)*DescriptorSize {
				t.Errorf("%+v became %+v, %v", i, again, err)
			}
		}
		if p, err := DecodeParams(b); err == nil {
			p.Append(nil)
		}
		DecodeFeatures(b)
	})
}
