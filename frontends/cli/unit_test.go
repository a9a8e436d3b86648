package cli

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

func TestNumbersForPeople(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{humanSize(uint64(0)), "0 B"}, {humanSize(uint64(1023)), "1023 B"}, {humanSize(uint64(20 << 30)), "20 G"},
		{humanSize(uint64(12<<30 + 307<<20)), "12.3 G"}, {humanSize(1536.0), "1.5 K"}, {humanSize(uint64(3 << 40)), "3 T"},
		{shortSize(131072), "128k"}, {shortSize(4096), "4k"}, {shortSize(100 << 30), "100G"}, {shortSize(512), "512"}, {shortSize(1 << 20), "1M"}, {shortSize(0), "0"},
		{humanCount(7900), "7.9 K"}, {humanCount(1200345), "1.2 M"}, {humanCount(999), "999"},
		{fraction(0), "0"}, {fraction(0.5), "0.5"}, {fraction(37.289), "37.29"}, {fraction(99.999), "100"}, {fraction(-0.0001), "0"}, {fraction(120), "120"},
		{latency(99), "99 us"}, {latency(1500), "1.50 ms"}, {latency(700000), "0.70 s"},
		{speed(28.4 * (1 << 20)), "28.4 MB/s"}, {speed(0), "0B/s"}, {speed(353.9 * 1024), "353.9 KB/s"},
		{bar(0, 0, 0), ""}, {bar(15, 30, 0), " [===============>              ] 50%"},
		{bar(10, 20, 10*time.Second), " [===============>              ] 50% 10s left"},
		{bar(30, 30, time.Minute), " [==============================] 100%"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	for s, want := range map[string]uint64{"1": 1, "0x10": 16, "010": 8, "10G": 10 << 30, "4k": 4096, "1T": 1 << 40, "0x2m": 2 << 20} {
		if n, ok := parseSize(s); !ok || n != want {
			t.Errorf("parseSize(%s) = %d %v", s, n, ok)
		}
	}
	for _, s := range []string{"", "k", "zz", "-1", "1_000", "1kk", "99999999999T", "1.5G"} {
		if n, ok := parseSize(s); ok {
			t.Errorf("parseSize(%s) = %d", s, n)
		}
	}
}

func TestEncodeJSON(t *testing.T) {
	v := object{"b": []any{1, "x\n\"\\\x01\u2028é/", true, nil, 0.5}, "a": object{}, "c": json.RawMessage(`{"z":1,"y":[1.50,"2"]}`),
		"d": []meta.OSDNum{1, 2}, "e": []string{}, "f": 0.068934121000000001, "g": uint64(1 << 63), "h": 0.37289, "i": 2.0, "j": json.RawMessage(nil)}
	want := `{"a": {}, "b": [1, "x\n\"\\\u0001\u2028é/", true, null, 0.5], "c": {"y": [1.50, "2"], "z": 1}, "d": [1, 2], "e": [], ` +
		`"f": 0.068934121000000001, "g": 9223372036854775808, "h": 0.37289, "i": 2, "j": null}`
	if got := encodeJSON(v); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if !json.Valid([]byte(encodeJSON(v))) {
		t.Error("not valid")
	}
}

func TestParseLine(t *testing.T) {
	l, err := parseLine([]string{"--json", "--some-opt", "1", "create", "-s", "10G", "--progress", "0", "img", "-p", "x", "-f", "--osd=1,2", "--last"})
	if err != nil || !slices.Equal(l.words, []string{"create", "img"}) {
		t.Fatalf("%v %v", l, err)
	}
	want := map[string]string{"json": "1", "some_opt": "1", "size": "10G", "progress": "0", "pool": "x", "force": "1", "osd": "1,2", "last": ""}
	if fmt.Sprint(l.options) != fmt.Sprint(want) {
		t.Errorf("%v", l.options)
	}
	if !l.flag("json") || l.flag("progress") || l.flag("none") || l.size("size") != 10<<30 || l.arg(7) != "" {
		t.Error("values")
	}
	if _, err := parseLine([]string{"-x"}); err == nil || errnoOf(err) != 22 {
		t.Errorf("-x: %v", err)
	}
	if l, _ := parseLine([]string{"ls", "--", "--json", "-l"}); len(l.words) != 3 {
		t.Errorf("after --: %v", l.words)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add("--json create -s 1G a")
	f.Add("-- --x -y")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Fields(text)
		l, err := parseLine(args)
		if err == nil && len(l.words)+len(l.options) > len(args) {
			t.Errorf("%q became %v", args, l)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b?", "axxbc")
	f.Add(`\*`, "*")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := glob(pattern, name)
		if strings.ContainsAny(pattern, "[]") || strings.Contains(name, "/") || strings.HasSuffix(pattern, `\`) ||
			strings.ContainsFunc(pattern+name, func(r rune) bool { return r > 127 }) {
			return // path.Match means something else by these
		}
		if want, err := path.Match(pattern, name); err == nil && got != want {
			t.Errorf("glob(%q, %q) = %v", pattern, name, got)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{{"*", "", true}, {"a*", "abc", true}, {"a*c", "abd", false}, {"*b*", "abc", true}, {"?", "ab", false}, {`a\*`, "a*", true}, {`a\*`, "ab", false},
		{"*@*", "img@snap", true}, {"a*b*c", "aXbYbZc", true}, {"", "", true}, {"", "x", false}, {"[a]", "[a]", true},
		{strings.Repeat("*a", 30), strings.Repeat("a", 200) + "b", false}} {
		if got := glob(c.pattern, c.name); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

func FuzzParseObjects(f *testing.F) {
	f.Add("0x1000000000001:0x20000 part 0 on OSD 1 inconsistent\n")
	f.Add(`[{"inode":"0x1000000000001","stripe":"0x20001"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, o := range parseObjects(text) {
			if o.Inode == 0 || o.Stripe&meta.RoleMask != 0 {
				t.Errorf("%q gives %v", text, o)
			}
		}
	})
}

func TestParseObjects(t *testing.T) {
	want := []meta.ObjectID{{Inode: 1<<48 | 1, Stripe: 0x20000}, {Inode: 1<<48 | 2, Stripe: 0}}
	for _, text := range []string{"0x1000000000001:0x20000 0x1000000000002:0 0x1000000000001:0x20001",
		"0x1000000000001:0x20000 part 0 on OSD 1 inconsistent\n0x1000000000002:0x0 part 1 on OSD 2\n",
		`[{"inode":"0x1000000000001","stripe":"0x20000","part":0},` + "\n" + `{"inode":281474976710658,"stripe":0}]`} {
		if got := parseObjects(text); !slices.Equal(got, want) {
			t.Errorf("%s: %v", text, got)
		}
	}
	if got := parseObjects("zz :: 1: :2"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestStateFilter(t *testing.T) {
	active, degraded := meta.PGActive, meta.PGActive|meta.PGDegraded
	for text, want := range map[string][3]bool{ // active, active+degraded, offline
		"active": {true, true, false}, "^active": {false, false, true}, "active+degraded": {false, true, false}, "!active+degraded": {true, false, true}, "offline": {false, false, true}} {
		f, err := parseStateFilter(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]bool{f.matches(active), f.matches(degraded), f.matches(meta.PGOffline)}; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, text := range []string{"", "foo", "active+", "active,degraded"} {
		if _, err := parseStateFilter(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// What the removal of OSDs does to one PG.
func TestEffectOn(t *testing.T) {
	replicated := &schema.Pool{Scheme: meta.Replicated, PGSize: 3, PGMinSize: 2}
	ec := &schema.Pool{Scheme: meta.EC, PGSize: 4, ParityChunks: 2, PGMinSize: 3}
	set := func(n ...meta.OSDNum) []meta.OSDNum { return n }
	for _, c := range []struct {
		pool            *schema.Pool
		target, history []meta.OSDNum
		osds            []meta.OSDNum
		want            effect
	}{
		{replicated, set(1, 2, 3), nil, set(4), noEffect},
		{replicated, set(1, 2, 3), nil, set(3), degraded},
		{replicated, set(1, 2, 3), nil, set(3, 2), offline},
		{replicated, set(1, 2, 3), nil, set(3, 2, 1), incomplete},
		{replicated, set(1, 2, 0), nil, set(1), offline},
		{replicated, set(1, 2, 3), set(4, 5), set(4), hasDegraded},
		{replicated, set(1, 2, 3), set(4, 5), set(4, 5), incomplete},
		{replicated, set(1, 2, 3), set(4, 5), set(4, 1), degraded},
		{ec, set(1, 2, 3, 4), nil, set(1), degraded},
		{ec, set(1, 2, 3, 4), nil, set(1, 2), offline},
		{ec, set(1, 2, 3, 4), nil, set(1, 2, 3), incomplete},
	} {
		if got := effectOn(c.pool, c.target, [][]meta.OSDNum{c.history}, c.osds); got != c.want {
			t.Errorf("set %v, history %v without %v: %v, want %v", c.target, c.history, c.osds, effectNames[got], effectNames[c.want])
		}
	}
}

// family is a state of images whose parents are given by name; inode numbers
// are in order.
func family(parents ...[2]string) *state {
	s := &state{inodes: map[meta.Inode]*schema.SeenInode{}}
	byName := map[string]meta.Inode{}
	for i, p := range parents {
		id := meta.MakeInode(1, uint64(i+1))
		byName[p[0]] = id
		s.order = append(s.order, id)
		s.inodes[id] = &schema.SeenInode{InodeConfig: schema.InodeConfig{ID: id, Name: p[0]}}
	}
	for _, p := range parents {
		s.inodes[byName[p[0]]].Parent = byName[p[1]]
	}
	return s
}

func names(chain []*schema.SeenInode) (list []string) {
	for _, l := range chain {
		list = append(list, l.Name)
	}
	return list
}

func TestDeepestChain(t *testing.T) {
	s := family([2]string{"a", ""}, [2]string{"a@1", "a"}, [2]string{"a@2", "a@1"}, [2]string{"b", "a@1"}, [2]string{"c", ""}, [2]string{"x", "a@2"})
	for pattern, want := range map[string]string{
		"a*": "[a@2 a@1 a]", "*": "[x a@2]" /* b needs a@1 too */, "c": "[c]", "zz": "[]", "a": "[a]", "?": "[x]"} {
		r := &run{line: &line{words: []string{pattern}, options: map[string]string{"matching": "1"}}}
		if got := fmt.Sprint(names(r.deepestChain(s))); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	if got := (&run{line: &line{}}).deepestChain(s); got != nil {
		t.Errorf("no patterns: %v", names(got))
	}
}

// A ring of parents, which only a hand can make, is told and never loops.
func TestRings(t *testing.T) {
	s := family([2]string{"a", "c"}, [2]string{"b", "a"}, [2]string{"c", "b"}, [2]string{"d", ""})
	if _, err := s.chainOf(s.image("d"), s.image("a")); errnoOf(err) != 9 {
		t.Errorf("%v", err)
	}
	var list []*imageInfo
	for _, id := range s.order {
		list = append(list, &imageInfo{id: id, inode: s.inodes[id]})
	}
	if ordered, _ := imageTree(list); len(ordered) != 4 {
		t.Errorf("%d images in the tree", len(ordered))
	}
	placed := []schema.PlacedNode{{Name: "x", Level: "host", Parent: "y"}, {Name: "y", Level: "rack", Parent: "x"}, {Name: "z", Level: "rack", Parent: "z"}}
	if tree := treeOf(nil, placed); len(tree) < 1 || len(tree) > 3 {
		t.Errorf("%d nodes", len(tree))
	}
}

// Options that pools are made of.
func TestPoolSpec(t *testing.T) {
	for args, want := range map[string]string{
		"-s 2 -n 4": `{"name": "p", "pg_count": 4, "pg_minsize": 1, "pg_size": 2, "scheme": "replicated"}`,
		"-s 3 -n 4 --osd-tags a,b --local_reads primary": `{"name": "p", "osd_tags": ["a", "b"], "pg_count": 4, "pg_minsize": 2, "pg_size": 3, "scheme": "replicated"}`,
		"--ec 4+2 -n 8":                             `{"name": "p", "parity_chunks": 2, "pg_count": 8, "pg_minsize": 5, "pg_size": 6, "scheme": "ec"}`,
		"--scheme xor -s 3 -n 8":                    `{"name": "p", "pg_count": 8, "pg_minsize": 2, "pg_size": 3, "scheme": "xor"}`,
		"-s 2 -n 4 --used_for_fs m --block_size 1M": `{"block_size": 1048576, "name": "p", "pg_count": 4, "pg_minsize": 1, "pg_size": 2, "scheme": "replicated", "used_for_app": "fs:m"}`,
		"-s 2 -n 4 --level_placement dc=12,host=12": `{"level_placement": {"dc": "12", "host": "12"}, "name": "p", "pg_count": 4, "pg_minsize": 1, "pg_size": 2, "scheme": "replicated"}`,
	} {
		l, _ := parseLine(strings.Fields(args))
		spec, err := (&run{line: l}).poolOptions()
		if err != nil {
			t.Fatal(args, err)
		}
		spec["name"] = "p"
		spec.fill()
		if err := spec.check(); err != nil {
			t.Fatal(args, err)
		}
		spec.tidy()
		if got := encodeJSON(object(spec)); got != want {
			t.Errorf("%s: %s", args, got)
		}
	}
}

// Every command has help and is found by all its names.
func TestCommands(t *testing.T) {
	seen := map[string]bool{}
	for i := range commands {
		c := &commands[i]
		for _, n := range c.names {
			if seen[n] || findCommand(n) != c {
				t.Errorf("%s is not unique", n)
			}
			seen[n] = true
		}
		if c.short == "" || strings.HasSuffix(c.short, ".") || c.run == nil {
			t.Errorf("%s: help", c.names[0])
		}
		for _, o := range c.options {
			if (o.value == "") != slices.Contains(flagOptions, o.name) && o.doc != "" {
				t.Errorf("%s --%s: takes a value or not?", c.names[0], o.name)
			}
		}
	}
	for _, n := range strings.Fields("status df ls create snap-create modify rm rm-data flatten merge-data dd create-pool modify-pool ls-pools rm-pool osd-tree osds modify-osd rm-osd pgs describe fix alloc-osd top") {
		if !seen[n] {
			t.Errorf("%s is missing", n)
		}
	}
}

// What is left after a removal, and what to do about it. (Our OSDs leave nothing
// on dead ones; those of the reference do.)
func TestRemovalFailure(t *testing.T) {
	m := &removal{inode: meta.MakeInode(1, 7), total: 5, removed: 3, errors: 2, firstErr: "object at offset 4096: EIO",
		inactive: []meta.PGNum{4, 2}, dead: map[meta.OSDNum]bool{9: true, 3: true}, leftOnDead: true}
	f, _ := m.failure().(*failure)
	want := "Inode 7 from pool 1 is not removed completely: PGs 2, 4 are not active: repeat the command when they are; " +
		"2 objects could not be removed (object at offset 4096: EIO): repeat the command; data may be left on OSDs 3, 9 that are down: " +
		"start them and repeat the command, or use --down-ok if they will never come back"
	if f == nil || f.errno != 5 || f.text != want {
		t.Errorf("%v", f)
	}
	if got := encodeJSON(f.data); got != `{"error_count": 2, "inactive_osds": [3, 9], "inactive_pgs": [2, 4], "removed_objects": 3, "total_objects": 5}` {
		t.Errorf("%s", got)
	}
	m = &removal{leftOnDead: true, opts: dataOptions{downOK: true}}
	if err := m.failure(); err != nil {
		t.Errorf("--down-ok: %v", err)
	}
}
