package meta

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func TestInodeAndStripe(t *testing.T) {
	// wire.md §2, worked example: pool 2, inode 5, EC 4+2, B = 131072, 16 PGs.
	inode := MakeInode(2, 5)
	if inode != 0x0002000000000005 || inode.Pool() != 2 || inode.Number() != 5 {
		t.Errorf("inode = %x", uint64(inode))
	}
	pgStripe := PGStripeBytes(0, 131072, 4)
	if pgStripe != 0x80000 {
		t.Errorf("pg stripe = %x", pgStripe)
	}
	stripe := uint64(0x123456) / 0x80000 * 0x80000
	if stripe != 0x100000 || PGOf(stripe, pgStripe, 16) != 3 || PGOf(stripe|5, pgStripe, 16) != 3 {
		t.Errorf("stripe %x, PG %d", stripe, PGOf(stripe, pgStripe, 16))
	}
	if PGOf(stripe, pgStripe, 0) != 0 {
		t.Error("a pool without PGs has no PG for an object")
	}
	chunk := ObjectID{inode, stripe}.WithRole(5)
	if chunk.Stripe != 0x100005 || chunk.Role() != 5 || chunk.Object().Stripe != stripe {
		t.Errorf("chunk = %v", chunk)
	}
}

func TestObjectOrder(t *testing.T) {
	ids := []ObjectID{{2, 1}, {1, 9}, {2, 0}, {1, 0}}
	slices.SortFunc(ids, ObjectID.Compare)
	if want := []ObjectID{{1, 0}, {1, 9}, {2, 0}, {2, 1}}; !slices.Equal(ids, want) {
		t.Errorf("sorted %v", ids)
	}
	for i := 1; i < len(ids); i++ {
		if !ids[i-1].Less(ids[i]) || ids[i].Less(ids[i-1]) {
			t.Errorf("Less disagrees with Compare at %d", i)
		}
	}
}

func TestNextVersion(t *testing.T) {
	for _, c := range []struct {
		v     Version
		epoch uint64
		want  Version
		newE  uint64
	}{
		{0, 0, 1, 0},
		{0, 3, MakeVersion(3, 1), 3},
		{MakeVersion(2, 9), 3, MakeVersion(3, 1), 3},
		{MakeVersion(3, 9), 3, MakeVersion(3, 10), 3},
		{MakeVersion(3, 0x7fff), 3, MakeVersion(3, 0x8000), 3},
		{MakeVersion(3, 0x8000), 3, MakeVersion(4, 1), 4},
		{MakeVersion(2, 0x8000), 3, MakeVersion(3, 1), 3},
		{MakeVersion(5, 2), 3, MakeVersion(5, 3), 5},
	} {
		if got, e := NextVersion(c.v, c.epoch); got != c.want || e != c.newE {
			t.Errorf("NextVersion(%v, %d) = %v, %d; want %v, %d", c.v, c.epoch, got, e, c.want, c.newE)
		}
	}
}

func TestPGStateNames(t *testing.T) {
	s := PGActive | PGLeftOnDead | PGDegraded
	want := []string{"active", "degraded", "left_on_dead"}
	if got := s.Names(); !reflect.DeepEqual(got, want) {
		t.Errorf("names %v", got)
	}
	if s != 0x8088 {
		t.Errorf("bits %x", uint32(s))
	}
	if got, err := ParsePGState(want); err != nil || got != s {
		t.Errorf("parsed %v, %v", got, err)
	}
	// Every bit has a name and comes back.
	for bit := PGStarting; bit <= PGScrubbing; bit <<= 1 {
		if len(bit.Names()) != 1 || pgStateBit(bit.Names()[0]) != bit {
			t.Errorf("bit %x: %v", uint32(bit), bit.Names())
		}
	}
	for _, bad := range [][]string{
		{}, {"degraded"}, {"active", "peering"}, {"active", "sleeping"},
		{"peering", "degraded"}, {"offline", "left_on_dead"}, {"incomplete", "degraded"},
	} {
		if s, err := ParsePGState(bad); err == nil {
			t.Errorf("%v accepted as %v", bad, s)
		}
	}
	for _, good := range [][]string{{"incomplete", "has_invalid"}, {"starting"}, {"stopping", "degraded"}} {
		if _, err := ParsePGState(good); err != nil {
			t.Errorf("%v refused: %v", good, err)
		}
	}
}

func TestEnums(t *testing.T) {
	for _, s := range []Scheme{Replicated, XOR, EC} {
		if got, err := ParseScheme(s.String()); err != nil || got != s {
			t.Errorf("scheme %v: %v, %v", s, got, err)
		}
	}
	if s, _ := ParseScheme("jerasure"); s != EC {
		t.Error("jerasure is ec")
	}
	for _, m := range []CommitMode{CommitNone, CommitSmall, CommitAll} {
		if got, err := ParseCommitMode(m.String()); err != nil || got != m {
			t.Errorf("commit mode %v: %v, %v", m, got, err)
		}
	}
	if _, err := ParseScheme("raid5"); err == nil {
		t.Error("raid5 accepted")
	}
	if _, err := ParseCommitMode("some"); err == nil {
		t.Error("some accepted")
	}
	if Scheme(9).String() != "none" || ObjectState(0).String() != "clean" ||
		(ObjectDegraded|ObjectCorrupted).String() != "degraded+corrupted" {
		t.Error("names of odd values")
	}
}

func TestBitmapAgainstBools(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	b, want := make(Bitmap, 5), make([]bool, 40)
	for range 2000 {
		from := r.IntN(41)
		to := from + r.IntN(41-from)
		set := r.IntN(2) == 0
		if set {
			b.SetRange(from, to)
		} else {
			b.ClearRange(from, to)
		}
		for i := from; i < to; i++ {
			want[i] = set
		}
		n, anyWant, allWant := 0, false, true
		for i, w := range want {
			if b.Get(i) != w {
				t.Fatalf("bit %d", i)
			}
			if w {
				n++
			}
			if i >= from && i < to {
				anyWant, allWant = anyWant || w, allWant && w
			}
		}
		if b.Count() != n || b.Any(from, to) != anyWant || b.All(from, to) != allWant {
			t.Fatal("Count, Any or All")
		}
	}
	c := make(Bitmap, BitmapBytes(131072, 4096))
	c.SetBytes(8192, 4096, 4096)
	if len(c) != 4 || !c.Get(2) || c.Count() != 1 {
		t.Errorf("SetBytes: %x", []byte(c))
	}
	c.Or(Bitmap{1})
	if c.Count() != 2 {
		t.Error("Or")
	}
}
