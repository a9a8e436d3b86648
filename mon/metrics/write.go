package metrics

import (
	"bufio"
	"io"
	"maps"
	"slices"
	"strconv"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Write writes all metrics.
func Write(w io.Writer, s *Snapshot) error {
	out := &writer{Writer: bufio.NewWriterSize(w, 64<<10)}
	out.objects(&s.Stats)
	out.totals(&s.Stats)
	out.images(s.Images)
	out.osds(s.OSDs)
	out.monitors(s.Monitors)
	out.pools(s.Pools)
	return out.Flush()
}

// writer keeps a buffer for one line.
type writer struct {
	*bufio.Writer
	line []byte
}

// Kinds of metrics.
const (
	gauge   = "gauge"
	counter = "counter"
)

// begin starts a metric.
func (w *writer) begin(name, kind, help string) {
	w.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
}

// label is one name and value.
type label struct{ name, value string }

// sample writes one line; number is already formatted.
func (w *writer) sample(name string, number string, labels ...label) {
	w.line = append(w.line[:0], name...)
	w.line = append(w.line, '{')
	for i, l := range labels {
		if i > 0 {
			w.line = append(w.line, ',')
		}
		w.line = append(w.line, l.name...)
		w.line = append(w.line, '=', '"')
		w.line = appendEscaped(w.line, l.value)
		w.line = append(w.line, '"')
	}
	w.line = append(w.line, '}', ' ')
	w.line = append(w.line, number...)
	w.line = append(w.line, '\n')
	w.Write(w.line)
}

// appendEscaped escapes a label value. The reference leaves the line break
// itself after the backslash, which no parser accepts; we write \n.
func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, c)
		}
	}
	return b
}

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }

