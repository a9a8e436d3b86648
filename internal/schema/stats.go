package schema

import (
	"maps"
	"slices"
)

// Counters are the statistics of one kind of operation. Which of them exist
// differs by key. Count, Usec and Bytes are cumulative, the rest are rates.
type Counters struct {
	Count, Usec, Bytes uint64
	LatUsec            uint64 // per operation
	BPS, IOPS          uint64
}

// counterField is one member of a statistics object.
type counterField uint8

const (
	fieldCount counterField = iota
	fieldUsec
	fieldBytes
	fieldLat
	fieldBPS
	fieldIOPS
)

var counterNames = [...]string{"count", "usec", "bytes", "lat", "bps", "iops"}

func (c *Counters) at(f counterField) *uint64 {
	return [...]*uint64{&c.Count, &c.Usec, &c.Bytes, &c.LatUsec, &c.BPS, &c.IOPS}[f]
}

// Members of each place and their order, as the reference writes them.
var (
	osdOpFields          = []counterField{fieldCount, fieldUsec, fieldBytes, fieldLat, fieldBPS, fieldIOPS}
	osdSubopFields       = []counterField{fieldCount, fieldUsec, fieldLat, fieldIOPS}
	osdRecoveryFields    = []counterField{fieldCount, fieldBytes, fieldUsec, fieldLat, fieldBPS, fieldIOPS}
	inodeIOFields        = []counterField{fieldCount, fieldUsec, fieldBytes}
	totalOpFields        = []counterField{fieldBytes, fieldUsec, fieldCount, fieldBPS, fieldIOPS, fieldLat}
	totalSubopFields     = []counterField{fieldUsec, fieldCount, fieldIOPS, fieldLat}
	totalRecoveryFields  = []counterField{fieldCount, fieldBytes, fieldBPS, fieldIOPS}
	inodeStatsFields     = []counterField{fieldCount, fieldUsec, fieldBytes, fieldBPS, fieldIOPS, fieldLat}
	objectCountsMembers  = []string{"object", "clean", "misplaced", "degraded", "incomplete"}
	recoveryStatsMembers = []string{"degraded", "misplaced"}
)

func (d *decoder) counters(v value) Counters {
	var c Counters
	for name, v := range d.object(v) {
		for f, known := range counterNames {
			if string(name) == known {
				*c.at(counterField(f)) = d.uint64(v)
			}
		}
	}
	return c
}

// counterMap is nil only when there is no object.
func (d *decoder) counterMap(v value) map[string]Counters {
	if v.kind() != kindObject {
		d.object(v)(func([]byte, value) bool { return true }) // reports it
		return nil
	}
	all := make(map[string]Counters)
	for name, v := range d.object(v) {
		all[string(name)] = d.counters(v)
	}
	return all
}

// counters writes the given fields, asText as decimal strings.
func (w *writer) counters(c *Counters, fields []counterField, asText bool) {
	w.open('{')
	for _, f := range fields {
		w.name(counterNames[f])
		if asText {
			w.uintString(*c.at(f))
		} else {
			w.uint(*c.at(f))
		}
	}
	w.close('}')
}

// counterMap writes a member with one object per operation, by name, unless the
// map is nil.
func (w *writer) counterMap(name string, all map[string]Counters, fields []counterField, asText bool) {
	if all == nil {
		return
	}
	w.name(name)
	w.open('{')
	for _, op := range slices.Sorted(maps.Keys(all)) {
		c := all[op]
		w.name(op)
		w.counters(&c, fields, asText)
	}
	w.close('}')
}

// ObjectTotals are sums over all PGs by state of the objects.
type ObjectTotals struct {
	All, Clean, Misplaced, Degraded, Incomplete uint64
}

func (t *ObjectTotals) at(i int) *uint64 {
	return [...]*uint64{&t.All, &t.Clean, &t.Misplaced, &t.Degraded, &t.Incomplete}[i]
}

// Stats is the key stats (etcd.md 2.11): the whole cluster.
type Stats struct {
	Ops      map[string]Counters // without bps of subops and so on: see etcd.md
	Subops   map[string]Counters // Count, Usec, IOPS, LatUsec
	Degraded Counters            // recovery: Count, Bytes, BPS, IOPS
	Misplace Counters            // rebalance: the same
	Counts   ObjectTotals
	Bytes    ObjectTotals
}

// DecodeStats reads stats; unreadable counters are 0 and reported.
func DecodeStats(key string, data []byte) (Stats, error) {
	d := open(key, data)
	var s Stats
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "op_stats":
			s.Ops = d.counterMap(v)
		case "subop_stats":
			s.Subops = d.counterMap(v)
		case "recovery_stats":
			recovery := d.counterMap(v)
			s.Degraded, s.Misplace = recovery["degraded"], recovery["misplaced"]
		case "object_counts":
			s.Counts = d.objectTotals(v)
		case "object_bytes":
			s.Bytes = d.objectTotals(v)
		}
	}
	return s, d.err()
}

