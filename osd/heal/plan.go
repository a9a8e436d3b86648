package heal

import (
	"slices"

	"vitastor/internal/meta"
)

// plans are the times of the next scrubs of active PGs. Pure.
type plans struct {
	all []plan // ascending by PG
}

type plan struct {
	pg meta.PG
	at uint64 // unix time in seconds, 0 = not planned
}

func (p *plans) find(pg meta.PG) (int, bool) {
	return slices.BinarySearchFunc(p.all, pg, func(x plan, pg meta.PG) int { return x.pg.Compare(pg) })
}

func (p *plans) set(pg meta.PG, at uint64) {
	i, found := p.find(pg)
	if !found {
		p.all = slices.Insert(p.all, i, plan{pg: pg})
	}
	p.all[i].at = at
}

func (p *plans) remove(pg meta.PG) {
	if i, found := p.find(pg); found {
		p.all = slices.Delete(p.all, i, i+1)
	}
}

// first is the plan with the earliest time; ok is false when there is none.
func (p *plans) first() (first plan, ok bool) {
	for _, x := range p.all {
		if x.at != 0 && (!ok || x.at < first.at) {
			first, ok = x, true
		}
	}
	return first, ok
}

// unplanned returns a PG without a time, at or after pg.
func (p *plans) unplanned(pg meta.PG) (meta.PG, bool) {
	i, _ := p.find(pg)
	for _, x := range p.all[i:] {
		if x.at == 0 {
			return x.pg, true
		}
	}
	return meta.PG{}, false
}
