package pgs

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema"
)

// Prepare reads the pools and their PGs once and sorts the objects of the store
// into PGs, before the OSD announces itself: afterwards the PGs of other OSDs
// would stand still until that is done, because they need our lists. What cannot
// be read, or changes meanwhile, is done by Start. done is called once, later.
func (m *Manager) Prepare(timeout time.Duration, done func()) {
	k := m.c.Keys
	t := env.Txn{}
	for _, key := range []string{k.Global(), k.Pools(), k.PGConfig(), k.LegacyPGConfig()} {
		t.Then = append(t.Then, env.KVOp{Kind: env.KVGet, Key: key})
	}
	m.env.KV.Txn(&t, timeout, func(r *env.TxnResponse, err error) {
		if err != nil {
			m.log.Warn("the number of PGs is not known before the start", "err", err)
		} else {
			m.presort(r)
		}
		done()
	})
}

// presort ignores what is wrong: the view will say it.
func (m *Manager) presort(r *env.TxnResponse) {
	value := func(i int) []byte {
		if kvs := r.Responses[i].KVs; len(kvs) > 0 {
			return kvs[0].Value
		}
		return nil
	}
	k := m.c.Keys
	global, _ := schema.DecodeObject(k.Global(), value(0))
	defaults, _ := schema.GlobalPoolDefaults(k.Global(), &global)
	pools, _ := schema.DecodePools(k.Pools(), value(1), defaults)
	config, _ := schema.DecodePGConfig(k.PGConfig(), value(2))
	if value(2) == nil {
		config, _ = schema.DecodePGConfig(k.LegacyPGConfig(), value(3))
	}
	for i := range config.Pools {
		targets := &config.Pools[i]
		if p := pools.Valid[targets.Pool]; p != nil && targets.Count() != 0 {
			m.Store.ReshardNow(p.ID, targets.Count(), p.PGStripeBytes)
		}
	}
}
