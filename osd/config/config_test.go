package config

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/store/layout"
)

func object(t *testing.T, text string) *schema.Object {
	o, err := schema.DecodeObject("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &o
}

// loader has a file, a superblock and a command line.
func loader(t *testing.T, file, superblock, command string) (*Loader, *bytes.Buffer) {
	log := &bytes.Buffer{}
	l := &Loader{Keys: schema.NewKeys(""), Log: slog.New(slog.NewTextHandler(log, nil))}
	l.File = option.Layer{Source: option.File, Where: "the file", Values: *object(t, file)}
	l.Superblock = option.Layer{Source: option.Superblock, Where: "the superblock", Values: *object(t, superblock)}
	tool := option.Tool{Name: "vitastor-osd", Component: option.OSD}
	c, err := tool.Parse(strings.Fields(command))
	if err != nil {
		t.Fatal(err)
	}
	l.CommandLine = c.Options
	return l, log
}

func TestPrecedence(t *testing.T) {
	l, log := loader(t, `{"etcd_address":"f","autosync_writes":1,"recovery_queue_depth":1,"scrub_sleep":1,"max_write_iodepth":1}`,
		`{"osd_num":5,"data_device":"/dev/x","max_write_iodepth":3,"autosync_writes":3}`, "--autosync_writes 4")
	c, err := l.Load(object(t, `{"autosync_writes":2,"recovery_queue_depth":2,"max_write_iodepth":2,"no_such_thing":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Store.AutosyncWrites != 4 || c.Store.MaxWriteIODepth != 3 || c.Recovery.QueueDepth != 2 || c.Scrub.Sleep != time.Millisecond ||
		c.Layout.OSDNum != 5 || c.EtcdLeaseTTL != 4*time.Second || !slices.Equal(c.Common.EtcdAddress, []string{"f"}) {
		t.Errorf("%+v", c.OSDConfig)
	}
	for range 3 {
		l.Reload(c, object(t, `{"no_such_thing":1,"other":2}`))
	}
	if n := strings.Count(log.String(), "no_such_thing"); n != 1 {
		t.Errorf("told %d times: %s", n, log)
	}
}

func TestMissingAndWrong(t *testing.T) {
	for _, c := range []struct{ command, global, want string }{
		{"--data_device /d --osd_num 1", `{}`, "etcd_address is required"},
		{"--etcd_address a --data_device /d", `{}`, "/d has no superblock: prepare it (vitastor-disk prepare --data_device /d)"},
		{"--etcd_address a", `{}`, "data_device is not given: the device or file prepared by vitastor-disk"},
		{"--etcd_address a --osd_num 1", `{}`, "data_device is not given: the device or file prepared by vitastor-disk"},
		{"--etcd_address a --osd_num x --data_device /d", `{}`, `parameter osd_num is "x" in the command line: must be`},
		{"--etcd_address a --osd_num 1 --data_device /d --disable_blockstore 1", `{}`, "an OSD without a disk is not supported"},
		{"--etcd_address a --osd_num 1 --data_device /d", `{"recovery_queue_depth":"x"}`, ""},
	} {
		l, _ := loader(t, "{}", "{}", c.command)
		_, err := l.Load(object(t, c.global))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.command, err, c.want)
		}
	}
	l, log := loader(t, "{}", "{}", "--etcd_address a --osd_num 1 --data_device /d --use_rdma 1 --osd_iothread_count 4")
	if _, err := l.Load(nil); err != nil || !strings.Contains(log.String(), "RDMA is not supported") || !strings.Contains(log.String(), "osd_iothread_count is set") {
		t.Errorf("%v %s", err, log)
	}
}

func TestReload(t *testing.T) {
	l, log := loader(t, "{}", "{}", "--etcd_address a --osd_num 1 --data_device /d --scrub_sleep 7")
	c, err := l.Load(object(t, `{"osd_network":"10.0.0.0/8"}`))
	if err != nil {
		t.Fatal(err)
	}
	same, changed := l.Reload(c, object(t, `{"osd_network":"10.0.0.0/8","scrub_sleep":9}`))
	if same != c || len(changed) != 0 {
		t.Errorf("the command line does not count most: %v", changed)
	}
	next, changed := l.Reload(c, object(t, `{"osd_network":"11.0.0.0/8","recovery_queue_depth":9,"bind_port":77,"etcd_lease_ttl":9,"log_level":3}`))
	if len(changed) != 2 || next.Recovery.QueueDepth != 9 || next.LogLevel() != slog.LevelDebug {
		t.Errorf("%v %+v", changed, next.Recovery)
	}
	if next.BindPort != 0 || next.EtcdLeaseTTL != 4*time.Second || next.Network.Public[0].Addr().String() != "10.0.0.0" {
		t.Error("what needs a restart was changed")
	}
	for _, want := range []string{"bind_port", "etcd_lease_ttl", "osd_network", "takes effect at the next start"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("nothing said about %s: %s", want, log)
		}
	}
	// And back again: what was changed while running is compared with the new one.
	back, changed := l.Reload(next, object(t, `{}`))
	if len(changed) != 2 || back.Recovery.QueueDepth != 1 || back.LogLevel() != slog.LevelInfo {
		t.Errorf("%v", changed)
	}
}

// What vitastor-disk writes into a superblock makes the store it prepared.
func TestLayout(t *testing.T) {
	super := `{"osd_num":3,"data_device":"/d","meta_device":"","journal_device":"","data_offset":10485760,"meta_offset":4096,"journal_offset":9437184,
		"journal_size":1048576,"block_size":131072,"bitmap_granularity":4096,"disable_data_fsync":true,"disable_meta_fsync":true,
		"disable_journal_fsync":true,"immediate_commit":"all","data_csum_type":"crc32c","csum_block_size":4096,"atomic_write_size":0,"data_io":"cached"}`
	l, _ := loader(t, `{"etcd_address":["a"]}`, super, "--min_flusher_count 3")
	c, err := l.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := layout.NewParams(c.LayoutOptions(), layout.DeviceBytes{Data: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if p.OSDNum != 3 || !p.WriteThrough() || p.Geometry.CsumBytes != 4096 || p.AtomicWriteBytes != 0 || p.ImmediateCommit != "all" {
		t.Errorf("%+v", p)
	}
	s := c.StoreConfig(p)
	if s.MinCompactors != 3 || s.MaxCompactors != 0 || s.Commit.String() != "all" || s.ReadAheadStartBytes != 0 || s.MaxWriteDepth != 128 {
		t.Errorf("%+v", s)
	}
	if n := c.AutosyncWrites(p.Buffer.Bytes); n != 4 {
		t.Errorf("autosync_writes %d, limited by a buffer area of 8 blocks to 4", n)
	}
	if d, m, b := c.Devices(); d != m || m != b || d.Path != "/d" || d.Options.Mode != env.DiskCached {
		t.Errorf("%v %v %v", d, m, b)
	}
}

func TestBind(t *testing.T) {
	host := []Interface{{Addr: netip.MustParseAddr("127.0.0.1"), Loopback: true}, {Addr: netip.MustParseAddr("10.1.1.1")},
		{Addr: netip.MustParseAddr("192.168.7.1")}, {Addr: netip.MustParseAddr("fd00::1")}}
	for _, c := range []struct{ options, listen, announce, err string }{
		{"", "0.0.0.0", "10.1.1.1 192.168.7.1", ""},
		{"--bind_address 192.168.7.1", "192.168.7.1", "192.168.7.1", ""},
		{"--bind_address ::", "::", "10.1.1.1 192.168.7.1", ""},
		{"--osd_network 10.0.0.0/8", "10.1.1.1", "10.1.1.1", ""},
		{"--osd_network 127.0.0.0/8", "127.0.0.1", "127.0.0.1", ""},
		{"--osd_network 10.0.0.0/8 --osd_cluster_network 192.168.0.0/16", "10.1.1.1 192.168.7.1", "10.1.1.1 192.168.7.1", ""},
		{"--osd_network 172.16.0.0/12", "", "", "no address of this host is inside osd_network"},
		{"--bind_address here", "", "", `bind_address "here" is not an IP address`},
	} {
		l, _ := loader(t, "{}", "{}", "--etcd_address a --osd_num 1 --data_device /d "+c.options)
		f, err := l.Load(nil)
		if err != nil {
			t.Fatal(err)
		}
		listen, announce, err := f.Bind(host)
		if text(listen) != c.listen || text(announce) != c.announce || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v %v %v", c.options, listen, announce, err)
		}
	}
	l, _ := loader(t, "{}", "{}", "--etcd_address a --osd_num 1 --data_device /d")
	f, _ := l.Load(nil)
	if _, announce, _ := f.Bind(host[:1]); text(announce) != "127.0.0.1" {
		t.Errorf("a host without a network announces %v", announce)
	}
	if f.ReferenceLease() != 15*time.Second || f.Patience() != 16*time.Second {
		t.Errorf("%v %v", f.ReferenceLease(), f.Patience())
	}
}

func text(list []netip.Addr) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}
