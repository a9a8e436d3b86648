package statsum

import (
	"cmp"
	"maps"
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/mon/metrics"
)

// Snapshot copies everything that metrics show. config is pg/config as the
// monitor knows it. The result shares nothing that is ever modified.
func (s *Sums) Snapshot(config *schema.PGConfig) *metrics.Snapshot {
	s.refresh()
	snap := &metrics.Snapshot{Stats: s.total()}
	for _, id := range slices.SortedFunc(maps.Keys(s.inodes), cmp.Compare) {
		if in := s.inodes[id]; in.wanted() {
			snap.Images = append(snap.Images, metrics.Image{Inode: id, Name: in.name, Stats: in.stats()})
		}
	}
	for _, o := range s.sortedOSDs() {
		if o.stats == nil {
			continue
		}
		host := o.stats.Host
		if host == "" {
			host = o.host
		}
		snap.OSDs = append(snap.OSDs, metrics.OSD{Num: o.num, Host: host, Up: o.up, Stats: o.stats})
	}
	for _, id := range slices.Sorted(maps.Keys(s.monitors)) {
		m := s.monitors[id]
		ip := ""
		if len(m.IPs) > 0 {
			ip = m.IPs[0]
		}
		snap.Monitors = append(snap.Monitors, metrics.Monitor{ID: id, Hostname: m.Hostname, IP: ip, Master: s.master.ID == id})
	}
	for _, id := range slices.Sorted(maps.Keys(s.pools.Valid)) {
		p := metrics.Pool{Pool: s.pools.Valid[id], States: map[meta.PGState]int{}}
		if stored := s.storedPools[id]; stored != nil {
			p.Stats, p.HasStats = stored.stats, true
		}
		if pgs := config.Pool(id); pgs != nil {
			for i := range pgs.PGs {
				state, ok := s.states[meta.PG{Pool: id, Num: pgs.PGs[i].Num}]
				if !ok {
					state = meta.PGOffline
				}
				p.States[state]++
			}
		}
		snap.Pools = append(snap.Pools, p)
	}
	return snap
}
