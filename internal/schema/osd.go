package schema

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"

	"vitastor/internal/meta"
)

// OSDState is osd/state/<osd> (etcd.md 2.5).
type OSDState struct {
	State             string // "up"
	Addresses         []string
	Host              string
	Port              uint16 // of all addresses
	RDMACMPort        uint16 // 0 = no RDMA-CM listener
	PrimaryEnabled    bool
	BlockstoreEnabled bool
	Version           string
}

// StateUp is the only state that is ever written.
const StateUp = "up"

// Up tells whether OSDs and clients may use the OSD. (For the reference monitor
// the mere existence of the key means up.)
func (s *OSDState) Up() bool { return s.State == StateUp }

// DecodeOSDState reads osd/state; a missing key is an OSD that is not up. On an
// error the OSD can be used if it is Up and the address and port are there.
func DecodeOSDState(key string, data []byte) (OSDState, error) {
	d := open(key, data)
	var s OSDState
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "state":
			s.State = d.str(v)
		case "addresses":
			s.Addresses = d.strs(v)
		case "host":
			s.Host = d.str(v)
		case "port":
			s.Port = uint16(d.uint(v, math.MaxUint16))
		case "rdmacm_port":
			s.RDMACMPort = uint16(d.uint(v, math.MaxUint16))
		case "primary_enabled":
			s.PrimaryEnabled = d.bool(v)
		case "blockstore_enabled":
			s.BlockstoreEnabled = d.bool(v)
		case "version":
			s.Version = d.str(v)
		}
	}
	return s, d.err()
}

// Encode is the OSD's form.
func (s *OSDState) Encode() []byte {
	var w writer
	w.open('{')
	w.name("addresses")
	w.strs(s.Addresses)
	w.name("blockstore_enabled")
	w.bool(s.BlockstoreEnabled)
	w.name("host")
	w.str(s.Host)
	w.name("port")
	w.uint(uint64(s.Port))
	w.name("primary_enabled")
	w.bool(s.PrimaryEnabled)
	if s.RDMACMPort != 0 {
		w.name("rdmacm_port")
		w.uint(uint64(s.RDMACMPort))
	}
	w.name("state")
	w.str(s.State)
	w.name("version")
	w.str(s.Version)
	w.close('}')
	return w.buf
}

// OSDOpNames are the operations of op_stats and subop_stats, all of them always
// present (etcd.md 2.6).
var OSDOpNames = [...]string{"read", "write", "write_stable", "sync", "stabilize",
	"rollback", "delete", "sync_stab_all", "list", "show_config", "primary_read",
	"primary_write", "primary_sync", "primary_delete", "ping", "sec_read_bmp",
	"scrub", "describe", "sec_lock"}

// OSDStats is osd/stats/<osd> (etcd.md 2.6). The key outlives the OSD: the set
// of these keys is the list of all OSDs. An OSD without a size is only a
// reserved number.
type OSDStats struct {
	TimeMillis       uint64 // unix time of the report; 0 = none
	BlockstoreReady  bool
	SizeBytes        uint64
	FreeBytes        uint64
	BlockBytes       uint32 // 0 = not reported
	GranularityBytes uint32 // 0 = not reported
	ImmediateCommit  string // "" = not reported
	Host             string
	Version          string
	SlowOpsPrimary   uint64
	SlowOpsSecondary uint64
	Ops              map[string]Counters
	Subops           map[string]Counters
	Recovery         map[string]Counters // "degraded", "misplaced"
}

// EmptyOSDStats is what reserves an OSD number.
const EmptyOSDStats = "{}"

// CommitMode is immediate_commit; ok is false when it is not reported (or not
// known), and must then not be checked.
func (s *OSDStats) CommitMode() (mode meta.CommitMode, ok bool) {
	mode, err := meta.ParseCommitMode(s.ImmediateCommit)
	return mode, err == nil
}

