package schema

import (
	"math"
	"strings"
	"testing"
	"time"
)

// mixtures are the number/string mixtures of etcd.md 1.1 and what they are
// written as afterwards.
var mixtures = []struct {
	name       string
	kind       Kind
	text, want string
}{
	{"pg/config numbers", KindPGConfig,
		`{"items":{"1":{"1":{"osd_set":[3,5,0],"primary":3}}},"hash":"h","backfillfull_pools":[1,"2",0]}`,
		`{"backfillfull_pools":["1","2"],"hash":"h","items":{"1":{"1":{"osd_set":["3","5",0],"primary":"3"}}}}`},
	{"pg/config strings, also for nobody", KindPGConfig,
		`{"items":{"1":{"1":{"osd_set":["3","0",null],"primary":"0","pause":"yes"}}},"hash":"h"}`,
		`{"hash":"h","items":{"1":{"1":{"osd_set":["3",0,0],"pause":true,"primary":0}}}}`},
	{"pg/config with garbage after numbers", KindPGConfig,
		`{"items":{"1":{"1":{"osd_set":["3x","5 "],"primary":"3."}}},"hash":"h"}`,
		`{"hash":"h","items":{"1":{"1":{"osd_set":[0,0],"primary":0}}}}`},
	{"pg/config order", KindPGConfig,
		`{"items":{"10":{},"2":{"11":{"osd_set":[1],"primary":1},"9":{"osd_set":[2],"primary":2}}},"hash":"h"}`,
		`{"hash":"h","items":{"2":{"9":{"osd_set":["2"],"primary":"2"},"11":{"osd_set":["1"],"primary":"1"}},"10":{}}}`},
	{"pg/config, a name twice: the last counts", KindPGConfig,
		`{"hash":"h","items":{"1":{"1":{"osd_set":[1],"primary":1},"2":{"osd_set":[9]},"1":{"osd_set":[1],"osd_set":[2],"primary":2}}}}`,
		`{"hash":"h","items":{"1":{"1":{"osd_set":["2"],"primary":"2"},"2":{"osd_set":["9"],"primary":0}}}}`},
	{"pg/history numbers", KindPGHistory,
		`{"all_peers":["3",5],"osd_sets":[[3,0,"5"],[]],"epoch":"18446744073709551615","next_scrub":1.5}`,
		`{"osd_sets":[["3",0,"5"],[]],"all_peers":[3,5],"epoch":18446744073709551615,"next_scrub":1}`},
	{"pg/state strings", KindPGState,
		`{"primary":"5","peers":["3",5],"state":["active"]}`,
		`{"peers":[3,5],"primary":5,"state":["active"]}`},
	{"osd/stats time as number", KindOSDStats, `{"time":1795175664.5}`, `{"time":"1795175664.500"}`},
	{"osd/stats time as whole number", KindOSDStats, `{"time":1795175664}`, `{"time":"1795175664.000"}`},
	{"osd/stats time with microseconds", KindOSDStats, `{"time":"1795175664.123456"}`, `{"time":"1795175664.123"}`},
	{"osd/stats sizes as strings", KindOSDStats,
		`{"size":"18446744073709551615","free":"0","data_block_size":"131072"}`,
		`{"blockstore_ready":false,"size":18446744073709551615,"free":0,"data_block_size":131072}`},
	{"inode/stats numbers", KindInodeStats,
		`{"raw_used":1048576,"read":{"count":1e3,"usec":9007199254740993}}`,
		`{"raw_used":"1048576","read":{"count":"1000","usec":"9007199254740993","bytes":"0","bps":"0","iops":"0","lat":"0"},` +
			`"write":{"count":"0","usec":"0","bytes":"0","bps":"0","iops":"0","lat":"0"},"delete":{"count":"0","usec":"0","bytes":"0","bps":"0","iops":"0","lat":"0"}}`},
	{"pool/stats strings", KindPoolStats,
		`{"used_raw_tb":"0.5","total_raw_tb":"1e-7","pg_real_size":"2","raw_to_usable":2,"space_efficiency":null}`,
		`{"used_raw_tb":0.5,"total_raw_tb":1e-7,"pg_real_size":2,"raw_to_usable":2,"space_efficiency":0}`},
	{"config/inode strings", KindInodeConfig,
		`{"name":"a","size":"10737418240","parent_id":"6","parent_pool":"1","readonly":1,"deleted":"false","unknown":1}`,
		`{"name":"a","parent_id":6,"readonly":true,"size":10737418240}`},
	{"config/inode parent with pool bits", KindInodeConfig,
		`{"name":"a","size":0,"parent_id":562949953421318}`,
		`{"name":"a","parent_id":6,"parent_pool":2,"size":0}`},
	{"maxid as string", KindMaxID, `"7"`, `7`},
	{"image index strings", KindImageIndex, `{"id":"7","pool_id":"1"}`, `{"id":7,"pool_id":1}`},
	{"osd/state", KindOSDState,
		`{"addresses":"10.0.0.5","port":"80","state":"up","primary_enabled":"1","blockstore_enabled":"no"}`,
		`{"addresses":["10.0.0.5"],"blockstore_enabled":false,"host":"","port":80,"primary_enabled":true,"state":"up","version":""}`},
	{"master id as number", KindMonMaster,
		`{"ip":[],"hostname":"h","id":9074649864167345158}`, `{"ip":[],"hostname":"h","id":"9074649864167345158"}`},
	{"osd config", KindOSDConfig,
		`{"tags":"nvme","reweight":"0.5","noout":"0","x":[1.50, "é<&>"]}`, `{"tags":["nvme"],"reweight":0.5,"x":[1.50,"é<&>"]}`},
}

