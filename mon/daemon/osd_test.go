package daemon_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

// fakeOSD does what the monitor sees of an OSD: it registers, reports, and runs
// the PGs it is told to, without any data.
type fakeOSD struct {
	r      *rig
	num    meta.OSDNum
	host   string
	size   uint64
	node   *sim.Node
	e      *env.Env
	lease  env.LeaseID
	view   *clusterview.View
	report env.Timer
	busy   bool
	stuck  bool // does not stop PGs
}

const osdTTL = 4 // seconds

// addOSD starts an OSD on a node of its own.
func (r *rig) addOSD(num meta.OSDNum, host string) *fakeOSD {
	o := &fakeOSD{r: r, num: num, host: host, size: 1 << 40, node: r.NewNode(fmt.Sprint("osd", num))}
	r.osds[num] = o
	o.node.SetProgram(o.start)
	return o
}

// addOSDs starts n OSDs on hosts of per each.
func (r *rig) addOSDs(n, per int) {
	for i := range n {
		r.addOSD(meta.OSDNum(i+1), fmt.Sprint("h", i/per+1))
	}
}

func (o *fakeOSD) start(e *env.Env) {
	*o = fakeOSD{r: o.r, num: o.num, host: o.host, size: o.size, node: o.node, e: e}
	o.report.Fire = o.stats
	o.register()
}

func (o *fakeOSD) register() {
	o.e.KV.Grant(osdTTL, time.Second, func(id env.LeaseID, err error) {
		if err != nil {
			o.register()
			return
		}
		o.lease = id
		o.announce()
	})
}

func (o *fakeOSD) announce() {
	state := schema.OSDState{State: "up", Addresses: []string{o.node.Addr().String()}, Port: 1, Host: o.host}
	txn := keys.CreateOSDState(o.num, &state, o.lease)
	o.e.KV.Txn(&txn, time.Second, func(r *env.TxnResponse, err error) {
		switch {
		case err != nil && !errors.Is(err, env.ErrKVNoLease):
			o.announce()
		case err != nil || !r.Succeeded && r.Responses[0].KVs[0].Lease != o.lease:
			o.die()
		default:
			o.run()
		}
	})
}

// die is an OSD that has lost its lease: it starts anew.
func (o *fakeOSD) die() {
	node := o.node
	o.r.After(0, func() {
		if node.Running() && node.Env() == o.e {
			node.Crash()
			o.r.After(time.Second, func() {
				if !node.Running() {
					node.Restart()
				}
			})
		}
	})
}

func (o *fakeOSD) run() {
	o.view = clusterview.New(clusterview.Config{Clock: o.e.Clock, KV: o.e.KV, Log: slog.New(slog.DiscardHandler), Keys: keys,
		Timing: clusterview.DefaultTiming, Guard: []env.Compare{{Key: keys.OSDState(o.num), Target: env.CompareLease, Number: int64(o.lease)}},
		Changed: func(*clusterview.Changes) { o.reconcile() }, Fatal: func(error) { o.die() }})
	o.view.Start()
	o.stats()
	o.keepAlive()
}

func (o *fakeOSD) keepAlive() {
	o.e.KV.KeepAlive(o.lease, time.Second, func(ttl int64, err error) {
		if err == nil && ttl == 0 {
			o.die()
			return
		}
		t := &env.Timer{Fire: o.keepAlive}
		o.e.Clock.Arm(t, time.Second)
	})
}

// stats reports every five seconds.
func (o *fakeOSD) stats() {
	s := schema.OSDStats{TimeMillis: uint64(o.e.Clock.WallNanos() / 1e6), SizeBytes: o.size, FreeBytes: o.size,
		BlockBytes: 131072, GranularityBytes: 4096, ImmediateCommit: "all", Host: o.host, Version: "test"}
	txn := env.Txn{Then: []env.KVOp{{Kind: env.KVPut, Key: keys.OSDStats(o.num), Value: s.Encode()}}}
	o.e.KV.Txn(&txn, time.Second, func(*env.TxnResponse, error) {})
	o.e.Clock.Arm(&o.report, 5*time.Second)
}

// reconcile reports the PGs whose state is not as it should be.
func (o *fakeOSD) reconcile() {
	if o.busy {
		return
	}
	var reports []schema.PGReport
	config := o.view.PGConfig()
	seen := map[meta.PG]bool{}
	for _, id := range o.view.Pools() {
		pool := o.view.Pool(id)
		for i := range config.Pool(id).Count() {
			pg := meta.PG{Pool: id, Num: meta.PGNum(i + 1)}
			seen[pg] = true
			o.pg(&reports, pg, pool, config.Pool(id).PG(pg.Num))
		}
	}
	for _, pg := range o.view.PGs() {
		if !seen[pg] {
			o.pg(&reports, pg, nil, nil)
		}
	}
	if len(reports) == 0 {
		return
	}
	o.busy = true
	txn := keys.ReportPGs(reports, o.lease, o.view.PGRevision())
	o.e.KV.Txn(&txn, time.Second, func(_ *env.TxnResponse, err error) {
		t := &env.Timer{Fire: func() {
			o.busy = false
			o.reconcile()
		}}
		o.e.Clock.Arm(t, 10*time.Millisecond) // until it is seen
	})
}

// pg makes the report of one PG, if one is needed.
func (o *fakeOSD) pg(reports *[]schema.PGReport, pg meta.PG, pool *schema.Pool, t *schema.PGTarget) {
	now := o.view.PGState(pg)
	mine := now.Primary == o.num
	wanted := schema.PGState{}
	if t != nil && t.TakenBy(o.num, now.Primary, pool.PGSize) {
		wanted = o.wanted(pool, t)
	}
	holder := schema.HeldByNobody
	if mine {
		holder = schema.HeldByMe
	}
	switch {
	case wanted.State == 0 && mine && o.stuck:
	case wanted.State == 0 && mine:
		*reports = append(*reports, schema.PGReport{PG: pg, State: schema.PGState{State: meta.PGOffline}, Holder: holder})
	case wanted.State != 0 && (wanted.State != now.State || !slices.Equal(wanted.Peers, now.Peers)):
		*reports = append(*reports, schema.PGReport{PG: pg, State: wanted, Holder: holder})
	}
}

// wanted is the state of a PG that this OSD runs. Data moves at once.
func (o *fakeOSD) wanted(pool *schema.Pool, t *schema.PGTarget) schema.PGState {
	s := schema.PGState{Primary: o.num, State: meta.PGActive}
	for _, peer := range t.OSDSet {
		if peer != 0 && (peer == o.num || o.view.OSD(peer) != nil) {
			s.Peers = append(s.Peers, peer)
		}
	}
	switch {
	case len(s.Peers) < pool.PGMinSize:
		s.State = meta.PGIncomplete
	case len(s.Peers) < pool.PGSize:
		s.State |= meta.PGDegraded
	}
	return s
}

func (o *fakeOSD) unstick() {
	o.stuck = false
	if o.view != nil && o.node.Running() && o.node.Env() == o.e {
		o.node.Do(func(*env.Env) { o.reconcile() })
	}
}
