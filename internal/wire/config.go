package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"vitastor/internal/meta"
)

// ShowConfig is the request of SHOW_CONFIG (§4.1); a ConfigRequest in JSON
// follows. The reply is a StatusReply and a ConfigReply in JSON, whose length
// is the retval.
//
//	24         32
//	| json_len |
type ShowConfig struct {
	ID      uint64
	JSONLen uint64 // may be 0
}

// Encode writes the whole packet.
func (r *ShowConfig) Encode(p *Packet) {
	p.startRequest(r.ID, OpShowConfig)
	le.PutUint64(p[24:32], r.JSONLen)
}

// Decode reads the fields.
func (r *ShowConfig) Decode(p *Packet) { *r = ShowConfig{ID: p.ID(), JSONLen: le.Uint64(p[24:32])} }

// ConfigRequest is how the initiator of a connection introduces itself.
type ConfigRequest struct {
	OSDNum meta.OSDNum // 0 = a client
	// CheckSequencing asks the server to drop the connection when a request
	// id is skipped. Always set by ours; each SHOW_CONFIG sets it anew.
	CheckSequencing bool
	ConnectRDMA     string // address for an RDMA upgrade; "" = stay on TCP
	RDMAMaxMsg      uint64 // bytes
}

// AppendJSON appends the text of the request.
func (c *ConfigRequest) AppendJSON(b []byte) []byte {
	w := objectWriter{b: append(b, '{')}
	if c.ConnectRDMA != "" {
		w.str("connect_rdma", c.ConnectRDMA)
	}
	w.key("features")
	w.b = append(w.b, '{')
	w.more = false
	w.bool("check_sequencing", c.CheckSequencing)
	w.b = append(w.b, '}')
	if c.OSDNum != 0 {
		w.uint("osd_num", uint64(c.OSDNum))
	}
	if c.RDMAMaxMsg != 0 {
		w.uint("rdma_max_msg", c.RDMAMaxMsg)
	}
	return append(w.b, '}')
}

// ParseConfigRequest reads the payload of a SHOW_CONFIG request. Compat: it
// cannot fail; an empty text, or one that is not a JSON object, says nothing.
func ParseConfigRequest(text []byte) ConfigRequest {
	o, _ := parseObject(text)
	return ConfigRequest{
		OSDNum:          meta.OSDNum(o.uint("osd_num")),
		CheckSequencing: o.object("features").bool("check_sequencing"),
		ConnectRDMA:     o.str("connect_rdma"),
		RDMAMaxMsg:      o.uint("rdma_max_msg"),
	}
}

// ConfigReply is how an OSD introduces itself (§4.2).
type ConfigReply struct {
	OSDNum            meta.OSDNum
	ProtocolVersion   uint64
	BlockBytes        uint64 // block_size of the store
	GranularityBytes  uint64 // bitmap_granularity of the store
	ImmediateCommit   string // all, small or none
	PrimaryEnabled    bool
	BlockstoreEnabled bool
	Readonly          bool
	LeaseTimeoutSec   uint64
	PGLocks           bool // features.pg_locks: the server implements SEC_LOCK
	RDMAEnabled       bool
	RDMAAddress       string // "" = the connection stays on TCP
	RDMAMaxMsg        uint64 // bytes
}

// AppendJSON appends the text of the reply and its trailing NUL; both count in
// retval. Compat: the reference reads the payload as a C string.
func (c *ConfigReply) AppendJSON(b []byte) []byte {
	w := objectWriter{b: append(b, '{')}
	w.uint("bitmap_granularity", c.GranularityBytes)
	w.uint("block_size", c.BlockBytes)
	w.bool("blockstore_enabled", c.BlockstoreEnabled)
	w.key("features")
	w.b = append(w.b, '{')
	if w.more = false; c.PGLocks {
		w.bool("pg_locks", true)
	}
	w.b, w.more = append(w.b, '}'), true
	w.str("immediate_commit", c.ImmediateCommit)
	w.uint("lease_timeout", c.LeaseTimeoutSec)
	w.uint("osd_num", uint64(c.OSDNum))
	w.bool("primary_enabled", c.PrimaryEnabled)
	w.uint("protocol_version", c.ProtocolVersion)
	if c.RDMAAddress != "" {
		w.str("rdma_address", c.RDMAAddress)
	}
	if c.RDMAEnabled {
		w.bool("rdma_enabled", true)
	}
	if c.RDMAMaxMsg != 0 {
		w.uint("rdma_max_msg", c.RDMAMaxMsg)
	}
	w.bool("readonly", c.Readonly)
	return append(w.b, '}', 0)
}

