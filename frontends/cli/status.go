package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// health is everything that status prints.
type health struct {
	etcdCount, etcdAlive       int
	etcdBytes                  uint64
	monCount                   int
	monMaster                  string
	osdCount, osdUp            int
	full, nearFull             int
	slowPrimary, slowSecondary []meta.OSDNum
	total, free                uint64 // of all OSDs
	downTotal, downFree        uint64
	pools, activePools         int
	backfillfull               []meta.PoolID
	backfillNames              []string
	pgStates                   map[string]int
	stats                      schema.Stats
	rawStats                   schema.Object
	readOnly                   bool
	noRecovery, noRebalance    bool
	noScrub                    bool
}

func (r *run) status() (result, error) {
	h, err := r.health()
	if err != nil {
		return result{}, err
	}
	return result{text: h.text(), data: h.json()}, nil
}

func (r *run) health() (*health, error) {
	s, err := r.state()
	if err != nil {
		return nil, err
	}
	c := r.conn
	osds, err := c.osds()
	if err != nil {
		return nil, err
	}
	k := c.keys
	got, _, err := c.read(k.Kind(schema.KindMonMember).Get(), getOp(k.MonMaster()), getOp(k.Stats()))
	if err != nil {
		return nil, err
	}
	h := &health{etcdCount: len(c.conn.Etcd), monCount: len(got[0].KVs), pgStates: map[string]int{}}
	h.etcdAlive, h.etcdBytes = etcdStatus(c.conn.Etcd)
	if kv := first(got[1]); kv != nil {
		m, _ := schema.DecodeMonitor(kv.Key, kv.Value)
		h.monMaster = m.Hostname
		if h.monMaster == "" && len(m.IPs) > 0 {
			h.monMaster = m.IPs[0]
		}
	}
	if kv := first(got[2]); kv != nil {
		h.stats, _ = schema.DecodeStats(kv.Key, kv.Value)
		h.rawStats, _ = schema.DecodeObject(kv.Key, kv.Value)
	}
	ratio := 0.95
	if err := c.on(func() { ratio = c.client.Options().OSDNearfullRatio }); err != nil {
		return nil, err
	}
	h.addOSDs(osds, ratio)
	h.addPools(s)
	on := func(name string) bool { return truth(decodeAny(s.global.Get(name))) }
	h.readOnly, h.noRecovery, h.noRebalance, h.noScrub = on("readonly"), on("no_recovery"), on("no_rebalance"), on("no_scrub")
	return h, nil
}

func (h *health) addOSDs(osds []*osdInfo, nearFullRatio float64) {
	h.osdCount = len(osds)
	for _, o := range osds {
		size, free := o.stats.SizeBytes, o.stats.FreeBytes
		h.total, h.free = h.total+size, h.free+free
		if !o.up {
			h.downTotal, h.downFree = h.downTotal+size, h.downFree+free
		} else {
			h.osdUp++
			if o.stats.SlowOpsPrimary > 0 {
				h.slowPrimary = append(h.slowPrimary, o.num)
			}
			if o.stats.SlowOpsSecondary > 0 {
				h.slowSecondary = append(h.slowSecondary, o.num)
			}
		}
		switch {
		case size == 0:
		case free == 0:
			h.full++
		case float64(free) < float64(size)*(1-nearFullRatio):
			h.nearFull++
		}
	}
}

func (h *health) addPools(s *state) {
	h.pools = len(s.pools)
	for _, id := range s.poolIDs() {
		pgs := s.targets.Pool(id)
		active := pgs.Count() > 0
		if pgs != nil {
			for i := range pgs.PGs {
				state := s.pgs[meta.PG{Pool: id, Num: pgs.PGs[i].Num}]
				active = active && state.State&meta.PGActive != 0
				h.pgStates[strings.Join(stateNames(state), "+")]++
			}
		}
		if active {
			h.activePools++
		}
		if slices.Contains(s.targets.Backfillfull, id) {
			h.backfillfull = append(h.backfillfull, id)
			h.backfillNames = append(h.backfillNames, s.poolName(id))
		}
	}
}

// stateNames are the keywords of a state; no state is offline.
func stateNames(s schema.PGState) []string {
	if s.State == 0 {
		return []string{"offline"}
	}
	return s.State.Names()
}

func (h *health) json() object {
	return object{"etcd_alive": h.etcdAlive, "etcd_count": h.etcdCount, "etcd_db_size": h.etcdBytes, "mon_count": h.monCount,
		"mon_master": h.monMaster, "osd_up": h.osdUp, "osd_count": h.osdCount, "osds_full": h.full, "osds_nearfull": h.nearFull,
		"osds_primary_slow_ops": h.slowPrimary, "osds_secondary_slow_ops": h.slowSecondary,
		"total_raw": h.total, "free_raw": h.free, "down_raw": h.downTotal, "free_down_raw": h.downFree,
		"readonly": h.readOnly, "no_recovery": h.noRecovery, "no_rebalance": h.noRebalance, "no_scrub": h.noScrub,
		"pool_count": h.pools, "active_pool_count": h.activePools, "backfillfull_pools": h.backfillfull,
		"pg_states": countsOf(h.pgStates), "op_stats": h.rawStats.Get("op_stats"), "recovery_stats": h.rawStats.Get("recovery_stats"),
		"object_counts": h.rawStats.Get("object_counts"), "clean_data": h.stats.Bytes.Clean, "misplaced_data": h.stats.Bytes.Misplaced,
		"degraded_data": h.stats.Bytes.Degraded, "incomplete_data": h.stats.Bytes.Incomplete}
}