// DecodeOSDStats reads osd/stats; after an error all fields that are not named
// in it can be used.
func DecodeOSDStats(key string, data []byte) (OSDStats, error) {
	d := open(key, data)
	var s OSDStats
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "time":
			s.TimeMillis = d.millis(v)
		case "blockstore_ready":
			s.BlockstoreReady = d.bool(v)
		case "size":
			s.SizeBytes = d.uint64(v)
		case "free":
			s.FreeBytes = d.uint64(v)
		case "data_block_size":
			s.BlockBytes = uint32(d.uint(v, math.MaxUint32))
		case "bitmap_granularity":
			s.GranularityBytes = uint32(d.uint(v, math.MaxUint32))
		case "immediate_commit":
			s.ImmediateCommit = d.str(v)
		case "host":
			s.Host = d.str(v)
		case "version":
			s.Version = d.str(v)
		default:
			d.osdCounters(&s, string(name), v)
		}
	}
	return s, d.err()
}

func (d *decoder) osdCounters(s *OSDStats, name string, v value) {
	switch name {
	case "slow_ops_primary":
		s.SlowOpsPrimary = d.uint64(v)
	case "slow_ops_secondary":
		s.SlowOpsSecondary = d.uint64(v)
	case "op_stats":
		s.Ops = d.counterMap(v)
	case "subop_stats":
		s.Subops = d.counterMap(v)
	case "recovery_stats":
		s.Recovery = d.counterMap(v)
	}
}

// millis reads a time in seconds with up to 3 digits after the point, as a
// number or a string, without losing digits.
func (d *decoder) millis(v value) uint64 {
	text := string(v)
	if v.kind() == kindString {
		text = v.text()
	}
	if v.kind() == kindNull {
		return 0
	}
	seconds, fraction, _ := strings.Cut(text, ".")
	fraction = (fraction + "000")[:3]
	n, err := strconv.ParseUint(seconds, 10, 53)
	ms, err2 := strconv.ParseUint(fraction, 10, 16)
	if err != nil || err2 != nil {
		d.fail(v, `a unix time such as "1795175664.500"`)
		return 0
	}
	return n*1000 + ms
}

// Encode is the OSD's form; a zero value gives EmptyOSDStats.
func (s *OSDStats) Encode() []byte {
	var w writer
	w.open('{')
	if s.TimeMillis != 0 {
		w.name("time")
		w.str(fmt.Sprintf("%d.%03d", s.TimeMillis/1000, s.TimeMillis%1000))
	}
	if s.BlockstoreReady || s.SizeBytes != 0 {
		w.name("blockstore_ready")
		w.bool(s.BlockstoreReady)
	}
	s.encodeStore(&w)
	w.text("immediate_commit", s.ImmediateCommit)
	w.text("host", s.Host)
	w.text("version", s.Version)
	w.count("slow_ops_primary", s.SlowOpsPrimary)
	w.count("slow_ops_secondary", s.SlowOpsSecondary)
	w.counterMap("op_stats", s.Ops, osdOpFields, false)
	w.counterMap("subop_stats", s.Subops, osdSubopFields, false)
	w.counterMap("recovery_stats", s.Recovery, osdRecoveryFields, false)
	w.close('}')
	return w.buf
}

func (s *OSDStats) encodeStore(w *writer) {
	if s.SizeBytes != 0 {
		w.name("size")
		w.uint(s.SizeBytes)
		w.name("free") // also when 0: the OSD is full
		w.uint(s.FreeBytes)
	} else {
		w.count("free", s.FreeBytes)
	}
	w.count("data_block_size", uint64(s.BlockBytes))
	w.count("bitmap_granularity", uint64(s.GranularityBytes))
}

// count writes a member unless it is 0; text unless it is empty.
func (w *writer) count(name string, n uint64) {
	if n != 0 {
		w.name(name)
		w.uint(n)
	}
}

func (w *writer) text(name, s string) {
	if s != "" {
		w.name(name)
		w.str(s)
	}
}

