package ec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

type fataler interface {
	Helper()
	Fatal(...any)
}

func must(t fataler, err error) {
	if err != nil {
		t.Helper() // costs more than coding a bitmap
		t.Fatal(err)
	}
}

func mustNew(t fataler, s Scheme, k, m int) *Code {
	t.Helper()
	c, err := New(s, k, m)
	must(t, err)
	return c
}

// spec osd.md §7.4
const specVectors = `
2+1
111b2b415d7fa7d5094383c91567bf1d
222d405b7ea9dc175aa5f853b621940f
33366b1a23d67bc253e67b9aa3462b12
3+2
353f4f6581a3cbf92d67a7ed398be341
6a7588a3c6f1245fa2ed409bfe69dc57
9fabc1e10b3f7dc51773d949c347d56d
c0e106274c6d926398f93e3f04a5ea7b
0c000bf8f7e3d8d0170b903827f83800
4+2
1d27374d698bb3e1154f8fd52173cb29
3a45587396c1f42f72bd106bce39ac27
57637999c3f7357dcf2b91017bff8d25
74819abff02d76cb2c99129728c56e23
04808c18cc90047884401c28bc708408
06c0cd38ccc6051ae2105d5cac52c50a`

func TestSpecVectors(t *testing.T) {
	lines := strings.Fields(specVectors)
	for len(lines) > 0 {
		var k, m int
		fmt.Sscanf(lines[0], "%d+%d", &k, &m)
		var want [][]byte
		for _, line := range lines[1 : 1+k+m] {
			b, err := hex.DecodeString(line)
			must(t, err)
			want = append(want, b)
		}
		lines = lines[1+k+m:]
		schemes := []Scheme{ReedSolomon}
		if m == 1 {
			schemes = append(schemes, XOR)
		}
		for _, scheme := range schemes {
			got := newMatrix(m, 16)
			must(t, mustNew(t, scheme, k, m).Encode(want[:k], got))
			for i := range got {
				if !bytes.Equal(got[i], want[k+i]) {
					t.Errorf("%v %d+%d p%d = %x, want %x", scheme, k, m, i, got[i], want[k+i])
				}
			}
		}
	}
}

func TestSpecMatrices(t *testing.T) {
	table := map[[2]int]string{ // spec osd.md §7.2
		{2, 1}:  "[1 1]",
		{2, 2}:  "[1 1] [1 143]",
		{3, 2}:  "[1 1 1] [1 245 244]",
		{4, 2}:  "[1 1 1 1] [1 70 143 200]",
		{4, 3}:  "[1 1 1 1] [1 217 92 172] [1 70 143 200]",
		{5, 3}:  "[1 1 1 1 1] [1 156 123 166 244] [1 166 82 245 167]",
		{8, 2}:  "[1 1 1 1 1 1 1 1] [1 172 70 235 143 34 200 101]",
		{8, 3}:  "[1 1 1 1 1 1 1 1] [1 55 39 73 84 181 225 217] [1 172 70 235 143 34 200 101]",
		{8, 4}:  "[1 1 1 1 1 1 1 1] [1 55 39 73 84 181 225 217] [1 39 217 161 92 60 172 90] [1 172 70 235 143 34 200 101]",
		{10, 4}: "[1 1 1 1 1 1 1 1 1 1] [1 147 138 73 93 161 103 58 99 178] [1 103 156 151 123 187 166 175 244 83] [1 220 166 123 82 143 245 40 167 122]",
	}
	for km, want := range table {
		if got := fmt.Sprint(parityMatrix(km[0], km[1])); got != "["+want+"]" {
			t.Errorf("%d+%d: %s, want %s", km[0], km[1], got, want)
		}
	}
}

// TestXORIsOneParityRow: the tables differ, the bytes must not (§7.2).
func TestXORIsOneParityRow(t *testing.T) {
	for _, k := range []int{1, 2, 3, 4, 5, 8, 20, 31, 64, 255} {
		c := mustNew(t, ReedSolomon, k, 1)
		for j := range k {
			if c.ParityFactor(0, j) != 1 {
				t.Fatalf("%d+1: factor %d is %d", k, j, c.ParityFactor(0, j))
			}
		}
	}
}

func TestFieldTables(t *testing.T) {
	slow := func(a, b byte) (p byte) { // shift and add
		for x := int(a); b != 0; b >>= 1 {
			if b&1 != 0 {
				p ^= byte(x)
			}
			if x <<= 1; x&0x100 != 0 {
				x ^= 0x11d
			}
		}
		return p
	}
	for a := range 256 {
		for b := range 256 {
			if got := gfMul(byte(a), byte(b)); got != slow(byte(a), byte(b)) {
				t.Fatalf("%d*%d = %d", a, b, got)
			}
		}
		if a != 0 && gfMul(byte(a), gfInv(byte(a))) != 1 {
			t.Fatalf("1/%d = %d", a, gfInv(byte(a)))
		}
	}
}

