// Package pggen turns decisions about placement groups into transactions: new
// distributions, changes of the number of PGs, deleted pools, primaries, and the
// record of the last clean distribution (spec monitor.md §2, §5, §6; etcd.md
// 2.7.1, 2.7.5).
//
// Guarantee: whatever set of OSDs may hold data of a PG is either its target or
// in its history after every transaction, histories never lose an epoch, and the
// number of PGs changes only when none of them runs. Every write is guarded by
// the master's lease and by the revision that the decision was made at: when it
// fails, somebody has written, and the decision is made again from newer state.
//
// Everything is a pure function of its arguments, which are not changed; safe
// for concurrent use.
//
// # How a distribution is applied
//
//	Apply --+-- PGs of some pools must stop first, and are not paused
//	        |      -> Pausing: write pause, wait, Apply again
//	        +-- some of them still run
//	        |      -> Waiting for their states to vanish, Apply again
//	        +-- otherwise
//	               -> Writing: everything in one transaction, with the hash
//	Recheck: the hash is the same; only primaries, pauses and full pools change
package pggen

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// State is what the monitor knows of etcd.
type State struct {
	Keys     schema.Keys
	Lease    env.LeaseID // the master's
	Revision int64       // everything up to it was processed
	Config   *schema.PGConfig
	// Legacy: the key config/pgs exists, so writes go there, too.
	Legacy bool
	// Pools is config/pools. It must not be made up from a value that could not
	// be read: what is not in it is deleted.
	Pools     *schema.Pools
	PGStates  map[meta.PG]schema.PGState
	Histories map[meta.PG]*schema.PGHistory // of all PGs whose key exists
	OSDs      []meta.OSDNum                 // of all keys osd/stats
}

// Placed is a new distribution of one pool.
type Placed struct {
	Sets  [][]meta.OSDNum // of PG 1, 2, ...; as many as pg_count
	Stats schema.PoolStats
}

// Decision is what shall become of pg/config.
type Decision struct {
	// Hash of the placement's input (placement.Inventory.Hash).
	Hash string
	// Placed are new distributions. Pools that are not here keep their PGs.
	Placed    map[meta.PoolID]*Placed
	Primaries *placement.Primaries
	// Full pools get no recovery (placement.Backfillfull); of the state after
	// the change.
	Full func(*schema.PGConfig) []meta.PoolID
}

// Kind tells what an Outcome is.
type Kind uint8

const (
	Nothing Kind = iota // no need to write
	Writing             // Txn does everything
	Pausing             // Txn pauses PGs; the rest must wait for them
	Waiting             // for PGs that still run
)

func (k Kind) String() string {
	return [...]string{"nothing", "writing", "pausing", "waiting"}[k]
}

// Outcome is what to do next.
type Outcome struct {
	Kind   Kind
	Txn    env.Txn
	Config *schema.PGConfig // pg/config after Txn
	// Running are the PGs that are waited for, ascending.
	Running []meta.PG
}

// Errors of Apply and Recheck.
var (
	// ErrBroken: pg/config has an entry that cannot be read, so it must not be
	// written: OSDs that hold data might be lost.
	ErrBroken = errors.New("pg/config cannot be changed until it is corrected")
	// ErrNotPlaced: a pool needs a distribution and has none in the decision.
	ErrNotPlaced = errors.New("no distribution was computed")
)

// Apply carries out a decision, or the next step on the way to it.
func Apply(s *State, d *Decision) (*Outcome, error) {
	if err := s.check(d); err != nil {
		return nil, err
	}
	if stop := s.toStop(); len(stop) > 0 {
		if !s.paused(stop) {
			return s.pause(stop)
		}
		if running := s.running(stop); len(running) > 0 {
			return &Outcome{Kind: Waiting, Config: s.Config, Running: running}, nil
		}
	}
	config := clone(s.Config)
	w := &schema.PGConfigWrite{Config: config, Histories: map[meta.PG]*schema.PGHistory{},
		PoolStats: map[meta.PoolID]schema.PoolStats{}, Legacy: s.Legacy}
	s.deletePools(w)
	for _, pool := range slices.Sorted(maps.Keys(d.Placed)) {
		s.place(w, s.Pools.Valid[pool], d.Placed[pool], d.Primaries)
	}
	s.recheck(config, d.Primaries)
	config.Hash = d.Hash
	config.Backfillfull = d.Full(config)
	return s.write(w, Writing)
}

