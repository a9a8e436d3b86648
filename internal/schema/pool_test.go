package schema

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
)

func pool(t *testing.T, text string) *Pool {
	t.Helper()
	p, warnings, err := DecodePool("config/pools", 1, []byte(text), BuiltinPoolDefaults())
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%s: %v %v", text, err, warnings)
	}
	return p
}

// with replaces members of a valid EC pool; null removes one.
func with(changes string) string {
	o, _ := DecodeObject("", []byte(`{"name":"p","scheme":"ec","pg_size":6,"parity_chunks":2,"pg_minsize":5,"pg_count":16}`))
	c, err := DecodeObject("", []byte("{"+changes+"}"))
	if err != nil {
		panic(err)
	}
	for name, v := range c.All() {
		o.Set(name, v)
		if string(v) == "null" {
			o.Delete(name)
		}
	}
	return string(o.Encode())
}

func TestPoolDefaults(t *testing.T) {
	p := pool(t, `{"name":"a","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":256}`)
	want := &Pool{
		ID: 1, Name: "a", Scheme: meta.Replicated, PGSize: 2, PGMinSize: 1, PGCount: 256,
		FailureDomain: "host", MaxOSDCombinations: 10000, BlockBytes: 131072, GranularityBytes: 4096,
		Commit: meta.CommitAll, PGStripeBytes: 131072, Config: p.Config,
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%+v", p)
	}
	if p.DataChunks() != 1 || p.ObjectBytes() != 131072 || p.BitmapBytes() != 4 {
		t.Error("derived values of a replicated pool")
	}
	global, err := DecodeObject("config/global", []byte(`{"block_size":"1M","bitmap_granularity":512,"immediate_commit":"none"}`))
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := GlobalPoolDefaults("config/global", &global)
	if err != nil || defaults != (PoolDefaults{1 << 20, 512, meta.CommitNone}) {
		t.Fatalf("%+v, %v", defaults, err)
	}
	p, _, err = DecodePool("config/pools", 2, []byte(with("")), defaults)
	if err != nil || p.BlockBytes != 1<<20 || p.GranularityBytes != 512 || p.Commit != meta.CommitNone ||
		p.DataChunks() != 4 || p.ObjectBytes() != 4<<20 || p.PGStripeBytes != 4<<20 || p.BitmapBytes() != 256 {
		t.Errorf("%+v, %v", p, err)
	}
	bad, _ := DecodeObject("", []byte(`{"block_size":"x","immediate_commit":"some"}`))
	defaults, err = GlobalPoolDefaults("config/global", &bad)
	if defaults != BuiltinPoolDefaults() || err == nil || !strings.Contains(err.Error(), "field block_size") ||
		!strings.Contains(err.Error(), "field immediate_commit") {
		t.Errorf("%+v, %v", defaults, err)
	}
}

func TestPoolFields(t *testing.T) {
	p := pool(t, with(`"pg_size":"6","pg_count":"16","failure_domain":"rack","level_placement":{"dc":"112233","host":[1,"b",3,4,5,6]},
		"raw_placement":"any","local_reads":"nearest","max_osd_combinations":100,"block_size":"4096","bitmap_granularity":4096.0,
		"immediate_commit":"small","pg_stripe_size":1048576,"root_node":"dc1","osd_tags":"nvme","primary_affinity_tags":["a","b"],
		"scrub_interval":"30d","used_for_app":"s3:x"`))
	if p.PGSize != 6 || p.PGCount != 16 || p.FailureDomain != "rack" || p.RawPlacement != "any" || p.LocalReads != ReadNearest ||
		p.MaxOSDCombinations != 100 || p.BlockBytes != 4096 || p.GranularityBytes != 4096 || p.Commit != meta.CommitSmall ||
		p.PGStripeBytes != 1048576 || p.RootNode != "dc1" || p.ScrubInterval != 720*time.Hour || p.UsedForApp != "s3:x" ||
		!reflect.DeepEqual(p.OSDTags, []string{"nvme"}) || !reflect.DeepEqual(p.PrimaryAffinityTags, []string{"a", "b"}) {
		t.Errorf("%+v", p)
	}
	if want := []LevelSequence{
		{"dc", []string{"1", "1", "2", "2", "3", "3"}},
		{"host", []string{"1", "b", "3", "4", "5", "6"}},
	}; !reflect.DeepEqual(p.LevelPlacement, want) {
		t.Errorf("%v", p.LevelPlacement)
	}
	p = pool(t, with("\"level_placement\":\" dc=112233 \\n host=123456\",\"osd_tags\":\"\",\"local_reads\":\"\","+
		`"immediate_commit":5,"block_size":0,"max_osd_combinations":null,"failure_domain":""`))
	if len(p.LevelPlacement) != 2 || p.LevelPlacement[1].Level != "host" || p.LevelPlacement[1].Items[5] != "6" ||
		p.OSDTags != nil || p.LocalReads != ReadPrimary || p.Commit != meta.CommitAll || p.BlockBytes != 131072 ||
		p.MaxOSDCombinations != 10000 || p.FailureDomain != "host" {
		t.Errorf("%+v", p)
	}
	for text, want := range map[string]string{
		`"used_for_fs":"x"`:                           "fs:x",
		`"used_for_fs":"x","used_for_app":"s3:y"`:     "fs:x",
		`"used_for_app":"s3:y","used_for_fs":"x"`:     "fs:x",
		`"used_for_app":"free text","used_for_fs":""`: "free text",
	} {
		if p := pool(t, with(text)); p.UsedForApp != want {
			t.Errorf("%s: %q", text, p.UsedForApp)
		}
	}
	// The scheme decides about parity.
	if p := pool(t, with(`"scheme":"xor","parity_chunks":null`)); p.ParityChunks != 1 || p.DataChunks() != 5 {
		t.Errorf("xor: %+v", p)
	}
	if p := pool(t, with(`"scheme":"jerasure"`)); p.Scheme != meta.EC {
		t.Errorf("jerasure: %+v", p)
	}
	if p := pool(t, with(`"scheme":"replicated","pg_minsize":1`)); p.ParityChunks != 0 || p.DataChunks() != 1 {
		t.Errorf("replicated: %+v", p)
	}
}

