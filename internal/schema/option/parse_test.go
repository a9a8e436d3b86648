package option

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// values are spellings of every kind: what is read, and the note if it is
// outside of the limits.
var values = []struct {
	option, raw string
	want        any
	note        string
}{
	{"log_level", `5`, int64(5), ""},
	{"log_level", `"5"`, int64(5), ""},
	{"log_level", `"007"`, int64(7), ""},
	{"log_level", `2.9`, int64(2), ""},
	{"log_level", `1e1`, int64(10), ""},
	{"log_level", `0`, int64(0), ""},
	{"log_level", `null`, nil, ""},
	{"log_level", `""`, nil, ""},
	{"max_etcd_attempts", `0`, nil, "0 means the default here"},
	{"client_queue_depth", `"1"`, int64(128), "less than 128, which is used instead"},
	{"osd_num", `4611686018427387904`, int64(1 << 62), ""},
	{"recovery_queue_depth", `5000`, int64(2048), "more than 2048, which is used instead"},

	{"client_max_dirty_bytes", `33554432`, int64(32 << 20), ""},
	{"client_max_dirty_bytes", `"32M"`, int64(32 << 20), ""},
	{"client_max_dirty_bytes", `"010"`, int64(10), ""},
	{"min_zerocopy_send_size", `-1`, int64(-1), ""},
	{"min_zerocopy_send_size", `"-1"`, int64(-1), ""},
	{"min_zerocopy_send_size", `"-1k"`, int64(-1024), ""},
	{"rdma_max_msg", `"129m"`, nil, "more than 134217728, the default is used"},
	{"tcp_header_buffer_size", `"2g"`, int64(1 << 30), "more than 1073741824, which is used instead"},
	{"meta_buf_size", `1`, int64(65536), "less than 65536, which is used instead"},
	{"block_size", `"128k"`, int64(131072), ""},

	{"journal_offset", `"0x1000"`, int64(4096), ""},
	{"journal_offset", `"0X10k"`, int64(16384), ""},
	{"journal_offset", `"010"`, int64(8), ""},
	{"journal_offset", `"1T"`, int64(1 << 40), ""},
	{"journal_offset", `4096`, int64(4096), ""},
	{"journal_offset", `"0"`, int64(0), ""},
	{"journal_offset", `"0k"`, int64(0), ""},
	{"atomic_write_size", `0`, int64(0), ""},

	{"peer_connect_timeout", `"7"`, 7 * time.Second, ""},
	{"peer_connect_timeout", `7.9`, 7 * time.Second, ""},
	{"peer_connect_timeout", `0`, nil, "0 means the default here"},
	{"autosync_interval", `0`, time.Duration(0), ""},
	{"autosync_interval", `3601`, nil, "more than 3600, the default is used"},
	{"osd_out_time", `0`, nil, "0 means the default here"},
	{"client_eio_retry_interval", `0`, time.Duration(0), ""},
	{"client_eio_retry_interval", `"9"`, 10 * time.Millisecond, "less than 10, which is used instead"},
	{"mon_change_timeout", `50`, 100 * time.Millisecond, "less than 100, which is used instead"},
	{"throttle_threshold_us", `50`, 50 * time.Microsecond, ""},

	{"osd_nearfull_ratio", `0.9`, 0.9, ""},
	{"osd_nearfull_ratio", `"0.9"`, 0.9, ""},
	{"osd_nearfull_ratio", `1`, 1.0, ""},
	{"osd_nearfull_ratio", `"9e-1"`, 0.9, ""},
	{"osd_nearfull_ratio", `0`, nil, "0 means the default here"},
	{"recovery_tune_util_low", `0`, 0.01, "less than 0.01, which is used instead"},

	{"scrub_interval", `"30d"`, 720 * time.Hour, ""},
	{"scrub_interval", `"30D"`, 720 * time.Hour, ""},
	{"scrub_interval", `"5m"`, 5 * time.Minute, ""},
	{"scrub_interval", `"1M"`, 720 * time.Hour, ""},
	{"scrub_interval", `"1Y"`, 8760 * time.Hour, ""},
	{"scrub_interval", `"90"`, 90 * time.Second, ""},
	{"scrub_interval", `"0"`, nil, "0 means the default here"},

	{"etcd_prefix", `"/x"`, "/x", ""},
	{"etcd_prefix", `""`, "", ""},
	{"data_device", `"/dev/sda"`, "/dev/sda", ""},
	{"data_io", `"cached"`, "cached", ""},
	{"immediate_commit", `"small"`, "small", ""},

	{"etcd_address", `"a:1, b:2,"`, []string{"a:1", "b:2"}, ""},
	{"etcd_address", `["a:1","b:2"]`, []string{"a:1", "b:2"}, ""},
	{"etcd_address", `["a:1,b:2",null]`, []string{"a:1", "b:2"}, ""},
	{"etcd_address", `"[\"a\",\"b\"]"`, []string{"a", "b"}, ""},
	{"osd_network", `"10.0.0.0/8"`, prefixes("10.0.0.0/8"), ""},
	{"osd_network", `["10.0.0.0/8","fd00::/8"]`, prefixes("10.0.0.0/8", "fd00::/8"), ""},
	{"osd_network", `"10.0.0.0/8,10.1.0.0/16"`, prefixes("10.0.0.0/8", "10.1.0.0/16"), ""},
}

