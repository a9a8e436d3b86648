package ec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// osds reads OSD numbers, 0 = nobody.
func osds(list string) (set []meta.OSDNum) {
	for _, field := range strings.Fields(list) {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			panic(err)
		}
		set = append(set, meta.OSDNum(n))
	}
	return set
}

// describe writes a role as the table of osd.md §5.2 does.
func describe(p *Plan, r int) string {
	role := &p.Roles[r]
	parity := r >= p.Geometry.DataChunks
	if parity && role.To == 0 && role.Need == NeedNothing {
		return "no OSD"
	}
	read, write := "-", role.Write.String()
	switch role.Need {
	case NeedBitmap:
		read = "b"
	case NeedData:
		read = role.Read.String()
	}
	if p.Decode.Has(r) {
		read = "missing, needs " + read
	} else if parity && role.Missing() {
		read = "missing"
	}
	if role.To == 0 {
		write = "no OSD"
	}
	if !role.Missing() && role.Moved() {
		read += fmt.Sprintf(" (from %d)", role.From)
		write += fmt.Sprintf(" (to %d)", role.To)
	}
	return read + " / " + write
}

// planTable is the table of osd.md §5.2: EC 4+2, B = 0x20000; offset and length
// are those of the object.
var planTable = []struct {
	name           string
	old, target    string
	offset, length uint64
	want           string // as in the spec
	err            error
}{
	{"clean, write r1 [2000,3000)", "1 2 3 4 5 6", "1 2 3 4 5 6", 0x22000, 0x1000,
		"2000-3000 / - | b / 2000-3000 | 2000-3000 / - | 2000-3000 / - | - / 2000-3000 | - / 2000-3000", nil},
	{"clean, write last 8 KiB of r0 + first 8 KiB of r1", "1 2 3 4 5 6", "1 2 3 4 5 6", 0x1e000, 0x4000,
		"0-1e000 / 1e000-20000 | 2000-20000 / 0-2000 | 0-20000 / - | 0-20000 / - | - / 0-20000 | - / 0-20000", nil},
	{"clean, full stripe", "1 2 3 4 5 6", "1 2 3 4 5 6", 0, 0x80000,
		"- / 0-20000 | - / 0-20000 | - / 0-20000 | - / 0-20000 | - / 0-20000 | - / 0-20000", nil},
	{"clean, full chunk r1", "1 2 3 4 5 6", "1 2 3 4 5 6", 0x20000, 0x20000,
		"0-20000 / - | - / 0-20000 | 0-20000 / - | 0-20000 / - | - / 0-20000 | - / 0-20000", nil},
	{"r0 lost (no OSD), write r1 [2000,3000)", "0 2 3 4 5 6", "0 2 3 4 5 6", 0x22000, 0x1000,
		"missing, needs 2000-3000 / no OSD | 2000-3000 / 2000-3000 | 2000-3000 / - | 2000-3000 / - | 2000-3000 / 2000-3000 | - / 2000-3000", nil},
	{"r0 lost (no OSD), write r0 [2000,3000)", "0 2 3 4 5 6", "0 2 3 4 5 6", 0x2000, 0x1000,
		"missing, needs b / no OSD | 2000-3000 / - | 2000-3000 / - | 2000-3000 / - | b / 2000-3000 | - / 2000-3000", nil},
	{"recovery of r0 to a new OSD", "0 2 3 4 5 6", "7 2 3 4 5 6", 0, 0,
		"missing, needs 0-20000 / 0-20000 | 0-20000 / - | 0-20000 / - | 0-20000 / - | 0-20000 / - | - / -", nil},
	{"recovery of r5 to a new OSD", "1 2 3 4 5 0", "1 2 3 4 5 7", 0, 0,
		"0-20000 / - | 0-20000 / - | 0-20000 / - | 0-20000 / - | - / 0-20000 | missing / 0-20000", nil},
	{"move of r0 from OSD 7 to 1", "7 2 3 4 5 6", "1 2 3 4 5 6", 0, 0,
		"0-20000 (from 7) / 0-20000 (to 1) | b / - | b / - | b / - | - / - | - / -", nil},
	{"r0,r1,r2 lost, partial write r0", "0 0 0 4 5 6", "0 0 0 4 5 6", 0x2000, 0x1000, "", ErrTooFewTargets},
	{"r0,r1,r2 lost, new OSDs, partial write r0", "0 0 0 4 5 6", "7 8 9 4 5 6", 0x2000, 0x1000, "", ErrTooFewChunks},
	{"r0,r1,r2 missing, full stripe", "0 0 0 4 5 6", "7 8 9 4 5 6", 0, 0x80000,
		"- / 0-20000 | - / 0-20000 | - / 0-20000 | - / 0-20000 | - / 0-20000 | - / 0-20000", nil},
	{"parity r4 has no OSD, write r1 [2000,3000)", "1 2 3 4 0 6", "1 2 3 4 0 6", 0x22000, 0x1000,
		"2000-3000 / - | b / 2000-3000 | 2000-3000 / - | 2000-3000 / - | no OSD | - / 2000-3000", nil},

	// Not in the spec's table:
	{"strictly inside of the hull: all of it is read", "1 2 3 4 5 6", "1 2 3 4 5 9", 0x22000, 0x1000,
		"0-20000 / - | 0-20000 / 2000-3000 | 0-20000 / - | 0-20000 / - | - / 0-20000 | - (from 6) / 0-20000 (to 9)", nil},
	{"no parity has an OSD: every data chunk still knows its bitmap", "1 2 3 4 0 0", "1 2 3 4 0 0", 0x22000, 0x1000,
		"b / - | b / 2000-3000 | b / - | b / - | no OSD | no OSD", nil},
	{"write to a chunk that moves", "7 2 3 4 5 6", "1 2 3 4 5 6", 0x2000, 0x1000,
		"0-20000 (from 7) / 0-20000 (to 1) | 2000-3000 / - | 2000-3000 / - | 2000-3000 / - | - / 2000-3000 | - / 2000-3000", nil},
	{"overwritten chunk that moves is not read", "7 2 3 4 5 6", "1 2 3 4 5 6", 0, 0x20000,
		"- (from 7) / 0-20000 (to 1) | 0-20000 / - | 0-20000 / - | 0-20000 / - | - / 0-20000 | - / 0-20000", nil},
	{"overwritten chunk is a source", "1 0 3 4 5 6", "1 0 3 4 5 6", 0, 0x20000,
		"0-20000 / 0-20000 | missing, needs 0-20000 / no OSD | 0-20000 / - | 0-20000 / - | 0-20000 / 0-20000 | - / 0-20000", nil},
	{"clean, nothing to write", "1 2 3 4 5 6", "1 2 3 4 5 6", 0x22000, 0,
		"b / - | b / - | b / - | b / - | - / - | - / -", nil},
	{"too few OSDs for a full stripe", "0 0 0 4 5 6", "0 0 0 4 5 6", 0, 0x80000, "", ErrTooFewTargets},
}