// Recheck is for the time between distributions: OSDs went up or down, or
// became full, or a change that PGs were paused for was taken back.
func Recheck(s *State, d *Decision) (*Outcome, error) {
	if err := s.readable(); err != nil {
		return nil, err
	}
	config := clone(s.Config)
	changed := s.recheck(config, d.Primaries)
	config.Backfillfull = d.Full(config)
	if !changed && slices.Equal(config.Backfillfull, s.Config.Backfillfull) {
		return &Outcome{Kind: Nothing, Config: s.Config}, nil
	}
	return s.write(&schema.PGConfigWrite{Config: config, Legacy: s.Legacy}, Writing)
}

// write builds the transaction.
func (s *State) write(w *schema.PGConfigWrite, kind Kind) (*Outcome, error) {
	if w.Config.Hash == "" {
		w.Config.Hash = noHash
	}
	txn, err := s.Keys.PutPGConfig(w, s.Lease, s.Revision)
	if err != nil {
		return nil, err
	}
	return &Outcome{Kind: kind, Txn: txn, Config: w.Config}, nil
}

// noHash stands for a hash that does not exist yet. It is not the hash of
// anything, so the next monitor computes changes; without one, it would
// reshuffle all PGs.
const noHash = "0000000000000000000000000000000000000000"

// check tells whether the decision fits the state.
func (s *State) check(d *Decision) error {
	if err := s.readable(); err != nil {
		return err
	}
	if d.Hash == "" {
		return schema.ErrNoHash
	}
	for id, placed := range d.Placed {
		pool := s.Pools.Valid[id]
		if pool == nil || len(placed.Sets) != int(pool.PGCount) {
			return fmt.Errorf("pool %d: %d PGs were distributed, which is not its pg_count (has the pool changed?)", id, len(placed.Sets))
		}
		for i, set := range placed.Sets {
			if len(set) != pool.PGSize {
				return fmt.Errorf("pool %d: the set of PG %d has %d OSDs, pg_size is %d", id, i+1, len(set), pool.PGSize)
			}
		}
	}
	for id, pool := range s.Pools.Valid {
		if d.Placed[id] == nil && s.Config.Pool(id).MaxNum() != meta.PGNum(pool.PGCount) {
			return fmt.Errorf("pool %d (%s) has no PGs, or not the right number: %w", id, pool.Name, ErrNotPlaced)
		}
	}
	return nil
}

func (s *State) readable() error {
	for i := range s.Config.Pools {
		for k := range s.Config.Pools[i].PGs {
			if t := &s.Config.Pools[i].PGs[k]; t.Broken {
				return fmt.Errorf("the entry of PG %v is not readable: %w", meta.PG{Pool: s.Config.Pools[i].Pool, Num: t.Num}, ErrBroken)
			}
		}
	}
	return nil
}

// deleted tells whether a pool is not configured any more. An invalid one is.
func (s *State) deleted(pool meta.PoolID) bool {
	return s.Pools.Config.Get(strconv.Itoa(int(pool))) == nil
}

// toStop lists the pools of pg/config whose PGs must not run when the decision
// is carried out.
func (s *State) toStop() []*schema.PoolPGs {
	var list []*schema.PoolPGs
	for i := range s.Config.Pools {
		pgs := &s.Config.Pools[i]
		if s.deleted(pgs.Pool) || s.resized(pgs) {
			list = append(list, pgs)
		}
	}
	return list
}

// resized tells whether a pool has to get another number of PGs.
func (s *State) resized(pgs *schema.PoolPGs) bool {
	pool := s.Pools.Valid[pgs.Pool]
	return pool != nil && len(pgs.PGs) > 0 && pgs.MaxNum() != meta.PGNum(pool.PGCount)
}