func TestValues(t *testing.T) {
	for _, c := range values {
		v, note, err := Find(c.option).Parse(json.RawMessage(c.raw))
		if err != nil || note != c.note || !reflect.DeepEqual(v, c.want) {
			t.Errorf("%s = %s: %v (%T) %q %v, want %v %q", c.option, c.raw, v, v, note, err, c.want, c.note)
		}
	}
	v, _, err := Find("placement_levels").Parse(json.RawMessage(`"{\"dc\": 1}"`))
	if err != nil || string(Find("placement_levels").JSON(v)) != `{"dc":1}` {
		t.Errorf("object as text: %v %v", v, err)
	}
}

// wrong values, and what the error says is allowed.
var wrong = []struct{ option, raw, want string }{
	{"log_level", `"5x"`, "a whole number from 0 to 2147483647"},
	{"log_level", `"1.5"`, "a whole number from 0"},
	{"log_level", `"abc"`, "a whole number from 0"},
	{"log_level", `-1`, "a whole number from 0"},
	{"log_level", `true`, "a whole number from 0"},
	{"log_level", `[1]`, "a whole number from 0"},
	{"log_level", `1e400`, "a whole number from 0"},
	{"log_level", `99999999999999999999`, "a whole number from 0"},
	{"recovery_queue_depth", `-5`, "a whole number from 1 to 2048"},
	{"osd_num", `9223372036854775807`, "a whole number from 0 to 4611686018427387904"},
	{"osd_num", `"0"`, "a number from 1"},
	{"peer_connect_timeout", `"5s"`, "a whole number of seconds from 1 to 2147483647"},
	{"etcd_quick_timeout", `"x"`, "a whole number of milliseconds from 0"},
	{"throttle_threshold_us", `-1`, "a whole number of microseconds from 0"},
	{"client_max_dirty_bytes", `"32MB"`, "a number of bytes from 0 to 4611686018427387904, perhaps with k, m, g or t"},
	{"client_max_dirty_bytes", `"1.5g"`, "a number of bytes"},
	{"client_max_dirty_bytes", `"0x10"`, "a number of bytes"},
	{"client_max_dirty_bytes", `"k"`, "a number of bytes"},
	{"client_max_dirty_bytes", `"-1"`, "a number of bytes from 0"},
	{"journal_offset", `"08"`, "a number of bytes"},
	{"journal_offset", `"0x"`, "a number of bytes"},
	{"journal_offset", `"1_0"`, "a number of bytes"},
	{"journal_offset", `"99999999999t"`, "a number of bytes"},
	{"block_size", `5000`, "a power of two from 4096 to 134217728"},
	{"block_size", `2048`, "a power of two from 4096"},
	{"meta_block_size", `1000`, "a multiple of 512, at most 134217728"},
	{"csum_block_size", `"1g"`, "a multiple of 512, at most"},
	{"rdma_mtu", `1500`, "one of 0, 1024, 2048, 4096"},
	{"meta_format", `4`, "one of 1, 2, 3"},
	{"bind_port", `65536`, "a port from 1 to 65535"},
	{"osd_nearfull_ratio", `"x"`, "a number that is not negative"},
	{"osd_nearfull_ratio", `-1`, "a number that is not negative"},
	{"osd_nearfull_ratio", `"inf"`, "a number that is not negative"},
	{"osd_nearfull_ratio", `[]`, "a number that is not negative"},
	{"scrub_interval", `30`, "a string: a number with s, m, h, d, M or y"},
	{"scrub_interval", `"30w"`, "a string"},
	{"scrub_interval", `"1000y"`, "a string"},
	{"readonly", `"on"`, "true or false"},
	{"readonly", `"True"`, "true or false"},
	{"readonly", `[]`, "true or false"},
	{"readonly", `"0x1"`, "true or false"},
	{"etcd_prefix", `5`, "a string"},
	{"data_device", `true`, "a path"},
	{"data_io", `"buffered"`, "one of direct, cached, directsync"},
	{"data_io", `1`, "one of direct, cached, directsync"},
	{"etcd_address", `5`, "a list of strings"},
	{"etcd_address", `[5]`, "a list of strings"},
	{"etcd_address", `"[5"`, "a list of strings"},
	{"osd_network", `"10.0.0.0"`, `a network such as "10.0.0.0/8"`},
	{"osd_network", `["x"]`, "a network such as"},
	{"osd_network", `"10.0.0.0/40"`, "a network such as"},
	{"placement_levels", `"x"`, "a JSON object"},
	{"placement_levels", `[1]`, "a JSON object"},
}

