package simcluster

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// watchEvery is how often the harness looks at the running cluster.
const watchEvery = 20 * time.Millisecond

// observer reads the whole history of etcd and knows what may never happen in
// it (spec etcd.md 2.7, osd.md §2, §10).
type observer struct {
	w       *mem.Watcher
	leases  map[meta.OSDNum]env.LeaseID
	primary map[meta.PG]meta.OSDNum
	epochs  map[meta.PG]uint64
}

func (k *Cluster) newObserver() *observer {
	return &observer{w: k.w.KV().Store().Watch(env.WatchRequest{Key: k.keys.All().Key, End: k.keys.All().End, Start: 1}),
		leases: map[meta.OSDNum]env.LeaseID{}, primary: map[meta.PG]meta.OSDNum{}, epochs: map[meta.PG]uint64{}}
}

// watch looks for what may never be, at any moment.
func (k *Cluster) watch() {
	if k.looks++; k.looks%4 == 0 {
		k.watchPrimaries()
	}
	for {
		r := k.seen.w.Poll(0)
		if r == nil {
			return
		}
		if r.Err != nil { // compacted before we looked: begin again, with what we know
			k.seen.w = k.w.KV().Store().Watch(env.WatchRequest{Key: k.keys.All().Key, End: k.keys.All().End, Start: r.Compacted})
			k.seen.primary = map[meta.PG]meta.OSDNum{}
			clear(k.seen.leases)
			return
		}
		for i := range r.Events {
			if id, ok := k.keys.Parse(r.Events[i].KV.Key); ok {
				k.observe(id, &r.Events[i])
			}
		}
	}
}

// watchPrimaries asks the OSDs which PGs they serve: never two the same one
// (spec osd.md §10, §14). A stopped process serves nobody; whether it may still
// when it goes on is looked at then.
func (k *Cluster) watchPrimaries() {
	by := map[meta.PG]meta.OSDNum{}
	for _, n := range k.osds {
		if n.d == nil || n.frozen {
			continue
		}
		s := n.d.o.Status()
		if !s.MayServe {
			continue
		}
		for _, p := range s.PGs {
			if !p.Active || p.State&meta.PGActive == 0 {
				continue
			}
			if o := by[p.PG]; o != 0 {
				k.violate("two primaries", "PG %v is served by OSD %d and OSD %d", p.PG, o, n.num)
			}
			by[p.PG] = n.num
		}
	}
}

func (k *Cluster) observe(id schema.Key, e *env.WatchEvent) {
	s := k.seen
	switch id.Kind {
	case schema.KindOSDState:
		if delete(s.leases, id.OSD); !e.Deleted {
			s.leases[id.OSD] = e.KV.Lease
		}
	case schema.KindPGState:
		k.observeState(id.PGID(), e)
	case schema.KindPGHistory:
		if e.Deleted {
			delete(s.epochs, id.PGID())
			return
		}
		h, err := schema.DecodePGHistory(e.KV.Key, e.KV.Value)
		if err != nil {
			k.violate("pg/history", "%v", err)
		}
		if was := s.epochs[id.PGID()]; h.Epoch < was {
			k.violate("pg/history", "PG %v: the epoch went from %d back to %d", id.PGID(), was, h.Epoch)
		}
		s.epochs[id.PGID()] = h.Epoch
	}
}

func (k *Cluster) observeState(pg meta.PG, e *env.WatchEvent) {
	s := k.seen
	if e.Deleted {
		delete(s.primary, pg)
		return
	}
	st, err := schema.DecodePGState(e.KV.Key, e.KV.Value)
	if err != nil {
		k.violate("pg/state", "PG %v: %v", pg, err)
		return
	}
	if was, ok := s.primary[pg]; ok && was != st.Primary {
		k.violate("two primaries", "PG %v: OSD %d wrote over the state of OSD %d", pg, st.Primary, was)
	}
	if lease, ok := s.leases[st.Primary]; ok && lease != e.KV.Lease {
		k.violate("two primaries", "PG %v: OSD %d has lease %d, but its state has %d", pg, st.Primary, lease, e.KV.Lease)
	}
	s.primary[pg] = st.Primary
}
