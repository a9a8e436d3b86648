package simcluster

import (
	"fmt"
	"strings"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// unclean tells why the cluster is not at rest: "" when every PG of every pool
// is exactly active on a complete set of OSDs (spec osd.md §10, monitor.md §5).
func (k *Cluster) unclean() string {
	kv := k.get(k.keys.PGConfig())
	if kv == nil {
		return "no pg/config"
	}
	config, err := schema.DecodePGConfig(kv.Key, kv.Value)
	if err != nil {
		return err.Error()
	}
	states := map[meta.PG]schema.PGState{}
	for _, kv := range k.getRange(k.keys.Kind(schema.KindPGState)) {
		if id, ok := k.keys.Parse(kv.Key); ok {
			s, err := schema.DecodePGState(kv.Key, kv.Value)
			if err != nil {
				return err.Error()
			}
			states[id.PGID()] = s
		}
	}
	var why []string
	if config.Pool(extraPoolID) != nil && !k.c.extraPool {
		why = append(why, "the extra pool is still there")
	}
	for _, p := range k.c.Pools {
		why = append(why, k.uncleanPool(&p, config, states)...)
	}
	return strings.Join(why, "; ")
}

func (k *Cluster) uncleanPool(p *PoolConfig, config *schema.PGConfig, states map[meta.PG]schema.PGState) (why []string) {
	pgs := config.Pool(p.ID)
	if pgs == nil || len(pgs.PGs) != p.PGs {
		return []string{fmt.Sprintf("pool %d has not %d PGs", p.ID, p.PGs)}
	}
	for i, t := range pgs.PGs {
		id := meta.PG{Pool: p.ID, Num: meta.PGNum(i + 1)}
		s, ok := states[id]
		switch {
		case !ok:
			why = append(why, fmt.Sprintf("PG %v on %v: no state", id, t.OSDSet))
		case s.State != meta.PGActive:
			why = append(why, fmt.Sprintf("PG %v on %v: %v", id, t.OSDSet, s.State))
		case len(t.OSDSet) != p.Size || setHasZero(t.OSDSet):
			why = append(why, fmt.Sprintf("PG %v on %v: not all OSDs", id, t.OSDSet))
		case t.Pause:
			why = append(why, fmt.Sprintf("PG %v is paused", id))
		}
	}
	return why
}

func setHasZero(set []meta.OSDNum) bool {
	for _, o := range set {
		if o == 0 {
			return true
		}
	}
	return false
}
