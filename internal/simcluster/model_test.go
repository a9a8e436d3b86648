package simcluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// mistake is what the model cluster does wrong.
type mistake int

const (
	honest mistake = iota
	losesWrites
	readsStale
	repeatsLater  // an acknowledged write happens once more
	ignoresExpect // CAS does not compare
	tears         // half of a granule stays old
	misplaces     // data goes to the next granule
	answersEarly  // before the write has happened
	reusesVersion
	losesSynced  // ... when its client dies
	skipsVersion // another version appears under a CAS
	mistakes
)

var mistakeNames = [mistakes]string{"none", "loses writes", "reads stale data", "repeats a write after its answer",
	"CAS does not compare", "tears granules", "misplaces data", "answers before it is done", "reuses versions",
	"loses synced data", "CAS skips versions"}

// modelCluster is an in-memory cluster without any distribution: one map,
// requests that take time, and mistakes on demand.
type modelCluster struct {
	w       *sim.World
	rng     *rand.Rand
	m       mistake
	after   time.Duration // when mistakes begin
	images  map[meta.Inode]*Image
	data    map[modelKey][]byte
	old     map[modelKey][]byte
	version map[objectKey]uint64
	undo    []undo // what is not synced (lazy mode), oldest first
	client  int    // whose request runs
	made    int
}

// undo takes back one granule of a write.
type undo struct {
	client   int
	key      modelKey
	old, new []byte
}

type modelKey struct {
	inode   meta.Inode
	granule int
}

// modelTarget is a client of it.
type modelTarget struct {
	c      *modelCluster
	e      *env.Env
	client int
}

func (c *modelCluster) delay() time.Duration {
	return time.Duration(c.rng.ExpFloat64() * float64(300*time.Microsecond))
}

// errs tells whether to make mistake m now.
func (c *modelCluster) errs(m mistake) bool {
	if c.m != m || c.w.Now() < c.after || m != losesSynced && c.rng.IntN(25) != 0 {
		return false
	}
	c.made++
	return true
}

func (t *modelTarget) Submit(q *Request) {
	c := t.c
	answer := func() { t.e.Exec.Post(func() { q.Done(q) }) }
	if q.Kind == OpWrite && c.errs(answersEarly) {
		c.w.After(0, answer)
		c.w.After(3*time.Millisecond, func() { c.run(&Request{Kind: q.Kind, Inode: q.Inode, Offset: q.Offset, Buf: q.Buf}) })
		return
	}
	compare := q.Version != 0
	c.w.After(c.delay(), func() {
		if q.Kind == OpSync && !c.errs(losesSynced) {
			c.undo = slices.DeleteFunc(c.undo, func(u undo) bool { return u.client == t.client })
		}
		c.client = t.client
		c.run(q)
		if q.Kind == OpWrite && !compare && c.rng.IntN(20) == 0 { // a retry
			c.w.After(c.delay(), func() {
				q.Version = 0
				c.run(q)
				c.w.After(c.delay(), answer)
			})
			return
		}
		c.w.After(c.delay(), answer)
		if q.Kind == OpWrite && q.Err == 0 && !q.Refused && c.errs(repeatsLater) {
			c.w.After(5*time.Millisecond, func() {
				c.run(&Request{Kind: q.Kind, Inode: q.Inode, Offset: q.Offset, Buf: q.Buf})
			})
		}
	})
}

func (c *modelCluster) run(q *Request) {
	m := c.images[q.Inode]
	first := int(q.Offset) / GranuleBytes
	key := objectKey{q.Inode, first / m.PerObject}
	switch q.Kind {
	case OpRead:
		stale := c.errs(readsStale)
		for i := range len(q.Buf) / GranuleBytes {
			k := modelKey{q.Inode, first + i}
			b := c.data[k]
			if stale && c.old[k] != nil {
				b = c.old[k]
			}
			clear(q.Buf[i*GranuleBytes : (i+1)*GranuleBytes])
			copy(q.Buf[i*GranuleBytes:], b)
		}
		q.Version = c.version[key]
	case OpWrite:
		c.write(q, m, first, key)
	case OpDelete:
		for g := key.index * m.PerObject; g < (key.index+1)*m.PerObject; g++ {
			delete(c.data, modelKey{q.Inode, g})
		}
		c.version[key] = 0
	}
}

