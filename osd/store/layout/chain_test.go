package layout_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// chainOf builds a chain from words, oldest first: b1 s1 i1 g1 = BIG_WRITE,
// SMALL_WRITE, INTENT_WRITE, BIG_INTENT of version 1, capitals are stable,
// c1 COMMIT, r1 ROLLBACK, D DELETE. LSNs count from 1; "=" before a word
// repeats the previous one. The blocks and locations count too.
func chainOf(t testing.TB, g *layout.Geometry, words string) layout.Chain {
	t.Helper()
	var c layout.Chain
	lsn := layout.LSN(0)
	for i, w := range strings.Fields(words) {
		if rest, same := strings.CutPrefix(w, "="); same {
			w = rest
		} else {
			lsn++
		}
		var v uint64
		if len(w) > 1 {
			fmt.Sscan(w[1:], &v)
		}
		h := layout.Head{LSN: lsn, Object: someID, Version: meta.Version(v), Stable: w[0] < 'a'}
		buf := make([]byte, g.MaxEntryBytes())
		switch strings.ToLower(w[:1]) {
		case "b":
			c = append(c, g.PutBigWrite(buf, h, layout.BlockNum(i), nil, nil, nil))
		case "s":
			c = append(c, g.PutSmallWrite(buf, h, uint64(i)*4096, 0, 4096, nil, nil))
		case "i":
			e := g.PutIntentWrite(buf, layout.Head{LSN: lsn, Object: someID, Version: h.Version, Stable: true}, 0, 4096, nil, nil)
			if !h.Stable {
				e[2] &^= 0x40
				e.Seal()
			}
			c = append(c, e)
		case "g":
			c = append(c, g.PutBigIntent(buf, h, layout.BlockNum(i), 0, 4096, nil, nil, nil))
		case "c":
			c = append(c, layout.PutCommit(buf, lsn, someID, h.Version))
		case "r":
			c = append(c, layout.PutRollback(buf, lsn, someID, h.Version))
		case "d":
			c = append(c, layout.PutDelete(buf, lsn, someID))
		default:
			t.Fatalf("word %q", w)
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(c), func(i, j int) { c[i], c[j] = c[j], c[i] })
	c.Sort()
	return c
}

func TestVisible(t *testing.T) {
	g := geometry(t, 131072, 0)
	for _, c := range []struct {
		chain, versions string // + = stable
		live            int
		limit           uint64
		layers          string // lsn of the layers of the newest version <= limit
	}{
		{"B1", "1+", 1, 9, "1"},
		{"B1 S2 S3", "3+", 3, 9, "3 2 1"},
		{"B1 S2 S3", "3+", 3, 2, "2 1"},
		{"b1", "1", 1, 9, "1"},
		{"b1 c1", "1+", 2, 9, "1"},
		{"b1 s2 s3 c2", "3 2+", 4, 9, "3 2 1"},
		{"b1 c1 s2 s3 s4 r3 c2", "3 2+", 7, 9, "4 3 1"},         // §11.4
		{"b1 c1 s2 s3 s4 s5 r4 s5 r3", "3 2 1+", 9, 9, "4 3 1"}, // D9: the minimum of the rollbacks
		{"b1 r0", "", 2, 9, ""},
		{"b1 r0 b1 c1", "1+", 4, 9, "3"},
		{"B1 D", "", 1, 9, ""},
		{"B5 D B1", "1+", 1, 9, "3"},
		{"b1 c1 b2 b3 c2", "3 2+", 5, 9, "4"},
		{"b1 c1 b2 b3 c2", "3 2+", 5, 2, "3"},
		{"b1 c1 b2 b3 c2", "3 2+", 5, 1, "1"},
		{"B1 S2 =B2", "2+", 1, 9, "2"}, // compaction result with the LSN of the newest entry
		{"b1 c1 s2 c2 =B2 s3", "3 2+", 2, 9, "5 4"},
		{"B1 I2 I3", "3+", 3, 9, "3 2 1"},
		{"B1 G2", "2+", 1, 9, "2"},
		{"B2 S2", "2+", 2, 9, "2 1"},
		{"b1 s1 c1", "1+", 3, 9, "2 1"},
		{"B1", "1+", 1, 0, ""},
	} {
		ch := chainOf(t, g, c.chain)
		var versions []string
		for _, v := range ch.Versions(nil) {
			s := fmt.Sprint(uint64(v.Version))
			if v.Stable {
				s += "+"
			}
			versions = append(versions, s)
		}
		var layers []string
		for _, e := range ch.Live().Layers(nil, meta.Version(c.limit)) {
			layers = append(layers, fmt.Sprint(e.LSN()))
		}
		if got := strings.Join(versions, " "); got != c.versions || len(ch.Live()) != c.live || strings.Join(layers, " ") != c.layers {
			t.Errorf("%q: versions %q live %d layers %q, want %q %d %q", c.chain, got, len(ch.Live()), layers, c.versions, c.live, c.layers)
		}
	}
}

func TestChainRules(t *testing.T) {
	g := geometry(t, 131072, 0)
	for chain, want := range map[string]string{
		"B1 S2 S3": "", "b1 c1 s2 r1": "", "B1 S2 =B2": "", "B1 D": "", "b1 r0": "", "B1 I2 I3": "", "D B1 S2": "",
		"B1 S2 =S3":        "1",
		"B1 D =B1":         "", // only the live part counts
		"b1 =c1":           "1",
		"B1 =S2 =B2":       "", // the equal small entries are under the overwrite entry
		"b1 b2 c2 c1":      "2",
		"b1 c1 c1":         "",
		"b1 B2":            "",
		"b1 S2":            "3",
		"b1 c1 b2 r1 b2":   "",
		"b1 b2 r1 S3":      "3",
		"S1":               "4",
		"D S1":             "4",
		"I1":               "4",
		"s1 r0":            "4",
		"b1 r0 s1":         "",
		"B1 s2 S3":         "3 7",
		"b1 I2":            "3 6",
		"B1 S2 s3":         "7",
		"B1 S2 c2 s3":      "",
		"b1 i2":            "",
		"S1 B2 S3":         "",
		"c1 =r1":           "1",
		"b1 c2 b2 =c1 =b3": "1 1 2",
	} {
		c := chainOf(t, g, chain)
		var got []string
		for _, v := range c.Check() {
			got = append(got, fmt.Sprint(v.Rule))
			if v.Fatal() != (v.Rule < 6) || !strings.Contains(v.Error(), someID.String()) {
				t.Error(v)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%q: rules %v, want %q: %v", chain, got, want, c.Check())
		}
	}
}

func TestClaims(t *testing.T) {
	g := geometry(t, 131072, 0)
	cl := g.NewClaims()
	if err := cl.Add(chainOf(t, g, "b1 c1 s2 b3 r2")); err != nil { // rolled back entries keep their space
		t.Fatal(err)
	}
	if cl.BlockCount != 2 || cl.GranuleCount != 1 || !cl.Blocks.Get(0) || !cl.Blocks.Get(3) || !cl.Granules.Get(2) {
		t.Errorf("%d blocks, %d granules", cl.BlockCount, cl.GranuleCount)
	}
	if err := cl.Add(chainOf(t, g, "S1 S1 B1")); err != nil || cl.BlockCount != 3 || cl.GranuleCount != 1 {
		t.Error("garbage claims space:", err)
	}
	for chain, want := range map[string]string{"b1": "data block 0 of version 1", "D D s1": "buffer range 8192+4096"} {
		if err := cl.Add(chainOf(t, g, chain)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", chain, err)
		}
	}
}

func TestSuspects(t *testing.T) {
	g := geometry(t, 131072, 0)
	for _, c := range []struct {
		chain     string
		completed layout.LSN
		suspects  int
		redirect  int
		keep      bool
	}{
		{"B1", 0, 0, -1, false},
		{"B1 S2 S3", 9, 2, -1, false},
		{"B1 I2 S3 S4", 0, 2, -1, false},
		{"B1 I2 I3", 2, 1, -1, false},
		{"B1 I2 I3", 3, 0, -1, false},
		{"B1 G2", 1, 1, -1, false},
		{"G2", 0, 1, -1, true},
		{"G2", 1, 0, -1, true},
		{"G1 S2 S3", 0, 2, 2, false},
		{"G1 S2 S3", 1, 2, -1, false},
		{"b1 s2 c2", 0, 0, -1, false},
		{"B1 S2 D", 0, 0, -1, false},
	} {
		ch := chainOf(t, g, c.chain)
		if n, r, k := ch.Suspects(c.completed), ch.SuspectRedirect(c.completed), ch.KeepsMismatch(g, true); n != c.suspects || r != c.redirect || k != c.keep {
			t.Errorf("%q: %d suspects, redirect %d, keep %v", c.chain, n, r, k)
		}
	}
	if (layout.Chain{}).Suspects(0) != 0 {
		t.Error("empty chain")
	}
	// On a cached disk the int bitmap tells an in-place intent from a redirect.
	buf := make([]byte, 64)
	h := layout.Head{LSN: 1, Object: someID, Version: 1, Stable: true}
	redirect := g.PutBigIntent(buf, h, 0, 4096, 4096, nil, meta.Bitmap{2, 0, 0, 0}, nil)
	inPlace := g.PutBigIntent(make([]byte, 64), h, 0, 4096, 4096, nil, meta.Bitmap{3, 0, 0, 0}, nil)
	if (layout.Chain{redirect}).KeepsMismatch(g, false) || !(layout.Chain{inPlace}).KeepsMismatch(g, false) {
		t.Error("redirect and in-place intents are confused")
	}
}

// A redirect whose data was lost is found under small writes, by what they do
// not cover (spec §7.3, D4).
func TestRedirectMatches(t *testing.T) {
	block := pattern(131072)
	for _, csum := range []uint32{0, 4096} {
		g := geometry(t, 131072, csum)
		h := layout.Head{LSN: 1, Object: someID, Version: 1, Stable: true}
		written := make(meta.Bitmap, 4)
		written.SetBytes(8192, 12288, 4096)
		sums := make(layout.Csums, 4*max(1, g.CsumCount()))
		if csum == 0 {
			g.FillWriteCsums(sums, 8192, block[8192:20480])
		} else {
			g.FillBlockCsums(sums, written, block)
		}
		e := g.PutBigIntent(make([]byte, 300), h, 0, 8192, 12288, nil, written, sums)
		h.LSN, h.Version = 2, 2
		apart := g.PutSmallWrite(make([]byte, 300), h, 0, 20480, 4096, nil, nil)
		over := g.PutSmallWrite(make([]byte, 300), h, 0, 12288, 4096, nil, nil)
		lost := make([]byte, 131072)
		if !g.RedirectMatches(layout.Chain{apart, e}, 1, block) || g.RedirectMatches(layout.Chain{apart, e}, 1, lost) {
			t.Errorf("C %d: redirect under a write elsewhere", csum)
		}
		// Compaction may have written the middle granule.
		half := slices.Clone(block)
		clear(half[12288:16384])
		if !g.RedirectMatches(layout.Chain{over, e}, 1, half) {
			t.Errorf("C %d: the overlapped part counts", csum)
		}
		if g.RedirectMatches(layout.Chain{over, e}, 1, lost) != (csum == 0) {
			t.Errorf("C %d: the rest of the redirect does not count", csum)
		}
	}
}

func TestCopySources(t *testing.T) {
	g := geometry(t, 131072, 0)
	for chain, want := range map[string]string{
		"B1 S2 S3 =B3":             "3 2",
		"b1 c1 s2 s3 c3 =B3":       "4 3",
		"b1 c1 s2 s3 s4 r3 c3 =B3": "4 3", // the rolled back write was not copied
		"B1 S2 I3 =B3":             "2",
		"B1 S2 B3":                 "", // a full overwrite
		"B1 S2 =B2 S3 =B3":         "3",
		"B1 S2 D":                  "",
		"B1 S2":                    "",
		"B1":                       "",
	} {
		var got []string
		_, sources := chainOf(t, g, chain).CopySources()
		for _, e := range sources {
			got = append(got, fmt.Sprint(e.LSN()))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %q", chain, got, want)
		}
	}
	if _, sources := (layout.Chain{}).CopySources(); sources != nil {
		t.Error(sources)
	}
}

// Walking a chain and verifying allocates nothing.
func TestChainAllocations(t *testing.T) {
	g := geometry(t, 131072, 0)
	c := chainOf(t, g, "b1 c1 s2 s3 s4 r3 c2")
	versions, layers := make([]layout.VersionState, 0, 8), make(layout.Chain, 0, 8)
	if n := testing.AllocsPerRun(100, func() {
		if len(c.Versions(versions)) != 2 || len(c.Layers(layers, 9)) != 3 || c.Suspects(0) != 0 {
			t.Fatal("wrong chain")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