func (d *decoder) objectTotals(v value) ObjectTotals {
	var t ObjectTotals
	for name, v := range d.object(v) {
		if i := slices.Index(objectCountsMembers, string(name)); i >= 0 {
			*t.at(i) = d.uint64(v)
		}
	}
	return t
}

// Encode is the monitor's form: decimal strings, {} for recovery without data.
func (s *Stats) Encode() []byte {
	var w writer
	w.open('{')
	w.counterMap("op_stats", orEmpty(s.Ops), totalOpFields, true)
	w.counterMap("subop_stats", orEmpty(s.Subops), totalSubopFields, true)
	w.name("recovery_stats")
	w.open('{')
	for i, c := range []Counters{s.Degraded, s.Misplace} {
		w.name(recoveryStatsMembers[i])
		if c == (Counters{}) {
			w.open('{')
			w.close('}')
		} else {
			w.counters(&c, totalRecoveryFields, true)
		}
	}
	w.close('}')
	w.objectTotals("object_counts", &s.Counts)
	w.objectTotals("object_bytes", &s.Bytes)
	w.close('}')
	return w.buf
}

func orEmpty(m map[string]Counters) map[string]Counters {
	if m == nil {
		return map[string]Counters{}
	}
	return m
}

func (w *writer) objectTotals(name string, t *ObjectTotals) {
	w.name(name)
	w.open('{')
	for i, member := range objectCountsMembers {
		w.name(member)
		w.uintString(*t.at(i))
	}
	w.close('}')
}

// InodeStats is inode/stats/<pool>/<inode> (etcd.md 2.11).
type InodeStats struct {
	RawUsedBytes        uint64 // on all OSDs together
	Read, Write, Delete Counters
}

// DecodeInodeStats reads inode/stats; unreadable counters are 0 and reported.
func DecodeInodeStats(key string, data []byte) (InodeStats, error) {
	d := open(key, data)
	var s InodeStats
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "raw_used":
			s.RawUsedBytes = d.uint64(v)
		case "read":
			s.Read = d.counters(v)
		case "write":
			s.Write = d.counters(v)
		case "delete":
			s.Delete = d.counters(v)
		}
	}
	return s, d.err()
}

// Encode is the monitor's form: decimal strings.
func (s *InodeStats) Encode() []byte {
	var w writer
	w.open('{')
	w.name("raw_used")
	w.uintString(s.RawUsedBytes)
	w.name("read")
	w.counters(&s.Read, inodeStatsFields, true)
	w.name("write")
	w.counters(&s.Write, inodeStatsFields, true)
	w.name("delete")
	w.counters(&s.Delete, inodeStatsFields, true)
	w.close('}')
	return w.buf
}

// PoolStats is pool/stats/<pool> (etcd.md 2.11); TB is 2^40 bytes. Every pool
// must have it with a PGRealSize: otherwise a reference monitor that becomes
// master reshuffles every pool.
type PoolStats struct {
	UsedRawTB       float64
	TotalRawTB      float64
	PGRealSize      float64 // smallest number of OSDs of a PG
	RawToUsable     float64
	SpaceEfficiency float64 // 0..1
}

var poolStatsMembers = [...]string{"used_raw_tb", "total_raw_tb", "pg_real_size",
	"raw_to_usable", "space_efficiency"}

func (s *PoolStats) at(i int) *float64 {
	return [...]*float64{&s.UsedRawTB, &s.TotalRawTB, &s.PGRealSize, &s.RawToUsable, &s.SpaceEfficiency}[i]
}

// Complete tells whether the statistics protect against a reshuffle.
func (s *PoolStats) Complete() bool { return s.PGRealSize != 0 }

// DecodePoolStats reads pool/stats; unreadable numbers are 0 and reported.
func DecodePoolStats(key string, data []byte) (PoolStats, error) {
	d := open(key, data)
	var s PoolStats
	for name, v := range d.object(d.root) {
		if i := slices.Index(poolStatsMembers[:], string(name)); i >= 0 {
			*s.at(i) = d.float(v)
		}
	}
	return s, d.err()
}

// Encode is the monitor's form: numbers.
func (s *PoolStats) Encode() []byte {
	var w writer
	w.open('{')
	for i, name := range poolStatsMembers {
		w.name(name)
		w.float(*s.at(i))
	}
	w.close('}')
	return w.buf
}

// Monitor is mon/member/<id> and, with ID, mon/master (etcd.md 2.10).
type Monitor struct {
	IPs      []string // non-loopback IPv4 addresses
	Hostname string
	ID       string // lease id in decimal; only in mon/master
}

// DecodeMonitor reads mon/member or mon/master.
func DecodeMonitor(key string, data []byte) (Monitor, error) {
	d := open(key, data)
	var m Monitor
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "ip":
			m.IPs = d.strs(v)
		case "hostname":
			m.Hostname = d.str(v)
		case "id":
			m.ID = d.scalar(v)
		}
	}
	return m, d.err()
}

// Encode is the monitor's form.
func (m *Monitor) Encode() []byte {
	var w writer
	w.open('{')
	w.name("ip")
	w.strs(m.IPs)
	w.name("hostname")
	w.str(m.Hostname)
	w.text("id", m.ID)
	w.close('}')
	return w.buf
}
