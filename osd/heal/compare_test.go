package heal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/osd/peering"
)

// compareReplicas compares copies given as strings, n bytes at a time, and
// returns the good ones as a string of + and -, or "?".
func compareReplicas(n int, copies ...string) string {
	var c replicas
	c.begin(len(copies))
	data := make([][]byte, len(copies))
	for at := 0; at < len(copies[0]); at += n {
		for i := range copies {
			data[i] = []byte(copies[i][at:min(at+n, len(copies[i]))])
		}
		c.slice(data)
	}
	good, ok := c.good(nil)
	return signs(good, ok)
}

func signs(good []bool, ok bool) string {
	if !ok {
		return "?"
	}
	var b strings.Builder
	for _, g := range good {
		b.WriteString(map[bool]string{true: "+", false: "-"}[g])
	}
	return b.String()
}

func TestReplicas(t *testing.T) {
	for _, c := range []struct{ copies, want string }{
		{"aaaa", "+"},
		{"aaaa aaaa", "++"},
		{"aaaa aaab", "?"},
		{"aaaa aaaa aaaa", "+++"},
		{"aaaa baaa aaaa", "+-+"},
		{"baaa aaaa aaaa", "-++"},
		{"aaaa aaab aaba", "?"}, // three different ones
		{"baaa aaab aaaa aaaa", "--++"},
		{"aaaa aaaa bbbb bbbb", "?"},
		{"aaaa aaaa bbbb bbbb aaaa", "++--+"},
		{"abaa aaaa aaba abaa aaba aaaa abaa", "+--+--+"},
	} {
		for n := 1; n <= 4; n++ {
			if got := compareReplicas(n, strings.Fields(c.copies)...); got != c.want {
				t.Errorf("%s by %d bytes: %s, want %s", c.copies, n, got, c.want)
			}
		}
	}
}

// The largest group of equal copies, counted with a map.
func TestReplicasRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		copies := make([]string, 1+r.IntN(7))
		count := map[string]int{}
		for i := range copies {
			copies[i] = string([]byte{'a', byte('a' + r.IntN(2)), 'a', byte('a' + r.IntN(2))})
			count[copies[i]]++
		}
		best, tie := "", false
		for c, n := range count {
			if n > count[best] {
				best, tie = c, false
			} else if n == count[best] {
				tie = true
			}
		}
		want := "?"
		if !tie {
			want = ""
			for _, c := range copies {
				want += map[bool]string{true: "+", false: "-"}[c == best]
			}
		}
		if got := compareReplicas(1+r.IntN(4), copies...); got != want {
			t.Fatalf("%v: %s, want %s", copies, got, want)
		}
	}
}

// stripe makes the chunks of an object, by role.
func stripe(t testing.TB, code *ec.Code, bytes int, r *rand.Rand) [][]byte {
	chunks := make([][]byte, code.Chunks())
	for i := range chunks {
		chunks[i] = make([]byte, bytes)
		for x := range chunks[i] {
			chunks[i][x] = byte(r.Uint32())
		}
	}
	if err := code.Encode(chunks[:code.DataChunks()], chunks[code.DataChunks():]); err != nil {
		t.Fatal(err)
	}
	return chunks
}

