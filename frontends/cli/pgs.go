package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// stateFilter is one STATE argument of pgs.
type stateFilter struct {
	bits meta.PGState
	not  bool
}

// parseStateFilter reads a+b or ^a+b.
func parseStateFilter(s string) (f stateFilter, err error) {
	if s != "" && (s[0] == '^' || s[0] == '!') {
		f.not, s = true, s[1:]
	}
	for name := range strings.SplitSeq(s, "+") {
		bit, ok := pgStateBit(name)
		if !ok {
			return f, fail(syscall.EINVAL, "Unknown PG state %s", name)
		}
		f.bits |= bit
	}
	return f, nil
}

// pgStateBit finds the bit of a keyword.
func pgStateBit(name string) (meta.PGState, bool) {
	for bit := meta.PGStarting; bit <= meta.PGScrubbing; bit <<= 1 {
		if slices.Contains(bit.Names(), name) {
			return bit, true
		}
	}
	return 0, false
}

func (f stateFilter) matches(s meta.PGState) bool { return (s&f.bits == f.bits) != f.not }

// pgInfo is one PG.
type pgInfo struct {
	pool     *schema.Pool
	target   *schema.PGTarget
	state    schema.PGState
	history  schema.PGHistory
	stats    schema.PGStats
	rawStats json.RawMessage
}

func (r *run) pgs() (result, error) {
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	var pool *schema.Pool
	if r.given("pool") {
		if pool, err = s.wantPool(r.text("pool")); err != nil {
			return result{}, err
		}
	}
	var filters []stateFilter
	for _, w := range r.words {
		f, err := parseStateFilter(w)
		if err != nil {
			return result{}, err
		}
		filters = append(filters, f)
	}
	osds, ok := osdNumbers(list(r.text("osd")))
	if !ok {
		return result{}, fail(syscall.EINVAL, "--osd is %q, it must be OSD numbers separated by commas", r.text("osd"))
	}
	all, err := r.conn.pgInfos(s)
	if err != nil {
		return result{}, err
	}
	kept := slices.DeleteFunc(all, func(p *pgInfo) bool {
		state := p.stateBits()
		num := uint64(p.target.Num)
		return pool != nil && p.pool != pool || num < r.number("min") || r.number("max") > 0 && num > r.number("max") ||
			len(osds) > 0 && !p.touches(osds) ||
			len(filters) > 0 && !slices.ContainsFunc(filters, func(f stateFilter) bool { return f.matches(state) })
	})
	data := []any{}
	t := &table{}
	if pool == nil {
		t.add(column{key: "pool", title: "POOL"})
	}
	t.add(column{key: "num", title: "NUM"}, column{key: "set", title: "OSD SET"}, column{key: "primary", title: "PRIMARY"},
		column{key: "clean", title: "DATA CLEAN"}, column{key: "misplaced", title: "MISPLACED"}, column{key: "degraded", title: "DEGRADED"},
		column{key: "incomplete", title: "INCOMPLETE"}, column{key: "state", title: "STATE"})
	for _, p := range kept {
		data = append(data, p.json())
		t.rows = append(t.rows, p.cells())
	}
	return result{text: t.text(r.color), data: data}, nil
}

// pgInfos are all PGs of pg/config, by pool and number.
func (c *cluster) pgInfos(s *state) ([]*pgInfo, error) {
	k := c.keys
	got, _, err := c.read(k.Kind(schema.KindPGHistory).Get(), k.Kind(schema.KindPGStats).Get())
	if err != nil {
		return nil, err
	}
	values := [2]map[meta.PG]string{{}, {}}
	for i, r := range got {
		for _, kv := range r.KVs {
			if key, ok := k.Parse(kv.Key); ok {
				values[i][key.PGID()] = string(kv.Value)
			}
		}
	}
	var list []*pgInfo
	for i := range s.targets.Pools {
		targets := &s.targets.Pools[i]
		pool := s.pools[targets.Pool]
		if pool == nil {
			continue
		}
		for j := range targets.PGs {
			p := &pgInfo{pool: pool, target: &targets.PGs[j]}
			id := meta.PG{Pool: targets.Pool, Num: p.target.Num}
			p.state = s.pgs[id]
			p.history, _ = schema.DecodePGHistory(k.PGHistory(id), []byte(values[0][id]))
			p.rawStats = json.RawMessage(values[1][id])
			p.stats, _ = schema.DecodePGStats(k.PGStats(id), p.rawStats)
			list = append(list, p)
		}
	}
	return list, nil
}

// stateBits: a PG without a state is offline.
func (p *pgInfo) stateBits() meta.PGState {
	if p.state.State == 0 {
		return meta.PGOffline
	}
	return p.state.State
}

// touches tells whether one of the OSDs has, or may have, data of the PG.
func (p *pgInfo) touches(osds []uint64) bool {
	peers := p.target.Peers(&p.history)
	return slices.ContainsFunc(osds, func(o uint64) bool { return slices.Contains(peers, meta.OSDNum(o)) })
}

func (p *pgInfo) json() object {
	o, _ := decodeAny(p.rawStats).(map[string]any)
	if o == nil {
		o = object{}
	}
	delete(o, "write_osd_set")
	p.history.Normalise()
	peers := p.history.AllPeers
	if peers == nil {
		peers = []meta.OSDNum{}
	}
	o["pool_id"], o["pool_name"], o["pg_num"], o["pause"] = p.pool.ID, p.pool.Name, p.target.Num, p.target.Pause
	o["state"], o["cur_primary"], o["target_primary"] = stateNames(p.state), p.state.Primary, p.target.Primary
	o["target_set"], o["target_history"], o["all_peers"] = p.target.OSDSet, sortedSets(p.history.OSDSets), peers
	o["epoch"], o["next_scrub"] = p.history.Epoch, p.history.NextScrub
	return o
}

// sortedSets are in order, each once.
func sortedSets(sets [][]meta.OSDNum) [][]meta.OSDNum {
	sets = append([][]meta.OSDNum{}, sets...)
	slices.SortFunc(sets, slices.Compare)
	return slices.CompactFunc(sets, slices.Equal)
}

func (p *pgInfo) cells() map[string]string {
	bytes := func(objects uint64) string { return humanSize(objects * p.pool.ObjectBytes()) }
	primary := "-"
	switch cur, target := p.state.Primary, p.target.Primary; {
	case cur != target:
		primary = fmt.Sprintf("%d->%d", cur, target)
	case cur != 0:
		primary = fmt.Sprint(cur)
	}
	return map[string]string{"pool": p.pool.Name, "num": fmt.Sprint(p.target.Num), "set": strings.ReplaceAll(numbers(p.target.OSDSet), " ", ""),
		"primary": primary, "clean": bytes(p.stats.Clean), "misplaced": bytes(p.stats.Misplaced), "degraded": bytes(p.stats.Degraded),
		"incomplete": bytes(p.stats.Incomplete), "state": strings.Join(stateNames(p.state), "+")}
}