func (s *State) paused(stop []*schema.PoolPGs) bool {
	for _, pgs := range stop {
		if slices.ContainsFunc(pgs.PGs, func(t schema.PGTarget) bool { return !t.Pause }) {
			return false
		}
	}
	return true
}

// pause tells OSDs to stop PGs. It fails when any OSD came or went meanwhile:
// an OSD that starts must see the pause before it takes PGs.
func (s *State) pause(stop []*schema.PoolPGs) (*Outcome, error) {
	config := clone(s.Config)
	for _, pgs := range stop {
		targets := slices.Clone(pgs.PGs)
		for i := range targets {
			targets[i].Pause = true
		}
		config.SetPool(pgs.Pool, targets)
	}
	return s.write(&schema.PGConfigWrite{Config: config, GuardOSDs: s.OSDs, Legacy: s.Legacy}, Pausing)
}

// running lists the PGs of some pools that have a state. States of PGs that
// are not in pg/config count, too.
func (s *State) running(stop []*schema.PoolPGs) []meta.PG {
	var list []meta.PG
	for pg, state := range s.PGStates {
		if !state.Offline() && slices.ContainsFunc(stop, func(p *schema.PoolPGs) bool { return p.Pool == pg.Pool }) {
			list = append(list, pg)
		}
	}
	slices.SortFunc(list, meta.PG.Compare)
	return list
}

func (s *State) deletePools(w *schema.PGConfigWrite) {
	for i := range s.Config.Pools {
		if pool := s.Config.Pools[i].Pool; s.deleted(pool) {
			w.Deleted = append(w.Deleted, pool)
		}
	}
	for _, pool := range w.Deleted {
		w.Config.DeletePool(pool)
	}
	for pg := range s.Histories {
		if slices.Contains(w.Deleted, pg.Pool) {
			w.Histories[pg] = nil
		}
	}
}

// place gives a pool its new PGs.
func (s *State) place(w *schema.PGConfigWrite, pool *schema.Pool, placed *Placed, primaries *placement.Primaries) {
	old := s.Config.Pool(pool.ID)
	targets := make([]schema.PGTarget, len(placed.Sets))
	for i, set := range placed.Sets {
		num := meta.PGNum(i + 1)
		targets[i] = schema.PGTarget{Num: num, OSDSet: slices.Clone(set), Primary: primaries.Of(pool, num, set)}
	}
	if old.MaxNum() != 0 && old.MaxNum() != meta.PGNum(pool.PGCount) {
		s.inheritAll(w.Histories, old, pool.PGCount)
		w.Resized = append(w.Resized, pool.ID)
	} else if old.MaxNum() != 0 {
		s.addOldSets(w.Histories, old, targets)
	}
	w.Config.SetPool(pool.ID, targets)
	w.PoolStats[pool.ID] = placed.Stats
}

// recheck sets primaries anew and ends pauses, where PGs need not stop. It
// changes config and tells whether it did.
func (s *State) recheck(config *schema.PGConfig, primaries *placement.Primaries) (changed bool) {
	for i := range config.Pools {
		pgs := &config.Pools[i]
		pool := s.Pools.Valid[pgs.Pool]
		if pool == nil || s.resized(pgs) {
			continue
		}
		targets := slices.Clone(pgs.PGs)
		differ := false
		for k := range targets {
			t := &targets[k]
			primary := primaries.Of(pool, t.Num, t.OSDSet)
			differ = differ || primary != t.Primary || t.Pause
			t.Primary, t.Pause = primary, false
		}
		if differ {
			config.SetPool(pgs.Pool, targets)
			changed = true
		}
	}
	return changed
}

// clone is a copy whose list of pools may be changed.
func clone(c *schema.PGConfig) *schema.PGConfig {
	next := *c
	next.Pools = slices.Clone(c.Pools)
	next.Backfillfull = slices.Clone(c.Backfillfull)
	return &next
}
