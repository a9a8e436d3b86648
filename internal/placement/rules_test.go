package placement

import (
	"reflect"
	"strconv"
	"strings"
	"testing"

	"vitastor/internal/schema"
)

func TestRulesOf(t *testing.T) {
	seq := func(level, items string) schema.LevelSequence {
		return schema.LevelSequence{Level: level, Items: strings.Split(items, "")}
	}
	for _, c := range []struct {
		name string
		pool schema.Pool
		want string
	}{
		{"default", schema.Pool{PGSize: 3, FailureDomain: "host"}, "any, host!=1, host!=(1, 2)"},
		{"size 1", schema.Pool{PGSize: 1, FailureDomain: "rack"}, "any"},
		{"levels", schema.Pool{PGSize: 6, FailureDomain: "host", LevelPlacement: []schema.LevelSequence{seq("dc", "112233")}},
			"any, dc=1 host!=1, dc!=1 host!=(1, 2), dc=3 host!=(1, 2, 3), dc!=(1, 3) host!=(1, 2, 3, 4), dc=5 host!=(1, 2, 3, 4, 5)"},
		{"interleaved levels", schema.Pool{PGSize: 4, FailureDomain: "osd", LevelPlacement: []schema.LevelSequence{seq("dc", "abab"), seq("rack", "1234")}},
			"any, dc!=1 rack!=1 osd!=1, dc=1 rack!=(1, 2) osd!=(1, 2), dc=2 rack!=(1, 2, 3) osd!=(1, 2, 3)"},
		{"the failure domain overrides its level", schema.Pool{PGSize: 3, FailureDomain: "host", LevelPlacement: []schema.LevelSequence{seq("host", "111"), seq("dc", "112")}},
			"any, dc=1 host!=1, dc!=1 host!=(1, 2)"},
		{"raw", schema.Pool{PGSize: 2, FailureDomain: "host", RawPlacement: "dc=d1\ndc!=d1"}, "dc=d1, dc!=d1"},
	} {
		rules, err := RulesOf(&c.pool)
		if err != nil || rules.String() != c.want || len(rules) != c.pool.PGSize {
			t.Errorf("%s: %s (%v), want %s", c.name, rules, err, c.want)
		}
	}
	for want, pool := range map[string]schema.Pool{
		"raw_placement of pool 7 (p): it has 2 positions, pg_size is 3":         {ID: 7, Name: "p", PGSize: 3, RawPlacement: "any, any"},
		"raw_placement of pool 7 (p): position 1: 1 is not an earlier position": {ID: 7, Name: "p", PGSize: 1, RawPlacement: "host!=1"},
		"level_placement of pool 7 (p): level dc has 2 items, pg_size is 3":     {ID: 7, Name: "p", PGSize: 3, FailureDomain: "host", LevelPlacement: []schema.LevelSequence{seq("dc", "11")}},
	} {
		if _, err := RulesOf(&pool); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestParseRules(t *testing.T) {
	named := func(level string, op Op, args ...Arg) Condition { return Condition{level, op, args} }
	at := func(n int) Arg { return Arg{Position: n} }
	node := func(s string) Arg { return Arg{Node: s} }
	for text, want := range map[string]Rules{
		"any":                           {nil},
		" any ,any\nany,\n any \n":      {nil, nil, nil, nil},
		"any\r\n\r\n  any":              {nil, nil},
		"any, dc=1 host!=1":             {nil, {named("dc", Equal, at(1)), named("host", NotEqual, at(1))}},
		"any, any, host != ( 1, 2 )":    {nil, nil, {named("host", NotEqual, at(1), at(2))}},
		"any, any, host!=(1 2)":         {nil, nil, {named("host", NotEqual, at(1), at(2))}},
		"any, any, host!=(1,\n2,)":      {nil, nil, {named("host", NotEqual, at(1), at(2))}},
		"any, host>1 rack?=1":           {nil, {named("host", Greater, at(1)), named("rack", Prefer, at(1))}},
		`dc="d 1" host!=(h-1.x,"2",2a)`: {{named("dc", Equal, node("d 1")), named("host", NotEqual, node("h-1.x"), node("2"), node("2a"))}},
		"dc=é":                          {{named("dc", Equal, node("é"))}},
		"any=any":                       {{named("any", Equal, node("any"))}},
		`"my level"=x`:                  {{named("my level", Equal, node("x"))}},
		"dc=d1host=x":                   nil,
	} {
		rules, err := ParseRules(text)
		if want == nil {
			if err == nil {
				t.Errorf("%q: %s, want an error", text, rules)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(rules, want) {
			t.Errorf("%q: %#v (%v)", text, rules, err)
			continue
		}
		again, err := ParseRules(rules.String())
		if err != nil || !reflect.DeepEqual(again, rules) {
			t.Errorf("%q is written as %q, read as %v (%v)", text, rules, again, err)
		}
	}
}

func TestWrongRules(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   `position 1: it is empty: write "any" if there are no conditions`,
		", any":                              `position 1: it is empty`,
		"any,,any":                           `position 1: nothing after the comma: write "any"`,
		"any,":                               `position 1: nothing after the comma`,
		"any, host":                          `position 2: after host there must be one of = != > ?=, found the end`,
		"any, host 1":                        `position 2: after host there must be one of = != > ?=, found "1"`,
		"any, host!1":                        `position 2: after host there must be one of = != > ?=, found "!1"`,
		"any, host=0":                        `position 2: 0 is not an earlier position (put the name of a node in quotes)`,
		"any, host=2":                        `position 2: 2 is not an earlier position`,
		"any, host=3, any":                   `position 2: 3 is not an earlier position`,
		"host=99999999999999999999":          `position 1: 99999999999999999999 is not`,
		"any, host=":                         `position 2: there must be a position or a node, found the end`,
		"any, host=\n1":                      `position 2: there must be a position or a node, found "\n1"`,
		"any, host>=1":                       `position 2: there must be a position or a node, found "=1"`,
		"any, host!=()":                      `position 2: there must be a position or a node, found ")"`,
		"any, host!=(,1)":                    `position 2: too many commas`,
		"any, host!=(1,,1)":                  `position 2: too many commas`,
		"any, host!=(1":                      `position 2: there must be a position or a node, found the end`,
		"any, host!=(1,(1))":                 `position 2: there must be a position or a node, found "(1))"`,
		"any host=x":                         `position 1: after any there must be one of`,
		"host=x any":                         `position 1: after any there must be one of`,
		`host="x`:                            `position 1: the quotes at "\"x" must contain a name and be closed`,
		`host=""`:                            `position 1: the quotes at`,
		`=1`:                                 `position 1: there must be a level, found "=1"`,
		`)`:                                  `position 1: there must be a level`,
		strings.Repeat("any\n", 256) + "any": "more than 256 positions",
	} {
		rules, err := ParseRules(text)
		if err == nil || !strings.HasPrefix(err.Error(), want) || rules != nil {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
	if rules, err := ParseRules(strings.Repeat("any\n", 256)); err != nil || len(rules) != 256 {
		t.Errorf("256 positions: %v", err)
	}
}

// ids names nodes, "-" for nil.
func ids(nodes []*Node) string {
	var names []string
	for _, n := range nodes {
		if n == nil {
			names = append(names, "-")
		} else {
			names = append(names, n.ID)
		}
	}
	return strings.Join(names, " ")
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		rules  string // the last position is asked for
		chosen string // leaves
		want   string
	}{
		{"any", "", "1 2 3 4 5 6 7 8"},
		{"any, host!=1", "1", "3 4 5 6 7 8"},
		{"any, host!=1", "-", "1 2 3 4 5 6 7 8"},
		{"any, host=1", "1", "1 2"},
		{"any, host=1", "-", ""},
		{"any, host>1", "-", ""},
		{"any, host?=1", "-", "1 2 3 4 5 6 7 8"},
		{"any, dc=1 host!=1", "1", "3 4"},
		{"any, host!=1 dc=1", "1", "3 4"},
		{"any, any, dc!=(1,2)", "1 5", ""},
		{"any, any, dc?=(1,2) host!=(1,2)", "1 5", "3 4 7 8"},
		{"any, any, dc?=1 host!=(1,2)", "1 3", "5 6 7 8"},
		{"any, any, host!=(1,2) dc?=1", "1 5", "3 4"},
		{"any, any, host=(1,2)", "1 2", "1 2"},
		{"any, any, host=(1,2)", "1 3", ""},
		{"dc=d2", "", "5 6 7 8"},
		{"dc!=d2", "", "1 2 3 4"},
		{"dc!=(d1,d2)", "", ""},
		{"host>h3", "", "7 8"},
		{"host>(h1,h3)", "", "7 8"},
		{"any, osd>1", "5", "6 7 8"},
		{`osd>"6"`, "", "7 8"},
		{"osd!=(\"1\",\"2\") host!=h2", "", "5 6 7 8"},
		{"room!=x", "", ""},
		{"any, room=1", "1", ""},
	} {
		rules, err := ParseRules(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		tree := Build(site().input(t)).Tree(nil)
		var chosen []*Node
		for _, id := range strings.Fields(c.chosen) {
			chosen = append(chosen, tree.Find(id))
		}
		got := tree.Candidates(rules, len(rules), chosen)
		if ids(got) != c.want {
			t.Errorf("%s after %s: %s, want %s", c.rules, c.chosen, ids(got), c.want)
		}
		if !strings.Contains(c.rules, "?=") {
			for _, leaf := range tree.Leaves() {
				all := append(append([]*Node{}, chosen...), leaf)
				if tree.Allows(rules, all) != strings.Contains(" "+c.want+" ", " "+leaf.ID+" ") {
					t.Errorf("%s: %s is allowed: %t", c.rules, ids(all), tree.Allows(rules, all))
				}
			}
		}
	}
	// An OSD in no host can only be where hosts do not matter.
	cl := site()
	cl.nodes = `{"8":{}}`
	tree := Build(cl.input(t)).Tree(nil)
	rules, _ := RulesOf(&schema.Pool{PGSize: 2, FailureDomain: "host"})
	if got := ids(tree.Candidates(rules, 1, nil)); got != "8 1 2 3 4 5 6 7" {
		t.Error(got)
	}
	if got := ids(tree.Candidates(rules, 2, []*Node{tree.Find("8")})); got != "1 2 3 4 5 6 7" {
		t.Error(got)
	}
	if tree.Allows(rules, []*Node{tree.Find("1")}) || !tree.Allows(rules, []*Node{nil, nil}) {
		t.Error("Allows: length, unfilled positions")
	}
	// OSD numbers are compared as numbers, names as texts.
	if compareID("9", "10", true) >= 0 || compareID("h9", "h10", false) <= 0 {
		t.Error("compareID")
	}
}

// Choosing among candidates on a folded tree gives what the rules allow.
func TestCandidatesOfFoldedTree(t *testing.T) {
	tree := Build(site().input(t)).Tree(nil)
	rules, err := RulesOf(&schema.Pool{PGSize: 4, FailureDomain: "host",
		LevelPlacement: []schema.LevelSequence{{Level: "dc", Items: []string{"1", "1", "2", "2"}}}})
	if err != nil {
		t.Fatal(err)
	}
	folded := tree.Fold(rules)
	var found []string
	var choose func(chosen []*Node)
	choose = func(chosen []*Node) {
		if len(chosen) == 4 {
			if !folded.Allows(rules, chosen) {
				t.Errorf("%s is not allowed", ids(chosen))
			}
			found = append(found, ids(chosen))
			return
		}
		for _, n := range folded.Candidates(rules, len(chosen)+1, chosen) {
			choose(append(chosen[:len(chosen):len(chosen)], n))
		}
	}
	choose(nil)
	if len(found) != 8 || found[0] != "h1 h2 h3 h4" || found[7] != "h4 h3 h2 h1" {
		t.Errorf("%d: %s", len(found), found)
	}
}

// FuzzRules: no panic; what is accepted is written in a form that reads the
// same, and only refers to earlier positions.
func FuzzRules(f *testing.F) {
	for _, text := range []string{"any, dc=1 host!=1, dc!=1 host!=(1,2)", "any\nhost?=1\n", `dc="d 1" host>(a b,"2")`, "any=any", "any,\n\nany"} {
		f.Add(text)
	}
	c := site()
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules(text)
		if err != nil {
			return
		}
		again, err := ParseRules(rules.String())
		if err != nil || !reflect.DeepEqual(again, rules) {
			t.Fatalf("%q is written as %q, read as %q (%v)", text, rules, again, err)
		}
		for i, conditions := range rules {
			for _, c := range conditions {
				for _, a := range c.Args {
					if a.Position > i || a.Position < 0 || (a.Position == 0) != (a.Node != "") {
						t.Fatalf("position %d refers to %s", i+1, strconv.Itoa(a.Position))
					}
				}
			}
		}
		if len(rules) > 8 {
			return
		}
		tree := Build(c.input(t)).Tree(nil).Fold(rules)
		var chosen []*Node
		for i := range rules {
			var next *Node
			if list := tree.Candidates(rules, i+1, chosen); len(list) > 0 {
				next = list[0]
			}
			chosen = append(chosen, next)
		}
		if !tree.Allows(rules, chosen) {
			t.Fatalf("%s: candidates %s are not allowed", rules, ids(chosen))
		}
	})
}
