package schema

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"vitastor/internal/meta"
)

func pgConfig(t *testing.T, text string) *PGConfig {
	t.Helper()
	c, err := DecodePGConfig("pg/config", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPGNumbersMustBe1ToN(t *testing.T) {
	const pg = `{"osd_set":[1],"primary":1}`
	for _, c := range []struct {
		items string
		count uint32
		max   meta.PGNum
	}{
		{`{}`, 0, 0},
		{`{"1":` + pg + `}`, 1, 1},
		{`{"2":` + pg + `,"1":` + pg + `,"3":` + pg + `}`, 3, 3},
		{`{"1":` + pg + `,"3":` + pg + `}`, 0, 3},
		{`{"2":` + pg + `}`, 0, 2},
		{`{"1":` + pg + `,"1":` + pg + `,"3":` + pg + `}`, 0, 3}, // not three different ones
		{`{"1":` + pg + `,"02":` + pg + `}`, 0, 1},
		{`{"1":` + pg + `,"0":` + pg + `}`, 0, 1},
		{`{"4294967295":` + pg + `}`, 0, 4294967295},
	} {
		config, _ := DecodePGConfig("k", []byte(`{"items":{"5":`+c.items+`}}`))
		p := config.Pool(5)
		if p.Count() != c.count || p.MaxNum() != c.max {
			t.Errorf("%s: count %d, max %d", c.items, p.Count(), p.MaxNum())
		}
		for num := range meta.PGNum(5) {
			if got := p.PG(num) != nil; got != (num >= 1 && uint32(num) <= c.count) {
				t.Errorf("%s: PG %d exists: %v", c.items, num, got)
			}
		}
		if config.Pool(6).Count() != 0 || config.Pool(6).PG(1) != nil || config.Pool(6).MaxNum() != 0 {
			t.Error("a pool that is not there has PGs")
		}
	}
}

func TestPausedAndTaken(t *testing.T) {
	const text = `{"items":{"1":{
		"1":{"osd_set":[1,2],"primary":1},
		"2":{"osd_set":[1,2],"primary":1,"pause":true},
		"3":{"osd_set":[1,2,3],"primary":1},
		"4":{"osd_set":[1,"x"],"primary":1},
		"5":{"osd_set":[1,2],"primary":"x"},
		"6":{"osd_set":[1,2],"primary":1,"pause":"perhaps"},
		"7":null,
		"8":{"osd_set":[1,0],"primary":0,"pause":false},
		"9":5}}}`
	c, err := DecodePGConfig("k", []byte(text))
	if err == nil || c.Pool(1).Count() != 9 {
		t.Fatalf("%v, %d PGs", err, c.Pool(1).Count())
	}
	for num, want := range map[meta.PGNum]bool{1: false, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: false, 9: true} {
		if got := c.Pool(1).PG(num).Paused(2); got != want {
			t.Errorf("PG %d paused: %v", num, got)
		}
	}
	pg := c.Pool(1).PG(1)
	for _, k := range []struct {
		me, holder meta.OSDNum
		pgSize     int
		want       bool
	}{{1, 0, 2, true}, {1, 1, 2, true}, {1, 2, 2, false}, {2, 0, 2, false}, {1, 0, 3, false}} {
		if got := pg.TakenBy(k.me, k.holder, k.pgSize); got != k.want {
			t.Errorf("%+v: %v", k, got)
		}
	}
	if c.Pool(1).PG(8).TakenBy(0, 0, 2) {
		t.Error("nobody takes PGs")
	}
}

func TestPeersAndNormalise(t *testing.T) {
	h, err := DecodePGHistory("k", []byte(`{"osd_sets":[[5,"0",3],[3,5],[0],[],[9,9,1]],"all_peers":[7,0,3,7]}`))
	if err != nil {
		t.Fatal(err)
	}
	target := PGTarget{OSDSet: []meta.OSDNum{4, 0, 3}}
	if got := target.Peers(&h); !reflect.DeepEqual(got, []meta.OSDNum{1, 3, 4, 5, 7, 9}) {
		t.Errorf("peers %v", got)
	}
	if got := target.Peers(nil); !reflect.DeepEqual(got, []meta.OSDNum{3, 4}) || target.OSDSet[0] != 4 {
		t.Errorf("peers %v, set %v", got, target.OSDSet)
	}
	h.Normalise()
	if got := string(h.EncodeOSD()); got != `{"all_peers":[3,7],"epoch":0,"osd_sets":[[1,9],[3,5]]}` {
		t.Errorf("normal form %s", got)
	}
	h.NextScrub = 1
	if got := string(h.EncodeOSD()); !strings.Contains(got, `"next_scrub":1,`) {
		t.Errorf("%s", got)
	}
	h = PGHistory{}
	h.AddSet([]meta.OSDNum{1, 0})
	h.AddSet([]meta.OSDNum{1, 0})
	h.AddSet([]meta.OSDNum{0, 0})
	h.AddSet([]meta.OSDNum{0, 1})
	if got := string(h.EncodeMon()); got != `{"osd_sets":[["1",0],[0,"1"]],"all_peers":[],"epoch":0}` {
		t.Errorf("%s", got)
	}
}

func TestRemoveOSDs(t *testing.T) {
	c := pgConfig(t, `{"hash":"h","items":{"1":{"1":{"osd_set":[1,2],"primary":2},"2":{"osd_set":[3,1],"primary":1}}}}`)
	if c.RemoveOSDs([]meta.OSDNum{9}) {
		t.Error("nothing to remove")
	}
	if !c.RemoveOSDs([]meta.OSDNum{2, 3}) {
		t.Error("nothing removed")
	}
	if got := string(c.Encode()); got != `{"hash":"h","items":{"1":{"1":{"osd_set":["1",0],"primary":0},"2":{"osd_set":[0,"1"],"primary":"1"}}}}` {
		t.Errorf("%s", got)
	}
	h, _ := DecodePGHistory("k", []byte(`{"osd_sets":[[2,3],[1,2],[0]],"all_peers":[1,2],"epoch":4,"next_scrub":5,"x":1}`))
	if !h.RemoveOSDs([]meta.OSDNum{2, 3}) {
		t.Error("nothing removed")
	}
	if got := string(h.EncodeMon()); got != `{"osd_sets":[["1",0]],"all_peers":[1],"epoch":4,"next_scrub":5,"x":1}` {
		t.Errorf("%s", got)
	}
	if h.RemoveOSDs([]meta.OSDNum{2}) {
		t.Error("nothing to remove")
	}
}

func TestPGConfigKeepsUnknownFields(t *testing.T) {
	const text = `{"hash":"h","items":{"1":{"1":{"osd_set":["1"],"primary":"1","note":{"a":[1,2.50]}},"2":{"osd_set":["1"],"primary":"1"}},"future":{"z":1}},"epoch":18446744073709551615}`
	c, err := DecodePGConfig("k", []byte(text))
	if err == nil {
		t.Error("a pool that is not a number must be reported")
	}
	if got := string(c.Encode()); got != text {
		t.Errorf("\n got %s\nwant %s", got, text)
	}
	// A new distribution keeps the fields of PGs that stay.
	c.SetPool(1, []PGTarget{{Num: 2, OSDSet: []meta.OSDNum{3}}, {Num: 1, OSDSet: []meta.OSDNum{2}, Primary: 2}})
	c.SetPool(7, []PGTarget{{Num: 1, OSDSet: []meta.OSDNum{0}}})
	c.Backfillfull = []meta.PoolID{7}
	want := `{"backfillfull_pools":["7"],"hash":"h","items":{"1":{"1":{"osd_set":["2"],"primary":"2","note":{"a":[1,2.50]}},` +
		`"2":{"osd_set":["3"],"primary":0}},"7":{"1":{"osd_set":[0],"primary":0}},"future":{"z":1}},"epoch":18446744073709551615}`
	if got := string(c.Encode()); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	c.DeletePool(7)
	c.DeletePool(1)
	if got := string(c.Encode()); got != `{"hash":"h","items":{"future":{"z":1}},"epoch":18446744073709551615}` {
		t.Errorf("got %s", got)
	}
}

func TestPGStateOfNoKey(t *testing.T) {
	s, err := DecodePGState("k", nil)
	if err != nil || !s.Offline() || s.Primary != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = DecodePGState("k", []byte(`{"primary":1,"state":["active"],"peers":[1]}`))
	if err != nil || s.Offline() || s.State != meta.PGActive {
		t.Errorf("%+v, %v", s, err)
	}
	// After an error nothing of the update may be used.
	s, err = DecodePGState("k", []byte(`{"primary":1,"state":["active"],"peers":["x"]}`))
	if err == nil || !reflect.DeepEqual(s, PGState{}) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestInodeValues(t *testing.T) {
	own := meta.MakeInode(1, 7)
	for text, want := range map[string]meta.Inode{
		`{}`:                              0,
		`{"parent_id":0,"parent_pool":3}`: 0,
		`{"parent_id":6}`:                 meta.MakeInode(1, 6),
		`{"parent_id":6,"parent_pool":0}`: meta.MakeInode(1, 6),
		`{"parent_pool":3,"parent_id":6}`: meta.MakeInode(3, 6),
		`{"parent_id":562949953421318}`:   meta.MakeInode(2, 6),
		`{"parent_id":"562949953421318"}`: meta.MakeInode(2, 6),
	} {
		c, err := DecodeInodeConfig("k", own, []byte(text))
		if err != nil || c.Parent != want || c.ID != own {
			t.Errorf("%s: parent %v, %v", text, c.Parent, err)
		}
	}
	if i, err := DecodeImageIndex("k", nil); i != 0 || err != nil {
		t.Errorf("missing index: %v, %v", i, err)
	}
	if n, ok := NextInode(7, 9); n != 10 || !ok {
		t.Errorf("next inode %d, %v", n, ok)
	}
	if _, ok := NextInode(meta.MaxInodeNumber, 0); ok {
		t.Error("no inode is left, but one was given")
	}
	if image, snapshot := SplitImageName("a@b@c"); image != "a" || snapshot != "b@c" {
		t.Errorf("%q, %q", image, snapshot)
	}
}

func TestOSDValues(t *testing.T) {
	for text, up := range map[string]bool{`{"state":"up"}`: true, `{"state":"down"}`: false, `{}`: false, `null`: false} {
		if s, err := DecodeOSDState("k", []byte(text)); err != nil || s.Up() != up {
			t.Errorf("%s: up %v, %v", text, s.Up(), err)
		}
	}
	s, err := DecodeOSDStats("k", []byte(`{"immediate_commit":"small","size":5,"host":7}`))
	if mode, ok := s.CommitMode(); mode != meta.CommitSmall || !ok || s.SizeBytes != 5 || err == nil {
		t.Errorf("%+v, %v", s, err)
	}
	if _, ok := (&OSDStats{}).CommitMode(); ok {
		t.Error("immediate_commit is not reported")
	}
	p := PoolStats{PGRealSize: 1}
	if !p.Complete() || (&PoolStats{}).Complete() {
		t.Error("Complete")
	}
}

// bigPGConfig is a configuration of count PGs with 3 replicas.
func bigPGConfig(count int) []byte {
	c := PGConfig{Hash: strings.Repeat("a", 40)}
	pgs := make([]PGTarget, count)
	for i := range pgs {
		o := meta.OSDNum(i%1000 + 1)
		pgs[i] = PGTarget{Num: meta.PGNum(i + 1), OSDSet: []meta.OSDNum{o, o + 1000, o + 2000}, Primary: o}
	}
	c.SetPool(1, pgs)
	return c.Encode()
}

func TestBigPGConfig(t *testing.T) {
	text := bigPGConfig(100_000)
	c := pgConfig(t, string(text))
	if c.Pool(1).Count() != 100_000 {
		t.Fatalf("%d PGs", c.Pool(1).Count())
	}
	pg := c.Pool(1).PG(99_999)
	if want := []meta.OSDNum{999, 1999, 2999}; pg.Num != 99_999 || !reflect.DeepEqual(pg.OSDSet, want) || pg.Primary != 999 {
		t.Errorf("%+v", pg)
	}
	// Sets share memory: growing one must not reach into the next.
	_ = append(c.Pool(1).PG(1).OSDSet, 77)
	if c.Pool(1).PG(2).OSDSet[0] != 2 {
		t.Error("sets of different PGs overlap")
	}
	if string(c.Encode()) != string(text) {
		t.Error("not the same after decoding and encoding")
	}
}

func BenchmarkDecodePGConfig(b *testing.B) {
	text := bigPGConfig(100_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodePGConfig("k", text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodePGConfig(b *testing.B) {
	c, err := DecodePGConfig("k", bigPGConfig(100_000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(c.Encode())))
	}
}

func ExampleDecodePGConfig() {
	c, err := DecodePGConfig("/vitastor/pg/config", []byte(`{"hash":"h","items":{"1":{"1":{"osd_set":["3",""]}}}}`))
	fmt.Println(c.Pool(1).PG(1).OSDSet, c.Pool(1).PG(1).Paused(2))
	fmt.Println(err)
	// Output:
	// [3 0] true
	// etcd key /vitastor/pg/config: field items.1.1.osd_set[1] is "", it must be a whole number from 0 to 18446744073709551615
}
