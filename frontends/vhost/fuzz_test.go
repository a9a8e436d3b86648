package vhost

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitastor/frontends/blockdev"
	"vitastor/internal/e2e/vhost/frontend"
	"vitastor/internal/guestmem"
	"vitastor/internal/loop"
)

// FuzzMessages sends any messages, some with descriptors, to a back-end that is
// stepped by hand. Afterwards nothing is left, and another client is served.
func FuzzMessages(f *testing.F) {
	u32, u64 := frontend.U32, frontend.U64
	table := append(u32(1, 0), u64(0x1000, 0x10000, 0x1000, 0)...)
	address := append(u32(0, 1), u64(0x1000, 0x3000, 0x2000, 0x3000)...)
	var all []byte
	for _, m := range []struct {
		files   byte
		request uint32
		payload []byte
	}{
		{0, frontend.GetFeatures, nil}, {0, frontend.SetProtocol, u64(protocolOffered)}, {0, frontend.SetFeatures, u64(1<<32 | 1<<30 | 1<<28)},
		{1, frontend.SetMemTable, table}, {0, frontend.GetInflightFD, append(u64(0, 0), u32(1|16<<16, 0)...)},
		{1, frontend.SetInflightFD, append(u64(4096, 0x8000), u32(1|16<<16, 0)...)},
		{0, frontend.SetVringNum, u32(0, 16)}, {0, frontend.SetVringBase, u32(0, 0)}, {0, frontend.SetVringAddr, address},
		{2, frontend.SetVringCall, u64(0)}, {2, frontend.SetVringKick, u64(0)}, {0, frontend.VringEnable, u32(0, 1)},
		{1, frontend.SetLogBase, u64(4096, 0)}, {0, frontend.GetConfig, append(u32(0, 60, 0), make([]byte, 60)...)},
		{1, frontend.AddMemReg, u64(0, 0x20000, 0x1000, 0x20000, 0)}, {0, frontend.GetVringBase, u32(0, 0)}, {0, frontend.ResetDevice, nil},
	} {
		all = append(all, m.files)
		all = append(all, frontend.Message(m.request, 9, m.payload)...)
	}
	f.Add(all, []byte{1, 2, 3})
	ring := make([]byte, 0x2800) // a read in the ring that these messages describe
	le := binary.LittleEndian
	for i, d := range []struct {
		addr  uint64
		n     uint32
		flags uint16
	}{{0x5000, 16, 1}, {0x6000, 4096, 3}, {0x5100, 1, 2}} {
		le.PutUint64(ring[16*i:], d.addr)
		le.PutUint32(ring[16*i+8:], d.n)
		le.PutUint16(ring[16*i+12:], d.flags)
		le.PutUint16(ring[16*i+14:], uint16(i+1))
	}
	le.PutUint16(ring[0x1002:], 1)
	f.Add(all, ring)
	memory, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		f.Fatal(err)
	}
	unix.Ftruncate(memory, 64<<10)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	disk, err := blockdev.NewMemory(l.Env(), "fuzz", 64<<10, false)
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "s")
	x, err := New(Config{Loop: l, Env: l.Env(), Disk: disk, Path: path, Queues: 2})
	if err != nil {
		f.Fatal(err)
	}
	settle := func(ok func() bool) bool {
		for range 200 {
			l.Step(false)
			if ok() {
				return true
			}
		}
		return false
	}
	f.Fuzz(func(t *testing.T, messages, ram []byte) {
		messages0 := messages
		unix.Pwrite(memory, append(bytes.Clone(ram), make([]byte, 64<<10)...)[:64<<10], 0)
		c, err := frontend.Connect(path)
		if err != nil {
			t.Fatal(err)
		}
		for len(messages) > 13 {
			n := min(int(binary.NativeEndian.Uint32(messages[9:])), len(messages)-13)
			if n < 0 {
				break
			}
			var files []int
			switch messages[0] % 4 {
			case 1:
				files = []int{memory}
			case 2:
				files = []int{event}
			case 3:
				files = []int{memory, event, memory}
			}
			if c.Raw(messages[1:13+n], files...) != nil {
				break
			}
			messages = messages[13+n:]
			settle(func() bool { return false })
		}
		c.Close()
		if !settle(func() bool { return x.active == nil && len(x.draining) == 0 && x.served.Clients > 0 }) {
			t.Fatal("a client does not end")
		}
		if n := guestmem.Mapped(); n != 0 {
			t.Fatalf("%d mappings are left", n)
		}
		if bytes.Equal(ram, ring) && bytes.Equal(messages0, all) && x.served.Reads != 1 {
			t.Errorf("%d requests of a good client were executed", x.served.Reads)
		}
		x.served = Stats{}
	})
}