func (c *modelCluster) write(q *Request, m *Image, first int, key objectKey) {
	v := c.version[key]
	if q.Version != 0 && v != q.Version-1 && !c.errs(ignoresExpect) {
		q.Err, q.Refused, q.Version = syscall.EINTR, true, v
		return
	}
	if q.Version != 0 && c.errs(skipsVersion) {
		v++
	}
	if !c.errs(reusesVersion) {
		v++
	}
	q.Version = v
	for i := first / m.PerObject; i*m.PerObject < first+len(q.Buf)/GranuleBytes; i++ {
		c.version[objectKey{q.Inode, i}] = max(v, c.version[objectKey{q.Inode, i}]+1)
	}
	c.version[key] = v
	if c.errs(losesWrites) {
		return
	}
	shift := 0
	if c.errs(misplaces) {
		shift = 1
	}
	torn := c.errs(tears)
	for i := range len(q.Buf) / GranuleBytes {
		k := modelKey{q.Inode, (first + i + shift) % m.Granules}
		b := append([]byte(nil), q.Buf[i*GranuleBytes:(i+1)*GranuleBytes]...)
		if torn && c.data[k] != nil {
			copy(b[GranuleBytes/2:], c.data[k][GranuleBytes/2:])
		}
		c.old[k] = c.data[k]
		if c.old[k] == nil {
			c.old[k] = make([]byte, GranuleBytes)
		}
		c.undo = append(c.undo, undo{c.client, k, c.data[k], b})
		c.data[k] = b
	}
}

// crash loses what a client has not synced.
func (c *modelCluster) crash(client int) {
	for _, u := range slices.Backward(c.undo) {
		if d := c.data[u.key]; u.client == client && len(d) > 0 && &d[0] == &u.new[0] {
			c.data[u.key] = u.old
		}
	}
}

// runModel makes a history on the model cluster.
func runModel(seed uint64, m mistake, lazy bool) (*History, Rules, int) {
	w := sim.NewWorld(seed, sim.Options{})
	rng := rand.New(rand.NewPCG(seed, 77))
	images := []*Image{
		{Inode: meta.MakeInode(1, 1), Granules: 24, PerObject: 8, Owner: -1, Compares: true},
		{Inode: meta.MakeInode(1, 2), Granules: 16, PerObject: 8, Owner: -1, Deletes: true},
		{Inode: meta.MakeInode(1, 3), Granules: 16, PerObject: 8, Owner: 1},
	}
	c := &modelCluster{w: w, rng: rng, m: m, after: 50 * time.Millisecond, images: map[meta.Inode]*Image{},
		data: map[modelKey][]byte{}, old: map[modelKey][]byte{}, version: map[objectKey]uint64{}}
	for _, i := range images {
		i.Chain = []meta.Inode{i.Inode}
		c.images[i.Inode] = i
	}
	h := NewHistory()
	for i := range 3 {
		n := w.NewNode(fmt.Sprintf("client%d", i))
		n.SetProgram(func(e *env.Env) {
			startWork(&work{h: h, client: i, node: i, now: w.Now, e: e, target: &modelTarget{c, e, i}, failed: map[string]int{},
				rng: rand.New(rand.NewPCG(seed, uint64(i))),
				c:   WorkConfig{Workers: 3, Think: time.Millisecond, Images: images, Reads: 10, Writes: 8, Deletes: 1, Syncs: 2, BigEvery: 20}})
		})
	}
	w.Run(200 * time.Millisecond)
	if lazy {
		w.Nodes()[2].Crash()
		h.Crash(2)
		w.RunFor(10 * time.Millisecond) // what is on its way
		c.crash(2)
	}
	w.Run(400 * time.Millisecond)
	return h, Rules{
		Initial:    func(meta.Inode, int) Stamp { return Zeroes },
		Lazy:       func(meta.Inode) bool { return lazy },
		LocalReads: func(meta.Inode) bool { return false },
		Chained:    func(meta.Inode) bool { return false },
		PerObject:  func(meta.Inode) int { return 8 },
	}, c.made
}

func TestCheckersAcceptAnHonestCluster(t *testing.T) {
	for seed := range uint64(30) {
		for _, lazy := range []bool{false, true} {
			h, rules, _ := runModel(seed, honest, lazy)
			if len(h.Ops) < 300 {
				t.Fatalf("only %d operations", len(h.Ops))
			}
			if v := h.Check(rules); v != nil {
				t.Fatalf("seed %d: %v", seed, v[0])
			}
		}
	}
}

// Every mistake has to be found in most of the histories in which it was made.
func TestCheckersFindMistakes(t *testing.T) {
	for m := losesWrites; m < mistakes; m++ {
		runs, found := 0, 0
		for seed := range uint64(10) {
			h, rules, made := runModel(seed, m, m == losesSynced)
			if made == 0 {
				continue
			}
			runs++
			if h.Check(rules) != nil {
				found++
			}
		}
		t.Logf("%-34s found in %d of %d histories", mistakeNames[m], found, runs)
		if runs < 5 || found*10 < runs*7 {
			t.Errorf("%s: found in %d of %d histories only", mistakeNames[m], found, runs)
		}
	}
}
