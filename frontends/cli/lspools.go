package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// poolInfo is one pool and what is computed about it (spec cli.md §2.13).
type poolInfo struct {
	pool                            *schema.Pool
	targets                         *schema.PoolPGs
	status                          string
	osds                            int
	stats                           schema.PoolStats
	totalRaw, usedRaw, maxAvailable uint64
	backfillfull                    bool
	counts                          schema.ObjectTotals
	read, write, del                schema.Counters
}

func (r *run) df() (result, error)      { return r.listPools(false) }
func (r *run) lsPools() (result, error) { return r.listPools(true) }

func (r *run) listPools(counts bool) (result, error) {
	io := counts && (r.flag("long") || r.flag("detail") || r.flag("stats"))
	list, err := r.poolInfos(io || counts)
	if err != nil {
		return result{}, err
	}
	data := []any{}
	var kept []*poolInfo
	for _, p := range list {
		if selected(r.words, false, p.pool.Name) {
			kept = append(kept, p)
		}
	}
	field := r.text("sort")
	objects := map[*poolInfo]object{}
	for _, p := range kept {
		objects[p] = p.json(counts, io)
	}
	sortBy(kept, field, r.flag("reverse"), []string{"name", "scheme", "scheme_name", "status"}, func(p *poolInfo) object { return objects[p] })
	if n := r.number("count"); n > 0 && uint64(len(kept)) > n {
		kept = kept[:n]
	}
	for _, p := range kept {
		data = append(data, objects[p])
	}
	if counts && r.flag("detail") {
		s := &sheet{}
		for i, p := range kept {
			if i > 0 {
				s.lines = append(s.lines, [2]string{})
			}
			p.detail(s)
		}
		return result{text: s.text(r.color), data: data}, nil
	}
	return result{text: poolTable(kept, counts, io, r.color), data: data}, nil
}

func poolTable(list []*poolInfo, counts, io, color bool) string {
	t := &table{}
	t.add(column{key: "name", title: "NAME"}, column{key: "scheme", title: "SCHEME"}, column{key: "status", title: "STATUS"},
		column{key: "pgs", title: "PGS"}, column{key: "total", title: "TOTAL"}, column{key: "used", title: "USED"},
		column{key: "available", title: "AVAILABLE"}, column{key: "percent", title: "USED%"}, column{key: "efficiency", title: "EFFICIENCY"})
	if counts {
		t.add(column{key: "recovery", title: "RECOVERY"})
	}
	if io {
		t.add(ioColumns("DELETE", false)...)
	}
	for _, p := range list {
		row := map[string]string{"name": p.pool.Name, "scheme": p.scheme(), "status": p.status, "pgs": p.pgs(),
			"total": humanSize(p.usable(p.totalRaw)), "used": humanSize(p.usable(p.usedRaw)), "available": humanSize(p.maxAvailable),
			"percent": p.usedPercent(), "efficiency": p.efficiency(), "recovery": p.recovery()}
		ioCells(row, "read", p.read)
		ioCells(row, "write", p.write)
		ioCells(row, "delete", p.del)
		t.rows = append(t.rows, row)
	}
	return t.text(color)
}

// sortBy sorts by a field of the JSON objects, as text or as a number; what has
// no such field counts as 0. Equal ones stay in their order.
func sortBy[T any](list []T, field string, reverse bool, texts []string, of func(T) object) {
	slices.SortStableFunc(list, func(a, b T) int {
		x, y := of(a)[field], of(b)[field]
		n := 0
		if slices.Contains(texts, field) {
			n = strings.Compare(fmt.Sprint(x), fmt.Sprint(y))
		} else {
			p, _ := asFloat(x)
			q, _ := asFloat(y)
			n = cmp.Compare(p, q)
		}
		if reverse {
			return -n
		}
		return n
	})
}

// poolInfos collects everything about all pools, ascending by id.
func (r *run) poolInfos(details bool) ([]*poolInfo, error) {
	s, err := r.state()
	if err != nil {
		return nil, err
	}
	osds, err := r.conn.osds()
	if err != nil {
		return nil, err
	}
	byID := map[meta.PoolID]*poolInfo{}
	var list []*poolInfo
	for _, id := range s.poolIDs() {
		p := &poolInfo{pool: s.pools[id], targets: s.targets.Pool(id), backfillfull: slices.Contains(s.targets.Backfillfull, id)}
		p.placement(s, osds)
		byID[id] = p
		list = append(list, p)
	}
	return list, r.conn.poolNumbers(byID, details)
}