// ParseConfigReply reads the payload of a SHOW_CONFIG reply, with or without
// its trailing NUL. Keys that are absent or of a strange type are zero.
func ParseConfigReply(text []byte) (ConfigReply, error) {
	o, err := parseObject(text)
	if err != nil {
		return ConfigReply{}, fmt.Errorf("reply to SHOW_CONFIG is not a JSON object: %w", err)
	}
	return ConfigReply{
		OSDNum:            meta.OSDNum(o.uint("osd_num")),
		ProtocolVersion:   o.uint("protocol_version"),
		BlockBytes:        o.uint("block_size"),
		GranularityBytes:  o.uint("bitmap_granularity"),
		ImmediateCommit:   o.str("immediate_commit"),
		PrimaryEnabled:    o.bool("primary_enabled"),
		BlockstoreEnabled: o.bool("blockstore_enabled"),
		Readonly:          o.bool("readonly"),
		LeaseTimeoutSec:   o.uint("lease_timeout"),
		PGLocks:           o.object("features").bool("pg_locks"),
		RDMAEnabled:       o.bool("rdma_enabled"),
		RDMAAddress:       o.str("rdma_address"),
		RDMAMaxMsg:        o.uint("rdma_max_msg"),
	}, nil
}

// Check is what every initiator requires of the OSD it wanted to reach.
func (c *ConfigReply) Check(wanted meta.OSDNum) error {
	if c.OSDNum != wanted {
		return fmt.Errorf("connected to OSD %d, but the peer says it is OSD %d: "+
			"the addresses in /osd/state/%d are stale or another OSD uses its port", wanted, c.OSDNum, wanted)
	}
	if c.ProtocolVersion != ProtocolVersion {
		return fmt.Errorf("OSD %d speaks protocol version %d, only version %d is supported: "+
			"upgrade the older side", c.OSDNum, c.ProtocolVersion, ProtocolVersion)
	}
	return nil
}

// StoreParams are the properties of a store that must fit together in a PG.
type StoreParams struct {
	BlockBytes       uint32
	GranularityBytes uint32
	Commit           meta.CommitMode
}

// HasStoreParams tells whether the reply says anything of the store. A peer
// that does not is worth a warning, no more.
func (c *ConfigReply) HasStoreParams() bool {
	return c.ImmediateCommit != "" || c.BlockBytes != 0 || c.GranularityBytes != 0
}

// CheckStore is what an OSD with the store mine requires of its peers, besides
// Check. Clients do not ask for it.
func (c *ConfigReply) CheckStore(mine StoreParams) error {
	if !c.HasStoreParams() {
		return nil
	}
	peer := c.ImmediateCommit
	if mine.Commit == meta.CommitAll && peer != "all" ||
		mine.Commit == meta.CommitSmall && peer != "all" && peer != "small" {
		return fmt.Errorf("OSD %d has immediate_commit %q, which is weaker than ours, %q: "+
			"set the same value for both", c.OSDNum, peer, mine.Commit)
	}
	if c.BlockBytes != uint64(mine.BlockBytes) {
		return fmt.Errorf("OSD %d has block_size %d, ours is %d: they cannot be in one PG, "+
			"give them different pools", c.OSDNum, c.BlockBytes, mine.BlockBytes)
	}
	if c.GranularityBytes != uint64(mine.GranularityBytes) {
		return fmt.Errorf("OSD %d has bitmap_granularity %d, ours is %d: they cannot be in one PG, "+
			"give them different pools", c.OSDNum, c.GranularityBytes, mine.GranularityBytes)
	}
	return nil
}

// objectWriter writes JSON spaced like the reference does.
type objectWriter struct {
	b    []byte
	more bool // a key was written before
}

func (w *objectWriter) key(name string) {
	if w.more {
		w.b = append(w.b, ", "...)
	}
	w.more = true
	w.b = append(append(append(w.b, '"'), name...), `": `...)
}

func (w *objectWriter) uint(name string, v uint64) {
	w.key(name)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *objectWriter) bool(name string, v bool) {
	w.key(name)
	w.b = strconv.AppendBool(w.b, v)
}

func (w *objectWriter) str(name, v string) {
	w.key(name)
	text, _ := json.Marshal(v) // strings always marshal
	w.b = append(w.b, text...)
}

// object is a JSON object whose values are looked at one by one: a strange one
// does not spoil the others. A missing or unusable value counts as zero.
type object map[string]json.RawMessage

// parseObject reads a text up to the first NUL, if any.
func parseObject(text []byte) (object, error) {
	text, _, _ = bytes.Cut(text, []byte{0})
	var o object
	err := json.Unmarshal(text, &o)
	if err == nil && o == nil {
		err = fmt.Errorf("it is null")
	}
	return o, err
}

func (o object) object(key string) object {
	inner, err := parseObject(o[key])
	if err != nil {
		return nil
	}
	return inner
}

func (o object) str(key string) string {
	var s string
	if json.Unmarshal(o[key], &s) != nil {
		return ""
	}
	return s
}

// uint accepts numbers, cutting off fractions, and strings that hold them.
func (o object) uint(key string) uint64 {
	text := string(o[key])
	if s := o.str(key); s != "" {
		text = s
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0 && f < math.MaxUint64) {
		return 0
	}
	return uint64(f)
}

// bool accepts true, numbers but 0, and the usual strings.
func (o object) bool(key string) bool {
	return string(o[key]) == "true" || o.uint(key) != 0 ||
		slices.Contains([]string{"true", "yes", "on"}, o.str(key))
}