func TestPoolConstraints(t *testing.T) {
	for _, c := range []struct{ change, field, want string }{
		{`"name":null`, "name is missing", "non-empty"},
		{`"name":""`, `name is ""`, "non-empty"},
		{`"name":5`, "name is 5", "a string"},
		{`"scheme":null`, "scheme is missing", `"replicated", "xor" or "ec"`},
		{`"scheme":"raid5"`, `scheme is "raid5"`, `"replicated", "xor" or "ec"`},
		{`"pg_size":null`, "pg_size is missing", "from 3 to 256"},
		{`"pg_size":2`, "pg_size is 2", "from 3 to 256"},
		{`"scheme":"xor","pg_size":2`, "pg_size is 2", "from 3 to 256"},
		{`"scheme":"replicated","pg_size":0`, "pg_size is 0", "from 1 to 256"},
		{`"scheme":"replicated","pg_size":257`, "pg_size is 257", "from 1 to 256"},
		{`"pg_size":"six"`, `pg_size is "six"`, "a whole number"},
		{`"pg_size":-6`, "pg_size is -6", "a whole number"},
		{`"parity_chunks":null`, "parity_chunks is missing", "from 1 to pg_size-2 = 4"},
		{`"parity_chunks":5`, "parity_chunks is 5", "from 1 to pg_size-2 = 4"},
		{`"scheme":"xor","parity_chunks":2`, "parity_chunks is 2", "absent or 1"},
		{`"pg_minsize":null`, "pg_minsize is missing", "from 4 to 6"},
		{`"pg_minsize":3`, "pg_minsize is 3", "from 4 to 6"},
		{`"pg_minsize":7`, "pg_minsize is 7", "from 4 to 6"},
		{`"scheme":"xor","parity_chunks":0,"pg_minsize":4`, "pg_minsize is 4", "from 5 to 6"},
		{`"scheme":"replicated","pg_minsize":0`, "pg_minsize is 0", "from 1 to 6"},
		{`"pg_count":0`, "pg_count is 0", "at least 1"},
		{`"pg_count":4294967296`, "pg_count is 4294967296", "a whole number"},
		{`"max_osd_combinations":99`, "max_osd_combinations is 99", "at least 100"},
		{`"block_size":2048`, "block_size is 2048", "a power of two from 4096 to 134217728"},
		{`"block_size":268435456`, "block_size is 268435456", "a power of two"},
		{`"block_size":131073`, "block_size is 131073", "a power of two"},
		{`"bitmap_granularity":3000`, "bitmap_granularity is 3000", "a divisor of block_size 131072"},
		{`"bitmap_granularity":262144`, "bitmap_granularity is 262144", "a divisor of block_size 131072"},
		{`"immediate_commit":"some"`, `immediate_commit is "some"`, `"all", "small" or "none"`},
		{`"local_reads":"far"`, `local_reads is "far"`, `"nearest"`},
		{`"level_placement":"dc=11223"`, `level_placement is "dc=11223"`, `level "dc" has 5, pg_size is 6`},
		{`"level_placement":{"dc":[1,2]}`, "level_placement is", `level "dc" has 2, pg_size is 6`},
		{`"level_placement":"112233"`, `level_placement is "112233"`, `such as "dc=112233"`},
		{`"level_placement":7`, "level_placement is 7", `such as "dc=112233"`},
		{`"root_node":7`, "root_node is 7", "a string"},
		{`"osd_tags":{}`, "osd_tags is {}", "a list"},
	} {
		p, _, err := DecodePool("/v/config/pools", 12, []byte(with(c.change)), BuiltinPoolDefaults())
		if p != nil || err == nil {
			t.Errorf("%s accepted", c.change)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "etcd key /v/config/pools: field 12."+c.field) || !strings.Contains(text, c.want) {
			t.Errorf("%s: %s", c.change, text)
		}
	}
	// Everything that is wrong is told at once.
	_, _, err := DecodePool("k", 1, []byte(with(`"name":"","pg_count":0`)), BuiltinPoolDefaults())
	if err == nil || !strings.Contains(err.Error(), "1.name") || !strings.Contains(err.Error(), "1.pg_count") {
		t.Errorf("%v", err)
	}
	var fe *FieldError
	if !errors.As(err, &fe) || fe.Key != "k" || fe.Field != "1.name" || fe.Value != `""` {
		t.Errorf("%+v", fe)
	}
}