// drawCode draws a geometry, mostly of common size, and an encoded stripe.
func drawCode(t *rapid.T) (c *Code, chunks [][]byte) {
	k := rapid.IntRange(1, 12).Draw(t, "k")
	m := rapid.IntRange(1, 6).Draw(t, "m")
	if rapid.IntRange(0, 20).Draw(t, "big") == 0 {
		k = rapid.IntRange(1, MaxRoles-m).Draw(t, "big k")
	}
	scheme := ReedSolomon
	if m == 1 && rapid.Bool().Draw(t, "xor") {
		scheme = XOR
	}
	length := rapid.OneOf(rapid.IntRange(0, 300), rapid.Just(4), rapid.Just(tileBytes+13)).Draw(t, "length")
	seed := rapid.Uint32().Draw(t, "seed")
	c = mustNew(t, scheme, k, m)
	chunks = newMatrix(k+m, length)
	fillRandom(chunks[:k], seed)
	must(t, c.Encode(chunks[:k], chunks[k:]))
	return c, chunks
}

func fillRandom(chunks [][]byte, seed uint32) {
	for _, chunk := range chunks {
		for j := range chunk {
			seed = seed*1664525 + 1013904223
			chunk[j] = byte(seed >> 24)
		}
	}
}

func cloneChunks(chunks [][]byte) [][]byte {
	out := make([][]byte, len(chunks))
	for i := range chunks {
		out[i] = bytes.Clone(chunks[i])
	}
	return out
}

func requireEqual(t fataler, got, want [][]byte, what string) {
	t.Helper()
	for r := range want {
		if !bytes.Equal(got[r], want[r]) {
			t.Fatal(what, "role", r, "differs")
		}
	}
}

// TestAnyLossIsRebuilt: all subsets of at least k chunks give back the others.
func TestAnyLossIsRebuilt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, whole := drawCode(t)
		n, k := c.Chunks(), c.DataChunks()
		for range 3 { // the second time round comes from the cache
			have := Roles(rapid.Permutation(upTo(n)).Draw(t, "order")[:rapid.IntRange(k, n).Draw(t, "have")]...)
			damaged := cloneChunks(whole)
			var want RoleSet
			for r := range n {
				if have.Has(r) {
					continue
				}
				if rapid.IntRange(0, 4).Draw(t, "wanted") == 0 {
					damaged[r] = nil // neither available nor wanted
					continue
				}
				want.Add(r)
				clear(damaged[r])
			}
			for range 2 {
				must(t, c.Reconstruct(damaged, have, want))
				for r := range n {
					if damaged[r] != nil && !bytes.Equal(damaged[r], whole[r]) {
						t.Fatalf("role %d is not what it was, have %v want %v", r, have, want)
					}
				}
			}
		}
	})
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// TestAllLossesOfSmallCodes is exhaustive, also over the wanted sets.
func TestAllLossesOfSmallCodes(t *testing.T) {
	for _, km := range [][2]int{{1, 1}, {2, 1}, {2, 2}, {3, 2}, {4, 2}, {4, 3}, {8, 3}} {
		k, n := km[0], km[0]+km[1]
		c := mustNew(t, ReedSolomon, k, km[1])
		whole := newMatrix(n, 4)
		fillRandom(whole[:k], 7)
		must(t, c.Encode(whole[:k], whole[k:]))
		for mask := range 1 << n {
			var have, want RoleSet
			damaged := cloneChunks(whole)
			for r := range n {
				if mask>>r&1 != 0 {
					have.Add(r)
				} else {
					want.Add(r)
					clear(damaged[r])
				}
			}
			err := c.Reconstruct(damaged, have, want)
			if have.Len() < k {
				if !errors.Is(err, ErrTooFewChunks) {
					t.Fatalf("%d+%d have %b: %v", k, km[1], mask, err)
				}
				continue
			}
			must(t, err)
			requireEqual(t, damaged, whole, fmt.Sprintf("%d+%d have %b", k, km[1], mask))
		}
	}
}

