package peering

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"vitastor/internal/meta"
)

var testPG = meta.PG{Pool: 1, Num: 1}

const testStripe = 1 << 20

func testObject(n int) meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(1, 7), Stripe: uint64(n) * testStripe}
}

func testLayout(scheme meta.Scheme, k int, cur []meta.OSDNum) Layout {
	return Layout{PG: testPG, PGCount: 1, PGStripeBytes: testStripe, Scheme: scheme, DataChunks: k, CurSet: cur}
}

// item is one line of a listing in tests.
type item struct {
	meta.ObjectVersion
	osd    meta.OSDNum
	stable bool
}

// runCalc feeds items to a Calc the way the OSD does.
func runCalc(t testing.TB, l Layout, arena *Arena, items []item, step int) (*Objects, Summary) {
	t.Helper()
	c := NewCalc(l, arena)
	defer c.Free()
	byOSD := map[meta.OSDNum][2][]meta.ObjectVersion{}
	for _, it := range items {
		lists := byOSD[it.osd]
		kind := 0
		if !it.stable {
			kind = 1
		}
		lists[kind] = append(lists[kind], it.ObjectVersion)
		byOSD[it.osd] = lists
	}
	for osd, lists := range byOSD {
		list := c.Open(osd, uint64(len(lists[0])))
		if err := list.AddItems(lists[0], true); err != nil {
			t.Fatal(err)
		}
		if err := list.AddItems(lists[1], false); err != nil {
			t.Fatal(err)
		}
		list.stableLeft = 0
		if err := list.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for !c.Step(step) {
	}
	return c.Result()
}

// parseItems reads "r0@1 5s 6u, @2 7s" of one object.
func parseItems(object int, text string) (items []item, err error) {
	for piece := range strings.SplitSeq(text, ",") {
		fields := strings.Fields(piece)
		if len(fields) < 2 {
			return nil, fmt.Errorf("piece %q", piece)
		}
		role, osd, _ := strings.Cut(fields[0], "@")
		r, _ := strconv.Atoi(strings.TrimPrefix(role, "r"))
		o, err := strconv.ParseUint(osd, 10, 64)
		if err != nil {
			return nil, err
		}
		for _, f := range fields[1:] {
			v, err := parseVersion(strings.TrimRight(f, "su"))
			if err != nil {
				return nil, err
			}
			items = append(items, item{meta.ObjectVersion{ObjectID: testObject(object).WithRole(meta.Role(r)), Version: v},
				meta.OSDNum(o), strings.HasSuffix(f, "s")})
		}
	}
	return items, nil
}

// parseVersion reads "5" or "epoch.counter".
func parseVersion(s string) (meta.Version, error) {
	epoch, counter, ok := strings.Cut(s, ".")
	if !ok {
		epoch, counter = "0", s
	}
	e, err := strconv.ParseUint(epoch, 10, 48)
	c, err2 := strconv.ParseUint(counter, 10, 16)
	if err != nil || err2 != nil {
		return 0, fmt.Errorf("version %q", s)
	}
	return meta.MakeVersion(e, uint16(c)), nil
}

func showVersion(v meta.Version) string {
	if v.Epoch() == 0 {
		return strconv.Itoa(int(v.Counter()))
	}
	return v.String()
}

func showLocations(locs []Location) string {
	var b strings.Builder
	for _, l := range locs {
		fmt.Fprintf(&b, "(%d,%d", l.Role, l.OSD)
		for _, n := range []struct {
			bit  meta.LocBad
			name string
		}{{meta.LocOutdated, "outdated"}, {meta.LocCorrupted, "corrupted"}, {meta.LocInconsistent, "inconsistent"}} {
			if l.Bad&n.bit != 0 {
				b.WriteString(" " + n.name)
			}
		}
		b.WriteString(")")
	}
	return b.String()
}

func showObject(o *Objects, id meta.ObjectID) string {
	r, v := o.Lookup(id)
	s := "clean"
	if r != nil {
		s = fmt.Sprintf("%v %s read %v", r.State, showLocations(r.Locs), r.ReadTarget)
		if extra := o.AppendExtra(nil, r); len(extra) > 0 {
			s += " extra " + showLocations(extra)
		}
	}
	if v != meta.NewestVersion {
		s += " version " + showVersion(v)
	}
	if o.FlushPending(id) {
		s += " (flush pending)"
	}
	return s
}

func showFlush(items []FlushItem) string {
	var b strings.Builder
	for _, f := range items {
		what := "STABILIZE"
		if f.Rollback {
			what = "ROLLBACK"
		}
		fmt.Fprintf(&b, "%s %d r%d@%d to %s\n", what, f.Stripe/testStripe, f.Role(), f.OSD, showVersion(f.Version))
	}
	return b.String()
}

func showCounts(o *Objects) string {
	c := o.Counts()
	s := fmt.Sprintf("%d objects, %d clean", c.Total, c.Clean)
	for _, n := range []struct {
		n    uint64
		name string
	}{{c.Degraded, "degraded"}, {c.Incomplete, "incomplete"}, {c.Misplaced, "misplaced"},
		{c.Corrupted, "corrupted"}, {c.Inconsistent, "inconsistent"}} {
		if n.n > 0 {
			s += fmt.Sprintf(", %d %s", n.n, n.name)
		}
	}
	if f := o.Flags(); f != 0 {
		s += " [" + f.String() + "]"
	}
	return s + "\n"
}

// script is the state of a datadriven test of Calc and Objects:
//
//	calc scheme=ec k=2 cur=(1,2,0)    one object per line: "1: r0@1 5s 6u, r1@2 5s"
//	mark, remove obj=1 at=r0@2 bad=corrupted      and the object afterwards
//	forget, deleted obj=1
//	flush                                         a batch and its end
//	delete obj=1                                  where a DELETE goes to
//	next obj=1 mask=degraded                      the first one from here on
type script struct {
	arena   Arena
	objects *Objects
	seen    []int
}

func TestCalcScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/calc", func(t *testing.T, path string) {
		s := &script{}
		defer s.arena.Free()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	var n int
	var at string
	d.MaybeScanArgs(t, "obj", &n)
	d.MaybeScanArgs(t, "at", &at)
	id := testObject(n)
	role, osd := parseAt(at)
	switch d.Cmd {
	case "calc":
		return s.calc(t, d)
	case "mark":
		var bad string
		d.ScanArgs(t, "bad", &bad)
		bits := map[string]meta.LocBad{"outdated": 1, "corrupted": 2, "inconsistent": 4}[bad]
		if !s.objects.Mark(id, role, osd, bits) {
			return "no change\n"
		}
	case "remove":
		if !s.objects.RemoveLocation(id, role, osd) {
			return "no change\n"
		}
	case "forget":
		s.objects.Forget(id)
	case "deleted":
		s.objects.Deleted(id)
	case "delete":
		r, _ := s.objects.Lookup(id)
		return showLocations(s.objects.AppendDelete(nil, r)) + "\n"
	case "flush":
		text := showFlush(s.objects.FlushBatch())
		if len(s.objects.FlushBatch()) != 0 {
			t.Error("a second batch while one is running")
		}
		return text + fmt.Sprintf("more: %v\n", s.objects.FlushDone()) + s.show()
	case "next":
		var mask string
		d.ScanArgs(t, "mask", &mask)
		bits := map[string]meta.ObjectState{"any": 0, "degraded": 2, "incomplete": 4, "misplaced": 8, "corrupted": 16}[mask]
		found, r := s.objects.Next(id, bits)
		if r == nil {
			return "none\n"
		}
		return fmt.Sprintf("%d: %s\n", found.Stripe/testStripe, showObject(s.objects, found))
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return showCounts(s.objects) + fmt.Sprintf("%d: %s\n", n, showObject(s.objects, id))
}

func parseAt(at string) (meta.Role, meta.OSDNum) {
	role, osd, _ := strings.Cut(at, "@")
	r, _ := strconv.Atoi(strings.TrimPrefix(role, "r"))
	o, _ := strconv.Atoi(osd)
	return meta.Role(r), meta.OSDNum(o)
}

func (s *script) calc(t *testing.T, d *datadriven.TestData) string {
	var scheme string
	k := 1
	d.ScanArgs(t, "scheme", &scheme)
	d.MaybeScanArgs(t, "k", &k)
	sch, err := meta.ParseScheme(scheme)
	if err != nil {
		t.Fatal(err)
	}
	arg, _ := d.Arg("cur")
	var cur []meta.OSDNum
	for _, v := range arg.Vals {
		n, _ := strconv.Atoi(v)
		cur = append(cur, meta.OSDNum(n))
	}
	var items []item
	s.seen = nil
	for line := range strings.Lines(d.Input) {
		name, text, _ := strings.Cut(line, ":")
		n, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		its, err := parseItems(n, text)
		if err != nil {
			t.Fatal(err)
		}
		s.seen = append(s.seen, n)
		items = append(items, its...)
	}
	if s.objects != nil {
		s.objects.Free()
	}
	o, sum := runCalc(t, testLayout(sch, k, cur), &s.arena, items, 1)
	s.objects = o
	text := fmt.Sprintf("max epoch %d\n", sum.MaxEpoch)
	if sum.Invalid != "" {
		text = "invalid: " + sum.Invalid + "\n"
	}
	if sum.Flags != o.Flags() {
		t.Errorf("summary has %v, objects %v", sum.Flags, o.Flags())
	}
	return text + s.show() + showFlush(o.flush.items)
}

func (s *script) show() string {
	text := showCounts(s.objects)
	slices.Sort(s.seen)
	for _, n := range slices.Compact(s.seen) {
		text += fmt.Sprintf("%d: %s\n", n, showObject(s.objects, testObject(n)))
	}
	return text
}
