package vduse

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitastor/frontends/vduse/uapi"
	"vitastor/internal/guestmem"
)

// table is a device that has nothing but memory.
type table struct {
	Device
	testing.TB
	regions []fakeRegion
	fail    error
}

// region adds one whose bytes tell their address.
func (d *table) region(start, n uint64, write bool) {
	fd, err := unix.MemfdCreate("region", unix.MFD_ALLOW_SEALING)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { unix.Close(fd) })
	data := make([]byte, n)
	for i := range data {
		data[i] = byte((start + uint64(i)) / 512)
	}
	if _, err := unix.Write(fd, data); err != nil {
		d.Fatal(err)
	}
	d.regions = append(d.regions, fakeRegion{uapi.Region{Start: start, Last: start + n - 1, Read: true, Write: write}, fd})
}

func (d *table) Map(start, last uint64) (uapi.Region, *guestmem.Mapping, error) {
	for _, r := range d.regions {
		if r.Start <= last && start <= r.Last && d.fail == nil {
			m, err := guestmem.Map(r.fd, 0, r.Bytes(), r.Write)
			return r.Region, m, err
		}
	}
	return uapi.Region{}, nil, d.fail
}

const top = 1<<64 - 8192

func newTable(t testing.TB) *table {
	d := &table{TB: t}
	d.region(0, 8192, true)
	d.region(8192, 4096, true)
	d.region(1<<20, 4096, false)
	d.region(top, 8192, true)
	return d
}

func TestSlices(t *testing.T) {
	before := guestmem.Mapped()
	d := newTable(t)
	s, err := newSpace(d, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	d.region(1<<30, 4096, true) // late
	for _, c := range []struct {
		addr  uint64
		n     uint32
		write bool
		want  string // lengths of the pieces
	}{
		{0, 8192, true, "8192"},
		{512, 1, true, "1"},
		{8191, 2, true, "1 1"},
		{0, 12288, true, "8192 4096"},
		{0, 12289, true, "no"},
		{1 << 20, 4096, false, "4096"},
		{1 << 20, 4096, true, "no"},
		{1<<20 + 4095, 1, false, "1"},
		{1<<20 + 4096, 1, false, "no"},
		{1 << 30, 4096, true, "4096"},
		{1 << 40, 1, false, "no"},
		{top, 8192, true, "8192"},
		{top + 8191, 1, true, "1"},
		{top + 8191, 2, true, "no"},
		{12345, 0, true, ""},
	} {
		first := []byte{1}
		list, ok := s.Slices([][]byte{first}, c.addr, c.n, c.write)
		var lengths []string
		for _, b := range list[1:] {
			lengths = append(lengths, itoa(len(b)))
		}
		got := strings.Join(lengths, " ")
		if !ok {
			got = "no" + got
		}
		if got != c.want || &list[0][0] != &first[0] {
			t.Errorf("%d bytes at %#x: %s, want %s", c.n, c.addr, got, c.want)
		}
		if ok && len(list) > 1 && list[1][0] != byte(c.addr/512) {
			t.Errorf("%#x: it is the memory of something else", c.addr)
		}
	}
	list := make([][]byte, 0, 4)
	if n := testing.AllocsPerRun(100, func() { s.Slices(list, 512, 8192, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if _, err := s.one(8191, 2, true); err == nil {
		t.Error("memory of two regions is in one piece")
	}
	// A part changes.
	next, err := s.without(8192, 1<<20-1)
	if err != nil || len(next.regions) != 5 {
		t.Fatalf("%v, %d regions", err, len(next.regions))
	}
	if n := guestmem.Mapped() - before; n != 6 {
		t.Errorf("%d mappings, 5 and a changed one are wanted", n)
	}
	s.Release()
	next.Hold()
	next.Release()
	if n := guestmem.Mapped() - before; n != 5 {
		t.Errorf("%d mappings of 5 are left", n)
	}
	next.Release()
	if n := guestmem.Mapped() - before; n != 0 {
		t.Errorf("%d mappings are left", n)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// TestMapFails: the kernel refuses memory; what was mapped is unmapped.
func TestMapFails(t *testing.T) {
	before := guestmem.Mapped()
	d := newTable(t)
	var told []error
	s, err := newSpace(d, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	d.fail = errors.New("no memory")
	for range 2 {
		if _, ok := s.Slices(nil, 1<<40, 1, false); ok {
			t.Error("there is memory")
		}
	}
	if len(told) != 1 {
		t.Errorf("told %d times", len(told))
	}
	if _, err := s.without(0, 4095); err == nil {
		t.Error("the next space is there")
	}
	if _, err := newSpace(d, nil); err == nil {
		t.Error("another space is there")
	}
	s.Release()
	d.fail = nil
	// Regions that overlap are nonsense.
	d.regions[1].Start -= 512
	d.regions[1].Last -= 512
	if _, err := newSpace(d, nil); err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Error(err)
	}
	if n := guestmem.Mapped() - before; n != 0 {
		t.Errorf("%d mappings are left", n)
	}
}

// FuzzSlices: memory of a range is all of the range, or there is none.
func FuzzSlices(f *testing.F) {
	d := newTable(f)
	s, err := newSpace(d, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(0), uint32(12288), true)
	f.Add(uint64(top), uint32(8192), false)
	f.Fuzz(func(t *testing.T, addr uint64, n uint32, write bool) {
		list, ok := s.Slices(nil, addr, n, write)
		total := uint64(0)
		for _, b := range list {
			for at := 0; at < len(b); at += 512 {
				if b[at] != byte((addr+total+uint64(at))/512) {
					t.Fatalf("%#x+%d: wrong memory", addr, total+uint64(at))
				}
			}
			total += uint64(len(b))
		}
		if ok && total != uint64(n) || !ok && len(list) > 0 {
			t.Errorf("%d bytes at %#x: %d, %v", n, addr, total, ok)
		}
	})
}