// InodeBytes is one item of osd/space.
type InodeBytes struct {
	Inode meta.Inode
	Bytes uint64
}

// DecodeOSDSpace reads osd/space/<osd>: raw bytes per inode, ascending. Pools
// with used_for_app are reported as a whole under inode number 0.
func DecodeOSDSpace(key string, data []byte) ([]InodeBytes, error) {
	d := open(key, data)
	var list []InodeBytes
	for inode, v := range d.inodes() {
		list = append(list, InodeBytes{inode, d.uint64(v)})
	}
	list = sortLast(list, func(a, b InodeBytes) int { return cmp.Compare(a.Inode, b.Inode) })
	return list, d.err()
}

// EncodeOSDSpace writes osd/space. list must be ascending.
func EncodeOSDSpace(list []InodeBytes) []byte {
	w := newInodeWriter(len(list), 24)
	for _, item := range list {
		w.inode(item.Inode)
		w.uint(item.Bytes)
	}
	return w.end()
}

// InodeIO is one item of osd/inodestats: operations of one inode, cumulative.
type InodeIO struct {
	Inode               meta.Inode
	Read, Write, Delete Counters // Count, Usec, Bytes
}

// DecodeInodeIO reads osd/inodestats/<osd>, ascending by inode.
func DecodeInodeIO(key string, data []byte) ([]InodeIO, error) {
	d := open(key, data)
	var list []InodeIO
	for inode, v := range d.inodes() {
		io := InodeIO{Inode: inode}
		for name, v := range d.object(v) {
			switch string(name) {
			case "read":
				io.Read = d.counters(v)
			case "write":
				io.Write = d.counters(v)
			case "delete":
				io.Delete = d.counters(v)
			}
		}
		list = append(list, io)
	}
	list = sortLast(list, func(a, b InodeIO) int { return cmp.Compare(a.Inode, b.Inode) })
	return list, d.err()
}

// EncodeInodeIO writes osd/inodestats. list must be ascending.
func EncodeInodeIO(list []InodeIO) []byte {
	w := newInodeWriter(len(list), 200)
	for _, io := range list {
		w.inode(io.Inode)
		w.open('{')
		w.name("read")
		w.counters(&io.Read, inodeIOFields, false)
		w.name("write")
		w.counters(&io.Write, inodeIOFields, false)
		w.name("delete")
		w.counters(&io.Delete, inodeIOFields, false)
		w.close('}')
	}
	return w.end()
}

// inodes yields the members of {"<pool>": {"<inode>": ...}}; the inode number
// may be 0.
func (d *decoder) inodes() func(func(meta.Inode, value) bool) {
	return func(yield func(meta.Inode, value) bool) {
		for name, inodes := range d.object(d.root) {
			pool, ok := poolID(d, name)
			if !ok {
				continue
			}
			for name, v := range d.object(inodes) {
				n := uint64(0)
				if string(name) != "0" && !id(d, name, meta.MaxInodeNumber, &n) {
					continue
				}
				if !yield(meta.MakeInode(pool, n), v) {
					return
				}
			}
		}
	}
}

// inodeWriter writes {"<pool>":{"<inode>":...}} from ascending inodes.
type inodeWriter struct {
	writer
	pool meta.PoolID
}

func newInodeWriter(count, itemBytes int) *inodeWriter {
	return &inodeWriter{writer: writer{append(make([]byte, 0, 64+count*itemBytes), '{')}}
}

func (w *inodeWriter) inode(i meta.Inode) {
	if i.Pool() != w.pool {
		if w.pool != 0 {
			w.close('}')
		}
		w.pool = i.Pool()
		w.id(uint64(w.pool))
		w.open('{')
	}
	w.id(i.Number())
}

func (w *inodeWriter) end() []byte {
	if w.pool != 0 {
		w.close('}')
	}
	w.close('}')
	return w.buf
}
