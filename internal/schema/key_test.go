package schema

import (
	"testing"

	"vitastor/internal/meta"
)

func TestPrefix(t *testing.T) {
	for prefix, want := range map[string]string{
		"": "/vitastor", "/vitastor": "/vitastor", "vitastor": "/vitastor", "/vitastor/": "/vitastor",
		"//a///b//": "/a/b", "/": "", "a/b": "/a/b",
	} {
		k := NewKeys(prefix)
		if k.Prefix() != want || k.Pools() != want+"/config/pools" {
			t.Errorf("%q: %q, %q", prefix, k.Prefix(), k.Pools())
		}
	}
}

func TestKeysAndParse(t *testing.T) {
	k := NewKeys("/p")
	pg, inode := meta.PG{Pool: 2, Num: 30}, meta.MakeInode(65535, meta.MaxInodeNumber)
	for key, want := range map[string]Key{
		k.Global():                  {Kind: KindGlobal},
		k.NodePlacement():           {Kind: KindNodePlacement},
		k.Pools():                   {Kind: KindPools},
		k.OSDConfig(3):              {Kind: KindOSDConfig, OSD: 3},
		k.InodeConfig(inode):        {Kind: KindInodeConfig, Pool: 65535, Number: meta.MaxInodeNumber},
		k.ImageIndex("a/b@c/"):      {Kind: KindImageIndex, Name: "a/b@c/"},
		k.MaxID(1):                  {Kind: KindMaxID, Pool: 1},
		k.OSDState(1<<64 - 1):       {Kind: KindOSDState, OSD: 1<<64 - 1},
		k.OSDStats(3):               {Kind: KindOSDStats, OSD: 3},
		k.OSDSpace(3):               {Kind: KindOSDSpace, OSD: 3},
		k.InodeIO(3):                {Kind: KindInodeIO, OSD: 3},
		k.PGConfig():                {Kind: KindPGConfig},
		k.PGState(pg):               {Kind: KindPGState, Pool: 2, PG: 30},
		k.PGHistory(pg):             {Kind: KindPGHistory, Pool: 2, PG: 30},
		k.PGStats(pg):               {Kind: KindPGStats, Pool: 2, PG: 30},
		k.LegacyPGStats(pg):         {Kind: KindLegacyPGStats, Pool: 2, PG: 30},
		k.LastCleanPGs():            {Kind: KindLastCleanPGs},
		k.MonMaster():               {Kind: KindMonMaster},
		k.MonMember("90746af"):      {Kind: KindMonMember, Name: "90746af"},
		k.Stats():                   {Kind: KindStats},
		k.InodeStats(inode):         {Kind: KindInodeStats, Pool: 65535, Number: meta.MaxInodeNumber},
		"/p/inode/stats/1/0":        {Kind: KindInodeStats, Pool: 1},
		k.PoolStats(1):              {Kind: KindPoolStats, Pool: 1},
		k.LegacyPGConfig():          {Kind: KindLegacyPGConfig},
		"/p/osd/inodestats/12":      {Kind: KindInodeIO, OSD: 12},
		"/p/history/last_clean_pgs": {Kind: KindLastCleanPGs},
	} {
		got, ok := k.Parse(key)
		if !ok || got != want {
			t.Errorf("%s: %+v, %v", key, got, ok)
		}
	}
	key, _ := k.Parse(k.PGState(pg))
	if key.PGID() != pg {
		t.Error("PGID")
	}
	if key, _ = k.Parse(k.InodeStats(inode)); key.Inode() != inode {
		t.Error("Inode")
	}
}

func TestBadKeys(t *testing.T) {
	k := NewKeys("/p")
	for _, key := range []string{
		"", "/p", "/p/", "/q/stats", "/p/stats/", "/pstats", "/p/config/global/", "/p/config/other",
		"/p/osd/state/", "/p/osd/state/0", "/p/osd/state/01", "/p/osd/state/1x", "/p/osd/state/+1", "/p/osd/state/1/2",
		"/p/osd/state/18446744073709551616", "/p/osd/state/99999999999999999999999",
		"/p/pg/state/1", "/p/pg/state/1/", "/p/pg/state/1/0", "/p/pg/state/65536/1", "/p/pg/state/1/4294967296",
		"/p/pg/state/1/2/3", "/p/config/inode/1/0", "/p/inode/stats/1/00", "/p/config/inode/1/281474976710656",
		"/p/config/inode/0/1", "/p/index/image/", "/p/index/maxid/0", "/p/mon/member/", "/p/mon/member/xyz", "/p/mon/member/AB",
	} {
		if got, ok := k.Parse(key); ok || got != (Key{}) {
			t.Errorf("%q accepted as %+v", key, got)
		}
	}
}

func TestRanges(t *testing.T) {
	k := NewKeys("/p")
	for _, c := range []struct {
		got  Range
		want Range
	}{
		{k.All(), Range{"/p/", "/p0"}},
		{k.Config(), Range{"/p/config/", "/p/config0"}},
		{k.OSDStates(), Range{"/p/osd/state/", "/p/osd/state0"}},
		{k.PGs(), Range{"/p/pg/", "/p/pg0"}},
		{k.Kind(KindPGHistory), Range{"/p/pg/history/", "/p/pg/history0"}},
		{k.Pool(KindPGStats, 12), Range{"/p/pgstats/12/", "/p/pgstats/120"}},
	} {
		if c.got != c.want {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
	r := k.PGs()
	for key, want := range map[string]bool{"/p/pg/config": true, "/p/pgstats/1/1": false, "/p/pg0": false, "/p/osd": false} {
		if r.Contains(key) != want {
			t.Errorf("%s in %v: %v", key, r, !want)
		}
	}
	// A pool must not catch its neighbour with one more digit.
	if k.Pool(KindPGStats, 1).Contains(k.PGStats(meta.PG{Pool: 10, Num: 1})) {
		t.Error("pool 1 contains pool 10")
	}
	if KindPools.String() != "config/pools" || Kind(200).String() != "unknown key" {
		t.Error("names of kinds")
	}
}

// FuzzParseKey: a parsed key is exactly what the builder makes of its parts.
func FuzzParseKey(f *testing.F) {
	for _, g := range golden {
		f.Add(g.key)
	}
	k := NewKeys("/p")
	f.Fuzz(func(t *testing.T, path string) {
		key, ok := k.Parse("/p/" + path)
		if !ok {
			return
		}
		var back string
		switch catalogue[key.Kind].arg {
		case argNone:
			back = k.plain(key.Kind)
		case argOSD:
			back = k.one(key.Kind, uint64(key.OSD))
		case argPool:
			back = k.one(key.Kind, uint64(key.Pool))
		case argPG:
			back = k.two(key.Kind, key.Pool, uint64(key.PG))
		case argInode, argInodeZero:
			back = k.two(key.Kind, key.Pool, key.Number)
		default:
			back = k.plain(key.Kind) + key.Name
		}
		if back != "/p/"+path {
			t.Errorf("%q parsed as %+v, that is %q", path, key, back)
		}
	})
}