// poolNumbers reads the statistics of pools, and what is summed up per pool.
func (c *cluster) poolNumbers(pools map[meta.PoolID]*poolInfo, details bool) error {
	k := c.keys
	r, _, err := c.read(k.Kind(schema.KindPoolStats).Get(), k.Kind(schema.KindPGStats).Get(), k.Kind(schema.KindInodeStats).Get())
	if err != nil {
		return err
	}
	for i, kvs := range r {
		for _, kv := range kvs.KVs {
			key, ok := k.Parse(kv.Key)
			p := pools[key.Pool]
			if !ok || p == nil || i > 0 && !details {
				continue
			}
			switch i {
			case 0:
				p.stats, _ = schema.DecodePoolStats(kv.Key, kv.Value)
				const tb = 1 << 40
				p.totalRaw, p.usedRaw = uint64(p.stats.TotalRawTB*tb), uint64(p.stats.UsedRawTB*tb)
			case 1:
				s, _ := schema.DecodePGStats(kv.Key, kv.Value)
				n := &p.counts
				n.All, n.Misplaced, n.Degraded, n.Incomplete = n.All+s.Objects, n.Misplaced+s.Misplaced, n.Degraded+s.Degraded, n.Incomplete+s.Incomplete
			case 2:
				s, _ := schema.DecodeInodeStats(kv.Key, kv.Value)
				addRates(&p.read, s.Read)
				addRates(&p.write, s.Write)
				addRates(&p.del, s.Delete)
			}
		}
	}
	return nil
}

// addRates adds rates; latencies are weighted by operations.
func addRates(sum *schema.Counters, c schema.Counters) {
	if ops := sum.IOPS + c.IOPS; ops > 0 {
		sum.LatUsec = (sum.LatUsec*sum.IOPS + c.LatUsec*c.IOPS) / ops
	}
	sum.IOPS, sum.BPS = sum.IOPS+c.IOPS, sum.BPS+c.BPS
}

// placement is what follows from where the PGs shall be.
func (p *poolInfo) placement(s *state, osds []*osdInfo) {
	real := p.targets.Count()
	flags, all := meta.PGState(0), real > 0
	pgsOn := map[meta.OSDNum]int{}
	if p.targets != nil {
		for i := range p.targets.PGs {
			t := &p.targets.PGs[i]
			state := s.pgs[meta.PG{Pool: p.pool.ID, Num: t.Num}].State
			flags |= state
			all = all && state&meta.PGActive != 0
			for _, o := range t.OSDSet {
				if o != 0 {
					pgsOn[o]++
				}
			}
		}
	}
	p.osds, p.status = len(pgsOn), "active"
	switch {
	case !all:
		p.status = "inactive"
	case flags&meta.PGHasIncomplete != 0:
		p.status = "has_incomplete"
	case flags&meta.PGDegraded != 0:
		p.status = "degraded"
	case flags&meta.PGHasDegraded != 0:
		p.status = "has_degraded"
	case flags&meta.PGHasMisplaced != 0:
		p.status = "has_misplaced"
	}
	first := true
	for _, o := range osds {
		if n := pgsOn[o.num]; n > 0 {
			room := float64(o.stats.FreeBytes) * o.config.Reweight * float64(real) / float64(n) * float64(p.pool.DataChunks())
			if first || uint64(room) < p.maxAvailable {
				p.maxAvailable, first = uint64(room), false
			}
		}
	}
}

// json has the computed fields, then what the pool's configuration adds.
func (p *poolInfo) json(counts, io bool) object {
	o := object{"id": p.pool.ID, "name": p.pool.Name, "status": p.status, "pg_count": p.pool.PGCount, "real_pg_count": p.targets.Count(),
		"scheme_name": p.scheme(), "used_raw": p.usedRaw, "total_raw": p.totalRaw, "max_available": p.maxAvailable, "raw_to_usable": p.stats.RawToUsable,
		"space_efficiency": p.stats.SpaceEfficiency, "pg_real_size": p.stats.PGRealSize, "osd_count": p.osds, "backfillfull": 0}
	if p.backfillfull {
		o["backfillfull"] = 1
	}
	if counts {
		o["object_count"], o["misplaced_count"] = p.counts.All, p.counts.Misplaced
		o["degraded_count"], o["incomplete_count"] = p.counts.Degraded, p.counts.Incomplete
	}
	if io {
		for name, c := range map[string]schema.Counters{"read": p.read, "write": p.write, "delete": p.del} {
			o[name+"_bps"], o[name+"_iops"], o[name+"_lat"] = c.BPS, c.IOPS, c.LatUsec
		}
	}
	for name, v := range p.pool.Config.All() {
		if _, has := o[name]; !has && name != "used_for_fs" {
			o[name] = v
		}
	}
	if p.pool.UsedForApp != "" {
		o["used_for_app"] = p.pool.UsedForApp
	}
	return o
}