func TestMixtures(t *testing.T) {
	for _, m := range mixtures {
		got, err := codecs[m.kind]("k", []byte(m.text))
		if err != nil || string(got) != m.want {
			t.Errorf("%s: %v\n got %s\nwant %s", m.name, err, got, m.want)
		}
	}
}

func decodeUint(text string, limit uint64) (uint64, error) {
	d := open("k", []byte(text))
	return d.uint(d.root, limit), d.err()
}

func TestUint(t *testing.T) {
	for text, want := range map[string]uint64{
		`0`: 0, `7`: 7, `"7"`: 7, `"007"`: 7, `-0`: 0, `-0.9`: 0, `7.99`: 7, `0.07e2`: 7, `70e-1`: 7,
		`1.5e3`: 1500, `18446744073709551615`: math.MaxUint64, `"18446744073709551615"`: math.MaxUint64,
		`1844674407370955161.5e1`: math.MaxUint64, `18446744073709551615.9`: math.MaxUint64,
		`9007199254740993`: 9007199254740993, `9007199254740993.0`: 9007199254740993,
		`0e99999999999`: 0, `1e-99999999999`: 0,
		`"3x"`: 0, `"3.5"`: 0, `"3 "`: 0, `"-3x"`: 0, // trailing garbage
		`null`: 0, `true`: 0, `[5]`: 0, `{"a":1}`: 0, // another type
	} {
		if got, err := decodeUint(text, math.MaxUint64); err != nil || got != want {
			t.Errorf("%s reads as %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		`""`, `"abc"`, `" 3"`, `"+3"`, `"-"`, `"-3"`, `-1`, `-1e30`, `1e20`, `1e99999999999`,
		`18446744073709551616`, `"18446744073709551616"`, `1844674407370955161.6e1`,
	} {
		if got, err := decodeUint(text, math.MaxUint64); err == nil || got != 0 {
			t.Errorf("%s reads as %d without error", text, got)
		}
	}
	if _, err := decodeUint(`65536`, 65535); err == nil {
		t.Error("limit not applied")
	}
}

func TestBool(t *testing.T) {
	for text, want := range map[string]bool{
		`true`: true, `1`: true, `5`: true, `0.1`: true, `"true"`: true, `"yes"`: true, `"1"`: true, `"2"`: true,
		`false`: false, `0`: false, `-0.0`: false, `0e5`: false, `"false"`: false, `"no"`: false, `"0"`: false, `""`: false,
		`null`: false,
	} {
		d := open("k", []byte(text))
		if got := d.bool(d.root); got != want || d.err() != nil {
			t.Errorf("%s reads as %v, %v", text, got, d.err())
		}
	}
	for _, text := range []string{`"on"`, `"TRUE"`, `[]`, `{}`} {
		d := open("k", []byte(text))
		if d.bool(d.root); d.err() == nil {
			t.Errorf("%s accepted", text)
		}
	}
}

func TestBytes(t *testing.T) {
	for _, c := range []struct {
		text     string
		want     uint64
		suffixed bool
		ok       bool
	}{
		{`"128k"`, 128 << 10, true, true}, {`"1M"`, 1 << 20, true, true}, {`"2g"`, 2 << 30, true, true},
		{`"1T"`, 1 << 40, true, true}, {`131072`, 131072, false, true}, {`"131072"`, 131072, false, true},
		{`"1kb"`, 0, false, true}, {`"1q"`, 0, false, true}, {`"-1k"`, 0, false, true},
		{`"k"`, 0, false, false}, {`"99999999999t"`, 0, true, false}, {`"16777216t"`, 0, true, false},
	} {
		d := open("k", []byte(c.text))
		n, suffixed := d.bytes(d.root, math.MaxUint64)
		if n != c.want || suffixed != c.suffixed || (d.err() == nil) != c.ok {
			t.Errorf("%s reads as %d, %v, %v", c.text, n, suffixed, d.err())
		}
	}
}

func TestFloat(t *testing.T) {
	for text, want := range map[string]float64{
		`0.5`: 0.5, `"0.5"`: 0.5, `"1e-3"`: 0.001, `-2`: -2, `"5x"`: 0, `null`: 0, `[1]`: 0,
	} {
		d := open("k", []byte(text))
		if got := d.float(d.root); got != want || d.err() != nil {
			t.Errorf("%s reads as %v, %v", text, got, d.err())
		}
	}
	for _, text := range []string{`"x"`, `""`, `"NaN"`, `"Inf"`, `1e999`, `"1e"`} {
		d := open("k", []byte(text))
		if got := d.float(d.root); got != 0 || d.err() == nil {
			t.Errorf("%s reads as %v without error", text, got)
		}
	}
	for want, f := range map[string]float64{
		"0": math.Copysign(0, -1), "1": 1, "100000000000000000000": 1e20, "1e+21": 1e21,
		"0.000001": 1e-6, "9.57e-7": 9.57e-7, "9.094947017729282e-10": 1000. / (1 << 40), "null": math.NaN(),
	} {
		var w writer
		w.float(f)
		if string(w.buf) != want {
			t.Errorf("%v is written as %s, want %s", f, w.buf, want)
		}
	}
}

func TestParseInterval(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90": 90 * time.Second, "5s": 5 * time.Second, "5S": 5 * time.Second, "2m": 2 * time.Minute,
		"2M": 60 * 24 * time.Hour, "1h": time.Hour, "1H": time.Hour, "30d": 720 * time.Hour, "1y": 365 * 24 * time.Hour,
	} {
		if got, err := ParseInterval(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "5x", "5 d", "-1d", "1.5d", "5ss", "300y", "99999999999999999999"} {
		if got, err := ParseInterval(text); err == nil {
			t.Errorf("%q accepted as %v", text, got)
		}
	}
}

func TestReweight(t *testing.T) {
	for text, want := range map[string]float64{
		`0.5`: 0.5, `0`: 0, `1`: 1, `"0.25"`: 0.25, `" 0.25 "`: 0.25, `""`: 0, `null`: 0, `[]`: 0, `[0.5]`: 0.5,
		`["0.5"]`: 0.5, `false`: 0, `true`: 1, `"0x0"`: 0, `"0x1"`: 1, `"0b0"`: 0, `"5e-1"`: 0.5, `".5"`: 0.5,
		`-0.1`: 1, `1.01`: 1, `"abc"`: 1, `{}`: 1, `[0,0]`: 1, `[true]`: 1, `"0xg"`: 1, `"0x_0"`: 1, `"-Infinity"`: 1,
		`1e999`: 1, `"1e999"`: 1, `"0.5x"`: 1,
	} {
		c, err := DecodeOSDConfig("k", []byte(`{"reweight":`+text+`}`))
		if err != nil || c.Reweight != want {
			t.Errorf("%s is %v, %v; want %v", text, c.Reweight, err, want)
		}
	}
	if c, _ := DecodeOSDConfig("k", nil); c.Reweight != 1 {
		t.Error("a missing reweight is 1")
	}
}

func TestErrorsNameKeyAndField(t *testing.T) {
	for _, c := range []struct {
		kind        Kind
		text, field string
	}{
		{KindPGConfig, `{"items":{"1":{"5":{"osd_set":["1","",3]}}}}`, "items.1.5.osd_set[1]"},
		{KindPGConfig, `{"items":{"1":{"5":{"primary":"osd3"}}}}`, "items.1.5.primary"},
		{KindPGConfig, `{"items":{"1":{"5":{"pause":"maybe"}}}}`, "items.1.5.pause"},
		{KindPGConfig, `{"items":{"1":{"05":{}}}}`, "items.1.05"},
		{KindPGConfig, `{"items":{"65536":{}}}`, "items.65536"},
		{KindPGConfig, `{"items":[]}`, "items"},
		{KindPGConfig, `{"hash":5}`, "hash"},
		{KindPGHistory, `{"osd_sets":[[1,2],[3,-4]]}`, "osd_sets[1][1]"},
		{KindPGHistory, `{"osd_sets":[1]}`, "osd_sets[0]"},
		{KindPGHistory, `{"epoch":"e"}`, "epoch"},
		{KindPGState, `{}`, "primary"},
		{KindPGState, `{"primary":0,"state":["active"]}`, "primary"},
		{KindPGState, `{"primary":1,"state":[]}`, "state"},
		{KindPGState, `{"primary":1,"state":["active","sleeping"]}`, "state"},
		{KindPGState, `{"primary":1,"state":["peering","degraded"]}`, "state"},
		{KindPGState, `{"primary":1,"state":["incomplete","degraded"]}`, "state"},
		{KindPGStats, `{"object_count":-1}`, "object_count"},
		{KindOSDState, `{"port":65536}`, "port"},
		{KindOSDState, `{"addresses":5}`, "addresses"},
		{KindOSDStats, `{"time":"now"}`, "time"},
		{KindOSDStats, `{"op_stats":{"read":{"count":"x"}}}`, "op_stats.read.count"},
		{KindOSDStats, `{"op_stats":[]}`, "op_stats"},
		{KindOSDSpace, `{"1":{"07":5}}`, "1.07"},
		{KindOSDSpace, `{"0":{}}`, "0"},
		{KindInodeIO, `{"1":{"7":{"read":{"usec":"x"}}}}`, "1.7.read.usec"},
		{KindInodeConfig, `{"size":"big"}`, "size"},
		{KindInodeConfig, `{"name":5}`, "name"},
		{KindInodeConfig, `{"parent_id":281474976710656}`, "parent_id"},
		{KindInodeConfig, `{"parent_id":1,"parent_pool":65536}`, "parent_pool"},
		{KindImageIndex, `{"id":0,"pool_id":1}`, ""},
		{KindImageIndex, `{"id":1,"pool_id":70000}`, "pool_id"},
		{KindMaxID, `"x"`, ""},
		{KindOSDConfig, `{"tags":7}`, "tags"},
		{KindMonMember, `{"ip":[{}]}`, "ip[0]"},
		{KindStats, `{"object_counts":{"clean":"x"}}`, "object_counts.clean"},
		{KindPoolStats, `{"pg_real_size":"x"}`, "pg_real_size"},
	} {
		_, err := codecs[c.kind]("/v/the/key", []byte(c.text))
		want := "field " + c.field + " is "
		if c.field == "" {
			want = "the value is "
		}
		if err == nil || !strings.Contains(err.Error(), "etcd key /v/the/key") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v %s: %v", c.kind, c.text, err)
		}
	}
}

// TestStrings: names go through unchanged, whatever is in them.
func TestStrings(t *testing.T) {
	for text, want := range map[string]string{
		`"a/b@c"`: `"a/b@c"`, `"é\u00e9<&>"`: `"éé<&>"`, `"\"\\\/"`: `"\"\\/"`, `"\n\r\t\b\f\u0001\u001F"`: `"\n\r\t\b\f\u0001\u001f"`,
		`"\ud83d\ude00"`: `"😀"`, "\"\xff\xc3\"": "\"\xff\xc3\"",
	} {
		c, err := decodeInode("k", []byte(`{"name" : `+text+` , "\u0073ize":1}`))
		if got := string(c.Encode()); err != nil || got != `{"name":`+want+`,"size":1}` {
			t.Errorf("%s is written as %s, %v", text, got, err)
		}
	}
}

func TestErrorsAreBounded(t *testing.T) {
	text := `{"osd_sets":[[` + strings.Repeat(`"x",`, 1000) + `"` + strings.Repeat("é", 1000) + `"]]}`
	_, err := DecodePGHistory("k", []byte(text))
	if err == nil || len(err.Error()) > 3000 || !strings.Contains(err.Error(), "and 985 more errors") {
		t.Errorf("%v", err)
	}
}