func TestPlanTable(t *testing.T) {
	var p Plan
	for _, row := range planTable {
		err := p.PlanWrite(Geometry{4, 2, 0x20000}, osds(row.old), osds(row.target), row.offset, row.length)
		if !errors.Is(err, row.err) {
			t.Errorf("%s: error %v, want %v", row.name, err, row.err)
		}
		if err != nil {
			continue
		}
		must(t, p.check())
		roles := make([]string, 6)
		for r := range roles {
			roles[r] = describe(&p, r)
		}
		if got := strings.Join(roles, " | "); got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
		}
	}
}

// TestParityBitmapsOfAMove is the "Caution" of §5.2: all data bitmaps are known
// when only data moves, so that parity bitmaps are encoded, not zeroed.
func TestParityBitmapsOfAMove(t *testing.T) {
	var p Plan
	must(t, p.PlanWrite(Geometry{4, 2, 0x20000}, osds("7 2 3 4 5 6"), osds("1 2 3 4 5 6"), 0, 0))
	for r := range 4 {
		if p.Roles[r].Need == NeedNothing {
			t.Errorf("bitmap of role %d is not read", r)
		}
	}
	if !p.Coded.Empty() || !p.Roles[4].Write.Empty() || p.Roles[4].To != 5 {
		t.Errorf("parity data would be written: %+v", p.Roles[4])
	}
}

