package option

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
)

func layer(t testing.TB, src Source, text string) Layer {
	t.Helper()
	where := map[Source]string{File: "/etc/v.conf", Global: "config/global", Superblock: "superblock of /dev/sda", CommandLine: "the command line", Driver: "driver options"}
	l, problem := ReadLayer(OSD, src, where[src], []byte(text))
	if problem != nil {
		t.Fatal(problem)
	}
	return l
}

func merge(t testing.TB, c Component, layers ...Layer) *Set {
	t.Helper()
	s, err := Merge(c, Facts{Hostname: "me"}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// warned checks that there is exactly one warning per text, each containing it.
func warned(t *testing.T, s *Set, texts ...string) {
	t.Helper()
	for _, w := range s.Warnings {
		i := slices.IndexFunc(texts, func(text string) bool { return strings.Contains(w.Error(), text) })
		if i < 0 {
			t.Errorf("unexpected warning: %v", w)
			continue
		}
		texts = slices.Delete(texts, i, i+1)
	}
	for _, text := range texts {
		t.Errorf("no warning with %q", text)
	}
}

func TestPrecedence(t *testing.T) {
	f := layer(t, File, `{"log_level":1,"autosync_writes":1,"slow_log_interval":1,"bind_port":1}`)
	g := layer(t, Global, `{"log_level":2,"autosync_writes":2,"slow_log_interval":2}`)
	s := layer(t, Superblock, `{"log_level":3,"autosync_writes":3}`)
	c := layer(t, CommandLine, `{"log_level":"4"}`)
	for _, order := range [][]Layer{{f, g, s, c}, {g, f, s, c}, {s, g, f, c}, {s, c, g, f}} {
		m := merge(t, OSD, order...)
		if m.Int("log_level") != 4 || m.Int("autosync_writes") != 3 || m.Duration("slow_log_interval") != 2*time.Second || m.Int("bind_port") != 1 {
			t.Errorf("%d %d %v %d", m.Int("log_level"), m.Int("autosync_writes"), m.Duration("slow_log_interval"), m.Int("bind_port"))
		}
		if !m.Given("bind_port") || m.Given("readonly") {
			t.Error("given or not")
		}
	}
	if m := merge(t, Client, c, layer(t, Driver, `{"log_level":5}`)); m.Int("log_level") != 5 {
		t.Error("of equal sources the last one counts")
	}
	// A null in etcd hides the file, as in reference programs.
	if m := merge(t, OSD, f, layer(t, Global, `{"slow_log_interval":null}`)); m.Duration("slow_log_interval") != 10*time.Second {
		t.Error("null does not give the default")
	}
}

func TestNames(t *testing.T) {
	m := merge(t, OSD, layer(t, File, `{"pg_lock_retry_interval":7,"flusher_count":9,"cached_io_data":"1","cached_io_meta":false,"meta_device":"/x"}`))
	if m.Duration("pg_lock_retry_interval_ms") != 7*time.Millisecond || m.Int("max_flusher_count") != 9 || m.Text("data_io") != "cached" || m.Text("meta_io") != "direct" {
		t.Error("old names are not understood")
	}
	for _, text := range []string{`{"pg_lock_retry_interval":7,"pg_lock_retry_interval_ms":8}`, `{"pg_lock_retry_interval_ms":8,"pg_lock_retry_interval":7}`} {
		if m := merge(t, OSD, layer(t, File, text)); m.Duration("pg_lock_retry_interval_ms") != 8*time.Millisecond {
			t.Errorf("%s: the name itself must count", text)
		}
	}
	m = merge(t, OSD, layer(t, File, `{"pg_lock_retry_interval_ms":8}`), layer(t, Global, `{"pg_lock_retry_interval":7}`))
	if m.Duration("pg_lock_retry_interval_ms") != 7*time.Millisecond {
		t.Error("the source counts more than the name")
	}
	if m := merge(t, Client, layer(t, Driver, `{"etcd_host":"a:1","conf":"/c"}`)); m.List("etcd_address")[0] != "a:1" || m.Text("config_path") != "/c" {
		t.Error("names of drivers")
	}
	m = merge(t, OSD, layer(t, File, `{"etcd_url":"a:1","etcd":"b"}`))
	warned(t, m, "parameter etcd_url in /etc/v.conf: it is not known", "parameter etcd in /etc/v.conf")
	if m.Get("etcd_address") != nil {
		t.Error("a name of the monitor in an OSD")
	}
	if m := merge(t, Monitor, layer(t, File, `{"etcd_url":"a:1"}`)); m.List("etcd_address")[0] != "a:1" {
		t.Error("etcd_url of the monitor")
	}
}

func TestSourcesThatAreNotAllowed(t *testing.T) {
	m := merge(t, OSD, layer(t, File, `{"rdma_mtu":4096}`), layer(t, Global, `{"rdma_mtu":1024,"config_path":"/x","data_device":"/y","mon_http_port":1}`))
	warned(t, m, "rdma_mtu is 1024 in config/global: ignored here, it is only taken from: the configuration file, the command line",
		"parameter config_path", `parameter data_device is "/y" in config/global: ignored`)
	if m.Int("rdma_mtu") != 4096 || m.Text("data_device") != "" {
		t.Error("a local option was taken from etcd")
	}
	// Compat: layout options in the file do apply.
	m = merge(t, OSD, layer(t, File, `{"block_size":"256k"}`))
	warned(t, m, "it describes one OSD: put it into the OSD's superblock", "reference programs read it as 0")
	if m.Int("block_size") != 262144 {
		t.Error("block_size of the file was ignored")
	}
	m = merge(t, Monitor, layer(t, Global, `{"mon_http_port":1,"use_antietcd":true,"mon_change_timeout":2000,"rdma_mtu":1}`))
	warned(t, m, "mon_http_port", "use_antietcd")
	if m.Duration("mon_change_timeout") != 2*time.Second {
		t.Error("mon_change_timeout")
	}
}

func TestUnknownOptions(t *testing.T) {
	m := merge(t, OSD, layer(t, File, `{"recovery_queue_dept":3,"autosinc_writes":1,"kv_block_size":1,"antietcd_ip":"x","log-level":2,"falsch":{}}`))
	warned(t, m, "recovery_queue_dept in /etc/v.conf: it is not known, and has no effect; did you mean recovery_queue_depth?",
		"did you mean autosync_writes?", "kv_block_size in /etc/v.conf: it is not known, and has no effect", "did you mean log_level?", "falsch")
	want := []Unknown{{"recovery_queue_dept", File, []byte("3")}, {"autosinc_writes", File, []byte("1")}, {"kv_block_size", File, []byte("1")},
		{"antietcd_ip", File, []byte(`"x"`)}, {"log-level", File, []byte("2")}, {"falsch", File, []byte("{}")}}
	if !reflect.DeepEqual(m.Unknown, want) {
		t.Errorf("kept: %v", m.Unknown)
	}
	for name, want := range map[string]string{"peer_conect_timeout": "peer_connect_timeout", "osd_mun": "osd_num", "Etcd-Address": "etcd_address",
		"flusher-count": "max_flusher_count", "xyz": "", "": "", "recovery": ""} {
		if got := Suggest(name); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", name, got, want)
		}
	}
}

// Garbage is an error on our own command line, and the default elsewhere.
func TestWrongValuesBySource(t *testing.T) {
	for _, src := range []Source{Superblock, CommandLine, Driver} {
		s, err := Merge(OSD, Facts{}, layer(t, File, `{"autosync_writes":5}`), layer(t, src, `{"autosync_writes":"5x","mon_http_port":"x"}`))
		if err == nil || !strings.Contains(err.Error(), `parameter autosync_writes is "5x" in `) || !strings.Contains(err.Error(), ": must be a whole number") || strings.Contains(err.Error(), "mon_http_port") {
			t.Errorf("%s: %v", src, err)
		}
		if s.Int("autosync_writes") != 128 {
			t.Error("a wrong value was used")
		}
	}
	for _, c := range []struct{ text, warning string }{
		{`{"autosync_writes":"5x"}`, "must be a whole number from 0 to 2147483647; the default is used (reference programs read it as 0)"},
		{`{"autosync_writes":"x"}`, "the default is used (reference programs stop with an exception)"},
		{`{"autosync_writes":-1}`, "the default is used"},
		{`{"autosync_writes":""}`, "reference programs stop with an exception"},
		{`{"autosync_writes":0}`, "parameter autosync_writes is 0 in config/global: 0 means the default here"},
		{`{"recovery_queue_depth":5000}`, "more than 2048, which is used instead"},
		{`{"readonly":1,"no_scrub":1}`, "reference programs read it as false; write true without quotes"},
		{`{"use_rdmacm":"true"}`, "reference programs stop with an exception"},
		{`{"osd_network":"10.0.0.0/8,10.1.0.0/16"}`, "reference programs want several networks as a JSON list"},
		{`{"osd_network":"` + strings.Repeat("é", 50) + `"}`, strings.Repeat("é", 29) + "..."},
	} {
		for _, src := range []Source{File, Global} {
			s := merge(t, OSD, layer(t, src, c.text))
			found := slices.ContainsFunc(s.Warnings, func(p Problem) bool {
				return strings.Contains(strings.ReplaceAll(p.Error(), "/etc/v.conf", "config/global"), c.warning)
			})
			if !found {
				t.Errorf("%s: %v, want %q", c.text, s.Warnings, c.warning)
			}
			if s.Int("autosync_writes") != 128 {
				t.Errorf("%s: autosync_writes = %d", c.text, s.Int("autosync_writes"))
			}
		}
	}
	// Nobody is bothered with options of other programs.
	warned(t, merge(t, Client, layer(t, Global, `{"autosync_writes":"5x","recovery_queue_depth":5000,"no_scrub":1}`)))
}

func TestDerivedDefaults(t *testing.T) {
	type want map[string]any
	for _, c := range []struct {
		c    Component
		text string
		want want
	}{
		{OSD, `{}`, want{"log_level": int64(1), "immediate_commit": "none", "etcd_keepalive_timeout": 30 * time.Second,
			"journal_trim_interval": int64(4096), "csum_block_size": int64(0), "disable_tcp": false}},
		{Client, `{}`, want{"log_level": int64(0), "immediate_commit": "all", "client_wait_up_timeout": 16 * time.Second, "hostname": "me"}},
		{Monitor, `{}`, want{"immediate_commit": "all", "mon_http_port": int64(8060), "enable_prometheus": true}},
		{Client, `{"etcd_quick_timeout":1001,"etcd_report_interval":20,"hostname":"you"}`,
			want{"client_wait_up_timeout": 32 * time.Second, "etcd_keepalive_timeout": 40 * time.Second, "hostname": "you"}},
		{Client, `{"client_wait_up_timeout":3,"etcd_keepalive_timeout":3}`,
			want{"client_wait_up_timeout": 3 * time.Second, "etcd_keepalive_timeout": 3 * time.Second}},
		{Client, `{"max_etcd_attempts":2147483647,"etcd_quick_timeout":2147483647000}`, want{"client_wait_up_timeout": maxDuration + 6*time.Second}},
		{OSD, `{"data_device":"/d","disable_data_fsync":1,"disable_meta_fsync":0,"data_io":"cached"}`,
			want{"meta_device": "/d", "journal_device": "/d", "disable_meta_fsync": true, "disable_journal_fsync": true, "meta_io": "cached", "journal_io": "cached"}},
		{OSD, `{"data_device":"/d","meta_device":"/m","disable_data_fsync":1,"data_io":"cached"}`,
			want{"journal_device": "/m", "disable_meta_fsync": false, "disable_journal_fsync": false, "meta_io": "direct", "journal_io": "direct"}},
		{OSD, `{"data_device":"/d","meta_device":"/m","journal_device":"/j","disable_meta_fsync":1,"meta_io":"cached"}`,
			want{"disable_data_fsync": false, "disable_meta_fsync": true, "disable_journal_fsync": false, "journal_io": "direct"}},
		{OSD, `{"data_csum_type":"crc32c","bitmap_granularity":8192}`, want{"csum_block_size": int64(8192)}},
		{OSD, `{"data_csum_type":"crc32c","csum_block_size":"16k"}`, want{"csum_block_size": int64(16384)}},
		{OSD, `{"csum_block_size":"16k","meta_format":2}`, want{"csum_block_size": int64(0), "journal_trim_interval": int64(512)}},
		{OSD, `{"meta_format":2,"journal_trim_interval":7}`, want{"journal_trim_interval": int64(7)}},
		{OSD, `{"use_rdma":true,"disable_tcp":true}`, want{"use_rdma": true, "disable_tcp": false}},
		{OSD, `{"use_rdma":true,"use_rdmacm":true,"disable_tcp":true}`, want{"use_rdma": false, "disable_tcp": true}},
		{OSD, `{"osd_network":["10.0.0.0/8","10.1.0.0/16"],"osd_cluster_network":"10.1.2.3/16"}`,
			want{"osd_network": prefixes("10.0.0.0/8"), "osd_cluster_network": prefixes("10.1.2.3/16")}},
		{OSD, `{"osd_cluster_network":"10.1.0.0/16"}`, want{"osd_network": prefixes("10.1.0.0/16")}},
		{OSD, `{"enable_pg_locks":false}`, want{"enable_pg_locks": false}},
	} {
		s := merge(t, c.c, layer(t, Superblock, c.text))
		for name, v := range c.want {
			if !reflect.DeepEqual(s.Get(name), v) {
				t.Errorf("%s %s: %s = %v, want %v", c.c, c.text, name, s.Get(name), v)
			}
		}
	}
	s := merge(t, Monitor, layer(t, File, `{"placement_levels":{"dc":"1","host":5}}`))
	levels := s.Object("placement_levels")
	if got := string(levels.Encode()); got != `{"dc":"1","host":5,"osd":101}` {
		t.Errorf("levels %s", got)
	}
}

func TestTypedConfigs(t *testing.T) {
	s := merge(t, OSD, layer(t, File, `{"etcd_address":["a:1"],"scrub_interval":"1h","enable_pg_locks":true,"immediate_commit":"small","recovery_tune_util_low":0.5}`),
		layer(t, Superblock, `{"osd_num":"7","data_device":"/dev/x","block_size":"1m","bind_port":80,"readonly":"1"}`))
	c, err := s.OSD()
	if err != nil {
		t.Fatal(err)
	}
	if c.Common.EtcdAddress[0] != "a:1" || c.Scrub.Interval != time.Hour || c.EnablePGLocks != On || c.Layout.Pools.Commit != meta.CommitSmall ||
		c.Recovery.TuneUtilLow != 0.5 || c.Layout.OSDNum != 7 || c.Layout.MetaDevice != "/dev/x" || c.Layout.Pools.BlockBytes != 1<<20 ||
		c.BindPort != 80 || !c.Store.ReadOnly || c.Network.LogLevel != 1 || c.Network.MinZeroCopyBytes != 32768 || !c.RunPrimary {
		t.Errorf("%+v", c)
	}
	if c, _ := merge(t, OSD, layer(t, Global, `{"enable_pg_locks":"no"}`)).OSD(); c.EnablePGLocks != Off {
		t.Error("enable_pg_locks: no")
	}
	c, err = merge(t, OSD).OSD()
	for _, name := range []string{"etcd_address", "osd_num"} {
		if err == nil || !strings.Contains(err.Error(), "parameter "+name+" is required, but not given") {
			t.Errorf("%s is missing: %v", name, err)
		}
	}
	if c.EnablePGLocks != Auto || c.Store.AutosyncWrites != 128 {
		t.Error("defaults with missing options")
	}
	client, err := merge(t, Client, layer(t, Driver, `{"etcd_address":"a","client_retry_enospc":"0"}`)).Client()
	if err != nil || client.RetryENOSPC || client.WaitUpTimeout != 16*time.Second || client.Pools.Commit != meta.CommitAll || client.HostName != "me" {
		t.Errorf("%v %+v", err, client)
	}
	monitor, err := merge(t, Monitor, layer(t, CommandLine, `{"etcd_url":"a","enable_prometheus":"no"}`)).Monitor()
	if err != nil || monitor.HTTP.EnablePrometheus || monitor.HTTP.Port != 8060 || monitor.OSDOutTime != 10*time.Minute || monitor.Pools.BlockBytes != 131072 ||
		string(monitor.PlacementLevels.Get("host")) != "100" {
		t.Errorf("%v %+v", err, monitor)
	}
}

func TestGetters(t *testing.T) {
	s := merge(t, CLI, layer(t, File, `{"osd_nearfull_ratio":0.5,"osd_network":"10.0.0.0/8","readonly":true}`))
	if s.Float("osd_nearfull_ratio") != 0.5 || len(s.Networks("osd_network")) != 1 || !s.Bool("readonly") || s.Text("etcd_prefix") != "/vitastor" {
		t.Error("getters")
	}
	for _, f := range []func(){func() { s.Get("nothing") }, func() { s.Int("etcd_prefix") }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a wrong name or type in the program went unnoticed")
				}
			}()
			f()
		}()
	}
}

