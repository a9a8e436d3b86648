package clusterview_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/kvtest"
	"vitastor/internal/meta"
)

// random makes changes of everything that a view follows.
type random struct {
	*rand.Rand
	bad map[string]bool // keys with values that cannot be read
}

// op changes a key: mostly to a good value, sometimes none, sometimes a bad one.
func (r *random) op(key, value string) env.KVOp {
	delete(r.bad, key)
	switch r.IntN(8) {
	case 0, 1:
		return env.KVOp{Kind: env.KVDelete, Key: key}
	case 2:
		r.bad[key] = true
		return kvtest.Put(key, []string{"{", `{"1":{"pg_size":"many"}}`, "[7]", `{"state":["odd"],"epoch":"x"}`}[r.IntN(4)])
	}
	return kvtest.Put(key, value)
}

func (r *random) pair() (key, value string) {
	n := r.IntN
	id := pg(meta.PoolID(1+n(3)), meta.PGNum(1+n(3)))
	switch n(9) {
	case 0:
		// Other values change the defaults of pools, which count only at
		// loads: see TestDefaultsCountAtLoads.
		return keys.Global(), fmt.Sprintf(`{"x":%d}`, n(5))
	case 1:
		return keys.NodePlacement(), fmt.Sprintf(`{"r%d":{"level":"rack"}}`, n(5))
	case 2:
		return keys.Pools(), fmt.Sprintf(`{"%d":%s,"7":%s}`, 1+n(3), pool1, pool2)
	case 3, 4:
		text := fmt.Sprintf(`{"items":{"%d":{"1":{"osd_set":["%d",0],"primary":"%d"}}},"backfillfull_pools":["%d"]}`,
			id.Pool, 1+n(5), 1+n(5), 1+n(3))
		return []string{keys.PGConfig(), keys.LegacyPGConfig()}[n(2)], text
	case 5:
		return keys.PGState(id), fmt.Sprintf(`{"primary":%d,"state":["active"],"peers":[1,%d]}`, 1+n(5), n(5))
	case 6:
		return keys.PGHistory(id), fmt.Sprintf(`{"osd_sets":[["%d",0]],"all_peers":[%d],"epoch":%d}`, 1+n(5), 1+n(5), 1+n(5))
	case 7:
		return keys.OSDState(meta.OSDNum(1 + n(4))), fmt.Sprintf(`{"state":"up","addresses":["a"],"port":%d}`, 1+n(9))
	}
	return keys.InodeConfig(meta.MakeInode(id.Pool, uint64(id.Num))),
		fmt.Sprintf(`{"name":"image%d","size":%d}`, n(4), n(9))
}

// txn is a transaction on different keys.
func (r *random) txn() []env.KVOp {
	var ops []env.KVOp
	used := map[string]bool{}
	for range 1 + r.IntN(5) {
		if key, value := r.pair(); !used[key] {
			used[key] = true
			ops = append(ops, r.op(key, value))
		}
	}
	return ops
}

// repair deletes what cannot be read: of that a view keeps the last good value,
// which a fresh one does not know.
func (r *random) repair() (ops []env.KVOp) {
	for key := range r.bad {
		ops = append(ops, env.KVOp{Kind: env.KVDelete, Key: key})
	}
	clear(r.bad)
	return ops
}

// simulate changes everything at random, with interruptions and compactions,
// and compares the view with a fresh one from time to time.
func simulate(t *testing.T, r *rig, seed uint64, rounds, steps int, pause time.Duration) {
	rnd := &random{rand.New(rand.NewPCG(seed, 0)), map[string]bool{}}
	compacted := int64(1)
	r.until("the first load", r.view.Loaded)
	for range rounds {
		for range steps {
			last := r.server.Apply(t, rnd.txn()...)
			switch rnd.IntN(12) {
			case 0:
				r.server.Network(t, kvtest.Mode(rnd.IntN(3)))
			case 1:
				if back := last - int64(rnd.IntN(6)); back > compacted {
					r.server.Compact(t, back)
					compacted = back
				}
			case 2, 3:
				r.loop.Sleep(time.Duration(rnd.Int64N(int64(pause))))
			}
		}
		r.server.Network(t, kvtest.Open)
		if ops := rnd.repair(); len(ops) > 0 {
			r.server.Apply(t, ops...)
		}
		r.compare()
	}
	reloads := strings.Count(strings.Join(r.log, ""), "Reloaded:true")
	t.Logf("%d messages, %d loads", len(r.log), reloads)
	if reloads < 2 || reloads > rounds*steps/3 {
		t.Errorf("%d loads in %d steps: the test misses its point", reloads, rounds*steps)
	}
}

func TestRandomOnModel(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			l := kvtest.NewLoop(t, true)
			m := kvtest.NewModel(l)
			simulate(t, newRig(t, l, m), seed, 10, 40, 2*time.Second)
		})
	}
}

func TestRandomOnEmbedded(t *testing.T) {
	t.Parallel()
	l := kvtest.NewLoop(t, false)
	realServer(t, l, kvtest.NewEmbedded(t, l))
}

func TestRandomOnDebian(t *testing.T) {
	t.Parallel()
	l := kvtest.NewLoop(t, false)
	realServer(t, l, kvtest.NewDebian(t, l))
}

// realServer also restarts the server between two runs.
func realServer(t *testing.T, l *kvtest.Loop, s kvtest.Server) {
	r := newRig(t, l, s)
	simulate(t, r, 1, 3, 60, 50*time.Millisecond)
	s.Restart(t)
	r.compare()
}
