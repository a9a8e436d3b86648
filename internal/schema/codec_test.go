package schema

import (
	"bytes"
	"testing"

	"vitastor/internal/meta"
)

// codec reads a value and writes it again the way its writer does.
type codec func(key string, data []byte) ([]byte, error)

// recode makes a codec from a decoder and the encoder of its result.
func recode[T any](decode func(string, []byte) (T, error), encode func(*T) []byte) codec {
	return func(key string, data []byte) ([]byte, error) {
		v, err := decode(key, data)
		return encode(&v), err
	}
}

func decodePools(key string, data []byte) (*Pools, error) {
	return DecodePools(key, data, BuiltinPoolDefaults())
}

func decodeInode(key string, data []byte) (InodeConfig, error) {
	return DecodeInodeConfig(key, meta.MakeInode(1, 7), data)
}

var codecs = map[Kind]codec{
	KindGlobal:        recode(DecodeObject, (*Object).Encode),
	KindNodePlacement: recode(DecodeObject, (*Object).Encode),
	KindPools:         recode(decodePools, func(p **Pools) []byte { return (*p).Config.Encode() }),
	KindOSDConfig:     recode(DecodeOSDConfig, (*OSDConfig).Encode),
	KindInodeConfig:   recode(decodeInode, (*InodeConfig).Encode),
	KindImageIndex: recode(DecodeImageIndex, func(i *meta.Inode) []byte {
		if *i == 0 {
			return nil
		}
		return EncodeImageIndex(*i)
	}),
	KindMaxID:    recode(DecodeMaxID, func(n *uint64) []byte { return EncodeMaxID(*n) }),
	KindOSDState: recode(DecodeOSDState, (*OSDState).Encode),
	KindOSDStats: recode(DecodeOSDStats, (*OSDStats).Encode),
	KindOSDSpace: recode(DecodeOSDSpace, func(l *[]InodeBytes) []byte { return EncodeOSDSpace(*l) }),
	KindInodeIO:  recode(DecodeInodeIO, func(l *[]InodeIO) []byte { return EncodeInodeIO(*l) }),
	KindPGConfig: recode(DecodePGConfig, func(c **PGConfig) []byte { return (*c).Encode() }),
	KindPGState: recode(DecodePGState, func(s *PGState) []byte {
		if s.State == 0 {
			return nil
		}
		return s.Encode()
	}),
	KindPGHistory:    recode(DecodePGHistory, (*PGHistory).EncodeMon),
	KindPGStats:      recode(DecodePGStats, (*PGStats).Encode),
	KindLastCleanPGs: recode(DecodePGConfig, func(c **PGConfig) []byte { return (*c).EncodeItems() }),
	KindMonMaster:    recode(DecodeMonitor, (*Monitor).Encode),
	KindMonMember:    recode(DecodeMonitor, (*Monitor).Encode),
	KindStats:        recode(DecodeStats, (*Stats).Encode),
	KindInodeStats:   recode(DecodeInodeStats, (*InodeStats).Encode),
	KindPoolStats:    recode(DecodePoolStats, (*PoolStats).Encode),
	KindLegacyPGConfig: recode(DecodePGConfig,
		func(c **PGConfig) []byte { return (*c).Encode() }),
	KindLegacyPGStats: recode(DecodePGStats, (*PGStats).Encode),
}