func TestDiff(t *testing.T) {
	before := merge(t, OSD, layer(t, Global, `{"log_level":1,"autosync_writes":5,"etcd_report_interval":5,"mon_http_port":1,"osd_network":"10.0.0.0/8"}`))
	after := merge(t, OSD, layer(t, Global, `{"log_level":3,"autosync_writes":"5","etcd_report_interval":20,"mon_http_port":2,"osd_network":["10.0.0.0/8"],"mon_change_timeout":5}`))
	live, restart := Diff(before, after)
	if got := fmt.Sprint(live); got != "[log_level: 1 -> 3 etcd_keepalive_timeout: 30 -> 40]" {
		t.Errorf("live: %s", got)
	}
	if got := fmt.Sprint(restart); got != "[etcd_report_interval: 5 -> 20]" {
		t.Errorf("restart: %s", got)
	}
	if live, restart := Diff(before, before); live != nil || restart != nil {
		t.Error("a set differs from itself")
	}
	live, restart = Diff(merge(t, Monitor), merge(t, Monitor, layer(t, Global, `{"osd_out_time":60,"etcd_mon_ttl":9}`)))
	if len(live) != 1 || live[0].Option.Name != "osd_out_time" || len(restart) != 1 || restart[0].Option.Name != "etcd_mon_ttl" {
		t.Errorf("monitor: %v %v", live, restart)
	}
}