func TestPlanRead(t *testing.T) {
	var p Plan
	g := Geometry{4, 2, 0x20000}
	read := func(set string, offset, length uint64) (string, error) {
		err := p.PlanRead(g, osds(set), offset, length)
		var parts []string
		for r := range p.Roles {
			role := &p.Roles[r]
			text := role.Read.String()
			if p.Decode.Has(r) {
				text = "decode " + text
			}
			if role.To != 0 || !role.Write.Empty() || !p.Coded.Empty() {
				text += " writes"
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, " | "), err
	}
	for _, row := range []struct {
		set            string
		offset, length uint64
		want           string
		err            error
	}{
		{"1 2 3 4 5 6", 0x1e000, 0x4000, "1e000-20000 | 0-2000 | - | - | - | -", nil},
		{"0 2 3 4 5 6", 0x22000, 0x1000, "- | 2000-3000 | - | - | - | -", nil},
		{"0 2 3 4 5 6", 0x2000, 0x1000, "decode 2000-3000 | 2000-3000 | 2000-3000 | 2000-3000 | 2000-3000 | -", nil},
		{"0 2 0 4 5 6", 0x1e000, 0x4000, "decode 1e000-20000 | 0-20000 | - | 1e000-20000 | 1e000-20000 | 1e000-20000", nil},
		{"0 2 0 4 5 0", 0x22000, 0x1000, "- | 2000-3000 | - | - | - | -", nil},
		{"0 2 0 4 5 0", 0x2000, 0x1000, "", ErrTooFewChunks},
		{"1 2 3 4 5 6", 0x80000, 0, "- | - | - | - | - | -", nil},
	} {
		got, err := read(row.set, row.offset, row.length)
		if !errors.Is(err, row.err) || err == nil && got != row.want {
			t.Errorf("%s %x+%x: %s, %v\nwant %s", row.set, row.offset, row.length, got, err, row.want)
		}
	}
}

func TestPlanRefusesBadArguments(t *testing.T) {
	six := osds("1 2 3 4 5 6")
	good := Geometry{4, 2, 4096}
	for name, bad := range map[string]struct {
		g              Geometry
		old, target    []meta.OSDNum
		offset, length uint64
	}{
		"no parity":        {Geometry{6, 0, 4096}, six, six, 0, 0},
		"no data":          {Geometry{0, 6, 4096}, six, six, 0, 0},
		"negative":         {Geometry{-1, 7, 4096}, six, six, 0, 0},
		"too many roles":   {Geometry{256, 1, 4096}, make([]meta.OSDNum, 257), make([]meta.OSDNum, 257), 0, 0},
		"no block":         {Geometry{4, 2, 0}, six, six, 0, 0},
		"huge block":       {Geometry{4, 2, 1 << 31}, six, six, 0, 0},
		"few old":          {good, six[:5], six, 0, 0},
		"few of both":      {good, six[:5], six[:5], 0, 0},
		"few targets":      {good, six, six[:5], 0, 0},
		"offset outside":   {good, six, six, 16385, 0},
		"length outside":   {good, six, six, 4096, 12289},
		"length overflows": {good, six, six, 4096, ^uint64(0) - 100},
	} {
		var p Plan
		if err := p.PlanWrite(bad.g, bad.old, bad.target, bad.offset, bad.length); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPlanDoesNotAllocate(t *testing.T) {
	many := make([]meta.OSDNum, MaxRoles)
	for i := range many {
		many[i] = meta.OSDNum(i + 1)
	}
	lost := append([]meta.OSDNum{0}, many[1:]...)
	var p Plan
	must(t, p.PlanWrite(Geometry{252, 4, 4096}, lost, many, 0, 4096)) // makes room
	if n := testing.AllocsPerRun(20, func() {
		must(t, p.PlanWrite(Geometry{252, 4, 4096}, lost, many, 100, 5000))
		must(t, p.PlanWrite(Geometry{4, 2, 4096}, lost[:6], many[:6], 100, 5000))
		must(t, p.PlanRead(Geometry{4, 2, 4096}, lost[:6], 100, 5000))
	}); n != 0 {
		t.Errorf("%v allocations (test build: %v)", n, invariant.Enabled)
	}
}

func TestRange(t *testing.T) {
	in := func(r Range, x uint32) bool { return r.From <= x && x < r.To }
	const size = 5
	var all []Range
	for from := uint32(0); from <= size; from++ {
		for to := uint32(0); to <= size; to++ {
			all = append(all, Range{from, to})
		}
	}
	for _, r := range all {
		for _, s := range all {
			hull, without, contains := r.Hull(s), r.Without(s), r.Contains(s)
			all := true
			for x := uint32(0); x < size; x++ {
				if (in(r, x) || in(s, x)) && !in(hull, x) {
					t.Fatalf("%v hull %v = %v lacks %d", r, s, hull, x)
				}
				if in(r, x) && !in(s, x) && !in(without, x) || in(without, x) && !in(r, x) {
					t.Fatalf("%v without %v = %v: wrong at %d", r, s, without, x)
				}
				all = all && (!in(s, x) || in(r, x))
			}
			if contains != all {
				t.Fatalf("%v contains %v: %v", r, s, contains)
			}
		}
	}
}