// TestLargestCodes loses as many chunks as each can bear, data first.
func TestLargestCodes(t *testing.T) {
	for _, km := range [][2]int{{255, 1}, {1, 255}, {128, 128}, {200, 56}, {56, 200}} {
		k, m := km[0], km[1]
		c := mustNew(t, ReedSolomon, k, m)
		whole := newMatrix(k+m, 5)
		fillRandom(whole[:k], 9)
		must(t, c.Encode(whole[:k], whole[k:]))
		damaged := cloneChunks(whole)
		want, have := Roles(upTo(m)...), Roles(upTo(k+m)...)
		for r := range m {
			have.Remove(r)
			clear(damaged[r])
		}
		must(t, c.Reconstruct(damaged, have, want))
		requireEqual(t, damaged, whole, fmt.Sprintf("%d+%d", k, m))
	}
}

func TestSubRangeIsPartOfWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, whole := drawCode(t)
		k := c.DataChunks()
		from := rapid.IntRange(0, len(whole[0])).Draw(t, "from")
		to := rapid.IntRange(from, len(whole[0])).Draw(t, "to")
		part := cloneChunks(whole)
		for r := range part {
			if r >= k {
				clear(part[r][from:to])
			}
			part[r] = part[r][from:to]
		}
		must(t, c.Encode(part[:k], part[k:]))
		for r := range whole {
			if !bytes.Equal(part[r], whole[r][from:to]) {
				t.Fatalf("role %d: [%d, %d) differs", r, from, to)
			}
		}
	})
}

func TestUpdateIsReencode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, chunks := drawCode(t)
		k := c.DataChunks()
		role := rapid.IntRange(0, k-1).Draw(t, "role")
		changed := bytes.Clone(chunks[role])
		fillRandom([][]byte{changed}, rapid.Uint32().Draw(t, "change"))
		delta := make([]byte, len(changed))
		must(t, XORInto(delta, chunks[role], changed))
		must(t, c.Update(role, delta, chunks[k:]))

		chunks[role] = changed
		again := cloneChunks(chunks)
		must(t, c.Encode(again[:k], again[k:]))
		requireEqual(t, chunks, again, "updated")
	})
}

// TestCacheIsBounded walks over more sets of sources than the cache holds, twice.
func TestCacheIsBounded(t *testing.T) {
	c := mustNew(t, ReedSolomon, 8, 3)
	whole := newMatrix(11, 4)
	fillRandom(whole[:8], 1)
	must(t, c.Encode(whole[:8], whole[8:]))
	sets := 0
	for range 2 {
		for mask := range 1 << 11 {
			var have, want RoleSet
			damaged := cloneChunks(whole)
			for r := range 11 {
				if mask>>r&1 != 0 {
					have.Add(r)
				} else {
					want.Add(r)
					clear(damaged[r])
				}
			}
			if have.Len() != 8 {
				continue
			}
			sets++
			must(t, c.Reconstruct(damaged, have, want))
			requireEqual(t, damaged, whole, "rebuilt")
			if n := len(c.decoders.entries); n > decoderLimit {
				t.Fatalf("%d decoders are cached", n)
			}
		}
	}
	if sets != 2*165 {
		t.Fatalf("%d sets tried", sets)
	}
}

// Parity entries that are empty (roles without an OSD) are left out.
func TestEncodeOfChosenParity(t *testing.T) {
	c := mustNew(t, ReedSolomon, 4, 3)
	whole := newMatrix(7, 100)
	fillRandom(whole[:4], 3)
	must(t, c.Encode(whole[:4], whole[4:]))
	some := [][]byte{nil, make([]byte, 100), {}}
	must(t, c.Encode(whole[:4], some))
	if !bytes.Equal(some[1], whole[5]) || some[0] != nil {
		t.Error("the wanted parity chunk differs")
	}
	must(t, c.Update(2, whole[2], some)) // chunk 2 becomes zeroes
	clear(whole[2])
	must(t, c.Encode(whole[:4], whole[4:]))
	if !bytes.Equal(some[1], whole[5]) {
		t.Error("the updated parity chunk differs")
	}
}

