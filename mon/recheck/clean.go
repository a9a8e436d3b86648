package recheck

import (
	"vitastor/internal/env"
	"vitastor/mon/pggen"
)

// cleaner keeps history/last_clean_pgs: where PGs were when all was well, which
// is what later distributions are compared with.
type cleaner struct {
	busy  bool
	again bool      // something has changed since the last look
	hold  env.Timer // runs for a while after each look
}

// checkClean looks at once, but not more often than changes are collected.
func (r *Rechecker) checkClean() {
	c := &r.clean
	if c.busy || c.hold.Armed() {
		c.again = true
		return
	}
	c.again = false
	r.Env.Clock.Arm(&c.hold, r.Options.Change)
	s := r.state
	_, badClean := s.bad[r.Keys.LastCleanPGs()]
	_, badConfig := s.bad[r.Keys.PGConfig()]
	if badClean || badConfig || s.poolsRaw == nil || s.pools.Valid == nil {
		return
	}
	g := &pggen.State{Keys: s.keys, Lease: r.Lease, Config: s.present(), Pools: s.pools, PGStates: s.states}
	out := pggen.CleanPGs(g, s.clean)
	if out.Kind == pggen.Nothing {
		return
	}
	c.busy = true
	// Nor may it undo what somebody else has written, such as rm-osd.
	out.Txn.If = append(out.Txn.If, env.Compare{Key: s.keys.LastCleanPGs(), Target: env.CompareMod,
		Result: env.CompareLess, Number: s.revision + 1})
	r.Env.KV.Txn(&out.Txn, r.Options.Apply, func(resp *env.TxnResponse, err error) {
		c.busy = false
		if r.stopped || err == nil && resp.Succeeded {
			return
		}
		if err != nil {
			r.log.Warn("cannot write last_clean_pgs, trying again", "err", err)
		}
		c.again = true
		r.Env.Clock.Arm(&c.hold, r.Options.Change)
	})
}

func (r *Rechecker) cleanAgain() {
	if r.clean.again {
		r.checkClean()
	}
}
