package recheck

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
	"vitastor/mon/pggen"
)

// ErrNotMaster is a reason of Lost.
var ErrNotMaster = errors.New("another monitor is the master, or nobody is")

// writes is the state of writes of pg/config.
type writes struct {
	busy    bool
	await   int64 // revision of the last write; the next one waits for it
	at      env.Instant
	backoff time.Duration
	retry   env.Timer   // runs after a failure
	spaced  env.Timer   // runs before a write that is not urgent
	poll    env.Timer   // runs after PGs did not stop yet
	tried   int64       // revision at which they did not
	waiting env.Instant // since when; 0 = not
	alone   bool        // nothing else can be done meanwhile
	running []meta.PG   // that are waited for
}

func poolName(id meta.PoolID) string { return strconv.Itoa(int(id)) }

// pump does the next write, if it is time for one.
func (r *Rechecker) pump() {
	w := &r.writes
	if r.stopped || !r.started || w.busy || r.state.revision < w.await || w.retry.Armed() {
		return
	}
	if r.primaries && r.due() {
		r.primaries, r.urgent = false, false
		if r.recheck() {
			return
		}
	}
	if r.plan == nil || !r.plan.ready() || w.poll.Armed() {
		return
	}
	if r.stale {
		r.assess() // comes back when it is ready
		return
	}
	r.apply()
}

// due tells whether primaries may be written now.
func (r *Rechecker) due() bool {
	w := &r.writes
	left := w.at.Add(spacing).Sub(r.Env.Clock.Now())
	if r.urgent || w.at == 0 || left <= 0 {
		return true
	}
	if !w.spaced.Armed() {
		r.Env.Clock.Arm(&w.spaced, left)
	}
	return false
}

func (r *Rechecker) decision() *pggen.Decision {
	tree := placement.Build(r.state.input(&r.Options, r.nowMillis()))
	return &pggen.Decision{Primaries: tree.NewPrimaries(), Full: r.state.full(r.Options.FullRatio)}
}

// recheck writes new primaries if there are any; true = a write has begun.
func (r *Rechecker) recheck() bool {
	if _, bad := r.state.bad[r.Keys.PGConfig()]; bad || r.state.pools.Valid == nil {
		return false // the reason was logged when it was read
	}
	s := r.state.decide(r.Lease, r.state.unpaused())
	out, err := pggen.Recheck(s, r.decision())
	if err == nil && out.Kind == pggen.Nothing && r.state.migrates() {
		w := &schema.PGConfigWrite{Config: s.Config, Legacy: true}
		out = &pggen.Outcome{Kind: pggen.Writing}
		out.Txn, err = r.Keys.PutPGConfig(w, r.Lease, s.Revision)
	}
	r.complain("primaries", err)
	if err != nil || out.Kind == pggen.Nothing {
		return false
	}
	r.send(&out.Txn, r.Options.Request, "primaries", func() {}, func() { r.primaries, r.urgent = true, true })
	return true
}

// unpaused are the pools whose number of PGs shall change, but which run as
// before until they are paused: their primaries matter.
func (s *State) unpaused() map[meta.PoolID]error {
	list := map[meta.PoolID]error{}
	config := s.present()
	for id, pool := range s.pools.Valid {
		pgs := config.Pool(id)
		if pgs.MaxNum() == 0 || uint32(pgs.MaxNum()) == pool.PGCount {
			continue
		}
		paused := false
		for i := range pgs.PGs {
			paused = paused || pgs.PGs[i].Pause
		}
		if !paused {
			list[id] = errUnpaused
		}
	}
	return list
}

var errUnpaused = errors.New("still runs with its old PGs")

// apply carries out the plan, or the next step of it.
func (r *Rechecker) apply() {
	p := r.plan
	d := r.decision()
	d.Hash, d.Placed = p.hash, p.placed(r.state)
	out, err := pggen.Apply(r.state.decide(r.Lease, p.frozen), d)
	r.complain("pg/config", err)
	switch {
	case err != nil:
		r.plan = nil // until something changes
	case out.Kind == pggen.Waiting:
		r.wait(out, d)
	case out.Kind == pggen.Pausing:
		r.writes.waiting = 0
		r.send(&out.Txn, r.Options.Apply, "pause", func() {}, func() {})
	default:
		r.send(&out.Txn, r.Options.Apply, "placement", func() { r.applied(p) }, func() {})
	}
}

// wait is for PGs that must stop before their number changes or their pool is
// deleted. If that takes long, other pools do not wait for them.
func (r *Rechecker) wait(out *pggen.Outcome, d *pggen.Decision) {
	w := &r.writes
	now := r.Env.Clock.Now()
	if w.waiting == 0 {
		w.waiting = now
		r.log.Info("waiting for PGs to stop", "pgs", len(out.Running), "first", out.Running[0])
	}
	w.tried = r.state.revision
	long := now.Sub(w.waiting) >= r.Options.Change
	if long && r.applyOthers(d) {
		return
	}
	w.alone, w.running = long, out.Running
	r.Env.Clock.Arm(&w.poll, r.Options.Retry)
}