func floatText(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

func boolText(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func (w *writer) objects(s *schema.Stats) {
	for _, m := range []struct {
		name, help string
		of         *schema.ObjectTotals
	}{
		{"vitastor_object_bytes", "Total size of objects in cluster in bytes", &s.Bytes},
		{"vitastor_object_count", "Total number of objects in cluster", &s.Counts},
	} {
		w.begin(m.name, gauge, m.help)
		for _, item := range []struct {
			kind string
			n    uint64
		}{
			{"object", m.of.All}, {"clean", m.of.Clean}, {"misplaced", m.of.Misplaced},
			{"degraded", m.of.Degraded}, {"incomplete", m.of.Incomplete},
		} {
			w.sample(m.name, uintText(item.n), label{"object_type", item.kind})
		}
	}
}

// ops is one set of operation counters with its op_type.
type ops struct {
	kind string
	of   map[string]schema.Counters
}

// stat is one of the three metrics of every set of counters.
type stat struct {
	suffix, help string
	get          func(*schema.Counters) uint64
}

var stats = []stat{
	{"count", "operation count", func(c *schema.Counters) uint64 { return c.Count }},
	{"usec", "operation time in microseconds", func(c *schema.Counters) uint64 { return c.Usec }},
	{"bytes", "operation size in bytes", func(c *schema.Counters) uint64 { return c.Bytes }},
}

func (w *writer) totals(s *schema.Stats) {
	sets := []ops{{"op", s.Ops}, {"subop", s.Subops},
		{"recovery", map[string]schema.Counters{"degraded": s.Degraded, "misplaced": s.Misplace}}}
	for _, m := range stats {
		name := "vitastor_stat_" + m.suffix
		w.begin(name, counter, "Total "+m.help)
		for _, set := range sets {
			for _, op := range slices.Sorted(maps.Keys(set.of)) {
				c := set.of[op]
				w.sample(name, uintText(m.get(&c)), label{"op", op}, label{"op_type", set.kind})
			}
		}
	}
}

func (w *writer) images(images []Image) {
	labels := func(i *Image) []label {
		return []label{{"image_name", i.Name}, {"inode_num", uintText(i.Inode.Number())},
			{"pool_id", uintText(uint64(i.Inode.Pool()))}}
	}
	w.begin("vitastor_image_raw_used", gauge, "Image raw used size in bytes")
	for i := range images {
		w.sample("vitastor_image_raw_used", uintText(images[i].Stats.RawUsedBytes), labels(&images[i])...)
	}
	for _, m := range stats {
		name := "vitastor_image_stat_" + m.suffix
		w.begin(name, counter, "Image total "+m.help)
		for i := range images {
			all := append(labels(&images[i]), label{"op", ""})
			for j, c := range []*schema.Counters{&images[i].Stats.Read, &images[i].Stats.Write, &images[i].Stats.Delete} {
				all[3].value = [...]string{"read", "write", "delete"}[j]
				w.sample(name, uintText(m.get(c)), all...)
			}
		}
	}
}

func (w *writer) osds(osds []OSD) {
	w.begin("vitastor_osd_status", gauge, "OSD up/down status")
	for i := range osds {
		w.sample("vitastor_osd_status", boolText(osds[i].Up), label{"host", osds[i].Host}, numLabel(&osds[i]))
	}
	w.begin("vitastor_osd_size_bytes", gauge, "OSD total space in bytes")
	for i := range osds {
		w.sample("vitastor_osd_size_bytes", uintText(osds[i].Stats.SizeBytes), numLabel(&osds[i]))
	}
	w.begin("vitastor_osd_free_bytes", gauge, "OSD free space in bytes")
	for i := range osds {
		w.sample("vitastor_osd_free_bytes", uintText(osds[i].Stats.FreeBytes), numLabel(&osds[i]))
	}
	for _, m := range stats {
		name := "vitastor_osd_stat_" + m.suffix
		w.begin(name, counter, "Per-OSD total "+m.help)
		for i := range osds {
			s := osds[i].Stats
			for _, set := range []ops{{"op", s.Ops}, {"subop", s.Subops}, {"recovery", s.Recovery}} {
				for _, op := range slices.Sorted(maps.Keys(set.of)) {
					c := set.of[op]
					w.sample(name, uintText(m.get(&c)), numLabel(&osds[i]), label{"op", op}, label{"op_type", set.kind})
				}
			}
		}
	}
}

func numLabel(o *OSD) label { return label{"osd_num", uintText(uint64(o.Num))} }

func (w *writer) monitors(monitors []Monitor) {
	w.begin("vitastor_monitor_info", gauge, "Monitor info, 1 is master, 0 is standby")
	for _, m := range monitors {
		w.sample("vitastor_monitor_info", boolText(m.Master), label{"monitor_hostname", m.Hostname},
			label{"monitor_id", m.ID}, label{"monitor_ip", m.IP})
	}
}

func (w *writer) pools(pools []Pool) {
	w.begin("vitastor_pool_info", gauge, "Pool configuration (in labels)")
	for i := range pools {
		p := pools[i].Pool
		w.sample("vitastor_pool_info", "1", label{"pool_id", uintText(uint64(p.ID))}, label{"pool_name", p.Name},
			label{"pool_scheme", p.Scheme.String()}, label{"pg_size", strconv.Itoa(p.PGSize)},
			label{"pg_minsize", strconv.Itoa(p.PGMinSize)}, label{"parity_chunks", strconv.Itoa(p.ParityChunks)},
			label{"pg_count", uintText(uint64(p.PGCount))}, label{"failure_domain", p.FailureDomain})
	}
	w.begin("vitastor_pool_status", gauge, "Pool status, 1 when all PGs are active")
	for i := range pools {
		p := &pools[i]
		w.sample("vitastor_pool_status", boolText(uint64(p.count(meta.PGActive)) >= uint64(p.Pool.PGCount)), p.labels()...)
	}
	w.poolStats(pools)
	w.begin("vitastor_pg_count", gauge, "PG counts by state")
	for i := range pools {
		for bit := meta.PGState(1); bit != 0; bit <<= 1 {
			if names := bit.Names(); len(names) == 1 {
				w.sample("vitastor_pg_count", strconv.Itoa(pools[i].count(bit)),
					append([]label{{"pg_state", names[0]}}, pools[i].labels()...)...)
			}
		}
	}
}

func (w *writer) poolStats(pools []Pool) {
	for _, m := range []struct {
		name, help string
		get        func(*schema.PoolStats) float64
	}{
		{"raw_to_usable", "Raw to usable space ratio", func(s *schema.PoolStats) float64 { return s.RawToUsable }},
		{"space_efficiency", "Pool space usage efficiency", func(s *schema.PoolStats) float64 { return s.SpaceEfficiency }},
		{"total_raw_tb", "Total raw space in pool in TB", func(s *schema.PoolStats) float64 { return s.TotalRawTB }},
		{"used_raw_tb", "Used raw space in pool in TB", func(s *schema.PoolStats) float64 { return s.UsedRawTB }},
	} {
		name := "vitastor_pool_" + m.name
		w.begin(name, gauge, m.help)
		for i := range pools {
			if pools[i].HasStats {
				w.sample(name, floatText(m.get(&pools[i].Stats)), pools[i].labels()...)
			}
		}
	}
}

func (p *Pool) labels() []label {
	return []label{{"pool_id", uintText(uint64(p.Pool.ID))}, {"pool_name", p.Pool.Name}}
}

// count is the number of PGs that have the keyword.
func (p *Pool) count(bit meta.PGState) int {
	n := 0
	for state, count := range p.States {
		if state&bit != 0 {
			n += count
		}
	}
	return n
}