func TestBadArguments(t *testing.T) {
	for _, bad := range []struct {
		s    Scheme
		k, m int
	}{
		{0, 2, 1}, {9, 2, 1}, {XOR, 2, 2}, {XOR, 0, 1}, {ReedSolomon, 0, 1}, {ReedSolomon, 2, 0}, {ReedSolomon, -1, 3},
		{ReedSolomon, 255, 2}, {ReedSolomon, int(^uint(0) >> 1), 1}, {ReedSolomon, 1, int(^uint(0) >> 1)},
	} {
		if c, err := New(bad.s, bad.k, bad.m); err == nil || c != nil {
			t.Errorf("New(%v) is accepted", bad)
		}
	}
	c := mustNew(t, ReedSolomon, 3, 2)
	ok := func() [][]byte { return newMatrix(5, 8) }
	odd := func(role, length int) [][]byte { s := ok(); s[role] = make([]byte, length); return s }
	have, want := Roles(0, 2, 3), Roles(1, 4)
	for name, err := range map[string]error{
		"no data":             c.Encode(nil, ok()[3:]),
		"few data":            c.Encode(ok()[:2], ok()[3:]),
		"many parity":         c.Encode(ok()[:3], ok()[2:]),
		"short data":          c.Encode(odd(1, 7)[:3], ok()[3:]),
		"nil data":            c.Encode(odd(1, 0)[:3], ok()[3:]),
		"long parity":         c.Encode(ok()[:3], odd(4, 9)[3:]),
		"update role -1":      c.Update(-1, make([]byte, 8), ok()[3:]),
		"update parity role":  c.Update(3, make([]byte, 8), ok()[3:]),
		"update few parity":   c.Update(0, make([]byte, 8), ok()[4:]),
		"update length":       c.Update(0, make([]byte, 7), ok()[3:]),
		"few chunks":          c.Reconstruct(ok()[:4], have, want),
		"too few available":   c.Reconstruct(ok(), Roles(0, 3), want),
		"none available":      c.Reconstruct(ok(), RoleSet{}, want),
		"have and want":       c.Reconstruct(ok(), Roles(0, 1, 2, 3), want),
		"role outside have":   c.Reconstruct(ok(), Roles(0, 2, 5), want),
		"role outside want":   c.Reconstruct(ok(), have, Roles(1, 200)),
		"short source":        c.Reconstruct(odd(2, 7), have, want),
		"nil source":          c.Reconstruct(odd(0, 0), have, want),
		"long wanted":         c.Reconstruct(odd(4, 9), have, want),
		"nil wanted":          c.Reconstruct(odd(1, 0), have, want),
		"xor lengths":         XORInto(make([]byte, 3), make([]byte, 3), make([]byte, 4)),
		"xor into the longer": XORInto(make([]byte, 4), make([]byte, 3), make([]byte, 3)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	must(t, c.Reconstruct(ok(), have, want)) // errors leave the code usable
	if len(c.in)+len(c.out)+len(c.rows) != 0 {
		t.Error("scratch is not released")
	}
	if c.ParityFactor(2, 0)+c.ParityFactor(0, 3)+c.ParityFactor(-1, -1) != 0 {
		t.Error("factors outside of the matrix")
	}
}

func TestNoAllocation(t *testing.T) {
	for _, bytes := range []int{4, 512, 4096, 128 << 10} {
		c := mustNew(t, ReedSolomon, 4, 2)
		s := newMatrix(6, bytes)
		lost := []RoleSet{Roles(0), Roles(1, 5), Roles(2, 3), Roles(4)}
		all := Roles(0, 1, 2, 3, 4, 5)
		operation := func() {
			must(t, c.Encode(s[:4], s[4:]))
			must(t, c.Update(1, s[0], s[4:]))
			for _, want := range lost {
				have := all
				for r := want.Next(0); r >= 0; r = want.Next(r + 1) {
					have.Remove(r)
				}
				must(t, c.Reconstruct(s, have, want))
			}
		}
		if n := testing.AllocsPerRun(20, operation); n != 0 {
			t.Errorf("%d bytes: %v allocations", bytes, n)
		}
	}
}

func TestRoleSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roles := rapid.SliceOfDistinct(rapid.IntRange(0, MaxRoles-1), rapid.ID).Draw(t, "roles")
		s := Roles(roles...)
		s.Add(-1)
		s.Add(MaxRoles)
		slices.Sort(roles)
		var walked []int
		for r := s.Next(-5); r >= 0; r = s.Next(r + 1) {
			walked = append(walked, r)
		}
		if !slices.Equal(walked, roles) || s.Len() != len(roles) {
			t.Fatalf("%v became %v, Len %d", roles, walked, s.Len())
		}
		n := rapid.IntRange(0, len(roles)+1).Draw(t, "n")
		first, ok := s.First(n, MaxRoles)
		if want := Roles(roles[:min(n, len(roles))]...); first != want || ok != (n <= len(roles)) {
			t.Fatalf("First(%d) = %v, %v", n, first, ok)
		}
		for _, r := range roles {
			single := Roles(r)
			if !s.Has(r) || !s.Intersects(&single) {
				t.Fatalf("%d is not in", r)
			}
			s.Remove(r)
			if s.Has(r) || s.Intersects(&single) {
				t.Fatalf("%d is still in", r)
			}
		}
		if s != (RoleSet{}) || s.Has(-1) || s.Has(MaxRoles) {
			t.Fatalf("%v is left", s)
		}
	})
}