// lookStopped ends the pause between attempts when all PGs that were waited for have
// stopped: clients wait, too.
func (r *Rechecker) lookStopped() {
	w := &r.writes
	if w.poll.Armed() && !slices.ContainsFunc(w.running, func(pg meta.PG) bool { _, runs := r.state.states[pg]; return runs }) {
		r.Env.Clock.Disarm(&w.poll)
	}
}

// applyOthers writes the distributions of pools that need not stop. The hash
// stays: not everything is as it says then.
func (r *Rechecker) applyOthers(d *pggen.Decision) bool {
	p := r.plan
	g := r.state.decide(r.Lease, p.frozen)
	g.Pools.Config = g.Pools.Config.Clone()
	others := maps.Clone(d.Placed)
	for i := range g.Config.Pools {
		pgs := &g.Config.Pools[i]
		pool := g.Pools.Valid[pgs.Pool]
		if r.state.configured(pgs.Pool) && (pool == nil || pgs.MaxNum() == meta.PGNum(pool.PGCount)) {
			continue
		}
		// To pggen it is a pool that is there, and not valid.
		delete(others, pgs.Pool)
		delete(g.Pools.Valid, pgs.Pool)
		g.Pools.Config.Set(poolName(pgs.Pool), json.RawMessage("{}"))
	}
	if len(others) == 0 || g.Config.Hash == "" {
		return false
	}
	out, err := pggen.Apply(g, &pggen.Decision{Hash: g.Config.Hash, Placed: others, Primaries: d.Primaries, Full: d.Full})
	if err != nil || out.Kind != pggen.Writing {
		r.complain("other pools", err)
		return false
	}
	r.send(&out.Txn, r.Options.Apply, "placement of other pools", func() {
		r.log.Info("PGs of other pools are placed meanwhile", "pools", len(others))
		for id := range others {
			if fingerprint, ok := p.fingerprints[id]; ok {
				r.known[id] = fingerprint
			}
			delete(r.results, id)
		}
		r.plan = nil
		r.trigger()
	}, func() {})
	return true
}

// pollWaiting tries again when something has changed, or it was long enough.
func (r *Rechecker) pollWaiting() {
	w := &r.writes
	if r.state.revision != w.tried || !w.alone && r.Env.Clock.Now().Sub(w.waiting) >= r.Options.Change {
		r.pump()
	} else if !w.alone {
		r.Env.Clock.Arm(&w.poll, r.Options.Retry)
	}
}

// applied notes what the distributions are made for.
func (r *Rechecker) applied(p *plan) {
	for id, fingerprint := range p.fingerprints {
		r.known[id] = fingerprint
	}
	for id := range r.known {
		if !r.state.configured(id) {
			delete(r.known, id)
		}
	}
	r.plan, r.writes.waiting = nil, 0
	clear(r.results)
	r.log.Info("PGs are placed", "pools", len(p.done), "hash", p.hash)
	if r.stale {
		r.trigger()
	}
}

// send writes pg/config.
func (r *Rechecker) send(txn *env.Txn, timeout time.Duration, what string, done, failed func()) {
	w := &r.writes
	w.busy = true
	w.at = r.Env.Clock.Now()
	master := r.Keys.MonMaster()
	txn.Else = append(txn.Else, env.KVOp{Kind: env.KVGet, Key: master})
	r.Env.KV.Txn(txn, timeout, func(resp *env.TxnResponse, err error) {
		if r.stopped {
			return
		}
		w.busy = false
		switch {
		case err != nil:
			r.sendFailed(what, err)
			failed()
		case !resp.Succeeded && !r.holds(resp):
			r.Lost(ErrNotMaster)
			return
		case !resp.Succeeded:
			// Somebody has written what this was decided from.
			r.pause(backoffMax)
			failed()
		default:
			w.backoff, w.await = 0, resp.Revision
			r.complain("etcd", nil)
			done()
		}
		r.pump()
	})
}

// holds tells whether mon/master is ours, by the answer of a failed write.
func (r *Rechecker) holds(resp *env.TxnResponse) bool {
	for _, kv := range resp.Responses[len(resp.Responses)-1].KVs {
		return kv.Lease == r.Lease
	}
	return false
}

func (r *Rechecker) sendFailed(what string, err error) {
	if errors.Is(err, env.ErrKVTooLarge) || errors.Is(err, env.ErrKVInvalid) {
		r.complain("etcd", err)
		r.writes.backoff = refusedPause
		r.pause(refusedPause)
		return
	}
	r.log.Warn("cannot write pg/config, trying again", "what", what, "err", err)
	r.pause(backoffMax)
}

// pause lets the next write wait, each time longer.
func (r *Rechecker) pause(most time.Duration) {
	w := &r.writes
	w.backoff = min(max(2*w.backoff, r.Options.Retry), most)
	r.Env.Clock.Arm(&w.retry, w.backoff)
}