func TestReadLayer(t *testing.T) {
	for _, c := range []struct {
		c       Component
		src     Source
		text    string
		problem string // "" = none
		fatal   bool
	}{
		{OSD, File, `{"a":1}`, "", false},
		{OSD, File, ` null `, "", false},
		{OSD, File, ``, "there is nothing in it", false},
		{OSD, File, `{"a":1`, `found {"a":1, which is not JSON (unexpected end of JSON input); it is treated as empty`, false},
		{Client, File, `[1]`, "must be a JSON object; found [1], which is not a JSON object; it is treated as empty", false},
		{Monitor, File, `{"a":1,}`, "correct or remove it", true},
		{Monitor, File, ` `, "correct or remove it", true},
		{Monitor, Global, `5`, "it is treated as empty", false},
		{OSD, Superblock, `5`, "correct or remove it", true},
	} {
		l, p := ReadLayer(c.c, c.src, "/etc/v.conf", []byte(c.text))
		switch {
		case (p == nil) != (c.problem == ""):
			t.Errorf("%s %q: %v", c.c, c.text, p)
		case p != nil && (p.Fatal != c.fatal || !strings.Contains(p.Error(), c.problem) || !strings.HasPrefix(p.Error(), "/etc/v.conf: ") || l.Values.Len() != 0):
			t.Errorf("%s %q: %v (fatal %t)", c.c, c.text, p, p.Fatal)
		}
	}
	if l, p := ReadLayer(Monitor, File, "x", nil); p != nil || l.Values.Len() != 0 || l.Source != File {
		t.Errorf("a file that does not exist: %v %v", l, p)
	}
}

// FuzzConfigFile reads any bytes as each source of each component.
func FuzzConfigFile(f *testing.F) {
	f.Add([]byte(`{"etcd_address":["10.0.0.1:2379"],"osd_network":"10.0.0.0/8","log_level":"3","x":{}}`))
	f.Add([]byte(`{"flusher_count":"1","cached_io_data":[],"placement_levels":{"dc":null}}`))
	f.Add([]byte(`{"etcd_quick_timeout":1e18,"max_etcd_attempts":2147483647}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range []Component{OSD, Client, Monitor} {
			for _, src := range []Source{File, Global, CommandLine} {
				l, problem := ReadLayer(c, src, "x", data)
				if problem != nil && l.Values.Len() != 0 {
					t.Fatal("a wrong file is not empty")
				}
				s, err := Merge(c, Facts{}, l)
				if err != nil && src != CommandLine {
					t.Fatalf("%s in %s stops the program: %v", data, src, err)
				}
				fillAny(s, c)
				if live, restart := Diff(s, s); len(live)+len(restart) > 0 {
					t.Fatal("a set differs from itself")
				}
			}
		}
	})
}
