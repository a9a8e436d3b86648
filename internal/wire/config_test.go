package wire

import (
	"strings"
	"testing"

	"vitastor/internal/meta"
)

// Texts captured from the reference: spec wire.md §15.
const (
	goldenConfigRequest = `{"features": {"check_sequencing": true}}`
	goldenConfigReply   = `{"bitmap_granularity": 4096, "block_size": 131072, "blockstore_enabled": true, ` +
		`"features": {"pg_locks": true}, "immediate_commit": "all", "lease_timeout": 15, "osd_num": 1, ` +
		`"primary_enabled": true, "protocol_version": 1, "readonly": false}` + "\x00"
)

var goldenReply = ConfigReply{
	OSDNum: 1, ProtocolVersion: 1, BlockBytes: 131072, GranularityBytes: 4096, ImmediateCommit: "all",
	PrimaryEnabled: true, BlockstoreEnabled: true, LeaseTimeoutSec: 15, PGLocks: true,
}

func TestGoldenConfig(t *testing.T) {
	request := ConfigRequest{CheckSequencing: true}
	if got := string(request.AppendJSON(nil)); got != goldenConfigRequest || len(got) != 0x28 {
		t.Errorf("request %s", got)
	}
	if got := ParseConfigRequest([]byte(goldenConfigRequest)); got != request {
		t.Errorf("request %+v", got)
	}
	if got := string(goldenReply.AppendJSON(nil)); got != goldenConfigReply || len(got) != 0xf0 {
		t.Errorf("reply of %d bytes %q", len(got), got)
	}
	if got, err := ParseConfigReply([]byte(goldenConfigReply)); err != nil || got != goldenReply {
		t.Errorf("reply %+v, %v", got, err)
	}
}

func TestConfigRoundTrip(t *testing.T) {
	request := ConfigRequest{OSDNum: 3, CheckSequencing: true, ConnectRDMA: `0003:"<`, RDMAMaxMsg: RDMAMaxMsgBytes}
	text := request.AppendJSON([]byte("x"))
	if got := ParseConfigRequest(text[1:]); got != request {
		t.Errorf("%s is %+v", text, got)
	}
	reply := goldenReply
	reply.RDMAEnabled, reply.RDMAAddress, reply.RDMAMaxMsg = true, "0003:0001a4:7f03c2:fe80", 4096
	reply.PGLocks, reply.Readonly, reply.OSDNum = false, true, 1<<64-1
	text = reply.AppendJSON(nil)
	if got, err := ParseConfigReply(text); err != nil || got != reply {
		t.Errorf("%s is %+v, %v", text, got, err)
	}
}

func TestParseConfigRequestIsTolerant(t *testing.T) {
	for text, want := range map[string]ConfigRequest{
		"":                                  {},
		"\x00":                              {},
		"null":                              {},
		"17":                                {},
		"[1]":                               {},
		`"x"`:                               {},
		"{":                                 {},
		"garbage":                           {},
		`{"osd_num":3} x`:                   {},
		"{}":                                {},
		"{\"osd_num\":3}\x00junk":           {OSDNum: 3},
		` {"osd_num" : "3"} `:               {OSDNum: 3},
		`{"osd_num":3.0}`:                   {OSDNum: 3},
		`{"osd_num":3e0}`:                   {OSDNum: 3},
		`{"osd_num":-3}`:                    {},
		`{"osd_num":"x"}`:                   {},
		`{"osd_num":"NaN"}`:                 {},
		`{"osd_num":1.8446744073709552e19}`: {},
		`{"osd_num":1.8e19}`:                {OSDNum: 18e18},
		`{"osd_num":1e30}`:                  {},
		`{"osd_num":18446744073709551615}`:  {OSDNum: 1<<64 - 1},
		`{"osd_num":[1],"connect_rdma":5,"rdma_max_msg":"129"}`:      {RDMAMaxMsg: 129},
		`{"OSD_NUM":3,"features":{"CHECK_SEQUENCING":true}}`:         {},
		`{"osd_num":1,"osd_num":2,"features":[true],"unknown":{}}`:   {OSDNum: 2},
		`{"features":{"check_sequencing":1}}`:                        {CheckSequencing: true},
		`{"features":{"check_sequencing":"true"}}`:                   {CheckSequencing: true},
		`{"features":{"check_sequencing":false}}`:                    {},
		`{"features":{"check_sequencing":0}}`:                        {},
		`{"features":{"check_sequencing":"no"}}`:                     {},
		`{"features":null,"connect_rdma":"a\u0000b","osd_num":true}`: {ConnectRDMA: "a\x00b"},
	} {
		if got := ParseConfigRequest([]byte(text)); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
}

func TestParseConfigReply(t *testing.T) {
	for _, bad := range []string{"", "\x00", "null", "[]", "{", `{"osd_num":1`} {
		if got, err := ParseConfigReply([]byte(bad)); err == nil {
			t.Errorf("%q accepted as %+v", bad, got)
		}
	}
	got, err := ParseConfigReply([]byte(`{"osd_num":"2","protocol_version":"1","block_size":"131072","readonly":1}`))
	if err != nil || got != (ConfigReply{OSDNum: 2, ProtocolVersion: 1, BlockBytes: 131072, Readonly: true}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConfigReplyCheck(t *testing.T) {
	if err := goldenReply.Check(1); err != nil {
		t.Error(err)
	}
	if err := goldenReply.Check(2); err == nil || !strings.Contains(err.Error(), "/osd/state/2") {
		t.Errorf("another OSD: %v", err)
	}
	for _, v := range []uint64{0, 2} {
		reply := goldenReply
		reply.ProtocolVersion = v
		if err := reply.Check(1); err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

func TestConfigReplyCheckStore(t *testing.T) {
	mine := StoreParams{BlockBytes: 131072, GranularityBytes: 4096, Commit: meta.CommitAll}
	if err := (&ConfigReply{OSDNum: 1}).CheckStore(mine); err != nil {
		t.Errorf("a peer without any store parameters: %v", err)
	}
	for _, some := range []ConfigReply{{ImmediateCommit: "all"}, {BlockBytes: 131072}, {GranularityBytes: 4096}} {
		if !some.HasStoreParams() || some.CheckStore(mine) == nil {
			t.Errorf("%+v passes with a part of the parameters", some)
		}
	}
	for _, c := range []struct {
		mine meta.CommitMode
		peer string
		ok   bool
	}{
		{meta.CommitAll, "all", true}, {meta.CommitAll, "small", false}, {meta.CommitAll, "none", false}, {meta.CommitAll, "", false},
		{meta.CommitSmall, "all", true}, {meta.CommitSmall, "small", true}, {meta.CommitSmall, "none", false}, {meta.CommitSmall, "?", false},
		{meta.CommitNone, "all", true}, {meta.CommitNone, "small", true}, {meta.CommitNone, "none", true}, {meta.CommitNone, "?", true},
	} {
		reply, mine := goldenReply, mine
		reply.ImmediateCommit, mine.Commit = c.peer, c.mine
		if err := reply.CheckStore(mine); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "immediate_commit") {
			t.Errorf("mine %v, peer %q: %v", c.mine, c.peer, err)
		}
	}
	for name, change := range map[string]func(*ConfigReply){
		"block_size":         func(r *ConfigReply) { r.BlockBytes += 1 << 32 },
		"bitmap_granularity": func(r *ConfigReply) { r.GranularityBytes = 0 },
	} {
		reply := goldenReply
		change(&reply)
		if err := reply.CheckStore(mine); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}