func TestPoolWarnings(t *testing.T) {
	for change, want := range map[string]string{
		`"scrub_interval":86400`:   "field 1.scrub_interval is 86400",
		`"scrub_interval":"often"`: `field 1.scrub_interval is "often"`,
		`"block_size":"1M"`:        "it must be 1048576",
	} {
		p, warnings, err := DecodePool("k", 1, []byte(with(change)), BuiltinPoolDefaults())
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Error(), want) || p.ScrubInterval != 0 {
			t.Errorf("%s: %v %v", change, warnings, err)
		}
	}
}

func TestInvalidPoolDoesNotBreakOthers(t *testing.T) {
	text := `{"2":` + with("") + `,"3":` + with(`"pg_size":1`) + `,"4":null,"x":{},"65536":{},"5":7,"6":` + with(`"scrub_interval":1`) + `}`
	p, err := decodePools("k", []byte(text))
	if err == nil || len(p.Valid) != 2 || p.Valid[2] == nil || p.Valid[6].ID != 6 || len(p.Warnings) != 1 {
		t.Fatalf("%v: %+v", err, p)
	}
	if len(p.Invalid) != 3 || p.Invalid[3] == nil || p.Invalid[4] == nil || p.Invalid[5] == nil {
		t.Errorf("invalid: %v", p.Invalid)
	}
	for _, want := range []string{"3.pg_size", "field 4 is null", "field 5 is 7", "field x is", "field 65536 is"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if n, err := p.NextID(); n != 7 || err != nil {
		t.Errorf("next pool id %d, %v", n, err)
	}
}

func TestPoolsReadModifyWrite(t *testing.T) {
	const text = `{"10":{"future":{"x":[1,2.50]},"name":"a","big":18446744073709551615},"9":{"broken":true},"note":"kept"}`
	p, _ := decodePools("k", []byte(text))
	c := p.Config.Clone()
	if got := string(c.Encode()); got != text {
		t.Errorf("kept %s", got)
	}
	config, _ := DecodeObject("", []byte(`{"name":"b","future":1,"scheme":"xor","parity_chunks":1,"local_reads":"primary","used_for_fs":"img"}`))
	all := p.With(11, &config)
	want := strings.TrimSuffix(text, "}") + `,"11":{"name":"b","future":1,"scheme":"xor","used_for_app":"fs:img"}}`
	if got := string(all.Encode()); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	config, _ = DecodeObject("", p.Config.Get("10"))
	config.SetUint("pg_count", 5)
	all = p.With(10, &config)
	want = strings.Replace(text, `615}`, `615,"pg_count":5}`, 1)
	if got := string(all.Encode()); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	all = p.Without(10)
	if got := string(all.Encode()); got != `{"9":{"broken":true},"note":"kept"}` {
		t.Errorf("got %s", got)
	}
	if got := string(p.Config.Encode()); got != text {
		t.Errorf("the source was changed: %s", got)
	}
	p, _ = decodePools("k", []byte(`{"65535":{}}`))
	if _, err := p.NextID(); !errors.Is(err, ErrPoolLimit) {
		t.Errorf("%v", err)
	}
}

func TestCheckNewPool(t *testing.T) {
	p, err := decodePools("k", []byte(`{"1":`+with("")+`}`))
	if err != nil {
		t.Fatal(err)
	}
	fresh := *p.Valid[1]
	if err := p.CheckNew(&fresh); err != nil {
		t.Errorf("a pool may keep its name: %v", err)
	}
	fresh.ID = 2
	if err := p.CheckNew(&fresh); err == nil || !strings.Contains(err.Error(), "already used by pool 1") {
		t.Errorf("%v", err)
	}
	fresh.Name, fresh.GranularityBytes = "q", 256
	if err := p.CheckNew(&fresh); err == nil || !strings.Contains(err.Error(), "multiple of 512") {
		t.Errorf("%v", err)
	}
	fresh.GranularityBytes, fresh.LocalReads = 512, ReadRandom
	if err := p.CheckNew(&fresh); err == nil || !strings.Contains(err.Error(), "local_reads") {
		t.Errorf("%v", err)
	}
}

func TestNodePlacement(t *testing.T) {
	nodes, err := DecodeNodePlacement("k", []byte(
		`{"r":{"level":"rack","x":1},"s":{"level":"host","parent":"r"},"7":{"parent":null,"level":"z"},"8":{},"9":{"parent":5}}`))
	want := []PlacedNode{
		{Name: "r", Level: "rack"},
		{Name: "s", Level: "host", Parent: "r", ParentRaw: json.RawMessage(`"r"`)},
		{Name: "7", IsOSD: true, OSD: 7, Level: LevelOSD, ParentRaw: json.RawMessage(`null`)},
		{Name: "8", IsOSD: true, OSD: 8, Level: LevelOSD},
		{Name: "9", IsOSD: true, OSD: 9, Level: LevelOSD, Parent: "5", ParentRaw: json.RawMessage(`5`)},
	}
	if err != nil || !reflect.DeepEqual(nodes, want) {
		t.Errorf("%v\n got %+v\nwant %+v", err, nodes, want)
	}
	nodes, err = DecodeNodePlacement("k", []byte(`{"a":5,"07":{},"b":{"level":"rack"}}`))
	if len(nodes) != 1 || err == nil || !strings.Contains(err.Error(), "field a is 5") || !strings.Contains(err.Error(), "field 07 is 07") {
		t.Errorf("%+v, %v", nodes, err)
	}
}

func TestOSDConfigReadModifyWrite(t *testing.T) {
	c, err := DecodeOSDConfig("k", []byte(`{"later":{"a":1},"reweight":0.5,"noout":true,"tags":["a"]}`))
	if err != nil {
		t.Fatal(err)
	}
	c.Reweight, c.Tags = 1, []string{"b", "c"}
	if got := string(c.Encode()); got != `{"later":{"a":1},"noout":true,"tags":["b","c"]}` {
		t.Errorf("got %s", got)
	}
	c.NoOut, c.Tags = false, nil
	if got := string(c.Encode()); got != `{"later":{"a":1}}` {
		t.Errorf("got %s", got)
	}
	c.Config.Delete("later")
	if got := c.Encode(); got != nil {
		t.Errorf("an object without members is no key, but %s", got)
	}
}

// FuzzPool: whatever is accepted keeps the promises of the type.
func FuzzPool(f *testing.F) {
	f.Add([]byte(with("")), uint32(131072), uint32(4096))
	f.Add([]byte(with(`"level_placement":"dc=112233 x=111111","scrub_interval":"5d","used_for_fs":"a"`)), uint32(4096), uint32(512))
	f.Add([]byte(with(`"scheme":"xor","parity_chunks":1,"pg_stripe_size":"4G","osd_tags":["a",1]`)), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, data []byte, block, granularity uint32) {
		p, _, err := DecodePool("k", 1, data, PoolDefaults{block, granularity, meta.CommitAll})
		if (p == nil) != (err != nil) {
			t.Fatalf("pool %v, error %v", p, err)
		}
		if err != nil {
			return
		}
		if p.DataChunks() < 1 || p.PGMinSize < p.DataChunks() && p.Scheme != meta.Replicated || p.PGMinSize > p.PGSize ||
			p.BitmapBytes() < 1 || p.PGStripeBytes < p.ObjectBytes() || p.ObjectBytes() > math.MaxInt64 || p.PGCount == 0 {
			t.Errorf("%+v", p)
		}
		again, _, err := DecodePool("k", 1, p.Config.Encode(), PoolDefaults{block, granularity, meta.CommitAll})
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Errorf("%v\nonce  %+v\ntwice %+v", err, p, again)
		}
	})
}