func TestWrongValues(t *testing.T) {
	for _, c := range wrong {
		v, _, err := Find(c.option).Parse(json.RawMessage(c.raw))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || v != nil {
			t.Errorf("%s = %s: %v, %v; want %s", c.option, c.raw, v, err, c.want)
		}
	}
}

// bools lists every spelling of config.md §3 with our reading and that of
// reference programs for each kind: t true, f false, ! exception.
var bools = []struct {
	raw    string
	ours   any
	theirs string // A B C D inmemory E J
}{
	{`true`, true, "ttttttt"},
	{`false`, false, "fffffff"},
	{`1`, true, "fttttft"},
	{`0`, false, "ffff" + "t" + "ff"},
	{`2`, true, "fttf" + "t" + "ft"},
	{`"true"`, true, "tt!ttft"},
	{`"yes"`, true, "tt!ttft"},
	{`"1"`, true, "tttttft"},
	{`"false"`, false, "ff!fff" + "t"},
	{`"no"`, false, "ff!fff" + "t"},
	{`"0"`, false, "ffffff" + "t"},
	{`""`, false, "ft!ft" + "ff"},
	{`"2"`, true, "fttft" + "ft"},
	{`"on"`, nil, "ft!ft" + "ft"},
	{`{}`, nil, "ftfft" + "ft"},
}

func TestBools(t *testing.T) {
	columns := []string{"readonly", "run_primary", "use_rdmacm", "discard_on_start", "inmemory_metadata", "client_infinite_start", "verbose"}
	for _, c := range bools {
		for i, name := range columns {
			o := Find(name)
			v, _, err := o.Parse(json.RawMessage(c.raw))
			if v != c.ours || (err == nil) != (c.ours != nil) {
				t.Errorf("%s = %s: %v %v, want %v", name, c.raw, v, err, c.ours)
			}
			text, isString := stringOf(json.RawMessage(c.raw))
			theirs, ok := o.referenceBool(json.RawMessage(c.raw), text, isString)
			if want := c.theirs[i]; ok != (want != '!') || ok && theirs != (want == 't') {
				t.Errorf("%s = %s: reference reading %t %t, want %c", name, c.raw, theirs, ok, want)
			}
			other := o.otherReading(json.RawMessage(c.raw), v)
			if same := ok && v == theirs; same != (other == "") {
				t.Errorf("%s = %s: note %q, ours %v, theirs %t", name, c.raw, other, v, theirs)
			}
		}
	}
}

// Both values of every kind of bool are written so that the reference reads
// them as meant.
func TestBoolsWritten(t *testing.T) {
	args := map[Kind]string{BoolA: "0 1", BoolB: "0 1", BoolC: "0 1", BoolD: "0 1", BoolE: "0 -", BoolJ: " 1"}
	for _, o := range All() {
		if !o.Kind.IsBool() {
			continue
		}
		texts := []string{}
		for _, v := range []bool{false, true} {
			if raw := o.JSON(v); o.otherReading(raw, v) != "" {
				t.Errorf("%s = %t is written as %s: %s", o.Name, v, raw, o.otherReading(raw, v))
			}
			text, ok := o.Arg(v)
			if !ok {
				text = "-"
			} else if raw := quote(text); o.otherReading(raw, v) != "" {
				t.Errorf("%s %t as argument %q: %s", o.Name, v, text, o.otherReading(raw, v))
			}
			texts = append(texts, text)
		}
		if got := strings.Join(texts, " "); got != args[o.Kind] {
			t.Errorf("%s: arguments %q, want %q", o.Name, got, args[o.Kind])
		}
	}
}