// compareStripes compares chunks of the given roles n bytes at a time.
func compareStripes(t testing.TB, code *ec.Code, roles []meta.Role, data [][]byte, n, tries int) (string, *stripes) {
	var c stripes
	c.begin(code, roles, tries)
	buffers := make([][]byte, c.spare())
	for at := 0; at < len(data[0]); at += n {
		part := make([][]byte, len(data))
		for i := range data {
			part[i] = data[i][at : at+n]
		}
		for i := range buffers {
			buffers[i] = make([]byte, n)
		}
		c.slice(part, buffers)
		for more := true; more; {
			var err error
			if more, err = c.check(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.equal() {
		return strings.Repeat("+", len(data)), &c
	}
	good, ok := c.good(nil)
	return signs(good, ok), &c
}

func TestStripes(t *testing.T) {
	ec42, _ := ec.New(ec.ReedSolomon, 4, 2)
	ec21, _ := ec.New(ec.ReedSolomon, 2, 1)
	ec33, _ := ec.New(ec.ReedSolomon, 3, 3)
	xor, _ := ec.New(ec.XOR, 3, 1)
	for i, c := range []struct {
		code  *ec.Code
		roles string // of the chunks that can be read, and of bad ones in upper case
		tries int
		want  string
	}{
		{ec42, "abcdef", 100, "++++++"},
		{ec42, "aBcdef", 100, "+-++++"},
		{ec42, "abcdEf", 100, "++++-+"},
		{ec42, "ABcdef", 100, "?"}, // four that fit prove nothing
		{ec42, "abcde", 100, "+++++"},
		{ec42, "abcdE", 100, "?"}, // who of the five is wrong?
		{ec42, "abcd", 100, "++++"},
		{ec42, "aBcd", 100, "++++"}, // nothing to compare with
		{ec42, "abc", 100, "+++"},
		{ec42, "aBcdef", 14, "?"}, // 15 combinations: only the first is tried
		{ec42, "abcdeF", 14, "+++++-"},
		{ec21, "abc", 100, "+++"},
		{ec21, "abC", 100, "?"},
		{ec33, "abcdef", 100, "++++++"},
		{ec33, "ABcdef", 100, "--++++"},
		{ec33, "abcdEF", 100, "++++--"},
		{ec33, "abCdEf", 100, "++-+-+"},
		{ec33, "AbCdEf", 100, "?"},
		{ec33, "Abcde", 100, "-++++"},
		{xor, "abcd", 100, "++++"},
		{xor, "abcD", 100, "?"},
		// The same chunk on two OSDs.
		{ec42, "aabcdef", 100, "+++++++"},
		{ec42, "aAbcdef", 100, "+-+++++"},
		{ec42, "Aabcdef", 100, "-++++++"},
		{ec42, "abcdDef", 100, "++++-++"},
		{ec42, "aAbcd", 100, "?"},
	} {
		for _, n := range []int{64, 16, 1} {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			right := stripe(t, c.code, 64, r)
			var roles []meta.Role
			var data [][]byte
			for x := range len(c.roles) {
				role := meta.Role(c.roles[x]|0x20) - 'a'
				chunk := slices.Clone(right[role])
				if c.roles[x] < 'a' {
					chunk[5+x*7] ^= byte(1 + x)
				}
				roles, data = append(roles, role), append(data, chunk)
			}
			if got, _ := compareStripes(t, c.code, roles, data, n, c.tries); got != c.want {
				t.Errorf("row %d %s by %d bytes: %s, want %s", i, c.roles, n, got, c.want)
			}
		}
	}
}

// Against the definition: all combinations, over whole chunks, with another
// way to compute.
func TestStripesRandom(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 5))
		k, m := 1+r.IntN(4), 1+r.IntN(3)
		code, err := ec.New(ec.ReedSolomon, k, m)
		if err != nil {
			t.Fatal(err)
		}
		right := stripe(t, code, 32, r)
		var roles []meta.Role
		var data [][]byte
		for role := range k + m {
			for n := []int{0, 1, 1, 1, 1, 2}[r.IntN(6)]; n > 0; n-- {
				chunk := slices.Clone(right[role])
				if r.IntN(5) == 0 {
					chunk[r.IntN(32)] ^= byte(1 + r.IntN(2))
				}
				roles, data = append(roles, meta.Role(role)), append(data, chunk)
			}
		}
		if len(data) == 0 {
			continue
		}
		want := slowStripes(t, code, roles, data)
		if got, _ := compareStripes(t, code, roles, data, 8, combinationsMax); got != want {
			t.Fatalf("seed %d, %d+%d, roles %v: %s, want %s", seed, k, m, roles, got, want)
		}
	}
}

func slowStripes(t *testing.T, code *ec.Code, roles []meta.Role, data [][]byte) string {
	var first []int
	for i := range roles {
		if i == 0 || roles[i] != roles[i-1] {
			first = append(first, i)
		}
	}
	all := strings.Repeat("+", len(roles))
	best, tie, n := "", false, 0
	for set := range 1 << len(first) {
		chunks := make([][]byte, code.Chunks())
		var have, want ec.RoleSet
		for x, i := range first {
			if set>>x&1 != 0 {
				have.Add(int(roles[i]))
				chunks[roles[i]] = data[i]
			}
		}
		if have.Len() != code.DataChunks() {
			continue
		}
		n++
		for role := range chunks {
			if chunks[role] == nil {
				want.Add(role)
				chunks[role] = make([]byte, len(data[0]))
			}
		}
		if err := code.Reconstruct(chunks, have, want); err != nil {
			t.Fatal(err)
		}
		fit, fitting := "", map[meta.Role]bool{}
		for i := range data {
			ok := bytes.Equal(data[i], chunks[roles[i]])
			fit += map[bool]string{true: "+", false: "-"}[ok]
			if ok {
				fitting[roles[i]] = true
			}
		}
		if fit == all {
			return all
		}
		if size := strings.Count(fit, "+") - strings.Count(best, "+"); len(fitting) > code.DataChunks() && fit != best {
			if size > 0 {
				best, tie = fit, false
			} else if size == 0 {
				tie = true
			}
		}
	}
	if n == 0 {
		return all
	}
	if best == "" || tie {
		return "?"
	}
	return best
}

func TestCombinations(t *testing.T) {
	for _, c := range [][4]int{{6, 4, 100, 15}, {6, 4, 15, 15}, {6, 4, 14, 1}, {4, 4, 1, 1}, {3, 4, 9, 0}, {5, 1, 9, 5},
		{20, 10, 1 << 20, 184756}, {250, 125, 10000, 1}, {0, 1, 5, 0}} {
		if got := combinations(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%d over %d, at most %d: %d, want %d", c[0], c[1], c[2], got, c[3])
		}
	}
}

