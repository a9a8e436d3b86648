package placement

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// show prints a tree: names, weights of leaves, children in parentheses.
func show(n *Node) string {
	var parts []string
	for _, c := range n.Children {
		text := c.ID
		if c.Leaf() {
			text = fmt.Sprintf("%s:%g", c.ID, c.WeightTB)
		} else {
			text += "(" + show(c) + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// site is two data centres with two racks each: d1(ra(h1(1 2)) rb(h2(3 4)))
// d2(rc(h3(5 6)) rd(h4(7 8))), all OSDs of 1 TB.
func site() *cluster {
	c := &cluster{
		levels: `{"dc":10,"rack":20}`,
		osds:   map[meta.OSDNum][2]string{},
		nodes: `{"d1":{"level":"dc"},"d2":{"level":"dc"},"ra":{"level":"rack","parent":"d1"},"rb":{"level":"rack","parent":"d1"},
			"rc":{"level":"rack","parent":"d2"},"rd":{"level":"rack","parent":"d2"},"h1":{"level":"host","parent":"ra"},
			"h2":{"level":"host","parent":"rb"},"h3":{"level":"host","parent":"rc"},"h4":{"level":"host","parent":"rd"}}`,
	}
	for num := range meta.OSDNum(8) {
		c.osds[num+1] = [2]string{fmt.Sprintf(`{"size":%d,"host":"h%d"}`, 1<<40, num/2+1), ``}
	}
	return c
}

func (c *cluster) set(num meta.OSDNum, stats, config string) *cluster {
	c.osds[num] = [2]string{stats, config}
	return c
}

func TestWhoIsIn(t *testing.T) {
	const size = `"size":1099511627776`
	recent, old := `"time":"1795175064.500"`, `"time":"1795175064.499"` // exactly, and just over, 600 s ago
	for _, c := range []struct {
		stats, config string
		state         bool
		want          float64 // TB; 0 = out
	}{
		{`{` + size + `}`, ``, true, 1},
		{`{` + size + `}`, ``, false, 0},
		{`{` + size + `,` + recent + `}`, ``, false, 1},
		{`{` + size + `,` + old + `}`, ``, false, 0},
		{`{` + size + `,` + old + `}`, `{"noout":true}`, false, 1},
		{`{}`, `{"noout":true}`, true, 0},
		{`{` + size + `}`, `{"reweight":0}`, true, 0},
		{`{` + size + `}`, `{"reweight":null}`, true, 0},
		{`{` + size + `}`, `{"reweight":""}`, true, 0},
		{`{` + size + `}`, `{"reweight":[]}`, true, 0},
		{`{` + size + `}`, `{"reweight":"0.25"}`, true, 0.25},
		{`{` + size + `}`, `{"reweight":"x"}`, true, 1},
		{`{` + size + `}`, `{"reweight":-1}`, true, 1},
		{`{` + size + `}`, `{"reweight":2}`, true, 1},
		{`{` + size + `}`, `{"reweight":{}}`, true, 1},
	} {
		in := (&cluster{osds: map[meta.OSDNum][2]string{5: {c.stats, c.config}}}).input(t)
		in.OSDs[0].HasState = c.state
		tree := Build(in).Tree(nil)
		n := tree.Find("5")
		if (n != nil) != (c.want > 0) || n != nil && (n.WeightTB != c.want || n.Up != c.state || tree.Root.WeightTB != c.want) {
			t.Errorf("%+v: %+v", c, n)
		}
	}
	in := (&cluster{}).input(t)
	in.OSDs = []OSD{{Num: 1, HasState: true, Config: schema.OSDConfig{Reweight: 1}}, {Num: 2, Stats: &schema.OSDStats{SizeBytes: 1}, HasState: true, Config: schema.OSDConfig{Reweight: math.NaN()}}}
	if got := Build(in).OSDs(); got != nil {
		t.Errorf("in without statistics or weight: %v", got)
	}
}

func TestHierarchy(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes string // instead of site's, if not ""
		edit  func(*cluster)
		want  string
	}{
		{"as configured", "", nil, "d1(ra(h1(1:1 2:1)) rb(h2(3:1 4:1))) d2(rc(h3(5:1 6:1)) rd(h4(7:1 8:1)))"},
		{"hosts only", `{}`, nil, "h1(1:1 2:1) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"an OSD in another host, and one in none", `{"1":{"parent":"h2"},"8":{}}`, nil, "8:1 h1(2:1) h2(1:1 3:1 4:1) h3(5:1 6:1) h4(7:1)"},
		{"OSD 10 after OSD 9", `{}`, func(c *cluster) {
			for _, n := range []meta.OSDNum{10, 9} {
				c.set(n, `{"size":1099511627776,"host":"h1"}`, ``)
			}
		}, "h1(1:1 2:1 9:1 10:1) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"a missing parent", `{"h1":{"level":"host","parent":"nowhere"},"2":{"parent":"nowhere"}}`, nil, "2:1 h1(1:1) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"a parent that is not higher", `{"h1":{"level":"host","parent":"h2"},"h2":{"level":"rack","parent":"h1"},"h3":{"level":"host","parent":"h3"}}`, nil,
			"h2(3:1 4:1 h1(1:1 2:1)) h3(5:1 6:1) h4(7:1 8:1)"},
		{"empty nodes disappear", `{"d1":{"level":"dc"},"ra":{"level":"rack","parent":"d1"},"h1":{"level":"host","parent":"ra"}}`, func(c *cluster) {
			delete(c.osds, 1)
			delete(c.osds, 2)
		}, "h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"levels as strings", `{"d1":{"level":"dc"},"h1":{"level":"host","parent":"d1"}}`, func(c *cluster) { c.levels = `{"dc":"9","host":"0xa"}` },
			"d1(h1(1:1 2:1)) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"a level that is no number", `{"d1":{"level":"dc"},"h1":{"level":"host","parent":"d1"}}`, func(c *cluster) { c.levels = `{"dc":"top"}` },
			"h1(1:1 2:1) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"no host reported", `{}`, func(c *cluster) { c.set(1, `{"size":1099511627776}`, ``) }, "1:1 h1(2:1) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
		{"a host named like an OSD", `{}`, func(c *cluster) { c.set(1, `{"size":1099511627776,"host":"2"}`, ``) }, "1:1 h1(2:1) h2(3:1 4:1) h3(5:1 6:1) h4(7:1 8:1)"},
	} {
		cl := site()
		if c.nodes != "" {
			cl.nodes = c.nodes
		}
		if c.edit != nil {
			c.edit(cl)
		}
		tree := Build(cl.input(t)).Tree(nil)
		if got := show(tree.Root); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestNodes(t *testing.T) {
	tree := Build(site().input(t)).Tree(nil)
	osd := tree.Find("3")
	if osd.At("osd") != osd || osd.At("host").ID != "h2" || osd.At("dc").ID != "d1" || osd.At("room") != nil || osd.At("") != nil || tree.Root.At("dc") != nil {
		t.Error("At")
	}
	if osd.OSD != 3 || osd.Members[0] != osd || tree.Find("d1").WeightTB != 4 || tree.Find("x") != nil || len(tree.Leaves()) != 8 {
		t.Error("nodes")
	}
}

func TestFilters(t *testing.T) {
	size := func(more string) string { return `{"size":1099511627776,"host":"h1"` + more + `}` }
	for _, c := range []struct {
		name   string
		edit   func(*cluster)
		change func(*schema.Pool)
		want   string
	}{
		{"root_node", nil, func(p *schema.Pool) { p.RootNode = "d2" }, "d2(rc(h3(5:1 6:1)) rd(h4(7:1 8:1)))"},
		{"root_node below others", nil, func(p *schema.Pool) { p.RootNode = "rc" }, "d2(rc(h3(5:1 6:1)))"},
		{"root_node is an OSD", nil, func(p *schema.Pool) { p.RootNode = "5" }, "d2(rc(h3(5:1)))"},
		{"root_node does not exist", nil, func(p *schema.Pool) { p.RootNode = "d3" }, ""},
		{"one tag", func(c *cluster) {
			c.set(1, size(``), `{"tags":"nvme"}`).set(2, size(``), `{"tags":["nvme","b"]}`).set(3, size(``), `{"tags":"nvme,b"}`).set(4, size(``), `{"tags":[]}`)
		}, func(p *schema.Pool) { p.OSDTags = []string{"nvme"} }, "d1(ra(h1(1:1 2:1)))"},
		{"all tags", func(c *cluster) { c.set(1, size(``), `{"tags":"nvme"}`).set(2, size(``), `{"tags":["b","nvme"]}`) },
			func(p *schema.Pool) { p.OSDTags = []string{"nvme", "b"} }, "d1(ra(h1(2:1)))"},
		{"root and tags", func(c *cluster) { c.set(1, size(``), `{"tags":"x"}`) },
			func(p *schema.Pool) { p.RootNode, p.OSDTags = "d2", []string{"x"} }, ""},
		{"layout", func(c *cluster) {
			c.set(1, size(`,"data_block_size":131072,"bitmap_granularity":4096,"immediate_commit":"all"`), ``)
			c.set(2, size(`,"data_block_size":65536`), ``).set(3, size(`,"bitmap_granularity":512`), ``)
			c.set(4, size(`,"immediate_commit":"small"`), ``).set(5, size(`,"immediate_commit":"none"`), ``).set(6, size(`,"immediate_commit":"x"`), ``)
		}, func(p *schema.Pool) { p.RootNode = "h1" }, "d1(ra(h1(1:1 6:1)))"},
		{"small", func(c *cluster) {
			c.set(4, size(`,"immediate_commit":"small"`), ``).set(5, size(`,"immediate_commit":"none"`), ``)
		}, func(p *schema.Pool) { p.RootNode, p.Commit = "h1", meta.CommitSmall }, "d1(ra(h1(1:1 2:1 4:1)))"},
		{"none", func(c *cluster) {
			c.set(4, size(`,"immediate_commit":"small"`), ``).set(5, size(`,"immediate_commit":"none"`), ``)
		}, func(p *schema.Pool) { p.RootNode, p.Commit = "h1", meta.CommitNone }, "d1(ra(h1(1:1 2:1 4:1 5:1)))"},
	} {
		cl := site()
		if c.edit != nil {
			c.edit(cl)
		}
		pool := &schema.Pool{BlockBytes: 131072, GranularityBytes: 4096, Commit: meta.CommitAll}
		c.change(pool)
		tree := Build(cl.input(t)).Tree(pool)
		if got := show(tree.Root); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if !(&Node{Tags: []string{"a", "b"}}).HasTags([]string{"b"}) || (&Node{}).HasTags([]string{"b"}) {
			t.Error("HasTags")
		}
	}
}

func TestFold(t *testing.T) {
	for _, c := range []struct{ rules, want string }{
		{"any, osd!=1", "d1(ra(h1(1:1 2:1)) rb(h2(3:1 4:1))) d2(rc(h3(5:1 6:1)) rd(h4(7:1 8:1)))"},
		{"any, host!=1", "d1(ra(h1:2) rb(h2:2)) d2(rc(h3:2) rd(h4:2))"},
		{"any, rack!=1", "d1(ra:2 rb:2) d2(rc:2 rd:2)"},
		{"any, dc!=1", "d1:4 d2:4"},
		{"any, dc=1 host!=1", "d1(ra(h1:2) rb(h2:2)) d2(rc(h3:2) rd(h4:2))"},
		{"any", "d1:4 d2:4"},
	} {
		rules, err := ParseRules(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		tree := Build(site().input(t)).Tree(nil)
		before := show(tree.Root)
		folded := tree.Fold(rules)
		if got := show(folded.Root); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rules, got, c.want)
		}
		checkFolded(t, tree, folded)
		if show(tree.Root) != before {
			t.Error("folding changed the tree")
		}
	}
	// Nodes of different depth: only what has nothing mentioned below is folded.
	cl := site()
	cl.nodes = `{"ra":{"level":"rack"},"h1":{"level":"host","parent":"ra"},"3":{"parent":"ra"},"8":{}}`
	tree := Build(cl.input(t)).Tree(nil)
	rules, _ := ParseRules("any, host!=1")
	folded := tree.Fold(rules)
	if got := show(folded.Root); got != "8:1 h2:1 h3:2 h4:1 ra(3:1 h1:2)" {
		t.Error(got)
	}
	checkFolded(t, tree, folded)
}

// checkFolded: leaves stand for all OSDs, each once, with their weights.
func checkFolded(t *testing.T, tree, folded *Tree) {
	t.Helper()
	var members []*Node
	for _, leaf := range folded.Leaves() {
		sum := 0.0
		for _, m := range leaf.Members {
			sum += m.WeightTB
		}
		if sum != leaf.WeightTB || folded.Find(leaf.ID) != leaf {
			t.Errorf("leaf %s: %g of %g TB", leaf.ID, sum, leaf.WeightTB)
		}
		members = append(members, leaf.Members...)
	}
	byOSD := func(a, b *Node) int { return int(a.OSD) - int(b.OSD) }
	slices.SortFunc(members, byOSD)
	all := tree.Leaves()
	slices.SortFunc(all, byOSD)
	if !reflect.DeepEqual(members, all) || len(folded.byID) > len(tree.byID) {
		t.Errorf("%d members, %d OSDs", len(members), len(all))
	}
	for id := range folded.byID {
		if at := folded.Find(id); at.Parent == nil || at.Parent != folded.Root && folded.Find(at.Parent.ID) != at.Parent {
			t.Errorf("%s is not in the folded tree", id)
		}
	}
}

// The order of the input does not matter.
func TestBuildIsDeterministic(t *testing.T) {
	for range 20 {
		a, b := Build(site().input(t)), Build(site().input(t)) // in the order of a map
		if show(a.Tree(nil).Root) != show(b.Tree(nil).Root) || !slices.Equal(a.OSDs(), b.OSDs()) {
			t.Fatal("two trees of one cluster differ")
		}
	}
}

func BenchmarkBuildAndHash1000(b *testing.B) {
	c := cluster{osds: map[meta.OSDNum][2]string{}}
	for num := range meta.OSDNum(1000) {
		c.osds[num+1] = [2]string{fmt.Sprintf(`{"size":%d,"host":"host%d"}`, 8<<40, num/20), ``}
	}
	in := c.input(b)
	in.OutTime = time.Minute
	for b.Loop() {
		v := Build(in)
		if _, err := v.Hash(&schema.Object{}); err != nil {
			b.Fatal(err)
		}
		v.Tree(nil)
	}
}