func TestWrite(t *testing.T) {
	for _, c := range []struct {
		option string
		value  any
		json   string
		arg    string // "-" = none
	}{
		{"log_level", int64(5), `5`, "5"},
		{"min_zerocopy_send_size", int64(-1), `-1`, "-1"},
		{"client_max_dirty_bytes", int64(32 << 20), `33554432`, "33554432"},
		{"journal_offset", int64(4096), `4096`, "4096"},
		{"osd_out_time", 10 * time.Minute, `600`, "600"},
		{"etcd_quick_timeout", time.Second, `1000`, "1000"},
		{"recovery_sleep_us", time.Second, `1000000`, "1000000"},
		{"osd_nearfull_ratio", 0.95, `0.95`, "0.95"},
		{"scrub_interval", 30 * 24 * time.Hour, `"30d"`, "30d"},
		{"scrub_interval", 25 * time.Hour, `"25h"`, "25h"},
		{"scrub_interval", 90 * time.Minute, `"90m"`, "90m"},
		{"scrub_interval", 61 * time.Second, `"61s"`, "61s"},
		{"etcd_prefix", "/é\"<", `"/é\"<"`, "/é\"<"},
		{"etcd_address", []string{"a", "b"}, `["a","b"]`, "a,b"},
		{"bind_address", []string{"a"}, `["a"]`, "a"},
		{"bind_address", []string{"a", "b"}, `["a","b"]`, "-"},
		{"osd_network", prefixes("10.0.0.0/8"), `["10.0.0.0/8"]`, "10.0.0.0/8"},
		{"osd_network", prefixes("10.0.0.0/8", "fd00::/8"), `["10.0.0.0/8","fd00::/8"]`, "-"},
		{"log_level", nil, `null`, "-"},
	} {
		o := Find(c.option)
		if got := string(o.JSON(c.value)); got != c.json {
			t.Errorf("%s: JSON %s, want %s", c.option, got, c.json)
		}
		if got, ok := o.Arg(c.value); ok != (c.arg != "-") || ok && got != c.arg {
			t.Errorf("%s: argument %q %t, want %q", c.option, got, ok, c.arg)
		}
		if c.value == nil {
			continue
		}
		if v, _, err := o.Parse(json.RawMessage(c.json)); err != nil || !reflect.DeepEqual(v, c.value) {
			t.Errorf("%s: %s is read as %v (%v)", c.option, c.json, v, err)
		}
	}
}

// FuzzParse gives any JSON to every option: no panic, what is accepted is
// stable when written and read again, and fits the typed structs.
func FuzzParse(f *testing.F) {
	for _, c := range values {
		f.Add(c.option, c.raw)
	}
	for _, c := range wrong {
		f.Add(c.option, c.raw)
	}
	for _, c := range bools {
		f.Add("readonly", c.raw)
	}
	f.Fuzz(func(t *testing.T, name, raw string) {
		o := Find(name)
		if o == nil || !json.Valid([]byte(raw)) {
			return
		}
		raw = strings.TrimSpace(raw)
		v, note, err := o.Parse(json.RawMessage(raw))
		if err != nil {
			if err.Error() == "" || v != nil {
				t.Fatalf("%v, error %q", v, err)
			}
			return
		}
		o.otherReading(json.RawMessage(raw), v)
		layer, problem := ReadLayer(OSD, Global, "test", fmt.Appendf(nil, `{%q: %s}`, o.Name, raw))
		if problem != nil {
			t.Fatal(problem)
		}
		for _, c := range []Component{OSD, Client, Monitor} {
			s, err := Merge(c, Facts{}, layer)
			if err != nil {
				t.Fatal(err)
			}
			fillAny(s, c)
		}
		if v == nil || note != "" {
			return
		}
		if arg, ok := o.Arg(v); ok && arg != "" && !strings.HasPrefix(arg, "[") {
			if again, _, err := o.Parse(quote(arg)); err != nil || !reflect.DeepEqual(again, v) {
				t.Fatalf("%s = %s is written as argument %q, read as %v (%v)", name, raw, arg, again, err)
			}
		}
		again, _, err := o.Parse(o.JSON(v))
		if err != nil || string(o.JSON(again)) != string(o.JSON(v)) {
			t.Fatalf("%s = %s is written as %s, read as %v (%v)", name, raw, o.JSON(v), again, err)
		}
	})
}