func TestFindBestOffCovers(t *testing.T) {
	code, _ := ec.New(ec.ReedSolomon, 3, 3)
	r := rand.New(rand.NewPCG(9, 9))
	right := stripe(t, code, 16, r)
	roles := []meta.Role{0, 1, 1, 2, 3, 4, 5}
	data := [][]byte{right[0], right[1], slices.Clone(right[1]), right[2], right[3], right[4], right[5]}
	data[2][3]++
	got, c := compareStripes(t, code, roles, data, 16, 100)
	if good, _ := c.good(nil); got != "++-++++" || !c.covers(good) {
		t.Errorf("%s: an extra copy that is bad leaves all roles", got)
	}
	data[2], data[5] = data[1], make([]byte, 16)
	got, c = compareStripes(t, code, roles, data, 16, 100)
	if good, _ := c.good(nil); got != "+++++-+" || c.covers(good) {
		t.Errorf("%s: a role is missing", got)
	}
}

// readingsOf parses "role@osd" with what was read: a version and + or - (after
// the comparison), or missing, broken.
func readingsOf(text string) []reading {
	var rs []reading
	for _, f := range strings.Fields(text) {
		var r reading
		var what string
		if n, _ := fmt.Sscanf(f, "%d@%d:%s", &r.loc.Role, &r.loc.OSD, &what); n != 3 {
			panic(f)
		}
		switch what {
		case "missing":
			r.cond = missing
		case "broken":
			r.cond = broken
		default:
			r.good = strings.HasSuffix(what, "+")
			fmt.Sscanf(what, "%d", &r.version)
		}
		rs = append(rs, r)
	}
	return rs
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		k       int
		read    string
		decided bool
		want    string
	}{
		{1, "0@1:5+ 0@2:5+", true, "0@1 0@2"},
		{1, "0@1:5+ 0@2:5- 0@3:5+", true, "0@1 0@2=2 0@3"},
		{1, "0@1:5+ 0@2:5-", false, "0@1=4 0@2=4"},
		{1, "0@1:broken 0@2:5+", true, "0@1=2 0@2"},
		{1, "0@1:broken 0@2:broken", true, "0@1=2 0@2=2"},
		{1, "0@1:missing 0@2:5+", true, "0@2"},
		{1, "0@1:missing 0@2:missing", true, ""},
		{1, "0@1:5+ 0@2:6+", true, "0@1=1 0@2"},
		{1, "0@1:5+ 0@2:6+ 0@3:6-", false, "0@1=1 0@2=4 0@3=4"},
		{2, "0@1:5+ 1@2:5+ 2@3:5+", true, "0@1 1@2 2@3"},
		{2, "0@1:5+ 1@2:4+ 2@3:5+", true, "0@1 1@2=1 2@3"},
		{2, "0@1:5+ 1@2:6+ 2@3:5+", true, "0@1=4 1@2=4 2@3=4"}, // one chunk of 6 is not an object
		{2, "0@1:5+ 0@4:6+ 1@2:5+ 2@3:6+", true, "0@1=1 0@4 1@2=1 2@3"},
		{2, "0@1:6+ 0@4:6+ 1@2:5+ 2@3:5+", true, "0@1=4 0@4=4 1@2=4 2@3=4"},
		{3, "0@1:5+ 1@2:6+ 2@3:7+", true, "0@1=1 1@2=1 2@3"}, // no version has enough
	} {
		rs := readingsOf(c.read)
		sortVersions(rs, c.k)
		var got []string
		for _, l := range judge(nil, rs, c.decided) {
			text := fmt.Sprintf("%d@%d", l.Role, l.OSD)
			if l.Bad != 0 {
				text += fmt.Sprintf("=%d", l.Bad)
			}
			got = append(got, text)
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("k=%d %s (%v): %s, want %s", c.k, c.read, c.decided, g, c.want)
		}
	}
}

func TestSameLocations(t *testing.T) {
	a := []peering.Location{{OSD: 1}, {OSD: 2, Bad: 1}}
	if !sameLocations(a, []peering.Location{a[1], a[0]}) || sameLocations(a, a[:1]) ||
		sameLocations(a, []peering.Location{{OSD: 1}, {OSD: 2}}) {
		t.Error("wrong")
	}
}

func TestSliceBytes(t *testing.T) {
	for _, c := range []struct{ block, granule, n, want int }{
		{128 << 10, 4096, 2, 128 << 10},
		{4 << 20, 4096, 3, 1 << 20},
		{4 << 20, 4096, 8, 1 << 20},
		{4 << 20, 4096, 9, 512 << 10},
		{128 << 20, 4096, 256 + 30, 16 << 10},
		{4096, 512, 500, 4096},
		{128 << 20, 16 << 20, 2, 0}, // larger than a buffer
		{1 << 20, 128 << 10, 64, 128 << 10},
		{1 << 20, 128 << 10, 256, 0},
	} {
		if got := sliceBytes(uint32(c.block), uint32(c.granule), c.n); got != uint32(c.want) {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
