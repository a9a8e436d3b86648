package guestmem

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// file makes a file of n bytes: a memfd, or one that cannot be sealed.
func file(t *testing.T, n int64, sealable bool) int {
	t.Helper()
	var fd int
	var err error
	if sealable {
		fd, err = unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	} else {
		fd, err = unix.Open(filepath.Join(t.TempDir(), "ram"), unix.O_RDWR|unix.O_CREAT, 0o600)
	}
	if err == nil {
		err = unix.Ftruncate(fd, n)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestMapRanges(t *testing.T) {
	fd := file(t, 3*4096+5, true)
	content := make([]byte, 3*4096+5)
	for i := range content {
		content[i] = byte(i * 7)
	}
	unix.Pwrite(fd, content, 0)
	before := Mapped()
	for _, c := range []struct {
		offset, n uint64
		err       string
	}{
		{0, 4096, ""}, {4096, 8192, ""}, {1, 1, ""}, {4095, 4098, ""}, {3 * 4096, 5, ""},
		{0, 0, "empty"}, {3 * 4096, 6, "beyond the end"}, {1 << 62, 1 << 62, "out of range"}, {^uint64(0), 2, "out of range"},
	} {
		m, err := Map(fd, c.offset, c.n, true)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%d+%d: %v, want %q", c.offset, c.n, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%d+%d: %v", c.offset, c.n, err)
			continue
		}
		if d := m.Data(); !bytes.Equal(d, content[c.offset:][:c.n]) || cap(d) != len(d) || !m.Stable() {
			t.Errorf("%d+%d: something else is mapped (%d bytes)", c.offset, c.n, len(d))
		}
		m.Hold()
		m.Release()
		if m.Data() == nil {
			t.Error("unmapped while in use")
		}
		m.Release()
		if m.Data() != nil {
			t.Error("not unmapped")
		}
	}
	if Mapped() != before {
		t.Errorf("%d mappings are left", Mapped()-before)
	}
	if err := unix.Ftruncate(fd, 4096); !errors.Is(err, unix.EPERM) {
		t.Errorf("a file that was mapped as stable can be truncated: %v", err)
	}
	if _, err := Map(-1, 0, 1, false); err == nil {
		t.Error("no descriptor is mapped")
	}
	zero, err := unix.Open("/dev/zero", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(zero)
	if _, err := MapFile(zero, 0, 4096, true); err == nil || !strings.Contains(err.Error(), "memfd_create") {
		t.Errorf("a device is mapped: %v", err)
	}
	if m, err := MapFile(fd, 0, 4096, true); err != nil {
		t.Error(err)
	} else {
		m.Release()
	}
	if _, err := MapFile(-1, 0, 1, false); err == nil {
		t.Error("no descriptor is mapped")
	}
}

// TestVanishes: memory goes away, and the process goes on.
func TestVanishes(t *testing.T) {
	fd := file(t, 64<<10, false)
	m, err := Map(fd, 0, 64<<10, true)
	if err != nil || m.Stable() {
		t.Fatal(err, m.Stable())
	}
	defer m.Release()
	read := func() (v uint16, err error) {
		defer Recover(Protect(), &err)
		return Load16(m.Data(), 40<<10), nil
	}
	fill := func() (err error) {
		defer Recover(Protect(), &err)
		clear(m.Data())
		return nil
	}
	if _, err := read(); err != nil {
		t.Fatal(err)
	}
	unix.Ftruncate(fd, 8192)
	var fault *Fault
	if _, err := read(); !errors.As(err, &fault) || !strings.Contains(err.Error(), "taken memory away") {
		t.Errorf("%v", err)
	}
	if err := fill(); !errors.As(err, &fault) {
		t.Errorf("%v", err)
	}
	unix.Ftruncate(fd, 64<<10)
	if v, err := read(); err != nil || v != 0 {
		t.Errorf("%v %v", v, err)
	}
}

// TestOtherPanics are not swallowed.
func TestOtherPanics(t *testing.T) {
	for _, f := range []func(){
		func() { panic("mine") },
		func() { var b []byte; _ = b[len(os.Args)] },
		func() { var p *Mapping; p.users++ },
	} {
		func() {
			defer func() {
				if p := recover(); p == nil {
					t.Error("a panic is lost")
				}
			}()
			var err error
			defer func() {
				if err != nil {
					t.Error(err)
				}
			}()
			defer Recover(Protect(), &err)
			f()
		}()
	}
}

func TestNewShared(t *testing.T) {
	fd, m, err := NewShared("test", 5000)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	defer m.Release()
	if len(m.Data()) != 5000 || !m.Stable() {
		t.Error(len(m.Data()))
	}
	m.Data()[4999] = 7
	again, err := Map(fd, 4999, 1, true)
	if err != nil || again.Data()[0] != 7 {
		t.Fatal(err)
	}
	again.Release()
	if unix.Ftruncate(fd, 1) == nil {
		t.Error("it can become shorter")
	}
}

func TestAtomics(t *testing.T) {
	b := shared(t, 64)
	want := make([]byte, 64)
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		v := r.Uint32()
		switch at := r.IntN(16) * 4; r.IntN(3) {
		case 0:
			at += 2 * r.IntN(2)
			Store16(b, at, uint16(v))
			want[at], want[at+1] = byte(v), byte(v>>8)
			if Load16(b, at) != uint16(v) {
				t.Fatal("16 bits")
			}
		case 1:
			Store32(b, at, v)
			want[at], want[at+1], want[at+2], want[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
			if Load32(b, at) != v {
				t.Fatal("32 bits")
			}
		case 2:
			at += r.IntN(4)
			Or8(b, at, byte(v))
			want[at] |= byte(v)
		}
		if !bytes.Equal(b, want) {
			t.Fatal("a neighbour changed")
		}
	}
	for i, f := range []func(){func() { Load16(b, 63) }, func() { Load16(b, 3) }, func() { Load32(b, 2) }, func() { Load16(b[:2], 2) }} {
		if !panics(f) {
			t.Errorf("access %d is not aligned, or outside", i)
		}
	}
	if !Aligned(b, 4096) || Aligned(b[2:], 4) || !Aligned(b[4:], 4) {
		t.Error("alignment")
	}
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

// shared makes memory that begins at a page.
func shared(t *testing.T, n uint64) []byte {
	t.Helper()
	fd, m, err := NewShared("test", n)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	t.Cleanup(m.Release)
	return m.Data()
}

// TestAtomicNeighbours: concurrent writers of halves of a word do not lose
// anything.
func TestAtomicNeighbours(t *testing.T) {
	b := shared(t, 4)
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := range 20000 {
				Store16(b, half*2, uint16(i))
				if Load16(b, half*2) != uint16(i) {
					t.Error("lost")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSpace(t *testing.T) {
	fd := file(t, 64<<10, true)
	before := Mapped()
	m, err := Map(fd, 0, 64<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Data() {
		m.Data()[i] = byte(i >> 12)
	}
	top := ^uint64(0) - 4095
	s, err := NewSpace([]Region{
		{Addr: top, Mapping: m, Offset: 8 << 12, Bytes: 4096, Writable: true},
		{Addr: 0x10000, Mapping: m, Offset: 0, Bytes: 8192, Writable: true},
		{Addr: 0x12000, Mapping: m, Offset: 4 << 12, Bytes: 4096},
		{Addr: 0x20000, Mapping: m, Offset: 6 << 12, Bytes: 10 << 12, Writable: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Release()
	for _, c := range []struct {
		addr  uint64
		n     uint32
		write bool
		want  []int // pairs: offset in the mapping, length
	}{
		{0x10000, 8192, true, []int{0, 8192}},
		{0x10fff, 2, true, []int{4095, 2}},
		{0x11fff, 2, false, []int{8191, 1, 4 << 12, 1}},
		{0x11fff, 2, true, nil},
		{0x12fff, 2, false, nil},
		{0xffff, 1, false, nil},
		{0, 0, true, []int{}},
		{0x20000, 10 << 12, true, []int{6 << 12, 10 << 12}},
		{0x20000, 10<<12 + 1, true, nil},
		{top, 4096, true, []int{8 << 12, 4096}},
		{top, 4097, true, nil},
		{top - 1, 4, true, nil},
		{0x10000, ^uint32(0), false, nil},
	} {
		keep := [][]byte{{1}}
		got, ok := s.Slices(keep, c.addr, c.n, c.write)
		if ok != (c.want != nil) || !ok && len(got) != 1 || ok && len(got) != 1+len(c.want)/2 {
			t.Errorf("%#x+%d: %v, %d slices", c.addr, c.n, ok, len(got))
			continue
		}
		for i := 1; i < len(got); i++ {
			off, n := c.want[2*i-2], c.want[2*i-1]
			if len(got[i]) != n || cap(got[i]) != n || &got[i][0] != &m.Data()[off] {
				t.Errorf("%#x+%d: piece %d is other memory", c.addr, c.n, i)
			}
		}
	}
	s.Hold()
	s.Release()
	s.Release()
	if Mapped() != before {
		t.Error("mappings are left")
	}
}

func TestBadSpaces(t *testing.T) {
	fd := file(t, 8192, true)
	m, err := Map(fd, 0, 8192, true)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	for _, c := range []struct {
		regions []Region
		want    string
	}{
		{[]Region{{Addr: 0, Mapping: m, Bytes: 0}}, "out of range"},
		{[]Region{{Addr: ^uint64(0), Mapping: m, Bytes: 2}}, "out of range"},
		{[]Region{{Addr: 0, Mapping: m, Bytes: 8193}}, "beyond"},
		{[]Region{{Addr: 0, Mapping: m, Offset: ^uint64(0), Bytes: 2}}, "beyond"},
		{[]Region{{Addr: 0, Mapping: m, Bytes: 4097}, {Addr: 4096, Mapping: m, Bytes: 10}}, "overlap"},
	} {
		if _, err := NewSpace(c.regions); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if s, err := NewSpace(nil); err != nil || !s.Stable() {
		t.Error(err)
	} else if _, ok := s.Slices(nil, 0, 1, false); ok {
		t.Error("nothing has memory")
	}
	m.Hold()
	m.Release()
}
