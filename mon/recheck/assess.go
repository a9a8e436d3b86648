package recheck

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
	"vitastor/mon/pggen"
)

// task is the distribution of one pool.
type task struct {
	pool        *schema.Pool
	tree        *placement.Tree
	fingerprint string
	previous    [][]meta.OSDNum
	run         *placement.Distribution
	sets        [][]meta.OSDNum // nil = not done
}

// step does about work units of work (placement.Distribution.Step).
func (t *task) step(work int) (done bool, err error) {
	if t.run == nil {
		t.run, err = placement.Distribute(t.tree, t.pool, t.previous)
		return false, err
	}
	if t.run.Step(work) {
		t.sets, t.run = t.run.Sets(), nil
	}
	return t.sets != nil, nil
}

func (t *task) same(other *task) bool {
	return t.fingerprint == other.fingerprint && slices.EqualFunc(t.previous, other.previous, slices.Equal)
}

// plan is what has to be done about pg/config.
type plan struct {
	hash         string // that pg/config shall get
	fingerprints map[meta.PoolID]string
	todo         []*task // distributions that have to be computed
	done         map[meta.PoolID]*task
	// refresh are pools that only need new pool/stats.
	refresh map[meta.PoolID]*pggen.Placed
	frozen  map[meta.PoolID]error // pools that must stay as they are, and why
	idle    bool                  // nothing to be done
}

// assessor makes a plan. known are the fingerprints of the present
// distributions, results distributions computed earlier that were not written.
type assessor struct {
	state   *State
	options *Options
	known   map[meta.PoolID]string
	results map[meta.PoolID]*task
	config  *schema.PGConfig
	tree    *placement.Inventory
	plan    *plan
}

// Errors of assess.
var (
	errUnknown = errors.New("PGs are not placed until this is corrected")
	errNoPools = errors.New("config/pools does not exist, but there are PGs: " +
		"to delete all pools, put {} there; nothing is changed meanwhile")
)

// assess compares what is with what should be. It does not change its arguments,
// except that it adds to known.
func (s *State) assess(o *Options, nowMillis uint64, known map[meta.PoolID]string, results map[meta.PoolID]*task) (*plan, error) {
	if err := s.placeable(o); err != nil {
		return nil, err
	}
	a := &assessor{state: s, options: o, known: known, results: results, config: s.present(),
		tree: placement.Build(s.input(o, nowMillis)),
		plan: &plan{fingerprints: map[meta.PoolID]string{}, done: map[meta.PoolID]*task{},
			refresh: map[meta.PoolID]*pggen.Placed{}, frozen: s.unreadableHistories()}}
	hash, err := a.tree.Hash(&s.pools.Config)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(s.pools.Valid)) {
		a.pool(s.pools.Valid[id], hash)
	}
	p := a.plan
	p.hash = hash
	if len(p.frozen) > 0 {
		p.keepHash(a.config)
	}
	p.idle = len(p.todo)+len(p.done)+len(p.refresh) == 0 && p.hash == a.config.Hash && !s.deletes()
	return p, nil
}

// keepHash leaves the hash as it is: the next master has to look at pools that
// were not placed, too.
func (p *plan) keepHash(config *schema.PGConfig) {
	if config.Hash != "" {
		p.hash = config.Hash
	}
}

// placeable tells why nothing may be placed: something that is not known might
// make the difference.
func (s *State) placeable(o *Options) error {
	if o.Hold != nil {
		return fmt.Errorf("%w: %w", errUnknown, o.Hold)
	}
	for _, key := range slices.Sorted(maps.Keys(s.bad)) {
		b := s.bad[key]
		matters := b.unknown
		switch b.key.Kind {
		case schema.KindPGConfig:
		case schema.KindLegacyPGConfig:
			matters = matters && (s.config == nil || len(s.config.Pools) == 0)
		case schema.KindPools, schema.KindNodePlacement, schema.KindOSDStats:
		case schema.KindOSDConfig:
			o := s.osds[b.key.OSD]
			matters = matters && o != nil && o.stats != nil
		default:
			continue
		}
		if matters {
			return fmt.Errorf("%w: %w", errUnknown, b.err)
		}
	}
	if s.poolsRaw == nil && len(s.present().Pools) > 0 {
		return errNoPools
	}
	return nil
}

// unreadableHistories freezes pools whose histories must not be overwritten.
func (s *State) unreadableHistories() map[meta.PoolID]error {
	frozen := map[meta.PoolID]error{}
	for _, key := range slices.SortedFunc(maps.Keys(s.bad), cmp.Compare) {
		if b := s.bad[key]; b.key.Kind == schema.KindPGHistory && s.configured(b.key.Pool) {
			frozen[b.key.Pool] = b.err
		}
	}
	return frozen
}

// deletes tells whether pg/config has pools that are not configured any more.
func (s *State) deletes() bool {
	return slices.ContainsFunc(s.present().Pools, func(p schema.PoolPGs) bool { return !s.configured(p.Pool) })
}

// pool decides about one pool.
func (a *assessor) pool(pool *schema.Pool, hash string) {
	if a.plan.frozen[pool.ID] != nil {
		return
	}
	t := &task{pool: pool, tree: a.tree.Tree(pool)}
	var err error
	if t.fingerprint, err = placement.Fingerprint(t.tree, pool); err != nil {
		a.plan.frozen[pool.ID] = fmt.Errorf("pool %d (%s): %w", pool.ID, pool.Name, err)
		return
	}
	fits := !pggen.NeedsPlacing(pool, a.config, t.fingerprint, t.fingerprint)
	if fits && len(t.tree.Leaves()) == 0 {
		return // nobody to give the PGs to
	}
	if fits && a.known[pool.ID] == "" && a.config.Hash == hash {
		a.known[pool.ID] = t.fingerprint
	}
	a.plan.fingerprints[pool.ID] = t.fingerprint
	if !pggen.NeedsPlacing(pool, a.config, a.known[pool.ID], t.fingerprint) {
		a.refresh(t)
		return
	}
	t.previous = pggen.Previous(a.config, a.state.clean, pool.ID)
	if earlier := a.results[pool.ID]; earlier != nil && earlier.same(t) {
		earlier.pool, earlier.tree = pool, t.tree
		a.plan.done[pool.ID] = earlier
		return
	}
	a.plan.todo = append(a.plan.todo, t)
}

// refresh makes pool/stats of a pool that stays where it is, if there are none:
// without them a reference monitor would reshuffle everything.
func (a *assessor) refresh(t *task) {
	stats := a.state.stats[t.pool.ID]
	if stats.Complete() {
		return
	}
	var sets [][]meta.OSDNum
	for _, target := range a.config.Pool(t.pool.ID).PGs {
		sets = append(sets, target.OSDSet)
	}
	if stats = placement.StatsOf(t.tree, t.pool, sets, stats.UsedRawTB); stats.Complete() {
		a.plan.refresh[t.pool.ID] = &pggen.Placed{Sets: sets, Stats: stats}
	}
}

// ready tells whether everything is computed.
func (p *plan) ready() bool { return len(p.todo) == 0 }

// placed are the new distributions.
func (p *plan) placed(s *State) map[meta.PoolID]*pggen.Placed {
	all := maps.Clone(p.refresh)
	for id, t := range p.done {
		all[id] = &pggen.Placed{Sets: t.sets,
			Stats: placement.StatsOf(t.tree, t.pool, t.sets, s.stats[id].UsedRawTB)}
	}
	return all
}