// golden are the examples of etcd.md §7; shortened ones are made complete.
var golden = []struct{ key, text string }{
	{"config/global", `{"immediate_commit":"all","block_size":131072}`},
	{"config/pools", `{"1":{"name":"testpool","scheme":"replicated","pg_size":2,"pg_minsize":1,"pg_count":256,"failure_domain":"host"},"2":{"name":"ecpool","scheme":"ec","pg_size":6,"parity_chunks":2,"pg_minsize":5,"pg_count":128,"level_placement":{"dc":"112233"}}}`},
	{"config/node_placement", `{"rack1":{"level":"rack"},"stor1":{"level":"host","parent":"rack1"},"7":{"parent":"stor9"}}`},
	{"config/osd/3", `{"reweight":0.5,"tags":["nvme"],"noout":true}`},
	{"config/inode/1/7", `{"name":"vm1","parent_id":6,"size":10737418240}`},
	{"config/inode/1/7", `{"deleted":true,"meta":{"a":[1,18446744073709551615]},"name":"vm1@s","parent_id":6,"parent_pool":2,"readonly":true,"size":18446744073709551615}`},
	{"index/image/vm1", `{"id":7,"pool_id":1}`},
	{"index/maxid/1", `7`},
	{"osd/state/1", `{"addresses":["10.0.0.5"],"blockstore_enabled":true,"host":"stor1","port":43567,"primary_enabled":true,"state":"up","version":"3.0.8"}`},
	{"osd/state/1", `{"addresses":["10.0.0.5","10.1.0.5"],"blockstore_enabled":false,"host":"stor1","port":43567,"primary_enabled":true,"rdmacm_port":43568,"state":"up","version":"3.0.8"}`},
	{"pg/config", `{"hash":"44f71f8a0c4d1822ed04b4aac7b7f81625c9c852","items":{"1":{"1":{"osd_set":["3","5"],"primary":"5"},"2":{"osd_set":["6",0],"primary":"6"}}}}`},
	{"pg/config", `{"backfillfull_pools":["1"],"hash":"44f7","items":{"1":{"1":{"osd_set":["3","5",0],"pause":true,"primary":"3"},"2":{"osd_set":[0,0],"primary":0}},"2":{},"10":{}}}`},
	{"pg/state/1/1", `{"peers":[3,5],"primary":5,"state":["active"]}`},
	{"pg/state/1/2", `{"peers":[6],"primary":6,"state":["active","degraded","left_on_dead"]}`},
	{"pg/history/1/9", `{"osd_sets":[["3","5"]],"all_peers":[3,5],"epoch":5}`},
	{"pg/history/1/9", `{"osd_sets":[["3",0]],"all_peers":[],"epoch":5,"next_scrub":1,"note":"x"}`},
	{"pgstats/1/1", `{"clean_count":8,"degraded_count":0,"incomplete_count":0,"misplaced_count":2,"object_count":10,"write_osd_set":[3,5]}`},
	{"pg/stats/1/1", `{"clean_count":8,"corrupted_count":1,"degraded_count":0,"incomplete_count":0,"misplaced_count":1,"object_count":10,"write_osd_set":[0,4]}`},
	{"history/last_clean_pgs", `{"items":{"1":{"1":{"osd_set":["3","5"],"primary":"5"}}}}`},
	{"config/pgs", `{"hash":"44f7","items":{"1":{"1":{"osd_set":["3","5"],"primary":"5"}}}}`},
	{"osd/stats/1", `{"time":"1795175664.500","blockstore_ready":true,"size":1073741824,"free":536870912,"data_block_size":131072,"bitmap_granularity":4096,"immediate_commit":"all","host":"stor1","version":"3.0.8","op_stats":{"primary_write":{"count":10,"usec":5000,"bytes":1310720,"lat":500,"bps":43690,"iops":0}},"subop_stats":{},"recovery_stats":{"degraded":{"count":0,"bytes":0,"usec":0,"lat":0,"bps":0,"iops":0},"misplaced":{"count":0,"bytes":0,"usec":0,"lat":0,"bps":0,"iops":0}}}`},
	{"osd/stats/2", `{}`},
	{"osd/stats/3", `{"time":"1795175664.007","host":"h","slow_ops_primary":2,"slow_ops_secondary":1,"subop_stats":{"ping":{"count":1,"usec":2,"lat":3,"iops":4}}}`},
	{"osd/space/1", `{"1":{"7":1048576,"8":4096}}`},
	{"osd/space/1", `{"1":{"7":1048576},"2":{"0":18446744073709551615,"1":1}}`},
	{"osd/space/1", `{}`},
	{"osd/inodestats/1", `{"1":{"7":{"read":{"count":100,"usec":1000,"bytes":409600},"write":{"count":10,"usec":5000,"bytes":1310720},"delete":{"count":0,"usec":0,"bytes":0}}}}`},
	{"mon/master", `{"ip":["10.0.0.5"],"hostname":"stor1","id":"9074649864167345158"}`},
	{"mon/member/9074649864167345158", `{"ip":["10.0.0.5"],"hostname":"stor1"}`},
	{"stats", `{"op_stats":{"read":{"bytes":"4096000","usec":"4000","count":"400","bps":"1340509","iops":"109","lat":"10"}},"subop_stats":{},"recovery_stats":{"degraded":{},"misplaced":{}},"object_counts":{"object":"10","clean":"8","misplaced":"2","degraded":"0","incomplete":"0"},"object_bytes":{"object":"1310720","clean":"1048576","misplaced":"262144","degraded":"0","incomplete":"0"}}`},
	{"stats", `{"op_stats":{},"subop_stats":{"ping":{"usec":"1","count":"2","iops":"3","lat":"4"}},"recovery_stats":{"degraded":{"count":"1","bytes":"2","bps":"3","iops":"4"},"misplaced":{}},"object_counts":{"object":"0","clean":"0","misplaced":"0","degraded":"0","incomplete":"0"},"object_bytes":{"object":"0","clean":"0","misplaced":"0","degraded":"0","incomplete":"0"}}`},
	{"inode/stats/1/7", `{"raw_used":"1048576","read":{"count":"400","usec":"4000","bytes":"4096000","bps":"1340509","iops":"109","lat":"10"},"write":{"count":"0","usec":"0","bytes":"0","bps":"0","iops":"0","lat":"0"},"delete":{"count":"18446744073709551615","usec":"0","bytes":"0","bps":"0","iops":"0","lat":"0"}}`},
	{"pool/stats/1", `{"used_raw_tb":9.57e-7,"total_raw_tb":0.0052,"pg_real_size":2,"raw_to_usable":2,"space_efficiency":0.711}`},
}

