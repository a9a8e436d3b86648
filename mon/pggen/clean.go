package pggen

import (
	"bytes"
	"slices"
	"strconv"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// CleanPGs brings history/last_clean_pgs up to date: pools all of whose PGs are
// clean where they shall be are copied from pg/config, others keep what was
// noted before, and those that are gone are dropped. The outcome is Nothing if
// nothing has changed.
//
// Other than the reference, the peers of each PG are looked at, too: right after
// a change of pg/config, PGs are still active with their old sets.
func CleanPGs(s *State, last *schema.PGConfig) *Outcome {
	next := clone(last)
	for i := range last.Pools {
		if pool := last.Pools[i].Pool; s.Pools.Config.Get(strconv.Itoa(int(pool))) == nil {
			next.DeletePool(pool)
		}
	}
	for i := range s.Config.Pools {
		pgs := &s.Config.Pools[i]
		if pool := s.Pools.Valid[pgs.Pool]; pool != nil && pgs.Count() == pool.PGCount && s.clean(pool, pgs) {
			next.SetPool(pgs.Pool, pgs.PGs)
		}
	}
	if bytes.Equal(next.EncodeItems(), last.EncodeItems()) {
		return &Outcome{Kind: Nothing, Config: last}
	}
	return &Outcome{Kind: Writing, Txn: s.Keys.PutLastCleanPGs(next, s.Lease), Config: next}
}

// clean tells whether all data of a pool is where pg/config wants it.
func (s *State) clean(pool *schema.Pool, pgs *schema.PoolPGs) bool {
	for i := range pgs.PGs {
		t := &pgs.PGs[i]
		state := s.PGStates[meta.PG{Pool: pgs.Pool, Num: t.Num}]
		if state.State&^meta.PGLeftOnDead != meta.PGActive || t.Paused(pool.PGSize) {
			return false
		}
		for _, o := range t.OSDSet {
			if o != 0 && !slices.Contains(state.Peers, o) {
				return false
			}
		}
	}
	return true
}

// Previous are the sets that a new distribution of a pool starts from: the last
// clean ones, or those of pg/config if there are none, or if the number of PGs
// was another then.
func Previous(config, lastClean *schema.PGConfig, pool meta.PoolID) [][]meta.OSDNum {
	now, clean := config.Pool(pool), lastClean.Pool(pool)
	if clean.Count() != 0 && (now.Count() == 0 || now.Count() == clean.Count()) {
		now = clean
	}
	var sets [][]meta.OSDNum
	for num := meta.PGNum(1); uint32(num) <= now.Count(); num++ {
		sets = append(sets, now.PG(num).OSDSet)
	}
	return sets
}

// NeedsPlacing tells whether a pool has to be distributed anew: it has no PGs,
// or not as many or as wide ones as it should, or what its distribution
// depends on has changed. known is the fingerprint of when it was distributed
// last, or of a time when the hash in pg/config was right; "" = not known.
func NeedsPlacing(pool *schema.Pool, config *schema.PGConfig, known, fingerprint string) bool {
	pgs := config.Pool(pool.ID)
	if pgs.Count() != pool.PGCount || known != fingerprint {
		return true
	}
	return slices.ContainsFunc(pgs.PGs, func(t schema.PGTarget) bool { return len(t.OSDSet) != pool.PGSize })
}