func (p *poolInfo) scheme() string {
	if p.pool.Scheme == meta.Replicated {
		return fmt.Sprintf("%d/%d", p.pool.PGSize, p.pool.PGMinSize)
	}
	return fmt.Sprintf("EC %d+%d", p.pool.DataChunks(), p.pool.PGSize-p.pool.DataChunks())
}

func (p *poolInfo) pgs() string {
	if real := p.targets.Count(); real != p.pool.PGCount {
		return fmt.Sprintf("%d->%d", real, p.pool.PGCount)
	}
	return strconv.Itoa(int(p.pool.PGCount))
}

// usable is how much of the image data raw space holds.
func (p *poolInfo) usable(raw uint64) float64 {
	if p.stats.RawToUsable == 0 {
		return 0
	}
	return float64(raw) / p.stats.RawToUsable
}

func (p *poolInfo) usedPercent() string {
	used := 100.0
	if p.totalRaw > 0 {
		used = 100 - 100*float64(p.maxAvailable)*p.stats.RawToUsable/float64(p.totalRaw)
	}
	return fraction(used) + "%"
}

func (p *poolInfo) efficiency() string { return fraction(100*p.stats.SpaceEfficiency) + "%" }

func (p *poolInfo) recovery() string {
	n := &p.counts
	if n.All == 0 {
		return "0%"
	}
	return fraction(100*(float64(n.All)-float64(n.Misplaced+n.Degraded+n.Incomplete))/float64(n.All)) + "%"
}

// detail adds everything about a pool.
func (p *poolInfo) detail(s *sheet) {
	add := func(title, value string) {
		if value != "" {
			s.add(title, value)
		}
	}
	add("Name", p.pool.Name)
	add("ID", fmt.Sprint(p.pool.ID))
	scheme := p.scheme()
	if p.pool.Scheme == meta.Replicated {
		scheme = fmt.Sprintf("x%d", p.pool.PGSize)
	}
	add("Scheme", scheme)
	add("Used for app", p.pool.UsedForApp)
	add("Status", p.status)
	if p.backfillfull {
		add("Backfillfull", "yes")
	}
	add("PGs", p.pgs())
	add("PG minsize", fmt.Sprint(p.pool.PGMinSize))
	add("Failure domain", p.pool.FailureDomain)
	p.detailConfig(add)
	add("Total", humanSize(p.usable(p.totalRaw)))
	add("Used", humanSize(p.usable(p.usedRaw)))
	add("Available", humanSize(p.maxAvailable))
	add("Used%", p.usedPercent())
	add("Efficiency", p.efficiency())
	add("OSD count", strconv.Itoa(p.osds))
	for _, c := range []struct {
		title string
		n     uint64
	}{{"Misplaced", p.counts.Misplaced}, {"Degraded", p.counts.Degraded}, {"Incomplete", p.counts.Incomplete}} {
		if c.n > 0 {
			add(c.title, humanSize(c.n*p.pool.ObjectBytes())+" / "+fraction(100*float64(c.n)/float64(p.counts.All)))
		}
	}
	for _, io := range []struct {
		title string
		c     schema.Counters
	}{{"Read", p.read}, {"Write", p.write}, {"Delete", p.del}} {
		add(io.title, fmt.Sprintf("%s/s, %d op/s, %s lat", humanSize(io.c.BPS), io.c.IOPS, latency(io.c.LatUsec)))
	}
}

// detailConfig shows parameters that were given, not defaults.
func (p *poolInfo) detailConfig(add func(title, value string)) {
	c := &p.pool.Config
	given := func(title, key, value string) {
		if c.Get(key) != nil {
			add(title, value)
		}
	}
	add("Root node", p.pool.RootNode)
	add("OSD tags", strings.Join(p.pool.OSDTags, ", "))
	given("Local read policy", "local_reads", p.pool.LocalReads.String())
	add("Primary affinity", strings.Join(p.pool.PrimaryAffinityTags, ", "))
	given("Block size", "block_size", humanSize(p.pool.BlockBytes))
	given("Bitmap granularity", "bitmap_granularity", humanSize(p.pool.GranularityBytes))
	given("Immediate commit", "immediate_commit", p.pool.Commit.String())
	if v, ok := decodeAny(c.Get("scrub_interval")).(string); ok {
		add("Scrub interval", v)
	}
	given("PG stripe size", "pg_stripe_size", strconv.FormatUint(p.pool.PGStripeBytes, 10))
	given("Max OSD combinations", "max_osd_combinations", strconv.Itoa(p.pool.MaxOSDCombinations))
}
