package placement

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

const nowMillis = 1_795_175_664_500

// cluster is etcd as texts.
type cluster struct {
	levels string
	osds   map[meta.OSDNum][2]string // osd/stats, config/osd
	nodes  string
	pools  string
}

func objectOf(t testing.TB, text string) schema.Object {
	t.Helper()
	o, err := schema.DecodeObject("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// input decodes a cluster; all OSDs are up.
func (c *cluster) input(t testing.TB) *Input {
	t.Helper()
	levels := objectOf(t, c.levels)
	in := &Input{Levels: NewLevels(&levels), NowMillis: nowMillis, OutTime: 10 * time.Minute}
	for num, values := range c.osds {
		stats, err := schema.DecodeOSDStats("osd/stats", []byte(values[0]))
		if err != nil {
			t.Fatal(err)
		}
		config, err := schema.DecodeOSDConfig("config/osd", []byte(values[1]))
		if err != nil && !strings.Contains(err.Error(), "tags") {
			t.Fatal(err)
		}
		in.OSDs = append(in.OSDs, OSD{num, &stats, config, true})
	}
	var err error
	if in.Nodes, err = schema.DecodeNodePlacement("config/node_placement", []byte(c.nodes)); err != nil {
		t.Log(err)
	}
	return in
}

func (c *cluster) hashInput(t testing.TB) string {
	t.Helper()
	pools := objectOf(t, c.pools)
	text, err := Build(c.input(t)).HashInput(&pools)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The vectors of monitor.md 3.6, seen by running the reference monitor.
var (
	vector1 = cluster{osds: map[meta.OSDNum][2]string{1: {`{"size":1000,"host":"h1"}`, ``}}}
	vector2 = cluster{
		levels: `{"rack":90}`,
		osds: map[meta.OSDNum][2]string{
			1: {`{"size":1099511627776,"host":"h1"}`, ``},
			2: {`{"size":960197124096,"host":"h2"}`, `{"reweight":0.7}`},
			3: {`{"size":960197124096,"host":"h1"}`, ``},
		},
		nodes: `{"rackA":{"level":"rack"},"3":{"level":"osd","parent":"rackA"},"bad":{"level":"unknown"}}`,
		pools: `{"1":{"name":"p<&>é","scheme":"replicated","pg_size":"2","pg_minsize":1,"pg_count":16,"parity_chunks":0}}`,
	}
)

func TestHashVectors(t *testing.T) {
	for _, c := range []struct {
		cluster    cluster
		text, hash string
	}{
		{vector1, `{"levels":{"host":100,"osd":101},"osd_tree":{"1":{"id":"1","level":"osd","parent":"h1","size":9.094947017729282e-10},"h1":{"children":[],"id":"h1","level":"host","parent":null}},"pools":{}}`,
			"1822ed04b4aac7b7f81625c9c852a0b3d4159d35"},
		{vector2, `{"levels":{"host":100,"osd":101,"rack":90},"osd_tree":{"1":{"id":"1","level":"osd","parent":"h1","size":1},"2":{"id":"2","level":"osd","parent":"h2","size":0.6113059379160404},"3":{"id":"3","level":"osd","parent":"rackA","size":0.8732941970229149},"h1":{"children":[],"id":"h1","level":"host","parent":null},"h2":{"children":[],"id":"h2","level":"host","parent":null},"rackA":{"children":[],"id":"rackA","level":"rack"}},"pools":{"1":{"max_osd_combinations":10000,"name":"p<&>é","pg_count":16,"pg_minsize":1,"pg_size":2,"scheme":"replicated"}}}`,
			"eb006a17240e33f4acffe61df7de2381aa3501b8"},
	} {
		if text := c.cluster.hashInput(t); text != c.text {
			t.Errorf("got  %s\nwant %s", text, c.text)
		}
		pools := objectOf(t, c.cluster.pools)
		if hash, err := Build(c.cluster.input(t)).Hash(&pools); err != nil || hash != c.hash {
			t.Errorf("hash %s (%v), want %s", hash, err, c.hash)
		}
	}
}

// part returns what stands behind a name in the text of the hash.
func part(text, name string) string {
	_, after, _ := strings.Cut(text, `"`+name+`":`)
	return after
}

func TestHashTags(t *testing.T) {
	for tags, want := range map[string]string{
		`"nvme"`:                    `{"nvme":true}`,
		`"a,b"`:                     `{"a,b":true}`,
		`["b","a","b"]`:             `{"a":true,"b":true}`,
		`[]`:                        `{}`,
		`["10","2"]`:                `{"10":true,"2":true}`,
		`[1.50,true,null,1e21]`:     `{"1.5":true,"1e+21":true,"null":true,"true":true}`,
		`""`:                        ``,
		`0`:                         ``,
		`null`:                      ``,
		`false`:                     ``,
		`7`:                         `{"7":true}`,
		`true`:                      `{"true":true}`,
		`["\u20ac","\ud83d\ude00"]`: `{"€":true,"😀":true}`,
	} {
		c := cluster{osds: map[meta.OSDNum][2]string{1: {`{"size":1099511627776,"host":"h"}`, `{"tags":` + tags + `}`}}}
		osd, _, _ := strings.Cut(part(c.hashInput(t), "1"), `},"h"`)
		got := part(osd, "tags")
		if got != want {
			t.Errorf("tags %s: %s, want %s (%s)", tags, got, want, osd)
		}
	}
}

func TestHashParents(t *testing.T) {
	for _, c := range []struct{ nodes, osd, node string }{
		{`{}`, `,"parent":"h"`, `"level":"host","parent":null`},
		{`{"1":{"parent":"x"},"h":{"level":"host","parent":"missing"}}`, `,"parent":"x"`, `"level":"host","parent":"missing"`},
		{`{"1":{"parent":null},"h":{"level":"host","parent":null}}`, `,"parent":null`, `"level":"host","parent":null`},
		{`{"1":{"parent":""},"h":{"level":"host","parent":""}}`, `,"parent":""`, `"level":"host","parent":""`},
		{`{"1":{"parent":5.0},"h":{"level":"host","parent":5.0}}`, `,"parent":5`, `"level":"host","parent":5`},
		{`{"1":{},"h":{"level":"host","x":1}}`, ``, `"level":"host"`},
		{`{"1":{"level":"rack"},"h":{"level":"rack"}}`, ``, `"level":"host","parent":null`}, // unknown level: the node's entry is ignored
		{`{"h":{"level":"osd","parent":"1"}}`, `,"parent":"h"`, `"level":"osd","parent":"1"`},
	} {
		cl := cluster{osds: map[meta.OSDNum][2]string{1: {`{"size":1099511627776,"host":"h"}`, ``}}, nodes: c.nodes}
		want := fmt.Sprintf(`{"1":{"id":"1","level":"osd"%s,"size":1},"h":{"children":[],"id":"h",%s}},"pools":{}}`, c.osd, c.node)
		if got := part(cl.hashInput(t), "osd_tree"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.nodes, got, want)
		}
	}
	// Entries for OSDs that are not in, and repeated ones.
	cl := cluster{osds: map[meta.OSDNum][2]string{1: {`{"size":0,"host":"h"}`, ``}},
		nodes: `{"1":{"parent":"r"},"2":{"parent":"r"},"r":{"level":"host"},"r":{"level":"none"},"q":5}`}
	if got := part(cl.hashInput(t), "osd_tree"); got != `{},"pools":{}}` {
		t.Errorf("tree of nothing: %s", got)
	}
}

func TestHashLevels(t *testing.T) {
	for levels, want := range map[string]string{
		``:                                  `{"host":100,"osd":101}`,
		`{"rack":90,"dc":"80"}`:             `{"dc":"80","host":100,"osd":101,"rack":90}`,
		`{"host":"100","osd":1.5e2,"a":{}}`: `{"a":{},"host":"100","osd":150}`,
	} {
		c := cluster{levels: levels}
		if got, _, _ := strings.Cut(part(c.hashInput(t), "levels"), `,"osd_tree"`); got != want {
			t.Errorf("levels %s: %s, want %s", levels, got, want)
		}
	}
}

func TestHashPools(t *testing.T) {
	const same = `"pg_count":1,"pg_minsize":1,"pg_size":1}}`
	for pools, want := range map[string]string{
		`{"10":{"pg_size":1},"2":{}}`: `{"10":{"max_osd_combinations":10000,"pg_count":null,"pg_minsize":null,"pg_size":1},` +
			`"2":{"max_osd_combinations":10000,"pg_count":null,"pg_minsize":null,"pg_size":null}}`,
		`{"1":{"pg_size":"3","pg_minsize":2.9,"pg_count":" 0x10 "}}`:                                     `{"1":{"max_osd_combinations":10000,"pg_count":16,"pg_minsize":2,"pg_size":3}}`,
		`{"1":{"pg_size":"x","pg_minsize":null,"pg_count":[5]}}`:                                         `{"1":{"max_osd_combinations":10000,"pg_count":5,"pg_minsize":0,"pg_size":null}}`,
		`{"1":{"pg_size":1,"pg_minsize":1,"pg_count":1,"max_osd_combinations":"500.5"}}`:                 `{"1":{"max_osd_combinations":500,` + same,
		`{"1":{"pg_size":1,"pg_minsize":1,"pg_count":1,"parity_chunks":"2.5","max_osd_combinations":0}}`: `{"1":{"max_osd_combinations":10000,"parity_chunks":2,` + same,
		`{"1":{"pg_size":1,"pg_minsize":1,"pg_count":1,"parity_chunks":"0"}}`:                            `{"1":{"max_osd_combinations":10000,` + same,
		`{"1":{"pg_size":1,"pg_minsize":1,"pg_count":1,"z":[1.0,{"b":1,"a":"\u00e9\/"}],"block_size":"128k"}}`: `{"1":{"block_size":"128k","max_osd_combinations":10000,` +
			`"pg_count":1,"pg_minsize":1,"pg_size":1,"z":[1,{"a":"é/","b":1}]}}`,
	} {
		c := cluster{pools: pools}
		if got := part(c.hashInput(t), "pools"); got != want+"}" {
			t.Errorf("pools %s:\n got %s\nwant %s}", pools, got, want)
		}
	}
}

// What does not enter the hash does not change it.
func TestHashIgnores(t *testing.T) {
	hash := func(stats, config string, state bool) string {
		c := cluster{osds: map[meta.OSDNum][2]string{1: {stats, config}}}
		in := c.input(t)
		in.OSDs[0].HasState = state
		text, err := Build(in).Hash(&schema.Object{})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	base := hash(`{"size":1099511627776,"host":"h"}`, ``, true)
	for _, same := range []string{
		hash(`{"size":1099511627776,"host":"h","data_block_size":4096,"immediate_commit":"none","free":1}`, ``, true),
		hash(`{"size":1099511627776,"host":"h","time":"1795175664.500"}`, ``, false),
		hash(`{"size":1099511627776,"host":"h"}`, `{"noout":true,"reweight":7,"x":1}`, false),
	} {
		if same != base {
			t.Error("the hash changed")
		}
	}
	for _, other := range []string{
		hash(`{"size":1099511627777,"host":"h"}`, ``, true),
		hash(`{"size":1099511627776,"host":"h2"}`, ``, true),
		hash(`{"size":1099511627776,"host":"h"}`, `{"reweight":0.5}`, true),
		hash(`{"size":1099511627776,"host":"h"}`, ``, false), // out
	} {
		if other == base {
			t.Error("the hash did not change")
		}
	}
}

func TestNumberFormat(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", 1: "1", -1.5: "-1.5", 100: "100", 0.1: "0.1", 1e20: "100000000000000000000", 123456789012345680000: "123456789012345680000",
		999999999999999900000: "999999999999999900000", 1e21: "1e+21", 1.5e21: "1.5e+21", 1e100: "1e+100", -1e-7: "-1e-7",
		1e-6: "0.000001", 1.25e-6: "0.00000125", 9.99e-7: "9.99e-7", 1e-10: "1e-10", 9.094947017729282e-10: "9.094947017729282e-10",
		5e-324: "5e-324", 1.7976931348623157e308: "1.7976931348623157e+308", 9007199254740993: "9007199254740992", 0.30000000000000004: "0.30000000000000004",
	} {
		if got := string(appendNumber(nil, f)); got != want {
			t.Errorf("%g: %s, want %s", f, got, want)
		}
	}
}

func TestNumberConversion(t *testing.T) {
	for raw, want := range map[string]string{
		`null`: "0", `true`: "1", `false`: "0", `5`: "5", `-0`: "0", `1e999`: "Infinity", `{}`: "NaN", `[]`: "0", `[5]`: "5", `["7"]`: "7",
		`[[["0x10"]]]`: "16", `[null]`: "0", `[true]`: "NaN", `[1,2]`: "NaN", `[{}]`: "NaN", `""`: "0", `" \t\n\u00a0\ufeff"`: "0", `"\u0085"`: "NaN",
		`" 12 "`: "12", `"1 2"`: "NaN", `"1.5"`: "1.5", `".5"`: "0.5", `"5."`: "5", `"."`: "NaN", `"+5"`: "5", `"--5"`: "NaN", `"1e3"`: "1000", `"1e"`: "NaN",
		`"010"`: "10", `"0x1F"`: "31", `"0XfF"`: "255", `"0o17"`: "15", `"0b101"`: "5", `"0b2"`: "NaN", `"0x"`: "NaN", `"-0x1"`: "NaN", `"0x-1"`: "NaN", `"0x1_0"`: "NaN",
		`"0xffffffffffffffffff"`: "4.722366482869645e+21", `"Infinity"`: "Infinity", `"-Infinity"`: "-Infinity", `"+Infinity"`: "Infinity", `"+-Infinity"`: "NaN",
		`"inf"`: "NaN", `"nan"`: "NaN", `"1_000"`: "NaN", `"1e400"`: "Infinity", `"-1e400"`: "-Infinity", `"1e-400"`: "0", `"0x1p4"`: "NaN", `"5px"`: "NaN", `"٣"`: "NaN",
	} {
		if got := textOf(numberOf(json.RawMessage(raw))); got != want {
			t.Errorf("Number(%s) = %s, want %s", raw, got, want)
		}
	}
	if got := textOf(numberOf(json.RawMessage(`[`))); got != "NaN" {
		t.Errorf("not JSON: %s", got)
	}
}

func TestCanonical(t *testing.T) {
	for raw, want := range map[string]string{
		` { "b" : 1 , "a" : [ ] , "" : { } } `:       `{"":{},"a":[],"b":1}`,
		`{"a":1,"a":2,"b":{"c":1,"c":[]}}`:           `{"a":2,"b":{"c":[]}}`,
		`{"10":1,"2":2,"1":3}`:                       `{"1":3,"10":1,"2":2}`,
		`{"\uffff":1,"\ud83d\ude00":2,"z":3}`:        `{"z":3,"😀":2,"` + "\uffff" + `":1}`, // UTF-16: the pair begins with d83d
		`"\u003c\u003e\u0026\u2028\u007f<>&"`:        "\"<>&\u2028\x7f<>&\"",
		`"\b\t\n\f\r\u0000\u001f\"\\\/"`:             `"\b\t\n\f\r\u0000\u001f\"\\/"`,
		`"\ud800x\udc00\ud800\ud800\udc00"`:          `"\ud800x\udc00\ud800` + "\U00010000" + `"`,
		`"\uD83D\uDE00"`:                             `"😀"`,
		`[1.0,-0,0.0,1E2,1e-7,12345678901234567890]`: `[1,0,0,100,1e-7,12345678901234567000]`,
		`[1e999,true,false,null]`:                    `[null,true,false,null]`,
		"\"\xff\"":                                   "\"\ufffd\"",
	} {
		got, err := Canonical([]byte(raw))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s (%v), want %s", raw, got, err, want)
		}
	}
	if _, err := Canonical([]byte(`{"a"`)); err == nil {
		t.Error("not JSON, but no error")
	}
}

// FuzzCanonical: the result is JSON, stable, and has the same content.
func FuzzCanonical(f *testing.F) {
	f.Add([]byte(`{"b":[1.50,"\ud800\"",{"10":null,"2":true}],"a":1e-7}`))
	f.Add([]byte(`[[],{},"",0,-0,1e21,"\u0000é😀"]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := Canonical(data)
		if err != nil {
			if json.Valid(data) {
				t.Fatalf("%s: %v", data, err)
			}
			return
		}
		twice, err := Canonical(once)
		if err != nil || string(twice) != string(once) {
			t.Fatalf("%s: %s, then %s (%v)", data, once, twice, err)
		}
		v, _ := parseJSON(data)
		numberOf(data)
		textOf(v)
		truthy(v)
	})
}
