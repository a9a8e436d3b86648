package simcluster

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
)

// Cluster is a running world.
type Cluster struct {
	c       *Config
	w       *sim.World
	keys    schema.Keys
	rng     *rand.Rand
	osds    []*osdNode // OSD i is osds[i-1]
	mons    []*monNode
	clients []*clientNode
	h       *History
	images  []*Image
	config  map[meta.Inode]*Image
	sizes   map[meta.PoolID]int // how much pg_size is changed
	log     io.Writer
	failed  map[string]int // errors that operations ended with
	lives   int            // client lives so far
	loading bool           // the clients make load
	ballast *ballast       // what fills the disks; nil if nothing does
	found   []Violation
	seen    *observer
	looks   int
	exits   int // OSDs and monitors that ended themselves
	frozen  map[granuleKey]Stamp
}

// restartDelay is how long a service manager waits before it starts a daemon
// again that ended by itself.
const restartDelay = time.Second

// Options of a run.
type Options struct {
	Log   io.Writer // what daemons log, faults, violations; nil = nothing
	Trace io.Writer // every event; nil = nothing
}

// newCluster builds the machines and starts everything.
func newCluster(c *Config, o Options) *Cluster {
	c = c.clone()
	w := sim.NewWorld(c.Seed, sim.Options{Net: sim.NetConfig{Latency: c.NetLatency}, KV: sim.KVConfig{Latency: c.KVLatency}, Log: o.Log, Trace: o.Trace})
	k := &Cluster{c: c, w: w, keys: schema.NewKeys(""), rng: rand.New(rand.NewPCG(c.Seed, 0xc1)), h: NewHistory(),
		config: map[meta.Inode]*Image{}, sizes: map[meta.PoolID]int{}, log: o.Log, failed: map[string]int{}}
	w.NewKV()
	k.seen = k.newObserver()
	k.put(k.keys.Global(), c.globalJSON())
	k.put(k.keys.Pools(), c.poolsJSON())
	for i := range c.OSDs {
		k.osds = append(k.osds, k.newOSD(i+1))
	}
	for i := range c.Monitors {
		k.mons = append(k.mons, k.newMonitor(i+1))
	}
	for i := range c.Clients {
		k.clients = append(k.clients, k.newClient(i))
	}
	k.makeImages()
	if slices.Contains(c.Faults, Full) {
		k.ballast = k.newBallast()
	}
	return k
}

// logf notes what the harness does, with virtual time.
func (k *Cluster) logf(format string, args ...any) {
	k.w.Note(format, args...)
	if k.log != nil {
		fmt.Fprintf(k.log, "%12.6f harness: %s\n", k.w.Now().Seconds(), fmt.Sprintf(format, args...))
	}
}

// violate records a broken promise.
func (k *Cluster) violate(kind, format string, args ...any) {
	v := Violation{kind, fmt.Sprintf("at %v: ", k.w.Now()) + fmt.Sprintf(format, args...)}
	k.logf("VIOLATION %v", v)
	if len(k.found) < violationsMax {
		k.found = append(k.found, v)
	}
}

// put writes a key as an administrator would.
func (k *Cluster) put(key string, value []byte) {
	k.apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVPut, Key: key, Value: value}}})
}

func (k *Cluster) apply(t *env.Txn) *env.TxnResponse {
	r, err := k.w.KV().Apply(t)
	if err != nil {
		panic(fmt.Sprintf("simcluster: etcd refuses the administrator: %v", err))
	}
	return r
}

// get reads a key; nil = it does not exist.
func (k *Cluster) get(key string) *env.KeyValue {
	r := k.apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if len(r.Responses[0].KVs) == 0 {
		return nil
	}
	return &r.Responses[0].KVs[0]
}

func (k *Cluster) getRange(r schema.Range) []env.KeyValue {
	return k.apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: r.Key, End: r.End}}}).Responses[0].KVs
}

// makeImages announces the images; children of frozen ones come later.
func (k *Cluster) makeImages() {
	for i := range k.c.Pools {
		p := &k.c.Pools[i]
		for _, ic := range p.Images {
			m := &Image{Inode: meta.MakeInode(p.ID, ic.Number), Granules: ic.Objects * k.c.PerObject(p), PerObject: k.c.PerObject(p),
				Deletes: ic.Deletes, Compares: ic.Compares && !k.c.Lazy(), Owner: ic.Owner, Lazy: k.c.Lazy()}
			m.Chain = []meta.Inode{m.Inode}
			if ic.Parent != 0 {
				m.Chain = append(m.Chain, meta.MakeInode(p.ID, ic.Parent))
			}
			k.config[m.Inode] = m
			if !ic.Frozen {
				k.images = append(k.images, m)
			}
			if ic.Parent == 0 {
				k.announce(m, ic.Frozen)
			}
		}
	}
}

// announce writes config/inode of an image.
func (k *Cluster) announce(m *Image, frozen bool) {
	x := schema.InodeConfig{ID: m.Inode, Name: fmt.Sprintf("image%v", m.Inode), Size: uint64(m.Granules) * GranuleBytes, ReadOnly: frozen}
	if len(m.Chain) > 1 {
		x.Parent = m.Chain[1]
	}
	k.put(k.keys.InodeConfig(m.Inode), x.Encode())
}

// pool is the configuration of an image's pool.
func (k *Cluster) pool(id meta.PoolID) *PoolConfig {
	for i := range k.c.Pools {
		if k.c.Pools[i].ID == id {
			return &k.c.Pools[i]
		}
	}
	return nil
}