func countsOf(m map[string]int) object {
	o := object{}
	for k, v := range m {
		o[k] = v
	}
	return o
}

func (h *health) text() string {
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	put("  cluster:")
	put("    etcd: %d / %d up, %s database size", h.etcdAlive, h.etcdCount, humanSize(h.etcdBytes))
	master := ""
	if h.monMaster != "" {
		master = ", master " + h.monMaster
	}
	put("    mon:  %d up%s", h.monCount, master)
	put("    osd:  %d / %d up", h.osdUp, h.osdCount)
	if w := h.warnings(); len(w) > 0 {
		put("\n  warning:\n    %s", strings.Join(w, "\n    "))
	}
	put("  \n  data:")
	used := fmt.Sprintf("%s used, %s / %s available", humanSize(h.total-h.free), humanSize(h.free-h.downFree), humanSize(h.total-h.downTotal))
	if h.downTotal > 0 {
		used += ", " + humanSize(h.downTotal) + " down"
	}
	put("    raw:   %s", used)
	put("    state: %s", h.objectState())
	put("    pools: %d / %d active", h.activePools, h.pools)
	put("    pgs:   %s", h.pgList())
	mode := ""
	if h.readOnly {
		mode = " (read-only mode)"
	}
	put("  \n  io%s:", mode)
	b.WriteString(h.io())
	return b.String()
}

func (h *health) objectState() string {
	o := &h.stats.Bytes
	s := humanSize(o.Clean) + " clean"
	for _, part := range []struct {
		n    uint64
		word string
	}{{o.Misplaced, "misplaced"}, {o.Degraded, "degraded"}, {o.Incomplete, "incomplete"}} {
		if part.n > 0 {
			s += ", " + humanSize(part.n) + " " + part.word
		}
	}
	return s
}

func (h *health) pgList() string {
	var lines []string
	for _, name := range sortedKeys(h.pgStates) {
		lines = append(lines, fmt.Sprintf("%d %s", h.pgStates[name], name))
	}
	return strings.Join(lines, "\n           ")
}

func (h *health) warnings() []string {
	var w []string
	osds := func(n int, is, are string) {
		switch {
		case n == 1:
			w = append(w, "1 osd "+is)
		case n > 1:
			w = append(w, fmt.Sprintf("%d osds %s", n, are))
		}
	}
	osds(h.full, "is full", "are full")
	osds(h.nearFull, "is almost full", "are almost full")
	osds(len(h.slowPrimary), "has slow client ops: "+numbers(h.slowPrimary), "have slow client ops: "+numbers(h.slowPrimary))
	osds(len(h.slowSecondary), "has slow replication ops: "+numbers(h.slowSecondary), "have slow replication ops: "+numbers(h.slowSecondary))
	switch names := strings.Join(h.backfillNames, ", "); {
	case len(h.backfillNames) == 1:
		w = append(w, "pool "+names+" is backfillfull")
	case len(h.backfillNames) > 1:
		w = append(w, "pools "+names+" are backfillfull")
	}
	return w
}

// io lists what the cluster does, labels aligned.
func (h *health) io() string {
	r, w := h.stats.Ops["primary_read"], h.stats.Ops["primary_write"]
	lines := [][2]string{{"client", fmt.Sprintf("%s/s rd, %s op/s rd, %s/s wr, %s op/s wr", humanSize(r.BPS), humanCount(r.IOPS), humanSize(w.BPS), humanCount(w.IOPS))}}
	for _, b := range []struct {
		name string
		off  bool
		c    schema.Counters
	}{{"recovery", h.noRecovery, h.stats.Degraded}, {"rebalance", h.noRebalance, h.stats.Misplace}} {
		var parts []string
		if b.off {
			parts = append(parts, "disabled")
		}
		if b.c.IOPS > 0 || b.c.BPS > 0 {
			parts = append(parts, fmt.Sprintf("%s/s, %s op/s", humanSize(b.c.BPS), humanCount(b.c.IOPS)))
		}
		if parts != nil {
			lines = append(lines, [2]string{b.name, strings.Join(parts, ", ")})
		}
	}
	if h.noScrub {
		lines = append(lines, [2]string{"scrub", "disabled"})
	}
	s := &sheet{lines: lines}
	return "    " + strings.ReplaceAll(s.text(false), "\n", "\n    ")
}

func numbers[N ~uint64 | ~uint32 | int](list []N) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, ", ")
}

// truth reads a switch of config/global.
func truth(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case string:
		return v == "true" || v == "yes" || v == "1"
	}
	n, ok := asFloat(v)
	return ok && n != 0
}

func first(r env.KVOpResponse) *env.KeyValue {
	if len(r.KVs) == 0 {
		return nil
	}
	return &r.KVs[0]
}

// etcdStatus asks all members at the same time, through the gateway that every
// member has on its client address.
func etcdStatus(endpoints []string) (alive int, dbBytes uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	answers := make(chan uint64, len(endpoints))
	for _, url := range endpoints {
		go func() { answers <- memberBytes(ctx, url) }()
	}
	for range endpoints {
		if n := <-answers; n > 0 {
			alive++
			dbBytes = max(dbBytes, n)
		}
	}
	return alive, dbBytes
}

// memberBytes is the size of a member's database, 0 = it does not answer.
func memberBytes(ctx context.Context, url string) uint64 {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/maintenance/status", bytes.NewReader([]byte("{}")))
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var body struct {
		DBSize uint64 `json:"dbSize,string"`
	}
	if json.NewDecoder(resp.Body).Decode(&body) != nil {
		return 0
	}
	return body.DBSize
}