func TestGolden(t *testing.T) {
	keys := NewKeys("")
	seen := make(map[Kind]bool)
	for _, g := range golden {
		key, ok := keys.Parse("/vitastor/" + g.key)
		if !ok {
			t.Errorf("%s: not a key", g.key)
			continue
		}
		seen[key.Kind] = true
		got, err := codecs[key.Kind](g.key, []byte(g.text))
		if err != nil || string(got) != g.text {
			t.Errorf("%s: error %v\n got %s\nwant %s", g.key, err, got, g.text)
		}
	}
	for kind := KindGlobal; kind < kindCount; kind++ {
		if codecs[kind] == nil || !seen[kind] {
			t.Errorf("%v: no codec or no example", kind)
		}
	}
}

// TestGoldenHistoryByOSD: the one key with two writers of different form.
func TestGoldenHistoryByOSD(t *testing.T) {
	const text = `{"all_peers":[3,5],"epoch":5,"osd_sets":[]}`
	h, err := DecodePGHistory("pg/history/1/1", []byte(text))
	if err != nil || string(h.EncodeOSD()) != text {
		t.Errorf("%v, %s", err, h.EncodeOSD())
	}
}

// TestNothing: a deleted key, an empty value and null are the same.
func TestNothing(t *testing.T) {
	for kind, c := range codecs {
		want, err := c("k", nil)
		if err != nil {
			t.Errorf("%v: missing key: %v", kind, err)
		}
		for _, text := range []string{"", "null", " null\n", "  "} {
			if got, err := c("k", []byte(text)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v: %q gives %s, %v", kind, text, got, err)
			}
		}
	}
}

// TestNotJSON: every decoder refuses broken text and names the key.
func TestNotJSON(t *testing.T) {
	for kind, c := range codecs {
		for _, text := range []string{"{", `{"a":1}}`, `{"a":}`, "nul", `"\x"`, "\x00", "[1,]"} {
			_, err := c("/v/key", []byte(text))
			if err == nil || !bytes.Contains([]byte(err.Error()), []byte("etcd key /v/key")) {
				t.Errorf("%v: %q: error %v", kind, text, err)
			}
		}
		if kind == KindMaxID {
			continue
		}
		for _, text := range []string{"[]", "5", `"text"`, "true"} {
			if _, err := c("/v/key", []byte(text)); err == nil {
				t.Errorf("%v: %s is not an object, but accepted", kind, text)
			}
		}
	}
}

// FuzzCodecs: no decoder panics, and what it understood survives being written
// and read again.
func FuzzCodecs(f *testing.F) {
	keys := NewKeys("")
	for _, g := range golden {
		key, _ := keys.Parse("/vitastor/" + g.key)
		f.Add(uint8(key.Kind), []byte(g.text))
	}
	for _, m := range mixtures {
		f.Add(uint8(m.kind), []byte(m.text))
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		c := codecs[Kind(kind)]
		if c == nil {
			return
		}
		first, err := c("k", data)
		if err != nil {
			return
		}
		second, err := c("k", first)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%v: error %v\n once  %s\n twice %s", Kind(kind), err, first, second)
		}
	})
}
